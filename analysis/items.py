"""What a script of the analysis offers `make_all.py`: one item of the page, or what is missing for it."""

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.artifacts import CHECKPOINT
from analysis.comparison import Comparison, Row, compare
from analysis.documents import Document, to_html, to_markdown, write
from analysis.palette import STYLE
from analysis.results import FinishedTrial, Results, parse_arguments, read_results, shown
from crystalframer.config import FrameName
from crystalframer.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from crystalframer.data.dataset import CrystalDataset
    from crystalframer.training.trained_model import TrainedModel


@dataclass(frozen=True)
class Missing:
    """Why an item, or a part of it, is not there, and what would bring it."""

    reason: str
    command: str


@dataclass
class Product:
    """What an item shows."""

    pictures: list[Path] = field(default_factory=list)
    """PNG files; a PDF of the same name lies beside each."""
    pages: list[Path] = field(default_factory=list)
    """HTML files of figures that turn."""
    fragment: str = ""
    """HTML of a table."""
    tables: list[Path] = field(default_factory=list)
    """The table's files."""
    text: str = ""
    """What these results say, in a sentence or two."""
    missing: list[Missing] = field(default_factory=list)
    """Parts that are not there."""


class Context:
    """The results that items are made of, and where they go."""

    def __init__(self, results: Results | None, sweep: str, folder: Path, *, quiet: bool = False) -> None:
        self.results = results
        self.sweep = sweep
        self.folder = folder
        self.quiet = quiet

    @property
    def command(self) -> str:
        """What runs the sweep."""
        return f"python pipelines/ablate_frames.py sweeps/{self.sweep}.yaml"

    def no_runs(self, what: str = "no finished trial") -> Missing:
        """Return what to say where trials of the sweep are missing."""
        return Missing(f"{self.sweep}: {what}", self.command)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """The sweep's data sets and tasks."""
        return compare(self.results) if self.results else []

    @property
    def main(self) -> Comparison | None:
        """The data set and task whose models are looked at: the one with the most finished trials."""
        return max(self.comparisons, key=lambda comparison: len(comparison.trials), default=None)

    def rows(self) -> list[Row]:
        """Return the main comparison's first finished row of each frame."""
        found: dict[FrameName, Row] = {}
        for row in self.main.rows if self.main else ():
            if row.trials:
                found.setdefault(row.frame, row)
        return list(found.values())

    def trial(self, frame: FrameName) -> FinishedTrial | None:
        """Return the trial whose model stands for a frame: the one of the lowest seed that has a checkpoint."""
        trials = [trial for row in self.rows() if row.frame == frame for trial in row.trials]
        for trial in sorted(trials, key=lambda trial: trial.config.train.seed):
            if trial.files.find(CHECKPOINT) is not None:
                return trial
        return None

    def model(self, frame: FrameName) -> "TrainedModel | None":
        """Return the model that stands for a frame, None where there is none."""
        trial = self.trial(frame)
        path = trial.files.find(CHECKPOINT) if trial else None
        return None if path is None else load(path)

    def dataset(self) -> "CrystalDataset | Missing":
        """Return the main comparison's crystals."""
        from crystalframer.data.registry import load_dataset

        if self.main is None:
            return self.no_runs()
        try:
            return load_dataset(self.main.dataset)
        except UserError as error:
            return Missing(str(error), f"python pipelines/prepare_data.py {self.main.dataset}")

    def table(self, document: Document, name: str, text: str = "") -> Product:
        """Write a table's files and return it as a product."""
        paths = write(document, self.folder, name)
        return Product(fragment=to_html(document), tables=paths, text=text)

    @contextlib.contextmanager
    def style(self) -> Iterator[None]:
        """Draw in the figures' common style."""
        from matplotlib import style

        with style.context(STYLE):
            yield

    def save(self, figure: "Figure", name: str, dpi: int = 200) -> Path:
        """Write a figure as PDF and PNG, the same bytes each time; return the PNG's path."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = self.folder / name
        figure.savefig(stem.with_suffix(".pdf"), metadata={"CreationDate": None})
        figure.savefig(stem.with_suffix(".png"), dpi=dpi)
        return stem.with_suffix(".png")

    def save_page(self, figure: Any, name: str) -> Path:
        """Write a plotly figure as a page that needs ``plotly.min.js`` beside it, and no network."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.html"
        figure.write_html(
            path,
            include_plotlyjs="directory",
            div_id=name,
            default_height="90vh",
            config={"displaylogo": False, "responsive": True},
        )
        return path


@lru_cache(maxsize=32)
def load(path: Path) -> "TrainedModel":
    """Read a checkpoint or snapshot, once per process."""
    from crystalframer.training.trained_model import load_model

    return load_model(path)


Producer = Callable[[Context], Product | Missing]


def run(produce: Producer, description: str | None, argv: Sequence[str] | None) -> int:
    """Be the program of one item: make it, say what was written; return the exit code.

    Raises:
        UserError: what it needs is missing.
    """
    context = context_of(parse_arguments(description, argv))
    product = produce(context)
    if isinstance(product, Missing):
        raise UserError(f"{product.reason}: run `{product.command}` first")
    for missing in product.missing:
        print(f"missing: {missing.reason}: `{missing.command}`")
    if product.text:
        print(product.text)
    for path in [*product.tables, *product.pictures, *product.pages]:
        print(f"written: {shown(path)}")
    return 0


def run_table(
    build: Callable[[Results], Document], name: str, description: str | None, argv: Sequence[str] | None
) -> int:
    """Be the program of one table: write its files and print the Markdown; return the exit code."""
    arguments = parse_arguments(description, argv)
    results = read_results(arguments)
    publish(build(results), arguments.output / results.sweep, name)
    return 0


def publish(document: Document, folder: Path, name: str) -> None:
    """Write a table's files, print the Markdown, and say what was written."""
    write(document, folder, name)
    print(to_markdown(document))
    print(f"written: {shown(folder)}/{name}.{{md,tex,html,csv}}")


def context_of(arguments: argparse.Namespace) -> Context:
    """Read the results that the arguments name; without any, items that need none can still be made."""
    try:
        results: Results | None = read_results(arguments)
    except UserError as error:
        if "no finished trials" not in str(error):
            raise
        results = None
    return Context(results, arguments.sweep, arguments.output / arguments.sweep)


@dataclass(frozen=True)
class Item:
    """One section of the page."""

    name: str
    title: str
    text: str
    """What it shows."""
    produce: Producer


@dataclass(frozen=True)
class Section:
    """An item and what became of it."""

    item: Item
    product: Product | None
    missing: tuple[Missing, ...]
    seconds: float
