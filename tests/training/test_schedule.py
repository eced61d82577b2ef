"""The learning rate of every step."""

import itertools
import math

import pytest

from crystalframer.config import TrainConfig
from crystalframer.training.schedule import Schedule


def test_rate_decays_with_the_inverse_square_root_of_the_steps() -> None:
    schedule = Schedule(learning_rate=5e-4, decay_steps=4000.0, average_from=10**9)
    assert schedule.at(0) == 5e-4
    assert schedule.at(4000) == pytest.approx(5e-4 / math.sqrt(2), rel=1e-14)
    assert schedule.at(12000) == pytest.approx(5e-4 / 2, rel=1e-14)


def test_rate_is_frozen_from_the_first_averaged_step_on() -> None:
    config = TrainConfig(epochs=10, average_epochs=3, learning_rate=1e-3, decay_steps=50.0)
    schedule = Schedule.of(config, steps_per_epoch=7)
    assert schedule.average_from == 49
    rates = [schedule.at(step) for step in range(70)]
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[:50]))
    assert set(rates[49:]) == {1e-3 * math.sqrt(50 / 99)}
    assert [schedule.averages(step) for step in (48, 49, 69)] == [False, True, True]


@pytest.mark.parametrize(("average_epochs", "averaged"), [(0, 0), (4, 20)])
def test_averaging_may_cover_nothing_or_everything(average_epochs: int, averaged: int) -> None:
    schedule = Schedule.of(TrainConfig(epochs=4, average_epochs=average_epochs), steps_per_epoch=5)
    assert sum(schedule.averages(step) for step in range(20)) == averaged
