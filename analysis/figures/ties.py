"""How often symmetry leaves a frame undetermined: tied axes per frame, by crystal system.

    python analysis/figures/ties.py --sweep ablation_sample

takes the first crystals of the test set, sorts them by crystal system (spglib), and counts per frame the share of
atoms (and heads, where the frame has them) whose axes are not decided by the crystal: for frames that pick neighbours,
another neighbour with the same weight for the first or the second axis; for PCA frames, two equal eigenvalues; for
lattice frames, another lattice vector of the same length. Static local and lattice frames need no training; weighted
PCA and max are taken from the trials' checkpoints (lowest seed, last block). Writes
analysis/output/<sweep>/ties.{pdf,png} and ties_table.{md,tex,html,csv}.
"""

import itertools
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.comparison import FRAME_LABELS
from analysis.documents import EMPTY, Document, Table
from analysis.items import Context, Item, Product
from crystalframer.config import FrameName
from crystalframer.pictures.palette import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from crystalframer.geometry.crystal import Crystal

CRYSTALS = 120
DYNAMIC: tuple[FrameName, ...] = ("weighted_pca", "max")
SYSTEMS = {
    "triclinic": 2, "monoclinic": 15, "orthorhombic": 74, "tetragonal": 142, "trigonal": 167, "hexagonal": 194,
    "cubic": 230,
}  # fmt: skip
"""Crystal systems by the number of their last space group."""
SYMMETRY_TOLERANCE = 0.01
"""Å within which spglib takes atoms as equivalent."""
DEGENERATE = 1e-4
"""Eigenvalues this close, in units of their sum, are equal; lengths, relative to the shortest, likewise."""


def produce(context: Context) -> Product:
    """Count ties of every frame that can be had."""
    from analysis.materials import tested_crystals

    crystals = tested_crystals(context, CRYSTALS)
    models = {frame: trained.model for frame in DYNAMIC if (trained := context.model(frame)) is not None}
    table = pd.DataFrame([entry for crystal in crystals for entry in count(crystal, models)])
    with context.style():
        picture = context.save(draw(table), "ties")
    product = context.table(tabulate(table, len(crystals)), "ties_table")
    product.pictures.append(picture)
    lacking = [frame for frame in DYNAMIC if frame not in models]
    product.missing += [context.no_runs(f"no checkpoint of a {FRAME_LABELS[frame]} trial") for frame in lacking]
    return product


def count(crystal: "Crystal", models: Mapping[Any, Any]) -> list[dict[str, object]]:
    """Return the share of a crystal's atoms whose frame is tied, one entry a frame."""
    from crystalframer.geometry.prepared import prepare_geometry
    from crystalframer.prediction.explain import attention_of

    system = crystal_system(crystal)
    geometry = prepare_geometry(crystal, 6.0)
    near = geometry.neighbours
    distance = np.linalg.norm(near.vector, axis=1)
    shares: dict[FrameName, float] = {
        "pca": float(degenerate(np.cov(crystal.cart_coords.T, bias=True)) if crystal.num_atoms > 1 else True),
        "lattice": float(lattice_tied(crystal.lattice)),
        "static_local": neighbours_tied(-(distance**2)[:, None], near.vector, near.first),
    }
    for frame, model in models.items():
        view = attention_of(model, crystal, model.config.num_blocks - 1)
        if frame == "max":
            logits = np.log(np.maximum(view.weights, 1e-300))
            shares[frame] = neighbours_tied(logits, view.vector, view.first)
        else:
            shares[frame] = covariances_tied(view.weights, view.vector, view.first)
    return [{"id": crystal.id, "system": system, "frame": frame, "tied": share} for frame, share in shares.items()]


def crystal_system(crystal: "Crystal") -> str:
    """Return the crystal system, by the space group's number; triclinic where spglib finds no symmetry at all."""
    import spglib

    cell = (crystal.lattice.tolist(), crystal.frac_coords.tolist(), crystal.atomic_numbers.tolist())
    with warnings.catch_warnings():  # spglib 2.8 announces another way of reporting errors
        warnings.filterwarnings("ignore", "Set OLD_ERROR_HANDLING", DeprecationWarning)
        found = spglib.get_symmetry_dataset(cell, symprec=SYMMETRY_TOLERANCE)
    number = 1 if found is None else int(found.number)
    return next(system for system, last in SYSTEMS.items() if number <= last)


def degenerate(matrix: NDArray[np.float64]) -> bool:
    """Return whether two eigenvalues of a symmetric matrix are equal."""
    values = np.linalg.eigvalsh(matrix)
    return bool((np.diff(values) <= DEGENERATE * max(float(values.sum()), 1e-12)).any())


