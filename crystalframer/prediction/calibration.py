"""What belongs to a model beside its weights: the domain it was trained on, and the intervals of its targets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalframer.geometry.crystal import Crystal
from crystalframer.prediction.intervals import Intervals, features
from crystalframer.prediction.local_errors import LocalErrors
from crystalframer.prediction.training_domain import TrainingDomain
from crystalframer.training.metrics import Target

Floats = NDArray[np.float64]
COVERAGE = 0.9
"""Share of true values that an interval holds unless another is asked for."""
SCALES = 1e-100, 1e100
"""Spreads of targets that a file may have, in any unit."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """How far a model or an ensemble is to be trusted, measured on its validation crystals."""

    domain: TrainingDomain
    intervals: tuple[Intervals, ...]
    """Of each target."""
    scales: tuple[float, ...]
    """Standard deviation of each target's training values."""
    local: LocalErrors
    """The errors of the validation crystals."""

    @classmethod
    def fit(
        cls,
        domain: TrainingDomain,
        targets: Sequence[Target],
        crystals: Sequence[Crystal],
        embeddings: Floats,
        errors: Floats,
        spread: Floats | None,
    ) -> "Calibration":
        """Calibrate on validation crystals.

        Args:
            domain: the training crystals.
            targets: T targets.
            crystals: V validation crystals.
            embeddings: (V, W).
            errors: (V, T) absolute errors, NaN where a target is absent.
            spread: (V, T) standard deviations of an ensemble, or None.

        Raises:
            UserError: too few crystals have a target.
        """
        scales = tuple(target.std for target in targets)
        local = LocalErrors(domain.places(embeddings).astype(np.float16), errors.astype(np.float32))
        uncalibrated = cls(domain, (), scales, local)
        distances = domain.distances(embeddings)
        strange = np.array([bool(found) for found in domain.all_strange(crystals, distances)])
        intervals = []
        for column in range(len(targets)):
            rows = np.flatnonzero(np.isfinite(errors[:, column]))
            own = None if spread is None else spread[rows]
            present = replace(uncalibrated, local=LocalErrors(local.places[rows], local.errors[rows]))
            known = [crystals[int(row)] for row in rows]
            given = present.features(known, embeddings[rows], distances[rows], own, column, among=True)
            intervals.append(Intervals.fit(errors[rows, column], given, strange[rows]))
        return replace(uncalibrated, intervals=tuple(intervals))

    def features(
        self,
        crystals: Sequence[Crystal],
        embeddings: Floats,
        distances: Floats,
        spread: Floats | None,
        column: int,
        *,
        among: bool = False,
    ) -> Floats:
        """Return what predicts the errors of a target, (S, F); `among`: of the validation crystals themselves.

        `distances` are those of the domain.
        """
        rarity = self.domain.rarity(crystals)
        around = self.local.around(self.domain.places(embeddings), column, among=among)
        own = None if spread is None else spread[:, column]
        return features(distances, around, rarity, own, self.scales[column])

    def judge(
        self, crystals: Sequence[Crystal], embeddings: Floats, spread: Floats | None, coverage: float = COVERAGE
    ) -> tuple[Floats, list[list[str]]]:
        """Return half the width of the intervals of crystals (S, T), and how each is strange or rare, in words."""
        distances = self.domain.distances(embeddings)
        words = self.domain.all_strange(crystals, distances)
        strange = np.array([bool(found) for found in words])
        columns = [
            interval.half_widths(self.features(crystals, embeddings, distances, spread, column), coverage, strange)
            for column, interval in enumerate(self.intervals)
        ]
        rare = map(self.domain.rare, crystals)
        return np.stack(columns, axis=1), [found + few for found, few in zip(words, rare, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values and tensors."""
        return {
            "domain": self.domain.to_dict(),
            "intervals": [interval.to_dict() for interval in self.intervals],
            "scales": list(self.scales),
            "local": self.local.to_dict(),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Calibration":
        """Return what `to_dict` described.

        Raises:
            ValueError: a value is none that `fit` finds.
        """
        found = cls(
            TrainingDomain.from_dict(content["domain"]),
            tuple(Intervals.from_dict(interval) for interval in content["intervals"]),
            tuple(map(float, content["scales"])),
            LocalErrors.from_dict(content["local"]),
        )
        if not all(SCALES[0] <= scale <= SCALES[1] for scale in found.scales):
            raise ValueError(f"scales {found.scales}, expected {SCALES[0]:g} to {SCALES[1]:g}")
        if found.local.places.shape[1] != found.domain.points.shape[1]:
            raise ValueError("places of validation and training crystals have different numbers of axes")
        return found

    def suits(self, members: int, targets: int, width: int) -> bool:
        """Return whether it is of so many models together, with so many targets and embeddings (width,)."""
        counts = {len(self.intervals), len(self.scales), self.local.errors.shape[1]}
        slopes = {len(interval.slopes) for interval in self.intervals}
        return counts == {targets} and slopes == {3 + (members > 1)} and len(self.domain.centre) == width
