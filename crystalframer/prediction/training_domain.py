"""What a model was trained on, kept small: how familiar a crystal is, and in which way it is strange."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from crystalframer.data.dataset import CrystalDataset
from crystalframer.geometry.crystal import ELEMENTS, Crystal
from crystalframer.training.safe_files import numbers_of

POINTS = 2048
"""Training crystals whose embeddings are kept."""
AXES = 16
"""Principal axes of the embeddings that are kept."""
NEIGHBOURS = 5
"""Nearest of those crystals whose mean distance counts."""
RARE = 1e-3
"""Share of the training crystals beyond each end of what counts as a usual volume per atom."""
FAR = 0.995
"""Share of the validation crystals that count as near."""
FEW = 5
"""An element in fewer training crystals is hardly known."""


@dataclass(frozen=True, eq=False)
class TrainingDomain:
    """The training crystals of a model: elements, sizes, densities and where they lie in its embedding."""

    crystals: NDArray[np.int64]
    """(118,) training crystals that contain each element."""
    most_atoms: int
    """Atoms of the largest one."""
    volumes: tuple[float, float]
    """Usual volume per atom in Å³, from … to."""
    centre: NDArray[np.float32]
    """(W,) mean embedding."""
    axes: NDArray[np.float32]
    """(W, P) principal axes, scaled so that the embeddings spread by about 1 along the first."""
    points: NDArray[np.float16]
    """(R, P) places of training crystals on these axes."""
    far: float = np.inf
    """Distance beyond which a crystal is unlike the training crystals."""

    @classmethod
    def of(cls, dataset: CrystalDataset, rows: NDArray[np.int64], embeddings: NDArray[np.float64]) -> "TrainingDomain":
        """Measure it.

        Args:
            dataset: crystals.
            rows: those trained on.
            embeddings: (R, W) of some of them.
        """
        centre = embeddings.mean(axis=0)
        _, spread, directions = np.linalg.svd(embeddings - centre, full_matrices=False)
        scale = max(float(spread[0]) / np.sqrt(len(embeddings)), 1e-12)
        axes = directions[:AXES].T / scale
        sizes = dataset.num_atoms[rows]
        volumes = np.abs(np.linalg.det(dataset.lattice[rows])) / sizes
        low, high = np.quantile(volumes, [RARE, 1 - RARE])
        return cls(
            crystals=_crystals_by_element(dataset, rows),
            most_atoms=int(sizes.max()),
            volumes=(float(low), float(high)),
            centre=centre.astype(np.float32),
            axes=axes.astype(np.float32),
            points=((embeddings - centre) @ axes).astype(np.float16),
        )

    def places(self, embeddings: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where embeddings (S, W) lie on the axes, (S, P)."""
        return np.asarray((embeddings - self.centre) @ self.axes)

    def distances(self, embeddings: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean distance of crystals (S, W) to the nearest training crystals, (S,)."""
        places = self.places(embeddings)
        known = np.isfinite(places).all(axis=1)
        found = np.full(len(places), np.nan)
        if known.any():
            nearest = min(NEIGHBOURS, len(self.points))
            distance, _ = self._tree.query(places[known], k=[*range(1, nearest + 1)])
            found[known] = distance.mean(axis=1)
        return found

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.points.astype(np.float64))

    def rarity(self, crystals: Sequence[Crystal]) -> NDArray[np.float64]:
        """Return the number of training crystals that contain the rarest element of each crystal, (S,)."""
        return np.array(
            [min(self.crystals[number - 1] for number in crystal.elements) for crystal in crystals], dtype=float
        )

    def all_strange(self, crystals: Sequence[Crystal], distances: NDArray[np.float64]) -> list[list[str]]:
        """Return `strange` for each of the crystals at these `distances`, (S,)."""
        return [self.strange(crystal, float(distance)) for crystal, distance in zip(crystals, distances, strict=True)]

    def strange(self, crystal: Crystal, distance: float) -> list[str]:
        """Return in which ways a crystal is unlike the training crystals, in words."""
        counts = {number: int(self.crystals[number - 1]) for number in sorted(crystal.elements)}
        unknown = ", ".join(ELEMENTS[number - 1] for number, count in counts.items() if count == 0)
        found = [f"{unknown} in no training crystal"] if unknown else []
        if crystal.num_atoms > self.most_atoms:
            found.append(f"{crystal.num_atoms} atoms, training crystals have at most {self.most_atoms}")
        volume, (low, high) = crystal.volume / crystal.num_atoms, self.volumes
        if not low <= volume <= high:
            found.append(f"{volume:.3g} Å³ per atom, training crystals have {low:.3g} to {high:.3g}")
        if distance > self.far:
            found.append(
                f"embedding {distance / self.far:.2g} times as far from the training crystals as {FAR:.1%} of the "
                "validation crystals have theirs"
            )
        return found

    def rare(self, crystal: Crystal) -> list[str]:
        """Return which elements of a crystal are in few training crystals, in words, if any."""
        few = [number for number in sorted(crystal.elements) if 0 < self.crystals[number - 1] < FEW]
        symbols = ", ".join(ELEMENTS[number - 1] for number in few)
        return [f"{symbols} in fewer than {FEW} training crystals"] if few else []

    def to_dict(self) -> dict[str, Any]:
        """Return plain values and tensors."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in values.items()
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "TrainingDomain":
        """Return what `to_dict` described.

        Raises:
            ValueError: a value is none that training crystals can have.
        """
        crystals = numbers_of("crystals", content["crystals"], np.int64, 1, 0, 2**53)
        centre = numbers_of("centre", content["centre"], np.float32, 1, -1e30, 1e30)
        axes = numbers_of("axes", content["axes"], np.float32, 2, -1e30, 1e30)
        most = float(np.finfo(np.float16).max)
        points = numbers_of("points", content["points"], np.float16, 2, -most, most)
        (low, high), far, most_atoms = map(float, content["volumes"]), float(content["far"]), int(content["most_atoms"])
        if len(crystals) != len(ELEMENTS) or axes.shape != (len(centre), points.shape[1]) or not points.size:
            raise ValueError(f"{len(crystals)} elements, axes {axes.shape}, points {points.shape}")
        if not (0 < low <= high < np.inf and far > 0 and most_atoms > 0):
            raise ValueError(f"{low:g} to {high:g} Å³ per atom, far {far:g}, {most_atoms} atoms at most")
        return cls(crystals, most_atoms, (low, high), centre, axes, points, far)


def _crystals_by_element(dataset: CrystalDataset, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    chosen = np.zeros(len(dataset), dtype=bool)
    chosen[rows] = True
    owners = np.repeat(np.arange(len(dataset)), dataset.num_atoms)
    pairs = np.stack([owners, dataset.atomic_numbers])
    if dataset.mixture is not None:
        mixed = np.stack([owners[dataset.mixture.sites], dataset.mixture.elements])
        pairs = np.concatenate([pairs, mixed], axis=1)
    pairs = np.unique(pairs[:, chosen[pairs[0]]], axis=1)
    return np.bincount(pairs[1] - 1, minlength=len(ELEMENTS)).astype(np.int64)
