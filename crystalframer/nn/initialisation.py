"""Initial weights: T-Fixup, so that the blocks train without normalisation or warm-up (Huang et al., ICML 2020)."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from crystalframer.nn.model import CrystalFramer


@torch.no_grad()
def initialise(model: "CrystalFramer", generator: torch.Generator | None = None) -> None:
    """Draw every weight in a fixed order from one generator.

    With L blocks: embedding normal with standard deviation width^-½·(9L)^-¼; value, output and feed-forward weights
    Xavier uniform × 0.67·L^-¼; query, key and σ weights Xavier uniform; W_0 and each W_t Xavier uniform with gain
    1/√(basis functions) on the weight viewed as [H·d, basis]; biases of the blocks zero; the head as torch's Linear.
    """
    config = model.config
    fixup = 0.67 * config.num_blocks**-0.25
    nn.init.normal_(
        model.embedding.weight, std=config.width**-0.5 * (9 * config.num_blocks) ** -0.25, generator=generator
    )
    for block in model.levels:
        attention = block.attention
        for linear, gain in ((attention.query, 1.0), (attention.key, 1.0), (attention.value, fixup)):
            _xavier_linear(linear, gain, generator)
        nn.init.xavier_uniform_(attention.sigma_weight, generator=generator)
        _xavier_projection(attention.w_dist, config.num_dist, generator)
        if attention.w_angl is not None:
            for projection in attention.w_angl:
                _xavier_projection(projection, config.num_angl, generator)
        for linear in (attention.out, block.ffn_in, block.ffn_out):
            _xavier_linear(linear, fixup, generator)
    for linear in (model.head_in, model.head_out):
        bound = 1 / math.sqrt(linear.in_features)
        nn.init.uniform_(linear.weight, -bound, bound, generator=generator)
        nn.init.uniform_(linear.bias, -bound, bound, generator=generator)


def _xavier_linear(linear: nn.Linear, gain: float, generator: torch.Generator | None) -> None:
    nn.init.xavier_uniform_(linear.weight, gain=gain, generator=generator)
    nn.init.zeros_(linear.bias)


def _xavier_projection(weight: Tensor, num_basis: int, generator: torch.Generator | None) -> None:
    """Initialise (H, d, basis) as the matrix [H·d, basis]."""
    nn.init.xavier_uniform_(weight.view(-1, num_basis), gain=num_basis**-0.5, generator=generator)
