"""A hyperparameter search from its file to its results: suggests, runs, stops early, confirms, sums up.

A search resumes by its name as a sweep does. The run directories are all that it remembers: a suggestion and a
decision are on disk before anyone acts on them. So a driver that is killed, at whatever moment, neither repeats nor
loses a trial; trials that were under way resume from their checkpoints, and only then new ones are suggested.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace

from rich.console import Console

from crystalframer.data.registry import load_task_once
from crystalframer.errors import UserError
from crystalframer.orchestration.search.population import PopulationSource
from crystalframer.orchestration.search.recorded import SearchTrial, read_trials, subject
from crystalframer.orchestration.search.search_results import (
    best_first,
    is_recorded,
    result_files,
    write_results,
)
from crystalframer.orchestration.search.search_spec import Search
from crystalframer.orchestration.search.study import StudyExport, study_url, suggest
from crystalframer.orchestration.sweeps.driver import Driver, SweepOptions
from crystalframer.orchestration.sweeps.sweep import only_one_driver
from crystalframer.orchestration.tracking.server import mlflow_of
from crystalframer.runs.contents import EarlyStop
from crystalframer.runs.trial import Trial, TrialJob, TrialProgress
from crystalframer.training.suitability import check_suitable

SAME_AGAIN = 25
"""After so many suggestions in a row that were tried before, a space is taken for exhausted."""
AHEAD_ON_A_CLUSTER = 8
"""Trials that wait for resources, which is what makes a cluster grow; each is chosen without knowing the others."""


def run_search(spec: Search, options: SweepOptions, console: Console, *, storage: str | None = None) -> int:
    """Run what is left of a search, and return the exit code, as `run_sweep` does.

    Args:
        spec: the search.
        options: where it runs and records.
        console: where it says so.
        storage: the database that the study is written to, None for ``runs/optuna.db``.

    Raises:
        UserError: a check failed, before anything was started.
    """
    data = load_task_once(spec.default.data)
    check_suitable(spec.default, data, "the search's base: ")
    driver = Driver(spec, options, console)
    with only_one_driver(driver.folder):
        source = source_of(spec, driver)
        url = storage or study_url(options.runs)
        with (
            closing(StudyExport(url, spec, source.trials, driver.say)) as export,
            mlflow_of(options.runs, options.tracking_uri) as tracking,
        ):
            source.export = export.add
            ahead = 1 if options.address is None else options.max_concurrent or AHEAD_ON_A_CLUSTER
            outcome = driver.run(source, tracking, anything_to_do=not source.exhausted, ahead=ahead)
            results = write_results(spec, source.trials, driver)
            if not outcome.unrecorded:
                driver.record_search(results, result_files(driver.folder))
        return driver.conclude(outcome)


def source_of(spec: Search, driver: Driver) -> "PopulationSource | SearchSource":
    """Return the jobs of a search, once its folder says what is searched.

    Raises:
        UserError: it says something else.
    """
    recorded = is_recorded(spec, driver.folder)
    source = PopulationSource(spec, driver) if spec.method == "pbt" else SearchSource(spec, driver)
    if not recorded:
        write_results(spec, source.trials, driver)
    return source


class SearchSource:
    """The search as a source of jobs."""

    def __init__(self, spec: Search, driver: Driver) -> None:
        """Take up what the run directories hold.

        Raises:
            UserError: the file changed since.
        """
        self.export: Callable[[SearchTrial], None] = lambda trial: None
        """Is told of each trial that ends."""
        self._spec = spec
        self._driver = driver
        self._rungs = spec.early_stopping.rungs(spec.default.train.epochs) if spec.early_stopping else ()
        self._trials = {trial.name: trial for trial in read_trials(spec, driver)}
        self._open = {name: trial for name, trial in self._trials.items() if not trial.over}
        self._waiting: deque[Trial] = deque()
        self._confirming = False
        self._exhausted = False
        for trial in list(self._open.values()):
            if not self._ends_at(trial, trial.status.epoch):  # else the driver died over this decision
                self._waiting.append(trial.trial)
        self._next_phase()

    @property
    def trials(self) -> list[SearchTrial]:
        """The trials in the order of their numbers, without those that confirm."""
        for trial in self._open.values():
            trial.status = self._driver.history(trial.name)
        return list(self._trials.values())

    @property
    def exhausted(self) -> bool:
        """See `JobSource.exhausted`."""
        return not self._open and not self._waiting and self._limits_reached

    def next_job(self) -> TrialJob | None:
        """See `JobSource.next_job`."""
        if not self._waiting and not self._limits_reached:
            self._suggest()
        if not self._waiting:
            return None
        trial = self._waiting.popleft()
        return self._driver.job(trial, self._rungs if trial.name in self._open else ())

    def stops_here(self, name: str, progress: TrialProgress) -> bool:
        """See `JobSource.stops_here`: at a rung only the best go on."""
        if (trial := self._open.get(name)) is None:
            return False  # it confirms
        errors = {**trial.status.val_maes, progress.epoch: progress.val_mae}
        trial.status = replace(trial.status, standing="running", epoch=progress.epoch, val_maes=errors)
        if not self._ends_at(trial, progress.epoch):
            return False
        self._next_phase()
        return True

    def finished(self, name: str, progress: TrialProgress) -> None:
        """See `JobSource.finished`."""
        self._ended(name)

    def failed(self, name: str, reason: str) -> None:
        """See `JobSource.failed`: settings that diverge are bad ones, other failures say nothing about them."""
        self._ended(name, reason)

    @property
    def _limits_reached(self) -> bool:
        limits, used = self._spec.budget, sum(trial.epochs for trial in self._trials.values())
        return (
            self._exhausted
            or len(self._trials) >= limits.trials
            or (limits.epochs is not None and used >= limits.epochs)
        )

    def _ends_at(self, trial: SearchTrial, epoch: int) -> bool:
        """Decide at a rung whether a trial ends there, and write it down before anyone acts on it."""
        error = trial.status.val_maes.get(epoch)
        if self._spec.early_stopping is None or epoch not in self._rungs or error is None:
            return False
        errors = [other.status.val_maes[epoch] for other in self._trials.values() if epoch in other.status.val_maes]
        if self._spec.early_stopping.goes_on(error, errors):
            return False
        decision = EarlyStop(epoch, error, f"not among the best of the trials at epoch {epoch}")
        self._driver.directory(trial.name).stop_early(decision)
        self._close(trial)
        return True

    def _ended(self, name: str, failure: str = "") -> None:
        if (trial := self._open.get(name)) is not None:
            self._close(trial, failure)
            self._next_phase()

    def _close(self, trial: SearchTrial, failure: str = "") -> None:
        del self._open[trial.name]
        trial.status = self._driver.history(trial.name)
        if failure:
            trial.status = replace(trial.status, standing="failed", reason=failure)
        self.export(trial)

    def _suggest(self) -> None:
        """Queue the next trial to try, unless nothing new is suggested any more."""
        trials = list(self._trials.values())
        known = {trial.trial.config.fingerprint() for trial in trials}
        first = trials[-1].number + 1 if trials else 0
        for number in range(first, first + SAME_AGAIN):
            values = suggest(self._spec, trials, number)
            try:
                config = self._spec.config(values)
                data = load_task_once(config.data)
                check_suitable(config, data)
            except UserError:  # settings that are fine by themselves need not go together
                continue
            if (fingerprint := config.fingerprint()) in known:
                continue
            trial = Trial(f"t{number:04d}-{subject(config)}-{fingerprint}", config)
            self._driver.directory(trial.name).prepare(config, data.fingerprint)
            self._driver.add(trial, data)
            chosen = SearchTrial(number, values, trial, self._driver.history(trial.name))
            self._trials[trial.name] = self._open[trial.name] = chosen
            self._waiting.append(trial)
            return
        self._exhausted = True
        self._next_phase()

    def _next_phase(self) -> None:
        """Once every trial of the search ended, run the best ones again with other seeds."""
        if self._confirming or self._open or self._waiting or not self._limits_reached:
            return
        self._confirming = True
        known = {trial.trial.config.fingerprint() for trial in self._trials.values()}
        for trial in confirmations(self._spec, best_first(self._spec, self.trials)):
            if trial.config.fingerprint() in known:
                continue  # the search ran it itself
            self._driver.add(trial, load_task_once(trial.config.data))
            if self._driver.directory(trial.name).result() is None:
                self._waiting.append(trial)


def confirmations(spec: Search, ranked: Sequence[SearchTrial]) -> list[Trial]:
    """Return the trials that run the best settings with the seeds asked for, seeds outermost."""
    trials = []
    for seed in spec.confirm.seeds:
        for best in ranked[: spec.confirm.best]:
            config = spec.config({**best.values, "train.seed": seed})
            name = f"c{best.number:04d}-{subject(config)}-seed{seed}-{config.fingerprint()}"
            trials.append(Trial(name, config))
    return trials
