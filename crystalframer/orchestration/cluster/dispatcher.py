"""The driver's decisions, apart from Ray: which trial starts next, which ends early, what becomes of failures."""

import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from crystalframer.orchestration.cluster.failures import Failure, Policy
from crystalframer.orchestration.cluster.jobs import JobSource
from crystalframer.runs.trial import TrialJob, TrialProgress


@dataclass
class Outcome:
    """How the trials ended; those in neither are done, stopped early or not finished."""

    failed: dict[str, str] = field(default_factory=dict)
    """Reasons by trial name."""
    interrupted: signal.Signals | None = None
    """The signal that stopped the sweep, if one did."""
    over_budget: str = ""
    """What was used up, if the budget stopped the sweep."""
    unrecorded: bool = False
    """Whether MLflow lacks something because it was away to the end."""
    corrections: Counter[str] = field(default_factory=Counter)
    """How often each policy started a trial again."""

    @property
    def stopping(self) -> bool:
        """Whether the sweep ends before its trials do."""
        return self.interrupted is not None or bool(self.over_budget)


class Dispatcher:
    """Stands between a source of jobs and whatever runs them."""

    def __init__(
        self,
        source: JobSource,
        policies: Sequence[Policy],
        change: Callable[..., None],
        say: Callable[[str], None],
        *,
        max_concurrent: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Hand out the jobs of `source`, at most so many at a time, and correct their failures.

        `change`, of the screen, is told how each trial stands, `say` why the sweep ends before its trials do.
        """
        self.outcome = Outcome()
        self.running: dict[str, TrialJob] = {}
        self._source = source
        self._policies = policies
        self._change, self._say = change, say
        self._most = max_concurrent
        self._clock = clock
        self._again: list[tuple[float, TrialJob]] = []
        self._corrected: Counter[tuple[str, str]] = Counter()

    @property
    def finished(self) -> bool:
        """Whether no job will be handed out any more."""
        if self.outcome.stopping:
            return True
        return not self.running and not self._again and self._source.exhausted

    def next_job(self) -> TrialJob | None:
        """Return the next job to start, None when there is none at the moment."""
        if self.outcome.stopping or (self._most is not None and len(self.running) >= self._most):
            return None
        job = self._ready_again() or self._source.next_job()
        if job is not None:
            self.running[job.name] = job
        return job

    def started(self, name: str) -> None:
        """Hear that a worker took up a job."""
        self._change(name, "running")

    def stops_here(self, name: str, progress: TrialProgress) -> bool:
        """Hear of an epoch, and return whether the trial ends with it."""
        self._change(name, "running", progress)
        if not self._source.stops_here(name, progress):
            return False
        del self.running[name]
        self._change(name, "stopped early", progress)
        return True

    def done(self, name: str, progress: TrialProgress) -> None:
        """Hear of a trial's result."""
        del self.running[name]
        self._change(name, "running", progress)
        self._source.finished(name, progress)

    def stopped(self, name: str) -> None:
        """Hear of a trial that ended because it was asked to."""
        self.running.pop(name, None)

    def failed(self, name: str, failure: Failure) -> None:
        """Correct a failure, or give the trial up."""
        job = self.running.pop(name)
        policy = next(policy for policy in self._policies if policy.detects(failure))
        times = self._corrected[name, policy.name]
        correction = policy.correct(failure, job, times)
        if correction is None:
            reason = failure.reason if not times else f"{failure.reason} (after {times} new attempts)"
            self.outcome.failed[name] = reason
            self._change(name, "failed", reason=reason)
            self._source.failed(name, reason)
            return
        self._corrected[name, policy.name] += 1
        self.outcome.corrections[policy.name] += 1
        if correction.gpus is not None:
            job = replace(job, gpus=correction.gpus)
        if correction.fewer_neighbours:
            self._most = max(1, len(self.running))
        self._again.append((self._clock() + correction.wait_seconds, job))
        self._change(name, "interrupted", reason=f"{failure.reason}; {correction.said}")

    def stop(self, reason: signal.Signals | str) -> None:
        """End the sweep: because of a signal, or because a budget is used up."""
        if self.outcome.stopping:
            return
        if isinstance(reason, signal.Signals):
            self.outcome.interrupted = reason
            self._say("stopping: running trials save a checkpoint (once more to stop at once)")
        else:
            self.outcome.over_budget = reason
            self._say(f"stopping, {reason}: running trials save a checkpoint")

    def _ready_again(self) -> TrialJob | None:
        """Return a job that was started before, once its wait is over."""
        for entry in self._again:
            if entry[0] <= self._clock():
                self._again.remove(entry)
                return entry[1]
        return None
