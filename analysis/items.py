"""What a script of the analysis offers `make_all.py`: one item of the page, or what is missing for it."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from analysis.artifacts import CHECKPOINT
from analysis.comparison import Comparison, Row, compare
from analysis.documents import Document, to_markdown, write
from analysis.exported import read
from analysis.results import FinishedTrial, MissingError, Results, parse_arguments, read_results, shown
from crystalframer.atomic_files import replace_text, replacing
from crystalframer.command_line import reports_user_errors
from crystalframer.config import FRAMES, FrameName
from crystalframer.errors import UserError
from crystalframer.pictures.palette import STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from crystalframer.data.dataset import CrystalDataset
    from crystalframer.training.trained_model import TrainedModel

Group = Literal["answer", "how sure", "why", "details", "published"]
"""Parts of the page, in its order."""

FULL_HEIGHT = "<style>html, body, body > div { height: 100%; margin: 0; }</style>"
MOST_DRAWN = 100
"""Rows of one figure; more are no picture, and take hours."""


@dataclass
class Product:
    """What an item shows."""

    pictures: list[Path] = field(default_factory=list)
    """PNG files; a PDF of the same name lies beside each."""
    pages: list[Path] = field(default_factory=list)
    """HTML files of figures that turn."""
    document: Document | None = None
    """Tables."""
    tables: list[Path] = field(default_factory=list)
    """The tables' files."""
    text: str = ""
    """What these results say, in a sentence or two."""
    missing: list[MissingError] = field(default_factory=list)
    """Parts that are not there."""


class Context:
    """The results that items are made of, and where they go.

    Args:
        found: results of the sweep, None where there are none.
        sweep: its name.
        folder: where to write.
        nothing: why there are no results.
    """

    def __init__(self, found: Results | None, sweep: str, folder: Path, nothing: MissingError | None = None) -> None:
        self.found = found
        self.sweep = sweep
        self.folder = folder
        self._nothing = nothing

    @property
    def results(self) -> Results:
        """The sweep's results.

        Raises:
            MissingError: there are none.
        """
        if self.found is None:
            raise self.no_runs()
        return self.found

    @property
    def command(self) -> str:
        """What runs the sweep."""
        return f"crystalframer sweep {self.sweep}"

    def no_runs(self, what: str = "no finished trial") -> MissingError:
        """Return what to say where trials of the sweep are missing."""
        return self._nothing or MissingError(f"{self.sweep}: {what}", self.command)

    def ablation(self) -> Results:
        """Return the sweep's results.

        Raises:
            MissingError: there are none, or it is a search.
        """
        if self.results.search is not None:
            raise MissingError(f"{self.sweep} is a search, not an ablation", "crystalframer sweep")
        return self.results

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """The sweep's data sets and tasks."""
        return compare(self.found) if self.found else []

    @property
    def main(self) -> Comparison:
        """The data set and task whose models are looked at: the one with the most finished trials.

        Raises:
            MissingError: there are no results.
        """
        return max(compare(self.results), key=lambda comparison: len(comparison.trials))

    def rows(self) -> list[Row]:
        """Return the main comparison's first finished row of each frame."""
        found: dict[FrameName, Row] = {}
        for row in self.main.finished if self.found else ():
            found.setdefault(row.frame, row)
        return list(found.values())

    def trials(self, frame: FrameName) -> list[FinishedTrial]:
        """Return the trials of a frame's first finished row, by seed."""
        found = [trial for row in self.rows() if row.frame == frame for trial in row.trials]
        return sorted(found, key=lambda trial: trial.config.train.seed)

    def trial(self, frame: FrameName) -> FinishedTrial | None:
        """Return the trial whose model stands for a frame: the one of the lowest seed that has a checkpoint."""
        return next((trial for trial in self.trials(frame) if trial.files.find(CHECKPOINT) is not None), None)

    def model(self, frame: FrameName) -> "TrainedModel | None":
        """Return the model that stands for a frame, None where there is none."""
        trial = self.trial(frame)
        path = trial.files.find(CHECKPOINT) if trial else None
        return None if path is None else load(path)

    def models(
        self, frames: Sequence[FrameName] = FRAMES, what: str = "no checkpoint"
    ) -> dict[FrameName, "TrainedModel"]:
        """Return the models of the frames that have one.

        Raises:
            MissingError: none has one; `what` is what is said then.
        """
        found = {frame: trained for frame in frames if (trained := self.model(frame)) is not None}
        if not found:
            raise self.no_runs(what)
        return found

    def dataset(self) -> "CrystalDataset":
        """Return the main comparison's crystals.

        Raises:
            MissingError: there are no results, or the data set is not prepared here.
        """
        from crystalframer.data.registry import load_dataset

        name = self.main.dataset
        try:
            return load_dataset(name)
        except UserError as error:
            command = f"crystalframer prepare {name}"
            raise MissingError(str(error), command) from error

    def table(self, document: Document, name: str) -> Product:
        """Write a table's files and return it as a product."""
        return Product(document=document, tables=write(document, self.folder, name))

    @contextlib.contextmanager
    def style(self) -> Iterator[None]:
        """Draw in the figures' common style."""
        from matplotlib import style

        with style.context(dict(STYLE)):
            yield

    def draw_each(
        self,
        draw: "Callable[[Comparison], Figure]",
        name: str,
        of: Sequence[Comparison] | None = None,
        *,
        most: int | None = MOST_DRAWN,
    ) -> Product:
        """Draw and save a figure for every data set and task of the sweep, or for some.

        Args:
            draw: returns it.
            name: what its file's name begins with.
            of: those to draw.
            most: rows of one figure, the ones with the lowest test error, which is said; None for all.

        Raises:
            MissingError: there are no results.
        """
        product = Product()
        for comparison in compare(self.results) if of is None else of:
            drawn = comparison if most is None else comparison.of_lowest(most)
            with self.style():
                product.pictures.append(self.save(draw(drawn), f"{name}_{comparison.file_name}"))
            if drawn is not comparison:
                rows = f"{len(drawn.rows)} of {len(comparison.finished):,} rows"
                product.text += f"{comparison.title}: the {rows} with the lowest test errors are drawn.\n"
        return product

    def save(self, figure: "Figure", name: str) -> Path:
        """Write a figure as PDF and PNG, the same bytes each time; return the PNG's path."""
        self._save(figure, name, "pdf", {"CreationDate": None})
        return self.save_picture(figure, name)

    def save_picture(self, figure: "Figure", name: str) -> Path:
        """Write a figure as PNG; return its path."""
        return self._save(figure, name, "png", {})

    def _save(self, figure: "Figure", name: str, suffix: str, metadata: Mapping[str, None]) -> Path:
        path = self.folder / f"{name}.{suffix}"
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            figure.savefig(temporary, format=suffix, metadata=metadata, dpi=200)
        return path

    def save_page(self, figure: Any, name: str) -> Path:
        """Write a plotly figure as a page that needs ``plotly.min.js`` beside it, and no network."""
        from plotly.offline import get_plotlyjs

        self.folder.mkdir(parents=True, exist_ok=True)
        library, content = self.folder / "plotly.min.js", get_plotlyjs()
        if not library.exists() or library.read_bytes() != content.encode():
            replace_text(library, content)
        settings = {"displaylogo": False, "responsive": True}
        text: str = figure.to_html(include_plotlyjs="directory", div_id=name, config=settings)
        head = f"<head><title>{name}</title>{FULL_HEIGHT}"
        replace_text(self.folder / f"{name}.html", text.replace("<head>", head, 1))
        return self.folder / f"{name}.html"


