"""The mean over ties on the CPU: compiled, multi-threaded, equal to `kernels.ties_reference` to float32's rounding.

Axes of all tied frames of an atom and head are gathered as lines: opposite axes and equal ones of e1, e2 and e3 share a
line, whose moments are computed once. A cubic site with 24 tied frames costs three lines.
"""

import numpy as np
import torch

from crystalframer.config import ModelConfig
from crystalframer.data.batch import CrystalBatch
from crystalframer.kernels import ties_loop
from crystalframer.kernels.closeness import Averaged
from crystalframer.kernels.cpu import follow_torch_threads
from crystalframer.kernels.interface import AttentionInputs
from crystalframer.kernels.moments import num_terms

_KINDS = {
    "max": ties_loop.MAX,
    "static_local": ties_loop.STATIC_LOCAL,
    "weighted_pca": ties_loop.WEIGHTED_PCA,
}


def average(inputs: AttentionInputs, batch: CrystalBatch, config: ModelConfig) -> Averaged:
    """Return the decided frames and the mean moments of the open ones."""
    terms = num_terms(config)
    tensors = [tensor.detach().contiguous() for tensor in (inputs.query, inputs.key, inputs.inv_sigma_sq)]
    frames = torch.empty(batch.num_atoms, config.num_heads, 3, 3)
    moments = torch.empty(config.num_heads, batch.num_atoms, 3 * terms)
    follow_torch_threads()
    ties_loop.average_loop()(
        _KINDS[config.frame], terms, *(tensor.numpy() for tensor in tensors), np.float32(inputs.logit_scale),
        *_geometry(batch), frames.numpy(), moments.numpy(),
    )  # fmt: skip
    return Averaged(frames, moments)


def _geometry(batch: CrystalBatch) -> tuple[object, ...]:
    """Return the batch's geometry as the loop wants it, computed once per batch."""
    if "ties" not in batch.derived:
        unit = batch.vector / torch.where(batch.distance > 0, batch.distance, 1.0)[:, None]
        batch.derived["ties"] = (
            batch.offsets.numpy(),
            batch.first_edge.numpy(),
            batch.neighbour.numpy(),
            (0.5 * batch.distance**2).numpy(),
            unit.T.contiguous().numpy(),
            batch.lattice_axes.numpy(),
        )
    geometry: tuple[object, ...] = batch.derived["ties"]
    return geometry
