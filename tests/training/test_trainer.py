"""The training loop on a small model and real crystals."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crystalframer.config import TrialConfig
from crystalframer.data.batch import BatchLoader
from crystalframer.data.dataset import TaskData
from crystalframer.errors import UserError
from crystalframer.training.averaging import WeightAverage
from crystalframer.training.inference import predict_rows
from crystalframer.training.metrics import restore
from crystalframer.training.optimizer import TrainingDivergedError
from crystalframer.training.trainer import Trainer

MakeTrial = Callable[[dict[str, Any]], TrialConfig]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def with_targets(data: TaskData, change: Callable[[np.ndarray[Any, Any]], None]) -> TaskData:
    targets = data.targets.copy()
    change(targets)
    return replace(data, targets=targets)


def test_fit_yields_one_result_per_epoch(trial: TrialConfig, data: TaskData) -> None:
    trainer = Trainer(trial, data)
    results = list(trainer.fit())
    assert trainer.history == results
    assert [result.epoch for result in results] == [1, 2, 3, 4]
    assert [result.step for result in results] == [4, 8, 12, 16]
    assert [result.averaged for result in results] == [False, False, True, True]
    rates = [result.learning_rate for result in results]
    assert rates[0] == pytest.approx(5e-4 * (4000 / 4003) ** 0.5, rel=1e-12)
    assert rates[2] == rates[3] == pytest.approx(5e-4 * (4000 / 4008) ** 0.5, rel=1e-12)
    for result in results:
        assert result.train_mae == pytest.approx(result.train_loss * trainer.targets[0].std)
        assert result.val_rmse >= result.val_mae > 0
        assert result.seconds > 0
    assert min(result.seconds for result in results) <= trainer.seconds_per_epoch
    assert list(trainer.fit()) == []


def test_targets_are_standardised_by_the_training_set(trial: TrialConfig, data: TaskData) -> None:
    trainer = Trainer(trial, data)
    train = data.targets[data.rows["train"]]
    assert trainer.targets[0].mean == pytest.approx(train.mean(), rel=1e-12)
    assert trainer.targets[0].std == pytest.approx(train.std(ddof=0), rel=1e-12)
    test = trainer.evaluate("test")
    assert test.baseline_mae == pytest.approx(np.abs(data.targets[data.rows["test"]] - train.mean()).mean(), rel=1e-12)


def test_the_first_loss_is_that_of_the_initial_model(make_trial: MakeTrial, data: TaskData) -> None:
    trial = make_trial({"train.epochs": 1, "train.average_epochs": 0, "train.batch_size": 21, "model.frame": "none"})
    train = Trainer(trial, data).evaluate("train")
    result = next(Trainer(trial, data).fit())
    assert result.train_mae == pytest.approx(train.mae, rel=1e-5)


def test_evaluation_uses_the_mean_of_the_last_epochs_weights(make_trial: MakeTrial, data: TaskData) -> None:
    trial = make_trial({"train.epochs": 5, "train.average_epochs": 3, "train.batch_size": 21})
    trainer = Trainer(trial, data)
    seen = [weights(trainer) for _ in trainer.fit()]
    by_average = trainer.evaluate("val").predictions
    assert all(torch.equal(seen[-1][name], value) for name, value in weights(trainer).items())
    with torch.no_grad():
        for name, value in trainer.model.named_parameters():
            value.copy_(torch.stack([step[name].double() for step in seen[2:]]).mean(dim=0))
    by_hand = predict_rows(trainer.model, BatchLoader(data, 4.0), data.rows["val"])
    assert np.array_equal(restore(by_hand, trainer.targets), by_average)
    assert np.abs(by_average - data.targets[data.rows["val"]]).mean() == trainer.history[-1].val_mae


def test_evaluation_before_averaging_uses_the_models_own_weights(trial: TrialConfig, data: TaskData) -> None:
    trainer = Trainer(trial, data)
    next(trainer.fit())
    own = predict_rows(trainer.model, BatchLoader(data, 4.0), data.rows["val"])
    assert np.array_equal(trainer.evaluate("val").predictions, restore(own, trainer.targets))


def test_evaluation_keeps_the_order_of_the_split(trial: TrialConfig, data: TaskData) -> None:
    trainer = Trainer(trial, data)
    next(trainer.fit())
    rows, loader = data.rows["train"], BatchLoader(data, 4.0)
    one_by_one = np.concatenate([predict_rows(trainer.model, loader, rows[i : i + 1]) for i in range(21)])
    packed = predict_rows(trainer.model, loader, rows, max_atoms=7)
    assert len(set(one_by_one.round(3))) > 10, "the crystals must be told apart for this test to mean anything"
    np.testing.assert_allclose(packed, one_by_one, atol=2e-6)
    evaluation = trainer.evaluate("train")
    np.testing.assert_allclose(evaluation.predictions, restore(one_by_one, trainer.targets), atol=5e-6)
    assert evaluation.ids == tuple(data.dataset[int(row)].id for row in rows)
    assert evaluation.targets.tolist() == data.targets[rows].tolist()
    assert evaluation.mae == pytest.approx(np.abs(evaluation.predictions - evaluation.targets).mean())


def test_evaluating_changes_nothing(make_trial: MakeTrial, data: TaskData) -> None:
    trial = make_trial({"train.average_epochs": 3})
    plain, curious = Trainer(trial, data), Trainer(trial, data)
    curious.evaluate("test")
    for _ in curious.fit():
        assert np.array_equal(curious.evaluate("test").predictions, curious.evaluate("test").predictions)
    list(plain.fit())
    assert all(torch.equal(value, weights(plain)[name]) for name, value in weights(curious).items())
    assert [replace(result, seconds=0.0) for result in plain.history] == [
        replace(result, seconds=0.0) for result in curious.history
    ]


def test_the_seed_decides_everything(make_trial: MakeTrial, data: TaskData) -> None:
    first, again, other = (next(Trainer(make_trial({"train.seed": seed}), data).fit()).train_loss for seed in (1, 1, 2))
    assert first == again != other


def test_training_breaks_ties_with_a_new_seed_each_step_and_evaluation_does_not(
    trial: TrialConfig, data: TaskData
) -> None:
    trainer, seeds = Trainer(trial, data), []
    trainer.model.register_forward_pre_hook(
        lambda model, args, kwargs: seeds.append((model.training, kwargs.get("tie_seed"))), with_kwargs=True
    )
    next(trainer.fit())
    training = [seed for in_training, seed in seeds if in_training]
    assert len(set(training)) == 4
    assert None not in training
    evaluation = [seed for in_training, seed in seeds if not in_training]
    assert evaluation == [None] * len(evaluation) != []


def test_every_epoch_sees_each_crystal_at_most_once_in_a_new_order(trial: TrialConfig, data: TaskData) -> None:
    trainer = Trainer(trial, data)
    drawn: list[float] = []
    trainer.model.register_forward_pre_hook(
        lambda model, args: drawn.extend(args[0].targets[:, 0].tolist()) if model.training else None
    )
    list(trainer.fit())
    epochs = np.array(drawn).reshape(4, 20)
    available = Counter(data.targets[data.rows["train"]].astype(np.float32).tolist())
    assert all(Counter(epoch) < available for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_frozen_scalars_stay_as_calibrated(trial: TrialConfig, data: TaskData) -> None:
    trainer = Trainer(trial, data)
    next(trainer.fit())
    frozen = {name: value.clone() for name, value in trainer.model.named_parameters() if not value.requires_grad}
    assert len(frozen) > 0
    list(trainer.fit())
    assert all(torch.equal(value, weights(trainer)[name]) for name, value in frozen.items())


def test_gradients_are_clipped(make_trial: MakeTrial, data: TaskData) -> None:
    trainer = Trainer(make_trial({"train.clip_norm": 1e-3}), data)
    next(trainer.fit())
    norms = [value.grad.norm() for value in trainer.model.parameters() if value.grad is not None]
    assert float(torch.stack(norms).norm()) == pytest.approx(1e-3, rel=1e-4)


def test_divergence_is_reported_and_never_saved(make_trial: MakeTrial, data: TaskData, tmp_path: Path) -> None:
    trainer = Trainer(make_trial({"train.learning_rate": 1e30}), data)
    with pytest.raises(TrainingDivergedError, match=r"epoch 1, step 2: loss .* learning rate 1e\+30; try a smaller"):
        list(trainer.fit())
    with pytest.raises(RuntimeError, match="inside a step"):
        trainer.save(tmp_path / "checkpoint.pt")
    assert not list(tmp_path.iterdir())


def test_divergence_in_the_last_step_is_found_by_validation(make_trial: MakeTrial, data: TaskData) -> None:
    differences = {"train.learning_rate": 1e30, "train.epochs": 1, "train.average_epochs": 0, "train.batch_size": 21}
    with pytest.raises(
        TrainingDivergedError, match="epoch 1, step 1: the model predicts no finite numbers for the val"
    ):
        list(Trainer(make_trial(differences), data).fit())


@pytest.mark.parametrize(
    ("differences", "problem"),
    [
        ({"train.batch_size": 22}, "'train.batch_size': got 22, expected at most 21.*choose a smaller batch"),
        ({"model.num_targets": 2}, "'model.num_targets': got 2, expected 1"),
        ({"model.num_elements": 20}, "the model knows elements 1 to 20"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused(
    make_trial: MakeTrial, data: TaskData, differences: dict[str, Any], problem: str
) -> None:
    with pytest.raises(UserError, match=problem):
        Trainer(make_trial(differences), data)


def test_unusable_targets_are_refused(trial: TrialConfig, data: TaskData) -> None:
    with pytest.raises(UserError, match="the training targets of 'formation_energy' are not all numbers: got 1"):
        Trainer(trial, with_targets(data, lambda t: t.__setitem__(data.rows["train"][3], np.nan)))
    with pytest.raises(UserError, match="the validation targets of 'formation_energy' are not all numbers: got 1"):
        Trainer(trial, with_targets(data, lambda t: t.__setitem__(data.rows["val"][0], np.nan)))
    with pytest.raises(UserError, match="are all 1: got a spread of 0"):
        Trainer(trial, with_targets(data, lambda t: t.fill(1.0)))
    empty = replace(data, rows={**data.rows, "test": data.rows["test"][:0]})
    with pytest.raises(UserError, match="the test targets of 'formation_energy' are empty"):
        Trainer(trial, empty).evaluate("test")


def test_average_covers_the_trainable_parameters(trial: TrialConfig, data: TaskData) -> None:
    trainer = Trainer(trial, data)
    averaged = set(WeightAverage(trainer.model).state_dict()["sums"])
    assert averaged == {name for name, value in trainer.model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("frame", ["none", "static_local", "weighted_pca", "max"])
def test_divergence_is_named_also_by_the_cpu_kernel(make_trial: MakeTrial, data: TaskData, frame: str) -> None:
    trial = make_trial({"train.learning_rate": 1e30, "train.kernel": "cpu", "model.frame": frame})
    with pytest.raises(TrainingDivergedError, match="diverged"):
        list(Trainer(trial, data).fit())
