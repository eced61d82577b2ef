"""Neighbours of every atom of a crystal within a cutoff, over all periodic images."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import vesin
from numpy.typing import DTypeLike, NDArray

DISTANCE_GRAIN = 1e-5
"""Å; distances that agree to this are listed by neighbour index and image, so rounding cannot reorder equals."""
GRAIN_OFFSET = 0.1416
"""Keeps distances of few decimals, which are many, away from the limits between grains."""

_NO_IMAGES = np.empty((0, 3), np.int32)


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Neighbour list in compressed rows: the neighbours of atom i are entries first[i] to first[i + 1].

    The first entry of every atom is the atom itself at distance zero; the others follow in the order of
    (distance, neighbour index, image), with distances compared on a grid of `DISTANCE_GRAIN`.
    """

    first: NDArray[np.int64]
    """(N + 1,) start of each atom's entries."""
    index: NDArray[np.int32]
    """(E,) the neighbouring atom j."""
    vector: NDArray[Any]
    """(E, 3) r = p_j + n·L − p_i in Å."""
    distance: NDArray[Any]
    """(E,) |r| in Å, rounded once from float64."""
    image: NDArray[np.int32]
    """(E, 3) the lattice image n; (0, 3) where it was not asked for."""


def find_neighbours(
    lattice: NDArray[np.float64],
    cart_coords: NDArray[np.float64],
    cutoff: float,
    *,
    dtype: DTypeLike = np.float64,
    images: bool = False,
) -> Neighbours:
    """List all periodic neighbours within a sphere.

    Exact for skewed, thin, left-handed and one-atom cells and for atoms outside the cell (vesin's cell lists).

    Args:
        lattice: (3, 3) rows a, b, c in Å.
        cart_coords: (N, 3) in Å.
        cutoff: radius of the sphere in Å.
        dtype: of vectors and distances; whatever it is, they are computed and sorted in float64.
        images: whether to keep the lattice images.

    Returns:
        The sorted list, each atom itself included as its first entry.
    """
    num_atoms = len(cart_coords)
    finder = vesin.NeighborList(cutoff=cutoff, full_list=True, n_threads=1)
    i, j, image, vector = finder.compute(
        points=cart_coords, box=lattice, periodic=True, quantities="ijSD", copy=False
    )  # views of the finder's memory
    centre, index = i.astype(np.int64), j.astype(np.int64)
    x, y, z = vector.T
    distance = np.sqrt(x * x + y * y + z * z)
    order = sorting_order(centre, index, image, distance)
    counts = np.bincount(centre, minlength=num_atoms)
    first = np.zeros(num_atoms + 1, np.int64)
    np.cumsum(counts + 1, out=first[1:])
    place = np.arange(1, len(order) + 1) + np.repeat(np.arange(num_atoms), counts)  # after the atoms themselves

    def laid_out(values: NDArray[Any], kind: DTypeLike) -> NDArray[Any]:
        out = np.zeros((len(values) + num_atoms, *values.shape[1:]), kind)
        out[place] = np.take(values, order, axis=0)
        return out

    listed = laid_out(index, np.int32)
    listed[first[:-1]] = np.arange(num_atoms)
    return Neighbours(
        first,
        listed,
        laid_out(vector, dtype),
        laid_out(distance, dtype),
        laid_out(image, np.int32) if images else _NO_IMAGES,
    )


def sorting_order(
    centre: NDArray[np.int64],
    index: NDArray[np.int64],
    image: NDArray[np.int32],
    distance: NDArray[np.float64],
    room: int = 2**62,
) -> NDArray[np.int64]:
    """Return what sorts entries by (centre, distance in grains, index, image).

    Args:
        centre: (E,) atoms i.
        index: (E,) atoms j.
        image: (E, 3) lattice images.
        distance: (E,) in Å.
        room: largest key to sort by; where all five do not fit into one number, they are sorted one by one.
    """
    if not len(centre):
        return centre
    grain = np.rint(distance / DISTANCE_GRAIN + GRAIN_OFFSET).astype(np.int64)
    steps = np.ascontiguousarray(image.T, dtype=np.int64)
    steps -= steps.min(axis=1, keepdims=True)
    spans = [int(span) + 1 for span in steps.max(axis=1)]
    sizes = [int(grain.max()) + 1, int(index.max()) + 1, *spans]
    if (int(centre.max()) + 1) * math.prod(sizes) > room:
        return np.lexsort((*steps[::-1], index, grain, centre))
    key = centre
    for part, size in zip((grain, index, *steps), sizes, strict=True):
        key = key * size + part
    return np.argsort(key)  # no two keys are equal
