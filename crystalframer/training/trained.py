"""A trained model read back for prediction and analysis."""

from dataclasses import dataclass
from pathlib import Path

import torch

from crystalframer.config import TrialConfig
from crystalframer.nn.model import CrystalFramer
from crystalframer.training.averaging import WeightAverage
from crystalframer.training.checkpoint import read_checkpoint
from crystalframer.training.metrics import TargetScale


@dataclass(frozen=True)
class TrainedModel:
    """A model ready to predict, and what its numbers mean."""

    model: CrystalFramer
    """In evaluation mode, with the averaged weights if averaging had begun."""
    trial: TrialConfig
    """Every setting of its training."""
    scale: TargetScale
    """Mean and standard deviation of the training targets; `scale.restore` gives predictions their unit."""
    task: str
    """Target property."""
    unit: str
    """Unit of the target."""
    epoch: int
    """Complete epochs of training."""
    averaged: bool
    """Whether the weights are averaged ones."""


def load_model(path: str | Path, *, device: str | torch.device = "cpu") -> TrainedModel:
    """Read the model of a checkpoint.

    Args:
        path: a file written by `Trainer.save`.
        device: where the model shall live.

    Raises:
        UserError: the file is missing, damaged or no checkpoint.
    """
    checkpoint = read_checkpoint(Path(path))
    model = CrystalFramer(checkpoint.trial.model, kernel=checkpoint.trial.train.kernel)
    model.load_state_dict(checkpoint.model)
    average = WeightAverage(model)
    average.load_state_dict(checkpoint.average)
    if average.count:
        average.write_to_model()
    return TrainedModel(
        model=model.to(device).eval(),
        trial=checkpoint.trial,
        scale=TargetScale(checkpoint.target_mean, checkpoint.target_std),
        task=checkpoint.task,
        unit=checkpoint.unit,
        epoch=checkpoint.progress.epoch,
        averaged=average.count > 0,
    )
