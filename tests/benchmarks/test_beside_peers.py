"""The comparison with other packages: ours and the trees run here, those of others where their environment is."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.beside_peers import main, write_crystals
from benchmarks.our_models import dataset_of
from benchmarks.peer_report import report
from benchmarks.peer_runs import ENTRANTS, FailedPartError, Run, time_all, train_one
from benchmarks.peer_worker import MARKS, TICKS, Contender, Crystals, train
from crystalframer.config import DataConfig
from crystalframer.data.registry import load_task

SMALL = ["--train-size", "64", "--crystals", "4", "--rounds", "1", "--minutes", "0.02", "--seeds", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results with the crystals that the workers read."""
    there = tmp_path_factory.mktemp("beside_peers")
    (there / "logs").mkdir()
    write_crystals(load_task(DataConfig(train_size=64)), 4, there / "parts" / "crystals.npz")
    return there


def found_in(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "beside_peers.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.slow
def test_ours_and_the_trees_are_compared_and_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    command = ["--output", str(tmp_path), "--models", "quick", "trees", *SMALL]
    assert main(command) == 0
    found = found_in(tmp_path)
    (round_,) = found["speed"]["models"]["quick"]["rounds"]
    assert min(round_[piece] for piece in ("prepare", "step", "predict", "peak_mib")) > 0
    ours, trees = found["errors"]
    assert (ours["model"], trees["model"]) == ("quick", "trees")
    assert 0 < trees["test_mae"] < 2
    assert 0 < ours["test_mae"] < 2
    assert ours["curve"][-1][1] == ours["val_mae"]
    assert (tmp_path / "beside_peers.png").read_bytes()[:4] == b"\x89PNG"
    page = (tmp_path / "beside_peers.md").read_text(encoding="utf-8")
    assert f"| {ENTRANTS['trees'].label} | {trees['test_mae']:.4f} | 1 |" in page
    times = {part: part.stat().st_mtime_ns for part in (tmp_path / "parts").glob("*.json")}
    assert len(times) == 3
    assert main(command) == 0
    assert {part: part.stat().st_mtime_ns for part in (tmp_path / "parts").glob("*.json")} == times
    assert found_in(tmp_path)["errors"] == found["errors"]


def test_the_workers_read_the_crystals_of_the_data_set(folder: Path) -> None:
    crystals, data = Crystals.read(folder / "parts" / "crystals.npz"), load_task(DataConfig(train_size=64))
    ours = dataset_of(crystals)
    assert len(crystals.rows("train")) == 64
    for split in ("train", "val", "test"):
        rows = crystals.rows(split)
        assert np.array_equal(crystals.targets[rows], data.targets[data.rows[split]])
        for row, crystal in zip(rows[:5], data.crystals(split), strict=False):
            assert np.array_equal(ours[row].atomic_numbers, crystal.atomic_numbers)
            assert np.array_equal(ours[row].frac_coords, crystal.frac_coords)
    assert set(crystals.timed) <= set(crystals.rows("train"))


def test_a_model_whose_package_is_not_there_fails_alone(folder: Path) -> None:
    run = Run(folder, peers=Path(sys.executable))
    with pytest.raises(FailedPartError, match="No module named 'matgl'"):
        train_one(run, "megnet", 0.01, 0)
    found = time_all(run, ["megnet"], 1, 60)
    assert found["models"] == {"megnet": {"failed": "the process ended before it answered"}}
    content = {
        "about": {"machine": "m", "cores": "2", "date": "2026-01-01", "git_commit": "c", "python": "3"},
        "settings": {"dataset": "d", "task": "t", "unit": "eV", "train": 1, "val": 1, "test": 1, "crystals": 4},
        "labels": {"megnet": "MEGNet"}, "speed": found, "errors": [], "failed": {"speed of megnet": "it ended"},
    }  # fmt: skip
    assert "## What failed\n\n- speed of megnet: it ended" in report(content)


def test_a_training_of_minutes_ends_with_them_and_learns() -> None:
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 20, 300)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    crystals = Crystals(
        lattice=np.tile(np.eye(3), (300, 1, 1)), offsets=offsets, numbers=np.ones(offsets[-1], np.int64),
        coords=np.zeros((offsets[-1], 3)), targets=(3.0 * sizes + 7).astype(np.float64), split=np.arange(300) % 3,
        timed=np.arange(4),
    )  # fmt: skip
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=TICKS)
    contender = Contender(
        model, lambda _lattice, numbers, _coords: len(numbers) / 20, lambda size: torch.tensor([size]),
        lambda graphs: model(torch.stack(graphs).float()), optimizer, rate, "a line", (),
    )  # fmt: skip
    found = train(contender, crystals, minutes=0.02, seed=0)
    assert 0.02 <= found["processor_minutes"] < 0.03
    assert [minutes / 0.02 for minutes, _ in found["curve"][:-1]] == pytest.approx(MARKS, abs=0.15)
    assert rate.last_epoch > 0.9 * TICKS
    assert found["test_mae"] < 0.1 * np.abs(crystals.targets - crystals.targets.mean()).mean()


def test_an_unknown_model_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path), "--models", "megnets"]) == 2
    assert capsys.readouterr().err.startswith("error: --models: unknown name 'megnets' (did you mean 'megnet'")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, entrant in ENTRANTS.items() if not entrant.is_ours])
def test_models_of_other_packages_are_timed_and_trained(name: str, folder: Path) -> None:
    place = os.environ.get("CRYSTALFRAMER_PEERS")
    if place is None:
        pytest.skip("needs CRYSTALFRAMER_PEERS, the environment that python -m benchmarks.beside_peers made")
    run = Run(folder, Path(place) / "bin" / "python")
    found = time_all(run, [name], 1, 600)["models"][name]
    assert found["rounds"][0]["step"] > found["rounds"][0]["predict"] > 0
    assert 0 < train_one(run, name, 0.1, 0)["test_mae"] < 3
