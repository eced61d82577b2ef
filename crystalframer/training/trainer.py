"""The training loop: one trial, from its settings to a model and its errors."""

import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from crystalframer.config import TrialConfig
from crystalframer.data.batch import BatchLoader
from crystalframer.data.batching import shuffled_batches
from crystalframer.data.dataset import SplitName, TaskData, elements_in
from crystalframer.data.resident import ResidentCrystals
from crystalframer.nn.model import CrystalFramer, count_parameters
from crystalframer.training.averaging import WeightAverage
from crystalframer.training.best_weights import BestWeights
from crystalframer.training.checkpoint import Checkpoint, Progress, read_checkpoint_of, write_checkpoint
from crystalframer.training.clock import Clock
from crystalframer.training.device_steps import DeviceSteps
from crystalframer.training.fine_tuning import freeze_blocks, load_start, start_weights
from crystalframer.training.host_steps import HostSteps
from crystalframer.training.inference import evaluate_split
from crystalframer.training.metrics import EpochResult, Evaluation, measure_targets, require_targets
from crystalframer.training.optimizer import (
    TrainingDivergedError,
    build_optimizer,
    load_optimizer_state,
    optimizer_state,
    require_finite_step,
)
from crystalframer.training.precision import check_precision
from crystalframer.training.processes import ALONE, Processes
from crystalframer.training.schedule import Schedule
from crystalframer.training.seeds import draw_seed, named_generator
from crystalframer.training.suitability import check_suitable


