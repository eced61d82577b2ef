"""What MLflow shows first: runs with names to read, in a table of frame, seed and error, best on top."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from crystalframer.orchestration.tracking.experiment import MlflowExperiment, connect, overviews
from crystalframer.orchestration.tracking.first_screen import VIEW_TAG, overview, overview_page, run_title
from crystalframer.orchestration.tracking.server import LocalMlflowServer
from crystalframer.runs.tracker import StepMetrics

ERRORS = {"max": 0.125, "none": 0.375, "pca": 0.25}
PARAMS = {"data.task": "formation_energy", "train.seed": 0}


@pytest.mark.parametrize(
    ("key", "differences", "title"),
    [
        ("formation_energy-max-seed0-1a2b3c4d", {}, "max · seed 0"),
        ("jarvis-formation_energy-max-seed0-1a2b3c4d", {}, "jarvis · max · seed 0"),
        ("formation_energy-max-sigma_0.1-seed0-1a2b3c4d", {}, "max · sigma_0.1 · seed 0"),
        ("bandgap+e_hull-max-seed12-1a2b3c4d", {"data.task": "bandgap,e_hull", "train.seed": 12}, "max · seed 12"),
        ("trial-0003", {}, "trial-0003"),
        ("search", {"data.task": None}, "search"),
    ],
)
def test_a_trial_is_named_for_people(key: str, differences: dict[str, object], title: str) -> None:
    assert run_title(key, {**PARAMS, "model.frame": "max", **differences}) == title


def test_the_view_sorts_by_the_first_test_error() -> None:
    state = json.loads(overview(["eV/atom", "eV", "eV"]))
    assert state["orderByKey"] == "metrics.`test/mae_eV`"
    assert state["orderByAsc"]
    assert state["selectedColumns"][:2] == ["params.`model.frame`", "params.`train.seed`"]
    assert "metrics.`test/mae_eV_per_atom`" in state["selectedColumns"]
    assert json.loads(overview([]))["orderByKey"] == "attributes.start_time"


@pytest.fixture
def server(tmp_path: Path) -> LocalMlflowServer:
    """Return a server of an experiment with three runs, not started yet."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    experiment = MlflowExperiment(uri, "tiny")
    for frame, error in ERRORS.items():
        tracker = experiment.tracker()
        key = f"formation_energy-{frame}-seed0-1a2b3c4d"
        tracker.start(key, {**PARAMS, "model.frame": frame}, {})
        values = {"test/mae_eV_per_atom": error, "val/mae_eV_per_atom": 2 * error}
        tracker.log_metrics([StepMetrics(1, 1_700_000_000_000, values)])
        tracker.finish("FINISHED")
    experiment.mark_current({}, "Does it show?", ["eV/atom"])
    client = connect(uri)
    client.create_experiment("somebody else's")
    assert client.get_experiment(experiment.id).tags[VIEW_TAG] == overview(["eV/atom"])
    assert overviews(uri) == {"tiny": overview_page(experiment.id)}
    return LocalMlflowServer(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_shows_them(server: LocalMlflowServer, tmp_path: Path) -> None:
    with server:
        server.wait_until_ready()
        ((_, path),) = overviews_of(server)
        browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
        show = ["--window-size=1600,900", "--virtual-time-budget=60000", "--dump-dom", server.page(path)]
        page = subprocess.run([*browser, *show], capture_output=True, text=True, check=True, timeout=500).stdout
    places = [page.index(f"{frame} · seed 0") for frame in sorted(ERRORS, key=lambda name: ERRORS[name])]
    assert places == sorted(places)
    for column in ("model.frame", "train.seed", "test/mae_eV_per_atom"):
        assert column in page


def overviews_of(server: LocalMlflowServer) -> list[tuple[str, str]]:
    """Return the pages that the server's experiments open with."""
    return list(overviews(f"sqlite:///{server.log.parent}/mlflow.db").items())
