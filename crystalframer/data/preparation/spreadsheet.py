"""The sheet of an Excel file as the lines of a table: one sheet, no merged cells, numbers as numbers."""

import math
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crystalframer.data.preparation.cell_values import (
    DECIMAL_COMMA,
    is_empty,
    number_of,
    passed_over,
    titles,
    units_below,
)
from crystalframer.data.structures.records import ARCHIVE_DAMAGE
from crystalframer.errors import UserError, require_damage

SPREADSHEET = ".xlsx"
"""Suffix of the files that are read."""
OLD = (".xls", ".xlsb", ".xlsm", ".ods", ".numbers")
"""Suffixes of spreadsheets that are not."""
MAX_BYTES = 2**27
"""Most bytes of an unpacked file; as objects, cells take some ten times as much."""
MAX_CELLS = 2_000_000
"""Most cells between the first and the last one of a sheet."""
_NEVER_COMPUTED = re.compile(rb"<f(?:\s[^<>]*)?(?:/>|>[^<]*</f>)\s*(?:<v\s*/>|<v>\s*</v>)?\s*</c>")
"""A formula without the value that a spreadsheet program saves beside it."""
_CELL = re.compile(rb'<c\s[^<>]*?r="([A-Z]+\d+)"')
_MERGED = re.compile(rb'<mergeCell\s[^<>]*?ref="([A-Z]{1,3})([0-9]{1,7}):([A-Z]{1,3})([0-9]{1,7})"')


@dataclass(frozen=True)
class Sheet:
    """What a sheet holds."""

    lines: list[tuple[int, list[str]]]
    """Number of each row that is not empty, and its cells as text, as many in each row."""
    notes: list[str]
    """What was understood in a way that should be said, a sentence each."""


def read_sheet(path: Path) -> Sheet:
    """Read the only sheet of a file that holds anything; hidden sheets are passed over.

    Raises:
        UserError: the file cannot be read or is too large, several sheets or none hold anything, cells are merged,
            formulas were never computed, or a number is text with a decimal comma.
    """
    cells, notes = _cells(path)
    width = max(max(place for place, value in enumerate(row) if not is_empty(value)) + 1 for _, row in cells)
    texts = [(number, [_text(value) for value in row[:width]]) for number, row in cells]
    return Sheet(texts, [*notes, *_numbers_as_text(path, cells[1:], width)])


def _cells(path: Path) -> tuple[list[tuple[int, Sequence[Any]]], list[str]]:
    """Return the numbered rows of the sheet that hold values, from the header on, and notes."""
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    _check(path)
    try:
        with warnings.catch_warnings(), path.open("rb") as stream:  # openpyxl leaves a path's file open if it fails
            warnings.simplefilter("ignore")  # what openpyxl would not keep if it wrote the file again
            book = openpyxl.load_workbook(stream, data_only=True, keep_links=False)
    except (
        *ARCHIVE_DAMAGE,
        InvalidFileException,
        AttributeError,
        LookupError,
        ValueError,
        TypeError,
        SyntaxError,
    ) as error:
        require_damage(path, error)
        raise UserError(
            f"{path} cannot be read as a spreadsheet ({_reason(error)}): save it again as {SPREADSHEET}"
        ) from error
    try:
        for sheet in book.worksheets:
            if sheet.max_row * sheet.max_column > MAX_CELLS:
                raise UserError(
                    f"{path}: the sheet {sheet.title!r} reaches to {sheet.dimensions.rpartition(':')[2]}, at most "
                    f"{MAX_CELLS:,} cells are read: delete rows and columns beyond the table, or save it as .csv"
                )
        filled = [sheet for sheet in book.worksheets if any(not is_empty(v) for row in sheet.values for v in row)]
        shown = [sheet for sheet in filled if sheet.sheet_state == "visible"]
        if len(shown) != 1:
            names = ", ".join(repr(sheet.title) for sheet in shown[:6])
            found = f"{len(shown)} sheets that hold something ({names})" if shown else "no visible sheet with content"
            raise UserError(f"{path} has {found}, expected one: save the table of targets as a file of its own")
        (sheet,) = shown
        numbered: Iterator[tuple[int, Sequence[Any]]] = enumerate(sheet.values, start=1)
        rows = [(number, row) for number, row in numbered if any(not is_empty(value) for value in row)]
        above = titles([row for _, row in rows])
        if merged := sorted(str(cells) for cells in sheet.merged_cells.ranges if cells.max_row >= rows[above][0]):
            raise UserError(
                f"{path}: the cells {', '.join(merged[:3])}{', …' if len(merged) > 3 else ''} are merged, expected a "
                "value in each cell: unmerge them and fill in what each row needs"
            )
        hidden = [repr(sheet.title) for sheet in filled if sheet.sheet_state != "visible"]
        notes = [f"{path.name}: hidden sheets are passed over: {', '.join(hidden)}"] if hidden else []
        notes += passed_over(path.name, [row for _, row in rows[:above]])
        unseen = [str(number) for number, _ in rows if sheet.row_dimensions[number].hidden]
        unseen += sorted(letter for letter, column in sheet.column_dimensions.items() if column.hidden)
        if unseen:
            some = ", ".join(unseen[:3]) + (", …" if len(unseen) > 3 else "")
            notes.append(f"{path.name}: hidden rows and columns count like the others: {some}")
        return rows[above:], notes
    finally:
        book.close()


