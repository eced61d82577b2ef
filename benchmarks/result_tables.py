"""The benchmark's numbers as tables on the screen."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.rows import Case, Row
from benchmarks.stages import STAGES
from benchmarks.timing import Spread

LEAST_WIDTH = 150
"""Columns of text, also where the terminal is narrower: better broken lines than cut numbers."""

Cells = dict[str, Row]
"""A case's rows by quantity."""


def show(rows: Sequence[Row]) -> None:
    """Print what was measured: speed, stages, memory."""
    console = Console()
    console = Console(width=max(console.width, LEAST_WIDTH))
    found: dict[Case, Cells] = {}
    for row in [row for row in rows if row.quantity != "parity"]:
        found.setdefault(row.case, {})[row.quantity] = row
    measured = {case: cells for case, cells in found.items() if "step" in cells}
    if not measured:
        return
    shared = {case: {**found.get(replace(case, kernel=""), {}), **cells} for case, cells in measured.items()}
    console.print(_speed_table(measured))
    console.print(_stage_table(shared))
    if any("memory_peak" in cells for cells in measured.values()):
        console.print(_memory_table(measured))


def _speed_table(found: dict[Case, Cells]) -> Table:
    def cells(case: Case, rows: Cells) -> list[str]:
        forward, step = rows["forward"], rows["step"]
        per_atom = 1e3 * step.spread.median / case.atoms_per_crystal
        return [
            _with_range(forward.spread),
            _number(forward.ratio_to_reference),
            _with_range(step.spread),
            _number(step.ratio_to_reference),
            _number(step.spread.cpu),
            _number(per_atom),
        ]

    headings = ("forward\nms", "×\nref.", "training step\nms", "×\nref.", "step cpu\nms", "step\nµs/atom")
    return _table(
        "Time per crystal: median (min–max); × the reference in the same rounds",
        "cpu: processor time of all threads",
        headings,
        found,
        cells,
    )


def _stage_table(found: dict[Case, Cells]) -> Table:
    names = [f"stage_{stage}" for stage in ("neighbours", "collate", *STAGES)]
    headings = ["neighbours†", "collate", *(stage.replace("_", "\n") for stage in STAGES), "s/epoch*"]
    return _table(
        "Stages of a training step: median ms per crystal",
        "† once per crystal, not per step    * extrapolated from one batch; no validation",
        headings,
        found,
        lambda _case, rows: [_median(rows, name) for name in (*names, "epoch")],
    )


def _memory_table(found: dict[Case, Cells]) -> Table:
    return _table(
        "Peak memory of training, MiB",
        "whole: of a process of its own (on a GPU: on the device); steps: what the batch and its steps added",
        ("whole", "steps"),
        {case: rows for case, rows in found.items() if "memory_peak" in rows},
        lambda _case, rows: [f"{rows[name].spread.median:.0f}" for name in ("memory_peak", "memory_step")],
    )


def _table(
    title: str,
    caption: str,
    headings: Sequence[str],
    found: dict[Case, Cells],
    cells: Callable[[Case, Cells], list[str]],
) -> Table:
    table = Table(title=title, caption=caption, box=box.SIMPLE, title_justify="left", caption_justify="left")
    for heading in ("kernel", "frame/preset"):
        table.add_column(heading, no_wrap=True)
    for heading in ("atoms", "threads", *headings):
        table.add_column(heading, justify="right", no_wrap=True)
    for case, rows in found.items():
        atoms = case.size if case.crystals == "random" else case.crystals
        table.add_row(case.kernel, f"{case.frame}/{case.preset}", atoms, str(case.threads), *cells(case, rows))
    return table


def _median(rows: Cells, quantity: str) -> str:
    return _number(rows[quantity].spread.median) if quantity in rows else ""


def _with_range(spread: Spread) -> str:
    return f"{_number(spread.median)} ({_number(spread.low)}–{_number(spread.high)})"


def _number(value: float | None) -> str:
    """Three significant digits, without exponents."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
