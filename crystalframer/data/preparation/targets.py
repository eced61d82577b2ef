"""Tables of targets: ALIGNN's headerless ``id_prop.csv``, a CSV or a spreadsheet whose header names the targets."""

import codecs
import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crystalframer.data.preparation.cell_values import (
    DECIMAL_COMMA,
    THOUSANDS,
    is_value,
    number_of,
    passed_over,
    several_numbers,
    titles,
    units_below,
)
from crystalframer.data.preparation.spreadsheet import OLD, SPREADSHEET, read_sheet
from crystalframer.data.structures.content import decode
from crystalframer.data.structures.files import format_of
from crystalframer.data.structures.formats import ID_KEYS
from crystalframer.errors import UserError, require_no_lack
from crystalframer.escaping import shortened

MAX_BYTES = 2**30
"""Largest table of targets that is read."""
SPLIT_COLUMN = "split"
SPLIT_CODES = {
    "train": 0,
    "training": 0,
    "0": 0,
    "val": 1,
    "valid": 1,
    "validation": 1,
    "1": 1,
    "test": 2,
    "2": 2,
    "": -1,
    "none": -1,
    "-1": -1,
}
"""What a table may call a split."""
ALIGNN = "id_prop.csv"
"""Name of ALIGNN's table of targets."""
LONGEST_TASK = 100
"""Characters of a task's name; a longer one is cut."""
LONGEST_IN_BRACKETS = 60
"""Characters behind a column's name that are still taken for a unit."""
MAX_LIST = 32
"""Most targets in one cell, ``"0.1, 0.2"`` or ``[0.1, 0.2]``."""
_UNNAMED = re.compile(r"(Unnamed_[\d.]+(_level_\d+)?)?")
_COMMA = re.compile(r"[-+−]?\d+,\d+([eE][-+]?\d+)?")
Line = tuple[int, list[str], str]
"""The number of a line, its cells, and what is wrong with it."""


@dataclass(frozen=True)
class TargetRow:
    """One row: who it is of, its targets, and its split if the table has one."""

    id: str
    targets: Mapping[str, float]
    split: int | None = None
    reason: str = ""
    """Why the row cannot be used."""


@dataclass(frozen=True)
class TargetTable:
    """A table of targets."""

    rows: Sequence[TargetRow]
    names: Sequence[str]
    units: Mapping[str, str] = field(default_factory=dict)
    """Units that the header gives in brackets, ``bandgap (eV)``."""
    notes: Sequence[str] = ()
    """What was understood in a way that should be said, a sentence each."""
    key: str = ""
    """The column that says which structure a row is of, empty where there is no header."""
    sample: str = ""
    """What the first row holds, to show where there is no number."""


def read_targets(path: Path) -> TargetTable:
    """Read a table in which a column named `id`, or one of file names, or else the first one, says which structure.

    It is a CSV (commas, semicolons or tabs) or a spreadsheet (.xlsx).

    Without a header the targets are called `target`, or `target_1`, `target_2` and so on, as are several in one cell. A
    target that is no finite number is absent, true and false are 1 and 0; a row that does not fit the table is kept
    with the reason; the index of a pandas table is left out. ALIGNN's ``id_prop.csv`` has no header.

    Raises:
        UserError: the file cannot be read, or a column's name occurs twice.
    """
    table, separator, notes = _lines(path, "targets")
    header = _header(path, table)
    if header is None:
        widths = Counter(len(cells) for _, cells, problem in table if not problem and len(cells) > 1)
        width = widths.most_common(1)[0][0] - 1 if widths else 1
        columns = ["id", *(["target"] if width == 1 else [f"target_{k}" for k in range(1, width + 1)])]
        units = dict[str, str]()
    else:
        columns, units = header
        table = table[1:]
    while (index := _index(columns, table)) is not None:
        what = repr(columns[index]) if columns[index] else "without a name"
        notes.append(f"{path.name}: the column {what} is left out, as the index that a program wrote")
        del columns[index]
        for _, cells, problem in table:
            if not problem:
                del cells[index : index + 1]
    lowered = [column.lower() for column in columns]
    key = next((lowered.index(name) for name in ID_KEYS if name in lowered), None)
    key = (_column_of_files(len(columns), table) if header else 0) if key is None else key
    if header and (below := units_below([cells for _, cells, _ in table], key)):
        units = {columns[place]: unit for place, unit in below.items() if place < len(columns)} | units
        notes.append(f"{path.name}: row {table[0][0]} is taken for the units")
        table = table[1:]
    if separator != "," and (commas := _decimal_commas(table, key)):
        table = [
            (number, [cell.replace(",", ".") if cell in commas else cell for cell in cells], problem)
            for number, cells, problem in table
        ]
        example = min(commas)
        notes.append(f"{path.name}: commas are decimal ones, {example!r} is {example.replace(',', '.')}")
    if separator != ";":  # where a comma may be a decimal one
        columns, table = _with_lists_apart(columns, table, key)
        lowered = [column.lower() for column in columns]
    split = lowered.index(SPLIT_COLUMN) if SPLIT_COLUMN in lowered else None
    names = [column for place, column in enumerate(columns) if place not in (key, split)]
    counts = Counter(columns)
    twice = [place for place, column in enumerate(columns) if counts[column] > 1]
    if any(place in (key, split) or _holds_numbers(table, place) for place in twice):  # else none of them is a target
        raise UserError(f"{path}: a column's name occurs twice in {columns}: rename one")
    rows = [_row(cells, number, problem, columns, key, split) for number, cells, problem in table]
    numeric = [name for name in names if any(math.isfinite(row.targets.get(name, math.nan)) for row in rows)]
    units = {name: unit for name, unit in units.items() if name in numeric}
    notes += _commas(path.name, columns, table)
    sample = f"row {table[0][0]} holds {', '.join(repr(cell[:40]) for cell in table[0][1][:6])}" if table else ""
    return TargetTable(rows, numeric, units, notes, columns[key] if header else "", sample)


