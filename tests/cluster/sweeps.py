"""Sweeps for clusters: short real trials, what they come to undisturbed, and what a cluster made of them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import yaml

from crystalframer.data.registry import load_task
from crystalframer.orchestration.sweeps.spec import Sweep, load_sweep
from crystalframer.orchestration.tracking.client import connect
from crystalframer.orchestration.tracking.head import copy_database
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.trial import TrialJob, run_trial
from crystalframer.training.trainer import Trainer
from tests.cluster.hosts import ROOT
from tests.orchestration.conftest import PROSE, TINY
from tests.orchestration.tracking.test_tracking import read_mlflow
from tests.runs.memory_tracker import MemoryRun, MemoryTracker, repeatable

Metrics = dict[str, dict[tuple[str, int], float]]
SHORTER = ("data.train_size=500", "max_failures=20")
"""What `sample_ablation` replaces in the file's settings."""
FRAMES = ["none", "pca", "lattice", "static_local", "weighted_pca", "max"]


def write_sweep(path: Path, *, seeds: int, epochs: int, **fields: Any) -> Path:
    """Write a sweep of all six frames, small enough for trials of seconds."""
    base = {**TINY, "train": {**TINY["train"], "epochs": epochs}}
    grid = {"model.frame": FRAMES, "train.seed": list(range(seeds))}
    path.write_text(yaml.safe_dump({**PROSE, "base": base, "grid": grid, "max_failures": 20, **fields}))
    return path


def sample_ablation() -> Sweep:
    """Return the sample ablation on a quarter of its crystals."""
    return load_sweep(ROOT / "sweeps" / "ablation_sample.yaml", SHORTER)


def undisturbed(sweep: Sweep, folder: Path) -> Metrics:
    """Return what the trials come to one after another in this process, on one thread as on a worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    runs: dict[str, MemoryRun] = {}
    for trial in sweep.trials():
        data, directory = load_task(trial.config.data), RunDirectory(folder / trial.name)
        list(run_trial(TrialJob(trial, directory), data, MemoryTracker(runs), Trainer))
    torch.set_num_threads(threads)
    return {name: repeatable(run.metrics) for name, run in runs.items()}


def written(folder: Path) -> Metrics:
    """Return what the run directories of the finished trials hold."""
    found: Metrics = {}
    for path in sorted(folder.glob("*seed*")):
        if (result := RunDirectory(path).result()) is not None:
            metrics = {(n, step.step): v for step in RunDirectory(path).records() for n, v in step.values.items()}
            final = result["final"]
            found[path.name] = repeatable({**metrics, **{(n, final["step"]): v for n, v in final["values"].items()}})
    return found


def epochs_written(folder: Path) -> int:
    """Return how many epochs all trials together have on record."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*seed*/metrics.jsonl"))


def recorded(database: Path, sweep: str, copy: Path) -> Metrics:
    """Return what MLflow holds, from a copy of its database; a run or a step that is there twice fails."""
    copy_database(database, copy)
    uri = f"sqlite:///{copy}"
    experiment = connect(uri).get_experiment_by_name(sweep)
    assert experiment is not None
    found: Metrics = {}
    for key, run in read_mlflow(uri, experiment.experiment_id, artifacts=False).items():
        if "kind" not in run.tags:  # the summary is no trial
            assert run.status == "FINISHED", (key, run.status)
            found[key] = repeatable(run.metrics)
    return found


def states(folder: Path) -> Counter[str]:
    """Return how many trials stand where."""
    found: Counter[str] = Counter()
    for path in folder.glob("*seed*"):
        done = (path / "done.json").exists()
        state = path / "state.json"
        found["done" if done else json.loads(state.read_text())["state"] if state.exists() else "claimed"] += 1
    return found
