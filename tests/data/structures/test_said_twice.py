"""A file that says a thing twice: one of them would be lost, or be the wrong one."""

import json
import time
import tracemalloc
from pathlib import Path

import pytest
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from crystalframer.data.structures.files import read_structures
from crystalframer.data.structures.json_layouts import named_records
from tests.fixtures.structure_texts import reading_of

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
TEXT = json.dumps(SALT.as_dict())
WIDER = json.dumps(SALT.copy().scale_lattice(8 * SALT.volume).as_dict())
LATTICE = json.dumps(SALT.lattice.as_dict())
FRAME = "1\n{}\nNa 0 0 0\n"
CELL = 'Lattice="4 0 0 0 4 0 0 0 4"'
PROPERTIES = "Properties=species:S:1:pos:R:3"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TEXT.replace('"lattice":', f'"lattice": {LATTICE}, "lattice":', 1), "'lattice' twice in one object"),
        (f'{{"a": {TEXT}, "a": {WIDER}}}', "'a' twice in one object"),
        (f'{{"structure": {TEXT}, "Structure": {WIDER}}}', "the record says 'structure' and 'Structure'"),
        (TEXT.replace('"species":', '"species": [{"element": "K", "occu": 1}], "species":', 1), "'species' twice"),
        (TEXT.replace('"alpha": 90.0', '"alpha": 60.0'), "the lattice's matrix has other lengths or angles"),
        (TEXT.replace('"a": 5.6', '"a": 4.6'), "the lattice's matrix has other lengths or angles"),
        (TEXT.replace('"xyz": [', '"xyz": [0, ', 1), "a site's xyz does not have three numbers"),
        (json.dumps({"columns": ["structure", "structure"], "data": [[TEXT, WIDER]]}), "the same name"),
    ],
)
def test_json(text: str, said: str, tmp_path: Path) -> None:
    assert text != TEXT
    (tmp_path / "twice.json").write_text(text, encoding="utf-8")
    readings = list(read_structures([tmp_path / "twice.json"]))
    assert [reading.crystal for reading in readings] == [None] * len(readings)
    assert said in readings[0].reason


@pytest.mark.parametrize(
    ("comment", "said"),
    [
        (f"{CELL} {CELL.replace('4', '8')} {PROPERTIES}", "'lattice' twice"),
        (f"{CELL.lower()} {CELL.replace('4', '8')} {PROPERTIES}", "'lattice' twice"),
        (f"{CELL} {PROPERTIES} gap=1 gap=2", "'gap' twice"),
    ],
)
def test_extended_xyz(comment: str, said: str, tmp_path: Path) -> None:
    assert said in reading_of(tmp_path, FRAME.format(comment), "x.extxyz").reason


def test_a_long_word_of_a_comment_takes_no_time(tmp_path: Path) -> None:
    started = time.process_time()
    reading = reading_of(tmp_path, FRAME.format(f"{CELL} {PROPERTIES} " + 10**5 * "a" + 10**5 * " "), "x.extxyz")
    assert reading.crystal is not None, reading.reason
    assert time.process_time() - started < 5


def test_extended_xyz_with_symbols_and_numbers(tmp_path: Path) -> None:
    frame = FRAME.format(f"{CELL} {PROPERTIES}:Z:I:1").rstrip()
    assert reading_of(tmp_path, f"{frame} 11\n", "x.extxyz").crystal is not None
    assert "different elements" in reading_of(tmp_path, f"{frame} 17\n", "y.extxyz").reason


@pytest.mark.parametrize(("behind", "differs"), [("{}", True), ("{}1-", True), ("{}+", True), ("{}_pv", True)])
def test_symbols_of_a_poscar_and_those_behind_its_rows(behind: str, differs: bool, tmp_path: Path) -> None:
    rows = [f"{place} {behind.format(symbol)}" for place, symbol in (("0 0 0", "Cl"), ("0.5 0.5 0.5", "Cs"))]
    for symbols in ("Cs Cl", "Cl Cs"):
        text = "\n".join(["x", "1.0", "4 0 0", "0 4 0", "0 0 4", symbols, "1 1", "Direct", *rows, ""])
        assert (reading_of(tmp_path, text, "POSCAR").crystal is None) == (differs and symbols == "Cs Cl")


def test_a_long_word_behind_a_row_takes_no_time(tmp_path: Path) -> None:
    head = ["x", "1.0", "4 0 0", "0 4 0", "0 0 4", "Cs", "1", "Direct"]
    started = time.process_time()
    assert reading_of(tmp_path, "\n".join([*head, "0 0 0 " + 10**5 * "1" + "x", ""]), "POSCAR").crystal is not None
    assert time.process_time() - started < 5


def test_what_is_said_once_is_read(tmp_path: Path) -> None:
    for name, text in (
        ("x.json", TEXT),
        ("x.extxyz", FRAME.format(f'{CELL} {PROPERTIES} note="a=1 a=2" gap=1 Gap=2')),
    ):
        reading = reading_of(tmp_path, text, name)
        assert reading.crystal is not None, reading.reason


def test_a_table_is_read_record_by_record() -> None:
    rows = 100_000
    text = json.dumps({"columns": ["structure"], "data": [[k] for k in range(rows)]})
    tracemalloc.start()
    try:
        records = named_records(text)
        next(records)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200 * rows  # a record more than doubles what its row takes
    assert sum(1 for _ in records) == rows - 1
