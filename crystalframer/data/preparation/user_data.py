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
from crystalframer.atomic_files import replace_text, sha256_of
from crystalframer.data import store
from crystalframer.data.dataset import CrystalDataset, Task, unit_token
from crystalframer.data.preparation.cell_values import number_of
from crystalframer.data.preparation.sanity import find_duplicates, reduced_formula, why_unphysical
from crystalframer.data.preparation.splits import split_by_formula
from crystalframer.data.preparation.subsets import find_subsets
from crystalframer.data.preparation.targets import (
    SPLIT_COLUMN,
    TargetTable,
    read_splits,
    read_targets,
    split_code,
    task_name,
)
from crystalframer.data.preparation.user_sources import find_table, read_user_structures
from crystalframer.data.progress import Watch, silent
from crystalframer.data.structures.formats import ID_KEYS
from crystalframer.data.structures.reading import Reading, by_kind
from crystalframer.environment import data_folder
from crystalframer.errors import UserError, near_matches
from crystalframer.geometry.crystal import Crystal
from crystalframer.published import PUBLISHED

UNSPECIFIED = "unspecified"
"""Unit of a task of which none was given."""
NO_TARGET = "it has no target that is a finite number"


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
    subset_of: Sequence[str] = ()
    """Published data sets and tasks that it is a part of: ``jarvis:bandgap_mbj``, or ``TASK=jarvis:bandgap_mbj`` where
    the task is called otherwise here."""


@dataclass(frozen=True)
class _Usable:
    """A crystal that can be used, its targets, and its split if the data give one."""

    crystal: Crystal
    targets: Mapping[str, float]
    split: int | None


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
    directory = data_folder() / name
    store.check_place(directory)
    path = data.targets or find_table(data.source)
    table = read_targets(path) if path else None
    given = read_splits(data.split) if isinstance(data.split, Path) else None
    with store.preparing(directory):
        source = read_user_structures(data.source, table, processes)
        rejects: list[dict[str, str]] = []
        warned: list[tuple[str, str]] = []
        usable = _sift(source.readings, rejects, warned, watch)
        usable, names = _with_targets(usable, table, rejects)
        if not data.keep_duplicates:  # of those that have a target: one without may come first
            usable = _without_duplicates(usable, rejects)
        if not usable:
            raise UserError(_nothing_left(directory, rejects, table))
        unknown = next((task for task in data.units if task not in names), None)
        if unknown is not None:
            raise UserError(
                f"--unit names the task {unknown!r}, which is not in the data{near_matches(unknown, names)}"
            )
        split, described = _make_split(data, usable, given)
        units = {**(table.units if table else {}), **data.units}
        dataset = _to_dataset(name, usable, names, units, split)
        provenance = {
            "own": True,
            **({"subset_of": find_subsets(data.subset_of, dataset.tasks)} if data.subset_of else {}),
            "sources": [_describe(data.source), *([_describe(path)] if path else [])],
            "split": described,
            "notes": [*source.notes, *(table.notes if table else ()), *map("doubtful: {}".format, by_kind(warned))],
            "version": __version__,
        }
        manifest = store.write_store(directory, dataset, provenance, rejects)
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


def _sift(
    readings: Iterator[Reading], rejects: list[dict[str, str]], warned: list[tuple[str, str]], watch: Watch
) -> list[_Usable]:
    """Keep the crystals that can exist, and note what is doubtful about them."""
    usable = []
    with watch("reading structures", None, "structures") as update:
        for count, reading in enumerate(readings, start=1):
            update(count)
            crystal = reading.crystal
            reason = reading.reason if crystal is None else why_unphysical(crystal)
            try:
                code = reading.properties.get(SPLIT_COLUMN)
                code = None if code is None else split_code(code)
            except UserError as error:
                reason = reason or str(error)
            if crystal is None or reason:
                rejects.append(_reject(reading.id, reason))
            else:
                targets = {task_name(key)[0]: number_of(value) for key, value in _numbers(reading.properties)}
                usable.append(_Usable(crystal, targets, code))
                warned += [(reading.id, text) for text in reading.warnings]
    return usable


