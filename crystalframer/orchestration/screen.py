"""What a user sees while a sweep runs: a live table on a terminal, one line per event elsewhere."""

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from crystalframer.orchestration.spec import Trial
from crystalframer.orchestration.trial import TrialProgress

RowState = Literal["waiting", "running", "failed", "done"]
REFRESH_PER_SECOND = 2.0
LINES_PER_TRIAL = 10
"""How often a trial's progress is printed where there is no terminal."""


@dataclass
class Row:
    """A trial as the screen knows it."""

    task: str
    """Data set and target."""
    frame: str
    unit: str
    epochs: int
    state: RowState = "waiting"
    epoch: int = 0
    val_mae: float | None = None
    seconds: float | None = None
    """Of the latest epoch."""
    test_mae: float | None = None
    baseline_mae: float | None = None
    """Test MAE of predicting the training mean."""
    reason: str = ""
    retries: int = 0


@dataclass
class Board:
    """Where all the trials of a sweep stand."""

    rows: dict[str, Row]
    started_at: float = field(default_factory=time.monotonic)
    epochs_run: int = 0
    """Epochs trained since the program started."""

    @classmethod
    def of(cls, trials: Iterable[Trial], units: Mapping[str, str]) -> "Board":
        """Put every trial of a sweep on the board, with its target's unit by trial name."""
        rows = {}
        for trial in trials:
            data, frame = trial.config.data, trial.config.model.frame
            rows[trial.name] = Row(f"{data.dataset} {data.task}", frame, units[trial.name], trial.config.train.epochs)
        return cls(rows)

    def progress(self, name: str, progress: TrialProgress) -> None:
        """Note an epoch or a result."""
        row = self.rows[name]
        self.epochs_run += max(0, progress.epoch - row.epoch)
        row.state, row.epoch, row.val_mae, row.seconds = "running", progress.epoch, progress.val_mae, progress.seconds
        if progress.result is not None:
            self.done(name, progress.result)

    def waiting(self, name: str, epoch: int) -> None:
        """Note a trial that will go on after an epoch."""
        self.rows[name].state, self.rows[name].epoch = "waiting", epoch

    def done(self, name: str, result: Mapping[str, Any]) -> None:
        """Note a finished trial and what its `done.json` says."""
        row = self.rows[name]
        row.state, row.epoch, row.val_mae = "done", row.epochs, result["val_mae"]
        row.test_mae, row.baseline_mae = result["test_mae"], result["baseline_mae"]

    def seconds_left(self) -> float | None:
        """Estimate the time until all trials are done, from the rate of epochs so far."""
        elapsed = time.monotonic() - self.started_at
        left = sum(row.epochs - row.epoch for row in self.rows.values() if row.state in ("waiting", "running"))
        return left * elapsed / self.epochs_run if self.epochs_run else None

    def best_by_frame(self) -> dict[tuple[str, str], Row]:
        """Return the trial with the lowest validation error per task and frame."""
        best: dict[tuple[str, str], Row] = {}
        for row in self.rows.values():
            key = (row.task, row.frame)
            if row.val_mae is not None and (key not in best or row.val_mae < (best[key].val_mae or 0.0)):
                best[key] = row
        return best

    def counts(self) -> str:
        """Return how many trials are in which state."""
        counted = Counter(row.state for row in self.rows.values())
        states: tuple[RowState, ...] = ("done", "running", "waiting", "failed")
        return ", ".join(f"{counted[state]} {state}" for state in states if counted[state])


class Screen(Protocol):
    """Shows what becomes of the trials; a context manager for the time they run."""

    board: Board

    def __enter__(self) -> "Screen":
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""

    def started(self, name: str) -> None:
        """A worker took up a trial."""

    def progressed(self, name: str, progress: TrialProgress) -> None:
        """A trial finished an epoch, or itself."""

    def retried(self, name: str, reason: str) -> None:
        """A trial failed and will be started again."""

    def failed(self, name: str, reason: str) -> None:
        """A trial failed for good."""


def screen_for(console: Console, board: Board) -> Screen:
    """Return the live table on a terminal, lines elsewhere."""
    return LiveScreen(console, board) if console.is_terminal else LineScreen(console, board)


