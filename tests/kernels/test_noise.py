"""Tie-breaking bits: the same everywhere, and without visible pattern."""

import pytest
import torch

from crystalframer.kernels import noise

COUNT = 1 << 16
INDEX = torch.arange(COUNT)


def test_tensor_hash_equals_the_integer_hash() -> None:
    for key in (0, 1, 0x7FFFFFFF, 0xDEADBEEF, 0xFFFFFFFF):
        index = torch.tensor([0, 1, 2, 12345, 2**31, 2**32 - 1])
        expected = [noise.mix(int(value) ^ key) for value in index]
        assert noise.hashed(key, index).tolist() == expected


def test_bits_are_what_they_always_were() -> None:
    """Every kernel draws these; a change would change every training run."""
    assert noise.stream_key(0, noise.FIRST_AXIS) == 33350994
    drawn = noise.hashed(noise.stream_key(123, noise.SIGN), torch.arange(4))
    assert drawn.tolist() == [2102646517, 2634222607, 38067187, 592335701]


def test_seed_is_taken_modulo_32_bits() -> None:
    assert noise.stream_key(5 + 2**32, noise.SIGN) == noise.stream_key(5, noise.SIGN)
    assert 0 <= noise.stream_key(-1, noise.SIGN) < 2**32


@pytest.mark.parametrize("stream", [noise.FIRST_AXIS, noise.SECOND_AXIS, noise.SIGN])
@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_bits_are_even_and_independent(seed: int, stream: int) -> None:
    drawn = noise.hashed(noise.stream_key(seed, stream), INDEX)
    assert drawn.min() >= 0
    assert drawn.max() < 2**32
    assert len(set(drawn.tolist())) == COUNT
    bits = (drawn[:, None] >> torch.arange(32)) & 1
    deviation = 5 * 0.5 / COUNT**0.5
    assert (bits.double().mean(0) - 0.5).abs().max() < deviation
    assert ((bits[1:] ^ bits[:-1]).double().mean(0) - 0.5).abs().max() < deviation
    counts = torch.bincount(drawn >> 24, minlength=256).double()
    chi_squared = float(((counts - COUNT / 256) ** 2 / (COUNT / 256)).sum())
    assert abs(chi_squared - 255) < 5 * (2 * 255) ** 0.5


def test_streams_and_seeds_are_unrelated() -> None:
    keys = [noise.stream_key(seed, stream) for seed in range(50) for stream in (1, 2, 3)]
    assert len(set(keys)) == len(keys)
    signs = torch.stack([noise.random_signs(key, INDEX, torch.float64) for key in keys[:12]])
    assert (signs.abs() == 1).all()
    correlation = signs @ signs.T / COUNT - torch.eye(12).double()
    assert correlation.abs().max() < 5 / COUNT**0.5


@pytest.mark.parametrize("seed", [0, 5, 2**31, 2**40 + 3, 2**63 - 2])
def test_a_seed_on_the_device_gives_the_same_bits(seed: int) -> None:
    held = torch.tensor(seed)
    for level in range(3):
        want, got = noise.level_seed(seed, level), noise.level_seed(held, level)
        assert int(got) == want
        for stream in (noise.FIRST_AXIS, noise.SECOND_AXIS, noise.SIGN):
            assert int(noise.stream_key(got, stream)) == noise.stream_key(want, stream)
            drawn = [noise.hashed(noise.stream_key(value, stream), INDEX[:50]) for value in (want, got)]
            assert torch.equal(*drawn)
