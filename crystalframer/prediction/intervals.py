"""Intervals that hold a stated share of the true values: split-conformal, wider where errors are likely larger.

A crystal's difficulty is s = exp(c₀ + Σ cₖ fₖ) with the features of `features`: how far its embedding lies from the
training crystals, how large the errors of the nearest validation crystals are, how rare its rarest element is in
training, and the spread of an ensemble. The coefficients are those
under which the errors of validation crystals are most likely Laplace-distributed with the scale s; c₁ … are not
negative. The interval is prediction ± q·s, with q the quantile of error / s on validation crystals of similar s that
the coefficients were not fitted on (normalised: Papadopoulos et al., ECML 2002; by groups: Vovk et al., Algorithmic
Learning in a Random World, 2005; pooled over folds). It holds the stated share of crystals that are drawn as the
validation crystals were. For others nothing is promised: whatever is strange (see `TrainingDomain.strange`) gets at
least the interval of the hardest twentieth of the validation crystals.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from crystalframer.errors import UserError
from crystalframer.training.safe_files import numbers_of

Floats = NDArray[np.float64]
FOLDS = 5
"""Parts of the validation crystals; the difficulty of each part is judged by what the others taught."""
GROUPS, GROUP = 10, 120
"""Groups of difficulty at most, and validation crystals in each at least: each group has a quantile of its own."""
HARD = 0.05
"""Share of the validation crystals that are as hard as crystals unlike the training crystals are taken to be."""
FEWEST = 20
"""Validation crystals without which no interval is made."""
STEEPEST = 5.0
"""Largest slope."""
LARGEST = 600.0
"""Logarithm of the largest difficulty: keeps intervals finite, however far a crystal is from all others."""
_TINY = 1e-6
"""Of the errors' scale: keeps logarithms finite."""


