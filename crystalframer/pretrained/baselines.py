"""Two kinds of shallow models that cost seconds: on the composition, and on a trained model's embedding.

With a few hundred or thousand crystals they are hard to beat; whoever fine-tunes should see what they reach.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalframer.config import TrialConfig
from crystalframer.data.dataset import SPLITS, SplitName, TaskData
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import ELEMENTS, Crystal
from crystalframer.prediction.evaluation import readings_of
from crystalframer.prediction.predictor import Predictor
from crystalframer.statistics import Interval, interval, mean_absolute

Floats = NDArray[np.float64]
Features = dict[SplitName, Floats]
PROPERTIES = ("Atomic no", "Atomic mass", "Atomic radius", "X", "Mendeleev no")
"""Of elements, under pymatgen's names; their mean, spread and range over a crystal's atoms are features."""


@dataclass(frozen=True)
class Candidate:
    """A model of a data set, and its errors there."""

    name: str
    val_mae: float
    test_mae: Interval
    seconds: float
    """What it took to make."""


def baselines(predictor: Predictor, data: TaskData) -> list[Candidate]:
    """Return the shallow models of a single task: its mean, trees on composition, ridge and trees on the embedding.

    Args:
        predictor: whose first member embeds.
        data: the task.

    Raises:
        UserError: there are several tasks, or a crystal cannot be embedded.
    """
    if data.targets.ndim > 1:
        raise UserError(f"baselines are for a single task; got {data.task}")
    composition, first = _timed(lambda: _composition(data))
    embedding, second = _timed(lambda: {split: embed_split(predictor, data, split) for split in SPLITS})
    mean = float(data.targets[data.rows["train"]].mean())
    constant = {split: np.full(len(data.rows[split]), mean) for split in SPLITS}
    found = [_candidate("mean of the training set", constant, data, 0.0)]
    for name, features, make, seconds in (
        ("trees on composition", composition, _trees, first),
        ("ridge on embedding", embedding, _ridge, second),
        ("trees on embedding", embedding, _trees, second),
    ):
        predicted, took = _timed(lambda make=make, features=features: _fitted(make(), features, data))  # type: ignore[misc]
        found.append(_candidate(name, predicted, data, seconds + took))
    return found


def trees_on_composition(data: TaskData) -> Features:
    """Return what boosted trees on the composition, fitted to the training crystals of a single task, predict, (S,)."""
    return _fitted(_trees(), _composition(data), data)


def measured(name: str, predictor: Predictor, data: TaskData, seconds: float) -> Candidate:
    """Return a trained model or ensemble of a single task among the candidates."""
    judged: tuple[SplitName, ...] = ("val", "test")
    predicted = {split: predictor.predict_named(readings_of(data, split)).values[:, 0] for split in judged}
    return _candidate(name, predicted, data, seconds)


def embed_split(predictor: Predictor, data: TaskData, split: SplitName) -> Floats:
    """Return the embeddings of a split's crystals, (S, width).

    Raises:
        UserError: one cannot be embedded.
    """
    found = []
    for one in predictor.embed_named(readings_of(data, split)):
        if one.error:
            raise UserError(f"crystal {one.id!r} cannot be embedded: {one.error}; leave it out of the data set")
        found.append(one.vector)
    return np.stack(found)


def composition_features(crystals: Iterable[Crystal]) -> Floats:
    """Return the share of each element, and mean, spread, least and most of elemental properties, (S, 118 + 4 F)."""
    table = _elements()
    rows = []
    for crystal in crystals:
        shares = crystal.amounts / crystal.amounts.sum()
        present = shares > 0
        values, own = table[present], shares[present][:, None]
        mean = (values * own).sum(axis=0)
        spread = (np.abs(values - mean) * own).sum(axis=0)
        rows.append(np.concatenate([shares, mean, spread, values.min(axis=0), values.max(axis=0)]))
    return np.stack(rows)


def best_of(candidates: Sequence[Candidate]) -> Candidate:
    """Return the candidate of smallest validation error."""
    return min(candidates, key=lambda one: one.val_mae)


def table_of(candidates: Sequence[Candidate], unit: str) -> str:
    """Return the candidates as a table, and which one to use: the one of smallest validation error."""
    best = best_of(candidates)
    width = max(len(one.name) for one in candidates)
    lines = [f"{'model':<{width}}  {'val MAE':>9}  test MAE [{unit}]", "-" * (width + 45)]
    lines += [
        f"{one.name:<{width}}  {one.val_mae:>9.4g}  {one.test_mae.value:.4g} [{one.test_mae.low:.4g}, "
        f"{one.test_mae.high:.4g}]  {one.seconds:,.0f} s"
        for one in candidates
    ]
    return "\n".join([*lines, f"use: {best.name}, whose validation error is smallest"])


def _elements() -> Floats:
    """Return the properties of the elements, (118, F), NaN where they are not known."""
    from pymatgen.core.periodic_table import Element

    def value(symbol: str, name: str) -> float:
        try:
            return float(Element(symbol).data[name])
        except (KeyError, TypeError, ValueError):  # "no data"
            return np.nan

    return np.array([[value(symbol, name) for name in PROPERTIES] for symbol in ELEMENTS])


def _composition(data: TaskData) -> Features:
    return {split: composition_features(data.crystals(split)) for split in SPLITS}


def _trees() -> list[Any]:
    """Return boosted trees for both losses: the absolute one gets stuck where most targets are equal, as gaps of 0."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    return [
        HistGradientBoostingRegressor(
            loss=loss, learning_rate=0.05, max_iter=400, min_samples_leaf=5, early_stopping=False, random_state=0
        )
        for loss in ("absolute_error", "squared_error")
    ]


def _ridge() -> list[Any]:
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return [make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-2, 4, 19)))]


def _fitted(regressors: Sequence[Any], features: Features, data: TaskData) -> Features:
    """Return the predictions of the regressor whose validation error is smallest, each fitted to the training split.

    One thread: trees of a few hundred crystals take four times as long with two, and minutes beside another program.
    """
    from threadpoolctl import threadpool_limits

    truth = {split: data.targets[data.rows[split]].astype(np.float64) for split in SPLITS}

    def predictions(regressor: Any) -> Features:
        regressor.fit(features["train"], truth["train"])
        return {split: regressor.predict(features[split]) for split in SPLITS}

    with threadpool_limits(1, user_api="openmp"):
        return min(map(predictions, regressors), key=lambda found: float(np.abs(found["val"] - truth["val"]).mean()))


def _candidate(name: str, predicted: Features, data: TaskData, seconds: float) -> Candidate:
    truth = {split: data.targets[data.rows[split]].astype(np.float64) for split in SPLITS}
    val = float(np.abs(predicted["val"] - truth["val"]).mean())
    return Candidate(name, val, interval(mean_absolute, truth["test"], predicted["test"]), seconds)


def _timed(make: Callable[[], Features]) -> tuple[Features, float]:
    started = time.perf_counter()
    return make(), time.perf_counter() - started


def inherited(source: TrialConfig, num_train: int) -> dict[str, Any]:
    """Return the settings of a fine-tuning: the source's architecture, and a short training chosen by validation."""
    sizes = {f"model.{key}": value for key, value in source.to_dict()["model"].items() if key != "num_targets"}
    return {
        **sizes,
        "train.epochs": 60,
        "train.average_epochs": 0,
        "train.learning_rate": 3e-4,
        "train.batch_size": max(1, min(32, num_train // 8)),
        "train.keep": "best",
        "train.patience": 15,
    }
