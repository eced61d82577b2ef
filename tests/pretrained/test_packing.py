"""Finished runs become a model with a name, as one command, and nothing else does."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from crystalframer import cli
from crystalframer.atomic_files import sha256_of
from crystalframer.data.registry import load_task
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal
from crystalframer.prediction import load_predictor
from crystalframer.prediction.loading import read_model
from crystalframer.pretrained.listing import listed_models, read_list
from crystalframer.pretrained.packing import pack_runs
from crystalframer.resolving import build_trial
from crystalframer.runs.json_files import sealed
from crystalframer.runs.run_directory import RunDirectory
from tests.pretrained.conftest import SETTINGS, train


def test_a_packed_ensemble_says_what_was_measured(packed_folder: Path, runs: list[Path]) -> None:
    entry = read_list(packed_folder)["both"]
    target = entry.targets[0]
    assert (target.property, target.unit, entry.members, entry.frame) == ("formation_energy", "eV/atom", 2, "max")
    assert entry.crystals == [120, 120, 150]
    assert "Materials Project" in entry.data
    assert "CC BY 4.0" in entry.licence
    path = packed_folder / entry.file
    assert (entry.bytes, entry.sha256) == (path.stat().st_size, sha256_of(path))
    of_seeds = [result["test_mae"] for run in runs if (result := RunDirectory(run).result())]
    assert target.mae_low < target.mae < target.mae_high
    assert target.mae < max(of_seeds) * 1.02
    assert 0.8 <= target.coverage <= 1


def test_the_file_holds_settings_curves_card_and_example(packed_folder: Path) -> None:
    packed = read_model(packed_folder / "both.pt")
    assert [member.trial.train.seed for member in packed.members] == [0, 1]
    assert [[epoch["epoch"] for epoch in curve] for curve in packed.curves] == [[1, 2, 3, 4]] * 2
    assert "val/mae_eV_per_atom" in packed.curves[0][0]
    assert packed.card.startswith("# Model card: formation energy (eV/atom)")
    assert "| formation_energy | all all | 150 |" in packed.card
    assert packed.about["name"] == "both"
    assert packed.example is not None
    assert packed.example.crystal.num_atoms <= 24


def test_eight_bits_change_predictions_less_than_seeds_do(
    packed_folder: Path, runs: list[Path], test_crystals: list[Crystal]
) -> None:
    packed = load_predictor(packed_folder / "single.pt").predict(test_crystals).values
    first, second = (load_predictor(run).predict(test_crystals).values for run in runs)
    assert 0 < np.abs(packed - first).mean() < 0.05 * np.abs(second - first).mean()
    assert (packed_folder / "single.pt").stat().st_size < 0.6 * (runs[0] / "checkpoint.pt").stat().st_size


def test_intervals_hold_about_as_many_true_values_as_they_say(
    packed_folder: Path, test_crystals: list[Crystal]
) -> None:
    data = load_task(build_trial(SETTINGS).data)
    values = data.targets[data.rows["test"]]
    for name in ("both", "single"):
        held, widths = [], []
        for coverage in (0.5, 0.8, 0.9):
            found = load_predictor(packed_folder / f"{name}.pt", coverage=coverage).predict(test_crystals)
            assert found.lower is not None
            assert found.upper is not None
            held.append(((found.lower[:, 0] <= values) & (values <= found.upper[:, 0])).mean())
            widths.append((found.upper - found.lower).mean())
        assert held == pytest.approx([0.5, 0.8, 0.9], abs=0.11), name
        assert widths == sorted(widths)


def test_one_command_makes_and_lists_and_uses_a_model(
    runs: list[Path], own_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], test_crystals: list[Crystal]
) -> None:
    assert cli.main(["models"]) == 0
    assert "mine" not in capsys.readouterr().out
    assert cli.main(["pack", "mine", str(runs[0]), "--about", "A few crystals", "--licence", "none"]) == 0
    assert "predict with it: `crystalframer predict mine FILES`" in capsys.readouterr().out
    assert cli.main(["models"]) == 0
    listing = capsys.readouterr().out
    assert "mine: formation_energy [eV/atom], test MAE " in listing
    assert "A few crystals; 120 training, 120 validation, 150 test crystals; 1 × max, " in listing
    test_crystals[0].to_structure().to(filename=str(tmp_path / "one.cif"), fmt="cif")
    assert cli.main(["predict", "mine", str(tmp_path / "one.cif"), "--coverage", "0.8"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    columns = header.split(",")[:5]
    unit = "[eV/atom]"
    assert columns[2:] == [f"formation_energy{end} {unit}" for end in ("", "_lower", "_upper")]
    value, lower, upper = map(float, row.split(",")[2:5])
    assert lower < value < upper
    assert cli.main(["card", "mine", "--output", str(tmp_path / "card.md")]) == 0
    assert "A few crystals" in (tmp_path / "card.md").read_text()


def test_an_evaluation_shows_what_intervals_hold(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", "both", "--output", str(tmp_path / "out")]) == 0
    mae = read_list(packed)["both"].targets[0].mae
    assert f"MAE {mae:.4g} eV/atom" in capsys.readouterr().out
    with (tmp_path / "out" / "coverage_formation_energy.csv").open(newline="") as file:
        rows = {(row["kind"], row["group"]): row for row in csv.DictReader(file)}
    assert float(rows["all", "all"]["share"]) == pytest.approx(read_list(packed)["both"].targets[0].coverage)
    assert len([kind for kind, _ in rows if kind == "difficulty"]) == 10
    for suffix in ("png", "pdf"):
        assert (tmp_path / "out" / f"calibration_formation_energy.{suffix}").stat().st_size > 5000


def test_a_name_is_taken_until_it_is_to_be_replaced(packed: Path, runs: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(packed, folder)
    names, before = sorted(read_list(folder)), read_list(folder)["single"].sha256
    with pytest.raises(UserError, match=r"lists a model 'single' already; give another name, or --replace"):
        pack_runs(runs, "single", folder=folder)
    assert read_list(folder)["single"].sha256 == before
    pack_runs(runs, "single", folder=folder, replace_old=True)
    assert read_list(folder)["single"].members == 2
    assert sorted(read_list(folder)) == names


@pytest.mark.parametrize("name", ["", "Mine", "a/b", "../mine", "mine.pt", "-x"])
def test_a_name_is_plain(name: str, runs: list[Path]) -> None:
    with pytest.raises(UserError, match="expected small letters, digits"):
        pack_runs(runs, name)


def test_only_finished_trainings_that_differ_in_seed_alone(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run directory; give the folders of finished trainings"):
        pack_runs([tmp_path], "mine")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(runs[0], unfinished)
    (unfinished / "done.json").unlink()
    with pytest.raises(UserError, match="holds a training that is not finished"):
        pack_runs([unfinished], "mine")
    with pytest.raises(UserError, match="has the same seed as another one"):
        pack_runs([runs[0], runs[0]], "mine")
    wider = train(tmp_path / "wider", **{"train.seed": 2, "train.epochs": 1, "model.width": 32})
    with pytest.raises(UserError, match=r"differ in more than their seeds: model\.width is 16 here and 32 there"):
        pack_runs([runs[0], wider], "mine")


def test_other_data_and_too_few_validation_crystals_are_refused(runs: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(runs[0], other)
    config = json.loads((other / "config.json").read_text())
    config["dataset_fingerprint"] = "0" * 64
    (other / "config.json").write_text(sealed(config))
    with pytest.raises(UserError, match=r"is not the one that .*other was trained on"):
        pack_runs([other], "mine")
    few = train(tmp_path / "few", **{"train.epochs": 1, "data.val_size": 19})
    with pytest.raises(UserError, match="got 19, expected at least 20"):
        pack_runs([few], "mine")
    assert "mine" not in listed_models()
