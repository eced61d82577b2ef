"""Named random generators: each stream of a trial is independent of the others."""

import hashlib

import torch


def stream_seed(seed: int, name: str) -> int:
    """Return the seed of the stream `name` of a trial, a non-negative 63-bit integer.

    The name is hashed together with the trial's seed, so that a stream does not depend on how many others there are
    or on what they draw, and nearby seeds give unrelated streams.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def named_generator(seed: int, name: str) -> torch.Generator:
    """Return a new CPU generator at the start of the stream `name` of a trial."""
    return torch.Generator().manual_seed(stream_seed(seed, name))


def draw_seed(generator: torch.Generator) -> int:
    """Draw a non-negative 63-bit integer, to seed what one training step breaks at random."""
    return int(torch.randint(2**63 - 1, (), generator=generator))
