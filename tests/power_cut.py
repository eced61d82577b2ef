"""What a disk holds when the power is cut: the calls that matter to it are recorded as they are made, and replayed.

A file's bytes are safe once it is flushed (`fsync`), the names in a folder once the folder is. Of what is not safe, a
disk may keep all, nothing, the names without the bytes, or a part of the bytes.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CALLS = ("fsync", "link", "mkdir", "remove", "rename", "replace", "rmdir", "unlink")
"""Of the module `os`; `pathlib`, `shutil` and `tempfile` make them, too."""
KINDS = ("everything", "nothing", "names", "parts")
"""What may be left of what is not safe."""

State = dict[str, bytes]
"""Files by their path below the root."""


class Recorder:
    """The safe bytes and names below a folder, and what a cut before and after each call would leave of all."""

    def __init__(self, root: Path) -> None:
        """Begin with all that is there safe."""
        self._root = root
        self._bytes: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._held: list[int] = []
        self.states: dict[str, list[State]] = {kind: [] for kind in KINDS}
        """After each cut, by what is left."""
        for folder, _, names in os.walk(root):
            for path in (Path(folder), *(Path(folder, name) for name in names)):
                self._flush(os.open(path, os.O_RDONLY))

    @property
    def every_state(self) -> list[State]:
        """What each cut may leave."""
        return [state for states in self.states.values() for state in states]

    def flushed(self, handle: int) -> None:
        """Note that a file or a folder is safe."""
        self._flush(os.open(f"/proc/self/fd/{handle}", os.O_RDONLY))

    def _flush(self, handle: int) -> None:
        self._held.append(handle)  # while it is open, no new file gets its number
        status, path = os.fstat(handle), Path(f"/proc/self/fd/{handle}").readlink()
        if path.is_dir():
            self._names[status.st_ino] = {entry.name: entry.inode() for entry in os.scandir(path)}
        else:
            self._bytes[status.st_ino] = path.read_bytes()

    def cut(self) -> None:
        """Note what would be left now."""
        live = {
            str(path.relative_to(self._root)): (path.stat().st_ino, path.read_bytes())
            for path in sorted(self._root.rglob("*"))
            if path.is_file()
        }
        found = {
            "everything": {name: content for name, (_, content) in live.items()},
            "nothing": dict(self._safe(self._root.stat().st_ino, "")),
            "names": {name: self._bytes.get(inode, b"") for name, (inode, _) in live.items()},
            "parts": {name: _part(self._bytes.get(inode, b""), content) for name, (inode, content) in live.items()},
        }
        for kind, state in found.items():
            if not self.states[kind] or self.states[kind][-1] != state:
                self.states[kind].append(state)

    def _safe(self, folder: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        for name, inode in self._names[folder].items():
            if inode in self._names:
                yield from self._safe(inode, f"{prefix}{name}/")
            else:
                yield f"{prefix}{name}", self._bytes.get(inode, b"")

    def close(self) -> None:
        """Let go of the files."""
        for handle in self._held:
            os.close(handle)


def _part(safe: bytes, live: bytes) -> bytes:
    """Return safe bytes and half of what came to them, or half of what took their place."""
    if live.startswith(safe):
        return live[: len(safe) + (len(live) - len(safe)) // 2]
    return live[: len(live) // 2]


@contextlib.contextmanager
def recording(root: Path) -> Iterator[Recorder]:
    """Record what is done below a folder."""
    recorder = Recorder(root)
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, _recorded(recorder, name, getattr(os, name)))
        yield recorder
    recorder.cut()
    recorder.close()


def _recorded(recorder: Recorder, name: str, really: Any) -> Any:
    def call(*arguments: Any, **options: Any) -> Any:
        recorder.cut()
        result = really(*arguments, **options)
        if name == "fsync":
            recorder.flushed(arguments[0])
        recorder.cut()
        return result

    return call


def lay_out(state: State, folder: Path) -> Path:
    """Write a state to a folder."""
    for name, content in state.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
