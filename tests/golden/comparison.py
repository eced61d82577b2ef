"""Reads the golden files (exact numbers of an independent brute force) and measures a model's distance from them."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crystalframer.config import FrameName, KernelName, ModelConfig
from crystalframer.data.batch import CrystalBatch, collate
from crystalframer.geometry.crystal import Crystal
from crystalframer.geometry.prepared import prepare_geometry
from crystalframer.nn.attention import PeriodicAttention
from crystalframer.nn.model import CrystalFramer
from crystalframer.nn.released_names import from_official_state, with_sizes_of
from crystalframer.resolving import build_trial

FOLDER = Path(__file__).parents[2].parent / "shared" / "golden"
"""../shared/golden beside the checkout."""

CUTOFF = 10.0
"""Å; wide enough to be exact at these weights: 12 Å changes nothing, 9 Å the gradients by 1e-6."""

FILES: dict[str, tuple[FrameName, str]] = {
    "none_default": ("none", "default"),
    "max_default": ("max", "default"),
    "max_lightweight": ("max", "lightweight"),
    "fullsize_max_default": ("max", "default"),
    "lattice_default": ("lattice", "default"),
    "pca_default": ("pca", "default"),
    "weighted_pca_cols_default": ("weighted_pca", "default"),
}
"""Frame and preset of each golden file."""

TINY = 1e-6
"""A gradient tensor of less than this part of the largest one's norm is tiny: key biases, which change nothing."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Errors:
    """Distances from one golden file, with the files' own frames injected."""

    prediction: float
    """Largest absolute error against `pred_exact`."""
    gradient: dict[str, float]
    """Relative L2 error against `grad_exact` per parameter."""
    tiny_gradient: dict[str, float]
    """L2 error of tiny tensors, in units of the largest tensor's norm."""
    intermediate: dict[str, float]
    """Largest relative L2 error over all blocks of alpha_raw, alpha_norm, rho, a, attn_out and x_out."""


