"""Batches gathered on the device are those made on the host, and padding changes nothing."""

import numpy as np
import pytest
import torch
from torch import Tensor

from crystalframer.config import FRAMES, DataConfig, FrameName, KernelName
from crystalframer.data.batch import BatchLoader, CrystalBatch, IncomingEdges
from crystalframer.data.dataset import TaskData
from crystalframer.data.registry import load_task
from crystalframer.data.resident import PaddedShape, ResidentCrystals
from tests.fixtures.implementations import KERNELS
from tests.fixtures.models import loud_model, small_config

CUTOFF = 4.5


@pytest.fixture(scope="module")
def task() -> TaskData:
    return load_task(DataConfig(train_size=40, val_size=8, test_size=8))


@pytest.fixture(scope="module")
def resident(task: TaskData) -> ResidentCrystals:
    return ResidentCrystals(task, task.rows["train"], CUTOFF, "cpu")


def drawn(resident: ResidentCrystals, count: int, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.random.default_rng(seed).permutation(len(resident.rows))[:count]


def real_part(batch: CrystalBatch, num_crystals: int) -> dict[str, Tensor]:
    """Return a padded batch's tensors without the padding."""
    atoms = int(batch.offsets[num_crystals])
    edges = int(batch.first_edge[atoms])
    ends = {"offsets": num_crystals + 1, "first_edge": atoms + 1, "atomic_numbers": atoms, "crystal_of_atom": atoms}
    ends |= dict.fromkeys(("neighbour", "vector", "distance"), edges)
    ends |= dict.fromkeys(("lattice_frames", "lattice_axes", "pca_frames", "targets"), num_crystals)
    return {name: getattr(batch, name)[:end] for name, end in ends.items()}


def test_a_batch_is_the_one_made_on_the_host(task: TaskData, resident: ResidentCrystals) -> None:
    index = drawn(resident, 9)
    batch = resident.gather(torch.from_numpy(index), resident.shape_for(index))
    expected = BatchLoader(task, CUTOFF).batch(task.rows["train"][index])
    for name, tensor in real_part(batch, 9).items():
        want = getattr(expected, name)
        assert tensor.dtype == want.dtype, name
        torch.testing.assert_close(tensor, want, rtol=0, atol=2e-6 if tensor.is_floating_point() else 0, msg=name)


def test_the_transposed_list_is_that_of_the_batch(resident: ResidentCrystals) -> None:
    index = drawn(resident, 7)
    batch = resident.gather(torch.from_numpy(index), resident.shape_for(index))
    given: IncomingEdges = batch.derived["incoming"]
    for got, want in zip(given, IncomingEdges.of(batch), strict=True):
        assert torch.equal(got, want)


def test_every_padding_atom_has_itself_first(resident: ResidentCrystals) -> None:
    index = drawn(resident, 5)
    atoms, edges = int(resident.num_atoms[index].sum()), int(resident.num_edges[index].sum())
    for shape in (PaddedShape(atoms + 1, edges + 1), PaddedShape(atoms + 3, edges + 50), resident.shape_for(index)):
        batch = resident.gather(torch.from_numpy(index), shape)
        assert (batch.num_atoms, batch.num_edges) == shape
        first, degree = batch.first_edge[:-1], batch.first_edge.diff()
        assert degree.min() >= 1
        assert degree[atoms:].max() - degree[atoms:].min() <= 1
        assert torch.equal(batch.neighbour[first], torch.arange(batch.num_atoms))
        assert not batch.distance[first].any()
        others = torch.ones(batch.num_edges, dtype=torch.bool).index_fill(0, first, False)
        assert batch.distance[others].min() > 0


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("spare", [(1, 0), (2, 30)], ids=["little padding", "much padding"])
def test_padding_changes_neither_predictions_nor_gradients(
    task: TaskData, resident: ResidentCrystals, frame: FrameName, kernel: KernelName, spare: tuple[int, int]
) -> None:
    index = drawn(resident, 6)
    atoms, edges = int(resident.num_atoms[index].sum()), int(resident.num_edges[index].sum())
    shape = PaddedShape(atoms + spare[0], edges + spare[0] + spare[1])
    results = []
    for batch in (
        resident.gather(torch.from_numpy(index), shape),
        BatchLoader(task, CUTOFF).batch(task.rows["train"][index]),
    ):
        model = loud_model(small_config(frame, cutoff=CUTOFF, num_elements=98), kernel)
        predicted = model(batch, tie_seed=torch.tensor(3))
        assert torch.isfinite(predicted).all()
        predicted[: len(index)].square().sum().backward()
        gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        results.append((predicted[: len(index)].detach(), gradients))
    (padded, padded_gradients), (plain, plain_gradients) = results
    torch.testing.assert_close(padded, plain, rtol=1e-5, atol=1e-5)
    largest = max(float(value.norm()) for value in plain_gradients.values())
    for name, value in plain_gradients.items():
        assert float((padded_gradients[name] - value).norm()) <= 2e-5 * max(float(value.norm()), 0.1 * largest), name


def test_shapes_are_few_and_hardly_larger(resident: ResidentCrystals) -> None:
    shapes = [resident.shape_for(drawn(resident, 16, seed)) for seed in range(200)]
    assert len(set(shapes)) < 30
    for seed, shape in enumerate(shapes):
        index = drawn(resident, 16, seed)
        assert resident.num_atoms[index].sum() < shape.atoms <= 1.13 * resident.num_atoms[index].sum() + 1
        assert resident.num_edges[index].sum() < shape.edges <= 1.3 * resident.num_edges[index].sum() + 2
