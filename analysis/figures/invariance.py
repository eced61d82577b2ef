"""How invariant each trained model is: what rotations and other cells of the same crystal do to its predictions.

    python analysis/figures/invariance.py --sweep ablation_sample

reads the trials' checkpoints (lowest seed of each frame), describes the first crystals of the test set anew - rotated
at random, moved, atoms listed in another order, by another cell of the same volume, by a doubled cell - and writes
analysis/output/<sweep>/invariance.{pdf,png} and invariance_table.{md,tex,html,csv}. The exact answer is no change at
all; float32 rounds at about a millionth. PCA frames of the cell follow the choice of cell by their definition, and
where neighbours tie, rounding decides a frame.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.comparison import FRAME_LABELS
from analysis.documents import Document, Table
from analysis.items import Context, Item, Missing, Product
from crystalframer.config import FrameName
from crystalframer.pictures.palette import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from crystalframer.geometry.crystal import Crystal
    from crystalframer.training.trained_model import TrainedModel

CRYSTALS = 24
REPEATS = 4
"""Random draws per crystal and kind of change."""
FLOOR = 1e-8
"""Differences below this are drawn at it: the axis is logarithmic."""
Change = Callable[["Crystal", np.random.Generator], "Crystal"]


def produce(context: Context) -> Product | Missing:
    """Measure every frame that has a checkpoint."""
    from analysis.materials import tested_crystals

    models = context.models()
    if not models:
        return context.no_runs("no checkpoint")
    crystals = tested_crystals(context, CRYSTALS)
    if isinstance(crystals, Missing):
        return crystals
    found = {frame: measure(trained, crystals) for frame, trained in models.items()}
    unit = next(iter(models.values())).unit
    with context.style():
        picture = context.save(draw(found, unit), "invariance")
    product = context.table(tabulate(found, unit, len(crystals)), "invariance_table")
    product.pictures.append(picture)
    return product


def measure(trained: "TrainedModel", crystals: Sequence["Crystal"], seed: int = 0) -> dict[str, NDArray[np.float64]]:
    """Return the absolute changes of predictions, in the target's unit, by kind of change: (crystals · repeats,)."""
    reference = predict(trained, crystals)
    changes = {}
    for kind, change in CHANGES.items():
        random = np.random.default_rng(seed)
        changed = [predict(trained, [change(crystal, random) for crystal in crystals]) for _ in range(REPEATS)]
        changes[kind] = np.abs(np.stack(changed) - reference).ravel()
    return changes


def predict(trained: "TrainedModel", crystals: Sequence["Crystal"]) -> NDArray[np.float64]:
    """Return predictions in the target's unit, (S,)."""
    import torch

    from crystalframer.data.batch import collate
    from crystalframer.geometry.prepared import prepare_geometry

    cutoff = trained.model.config.cutoff
    batch = collate([prepare_geometry(crystal, cutoff) for crystal in crystals], cutoff)
    with torch.no_grad():
        outputs = trained.model(batch)[:, 0].double().numpy()
    return np.asarray(trained.restore(outputs))


def rotated(crystal: "Crystal", random: np.random.Generator) -> "Crystal":
    """Return the crystal turned by a uniformly random rotation."""
    from scipy.spatial.transform import Rotation

    return _with(crystal, lattice=crystal.lattice @ Rotation.random(rng=random).as_matrix().T)


def moved(crystal: "Crystal", random: np.random.Generator) -> "Crystal":
    """Return the crystal with all atoms moved by the same vector."""
    return _with(crystal, frac_coords=crystal.frac_coords + random.uniform(0, 1, 3))


def reordered(crystal: "Crystal", random: np.random.Generator) -> "Crystal":
    """Return the crystal with its atoms in another order."""
    order = random.permutation(crystal.num_atoms)
    return _with(crystal, frac_coords=crystal.frac_coords[order], atomic_numbers=crystal.atomic_numbers[order])


