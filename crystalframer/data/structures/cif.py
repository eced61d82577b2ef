"""Crystals from CIF files: strict where guessing would change the crystal, lenient where it would not.

Parsing is gemmi's. The symmetry operations are expanded here, bounded before anything is allocated, and the result is
compared with whatever else the file states.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import replace

import gemmi
import numpy as np
from numpy.typing import NDArray

from crystalframer.data.structures.cif_block import Block, CifError, blocks_of
from crystalframer.data.structures.cif_statements import (
    check_amount,
    check_formula,
    check_multiplicities,
    stated_formula,
)
from crystalframer.data.structures.elements import elements_of_sites
from crystalframer.data.structures.reading import Reading
from crystalframer.data.structures.space_groups import require_ordinary, states_symmetry, symmetry_of
from crystalframer.data.structures.symmetry import SAME_SITE
from crystalframer.geometry.crystal import Crystal
from crystalframer.geometry.occupancies import occupied_sites

VOLUME_TOLERANCE = 0.02
"""Relative deviation of the cell's volume from the one that the file states."""
_COORDINATES = ("_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z")


def read_cif(text: str, max_sites: int, max_listed: int | None = None) -> Iterator[Reading]:
    """Yield a reading of each block that holds atoms, by its name where there are several.

    Args:
        text: the CIF.
        max_sites: atoms that symmetry operations may make of the listed ones.
        max_listed: atoms that a block may list; None: as many.

    Raises:
        CifError: the text is no CIF, or no block holds atoms.
    """
    blocks = blocks_of(text)
    with_atoms = [block for block in blocks if _COORDINATES[0] in block]
    if not with_atoms:
        raise CifError("the CIF has no block with atoms (_atom_site_fract_x)")
    elsewhere = next((block.name for block in blocks if block not in with_atoms and states_symmetry(block)), None)
    for block in with_atoms:
        name = block.name if len(with_atoms) > 1 else ""
        try:
            listed = len(block.raw(_COORDINATES[0]))
            if max_listed is not None and listed > max_listed:
                raise CifError(f"the CIF lists {listed} sites, expected at most {max_listed}")
            if elsewhere is not None and not states_symmetry(block):
                raise CifError(f"the block states no symmetry, but the block {elsewhere!r}, which has no atoms, does")
            with np.errstate(all="raise", under="ignore"):
                reading = _read_block(block, max_sites)
        except (ValueError, RuntimeError, ArithmeticError) as error:
            reading = Reading(reason=str(error))
        yield replace(reading, name=name)


def _read_block(block: Block, max_sites: int) -> Reading:
    require_ordinary(block)
    lattice = _lattice(block)
    sites = _Sites(block)
    symmetry = symmetry_of(block, lattice)
    operations = symmetry.operations
    count = len(sites.numbers) * len(operations)
    if count > max_sites:
        raise CifError(
            f"{len(sites.numbers)} sites times {len(operations)} symmetry operations are {count} atoms, "
            f"expected at most {max_sites}"
        )
    coords, counts = operations.images(lattice, sites.coords)
    check_multiplicities(block, sites.rows, sites.labels, counts, len(operations))
    numbers, occupancies = sites.numbers.repeat(counts), sites.occupancies.repeat(counts)
    check_formula(block, numbers, occupancies)
    volume = float(np.linalg.det(lattice))
    doubts = check_amount(block, numbers, occupancies, volume, symmetry.established)
    site, coords = _shared_sites(lattice, coords, occupancies)
    atomic_numbers, mixture = occupied_sites(site, numbers, occupancies)
    return Reading(
        crystal=Crystal(lattice, coords, atomic_numbers, mixture=mixture),
        warnings=(*sites.warnings, *symmetry.warnings, *doubts),
        established={"symmetry": symmetry.established, **sites.established},
    )


def _lattice(block: Block) -> NDArray[np.float64]:
    names = [f"_cell_length_{axis}" for axis in "abc"] + [
        f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma")
    ]
    values = [_number(next(iter(block.raw(name)), None), name) for name in names]
    if not all(0 < length < 1e4 for length in values[:3]) or not all(0 < angle < 180 for angle in values[3:]):
        raise CifError(f"the cell is {values}, expected three lengths in Å and three angles below 180°")
    lattice = np.array(gemmi.UnitCell(*values).orth.mat.tolist()).T
    if not np.isfinite(lattice).all():
        raise CifError(f"the cell's angles {values[3:]} do not close a cell")
    volume = float(np.linalg.det(lattice))
    stated = block.number("_cell_volume")
    if stated > 0 and abs(volume - stated) > VOLUME_TOLERANCE * stated:
        raise CifError(
            f"the cell's volume is {volume:.6g} Å³, but the file states {stated:.6g} Å³: one of them is wrong"
        )
    return np.ascontiguousarray(lattice)


