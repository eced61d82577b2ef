"""A model read back from its checkpoint."""

from pathlib import Path

import numpy as np
import pytest

from crystalframer.config import TrialConfig
from crystalframer.data.batch import BatchLoader
from crystalframer.data.dataset import TaskData
from crystalframer.errors import UserError
from crystalframer.training.inference import predict_rows
from crystalframer.training.trained_model import load_model
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
    predictions = predict_rows(trained.model, loader, rows, data.dataset.num_atoms[rows])
    assert np.array_equal(trained.scale.restore(predictions), trainer.evaluate("test").predictions)


def test_a_missing_file_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_model(tmp_path / "none.pt")
