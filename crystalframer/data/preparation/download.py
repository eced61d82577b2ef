"""Fetching a file over HTTP: resumed where it broke off, retried, and what arrives is checked by size and hash.

Beside a download FILE stand ``FILE.json`` (its size and SHA-256, recorded on first use and required from then on) and,
while it is under way, ``FILE.part`` with ``FILE.part.json`` (what the server said about the whole).
"""

import json
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import requests

from crystalframer import __version__
from crystalframer.atomic_files import flush_to_disk, replace_text, sha256_of
from crystalframer.data.disk import room
from crystalframer.data.progress import Update, Watch, silent
from crystalframer.errors import UserError

BLOCK = 2**14
"""Bytes written at a time."""
TRANSIENT = frozenset({404, 408, 425, 429, 500, 502, 503, 504})
"""Answers worth another try; servers that are being updated answer 404 for a moment."""
HASTY = 2
"""A failure that rarely mends itself counts as this many."""


@dataclass(frozen=True)
class Policy:
    """How patient a download is."""

    attempts: int = 6
    """Failures in a row without a new byte before giving up."""
    connect_s: float = 15.0
    stall_s: float = 60.0
    """Seconds without a byte that count as a failure."""
    first_wait_s: float = 1.0
    """Wait after the first failure; doubled after each further one, with some chance in it."""
    longest_wait_s: float = 60.0


POLICY = Policy()


