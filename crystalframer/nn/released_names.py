"""Weights laid out like the authors' released checkpoints, renamed to ours."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from crystalframer.config import ModelConfig

_PER_BLOCK = {
    "out_proj.weight": "attention.out.weight",
    "out_proj.bias": "attention.out.bias",
    "q_proj_weight": "attention.query.weight",
    "k_proj_weight": "attention.key.weight",
    "v_proj_weight": "attention.value.weight",
}


def from_official_state(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Rename and reshape a released model's state dict.

    Args:
        state: weights by the released names (``encoder.layers.0.self_attn.q_proj_weight`` ...).
        config: the architecture; frame and encodings decide which tensors are expected.

    Returns:
        A state dict for `CrystalFramer(config)`.

    Raises:
        KeyError: a weight is missing.
    """
    heads, head_width = config.num_heads, config.head_width
    ours: dict[str, Tensor] = {"embedding.weight": state["input_embeddings.weight"].T}
    for level in range(config.num_blocks):
        theirs, block = f"encoder.layers.{level}.", f"blocks.{level}."
        attention = theirs + "self_attn."
        for old, new in _PER_BLOCK.items():
            ours[block + new] = state[attention + old]
        biases = state[attention + "in_proj_bias"].chunk(3)
        for name, bias in zip(("query", "key", "value"), biases, strict=True):
            ours[f"{block}attention.{name}.bias"] = bias
        scale, shift = state[attention + "gauss_scale"]
        ours[block + "attention.alpha_mean"] = -shift
        ours[block + "attention.alpha_std"] = 1 / scale
        ours[block + "attention.logit_scale"] = torch.tensor(head_width**-0.5).to(scale)
        ours[block + "attention.sigma_weight"] = state[attention + "lattice_pos_weights"].view(heads, head_width)
        ours[block + "attention.w_dist"] = state[attention + "pe_dist_proj"][0]
        if config.frame != "none":
            axes = [state[f"{attention}proj_angle{axis}"][0] for axis in (1, 2, 3)]
            ours[block + "attention.w_angl"] = torch.stack(axes)
        for old, new in (("linear1", "ffn_in"), ("linear2", "ffn_out")):
            for part in ("weight", "bias"):
                ours[f"{block}{new}.{part}"] = state[f"{theirs}{old}.{part}"]
    for old, new in (("mlp.0", "head_in"), ("mlp.3", "head_out")):
        for part in ("weight", "bias"):
            ours[f"{new}.{part}"] = state[f"{old}.{part}"]
    return ours


def with_sizes_of(config: ModelConfig, state: Mapping[str, Tensor]) -> ModelConfig:
    """Return `config` with the sizes (blocks, width, heads, feed-forward width, elements) that the weights have."""
    width, num_elements = state["input_embeddings.weight"].shape
    blocks = {key.split(".")[2] for key in state if key.startswith("encoder.layers.")}
    return dataclasses.replace(
        config,
        num_blocks=len(blocks),
        width=width,
        num_elements=num_elements,
        num_heads=state["encoder.layers.0.self_attn.pe_dist_proj"].shape[1],
        ffn_width=state["encoder.layers.0.linear1.weight"].shape[0],
    )
