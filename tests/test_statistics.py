"""The shared statistics against scipy and known cases."""

import numpy as np
import pytest
from scipy import stats

from crystalframer.statistics import Spread, determination, interval, mean_absolute, mean_interval

SIMULATIONS = 1000
MATERIALS = 200


def test_the_interval_is_scipys() -> None:
    values = np.random.default_rng(3).exponential(size=80)
    ours = mean_interval(values, seed=7, resamples=2000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(7), batch=200
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean(), rel=1e-15)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    values = np.random.default_rng(0).exponential(1.0, (SIMULATIONS, MATERIALS))
    found = [mean_interval(row, resamples=400) for row in values]
    assert np.mean([one.low < 1 < one.high for one in found]) == pytest.approx(0.95, abs=0.025)


def test_the_interval_covers_what_it_should() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for seed in range(100):
        error = random.exponential(size=80)
        found = interval(mean_absolute, np.zeros(80), error, seed=seed)
        covered += found.low < 1.0 < found.high
    assert 85 <= covered <= 99
    again = [interval(mean_absolute, np.zeros(80), error, seed=3) for _ in range(2)]
    assert again[0] == again[1]


def test_small_splits_have_no_interval_and_no_nonsense() -> None:
    single = interval(mean_absolute, np.zeros(1), np.ones(1), seed=0)
    assert single.value == 1
    assert np.isnan([single.low, single.high]).all()
    assert np.isnan(determination(np.ones(3), np.ones(3), axis=-1))
    assert not np.isnan(interval(determination, np.array([0.0, 1.0]), np.array([0.1, 0.9])).low)


def test_a_spread_is_mean_and_sample_deviation() -> None:
    assert str(Spread.of([0.24, 0.26])) == "0.2500 ± 0.0141"
    assert Spread.of([0.25]) == Spread(0.25, None)
    assert str(Spread.of([0.25])) == "0.2500"


def test_r_squared_is_the_coefficient_of_determination() -> None:
    targets = np.array([0.0, 1.0, 2.0, 3.0])
    shifted = targets + 1  # perfectly correlated, and yet wrong
    assert determination(targets, shifted, axis=-1) == pytest.approx(1 - 4 / 5)
