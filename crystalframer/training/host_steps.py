"""Optimiser steps on batches that the host makes, in one process or as one of several."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from crystalframer.config import TrainConfig
from crystalframer.data.batch import BatchLoader
from crystalframer.nn.model import CrystalFramer
from crystalframer.training.checkpoint import Progress
from crystalframer.training.gradient import BatchGradient, StepGradient, count_edges
from crystalframer.training.metrics import Target
from crystalframer.training.optimizer import require_finite_step, set_learning_rate, trainable_parameters
from crystalframer.training.processes import Processes
from crystalframer.training.schedule import Schedule


class HostSteps:
    """Does a training's steps, where they are not the device's own.

    Args:
        model: what is trained.
        loader: makes its batches.
        optimizer: of its trainable parameters.
        targets: scales of the T targets.
        config: clipping and precision.
        processes: those that share the work.
    """

    def __init__(
        self,
        model: CrystalFramer,
        loader: BatchLoader,
        optimizer: torch.optim.Optimizer,
        targets: Sequence[Target],
        config: TrainConfig,
        processes: Processes,
    ) -> None:
        self._model = model
        self._loader = loader
        self._optimizer = optimizer
        self._targets = targets
        self._config = config
        self._processes = processes
        self._parameters = trainable_parameters(model)
        self._gradient: BatchGradient | None = None

    def step(
        self, rows: NDArray[np.int64], seed: int, progress: Progress, schedule: Schedule, *, stop: bool
    ) -> StepGradient:
        """Do one step.

        Args:
            rows: of the data set, the batch.
            seed: of what breaks ties.
            progress: where training stands.
            schedule: of the learning rate.
            stop: whether this process was told to stop.

        Raises:
            TrainingDivergedError: loss or gradient are not finite; the weights are as they were.
            UserError: memory is too small for a single crystal.
        """
        found = self._batch_gradient(progress.parts).compute(rows, seed, stop=stop)
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._config.clip_norm)
        require_finite_step(found.loss, norm.item(), progress.epoch, progress.step, schedule)
        set_learning_rate(self._optimizer, schedule.at(progress.step))
        self._optimizer.step()
        return found

    @property
    def parts(self) -> int:
        """Parts that a batch is computed in, since memory asked for it."""
        return 1 if self._gradient is None else self._gradient.parts

    def _batch_gradient(self, parts: int) -> BatchGradient:
        """Return what computes gradients, made when it is first needed: sharing work takes preparing all crystals."""
        if self._gradient is None:
            edges = count_edges(self._loader, self._loader.data.rows["train"], self._processes)
            device = next(self._model.parameters()).device
            self._gradient = BatchGradient(
                self._model, self._loader, self._targets, device=device, processes=self._processes, edges=edges,
                precision=self._config.precision,
            )  # fmt: skip
            self._gradient.parts = parts
        return self._gradient
