"""A trained model against a split of its data set: errors with bootstrap intervals, by target and by element."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crystalframer.config import DataConfig
from crystalframer.data.batch import BatchLoader
from crystalframer.data.dataset import CrystalDataset, SplitName, TaskData, require_elements
from crystalframer.data.registry import load_task
from crystalframer.data.structures.reading import Reading
from crystalframer.errors import UserError
from crystalframer.prediction.predictions import Predictions
from crystalframer.prediction.predictor import Predictor
from crystalframer.statistics import (
    ElementError,
    Interval,
    determination,
    errors_by_element,
    interval,
    mean_absolute,
    root_mean_square,
)
from crystalframer.training.inference import predict_rows
from crystalframer.training.trained_model import TrainedModel


@dataclass(frozen=True, eq=False)
class TargetEvaluation:
    """One target of a model on the crystals of a split that have it."""

    name: str
    unit: str
    split: SplitName
    ids: tuple[str, ...]
    rows: NDArray[np.int64]
    """(S,) rows of the data set."""
    targets: NDArray[np.float64]
    """(S,) the data set's values."""
    predictions: NDArray[np.float64]
    """(S,) the model's values."""
    mae: Interval
    """Mean absolute error."""
    rmse: Interval
    """Root mean square error."""
    r2: Interval
    """Coefficient of determination."""
    half_widths: NDArray[np.float64] | None = None
    """(S,) of the intervals around the predictions, where the model has any."""


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
    loader = BatchLoader(data, cutoff=trained.trial.model.cutoff, frame=trained.trial.model.frame)
    outputs = predict_rows(trained.model, loader, rows)
    predictions = trained.restore(outputs.reshape(len(rows), -1))
    return _evaluations(trained, data, split, predictions, None, seed)


def evaluate_predictor(predictor: Predictor, data: TaskData, split: SplitName, seed: int = 0) -> list[TargetEvaluation]:
    """Predict a split by one or several models, intervals included, and return the errors of each target."""
    found = predict_split(predictor, data, split)
    return _evaluations(predictor.members[0], data, split, found.values, found.half_widths, seed)


def predict_split(predictor: Predictor, data: TaskData, split: SplitName) -> Predictions:
    """Predict the crystals of a split, embeddings included."""
    return predictor.predict_named(readings_of(data, split), embeddings=True)


def readings_of(data: TaskData, split: SplitName) -> Iterator[Reading]:
    """Return the crystals of a split as if they came from files."""
    return (Reading(crystal.id, crystal=crystal) for crystal in data.crystals(split))


def _evaluations(
    trained: TrainedModel,
    data: TaskData,
    split: SplitName,
    predictions: NDArray[np.float64],
    half_widths: NDArray[np.float64] | None,
    seed: int,
) -> list[TargetEvaluation]:
    """Return the errors of each target; crystals without a target or a prediction are left out."""
    rows = data.rows[split]
    values = data.targets[rows].astype(np.float64).reshape(len(rows), -1)
    found = []
    for column, target in enumerate(trained.targets):
        present = np.isfinite(values[:, column]) & np.isfinite(predictions[:, column])
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
                mae=interval(mean_absolute, truth, guess, seed=seed),
                rmse=interval(root_mean_square, truth, guess, seed=seed),
                r2=interval(determination, truth, guess, seed=seed),
                half_widths=None if half_widths is None else half_widths[present, column],
            )
        )
    return found


def element_errors(dataset: CrystalDataset, evaluation: TargetEvaluation) -> list[ElementError]:
    """Return the errors by element, in the order of the periodic table."""
    differences = evaluation.predictions - evaluation.targets
    return errors_by_element(dataset.atomic_numbers, dataset.offsets, evaluation.rows, differences)


def one_line(evaluation: TargetEvaluation) -> str:
    """Return the errors in a sentence."""
    parts = [
        f"{name} {number.value:.4g} {unit}[{number.low:.4g}, {number.high:.4g}]"
        for name, number, unit in _errors_of(evaluation)
    ]
    return f"{evaluation.name}, {len(evaluation.ids):,} crystals of the {evaluation.split} split: {', '.join(parts)}"


def _errors_of(evaluation: TargetEvaluation) -> Sequence[tuple[str, Interval, str]]:
    unit = f"{evaluation.unit} "
    return (("MAE", evaluation.mae, unit), ("RMSE", evaluation.rmse, unit), ("R²", evaluation.r2, ""))
