"""JARVIS-style files: a list of JSON records ``{"atoms": {…}, "jid": …, …}``, plain or zipped, read as a stream."""

import contextlib
import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from crystalframer.data.crystal import ELEMENTS, Crystal
from crystalframer.errors import UserError, near_matches

CHUNK = 2**20
"""Characters read at a time."""
MAX_RECORD = 2**26
"""Longest record in characters; what does not parse within it is malformed, not merely unfinished."""

_NUMBER_OF = {symbol: number for number, symbol in enumerate(ELEMENTS, start=1)}
_GAP = re.compile(r"[\s,]*")


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a ``.json`` file, or of the only ``.json`` file in a ``.zip``, holding one at a time.

    Raises:
        UserError: the file is missing, is no list of JSON objects, is damaged or ends early.
    """
    if not path.is_file():
        raise UserError(f"source {path} does not exist or is not a file: give a .json file, or a .zip that holds one")
    try:
        with _open(path) as stream:
            yield from _parse(stream, path)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"source {path} is damaged ({error}): fetch it again") from error
    except UnicodeDecodeError as error:
        raise UserError(f"source {path} is not UTF-8 text ({error}): expected a list of JSON records") from error


def record_to_crystal(record: Mapping[str, Any], id: str) -> Crystal:
    """Read a record's ``atoms``: lattice_mat (rows, Å), coords, elements (spaces allowed), cartesian.

    Raises:
        UserError: a field is missing, an element is unknown, or the crystal is not valid; the message names the id.
    """
    atoms = record.get("atoms")
    if not isinstance(atoms, Mapping):
        raise UserError(f"crystal {id!r}: the record has no 'atoms' object")
    missing = [name for name in ("lattice_mat", "coords", "elements") if name not in atoms]
    if missing:
        raise UserError(f"crystal {id!r}: 'atoms' has no {' and no '.join(missing)}")
    if not isinstance(atoms["elements"], list):
        raise UserError(f"crystal {id!r}: elements is {atoms['elements']!r}, expected a list of symbols")
    symbols = [str(symbol).strip() for symbol in atoms["elements"]]
    for symbol in symbols:
        if symbol not in _NUMBER_OF:
            raise UserError(f"crystal {id!r}: {symbol!r} is not an element{_hint(symbol)}")
    numbers = np.array([_NUMBER_OF[symbol] for symbol in symbols], dtype=np.int64)
    if not atoms.get("cartesian", False):
        return Crystal(atoms["lattice_mat"], atoms["coords"], numbers, id)
    # Let a crystal with the atoms left out check the lattice before it is inverted.
    lattice = Crystal(atoms["lattice_mat"], np.zeros((1, 3)), np.ones(1, dtype=np.int64), id).lattice
    try:
        cart_coords = np.array(atoms["coords"], dtype=np.float64).reshape(len(numbers), 3)
        frac_coords = np.linalg.solve(lattice.T, cart_coords.T).T.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"crystal {id!r}: coords is not an array of shape ({len(numbers)}, 3) ({error})") from error
    return Crystal(lattice, frac_coords, numbers, id)


def record_number(record: Mapping[str, Any], field: str) -> float:
    """Return a record's number, NaN where it is absent, ``"na"``, null or not finite."""
    value = record.get(field)
    if isinstance(value, bool) or value is None:
        return math.nan
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return math.nan
    if not isinstance(value, int | float) or not math.isfinite(value):
        return math.nan
    return float(value)


def _hint(symbol: str) -> str:
    return near_matches(symbol, _NUMBER_OF) if 0 < len(symbol) <= 3 else ""


@contextlib.contextmanager
def _open(path: Path) -> Iterator[TextIO]:
    if not zipfile.is_zipfile(path):
        with path.open(encoding="utf-8") as stream:
            yield stream
        return
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(".json") and "__MACOSX" not in name]
        if len(members) != 1:
            raise UserError(f"source {path} holds {len(members)} .json files, expected one")
        with archive.open(members[0]) as binary:
            yield io.TextIOWrapper(binary, encoding="utf-8")


def _parse(stream: TextIO, path: Path) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    text = stream.read(CHUNK).lstrip("\ufeff \t\r\n")
    if not text.startswith("["):
        raise UserError(f"source {path} begins with {text[:20]!r}, expected a list of JSON records: '[{{…}}, …]'")
    start, count = 1, 0
    while True:
        match = _GAP.match(text, start)
        assert match is not None
        start = match.end()
        if text.startswith("]", start):
            return
        try:
            record, start = decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            chunk = stream.read(CHUNK) if len(text) - start <= MAX_RECORD else ""
            if not chunk:
                problem = f"record {count} is malformed or cut off ({error.msg})"
                raise UserError(f"source {path}: {problem}: fetch it again") from error
            text, start = text[start:] + chunk, 0
            continue
        if not isinstance(record, dict):
            raise UserError(f"source {path}: record {count} is {type(record).__name__}, expected a JSON object")
        count += 1
        yield record
