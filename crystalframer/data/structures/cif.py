"""Crystals from CIF files: strict where guessing would change the crystal, lenient where it would not.

Parsing is gemmi's. The symmetry operations are expanded here, bounded before anything is allocated, and the result is
compared with the formula and the cell volume that the file itself states.
"""

import math
import re
from collections.abc import Iterator
from functools import lru_cache

import gemmi
import numpy as np
from numpy.typing import NDArray

from crystalframer.errors import UserError
from crystalframer.geometry.crystal import ELEMENTS, Crystal
from crystalframer.geometry.occupancies import occupied_sites

SAME_SITE = 0.05
"""Atoms nearer than this, in Å, are one site: images of a special position, or elements that share it."""
VOLUME_TOLERANCE = 0.02
"""Relative deviation of the cell's volume from the one that the file states."""
SNAP = 1e-4
"""Coordinates within this of a multiple of 1/6 are rounded to it, so that symmetry maps special positions on itself."""

NUMBER_OF = {symbol: number for number, symbol in enumerate(ELEMENTS, start=1)} | {"D": 1, "T": 1}
"""Atomic number by symbol, deuterium and tritium included."""

_OPERATIONS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz", "_space_group_symop.operation_xyz")
_UNREADABLE = (
    "_space_group_symop_magn_operation.xyz",
    "_space_group_symop_magn_operation_xyz",
    "_space_group_magn.number_bns",
    "_cell_modulation_dimension",
    "_cell_wave_vector_seq_id",
)
_NAMES = (
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_hall",
    "_space_group_name_hall",
)
_NUMBERS = ("_symmetry_int_tables_number", "_space_group_it_number")
_FORMULA = re.compile(r"([A-Z][a-z]?)\s*([0-9]*\.?[0-9]*)")

