"""The colours, the font and the camera that all pictures share: a frame looks the same in every one of them."""

from collections.abc import Mapping
from pathlib import Path

from crystalframer.config import FrameName

FONT = "DejaVu Sans"
"""Of still pictures, which carry it along, and where it is installed of turning ones and of pages."""

PAGE_STYLE = Path(__file__).with_name("page.css")
"""Of pages that stand by themselves."""

STYLE: Mapping[str, object] = {
    "font.family": FONT,
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.3,
    "lines.solid_capstyle": "round",
    "pdf.fonttype": 42,
}
"""Matplotlib's settings: figures as the paper has them, full text width 7 inches, text 8 points."""

COLOURS: Mapping[FrameName, str] = {
    "none": "#000000",
    "pca": "#56B4E9",
    "lattice": "#0072B2",
    "static_local": "#009E73",
    "weighted_pca": "#E69F00",
    "max": "#D55E00",
}
"""The Okabe-Ito palette, which colour-blind readers tell apart."""

AXES: tuple[str, str, str] = ("#FF4500", "#1B9E3E", "#1F5FD0")
"""A frame's axes e1, e2, e3: orange-red, green, blue."""

ERROR = "YlOrRd"
"""Matplotlib's map of errors, from none to the largest."""
QUIET = "#707070"
"""Baselines, remarks, cells' edges."""
SHADE = "#F2F2F2"
"""Areas behind curves, and what has no value."""

VIEW = "-90x,28y,14x"
"""Where the camera stands, as ASE writes it: z upwards, turned by 28° and tilted by 14°."""
