"""Crystals kept on the device as a whole, from which batches are made there by index.

A GPU trains this model faster than a host can prepare and send batches. So everything a batch is made of is computed
once, kept on the device, and gathered there; nothing waits for the host, and with `PaddedShape`s the gathering is a
fixed sequence of operations that a CUDA graph can hold.

A padded batch ends with one more crystal, of atoms that see only themselves: it takes up what the real crystals leave
of the shape. Whatever is computed of it is finite, and to be ignored.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crystalframer.data.batch import CrystalBatch, IncomingEdges
from crystalframer.data.dataset import TaskData
from crystalframer.geometry.batched_neighbours import find_neighbours_of_all
from crystalframer.geometry.occupancies import Mixture
from crystalframer.geometry.prepared import static_frames

_STEPS_PER_OCTAVE = 8
"""Shapes grow by an eighth of a power of two at least: few different ones, at most an eighth of them padding."""


class PaddedShape(NamedTuple):
    """Sizes of a padded batch."""

    atoms: int
    edges: int


@dataclass(frozen=True, eq=False)
class _Flat:
    """R crystals with A atoms and E neighbour entries, one after the other, on the device."""

    first_atom: Tensor
    """(R,) int64"""
    num_atoms: Tensor
    """(R,) int64"""
    first_edge: Tensor
    """(A,) int64"""
    degree: Tensor
    """(A,) int64, entries of each atom"""
    in_degree: Tensor
    """(A,) int64, entries whose neighbour it is"""
    atomic_numbers: Tensor
    """(A,) int64"""
    neighbour: Tensor
    """(E,) int32, counted within the crystal"""
    incoming: Tensor
    """(E,) int32, counted within the crystal's entries, in the order of their neighbour"""
    vector: Tensor
    """(E, 3)"""
    distance: Tensor
    """(E,)"""
    frames: Tensor
    """(R, 3, 3, 3) lattice frame, lattice axes, pca frame"""
    targets: Tensor
    """(R, T)"""
    species: Tensor | None = None
    """(A, P) int64 elements on each site, where some crystal is disordered"""
    occupancies: Tensor | None = None
    """(A, P)"""


