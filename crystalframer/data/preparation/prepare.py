"""From the files of a published data set to its store: find or fetch, verify, parse, split, write.

The records become columns in several processes and go to files at once, so that memory does not grow with the source;
the store is written from these files. Whatever is cut short leaves the old store, or none, and is made again from the
downloads it got.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from crystalframer import __version__
from crystalframer.atomic_files import sha256_of
from crystalframer.data import store
from crystalframer.data.dataset import SPLITS, CrystalDataset, Task
from crystalframer.data.parallel import in_order
from crystalframer.data.preparation.columns import Columns, Layout, chunk_to_columns, records_to_columns
from crystalframer.data.preparation.locate import Located, locate
from crystalframer.data.preparation.pickles import pickled_records
from crystalframer.data.preparation.splits import published_split
from crystalframer.data.progress import Watch, silent
from crystalframer.data.structures.reading import numbered
from crystalframer.data.structures.records import split_records
from crystalframer.environment import cores, data_folder
from crystalframer.errors import UserError
from crystalframer.published import PUBLISHED, PublishedFile

PREPARATION = 1
"""Version of the way from records to rows; stores of another one are made again."""
MODULUS_RANGE = (-3.0, 4.0)
"""What a modulus in log10(GPa) can be; anything beyond is taken to be in another unit and refused."""
_BLOCK = 1000


@dataclass(frozen=True)
class Prepared:
    """A store, and whether it was made just now."""

    directory: Path
    manifest: dict[str, Any]
    made: bool


def prepare(
    name: str,
    source: str | None = None,
    *,
    partial: bool = False,
    force: bool = False,
    processes: int | None = None,
    watch: Watch = silent,
) -> Prepared:
    """Prepare a published data set, unless its store was made from the same files in the same way.

    Args:
        name: `jarvis`, `mp` or `oqmd`.
        source: a file, a folder with the published files, or an address they are fetched from; None: figshare.
        partial: accept a part of the published files and split it by the same rule; not the published split.
        force: make the store again in any case.
        processes: that parse; None: one for each processor, at most 8.
        watch: reports how far it is.

    Raises:
        UserError: a file cannot be had, is not the published one or is damaged.
    """
    directory = data_folder() / name
    store.check_place(directory)
    with store.preparing(directory) as workplace:
        manifest = _manifest(directory)
        if source is None and not force and _is_complete(name, manifest, partial):
            return Prepared(directory, manifest, made=False)
        files = locate(name, source, data_folder() / "downloads", partial=partial, watch=watch)
        described = [describe_file(file) for file in files]
        wanted = {"preparation": PREPARATION, "published_split": not partial, "sources": described}
        if not force and wanted == {key: manifest.get(key) for key in wanted}:
            return Prepared(directory, manifest, made=False)
        rows = Rows(workplace)
        spans = {file: rows.read(file, name, processes or min(8, cores()), watch) for file in files}
        tasks = make_tasks(name, rows, spans, partial)
        dataset = rows.finish(name, tasks)
        provenance = {**wanted, "records": len(rows.kept), "version": __version__}
        manifest = store.write_store(directory, dataset, provenance, rows.rejects())
    return Prepared(directory, manifest, made=True)


def describe_file(file: Located) -> dict[str, Any]:
    """Return what a manifest says of a source."""
    return {
        "source": file.source.name,
        "file": file.path.name,
        "bytes": file.path.stat().st_size,
        "sha256": sha256_of(file.path),
        "figshare": file.source.figshare,
    }


def _manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of a store of this format, or an empty one."""
    manifest = store.read_manifest(directory) if store.is_store(directory) else {}
    return manifest if manifest.get("format") == store.FORMAT else {}


def _is_complete(name: str, manifest: Mapping[str, Any], partial: bool) -> bool:
    """Return whether a store holds all published files; their splits were compared when it was made."""
    same = manifest.get("preparation") == PREPARATION and manifest.get("published_split") is not partial
    names = [source["source"] for source in manifest.get("sources", ())]
    return same and names == [source.name for source in PUBLISHED[name].files]


def make_tasks(name: str, rows: "Rows", spans: Mapping[Located, slice], partial: bool) -> list[Task]:
    """Split each task as published and leave out what was rejected.

    Raises:
        UserError: a source is not the published file, or none of the records has a target.
    """
    kept, count = np.array(rows.kept, dtype=bool), len(rows.kept)
    ids = np.array(rows.ids, dtype=np.str_)
    tasks = []
    for task, unit in PUBLISHED[name].units.items():
        targets, split = np.full(count, np.nan), np.full(count, -1, dtype=np.int8)
        for file, span in spans.items():
            if task in rows.targets[file]:
                values = targets[span] = np.concatenate([np.zeros(0), *rows.targets[file][task]])
                if partial and not np.isfinite(values).any():
                    continue
                split[span] = _split(name, task, file.source, ids[span], values, partial)
        if (split >= 0).any():
            tasks.append(Task(task, unit, targets[kept], split[kept]))
    if not tasks:
        raise UserError(f"data set {name!r}: none of the {count} records has a target: is this the right file?")
    return tasks


