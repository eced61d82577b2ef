"""Disks that are full or closed to us, said plainly."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from crystalframer.errors import UserError

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR})


@contextlib.contextmanager
def room(directory: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into a sentence.

    Raises:
        UserError: the disk is full, a quota is used up, or the folder may not be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise UserError(
            f"cannot write to {directory} ({error.strerror}): make room there, or name another folder with "
            "CRYSTALFRAMER_DATA"
        ) from error
