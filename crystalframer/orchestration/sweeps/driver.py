"""The program that runs a sweep or a search: MLflow, Ray, screen, accounts and report around a source of jobs."""

import functools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from crystalframer.data.dataset import TaskData
from crystalframer.errors import UserError
from crystalframer.orchestration.cluster.dispatcher import Dispatcher, Outcome
from crystalframer.orchestration.cluster.failures import standard_policies
from crystalframer.orchestration.cluster.gpu_share import MeasuredJobs
from crystalframer.orchestration.cluster.jobs import JobSource, TrialJob
from crystalframer.orchestration.sweeps.screen import Board, screen_for, summary
from crystalframer.orchestration.sweeps.spec import Experiment
from crystalframer.orchestration.tracking.experiment import MlflowExperiment, is_away
from crystalframer.runs.budget import Ledger
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.status import Planned, append_plan, write_plan, write_report
from crystalframer.runs.tracker import RunStatus, StepMetrics
from crystalframer.runs.trial import CHECKPOINT_SECONDS, Trial, conclude_tracking, start_tracking

TRAINER = "crystalframer.training.trainer:Trainer"
LOCK = ".driver.lock"
"""The file in a sweep's folder that its driver holds locked."""
EXIT_FAILED = 1
"""Exit code of a sweep with trials that failed, or that is not recorded in full."""
EXIT_OVER_BUDGET = 3
"""Exit code of a sweep whose budget was used up before its trials were done."""
TRACKING_PATIENCE_SECONDS = 300.0
"""How long the end of a sweep waits for a tracking server that is away."""
TRACKING_WAIT_SECONDS = 5.0


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
    device: str | None = None
    """Where trials train, None for CUDA where they ask for GPUs and the CPU otherwise."""


class Tracking(Protocol):
    """The tracking server of a sweep."""

    uri: str

    def experiment(self, name: str) -> MlflowExperiment:
        """Return an experiment, once the server answers."""

    def revive(self) -> None:
        """Start a server of our own again if it died."""


