"""A figure of several panels of one kind."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def panels_of(count: int, *, height: float, margin: float) -> tuple["Figure", list["Axes"]]:
    """Return a figure and its panels, up to three in a line, which share their axes.

    Args:
        count: of panels, at least one.
        height: of a line of panels, in inches.
        margin: for what stands around them, in inches.
    """
    from matplotlib.figure import Figure

    columns = min(3, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(7.0 if columns > 1 else 3.4, height * lines + margin), layout="constrained")
    panels = list(figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat)
    for unused in panels[count:]:
        unused.set_visible(False)
    return figure, panels[:count]
