"""JARVIS-style files: a list of JSON records ``{"atoms": {…}, "jid": …, …}``, plain or zipped, read as a stream.

A file is cut into chunks of whole records by looking at quotes and brackets alone, which is fast and needs little
memory; the chunks are then decoded, possibly in several processes.
"""

import contextlib
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson

from crystalframer.errors import UserError, near_matches, require_damage
from crystalframer.geometry.crystal import ELEMENTS, Crystal

CHUNK = 2**21
"""Bytes read at a time."""
MAX_RECORD = 2**26
"""Longest record in bytes; what is not complete within it is malformed, not merely unfinished."""

ARCHIVE_DAMAGE = (
    OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError
)  # fmt: skip
"""What reading a zip raises that is damaged, encrypted, or compressed in an unknown way."""

_NUMBER_OF = {symbol: number for number, symbol in enumerate(ELEMENTS, start=1)}
_GAP = re.compile(r"[\s,]*")
_QUOTE = 2
_KIND = np.zeros(256, dtype=np.int8)
_KIND[list(b'"')], _KIND[list(b"[{")], _KIND[list(b"]}")] = _QUOTE, 1, -1


@dataclass(frozen=True)
class Chunk:
    """Some records of a file as they stand there, separated by commas."""

    source: str
    """The file, for messages."""
    first: int
    """Number of the first record, counted from 0."""
    text: bytes


def split_records(path: Path) -> Iterator[Chunk]:
    """Cut a ``.json`` file, or the only ``.json`` file in a ``.zip``, into chunks of whole records.

    Raises:
        UserError: the file is missing, is no list, is damaged or ends early.
    """
    if not path.is_file():
        raise UserError(f"source {path} does not exist or is not a file: give a .json file, or a .zip that holds one")
    try:
        with _open(path) as stream:
            yield from _split(stream, path)
    except ARCHIVE_DAMAGE as error:
        require_damage(path, error)
        raise UserError(f"source {path} is damaged ({error}): fetch it again") from error


def decode_records(chunk: Chunk) -> list[dict[str, Any]]:
    """Return the records of a chunk.

    Raises:
        UserError: a record is malformed, no JSON object or no UTF-8 text.
    """
    text = b"[" + chunk.text.strip(b", \t\r\n") + b"]"
    try:
        records = orjson.loads(text)
    except orjson.JSONDecodeError:
        records = list(_decode_leniently(text, chunk))
    for number, record in enumerate(records, start=chunk.first):
        if not isinstance(record, dict):
            kind = type(record).__name__
            raise UserError(f"source {chunk.source}: record {number} is {kind}, expected a JSON object")
    return records


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


def _hint(symbol: str) -> str:
    return near_matches(symbol, _NUMBER_OF) if 0 < len(symbol) <= 3 else ""


@contextlib.contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            yield stream
        return
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(".json") and "__MACOSX" not in name]
        if len(members) != 1:
            raise UserError(f"source {path} holds {len(members)} .json files, expected one")
        with archive.open(members[0]) as stream:
            yield stream


def _split(stream: IO[bytes], path: Path) -> Iterator[Chunk]:
    text = stream.read(CHUNK).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text.startswith(b"["):
        begin = text[:20].decode(errors="replace")
        raise UserError(f"source {path} begins with {begin!r}, expected a list of JSON records: '[{{…}}, …]'")
    text, first = text[1:], 0
    while True:
        records, end, closing = _scan(text)
        if closing is not None and text[closing : closing + 1] == b"]":
            yield Chunk(str(path), first, text[:closing])
            _check_rest(text[closing + 1 :], stream, path)
            return
        if records and closing is None:
            yield Chunk(str(path), first, text[:end])
            text, first = text[end:], first + records
        more = stream.read(CHUNK) if closing is None and len(text) <= MAX_RECORD else b""
        if not more:
            raise UserError(f"source {path}: record {first} is malformed or cut off: fetch it again")
        text += more


def _scan(text: bytes) -> tuple[int, int, int | None]:
    """Return how many records end in a text, where the last one ends, and where the list is closed, if it is."""
    if b"\\" in text:  # an escaped quote ends no string; pairs of backslashes first, they escape nothing
        text = text.replace(rb"\\", b"..").replace(rb"\"", b"..")
    kind = _KIND[np.frombuffer(text, dtype=np.uint8)]
    where = np.flatnonzero(kind)
    kind = kind[where]
    quote = kind == _QUOTE
    bracket = ~quote & (np.cumsum(quote) % 2 == 0)
    where, kind = where[bracket], kind[bracket]
    depth = np.cumsum(kind, dtype=np.int64)
    below = np.flatnonzero(depth < 0)
    closing = int(where[below[0]]) if below.size else None
    ends = where[: below[0] if below.size else None][depth[: below[0] if below.size else None] == 0]
    return ends.size, int(ends[-1]) + 1 if ends.size else 0, closing


def _check_rest(text: bytes, stream: IO[bytes], path: Path) -> None:
    """Read to the end, which is what makes a .zip check its content."""
    while not text.strip():
        text = stream.read(CHUNK)
        if not text:
            return
    begin = text.strip()[:20].decode(errors="replace")
    raise UserError(f"source {path} goes on with {begin!r} after the list of records: fetch it again")


def _decode_leniently(text: bytes, chunk: Chunk) -> Iterator[Any]:
    """Decode what the strict decoder refuses: NaN and infinities as Python writes them; else name the bad record."""
    try:
        characters = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"source {chunk.source} is not UTF-8 text ({error}): expected a list of JSON records"
        ) from error
    decoder, start, number = json.JSONDecoder(), 1, chunk.first
    while True:
        gap = _GAP.match(characters, start)
        assert gap is not None
        start = gap.end()
        if start == len(characters) - 1:
            return
        try:
            record, start = decoder.raw_decode(characters, start)
        except (json.JSONDecodeError, RecursionError) as error:
            problem = f"record {number} is malformed or cut off ({error})"
            raise UserError(f"source {chunk.source}: {problem}: fetch it again") from error
        yield record
        number += 1
