"""Neighbour lists against pymatgen's, for cells of every kind, and the order of their entries."""

import numpy as np
import pytest
from numpy.typing import NDArray
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from crystalframer.geometry.crystal import Crystal
from crystalframer.geometry.neighbours import DISTANCE_GRAIN, Neighbours, find_neighbours, sorting_order
from tests.fixtures import crystals as c

ORIGIN = [[0.0, 0.0, 0.0]]
SKEWED = np.array([[3.0, 0, 0], [9.1, 3.2, 0], [-7.3, 11.0, 3.5]])


def cells() -> dict[str, Crystal]:
    """Return crystals that neighbour searches get wrong."""
    random = np.random.default_rng(0)
    generic = c.generic_crystal(1, num_atoms=5)
    return {
        "generic": generic,
        "skewed": c.crystal(SKEWED, [*ORIGIN, [0.31, 0.42, 0.53]], [1, 2]),
        "thin": Crystal(np.diag([2.6, 2.9, 38.0]), random.uniform(0, 1, (7, 3)) * [1, 1, 0.5], np.arange(1, 8)),
        "left-handed": c.mirrored(c.generic_crystal(2, num_atoms=4)),
        "unwrapped": c.rewrapped(generic, 3),
        "one atom": c.generic_crystal(4, num_atoms=1),
        "one atom skewed": c.crystal(SKEWED, ORIGIN, [3]),
        "rocksalt": c.symmetric_crystals()["rocksalt"],
        "isolated": c.symmetric_crystals()["isolated"],
        "many atoms": Crystal(14 * np.eye(3), random.uniform(0, 1, (40, 3)), np.full(40, 6)),
    }


CELLS = cells()


def entries_of(found: Neighbours) -> NDArray[np.float64]:
    """Return rows (i, j, image, distance) without the atoms themselves, sorted."""
    centre = np.repeat(np.arange(len(found.first) - 1), np.diff(found.first))
    distance = np.linalg.norm(found.vector, axis=1)
    rows = np.column_stack([centre, found.index, found.image, distance])[distance > 0]
    return rows[np.lexsort(rows.T[4::-1])]


def entries_of_pymatgen(crystal: Crystal, cutoff: float) -> NDArray[np.float64]:
    structure = Structure(Lattice(crystal.lattice), ["H"] * crystal.num_atoms, crystal.frac_coords)
    centre, index, image, distance = structure.get_neighbor_list(cutoff, exclude_self=True)
    rows = np.column_stack([centre, index, image, distance])
    return rows[np.lexsort(rows.T[4::-1])]


@pytest.mark.parametrize("cutoff", [1.9, 4.7, 8.01, 13.3])
@pytest.mark.parametrize("name", CELLS)
def test_neighbours_equal_those_of_pymatgen(name: str, cutoff: float) -> None:
    crystal = CELLS[name]
    ours = entries_of(find_neighbours(crystal.lattice, crystal.cart_coords, cutoff, images=True))
    theirs = entries_of_pymatgen(crystal, cutoff)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=1e-8)


@pytest.mark.parametrize("name", CELLS)
def test_vector_leads_from_an_atom_to_the_image_of_its_neighbour(name: str) -> None:
    crystal = CELLS[name]
    found = find_neighbours(crystal.lattice, crystal.cart_coords, 6.0, images=True)
    centre = np.repeat(np.arange(crystal.num_atoms), np.diff(found.first))
    position = crystal.cart_coords
    expected = position[found.index] + found.image @ crystal.lattice - position[centre]
    np.testing.assert_allclose(found.vector, expected, atol=1e-10)


@pytest.mark.parametrize("name", CELLS)
def test_order_is_the_atom_itself_then_distance_index_image(name: str) -> None:
    crystal = CELLS[name]
    found = find_neighbours(crystal.lattice, crystal.cart_coords, 6.0, images=True)
    assert found.first[0] == 0
    assert found.first[-1] == len(found.index) == len(found.vector) == len(found.image)
    for atom, (start, stop) in enumerate(zip(found.first[:-1], found.first[1:], strict=True)):
        assert found.index[start] == atom
        assert not found.vector[start].any()
        assert not found.image[start].any()
        distance = np.linalg.norm(found.vector[start + 1 : stop], axis=1)
        assert (distance > 0.1).all()
        rows = np.column_stack([found.index, found.image])[start + 1 : stop].tolist()
        for before, after in zip(range(len(rows) - 1), range(1, len(rows)), strict=True):
            step = distance[after] - distance[before]
            assert step > -DISTANCE_GRAIN
            assert step > 1e-9 or rows[before] < rows[after]


@pytest.mark.parametrize("edge", [4.0, 4.00001, 4.21071, 3.573])
def test_rounding_does_not_reorder_equal_distances(edge: float) -> None:
    """Edges of few decimals: half of 4.00001 lies where grains of 1e-5 would meet."""
    fcc = edge * np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    rocksalt = c.crystal(fcc, [*ORIGIN, [0.5, 0.5, 0.5]], [3, 8])
    expected = find_neighbours(rocksalt.lattice, rocksalt.cart_coords, 7.5, images=True)
    for seed in range(10):
        moved = c.translated(c.rotated(rocksalt, c.random_rotation(seed)), seed)
        found = find_neighbours(moved.lattice, moved.cart_coords, 7.5, images=True)
        np.testing.assert_array_equal(found.index, expected.index)
        np.testing.assert_array_equal(found.image, expected.image)


@pytest.mark.parametrize("name", CELLS)
def test_one_key_and_five_keys_sort_alike(name: str) -> None:
    crystal = CELLS[name]
    found = find_neighbours(crystal.lattice, crystal.cart_coords, 6.0, images=True)
    shuffled = np.random.default_rng(0).permutation(len(found.index))
    centre = np.repeat(np.arange(crystal.num_atoms), np.diff(found.first))
    expected = np.argsort(shuffled)
    index, image, distance = found.index[shuffled].astype(np.int64), found.image[shuffled], found.distance[shuffled]
    by_one = sorting_order(centre[shuffled], index, image, distance)
    by_five = sorting_order(centre[shuffled], index, image, distance, room=0)
    np.testing.assert_array_equal(by_one, expected)
    np.testing.assert_array_equal(by_five, expected)


@pytest.mark.parametrize("name", CELLS)
def test_single_precision_rounds_what_double_precision_lists(name: str) -> None:
    crystal = CELLS[name]
    expected = find_neighbours(crystal.lattice, crystal.cart_coords, 6.0)
    found = find_neighbours(crystal.lattice, crystal.cart_coords, 6.0, dtype=np.float32)
    np.testing.assert_array_equal(found.index, expected.index)
    np.testing.assert_array_equal(found.vector, expected.vector.astype(np.float32))
    np.testing.assert_array_equal(found.distance, expected.distance.astype(np.float32))
    np.testing.assert_array_equal(expected.distance, np.linalg.norm(expected.vector, axis=1))
