"""What a user sees of a sweep: a live table on a terminal, one line an event elsewhere."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from crystalframer.runs.budget import DriverState
from crystalframer.runs.status import Standing, Summary, Tally, TrialStatus
from crystalframer.runs.trial import TrialProgress
from crystalframer.statistics import Spread

REFRESH_PER_SECOND = 2.0
LINES_PER_TRIAL = 10
"""How often a trial's progress is printed where there is no terminal."""
_NARROW = 60
"""Terminals of fewer columns show less in a row."""
_FEWEST_ROWS = 2
"""Rows of a table that are shown however low the terminal is."""


class Screen:
    """Keeps the trials' standing while they run and shows it; a context manager for that time."""

    def __init__(self, console: Console, trials: dict[str, TrialStatus]) -> None:
        """Show on `console` how `trials`, which others may add to, come along."""
        self.trials = trials
        self.driver = DriverState()
        """What the sweep has used so far."""
        self._tally = Tally(trials.values())
        self._console = console
        self._live: Live | None = None

    def __enter__(self) -> "Screen":
        """Begin."""
        if self._console.is_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=lambda: live_view(self.summary(), self._console),
                refresh_per_second=REFRESH_PER_SECOND,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End; the live table makes room for what follows."""
        if self._live is not None:
            self._live.stop()

    def summary(self) -> Summary:
        """Return where the sweep stands."""
        return Summary(tuple(self.trials.values()), self.driver, alive=True)

    def change(self, name: str, standing: Standing, progress: TrialProgress | None = None, reason: str = "") -> None:
        """Note how a trial stands from now on, what it reported, and why it failed or is interrupted."""
        if len(self.trials) > len(self._tally):
            for added in [*islice(self.trials.values(), len(self._tally), None)]:
                self._tally.note(added)
        before = self.trials[name]
        after = replace(before, standing=standing, reason=reason)
        if progress is not None:
            after = replace(
                after,
                epoch=progress.epoch,
                epochs=progress.epochs,
                val_maes={progress.epoch: progress.val_mae},
                seconds_per_epoch=progress.seconds or None,
                updated=time.time(),
            )
            if progress.result is not None:
                after = after.finished(progress.result)
        self.trials[name] = after
        self._tally.note(after)
        if self._live is None or after.standing in ("stopped early", "failed") or after.reason:
            for line in event(before, after, self._tally):
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _patience(tally: Tally) -> str:
    """Say why nothing moves at first."""
    if not tally.waits_for_its_first_epoch():
        return ""
    return " (where this program is new, it compiles the attention first: a minute of a free core)"


def event(before: TrialStatus, after: TrialStatus, tally: Tally) -> list[str]:
    """Return the line, if any, that says what happened to a trial between two looks at it."""
    left = tally.seconds_left()
    speed = "" if left is None else f", {tally.speed().partition(', ')[2]}"
    name, unit, at = after.name, after.unit, f"{after.epoch}/{after.epochs}"
    val_mae = "" if after.val_mae is None else f", val MAE {after.val_mae:.4f} {unit}"
    tenths = [one.epoch * LINES_PER_TRIAL // max(1, one.epochs) for one in (before, after)]
    if (before.standing, before.reason) != (after.standing, after.reason):
        if after.standing == "done":
            return [f"{name}: done, test MAE {after.test_mae:.4f} {unit} ({tally.counts()}{speed})"]
        if after.standing == "stopped early":
            return [f"{name}: stopped early after epoch {at}{val_mae}"]
        if after.standing == "failed":
            return [f"{name}: failed: {after.reason}"]
        if after.standing == "interrupted":
            return [f"{name}: {after.reason or f'interrupted after epoch {at}'}"]
        return [f"{name}: resumed after epoch {after.epoch}" if after.epoch else f"{name}: started{_patience(tally)}"]
    if after.standing == "running" and tenths[0] != tenths[1]:
        return [f"{name}: epoch {at}{val_mae}{speed}"]
    return []


def live_view(summary: Summary, console: Console) -> RenderableType:
    """Return counts, the running trials and the best error of each row, as many as a terminal of any size shows."""
    driver, narrow = summary.driver, console.width < _NARROW
    cost = f", cost {driver.cost:.2f}" if driver.cost_per_hour else ""
    tally = summary.tally
    speed = f"; {tally.speed()}" if tally.rate() else ""
    waiting = f"; waiting for {driver.waiting}" if driver.waiting else ""
    heading = Text(f"{len(summary.trials)} trials: {summary.counts()}{speed}{waiting}{cost}{_patience(tally)}")
    running, best = summary.of("running"), summary.best()
    lines = console.height - len(heading.wrap(console, console.width)) - 7  # headings, blanks, two times "and more"
    shown_best = max(_FEWEST_ROWS, min(len(best), lines // 2))
    shown = max(_FEWEST_ROWS, lines - min(len(best), shown_best))
    table = _table(("running", "epoch", "val MAE", *(() if narrow else ("s/epoch",))))
    for trial in running[:shown]:
        name = _fitted(trial.name, console.width - (20 if narrow else 30))
        if trial.val_mae is None or trial.seconds_per_epoch is None:
            table.add_row(name, "starting")
        else:
            cells = f"{trial.epoch}/{trial.epochs}", f"{trial.val_mae:.4f}", f"{trial.seconds_per_epoch:.2f}"
            table.add_row(name, *cells[: 2 if narrow else 3])
    best_table = _table(("best so far", "val MAE", "test MAE"))
    for trial in best[:shown_best]:
        unit = "" if narrow else f" {trial.unit}"
        label = _fitted(f"{trial.task}, {trial.row}", console.width - (20 if narrow else 20 + len(unit)))
        best_table.add_row(label, f"{trial.val_mae:.4f}{unit}", _error(trial.test_mae))
    lower: list[Text | Table] = [Text(), best_table, *_more(best[shown_best:])] if best else []
    return Group(heading, Text(), table, *_more(running[shown:]), *lower)


def _fitted(name: str, width: int) -> str:
    """Return a name's end, which tells it from others, where there is no room for all of it."""
    return name if len(name) <= width else f"…{name[1 - width :]}"


