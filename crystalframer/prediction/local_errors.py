"""How large a model's errors are around a place in its embedding: those of the nearest validation crystals."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from crystalframer.training.safe_files import numbers_of

Floats = NDArray[np.float64]
NEIGHBOURS = 15
"""Validation crystals whose errors count."""
LARGEST = 1e37
"""Error that no file may exceed, in a target's unit."""


@dataclass(frozen=True, eq=False)
class LocalErrors:
    """The validation crystals of a model."""

    places: NDArray[np.float16]
    """(V, P) where they lie, see `TrainingDomain.places`."""
    errors: NDArray[np.float32]
    """(V, T) absolute errors in the targets' units, NaN where a target is absent."""

    def around(self, places: Floats, column: int, *, among: bool = False) -> Floats:
        """Return the mean absolute error of a target around places (S, P), (S,).

        Args:
            places: where.
            column: the target.
            among: the places are those of the validation crystals themselves, whose own errors do not count.
        """
        present = np.isfinite(self.errors[:, column])
        errors = self.errors[present, column].astype(np.float64)
        count = min(NEIGHBOURS, len(errors) - among)
        tree = cKDTree(self.places[present].astype(np.float64))
        _, nearest = tree.query(places, k=[*range(1, count + 1 + among)])
        if not among:
            return np.asarray(errors[nearest].mean(axis=1))
        own = nearest == (np.cumsum(present) - 1)[:, None]
        own[~own.any(axis=1), -1] = True  # crystals that lie in one place: the farthest is left out instead
        return np.asarray(errors[nearest][~own].reshape(len(places), count).mean(axis=1))

    def to_dict(self) -> dict[str, Any]:
        """Return tensors."""
        return {"places": torch.from_numpy(self.places), "errors": torch.from_numpy(self.errors)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "LocalErrors":
        """Return what `to_dict` described.

        Raises:
            ValueError: a value is none that can have been measured.
        """
        most = float(np.finfo(np.float16).max)
        places = numbers_of("places", content["places"], np.float16, 2, -most, most)
        numbers_of("errors", torch.nan_to_num(content["errors"], nan=0.0), np.float32, 2, 0.0, LARGEST)
        errors = content["errors"].numpy()
        if len(errors) != len(places) or bool((np.isfinite(errors).sum(axis=0) < NEIGHBOURS).any()):
            raise ValueError(f"errors of {len(errors)} crystals at {len(places)} places, or of fewer than {NEIGHBOURS}")
        return cls(places, errors)
