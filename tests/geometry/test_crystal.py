"""A crystal is checked once, with a message that names it, and agrees with pymatgen on what its rows mean."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import DummySpecies
from pymatgen.core.structure import Structure

from crystalframer.errors import UserError
from crystalframer.geometry.crystal import ELEMENTS, MIN_DISTANCE, Crystal, close_pair

TRICLINIC = np.array([[4.1, 0.2, -0.3], [1.7, 5.2, 0.4], [-0.9, 1.3, 6.6]])
COORDS = np.array([[0.1, 0.2, 0.3], [0.55, 0.4, 0.9], [1.25, -0.35, 2.5]])
NUMBERS = np.array([3, 8, 98])


def test_lattice_rows_agree_with_pymatgen_on_a_triclinic_cell() -> None:
    lattice = Lattice.from_parameters(4.0, 5.0, 6.0, 70.0, 95.0, 110.0)
    structure = Structure(lattice, ["Na", "Cl", "O"], COORDS)
    crystal = Crystal.from_structure(structure, "x")
    assert crystal.cart_coords == pytest.approx(structure.cart_coords, abs=1e-12)
    assert crystal.volume == pytest.approx(structure.volume)
    assert [ELEMENTS[z - 1] for z in crystal.atomic_numbers] == ["Na", "Cl", "O"]
    # the row convention itself: the first vector has length a, and rows, not columns, span the cell
    assert np.linalg.norm(crystal.lattice, axis=1) == pytest.approx([4.0, 5.0, 6.0])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_structure_round_trip_is_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    lattice = TRICLINIC + rng.normal(size=(3, 3), scale=0.3)
    coords = COORDS + rng.normal(size=(3, 3), scale=0.02) + rng.integers(-3, 4, size=(3, 3))
    crystal = Crystal(lattice, coords, rng.integers(1, 104, size=3), "x")
    back = Crystal.from_structure(crystal.to_structure(), "x")
    assert np.array_equal(back.lattice, crystal.lattice)
    assert np.array_equal(back.frac_coords, crystal.frac_coords)
    assert np.array_equal(back.atomic_numbers, crystal.atomic_numbers)


def test_symbols_are_pymatgens() -> None:
    from pymatgen.core.periodic_table import Element

    assert list(ELEMENTS) == [Element.from_Z(z).symbol for z in range(1, 119)]


def test_oxidation_states_are_dropped() -> None:
    structure = Structure(TRICLINIC, ["Li+", "O2-", "O2-"], COORDS)
    assert Crystal.from_structure(structure).atomic_numbers.tolist() == [3, 8, 8]


@pytest.mark.parametrize(
    ("lattice", "coords"),
    [
        pytest.param(-TRICLINIC, COORDS, id="left-handed"),
        pytest.param(np.array([[3.0, 0, 0], [29.9, 3, 0], [-14.9, 44.9, 3]]), COORDS, id="skewed"),
        pytest.param(np.diag([2.5, 2.5, 120.0]), COORDS, id="thin"),
        pytest.param(TRICLINIC, COORDS + np.array([7, -12, 3]), id="unwrapped"),
        pytest.param(np.array([[0, 2.0, 2.0], [2.0, 0, 2.0], [2.0, 2.0, 0]]), np.zeros((1, 3)), id="one-atom"),
        pytest.param(np.array([[100.0, 0, 0], [0, 100, 0], [37.3, 61.9, 0.05]]), np.zeros((1, 3)), id="flat basis"),
    ],
)
def test_unusual_cells_are_valid(lattice: NDArray[np.float64], coords: NDArray[np.float64]) -> None:
    crystal = Crystal(lattice, coords, NUMBERS[: len(coords)])
    assert crystal.num_atoms == len(coords)
    assert crystal.volume > 0


def test_arrays_are_read_only_copies() -> None:
    lattice = TRICLINIC.copy()
    crystal = Crystal(lattice, COORDS, NUMBERS)
    lattice[0, 0] = 99
    assert crystal.lattice[0, 0] == TRICLINIC[0, 0]
    with pytest.raises(ValueError, match="read-only"):
        crystal.lattice[0, 0] = 1


SLAB = np.diag([3.0, 3.0, 3.0])
ORIGIN = np.zeros((1, 3))
HYDROGEN = np.array([1])


@pytest.mark.parametrize(
    ("lattice", "coords", "numbers", "message"),
    [
        (np.eye(2), ORIGIN, HYDROGEN, r"lattice has shape \(2, 2\), expected \(3, 3\)"),
        (SLAB, np.zeros((2, 3)), HYDROGEN, r"frac_coords has shape \(2, 3\), expected \(1, 3\)"),
        (SLAB, np.zeros((0, 3)), np.array([], dtype=int), r"atomic_numbers has shape \(0,\)"),
        (SLAB * np.nan, ORIGIN, HYDROGEN, "lattice has numbers that are not finite"),
        (SLAB, ORIGIN + np.inf, HYDROGEN, "frac_coords has numbers that are not finite"),
        (SLAB, ORIGIN, np.array([0]), r"atomic number \[0\] is not an element, expected 1 to 118"),
        (SLAB, ORIGIN, np.array([119]), r"atomic number \[119\] is not an element"),
        (SLAB, ORIGIN, np.array([6.5]), "atomic_numbers are of type float64, expected integers"),
        (np.ones((3, 3)), ORIGIN, HYDROGEN, "volume is .* Å³, expected at least 0.001 Å³"),
        (np.array([["a"] * 3] * 3), ORIGIN, HYDROGEN, "lattice is not an array of numbers"),
    ],
)
def test_bad_input_names_the_crystal(
    lattice: NDArray[np.float64], coords: NDArray[np.float64], numbers: NDArray[np.int64], message: str
) -> None:
    with pytest.raises(UserError, match=f"^crystal 'mp-0': .*{message}"):
        Crystal(lattice, coords, numbers, "mp-0")


@pytest.mark.parametrize(
    ("lattice", "coords", "message"),
    [
        (SLAB, [[0, 0, 0], [0.02, 0, 0]], r"atoms Li \(number 0\) and O \(number 1\) overlap: 0.06 Å"),
        (SLAB, [[0.01, 0, 0], [0.99, 1, -4]], r"atoms Li \(number 0\) and O \(number 1\) overlap: 0.06 Å"),
        (SLAB, [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]], "overlap: 0 Å"),
        (np.diag([0.09, 3, 3]), [[0, 0, 0]], r"atom Li \(number 0\) is on top of its own periodic image: 0.09 Å"),
        (np.array([[9.0, 0, 0], [0, 9, 0], [9, 9, 0.05]]), [[0, 0, 0]], "its own periodic image: 0.05 Å"),
        (np.array([[100.0, 0, 0], [0, 100, 0], [37.3, 61.9, 1e-5]]), [[0, 0, 0]], "its own periodic image: 0.01 Å"),
    ],
)
def test_atoms_on_top_of_one_another(lattice: NDArray[np.float64], coords: list[list[float]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Crystal(lattice, np.array(coords), NUMBERS[: len(coords)])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_overlap_is_found_exactly_when_brute_force_finds_it(seed: int) -> None:
    """Random skewed, possibly left-handed cells with a distance near the limit; every image within ±6 is tried."""
    rng = np.random.default_rng(seed)
    lattice = rng.normal(size=(3, 3), scale=3)
    lattice[2] += rng.integers(-2, 3) * lattice[0]
    if abs(np.linalg.det(lattice)) < 3:
        return
    step = rng.normal(size=3)
    step *= rng.uniform(0.5, 1.5) * MIN_DISTANCE / np.linalg.norm(step)
    cart = np.stack([np.zeros(3), step, rng.random(3) @ lattice])
    coords = cart @ np.linalg.inv(lattice) + rng.integers(-2, 3, size=(3, 3))
    wrapped = coords - np.floor(coords)
    images = np.array(list(itertools.product(range(-6, 7), repeat=3))) @ lattice
    distances = np.linalg.norm((wrapped[:, None, None] - wrapped[None, :, None]) @ lattice + images, axis=-1)
    distances[np.eye(3, dtype=bool)[:, :, None] & (np.abs(images).sum(axis=1) == 0)] = np.inf
    if distances.min() < MIN_DISTANCE:
        with pytest.raises(UserError, match=f"{distances.min():.3g} Å apart"):
            Crystal(lattice, coords, NUMBERS)
    else:
        Crystal(lattice, coords, NUMBERS)


def test_the_check_stays_cheap_for_a_large_empty_cell() -> None:
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    for _ in range(20):
        Crystal(np.diag([200.0, 150.0, 180.0]), rng.random((8, 3)), np.full(8, 6))
    assert time.perf_counter() - start < 1.0  # about 3 ms; a search with the bare limit takes 2 s a crystal


def test_structures_that_are_no_crystal_of_elements() -> None:
    dummy = Structure(TRICLINIC, ["Na", DummySpecies("X"), "O"], COORDS)
    with pytest.raises(UserError, match=r"site 1 holds X.*not an element"):
        Crystal.from_structure(dummy, "x")
    slab = Structure(Lattice(TRICLINIC, pbc=(True, True, False)), ["Na", "Cl", "O"], COORDS)
    with pytest.raises(UserError, match="not periodic along all three"):
        Crystal.from_structure(slab, "x")


def test_sites_that_crowd_are_noticed_in_near_linear_time() -> None:
    """Searched pair by pair, 20,000 sites in one place take minutes and gigabytes."""
    rng = np.random.default_rng(0)
    cell = np.diag([50.0, 40.0, 60.0])
    apart = (np.indices((30, 30, 30)).reshape(3, -1).T[:20_000] + 0.5) / 30
    began = time.process_time()
    for coords in (np.full((20_000, 3), 0.3), 0.3 + 1e-4 * rng.random((20_000, 3)), np.vstack([apart, apart])):
        pair = close_pair(cell, coords, 0.5)
        assert pair is not None
        i, j, distance = pair
        assert i < j
        assert distance == pytest.approx(np.linalg.norm((coords[i] - coords[j]) @ cell), abs=1e-9)
        assert distance < 0.5
        with pytest.raises(UserError, match="overlap"):
            Crystal(cell, coords, np.ones(len(coords), dtype=np.int64))
    assert close_pair(cell, apart, 0.5) is None
    assert time.process_time() - began < 10
