"""How frames settle during the training: weighted PCA and max frames at successive snapshots, older ones fainter.

    python analysis/figures/frame_evolution.py --sweep ablation_sample

reads the snapshots that the sweep kept (``record: {snapshots: N}`` in its file; lowest seed that has some) and writes
analysis/output/<sweep>/frame_evolution.{pdf,png}. The paper shows every 200 epochs from 100 to 2000; here it is the
evenly spaced epochs that the sweep asked for, whatever its length. Below: the mean angle by which frames turned from
one snapshot to the next, over all atoms and heads of the first crystals of the test set, per block.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.comparison import FRAME_LABELS
from analysis.figures.frame_gallery import FRAMES
from analysis.items import Context, Item, Product, load
from analysis.results import MissingError
from crystalframer.config import FrameName

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.materials import Chosen
    from crystalframer.geometry.crystal import Crystal

NAME = "frame_evolution"
CRYSTALS = 12
"""Crystals of the test set whose frames' turns are averaged."""
BLOCK_COLOURS = ("#9ECAE1", "#6BAED6", "#3182BD", "#08519C")


@dataclass(frozen=True, eq=False)
class Evolution:
    """The frames of one training at its snapshots."""

    epochs: tuple[int, ...]
    frames: Any
    """(snapshots, blocks, 3, 3) of the chosen atom and head."""
    travelled: Any
    """(snapshots - 1, blocks) mean angle in degrees from each snapshot to the next."""


def produce(context: Context) -> Product:
    """Draw the frames that have at least two snapshots."""
    from analysis.materials import chosen_materials, tested_crystals

    paths = {frame: snapshots(context, frame) for frame in FRAMES}
    kept = {frame: found for frame, found in paths.items() if len(found) > 1}
    if not kept:
        raise MissingError(
            f"{context.sweep}: no snapshots of a weighted PCA or max training",
            f"{context.command} --set record.snapshots=7 --runs runs_with_snapshots",
        )
    materials, crystals = chosen_materials(context), tested_crystals(context, CRYSTALS)
    evolutions = {frame: evolution(found, materials[-1], crystals) for frame, found in kept.items()}
    with context.style():
        picture = context.save(draw(materials[-1], evolutions), NAME)
    last = " · ".join(
        f"{FRAME_LABELS[frame]}: {found.travelled[-1].mean():.0f}° from epoch {found.epochs[-2]} to {found.epochs[-1]}"
        for frame, found in evolutions.items()
    )
    return Product([picture], text=f"{materials[-1].caption}. Mean turn over blocks: {last}.")


def snapshots(context: Context, frame: FrameName) -> list[Path]:
    """Return the snapshots of a frame's trial with the lowest seed that kept some."""
    return next((found for trial in context.trials(frame) if (found := trial.files.snapshots())), [])


def evolution(paths: Sequence[Path], chosen: "Chosen", crystals: Sequence["Crystal"]) -> Evolution:
    """Read the snapshots of one training."""
    from analysis.materials import widest_head
    from crystalframer.prediction.explain import attention_of

    models = [load(path).model for path in paths]
    blocks = range(models[0].config.num_blocks)
    views = [[attention_of(model, chosen.crystal, block) for block in blocks] for model in models]
    head = widest_head(views[-1], chosen.atom)
    own = [[view.frames[chosen.atom, head] for view in found if view.frames is not None] for found in views]
    every = [all_frames(model, crystals) for model in models]
    turned = [angle(before, after).mean(axis=(1, 2)) for before, after in itertools.pairwise(every)]
    epochs = tuple(int(path.stem.partition("_")[2]) for path in paths)
    return Evolution(epochs, np.array(own), np.array(turned))


def all_frames(model: Any, crystals: Sequence["Crystal"]) -> Any:
    """Return the frames of every block, (blocks, N, H, 3, 3), over the atoms of some crystals."""
    from analysis.materials import attention_states

    found = [frames for _, _, frames in attention_states(model, crystals)]
    return np.stack([frames.double().numpy() for frames in found if frames is not None])


def angle(first: Any, second: Any) -> Any:
    """Return the angle in degrees of the rotation from one frame (..., 3, 3) to another, 0 to 180."""
    trace = np.einsum("...ix,...ix->...", first, second)
    return np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))


def draw(chosen: "Chosen", evolutions: Mapping[FrameName, Evolution]) -> "Figure":
    """Return the figure: a row of panels per frame type, one a block, and the turns beside them."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from crystalframer.pictures.crystal_drawing import Canvas, legend_of_axes

    blocks = max(found.frames.shape[1] for found in evolutions.values())
    figure = Figure(figsize=(7.0, 1.75 * len(evolutions) + 0.35), layout="constrained")
    grid = figure.subplots(len(evolutions), blocks + 1, squeeze=False, width_ratios=[*[1.0] * blocks, 1.75])
    number = chosen.crystal.atomic_numbers[chosen.atom]
    for row, (frame, found) in zip(grid, evolutions.items(), strict=True):
        for block, panel in enumerate(row[:-1]):
            canvas = Canvas(panel, [[0.0, 0, 0]], [number], 1.75)
            for age, axes in zip(np.linspace(0.12, 1.0, len(found.epochs)), found.frames[:, block], strict=True):
                canvas.frame(axes, 1.4, opacity=float(age))
            panel.set_title(f"block {block + 1}", fontsize=7.5, pad=2)
        row[0].text(-0.12, 0.5, FRAME_LABELS[frame], rotation=90, va="center", ha="right", transform=row[0].transAxes)
        turns = row[-1]
        for block in range(found.travelled.shape[1]):
            colour = BLOCK_COLOURS[block % len(BLOCK_COLOURS)]
            turned = found.travelled[:, block]
            turns.plot(found.epochs[1:], turned, color=colour, marker="o", markersize=2.5, label=f"block {block + 1}")
        turns.set_xlabel("epoch of the snapshot")
        turns.set_ylabel("mean turn since\nthe one before (°)")
        turns.xaxis.set_major_locator(MaxNLocator(integer=True))
        turns.legend(fontsize=6, frameon=False, ncols=2, loc="upper right")
        turns.set_ylim(0, 1.35 * float(found.travelled.max()))
    epochs = next(iter(evolutions.values())).epochs
    figure.suptitle(
        f"{chosen.name}, frames of one atom and head at epochs {', '.join(map(str, epochs))}: older ones fainter",
        fontsize=7.5, x=0.01, ha="left",
    )  # fmt: skip
    legend_of_axes(figure, 0.99, 0.97)
    return figure


ITEM = Item(
    "evolution",
    "How frames settle",
    "Frames at successive snapshots of the training, older ones fainter, and the mean angle by which frames "
    "turned between snapshots.",
    "why",
    produce,
)


if __name__ == "__main__":
    raise SystemExit(ITEM.main())
