"""Frames in the paper's materials: a chosen atom, its neighbours by their attention, and its frame in every block.

    python analysis/figures/frame_gallery.py --sweep ablation_sample

reads the checkpoints of the weighted PCA and max trials (lowest seed) and writes
analysis/output/<sweep>/frames_<material>.{pdf,png,html}. Left column: the structure, the cell's PCA frame, the lattice
frame. Rows: weighted PCA and max; columns: the blocks. Opacity is the attention weight of the head that looks at the
neighbours most; e1 orange-red, e2 green, e3 blue. A material that the data set lacks is replaced by the nearest one:
most elements shared, then the least difference in atomic fractions, then fewest atoms, then the lowest id.
"""

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import items
from analysis.items import Context, Item, Missing, Product
from analysis.palette import AXES
from crystalframer.command_line import reports_user_errors
from crystalframer.config import FrameName

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.materials import Chosen
    from crystalframer.geometry.prepared import Geometry
    from crystalframer.nn.model import CrystalFramer
    from crystalframer.prediction.explain import AttentionView

RADIUS = 3.7
"""Å around the atom that are shown."""
FRAMES: tuple[FrameName, ...] = ("weighted_pca", "max")
TITLES = {"weighted_pca": "weighted PCA", "max": "max"}


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Draw one figure per material; return the exit code."""
    return items.run(produce, __doc__, argv)


def produce(context: Context) -> Product | Missing:
    """Draw the materials with every dynamic frame that has a checkpoint."""
    from analysis.materials import chosen_materials

    models = {frame: trained.model for frame in FRAMES if (trained := context.model(frame)) is not None}
    if not models:
        return context.no_runs("no checkpoint of a weighted PCA or max trial")
    materials = chosen_materials(context)
    if isinstance(materials, Missing):
        return materials
    product = Product(text=" · ".join(chosen.caption for chosen in materials))
    for chosen in materials:
        views = {frame: attention(model, chosen) for frame, model in models.items()}
        name = "frames_" + re.sub(r"\W", "", chosen.wanted.name.translate(str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")))
        with context.style():
            product.pictures.append(context.save(draw(chosen, views), name))
        product.pages.append(context.save_page(page(chosen, views), name))
    product.missing += [context.no_runs(f"no checkpoint of a {TITLES[f]} trial") for f in FRAMES if f not in models]
    return product


def attention(model: "CrystalFramer", chosen: "Chosen") -> list["AttentionView"]:
    """Return the attention of every block in a material."""
    from crystalframer.prediction.explain import attention_of

    return [attention_of(model, chosen.crystal, block) for block in range(model.config.num_blocks)]


def draw(chosen: "Chosen", views: dict[FrameName, list["AttentionView"]]) -> "Figure":
    """Return the figure of one material."""
    from matplotlib.figure import Figure

    from analysis.crystal_drawing import Canvas, full_cell, half_width
    from crystalframer.geometry.prepared import prepare_geometry

    blocks = max(len(found) for found in views.values())
    figure = Figure(figsize=(7.0, 3.9))
    parts: Any = figure.subfigures(1, 2, width_ratios=[1, blocks * 1.28])
    left, right = parts
    geometry = prepare_geometry(chosen.crystal, 3.0)
    positions, numbers = full_cell(chosen.crystal)
    centre = chosen.crystal.lattice.sum(axis=0) / 2
    half = half_width(chosen.crystal.lattice)
    for axes, (title, frame) in zip(left.subplots(3, 1), static_frames(geometry).items(), strict=True):
        opacity = np.full(len(numbers), 1.0 if frame is None else 0.35)
        canvas = Canvas(axes, positions - centre, numbers, half, opacity)
        canvas.bonds()
        canvas.cell(chosen.crystal.lattice, -centre)
        if frame is not None:
            canvas.frame(frame, 0.75 * half)
        axes.set_title(title, fontsize=7.5, pad=1)
    panels = right.subplots(len(views), blocks, squeeze=False)
    for row, (frame_name, found) in zip(panels, views.items(), strict=True):
        for axes, view in zip(row, found, strict=True):
            draw_surroundings(axes, chosen, view, found)
            axes.set_title(f"{TITLES[frame_name]}, block {view.block + 1}", fontsize=7.5, pad=1)
    left.subplots_adjust(left=0.04, right=0.96, bottom=0.02, top=0.88, hspace=0.22)
    right.subplots_adjust(left=0.02, right=0.99, bottom=0.02, top=0.88, wspace=0.05, hspace=0.12)
    figure.text(0.012, 0.975, chosen.caption, fontsize=7.5, va="top")
    for number in range(3):
        figure.text(
            0.90 + 0.03 * number, 0.975, f"e{'₁₂₃'[number]}", fontsize=8, va="top", color=AXES[number], weight="bold"
        )
    return figure


def draw_surroundings(axes: Any, chosen: "Chosen", view: "AttentionView", all_views: Sequence["AttentionView"]) -> None:
    """Draw an atom's neighbours, opaque by their attention, and its frame in one block."""
    from analysis.crystal_drawing import Canvas

    positions, numbers, opacity, frame = surroundings(chosen, view, all_views)
    canvas = Canvas(axes, positions, numbers, RADIUS + 0.3, opacity)
    canvas.bonds()
    canvas.frame(frame, 0.62 * RADIUS)


