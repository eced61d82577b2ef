"""Where the trials of a sweep stand, read from its folder alone: while the driver runs and after it ended.

``plan.jsonl`` in the folder lists the trials, a line each; a search appends to it. Screen, status program, report and
search results all draw from `TrialStatus` and `Summary`. Nothing here imports Ray, MLflow or torch.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from crystalframer.atomic_files import append_line, is_file_name, replace_text
from crystalframer.errors import UserError, near_matches
from crystalframer.runs.budget import DriverState, read_driver
from crystalframer.runs.contents import TrialResult
from crystalframer.runs.json_files import DamagedError, opened, parse_json, sealed
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.tracker import StepMetrics, median_seconds

PLAN = "plan.jsonl"
Standing = Literal["done", "stopped early", "failed", "running", "interrupted", "not started"]
STANDINGS: tuple[Standing, ...] = ("done", "stopped early", "failed", "running", "interrupted", "not started")
_UNFINISHED = ("running", "interrupted", "not started")
_PLANNED = ("name", "task", "frame", "unit", "epochs")
"""What the plan says of a trial."""


@dataclass(frozen=True)
class TrialStatus:
    """Where a trial stands. As the plan lists it, nothing has happened yet."""

    name: str
    task: str
    """Data set and target."""
    frame: str
    unit: str
    epochs: int
    standing: Standing = "not started"
    epoch: int = 0
    """Epochs done; of a trial that does not run, those that its checkpoint holds."""
    val_maes: Mapping[int, float] = field(default_factory=dict)
    """By epoch: the last few, or all where the whole history was read."""
    test_mae: float | None = None
    baseline_mae: float | None = None
    """Test MAE of predicting the training mean."""
    reason: str = ""
    """Why it failed or ended early, or why it is not finished."""
    seconds_per_epoch: float | None = None
    """Median over the epochs that were read."""
    num_parameters: int | None = None
    started: float = 0.0
    """When its first epoch was written, in seconds since 1970; 0 for never, or where only the last ones were read."""
    updated: float = 0.0
    """When its last epoch was written."""
    memory: tuple[int, int] | None = None
    """Most bytes of its device that it has held, and those that the device has; None where there is no such device."""

    @property
    def val_mae(self) -> float | None:
        """The last one."""
        return self.val_maes[max(self.val_maes)] if self.val_maes else None

    @property
    def row(self) -> str:
        """Frame and whatever else varies in the sweep but the seed, from the trial's name: what a table averages."""
        found = re.search(rf"-{re.escape(self.frame)}-(.+)-seed\d+-[0-9a-f]+$", self.name)
        return f"{self.frame}, {found[1].replace('-', ', ')}" if found else self.frame

    def finished(self, result: TrialResult) -> "TrialStatus":
        """Return the status of the trial once it has a result."""
        parameters = result["final"]["values"].get("num_parameters")
        return replace(
            self,
            standing="done",
            epoch=self.epochs or result["final"]["step"],
            val_maes={**self.val_maes, self.epochs or result["final"]["step"]: result["val_mae"]},
            test_mae=result["test_mae"],
            baseline_mae=result["baseline_mae"],
            num_parameters=None if parameters is None else int(parameters),
            reason="",
        )

    def sentence(self) -> str:
        """Return the standing in a few words."""
        at = "" if self.standing in ("done", "not started") else f" after epoch {self.epoch} of {self.epochs or '?'}"
        if self.standing == "running":
            at = f", epoch {self.epoch} of {self.epochs or '?'} done" if self.epoch else ", starting"
        error = "" if self.test_mae is None else f", test MAE {self.test_mae:.4f} {self.unit}"
        return f"{self.standing}{at}{error}{f': {self.reason}' if self.reason else ''}"


