"""With `ties: mean` predictions do not depend on how a crystal is written down, however symmetric it is."""

import dataclasses
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crystalframer.config import FrameName, KernelName
from crystalframer.geometry.crystal import Crystal
from crystalframer.kernels import cpu, reference, ties_reference
from crystalframer.kernels.mean_over_ties import mean_over_ties
from crystalframer.kernels.parity import doubled, make_inputs, relative_rms
from crystalframer.nn.model import CrystalFramer
from tests.fixtures import crystals as c
from tests.fixtures.implementations import KERNELS
from tests.fixtures.models import loud_model, small_config

OPEN: tuple[FrameName, ...] = ("static_local", "weighted_pca", "max")
TOLERANCE = 5e-6
"""Of float32 predictions of order 1."""
DIGITS = 1e-4
"""Of a prediction whose crystal lost what four decimals of a coordinate lose."""


def symmetric_crystals() -> dict[str, Crystal]:
    """Return the shared symmetric crystals, and some more that are not cubic or not alike in a mirror."""
    hexagonal = np.array([[1.0, 0, 0], [-0.5, 0.75**0.5, 0], [0, 0, 1.0]])
    bcc = np.array([[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]])
    third = [[1 / 3, 2 / 3], [2 / 3, 1 / 3]]
    cube = [[0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]
    wurtzite = [[*third[0], 0.0], [*third[1], 0.5], [*third[0], 0.375], [*third[1], 0.875]]
    return {
        **c.symmetric_crystals(),
        "bcc": c.crystal(2.9 * bcc, [[0.0, 0.0, 0.0]], [5]),
        "perovskite": c.crystal(3.9 * np.eye(3), [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], *cube], [3, 4, 8, 8, 8]),
        "wurtzite": c.crystal(hexagonal * [3.2, 3.2, 5.2], wurtzite, [5, 5, 7, 7]),
        "quartz": quartz(1),
        "left quartz": quartz(-1),
    }


def quartz(hand: int) -> Crystal:
    """Return a crystal with the structure of quartz, right- (1) or left-handed (−1)."""
    lattice = np.array([[4.91, 0, 0], [-4.91 / 2, 4.91 * 0.75**0.5, 0], [0, 0, 5.4]])
    u, (x, y, z), t = 0.47, (0.414, 0.267, 0.119), 1 / 3
    heavy = [[u, 0, 0], [0, u, 2 * t], [-u, -u, t]]
    light = [[x, y, z], [-y, x - y, z + 2 * t], [y - x, -x, z + t]]
    light += [[y, x, -z], [x - y, -y, -z + 2 * t - t], [-x, y - x, -z + 2 * t]]
    entry = c.crystal(lattice, [*heavy, *light], [4, 4, 4, 8, 8, 8, 8, 8, 8])
    return entry if hand > 0 else c.mirrored(entry)


CRYSTALS = symmetric_crystals()
CHANGES: dict[str, Callable[[Crystal, int], Crystal]] = {
    "rotation": lambda crystal, seed: c.rotated(crystal, c.random_rotation(seed)),
    "origin": c.translated,
    "order of atoms": c.permuted,
    "wrapping": c.rewrapped,
    "another cell": c.recelled,
    "doubled cell": lambda crystal, _: c.doubled(crystal),
    "tripled cell": lambda crystal, _: tripled(crystal),
}


def tripled(entry: Crystal) -> Crystal:
    scale = np.array([1.0, 1.0, 3.0])
    images = np.concatenate([entry.frac_coords + [0, 0, n] for n in range(3)]) / scale
    return Crystal(entry.lattice * scale[:, None], images, np.tile(entry.atomic_numbers, 3))


@cache
def model(frame: FrameName, kernel: KernelName) -> CrystalFramer:
    return loud_model(small_config(frame, ties="mean"), kernel)


def predict(frame: FrameName, kernel: KernelName, *entries: Crystal) -> Tensor:
    with torch.no_grad():
        predicted: Tensor = model(frame, kernel)(c.batch_of(*entries, cutoff=6.0))[:, 0]
    return predicted


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("frame", OPEN)
def test_symmetric_crystals_may_be_written_down_in_any_way(frame: FrameName, change: str, kernel: KernelName) -> None:
    changed = [CHANGES[change](crystal, seed) for seed, crystal in enumerate(CRYSTALS.values())]
    difference = predict(frame, kernel, *CRYSTALS.values()) - predict(frame, kernel, *changed)
    assert difference.abs().max() < TOLERANCE


