"""What a user sees while a sweep runs: a live table on a terminal, one line per event elsewhere."""

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from crystalframer.runs.trial import Trial, TrialProgress

RowState = Literal["waiting", "running", "failed", "stopped early", "done"]
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
    """Why it failed."""


@dataclass
class Board:
    """Where all the trials of a sweep stand."""

    rows: dict[str, Row]
    first_epoch_at: float | None = None
    """When the first epoch of this session was reported, by the monotonic clock."""
    epochs_run: int = 0
    """Epochs reported since then."""
    cost: str = ""
    """What the sweep has cost so far, for display; "" where nobody asked."""

    @classmethod
    def of(cls, trials: Iterable[Trial], units: Mapping[str, str]) -> "Board":
        """Put every trial of a sweep on the board, with its target's unit by trial name."""
        board = cls({})
        for trial in trials:
            board.add(trial, units[trial.name])
        return board

    def add(self, trial: Trial, unit: str) -> None:
        """Put one more trial on the board."""
        data, frame = trial.config.data, trial.config.model.frame
        self.rows[trial.name] = Row(f"{data.dataset} {data.task}", frame, unit, trial.config.train.epochs)

    def progress(self, name: str, progress: TrialProgress) -> None:
        """Note an epoch or a result."""
        row = self.rows[name]
        if self.first_epoch_at is None:
            self.first_epoch_at = time.monotonic()
        else:
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

    def stopped_early(self, name: str, epoch: int, val_mae: float) -> None:
        """Note a trial that ends before its last epoch."""
        row = self.rows[name]
        row.state, row.epoch, row.val_mae = "stopped early", epoch, val_mae

    def rate(self) -> float | None:
        """Return the epochs per second of all trials together, None while that is unknown."""
        if self.first_epoch_at is None or self.epochs_run < 2:
            return None
        return self.epochs_run / (time.monotonic() - self.first_epoch_at)

    def seconds_left(self) -> float | None:
        """Estimate the time until all trials are done, from the rate so far."""
        rate = self.rate()
        left = sum(row.epochs - row.epoch for row in self.rows.values() if row.state in ("waiting", "running"))
        return left / rate if rate else None

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
        states: tuple[RowState, ...] = ("done", "stopped early", "running", "waiting", "failed")
        return ", ".join(f"{counted[state]} {state}" for state in states if counted[state])


class Screen:
    """Keeps the board, and says what a user should know at once; a context manager for the time the trials run."""

    def __init__(self, console: Console, board: Board) -> None:
        """Write to `console`."""
        self.board = board
        self._console = console

    def __enter__(self) -> "Screen":
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""

    def started(self, name: str) -> None:
        """Note that a worker took up a trial."""
        self.board.rows[name].state = "running"

    def progressed(self, name: str, progress: TrialProgress) -> None:
        """Note that a trial finished an epoch, or itself."""
        self.board.progress(name, progress)

    def stopped_early(self, name: str, progress: TrialProgress) -> None:
        """Note that a trial ends before its last epoch, as was decided."""
        row = self.board.rows[name]
        self.board.stopped_early(name, progress.epoch, progress.val_mae)
        error = f"val MAE {_error(row.val_mae)} {row.unit}"
        self._say(f"{name}: stopped early after epoch {row.epoch}/{row.epochs}, {error}")

    def retried(self, name: str, reason: str) -> None:
        """Note that a trial failed and will be started again; the reason says how."""
        self.board.rows[name].state = "waiting"
        self._say(f"{name}: {reason}")

    def failed(self, name: str, reason: str) -> None:
        """Note that a trial failed for good."""
        self.board.rows[name].state, self.board.rows[name].reason = "failed", reason
        self._say(f"{name}: failed: {reason}")

    def stopping(self, reason: str) -> None:
        """Note that the sweep ends before its trials do."""
        once_more = "" if reason else " (once more to stop at once)"
        self._say(f"stopping{f', {reason}' if reason else ''}: running trials save a checkpoint{once_more}")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def screen_for(console: Console, board: Board) -> Screen:
    """Return the live table on a terminal, lines elsewhere."""
    return LiveScreen(console, board) if console.is_terminal else LineScreen(console, board)


