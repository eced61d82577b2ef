"""Tie-breaking random bits as a pure function of (seed, stream, index): the same in every kernel, without memory.

A seed comes from an explicit `torch.Generator`; the hash (a 32-bit integer mixer) turns it into 32 bits per neighbour
and head. All arithmetic is modulo 2³², so torch, Numba and Triton agree bit by bit.

A seed is a Python integer, or an int64 tensor of shape () that holds one: a training step recorded as a CUDA graph
reads it from the device, where it changes from replay to replay.
"""

import torch
from torch import Tensor

TieSeed = int | Tensor
"""A seed of the noise, or where on the device it is found."""

FIRST_AXIS, SECOND_AXIS, SIGN = 1, 2, 3
"""Streams: ties of the first axis, ties of the second, signs of the PCA axes."""
_MASK = 0xFFFFFFFF


def mix(x: TieSeed) -> TieSeed:
    """Scramble 32 bits (two multiply-xorshift rounds)."""
    x = x & _MASK
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def stream_key(seed: TieSeed, stream: int) -> TieSeed:
    """Return the 32-bit key of one noise stream of a seed."""
    return mix(mix(seed) + stream * 0x9E3779B9)


def level_seed(seed: TieSeed, level: int) -> TieSeed:
    """Return the seed of one block of the model."""
    return mix(seed + level)


def hashed(key: TieSeed, index: Tensor) -> Tensor:
    """Return 32 random bits per element of an int64 index tensor, as int64."""
    bits = mix(index ^ key)
    assert isinstance(bits, Tensor), "a tensor's bits"
    return bits


def random_signs(key: TieSeed, index: Tensor, dtype: torch.dtype) -> Tensor:
    """Return +1 or −1 per element of `index`."""
    return 1.0 - 2.0 * ((hashed(key, index) >> 31) & 1).to(dtype)
