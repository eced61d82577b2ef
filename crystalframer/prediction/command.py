"""The command `crystalframer predict`, once the command line is read."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from crystalframer.config import Ties
from crystalframer.data.structures.reading import Reading, by_kind
from crystalframer.environment import cores
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import ELEMENTS
from crystalframer.prediction.calibration import COVERAGE
from crystalframer.prediction.intervals import check_coverage
from crystalframer.prediction.loading import load_predictor
from crystalframer.prediction.predictions import Predictions, require_suffix
from crystalframer.prediction.predictor import UNLIKE, Predictor
from crystalframer.prediction.structures import expand, from_files
from crystalframer.training.devices import check_device

FILES_PER_PROCESS = 4000
"""Fewer files are read sooner by one process: starting others takes seconds."""


@dataclass
class _Watched:
    """Passes structures on, and remembers how long reading took and what was read."""

    seconds: float = 0.0
    elements: set[int] = field(default_factory=set)

    def of(self, structures: Iterator[Reading], advance: Callable[[], None]) -> Iterator[Reading]:
        while True:
            started = time.perf_counter()
            entry = next(structures, None)
            self.seconds += time.perf_counter() - started
            if entry is None:
                return
            if entry.crystal is not None:
                self.elements |= entry.crystal.elements
            advance()
            yield entry


def predict_files(
    models: Sequence[Path],
    paths: Sequence[Path],
    *,
    output: Path | None = None,
    processes: int | None = None,
    device: str = "cpu",
    coverage: float = COVERAGE,
    ties: Ties | None = None,
) -> int:
    """Predict the structures of files and folders; return the exit code: 0 if any was predicted, else 2.

    The table goes to `output`, or as CSV to stdout; the summary and warnings go to stderr.

    Raises:
        UserError: a model cannot be read, the folders hold no structure files, or the output cannot be written.
    """
    if output is not None:
        require_suffix(output)
    check_device(device)
    check_coverage(coverage)
    predictor = load_predictor(*models, device=device, coverage=coverage, ties=ties)
    if not any(path.exists() for path in paths):
        raise UserError(f"{', '.join(map(str, paths))}: no such file or folder, expected structures to predict")
    files = expand(paths)
    if all(path.is_dir() for path in files):
        raise UserError(
            f"found no structure files in {', '.join(map(str, paths))}; expected CIF, POSCAR, extended XYZ, an ASE "
            "database or pymatgen JSON"
        )
    started = time.perf_counter()
    reading = _Watched()
    with _progress(len(files)) as advance:
        structures = from_files(files, _processes(processes, len(files)))
        predictions = predictor.predict_named(reading.of(structures, advance))
    seconds = time.perf_counter() - started
    if output is None:
        predictions.write_csv(sys.stdout)
    else:
        predictions.write(output)
    _report(predictor, predictions, reading, seconds)
    return 0 if predictions.num_predicted else 2


def _processes(asked: int | None, num_files: int) -> int:
    """Return how many processes read the files: as asked, else as many cores as there is work for."""
    if asked is not None:
        if asked < 1:
            raise UserError(f"--processes: got {asked}, expected at least 1")
        return asked
    return max(1, min(cores(), num_files // FILES_PER_PROCESS))


def _report(predictor: Predictor, predictions: Predictions, reading: _Watched, seconds: float) -> None:
    """Say on stderr what came out, how fast, and what to be wary of."""
    total, good = len(predictions.ids), predictions.num_predicted
    model = seconds - reading.seconds
    failed = [(i, e) for i, e in zip(predictions.ids, predictions.errors, strict=True) if e]
    _say(
        f"predicted {good:,} of {total:,} structures in {seconds:.1f} s ({good / seconds:,.0f} per second; "
        f"reading {reading.seconds:.1f} s, model {model:.1f} s)"
    )
    if failed:
        label, reason = failed[0]
        _say(f"{len(failed):,} could not be predicted (column error), the first: {label}: {reason}")
    doubts = (
        (label, doubt.removeprefix(UNLIKE))
        for label, text in zip(predictions.ids, predictions.warnings, strict=True)
        for doubt in text.split("; ")
        if text
    )
    for line in by_kind(doubts):
        _say(f"doubtful (column warnings): {line}")
    if warning := _guesses(predictor, reading.elements):
        _say(f"warning: {warning}")


def _guesses(predictor: Predictor, elements: set[int]) -> str:
    """Return a warning of those atomic numbers that the model did not meet in training, else an empty string."""
    if predictor.trained_elements is None:
        return ""
    strange = sorted(elements - predictor.trained_elements)
    names = ", ".join(ELEMENTS[number - 1] for number in strange if number <= predictor.num_elements)
    return names and f"the training set had no crystal with {names}: predictions of crystals with it are guesses"


def _say(text: str) -> None:
    printable = text.encode("utf-8", "backslashreplace").decode("utf-8")
    print(" ".join(printable.split()), file=sys.stderr)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Yield what advances a bar on a terminal, and does nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("structures", total=total)
        yield lambda: bar.advance(task)
