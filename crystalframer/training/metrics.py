"""Errors in the target's unit, and the records that training and evaluation return."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalframer.data.dataset import SplitName, TaskData
from crystalframer.errors import UserError
from crystalframer.statistics import mean_absolute, root_mean_square

LARGEST = 1e100
"""Mean or spread that targets of a file may have, in any unit."""


@dataclass(frozen=True)
class EpochResult:
    """What one epoch of training came to; errors of several targets together are in standard deviations."""

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
    val_mae_by_task: dict[str, float] = field(default_factory=dict)
    """For several targets, the mean absolute error of each in its unit."""
    val_rmse_by_task: dict[str, float] = field(default_factory=dict)
    """For several targets, the root mean square error of each in its unit."""


@dataclass(frozen=True)
class TaskErrors:
    """The errors of one target over the crystals that have it, in its unit."""

    task: str
    unit: str
    count: int
    """Crystals that have the target."""
    mae: float
    """Mean absolute error."""
    rmse: float
    """Root mean square error."""
    baseline_mae: float
    """Mean absolute error of predicting the mean of the training targets."""


@dataclass(frozen=True)
class Evaluation:
    """Predictions of one split, in the split's order, and their errors in the target's unit.

    The errors of several targets together are in standard deviations of the training targets, averaged over targets.
    """

    split: SplitName
    ids: tuple[str, ...]
    """Identifiers of the S crystals."""
    targets: NDArray[np.float64]
    """(S,) the data set's values, or (S, T), NaN where a crystal has no such target."""
    predictions: NDArray[np.float64]
    """(S,) the model's values, or (S, T)."""
    mae: float
    """Mean absolute error."""
    rmse: float
    """Root mean square error."""
    baseline_mae: float
    """Mean absolute error of predicting the mean of the training targets."""
    by_task: tuple[TaskErrors, ...] = ()
    """The errors of each target in its unit."""

    def errors_by_task(self) -> dict[str, dict[str, float]]:
        """Return an epoch result's errors of single tasks, where there are several."""
        if len(self.by_task) == 1:
            return {}
        return {
            "val_mae_by_task": {errors.task: errors.mae for errors in self.by_task},
            "val_rmse_by_task": {errors.task: errors.rmse for errors in self.by_task},
        }


@dataclass(frozen=True)
class Target:
    """A property that a model predicts; a prediction is output · std + mean."""

    name: str
    unit: str
    mean: float
    """Mean of the training targets, in their unit."""
    std: float
    """Population standard deviation of the training targets, in their unit."""

    @classmethod
    def of(cls, name: str, unit: str, targets: NDArray[np.float64]) -> "Target":
        """Measure the scale of a property on its (n,) training targets.

        Raises:
            UserError: there is no target, one is not a finite number, or all are equal.
        """
        require_finite(targets, f"the training targets of {name!r}")
        mean, std = float(targets.mean()), float(targets.std())
        if std == 0:
            raise UserError(
                f"the training targets of {name!r} are all {mean:g}: got a spread of 0, expected different values; "
                "choose a larger data.train_size or another data.task"
            )
        return cls(name, unit, mean, std)


def target_of(content: Mapping[str, Any]) -> Target:
    """Return the target that a file describes.

    Raises:
        ValueError: a scale is none that targets can have.
        TypeError: a field is missing, or none of a target's.
    """
    target = Target(**content)
    if not (abs(target.mean) <= LARGEST and 0 < target.std <= LARGEST):
        raise ValueError(f"target {target.name!r}: mean {target.mean:g}, standard deviation {target.std:g}")
    return target


def measure_targets(data: TaskData) -> tuple[Target, ...]:
    """Measure the scale of each target on the training set.

    Raises:
        UserError: a single target is missing for some crystal, or the values of a target are none or all equal.
    """
    values = data.targets[data.rows["train"]].astype(np.float64)
    columns = [values] if values.ndim == 1 else [column[np.isfinite(column)] for column in values.T]
    return tuple(map(Target.of, data.tasks, data.units, columns))


def restore(outputs: NDArray[np.float64], targets: Sequence[Target]) -> NDArray[np.float64]:
    """Return standardised outputs, (S,) or (S, T), in the targets' units."""
    if outputs.ndim == 1:
        return outputs * targets[0].std + targets[0].mean
    return outputs * np.array([target.std for target in targets]) + np.array([target.mean for target in targets])


def evaluate_predictions(
    split: SplitName,
    ids: Sequence[str],
    values: NDArray[np.float64],
    predictions: NDArray[np.float64],
    targets: Sequence[Target],
) -> Evaluation:
    """Compare predictions with the data set's values, (S,) or (S, T), in the targets' units."""
    columns = zip(values.reshape(len(ids), -1).T, predictions.reshape(len(ids), -1).T, targets, strict=True)
    by_task = tuple(_errors(column, predicted, target) for column, predicted, target in columns)
    stds = [1.0] if len(targets) == 1 else [target.std for target in targets]

    def together(errors: Sequence[float]) -> float:
        return float(np.mean([error / std for error, std in zip(errors, stds, strict=True)]))

    return Evaluation(
        split=split,
        ids=tuple(ids),
        targets=values,
        predictions=predictions,
        mae=together([errors.mae for errors in by_task]),
        rmse=together([errors.rmse for errors in by_task]),
        baseline_mae=together([errors.baseline_mae for errors in by_task]),
        by_task=by_task,
    )


def _errors(values: NDArray[np.float64], predictions: NDArray[np.float64], target: Target) -> TaskErrors:
    present = np.isfinite(values)
    found, predicted = values[present], predictions[present]
    return TaskErrors(
        task=target.name,
        unit=target.unit,
        count=len(found),
        mae=float(mean_absolute(found, predicted)),
        rmse=float(root_mean_square(found, predicted)),
        baseline_mae=float(mean_absolute(found, np.full_like(found, target.mean))),
    )


def require_targets(data: TaskData, split: SplitName, what: str) -> None:
    """Check that a split can be trained or evaluated on.

    Raises:
        UserError: a single target is missing for one of its crystals, or no crystal has one of several targets.
    """
    values = data.targets[data.rows[split]]
    if values.ndim == 1:
        require_finite(values, f"the {what} targets of {data.task!r}")
        return
    for column, name in zip(values.T, data.tasks, strict=True):
        require_finite(column[~np.isnan(column)], f"the {what} targets of {name!r}")


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
