"""What became of every trial of a sweep, read from its folder alone: while the driver runs and after it died.

``plan.jsonl`` in the folder lists the trials, a line each; a search appends to it. Nothing here imports Ray, MLflow or
torch.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from crystalframer.errors import UserError, near_matches
from crystalframer.runs.budget import Account, read_account
from crystalframer.runs.run_directory import RunDirectory, replace_text

PLAN = "plan.jsonl"
FateName = Literal["done", "stopped early", "failed", "running", "interrupted", "not started"]
FATES: tuple[FateName, ...] = ("done", "stopped early", "failed", "running", "interrupted", "not started")
_TAIL_BYTES = 8192


@dataclass(frozen=True)
class Planned:
    """A trial as the sweep means to run it."""

    name: str
    task: str
    """Data set and target."""
    frame: str
    unit: str
    epochs: int


@dataclass(frozen=True)
class Fate:
    """What became of a trial."""

    name: str
    task: str
    frame: str
    unit: str
    epochs: int
    fate: FateName
    epoch: int
    """Epochs done."""
    val_mae: float | None
    """Of the last epoch."""
    test_mae: float | None
    reason: str
    """Why it failed or ended early, or why it is not finished."""
    seconds_per_epoch: float | None
    updated: float
    """When its last epoch was written, in seconds since 1970; 0 for never."""


def write_plan(folder: Path, trials: Iterable[Planned]) -> None:
    """Write a sweep's trials down, in place of what was there."""
    replace_text(folder / PLAN, "".join(json.dumps(asdict(trial)) + "\n" for trial in trials))


def append_plan(folder: Path, trial: Planned) -> None:
    """Add a trial to those of a sweep."""
    with (folder / PLAN).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(trial)) + "\n")


def read_plan(folder: Path) -> list[Planned]:
    """Return a sweep's trials.

    Raises:
        UserError: there is no such sweep.
    """
    try:
        lines = (folder / PLAN).read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        known = sorted(path.parent.name for path in folder.parent.glob(f"*/{PLAN}"))
        hint = near_matches(folder.name, known) if known else ""
        raise UserError(f"no sweep {folder.name!r} in {folder.parent}{hint}; name one that was started") from None
    return list({trial.name: trial for trial in (Planned(**json.loads(line)) for line in lines)}.values())


def read_fates(folder: Path) -> tuple[list[Fate], Account]:
    """Return what became of each trial of a sweep, and its account.

    Raises:
        UserError: there is no such sweep.
    """
    account = read_account(folder) or Account()
    return [_fate(folder, trial, account) for trial in read_plan(folder)], account


def _fate(folder: Path, trial: Planned, account: Account) -> Fate:
    directory = RunDirectory(folder / trial.name)
    last = _last_record(directory.path / "metrics.jsonl")
    values: dict[str, float] = last["values"] if last else {}
    val_mae = next((value for key, value in values.items() if key.startswith("val/mae_")), None)
    state, result, early = directory.state(), directory.result(), directory.stopped_early()
    epoch = last["step"] if last else 0
    fate: FateName
    reason = ""
    if result is not None:
        fate, epoch, val_mae = "done", trial.epochs, result["val_mae"]
    elif early is not None:
        fate, epoch, val_mae, reason = "stopped early", early.epoch, early.val_mae, early.reason
    elif state is not None and state.state == "failed":
        fate, reason = "failed", state.reason
    elif state is not None:
        alive = account.is_alive() and state.state == "running"
        fate, reason = "running" if alive else "interrupted", "" if alive else account.over_budget
    else:
        fate, reason = "not started", account.over_budget
    return Fate(
        **asdict(trial),
        fate=fate,
        epoch=epoch,
        val_mae=val_mae,
        test_mae=None if result is None else result["test_mae"],
        reason=reason,
        seconds_per_epoch=values.get("seconds_per_epoch"),
        updated=last["time_ms"] / 1000 if last else 0.0,
    )


def _last_record(path: Path) -> dict[str, Any] | None:
    """Return the last whole line of a metrics file, from its tail."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    record: dict[str, Any] | None = json.loads(lines[-1]) if lines else None
    return record


def count(fates: Iterable[Fate]) -> str:
    """Return how many trials came to which fate."""
    counted = Counter(fate.fate for fate in fates)
    return ", ".join(f"{counted[name]} {name}" for name in FATES if counted[name])


def sentence(fate: Fate) -> str:
    """Return a trial's fate in a few words."""
    at = "" if fate.fate in ("done", "not started") else f" after epoch {fate.epoch} of {fate.epochs}"
    error = "" if fate.test_mae is None else f", test MAE {fate.test_mae:.4f} {fate.unit}"
    return f"{fate.fate}{at}{error}{f': {fate.reason}' if fate.reason else ''}"


def write_report(folder: Path, corrections: Sequence[tuple[str, int]]) -> Path:
    """Write every trial's fate to ``report.md`` and ``report.json`` in a sweep's folder, and return the former.

    Args:
        folder: the sweep's folder.
        corrections: by failure policy, how often it started a trial again.
    """
    fates, account = read_fates(folder)
    lines = [
        f"# {folder.name}: what became of its {len(fates)} trials",
        "",
        f"{count(fates)}. The sweep ran for {account.seconds / 3600:.2f} hours, its trials for "
        f"{account.trial_seconds / 3600:.2f} hours"
        + (f", at a cost of {account.cost:.2f}." if account.cost_per_hour else "."),
        *([f"It ended because {account.over_budget}."] if account.over_budget else []),
        *(f"Started again for {name}: {times} times." for name, times in corrections),
        "",
        *(f"- `{fate.name}`: {sentence(fate)}" for fate in fates),
    ]
    content = {"account": asdict(account), "corrections": dict(corrections), "trials": [asdict(fate) for fate in fates]}
    replace_text(folder / "report.json", json.dumps(content, indent=1))
    replace_text(folder / "report.md", "\n".join(lines) + "\n")
    return folder / "report.md"
