"""The Gaussian bases of distance and angle (paper: b_dist, b_angl)."""

import torch
from torch import Tensor

from crystalframer.config import ModelConfig


def distance_basis(distance: Tensor, config: ModelConfig) -> Tensor:
    """Return Gaussians of the distance centred at k·r_max/K, k = 1..K, with standard deviation s_dist·r_max/K.

    Args:
        distance: (...) in Å.
        config: num_dist (K), r_max, s_dist.

    Returns:
        (..., K)
    """
    spacing = config.r_max / config.num_dist
    centres = spacing * torch.arange(1, config.num_dist + 1, dtype=distance.dtype, device=distance.device)
    return torch.exp(-0.5 * ((distance[..., None] - centres) / (config.s_dist * spacing)) ** 2)


def angular_basis(cosine: Tensor, config: ModelConfig) -> Tensor:
    """Return Gaussians of a cosine centred evenly on [−1, 1] with standard deviation s_angl·2/(D − 1).

    Args:
        cosine: (...) e_t·r̄.
        config: num_angl (D), s_angl.

    Returns:
        (..., D)
    """
    spacing = 2.0 / (config.num_angl - 1)
    centres = torch.linspace(-1, 1, config.num_angl, dtype=torch.float64).to(cosine)
    return torch.exp(-0.5 * ((cosine[..., None] - centres) / (config.s_angl * spacing)) ** 2)
