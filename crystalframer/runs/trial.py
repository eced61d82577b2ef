"""One trial, from its start or its last checkpoint to its `done` marker; knows nothing of Ray."""

import platform
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalframer.config import CHECKPOINT_SECONDS, TrialConfig
from crystalframer.data.dataset import TaskData
from crystalframer.errors import one_line
from crystalframer.runs.contents import TrialResult
from crystalframer.runs.lengthening import inherit
from crystalframer.runs.recording import conclude_tracking, epoch_metrics, final_metrics
from crystalframer.runs.run_directory import Attempt, RunDirectory, SupersededError
from crystalframer.runs.status import TrialStatus
from crystalframer.runs.tracker import StepMetrics, Tracker

if TYPE_CHECKING:  # they import torch, which the driver does without
    from crystalframer.training.metrics import EpochResult
    from crystalframer.training.processes import Processes
    from crystalframer.training.trainer import Trainer

TrainerFactory = Callable[..., Any]
"""Makes a trainer of a trial's settings and data, and the keyword `device`: the class `Trainer`, or a stand-in's."""
SAVING_SHARE = 0.05
"""Share of a trial's time that its checkpoints may take within epochs; where they are slow they become fewer."""


@dataclass(frozen=True)
class Trial:
    """One training run of a sweep; its name is also the run directory's, Ray's and MLflow's."""

    name: str
    config: TrialConfig

    def planned(self, unit: str = "") -> TrialStatus:
        """Return the trial's status before anything has happened; `unit` is its target's."""
        data, model, train = self.config.data, self.config.model, self.config.train
        return TrialStatus(self.name, f"{data.dataset} {data.task}", model.frame, unit, train.planned_epochs)


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


@dataclass(frozen=True)
class TrialJob:
    """What a process needs to run a trial, alone or with others; pickled on its way, to another machine perhaps."""

    trial: Trial
    directory: RunDirectory
    """Where it runs: an absolute path, on storage that a later attempt sees as well."""
    tags: dict[str, str] = field(default_factory=dict)
    """What the sweep says of the run, beside what the trial itself knows."""
    tracking_uri: str = ""
    experiment_id: str = ""
    cpus: int | None = None
    """Threads of each process, None for torch's own choice."""
    gpus: float = 0.0
    """Share of a GPU, or a number of them."""
    device: str = "cpu"
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    trainer: str = ""
    """Where the trainer's class is, as ``module:name``."""
    snapshots: int = 0
    """How many models to keep from evenly spaced epochs, the last one included."""
    decide_at: tuple[int, ...] = ()
    """Epochs at which someone may decide to end the trial; they are saved before they are reported."""
    parent: RunDirectory | None = None
    """That of a trial whose checkpoint this one resumes from, under its own settings."""
    marker: Path | None = None
    """A file that the driver made beside the run directories; a worker that does not see it is on the wrong storage."""
    stop_file: Path | None = None
    """A file that is there while the sweep should stop."""

    @property
    def name(self) -> str:
        """The trial's."""
        return self.trial.name


def run_trial(
    job: TrialJob,
    data: TaskData,
    tracker: Tracker,
    make_trainer: TrainerFactory,
    *,
    stop_requested: Callable[[], bool] = lambda: False,
    processes: "Processes | None" = None,
) -> Generator[TrialProgress, None, None]:
    """Train, evaluate and record one trial; closing the iteration early saves a checkpoint to resume from.

    Between two steps of an epoch, too, checkpoints are saved and a wish to stop is heard.

    A metric reaches the tracker only when the checkpoint that holds its epoch is on disk, so that what is recorded
    is always the past of the model that results.

    Args:
        job: the trial, and how it runs.
        data: the crystals and targets that its settings name.
        tracker: where parameters, metrics and artifacts go.
        make_trainer: see `TrainerFactory`.
        stop_requested: asked after every step; once it says so the trial saves a checkpoint and ends.
        processes: those that train together, of which this is the first; see `follow_trial`.

    Yields:
        Progress after each epoch; the last one holds the result, unless the trial was asked to stop.

    Raises:
        UserError: the directory belongs to other settings or data, or the settings do not suit the data.
        SupersededError: another attempt took over.
    """
    directory, config = job.directory, job.trial.config
    with directory.attempt(config, data.fingerprint) as attempt:
        if (done := directory.result()) is not None:  # its worker died just after the last line below
            yield TrialProgress(done["final"]["step"], done["final"]["step"], done["val_mae"], 0.0, done)
            return
        run = _Run(job, data, attempt, tracker)
        try:
            if job.parent is not None:
                inherit(attempt, config, job.parent)
            trainer: Trainer = make_trainer(config, data, device=job.device)
            if processes is not None:
                processes.from_first(directory.checkpoint.exists)
            run.resume(trainer)
            for epoch in trainer.fit(lambda _: run.after_step(trainer, stop_requested)):
                yield run.after_epoch(trainer, epoch)
            if not config.train.is_over([epoch.val_mae for epoch in trainer.history], trainer.epochs):
                run.stop(trainer)
                return
            run.save(trainer)
            result = run.conclude(trainer)
        except GeneratorExit:
            run.stop(trainer)
            raise
        except (SupersededError, KeyboardInterrupt):
            raise
        except BaseException as error:
            run.fail(error)
            raise
        yield run.progress(trainer, result)


