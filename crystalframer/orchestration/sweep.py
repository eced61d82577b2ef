"""A sweep from its file to its results: check, record, run, close."""

import contextlib
import fcntl
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from crystalframer.config import DataConfig
from crystalframer.data.dataset import TaskData, require_elements
from crystalframer.data.registry import load_task
from crystalframer.errors import UserError
from crystalframer.orchestration.mlflow_server import LocalMlflowServer, is_answering
from crystalframer.orchestration.mlflow_store import MlflowExperiment
from crystalframer.orchestration.run_directory import RunDirectory
from crystalframer.orchestration.screen import Board, screen_for, summary
from crystalframer.orchestration.spec import SweepSpec, Trial
from crystalframer.orchestration.tracking import RunStatus, StepMetrics
from crystalframer.orchestration.trial import CHECKPOINT_SECONDS, conclude_tracking, start_tracking

if TYPE_CHECKING:
    from crystalframer.orchestration.tune import TrialJob, TuneOutcome

TRAINER = "crystalframer.training.trainer:Trainer"
LOCK = ".driver.lock"
"""The file in a sweep's folder that its driver holds locked."""
EXIT_FAILED = 1
"""Exit code of a sweep with trials that failed."""


@dataclass(frozen=True)
class SweepOptions:
    """Where a sweep runs and records; nothing here changes a result."""

    runs: Path
    """Folder of all sweeps' run directories."""
    address: str | None = None
    """A Ray cluster to join, None for a local Ray."""
    tracking_uri: str | None = None
    """An MLflow server to use, None for a local one on ``runs/mlflow.db``."""
    signs_in: bool = False
    """Whether that server stands behind the cluster's gate."""
    max_concurrent: int | None = None
    """Bound on the trials at a time."""
    trainer: str = TRAINER
    """The trainer's class, as ``module:name``."""
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    """Shortest time between two checkpoints of a trial."""


def check_trials(trials: Sequence[Trial]) -> dict[str, TaskData]:
    """Load every data set that a sweep names and return each trial's data by its name.

    Raises:
        UserError: a data set is not prepared, a task is unknown, targets are missing, or a trial's settings do not
            suit its data.
    """
    tasks: dict[DataConfig, TaskData] = {}
    for trial in trials:
        config = trial.config
        if config.data not in tasks:
            tasks[config.data] = load_task(config.data)
        data = tasks[config.data]
        for split in ("train", "val", "test"):
            require_elements(data.dataset, data.rows[split], config.model.num_elements)
        if (size := len(data.rows["train"])) < config.train.batch_size:
            raise UserError(
                f"{trial.name}: setting 'train.batch_size' is {config.train.batch_size}, but there are only {size} "
                "training crystals; choose a smaller batch"
            )
    return {trial.name: tasks[trial.config.data] for trial in trials}


def run_sweep(spec: SweepSpec, options: SweepOptions, console: Console) -> int:
    """Run what is not done yet of a sweep, and return the exit code.

    Finished trials are kept, unfinished ones go on from their checkpoints, and runs in MLflow that the sweep, as its
    file reads now, does not contain are tagged ``current=false``.

    Returns:
        0 when every trial is done, 1 when some failed, 128 + the signal's number when the user stopped it.

    Raises:
        UserError: a check failed, before anything was started.
    """
    trials = spec.trials()
    tasks = check_trials(trials)
    folder = options.runs.absolute() / spec.name
    directories = {trial.name: RunDirectory(folder / trial.name) for trial in trials}
    with _only_one_driver(folder):
        for trial in trials:
            directories[trial.name].check_belongs(trial.config, tasks[trial.name].fingerprint)
        sweep = _Sweep(spec, options, trials, tasks, directories, console)
        return sweep.run()