class LineScreen(Screen):
    """One line per event: start, every tenth of the epochs, end."""

    def started(self, name: str) -> None:
        """See `Screen.started`."""
        super().started(name)
        after = self.board.rows[name].epoch
        self._say(f"{name}: started" if not after else f"{name}: goes on after epoch {after}")

    def progressed(self, name: str, progress: TrialProgress) -> None:
        """See `Screen.progressed`."""
        row = self.board.rows[name]
        before = row.epoch
        super().progressed(name, progress)
        if progress.result is not None:
            error = f"test MAE {_error(row.test_mae)} {row.unit}"
            self._say(f"{name}: done, {error} ({self.board.counts()}{_left(self.board)})")
        elif before * LINES_PER_TRIAL // row.epochs != row.epoch * LINES_PER_TRIAL // row.epochs:
            error = f"val MAE {_error(row.val_mae)} {row.unit}"
            self._say(f"{name}: epoch {row.epoch}/{row.epochs}, {error}{_left(self.board)}")


class LiveScreen(Screen):
    """A table of the running trials and the best error of each frame, renewed twice a second."""

    def __init__(self, console: Console, board: Board) -> None:
        """Draw on `console`, a terminal."""
        super().__init__(console, board)
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

    def _render(self) -> Group:
        running = Table(box=None, pad_edge=False, header_style="bold")
        running.add_column("running")
        for heading in ("epoch", "val MAE", "s/epoch"):
            running.add_column(heading, justify="right")
        for name, row in self.board.rows.items():
            if row.state == "running":
                if row.val_mae is None or row.seconds is None:
                    running.add_row(name, "starting")
                else:
                    error = f"{row.val_mae:.4f} {row.unit}"
                    running.add_row(name, f"{row.epoch}/{row.epochs}", error, f"{row.seconds:.2f}")
        best = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("best so far", "frame"):
            best.add_column(heading)
        for heading in ("val MAE", "test MAE"):
            best.add_column(heading, justify="right")
        for (task, frame), row in sorted(self.board.best_by_frame().items()):
            best.add_row(task, frame, f"{row.val_mae:.4f} {row.unit}", _error(row.test_mae))
        rate = self.board.rate()
        speed = "" if rate is None else f" · {rate:.2f} epochs/s"
        cost = f", cost {self.board.cost}" if self.board.cost else ""
        heading = f"{len(self.board.rows)} trials: {self.board.counts()}{speed}{_left(self.board)}{cost}\n"
        return Group(Text(heading), running, Text(), best)


def summary(board: Board) -> Group:
    """Return the closing tables: each frame's test error over its finished trials, what failed and what is left.

    The baseline is the error of predicting the training mean.
    """
    tasks = sorted({(row.task, row.unit) for row in board.rows.values() if row.state == "done"})
    tables = [_errors_of_task(board, task, unit) for task, unit in tasks]
    failed = [Text(f"{name}: failed: {row.reason}") for name, row in board.rows.items() if row.state == "failed"]
    done = sum(row.state == "done" for row in board.rows.values())
    early = sum(row.state == "stopped early" for row in board.rows.values())
    left = len(board.rows) - done - early - len(failed)
    fates = [
        f"{done} done",
        *([f"{early} stopped early"] if early else []),
        *([f"{len(failed)} failed"] if failed else []),
        *([f"{left} not finished"] if left else []),
    ]
    return Group(*tables, *failed, Text(f"{len(board.rows)} trials: {', '.join(fates)}"))


def _errors_of_task(board: Board, task: str, unit: str) -> Table:
    table = Table(title=f"{task}: test MAE ({unit})", title_justify="left", box=None, header_style="bold")
    table.add_column("frame")
    for heading in ("mean ± std", "trials", "baseline / MAE"):
        table.add_column(heading, justify="right")
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for row in board.rows.values():
        if row.state == "done" and row.task == task:
            groups[row.frame].append(row)
    for frame, rows in groups.items():
        errors = [row.test_mae or 0.0 for row in rows]
        baselines = [row.baseline_mae or 0.0 for row in rows]
        spread = f" ± {statistics.stdev(errors):.4f}" if len(errors) > 1 else ""
        ratio = f"{statistics.fmean(baselines) / statistics.fmean(errors):.2f}"
        table.add_row(frame, f"{statistics.fmean(errors):.4f}{spread}", str(len(rows)), ratio)
    return table


def duration(seconds: float) -> str:
    """Return a duration as a person would say it: 45 s, 12 min, 3 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _error(mae: float | None) -> str:
    return "" if mae is None else f"{mae:.4f}"


def _left(board: Board) -> str:
    seconds = board.seconds_left()
    return "" if seconds is None else f", about {duration(seconds)} left"