def read_status(
    folder: Path,
    planned: TrialStatus,
    driver: DriverState = DriverState(),  # noqa: B008 (frozen)
    *,
    alive: bool = False,
    whole: bool = False,
) -> TrialStatus:
    """Return where a trial of a sweep stands; one whose files are damaged has failed, and the reason names the file.

    Args:
        folder: the sweep's.
        planned: the trial as the plan lists it.
        driver: what the sweep's driver wrote, left out by whoever is about to be its driver.
        alive: whether the driver runs.
        whole: whether to read all of its epochs, not the last ones.
    """
    directory = RunDirectory(folder / planned.name)
    status = planned
    try:
        status = _with_records(status, directory.records(tail=not whole), whole=whole)
        state, result, early = directory.state(), directory.result(), directory.stopped_early()
    except DamagedError as error:
        return replace(status, standing="failed", reason=str(error))
    if state is not None and state.epochs:
        status = replace(status, epochs=state.epochs)  # where time decides, the plan does not say
    if state is not None and state.peak_bytes and state.device_bytes:
        status = replace(status, memory=(state.peak_bytes, state.device_bytes))
    if result is not None:
        return status.finished(result)
    if early is not None:
        errors = {epoch: mae for epoch, mae in status.val_maes.items() if epoch < early.epoch}
        errors[early.epoch] = early.val_mae
        return replace(status, standing="stopped early", epoch=early.epoch, val_maes=errors, reason=early.reason)
    seems_to_run = state is not None and state.state == "running"
    if alive and (seems_to_run if driver.running is None else planned.name in driver.running):
        return replace(status, standing="running")
    if not driver.pid and seems_to_run and directory.is_in_use():  # a single training, which has no driver
        return replace(status, standing="running")
    if state is not None:
        status = replace(status, standing="interrupted", epoch=state.epoch)
    last = state.reason if state is not None and state.state == "failed" else ""
    if planned.name in driver.failed or (last and not alive):  # while the driver runs it may try again
        return replace(status, standing="failed", reason=driver.failed.get(planned.name, last))
    return replace(status, reason=last if alive else driver.over_budget)


def _with_records(status: TrialStatus, records: Sequence[StepMetrics], *, whole: bool) -> TrialStatus:
    if not records:
        return status
    return replace(
        status,
        epoch=records[-1].step,
        val_maes={record.step: mae for record in records if (mae := _val_mae(record.values)) is not None},
        seconds_per_epoch=median_seconds(records),
        started=records[0].time_ms / 1000 if whole else 0.0,
        updated=records[-1].time_ms / 1000,
    )


def _val_mae(values: Mapping[str, float]) -> float | None:
    return next((value for key, value in values.items() if key.startswith("val/mae_")), None)


class Tally:
    """What is counted over a sweep's trials, kept while they change: no more work for a change where there are many."""

    def __init__(self, trials: Iterable[TrialStatus] = ()) -> None:
        """Count trials."""
        self.running: dict[str, TrialStatus] = {}
        """Those that run, by name."""
        self._known: dict[str, TrialStatus] = {}
        self._counts: Counter[Standing] = Counter()
        self._begun = self._endless = self._epochs_left = 0
        for trial in trials:
            self.note(trial)

    def __len__(self) -> int:
        """Return how many trials are counted."""
        return len(self._known)

    def note(self, trial: TrialStatus) -> None:
        """Count a trial as it is now, and no longer as it was if it was counted before."""
        if (before := self._known.get(trial.name)) is not None:
            self._count(before, -1)
        self._known[trial.name] = trial
        self._count(trial, 1)

    def _count(self, trial: TrialStatus, times: int) -> None:
        self._counts[trial.standing] += times
        self._begun += times * bool(trial.epoch)
        if trial.standing in _UNFINISHED:
            self._endless += times * (not trial.epochs)
            self._epochs_left += times * (trial.epochs - trial.epoch)
        if times > 0 and trial.standing == "running":
            self.running[trial.name] = trial
        elif times > 0:
            self.running.pop(trial.name, None)

    def counts(self) -> str:
        """Return how many trials stand where, e.g. ``3 done, 1 failed``."""
        return ", ".join(f"{self._counts[standing]} {standing}" for standing in STANDINGS if self._counts[standing])

    def rate(self) -> float:
        """Return the epochs per second of the running trials together, 0 while that is unknown."""
        return sum(1 / trial.seconds_per_epoch for trial in self.running.values() if trial.seconds_per_epoch)

    def seconds_left(self) -> float | None:
        """Estimate the time until every trial has run to its last epoch; None while the rate is unknown."""
        rate = self.rate()
        return None if not rate or self._endless else self._epochs_left / rate

    def speed(self) -> str:
        """Return rate and time left in words; a first epoch may have waited for the attention to be compiled."""
        left = self.seconds_left()
        about = "at most" if any(one.epoch <= 1 and one.seconds_per_epoch for one in self.running.values()) else "about"
        return "no rate yet" if left is None else f"{self.rate():.2f} epochs/s, {about} {duration(left)} left"

    def waits_for_its_first_epoch(self) -> bool:
        """Return whether trials run, and none has ever ended an epoch."""
        return bool(self.running) and not self._begun


