"""The card beside a model tells what the model is and what was measured on it."""

import re
from pathlib import Path

import pytest

from crystalframer import cli
from crystalframer.data.registry import load_task
from crystalframer.prediction import load_predictor
from crystalframer.prediction.card import model_card, write_card
from crystalframer.resolving import build_trial
from crystalframer.training.trained_model import TrainedModel, load_model
from crystalframer.training.trainer import Trainer
from pipelines.train import main as train
from tests.prediction.test_evaluation import SETTINGS


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    """Return a trainer after two epochs."""
    trial = build_trial(SETTINGS)
    trainer = Trainer(trial, load_task(trial.data))
    list(trainer.fit())
    return trainer


def test_the_card_of_a_training(trainer: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer.save(tmp_path / "checkpoint.pt")
    assert cli.main(["card", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'model_card.md'}\n"
    text = (tmp_path / "model_card.md").read_text()
    test = trainer.evaluate("test")
    assert text.startswith("# Model card: formation energy (eV/atom)\n")
    assert f"| formation_energy | eV/atom | 30 | {test.mae:.4g} | {test.rmse:.4g} | {test.baseline_mae:.4g} |" in text
    assert "split: 40 train, 10 val, 30 test" in text
    assert trainer.data.fingerprint[:16] in text
    assert re.search(r"8 Å instead change the predictions of 8 test crystals by \S+ eV/atom on average", text)
    assert "Training data: Materials Project data, CC BY 4.0" in text
    assert "frame: max" in text
    again = write_card(tmp_path / "checkpoint.pt", trainer.data, test.by_task, tmp_path / "again.md")
    assert again.read_text() == text


def test_the_elements_of_training_are_kept(trainer: Trainer, tmp_path: Path) -> None:
    trainer.save(tmp_path / "checkpoint.pt")
    rows = trainer.data.rows["train"]
    expected = {int(z) for row in rows for z in trainer.data.dataset[int(row)].atomic_numbers}
    assert load_predictor(tmp_path).trained_elements == frozenset(expected)
    assert f"{len(expected)} elements in training" in model_card(load_model(tmp_path / "checkpoint.pt"))


def test_without_its_data_nothing_is_claimed(trained: TrainedModel, model_file: Path) -> None:
    assert cli.main(["card", str(model_file)]) == 0
    text = (model_file.parent / "model_card.md").read_text()
    assert "Not measured here" in text
    assert "formation energy (eV/atom), bandgap (eV)" in text
    assert text == model_card(trained)


def test_training_from_the_command_line_leaves_a_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    assert train([*settings, "--set", "train.epochs=1", "--out", str(tmp_path)]) == 0
    mae = re.search(r"test MAE (\S+) eV/atom", capsys.readouterr().out)
    assert mae is not None
    assert f"| formation_energy | eV/atom | 30 | {mae[1]} |" in (tmp_path / "model_card.md").read_text()
