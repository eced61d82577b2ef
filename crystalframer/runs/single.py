"""One training by itself, in a run directory like those of a sweep: in one process or in several."""

import functools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from crystalframer.command_line import EXIT_INTERRUPTED
from crystalframer.config import TrialConfig, epochs_since_best
from crystalframer.data.dataset import TaskData, unit_token
from crystalframer.data.registry import load_task_once
from crystalframer.errors import UserError
from crystalframer.escaping import shortened
from crystalframer.prediction.cutoff import truncation_on_test
from crystalframer.runs.console import Position, on_console
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.status import PLAN, TrialStatus, append_plan, read_plan
from crystalframer.runs.tracker import Tracker
from crystalframer.runs.trial import Trial, TrialJob, follow_trial, run_trial
from crystalframer.training.checkpoint import read_checkpoint_of
from crystalframer.training.fine_tuning import start_weights
from crystalframer.training.launch import launch
from crystalframer.training.metrics import EpochResult
from crystalframer.training.processes import Channel, Processes
from crystalframer.training.suitability import check_suitable
from crystalframer.training.trained_model import load_model
from crystalframer.training.trainer import Trainer

RISING_EPOCHS = 20
"""Epochs without a smaller validation error after which, and after as many again, a training says so."""
POSITION_SECONDS = 0.2
"""How often a training says how far it is within an epoch."""


def check_single(
    config: TrialConfig, directory: RunDirectory, data: TaskData, parent: RunDirectory | None = None
) -> None:
    """Check that a training can start, resume or lengthen `parent`'s in a directory, and make that one.

    Raises:
        UserError: the settings do not suit the data, the directory holds another training or is in use, or the model
            to start from does not fit.
    """
    check_suitable(config, data)
    directory.check_belongs(config, data.fingerprint)
    if directory.checkpoint.exists():  # version 0.1 left nothing else that says whose it is
        read_checkpoint_of(directory.checkpoint, config, data.fingerprint)
    elif parent is not None:
        parent.check_data(data.fingerprint, "prepare the data set as it was")
    elif config.train.start_from is not None:
        start_weights(config, data)
    if directory.is_in_use():
        raise UserError(f"{directory.path} is in use by another training; stop it first, or choose another --out")
    try:
        directory.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {directory.path} ({error.strerror}): choose another --out") from error


def default_name(trial: TrialConfig) -> str:
    """Return the name of a training's folder where none is given."""
    data, train = trial.data, trial.train
    task = data.task.replace(",", "+")
    return f"{shortened(f'{data.dataset}-{task}-{trial.model.frame}-seed{train.seed}')}-{trial.fingerprint()}"


def list_single(trial: TrialStatus, folder: Path) -> None:
    """Let a training be among those of a folder of runs whose status is asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / PLAN).exists() or trial.name not in {known.name for known in read_plan(folder)[0]}:
        append_plan(folder, trial)


def train_single(
    processes: Processes, device: str, channel: Channel, job: TrialJob, make_tracker: Callable[[], Tracker] = Tracker
) -> int:
    """Train in this process, alone or as one of several, of which the first speaks and saves; return the exit code."""
    if job.cpus is not None:
        torch.set_num_threads(job.cpus)
    job, directory, data = replace(job, device=device), job.directory, load_task_once(job.trial.config.data)
    make_trainer = functools.partial(_SpeakingTrainer, processes=processes, channel=channel, directory=directory)
    if not processes.is_first:
        follow_trial(job, data, make_trainer, processes)
        return 0
    result = None
    for progress in run_trial(job, data, make_tracker(), make_trainer, processes=processes):
        result = progress.result
    if result is None:
        channel.send(f"stopped and saved in {directory.checkpoint}; to resume, run the same command again")
        return EXIT_INTERRUPTED
    truncation = truncation_on_test(load_model(directory.checkpoint), data)
    for line in [*filter(None, [truncation and str(truncation)]), *error_lines(directory, data)]:
        channel.send(line)
    return 0


def train_here(
    config: TrialConfig, data: TaskData, folder: Path, *, device: str = "cpu", threads: int | None = None
) -> None:
    """Train or resume in a folder and in this process, with a line an epoch; a finished training is left as it is.

    Raises:
        UserError: as `check_single` does.
        TrainingDivergedError: a loss or prediction is not a finite number.
        SupersededError: another training took the folder over.
        KeyboardInterrupt: it was stopped, and saved; the same call resumes.
    """
    directory = RunDirectory(folder.absolute())
    check_single(config, directory, data)
    if directory.result() is not None:
        return
    load_task_once.cache_clear()  # a data set of this name may have been prepared anew since
    job = TrialJob(Trial(directory.path.name, config), directory, cpus=threads)
    with on_console() as show:
        code = launch(train_single, (job,), 1, device, show)
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt


def error_lines(directory: RunDirectory, data: TaskData) -> list[str]:
    """Return a finished training's test errors, a line for each target."""
    result = directory.result()
    assert result is not None, "the training is done"
    values: dict[str, float] = result["final"]["values"]
    lines = []
    for task, unit in zip(data.tasks, data.units, strict=True):
        name, prefix = (f"{task}: ", f"test/{task}/") if len(data.tasks) > 1 else ("", "test/")
        mae, rmse, mean = (values[f"{prefix}{kind}_{unit_token(unit)}"] for kind in ("mae", "rmse", "baseline_mae"))
        lines.append(
            f"{name}test MAE {mae:.4g} {unit}, RMSE {rmse:.4g} {unit} (predicting the training mean: MAE {mean:.4g} "
            f"{unit})"
        )
    return [*lines[:-1], f"{lines[-1]}; checkpoint: {directory.checkpoint}"]


