"""Neighbour lists of many crystals at once are those of one at a time, entry by entry."""

import numpy as np
import pytest
import torch

from crystalframer.data.sample import load_sample
from crystalframer.geometry import batched_neighbours
from crystalframer.geometry.batched_neighbours import find_neighbours_of_all
from crystalframer.geometry.crystal import Crystal
from crystalframer.geometry.neighbours import find_neighbours
from tests.geometry.test_neighbours import CELLS


def assert_same_lists(crystals: list[Crystal], cutoff: float) -> None:
    found = find_neighbours_of_all(crystals, cutoff, dtype=torch.float64)
    lists = [find_neighbours(crystal.lattice, crystal.cart_coords, cutoff) for crystal in crystals]
    assert found.degree.tolist() == np.concatenate([np.diff(entry.first) for entry in lists]).tolist()
    assert found.index.tolist() == np.concatenate([entry.index for entry in lists]).tolist()
    vectors = np.concatenate([entry.vector for entry in lists])
    np.testing.assert_allclose(found.vector.numpy(), vectors, rtol=0, atol=1e-11)


@pytest.mark.parametrize("cutoff", [2.1, 5.2])
@pytest.mark.parametrize("name", CELLS)
def test_each_kind_of_cell(name: str, cutoff: float) -> None:
    assert_same_lists([CELLS[name]], cutoff)


def test_all_kinds_of_cells_together() -> None:
    assert_same_lists(list(CELLS.values()), 4.4)


def test_real_crystals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched_neighbours, "MAX_CANDIDATES", 10**5)
    sample = load_sample()
    assert_same_lists([sample[row] for row in range(0, len(sample), 97)], 6.01)


def test_large_cells_go_to_the_cell_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched_neighbours, "MAX_ATOMS", 6)
    assert_same_lists(list(CELLS.values()), 4.4)
