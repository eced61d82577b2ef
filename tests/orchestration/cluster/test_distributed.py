"""The processes of one training as Ray actors."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crystalframer.config import TrialConfig
from crystalframer.errors import UserError
from crystalframer.orchestration.cluster.distributed import launch_on_ray
from crystalframer.orchestration.cluster.session import ray_session
from crystalframer.resolving import build_trial
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.single import train_single
from crystalframer.runs.trial import Trial, TrialJob
from crystalframer.training.checkpoint import read_checkpoint
from crystalframer.training.launch import launch
from crystalframer.training.processes import LostProcessError
from pipelines.train import main
from tests.training.conftest import SMALL
from tests.training.test_random_stops import assert_same
from tests.training.together import fail


@pytest.fixture(scope="module", autouse=True)
def ray_here() -> Iterator[None]:
    """A Ray that the module's trainings share."""
    with ray_session(None, 2):
        yield


@pytest.fixture(scope="module")
def trial() -> TrialConfig:
    """Settings of a training of 40 epochs of two steps."""
    sizes = {"data.train_size": 16, "data.val_size": 4, "data.test_size": 4, "train.batch_size": 8}
    return build_trial({**SMALL, **sizes, "train.epochs": 40})


def single(trial: TrialConfig, out: Path) -> TrialJob:
    return TrialJob(Trial(out.name, trial), RunDirectory(out), cpus=1, checkpoint_seconds=1e9)


def run(trial: TrialConfig, out: Path, show: Callable[[Any], None]) -> int:
    return launch_on_ray(train_single, (single(trial, out),), 2, show=show, out=out)


def said(messages: list[Any]) -> list[str]:
    """The lines among what was shown."""
    return [message for message in messages if isinstance(message, str)]


@pytest.mark.slow
def test_actors_learn_what_one_process_does_and_stop_in_good_order(trial: TrialConfig, tmp_path: Path) -> None:
    shown: list[Any] = []
    assert run(trial, tmp_path / "through", shown.append) == 0
    lines = said(shown)
    assert "2 processes" in lines[0]
    assert [line.split()[1] for line in lines if line.startswith("epoch ")] == [f"{epoch}/40" for epoch in range(1, 41)]
    assert lines[-1].startswith("test MAE ")
    assert launch(train_single, (single(trial, tmp_path / "alone"),), 1, show=lambda _: None) == 0
    errors = [
        [result["val_mae"] for result in read_checkpoint(tmp_path / name / "checkpoint.pt").history]
        for name in ("through", "alone")
    ]
    assert errors[0][:10] == pytest.approx(errors[1][:10], rel=1e-4)
    assert errors[0] == pytest.approx(errors[1], rel=1e-2)

    def interrupt(message: Any) -> None:
        if str(message).startswith("epoch    1/"):
            os.kill(os.getpid(), signal.SIGINT)

    first = run(trial, tmp_path / "stopped", interrupt)
    assert first in (0, 130), "the training may have been faster than the signal"
    again: list[Any] = []
    assert run(trial, tmp_path / "stopped", again.append) == 0
    assert said(again)[0].startswith("resuming after epoch ")
    assert_same(tmp_path / "stopped" / "checkpoint.pt", tmp_path / "through" / "checkpoint.pt")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "error", "sentence"),
    [
        ("killed", LostProcessError, "process 2 of 2 died, or its host did, so the training stopped"),
        ("mistaken", UserError, "the disk is full: make room"),
    ],
)
def test_a_failing_actor_ends_all_at_once(tmp_path: Path, how: str, error: type[Exception], sentence: str) -> None:
    small = build_trial(SMALL)
    started = time.monotonic()
    with pytest.raises(error, match=re.escape(sentence)):
        launch_on_ray(fail, (small.to_dict(), how), 2, out=tmp_path)
    assert time.monotonic() - started < 90


def test_more_processes_than_there_is_room_for(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--ray", "--processes", "3", "--threads", "5", "--out", str(tmp_path / "out")]) == 2
    assert "--processes 3: asks for 15 CPUs, but the Ray cluster has 2" in capsys.readouterr().err
