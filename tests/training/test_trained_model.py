"""A model read back from its checkpoint."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crystalframer.config import TrialConfig
from crystalframer.data.batch import BatchLoader
from crystalframer.data.dataset import TaskData
from crystalframer.errors import UserError
from crystalframer.training.inference import predict_rows
from crystalframer.training.safe_files import read_archive, write_archive
from crystalframer.training.trained_model import load_model, write_model
from crystalframer.training.trainer import Trainer


@pytest.mark.parametrize(("epochs", "averaged"), [(1, False), (4, True)])
def test_a_loaded_model_predicts_what_the_trainer_evaluates(
    trial: TrialConfig, data: TaskData, tmp_path: Path, epochs: int, averaged: bool
) -> None:
    trainer = Trainer(trial, data)
    for _, _ in zip(range(epochs), trainer.fit(), strict=False):
        pass
    trainer.save(tmp_path / "checkpoint.pt")
    trained = load_model(tmp_path / "checkpoint.pt")
    assert (trained.epoch, trained.averaged) == (epochs, averaged)
    assert (trained.task, trained.unit, trained.trial) == ("formation_energy", "eV/atom", trial)
    assert not trained.model.training
    rows = data.rows["test"]
    loader = BatchLoader(data, cutoff=trained.trial.model.cutoff)
    predictions = predict_rows(trained.model, loader, rows)
    assert np.array_equal(trained.restore(predictions), trainer.evaluate("test").predictions)


def test_a_missing_file_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_model(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"width": 200_000}, "setting 'model.width': got 200000, expected a whole number, at most 4,096"),
        ({"num_heads": 0}, "setting 'model.num_heads': got 0, expected a whole number, at least 1"),
        ({"num_blocks": 10**6}, "setting 'model.num_blocks': got 1000000, expected a whole number, at most 256"),
        ({"cutoff": 1e308}, r"setting 'model.cutoff': got 1e\+308, expected a number, at most 30"),
        ({"width": torch.ones(3)}, r"setting 'model.width': got 'tensor\(\[1., 1., 1.\]\)', expected a whole number"),
    ],
)
def test_a_model_file_with_impossible_settings_is_refused_by_name(
    tmp_path: Path, trial: TrialConfig, data: TaskData, settings: dict[str, Any], said: str
) -> None:
    Trainer(trial, data).save(tmp_path / "checkpoint.pt")
    write_model(tmp_path / "model.pt", load_model(tmp_path / "checkpoint.pt"))
    for name in ("checkpoint.pt", "model.pt"):
        content = read_archive(tmp_path / name)
        content["trial"]["model"] |= settings
        write_archive(tmp_path / name, content)
        with pytest.raises(UserError, match=f"{name}: {said}"):
            load_model(tmp_path / name)
