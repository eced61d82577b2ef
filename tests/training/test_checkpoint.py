"""Checkpoint files: complete or refused."""

import os
import pickle
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest
import torch

from crystalframer.config import TrialConfig
from crystalframer.data.dataset import TaskData
from crystalframer.errors import UserError
from crystalframer.training.checkpoint import VERSION, read_checkpoint, write_checkpoint
from crystalframer.training.safe_files import read_archive, write_archive
from crystalframer.training.trained_model import load_model


def test_reading_gives_back_what_was_written(trained: Path, trial: TrialConfig, data: TaskData, tmp_path: Path) -> None:
    first = read_checkpoint(trained)
    assert first.trial == trial
    assert first.data_fingerprint == data.fingerprint
    assert [(target.name, target.unit) for target in first.targets] == [("formation_energy", "eV/atom")]
    assert (first.progress.epoch, first.progress.step, first.progress.position) == (4, 16, 0)
    assert first.average["count"] == 8
    assert len(first.history) == 4
    write_checkpoint(tmp_path / "new" / "folder" / "copy.pt", first)
    again = read_checkpoint(tmp_path / "new" / "folder" / "copy.pt")
    assert again.model.keys() == first.model.keys()
    assert all(torch.equal(value, again.model[name]) for name, value in first.model.items())
    assert again.history == first.history
    assert [file.name for file in (tmp_path / "new" / "folder").iterdir()] == ["copy.pt"]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no checkpoint .*none\.pt"):
        read_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_file_cut_short_is_refused(trained: Path, tmp_path: Path, share: float) -> None:
    content = trained.read_bytes()
    path = tmp_path / "short.pt"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="damaged or cut short"):
        read_checkpoint(path)


def test_a_flipped_bit_is_noticed(trained: Path, tmp_path: Path) -> None:
    content = trained.read_bytes()
    with zipfile.ZipFile(trained) as archive:  # between its records there is padding, which holds nothing
        largest = max(archive.infolist(), key=lambda record: record.file_size)
    start = content.index(largest.filename.encode()) + len(largest.filename)
    flipped = bytearray(content)
    flipped[start + largest.file_size // 2] ^= 1
    path = tmp_path / "flipped.pt"
    path.write_bytes(flipped)
    with pytest.raises(UserError, match="damaged"):
        read_checkpoint(path)


def test_an_archive_that_would_grow_is_refused_before_it_does(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "packed.pt"
    with zipfile.ZipFile(trained) as archive, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
        with packed.open(f"{name.partition('/')[0]}/data/zeros", "w") as zeros:
            for _ in range(64):
                zeros.write(bytes(2**22))
    assert path.stat().st_size < 2**20
    start = time.process_time()
    with pytest.raises(UserError, match="is not a checkpoint, or it is damaged"):
        read_checkpoint(path)
    assert time.process_time() - start < 0.1


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    text, pickled, other = tmp_path / "a.txt", tmp_path / "b.pkl", tmp_path / "c.pt"
    text.write_text("epochs: 3\n")
    pickled.write_bytes(pickle.dumps({"format": "crystalframer checkpoint"}))
    torch.save({"state_dict": {}}, other)
    for path in (text, pickled):
        with pytest.raises(UserError, match="is not a checkpoint, or it is damaged"):
            read_checkpoint(path)
    with pytest.raises(UserError, match="is not a checkpoint of this program"):
        read_checkpoint(other)


class Malicious:
    """Creates a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    torch.save({"format": Malicious(tmp_path / "executed")}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="is not a checkpoint"):
        read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()


def test_a_newer_format_is_refused(trained: Path, tmp_path: Path) -> None:
    content = torch.load(trained, weights_only=True)
    torch.save({**content, "version": VERSION + 1}, tmp_path / "newer.pt")
    with pytest.raises(UserError, match=f"format version {VERSION + 1}, expected {VERSION}"):
        read_checkpoint(tmp_path / "newer.pt")


def test_leftovers_of_killed_processes_are_removed_after_an_hour(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    old, recent, foreign = tmp_path / f".{path.name}.1.tmp", tmp_path / f".{path.name}.2.tmp", tmp_path / ".other.1.tmp"
    for file in (old, recent, foreign):
        file.touch()
    for file in (old, foreign):
        os.utime(file, (time.time() - 3700,) * 2)
    write_checkpoint(path, read_checkpoint(trained))
    assert {file.name for file in tmp_path.iterdir()} == {path.name, recent.name, foreign.name}


def test_a_failed_write_leaves_the_old_file_and_no_other(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    good = read_checkpoint(trained)
    write_checkpoint(path, good)
    before = path.read_bytes()
    good.optimizer["unsaveable"] = (number for number in range(3))
    with pytest.raises(TypeError, match="cannot pickle"):
        write_checkpoint(path, good)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


KILLED_WHILE_SAVING = """
import os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path
import torch
from crystalframer.training.checkpoint import Progress, read_checkpoint, write_checkpoint

torch.set_num_threads(1)
source, path, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
base = read_checkpoint(source)
base = replace(base, optimizer={"ballast": torch.arange(1_000_000)})

def save(step):
    write_checkpoint(path, replace(base, model={"step": torch.full((100_000,), step)}, progress=Progress(step=step)))

def save_forever(step):
    while True:
        step += 1
        save(step)

save(0)
random.seed(0)
last = 0
for _ in range(kills):
    child = os.fork()
    if child == 0:
        save_forever(last)
    time.sleep(random.uniform(0.02, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = read_checkpoint(path)
    step = found.progress.step
    assert step >= last and (found.model["step"] == step).all() and len(found.optimizer["ballast"]) == 1_000_000
    last = step
print(last, len(list(path.parent.glob(".*.tmp"))))
"""


def test_a_process_killed_while_saving_leaves_a_whole_file(trained: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLED_WHILE_SAVING), str(trained), str(tmp_path / "c.pt"), "15"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    written, interrupted = map(int, done.stdout.split())
    assert written > 0, "no save was ever completed"
    assert interrupted > 0, "no kill hit a save"


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("targets", [], "names 0 targets, expected 1"),
        ("elements", "abc", "names 'a' as an element"),
        ("elements", [11, 999], "names 999 as an element"),
    ],
)
def test_targets_and_elements_that_the_weights_do_not_have(
    trained: Path, tmp_path: Path, part: str, value: object, said: str
) -> None:
    write_archive(tmp_path / "other.pt", {**read_archive(trained), part: value})
    with pytest.raises(UserError, match=said):
        load_model(tmp_path / "other.pt")
