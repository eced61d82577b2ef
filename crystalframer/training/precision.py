"""The arithmetic of the linear layers; the attention kernel itself always computes in float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from crystalframer.config import Precision
from crystalframer.errors import UserError


def check_precision(precision: Precision, device: torch.device) -> None:
    """Check that a device has this arithmetic.

    Raises:
        UserError: it has not.
    """
    if precision == "tf32" and device.type != "cuda":
        raise UserError(
            f"setting 'train.precision': got 'tf32' on the {device.type}; it is an arithmetic of NVIDIA GPUs; use "
            "'float32' here"
        )


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute the linear layers within the context in float32, in TF32, or in bfloat16 with float32 sums.

    TF32 and bfloat16 keep 10 and 7 binary digits of each factor; weights, attention, pooling, loss and optimiser stay
    float32.
    """
    if precision == "bf16":
        with torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False):  # a CUDA graph holds no cache
            yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
