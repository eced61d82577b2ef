"""The static frame of a lattice: its shortest independent vectors, one choice for every cell of the same lattice."""

import itertools

import numpy as np
from numpy.typing import NDArray

from crystalframer.environment import kept

_SHELL = itertools.product(range(-3, 4), repeat=3)
_COEFFICIENTS = np.array([n for n in _SHELL if next((x for x in n if x), 0) > 0], dtype=np.float64)
"""One of each pair ±n: of an LLL-reduced cell these reach all of the lattice's successive minima."""
_LENGTH_GRAIN = 1e-6
_FLAT = 1e-6
_MOST_STEPS = 1000
"""Of the reduction, which takes a few; rounding may keep one that has arrived from noticing."""


def shortest_independent_vectors(lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the three shortest linearly independent lattice vectors.

    Args:
        lattice: (3, 3) rows a, b, c in Å, not of zero volume.

    Returns:
        (3, 3) rows in Å, ascending in length. Vectors of equal length (to 1e-6) are taken in descending order of
        their coefficients (n_a, n_b, n_c) in the cell given, whose first one other than zero is positive. So a
        rotation of the crystal rotates the result, also where lengths tie.
    """
    lattice = np.ascontiguousarray(lattice, dtype=np.float64)
    coefficients = _COEFFICIENTS @ reducing_coefficients(lattice)
    chosen = _first_independent(coefficients, coefficients @ lattice)
    return (coefficients @ lattice)[chosen]


@kept()
def reducing_coefficients(lattice):
    """Return the unimodular integers U, (3, 3) float64, that make U @ lattice a reduced basis (LLL, δ = 3/4)."""
    whole = np.eye(3)
    basis = lattice.copy()
    k = 1
    for _ in range(_MOST_STEPS):
        orthogonal, mu = _gram_schmidt(basis)
        for j in range(k - 1, -1, -1):
            times = np.rint(mu[k, j])
            if times != 0.0:
                whole[k] -= times * whole[j]
                for x in range(3):
                    basis[k, x] = (
                        whole[k, 0] * lattice[0, x] + whole[k, 1] * lattice[1, x] + whole[k, 2] * lattice[2, x]
                    )
                orthogonal, mu = _gram_schmidt(basis)
        if (orthogonal[k] ** 2).sum() >= (0.75 - mu[k, k - 1] ** 2) * (orthogonal[k - 1] ** 2).sum():
            k += 1
            if k == 3:
                break
        else:
            for x in range(3):
                whole[k, x], whole[k - 1, x] = whole[k - 1, x], whole[k, x]
                basis[k, x], basis[k - 1, x] = basis[k - 1, x], basis[k, x]
            k = max(k - 1, 1)
    return whole


@kept()
def _gram_schmidt(basis):
    """Return the orthogonal vectors of a basis' rows and their coefficients, (3, 3) each."""
    orthogonal, mu = basis.copy(), np.zeros((3, 3))
    for i in range(3):
        for j in range(i):
            mu[i, j] = (basis[i] * orthogonal[j]).sum() / (orthogonal[j] ** 2).sum()
            orthogonal[i] -= mu[i, j] * orthogonal[j]
    return orthogonal, mu


@kept()
def _first_independent(coefficients, vectors):
    """Return the places, (3,), of the first three independent vectors; turns rows to a positive first coefficient."""
    count = len(vectors)
    length = np.empty(count)
    for n in range(count):
        c = coefficients[n]
        if c[0] < 0 or (c[0] == 0 and (c[1] < 0 or (c[1] == 0 and c[2] < 0))):
            coefficients[n] *= -1.0
        length[n] = np.sqrt((vectors[n] ** 2).sum())
    grains = np.rint(length / (_LENGTH_GRAIN * length.min()))
    chosen = np.full(3, -1)
    normal = np.zeros(3)
    for place in range(3):
        best = -1
        for n in range(count):
            if best >= 0 and not _is_before(grains, coefficients, n, best):
                continue
            unit = vectors[n] / length[n]
            if place == 1:
                side = np.cross(unit, vectors[chosen[0]] / length[chosen[0]])
                if not np.sqrt((side**2).sum()) > _FLAT:
                    continue
            if place == 2 and not abs((unit * normal).sum()) > _FLAT:
                continue
            best = n
        chosen[place] = best
        if place == 1:
            normal = np.cross(vectors[chosen[0]] / length[chosen[0]], vectors[best] / length[best])
            normal /= np.sqrt((normal**2).sum())
    return chosen


@kept()
def _is_before(grains, coefficients, n, m):
    """Whether vector n comes before vector m: shorter, or of equal length and larger coefficients."""
    if grains[n] != grains[m]:
        return grains[n] < grains[m]
    for x in range(3):
        if coefficients[n, x] != coefficients[m, x]:
            return coefficients[n, x] > coefficients[m, x]
    return False


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


def orthonormal_axes(frame: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Gram-Schmidt orthonormalisation of a right-handed frame's rows, (3, 3)."""
    first = frame[0] / np.linalg.norm(frame[0])
    second = frame[1] - (frame[1] @ first) * first
    second /= np.linalg.norm(second)
    third = first[[1, 2, 0]] * second[[2, 0, 1]] - first[[2, 0, 1]] * second[[1, 2, 0]]
    return np.stack([first, second, third])
