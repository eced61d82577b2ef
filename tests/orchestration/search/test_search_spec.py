"""Search files: what they say, and one sentence for each mistake."""

from pathlib import Path
from typing import Any

import pytest

from crystalframer.errors import UserError
from crystalframer.orchestration.search.search_spec import EarlyStopping, Range, load_search
from crystalframer.orchestration.search.study import StudyExport, study_url
from pipelines.tune_hyperparameters import main
from tests.orchestration.searches import SPACE, search_fields, write_search

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("hpo_*.yaml")), ids=lambda path: path.stem)
def test_the_files_that_come_with_it_are_valid(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = load_search(path)
    assert spec.name == path.stem
    assert main([str(path), "--dry-run"]) == 0
    assert f"{path.stem}: " in capsys.readouterr().out


def test_a_file_is_read(tmp_path: Path) -> None:
    spec = load_search(write_search(tmp_path), ["budget.trials=3", "budget.hours=2.5", "train.epochs=9"])
    assert spec.space["train.learning_rate"] == Range("loguniform", 1e-5, 1e-1)
    assert (spec.budget.trials, spec.budget.hours, spec.default.train.epochs) == (3, 2.5, 9)
    assert spec.early_stopping == EarlyStopping(1, 3)
    assert spec.early_stopping.rungs(27) == (1, 3, 9)
    assert spec.early_stopping.rungs(28) == (1, 3, 9, 27)


def test_numbers_are_written_as_one_likes(tmp_path: Path) -> None:
    path = write_search(tmp_path, space={"train.learning_rate": {"loguniform": ["1e-5", "1e-1"]}})
    path.write_text(path.read_text().replace("'", ""))
    spec = load_search(path, ["space.model.num_elements={choice: [97, 98]}", "method=random"])
    assert spec.space["train.learning_rate"] == Range("loguniform", 1e-5, 1e-1)
    assert spec.space["model.num_elements"] == Range("choice", options=(97, 98))
    assert spec.method == "random"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"space": {"train.learning_rat": {"uniform": [0, 1]}}}, "did you mean 'train.learning_rate'"),
        ({"space": {"train.learning_rate": {"unifrom": [0, 1]}}}, "unknown 'unifrom' (did you mean 'uniform'"),
        ({"space": {"train.learning_rate": {"uniform": [1.0, 0.5]}}}, "a lower and a higher number"),
        ({"space": {"train.learning_rate": {"loguniform": [0, 0.5]}}}, "above 0 for loguniform"),
        ({"space": {"train.learning_rate": {"uniform": [-1.0, 0.5]}}}, "expected a positive number"),
        ({"space": {"model.num_angl": {"int": [8, 16.5]}}}, "expected two whole numbers"),
        ({"space": {"model.frame": {"choice": ["max"]}}}, "at least two different values"),
        ({"space": {"model.frame": {"choice": ["max", "maxi"]}}}, "unknown model.frame 'maxi'"),
        ({"space": {"train.seed": {"int": [0, 9]}}}, "is not searched; state it in base"),
        ({"space": {}}, "expected at least one setting"),
        ({"objectives": ["num_parameters"]}, "expected val_mae first"),
        ({"objectives": ["val_mae", "speed"]}, "unknown objectives 'speed'"),
        ({"method": "asha"}, "unknown method 'asha'"),
        ({"grid": {"train.seed": [0]}}, "this is a sweep"),
        ({"early_stoping": {}}, "did you mean 'early_stopping'"),
        ({"early_stopping": {"min_epochs": 27}}, "leaves no rung below train.epochs (27)"),
        ({"confirm": {"best": 2}}, "expected both best and seeds"),
        ({"budget": {"trials": 0}}, "budget.trials: got 0"),
        ({"budget": {"max_cost": 5}}, "needs budget.cost_per_hour"),
        ({"method": "pbt"}, "has neither early_stopping nor"),
        ({"method": "pbt", "early_stopping": None}, "space.model.r_0: cannot change while a model trains"),
        ({"question": ""}, "field 'question'"),
        ({"population": {"replaced": 0.7}}, "population.replaced: got 0.7, expected a number, at most 0.5"),
        ({"population": {"factor": 1}}, "population.factor: got 1, expected a number above 1"),
        ({"population": {"member": 3}}, "unknown field in population: 'member' (did you mean 'members'"),
        ({"early_stopping": {"reduce": 3}}, "unknown field in early_stopping: 'reduce' (did you mean 'reduction'"),
        ({"budget": {"trials": 10**20}}, "expected a whole number, at most 1,000,000"),
        ({"budget": {"hours": "1:30"}}, "budget.hours: got '1:30', expected a number"),
        ({"space": {"model.num_angl": {"int": [8, 16], "step": 0}}}, "step: got 0, expected a whole number, at least"),
        ({"space": {"model.num_elements": {"int": [98, 200000]}}}, "'model.num_elements': got 200000, expected a"),
        ({"space": {"model.r_max": {"uniform": [4, 1e308]}}}, "'model.r_max': got 1e+308, expected a number, at"),
        ({"space": {"model.r_max": {"uniform": ["low", 9]}}}, "got ['low', 9], expected two numbers"),
        ({"space": {"model.frame": "max"}}, "space.model.frame: got 'max', expected a mapping"),
    ],
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, Any], said: str) -> None:
    path = write_search(tmp_path, **fields)
    assert main([str(path), "--runs", str(tmp_path / "runs"), "--dry-run"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {path}: ")
    assert err.count("\n") == 1
    assert said in err
    assert not (tmp_path / "runs").exists()


def test_a_setting_is_not_both_fixed_and_searched(tmp_path: Path) -> None:
    base = search_fields()["base"]
    path = write_search(tmp_path, base={**base, "train": {**base["train"], "learning_rate": 1e-3}})
    with pytest.raises(UserError, match=r"'train.learning_rate' is stated in base and in space"):
        load_search(path)
    assert "train.learning_rate" in SPACE


def test_optuna_and_mlflow_cannot_share_a_database(tmp_path: Path) -> None:
    from crystalframer.orchestration.tracking.server import create_database, database_uri

    create_database(tmp_path)
    spec = load_search(write_search(tmp_path))
    with pytest.raises(UserError, match="cannot use the Optuna database"):
        StudyExport(database_uri(tmp_path), spec, [], print)
    StudyExport(study_url(tmp_path), spec, [], print).close()
    assert (tmp_path / "optuna.db").exists()
