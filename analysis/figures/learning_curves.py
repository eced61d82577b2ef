"""Learning curves per frame: training loss and validation error against the epoch, mean and range over seeds.

    python analysis/figures/learning_curves.py --sweep ablation_sample

reads runs/mlflow.db and writes analysis/output/<sweep>/learning_curves_<dataset>_<task>.{pdf,png}.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.comparison import VARIES, Comparison, Row
from analysis.items import Context, Item, Product
from crystalframer.pictures.palette import COLOURS, QUIET, SHADE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

LineStyle = str | tuple[int, tuple[float, ...]]

LINE_STYLES: tuple[LineStyle, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
"""Line styles of a frame's variants, where something else varies as well."""


def produce(context: Context) -> Product:
    """Draw every data set and task of the sweep."""
    return context.draw_each(draw, "learning_curves")


def draw(comparison: Comparison) -> "Figure":
    """Return the figure of one task: training loss on the left, validation MAE on the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 2.9), layout="constrained")
    loss_axes, mae_axes = figure.subplots(1, 2)
    rows = comparison.finished
    for axes, column in ((loss_axes, "train_loss"), (mae_axes, "val_mae")):
        axes.set_yscale("log")
        axes.set_xlabel("epoch")
        for row in rows:
            _curve(axes, row, column, line_style(row, rows))
        axes.set_xlim(0, max(trial.config.train.epochs for trial in comparison.trials))
    _baseline(mae_axes, comparison)
    _shade_averaging(mae_axes, comparison)
    _plain_ticks(loss_axes)
    _plain_ticks(mae_axes)
    _label_ends(mae_axes, rows)
    loss_axes.set_ylabel("training loss (standardised MAE), log axis")
    mae_axes.set_ylabel(f"validation MAE ({comparison.unit}), log axis")
    loss_axes.set_title(comparison.heading, loc="left")
    counts = sorted({len(row.trials) for row in rows})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    mae_axes.set_title(f"mean and range over {seeds} seed{'' if counts == [1] else 's'}", loc="left")
    return figure


def over_seeds(row: Row, column: str) -> pd.DataFrame:
    """Return mean, min and max of a history column over the row's seeds, by epoch."""
    table = pd.concat([trial.history[column] for trial in row.trials], axis="columns")
    return pd.DataFrame({name: table.agg(name, axis="columns") for name in ("mean", "min", "max")})


def spread_out(positions: Sequence[float], gap: float, low: float) -> NDArray[np.float64]:
    """Return positions moved apart as little as needed: neighbours at least `gap` apart, none below `low`, in order."""
    order = np.argsort(positions, kind="stable")
    blocks: list[list[float]] = []
    for position in np.asarray(positions, dtype=float)[order]:
        # a block of labels that touch: its size, and the mean of where its first label would like to be
        blocks.append([1.0, float(position)])
        while len(blocks) > 1 and blocks[-2][1] + blocks[-2][0] * gap > blocks[-1][1]:
            size, start = blocks.pop()
            total = blocks[-1][0] + size
            blocks[-1][1] = (blocks[-1][0] * blocks[-1][1] + size * (start - blocks[-1][0] * gap)) / total
            blocks[-1][0] = total
    placed = [start + gap * n for size, start in blocks for n in range(int(size))]
    result = np.empty(len(placed))
    result[order] = np.maximum(placed, low + gap * np.arange(len(placed)))
    return result


def plain_log_ticks(axis: "Axis", subs: Sequence[float]) -> None:
    """Label a logarithmic axis with plain numbers, at these multiples of each power of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def line_style(row: Row, rows: Sequence[Row]) -> LineStyle:
    """Return solid for a frame's first variant, other styles for the next ones."""
    variants = [other.variant for other in rows if other.frame == row.frame]
    return LINE_STYLES[variants.index(row.variant) % len(LINE_STYLES)]


def _curve(axes: "Axes", row: Row, column: str, style: LineStyle) -> None:
    curve = over_seeds(row, column)
    epochs, colour = curve.index.to_numpy(), COLOURS[row.frame]
    axes.fill_between(epochs, curve["min"].to_numpy(), curve["max"].to_numpy(), color=colour, alpha=0.15, linewidth=0)
    axes.plot(epochs, curve["mean"].to_numpy(), color=colour, linestyle=style)


def _shade_averaging(axes: "Axes", comparison: Comparison) -> None:
    """Shade the last epochs, which were validated with averaged weights, where all trials share them."""
    epochs, averaged = comparison.common("train.epochs"), comparison.common("train.average_epochs")
    if VARIES in (epochs, averaged) or averaged == 0:
        return
    axes.axvspan(epochs - averaged + 0.5, epochs, color=SHADE, zorder=0)
    axes.annotate(
        "averaged\nweights",
        (epochs, comparison.baseline_mae),
        xytext=(-2, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=6.5,
        color=QUIET,
    )


def _baseline(axes: "Axes", comparison: Comparison) -> None:
    axes.axhline(comparison.baseline_mae, color=QUIET, linestyle="--", linewidth=0.9)
    axes.annotate(
        "predicting the training mean (test set)",
        (0.02, comparison.baseline_mae),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        fontsize=6.5,
        color=QUIET,
    )


def _plain_ticks(axes: "Axes") -> None:
    """Label whole epochs, and the logarithmic axis with plain numbers, more of them where it spans under a decade."""
    from matplotlib.ticker import MaxNLocator

    low, high = axes.get_ylim()
    subs = (1.0, 2.0, 5.0) if high / low > 10 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=True))
    plain_log_ticks(axes.yaxis, subs)


def _label_ends(axes: "Axes", rows: Sequence[Row]) -> None:
    """Write each row's name to the right of its curve's end, moved apart where ends are close."""
    low, high = np.log(axes.get_ylim())
    ends = [float(over_seeds(row, "val_mae")["mean"].iloc[-1]) for row in rows]
    heights = [(np.log(end) - low) / (high - low) for end in ends]
    for row, height, place in zip(rows, heights, spread_out(heights, gap=0.075, low=0.03), strict=True):
        colour = COLOURS[row.frame]
        axes.plot([1.0, 1.04], [height, place], transform=axes.transAxes, color=colour, linewidth=0.6, clip_on=False)
        axes.text(1.05, place, row.label, transform=axes.transAxes, color=colour, va="center", fontsize=7)


ITEM = Item(
    "learning_curves",
    "Learning curves",
    "Training loss and validation error against the epoch: mean and range over seeds.",
    "how sure",
    produce,
)


if __name__ == "__main__":
    raise SystemExit(ITEM.main())
