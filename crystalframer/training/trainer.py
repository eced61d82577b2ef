"""The training loop: one trial, from its settings to a model and its errors."""

import math
import statistics
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from crystalframer.config import TrialConfig
from crystalframer.data.batch import BatchLoader, CrystalBatch
from crystalframer.data.batching import shuffled_batches
from crystalframer.data.dataset import SplitName, TaskData, require_elements
from crystalframer.errors import UserError
from crystalframer.nn.model import CrystalFramer, count_parameters
from crystalframer.training.averaging import WeightAverage
from crystalframer.training.checkpoint import (
    Checkpoint,
    Progress,
    read_checkpoint,
    require_same_training,
    write_checkpoint,
)
from crystalframer.training.evaluation import predict_rows
from crystalframer.training.metrics import (
    EpochResult,
    Evaluation,
    TargetScale,
    mean_absolute_error,
    require_finite,
    root_mean_square_error,
)
from crystalframer.training.optimizer import (
    TrainingDivergedError,
    build_optimizer,
    set_learning_rate,
    trainable_parameters,
)
from crystalframer.training.schedule import Schedule
from crystalframer.training.seeds import draw_seed, named_generator

_DIVERGED_REMEDY = "try a smaller train.learning_rate or train.clip_norm, and look for outliers among the targets"


