"""Interaction-aware periodic attention, and the block around it."""

import math

import torch
from torch import Tensor, nn

from crystalframer.config import ModelConfig
from crystalframer.data.batch import CrystalBatch
from crystalframer.kernels import AttentionKernel
from crystalframer.kernels.interface import AttentionInputs
from crystalframer.kernels.noise import TieSeed


class PeriodicAttention(nn.Module):
    """Multi-head attention over all periodic neighbours with distance and frame encodings.

    Three frozen scalars per block travel with the weights: the calibration of σ (`alpha_mean` m and `alpha_std` s,
    see `calibrate`) and `logit_scale`, 1/√d.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, heads, head_width = config.width, config.num_heads, config.head_width
        self.config = config
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.sigma_weight = nn.Parameter(torch.empty(heads, head_width))
        self.w_dist = nn.Parameter(torch.empty(heads, head_width, config.num_dist))
        self.w_angl: nn.Parameter | None = None
        if config.frame != "none":
            self.w_angl = nn.Parameter(torch.empty(3, heads, head_width, config.num_angl))
        self.alpha_mean = nn.Parameter(torch.tensor(0.0), requires_grad=False)
        self.alpha_std = nn.Parameter(torch.tensor(math.nan), requires_grad=False)
        self.logit_scale = nn.Parameter(torch.tensor(1 / math.sqrt(head_width)), requires_grad=False)

    def forward(
        self,
        x: Tensor,
        batch: CrystalBatch,
        kernel: AttentionKernel,
        tie_seed: TieSeed | None = None,
        frames: Tensor | None = None,
    ) -> Tensor:
        """Attend and project: (N, width) to (N, width)."""
        inputs = self.inputs(x)
        with torch.autocast(x.device.type, enabled=False):
            attended = kernel(inputs, batch, self.config, tie_seed, frames)
        projected: Tensor = self.out(attended.flatten(1))
        return projected

    def inputs(self, x: Tensor) -> AttentionInputs:
        """Return the kernel's inputs for atom states x, (N, width)."""
        query = self._heads(self.query(x))
        return AttentionInputs(
            query=query,
            key=self._heads(self.key(x)),
            value=self._heads(self.value(x)),
            inv_sigma_sq=self._inv_sigma_sq(self._alpha(query)),
            w_dist=self.w_dist,
            w_angl=self.w_angl,
            logit_scale=1 / math.sqrt(self.config.head_width),
        )

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Set m and s to the mean and standard deviation of q·w over all atoms and heads of x, (N, width)."""
        alpha = self._alpha(self._heads(self.query(x)))
        std = alpha.std()
        if not bool(torch.isfinite(std) & (std > 0)):
            raise ValueError(
                f"cannot calibrate σ: the standard deviation of q·w over {alpha.numel()} values is {float(std)}; "
                "expected a positive number; calibrate on a batch with several atoms"
            )
        self.alpha_mean.copy_(alpha.mean())
        self.alpha_std.copy_(std)

    def sigma(self, x: Tensor) -> Tensor:
        """Return σ in Å per atom and head, (N, H), of atom states x, (N, width)."""
        return self._inv_sigma_sq(self._alpha(self._heads(self.query(x)))).rsqrt()

    def _heads(self, x: Tensor) -> Tensor:
        """Return (N, width) as (N, H, d), in the precision that the weights have."""
        return x.to(self.w_dist.dtype).view(len(x), self.config.num_heads, self.config.head_width)

    def _alpha(self, query: Tensor) -> Tensor:
        """Return q·w, (N, H)."""
        return (query * self.sigma_weight).sum(-1)

    def _inv_sigma_sq(self, alpha: Tensor) -> Tensor:
        """Return 1/σ² = ρ((q·w − m)/s)/r0² in Å⁻² with the shifted ELU ρ(x) = (1 − b)·ELU(a·x/(1 − b)) + 1."""
        slope, floor = self.config.rho_slope, self.config.rho_floor
        normalised = (alpha - self.alpha_mean) / self.alpha_std
        rho = (1 - floor) * nn.functional.elu(slope / (1 - floor) * normalised) + 1
        return rho / self.config.r_0**2


class Block(nn.Module):
    """x + attention(x), then x + FFN(x), without normalisation."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = PeriodicAttention(config)
        self.ffn_in = nn.Linear(config.width, config.ffn_width)
        self.ffn_out = nn.Linear(config.ffn_width, config.width)

    def forward(
        self,
        x: Tensor,
        batch: CrystalBatch,
        kernel: AttentionKernel,
        tie_seed: TieSeed | None = None,
        frames: Tensor | None = None,
    ) -> Tensor:
        """Update atom states x, (N, width)."""
        x = x + self.attention(x, batch, kernel, tie_seed, frames)
        updated: Tensor = x + self.ffn_out(torch.relu(self.ffn_in(x)))
        return updated
