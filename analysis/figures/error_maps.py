"""Where the error is: by element on the periodic table, and by the number of atoms in the cell for every frame.

    python analysis/figures/error_maps.py --sweep ablation_sample

reads the trials' test predictions and the data set's crystals, and writes
analysis/output/<sweep>/error_by_element.{pdf,png,html} (frame with the lowest validation error) and
error_by_cell_size.{pdf,png}. An element's error is the mean absolute error of the test materials that contain it.
"""

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import items
from analysis.comparison import Comparison, Row
from analysis.items import Context, Item, Missing, Product
from analysis.material_errors import MaterialErrors, material_errors
from analysis.palette import COLOURS
from analysis.uncertainty import mean_interval
from crystalframer.command_line import reports_user_errors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from crystalframer.data.dataset import CrystalDataset

BIN_EDGES = (1, 3, 5, 9, 17, 33, 65, 129, 10**9)
"""Cells of 1 and 2 atoms, 3 and 4, 5 to 8, …"""
FEWEST = 3
"""Materials that an element, or a range of sizes, must have to be shown."""


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Draw both figures; return the exit code."""
    return items.run(produce, __doc__, argv)


def produce(context: Context) -> Product | Missing:
    """Draw the main comparison's errors."""
    dataset = context.dataset()
    if isinstance(dataset, Missing):
        return dataset
    comparison = context.main
    assert comparison is not None, "there is a data set, so there are trials"
    found = {row: errors for row in context.rows() if (errors := material_errors(row)) is not None}
    if not found:
        return context.no_runs("no test predictions")
    best = min(found, key=lambda row: row.val_mae.mean)
    by_element, counts = element_errors(dataset, found[best])
    with context.style():
        pictures = [
            context.save(draw_elements(comparison, best, by_element, counts), "error_by_element"),
            context.save(draw_sizes(comparison, dataset, found), "error_by_cell_size"),
        ]
    page = context.save_page(elements_page(comparison, best, by_element, counts), "error_by_element")
    if not by_element:
        return Product(pictures, [page])
    worst, easiest = (pick(by_element, key=by_element.__getitem__) for pick in (max, min))
    text = (
        f"{best.label}: largest error with {worst} ({by_element[worst]:.3f} {comparison.unit}), smallest with "
        f"{easiest} ({by_element[easiest]:.3f} {comparison.unit}), of elements in at least {FEWEST} test materials."
    )
    return Product(pictures, [page], text=text)


def element_errors(dataset: "CrystalDataset", errors: MaterialErrors) -> tuple[dict[str, float], dict[str, int]]:
    """Return the mean error of the materials with each element, and how many there are, of elements in enough."""
    from crystalframer.geometry.crystal import ELEMENTS

    rows = rows_of(dataset, errors)
    sums: dict[str, list[float]] = {}
    for row, error in zip(rows, errors.absolute, strict=True):
        for number in np.unique(dataset.atomic_numbers[dataset.offsets[row] : dataset.offsets[row + 1]]):
            sums.setdefault(ELEMENTS[number - 1], []).append(float(error))
    enough = {symbol: values for symbol, values in sums.items() if len(values) >= FEWEST}
    return (
        {symbol: float(np.mean(values)) for symbol, values in enough.items()},
        {symbol: len(values) for symbol, values in sums.items()},
    )


def rows_of(dataset: "CrystalDataset", errors: MaterialErrors) -> Any:
    """Return the data set's rows of the test materials."""
    order = np.argsort(dataset.ids)
    return order[np.searchsorted(dataset.ids, np.array(errors.ids), sorter=order)]


def place(symbol: str) -> tuple[int, int]:
    """Return an element's row and column of the periodic table, lanthanides and actinides below."""
    from pymatgen.core.periodic_table import Element

    element = Element(symbol)
    if element.is_lanthanoid or element.is_actinoid:
        return (9 if element.is_lanthanoid else 10), element.Z - (57 if element.is_lanthanoid else 89) + 3
    return int(element.row), int(element.group)


