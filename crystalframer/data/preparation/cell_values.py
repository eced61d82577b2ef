"""What the cell of a table says, as a number."""

import math
import re
from collections.abc import Sequence
from typing import Any

MAX_TARGET = 1e15
"""Largest target; single precision, in which models are trained, cannot square much more."""
ABSENT = ("", "na", "n/a", "nan", "none", "null", "-")
"""What says that there is no value, in small letters."""
DECIMAL_COMMA = re.compile(r"[-+−]?\d+([.\s'’]\d{3})*,\d+([eE][-+]?\d+)?")
"""A number as other lands write it, which is none here."""
_UNIT = re.compile(
    r"[^\W\d][^\s/·*^]{0,19}(\s*[/·*^]+\s*([^\s/·*^()]{1,20}|\([^()]{1,20}\)))*|[%°‰]\S{0,20}|1|1/\S{1,20}"
)
"""What a unit looks like in a row of them: parts and what stands between them have no character in common."""
THOUSANDS = re.compile(r"-?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")
"""A number whose commas may group its thousands."""
_WORDS = {"true": "1", "false": "0"}


def number_of(value: Any) -> float:
    """Return a value as a number, true as 1, false as 0; NaN where it is none, not finite or beyond `MAX_TARGET`."""
    if isinstance(value, str):
        text = value.strip().replace("\N{MINUS SIGN}", "-")
        value = _WORDS.get(text.lower(), text)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if abs(number) <= MAX_TARGET else math.nan


def is_value(word: str) -> bool:
    """Return whether a cell holds what the cells of a column of numbers do."""
    return word.lower() in ABSENT or not math.isnan(number_of(word)) or DECIMAL_COMMA.fullmatch(word) is not None


def several_numbers(cell: str) -> list[str]:
    """Return the numbers of a cell that holds several, or nothing."""
    inner = cell.strip("[]() ")
    if THOUSANDS.fullmatch(cell) or (inner == cell and "," not in cell):
        return []
    parts = [part.strip() for part in (inner.split(",") if "," in inner else inner.split())]  # "1 234,5" is one number
    return parts if len(parts) > 1 and not any(math.isnan(number_of(part)) for part in parts) else []


def is_empty(value: Any) -> bool:
    """Return whether a cell holds nothing."""
    return value is None or (isinstance(value, str) and not value.strip())


def titles(rows: Sequence[Sequence[Any]]) -> int:
    """Return how many rows stand above the header of a table: each a title in its first cell and nothing else.

    A header has two words or more and no number; without one there is no title.
    """
    for place, row in enumerate(rows):
        filled = [value for value in row if not is_empty(value)]
        if len(filled) > 1:
            return 0 if any(str(v).lower() in ABSENT or not math.isnan(number_of(v)) for v in filled) else place
        if is_empty(row[0]):
            return 0
    return 0


def units_below(rows: Sequence[Sequence[str]], key: int) -> dict[int, str]:
    """Return the units by column where the first row below a header holds nothing else, and no name in column `key`."""
    first, *others = rows or [[]]
    if key >= len(first) or first[key].strip("()[]:. ").lower() not in ("", "unit", "units"):
        return {}
    words = {place: re.sub(r"^[(\[](.*)[)\]]$", r"\1", cell) for place, cell in enumerate(first) if place != key}
    units = {place: word for place, word in words.items() if word.lower() not in ABSENT}
    of_numbers = any(not math.isnan(number_of(row[place])) for row in others for place in units if place < len(row))
    words_alone = any(math.isnan(number_of(unit)) for unit in units.values())
    return units if of_numbers and words_alone and all(map(_UNIT.fullmatch, units.values())) else {}


def passed_over(name: str, rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return a note on the titles of a table, if it has any."""
    return [f"{name}: passed over as a title: {', '.join(repr(str(row[0])[:40]) for row in rows[:3])}"] if rows else []
