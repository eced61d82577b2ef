"""Frames in the paper's materials: a chosen atom, its neighbours by their attention, and its frame in every block.

    python analysis/figures/frame_gallery.py --sweep ablation_sample

reads the checkpoints of the weighted PCA and max trials (lowest seed) and writes
analysis/output/<sweep>/frames_<material shown>.{pdf,png,html}. Left column: the structure, the cell's PCA frame, the
lattice frame. Rows: weighted PCA and max; columns: the blocks. Opacity is the attention weight of the head that looks
at the neighbours most; e1 orange-red, e2 green, e3 blue. A material that the data set lacks is replaced by the nearest
one: most elements shared, then the least difference in atomic fractions, then fewest atoms, then the lowest id.
"""

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.comparison import FRAME_LABELS
from analysis.items import Context, Item, Product
from crystalframer.config import FrameName

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.materials import Chosen
    from crystalframer.pictures.attention_drawing import Surroundings

FRAMES: tuple[FrameName, ...] = ("weighted_pca", "max")


def produce(context: Context) -> Product:
    """Draw the materials with every dynamic frame that has a checkpoint."""
    from analysis.materials import chosen_materials, surroundings

    models = context.models(FRAMES, "no checkpoint of a weighted PCA or max trial")
    materials = chosen_materials(context)
    product = Product(text=" · ".join(chosen.caption for chosen in materials))
    for chosen in materials:
        found = {frame: surroundings(trained.model, chosen) for frame, trained in models.items()}
        name = "frames_" + re.sub(r"\W", "", chosen.formula.translate(str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")))
        with context.style():
            product.pictures.append(context.save(draw(chosen, found), name))
        product.pages.append(context.save_page(page(chosen, found), name))
    lacking = [frame for frame in FRAMES if frame not in models]
    product.missing += [context.no_runs(f"no checkpoint of a {FRAME_LABELS[frame]} trial") for frame in lacking]
    return product


def draw(chosen: "Chosen", found: dict[FrameName, list["Surroundings"]]) -> "Figure":
    """Return the figure of one material, of what surrounds its atom in every block."""
    from matplotlib.figure import Figure

    from crystalframer.geometry.prepared import prepare_geometry
    from crystalframer.pictures.crystal_drawing import draw_cell, legend_of_axes, legend_of_elements

    blocks = max(map(len, found.values()))
    figure = Figure(figsize=(7.0, 3.9))
    parts: Any = figure.subfigures(1, 2, width_ratios=[1, blocks * 1.28])
    left, right = parts
    geometry = prepare_geometry(chosen.crystal, 3.0)
    static = {"structure": None, "PCA frame": geometry.pca_frame, "lattice frame": geometry.lattice_frame}
    for axes, (title, frame) in zip(left.subplots(3, 1), static.items(), strict=True):
        draw_cell(axes, chosen.crystal, frame)
        axes.set_title(title, fontsize=7.5, pad=1)
    panels = right.subplots(len(found), blocks, squeeze=False)
    for row, (name, shown) in zip(panels, found.items(), strict=True):
        for block, (axes, around) in enumerate(zip(row, shown, strict=True), 1):
            around.draw(axes)
            axes.set_title(f"{FRAME_LABELS[name]}, block {block}", fontsize=7.5, pad=1)
    left.subplots_adjust(left=0.04, right=0.96, bottom=0.02, top=0.84, hspace=0.22)
    right.subplots_adjust(left=0.02, right=0.99, bottom=0.02, top=0.84, wspace=0.05, hspace=0.12)
    figure.text(0.012, 0.97, chosen.caption, fontsize=7.5, va="center")
    legend_of_elements(figure, chosen.crystal.atomic_numbers, 0.012, 0.925)
    figure.text(0.99, 0.925, "opacity: attention weight", fontsize=7, va="center", ha="right")
    legend_of_axes(figure, 0.99, 0.97)
    return figure


def page(chosen: "Chosen", found: dict[FrameName, list["Surroundings"]]) -> Any:
    """Return the turning figure: one scene, and a menu of frames and blocks."""
    from crystalframer.pictures.crystal_drawing import legend_traces, scene

    groups = {
        f"{FRAME_LABELS[name]}, block {block}": around.traces()
        for name, shown in found.items()
        for block, around in enumerate(shown, 1)
    }
    owners = [label for label, traces in groups.items() for _ in traces]
    names = legend_traces(chosen.crystal.atomic_numbers)
    first = owners[0]
    traces = [trace for group in groups.values() for trace in group]
    for trace, owner in zip(traces, owners, strict=True):
        trace.visible = owner == first
    buttons = [
        {
            "label": label,
            "method": "update",
            "args": [{"visible": [*(np.array(owners) == label), *[True] * len(names)]}],
        }
        for label in groups
    ]
    menu = {"buttons": buttons, "x": 0.02, "xanchor": "left", "y": 0.98, "yanchor": "top"}
    return scene(chosen.caption, [*traces, *names], distance=0.75, updatemenus=[menu])


ITEM = Item(
    "frames",
    "Frames in materials",
    "The chosen atom's neighbours, opaque by their attention, and its frame in every block; left: structure, PCA "
    "frame, lattice frame. e₁ orange-red, e₂ green, e₃ blue.",
    "why",
    produce,
)


if __name__ == "__main__":
    raise SystemExit(ITEM.main())
