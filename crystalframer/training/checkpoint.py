"""Checkpoints: one file with everything that training and prediction need, written atomically.

The file is a `torch.save` archive of plain values and tensors only, so that it is read with ``weights_only=True``:
reading a file from elsewhere runs no code of it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from crystalframer.config import TrialConfig
from crystalframer.errors import UserError
from crystalframer.resolving import trial_from_dict
from crystalframer.training.metrics import Target, target_of
from crystalframer.training.safe_files import read_archive, whole, write_archive

FORMAT = "crystalframer checkpoint"
VERSION = 2
"""Version 1 had one target, in `target_mean` and `target_std`; it is still read."""


@dataclass(frozen=True)
class Progress:
    """Where training stands; a checkpoint may lie inside an epoch."""

    epoch: int = 0
    """Complete epochs."""
    step: int = 0
    """Optimiser steps since the start of training."""
    position: int = 0
    """Batches done of the epoch under way; 0 at an epoch's boundary."""
    loss_sum: float = 0.0
    """Sum of the losses of those batches."""
    seconds: float = 0.0
    """Wall-clock time spent on those batches in s."""
    parts: int = 1
    """Parts that a batch is computed in, since memory asked for it."""
    epochs: int = 0
    """Epochs of the whole training, once they were fitted to ``train.minutes``; 0 before, and where none are given."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file."""

    trial: TrialConfig
    """Every setting."""
    data_fingerprint: str
    """Fingerprint of the data the training sees."""
    targets: tuple[Target, ...]
    """What the model's outputs are, their scales included."""
    kernel: str
    """Attention implementation that trained it; for information, another one may go on."""
    model: dict[str, torch.Tensor]
    """State of the model with its own, not averaged weights."""
    optimizer: dict[str, Any]
    """State of AdamW."""
    average: dict[str, Any]
    """State of the running mean of the weights; its `count` is 0 before averaging starts."""
    generators: dict[str, torch.Tensor]
    """States of the random generators by name; that of `shuffle` is from the start of the epoch under way."""
    progress: Progress
    """Position in the training."""
    history: list[dict[str, Any]]
    """Results of the complete epochs."""
    elements: tuple[int, ...] | None = None
    """Atomic numbers that the training crystals contain; None in files written before this was kept."""
    best: dict[str, Any] | None = None
    """Epoch, validation error and evaluated weights of the best epoch so far, where ``train.keep`` asks for them."""
    start_data: str = ""
    """Data set and tasks, ``jarvis:bandgap_opt``, that the weights it started from learned; empty for fresh ones."""


_LATER = ("elements", "best", "start_data")
"""Fields that early files lack."""


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint so that `path` holds the old or the new one in full, whenever the process or machine dies.

    The content goes to a temporary file beside `path`, is flushed to the disk and then renamed. Temporary files that
    a killed process left behind are removed after an hour.

    Raises:
        OSError: the folder cannot be created or written.
    """
    content = {field.name: getattr(checkpoint, field.name) for field in fields(checkpoint)}
    content |= {
        "format": FORMAT,
        "version": VERSION,
        "trial": checkpoint.trial.to_dict(),
        "targets": [asdict(target) for target in checkpoint.targets],
        "progress": asdict(checkpoint.progress),
        "torch": str(torch.__version__),
    }
    write_archive(path, content)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        UserError: there is no such file, it is damaged or cut short, or it is not a checkpoint of this program or
            one of a newer version.
    """
    return checkpoint_of(path, read_archive(path))


def checkpoint_of(path: Path, content: Any) -> Checkpoint:
    """Return the checkpoint that `read_archive` read from a file; see `read_checkpoint`."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this program; expected a file that its training wrote")
    version = content.get("version")
    if version not in (1, VERSION):
        raise UserError(
            f"checkpoint {path} has format version {version}, expected {VERSION}; "
            "read it with the version of this program that wrote it"
        )
    with whole(f"checkpoint {path}"):
        return _as_checkpoint(path, content)


def _as_checkpoint(path: Path, content: Mapping[str, Any]) -> Checkpoint:
    if content["version"] == 1:
        names = {"name": "task", "unit": "unit", "mean": "target_mean", "std": "target_std"}
        content = {**content, "targets": [{new: content[old] for new, old in names.items()}]}
    known = {field.name: content[field.name] for field in fields(Checkpoint) if field.name not in _LATER}
    known["best"] = content.get("best")
    known["start_data"] = content.get("start_data", "")
    elements = content.get("elements")
    known["elements"] = None if elements is None else tuple(elements)
    known["trial"] = trial_from_dict(content["trial"], path)
    known["targets"] = tuple(target_of(target) for target in content["targets"])
    known["progress"] = Progress(**content["progress"])
    return Checkpoint(**known)


def read_checkpoint_of(path: Path, trial: TrialConfig, data_fingerprint: str) -> Checkpoint:
    """Read a checkpoint of this trial on this data.

    Raises:
        UserError: it cannot be read, or belongs to another training or other data; the message names what differs.
    """
    checkpoint = read_checkpoint(path)
    require_same_training(path, checkpoint, trial, data_fingerprint)
    return checkpoint


def evaluated_weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return the weights that the model is evaluated with: those of the best epoch where it is kept, else the average.

    Before averaging begins, they are the model's own. The average holds what training changes; frozen weights are the
    model's.
    """
    if checkpoint.best is not None:
        best: dict[str, torch.Tensor] = checkpoint.best["weights"]
        return best
    count = int(checkpoint.average["count"])
    sums: dict[str, torch.Tensor] = checkpoint.average["sums"] if count else {}
    averaged = {name: (total / count).to(checkpoint.model[name].dtype) for name, total in sums.items()}
    return {**checkpoint.model, **averaged}


def with_settings(checkpoint: Checkpoint, trial: TrialConfig) -> Checkpoint:
    """Return a checkpoint to resume from under other settings; the learning rate is set before every step anyway.

    An average that these settings begin later is dropped.
    """
    decayed, biases = checkpoint.optimizer["param_groups"]  # as training/optimizer.py makes them
    betas = (trial.train.beta_1, trial.train.beta_2)
    groups = [{**decayed, "betas": betas, "weight_decay": trial.train.weight_decay}, {**biases, "betas": betas}]
    average = checkpoint.average
    if (
        checkpoint.progress.epoch <= trial.train.epochs - trial.train.average_epochs
        and checkpoint.progress.position == 0
    ):
        average = {"count": 0, "sums": {name: torch.zeros_like(total) for name, total in average["sums"].items()}}
    optimizer = {**checkpoint.optimizer, "param_groups": groups}
    return replace(checkpoint, trial=trial, optimizer=optimizer, average=average)


def require_same_training(path: Path, checkpoint: Checkpoint, trial: TrialConfig, data_fingerprint: str) -> None:
    """Raise a `UserError` unless the checkpoint is one of this trial on this data; it names what differs."""
    if checkpoint.trial.fingerprint() != trial.fingerprint():
        raise UserError(
            f"checkpoint {path} belongs to another training: {trial.differences(checkpoint.trial.to_dict())}; "
            "use its settings, or write elsewhere to train anew"
        )
    if checkpoint.data_fingerprint != data_fingerprint:
        raise UserError(
            f"checkpoint {path} was trained on other data: got fingerprint {data_fingerprint[:12]}, expected "
            f"{checkpoint.data_fingerprint[:12]}; prepare the data set as it was, or write elsewhere to train anew"
        )
