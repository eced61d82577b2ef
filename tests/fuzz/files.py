"""Damaged tables, spreadsheets, sweep files, checkpoints, models, run directories and stores; more in strangers.py.

A sound folder of each kind is made, one file of it is damaged, in its bytes, its words or its values, and it is read as
the programs read it: what comes is a sentence, or something that is not silently another thing where a checksum says
what it was.
"""

import functools
import hashlib
import io
import json
import pickle
import random
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import torch
import yaml

from analysis import exported
from crystalframer.data.dataset import CrystalDataset, Task
from crystalframer.data.preparation.targets import read_targets
from crystalframer.data.registry import load_task
from crystalframer.data.store import read_store, write_store
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal
from crystalframer.orchestration.sweeps.spec import load_sweep
from crystalframer.prediction.loading import read_model
from crystalframer.resolving import build_trial
from crystalframer.runs.budget import Budget, Heartbeat
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.status import read_summary, write_plan
from crystalframer.runs.tracker import Tracker
from crystalframer.runs.trial import Trial, TrialJob, run_trial
from crystalframer.training.checkpoint import read_checkpoint
from crystalframer.training.metrics import Target
from crystalframer.training.trained_model import TrainedModel, write_model
from tests.fixtures.models import SMALL, loud_model
from tests.fuzz import strangers
from tests.fuzz.limits import attempted
from tests.orchestration.conftest import GRID, PROSE, TINY
from tests.orchestration.stub_training import StubTrainer

CORPUS = Path(__file__).with_name("corpus") / "files"
"""Inputs that failed once: ``KIND-DIGEST/PATH``, the damaged file alone."""
WORDS: tuple[Any, ...] = (
    None, True, 0, -1, 3, 10**30, 1e308, float("nan"), "", "max", "x" * 5000, "../..", "=1+1", "{", [], {}, [[]],
    [0] * 1000, {"a": {"b": 1}}, "\x00", "2024", "1e999",
)  # fmt: skip
"""What a value may become."""
TRIAL = "a-trial"


@dataclass(frozen=True)
class Kind:
    """One sort of file."""

    make: Callable[[Path], object]
    """Fills a folder with sound files."""
    read: Callable[[Path], object]
    """Reads the folder; what it returns is compared where `certain`."""
    certain: bool = False
    """Whether a checksum says what was written."""


def _make_table(folder: Path) -> None:
    rows = "".join(f"c{number};{number / 7:.4f};{'yes' if number % 2 else ''}\n" for number in range(30))
    (folder / "table.csv").write_text(f"id;formation energy (eV/atom);stable\n{rows}", encoding="utf-8")


