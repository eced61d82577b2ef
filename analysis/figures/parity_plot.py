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
from analysis.material_errors import rows_with_errors
from crystalframer.pictures.error_drawing import draw_parity, limits_of
from crystalframer.pictures.palette import COLOURS
from crystalframer.pictures.panels import panels_of
from crystalframer.statistics import determination, mean_absolute

if TYPE_CHECKING:
    from matplotlib.figure import Figure


OUTLIERS = 3
"""Materials that are named."""


def produce(context: Context) -> Product:
    """Draw every data set and task whose predictions are there."""
    product = Product()
    for comparison in context.comparisons:
        if not rows_with_errors(comparison):
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
    found = rows_with_errors(comparison).values()
    off = pd.concat([pd.Series(errors.absolute, index=errors.ids) for errors in found], axis="columns").mean(axis=1)
    named = [f"{name} ({error:.2f} {comparison.unit})" for name, error in off.nlargest(OUTLIERS).items()]
    return f"{comparison.title}: farthest off, averaged over frames and seeds: {', '.join(named)}. "


def draw(comparison: Comparison) -> "Figure":
    """Return the figure of one task."""
    found = rows_with_errors(comparison)
    figure, panels = panels_of(len(found), height=2.35, margin=0.3)
    limits = limits_of(*(values for errors in found.values() for values in (errors.target, errors.predictions)))
    for axes, (row, errors) in zip(panels, found.items(), strict=True):
        targets = np.repeat(errors.target, errors.predictions.shape[1])
        shown = targets, errors.predictions.ravel()
        mae, r2 = mean_absolute(*shown, axis=-1), determination(*shown, axis=-1)
        draw_parity(axes, *shown, limits, COLOURS[row.frame], f"MAE {mae:.4f} {comparison.unit}\nR² {r2:.3f}")
        axes.set_title(row.label, loc="left")
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
