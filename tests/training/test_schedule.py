"""The learning rate of every step."""

import itertools
import math

import pytest

from crystalframer.config import TrainConfig
from crystalframer.training.schedule import Schedule


def test_rate_decays_with_the_inverse_square_root_of_the_steps() -> None:
    schedule = Schedule.of(TrainConfig(learning_rate=5e-4, decay_steps=4000.0, average_epochs=0), steps_per_epoch=100)
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


def test_one_cycle_rises_over_a_tenth_of_the_steps_and_falls_to_nothing() -> None:
    config = TrainConfig(epochs=10, average_epochs=2, learning_rate=1e-3, schedule="one_cycle")
    schedule = Schedule.of(config, steps_per_epoch=20)
    rates = [schedule.at(step) for step in range(200)]
    assert rates[0] == pytest.approx(1e-3 / 20)
    assert rates[19] == max(rates) == 1e-3
    assert all(later > earlier for earlier, later in itertools.pairwise(rates[:20]))
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[19:]))
    assert rates[110] == pytest.approx(5e-4, rel=1e-2), "half way down after half of the falling steps"
    assert 0 < rates[199] < 1e-6, "no step is without effect"
    assert [schedule.averages(step) for step in (159, 160, 199)] == [False, True, True]


def test_one_cycle_of_a_single_step_has_the_whole_rate() -> None:
    assert (
        Schedule.of(TrainConfig(epochs=1, average_epochs=0, schedule="one_cycle"), 1).at(0) == TrainConfig.learning_rate
    )
