"""Steps that stay on the device train as those from the host do; here the device is the processor."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crystalframer.config import TrialConfig
from crystalframer.data.dataset import TaskData
from crystalframer.data.resident import ResidentCrystals
from crystalframer.errors import UserError
from crystalframer.training.optimizer import TrainingDivergedError
from crystalframer.training.trainer import Trainer
from tests.training.conftest import MakeTrial


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for value in trainer.model.parameters()])


@pytest.mark.parametrize("frame", ["none", "max", "weighted_pca", "pca"])
def test_the_loss_curve_is_that_of_batches_from_the_host(make_trial: MakeTrial, data: TaskData, frame: str) -> None:
    trial = make_trial({"model.frame": frame})
    resident, host = (Trainer(trial, data, resident=kept) for kept in (True, False))
    for got, want in zip(resident.fit(), host.fit(), strict=True):
        assert (got.epoch, got.step, got.averaged) == (want.epoch, want.step, want.averaged)
        assert got.learning_rate == want.learning_rate
        np.testing.assert_allclose(
            [got.train_loss, got.val_mae, got.val_rmse], [want.train_loss, want.val_mae, want.val_rmse], rtol=2e-4
        )
    torch.testing.assert_close(weights(resident), weights(host), rtol=0, atol=2e-3)
    assert resident.evaluate("test").mae == pytest.approx(host.evaluate("test").mae, rel=1e-3)


def test_two_trainings_are_bitwise_equal_and_so_is_one_that_was_interrupted(
    trial: TrialConfig, data: TaskData, tmp_path: Path
) -> None:
    whole, stopped, resumed = (Trainer(trial, data, resident=True) for _ in range(3))
    list(whole.fit())
    steps = 0

    def stop_at_the_third(_: float) -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            stopped.stop()

    list(stopped.fit(stop_at_the_third))
    stopped.save(tmp_path / "checkpoint.pt")
    assert 0 < stopped.progress.loss_sum < np.inf
    resumed.restore(tmp_path / "checkpoint.pt")
    list(resumed.fit())
    assert torch.equal(weights(resumed), weights(whole))
    assert [r.train_loss for r in resumed.history] == pytest.approx([r.train_loss for r in whole.history], rel=1e-12)


def test_divergence_is_found_at_the_epochs_end_and_named_by_its_step(make_trial: MakeTrial, data: TaskData) -> None:
    trainer = Trainer(make_trial({"train.learning_rate": 1e30}), data, resident=True)
    with pytest.raises(TrainingDivergedError, match=r"epoch 1, step [23]: loss (inf|nan)"):
        list(trainer.fit())


def test_too_little_memory_for_residence_goes_on_from_the_host(
    trial: TrialConfig, data: TaskData, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = Trainer(trial, data)
    list(expected.fit())
    gather, calls = ResidentCrystals.gather, 0

    def limited(self: ResidentCrystals, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return gather(self, *arguments)

    monkeypatch.setattr(ResidentCrystals, "gather", limited)
    trainer = Trainer(trial, data, resident=True)
    with caplog.at_level(logging.WARNING):
        list(trainer.fit())
    assert [record.message for record in caplog.records if "from the host" in record.message] != []
    assert len(caplog.records) == 1
    np.testing.assert_allclose(trainer.history[-1].val_mae, expected.history[-1].val_mae, rtol=1e-3)
    assert trainer.history[0].train_loss == pytest.approx(expected.history[0].train_loss, rel=1e-4)


def test_bfloat16_trains_nearly_as_float32(make_trial: MakeTrial, data: TaskData) -> None:
    losses = {}
    for precision in ("float32", "bf16"):
        trainers = [Trainer(make_trial({"train.precision": precision}), data, resident=kept) for kept in (True, False)]
        losses[precision] = [[result.train_loss for result in trainer.fit()] for trainer in trainers]
        resident, host = losses[precision]
        np.testing.assert_allclose(resident, host, rtol=2e-2)
    assert losses["bf16"] != losses["float32"]
    np.testing.assert_allclose(losses["bf16"], losses["float32"], rtol=5e-2)


def test_tf32_needs_a_gpu(make_trial: MakeTrial, data: TaskData) -> None:
    with pytest.raises(UserError, match=r"'train.precision': got 'tf32' on the cpu"):
        Trainer(make_trial({"train.precision": "tf32"}), data)
