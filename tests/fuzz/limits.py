"""Calls that may neither raise what is no sentence to the user, nor take long, nor fill the memory."""

import resource
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

Value = TypeVar("Value")
MAX_SECONDS = 20.0
MAX_GROWTH = 2**29
"""Bytes by which one call may enlarge this process."""
_UNIT = 1 if sys.platform == "darwin" else 1024


class _TooLongError(BaseException):
    pass


def attempted(call: Callable[[], Value], sentences: type[Exception] | tuple[()] = ()) -> tuple[Value | None, str]:
    """Call; return the value, and what is wrong, an empty string for nothing. An error of `sentences` is nothing."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGALRM, ring)
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    try:
        value = call()
    except sentences:
        return None, ""
    except _TooLongError:
        return None, f"took more than {MAX_SECONDS:g} s"
    except Exception:  # noqa: BLE001 - whatever comes out is what is looked for
        return None, traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    growth = _UNIT * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - size)
    return value, f"took {growth / 2**20:.0f} MiB" if growth > MAX_GROWTH else ""
