"""The weights of the epoch with the smallest validation error, kept beside those that go on training."""

from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from crystalframer.training.averaging import holding


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

    def applied(self) -> AbstractContextManager[None]:
        """Give the model the kept weights within the context; see `holding`."""
        assert self._kept is not None, "an epoch was kept"
        return holding(self._model.state_dict(), self._kept["weights"])

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
