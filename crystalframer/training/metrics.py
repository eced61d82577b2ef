"""Errors in the target's unit, and the records that training and evaluation return."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crystalframer.data.dataset import SplitName
from crystalframer.errors import UserError


@dataclass(frozen=True)
class EpochResult:
    """What one epoch of training came to."""

    epoch: int
    """Epochs done, from 1."""
    step: int
    """Optimiser steps done since the start of training."""
    train_loss: float
    """Mean L1 loss on standardised targets, over the epoch's steps."""
    train_mae: float
    """The same in the target's unit."""
    val_mae: float
    """Mean absolute error of the validation set, in the target's unit."""
    val_rmse: float
    """Root mean square error of the validation set, in the target's unit."""
    learning_rate: float
    """Learning rate of the epoch's last step."""
    averaged: bool
    """Whether the validation errors are those of the averaged weights."""
    seconds: float
    """Wall-clock time of the epoch in s, validation included."""


@dataclass(frozen=True)
class Evaluation:
    """Predictions of one split, in the split's order, and their errors in the target's unit."""

    split: SplitName
    ids: tuple[str, ...]
    """Identifiers of the S crystals."""
    targets: NDArray[np.float64]
    """(S,) the data set's values."""
    predictions: NDArray[np.float64]
    """(S,) the model's values."""
    mae: float
    """Mean absolute error."""
    rmse: float
    """Root mean square error."""
    baseline_mae: float
    """Mean absolute error of predicting the mean of the training targets."""


def mean_absolute_error(targets: NDArray[np.float64], predictions: NDArray[np.float64]) -> float:
    """Return the mean of abs(prediction − target)."""
    return float(np.abs(predictions - targets).mean())


def root_mean_square_error(targets: NDArray[np.float64], predictions: NDArray[np.float64]) -> float:
    """Return the square root of the mean of (prediction − target)²."""
    return float(np.sqrt(np.square(predictions - targets).mean()))


@dataclass(frozen=True)
class TargetScale:
    """Standardisation of the targets, measured on the training set."""

    mean: float
    """Mean, in the target's unit."""
    std: float
    """Population standard deviation, in the target's unit."""

    @classmethod
    def of(cls, targets: NDArray[np.float64], task: str) -> "TargetScale":
        """Measure the scale of the (n,) training targets of `task`.

        Raises:
            UserError: there is no target, one is not a finite number, or all are equal.
        """
        require_finite(targets, f"the training targets of {task!r}")
        mean, std = float(targets.mean()), float(targets.std())
        if std == 0:
            raise UserError(
                f"the training targets of {task!r} are all {mean:g}: got a spread of 0, expected different values; "
                "choose a larger data.train_size or another data.task"
            )
        return cls(mean, std)

    def restore(self, predictions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return standardised predictions in the target's unit."""
        return predictions * self.std + self.mean


def require_finite(targets: NDArray[np.float64], what: str) -> None:
    """Raise a `UserError` unless there is at least one target and all are finite."""
    if len(targets) == 0:
        raise UserError(f"{what} are empty: got 0 crystals, expected at least 1; choose another data.task or split")
    missing = int(np.count_nonzero(~np.isfinite(targets)))
    if missing:
        raise UserError(
            f"{what} are not all numbers: got {missing} missing or infinite of {len(targets)}, expected none; "
            "leave crystals without a target out of the split"
        )
