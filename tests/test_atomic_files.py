"""Files that are replaced as a whole, and locks that go with their process."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crystalframer.atomic_files import is_locked, locked, replace_text, replacing

HOLDER = """
import sys, time
from pathlib import Path
from crystalframer.atomic_files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_file_and_folder_are_flushed_before_the_name_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, flushed, really = tmp_path / "file", [], os.fsync

    def record(handle: int) -> None:
        flushed.append((os.fstat(handle).st_ino, path.exists()))
        really(handle)

    monkeypatch.setattr(os, "fsync", record)
    replace_text(path, "new")
    assert flushed == [(path.stat().st_ino, False), (tmp_path.stat().st_ino, True)]


def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_text(path, "old")

    def half_way() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        half_way()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_lock_is_seen_kept_and_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    assert not path.exists()
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    path.write_text("its own words")
    assert is_locked(path)
    with pytest.raises(BlockingIOError), locked(path, patience=0.2):
        pass
    holder.kill()
    with locked(path, patience=math.inf) as handle:
        assert is_locked(path)
        handle.seek(0)
        assert handle.read() == "its own words"
    holder.communicate()
    assert not is_locked(path)
