"""How invariant trained models are: what other descriptions of a crystal do to predictions, by both rules for ties.

    python analysis/figures/invariance.py --sweep ablation_sample
    python analysis/figures/invariance.py --on jarvis_mbj --models runs/mbj/*-seed0-*    # adds to the figure

describes the first test crystals of a data set anew - turned, moved, atoms in another order or in other cells of the
lattice, by another cell of the same volume, by two or three cells, written to a CIF and read again - and predicts them
with `ties: first` and `ties: mean`. Changes are in standard deviations of a model's training targets. The exact answer
is no change at all; float32 rounds at about a millionth. PCA and lattice frames of the cell follow the choice of cell
by their definition.

The models are a sweep's (lowest seed of each frame), or those that are named, which then predict any data set that is
prepared. Writes invariance.{pdf,png} and invariance_table.{md,tex,html,csv} to analysis/output/<sweep>; of named models
invariance_<data set>.csv to analysis/output/invariance, and the figure of all tables there.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.comparison import FRAME_LABELS
from analysis.documents import Document, Table
from analysis.items import Context, Item, Product
from crystalframer.atomic_files import replace_text
from crystalframer.beside import OUTPUT
from crystalframer.command_line import HelpFormatter, reports_user_errors
from crystalframer.config import FRAMES, OPEN_FRAMES, FrameName, Ties
from crystalframer.errors import UserError
from crystalframer.pictures.palette import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from crystalframer.geometry.crystal import Crystal
    from crystalframer.training.trained_model import TrainedModel

CRYSTALS = 24
"""Of a sweep's test set."""
RULES: tuple[Ties, ...] = ("first", "mean")
FLOOR = 1e-9
"""Differences below this are drawn at it: the axis is logarithmic."""
ASKED = {"99th percentile": 1e-6, "most": 1e-5, "most, CIF": 1e-4}
"""What `mean` shall keep to, in standard deviations of the targets."""
Change = Callable[["Crystal", np.random.Generator], "Crystal"]


def produce(context: Context) -> Product:
    """Measure every frame that has a checkpoint."""
    from analysis.materials import tested_crystals

    models = context.models()
    crystals = tested_crystals(context, CRYSTALS)
    table = pd.concat([measure(trained, crystals) for trained in models.values()], ignore_index=True)
    table.insert(0, "data", context.main.dataset)
    with context.style():
        picture = context.save(draw(table), "invariance")
    product = context.table(tabulate(table), "invariance_table")
    product.pictures.append(picture)
    return product


def measure(trained: "TrainedModel", crystals: Sequence["Crystal"]) -> pd.DataFrame:
    """Return how much predictions change: a row for each rule and change, in standard deviations of the targets."""
    rows: list[dict[str, object]] = []
    frame = trained.trial.model.frame
    for rule in rules_of(frame):
        before = predict(trained, crystals, rule)
        for kind, change in CHANGES.items():
            random = np.random.default_rng(0)
            after = predict(trained, [change(crystal, random) for crystal in crystals], rule)
            changes = np.abs(after - before)
            found = {
                "crystals": len(crystals),
                "median": np.median(changes),
                "p99": np.quantile(changes, 0.99),
                "largest": changes.max(),
                "at": crystals[int(changes.argmax())].id,
            }
            rows += [{"frame": frame, "ties": own, "change": kind, **found} for own in _rules_like(frame, rule)]
    return pd.DataFrame(rows)


def rules_of(frame: Any) -> tuple[Ties, ...]:
    """Return the rules by which a frame (a key of a table, perhaps) may differ: one where symmetry leaves none open."""
    return RULES if frame in OPEN_FRAMES else RULES[:1]


def label_of(frame: Any, rule: Any) -> str:
    """Return how a table calls a frame by a rule."""
    return f"{FRAME_LABELS[frame]}, {rule}" if frame in OPEN_FRAMES else FRAME_LABELS[frame]


def _rules_like(frame: FrameName, rule: Ties) -> tuple[Ties, ...]:
    """Return the rules with which a frame does the same: both where symmetry leaves nothing open."""
    return (rule,) if frame in OPEN_FRAMES else RULES


