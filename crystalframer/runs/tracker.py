"""The five verbs of an experiment tracker, so that no trial asks which tracker it has.

`Tracker` itself does nothing; `MlflowTracker` (orchestration/tracking/experiment.py) writes to MLflow. It promises that
a run is found by its key and never made twice, and that a (metric, step) which a run already holds is never logged
again, so that a trial which resumes may simply replay what it knows.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

RunStatus = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
"""MLflow's run states; KILLED is a run that was stopped and can be resumed."""


@dataclass(frozen=True)
class StepMetrics:
    """What was measured at one step of a run."""

    step: int
    """The epoch, from 1."""
    time_ms: int
    """When it was measured, in milliseconds since 1970."""
    values: Mapping[str, float]
    """By metric name, e.g. ``val/mae_eV_per_atom``."""


Params = Mapping[str, object]
"""Settings of a run by dotted key."""
Tags = Mapping[str, str]
"""What else is known of it."""
History = Sequence[StepMetrics] | None
"""All that a training has measured so far; None where that is not known."""


def seconds_of(steps: Iterable[StepMetrics]) -> float:
    """Return the wall-clock time of epochs in s."""
    return sum(entry.values["seconds_per_epoch"] for entry in steps)


def median_seconds(steps: Iterable[StepMetrics]) -> float | None:
    """Return the wall-clock time of the median epoch in s: a machine busy or asleep meanwhile counts little."""
    seconds = [entry.values["seconds_per_epoch"] for entry in steps if "seconds_per_epoch" in entry.values]
    return statistics.median(seconds) if seconds else None


def is_of_another_training(held: Mapping[tuple[str, int], float], history: Sequence[StepMetrics]) -> bool:
    """Return whether a run's metrics cannot be those of the training with this history.

    A metric is recorded only after its epoch is on disk, so that a training without a history has nothing recorded,
    and what is recorded of any other repeats its history; only the errors on the test set are not part of it.

    Args:
        held: values by metric and step.
        history: all that the training has measured so far.
    """
    if not history:
        return bool(held)
    return any(
        value != held.get((name, entry.step), value)
        for entry in history
        for name, value in entry.values.items()
        if math.isfinite(value)  # a database keeps others as the largest number, or as 0
    )


class Tracker:
    """Records one run: a trial from its start, or a later attempt's resume, to its end. This one records nothing."""

    def start(self, key: str, params: Params, tags: Tags, history: History = None) -> None:
        """Find the run with this key or create it, with its settings and tags; its status is RUNNING.

        A run that holds another training's numbers (`is_of_another_training`) loses its key and a fresh one is made.

        Args:
            key: what the run is found by.
            params: its settings.
            tags: what else is known of it.
            history: of this training; what the run lacks of it is recorded.
        """

    def log_metrics(self, steps: Iterable[StepMetrics]) -> None:
        """Record the metrics of some steps, but none that the run already holds for its step."""

    def log_artifact(self, path: Path, folder: str) -> None:
        """Keep a copy of a file under a folder ("" for none) of the run; one of the same name is replaced."""

    def set_tags(self, tags: Tags) -> None:
        """Set tags, replacing those of the same name."""

    def finish(self, status: RunStatus) -> None:
        """Make sure that everything is recorded and set how the run ended."""
