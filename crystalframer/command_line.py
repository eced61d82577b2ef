"""What every command-line program of the package shares: how it ends when the user made a mistake or stopped it."""

import functools
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, ParamSpec

from crystalframer.errors import UserError

P = ParamSpec("P")

EXIT_USER_ERROR = 2
"""Exit code of a mistake the user can mend, the one argparse uses as well."""
EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C, 128 + SIGINT, as shells expect."""


def reports_user_errors(main: Callable[P, int]) -> Callable[P, int]:
    """Make a program's ``main(argv) -> exit code`` end as the user expects.

    A `UserError` becomes one line on stderr and exit code 2, Ctrl-C one line and exit code 130. Every other
    exception is a defect of ours and keeps its traceback.
    """

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except UserError as error:
            print("error: " + " ".join(str(error).split()), file=sys.stderr)
            return EXIT_USER_ERROR
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return EXIT_INTERRUPTED

    return wrapped


@contextmanager
def on_stop_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[Mapping[int, Any]]:
    """Let `handler` take Ctrl-C and requests to terminate within the context; yield the former handlers by number."""
    former: dict[int, Any] = {int(number): signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield former
    finally:
        for number, previous in former.items():
            signal.signal(number, previous)
