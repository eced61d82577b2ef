"""Learning rate per optimiser step, a function of the step alone."""

import math
from dataclasses import dataclass

from crystalframer.config import ScheduleName, TrainConfig

WARM_UP = 0.1
"""Share of the steps of `one_cycle` in which the rate grows."""


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each of a training's S optimiser steps, t = 0 for the first.

    inverse_sqrt, as published, frozen while the weights are averaged: lr(t) = lr_0 · √(T / (T + min(t, t_average))).
    one_cycle, w = ⌈S / 10⌉: lr_0 · (t + 1) / w for t < w, then lr_0 · (1 + cos(π · (t - w + 1) / (S - w + 1))) / 2.
    """

    name: ScheduleName
    learning_rate: float
    """Largest rate, lr_0."""
    decay_steps: float
    """T, in optimiser steps."""
    average_from: int
    """First step whose weights are averaged, t_average; S if none are."""
    steps: int
    """Number of steps of the whole training, S."""

    @classmethod
    def of(cls, config: TrainConfig, steps_per_epoch: int) -> "Schedule":
        """Return the schedule of a training with `steps_per_epoch` optimiser steps in each epoch."""
        average_from = (config.epochs - config.average_epochs) * steps_per_epoch
        steps = config.epochs * steps_per_epoch
        return cls(config.schedule, config.learning_rate, config.decay_steps, average_from, steps)

    def at(self, step: int) -> float:
        """Return the learning rate of optimiser step `step`, counted from 0."""
        return self.learning_rate * (self._one_cycle(step) if self.name == "one_cycle" else self._inverse_sqrt(step))

    def averages(self, step: int) -> bool:
        """Return whether the weights after step `step`, counted from 0, enter the average."""
        return step >= self.average_from

    def _inverse_sqrt(self, step: int) -> float:
        return math.sqrt(self.decay_steps / (self.decay_steps + min(step, self.average_from)))

    def _one_cycle(self, step: int) -> float:
        rising = math.ceil(WARM_UP * self.steps)
        if step < rising:
            return (step + 1) / rising
        return (1 + math.cos(math.pi * (step - rising + 1) / (self.steps - rising + 1))) / 2