@cache
def read(name: str) -> Arrays:
    """Return the arrays of ``golden_<name>.npz``, with the full-size file's weights under the same names."""
    with np.load(FOLDER / f"golden_{name}.npz", allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    if "param.input_embeddings.weight" not in arrays:
        checkpoint = torch.load(FOLDER / "official_style_max.ckpt", weights_only=True)["state_dict"]
        weights = {key: value.numpy() for key, value in checkpoint.items() if key.startswith("model.")}
        arrays |= {"param." + key.removeprefix("model."): value for key, value in weights.items()}
    return arrays


def tensors(arrays: Arrays, prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the arrays of one prefix as tensors, the prefix cut off."""
    found = {key: value for key, value in arrays.items() if key.startswith(prefix)}
    return {key.removeprefix(prefix): torch.from_numpy(value).to(dtype) for key, value in found.items()}


def config_of(name: str) -> ModelConfig:
    """Return the settings of a golden file's model."""
    frame, preset = FILES[name]
    settings = build_trial({"model.frame": frame, "model.preset": preset, "model.cutoff": CUTOFF}).model
    return with_sizes_of(settings, tensors(read(name), "param.", torch.float32))


def model_of(name: str, kernel: KernelName, dtype: torch.dtype) -> CrystalFramer:
    """Return the golden file's model."""
    config = config_of(name)
    model = CrystalFramer(config, kernel=kernel).to(dtype)
    model.load_state_dict(from_official_state(tensors(read(name), "param.", dtype), config))
    return model


@cache
def batch_of(name: str, dtype: torch.dtype) -> CrystalBatch:
    """Return the golden file's crystals as one batch."""
    arrays = read(name)
    atoms = [slice(*limits) for limits in zip(arrays["offsets"][:-1], arrays["offsets"][1:], strict=True)]
    crystals = [
        Crystal(lattice, arrays["frac"][own], arrays["Z"][own], str(label))
        for lattice, own, label in zip(arrays["lattice"], atoms, arrays["names"], strict=True)
    ]
    geometries = [prepare_geometry(crystal, CUTOFF) for crystal in crystals]
    return collate(geometries, CUTOFF, arrays["target"].astype(np.float64), dtype)


def frames_of(name: str, dtype: torch.dtype) -> list[Tensor] | None:
    """Return the golden file's frames per block, (N, H, 3, 3), or None for `none`."""
    if FILES[name][0] == "none":
        return None
    return [tensors(read(name), f"L{level}.", dtype)["frames"] for level in range(config_of(name).num_blocks)]


def compared_atoms(name: str) -> Tensor:
    """Return which atoms' intermediates and own frames may be compared, (N,): all but those of `unwrapped4`."""
    arrays = read(name)
    return torch.from_numpy(np.repeat(arrays["names"] != "unwrapped4", arrays["sizes"]))


def measure(name: str, kernel: KernelName, dtype: torch.dtype) -> Errors:
    """Run a golden file's model forward and backward, its frames injected, and compare everything the file tells."""
    model, batch = model_of(name, kernel, dtype), batch_of(name, dtype)
    passed = [_Passage() for _ in model.levels]
    for passage, block in zip(passed, model.levels, strict=True):
        block.attention.register_forward_hook(passage.record_attention)
        block.register_forward_hook(passage.record_block)
    predicted = model(batch, frames=frames_of(name, dtype))
    exact = torch.from_numpy(read(name)["pred_exact"])
    prediction = float((predicted.detach().double() - exact).abs().max())
    assert batch.targets is not None
    (predicted - batch.targets).abs().sum().backward()
    return Errors(prediction, *_gradient_errors(name, model), _intermediate_errors(name, model, passed))


class _Passage:
    """What passes through one block."""

    x: Tensor
    attended: Tensor
    x_out: Tensor

    def record_attention(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.x, self.attended = inputs[0].detach(), output.detach()

    def record_block(self, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        self.x_out = output.detach()

    @torch.no_grad()
    def named(self, attention: PeriodicAttention) -> dict[str, Tensor]:
        """Return the block's values by the golden files' names."""
        inputs = attention.inputs(self.x)
        alpha = (inputs.query * attention.sigma_weight).sum(-1)
        return {
            "alpha_raw": alpha,
            "alpha_norm": (alpha - attention.alpha_mean) / attention.alpha_std,
            "rho": inputs.inv_sigma_sq * attention.config.r_0**2,
            "a": -0.5 * inputs.inv_sigma_sq,
            "attn_out": self.attended,
            "x_out": self.x_out,
        }


def _gradient_errors(name: str, model: CrystalFramer) -> tuple[dict[str, float], dict[str, float]]:
    weights = tensors(read(name), "param.", torch.float64)
    exact = from_official_state(weights | tensors(read(name), "grad_exact.", torch.float64), model.config)
    trained = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    largest = max(float(exact[key].norm()) for key in trained)
    relative, tiny = {}, {}
    for key, parameter in trained.items():
        assert parameter.grad is not None, f"no gradient reaches {key}"
        norm, error = float(exact[key].norm()), float((parameter.grad.double() - exact[key]).norm())
        if norm < TINY * largest:
            tiny[key] = error / largest
        else:
            relative[key] = error / norm
    return relative, tiny


def _intermediate_errors(name: str, model: CrystalFramer, passed: list[_Passage]) -> dict[str, float]:
    compared = compared_atoms(name)
    errors: dict[str, float] = {}
    for level, (passage, block) in enumerate(zip(passed, model.levels, strict=True)):
        given, values = tensors(read(name), f"L{level}.", torch.float64), passage.named(block.attention)
        for key in values.keys() & given.keys():
            theirs = given[key][compared]
            error = float((values[key].double()[compared] - theirs).norm() / theirs.norm())
            errors[key] = max(error, errors.get(key, 0.0))
    return errors