def recelled(crystal: "Crystal", random: np.random.Generator) -> "Crystal":
    """Return the crystal described by another cell of the same volume, its atoms wrapped into it."""
    matrix = np.eye(3, dtype=np.int64)
    for first, second in random.permutation([(0, 1), (1, 2), (2, 0)]):
        step = np.eye(3, dtype=np.int64)
        step[first, second] = random.choice([-1, 1])
        matrix = step @ matrix
    frac_coords = crystal.frac_coords @ np.linalg.inv(matrix)
    return _with(crystal, lattice=matrix @ crystal.lattice, frac_coords=frac_coords - np.floor(frac_coords))


def doubled(crystal: "Crystal", random: np.random.Generator) -> "Crystal":
    """Return the crystal described by two cells along a random axis."""
    axis = np.eye(3)[random.integers(3)]
    scale = 1 + axis
    return _with(
        crystal,
        lattice=crystal.lattice * scale[:, None],
        frac_coords=np.concatenate([crystal.frac_coords, crystal.frac_coords + axis]) / scale,
        atomic_numbers=np.tile(crystal.atomic_numbers, 2),
    )


CHANGES: Mapping[str, Change] = {
    "rotation": rotated,
    "translation": moved,
    "order of atoms": reordered,
    "another cell": recelled,
    "doubled cell": doubled,
}
"""What leaves a crystal the same."""


def draw(found: Mapping[FrameName, Mapping[str, NDArray[np.float64]]], unit: str) -> "Figure":
    """Return the figure: per kind of change and frame every measurement, and the median as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.set_yscale("log")
    width = 0.8 / len(found)
    random = np.random.default_rng(0)
    for number, (frame, changes) in enumerate(found.items()):
        for position, values in enumerate(changes.values()):
            centre = position + width * (number - (len(found) - 1) / 2)
            shown = np.maximum(values, FLOOR)
            jitter = random.uniform(-0.3, 0.3, len(values)) * width
            axes.scatter(centre + jitter, shown, s=3, color=COLOURS[frame], alpha=0.3, linewidths=0, rasterized=True)
            label = FRAME_LABELS[frame] if position == 0 else None
            ends = [centre - 0.38 * width, centre + 0.38 * width]
            axes.plot(ends, [np.median(shown)] * 2, color=COLOURS[frame], linewidth=2, label=label)
    axes.set_xticks(range(len(CHANGES)), list(CHANGES))
    axes.set_ylabel(f"change of the prediction ({unit}), log axis")
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside lower center", ncols=6, frameon=False, fontsize=7)
    axes.set_title(f"line: median; at the bottom: no change at all, or below {FLOOR:g}", loc="left")
    return figure


def tabulate(found: Mapping[FrameName, Mapping[str, NDArray[np.float64]]], unit: str, crystals: int) -> Document:
    """Return median and largest change per frame and kind."""
    rows = [
        [FRAME_LABELS[frame], *(f"{_short(float(np.median(v)))} / {_short(float(v.max()))}" for v in changes.values())]
        for frame, changes in found.items()
    ]
    records = [
        {
            "frame": frame,
            "change": kind,
            "unit": unit,
            "median": float(np.median(values)),
            "largest": float(values.max()),
        }
        for frame, changes in found.items()
        for kind, values in changes.items()
    ]
    table = Table(
        f"Change of the prediction ({unit}), median / largest",
        ["frames", *CHANGES],
        rows,
        [f"{crystals} test crystals, {REPEATS} random draws each; lowest seed of each frame."],
    )
    return Document("Invariance", [table], records=pd.DataFrame(records))


def _short(value: float) -> str:
    return "0" if value == 0 else f"{value:.0e}"


def _with(crystal: "Crystal", **changes: Any) -> "Crystal":
    from crystalframer.geometry.crystal import Crystal

    fields = {name: getattr(crystal, name) for name in ("lattice", "frac_coords", "atomic_numbers", "id")}
    return Crystal(**{**fields, **changes})


ITEM = Item(
    "invariance",
    "Invariance",
    "What describing the same crystal in another way does to a trained model's predictions. Exact: nothing.",
    "why",
    produce,
    __doc__,
)


if __name__ == "__main__":
    sys.exit(ITEM.main())
