"""Every setting of a trial: one home for each default, its unit and the paper's symbol.

A trial is described by three frozen dataclasses (`DataConfig`, `ModelConfig`, `TrainConfig`) held by a
`TrialConfig`; `resolving.py` makes one from what a user wrote.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, get_args

import pydantic
from pydantic import Field

from crystalframer.errors import UserError
from crystalframer.validation import STRICT, Positive, Real, Whole, quote

FrameName = Literal["none", "pca", "lattice", "static_local", "weighted_pca", "max"]
KernelName = Literal["auto", "reference", "cpu", "triton"]
Ties = Literal["first", "mean"]
Precision = Literal["float32", "tf32", "bf16"]
Kept = Literal["last", "best"]
ScheduleName = Literal["inverse_sqrt", "one_cycle"]

FRAMES: tuple[FrameName, ...] = get_args(FrameName)
OPEN_FRAMES: tuple[FrameName, ...] = ("static_local", "weighted_pca", "max")
"""Frames that symmetry can leave open; the others are what the description of the cell makes them."""
Name = Annotated[str, Field(max_length=200)]
Scale = Annotated[Positive, Field(le=1e6)]
Size = Annotated[Whole, Field(ge=1, le=10**9)] | None
KERNELS: tuple[KernelName, ...] = get_args(KernelName)

MOST_WEIGHTS = 10**9
"""Of a model; the paper's has 853 thousand."""

CHECKPOINT_SECONDS = 10.0
"""Shortest time between two checkpoints, and so about the most work that a kill can cost; 0 for one after every step.
Not a setting of a trial: it must not change results."""


def _require(ok: bool, name: str, got: object, expected: str) -> None:
    if not ok:
        raise UserError(f"setting {name!r}: got {quote(got)}, expected {expected}")


@dataclass(frozen=True)
class DataConfig:
    """What a trial learns from."""

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = STRICT

    dataset: Name = "sample"
    """Name of a prepared data set: sample, jarvis, mp, oqmd."""
    task: Annotated[str, Field(max_length=2000)] = "formation_energy"
    """Target property; the names are those of the data set's `tasks`. Several, which one model learns together, are
    joined by commas or given as a list."""
    train_size: Size = None
    """Number of training crystals (a fixed, documented subset of the split's), None for all."""
    val_size: Size = None
    """Number of validation crystals, None for all."""
    test_size: Size = None
    """Number of test crystals, None for all."""

    def __post_init__(self) -> None:
        names = self.task.split(",")
        _require(
            all(names) and self.task == "".join(self.task.split()) and len(set(names)) == len(names),
            "data.task",
            self.task,
            "a task's name, or different ones joined by commas without spaces",
        )


