"""Evaluating a model on a split: errors, intervals, files, and the refusal of other data."""

import csv
import dataclasses
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crystalframer.config import TrialConfig
from crystalframer.data.registry import load_task
from crystalframer.geometry.crystal import ELEMENTS
from crystalframer.prediction import leaderboard
from crystalframer.prediction.evaluation import (
    TargetEvaluation,
    data_of,
    element_errors,
    evaluate_model,
)
from crystalframer.prediction.leaderboard import submit, write_submission
from crystalframer.published import PUBLISHED, PublishedTask
from crystalframer.resolving import build_trial, setting_value
from crystalframer.training.trained_model import TrainedModel, load_model, write_model
from crystalframer.training.trainer import Trainer
from pipelines.evaluate import main

SETTINGS = {
    "data.train_size": 40,
    "data.val_size": 10,
    "data.test_size": 30,
    "train.epochs": 2,
    "train.batch_size": 8,
    "train.average_epochs": 1,
    "train.kernel": "reference",
    "model.num_blocks": 1,
    "model.width": 8,
    "model.num_heads": 2,
    "model.ffn_width": 8,
    "model.num_dist": 8,
    "model.num_angl": 4,
    "model.cutoff": 4.0,
}


@pytest.fixture(scope="module")
def trial() -> TrialConfig:
    return build_trial(SETTINGS)


