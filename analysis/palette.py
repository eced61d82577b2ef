"""The colours, names and page style that all figures share: a frame looks the same in every one of them."""

from collections.abc import Mapping
from pathlib import Path

from crystalframer.config import FrameName

STYLE = Path(__file__).parent / "paper.mplstyle"

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

QUIET = "#707070"
"""Baselines, remarks, cells' edges."""
SHADE = "#F2F2F2"
"""Areas behind curves."""