Operations = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Rotations (n, 3, 3) and translations (n, 3), in units of 1/24."""


class CifError(UserError):
    """A CIF block that does not say which crystal it means."""


def read_cif(text: str, max_sites: int, max_listed: int | None = None) -> Iterator[tuple[str, Crystal | str]]:
    """Yield (name, crystal or reason) of each block that holds atoms; a block without others needs no name.

    Args:
        text: the CIF.
        max_sites: atoms that symmetry operations may make of the listed ones.
        max_listed: atoms that a block may list; None: as many.

    Raises:
        CifError: the text is no CIF, or no block holds atoms.
    """
    try:
        document = gemmi.cif.read_string(text)
    except (ValueError, RuntimeError) as error:
        place = re.sub(r"^string:(\d+)\S*", r"line \1:", str(error))
        raise CifError(f"the CIF is malformed ({place})") from error
    blocks = [block for block in document if block.find_values("_atom_site_fract_x")]
    if not blocks:
        raise CifError("the CIF has no block with atoms (_atom_site_fract_x)")
    for block in blocks:
        name = block.name if len(blocks) > 1 else ""
        listed = len(block.find_values("_atom_site_fract_x"))
        if max_listed is not None and listed > max_listed:
            yield name, f"the CIF lists {listed} sites, expected at most {max_listed}"
            continue
        try:
            with np.errstate(all="raise", under="ignore"):
                result: Crystal | str = _crystal(block, max_sites)
        except (ValueError, RuntimeError, ArithmeticError) as error:
            result = str(error)
        yield name, result


def element_of(symbol: str, is_label: bool = False) -> int:
    """Return the atomic number of a type symbol, ``Fe``, ``Fe3+``, ``O2-``, or of an atom's label, ``Na1``, ``H1A``.

    A type symbol is an element and its charge; ``OH`` or ``Wat`` would hide hydrogens. Labels are read as far as they
    name an element, two letters before one.

    Raises:
        CifError: it does not begin with an element.
    """
    match = re.match(r"\s*([A-Za-z]+)", symbol)
    letters = match.group(1) if match else ""
    if letters.capitalize() in NUMBER_OF:
        return NUMBER_OF[letters.capitalize()]
    if is_label and 2 <= len(letters) <= 3:
        if letters[1].islower() and letters[:2].capitalize() in NUMBER_OF:
            return NUMBER_OF[letters[:2].capitalize()]
        if not letters[1:].islower() and letters[0].upper() in NUMBER_OF:
            return NUMBER_OF[letters[0].upper()]
    raise CifError(f"{symbol[:20]!r} is not an element")


def _crystal(block: gemmi.cif.Block, max_sites: int) -> Crystal:
    foreign = next((tag for tag in _UNREADABLE if block.find_values(tag) or block.find_value(tag)), None)
    if foreign is not None:
        raise CifError(f"magnetic and modulated structures are not read ({foreign})")
    lattice = _lattice(block)
    frac_coords, numbers, occupancies = _sites(block)
    rotations, translations = _operations(block)
    count = len(numbers) * len(rotations)
    if count > max_sites:
        raise CifError(
            f"{len(numbers)} sites times {len(rotations)} symmetry operations are {count} atoms, "
            f"expected at most {max_sites}"
        )
    if len(rotations) > 1:
        sixths = np.round(frac_coords * 6) / 6
        frac_coords = np.where(np.abs(frac_coords - sixths) < SNAP, sixths, frac_coords)
        images = [_images(lattice, site, rotations, translations) for site in frac_coords]
        sizes = [len(image) for image in images]
        frac_coords, numbers, occupancies = np.concatenate(images), numbers.repeat(sizes), occupancies.repeat(sizes)
    site, frac_coords = _shared_sites(lattice, frac_coords, occupancies)
    _check_formula(block, numbers, occupancies)
    atomic_numbers, mixture = occupied_sites(site, numbers, occupancies)
    return Crystal(lattice, frac_coords, atomic_numbers, mixture=mixture)


def _lattice(block: gemmi.cif.Block) -> NDArray[np.float64]:
    names = [f"_cell_length_{axis}" for axis in "abc"] + [
        f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma")
    ]
    values = [_number(block.find_value(name), name) for name in names]
    if not all(0 < length < 1e4 for length in values[:3]) or not all(0 < angle < 180 for angle in values[3:]):
        raise CifError(f"the cell is {values}, expected three lengths in Å and three angles below 180°")
    lattice = np.array(gemmi.UnitCell(*values).orth.mat.tolist()).T
    if not np.isfinite(lattice).all():
        raise CifError(f"the cell's angles {values[3:]} do not close a cell")
    volume = float(np.linalg.det(lattice))
    stated = gemmi.cif.as_number(block.find_value("_cell_volume") or "?")
    if math.isfinite(stated) and abs(volume - stated) > VOLUME_TOLERANCE * abs(stated):
        raise CifError(
            f"the cell's volume is {volume:.6g} Å³, but the file states {stated:.6g} Å³: one of them is wrong"
        )
    return np.ascontiguousarray(lattice)


def _sites(block: gemmi.cif.Block) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Return coordinates, atomic numbers and occupancies of the listed sites."""
    columns = [list(block.find_values(f"_atom_site_fract_{axis}")) for axis in "xyz"]
    types = list(block.find_values("_atom_site_type_symbol"))
    symbols = types or list(block.find_values("_atom_site_label"))
    occupancy = list(block.find_values("_atom_site_occupancy")) or ["1"] * len(symbols)
    flags = list(block.find_values("_atom_site_calc_flag")) or ["."] * len(symbols)
    if len({len(column) for column in (*columns, symbols, occupancy, flags)}) != 1:
        raise CifError("the atoms' columns (type_symbol or label, fract_x, fract_y, fract_z) are missing or unequal")
    rows = [row for row in zip(*columns, symbols, occupancy, flags, strict=True) if row[5] != "dum"]
    if not rows:
        raise CifError("the CIF lists no atoms")
    coords = np.array([[_number(value, "a fractional coordinate") for value in row[:3]] for row in rows])
    if np.abs(coords).max() > 1e4:
        raise CifError(f"a fractional coordinate is {np.abs(coords).max():.3g}")
    numbers = np.array([element_of(gemmi.cif.as_string(row[3]), not types) for row in rows], dtype=np.int64)
    if any(gemmi.cif.as_number(value) > 0 for value in block.find_values("_atom_site_attached_hydrogens")):
        raise CifError("atoms have attached hydrogens without positions")
    return coords, numbers, np.array([_occupancy(row[4]) for row in rows])


def _occupancy(value: str) -> float:
    occupancy = 1.0 if gemmi.cif.is_null(value) else _number(value, "_atom_site_occupancy")
    if not 0 <= occupancy <= 1.02:
        raise CifError(f"an occupancy is {occupancy:g}, expected 0 to 1")
    return min(occupancy, 1.0)


def _number(value: str | None, what: str) -> float:
    number = gemmi.cif.as_number(value) if value else math.nan
    if not math.isfinite(number):
        raise CifError(f"{what} is {'missing' if value is None else repr(value[:20])}, expected a number")
    return float(number)


def _operations(block: gemmi.cif.Block) -> Operations:
    """Return the symmetry operations as listed, else those of the space group; P 1 where neither is given."""
    for tag in _OPERATIONS:
        listed = [gemmi.cif.as_string(value) for value in block.find_values(tag)]
        single = block.find_value(tag)
        if listed or single:
            return _parse_operations(tuple(listed or [gemmi.cif.as_string(single)]))
    given = [value for tag in (*_NAMES, *_NUMBERS) if (value := block.find_value(tag)) and not gemmi.cif.is_null(value)]
    if not given:
        return _parse_operations(("x,y,z",))
    names = [gemmi.cif.as_string(value) for tag in _NAMES if (value := block.find_value(tag))]
    angles = [_number(block.find_value(f"_cell_angle_{angle}"), "a cell angle") for angle in ("alpha", "gamma")]
    return _group_operations(tuple(names), tuple(angles), gemmi.cif.as_string(given[-1]))


