"""Where the driver gets the jobs from that it hands to workers, and what each of them occupies."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import Field

from crystalframer.runs.trial import Trial, TrialJob, TrialProgress
from crystalframer.validation import Whole


@dataclass(frozen=True)
class Resources:
    """What one trial occupies."""

    cpus_per_trial: Annotated[Whole, Field(ge=1, le=10_000)] = 1
    """CPU cores, and threads of every numeric library."""
    gpus_per_trial: float = 0.0
    """GPUs; a fraction lets several trials share one."""
    measured: bool = False
    """Whether trials share GPUs by the memory that the first one was seen to need (``gpus_per_trial: auto``)."""


class JobSource(Protocol):
    """Where jobs come from: a list, or a search that decides as results come in. Used by one thread."""

    @property
    def exhausted(self) -> bool:
        """Whether no further job will come."""

    def next_job(self) -> TrialJob | None:
        """Return the next job to start, None when there is none at the moment."""

    def stops_here(self, name: str, progress: TrialProgress) -> bool:
        """Hear of an epoch, and return whether the trial ends with it; the decision is on disk by then."""

    def finished(self, name: str, progress: TrialProgress) -> None:
        """Hear of a trial that is done."""

    def failed(self, name: str, reason: str) -> None:
        """Hear of a trial that was given up."""


class JobList:
    """Trials in a fixed order, each made into a job when its turn comes."""

    def __init__(self, trials: Iterable[Trial], make_job: Callable[[Trial], TrialJob]) -> None:
        """Hand out these trials."""
        self._trials = deque(trials)
        self._make_job = make_job

    @property
    def exhausted(self) -> bool:
        """See `JobSource.exhausted`."""
        return not self._trials

    def next_job(self) -> TrialJob | None:
        """See `JobSource.next_job`."""
        return self._make_job(self._trials.popleft()) if self._trials else None

    def stops_here(self, name: str, progress: TrialProgress) -> bool:
        """See `JobSource.stops_here`; every trial runs to its last epoch."""
        return False

    def finished(self, name: str, progress: TrialProgress) -> None:
        """See `JobSource.finished`."""

    def failed(self, name: str, reason: str) -> None:
        """See `JobSource.failed`."""
