"""Training stopped at random places, in this process and by signals to others, ends with the same bits."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crystalframer.config import TrialConfig
from crystalframer.data.dataset import TaskData
from crystalframer.errors import UserError
from crystalframer.training.checkpoint import Checkpoint, read_checkpoint
from crystalframer.training.trainer import Trainer
from pipelines.train import main
from tests.training.test_resume import identical

MakeTrial = Callable[[dict[str, Any]], TrialConfig]
ROOT = Path(__file__).parents[2]
FRAMES = ("none", "pca", "static_local", "weighted_pca", "max")
STEPS = 16
POINTS = random.Random(20).sample([(frame, step) for frame in FRAMES for step in range(1, STEPS)], 16)
"""16 of the 20 stops: a frame and the step after which its training is stopped."""
SETTINGS = [
    *("--frame", "max", "--threads", "1"),
    *("--set", "data.train_size=60", "--set", "data.val_size=10", "--set", "data.test_size=10"),
    *("--set", "train.epochs=12", "--set", "train.batch_size=5", "--set", "train.average_epochs=4"),
    *("--set", "model.num_blocks=1", "--set", "model.width=8", "--set", "model.num_heads=2"),
    *("--set", "model.ffn_width=8", "--set", "model.num_dist=8", "--set", "model.cutoff=4"),
    *("--set", "train.kernel=reference"),
]
"""A training of 12 epochs of 12 steps."""


def read(path: Path) -> Checkpoint:
    """Return a checkpoint without the seconds it took."""
    content = read_checkpoint(path)
    history = [{**result, "seconds": 0.0} for result in content.history]
    return replace(content, history=history, progress=replace(content.progress, seconds=0.0))


def assert_same(first: Path, second: Path) -> None:
    """Compare weights, optimiser, average, generators, progress and history bit by bit."""
    one, other = read(first), read(second)
    for name in one.__dataclass_fields__:
        assert identical(getattr(one, name), getattr(other, name)), name


@pytest.fixture(scope="module")
def uninterrupted(
    make_trial: MakeTrial, data: TaskData, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[list[float], Path]]:
    """Return a function that gives the losses of each step and the last checkpoint of a frame's training."""
    folder = tmp_path_factory.mktemp("through")
    done: dict[str, list[float]] = {}

    def train(frame: str) -> tuple[list[float], Path]:
        if frame not in done:
            done[frame] = []
            trainer = Trainer(make_trial({"model.frame": frame}), data)
            list(trainer.fit(after_step=done[frame].append))
            trainer.save(folder / f"{frame}.pt")
        return done[frame], folder / f"{frame}.pt"

    return train


@pytest.mark.parametrize(("frame", "step"), POINTS)
def test_losses_and_weights_after_a_stop_are_those_without_it(
    uninterrupted: Callable[[str], tuple[list[float], Path]],
    make_trial: MakeTrial,
    data: TaskData,
    tmp_path: Path,
    frame: str,
    step: int,
) -> None:
    expected, through = uninterrupted(frame)
    assert len(expected) == STEPS
    path = tmp_path / "checkpoint.pt"
    killed = step % 2 == 0
    seen: list[float] = []

    def first_life(loss: float) -> None:
        seen.append(loss)
        if len(seen) == step and killed:
            stopped.save(path)  # and work on until "the power goes": what follows is lost
        if len(seen) == min(step + 2, STEPS) if killed else len(seen) == step:
            stopped.stop()

    stopped = Trainer(make_trial({"model.frame": frame}), data)
    list(stopped.fit(after_step=first_life))
    if not killed:
        stopped.save(path)
    losses = seen[:step]
    resumed = Trainer(make_trial({"model.frame": frame}), data)
    resumed.restore(path)
    assert resumed.progress.step == step
    list(resumed.fit(after_step=losses.append))
    assert losses == expected
    resumed.save(path)
    assert_same(path, through)


def stop_at(out: Path, step: int, how: signal.Signals) -> None:
    """Run the pipeline until it has saved a new checkpoint of this step or a later one, then send it a signal."""
    step = max(step, reached(out / "checkpoint.pt") + 1)
    command = [sys.executable, "pipelines/train.py", *SETTINGS, "--checkpoint-seconds", "0", "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while process.poll() is None and reached(out / "checkpoint.pt") < step:
            time.sleep(0.05)
        process.send_signal(how)
        problems = process.stderr.read()
    assert process.returncode == (130 if how == signal.SIGINT else -how), problems


def reached(checkpoint: Path) -> int:
    """Return the step of a checkpoint, -1 before there is one."""
    try:
        return read_checkpoint(checkpoint).progress.step
    except UserError:
        if checkpoint.exists():
            raise
        return -1


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_pipeline_stopped_twice_ends_with_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: signal.Signals
) -> None:
    steps = sorted(random.Random(int(how)).sample(range(1, 130), 2))
    for step in steps:
        stop_at(tmp_path / "stopped", step, how)
        assert step <= reached(tmp_path / "stopped" / "checkpoint.pt") < 144, "the signal must come before the end"
    assert main([*SETTINGS, "--out", str(tmp_path / "stopped")]) == 0
    assert main([*SETTINGS, "--out", str(tmp_path / "through")]) == 0
    assert capsys.readouterr().err == ""
    assert_same(tmp_path / "stopped" / "checkpoint.pt", tmp_path / "through" / "checkpoint.pt")
