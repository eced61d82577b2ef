"""The weights of the epoch with the smallest validation error, kept beside those that go on training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class BestWeights:
    """A copy of a model's weights at its best epoch so far, where ``train.keep`` asks for it; else empty for good."""

    def __init__(self, model: nn.Module, wanted: bool) -> None:
        self._model = model
        self._wanted = wanted
        self._kept: dict[str, Any] | None = None

    def wants(self, error: float) -> bool:
        """Return whether weights with this validation error shall be kept: it is smaller than that of all before."""
        return self._wanted and (self._kept is None or error < self._kept["error"])

    def keep(self, epoch: int, error: float, averaged: bool) -> None:
        """Keep the model's present weights."""
        weights = {name: value.detach().clone() for name, value in self._model.state_dict().items()}
        self._kept = {"epoch": epoch, "error": error, "averaged": averaged, "weights": weights}

    @property
    def is_there(self) -> bool:
        """Whether an epoch was kept."""
        return self._kept is not None

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the kept weights within the context, then its own, bit for bit."""
        assert self._kept is not None, "an epoch was kept"
        own = {name: value.detach().clone() for name, value in self._model.state_dict().items()}
        self._write(self._kept["weights"])
        try:
            yield
        finally:
            self._write(own)

    def state_dict(self) -> dict[str, Any] | None:
        """Return epoch, validation error and weights, or None."""
        return self._kept

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on from a `state_dict`."""
        self._kept = None
        if state is not None:
            own = self._model.state_dict()
            weights = {name: value.to(own[name].device) for name, value in state["weights"].items()}
            self._kept = {**state, "weights": weights}

    @torch.no_grad()
    def _write(self, values: dict[str, torch.Tensor]) -> None:
        for name, value in self._model.state_dict().items():
            value.copy_(values[name])