def follow_trial(job: TrialJob, data: TaskData, make_trainer: TrainerFactory, processes: "Processes") -> None:
    """Train along with the process that runs the same job by `run_trial`: resume, train, evaluate; write nothing.

    Raises:
        LostProcessError: another process is gone.
    """
    trainer = make_trainer(job.trial.config, data, device=job.device)
    if processes.from_first(lambda: False):
        trainer.restore(job.directory.checkpoint)
    for _ in trainer.fit():
        pass
    if job.trial.config.train.is_over([epoch.val_mae for epoch in trainer.history], trainer.epochs):
        trainer.evaluate("test")


@dataclass
class _Run:
    """What `run_trial` does between two lines of its loop."""

    job: TrialJob
    data: TaskData
    attempt: Attempt
    tracker: Tracker
    saved_at: float = field(default_factory=time.monotonic)
    saving_took: float = 0.0
    epoch: int = 0
    unpublished: list[StepMetrics] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    tracked: bool = False

    def resume(self, trainer: "Trainer") -> None:
        """Continue from the checkpoint, if there is one, and bring the tracker to the same epoch."""
        import torch

        if self.job.directory.checkpoint.exists():
            trainer.restore(self.job.directory.checkpoint)
        self.epoch = len(trainer.history)
        if not self.job.directory.metrics.exists():  # as version 0.1 left a single training
            now = _now_ms()
            self.attempt.take_over(
                StepMetrics(epoch.epoch, now, epoch_metrics(epoch, self.data)) for epoch in trainer.history
            )
        kept = self.attempt.rewind(self.epoch)
        self.attempt.write_state("running", self.epoch)
        own = {
            "fingerprint": self.job.trial.config.fingerprint(),
            "dataset_fingerprint": self.data.fingerprint,
            "unit": self.data.unit,
            **{f"num_{split}": str(len(rows)) for split, rows in self.data.rows.items()},
            "kernel": trainer.model.kernel_name,
            "torch": str(torch.__version__),
            "threads": str(torch.get_num_threads()),
            "machine": platform.node(),
        }
        self.tags = {**self.job.tags, **own}
        self.tracker.start(self.job.name, self.job.trial.config.to_flat_dict(), self.tags, kept)
        self.tracked = True

    def after_step(self, trainer: "Trainer", stop_requested: Callable[[], bool]) -> None:
        """Save within an epoch when it is time, and hear a wish to stop."""
        pause = self.job.checkpoint_seconds and max(self.job.checkpoint_seconds, self.saving_took / SAVING_SHARE)
        if time.monotonic() - self.saved_at >= pause:
            self.save(trainer)
        if stop_requested():
            trainer.stop()

    def after_epoch(self, trainer: "Trainer", epoch: "EpochResult") -> TrialProgress:
        """Write an epoch down, and a checkpoint when one is due."""
        metrics = StepMetrics(epoch.epoch, _now_ms(), epoch_metrics(epoch, self.data))
        self.attempt.append(metrics)
        self.unpublished.append(metrics)
        self.epoch = epoch.epoch
        if (memory := _device_memory(self.job.device)) is not None:
            self.attempt.note_memory(*memory)
        if epoch.epoch in snapshot_epochs(trainer.epochs, self.job.snapshots):
            self.save(trainer)
            self._keep_snapshot(epoch.epoch)
        elif epoch.epoch in self.job.decide_at or time.monotonic() - self.saved_at >= self.job.checkpoint_seconds:
            self.save(trainer)
        return self.progress(trainer)

    def save(self, trainer: "Trainer") -> None:
        """Write a checkpoint and publish the epochs it holds."""
        self.attempt.check_current()
        started = time.monotonic()
        trainer.save(self.job.directory.checkpoint)
        self.attempt.epochs = trainer.epochs
        self.attempt.write_state("running", self.epoch)
        self.tracker.log_metrics(self.unpublished)
        self.unpublished.clear()
        self.saved_at = time.monotonic()
        self.saving_took = self.saved_at - started

    def _keep_snapshot(self, epoch: int) -> None:
        """Keep the model of the checkpoint just written; an epoch computed again replaces it by the same."""
        from crystalframer.training.snapshot import write_snapshot

        self.attempt.check_current()
        write_snapshot(self.job.directory.checkpoint, self.job.directory.snapshot(epoch))

    def conclude(self, trainer: "Trainer") -> TrialResult:
        """Evaluate on the test set, record everything, and mark the trial as done."""
        from crystalframer.nn.model import CrystalFramer
        from crystalframer.prediction.card import write_card

        started = time.perf_counter()
        test = trainer.evaluate("test")
        milliseconds = 1000 * (time.perf_counter() - started)
        tasks = self.data.tasks if len(self.data.tasks) > 1 else ()
        self.attempt.write_predictions(test.ids, test.targets.tolist(), test.predictions.tolist(), tasks)
        if isinstance(trainer.model, CrystalFramer):  # a stand-in has nothing to describe
            write_card(self.job.directory.checkpoint, self.data, test.by_task)
        values = final_metrics(test, self.data)
        values["num_parameters"] = float(trainer.num_parameters)
        values["test/ms_per_material"] = milliseconds / len(test.ids)
        final = StepMetrics(self.epoch, _now_ms(), values)
        if trainer.start_data:
            self.tags["start_data"] = trainer.start_data
            self.tracker.set_tags({"start_data": trainer.start_data})
        conclude_tracking(self.tracker, self.job.directory, final)
        errors = [epoch.val_mae for epoch in trainer.history]
        result: TrialResult = {
            "trial": self.job.name,
            "unit": self.data.unit,
            "val_mae": min(errors) if self.job.trial.config.train.keep == "best" else errors[-1],
            "test_mae": test.mae,
            "test_rmse": test.rmse,
            "baseline_mae": test.baseline_mae,
            "tags": self.tags,
            "final": {"step": final.step, "time_ms": final.time_ms, "values": values},
        }
        self.attempt.write_result(result)
        self.attempt.write_state("done", self.epoch)
        return result

    def stop(self, trainer: "Trainer") -> None:
        """Leave the trial so that the next attempt continues at this epoch."""
        self.save(trainer)
        self.attempt.write_state("stopped", self.epoch)
        if (early := self.job.directory.stopped_early()) is not None:
            self.tracker.set_tags({"stopped_early": early.reason})
        self.tracker.finish("KILLED")

    def fail(self, error: BaseException) -> None:
        """Write down why the trial failed; on a full disk that may be impossible, and the error itself has to do."""
        try:
            self.attempt.write_error(error)
            self.attempt.write_state("failed", self.epoch, one_line(error))
        except OSError as second:
            error.add_note(f"and this could not be written to the run directory: {second}")
        if self.tracked:
            self.tracker.finish("FAILED")

    def progress(self, trainer: "Trainer", result: TrialResult | None = None) -> TrialProgress:
        """Return what to report."""
        epoch, memory = trainer.history[-1], _device_memory(self.job.device) or (None, None)
        return TrialProgress(epoch.epoch, trainer.epochs, epoch.val_mae, epoch.seconds, result, *memory)


def snapshot_epochs(epochs: int, count: int) -> frozenset[int]:
    """Return `count` evenly spaced epochs of `epochs`, the last one included; all where there are fewer, none of 0."""
    return frozenset(max(1, round(epochs * number / count)) for number in range(1, count + 1) if epochs)


def _device_memory(device: str) -> tuple[int, int] | None:
    """Return the most memory held so far and that of the device, in bytes; None where there is no such device."""
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory


def _now_ms() -> int:
    return round(time.time() * 1000)
