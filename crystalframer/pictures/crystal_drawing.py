"""Atoms, cells and frames: flat by ASE and matplotlib, turning by plotly."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalframer.geometry.crystal import ELEMENTS, Crystal
from crystalframer.pictures.palette import AXES, FONT, QUIET, VIEW

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

RADIUS = 0.42
"""Of an atom, in units of its covalent radius."""
BOND = 1.2
"""Atoms within this many times the sum of their covalent radii are joined by a line."""
OPACITY_LEVELS = 6
"""Steps of opacity in turning figures, where one trace has one opacity."""
DISTANCE = 2.0
"""Of the camera of turning figures, in units of what is shown."""


class Canvas:
    """A square drawing of atoms in one panel, its centre at the origin.

    Args:
        axes: an empty panel.
        positions: (n, 3) in Å.
        numbers: (n,) atomic numbers.
        half_width: Å from the centre to the edge.
        opacity: (n,) 0 to 1, or None for opaque atoms.
    """

    def __init__(
        self,
        axes: "Axes",
        positions: ArrayLike,
        numbers: ArrayLike,
        half_width: float,
        opacity: ArrayLike | None = None,
    ) -> None:
        from ase import Atoms
        from ase.visualize.plot import Matplotlib
        from matplotlib.colors import to_rgba

        self.axes = axes
        places = np.asarray(positions, dtype=float).reshape(-1, 3)
        alpha = np.ones(len(places)) if opacity is None else np.asarray(opacity, dtype=float)
        colours = np.concatenate([colours_of(numbers), alpha[:, None]], axis=1)
        writer: Any = Matplotlib  # ASE types it in part
        self._writer = writer(
            Atoms(np.asarray(numbers), positions=places),
            axes,
            rotation=VIEW,
            radii=RADIUS,
            colors=colours,
            show_unit_cell=0,
            bbox=(-half_width, -half_width, half_width, half_width),
        )
        self._writer.write()
        for patch in axes.patches:
            patch.set_edgecolor((0.2, 0.2, 0.2, to_rgba(patch.get_facecolor())[3]))
            patch.set_linewidth(0.5)
        axes.set_axis_off()
        axes.set_aspect("equal")
        self._positions, self._numbers, self._opacity = places, np.asarray(numbers), alpha

    def project(self, points: ArrayLike) -> Array:
        """Return points (n, 3) in Å as places in the drawing with their height above the page, (n, 3)."""
        return np.asarray(self._writer.to_image_plane_positions(np.asarray(points, dtype=float).reshape(-1, 3)))

    def bonds(self) -> None:
        """Draw lines between atoms that are hardly farther apart than their covalent radii add up to."""
        for first, second in bonded_pairs(self._positions, self._numbers):
            ends = self.project(self._positions[[first, second]])[:, :2]
            strength = float(min(self._opacity[first], self._opacity[second]))
            self.axes.plot(*ends.T, color=QUIET, linewidth=1.1, alpha=strength, zorder=0.8, solid_capstyle="butt")

    def cell(self, lattice: Array, origin: ArrayLike = (0, 0, 0), colour: str = QUIET, width: float = 0.7) -> None:
        """Draw the edges of a cell, rows a, b, c in Å, behind the atoms."""
        for edge in zip(*map(self.project, cell_edges(lattice, origin)), strict=True):
            self.axes.plot(*np.stack(edge)[:, :2].T, color=colour, linewidth=width, zorder=0.5)

    def frame(self, frame: ArrayLike, length: float, *, opacity: float = 1.0) -> None:
        """Draw the axes e1, e2, e3 as arrows from the origin, those nearest to the viewer on top."""
        start = self.project((0, 0, 0))[0]
        tips = self.project(length * np.asarray(frame, dtype=float))
        for number in np.argsort(tips[:, 2]):
            arrow = {
                "arrowstyle": "-|>,head_width=0.18,head_length=0.32", "color": AXES[number], "alpha": opacity,
                "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0,
            }  # fmt: skip
            tip, tail = ((float(x), float(y)) for x, y, _ in (tips[number], start))
            self.axes.annotate("", tip, tail, arrowprops=arrow, zorder=5 + 0.1 * number)


def legend_of_axes(figure: "Figure", x: float, y: float) -> None:
    """Name a frame's axes in their colours at a place of the figure, 0 to 1: its right edge and the text's middle."""
    for number, colour in enumerate(AXES):
        place = x - 0.03 * (2 - number)
        figure.text(place, y, f"e{'₁₂₃'[number]}", fontsize=8, color=colour, weight="bold", ha="right", va="center")


def legend_of_elements(figure: "Figure", numbers: ArrayLike, x: float, y: float) -> None:
    """Name the elements by a dot in the atoms' colour, from a place of the figure to the right."""
    from matplotlib.lines import Line2D

    found = np.unique(numbers)
    look: Any = {"linestyle": "", "marker": "o", "markeredgecolor": "#333333", "markeredgewidth": 0.5}
    dots = [
        Line2D([], [], markersize=8 * radius, markerfacecolor=colour, label=ELEMENTS[number - 1], **look)
        for number, colour, radius in zip(found, colours_of(found), radii_of(found), strict=True)
    ]
    figure.legend(
        handles=dots, loc="center left", bbox_to_anchor=(x, y), ncols=len(dots), frameon=False, fontsize=7.5,
        handletextpad=0.1, columnspacing=0.8, borderpad=0, borderaxespad=0,
    )  # fmt: skip


