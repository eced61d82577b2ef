"""Speed against cell size, from the recorded benchmarks: one line per kernel and number of threads.

    python analysis/figures/speed.py

reads benchmarks/results/*.csv (columns: benchmarks/README.md) and writes
analysis/output/<sweep>/speed.{pdf,png}: time of a training step and of a prediction per crystal, random crystals,
frame max. A point is the quickest round: other work on the machine can only slow a round down.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from analysis.items import Context, Item, Product
from analysis.results import MissingError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "speed"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
COMMAND = "crystalframer benchmark --output benchmarks/results/my_machine.csv"
KERNEL_COLOURS = {"reference": "#707070", "cpu": "#0072B2", "triton": "#009E73"}
QUANTITIES = {"step": "training step", "forward": "prediction"}
MARKERS = ("o", "s", "^", "D")
COLUMNS = {"kernel", "frame", "preset", "crystals", "size", "quantity", "min", "threads", "machine"}


def produce(context: Context) -> Product:
    """Draw what the recorded benchmarks hold."""
    table = measurements(RESULTS)
    if table.empty:
        raise MissingError("no recorded benchmark of random crystals in benchmarks/results", COMMAND)
    with context.style():
        picture = context.save(draw(table), NAME)
    machines = ", ".join(sorted(str(name) for name in table["file"].unique()))
    return Product([picture], text=f"Recorded in {machines}.")


def measurements(folder: Path) -> pd.DataFrame:
    """Return the timings of random crystals with the frame max, one row a kernel, preset, size and quantity."""
    tables = []
    for path in sorted(folder.glob("*.csv")):
        table = pd.read_csv(path)
        if set(table.columns) >= COLUMNS:
            tables.append(table.assign(file=path.name))
    if not tables:
        return pd.DataFrame()
    every = pd.concat(tables, ignore_index=True)
    chosen = every[(every["frame"] == "max") & (every["crystals"] == "random") & every["quantity"].isin(QUANTITIES)]
    chosen = chosen.assign(size=pd.to_numeric(chosen["size"], errors="coerce"), preset=chosen["preset"].fillna(""))
    return chosen.dropna(subset=["size", "min"])


def draw(table: pd.DataFrame) -> "Figure":
    """Return the figure: training step on the left, prediction on the right."""
    from matplotlib.figure import Figure

    shown = [quantity for quantity in QUANTITIES if (table["quantity"] == quantity).any()]
    figure = Figure(figsize=(3.5 * len(shown), 3.0), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, quantity in zip(panels, shown, strict=True):
        _curves(axes, table[table["quantity"] == quantity])
        axes.set_title(f"{QUANTITIES[quantity]}, max frames, random crystals", loc="left")
        axes.set_xlabel("atoms in the cell (log axis)")
        axes.set_ylabel("time per crystal (ms, log axis), quickest round")
    panels[0].legend(fontsize=6, frameon=False)
    return figure


def _curves(axes: "Axes", table: pd.DataFrame) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    machines = sorted(table["machine"].unique())
    for key, group in table.groupby(["machine", "kernel", "preset", "threads"]):
        machine, kernel, preset, threads = (str(part) for part in key)
        points = group.groupby("size")["min"].min()
        threaded = f"{threads} thread" + ("" if threads == "1" else "s")
        where = "" if len(machines) == 1 else f", {machine}"
        axes.plot(
            points.index.to_numpy(), points.to_numpy(), color=KERNEL_COLOURS.get(str(kernel), "#D55E00"),
            marker=MARKERS[machines.index(machine) % len(MARKERS)], markersize=3,
            linestyle="--" if threads == "1" else "-", markerfacecolor="white" if preset == "lightweight" else None,
            label=f"{kernel}, {preset}, {threaded}{where}",
        )  # fmt: skip


ITEM = Item(
    "speed",
    "Speed against cell size",
    "From the recorded benchmarks: time per crystal of the attention's implementations.",
    "details",
    produce,
)


if __name__ == "__main__":
    raise SystemExit(ITEM.main())
