"""What a user brings, whatever its form, as one stream of structures with their targets."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crystalframer.data.preparation.spreadsheet import SPREADSHEET, read_sheet
from crystalframer.data.preparation.targets import SPLIT_COLUMN, TargetRow, TargetTable, encoding_of
from crystalframer.data.structures.files import look_through, read_structures
from crystalframer.data.structures.formats import ID_KEYS, ReadLimits, describe, name_in, parse_structure
from crystalframer.data.structures.json_layouts import STRUCTURE_KEYS, structure_key
from crystalframer.data.structures.reading import Reading, with_own_names
from crystalframer.errors import UserError, require_damage

TABLES = ("id_prop.csv", "targets.csv", "targets.xlsx")
"""Tables of targets that are found by themselves beside the structures, in this order."""
ONE_FILE = ReadLimits(max_bytes=4 * 2**30)
"""A file that the user names may be larger than one of many in a folder."""


@dataclass(frozen=True)
class UserStructures:
    """The structures of a source, each with its targets and, where it has one, its split among its properties."""

    readings: Iterator[Reading]
    notes: list[str] = field(default_factory=list)
    """What was passed over, a sentence each."""


def read_user_structures(source: Path, table: TargetTable | None, processes: int) -> UserStructures:
    """Read a folder of structure files, a file of several structures, or a table with a structure column.

    Args:
        source: folder or file.
        table: targets by file or id; None: those that stand in the file.
        processes: that parse the files of a folder.

    Raises:
        UserError: there is no such path, or it holds nothing that can be read.
    """
    notes: list[str] = []
    names: Mapping[str, Sequence[str]] = {}
    if source.is_dir():
        content = look_through(source)
        if not content.structures:
            raise UserError(f"{source} holds no structure file, expected CIF, POSCAR, extended XYZ, ASE .db or JSON")
        if content.others:
            some = ", ".join(path.name for path in content.others[:3]) + (", …" if len(content.others) > 3 else "")
            notes.append(f"{len(content.others):,} files hold no structure and were passed over: {some}")
        readings = read_structures(content.structures, processes=processes)
        names = {str(path): _aliases(path, source) for path in content.structures}
    elif not source.is_file():
        what = "is not a file or folder" if source.exists() else "does not exist"
        raise UserError(f"{source} {what}: give a folder or file of structures")
    elif source.suffix.lower() in (".parquet", ".csv", SPREADSHEET):
        readings = with_own_names(_read_table(source, notes))
    else:
        readings = with_own_names(read_structures([source], limits=ONE_FILE))
    return UserStructures(readings if table is None else _join(readings, table, names), notes)


def find_table(source: Path) -> Path | None:
    """Return the table of targets that lies in a folder: one of `TABLES`, or the only CSV or spreadsheet there."""
    if not source.is_dir():
        return None
    for name in TABLES:
        if (source / name).is_file():
            return source / name
    tables = [path for path in sorted(source.iterdir()) if path.suffix.lower() in (".csv", SPREADSHEET)]
    tables = [path for path in tables if not path.name.startswith((".", "~$"))]  # what a spreadsheet program locks with
    if len(tables) > 1:
        raise UserError(f"{source} holds {len(tables)} tables: say with --targets which one holds the targets")
    return tables[0] if tables else None


def _aliases(path: Path, folder: Path) -> list[str]:
    """Return how a table may name a file, the surest first; a program that reads ids as numbers makes 7 of 0007.

    The folder itself may be part of the name, as in the folder beside it.
    """
    inside = path.relative_to(folder)
    number = [str(int(path.stem))] if path.stem.isdecimal() else []
    outside = folder.absolute().name / inside
    return [inside.as_posix(), inside.with_suffix("").as_posix(), path.name, path.stem, outside.as_posix(), *number]


def _join(readings: Iterable[Reading], table: TargetTable, names: Mapping[str, Sequence[str]]) -> Iterator[Reading]:
    """Give each structure its row; rows and structures that find no partner become readings with a reason."""
    rows: dict[str, TargetRow] = {}
    repeated: list[Reading] = []
    for row in table.rows:
        if row.id in rows:
            repeated.append(Reading(row.id, reason="the targets have a second row for this id: the first one counts"))
        else:
            rows[row.id] = row
    counts = Counter(alias for aliases in names.values() for alias in set(aliases))
    used: set[str] = set()
    for reading in readings:
        keys = [reading.id, reading.name, *(key for key in names.get(reading.source, ()) if counts[key] == 1)]
        key = next((key for key in keys if key in rows), None)
        if key is None:
            yield _refused(reading, "no row of the targets names this structure")
        elif key in used:
            yield replace(reading, crystal=None, reason=f"the row {key!r} of the targets belongs to another structure")
        elif rows[key].reason:
            yield _refused(reading, rows[key].reason)
        else:
            row = rows[key]
            split = reading.properties.get(SPLIT_COLUMN) if row.split is None else row.split
            yield replace(reading, properties={**row.targets, SPLIT_COLUMN: split})
        if key is not None:
            used.add(key)
    for id, row in rows.items():
        if id not in used:
            yield Reading(id, reason=row.reason or "no structure belongs to this row of the targets")
    yield from repeated


def _refused(reading: Reading, reason: str) -> Reading:
    """Return a reading without its crystal; what is wrong with the file itself is said first."""
    return replace(reading, crystal=None, reason=reading.reason or reason)


def _read_table(path: Path, notes: list[str]) -> Iterator[Reading]:
    """Read a parquet file, CSV or spreadsheet with a structure column, row by row."""
    number = 0
    for number, record in enumerate(_records(path, notes), start=1):
        column = structure_key(record)
        if column is None:
            raise UserError(
                f"{path} has columns {', '.join(list(record)[:12])}, expected one of {', '.join(STRUCTURE_KEYS)} "
                "with a pymatgen dictionary, its JSON, a CIF or a POSCAR in each row"
            )
        unnamed = [key for key in record if key.startswith(("__index", "Unnamed:"))]
        if number == 1 and any(key.startswith("Unnamed:") for key in unnamed):
            notes.append(f"{path.name}: a column without a name is left out, as the index that a program wrote")
        properties = {key: value for key, value in record.items() if key != column and key not in unnamed}
        lowered = {key.lower(): value for key, value in properties.items()}
        index = next((record[key] for key in unnamed if isinstance(record[key], str)), "")
        name = name_in({key: lowered[key] for key in ID_KEYS if key in lowered}) or index
        reading = parse_structure(record[column], ReadLimits())
        reading = replace(reading, name=name, properties=properties)
        yield reading.renamed(name or f"{path.stem}#{number}", str(path))
    if not number:
        raise UserError(f"{path} holds no row")


def _records(path: Path, notes: list[str]) -> Iterator[dict[str, Any]]:
    """Yield a table's rows, a block of it in memory at a time, or a whole spreadsheet.

    Raises:
        UserError: the file is missing or damaged.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() == SPREADSHEET:
        sheet = read_sheet(path)
        notes += sheet.notes
        names = [name or f"Unnamed: {place}" for place, name in enumerate(sheet.lines[0][1])]
        yield from (dict(zip(names, cells, strict=True)) for _, cells in sheet.lines[1:])
        return
    try:
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=1024):
                    yield from batch.to_pylist()
        else:
            with path.open("rb") as stream:
                encoding = encoding_of(stream.read(2))
            options: dict[str, Any] = {"encoding": encoding, "encoding_errors": "replace", "low_memory": False}
            with pd.read_csv(path, chunksize=1024, **options) as reader:
                for block in reader:
                    yield from ({str(key): value for key, value in row.items()} for row in block.to_dict("records"))
    except (OSError, pa.ArrowException, pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        require_damage(path, error)
        raise UserError(
            f"{path} cannot be read ({describe(error)}): expected a table with a structure column"
        ) from error