def predict(trained: "TrainedModel", crystals: Sequence["Crystal"], rule: Ties) -> NDArray[np.float64]:
    """Return predictions of the first target in standard deviations of the training targets, (S,).

    Raises:
        UserError: a crystal cannot be predicted.
    """
    from crystalframer.prediction.predictor import Predictor

    before, trained.model.ties = trained.model.ties, rule
    try:
        found = Predictor([trained]).predict(crystals)
    finally:
        trained.model.ties = before  # the model is other figures', too
    for crystal, error in zip(crystals, found.errors, strict=True):
        if error:
            raise UserError(f"{crystal.id} cannot be predicted: {error}; leave the crystal out")
    predicted: NDArray[np.float64] = found.values[:, 0] / trained.targets[0].std
    return predicted


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


def wrapped(crystal: "Crystal", random: np.random.Generator) -> "Crystal":
    """Return the crystal with every atom moved by a lattice vector of its own."""
    return _with(crystal, frac_coords=crystal.frac_coords + random.integers(-2, 3, (crystal.num_atoms, 3)))


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
    return _repeated(crystal, random, 2)


def tripled(crystal: "Crystal", random: np.random.Generator) -> "Crystal":
    """Return the crystal described by three cells along a random axis."""
    return _repeated(crystal, random, 3)


def _repeated(crystal: "Crystal", random: np.random.Generator, times: int) -> "Crystal":
    axis = np.eye(3)[random.integers(3)]
    scale = 1 + (times - 1) * axis
    return _with(
        crystal,
        lattice=crystal.lattice * scale[:, None],
        frac_coords=np.concatenate([crystal.frac_coords + step * axis for step in range(times)]) / scale,
        atomic_numbers=np.tile(crystal.atomic_numbers, times),
    )


def through_cif(crystal: "Crystal", random: np.random.Generator) -> "Crystal":
    """Return what is read of the CIF that pymatgen writes of the crystal: eight decimals, no symmetry."""
    from pymatgen.core.structure import Structure
    from pymatgen.io.cif import CifWriter

    from crystalframer.data.structures.cif import read_cif

    with warnings.catch_warnings():  # noble gases have no electronegativity, says pymatgen
        warnings.filterwarnings("ignore", "No Pauling electronegativity", UserWarning)
        written = str(CifWriter(Structure(crystal.lattice, crystal.atomic_numbers.tolist(), crystal.frac_coords)))
    reading = next(iter(read_cif(written, max_sites=10**5)))
    if reading.crystal is None:
        raise UserError(f"the CIF of {crystal.id} cannot be read: {reading.reason}; leave the crystal out")
    return reading.crystal


CHANGES: Mapping[str, Change] = {
    "rotation": rotated,
    "origin": moved,
    "order of atoms": reordered,
    "wrapping": wrapped,
    "another cell": recelled,
    "two cells": doubled,
    "three cells": tripled,
    "CIF": through_cif,
}
"""What leaves a crystal the same, a CIF to its decimals."""


def draw(table: pd.DataFrame) -> "Figure":
    """Return the figure: a row for each data set, a column for each rule; lines from the 99th percentile up."""
    from matplotlib.figure import Figure

    data = list(dict.fromkeys(table["data"]))
    frames = [frame for frame in FRAMES if frame in set(table["frame"])]
    figure = Figure(figsize=(7.0, 1.1 + 1.7 * len(data)), layout="constrained")
    panels = figure.subplots(len(data), len(RULES), sharex=True, sharey=True, squeeze=False)
    for row, name in zip(panels, data, strict=True):
        for axes, rule in zip(row, RULES, strict=True):
            _draw_panel(axes, table[(table["data"] == name) & (table["ties"] == rule)], frames)
            axes.set_title(f"{name}, ties: {rule}".lstrip(", "), loc="left")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.supylabel("change of the prediction, targets' deviations:\n99th percentile to the most", fontsize=7)
    figure.legend(handles, labels, loc="outside lower center", ncols=len(frames), frameon=False, fontsize=7)
    return figure


