"""Atom and crystal states on their way through a model, seen without changing it: the embedding of a crystal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from crystalframer.nn.model import CrystalFramer


class Seen:
    """What the last pass within the context went through."""

    crystals: Tensor
    """(S, width) mean of the last block's atom states over each crystal, before the head: its embedding."""
    atoms: Tensor
    """(N, width) atom states that leave the last block."""


@contextmanager
def watched(model: CrystalFramer) -> Iterator[Seen]:
    """Keep what each pass of a model within the context goes through."""
    seen = Seen()

    def keep_crystals(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.crystals = inputs[0]

    def keep_atoms(_: nn.Module, __: Any, output: Tensor) -> None:
        seen.atoms = output

    handles = [
        model.head_in.register_forward_pre_hook(keep_crystals),
        model.levels[-1].register_forward_hook(keep_atoms),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
