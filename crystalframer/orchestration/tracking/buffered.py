"""A tracker that bears with a server which is away: training goes on, and what was not recorded is recorded later.

The failure is detected by the error (`away`), the action is to keep what there is to say and to try again, ever more
seldom, and it is bounded: at a trial's end the tracker waits a last time, then lets go. Nothing is lost by that, since
the run directory holds everything and the driver brings the tracking server up to it at the end of a sweep and at the
start of the next.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from crystalframer.orchestration.tracking.client import is_away
from crystalframer.orchestration.tracking.experiment import MlflowTracker
from crystalframer.runs.tracker import History, Params, RunStatus, StepMetrics, Tags, Tracker

FIRST_WAIT_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 60.0
WAITING_SHARE = 0.1
"""Share of its time that a training spends at most on asking a server that does not answer."""
LAST_PATIENCE_SECONDS = 90.0
"""How long the end of a trial waits for the server."""


class PatientTracker(Tracker):
    """Passes everything on to a tracker, in order, as soon as that one can be reached."""

    def __init__(
        self,
        tracker: Tracker,
        away: Callable[[Exception], bool],
        *,
        patience: float = LAST_PATIENCE_SECONDS,
        first_wait: float = FIRST_WAIT_SECONDS,
    ) -> None:
        """Wrap a tracker; `away` tells which of its errors mean that the server is away."""
        self._tracker = tracker
        self._away = away
        self._patience = patience
        self._first_wait = first_wait
        self._wait = first_wait
        self._not_before = 0.0
        self._left: list[Callable[[], None]] = []

    @property
    def behind(self) -> int:
        """How many entries the server has not got yet."""
        return len(self._left)

    def start(self, key: str, params: Params, tags: Tags, history: History = None) -> None:
        """See `Tracker.start`."""
        self._say(lambda: self._tracker.start(key, params, tags, history))

    def log_metrics(self, steps: Iterable[StepMetrics]) -> None:
        """See `Tracker.log_metrics`."""
        kept = list(steps)
        if kept:
            self._say(lambda: self._tracker.log_metrics(kept))

    def log_artifact(self, path: Path, folder: str) -> None:
        """See `Tracker.log_artifact`; a file replaced meanwhile is recorded as it is when the server is back."""
        self._say(lambda: self._tracker.log_artifact(path, folder))

    def set_tags(self, tags: Tags) -> None:
        """See `Tracker.set_tags`."""
        self._say(lambda: self._tracker.set_tags(tags))

    def finish(self, status: RunStatus) -> None:
        """See `Tracker.finish`; waits for the server, but not for ever."""
        self._say(lambda: self._tracker.finish(status))
        deadline = time.monotonic() + (self._patience if status == "FINISHED" else self._first_wait)
        while self._left and time.monotonic() < deadline:
            time.sleep(max(0.0, min(self._not_before, deadline) - time.monotonic()))
            self._catch_up()

    def _say(self, entry: Callable[[], None]) -> None:
        self._left.append(entry)
        if time.monotonic() >= self._not_before:
            self._catch_up()

    def _catch_up(self) -> None:
        while self._left:
            asked = time.monotonic()
            try:
                self._left[0]()
            except Exception as error:  # re-raised unless the server is away
                now = time.monotonic()
                if not self._away(error):
                    raise
                self._not_before = now + max(self._wait, (now - asked) / WAITING_SHARE)
                self._wait = min(LONGEST_WAIT_SECONDS, 2 * self._wait)
                return
            self._wait = self._first_wait
            del self._left[0]


def mlflow_tracker(tracking_uri: str, experiment_id: str, credentials: Mapping[str, str]) -> PatientTracker:
    """Return what a trial records with in MLflow, on whichever machine it runs.

    Args:
        tracking_uri: the server, or a database.
        experiment_id: of an experiment that exists.
        credentials: what the driver signs in with (`gate.credentials`), for a machine whose environment lacks it.
    """
    os.environ |= credentials
    return PatientTracker(MlflowTracker(tracking_uri, experiment_id, watching=True), is_away)
