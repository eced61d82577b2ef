"""The program that runs a sweep or a search: MLflow, Ray, screen, budget and report around a source of jobs."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from crystalframer.config import CHECKPOINT_SECONDS, TrialConfig
from crystalframer.data.dataset import TaskData
from crystalframer.orchestration.cluster.dispatcher import Dispatcher, Outcome
from crystalframer.orchestration.cluster.failures import standard_policies
from crystalframer.orchestration.cluster.gpu_share import MeasuredJobs
from crystalframer.orchestration.cluster.jobs import JobSource
from crystalframer.orchestration.sweeps.screen import Screen, closing_view
from crystalframer.orchestration.sweeps.spec import Experiment
from crystalframer.orchestration.tracking.client import is_away
from crystalframer.orchestration.tracking.experiment import NOTE_TAG, MlflowExperiment, RecordedRun
from crystalframer.orchestration.tracking.server import Tracking
from crystalframer.runs.budget import LOCK, Heartbeat
from crystalframer.runs.json_files import DamagedError
from crystalframer.runs.recording import git_commit, record_finished
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.status import Summary, TrialStatus, append_plan, read_status, write_plan, write_report
from crystalframer.runs.tracker import RunStatus, StepMetrics
from crystalframer.runs.trial import Trial, TrialJob

TRAINER = "crystalframer.training.trainer:Trainer"
EXIT_FAILED = 1
"""Exit code of a sweep with trials that failed, or that is not recorded in full."""
EXIT_OVER_BUDGET = 3
"""Exit code of a sweep whose budget was used up before its trials were done."""
TRACKING_PATIENCE_SECONDS = 300.0
"""How long the end of a sweep waits for a tracking server that is away."""
TRACKING_WAIT_SECONDS = 5.0
LONGEST_NOTE = 4_000
"""Characters that a run's description may have; MLflow takes some more."""


@dataclass(frozen=True)
class SweepOptions:
    """Where a sweep runs and records; nothing here changes a result."""

    runs: Path
    """Folder of all sweeps' run directories."""
    address: str | None = None
    """A Ray cluster to join, None for a local Ray."""
    tracking_uri: str | None = None
    """An MLflow server to use, None for a local one on ``runs/mlflow.db``."""
    max_concurrent: int | None = None
    """Bound on the trials at a time."""
    trainer: str = TRAINER
    """The trainer's class, as ``module:name``."""
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    """Shortest time between two checkpoints of a trial."""
    device: str | None = None
    """Where trials train, None for CUDA where they ask for GPUs and the CPU otherwise."""