def lattice_tied(lattice: NDArray[np.float64]) -> bool:
    """Return whether another lattice vector, its negative apart, is as short as one that the frame takes."""
    from crystalframer.geometry.lattice_frame import shortest_independent_vectors

    axes = shortest_independent_vectors(lattice)
    taken = np.linalg.norm(axes, axis=1)
    shell = np.array([n for n in itertools.product(range(-2, 3), repeat=3) if n > (0, 0, 0)])
    lengths = np.linalg.norm(shell @ axes, axis=1)
    return any((np.abs(lengths - length) < DEGENERATE * taken[0]).sum() > 1 for length in taken)


def neighbours_tied(logits: NDArray[np.float64], vector: NDArray[np.float64], first: NDArray[np.int64]) -> float:
    """Return the share of atoms and heads whose first or second axis could be another neighbour's.

    Args:
        logits: (E, H) log-weights up to a constant.
        vector: (E, 3) in Å.
        first: (N + 1,) atom i owns the entries first[i] to first[i + 1], of which the first is the atom itself.
    """
    from crystalframer.kernels.frames import COLLINEAR_TOLERANCE, TIE_TOLERANCE

    tied = []
    for start, stop in zip(first[:-1] + 1, first[1:], strict=True):
        unit = vector[start:stop] / np.linalg.norm(vector[start:stop], axis=1, keepdims=True)
        for score in logits[start:stop].T:
            if len(score) == 0:
                tied.append(True)
                continue
            largest = score >= score.max() - TIE_TOLERANCE
            gap = 1 - np.abs(unit @ unit[int(np.argmax(largest))])
            second = np.where(gap > COLLINEAR_TOLERANCE, score + np.log(np.maximum(gap, COLLINEAR_TOLERANCE)), -np.inf)
            among = np.isfinite(second) & (second >= second.max() - TIE_TOLERANCE)
            tied.append(bool(largest.sum() > 1 or among.sum() != 1))
    return float(np.mean(tied))


def covariances_tied(weights: NDArray[np.float64], vector: NDArray[np.float64], first: NDArray[np.int64]) -> float:
    """Return the share of atoms and heads whose weighted covariance of directions has equal eigenvalues."""
    tied = []
    for start, stop in zip(first[:-1] + 1, first[1:], strict=True):
        unit = vector[start:stop] / np.linalg.norm(vector[start:stop], axis=1, keepdims=True)
        tied += [degenerate(np.einsum("k,kx,ky->xy", weight, unit, unit)) for weight in weights[start:stop].T]
    return float(np.mean(tied))


def draw(table: pd.DataFrame) -> "Figure":
    """Return the figure: the share of tied frames per crystal system."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 2.7), layout="constrained")
    axes = figure.subplots()
    systems = [system for system in reversed(SYSTEMS) if (table["system"] == system).any()]
    frames = [frame for frame in FRAME_LABELS if (table["frame"] == frame).any()]
    width = 0.8 / len(frames)
    shares = table.groupby(["system", "frame"])["tied"].mean()
    for number, frame in enumerate(frames):
        places = np.arange(len(systems)) + width * (number - (len(frames) - 1) / 2)
        heights = [100 * float(shares[system, frame]) for system in systems]
        bars = axes.bar(places, heights, 0.92 * width, color=COLOURS[frame], label=FRAME_LABELS[frame])
        axes.bar_label(bars, ["" if height else "0" for height in heights], fontsize=6)  # measured, none of them tied
    counts = table.drop_duplicates("id")["system"].value_counts()
    axes.set_xticks(range(len(systems)), [f"{system}\n({counts[system]})" for system in systems])
    axes.set_ylim(0, 104)
    axes.set_ylabel("tied frames (% of atoms and heads)")
    axes.set_xlabel("crystal system (test crystals)")
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize=7)
    return figure


def tabulate(table: pd.DataFrame, crystals: int) -> Document:
    """Return the shares by crystal system and over all crystals."""
    systems = [system for system in reversed(SYSTEMS) if (table["system"] == system).any()]
    rows, records = [], []
    for frame, label in FRAME_LABELS.items():
        own = table[table["frame"] == frame]
        if own.empty:
            continue
        shares = own.groupby("system")["tied"].mean()
        rows.append(
            [label, f"{100 * own['tied'].mean():.0f} %", *(f"{100 * shares[system]:.0f} %" for system in systems)]
        )
        records += [{"frame": frame, "system": system, "tied": float(shares[system])} for system in systems]
    title = "Share of atoms and heads whose frame symmetry leaves open"
    note = f"{crystals} test crystals; all crystals count alike, whatever their size."
    return Document(
        "Ties", [Table(title, ["frames", "all", *systems], rows or [[EMPTY]], [note])], records=pd.DataFrame(records)
    )


ITEM = Item("ties", "Ties", "How often symmetry leaves a frame undetermined, by crystal system.", "why", produce)


if __name__ == "__main__":
    raise SystemExit(ITEM.main())
