"""A small MLflow store on SQLite as a sweep leaves it, made anew for each test from a template without runs."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from crystalframer.data.registry import load_task
from crystalframer.orchestration.tracking.experiment import MlflowTracker
from crystalframer.resolving import build_trial
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.trial import Trial, TrialJob, run_trial
from crystalframer.training.trainer import Trainer

SWEEP = "toy"
EPOCHS = 8
BASELINE = 1.0


@dataclass(frozen=True)
class Store:
    """A runs folder whose MLflow database a test fills."""

    runs: Path
    client: MlflowClient
    experiment_id: str

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.runs}/mlflow.db"

    def add(
        self,
        frame: str = "max",
        seed: int = 0,
        *,
        test_mae: float = 0.5,
        status: str = "FINISHED",
        current: bool = True,
        key: str | None = None,
        unit: str = "eV/atom",
        settings: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
        recorded_epochs: int | None = None,
        predictions: Mapping[str, tuple[float, float]] | None = None,
    ) -> str:
        """Record a trial as the orchestration does; return its MLflow run id."""
        chosen = {"data.train_size": 80, "train.epochs": EPOCHS, "train.average_epochs": 2, "train.batch_size": 16}
        trial = build_trial({**chosen, "model.frame": frame, "train.seed": seed, **(settings or {})})
        key = key or f"{trial.data.task}-{frame}-seed{seed}-{trial.fingerprint()}"
        token = {"eV/atom": "eV_per_atom", "eV": "eV"}[unit]
        run = self.client.create_run(self.experiment_id, run_name=key)
        metrics = []
        for epoch in range(1, (recorded_epochs or trial.train.epochs) + 1):
            values = {
                "train/loss": 0.9 / epoch,
                f"val/mae_{token}": test_mae * (1 + 1 / epoch),
                "averaged": float(epoch > trial.train.epochs - trial.train.average_epochs),
                "seconds_per_epoch": 2.0 + (epoch == 1),
            }
            metrics += [Metric(name, value, 1000 * epoch, epoch) for name, value in values.items()]
        if status == "FINISHED":
            last = trial.train.epochs
            final = {f"test/mae_{token}": test_mae, f"test/baseline_mae_{token}": BASELINE, "num_parameters": 951821.0}
            metrics += [Metric(name, value, 1000 * last, last) for name, value in final.items()]
        recorded = {
            "sweep": SWEEP,
            "run_key": key,
            "current": str(current).lower(),
            "unit": unit,
            "kernel": "reference",
            "dataset_fingerprint": "feed",
            **(tags or {}),
        }
        self.client.log_batch(
            run.info.run_id,
            metrics,
            [Param(name, str(value)) for name, value in trial.to_flat_dict().items()],
            [RunTag(name, value) for name, value in recorded.items()],
        )
        if predictions is not None:
            path = self.runs / SWEEP / key / "predictions" / "test.csv"
            path.parent.mkdir(parents=True)
            lines = [f"{id},{target!r},{prediction!r}" for id, (target, prediction) in predictions.items()]
            path.write_text("\n".join(["id,target,prediction", *lines]) + "\n")
        if status != "RUNNING":
            self.client.set_terminated(run.info.run_id, status)
        return str(run.info.run_id)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with one experiment and no runs; making it takes a second."""
    folder = tmp_path_factory.mktemp("mlflow")
    path = folder / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").create_experiment(SWEEP, artifact_location=str(folder / "artifacts"))
    return path


@pytest.fixture
def store(empty_database: Path, tmp_path: Path) -> Store:
    """An empty store of this test's own."""
    runs = tmp_path / "runs"
    runs.mkdir()
    shutil.copy(empty_database, runs / "mlflow.db")
    client = MlflowClient(tracking_uri=f"sqlite:///{runs}/mlflow.db")
    experiment = client.get_experiment_by_name(SWEEP)
    assert experiment is not None
    return Store(runs, client, experiment.experiment_id)


TINY: dict[str, object] = {
    "data.train_size": 16,
    "data.val_size": 4,
    "data.test_size": 12,
    "model.num_blocks": 2,
    "model.width": 16,
    "model.num_heads": 2,
    "model.ffn_width": 16,
    "model.num_dist": 8,
    "model.num_angl": 8,
    "model.cutoff": 3.5,
    "train.epochs": 3,
    "train.batch_size": 8,
    "train.average_epochs": 1,
    "train.kernel": "reference",
}
"""Settings of real trainings that take a second."""
TRAINED = (("none", 0), ("pca", 0), ("weighted_pca", 0), ("max", 0), ("max", 1))


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A runs folder with real, tiny trainings: MLflow's record, run directories, checkpoints, snapshots."""
    runs = tmp_path_factory.mktemp("trained")
    shutil.copy(empty_database, runs / "mlflow.db")
    client = MlflowClient(tracking_uri=f"sqlite:///{runs}/mlflow.db")
    experiment = client.get_experiment_by_name(SWEEP)
    assert experiment is not None
    client.set_experiment_tag(experiment.experiment_id, "num_trials", "18")
    for frame, seed in TRAINED:
        config = build_trial({**TINY, "model.frame": frame, "train.seed": seed})
        trial = Trial(f"{config.data.task}-{frame}-seed{seed}-{config.fingerprint()}", config)
        directory = RunDirectory(runs / SWEEP / trial.name)
        tracker = MlflowTracker(f"sqlite:///{runs}/mlflow.db", experiment.experiment_id)
        tags = {"sweep": SWEEP, "current": "true"}
        list(run_trial(TrialJob(trial, directory, tags=tags, snapshots=3), load_task(config.data), tracker, Trainer))
    return runs


@pytest.fixture
def trained(trained_runs: Path, tmp_path: Path) -> Store:
    """A copy of those runs that a test may change."""
    runs = tmp_path / "runs"
    shutil.copytree(trained_runs, runs)
    client = MlflowClient(tracking_uri=f"sqlite:///{runs}/mlflow.db")
    experiment = client.get_experiment_by_name(SWEEP)
    assert experiment is not None
    return Store(runs, client, experiment.experiment_id)
