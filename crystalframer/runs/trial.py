"""One trial, from its start or its last checkpoint to its `done` marker; knows nothing of Ray."""

import platform
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from crystalframer.config import TrialConfig
from crystalframer.data.dataset import TaskData, unit_token
from crystalframer.errors import UserError
from crystalframer.runs.inherit import inherit
from crystalframer.runs.run_directory import Attempt, RunDirectory, SupersededError, TrialResult
from crystalframer.runs.status import TrialStatus
from crystalframer.runs.tracker import StepMetrics, Tracker

if TYPE_CHECKING:  # they import torch, which the driver does without
    from crystalframer.data.dataset import SplitName
    from crystalframer.training.metrics import EpochResult, Evaluation

CHECKPOINT_SECONDS = 10.0
"""Shortest time between two checkpoints, and so about the most work that a kill can cost. Not a setting of a trial: it
must not change results."""
SAVING_SHARE = 0.05
"""Share of a trial's time that its checkpoints may take within epochs; where they are slow they become fewer."""
STOP_CHECK_SECONDS = 1.0
"""How often a trial looks whether it should stop."""


@dataclass(frozen=True)
class Trial:
    """One training run of a sweep; its name is also the run directory's, Ray's and MLflow's."""

    name: str
    config: TrialConfig

    def planned(self, unit: str = "") -> TrialStatus:
        """Return the trial's status before anything has happened; `unit` is its target's."""
        data, config = self.config.data, self.config
        return TrialStatus(self.name, f"{data.dataset} {data.task}", config.model.frame, unit, config.train.epochs)


class NamesItsKernel(Protocol):
    """What a trial needs of a model."""

    @property
    def kernel_name(self) -> str:
        """The attention implementation in use."""


class TrialTrainer(Protocol):
    """What a trial needs of `crystalframer.training.trainer.Trainer`."""

    history: "list[EpochResult]"

    @property
    def model(self) -> NamesItsKernel:
        """What is trained."""

    @property
    def num_parameters(self) -> int:
        """Number of the model's parameters."""

    def fit(self, after_step: "Callable[[float], None] | None" = None) -> "Iterator[EpochResult]":
        """Train from where training stands to the last epoch, yielding the result of each."""

    def stop(self) -> None:
        """Make `fit` end after the step under way."""

    def evaluate(self, split: "SplitName") -> "Evaluation":
        """Predict a split."""

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint."""


class TrainerFactory(Protocol):
    """Makes a trainer, as the class `Trainer` itself does."""

    def __call__(self, trial: TrialConfig, data: TaskData, *, device: str) -> TrialTrainer:
        """Build the model and what trains it."""


@dataclass(frozen=True)
class TrialProgress:
    """What a trial reports after each epoch, and once more when it is done."""

    epoch: int
    epochs: int
    val_mae: float
    """In the target's unit."""
    seconds: float
    """Of this epoch."""
    result: TrialResult | None = None
    """What `done.json` holds, once it is written."""
    peak_bytes: int | None = None
    """Most memory of the device held so far, None where there is no such device."""
    device_bytes: int | None = None
    """Memory of the device."""


