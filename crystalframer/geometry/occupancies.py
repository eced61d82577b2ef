"""Disorder: sites shared by several elements, or partly empty."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalframer.errors import UserError

MAX_OCCUPANCY = 1.02
"""Largest total occupancy of a site that counts as rounding (0.333 + 0.333 + 0.335) and is scaled down to 1."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """The occupancies of the disordered sites of a crystal, or of many: M entries (site, element, weight).

    A site that is listed enters the model as one atom whose element vector is the sum of the vectors of its elements,
    each times its occupancy; what is missing to 1 is vacancy and contributes nothing. A site that is not listed is
    ordered: one element, occupancy 1.
    """

    sites: NDArray[np.int64]
    """(M,) index of the atom, ascending."""
    elements: NDArray[np.int64]
    """(M,) atomic number; ascending and unique within a site."""
    weights: NDArray[np.float64]
    """(M,) occupancy, above 0 and at most 1, also summed over a site."""

    def __post_init__(self) -> None:
        for name, dtype in (("sites", np.int64), ("elements", np.int64), ("weights", np.float64)):
            array = np.asarray(getattr(self, name), dtype=dtype).view()
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    def problem(self, num_atoms: int, num_elements: int) -> str:
        """Return what is wrong with it for so many atoms and elements, or an empty string."""
        if (
            not self.sites.shape == self.elements.shape == self.weights.shape == (len(self.sites),)
            or not self.sites.size
        ):
            return "occupancies need equally many sites, elements and weights, at least one"
        if self.sites.min() < 0 or self.sites.max() >= num_atoms:
            return f"an occupancy names a site outside 0 to {num_atoms - 1}"
        if self.elements.min() < 1 or self.elements.max() > num_elements:
            return f"an occupancy names an atomic number outside 1 to {num_elements}"
        keys = self.sites * (num_elements + 1) + self.elements
        if (np.diff(keys) <= 0).any():
            return "occupancies are not sorted by site and element, or name an element twice"
        if not (np.isfinite(self.weights).all() and (self.weights > 0).all()):
            return "an occupancy is not a finite number above 0"
        totals = np.bincount(self.sites, self.weights)
        if totals.max() > 1 + 1e-9:
            return f"site {int(totals.argmax())} has a total occupancy of {totals.max():.4g}, expected at most 1"
        return ""

    def part(self, start: int, stop: int) -> "Mixture | None":
        """Return the occupancies of sites start to stop, counted from start, or None where all of them are ordered."""
        first, last = np.searchsorted(self.sites, (start, stop))
        if first == last:
            return None
        return Mixture(self.sites[first:last] - start, self.elements[first:last], self.weights[first:last])

    @classmethod
    def concatenate(cls, mixtures: "Sequence[Mixture | None]", num_atoms: ArrayLike) -> "Mixture | None":
        """Return the occupancies of crystals laid end to end, of so many atoms each, or None where all are ordered."""
        sizes = np.asarray(num_atoms, dtype=np.int64)
        present = [
            (part, first) for part, first in zip(mixtures, np.cumsum(sizes) - sizes, strict=True) if part is not None
        ]
        if not present:
            return None
        return cls(
            np.concatenate([part.sites + first for part, first in present]),
            np.concatenate([part.elements for part, _ in present]),
            np.concatenate([part.weights for part, _ in present]),
        )

    def dense(self, atomic_numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the elements and occupancies of all atoms, (N, P) each, with P the most elements on one site.

        An ordered atom has its element with occupancy 1 first; unused places repeat it with occupancy 0.
        """
        place = np.arange(len(self.sites)) - np.searchsorted(self.sites, self.sites)
        species = np.repeat(atomic_numbers[:, None], int(place.max()) + 1, axis=1)
        occupancies = np.zeros(species.shape)
        occupancies[:, 0] = 1.0
        species[self.sites, place] = self.elements
        occupancies[self.sites, place] = self.weights
        return species, occupancies


def occupied_sites(
    sites: ArrayLike, elements: ArrayLike, occupancies: ArrayLike
) -> tuple[NDArray[np.int64], "Mixture | None"]:
    """Turn a list of (site, element, occupancy) into one main element per site and what is disordered.

    Args:
        sites: (K,) site of each entry; every site from 0 to the last one occurs, in any order.
        elements: (K,) atomic numbers; one that occurs twice on a site counts with the sum.
        occupancies: (K,) from 0 to 1.

    Returns:
        (N,) the element of largest occupancy on each site (the lightest of equals), and the mixture, None where every
        site holds one element with occupancy 1.

    Raises:
        UserError: an occupancy that is no number from 0 to 1, an empty site, or a total above `MAX_OCCUPANCY`.
    """
    weights = np.array(occupancies, dtype=np.float64)
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise UserError("an occupancy is not a number of at least 0")
    keys, position = np.unique(
        np.array(sites, dtype=np.int64) * 1000 + np.array(elements, dtype=np.int64), return_inverse=True
    )
    summed: NDArray[np.float64] = np.bincount(position, weights, minlength=len(keys)).astype(np.float64)
    keys, summed = keys[summed > 0], summed[summed > 0]
    site, element = np.divmod(keys, 1000)
    num_sites = int(np.max(sites)) + 1
    totals = np.bincount(site, summed, minlength=num_sites)
    if (totals == 0).any():
        raise UserError(f"site {int(totals.argmin())} has an occupancy of 0")
    if totals.max() > MAX_OCCUPANCY:
        raise UserError(f"site {int(totals.argmax())} has a total occupancy of {totals.max():.4g}, expected at most 1")
    summed = summed / np.maximum(totals, 1.0)[site]
    order = np.lexsort((element, -summed, site))
    _, first = np.unique(site[order], return_index=True)
    numbers = element[order][first]
    disordered = (np.bincount(site, minlength=num_sites) > 1) | (totals < 1 - 1e-9)
    listed = disordered[site]
    if not listed.any():
        return numbers, None
    return numbers, Mixture(site[listed], element[listed], summed[listed])
