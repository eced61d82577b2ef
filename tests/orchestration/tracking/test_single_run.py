"""A single training recorded in MLflow, as a trial of a sweep is."""

from pathlib import Path

import pytest

from analysis.results import read_sweep
from crystalframer.orchestration.tracking.server import database_uri
from crystalframer.runs.run_directory import RunDirectory
from pipelines.train import main
from tests.training.test_train_pipeline import SETTINGS


@pytest.mark.slow
def test_a_tracked_training_is_in_the_tables_also_when_it_was_done_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "CRYSTALFRAMER_RUNS"):
        monkeypatch.delenv(name, raising=False)
    assert main([*SETTINGS, "--out", "runs/single/before"]) == 0
    assert main([*SETTINGS, "--out", "runs/single/before", "--track"]) == 0
    assert main([*SETTINGS, "--set", "train.seed=5", "--out", "runs/single/now", "--track"]) == 0
    runs = tmp_path / "runs"
    found = {trial.run_key: trial for trial in read_sweep(database_uri(runs), "single", runs).trials}
    assert set(found) == {"before", "now"}
    for name, trial in found.items():
        result = RunDirectory(runs / "single" / name).result()
        assert result is not None
        assert trial.test_mae == result["test_mae"]
        assert len(trial.history) == 3
        assert trial.predictions() is not None
