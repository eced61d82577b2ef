"""Tie-breaking random bits as a pure function of (seed, stream, index): the same in every kernel, without memory.

A seed comes from an explicit `torch.Generator`; the hash (a 32-bit integer mixer) turns it into 32 bits per neighbour
and head. All arithmetic is modulo 2³², so torch, Numba and Triton agree bit by bit.
"""

import torch
from torch import Tensor

FIRST_AXIS, SECOND_AXIS, SIGN = 1, 2, 3
"""Streams: ties of the first axis, ties of the second, signs of the PCA axes."""
_MASK = 0xFFFFFFFF


def mix(x: int) -> int:
    """Scramble 32 bits (two multiply-xorshift rounds)."""
    x &= _MASK
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def stream_key(seed: int, stream: int) -> int:
    """Return the 32-bit key of one noise stream of a seed."""
    return mix(mix(seed) + stream * 0x9E3779B9)


def hashed(key: int, index: Tensor) -> Tensor:
    """Return 32 random bits per element of an int64 index tensor, as int64."""
    x = (index ^ key) & _MASK
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def random_signs(key: int, index: Tensor, dtype: torch.dtype) -> Tensor:
    """Return +1 or −1 per element of `index`."""
    return 1.0 - 2.0 * ((hashed(key, index) >> 31) & 1).to(dtype)
