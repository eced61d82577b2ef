"""Small trainings on real crystals."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crystalframer.config import DataConfig, TrialConfig
from crystalframer.data.dataset import SplitName, TaskData
from crystalframer.data.registry import load_task
from crystalframer.resolving import build_trial
from crystalframer.training.trainer import Trainer
from tests.fixtures.threads import one_thread as one_thread

MakeTrial = Callable[[dict[str, Any]], TrialConfig]

SMALL: dict[str, Any] = {
    "train.epochs": 4,
    "train.average_epochs": 2,
    "train.batch_size": 5,
    "model.num_blocks": 2,
    "model.width": 16,
    "model.num_heads": 2,
    "model.ffn_width": 16,
    "model.num_dist": 8,
    "model.num_angl": 8,
    "model.cutoff": 4.0,
    "train.kernel": "reference",
}
"""A training of a second: 4 epochs of 4 steps, the last two averaged."""


@pytest.fixture(scope="session")
def small_crystals() -> Callable[..., TaskData]:
    """Return a function that selects crystals of at most four atoms of the embedded sample, by split."""
    sample = load_task(DataConfig())

    def select(**sizes: int) -> TaskData:
        rows: dict[SplitName, np.ndarray[Any, np.dtype[np.int64]]] = {}
        for split, of_split in sample.rows.items():
            rows[split] = of_split[sample.dataset.num_atoms[of_split] <= 4][: sizes[split]]
        return replace(sample, rows=rows, fingerprint=f"{sample.fingerprint}-{sizes}")

    return select


@pytest.fixture(scope="session")
def data(small_crystals: Callable[..., TaskData]) -> TaskData:
    """Return formation energies of 21 training, 8 validation and 9 test crystals."""
    return small_crystals(train=21, val=8, test=9)


@pytest.fixture(scope="session")
def make_trial() -> MakeTrial:
    """Return a function that makes the settings of a small training from differences to `SMALL`."""
    return lambda differences: build_trial({**SMALL, **differences})


@pytest.fixture(scope="session")
def trial(make_trial: MakeTrial) -> TrialConfig:
    """Return the settings of a small training."""
    return make_trial({})


@pytest.fixture(scope="session")
def trained(trial: TrialConfig, data: TaskData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of a finished small training."""
    path = tmp_path_factory.mktemp("trained") / "checkpoint.pt"
    trainer = Trainer(trial, data)
    list(trainer.fit())
    trainer.save(path)
    return path
