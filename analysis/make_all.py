"""Every table and figure of a sweep, and one page that shows them all and says what is missing.

It reads runs/mlflow.db, the trials' checkpoints and predictions, and benchmarks/results, or recorded results alone
(--results FOLDER, as `crystalframer export` writes them), and writes
analysis/output/<sweep>/: index.html (open it in a browser; it needs no network), the tables as Markdown, LaTeX, HTML
and CSV, the figures as PDF and PNG, turning ones as pages of their own. It never trains: what is not there yet is
listed with the command that would produce it. The exit code is 1 where an item could not be made of what is there.
"""

import argparse
import importlib
import time
from collections.abc import Sequence
from pathlib import Path

from analysis import results
from analysis.exported import check
from analysis.items import Context, Item, context_of
from analysis.page import Section, render
from analysis.results import MissingError, shown
from crystalframer.atomic_files import replace_text
from crystalframer.cli import program
from crystalframer.errors import UserError

ORDER = (
    "tables.ablation_table",
    "figures.frame_errors",
    "tables.significance_table",
    "tables.published_gap",
    "against_peers",
    "figures.learning_curves",
    "figures.error_against_time",
    "figures.error_against_crystals",
    "figures.parity_plot",
    "figures.static_and_dynamic_frames",
    "figures.frame_gallery",
    "figures.frame_evolution",
    "figures.attention_range",
    "figures.error_maps",
    "figures.invariance",
    "figures.continuity",
    "figures.ties",
    "tables.search_table",
    "tables.efficiency_table",
    "figures.speed",
    "figures.architecture",
    "figures.cell_choice",
    "tables.literature",
)
"""The scripts whose items make the page, in its order."""
PAGE = "index.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crystalframer figures`."""
    parser.description = __doc__
    results.add_arguments(parser)
    parser.add_argument("--check", action="store_true", help="only compare --results with hashes and predictions")


def run(arguments: argparse.Namespace) -> int:
    """Make everything and the page; return the exit code."""
    if arguments.check:
        if arguments.results is None:
            raise UserError("--check compares recorded results: give them with --results FOLDER")
        print(check(arguments.results))
        return 0
    _use_no_display()
    context = context_of(arguments)
    started = time.perf_counter()
    sections = make(context, items_of())
    _report(sections, context.folder / PAGE, time.perf_counter() - started)
    return 1 if any(section.error for section in sections) else 0


def items_of(scripts: Sequence[str] = ORDER) -> list[Item]:
    """Return the items that scripts declare."""
    modules = (importlib.import_module(f"analysis.{script}") for script in scripts)
    return [item for module in modules for item in getattr(module, "ITEMS", ()) or [module.ITEM]]


def make(context: Context, items: Sequence[Item]) -> list[Section]:
    """Make the items, showing progress; the page has those that are made already."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<36}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    context.folder.mkdir(parents=True, exist_ok=True)
    sections: list[Section] = []
    console = Console()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(items))
        for number, item in enumerate(items, start=1):
            progress.update(bar, description=item.title)
            if not console.is_terminal:
                print(f"{number} of {len(items)}: {item.title}", flush=True)
            sections.append(_make_one(context, item))
            write_page(context, sections, to_come=len(items) - number)
            progress.advance(bar)
    return sections


def write_page(context: Context, sections: Sequence[Section], to_come: int = 0) -> Path:
    """Write index.html, which says how many sections are still to come, and return its path."""
    path = context.folder / PAGE
    replace_text(path, render(context, sections, to_come))
    return path


def _make_one(context: Context, item: Item) -> Section:
    try:
        product = item.produce(context)
    except MissingError as missing:
        return Section(item, None, (missing,))
    except UserError as error:
        return Section(item, None, error=str(error))
    return Section(item, product, tuple(product.missing))


def _report(sections: Sequence[Section], page: Path, seconds: float) -> None:
    for section in sections:
        if section.error:
            print(f"failed: {section.item.title} - {section.error}")
        for missing in section.missing:
            print(f"missing: {section.item.title} - {missing.reason}\n         {missing.command}")
    made = sum(section.product is not None for section in sections)
    print(f"{made} of {len(sections)} items made in {seconds:.0f} s")
    print(f"written: {shown(page)}")


def _use_no_display() -> None:
    """Draw into files wherever this runs."""
    import matplotlib as mpl

    mpl.use("Agg")


main = program("figures")

if __name__ == "__main__":
    raise SystemExit(main())
