"""Crystals from structure files: CIF, POSCAR, extended XYZ, ASE databases, pymatgen JSON; a bad file is a reason.

for result in read_structures(find_structure_files(Path("my_crystals"))):
    print(result.id, result.crystal.num_atoms if result.crystal else result.reason)
"""

import io
import multiprocessing
import os
import signal
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from types import FrameType
from typing import Any

from crystalframer.data.parallel import start_worker
from crystalframer.data.structures.ase_database import may_hold_systems, read_ase_db
from crystalframer.data.structures.content import decode, lines_of, open_regular, read_bytes
from crystalframer.data.structures.formats import (
    PARSE_ERRORS,
    TEXT_READERS,
    ReadLimits,
    describe,
    read_extxyz,
    sniff,
)
from crystalframer.data.structures.reading import Reading
from crystalframer.environment import has_semaphores
from crystalframer.errors import UserError, require_no_lack

FORMAT_OF_SUFFIX = {
    ".cif": "cif",
    ".mcif": "cif",
    ".vasp": "poscar",
    ".poscar": "poscar",
    ".extxyz": "extxyz",
    ".xyz": "extxyz",
    ".db": "ase",
    ".json": "json",
}
"""Format by suffix, after ``.gz`` is taken off; without one of these, POSCAR and CONTCAR go by their name."""
MAX_REFUSED = 1000
"""Structures of one file that may be refused in a row before the rest of it is left."""
_STRUCTURE_WORDS = (b'"lattice', b'"structure', b'"atoms"', b"_cell_length_a")
"""JSON without any of these holds no structure."""
_CHUNK = 16
_MIN_PARALLEL = 64
"""Fewer files are read in this process: starting others would take longer."""


@dataclass(frozen=True)
class FolderContent:
    """The files below a folder whose names are those of structure files, in order of their paths."""

    structures: list[Path]
    others: list[Path]
    """JSON that holds no structure, and databases of other programs."""


def look_through(folder: Path) -> FolderContent:
    """Return the structure files below a folder; hidden ones and links to folders are left."""
    found = [Path(parent, name) for parent, _, names in os.walk(folder) for name in names if format_of(Path(name))]
    found = sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    others = [path for path in found if not _may_hold_structures(path)]
    return FolderContent([path for path in found if path not in set(others)], others)


def find_structure_files(folder: Path) -> list[Path]:
    """Return the structure files below a folder, see `look_through`."""
    return look_through(folder).structures


def _may_hold_structures(path: Path) -> bool:
    """Return whether a file of a common suffix holds what a structure needs; one that cannot be read may."""
    kind = format_of(path)
    if kind not in ("ase", "json"):
        return True
    try:
        if kind == "ase":
            return may_hold_systems(path)
        content = read_bytes(path, ReadLimits().max_bytes)
    except (OSError, EOFError, zlib.error, UserError):
        return True
    return any(key in content for key in _STRUCTURE_WORDS)


def format_of(path: Path) -> str:
    """Return the format that a file's name tells, or an empty string."""
    name = path.name.removesuffix(".gz")
    named = "poscar" if name.upper().startswith(("POSCAR", "CONTCAR")) else ""
    return FORMAT_OF_SUFFIX.get(Path(name).suffix.lower(), named)


def read_structures(
    paths: Iterable[Path], *, processes: int = 1, limits: ReadLimits | None = None
) -> Iterator[Reading]:
    """Read structure files, in their order; a file that cannot be used yields a reason, never an exception.

    Args:
        paths: files, each of which may hold several structures.
        processes: read by this many; they are started where there are enough files to be worth it, and
            semaphores.
        limits: what a file may ask for.
    """
    limits = limits or ReadLimits()
    files = [Path(path) for path in paths]
    jobs = list(zip(files, unique_ids(files), strict=True))
    if processes > 1 and len(files) >= _MIN_PARALLEL and has_semaphores():
        yield from _read_parallel(jobs, processes, limits)
        return
    for path, id in jobs:
        yield from _named(path, id, read_file(path, limits))


def read_file(path: Path, limits: ReadLimits) -> Iterator[Reading]:
    """Read one file, one structure after another.

    Raises:
        OSError: no open file or memory is left.
    """
    try:
        yield from _read(path, limits)
    except UnicodeDecodeError:
        yield Reading(reason="the file is not text")
    except (*PARSE_ERRORS, zlib.error) as error:
        require_no_lack(error)
        yield Reading(reason=describe(error))
    except MemoryError:
        yield Reading(reason="the file needs more memory than there is")