class Trainer:
    """Trains one model; `fit` yields a result per epoch and can be stopped, saved and resumed.

    A training that is resumed ends with the same bits as one that never stopped, on the same machine with the same
    kernel and the same number of threads (`torch.set_num_threads`, which is left to the caller: another number sums
    in another order).

    Randomness comes from three generators derived from ``train.seed``: ``init`` (weights), ``shuffle`` (order of the
    crystals) and ``ties`` (one seed per step for what breaks symmetric ties).
    """

    def __init__(self, trial: TrialConfig, data: TaskData, *, device: str | torch.device = "cpu") -> None:
        """Build the model and what trains it.

        Args:
            trial: all settings; ``trial.data`` is what `data` was selected with.
            data: crystals, targets and splits.
            device: where the model lives.

        Raises:
            UserError: a target is missing, the training targets are all equal, the training set has no full batch, a
                crystal has an element the model does not know, or the model has more than one output.
        """
        _check(trial, data)
        self.trial = trial
        self.data = data
        self.device = torch.device(device)
        self.scale = TargetScale.of(data.targets[data.rows["train"]], data.task)
        self.model = CrystalFramer(
            trial.model, kernel=trial.train.kernel, generator=named_generator(trial.train.seed, "init")
        ).to(self.device)
        self.history: list[EpochResult] = []
        self.progress = Progress()
        self._loader = BatchLoader(data, cutoff=trial.model.cutoff)
        self._schedule = Schedule.of(trial.train, self.steps_per_epoch)
        self._parameters = trainable_parameters(self.model)
        self._optimizer = build_optimizer(self.model, trial.train)
        self._average = WeightAverage(self.model)
        self._ties = named_generator(trial.train.seed, "ties")
        self._shuffle = named_generator(trial.train.seed, "shuffle")
        self._shuffle_state = self._shuffle.get_state()  # at the start of the epoch under way
        self._stopping = False
        self._in_step = False

    @property
    def num_parameters(self) -> int:
        """Number of the model's parameters, as the paper counts them."""
        return count_parameters(self.model)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one epoch."""
        return len(self.data.rows["train"]) // self.trial.train.batch_size

    @property
    def seconds_per_epoch(self) -> float:
        """Median wall-clock time of the epochs so far in s, NaN before the first."""
        return statistics.median(result.seconds for result in self.history) if self.history else math.nan

    def fit(self) -> Iterator[EpochResult]:
        """Train from where training stands to the last epoch, and yield the result of each epoch when it is done.

        Between two results, `save`, `evaluate` and `stop` may be called; leaving the iteration is safe.

        Raises:
            TrainingDivergedError: a loss, gradient or validation prediction is not a finite number. No step is ever
                skipped; go on from an earlier checkpoint with other settings.
        """
        self._calibrate()
        while self.progress.epoch < self.trial.train.epochs and self._train_epoch():
            yield self._finish_epoch()

    def stop(self) -> None:
        """Make `fit` end after the step under way, where `save` is possible; safe in a signal handler.

        The next call of `fit` goes on from there.
        """
        self._stopping = True

    def evaluate(self, split: SplitName) -> Evaluation:
        """Predict a split with the averaged weights once averaging has begun, else with the model's own.

        Raises:
            UserError: the split is empty or has a missing target.
            TrainingDivergedError: a prediction is not a finite number.
        """
        rows = self.data.rows[split]
        targets = self.data.targets[rows].astype(np.float64)
        require_finite(targets, f"the {split} targets of {self.data.task!r}")
        self._calibrate()
        sizes = self.data.dataset.num_atoms[rows]
        with self._average.applied() if self._average.count else nullcontext():
            predictions = self.scale.restore(predict_rows(self.model, self._loader, rows, sizes))
        if not np.isfinite(predictions).all():
            raise TrainingDivergedError(
                f"training diverged by epoch {self.progress.epoch + 1}, step {self.progress.step}: the model predicts "
                f"no finite numbers for the {split} split; {_DIVERGED_REMEDY}"
            )
        return Evaluation(
            split=split,
            ids=tuple(str(self.data.dataset.ids[row]) for row in rows),
            targets=targets,
            predictions=predictions,
            mae=mean_absolute_error(targets, predictions),
            rmse=root_mean_square_error(targets, predictions),
            baseline_mae=mean_absolute_error(targets, np.full_like(targets, self.scale.mean)),
        )

    def save(self, path: str | Path) -> None:
        """Write a checkpoint with everything that `restore` needs; an existing file is replaced atomically.

        Raises:
            OSError: the file cannot be written.
        """
        if self._in_step:
            raise RuntimeError("training was interrupted inside a step, its state is of no use; restore a checkpoint")
        self._calibrate()
        checkpoint = Checkpoint(
            trial=self.trial,
            data_fingerprint=self.data.fingerprint,
            task=self.data.task,
            unit=self.data.unit,
            target_mean=self.scale.mean,
            target_std=self.scale.std,
            kernel=self.model.kernel_name,
            model=self.model.state_dict(),
            optimizer=self._optimizer.state_dict(),
            average=self._average.state_dict(),
            generators={"shuffle": self._shuffle_state, "ties": self._ties.get_state()},
            progress=self.progress,
            history=[asdict(result) for result in self.history],
        )
        write_checkpoint(Path(path), checkpoint)

    def restore(self, path: str | Path) -> None:
        """Continue from a checkpoint of the same settings and data.

        Raises:
            UserError: the file is missing, damaged or no checkpoint, or belongs to other settings or data.
        """
        checkpoint = read_checkpoint(Path(path))
        require_same_training(Path(path), checkpoint, self.trial, self.data.fingerprint)
        self.model.load_state_dict(checkpoint.model)
        self._optimizer.load_state_dict(checkpoint.optimizer)
        self._average.load_state_dict(checkpoint.average)
        self._shuffle_state = checkpoint.generators["shuffle"]
        self._ties.set_state(checkpoint.generators["ties"])
        self.progress = checkpoint.progress
        self.history = [EpochResult(**result) for result in checkpoint.history]
        self._in_step = False

    def _calibrate(self) -> None:
        """Measure the model's constants on the first training batch, once."""
        if not self.model.is_calibrated:
            self.model.calibrate(self._batch(self._epoch_batches()[0]))

    def _train_epoch(self) -> bool:
        """Do the epoch's remaining steps; False if told to stop before its end."""
        self.model.train()
        for rows in self._epoch_batches()[self.progress.position :]:
            if self._stopping:
                self._stopping = False
                return False
            started = time.perf_counter()
            self._in_step = True
            loss = self._train_step(rows)
            self.progress = replace(
                self.progress,
                step=self.progress.step + 1,
                position=self.progress.position + 1,
                loss_sum=self.progress.loss_sum + loss,
                seconds=self.progress.seconds + time.perf_counter() - started,
            )
            self._in_step = False
        return True

    def _train_step(self, rows: NDArray[np.int64]) -> float:
        """Do one optimiser step and return its loss."""
        step = self.progress.step
        batch = self._batch(rows)
        assert batch.targets is not None, "the loader gives every batch its targets"
        targets = (batch.targets - self.scale.mean) / self.scale.std
        self._optimizer.zero_grad(set_to_none=True)
        loss = (self.model(batch, tie_seed=draw_seed(self._ties)) - targets).abs().mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.trial.train.clip_norm)
        self._require_finite_step(loss.item(), norm.item())
        set_learning_rate(self._optimizer, self._schedule.at(step))
        self._optimizer.step()
        if self._schedule.averages(step):
            self._average.add()
        return loss.item()

    def _require_finite_step(self, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        raise TrainingDivergedError(
            f"training diverged in epoch {self.progress.epoch + 1}, step {self.progress.step + 1}: "
            f"loss {loss}, gradient norm {norm} at learning rate {self._schedule.at(self.progress.step):.3g}; "
            f"{_DIVERGED_REMEDY}"
        )

    def _finish_epoch(self) -> EpochResult:
        """Validate and turn the finished epoch into its result."""
        started = time.perf_counter()
        validation = self.evaluate("val")
        loss = self.progress.loss_sum / self.steps_per_epoch
        result = EpochResult(
            epoch=self.progress.epoch + 1,
            step=self.progress.step,
            train_loss=loss,
            train_mae=loss * self.scale.std,
            val_mae=validation.mae,
            val_rmse=validation.rmse,
            learning_rate=self._schedule.at(self.progress.step - 1),
            averaged=self._average.count > 0,
            seconds=self.progress.seconds + time.perf_counter() - started,
        )
        self.history.append(result)
        self.progress = Progress(epoch=result.epoch, step=result.step)
        self._shuffle_state = self._shuffle.get_state()
        return result

    def _epoch_batches(self) -> list[NDArray[np.int64]]:
        """Return the data set rows of each batch of the epoch under way; the generator moves on to the next epoch."""
        self._shuffle.set_state(self._shuffle_state)
        rows = self.data.rows["train"]
        return [rows[batch] for batch in shuffled_batches(len(rows), self.trial.train.batch_size, self._shuffle)]

    def _batch(self, rows: NDArray[np.int64]) -> CrystalBatch:
        return self._loader.batch(rows).to(self.device)


def _check(trial: TrialConfig, data: TaskData) -> None:
    """Raise a `UserError` where the settings and the data do not go together."""
    size = len(data.rows["train"])
    if trial.model.num_targets != 1:
        raise UserError(
            f"setting 'model.num_targets': got {trial.model.num_targets}, expected 1, as task {data.task!r} has one "
            "target per crystal; leave it at 1"
        )
    require_finite(data.targets[data.rows["train"]], f"the training targets of {data.task!r}")
    if size < trial.train.batch_size:
        raise UserError(
            f"setting 'train.batch_size': got {trial.train.batch_size}, expected at most {size}, the size of the "
            f"training set of {data.task!r}; choose a smaller batch or more training crystals"
        )
    require_finite(data.targets[data.rows["val"]], f"the validation targets of {data.task!r}")
    require_elements(data.dataset, np.concatenate(list(data.rows.values())), trial.model.num_elements)
