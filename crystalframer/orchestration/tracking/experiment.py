"""MLflow as the tracker of a trial, and as the record of a sweep that the driver keeps in order."""

import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from crystalframer.config import FrameName
from crystalframer.environment import variable
from crystalframer.errors import UserError
from crystalframer.orchestration.tracking.client import STARTED_FIRST, all_experiments, all_runs, cannot_use, connect
from crystalframer.orchestration.tracking.first_screen import (
    CHARTS_TAG,
    VIEW_TAG,
    charts,
    dataset_of,
    overview,
    run_title,
    source_tags,
    standing_tags,
)
from crystalframer.runs.tracker import History, Params, RunStatus, StepMetrics, Tags, Tracker, is_of_another_training

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run

NOTE_TAG = "mlflow.note.content"
"""The tag that MLflow's page shows as the description of a run or experiment."""
FRAMES_TAG = "frames"
"""The tag of an experiment that names the frames that its sweep asks for."""
_METRICS_PER_REQUEST = 1000
_Item = TypeVar("_Item")


class MlflowTracker(Tracker):
    """Records a run in MLflow, found by its ``run_key`` tag within one experiment.

    Metrics are sent in batches and synchronously: when `log_metrics` returns, they are recorded.
    """

    def __init__(self, tracking_uri: str, experiment_id: str, *, watching: bool = False) -> None:
        """Record into an existing experiment; with `watching`, also how busy the machine is while a run lasts."""
        self._client = connect(tracking_uri)
        self._experiment_id = experiment_id
        self._watching = watching
        self._monitor: Any = None
        self._run_id = ""
        self._held: set[tuple[str, int]] = set()

    def start(self, key: str, params: Params, tags: Tags, history: History = None) -> None:
        """See `Tracker.start`; name, data set and commit are where MLflow's page shows them."""
        from mlflow.entities import Param

        run = self._find(key)
        held = {} if run is None else self._metrics(run)
        if run is not None and history is not None and is_of_another_training(held, history):
            self._set_aside(run, key)
            run, held = None, {}
        if run is None:
            title = run_title(key, params)
            every = {**source_tags(tags), **tags, "run_key": key}
            run = self._client.create_run(self._experiment_id, tags=every, run_name=title)
        else:
            self._client.update_run(run.info.run_id, status="RUNNING")
        self._run_id = run.info.run_id
        self._held = set(held)
        missing = [Param(name, str(value)) for name, value in params.items() if name not in run.data.params]
        for batch in _batches(missing, 100):
            self._client.log_batch(self._run_id, params=batch)
        self.set_tags({name: value for name, value in tags.items() if run.data.tags.get(name) != value})
        if (dataset := dataset_of(params, tags)) is not None and not (run.inputs and run.inputs.dataset_inputs):
            self._log_dataset(dataset)
        self.log_metrics(history or ())
        self._watch()

    def log_metrics(self, steps: Iterable[StepMetrics]) -> None:
        """See `Tracker.log_metrics`."""
        from mlflow.entities import Metric

        steps = list(steps)
        new = [
            Metric(name, value, entry.time_ms, entry.step)
            for entry in steps
            for name, value in entry.values.items()
            if (name, entry.step) not in self._held
        ]
        for batch in _batches(new, _METRICS_PER_REQUEST):
            self._client.log_batch(self._run_id, metrics=batch)
            self._held |= {(metric.key, metric.step) for metric in batch}
        if steps:
            self.set_tags(standing_tags(steps[-1].step, steps[-1].values))

    def log_artifact(self, path: Path, folder: str) -> None:
        """See `Tracker.log_artifact`."""
        self._client.log_artifact(self._run_id, str(path), folder or None)

    def set_tags(self, tags: Tags) -> None:
        """See `Tracker.set_tags`."""
        from mlflow.entities import RunTag

        if tags:
            self._client.log_batch(self._run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def finish(self, status: RunStatus) -> None:
        """See `Tracker.finish`."""
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
        self._client.set_terminated(self._run_id, status)

    def _log_dataset(self, dataset: "DatasetInput") -> None:
        """Record what the run learned from.

        MLflow looks whether it knows a data set and then adds it: of trials that start at once, it refuses all but one.
        """
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_inputs(self._run_id, [dataset])
        except MlflowException as error:
            if error.error_code != "BAD_REQUEST":
                raise
            self._client.log_inputs(self._run_id, [dataset])  # now it knows it

    def _watch(self) -> None:
        """Record use of cores, memory, disk, network and GPUs, unless MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING says no."""
        if not self._watching or (variable("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING") or "").lower() not in ("true", "1"):
            return
        from mlflow.system_metrics import system_metrics_monitor

        monitor: Any = system_metrics_monitor.SystemMetricsMonitor  # MLflow leaves it without types
        self._monitor = monitor(self._run_id, resume_logging=True, tracking_uri=self._client.tracking_uri)
        self._monitor.start()

    def _metrics(self, run: "Run") -> dict[tuple[str, int], float]:
        """Return all values of a run by metric and step."""
        return {
            (metric, entry.step): entry.value
            for metric in run.data.metrics
            if not metric.startswith("system/")  # of the machine, not of the training
            for entry in self._client.get_metric_history(run.info.run_id, metric)
        }

    def _set_aside(self, run: "Run", key: str) -> None:
        """Keep the run of an earlier training, but so that nothing takes it for the present one."""
        from mlflow.entities import RunTag

        run_id = run.info.run_id
        if run.info.status == "RUNNING":
            self._client.set_terminated(run_id, "KILLED")
        self._client.update_run(run_id, name=f"{key} (earlier)")
        self._client.log_batch(run_id, tags=[RunTag("current", "false"), RunTag("earlier_run_of", key)])
        self._client.delete_tag(run_id, "run_key")  # last: until here, a broken connection lets all be repeated

    def _find(self, key: str) -> "Run | None":
        found = self._client.search_runs(
            [self._experiment_id], f"tags.run_key = '{key}'", max_results=1, order_by=[STARTED_FIRST]
        )
        return found[0] if found else None


@dataclass(frozen=True)
class RecordedRun:
    """A run as MLflow holds it."""

    run_id: str
    status: str
    current: bool
    """Whether it is tagged as belonging to the sweep as the file reads now."""


class MlflowExperiment:
    """The runs of one sweep."""

    def __init__(self, tracking_uri: str, name: str, *, lasting_uri: str | None = None) -> None:
        """Find the experiment or create it, and the database's tables where there are none yet.

        Args:
            tracking_uri: where it is recorded.
            name: its name.
            lasting_uri: where it is found later, if not there: a server of our own ends with its sweep.

        Raises:
            UserError: MLflow does not answer, or the experiment was deleted.
        """
        self.tracking_uri = tracking_uri
        self._client = connect(tracking_uri)
        from mlflow.exceptions import MlflowException

        try:
            experiment = self._client.get_experiment_by_name(name)
        except MlflowException as error:
            raise cannot_use(tracking_uri, error) from error
        if experiment is not None and experiment.lifecycle_stage != "active":
            place = shlex.quote(lasting_uri or tracking_uri)
            raise UserError(
                f"the MLflow experiment {name!r} was deleted: restore it with `MLFLOW_TRACKING_URI={place} mlflow "
                f"experiments restore --experiment-id {experiment.experiment_id}`, or rename the sweep file"
            )
        self.id = experiment.experiment_id if experiment is not None else self._client.create_experiment(name)

    def tracker(self) -> MlflowTracker:
        """Return a tracker that records into this experiment."""
        return MlflowTracker(self.tracking_uri, self.id)

    def runs(self) -> dict[str, RecordedRun]:
        """Return the trials' runs by key."""
        found: dict[str, RecordedRun] = {}
        for run in all_runs(self._client, self.id):
            current = run.data.tags.get("current") == "true"
            if "kind" not in run.data.tags and (key := run.data.tags.get("run_key")):
                found.setdefault(key, RecordedRun(run.info.run_id, run.info.status, current))
        return found

    def mark_current(
        self,
        keys: Collection[str],
        description: str,
        targets: Mapping[str, str] | None = None,
        frames: Collection[FrameName] = (),
        varied: Sequence[str] = (),
    ) -> dict[str, RecordedRun]:
        """Tag which runs belong to the sweep as its file reads now, how many it asks for, and what the UI shows.

        Args:
            keys: of those runs.
            description: of the sweep.
            targets: the unit of each task.
            frames: that the sweep asks for; not tagged where none are named.
            varied: settings by dotted name in which the trials differ.

        Returns:
            The trials' runs by key, as they were before: to ask for thousands takes a minute.
        """
        self._client.set_experiment_tag(self.id, VIEW_TAG, overview(targets or {}, varied))
        self._client.set_experiment_tag(self.id, CHARTS_TAG, charts(targets or {}, varied))
        self.set_num_trials(len(keys))
        self._client.set_experiment_tag(self.id, NOTE_TAG, description)
        if frames:
            self._client.set_experiment_tag(self.id, FRAMES_TAG, ",".join(sorted(frames)))
        found = self.runs()
        for key, run in found.items():
            if run.current != (key in keys):
                self._client.set_tag(run.run_id, "current", "true" if key in keys else "false")
        return found

    def set_num_trials(self, number: int) -> None:
        """Tag how many trials the sweep asks for."""
        self._client.set_experiment_tag(self.id, "num_trials", str(number))

    def record(
        self, kind: str, tags: Mapping[str, str], params: Mapping[str, object], files: Iterable[Path]
    ) -> MlflowTracker:
        """Record what the trials showed together, in the one run of its kind, which is named so; it is no trial."""
        tracker = self.tracker()
        tracker.start(kind, params, {**tags, "kind": kind, "current": "false"})
        for path in files:
            tracker.log_artifact(path, "")
        return tracker

    def end_abandoned(self, status_by_key: Mapping[str, RunStatus], runs: Mapping[str, RecordedRun]) -> None:
        """Set the status of runs that still say RUNNING though nobody runs them: KILLED, or as `status_by_key` says."""
        for key, run in runs.items():
            status = status_by_key.get(key, "KILLED")
            if run.status == "RUNNING" or (status == "FAILED" and run.status != "FAILED"):
                self._client.set_terminated(run.run_id, status)


def described(tracking_uri: str) -> dict[str, str]:
    """Return the id of each experiment of ours that has pages to open with, by its name, the latest first."""
    return {one.name: one.experiment_id for one in all_experiments(connect(tracking_uri)) if VIEW_TAG in one.tags}


def _batches(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
