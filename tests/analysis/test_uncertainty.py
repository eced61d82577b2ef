"""The statistics against scipy and known cases, and on planted differences: how often they see one, and none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from analysis.uncertainty import (
    ALPHA,
    POWER,
    bootstrap_p,
    compare_errors,
    holm,
    seeds_p,
    sign_test,
    smallest_detectable,
    verdict,
)

SIMULATIONS = 1000
MATERIALS = 200


def planted(mean: float, seed: int = 0) -> NDArray[np.float64]:
    """Differences of skewed errors as real ones are, (simulations, materials), standard deviation 1."""
    random = np.random.default_rng(seed)
    first, second = random.exponential(1.0, (2, SIMULATIONS, MATERIALS)) * 0.5**0.5
    return first - second + mean


def test_no_difference_is_seen_where_there_is_none() -> None:
    rate = np.mean(bootstrap_p(planted(0.0), resamples=999) < ALPHA)
    assert rate == pytest.approx(ALPHA, abs=0.02)  # 1,000 simulations: standard error 0.007
    signs = [sign_test(row) for row in planted(0.0, seed=1)]
    assert np.mean(np.array(signs) < ALPHA) < ALPHA + 0.02


def test_the_smallest_detectable_difference_is_seen_as_often_as_it_says() -> None:
    size = smallest_detectable(1 / MATERIALS**0.5)
    rate = np.mean(bootstrap_p(planted(size), resamples=999) < ALPHA)
    assert rate == pytest.approx(POWER, abs=0.04)
    assert np.mean(bootstrap_p(planted(2 * size), resamples=999) < ALPHA) > 0.99


def test_the_bootstrap_agrees_with_the_t_test() -> None:
    values = np.random.default_rng(5).normal(0.1, 1.0, (20, 400))
    expected = stats.ttest_1samp(values, 0.0, axis=-1).pvalue
    np.testing.assert_allclose(bootstrap_p(values), expected, atol=0.02)


@pytest.mark.parametrize(
    ("values", "p"), [([0.0, 0.0, 0.0], 1.0), ([0.3, 0.3, 0.3], 0.25), ([1.0, -1.0, 1.0, -1.0], 1.0)]
)
def test_bootstrap_of_known_cases(values: list[float], p: float) -> None:
    assert float(bootstrap_p(values, resamples=999)) == pytest.approx(p, abs=1e-9)


def test_the_sign_test_is_the_binomial_one() -> None:
    assert sign_test([1.0] * 8 + [-1.0] * 2 + [0.0] * 5) == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert sign_test([0.0, 0.0]) == 1.0


def test_holm_on_a_known_case() -> None:
    # Holm 1979, worked by hand: 4 × 0.01, 3 × 0.02, max(2 × 0.03, ·), max(1 × 0.04, ·)
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_none_and_bonferroni_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for raw, corrected in zip(p_values, adjusted, strict=True):
        assert raw <= corrected <= min(1.0, len(p_values) * raw) or corrected == max(adjusted)
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_holm_keeps_the_family_wise_error() -> None:
    p_values = bootstrap_p(planted(0.0, seed=2), resamples=999).reshape(100, 10)
    assert np.mean([min(holm(list(row))) < ALPHA for row in p_values]) < 0.13  # 0.05 expected; uncorrected 0.40


def test_a_planted_difference_between_two_methods_is_found() -> None:
    random = np.random.default_rng(0)
    hard = random.exponential(0.3, 400)
    first, second = hard + random.normal(0, 0.02, 400) - 0.02, hard + random.normal(0, 0.02, 400)
    found = compare_errors(first, second, [0.28, 0.281, 0.279], [0.30, 0.301, 0.299])
    assert found.materials == 400
    assert found.difference.low < -0.02 < found.difference.high < 0
    assert found.p_bootstrap == pytest.approx(1e-4)
    assert found.p_sign < 1e-10
    assert found.better_on > 0.7
    assert verdict(found.p_bootstrap, found.p_seeds) == "yes"
    # paired: the materials' own difficulty does not blur it
    assert found.standard_error < 0.1 * hard.std() / 400**0.5 * 2


def test_swapping_the_methods_turns_the_sign_alone() -> None:
    random = np.random.default_rng(1)
    first, second = random.exponential(1.0, (2, 50))
    one, other = (compare_errors(a, b, [1, 1.1], [1, 1.2]) for a, b in ((first, second), (second, first)))
    assert one.difference.value == -other.difference.value
    assert one.difference.low == pytest.approx(-other.difference.high, abs=0.01)
    assert (one.p_sign, one.p_seeds, one.p_bootstrap) == (other.p_sign, other.p_seeds, other.p_bootstrap)


def test_seeds_need_company() -> None:
    assert seeds_p([0.3], [0.2, 0.21]) is None
    assert seeds_p([0.3, 0.31], [0.2, 0.21]) == pytest.approx(
        stats.ttest_ind([0.3, 0.31], [0.2, 0.21], equal_var=False).pvalue
    )
    assert seeds_p([0.3, 0.3], [0.3, 0.3]) == 1.0
    assert verdict(0.001, None) == "these seeds only"
    assert verdict(0.2, 0.001) == "no"
