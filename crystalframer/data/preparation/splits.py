"""Splits: the published ones, regenerated, and those of users' own crystals by the hash of the formula.

A published split follows from the order of the rows alone: the indices of the n rows that have a finite target are
shuffled by Python's ``random`` seeded with 123; the first n_train are for training, the last n_test for testing and the
n_val before those for validation. n_train, n_val and n_test are ⌊0.8 n⌋, ⌊0.1 n⌋ and ⌊0.1 n⌋, but for `mp` 60,000,
5,000 and 4,239. A row or two between training and validation belong to no split. The moduli of `mp` are published
split, one file a part.
"""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalframer.data.dataset import SPLITS, SplitName, hashed_share
from crystalframer.errors import UserError
from crystalframer.published import PUBLISHED

SEED = 123
"""Seed of the published shuffles."""
FEW_MATERIALS = 200
"""Fewer formulas are cut in order of their hashes, so that no part of the split is empty."""


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


def published_split(
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
    published = PUBLISHED[name].tasks[task]
    expected = published.counts
    counts = split_counts(usable.size) if partial else expected
    regenerated = expected if published.rounded and usable.size == sum(expected) else split_counts(usable.size)
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
        ends = published.ends.get(part)
        got = (str(ids[rows[0]]), str(ids[rows[-1]]))
        if ends is not None and not partial and got != ends:
            raise UserError(
                f"{where}: the {part} split begins and ends with {got}, expected {ends}: the source's records are "
                "not in the published order; use the published file as it is"
            )
    return split


def split_by_formula(formulas: Sequence[str], seed: int, train: float, val: float) -> NDArray[np.int8]:
    """Split materials by the hash of their reduced formula: one material is never on both sides.

    Where u, the `hashed_share` of SEED:FORMULA, is below `train` it is trained on, below `train` + `val` validated on,
    else tested on; more crystals move none of these.
    Of fewer than `FEW_MATERIALS` formulas, u is replaced by the formula's rank, so that each part gets its share and,
    of three formulas or more, at least one.
    """
    hashed = {formula: hashed_share(f"{seed}:{formula}") for formula in set(formulas)}
    count = len(hashed)
    if count < FEW_MATERIALS:
        num_val = max(1, round(val * count))
        num_test = max(1, round((1 - train - val) * count))
        num_train = max(1, count - num_val - num_test)
        ranked = sorted(hashed, key=hashed.__getitem__)
        code = {name: 0 if k < num_train else 1 if k < num_train + num_val else 2 for k, name in enumerate(ranked)}
    else:
        code = {name: 0 if u < train else 1 if u < train + val else 2 for name, u in hashed.items()}
    return np.array([code[formula] for formula in formulas], dtype=np.int8)
