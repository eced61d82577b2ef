"""Crystals from databases of ASE, which are SQLite files; other programs' are left as they are."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crystalframer.data.structures.content import open_regular
from crystalframer.data.structures.formats import PARSE_ERRORS, ReadLimits, describe, from_atoms
from crystalframer.data.structures.reading import Reading
from crystalframer.errors import UserError

_SQLITE = b"SQLite format 3\0"
_STEPS = 100_000
"""Instructions of SQLite between two looks at the clock."""


def may_hold_systems(path: Path) -> bool:
    """Return whether a file is an SQLite database with ASE's table of systems, or one that cannot be read.

    Raises:
        UserError: it is a pipe, a device or a folder.
        OSError: it cannot be opened.
    """
    if not _is_sqlite(path):
        return False
    try:
        return _kind_of_systems(path) == "table"
    except sqlite3.Error:
        return True


def read_ase_db(path: Path, limits: ReadLimits) -> Iterator[Reading]:
    """Read an ASE database row by row: key-value pairs, then ``data``, are its properties.

    It is opened for reading alone: ASE would add its tables to what has none. A row has ``limits.max_seconds``.
    """
    if not _is_sqlite(path):
        raise UserError("the file is no SQLite database")
    try:
        kind = _kind_of_systems(path)
    except sqlite3.DatabaseError as error:
        yield _unreadable(error)
        return
    if kind != "table":
        raise UserError("the file is a database of another program, expected ASE's table of systems")
    clock = _Clock(limits.max_seconds)
    with _database(path, clock) as database:
        rows = iter(database.select())
        while True:
            clock.start()
            try:
                row = next(rows, None)
                if row is None:
                    return
                extra = {key: row[key] for key in ("energy",) if key in row}
                properties = extra | dict(row.data) | dict(row.key_value_pairs)
                yield from_atoms(row.toatoms(), limits, str(row.id), properties)
            except sqlite3.DatabaseError as error:
                yield _unreadable(error)
                return
            except PARSE_ERRORS as error:
                yield Reading(reason=describe(error))


class _Clock:
    """Says when a row takes too long: a signal's handler waits until SQLite's call has ended."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.start()

    def start(self) -> None:
        self._end = time.monotonic() + self._seconds

    def is_over(self) -> bool:
        return time.monotonic() > self._end


def _is_sqlite(path: Path) -> bool:
    with open_regular(path) as stream:
        return stream.read(len(_SQLITE)) == _SQLITE


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=20)


def _kind_of_systems(path: Path) -> str | None:
    """Return whether a database's ``systems`` are a table or a view, None where it has none."""
    connection = _connect(path)
    try:
        found = connection.execute("SELECT type FROM sqlite_master WHERE name = 'systems'").fetchone()
        return None if found is None else str(found[0])
    finally:
        connection.close()


def _database(path: Path, clock: _Clock) -> Any:
    from ase.db.sqlite import SQLite3Database

    class ReadOnly(SQLite3Database):
        """A database that is not written to, whose queries end when the clock says so."""

        def _connect(self) -> sqlite3.Connection:
            connection = _connect(path)
            connection.set_progress_handler(clock.is_over, _STEPS)
            return connection

    return ReadOnly(str(path.absolute()), use_lock_file=False)


def _unreadable(error: sqlite3.DatabaseError) -> Reading:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    what = "is damaged" if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) else "cannot be read"
    what = "took too long to read" if code == sqlite3.SQLITE_INTERRUPT else what
    return Reading(reason=f"the database {what} ({error}): the rest is not read")
