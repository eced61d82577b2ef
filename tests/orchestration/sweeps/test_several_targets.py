"""A trial on several targets: what is recorded of each."""

from pathlib import Path

import pandas as pd
import pytest

from crystalframer.data.registry import load_task
from crystalframer.orchestration.sweeps.spec import load_sweep
from crystalframer.resolving import build_trial
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.trial import Trial, TrialJob, run_trial
from crystalframer.training.trainer import Trainer
from tests.orchestration.conftest import TINY, WriteSweep
from tests.runs.memory_tracker import MemoryRun, MemoryTracker


def test_a_trial_records_every_targets_errors_in_its_unit(tmp_path: Path) -> None:
    flat = {f"{section}.{key}": value for section, values in TINY.items() for key, value in values.items()}
    more = {"data.task": ["formation_energy", "bandgap"], "data.train_size": 40, "data.test_size": 20}
    config = build_trial({**flat, **more, "data.val_size": 20, "train.epochs": 2, "train.average_epochs": 0})
    runs: dict[str, MemoryRun] = {}
    directory = RunDirectory(tmp_path / "trial")
    list(run_trial(TrialJob(Trial("trial", config), directory), load_task(config.data), MemoryTracker(runs), Trainer))
    metrics = runs["trial"].metrics
    names = {"val/mae_std", "val/formation_energy/mae_eV_per_atom", "val/bandgap/rmse_eV"}
    assert {(name, epoch) for name in names for epoch in (1, 2)} <= set(metrics)
    table = pd.read_csv(directory.predictions)
    assert table["target_bandgap"].isna().any()
    for task, unit in (("formation_energy", "eV_per_atom"), ("bandgap", "eV")):
        mae = (table[f"target_{task}"] - table[f"prediction_{task}"]).abs().mean()
        assert mae == pytest.approx(metrics[f"test/{task}/mae_{unit}", 2], rel=1e-12)
        assert metrics[f"test/{task}/baseline_mae_{unit}", 2] > 0
    result = directory.result()
    assert result is not None
    assert (result["unit"], result["test_mae"]) == ("std", metrics["test/mae_std", 2])


def test_a_sweep_may_vary_single_tasks_and_several_together(write_sweep: WriteSweep) -> None:
    grid = {"data.task": ["bandgap", ["formation_energy", "e_hull"]]}
    base = {**TINY, "data": {key: value for key, value in TINY["data"].items() if key != "task"}}
    trials = load_sweep(write_sweep(base=base, grid=grid)).trials()
    assert [trial.config.data.task for trial in trials] == ["bandgap", "formation_energy,e_hull"]
    assert [trial.config.model.num_targets for trial in trials] == [1, 2]
    assert trials[1].name.startswith("formation_energy+e_hull-max-seed123-")
