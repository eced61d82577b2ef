"""Files of plain values and tensors: written atomically, read without running any code of theirs."""

import contextlib
import pickle
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crystalframer.atomic_files import replacing
from crystalframer.errors import UserError, require_damage

_LEFTOVER_SECONDS = 3600.0
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    OverflowError,
)
"""What torch and zipfile raise on a file that is not what it pretends to be, beside an `OSError`."""


def write_archive(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file so that `path` holds the old or the new one in full, whenever the process or machine dies.

    The content goes to a temporary file beside `path`, is flushed to the disk and then renamed. Temporary files that
    a killed process left behind are removed after an hour.

    Raises:
        OSError: the folder cannot be created or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    with replacing(path) as temporary, temporary.open("xb") as file:
        torch.save(dict(content), file)


def read_archive(path: Path) -> Any:
    """Read what `write_archive` or any other ``torch.save`` of plain values and tensors wrote, onto the CPU.

    Raises:
        UserError: there is no such file, it is damaged or cut short, or it holds something else than plain values; or
            it is closed to us.
        OSError: no open file or memory is left.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; give the path of a file that training wrote")
    damaged = f"{path} is not a checkpoint, or it is damaged or cut short; use another copy, or delete it to train anew"
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise UserError(damaged)
            with zipfile.ZipFile(file) as archive:
                entries, size = archive.infolist(), path.stat().st_size
                packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
                if packed or sum(entry.file_size for entry in entries) > size:  # torch packs nothing
                    raise UserError(damaged)
                if archive.testzip() is not None:
                    raise UserError(damaged)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        require_damage(path, error)
        raise UserError(damaged) from error
    except UserError:
        raise
    except _DAMAGE as error:
        raise UserError(damaged) from error


@contextlib.contextmanager
def whole(what: str) -> Iterator[None]:
    """Take values out of what `read_archive` read; `what` names the file in the sentence.

    Raises:
        UserError: a part is missing, or is something else than it should be.
    """
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError, RuntimeError) as error:
        reason = " ".join(repr(error).split())[:200]
        raise UserError(f"{what} lacks a part or has a wrong one ({reason}); use another copy") from error


def numbers_of(
    name: str, tensor: torch.Tensor, like: type[np.number[Any]], ndim: int, low: float, high: float
) -> NDArray[Any]:
    """Return a tensor that `read_archive` read as an array.

    Args:
        name: what to call it.
        tensor: as it was read.
        like: type of its numbers.
        ndim: number of its axes.
        low: least value that is none of a damaged file.
        high: largest one.

    Raises:
        ValueError: it is another one, or a value is none or beyond these.
    """
    found: NDArray[Any] = tensor.numpy()
    if found.dtype != like or found.ndim != ndim or not bool(((found >= low) & (found <= high)).all()):
        raise ValueError(f"{name}: expected {ndim} axes of {like.__name__} from {low:g} to {high:g}")
    return found


def _remove_leftovers(path: Path) -> None:
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        try:
            if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                leftover.unlink()
        except FileNotFoundError:
            continue  # another process was faster
