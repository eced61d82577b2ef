"""The attention on a GPU: Triton kernels, float32, equal to the reference to float32's rounding.

The same moments as the CPU kernel's (`kernels.cpu`), in these launches per block of the model, all of them with one
program per atom or per stretch of neighbour entries, all heads inside:

forward   q·k (`triton_edges`); softmax and frames (`triton_softmax`, `triton_axes`); Σ p v (`triton_edges`);
          moments of the distances and of the angles (`triton_basis`);
backward  ∂L/∂p from Σ p v and from the moments, then through the softmax; the gradients of q, k and v as sums over
          the neighbour list and its transpose.

Only (E, H) numbers are kept between them. Sums have a fixed order and no atomics are used, so runs repeat bit by bit;
nothing waits for the device once a batch's geometry is there.
"""

import contextlib
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from crystalframer.config import ModelConfig
from crystalframer.data.batch import CrystalBatch, IncomingEdges, Preceding
from crystalframer.kernels import triton_axes, triton_basis, triton_edges, triton_softmax
from crystalframer.kernels.interface import AttentionInputs
from crystalframer.kernels.moments import given_frames, hash_keys, num_terms, project
from crystalframer.kernels.noise import TieSeed

EDGE_BLOCK = 32
"""Neighbour entries per program of `edge_dot`."""
SUM_BLOCK = 16
"""Neighbour entries per step of `edge_sum`: a tile of entries × width."""
HEAD_BLOCK = 64
"""Neighbour entries per step of the kernels whose tiles are entries × heads."""
MATRIX_BLOCK = 64
"""Matrices per program of `principal_axes`."""
ONE_WARP: dict[str, int] = {"num_warps": 1, "num_stages": 1}
TWO_WARPS: dict[str, int] = {"num_warps": 2, "num_stages": 1}
FOUR_WARPS: dict[str, int] = {"num_warps": 4, "num_stages": 1}
"""Launch options; one stage, since some kernels complete in memory what they began there."""

_FRAME_CODES = {
    "max": triton_softmax.MAX_FRAME,
    "static_local": triton_softmax.STATIC_LOCAL_FRAME,
    "weighted_pca": triton_softmax.WEIGHTED_PCA_FRAME,
}


def attend(
    inputs: AttentionInputs,
    batch: CrystalBatch,
    config: ModelConfig,
    tie_seed: TieSeed | None = None,
    frames: Tensor | None = None,
) -> Tensor:
    """Compute the attention; see `AttentionKernel`.

    Raises:
        TypeError: the tensors are not float32 on a CUDA device (or anywhere, under Triton's interpreter).
        ValueError: the batch is too large for 32-bit offsets.
    """
    query = inputs.query
    if query.dtype != torch.float32 or not (query.is_cuda or triton.knobs.runtime.interpret):
        raise TypeError(
            f"the triton kernel got {query.dtype} on {query.device}; it computes in torch.float32 on a CUDA device; "
            "use kernel='reference' for other dtypes, kernel='cpu' on a CPU"
        )
    if max(batch.num_edges * config.num_heads, batch.num_atoms * config.num_heads * config.head_width) >= 2**31:
        raise ValueError(
            f"the triton kernel got a batch of {batch.num_edges} neighbour entries and {batch.num_atoms} atoms; "
            f"expected fewer than 2³¹ numbers per tensor with {config.num_heads} heads; use a smaller batch"
        )
    given = given_frames(batch, config, tie_seed, frames)
    with torch.cuda.device(query.device) if query.is_cuda else contextlib.nullcontext():
        value, moments = _LocalMoments.apply(
            query, inputs.key, inputs.value, inputs.inv_sigma_sq, batch, config, tie_seed, given, inputs.logit_scale
        )
    return project(value, moments, inputs, config)


