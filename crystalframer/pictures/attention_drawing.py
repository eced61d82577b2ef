"""A picture of what one head looks at around an atom: its frame as arrows, its attention as opacity."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalframer.atomic_files import replacing
from crystalframer.geometry.crystal import ELEMENTS
from crystalframer.pictures.crystal_drawing import (
    Canvas,
    atoms_traces,
    frame_traces,
    legend_of_axes,
    legend_of_elements,
    legend_traces,
    scene,
)
from crystalframer.pictures.palette import STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FAINTEST = 0.12
"""Opacity of a neighbour that gets no attention; the one that gets most has 1."""
ARROW = 2.3
"""Length of an axis in Å."""


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What is drawn: the atom at the origin, and the neighbours around it."""

    title: str
    positions: NDArray[np.float64]
    """(M, 3) in Å, the atom itself first."""
    numbers: NDArray[np.int64]
    """(M,) atomic numbers."""
    weights: NDArray[np.float64]
    """(M,) attention weights of one head."""
    frame: NDArray[np.float64] | None
    """(3, 3) rows e1, e2, e3; None for the frame type `none`."""
    reach: float
    """Å around the atom that are shown."""

    @property
    def opacity(self) -> NDArray[np.float64]:
        """(M,) by attention weight, 1 for the atom itself."""
        return np.concatenate([[1.0], opacity_of(self.weights[1:])])

    def draw(self, axes: "Axes") -> None:
        """Draw into an empty panel."""
        canvas = Canvas(axes, self.positions, self.numbers, self.reach + 0.3, self.opacity)
        canvas.bonds()
        if self.frame is not None:
            canvas.frame(self.frame, ARROW)

    def traces(self, origin: ArrayLike = (0, 0, 0), **settings: Any) -> list[Any]:
        """Return plotly traces, moved to an origin in Å."""
        texts = [f"{ELEMENTS[z - 1]}, weight {w:.2%}" for z, w in zip(self.numbers, self.weights, strict=True)]
        atoms = atoms_traces(self.positions + np.asarray(origin), self.numbers, self.opacity, texts, **settings)
        return atoms if self.frame is None else [*atoms, *frame_traces(self.frame, ARROW, origin=origin, **settings)]


def opacity_of(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the opacity of neighbours by their attention weight, 1 for the largest, `FAINTEST` for none."""
    largest = weights.max(initial=0.0)
    return np.full(len(weights), FAINTEST) if largest == 0 else FAINTEST + (1 - FAINTEST) * weights / largest


def flat(shown: Surroundings) -> "Figure":
    """Return the picture as a matplotlib figure."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(5, 5.4))
    shown.draw(picture.add_axes((0.0, 0.06, 1.0, 0.86)))
    picture.text(0.5, 0.96, shown.title, ha="center", va="center", fontsize=9)
    picture.text(0.5, 0.02, "opacity: attention weight", ha="center", va="center", fontsize=7.5)
    legend_of_elements(picture, shown.numbers, 0.03, 0.02)
    if shown.frame is not None:
        legend_of_axes(picture, 0.97, 0.02)
    return picture


def turning(shown: Surroundings) -> Any:
    """Return the picture as a plotly figure that can be turned."""
    names = legend_traces(shown.numbers, shown.frame is not None)
    return scene(shown.title, [*shown.traces(), *names], distance=0.75)


def write_picture(shown: Surroundings, path: Path) -> None:
    """Write the picture: PNG, PDF and SVG by matplotlib, HTML by plotly.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib import style

    kind = path.suffix.lower()[1:]
    with replacing(path) as temporary:
        if kind == "html":
            temporary.write_text(turning(shown).to_html(include_plotlyjs=True, full_html=True), encoding="utf-8")
            return
        with style.context(dict(STYLE)):
            flat(shown).savefig(temporary, format=kind, dpi=200, bbox_inches="tight")
