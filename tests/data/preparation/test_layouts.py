"""The forms in which people keep crystals and targets are read as they are meant, and what is left out is said."""

import json
import os
import pickle
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crystalframer.commands.prepare import training_settings
from crystalframer.data import progress, store
from crystalframer.data.dataset import CrystalDataset
from crystalframer.data.preparation.pickles import read_pickle
from crystalframer.data.preparation.targets import read_targets
from crystalframer.data.preparation.user_data import OwnData, prepare_own
from crystalframer.data.structures.files import find_structure_files, read_structures
from crystalframer.errors import UserError
from crystalframer.prediction.structures import expand
from crystalframer.training.trained_model import load_model
from pipelines import prepare_data, train
from tests.fixtures.own_data import alignn_folder, cif, energy, extxyz, poscar, small_crystals, structure

CRYSTALS = small_crystals(6)
TARGETS = [energy(crystal) for crystal in CRYSTALS]
STRUCTURES = [structure(crystal) for crystal in CRYSTALS]


@pytest.fixture(autouse=True)
def data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRYSTALFRAMER_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def prepared(source: Path, **options: Any) -> tuple[CrystalDataset, list[str]]:
    directory, manifest = prepare_own(OwnData(source, **options))
    assert manifest["rejects"] == 0, (directory / store.REJECTS).read_text()
    return store.read_store(directory), manifest["notes"]


def folder_with(path: Path, table: str | bytes, names: Sequence[str] = ()) -> Path:
    """Return a folder of six POSCARs m0 … m5, or of other names, and a table of targets."""
    path.mkdir()
    for name, crystal in zip(names or [f"m{number}" for number in range(6)], CRYSTALS, strict=True):
        (path / f"{name}.vasp").write_text(poscar(crystal))
    (path / "targets.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    return path


def rows(*columns: Sequence[Any], header: str) -> str:
    return "\n".join([header, *(",".join(map(str, row)) for row in zip(*columns, strict=True))]) + "\n"


NAMES = [f"m{number}" for number in range(6)]
TWO = {"target_1": TARGETS, "target_2": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]}


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (rows(range(6), NAMES, TARGETS, header=",id,target"), {"target": TARGETS}),
        (rows(range(6), range(6), NAMES, TARGETS, header="Unnamed: 0.1,Unnamed: 0,id,target"), {"target": TARGETS}),
        (rows(range(6), NAMES, TARGETS, header="index,id,target"), {"target": TARGETS}),
        (rows([3, 9, 4, 1, 7, 5], NAMES, TARGETS, header=",material,target"), {"target": TARGETS}),
        (rows(NAMES, TARGETS, header=",target"), {"target": TARGETS}),
        (rows(NAMES, TARGETS, TARGETS, header="id,300,600"), {"300": TARGETS, "600": TARGETS}),
        (rows(NAMES, TARGETS, TARGETS, header="id,Na,e"), {"Na": TARGETS, "e": TARGETS}),
        (rows(NAMES, [str(t).replace("-", "\N{MINUS SIGN}") for t in TARGETS], header="id,e"), {"e": TARGETS}),
        (rows(NAMES, TARGETS, header="id,e").encode("utf-16"), {"e": TARGETS}),
        (rows(NAMES, ['"first\nsecond"'] * 6, TARGETS, header="id,note,e"), {"e": TARGETS}),
        (rows(NAMES, [True, False] * 3, header="id,is_metal"), {"is_metal": [1.0, 0.0] * 3}),
        (rows(NAMES, [f'"{t}, {k}"' for k, t in enumerate(TARGETS)], header="id,target"), TWO),
        (rows(NAMES, TARGETS, header="My data\nid,e"), {"e": TARGETS}),
        (rows(NAMES, list("abcdef"), list("ghijkl"), TARGETS, header="id,note,note,e"), {"e": TARGETS}),
        (rows(NAMES, [f'"[{t} {k}]"' for k, t in enumerate(TARGETS)], header="id,target"), TWO),
    ],
    ids=[
        "index", "two-indices", "named-index", "shuffled-index", "index-of-ids", "numbers", "element", "minus",
        "utf-16", "line-break", "booleans", "list", "title", "notes", "bracketed-list",
    ],
)  # fmt: skip
def test_tables_of_targets(tmp_path: Path, table: str | bytes, expected: dict[str, list[float]]) -> None:
    dataset, notes = prepared(folder_with(tmp_path / "mine", table))
    assert list(dataset.tasks) == list(expected)
    for name, values in expected.items():
        found = dict(zip(dataset.ids.tolist(), dataset.tasks[name].targets.tolist(), strict=True))
        assert found == pytest.approx(dict(zip(NAMES, values, strict=True)))
    first = table.decode("utf-16")[:12] if isinstance(table, bytes) else table.partition("\n")[0]
    assert ("left out, as the index" in " ".join(notes)) == first.startswith((",id", "Unnamed", "index", ",material"))


