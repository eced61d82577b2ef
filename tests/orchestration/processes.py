"""Who runs: a test that kills a process wants to know what became of its family."""

import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

PROC = Path("/proc")


def descendants(pid: int) -> list[int]:
    """Return the processes that a process started, and those that they started, as they are now."""
    if not PROC.is_dir():
        pytest.skip("needs /proc to see the processes")
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in PROC.glob("[0-9]*"):
        if (fields := _stat(int(entry.name))) is not None:
            children[int(fields[1])].append(int(entry.name))
    found: list[int] = []
    queue = [pid]
    while queue:
        started = children[queue.pop()]
        found += started
        queue += started
    return found


def command(pid: int) -> str:
    """Return a process's command line as it shows itself, "" when it is gone."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def all_gone(pids: Iterable[int], seconds: float = 20.0) -> bool:
    """Wait until processes have ended, and return whether they did in time."""
    deadline = time.monotonic() + seconds
    while any((fields := _stat(pid)) is not None and fields[0] != "Z" for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _stat(pid: int) -> list[str] | None:
    """Return a process's state, parent and so on, None when it is gone."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
