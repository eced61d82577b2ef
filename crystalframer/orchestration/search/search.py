"""A hyperparameter search from its file to its results: asks, runs, stops early, confirms, sums up.

A search resumes by its name as a sweep does. Whether a trial is over is said by its run directory (`done.json`,
`stopped_early.json`); the study is brought to that first, then trials that were under way go on from their
checkpoints, and only then new ones are asked for. So a driver that is killed, at whatever moment, neither repeats nor
loses a trial.
"""

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import closing

from rich.console import Console

from crystalframer.config import TrialConfig
from crystalframer.data.registry import load_task_once
from crystalframer.errors import UserError
from crystalframer.orchestration.cluster.jobs import TrialJob
from crystalframer.orchestration.search.halving import SuccessiveHalving
from crystalframer.orchestration.search.population import PopulationSource
from crystalframer.orchestration.search.search_results import best_first, result_files, write_results
from crystalframer.orchestration.search.search_spec import Search
from crystalframer.orchestration.search.study import Asked, Study, objective_values, study_url
from crystalframer.orchestration.sweeps.driver import Driver, SweepOptions
from crystalframer.orchestration.sweeps.sweep import check_trial, mlflow_of, only_one_driver
from crystalframer.runs.run_directory import EarlyStop
from crystalframer.runs.trial import Trial, TrialProgress

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
        storage: the database of the study, None for ``runs/optuna.db``.

    Raises:
        UserError: a check failed, before anything was started.
    """
    data = load_task_once(spec.default.data)
    check_trial(Trial("the search's base", spec.default), data)
    driver = Driver(spec, options, console)
    url = storage or study_url(options.runs)
    with only_one_driver(driver.folder), closing(Study(url, spec)) as study:
        source = PopulationSource(spec, study, driver) if spec.method == "pbt" else SearchSource(spec, study, driver)
        source.resume()
        with mlflow_of(options) as tracking:
            ahead = 1 if options.address is None else options.max_concurrent or AHEAD_ON_A_CLUSTER
            outcome = driver.run(source, tracking, anything_to_do=not source.exhausted, ahead=ahead)
            if not outcome.unrecorded:
                driver.record_search(write_results(spec, study, driver), result_files(driver.folder))
        return driver.conclude(outcome)


class SearchSource:
    """The search as a source of jobs."""

    def __init__(self, spec: Search, study: Study, driver: Driver) -> None:
        """Search with a study; `resume` comes first."""
        self._spec = spec
        self._study = study
        self._driver = driver
        self._epochs = spec.default.train.epochs
        rungs = spec.early_stopping.rungs(self._epochs) if spec.early_stopping else ()
        self._rungs = rungs
        self._halving = SuccessiveHalving(rungs, spec.early_stopping.reduction if spec.early_stopping else 2)
        self._numbers: dict[str, int] = {}
        """Of trials under way, by name."""
        self._used: dict[str, int] = {}
        """Epochs done, by name."""
        self._known: dict[str, str] = {}
        """Names by fingerprint of the settings."""
        self._again: deque[Trial] = deque()
        self._confirming: deque[Trial] | None = None
        self._exhausted = False

    def resume(self) -> None:
        """Bring the study to what the run directories say, and take up what was under way."""
        for asked in self._study.trials():
            if not asked.name:
                if asked.running:
                    self._study.fail(asked.number, "the driver died before it had a name")
                continue
            trial = Trial(asked.name, self._spec.config(asked.values))
            self._add(trial)
            self._recall(trial)
            if asked.running:
                self._numbers[trial.name] = asked.number
                self._settle_or_queue(trial, asked)
        self._next_phase()

    @property
    def exhausted(self) -> bool:
        """See `JobSource.exhausted`."""
        return not self._numbers and not self._again and self._limits_reached and not self._confirming

    def next_job(self) -> TrialJob | None:
        """See `JobSource.next_job`."""
        if self._again:
            return self._driver.job(self._again.popleft(), self._rungs)
        if not self._limits_reached:
            trial = self._ask()
            return None if trial is None else self._driver.job(trial, self._rungs)
        if self._confirming:
            return self._driver.job(self._confirming.popleft())
        return None

    def stops_here(self, name: str, progress: TrialProgress) -> bool:
        """See `JobSource.stops_here`: at a rung only the best go on."""
        if name not in self._numbers:
            return False  # it confirms
        self._used[name] = progress.epoch
        if progress.epoch not in self._rungs:
            return False
        self._study.report(self._numbers[name], progress.epoch, progress.val_mae)
        if self._halving.goes_on(name, progress.epoch, progress.val_mae):
            return False
        self._stop_early(name, progress.epoch, progress.val_mae)
        self._next_phase()
        return True

    def finished(self, name: str, progress: TrialProgress) -> None:
        """See `JobSource.finished`."""
        if name in self._numbers:
            self._used[name] = self._epochs
            self._complete(name)
            self._next_phase()

    def failed(self, name: str, reason: str) -> None:
        """See `JobSource.failed`: settings that diverge are bad ones, other failures say nothing about them."""
        if name not in self._numbers:
            return
        number = self._numbers.pop(name)
        self._study.note(number, "reason", reason)
        if "TrainingDivergedError" in reason:
            self._study.prune(number)
        else:
            self._study.fail(number, reason)
        self._next_phase()

    @property
    def _limits_reached(self) -> bool:
        limits = self._spec.budget
        used = sum(self._used.values())
        return self._exhausted or len(self._known) >= limits.trials or (limits.epochs or used + 1) <= used

    def _add(self, trial: Trial) -> None:
        self._driver.add(trial, load_task_once(trial.config.data))
        self._known[trial.config.fingerprint()] = trial.name

    def _recall(self, trial: Trial) -> None:
        """Take up what a trial's directory holds."""
        records = self._driver.directory(trial.name).records()
        self._used[trial.name] = records[-1].step if records else 0
        errors = {record.step: _val_mae(record.values) for record in records}
        self._halving.recall(trial.name, errors)

    def _settle_or_queue(self, trial: Trial, asked: Asked) -> None:
        """Tell the study how a trial ended while nobody listened, or have it go on."""
        directory = self._driver.directory(trial.name)
        if directory.result() is not None:
            self._complete(trial.name)
        elif directory.stopped_early() is not None:
            self._numbers.pop(trial.name)
            self._study.prune(asked.number)
        else:
            last = self._used[trial.name]
            records = directory.records()
            if last in self._rungs and not self._halving.goes_on(trial.name, last, _val_mae(records[-1].values)):
                self._stop_early(trial.name, last, _val_mae(records[-1].values))  # the driver died over this decision
            else:
                self._again.append(trial)

    def _stop_early(self, name: str, epoch: int, val_mae: float) -> None:
        directory = self._driver.directory(name)
        directory.stop_early(EarlyStop(epoch, val_mae, f"not among the best of the trials at epoch {epoch}"))
        self._study.prune(self._numbers.pop(name))

    def _complete(self, name: str) -> None:
        directory = self._driver.directory(name)
        result = directory.result()
        assert result is not None, "a finished trial has its result on disk"
        seconds = statistics.median(record.values["seconds_per_epoch"] for record in directory.records())
        parameters = result["final"]["values"]["num_parameters"]
        values = objective_values(self._spec.objectives, result["val_mae"], seconds, parameters)
        self._study.complete(self._numbers.pop(name), values)

    def _ask(self) -> Trial | None:
        """Return the next trial to try, None when the study suggests nothing new any more."""
        for _ in range(SAME_AGAIN):
            asked = self._study.ask()
            try:
                config = self._spec.config(asked.values)
                check_trial(Trial("this trial", config), load_task_once(config.data))
            except UserError as error:  # settings that are fine by themselves need not go together
                self._study.fail(asked.number, str(error))
                continue
            fingerprint = config.fingerprint()
            if fingerprint in self._known:
                self._study.fail(asked.number, f"the same settings as {self._known[fingerprint]}")
                continue
            trial = Trial(f"t{asked.number:04d}-{_subject(config)}-{fingerprint}", config)
            self._add(trial)
            self._study.name(asked.number, trial.name)
            self._numbers[trial.name] = asked.number
            return trial
        self._exhausted = True
        self._next_phase()
        return None

    def _next_phase(self) -> None:
        """Once every trial of the search is settled, run the best ones again with other seeds."""
        if self._confirming is not None or self._numbers or self._again or not self._limits_reached:
            return
        self._confirming = deque()
        for trial in confirmations(self._spec, best_first(self._spec, self._driver, self._study)):
            if trial.config.fingerprint() in self._known:
                continue  # the search ran it itself
            self._driver.add(trial, load_task_once(trial.config.data))
            if self._driver.directory(trial.name).result() is None:
                self._confirming.append(trial)


def confirmations(spec: Search, ranked: Sequence[Asked]) -> list[Trial]:
    """Return the trials that run the best settings with the seeds asked for, seeds outermost."""
    trials = []
    for seed in spec.confirm.seeds:
        for asked in ranked[: spec.confirm.best]:
            config = spec.config({**asked.values, "train.seed": seed})
            name = f"c{asked.number:04d}-{_subject(config)}-seed{seed}-{config.fingerprint()}"
            trials.append(Trial(name, config))
    return trials


def _subject(config: TrialConfig) -> str:
    return f"{config.data.task.replace(',', '+')}-{config.model.frame}"


def _val_mae(values: Mapping[str, float]) -> float:
    return next(value for key, value in values.items() if key.startswith("val/mae_"))