def _check(path: Path) -> None:
    """Raise a `UserError` where a file is no spreadsheet, too large, or holds formulas without values."""
    if path.suffix.lower() != SPREADSHEET:
        raise UserError(f"{path} is not read: save it as {SPREADSHEET} or .csv")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > MAX_BYTES:
                raise UserError(
                    f"{path} holds {size / 2**20:,.0f} MiB unpacked, at most {MAX_BYTES >> 20} are read: save the "
                    "table as .csv"
                )
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(damaged)
            for name in archive.namelist():
                if not name.startswith("xl/worksheets/"):
                    continue
                content = archive.read(name)
                if _merged(content) > MAX_CELLS:  # each of which openpyxl would make
                    raise UserError(f"{path} merges more than {MAX_CELLS:,} cells: unmerge them")
                if said := _uncomputed(content):
                    raise UserError(
                        f"{path} holds {said}: open it in a spreadsheet program and save it, or leave out that column"
                    )
    except ARCHIVE_DAMAGE as error:
        require_damage(path, error)
        raise UserError(
            f"{path} is no {SPREADSHEET} file, or damaged, or protected by a password: save it again, or as .csv"
        ) from error


def _merged(content: bytes) -> int:
    """Return how many cells of a sheet are merged."""
    from openpyxl.utils import column_index_from_string as column

    found = (match.groups() for match in _MERGED.finditer(content))
    return sum(
        (abs(column(right.decode()) - column(left.decode())) + 1) * (abs(int(bottom) - int(top)) + 1)
        for left, top, right, bottom in found
    )


def _uncomputed(content: bytes) -> str:
    """Return how many formulas of a sheet have no value, and where the first stands; nothing where all have one."""
    found = list(_NEVER_COMPUTED.finditer(content)) if b"<f" in content else []
    if not found:
        return ""
    cells = _CELL.findall(content[max(0, found[0].start() - 200) : found[0].start()])
    return f"{len(found):,} formulas without a value{f' (first {cells[-1].decode()})' if cells else ''}"


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _numbers_as_text(path: Path, rows: Sequence[tuple[int, Sequence[Any]]], width: int) -> Iterator[str]:
    """Yield a note for each column that holds numbers as text, or text among its numbers; the first names the rows.

    Raises:
        UserError: such a number has a decimal comma, which may as well separate two numbers.
    """
    from openpyxl.utils import get_column_letter

    first = [["" if value is None else str(value).strip() for value in row] for _, row in rows[:20]]
    units = {(rows[0][0], place) for place in units_below(first, 0)} if rows else set()
    for place in range(1, width):
        values = [(number, row[place]) for number, row in rows if not is_empty(row[place])]
        texts = [(number, value.strip()) for number, value in values if isinstance(value, str)]
        letter = get_column_letter(place + 1)
        if comma := [(number, text) for number, text in texts if DECIMAL_COMMA.fullmatch(text)]:
            number, text = comma[0]
            raise UserError(
                f"{path}, cell {letter}{number}: {text!r} is text with a comma, expected a number: let the spreadsheet "
                "program turn the column into numbers"
            )
        as_text = [number for number, text in texts if _is_number(text)]
        if as_text:
            yield f"{path.name}: {len(as_text):,} numbers in column {letter} are text (first {letter}{as_text[0]})"
        other = [(number, text) for number, text in texts if not _is_number(text) and (number, place) not in units]
        if other and len(other) < len(values):
            number, text = other[0]
            yield (
                f"{path.name}: {len(other):,} cells of column {letter} hold no number and count as empty (first "
                f"{letter}{number}: {text[:40]!r})"
            )


def _is_number(text: str) -> bool:
    return not math.isnan(number_of(text))


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
