"""The one signature that every implementation of the attention has."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from crystalframer.config import ModelConfig
from crystalframer.data.batch import CrystalBatch
from crystalframer.kernels.noise import TieSeed


@dataclass(frozen=True, eq=False)
class AttentionInputs:
    """Differentiable inputs of one block's attention (paper symbols in brackets)."""

    query: Tensor
    """(N, H, d) q"""
    key: Tensor
    """(N, H, d) k"""
    value: Tensor
    """(N, H, d) v"""
    inv_sigma_sq: Tensor
    """(N, H) 1/σ² in Å⁻²"""
    w_dist: Tensor
    """(H, d, K) W_0, the projection of the distance basis"""
    w_angl: Tensor | None
    """(3, H, d, D) W_1, W_2, W_3, the projections of the angular basis; None for the frame `none`"""
    logit_scale: float
    """1/√d, times q·k"""


class AttentionKernel(Protocol):
    """Computes the attention output before its output projection.

    out_i = Σ_jn p_jn [v_j + c_dist W_0 b_dist(|r|) + c_angl Σ_t W_t b_angl(e_t·r̄)] with
    p = softmax_jn (q_i·k_j / √d − |r|² / 2σ_i²), over all neighbours within the batch's cutoff.
    """

    def __call__(
        self,
        inputs: AttentionInputs,
        batch: CrystalBatch,
        config: ModelConfig,
        tie_seed: TieSeed | None = None,
        frames: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            inputs: the block's tensors.
            batch: crystals with their neighbours and static frames.
            config: frame type and encodings.
            tie_seed: training: seed of the tie-breaking noise and axis signs, a number or where on the device it is
                found; None: deterministic evaluation.
            frames: (N, H, 3, 3) frames to use instead of computing them (rows e1, e2, e3), for tests and pictures.

        Returns:
            (N, H, d)
        """
        ...
