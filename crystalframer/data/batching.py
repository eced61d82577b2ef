"""Which crystals go into a batch together: shuffled for training, packed by size for evaluation."""

import numpy as np
import torch
from numpy.typing import NDArray


def shuffled_batches(count: int, batch_size: int, generator: torch.Generator) -> list[NDArray[np.int64]]:
    """Return the batches of one epoch: positions 0 … count − 1 in random order, the incomplete last batch dropped.

    Args:
        count: number of training crystals.
        batch_size: positions per batch.
        generator: advanced by one permutation of `count`.

    Returns:
        ``count // batch_size`` arrays of shape (batch_size,).
    """
    order = torch.randperm(count, generator=generator).numpy()
    full = count // batch_size
    return list(order[: full * batch_size].reshape(full, batch_size))


def packed_batches(sizes: NDArray[np.int64], max_atoms: int) -> list[NDArray[np.int64]]:
    """Return batches of crystals of similar size, each of at most `max_atoms` atoms.

    The largest crystals come first, so that memory peaks at once or not at all; crystals of equal size keep their
    order. A crystal of more than `max_atoms` atoms has a batch of its own.

    Args:
        sizes: (n,) atoms per crystal.
        max_atoms: atoms per batch.

    Returns:
        Arrays of positions into `sizes` that hold each position once.
    """
    order = np.argsort(-sizes, kind="stable")
    batches: list[NDArray[np.int64]] = []
    start, atoms = 0, 0
    for end, size in enumerate(sizes[order].tolist()):
        if end > start and atoms + size > max_atoms:
            batches.append(order[start:end])
            start, atoms = end, 0
        atoms += size
    if start < len(order):
        batches.append(order[start:])
    return batches
