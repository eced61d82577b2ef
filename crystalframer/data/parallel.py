"""A function over many items in several processes: results in order, few items under way at a time."""

import math
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from crystalframer.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


def usable_processors(control_groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many processors this process may use: by its affinity, Slurm's word and its control group's quota."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    allowed = [here, *([int(slurm)] if slurm.isdecimal() else []), *_quotas(control_groups)]
    return max(1, min(allowed))


def _quotas(root: Path) -> list[int]:
    """Return how many processors' time the control groups of this process allow (Linux, version 2 or 1), rounded up."""
    try:
        names = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    found = []
    for group in {line.split(":", 2)[2].lstrip("/") for line in names} | {""}:
        for folder in (root / group, root / "cpu" / group):
            for path in (folder, *folder.parents):
                if path.is_relative_to(root):
                    found += _quota(path)
    return found


def _quota(group: Path) -> list[int]:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (group / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
    except OSError:
        return []
    return [math.ceil(int(quota) / int(period))] if quota.isdecimal() and int(quota) else []


def in_order(function: Callable[[T], R], items: Iterable[T], processes: int) -> Iterator[R]:
    """Yield ``function(item)`` for each item, in their order.

    Args:
        function: picklable; its errors are raised here.
        items: taken when they are needed: at most two per process wait.
        processes: 1 works in this process; more are started afresh (spawn) and end with this one, however it ends.

    Raises:
        UserError: a process was killed from outside.
    """
    if processes == 1:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=start_worker)
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            f"one of the {processes} processes was killed, perhaps for want of memory: use fewer with --processes"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def start_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
