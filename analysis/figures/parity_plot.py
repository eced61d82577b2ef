"""Parity plots: predicted against true value of every test material, one panel per frame.

    python analysis/figures/parity_plot.py --sweep ablation_sample

reads the trials' test predictions and writes analysis/output/<sweep>/parity_<dataset>_<task>.{pdf,png}. Every dot is
one material and one seed; error and R² (coefficient of determination) are those of all dots, the error that of the
tables.
"""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.comparison import Comparison
from analysis.items import Context, Item, Product
from analysis.material_errors import material_errors
from crystalframer.pictures.error_drawing import draw_parity, limits_of
from crystalframer.pictures.palette import COLOURS
from crystalframer.statistics import determination, mean_absolute

if TYPE_CHECKING:
    from matplotlib.figure import Figure


OUTLIERS = 3
"""Materials that are named."""


def produce(context: Context) -> Product:
    """Draw every data set and task whose predictions are there."""
    product = Product()
    for comparison in context.comparisons:
        if not any(material_errors(row) for row in comparison.rows):
            product.missing.append(context.no_runs(f"no test predictions for {comparison.task}"))
            continue
        with context.style():
            product.pictures.append(context.save(draw(comparison), f"parity_{comparison.file_name}"))
            product.text += outliers(comparison)
    if not product.pictures:
        raise context.no_runs("no test predictions")
    return product


def outliers(comparison: Comparison) -> str:
    """Name the materials that are farthest off, averaged over frames and seeds."""
    found = [errors for row in comparison.rows if (errors := material_errors(row)) is not None]
    off = pd.concat([pd.Series(errors.absolute, index=errors.ids) for errors in found], axis="columns").mean(axis=1)
    named = [f"{name} ({error:.2f} {comparison.unit})" for name, error in off.nlargest(OUTLIERS).items()]
    return f"{comparison.title}: farthest off, averaged over frames and seeds: {', '.join(named)}. "


def draw(comparison: Comparison) -> "Figure":
    """Return the figure of one task."""
    from matplotlib.figure import Figure

    found = [(row, errors) for row in comparison.rows if (errors := material_errors(row)) is not None]
    columns = min(3, len(found))
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(7.0 if columns > 1 else 3.4, 2.35 * lines + 0.3), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    limits = limits_of(*(values for _, errors in found for values in (errors.target, errors.predictions)))
    for axes, (row, errors) in zip(grid.flat, found, strict=False):
        targets = np.repeat(errors.target, errors.predictions.shape[1])
        shown = targets, errors.predictions.ravel()
        mae, r2 = mean_absolute(*shown, axis=-1), determination(*shown, axis=-1)
        draw_parity(axes, *shown, limits, COLOURS[row.frame], f"MAE {mae:.4f} {comparison.unit}\nR² {r2:.3f}")
        axes.set_title(row.label, loc="left")
    for axes in list(grid.flat)[len(found) :]:
        axes.set_visible(False)
    figure.supxlabel(f"true {comparison.quantity} ({comparison.unit})", fontsize=8)
    figure.supylabel(f"predicted {comparison.quantity} ({comparison.unit})", fontsize=8)
    return figure


ITEM = Item(
    "parity",
    "Parity",
    "Predicted against true value of every test material, a dot for each seed; MAE and R² are those of the dots.",
    "how sure",
    produce,
)


if __name__ == "__main__":
    raise SystemExit(ITEM.main())