@dataclass(frozen=True)
class ModelConfig:
    """Architecture and encodings; the defaults are the paper's default setting (max frames)."""

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = STRICT

    frame: FrameName = "max"
    """Frame type; `none` is Crystalformer, the baseline."""
    num_blocks: Annotated[Whole, Field(ge=1, le=256)] = 4
    """Self-attention blocks, L."""
    width: Annotated[Whole, Field(ge=1, le=4_096)] = 128
    """Model width."""
    num_heads: Annotated[Whole, Field(ge=1, le=256)] = 8
    """Attention heads, H; the head width is width / num_heads."""
    ffn_width: Annotated[Whole, Field(ge=1, le=262_144)] = 512
    """Hidden width of a block's feed-forward network."""
    num_elements: Annotated[Whole, Field(ge=1, le=118)] = 98
    """Elements of the one-hot input, from hydrogen on."""
    num_targets: Annotated[Whole, Field(ge=1, le=1_000)] = 1
    """Outputs of the regression head; as many as `data.task` names unless stated."""
    cutoff: Annotated[Positive, Field(le=30.0)] = 8.0
    """Radius of the neighbour sphere in Å; an infinite sum in the paper, see docs/cutoff.md."""
    r_0: Scale = 1.4
    """Length scale of σ in Å."""
    rho_slope: Scale = 0.1
    """Slope a of the shifted ELU ρ that bounds 1/σ²."""
    rho_floor: Annotated[Positive, Field(lt=1.0)] = 0.5
    """Lower bound b of ρ; σ < r_0 / √b."""
    r_max: Scale = 14.0
    """Distance of the last centre of the distance basis in Å."""
    num_dist: Annotated[Whole, Field(ge=1, le=4_096)] = 64
    """Gaussians of the distance basis."""
    s_dist: Scale = 1.0
    """Width of the distance Gaussians in units of their spacing."""
    c_dist: Annotated[Real, Field(ge=-1e6, le=1e6)] = 1.0
    """Coefficient of the distance encoding."""
    num_angl: Annotated[Whole, Field(ge=2, le=4_096)] = 64
    """Gaussians of the angular basis, D."""
    s_angl: Scale = 4.0
    """Width of the angular Gaussians in units of their spacing."""
    c_angl: Annotated[Real, Field(ge=-1e6, le=1e6)] = 1.0
    """Coefficient of the angular encoding."""
    ties: Ties = "first"
    """Evaluation where symmetry leaves a frame open: the first frame in the neighbour list, as published, or the mean
    over all, which does not depend on how the crystal is written down; see docs/ties.md."""

    def __post_init__(self) -> None:
        _require(self.width % self.num_heads == 0, "model.width", self.width, "a multiple of model.num_heads")
        block = self.width * (4 * self.width + 2 * self.ffn_width + self.num_dist + 3 * self.num_angl)
        _require(
            self.num_blocks * block <= MOST_WEIGHTS,
            "model.num_blocks",
            self.num_blocks,
            f"a model of at most {MOST_WEIGHTS:,} weights (a block has {block:,})",
        )

    @property
    def head_width(self) -> int:
        """Width of one head, d."""
        return self.width // self.num_heads

    @property
    def sigma_max(self) -> float:
        """Upper bound of σ in Å, r_0 / √rho_floor."""
        return float(self.r_0 / math.sqrt(self.rho_floor))


@dataclass(frozen=True)
class TrainConfig:
    """Optimisation as published, and the seed that every random generator of the trial derives from."""

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = STRICT

    epochs: Annotated[Whole, Field(ge=1, le=1_000_000)] = 2000
    """Passes over the training set."""
    minutes: Annotated[Positive, Field(le=1e6)] | None = None
    """Minutes that training may take by the clock of this machine, without compiling the attention, which happens once
    on a machine. How many epochs fit is found in the first steps and then stays; `decay_steps` and `average_epochs`
    grow or shrink as `epochs` does. None: `epochs` are trained."""
    batch_size: Annotated[Whole, Field(ge=1, le=1_000_000)] = 256
    """Crystals per optimiser step; the incomplete last batch of an epoch is dropped."""
    learning_rate: Positive = 5e-4
    """Largest learning rate of AdamW: the first one of `inverse_sqrt`, that after the warm-up of `one_cycle`."""
    schedule: ScheduleName = "inverse_sqrt"
    """How the learning rate changes: as published, or, for short trainings, up in the first tenth and down to nothing
    along a cosine."""
    beta_1: Annotated[Real, Field(ge=0.0, lt=1.0)] = 0.9
    """First moment decay of AdamW."""
    beta_2: Annotated[Real, Field(ge=0.0, lt=1.0)] = 0.98
    """Second moment decay of AdamW."""
    weight_decay: Annotated[Real, Field(ge=0.0)] = 1e-5
    """Decoupled weight decay, on everything but biases."""
    clip_norm: Positive = 1.0
    """Bound on the global gradient norm."""
    decay_steps: Positive = 4000.0
    """T of `inverse_sqrt`, lr·√(T / (T + t)), t in optimiser steps; frozen while averaging."""
    average_epochs: Annotated[Whole, Field(ge=0)] = 50
    """Last epochs over whose steps the weights are averaged; the averaged weights are evaluated. 0: none. A fifth
    of the epochs where there are fewer, or `minutes`, and none with `one_cycle`, where nothing is stated."""
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 123
    """Seed of initialisation, shuffling and tie-breaking."""
    kernel: KernelName = "auto"
    """Attention implementation; auto picks by device and says so."""
    precision: Precision = "float32"
    """Arithmetic of the linear layers in training: float32, tf32 (NVIDIA GPUs) or bf16; evaluation is in float32."""
    start_from: str | None = None
    """Checkpoint or model file whose weights training starts from (fine-tuning); None for fresh ones."""
    start_hash: str | None = None
    """SHA-256 (16 hexadecimal digits) of that file, found out when the settings are made: it is part of a trial's
    identity, the path is not."""
    frozen_blocks: Annotated[Whole, Field(ge=0)] = 0
    """First blocks that fine-tuning leaves as they are, and with them the embedding; 0: everything is trained."""
    patience: Annotated[Whole, Field(ge=0)] = 0
    """Epochs without a smaller validation error after which training ends; 0: it never ends early."""
    keep: Kept = "last"
    """Weights of the finished model: the last (averaged) ones, or those of the epoch of smallest validation error."""

    def __post_init__(self) -> None:
        _require(
            self.average_epochs <= self.epochs,
            "train.average_epochs",
            self.average_epochs,
            f"between 0 and train.epochs ({self.epochs})",
        )
        fine = self.start_from is not None
        _require(
            fine or not self.frozen_blocks, "train.frozen_blocks", self.frozen_blocks, "0 without train.start_from"
        )

    def is_over(self, val_errors: Sequence[float], epochs: int | None = None) -> bool:
        """Return whether a training ends after these validation errors; `epochs` as fitted to `minutes`, 0 before."""
        whole = self.epochs if epochs is None else epochs
        if whole and len(val_errors) >= whole:
            return True
        return bool(self.patience and epochs_since_best(val_errors) >= self.patience)

    @property
    def planned_epochs(self) -> int:
        """Epochs of the whole training, 0 where `minutes` decide."""
        return self.epochs if self.minutes is None else 0

    def fitted(self, epochs: int) -> "TrainConfig":
        """Return the settings for so many epochs, decay and averaging scaled alike."""
        share = epochs / self.epochs
        average_epochs = min(epochs, round(self.average_epochs * share))
        return dataclasses.replace(
            self, epochs=epochs, average_epochs=average_epochs, decay_steps=self.decay_steps * share
        )