def test_what_looks_like_a_list_and_may_be_none_is_no_target(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('id,thousands,words\nm0,"1,234","1 2"\nm1,"5,678.5","3 4"\n')
    assert list(read_targets(path).names) == []
    path.write_text('id,e\nm0,"1 234,5"\nm1,"5 678,5"\n')  # one number, as French has it
    assert list(read_targets(path).names) == []
    path.write_text("id;e\nm0;1,500\nm1;2,700\n")  # thousands, or decimals
    found = read_targets(path)
    assert list(found.names) == []
    assert found.notes == ["t.csv: 2 cells of 'e' have a comma, no point (row 2: '1,500'): no numbers"]
    (tmp_path / "m0.vasp").write_text(poscar(CRYSTALS[0]))
    with pytest.raises(UserError, match="no column of numbers: row 2 holds 'm0', '1,500'; all reasons"):
        prepare_own(OwnData(tmp_path, name="x", targets=path))


@pytest.mark.parametrize("mark", [";", "\t"])
def test_decimal_commas_are_read_where_a_comma_separates_nothing(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"id{mark}E (eV){mark}gap\n1,5{mark}-0,25{mark}1\nm1{mark}1,500{mark}2,0e-1\n")
    found = read_targets(path)
    assert [row.id for row in found.rows] == ["1,5", "m1"]  # a name stays what it is
    assert [dict(row.targets) for row in found.rows] == [{"E": -0.25, "gap": 1.0}, {"E": 1.5, "gap": 0.2}]
    assert found.notes[0] == "t.csv: commas are decimal ones, '-0,25' is -0.25"
    path.write_text(f"m0{mark}0,5\nm1{mark}0,7\n")
    assert [row.targets["target"] for row in read_targets(path).rows] == [0.5, 0.7]
    path.write_text("id;e;f\nm0;0,5;0.5\nm1;0,7;0.7\n")  # which of them is the decimal one?
    assert list(read_targets(path).names) == ["f"]


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("name,hardness,gap\n,GPa,eV\na,1,2\n", {"hardness": "GPa", "gap": "eV"}),
        ("name,hardness (MPa),gap\nunits,(GPa),-\na,1,2\n", {"hardness": "MPa"}),  # nearer to the name
        ("name;hardness;K\n;GPa;W/(m K)\na;1,5;2\n", {"hardness": "GPa", "K": "W/(m K)"}),
        ("name,hardness,colour\n,kJ / mol,\na,1,red\n", {"hardness": "kJ / mol"}),
        ("name,hardness\n,see note\na,1\n", None),
        ("name,hardness\nGPa,eV\na,1\n", None),  # a structure may be called so
        ("name,hardness\n,1\na,1\n", None),
        ("name,hardness,colour\n,,blue\na,1,red\n", None),
    ],
)
def test_a_row_of_units_below_the_header(text: str, units: dict[str, str] | None, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    table = read_targets(tmp_path / "t.csv")
    assert table.units == (units or {})
    assert len(table.rows) == (2 if units is None else 1)
    assert ("t.csv: row 2 is taken for the units" in table.notes) == (units is not None)


def test_units_of_other_encodings(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("id,e (µeV)\nm0,1\n".encode("latin-1"))
    assert read_targets(path).units == {"e": "µeV"}
    path.write_bytes(b"PK\3\4rest")
    with pytest.raises(UserError, match=r"t\.csv is a spreadsheet or another archive, expected text: call it t\.xlsx"):
        read_targets(path)


def test_ids_that_a_program_read_as_numbers(tmp_path: Path) -> None:
    table = rows(range(6), TARGETS, header="id,e")
    dataset, _ = prepared(folder_with(tmp_path / "mine", table, [f"{number:04}" for number in range(6)]))
    assert dataset.ids.tolist() == [f"{number:04}" for number in range(6)]
    assert dataset.tasks["e"].targets.tolist() == TARGETS


def mp_document(number: int) -> dict[str, Any]:
    label = {"@module": "emmet.core.mpid", "@class": "MPID", "string": f"mp-{number}"}
    return {"@class": "SummaryDoc", "material_id": label, "structure": STRUCTURES[number], "e": TARGETS[number]}


COLUMNS: dict[str, dict[str, Any]] = {
    "structure": {str(k): s for k, s in enumerate(STRUCTURES)},
    "e": {str(k): t for k, t in enumerate(TARGETS)},
}
SPLIT = {
    "index": list(range(6)),
    "columns": ["structure", "e"],
    "data": [[s, t] for s, t in zip(STRUCTURES, TARGETS, strict=True)],
}
RECORDS = [{"id": name, "structure": s, "e": t} for name, s, t in zip(NAMES, STRUCTURES, TARGETS, strict=True)]
NUMBERED = [f"mine#{number}" for number in range(1, 7)]
MP_IDS = [f"mp-{number}" for number in range(6)]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (json.dumps(SPLIT), NUMBERED),
        (json.dumps({**SPLIT, "index": NAMES}), NAMES),
        (json.dumps(COLUMNS), NUMBERED),
        (json.dumps({key: list(column.values()) for key, column in COLUMNS.items()}), NUMBERED),
        (json.dumps({"schema": {}, "data": RECORDS}), NAMES),
        ("".join(json.dumps(record) + "\n" for record in RECORDS), NAMES),
        (json.dumps([mp_document(number) for number in range(6)]), MP_IDS),
        (json.dumps({"data": [mp_document(number) for number in range(6)], "meta": {}}), MP_IDS),
        (json.dumps([{"id": n, "cif": cif(c), "e": energy(c)} for n, c in zip(NAMES, CRYSTALS, strict=True)]), NAMES),
    ],
    ids=["matbench", "split-named", "columns", "lists", "table", "lines", "documents", "answer", "cif"],
)
def test_json(tmp_path: Path, text: str, ids: list[str]) -> None:
    (tmp_path / "mine.json").write_text(text)
    dataset, _ = prepared(tmp_path / "mine.json")
    assert dataset.ids.tolist() == ids
    assert dataset.tasks["e"].targets.tolist() == TARGETS


