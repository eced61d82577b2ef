"""Which crystals and atoms the pictures show, and the attention of the models in them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from analysis.items import Context
from analysis.results import MissingError
from crystalframer.data.batch import collate
from crystalframer.data.dataset import CrystalDataset, select_task
from crystalframer.geometry.crystal import ELEMENTS, Crystal
from crystalframer.geometry.prepared import prepare_geometry
from crystalframer.kernels.reference import attention_state
from crystalframer.nn.model import CrystalFramer
from crystalframer.pictures.attention_drawing import Surroundings
from crystalframer.prediction.explain import AttentionView, attention_of

REACH = 3.7
"""Å around an atom that are shown."""


@dataclass(frozen=True)
class Wanted:
    """A material of the paper's pictures, by its formula, and the element of the atom in the middle."""

    formula: dict[str, int]
    element: str
    name: str


PAPER = (Wanted({"Mg": 1, "Sn": 1, "F": 4}, "Mg", "MgSnF₄"), Wanted({"C": 3, "N": 4}, "C", "C₃N₄"))


@dataclass(frozen=True, eq=False)
class Chosen:
    """The crystal that stands for a wanted material."""

    wanted: Wanted
    crystal: Crystal
    atom: int
    """Index of the atom in the middle: the first one of the element."""
    exact: bool
    """Whether it has the wanted formula."""

    @property
    def formula(self) -> str:
        """Formula of what is shown."""
        return formula(self.crystal)

    @property
    def name(self) -> str:
        """Formula and id."""
        return f"{self.formula} ({self.crystal.id})"

    @property
    def element(self) -> str:
        """Element of the atom in the middle."""
        return ELEMENTS[self.crystal.atomic_numbers[self.atom] - 1]

    @property
    def caption(self) -> str:
        """Say what is shown instead of what."""
        instead = "" if self.exact else f", the nearest to the paper's {self.wanted.name} in this data set"
        return f"{self.name}{instead}; around its first {self.element} atom"


def choose(dataset: CrystalDataset, wanted: Wanted) -> Chosen | None:
    """Return the crystal nearest to a wanted material; None where no crystal has the element.

    Among the crystals with the element of the atom in the middle: most elements shared with the wanted formula, then
    the least difference in atomic fractions (sum of absolute differences), then fewest atoms, then the lowest id.
    """
    target = {ELEMENTS.index(symbol) + 1: count for symbol, count in wanted.formula.items()}
    total = sum(target.values())
    middle = ELEMENTS.index(wanted.element) + 1
    best: tuple[int, float, int, str, int] | None = None
    for row in np.unique(
        np.searchsorted(dataset.offsets, np.flatnonzero(dataset.atomic_numbers == middle), "right") - 1
    ):
        numbers = dataset.atomic_numbers[dataset.offsets[row] : dataset.offsets[row + 1]]
        counts = Counter(numbers.tolist())
        shared = len(set(counts) & set(target))
        distance = sum(
            abs(counts.get(z, 0) / len(numbers) - target.get(z, 0) / total) for z in sorted(set(counts) | set(target))
        )
        candidate = (-shared, round(distance, 9), len(numbers), str(dataset.ids[row]), int(row))
        best = candidate if best is None else min(best, candidate)
    if best is None:
        return None
    crystal = dataset[best[-1]]
    atom = int(np.flatnonzero(crystal.atomic_numbers == middle)[0])
    return Chosen(wanted, crystal, atom, best[0] == -len(target) and best[1] == 0)


def chosen_materials(context: Context) -> list[Chosen]:
    """Return what stands for the paper's materials in the data set of the sweep.

    Raises:
        MissingError: there are no results, the data set is not at hand, or nothing in it is near.
    """
    dataset = context.dataset()
    found = [chosen for wanted in PAPER if (chosen := choose(dataset, wanted)) is not None]
    if not found:
        raise MissingError("the data set has neither Mg nor C", context.command)
    return found


def tested_crystals(context: Context, count: int) -> list[Crystal]:
    """Return the first crystals of the main comparison's test set, in the order of the split.

    Raises:
        MissingError: there are no results, or the data set is not at hand.
    """
    dataset = context.dataset()
    rows = select_task(dataset, context.main.trials[0].config.data).rows["test"]
    return [dataset[int(row)] for row in rows[:count]]


def surroundings(model: CrystalFramer, chosen: Chosen) -> list[Surroundings]:
    """Return what the head that looks at the chosen atom's neighbours most makes of them, in every block."""
    views = [attention_of(model, chosen.crystal, block) for block in range(model.config.num_blocks)]
    head = widest_head(views, chosen.atom)
    return [view.around(chosen.atom, head, REACH) for view in views]


def attention_states(model: CrystalFramer, crystals: Sequence[Crystal]) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Return distances (E,) in Å, weights (E, H) and frames (N, H, 3, 3) in some crystals, for every block."""
    config = model.config
    batch = collate([prepare_geometry(crystal, config.cutoff) for crystal in crystals], config.cutoff)
    with torch.no_grad():
        return [
            (batch.distance, *attention_state(block.attention.inputs(state), batch, config))
            for block, state in zip(model.levels, model.atom_states(batch)[:-1], strict=True)
        ]


def widest_head(views: Sequence[AttentionView], atom: int) -> int:
    """Return the head that gives the neighbours of an atom, itself left out, the most weight over all blocks."""
    weight = sum(view.weights[view.entries(atom)][1:].sum(axis=0) for view in views)
    return int(np.argmax(weight))


def formula(crystal: Crystal) -> str:
    """Return the reduced formula in the order of the electronegative last, with subscripts."""
    from pymatgen.core.composition import Composition

    reduced = Composition(Counter(ELEMENTS[number - 1] for number in crystal.atomic_numbers.tolist())).reduced_formula
    return reduced.translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
