"""Starts the processes of one training, passes on what they say, and ends them all when one fails.

The processes of one host are started here; orchestration/cluster/distributed.py starts those of a Ray cluster and
watches over them by the same rules (`supervise`).
"""

import contextlib
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import torch

from crystalframer.command_line import EXIT_INTERRUPTED, stopping_on_signals
from crystalframer.errors import UserError
from crystalframer.training.optimizer import TrainingDivergedError
from crystalframer.training.processes import ALONE, Channel, LostProcessError, joined, use_loopback

TrainingFunction = Callable[..., int]
"""``function(processes, device, channel, *arguments)`` returns an exit code; the processes import it by its name."""
Show = Callable[[Any], None]
"""Takes what the first process has to say."""

GRACE_SECONDS = {"UserError": 0.0, "TrainingDivergedError": 0.0, "KeyboardInterrupt": 0.0, "LostProcessError": 60.0}
"""How long the others may take to say what they know when one process has ended with this error: no longer where that
is the cause, long where it is the consequence of what another one, on a busy machine perhaps, has yet to say."""
OTHER_GRACE_SECONDS = 5.0
"""The same where a process ended without a word, or with a defect."""
POLL_SECONDS = 0.1
_REPORTED = (UserError, TrainingDivergedError, LostProcessError)


@dataclass(frozen=True)
class Ending:
    """How a process ended, in its own words or, where it had none, as seen from outside."""

    code: int = 0
    error: str = ""
    """Name of the error's class, empty after a good end and where the process died without a word."""
    sentence: str = ""
    """What the error says, or how the process died."""

    @property
    def failed(self) -> bool:
        """Whether it did not come to its end."""
        return bool(self.error or self.sentence)


class TrainingProcess(Protocol):
    """A process of a training, as the program that started it sees it."""

    def messages(self) -> list[Any]:
        """Return what it has said since the last call."""

    def ending(self) -> Ending | None:
        """Return how it ended, None while it runs."""

    def stop(self) -> None:
        """Let it end after the step under way."""


def launch(
    function: TrainingFunction, arguments: Sequence[Any], size: int, device: str = "cpu", show: Show = print
) -> int:
    """Run `function` in `size` processes of this host and return the first one's exit code.

    The first SIGINT or SIGTERM lets all of them stop after the step under way, the second one ends them at once. They
    end with this process, however it ends. A single one is this process itself.

    Args:
        function: what each process does; see `TrainingFunction`.
        arguments: further arguments, which can be pickled.
        size: number of processes.
        device: ``cpu``, or ``cuda`` for one GPU per process.
        show: takes what the first process has to say.

    Raises:
        UserError, TrainingDivergedError: a process raised it.
        LostProcessError: a process died; the message says how.
    """
    if size == 1:
        stop_requested = threading.Event()
        with stopping_on_signals(lambda _: stop_requested.set()):
            return function(ALONE, device, Channel(show, stop_requested.is_set), *arguments)
    with tempfile.TemporaryDirectory(prefix="crystalframer-") as folder:
        meeting = f"file://{Path(folder) / 'meeting'}"
        with contextlib.ExitStack() as stack:
            processes = []
            for rank in range(size):
                own = f"cuda:{rank}" if device == "cuda" else device
                process = _HostProcess(rank, (function, arguments, rank, size, meeting, own))
                processes.append(stack.enter_context(process))
            return supervise(processes, show)


def supervise(processes: Sequence[TrainingProcess], show: Show, poll_seconds: float = POLL_SECONDS) -> int:
    """Pass on what the first process says until all are done or one has failed; return the first one's exit code.

    The first SIGINT or SIGTERM asks all processes to stop, the second one interrupts.

    Raises:
        UserError, TrainingDivergedError, LostProcessError: as `launch` does.
    """
    endings: dict[int, Ending] = {}
    deadline = float("inf")

    def stop(_: signal.Signals) -> None:
        for process in processes:
            process.stop()

    with stopping_on_signals(stop):
        while len(endings) < len(processes) and time.monotonic() < deadline:
            for rank, process in enumerate(processes):
                if rank not in endings and (ending := process.ending()) is not None:
                    endings[rank] = ending
                    if ending.failed:
                        grace = GRACE_SECONDS.get(ending.error, OTHER_GRACE_SECONDS)
                        deadline = min(deadline, time.monotonic() + grace)
            for message in processes[0].messages():
                show(message)
            time.sleep(poll_seconds)
    if not any(ending.failed for ending in endings.values()):
        return endings[0].code
    raise _error_of(endings, len(processes))


def _error_of(endings: dict[int, Ending], size: int) -> BaseException:
    """Return the error of a failed training.

    A user's mistake or a divergence, which all processes notice, comes before the loss of one, its consequence.
    """
    kinds = {kind.__name__: kind for kind in (UserError, TrainingDivergedError, KeyboardInterrupt)}
    for _, ending in sorted(endings.items()):
        if ending.error in kinds:
            return kinds[ending.error](ending.sentence)
    failed = {rank: ending for rank, ending in endings.items() if ending.failed}  # in the order in which they ended
    rank = next((rank for rank, ending in failed.items() if not ending.error), next(iter(failed)))
    how = failed[rank].sentence
    return LostProcessError(
        f"process {rank + 1} of {size} {how}, so the training stopped; run the same command again to resume"
    )


def ending_of(work: Callable[[], int]) -> Ending:
    """Do a process' work and return how it ended; a defect of ours keeps its traceback."""
    try:
        return Ending(code=work())
    except KeyboardInterrupt:  # before the training was ready to stop in good order
        return Ending(EXIT_INTERRUPTED, "KeyboardInterrupt")
    except _REPORTED as error:
        return Ending(1, type(error).__name__, str(error))


class _HostProcess:
    """A process of this host; a context manager that leaves none behind."""

    def __init__(self, rank: int, arguments: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs, *arguments), name=f"training-{rank}")
        self._process.start()
        theirs.close()
        self._said: list[Any] = []
        self._ending: Ending | None = None

    def __enter__(self) -> "_HostProcess":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._connection.close()

    def messages(self) -> list[Any]:
        self._listen()
        said, self._said = self._said, []
        return said

    def ending(self) -> Ending | None:
        alive = self._process.is_alive()
        self._listen()
        if self._ending is None and not alive:
            self._process.join()
            self._ending = Ending(sentence=_death(self._process.exitcode or 0))
        return self._ending

    def stop(self) -> None:
        with contextlib.suppress(OSError):  # it has ended
            self._connection.send("stop")

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while self._connection.poll():
                message = self._connection.recv()
                if isinstance(message, Ending):
                    self._ending = message
                else:
                    self._said.append(message)


def _death(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"


def _run(
    parent: "Connection[Any, Any]",
    function: TrainingFunction,
    arguments: Sequence[Any],
    rank: int,
    size: int,
    meeting: str,
    device: str,
) -> None:
    """Do one process' work; this runs in the process."""
    os.setsid()  # a terminal's Ctrl-C reaches the parent alone, which passes it on
    stop_requested = threading.Event()
    threading.Thread(target=_heed, args=(parent, stop_requested), daemon=True).start()
    use_loopback()

    def together() -> int:
        with joined(rank, size, meeting, torch.device(device)) as processes:
            return function(processes, device, Channel(parent.send, stop_requested.is_set), *arguments)

    parent.send(ending_of(together))


def _heed(parent: "Connection[Any, Any]", stop_requested: threading.Event) -> None:
    """Hear the parent's wish to stop, and end this process when the parent is gone."""
    with contextlib.suppress(EOFError, OSError):
        while parent.recv():
            stop_requested.set()
    os._exit(1)