class _Geometry(NamedTuple):
    """A batch's geometry as the kernels want it; indices are int32."""

    first: Tensor
    """(N + 1,) limits of each atom's entries"""
    centre: Tensor
    """(E,) the atom i an entry belongs to"""
    neighbour: Tensor
    """(E,) the neighbouring atom j"""
    first_incoming: Tensor
    """(N + 1,) limits of each atom's entries in `incoming`"""
    incoming: Tensor
    """(E,) entries in the order of their neighbour j: the transposed list"""
    distance: Tensor
    """(E,) |r| in Å"""
    half_sq: Tensor
    """(E,) |r|²/2"""
    unit: Tensor
    """(3, E) r̄, 0 for an atom itself"""
    crystal_of_atom: Tensor
    """(N,)"""
    lattice_axes: Tensor
    """(S, 3, 3)"""
    preceding: Preceding
    """What comes before the batch in the whole"""


class _Sizes(NamedTuple):
    """What the kernels are compiled for."""

    heads: int
    width: int
    num_dist: int
    terms: int
    heads_p: int
    width_p: int
    num_dist_p: int

    @property
    def row(self) -> int:
        """Moments per atom and head, K + 3M."""
        return self.num_dist + 3 * self.terms


class _LocalMoments(torch.autograd.Function):
    """q, k, v, 1/σ² to Σ p v_j, (N, H, d), and the moments of distance and angles, (H, N, K + 3M)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        inv_sigma_sq: Tensor,
        batch: CrystalBatch,
        config: ModelConfig,
        tie_seed: TieSeed | None,
        given: Tensor | None,
        logit_scale: float,
    ) -> tuple[Tensor, Tensor]:
        geometry, sizes = _geometry(batch), _sizes(config)
        query, key, value, inv_sigma_sq = (x.detach().contiguous() for x in (query, key, value, inv_sigma_sq))
        weight = query.new_empty(batch.num_edges, sizes.heads)
        _edge_dot(geometry, sizes, query, key, logit_scale, weight)
        frames = _softmax(geometry, sizes, inv_sigma_sq, config, tie_seed, given, weight)
        out_value = torch.empty_like(value)
        _sum_over_neighbours(geometry, sizes, weight, value, 1.0, out_value)
        out_moment = query.new_empty(sizes.heads, batch.num_atoms, sizes.row)
        _moments(geometry, sizes, config, frames, weight, out_moment)
        ctx.save_for_backward(query, key, value, weight, frames)
        ctx.geometry, ctx.sizes, ctx.config, ctx.logit_scale = geometry, sizes, config, logit_scale
        return out_value, out_moment

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weight, frames = ctx.saved_tensors
        geometry, sizes, scale = ctx.geometry, ctx.sizes, ctx.logit_scale
        grad_value, grad_moment = (grad.contiguous() for grad in grads)
        slope = torch.empty_like(weight)
        _edge_dot(geometry, sizes, grad_value, value, 1.0, slope)
        grad_inv_sigma_sq = query.new_empty(query.shape[:2])
        _weight_gradient(geometry, sizes, ctx.config, frames, weight, grad_moment, slope, grad_inv_sigma_sq)
        grad_query, grad_key, grad_v = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        _sum_over_neighbours(geometry, sizes, slope, key, scale, grad_query)
        _sum_over_incoming(geometry, sizes, slope, query, scale, grad_key)
        _sum_over_incoming(geometry, sizes, weight, grad_value, 1.0, grad_v)
        return (grad_query, grad_key, grad_v, grad_inv_sigma_sq, None, None, None, None, None)


def _edge_dot(geometry: _Geometry, sizes: _Sizes, left: Tensor, right: Tensor, scale: float, out: Tensor) -> None:
    """Write scale · left_i·right_j for every entry and head."""
    num_edges = len(geometry.neighbour)
    triton_edges.edge_dot[(triton.cdiv(num_edges, EDGE_BLOCK),)](
        geometry.centre, geometry.neighbour, left, right, out, scale, num_edges,
        HEADS=sizes.heads, WIDTH=sizes.width, HEADS_P=sizes.heads_p, WIDTH_P=sizes.width_p, BLOCK=EDGE_BLOCK,
        **FOUR_WARPS,
    )  # fmt: skip


def _sum_over_neighbours(
    geometry: _Geometry, sizes: _Sizes, weight: Tensor, values: Tensor, scale: float, out: Tensor
) -> None:
    """Write scale · Σ weight_e values_j for every atom i over its entries."""
    _edge_sum(geometry.first, geometry.incoming, geometry.neighbour, True, sizes, weight, values, scale, out)


def _sum_over_incoming(
    geometry: _Geometry, sizes: _Sizes, weight: Tensor, values: Tensor, scale: float, out: Tensor
) -> None:
    """Write scale · Σ weight_e values_i for every atom j over the entries whose neighbour it is."""
    _edge_sum(geometry.first_incoming, geometry.incoming, geometry.centre, False, sizes, weight, values, scale, out)


def _edge_sum(
    first: Tensor,
    entry: Tensor,
    source: Tensor,
    in_order: bool,
    sizes: _Sizes,
    weight: Tensor,
    values: Tensor,
    scale: float,
    out: Tensor,
) -> None:
    triton_edges.edge_sum[(len(out),)](
        first, entry, source, weight, values, out, scale, IN_ORDER=in_order,
        HEADS=sizes.heads, WIDTH=sizes.width, HEADS_P=sizes.heads_p, WIDTH_P=sizes.width_p, BLOCK=SUM_BLOCK,
        **FOUR_WARPS,
    )  # fmt: skip


def _softmax(
    geometry: _Geometry,
    sizes: _Sizes,
    inv_sigma_sq: Tensor,
    config: ModelConfig,
    tie_seed: TieSeed | None,
    given: Tensor | None,
    weight: Tensor,
) -> Tensor:
    """Turn q·k/√d into softmax weights in place and return the frames, (N, H, 3, 3), empty for `none`."""
    num_atoms, heads = inv_sigma_sq.shape
    num_edges = len(weight)
    code = triton_softmax.NO_FRAME
    if sizes.terms and given is None:
        code = _FRAME_CODES[config.frame]
    frames = weight.new_empty(num_atoms if code else 0, heads, 3, 3) if given is None else given
    is_weighted_pca = code == triton_softmax.WEIGHTED_PCA_FRAME
    second = weight.new_empty(num_atoms if is_weighted_pca else 0, heads, 6, dtype=torch.float64)
    keys = _keys(config, tie_seed, weight.device)
    training = tie_seed is not None
    triton_softmax.softmax[(num_atoms,)](
        geometry.first, geometry.half_sq, geometry.unit, geometry.crystal_of_atom, geometry.lattice_axes, keys,
        inv_sigma_sq, weight, frames, second, num_edges, geometry.preceding.edges,
        HEADS=heads, HEADS_P=sizes.heads_p, BLOCK=HEAD_BLOCK, FRAME=code, TRAINING=training, **ONE_WARP,
    )  # fmt: skip
    if is_weighted_pca:
        axes = second.new_empty(num_atoms, heads, 2, 3)
        triton_axes.principal_axes[(triton.cdiv(num_atoms * heads, MATRIX_BLOCK),)](
            second, geometry.crystal_of_atom, geometry.lattice_axes, axes, num_atoms * heads,
            HEADS=heads, BLOCK=MATRIX_BLOCK, **ONE_WARP,
        )  # fmt: skip
        triton_axes.settle_signs[(num_atoms,)](
            geometry.first, geometry.unit, weight, axes, geometry.crystal_of_atom, geometry.lattice_axes, keys, frames,
            num_edges, geometry.preceding.atoms,
            HEADS=heads, HEADS_P=sizes.heads_p, BLOCK=HEAD_BLOCK, TRAINING=training, **ONE_WARP,
        )  # fmt: skip
    return frames


def _keys(config: ModelConfig, tie_seed: TieSeed | None, device: torch.device) -> Tensor:
    """Return the two 32-bit hash keys side by side, (1,) int64, written by the device: a copy would wait for it."""
    if tie_seed is None:
        return torch.zeros(1, dtype=torch.int64, device=device)
    low, high = hash_keys(config, tie_seed)
    both = (high << 32) | low
    if isinstance(both, Tensor):
        return both.view(1)
    return torch.full((1,), both - 2**64 if both >= 2**63 else both, dtype=torch.int64, device=device)


def _moments(
    geometry: _Geometry, sizes: _Sizes, config: ModelConfig, frames: Tensor, weight: Tensor, out: Tensor
) -> None:
    """Write the moments of distances and angles, (H, N, K + 3M)."""
    num_atoms = out.shape[1]
    spacing = config.r_max / config.num_dist
    triton_basis.distance_moments[(num_atoms,)](
        geometry.first, geometry.distance, weight, out, num_atoms, sizes.row, spacing, 1 / (config.s_dist * spacing),
        HEADS=sizes.heads, NUM_DIST=sizes.num_dist, HEADS_P=sizes.heads_p, NUM_DIST_P=sizes.num_dist_p,
        BLOCK=HEAD_BLOCK, **FOUR_WARPS,
    )  # fmt: skip
    if sizes.terms:
        triton_basis.angular_moments[(num_atoms, 3)](
            geometry.first, geometry.unit, frames, weight, out, num_atoms, len(weight), sizes.row, 1,
            HEADS=sizes.heads, NUM_DIST=sizes.num_dist, TERMS=sizes.terms, HEADS_P=sizes.heads_p,
            BLOCK=HEAD_BLOCK, **ONE_WARP,
        )  # fmt: skip


def _weight_gradient(
    geometry: _Geometry,
    sizes: _Sizes,
    config: ModelConfig,
    frames: Tensor,
    weight: Tensor,
    grad_moment: Tensor,
    slope: Tensor,
    grad_inv_sigma_sq: Tensor,
) -> None:
    """Turn what Σ p v sends back to p, (E, H), into the gradient of the logits in place; write that of 1/σ²."""
    num_atoms = grad_moment.shape[1]
    spacing = config.r_max / config.num_dist
    triton_basis.distance_gradient[(num_atoms,)](
        geometry.first, geometry.distance, grad_moment, slope, num_atoms, sizes.row, spacing,
        1 / (config.s_dist * spacing), HEADS=sizes.heads, NUM_DIST=sizes.num_dist, HEADS_P=sizes.heads_p,
        NUM_DIST_P=sizes.num_dist_p, BLOCK=HEAD_BLOCK, **FOUR_WARPS,
    )  # fmt: skip
    triton_basis.weight_gradient[(num_atoms,)](
        geometry.first, geometry.half_sq, geometry.unit, frames, weight, grad_moment, slope, grad_inv_sigma_sq,
        num_atoms, len(weight), sizes.row, 1, HEADS=sizes.heads, NUM_DIST=sizes.num_dist, TERMS=sizes.terms,
        HEADS_P=sizes.heads_p, BLOCK=HEAD_BLOCK, **TWO_WARPS,
    )  # fmt: skip


def _sizes(config: ModelConfig) -> _Sizes:
    heads, width, num_dist = config.num_heads, config.head_width, config.num_dist
    rounded = (triton.next_power_of_2(size) for size in (heads, width, max(16, num_dist)))
    return _Sizes(heads, width, num_dist, num_terms(config), *rounded)


def _geometry(batch: CrystalBatch) -> _Geometry:
    """Return the batch's geometry as the kernels want it, computed once per batch, on its device."""
    if "triton" not in batch.derived:
        incoming = batch.derived["incoming"] if "incoming" in batch.derived else IncomingEdges.of(batch)
        unit = batch.vector / torch.where(batch.distance > 0, batch.distance, 1.0)[:, None]
        batch.derived["triton"] = _Geometry(
            first=batch.first_edge.int(),
            centre=incoming.centre.int(),
            neighbour=batch.neighbour.int(),
            first_incoming=incoming.first.int(),
            incoming=incoming.entry.int(),
            distance=batch.distance.contiguous(),
            half_sq=0.5 * batch.distance**2,
            unit=unit.T.contiguous(),
            crystal_of_atom=batch.crystal_of_atom.int(),
            lattice_axes=batch.lattice_axes.contiguous(),
            preceding=batch.preceding,
        )
    geometry: _Geometry = batch.derived["triton"]
    return geometry
