"""Where the error is: by element on the periodic table, and by the number of atoms in the cell for every frame.

    python analysis/figures/error_maps.py --sweep ablation_sample

reads the trials' test predictions and the data set's crystals, and writes
analysis/output/<sweep>/error_by_element.{pdf,png,html} (frame with the lowest validation error) and
error_by_cell_size.{pdf,png}. An element's error is the mean absolute error of the test materials that contain it.
"""

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.comparison import Comparison, Row
from analysis.items import Context, Item, Product
from analysis.material_errors import MaterialErrors, material_errors
from crystalframer.pictures.error_drawing import FEWEST, enough, periodic_table, turning_table
from crystalframer.pictures.palette import COLOURS
from crystalframer.statistics import ElementError, errors_by_element, mean_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from crystalframer.data.dataset import CrystalDataset

BIN_EDGES = (1, 3, 5, 9, 17, 33, 65, 129, 10**9)
"""Cells of 1 and 2 atoms, 3 and 4, 5 to 8, …"""


def produce(context: Context) -> Product:
    """Draw the main comparison's errors."""
    dataset = context.dataset()
    comparison = context.main
    found = {row: errors for row in context.rows() if (errors := material_errors(row)) is not None}
    if not found:
        raise context.no_runs("no test predictions")
    best = min(found, key=lambda row: row.val_mae.mean)
    elements = element_errors(dataset, found[best])
    title = f"{comparison.heading}, {best.label}, test set"
    with context.style():
        pictures = [
            context.save(periodic_table(elements, title, comparison.unit), "error_by_element"),
            context.save(draw_sizes(comparison, dataset, found), "error_by_cell_size"),
        ]
    pages = [context.save_page(turning_table(elements, title, comparison.unit), "error_by_element")]
    if not (known := enough(elements)):
        return Product(pictures, pages)
    worst, easiest = (pick(known, key=known.__getitem__) for pick in (max, min))
    text = (
        f"{best.label}: largest error with {worst} ({known[worst]:.3f} {comparison.unit}), smallest with "
        f"{easiest} ({known[easiest]:.3f} {comparison.unit}), of elements in at least {FEWEST} test materials."
    )
    return Product(pictures, pages, text=text)


def element_errors(dataset: "CrystalDataset", errors: MaterialErrors) -> list[ElementError]:
    """Return the errors of the test materials with each element."""
    differences = errors.predictions - errors.target[:, None]
    return errors_by_element(dataset.atomic_numbers, dataset.offsets, rows_of(dataset, errors), differences)


def rows_of(dataset: "CrystalDataset", errors: MaterialErrors) -> Any:
    """Return the data set's rows of the test materials."""
    order = np.argsort(dataset.ids)
    return order[np.searchsorted(dataset.ids, np.array(errors.ids), sorter=order)]


def draw_sizes(comparison: Comparison, dataset: "CrystalDataset", found: Mapping[Row, MaterialErrors]) -> "Figure":
    """Return mean error against cell size, with intervals over materials."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 2.9), layout="constrained")
    axes = figure.subplots()
    names: dict[int, str] = {}
    for number, (row, errors) in enumerate(found.items()):
        sizes = dataset.num_atoms[rows_of(dataset, errors)]
        points = []
        for position, (low, high) in enumerate(itertools.pairwise(BIN_EDGES)):
            inside = (sizes >= low) & (sizes < high)
            if inside.sum() >= FEWEST:
                interval = mean_interval(errors.absolute[inside])
                points.append((position, interval.value, interval.low, interval.high))
                last = int(sizes[inside].max()) if high == BIN_EDGES[-1] else high - 1
                names[position] = f"{low}–{last}\n({inside.sum()})"
        place, mean, low_end, high_end = np.array(points).reshape(-1, 4).T
        shift = 0.09 * (number - (len(found) - 1) / 2)
        axes.errorbar(
            place + shift, mean, [mean - low_end, high_end - mean], color=COLOURS[row.frame], label=row.label,
            marker="o", markersize=3, linewidth=1.0, elinewidth=0.8, capsize=0,
        )  # fmt: skip
    axes.set_xticks(list(names), list(names.values()))
    axes.set_ylim(0, None)
    axes.set_xlabel("atoms in the cell (test materials)")
    axes.set_ylabel(f"test MAE ({comparison.unit})")
    axes.set_title(f"{comparison.heading}; 95 % interval over materials", loc="left")
    axes.legend(fontsize=6.5, frameon=False, ncols=2)
    return figure


ITEM = Item(
    "errors",
    "Error by element and by cell size",
    "Mean absolute error of the test materials that contain an element, and of those of a size.",
    "why",
    produce,
)


if __name__ == "__main__":
    raise SystemExit(ITEM.main())
