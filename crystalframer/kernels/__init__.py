"""The attention's implementations: one signature (`interface.AttentionKernel`), one result.

`reference` is plain torch and the definition; `cpu` (Numba) and `triton` (CUDA) are fast, and tested against it on
outputs and every gradient. Triton is imported only when it is asked for.
"""

import importlib.util
import logging
from functools import cache

import torch

from crystalframer.config import KERNELS, KernelName, Ties
from crystalframer.errors import UserError
from crystalframer.kernels import cpu, reference
from crystalframer.kernels.interface import AttentionInputs, AttentionKernel
from crystalframer.kernels.mean_over_ties import mean_over_ties

__all__ = ["AttentionInputs", "AttentionKernel", "get_kernel", "resolve_kernel"]

_log = logging.getLogger(__name__)

_FASTEST: dict[str, KernelName] = {"cpu": "cpu", "cuda": "triton"}
"""What `auto` picks by kind of device; the reference anywhere else."""


def resolve_kernel(name: KernelName, device: torch.device) -> KernelName:
    """Return the implementation that `auto` stands for on a device; any other name is returned as it is.

    Raises:
        UserError: there is no such implementation, it does not run on this device, or Triton is not installed.
    """
    if name not in KERNELS:
        raise UserError(f"got attention kernel {name!r}; expected one of {', '.join(KERNELS)}")
    picked = _auto(device.type) if name == "auto" else name
    if picked == "cpu" and device.type != "cpu":
        raise UserError(
            f"attention kernel 'cpu' got a model on {device}; it runs on the cpu only; use 'auto' or 'triton' on a GPU"
        )
    if picked == "triton":
        _require_triton(device)
    return picked


def get_kernel(name: KernelName, ties: Ties = "first") -> AttentionKernel:
    """Return an implementation by its resolved name, and by what it does in evaluation where symmetry ties."""
    kernel = _kernel(name)
    return kernel if ties == "first" else mean_over_ties(kernel, name)


def _kernel(name: KernelName) -> AttentionKernel:
    match name:
        case "cpu":
            return cpu.attend
        case "triton":
            from crystalframer.kernels import triton_kernel

            return triton_kernel.attend
        case "reference":
            return reference.attend
        case _:
            raise AssertionError(f"{name!r} is not resolved")


@cache
def _auto(device_type: str) -> KernelName:
    """Pick by kind of device, and say so the first time."""
    picked = _FASTEST.get(device_type, "reference")
    slow = " (plain torch, slow: there is no faster one for this device)" if picked == "reference" else ""
    _log.info("attention kernel: %s on %s%s", picked, device_type, slow)
    return picked


def _require_triton(device: torch.device) -> None:
    if importlib.util.find_spec("triton") is None:
        raise UserError(
            "attention kernel 'triton' needs the package triton, which is not installed; install it "
            "(pip install triton; PyTorch for CUDA on Linux brings it), or choose the slow kernel 'reference'"
        )
    import triton

    if device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise UserError(
            f"attention kernel 'triton' got a model on the {device.type}; it runs on a CUDA device; move the model "
            "there, or use 'auto'; for tests only, TRITON_INTERPRET=1 in the environment runs it anywhere, very slowly"
        )
