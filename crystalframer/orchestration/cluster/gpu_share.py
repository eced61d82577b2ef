"""How many trials share a GPU, from the memory that the first one was seen to hold."""

import math
from dataclasses import replace

from crystalframer.orchestration.cluster.jobs import JobSource
from crystalframer.runs.trial import TrialJob, TrialProgress

MARGIN = 1.15
"""Room for batches larger than any seen so far."""
CONTEXT_BYTES = 600 * 1024**2
"""What every further process takes for the GPU's own code and libraries, which torch does not count."""
USABLE = 0.95
"""Share of a GPU's memory that trials may use together."""
MOST_PER_GPU = 16
"""More trials than this slow each other down."""


def trials_per_gpu(peak_bytes: int, device_bytes: int) -> int:
    """Return how many trials with such a peak of memory fit on a device; at least one."""
    each = peak_bytes * MARGIN + CONTEXT_BYTES
    return max(1, min(MOST_PER_GPU, math.floor(device_bytes * USABLE / each)))


def gpu_share(peak_bytes: int, device_bytes: int) -> float:
    """Return the share of a GPU to ask for; rounded down, so that as many shares fit as are meant to."""
    return math.floor(1e4 / trials_per_gpu(peak_bytes, device_bytes)) / 1e4


class MeasuredJobs:
    """Jobs of another source, the first of them alone on a GPU; the others share GPUs by what that one needed.

    Every later epoch counts as well: shares grow with the largest memory seen in this sweep. A trial that asked for
    too little all the same is started again with more (failures.py).
    """

    def __init__(self, source: JobSource, known: tuple[int, int] | None = None) -> None:
        """Share out GPUs among a source's jobs; `known` is the memory held and there, from earlier trials."""
        self._source = source
        self._memory = known
        self._probing: str | None = None

    @property
    def exhausted(self) -> bool:
        """See `JobSource.exhausted`."""
        return self._source.exhausted

    def next_job(self) -> TrialJob | None:
        """See `JobSource.next_job`; none while the first trial's memory is not known."""
        if self._probing is not None and self._memory is None:
            return None
        job = self._source.next_job()
        if job is None:
            return None
        if self._memory is None:
            self._probing = job.name
            return _with_share(job, 1.0)
        return _with_share(job, gpu_share(*self._memory))

    def stops_here(self, name: str, progress: TrialProgress) -> bool:
        """See `JobSource.stops_here`."""
        self._learn(progress)
        return self._source.stops_here(name, progress)

    def finished(self, name: str, progress: TrialProgress) -> None:
        """See `JobSource.finished`."""
        self._learn(progress)
        self._forget(name)
        self._source.finished(name, progress)

    def failed(self, name: str, reason: str) -> None:
        """See `JobSource.failed`."""
        self._forget(name)
        self._source.failed(name, reason)

    def _learn(self, progress: TrialProgress) -> None:
        if progress.peak_bytes is None or progress.device_bytes is None:
            return
        peak = progress.peak_bytes if self._memory is None else max(progress.peak_bytes, self._memory[0])
        device = progress.device_bytes if self._memory is None else min(progress.device_bytes, self._memory[1])
        self._memory = peak, device

    def _forget(self, name: str) -> None:
        """Let another trial be the first when this one ended without a word about its memory."""
        if self._probing == name:
            self._probing = None


def _with_share(job: TrialJob, gpus: float) -> TrialJob:
    return replace(job, gpus=gpus, device="cuda")
