"""A disk that is full in the middle of a write leaves the old file as it was, and nothing beside it."""

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from analysis.documents import Document, Table, write
from analysis.items import Context
from crystalframer.atomic_files import append_line, new_folder, replace_text
from crystalframer.cli import main
from crystalframer.errors import UserError
from crystalframer.pictures.attention_drawing import Surroundings, write_picture
from crystalframer.prediction.predictions import Predictions
from crystalframer.training.safe_files import write_archive

ROOM = 64
"""Bytes that fit into a file."""


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow beyond a few bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def predict(path: Path) -> None:
    ids = tuple(f"crystal {number}" for number in range(100))
    nothing = ("",) * 100
    Predictions(ids, nothing, ("energy",), ("eV",), np.zeros((100, 1)), None, errors=nothing, warnings=nothing).write(
        path
    )


def tabulate(path: Path) -> None:
    write(Document("title", [Table("table", ["a"], [["b"]] * 50)]), path.parent, path.stem)


def draw(path: Path) -> None:
    Context(None, "sweep", path.parent).save(Figure(), path.stem)


def explain(path: Path) -> None:
    write_picture(Surroundings("Na", np.zeros((1, 3)), np.array([11]), np.ones(1), np.eye(3), 5.0), path)


def save(path: Path) -> None:
    write_archive(path, {"weight": torch.ones(4000)})


def make_folder(path: Path) -> None:
    with new_folder(path) as folder:
        folder.mkdir()
        (folder / "first").write_text("fits")
        (folder / "second").write_text("w" * 20_000)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk on which 4 kB are free."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if (
        os.geteuid()
        or shutil.which("mount") is None
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("a disk can be mounted by root alone, and not in every container")
    (disk / "full").write_bytes(bytes(60 * 1024))
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("name", "produce"),
    [
        ("table.csv", predict),
        ("table.parquet", predict),
        ("table.json", predict),
        ("figure.pdf", draw),
        ("picture.html", explain),
        ("model.pt", save),
        ("folder", make_folder),
    ],
)
def test_a_full_disk_leaves_nothing_under_a_final_name(
    name: str, produce: Callable[[Path], None], small_disk: Path
) -> None:
    (small_disk / "filler").write_bytes(b"" if name == "folder" else bytes(4096))
    with pytest.raises((OSError, RuntimeError, UserError)):
        produce(small_disk / name)
    assert sorted(entry.name for entry in small_disk.iterdir()) == ["filler", "full"]


@pytest.mark.parametrize(
    ("name", "produce"),
    [
        ("table.csv", predict),
        ("table.parquet", predict),
        ("table.json", predict),
        ("table.md", tabulate),
        ("figure.pdf", draw),
        ("picture.png", explain),
        ("picture.html", explain),
    ],
)
def test_a_full_disk_costs_no_old_file(name: str, produce: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("as it was")
    with full_disk(), pytest.raises((OSError, UserError)):
        produce(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert path.read_text() == "as it was"
    produce(path)
    assert path.stat().st_size > ROOM


@pytest.mark.parametrize("write", [append_line, replace_text])
def test_a_full_disk_names_what_could_not_be_written(
    write: Callable[[Path, str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "x"
    with full_disk(), pytest.raises(OSError, match="File too large") as failed:
        write(path, "x" * 10_000)
    assert failed.value.filename == str(path)
    monkeypatch.chdir(tmp_path)
    with full_disk():
        code = main(["files", "sweeps.md"])
    assert code == 2
    assert capsys.readouterr().err == "error: sweeps.md: File too large; make room, or name another place\n"
