"""Prepared stores: one memory-mapped Arrow IPC file a data set, with its manifest inside.

A store is a folder with ``crystals.arrow`` (one row a crystal: id, lattice, frac_coords, atomic_numbers, and
``target:TASK``, ``split:TASK`` for each task; ``mixed_sites``, ``mixed_elements``, ``mixed_weights`` where crystals are
disordered). Beside it lie, for people, ``manifest.json`` (the manifest of the Arrow schema) and ``rejects.jsonl`` (one
line a record that was left out, and why). pandas, polars and duckdb open the Arrow file as is.

The content is compared with its fingerprint when a store is first opened; ``verified.json`` remembers that by the
table's size, time and inode. A store that is replaced keeps its folder: the table changes at one moment. Whatever is
unfinished lies beside the store in folders named ``.NAME.tmp-…``; whoever prepares a store holds its lock and deletes
what an earlier, killed preparation left.
"""

import contextlib
import glob
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray

from crystalframer.atomic_files import flush_to_disk, locked, replace_text, require_regular
from crystalframer.data.dataset import CrystalDataset, Task
from crystalframer.data.disk import room
from crystalframer.errors import UserError, require_damage, require_no_lack
from crystalframer.geometry.occupancies import Mixture

TABLE = "crystals.arrow"
MANIFEST = "manifest.json"
REJECTS = "rejects.jsonl"
VERIFIED = "verified.json"
FORMAT = 1
"""Version of the layout; a reader refuses any other."""
MAX_ID = 4096
"""Characters of the longest id."""
_DAMAGE = (pa.ArrowException, AttributeError, LookupError, MemoryError, OSError, TypeError, ValueError)
"""What reading a table raises that is damaged or something else."""


def is_store(directory: Path) -> bool:
    """Return whether a prepared store stands in this folder."""
    return (directory / TABLE).is_file()


@contextlib.contextmanager
def preparing(directory: Path) -> Iterator[Path]:
    """Hold the lock of a store, and lend a folder beside it for what is unfinished, deleted at the end.

    What an earlier preparation left behind because it was killed is deleted first. The lock ends with the process.

    Raises:
        UserError: another process holds the lock, or the folder cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            with room(directory.parent):
                directory.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(directory.parent / f".{directory.name}.lock"))
        except BlockingIOError as error:
            raise UserError(f"{directory} is being prepared by another process: wait for it to end") from error
        except OSError as error:
            require_no_lack(error)
            raise UserError(
                f"the file system of {directory.parent} does not lock files ({error.strerror}): prepare on another one "
                "(CRYSTALFRAMER_DATA) and copy the store's folder over when it is done"
            ) from error
        for leftover in directory.parent.glob(f".{glob.escape(directory.name)}.tmp-*"):
            former = leftover / directory.name
            if is_store(former) and not directory.exists():  # version 0.1 moved the old store aside to replace it
                former.rename(directory)
            shutil.rmtree(leftover)
        with room(directory.parent):
            workplace = _temporary(directory)
            try:
                yield workplace
            finally:
                shutil.rmtree(workplace, ignore_errors=True)


def write_store(
    directory: Path,
    dataset: CrystalDataset,
    provenance: Mapping[str, Any],
    rejects: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """Write a store, or replace the one that stands there; a reader never sees half of one.

    Args:
        directory: the store's folder; it is written beside it under another name and then renamed.
        dataset: what to store.
        provenance: plain values for the manifest, e.g. the source's hash.
        rejects: records left out, each with ``id`` and ``reason``.

    Returns:
        The manifest.

    Raises:
        UserError: something else than a store stands in the folder's place.
    """
    check_place(directory)
    manifest = {
        "format": FORMAT,
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "crystals": len(dataset),
        "atoms": len(dataset.atomic_numbers),
        "rejects": len(rejects),
        "units": {name: task.unit for name, task in dataset.tasks.items()},
        "splits": {name: {**task.sizes, "sha256": _members(task)} for name, task in dataset.tasks.items()},
        **provenance,
    }
    text = json.dumps(manifest, indent=1)
    directory.parent.mkdir(parents=True, exist_ok=True)
    fresh = _temporary(directory)
    try:
        batch = _to_arrow(dataset, text)
        with pa.OSFile(str(fresh / TABLE), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        lines = [json.dumps(dict(reject), sort_keys=True) + "\n" for reject in rejects]
        (fresh / REJECTS).write_text("".join(lines), encoding="utf-8")
        (fresh / MANIFEST).write_text(text + "\n", encoding="utf-8")
        fresh.chmod(0o755)
        for path in (fresh / TABLE, fresh / REJECTS, fresh / MANIFEST, fresh):
            flush_to_disk(path)
        if is_store(directory):
            for name in (REJECTS, MANIFEST, TABLE):  # the table last: by it one sees whether anything is left to do
                (fresh / name).replace(directory / name)
            flush_to_disk(directory)
        else:
            fresh.rename(directory)
            flush_to_disk(directory.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return manifest


def check_place(directory: Path) -> None:
    """Check that a store may be written to a folder.

    Raises:
        UserError: something else than a store stands in its place.
    """
    if directory.exists() and not is_store(directory):
        raise UserError(f"{directory} exists and is not a prepared store: move it away or set CRYSTALFRAMER_DATA")


def read_store(directory: Path) -> CrystalDataset:
    """Open a store; its arrays are views of the memory-mapped file, read when they are used.

    A store that was not opened before is compared with its fingerprint, at a GB/s or more.

    Raises:
        UserError: the file is damaged, or is not a store of this version.
    """
    path = directory / TABLE
    try:
        batch, manifest = _read_batch(path)
        dataset = _to_dataset(batch, manifest) if manifest["format"] == FORMAT else None
        if dataset is not None and not _is_intact(dataset, path):
            raise ValueError("its content does not have the fingerprint that it had when it was written")
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    if dataset is None:
        raise UserError(
            f"{directory} has store format {manifest['format']}, this version reads {FORMAT}: "
            f"prepare it again with `crystalframer prepare {manifest['name']}`"
        )
    return dataset


def read_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest.

    Raises:
        UserError: the table is damaged.
    """
    try:
        return _read_batch(directory / TABLE)[1]
    except _DAMAGE as error:
        raise _damaged(directory / TABLE, error) from error


