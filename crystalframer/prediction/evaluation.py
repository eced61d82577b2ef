"""A trained model against a split of its data set: errors with bootstrap intervals, by target and by element."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crystalframer.config import DataConfig
from crystalframer.data.batch import BatchLoader
from crystalframer.data.dataset import CrystalDataset, SplitName, TaskData, require_elements
from crystalframer.data.registry import load_task
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import ELEMENTS
from crystalframer.training.inference import predict_rows
from crystalframer.training.trained_model import TrainedModel

RESAMPLES = 2000
"""Bootstrap resamples of a split's crystals."""
CONFIDENCE = 0.95
"""Of the intervals."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number measured on a sample of crystals."""

    value: float
    low: float
    """Lower end of the 95 % percentile-bootstrap interval over the crystals; NaN for a single crystal."""
    high: float
    """Upper end."""


@dataclass(frozen=True, eq=False)
class TargetEvaluation:
    """One target of a model on the crystals of a split that have it."""

    name: str
    unit: str
    split: SplitName
    ids: tuple[str, ...]
    rows: NDArray[np.int64]
    """(S,) rows of the data set."""
    targets: Floats
    """(S,) the data set's values."""
    predictions: Floats
    """(S,) the model's values."""
    mae: Estimate
    """Mean absolute error."""
    rmse: Estimate
    """Root mean square error."""
    r2: Estimate
    """Coefficient of determination."""


@dataclass(frozen=True)
class ElementError:
    """The errors over the crystals that contain an element."""

    element: str
    crystals: int
    mae: float
    bias: float
    """Mean of prediction − target."""


def data_of(trained: TrainedModel, *, dataset: str | None = None, allow_other_data: bool = False) -> TaskData:
    """Return the data that a model was trained on, for evaluation.

    Args:
        trained: the model.
        dataset: another data set instead, by name.
        allow_other_data: take the data even if they are not those of the training.

    Raises:
        UserError: the data set is not there or, unless `allow_other_data`, not the one of the training: its test split
            may then hold crystals that the model has learned from.
    """
    config: DataConfig = trained.trial.data
    if dataset is not None:
        config = dataclasses.replace(config, dataset=dataset, train_size=None, val_size=None, test_size=None)
    data = load_task(config)
    if data.fingerprint != trained.data_fingerprint and not allow_other_data:
        known = f"trained on data of fingerprint {trained.data_fingerprint[:12]}"
        raise UserError(
            f"the model was {known if trained.data_fingerprint else 'converted, its training data are not known'}; "
            f"data set {config.dataset!r} has {data.fingerprint[:12]}: its splits may hold crystals that the model has "
            "learned from; prepare the data as they were, or evaluate anyway with --allow-other-data"
        )
    if tuple(target.unit for target in trained.targets) != data.units:
        raise UserError(
            f"the model predicts in {', '.join(t.unit for t in trained.targets)}, the data set has {data.units}"
        )
    return data


def evaluate_model(trained: TrainedModel, data: TaskData, split: SplitName, seed: int = 0) -> list[TargetEvaluation]:
    """Predict a split and return the errors of each target.

    Args:
        trained: the model.
        data: from `data_of`.
        split: train, val or test.
        seed: of the bootstrap.

    Raises:
        UserError: the model does not know an element of the split.
    """
    rows = data.rows[split]
    require_elements(data.dataset, rows, trained.trial.model.num_elements)
    loader = BatchLoader(data, cutoff=trained.trial.model.cutoff)
    outputs = predict_rows(trained.model, loader, rows, data.dataset.num_atoms[rows])
    predictions = trained.restore(outputs.reshape(len(rows), -1))
    values = data.targets[rows].astype(np.float64).reshape(len(rows), -1)
    found = []
    for column, target in enumerate(trained.targets):
        present = np.isfinite(values[:, column])
        truth, guess = values[present, column], predictions[present, column]
        found.append(
            TargetEvaluation(
                name=target.name,
                unit=target.unit,
                split=split,
                ids=tuple(str(label) for label in data.dataset.ids[rows[present]]),
                rows=rows[present],
                targets=truth,
                predictions=guess,
                mae=estimate(mean_absolute, truth, guess, seed),
                rmse=estimate(root_mean_square, truth, guess, seed),
                r2=estimate(determination, truth, guess, seed),
            )
        )
    return found


def element_errors(dataset: CrystalDataset, evaluation: TargetEvaluation) -> list[ElementError]:
    """Return the errors by element, in the order of the periodic table; a crystal counts for each of its elements."""
    error = evaluation.predictions - evaluation.targets
    by_element: dict[int, list[float]] = {}
    for row, difference in zip(evaluation.rows.tolist(), error.tolist(), strict=True):
        atoms = slice(int(dataset.offsets[row]), int(dataset.offsets[row + 1]))
        for number in np.unique(dataset.atomic_numbers[atoms]).tolist():
            by_element.setdefault(number, []).append(difference)
    return [
        ElementError(ELEMENTS[number - 1], len(found), float(np.abs(found).mean()), float(np.mean(found)))
        for number, found in sorted(by_element.items())
    ]


def estimate(statistic: Callable[..., Floats], targets: Floats, predictions: Floats, seed: int) -> Estimate:
    """Return a statistic of paired (S,) arrays with its percentile-bootstrap interval.

    Args:
        statistic: takes targets, predictions and the keyword ``axis``.
        targets: (S,)
        predictions: (S,)
        seed: of the resampling.
    """
    value = float(statistic(targets, predictions, axis=-1))
    if len(targets) < 2 or np.isnan(value):
        return Estimate(value, np.nan, np.nan)
    from scipy.stats import DegenerateDataWarning, bootstrap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # resamples without spread have no R²: left out below
        result = bootstrap(
            (targets, predictions),
            statistic,
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            batch=max(1, 2**21 // len(targets)),
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    low, high = np.nanpercentile(result.bootstrap_distribution, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Estimate(value, float(low), float(high))


def mean_absolute(targets: Floats, predictions: Floats, axis: int) -> Floats:
    """Return the mean of abs(prediction − target)."""
    return np.asarray(np.abs(predictions - targets).mean(axis=axis))


def root_mean_square(targets: Floats, predictions: Floats, axis: int) -> Floats:
    """Return the square root of the mean of (prediction − target)²."""
    return np.asarray(np.sqrt(np.square(predictions - targets).mean(axis=axis)))


def determination(targets: Floats, predictions: Floats, axis: int) -> Floats:
    """Return R² = 1 − Σ(prediction − target)² / Σ(target − mean)²; NaN without spread."""
    spread = np.square(targets - targets.mean(axis=axis, keepdims=True)).sum(axis=axis)
    missed = np.square(predictions - targets).sum(axis=axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(spread > 0, 1 - missed / spread, np.nan))


def one_line(evaluation: TargetEvaluation) -> str:
    """Return the errors in a sentence."""
    parts = [
        f"{name} {number.value:.4g} {unit}[{number.low:.4g}, {number.high:.4g}]"
        for name, number, unit in _errors_of(evaluation)
    ]
    return f"{evaluation.name}, {len(evaluation.ids):,} crystals of the {evaluation.split} split: {', '.join(parts)}"


def _errors_of(evaluation: TargetEvaluation) -> Sequence[tuple[str, Estimate, str]]:
    unit = f"{evaluation.unit} "
    return (("MAE", evaluation.mae, unit), ("RMSE", evaluation.rmse, unit), ("R²", evaluation.r2, ""))
