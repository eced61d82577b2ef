"""Whether a kernel computes what the reference computes: outputs and every gradient, tensor by tensor.

The measure is the relative root-mean-square error against the reference in float64. A float32 kernel may err by
`TOLERANCE`, or by twice what plain torch errs in float32, whichever is more.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crystalframer.config import ModelConfig
from crystalframer.data.batch import CrystalBatch, collate
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import Crystal
from crystalframer.geometry.prepared import prepare_geometry
from crystalframer.kernels import reference
from crystalframer.kernels.frames import crystal_frames
from crystalframer.kernels.interface import AttentionInputs, AttentionKernel
from crystalframer.kernels.noise import TieSeed

TOLERANCE = 1e-5
"""Relative RMS error that any float32 kernel may have."""
GRADIENTS = ("dq", "dk", "dv", "dinv_sigma_sq", "dw_dist", "dw_angl")
"""Names of the gradients, in the order of `AttentionInputs`."""
MOST_UNDECIDED = 0.25
"""Share of the heads that a comparison may leave out."""

_QUERY_NUDGE, _DISTANCE_NUDGE = 1e-5, 3e-7
"""Relative changes of queries and distances, well above rounding, that a clear choice of frame survives."""
_FRAME_CHANGE = 0.01
"""Change of a frame's component that counts as another choice."""


@dataclass(frozen=True)
class TensorError:
    """How far one tensor is from the exact one."""

    name: str
    """out, or one of `GRADIENTS`"""
    error: float
    """relative RMS"""
    allowed: float

    @property
    def ok(self) -> bool:
        """Whether the error is allowed; NaN never is."""
        return self.error <= self.allowed

    def __str__(self) -> str:
        return f"{self.name} is off by {self.error:.1e} (relative RMS; allowed {self.allowed:.1e})"


def random_crystal(num_atoms: int, density: float = 0.06, seed: int = 0) -> Crystal:
    """Return a triclinic crystal of well-separated random atoms, without symmetry.

    `density` in atoms per Å³ sets the number of neighbours; 0.06 is that of the embedded sample.
    """
    rng = np.random.default_rng([seed, num_atoms])
    edge = (num_atoms / density) ** (1 / 3)
    lattice = edge * (np.eye(3) + 0.25 * rng.uniform(-1, 1, (3, 3)))
    steps = int(np.ceil(num_atoms ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(steps)] * 3, indexing="ij"), -1).reshape(-1, 3)[:num_atoms]
    frac_coords = (grid + rng.uniform(0.15, 0.85, grid.shape)) / steps
    return Crystal(lattice, frac_coords, rng.integers(1, 90, num_atoms), id=f"random{num_atoms}")


def make_batch(crystals: Sequence[Crystal], cutoff: float, dtype: torch.dtype = torch.float32) -> CrystalBatch:
    """Return crystals as one batch with their neighbours within `cutoff` (Å)."""
    return collate([prepare_geometry(crystal, cutoff) for crystal in crystals], cutoff, dtype=dtype)


def make_inputs(batch: CrystalBatch, config: ModelConfig, seed: int = 0) -> AttentionInputs:
    """Draw one block's inputs, float32 on the batch's device, that all require gradients; the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    device = batch.vector.device
    shape = (batch.num_atoms, config.num_heads, config.head_width)

    def draw(*size: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*size, generator=generator)).to(device).requires_grad_()

    with_frames = config.frame != "none"
    return AttentionInputs(
        query=draw(*shape),
        key=draw(*shape),
        value=draw(*shape),
        inv_sigma_sq=torch.empty(shape[:2]).uniform_(0.26, 0.9, generator=generator).to(device).requires_grad_(),
        w_dist=draw(*shape[1:], config.num_dist, scale=0.1),
        w_angl=draw(3, *shape[1:], config.num_angl, scale=0.1) if with_frames else None,
        logit_scale=config.head_width**-0.5,
    )


def doubled(inputs: AttentionInputs) -> AttentionInputs:
    """Return the inputs in float64."""
    tensors: dict[str, Any] = {
        name: value.detach().double().requires_grad_()
        for name, value in vars(inputs).items()
        if isinstance(value, Tensor)
    }
    return dataclasses.replace(inputs, **tensors)


def run(
    attend: AttentionKernel,
    inputs: AttentionInputs,
    batch: CrystalBatch,
    config: ModelConfig,
    tie_seed: TieSeed | None,
    left_out: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the output and the gradient of a fixed random projection of it with respect to every input.

    `left_out`, (N, H) bool, takes atoms' heads out of the output and the projection.
    """
    out = attend(inputs, batch, config, tie_seed)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out.device)
    if left_out is not None:
        out = out.masked_fill(left_out[..., None], 0.0)
    tensors = [inputs.query, inputs.key, inputs.value, inputs.inv_sigma_sq, inputs.w_dist]
    tensors += [] if inputs.w_angl is None else [inputs.w_angl]
    grads = torch.autograd.grad((out * direction).sum(), tensors)
    return {"out": out.detach(), **dict(zip(GRADIENTS, grads, strict=False))}