class Trainer:
    """Trains one model; `fit` yields a result per epoch and can be stopped, saved and resumed.

    A training that is resumed ends with the same bits as one that never stopped, on the same machine with the same
    kernel, the same number of processes and of threads (`torch.set_num_threads`, which is left to the caller: another
    number sums in another order).

    Several processes train together when each makes a trainer with its place in `processes` and calls the same
    methods; only `save` is the first one's alone.

    Randomness comes from three generators derived from ``train.seed``: ``init`` (weights), ``shuffle`` (order of the
    crystals) and ``ties`` (one seed per step for what breaks symmetric ties).
    """

    def __init__(
        self,
        trial: TrialConfig,
        data: TaskData,
        *,
        device: str | torch.device = "cpu",
        processes: Processes = ALONE,
        resident: bool | None = None,
    ) -> None:
        """Build the model and what trains it.

        Args:
            trial: all settings; ``trial.data`` is what `data` was selected with.
            data: crystals, targets and splits.
            device: where the model lives.
            processes: who trains it together.
            resident: keep all crystals on the device and ask nothing of it within an epoch; None: on a GPU, unless
                several processes share the work. Where memory is too small for it, training goes on with batches from
                the host.

        Raises:
            UserError: a target is missing, the training targets are all equal, the training set has no full batch, a
                crystal has an element the model does not know, or the model has another number of outputs.
        """
        check_suitable(trial, data)
        check_precision(trial.train.precision, torch.device(device))
        self.trial = trial
        self.data = data
        self.device = torch.device(device)
        self.processes = processes
        self.targets = measure_targets(data)
        self.model = CrystalFramer(
            trial.model, kernel=trial.train.kernel, generator=named_generator(trial.train.seed, "init")
        ).to(self.device)
        freeze_blocks(self.model, trial.train.frozen_blocks)
        self.history: list[EpochResult] = []
        self.progress = Progress()
        self.start_data = ""
        self._loader = BatchLoader(data, cutoff=trial.model.cutoff, frame=trial.model.frame)
        self._fix_epochs(0)
        self._optimizer = build_optimizer(self.model, trial.train)
        self._average = WeightAverage(self.model)
        self._best = BestWeights(self.model, trial.train.keep == "best")
        self._host_steps = HostSteps(self.model, self._loader, self._optimizer, self.targets, trial.train, processes)
        wanted = self.device.type == "cuda" if resident is None else resident
        self._device_steps = DeviceSteps(
            self.model, self._optimizer, self.targets, data, trial.train, wanted=wanted and processes.size == 1
        )
        self._ties = named_generator(trial.train.seed, "ties")
        self._shuffle = named_generator(trial.train.seed, "shuffle")
        self._shuffle_state = self._shuffle.get_state()  # at the start of the epoch under way
        self._stopping = False
        self._all_stopping = False
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
    def epochs(self) -> int:
        """Epochs of the whole training; 0 while ``train.minutes`` are not fitted to the clock yet."""
        return self.trial.train.planned_epochs or self.progress.epochs

    @property
    def seconds_per_epoch(self) -> float:
        """Median wall-clock time of the epochs so far in s, NaN before the first."""
        return statistics.median(result.seconds for result in self.history) if self.history else math.nan

    @property
    def resident(self) -> ResidentCrystals | None:
        """The crystals on the device, where training keeps them there."""
        return self._device_steps.resident

    def prepare(self) -> None:
        """Give a fresh model what it starts from, once: a trained model's weights, or its calibration.

        `fit`, `evaluate` and `save` do so themselves; called before them, mistakes show before anything is written.

        Raises:
            UserError: the file of ``train.start_from`` cannot be used.
        """
        if self.model.is_calibrated:
            return
        started = time.perf_counter()
        if self.trial.train.start_from is not None:
            read = functools.partial(start_weights, self.trial, self.data)
            weights, self.start_data = self.processes.from_first(read)
            load_start(self.model, weights)
        else:
            self.model.calibrate(self._loader.batch(self._epoch_batches()[0]).to(self.device))
        self._count(started)  # it may have compiled

    def fit(self, after_step: Callable[[float], None] | None = None) -> Iterator[EpochResult]:
        """Train from where training stands to the last epoch, and yield the result of each epoch when it is done.

        Between two results, `save`, `evaluate` and `stop` may be called; leaving the iteration is safe.

        Args:
            after_step: called with each step's loss, NaN where that stays on the device until the epoch's end; `save`
                and `stop` may be called there.

        Raises:
            TrainingDivergedError: a loss, gradient or validation prediction is not a finite number. No step is ever
                skipped; resume from an earlier checkpoint with other settings.
            UserError: memory is too small for a single crystal, or ``train.minutes`` for a single epoch.
            LostProcessError: another process is gone.
        """
        self.prepare()
        self.processes.same_as_first(list(self.model.parameters()))
        over = self.trial.train.is_over
        while not over([one.val_mae for one in self.history], self.epochs) and self._train_epoch(after_step):
            yield self._finish_epoch()

    def stop(self) -> None:
        """Make `fit` end after the step under way, where `save` is possible; safe in a signal handler.

        Told to one process, all of them stop after the same step. The next call of `fit` resumes there.
        """
        self._stopping = True

    def evaluate(self, split: SplitName, *, current: bool = False) -> Evaluation:
        """Predict a split with the weights that `evaluated_weights` describes; `current`: were no best epoch kept.

        Raises:
            UserError: the split is empty or has a missing target, or memory is too small for a single crystal.
            TrainingDivergedError: a prediction is not a finite number.
        """
        require_targets(self.data, split, split)
        self.prepare()
        with self._average.applied() if current or not self._best.is_there else self._best.applied():
            loader = self.resident or self._loader
            evaluation = evaluate_split(self.model, loader, self.data, split, self.targets, self.processes)
        if not np.isfinite(evaluation.predictions).all():
            raise TrainingDivergedError.at(
                f"by epoch {self.progress.epoch + 1}, step {self.progress.step}: the model predicts no finite numbers "
                f"for the {split} split"
            )
        return evaluation

    def save(self, path: str | Path) -> None:
        """Write a checkpoint with everything that `restore` needs; an existing file is replaced atomically.

        Raises:
            OSError: the file cannot be written.
        """
        if self._in_step:
            raise RuntimeError("training was interrupted inside a step, its state is of no use; restore a checkpoint")
        self.prepare()
        self._settle()
        checkpoint = Checkpoint(
            trial=self.trial,
            data_fingerprint=self.data.fingerprint,
            targets=self.targets,
            kernel=self.model.kernel_name,
            model=self.model.state_dict(),
            optimizer=optimizer_state(self._optimizer),
            average=self._average.state_dict(),
            generators={"shuffle": self._shuffle_state, "ties": self._ties.get_state()},
            progress=self.progress,
            history=[asdict(result) for result in self.history],
            elements=self._elements,
            best=self._best.state_dict(),
            start_data=self.start_data,
        )
        write_checkpoint(Path(path), checkpoint)

    @functools.cached_property
    def _elements(self) -> tuple[int, ...]:
        return elements_in(self.data.dataset, self.data.rows["train"])

    def restore(self, path: str | Path) -> None:
        """Continue from a checkpoint of the same settings and data; only the first process reads the file.

        Raises:
            UserError: the file is missing, damaged or no checkpoint, or belongs to other settings or data.
        """
        read = functools.partial(read_checkpoint_of, Path(path), self.trial, self.data.fingerprint)
        checkpoint = self.processes.from_first(read)
        self.model.load_state_dict(checkpoint.model)
        load_optimizer_state(self._optimizer, checkpoint.optimizer)
        self._average.load_state_dict(checkpoint.average)
        self._best.load_state_dict(checkpoint.best)
        self._shuffle_state = checkpoint.generators["shuffle"]
        self._ties.set_state(checkpoint.generators["ties"])
        self.progress = checkpoint.progress
        self.start_data = checkpoint.start_data
        self.history = [EpochResult(**result) for result in checkpoint.history]
        self._in_step = False
        self._fix_epochs(self.progress.epochs)

    def _train_epoch(self, after_step: Callable[[float], None] | None) -> bool:
        """Do the epoch's remaining steps; False if told to stop before its end."""
        self.model.train()
        self._all_stopping = self.processes.any(self._stopping)
        batches = self._epoch_batches()[self.progress.position :]
        started = time.perf_counter()
        self._device_steps.begin(batches)
        if self._clock is not None:
            self._clock.note_preparing(time.perf_counter() - started)
        self._count(started)
        for place, rows in enumerate(batches):
            if self._all_stopping or (self.processes.size == 1 and self._stopping):
                self._stopping = self._all_stopping = False
                self._settle()
                return False
            started, prepared = time.perf_counter(), self._loader.seconds_preparing
            self._in_step = True
            seed, rate = draw_seed(self._ties), self._schedule.at(self.progress.step)
            on_device = self._device_steps.step(place, seed, rate)
            loss = math.nan
            if not on_device:
                found = self._host_steps.step(rows, seed, self.progress, self._schedule, stop=self._stopping)
                loss, self._all_stopping = found.loss, found.stop and self.processes.size > 1
            if self._clock is None and self._schedule.averages(self.progress.step):
                self._average.add()
            self._count(started, 0.0 if on_device else loss)
            done = self.progress
            parts = done.parts if on_device else self._host_steps.parts
            self.progress = replace(done, step=done.step + 1, position=done.position + 1, parts=parts)
            self._in_step = False
            if self._clock is not None:
                self._watch(self._clock, started, self._loader.seconds_preparing - prepared)
            if after_step is not None:
                after_step(loss)
        self._settle()
        return True

    def _settle(self) -> None:
        """Wait for the steps on the device, and take in what they came to."""
        started = time.perf_counter()
        outcome = self._device_steps.outcome()
        first = self.progress.step - len(outcome.losses)
        for step, (loss, norm) in enumerate(zip(*outcome, strict=True), start=first):
            require_finite_step(float(loss), float(norm), self.progress.epoch, step, self._schedule)
        self._count(started, float(outcome.losses.sum()))

    def _count(self, started: float, losses: float = 0.0) -> None:
        """Add what has happened since `started` to the epoch's sums."""
        done, seconds = self.progress, time.perf_counter() - started
        self.progress = replace(done, loss_sum=done.loss_sum + losses, seconds=done.seconds + seconds)

    def _watch(self, clock: Clock, started: float, preparing: float) -> None:
        """Note the step just done and, once the pace is known, fix the number of epochs for good."""
        self._settle()
        clock.note(time.perf_counter() - started - preparing, preparing)
        ahead = 0.0 if self.resident is not None else self._loader.seconds_ahead
        if epochs := self.processes.from_first(lambda: clock.epochs(ahead)):
            self._fix_epochs(max(epochs, self.progress.epoch + 1))

    def _fix_epochs(self, epochs: int) -> None:
        """Follow the schedule of so many epochs; 0: of those of the settings, where time does not decide."""
        train = self.trial.train
        self.progress = replace(self.progress, epochs=epochs)
        self._schedule = Schedule.of(train.fitted(epochs) if epochs else train, self.steps_per_epoch)
        self._clock = None if epochs else Clock.of(train, self.steps_per_epoch, self.data)

    def _finish_epoch(self) -> EpochResult:
        """Validate and turn the finished epoch into its result."""
        started, done = time.perf_counter(), self.progress
        validation = self.evaluate("val", current=True)
        loss = done.loss_sum / self.steps_per_epoch
        result = EpochResult(
            epoch=done.epoch + 1,
            step=done.step,
            train_loss=loss,
            train_mae=loss * self.targets[0].std if len(self.targets) == 1 else loss,
            val_mae=validation.mae,
            val_rmse=validation.rmse,
            learning_rate=self._schedule.at(done.step - 1),
            averaged=self._average.count > 0,
            seconds=done.seconds + time.perf_counter() - started,
            **validation.errors_by_task(),
        )
        self.history.append(result)
        if self._best.wants(result.val_mae):
            with self._average.applied():
                self._best.keep(result.epoch, result.val_mae, result.averaged)
        self.progress = Progress(epoch=result.epoch, step=result.step, parts=done.parts, epochs=done.epochs)
        self._shuffle_state = self._shuffle.get_state()
        return result

    def _epoch_batches(self) -> list[NDArray[np.int64]]:
        """Return the data set rows of each batch of the epoch under way; the generator moves on to the next epoch."""
        self._shuffle.set_state(self._shuffle_state)
        rows = self.data.rows["train"]
        return [rows[batch] for batch in shuffled_batches(len(rows), self.trial.train.batch_size, self._shuffle)]
