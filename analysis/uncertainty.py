"""Which differences are real: seeds, test materials, and how small a difference the test could have seen.

Two sources of chance are kept apart. Another test set would have other materials: a bootstrap over the materials says
how much that moves an error, and, on the same materials for two methods, their difference. Another training would
have another seed: the spread over seeds says that. A difference is real when it stands against both.

Everything is deterministic: resampling draws from a generator of a fixed seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from crystalframer.statistics import Interval, mean_interval

RESAMPLES = 9999
"""Of a p-value; the smallest one that they can give is 1 / (RESAMPLES + 1)."""
ALPHA = 0.05
"""A p-value below this counts."""
POWER = 0.8
"""Chance with which the smallest detectable difference would be detected."""
Verdict = Literal["yes", "these seeds only", "no"]


@dataclass(frozen=True)
class Difference:
    """Mean absolute error of one method minus that of another, on the same test materials."""

    materials: int
    difference: Interval
    """Negative: the first method is better; interval over materials."""
    p_bootstrap: float
    """Two-sided, that the mean difference over materials is zero."""
    p_sign: float
    """Two-sided, that either method is the better one for half of the materials."""
    better_on: float
    """Share of materials on which the first method is better."""
    p_seeds: float | None
    """Welch's t-test between the seeds' test errors; None with fewer than two seeds of a method."""
    standard_error: float
    """Of the mean difference over materials."""


def bootstrap_p(values: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Return the two-sided p-value, (...), that the mean of values (..., n) is zero, by a bootstrap of the t statistic.

    The values are shifted to a mean of zero and resampled; p is the share of resamples whose mean, in units of its
    own standard error, is at least as far from zero as the one found. Values without
    spread are judged by their signs alone: 2^(1 − n), or 1 where all are zero.
    """
    sample = np.asarray(values, dtype=float)
    n = sample.shape[-1]
    mean, spread = sample.mean(-1), sample.std(-1)
    centred = sample - mean[..., None]
    counts = _resamples(n, seed, resamples).astype(np.float64) / n
    means = np.einsum("rn,...n->r...", counts, centred, optimize=True)
    spreads = np.sqrt(np.maximum(np.einsum("rn,...n->r...", counts, centred**2, optimize=True) - means**2, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.abs(mean) / spread
        resampled = np.abs(means) / spreads
    as_far = ~(resampled < found * (1 - 1e-12))  # a resample without spread counts as far
    p = (1 + as_far.sum(0)) / (resamples + 1)
    return np.where(spread <= 1e-12 * np.abs(mean), np.where(mean == 0, 1.0, 2.0 ** (1 - n)), p)


@lru_cache(maxsize=1)
def _resamples(n: int, seed: int, resamples: int) -> NDArray[np.uint16]:
    """Return how often each of n values is in each resample, (resamples, n); every comparison draws the same ones."""
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    return counts.astype(np.uint16)


def sign_test(differences: ArrayLike) -> float:
    """Return the two-sided p-value that positive and negative differences are equally likely; zeros do not count."""
    values = np.asarray(differences, dtype=float)
    positive, negative = int((values > 0).sum()), int((values < 0).sum())
    if positive + negative == 0:
        return 1.0
    return float(stats.binomtest(positive, positive + negative).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values: all of them below alpha are true with a family-wise error of at most alpha."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(order))
    largest = 0.0
    for rank, position in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * float(p_values[position])))
        adjusted[position] = largest
    return [float(value) for value in adjusted]


def smallest_detectable(standard_error: float, *, alpha: float = ALPHA, power: float = POWER) -> float:
    """Return the difference that a two-sided test at `alpha` detects with chance `power`, in the error's unit."""
    return float((stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)) * standard_error)


def compare_errors(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    first_by_seed: Sequence[float],
    second_by_seed: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference:
    """Compare two methods.

    Args:
        first: (n,) absolute error of each test material, averaged over the seeds of the first method.
        second: (n,) the same materials' errors with the second method.
        first_by_seed: test MAE of each seed of the first method.
        second_by_seed: those of the second method.
        seed: of the resampling.
        resamples: number of bootstrap resamples.
    """
    differences = first - second
    unequal = differences[differences != 0]
    n = len(differences)
    return Difference(
        materials=n,
        difference=mean_interval(differences, seed=seed),
        p_bootstrap=float(bootstrap_p(differences, seed=seed, resamples=resamples)),
        p_sign=sign_test(differences),
        better_on=float((unequal < 0).mean()) if len(unequal) else 0.5,
        p_seeds=seeds_p(first_by_seed, second_by_seed),
        standard_error=float(differences.std(ddof=1) / np.sqrt(n)) if n > 1 else float("nan"),
    )


def seeds_p(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the p-value of Welch's t-test between two methods' seeds, None with fewer than two seeds of one."""
    if min(len(first), len(second)) < 2:
        return None
    if np.ptp(first) == 0 and np.ptp(second) == 0:
        return 1.0 if first[0] == second[0] else 0.0
    return float(stats.ttest_ind(first, second, equal_var=False).pvalue)


def verdict(adjusted_p: float, p_seeds: float | None) -> Verdict:
    """Say whether a difference is real.

    Args:
        adjusted_p: p-value over materials, corrected for the number of comparisons.
        p_seeds: p-value over seeds.

    Returns:
        ``yes``: on other materials and with other seeds; ``these seeds only``: the trained models differ, training
        anew might not; ``no``: it may be chance.
    """
    if adjusted_p >= ALPHA:
        return "no"
    return "yes" if p_seeds is not None and p_seeds < ALPHA else "these seeds only"