@lru_cache(maxsize=512)
def _group_operations(names: tuple[str, ...], angles: tuple[float, float], number: str) -> Operations:
    """Look a space group up by its names, then by its number.

    A group with two choices of origin is refused unless the name says which: both are in use, and give two crystals.
    """
    group = None
    for name in names:
        group = group or gemmi.find_spacegroup_by_name(name, *angles)
    if group is None and not names and number.isdecimal() and 1 <= int(number) <= 230:
        group = gemmi.find_spacegroup_by_number(int(number))
    if group is None:
        raise CifError(f"the file lists no symmetry operations, and its space group {names or number} is not known")
    if group.ext in ("1", "2") and not any(":" in name or name.strip() == group.hall for name in names):
        raise CifError(
            f"the file lists no symmetry operations, and its space group {group.hm} has two origins: "
            "write the operations into the file"
        )
    return _parse_operations(tuple(op.triplet() for op in group.operations()))


@lru_cache(maxsize=512)
def _parse_operations(triplets: tuple[str, ...]) -> Operations:
    """Parse operations such as ``-y, x-y, z+1/3`` and check that they form a group."""
    if len(triplets) > 192:
        raise CifError(f"the file lists {len(triplets)} symmetry operations, expected at most 192")
    try:
        operations = [gemmi.Op(triplet) for triplet in triplets]
    except RuntimeError as error:
        raise CifError(f"a symmetry operation is malformed ({error})") from error
    rotations = np.array([operation.rot for operation in operations], dtype=np.int64) // gemmi.Op.DEN
    translations = np.array([operation.tran for operation in operations], dtype=np.int64) % gemmi.Op.DEN
    products = np.concatenate(
        [
            np.einsum("aij,bjk->abik", rotations, rotations).reshape(-1, 9),
            (np.einsum("aij,bj->abi", rotations, translations) + translations[:, None]).reshape(-1, 3) % gemmi.Op.DEN,
        ],
        axis=1,
    )
    own = np.concatenate([rotations.reshape(-1, 9), translations], axis=1)
    known = {row.tobytes() for row in own}
    if len(known) != len(own) or not {row.tobytes() for row in products} <= known:
        raise CifError("the symmetry operations are no group: some are missing, wrong or listed twice")
    return rotations, translations


def _images(
    lattice: NDArray[np.float64],
    site: NDArray[np.float64],
    rotations: NDArray[np.int64],
    translations: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return the symmetric images of a site; those within `SAME_SITE` are replaced by their mean."""
    images = rotations @ site + translations / gemmi.Op.DEN
    offset = images[None] - images[:, None]
    offset -= np.round(offset)
    near = np.einsum("abi,ij->abj", offset, lattice)
    same = np.einsum("abj,abj->ab", near, near) < SAME_SITE**2
    first = same.argmax(axis=1) == np.arange(len(images))
    means = images + (offset * same[..., None]).sum(axis=1) / same.sum(axis=1)[:, None]
    return means[first]


def _shared_sites(
    lattice: NDArray[np.float64], frac_coords: NDArray[np.float64], occupancies: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the site of each atom, and each site's coordinates: partly occupied atoms within `SAME_SITE` share one."""
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
        for i, j in tree.query_pairs(radius, p=np.inf):
            offset = wrapped[j] - wrapped[i]
            if np.linalg.norm((offset - np.round(offset)) @ lattice) < SAME_SITE:
                low, high = sorted((owner[partial[i]], owner[partial[j]]))
                owner[owner == high] = low
    kept, site = np.unique(owner, return_inverse=True)
    return site, frac_coords[kept]


def _check_formula(block: gemmi.cif.Block, numbers: NDArray[np.int64], occupancies: NDArray[np.float64]) -> None:
    """Compare the sites with the formula that the file states: lost atoms, left-out hydrogens, a wrong symmetry."""
    text = gemmi.cif.as_string(block.find_value("_chemical_formula_sum") or "?")
    stated: dict[int, float] = {}
    for symbol, amount in _FORMULA.findall(text):
        if symbol not in NUMBER_OF or amount == ".":
            return
        number = NUMBER_OF[symbol]
        stated[number] = stated.get(number, 0.0) + float(amount or 1)
    if not stated or sum(stated.values()) <= 0:
        return
    found = {int(number): float(occupancies[numbers == number].sum()) for number in np.unique(numbers)}
    scale = sum(stated.values()) / sum(found.values()) if sum(found.values()) > 0 else 0.0
    tolerance = 0.002 if (occupancies == 1).all() else 0.03
    for number in stated.keys() | found.keys():
        wanted, got = stated.get(number, 0.0), found.get(number, 0.0) * scale
        if abs(wanted - got) > tolerance * max(wanted, got) + 0.5 * tolerance:
            raise CifError(
                f"the file's formula is {text!r}, but its sites and symmetry give a different share of "
                f"{ELEMENTS[number - 1]}"
            )
