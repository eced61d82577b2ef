"""A training that was stopped ends with the same bits as one that was not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from crystalframer.config import TrialConfig
from crystalframer.data.dataset import TaskData
from crystalframer.errors import UserError
from crystalframer.training.checkpoint import Checkpoint, read_checkpoint
from crystalframer.training.trainer import Trainer

MakeTrial = Callable[[dict[str, Any]], TrialConfig]


def identical(first: Any, second: Any) -> bool:
    """Return whether two nested values are equal bit by bit."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(identical(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(identical, first, second))
    return bool(first == second)


def assert_same_training(first: Trainer, second: Trainer, folder: Path) -> None:
    """Compare everything a checkpoint holds, the seconds excepted, and the predictions."""
    contents: list[Checkpoint] = []
    for trainer in (first, second):
        trainer.save(folder / "compared.pt")
        content = read_checkpoint(folder / "compared.pt")
        history = [{**result, "seconds": 0.0} for result in content.history]
        contents.append(replace(content, history=history, progress=replace(content.progress, seconds=0.0)))
    for name in contents[0].__dataclass_fields__:
        assert identical(getattr(contents[0], name), getattr(contents[1], name)), name
    assert identical(first.evaluate("test").predictions.tolist(), second.evaluate("test").predictions.tolist())


def stop_after(trainer: Trainer, steps: int) -> None:
    """Make a trainer stop as if a signal came during training step `steps`."""
    seen: list[int] = []

    def hook(model: torch.nn.Module, _args: object, _output: object) -> None:
        if model.training:
            seen.append(1)
            if len(seen) == steps:
                trainer.stop()

    trainer.model.register_forward_hook(hook)


@pytest.mark.parametrize("frame", ["none", "pca", "weighted_pca", "max"])
def test_resuming_at_each_epoch_changes_nothing(
    make_trial: MakeTrial, data: TaskData, tmp_path: Path, frame: str
) -> None:
    trial = make_trial({"model.frame": frame})
    through = Trainer(trial, data)
    through.save(tmp_path / "0.pt")
    for result in through.fit():
        through.save(tmp_path / f"{result.epoch}.pt")
    for epoch in range(trial.train.epochs + 1):
        resumed = Trainer(trial, data)
        resumed.restore(tmp_path / f"{epoch}.pt")
        assert [result.epoch for result in resumed.fit()] == list(range(epoch + 1, trial.train.epochs + 1))
        assert_same_training(through, resumed, tmp_path)


@pytest.mark.parametrize("steps", [1, 3, 4, 9, 15])
def test_resuming_inside_an_epoch_changes_nothing(
    trial: TrialConfig, data: TaskData, tmp_path: Path, steps: int
) -> None:
    through, stopped, resumed = (Trainer(trial, data) for _ in range(3))
    list(through.fit())
    stop_after(stopped, steps)
    results = list(stopped.fit())
    assert len(results) == steps // 4
    assert stopped.progress.step == steps
    stopped.save(tmp_path / "checkpoint.pt")
    resumed.restore(tmp_path / "checkpoint.pt")
    assert [result.epoch for result in resumed.fit()] == list(range(steps // 4 + 1, 5))
    assert_same_training(through, resumed, tmp_path)


def test_a_stopped_training_goes_on_in_the_same_process(trial: TrialConfig, data: TaskData, tmp_path: Path) -> None:
    through, stopped = Trainer(trial, data), Trainer(trial, data)
    list(through.fit())
    stop_after(stopped, 6)
    assert len([*stopped.fit()]) == 1
    assert len([*stopped.fit()]) == 3
    assert_same_training(through, stopped, tmp_path)


def test_stop_before_the_start_is_not_lost(trial: TrialConfig, data: TaskData) -> None:
    trainer = Trainer(trial, data)
    trainer.stop()
    assert list(trainer.fit()) == []
    assert trainer.progress.step == 0
    assert len(list(trainer.fit())) == 4


def test_a_training_with_other_settings_is_refused(
    make_trial: MakeTrial, trial: TrialConfig, data: TaskData, tmp_path: Path
) -> None:
    Trainer(trial, data).save(tmp_path / "checkpoint.pt")
    other = Trainer(make_trial({"train.learning_rate": 1e-3, "model.frame": "none"}), data)
    before = {name: value.clone() for name, value in other.model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        other.restore(tmp_path / "checkpoint.pt")
    assert "model.frame is 'none' here and 'max' there" in str(caught.value)
    assert "train.learning_rate is 0.001 here and 0.0005 there" in str(caught.value)
    assert "seed" not in str(caught.value)
    assert "write elsewhere" in str(caught.value)
    after = other.model.state_dict()
    assert all(torch.equal(value, after[name]) or bool(value.isnan().any()) for name, value in before.items())


def test_a_training_on_other_data_is_refused(
    trial: TrialConfig, data: TaskData, small_crystals: Callable[..., TaskData], tmp_path: Path
) -> None:
    Trainer(trial, data).save(tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match="was trained on other data: got fingerprint"):
        Trainer(trial, small_crystals(train=22, val=8, test=9)).restore(tmp_path / "checkpoint.pt")
