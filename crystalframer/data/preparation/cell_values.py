"""What the cell of a table says, as a number."""

import math
from typing import Any

MAX_TARGET = 1e15
"""Largest target; single precision, in which models are trained, cannot square much more."""
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