def _reject(id: str, reason: str) -> dict[str, str]:
    return {"id": id, "reason": " ".join(reason.split())}


def _numbers(properties: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what may be a target: plain numbers, numbers as text, and what says that there is none."""
    for key, value in properties.items():
        if key.lower() not in (*ID_KEYS, SPLIT_COLUMN) and not isinstance(value, list | tuple | dict | np.ndarray):
            yield key, value


def _without_duplicates(usable: Sequence[_Usable], rejects: list[dict[str, str]]) -> list[_Usable]:
    duplicates = find_duplicates([entry.crystal for entry in usable])
    for row, original in duplicates.items():
        reason = f"it is the same crystal as {usable[original].crystal.id!r}, which is kept"
        rejects.append(_reject(usable[row].crystal.id, reason))
    return [entry for row, entry in enumerate(usable) if row not in duplicates]


def _with_targets(
    usable: Sequence[_Usable], table: TargetTable | None, rejects: list[dict[str, str]]
) -> tuple[list[_Usable], list[str]]:
    """Leave out crystals without any target; return the tasks' names in the order of the source."""
    finite = {name for entry in usable for name, value in entry.targets.items() if math.isfinite(value)}
    order = table.names if table else list(dict.fromkeys(name for entry in usable for name in entry.targets))
    names = [name for name in order if name in finite]
    left = []
    for entry in usable:
        if any(math.isfinite(entry.targets.get(name, math.nan)) for name in names):
            left.append(entry)
        else:
            rejects.append(_reject(entry.crystal.id, NO_TARGET))
    return left, names


def _make_split(
    data: OwnData, usable: Sequence[_Usable], given: Mapping[str, int] | None
) -> tuple[NDArray[np.int8], dict[str, Any] | str]:
    """Return each crystal's split, and how it came about."""
    if given is not None:
        codes = [given.get(entry.crystal.id, -1) for entry in usable]
        if all(code < 0 for code in codes):
            raise UserError(
                f"--split {data.split}: none of its ids is one of the data set, such as {usable[0].crystal.id!r}"
            )
        return np.array(codes, dtype=np.int8), "given by id"
    if any(entry.split is not None for entry in usable):
        codes = [-1 if entry.split is None else entry.split for entry in usable]
        return np.array(codes, dtype=np.int8), "given in the data"
    assert isinstance(data.split, int)
    formulas = [reduced_formula(entry.crystal) for entry in usable]
    described = {"by": "hash of the reduced formula", "seed": data.split, "train": data.train, "val": data.val}
    return split_by_formula(formulas, data.split, data.train, data.val), described


def _to_dataset(
    name: str, usable: Sequence[_Usable], names: Sequence[str], units: Mapping[str, str], split: NDArray[np.int8]
) -> CrystalDataset:
    tasks = []
    for task in names:
        unit = units.get(task) or UNSPECIFIED
        unit_token(unit)
        targets = np.array([entry.targets.get(task, math.nan) for entry in usable], dtype=np.float64)
        tasks.append(Task(task, unit, targets, split))
    return CrystalDataset.from_crystals(name, [entry.crystal for entry in usable], tasks)


def _nothing_left(directory: Path, rejects: Sequence[Mapping[str, str]], table: TargetTable | None) -> str:
    """Write the rejects beside where the store would be, and return what to say."""
    path = directory.parent / f"{directory.name}.{store.REJECTS}"
    lines = [json.dumps(dict(reject), sort_keys=True) + "\n" for reject in rejects]
    replace_text(path, "".join(lines))
    first = f", first {rejects[0]['id']!r}: {rejects[0]['reason']}" if rejects else ""
    if table is None and any(reject["reason"] == NO_TARGET for reject in rejects):
        first += "; no table of targets lies beside the crystals: name one with --targets FILE"
    if table is not None and not table.names and table.sample:
        first += f"; its table has no column of numbers: {table.sample}"
    elif table is not None and table.key and table.rows:
        first += f"; names are read from its column {table.key!r}, such as {table.rows[0].id!r}"
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
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