def _split(
    name: str, task: str, source: PublishedFile, ids: NDArray[np.str_], targets: NDArray[np.float64], partial: bool
) -> NDArray[np.int8]:
    if source.part is None:
        return published_split(name, task, ids, targets, partial=partial)
    finite, code = np.isfinite(targets), SPLITS.index(source.part)
    expected = PUBLISHED[name].tasks[task].counts[code]
    if not partial and (finite.sum() != expected or not finite.all()):
        raise UserError(
            f"data set {name!r}, task {task!r}: {source.file} has {finite.sum()} targets in {targets.size} records, "
            f"expected {expected}: use the published file, or pass --partial"
        )
    low, high = MODULUS_RANGE
    outside = targets[finite & ((targets < low) | (targets > high))]
    if outside.size:
        raise UserError(
            f"data set {name!r}, task {task!r}: {source.file} holds {outside[0]:g}, expected log10(GPa) between "
            f"{low:g} and {high:g}: if these are GPa, this is not the published file"
        )
    return np.where(finite, code, -1).astype(np.int8)


@dataclass
class Rows:
    """The records of all sources, one after the other; the crystals' numbers go to files in a folder."""

    folder: Path
    ids: list[str] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)
    targets: dict[Located, dict[str, list[NDArray[np.float64]]]] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    sizes: list[NDArray[np.int64]] = field(default_factory=list)

    def read(self, file: Located, name: str, processes: int, watch: Watch) -> slice:
        """Append the records of a source and return which rows they are."""
        start, published = len(self.ids), PUBLISHED[name]
        total = published.records if file.source.part is None else None
        self.targets[file] = {}
        with (
            watch(f"reading {file.path.name}", total, "records") as update,
            (self.folder / "lattice").open("ab") as lattice,
            (self.folder / "frac_coords").open("ab") as frac_coords,
            (self.folder / "atomic_numbers").open("ab") as atomic_numbers,
        ):
            for columns in _columns(file, name, processes):
                self._append(columns, file, (lattice, frac_coords, atomic_numbers))
                update(len(self.ids) - start)
        return slice(start, len(self.ids))

    def _append(self, columns: Columns, file: Located, files: tuple[BinaryIO, BinaryIO, BinaryIO]) -> None:
        start = len(self.ids)
        self.ids += columns.ids
        self.kept += columns.kept.tolist()
        self.sizes.append(columns.sizes)
        self.reasons.update({start + row: reason for row, reason in columns.reasons.items()})
        for task, values in columns.targets.items():
            self.targets[file].setdefault(task, []).append(values)
        arrays = (columns.lattice, columns.frac_coords, columns.atomic_numbers.astype(np.int64))
        for stream, array in zip(files, arrays, strict=True):
            stream.write(np.ascontiguousarray(array).data)

    def unique_ids(self) -> list[str]:
        """Return the ids, see `numbered`."""
        taken: Counter[str] = Counter()
        return [numbered(id, taken) for id in self.ids]

    def rejects(self) -> list[dict[str, str]]:
        """Return what was left out, and why."""
        ids = self.unique_ids() if self.reasons else []
        return [{"id": ids[row], "reason": reason} for row, reason in sorted(self.reasons.items())]

    def finish(self, name: str, tasks: Iterable[Task]) -> CrystalDataset:
        """Return the valid crystals as a data set, its arrays mapped from the files.

        Raises:
            UserError: there are none.
        """
        if not any(self.kept):
            raise UserError(f"data set {name!r}: got no crystals, expected at least one")
        ids = np.array([id for id, kept in zip(self.unique_ids(), self.kept, strict=True) if kept], dtype=np.str_)
        return CrystalDataset(
            name=name,
            ids=ids,
            offsets=np.concatenate([[0], np.cumsum(np.concatenate(self.sizes), dtype=np.int64)]),
            lattice=self._mapped("lattice", np.float64).reshape(-1, 3, 3),
            frac_coords=self._mapped("frac_coords", np.float64).reshape(-1, 3),
            atomic_numbers=self._mapped("atomic_numbers", np.int64),
            tasks={task.name: task for task in tasks},
        )

    def _mapped(self, name: str, dtype: type[Any]) -> NDArray[Any]:
        return np.asarray(np.memmap(self.folder / name, dtype=dtype, mode="r"))


def _columns(file: Located, name: str, processes: int) -> Iterator[Columns]:
    """Read a source; what is wrong with a download is said with the way to have it fetched again."""
    published, source = PUBLISHED[name], file.source
    try:
        if source.part is None:
            layout = Layout(published.id_fields, published.fields)
            yield from in_order(partial(chunk_to_columns, layout=layout), split_records(file.path), processes)
            return
        key = source.task.replace("_", " ")
        layout = Layout(("id",), {source.task: key}, prefix=source.task.partition("_")[0] + ":")
        records = pickled_records(file.path, (key, source.task))
        for start in range(0, len(records), _BLOCK):
            yield records_to_columns(records[start : start + _BLOCK], layout, str(file.path), start)
    except UserError as error:
        if file.fetched:
            raise UserError(f"{error} (delete {file.path} and {file.path}.json to have it fetched again)") from error
        raise
