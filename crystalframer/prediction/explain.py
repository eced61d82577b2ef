"""What a model looks at: the attention weights, frames and σ of one block, per atom, neighbour and head.

The numbers are those of the reference attention in evaluation mode: no gradient, no tie-breaking noise, the same on
every call.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from crystalframer.data.batch import collate
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import ELEMENTS, Crystal
from crystalframer.geometry.prepared import prepare_geometry
from crystalframer.kernels.reference import attention_state
from crystalframer.nn.model import CrystalFramer
from crystalframer.pictures.attention_drawing import Surroundings

REACH = 5.0
"""Å around an atom that a picture shows."""


@dataclass(frozen=True, eq=False)
class AttentionView:
    """The attention of one block in one crystal of N atoms, with E neighbour entries and H heads."""

    block: int
    """Number of the block, from 0."""
    crystal: Crystal
    weights: NDArray[np.float64]
    """(E, H) softmax weight of each entry; those of an atom's entries sum to 1 for each head."""
    frames: NDArray[np.float64] | None
    """(N, H, 3, 3) rows e1, e2, e3 of each atom's and head's frame; None for the frame type `none`."""
    sigma: NDArray[np.float64]
    """(N, H) σ in Å: how far a head looks."""
    first: NDArray[np.int64]
    """(N + 1,) atom i owns the entries first[i] to first[i + 1], of which the first is the atom itself."""
    neighbour: NDArray[np.int64]
    """(E,) the neighbouring atom j."""
    image: NDArray[np.int64]
    """(E, 3) the lattice image n of the neighbour."""
    vector: NDArray[np.float64]
    """(E, 3) r = p_j + n·L − p_i in Å."""
    distance: NDArray[np.float64]
    """(E,) |r| in Å."""

    def entries(self, atom: int) -> slice:
        """Return the entries of an atom.

        Raises:
            UserError: there is no such atom.
        """
        _require_index("atom", atom, self.crystal.num_atoms)
        return slice(int(self.first[atom]), int(self.first[atom + 1]))

    def around(self, atom: int, head: int, reach: float = REACH) -> Surroundings:
        """Return an atom's neighbours within `reach` Å and what one head makes of them.

        Raises:
            UserError: there is no such atom or head.
        """
        entries = self.entries(atom)
        _require_index("head", head, self.weights.shape[1])
        near = np.arange(entries.start, entries.stop)[self.distance[entries] <= reach]
        numbers = self.crystal.atomic_numbers
        return Surroundings(
            title=f"{ELEMENTS[numbers[atom] - 1]} (atom {atom}) in {self.crystal.id}, block {self.block}, head {head}",
            positions=self.vector[near],
            numbers=numbers[self.neighbour[near]],
            weights=self.weights[near, head],
            frame=None if self.frames is None else self.frames[atom, head],
            reach=reach,
        )


@torch.no_grad()
def attention_of(model: CrystalFramer, crystal: Crystal, block: int = 0) -> AttentionView:
    """Return the attention of one block of a calibrated model in one crystal.

    Args:
        model: any model, on any device; its mode is left as it is.
        crystal: the crystal.
        block: number of the block, from 0.

    Raises:
        UserError: there is no such block, or the model does not know one of the crystal's elements.
    """
    _require_index("block", block, model.config.num_blocks)
    geometry = prepare_geometry(crystal, model.config.cutoff, model.config.frame, images=True)
    batch = collate([geometry], model.config.cutoff).to(model.embedding.weight.device)
    state = model.atom_states(batch)[block]
    attention = model.levels[block].attention
    weights, frames = attention_state(attention.inputs(state), batch, model.config)
    near = geometry.neighbours
    return AttentionView(
        block=block,
        crystal=crystal,
        weights=weights.double().cpu().numpy(),
        frames=None if frames is None else frames.double().cpu().numpy(),
        sigma=attention.sigma(state).double().cpu().numpy(),
        first=near.first,
        neighbour=near.index.astype(np.int64),
        image=near.image.astype(np.int64),
        vector=near.vector,
        distance=near.distance,
    )


def _require_index(what: str, number: int, count: int) -> None:
    if not 0 <= number < count:
        raise UserError(f"got {what} {number}, expected 0 to {count - 1}: there are {count}")