def draw_elements(
    comparison: Comparison, row: Row, by_element: Mapping[str, float], counts: Mapping[str, int]
) -> "Figure":
    """Return the periodic table."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from crystalframer.geometry.crystal import ELEMENTS

    figure = Figure(figsize=(7.0, 3.9))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.93))
    scale = Normalize(0, max(by_element.values(), default=1.0))
    colours = colormaps["YlOrRd"]
    for symbol in ELEMENTS[:103]:
        line, column = place(symbol)
        error = by_element.get(symbol)
        colour = colours(scale(error)) if error is not None else (0.95, 0.95, 0.95, 1.0)
        axes.add_patch(Rectangle((column, -line), 0.94, 0.94, facecolor=colour, edgecolor="none"))
        dark = error is not None and scale(error) > 0.65
        ink = "white" if dark else "black" if error is not None else "#B0B0B0"
        axes.text(column + 0.47, -line + 0.6, symbol, ha="center", va="center", fontsize=7, color=ink)
        if error is not None:
            axes.text(column + 0.47, -line + 0.22, f"{error:.2f}", ha="center", va="center", fontsize=5, color=ink)
    axes.set_xlim(0.9, 19.05)
    axes.set_ylim(-10.1, 0.1)
    axes.set_aspect("equal")
    axes.set_axis_off()
    bar = figure.add_axes((0.25, 0.80, 0.36, 0.025))
    figure.colorbar(ScalarMappable(scale, colours), cax=bar, orientation="horizontal")
    bar.set_title(f"mean absolute error of test materials with the element ({comparison.unit})", fontsize=7, pad=3)
    bar.tick_params(labelsize=6.5)
    title = f"{comparison.dataset}, {comparison.task.replace('_', ' ')}, {row.label}"
    figure.text(0.02, 0.965, f"{title}; grey: fewer than {FEWEST} test materials", fontsize=8, va="center")
    return figure


def elements_page(comparison: Comparison, row: Row, by_element: Mapping[str, float], counts: Mapping[str, int]) -> Any:
    """Return the same table for pointing at."""
    from plotly import graph_objects

    from crystalframer.geometry.crystal import ELEMENTS

    symbols = list(ELEMENTS[:103])
    places = [place(symbol) for symbol in symbols]
    values: list[list[float | None]] = [[None] * 18 for _ in range(10)]
    texts = [[""] * 18 for _ in range(10)]
    hovers = [[""] * 18 for _ in range(10)]
    for symbol, (line, column) in zip(symbols, places, strict=True):
        error = by_element.get(symbol)
        values[line - 1][column - 1] = None if error is None else round(error, 4)
        texts[line - 1][column - 1] = symbol
        shown = "" if error is None else f": {error:.4f} {comparison.unit}"
        hovers[line - 1][column - 1] = f"{symbol}{shown}, {counts.get(symbol, 0)} test materials"
    trace = graph_objects.Heatmap(
        z=values, text=texts, texttemplate="%{text}", hovertext=hovers, hoverinfo="text", colorscale="YlOrRd",
        zmin=0, xgap=2, ygap=2, colorbar={"title": f"MAE ({comparison.unit})"},
    )  # fmt: skip
    figure = graph_objects.Figure(trace)
    figure.update_layout(
        title=f"{comparison.dataset}, {comparison.task.replace('_', ' ')}, {row.label}: error by element",
        xaxis={"visible": False, "scaleanchor": "y"}, yaxis={"visible": False, "autorange": "reversed"},
        plot_bgcolor="white",
    )  # fmt: skip
    return figure


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
                interval = mean_interval(errors.absolute[inside], resamples=999)
                points.append((position, interval.mean, interval.low, interval.high))
                last = int(sizes[inside].max()) if high == BIN_EDGES[-1] else high - 1
                names[position] = f"{low}–{last}\n({inside.sum()})"
        place_, mean, low_end, high_end = np.array(points).T
        shift = 0.09 * (number - (len(found) - 1) / 2)
        axes.errorbar(
            place_ + shift, mean, [mean - low_end, high_end - mean], color=COLOURS[row.frame], label=row.label,
            marker="o", markersize=3, linewidth=1.0, elinewidth=0.8, capsize=0,
        )  # fmt: skip
    axes.set_xticks(list(names), list(names.values()))
    axes.set_ylim(0, None)
    axes.set_xlabel("atoms in the cell (test materials)")
    axes.set_ylabel(f"test MAE ({comparison.unit})")
    axes.set_title(
        f"{comparison.dataset}, {comparison.task.replace('_', ' ')}; 95 % interval over materials", loc="left"
    )
    axes.legend(fontsize=6.5, frameon=False, ncols=2)
    return figure


ITEM = Item(
    "errors",
    "Error by element and by cell size",
    "Mean absolute error of the test materials that contain an element, and of those of a size.",
    produce,
)


if __name__ == "__main__":
    sys.exit(main())
