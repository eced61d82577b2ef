"""What running out of memory looks like, on a GPU and on a processor."""

import gc

import torch

FAILED_ALLOCATION = (MemoryError, RuntimeError)
"""What may be raised; `is_out_of_memory` tells."""
_CPU_ALLOCATOR = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory was asked for and not had."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _CPU_ALLOCATOR)


def release(device: torch.device) -> None:
    """Give back what a failed attempt still holds."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
