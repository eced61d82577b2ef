"""Where a model lives: the devices that there are, and the one that was asked for."""

import re

import torch

from crystalframer.errors import UserError


def check_device(name: str) -> None:
    """Check that a device is one of ours and is there.

    Args:
        name: as ``--device`` got it.

    Raises:
        UserError: it is not.
    """
    if re.fullmatch(r"cpu|cuda(:\d+)?", name) is None:
        raise UserError(f"--device: got {name!r}, expected cpu, cuda or cuda:N")
    if name == "cpu":
        return
    number = int(name.partition(":")[2] or 0)
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number >= there:
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
        raise UserError(
            f"--device: got {name!r}, but torch {torch.__version__}, which {built}, sees {there} GPUs here; choose "
            "another one or cpu, or see with `nvidia-smi` whether the driver suits that torch"
        )


def idle_gpu(name: str) -> str:
    """Return a sentence where training on this device leaves a GPU idle, "" elsewhere."""
    if name != "cpu" or not torch.cuda.is_available():
        return ""
    return f"training on the CPU though there is a GPU ({torch.cuda.get_device_name()}): --device cuda uses it"
