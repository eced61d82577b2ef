"""MLflow as the tracker of a trial, and as the record of a sweep that the driver keeps in order."""

import os
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from crystalframer.environment import holding, reach_directly
from crystalframer.errors import UserError
from crystalframer.orchestration.tracking.first_screen import VIEW_TAG, overview, overview_page, run_title
from crystalframer.runs.tracker import RunStatus, StepMetrics, Tracker, is_of_another_training

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # who waits longer than seconds is ours to say: buffered.py
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}
"""Set in every process of ours that talks to MLflow, unless the user set them otherwise."""
_PROBE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""How patient a first question is."""
NOTE_TAG = "mlflow.note.content"
"""The tag that MLflow's page shows as the description of a run or experiment."""
_METRICS_PER_REQUEST = 1000
_AWAY = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED", "ABORTED")
_Item = TypeVar("_Item")


def be_quiet() -> None:
    """Set what every process of ours tells MLflow, before MLflow is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def connect(tracking_uri: str) -> "MlflowClient":
    """Return a client of a tracking server or database.

    Raises:
        UserError: the address is none that MLflow can use.
    """
    be_quiet()
    reach_directly(tracking_uri)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return MlflowClient(tracking_uri)
    except MlflowException as error:
        raise _cannot_use(tracking_uri, error) from error


def check_server(tracking_uri: str) -> None:
    """Check that an MLflow server answers at an address and lets us in, asked as it will be asked later.

    Raises:
        UserError: none answers, it refuses the login, or it is another program.
    """
    client = connect(tracking_uri)
    from mlflow.exceptions import MlflowException

    try:
        with holding(_PROBE):
            client.search_experiments(max_results=1)
    except (MlflowException, ValueError) as error:  # JSON that is none is a ValueError
        raise UserError(_why_not(tracking_uri, error)) from error


def _why_not(tracking_uri: str, error: Exception) -> str:
    code = getattr(error, "error_code", "")
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return (
            f"the MLflow server at {tracking_uri} refuses the login: set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )
    if is_away(error) and "not in a valid JSON format" not in str(error):
        return f"no MLflow server answers at {tracking_uri}; check --tracking-uri, or leave it out for a local one"
    return f"what answers at {tracking_uri} is no MLflow server; check --tracking-uri, or leave it out for a local one"


def is_away(error: Exception) -> bool:
    """Return whether an error of MLflow's client means that its server, or the server's database, cannot be reached."""
    import requests
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code in _AWAY
    if isinstance(error, requests.HTTPError):
        return error.response is None or error.response.status_code >= 500
    return isinstance(error, requests.RequestException | ConnectionError)


class MlflowTracker(Tracker):
    """Records a run in MLflow, found by its ``run_key`` tag within one experiment.

    Metrics are sent in batches and synchronously: when `log_metrics` returns, they are recorded.
    """

    def __init__(self, tracking_uri: str, experiment_id: str) -> None:
        """Record into an existing experiment."""
        self._client = connect(tracking_uri)
        self._experiment_id = experiment_id
        self._run_id = ""
        self._held: set[tuple[str, int]] = set()

    def start(
        self,
        key: str,
        params: Mapping[str, object],
        tags: Mapping[str, str],
        history: Sequence[StepMetrics] | None = None,
    ) -> None:
        """See `Tracker.start`; the run's name is made for people."""
        from mlflow.entities import Param

        run = self._find(key)
        held = {} if run is None else self._metrics(run)
        if run is not None and history is not None and is_of_another_training(held, history):
            self._set_aside(run, key)
            run, held = None, {}
        if run is None:
            title = run_title(key, params)
            run = self._client.create_run(self._experiment_id, tags={**tags, "run_key": key}, run_name=title)
        else:
            self._client.update_run(run.info.run_id, status="RUNNING")
        self._run_id = run.info.run_id
        self._held = set(held)
        missing = [Param(name, str(value)) for name, value in params.items() if name not in run.data.params]
        for batch in _batches(missing, 100):
            self._client.log_batch(self._run_id, params=batch)
        self.set_tags({name: value for name, value in tags.items() if run.data.tags.get(name) != value})

    def log_metrics(self, steps: Iterable[StepMetrics]) -> None:
        """See `Tracker.log_metrics`."""
        from mlflow.entities import Metric

        new = [
            Metric(name, value, entry.time_ms, entry.step)
            for entry in steps
            for name, value in entry.values.items()
            if (name, entry.step) not in self._held
        ]
        for batch in _batches(new, _METRICS_PER_REQUEST):
            self._client.log_batch(self._run_id, metrics=batch)
            self._held |= {(metric.key, metric.step) for metric in batch}

    def log_artifact(self, path: Path, folder: str) -> None:
        """See `Tracker.log_artifact`."""
        self._client.log_artifact(self._run_id, str(path), folder or None)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """See `Tracker.set_tags`."""
        from mlflow.entities import RunTag

        if tags:
            self._client.log_batch(self._run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def finish(self, status: RunStatus) -> None:
        """See `Tracker.finish`."""
        self._client.set_terminated(self._run_id, status)

    def _metrics(self, run: "Run") -> dict[tuple[str, int], float]:
        """Return all values of a run by metric and step."""
        return {
            (metric, entry.step): entry.value
            for metric in run.data.metrics
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
            [self._experiment_id], f"tags.run_key = '{key}'", max_results=1, order_by=["attributes.start_time ASC"]
        )
        return found[0] if found else None


@dataclass(frozen=True)
class RecordedRun:
    """A run as MLflow holds it."""

    run_id: str
    status: str
    current: bool
    """Whether it is tagged as belonging to the sweep as the file reads now."""
    metrics: Mapping[str, float]
    """The latest value of each metric."""


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
            raise _cannot_use(tracking_uri, error) from error
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
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self.id], max_results=1000, order_by=["attributes.start_time ASC"], page_token=token
            )
            for run in page:
                current = run.data.tags.get("current") == "true"
                if "kind" not in run.data.tags and (key := run.data.tags.get("run_key")):
                    found.setdefault(key, RecordedRun(run.info.run_id, run.info.status, current, run.data.metrics))
            token = page.token
            if not token:
                return found

    def mark_current(self, keys: Collection[str], description: str, units: Iterable[str] = ()) -> None:
        """Tag which runs belong to the sweep as its file reads now, how many it asks for, and what the UI shows."""
        self._client.set_experiment_tag(self.id, VIEW_TAG, overview(units))
        self.set_num_trials(len(keys))
        self._client.set_experiment_tag(self.id, NOTE_TAG, description)
        for key, run in self.runs().items():
            if run.current != (key in keys):
                self._client.set_tag(run.run_id, "current", "true" if key in keys else "false")

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

    def end_abandoned(self, status_by_key: Mapping[str, RunStatus]) -> None:
        """Set the status of runs that still say RUNNING though nobody runs them: KILLED, or as `status_by_key` says."""
        for key, run in self.runs().items():
            status = status_by_key.get(key, "KILLED")
            if run.status == "RUNNING" or (status == "FAILED" and run.status != "FAILED"):
                self._client.set_terminated(run.run_id, status)


def overviews(tracking_uri: str) -> dict[str, str]:
    """Return the page that opens each experiment of ours, by its name, the latest first."""
    experiments = connect(tracking_uri).search_experiments(order_by=["last_update_time DESC"])
    return {one.name: overview_page(one.experiment_id) for one in experiments if VIEW_TAG in one.tags}


def _cannot_use(tracking_uri: str, error: Exception) -> UserError:
    reason = str(error).strip().partition("\n")[0]
    return UserError(f"cannot use MLflow at {tracking_uri}: {reason}; check --tracking-uri")


def _batches(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
