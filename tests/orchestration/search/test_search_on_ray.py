"""A search as a user runs it: real Ray, Optuna and MLflow; the driver killed at random moments."""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from crystalframer.orchestration.tracking.client import connect
from crystalframer.orchestration.tracking.first_screen import VIEW_TAG
from crystalframer.orchestration.tracking.server import database_uri
from crystalframer.runs.run_directory import RunDirectory
from tests.orchestration.processes import all_gone, descendants
from tests.orchestration.searches import write_search
from tests.orchestration.tracking.test_tracking import read_mlflow

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
TRIALS = 14
PATIENCE = 300.0
STUB = "tests.orchestration.stub_training:StubTrainer"
Start = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts the search; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []
    path = write_search(tmp_path, budget={"trials": TRIALS}, confirm={"best": 1, "seeds": [0]})
    environment = {**os.environ, "STUB_EPOCH_SECONDS": "0.05", "STUB_LOG": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH", "")]))
    environment.pop("MLFLOW_TRACKING_URI", None)

    def run() -> "subprocess.Popen[str]":
        script = ROOT / "pipelines" / "tune_hyperparameters.py"
        command = [sys.executable, str(script), str(path), "--runs", str(tmp_path / "runs"), "--trainer", STUB]
        process = subprocess.Popen(
            [*command, "--checkpoint-seconds", "0.2"],
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def epochs_recorded(folder: Path) -> int:
    return sum(len(RunDirectory(path.parent).records()) for path in folder.glob("*/metrics.jsonl"))


def test_kill_9_of_the_driver_neither_repeats_nor_loses_a_trial(start: Start, tmp_path: Path) -> None:
    folder, seed = tmp_path / "runs" / "planted", random.randrange(10**6)
    moments = random.Random(seed)
    print("moments drawn with seed", seed)
    family: list[int] = []
    for _ in range(2):
        before, deadline = epochs_recorded(folder), time.monotonic() + PATIENCE
        driver = start()
        while epochs_recorded(folder) < before + moments.randint(5, 25):
            assert driver.poll() is None, driver.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        family += descendants(driver.pid)
        driver.kill()
    driver = start()
    output, _ = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == 0, output
    assert "best: " in output

    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/runs/optuna.db")
    study = optuna.load_study(study_name="planted", storage=storage)
    states = Counter(trial.state.name for trial in study.get_trials() if "trial" in trial.user_attrs)
    assert states["COMPLETE"] + states["PRUNED"] == TRIALS == states.total()
    folders = {path.parent.name for path in folder.glob("*/config.json")}
    assert {trial.user_attrs["trial"] for trial in study.get_trials() if "trial" in trial.user_attrs} == {
        name for name in folders if name.startswith("t")
    }
    assert len(folders) == TRIALS + 1  # one confirms the best
    storage.remove_session()
    storage.engine.dispose()
    recorded = mlflow_steps(tmp_path / "runs")
    for name in folders:
        directory = RunDirectory(folder / name)
        steps = [record.step for record in directory.records()]
        early = directory.stopped_early()
        assert steps == list(range(1, (27 if early is None else early.epoch) + 1)), name
        assert (directory.result() is None) == (early is not None)
        assert recorded[name] == set(steps), name
    fates = {entry["name"]: entry["fate"] for entry in json.loads((folder / "report.json").read_text())["trials"]}
    assert set(fates) == folders
    assert set(fates.values()) == {"done", "stopped early"}
    computed = Counter((tmp_path / "epochs.log").read_text().splitlines())
    assert max(computed.values()) <= 3  # what a kill cost was computed again, nothing else
    assert sum(computed.values()) - len(computed) < 2 * 2 * 10  # two kills, two workers, 0.2 s and a save each
    assert all_gone(family, seconds=60.0)


def mlflow_steps(runs: Path) -> dict[str, set[int]]:
    """The epochs that MLflow holds of each trial."""
    uri = database_uri(runs)
    experiment = connect(uri).get_experiment_by_name("planted")
    assert experiment is not None
    assert "params.`train.learning_rate`" in json.loads(experiment.tags[VIEW_TAG])["selectedColumns"]
    found: dict[str, Any] = read_mlflow(uri, experiment.experiment_id, artifacts=False)
    return {name: {step for _, step in run.metrics} for name, run in found.items() if name != "search"}
