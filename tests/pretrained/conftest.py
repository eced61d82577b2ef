"""Two finished trainings on small crystals of the sample, and the model that they are packed as."""

from pathlib import Path
from typing import Any

import pytest

from crystalframer.data.registry import load_task
from crystalframer.geometry.crystal import Crystal
from crystalframer.pretrained.packing import pack_runs
from crystalframer.resolving import build_trial
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.tracker import Tracker
from crystalframer.runs.trial import Trial, TrialJob, run_trial
from crystalframer.training.trainer import Trainer
from tests.fixtures.threads import one_thread as one_thread

SETTINGS: dict[str, Any] = {
    "data.train_size": 120,
    "data.val_size": 120,
    "data.test_size": 150,
    "train.epochs": 4,
    "train.average_epochs": 1,
    "train.batch_size": 20,
    "train.learning_rate": 2e-3,
    "model.num_blocks": 1,
    "model.width": 16,
    "model.num_heads": 2,
    "model.ffn_width": 16,
    "model.num_dist": 8,
    "model.num_angl": 8,
    "model.cutoff": 4.0,
}
"""A training of seconds whose predictions are poor, and whose intervals must say so."""


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep each test's own models apart."""
    monkeypatch.setenv("CRYSTALFRAMER_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "models"


def train(directory: Path, **differences: Any) -> Path:
    """Train in a run directory and return it."""
    trial = build_trial({**SETTINGS, **differences})
    data = load_task(trial.data)
    list(run_trial(TrialJob(Trial(directory.name, trial), RunDirectory(directory)), data, Tracker(), Trainer))
    return directory


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Run directories of two trainings that differ in their seeds alone."""
    folder = tmp_path_factory.mktemp("runs")
    return [train(folder / f"seed{seed}", **{"train.seed": seed}) for seed in (0, 1)]


@pytest.fixture(scope="session")
def packed_folder(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose list names the ensemble of both, and the first by itself."""
    folder = tmp_path_factory.mktemp("packed")
    pack_runs(runs, "both", folder=folder)
    pack_runs(runs[:1], "single", folder=folder, about="Embedded crystals", licence="CC BY 4.0")
    return folder


@pytest.fixture
def packed(packed_folder: Path, own_folder: Path) -> Path:
    """Put these models among one's own, and return their folder."""
    own_folder.parent.mkdir(parents=True)
    own_folder.symlink_to(packed_folder)
    return packed_folder


@pytest.fixture(scope="session")
def test_crystals(runs: list[Path]) -> list[Crystal]:
    """The crystals that the trainings were tested on."""
    data = load_task(build_trial(SETTINGS).data)
    return [data.dataset[int(row)] for row in data.rows["test"]]
