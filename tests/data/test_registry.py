"""Data sets by name, and clear sentences when a name is wrong or a data set is not prepared."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crystalframer.config import DataConfig
from crystalframer.data import registry
from crystalframer.data.dataset import CrystalDataset, Task
from crystalframer.data.store import write_store
from crystalframer.environment import data_folder
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal


@pytest.fixture
def data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRYSTALFRAMER_DATA", str(tmp_path))
    return tmp_path


def test_the_sample_is_always_there() -> None:
    data = registry.load_task(DataConfig(train_size=10))
    assert len(data.rows["train"]) == 10
    assert data.unit == "eV/atom"
    for task in registry.tasks_of("sample"):
        assert registry.load_task(DataConfig(task=task)).unit == registry.tasks_of("sample")[task]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(dataset="jarvs"), r"unknown data set 'jarvs' \(did you mean 'jarvis'\?\)"),
        (DataConfig(dataset="quartz"), r"unknown data set 'quartz' \(known: jarvis, mp, oqmd, sample\)"),
        (DataConfig(task="formation_enrgy"), r"no task 'formation_enrgy' \(did you mean 'formation_energy'\?\)"),
        (DataConfig(dataset="mp", task="band_gap"), r"'mp' has no task 'band_gap' \(did you mean 'bandgap'\?\)"),
    ],
)
@pytest.mark.usefixtures("data_directory")
def test_unknown_names_list_the_near_matches(config: DataConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        registry.load_task(config)


def test_a_data_set_that_is_not_prepared_says_how(data_directory: Path) -> None:
    expected = rf"'jarvis' is not prepared: expected {data_directory}/jarvis; .*`crystalframer prepare jarvis"
    with pytest.raises(UserError, match=expected):
        registry.load_task(DataConfig(dataset="jarvis"))


def test_the_default_folder_is_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRYSTALFRAMER_DATA", raising=False)
    assert data_folder() == Path.home() / ".cache" / "crystalframer"


def test_a_prepared_store_is_found(data_directory: Path) -> None:
    crystals = [Crystal(np.eye(3) * (3 + i), np.zeros((1, 3)), np.array([i + 1]), f"mp-{i}") for i in range(6)]
    split = np.array([0, 0, 0, 1, 2, -1], dtype=np.int8)
    dataset = CrystalDataset.from_crystals("mp", crystals, [Task("bandgap", "eV", np.arange(6.0), split)])
    write_store(data_directory / "mp", dataset, {})
    data = registry.load_task(DataConfig(dataset="mp", task="bandgap"))
    assert sorted(data.rows["train"].tolist()) == [0, 1, 2]
    assert data.dataset.fingerprint == dataset.fingerprint
    with pytest.raises(UserError, match=r"'mp' was prepared without task 'bulk_modulus' \(it holds: bandgap\)"):
        registry.load_task(DataConfig(dataset="mp", task="bulk_modulus"))


def test_looking_at_the_names_imports_nothing_heavy() -> None:
    code = (
        "import sys; from crystalframer.data.registry import check_names; check_names('sample', 'bandgap');"
        "print([name for name in ('torch', 'pandas', 'pymatgen', 'ray', 'mlflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
