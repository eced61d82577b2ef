"""JSON files of a sweep: sealed by a checksum, and read so that damage is one sentence with the file's name."""

import contextlib
import functools
import json
import re
import zlib
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from crystalframer.atomic_files import require_regular
from crystalframer.errors import UserError, require_no_lack

T = TypeVar("T")
_SEALED = re.compile(rb'\{\s*"crc32":\s*(?:"([0-9a-f]{8})",)?\s*(.*)', re.DOTALL)


class DamagedError(UserError):
    """A file of a sweep that does not say what it should; the message names it and what to do."""


def sealed(content: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Return an object as JSON whose first entry is the CRC-32 of all that follows, white space at both ends apart."""
    rest = json.dumps(content, indent=indent)[1:]
    text = rest.lstrip()
    return f'{{{rest[: -len(text)]}"crc32": "{zlib.crc32(text.encode()):08x}",{rest if indent else f" {text}"}'


def read_json(path: Path, kind: type[T]) -> T | None:
    """Return what a JSON file holds, or None where there is no such file; fields that are not known are passed over.

    Raises:
        DamagedError: the file is no JSON, or lacks something, or cannot be read.
        OSError: no open file or memory is left.
    """
    try:
        with opened(path) as file:
            content = file.read()
    except FileNotFoundError:
        return None
    return parse_json(content, kind, str(path), "delete this file to have it written anew")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading.

    Raises:
        FileNotFoundError: there is none.
        DamagedError: it cannot be read, or is a pipe or a device.
        OSError: no open file or memory is left.
    """
    try:
        require_regular(path)
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise
    except OSError as error:
        require_no_lack(error)
        raise DamagedError(f"{path} cannot be read: {error.strerror}") from error


def parse_json(content: bytes, kind: type[T], where: str, remedy: str) -> T:
    """Return what JSON holds, see `read_json`; the error names the place and the remedy.

    What has no seal, as version 0.1 wrote it, is read without one.
    """
    if (seal := _SEALED.fullmatch(content)) is not None:
        content = b"{" + seal[2]
        if seal[1] is None or int(seal[1], 16) != zlib.crc32(seal[2].rstrip()):
            raise DamagedError(f"{where} is damaged; {remedy} (its checksum is another)")
    elif not content.strip(b"{} \t\r\n"):
        raise DamagedError(f"{where} is damaged; {remedy} (it holds nothing)")
    try:
        parsed: T = _adapter(cast("Hashable", kind)).validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        reason = ": ".join([*map(str, first["loc"]), first["msg"]])
        raise DamagedError(f"{where} is damaged; {remedy} ({reason})") from error
    return parsed


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