def _more(left_out: Sequence[TrialStatus]) -> list[Text]:
    return [Text(f"and {len(left_out)} more")] if left_out else []


def closing_view(summary: Summary) -> RenderableType:
    """Return each row's test error over its finished trials, what failed, and the counts.

    The baseline is the error of predicting the training mean.
    """
    tasks: defaultdict[tuple[str, str], defaultdict[str, list[TrialStatus]]] = defaultdict(lambda: defaultdict(list))
    for trial in summary.of("done"):
        tasks[trial.task, trial.unit][trial.row].append(trial)
    tables = [_errors_of(f"{task}: test MAE ({unit})", rows) for (task, unit), rows in sorted(tasks.items())]
    failed = [Text(f"{trial.name}: failed: {trial.reason}") for trial in summary.of("failed")]
    return Group(*tables, *failed, Text(f"{len(summary.trials)} trials: {summary.counts()}"))


def _errors_of(title: str, rows: Mapping[str, list[TrialStatus]]) -> Table:
    table = _table(("frame", "mean ± std", "trials", "baseline / MAE"), title=title)
    for row, trials in rows.items():
        error = Spread.of(trial.test_mae or 0.0 for trial in trials)
        baseline = Spread.of(trial.baseline_mae or 0.0 for trial in trials).mean
        ratio = baseline / error.mean if error.mean else float("inf")
        table.add_row(row, str(error), str(len(trials)), f"{ratio:.2f}")
    return table


def _table(headings: tuple[str, ...], title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=bool(number))
    return table


def _error(mae: float | None) -> str:
    return "" if mae is None else f"{mae:.4f}"
