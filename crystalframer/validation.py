"""Validation of what a user wrote: numbers that a file or a shell gave as text, and one sentence for each mistake."""

import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import pydantic
from pydantic import BeforeValidator, Field

from crystalframer.errors import UserError, near_matches

STRICT = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_WHOLE = r"[-+]?(?:0|[1-9](?:_?[0-9])*)"
_NUMBER = re.compile(rf"(?P<whole>{_WHOLE})|(?:{_WHOLE}(?:\.[0-9]*)?|[-+]?\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_LONGEST_NUMBER = 40
_EXPECTED = {
    **dict.fromkeys(("int_type", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_type", "finite_number"), "a number"),
    **dict.fromkeys(("list_type", "tuple_type", "too_short"), "a list of values such as [0, 1]"),
    **dict.fromkeys(("dataclass_type", "model_type", "dict_type"), "a mapping of keys to values"),
    **dict.fromkeys(("missing", "string_pattern_mismatch"), "a sentence"),
    "string_type": "text",
    "string_too_long": "text of at most {max_length} characters",
    "too_long": "at most {max_length} values",
}
"""What is expected, by pydantic's name of the problem."""
_BOUNDS = {"ge": ", at least ", "le": ", at most ", "gt": " above ", "lt": " below "}
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def number(value: object) -> object:
    """Return the number that a text such as 12, 1_000, 0.5 or 5e-4 says; anything else as it is."""
    if not isinstance(value, str) or len(value) > _LONGEST_NUMBER or (match := _NUMBER.fullmatch(value)) is None:
        return value
    return int(value) if match["whole"] else float(value)


Whole = Annotated[int, BeforeValidator(number)]
Real = Annotated[float, BeforeValidator(number)]
Positive = Annotated[Real, Field(gt=0.0)]


class _Short(reprlib.Repr):
    """Values in messages: numbers without quotes, and the middle of whatever is long left out."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 100

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(x, level) if (value := number(x)) is x else repr(value)


quote = _Short().repr


def unknown(what: str, got: object, known: Iterable[str]) -> str:
    """Return the sentence for a name that is none of the known ones, with near matches."""
    return f"unknown {what} {quote(got)}{near_matches(str(got), known)}"


def sentence(
    error: pydantic.ValidationError, place: Callable[[str], str], unknown_key: Callable[[list[str]], str]
) -> str:
    """Return the first problem that pydantic found as a sentence, an unknown key before any other.

    Args:
        error: what pydantic found.
        place: how messages call a dotted key, e.g. ``setting 'train.epochs'``.
        unknown_key: the sentence for an unknown key, whose last part is the key itself.
    """
    problem = min(error.errors(include_url=False), key=lambda one: one["type"] not in _UNKNOWN)
    parts = [part for part in problem["loc"] if isinstance(part, str)]
    context, kind, key = problem.get("ctx", {}), problem["type"], ".".join(parts)
    got = None if kind == "missing" else number(problem["input"])
    if isinstance(cause := context.get("error"), UserError):
        return str(cause)
    if kind in _UNKNOWN:
        return unknown_key(parts)
    if kind == "literal_error":
        return unknown(key, got, re.findall("'([^']*)'", context["expected"]))
    return f"{place(key)}: got {quote(got)}, expected {_expected(kind, context)}{_hint(got)}"


def _expected(kind: str, context: Mapping[str, Any]) -> str:
    for name, words in _BOUNDS.items():
        if (bound := context.get(name)) is not None:
            if name == "gt" and bound == 0:
                return "a positive number"
            return f"a whole number{words}{bound:,}" if isinstance(bound, int) else f"a number{words}{bound:,g}"
    return _EXPECTED.get(kind, f"another value ({kind.replace('_', ' ')})").format(**context)


def _hint(got: object) -> str:
    """Return what a text that older YAML took for a number would be in decimal notation."""
    if not isinstance(got, str) or len(got) > _LONGEST_NUMBER:
        return ""
    if re.fullmatch(r"[0-9]+(:[0-5][0-9]){1,2}", got):
        parts = [int(part) / 60**place for place, part in enumerate(got.split(":"))]
        return f" (a time is written in hours: {sum(parts):g})"
    if re.fullmatch(r"[-+]?0[0-9]+", got):
        return f" (without the leading zero: {int(got)})"
    return ""
