"""Population-based training: who takes over from whom, exactly resumable; a checkpoint goes on under other settings."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from crystalframer.config import TrialConfig
from crystalframer.data.dataset import TaskData
from crystalframer.errors import UserError
from crystalframer.orchestration.search.population import first_generation, next_generation
from crystalframer.orchestration.search.search_results import write_results
from crystalframer.orchestration.search.search_spec import load_search
from crystalframer.runs.lengthening import inherit
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.training.checkpoint import read_checkpoint
from crystalframer.training.trainer import Trainer
from tests.orchestration.searches import Bench, write_search

PBT: dict[str, Any] = {
    "method": "pbt",
    "early_stopping": None,
    "space": {
        "train.learning_rate": {"loguniform": [1.0e-5, 1.0e-1]},
        "train.weight_decay": {"loguniform": [1.0e-7, 1.0e-1]},
    },
    "population": {"members": 4, "interval": 9},
}


def folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def test_the_worst_take_over_from_the_best(tmp_path: Path) -> None:
    spec = load_search(write_search(tmp_path, **PBT))
    first = first_generation(spec)
    errors = {0: 0.3, 1: 0.1, 2: math.inf, 3: 0.2}
    following = next_generation(spec, first, errors)
    assert [one.parent for one in following] == [0, 1, 1, 3]
    assert following[1].values == first[1].values
    for key, value in following[2].values.items():
        factor = value / first[1].values[key]
        assert factor == pytest.approx(1.25) or factor == pytest.approx(0.8)
    assert following == next_generation(spec, first, errors)
    assert next_generation(spec, first, {}) == []


def test_a_population_resumes_exactly(tmp_path: Path) -> None:
    left = Bench(folder(tmp_path, "left"), **PBT)
    whole = Bench(folder(tmp_path, "whole"), **PBT)
    for steps in (5, 31, 40):
        left.run(steps=steps)
    outcome, driver, source = left.run()
    _, undisturbed, other = whole.run()
    assert outcome.failed == {}
    assert list(driver.trials) == list(undisturbed.trials)
    assert len(driver.trials) == 4 * 3
    for name in driver.trials:
        mine, theirs = driver.directory(name), undisturbed.directory(name)
        errors = [[r.values["val/mae_eV_per_atom"] for r in directory.records()] for directory in (mine, theirs)]
        assert errors[0] == errors[1]
        assert (mine.result() is None) == name.startswith(("g000", "g001"))
    resumed = write_results(left.spec, source.trials, driver)
    assert resumed["best"][0]["values"] == write_results(whole.spec, other.trials, undisturbed)["best"][0]["values"]
    assert len(source.trials) == 12
    finished = [entry["val_mae"] for entry in resumed["history"] if entry["epochs"] == 27]
    assert resumed["best"][0]["val_mae"] == min(finished)


def test_a_checkpoint_goes_on_under_other_settings(
    tiny_config: TrialConfig, tiny_data: TaskData, tmp_path: Path
) -> None:
    trainer = Trainer(tiny_config, tiny_data)
    epochs = trainer.fit()
    next(epochs)
    next(epochs)
    parent = RunDirectory(tmp_path / "parent")
    parent.path.mkdir()
    trainer.save(parent.checkpoint)
    train = replace(tiny_config.train, learning_rate=1e-3, weight_decay=0.1, beta_1=0.8)
    config = replace(tiny_config, train=train)
    child = RunDirectory(tmp_path / "child")
    with child.attempt(config, tiny_data.fingerprint) as attempt:
        inherit(attempt, config, parent)
        inherit(attempt, config, parent)  # a second time changes nothing
    went_on = Trainer(config, tiny_data)
    went_on.restore(child.checkpoint)
    assert len(went_on.history) == 2
    decayed, biases = read_checkpoint(child.checkpoint).optimizer["param_groups"]
    assert (decayed["weight_decay"], biases["weight_decay"]) == (0.1, 0.0)
    assert decayed["betas"] == biases["betas"] == (0.8, 0.98)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, went_on.model.state_dict()[name]), name
    result = next(iter(went_on.fit()))
    assert result.epoch == 3
    assert result.learning_rate > next(epochs).learning_rate
    other = replace(config, model=replace(config.model, num_blocks=2))
    grandchild = RunDirectory(tmp_path / "grandchild")
    with (
        grandchild.attempt(other, tiny_data.fingerprint) as attempt,
        pytest.raises(UserError, match="another model"),
    ):
        inherit(attempt, other, parent)
