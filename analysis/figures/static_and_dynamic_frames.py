"""Static against dynamic frames: one frame for the whole cell, or one per atom and block that follows the attention.

    python analysis/figures/static_and_dynamic_frames.py --sweep ablation_sample

reads the checkpoint of the max trial (lowest seed; weighted PCA where there is none) and writes
analysis/output/<sweep>/static_and_dynamic_frames.{pdf,png,html}. Atoms that get little attention are translucent.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import items
from analysis.figures.frame_gallery import attention, draw_surroundings, surroundings
from analysis.items import Context, Item, Missing, Product
from analysis.palette import AXES
from crystalframer.command_line import reports_user_errors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.materials import Chosen
    from crystalframer.prediction.explain import AttentionView

NAME = "static_and_dynamic_frames"
APART = 11.0
"""Å between two atoms' surroundings in the turning figure."""


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure; return the exit code."""
    return items.run(produce, __doc__, argv)


def produce(context: Context) -> Product | Missing:
    """Draw the last of the paper's materials that the data set offers."""
    from analysis.materials import chosen_materials

    trained = context.model("max") or context.model("weighted_pca")
    if trained is None:
        return context.no_runs("no checkpoint of a max or weighted PCA trial")
    materials = chosen_materials(context)
    if isinstance(materials, Missing):
        return materials
    atoms = two_atoms(materials[-1])
    views = attention(trained.model, atoms[0])
    with context.style():
        picture = context.save(draw(atoms, views), NAME)
    return Product([picture], [context.save_page(page(atoms, views), NAME)], text=atoms[0].name)


def two_atoms(chosen: "Chosen") -> list["Chosen"]:
    """Return the chosen atom, and the first one of another element (of the same, where there is but one)."""
    from dataclasses import replace

    numbers = chosen.crystal.atomic_numbers
    others = np.flatnonzero(numbers != numbers[chosen.atom])
    other = int(others[0]) if len(others) else (chosen.atom + 1) % chosen.crystal.num_atoms
    return [chosen, replace(chosen, atom=other)]


def draw(atoms: Sequence["Chosen"], views: Sequence["AttentionView"]) -> "Figure":
    """Return the figure: the static frame on the left, two atoms in the first and the last block on the right."""
    from matplotlib.figure import Figure

    from analysis.crystal_drawing import Canvas, full_cell, half_width
    from crystalframer.geometry.crystal import ELEMENTS
    from crystalframer.geometry.prepared import prepare_geometry

    crystal = atoms[0].crystal
    figure = Figure(figsize=(7.0, 3.5))
    parts: Any = figure.subfigures(1, 2, width_ratios=[1.15, 2.0])
    left, right = parts
    axes = left.subplots()
    positions, numbers = full_cell(crystal)
    centre = crystal.lattice.sum(axis=0) / 2
    half = half_width(crystal.lattice)
    canvas = Canvas(axes, positions - centre, numbers, half, np.full(len(numbers), 0.85))
    canvas.cell(crystal.lattice, -centre)
    canvas.bonds()
    canvas.frame(prepare_geometry(crystal, 3.0).pca_frame, 0.6 * half)
    axes.set_title(f"static: one PCA frame, {atoms[0].name}", fontsize=7.5)
    picked = [views[0], views[-1]]
    for row, chosen in zip(right.subplots(2, len(picked), squeeze=False), atoms, strict=True):
        for panel, view in zip(row, picked, strict=True):
            draw_surroundings(panel, chosen, view, views)
            element = ELEMENTS[crystal.atomic_numbers[chosen.atom] - 1]
            panel.set_title(f"dynamic: {element} atom, block {view.block + 1}", fontsize=7.5, pad=1)
    left.subplots_adjust(left=0.02, right=0.98, bottom=0.02, top=0.9)
    right.subplots_adjust(left=0.0, right=0.93, bottom=0.02, top=0.93, wspace=0.02, hspace=0.12)
    for number in range(3):
        figure.text(0.965, 0.9 - 0.06 * number, f"e{'₁₂₃'[number]}", fontsize=9, color=AXES[number], weight="bold")
    return figure


def page(atoms: Sequence["Chosen"], views: Sequence["AttentionView"]) -> Any:
    """Return the turning figure: the two atoms beside one another, first block below, last block above."""
    from analysis.crystal_drawing import atoms_traces, frame_traces, scene

    traces: list[Any] = []
    for column, chosen in enumerate(atoms):
        for row, view in enumerate((views[0], views[-1])):
            positions, numbers, opacity, frame = surroundings(chosen, view, views)
            origin = np.array([APART * column, 0.0, APART * row])
            traces += [*atoms_traces(positions + origin, numbers, opacity), *frame_traces(frame, 2.6, origin=origin)]
    return scene(f"{atoms[0].name}: two atoms, first block below, last above", traces)


ITEM = Item(
    "static_and_dynamic",
    "Static and dynamic frames",
    "One frame for the whole cell, or one per atom and block that follows the attention; atoms that get little "
    "attention are translucent.",
    produce,
)


if __name__ == "__main__":
    sys.exit(main())
