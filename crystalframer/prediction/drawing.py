"""A picture of what one head looks at around an atom: its frame as arrows, its attention as opacity.

Flat pictures are drawn by ASE and matplotlib, turning ones (``.html``) by plotly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalframer.errors import UserError
from crystalframer.geometry.crystal import ELEMENTS
from crystalframer.prediction.explain import AttentionView, attention_of
from crystalframer.prediction.structures import from_files
from crystalframer.training.trained_model import load_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".pdf", ".svg", ".html")
AXIS_COLOURS = ("orangered", "green", "blue")
"""Of e1, e2 and e3."""
FAINTEST = 0.1
"""Opacity of a neighbour that gets no attention; the one that gets most has 1."""
VIEW = "-80x,25y,10x"
"""Where the camera stands, as ASE writes it."""
_ARROW = 2.2
"""Length of an axis in Å."""
_REACH = 5.0
"""Radius in Å of the surroundings that are drawn."""


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What is drawn: the atom at the origin and the neighbours around it."""

    title: str
    positions: NDArray[np.float64]
    """(M, 3) in Å, the atom itself first."""
    numbers: NDArray[np.int64]
    """(M,) atomic numbers."""
    opacity: NDArray[np.float64]
    """(M,) by attention weight."""
    weights: NDArray[np.float64]
    """(M,) attention weights."""
    frame: NDArray[np.float64] | None
    """(3, 3) rows e1, e2, e3; None for the frame type `none`."""


def explain_file(
    models: Sequence[Path], paths: Sequence[Path], figure: Path, *, atom: int, block: int, head: int
) -> int:
    """Draw the first structure of the first file; return the exit code.

    Raises:
        UserError: several models or files, an unreadable one, an atom, block or head that is not there, or a figure
            that cannot be written.
    """
    if len(models) != 1 or len(paths) != 1:
        raise UserError(f"--explain draws one file with one model, got {len(paths)} files and {len(models)} models")
    require_suffix(figure)
    entry = next(from_files(paths))
    if entry.crystal is None:
        raise UserError(f"{paths[0]} cannot be drawn: {entry.reason}")
    view = attention_of(load_model(models[0]).model, entry.crystal, block)
    shown = surroundings(view, atom, head)
    try:
        figure.parent.mkdir(parents=True, exist_ok=True)
        draw(shown, figure)
    except OSError as error:
        raise UserError(f"cannot write {figure}: {error.strerror}; choose another --explain") from error
    print(f"{figure}: {shown.title}, σ = {view.sigma[atom, head]:.2f} Å, {shown.weights[0]:.0%} on the atom itself")
    return 0


def require_suffix(figure: Path) -> None:
    """Raise a `UserError` unless a picture can be written to a file of this name."""
    if figure.suffix.lower() not in SUFFIXES:
        raise UserError(f"--explain {figure}: got the suffix {figure.suffix!r}, expected one of {', '.join(SUFFIXES)}")


def surroundings(view: AttentionView, atom: int, head: int, reach: float = _REACH) -> Surroundings:
    """Return an atom's neighbours within `reach` Å and what one head makes of them.

    Raises:
        UserError: there is no such atom or head.
    """
    entries = view.entries(atom)
    heads = view.weights.shape[1]
    if not 0 <= head < heads:
        raise UserError(f"got head {head}, expected 0 to {heads - 1}: there are {heads}")
    near = np.arange(entries.start, entries.stop)[view.distance[entries] <= reach]
    weights = view.weights[near, head]
    numbers = view.crystal.atomic_numbers
    others = weights[1:]
    relative = np.concatenate([[1.0], others / max(float(others.max(initial=0.0)), 1e-30)])
    return Surroundings(
        title=f"{ELEMENTS[numbers[atom] - 1]} (atom {atom}) in {view.crystal.id}, block {view.block}, head {head}",
        positions=view.vector[near],
        numbers=numbers[view.neighbour[near]],
        opacity=FAINTEST + (1 - FAINTEST) * relative,
        weights=weights,
        frame=None if view.frames is None else view.frames[atom, head],
    )


def draw(shown: Surroundings, figure: Path) -> None:
    """Write the picture: PNG, PDF and SVG by ASE and matplotlib, HTML by plotly.

    Raises:
        OSError: the file cannot be written.
    """
    if figure.suffix.lower() == ".html":
        html: str = turning(shown).to_html(include_plotlyjs=True, full_html=True)
        figure.write_text(html, encoding="utf-8")
        return
    flat(shown).savefig(figure, dpi=200, bbox_inches="tight", metadata={} if figure.suffix.lower() == ".png" else None)


def flat(shown: Surroundings) -> "Figure":
    """Return the picture as a matplotlib figure."""
    from ase import Atoms
    from ase.data.colors import jmol_colors
    from ase.visualize import plot
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    picture = Figure(figsize=(5, 5.4))
    axes = picture.add_subplot()
    colours = np.concatenate([jmol_colors[shown.numbers], shown.opacity[:, None]], axis=1)
    atoms = Atoms(shown.numbers, positions=shown.positions)
    box = (-_REACH, -_REACH, _REACH, _REACH)
    ase_plot: Any = plot  # ASE has no types
    writer = ase_plot.Matplotlib(atoms, axes, rotation=VIEW, radii=0.4, colors=colours, show_unit_cell=0, bbox=box)
    writer.write()
    for patch in axes.patches:
        patch.set_edgecolor((0.2, 0.2, 0.2, to_rgba(patch.get_facecolor())[3]))
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set_title(shown.title, fontsize=9)
    if shown.frame is not None:
        start, *tips = writer.to_image_plane_positions(np.concatenate([np.zeros((1, 3)), _ARROW * shown.frame]))
        for tip, colour in zip(tips, AXIS_COLOURS, strict=True):
            arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 2, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", tip[:2], start[:2], arrowprops=arrow, zorder=100)
        handles = [Line2D([], [], color=colour, label=f"e{n + 1}") for n, colour in enumerate(AXIS_COLOURS)]
        axes.legend(handles=handles, frameon=False, loc="lower right", fontsize=8)
    return picture


def turning(shown: Surroundings) -> Any:
    """Return the picture as a plotly figure that can be turned."""
    from ase.data import covalent_radii
    from ase.data.colors import jmol_colors
    from plotly import graph_objects as go

    rgba = [
        f"rgba({r:.0f},{g:.0f},{b:.0f},{a:.3f})"
        for (r, g, b), a in zip(255 * jmol_colors[shown.numbers], shown.opacity, strict=True)
    ]
    labels = [f"{ELEMENTS[z - 1]}, weight {w:.2%}" for z, w in zip(shown.numbers, shown.weights, strict=True)]
    x, y, z = shown.positions.T
    marker = {"size": 14 * covalent_radii[shown.numbers], "color": rgba, "line": {"color": "gray", "width": 1}}
    traces = [go.Scatter3d(x=x, y=y, z=z, mode="markers", text=labels, hoverinfo="text", marker=marker, name="atoms")]
    for number, (axis, colour) in enumerate(
        zip([] if shown.frame is None else shown.frame, AXIS_COLOURS, strict=False)
    ):
        ends = np.stack([np.zeros(3), _ARROW * axis]).T
        line = {"color": colour, "width": 8}
        traces.append(go.Scatter3d(x=ends[0], y=ends[1], z=ends[2], mode="lines", line=line, name=f"e{number + 1}"))
    bare = {"visible": False}
    layout = {"xaxis": bare, "yaxis": bare, "zaxis": bare, "aspectmode": "data"}
    return go.Figure(data=traces, layout={"title": shown.title, "scene": layout})
