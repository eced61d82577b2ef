"""What version 0.1 recorded stays readable: resumed, shown, tabulated and served, nothing trained again.

``fixtures/version_0_1.tar.xz`` was recorded by that version (commit 90cf149): a finished sweep, one stopped by Ctrl-C
after 45 of 400 epochs, a finished search, one whose driver was killed as its last trial ended, their MLflow and Optuna
databases, and a registered model.
"""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crystalframer.orchestration.tracking.client import connect
from crystalframer.orchestration.tracking.server import database_uri
from crystalframer.runs.run_directory import RunDirectory

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
RECORDED = Path(__file__).parent / "fixtures" / "version_0_1.tar.xz"
STOPPED = "old_stopped/formation_energy-max-seed0-d041d982"
PREDICTED = "predictions/test.csv"
PREDICTED_CSCL = -1.0361249
"""eV/atom, as version 0.1 answered."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what version 0.1 left in its working directory."""
    folder = tmp_path_factory.mktemp("version_0_1")
    with tarfile.open(RECORDED) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # not before 3.11.4
        archive.extractall(folder)
    return folder


def run(place: Path, *command: str) -> str:
    """Run a program of the checkout as a user would and return what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        [sys.executable, str(ROOT / command[0]), *command[1:], "--runs", "runs"],
        cwd=place,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def records(place: Path, name: str) -> dict[str, bytes]:
    """Return the epochs and test predictions of every trial of a sweep, as they are on disk."""
    found = [*(place / "runs" / name).glob("*/metrics.jsonl"), *(place / "runs" / name).glob(f"*/{PREDICTED}")]
    return {str(path.relative_to(place)): path.read_bytes() for path in found}


def mlflow_of(place: Path, name: str) -> dict[str, set[tuple[str, int, float]]]:
    """Return the points that MLflow holds of a sweep's trials, by the run's id."""
    client = connect(database_uri(place / "runs"))
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return {
        run.info.run_id: {
            (key, point.step, point.value)
            for key in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, key)
        }
        for run in client.search_runs([experiment.experiment_id])
        if "kind" not in run.data.tags
    }


def test_a_finished_sweep_is_done(place: Path) -> None:
    before, tracked = records(place, "old_tiny"), mlflow_of(place, "old_tiny")
    printed = run(place, "pipelines/ablate_frames.py", "old_tiny.yaml", "--output", "output")
    assert "2 trials, 2 of them done" in printed
    assert (records(place, "old_tiny"), mlflow_of(place, "old_tiny")) == (before, tracked)
    table = pd.read_csv(place / "output" / "old_tiny" / "ablation_table.csv")
    assert len(table) == 2
    assert "1.7649" in printed  # max, as version 0.1 printed it


def test_a_stopped_trial_resumes_after_its_last_epoch(place: Path) -> None:
    directory = RunDirectory(place / "runs" / STOPPED)
    before = directory.records()
    printed = run(place, "pipelines/ablate_frames.py", "old_stopped.yaml", "--output", "output")
    after = directory.records()
    assert f"epoch {len(before)}" in printed
    assert after[: len(before)] == before
    assert len(after) == 400


@pytest.mark.parametrize("name", ["old_search", "old_search_killed"])
def test_a_search_repeats_no_trial(place: Path, name: str) -> None:
    before = records(place, name)
    run(place, "pipelines/tune_hyperparameters.py", f"{name}.yaml")
    assert records(place, name) == before
    assert (place / "runs" / name / "search.json").exists()


def test_status_shows_it(place: Path) -> None:
    assert "2 done" in run(place, "pipelines/status.py", "old_tiny")


@pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning")  # MLflow warns of its own types when imported
def test_a_registered_model_loads(place: Path) -> None:
    import mlflow

    structure = (
        "data_CsCl\n_cell_length_a 4.12\n_cell_length_b 4.12\n_cell_length_c 4.12\n_cell_angle_alpha 90\n"
        "_cell_angle_beta 90\n_cell_angle_gamma 90\nloop_\n_atom_site_label\n_atom_site_type_symbol\n"
        "_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\nCs1 Cs 0 0 0\nCl1 Cl 0.5 0.5 0.5\n"
    )
    model = mlflow.pyfunc.load_model(str(place / "registered"))
    answer = model.predict(pd.DataFrame({"structure": [structure], "id": ["CsCl"]}))
    assert list(answer["error"]) == [""]
    np.testing.assert_allclose(answer["formation_energy [eV/atom]"].astype(float), [PREDICTED_CSCL], atol=1e-5)
