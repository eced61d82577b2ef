"""The trials of a search as their run directories record them, which is all that a search remembers.

A directory is called ``t<number>-<task>-<frame>-<fingerprint>`` and holds the trial's settings, so name and settings
give number and values. The driver makes it before anyone is told of the trial.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crystalframer.config import TrialConfig
from crystalframer.data.registry import load_task_once
from crystalframer.errors import UserError
from crystalframer.escaping import shortened
from crystalframer.orchestration.search.search_spec import Range, Search
from crystalframer.orchestration.sweeps.driver import Driver
from crystalframer.resolving import trial_from_dict
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.status import TrialStatus
from crystalframer.runs.trial import Trial

_NAME = re.compile(r"t(\d+)-.+")


@dataclass
class SearchTrial:
    """A trial of a search."""

    number: int
    """From 0, in the order in which the trials were suggested."""
    values: Mapping[str, Any]
    """Of the searched settings, by dotted key."""
    trial: Trial
    status: TrialStatus
    """Where it stands, with all of its epochs."""

    @property
    def name(self) -> str:
        """The run directory's."""
        return self.trial.name

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return max(self.status.val_maes, default=0)

    @property
    def diverged(self) -> bool:
        """Whether it failed because of its settings, which says something about them."""
        return self.status.standing == "failed" and "TrainingDivergedError" in self.status.reason

    @property
    def over(self) -> bool:
        """Whether nothing is left to do; a trial that failed for another reason than its settings is tried again."""
        return self.status.standing in ("done", "stopped early") or self.diverged

    def objectives(self, spec: Search) -> list[float]:
        """Return what a trial that ended comes to in each objective."""
        status = self.status
        found = {
            "val_mae": status.val_mae,
            "seconds_per_epoch": status.seconds_per_epoch,
            "num_parameters": status.num_parameters,
        }
        return [float(found[name] or 0.0) for name in spec.objectives]


def subject(config: TrialConfig) -> str:
    """Return what a trial's name says of its settings."""
    return f"{shortened(config.data.task.replace(',', '+'))}-{config.model.frame}"


def read_trials(spec: Search, driver: Driver) -> list[SearchTrial]:
    """Make the recorded trials of a search part of its driver and return them in the order of their numbers.

    Raises:
        UserError: the file changed, so that they are trials of another search.
    """
    trials = []
    named = [(int(match[1]), path) for path in driver.folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    for number, path in sorted(named):
        if (identity := RunDirectory(path).identity()) is None:
            continue  # its driver died over it; the same is suggested again
        settings = trial_from_dict(identity["settings"])
        values = {key: _value(spec, key, settings, path) for key in spec.space}
        trial = Trial(path.name, spec.config(values))
        if trial.config.fingerprint() != settings.fingerprint():
            flat, wanted = settings.to_flat_dict(), trial.config.to_flat_dict()
            key = next(key for key in wanted if key != "train.start_from" and flat[key] != wanted[key])
            raise other_search(path, f"was recorded with {key} {flat[key]!r}, the file now has {wanted[key]!r}")
        driver.add(trial, load_task_once(trial.config.data))
        trials.append(SearchTrial(number, values, trial, driver.history(trial.name)))
    return trials


def other_search(path: Path, difference: str) -> UserError:
    """Return what the user is told whose search file changed after trials had been run."""
    return UserError(f"{path} {difference}; rename the file to start another search, or move that away")


def _value(spec: Search, key: str, settings: TrialConfig, path: Path) -> Any:
    """Return the value of a searched setting as the search suggested it."""
    where, found = spec.space[key], settings.to_flat_dict()[key]
    candidates: Sequence[Any] = where.options if where.kind == "choice" else [found]
    for value in candidates:
        if _holds(where, value) and spec.config({key: value}).to_flat_dict()[key] == found:
            return int(value) if where.kind == "int" else value
    raise other_search(path, f"was recorded with {key} {found!r}, which is not in the file's space")


def _holds(where: Range, value: Any) -> bool:
    if where.kind == "choice":
        return True
    return where.low <= value <= where.high and (where.kind != "int" or (value - where.low) % where.step == 0)
