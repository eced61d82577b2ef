"""A worker's side of Ray Tune, without Ray around it."""

import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crystalframer.config import TrialConfig
from crystalframer.orchestration.cluster.worker import SweepTrial
from crystalframer.orchestration.tracking.experiment import MlflowExperiment
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.trial import Trial, TrialJob
from crystalframer.training.optimizer import TrainingDivergedError
from crystalframer.training.trainer import Trainer

HERE = "tests.orchestration.cluster.test_worker"


class Diverges(Trainer):
    """Training that another attempt would not mend."""

    def fit(self, after_step: Any = None) -> Any:
        """Fail."""
        raise TrainingDivergedError("training diverged in epoch 1")


class Breaks(Trainer):
    """Training that another attempt may mend."""

    def fit(self, after_step: Any = None) -> Any:
        """Fail."""
        raise RuntimeError("a device went away")


@pytest.fixture
def job(tiny_config: TrialConfig, tmp_path: Path, mlflow_runs: tuple[Path, str]) -> TrialJob:
    """What the driver would send."""
    experiment = MlflowExperiment(mlflow_runs[1], f"worker-{uuid.uuid4().hex}")
    return TrialJob(
        Trial("a-trial", tiny_config),
        RunDirectory(tmp_path / "a-trial"),
        tracking_uri=mlflow_runs[1],
        experiment_id=experiment.id,
        cpus=1,
        trainer="crystalframer.training.trainer:Trainer",
    )


def make(job: TrialJob, **changes: Any) -> SweepTrial:
    return SweepTrial({"job": replace(job, **changes)})


def test_a_trial_is_stepped_through_to_its_result(job: TrialJob) -> None:
    worker = make(job)
    while not (report := worker.step())["done"]:
        assert report["progress"]["result"] is None
    assert report["progress"]["result"] == job.directory.result()


def test_stopping_a_worker_leaves_a_checkpoint(job: TrialJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crystalframer.orchestration.cluster.worker.REPORT_SECONDS", 0.0)
    worker = make(job)
    assert worker.step()["progress"]["epoch"] == 1
    assert worker.step()["progress"]["epoch"] == 2
    worker.cleanup()
    directory = job.directory
    state = directory.state()
    assert state is not None
    assert (state.state, state.epoch) == ("stopped", 2)
    assert worker.reset_config(worker.config)
    assert worker.step()["progress"]["epoch"] == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trainer": f"{HERE}:Diverges"}, "TrainingDivergedError: training diverged in epoch 1"),
        ({"data": {"test_size": 99999}}, "asks for 99999 crystals"),
    ],
)
def test_what_would_only_repeat_is_not_tried_again(job: TrialJob, changes: dict[str, Any], said: str) -> None:
    config = replace(job.trial.config, data=replace(job.trial.config.data, **changes.pop("data", {})))
    report = make(job, trial=replace(job.trial, config=config), **changes).step()
    assert report["done"]
    assert said in report["failure"]["reason"]


def test_after_anything_else_the_driver_decides_and_the_process_ends(job: TrialJob) -> None:
    worker = make(job, trainer=f"{HERE}:Breaks")
    report = worker.step()
    assert report["failure"]["reason"] == "RuntimeError: a device went away"
    assert not report["done"]
    with pytest.raises(RuntimeError, match="the process ends"):
        worker.step()
    state = job.directory.state()
    assert state is not None
    assert (state.state, state.reason) == ("failed", "RuntimeError: a device went away")
