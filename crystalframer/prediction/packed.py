"""Packed models: one file with the models of an ensemble, their calibration, and what a reader must know about them.

The file is an archive of plain values and tensors, read without running any code of it. Weight matrices are kept as
8-bit integers with a scale for each row, a quarter of float32's size: on a model of MBJ gaps this changed predictions
by 1 % of their error and the error itself by 0.2 %. Intervals, errors and the example are measured with these weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal
from crystalframer.prediction.calibration import Calibration
from crystalframer.training.safe_files import whole, write_archive
from crystalframer.training.trained_model import TrainedModel, content_of, from_content

FORMAT = "crystalframer packed model"
VERSION = 1
_LEVELS = 127
"""Largest 8-bit integer."""


@dataclass(frozen=True, eq=False)
class Example:
    """A crystal, and what the models predicted for it when they were packed."""

    crystal: Crystal
    predictions: tuple[float, ...]
    """Of each target, in its unit."""


@dataclass(frozen=True, eq=False)
class PackedModel:
    """What a packed file holds."""

    members: tuple[TrainedModel, ...]
    calibration: Calibration | None = None
    example: Example | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    """Plain values for people: its entry in the list of models."""
    curves: Sequence[Sequence[Mapping[str, Any]]] = ()
    """Results of each member's epochs."""
    card: str = ""
    """The model card, Markdown."""


def is_packed(content: Any) -> bool:
    """Return whether what `read_archive` read is a packed model, whole or damaged."""
    return isinstance(content, dict) and content.get("format") == FORMAT


def write_packed(path: Path, packed: PackedModel) -> None:
    """Write a packed model; an existing file is replaced atomically.

    Raises:
        OSError: it cannot be written.
    """
    members = []
    for member in packed.members:
        content = content_of(member)
        members.append({**content, "model": {name: _packed(value) for name, value in content["model"].items()}})
    example = packed.example and {
        "lattice": torch.from_numpy(np.array(packed.example.crystal.lattice)),
        "frac_coords": torch.from_numpy(np.array(packed.example.crystal.frac_coords)),
        "atomic_numbers": torch.from_numpy(np.array(packed.example.crystal.atomic_numbers)),
        "id": packed.example.crystal.id,
        "predictions": list(packed.example.predictions),
    }
    content = {
        "format": FORMAT,
        "version": VERSION,
        "members": members,
        "calibration": packed.calibration and packed.calibration.to_dict(),
        "example": example,
        "about": dict(packed.about),
        "curves": [[dict(epoch) for epoch in curve] for curve in packed.curves],
        "card": packed.card,
    }
    write_archive(path, content)


def packed_of(path: Path, content: Mapping[str, Any], device: str | torch.device) -> PackedModel:
    """Return the packed model that `read_archive` read from a file.

    Raises:
        UserError: it is damaged or of another version.
    """
    if content.get("version") != VERSION:
        raise UserError(
            f"packed model {path} has format version {content.get('version')}, expected {VERSION}; "
            "read it with the version of this program that wrote it"
        )
    with whole(f"packed model {path}"):
        members = [{**member, "model": _unpacked(member["model"])} for member in content["members"]]
        models = tuple(from_content(path, member, device) for member in members)
        calibration = None if content["calibration"] is None else Calibration.from_dict(content["calibration"])
        first = models[0].trial.model
        if calibration is not None and not calibration.suits(len(models), first.num_targets, first.width):
            raise ValueError("its intervals are of other models")
        return PackedModel(
            members=models,
            calibration=calibration,
            example=None if content["example"] is None else _example(content["example"]),
            about=content["about"],
            curves=content["curves"],
            card=str(content["card"]),
        )


def _example(content: Mapping[str, Any]) -> Example:
    crystal = Crystal(
        content["lattice"].numpy(), content["frac_coords"].numpy(), content["atomic_numbers"].numpy(), content["id"]
    )
    return Example(crystal, tuple(map(float, content["predictions"])))


def _packed(value: Tensor) -> Tensor | dict[str, Tensor]:
    """Return a matrix, or a stack of them, as 8-bit integers and a scale for each row; anything else as it is."""
    if value.ndim < 2:
        return value
    scale = value.abs().amax(dim=-1, keepdim=True).clamp_min(torch.finfo(value.dtype).tiny) / _LEVELS
    return {"codes": torch.round(value / scale).to(torch.int8), "scale": scale}


def _unpacked(state: Mapping[str, Tensor | dict[str, Tensor]]) -> dict[str, Tensor]:
    return {
        name: value["codes"] * value["scale"] if isinstance(value, dict) else value for name, value in state.items()
    }


def as_packed(trained: TrainedModel) -> TrainedModel:
    """Return a model with the weights that packing leaves of it."""
    content = content_of(trained)
    state = _unpacked({name: _packed(value) for name, value in content["model"].items()})
    return from_content(Path("a packed model"), {**content, "model": state}, "cpu")