@dataclass(frozen=True, eq=False)
class Intervals:
    """The intervals of one target."""

    offset: float
    """c₀, the logarithm of a typical error in the target's unit."""
    slopes: Floats
    """(F,) c₁ …, not negative."""
    centre: Floats
    """(F,) means of the features."""
    hard: float
    """Difficulty that all but `HARD` of the validation crystals keep below; that of strange ones at least."""
    edges: Floats
    """(G - 1,) difficulties between the groups, ascending."""
    scores: tuple[NDArray[np.float32], ...]
    """For each of the G groups, error / difficulty of its validation crystals, ascending."""

    @classmethod
    def fit(
        cls, errors: Floats, features: Floats, strange: NDArray[np.bool_] | None = None, seed: int = 0
    ) -> "Intervals":
        """Calibrate on validation crystals.

        Args:
            errors: (V,) absolute errors in the target's unit.
            features: (V, F), see `features`.
            strange: (V,) crystals unlike the training crystals.
            seed: of the folds.

        Raises:
            UserError: there are too few crystals.
        """
        if len(errors) < FEWEST:
            raise UserError(
                f"intervals need validation crystals: got {len(errors)}, expected at least {FEWEST}; choose a larger "
                "validation split"
            )
        fold = np.random.default_rng(seed).permutation(np.arange(len(errors)) % FOLDS)
        difficulty = np.empty(len(errors))
        for number in range(FOLDS):
            held = fold == number
            part = cls(*_fit_difficulty(errors[~held], features[~held]), 0.0, np.empty(0), ())
            difficulty[held] = part.difficulty(features[held])
        hard = float(np.quantile(difficulty, 1 - HARD))
        if strange is not None:
            difficulty = np.where(strange, np.maximum(difficulty, hard), difficulty)
        groups = np.array_split(np.argsort(difficulty, kind="stable"), max(1, min(GROUPS, len(errors) // GROUP)))
        edges = [(difficulty[one[-1]] + difficulty[two[0]]) / 2 for one, two in itertools.pairwise(groups)]
        scores = [np.sort(errors[group] / difficulty[group]).astype(np.float32) for group in groups]
        return cls(*_fit_difficulty(errors, features), hard, np.array(edges), tuple(scores))

    def difficulty(self, features: Floats) -> Floats:
        """Return s, (S,) in the target's unit, of features (S, F)."""
        return np.asarray(np.exp(np.minimum(self.offset + (features - self.centre) @ self.slopes, LARGEST)))

    def half_widths(self, features: Floats, coverage: float, strange: NDArray[np.bool_] | None = None) -> Floats:
        """Return half the width of each interval, (S,), infinite where there are too few crystals for a coverage.

        Args:
            features: (S, F).
            coverage: share of true values that the intervals shall hold.
            strange: (S,) crystals unlike the training crystals, which count as hard in any case.
        """
        difficulty = self.difficulty(features)
        if strange is not None:
            difficulty = np.where(strange, np.maximum(difficulty, self.hard), difficulty)
        quantiles = np.array([_quantile(scores, coverage) for scores in self.scores])
        return np.asarray(difficulty * quantiles[np.searchsorted(self.edges, difficulty)])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values and tensors."""
        arrays = {name: torch.from_numpy(getattr(self, name)) for name in ("slopes", "centre", "edges")}
        return {
            "offset": self.offset,
            "hard": self.hard,
            **arrays,
            "scores": [torch.from_numpy(scores) for scores in self.scores],
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Intervals":
        """Return what `to_dict` described.

        Raises:
            ValueError: a value is none that `fit` finds.
        """
        offset, hard = float(content["offset"]), float(content["hard"])
        slopes = numbers_of("slopes", content["slopes"], np.float64, 1, 0.0, STEEPEST)
        centre = numbers_of("centre", content["centre"], np.float64, 1, -1e3, 1e3)
        edges = numbers_of("edges", content["edges"], np.float64, 1, 0.0, math.exp(LARGEST))
        most = float(np.finfo(np.float32).max)
        scores = tuple(numbers_of("scores", group, np.float32, 1, 0.0, most) for group in content["scores"])
        if not (abs(offset) <= 1e3 and 0 <= hard <= math.exp(LARGEST)) or len(slopes) != len(centre):
            raise ValueError(f"offset {offset:g}, hard {hard:g}, {len(slopes)} slopes, {len(centre)} means")
        if len(scores) != len(edges) + 1 or any(np.any(np.diff(values) < 0) for values in (edges, *scores)):
            raise ValueError(f"{len(scores)} groups with {len(edges)} edges, expected one more, all ascending")
        return cls(offset, slopes, centre, hard, edges, scores)


def features(distances: Floats, around: Floats, rarity: Floats, spread: Floats | None, scale: float) -> Floats:
    """Return the features of difficulty, (S, F), all larger where errors are likely larger.

    Args:
        distances: (S,) to the nearest training crystals in the embedding.
        around: (S,) mean absolute errors of the nearest validation crystals.
        rarity: (S,) training crystals with the rarest element.
        spread: (S,) standard deviation over an ensemble, or None.
        scale: a typical size of the target, in the unit of `spread` and `around`.
    """
    columns = [np.log(distances + 1e-3), np.log(around / scale + 1e-3), -np.log(rarity + 1.0)]
    if spread is not None:
        columns.append(np.log(spread / scale + 1e-4))
    return np.stack(columns, axis=1)


def _quantile(scores: NDArray[np.float32], coverage: float) -> float:
    """Return the score that one more crystal keeps below with a probability of at least `coverage`."""
    rank = math.ceil((len(scores) + 1) * coverage)
    return float(scores[rank - 1]) if rank <= len(scores) else math.inf


def check_coverage(coverage: float) -> None:
    """Raise a `UserError` unless a number is a coverage."""
    if not 0 < coverage < 1:
        raise UserError(f"--coverage: got {coverage:g}, expected a number between 0 and 1 such as 0.9")


def _fit_difficulty(errors: Floats, features: Floats) -> tuple[float, Floats, Floats]:
    """Return c₀, the slopes and the features' means: the most likely Laplace scales of the errors."""
    centre, unit = features.mean(axis=0), max(float(errors.mean()), np.finfo(float).tiny)
    shifted, relative = features - centre, errors / unit + _TINY

    def cost(coefficients: Floats) -> tuple[float, Floats]:
        logarithm = coefficients[0] + shifted @ coefficients[1:]
        excess = relative * np.exp(-logarithm)
        gradient = 1 - excess
        return float((excess + logarithm).mean()), np.append(gradient.mean(), gradient @ shifted / len(errors))

    bounds = [(-20.0, 20.0), *[(0.0, STEEPEST)] * features.shape[1]]
    found = minimize(cost, np.zeros(1 + features.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(found[0] + math.log(unit)), found[1:], centre
