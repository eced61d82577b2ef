"""Which symmetry a CIF states, by operations, names and numbers under whatever tag, and whether these agree."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import gemmi
import numpy as np
from numpy.typing import NDArray

from crystalframer.data.structures.cif_block import Block, CifError
from crystalframer.data.structures.group_names import (
    all_settings,
    groups_of_hall,
    groups_of_name,
    groups_of_number,
    operations_of,
    setting_in,
)
from crystalframer.data.structures.symmetry import (
    DISTORTED,
    DOUBTFUL,
    Operations,
    number_of,
    operations_of_hall,
    parse_operations,
)

IDENTITY = "x,y,z"
_UNREADABLE = re.compile(
    r"_space_group\w*_?(magn|ssg)|_space_group_symop_(magn|ssg)|_cell_(modulation|wave_vector|subsystem|commen)"
    r"|_atom_sites?_(displace|fourier|occ_fourier|occ_special|rot_fourier|rot_special|phason|legendre|moment)"
)
_SYMMETRY = re.compile(
    r"_(?!atom|geom|refln|diffrn|parent|publ|journal|audit|twin|restr)\w*(symmetry|space_?group|symop|cell_setting)|_sg_"
)
_NUMBER = re.compile(r"(it|int|tables|group|sg)_number")
_SILENT = re.compile(
    r"(_id|_sg_id|schoenflies|patterson|laue|wyckoff|point_group|generator|reference|transform\w*|bravais\w*)$"
)
"""Tags of symmetry that say nothing which would be needed beside operations, a name or a number."""
_SYSTEMS = ("triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "rhombohedral", "hexagonal", "cubic")


@dataclass
class _Stated:
    """What a block says about its symmetry; each entry is the tag and the text."""

    operations: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    halls: list[tuple[str, str]] = field(default_factory=list)
    names: list[tuple[str, str]] = field(default_factory=list)
    references: list[tuple[str, str]] = field(default_factory=list)
    """Names of the group in its standard setting, which need not be the setting of the file."""
    numbers: list[tuple[str, str]] = field(default_factory=list)
    system: tuple[str, str] | None = None
    code: str = ""
    """Choice of origin or axes, of `_space_group_IT_coordinate_system_code`."""
    unknown: str = ""

    @property
    def anything(self) -> bool:
        return bool(self.operations or self.halls or self.names or self.references or self.numbers)


@dataclass(frozen=True)
class Symmetry:
    """The operations of a block and how they were established."""

    operations: Operations
    established: str
    warnings: tuple[str, ...] = ()


def require_ordinary(block: Block) -> None:
    """Raise a `CifError` where a block describes a magnetic or modulated structure."""
    for tag in block.tags():
        if _UNREADABLE.match(tag) and block.stated(tag) != ["0"]:
            raise CifError(f"magnetic and modulated structures are not read ({tag})")


def states_symmetry(block: Block) -> bool:
    """Return whether a block says anything about a space group."""
    return _collect(block).anything


def symmetry_of(block: Block, lattice: NDArray[np.float64]) -> Symmetry:
    """Return the symmetry that a block states; P 1 where it states it, or nothing at all.

    Raises:
        CifError: statements contradict one another or the cell, or leave open which operations are meant.
    """
    stated = _collect(block)
    doubts: list[str] = []
    if stated.operations:
        operations, established = _listed(stated, doubts)
    elif stated.anything:
        operations, established = _named(stated, lattice, doubts)
    else:
        if stated.unknown:
            raise CifError(f"the symmetry stands under the tag {stated.unknown}, which is not known")
        operations, established = parse_operations((IDENTITY,)), "P 1, as nothing about symmetry is stated"
    _check_metric(operations, lattice, established, doubts)
    _check_system(stated, operations, lattice, doubts)
    return Symmetry(operations, established, tuple(doubts))


def _collect(block: Block) -> _Stated:
    found = _Stated()
    for tag in block.tags():
        if not _SYMMETRY.match(tag):
            continue
        values = block.stated(tag)
        if not values:
            continue
        if len(set(values)) > 1 and ("name" in tag or _NUMBER.search(tag)):
            raise CifError(f"the file's space group is {values[0][:40]!r}, but also {values[1][:40]!r} ({tag})")
        if "setting" in tag or "crystal_system" in tag or "lattice_system" in tag:
            found.system = (tag, values[0].lower())
        elif "coordinate_system_code" in tag:
            found.code = values[0].upper()
        elif "xyz" in tag or tag == "_symmetry_equiv_pos":
            found.operations.append((tag, tuple(values)))
        elif "hall" in tag:
            found.halls.append((tag, values[0]))
        elif _SILENT.search(tag):
            found.unknown = found.unknown or (tag if "schoenflies" in tag else "")
        elif _NUMBER.search(tag):
            found.numbers.append((tag, values[0]))
        elif "name" in tag or "h-m" in tag or tag.endswith(("space_group", "spacegroup")):
            (found.references if tag.endswith("_ref") else found.names).append((tag, values[0]))
        elif all(_is_operation(value) for value in values):
            found.operations.append((tag, tuple(values)))
        else:
            found.unknown = found.unknown or tag
    return found


def _is_operation(text: str) -> bool:
    try:
        gemmi.Op(text)
    except (RuntimeError, ValueError):
        return False
    return True


def _listed(stated: _Stated, doubts: list[str]) -> tuple[Operations, str]:
    """Return the operations that the block lists, once they agree with whatever else it says of the group."""
    (tag, triplets), *others = stated.operations
    operations = parse_operations(triplets)
    for other_tag, other in others:
        if _as_set(parse_operations(other)) != _as_set(operations):
            raise CifError(f"the symmetry operations of {tag} and of {other_tag} differ: one of them is wrong")
    number = number_of(operations)
    says = f"its {len(operations)} symmetry operation{'s are' if len(operations) > 1 else ' is'}"
    for _, text, groups in _groups_stated(stated):
        if not groups:
            doubts.append(f"the space group {text[:40]!r} is not known; the listed operations count")
        elif all(_differ(operations, number, group) for group in groups):
            raise CifError(
                f"the file's space group is {text[:40]!r} (number {groups[0].number}), but {says} those of "
                f"{f'number {number}' if number else 'another group'}: one of them is wrong"
            )
    return operations, f"{len(operations)} operations listed"


def _differ(operations: Operations, number: int, group: gemmi.SpaceGroup) -> bool:
    if number:
        return bool(number != group.number)
    return operations.kinds() != operations_of(group).kinds()


def _groups_stated(stated: _Stated) -> list[tuple[str, str, list[gemmi.SpaceGroup]]]:
    """Return each statement of a group with the groups of gemmi's table, in their settings, that it may mean."""
    found = [(tag, text, groups_of_hall(text)) for tag, text in stated.halls]
    found += [(tag, text, list(groups_of_name(text))) for tag, text in stated.names]
    found += [(tag, text, all_settings(list(groups_of_name(text)))) for tag, text in stated.references]
    return found + [(tag, text, groups_of_number(text)) for tag, text in stated.numbers]


