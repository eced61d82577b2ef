"""A training on the console: a line an epoch, and how far it is within one."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from crystalframer.runs.single import Position

EVERY_SECONDS = 60.0
"""Longest silence where the output is no terminal."""


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
