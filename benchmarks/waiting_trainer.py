"""A trainer that waits instead of training: what surrounds it is measured by measure_orchestration.py."""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from crystalframer.config import TrialConfig
from crystalframer.data.dataset import SplitName, TaskData
from crystalframer.training.metrics import EpochResult, Evaluation

EPOCH_SECONDS = "CRYSTALFRAMER_WAITING_SECONDS"
"""Environment variable with the time that an epoch takes."""


class WaitingModel:
    """What a trial asks of a model."""

    kernel_name = "waiting"


class WaitingTrainer:
    """Takes an epoch's time without using a processor; its checkpoint holds the epochs done."""

    def __init__(self, trial: TrialConfig, data: TaskData, *, device: str) -> None:
        """Start at the beginning."""
        self.model = WaitingModel()
        self.num_parameters = 1
        self.history: list[EpochResult] = []
        self.epochs = trial.train.epochs
        self._seconds = float(os.environ[EPOCH_SECONDS])
        self._stopping = False

    def fit(self, after_step: Callable[[float], None] | None = None) -> Iterator[EpochResult]:
        """Wait for an epoch after the other."""
        while len(self.history) < self.epochs:
            time.sleep(self._seconds)
            if after_step is not None:
                after_step(0.0)
            if self._stopping:
                return
            number = len(self.history) + 1
            self.history.append(EpochResult(number, number, 1.0, 1.0, 1.0, 1.0, 1e-3, False, self._seconds))
            yield self.history[-1]

    def stop(self) -> None:
        """End after this step."""
        self._stopping = True

    def evaluate(self, split: SplitName) -> Evaluation:
        """Return an error that was not measured."""
        zeros = np.zeros(1)
        return Evaluation(split, ("a",), zeros, zeros + 1, 1.0, 1.0, 1.0)

    def save(self, path: Path) -> None:
        """Write the epochs done."""
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps([asdict(epoch) for epoch in self.history]), encoding="utf-8")
        temporary.replace(path)

    def restore(self, path: Path) -> None:
        """Read them."""
        self.history = [EpochResult(**epoch) for epoch in json.loads(path.read_text(encoding="utf-8"))]
