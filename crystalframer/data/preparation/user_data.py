"""Anyone's own crystals: from a folder, file or table to a prepared store, which trials open by name.

What cannot be used is left out and listed with its reason in ``rejects.jsonl``; everything else is kept.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalframer import __version__
from crystalframer.data import registry, store
from crystalframer.data.dataset import CrystalDataset, DatasetBuilder, Task, unit_token
from crystalframer.data.preparation.sanity import find_duplicates, reduced_formula, why_unphysical
from crystalframer.data.preparation.splits import split_by_formula
from crystalframer.data.preparation.targets import (
    SPLIT_COLUMN,
    TargetTable,
    number_of,
    read_targets,
    split_code,
    task_name,
)
from crystalframer.data.preparation.user_sources import Entry, find_table, read_own
from crystalframer.data.progress import Watch, silent
from crystalframer.data.structures.formats import ID_KEYS
from crystalframer.errors import UserError, near_matches
from crystalframer.geometry.crystal import Crystal
from crystalframer.published import PUBLISHED

UNSPECIFIED = "unspecified"
"""Unit of a task of which none was given."""


@dataclass(frozen=True)
class OwnData:
    """What to prepare."""

    source: Path
    """A folder of structure files, a file of several structures, or a parquet file or CSV with a structure column."""
    name: str | None = None
    """Name of the data set; None: that of the source."""
    targets: Path | None = None
    """Table of targets; None: one that lies in the folder, or what stands in the file beside each structure."""
    units: Mapping[str, str] = field(default_factory=dict)
    """Unit by task."""
    split: Path | int = 0
    """A CSV ``id,split``, or the seed of a split by the hash of the reduced formula. A split in the data wins."""
    train: float = 0.8
    """Share of the formulas to train on, where the split is made here."""
    val: float = 0.1
    """Share to validate on; the rest is tested on."""
    keep_duplicates: bool = False


@dataclass
class _Kept:
    """What is left of the source, and what is not."""

    crystals: list[Crystal] = field(default_factory=list)
    values: list[Mapping[str, float]] = field(default_factory=list)
    splits: list[int | None] = field(default_factory=list)
    rejects: list[dict[str, str]] = field(default_factory=list)

    def reject(self, id: str, reason: str) -> None:
        self.rejects.append({"id": id, "reason": " ".join(reason.split())})


def prepare_own(data: OwnData, *, processes: int = 1, watch: Watch = silent) -> tuple[Path, dict[str, Any]]:
    """Prepare a user's own data set, replacing the store of that name.

    Args:
        data: what to prepare, and how.
        processes: that parse structure files.
        watch: reports how far it is.

    Returns:
        The store's folder and its manifest.

    Raises:
        UserError: nothing of the source can be used, or a setting does not fit it.
    """
    name = own_name(data)
    if not (data.train > 0 and data.val > 0 and data.train + data.val < 1):
        raise UserError(
            f"--train {data.train:g} and --val {data.val:g}: expected shares above 0 that leave some to test"
        )
    directory = registry.data_directory() / name
    store.check_place(directory)
    path = data.targets or find_table(data.source)
    table = read_targets(path) if path else None
    given = _read_splits(data.split) if isinstance(data.split, Path) else None
    with store.preparing(directory):
        kept = _sift(read_own(data.source, table, processes), watch)
        if not data.keep_duplicates:
            kept = _without_duplicates(kept)
        units = {**(table.units if table else {}), **data.units}
        kept, names = _with_targets(kept, table)
        if not kept.crystals:
            raise UserError(_nothing_left(directory, kept.rejects))
        unknown = next((task for task in data.units if task not in names), None)
        if unknown is not None:
            raise UserError(
                f"--unit names the task {unknown!r}, which is not in the data{near_matches(unknown, names)}"
            )
        split, described = _make_split(data, kept, given)
        dataset = _to_dataset(name, kept, names, units, split)
        provenance = {
            "own": True,
            "sources": [_describe(data.source), *([_describe(path)] if path else [])],
            "split": described,
            "version": __version__,
        }
        manifest = store.write_store(directory, dataset, provenance, kept.rejects)
    return directory, manifest


def own_name(data: OwnData) -> str:
    """Return the data set's name.

    Raises:
        UserError: it is a published data set's, or not fit for a folder and a metric.
    """
    name = data.name or re.sub(r"[^0-9A-Za-z_.-]+", "_", data.source.absolute().name.split(".")[0]).strip("_.-")
    if name in PUBLISHED:
        raise UserError(f"{name!r} is the name of a published data set: give yours another one with --name")
    if not re.fullmatch(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,99}", name) or name == "downloads":
        raise UserError(f"{name!r} is no name for a data set, expected letters, digits, '_', '-' and '.': give --name")
    return name


def _sift(entries: Iterator[Entry], watch: Watch) -> _Kept:
    """Keep the crystals that can exist."""
    kept = _Kept()
    with watch("reading structures", None, "structures") as update:
        for count, entry in enumerate(entries, start=1):
            update(count)
            reason = entry.reason if entry.crystal is None else why_unphysical(entry.crystal)
            if entry.crystal is None or reason:
                kept.reject(entry.id, reason)
                continue
            try:
                code = None if entry.split is None else split_code(entry.split)
            except UserError as error:
                kept.reject(entry.id, str(error))
                continue
            kept.crystals.append(entry.crystal)
            kept.values.append({task_name(key)[0]: number_of(value) for key, value in _numbers(entry.properties)})
            kept.splits.append(code)
    return kept


def _numbers(properties: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what may be a target: plain numbers, numbers as text, and what says that there is none."""
    for key, value in properties.items():
        if key.lower() not in (*ID_KEYS, SPLIT_COLUMN) and not isinstance(
            value, list | tuple | dict | bool | np.bool_ | np.ndarray
        ):
            yield key, value