def colours_of(numbers: ArrayLike) -> Array:
    """Return the elements' usual (Jmol) colours, (n, 3)."""
    from ase.data.colors import jmol_colors

    return np.asarray(jmol_colors[np.asarray(numbers)], dtype=float)


def radii_of(numbers: ArrayLike) -> Array:
    """Return covalent radii in Å, (n,)."""
    from ase.data import covalent_radii

    return np.asarray(covalent_radii[np.asarray(numbers)], dtype=float)


def cell_edges(lattice: Array, origin: ArrayLike = (0, 0, 0)) -> tuple[Array, Array]:
    """Return the starts and ends of a cell's twelve edges, (12, 3) each."""
    corners = np.array(list(itertools.product((0, 1), repeat=3)), dtype=float)
    starts, ends = np.nonzero(np.triu(np.abs(corners[:, None] - corners).sum(axis=2) == 1))
    places = corners @ lattice + np.asarray(origin, dtype=float)
    return places[starts], places[ends]


def bonded_pairs(positions: Array, numbers: ArrayLike) -> NDArray[np.int64]:
    """Return the pairs of atoms, (pairs, 2), that are hardly farther apart than their covalent radii add up to."""
    radii = radii_of(numbers)
    distance = np.linalg.norm(positions[:, None] - positions, axis=-1)
    return np.argwhere(np.triu(distance < BOND * (radii[:, None] + radii), k=1))


def half_width(lattice: Array) -> float:
    """Return half the width of a drawing that holds a cell about its middle, however it is turned, in Å."""
    corners = np.concatenate(cell_edges(lattice)) - lattice.sum(axis=0) / 2
    return 1.04 * float(np.linalg.norm(corners, axis=1).max())


def full_cell(crystal: Crystal) -> tuple[Array, NDArray[np.int64]]:
    """Return positions and numbers of a cell's atoms, those on its faces, edges and corners repeated."""
    wrapped = crystal.frac_coords - np.floor(crystal.frac_coords)
    wrapped[np.abs(wrapped - 1) < 1e-4] = 0.0
    images = [
        (row + shift, number)
        for row, number in zip(wrapped, crystal.atomic_numbers, strict=True)
        for shift in itertools.product((0, 1), repeat=3)
        if all(not step or value < 1e-4 for step, value in zip(shift, row, strict=True))
    ]
    return np.array([place for place, _ in images]) @ crystal.lattice, np.array([number for _, number in images])


def draw_cell(axes: "Axes", crystal: Crystal, frame: ArrayLike | None = None) -> None:
    """Draw a crystal's cell about its middle, the atoms pale where a frame is drawn among them."""
    positions, numbers = full_cell(crystal)
    centre, half = crystal.lattice.sum(axis=0) / 2, half_width(crystal.lattice)
    canvas = Canvas(axes, positions - centre, numbers, half, np.full(len(numbers), 1.0 if frame is None else 0.35))
    canvas.bonds()
    canvas.cell(crystal.lattice, -centre)
    if frame is not None:
        canvas.frame(frame, 0.75 * half)


def atoms_traces(
    positions: Array, numbers: ArrayLike, opacity: Array | None = None, texts: Sequence[str] = (), **settings: Any
) -> list[Any]:
    """Return plotly traces of atoms and the bonds between them; a trace holds atoms of about the same opacity.

    Args:
        positions: (n, 3) in Å.
        numbers: (n,) atomic numbers.
        opacity: (n,) 0 to 1, or None for opaque atoms.
        texts: what pointing at an atom shows, else its element.
        settings: of every trace.
    """
    from plotly import graph_objects

    z = np.asarray(numbers)
    shown = texts or [ELEMENTS[number - 1] for number in z]
    colours = [f"rgb({r:.0f},{g:.0f},{b:.0f})" for r, g, b in 255 * colours_of(z)]
    pairs = positions[bonded_pairs(positions, z)]
    traces = [_lines(pairs[:, 0], pairs[:, 1], QUIET, 3, opacity=0.35, **settings)]
    alpha = np.ones(len(z)) if opacity is None else opacity
    levels = np.clip(np.ceil(alpha * OPACITY_LEVELS), 1, OPACITY_LEVELS).astype(int)
    for level in np.unique(levels):
        rows = np.flatnonzero(levels == level)
        place = np.round(positions[rows], 4)
        traces.append(
            graph_objects.Scatter3d(
                x=place[:, 0], y=place[:, 1], z=place[:, 2], mode="markers", opacity=float(level / OPACITY_LEVELS),
                text=[shown[row] for row in rows.tolist()], hoverinfo="text", showlegend=False,
                marker={"size": 22 * radii_of(z[rows]), "color": [colours[row] for row in rows],
                        "line": {"color": "rgb(60,60,60)", "width": 1}},
                **settings,
            )
        )  # fmt: skip
    return traces