def test_a_line_that_is_cut_off_is_named(tmp_path: Path) -> None:
    lines = [json.dumps(record) for record in RECORDS]
    (tmp_path / "mine.json").write_text("\n".join([*lines[:3], lines[3][:50]]))
    with pytest.raises(UserError, match="line 4 is malformed, expected a record in each line"):
        prepare_own(OwnData(tmp_path / "mine.json"))


def test_a_csv_of_structures_as_python_prints_them(tmp_path: Path) -> None:
    frame = pd.DataFrame({"material_id": NAMES, "structure": [str(s) for s in STRUCTURES], "e": TARGETS})
    frame.to_csv(tmp_path / "mine.csv")  # with its index
    dataset, notes = prepared(tmp_path / "mine.csv")
    assert dataset.ids.tolist() == NAMES
    assert dataset.tasks["e"].targets.tolist() == pytest.approx(TARGETS)
    assert list(dataset.tasks) == ["e"]
    assert notes == ["mine.csv: a column without a name is left out, as the index that a program wrote"]
    frame.to_csv(tmp_path / "wide.csv", encoding="utf-16")
    assert prepared(tmp_path / "wide.csv")[0].fingerprint == dataset.fingerprint
    frame["structure"] = "{'lattice': array([1, 2])}"
    frame.to_csv(tmp_path / "arrays.csv")
    with pytest.raises(UserError, match=r"neither JSON nor a Python dictionary: write it with json.dumps"):
        prepare_own(OwnData(tmp_path / "arrays.csv"))


