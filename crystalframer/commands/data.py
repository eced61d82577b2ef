"""List the data sets."""

import argparse
from typing import TYPE_CHECKING

from crystalframer.errors import UserError
from crystalframer.published import PUBLISHED

if TYPE_CHECKING:
    from crystalframer.data.dataset import CrystalDataset


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `crystalframer data`, which takes no arguments."""
    parser.description = "List the data sets, their tasks and splits, or how to prepare them."


def run(_: argparse.Namespace) -> int:
    """List every data set: its crystals, tasks, units and splits, or how to prepare it."""
    from crystalframer.data.registry import load_dataset, own_datasets

    for name in (*PUBLISHED, *own_datasets()):
        try:
            print(f"{name}: {describe(load_dataset(name))}")
        except UserError as error:
            print(f"{name}: {error}")
    return 0


def describe(dataset: "CrystalDataset") -> str:
    """Return a data set's size, and one line per task with its unit and the sizes of its splits."""
    import numpy as np

    atoms = dataset.num_atoms
    lines = [f"{len(dataset):,} crystals of {atoms.min()} to {atoms.max()} atoms, {atoms.mean():.1f} on average"]
    names = max(17, *(len(name) + 1 for name in dataset.tasks))
    units = max(11, *(len(task.unit) for task in dataset.tasks.values()))
    for task in dataset.tasks.values():
        present = np.isfinite(task.targets)
        train, val, test = (int((present & (task.split == code)).sum()) for code in range(3))
        lines.append(f"  {task.name:<{names}}{task.unit:<{units}} {train:,} train, {val:,} validation, {test:,} test")
    return "\n".join(lines)
