"""Is it a crystal that can exist, and is it one we have already? Checks on what users bring."""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from math import gcd

import numpy as np

from crystalframer.data.structures.formats import MIN_VOLUME_PER_ATOM
from crystalframer.geometry.crystal import ELEMENTS, Crystal, close_pair
from crystalframer.geometry.lattice_frame import shortest_independent_vectors

MIN_SEPARATION = 0.5
"""Atoms nearer than this, in Å, overlap; the shortest bond there is, in H₂, has 0.74 Å."""
MAX_VOLUME_PER_ATOM = 2000.0
"""Å³; more is a cell in other units, or an atom alone in a box."""
LENGTH_TOLERANCE = 0.01
"""Relative difference of lattice vectors up to which two crystals can be the same."""
SITE_TOLERANCE = 0.02
"""Root mean square distance of sites, in units of (V/N)^⅓, up to which two crystals are the same: about 0.05 Å."""
ANGLE_TOLERANCE = 0.5
"""Difference of cell angles, in degrees, up to which two crystals can be the same."""


def why_unphysical(crystal: Crystal) -> str:
    """Return why a crystal cannot exist, or an empty string."""
    volume = crystal.volume / crystal.num_atoms
    if not MIN_VOLUME_PER_ATOM <= volume <= MAX_VOLUME_PER_ATOM:
        return (
            f"the cell has {volume:.3g} Å³ per atom, expected {MIN_VOLUME_PER_ATOM:g} to {MAX_VOLUME_PER_ATOM:g}: "
            "check the unit of the lattice (Å)"
        )
    pair = close_pair(crystal.lattice, crystal.frac_coords, MIN_SEPARATION)
    if pair is None:
        return ""
    i, j, distance = pair
    names = [f"{ELEMENTS[crystal.atomic_numbers[k] - 1]} (number {k})" for k in (i, j)]
    return f"atoms {names[0]} and {names[1]} overlap: {distance:.3g} Å apart, expected at least {MIN_SEPARATION} Å"


def composition(crystal: Crystal) -> tuple[tuple[int, float], ...]:
    """Return (atomic number, amount in the cell) pairs, occupancies counted."""
    return tuple((number, round(amount, 4)) for number, amount in enumerate(crystal.amounts.tolist(), 1) if amount)


def reduced_formula(crystal: Crystal) -> str:
    """Return the formula divided by the greatest common divisor of its amounts, elements by atomic number."""
    amounts = composition(crystal)
    divisor = 0
    for _, amount in amounts:
        divisor = gcd(divisor, round(amount * 10_000))
    return "".join(f"{ELEMENTS[number - 1]}{round(amount * 10_000) / divisor:g}" for number, amount in amounts)


def find_duplicates(crystals: Sequence[Crystal]) -> dict[int, int]:
    """Return, for each crystal that repeats an earlier one, the position of that one.

    The same crystal has the same composition and number of atoms, shortest lattice vectors within `LENGTH_TOLERANCE`,
    and sites within `SITE_TOLERANCE` after the best mapping that pymatgen's StructureMatcher finds, whatever the
    rotation, reflection, origin and choice of cell. A supercell is another crystal.
    """
    groups: defaultdict[tuple[int, tuple[tuple[int, float], ...]], list[int]] = defaultdict(list)
    for position, crystal in enumerate(crystals):
        groups[crystal.num_atoms, composition(crystal)].append(position)
    found: dict[int, int] = {}
    with warnings.catch_warnings():
        # pymatgen warns of elements without an electronegativity, which it uses to sort symbols.
        warnings.filterwarnings("ignore", "No Pauling electronegativity", UserWarning)
        for group in groups.values():
            if len(group) > 1:
                found |= _duplicates_within(crystals, group)
    return found


def _duplicates_within(crystals: Sequence[Crystal], group: Sequence[int]) -> dict[int, int]:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher(
        ltol=LENGTH_TOLERANCE,
        stol=SITE_TOLERANCE,
        angle_tol=ANGLE_TOLERANCE,
        primitive_cell=False,
        scale=False,
        attempt_supercell=False,
    )
    shapes = np.stack([_shape(crystals[position]) for position in group])
    found: dict[int, int] = {}
    kept: list[int] = []
    for place, position in enumerate(group):
        near = np.abs(shapes[kept] / shapes[place] - 1).max(axis=1) <= LENGTH_TOLERANCE if kept else np.zeros(0, bool)
        for earlier in np.array(kept, dtype=np.int64)[near]:
            if matcher.fit(crystals[group[earlier]].to_structure(), crystals[position].to_structure()):
                found[position] = group[earlier]
                break
        else:
            kept.append(place)
    return found


def _shape(crystal: Crystal) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return what does not depend on the choice of cell: three shortest lengths, and the volume's cube root."""
    lengths = np.sort(np.linalg.norm(shortest_independent_vectors(crystal.lattice), axis=1))
    return np.append(lengths, crystal.volume ** (1 / 3))