class Driver:
    """Runs the jobs of a source and keeps MLflow, the screen and the sweep's folder in step with them."""

    def __init__(self, sweep: Experiment, options: SweepOptions, console: Console) -> None:
        """Prepare to run; `add` every trial known beforehand, then `run`."""
        self.sweep = sweep
        self.folder = options.runs.absolute() / sweep.name
        self.trials: dict[str, Trial] = {}
        self._options = options
        self._console = console
        self.statuses: dict[str, TrialStatus] = {}
        self._experiment: MlflowExperiment | None = None
        self._planning = False
        self._unrecorded: set[str] = set()
        """Why trials that are done could not be recorded."""

    def directory(self, name: str) -> RunDirectory:
        """Return a trial's run directory."""
        return RunDirectory(self.folder / name)

    def add(self, trial: Trial, data: TaskData) -> None:
        """Make a trial part of the sweep.

        Raises:
            UserError: its run directory holds a run of other settings or data.
        """
        with contextlib.suppress(DamagedError):  # it fails on its own, the others go on
            self.directory(trial.name).check_belongs(trial.config, data.fingerprint)
        self.trials[trial.name] = trial
        planned = trial.planned(data.unit)
        status = read_status(self.folder, planned)
        if status.standing == "failed":  # it is tried again
            status = replace(status, standing="interrupted", reason="")
        self.statuses[trial.name] = status
        if self._planning:
            append_plan(self.folder, planned)

    def history(self, name: str) -> TrialStatus:
        """Return where a trial stands by its directory, with all of its epochs."""
        return read_status(self.folder, self.trials[name].planned(self.statuses[name].unit), whole=True)

    def unfinished(self) -> list[Trial]:
        """Return the trials that are not done."""
        return [trial for name, trial in self.trials.items() if self.statuses[name].standing != "done"]

    def record_search(self, results: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Record in MLflow what a search found: a run called ``search`` with the importances and the files."""
        assert self._experiment is not None, "the sweep ran"
        experiment, tags = self._experiment, {"sweep": self.sweep.name}
        shares = {
            f"importance/{kind}/{key}": share
            for kind, found in results["importance"].items()
            for key, share in found.items()
        }
        epochs = {f"epochs/{key}": float(value) for key, value in results["epochs"].items()}
        steps = [StepMetrics(results["epochs"]["used"], round(1000 * time.time()), {**epochs, **shares})]

        def record() -> None:
            tracker = experiment.record("search", tags, {"method": results["method"]}, files)
            tracker.log_metrics(steps)
            tracker.finish("FINISHED")

        self._record_last(record, "what this search found")

    def record_summary(self, files: Sequence[Path]) -> None:
        """Record in MLflow what the sweep's trials show: a run called ``summary`` with the table and the pictures.

        Its description is the table where that is not too long.
        """
        assert self._experiment is not None, "the sweep ran"
        experiment, tags = self._experiment, {"sweep": self.sweep.name}
        texts = [path.read_text(encoding="utf-8") for path in files if path.suffix == ".md"]
        if texts and sum(map(len, texts)) < LONGEST_NOTE:
            tags[NOTE_TAG] = "\n\n".join(texts)
        self._record_last(
            lambda: experiment.record("summary", tags, {}, files).finish("FINISHED"), "the summary of this sweep"
        )

    def _record_last(self, record: Callable[[], None], what: str) -> None:
        """Record what the trials show together, or say that MLflow is away; the trials are in it by now."""
        if not _reached(record):
            self.say(f"MLflow cannot be reached: it lacks {what}; the same command records it")

    def run(self, source: JobSource, tracking: Tracking, *, anything_to_do: bool = True, ahead: int = 200) -> Outcome:
        """Run the source's jobs to their end, or until the user or the budget stops the sweep."""
        write_plan(self.folder, self.statuses.values())
        self._planning = True
        done = len(self.trials) - len(self.unfinished())
        self.say(f"{self.sweep.name}: {len(self.trials)} trials, {done} of them done")
        heartbeat = Heartbeat(self.folder, self.sweep.budget)
        over = self.sweep.budget.used_up(heartbeat.state)
        outcome = Outcome(over_budget=over)
        if not over and anything_to_do:
            outcome = self._run_on_ray(source, tracking, heartbeat, ahead)
        else:
            self._open_experiment(tracking)
        heartbeat.end(outcome.failed, outcome.over_budget)
        if not self._close_experiment(outcome):
            self.say(f"MLflow at {tracking.uri} is away: the same command records there what it lacks.")
            outcome.unrecorded = True
        return outcome

    def conclude(self, outcome: Outcome) -> int:
        """Print what became of the trials, write the report, and return the exit code."""
        self._console.print(closing_view(Summary(tuple(self.statuses.values()))), soft_wrap=True)
        report = write_report(self.folder, sorted(outcome.corrections.items()))
        self.say(f"what became of every trial: {report}")
        for sentence in sorted(self._unrecorded):
            self.say(f"not recorded in MLflow: {sentence}")
        if outcome.interrupted is not None:
            self.say(f"Stopped by {outcome.interrupted.name}; the same command resumes it.")
            return 128 + outcome.interrupted
        if outcome.failed:
            self.say(
                f"{len(outcome.failed)} of {len(self.trials)} trials failed; tracebacks are in error.txt of their run "
                "directories. The same command tries them again."
            )
            return EXIT_FAILED
        if outcome.unrecorded or self._unrecorded:
            return EXIT_FAILED
        if outcome.over_budget:
            self.say(f"Ended because {outcome.over_budget}; the same command with a larger one resumes it.")
            return EXIT_OVER_BUDGET
        return 0

    def job(self, trial: Trial, decide_at: Iterable[int] = ()) -> TrialJob:
        """Return what a worker needs to run a trial."""
        assert self._experiment is not None, "jobs are made while the sweep runs"
        resources, options = self.sweep.resources, self._options
        return TrialJob(
            replace(trial, config=self._config(trial)),
            self.directory(trial.name),
            tracking_uri=self._experiment.tracking_uri,
            experiment_id=self._experiment.id,
            tags={"sweep": self.sweep.name, "current": "true", "git_commit": git_commit()},
            cpus=resources.cpus_per_trial,
            gpus=resources.gpus_per_trial,
            device=options.device or ("cuda" if resources.gpus_per_trial else "cpu"),
            checkpoint_seconds=options.checkpoint_seconds,
            trainer=options.trainer,
            snapshots=self.sweep.record.snapshots_of(trial.config),
            marker=None if options.address is None else self.folder / LOCK,
            decide_at=tuple(decide_at),
            stop_file=self.folder / ".stop",
        )

    def _config(self, trial: Trial) -> TrialConfig:
        """Return a trial's settings, on a cluster without a relative path: nodes have other working directories."""
        train = trial.config.train
        if self._options.address is None or train.start_from is None:
            return trial.config
        return replace(trial.config, train=replace(train, start_from=str(Path(train.start_from).absolute())))

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _run_on_ray(self, source: JobSource, tracking: Tracking, heartbeat: Heartbeat, ahead: int) -> Outcome:
        from crystalframer.orchestration.cluster import session, tune

        if self.sweep.resources.measured:
            source = MeasuredJobs(source, self._known_memory())
        with session.ray_session(self._options.address):
            session.check_resources(self.sweep.resources)
            waiting_for = functools.partial(session.waiting_for, self.sweep.resources)
            self._experiment = self._open_experiment(tracking)
            with Screen(self._console, self.statuses) as screen:
                dispatcher = Dispatcher(
                    source,
                    standard_policies(self.sweep.max_failures),
                    screen.change,
                    self.say,
                    max_concurrent=self._options.max_concurrent,
                )
                return tune.run_jobs(
                    self.sweep.name,
                    dispatcher,
                    scratch=self.folder / ".ray",
                    stop_file=self.folder / ".stop",
                    tick=functools.partial(self._tick, dispatcher, tracking, heartbeat, screen, waiting_for),
                    ahead=ahead,
                )

    def _tick(
        self,
        dispatcher: Dispatcher,
        tracking: Tracking,
        heartbeat: Heartbeat,
        screen: Screen,
        waiting_for: Callable[[], str],
    ) -> None:
        tracking.revive()
        running = [trial.name for trial in screen.summary().of("running")]
        waiting = "" if running or not dispatcher.running else waiting_for()
        if waiting and waiting != screen.driver.waiting:
            self.say(f"waiting for {waiting}: no machine of the cluster has as much for one trial (see `ray status`)")
        if over := heartbeat.tick(running, dispatcher.outcome.failed, waiting):
            dispatcher.stop(over)
        screen.driver = heartbeat.state

    def _known_memory(self) -> tuple[int, int] | None:
        """Return the most memory that a trial of this sweep has held, and the least that a device had."""
        known = [trial.memory for trial in self.statuses.values() if trial.memory is not None]
        return (max(peak for peak, _ in known), min(device for _, device in known)) if known else None

    def _open_experiment(self, tracking: Tracking) -> MlflowExperiment:
        self._experiment = tracking.experiment(self.sweep.name)
        targets = {trial.config.data.task: self.statuses[name].unit for name, trial in self.trials.items()}
        frames = {trial.config.model.frame for trial in self.trials.values()}
        varied = self.sweep.varied(self.trials.values())
        recorded = self._experiment.mark_current(set(self.trials), self.sweep.description, targets, frames, varied)
        self.say(f"MLflow at {tracking.link(self._experiment)}")
        self._record_what_is_missing(self._experiment, recorded)
        return self._experiment

    def _close_experiment(self, outcome: Outcome) -> bool:
        """Bring MLflow to what the run directories say, and return whether it could be reached in time."""
        experiment = self._experiment
        assert experiment is not None
        failed: dict[str, RunStatus] = dict.fromkeys(outcome.failed, "FAILED")
        deadline = time.monotonic() + TRACKING_PATIENCE_SECONDS

        def close() -> None:
            experiment.set_num_trials(len(self.trials))
            runs = experiment.runs()
            completed = self._record_what_is_missing(experiment, runs)
            experiment.end_abandoned(failed, {key: run for key, run in runs.items() if key not in completed})

        while not _reached(close):
            if time.monotonic() > deadline or outcome.interrupted is not None:
                return False
            time.sleep(TRACKING_WAIT_SECONDS)
        return True

    def _record_what_is_missing(self, experiment: MlflowExperiment, recorded: Mapping[str, RecordedRun]) -> set[str]:
        """Record finished trials that MLflow does not hold as such, from their run directories; return their names."""
        completed = set()
        for trial in self.trials.values():
            if trial.name in recorded and recorded[trial.name].status == "FINISHED":
                continue
            directory = self.directory(trial.name)
            try:
                if directory.result() is not None:
                    record_finished(experiment.tracker(), trial.name, trial.config, directory)
                    completed.add(trial.name)
            except DamagedError as error:
                self._unrecorded.add(str(error))
        return completed


def _reached(call: Callable[[], Any]) -> bool:
    """Call, and return False if the tracking server was away."""
    try:
        call()
    except Exception as error:  # re-raised unless the server is away
        if not is_away(error):
            raise
        return False
    return True