class LineScreen:
    """One line per event: start, every tenth of the epochs, end."""

    def __init__(self, console: Console, board: Board) -> None:
        """Print to `console`."""
        self._console = console
        self.board = board

    def __enter__(self) -> "LineScreen":
        """Say what lies ahead."""
        self._say(f"{len(self.board.rows)} trials: {self.board.counts()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say where the trials stand."""
        self._say(f"{len(self.board.rows)} trials: {self.board.counts()}")

    def started(self, name: str) -> None:
        """See `Screen.started`."""
        self.board.rows[name].state = "running"
        self._say(f"{name}: started")

    def progressed(self, name: str, progress: TrialProgress) -> None:
        """See `Screen.progressed`."""
        row = self.board.rows[name]
        before = row.epoch
        self.board.progress(name, progress)
        if progress.result is not None:
            self._say(f"{name}: done, test MAE {row.test_mae:.4g} {row.unit} ({self.board.counts()}{self._left()})")
        elif before * LINES_PER_TRIAL // row.epochs != row.epoch * LINES_PER_TRIAL // row.epochs:
            self._say(f"{name}: epoch {row.epoch}/{row.epochs}, val MAE {row.val_mae:.4g} {row.unit}{self._left()}")

    def retried(self, name: str, reason: str) -> None:
        """See `Screen.retried`."""
        self.board.rows[name].state = "waiting"
        self._say(f"{name}: {reason}; it will go on from its last checkpoint")

    def failed(self, name: str, reason: str) -> None:
        """See `Screen.failed`."""
        self.board.rows[name].state, self.board.rows[name].reason = "failed", reason
        self._say(f"{name}: failed: {reason}")

    def _left(self) -> str:
        seconds = self.board.seconds_left()
        return "" if seconds is None else f", about {duration(seconds)} left"

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveScreen:
    """A table of the running trials and the best error of each frame, renewed twice a second."""

    def __init__(self, console: Console, board: Board) -> None:
        """Draw on `console`, a terminal."""
        self.board = board
        self._console = console
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=REFRESH_PER_SECOND, transient=True
        )

    def __enter__(self) -> "LiveScreen":
        """Start drawing."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing; the summary follows."""
        self._live.stop()

    def started(self, name: str) -> None:
        """See `Screen.started`."""
        self.board.rows[name].state = "running"

    def progressed(self, name: str, progress: TrialProgress) -> None:
        """See `Screen.progressed`."""
        self.board.progress(name, progress)

    def retried(self, name: str, reason: str) -> None:
        """See `Screen.retried`."""
        row = self.board.rows[name]
        row.state, row.retries = "waiting", row.retries + 1
        self._console.print(f"{name}: {reason}; it will go on from its last checkpoint", markup=False, highlight=False)

    def failed(self, name: str, reason: str) -> None:
        """See `Screen.failed`."""
        self.board.rows[name].state, self.board.rows[name].reason = "failed", reason
        self._console.print(f"{name}: failed: {reason}", markup=False, highlight=False)

    def _render(self) -> Group:
        running = Table(box=None, pad_edge=False, header_style="bold")
        running.add_column("running")
        for heading in ("epoch", "val MAE", "s/epoch"):
            running.add_column(heading, justify="right")
        for name, row in self.board.rows.items():
            if row.state == "running":
                mae = f"{_error(row.val_mae)} {row.unit}" if row.val_mae is not None else ""
                speed = f"{row.seconds:.2f}" if row.seconds is not None else ""
                running.add_row(name, f"{row.epoch}/{row.epochs}", mae, speed)
        best = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("best so far", "frame"):
            best.add_column(heading)
        for heading in ("val MAE", "test MAE"):
            best.add_column(heading, justify="right")
        for (task, frame), row in sorted(self.board.best_by_frame().items()):
            best.add_row(task, frame, f"{row.val_mae:.4f} {row.unit}", _error(row.test_mae))
        seconds = self.board.seconds_left()
        elapsed = max(time.monotonic() - self.board.started_at, 1e-9)
        rate = f" · {self.board.epochs_run / elapsed:.2f} epochs/s" if self.board.epochs_run else ""
        left = "" if seconds is None else f" · about {duration(seconds)} left"
        return Group(Text(f"{len(self.board.rows)} trials: {self.board.counts()}{rate}{left}\n"), running, Text(), best)


def summary(board: Board) -> Group:
    """Return the closing tables: each frame's test error over its finished trials, and what failed or waits."""
    table = Table(title="Test error of the finished trials", title_justify="left", header_style="bold")
    for heading in ("task", "frame", "unit"):
        table.add_column(heading)
    for heading in ("trials", "test MAE (mean ± std)", "÷ predicting the mean"):
        table.add_column(heading, justify="right")
    groups: defaultdict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in board.rows.values():
        if row.state == "done":
            groups[row.task, row.frame, row.unit].append(row)
    for group, rows in groups.items():
        errors = [row.test_mae or 0.0 for row in rows]
        ratios = [(row.test_mae or 0.0) / row.baseline_mae for row in rows if row.baseline_mae]
        spread = f" ± {statistics.stdev(errors):.4f}" if len(errors) > 1 else ""
        ratio = f"{statistics.fmean(ratios):.3f}" if ratios else ""
        table.add_row(*group, str(len(rows)), f"{statistics.fmean(errors):.4f}{spread}", ratio)
    unfinished = [
        Text(f"{name}: {row.state} at epoch {row.epoch}/{row.epochs}{': ' if row.reason else ''}{row.reason}")
        for name, row in board.rows.items()
        if row.state != "done"
    ]
    return Group(table, *unfinished)


def duration(seconds: float) -> str:
    """Return a duration as a person would say it: 45 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _error(mae: float | None) -> str:
    return "" if mae is None else f"{mae:.4f}"
