"""A sweep small enough to be killed several times in a minute."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from crystalframer.config import TrialConfig
from crystalframer.data.dataset import TaskData
from crystalframer.data.registry import load_task
from crystalframer.orchestration.search.study import StudyExport
from crystalframer.orchestration.tracking.server import LocalMlflowServer
from crystalframer.resolving import build_trial
from tests.fixtures.threads import one_thread as one_thread

ROOT = Path(__file__).parents[2]
PIPELINE = ROOT / "pipelines" / "ablate_frames.py"

TINY: dict[str, Any] = {
    "data": {"dataset": "sample", "task": "formation_energy", "train_size": 16, "val_size": 4, "test_size": 4},
    "model": {"num_blocks": 1, "width": 8, "num_heads": 2, "ffn_width": 8, "num_dist": 8, "num_angl": 4, "cutoff": 3.0},
    "train": {"epochs": 60, "batch_size": 8, "average_epochs": 5},
}
"""Settings of trials that take seconds."""

GRID = {"model.frame": ["none", "max"], "train.seed": [0, 1]}
PROSE = {
    "question": "Does it resume?",
    "expectation": "To the last bit.",
    "command": "crystalframer sweep tiny.yaml",
    "duration": "a few seconds",
}

OPENED: list[StudyExport] = []
"""What the fixture `studies_are_closed` closes after the test."""

WriteSweep = Callable[..., Path]


@pytest.fixture(autouse=True)
def studies_are_closed() -> Iterator[None]:
    """Leave the databases of the studies that a test opened."""
    yield
    while OPENED:
        OPENED.pop().close()


@pytest.fixture
def write_sweep(tmp_path: Path) -> WriteSweep:
    """Return a function that writes a sweep file, differing from a valid one by the given fields."""

    def write(name: str = "tiny", **fields: Any) -> Path:
        content = {**PROSE, "base": TINY, "grid": GRID, **fields}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
        return path

    return write


@pytest.fixture(scope="session")
def tiny_config() -> TrialConfig:
    """Return the settings of a trial of a second."""
    flat = {f"{section}.{key}": value for section, values in TINY.items() for key, value in values.items()}
    return build_trial({**flat, "train.epochs": 6, "train.average_epochs": 2, "model.frame": "max"})


@pytest.fixture(scope="session")
def tiny_data(tiny_config: TrialConfig) -> TaskData:
    """Return its crystals."""
    return load_task(tiny_config.data)


@pytest.fixture(scope="session")
def mlflow_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder of runs and the address of its tracking server, shared by the session."""
    runs = tmp_path_factory.mktemp("runs")
    with LocalMlflowServer(runs) as server:
        server.wait_until_ready()
        yield runs, server.uri


@pytest.fixture
def start_driver(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Return a function that starts the pipeline as a user would; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []
    environment = dict(os.environ)
    environment.pop("MLFLOW_TRACKING_URI", None)

    def start(sweep: Path, *arguments: str, **options: Any) -> "subprocess.Popen[str]":
        command = [sys.executable, str(PIPELINE), str(sweep), "--checkpoint-seconds", "0.3"]
        command += ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "output"), *arguments]
        options = {"stdout": subprocess.PIPE, **options}
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, text=True, stderr=subprocess.STDOUT, **options
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
