"""Everything about a crystal that never changes during training, computed once."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from crystalframer.geometry.crystal import Crystal
from crystalframer.geometry.lattice_frame import lattice_frame, orthonormal_axes
from crystalframer.geometry.neighbours import Neighbours, find_neighbours
from crystalframer.geometry.occupancies import Mixture
from crystalframer.geometry.principal_axes import principal_axes


@dataclass(frozen=True, eq=False)
class Geometry:
    """A crystal's neighbours and static frames, in float64."""

    atomic_numbers: NDArray[np.int64]
    """(N,)"""
    neighbours: Neighbours
    lattice_frame: NDArray[np.float64]
    """(3, 3) rows e1, e2, e3 of the frame `lattice`."""
    lattice_axes: NDArray[np.float64]
    """(3, 3) the lattice frame orthonormalised; completes frames that symmetry leaves undetermined."""
    pca_frame: NDArray[np.float64]
    """(3, 3) rows e1, e2, e3 of the frame `pca`."""
    mixture: Mixture | None = None
    """Occupancies of the disordered sites, if any."""

    @property
    def num_atoms(self) -> int:
        """Atoms in the cell, N."""
        return len(self.atomic_numbers)

    @property
    def num_edges(self) -> int:
        """Entries of the neighbour list, E, each atom itself included."""
        return len(self.neighbours.index)

    @property
    def num_bytes(self) -> int:
        """Memory of the neighbour list."""
        lists = self.neighbours
        return lists.first.nbytes + lists.index.nbytes + lists.vector.nbytes + lists.image.nbytes


def prepare_geometry(crystal: Crystal, cutoff: float) -> Geometry:
    """Compute neighbours within `cutoff` (Å) and the static frames of a crystal."""
    frame, axes, pca = static_frames(crystal)
    return Geometry(
        atomic_numbers=crystal.atomic_numbers,
        neighbours=find_neighbours(crystal.lattice, crystal.cart_coords, cutoff),
        lattice_frame=frame,
        lattice_axes=axes,
        pca_frame=pca,
        mixture=crystal.mixture,
    )


def static_frames(crystal: Crystal) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return `lattice_frame`, `lattice_axes` and `pca_frame` of a `Geometry`, each (3, 3)."""
    frame = lattice_frame(crystal.lattice)
    axes = orthonormal_axes(frame)
    return frame, axes, pca_frame(crystal.cart_coords, axes)


def pca_frame(cart_coords: NDArray[np.float64], lattice_axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the frame `pca`: principal axes of the cell's atom positions about their mean, as the cell lists them.

    By its definition this frame follows the choice of cell and of periodic images; it is invariant to rotation,
    translation and permutation.

    Args:
        cart_coords: (N, 3) in Å.
        lattice_axes: (3, 3) orthonormal rows that settle degenerate axes and undetermined signs.

    Returns:
        (3, 3) orthonormal right-handed rows e1, e2, e3, ascending in variance.
    """
    offset = torch.from_numpy(cart_coords - cart_coords.mean(axis=0))
    covariance = offset.T @ offset / len(offset)
    axes = principal_axes(
        covariance, torch.from_numpy(lattice_axes), points=offset, weights=offset.new_ones(len(offset))
    )
    return axes.numpy()
