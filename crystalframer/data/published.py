"""The published data sets: what the fields of their records are called, and their splits, regenerated.

A split follows from the order of the rows alone: the indices of the n rows that have a finite target are shuffled by
Python's ``random`` seeded with 123; the first n_train are for training, the last n_test for testing and the n_val
before those for validation. n_train, n_val and n_test are ⌊0.8 n⌋, ⌊0.1 n⌋ and ⌊0.1 n⌋, but for `mp` 60,000, 5,000
and 4,239. A row or two between training and validation belong to no split. The moduli of `mp` are published split, one
file a part (`crystalframer.data.preparation.catalogue` lists the files).
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalframer.data.dataset import SPLITS, SplitName
from crystalframer.errors import UserError

SEED = 123
"""Seed of the published shuffles."""
MODULUS_RANGE = (-3.0, 4.0)
"""What a modulus in log10(GPa) can be; anything beyond is taken to be in another unit and refused."""
Ends = Mapping[str, Mapping[SplitName, tuple[str, str]]]


@dataclass(frozen=True)
class OfficialSource:
    """The records of a published data set, one a crystal."""

    id_fields: tuple[str, ...]
    """Field of a record that holds its id: the published name first, then those of common copies."""
    rows: int
    """Records in the main file."""
    fields: Mapping[str, str]
    """Field of a record of the main file that holds the target, by task."""
    counts: Mapping[str, tuple[int, int, int]]
    """Published sizes of the training, validation and test splits by task."""
    ends: Ends = field(default_factory=dict)
    """Known first and last ids of the splits by task."""


_JARVIS = (44578, 5572, 5572)
_JARVIS_ENDS: Mapping[SplitName, tuple[str, str]] = {
    "train": ("JVASP-21450", "JVASP-28366"),
    "val": ("JVASP-68836", "JVASP-5650"),
    "test": ("JVASP-38636", "JVASP-90134"),
}
_MP = (60000, 5000, 4239)
_MP_ENDS: Mapping[SplitName, tuple[str, str]] = {
    "train": ("mp-569112", "mvc-6917"),
    "val": ("mp-558851", "mp-542332"),
    "test": ("mp-554286", "mp-17481"),
}
_OQMD = (654108, 81763, 81763)
_OQMD_ENDS: Mapping[SplitName, tuple[str, str]] = {
    "train": ("838046", "368371"),
    "val": ("897017", "764365"),
    "test": ("820496", "452980"),
}

OFFICIAL: dict[str, OfficialSource] = {
    "jarvis": OfficialSource(
        id_fields=("jid", "id"),
        rows=55723,
        fields={
            "formation_energy": "formation_energy_peratom",
            "total_energy": "optb88vdw_total_energy",
            "bandgap_opt": "optb88vdw_bandgap",
            "bandgap_mbj": "mbj_bandgap",
            "e_hull": "ehull",
        },
        counts={
            "formation_energy": _JARVIS,
            "total_energy": _JARVIS,
            "bandgap_opt": _JARVIS,
            "bandgap_mbj": (14537, 1817, 1817),
            "e_hull": (44296, 5537, 5537),
        },
        ends={
            "formation_energy": _JARVIS_ENDS,
            "total_energy": _JARVIS_ENDS,
            "bandgap_opt": _JARVIS_ENDS,
            "bandgap_mbj": {"train": ("JVASP-11762", "JVASP-12820")},
            "e_hull": {"train": ("JVASP-33661", "JVASP-14073")},
        },
    ),
    "mp": OfficialSource(
        id_fields=("id",),
        rows=69239,
        fields={"formation_energy": "e_form", "bandgap": "gap pbe"},
        counts={
            "formation_energy": _MP,
            "bandgap": _MP,
            "bulk_modulus": (4664, 393, 393),
            "shear_modulus": (4664, 392, 393),
        },
        ends={"formation_energy": _MP_ENDS, "bandgap": _MP_ENDS},
    ),
    "oqmd": OfficialSource(
        id_fields=("_oqmd_entry_id", "id"),
        rows=817636,
        fields={
            "formation_energy": "_oqmd_delta_e",
            "bandgap": "_oqmd_band_gap",
            "e_hull": "_oqmd_stability",
        },
        counts={"formation_energy": _OQMD, "bandgap": (653388, 81673, 81673), "e_hull": _OQMD},
        ends={
            "formation_energy": _OQMD_ENDS,
            "bandgap": {"train": ("307903", "932283")},
            "e_hull": _OQMD_ENDS,
        },
    ),
}
"""The published data sets by name."""


def split_counts(total: int) -> tuple[int, int, int]:
    """Return the sizes of the training, validation and test splits of ``total`` rows, 80/10/10 rounded down."""
    return int(total * 0.8), int(total * 0.1), int(total * 0.1)


def split_indices(total: int, counts: tuple[int, int, int]) -> dict[SplitName, NDArray[np.int64]]:
    """Return the published split of the positions 0 … total − 1, in the published order.

    Args:
        total: rows that have a target.
        counts: sizes of the three splits, at least one row each; together at most ``total``.
    """
    assert min(counts) > 0
    assert sum(counts) <= total
    positions = list(range(total))
    random.Random(SEED).shuffle(positions)
    order = np.array(positions, dtype=np.int64)
    train, val, test = counts
    return {"train": order[:train], "val": order[total - val - test : total - test], "test": order[total - test :]}


def official_split(
    name: str, task: str, ids: NDArray[Any], targets: NDArray[np.float64], *, partial: bool = False
) -> NDArray[np.int8]:
    """Regenerate the split of a task from the rows of its source, in their order.

    Args:
        name: data set.
        task: one of its tasks.
        ids: (n,) of every record of the source, rejected ones included.
        targets: (n,) of every record, NaN or infinite where there is none.
        partial: the source is only a part of the published file: split it by the same rule, 80/10/10.

    Returns:
        (n,) split codes: 0 train, 1 val, 2 test, -1 none.

    Raises:
        UserError: sizes or first and last ids are not the published ones, or a partial source has too few rows.
    """
    usable = np.flatnonzero(np.isfinite(targets))
    where = f"data set {name!r}, task {task!r}"
    expected = OFFICIAL[name].counts[task]
    counts = split_counts(usable.size) if partial else expected
    regenerated = expected if name == "mp" and usable.size == sum(expected) else split_counts(usable.size)
    if not partial and regenerated != expected:
        raise UserError(
            f"{where}: {usable.size} of {targets.size} records have a finite target, which splits into {regenerated}, "
            f"expected {expected}: use the published file, or pass --partial for a split that is not the published one"
        )
    if min(counts) < 1:
        raise UserError(f"{where}: {usable.size} records with a finite target are too few to split 80/10/10")
    split = np.full(targets.size, -1, dtype=np.int8)
    for code, (part, positions) in enumerate(split_indices(usable.size, counts).items()):
        assert SPLITS[code] == part
        rows = usable[positions]
        split[rows] = code
        ends = OFFICIAL[name].ends.get(task, {}).get(part)
        got = (str(ids[rows[0]]), str(ids[rows[-1]]))
        if ends is not None and not partial and got != ends:
            raise UserError(
                f"{where}: the {part} split begins and ends with {got}, expected {ends}: the source's records are "
                "not in the published order; use the published file as it is"
            )
    return split
