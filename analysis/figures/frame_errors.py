"""The answer in one picture: the test error of every frame, a dot a seed, with what other materials would do to it.

    python analysis/figures/frame_errors.py --sweep ablation_sample

reads runs/mlflow.db and the trials' test predictions, and writes
analysis/output/<sweep>/frame_errors_<dataset>_<task>.{pdf,png}.
"""

from typing import TYPE_CHECKING

from analysis.comparison import Comparison
from analysis.items import Context, Item, Product
from analysis.material_errors import material_errors
from crystalframer.pictures.palette import COLOURS, QUIET

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def produce(context: Context) -> Product:
    """Draw every data set and task of the sweep."""
    return context.draw_each(draw, "frame_errors")


def draw(comparison: Comparison) -> "Figure":
    """Return the figure of one task: a line for each row, the table's order from above."""
    from matplotlib.figure import Figure

    rows = comparison.finished
    figure = Figure(figsize=(5.0, 0.28 * len(rows) + 0.85), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        colour, errors = COLOURS[row.frame], material_errors(row)
        if errors is not None:
            ends = [errors.interval.low, errors.interval.high]
            axes.plot(ends, [place, place], color=colour, linewidth=5, alpha=0.25)
        seeds = [trial.test_mae for trial in row.trials]
        axes.plot(seeds, [place] * len(seeds), color=colour, linestyle="", marker="o", markersize=3.5, alpha=0.6)
        axes.plot([row.test_mae.mean] * 2, [place - 0.32, place + 0.32], color=colour, linewidth=2)
    axes.set_yticks(range(len(rows)), [row.label for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(visible=False, axis="y")
    words = f"test MAE ({comparison.unit}); predicting the training mean: {comparison.baseline_mae:.3f}"
    axes.set_xlabel(words, loc="right")  # so that it has room where long names leave the axes little
    axes.set_title("line: mean, dot: seed, band: 95 % over materials", loc="right", fontsize=6.5, color=QUIET)
    return figure


ITEM = Item(
    "frame_errors",
    "Test error of every frame",
    "Line: mean over seeds; dots: seeds; band: 95 % interval over test materials.",
    "answer",
    produce,
)


if __name__ == "__main__":
    raise SystemExit(ITEM.main())
