"""Starts the processes of one training on this host, and ends them all when one fails."""

import contextlib
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from crystalframer.command_line import EXIT_INTERRUPTED, on_stop_signals
from crystalframer.errors import UserError
from crystalframer.training.optimizer import TrainingDivergedError
from crystalframer.training.processes import LostProcessError, joined, use_loopback

Work = Callable[..., int]
"""``work(processes, device, *arguments)`` returns an exit code; a function of a module, as the processes import it."""

GRACE_SECONDS = 5.0
"""How long the others may take to say what they know when one process has failed."""
_REPORTED = (UserError, TrainingDivergedError, LostProcessError)


@dataclass(frozen=True)
class Report:
    """How a process ended, in its own words."""

    code: int = 0
    kind: str = ""
    """Name of the error's class, empty after a good end."""
    sentence: str = ""


def launch(work: Work, arguments: Sequence[Any], size: int, device: str = "cpu") -> int:
    """Run `work` in `size` processes of this host and return the first one's exit code.

    SIGINT and SIGTERM are passed on to all of them. They end with this process, however it ends.

    Args:
        work: what each process does; see `Work`.
        arguments: further arguments, which can be pickled.
        size: number of processes.
        device: ``cpu``, or ``cuda`` for one GPU per process.

    Raises:
        UserError, TrainingDivergedError: a process raised it.
        LostProcessError: a process died; the message says how.
    """
    context = multiprocessing.get_context("spawn")
    members: list[_Member] = []
    with tempfile.TemporaryDirectory(prefix="crystalframer-") as folder, _ended(members), _passed_on(members):
        address = f"file://{Path(folder) / 'meeting'}"
        for rank in range(size):
            here, there = context.Pipe()
            place = _Place(rank, size, address, f"cuda:{rank}" if device == "cuda" else device)
            process = context.Process(target=_run, args=(work, arguments, place, there), name=f"training-{rank}")
            process.start()
            there.close()
            members.append(_Member(process, here))
        return _outcome(members)


def explain(reports: Sequence[Report | None], sentence: str) -> Exception:
    """Return the error that a failed training ends with, given what its processes reported by rank.

    A user's mistake or divergence, which all processes notice, comes before the loss of one, which is its consequence.
    """
    kinds = {kind.__name__: kind for kind in (UserError, TrainingDivergedError)}
    for report in reports:
        if report is not None and report.kind in kinds:
            return kinds[report.kind](report.sentence)
    return LostProcessError(sentence)


@dataclass(frozen=True)
class _Place:
    """Where a process stands among the others."""

    rank: int
    size: int
    address: str
    device: str


@dataclass(frozen=True)
class _Member:
    """A process as its parent sees it."""

    process: SpawnProcess
    reports: "Connection[Any, Any]"

    def report(self) -> Report | None:
        """Return what the process said at its end, None if it died without a word."""
        with contextlib.suppress(EOFError, OSError):
            if self.reports.poll():
                report: Report = self.reports.recv()
                return report
        return None


def reported(work: Callable[[], int]) -> Report:
    """Do a process' work and return how it ended; a defect of ours keeps its traceback."""
    try:
        return Report(code=work())
    except KeyboardInterrupt:  # before the training was ready to stop in good order
        return Report(code=EXIT_INTERRUPTED, kind="KeyboardInterrupt")
    except _REPORTED as error:
        return Report(code=1, kind=type(error).__name__, sentence=str(error))


def _run(work: Work, arguments: Sequence[Any], place: _Place, parent: "Connection[Any, Any]") -> None:
    """Do one process' work; this runs in the process."""
    os.setsid()  # a terminal's Ctrl-C reaches the parent alone, which passes it on
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    use_loopback()
    device = torch.device(place.device)

    def together() -> int:
        with joined(place.rank, place.size, place.address, device) as processes:
            return work(processes, place.device, *arguments)

    parent.send(reported(together))


def _end_with(parent: "Connection[Any, Any]") -> None:
    """End this process when its parent is gone: nothing is ever sent, so there is something to read only then."""
    wait([parent])
    os._exit(1)


def _outcome(members: Sequence[_Member]) -> int:
    """Wait until all processes are done or one has failed."""
    running = {member.process.sentinel: member for member in members}
    reports: dict[int, Report | None] = {}
    deadline = float("inf")
    while running and time.monotonic() < deadline:
        ended = wait(list(running), timeout=0.5)
        for sentinel in [each for each in running if each in ended]:
            member = running.pop(sentinel)
            member.process.join()
            reports[members.index(member)] = member.report()
            if (report := reports[members.index(member)]) is None or report.kind:
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
    by_rank = [reports.get(rank) for rank in range(len(members))]
    if deadline == float("inf"):
        assert by_rank[0] is not None, "every process has reported"
        return by_rank[0].code
    if any(report is not None and report.code == EXIT_INTERRUPTED for report in by_rank):
        return EXIT_INTERRUPTED
    dead = [rank for rank in reports if reports[rank] is None] or list(reports)
    how = _end_of(members[dead[0]].process)
    raise explain(
        by_rank, f"process {dead[0] + 1} of {len(members)} {how}, so the training stopped; start it again to go on"
    )


def _end_of(process: SpawnProcess) -> str:
    code = process.exitcode or 0
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"failed with exit code {code}"


@contextlib.contextmanager
def _ended(members: Sequence[_Member]) -> Iterator[None]:
    """Leave no process behind."""
    try:
        yield
    finally:
        for member in members:
            if member.process.is_alive():
                member.process.kill()
            member.process.join()
            member.reports.close()


@contextlib.contextmanager
def _passed_on(members: Sequence[_Member]) -> Iterator[None]:
    """Send the signals that stop a program to all processes."""

    def send(number: int, _frame: FrameType | None) -> None:
        for member in members:
            if member.process.is_alive() and member.process.pid is not None:
                os.kill(member.process.pid, number)

    with on_stop_signals(send):
        yield