def surroundings(
    chosen: "Chosen", view: "AttentionView", all_views: Sequence["AttentionView"]
) -> tuple[Any, Any, Any, Any]:
    """Return positions, numbers and opacity of the atoms around the chosen one, itself first, and its frame."""
    from analysis.crystal_drawing import opacity_of
    from analysis.materials import widest_head

    head = widest_head(all_views, chosen.atom)
    entries = view.entries(chosen.atom)
    near = view.distance[entries] <= RADIUS
    positions = view.vector[entries][near]
    numbers = view.crystal.atomic_numbers[view.neighbour[entries][near]]
    opacity = np.concatenate([[1.0], opacity_of(view.weights[entries, head][near][1:])])
    assert view.frames is not None, "the frame types shown here have frames"
    return positions, numbers, opacity, view.frames[chosen.atom, head]


def static_frames(geometry: "Geometry") -> dict[str, Any]:
    """Return the left column's titles and frames."""
    return {"structure": None, "PCA frame": geometry.pca_frame, "lattice frame": geometry.lattice_frame}


def page(chosen: "Chosen", views: dict[FrameName, list["AttentionView"]]) -> Any:
    """Return the turning figure: one scene, and a menu of frames and blocks."""
    from analysis.crystal_drawing import atoms_traces, frame_traces, scene

    traces: list[Any] = []
    groups: list[tuple[str, int]] = []
    for frame_name, found in views.items():
        for view in found:
            positions, numbers, opacity, frame = surroundings(chosen, view, found)
            shown = {"visible": not groups}
            group = [*atoms_traces(positions, numbers, opacity, **shown), *frame_traces(frame, 0.62 * RADIUS, **shown)]
            traces += group
            groups.append((f"{TITLES[frame_name]}, block {view.block + 1}", len(group)))
    starts = np.cumsum([0, *(size for _, size in groups)]).tolist()
    buttons = [
        {
            "label": label,
            "method": "update",
            "args": [{"visible": [start <= n < start + size for n in range(len(traces))]}],
        }
        for (label, size), start in zip(groups, starts, strict=False)
    ]
    menu = {"buttons": buttons, "x": 0.02, "xanchor": "left", "y": 0.98, "yanchor": "top"}
    return scene(chosen.caption, traces, distance=0.75, updatemenus=[menu])


ITEM = Item(
    "frames",
    "Frames in materials",
    "The chosen atom's neighbours, opaque by their attention, and its frame in every block; left: structure, "
    "PCA frame, lattice frame. e₁ orange-red, e₂ green, e₃ blue.",
    produce,
)


if __name__ == "__main__":
    sys.exit(main())
