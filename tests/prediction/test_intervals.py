"""Intervals hold what they promise on data of known error, widen where a crystal is strange, and warnings say why."""

import math

import numpy as np
import pytest

from crystalframer.config import DataConfig
from crystalframer.data.dataset import TaskData
from crystalframer.data.registry import load_task
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import ELEMENTS, Crystal
from crystalframer.prediction.coverage import coverage_of
from crystalframer.prediction.intervals import Intervals, check_coverage, features
from crystalframer.prediction.local_errors import LocalErrors
from crystalframer.prediction.training_domain import TrainingDomain


def made(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return absolute errors whose scale grows with the first of three features, and those features."""
    random = np.random.default_rng(seed)
    given = random.normal(size=(count, 3))
    return np.abs(random.normal(scale=np.exp(0.8 * given[:, 0] - 2))), given


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.95])
def test_the_share_held_is_the_one_promised(coverage: float) -> None:
    held = []
    for seed in range(40):
        errors, given = made(seed, 400)
        fitted = Intervals.fit(errors[:200], given[:200])
        held.append((errors[200:] <= fitted.half_widths(given[200:], coverage)).mean())
    assert np.mean(held) == pytest.approx(coverage, abs=0.012)


def test_it_is_held_in_each_part_where_a_constant_width_would_not() -> None:
    errors, given = made(0, 4000)
    fitted = Intervals.fit(errors[:2000], given[:2000])
    widths, errors, given = fitted.half_widths(given[2000:], 0.9), errors[2000:], given[2000:]
    parts = np.array_split(np.argsort(given[:, 0]), 5)
    constant = np.quantile(errors, 0.9)
    assert [float((errors[part] <= widths[part]).mean()) for part in parts] == pytest.approx([0.9] * 5, abs=0.06)
    assert (errors[parts[-1]] <= constant).mean() < 0.75
    assert fitted.slopes[0] == pytest.approx(0.8, abs=0.1)
    assert fitted.slopes[1:] == pytest.approx([0, 0], abs=0.1)


def test_a_feature_that_would_narrow_intervals_is_left_alone() -> None:
    errors, given = made(1, 500)
    assert Intervals.fit(errors, -given).slopes[0] == 0


def test_the_share_is_held_where_many_are_strange() -> None:
    held = []
    for seed in range(20):
        errors, given = made(seed, 600)
        strange = np.random.default_rng(seed).random(600) < 0.4
        fitted = Intervals.fit(errors[:300], given[:300], strange[:300])
        held.append((errors[300:] <= fitted.half_widths(given[300:], 0.8, strange[300:])).mean())
    assert np.mean(held) == pytest.approx(0.8, abs=0.02)


def test_errors_that_are_all_nothing_make_narrow_intervals() -> None:
    fitted = Intervals.fit(np.zeros(50), np.zeros((50, 2)))
    assert 0 <= fitted.half_widths(np.zeros((1, 2)), 0.9)[0] < 1e-6


def test_a_coverage_that_takes_more_crystals_than_there_are_has_no_bound() -> None:
    errors, given = made(2, 20)
    fitted = Intervals.fit(errors, given)
    assert math.isfinite(fitted.half_widths(given, 0.9)[0])
    assert math.isinf(fitted.half_widths(given, 0.99)[0])
    with pytest.raises(UserError, match="got 19, expected at least 20"):
        Intervals.fit(errors[:19], given[:19])


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1.0, 90.0, math.nan])
def test_a_coverage_is_a_share(coverage: float) -> None:
    with pytest.raises(UserError, match=r"--coverage: got .*, expected a number between 0 and 1"):
        check_coverage(coverage)


@pytest.fixture(scope="module")
def data() -> TaskData:
    """Return the embedded sample."""
    return load_task(DataConfig())


@pytest.fixture(scope="module")
def domain(data: TaskData) -> TrainingDomain:
    """Return the domain of its training crystals, with made-up embeddings of three numbers."""
    embeddings = np.random.default_rng(0).normal(size=(500, 3)) * [5, 1, 0.1]
    found = TrainingDomain.of(data.dataset, data.rows["train"], embeddings)
    assert (found.distances(embeddings) < 1).all()
    return TrainingDomain.from_dict({**found.to_dict(), "far": 1.0})


def cubic(edge: float, *numbers: int) -> Crystal:
    """Return a chain of atoms along the diagonal of a cube."""
    places = np.repeat(np.arange(len(numbers))[:, None] / len(numbers), 3, axis=1)
    return Crystal(edge * np.eye(3), places, np.array(numbers))


def test_an_ordinary_crystal_is_not_strange(domain: TrainingDomain, data: TaskData) -> None:
    assert domain.strange(cubic(3.6, 12, 8), 0.5) == []
    strange = [domain.strange(data.dataset[int(row)], 0.0) for row in data.rows["train"]]
    assert np.mean([any("in no" in word or "atoms," in word for word in words) for words in strange]) == 0
    assert np.mean([bool(words) for words in strange]) < 0.02


def test_what_is_strange_is_said(domain: TrainingDomain, data: TaskData) -> None:
    most = int(data.dataset.num_atoms[data.rows["train"]].max())
    assert domain.strange(cubic(3.6, 98, 8), 0.5) == ["Cf in no training crystal"]
    fewest = int(domain.crystals[domain.crystals > 0].min())
    rare = int(np.flatnonzero(domain.crystals == fewest)[0])
    assert fewest < 5
    assert domain.rare(cubic(3.6, rare + 1, 8)) == [f"{ELEMENTS[rare]} in fewer than 5 training crystals"]
    assert domain.rare(cubic(3.6, 12, 98)) == []
    assert domain.strange(cubic(1.3, 12), 0.0)[0].startswith("2.2 Å³ per atom, training crystals have ")
    (size,) = domain.strange(cubic(8.0, *[12, 8] * 30), 0.0)
    assert size == f"60 atoms, training crystals have at most {most}"
    assert domain.strange(cubic(3.6, 12, 8), 2.0) == [
        "embedding 2 times as far from the training crystals as 99.5% of the validation crystals have theirs"
    ]


def test_strange_crystals_have_wider_intervals(domain: TrainingDomain) -> None:
    crystals = [cubic(3.6, 12, 8), cubic(3.6, 98, 8)]
    rarity = domain.rarity(crystals)
    assert rarity[1] == 0 < rarity[0]
    random = np.random.default_rng(3)
    far, counts = random.exponential(size=300), random.integers(1, 500, 300).astype(float)
    around = random.exponential(size=300)
    errors = random.exponential(0.1 * far * around / counts**0.3)
    fitted = Intervals.fit(errors, features(far, around, counts, None, 1.0))
    near, unknown, distant, wrong = fitted.half_widths(
        features(
            np.array([1.0, 1.0, 9.0, 1.0]),
            np.array([1.0, 1.0, 1.0, 9.0]),
            np.array([rarity[0], 0, rarity[0], rarity[0]]),
            None,
            1.0,
        ),
        0.9,
    )
    assert unknown > 1.5 * near
    assert distant > 4 * near
    assert wrong > 4 * near
    ordinary = features(np.array([1.0]), np.array([1.0]), rarity[:1], None, 1.0)
    plain, warned = (fitted.half_widths(ordinary, 0.9, np.array([strange]))[0] for strange in (False, True))
    assert plain == pytest.approx(near)
    assert warned > 2 * near
    assert np.mean(fitted.difficulty(features(far, around, counts, None, 1.0)) < fitted.hard) > 0.9


def test_errors_around_a_place_leave_a_crystals_own_out() -> None:
    places = np.arange(40, dtype=np.float16)[:, None]
    errors = np.where(np.arange(40) < 20, 1.0, 3.0).astype(np.float32)[:, None]
    local = LocalErrors(places, errors)
    assert local.around(np.array([[2.0], [37.0]]), 0).tolist() == [1, 3]
    errors[5] = 100
    around = LocalErrors(places, errors).around(places.astype(float), 0, among=True)
    assert around[5] == 1
    assert around[6] > 5
    same = LocalErrors(np.zeros((30, 1), np.float16), np.arange(30, dtype=np.float32)[:, None])
    assert np.isfinite(same.around(np.zeros((30, 1)), 0, among=True)).all()


def test_coverage_is_told_by_group(data: TaskData) -> None:
    rows = data.rows["test"]
    errors = np.full(len(rows), 1.0)
    widths = np.where(data.dataset.num_atoms[rows] > 8, 2.0, 0.5)
    found = {(one.kind, one.group): one for one in coverage_of(data.dataset, rows, errors, widths)}
    whole = found["all", "all"]
    assert whole.crystals == len(rows)
    assert whole.low < whole.share < whole.high
    assert whole.share == pytest.approx((widths > 1).mean())
    assert found["atoms", "9 to 16"].share == 1
    assert found["atoms", "5 to 8"].share == 0
    assert found["difficulty", "1"].share == 0
    assert found["difficulty", "10"].share == 1
    oxides = [8 in data.dataset[int(row)].atomic_numbers for row in rows]
    assert found["element", "O"].crystals == sum(oxides)
