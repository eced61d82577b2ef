"""Time as a budget: how many epochs fit into a training's minutes, by the pace of its first steps."""

import statistics
from dataclasses import dataclass

from crystalframer.config import TrainConfig
from crystalframer.data.dataset import TaskData
from crystalframer.errors import UserError

LEAST_STEPS = 4
"""Steps that must be timed; the first ones compile and are left out."""
ENOUGH_STEPS, ENOUGH_TIME, MOST_TIME = 12, 0.02, 0.2
"""The pace is taken after so many steps and that share of the minutes, at the latest after the last share."""
EVALUATION_SHARE = 0.4
"""Time to predict a crystal, in units of a step's time for one: a forward pass without the backward one."""


@dataclass(frozen=True)
class Amounts:
    """How much a training has to do."""

    steps_per_epoch: int
    batch_size: int
    val: int
    """Crystals predicted after every epoch"""
    test: int
    """Crystals predicted at the end"""


class Clock:
    """Takes the time of a training's first steps, and says how many epochs its minutes are enough for.

    Preparing a crystal happens once, in the first epoch; it is timed apart and counted for those still to come. What
    the first step takes beyond the others is not counted: it compiles, once on a machine. A training that is resumed
    before its pace was known has all of its minutes.
    """

    def __init__(self, minutes: float, amounts: Amounts) -> None:
        self.minutes = minutes
        self._amounts = amounts
        self._steps: list[float] = []
        self._preparing = 0.0

    @classmethod
    def of(cls, config: TrainConfig, steps_per_epoch: int, data: TaskData) -> "Clock | None":
        """Return the clock of a training, None where its epochs are given."""
        if config.minutes is None:
            return None
        amounts = Amounts(steps_per_epoch, config.batch_size, len(data.rows["val"]), len(data.rows["test"]))
        return cls(config.minutes, amounts)

    def note(self, seconds: float, preparing: float = 0.0) -> None:
        """Note what a step took, and apart from it, what preparing crystals seen for the first time did."""
        self._steps.append(seconds)
        self.note_preparing(preparing)

    def note_preparing(self, seconds: float) -> None:
        """Note what preparing crystals took, outside of a step."""
        self._preparing += seconds

    def epochs(self, ahead: float = 0.0) -> int:
        """Return how many epochs the training is to have, 0 while too little is known.

        Args:
            ahead: seconds that preparing crystals will still take.

        Raises:
            UserError: not even one epoch fits.
        """
        elapsed = sum(self._steps[1:]) + self._preparing
        share = elapsed / (60 * self.minutes)
        enough = len(self._steps) >= ENOUGH_STEPS and share >= ENOUGH_TIME
        if len(self._steps) < LEAST_STEPS or not (enough or share >= MOST_TIME):
            return 0
        amounts, pace = self._amounts, statistics.median(self._steps[len(self._steps) // 3 :])
        to_predict = EVALUATION_SHARE * pace / amounts.batch_size
        epoch = amounts.steps_per_epoch * pace + to_predict * amounts.val
        once = elapsed - (len(self._steps) - 1) * pace + ahead + to_predict * amounts.test
        epochs = int((60 * self.minutes - once) / epoch)
        if epochs < 1:
            raise UserError(
                f"setting 'train.minutes': got {self.minutes:g}, but preparing the crystals, one epoch and the test "
                f"take {(once + epoch) / 60:.2g} minutes on this machine; give at least as many, or fewer crystals "
                "(data.train_size)"
            )
        return epochs
