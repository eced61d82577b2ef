"""The attention on the CPU: compiled, multi-threaded, float32, equal to the reference to float32's rounding.

Six things make it cheap, all exact: a sphere of neighbours instead of a box of images; moments projected once per
atom; Chebyshev recurrences instead of exponentials for the angles (`kernels.chebyshev`); a window of the distance
basis, computed once per batch and shared by all blocks, heads and passes; eight heads at a time as the lanes of a
vector (`kernels.lanes`); and one fused pass per atom that keeps only softmax weights and moments for the backward
pass. Memory is linear in the number of neighbours.
"""

import logging
import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from numba.core import event
from numpy.typing import NDArray
from torch import Tensor

from crystalframer.config import ModelConfig
from crystalframer.data.batch import CrystalBatch
from crystalframer.kernels import cpu_loops
from crystalframer.kernels.cpu_loops import Sizes, backward_loop, distinct_neighbours, forward_loop
from crystalframer.kernels.interface import AttentionInputs
from crystalframer.kernels.lanes import LANES
from crystalframer.kernels.moments import given_frames, hash_keys, num_terms, project
from crystalframer.kernels.noise import TieSeed

_log = logging.getLogger(__name__)

WINDOW_REACH = 5.8
"""Standard deviations beyond which a distance Gaussian is below float32's resolution (5e-8)."""

_FRAME_CODES = {
    "none": cpu_loops.NO_FRAME,
    "max": cpu_loops.MAX_FRAME,
    "static_local": cpu_loops.STATIC_LOCAL_FRAME,
    "weighted_pca": cpu_loops.WEIGHTED_PCA_FRAME,
}


class Announcement(event.Listener):
    """Says once that the loops are compiled: it takes half a minute in which nothing else can be seen to move."""

    def __init__(self) -> None:
        self._said = False

    def on_start(self, event: Any) -> None:
        """Speak when the compilation of a loop starts, not when its code is found in the cache."""
        if not self._said and event.data["dispatcher"].py_func.__module__.startswith("crystalframer.kernels."):
            self._said = True
            _log.warning(
                "compiling the attention for this processor: up to a minute of a free core; the code is kept, and "
                "compiled again only for another kind of frame or use"
            )

    def on_end(self, event: Any) -> None:
        """Say no more."""


event.register("numba:compile", Announcement())


def attend(
    inputs: AttentionInputs,
    batch: CrystalBatch,
    config: ModelConfig,
    tie_seed: TieSeed | None = None,
    frames: Tensor | None = None,
) -> Tensor:
    """Compute the attention; see `AttentionKernel`.

    Raises:
        TypeError: the tensors are not float32 on the CPU.
    """
    if inputs.query.dtype != torch.float32 or inputs.query.device.type != "cpu":
        raise TypeError(
            f"the cpu kernel got {inputs.query.dtype} on {inputs.query.device}; it computes in torch.float32 on the "
            "cpu; use kernel='reference' for other dtypes"
        )
    given = given_frames(batch, config, tie_seed, frames)
    value, moments = _LocalMoments.apply(
        inputs.query, inputs.key, inputs.value, inputs.inv_sigma_sq, inputs, batch, config, tie_seed, given
    )
    return project(value, moments, inputs, config)