@dataclass(frozen=True)
class Summary:
    """Where a sweep stands."""

    trials: tuple[TrialStatus, ...]
    driver: DriverState = field(default_factory=DriverState)
    alive: bool = False
    """Whether the driver runs."""
    remarks: tuple[str, ...] = ()
    """Sentences about files that could not be read."""

    @cached_property
    def tally(self) -> Tally:
        """What is counted over the trials."""
        return Tally(self.trials)

    def counts(self) -> str:
        """See `Tally.counts`."""
        return self.tally.counts()

    def of(self, *standings: Standing) -> list[TrialStatus]:
        """Return the trials that stand there."""
        return [trial for trial in self.trials if trial.standing in standings]

    def best(self) -> list[TrialStatus]:
        """Return the trial with the lowest validation error of each task and row, sorted by these."""
        best: dict[tuple[str, str], TrialStatus] = {}
        for trial in self.trials:
            if trial.val_mae is not None:
                key = trial.task, trial.row
                best[key] = min(best.get(key, trial), trial, key=lambda one: one.val_mae or 0.0)
        return [best[key] for key in sorted(best)]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, under the names that ``report.json`` has always had."""
        trials = []
        for trial in self.trials:
            values = asdict(trial)
            del values["val_maes"], values["started"]
            trials.append({**values, "fate": values.pop("standing"), "val_mae": trial.val_mae})
        return {"account": asdict(self.driver), "alive": self.alive, "remarks": list(self.remarks), "trials": trials}


def read_summary(folder: Path) -> Summary:
    """Return where a sweep stands; what is damaged is remarked upon and hides nothing else.

    Raises:
        UserError: there is no such sweep.
    """
    planned, remarks = read_plan(folder)
    try:
        driver, alive = read_driver(folder)
    except DamagedError as error:
        driver, alive = DriverState(), False
        remarks = [*remarks, str(error)]
    trials = tuple(read_status(folder, trial, driver, alive=alive) for trial in planned)
    return Summary(trials, driver, alive, tuple(remarks))


def write_plan(folder: Path, trials: Iterable[TrialStatus]) -> None:
    """Write a sweep's trials down, in place of what was there."""
    replace_text(folder / PLAN, "".join(f"{_plan_line(trial)}\n" for trial in trials))


def append_plan(folder: Path, trial: TrialStatus) -> None:
    """Add a trial to those of a sweep."""
    append_line(folder / PLAN, _plan_line(trial))


def _plan_line(trial: TrialStatus) -> str:
    return sealed({key: getattr(trial, key) for key in _PLANNED})


def read_plan(folder: Path) -> tuple[list[TrialStatus], list[str]]:
    """Return a sweep's trials as planned, and a sentence where lines of the plan are damaged.

    Raises:
        UserError: there is no such sweep, or its plan cannot be read.
    """
    path = folder / PLAN
    try:
        with opened(path) as file:
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        known = sorted(other.parent.name for other in folder.parent.glob(f"*/{PLAN}"))
        hint = near_matches(folder.name, known) if known else ""
        raise UserError(f"no sweep {folder.name!r} in {folder.parent}{hint}; name one that was started") from None
    trials: dict[str, TrialStatus] = {}
    damaged = []
    for number, line in enumerate(lines, start=1):
        try:
            trial = parse_json(line, TrialStatus, "", "")
        except DamagedError:
            damaged.append(str(number))
            continue
        if is_file_name(trial.name):
            trials[trial.name] = trial
        else:
            damaged.append(str(number))
    remark = f"{path} is damaged in line {', '.join(damaged)}; the sweep's own command writes it anew"
    return list(trials.values()), [remark] if damaged else []


def write_report(folder: Path, corrections: Sequence[tuple[str, int]]) -> Path:
    """Write where every trial stands to ``report.md`` and ``report.json`` in a sweep's folder; return the former.

    Args:
        folder: the sweep's folder.
        corrections: by failure policy, how often it started a trial again.
    """
    summary = read_summary(folder)
    driver = summary.driver
    cost = f", at a cost of {driver.cost:.2f}" if driver.cost_per_hour else ""
    lines = [
        f"# {folder.name}: what became of its {len(summary.trials)} trials",
        "",
        f"{summary.counts()}. The sweep ran for {driver.seconds / 3600:.2f} hours, its trials for "
        f"{driver.trial_seconds / 3600:.2f} hours{cost}.",
        *([f"It ended because {driver.over_budget}."] if driver.over_budget else []),
        *(f"Started again for {name}: {times} times." for name, times in corrections),
        "",
        *(f"- `{trial.name}`: {trial.sentence()}" for trial in summary.trials),
    ]
    content = {**summary.to_dict(), "corrections": dict(corrections)}
    replace_text(folder / "report.json", json.dumps(content, indent=1))
    replace_text(folder / "report.md", "\n".join(lines) + "\n")
    return folder / "report.md"


def duration(seconds: float) -> str:
    """Return a duration as a person would say it: 45 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
