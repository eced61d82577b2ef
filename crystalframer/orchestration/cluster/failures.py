"""What can go wrong with a trial, told apart from what is done about it: one small class for each, every one bounded.

A policy detects its failure by the error's type and text, and corrects it: start the trial again from its last
checkpoint, perhaps after a wait, with a larger share of a GPU or with fewer neighbours. When it has done so as often
as it may, the trial is given up with one sentence. The first policy that detects a failure deals with it.

A tracking server that is away is no failure of a trial: see buffered.py.
"""

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from crystalframer.runs.trial import TrialJob

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""System errors of a disk, quota or size limit that is used up."""
_MEMORY_SIGNS = ("CUDA out of memory", "DefaultCPUAllocator: can't allocate", "DefaultCPUAllocator: not enough memory")
_LOST_NODE_SIGNS = ("node has died", "node was terminated", "was preempted", "is unavailable")
"""Ray says of an actor that it is unavailable where its process cannot be reached and no node knows of its end."""
LOST_NODE = "its machine was lost"
WORKER_DIED = "its worker process died"
KILLED_FOR_MEMORY = "its worker process was killed as its machine ran out of memory"


@dataclass(frozen=True)
class Failure:
    """How an attempt at a trial ended, in plain values."""

    reason: str
    """One line."""
    kinds: tuple[str, ...] = ()
    """Names of the error's type, its base types, and those of the errors that caused it."""
    error_numbers: tuple[int, ...] = ()
    """The system's numbers of the errors among them."""
    worker_died: bool = False
    """Whether the process ended without an error of its own."""

    @classmethod
    def of(cls, error: BaseException, reason: str) -> "Failure":
        """Describe an error together with what caused it."""
        chain = list(_causes(error))
        kinds = tuple(dict.fromkeys(base.__name__ for cause in chain for base in type(cause).__mro__))
        numbers = tuple(cause.errno for cause in chain if isinstance(cause, OSError) and cause.errno is not None)
        return cls(reason, kinds, numbers)

    @classmethod
    def of_lost_worker(cls, text: str) -> "Failure":
        """Describe the end of a process that said nothing, given Ray's word of it."""
        if any(sign in text for sign in _LOST_NODE_SIGNS):
            return cls(LOST_NODE, worker_died=True)
        return cls(KILLED_FOR_MEMORY if "low on memory" in text else WORKER_DIED, worker_died=True)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        cause = queue.pop(0)
        if cause is not None and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            queue += [cause.__cause__, cause.__context__]


@dataclass(frozen=True)
class Correction:
    """What is done about a failure: the trial resumes from its last checkpoint."""

    said: str
    """For the user, after the reason."""
    wait_seconds: float = 0.0
    """Not before so many seconds."""
    gpus: float | None = None
    """Share of a GPU from now on, None for the same as before."""
    fewer_neighbours: bool = False
    """Whether one trial less runs at a time from now on."""


class Policy(Protocol):
    """One way to fail, and what to do about it."""

    name: ClassVar[str]
    """As the report calls it."""

    def detects(self, failure: Failure) -> bool:
        """Return whether this is it."""

    def correct(self, failure: Failure, job: TrialJob, times: int) -> Correction | None:
        """Return what to do after so many earlier corrections of this trial; None to give up."""


@dataclass(frozen=True)
class Hopeless:
    """A user's mistake or a training that diverged: the same again would end in the same way."""

    name: ClassVar[str] = "would repeat"

    def detects(self, failure: Failure) -> bool:
        """See `Policy.detects`."""
        return bool({"UserError", "TrainingDivergedError"} & set(failure.kinds))

    def correct(self, failure: Failure, job: TrialJob, times: int) -> Correction | None:
        """Give up."""
        return None


@dataclass(frozen=True)
class OutOfMemory:
    """Memory was asked for and not had, though the trainer already makes its batches in smaller parts."""

    name: ClassVar[str] = "out of memory"
    most: int = 3
    wait_seconds: float = 5.0

    def detects(self, failure: Failure) -> bool:
        """See `Policy.detects`."""
        named = {"OutOfMemoryError", "MemoryError"} & set(failure.kinds)
        return bool(named) or any(sign in failure.reason for sign in (*_MEMORY_SIGNS, KILLED_FOR_MEMORY))

    def correct(self, failure: Failure, job: TrialJob, times: int) -> Correction | None:
        """Give the trial twice its share of a GPU, or the machine one trial less at a time."""
        if times >= self.most or job.gpus >= 1:
            return None
        if job.gpus > 0:
            gpus = min(1.0, 2 * job.gpus)
            return Correction(f"it will resume with {gpus:g} of a GPU", self.wait_seconds, gpus=gpus)
        return Correction("it will resume with one trial less beside it", self.wait_seconds, fewer_neighbours=True)


@dataclass(frozen=True)
class FullDisk:
    """The storage of the run directories, or a quota on it, is used up."""

    name: ClassVar[str] = "full disk"
    most: int = 12
    first_wait_seconds: float = 10.0
    longest_wait_seconds: float = 300.0

    def detects(self, failure: Failure) -> bool:
        """See `Policy.detects`; torch turns a failed write into an error of its own."""
        return bool(set(FULL) & set(failure.error_numbers)) or "No space left on device" in failure.reason

    def correct(self, failure: Failure, job: TrialJob, times: int) -> Correction | None:
        """Wait, ever longer, for someone to free space."""
        if times >= self.most:
            return None
        wait = min(self.longest_wait_seconds, self.first_wait_seconds * 2**times)
        return Correction(f"free space on the disk; it will try again in {wait:.0f} s", wait)


@dataclass(frozen=True)
class LostNode:
    """The machine is gone, as spot instances go: nothing of it says anything against the trial."""

    name: ClassVar[str] = "lost node"
    most: int = 50

    def detects(self, failure: Failure) -> bool:
        """See `Policy.detects`."""
        return failure.worker_died and failure.reason == LOST_NODE

    def correct(self, failure: Failure, job: TrialJob, times: int) -> Correction | None:
        """Go on elsewhere."""
        return None if times >= self.most else Correction("it will resume from its last checkpoint")


@dataclass(frozen=True)
class AnythingElse:
    """A worker process that died, a device that went away, an error nobody foresaw."""

    name: ClassVar[str] = "other failures"
    most: int = 3

    def detects(self, failure: Failure) -> bool:
        """See `Policy.detects`."""
        return True

    def correct(self, failure: Failure, job: TrialJob, times: int) -> Correction | None:
        """Try again from the last checkpoint."""
        return None if times >= self.most else Correction("it will resume from its last checkpoint")


def standard_policies(max_failures: int) -> Sequence[Policy]:
    """Return the policies of a sweep, in the order in which they are asked."""
    memory = OutOfMemory(most=min(OutOfMemory.most, max_failures))
    disk = FullDisk(most=FullDisk.most if max_failures else 0)
    node = LostNode(most=LostNode.most if max_failures else 0)
    return (Hopeless(), memory, disk, node, AnythingElse(max_failures))