def frame_traces(frame: ArrayLike, length: float, *, origin: ArrayLike = (0, 0, 0), **settings: Any) -> list[Any]:
    """Return plotly traces of a frame's axes: a line and a cone each."""
    from plotly import graph_objects

    traces = []
    start = np.asarray(origin, dtype=float)
    for number, axis in enumerate(np.asarray(frame, dtype=float)):
        tip = start + length * axis
        name = f"e{number + 1}"
        traces.append(_lines([start], [tip], AXES[number], 7, name=name, text=name, hoverinfo="text", **settings))
        traces.append(
            graph_objects.Cone(
                x=[tip[0]], y=[tip[1]], z=[tip[2]], u=[axis[0]], v=[axis[1]], w=[axis[2]], sizemode="absolute",
                sizeref=0.25 * length, anchor="tail", hoverinfo="skip", showscale=False,
                colorscale=[[0, AXES[number]], [1, AXES[number]]], **settings,
            )
        )  # fmt: skip
    return traces


def cell_trace(lattice: Array, origin: ArrayLike = (0, 0, 0), colour: str = QUIET, **settings: Any) -> Any:
    """Return a plotly trace of a cell's edges."""
    return _lines(*cell_edges(lattice, origin), colour, 8, **settings)


def legend_traces(numbers: ArrayLike, axes: bool = True) -> list[Any]:
    """Return plotly traces that show nothing but name elements and axes in the legend."""
    from plotly import graph_objects

    nowhere: dict[str, Any] = {"x": [None], "y": [None], "z": [None], "showlegend": True, "hoverinfo": "skip"}
    found = np.unique(numbers)
    colours = [f"rgb({r:.0f},{g:.0f},{b:.0f})" for r, g, b in 255 * colours_of(found)]
    dots = [
        {"name": ELEMENTS[number - 1], "mode": "markers", "marker": {"size": 12, "color": colour}}
        for number, colour in zip(found, colours, strict=True)
    ]
    lines = [
        {"name": f"e{'₁₂₃'[number]}", "mode": "lines", "line": {"color": colour, "width": 7}}
        for number, colour in enumerate(AXES if axes else ())
    ]
    return [graph_objects.Scatter3d(**nowhere, **entry) for entry in [*dots, *lines]]


def scene(title: str, traces: Sequence[Any], distance: float = 1.0, **layout: Any) -> Any:
    """Return a plotly figure of one scene, without axes, in true proportions, seen from near or far."""
    from ase import utils
    from plotly import graph_objects

    untyped: Any = utils
    turned = np.asarray(untyped.rotate(VIEW))  # columns: right, up and towards the viewer, as flat pictures have them
    directions = {"eye": DISTANCE * distance * turned[:, 2], "up": turned[:, 1]}
    camera = {name: dict(zip("xyz", vector.round(4).tolist(), strict=True)) for name, vector in directions.items()}
    bare = {"visible": False}
    figure = graph_objects.Figure(data=list(traces))
    figure.update_layout(
        title={"text": title, "font": {"size": 14}, "y": 0.98, "yanchor": "top"},
        font={"family": f"{FONT}, Verdana, sans-serif"}, margin={"l": 0, "r": 0, "t": 60, "b": 0},
        paper_bgcolor="white", legend={"itemclick": False, "itemdoubleclick": False},
        scene={"xaxis": bare, "yaxis": bare, "zaxis": bare, "aspectmode": "data", "camera": camera},
        **layout,
    )  # fmt: skip
    return figure


def _lines(starts: ArrayLike, ends: ArrayLike, colour: str, width: int, **settings: Any) -> Any:
    """Return a plotly trace of straight lines, (n, 3) each end."""
    from plotly import graph_objects

    points = np.stack([starts, ends, np.full_like(starts, np.nan, dtype=float)], axis=1).reshape(-1, 3).round(4)[:-1]
    x, y, z = ([None if np.isnan(value) else value for value in column] for column in points.T.tolist())
    line = {"color": colour, "width": width}
    return graph_objects.Scatter3d(
        x=x, y=y, z=z, mode="lines", line=line, **{"showlegend": False, "hoverinfo": "skip", **settings}
    )
