"""Choosing by the validation error: patience, the best epoch's weights, exact resume; the default is as published."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crystalframer.config import TrainConfig, TrialConfig, epochs_since_best
from crystalframer.data.dataset import TaskData
from crystalframer.errors import UserError
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.tracker import Tracker
from crystalframer.runs.trial import Trial, TrialJob, run_trial
from crystalframer.training.checkpoint import read_checkpoint
from crystalframer.training.snapshot import write_snapshot
from crystalframer.training.trained_model import load_model
from crystalframer.training.trainer import Trainer

MakeTrial = Callable[[dict[str, Any]], TrialConfig]
ROUGH = {"train.learning_rate": 0.05, "train.epochs": 12, "train.average_epochs": 0, "train.seed": 4}
"""A training whose validation error goes up and down."""


def errors_of(trainer: Trainer) -> list[float]:
    return [result.val_mae for result in trainer.history]


@pytest.mark.parametrize(
    ("errors", "since", "over"),
    [
        ([], 0, False),
        ([1], 0, False),
        ([2, 1, 1], 1, False),
        ([1, 2, 3], 2, True),
        ([3, 2, 1], 0, False),
        ([1] * 5, 4, True),
    ],
)
def test_patience_counts_epochs_since_the_best(errors: list[float], since: int, over: bool) -> None:
    assert epochs_since_best(errors) == since
    assert TrainConfig(epochs=100, patience=2).is_over(errors) is over
    assert not TrainConfig(epochs=100).is_over(errors)
    assert TrainConfig(epochs=5, average_epochs=0).is_over(errors) is (len(errors) == 5)


def test_the_default_is_another_training_in_nothing(make_trial: MakeTrial, trial: TrialConfig) -> None:
    assert make_trial({"train.keep": "last", "train.patience": 0}).fingerprint() == trial.fingerprint()
    assert len({make_trial({"train.keep": "best"}).fingerprint(), make_trial({"train.patience": 3}).fingerprint()}) == 2
    with pytest.raises(UserError, match=r"train\.keep 'bets' \(did you mean 'best'"):
        make_trial({"train.keep": "bets"})


def test_the_best_epoch_is_kept(make_trial: MakeTrial, data: TaskData, tmp_path: Path) -> None:
    last, best = (Trainer(make_trial({**ROUGH, "train.keep": keep}), data) for keep in ("last", "best"))
    predicted = []
    for result in last.fit():
        predicted.append(last.evaluate("test").predictions)
        assert last.history[-1] is result
    list(best.fit())
    assert errors_of(best) == errors_of(last)
    epoch = int(np.argmin(errors_of(best)))
    assert epoch < 11, "the last epoch is not the best one"
    assert best.evaluate("test").predictions.tolist() == predicted[epoch].tolist()
    assert best.evaluate("val").mae == min(errors_of(best))
    best.save(tmp_path / "checkpoint.pt")
    write_snapshot(tmp_path / "checkpoint.pt", tmp_path / "snapshot.pt")
    loaded = load_model(tmp_path / "checkpoint.pt")
    assert (loaded.epoch, loaded.averaged) == (epoch + 1, False)
    for path in ("checkpoint.pt", "snapshot.pt"):
        state = load_model(tmp_path / path).model.state_dict()
        assert all(torch.equal(value, best._best.state_dict()["weights"][key]) for key, value in state.items())  # type: ignore[index]


def test_averaged_weights_are_kept_as_they_are_evaluated(make_trial: MakeTrial, data: TaskData, tmp_path: Path) -> None:
    trainer = Trainer(make_trial({"train.keep": "best", "train.epochs": 6, "train.average_epochs": 3}), data)
    list(trainer.fit())
    trainer.save(tmp_path / "checkpoint.pt")
    epoch = int(np.argmin(errors_of(trainer)))
    loaded = load_model(tmp_path / "checkpoint.pt")
    assert loaded.epoch == epoch + 1
    assert loaded.averaged is trainer.history[epoch].averaged
    assert trainer.evaluate("val").mae == errors_of(trainer)[epoch]


@pytest.mark.parametrize("stop_after", [1, 3, 6])
def test_patience_ends_a_training_and_resuming_changes_nothing(
    make_trial: MakeTrial, data: TaskData, tmp_path: Path, stop_after: int
) -> None:
    trial = make_trial({**ROUGH, "train.keep": "best", "train.patience": 3})
    whole = Trainer(trial, data)
    list(whole.fit())
    assert len(whole.history) < 12
    assert epochs_since_best(errors_of(whole)) == 3
    first = Trainer(trial, data)
    for result in first.fit():
        if result.epoch == min(stop_after, len(whole.history)):
            break
    first.save(tmp_path / "checkpoint.pt")
    resumed = Trainer(trial, data)
    resumed.restore(tmp_path / "checkpoint.pt")
    list(resumed.fit())
    assert errors_of(resumed) == errors_of(whole)
    assert resumed.evaluate("test").predictions.tolist() == whole.evaluate("test").predictions.tolist()
    again = Trainer(trial, data)
    whole.save(tmp_path / "whole.pt")
    again.restore(tmp_path / "whole.pt")
    assert list(again.fit()) == []


def test_a_trial_that_ended_early_is_done(make_trial: MakeTrial, data: TaskData, tmp_path: Path) -> None:
    trial = make_trial({**ROUGH, "train.keep": "best", "train.patience": 3})
    directory = RunDirectory(tmp_path / "run")
    list(run_trial(TrialJob(Trial("run", trial), directory), data, Tracker(), Trainer))
    result, state = directory.result(), directory.state()
    assert result is not None
    assert state is not None
    assert state.state == "done"
    assert len(directory.records()) == state.epoch < 12
    history = read_checkpoint(directory.checkpoint).history
    assert result["val_mae"] == min(epoch["val_mae"] for epoch in history)


def test_checkpoints_of_before_are_still_read(make_trial: MakeTrial, data: TaskData, tmp_path: Path) -> None:
    trainer = Trainer(make_trial({}), data)
    next(trainer.fit())
    trainer.save(tmp_path / "checkpoint.pt")
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    del content["best"], content["trial"]["train"]["keep"], content["trial"]["train"]["patience"]
    torch.save(content, tmp_path / "old.pt")
    old = read_checkpoint(tmp_path / "old.pt")
    assert old == replace(old, best=None)
    assert old.trial.fingerprint() == trainer.trial.fingerprint()