def _damaged(path: Path, error: BaseException) -> UserError:
    require_damage(path, error)
    problem = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(
        f"{path} is damaged or is not a prepared store ({problem}): delete {path.parent} and prepare it again"
    )


def _is_intact(dataset: CrystalDataset, path: Path) -> bool:
    """Return whether the content has its fingerprint; the answer yes is remembered where the folder can be written."""
    status, note = path.stat(), path.with_name(VERIFIED)
    seen = [status.st_size, status.st_mtime_ns, status.st_ino, dataset.fingerprint]
    with contextlib.suppress(OSError, ValueError):
        if json.loads(note.read_text(encoding="utf-8")) == seen:
            return True
    if dataset.content_hash() != dataset.fingerprint:
        return False
    with contextlib.suppress(OSError):  # a folder that may only be read: the next process looks again
        replace_text(note, json.dumps(seen))
    return True


def _to_dataset(batch: pa.RecordBatch, manifest: Mapping[str, Any]) -> CrystalDataset:
    coords = batch.column("frac_coords")
    return CrystalDataset(
        name=manifest["name"],
        ids=_strings(batch.column("id")),
        offsets=_view(coords.offsets),
        lattice=_view(batch.column("lattice").values).reshape(-1, 3, 3),
        frac_coords=_view(coords.values.values).reshape(-1, 3),
        atomic_numbers=_view(batch.column("atomic_numbers").values),
        tasks={
            name: Task(name, unit, _view(batch.column(f"target:{name}")), _view(batch.column(f"split:{name}")))
            for name, unit in manifest["units"].items()
        },
        stored_fingerprint=manifest["fingerprint"],
        mixture=_read_mixture(batch, _view(coords.offsets)),
    )


