"""Errors a user can cause and mend; command-line programs print them as one sentence and exit with code 2."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Input that cannot be used: the message says what it is, what was got, what was expected and the remedy."""


def near_matches(got: str, known: Iterable[str]) -> str:
    """Return a hint such as ``" (did you mean 'max'?)"``, or the list of everything known when nothing is near."""
    names = sorted(known)
    close = difflib.get_close_matches(got[:100], names, n=3, cutoff=0.5)
    if close:
        return " (did you mean " + " or ".join(repr(name) for name in close) + "?)"
    return " (known: " + ", ".join(names) + ")"


def one_line(error: BaseException) -> str:
    """Return an error as one line: a user's mistake as its sentence, anything else with its type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
