"""Errors and the standardisation of targets."""

import numpy as np
import pytest

from crystalframer.errors import UserError
from crystalframer.statistics import mean_absolute, root_mean_square
from crystalframer.training.metrics import Target, restore


def test_errors_of_known_numbers() -> None:
    targets, predictions = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, 4.0, 2.0, -1.0])
    assert mean_absolute(targets, predictions) == pytest.approx(7 / 4)
    assert root_mean_square(targets, predictions) == pytest.approx(5 / 2)


def test_scale_uses_the_population_spread() -> None:
    scale = Target.of("bandgap", "eV", np.array([1.0, 3.0]))
    assert (scale.mean, scale.std) == (2.0, 1.0)
    assert restore(np.array([-1.0, 0.5]), [scale]).tolist() == [1.0, 2.5]


@pytest.mark.parametrize(
    ("targets", "problem"),
    [
        ([], "the training targets of 'bandgap' are empty"),
        ([1.0, np.nan, np.inf], "got 2 missing or infinite of 3"),
        ([1.5, 1.5], "'bandgap' are all 1.5: got a spread of 0.*choose a larger data.train_size"),
    ],
)
def test_unusable_targets_are_refused(targets: list[float], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        Target.of("bandgap", "eV", np.array(targets))
