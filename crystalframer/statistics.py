"""The statistics that tables, figures and reports share: mean ± deviation, bootstrap intervals, measures of error."""

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
CONFIDENCE = 0.95
"""Of every interval."""
RESAMPLES = 2000
"""Bootstrap resamples of an interval."""
_AT_ONCE = 2**21
"""Numbers drawn at a time."""
Statistic = Callable[..., Floats]
"""Makes a number of one or more samples along their axis ``axis``."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over seeds (None for a single one)."""

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Summarise at least one value."""
        found = list(values)
        return cls(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None)

    def __str__(self) -> str:
        """Return ``0.1234 ± 0.0012``, the mean alone for a single value."""
        return f"{self.mean:.4f}" + ("" if self.std is None else f" ± {self.std:.4f}")


@dataclass(frozen=True)
class Interval:
    """A number measured on a sample of crystals, with its 95 % percentile-bootstrap interval over them."""

    value: float
    low: float
    """NaN where a single crystal, or none with a value, leaves no interval."""
    high: float


@dataclass(frozen=True)
class ElementError:
    """The errors over the crystals that contain an element."""

    number: int
    """Atomic number of the element."""
    crystals: int
    mae: float
    bias: float
    """Mean of prediction − target."""


def interval(statistic: Statistic, *samples: Floats, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Return a statistic of paired (S,) samples with its percentile-bootstrap interval; the same for the same seed."""
    value, size = float(statistic(*samples, axis=-1)), len(samples[0])
    if size < 2 or math.isnan(value):
        return Interval(value, math.nan, math.nan)
    random = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // size)
    draws = (random.integers(0, size, (min(step, resamples - n), size)) for n in range(0, resamples, step))
    found = np.concatenate([statistic(*(sample[draw] for sample in samples), axis=-1) for draw in draws])
    # resamples without spread have no R²: they are left out
    low, high = np.nanquantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))


def mean_interval(values: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Return the mean of at least one value with its interval."""
    return interval(_mean, np.asarray(values, dtype=float), seed=seed, resamples=resamples)


def mean_absolute(targets: Floats, predictions: Floats, *, axis: int = -1) -> Floats:
    """Return the mean of abs(prediction − target)."""
    return np.asarray(np.abs(predictions - targets).mean(axis=axis))


def root_mean_square(targets: Floats, predictions: Floats, *, axis: int = -1) -> Floats:
    """Return the square root of the mean of (prediction − target)²."""
    return np.asarray(np.sqrt(np.square(predictions - targets).mean(axis=axis)))


def determination(targets: Floats, predictions: Floats, *, axis: int) -> Floats:
    """Return R² = 1 − Σ(prediction − target)² / Σ(target − mean)²; NaN without spread."""
    spread = np.square(targets - targets.mean(axis=axis, keepdims=True)).sum(axis=axis)
    missed = np.square(predictions - targets).sum(axis=axis)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(spread > 0, 1 - missed / spread, np.nan))


def errors_by_element(
    atomic_numbers: NDArray[np.integer], offsets: NDArray[np.integer], rows: NDArray[np.integer], differences: Floats
) -> list[ElementError]:
    """Return the errors by element, in the order of the periodic table; a crystal counts for each of its elements.

    Args:
        atomic_numbers: (N,) of all atoms of a data set.
        offsets: crystal i owns the atoms offsets[i] to offsets[i + 1].
        rows: (S,) the crystals.
        differences: prediction − target, (S,), or (S, M) of M models, over which errors are averaged.
    """
    return [
        ElementError(number, len(places), float(np.abs(differences[places]).mean()), float(differences[places].mean()))
        for number, places in places_by_element(atomic_numbers, offsets, rows).items()
    ]


def places_by_element(
    atomic_numbers: NDArray[np.integer], offsets: NDArray[np.integer], rows: NDArray[np.integer]
) -> dict[int, NDArray[np.int64]]:
    """Return which of the crystals `rows`, by their places there, contain an element, by atomic number, ascending."""
    found: dict[int, list[int]] = {}
    for place, row in enumerate(rows.tolist()):
        for number in np.unique(atomic_numbers[offsets[row] : offsets[row + 1]]).tolist():
            found.setdefault(number, []).append(place)
    return {number: np.array(found[number]) for number in sorted(found)}


def _mean(values: Floats, *, axis: int) -> Floats:
    return np.asarray(values.mean(axis=axis))