def _named(stated: _Stated, lattice: NDArray[np.float64], doubts: list[str]) -> tuple[Operations, str]:
    """Return the operations of a group that is stated by name or number alone.

    A group with two choices of origin is refused unless its name says which: both are in use, and give two crystals.
    """
    known = [(tag, text, groups) for tag, text, groups in _groups_stated(stated) if groups]
    if not known and not stated.halls:
        text = (stated.names + stated.references + stated.numbers)[0][1]
        raise CifError(f"the file lists no symmetry operations, and its space group {text[:40]!r} is not known")
    for (_, first, groups), (_, second, others) in pairwise(known):
        if not {group.number for group in groups} & {group.number for group in others}:
            raise CifError(f"the file's space group is {first[:40]!r}, but it also is {second[:40]!r}")
    if stated.halls:
        text = stated.halls[0][1]
        return _hall(text, known, lattice, doubts), f"the Hall symbol {text!r}"
    exact = [(text, groups) for (tag, text, groups) in known if (tag, text) in stated.names]
    if exact:
        text, candidates = exact[0]
        for other, groups in exact[1:]:
            common = [group for group in candidates if group in groups]
            if not common:
                raise CifError(f"the file's space group is {text[:40]!r} and {other[:40]!r}, in other settings")
            candidates = common
    else:
        _, text, groups = known[0]
        standard = gemmi.find_spacegroup_by_number(groups[0].number)
        candidates = [group for group in groups if group.hm == standard.hm]
        if len({group.hm for group in groups}) > 1:
            if stated.names:
                raise CifError(
                    f"the file lists no symmetry operations, and its space group {stated.names[0][1][:40]!r} is not "
                    f"known; {text!r} alone leaves its axes open"
                )
            doubts.append(f"the space group is given as {text!r} alone: its standard setting {standard.hm} is taken")
    return _chosen(text, candidates, stated.code, lattice, doubts), f"the space group {text!r}"


