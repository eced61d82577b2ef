"""What the processes of the distributed tests do; they import it, so it is no test module."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from crystalframer.config import DataConfig
from crystalframer.data.dataset import TaskData
from crystalframer.data.registry import load_task
from crystalframer.errors import UserError
from crystalframer.resolving import trial_from_dict
from crystalframer.training.processes import Channel, Processes
from crystalframer.training.trainer import Trainer

STOPPED = 3


def small_data() -> TaskData:
    """Return crystals of at most four atoms: 21 to train on, 8 to validate, 9 to test."""
    sample = load_task(DataConfig())
    sizes = {"train": 21, "val": 8, "test": 9}
    rows = {
        split: of_split[sample.dataset.num_atoms[of_split] <= 4][: sizes[split]]
        for split, of_split in sample.rows.items()
    }
    return replace(sample, rows=rows, fingerprint="small")


def train(
    processes: Processes,
    device: str,
    _channel: Channel,
    settings: dict[str, Any],
    out: Path,
    stop_after: int | None = None,
) -> int:
    """Train, from a checkpoint if there is one; write each process' losses, history, weights and predictions."""
    torch.set_num_threads(1)
    trainer = Trainer(trial_from_dict(settings), small_data(), device=device, processes=processes)
    if processes.from_first((out / "checkpoint.pt").exists):
        trainer.restore(out / "checkpoint.pt")
    losses: list[float] = []

    def after_step(loss: float) -> None:
        losses.append(loss)
        if len(losses) == stop_after and processes.rank == processes.size - 1:
            trainer.stop()  # told to the last process alone

    list(trainer.fit(after_step=after_step))
    if processes.is_first:
        trainer.save(out / "checkpoint.pt")
    found = {
        "step": trainer.progress.step,
        "losses": losses,
        "val": [result.val_mae for result in trainer.history],
        "model": trainer.model.state_dict(),
        "predictions": trainer.evaluate("test").predictions.tolist(),
        "cached": len(trainer._loader._cache),
    }
    torch.save(found, out / f"{processes.rank}.pt")
    return 0 if stop_after is None else STOPPED


def fail(processes: Processes, device: str, _channel: Channel, settings: dict[str, Any], how: str) -> int:
    """Train until the last process fails after three steps."""
    torch.set_num_threads(1)
    trainer = Trainer(trial_from_dict(settings), small_data(), device=device, processes=processes)
    failures: dict[str, Callable[[], None]] = {
        "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "mistaken": mistake,
        "defective": lambda: print([][3]),
    }

    def after_step(_loss: float) -> None:
        if trainer.progress.step == 3 and processes.rank == processes.size - 1:
            failures[how]()

    list(trainer.fit(after_step=after_step))
    return 0


def mistake() -> None:
    """Raise what a user can mend."""
    raise UserError("the disk is full: make room")