def test_other_files_in_a_folder_are_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = alignn_folder(tmp_path / "mine", CRYSTALS, ".cif")
    structures = find_structure_files(folder)
    (folder / "atom_init.json").write_text(json.dumps({str(number): [0, 1] for number in range(1, 101)}))
    (folder / "config.json").write_text('{"epochs": 3}')
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 20)
    assert find_structure_files(folder) == expand([folder]) == structures
    dataset, notes = prepared(folder)
    assert len(dataset) == 6
    assert notes == ["3 files hold no structure and were passed over: Thumbs.db, atom_init.json, config.json"]
    assert prepare_data.main([str(folder)]) == 0
    assert notes[0] in capsys.readouterr().out


def test_structures_are_counted_not_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    crystals = small_crystals(30)
    source = tmp_path / "all.extxyz"
    source.write_text(extxyz(crystals, [{"id": crystal.id, "e": energy(crystal)} for crystal in crystals]))
    monkeypatch.setattr(progress, "EVERY", 0.0)
    assert prepare_data.main([str(source)]) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1] == "reading structures: 30 structures"
    assert printed.out.startswith("data set all: 30 crystals")


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    """A pipe would be waited for, and a device never ends."""
    folder = folder_with(tmp_path / "mine", rows(NAMES, TARGETS, header="id,e"))
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    for options in ({"targets": pipe}, {"targets": Path("/dev/zero")}, {"split": pipe}):
        with pytest.raises(UserError, match="is not a file"):
            prepare_own(OwnData(folder, **options))  # type: ignore[arg-type]
    for source in (pipe, Path("/dev/zero")):
        with pytest.raises(UserError, match="is not a file or folder"):
            prepare_own(OwnData(source, name="x"))
    assert [reading.reason for reading in read_structures([pipe])] == ["this is not a file"]


def test_text_of_a_container_is_refused_in_a_pickle(tmp_path: Path) -> None:
    """Thirty nested lists, each of the one before twice, are 100 bytes as a pickle and gigabytes as text."""
    path = tmp_path / "x.pkl"
    nested = b"](K\x01e" + b"".join(b"q%c](h%ch%ce" % (k, k, k) for k in range(30))
    path.write_bytes(b"\x80\x02" + nested + b"q\x1ecbuiltins\nstr\nh\x1e\x85R.")
    with pytest.raises(UserError, match=r"not a readable pickle \(text of a list\)"):
        read_pickle(path)
    path.write_bytes(b"\x80\x02cbuiltins\nstr\nK\x07\x85R.")
    assert read_pickle(path) == "7"
    assert read_pickle_of(path, {"a": [1, np.float64(2)]}) == {"a": [1, 2.0]}


def read_pickle_of(path: Path, value: Any) -> Any:
    path.write_bytes(pickle.dumps(value, protocol=4))
    return read_pickle(path)


@pytest.mark.parametrize(
    ("crystals", "expected"), [(3, (2, 50)), (24, (4, 50)), (236, (16, 50)), (5000, (128, 10)), (10**6, (128, 10))]
)
def test_the_settings_suit_the_size(crystals: int, expected: tuple[int, int]) -> None:
    settings = training_settings(crystals)
    assert (settings["batch_size"], settings["epochs"]) == expected
    assert 0 < settings["average_epochs"] < settings["epochs"]


@pytest.mark.slow
def test_the_printed_command_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = alignn_folder(tmp_path / "mine", small_crystals(20, max_atoms=4))
    assert prepare_data.main([str(folder)]) == 0
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("train with: ")
    words = shlex.split(command)
    assert words[:2] == ["crystalframer", "train"]
    assert train.main([*words[2:], "--out", str(tmp_path / "run")]) == 0
    trained = load_model(tmp_path / "run" / "checkpoint.pt")
    assert trained.averaged
    assert "test MAE" in capsys.readouterr().out
