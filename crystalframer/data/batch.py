"""Crystals as one flat batch of tensors, neighbours and static frames included."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crystalframer.config import FrameName
from crystalframer.data.dataset import TaskData
from crystalframer.geometry.occupancies import Mixture
from crystalframer.geometry.prepared import Geometry, prepare_geometry

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preceding:
    """What comes before a part of a batch, in the whole.

    The randomness that breaks ties belongs to a place in the whole batch, so that a batch in parts sees the same ties.
    """

    crystals: int = 0
    atoms: int = 0
    edges: int = 0


@dataclass(frozen=True, eq=False)
class CrystalBatch:
    """A flat concatenation of S crystals with N atoms and E neighbour entries in all.

    Crystal s owns atoms offsets[s] to offsets[s + 1]; atom i owns neighbour entries first_edge[i] to
    first_edge[i + 1], of which the first is the atom itself at distance zero.
    """

    atomic_numbers: Tensor
    """(N,) int64"""
    offsets: Tensor
    """(S + 1,) int64"""
    crystal_of_atom: Tensor
    """(N,) int64"""
    first_edge: Tensor
    """(N + 1,) int64"""
    neighbour: Tensor
    """(E,) int64, the neighbouring atom j as an index into the batch"""
    vector: Tensor
    """(E, 3) r = p_j + n·L − p_i in Å"""
    distance: Tensor
    """(E,) |r| in Å"""
    lattice_frames: Tensor
    """(S, 3, 3) rows e1, e2, e3 of the frame `lattice`"""
    lattice_axes: Tensor
    """(S, 3, 3) orthonormal rows"""
    pca_frames: Tensor
    """(S, 3, 3) rows e1, e2, e3 of the frame `pca`"""
    cutoff: float
    """Radius of the neighbour sphere in Å"""
    largest_atomic_number: int
    """Of all atoms, known without asking the device"""
    targets: Tensor | None = None
    """(S, num_targets) in physical units"""
    species: Tensor | None = None
    """(N, P) int64 elements on each site, where some crystal is disordered"""
    occupancies: Tensor | None = None
    """(N, P) their occupancies; a site's sum is at most 1, the rest is vacancy"""
    preceding: Preceding = Preceding()
    """What comes before this batch in the one it is a part of"""
    derived: dict[str, Any] = field(default_factory=dict)
    """What a kernel derives from the geometry once and keeps for the batch's other blocks and passes"""

    @property
    def num_atoms(self) -> int:
        """Atoms in the batch, N."""
        return len(self.atomic_numbers)

    @property
    def num_edges(self) -> int:
        """Neighbour entries in the batch, E."""
        return len(self.neighbour)

    def to(self, device: torch.device | str) -> "CrystalBatch":
        """Return the batch with every tensor on `device`, without what was derived on another one."""
        if self.vector.device == torch.device(device):
            return self
        tensors: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors, derived={})


class IncomingEdges(NamedTuple):
    """The transposed neighbour list of a batch: which entries have an atom as their neighbour."""

    first: Tensor
    """(N + 1,) limits of each atom's entries in `entry`"""
    entry: Tensor
    """(E,) entries in the order of their neighbour j"""
    centre: Tensor
    """(E,) the atom i an entry belongs to"""

    @classmethod
    def of(cls, batch: CrystalBatch) -> "IncomingEdges":
        """Transpose a batch's list, on its device."""
        atoms = torch.arange(batch.num_atoms + 1, device=batch.neighbour.device)
        by_neighbour, entry = torch.sort(batch.neighbour, stable=True)
        centre = torch.repeat_interleave(atoms[:-1], batch.first_edge.diff(), output_size=batch.num_edges)
        return cls(torch.searchsorted(by_neighbour, atoms), entry, centre)


