"""What the system refuses for the moment, or to us, is no damage: nobody is told to delete a file that may be sound."""

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pytest
import torch

from analysis import exported
from analysis.peers import read_peer
from crystalframer.atomic_files import is_locked
from crystalframer.command_line import reports_user_errors
from crystalframer.data.dataset import CrystalDataset, Task
from crystalframer.data.preparation.targets import read_targets
from crystalframer.data.preparation.user_sources import read_user_structures
from crystalframer.data.store import read_store, write_store
from crystalframer.data.structures.files import read_structures
from crystalframer.data.structures.records import split_records
from crystalframer.geometry.crystal import Crystal
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.training.safe_files import read_archive, write_archive
from tests.fixtures.unprivileged import unprivileged

RESULTS = Path(__file__).parents[1] / "results"
POSCAR = "Na\n1.0\n4 0 0\n0 4 0\n0 0 4\nNa\n1\nDirect\n0 0 0\n"


def an_archive(folder: Path) -> Callable[[], object]:
    write_archive(folder / "model.pt", {"weight": torch.zeros(3)})
    return lambda: read_archive(folder / "model.pt")


def a_store(folder: Path) -> Callable[[], object]:
    task = Task("energy", "eV", np.zeros(1), np.zeros(1, dtype=np.int8))
    crystal = Crystal(4.0 * np.eye(3), np.zeros((1, 3)), np.array([11]), "Na")
    write_store(folder / "toy", CrystalDataset.from_crystals("toy", [crystal], [task]), {})
    return lambda: read_store(folder / "toy")


def results(folder: Path) -> Callable[[], object]:
    exported.write(
        folder / "results", exported.read(next(path.parent for path in sorted(RESULTS.glob("*/sweep.json"))))
    )
    return lambda: exported.read(folder / "results")


def a_source(folder: Path) -> Callable[[], object]:
    (folder / "records.json").write_text("[{}]")
    return lambda: list(split_records(folder / "records.json"))


def a_structure(folder: Path) -> Callable[[], object]:
    (folder / "POSCAR").write_text(POSCAR)
    return lambda: list(read_structures([folder / "POSCAR"]))


def a_trials_state(folder: Path) -> Callable[[], object]:
    state = {"state": "running", "attempt": "1", "epoch": 0, "epochs": 1}
    (folder / "state.json").write_text(json.dumps(state))
    return RunDirectory(folder).state


def a_spreadsheet(folder: Path) -> Callable[[], object]:
    book = openpyxl.Workbook()
    for row in (["id", "hardness"], ["a", 1.5], ["b", 2.5]):
        book.worksheets[0].append(row)
    book.save(folder / "table.xlsx")
    return lambda: read_targets(folder / "table.xlsx")


def a_table(folder: Path) -> Callable[[], object]:
    (folder / "table.csv").write_text("id,hardness\na,1.5\n")
    return lambda: read_targets(folder / "table.csv")


def structures_in(suffix: str) -> Callable[[Path], Callable[[], object]]:
    def make(folder: Path) -> Callable[[], object]:
        table = pd.DataFrame({"id": ["a"], "structure": [POSCAR]})
        path = folder / f"structures{suffix}"
        table.to_parquet(path) if suffix == ".parquet" else table.to_csv(path)
        return lambda: list(read_user_structures(path, None, 1).readings)

    return make


def a_peer(folder: Path) -> Callable[[], object]:
    (folder / "peer.csv").write_text("id,prediction\na,1.5\n")
    return lambda: read_peer(str(folder / "peer.csv"))


def a_lock(folder: Path) -> Callable[[], object]:
    (folder / "lock").touch()
    return lambda: is_locked(folder / "lock")


@contextlib.contextmanager
def few_files() -> Iterator[None]:
    """Leave this process no file to open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[0]), before[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for handle in held:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(
    "make",
    [
        an_archive,
        a_store,
        results,
        a_source,
        a_structure,
        a_trials_state,
        a_spreadsheet,
        a_table,
        structures_in(".csv"),
        structures_in(".parquet"),
        a_peer,
        a_lock,
    ],
)
def test_no_open_file_left_is_no_damage(make: Callable[[Path], Callable[[], object]], tmp_path: Path) -> None:
    read = make(tmp_path)
    with few_files(), pytest.raises(OSError, match="Too many open files"):
        read()
    read()


def test_a_command_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read = an_archive(tmp_path)

    @reports_user_errors
    def main() -> int:
        read()
        return 0

    with few_files():
        assert main() == 2
    expected = f"error: {tmp_path}/model.pt: Too many open files; allow more open files: ulimit -n 8192\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("make", "reader", "name"),
    [
        (an_archive, "crystalframer.training.safe_files:read_archive", "model.pt"),
        (a_store, "crystalframer.data.store:read_store", "toy"),
        (results, "analysis.exported:read", "results"),
        (a_source, "crystalframer.data.structures.records:split_records", "records.json"),
        (a_spreadsheet, "crystalframer.data.preparation.spreadsheet:read_sheet", "table.xlsx"),
    ],
)
def test_what_is_closed_to_us_is_no_damage(
    make: Callable[[Path], Callable[[], object]], reader: str, name: str, root: Path, tmp_path: Path
) -> None:
    make(tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.chmod(0)
    module, _, function = reader.partition(":")
    program = f"""
import pathlib
from crystalframer.errors import UserError
from {module} import {function} as read
try:
    print(list(read(pathlib.Path({str(tmp_path / name)!r}))))
except UserError as error:
    print(error)
"""
    done = subprocess.run(
        [*unprivileged(), sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert "cannot be read (Permission denied), though it may be sound" in done.stdout
