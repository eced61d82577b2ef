"""The development data, brought in as users bring theirs, trains and sweeps by name."""

import json
import math
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from crystalframer.data import registry
from crystalframer.data.dataset import SPLITS
from crystalframer.geometry.crystal import Crystal
from crystalframer.runs.run_directory import RunDirectory
from pipelines import prepare_data, train
from tests.fixtures.own_data import extxyz, structure
from tests.orchestration.conftest import WriteSweep

pytestmark = pytest.mark.slow

MODEL = {"num_blocks": 1, "width": 8, "num_heads": 2, "ffn_width": 8, "num_dist": 8, "num_angl": 4, "cutoff": 3.0}
TRAIN = {"epochs": 1, "batch_size": 8, "average_epochs": 1}


@dataclass(frozen=True)
class Row:
    """A crystal of the development data, its targets and its split."""

    crystal: Crystal
    targets: dict[str, float]
    split: str


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRYSTALFRAMER_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "data"


def rows_of(path: Path, fields: dict[str, str], each: int) -> Iterator[Row]:
    """Yield the first crystals of at most 10 atoms of each split (all, where the file has no splits)."""
    with np.load(path, allow_pickle=False) as file:
        data = {name: file[name] for name in file.files}
    count = len(data["ids"])
    fits = np.diff(data["offsets"]) <= 10
    if "struct_source" in data:
        fits &= data["struct_source"] <= 2
    split = data.get("split", np.zeros(count, dtype=np.uint8))
    for code in np.unique(split[split <= 2]):
        for row in np.flatnonzero(fits & (split == code))[:each]:
            atoms = slice(*data["offsets"][row : row + 2])
            frac_coords = data["frac"][atoms].astype(np.float64)
            crystal = Crystal(data["lattice"][row], frac_coords, data["numbers"][atoms], str(data["ids"][row]))
            yield Row(crystal, {task: float(data[key][row]) for task, key in fields.items()}, SPLITS[int(code)])


def as_parquet(rows: list[Row], path: Path) -> Path:
    records = [
        {
            "material_id": row.crystal.id,
            "structure": json.dumps(structure(row.crystal)),
            **row.targets,
            "split": row.split,
        }
        for row in rows
    ]
    pd.DataFrame(records).to_parquet(path)
    return path


def as_extxyz(rows: list[Row], path: Path) -> Path:
    values: list[dict[str, Any]] = [{"id": row.crystal.id, **row.targets, "split": row.split} for row in rows]
    path.write_text(extxyz([row.crystal for row in rows], values))
    return path


def as_json(rows: list[Row], path: Path) -> Path:
    path.write_text(json.dumps({row.crystal.id: {"structure": structure(row.crystal), **row.targets} for row in rows}))
    return path


def prepare(path: Path, rows: list[Row], units: dict[str, str]) -> None:
    """Prepare as on the command line, and compare what is stored with what was given."""
    assert prepare_data.main([str(path), *(word for unit in units.items() for word in ("--unit", "=".join(unit)))]) == 0
    dataset = registry.load_dataset(path.stem)
    given = {row.crystal.id: row for row in rows}
    assert len(dataset) >= 0.8 * len(rows)  # duplicates are left out
    for position, id in enumerate(dataset.ids.tolist()):
        assert dataset[position].volume == pytest.approx(given[id].crystal.volume, rel=1e-7)
        for name, task in dataset.tasks.items():
            assert task.targets[position] == pytest.approx(given[id].targets[name], nan_ok=True)


def train_once(dataset: str, task: str, out: Path) -> None:
    """Train one epoch from the command line."""
    model = [f"model.{key}={value}" for key, value in MODEL.items()]
    settings = [*model, *(f"train.{key}={value}" for key, value in TRAIN.items())]
    words = [word for text in settings for word in ("--set", text)]
    assert train.main(["--dataset", dataset, "--task", task, "--frame", "max", "--out", str(out), *words]) == 0
    assert (out / "checkpoint.pt").is_file()


def prepare_all(shared: Path, folder: Path) -> None:
    """Prepare parts of the three files, each in another form."""
    energies = {"formation_energy": "eV/atom"}
    fields = {"formation_energy": "y_e_form", "bandgap": "y_bandgap"}
    rows = list(rows_of(shared / "data" / "mp2018_megnet_subset.npz", fields, each=16))
    prepare(as_parquet(rows, folder / "mp_subset.parquet"), rows, {**energies, "bandgap": "eV"})
    dataset = registry.load_dataset("mp_subset")
    by_id = {row.crystal.id: SPLITS.index(row.split) for row in rows}
    assert dataset.tasks["bandgap"].split.tolist() == [by_id[id] for id in dataset.ids.tolist()]

    fields = {"formation_energy": "y_formation_energy", "bandgap_mbj": "y_mbj_bandgap"}
    rows = list(rows_of(shared / "data" / "jarvis_dft3d2021_subset.npz", fields, each=12))
    prepare(as_extxyz(rows, folder / "jarvis_subset.extxyz"), rows, energies)

    fields = {"formation_energy": "y_delta_e", "bandgap": "y_bandgap"}
    rows = list(rows_of(shared / "data" / "oqmd_devset200.npz", fields, each=60))
    prepare(as_json(rows, folder / "oqmd_subset.json"), rows, energies)


def test_a_sweep_over_the_development_data(
    shared: Path, tmp_path: Path, write_sweep: WriteSweep, start_driver: Callable[..., "subprocess.Popen[str]"]
) -> None:
    prepare_all(shared, tmp_path)
    data = {"task": "formation_energy", "train_size": 8, "val_size": 4, "test_size": 4}
    base = {"data": data, "model": {**MODEL, "frame": "max"}, "train": TRAIN}
    names = ["mp_subset", "jarvis_subset", "oqmd_subset"]
    driver = start_driver(write_sweep(name="own", base=base, grid={"data.dataset": names}))
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, output
    trials = [path for path in (tmp_path / "runs" / "own").iterdir() if path.is_dir() and "seed" in path.name]
    assert len(trials) == 3
    for path in trials:
        result = RunDirectory(path).result()
        assert result is not None
        assert math.isfinite(result["final"]["values"]["test/mae_eV_per_atom"])
    table = next((tmp_path / "output").rglob("ablation_table.md")).read_text()
    assert all(f"## {name}, formation_energy" in table for name in names)
    train_once("mp_subset", "formation_energy,bandgap", tmp_path / "both")


def test_training_on_disordered_crystals(tmp_path: Path) -> None:
    records = []
    for k in range(18):
        shared_site = [{"element": "Na", "occu": k / 20}, {"element": "K", "occu": 0.9 - k / 20}]
        sites: list[dict[str, Any]] = [
            {"species": shared_site, "abc": [0.0, 0.0, 0.0]},
            {"species": [{"element": "Cl", "occu": 1}], "abc": [0.5, 0.5, 0.5]},
        ]
        lattice = {"matrix": [[4.0 + k / 40, 0, 0], [0, 4.2, 0], [0, 0, 4.4]]}
        records.append({"id": f"alloy{k}", "energy": k / 20, "structure": {"lattice": lattice, "sites": sites}})
    (tmp_path / "alloys.json").write_text(json.dumps(records))
    assert prepare_data.main([str(tmp_path / "alloys.json"), "--unit", "energy=eV"]) == 0
    dataset = registry.load_dataset("alloys")
    assert dataset.mixture is not None
    train_once("alloys", "energy", tmp_path / "run")
