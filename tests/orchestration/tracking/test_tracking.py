"""What every tracker promises, tried on the in-memory twin and on MLflow."""

import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.entities import Run

from crystalframer.errors import UserError
from crystalframer.orchestration.tracking import client as tracking_client
from crystalframer.orchestration.tracking.client import connect
from crystalframer.orchestration.tracking.experiment import MlflowExperiment, MlflowTracker, described
from crystalframer.orchestration.tracking.first_screen import EPOCH_TAG, ERROR_TAG, run_title
from crystalframer.orchestration.tracking.server import database_uri
from crystalframer.runs.tracker import StepMetrics, Tracker
from tests.runs.memory_tracker import MemoryRun, MemoryTracker

READERS = ("memory", "mlflow")


class Place:
    """Makes trackers of one place, and reads what they recorded as the in-memory twin would hold it."""

    def __init__(self, make: Callable[[], Tracker], read: Callable[[], dict[str, MemoryRun]]) -> None:
        self.make = make
        self.read = read


@pytest.fixture(params=READERS)
def place(request: pytest.FixtureRequest) -> Place:
    """A place to record in, empty."""
    if request.param == "memory":
        runs: dict[str, MemoryRun] = {}
        return Place(lambda: MemoryTracker(runs), lambda: runs)
    _, uri = request.getfixturevalue("mlflow_runs")
    experiment = MlflowExperiment(uri, f"contract-{uuid.uuid4().hex}")
    return Place(experiment.tracker, lambda: read_mlflow(uri, experiment.id))


def read_mlflow(uri: str, experiment_id: str, *, artifacts: bool = True) -> dict[str, MemoryRun]:
    """Read an experiment; a key or a (metric, step) that is there twice fails."""
    client = connect(uri)
    found: dict[str, MemoryRun] = {}
    for run in client.search_runs([experiment_id]):
        key = run.data.tags["run_key"]
        assert key not in found
        assert run.info.run_name == run_title(key, run.data.params)
        metrics: dict[tuple[str, int], float] = {}
        for name in run.data.metrics:
            if name.startswith("system/"):
                continue  # of the machine
            for entry in client.get_metric_history(run.info.run_id, name):
                assert (name, entry.step) not in metrics
                metrics[name, entry.step] = entry.value
        of_the_page = (EPOCH_TAG, ERROR_TAG)
        tags = {name: value for name, value in run.data.tags.items() if not name.startswith(("mlflow.", *of_the_page))}
        kept = {
            path: Path(client.download_artifacts(run.info.run_id, path)).read_bytes()
            for path in (artifact_paths(client, run.info.run_id, "") if artifacts else [])
        }
        found[key] = MemoryRun(dict(run.data.params), tags, metrics, kept, run.info.status)
    return found


def artifact_paths(client: object, run_id: str, folder: str) -> list[str]:
    paths: list[str] = []
    for entry in client.list_artifacts(run_id, folder):  # type: ignore[attr-defined]
        paths += artifact_paths(client, run_id, entry.path) if entry.is_dir else [entry.path]
    return paths


def steps(first: int, last: int, time_ms: int = 0) -> list[StepMetrics]:
    return [StepMetrics(step, time_ms + step, {"loss": 1 / step, "lr": 3e-4}) for step in range(first, last + 1)]


def test_how_busy_the_machine_is_belongs_to_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    experiment, client = MlflowExperiment(uri, "busy"), connect(uri)

    def seen_of(run: Run) -> list[int]:
        history = client.get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")
        return [entry.step for entry in history]

    def watch(history: list[StepMetrics]) -> list[int]:
        """Record a while, and return the steps at which the use of the cores was seen."""
        tracker = MlflowTracker(uri, experiment.id, watching=True)
        tracker.start("a", {}, {}, history)
        (run,) = client.search_runs([experiment.id])
        before, deadline = seen_of(run), time.monotonic() + 60
        while seen_of(run) == before and time.monotonic() < deadline:
            time.sleep(0.1)
        tracker.finish("KILLED")
        return seen_of(run)

    first = watch([])
    again = watch([])  # what is measured of the machine does not make it another training
    assert 0 < len(first) < len(again) == len(set(again))
    assert not [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]


