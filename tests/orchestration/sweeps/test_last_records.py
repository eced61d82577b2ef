"""A tracking server that is gone when all trials are done: a line names what it lacks."""

import io
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from rich.console import Console

from crystalframer.orchestration.cluster.jobs import JobList
from crystalframer.orchestration.search.search_spec import load_search
from crystalframer.orchestration.sweeps.driver import Driver, SweepOptions
from crystalframer.orchestration.sweeps.spec import load_sweep
from crystalframer.orchestration.tracking.experiment import MlflowExperiment
from crystalframer.orchestration.tracking.server import mlflow_of
from tests.orchestration.conftest import WriteSweep

NOBODY = "http://127.0.0.1:9"
RESULTS = {"method": "tpe", "importance": {"final": {"train.learning_rate": 1.0}}, "epochs": {"used": 3}}


@pytest.mark.parametrize("missing", ["what this search found", "the summary of this sweep"])
def test_a_server_that_is_gone_at_the_end(
    missing: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said = io.StringIO()
    driver = Driver(
        load_search(root / "sweeps" / "hpo_sample.yaml"), SweepOptions(tmp_path), Console(file=said, width=200)
    )
    experiment = MlflowExperiment(f"sqlite:///{tmp_path}/mlflow.db", "toy")
    experiment.tracking_uri = NOBODY
    driver._experiment = experiment
    if missing.startswith("what"):
        driver.record_search(RESULTS, [])
    else:
        driver.record_summary([])
    assert said.getvalue() == f"MLflow cannot be reached: it lacks {missing}; the same command records it\n"


def test_a_sweep_that_is_done_asks_for_its_runs_once_at_its_start_and_once_at_its_end(
    write_sweep: WriteSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    ask = MlflowClient.search_runs

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal asked
        asked += 1
        return ask(*arguments, **named)

    monkeypatch.setattr(MlflowClient, "search_runs", counted)
    driver = Driver(load_sweep(write_sweep()), SweepOptions(tmp_path), Console(quiet=True))
    driver.folder.mkdir()
    with mlflow_of(tmp_path, f"sqlite:///{tmp_path}/mlflow.db") as tracking:
        driver.run(JobList([], driver.job), tracking, anything_to_do=False)
    assert asked == 2
