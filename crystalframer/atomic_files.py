"""Files replaced as a whole: a reader, a kill or a power cut finds the old or the new content. Hashes, locks."""

import contextlib
import errno
import hashlib
import math
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from crystalframer.errors import UserError, require_no_lack

LONGEST_NAME = 255
"""Bytes of a file's name, as file systems allow."""
_LOCK_CHECK_SECONDS = 0.1


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lend a path beside `path`; the file written there takes its place when the block ends.

    By then file and folder are flushed to the disk. When the block raises, `path` is as it was.

    Raises:
        OSError: the folder cannot be written.
    """
    temporary = _beside(path)
    try:
        with _naming(path, temporary):
            yield temporary
            flush_to_disk(temporary)
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_to_disk(path.parent)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Lend the path of a folder beside `path`; what is made of it there gets its name when the block ends.

    By then its files are flushed to the disk. When the block raises, nothing is left.

    Args:
        path: what is not there yet, or an empty folder.

    Raises:
        OSError: the folder cannot be written, or something came to stand at `path` meanwhile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        for entry in [*temporary.rglob("*"), temporary]:
            flush_to_disk(entry)
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush_to_disk(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Replace the content of a text file (UTF-8), see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file (UTF-8), flushed to the disk; what a kill or a power cut left of another one goes.

    Raises:
        OSError: the file cannot be written.
    """
    new = not path.exists()
    with _naming(path), locked(path, math.inf), path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        if file.read(1) not in (b"", b"\n"):
            file.seek(0)
            end = file.read().rfind(b"\n") + 1
            file.truncate(end)
        file.seek(end)
        file.write(f"{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    if new:
        flush_to_disk(path.parent)


@contextlib.contextmanager
def _naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Have the system's error say what could not be written: a full disk's names nothing, or what is temporary."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename2 or error.filename) in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise


@contextlib.contextmanager
def writing(what: Path | str, option: str) -> Iterator[None]:
    """Say in a sentence where the system refuses to write within the block.

    Args:
        what: the file, or e.g. ``to FOLDER``.
        option: where the user names another one, e.g. ``--output``.

    Raises:
        UserError: it does.
    """
    try:
        yield
    except OSError as error:
        require_no_lack(error)
        raise UserError(f"cannot write {what}: {error.strerror}; choose another {option}") from error


def require_regular(path: Path) -> None:
    """Return where a path is that of a regular file: a pipe is waited for when it is opened, a device has no end.

    Raises:
        OSError: it is something else, or not there.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a regular file in hexadecimal digits."""
    require_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; Windows cannot open folders."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_file_name(text: str) -> bool:
    """Return whether a text can name a file or folder within another one."""
    size = len(text.encode("utf-8", "surrogatepass"))
    return 0 < size <= LONGEST_NAME and text not in (".", "..") and not {"/", "\0"} & set(text)


def _beside(path: Path) -> Path:
    name = os.fsdecode(os.fsencode(path.name)[: LONGEST_NAME - 40])
    return path.with_name(f".{name}.{uuid.uuid4().hex}.tmp")


@contextlib.contextmanager
def locked(path: Path, patience: float = 0.0) -> Iterator[IO[str]]:
    """Hold the lock of a file, creating it where needed; it goes with the block or the process, however that ends.

    Args:
        path: the file; its content is left as it is.
        patience: seconds to wait for another holder, `math.inf` for as long as it takes.

    Raises:
        BlockingIOError: another holder did not let go in time.
        OSError: the file system does not lock files, or the file cannot be opened.
    """
    import fcntl  # not on Windows, where stores and models can be read

    deadline = math.inf if patience == math.inf else time.monotonic() + patience
    with path.open("a+", encoding="utf-8") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_LOCK_CHECK_SECONDS)
        yield handle


def is_locked(path: Path) -> bool:
    """Return whether someone holds a file's lock, as far as this machine's file system knows.

    Whoever tries to take the lock within the microseconds of this call finds it held: it should have some patience.
    """
    import fcntl

    try:
        with path.open(encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:  # no such file, or no locks on this file system
        require_no_lack(error)
        return False
    return False