def averaged(inputs: AttentionInputs, batch: CrystalBatch, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Compute the attention with the mean over ties, without gradients; see `kernels.closeness`.

    Returns:
        The output, (N, H, d), and (N, H, 3, 3) the frames that are decided, zeros where one is open.
    """
    with torch.no_grad():
        passed = _forward(inputs, batch, config, None, None, averages=True)
        frames = passed.frames.view(batch.num_atoms, -1, 9, LANES).transpose(2, 3)
        frames = frames.reshape(batch.num_atoms, -1, 3, 3)[:, : config.num_heads]
        return project(*passed.of_heads(config.num_heads), inputs, config), frames


@dataclass(frozen=True, eq=False)
class _Passed:
    """A forward pass: what came out of it, and what the backward pass needs; heads filled up to whole lanes."""

    tensors: list[Tensor]
    """q, k, v, 1/σ²"""
    sizes: Sizes
    code: int
    terms: int
    geometry: tuple[Any, ...]
    scale: np.float32
    value: Tensor
    """(N, H, d) Σ p v_j"""
    moments: Tensor
    """(H, N, K + 3M) of distance and angles"""
    weights: Tensor
    frames: Tensor

    def of_heads(self, heads: int) -> tuple[Tensor, Tensor]:
        """Return value and moments of the heads that there are."""
        return self.value[:, :heads], self.moments[:heads]


def _forward(
    inputs: AttentionInputs,
    batch: CrystalBatch,
    config: ModelConfig,
    tie_seed: TieSeed | None,
    given: Tensor | None,
    *,
    averages: bool = False,
) -> _Passed:
    terms = num_terms(config)
    code = cpu_loops.GIVEN_FRAME if given is not None else _FRAME_CODES[config.frame]
    parts = (inputs.query, inputs.key, inputs.value, inputs.inv_sigma_sq)
    tensors = [_whole_lanes(tensor.detach()) for tensor in parts]
    num_atoms, heads = tensors[3].shape
    sizes = Sizes(heads, config.head_width, config.num_dist, _window(config))
    geometry = _geometry(batch, config)
    value = torch.empty_like(tensors[2])
    moments = value.new_empty(heads, num_atoms, config.num_dist + 3 * terms)
    weights = value.new_empty(batch.num_edges * heads)
    if given is None:
        frames = value.new_empty(num_atoms * heads * 9 if terms else 0)
    else:
        frames = _frames_in_lanes(given, heads)
    keys = (-1, -1) if tie_seed is None else tuple(int(key) for key in hash_keys(config, tie_seed))
    scale = np.float32(inputs.logit_scale)
    follow_torch_threads()
    forward_loop(sizes, averages)(
        code, terms, *(_flat(tensor) for tensor in tensors), scale, *geometry,
        batch.lattice_axes.numpy(), keys[0], keys[1], config.num_heads, batch.preceding.edges,
        batch.preceding.atoms, _flat(value), _flat(moments), weights.numpy(), frames.numpy(),
    )  # fmt: skip
    return _Passed(tensors, sizes, code, terms, geometry, scale, value, moments, weights, frames)


class _LocalMoments(torch.autograd.Function):
    """q, k, v, 1/σ² to Σ p v_j, (N, H, d), and the moments of distance and angles, (H, N, K + 3M)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        inv_sigma_sq: Tensor,
        inputs: AttentionInputs,
        batch: CrystalBatch,
        config: ModelConfig,
        tie_seed: TieSeed | None,
        given: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        passed = _forward(inputs, batch, config, tie_seed, given)
        ctx.save_for_backward(*passed.tensors[:3], passed.weights, passed.frames)
        ctx.passed = passed.sizes, passed.code, passed.terms, passed.scale, passed.geometry
        return passed.of_heads(config.num_heads)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights, frames = ctx.saved_tensors
        num_heads = grads[0].shape[1]
        grad_value, grad_moment = _whole_lanes(grads[0]), _whole_lanes(grads[1], dim=0)
        out = [torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)]
        out.append(query.new_empty(query.shape[:2]))
        sizes, code, terms, scale, geometry = ctx.passed
        follow_torch_threads()
        backward_loop(sizes)(
            code, terms, _flat(query), _flat(key), _flat(value), scale, *geometry,
            weights.numpy(), frames.numpy(), _flat(grad_value), _flat(grad_moment), *(_flat(grad) for grad in out),
        )  # fmt: skip
        return (*(grad[:, :num_heads] for grad in out), None, None, None, None, None)


def _whole_lanes(tensor: Tensor, dim: int = 1) -> Tensor:
    """Fill up the dimension of the heads with zeros to a multiple of `LANES`; contiguous."""
    lacking = -tensor.shape[dim] % LANES
    if not lacking:
        return tensor.contiguous()
    shape = list(tensor.shape)
    shape[dim] = lacking
    return torch.cat([tensor, tensor.new_zeros(shape)], dim)


def _frames_in_lanes(frames: Tensor, heads: int) -> Tensor:
    """Return frames (N, H, 3, 3), filled up to `heads`, in the loops' order: by eight heads, axis, component, head."""
    filled = _whole_lanes(frames)
    return filled.view(len(frames), heads // LANES, LANES, 9).transpose(2, 3).contiguous().view(-1)


def _flat(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.view(-1).numpy()


def follow_torch_threads() -> None:
    """Use as many threads as torch does: `torch.set_num_threads` is the one setting.

    Numba's first call starts its pool and, where both use OpenMP, thereby sets torch's number to that of all cores;
    so torch's is put back.
    """
    threads = torch.get_num_threads()
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(min(threads, most))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def _window(config: ModelConfig) -> int:
    """Return how many distance Gaussians reach one neighbour."""
    return min(config.num_dist, 2 * math.ceil(WINDOW_REACH * config.s_dist) + 1)


def _geometry(batch: CrystalBatch, config: ModelConfig) -> tuple[Any, ...]:
    """Return the batch's geometry as the loops want it, computed once per batch."""
    name = f"cpu/{config.num_dist}/{config.r_max}/{config.s_dist}"
    if name not in batch.derived:
        window, spacing = _window(config), config.r_max / config.num_dist
        nearest = torch.round(batch.distance / spacing).long() - 1
        start = (nearest - window // 2).clamp(0, config.num_dist - window)
        centres = spacing * (start[:, None] + torch.arange(1, window + 1))
        offset = (batch.distance[:, None] - centres) / (config.s_dist * spacing)
        columns = batch.num_edges + LANES  # a group at the end may reach beyond the last entry
        unit = batch.vector.new_zeros(3, columns)
        unit[:, : batch.num_edges] = (batch.vector / torch.where(batch.distance > 0, batch.distance, 1.0)[:, None]).T
        first_edge = batch.first_edge.numpy()
        first_distinct, distinct = np.empty_like(first_edge), np.empty(batch.num_edges, np.int32)
        slot = np.empty(batch.num_edges, np.int32)
        distinct_neighbours(first_edge, batch.neighbour.numpy(), first_distinct, distinct, slot)
        batch.derived[name] = (
            batch.offsets.numpy(),
            first_edge,
            first_distinct,
            distinct,
            slot,
            (0.5 * batch.distance**2).numpy(),
            _flat(unit),
            columns,
            start.int().numpy(),
            _flat(torch.exp(-0.5 * offset**2).contiguous()),
        )
    geometry: tuple[Any, ...] = batch.derived[name]
    return geometry
