"""Gaussians of a cosine as Chebyshev series: what lets a kernel accumulate polynomials instead of exponentials.

Every angular Gaussian is smooth on [−1, 1], so b(x) = C·(T_0(x), …, T_M−1(x)) to float32's accuracy with some forty
terms. A kernel accumulates the moments Σ p T_m(e_t·r̄); the constant matrix C is folded into W_t.
"""

from functools import lru_cache

import torch
from torch import Tensor

from crystalframer.config import ModelConfig
from crystalframer.kernels.basis import angular_basis

TOLERANCE = 2.5e-7
"""Largest error of any Gaussian on [−1, 1]."""
TERMS_MODULO = 4
"""Kernels advance the recurrence this many terms at a time, so M = 2 modulo this."""
_NODES = 512


@lru_cache(maxsize=16)
def chebyshev_matrix(config: ModelConfig) -> Tensor:
    """Return C, (D, M) float64, with b_angl(x) = C·T(x) to within `TOLERANCE`.

    The coefficients are those of interpolation at Chebyshev nodes; M is the smallest number of terms, 2 modulo
    `TERMS_MODULO`, that reaches the tolerance.
    """
    nodes = torch.cos(torch.pi * (torch.arange(_NODES, dtype=torch.float64) + 0.5) / _NODES)
    order = torch.arange(_NODES, dtype=torch.float64)
    polynomials = torch.cos(order[:, None] * torch.arccos(nodes))
    values = angular_basis(nodes, config)
    coefficients = 2.0 / _NODES * values.T @ polynomials.T
    coefficients[:, 0] *= 0.5
    for terms in range(2 + TERMS_MODULO, _NODES, TERMS_MODULO):
        error = (coefficients[:, :terms] @ polynomials[:terms] - values.T).abs().max()
        if error <= TOLERANCE:
            return coefficients[:, :terms].contiguous()
    raise ValueError(
        f"angular Gaussians of standard deviation {config.s_angl}·2/{config.num_angl - 1} are too narrow for a "
        f"Chebyshev series of {_NODES} terms; use the reference kernel or a larger model.s_angl"
    )
