"""`crystalframer predict` and `crystalframer convert` as a person runs them."""

import csv
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crystalframer import cli
from crystalframer.geometry.crystal import Crystal
from crystalframer.prediction import Predictor, load_predictor
from crystalframer.prediction.cutoff import neglected_share, truncation_error
from crystalframer.training.trained_model import write_model
from tests.fixtures.structure_texts import cif_text, cubic
from tests.prediction.conftest import MakeModel
from tests.prediction.hostile import FRAME


def test_a_folder_and_files_become_a_table(
    model_file: Path, cif_folder: Path, crystals: list[Crystal], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "=bad.cif"
    bad.write_text("nothing\n")
    output = tmp_path / "new" / "out.csv"
    assert cli.main(["predict", str(model_file), str(cif_folder), str(bad), "--output", str(output)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("predicted 12 of 13 structures in ")
    assert "1 could not be predicted (column error), the first: =bad: " in captured.err
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"c{number:02}" for number in range(12)] + ["'=bad"]
    values = np.array([float(row["formation_energy [eV/atom]"]) for row in rows[:12]])
    expected = load_predictor(model_file).predict(crystals).values[:, 0]
    assert np.allclose(values, expected, atol=2e-4)
    assert rows[12]["formation_energy [eV/atom]"] == ""
    assert rows[12]["error"]


def test_the_same_table_in_three_formats_and_on_stdout(
    model_file: Path, cif_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "none.cif"
    command = ["predict", str(model_file), str(cif_folder / "c00.cif"), str(missing), "--ensemble", str(model_file)]
    for name in ("out.csv", "out.parquet", "out.json"):
        assert cli.main([*command, "--output", str(tmp_path / name)]) == 0
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    table = pd.read_parquet(tmp_path / "out.parquet")
    records = json.loads((tmp_path / "out.json").read_text())
    assert (tmp_path / "out.csv").read_text().splitlines() == printed.splitlines()
    assert list(table.columns) == list(records[0]) == printed.splitlines()[0].split(",")
    assert records[1]["formation_energy [eV/atom]"] is None
    assert records[0]["error"] is None
    assert table["formation_energy_std [eV/atom]"][0] == 0
    assert records[0]["bandgap [eV]"] == table["bandgap [eV]"][0]


def test_what_is_doubtful_has_a_warning_and_a_prediction(
    model_file: Path, cif_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dots.cif").write_text(cif_text(cubic(4.2), "Mg1 Mg . . .\nO1 O 0.5 0.5 0.5"))
    (tmp_path / "frames.extxyz").write_text(FRAME.replace("pbc", "id=mine pbc") + FRAME)
    command = ["predict", str(model_file), str(cif_folder / "c00.cif"), str(tmp_path), "--output"]
    assert cli.main([*command, str(tmp_path / "out.csv")]) == 0
    assert "doubtful (column warnings): 1 structure, 'dots': a coordinate is given as '.'" in capsys.readouterr().err
    assert cli.main([*command, str(tmp_path / "out.json")]) == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["c00", "dots", "mine", "frames#2"]
    assert [bool(row["warnings"]) for row in rows] == [False, True, False, False]
    assert not any(row["error"] for row in rows)
    records = json.loads((tmp_path / "out.json").read_text())
    assert [record["warnings"] for record in records] == [None, rows[1]["warnings"], None, None]


def test_nothing_predicted_is_exit_code_2(model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none.cif").write_text("no crystal")
    assert cli.main(["predict", str(model_file), str(tmp_path / "none.cif")]) == 2
    assert "predicted 0 of 1 structures" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["{model}", "{folder}/empty"], "found no structure files in"),
        (["{folder}/none.pt", "x.cif"], "there is no model"),
        (["{model}", "x.cif", "--output", "out.xlsx"], "expected one of .csv, .parquet, .json"),
        (["{model}", "{folder}/empty.cif", "--processes", "0"], "--processes: got 0, expected at least 1"),
        (["{model}", "nowhere"], "nowhere: no such file or folder, expected structures to predict"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.cif").touch()
    filled = [argument.format(model=model_file, folder=tmp_path) for argument in arguments]
    assert cli.main(["predict", *filled]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert problem in captured.err
    assert captured.err.count("\n") == 1


def test_convert_writes_what_predict_reads(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    official, output = shared / "golden" / "official_style_none.ckpt", tmp_path / "none.pt"
    assert cli.main(["convert", str(official), "--output", str(output)]) == 0
    assert capsys.readouterr().out.startswith(f"{output}: formation_energy [eV/atom], frame none, 4 blocks, averaged")
    assert load_predictor(output).names == ("formation_energy",)
    assert cli.main(["convert", str(output), "--output", str(tmp_path / "again.pt")]) == 2
    assert "is a file of this program already" in capsys.readouterr().err


def test_strange_elements_are_warned_of_and_a_wide_sigma_is_not(
    make_model: MakeModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], cif_folder: Path
) -> None:
    known = tuple(number for number in range(1, 99) if number != 38)
    narrow = dataclasses.replace(make_model(cutoff=3.0), elements=known)
    write_model(tmp_path / "narrow.pt", narrow)
    assert cli.main(["predict", str(tmp_path / "narrow.pt"), str(cif_folder)]) == 0
    problems = capsys.readouterr().err
    assert "the training set had no crystal with Sr: " in problems
    assert problems.count("warning") == 1  # what the cutoff leaves out, its test error includes
    write_model(tmp_path / "narrow.pt", make_model(cutoff=3.0))
    assert cli.main(["predict", str(tmp_path / "narrow.pt"), str(cif_folder)]) == 0
    assert "warning" not in capsys.readouterr().err


def test_the_cutoffs_error_is_measured(make_model: MakeModel, crystals: list[Crystal]) -> None:
    short, long = (truncation_error(make_model(cutoff=cutoff), crystals[:4]) for cutoff in (4.0, 8.0))
    assert short.largest > 100 * long.largest
    assert (long.cutoff, long.wide, long.num_crystals) == (8.0, 12.0, 4)
    by_hand = [Predictor([make_model(cutoff=cutoff)]).predict(crystals[:4]).values[:, 0] for cutoff in (4.0, 8.0)]
    assert short.largest == pytest.approx(np.abs(by_hand[0] - by_hand[1]).max(), rel=1e-3)
    assert re.match(r"about \d+\.\d% of the widest head's attention \(σ = 1\.\d\d Å\) lies beyond .* 4 Å; ", str(short))
    assert str(long) == ""


def test_the_neglected_share_is_the_tail_of_a_gaussian() -> None:
    points = np.random.default_rng(0).normal(size=(200_000, 3)) * 1.5
    beyond = (np.linalg.norm(points, axis=1) > 4.0).mean()
    assert neglected_share(1.5, 4.0) == pytest.approx(beyond, rel=0.03)
    assert neglected_share(0.0, 4.0) == 0
