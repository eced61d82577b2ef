"""Atoms, cells and frames: flat by ASE and matplotlib, turning by plotly."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.palette import AXES, QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from crystalframer.geometry.crystal import Crystal

Array = NDArray[np.float64]

VIEW = "-90x,28y,14x"
"""Where the camera stands, as ASE writes it: z upwards, turned by 28° and tilted by 14°."""
RADIUS = 0.42
"""Of an atom, in units of its covalent radius."""
OPACITY_LEVELS = 6
"""Steps of opacity in turning figures, where one trace has one opacity."""
FAINTEST = 0.12
"""Opacity of an atom that gets no attention."""


BOND = 1.2
"""Atoms within this many times the sum of their covalent radii are joined by a line."""


class Canvas:
    """A square drawing of atoms in one panel, its centre at the origin.

    Args:
        axes: an empty panel.
        positions: (n, 3) in Å.
        numbers: (n,) atomic numbers.
        half_width: Å from the centre to the edge.
        opacity: (n,) 0 to 1, or None for opaque atoms.
        view: the camera.
    """

    def __init__(
        self,
        axes: "Axes",
        positions: ArrayLike,
        numbers: ArrayLike,
        half_width: float,
        opacity: ArrayLike | None = None,
        view: str = VIEW,
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
            rotation=view,
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
        self._positions, self._numbers, self._opacity = places, np.asarray(numbers), alpha

    def bonds(self) -> None:
        """Draw lines between atoms that are hardly farther apart than their covalent radii add up to."""
        for first, second in bonded_pairs(self._positions, self._numbers):
            ends = self.project(self._positions[[first, second]])[:, :2]
            strength = float(min(self._opacity[first], self._opacity[second]))
            self.axes.plot(*ends.T, color=QUIET, linewidth=1.1, alpha=strength, zorder=0.8, solid_capstyle="butt")

    def project(self, points: ArrayLike) -> Array:
        """Return points (n, 3) in Å as places in the drawing with their height above the page, (n, 3)."""
        return np.asarray(self._writer.to_image_plane_positions(np.asarray(points, dtype=float).reshape(-1, 3)))

    def lines(
        self, starts: ArrayLike, ends: ArrayLike, colour: str = QUIET, width: float = 0.6, dash: Any = "-"
    ) -> None:
        """Draw straight lines behind the atoms."""
        for start, end in zip(self.project(starts), self.project(ends), strict=True):
            self.axes.plot(*np.stack([start, end])[:, :2].T, color=colour, linewidth=width, linestyle=dash, zorder=0.5)

    def cell(self, lattice: Array, origin: ArrayLike = (0, 0, 0), colour: str = QUIET, width: float = 0.7) -> None:
        """Draw the edges of a cell, rows a, b, c in Å."""
        starts, ends = cell_edges(lattice, origin)
        self.lines(starts, ends, colour, width)

    def frame(self, frame: ArrayLike, length: float, *, origin: ArrayLike = (0, 0, 0), opacity: float = 1.0) -> None:
        """Draw the axes e1, e2, e3 as arrows, those nearest to the viewer on top."""
        axes = np.asarray(frame, dtype=float)
        start = self.project(origin)[0]
        tips = self.project(np.asarray(origin) + length * axes)
        for number in np.argsort(tips[:, 2]):
            self.axes.annotate(
                "",
                (float(tips[number, 0]), float(tips[number, 1])),
                (float(start[0]), float(start[1])),
                arrowprops={
                    "arrowstyle": "-|>,head_width=0.18,head_length=0.32",
                    "color": AXES[number],
                    "alpha": opacity,
                    "linewidth": 1.5,
                    "shrinkA": 0,
                    "shrinkB": 0,
                },
                zorder=5 + 0.1 * number,
            )


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
    starts, ends = [], []
    corner_of_cell = np.asarray(origin, dtype=float)
    for axis in range(3):
        for corner in itertools.product((0, 1), repeat=2):
            fraction = np.insert(np.array(corner, dtype=float), axis, 0.0)
            starts.append(fraction @ lattice + corner_of_cell)
            ends.append((fraction + np.eye(3)[axis]) @ lattice + corner_of_cell)
    return np.array(starts), np.array(ends)


def bonded_pairs(positions: Array, numbers: ArrayLike) -> NDArray[np.int64]:
    """Return the pairs of atoms, (pairs, 2), that are hardly farther apart than their covalent radii add up to."""
    radii = radii_of(numbers)
    distance = np.linalg.norm(positions[:, None] - positions, axis=-1)
    return np.argwhere(np.triu(distance < BOND * (radii[:, None] + radii), k=1))


def half_width(lattice: Array) -> float:
    """Return half the width of a drawing that holds a cell about its middle, however it is turned, in Å."""
    starts, ends = cell_edges(lattice)
    centre = lattice.sum(axis=0) / 2
    return 1.04 * float(np.linalg.norm(np.concatenate([starts, ends]) - centre, axis=1).max())


def full_cell(crystal: "Crystal") -> tuple[Array, NDArray[np.int64]]:
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


def opacity_of(weights: Array) -> Array:
    """Return the opacity of neighbours by their attention weight, 1 for the largest, `FAINTEST` for none."""
    largest = weights.max(initial=0.0)
    return np.full(len(weights), FAINTEST) if largest == 0 else FAINTEST + (1 - FAINTEST) * weights / largest


def atoms_traces(positions: Array, numbers: ArrayLike, opacity: Array | None = None, **settings: Any) -> list[Any]:
    """Return plotly traces of atoms and the bonds between them; a trace holds atoms of about the same opacity."""
    from plotly import graph_objects

    from crystalframer.geometry.crystal import ELEMENTS

    z = np.asarray(numbers)
    alpha = np.ones(len(z)) if opacity is None else opacity
    colours = [f"rgb({r:.0f},{g:.0f},{b:.0f})" for r, g, b in 255 * colours_of(z)]
    traces = [_bonds_trace(positions, z, **settings)]
    levels = np.clip(np.ceil(alpha * OPACITY_LEVELS), 1, OPACITY_LEVELS).astype(int)
    for level in np.unique(levels):
        rows = np.flatnonzero(levels == level)
        place = np.round(positions[rows], 4)
        traces.append(
            graph_objects.Scatter3d(
                x=place[:, 0], y=place[:, 1], z=place[:, 2], mode="markers", opacity=float(level / OPACITY_LEVELS),
                text=[ELEMENTS[z[row] - 1] for row in rows], hoverinfo="text", showlegend=False,
                marker={"size": 22 * radii_of(z[rows]), "color": [colours[row] for row in rows],
                        "line": {"color": "rgb(60,60,60)", "width": 1}},
                **settings,
            )
        )  # fmt: skip
    return traces


def _bonds_trace(positions: Array, numbers: NDArray[Any], **settings: Any) -> Any:
    from plotly import graph_objects

    coordinates: list[list[float | None]] = [[], [], []]
    for pair in bonded_pairs(positions, numbers):
        for axis in range(3):
            coordinates[axis] += [*np.round(positions[pair, axis], 4).tolist(), None]
    x, y, z = coordinates
    return graph_objects.Scatter3d(
        x=x, y=y, z=z, mode="lines", line={"color": QUIET, "width": 3}, opacity=0.35, hoverinfo="skip",
        showlegend=False, **settings,
    )  # fmt: skip


def frame_traces(
    frame: ArrayLike, length: float, *, origin: ArrayLike = (0, 0, 0), opacity: float = 1.0, **settings: Any
) -> list[Any]:
    """Return plotly traces of a frame's axes: a line and a cone each."""
    from plotly import graph_objects

    traces = []
    start = np.asarray(origin, dtype=float)
    for number, axis in enumerate(np.asarray(frame, dtype=float)):
        tip = start + length * axis
        ends = np.round(np.stack([start, tip]), 4)
        traces.append(
            graph_objects.Scatter3d(
                x=ends[:, 0], y=ends[:, 1], z=ends[:, 2], mode="lines", opacity=opacity, hoverinfo="text",
                text=f"e{number + 1}", line={"color": AXES[number], "width": 7}, showlegend=False, **settings,
            )
        )  # fmt: skip
        traces.append(
            graph_objects.Cone(
                x=[tip[0]], y=[tip[1]], z=[tip[2]], u=[axis[0]], v=[axis[1]], w=[axis[2]], opacity=opacity,
                sizemode="absolute", sizeref=0.25 * length, anchor="tail", hoverinfo="skip", showscale=False,
                colorscale=[[0, AXES[number]], [1, AXES[number]]], **settings,
            )
        )  # fmt: skip
    return traces


