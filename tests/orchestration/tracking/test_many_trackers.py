"""Trials that start and log at once on one server: all are recorded, no point is lost, none is there twice."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crystalframer.orchestration.tracking.client import connect
from crystalframer.orchestration.tracking.experiment import MlflowExperiment
from tests.orchestration.many_trackers import log_at_once, lost


@pytest.mark.slow
def test_64_trials_at_once(mlflow_runs: tuple[Path, str]) -> None:
    _, uri = mlflow_runs
    log_at_once(uri, "many")
    assert lost(uri, "many") == 0


def test_trials_that_start_at_once_on_data_that_mlflow_does_not_know_yet(mlflow_runs: tuple[Path, str]) -> None:
    _, uri = mlflow_runs
    trials, tags = 8, {"dataset_fingerprint": "0" * 64, "unit": "eV"}
    for number in range(8):  # in about half of them MLflow adds the data set twice at once, and refuses the second
        experiment = MlflowExperiment(uri, f"at once {number}")
        together = threading.Barrier(trials)

        def start(trial: int, experiment: MlflowExperiment, together: threading.Barrier) -> None:
            tracker = experiment.tracker()
            together.wait()
            tracker.start(f"t{trial}", {"data.dataset": "sample", "data.task": "bandgap"}, tags)
            tracker.finish("FINISHED")

        with ThreadPoolExecutor(trials) as pool:
            started = [pool.submit(start, trial, experiment, together) for trial in range(trials)]
        for future in started:
            future.result()
        runs = connect(uri).search_runs([experiment.id])
        assert [run.inputs and len(run.inputs.dataset_inputs) for run in runs] == [1] * trials
