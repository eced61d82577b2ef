"""A sweep from its file to its results: check, record, run, close."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from crystalframer.atomic_files import locked
from crystalframer.config import DataConfig
from crystalframer.data.dataset import TaskData
from crystalframer.data.registry import load_task
from crystalframer.errors import UserError
from crystalframer.orchestration.cluster.failures import FULL
from crystalframer.orchestration.cluster.jobs import JobList
from crystalframer.orchestration.sweeps.driver import EXIT_FAILED, Driver, SweepOptions
from crystalframer.orchestration.sweeps.spec import Sweep
from crystalframer.orchestration.tracking.server import mlflow_of
from crystalframer.runs.budget import LOCK
from crystalframer.runs.trial import Trial
from crystalframer.training.suitability import check_suitable

LOCK_PATIENCE_SECONDS = 0.5
"""How long a driver waits for its lock, which a look at the status holds for microseconds."""


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
        check_suitable(config, tasks[config.data], f"{trial.name}: ")
    return {trial.name: tasks[trial.config.data] for trial in trials}


def run_sweep(spec: Sweep, options: SweepOptions, console: Console, tabulate: Callable[[], Sequence[Path]]) -> int:
    """Run what is not done yet of a sweep, tabulate and record what came out, and return the exit code.

    Finished trials are kept, unfinished ones resume from their checkpoints, and runs in MLflow that the sweep, as its
    file reads now, does not contain are tagged ``current=false``.

    Args:
        spec: the sweep.
        options: where it runs and records.
        console: where its screen is.
        tabulate: makes the table and the pictures of the finished trials and returns their files, which MLflow keeps
            in a run called ``summary``; none where they could not be made.

    Returns:
        0 when every trial is done and the table is made, 1 when some failed or it could not be made, 3 when the budget
        was used up before, 128 + the signal's number when the user stopped it.

    Raises:
        UserError: a check failed, before anything was started.
    """
    trials = spec.trials()
    tasks = check_trials(trials)
    driver = Driver(spec, options, console)
    with only_one_driver(driver.folder):
        for trial in trials:
            driver.add(trial, tasks[trial.name])
        pending = driver.unfinished()
        with mlflow_of(options.runs, options.tracking_uri) as tracking:
            outcome = driver.run(JobList(pending, driver.job), tracking, anything_to_do=bool(pending))
            code = driver.conclude(outcome)
            if code <= EXIT_FAILED:
                if not (files := tabulate()):
                    return EXIT_FAILED
                driver.record_summary(files)
        return code


@contextlib.contextmanager
def only_one_driver(folder: Path) -> Iterator[None]:
    """Keep a second driver from the same sweep; the lock goes when the process does, however it ends.

    Raises:
        UserError: another driver runs it, or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                lock = stack.enter_context(locked(folder / LOCK, LOCK_PATIENCE_SECONDS))
            except BlockingIOError:
                holder = (folder / LOCK).read_text(encoding="utf-8", errors="replace")
                raise UserError(f"{folder} is in use by process {holder}; wait for it, or stop it first") from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(
            f"{folder} cannot be written to ({error.strerror}); free space, then run the same command again"
        ) from error
