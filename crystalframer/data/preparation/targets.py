"""Tables of targets: ALIGNN's headerless ``id_prop.csv``, or a CSV whose header names the targets."""

import csv
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crystalframer.data.structures.formats import ID_KEYS
from crystalframer.errors import UserError

MAX_BYTES = 2**30
"""Largest table of targets that is read."""
MAX_TARGET = 1e15
"""Largest target; single precision, in which models are trained, cannot square much more."""
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
_ABSENT = ("", "na", "n/a", "nan", "none", "null", "-")


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


def read_targets(path: Path) -> TargetTable:
    """Read a CSV (commas, semicolons or tabs), the first column or one named `id` saying which structure a row is of.

    Without a header the targets are called `target`, or `target_1`, `target_2` and so on. A target that is no finite
    number is absent; a row that does not fit the table is kept with the reason. ALIGNN's ``id_prop.csv`` has no header.

    Raises:
        UserError: the file cannot be read, or a column's name occurs twice.
    """
    table = _rows(path)
    header = _header(path, table)
    if header is None:
        widths = Counter(len(cells) for _, cells, problem in table if not problem and len(cells) > 1)
        width = widths.most_common(1)[0][0] - 1 if widths else 1
        columns = ["id", *(["target"] if width == 1 else [f"target_{k}" for k in range(1, width + 1)])]
        body, units = table, dict[str, str]()
    else:
        columns, units = header
        body = table[1:]
    lowered = [column.lower() for column in columns]
    key = next((lowered.index(name) for name in ID_KEYS if name in lowered), 0)
    split = lowered.index(SPLIT_COLUMN) if SPLIT_COLUMN in lowered else None
    names = [column for place, column in enumerate(columns) if place not in (key, split)]
    if len(set(columns)) != len(columns):
        raise UserError(f"{path}: a column's name occurs twice in {columns}: rename one")
    rows = [_row(cells, number, problem, columns, key, split) for number, cells, problem in body]
    numeric = [name for name in names if any(math.isfinite(row.targets.get(name, math.nan)) for row in rows)]
    return TargetTable(rows, numeric, {name: unit for name, unit in units.items() if name in numeric})


def number_of(value: Any) -> float:
    """Return a value as a number, NaN where it is none, not finite or beyond `MAX_TARGET`."""
    if isinstance(value, bool) or value is None:
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if abs(number) <= MAX_TARGET else math.nan


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
    """Return a column's name as a task's, and the unit it gives in brackets: ``E form (eV/atom)`` → E_form, eV/atom."""
    match = re.fullmatch(r"(.*?)\s*[(\[]([^()\[\]]*(?:\([^()]*\))?)[)\]]\s*", text)
    name, unit = (match.group(1), match.group(2)) if match and match.group(1).strip() else (text, "")
    return re.sub(r"[^0-9A-Za-z_.+-]+", "_", name.strip()).strip("_") or "target", unit.strip()


def _rows(path: Path) -> list[tuple[int, list[str], str]]:
    """Return (line number, cells, problem) of each line that is not empty."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} has more than {MAX_BYTES} bytes, expected a table of targets")
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise UserError(f"cannot read the targets in {path} ({error.strerror})") from error
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    first = lines[0][1] if lines else ""
    separator = next((mark for mark in (",", ";", "\t") if mark in first), ",")
    table = []
    for number, line in lines:
        try:
            if "\0" in line:
                raise csv.Error("binary data")
            cells = [cell.strip() for cell in next(csv.reader([line], delimiter=separator, strict=True))]
            table.append((number, cells, ""))
        except csv.Error as error:
            table.append((number, [line.split(separator)[0].strip()[:80]], f"the line is malformed ({error})"))
    return table


def _header(path: Path, table: Sequence[tuple[int, list[str], str]]) -> tuple[list[str], dict[str, str]] | None:
    """Return the columns' names and units, or None where the first row holds numbers already."""
    cells = table[0][1] if table else []
    if path.name == ALIGNN and cells[:1] and cells[0].lower() not in ID_KEYS:
        return None
    if any(cell.lower() in _ABSENT or not math.isnan(number_of(cell)) for cell in cells[1:]) or len(cells) < 2:
        return None
    parsed = [task_name(cell) for cell in cells]
    return [name for name, _ in parsed], {name: unit for name, unit in parsed if unit}


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