def unique_ids(files: Sequence[Path]) -> list[str]:
    """Return an id for each file: its stem; where stems repeat, the path from the common folder; else numbered."""
    counts = Counter(_stem(path) for path in files)
    parents = [str(path.absolute().parent) for path in files if counts[_stem(path)] > 1]
    root = Path(os.path.commonpath(parents)) if parents else Path()
    ids = []
    for path in files:
        if counts[_stem(path)] == 1:
            ids.append(_stem(path))
        else:
            ids.append(path.absolute().relative_to(root).with_name(_stem(path)).as_posix())
    counts = Counter(ids)
    ids = [
        path.absolute().relative_to(root).as_posix() if counts[id] > 1 else id
        for path, id in zip(files, ids, strict=True)
    ]
    taken: Counter[str] = Counter()
    for position, id in enumerate(ids):
        taken[id] += 1
        if taken[id] > 1:
            ids[position] = f"{id}~{taken[id]}"
    return ids


def _read(path: Path, limits: ReadLimits) -> Iterator[Reading]:
    kind = format_of(path)
    if kind == "ase":
        yield from read_ase_db(path, limits)
    elif kind == "extxyz" and path.suffix != ".gz":
        with open_regular(path) as stream:
            yield from read_extxyz(lines_of(stream), limits)
    else:
        content = read_bytes(path, limits.max_bytes)
        if b"\0" in content:
            raise UserError("the file is binary, expected text")
        text = content.decode("utf-8-sig") if kind == "json" else decode(content)
        kind = kind or sniff(text)
        if kind == "extxyz":
            yield from read_extxyz(iter(io.StringIO(text)), limits)
        elif kind in TEXT_READERS:
            yield from TEXT_READERS[kind](text, limits)
        else:
            raise UserError("the format is unknown, expected CIF, POSCAR, extended XYZ, ASE database or pymatgen JSON")


def _stem(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    return Path(name).stem if FORMAT_OF_SUFFIX.get(Path(name).suffix.lower()) else name


def _named(path: Path, id: str, parsed: Iterator[Reading]) -> Iterator[Reading]:
    """Give each structure its id; only a file with more than one numbers them."""
    first = list(islice(parsed, 2))
    if not first:
        first = [Reading(reason="the file holds no structure")]
    if len(first) == 1:
        yield first[0].renamed(id, str(path))
        return
    refused = 0
    for number, entry in enumerate(chain(first, parsed), start=1):
        refused = refused + 1 if entry.crystal is None else 0
        yield entry.renamed(f"{id}#{number}", str(path))
        if refused > MAX_REFUSED:
            reason = f"{refused} structures in a row cannot be read: the rest of the file is left"
            yield Reading(f"{id}#{number + 1}", str(path), reason=reason)
            return


class _OutOfTimeError(BaseException):
    """Raised in a reading process by its alarm clock; no exception that a parser's handler would take for its own."""


def _read_parallel(jobs: list[tuple[Path, str]], processes: int, limits: ReadLimits) -> Iterator[Reading]:
    """Read chunks of files in other processes; a chunk that kills its process is read again, file by file."""
    chunks = [jobs[start : start + _CHUNK] for start in range(0, len(jobs), _CHUNK)]
    context = multiprocessing.get_context("spawn")
    position = 0
    size = _CHUNK
    while position < len(chunks):
        with ProcessPoolExecutor(processes, context, start_worker) as pool:
            waiting: list[Future[list[Reading]]] = []
            ahead = position
            try:
                while position < len(chunks):
                    while ahead < len(chunks) and len(waiting) < 4 * processes:
                        waiting.append(pool.submit(_read_chunk, chunks[ahead], limits))
                        ahead += 1
                    results = waiting.pop(0).result()
                    position += 1
                    yield from results
            except BrokenProcessPool:
                size = 1
        if size == 1 and position < len(chunks):
            yield from _read_alone(chunks[position], limits, context)
            position, size = position + 1, _CHUNK


def _read_alone(jobs: list[tuple[Path, str]], limits: ReadLimits, context: Any) -> Iterator[Reading]:
    """Read each file of a chunk in a process of its own, so that the one that kills it is known."""
    for path, id in jobs:
        with ProcessPoolExecutor(1, context, start_worker) as pool:
            try:
                results = pool.submit(_read_chunk, [(path, id)], limits).result()
            except BrokenProcessPool:
                results = [Reading(id, str(path), None, "reading the file killed its process (out of memory?)")]
        yield from results


def _read_chunk(jobs: list[tuple[Path, str]], limits: ReadLimits) -> list[Reading]:
    """Read files in a process of this pool, each within its time."""
    has_clock = hasattr(signal, "setitimer")
    if has_clock:
        signal.signal(signal.SIGALRM, _ring)
    results: list[Reading] = []
    for path, id in jobs:
        try:
            if has_clock:
                signal.setitimer(signal.ITIMER_REAL, limits.max_seconds)
            found = list(_named(path, id, read_file(path, limits)))
        except _OutOfTimeError:
            found = [Reading(id, str(path), None, f"the file took more than {limits.max_seconds:g} s to read")]
        finally:
            if has_clock:
                signal.setitimer(signal.ITIMER_REAL, 0)
        results += found
    return results


def _ring(number: int, frame: FrameType | None) -> None:
    raise _OutOfTimeError
