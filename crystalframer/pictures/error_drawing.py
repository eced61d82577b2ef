"""Where the error is: by element on the periodic table, and value by value as a parity plot."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalframer.geometry.crystal import ELEMENTS
from crystalframer.pictures.palette import ERROR, FONT, QUIET, SHADE
from crystalframer.statistics import ElementError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEWEST = 3
"""Crystals that an element must have for its error to be shown."""
SHOWN = ELEMENTS[:103]
"""Up to lawrencium."""


def place(symbol: str) -> tuple[int, int]:
    """Return an element's row and column of the periodic table, lanthanides and actinides below."""
    from pymatgen.core.periodic_table import Element

    element = Element(symbol)
    if element.is_lanthanoid or element.is_actinoid:
        return (9 if element.is_lanthanoid else 10), element.Z - (57 if element.is_lanthanoid else 89) + 3
    return int(element.row), int(element.group)


def enough(errors: Sequence[ElementError]) -> dict[str, float]:
    """Return the mean absolute errors of the elements in enough crystals."""
    return {ELEMENTS[error.number - 1]: error.mae for error in errors if error.crystals >= FEWEST}


def periodic_table(errors: Sequence[ElementError], title: str, unit: str) -> "Figure":
    """Return the mean absolute error by element."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    known = enough(errors)
    figure = Figure(figsize=(7.0, 3.9))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.93))
    scale, colours = Normalize(0, max(known.values(), default=1.0)), colormaps[ERROR]
    for symbol in SHOWN:
        line, column = place(symbol)
        error = known.get(symbol)
        colour = SHADE if error is None else colours(scale(error))
        axes.add_patch(Rectangle((column, -line), 0.94, 0.94, facecolor=colour, edgecolor="none"))
        ink = "#B0B0B0" if error is None else "white" if scale(error) > 0.65 else "black"
        axes.text(column + 0.47, -line + 0.6, symbol, ha="center", va="center", fontsize=7, color=ink)
        if error is not None:
            axes.text(column + 0.47, -line + 0.22, f"{error:.2f}", ha="center", va="center", fontsize=5, color=ink)
    axes.set(xlim=(0.9, 19.05), ylim=(-10.1, 0.1), aspect="equal")
    axes.set_axis_off()
    bar = figure.add_axes((0.25, 0.80, 0.36, 0.025))
    figure.colorbar(ScalarMappable(scale, colours), cax=bar, orientation="horizontal")
    bar.set_title(f"mean absolute error of crystals with the element ({unit})", fontsize=7, pad=3)
    bar.tick_params(labelsize=6.5)
    figure.text(0.02, 0.965, f"{title}; grey: fewer than {FEWEST} crystals", fontsize=8, va="center")
    return figure


def turning_table(errors: Sequence[ElementError], title: str, unit: str) -> Any:
    """Return the same table for pointing at, as a plotly figure in the same colours."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex
    from plotly import graph_objects

    known, crystals = enough(errors), {ELEMENTS[error.number - 1]: error.crystals for error in errors}
    values: list[list[float | None]] = [[None] * 18 for _ in range(10)]
    texts, hovers = ([[""] * 18 for _ in range(10)] for _ in range(2))
    for symbol in SHOWN:
        line, column = place(symbol)
        error = known.get(symbol)
        values[line - 1][column - 1] = None if error is None else round(error, 4)
        texts[line - 1][column - 1] = symbol
        shown = "" if error is None else f": {error:.4f} {unit}"
        hovers[line - 1][column - 1] = f"{symbol}{shown}, {crystals.get(symbol, 0)} crystals"
    scale = [[level, to_hex(colormaps[ERROR](level))] for level in np.linspace(0, 1, 9).tolist()]
    trace = graph_objects.Heatmap(
        z=values, text=texts, texttemplate="%{text}", hovertext=hovers, hoverinfo="text", colorscale=scale,
        zmin=0, zmax=max(known.values(), default=1.0), xgap=2, ygap=2, colorbar={"title": f"MAE ({unit})"},
    )  # fmt: skip
    figure = graph_objects.Figure(trace)
    figure.update_layout(
        title=f"{title}: error by element", font={"family": f"{FONT}, Verdana, sans-serif"}, plot_bgcolor="white",
        xaxis={"visible": False, "scaleanchor": "y"}, yaxis={"visible": False, "autorange": "reversed"},
    )  # fmt: skip
    return figure


def limits_of(*values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the ends of an axis that holds all values."""
    every = np.concatenate([entry.ravel() for entry in values])
    margin = 0.04 * float(np.ptp(every)) or 1.0
    return float(every.min()) - margin, float(every.max()) + margin


def draw_parity(
    axes: "Axes",
    targets: NDArray[np.float64],
    predictions: NDArray[np.float64],
    limits: tuple[float, float],
    colour: str,
    label: str,
) -> None:
    """Draw predicted against true values, (S,) each, into an empty panel, and what is said about them."""
    axes.plot(limits, limits, color=QUIET, linewidth=0.8, linestyle="--", zorder=1)
    axes.scatter(targets, predictions, s=5, color=colour, alpha=0.45, linewidths=0, rasterized=True)
    axes.text(0.04, 0.96, label, transform=axes.transAxes, va="top", fontsize=7)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
