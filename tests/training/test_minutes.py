"""Time as a budget: the schedule follows from the pace of the first steps, once, and resumes exactly."""

import itertools
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from crystalframer.config import TrainConfig
from crystalframer.data import batch
from crystalframer.data.batch import BatchLoader
from crystalframer.data.dataset import TaskData
from crystalframer.errors import UserError
from crystalframer.geometry.prepared import prepare_geometry
from crystalframer.resolving import build_trial, trial_from_dict
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.status import read_status
from crystalframer.runs.trial import Trial
from crystalframer.training.checkpoint import read_checkpoint
from crystalframer.training.clock import EVALUATION_SHARE, Amounts, Clock
from crystalframer.training.schedule import Schedule
from crystalframer.training.trainer import Trainer
from tests.training.conftest import MakeTrial
from tests.training.test_lengthening import lengthen, train

AMOUNTS = Amounts(steps_per_epoch=10, batch_size=5, val=0, test=0)


def after(clock: Clock, *seconds: float) -> Clock:
    for one in seconds:
        clock.note(one)
    return clock


def test_as_many_epochs_as_fit() -> None:
    clock = after(Clock(1.0, AMOUNTS), *[0.5] * 12)
    assert clock.epochs() == 12  # 5 s an epoch
    assert clock.epochs(ahead=5.0) == 11
    clock.note_preparing(10.0)
    assert clock.epochs() == 10


def test_compiling_costs_no_minutes() -> None:
    clock = after(Clock(1.0, AMOUNTS), 300.0, *[0.5] * 11)  # five minutes in the first step
    assert clock.epochs() == 12


def test_predictions_are_counted() -> None:
    amounts = replace(AMOUNTS, val=50, test=100)
    clock = after(Clock(1.0, amounts), *[0.5] * 12)
    each, once = 5 + 50 / 5 * 0.5 * EVALUATION_SHARE, 100 / 5 * 0.5 * EVALUATION_SHARE
    assert clock.epochs() == int((60 - once) / each) == 8


def test_the_pace_is_taken_after_enough_steps_and_time_or_at_a_fifth_of_the_time() -> None:
    clock = after(Clock(10.0, AMOUNTS), *[0.1] * 11)
    clock.note_preparing(100.0)
    assert clock.epochs() == 0
    assert after(clock, 0.1).epochs() > 0
    clock = after(Clock(10.0, AMOUNTS), *[0.1] * 12)
    assert clock.epochs() == 0
    clock.note_preparing(11.0)
    assert clock.epochs() > 0
    slow = after(Clock(10.0, AMOUNTS), *[40.0] * 3)
    assert slow.epochs() == 0
    assert after(slow, 40.0).epochs() == 1


def test_a_time_too_short_for_an_epoch_is_refused() -> None:
    clock = after(Clock(0.5, AMOUNTS), *[4.0] * 4)
    sentence = r"got 0.5, but preparing the crystals, one epoch and the test take 0.67 minutes on this machine; give at"
    with pytest.raises(UserError, match=sentence):
        clock.epochs()


def test_decay_and_averaging_scale_with_the_epochs() -> None:
    train = TrainConfig(minutes=1.0, epochs=200, average_epochs=40, decay_steps=4000.0).fitted(10)
    assert (train.epochs, train.average_epochs, train.decay_steps) == (10, 2, 200.0)
    long, short = (
        Schedule.of(replace(train, epochs=200, average_epochs=40, decay_steps=4000.0), 7),
        Schedule.of(train, 7),
    )
    assert long.average_from == 20 * short.average_from
    assert [short.at(step) for step in (0, 7, 69)] == [long.at(20 * step) for step in (0, 7, 69)]


def test_settings_of_a_time() -> None:
    config = build_trial({"train.minutes": "10"}).train
    assert (config.minutes, config.average_epochs, config.planned_epochs) == (10.0, 400, 0)
    assert build_trial({"train.minutes": 10, "train.average_epochs": 50}).train.average_epochs == 50
    assert build_trial({"train.minutes": 10}).fingerprint() != build_trial({"train.minutes": 20}).fingerprint()
    for wrong in (0, -1, "soon", float("inf")):
        with pytest.raises(UserError, match=r"train\.minutes"):
            build_trial({"train.minutes": wrong})


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by 10 ms whenever it is looked at: what a training takes depends on no machine."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: 0.01 * next(ticks))


@pytest.mark.usefixtures("ticking")
def test_the_number_is_fixed_once_and_resumed_exactly(make_trial: MakeTrial, data: TaskData, tmp_path: Path) -> None:
    trial = make_trial({"train.minutes": 0.03, "train.epochs": 50, "train.average_epochs": 10})
    straight, stops = Trainer(trial, data), [2, 7]
    assert straight.epochs == 0

    def after_step(_loss: float) -> None:
        if straight.progress.step in stops:
            straight.save(tmp_path / f"{straight.progress.step}.pt")

    list(straight.fit(after_step))
    assert straight.epochs == len(straight.history) >= 2
    assert read_checkpoint(tmp_path / "2.pt").progress.epochs == 0
    assert read_checkpoint(tmp_path / "7.pt").progress.epochs == straight.epochs
    assert straight.history[-1].averaged
    resumed = Trainer(trial, data)
    resumed.restore(tmp_path / "7.pt")
    assert resumed.epochs == straight.epochs
    list(resumed.fit())
    assert [one.val_mae for one in resumed.history] == [one.val_mae for one in straight.history]
    assert all(map(torch.equal, straight.model.parameters(), resumed.model.parameters()))
    early = Trainer(trial, data)
    early.restore(tmp_path / "2.pt")  # it finds its own number
    list(early.fit())
    assert early.epochs == len(early.history)


@pytest.mark.usefixtures("ticking")
def test_the_program_says_how_many_epochs_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(tmp_path / "run", minutes=0.03, epochs=50)
    said = capsys.readouterr().out
    found = re.search(r"^(\d+) epochs fit into 0.03 minutes at this pace$", said, re.MULTILINE)
    assert found is not None, said
    epochs = int(found[1])
    directory = RunDirectory(run)
    state, identity = directory.state(), directory.identity()
    assert state is not None
    assert identity is not None
    assert state.epochs == len(directory.records()) == epochs
    status = read_status(tmp_path, Trial("run", trial_from_dict(identity["settings"])).planned())
    assert (status.standing, status.epoch, status.epochs) == ("done", epochs, epochs)
    assert f"epoch {epochs:4}/{epochs}  step" in said
    assert lengthen(run, "train.epochs=99") == 2
    assert "took the 0.03 minutes it was given" in capsys.readouterr().err


def test_the_first_crystal_says_nothing_about_the_others(data: TaskData, monkeypatch: pytest.MonkeyPatch) -> None:
    now, took, prepare = [0.0], iter([60.0, 1.0, 3.0]), prepare_geometry

    def slowly(*arguments: Any, **options: Any) -> Any:
        now[0] += next(took)
        return prepare(*arguments, **options)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(batch, "prepare_geometry", slowly)
    loader = BatchLoader(data, 4.0)
    for row in (*data.rows["train"][:3], data.rows["train"][0]):
        loader.geometry(int(row))
    assert loader.num_prepared == 3
    assert loader.seconds_ahead == (sum(map(len, data.rows.values())) - 3) * (1 + 3) / 2