class _SpeakingTrainer(Trainer):
    """A trainer that says how it gets on, in the first process, and hears a wish to stop, in any."""

    def __init__(
        self,
        trial: TrialConfig,
        data: TaskData,
        *,
        device: str,
        processes: Processes,
        channel: Channel,
        directory: RunDirectory,
    ) -> None:
        super().__init__(trial, data, device=device, processes=processes)
        self._channel = channel
        self._directory = directory
        self._spoke = -math.inf
        self._epochs_said = self.epochs
        self._first: tuple[int, float] | None = None
        """Steps done, and the time by a clock, after the first step of this process, which compiles."""

    def fit(self, after_step: Callable[[float], None] | None = None) -> Iterator[EpochResult]:
        """See `Trainer.fit`."""

        def step(loss: float) -> None:
            if after_step is not None:
                after_step(loss)
            if self._channel.stop_requested():
                self.stop()
            if self.epochs != self._epochs_said:
                self._epochs_said = self.epochs
                self._say(f"{self.epochs} epochs fit into {self.trial.train.minutes:g} minutes at this pace")
            self._first = self._first or (self.progress.step, time.monotonic())
            if time.monotonic() - self._spoke >= POSITION_SECONDS:
                self._say(self._position())

        together = f", {self.processes.size} processes" if self.processes.size > 1 else ""
        text = (
            f"{self.num_parameters:,} parameters, {self.model.kernel_name} attention{together}, {self._directory.path}"
        )
        self._say(f"resuming after epoch {self.progress.epoch}: {text}" if self.progress.step else text)
        for result in super().fit(step):
            self._say(self._line(result))
            if sentence := self._rising():
                self._say(sentence)
            yield result

    def _say(self, message: Any) -> None:
        self._spoke = time.monotonic()
        if self.processes.is_first:
            self._channel.send(message)

    def _position(self) -> Position:
        done, batches, epochs = self.progress, self.steps_per_epoch, self.epochs
        each = math.nan
        if epochs and len(self.history) > 2:
            each = self.seconds_per_epoch
        elif epochs and self._first is not None and done.step > self._first[0]:
            each = (time.monotonic() - self._first[1]) / (done.step - self._first[0]) * batches
        return Position(
            done.epoch, epochs, done.position, batches, each * (epochs - done.epoch - done.position / batches)
        )

    def _rising(self) -> str:
        """Say every so often that the validation error no longer falls, where the settings pass over that."""
        train, errors = self.trial.train, [result.val_mae for result in self.history]
        since = epochs_since_best(errors)
        if train.patience or train.keep == "best" or not since or since % RISING_EPOCHS:
            return ""
        return (
            f"the validation error has not fallen for {since} epochs (smallest {min(errors):.4g} {self.data.unit} at "
            f"epoch {len(errors) - since}): train.keep=best keeps that model, train.patience ends such a training"
        )

    def _line(self, result: EpochResult) -> str:
        unit = self.data.unit
        tasks = "".join(
            f"  {task} {error:.4g} {unit_of_task}"
            for (task, error), unit_of_task in zip(result.val_mae_by_task.items(), self.data.units, strict=False)
        )
        return (
            f"epoch {result.epoch:4}/{self.epochs or '?'}  step {result.step}  train {result.train_mae:.4g} {unit}"
            f"  val {result.val_mae:.4g} {unit}{tasks}{' (averaged weights)' if result.averaged else ''}"
            f"  rate {result.learning_rate:.3g}  {result.seconds:.2f} s"
        )
