"""How far a long job has come: a bar on a terminal, otherwise a line now and then, both on stderr."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

EVERY = 10.0
"""Seconds between lines where stderr is no terminal."""

Update = Callable[[int], None]
"""Takes how much is done."""
Watch = Callable[[str, int | None, str], AbstractContextManager[Update]]
"""Opens the report of a job, given what it does, how much there is to do (None: not known) and the unit."""


@contextlib.contextmanager
def silent(description: str, total: int | None, unit: str) -> Iterator[Update]:
    """Report nothing."""
    yield lambda done: None


@contextlib.contextmanager
def on_stderr(description: str, total: int | None, unit: str) -> Iterator[Update]:
    """Report a job on stderr; one that ends soon is not mentioned where stderr is no terminal."""
    if sys.stderr.isatty():
        with _bar(description, total, unit) as update:
            yield update
        return
    last, printed, latest = time.monotonic(), 0, 0
    of = f" of {_amount(total, unit)}" if total else ""

    def line(done: int, every: float | None = None) -> None:
        nonlocal last, printed, latest
        latest = done
        if time.monotonic() - last >= (EVERY if every is None else every):
            last, printed = time.monotonic(), done
            print(f"{description}: {_amount(done, unit)}{of} {unit}", file=sys.stderr, flush=True)

    yield line
    if printed and printed != latest:  # the last line says how much it was in the end
        line(latest, 0.0)


@contextlib.contextmanager
def _bar(description: str, total: int | None, unit: str) -> Iterator[Update]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        job = progress.add_task(description, total=total, amount="")

        def update(done: int) -> None:
            of = f" of {_amount(total, unit)}" if total else ""
            progress.update(job, completed=done, amount=f"{_amount(done, unit)}{of} {unit}")

        yield update


def _amount(number: int, unit: str) -> str:
    return f"{number / 1e6:,.1f}" if unit == "MB" else f"{number:,}"
