"""A trainer that fails in the way its trial's seed stands for: once, or whenever it is tried."""

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from crystalframer.errors import UserError
from crystalframer.runs.run_directory import SupersededError
from crystalframer.training.metrics import EpochResult
from crystalframer.training.optimizer import TrainingDivergedError
from crystalframer.training.processes import LostProcessError
from tests.orchestration.stub_training import StubTrainer


class StrangersError(Exception):
    """An error that nobody foresaw, and that does not survive being pickled."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} and {other}")


def raise_(error: Exception) -> None:
    """Raise."""
    raise error


def raise_caused(error: Exception, cause: Exception) -> None:
    """Raise an error because of another one."""
    raise error from cause


def kill_the_tracker() -> None:
    """Kill the MLflow server of this sweep, which inherited the driver's environment."""
    ours = f"FAILED={os.environ['FAILED']}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # of another user, or gone
            words = (process / "cmdline").read_bytes()
            if ours in (process / "environ").read_bytes().split(b"\0") and (b"uvicorn" in words or MLFLOW in words):
                os.kill(int(process.name), signal.SIGKILL)


def fill_the_disk() -> None:
    """Fill the trial's own small disk for as long as this process lives."""
    path = Path(os.environ["FAILED"]) / SMALL_DISK / "ballast"
    HELD.append(os.open(path, os.O_CREAT | os.O_WRONLY))
    path.unlink()
    with contextlib.suppress(OSError):
        while os.write(HELD[-1], bytes(4096)):
            pass


def open_all_files() -> None:
    """Open as many files as this process may."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with contextlib.suppress(OSError):
        while True:
            HELD.append(os.open(os.devnull, os.O_RDONLY))


HELD: list[int] = []
"""Open files."""
SMALL_DISK = "small disk's place"
"""A link to the run directory that is a disk of its own."""
MLFLOW = b"-m\0mlflow\0server\0"
FAILURES: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "full disk": lambda: raise_(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    "full disk beneath": lambda: raise_caused(RuntimeError("writing failed"), OSError(errno.EDQUOT, "quota")),
    "small disk": fill_the_disk,
    "no file handles": open_all_files,
    "memory": lambda: raise_(MemoryError("1 TiB")),
    "memory refused": lambda: print(torch.empty(2**60, dtype=torch.uint8)),
    "mistake": lambda: raise_(UserError("the batch is too large: choose a smaller one")),
    "divergence": lambda: raise_(TrainingDivergedError("training diverged in epoch 1")),
    "superseded": lambda: raise_(SupersededError("another attempt took over")),
    "lost process": lambda: raise_(LostProcessError("another process of the training is gone")),
    "stranger": lambda: raise_(StrangersError("this", "that")),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "lost tracker": kill_the_tracker,
}
ONCE = ("full disk", "full disk beneath", "small disk")
"""Failures that pass."""
KINDS = list(FAILURES)
"""By seed."""


class FailingTrainer(StubTrainer):
    """Fails after its first step."""

    def fit(self, after_step: Callable[[float], None] | None = None) -> Iterator[EpochResult]:
        """See `StubTrainer.fit`."""
        kind = KINDS[self.trial.train.seed]
        (Path(os.environ["FAILED"]) / "works in").write_text(str(Path.cwd()))
        mark = Path(os.environ["FAILED"]) / kind
        if not (kind in ONCE and mark.exists()):
            mark.touch()
            FAILURES[kind]()
        yield from super().fit(after_step)
