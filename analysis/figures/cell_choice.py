"""One crystal, two cells: the conventional cell of an fcc metal (green) and its Niggli-reduced cell (blue).

    python analysis/figures/cell_choice.py

needs no results and writes analysis/output/<sweep>/cell_choice.{pdf,png,html}. Frames that
look at the cell's atoms or vectors must not depend on which of the two describes the crystal.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.items import Context, Item, Product
from crystalframer.pictures.palette import AXES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "cell_choice"
CONSTANT = 4.05
"""Lattice constant of aluminium in Å."""
ALUMINIUM = 13
CONVENTIONAL, NIGGLI = AXES[1:]


def produce(context: Context) -> Product:
    """Draw both cells around the same atoms."""
    from pymatgen.core.lattice import Lattice
    from pymatgen.core.structure import Structure

    conventional = Structure.from_spacegroup("Fm-3m", Lattice.cubic(CONSTANT), ["Al"], [[0, 0, 0]])
    reduced = conventional.get_primitive_structure().get_reduced_structure("niggli")
    cells = conventional.lattice.matrix, standing_on_atoms(reduced.lattice.matrix)
    with context.style():
        picture = context.save(draw(*cells), NAME)
    lengths, angles = reduced.lattice.abc, reduced.lattice.angles
    return Product(
        [picture],
        [context.save_page(page(*cells), NAME)],
        text=f"Aluminium: conventional cell of 4 atoms, a = {CONSTANT} Å; Niggli-reduced cell of 1 atom, "
        f"a = b = c = {lengths[0]:.3f} Å, angles {angles[0]:.0f}°, {angles[1]:.0f}°, {angles[2]:.0f}°.",
    )


def standing_on_atoms(matrix: Any) -> Any:
    """Return the reduced cell's vectors turned so that they join atoms of the conventional cell, (3, 3) rows in Å."""
    from pymatgen.core.lattice import Lattice

    primitive = CONSTANT / 2 * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
    aligned = Lattice(primitive).get_niggli_reduced_lattice()
    found = Lattice(matrix).find_mapping(aligned, ltol=1e-3, atol=0.1)
    assert found is not None, "the reduced cell describes the same lattice"
    rows = np.asarray(aligned.matrix)
    return rows if np.linalg.det(rows) > 0 else -rows


def atoms_of(lattice: Any) -> tuple[Any, Any]:
    """Return the fcc atoms of the conventional cell, its faces included."""
    grid = np.array([[i, j, k] for i in range(3) for j in range(3) for k in range(3) if (i + j + k) % 2 == 0])
    return grid / 2 @ lattice, np.full(len(grid), ALUMINIUM)


def draw(conventional: Any, reduced: Any) -> "Figure":
    """Return the figure: both cells among the same atoms."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from crystalframer.pictures.crystal_drawing import Canvas, legend_of_elements

    figure = Figure(figsize=(3.4, 3.3))
    axes = figure.subplots()
    positions, numbers = atoms_of(conventional)
    centre = conventional.sum(axis=0) / 2
    canvas = Canvas(axes, positions - centre, numbers, 0.98 * CONSTANT, np.full(len(numbers), 0.8))
    canvas.cell(conventional, -centre, CONVENTIONAL, 1.6)
    canvas.cell(reduced, corner(reduced, conventional) - centre, NIGGLI, 1.6)
    legend = [Line2D([], [], color=colour, label=label) for colour, label in labels().items()]
    axes.legend(handles=legend, loc="lower center", ncols=2, frameon=False, fontsize=7.5, bbox_to_anchor=(0.5, -0.06))
    legend_of_elements(figure, numbers, 0.02, 0.96)
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.07, top=0.99)
    return figure


def corner(reduced: Any, conventional: Any) -> Any:
    """Return the atom of the conventional cell from which the reduced cell lies within it as far as can be."""
    positions, _ = atoms_of(conventional)
    middle = conventional.sum(axis=0) / 2
    distance = np.linalg.norm(positions + reduced.sum(axis=0) / 2 - middle, axis=1)
    return positions[int(np.argmin(distance.round(6)))]


def labels() -> dict[str, str]:
    """Return the cells' names by their colours."""
    return {CONVENTIONAL: "conventional, 4 atoms", NIGGLI: "Niggli-reduced, 1 atom"}


def page(conventional: Any, reduced: Any) -> Any:
    """Return the turning figure."""
    from crystalframer.pictures.crystal_drawing import atoms_traces, cell_trace, legend_traces, scene

    positions, numbers = atoms_of(conventional)
    named = {"showlegend": True}
    return scene(
        "One crystal, two cells",
        [
            *atoms_traces(positions, numbers),
            cell_trace(conventional, colour=CONVENTIONAL, name=labels()[CONVENTIONAL], **named),
            cell_trace(reduced, corner(reduced, conventional), colour=NIGGLI, name=labels()[NIGGLI], **named),
            *legend_traces(numbers, axes=False),
        ],
    )


ITEM = Item(
    "cells",
    "One crystal, two cells",
    "The conventional and the Niggli-reduced cell of an fcc metal.",
    "details",
    produce,
)


if __name__ == "__main__":
    raise SystemExit(ITEM.main())
