"""A batch is the crystals' geometry put end to end; the loader remembers what it prepared."""

import dataclasses

import numpy as np
import pytest
import torch

from crystalframer.config import FRAMES, DataConfig, FrameName
from crystalframer.data.batch import BatchLoader
from crystalframer.data.dataset import CrystalDataset, Task, TaskData, select_task
from crystalframer.geometry.prepared import prepare_geometry
from tests.fixtures import crystals as c

CRYSTALS = [c.generic_crystal(seed) for seed in range(5)]
GEOMETRIES = [prepare_geometry(crystal, 5.0) for crystal in CRYSTALS]


def task_data() -> TaskData:
    entries = [dataclasses.replace(crystal, id=f"crystal-{number}") for number, crystal in enumerate(CRYSTALS)]
    task = Task("energy", "eV", np.arange(5.0), np.array([0, 0, 0, 1, 2], dtype=np.int8))
    dataset = CrystalDataset.from_crystals("five", entries, [task])
    return select_task(dataset, DataConfig(dataset="five", task="energy"))


def test_crystals_lie_end_to_end() -> None:
    batch = c.batch_of(*CRYSTALS, cutoff=5.0, dtype=torch.float64)
    assert len(batch.offsets) - 1 == 5
    assert batch.num_atoms == sum(crystal.num_atoms for crystal in CRYSTALS) == len(batch.crystal_of_atom)
    assert batch.num_edges == sum(geometry.num_edges for geometry in GEOMETRIES)
    for number, (crystal, geometry) in enumerate(zip(CRYSTALS, GEOMETRIES, strict=True)):
        first, last = int(batch.offsets[number]), int(batch.offsets[number + 1])
        atoms = slice(first, last)
        edges = slice(int(batch.first_edge[first]), int(batch.first_edge[last]))
        assert (batch.crystal_of_atom[atoms] == number).all()
        np.testing.assert_array_equal(batch.atomic_numbers[atoms], crystal.atomic_numbers)
        np.testing.assert_array_equal(batch.first_edge[atoms] - edges.start, geometry.neighbours.first[:-1])
        np.testing.assert_array_equal(batch.neighbour[edges] - first, geometry.neighbours.index)
        np.testing.assert_array_equal(batch.vector[edges], geometry.neighbours.vector)
        np.testing.assert_array_equal(batch.lattice_frames[number], geometry.lattice_frame)
        np.testing.assert_array_equal(batch.lattice_axes[number], geometry.lattice_axes)
        np.testing.assert_array_equal(batch.pca_frames[number], geometry.pca_frame)
    np.testing.assert_allclose(batch.distance, batch.vector.norm(dim=1))
    assert batch.first_edge[-1] == batch.num_edges
    own = batch.first_edge[:-1]
    assert (batch.neighbour[own] == torch.arange(batch.num_atoms)).all()
    assert (batch.distance[own] == 0).all()


def test_precision_and_integers() -> None:
    for dtype in (torch.float32, torch.float64):
        batch = c.batch_of(*CRYSTALS, cutoff=5.0, dtype=dtype, targets=np.arange(5.0))
        assert batch.targets is not None
        assert batch.targets.shape == (5, 1)
        reals = (
            batch.vector,
            batch.distance,
            batch.lattice_frames,
            batch.lattice_axes,
            batch.pca_frames,
            batch.targets,
        )
        assert {tensor.dtype for tensor in reals} == {dtype}
        integers = (batch.atomic_numbers, batch.offsets, batch.crystal_of_atom, batch.first_edge, batch.neighbour)
        assert {tensor.dtype for tensor in integers} == {torch.int64}


def test_loader_returns_the_rows_asked_for() -> None:
    loader = BatchLoader(task_data(), cutoff=5.0)
    batch = loader.batch(np.array([3, 0]))
    assert batch.cutoff == 5.0
    assert batch.targets is not None
    assert batch.targets[:, 0].tolist() == [3.0, 0.0]
    expected = c.batch_of(CRYSTALS[3], CRYSTALS[0], cutoff=5.0)
    assert torch.equal(batch.vector, expected.vector)
    assert torch.equal(batch.atomic_numbers, expected.atomic_numbers)


def test_loader_prepares_a_crystal_once_within_its_memory() -> None:
    generous, stingy = BatchLoader(task_data(), cutoff=5.0), BatchLoader(task_data(), cutoff=5.0, max_cached_bytes=0)
    assert generous.geometry(1) is generous.geometry(1)
    assert stingy.geometry(1) is not stingy.geometry(1)
    size = generous.geometry(1).num_bytes
    assert size == GEOMETRIES[1].num_edges * 20 + (GEOMETRIES[1].num_atoms + 1) * 8
    one = BatchLoader(task_data(), cutoff=5.0, max_cached_bytes=size)
    first = one.geometry(1)
    assert one.geometry(2) is not one.geometry(2)
    assert one.geometry(1) is first


def test_loader_says_once_that_geometry_does_not_fit(caplog: pytest.LogCaptureFixture) -> None:
    loader = BatchLoader(task_data(), cutoff=5.0, max_cached_bytes=0)
    for _ in range(2):
        loader.batch(np.array([3, 0, 1]))
    (line,) = caplog.messages
    assert "hold 0 of 5 crystals" in line


@pytest.mark.parametrize("frame", FRAMES)
def test_only_what_a_model_reads_is_made_and_its_bits_are_the_same(frame: FrameName) -> None:
    everything = c.batch_of(*CRYSTALS, cutoff=5.0)
    batch = BatchLoader(task_data(), cutoff=5.0, frame=frame).batch(np.arange(5))
    for name in ("first_edge", "neighbour", "vector", "distance"):
        assert torch.equal(getattr(batch, name), getattr(everything, name)), name
    made = {
        "lattice_frames": frame != "none",
        "lattice_axes": frame != "none",
        "pca_frames": frame == "pca",
    }
    for name, is_made in made.items():
        values = getattr(batch, name)
        assert torch.equal(values, getattr(everything, name)) if is_made else values.isnan().all(), name


def test_to_moves_everything_and_leaves_derived_values_behind() -> None:
    batch = c.batch_of(*CRYSTALS, cutoff=5.0, targets=np.arange(5.0))
    batch.derived["anything"] = 1
    moved = batch.to(torch.device("meta"))
    tensors = [
        value for field in dataclasses.fields(moved) if isinstance(value := getattr(moved, field.name), torch.Tensor)
    ]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert len(tensors) == 11
    assert moved.derived == {}
    assert moved.cutoff == 5.0


def test_wrong_number_of_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="reshape"):
        c.batch_of(*CRYSTALS, cutoff=5.0, targets=np.arange(4.0))
