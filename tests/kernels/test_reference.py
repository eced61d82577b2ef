"""The reference attention: gradients in float64, chunks, injected frames, and its definition spelled out."""

import numpy as np
import pytest
import torch
from torch import Tensor

from crystalframer.config import FRAMES, FrameName, ModelConfig
from crystalframer.data.batch import CrystalBatch
from crystalframer.kernels import AttentionInputs, get_kernel, reference, resolve_kernel
from crystalframer.kernels.basis import angular_basis, distance_basis
from tests.fixtures import crystals as c
from tests.fixtures.models import small_config

NAMES = ("query", "key", "value", "inv_sigma_sq", "w_dist", "w_angl")


def tiny_config(frame: FrameName, preset: str = "default") -> ModelConfig:
    """Return a config with as few numbers as possible, for finite differences."""
    return small_config(frame, preset, cutoff=4.0, width=4, num_dist=5, num_angl=4, r_max=4.0)


def random_inputs(batch: CrystalBatch, config: ModelConfig, dtype: torch.dtype = torch.float64) -> AttentionInputs:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    heads, width, atoms = config.num_heads, config.head_width, batch.num_atoms
    inv_sigma_sq = 0.5 + torch.rand(atoms, heads, generator=generator, dtype=torch.float64)
    return AttentionInputs(
        query=draw(atoms, heads, width),
        key=draw(atoms, heads, width),
        value=draw(atoms, heads, width),
        inv_sigma_sq=inv_sigma_sq.to(dtype).requires_grad_(),
        w_dist=draw(heads, width, config.num_dist),
        w_angl=None if config.frame == "none" else draw(3, heads, width, config.num_angl),
        logit_scale=0.7,
    )


def tensors_of(inputs: AttentionInputs) -> list[Tensor]:
    return [tensor for name in NAMES if (tensor := getattr(inputs, name)) is not None]


def attend_with(tensors: tuple[Tensor, ...], batch: CrystalBatch, config: ModelConfig, frames: Tensor | None) -> Tensor:
    given = dict(zip(NAMES, [*tensors, None], strict=False))
    inputs = AttentionInputs(**given, logit_scale=0.7)  # type: ignore[arg-type]
    return reference.attend(inputs, batch, config, frames=frames)


def brute_force(inputs: AttentionInputs, batch: CrystalBatch, config: ModelConfig, frames: Tensor | None) -> Tensor:
    """Return the attention by its formula, atom by atom and head by head, one pair at a time."""
    out = torch.zeros_like(inputs.value)
    for i in range(batch.num_atoms):
        edges = range(int(batch.first_edge[i]), int(batch.first_edge[i + 1]))
        for h in range(config.num_heads):
            scores, messages = [], []
            for e in edges:
                j, d = int(batch.neighbour[e]), batch.distance[e]
                dot, decay = inputs.query[i, h] @ inputs.key[j, h], d**2 * inputs.inv_sigma_sq[i, h] / 2
                message = inputs.value[j, h] + config.c_dist * inputs.w_dist[h] @ distance_basis(d, config)
                if inputs.w_angl is not None and frames is not None and d > 0:
                    for t in range(3):
                        cosine = frames[i, h, t] @ batch.vector[e] / d
                        message = message + config.c_angl * inputs.w_angl[t, h] @ angular_basis(cosine, config)
                scores.append(inputs.logit_scale * dot - decay)
                messages.append(message)
            out[i, h] = torch.softmax(torch.stack(scores), 0) @ torch.stack(messages)
    return out


@pytest.mark.parametrize("preset", ["default", "lightweight"])
@pytest.mark.parametrize("frame", FRAMES)
def test_equals_the_formula(frame: FrameName, preset: str) -> None:
    config = tiny_config(frame, preset)
    batch = c.batch_of(c.generic_crystal(0, 2), c.generic_crystal(1, 3), cutoff=4.0, dtype=torch.float64)
    inputs = random_inputs(batch, config)
    with torch.no_grad():
        weights, frames = reference.attention_state(inputs, batch, config)
        expected = brute_force(inputs, batch, config, frames)
        assert torch.allclose(reference.attend(inputs, batch, config), expected, atol=1e-12)
        assert torch.allclose(reference.attend(inputs, batch, config, frames=frames), expected, atol=1e-12)
    total = torch.zeros(batch.num_atoms, config.num_heads).double()
    centre = torch.repeat_interleave(torch.arange(batch.num_atoms), batch.first_edge.diff())
    assert torch.allclose(total.index_add(0, centre, weights), total.new_ones(()))


