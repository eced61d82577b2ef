"""Every frame type lets the model learn 32 real crystals by heart."""

from collections.abc import Callable
from typing import Any

import pytest

from crystalframer.config import FRAMES, FrameName, TrialConfig
from crystalframer.data.dataset import TaskData
from crystalframer.training.trainer import Trainer

SETTINGS: dict[str, Any] = {
    "train.epochs": 200,
    "train.average_epochs": 40,
    "train.batch_size": 16,
    "train.learning_rate": 2e-3,
    "train.decay_steps": 20.0,
    "train.kernel": "auto",
    "model.width": 64,
    "model.num_heads": 4,
    "model.ffn_width": 128,
    "model.num_dist": 64,
    "model.num_angl": 16,
    "model.cutoff": 4.5,
}
"""A small model of two blocks, and a rate that decays within 400 steps."""


@pytest.mark.slow
@pytest.mark.parametrize("frame", FRAMES)
def test_overfits_32_crystals_below_one_percent_of_their_spread(
    small_crystals: Callable[..., TaskData], make_trial: Callable[[dict[str, Any]], TrialConfig], frame: FrameName
) -> None:
    trainer = Trainer(make_trial({**SETTINGS, "model.frame": frame}), small_crystals(train=32, val=1, test=1))
    list(trainer.fit())
    relative = trainer.evaluate("train").mae / trainer.targets[0].std
    print(f"{frame}: MAE {100 * relative:.2f} % of the spread, {sum(r.seconds for r in trainer.history):.1f} s")
    assert relative < 0.01
