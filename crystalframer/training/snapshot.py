"""Snapshots: what a model was at one epoch, a quarter of a checkpoint's size; read like one, but not to resume from."""

from dataclasses import replace
from pathlib import Path

import torch

from crystalframer.training.checkpoint import Checkpoint, evaluated_weights, read_checkpoint, write_checkpoint


def write_snapshot(checkpoint: Path, snapshot: Path) -> None:
    """Write the model of a checkpoint, with the weights it is evaluated with, and nothing that only training needs.

    `load_model` reads the file as it reads a checkpoint. An existing file is replaced atomically.

    Raises:
        UserError: the checkpoint is missing or damaged.
        OSError: the file cannot be written.
    """
    write_checkpoint(snapshot, lean(read_checkpoint(checkpoint)))


def lean(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint without optimiser, random generators and history, its weights the ones to evaluate."""
    weights = evaluated_weights(checkpoint)
    sums: dict[str, torch.Tensor] = checkpoint.average["sums"]
    if checkpoint.average["count"] or checkpoint.best is not None:
        average = {"count": 1, "sums": {name: weights[name] for name in sums}}  # the model's tensors: stored once
    else:
        average = {"count": 0, "sums": {name: torch.zeros(()).expand(total.shape) for name, total in sums.items()}}
    return replace(checkpoint, model=weights, optimizer={}, average=average, generators={}, history=[], best=None)
