"""What every command-line program of the package shares: how it ends when the user made a mistake or stopped it."""

import argparse
import errno
import functools
import io
import os
import re
import select
import signal
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import FrameType
from typing import Any, ParamSpec, TextIO, cast

from crystalframer.errors import UserError

P = ParamSpec("P")

EXIT_USER_ERROR = 2
"""Exit code of a mistake the user can mend, the one argparse uses as well."""
EXIT_NOBODY_READS = 141
"""Exit code where whoever reads the output has left, 128 + SIGPIPE, as shells expect."""
EXIT_INTERRUPTED = 130
"""Exit code after Ctrl-C, 128 + SIGINT, as shells expect."""


_CLOSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR)
_REMEDY = {
    **dict.fromkeys(_CLOSED, "make room, or name another place"),
    errno.EMFILE: "allow more open files: ulimit -n 8192",
    errno.ENFILE: "the machine has no open file left: end other programs",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EAGAIN: "no further process or thread can be started: end other programs, or `ulimit -u 8192`",
}
"""By system error: of a place that is full or closed to us, of a process or machine without an open file left."""


def _nobody_reads() -> bool:
    """Return whether standard output is a pipe that nobody reads; what is left for it then goes nowhere."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _write_what_the_screen_lacks() -> None:
    """Let characters that a terminal's or a file's encoding lacks end no program: a terminal shows a question mark."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace" if stream.isatty() else "backslashreplace")  # a file loses nothing


def reports_user_errors(main: Callable[P, int]) -> Callable[P, int]:
    """Make a program's ``main(argv) -> exit code`` end as the user expects.

    A `UserError`, or what the system keeps from us, becomes one line on stderr and exit code 2, Ctrl-C one line
    and exit code 130; where nobody reads the output any more, the end is quiet. Every other exception is a defect of
    ours and keeps its traceback.
    """

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> int:
        _write_what_the_screen_lacks()
        try:
            code = main(*args, **kwargs)
            if sys.stdout is not None:  # closed by the shell
                sys.stdout.flush()
            return code
        except BrokenPipeError:
            if not _nobody_reads():
                raise
            return EXIT_NOBODY_READS
        except OSError as error:
            remedy = _REMEDY.get(error.errno or 0)
            if remedy is None or (error.filename is None and error.errno in _CLOSED):
                raise
            named = error.filename2 or error.filename  # of a copy, the second one is written
            place = "" if named is None else f"{named}: "
            print(f"error: {place}{error.strerror}; {remedy}", file=sys.stderr)
            return EXIT_USER_ERROR
        except UserError as error:
            print("error: " + " ".join(str(error).split()), file=sys.stderr)
            return EXIT_USER_ERROR
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return EXIT_INTERRUPTED

    return wrapped


class HelpFormatter(argparse.HelpFormatter):
    """Fits help to the terminal: paragraphs flow; indented lines stay lines, and where they are too long, go on.

    The usage names what must be given; the options follow below it anyway.
    """

    def _format_usage(self, usage: str | None, actions: Iterable[argparse.Action], *rest: Any) -> str:
        needed = [action for action in actions if not action.option_strings or action.required]
        line = " ".join(super()._format_usage(usage, needed, *rest).split())
        if len(needed) < len(list(actions)):
            line = line.replace(self._prog, f"{self._prog} [options]", 1)
        return textwrap.fill(line, self._width, subsequent_indent="    ", break_on_hyphens=False) + "\n\n"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        blocks = []
        for block in re.sub(r" \\\n +", " ", text.strip()).split("\n\n"):  # a command is broken anew
            lines = block.splitlines()
            parts = lines if any(line.startswith(" ") for line in lines) else [" ".join(lines)]
            blocks.append("\n".join(self._wrapped(part, width) for part in parts))
        return "\n\n".join(blocks)

    @staticmethod
    def _wrapped(line: str, width: int) -> str:
        margin = line[: len(line) - len(line.lstrip())]
        command = line.startswith(f"{margin}crystalframer ") and bool(margin)
        further = f"{margin}    " if margin and not line.endswith(":") else margin
        found = textwrap.wrap(
            line, width - 2 * command, subsequent_indent=further, break_long_words=False, break_on_hyphens=False
        )
        return (" \\\n" if command else "\n").join(found)  # a command goes on where a shell goes on reading


class _LastingStream:
    """A text stream that swallows what it can no longer write, since a pipe or a terminal is gone or a disk is full."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 (None: closed by the shell)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows ASCII alone shows a question mark

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._leave()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._leave()

    def _leave(self) -> None:
        """Let what is still buffered, and what other code writes to the same place, go nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def outliving_the_screen() -> Iterator[None]:
    """Let a program run on, within the context, when its terminal is closed or whoever reads its output ends."""
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows
    former = None if hangup is None else signal.signal(hangup, signal.SIG_IGN)  # child processes inherit it
    out, err = (cast(TextIO, _LastingStream(stream)) for stream in (sys.stdout, sys.stderr))
    try:
        with redirect_stdout(out), redirect_stderr(err):
            yield
            out.flush()
    finally:
        if hangup is not None:
            signal.signal(hangup, former)


@contextmanager
def stopping_on_signals(stop: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM within the context ask for a stop in good order, and the second one interrupt."""
    asked = False

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        stop(signal.Signals(number))

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, previous in former.items():
            signal.signal(number, previous)
