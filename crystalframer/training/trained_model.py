"""A trained model, whichever file it comes from: one of our checkpoints or snapshots, or a model file.

A *model file* holds what prediction needs and nothing else: settings, weights, targets and where they come from.
`write_model` makes one, `crystalframer convert` makes one of the authors' checkpoints, and `load_model` reads both.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crystalframer.config import KernelName, TrialConfig
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import ELEMENTS
from crystalframer.nn.model import CrystalFramer
from crystalframer.resolving import trial_from_dict
from crystalframer.training.checkpoint import FORMAT as CHECKPOINT_FORMAT
from crystalframer.training.checkpoint import Checkpoint, checkpoint_of, evaluated_weights
from crystalframer.training.metrics import Target, restore, target_of
from crystalframer.training.safe_files import read_archive, whole, write_archive

FORMAT = "crystalframer model"
VERSION = 1


@dataclass(frozen=True)
class TrainedModel:
    """A model ready to predict, and what its numbers mean."""

    model: CrystalFramer
    """In evaluation mode, with the averaged weights if averaging had begun."""
    trial: TrialConfig
    """Every setting of its training."""
    targets: tuple[Target, ...]
    """What its T outputs are."""
    epoch: int
    """Complete epochs of training."""
    averaged: bool
    """Whether the weights are averaged ones."""
    data_fingerprint: str = ""
    """Fingerprint of the data it was trained on; empty where that is not known."""
    elements: tuple[int, ...] | None = None
    """Atomic numbers that its training crystals contained; None where that is not known."""
    origin: str = ""
    """Where the weights come from, in words."""

    @property
    def task(self) -> str:
        """Name of the first target."""
        return self.targets[0].name

    @property
    def unit(self) -> str:
        """Unit of the first target."""
        return self.targets[0].unit

    def restore(self, outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return standardised outputs, (S, T) or (S,) of a single target, in the targets' units."""
        return restore(outputs, self.targets)


def load_model(path: str | Path) -> TrainedModel:
    """Read the model of a checkpoint, a snapshot or a model file.

    Args:
        path: a file written by `Trainer.save`, `write_snapshot`, `write_model` or `crystalframer convert`.

    Raises:
        UserError: the file is missing, damaged or none of these.
    """
    return model_of(Path(path), read_archive(Path(path)), "cpu")


def model_of(path: Path, content: Any, device: str | torch.device) -> TrainedModel:
    """Return the model that `read_archive` read from a file; see `load_model`."""
    if isinstance(content, dict) and content.get("format") == FORMAT:
        return from_content(path, content, device)
    if isinstance(content, dict) and content.get("format") == CHECKPOINT_FORMAT:
        return _from_checkpoint(path, checkpoint_of(path, content), device)
    if isinstance(content, dict) and "pytorch-lightning_version" in content:
        raise UserError(
            f"{path} is a Lightning checkpoint, perhaps one of the authors'; "
            f"make a model file of it first with `crystalframer convert {path}`"
        )
    raise UserError(f"{path} is not a checkpoint of this program; expected a file that its training or `convert` wrote")


def write_model(path: Path, trained: TrainedModel) -> None:
    """Write a model file; an existing one is replaced atomically.

    Raises:
        OSError: it cannot be written.
    """
    write_archive(path, content_of(trained))


def content_of(trained: TrainedModel) -> dict[str, Any]:
    """Return the plain values and tensors that a model file holds."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "trial": trained.trial.to_dict(),
        "targets": [asdict(target) for target in trained.targets],
        "model": {name: value.detach().cpu() for name, value in trained.model.state_dict().items()},
        "epoch": trained.epoch,
        "averaged": trained.averaged,
        "data_fingerprint": trained.data_fingerprint,
        "elements": None if trained.elements is None else list(trained.elements),
        "origin": trained.origin,
        "torch": str(torch.__version__),
    }


def build_model(
    path: Path, trial: TrialConfig, state: dict[str, torch.Tensor], device: str | torch.device = "cpu"
) -> CrystalFramer:
    """Return the model of `trial` with the weights `state`, in evaluation mode.

    Raises:
        UserError: the weights are not those of this architecture, or not finite; the message names the file `path`.
    """
    kernel: KernelName = "reference" if trial.train.kernel == "reference" else "auto"  # it may run elsewhere now
    model = CrystalFramer(trial.model, kernel=kernel)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the weights in {path} do not fit its settings: {reason}; use another copy") from error
    bad = [name for name, value in model.state_dict().items() if not bool(torch.isfinite(value).all())]
    if bad:
        raise UserError(f"{path} holds weights that are not finite numbers (first: {bad[0]}); use another checkpoint")
    return model.to(device).eval()


def _from_checkpoint(path: Path, checkpoint: Checkpoint, device: str | torch.device) -> TrainedModel:
    best = checkpoint.best
    _require_described(f"checkpoint {path}", checkpoint.trial, checkpoint.targets, checkpoint.elements)
    with whole(f"checkpoint {path}"):
        return TrainedModel(
            model=build_model(path, checkpoint.trial, evaluated_weights(checkpoint), device),
            trial=checkpoint.trial,
            targets=checkpoint.targets,
            epoch=checkpoint.progress.epoch if best is None else int(best["epoch"]),
            averaged=int(checkpoint.average["count"]) > 0 if best is None else bool(best["averaged"]),
            data_fingerprint=checkpoint.data_fingerprint,
            elements=checkpoint.elements,
            origin="trained with this program",
        )


def from_content(path: Path, content: dict[str, Any], device: str | torch.device) -> TrainedModel:
    """Return the model of what `content_of` returned.

    Raises:
        UserError: a part is missing or wrong; the message names the file `path`.
    """
    if content.get("version") != VERSION:
        raise UserError(
            f"model file {path} has format version {content.get('version')}, expected {VERSION}; "
            "read it with the version of this program that wrote it"
        )
    with whole(f"model file {path}"):
        trial = trial_from_dict(content["trial"], path)
        targets = tuple(target_of(target) for target in content["targets"])
        elements: Sequence[int] | None = content["elements"]
        trained = TrainedModel(
            model=build_model(path, trial, content["model"], device),
            trial=trial,
            targets=targets,
            epoch=int(content["epoch"]),
            averaged=bool(content["averaged"]),
            data_fingerprint=str(content["data_fingerprint"]),
            elements=None if elements is None else tuple(elements),
            origin=str(content["origin"]),
        )
    _require_described(f"model file {path}", trial, targets, trained.elements)
    return trained


def _require_described(
    what: str, trial: TrialConfig, targets: Sequence[Target], elements: Sequence[int] | None
) -> None:
    """Raise a `UserError` where a file names other targets than its weights have, or elements that are none."""
    if len(targets) != trial.model.num_targets:
        raise UserError(f"{what} names {len(targets)} targets, expected {trial.model.num_targets}; use another copy")
    known = range(1, len(ELEMENTS) + 1)
    if strange := [one for one in elements or () if not isinstance(one, int) or one not in known]:
        raise UserError(f"{what} names {strange[0]!r} as an element, expected atomic numbers; use another copy")
