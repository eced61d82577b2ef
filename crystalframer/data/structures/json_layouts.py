"""The layouts of JSON in which people keep structures, all as named records.

A structure or a record of one; a list of either; either by id; what pandas writes in its orientations `split` (the
files of Matbench), `columns`, `records` and `table`; an answer of the Materials Project's interface; a line a record.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crystalframer.errors import UserError

STRUCTURE_KEYS = ("structure", "cif", "poscar", "atoms")
"""Where a record may hold its structure, and what a table may call the column of structures."""


def named_records(text: str) -> Iterator[tuple[str, Any]]:
    """Yield (name, structure or record) of each entry; the name is empty where the layout gives none.

    Raises:
        UserError: the text is malformed, or holds nothing that could be structures.
    """
    content = _records(text)
    if isinstance(content, Mapping):
        if isinstance(content.get("columns"), Sequence) and isinstance(content.get("data"), Sequence):
            content = _from_split(content)
        elif isinstance(content.get("data"), Sequence):
            content = content["data"]
        elif (key := structure_key(content)) and _is_column(content[key]):
            content = _from_columns(content, key)
        elif key or "lattice" in content:
            content = [content]
    if isinstance(content, Iterator):
        yield from (("", entry) for entry in content)
        return
    if not isinstance(content, Mapping | list):
        raise UserError(f"the file holds {type(content).__name__}, expected a structure, or a list or object of them")
    if not content:
        raise UserError("the file holds no structure")
    yield from content.items() if isinstance(content, Mapping) else (("", entry) for entry in content)


def structure_key(record: Mapping[str, Any]) -> str | None:
    """Return the key of a record's structure, whether written in capitals or not, or None.

    Raises:
        UserError: there are two that differ in capitals alone.
    """
    keys = [key for key in record if str(key).lower() in STRUCTURE_KEYS]
    for wanted in STRUCTURE_KEYS:
        found = [key for key in keys if str(key).lower() == wanted]
        if len(found) > 1:
            raise UserError(f"the record says {found[0]!r} and {found[1]!r}: one of them is wrong")
        if found:
            return found[0]
    return None


def parsed(text: str) -> Any:
    """Return what a JSON text holds.

    Raises:
        json.JSONDecodeError: it is malformed.
        UserError: an object says a key twice, of which one would be lost.
    """
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise UserError(f"the JSON says {twice[:40]!r} twice in one object: one of them is wrong")
    return found


def _records(text: str) -> Any:
    if len(text) > 2**20 and 3 * sum(map(text.count, "[{,")) > len(text):
        raise UserError("the JSON holds hardly more than brackets and commas, expected structures")
    try:
        return parsed(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data" or error.lineno != 2:
            raise UserError(f"the JSON is malformed, line {error.lineno}: {error.msg}") from error
    records = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            records += [parsed(line)] if line.strip() else []
        except json.JSONDecodeError as error:
            raise UserError(f"line {number} is malformed, expected a record in each line: {error.msg}") from error
    return records


def _is_column(value: Any) -> bool:
    """Return whether this is a column of structures rather than one."""
    return isinstance(value, list) or (isinstance(value, Mapping) and not {"lattice", "lattice_mat"} & value.keys())


def _from_split(table: Mapping[str, Any]) -> Iterator[Any] | list[Any] | dict[str, Any]:
    """Return the records of a table; without an index one by one, since they take more memory than their rows."""
    columns, rows = [str(name) for name in table["columns"]], table["data"]
    if len(set(columns)) != len(columns):
        raise UserError("two of the table's 'columns' have the same name: rename one")
    if any(not isinstance(row, list) or len(row) != len(columns) for row in rows):
        raise UserError(f"a row of the table's 'data' does not have {len(columns)} values, one for each of its columns")
    records = (dict(zip(columns, row, strict=True)) for row in rows)
    index = table.get("index")
    return _by_index(index, list(records)) if index else records if rows else []


def _from_columns(table: Mapping[str, Any], key: str) -> list[Any] | dict[str, Any]:
    columns = {name: _cells(column) for name, column in table.items()}
    index = list(columns[key])
    return _by_index(index, [{name: column.get(row) for name, column in columns.items()} for row in index])


def _cells(column: Any) -> dict[Any, Any]:
    """Return a column's cells by row."""
    return dict(column) if isinstance(column, Mapping) else dict(enumerate(column if isinstance(column, list) else ()))


def _by_index(index: Sequence[Any], records: list[Any]) -> list[Any] | dict[str, Any]:
    """Return records by an index that names them; one that only counts names nothing."""
    names = [str(name) for name in index]
    if names == [str(number) for number in range(len(records))] or len(set(names)) != len(records):
        return records
    return dict(zip(names, records, strict=True))
