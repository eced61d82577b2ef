"""Searches in this process: real Optuna, real run directories, stub trainings, interleaved as workers would be."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial
from rich.console import Console

from crystalframer.data.registry import load_task_once
from crystalframer.errors import one_line
from crystalframer.orchestration.cluster.dispatcher import Dispatcher, Outcome
from crystalframer.orchestration.cluster.failures import Failure, standard_policies
from crystalframer.orchestration.search.population import PopulationSource
from crystalframer.orchestration.search.search import SearchSource, source_of
from crystalframer.orchestration.search.search_results import write_results
from crystalframer.orchestration.search.search_spec import Search, load_search
from crystalframer.orchestration.search.study import StudyExport, study_url
from crystalframer.orchestration.sweeps.driver import Driver, SweepOptions
from crystalframer.orchestration.sweeps.screen import Screen
from crystalframer.runs.trial import Trial, TrialJob, TrialProgress, run_trial
from tests.orchestration.conftest import OPENED, PROSE, TINY
from tests.orchestration.stub_training import StubTrainer
from tests.runs.memory_tracker import MemoryRun, MemoryTracker

Source = SearchSource | PopulationSource

SPACE: dict[str, Any] = {
    "train.learning_rate": {"loguniform": [1.0e-5, 1.0e-1]},
    "train.weight_decay": {"loguniform": [1.0e-7, 1.0e-1]},
    "model.r_0": {"uniform": [0.8, 2.4]},
}
"""Around the planted optimum."""


def search_fields(**fields: Any) -> dict[str, Any]:
    """Return a valid search file's content, differing by the given fields (None leaves one out)."""
    base = {**TINY, "train": {"epochs": 27, "batch_size": 8, "average_epochs": 0}}
    content = {
        **PROSE,
        "base": base,
        "space": SPACE,
        "early_stopping": {"min_epochs": 1, "reduction": 3},
        "budget": {"trials": 12},
        **fields,
    }
    return {key: value for key, value in content.items() if value is not None}


def write_search(folder: Path, name: str = "planted", **fields: Any) -> Path:
    """Write such a file."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(search_fields(**fields)))
    return path


class Here(Driver):
    """A driver that has no MLflow."""

    def job(self, trial: Trial, decide_at: Iterable[int] = ()) -> TrialJob:
        """Return a job that `work` can do."""
        return TrialJob(trial, self.directory(trial.name), cpus=1, checkpoint_seconds=1e9, decide_at=tuple(decide_at))


class Bench:
    """A search that can be left and taken up at any moment."""

    def __init__(self, folder: Path, **fields: Any) -> None:
        """Write the search file."""
        self.folder = folder
        self.spec: Search = load_search(write_search(folder, **fields))
        self.runs: dict[str, MemoryRun] = {}
        self.said: list[str] = []

    def start(self) -> tuple[Dispatcher, Here, Source]:
        """Start a driver anew."""
        driver = Here(self.spec, SweepOptions(self.folder / "runs"), Console(quiet=True))
        driver.folder.mkdir(parents=True, exist_ok=True)
        source = source_of(self.spec, driver)
        export = StudyExport(study_url(self.folder / "runs"), self.spec, source.trials, self.said.append)
        OPENED.append(export)
        source.export = export.add
        screen = Screen(Console(quiet=True), driver.statuses)
        return Dispatcher(source, standard_policies(2), screen.change, lambda _: None), driver, source

    def exported(self) -> list[FrozenTrial]:
        """Return the trials that optuna-dashboard would show."""
        storage = optuna.storages.RDBStorage(study_url(self.folder / "runs"))
        try:
            return optuna.load_study(study_name=self.spec.name, storage=storage).get_trials()
        finally:
            storage.remove_session()
            storage.engine.dispose()

    def run(self, workers: int = 4, steps: int | None = None) -> tuple[Outcome, Here, Source]:
        """Run to the end, or for so many epochs of all workers together."""
        return self.drive(*self.start(), workers=workers, steps=steps)

    def drive(
        self, dispatcher: Dispatcher, driver: Here, source: Source, workers: int = 4, steps: int | None = None
    ) -> tuple[Outcome, Here, Source]:
        """Run what was started, as `run` does."""
        busy: dict[str, Iterator[TrialProgress]] = {}
        while not dispatcher.finished:
            while len(busy) < workers and (job := dispatcher.next_job()) is not None:
                busy[job.name] = self._work(job)
                dispatcher.started(job.name)
            for name in list(busy):
                if steps is not None and (steps := steps - 1) < 0:
                    for left in busy.values():
                        left.close()  # type: ignore[attr-defined]
                    return dispatcher.outcome, driver, source
                self._step(name, busy, dispatcher)
        write_results(self.spec, source.trials, driver)
        return dispatcher.outcome, driver, source

    def _step(self, name: str, busy: dict[str, Iterator[TrialProgress]], dispatcher: Dispatcher) -> None:
        try:
            progress = next(busy[name])
        except RuntimeError as error:
            del busy[name]
            dispatcher.failed(name, Failure.of(error, one_line(error)))
            return
        if progress.result is not None:
            list(busy.pop(name))
            dispatcher.done(name, progress)
        elif dispatcher.stops_here(name, progress):
            busy.pop(name).close()  # type: ignore[attr-defined]

    def _work(self, job: TrialJob) -> Iterator[TrialProgress]:
        return run_trial(job, load_task_once(job.trial.config.data), MemoryTracker(self.runs), StubTrainer)
