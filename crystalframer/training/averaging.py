"""The mean of the weights over many optimiser steps."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def holding(tensors: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Let a model's tensors hold other values, by name, within the context, then their own again, bit for bit.

    The values are written in place: whatever holds on to the tensors sees them too.
    """
    own = {name: value.detach().clone() for name, value in tensors.items()}
    _write(tensors, values)
    try:
        yield
    finally:
        _write(tensors, own)


@torch.no_grad()
def _write(tensors: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    for name, value in tensors.items():
        value.copy_(values[name])


class WeightAverage:
    """Mean of a model's trainable weights over the steps it was shown, summed in float64.

    Frozen parameters and buffers do not change in training; they are not averaged but kept as the model has them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._sums = {
            name: torch.zeros_like(value, dtype=torch.float64, requires_grad=False)
            for name, value in self._parameters.items()
        }
        self.count = 0
        """Steps averaged so far."""

    @torch.no_grad()
    def add(self) -> None:
        """Include the model's present weights."""
        for name, value in self._parameters.items():
            self._sums[name] += value
        self.count += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights, if averaging has begun, within the context; see `holding`."""
        if self.count == 0:
            yield
            return
        with holding(self._parameters, {name: total / self.count for name, total in self._sums.items()}):
            yield

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps and the float64 sums by parameter name."""
        return {"count": self.count, "sums": dict(self._sums)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of the same model."""
        self.count = int(state["count"])
        for name, total in self._sums.items():
            total.copy_(state["sums"][name])
