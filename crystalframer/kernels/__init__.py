"""The attention's implementations: one signature (`interface.AttentionKernel`), one result.

`reference` is plain torch and the definition; faster kernels are tested against it on outputs and every gradient.
"""

import logging

import torch

from crystalframer.config import KernelName
from crystalframer.errors import UserError
from crystalframer.kernels import cpu, reference
from crystalframer.kernels.interface import AttentionInputs, AttentionKernel

__all__ = ["AttentionInputs", "AttentionKernel", "get_kernel", "resolve_kernel"]

_log = logging.getLogger(__name__)

_KERNELS: dict[str, AttentionKernel] = {"cpu": cpu.attend, "reference": reference.attend}


def resolve_kernel(name: KernelName, device: torch.device) -> str:
    """Return the implementation that `auto` stands for on a device; any other name is returned as it is.

    Raises:
        UserError: this version does not have the implementation asked for.
    """
    if name == "auto":
        picked = "cpu" if device.type == "cpu" else "reference"
        _log.info("attention kernel: %s on %s", picked, device)
        return picked
    if name not in _KERNELS:
        raise UserError(f"attention kernel {name!r} is not built yet; expected one of {sorted(_KERNELS)} or 'auto'")
    return name


def get_kernel(name: str) -> AttentionKernel:
    """Return an implementation by its resolved name."""
    return _KERNELS[name]
