"""A trainer without a model: an error curve that is known beforehand, noisy, resumable, and as slow as one likes.

The error after an epoch is a floor that depends on the settings, above which it decays; the floor is lowest at
``OPTIMUM``, and its noise, drawn from the settings and the epoch, is as large as the distance of near settings.
"""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from crystalframer.config import TrialConfig
from crystalframer.data.dataset import SplitName, TaskData
from crystalframer.training.checkpoint import (
    Checkpoint,
    Progress,
    read_checkpoint,
    require_same_training,
    write_checkpoint,
)
from crystalframer.training.metrics import EpochResult, Evaluation
from crystalframer.training.optimizer import TrainingDivergedError

OPTIMUM = {"train.learning_rate": 2e-3, "train.weight_decay": 1e-4, "model.r_0": 1.6}
NOISE = 0.01
EPOCH_SECONDS = "STUB_EPOCH_SECONDS"
"""Environment variable with the time that an epoch takes."""


def floor(config: TrialConfig) -> float:
    """Return the error that a training with these settings would end at, without noise."""
    flat = config.to_flat_dict()
    rate = math.log10(flat["train.learning_rate"] / OPTIMUM["train.learning_rate"])
    decay = math.log10(flat["train.weight_decay"] / OPTIMUM["train.weight_decay"])
    radius = flat["model.r_0"] - OPTIMUM["model.r_0"]
    return 0.1 + 0.3 * rate**2 + 0.02 * decay**2 + 0.5 * radius**2


class Model:
    """What a trial asks of a model."""

    kernel_name = "stub"


class StubTrainer:
    """Steps along the curve; its checkpoint holds the epochs done."""

    def __init__(self, trial: TrialConfig, data: TaskData, *, device: str) -> None:
        """Start at the beginning."""
        self.trial = trial
        self.data = data
        self.model = Model()
        self.num_parameters = 100
        self.epochs = trial.train.epochs
        self.history: list[EpochResult] = []
        self.start_data = ""
        self._stopping = False

    def fit(self, after_step: Callable[[float], None] | None = None) -> Iterator[EpochResult]:
        """Take an epoch after the other."""
        while len(self.history) < self.trial.train.epochs:
            time.sleep(float(os.environ.get(EPOCH_SECONDS, "0")))
            if after_step is not None:
                after_step(0.0)
            if self._stopping:
                return
            self.history.append(self._epoch(len(self.history) + 1))
            note(self.trial, len(self.history))
            yield self.history[-1]

    def stop(self) -> None:
        """End after this step."""
        self._stopping = True

    def evaluate(self, split: SplitName) -> Evaluation:
        """Return the error of the last epoch."""
        targets = np.zeros(2)
        error = self.history[-1].val_mae
        return Evaluation(split, ("a", "b"), targets, targets + error, mae=error, rmse=error, baseline_mae=1.0)

    def save(self, path: Path) -> None:
        """Write a real checkpoint, of a model and an optimiser without contents."""
        group: dict[str, Any] = {"betas": (0.0, 0.0), "weight_decay": 0.0}
        write_checkpoint(
            path,
            Checkpoint(
                trial=self.trial,
                data_fingerprint=self.data.fingerprint,
                targets=(),
                kernel="stub",
                model={},
                optimizer={"state": {}, "param_groups": [group, group]},
                average={"count": 0, "sums": {}},
                generators={},
                progress=Progress(epoch=len(self.history)),
                history=[asdict(epoch) for epoch in self.history],
            ),
        )

    def restore(self, path: Path) -> None:
        """Read it."""
        checkpoint = read_checkpoint(path)
        require_same_training(path, checkpoint, self.trial, self.data.fingerprint)
        self.history = [EpochResult(**epoch) for epoch in checkpoint.history]

    def _epoch(self, epoch: int) -> EpochResult:
        if self.trial.train.learning_rate > 0.5:
            raise TrainingDivergedError("the loss is nan")
        seed = hashlib.sha256(f"{self.trial.fingerprint()} {epoch}".encode()).digest()[:8]
        noise = NOISE * np.random.default_rng(int.from_bytes(seed, "big")).standard_normal()
        error = floor(self.trial) + math.exp(-epoch / 4) + noise
        values: dict[str, Any] = {"epoch": epoch, "step": epoch, "train_loss": error, "train_mae": error}
        values |= {"val_mae": error, "val_rmse": error, "learning_rate": 1.0, "averaged": False, "seconds": 0.01}
        return EpochResult(**values)


def note(trial: TrialConfig, epoch: int) -> None:
    """Write down outside of all run directories that an epoch was computed."""
    if folder := os.environ.get("STUB_LOG"):
        with (Path(folder) / "epochs.log").open("a") as log:
            log.write(f"{trial.fingerprint()} {epoch}\n")