@dataclass(frozen=True)
class Pin:
    """What a finished download was found to be."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class _Whole:
    """What the server says about the file of which a part has arrived."""

    validator: str
    """Its ETag, or else its date; changes with the file."""
    bytes: int | None


class _InterruptedError(Exception):
    """The attempt failed, the next one may not."""

    def __init__(self, problem: str, weight: int = 1, wait_s: float = 0.0) -> None:
        super().__init__(problem)
        self.weight = weight
        self.wait_s = wait_s


class _RefusedError(Exception):
    """This address will not give the file."""


def fetch(
    addresses: Sequence[str],
    target: Path,
    *,
    page: str,
    sha256: str | None = None,
    size: int | None = None,
    watch: Watch = silent,
) -> Pin:
    """Have a file at `target`, fetched unless it is there already.

    Args:
        addresses: where it is to be had; the next is tried when one fails for good.
        target: where it is kept. A file that is there without a record was put there by the user and is recorded.
        page: address for a browser, named when scripts are turned away.
        sha256: expected hash, if known; else the one recorded on first use, if any.
        size: expected bytes, if known.
        watch: reports how far it is.

    Raises:
        UserError: it cannot be had, or is not what it was; nothing unfinished is taken for the file.
    """
    record = _beside(target, ".json")
    pinned = _read(record, Pin)
    expected = Pin(size or (pinned.bytes if pinned else 0), sha256 or (pinned.sha256 if pinned else ""))
    if target.is_file():
        pin = _pin(target)
        if _fits(pin, expected):
            _write(record, pin)
            return pin
        raise UserError(
            f"{target} has {_words(pin)}, expected {_words(expected)}: delete it to have it fetched again, or, if you "
            f"trust it, delete {record}"
        )
    with room(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        pin = _fetch(addresses, target, expected, page, watch)
        _write(record, pin)
        flush_to_disk(_beside(target, ".part"))
        _beside(target, ".part").rename(target)
        flush_to_disk(target.parent)
        _beside(target, ".part.json").unlink(missing_ok=True)
    return pin


def _fetch(addresses: Sequence[str], target: Path, expected: Pin, page: str, watch: Watch) -> Pin:
    """Try one address after the other until the part file is the whole one."""
    problems = []
    with requests.Session() as session:
        session.headers.update({"User-Agent": f"crystalframer/{__version__}", "Accept-Encoding": "identity"})
        for address in addresses:
            try:
                return _insist(session, address, target, expected, watch)
            except (_RefusedError, _InterruptedError) as problem:
                problems.append(f"{address}: {problem}")
    raise UserError(
        f"cannot fetch {target.name} ({'; '.join(problems)}): fetch {page} with a browser and name the file with "
        f"--source FILE, or put it at {target}"
    )


def _insist(session: requests.Session, address: str, target: Path, expected: Pin, watch: Watch) -> Pin:
    """Try one address again and again, as long as that is reasonable."""
    part, failures = _beside(target, ".part"), 0
    while True:
        before = _size(part)
        try:
            _attempt(session, address, part, lambda total: watch(f"fetching {target.name}", total, "MB"))
            return _checked(part, target, expected, resumed=before > 0)
        except _InterruptedError as problem:
            failures = problem.weight if _size(part) > before else failures + problem.weight
            if failures >= POLICY.attempts:
                raise
            wait = min(POLICY.longest_wait_s, POLICY.first_wait_s * 2 ** (failures - 1))
            with watch(f"fetching {target.name}: {problem}; trying again", POLICY.attempts, "failures") as update:
                update(failures)
                time.sleep(max(min(problem.wait_s, POLICY.longest_wait_s), wait * random.uniform(0.5, 1.0)))


def _attempt(
    session: requests.Session, address: str, part: Path, watch: Callable[[int | None], AbstractContextManager[Update]]
) -> None:
    """Make one request, for what is missing if something is there, and write what comes."""
    have, known = _size(part), _read(_beside(part, ".json"), _Whole)
    headers = {}
    if have and known is not None:
        headers["Range"] = f"bytes={have}-"
        if known.validator and not known.validator.startswith("W/"):
            headers["If-Range"] = known.validator
    try:
        with session.get(address, headers=headers, stream=True, timeout=(POLICY.connect_s, POLICY.stall_s)) as response:
            whole, start = _judge(response, have, known, part)
            if whole is None:
                return
            _write(_beside(part, ".json"), whole)
            received = start
            with watch(whole.bytes) as update, part.open("r+b" if start else "wb") as file:
                file.seek(start)
                for block in response.iter_content(BLOCK):
                    file.write(block)
                    received += len(block)
                    update(received)
    except requests.exceptions.ConnectionError as error:
        raise _InterruptedError(_reason(error), weight=1 if _size(part) > have else HASTY) from error
    except requests.exceptions.RequestException as error:
        if isinstance(error, ValueError):  # how requests marks addresses that are none
            raise _RefusedError(f"is no address that can be fetched ({error})") from error
        raise _InterruptedError(_reason(error)) from error
    if whole.bytes is not None and received != whole.bytes:
        raise _InterruptedError(f"{received:,} of {whole.bytes:,} bytes arrived")


def _judge(response: requests.Response, have: int, known: _Whole | None, part: Path) -> tuple[_Whole | None, int]:
    """Return what the answer says of the whole file and where its content begins; None: all of it has arrived."""
    status, headers = response.status_code, response.headers
    if status == 202 or headers.get("x-amzn-waf-action"):
        raise _RefusedError("the server wants to see a browser first (an empty answer 202, a 'challenge')")
    if status in TRANSIENT:
        after = headers.get("Retry-After", "")
        wait = float(after) if after.isdecimal() else 0.0
        raise _InterruptedError(f"the server answers {status}", HASTY if status == 404 else 1, wait)
    if status in (206, 416):
        whole, start = _range(headers)
        if status == 416 and whole.bytes == have:
            return None, have
        if status == 206 and start == have and whole == known:
            return whole, start
        part.unlink(missing_ok=True)
        raise _InterruptedError("the file changed meanwhile")
    if status != 200:
        raise _RefusedError(f"the server answers {status} {response.reason}")
    if headers.get("Content-Type", "").startswith("text/html"):
        raise _RefusedError("the server answers with a web page instead of the file")
    length = headers.get("Content-Length", "") if headers.get("Content-Encoding", "identity") == "identity" else ""
    return _Whole(_validator(headers), int(length) if length.isdecimal() else None), 0


def _range(headers: Mapping[str, str]) -> tuple[_Whole, int]:
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+)", headers.get("Content-Range", "").strip())
    if found is None:
        return _Whole("", None), -1
    return _Whole(_validator(headers), int(found[2])), int(found[1] or -1)


def _validator(headers: Mapping[str, str]) -> str:
    return headers.get("ETag") or headers.get("Last-Modified", "")


def _checked(part: Path, target: Path, expected: Pin, resumed: bool) -> Pin:
    """Return what has arrived, if it is what it should be; else delete it."""
    pin = _pin(part)
    if pin.bytes and _fits(pin, expected):
        return pin
    part.unlink()
    _beside(part, ".json").unlink(missing_ok=True)
    if resumed:
        raise _InterruptedError("what arrived in pieces does not fit together")
    if not pin.bytes:
        raise _InterruptedError("the server sends an empty file", HASTY)
    raise UserError(
        f"{target.name} as fetched has {_words(pin)}, expected {_words(expected)}: the server's file has changed or "
        f"was tampered with; if you trust it, delete {_beside(target, '.json')} and run the command again"
    )


def _words(pin: Pin) -> str:
    size = f"{pin.bytes:,} bytes" if pin.bytes else "any size"
    return f"{size} and SHA-256 {pin.sha256}" if pin.sha256 else size


def _fits(pin: Pin, expected: Pin) -> bool:
    return expected.bytes in (0, pin.bytes) and expected.sha256 in ("", pin.sha256)


def _pin(path: Path) -> Pin:
    return Pin(path.stat().st_size, sha256_of(path))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _read(path: Path, kind: type[Any]) -> Any:
    """Return a record, or None where there is none that can be read."""
    try:
        return kind(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError, TypeError, ValueError):
        return None


def _write(path: Path, record: Pin | _Whole) -> None:
    replace_text(path, json.dumps(asdict(record)) + "\n")


def _reason(error: requests.exceptions.RequestException) -> str:
    """Return what went wrong, without the layers around it."""
    text = str(error)
    if "timed out" in text:
        return f"nothing came for {POLICY.stall_s:g} s"
    inner = re.search(r"\[Errno -?\d+\] ([^'\")]+)|(IncompleteRead|RemoteDisconnected|Connection broken)", text)
    return f"no connection ({(inner[1] or 'it broke off') if inner else text[:120]})"
