"""What a user brings, whatever its form, as one stream of structures with their targets."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crystalframer.data.preparation.targets import SPLIT_COLUMN, TargetRow, TargetTable
from crystalframer.data.structures.files import (
    find_structure_files,
    read_structures,
)
from crystalframer.data.structures.formats import ID_KEYS, ReadLimits, describe, name_in, parse_structure
from crystalframer.data.structures.reading import Reading
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal

STRUCTURE_COLUMNS = ("structure", "cif", "poscar", "atoms")
"""Columns of a table that may hold the structure."""
TABLES = ("id_prop.csv", "targets.csv")
"""Tables of targets that are found by themselves beside the structures, in this order."""
ONE_FILE = ReadLimits(max_bytes=4 * 2**30)
"""A file that the user names may be larger than one of many in a folder."""


@dataclass(frozen=True)
class Entry:
    """One structure or row: a crystal or a reason, and what stands beside it."""

    id: str
    crystal: Crystal | None
    reason: str = ""
    properties: Mapping[str, Any] = field(default_factory=dict)
    split: Any = None
    """As given; None where nothing is."""


def read_own(source: Path, table: TargetTable | None, processes: int) -> Iterator[Entry]:
    """Read a folder of structure files, a file of several structures, or a table with a structure column.

    Args:
        source: folder or file.
        table: targets by file or id; None: those that stand in the file.
        processes: that parse the files of a folder.

    Raises:
        UserError: there is no such path, or it holds nothing that can be read.
    """
    if source.is_dir():
        files = find_structure_files(source)
        tables = set(source.glob("*.csv"))
        files = [path for path in files if path not in tables]
        if not files:
            raise UserError(f"{source} holds no structure file, expected CIF, POSCAR, extended XYZ, ASE .db or JSON")
        found = _entries(read_structures(files, processes=processes))
        names = {str(path): _aliases(path, source) for path in files}
    elif source.suffix.lower() in (".parquet", ".csv"):
        found, names = _unique(_read_table(source)), {}
    elif source.is_file():
        found, names = _unique(_entries(read_structures([source], limits=ONE_FILE))), {}
    else:
        raise UserError(f"{source} does not exist: give a folder or file of structures")
    if table is None:
        yield from (entry for entry, _ in found)
    else:
        yield from _join(found, table, names)


def find_table(source: Path) -> Path | None:
    """Return the table of targets that lies in a folder: `id_prop.csv`, `targets.csv`, or the only CSV there."""
    if not source.is_dir():
        return None
    for name in TABLES:
        if (source / name).is_file():
            return source / name
    tables = sorted(source.glob("*.csv"))
    if len(tables) > 1:
        raise UserError(f"{source} holds {len(tables)} CSV files: say with --targets which one holds the targets")
    return tables[0] if tables else None


def _entries(results: Iterable[Reading]) -> Iterator[tuple[Entry, Reading]]:
    for result in results:
        yield Entry(result.id, result.crystal, result.reason, result.properties, _split(result.properties)), result


def _split(properties: Mapping[str, Any]) -> Any:
    return properties.get(SPLIT_COLUMN)


def _unique(found: Iterable[tuple[Entry, Reading]]) -> Iterator[tuple[Entry, Reading]]:
    """Prefer the file's own names as ids; one that occurs again gets the suffix ``#2``, ``#3`` and so on."""
    taken: Counter[str] = Counter()
    for entry, result in found:
        id = result.name or entry.id
        taken[id] += 1
        id = id if taken[id] == 1 else f"{id}#{taken[id]}"
        yield replace(entry, id=id, crystal=entry.crystal and entry.crystal.with_id(id)), result


def _aliases(path: Path, folder: Path) -> list[str]:
    """Return how a table may name a file, the surest first."""
    inside = path.relative_to(folder)
    return [inside.as_posix(), inside.with_suffix("").as_posix(), path.name, path.stem]


def _join(
    found: Iterable[tuple[Entry, Reading]], table: TargetTable, names: Mapping[str, Sequence[str]]
) -> Iterator[Entry]:
    """Give each structure its row; rows and structures that find no partner become entries with a reason."""
    rows: dict[str, TargetRow] = {}
    repeated: list[Entry] = []
    for row in table.rows:
        if row.id in rows:
            repeated.append(Entry(row.id, None, "the targets have a second row for this id: the first one counts"))
        else:
            rows[row.id] = row
    counts = Counter(alias for aliases in names.values() for alias in set(aliases))
    used: set[str] = set()
    for entry, result in found:
        keys = [entry.id, result.name, *(key for key in names.get(result.source, ()) if counts[key] == 1)]
        key = next((key for key in keys if key in rows), None)
        if key is None:
            reason = entry.reason or "no row of the targets names this structure"
            yield replace(entry, crystal=None, reason=reason)
            continue
        row = rows[key]
        if key in used:
            yield replace(entry, crystal=None, reason=f"the row {key!r} of the targets belongs to another structure")
        elif row.reason:
            yield replace(entry, crystal=None, reason=entry.reason or row.reason)
        else:
            split = entry.split if row.split is None else row.split
            yield replace(entry, properties=row.targets, split=split)
        used.add(key)
    for id, row in rows.items():
        if id not in used:
            yield Entry(id, None, row.reason or "no structure belongs to this row of the targets")
    yield from repeated


def _read_table(path: Path) -> Iterator[tuple[Entry, Reading]]:
    """Read a parquet file or CSV with a structure column, row by row."""
    number = 0
    for record in _records(path):
        number += 1
        lowered = {key.lower(): key for key in record}
        column = next((lowered[name] for name in STRUCTURE_COLUMNS if name in lowered), None)
        if column is None:
            raise UserError(
                f"{path} has columns {', '.join(list(record)[:12])}, expected one of {', '.join(STRUCTURE_COLUMNS)} "
                "with a pymatgen dictionary, its JSON, a CIF or a POSCAR in each row"
            )
        properties = {key: value for key, value in record.items() if key != column and not key.startswith("__index")}
        index = record.get("__index_level_0__")
        name = name_in({key: properties[lowered[key]] for key in ID_KEYS if lowered.get(key) in properties})
        name = name or (index if isinstance(index, str) else "")
        id = name or f"{path.stem}#{number}"
        reading = parse_structure(record[column], ReadLimits())
        result = replace(reading, name=name, properties=properties).renamed(id, str(path))
        yield Entry(id, result.crystal, result.reason, properties, _split(properties)), result
    if not number:
        raise UserError(f"{path} holds no row")


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a table's rows, a block of it in memory at a time.

    Raises:
        UserError: the file is missing or damaged.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=1024):
                    yield from batch.to_pylist()
        else:
            with pd.read_csv(path, chunksize=1024, encoding_errors="replace", low_memory=False) as reader:
                for block in reader:
                    yield from ({str(key): value for key, value in row.items()} for row in block.to_dict("records"))
    except (OSError, pa.ArrowException, pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({describe(error)}): expected a table with a structure column"
        ) from error