def cell_trace(
    lattice: Array, origin: ArrayLike = (0, 0, 0), colour: str = QUIET, width: int = 3, **settings: Any
) -> Any:
    """Return a plotly trace of a cell's edges."""
    from plotly import graph_objects

    starts, ends = cell_edges(lattice, origin)
    points = np.round(np.stack([starts, ends, np.full_like(starts, np.nan)], axis=1).reshape(-1, 3), 4)
    listed = [[None if np.isnan(value) else value for value in column] for column in points.T.tolist()]
    return graph_objects.Scatter3d(
        x=listed[0], y=listed[1], z=listed[2], mode="lines", hoverinfo="skip",
        line={"color": colour, "width": width}, **{"showlegend": False, **settings},
    )  # fmt: skip


def scene(title: str, traces: Sequence[Any], distance: float = 1.0, **layout: Any) -> Any:
    """Return a plotly figure of one scene, without axes, in true proportions, seen from near or far."""
    from plotly import graph_objects

    bare = {"visible": False}
    figure = graph_objects.Figure(data=list(traces))
    figure.update_layout(
        title={"text": title, "font": {"size": 14}, "y": 0.98, "yanchor": "top"},
        margin={"l": 0, "r": 0, "t": 60, "b": 0}, paper_bgcolor="white",
        scene={"xaxis": bare, "yaxis": bare, "zaxis": bare, "aspectmode": "data",
               "camera": {"eye": {"x": 0.95 * distance, "y": -1.55 * distance, "z": 0.7 * distance}}},
        **layout,
    )  # fmt: skip
    return figure
