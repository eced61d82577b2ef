"""Neighbours of many crystals at once, with tensor operations on any device.

The same list as `geometry.neighbours` makes, entry by entry, for crystals of up to `MAX_ATOMS` atoms: every pair of
atoms is tried with every image that could lie within the sphere, which is quadratic in the atoms of a cell but leaves
a GPU nothing to wait for. Larger cells go to the cell lists of `geometry.neighbours`, whose cost is linear.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crystalframer.geometry.crystal import Crystal
from crystalframer.geometry.neighbours import DISTANCE_GRAIN, GRAIN_OFFSET, find_neighbours

MAX_ATOMS = 256
"""Atoms of a cell up to which all pairs are tried."""
MAX_CANDIDATES = 2**24
"""(i, j, image) tried at a time; about 100 bytes of memory each."""


@dataclass(frozen=True, eq=False)
class BatchedNeighbours:
    """The neighbour lists of C crystals with A atoms and E entries in all, one after the other."""

    degree: Tensor
    """(A,) int64, entries of each atom, itself included"""
    index: Tensor
    """(E,) int32, the neighbouring atom j, counted within its crystal"""
    vector: Tensor
    """(E, 3) r = p_j + n·L − p_i in Å"""
    distance: Tensor
    """(E,) |r| in Å"""


def find_neighbours_of_all(
    crystals: Sequence[Crystal], cutoff: float, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> BatchedNeighbours:
    """List the neighbours of every atom of every crystal within a sphere, in the order of `Neighbours`.

    Distances are computed in float64, whatever `dtype` they are returned in.

    Args:
        crystals: at least one.
        cutoff: radius of the sphere in Å.
        device: where to compute and keep the lists.
        dtype: of vectors and distances.
    """
    parts = [_one_by_cells(part[0], cutoff) if _is_large(part[0]) else _all_pairs(part, cutoff, device)
             for part in _portions(crystals, cutoff)]  # fmt: skip
    return BatchedNeighbours(
        degree=torch.cat([part.degree.to(device) for part in parts]),
        index=torch.cat([part.index.to(device, torch.int32) for part in parts]),
        vector=torch.cat([part.vector.to(device, dtype) for part in parts]),
        distance=torch.cat([part.distance.to(device, dtype) for part in parts]),
    )


def _is_large(crystal: Crystal) -> bool:
    return crystal.num_atoms > MAX_ATOMS


def _portions(crystals: Sequence[Crystal], cutoff: float) -> Iterator[list[Crystal]]:
    """Cut the crystals into stretches that fit into memory; a large one is a stretch of its own."""
    portion: list[Crystal] = []
    room = MAX_CANDIDATES
    for crystal in crystals:
        candidates = crystal.num_atoms**2 * int(np.prod(2 * _image_range(crystal, cutoff) + 1))
        if portion and (_is_large(crystal) or _is_large(portion[-1]) or candidates > room):
            yield portion
            portion, room = [], MAX_CANDIDATES
        portion.append(crystal)
        room -= candidates
    if portion:
        yield portion


def _image_range(crystal: Crystal, cutoff: float) -> NDArray[np.int64]:
    """Return how far, (3,), an image can be from the nearest one of a pair and still within the sphere."""
    heights = 1.0 / np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0)
    return np.ceil(cutoff / heights + 0.5).astype(np.int64)


def _one_by_cells(crystal: Crystal, cutoff: float) -> BatchedNeighbours:
    found = find_neighbours(crystal.lattice, crystal.cart_coords, cutoff)
    return BatchedNeighbours(
        degree=torch.from_numpy(np.diff(found.first)),
        index=torch.from_numpy(found.index),
        vector=torch.from_numpy(found.vector),
        distance=torch.from_numpy(found.distance),
    )


def _all_pairs(crystals: Sequence[Crystal], cutoff: float, device: torch.device | str) -> BatchedNeighbours:
    """Try every pair of atoms with every image in reach."""
    shifts = [list(itertools.product(*(range(-n, n + 1) for n in _image_range(c, cutoff)))) for c in crystals]
    sizes = torch.tensor([c.num_atoms for c in crystals], device=device)
    lattice = torch.from_numpy(np.stack([c.lattice for c in crystals])).to(device)
    frac = torch.from_numpy(np.concatenate([c.frac_coords for c in crystals])).to(device)
    cart = torch.from_numpy(np.concatenate([c.cart_coords for c in crystals])).to(device)
    shift = torch.tensor([n for images in shifts for n in images], device=device)
    num_shifts = torch.tensor([len(images) for images in shifts], device=device)

    crystal = torch.repeat_interleave(sizes**2 * num_shifts)
    place = torch.arange(len(crystal), device=device) - _starts(sizes**2 * num_shifts)[crystal]
    images = num_shifts[crystal]
    pair, size = place // images, sizes[crystal]
    first_atom = _starts(sizes)[crystal]
    i, j = first_atom + pair // size, first_atom + pair % size
    image = shift[_starts(num_shifts)[crystal] + place % images] - torch.round(frac[j] - frac[i]).long()
    vector = cart[j] - cart[i] + (image[:, None, :].double() @ lattice[crystal])[:, 0]
    distance = vector.norm(dim=1)
    is_self = (i == j) & (image == 0).all(1)
    near = ((distance < cutoff) & ~is_self) | is_self
    i, j, image, vector, distance = (x[near] for x in (i, j, image, vector, distance))
    vector, distance = torch.where(is_self[near][:, None], 0.0, vector), torch.where(is_self[near], 0.0, distance)
    local = j - _starts(sizes)[crystal[near]]
    order = _order(i, local, image, distance)
    return BatchedNeighbours(torch.bincount(i, minlength=len(frac)), local[order], vector[order], distance[order])


def _order(centre: Tensor, index: Tensor, image: Tensor, distance: Tensor) -> Tensor:
    """Return what sorts entries by (centre, distance in grains, index, image); the atom itself is its nearest."""
    grain = torch.round(distance / DISTANCE_GRAIN + GRAIN_OFFSET).long()
    lowest = int(image.min())
    span = int(image.max()) - lowest + 1
    key = grain
    for part, size in ((index, MAX_ATOMS), *((image[:, axis] - lowest, span) for axis in range(3))):
        key = key * size + part
    assert int(grain.max()) * MAX_ATOMS * span**3 < 2**62, "the sorting key has room"
    order = torch.argsort(key, stable=True)
    return order[torch.argsort(centre[order], stable=True)]


def _starts(counts: Tensor) -> Tensor:
    """Return where each of consecutive stretches begins."""
    return counts.cumsum(0) - counts