def epochs_since_best(val_errors: Sequence[float]) -> int:
    """Return how many epochs ago the validation error was smallest."""
    return len(val_errors) - 1 - val_errors.index(min(val_errors)) if val_errors else 0


@dataclass(frozen=True)
class TrialConfig:
    """One training run, fully resolved."""

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = STRICT

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        frozen, blocks = self.train.frozen_blocks, self.model.num_blocks
        _require(frozen <= blocks, "train.frozen_blocks", frozen, f"at most model.num_blocks ({blocks})")

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values, every default spelled out."""
        return dataclasses.asdict(self)

    def to_flat_dict(self) -> dict[str, Any]:
        """Return dotted keys such as ``model.frame`` with plain values."""
        return {
            f"{section}.{key}": value for section, values in self.to_dict().items() for key, value in values.items()
        }

    def fingerprint(self) -> str:
        """Return 8 hexadecimal digits of the SHA-256 of the resolved settings.

        Where the weights that training starts from are kept does not count, what they are does. Settings of
        fine-tuning, precision, choice by validation and ties count only where they are used, so that other trials keep
        the names they had before these existed.
        """
        settings = self.to_dict()
        settings["train"].pop("start_from")
        if self.train.start_from is None:
            settings["train"] = {key: settings["train"][key] for key in settings["train"] if key not in _FINE_TUNING}
        for key, value in _UNUSED.items():
            if settings["train"].get(key) == value:
                settings["train"].pop(key)
        if self.model.ties == "first":
            settings["model"].pop("ties")
        text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def differences(self, settings: Mapping[str, Any]) -> str:
        """Say which settings are other ones than those that `to_dict` wrote for another trial."""
        there = {f"{section}.{key}": value for section, values in settings.items() for key, value in values.items()}
        return ", ".join(
            f"{key} is {value!r} here and {there.get(key)!r} there"
            for key, value in self.to_flat_dict().items()
            if value != there.get(key)
        )


_FINE_TUNING = ("start_hash", "frozen_blocks")
_UNUSED = {"minutes": None, "precision": "float32", "patience": 0, "keep": "last", "schedule": "inverse_sqrt"}
