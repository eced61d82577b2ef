"""Every table and figure of a sweep, and one page that shows them all and says what is missing.

    python analysis/make_all.py                                    # the sample's ablation, from ./runs
    python analysis/make_all.py --sweep ablation_frames --runs runs

reads runs/mlflow.db, the trials' checkpoints and predictions, and benchmarks/results, and writes
analysis/output/<sweep>/: index.html (open it in a browser; it needs no network), the tables as Markdown, LaTeX, HTML
and CSV, the figures as PDF and PNG, turning ones as pages of their own. It never trains: what is not there yet is
listed with the command that would produce it.
"""

import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from analysis.items import Context, Item, Missing, Product, Section, context_of
from analysis.results import parse_arguments, shown
from crystalframer.command_line import reports_user_errors

ITEMS: tuple[Item, ...] = (
    Item(
        "ablation",
        "Frame ablation",
        "Test error of each frame, mean ± standard deviation over seeds.",
        "sections",
        "ablation",
    ),
    Item(
        "significance",
        "Which differences are real",
        "Every two frames on the same test materials: paired bootstrap and sign test over materials, corrected for the "
        "number of comparisons (Holm), and Welch's t-test over seeds.",
        "sections",
        "significance",
    ),
    Item(
        "learning_curves",
        "Learning curves",
        "Training loss and validation error against the epoch: mean and range over seeds.",
        "learning_curves",
    ),
    Item(
        "parity",
        "Parity",
        "Predicted against true value of every test material; predictions averaged over seeds.",
        "parity",
    ),
    Item(
        "errors",
        "Error by element and by cell size",
        "Mean absolute error of the test materials that contain an element, and of those of a size.",
        "error_maps",
    ),
    Item(
        "static_and_dynamic",
        "Static and dynamic frames",
        "One frame for the whole cell, or one per atom and block that follows the attention; atoms that get little "
        "attention are translucent.",
        "static_and_dynamic_frames",
    ),
    Item(
        "frames",
        "Frames in materials",
        "The chosen atom's neighbours, opaque by their attention, and its frame in every block; left: structure, PCA "
        "frame, lattice frame. e₁ orange-red, e₂ green, e₃ blue.",
        "frame_gallery",
    ),
    Item(
        "evolution",
        "How frames settle",
        "Frames at successive snapshots of the training, older ones fainter, and the mean angle by which frames "
        "turned between snapshots.",
        "frame_evolution",
    ),
    Item(
        "range",
        "How far heads look",
        "Mean distance of the attended neighbours, weighted by attention, by block and head.",
        "attention_range",
    ),
    Item(
        "invariance",
        "Invariance",
        "What describing the same crystal in another way does to a trained model's predictions. Exact: nothing.",
        "invariance",
    ),
    Item(
        "ties",
        "Ties",
        "How often symmetry leaves a frame undetermined, by crystal system.",
        "ties",
    ),
    Item("architecture", "Architecture", "Drawn from the model's own modules and shapes.", "architecture"),
    Item(
        "cells",
        "One crystal, two cells",
        "The conventional and the Niggli-reduced cell of an fcc metal.",
        "cell_choice",
    ),
    Item(
        "efficiency",
        "Speed and size",
        "Time and parameters of each frame, default and lightweight, beside the published ones.",
        "sections",
        "efficiency",
    ),
    Item(
        "speed",
        "Speed against cell size",
        "From the recorded benchmarks: time per crystal of the attention's implementations.",
        "speed",
    ),
    Item("search", "Hyperparameter search", "Best settings and how much each mattered.", "sections", "search"),
    Item("jarvis", "JARVIS: published and ours", "Test MAE on five tasks.", "sections", "jarvis"),
    Item("mp", "Materials Project: published and ours", "Test MAE on four tasks.", "sections", "mp"),
    Item("oqmd", "OQMD: published and ours", "Test MAE on three tasks, with 4 and 8 blocks.", "sections", "oqmd"),
)
"""The page, in its order."""


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Make everything and the page; return the exit code."""
    arguments = parse_arguments(__doc__, argv)
    _use_no_display()
    context = context_of(arguments)
    sections = make(context)
    page = write_page(context, sections)
    _report(sections, page)
    return 0


def make(context: Context, items: Sequence[Item] = ITEMS) -> list[Section]:
    """Make the items, showing progress."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<36}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    context.folder.mkdir(parents=True, exist_ok=True)
    sections = []
    with Progress(*columns, console=Console(), transient=True) as progress:
        bar = progress.add_task("", total=len(items))
        for item in items:
            progress.update(bar, description=item.title)
            sections.append(_make_one(context, item))
            progress.advance(bar)
    return sections


def write_page(context: Context, sections: Sequence[Section]) -> Path:
    """Write index.html and return its path."""
    from analysis.page import render

    path = context.folder / "index.html"
    path.write_text(render(context, sections), encoding="utf-8", newline="\n")
    return path


def _make_one(context: Context, item: Item) -> Section:
    started = time.perf_counter()
    produce = getattr(importlib.import_module(f"analysis.{item.module}"), item.producer)
    found: Product | Missing = produce(context)
    seconds = time.perf_counter() - started
    if isinstance(found, Missing):
        return Section(item, None, (found,), seconds)
    return Section(item, found, tuple(found.missing), seconds)


def _report(sections: Sequence[Section], page: Path) -> None:
    made = [section for section in sections if section.product is not None]
    for section in sections:
        for missing in section.missing:
            print(f"missing: {section.item.title} - {missing.reason}\n         {missing.command}")
    print(f"{len(made)} of {len(sections)} items made in {sum(section.seconds for section in sections):.0f} s")
    print(f"written: {shown(page)}")


def _use_no_display() -> None:
    """Draw into files wherever this runs."""
    import matplotlib as mpl

    mpl.use("Agg")


if __name__ == "__main__":
    sys.exit(main())
