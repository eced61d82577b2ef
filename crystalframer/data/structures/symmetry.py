"""Symmetry operations: a group, a symmetry of the cell, and the images of sites under them."""

from dataclasses import dataclass
from functools import lru_cache

import gemmi
import numpy as np
from numpy.typing import NDArray

from crystalframer.data.structures.cif_block import CifError

SAME_SITE = 0.05
"""Atoms nearer than this, in Å, are one site: images of a special position, or elements that share it."""
MAX_OPERATIONS = 192
DISTORTED, DOUBTFUL = 0.01, 0.002
"""How far an operation may take the metric from itself, relative to the lengths: refused beyond, warned of beyond."""


@dataclass(frozen=True, eq=False)
class Operations:
    """The n operations of a space group."""

    rotations: NDArray[np.int64]
    """(n, 3, 3), acting on fractional coordinates as columns."""
    translations: NDArray[np.int64]
    """(n, 3), in units of 1/24."""
    products: NDArray[np.int64]
    """(n, n): number of the product of two operations."""

    def __len__(self) -> int:
        return len(self.rotations)

    def kinds(self) -> dict[tuple[int, int], float]:
        """Return the share of each kind of rotation (determinant, trace), which no choice of axes or cell changes."""
        determinants = np.round(np.linalg.det(self.rotations)).astype(np.int64)
        keys = zip(determinants.tolist(), np.trace(self.rotations, axis1=1, axis2=2).tolist(), strict=True)
        kinds: dict[tuple[int, int], float] = {}
        for key in keys:
            kinds[key] = kinds.get(key, 0.0) + 1 / len(self)
        return {key: round(share, 6) for key, share in kinds.items()}

    def distortion(self, lattice: NDArray[np.float64]) -> float:
        """Return how far they are from being a symmetry of a cell: 0 where all keep its lengths and angles."""
        metric = lattice @ lattice.T
        lengths = np.sqrt(np.diag(metric))
        changed = np.swapaxes(self.rotations, 1, 2) @ metric @ self.rotations
        return float((np.abs(changed - metric) / np.outer(lengths, lengths)).max())

    def images(
        self, lattice: NDArray[np.float64], sites: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the images of sites in the cell, and how many each site has.

        A site within `SAME_SITE` of its image is on a special position: it is moved to the mean of these images, which
        the symmetry leaves in place exactly, so that 0.3333 becomes 1/3.
        """
        moved = np.einsum("aij,sj->sai", self.rotations, sites) + self.translations / gemmi.Op.DEN
        offset = moved - sites[:, None]
        offset -= np.round(offset)
        near = offset @ lattice
        fixes = np.einsum("sai,sai->sa", near, near) < SAME_SITE**2
        parts, counts = [], np.full(len(sites), len(self), dtype=np.int64)
        for number in range(len(sites)):
            if fixes[number].sum() <= 1:
                parts.append(moved[number])
                continue
            subgroup = self._closed(np.flatnonzero(fixes[number]))
            centre = sites[number] + offset[number, subgroup].mean(axis=0)
            first = self.products[:, subgroup].min(axis=1) == np.arange(len(self))
            parts.append((self.rotations @ centre + self.translations / gemmi.Op.DEN)[first])
            counts[number] = first.sum()
        return np.concatenate(parts), counts

    def _closed(self, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the smallest subgroup that holds some operations."""
        while True:
            closed = np.unique(self.products[np.ix_(chosen, chosen)])
            if len(closed) == len(chosen):
                return closed
            chosen = closed


@lru_cache(maxsize=512)
def parse_operations(triplets: tuple[str, ...]) -> Operations:
    """Parse operations such as ``-y, x-y, z+1/3``; one that is listed twice counts once.

    Raises:
        CifError: one is malformed, there are too many, or they are no group.
    """
    if len(triplets) > 10 * MAX_OPERATIONS:
        raise CifError(f"the file lists {len(triplets)} symmetry operations, expected at most {MAX_OPERATIONS}")
    try:
        operations = [gemmi.Op(triplet) for triplet in triplets]
    except RuntimeError as error:
        raise CifError(f"a symmetry operation is malformed ({error})") from error
    return _group(operations)


@lru_cache(maxsize=512)
def operations_of_hall(symbol: str) -> Operations:
    """Return the operations of a Hall symbol.

    Raises:
        CifError: it is malformed.
    """
    try:
        return _group(list(gemmi.symops_from_hall(symbol)))
    except (RuntimeError, ValueError) as error:
        raise CifError(f"the Hall symbol {symbol[:40]!r} is malformed ({error})") from error


@lru_cache(maxsize=512)
def number_of(operations: Operations) -> int:
    """Return the number of the space group, 0 where the axes are none of those that gemmi's table knows."""
    group = gemmi.find_spacegroup_by_ops(
        gemmi.GroupOps(
            [
                _operation(rotation, translation)
                for rotation, translation in zip(operations.rotations, operations.translations, strict=True)
            ]
        )
    )
    return int(group.number) if group else 0


def _operation(rotation: NDArray[np.int64], translation: NDArray[np.int64]) -> gemmi.Op:
    operation = gemmi.Op("x,y,z")
    operation.rot = (rotation * gemmi.Op.DEN).tolist()
    operation.tran = translation.tolist()
    return operation


def _group(operations: list[gemmi.Op]) -> Operations:
    rotations = np.array([operation.rot for operation in operations], dtype=np.int64)
    if (rotations % gemmi.Op.DEN).any() or np.abs(rotations).max() > 4 * gemmi.Op.DEN:
        raise CifError("the symmetry operations are no group: one of them is no rotation of a lattice")
    rotations //= gemmi.Op.DEN
    translations = np.array([operation.tran for operation in operations], dtype=np.int64) % gemmi.Op.DEN
    keys, first = np.unique(_keys(rotations, translations), return_index=True)
    if len(first) > MAX_OPERATIONS:
        raise CifError(f"the file lists {len(first)} symmetry operations, expected at most {MAX_OPERATIONS}")
    order = np.sort(first)
    rotations, translations = rotations[order], translations[order]
    products = _keys(
        np.einsum("aij,bjk->abik", rotations, rotations),
        (np.einsum("aij,bj->abi", rotations, translations) + translations[:, None]) % gemmi.Op.DEN,
    )
    place = np.minimum(np.searchsorted(keys, products), len(keys) - 1)
    if not (keys[place] == products).all():
        raise CifError("the symmetry operations are no group: some are missing or wrong")
    return Operations(rotations, translations, np.searchsorted(order, first)[place])


def _keys(rotations: NDArray[np.int64], translations: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number for each operation."""
    digits = np.clip(rotations.reshape(*rotations.shape[:-2], 9), -5, 5) + 5
    key = np.zeros(digits.shape[:-1], dtype=np.int64)
    for column in np.moveaxis(digits, -1, 0):
        key = key * 11 + column
    for column in np.moveaxis(translations, -1, 0):
        key = key * gemmi.Op.DEN + column
    return key
