"""The attention in plain torch: readable, differentiable in any dtype, the definition of what a kernel computes.

Neighbours of a chunk of atoms are laid out as a padded rectangle; the softmax, the frames and the two moments
Σ p b_dist and Σ p b_angl are then ordinary tensor expressions. Moments are projected once per atom, not per pair,
since W_0 and W_t do not depend on the pair. Each chunk is recomputed in the backward pass, so memory stays bounded
whatever the crystals' size.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from crystalframer.config import ModelConfig
from crystalframer.data.batch import CrystalBatch
from crystalframer.kernels.basis import angular_basis, distance_basis
from crystalframer.kernels.frames import Surroundings, crystal_frames, max_frames, weighted_pca_frames
from crystalframer.kernels.interface import AttentionInputs
from crystalframer.kernels.noise import TieSeed

CHUNK_BYTES = 16 * 2**20
"""Memory that the largest tensor of one chunk may take; 128 MiB is four times slower on a CPU (page faults)."""


def attend(
    inputs: AttentionInputs,
    batch: CrystalBatch,
    config: ModelConfig,
    tie_seed: TieSeed | None = None,
    frames: Tensor | None = None,
) -> Tensor:
    """Compute the attention; see `AttentionKernel`."""
    outputs = []
    for start, stop in chunks(batch, config, inputs.query.element_size()):
        args = (inputs, batch, config, tie_seed, frames, start, stop)
        if torch.is_grad_enabled():
            outputs.append(checkpoint(_attend_chunk, *args, use_reentrant=False, preserve_rng_state=False))
        else:
            outputs.append(_attend_chunk(*args))
    return torch.cat(outputs)


def attention_state(
    inputs: AttentionInputs, batch: CrystalBatch, config: ModelConfig, tie_seed: TieSeed | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return every neighbour's softmax weight, (E, H), and the frames, (N, H, 3, 3) or None: for pictures and tests."""
    weights, frames = [], []
    with torch.no_grad():
        for start, stop in chunks(batch, config, inputs.query.element_size()):
            near, is_real = surroundings(batch, start, stop)
            logits = log_weights(inputs, batch, near, is_real, start, stop)
            weight = torch.softmax(logits, dim=1)
            weights.append(weight[is_real])
            if config.frame != "none":
                frames.append(_frames(logits, weight, near, batch, config, tie_seed))
    return torch.cat(weights), torch.cat(frames) if frames else None


def _attend_chunk(
    inputs: AttentionInputs,
    batch: CrystalBatch,
    config: ModelConfig,
    tie_seed: TieSeed | None,
    given_frames: Tensor | None,
    start: int,
    stop: int,
) -> Tensor:
    near, is_real = surroundings(batch, start, stop)
    logits = log_weights(inputs, batch, near, is_real, start, stop)
    weight = torch.softmax(logits, dim=1)

    value = _gather(inputs.value, batch, near)
    out = torch.einsum("akh,akhd->ahd", weight, value)
    moments = torch.einsum("akh,akb->ahb", weight, distance_basis(near.distance, config))
    out = out + config.c_dist * torch.einsum("hdb,ahb->ahd", inputs.w_dist, moments)
    if inputs.w_angl is None:
        return out

    if given_frames is not None:
        frames = given_frames[start:stop]
    else:
        frames = _frames(logits, weight, near, batch, config, tie_seed)
    cosine = torch.einsum("ahtx,akx->akht", frames, near.unit)
    angular_weight = weight * near.is_candidate[..., None]
    moments = torch.einsum("akh,akhtb->ahtb", angular_weight, angular_basis(cosine, config))
    return out + config.c_angl * torch.einsum("thdb,ahtb->ahd", inputs.w_angl, moments)


def log_weights(
    inputs: AttentionInputs, batch: CrystalBatch, near: Surroundings, is_real: Tensor, start: int, stop: int
) -> Tensor:
    """Return q_i·k_j/√d − |r|²/2σ_i² as (A, K, H), −∞ for padding."""
    dot = torch.einsum("ahd,akhd->akh", inputs.query[start:stop], _gather(inputs.key, batch, near))
    decay = 0.5 * near.distance[..., None] ** 2 * inputs.inv_sigma_sq[start:stop, None]
    return (inputs.logit_scale * dot - decay).masked_fill(~is_real[..., None], float("-inf"))


def _frames(
    logits: Tensor,
    weight: Tensor,
    near: Surroundings,
    batch: CrystalBatch,
    config: ModelConfig,
    tie_seed: TieSeed | None,
) -> Tensor:
    """Return the frames of a chunk, (A, H, 3, 3) rows e1, e2, e3; no gradient flows through them."""
    logits, weight = logits.detach(), weight.detach()
    if (static := crystal_frames(batch, config.frame, tie_seed)) is not None:
        return static[batch.crystal_of_atom[near.atom], None].expand(-1, logits.shape[-1], -1, -1)
    match config.frame:
        case "max":
            return max_frames(logits, near, tie_seed)
        case "static_local":
            return max_frames(-(near.distance[..., None] ** 2).expand_as(logits), near, tie_seed)
        case "weighted_pca":
            return weighted_pca_frames(weight, near, tie_seed)
        case _:
            raise AssertionError(f"no frames for {config.frame!r}")


def surroundings(batch: CrystalBatch, start: int, stop: int) -> tuple[Surroundings, Tensor]:
    """Lay the neighbours of atoms start..stop out as rectangles, and tell the real entries from padding."""
    first, last = batch.first_edge[start:stop], batch.first_edge[start + 1 : stop + 1]
    slot = torch.arange(int((last - first).max()), device=first.device)
    is_real = slot < (last - first)[:, None]
    edge = torch.where(is_real, first[:, None] + slot, first[:, None])
    vector = batch.vector[edge]
    distance = batch.distance[edge]
    unit = vector / torch.where(distance > 0, distance, 1.0)[..., None]
    atom = torch.arange(start, stop, device=first.device)
    near = Surroundings(
        distance=distance,
        unit=unit,
        is_candidate=is_real & (distance > 0),
        edge=edge,
        atom=atom,
        preceding=batch.preceding,
        lattice_axes=batch.lattice_axes[batch.crystal_of_atom[atom]],
    )
    return near, is_real


def _gather(per_atom: Tensor, batch: CrystalBatch, near: Surroundings) -> Tensor:
    """Return each neighbour's row of an (N, H, d) tensor as (A, K, H, d); its backward pass is deterministic."""
    neighbour = batch.neighbour[near.edge]
    return per_atom.index_select(0, neighbour.flatten()).view(*neighbour.shape, *per_atom.shape[1:])


def chunks(batch: CrystalBatch, config: ModelConfig, bytes_per_number: int) -> list[tuple[int, int]]:
    """Split the atoms into runs whose largest tensor stays within `CHUNK_BYTES`."""
    width = config.width if config.frame == "none" else max(config.width, 3 * config.num_heads * config.num_angl)
    longest = int((batch.first_edge[1:] - batch.first_edge[:-1]).max())
    atoms = max(1, CHUNK_BYTES // (longest * width * bytes_per_number))
    return [(start, min(start + atoms, batch.num_atoms)) for start in range(0, batch.num_atoms, atoms)]
