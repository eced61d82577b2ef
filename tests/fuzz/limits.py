"""Calls that may neither raise what is no sentence to the user, nor take long, nor fill the memory."""

import contextlib
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

Value = TypeVar("Value")
MAX_SECONDS = 20.0
"""Of this process on a processor, which much else may share; ten times as long by the clock, for what waits."""
MAX_GROWTH = 2**29
"""Bytes by which one call may enlarge this process."""
_UNIT = 1 if sys.platform == "darwin" else 1024
_CLOCKS = (
    (signal.ITIMER_PROF, signal.SIGPROF, MAX_SECONDS),
    (signal.ITIMER_REAL, signal.SIGALRM, 10 * MAX_SECONDS),
)


class _TooLongError(BaseException):
    pass


def attempted(call: Callable[[], Value], sentences: type[Exception] | tuple[()] = ()) -> tuple[Value | None, str]:
    """Call; return the value, and what is wrong, an empty string for nothing. An error of `sentences` is nothing."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with _timed(), warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # numbers that are none, or too large
            value = call()
    except sentences:
        return None, ""
    except _TooLongError:
        return None, f"took more than {MAX_SECONDS:g} s"
    except Exception:  # noqa: BLE001 - whatever comes out is what is looked for
        return None, traceback.format_exc()
    growth = _UNIT * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - size)
    return value, f"took {growth / 2**20:.0f} MiB" if growth > MAX_GROWTH else ""


@contextlib.contextmanager
def _timed() -> Iterator[None]:
    """Raise an error within the block when its time is over."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise _TooLongError

    before = [signal.signal(number, ring) for _, number, _ in _CLOCKS]
    for timer, _, seconds in _CLOCKS:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (timer, number, _), handler in zip(_CLOCKS, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)
