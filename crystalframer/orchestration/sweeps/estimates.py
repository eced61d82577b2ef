"""How long trials will take: as given, or by the pace of earlier ones where there are any; else a rule for GPUs.

The rule is the pace of the paper's own training, seconds for an epoch of the 44,578 training crystals of JARVIS on one
RTX A6000, scaled with the number of crystals. Processors differ too much for one: there, how long a trial takes is not
known until one has run.
"""

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from crystalframer.config import DataConfig, TrialConfig
from crystalframer.orchestration.cluster.jobs import Resources
from crystalframer.published import PUBLISHED
from crystalframer.runs.json_files import DamagedError
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.status import duration, read_status
from crystalframer.runs.tracker import median_seconds
from crystalframer.runs.trial import Trial

PUBLISHED_SECONDS = {
    "none": 32.0,
    "pca": 40.0,
    "lattice": 40.0,
    "static_local": 45.0,
    "weighted_pca": 74.0,
    "max": 74.0,
}
"""Per epoch of JARVIS; published for none and max, the others are put between them by their number of axes."""
PUBLISHED_CRYSTALS = PUBLISHED["jarvis"].tasks["formation_energy"].counts[0]
_NOT_ABOUT_PACE = (
    "seed", "epochs", "minutes", "learning_rate", "beta_1", "beta_2", "weight_decay", "clip_norm", "decay_steps",
)  # fmt: skip


@dataclass(frozen=True)
class Estimate:
    """How long a trial takes."""

    seconds_per_epoch: float | None
    """None where it is not known."""
    measured: bool
    """Whether by earlier trials."""
    epochs: int
    given: bool = False
    """Whether the settings say so (``train.minutes``)"""

    @property
    def hours(self) -> float | None:
        """Of the whole trial."""
        return None if self.seconds_per_epoch is None else self.seconds_per_epoch * self.epochs / 3600


class Pace:
    """What earlier trials in a folder of runs took for an epoch."""

    def __init__(self, runs: Path) -> None:
        """Read the metrics of all run directories."""
        found: defaultdict[str, list[float]] = defaultdict(list)
        for path in sorted(runs.glob("*/*/config.json")):
            directory = RunDirectory(path.parent)
            try:
                identity, records = directory.identity(), directory.records(tail=True)
            except DamagedError:
                continue  # it says nothing about pace
            seconds = median_seconds(records)
            if identity is not None and identity["settings"] and seconds is not None:
                found[_kind(identity["settings"])].append(seconds)
        self._by_kind = {kind: statistics.median(values) for kind, values in found.items()}

    def of(self, config: TrialConfig, *, on_gpu: bool) -> Estimate:
        """Return how long a trial takes, on a GPU or a processor."""
        if config.train.minutes is not None:
            return Estimate(60 * config.train.minutes / config.train.epochs, False, config.train.epochs, given=True)
        measured = self._by_kind.get(_kind(config.to_dict()))
        if measured is not None:
            return Estimate(measured, True, config.train.epochs)
        crystals = (config.data.train_size or _training_crystals(config.data)) if on_gpu else None
        seconds = PUBLISHED_SECONDS[config.model.frame] * crystals / PUBLISHED_CRYSTALS if crystals else None
        return Estimate(seconds, False, config.train.epochs)


def _training_crystals(data: DataConfig) -> int | None:
    """Return how many crystals a trial learns from, None of a data set that is not published."""
    tasks = PUBLISHED[data.dataset].tasks if data.dataset in PUBLISHED else {}
    return max((tasks[name].counts[0] for name in data.task.split(",") if name in tasks), default=None)


def _kind(settings: dict[str, dict[str, object]]) -> str:
    """Return what trials of the same pace have in common."""
    train = {key: value for key, value in settings["train"].items() if key not in _NOT_ABOUT_PACE}
    train.pop("average_epochs", None)
    return json.dumps([settings["data"], settings["model"], train], sort_keys=True)


def describe_sweep(trials: Sequence[Trial], resources: Resources, runs: Path, sweep: str = "") -> str:
    """Return what is left to do of a sweep: trials in their order, a line each, with estimated hours, and their sum."""
    pace = Pace(runs)
    lines, estimates = [], []
    for trial in trials:
        status = read_status(runs / sweep, trial.planned())
        if status.standing == "done":
            continue
        whole = pace.of(trial.config, on_gpu=bool(resources.gpus_per_trial))
        left = 1 - status.epoch / (status.epochs or whole.epochs)
        estimates.append(replace(whole, epochs=round(whole.epochs * left)))
        resumes = f", resumes after epoch {status.epoch}" if status.epoch else ""
        lines.append(f"{trial.name}  {hours_of(estimates[-1])}{resumes}")
    if done := len(trials) - len(lines):
        lines.append(f"{done} of {len(trials)} trials are done")
    return "\n".join([*lines, total_of(estimates, resources)] if estimates else lines)


def hours_of(one: Estimate) -> str:
    """Return an estimate in words."""
    if one.hours is None:
        return "time unknown until one like it has run here"
    source = "as given" if one.given else "as earlier trials" if one.measured else "rough guess"
    return f"{_long(one.hours)} ({source})"


def total_of(estimates: Sequence[Estimate], resources: Resources) -> str:
    """Return the sum of estimates in words."""
    count = f"{len(estimates)} trial{'' if len(estimates) == 1 else 's'}"
    known = [one.hours for one in estimates if one.hours is not None]
    hours, gpus, unknown = sum(known), resources.gpus_per_trial, len(estimates) - len(known)
    if not known:
        return count
    rest = f", and {unknown} whose time is unknown" if unknown else ""
    if hours < 1 and not gpus:
        return f"{count}: {_long(hours)}, one after another{rest}"
    gpu_hours = "" if not gpus or resources.measured else f", {hours * gpus:.3g} GPU-hours"
    return f"{count}: {hours:.3g} hours of trials{gpu_hours}, one after another{rest}"


def _long(hours: float) -> str:
    """Return hours as such, shorter times in minutes or seconds."""
    return f"{hours:.3g} h" if hours >= 1 else duration(3600 * hours)
