"""A training on the console: a line an epoch, and how far it is within one."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from crystalframer.runs.status import duration

EVERY_SECONDS = 60.0
"""Longest silence where the output is no terminal."""


@dataclass(frozen=True)
class Position:
    """How far a training is."""

    epoch: int
    """Complete epochs."""
    epochs: int
    """0 while it is not known how many fit into the time given"""
    batch: int
    """Batches done of the epoch under way."""
    batches: int
    seconds_left: float
    """NaN while that is not known."""

    @property
    def done(self) -> int:
        """Batches done of the whole training."""
        return self.epoch * self.batches + self.batch

    @property
    def total(self) -> int:
        """Batches of the whole training, at least those done."""
        return max(self.epochs * self.batches, self.done)

    def __str__(self) -> str:
        """Say it."""
        left = "" if math.isnan(self.seconds_left) else f", about {duration(self.seconds_left)} left"
        return f"epoch {self.epoch + 1}/{self.epochs or '?'}, batch {self.batch}/{self.batches}{left}"


@contextlib.contextmanager
def on_console() -> Iterator[Callable[[Any], None]]:
    """Yield what shows lines and positions: above and in a bar on a terminal, elsewhere in lines alone."""
    with _bar() if sys.stdout.isatty() else contextlib.nullcontext(_lines()) as show:
        yield show


def _lines() -> Callable[[Any], None]:
    spoke = time.monotonic()

    def show(message: Any) -> None:
        nonlocal spoke
        if not isinstance(message, Position) or time.monotonic() - spoke >= EVERY_SECONDS:
            spoke = time.monotonic()
            print(message, flush=True)

    return show


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[Any], None]]:
    from rich.progress import BarColumn, Progress, TextColumn

    with Progress(TextColumn("{task.description}", markup=False), BarColumn(), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(message: Any) -> None:
            if isinstance(message, Position):
                bar.update(task, total=message.total, completed=message.done, description=str(message))
            else:
                bar.console.print(message, markup=False, highlight=False, soft_wrap=True)

        yield show
