"""What kernels that accumulate moments share: given frames before them, the projection by W after them."""

from functools import lru_cache

import torch
from torch import Tensor

from crystalframer.config import ModelConfig
from crystalframer.data.batch import CrystalBatch
from crystalframer.kernels import noise
from crystalframer.kernels.chebyshev import chebyshev_matrix
from crystalframer.kernels.frames import crystal_frames
from crystalframer.kernels.interface import AttentionInputs
from crystalframer.kernels.noise import TieSeed


def num_terms(config: ModelConfig) -> int:
    """Return the Chebyshev terms M of one axis, 0 without frames."""
    return 0 if config.frame == "none" else chebyshev_matrix(config).shape[1]


def given_frames(
    batch: CrystalBatch, config: ModelConfig, tie_seed: TieSeed | None, frames: Tensor | None
) -> Tensor | None:
    """Return (N, H, 3, 3) frames that need no attention: the caller's, or static ones of the crystal."""
    if config.frame == "none":
        return None
    if frames is None and (static := crystal_frames(batch, config.frame, tie_seed)) is not None:
        frames = static[batch.crystal_of_atom, None].expand(-1, config.num_heads, -1, -1)
    return None if frames is None else frames.contiguous()


def hash_keys(config: ModelConfig, tie_seed: TieSeed) -> tuple[TieSeed, TieSeed]:
    """Return the 32-bit hash keys of the two random choices a frame makes: its ties, or the signs of its axes."""
    streams = (noise.SIGN, noise.SIGN) if config.frame == "weighted_pca" else (noise.FIRST_AXIS, noise.SECOND_AXIS)
    return noise.stream_key(tie_seed, streams[0]), noise.stream_key(tie_seed, streams[1])


def project(value: Tensor, moments: Tensor, inputs: AttentionInputs, config: ModelConfig) -> Tensor:
    """Return the attention's output, (N, H, d): W times the moments, once per atom, added to Σ p v.

    Args:
        value: (N, H, d) Σ p v_j.
        moments: (H, N, K + 3M) Σ p b_dist and, for each axis, Σ p T_m(e_t·r̄).
        inputs: the block's tensors, for W_0 and W_t.
        config: encodings.
    """
    projection = config.c_dist * inputs.w_dist
    if inputs.w_angl is not None:
        projection = torch.cat([projection, projection_of_angles(inputs, config)], dim=-1)
    out: Tensor = value + torch.bmm(moments, projection.mT).transpose(0, 1)
    return out


def projection_of_angles(inputs: AttentionInputs, config: ModelConfig) -> Tensor:
    """Return c_angl W_t C of the three axes side by side, (H, d, 3M): what angular moments are multiplied by."""
    assert inputs.w_angl is not None, "a frame has angles"
    series = _series(config, inputs.w_angl.dtype, inputs.w_angl.device)
    return torch.cat([*(config.c_angl * (inputs.w_angl @ series))], dim=-1)


@lru_cache(maxsize=16)
def _series(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the Gaussian-to-Chebyshev matrix, (D, M), where it is needed, copied there once."""
    return chebyshev_matrix(config).to(device, dtype)
