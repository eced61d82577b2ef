"""Static against dynamic frames: one frame for the whole cell, or one per atom and block that follows the attention.

    python analysis/figures/static_and_dynamic_frames.py --sweep ablation_sample

reads the checkpoint of the max trial (lowest seed; weighted PCA where there is none) and writes
analysis/output/<sweep>/static_and_dynamic_frames.{pdf,png,html}. Atoms that get little attention are translucent.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.items import Context, Item, Product

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.materials import Chosen
    from crystalframer.pictures.attention_drawing import Surroundings

NAME = "static_and_dynamic_frames"
APART = 11.0
"""Å between two atoms' surroundings in the turning figure."""


def produce(context: Context) -> Product:
    """Draw the last of the paper's materials that the data set offers."""
    from analysis.materials import chosen_materials, surroundings

    models = context.models(("max", "weighted_pca"), "no checkpoint of a max or weighted PCA trial")
    trained = next(iter(models.values()))
    materials = chosen_materials(context)
    atoms = two_atoms(materials[-1])
    shown = [[found[0], found[-1]] for found in (surroundings(trained.model, chosen) for chosen in atoms)]
    with context.style():
        picture = context.save(draw(atoms, shown), NAME)
    return Product([picture], [context.save_page(page(atoms[0], shown), NAME)], text=atoms[0].name)


def two_atoms(chosen: "Chosen") -> list["Chosen"]:
    """Return the chosen atom, and the first one of another element (of the same, where there is but one)."""
    numbers = chosen.crystal.atomic_numbers
    others = np.flatnonzero(numbers != numbers[chosen.atom])
    other = int(others[0]) if len(others) else (chosen.atom + 1) % chosen.crystal.num_atoms
    return [chosen, replace(chosen, atom=other)]


def draw(atoms: Sequence["Chosen"], shown: Sequence[Sequence["Surroundings"]]) -> "Figure":
    """Return the figure: the static frame on the left, two atoms in the first and the last block on the right."""
    from matplotlib.figure import Figure

    from crystalframer.geometry.prepared import prepare_geometry
    from crystalframer.pictures.crystal_drawing import draw_cell, legend_of_axes, legend_of_elements

    crystal = atoms[0].crystal
    figure = Figure(figsize=(7.0, 3.5))
    parts: Any = figure.subfigures(1, 2, width_ratios=[1.15, 2.0])
    left, right = parts
    axes = left.subplots()
    draw_cell(axes, crystal, prepare_geometry(crystal, 3.0).pca_frame)
    axes.set_title(f"static: one PCA frame, {atoms[0].name}", fontsize=7.5)
    for row, chosen, around in zip(right.subplots(2, 2), atoms, shown, strict=True):
        for panel, one, block in zip(row, around, ("first", "last"), strict=True):
            one.draw(panel)
            panel.set_title(f"dynamic: {chosen.element} atom, {block} block", fontsize=7.5, pad=1)
    left.subplots_adjust(left=0.02, right=0.98, bottom=0.08, top=0.9)
    right.subplots_adjust(left=0.0, right=1.0, bottom=0.08, top=0.93, wspace=0.02, hspace=0.12)
    legend_of_elements(figure, crystal.atomic_numbers, 0.02, 0.035)
    figure.text(0.5, 0.035, "opacity: attention weight", fontsize=7, va="center", ha="center")
    legend_of_axes(figure, 0.98, 0.035)
    return figure


def page(chosen: "Chosen", shown: Sequence[Sequence["Surroundings"]]) -> Any:
    """Return the turning figure: the two atoms beside one another, first block below, last block above."""
    from crystalframer.pictures.crystal_drawing import legend_traces, scene

    traces: list[Any] = []
    for column, around in enumerate(shown):
        for row, one in enumerate(around):
            traces += one.traces((APART * column, 0.0, APART * row))
    names = legend_traces(chosen.crystal.atomic_numbers)
    return scene(f"{chosen.name}: two atoms, first block below, last above", [*traces, *names])


ITEM = Item(
    "static_and_dynamic",
    "Static and dynamic frames",
    "One frame for the whole cell, or one per atom and block that follows the attention; atoms that get little "
    "attention are translucent.",
    "why",
    produce,
)


if __name__ == "__main__":
    raise SystemExit(ITEM.main())
