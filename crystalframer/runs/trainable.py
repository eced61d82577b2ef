"""What a trial needs of a trainer: `crystalframer.training.trainer.Trainer`, or a stand-in for it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from crystalframer.data.dataset import SplitName

if TYPE_CHECKING:  # it imports torch, which the driver does without
    from crystalframer.training.metrics import EpochResult, Evaluation


class TrialTrainer(Protocol):
    """What a trial needs of `crystalframer.training.trainer.Trainer`."""

    history: "list[EpochResult]"
    start_data: str
    """What the weights it started from learned from; empty for fresh ones."""

    @property
    def model(self) -> Any:
        """What is trained; it has a `kernel_name`."""

    @property
    def epochs(self) -> int:
        """Epochs of the whole training; 0 while that is not known."""

    @property
    def num_parameters(self) -> int:
        """Number of the model's parameters."""

    def fit(self, after_step: "Callable[[float], None] | None" = None) -> "Iterator[EpochResult]":
        """Train from where training stands to the last epoch, yielding the result of each."""

    def stop(self) -> None:
        """Make `fit` end after the step under way."""

    def evaluate(self, split: "SplitName") -> "Evaluation":
        """Predict a split."""

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint."""


TrainerFactory = Callable[..., TrialTrainer]
"""Makes a trainer of a trial's settings and data, and the keyword `device`, as the class `Trainer` itself does."""