def _without_duplicates(kept: _Kept) -> _Kept:
    duplicates = find_duplicates(kept.crystals)
    for row, original in duplicates.items():
        kept.reject(kept.crystals[row].id, f"it is the same crystal as {kept.crystals[original].id!r}, which is kept")
    return _rows(kept, [row for row in range(len(kept.crystals)) if row not in duplicates])


def _with_targets(kept: _Kept, table: TargetTable | None) -> tuple[_Kept, list[str]]:
    """Leave out crystals without any target; return the tasks' names in the order of the source."""
    finite = {name for values in kept.values for name, value in values.items() if math.isfinite(value)}
    order = table.names if table else list(dict.fromkeys(name for values in kept.values for name in values))
    names = [name for name in order if name in finite]
    chosen = []
    for row, values in enumerate(kept.values):
        if any(math.isfinite(values.get(name, math.nan)) for name in names):
            chosen.append(row)
        else:
            kept.reject(kept.crystals[row].id, "it has no target that is a finite number")
    return _rows(kept, chosen), names


def _rows(kept: _Kept, rows: Sequence[int]) -> _Kept:
    return _Kept(
        [kept.crystals[row] for row in rows],
        [kept.values[row] for row in rows],
        [kept.splits[row] for row in rows],
        kept.rejects,
    )


def _read_splits(path: Path) -> dict[str, int]:
    """Read a CSV of ids and splits, with or without a header.

    Raises:
        UserError: a row does not hold an id and a split.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the split in {path} ({error})") from error
    found: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        id, _, text = line.rpartition(",")
        if number == 1 and text.strip().lower() == SPLIT_COLUMN:
            continue
        try:
            found[id.strip().strip('"')] = split_code(text.strip().strip('"'))
        except UserError as error:
            raise UserError(f"{path}, line {number}: expected `id,split`: {error}") from error
    return found


def _make_split(
    data: OwnData, kept: _Kept, given: Mapping[str, int] | None
) -> tuple[NDArray[np.int8], dict[str, Any] | str]:
    """Return each crystal's split, and how it came about."""
    if given is not None:
        codes = [given.get(crystal.id, -1) for crystal in kept.crystals]
        if all(code < 0 for code in codes):
            raise UserError(
                f"--split {data.split}: none of its ids is one of the data set, such as {kept.crystals[0].id!r}"
            )
        return np.array(codes, dtype=np.int8), "given by id"
    if any(code is not None for code in kept.splits):
        return np.array([-1 if code is None else code for code in kept.splits], dtype=np.int8), "given in the data"
    assert isinstance(data.split, int)
    formulas = [reduced_formula(crystal) for crystal in kept.crystals]
    described = {"by": "hash of the reduced formula", "seed": data.split, "train": data.train, "val": data.val}
    return split_by_formula(formulas, data.split, data.train, data.val), described


def _to_dataset(
    name: str, kept: _Kept, names: Sequence[str], units: Mapping[str, str], split: NDArray[np.int8]
) -> CrystalDataset:
    builder = DatasetBuilder()
    for crystal in kept.crystals:
        builder.add(crystal)
    tasks = []
    for task in names:
        unit = units.get(task) or UNSPECIFIED
        unit_token(unit)
        targets = np.array([values.get(task, math.nan) for values in kept.values], dtype=np.float64)
        tasks.append(Task(task, unit, targets, split))
    return builder.finish(name, tasks)


def _nothing_left(directory: Path, rejects: Sequence[Mapping[str, str]]) -> str:
    """Write the rejects beside where the store would be, and return what to say."""
    path = directory.parent / f"{directory.name}.{store.REJECTS}"
    lines = [json.dumps(dict(reject), sort_keys=True) + "\n" for reject in rejects]
    path.write_text("".join(lines), encoding="utf-8")
    first = f", first {rejects[0]['id']!r}: {rejects[0]['reason']}" if rejects else ""
    return f"none of the {len(rejects)} entries can be used{first}; all reasons are in {path}"


def _describe(path: Path) -> dict[str, Any]:
    """Return what a manifest says of a source: name and hash; of a folder, the hash of its files' names and sizes."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        listing = "\n".join(f"{file.relative_to(path).as_posix()} {file.stat().st_size}" for file in files)
        return {
            "folder": path.name,
            "files": len(files),
            "listing_sha256": hashlib.sha256(listing.encode()).hexdigest(),
        }
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest}