@pytest.fixture(scope="module")
def checkpoint(trial: TrialConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of a training of a second."""
    trainer = Trainer(trial, load_task(trial.data))
    list(trainer.fit())
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    trainer.save(path)
    return path


@pytest.fixture(scope="module")
def evaluation(checkpoint: Path) -> TargetEvaluation:
    trained = load_model(checkpoint)
    (found,) = evaluate_model(trained, data_of(trained), "test")
    return found


def test_the_errors_are_the_trainers(evaluation: TargetEvaluation, checkpoint: Path, trial: TrialConfig) -> None:
    trainer = Trainer(trial, load_task(trial.data))
    trainer.restore(checkpoint)
    expected = trainer.evaluate("test")
    assert np.allclose(evaluation.predictions, expected.predictions, atol=1e-6)
    assert evaluation.mae.value == pytest.approx(expected.mae)
    assert evaluation.rmse.value == pytest.approx(expected.rmse)
    residual = np.square(expected.predictions - expected.targets).mean()
    assert evaluation.r2.value == pytest.approx(1 - residual / expected.targets.var())
    for number in (evaluation.mae, evaluation.rmse, evaluation.r2):
        assert number.low < number.value < number.high


def test_the_pipeline_writes_tables_and_figures(
    evaluation: TargetEvaluation, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(checkpoint.parent)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("formation_energy, 30 crystals of the test split: MAE ")
    folder = checkpoint.parent / "evaluation_test"
    metrics = json.loads((folder / "metrics.json").read_text())["formation_energy"]
    assert metrics["mae"] == dataclasses.asdict(evaluation.mae)
    table = pd.read_parquet(folder / "predictions.parquet")
    assert table["id"].tolist() == list(evaluation.ids)
    assert np.array_equal(table["prediction"], evaluation.predictions)
    for stem in ("parity_formation_energy", "element_errors_formation_energy"):
        assert (folder / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{stem}.pdf").read_bytes().startswith(b"%PDF")
    with (folder / "element_errors_formation_energy.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"element", "crystals", "mae [eV/atom]", "bias [eV/atom]"} == set(rows[0])
    assert not list(folder.glob("*.zip"))  # the sample has no leaderboard


def test_errors_by_element_count_a_crystal_for_each_of_its_elements(evaluation: TargetEvaluation) -> None:
    dataset = load_task(build_trial(SETTINGS).data).dataset
    found = {ELEMENTS[entry.number - 1]: entry for entry in element_errors(dataset, evaluation)}
    errors = evaluation.predictions - evaluation.targets
    with_oxygen = np.array([8 in dataset[row].atomic_numbers for row in evaluation.rows])
    assert found["O"].crystals == with_oxygen.sum() > 0
    assert found["O"].mae == pytest.approx(np.abs(errors[with_oxygen]).mean())
    assert found["O"].bias == pytest.approx(errors[with_oxygen].mean())


def test_other_data_are_refused_unless_wanted(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = load_model(checkpoint)
    for fingerprint, problem in (("0" * 64, "trained on data of fingerprint 000000000000"), ("", "was converted")):
        other: TrainedModel = dataclasses.replace(trained, data_fingerprint=fingerprint)
        write_model(tmp_path / "other.pt", other)
        assert main([str(tmp_path / "other.pt")]) == 2
        error = capsys.readouterr().err
        assert problem in error
        assert "--allow-other-data" in error
        assert not (tmp_path / "evaluation_test").exists()
    assert main([str(tmp_path / "other.pt"), "--allow-other-data", "--split", "val"]) == 0
    assert capsys.readouterr().out.startswith("formation_energy, 10 crystals of the val split")


def test_the_submission_has_the_leaderboards_form(
    evaluation: TargetEvaluation, trial: TrialConfig, tmp_path: Path
) -> None:
    again = dataclasses.replace(evaluation, ids=(*evaluation.ids[:-1], f"{evaluation.ids[0]}#2"))
    written = write_submission(tmp_path, "formation_energy_peratom", "dft_3d", again, trial)
    name = "AI-SinglePropertyPrediction-formation_energy_peratom-dft_3d-test-mae.csv"
    assert [path.name for path in written] == [f"{name}.zip", "metadata.json", "run.sh"]
    with zipfile.ZipFile(written[0]) as archive:
        assert archive.namelist() == [name]
        rows = list(csv.DictReader(archive.read(name).decode().splitlines()))
    assert list(rows[0]) == ["id", "target", "prediction"]
    assert [row["id"] for row in rows] == list(evaluation.ids[:-1])  # the leaderboard counts different ids
    assert [float(row["target"]) for row in rows] == evaluation.targets[:-1].tolist()
    assert np.allclose([float(row["prediction"]) for row in rows], evaluation.predictions[:-1], rtol=1e-8)
    keys = {"model_name", "team_name", "author_email", "git_url", "date_submitted", "project_url"}
    assert keys <= set(json.loads(written[1].read_text()))
    words = written[2].read_text().replace("\\\n", " ").splitlines()[4].split()
    assert words[:2] == ["crystalframer", "train"]
    settings = dict(word.split("=") for word in words if "=" in word)
    assert build_trial({key: setting_value(key, value) for key, value in settings.items()}) == trial


@pytest.mark.parametrize(
    ("counts", "own", "said"),
    [
        ((40, 10, 30), True, "for the JARVIS leaderboard, when metadata.json is filled in"),
        ((41, 10, 30), True, "it takes whole splits; here are 40 of 41 training, 30 of 30 test crystals of sample:"),
        ((40, 10, 31), True, "it takes whole splits; here are 40 of 40 training, 30 of 31 test crystals of sample:"),
        ((40, 10, 30), False, "the model learned from other data than these"),
    ],
)
def test_a_part_of_a_split_gets_a_sentence_and_no_submission(
    counts: tuple[int, int, int], own: bool, said: str, evaluation: TargetEvaluation, checkpoint: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    task = PublishedTask("eV/atom", counts, "formation_energy_peratom")
    whole = dataclasses.replace(PUBLISHED["sample"], tasks={"formation_energy": task}, leaderboard="dft_3d")
    monkeypatch.setattr(leaderboard, "PUBLISHED", {"sample": whole})
    trained = load_model(checkpoint)
    data = data_of(trained)
    members = [trained if own else dataclasses.replace(trained, data_fingerprint="0" * 64)]
    (sentence,) = submit(tmp_path, members, data, [evaluation])
    assert said in sentence
    assert len(list(tmp_path.glob("*.zip"))) == (1 if sentence.startswith("for ") else 0)
    assert submit(tmp_path, members, data, [dataclasses.replace(evaluation, split="val")]) == []
