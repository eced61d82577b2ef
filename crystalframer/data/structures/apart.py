"""Texts of strangers, read in a process of their own: one that hangs it or kills it costs that text alone."""

import signal
import subprocess
import sys
import weakref
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from crystalframer.data.structures.formats import ReadLimits, parse_structure
from crystalframer.data.structures.reading import Reading
from crystalframer.environment import for_python

_ANGLES = ("alpha", "beta", "gamma")
_CELL = "".join(f"_cell_length_{axis} 3\n_cell_angle_{angle} 90\n" for axis, angle in zip("abc", _ANGLES, strict=True))
_SITE = "loop_\n_atom_site_label\n" + "".join(f"_atom_site_fract_{axis}\n" for axis in "xyz") + "Po 0 0 0\n"
_USUAL = (f"data_Po\n{_CELL}{_SITE}", "Po\n1\n3 0 0\n0 3 0\n0 0 3\nPo\n1\nDirect\n0 0 0\n")
"""Polonium as a CIF and as a POSCAR."""


class TextReader:
    """Reads texts one after the other in another process, which the system ends when a text takes too long.

    Not to be used by two threads at once.
    """

    def __init__(self, limits: ReadLimits) -> None:
        """Start the process; the text's bytes and atoms, and its seconds of a processor, are limited."""
        self._limits = limits
        self._start()

    def read(self, entries: Sequence[tuple[Any, str]]) -> list[Reading]:
        """Read structures, each with its id: CIF, POSCAR or pymatgen's JSON as text; what is none has its reason."""
        return [self._read(value, id).renamed(id) for value, id in entries]

    def close(self) -> None:
        """End the process; done at the latest when the reader is forgotten."""
        self._end()

    def _read(self, value: Any, id: str) -> Reading:
        if problem := self._problem(value):
            return Reading(id, reason=problem)
        try:
            self._connection.send(value)
            answer: Reading = self._connection.recv()
        except (EOFError, ConnectionError):
            reason = self._fate()
            self._start()
            return Reading(id, reason=reason)
        return answer

    def _problem(self, value: Any) -> str:
        """Return why there is nothing to read, nothing if there is."""
        if isinstance(value, dict):
            return ""
        expected = "expected the text of a CIF, a POSCAR or pymatgen's JSON"
        if not isinstance(value, str):
            absent = value is None or value != value
            return f"the row has {'no structure' if absent else f'a {type(value).__name__} as structure'}, {expected}"
        if not value.strip():
            return f"the row's structure is empty, {expected}"
        if len(value) > self._limits.max_bytes:
            return f"the text has more than {self._limits.max_bytes} characters"
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"the text is no valid Unicode ({error.reason}), {expected}"
        return ""

    def _fate(self) -> str:
        """Say what became of the process with its last text."""
        self._end()
        if self._process.returncode == -signal.SIGPROF:
            return f"the text took more than {self._limits.max_seconds:g} s of a processor to read"
        return "reading the text killed its process (out of memory?)"

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        call = f"answer({theirs.fileno()}, {self._limits.max_atoms}, {self._limits.max_seconds})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import answer; {call}"],
            pass_fds=[theirs.fileno()],
            env=for_python(),
        )
        theirs.close()
        self._end = weakref.finalize(self, _end, self._connection, self._process)
        self._connection.recv()  # it is ready


def _end(connection: Connection, process: "subprocess.Popen[bytes]") -> None:
    connection.close()
    process.wait()


def answer(handle: int, max_atoms: int, max_seconds: float) -> None:
    """Answer texts until the other end is closed; the alarm ends this process, whatever it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limits = ReadLimits(max_atoms=max_atoms, max_seconds=max_seconds)
    for text in _USUAL:
        parse_structure(text, limits)  # imports what reading needs, so that no text waits for it
    connection = Connection(handle)
    connection.send("ready")
    while True:
        try:
            value = connection.recv()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, limits.max_seconds)
        reading = parse_structure(value, limits)
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(reading)