class _Sweep:
    """The steps of `run_sweep`."""

    def __init__(
        self,
        spec: SweepSpec,
        options: SweepOptions,
        trials: Sequence[Trial],
        tasks: dict[str, TaskData],
        directories: dict[str, RunDirectory],
        console: Console,
    ) -> None:
        self._spec = spec
        self._options = options
        self._trials = trials
        self._tasks = tasks
        self._directories = directories
        self._console = console
        self._board = Board.of(trials, {name: data.unit for name, data in tasks.items()})

    def run(self) -> int:
        with _mlflow(self._options) as tracking:
            pending = [trial for trial in self._trials if self._directories[trial.name].result() is None]
            done = len(self._trials) - len(pending)
            self._say(f"{self._spec.name}: {len(self._trials)} trials, {done} of them done; MLflow at {tracking.uri}")
            outcome = self._run_pending(pending, tracking) if pending else self._nothing_to_run(tracking)
        self._console.print(summary(self._board), soft_wrap=True)
        return self._exit_code(outcome)

    def _run_pending(self, pending: Sequence[Trial], tracking: "_Tracking") -> "TuneOutcome":
        if self._options.address is None:  # read when Ray is imported: a Ray of our own stays on the loopback interface
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        from crystalframer.orchestration import tune

        with tune.ray_session(self._options.address):
            if self._options.address is None:
                tune.check_resources(self._spec.resources)
            experiment = self._open_experiment(tracking)
            with screen_for(self._console, self._board) as screen:
                outcome = tune.run_jobs(
                    self._spec.name,
                    [self._job(trial, experiment) for trial in pending],
                    self._spec.resources,
                    screen,
                    max_failures=self._spec.max_failures,
                    max_concurrent=self._options.max_concurrent,
                    scratch=self._options.runs.absolute() / self._spec.name / ".ray",
                )
        failed: dict[str, RunStatus] = dict.fromkeys(outcome.failed, "FAILED")
        experiment.end_abandoned(failed)
        return outcome

    def _nothing_to_run(self, tracking: "_Tracking") -> "TuneOutcome | None":
        self._open_experiment(tracking).end_abandoned({})
        return None

    def _open_experiment(self, tracking: "_Tracking") -> MlflowExperiment:
        """Bring MLflow and the board to what the run directories say."""
        experiment = tracking.experiment(self._spec.name)
        spec = self._spec
        experiment.mark_current(
            {trial.name for trial in self._trials},
            f"{spec.question}\n\nExpected: {spec.expectation}\n\n{spec.reference}",
        )
        recorded = experiment.runs()
        for trial in self._trials:
            directory = self._directories[trial.name]
            result = directory.result()
            if result is not None:
                self._board.done(trial.name, result)
                if trial.name not in recorded or recorded[trial.name].status != "FINISHED":
                    self._record_again(trial, experiment, result)
            elif (state := directory.state()) is not None:
                self._board.waiting(trial.name, state.epoch)
        return experiment

    def _record_again(self, trial: Trial, experiment: MlflowExperiment, result: dict[str, Any]) -> None:
        """Restore a finished trial that MLflow lost, from its run directory."""
        directory = self._directories[trial.name]
        tracker = experiment.tracker()
        start_tracking(tracker, trial, result["tags"], directory.records())
        conclude_tracking(tracker, directory, StepMetrics(**result["final"]))

    def _job(self, trial: Trial, experiment: MlflowExperiment) -> "TrialJob":
        from crystalframer.orchestration.tune import TrialJob

        return TrialJob(
            name=trial.name,
            settings=trial.config.to_dict(),
            directory=str(self._directories[trial.name].path),
            tracking_uri=experiment.tracking_uri,
            experiment_id=experiment.id,
            tags={"sweep": self._spec.name, "current": "true", "git_commit": _git_commit()},
            cpus=self._spec.resources.cpus_per_trial,
            device="cuda" if self._spec.resources.gpus_per_trial else "cpu",
            checkpoint_seconds=self._options.checkpoint_seconds,
            trainer=self._options.trainer,
            snapshots=self._spec.record.snapshots_of(trial.config),
            marker="" if self._options.address is None else str(self._options.runs.absolute() / self._spec.name / LOCK),
            signs_in=self._options.signs_in,
        )

    def _exit_code(self, outcome: "TuneOutcome | None") -> int:
        if outcome is None:
            return 0
        if outcome.interrupted is not None:
            self._say(f"Stopped by {outcome.interrupted.name}; the same command goes on where it stopped.")
            return 128 + outcome.interrupted
        if outcome.failed:
            self._say(
                f"{len(outcome.failed)} of {len(self._trials)} trials failed; tracebacks are in error.txt of their run "
                "directories. The same command tries them again."
            )
            return EXIT_FAILED
        return 0

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class _Tracking:
    """An MLflow server that may still be on its way."""

    def __init__(self, uri: str, server: LocalMlflowServer | None) -> None:
        self.uri = uri
        self._server = server

    def experiment(self, name: str) -> MlflowExperiment:
        if self._server is not None:
            self._server.wait_until_ready()
        return MlflowExperiment(self.uri, name)


@contextlib.contextmanager
def _mlflow(options: SweepOptions) -> Iterator[_Tracking]:
    """Use the server that the user named, or start a local one for the duration of the block."""
    uri = options.tracking_uri
    if uri is None:
        with LocalMlflowServer(options.runs) as server:
            yield _Tracking(server.uri, server)
        return
    if uri.startswith("http") and not is_answering(uri):
        raise UserError(f"no MLflow server answers at {uri}; check --tracking-uri, or leave it out for a local one")
    yield _Tracking(uri, None)


@contextlib.contextmanager
def _only_one_driver(folder: Path) -> Iterator[None]:
    """Keep a second driver from the same sweep; the lock goes when the process does, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(f"{folder} is in use by process {lock.read()}; wait for it, or stop it first") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@functools.cache
def _git_commit() -> str:
    """Return the commit of the checkout that runs, ``-dirty`` if it was edited; "unknown" outside a checkout."""
    root = Path(__file__).absolute().parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"
