"""A small model with two targets, and crystals of the sample in memory and in files."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from crystalframer.config import TrialConfig
from crystalframer.data.registry import load_dataset
from crystalframer.geometry.crystal import Crystal
from crystalframer.nn.model import CrystalFramer
from crystalframer.resolving import build_trial
from crystalframer.training.metrics import Target
from crystalframer.training.trained_model import TrainedModel, write_model
from tests.fixtures.models import SMALL, loud_model
from tests.fixtures.threads import one_thread as one_thread

TARGETS = (Target("formation_energy", "eV/atom", -1.2, 0.9), Target("bandgap", "eV", 1.5, 2.0))
MakeModel = Callable[..., TrainedModel]


def settings(**model: Any) -> TrialConfig:
    """Return the settings of the small model."""
    sizes = {**SMALL, "num_dist": 16, "num_elements": 98, "cutoff": 5.0, "num_targets": 2, **model}
    return build_trial({f"model.{key}": value for key, value in sizes.items()})


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """Return a function that makes a trained model whose predictions differ visibly from crystal to crystal."""

    def make(shift: float = 0.0, targets: tuple[Target, ...] = TARGETS, **model: Any) -> TrainedModel:
        trial = settings(num_targets=len(targets), **model)
        network: CrystalFramer = loud_model(trial.model, kernel="reference")
        with torch.no_grad():
            network.head_out.bias.add_(shift)
        return TrainedModel(network.eval(), trial, targets, epoch=3, averaged=True, data_fingerprint="f" * 64)

    return make


@pytest.fixture(scope="session")
def trained(make_model: MakeModel) -> TrainedModel:
    """Return the small model."""
    return make_model()


@pytest.fixture
def model_file(trained: TrainedModel, tmp_path: Path) -> Path:
    """Return the small model's file."""
    write_model(tmp_path / "model.pt", trained)
    return tmp_path / "model.pt"


@pytest.fixture(scope="session")
def crystals() -> list[Crystal]:
    """Return 12 crystals of at most 8 atoms; no light noble gases, for which pymatgen's CIF writer warns."""
    sample = load_dataset("sample")
    small = (sample[row] for row, size in enumerate(sample.num_atoms) if size <= 8 and row % 50 == 0)
    return list(islice((crystal for crystal in small if not {2, 10, 18} & crystal.elements), 12))


@pytest.fixture(scope="session")
def cif_folder(crystals: list[Crystal], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a CIF of each of them, named so that they are in order."""
    folder = tmp_path_factory.mktemp("cifs")
    for number, crystal in enumerate(crystals):
        crystal.to_structure().to(filename=str(folder / f"c{number:02}.cif"), fmt="cif")
    return folder
