"""The frame `lattice` against brute force, and its independence of the cell that describes a lattice."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from pymatgen.core.lattice import Lattice

from crystalframer.geometry.lattice_frame import lattice_frame, orthonormal_axes, shortest_independent_vectors
from tests.fixtures import crystals as c

Array = NDArray[np.float64]
GENERIC = [c.generic_crystal(seed).lattice for seed in range(8)]
CUBIC = {
    "simple": np.eye(3),
    "fcc": np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]),
    "bcc": np.array([[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]]),
    "hexagonal": np.array([[1.0, 0, 0], [-0.5, 0.75**0.5, 0], [0, 0, 1.6]]),
}


def brute_force(lattice: Array, reach: int = 6) -> Array:
    """Return the three shortest independent vectors by trying every coefficient up to `reach`."""
    coefficients = np.array([n for n in itertools.product(range(-reach, reach + 1), repeat=3) if any(n)])
    vectors = coefficients @ lattice
    vectors = vectors[np.argsort(np.linalg.norm(vectors, axis=1), kind="stable")]
    chosen: list[Array] = []
    for vector in vectors:
        if np.linalg.matrix_rank(np.array([*chosen, vector]), tol=1e-6) > len(chosen):
            chosen.append(vector)
        if len(chosen) == 3:
            break
    return np.array(chosen)


def expected_frame(lattice: Array) -> Array:
    """Return the frame by its definition, for a lattice without ties."""
    axes = brute_force(lattice)
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    for axis in axes[1:]:
        axis *= np.sign(axis @ axes[0])
    return axes * np.sign(np.linalg.det(axes))


def up_to_sign(axes: Array) -> Array:
    return axes * np.sign(axes[0, 0])


@pytest.mark.parametrize("number", range(len(GENERIC)))
def test_equals_brute_force(number: int) -> None:
    """The definition leaves the common sign of the first axis to the handedness, so it is unique but for ties."""
    ours, expected = lattice_frame(GENERIC[number]), expected_frame(GENERIC[number])
    np.testing.assert_allclose(ours, expected, atol=1e-12)


@pytest.mark.parametrize("number", range(len(GENERIC)))
def test_does_not_depend_on_the_cell(number: int) -> None:
    lattice = GENERIC[number]
    expected = lattice_frame(lattice)
    others = {f"unimodular {seed}": c.unimodular_matrix(seed) @ lattice for seed in range(10)}
    others["niggli"] = Lattice(lattice).get_niggli_reduced_lattice().matrix
    for name, other in others.items():
        if name == "niggli":  # pymatgen turns the lattice; its lengths and angles stay
            np.testing.assert_allclose(lattice_frame(other) @ lattice_frame(other).T, expected @ expected.T, atol=1e-9)
        else:
            np.testing.assert_allclose(lattice_frame(other), expected, atol=1e-9)


def test_very_skewed_cells_are_reduced() -> None:
    lattice = GENERIC[0]
    skewed = np.array([[1, 0, 0], [40, 1, 0], [-35, 60, 1]]) @ lattice
    np.testing.assert_allclose(lattice_frame(skewed), lattice_frame(lattice), atol=1e-7)


@pytest.mark.parametrize("name", CUBIC)
def test_ties_do_not_depend_on_rounding(name: str) -> None:
    lattice = 3.9 * CUBIC[name]
    expected = lattice_frame(lattice)
    for seed in range(20):
        rotation = c.random_rotation(seed)
        np.testing.assert_allclose(lattice_frame(lattice @ rotation.T) @ rotation, expected, atol=1e-9)


@pytest.mark.parametrize("name", CUBIC)
def test_tied_lattices_have_the_shortest_vectors(name: str) -> None:
    lattice = 3.9 * CUBIC[name]
    ours, expected = shortest_independent_vectors(lattice), brute_force(lattice)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), np.linalg.norm(expected, axis=1))
    assert abs(np.linalg.det(ours)) > 1e-3


@pytest.mark.parametrize("lattice", [*GENERIC, *(3.9 * lattice for lattice in CUBIC.values())])
def test_frame_is_right_handed_and_acute(lattice: Array) -> None:
    for given in (lattice, lattice[[1, 0, 2]], -lattice):
        frame = lattice_frame(given)
        assert np.linalg.det(frame) > 0
        np.testing.assert_allclose(np.linalg.norm(frame, axis=1), 1)
        assert (frame @ frame[0] > -1e-6).all()
        axes = orthonormal_axes(frame)
        np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(axes) == pytest.approx(1)
        np.testing.assert_allclose(axes[0], frame[0])