def _hall(
    text: str,
    known: Sequence[tuple[str, str, list[gemmi.SpaceGroup]]],
    lattice: NDArray[np.float64],
    doubts: list[str],
) -> Operations:
    operations = operations_of_hall(" ".join(text.replace("_", " ").split()))
    number = number_of(operations)
    for _, other, groups in known:
        if all(_differ(operations, number, group) for group in groups):
            raise CifError(f"the file's Hall symbol is {text[:40]!r}, but its space group {other[:40]!r}")
    if operations.distortion(lattice) > DISTORTED and number:
        group = gemmi.find_spacegroup_by_number(number)
        if group.ext in ("H", "R"):
            return _chosen(text, all_settings([group]), "", lattice, doubts)
    return operations


def _chosen(
    text: str, candidates: list[gemmi.SpaceGroup], code: str, lattice: NDArray[np.float64], doubts: list[str]
) -> Operations:
    """Return the operations of the one candidate that fits: rhombohedral axes by the cell, an origin by the name."""
    explicit = setting_in(text) or code
    if candidates[0].ext in ("H", "R"):
        fitting = [group for group in candidates if operations_of(group).distortion(lattice) <= DISTORTED]
        chosen = fitting[0] if fitting else candidates[0]
        if fitting and explicit in ("H", "R") and chosen.ext != explicit:
            axes = {"H": "hexagonal", "R": "rhombohedral"}
            doubts.append(f"the space group {text[:40]!r} is on {axes[explicit]} axes, the cell on {axes[chosen.ext]}")
        return operations_of(chosen)
    origin = {"S": "1", "Z": "2"}.get(explicit, explicit)
    if candidates[0].ext in ("1", "2"):
        candidates = [group for group in candidates if group.ext == origin]
        if not candidates:
            raise CifError(
                f"the file lists no symmetry operations, and its space group {text[:40]!r} has two origins: "
                "write the operations into the file"
            )
    return operations_of(candidates[0])


def _check_metric(operations: Operations, lattice: NDArray[np.float64], established: str, doubts: list[str]) -> None:
    distortion = operations.distortion(lattice)
    if distortion <= DOUBTFUL:
        return
    cell = gemmi.UnitCell(*np.round(cell_parameters(lattice), 4)).parameters
    stated = f"the cell is {', '.join(f'{value:g}' for value in cell)}, but the symmetry ({established})"
    if distortion > DISTORTED:
        raise CifError(f"{stated} does not keep its lengths and angles: one of them is wrong")
    doubts.append(f"{stated} keeps its lengths and angles within {100 * distortion:.2g} % only")


def _check_system(stated: _Stated, operations: Operations, lattice: NDArray[np.float64], doubts: list[str]) -> None:
    """Compare the crystal system that a block states with its operations."""
    if stated.system is None or stated.system[1] not in _SYSTEMS[1:]:
        return
    number = number_of(operations)
    system = stated.system[1]
    if len(operations) == 1 and not stated.anything:
        raise CifError(f"the file's crystal system is {system}, but it states no symmetry operations or space group")
    found = gemmi.find_spacegroup_by_number(number).crystal_system_str() if number else ""
    hexagonal = {"trigonal", "rhombohedral", "hexagonal"}
    if found and found != system and not {found, system} <= hexagonal:
        said = f"the file's crystal system is {system}, but its symmetry is {found}"
        if len(operations) > 2:
            raise CifError(f"{said}: one of them is wrong")
        doubts.append(f"{said}; the symmetry counts")


def cell_parameters(lattice: NDArray[np.float64]) -> list[float]:
    """Return the lengths a, b, c in Å and the angles α, β, γ in degrees of a lattice, (3, 3) rows in Å."""
    lengths = np.linalg.norm(lattice, axis=1)
    cosines = [lattice[i] @ lattice[j] / (lengths[i] * lengths[j]) for i, j in ((1, 2), (0, 2), (0, 1))]
    return [*lengths.tolist(), *np.degrees(np.arccos(np.clip(cosines, -1, 1))).tolist()]


def _as_set(operations: Operations) -> set[bytes]:
    rows = np.concatenate([operations.rotations.reshape(-1, 9), operations.translations], axis=1)
    return {row.tobytes() for row in rows}
