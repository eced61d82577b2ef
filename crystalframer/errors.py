"""Errors a user can cause and mend; command-line programs print them as one sentence and exit with code 2."""

import difflib
import errno
import os
from collections.abc import Iterable
from pathlib import Path

_LACKS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
"""System errors of a process without an open file, memory or another process left."""
_OF_CONTENT = frozenset({None, errno.EINVAL})
"""Parsers raise system errors without a number, and a place before a file's beginning has this one."""


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


def require_no_lack(error: BaseException) -> None:
    """Return unless an error means that this process has no open file or memory left, which says nothing of a file.

    Raises:
        OSError: it does, and passes.
    """
    if isinstance(error, OSError) and error.errno in _LACKS:
        raise error


def require_damage(path: Path, error: BaseException) -> None:
    """Return if an error that came up while a file was read speaks of what the file holds.

    Raises:
        UserError: there is no such file, or the system does not let us read it, so that it may be sound.
        OSError: see `require_no_lack`.
    """
    require_no_lack(error)
    if isinstance(error, FileNotFoundError):
        raise UserError(f"{path} does not exist: check its name") from error
    if isinstance(error, OSError) and error.errno not in _OF_CONTENT:
        reason = os.strerror(error.errno or 0)
        raise UserError(
            f"{path} cannot be read ({reason}), though it may be sound: see who may read it, and its disk"
        ) from error
