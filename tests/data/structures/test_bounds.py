"""What files may ask for is bounded before it is done: sites, operations, sizes, depths, waiting."""

import gzip
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from crystalframer.data.structures.files import find_structure_files, read_structures
from crystalframer.geometry.crystal import close_pair
from tests.fixtures.structure_texts import cif_text, contents, cubic, reading_of


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Bound the processor time of what happens within."""
    start = time.process_time()
    yield
    assert time.process_time() - start < seconds


def poscar_of(rows: list[str], length: float = 60.0) -> str:
    cell = f"{length} 0 0\n0 {length} 0\n0 0 {length}"
    return "\n".join(["x", "1", cell, "Si", str(len(rows)), "Direct", *rows, ""])


@pytest.mark.parametrize("spread", [0.0, 1e-3])
def test_sites_that_crowd_upon_one_another_are_refused_at_once(tmp_path: Path, spread: float) -> None:
    rows = [f"{spread * number / 20_000:.9f} 0 0" for number in range(20_000)]
    with within(10):
        reading = reading_of(tmp_path, poscar_of(rows), "POSCAR")
    assert "overlap" in reading.reason


def test_a_large_cell_that_is_sound_is_read(tmp_path: Path) -> None:
    places = np.stack(np.meshgrid(*[np.arange(20) / 20] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    with within(10):
        reading = reading_of(tmp_path, poscar_of([f"{x:.5f} {y:.5f} {z:.5f}" for x, y, z in places]), "POSCAR")
    assert contents(reading) == {"Si": 8000}
    assert reading.crystal is not None
    pair = close_pair(reading.crystal.lattice, reading.crystal.frac_coords, 3.1)
    assert pair is not None
    assert pair[2] == pytest.approx(3.0)


def test_many_shared_sites_are_found_in_time(tmp_path: Path) -> None:
    rows = []
    for number in range(9000):
        place = f"{number % 27 / 27:.5f} {number // 27 % 27 / 27:.5f} {number // 729 / 27:.5f} 0.5"
        rows += [f"Na{number} Na {place}", f"K{number} K {place}"]
    columns = "label type_symbol fract_x fract_y fract_z occupancy"
    with within(20):
        reading = reading_of(tmp_path, cif_text(cubic(70), "\n".join(rows), columns=columns))
    assert contents(reading) == {"Na": 4500, "K": 4500}


def test_operations_are_counted_before_they_are_multiplied(tmp_path: Path) -> None:
    operations = "\n".join(f"x+{number}/24,y,z" for number in range(20_000))
    text = cif_text(cubic(4), "Na1 Na 0 0 0", f"loop_\n_symmetry_equiv_pos_as_xyz\n{operations}")
    with within(10):
        assert "lists 20000 symmetry operations, expected at most 192" in reading_of(tmp_path, text).reason


def test_a_json_of_zeros_is_one_reason(tmp_path: Path) -> None:
    (tmp_path / "zeros.json.gz").write_bytes(gzip.compress(b"[" + b"0," * 10**7 + b"0]"))
    with within(10):
        (reading,) = read_structures([tmp_path / "zeros.json.gz"])
    assert "brackets and commas" in reading.reason


def test_after_a_thousand_bad_records_the_rest_of_a_file_is_left(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(json.dumps([{"id": f"m{number}"} for number in range(5000)]))
    readings = list(read_structures([tmp_path / "bad.json"]))
    assert len(readings) == 1002
    assert readings[-1].reason == "1001 structures in a row cannot be read: the rest of the file is left"
    assert readings[-1].id == "bad#1002"


def test_pipes_and_devices_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.db")
    (tmp_path / "zero.extxyz").symlink_to("/dev/zero")
    (tmp_path / "folder.vasp").mkdir()
    for name in ("pipe.db", "zero.extxyz", "folder.vasp"):
        (reading,) = read_structures([tmp_path / name])
        assert reading.reason == "this is not a file"
    assert tmp_path / "pipe.db" in find_structure_files(tmp_path)  # which does not wait for it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volume": 70.0}, "matrix has 64 Å³, but its volume is given as 70 Å³"),
        ({"volume": 64.1}, ""),
        ({"xyz": [0.0, 0.0, 1.0]}, "abc and xyz of site 0 are 1 Å apart"),
        ({"xyz": None}, ""),
    ],
)
def test_json_is_compared_with_what_it_says_twice(tmp_path: Path, change: dict[str, object], message: str) -> None:
    lattice = {"matrix": [[4.0, 0, 0], [0, 4.0, 0], [0, 0, 4.0]], "volume": change.get("volume", 64.0)}
    site = {"species": [{"element": "Na", "occu": 1}], "abc": [0, 0, 0], "xyz": change.get("xyz", [0, 0, 0])}
    reading = reading_of(tmp_path, json.dumps({"lattice": lattice, "sites": [site]}), "x.json")
    assert message in reading.reason
    assert bool(message) == (reading.crystal is None)
