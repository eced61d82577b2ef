"""How predictions follow a crystal away from symmetry, by both rules for ties.

    python analysis/figures/continuity.py --sweep ablation_sample

takes the trials' models (lowest seed of each frame) along two paths: rocksalt MgO whose atoms are rattled, and fcc Cu
that is stretched along a cube axis. Energy is smooth along both, and at the symmetric crystal its slope against
rattling is zero. Writes analysis/output/<sweep>/continuity.{pdf,png} and continuity_table.{md,tex,html,csv}.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.comparison import FRAME_LABELS
from analysis.documents import Document, Table
from analysis.figures.invariance import RULES, label_of, predict, rules_of
from analysis.items import Context, Item, Product
from crystalframer.config import FRAMES, OPEN_FRAMES
from crystalframer.geometry.crystal import Crystal
from crystalframer.pictures.palette import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from crystalframer.training.trained_model import TrainedModel

STEPS = np.concatenate([[0.0], np.geomspace(1e-4, 0.1, 61)])
"""How far along a path."""
FCC = np.array([[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
SAMPLES = (1e-4, 3e-3, 1e-2, 2e-2, 5e-2)
"""Steps of the table."""


@dataclass(frozen=True)
class Path:
    """A family of crystals, the first of which is symmetric."""

    axis: str
    """what a step means, and its unit"""
    crystal: Callable[[float], Crystal]


def rattled(step: float) -> Crystal:
    """Return the cubic cell of rocksalt MgO (a = 4.21 Å), every atom moved by `step` Å in a direction of its own."""
    directions = np.random.default_rng(0).normal(size=(8, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    places = np.concatenate([FCC, FCC + [0.5, 0.0, 0.0]])
    return Crystal(4.21 * np.eye(3), places + step / 4.21 * directions, np.repeat([12, 8], 4), id=f"rattled {step:g}")


def stretched(step: float) -> Crystal:
    """Return the cell of four atoms of fcc Cu (3.61 Å) with c/a = 1 + step."""
    return Crystal(3.61 * np.diag([1.0, 1.0, 1.0 + step]), FCC, np.full(4, 29), id=f"stretched {step:g}")


PATHS: Mapping[str, Path] = {
    "rocksalt, rattled": Path("displacement (Å)", rattled),
    "fcc, stretched": Path("c/a − 1", stretched),
}


def produce(context: Context) -> Product:
    """Follow every frame that has a checkpoint."""
    models = context.models()
    unit = next(iter(models.values())).unit
    table = pd.concat([follow(trained) for trained in models.values()], ignore_index=True)
    with context.style():
        picture = context.save(draw(table, unit), "continuity")
    product = context.table(tabulate(table, unit), "continuity_table")
    product.pictures.append(picture)
    return product


def follow(trained: "TrainedModel") -> pd.DataFrame:
    """Return the change of the prediction from the symmetric crystal, in the target's unit, along both paths."""
    frame = trained.trial.model.frame
    rows = []
    for path, entry in PATHS.items():
        crystals = [entry.crystal(step) for step in STEPS]
        for rule in rules_of(frame):
            predicted = predict(trained, crystals, rule) * trained.targets[0].std
            changes = predicted - predicted[0]
            rows += [
                {"path": path, "frame": frame, "ties": rule, "step": step, "change": change}
                for step, change in zip(STEPS, changes, strict=True)
            ]
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, unit: str) -> "Figure":
    """Return the figure: a column for each path; `mean` solid, `first` dashed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.3), layout="constrained")
    for axes, (path, entry) in zip(figure.subplots(1, len(PATHS)), PATHS.items(), strict=True):
        axes.set_xscale("log")
        for frame in FRAMES:
            for rule in RULES:
                own = table[(table["path"] == path) & (table["frame"] == frame) & (table["ties"] == rule)]
                own = own[own["step"] > 0]
                if own.empty:
                    continue
                is_dashed = rule == "first" and frame in OPEN_FRAMES
                label = None if is_dashed else FRAME_LABELS[frame]
                axes.plot(own["step"], own["change"], "--" if is_dashed else "-", color=COLOURS[frame], label=label)
        axes.set_title(path, loc="left")
        axes.set_xlabel(entry.axis)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.supylabel(f"change of the prediction ({unit})", fontsize=8)
    figure.suptitle("where symmetry leaves frames open: ties mean (solid) and first (dashed)", fontsize=8)
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=7)
    return figure


def tabulate(table: pd.DataFrame, unit: str) -> Document:
    """Return some of the changes in thousandths of the unit, and the largest between neighbouring steps."""
    rows = []
    for (path, frame, rule), own in table.groupby(["path", "frame", "ties"], sort=False):
        changes, steps = own["change"].to_numpy(), own["step"].to_numpy()
        at = [1e3 * changes[np.abs(steps - sample).argmin()] for sample in SAMPLES]
        largest = 1e3 * np.abs(np.diff(changes)).max()
        rows.append([str(path), label_of(frame, rule), *(f"{value:.1f}" for value in at), f"{largest:.1f}"])
    columns = ["path", "frames", *(f"{sample:g}" for sample in SAMPLES), "largest step"]
    grows = STEPS[2] / STEPS[1]
    note = f"The figure has {len(STEPS) - 1} steps from {STEPS[1]:g} to {STEPS[-1]:g}, each {grows:.2f} times the last."
    title = f"Change of the prediction from the symmetric crystal (10⁻³ {unit})"
    return Document("Continuity", [Table(title, columns, rows, [note])], records=table)


ITEM = Item(
    "continuity",
    "Away from symmetry",
    "How predictions follow a crystal away from symmetry. A jump is a frame that is decided anew.",
    "why",
    produce,
)


if __name__ == "__main__":
    raise SystemExit(ITEM.main())