def run_trial(
    trial: Trial,
    data: TaskData,
    directory: RunDirectory,
    tracker: Tracker,
    make_trainer: TrainerFactory,
    *,
    tags: dict[str, str],
    device: str = "cpu",
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    snapshots: int = 0,
    decide_at: Collection[int] = (),
    parent: RunDirectory | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Generator[TrialProgress, None, None]:
    """Train, evaluate and record one trial; closing the iteration early saves a checkpoint to resume from.

    Between two steps of an epoch, too, checkpoints are saved and a wish to stop is heard.

    A metric reaches the tracker only when the checkpoint that holds its epoch is on disk, so that what is recorded
    is always the past of the model that results.

    Args:
        trial: name and settings.
        data: the crystals and targets that ``trial.config.data`` names.
        directory: the trial's run directory, on storage that a later attempt sees as well.
        tracker: where parameters, metrics and artifacts go.
        make_trainer: the class `Trainer`, or a stand-in.
        tags: what the sweep says of the run, beside what the trial itself knows.
        device: where the model lives.
        checkpoint_seconds: shortest time between two checkpoints.
        snapshots: how many models to keep from evenly spaced epochs, the last one included.
        decide_at: epochs at which someone may decide to end the trial; they are saved before they are reported.
        parent: run directory of a trial whose checkpoint this one goes on from, under its own settings.
        stop_requested: asked now and then; once it says so the trial saves a checkpoint and ends.

    Yields:
        Progress after each epoch; the last one holds the result, unless the trial was asked to stop.

    Raises:
        UserError: the directory belongs to other settings or data, or the settings do not suit the data.
        SupersededError: another attempt took over.
    """
    with directory.attempt(trial.config, data.fingerprint) as attempt:
        if (done := directory.result()) is not None:  # its worker died just after the last line below
            yield TrialProgress(trial.config.train.epochs, trial.config.train.epochs, done["val_mae"], 0.0, done)
            return
        run = _Run(trial, data, attempt, tracker, checkpoint_seconds, snapshots)
        run.decide_at, run.device = frozenset(decide_at), device
        try:
            if parent is not None:
                inherit(attempt, trial.config, parent)
            trainer = make_trainer(trial.config, data, device=device)
            run.resume(trainer, tags)
            for epoch in trainer.fit(lambda _: run.after_step(trainer, stop_requested)):
                yield run.after_epoch(trainer, epoch)
            if len(trainer.history) < trial.config.train.epochs:
                run.stop(trainer)
                return
            run.save(trainer)
            result = run.conclude(trainer)
        except GeneratorExit:
            run.stop(trainer)
            raise
        except SupersededError:
            raise
        except BaseException as error:
            run.fail(error)
            raise
        yield run.progress(trainer.history[-1], result)


class _Run:
    """What `run_trial` does between two lines of its loop."""

    def __init__(
        self,
        trial: Trial,
        data: TaskData,
        attempt: Attempt,
        tracker: Tracker,
        checkpoint_seconds: float,
        snapshots: int,
    ) -> None:
        self._trial = trial
        self._data = data
        self._attempt = attempt
        self._directory = attempt.directory
        self._tracker = tracker
        self._checkpoint_seconds = checkpoint_seconds
        self._snapshot_epochs = snapshot_epochs(trial.config.train.epochs, snapshots)
        self.decide_at: frozenset[int] = frozenset()
        self.device = "cpu"
        self._saved_at = time.monotonic()
        self._saving_took = 0.0
        self._asked_at = time.monotonic()
        self._epoch = 0
        self._unpublished: list[StepMetrics] = []
        self._tags: dict[str, str] = {}
        self._tracked = False

    def resume(self, trainer: TrialTrainer, tags: dict[str, str]) -> None:
        """Continue from the checkpoint, if there is one, and bring the tracker to the same epoch."""
        if self._directory.checkpoint.exists():
            trainer.restore(self._directory.checkpoint)
        self._epoch = len(trainer.history)
        kept = self._attempt.rewind(self._epoch)
        self._attempt.write_state("running", self._epoch)
        own = {
            "fingerprint": self._trial.config.fingerprint(),
            "dataset_fingerprint": self._data.fingerprint,
            "unit": self._data.unit,
            **{f"num_{split}": str(len(rows)) for split, rows in self._data.rows.items()},
            "kernel": trainer.model.kernel_name,
            "torch": _torch_version(),
            "machine": platform.node(),
        }
        self._tags = {**tags, **own}
        start_tracking(self._tracker, self._trial, self._tags, kept)
        self._tracked = True

    def after_step(self, trainer: TrialTrainer, stop_requested: Callable[[], bool]) -> None:
        """Save within an epoch when it is time, and hear a wish to stop."""
        now = time.monotonic()
        if now - self._saved_at >= max(self._checkpoint_seconds, self._saving_took / SAVING_SHARE):
            self.save(trainer)
        if now - self._asked_at >= STOP_CHECK_SECONDS:
            self._asked_at = now
            if stop_requested():
                trainer.stop()

    def after_epoch(self, trainer: TrialTrainer, epoch: "EpochResult") -> TrialProgress:
        """Write an epoch down, and a checkpoint when one is due."""
        metrics = StepMetrics(epoch.epoch, _now_ms(), self._epoch_values(epoch))
        self._attempt.append(metrics)
        self._unpublished.append(metrics)
        self._epoch = epoch.epoch
        if (memory := _device_memory(self.device)) is not None:
            self._attempt.note_memory(*memory)
        if epoch.epoch in self._snapshot_epochs:
            self.save(trainer)
            self._keep_snapshot(epoch.epoch)
        elif epoch.epoch in self.decide_at or time.monotonic() - self._saved_at >= self._checkpoint_seconds:
            self.save(trainer)
        return self.progress(epoch)

    def _epoch_values(self, epoch: "EpochResult") -> dict[str, float]:
        values = epoch_metrics(epoch, self._data.unit)
        if not epoch.val_mae_by_task:
            return values
        units = dict(zip(self._data.tasks, self._data.units, strict=True))
        values |= task_metrics("val/{}/mae", epoch.val_mae_by_task, units)
        return values | task_metrics("val/{}/rmse", epoch.val_rmse_by_task, units)

    def save(self, trainer: TrialTrainer) -> None:
        """Write a checkpoint and publish the epochs it holds."""
        self._attempt.check_current()
        started = time.monotonic()
        trainer.save(self._directory.checkpoint)
        self._attempt.write_state("running", self._epoch)
        self._tracker.log_metrics(self._unpublished)
        self._unpublished.clear()
        self._saved_at = time.monotonic()
        self._saving_took = self._saved_at - started

    def _keep_snapshot(self, epoch: int) -> None:
        """Keep the model of the checkpoint just written; an epoch computed again replaces it by the same."""
        from crystalframer.training.snapshot import write_snapshot

        self._attempt.check_current()
        write_snapshot(self._directory.checkpoint, self._directory.snapshot(epoch))

    def conclude(self, trainer: TrialTrainer) -> TrialResult:
        """Evaluate on the test set, record everything, and mark the trial as done."""
        from crystalframer.nn.model import CrystalFramer
        from crystalframer.prediction.card import write_card

        started = time.perf_counter()
        test = trainer.evaluate("test")
        milliseconds = 1000 * (time.perf_counter() - started)
        tasks = self._data.tasks if len(self._data.tasks) > 1 else ()
        self._attempt.write_predictions(test.ids, test.targets.tolist(), test.predictions.tolist(), tasks)
        if isinstance(trainer.model, CrystalFramer):  # a stand-in has nothing to describe
            write_card(self._directory.checkpoint, self._data, test.by_task)
        values = final_metrics(test, self._data.unit, num_parameters=trainer.num_parameters)
        values["test/ms_per_material"] = milliseconds / len(test.ids)
        final = StepMetrics(self._epoch, _now_ms(), values)
        conclude_tracking(self._tracker, self._directory, final)
        result: TrialResult = {
            "trial": self._trial.name,
            "unit": self._data.unit,
            "val_mae": trainer.history[-1].val_mae,
            "test_mae": test.mae,
            "test_rmse": test.rmse,
            "baseline_mae": test.baseline_mae,
            "tags": self._tags,
            "final": {"step": final.step, "time_ms": final.time_ms, "values": values},
        }
        self._attempt.write_result(result)
        self._attempt.write_state("done", self._epoch)
        return result

    def stop(self, trainer: TrialTrainer) -> None:
        """Leave the trial so that the next attempt continues at this epoch."""
        self.save(trainer)
        self._attempt.write_state("stopped", self._epoch)
        if (early := self._directory.stopped_early()) is not None:
            self._tracker.set_tags({"stopped_early": early.reason})
        self._tracker.finish("KILLED")

    def fail(self, error: BaseException) -> None:
        """Write down why the trial failed; on a full disk that may be impossible, and the error itself has to do."""
        try:
            self._attempt.write_error(error)
            self._attempt.write_state("failed", self._epoch, one_line(error))
        except OSError as second:
            error.add_note(f"and this could not be written to the run directory: {second}")
        if self._tracked:
            self._tracker.finish("FAILED")

    def progress(self, epoch: "EpochResult", result: TrialResult | None = None) -> TrialProgress:
        """Return what to report."""
        epochs, memory = self._trial.config.train.epochs, _device_memory(self.device) or (None, None)
        return TrialProgress(epoch.epoch, epochs, epoch.val_mae, epoch.seconds, result, *memory)


def start_tracking(tracker: Tracker, trial: Trial, tags: dict[str, str], records: Sequence[StepMetrics]) -> None:
    """Start a trial's run in a tracker and bring it to the epochs that the run directory holds."""
    tracker.start(trial.name, trial.config.to_flat_dict(), tags)
    tracker.log_metrics(records)


def conclude_tracking(tracker: Tracker, directory: RunDirectory, final: StepMetrics) -> None:
    """Record the final metrics and the artifacts, and close the run."""
    tracker.log_metrics([final])
    tracker.log_artifact(directory.checkpoint, "model")
    for snapshot in directory.snapshots():
        tracker.log_artifact(snapshot, "model/snapshots")
    tracker.log_artifact(directory.config_yaml, "")
    tracker.log_artifact(directory.predictions, "predictions")
    if (card := directory.checkpoint.with_name("model_card.md")).exists():
        tracker.log_artifact(card, "")
    tracker.finish("FINISHED")


def snapshot_epochs(epochs: int, count: int) -> frozenset[int]:
    """Return `count` evenly spaced epochs of `epochs`, the last one included; all where there are fewer."""
    return frozenset(max(1, round(epochs * number / count)) for number in range(1, count + 1))


def epoch_metrics(epoch: "EpochResult", unit: str) -> dict[str, float]:
    """Return one epoch's metrics under the names that the analysis reads."""
    token = unit_token(unit)
    return {
        "train/loss": epoch.train_loss,
        f"train/mae_{token}": epoch.train_mae,
        f"val/mae_{token}": epoch.val_mae,
        f"val/rmse_{token}": epoch.val_rmse,
        "learning_rate": epoch.learning_rate,
        "seconds_per_epoch": epoch.seconds,
        "averaged": float(epoch.averaged),
    }


def final_metrics(test: "Evaluation", unit: str, num_parameters: int) -> dict[str, float]:
    """Return a finished trial's metrics under the names that the analysis reads."""
    token = unit_token(unit)
    values = {
        f"test/mae_{token}": test.mae,
        f"test/rmse_{token}": test.rmse,
        f"test/baseline_mae_{token}": test.baseline_mae,
        "num_parameters": float(num_parameters),
    }
    if len(test.by_task) > 1:
        units = {errors.task: errors.unit for errors in test.by_task}
        values |= task_metrics("test/{}/mae", {errors.task: errors.mae for errors in test.by_task}, units)
        values |= task_metrics("test/{}/rmse", {errors.task: errors.rmse for errors in test.by_task}, units)
        values |= task_metrics(
            "test/{}/baseline_mae", {errors.task: errors.baseline_mae for errors in test.by_task}, units
        )
    return values


def task_metrics(name: str, by_task: Mapping[str, float], units: Mapping[str, str]) -> dict[str, float]:
    """Return metrics of single tasks, e.g. ``val/bandgap/mae_eV`` for the name ``val/{}/mae``."""
    return {f"{name.format(task)}_{unit_token(units[task])}": value for task, value in by_task.items()}


def _device_memory(device: str) -> tuple[int, int] | None:
    """Return the most memory held so far and that of the device, in bytes; None where there is no such device."""
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory


def one_line(error: BaseException) -> str:
    """Return an error as one line: a user's mistake as its sentence, anything else with its type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _torch_version() -> str:
    import torch

    return str(torch.__version__)


def _now_ms() -> int:
    return round(time.time() * 1000)
