"""Timers: interleaved rounds, so that a noisy machine is noisy to all alike; wall clock and processor time."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeVar

import numba
import torch

from crystalframer.errors import UserError

Key = TypeVar("Key")


@dataclass(frozen=True)
class Sample:
    """One measurement, per call."""

    wall: float
    """s"""
    cpu: float
    """Processor time of all threads in s"""


@dataclass(frozen=True)
class Spread:
    """Median and range over the rounds."""

    median: float
    low: float
    high: float
    cpu: float | None = None
    """Median of the processor time"""

    @classmethod
    def of(cls, samples: list[Sample], scale: float = 1.0) -> "Spread":
        """Summarise, in units of 1/scale s."""
        walls = [scale * sample.wall for sample in samples]
        return cls(median(walls), min(walls), max(walls), scale * median(sample.cpu for sample in samples))


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_calls(call: Callable[[], object], count: int, device: torch.device) -> Sample:
    """Time `count` calls in a row."""
    synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        call()
    synchronize(device)
    return Sample((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)


def interleaved(
    calls: Mapping[Key, Callable[[], object]], repeats: int, seconds: float, device: torch.device
) -> dict[Key, list[Sample]]:
    """Time several calls in `repeats` rounds, each once per round, in an order that turns round every time.

    The first call of each, which fills caches, does not count. A call quicker than `seconds` is made several times in
    a row.
    """
    counts = {key: max(1, math.ceil(seconds / time_calls(call, 1, device).wall)) for key, call in calls.items()}
    samples: dict[Key, list[Sample]] = {key: [] for key in calls}
    for turn in range(repeats):
        for key in list(calls)[:: 1 if turn % 2 == 0 else -1]:
            samples[key].append(time_calls(calls[key], counts[key], device))
    return samples


def ratio(slow: list[Sample], fast: list[Sample]) -> float:
    """Return how many times faster `fast` is: the median over rounds of the wall times' ratio."""
    return median(a.wall / b.wall for a, b in zip(slow, fast, strict=True))


def check_threads(count: int) -> None:
    """Raise a `UserError` where the compiled kernel cannot have that many threads."""
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    if count > most:
        raise UserError(
            f"--threads: got {count}, expected at most {most}, the processors at hand; "
            "choose fewer, or set NUMBA_NUM_THREADS"
        )


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch and the compiled kernels use `count` threads."""
    before = torch.get_num_threads(), numba.get_num_threads()
    try:
        numba.set_num_threads(count)  # which may change torch's
        torch.set_num_threads(count)
        yield
    finally:
        numba.set_num_threads(before[1])
        torch.set_num_threads(before[0])


class Stopwatch:
    """Adds up the time of named stages; on a GPU between events of its stream, without waiting in between."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._started: dict[str, Any] = {}
        self._stages: list[tuple[str, Any, Any]] = []

    def start(self, stage: str) -> None:
        """Begin a stretch of a stage."""
        self._started[stage] = self._now()

    def stop(self, stage: str) -> None:
        """End the stretch under way."""
        self._stages.append((stage, self._started.pop(stage), self._now()))

    def take(self) -> dict[str, float]:
        """Return the seconds per stage since the last call."""
        synchronize(self.device)
        assert not self._started, f"stages under way: {sorted(self._started)}"
        totals: dict[str, float] = {}
        for stage, begin, end in self._stages:
            passed = begin.elapsed_time(end) / 1e3 if self.device.type == "cuda" else end - begin
            totals[stage] = totals.get(stage, 0.0) + passed
        self._stages.clear()
        return totals

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
