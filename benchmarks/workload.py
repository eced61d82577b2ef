"""What is computed: batches of random or real crystals, and a model that predicts and trains on them."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.settings import REAL, Settings
from crystalframer.config import DataConfig, KernelName, ModelConfig, TrainConfig
from crystalframer.data.batch import CrystalBatch, collate
from crystalframer.data.registry import load_task
from crystalframer.geometry.crystal import Crystal
from crystalframer.geometry.prepared import Geometry, prepare_geometry
from crystalframer.kernels.parity import random_crystal
from crystalframer.nn.model import CrystalFramer
from crystalframer.training.optimizer import build_optimizer, trainable_parameters

LEAST_CRYSTALS = 2
"""Crystals per batch at least: the CPU kernel shares a batch out by crystal."""


@dataclass(frozen=True, eq=False)
class Workload:
    """The crystals of one batch."""

    size: str
    """As the settings name it"""
    source: str
    """`random`, or the data set"""
    crystals: tuple[Crystal, ...]
    cutoff: float
    epoch_crystals: int | None = None
    """Crystals of the training set that real crystals stand for"""

    @property
    def atoms_per_crystal(self) -> float:
        """Mean number of atoms."""
        return sum(crystal.num_atoms for crystal in self.crystals) / len(self.crystals)

    def __str__(self) -> str:
        return f"{self.size} atoms" if self.source == "random" else f"{self.source} crystals"

    def geometries(self) -> list[Geometry]:
        """Compute neighbours and static frames."""
        return [prepare_geometry(crystal, self.cutoff) for crystal in self.crystals]

    def collate(self, geometries: list[Geometry], device: torch.device) -> CrystalBatch:
        """Make the batch, with targets drawn at random."""
        targets = np.random.default_rng(0).standard_normal(len(geometries))
        return collate(geometries, self.cutoff, targets).to(device)


def make_workload(settings: Settings, size: str) -> Workload:
    """Return the crystals of one size.

    Raises:
        UserError: the data set is not prepared or has no formation energies.
    """
    if size == REAL:
        return _real_workload(settings)
    count = max(LEAST_CRYSTALS, round(settings.atoms / int(size)))
    return Workload(size, "random", tuple(random_crystal(int(size), seed=n) for n in range(count)), settings.cutoff)


def _real_workload(settings: Settings) -> Workload:
    """Return training crystals evenly spaced in order of size, so that few stand for all, in random order."""
    data = load_task(DataConfig(dataset=settings.dataset, task="formation_energy"))
    rows = data.rows["train"]
    sizes = data.dataset.num_atoms[rows]
    count = min(len(rows), max(LEAST_CRYSTALS, round(settings.atoms / float(sizes.mean()))))
    positions = ((np.arange(count) + 0.5) * len(rows) / count).astype(np.int64)
    chosen = np.random.default_rng(0).permutation(rows[np.argsort(sizes, kind="stable")][positions])
    crystals = tuple(data.dataset[int(row)] for row in chosen)
    return Workload(REAL, settings.dataset, crystals, settings.cutoff, epoch_crystals=len(rows))


class Subject:
    """A model of one kernel that predicts and trains on one batch.

    Weights are the same for every kernel. The batch is new to the kernel each time, as it is in training: what a
    kernel derives from the geometry is computed again.
    """

    def __init__(self, kernel: KernelName, config: ModelConfig, batch: CrystalBatch) -> None:
        assert batch.targets is not None
        self.batch = batch
        self.targets = batch.targets
        self.model = CrystalFramer(config, kernel=kernel, generator=torch.Generator().manual_seed(0))
        self.model.to(batch.vector.device).calibrate(batch)
        self.train = TrainConfig()
        self.optimizer = build_optimizer(self.model, self.train)
        self.parameters = trainable_parameters(self.model)

    @torch.no_grad()
    def forward(self) -> None:
        """Predict, as in evaluation."""
        self.model(replace(self.batch, derived={}))

    def step(self) -> None:
        """Do one training step: forward, backward, clip, AdamW."""
        self.differentiate()
        self.update()

    def differentiate(self) -> None:
        """Do the step's forward and backward pass."""
        self.optimizer.zero_grad(set_to_none=True)
        predicted = self.model(replace(self.batch, derived={}), tie_seed=1)
        (predicted - self.targets).abs().mean().backward()

    def update(self) -> None:
        """Clip the gradients and update the weights."""
        torch.nn.utils.clip_grad_norm_(self.parameters, self.train.clip_norm)
        self.optimizer.step()
