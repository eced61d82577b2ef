"""Which crystals share a batch."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crystalframer.data.batching import packed_batches, shuffled_batches


@given(st.lists(st.integers(1, 60), max_size=80), st.integers(1, 100))
def test_packing_holds_every_crystal_once_within_the_budget(sizes: list[int], max_atoms: int) -> None:
    array = np.array(sizes, dtype=np.int64)
    batches = packed_batches(array, max_atoms)
    assert sorted(np.concatenate([*batches, np.empty(0, dtype=np.int64)]).tolist()) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) == 1 or array[batch].sum() <= max_atoms


@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(1, 100))
def test_packing_goes_from_large_to_small_and_leaves_no_room_unused(sizes: list[int], max_atoms: int) -> None:
    array = np.array(sizes, dtype=np.int64)
    batches = packed_batches(array, max_atoms)
    assert (np.diff(array[np.concatenate(batches)]) <= 0).all()
    for batch, following in itertools.pairwise(batches):
        assert array[batch].sum() + array[following[0]] > max_atoms


def test_equal_sizes_keep_their_order() -> None:
    assert [batch.tolist() for batch in packed_batches(np.array([2, 3, 2, 3, 2]), 5)] == [[1], [3, 0], [2, 4]]


@pytest.mark.parametrize(("count", "batch_size", "batches"), [(10, 3, 3), (9, 3, 3), (3, 3, 1), (2, 3, 0)])
def test_shuffling_drops_the_incomplete_last_batch(count: int, batch_size: int, batches: int) -> None:
    drawn = shuffled_batches(count, batch_size, torch.Generator().manual_seed(0))
    assert [len(batch) for batch in drawn] == [batch_size] * batches
    positions = [int(position) for batch in drawn for position in batch]
    assert len(set(positions)) == len(positions)
    assert all(0 <= position < count for position in positions)


def test_shuffling_follows_its_generator() -> None:
    generator = torch.Generator().manual_seed(5)
    first, second = (np.concatenate(shuffled_batches(50, 10, generator)) for _ in range(2))
    again = np.concatenate(shuffled_batches(50, 10, torch.Generator().manual_seed(5)))
    assert (first == again).all()
    assert (first != second).any()
