"""Neighbours of every atom of a crystal within a cutoff, over all periodic images."""

from dataclasses import dataclass

import numpy as np
import vesin
from numpy.typing import NDArray

DISTANCE_GRAIN = 1e-5
"""Å; distances that agree to this are listed by neighbour index and image, so rounding cannot reorder equals."""
GRAIN_OFFSET = 0.1416
"""Keeps distances of few decimals, which are many, away from the limits between grains."""


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Neighbour list in compressed rows: the neighbours of atom i are entries first[i] to first[i + 1].

    The first entry of every atom is the atom itself at distance zero; the others follow in the order of
    (distance, neighbour index, image), with distances compared on a grid of `DISTANCE_GRAIN`.
    """

    first: NDArray[np.int64]
    """(N + 1,) start of each atom's entries."""
    index: NDArray[np.int64]
    """(E,) the neighbouring atom j."""
    vector: NDArray[np.float64]
    """(E, 3) r = p_j + n·L − p_i in Å."""
    image: NDArray[np.int64]
    """(E, 3) the lattice image n."""


def find_neighbours(lattice: NDArray[np.float64], cart_coords: NDArray[np.float64], cutoff: float) -> Neighbours:
    """List all periodic neighbours within a sphere.

    Exact for skewed, thin, left-handed and one-atom cells and for atoms outside the cell (vesin's cell lists).

    Args:
        lattice: (3, 3) rows a, b, c in Å.
        cart_coords: (N, 3) in Å.
        cutoff: radius of the sphere in Å.

    Returns:
        The sorted list, each atom itself included as its first entry.
    """
    num_atoms = len(cart_coords)
    finder = vesin.NeighborList(cutoff=cutoff, full_list=True, n_threads=1)
    i, j, image, vector = finder.compute(points=cart_coords, box=lattice, periodic=True, quantities="ijSD")
    atoms = np.arange(num_atoms)
    centre = np.concatenate([atoms, i.astype(np.int64)])
    index = np.concatenate([atoms, j.astype(np.int64)])
    image = np.concatenate([np.zeros((num_atoms, 3), np.int64), image.astype(np.int64)])
    vector = np.concatenate([np.zeros((num_atoms, 3)), vector])
    is_other = np.concatenate([np.zeros(num_atoms, np.int64), np.ones(len(i), np.int64)])
    grain = np.rint(np.linalg.norm(vector, axis=1) / DISTANCE_GRAIN + GRAIN_OFFSET).astype(np.int64)
    order = np.lexsort((image[:, 2], image[:, 1], image[:, 0], index, grain, is_other, centre))
    first = np.concatenate([[0], np.cumsum(np.bincount(centre, minlength=num_atoms))]).astype(np.int64)
    return Neighbours(first, index[order], vector[order], image[order])
