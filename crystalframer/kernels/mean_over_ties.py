"""Puts the mean over ties around any kernel; what it is, is told in `kernels.closeness`."""

import torch
from torch import Tensor

from crystalframer.config import OPEN_FRAMES, KernelName, ModelConfig
from crystalframer.data.batch import CrystalBatch
from crystalframer.kernels import cpu, ties_reference
from crystalframer.kernels.interface import AttentionInputs, AttentionKernel
from crystalframer.kernels.moments import projection_of_angles
from crystalframer.kernels.noise import TieSeed


def mean_over_ties(kernel: AttentionKernel, name: KernelName) -> AttentionKernel:
    """Return a kernel that takes the mean over ties where it is given neither a seed nor frames.

    Args:
        kernel: the one that computes everything else.
        name: its name; the CPU's own takes the mean itself, unless gradients are asked for.
    """

    def attend(
        inputs: AttentionInputs,
        batch: CrystalBatch,
        config: ModelConfig,
        tie_seed: TieSeed | None = None,
        frames: Tensor | None = None,
    ) -> Tensor:
        if tie_seed is not None or frames is not None or config.frame not in OPEN_FRAMES:
            return kernel(inputs, batch, config, tie_seed, frames)
        if name == "cpu" and not torch.is_grad_enabled():
            return cpu.averaged(inputs, batch, config)[0]
        averaged = ties_reference.average(inputs, batch, config)
        out = kernel(inputs, batch, config, None, averaged.frames)
        return out + torch.bmm(averaged.moments, projection_of_angles(inputs, config).mT).transpose(0, 1)

    return attend
