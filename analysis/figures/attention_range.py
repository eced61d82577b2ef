"""How far each head looks: the mean distance of the attended neighbours, by block and head, for every frame.

    python analysis/figures/attention_range.py --sweep ablation_sample

reads the trials' checkpoints (lowest seed of each frame), looks at the first crystals of the test set, and writes
analysis/output/<sweep>/attention_range.{pdf,png}. The distance is weighted by the attention, the atom itself left out.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.comparison import FRAME_LABELS
from analysis.items import Context, Item, Product
from crystalframer.config import FrameName
from crystalframer.pictures.panels import panels_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from crystalframer.geometry.crystal import Crystal
    from crystalframer.nn.model import CrystalFramer

NAME = "attention_range"
CRYSTALS = 40


def produce(context: Context) -> Product:
    """Draw every frame that has a checkpoint."""
    from analysis.materials import tested_crystals

    models = context.models()
    crystals = tested_crystals(context, CRYSTALS)
    ranges = {frame: mean_distance(trained.model, crystals) for frame, trained in models.items()}
    with context.style():
        picture = context.save(draw(ranges), NAME)
    every = np.concatenate([values.ravel() for values in ranges.values()])
    return Product(
        [picture],
        text=f"{len(crystals)} test crystals; heads look {every.min():.2f} to {every.max():.2f} Å far on average.",
    )


def mean_distance(model: "CrystalFramer", crystals: Sequence["Crystal"]) -> Any:
    """Return the attention-weighted mean distance of neighbours in Å, (blocks, heads)."""
    from analysis.materials import attention_states

    found = []
    for length, attended, _ in attention_states(model, crystals):
        distance = length.double()[:, None]
        weights = attended.double() * (distance > 0)
        found.append(((weights * distance).sum(0) / weights.sum(0)).numpy())
    return np.stack(found)


def draw(ranges: Mapping[FrameName, Any]) -> "Figure":
    """Return the figure: one map of blocks and heads per frame, all on one scale."""
    figure, panels = panels_of(len(ranges), height=1.55, margin=0.35)
    low = min(float(values.min()) for values in ranges.values())
    high = max(float(values.max()) for values in ranges.values())
    for axes, (frame, values) in zip(panels, ranges.items(), strict=True):
        image = axes.imshow(values, vmin=low, vmax=high, cmap="viridis", aspect="auto")
        for (block, head), value in np.ndenumerate(values):
            ink = "black" if (value - low) > 0.6 * (high - low) else "white"
            axes.text(head, block, f"{value:.1f}", ha="center", va="center", fontsize=5.5, color=ink)
        axes.set_title(FRAME_LABELS[frame], loc="left")
        axes.set_xticks(range(values.shape[1]), [str(n + 1) for n in range(values.shape[1])])
        axes.set_yticks(range(values.shape[0]), [str(n + 1) for n in range(values.shape[0])])
        axes.grid(visible=False)
    figure.supxlabel("head", fontsize=8)
    figure.supylabel("block", fontsize=8)
    figure.colorbar(image, ax=figure.axes, label="mean distance attended (Å)", shrink=0.9, pad=0.01)
    return figure


ITEM = Item(
    "range",
    "How far heads look",
    "Mean distance of the attended neighbours, weighted by attention, by block and head.",
    "why",
    produce,
)


if __name__ == "__main__":
    raise SystemExit(ITEM.main())
