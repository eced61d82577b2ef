"""Learning rate per optimiser step, a function of the step alone."""

import math
from dataclasses import dataclass

from crystalframer.config import TrainConfig


@dataclass(frozen=True)
class Schedule:
    """Inverse square root decay, frozen while the weights are averaged.

    lr(t) = lr_0 · √(T / (T + min(t, t_average))), t = 0 for the first optimiser step.
    """

    learning_rate: float
    """Rate of the first step, lr_0."""
    decay_steps: float
    """T, in optimiser steps."""
    average_from: int
    """First step whose weights are averaged, t_average; the number of steps of the whole training if none are."""

    @classmethod
    def of(cls, config: TrainConfig, steps_per_epoch: int) -> "Schedule":
        """Return the schedule of a training with `steps_per_epoch` optimiser steps in each epoch."""
        average_from = (config.epochs - config.average_epochs) * steps_per_epoch
        return cls(config.learning_rate, config.decay_steps, average_from)

    def at(self, step: int) -> float:
        """Return the learning rate of optimiser step `step`, counted from 0."""
        return self.learning_rate * math.sqrt(self.decay_steps / (self.decay_steps + min(step, self.average_from)))

    def averages(self, step: int) -> bool:
        """Return whether the weights after step `step`, counted from 0, enter the average."""
        return step >= self.average_from
