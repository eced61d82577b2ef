"""Parity plots: predicted against true value of every test material, one panel per frame.

    python analysis/figures/parity_plot.py --sweep ablation_sample

reads the trials' test predictions and writes analysis/output/<sweep>/parity_<dataset>_<task>.{pdf,png}. A prediction is
the mean over seeds; the error in the panel is the mean over seeds of their errors, as in the tables.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from analysis import items
from analysis.comparison import Comparison
from analysis.items import Context, Item, Missing, Product
from analysis.material_errors import material_errors
from analysis.palette import COLOURS, QUIET
from crystalframer.command_line import reports_user_errors

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Draw one figure per data set and task; return the exit code."""
    return items.run(produce, __doc__, argv)


def produce(context: Context) -> Product | Missing:
    """Draw every data set and task whose predictions are there."""
    product = Product()
    for comparison in context.comparisons:
        if not any(material_errors(row) for row in comparison.rows):
            product.missing.append(context.no_runs(f"no test predictions for {comparison.task}"))
            continue
        with context.style():
            name = f"parity_{comparison.dataset}_{comparison.task}"
            product.pictures.append(context.save(draw(comparison), name))
    return product if product.pictures else context.no_runs("no test predictions")


def draw(comparison: Comparison) -> "Figure":
    """Return the figure of one task."""
    import numpy as np
    from matplotlib.figure import Figure

    found = [(row, errors) for row in comparison.rows if (errors := material_errors(row)) is not None]
    columns = min(3, len(found))
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(7.0 if columns > 1 else 3.4, 2.35 * lines + 0.3), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    every = np.concatenate([np.concatenate([errors.target, errors.predictions.mean(axis=1)]) for _, errors in found])
    margin = 0.04 * float(np.ptp(every)) or 1.0
    limits = (float(every.min()) - margin, float(every.max()) + margin)
    for axes, (row, errors) in zip(grid.flat, found, strict=False):
        axes.plot(limits, limits, color=QUIET, linewidth=0.8, linestyle="--", zorder=1)
        predicted = errors.predictions.mean(axis=1)
        axes.scatter(errors.target, predicted, s=5, color=COLOURS[row.frame], alpha=0.45, linewidths=0, rasterized=True)
        correlation = np.corrcoef(errors.target, predicted)[0, 1] ** 2 if len(predicted) > 1 else float("nan")
        label = f"MAE {errors.absolute.mean():.3f} {comparison.unit}\nR² {correlation:.3f}"
        axes.text(0.04, 0.96, label, transform=axes.transAxes, va="top", fontsize=7)
        axes.set_title(row.label, loc="left")
        axes.set_xlim(limits)
        axes.set_ylim(limits)
        axes.set_aspect("equal")
    for axes in list(grid.flat)[len(found) :]:
        axes.set_visible(False)
    quantity = comparison.task.replace("_", " ")
    figure.supxlabel(f"true {quantity} ({comparison.unit})", fontsize=8)
    figure.supylabel(f"predicted {quantity} ({comparison.unit})", fontsize=8)
    return figure


ITEM = Item(
    "parity",
    "Parity",
    "Predicted against true value of every test material; predictions averaged over seeds.",
    produce,
)


if __name__ == "__main__":
    sys.exit(main())
