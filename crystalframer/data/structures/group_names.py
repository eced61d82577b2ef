"""Space groups by name, number or Hall symbol, in the settings of gemmi's table that these may mean."""

import re
import warnings
from functools import lru_cache

import gemmi

from crystalframer.data.structures.symmetry import Operations, number_of, operations_of_hall, parse_operations


@lru_cache(maxsize=1024)
def operations_of(group: gemmi.SpaceGroup) -> Operations:
    """Return the operations of a group in its setting."""
    return parse_operations(tuple(op.triplet() for op in group.operations()))


def all_settings(groups: list[gemmi.SpaceGroup]) -> list[gemmi.SpaceGroup]:
    """Return the groups of the same numbers in all settings."""
    numbers = {group.number for group in groups}
    return [group for group in gemmi.spacegroup_table() if group.number in numbers]


def groups_of_number(text: str) -> list[gemmi.SpaceGroup]:
    """Return all settings of a group by its number in the International Tables; none where it is no such number."""
    if not re.fullmatch(r"\d{1,3}(\.0*)?", text) or not 1 <= int(float(text)) <= 230:
        return []
    return all_settings([gemmi.find_spacegroup_by_number(int(float(text)))])


def groups_of_hall(text: str) -> list[gemmi.SpaceGroup]:
    """Return all settings of the group of a Hall symbol; none where its axes are unusual."""
    number = number_of(operations_of_hall(" ".join(text.replace("_", " ").split())))
    return all_settings([gemmi.find_spacegroup_by_number(number)]) if number else []


def setting_in(name: str) -> str:
    """Return what a name adds for origin or axes: 1 or 2 after a colon, H or R, S or Z as the ICSD writes it."""
    match = re.search(r":\s*([12HRSZ])\s*$|\s([HRSZ])\s*$", name, re.IGNORECASE)
    return (match.group(1) or match.group(2)).upper() if match else ""


@lru_cache(maxsize=1024)
def groups_of_name(name: str) -> tuple[gemmi.SpaceGroup, ...]:
    """Return the groups of a short or full Hermann-Mauguin symbol: choices of origin and of rhombohedral axes stay."""
    plain = " ".join(
        re.sub(r"\(\s*(no\.?|#|nr\.?)?\s*\d+\s*\)", "", name, flags=re.IGNORECASE).replace("_", "").split()
    )
    if suffix := setting_in(plain):
        plain = re.sub(r"\s*:?\s*\w$", "", plain)
    group = None
    for text in (plain, plain[:1].upper() + plain[1:].lower()):
        group = group or gemmi.find_spacegroup_by_name(text)
    if group is None:
        found = _full_names().get(plain.replace(" ", "").lower(), ())
    else:
        found = tuple(
            entry for entry in gemmi.spacegroup_table() if entry.number == group.number and entry.hm == group.hm
        )
    origin = {"S": "1", "Z": "2"}.get(suffix, suffix)
    return tuple(entry for entry in found if entry.ext == origin and origin in ("1", "2")) or found


@lru_cache(maxsize=1)
def _full_names() -> dict[str, tuple[gemmi.SpaceGroup, ...]]:
    """Return the groups by their full symbols without blanks: f4/m-32/m."""
    import spglib

    names: dict[str, tuple[gemmi.SpaceGroup, ...]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of spglib's about its own errors
        entries = [spglib.get_spacegroup_type(hall_number) for hall_number in range(1, 531)]
    for entry in entries:
        assert entry is not None
        group = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(entry.hall_symbol))
        if group is not None:
            for text in (entry.international_full, entry.international_short):
                key = text.replace(" ", "").replace("_", "").lower()
                names[key] = (*names.get(key, ()), group)
    return names
