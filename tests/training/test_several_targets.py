"""One model learns several targets, some of them absent."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crystalframer.config import TrialConfig
from crystalframer.data.dataset import TaskData
from crystalframer.data.registry import load_task
from crystalframer.errors import UserError
from crystalframer.resolving import build_trial
from crystalframer.training.checkpoint import read_checkpoint
from crystalframer.training.gradient import BatchGradient
from crystalframer.training.metrics import Target, evaluate_predictions
from crystalframer.training.trained_model import load_model
from crystalframer.training.trainer import Trainer
from tests.training.conftest import SMALL
from tests.training.test_resume import stop_after

TASKS = ["formation_energy", "e_hull", "bandgap"]
"""The first two belong to the same crystals of the sample, the third one to others."""


@pytest.fixture(scope="module")
def trial() -> TrialConfig:
    """Settings of a small training on three targets."""
    sizes = {"data.train_size": 40, "data.val_size": 20, "data.test_size": 20}
    return build_trial({**SMALL, **sizes, "data.task": TASKS, "model.frame": "none"})


@pytest.fixture(scope="module")
def several(trial: TrialConfig) -> TaskData:
    """The crystals with any of the three targets."""
    return load_task(trial.data)


def test_a_list_of_tasks_makes_as_many_outputs(trial: TrialConfig, several: TaskData) -> None:
    assert (trial.data.task, trial.model.num_targets) == ("formation_energy,e_hull,bandgap", 3)
    assert trial == build_trial({**trial.to_flat_dict(), "data.task": ",".join(TASKS)})
    assert several.targets.shape == (len(several.dataset), 3)
    assert (several.tasks, several.units) == (tuple(TASKS), ("eV/atom", "eV/atom", "eV"))
    present = np.isfinite(several.targets[several.rows["train"]])
    assert present.any(axis=1).all()
    assert 0 < present[:, 2].sum() < len(present), "some targets must be absent for these tests to mean anything"


@pytest.mark.parametrize("tasks", ["a, b", "a,a", "a,", ["a", "b", "a"]])
def test_badly_named_tasks_are_refused(tasks: object) -> None:
    with pytest.raises(UserError, match="a task's name, or different ones joined by commas without spaces"):
        build_trial({"data.task": tasks})


def test_outputs_must_be_as_many_as_tasks(several: TaskData) -> None:
    with pytest.raises(UserError, match=r"'model\.num_targets': got 2, expected 3"):
        Trainer(build_trial({**SMALL, "data.task": TASKS, "model.num_targets": 2}), several)


def test_the_loss_is_the_mean_over_the_targets_that_are_there(trial: TrialConfig, several: TaskData) -> None:
    trainer = Trainer(trial, several)
    trainer.prepare()
    rows = several.rows["train"]
    gradient = BatchGradient(trainer.model, trainer._loader, trainer.targets, device=trainer.device)
    found = gradient.compute(rows, 1)
    outputs = trainer.model(trainer._loader.batch(rows), tie_seed=1)
    errors = [
        (outputs[row, column] - (several.targets[rows[row], column] - target.mean) / target.std).abs()
        for row in range(len(rows))
        for column, target in enumerate(trainer.targets)
        if np.isfinite(several.targets[rows[row], column])
    ]
    expected = torch.stack(errors).mean()
    assert found.loss == pytest.approx(float(expected.detach()), rel=1e-5)
    weight = trainer.model.head_out.weight
    assert weight.grad is not None
    assert torch.isfinite(weight.grad).all()
    torch.testing.assert_close(weight.grad, torch.autograd.grad(expected, weight)[0].float(), rtol=1e-4, atol=1e-6)
    gradient.parts = 4
    assert gradient.compute(rows, 1).loss == pytest.approx(found.loss, rel=1e-6), "parts with more or fewer targets"


def test_scales_are_each_targets_own(trial: TrialConfig, several: TaskData) -> None:
    trainer = Trainer(trial, several)
    for column, target in enumerate(trainer.targets):
        values = several.targets[several.rows["train"], column]
        assert target.mean == pytest.approx(np.nanmean(values))
        assert target.std == pytest.approx(np.nanstd(values))


def test_errors_are_given_by_task_and_together_in_standard_deviations() -> None:
    absent = float("nan")
    targets = (Target("a", "eV", 1.0, 2.0), Target("b", "GPa", 10.0, 4.0))
    values = np.array([[1.0, 10.0], [3.0, absent], [5.0, 18.0]])
    found = evaluate_predictions("test", ["x", "y", "z"], values, values + np.array([1.0, -2.0]), targets)
    one, other = found.by_task
    assert (one.task, one.unit, one.count, one.mae, one.baseline_mae) == ("a", "eV", 3, 1.0, 2.0)
    assert (other.task, other.unit, other.count, other.mae, other.baseline_mae) == ("b", "GPa", 2, 2.0, 4.0)
    assert (found.mae, found.baseline_mae) == (0.5, 1.0)


def test_a_training_on_several_targets_resumes_and_loads(trial: TrialConfig, several: TaskData, tmp_path: Path) -> None:
    through, stopped, resumed = (Trainer(trial, several) for _ in range(3))
    list(through.fit())
    assert through.history[-1].train_loss < through.history[0].train_loss
    assert set(through.history[-1].val_mae_by_task) == set(TASKS)
    stop_after(stopped, 11)
    list(stopped.fit())
    stopped.save(tmp_path / "checkpoint.pt")
    resumed.restore(tmp_path / "checkpoint.pt")
    list(resumed.fit())
    assert [replace(r, seconds=0.0) for r in resumed.history] == [replace(r, seconds=0.0) for r in through.history]
    resumed.save(tmp_path / "checkpoint.pt")
    trained = load_model(tmp_path / "checkpoint.pt")
    assert trained.targets == through.targets
    test = through.evaluate("test")
    assert test.predictions.shape == (20, 3)
    batch = through._loader.batch(several.rows["test"])
    with torch.no_grad():
        restored = trained.restore(trained.model(batch).double().numpy())
    np.testing.assert_allclose(restored, test.predictions, atol=1e-4)


def test_a_checkpoint_of_version_1_is_read(
    make_trial: Callable[[dict[str, Any]], TrialConfig], data: TaskData, tmp_path: Path
) -> None:
    trainer = Trainer(make_trial({}), data)
    trainer.save(tmp_path / "new.pt")
    content = torch.load(tmp_path / "new.pt", weights_only=True)
    (target,) = content.pop("targets")
    old = {"version": 1, "task": target["name"], "unit": target["unit"]}
    old |= {"target_mean": target["mean"], "target_std": target["std"]}
    del content["progress"]["parts"]
    torch.save({**content, **old}, tmp_path / "old.pt")
    assert read_checkpoint(tmp_path / "old.pt").targets == trainer.targets
    again = Trainer(make_trial({}), data)
    again.restore(tmp_path / "old.pt")
    assert len(list(again.fit())) == 4
