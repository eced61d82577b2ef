"""The bytes and the text of files of strangers: regular files only, bounded, whatever their encoding."""

import codecs
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from crystalframer.errors import UserError


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file to read its bytes.

    Raises:
        UserError: it is a pipe, a device or a folder, from which reading would wait or never end.
        OSError: it cannot be opened.
    """
    if not path.is_file():
        raise UserError("this is not a file" if path.exists() else "the file does not exist")
    return path.open("rb")


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Return a file's bytes, unpacked where it is gzip, in UTF-8 where it is marked as UTF-16 (as PowerShell writes).

    Raises:
        UserError: there are more than `max_bytes`.
        OSError, EOFError, zlib.error: it cannot be read or unpacked.
    """
    with open_regular(path) as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if packed else raw
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise UserError(f"the file has more than {max_bytes} bytes{' unpacked' if packed else ''}")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace").encode()
    return content


def decode(content: bytes) -> str:
    """Return text whose titles and names may be in any encoding; what matters in it is ASCII."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def lines_of(stream: IO[bytes]) -> Iterator[str]:
    while line := stream.readline(2**20):
        if len(line) == 2**20:
            raise UserError("a line is longer than 1 MiB")
        if b"\0" in line:
            raise UserError("the file is binary or UTF-16, expected text in UTF-8")
        yield decode(line)
