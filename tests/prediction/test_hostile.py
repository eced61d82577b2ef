"""A hundred hostile files and many odd names leave the good ones predicted and say what was wrong with each."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from crystalframer import cli
from crystalframer.prediction import load_predictor
from tests.prediction.hostile import FRAME, GOOD, ODD_NAMES, POSCAR, STRUCTURE, write_hostile

EXPECTED = {
    "million.cif": "lists 1000000 sites, expected at most 40000",
    "million.vasp": "1000001 atoms",
    "million.extxyz": "a frame has 1000000 atoms",
    "unknown_species.cif": "Xx",
    "heavy_element.cif": "contains Es (Z = 99)",
    "bomb.cif.gz": "more than 67108864 bytes unpacked",
    "sparse.cif": "more than 67108864 bytes",
    "pipe.cif": "not a file",
    "folder.cif": "not a file",
    "zero.cif": "not a file",
    "overlap.cif": "overlap",
    "noise.vasp": "binary",
    "nan.json": "not finite",
}
"""What some of them must be told in any case."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of right structures in odd files."""
    folder = tmp_path_factory.mktemp("good")
    for name in ODD_NAMES:
        (folder / name).write_text(GOOD)
    (folder / "a.vasp").write_text(POSCAR)
    (folder / "frames.extxyz").write_text(FRAME * 3)
    (folder / "structure.json").write_text(json.dumps(STRUCTURE))
    return folder


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_good_are_predicted_and_the_bad_have_a_reason(
    model_file: Path, good: Path, tmp_path: Path, processes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad").mkdir()
    hostile = write_hostile(tmp_path / "bad")
    assert len(hostile) >= 100 - len(ODD_NAMES) + 10
    output = tmp_path / "out.csv"
    command = ["predict", str(model_file), str(good), *map(str, hostile), str(tmp_path / "bad" / "loop" / "empty.cif")]
    assert cli.main([*command, "--output", str(output), "--processes", str(processes)]) == 0
    with output.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, strict=True))
    right, wrong = rows[: len(ODD_NAMES) + 5], rows[len(ODD_NAMES) + 5 :]
    assert all(set(row) == set(rows[0]) and None not in row.values() for row in rows)
    column = "formation_energy [eV/atom]"
    predictions = [float(row[column]) for row in right if row["id"] != "structure"]
    expected = load_predictor(model_file).predict(good / "a.vasp").values[0, 0]
    assert np.allclose(predictions, expected, atol=1e-4)
    assert not any(row["error"] for row in right)
    listed = dict.fromkeys(Path(row["source"]).name for row in wrong)  # a file may hold several structures
    assert list(listed) == [path.name for path in hostile]
    told = {Path(row["source"]).name: row["error"] for row in wrong}
    for path in hostile:
        assert told[path.name], f"{path.name} has no reason"
        assert len(told[path.name]) < 600
        assert EXPECTED.get(path.name, "") in told[path.name]
    assert not any(row[column] for row in wrong)
    text = output.read_text(encoding="utf-8")
    assert text.count("\n") == len(rows) + 1
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for name, cell in row.items() if name == "id")
    assert text.replace("\n", "").isprintable()
    assert not list(tmp_path.rglob("owned"))
    assert f"{len(wrong)} could not be predicted" in capsys.readouterr().err


def test_a_folder_with_links_in_circles_is_walked_once(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "a.cif").write_text(GOOD)
    (tmp_path / "in" / "deep" / "up").symlink_to(tmp_path / "in", target_is_directory=True)
    assert cli.main(["predict", str(model_file), str(tmp_path / "in")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
