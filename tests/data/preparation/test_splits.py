"""The regenerated splits are the published ones."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crystalframer.data.dataset import SPLITS, SplitName
from crystalframer.data.preparation.splits import published_split, split_counts, split_indices
from crystalframer.errors import UserError
from crystalframer.published import PUBLISHED

SHARED = Path(__file__).parents[4] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="development data ../shared/data is not there")


def load(name: str) -> dict[str, NDArray[Any]]:
    with np.load(SHARED / name, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


@pytest.fixture(scope="module")
def published() -> dict[str, NDArray[Any]]:
    return load("crystalframer_official_split_indices.npz")


def test_tasks_have_units_and_published_counts() -> None:
    for name, published in PUBLISHED.items():
        for task in published.tasks.values():
            assert task.unit, name
            assert min(task.counts) > 0, name
            assert bool(task.ends) <= bool(task.record_field), name


def test_counts_follow_from_the_number_of_rows() -> None:
    rows = {"formation_energy": 55723, "bandgap_mbj": 18172, "e_hull": 55371}
    assert {task: split_counts(n) for task, n in rows.items()} == {
        task: PUBLISHED["jarvis"].tasks[task].counts for task in rows
    }
    assert split_counts(817636) == PUBLISHED["oqmd"].tasks["formation_energy"].counts
    assert split_counts(816735) == PUBLISHED["oqmd"].tasks["bandgap"].counts


@needs_shared
@pytest.mark.parametrize(
    ("key", "name", "task", "rows"),
    [
        ("jarvis__dft_3d_2021", "jarvis", "formation_energy", 55723),
        ("jarvis__megnet", "mp", "bandgap", 69239),
        ("jarvis__oqmd_3d", "oqmd", "e_hull", 817636),
    ],
)
def test_indices_of_complete_targets(
    published: dict[str, NDArray[Any]], key: str, name: str, task: str, rows: int
) -> None:
    indices = split_indices(rows, PUBLISHED[name].tasks[task].counts)
    parts = [part for part in indices if f"{key}__SPLIT__{part}" in published]
    assert parts == (["val", "test"] if name == "oqmd" else ["train", "val", "test"])
    for part in parts:
        assert np.array_equal(indices[part], published[f"{key}__SPLIT__{part}"]), part


@needs_shared
@pytest.mark.parametrize(
    ("key", "name", "task", "usable", "rows"),
    [
        ("jarvis__dft_3d_2021", "jarvis", "total_energy", 55723, 55723),
        ("jarvis__dft_3d_2021-ehull", "jarvis", "e_hull", 55371, 55723),
        ("jarvis__dft_3d_2021-mbj_bandgap", "jarvis", "bandgap_mbj", 18172, 55723),
    ],
)
def test_jarvis_splits_equal_the_published_rows(
    published: dict[str, NDArray[Any]], key: str, name: str, task: str, usable: int, rows: int
) -> None:
    """Published indices count all rows; which rows have a target follows from them, but for the one in no split."""
    parts = {part: published[f"{key}__SPLIT__{part}"] for part in SPLITS}
    codes = np.full(rows, -1, dtype=np.int8)
    ids = np.array([f"row-{row}" for row in range(rows)], dtype=object)
    for code, part in enumerate(SPLITS):
        codes[parts[part]] = code
        if part in PUBLISHED[name].tasks[task].ends:
            ids[parts[part][[0, -1]]] = PUBLISHED[name].tasks[task].ends[part]
    targets = np.where(codes >= 0, 1.0, np.nan)
    left_over = next(iter(set(range(usable)) - {int(i) for x in our_indices(name, task, usable).values() for i in x}))
    with_target = np.flatnonzero(codes >= 0)  # the row in no split is the left_over-th of those with a target
    gap = np.arange(with_target[left_over - 1] + 1, with_target[left_over])
    assert gap.size, "no room for the row that is in no split"
    targets[gap[0]] = 1.0
    assert np.array_equal(published_split(name, task, ids, targets), codes)
    with pytest.raises(UserError, match=r"the train split begins and ends with .* not in the published order"):
        published_split(name, task, ids[::-1], targets)


@needs_shared
def test_oqmd_gap_leads_to_the_published_rows(published: dict[str, NDArray[Any]]) -> None:
    """Which rows have a gap is not at hand: one increasing map must lead from our positions to the published rows."""
    indices = our_indices("oqmd", "bandgap", 816735)
    ours = np.concatenate([indices["val"], indices["test"]])
    theirs = [published[f"jarvis__oqmd_3d-bandgap__SPLIT__{part}"].astype(np.int64) for part in ("val", "test")]
    skipped = (np.concatenate(theirs) - ours)[np.argsort(ours)]
    assert (np.diff(skipped) >= 0).all()
    assert 0 <= skipped[0] <= skipped[-1] <= 817636 - 816735


@needs_shared
def test_jarvis_ids_agree_with_the_published_rows(published: dict[str, NDArray[Any]]) -> None:
    """Ids are listed in another order, without 11 repeated rows: compare how many are where in the three splits."""
    listed = load("jarvis_dft3d2021_targets_official.npz")
    codes = np.full((55723, 3), 255)
    for column, suffix in enumerate(("", "-mbj_bandgap", "-ehull")):
        for code, part in enumerate(SPLITS):
            codes[published[f"jarvis__dft_3d_2021{suffix}__SPLIT__{part}"], column] = code
    rows = Counter(map(tuple, codes.tolist()))
    ids = Counter(zip(*(listed[key].tolist() for key in ("split", "split_mbj", "split_ehull")), strict=True))
    for repeated in [key for key in ids if 254 in key]:
        del ids[repeated]
    assert not ids - rows
    assert (rows - ids).total() <= 22


@needs_shared
def test_mp_ids_and_splits_are_the_published_ones() -> None:
    official = load("mp2018_megnet_targets_official.npz")
    for task, key in (("formation_energy", "y_e_form"), ("bandgap", "y_bandgap")):
        split = published_split("mp", task, official["ids"], official[key])
        assert np.array_equal(split, official["split"].astype(np.int8))


def our_indices(name: str, task: str, usable: int) -> dict[SplitName, NDArray[np.int64]]:
    return split_indices(usable, PUBLISHED[name].tasks[task].counts)


def test_a_source_that_is_not_the_published_one() -> None:
    ids, targets = np.array([f"id-{i}" for i in range(100)]), np.where(np.arange(100) % 5 == 0, np.nan, 1.0)
    with pytest.raises(
        UserError, match=r"80 of 100 records .* splits into \(64, 8, 8\), expected \(60000, 5000, 4239\)"
    ):
        published_split("mp", "bandgap", ids, targets)
    split = published_split("mp", "bandgap", ids, targets, partial=True)
    assert [int((split == code).sum()) for code in (-1, 0, 1, 2)] == [20, 64, 8, 8]
    assert (split[np.isnan(targets)] == -1).all()
    with pytest.raises(UserError, match="9 records with a finite target are too few to split"):
        published_split("mp", "bandgap", ids[:9], np.ones(9), partial=True)


def test_rows_in_another_order_are_noticed() -> None:
    ids = np.array([f"mp-{i}" for i in range(69239)])
    with pytest.raises(UserError, match=r"begins and ends with .*, expected \('mp-569112', 'mvc-6917'\)"):
        published_split("mp", "bandgap", ids, np.ones(69239))
