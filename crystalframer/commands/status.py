"""Where a sweep or search stands, from its folder alone: while it runs and after it died."""

import argparse
import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from crystalframer.orchestration.sweeps.arguments import add_runs_argument

if TYPE_CHECKING:
    from crystalframer.runs.status import Summary, TrialStatus

DESCRIPTION = """\
Say where a sweep or search stands: trials by state, the best of each frame, rate, time left, cost.

It reads the run directories alone, so it works from any machine that sees them, while the driver runs and after it
died. With --watch it stays until the driver ends: a table that is drawn again on a terminal, one line an event
elsewhere.
"""
WATCH_SECONDS = 2.0
"""How often --watch looks."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crystalframer status`."""
    parser.description = DESCRIPTION
    parser.add_argument("name", help="the sweep's name, its file's stem")
    add_runs_argument(parser)
    parser.add_argument("--watch", action="store_true", help="show it all along, until the driver ends")
    parser.add_argument("--all", action="store_true", help="list every trial, not only those that run or failed")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(options: argparse.Namespace) -> int:
    """Say where a sweep stands; return the exit code."""
    from crystalframer.runs.status import read_summary

    folder: Path = options.runs / options.name
    if options.watch:
        _watch(folder)
    summary = read_summary(folder)
    if options.json:
        print(json.dumps(summary.to_dict(), indent=1))
        return 0
    print("\n".join(_heading(options.name, summary)))
    if summary.alive:
        left = " if every trial runs to its last epoch" if summary.tally.rate() else ""
        print(f"{summary.tally.speed()}{left}")
    for trial in summary.best():
        print(f"best of {trial.task}, {trial.row}: validation MAE {trial.val_mae:.4f} {trial.unit} ({trial.name})")
    for trial in summary.trials:
        if options.all or trial.standing in ("running", "failed", "interrupted"):
            print(f"  {trial.name}: {trial.sentence()}")
    return 0


def _heading(name: str, summary: "Summary") -> list[str]:
    """Return the counts, what is known of the driver, what the sweep has used, and what could not be read."""
    from crystalframer.runs.status import duration

    driver = summary.driver
    if summary.alive:
        found = "running"
    elif driver.ended:
        found = "ended"
    elif driver.machine == platform.node():
        found = "dead"
    else:  # a lock of another machine need not be visible
        found = f"silent for {duration(driver.silence())}" if driver.updated else "unknown"
    where = f" on {driver.machine}" if driver.machine else ""
    cost = f", cost {driver.cost:.2f}" if driver.cost_per_hour else ""
    counts = f"{name}: {len(summary.trials)} trials: {summary.counts()}"
    if not driver.pid:  # single trainings have none
        return [counts, *summary.remarks]
    return [
        counts,
        f"driver {found} (process {driver.pid}{where}), {driver.seconds / 3600:.2f} hours in all, "
        f"{driver.trial_seconds / 3600:.2f} hours of trials{cost}",
        *([driver.over_budget] if driver.over_budget else []),
        *([f"waiting for {driver.waiting}"] if summary.alive and driver.waiting else []),
        *summary.remarks,
    ]


def _watch(folder: Path) -> None:
    """Show how the trials come along until the driver ends."""
    from rich.console import Console
    from rich.live import Live

    from crystalframer.orchestration.sweeps.screen import event, live_view

    console = Console()
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            for summary in _looks(folder):
                live.update(live_view(summary, console), refresh=True)
        return
    before: dict[str, TrialStatus] = {}
    for summary in _looks(folder):
        if not before:
            print("\n".join(_heading(folder.name, summary)), flush=True)
        for trial in summary.trials:
            for line in event(before.get(trial.name, trial), trial, summary.tally):
                print(line, flush=True)
            before[trial.name] = trial


def _looks(folder: Path) -> "Iterator[Summary]":
    """Look at a sweep every few seconds, and a last time when its driver has ended."""
    from crystalframer.runs.status import read_summary

    while (summary := read_summary(folder)).alive:
        yield summary
        time.sleep(WATCH_SECONDS)
    yield summary
