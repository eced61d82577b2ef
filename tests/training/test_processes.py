"""Several processes train as one does."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from crystalframer.config import TrialConfig
from crystalframer.errors import UserError
from crystalframer.training.checkpoint import read_checkpoint
from crystalframer.training.launch import launch
from crystalframer.training.processes import LostProcessError
from tests.training.test_random_stops import SETTINGS, assert_same, reached
from tests.training.test_resume import identical
from tests.training.together import STOPPED, fail, train

MakeTrial = Callable[[dict[str, Any]], TrialConfig]
ROOT = Path(__file__).parents[2]
STEPS = 16


def results(folder: Path, size: int) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Losses, validation errors, predictions and weights agree to float32's rounding, as it grows in 16 steps.

    The keys' biases do not: softmax is blind to them, their gradient is nothing but rounding, and Adam scales it up.
    """
    for name in ("losses", "val", "predictions"):
        torch.testing.assert_close(torch.tensor(found[name]), torch.tensor(expected[name]), rtol=1e-4, atol=1e-5)
    for name, value in expected["model"].items():
        if not name.endswith("key.bias"):
            torch.testing.assert_close(found["model"][name], value, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def alone(trial: TrialConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The training in one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert launch(train, (trial.to_dict(), folder), 1) == 0
    return results(folder, 1)[0]


@pytest.fixture(scope="module")
def pair(trial: TrialConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the training in two processes."""
    folder = tmp_path_factory.mktemp("pair")
    assert launch(train, (trial.to_dict(), folder), 2) == 0
    return folder


def test_two_processes_learn_what_one_does(alone: dict[str, Any], pair: Path) -> None:
    first, second = results(pair, 2)
    assert len(first["losses"]) == STEPS
    for name in ("losses", "val", "model", "predictions"):
        assert identical(first[name], second[name]), f"{name} must be the same in both processes"
    assert_close(first, alone)


def test_three_processes_learn_what_one_does(trial: TrialConfig, alone: dict[str, Any], tmp_path: Path) -> None:
    assert launch(train, (trial.to_dict(), tmp_path), 3) == 0
    found = results(tmp_path, 3)
    assert all(identical(found[0]["model"], other["model"]) for other in found[1:])
    assert_close(found[0], alone)


def test_stopped_within_an_epoch_two_processes_go_on_bit_by_bit_and_one_to_rounding(
    trial: TrialConfig, alone: dict[str, Any], pair: Path, tmp_path: Path
) -> None:
    settings = trial.to_dict()
    assert launch(train, (settings, tmp_path, 6), 2) == STOPPED
    assert [found["step"] for found in results(tmp_path, 2)] == [6 + late for late in (1, 1)]
    checkpoint = (tmp_path / "checkpoint.pt").read_bytes()
    before = results(tmp_path, 2)[0]["losses"]

    assert launch(train, (settings, tmp_path), 2) == 0
    assert_same(tmp_path / "checkpoint.pt", pair / "checkpoint.pt")
    assert before + results(tmp_path, 2)[0]["losses"] == results(pair, 2)[0]["losses"]

    (tmp_path / "checkpoint.pt").write_bytes(checkpoint)
    assert launch(train, (settings, tmp_path), 1) == 0
    found = results(tmp_path, 1)[0]
    assert_close({**found, "losses": before + found["losses"]}, alone)


@pytest.mark.parametrize(
    ("how", "error", "sentence"),
    [
        ("killed", LostProcessError, "process 2 of 2 was killed by SIGKILL, so the training stopped"),
        ("mistaken", UserError, "the disk is full: make room"),
        ("defective", LostProcessError, "process 2 of 2 failed with exit code 1, so the training stopped"),
    ],
)
def test_a_failing_process_ends_all_at_once(
    trial: TrialConfig, how: str, error: type[Exception], sentence: str
) -> None:
    started = time.monotonic()
    with pytest.raises(error, match=re.escape(sentence)):
        launch(fail, (trial.to_dict(), how), 2)
    assert time.monotonic() - started < 60, "nobody may wait for the others for ever"


@pytest.mark.slow
def test_ctrl_c_stops_the_pipelines_processes_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "pipelines/train.py", *SETTINGS, "--processes", "2", "--checkpoint-seconds", "0"]
    command += ["--out", str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while process.poll() is None and reached(tmp_path / "out" / "checkpoint.pt") < 5:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, problems = process.stdout.read(), process.stderr.read()
    assert process.returncode == 130, problems
    assert output.splitlines()[-1].endswith("to resume, run the same command again")
    stopped = read_checkpoint(tmp_path / "out" / "checkpoint.pt").progress
    assert 5 <= stopped.step < 144
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"resuming after epoch {stopped.epoch}: ")
    assert "2 processes" in done.stdout
    assert "test MAE" in done.stdout.splitlines()[-1]