def collate(
    geometries: Sequence[Geometry],
    cutoff: float,
    targets: NDArray[np.float64] | None = None,
    dtype: torch.dtype = torch.float32,
) -> CrystalBatch:
    """Concatenate prepared crystals.

    Args:
        geometries: crystals prepared with the same cutoff.
        cutoff: that cutoff in Å.
        targets: (S,) or (S, num_targets) in physical units.
        dtype: of every floating-point tensor.
    """
    sizes = np.array([geometry.num_atoms for geometry in geometries])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    edges = np.array([geometry.num_edges for geometry in geometries])
    edge_offsets = np.concatenate([[0], np.cumsum(edges)])
    lists = [geometry.neighbours for geometry in geometries]
    neighbour = np.concatenate([entry.index for entry in lists], dtype=np.int64)
    neighbour += np.repeat(offsets[:-1], edges)
    first_edge = np.concatenate([*(entry.first[:-1] for entry in lists), [0]])
    first_edge += np.append(np.repeat(edge_offsets[:-1], sizes), edge_offsets[-1])

    def real(values: NDArray[np.floating]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(dtype)

    numbers = np.concatenate([geometry.atomic_numbers for geometry in geometries])
    mixture = Mixture.concatenate([geometry.mixture for geometry in geometries], sizes)
    species, occupancies = (None, None) if mixture is None else mixture.dense(numbers)
    return CrystalBatch(
        atomic_numbers=torch.from_numpy(numbers),
        offsets=torch.from_numpy(offsets),
        crystal_of_atom=torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)),
        first_edge=torch.from_numpy(first_edge),
        neighbour=torch.from_numpy(neighbour),
        vector=real(np.concatenate([entry.vector for entry in lists])),
        distance=real(np.concatenate([entry.distance for entry in lists])),
        lattice_frames=real(np.stack([geometry.lattice_frame for geometry in geometries])),
        lattice_axes=real(np.stack([geometry.lattice_axes for geometry in geometries])),
        pca_frames=real(np.stack([geometry.pca_frame for geometry in geometries])),
        cutoff=cutoff,
        largest_atomic_number=int((numbers if species is None else species).max()),
        targets=None if targets is None else real(np.asarray(targets, dtype=np.float64).reshape(len(sizes), -1)),
        species=None if species is None else torch.from_numpy(species),
        occupancies=None if occupancies is None else real(occupancies),
    )


class BatchLoader:
    """Makes batches of a task's crystals by row, and remembers their geometry, which never changes.

    A neighbour entry is remembered in 20 bytes: index, vector and distance, the last two as the model reads them.

    Args:
        data: the task.
        cutoff: radius of the neighbour sphere in Å.
        dtype: of every floating-point tensor.
        max_cached_bytes: memory for remembered geometry; crystals beyond it are prepared anew each time, which one
            line in the log says.
        frame: the frame of the model that reads the batches; None makes all static frames.
    """

    def __init__(
        self,
        data: TaskData,
        cutoff: float,
        dtype: torch.dtype = torch.float32,
        max_cached_bytes: int = 4 * 2**30,
        frame: FrameName | None = None,
    ) -> None:
        self.data = data
        self.cutoff = cutoff
        self.dtype = dtype
        self.frame = frame
        self._most_bytes = self._free_bytes = max_cached_bytes
        self._cache: dict[int, Geometry] = {}
        self._is_full = False
        self.num_prepared = 0
        """Crystals prepared so far, and anew where they were not remembered."""
        self.seconds_preparing = 0.0
        """Time spent on them but the first, which may compile and import what all need."""

    def geometry(self, row: int) -> Geometry:
        """Return the prepared crystal of one data set row."""
        if row in self._cache:
            return self._cache[row]
        started = time.perf_counter()
        kept = np.float32 if self.dtype == torch.float32 else np.float64
        geometry = prepare_geometry(self.data.dataset[row], self.cutoff, self.frame, dtype=kept)
        if self.num_prepared:
            self.seconds_preparing += time.perf_counter() - started
        self.num_prepared += 1
        size = geometry.num_bytes
        if size <= self._free_bytes:
            self._free_bytes -= size
            self._cache[row] = geometry
        elif not self._is_full:
            self._is_full = True
            _log.warning(
                "the %.1f GiB for remembered neighbour lists hold %d of %d crystals: those of the others are made "
                "again in every epoch; a smaller model.cutoff makes them fit",
                self._most_bytes / 2**30, len(self._cache), sum(len(rows) for rows in self.data.rows.values()),
            )  # fmt: skip
        return geometry

    @property
    def seconds_ahead(self) -> float:
        """Time that preparing the task's other crystals will take, at the pace so far."""
        left = sum(map(len, self.data.rows.values())) - self.num_prepared
        return max(0, left) * self.seconds_preparing / max(1, self.num_prepared - 1)

    def batch(self, rows: NDArray[np.int64]) -> CrystalBatch:
        """Return the crystals of `rows`, in this order, with their targets in physical units."""
        geometries = [self.geometry(int(row)) for row in rows]
        return collate(geometries, self.cutoff, self.data.targets[rows], self.dtype)