@pytest.mark.parametrize("injected", [False, True], ids=["own frames", "injected frames"])
@pytest.mark.parametrize("frame", FRAMES)
def test_gradients(frame: FrameName, injected: bool) -> None:
    """Frames are constants to the gradient: a small change of weights does not change which axes are picked.

    Those of `weighted_pca` do turn with the weights, so its own frames are not what finite differences can check.
    """
    config = tiny_config(frame)
    batch = c.batch_of(c.generic_crystal(0, 2), c.symmetric_crystals()["fcc"], cutoff=4.0, dtype=torch.float64)
    inputs = random_inputs(batch, config)
    frames = reference.attention_state(inputs, batch, config)[1]
    tensors = tuple(tensors_of(inputs))
    if injected or frame == "weighted_pca":
        assert torch.autograd.gradcheck(lambda *given: attend_with(given, batch, config, frames), tensors)
    else:
        assert torch.autograd.gradcheck(lambda *given: attend_with(given, batch, config, None), tensors)
    if frame == "weighted_pca" and not injected:
        own, given = (attend_with(tensors, batch, config, choice).sum() for choice in (None, frames))
        for one, other in zip(torch.autograd.grad(own, tensors), torch.autograd.grad(given, tensors), strict=True):
            assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("tie_seed", [None, 3])
@pytest.mark.parametrize("frame", FRAMES)
def test_chunks_do_not_change_the_result(
    frame: FrameName, tie_seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(frame)
    crystals = [*c.symmetric_crystals().values(), *(c.generic_crystal(seed) for seed in range(3))]
    batch = c.batch_of(*crystals, cutoff=4.0, dtype=torch.float64)
    results = []
    for chunk_bytes in (1, 30_000, 2**30):
        monkeypatch.setattr(reference, "CHUNK_BYTES", chunk_bytes)
        inputs = random_inputs(batch, config)
        out = reference.attend(inputs, batch, config, tie_seed)
        results.append([out, *torch.autograd.grad((out**2).sum(), tensors_of(inputs))])
        state = reference.attention_state(inputs, batch, config, tie_seed)
        results[-1] += [tensor for tensor in state if tensor is not None]
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.allclose(one, two, rtol=1e-10, atol=1e-12)


def test_padding_and_isolated_atoms_leave_no_nan() -> None:
    for frame in FRAMES:
        config = tiny_config(frame)
        batch = c.batch_of(*c.symmetric_crystals().values(), cutoff=4.0)
        inputs = random_inputs(batch, config, torch.float32)
        out = reference.attend(inputs, batch, config)
        gradients = torch.autograd.grad(out.sum(), tensors_of(inputs))
        assert all(bool(torch.isfinite(tensor).all()) for tensor in (out, *gradients))
        alone = batch.num_atoms - 1
        assert batch.first_edge[-1] - batch.first_edge[alone] == 1
        expected = inputs.value[alone] + inputs.w_dist @ distance_basis(torch.tensor(0.0), config)
        assert torch.allclose(out[alone], expected, atol=1e-6)


def test_bases_are_the_paper_s_gaussians() -> None:
    config = small_config("max", num_dist=64)
    centres = np.arange(1, 65) * 14 / 64
    distances = np.array([0.0, 1.3, 6.1, 14.0])
    expected = np.exp(-0.5 * ((distances[:, None] - centres) / (14 / 64)) ** 2)
    np.testing.assert_allclose(distance_basis(torch.from_numpy(distances), config).numpy(), expected, atol=1e-14)
    for preset, count, width in (("default", 64, 4.0), ("lightweight", 16, 1.0)):
        config = small_config("max", preset)
        cosines = np.array([-1.0, -0.2, 0.0, 0.9, 1.0])
        scaled = (cosines[:, None] - np.linspace(-1, 1, count)) / (width * 2 / (count - 1))
        expected = np.exp(-0.5 * scaled**2)
        np.testing.assert_allclose(angular_basis(torch.from_numpy(cosines), config).numpy(), expected, atol=1e-14)


def test_kernels_by_name() -> None:
    assert resolve_kernel("reference", torch.device("cpu")) == "reference"
    assert get_kernel("reference") is reference.attend
    assert resolve_kernel("auto", torch.device("cpu")) in ("cpu", "reference")
