"""Local frames in plain torch: the definition the fast kernels are tested against.

A frame is built per atom and head from the logits (log-weights) of the atom's neighbours. Crystals are symmetric, so
candidates tie: those whose log-weight is within `TIE_TOLERANCE` of the largest count as tied. In training one of them
is drawn at random, uniformly, which is what noise of that size on the log-weights is for. In evaluation it is the
first in the neighbour list, i.e. the lowest in (distance, index, image). The tolerance lies above float32's rounding
of equal weights, so every kernel sees the same ties.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from crystalframer.config import FrameName
from crystalframer.data.batch import CrystalBatch, Preceding
from crystalframer.geometry.principal_axes import axis_signs, right_handed, settled_eigenvectors
from crystalframer.kernels import noise
from crystalframer.kernels.noise import TieSeed

TIE_TOLERANCE = 1e-5
"""Log-weights this close to the largest count as tied."""
COLLINEAR_TOLERANCE = 1e-5
"""A direction with 1 − |e1·r̄| below this is collinear with the first axis (0.26°)."""


@dataclass(frozen=True, eq=False)
class Surroundings:
    """The padded neighbours of A atoms, K at most."""

    distance: Tensor
    """(A, K) Å, 0 for the atom itself"""
    unit: Tensor
    """(A, K, 3) r̄, 0 for the atom itself"""
    is_candidate: Tensor
    """(A, K) True for real neighbours at a distance above zero"""
    edge: Tensor
    """(A, K) index of the entry in the batch's neighbour list"""
    atom: Tensor
    """(A,) index of the atom in the batch"""
    preceding: Preceding
    """what comes before the batch in the whole"""
    lattice_axes: Tensor
    """(A, 3, 3) orthonormal rows that complete frames which symmetry leaves undetermined"""


@torch.no_grad()
def max_frames(logits: Tensor, near: Surroundings, tie_seed: TieSeed | None) -> Tensor:
    """Return the frames `max` (paper: max frames).

    e1 is the direction of the largest weight; e2 the direction that maximises (1 − |e1·r̄|)·w among those not
    collinear with e1, orthogonalised against it; e3 = e1 × e2. Where all candidates are collinear the crystal's
    lattice axis most orthogonal to e1 takes the place of the second; without candidates the first lattice axis is e1.

    Args:
        logits: (A, K, H) log-weights up to a constant.
        near: the neighbours.
        tie_seed: training seed, or None for the deterministic rule.

    Returns:
        (A, H, 3, 3) orthonormal right-handed rows.
    """
    candidate = near.is_candidate[..., None].expand_as(logits)
    pick, found = _largest(logits, candidate, near, tie_seed, noise.FIRST_AXIS)
    e1 = torch.where(found[..., None], _pick(near.unit, pick), near.lattice_axes[:, None, 0])
    gap = 1.0 - torch.einsum("akx,ahx->akh", near.unit, e1).abs()
    distinct = candidate & (gap > COLLINEAR_TOLERANCE)
    score = logits + torch.log(gap.clamp_min(COLLINEAR_TOLERANCE))
    pick, found = _largest(score, distinct, near, tie_seed, noise.SECOND_AXIS)
    along_axes = torch.einsum("aix,ahx->ahi", near.lattice_axes, e1).abs()
    completion = _pick(near.lattice_axes, along_axes.argmin(-1))
    e2 = torch.where(found[..., None], _pick(near.unit, pick), completion)
    e2 = e2 - (e2 * e1).sum(-1, keepdim=True) * e1
    return right_handed(e1, e2 / e2.norm(dim=-1, keepdim=True))


@torch.no_grad()
def weighted_pca_frames(weights: Tensor, near: Surroundings, tie_seed: TieSeed | None) -> Tensor:
    """Return the frames `weighted_pca`: eigenvectors of Σ w r̄ r̄ᵀ, ascending in eigenvalue (paper: weighted PCA frames).

    Signs and degenerate axes follow `geometry.principal_axes`; in training e1 and e2 are then flipped at random, and
    e3 = e1 × e2. So a seed gives the same frames whatever sign an eigensolver returns.

    Args:
        weights: (A, K, H) softmax weights, zero for padding.
        near: the neighbours.
        tie_seed: training seed, or None for deterministic signs.

    Returns:
        (A, H, 3, 3) orthonormal right-handed rows.
    """
    num_heads = weights.shape[-1]
    unit, lattice_axes = near.unit.double(), near.lattice_axes.double()[:, None]
    by_head = weights.double().mT
    covariance = torch.einsum("ahk,akx,aky->ahxy", by_head, unit, unit)
    axes = settled_eigenvectors(covariance, lattice_axes)[..., :2, :]
    signs = axis_signs(axes, lattice_axes.expand(-1, num_heads, -1, -1), unit[:, None], by_head)
    if tie_seed is not None:
        owner = (near.atom[:, None, None] + near.preceding.atoms) * num_heads + torch.arange(
            num_heads, device=weights.device
        )[:, None]
        index = owner * 2 + torch.arange(2, device=weights.device)
        signs = signs * noise.random_signs(noise.stream_key(tie_seed, noise.SIGN), index, unit.dtype)
    axes = axes * signs[..., None]
    return right_handed(axes[..., 0, :], axes[..., 1, :]).to(weights.dtype)


def crystal_frames(batch: CrystalBatch, frame: FrameName, tie_seed: TieSeed | None) -> Tensor | None:
    """Return the static frames of the crystals, (S, 3, 3) rows; None where the neighbours of an atom make its frame."""
    if frame == "lattice":
        return batch.lattice_frames
    if frame != "pca":
        return None
    return batch.pca_frames if tie_seed is None else flip_axes(batch.pca_frames, tie_seed, batch.preceding.crystals)


@torch.no_grad()
def flip_axes(frames: Tensor, tie_seed: TieSeed, first: int = 0) -> Tensor:
    """Give e1 and e2 of static PCA frames (S, 3, 3) random signs in training, one draw per crystal and step.

    Args:
        frames: of the crystals from number `first` of the whole batch on.
        tie_seed: training seed.
        first: crystals of the whole batch before these.
    """
    index = torch.arange(2 * first, 2 * (first + len(frames)), device=frames.device).view(-1, 2)
    signs = noise.random_signs(noise.stream_key(tie_seed, noise.SIGN), index, frames.dtype)
    axes = frames[:, :2] * signs[..., None]
    return right_handed(axes[:, 0], axes[:, 1])


def _largest(
    score: Tensor, allowed: Tensor, near: Surroundings, tie_seed: TieSeed | None, stream: int
) -> tuple[Tensor, Tensor]:
    """Return per atom and head the allowed entry with the largest score, ties settled, and if there is one: (A, H)."""
    score = score.masked_fill(~allowed, float("-inf"))
    tied = allowed & (score >= score.amax(dim=1, keepdim=True) - TIE_TOLERANCE)
    if tie_seed is None:
        return tied.to(torch.int8).argmax(dim=1), allowed.any(dim=1)
    num_heads = score.shape[-1]
    index = (near.edge[..., None] + near.preceding.edges) * num_heads + torch.arange(num_heads, device=score.device)
    drawn = noise.hashed(noise.stream_key(tie_seed, stream), index)
    return torch.where(tied, drawn, -1).argmax(dim=1), allowed.any(dim=1)


def _pick(vectors: Tensor, index: Tensor) -> Tensor:
    """Return vectors[a, index[a, h]] as (A, H, 3) for vectors (A, K, 3)."""
    return vectors.gather(1, index[..., None].expand(-1, -1, 3))
