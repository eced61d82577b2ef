"""Predictions of generic crystals do not depend on how the crystal is written down; property tests per frame.

A crystal is generic for a model if none of its frames hangs on a tie or on the lattice axes, which complete frames that
symmetry leaves undetermined. A random crystal of few atoms may have exact ties: an atom's own images at n and −n are
equally far, and either may be the direction that `max` and `static_local` look for.
"""

import dataclasses
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from crystalframer.config import FRAMES, FrameName, KernelName
from crystalframer.geometry.crystal import Crystal
from crystalframer.nn.model import CrystalFramer
from tests.fixtures import crystals as c
from tests.fixtures.implementations import KERNELS
from tests.fixtures.models import block_state, loud_model, small_config

PHYSICS = settings(derandomize=True, deadline=None, max_examples=6, database=None)
SEEDS = st.integers(min_value=0, max_value=10**6)
TOLERANCE = 1e-5
"""Of float32 predictions of order 1; their rounding errors are about 1e-6."""
VISIBLE = 100 * TOLERANCE
"""What a change of frame does to a prediction at least."""

LOCAL: tuple[FrameName, ...] = ("none", "static_local", "weighted_pca", "max")
"""Frames that know nothing of the cell."""

Change = Callable[[Crystal, int], Crystal]

CHANGES: dict[str, Change] = {
    "rotation": lambda crystal, seed: c.rotated(crystal, c.random_rotation(seed)),
    "translation": c.translated,
    "permutation": c.permuted,
    "wrapping": c.rewrapped,
    "choice of cell": c.recelled,
    "supercell": lambda crystal, _: c.doubled(crystal),
}
FOLLOWS: dict[FrameName, tuple[str, ...]] = {
    "pca": ("wrapping", "choice of cell", "supercell"),
    "lattice": ("supercell",),
}
"""What a frame depends on by its definition."""


@cache
def model(frame: FrameName, kernel: KernelName) -> CrystalFramer:
    return loud_model(small_config(frame), kernel)


def predict(frame: FrameName, kernel: KernelName, *entries: Crystal, tie_seed: int | None = None) -> Tensor:
    subject = model(frame, kernel)
    with torch.no_grad():
        return subject(c.batch_of(*entries, cutoff=subject.config.cutoff), tie_seed)[:, 0]


def is_generic(frame: FrameName, entry: Crystal) -> bool:
    """Whether neither a draw among ties nor other lattice axes change a local frame."""
    if frame in ("none", "pca", "lattice"):
        return True
    subject = model(frame, "reference")
    batch = c.batch_of(entry, cutoff=subject.config.cutoff)
    turned = batch.lattice_axes.new_tensor(c.random_rotation(1))[None]
    other_axes = [dataclasses.replace(batch, lattice_axes=axes, derived={}) for axes in (turned, -turned)]
    for level in range(subject.config.num_blocks):
        _, _, frames = block_state(subject, batch, level)
        others = [block_state(subject, other, level)[2] for other in other_axes]
        if frame != "weighted_pca":
            others += [block_state(subject, batch, level, tie_seed)[2] for tie_seed in range(4)]
        assert frames is not None
        if any(other is None or (other - frames).abs().max() > 1e-3 for other in others):
            return False
    return True


INVARIANT = [(frame, change) for frame in FRAMES for change in CHANGES if change not in FOLLOWS.get(frame, ())]
FIXED = [c.generic_crystal(seed, num_atoms=4) for seed in range(8)]
DEPENDENT = [(frame, change) for frame, changes in FOLLOWS.items() for change in changes]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("frame", "change"), INVARIANT)
@PHYSICS
@given(seed=SEEDS)
def test_prediction_is_invariant(frame: FrameName, change: str, kernel: KernelName, seed: int) -> None:
    crystal = c.generic_crystal(seed)
    assume(is_generic(frame, crystal))
    before, after = predict(frame, kernel, crystal, CHANGES[change](crystal, seed + 1))
    assert abs(before - after) < TOLERANCE


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("frame", LOCAL)
@PHYSICS
@given(seed=SEEDS)
def test_training_mode_is_invariant_too_without_ties(frame: FrameName, kernel: KernelName, seed: int) -> None:
    crystal = c.generic_crystal(seed)
    assume(is_generic(frame, crystal))
    turned = c.rotated(crystal, c.random_rotation(seed))
    before, after = (predict(frame, kernel, entry, tie_seed=seed)[0] for entry in (crystal, turned))
    assert abs(before - after) < TOLERANCE
    if frame != "weighted_pca":  # whose signs are random in training
        assert abs(before - predict(frame, kernel, crystal)[0]) < TOLERANCE


@pytest.mark.parametrize("kernel", KERNELS)
@PHYSICS
@given(seed=SEEDS)
def test_the_baseline_does_not_see_chirality(kernel: KernelName, seed: int) -> None:
    crystal = c.generic_crystal(seed, num_atoms=4)
    left, right = predict("none", kernel, crystal, c.mirrored(crystal))
    assert abs(left - right) < TOLERANCE


@pytest.mark.parametrize("kernel", KERNELS)
def test_max_frames_see_chirality(kernel: KernelName) -> None:
    left, right = predict("max", kernel, *FIXED), predict("max", kernel, *map(c.mirrored, FIXED))
    assert (left - right).abs().min() > VISIBLE


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("frame", "change"), DEPENDENT)
def test_static_frame_follows_the_cell_as_documented(frame: FrameName, change: str, kernel: KernelName) -> None:
    before = predict(frame, kernel, *FIXED)
    after = predict(frame, kernel, *(CHANGES[change](crystal, seed) for seed, crystal in enumerate(FIXED)))
    assert (before - after).abs().median() > VISIBLE


@pytest.mark.parametrize("kernel", KERNELS)
def test_these_tests_are_not_blind(kernel: KernelName) -> None:
    """The same weights give visibly different predictions with different frames, and with different crystals."""
    predictions = {frame: predict(frame, kernel, *FIXED) for frame in FRAMES if frame != "none"}
    for first, one in predictions.items():
        assert one.std() > 0.1
        for second, other in predictions.items():
            assert first == second or (one - other).abs().median() > VISIBLE


def test_the_changes_change_the_description() -> None:
    crystal = c.generic_crystal(0, num_atoms=4)
    for name, change in CHANGES.items():
        other = change(crystal, 1)
        same_lattice = np.allclose(other.lattice, crystal.lattice)
        assert not (same_lattice and np.allclose(other.frac_coords, crystal.frac_coords)), name
        assert other.volume / other.num_atoms == pytest.approx(crystal.volume / crystal.num_atoms)