def _read_batch(path: Path) -> tuple[pa.RecordBatch, dict[str, Any]]:
    """Return the table and its manifest, which is compared with its checksum where it has one."""
    require_regular(path)
    with pa.memory_map(str(path), "rb") as source:
        reader = pa.ipc.open_file(source)
        if reader.num_record_batches != 1:
            raise pa.ArrowInvalid(f"{reader.num_record_batches} record batches, expected 1")
        batch = reader.get_batch(0)
    metadata = batch.schema.metadata
    text = metadata.pop(b"manifest")
    if any(value != _sha256(text) for value in metadata.values()):  # version 0.1 wrote none
        raise ValueError("its manifest does not have its checksum")
    manifest: dict[str, Any] = json.loads(text)
    return batch, manifest


def _to_arrow(dataset: CrystalDataset, manifest: str) -> pa.RecordBatch:
    offsets = pa.array(dataset.offsets, type=pa.int64())
    columns: dict[str, pa.Array] = {
        "id": pa.array(dataset.ids.tolist(), type=pa.large_string()),
        "lattice": pa.FixedSizeListArray.from_arrays(_flat(dataset.lattice), 9),
        "frac_coords": pa.LargeListArray.from_arrays(
            offsets, pa.FixedSizeListArray.from_arrays(_flat(dataset.frac_coords), 3)
        ),
        "atomic_numbers": pa.LargeListArray.from_arrays(offsets, _flat(dataset.atomic_numbers)),
    }
    if dataset.mixture is not None:
        columns |= _mixture_columns(dataset.mixture, dataset.offsets)
    for name, task in dataset.tasks.items():
        columns[f"target:{name}"] = _flat(task.targets)
        columns[f"split:{name}"] = _flat(task.split)
    metadata = {"manifest": manifest, "sha256": _sha256(manifest.encode())}
    schema = pa.schema([(name, column.type) for name, column in columns.items()], metadata=metadata)
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=schema)


def _mixture_columns(mixture: Mixture, offsets: NDArray[np.int64]) -> dict[str, pa.Array]:
    """Return the occupancies as three lists per crystal, sites counted within it."""
    limits = np.searchsorted(mixture.sites, offsets)
    local = mixture.sites - np.repeat(offsets[:-1], np.diff(limits))
    lists = {"mixed_sites": local, "mixed_elements": mixture.elements, "mixed_weights": mixture.weights}
    return {name: pa.LargeListArray.from_arrays(_flat(limits), _flat(values)) for name, values in lists.items()}


def _read_mixture(batch: pa.RecordBatch, offsets: NDArray[np.int64]) -> Mixture | None:
    if "mixed_sites" not in batch.schema.names:
        return None
    sites = batch.column("mixed_sites")
    first = np.repeat(offsets[:-1], np.diff(_view(sites.offsets)))
    elements, weights = (_view(batch.column(name).values) for name in ("mixed_elements", "mixed_weights"))
    return Mixture(_view(sites.values) + first, elements, weights)


def _sha256(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


def _flat(array: NDArray[Any]) -> pa.Array:
    return pa.array(np.ascontiguousarray(array).ravel(), from_pandas=False)


def _view(array: pa.Array) -> NDArray[Any]:
    return array.to_numpy(zero_copy_only=True)


def _strings(array: pa.Array) -> NDArray[np.str_]:
    """Return a column of text as a NumPy array, at once where it is ASCII."""
    _, offsets, data = array.buffers()
    starts = np.frombuffer(offsets, dtype=np.int64, count=len(array) + 1, offset=8 * array.offset)
    characters = np.frombuffer(data, dtype=np.uint8)[starts[0] : starts[-1]] if data else np.zeros(0, dtype=np.uint8)
    lengths = np.diff(starts)
    if lengths.size and not 0 <= lengths.min() <= lengths.max() <= MAX_ID:
        raise ValueError(f"an id has {lengths.max()} characters")
    if not characters.size or (characters > 127).any() or not characters.all():
        return np.array(array.to_pylist(), dtype=np.str_)
    width = int(lengths.max())
    padded = np.zeros((len(array), width), dtype=np.uint32)
    padded[np.arange(width) < lengths[:, None]] = characters
    return padded.view(f"<U{width}").reshape(len(array)).astype(np.str_, copy=False)


def _members(task: Task) -> str:
    """Return a hash of who is in which split."""
    return hashlib.sha256(np.ascontiguousarray(task.split, dtype=np.int8).data).hexdigest()


def _temporary(directory: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f".{directory.name}.tmp-", dir=directory.parent))
