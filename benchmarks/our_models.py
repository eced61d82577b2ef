"""CrystalFramer's models, and boosted trees on the composition, beside those of other packages."""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.peer_worker import Contender, Crystals
from crystalframer.config import DataConfig
from crystalframer.data.batch import collate
from crystalframer.data.dataset import CrystalDataset, SplitName, Task, TaskData, select_task
from crystalframer.geometry.crystal import Crystal
from crystalframer.geometry.prepared import prepare_geometry
from crystalframer.nn.model import CrystalFramer
from crystalframer.pretrained.baselines import trees_on_composition
from crystalframer.resolving import build_trial
from crystalframer.training.optimizer import build_optimizer
from crystalframer.training.trainer import Trainer

MODELS: dict[str, dict[str, Any]] = {
    "quick": {"train.preset": "quick", "model.frame": "max"},
    "paper": {"model.frame": "max"},
}
"""Settings of the two that are compared: for minutes, and the paper's defaults."""
REHEARSED = 16
"""Batches of the rehearsal's epochs."""
MARGIN = 0.02
"""Share of the time that is left free, as epochs are whole."""


def contender(name: str, elements: list[int]) -> Contender:
    """Return a model by name, to be timed."""
    trial = build_trial(MODELS[name])
    config, training = trial.model, trial.train
    model = CrystalFramer(config, generator=torch.Generator().manual_seed(0))

    def graph(crystal: Any) -> Any:
        return prepare_geometry(crystal, config.cutoff, config.frame, dtype=np.float32)

    def output(graphs: list[Any]) -> Tensor:
        batch = collate(graphs, config.cutoff)
        if not model.is_calibrated:
            model.calibrate(batch)
        found: Tensor = model(batch, tie_seed=1 if model.training else None)
        return found

    def structure(lattice: Any, numbers: Any, coords: Any) -> Crystal:
        return Crystal(lattice, coords, numbers)

    optimizer = build_optimizer(model, training)
    return Contender(model, structure, graph, output, optimizer, None, _about(name), ("numba",), training.clip_norm)


def train(name: str, crystals: Crystals, minutes: float, seed: int) -> dict[str, Any]:
    """Train for so many processor minutes, or fit the trees, and return errors in the targets' unit.

    A training's length is a number of epochs. How many fit is found by a rehearsal, which is not part of the time: two
    epochs on `REHEARSED` batches after one that compiles, with as many validation crystals as are their share.
    """
    dataset = dataset_of(crystals)
    if name == "trees":
        started = time.process_time()
        data = select_task(dataset, DataConfig(task="target"))
        predicted = trees_on_composition(data)
        used = (time.process_time() - started) / 60
        errors = {f"{split}_mae": _error(predicted[split], data, split) for split in ("val", "test")}
        about = "gradient-boosted trees on the composition, as `crystalframer finetune` and `export --trees` fit them"
        return {**errors, "processor_minutes": used, "curve": [], "about": about}
    batch = build_trial(MODELS[name]).train.batch_size
    whole = select_task(dataset, DataConfig(task="target"))
    part = min(1.0, REHEARSED * batch / len(whole.rows["train"]))
    sizes = {f"data.{split}_size": max(1, round(part * len(whole.rows[split]))) for split in ("train", "val")}
    settings = {**MODELS[name], "data.task": "target", "train.seed": seed}
    for _ in range(2):  # the first one compiles
        first, *later = _timed_epochs(dataset, {**settings, **sizes, "train.epochs": 3})
    epoch = sum(later) / len(later)
    once = max(0.0, first - epoch)
    epochs = max(1, int(((1 - MARGIN) * 60 * minutes * part - once) / epoch))
    started = time.process_time()
    trial = build_trial({**settings, "train.minutes": minutes})
    trainer = Trainer(replace(trial, train=replace(trial.train.fitted(epochs), minutes=None)), whole)
    curve = [((time.process_time() - started) / 60, result.val_mae) for result in trainer.fit()]
    used = (time.process_time() - started) / 60
    return {
        "processor_minutes": used, "epochs": epochs, "steps": trainer.progress.step, "curve": curve,
        "val_mae": curve[-1][1], "test_mae": trainer.evaluate("test").mae,
        **contender(name, []).facts(),
    }  # fmt: skip


def dataset_of(crystals: Crystals) -> CrystalDataset:
    """Return the crystals of the file as a data set with one task, `target`."""
    count = len(crystals.targets)
    task = Task("target", "unit", crystals.targets, crystals.split.astype(np.int8))
    ids = np.array([f"crystal-{row}" for row in range(count)])
    return CrystalDataset(
        "beside_peers", ids, crystals.offsets, crystals.lattice, crystals.coords, crystals.numbers, {"target": task}
    )


def _timed_epochs(dataset: CrystalDataset, settings: dict[str, Any]) -> list[float]:
    """Return the processor time of each epoch of a training."""
    trial = build_trial(settings)
    times = [time.process_time()]
    times += [time.process_time() for _ in Trainer(trial, select_task(dataset, trial.data)).fit()]
    return np.diff(times).tolist()


def _error(predicted: Any, data: TaskData, split: SplitName) -> float:
    return float(np.abs(predicted - data.targets[data.rows[split]]).mean())


def _about(name: str) -> str:
    trial = build_trial(MODELS[name])
    model, training = trial.model, trial.train
    return (
        f"CrystalFramer, `max` frames, {model.num_blocks} blocks, width {model.width}, {model.cutoff:g} Å, "
        f"{model.num_angl} angular terms; batches of {training.batch_size}, AdamW, "
        + ("one cycle to " if training.schedule == "one_cycle" else "inverse square root from ")
        + f"{training.learning_rate:g}"
    )
