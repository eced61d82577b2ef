"""How many true values intervals hold: in all, by element, by cell size and by difficulty."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crystalframer.data.dataset import CrystalDataset
from crystalframer.geometry.crystal import ELEMENTS
from crystalframer.statistics import places_by_element

FEWEST = 30
"""Crystals with an element without which its coverage is not told."""
SIZES = (0, 4, 8, 16, 32, 64, 10**9)
"""Limits of the cell sizes that are told apart, in atoms."""
DECILES = 10
_Z = 1.959963984540054
"""95 % of a normal distribution lie within."""


@dataclass(frozen=True)
class Coverage:
    """The share of some crystals whose value lies within its interval, with a 95 % Wilson interval."""

    kind: str
    """all, element, atoms or difficulty."""
    group: str
    crystals: int
    share: float
    low: float
    high: float
    half_width: float
    """Mean half width of their intervals."""
    mae: float
    """Mean absolute error of their predictions."""


def coverage_of(
    dataset: CrystalDataset,
    rows: NDArray[np.int64],
    errors: NDArray[np.float64],
    half_widths: NDArray[np.float64],
) -> list[Coverage]:
    """Measure it.

    Args:
        dataset: the crystals.
        rows: (S,) of those predicted.
        errors: (S,) absolute errors.
        half_widths: (S,) of the intervals.
    """
    groups: list[tuple[str, str, NDArray[np.int64]]] = [("all", "all", np.arange(len(rows)))]
    sizes = dataset.num_atoms[rows]
    for low, high in itertools.pairwise(SIZES):
        label = f"{low + 1} to {high}" if high < SIZES[-1] else f"more than {low}"
        groups.append(("atoms", label, np.flatnonzero((sizes > low) & (sizes <= high))))
    for number, part in enumerate(np.array_split(np.argsort(half_widths, kind="stable"), DECILES), start=1):
        groups.append(("difficulty", str(number), part))
    for number, members in places_by_element(dataset.atomic_numbers, dataset.offsets, rows).items():
        if len(members) >= FEWEST:
            groups.append(("element", ELEMENTS[number - 1], members))
    return [
        _measure(kind, name, errors[members], half_widths[members]) for kind, name, members in groups if len(members)
    ]


def _measure(kind: str, group: str, errors: NDArray[np.float64], half_widths: NDArray[np.float64]) -> Coverage:
    count = len(errors)
    share = float((errors <= half_widths).mean())
    middle = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    reach = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    width, mae = float(half_widths.mean()), float(errors.mean())
    return Coverage(kind, group, count, share, middle - reach, middle + reach, width, mae)