def _make_sheet(folder: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(["id", "hardness (GPa)"])
    for number in range(30):
        sheet.append([f"c{number}", number / 7])
    book.save(folder / "table.xlsx")


def _read_table(folder: Path) -> None:
    (path,) = folder.iterdir()
    read_targets(path)


def _make_sweep(folder: Path) -> None:
    content = {**PROSE, "base": TINY, "grid": GRID, "budget": {"hours": 2}, "resources": {"cpus_per_trial": 1}}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def _read_sweep(folder: Path) -> None:
    load_sweep(folder / "sweep.yaml").trials()


def _make_runs(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    flat = {f"{section}.{key}": value for section, values in TINY.items() for key, value in values.items()}
    config = build_trial({**flat, "train.epochs": 3, "train.average_epochs": 1})
    data, trial = load_task(config.data), Trial(TRIAL, config)
    write_plan(folder, [trial.planned("eV/atom")])
    heartbeat = Heartbeat(folder, Budget())
    list(run_trial(TrialJob(trial, RunDirectory(folder / TRIAL)), data, Tracker(), StubTrainer))
    heartbeat.end({}, "")


def _read_runs(folder: Path) -> object:
    """Return all that a sweep's folder says, once its page and each of its files have been read without a sentence."""
    summary = read_summary(folder)
    said = json.dumps(summary.to_dict())
    summary.counts(), summary.best(), summary.tally.speed()
    directory = RunDirectory(folder / TRIAL)
    found = [
        _or_sentence(read)
        for read in (directory.records, directory.result, directory.state, directory.identity, directory.stopped_early)
    ]
    named = [str(one) for one in found if isinstance(one, UserError)] + [trial.reason for trial in summary.trials]
    if remarks := [*summary.remarks, *filter(None, named)]:
        raise UserError("; ".join(remarks))
    if not summary.trials:
        raise UserError("a last line without its end is one that is being written")
    return said, found


def _or_sentence(call: Callable[[], object]) -> object:
    try:
        return call()
    except UserError as error:
        return error


def _make_checkpoint(folder: Path) -> None:
    _make_runs(folder / "runs")
    shutil.move(folder / "runs" / TRIAL / "checkpoint.pt", folder / "checkpoint.pt")
    shutil.rmtree(folder / "runs")


def _make_model(folder: Path) -> None:
    sizes = {**SMALL, "num_dist": 8, "num_elements": 98, "cutoff": 3.0}
    trial = build_trial({f"model.{key}": value for key, value in sizes.items()})
    network = loud_model(trial.model).eval()
    target = Target("energy", "eV", 0.0, 1.0)
    write_model(
        folder / "model.pt", TrainedModel(network, trial, (target,), 3, averaged=True, data_fingerprint="f" * 64)
    )


def _make_store(folder: Path) -> None:
    crystals = [Crystal(4.0 * np.eye(3), np.zeros((1, 3)), np.array([11]), f"Na {number}") for number in range(9)]
    task = Task("energy", "eV", np.arange(9.0), np.arange(9, dtype=np.int8) % 3)
    write_store(folder / "toy", CrystalDataset.from_crystals("toy", crystals, [task]), {})


def _read_store(folder: Path) -> object:
    dataset = read_store(folder / "toy")
    crystals = [dataset[row] for row in range(len(dataset))]
    tasks = [(name, task.unit, task.targets.tobytes(), task.split.tobytes()) for name, task in dataset.tasks.items()]
    return [(c.id, c.lattice.tobytes(), c.frac_coords.tobytes(), c.atomic_numbers.tobytes()) for c in crystals], tasks


def _json_values(content: bytes, source: random.Random) -> bytes:
    """Put another value into a file of JSON, or of a JSON a line."""
    lines = content.decode().splitlines() if content.count(b"\n{") else [content.decode()]
    place = source.randrange(len(lines))
    lines[place] = json.dumps(_changed(json.loads(lines[place]), source))
    return ("\n".join(lines) + "\n").encode()


def _archived_values(content: bytes, source: random.Random) -> bytes:
    """Damage one file within an archive or a spreadsheet, and pack all of them anew."""
    found = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(found, "w") as new:
        chosen = source.choice(old.namelist())
        for name in old.namelist():
            new.writestr(name, _damaged(old.read(name), source) if name == chosen else old.read(name))
    return found.getvalue()


def _yaml_values(content: bytes, source: random.Random) -> bytes:
    return yaml.safe_dump(_changed(yaml.safe_load(content), source)).encode()


def _pickled_values(content: bytes, source: random.Random) -> bytes:
    return pickle.dumps(_changed(pickle.loads(content), source), source.choice((0, 2, 4, 5)))  # our own


def _tensor_values(content: bytes, source: random.Random) -> bytes:
    found = io.BytesIO()
    torch.save(_changed(torch.load(io.BytesIO(content), weights_only=True), source), found)
    return found.getvalue()


def _changed(value: Any, source: random.Random) -> Any:
    """Return plain values with one of them, at any depth, replaced, left out or under another name."""
    if isinstance(value, dict) and value and source.random() < 0.9:
        key = source.choice(list(value))
        if source.random() < 0.1:
            return {other: one for other, one in value.items() if other != key}
        if source.random() < 0.1:
            return {**value, source.choice(("new", "epoch", 3)): source.choice(WORDS)}
        return {**value, key: _changed(value[key], source)}
    if isinstance(value, list) and value and source.random() < 0.9:
        place = source.randrange(len(value))
        return [*value[:place], _changed(value[place], source), *value[place + 1 :]]
    if isinstance(value, torch.Tensor) and source.random() < 0.7:
        return source.choice((value * float("nan"), value.flatten()[:1], value.double(), value[None], value.long()))
    return source.choice(WORDS)


VALUES = {
    ".json": _json_values,
    ".jsonl": _json_values,
    ".pkl": _pickled_values,
    ".pt": _tensor_values,
    ".xlsx": _archived_values,
    ".zip": _archived_values,
    ".yaml": _yaml_values,
}
"""What damages a value and leaves the file readable, by its suffix."""
KINDS = {
    "table": Kind(_make_table, _read_table),
    "spreadsheet": Kind(_make_sheet, _read_table),
    "sweep": Kind(_make_sweep, _read_sweep),
    "runs": Kind(_make_runs, _read_runs, certain=True),
    "checkpoint": Kind(_make_checkpoint, lambda folder: read_checkpoint(folder / "checkpoint.pt")),
    "model": Kind(_make_model, lambda folder: read_model(folder / "model.pt")),
    "store": Kind(_make_store, _read_store, certain=True),
    "pickle": Kind(strangers.make_pickle, strangers.read_pickles),
    "records": Kind(strangers.make_records, strangers.read_records),
    "structures": Kind(strangers.make_structure_tables, strangers.read_structure_tables),
    "search": Kind(strangers.make_search, strangers.read_searches),
    "results": Kind(strangers.make_results, strangers.read_results, certain=True),
    "packed": Kind(strangers.make_packed, strangers.read_packed),
    "rows": Kind(strangers.make_rows, strangers.answer_rows),
}


SLOW = ("rows", "packed")
"""Kinds that are read by a model, and tried less often."""


@functools.cache
def sound(kind: str) -> dict[str, bytes]:
    """Return the files of a sound folder by their path."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        KINDS[kind].make(folder)
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
            and path.stat().st_size
            and (path.suffix not in ("", ".txt") or path.name == exported.SUMS)
            and not path.name.startswith(".")
        }


@dataclass(frozen=True)
class Case:
    """A damaged file of a folder that is sound otherwise."""

    kind: str
    path: str
    content: bytes


def cases(number: int) -> Iterator[Case]:
    """Yield damaged files without end, the same ones for the same number."""
    source = random.Random(number)
    while True:
        (kind,) = source.choices(list(KINDS), [1 if name in SLOW else 8 for name in KINDS])
        path = source.choice(list(sound(kind)))
        content, values = sound(kind)[path], VALUES.get(Path(path).suffix)
        if values is not None and source.random() < 0.6:
            yield Case(kind, path, values(content, source))
        else:
            for _ in range(source.choice((1, 1, 1, 3))):
                content = _damaged(content, source)
            yield Case(kind, path, content)


def _damaged(content: bytes, source: random.Random) -> bytes:
    """Return bytes that differ at one place."""
    place = source.randrange(len(content) + 1)
    length = source.choice((1, 1, 8, 200, 5000))
    before, after = content[:place], content[place + length :]
    return source.choice(
        (
            before + source.randbytes(length) + after,
            before + bytes(length) + after,
            before + after,
            before,
            before + content[place : place + length] * source.choice((2, 50)) + after,
            before + source.choice((b"\n", b",", b'"', b"\xff", b"\x00", b"nan", b"-", b"{", b"9" * 40)) + after,
            b"",
        )
    )


def corpus() -> Iterator[Case]:
    """Yield the inputs that failed once."""
    for path in sorted(CORPUS.rglob("*")):
        if path.is_file():
            name, *rest = path.relative_to(CORPUS).parts
            yield Case(name.partition("-")[0], "/".join(rest), path.read_bytes())


def problem_of(case: Case, folder: Path) -> str:
    """Read a folder with a damaged file; return what is wrong with how it was read, or an empty string."""
    kind = KINDS[case.kind]
    shutil.rmtree(folder, ignore_errors=True)
    _write({**sound(case.kind), case.path: case.content}, folder)
    found, problem = attempted(lambda: kind.read(folder), UserError)
    if problem or found is None or not kind.certain or found == _expected(case.kind):
        return problem
    return "silently holds something else"


@functools.cache
def _expected(kind: str) -> object:
    with tempfile.TemporaryDirectory() as name:
        _write(sound(kind), Path(name))
        return KINDS[kind].read(Path(name))


def _write(files: Mapping[str, bytes], folder: Path) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def keep(case: Case) -> Path:
    """Put an input that failed into the corpus."""
    path = CORPUS / f"{case.kind}-{hashlib.sha256(case.content).hexdigest()[:12]}" / case.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(case.content)
    return path
