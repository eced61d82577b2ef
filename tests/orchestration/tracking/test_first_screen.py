"""What MLflow shows first: runs with names to read, in a table of frame, seed and error, best on top."""

import json
from pathlib import Path

import pytest

from crystalframer.orchestration.tracking.client import connect
from crystalframer.orchestration.tracking.experiment import MlflowExperiment, described
from crystalframer.orchestration.tracking.first_screen import VIEW_TAG, charts_page, overview, overview_page, run_title
from crystalframer.orchestration.tracking.server import LocalMlflowServer
from crystalframer.runs.tracker import StepMetrics
from tests.fixtures.browser import browser_page, is_on_first_screen

ERRORS = {"max": 0.12345678, "none": 0.375, "pca": 0.25}
PARAMS = {"data.dataset": "sample", "data.task": "formation_energy", "train.seed": 0}
TAGS = {"dataset_fingerprint": "0123456789abcdef", "num_train": "16", "unit": "eV/atom", "git_commit": "a" * 40}


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
    state = json.loads(overview({"formation_energy": "eV/atom", "bandgap": "eV", "e_hull": "eV"}))
    assert state["orderByKey"] == "metrics.`test/mae_eV`"
    assert state["orderByAsc"]
    assert state["selectedColumns"][:2] == ["params.`model.frame`", "params.`train.seed`"]
    assert "params.`data.task`" in state["selectedColumns"]
    assert "params.`data.task`" not in json.loads(overview({"bandgap": "eV"}))["selectedColumns"]
    assert json.loads(overview({}))["orderByKey"] == "attributes.start_time"
    varied = ["data.task", "model.cutoff", "model.frame", "train.epochs", "train.seed"]
    assert json.loads(overview({"bandgap": "eV"}, varied))["selectedColumns"][:4] == [
        f"params.`{name}`" for name in ("model.frame", "train.seed", "model.cutoff", "train.epochs")
    ]


@pytest.fixture
def server(tmp_path: Path) -> LocalMlflowServer:
    """Return a server of an experiment with three runs, not started yet."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    experiment = MlflowExperiment(uri, "tiny")
    for frame, error in ERRORS.items():
        tracker = experiment.tracker()
        key = f"formation_energy-{frame}-seed0-1a2b3c4d"
        tracker.start(key, {**PARAMS, "model.frame": frame}, TAGS)
        values = {"test/mae_eV_per_atom": error, "val/mae_eV_per_atom": 2 * error}
        tracker.log_metrics([StepMetrics(1, 1_700_000_000_000, values)])
        tracker.finish("FINISHED")
    experiment.mark_current({}, "Does it show?", {"formation_energy": "eV/atom"})
    client = connect(uri)
    client.create_experiment("somebody else's")
    assert client.get_experiment(experiment.id).tags[VIEW_TAG] == overview({"formation_energy": "eV/atom"})
    assert described(uri) == {"tiny": experiment.id}
    return LocalMlflowServer(tmp_path)


@pytest.mark.slow
def test_a_browser_shows_them(server: LocalMlflowServer) -> None:
    with server, browser_page(1600, 900) as page:
        server.wait_until_ready()
        page.goto(server.page(overview_page(experiment_of(server))))
        page.get_by_text("max · seed 0").wait_for()
        page.get_by_text("epoch", exact=True).wait_for()
        places = []
        for frame in sorted(ERRORS, key=lambda name: ERRORS[name]):
            assert is_on_first_screen(page, f"text={frame} · seed 0")
            box = page.get_by_text(f"{frame} · seed 0").bounding_box()
            assert box is not None
            places.append(box["y"])
        assert places == sorted(places)  # the smallest error on top
        for text in ("model.frame", "train.seed", "test MAE", "0.1235", "eV/atom", "Does it show?"):
            assert is_on_first_screen(page, f"text={text}")
        for column in ("test MAE", "unit", "epoch"):
            cells = page.locator(f"[role=gridcell][col-id='tags.`{column}`'] .ag-cell-value")
            assert cells.count() == len(ERRORS)
            assert cells.evaluate_all("all => all.filter(cell => cell.scrollWidth > cell.clientWidth).length") == 0
        assert page.get_by_text("Ask questions about your experiments").count() == 0  # its assistant
        for hidden in ("[data-assistant-ui]", "text=You're viewing a shared view"):
            assert page.locator(hidden).count() > 0, "MLflow has another name for it: see _TIDY in gate.py"
            assert not page.locator(hidden).first.is_visible()
        page.get_by_text("Views", exact=True).click()
        page.get_by_text("Exit shared view").locator("visible=true").wait_for()  # what the banner offered
        page.keyboard.press("Escape")
        assert page.get_by_text("Model training").is_visible()
        assert page.get_by_text("Prompts").count() == 0
        assert "token" not in page.url
        page.goto(f"{server.uri}/#/{charts_page(experiment_of(server))}")
        page.get_by_text("Group: max").wait_for()


def test_a_run_says_what_it_learned_from_and_which_commit_made_it(server: LocalMlflowServer) -> None:
    client = connect(f"sqlite:///{server.log.parent}/mlflow.db")
    runs = client.search_runs([experiment_of(server)])
    assert len(runs) == len(ERRORS)
    for run in runs:
        assert run.inputs is not None
        (found,) = run.inputs.dataset_inputs
        assert (found.dataset.name, found.dataset.digest) == ("sample", "0123456789abcdef")
        assert found.dataset.profile == '{"num_train": 16}'
        assert run.data.tags["mlflow.source.git.commit"] == "a" * 40
        assert run.data.tags["test MAE"] == f"{run.data.metrics['test/mae_eV_per_atom']:.4g}"
        assert run.data.tags["epoch"] == "1"
    server.stop()


def experiment_of(server: LocalMlflowServer) -> str:
    """Return the id of the server's only experiment that has such pages."""
    (number,) = described(f"sqlite:///{server.log.parent}/mlflow.db").values()
    return number