def read_splits(path: Path) -> dict[str, int]:
    """Read a table of ids and splits, with or without a header.

    Raises:
        UserError: the file cannot be read, or a row does not hold an id and a split.
    """
    found: dict[str, int] = {}
    for position, (number, cells, problem) in enumerate(_lines(path, "split")[0]):
        if not position and cells[-1].lower() == SPLIT_COLUMN:
            continue
        try:
            found[cells[0]] = split_code(problem or cells[-1])
        except UserError as error:
            raise UserError(f"{path}, line {number}: expected `id,split`: {error}") from error
    return found


def split_code(value: Any) -> int:
    """Return the code of a split's name.

    Raises:
        UserError: it is none.
    """
    text = "" if value is None or value != value else str(value).strip().lower().removesuffix(".0")
    if text not in SPLIT_CODES:
        raise UserError(f"{str(value)[:40]!r} is not a split, expected train, val or test")
    return SPLIT_CODES[text]


def task_name(text: str) -> tuple[str, str]:
    """Return a column's name as a task's, and its unit: ``E form (eV/atom)`` → E_form, eV/atom; ``K / GPa`` → K, GPa.

    Tasks name files and metrics: one of more than `LONGEST_TASK` characters is cut. A long text in brackets is no unit.
    """
    text = " ".join(text.split())
    match = re.fullmatch(r"(.*?)\s*[(\[]([^()\[\]]*(?:\([^()]*\))?)[)\]]\s*", text)
    match = match or re.fullmatch(r"(.*\S)\s+/\s+(\S+)\s*", text)
    has_unit = match is not None and match.group(1).strip() and len(match.group(2)) <= LONGEST_IN_BRACKETS
    name, unit = match.groups() if match is not None and has_unit else (text, "")
    task = re.sub(r"[^0-9A-Za-z_.+-]+", "_", name.strip()).strip("_")
    return shortened(task, LONGEST_TASK) or "target", unit.strip()


def _lines(path: Path, what: str) -> tuple[list[Line], str, list[str]]:
    """Return the lines of a table that are not empty, the separator and notes; a quoted cell may hold line breaks."""
    if path.suffix.lower() in (SPREADSHEET, *OLD):
        sheet = read_sheet(path)
        return [(number, cells, "") for number, cells in sheet.lines], ",", sheet.notes
    text = _text(path, what)
    first = next((line for line in text.splitlines()[:10] if re.search("[,;\t]", line)), "")  # titles may have none
    separator = _separator(first)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in cells], "") for cells in reader]
        lines = [line for line in lines if any(line[1])]
        above = titles([cells for _, cells, _ in lines])
        return lines[above:], separator, passed_over(path.name, [cells for _, cells, _ in lines[:above]])
    except csv.Error:  # found line by line
        numbered = enumerate(text.splitlines(), start=1)
        return [_line(number, line, separator) for number, line in numbered if line.strip()], separator, []


def _separator(line: str) -> str:
    """Return what separates the cells of a line; a comma in a number does not, where something else may."""
    for mark in (";", "\t"):
        with_commas = [cell for cell in line.split(mark) if "," in cell]
        if mark in line and all(_COMMA.fullmatch(cell.strip()) for cell in with_commas):
            return mark
    return ","


def _line(number: int, line: str, separator: str) -> Line:
    try:
        if "\0" in line:
            raise csv.Error("binary data")
        return number, [cell.strip() for cell in next(csv.reader([line], delimiter=separator, strict=True))], ""
    except csv.Error as error:
        return number, [line.split(separator)[0].strip()[:80]], f"the line is malformed ({error})"