def _draw_panel(axes: Any, table: pd.DataFrame, frames: Sequence[FrameName]) -> None:
    width = 0.8 / len(frames)
    axes.set_yscale("log")
    axes.set_ylim(FLOOR / 3, 1.0)
    for level in sorted(ASKED.values())[:2]:
        axes.axhline(level, color="#707070", linewidth=0.6, linestyle=":")
    for number, frame in enumerate(frames):
        own = table[table["frame"] == frame].groupby("change")[["p99", "largest"]].max()
        for position, change in enumerate(CHANGES):
            if change not in own.index:
                continue
            place = position + width * (number - (len(frames) - 1) / 2)
            ends = np.maximum(own.loc[change].to_numpy(float), FLOOR)
            label = FRAME_LABELS[frame] if position == 0 else None
            axes.plot([place] * 2, ends, color=COLOURS[frame], linewidth=2, label=label)
            axes.plot(place, ends[0], "_", color=COLOURS[frame], markersize=4)
    axes.grid(visible=False, axis="x")
    axes.set_xticks(range(len(CHANGES)), list(CHANGES), rotation=35, ha="right", fontsize=7)


def tabulate(table: pd.DataFrame) -> Document:
    """Return the 99th percentile and the largest change per frame, rule and kind."""
    rows = []
    for (data, frame, rule), own in table.groupby(["data", "frame", "ties"], sort=False):
        if rule not in rules_of(frame):
            continue
        worst = own.groupby("change")[["p99", "largest"]].max()
        rows.append(
            [
                str(data),
                label_of(frame, rule),
                *(f"{_short(a)} / {_short(b)}" for a, b in worst.loc[list(CHANGES)].to_numpy()),
            ]
        )
    note = (
        f"{table['crystals'].max()} test crystals of each data set. Asked of `mean`: {ASKED['99th percentile']:.0e} / "
    )
    note += f"{ASKED['most']:.0e}, through a CIF {ASKED['most, CIF']:.0e} at most."
    title = "Change of the prediction in standard deviations of the targets: 99th percentile / largest"
    return Document("Invariance", [Table(title, ["data", "frames", *CHANGES], rows, [note])], records=table)


def _short(value: float) -> str:
    return "0" if value == 0 else f"{value:.0e}"


def measure_named(argv: Sequence[str] | None = None) -> int:
    """Measure models on a data set as the command line says, draw all tables there; return the exit code."""
    from analysis.documents import to_markdown
    from crystalframer.data.dataset import SPLITS
    from crystalframer.data.registry import load_dataset
    from crystalframer.prediction.loading import load_predictor

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    parser.add_argument("--on", required=True, metavar="DATASET", help="a data set that is prepared")
    parser.add_argument("--models", nargs="+", required=True, help="checkpoints, model files or their folders")
    parser.add_argument("--crystals", type=int, default=200, help="how many (default: %(default)s)")
    parser.add_argument("--most-atoms", type=int, default=10**5, help="leave out larger cells")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder to write to (default: analysis/output)")
    arguments = parser.parse_args(argv)
    dataset = load_dataset(arguments.on)
    split = next(iter(dataset.tasks.values())).split
    tested = (dataset[int(row)] for row in np.flatnonzero(split == SPLITS.index("test")))
    crystals = [crystal for crystal in tested if crystal.num_atoms <= arguments.most_atoms][: arguments.crystals]
    members = [member for path in arguments.models for member in load_predictor(path).members]
    table = pd.concat([measure(member, crystals) for member in members], ignore_index=True)
    table.insert(0, "data", arguments.on)
    context = Context(None, "invariance", arguments.output / "invariance")
    context.folder.mkdir(parents=True, exist_ok=True)
    replace_text(context.folder / f"invariance_{arguments.on}.csv", table.to_csv(index=False, float_format="%.3g"))
    together = pd.concat([pd.read_csv(path) for path in sorted(context.folder.glob("invariance_*.csv"))])
    with context.style():
        context.save(draw(together), "invariance")
    print(to_markdown(tabulate(together)))
    return 0


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
)


if __name__ == "__main__":
    raise SystemExit(reports_user_errors(measure_named)() if "--models" in sys.argv else ITEM.main())
