"""Predictions for many crystals, in batches of similar size."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crystalframer.data.batch import BatchLoader
from crystalframer.data.batching import packed_batches
from crystalframer.data.dataset import SplitName, TaskData
from crystalframer.data.resident import ResidentCrystals
from crystalframer.errors import UserError
from crystalframer.nn.model import CrystalFramer
from crystalframer.training.metrics import Evaluation, Target, evaluate_predictions, restore
from crystalframer.training.out_of_memory import FAILED_ALLOCATION, is_out_of_memory, release
from crystalframer.training.processes import ALONE, Processes

EVALUATION_ATOMS = 2048
"""Atoms per batch; a larger crystal has a batch of its own."""


@torch.no_grad()
def predict_rows(
    model: CrystalFramer,
    loader: BatchLoader | ResidentCrystals,
    rows: NDArray[np.int64],
    max_atoms: int = EVALUATION_ATOMS,
    processes: Processes = ALONE,
) -> NDArray[np.float64]:
    """Predict crystals by their rows in the data set, in evaluation mode; the model is left in it.

    Args:
        model: a calibrated model with T outputs.
        loader: makes batches of the data set.
        rows: (S,) rows of the data set, in any order.
        max_atoms: bound on the atoms per batch; where memory is too small for a batch, its halves are predicted.
        processes: share the work; each of them returns everything.

    Returns:
        (S,) standardised predictions in the order of `rows`, or (S, T) of several targets.

    Raises:
        UserError: memory is too small for a single crystal; the message names it.
    """
    outputs = np.zeros((len(rows), model.config.num_targets))
    mine = np.zeros(len(rows), dtype=np.bool_)
    model.eval()
    sizes = loader.data.dataset.num_atoms[rows]
    for positions in packed_batches(sizes, max_atoms)[processes.rank :: processes.size]:
        outputs[positions] = _predict(model, loader, rows[positions]).double().cpu().numpy()
        mine[positions] = True
    outputs = processes.gathered(outputs, mine)
    return outputs[:, 0] if outputs.shape[1] == 1 else outputs


def evaluate_split(
    model: CrystalFramer,
    loader: BatchLoader | ResidentCrystals,
    data: TaskData,
    split: SplitName,
    targets: Sequence[Target],
    processes: Processes = ALONE,
) -> Evaluation:
    """Predict a split of the data and compare with its targets; see `predict_rows`."""
    rows = data.rows[split]
    outputs = predict_rows(model, loader, rows, processes=processes)
    ids = [str(data.dataset.ids[row]) for row in rows]
    return evaluate_predictions(split, ids, data.targets[rows].astype(np.float64), restore(outputs, targets), targets)


def _predict(model: CrystalFramer, loader: BatchLoader | ResidentCrystals, rows: NDArray[np.int64]) -> Tensor:
    device = next(model.parameters()).device
    try:
        predicted: Tensor = model(loader.batch(rows).to(device))
        return predicted[: len(rows)]  # without padding
    except FAILED_ALLOCATION as error:
        if not is_out_of_memory(error):
            raise
    release(device)
    if len(rows) == 1:
        raise too_large(loader, rows, device)
    half = len(rows) // 2
    return torch.cat([_predict(model, loader, rows[:half]), _predict(model, loader, rows[half:])])


def too_large(loader: BatchLoader | ResidentCrystals, rows: NDArray[np.int64], device: torch.device) -> UserError:
    """Return the error of a batch that does not fit into memory even crystal by crystal."""
    dataset = loader.data.dataset
    sizes = dataset.num_atoms[rows]
    largest = int(np.argmax(sizes))
    return UserError(
        f"not enough memory on {device} for the crystals one by one: the largest of the {len(rows)} in the batch is "
        f"{str(dataset.ids[rows[largest]])!r} with {int(sizes[largest])} atoms; leave it out of the data set, choose a "
        "smaller model.cutoff, or a machine with more memory"
    )
