"""The static frame of a lattice: its shortest independent vectors, one choice for every cell of the same lattice."""

import itertools

import numpy as np
from numpy.typing import NDArray
from pymatgen.core.lattice import Lattice

_SHELL = np.array(list(itertools.product(range(-3, 4), repeat=3)))
_COEFFICIENTS = np.array([n for n in _SHELL if next((x for x in n if x), 0) > 0])
"""One of each pair ±n: of an LLL-reduced cell these reach all of the lattice's successive minima."""
_LENGTH_GRAIN = 1e-6
_FLAT = 1e-6


def shortest_independent_vectors(lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the three shortest linearly independent lattice vectors.

    Args:
        lattice: (3, 3) rows a, b, c in Å, not of zero volume.

    Returns:
        (3, 3) rows in Å, ascending in length. Vectors of equal length (to 1e-6) are taken in descending order of
        their coefficients (n_a, n_b, n_c) in the cell given, whose first one other than zero is positive. So a
        rotation of the crystal rotates the result, also where lengths tie.
    """
    reduced = np.asarray(Lattice(lattice).get_lll_reduced_lattice().matrix)
    coefficients = _COEFFICIENTS @ np.rint(reduced @ np.linalg.inv(lattice))
    coefficients *= np.sign(_first_nonzero(coefficients))[:, None]
    vectors = coefficients @ lattice
    length = np.linalg.norm(vectors, axis=1)
    tie_order = (-coefficients[:, 2], -coefficients[:, 1], -coefficients[:, 0])
    order = np.lexsort((*tie_order, np.rint(length / (_LENGTH_GRAIN * length.min()))))
    vectors, unit = vectors[order], vectors[order] / length[order][:, None]
    second = int(np.argmax(np.linalg.norm(np.cross(unit, unit[0]), axis=1) > _FLAT))
    normal = np.cross(unit[0], unit[second])
    third = int(np.argmax(np.abs(unit @ (normal / np.linalg.norm(normal))) > _FLAT))
    return vectors[[0, second, third]]


def lattice_frame(lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the frame `lattice`: normalised, not orthogonalised, right-handed.

    The shortest lattice vector; the shortest not collinear with it and the shortest outside their plane, each signed
    to an acute angle with the first; all three negated if left-handed. A right angle keeps the sign found.

    Args:
        lattice: (3, 3) rows in Å.

    Returns:
        (3, 3) unit rows e1, e2, e3 with a positive determinant.
    """
    vectors = shortest_independent_vectors(lattice)
    axes = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    obtuse = axes @ axes[0] < -_FLAT
    axes[obtuse] *= -1
    return -axes if np.linalg.det(axes) < 0 else axes


def _first_nonzero(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each row's first entry other than zero."""
    return rows[np.arange(len(rows)), np.argmax(rows != 0, axis=1)]


def orthonormal_axes(frame: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Gram-Schmidt orthonormalisation of a right-handed frame's rows, (3, 3)."""
    first = frame[0] / np.linalg.norm(frame[0])
    second = frame[1] - (frame[1] @ first) * first
    second /= np.linalg.norm(second)
    return np.stack([first, second, np.cross(first, second)])