@lru_cache(maxsize=32)
def load(path: Path) -> "TrainedModel":
    """Read a checkpoint or snapshot, once per process."""
    from crystalframer.training.trained_model import load_model

    return load_model(path)


@dataclass(frozen=True)
class Item:
    """One section of the page, and the script that makes it."""

    name: str
    title: str
    text: str
    """What it shows."""
    group: Group
    produce: Callable[[Context], Product]
    """Raises `MissingError` where nothing can be made."""
    sweep: str = "ablation_sample"
    """What the script is about where none is named."""

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Be the script: make the item, say what was written; return the exit code."""
        return reports_user_errors(self._main)(argv)

    def _main(self, argv: Sequence[str] | None) -> int:
        self.run(argv)
        return 0

    def run(self, argv: Sequence[str] | None) -> Product:
        """Make the item as the command line says, say what was written, and return it.

        Raises:
            UserError: there are no results to make it of, or they are damaged.
        """
        described = sys.modules[self.produce.__module__].__doc__
        return self.made_of(context_of(parse_arguments(described, argv, sweep=self.sweep)))

    def made_of(self, context: Context) -> Product:
        """Make the item, say what was written, and return it; see `run`."""
        product = self.produce(context)
        if product.document:
            print(to_markdown(product.document))
        for missing in product.missing:
            print(f"missing: {missing.reason}: `{missing.command}`")
        if product.text:
            print(product.text)
        for path in [*product.tables, *product.pictures, *product.pages]:
            print(f"written: {shown(path)}")
        return product


def context_of(arguments: argparse.Namespace) -> Context:
    """Read the results that the arguments name; without any, items that need none can still be made."""
    if arguments.results is not None:
        recorded = read(arguments.results).results()
        return Context(recorded, recorded.sweep, arguments.output / recorded.sweep)
    results, nothing = None, None
    try:
        results = read_results(arguments)
    except MissingError as error:
        nothing = error
    return Context(results, arguments.sweep, arguments.output / arguments.sweep, nothing)
