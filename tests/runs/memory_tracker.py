"""A tracker that keeps in memory what MLflow would hold, for tests to look at."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from crystalframer.runs.tracker import History, Params, RunStatus, StepMetrics, Tags, Tracker, is_of_another_training

_TIMES = ("seconds_per_epoch", "test/ms_per_material")


def repeats(metric: str) -> bool:
    """Whether a metric is the same in every run of a trial: no time, and nothing that MLflow measured of a machine."""
    return metric not in _TIMES and not metric.startswith("system/")


def repeatable(metrics: Mapping[tuple[str, int], float]) -> dict[tuple[str, int], float]:
    """Return the values, by metric and step, that a trial has whenever it is run."""
    return {key: value for key, value in metrics.items() if repeats(key[0])}


@dataclass
class MemoryRun:
    """What a tracker holds of a run."""

    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[tuple[str, int], float] = field(default_factory=dict)
    """Values by metric and step."""
    artifacts: dict[str, bytes] = field(default_factory=dict)
    """Contents by path within the run."""
    status: RunStatus = "RUNNING"


class MemoryTracker(Tracker):
    """Keeps runs in a dictionary that outlives it, as a server outlives its clients."""

    def __init__(self, runs: dict[str, MemoryRun]) -> None:
        """Record into `runs`, by key."""
        self.runs = runs
        self._key = ""

    def start(self, key: str, params: Params, tags: Tags, history: History = None) -> None:
        """See `Tracker.start`."""
        self._key = key
        if key in self.runs and history is not None and is_of_another_training(self.runs[key].metrics, history):
            del self.runs[key]
        run = self.runs.setdefault(key, MemoryRun())
        run.params |= {name: str(value) for name, value in params.items()}
        run.tags |= {**tags, "run_key": key}
        self.log_metrics(history or ())
        run.status = "RUNNING"

    def log_metrics(self, steps: Iterable[StepMetrics]) -> None:
        """See `Tracker.log_metrics`."""
        for entry in steps:
            for name, value in entry.values.items():
                self._run.metrics.setdefault((name, entry.step), value)

    def log_artifact(self, path: Path, folder: str) -> None:
        """See `Tracker.log_artifact`."""
        self._run.artifacts[f"{folder}/{path.name}" if folder else path.name] = path.read_bytes()

    def set_tags(self, tags: Tags) -> None:
        """See `Tracker.set_tags`."""
        self._run.tags |= tags

    def finish(self, status: RunStatus) -> None:
        """See `Tracker.finish`."""
        self._run.status = status

    @property
    def _run(self) -> MemoryRun:
        return self.runs[self._key]
