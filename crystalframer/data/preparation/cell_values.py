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


def passed_over(name: str, rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return a note on the titles of a table, if it has any."""
    return [f"{name}: passed over as a title: {', '.join(repr(str(row[0])[:40]) for row in rows[:3])}"] if rows else []