@pytest.mark.parametrize("change", ["order of atoms", "another cell", "doubled cell"])
@pytest.mark.parametrize("frame", OPEN)
@settings(derandomize=True, deadline=None, max_examples=10, database=None)
@given(seed=st.integers(min_value=0, max_value=10**6))
def test_random_crystals_may_be_written_down_in_any_way(frame: FrameName, change: str, seed: int) -> None:
    crystal = c.generic_crystal(seed)
    before, after = predict(frame, "cpu", crystal, CHANGES[change](crystal, seed + 1))
    assert abs(before - after) < TOLERANCE


@pytest.mark.parametrize("frame", ["static_local", "max"])
def test_the_first_frame_does_depend_on_the_order_of_atoms(frame: FrameName) -> None:
    subject = loud_model(small_config(frame), "cpu")
    with torch.no_grad():
        before, after = (
            subject(c.batch_of(*entries, cutoff=6.0))[:, 0]
            for entries in (CRYSTALS.values(), [c.permuted(entry, 3) for entry in CRYSTALS.values()])
        )
    assert (before - after).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("frame", OPEN)
def test_a_tie_survives_the_digits_of_a_file(frame: FrameName) -> None:
    rounded = [
        Crystal(np.round(entry.lattice, 5), np.round(entry.frac_coords, 5), entry.atomic_numbers)
        for entry in CRYSTALS.values()
    ]
    difference = predict(frame, "cpu", *CRYSTALS.values()) - predict(frame, "cpu", *rounded)
    assert difference.abs().max() < 10 * DIGITS


@pytest.mark.parametrize("frame", ["static_local", "max"])
def test_left_and_right_quartz_differ(frame: FrameName) -> None:
    right, left = predict(frame, "cpu", CRYSTALS["quartz"], CRYSTALS["left quartz"])
    assert abs(right - left) > 100 * TOLERANCE


@pytest.mark.parametrize("preset", ["default", "lightweight"])
@pytest.mark.parametrize("frame", OPEN)
def test_the_compiled_mean_equals_the_definition(frame: FrameName, preset: str) -> None:
    config = small_config(frame, preset)
    entries = [*CRYSTALS.values(), c.generic_crystal(1), c.generic_crystal(2)]
    batch = c.batch_of(*entries, cutoff=6.0)
    exact_batch = c.batch_of(*entries, cutoff=6.0, dtype=torch.float64)
    inputs = make_inputs(batch, config)
    with torch.no_grad():
        exact = mean_over_ties(reference.attend, "reference")(doubled(inputs), exact_batch, config)
        plain = mean_over_ties(reference.attend, "reference")(inputs, batch, config)
        got = mean_over_ties(cpu.attend, "cpu")(inputs, batch, config)
        first = cpu.attend(inputs, batch, config)
    assert relative_rms(got, exact) < max(1e-5, 2 * relative_rms(plain, exact))
    assert relative_rms(first, exact) > 1e-3
    assert torch.equal(
        cpu.averaged(inputs, batch, config)[1] == 0, ties_reference.average(inputs, batch, config).frames == 0
    )


@pytest.mark.parametrize("frame", ["static_local", "max"])
def test_is_the_mean_over_many_random_draws(frame: FrameName) -> None:
    """One block's output is linear in the moments: training's draws have this mean where all ties are exact.

    In ideal hcp the neighbours in the layer and those above and below are equally near, but not equivalent.
    """
    config = small_config(frame)
    batch = c.batch_of(CRYSTALS["hcp"], cutoff=6.0, dtype=torch.float64)
    inputs = doubled(make_inputs(c.batch_of(CRYSTALS["hcp"], cutoff=6.0), config))
    inputs = dataclasses.replace(inputs, query=torch.zeros_like(inputs.query))
    with torch.no_grad():
        draws = torch.stack([reference.attend(inputs, batch, config, seed) for seed in range(600)])
        mean = mean_over_ties(reference.attend, "reference")(inputs, batch, config)
    assert draws.std(0).max() > 1e-3
    assert ((draws.mean(0) - mean).abs() / (draws.std(0) / len(draws) ** 0.5 + 1e-6)).max() < 5.0


def test_gradients_are_those_of_the_definition() -> None:
    config = small_config("max")
    batch = c.batch_of(CRYSTALS["rocksalt"], cutoff=6.0)
    inputs = make_inputs(batch, config)
    kernels = (mean_over_ties(reference.attend, "reference"), mean_over_ties(cpu.attend, "cpu"))
    grads = [torch.autograd.grad(kernel(inputs, batch, config).square().sum(), inputs.value)[0] for kernel in kernels]
    assert relative_rms(grads[1], grads[0]) < 1e-5
