"""Fine-tuning by name: the source's settings, shallow models beside it, one table that says which to use."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crystalframer import cli
from crystalframer.config import DataConfig
from crystalframer.data.dataset import TaskData
from crystalframer.data.registry import load_task
from crystalframer.geometry.crystal import Crystal
from crystalframer.geometry.occupancies import Mixture
from crystalframer.prediction import load_predictor
from crystalframer.pretrained.baselines import (
    Candidate,
    baselines,
    composition_features,
    inherited,
    table_of,
    trees_on_composition,
)
from crystalframer.pretrained.tuning import FineTuned
from crystalframer.resolving import build_trial
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.statistics import Interval
from crystalframer.training.trained_model import load_model

SMALL = ["data.train_size=60", "data.val_size=30", "data.test_size=40", "train.epochs=3", "train.patience=2"]


@pytest.fixture(scope="module")
def data() -> TaskData:
    """Return band gaps of a few crystals of the sample."""
    return load_task(DataConfig(task="bandgap", train_size=60, val_size=30, test_size=40))


def test_one_command_compares_and_resumes(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: TaskData
) -> None:
    out = tmp_path / "tuned"
    command = ["finetune", "single", "sample", "--task", "bandgap", "--seeds", "2", "--from-scratch", "--out", str(out)]
    command += [word for setting in SMALL for word in ("--set", setting)]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    rows = re.findall(r"^(\w.*?)  +(\S+)  (\S+) \[", printed, re.MULTILINE)
    assert [row[0] for row in rows] == [
        *("model", "mean of the training set", "trees on composition", "ridge on embedding", "trees on embedding"),
        *(f"{way}, {one}" for way in ("fine-tuned", "from scratch") for one in ("seed 0", "seed 1", "mean of 2")),
    ][1:]
    best = min(rows, key=lambda row: float(row[1]))[0]
    assert f"use: {best}, whose validation error is smallest" in printed
    result = RunDirectory(out / "fine-tuned-seed1").result()
    assert result is not None
    assert float({row[0]: row[2] for row in rows}["fine-tuned, seed 1"]) == pytest.approx(result["test_mae"], rel=2e-3)
    trial = load_model(out / "fine-tuned-seed1" / "checkpoint.pt").trial
    assert (trial.model.width, trial.train.keep, trial.train.patience) == (16, "best", 2)
    before = (out / "fine-tuned-seed0" / "checkpoint.pt").stat().st_mtime_ns
    assert cli.main(command) == 0
    assert capsys.readouterr().out.count("epoch") == 0
    assert (out / "fine-tuned-seed0" / "checkpoint.pt").stat().st_mtime_ns == before
    assert cli.main(["pack", "gaps", str(out / "fine-tuned-seed0"), str(out / "fine-tuned-seed1")]) == 0


def test_shallow_models_learn_what_is_there_to_learn(packed_folder: Path) -> None:
    whole = load_task(DataConfig(train_size=600, val_size=100, test_size=200))
    found = {one.name: one for one in baselines(load_predictor(packed_folder / "single.pt"), whole)}
    truth = whole.targets[whole.rows["test"]]
    constant = np.abs(truth - whole.targets[whole.rows["train"]].mean()).mean()
    assert found["mean of the training set"].test_mae.value == pytest.approx(constant)
    assert found["trees on composition"].test_mae.value < 0.4 * constant
    assert found["ridge on embedding"].test_mae.value < 0.8 * constant
    assert found["trees on embedding"].test_mae.value < 0.8 * constant


def test_trees_learn_where_most_targets_are_equal_as_gaps_of_metals_are() -> None:
    whole = load_task(DataConfig(train_size=600, val_size=100, test_size=200))
    middle = np.quantile(whole.targets[whole.rows["train"]], 0.4)
    mostly_zero = replace(whole, targets=np.minimum(whole.targets - middle, 0))
    truth = mostly_zero.targets[whole.rows["test"]]
    error = np.abs(trees_on_composition(mostly_zero)["test"] - truth).mean()
    assert error < 0.5 * np.abs(truth).mean(), "predicting their median, 0, is no model"


def test_composition_features_do_not_depend_on_the_cell_and_count_occupancies() -> None:
    one = Crystal(4 * np.eye(3), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.array([55, 17]))
    places = np.concatenate([one.frac_coords, one.frac_coords + [1, 0, 0]]) / [2, 1, 1]
    two = Crystal(np.diag([8.0, 4, 4]), places, np.tile(one.atomic_numbers, 2))
    mixture = Mixture(np.array([1, 1]), np.array([17, 35]), np.array([0.5, 0.5]))
    mixed = Crystal(one.lattice, one.frac_coords, one.atomic_numbers, "mixed", mixture)
    rows = composition_features([one, two, mixed])
    assert rows[0] == pytest.approx(rows[1], nan_ok=True)
    assert rows[0][[54, 16]].tolist() == [0.5, 0.5]
    assert rows[2][[54, 16, 34]].tolist() == [0.5, 0.25, 0.25]
    assert rows[0, 118] == (55 + 17) / 2


def test_the_table_recommends_by_validation_error_alone() -> None:
    candidates = [
        Candidate("good on test", 0.3, Interval(0.1, 0.05, 0.15), 1.0),
        Candidate("good on validation", 0.2, Interval(0.2, 0.1, 0.3), 1.0),
    ]
    assert table_of(candidates, "eV").endswith("use: good on validation, whose validation error is smallest")
    tuned = Candidate("fine-tuned, seed 0", 0.1, Interval(0.3, 0.2, 0.4), 1.0)
    shallow_wins, trained_wins = FineTuned(tuple(candidates), "eV", ()), FineTuned((*candidates, tuned), "eV", ())
    assert str(shallow_wins).endswith("the lines on shallow models that `crystalframer files python.md` copies")
    assert "the lines on shallow models" in shallow_wins._repr_html_()
    assert "the lines on shallow models" not in trained_wins._repr_html_()
    assert str(trained_wins).endswith("use: fine-tuned, seed 0, whose validation error is smallest")


def test_settings_are_the_sources(packed_folder: Path) -> None:
    source = load_predictor(packed_folder / "single.pt").members[0].trial
    trial = build_trial(inherited(source, 200))
    assert trial.model == source.model
    assert (trial.train.batch_size, trial.train.average_epochs, trial.train.keep) == (25, 0, "best")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["both", "sample", "--task", "bandgap", "--seeds", "0"], "--seeds: got 0, expected at least 1"),
        (["bothh", "sample", "--task", "bandgap"], "there is no model 'bothh' (did you mean 'both'?)"),
        (["both", "sampel", "--task", "bandgap"], "unknown data set 'sampel' (did you mean 'sample'"),
        (["both", "sample", "--task", "bandgup"], "has no task 'bandgup' (did you mean 'bandgap'"),
        (["both", "sample", "--task", "bandgap,e_hull"], "baselines are for a single task"),
        (["both", "sample", "--task", "bandgap", "--set", "train.epoch=3"], "train.epochs"),
    ],
)
def test_mistakes_get_one_sentence(
    words: list[str], problem: str, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["finetune", *words, "--out", str(tmp_path / "out")]) == 2
    assert problem in capsys.readouterr().err
