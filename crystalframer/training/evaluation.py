"""Predictions for many crystals, in batches of similar size."""

import numpy as np
import torch
from numpy.typing import NDArray

from crystalframer.data.batch import BatchLoader
from crystalframer.data.batching import packed_batches
from crystalframer.nn.model import CrystalFramer

EVALUATION_ATOMS = 2048
"""Atoms per batch; a larger crystal has a batch of its own."""


@torch.no_grad()
def predict_rows(
    model: CrystalFramer,
    loader: BatchLoader,
    rows: NDArray[np.int64],
    sizes: NDArray[np.int64],
    max_atoms: int = EVALUATION_ATOMS,
) -> NDArray[np.float64]:
    """Predict crystals by their rows in the data set, in evaluation mode; the model is left in it.

    Args:
        model: a calibrated model with one output.
        loader: makes batches of the data set.
        rows: (S,) rows of the data set, in any order.
        sizes: (S,) atoms of each of them.
        max_atoms: bound on the atoms per batch.

    Returns:
        (S,) standardised predictions in the order of `rows`.
    """
    device = next(model.parameters()).device
    predictions = np.empty(len(rows))
    model.eval()
    for positions in packed_batches(sizes, max_atoms):
        outputs = model(loader.batch(rows[positions]).to(device))
        predictions[positions] = outputs[:, 0].double().cpu().numpy()
    return predictions