class Driver:
    """Runs the jobs of a source and keeps MLflow, the screen and the sweep's folder in step with them."""

    def __init__(self, sweep: Experiment, options: SweepOptions, console: Console) -> None:
        """Prepare to run; `add` every trial known beforehand, then `run`."""
        self.sweep = sweep
        self.folder = options.runs.absolute() / sweep.name
        self.trials: dict[str, Trial] = {}
        self._options = options
        self._console = console
        self._tasks: dict[str, TaskData] = {}
        self._board = Board({})
        self._experiment: MlflowExperiment | None = None
        self._planning = False

    def directory(self, name: str) -> RunDirectory:
        """Return a trial's run directory."""
        return RunDirectory(self.folder / name)

    def add(self, trial: Trial, data: TaskData) -> None:
        """Make a trial part of the sweep.

        Raises:
            UserError: its run directory holds a run of other settings or data.
        """
        self.directory(trial.name).check_belongs(trial.config, data.fingerprint)
        self.trials[trial.name] = trial
        self._tasks[trial.name] = data
        self._board.add(trial, data.unit)
        self._show(trial.name)
        if self._planning:
            append_plan(self.folder, self._planned(trial))

    def unit(self, name: str) -> str:
        """Return the unit of a trial's target."""
        return self._tasks[name].unit

    def record_search(self, results: Mapping[str, Any], files: Iterable[Path]) -> None:
        """Record in MLflow what a search found: a run called ``search`` with the importances and the files."""
        assert self._experiment is not None, "the sweep ran"
        tracker = self._experiment.tracker()
        tags = {"sweep": self.sweep.name, "kind": "search", "current": "false"}
        tracker.start("search", {"method": results["method"]}, tags)
        shares = {
            f"importance/{kind}/{key}": share
            for kind, found in results["importance"].items()
            for key, share in found.items()
        }
        epochs = {f"epochs/{key}": float(value) for key, value in results["epochs"].items()}
        tracker.log_metrics([StepMetrics(results["epochs"]["used"], round(1000 * time.time()), {**epochs, **shares})])
        for path in files:
            tracker.log_artifact(path, "")
        tracker.finish("FINISHED")

    def run(self, source: JobSource, tracking: Tracking, *, anything_to_do: bool = True, ahead: int = 200) -> Outcome:
        """Run the source's jobs to their end, or until the user or the budget stops the sweep."""
        write_plan(self.folder, map(self._planned, self.trials.values()))
        self._planning = True
        done = sum(row.state == "done" for row in self._board.rows.values())
        self.say(f"{self.sweep.name}: {len(self.trials)} trials, {done} of them done; MLflow at {tracking.uri}")
        ledger = Ledger(self.folder, self.sweep.budget)
        over = self.sweep.budget.used_up(ledger.account)
        outcome = Outcome(over_budget=over)
        if not over and anything_to_do:
            outcome = self._run_on_ray(source, tracking, ledger, ahead)
        else:
            self._open_experiment(tracking)
        ledger.write(over_budget=outcome.over_budget, ended=True)
        if not self._close_experiment(outcome):
            self.say(f"MLflow at {tracking.uri} is away: the same command records there what it lacks.")
            outcome.unrecorded = True
        return outcome

    def conclude(self, outcome: Outcome) -> int:
        """Print what became of the trials, write the report, and return the exit code."""
        self._console.print(summary(self._board), soft_wrap=True)
        report = write_report(self.folder, sorted(outcome.corrections.items()))
        self.say(f"every trial's fate: {report}")
        if outcome.interrupted is not None:
            self.say(f"Stopped by {outcome.interrupted.name}; the same command goes on where it stopped.")
            return 128 + outcome.interrupted
        if outcome.failed:
            self.say(
                f"{len(outcome.failed)} of {len(self.trials)} trials failed; tracebacks are in error.txt of their run "
                "directories. The same command tries them again."
            )
            return EXIT_FAILED
        if outcome.unrecorded:
            return EXIT_FAILED
        if outcome.over_budget:
            self.say(f"Ended because {outcome.over_budget}; the same command with a larger one goes on.")
            return EXIT_OVER_BUDGET
        return 0

    def job(self, trial: Trial, decide_at: Iterable[int] = ()) -> TrialJob:
        """Return what a worker needs to run a trial."""
        assert self._experiment is not None, "jobs are made while the sweep runs"
        resources, options = self.sweep.resources, self._options
        return TrialJob(
            name=trial.name,
            settings=trial.config.to_dict(),
            directory=str(self.directory(trial.name).path),
            tracking_uri=self._experiment.tracking_uri,
            experiment_id=self._experiment.id,
            tags={"sweep": self.sweep.name, "current": "true", "git_commit": git_commit()},
            cpus=resources.cpus_per_trial,
            gpus=resources.gpus_per_trial,
            device=options.device or ("cuda" if resources.gpus_per_trial else "cpu"),
            checkpoint_seconds=options.checkpoint_seconds,
            trainer=options.trainer,
            snapshots=self.sweep.record.snapshots_of(trial.config),
            marker="" if options.address is None else str(self.folder / LOCK),
            signs_in=options.signs_in,
            decide_at=tuple(decide_at),
            stop_file=str(self.folder / ".stop"),
        )

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _run_on_ray(self, source: JobSource, tracking: Tracking, ledger: Ledger, ahead: int) -> Outcome:
        if self._options.address is None:  # read when Ray is imported: a Ray of our own stays on the loopback interface
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        from crystalframer.orchestration.cluster import session, tune

        if self.sweep.resources.measured:
            source = MeasuredJobs(source, self._known_memory())
        with session.ray_session(self._options.address):
            if self._options.address is None:
                session.check_resources(self.sweep.resources)
            self._experiment = self._open_experiment(tracking)
            with screen_for(self._console, self._board) as screen:
                dispatcher = Dispatcher(
                    source,
                    standard_policies(self.sweep.max_failures),
                    screen,
                    max_concurrent=self._options.max_concurrent,
                )
                housekeeping = tune.Housekeeping(
                    scratch=self.folder / ".ray",
                    stop_file=self.folder / ".stop",
                    tick=functools.partial(self._tick, dispatcher, tracking, ledger),
                    ahead=ahead,
                )
                return tune.run_jobs(self.sweep.name, dispatcher, housekeeping)

    def _tick(self, dispatcher: Dispatcher, tracking: Tracking, ledger: Ledger) -> None:
        tracking.revive()
        running = sum(row.state == "running" for row in self._board.rows.values())
        if over := ledger.tick(running):
            dispatcher.stop(over)
        if ledger.budget.cost_per_hour:
            self._board.cost = f"{ledger.account.cost:.2f}"

    def _known_memory(self) -> tuple[int, int] | None:
        """Return the most memory that a trial of this sweep has held, and the least that a device had."""
        states = [self.directory(name).state() for name in self.trials]
        known = [(s.peak_bytes, s.device_bytes) for s in states if s is not None and s.peak_bytes and s.device_bytes]
        return (max(peak for peak, _ in known), min(device for _, device in known)) if known else None

    def _show(self, name: str) -> None:
        """Bring the board to what the run directory says."""
        directory = self.directory(name)
        if (result := directory.result()) is not None:
            self._board.done(name, result)
        elif (early := directory.stopped_early()) is not None:
            self._board.stopped_early(name, early.epoch, early.val_mae)
        elif (state := directory.state()) is not None:
            self._board.waiting(name, state.epoch)

    def _open_experiment(self, tracking: Tracking) -> MlflowExperiment:
        self._experiment = tracking.experiment(self.sweep.name)
        sweep = self.sweep
        self._experiment.mark_current(
            set(self.trials), f"{sweep.question}\n\nExpected: {sweep.expectation}\n\n{sweep.reference}"
        )
        self._record_what_is_missing(self._experiment)
        return self._experiment

    def _close_experiment(self, outcome: Outcome) -> bool:
        """Bring MLflow to what the run directories say, and return whether it could be reached in time."""
        experiment = self._experiment
        assert experiment is not None
        failed: dict[str, RunStatus] = dict.fromkeys(outcome.failed, "FAILED")
        deadline = time.monotonic() + TRACKING_PATIENCE_SECONDS

        def close() -> None:
            experiment.set_num_trials(len(self.trials))
            self._record_what_is_missing(experiment)
            experiment.end_abandoned(failed)

        while not _reached(close):
            if time.monotonic() > deadline or outcome.interrupted is not None:
                return False
            time.sleep(TRACKING_WAIT_SECONDS)
        return True

    def _record_what_is_missing(self, experiment: MlflowExperiment) -> None:
        """Record finished trials that MLflow does not hold as such, from their run directories."""
        recorded = experiment.runs()
        for trial in self.trials.values():
            if trial.name in recorded and recorded[trial.name].status == "FINISHED":
                continue
            directory = self.directory(trial.name)
            if (result := directory.result()) is not None:
                tracker = experiment.tracker()
                start_tracking(tracker, trial, result["tags"], directory.records())
                conclude_tracking(tracker, directory, StepMetrics(**result["final"]))

    def _planned(self, trial: Trial) -> Planned:
        data, config = self._tasks[trial.name], trial.config
        task = f"{config.data.dataset} {config.data.task}"
        return Planned(trial.name, task, config.model.frame, data.unit, config.train.epochs)


def _reached(call: Callable[[], Any]) -> bool:
    """Call, and return False if the tracking server was away."""
    try:
        call()
    except Exception as error:  # re-raised unless the server is away
        if not is_away(error):
            raise
        return False
    return True


def full_disk(error: OSError, folder: Path) -> UserError:
    """Return what the user is told when the driver itself could not write."""
    return UserError(f"{folder} cannot be written to ({error.strerror}); free space, then run the same command again")


@functools.cache
def git_commit() -> str:
    """Return the commit of the checkout that runs, ``-dirty`` if it was edited; "unknown" outside a checkout."""
    root = Path(__file__).absolute().parents[3]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"