class ResidentCrystals:
    """A task's crystals on one device, for batches by index.

    Args:
        data: the task.
        rows: (R,) rows of the data set, in any order; index i means rows[i].
        cutoff: radius of the neighbour sphere in Å.
        device: where they live.
    """

    def __init__(self, data: TaskData, rows: NDArray[np.int64], cutoff: float, device: torch.device | str) -> None:
        self.data = data
        self.rows = rows
        self._index_of = np.full(len(data.dataset), -1, dtype=np.int64)
        self._index_of[rows] = np.arange(len(rows))
        self.cutoff = cutoff
        self.device = torch.device(device)
        self.num_atoms = np.asarray(data.dataset.num_atoms[rows], dtype=np.int64)
        """(R,) on the host"""
        self._flat = _lay_out(data, rows, cutoff, self.device)
        edges = torch.zeros(len(rows), dtype=torch.int64, device=self.device)
        crystal = torch.repeat_interleave(torch.arange(len(rows), device=self.device), self._flat.num_atoms)
        self.num_edges: NDArray[np.int64] = edges.index_add(0, crystal, self._flat.degree).cpu().numpy()
        """(R,) on the host"""
        flat = self._flat
        # What a recorded step needs of the host is sent beforehand.
        self._aside = torch.tensor([0.5 * cutoff, 0.0, 0.0], dtype=torch.float32, device=self.device)
        self._no_frames = torch.eye(3, dtype=torch.float32, device=self.device).expand(1, 3, 3, 3)
        self.largest_atomic_number = int((flat.atomic_numbers if flat.species is None else flat.species).max())

    @property
    def num_bytes(self) -> int:
        """Memory on the device."""
        return sum(tensor.nbytes for tensor in vars(self._flat).values() if tensor is not None)

    def shape_for(self, index: NDArray[np.int64]) -> PaddedShape:
        """Return the shape a batch of these crystals is padded to; computed on the host."""
        atoms = _round_up(int(self.num_atoms[index].sum()) + 1)
        padding = atoms - int(self.num_atoms[index].sum())
        return PaddedShape(atoms, _round_up(int(self.num_edges[index].sum()) + padding))

    def index_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the index of each of these rows of the data set."""
        index: NDArray[np.int64] = self._index_of[rows]
        assert (index >= 0).all(), "rows are among those that live here"
        return index

    def batch(self, rows: NDArray[np.int64]) -> CrystalBatch:
        """Return the crystals of `rows` of the data set, as `BatchLoader.batch` does, and one crystal of padding."""
        index = self.index_of(rows)
        shape = PaddedShape(int(self.num_atoms[index].sum()) + 1, int(self.num_edges[index].sum()) + 1)
        return self.gather(torch.from_numpy(index).to(self.device), shape)

    def gather(self, index: Tensor, shape: PaddedShape) -> CrystalBatch:
        """Return crystals index[0], …, index[S − 1] and, as crystal S, the padding.

        Args:
            index: (S,) int64 on the device.
            shape: at least one atom more than the crystals have, and an entry for each such atom.
        """
        flat, num_crystals = self._flat, len(index)
        offsets = _limits(flat.num_atoms[index])
        slot = torch.arange(shape.atoms, device=self.device)
        crystal = torch.searchsorted(offsets[1:], slot, right=True)
        is_atom = crystal < num_crystals
        held = index[crystal.clamp_max(num_crystals - 1)]
        atom = torch.where(is_atom, flat.first_atom[held] + slot - offsets[crystal], 0)
        first_edge = _padded(_limits(torch.where(is_atom, flat.degree[atom], 0)), offsets[-1], shape)
        first_incoming = _padded(_limits(torch.where(is_atom, flat.in_degree[atom], 0)), offsets[-1], shape)

        entry = torch.arange(shape.edges, device=self.device)
        centre = torch.searchsorted(first_edge[1:], entry, right=True)
        is_edge, owner = is_atom[centre], crystal[centre]
        edge = torch.where(is_edge, flat.first_edge[atom[centre]] + entry - first_edge[centre], 0)
        first_atom_of, first_edge_of = offsets[owner], first_edge[offsets[owner]]
        incoming = torch.where(is_edge, flat.incoming[edge] + first_edge_of, entry)
        is_other = entry > first_edge[centre]
        padding = torch.where(is_other[:, None], self._aside, 0.0)
        frames = torch.cat([flat.frames[index], self._no_frames])
        return CrystalBatch(
            atomic_numbers=torch.where(is_atom, flat.atomic_numbers[atom], 1),
            offsets=torch.cat([offsets, torch.full_like(offsets[:1], shape.atoms)]),
            crystal_of_atom=crystal,
            first_edge=first_edge,
            neighbour=torch.where(is_edge, flat.neighbour[edge] + first_atom_of, centre),
            vector=torch.where(is_edge[:, None], flat.vector[edge], padding),
            distance=torch.where(is_edge, flat.distance[edge], padding[:, 0]),
            lattice_frames=frames[:, 0],
            lattice_axes=frames[:, 1],
            pca_frames=frames[:, 2],
            cutoff=self.cutoff,
            largest_atomic_number=self.largest_atomic_number,
            targets=flat.targets[index],
            species=None if flat.species is None else flat.species[atom],
            occupancies=None if flat.occupancies is None else flat.occupancies[atom],
            derived={"incoming": IncomingEdges(first_incoming, incoming, centre)},
        )


def _lay_out(data: TaskData, rows: NDArray[np.int64], cutoff: float, device: torch.device) -> _Flat:
    """Compute what batches are made of."""
    crystals = [data.dataset[int(row)] for row in rows]
    found = find_neighbours_of_all(crystals, cutoff, device)
    frames = np.stack([np.stack(static_frames(crystal)) for crystal in crystals])
    num_atoms = torch.tensor([crystal.num_atoms for crystal in crystals], device=device)
    first_atom = num_atoms.cumsum(0) - num_atoms
    first_edge = found.degree.cumsum(0) - found.degree
    atom_of_edge = torch.repeat_interleave(torch.arange(len(found.degree), device=device), found.degree)
    crystal = torch.repeat_interleave(torch.arange(len(rows), device=device), num_atoms)[atom_of_edge]
    neighbour = found.index + first_atom[crystal]
    numbers = np.concatenate([crystal.atomic_numbers for crystal in crystals])
    mixture = Mixture.concatenate([crystal.mixture for crystal in crystals], [c.num_atoms for c in crystals])
    species, occupancies = (None, None) if mixture is None else mixture.dense(numbers)
    incoming = torch.argsort(neighbour, stable=True) - first_edge[first_atom[crystal]]
    return _Flat(
        first_atom=first_atom,
        num_atoms=num_atoms,
        first_edge=first_edge,
        degree=found.degree,
        in_degree=torch.bincount(neighbour, minlength=len(found.degree)),
        atomic_numbers=torch.from_numpy(numbers).to(device),
        neighbour=found.index,
        incoming=incoming.int(),
        vector=found.vector,
        distance=found.distance,
        frames=torch.from_numpy(frames).to(device, torch.float32),
        targets=torch.from_numpy(data.targets[rows].reshape(len(rows), -1)).to(device, torch.float32),
        species=None if species is None else torch.from_numpy(species).to(device),
        occupancies=None if occupancies is None else torch.from_numpy(occupancies).to(device, torch.float32),
    )


def _limits(counts: Tensor) -> Tensor:
    """Return the limits, (n + 1,), of consecutive stretches."""
    return torch.cat([torch.zeros_like(counts[:1]), counts.cumsum(0)])


def _padded(first: Tensor, num_real: Tensor, shape: PaddedShape) -> Tensor:
    """Share what is left of a shape's entries out evenly among the atoms from number `num_real` on."""
    slot = torch.arange(len(first), device=first.device)
    share = (slot - num_real) * (shape.edges - first[-1]) // (shape.atoms - num_real)
    return torch.where(slot >= num_real, first[-1] + share, first)


def _round_up(size: int) -> int:
    """Return the next of the sizes that shapes have."""
    grain = max(1, 2 ** (size - 1).bit_length() // (2 * _STEPS_PER_OCTAVE))
    return -(-size // grain) * grain