def relative_rms(got: Tensor, want: Tensor) -> float:
    """Return |got − want| / |want|."""
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm().clamp_min(1e-30))


def compare(
    attend: AttentionKernel,
    crystals: Sequence[Crystal],
    config: ModelConfig,
    tie_seed: TieSeed | None = None,
    *,
    device: torch.device | str = "cpu",
    leave_out_undecided: bool = False,
) -> list[TensorError]:
    """Return the error of the output and of every gradient of one block's attention on a batch of crystals.

    Args:
        attend: the kernel under test.
        crystals: at least one.
        config: frame, encodings, cutoff.
        tie_seed: training seed, or None for the deterministic rule.
        device: where to compute.
        leave_out_undecided: leave `undecided_heads` out. Among very many atoms, some frame hangs by a rounding error.

    Raises:
        UserError: more than `MOST_UNDECIDED` of the heads would be left out.
    """
    batch = make_batch(crystals, config.cutoff).to(device)
    exact_batch = make_batch(crystals, config.cutoff, torch.float64).to(device)
    inputs = make_inputs(batch, config)
    left_out = undecided_heads(inputs, batch, config, tie_seed) if leave_out_undecided else None
    share = 0.0 if left_out is None else float(left_out.double().mean())
    if share > MOST_UNDECIDED:
        raise UserError(
            f"frames {config.frame!r}: rounding decides {share:.0%} of these crystals' frames, expected at most "
            f"{MOST_UNDECIDED:.0%}; compare kernels on less symmetric crystals"
        )
    exact = run(reference.attend, doubled(inputs), exact_batch, config, tie_seed, left_out)
    got = run(attend, inputs, batch, config, tie_seed, left_out)
    plain = run(reference.attend, inputs, batch, config, tie_seed, left_out)
    assert got.keys() == exact.keys()
    return [
        TensorError(name, relative_rms(got[name], want), max(TOLERANCE, 2 * relative_rms(plain[name], want)))
        for name, want in exact.items()
    ]


def undecided_heads(
    inputs: AttentionInputs, batch: CrystalBatch, config: ModelConfig, tie_seed: TieSeed | None
) -> Tensor:
    """Return (N, H) bool: the frame changes when queries and distances are nudged by a little more than rounding."""
    undecided = torch.zeros(inputs.query.shape[:2], dtype=torch.bool, device=inputs.query.device)
    if config.frame == "none" or crystal_frames(batch, config.frame, tie_seed) is not None:
        return undecided
    own = reference.attention_state(inputs, batch, config, tie_seed)[1]
    assert own is not None
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        on_query = torch.randn(inputs.query.shape, generator=generator).to(own.device)
        on_distance = torch.randn(batch.distance.shape, generator=generator).clamp(-2, 2).to(own.device)
        for sign in (-1, 1):
            nudged = reference.attention_state(
                dataclasses.replace(inputs, query=inputs.query.detach() * (1 + sign * _QUERY_NUDGE * on_query)),
                dataclasses.replace(
                    batch, distance=batch.distance * (1 + sign * _DISTANCE_NUDGE * on_distance), derived={}
                ),
                config,
                tie_seed,
            )[1]
            assert nudged is not None
            undecided |= ((nudged - own).abs() > _FRAME_CHANGE).flatten(-2).any(-1)
    return undecided
