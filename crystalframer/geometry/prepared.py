"""Everything about a crystal that never changes during training, computed once."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from crystalframer.config import FrameName
from crystalframer.geometry.crystal import Crystal
from crystalframer.geometry.lattice_frame import lattice_frame, orthonormal_axes
from crystalframer.geometry.neighbours import Neighbours, find_neighbours
from crystalframer.geometry.occupancies import Mixture
from crystalframer.geometry.principal_axes import principal_axes

_NOT_MADE = np.full((3, 3), np.nan)
_NOT_MADE.setflags(write=False)


@dataclass(frozen=True, eq=False)
class Geometry:
    """A crystal's neighbours and its static frames, these in float64."""

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
        return sum(int(array.nbytes) for array in vars(lists).values())


def prepare_geometry(
    crystal: Crystal,
    cutoff: float,
    frame: FrameName | None = None,
    *,
    dtype: DTypeLike = np.float64,
    images: bool = False,
) -> Geometry:
    """Compute neighbours within `cutoff` (Å) and the static frames of a crystal.

    Args:
        crystal: the crystal.
        cutoff: radius of the neighbour sphere in Å.
        frame: the frame of the model that will read it: what the model does not read is not made and is NaN. None:
            everything.
        dtype: of neighbour vectors and distances, which are computed in float64.
        images: whether to keep the neighbours' lattice images, which no model reads.
    """
    lattice, axes, pca = static_frames(crystal, frame)
    return Geometry(
        atomic_numbers=crystal.atomic_numbers,
        neighbours=find_neighbours(crystal.lattice, crystal.cart_coords, cutoff, dtype=dtype, images=images),
        lattice_frame=lattice,
        lattice_axes=axes,
        pca_frame=pca,
        mixture=crystal.mixture,
    )


def static_frames(
    crystal: Crystal, frame: FrameName | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return `lattice_frame`, `lattice_axes` and `pca_frame` of a `Geometry`, each (3, 3), as far as `frame` asks."""
    if frame == "none":
        return _NOT_MADE, _NOT_MADE, _NOT_MADE
    lattice = lattice_frame(crystal.lattice)
    axes = orthonormal_axes(lattice)
    return lattice, axes, pca_frame(crystal.cart_coords, axes) if frame in (None, "pca") else _NOT_MADE


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