def _text(path: Path, what: str) -> str:
    """Return the text of a table in UTF-8, in UTF-16 where its first bytes say so, or in Latin-1."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a file, expected a table")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} has more than {MAX_BYTES} bytes, expected a table")
        content = path.read_bytes()
    except OSError as error:
        require_no_lack(error)
        raise UserError(f"cannot read the {what} in {path} ({error.strerror})") from error
    if content.startswith(b"PK\3\4"):
        raise UserError(f"{path} is a spreadsheet or another archive, expected text: call it {path.stem}{SPREADSHEET}")
    encoding = encoding_of(content)
    return content.decode(encoding, errors="replace") if encoding == "utf-16" else decode(content)


def encoding_of(content: bytes) -> str:
    """Return the encoding of a text by its first bytes: UTF-16 where they say so, else UTF-8."""
    return "utf-16" if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _header(path: Path, table: Sequence[Line]) -> tuple[list[str], dict[str, str]] | None:
    """Return the columns' names and units, or None where the first row holds numbers already."""
    cells = table[0][1] if table else []
    named = any(cell.lower() in ID_KEYS for cell in cells[:2])
    if (path.name == ALIGNN and not named) or len(cells) < 2:
        return None
    words = [cell for cell in cells[1:] if cell != "Na"]  # sodium
    if not named and any(map(is_value, words)):
        return None
    parsed = [task_name(cell) if cell else ("", "") for cell in cells]
    return [name for name, _ in parsed], {name: unit for name, unit in parsed if unit}


def _index(columns: Sequence[str], table: Sequence[Line]) -> int | None:
    """Return which column is the index of a pandas table, or None; where nothing else names the rows, it does."""
    named = any(column.lower() in ID_KEYS for column in columns)
    rows = [cells for _, cells, problem in table if not problem and len(cells) == len(columns)]
    for place, column in enumerate(columns):
        cells = [row[place] for row in rows]
        if _UNNAMED.fullmatch(column):
            counts = bool(cells) and len(columns) > 2 and all(cell.isdecimal() for cell in cells)
            if named or place or (counts and math.isnan(number_of(rows[0][1]))):
                return place
        elif named and re.fullmatch(r"index|level_\d+", column) and cells == [str(row) for row in range(len(cells))]:
            return place
    return None


def _column_of_files(width: int, table: Sequence[Line]) -> int:
    """Return the first column that holds names of structure files alone, else the first one."""
    rows = [cells for _, cells, problem in table if not problem and len(cells) == width]
    for place in range(width):
        cells = [row[place] for row in rows if row[place]]
        if cells and all(format_of(Path(cell)) for cell in cells):
            return place
    return 0


def _decimal_commas(table: Sequence[Line], key: int) -> set[str]:
    """Return the cells whose comma is a decimal one, as in what a spreadsheet of many lands saves; `key` is no number.

    There are none where another cell has a decimal point, or where each comma might group thousands.
    """
    cells = {cell for _, row, problem in table if not problem for place, cell in enumerate(row) if place != key}
    commas = {cell for cell in cells if _COMMA.fullmatch(cell)}
    points = any("." in cell and not math.isnan(number_of(cell)) for cell in cells)
    return set() if points or all(THOUSANDS.fullmatch(cell) for cell in commas) else commas


def _with_lists_apart(columns: Sequence[str], table: Sequence[Line], key: int) -> tuple[list[str], list[Line]]:
    """Return a table with a column for each of several numbers in a cell."""
    for place in reversed(range(len(columns))):
        lists = [several_numbers(cells[place]) for _, cells, problem in table if not problem and place < len(cells)]
        sizes = {len(numbers) for numbers in lists if numbers}
        if place == key or len(sizes) != 1 or not 1 < (size := sizes.pop()) <= MAX_LIST:
            continue
        columns = [*columns[:place], *(f"{columns[place]}_{k}" for k in range(1, size + 1)), *columns[place + 1 :]]
        table = [
            (number, [*cells[:place], *(several_numbers(cells[place]) or [""] * size), *cells[place + 1 :]], problem)
            if not problem and place < len(cells)
            else (number, cells, problem)
            for number, cells, problem in table
        ]
    return list(columns), list(table)


def _commas(name: str, columns: Sequence[str], table: Sequence[Line]) -> Iterator[str]:
    """Yield a note for each column with decimal commas, which make no number of a cell."""
    for place, column in enumerate(columns):
        cells = [(number, cells[place]) for number, cells, problem in table if not problem and place < len(cells)]
        if commas := [(number, cell) for number, cell in cells if DECIMAL_COMMA.fullmatch(cell)]:
            first = "row {}: {!r}".format(*commas[0])
            yield f"{name}: {len(commas):,} cells of {column!r} have a comma, no point ({first}): no numbers"


def _holds_numbers(table: Sequence[Line], place: int) -> bool:
    cells = (cells[place] for _, cells, problem in table if not problem and place < len(cells))
    return any(not math.isnan(number_of(cell)) for cell in cells)


def _row(
    cells: Sequence[str], number: int, problem: str, columns: Sequence[str], key: int, split: int | None
) -> TargetRow:
    id = (cells[key] if key < len(cells) else "") or f"line {number}"
    if not problem and len(cells) != len(columns):
        problem = f"line {number} of the targets has {len(cells)} cells, expected {len(columns)}"
    if problem:
        return TargetRow(id, {}, None, problem)
    values = {
        name: number_of(cell)
        for place, (name, cell) in enumerate(zip(columns, cells, strict=True))
        if place not in (key, split)
    }
    try:
        code = None if split is None else split_code(cells[split])
    except UserError as error:
        return TargetRow(id, {}, None, str(error))
    return TargetRow(id, values, code)