def test_a_run_from_start_to_finish(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "test.csv"
    file.write_bytes(b"id,target\n")
    tracker = place.make()
    tracker.start("a", {"train.epochs": 3, "data.train_size": None, "x": 0.1}, {"current": "true"})
    assert place.read()["a"].status == "RUNNING"
    tracker.log_metrics(steps(1, 3))
    tracker.log_metrics([StepMetrics(3, 9, {"test": 0.1 + 0.2})])
    tracker.log_artifact(file, "predictions")
    tracker.log_artifact(file, "")
    tracker.set_tags({"current": "false", "kernel": "cpu"})
    tracker.finish("FINISHED")
    run = place.read()["a"]
    assert run.status == "FINISHED"
    assert run.params == {"train.epochs": "3", "data.train_size": "None", "x": "0.1"}
    assert run.tags == {"current": "false", "kernel": "cpu", "run_key": "a"}
    assert run.metrics == {
        **{("loss", step): 1 / step for step in (1, 2, 3)},
        **{("lr", step): 3e-4 for step in (1, 2, 3)},
        ("test", 3): 0.1 + 0.2,
    }
    assert run.artifacts == {"predictions/test.csv": b"id,target\n", "test.csv": b"id,target\n"}


def test_resuming_finds_the_run_and_fills_exactly_the_gap(place: Place) -> None:
    first = place.make()
    first.start("a", {"x": 1}, {"current": "true"})
    first.log_metrics(steps(1, 4))
    first.finish("KILLED")
    assert place.read()["a"].status == "KILLED"
    second = place.make()
    second.start("a", {"x": 1, "y": 2}, {"current": "true", "machine": "m"})
    second.log_metrics([StepMetrics(4, 99, {"loss": 7.0, "new": 1.0})])  # loss is there, new is not
    second.log_metrics(steps(1, 6, time_ms=500))
    second.log_metrics(steps(5, 6, time_ms=900))
    runs = place.read()
    assert list(runs) == ["a"]
    assert runs["a"].status == "RUNNING"
    assert runs["a"].params == {"x": "1", "y": "2"}
    assert runs["a"].tags["machine"] == "m"
    expected = {(name, step): value for s in steps(1, 6) for name, value in s.values.items() for step in [s.step]}
    assert runs["a"].metrics == {**expected, ("new", 4): 1.0}


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_trial_made_anew_has_none_of_an_earlier_ones_numbers(epochs: int, mlflow_runs: tuple[Path, str]) -> None:
    """Its run directory was moved away; the second time, the server came back only after two epochs."""
    _, uri = mlflow_runs
    experiment = MlflowExperiment(uri, f"anew-{uuid.uuid4().hex}")
    earlier = experiment.tracker()
    earlier.start("a", {"x": 1}, {"current": "true", "dataset_fingerprint": "old"}, [])
    earlier.log_metrics(steps(1, 3))
    old_id = experiment.runs()["a"].run_id
    anew = [StepMetrics(step, 50, {"loss": 5.0 + step}) for step in (1, 2)]
    tracker = experiment.tracker()
    tracker.start("a", {"x": 2}, {"current": "true", "dataset_fingerprint": "new"}, anew[:epochs])
    tracker.log_metrics(anew)
    tracker.finish("FINISHED")
    client = connect(uri)
    new = client.get_run(experiment.runs()["a"].run_id)
    assert new.info.run_id != old_id
    assert new.data.params == {"x": "2"}
    assert new.data.tags["dataset_fingerprint"] == "new"
    history = client.get_metric_history(new.info.run_id, "loss")
    assert {(each.step, each.value) for each in history} == {(1, 6.0), (2, 7.0)}
    old = client.get_run(old_id)
    assert (old.info.status, old.info.run_name) == ("KILLED", "a (earlier)")
    assert old.data.metrics["loss"] == 1 / 3
    assert "run_key" not in old.data.tags
    assert (old.data.tags["current"], old.data.tags["earlier_run_of"]) == ("false", "a")


def test_a_resumed_trial_keeps_its_run(place: Place) -> None:
    """Also one that ended between its last words to the tracker and its last file."""
    first = place.make()
    first.start("a", {}, {}, [])
    first.log_metrics([*steps(1, 2), StepMetrics(2, 3, {"bad": float("nan"), "test": 1.0})])
    second = place.make()
    second.start("a", {}, {}, [*steps(1, 2), StepMetrics(2, 3, {"bad": float("nan")})])
    second.log_metrics(steps(3, 3))
    metrics = place.read()["a"].metrics
    assert metrics["test", 2] == 1.0
    assert [metrics["loss", step] for step in (1, 2, 3)] == [1, 1 / 2, 1 / 3]


def test_runs_with_other_keys_are_kept_apart(place: Place) -> None:
    for key in ("a", "b"):
        tracker = place.make()
        tracker.start(key, {"key": key}, {})
        tracker.finish("FAILED" if key == "a" else "FINISHED")
    assert {key: (run.params["key"], run.status) for key, run in place.read().items()} == {
        "a": ("a", "FAILED"),
        "b": ("b", "FINISHED"),
    }


def test_an_artifact_is_replaced(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    tracker = place.make()
    tracker.start("a", {}, {})
    for content in (b"old", b"new"):
        file.write_bytes(content)
        tracker.log_artifact(file, "model")
    assert place.read()["a"].artifacts == {"model/checkpoint.pt": b"new"}


def test_many_metrics_are_sent_in_parts(place: Place) -> None:
    tracker = place.make()
    tracker.start("a", {}, {})
    tracker.log_metrics(steps(1, 1200))
    assert len(place.read()["a"].metrics) == 2400


def test_nothing_is_recorded_where_nothing_is_asked_for(tmp_path: Path) -> None:
    tracker: Tracker = Tracker()
    tracker.start("a", {}, {})
    tracker.log_metrics(steps(1, 2))
    tracker.log_artifact(tmp_path / "absent", "")
    tracker.set_tags({})
    tracker.finish("FINISHED")
    assert list(tmp_path.iterdir()) == []


def test_the_driver_keeps_the_experiment_in_order(mlflow_runs: tuple[Path, str]) -> None:
    name = f"order-{uuid.uuid4().hex}"
    experiment = MlflowExperiment(mlflow_runs[1], name)
    for key, status in (("a", "FINISHED"), ("b", None), ("c", None), ("d", "KILLED")):
        tracker = experiment.tracker()
        tracker.start(key, {}, {"current": "false" if key == "a" else "true"})
        if status is not None:
            tracker.finish(status)  # type: ignore[arg-type]
    again = MlflowExperiment(mlflow_runs[1], name)
    assert again.id == experiment.id
    again.mark_current({"a", "b", "e"}, "What for?")
    again.end_abandoned({"c": "FAILED", "d": "FAILED"}, again.runs())
    runs = again.runs()
    assert {key: run.current for key, run in runs.items()} == {"a": True, "b": True, "c": False, "d": False}
    assert {key: run.status for key, run in runs.items()} == {
        "a": "FINISHED",
        "b": "KILLED",
        "c": "FAILED",
        "d": "FAILED",
    }
    tags = connect(mlflow_runs[1]).get_experiment(again.id).tags
    assert (tags["num_trials"], tags["mlflow.note.content"]) == ("3", "What for?")


def test_more_runs_and_experiments_than_one_answer_holds_are_all_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_client, "PAGE", 2)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    names = [f"sweep-{number}" for number in range(5)]
    for name in names:
        MlflowExperiment(uri, name).mark_current({}, "")
    experiment = MlflowExperiment(uri, names[0])
    for number in range(5):
        experiment.tracker().start(f"trial-{number}", {}, {"current": "true"})
    assert list(experiment.runs()) == [f"trial-{number}" for number in range(5)]
    assert sorted(described(uri)) == names


def test_a_deleted_experiment_is_the_users_to_restore(mlflow_runs: tuple[Path, str]) -> None:
    name = f"deleted-{uuid.uuid4().hex}"
    connect(mlflow_runs[1]).delete_experiment(MlflowExperiment(mlflow_runs[1], name).id)
    runs, uri = mlflow_runs
    with pytest.raises(UserError, match=r"was deleted: restore it with `MLFLOW_TRACKING_URI=.* mlflow ") as said:
        MlflowExperiment(uri, name, lasting_uri=database_uri(runs))
    (command,) = re.findall("`(.*)`", str(said.value))
    program = f'PATH="{Path(sys.executable).parent}:$PATH" {command}'
    subprocess.run(program, shell=True, check=True, capture_output=True)
    assert MlflowExperiment(uri, name).id


def test_a_store_that_mlflow_refuses_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot use MLflow at nonsense://"):
        MlflowExperiment("nonsense://somewhere", "x")