class _Sites:
    """The sites that a block lists and that hold atoms: coordinates, elements, occupancies, and what is doubtful."""

    def __init__(self, block: Block) -> None:
        columns = [block.raw(tag) for tag in _COORDINATES]
        count = len(columns[0])
        types, labels = block.texts("_atom_site_type_symbol"), block.texts("_atom_site_label")
        if all(text in ("?", ".") for text in types):
            types = []
        given = block.raw("_atom_site_occupancy")
        flags = block.texts("_atom_site_calc_flag") or ["."] * count
        lengths = {len(column) for column in (*columns, types or labels, given or flags, flags)}
        if lengths != {count}:
            raise CifError(
                "the atoms' columns (type_symbol or label, fract_x, fract_y, fract_z) are missing or unequal"
            )
        if any(gemmi.cif.as_number(value) > 0 for value in block.raw("_atom_site_attached_hydrogens")):
            raise CifError("atoms have attached hydrogens without positions")
        labels = labels if len(labels) == count else []
        self.warnings: list[str] = []
        occupancies = [_occupancy(value) for value in given] if given else [1.0] * count
        self.rows = [row for row in range(count) if flags[row] != "dum" and occupancies[row] > 0]
        self._drop_repeated(columns, types, labels, occupancies)
        self._require_one_alternative(block, occupancies)
        if not self.rows:
            raise CifError("the CIF lists no atoms")
        if any(column[row].strip() == "." for column in columns for row in self.rows):
            self.warnings.append("a coordinate is given as '.', which is read as 0")
        self.coords = np.array([[_coordinate(column[row]) for column in columns] for row in self.rows])
        if np.abs(self.coords).max() > 1e4:
            raise CifError(f"a fractional coordinate is {np.abs(self.coords).max():.3g}")
        self.occupancies = np.array([occupancies[row] for row in self.rows])
        numbers, doubts = elements_of_sites(
            [types[row] for row in self.rows] if types else [],
            [labels[row] for row in self.rows] if labels else [],
            stated_formula(block)[1],
            (self.occupancies < 1).tolist(),
        )
        self.numbers = np.array(numbers, dtype=np.int64)
        self.labels = [(labels or types)[row] for row in self.rows]
        self.warnings += doubts
        self.established = {
            "elements": "type symbols" if types else "labels",
            "occupancies": "as listed" if given else "1, as none is listed",
        }

    def _require_one_alternative(self, block: Block, occupancies: list[float]) -> None:
        """Raise a `CifError` where atoms that stand for each other, groups of one disorder assembly, are all there."""
        groups, assemblies = (block.texts(f"_atom_site_disorder_{what}") for what in ("group", "assembly"))
        if len(groups) != len(occupancies):
            return
        full: dict[str, str] = {}
        for row in self.rows:
            group, assembly = groups[row], assemblies[row] if len(assemblies) == len(groups) else "."
            if group in (".", "?", "0", "") or occupancies[row] < 1:
                continue
            other = full.setdefault(assembly, group)
            if other != group:
                within = "" if assembly in (".", "?", "") else f" of assembly {assembly[:20]!r}"
                raise CifError(
                    f"disorder groups {other[:20]!r} and {group[:20]!r}{within} are alternatives, but atoms of both "
                    "have occupancy 1: state _atom_site_occupancy, or keep one group"
                )

    def _drop_repeated(
        self, columns: list[list[str]], types: list[str], labels: list[str], occupancies: list[float]
    ) -> None:
        """Leave out rows that say the same as an earlier one, label included."""
        if not labels:
            return
        seen: set[tuple[object, ...]] = set()
        kept = []
        for row in self.rows:
            key = (labels[row], types[row] if types else "", occupancies[row], *(column[row] for column in columns))
            if key not in seen:
                kept.append(row)
            elif kept and len(self.warnings) == 0:
                self.warnings.append(f"the site {labels[row][:20]!r} is listed twice, and counts once")
            seen.add(key)
        self.rows = kept


def _occupancy(value: str) -> float:
    occupancy = 1.0 if gemmi.cif.is_null(value) else _rational(value, "_atom_site_occupancy")
    if not 0 <= occupancy <= 1.02:
        raise CifError(f"an occupancy is {occupancy:g}, expected 0 to 1")
    return min(occupancy, 1.0)


def _coordinate(value: str) -> float:
    """Return a coordinate; ``.`` is the default, 0."""
    return 0.0 if value.strip() == "." else _rational(value, "a fractional coordinate")


def _rational(value: str, what: str) -> float:
    """Return a number; a fraction such as 1/3 is divided."""
    fraction = re.fullmatch(r"\s*'?\s*(-?\d+)\s*/\s*(\d+)\s*'?\s*", value)
    if fraction is not None and int(fraction.group(2)):
        return int(fraction.group(1)) / int(fraction.group(2))
    return _number(value, what)


def _number(value: str | None, what: str) -> float:
    number = gemmi.cif.as_number(gemmi.cif.as_string(value)) if value else math.nan
    if not math.isfinite(number):
        raise CifError(f"{what} is {'missing' if value is None else repr(value[:20])}, expected a number")
    return float(number)


def _shared_sites(
    lattice: NDArray[np.float64], frac_coords: NDArray[np.float64], occupancies: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the site of each atom, and each site's coordinates: partly occupied atoms within `SAME_SITE` share one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    count = len(frac_coords)
    partial = np.flatnonzero(occupancies < 1)
    owner = np.arange(count)
    if len(partial) > 1:
        heights = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
        wrapped = frac_coords[partial] - np.floor(frac_coords[partial])
        wrapped[wrapped >= 1] = 0.0
        radius = min(SAME_SITE / heights.min(), 0.49)
        tree = cKDTree(wrapped, boxsize=1.0)
        if tree.count_neighbors(tree, radius, p=np.inf) > 100 * len(partial):
            raise CifError("the partly occupied sites crowd upon one another")
        first, second = tree.query_pairs(radius, p=np.inf, output_type="ndarray").T
        offset = wrapped[second] - wrapped[first]
        near = np.linalg.norm((offset - np.round(offset)) @ lattice, axis=1) < SAME_SITE
        links = coo_array((np.ones(near.sum()), (first[near], second[near])), shape=(len(partial), len(partial)))
        group = connected_components(links, directed=False)[1]
        owner[partial] = partial[np.unique(group, return_index=True)[1][group]]
    kept, site = np.unique(owner, return_inverse=True)
    return site, frac_coords[kept]
