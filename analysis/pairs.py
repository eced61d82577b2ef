"""What a comparison says: every two rows on the same test materials, which differences are real, and the answer."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from analysis.comparison import Comparison, Row
from analysis.material_errors import MaterialErrors, material_errors, on_same_materials
from analysis.uncertainty import Difference, Verdict, compare_errors, holm, verdict

MOST_ROWS = 40
"""Rows whose pairs are compared: their number grows with the square of the rows', and each draws thousands of times."""


@dataclass(frozen=True)
class Pair:
    """Two rows of a comparison and what was found between them."""

    first: Row
    second: Row
    found: Difference | None
    """None where one of them has no test predictions."""
    corrected: float | None = None
    """Holm's p-value, corrected for all pairs of the comparison."""

    @property
    def real(self) -> Verdict | None:
        """Whether the difference is real, None where nothing was found."""
        if self.found is None or self.corrected is None:
            return None
        return verdict(self.corrected, self.found.p_seeds)

    def sentence(self, unit: str) -> str:
        """Say which of the two is better by how much."""
        assert self.found is not None, "there is a difference"
        better, worse = (self.first, self.second) if self.found.difference.value < 0 else (self.second, self.first)
        ends = sorted(abs(end) for end in (self.found.difference.low, self.found.difference.high))
        size = f"{abs(self.found.difference.value):.4f} {unit}"
        return f"{better.label} is better than {worse.label} by {size} (95 % interval {ends[0]:.4f} to {ends[1]:.4f})"


@lru_cache(maxsize=64)
def find_pairs(comparison: Comparison) -> tuple[Pair, ...]:
    """Compare every two rows, in the table's order; none where there are more than `MOST_ROWS`."""
    if unjudged(comparison):
        return ()
    couples = list(itertools.combinations(comparison.rows, 2))
    found = [difference(material_errors(first), material_errors(second)) for first, second in couples]
    adjusted = iter(holm([each.p_bootstrap for each in found if each]))
    return tuple(
        Pair(*couple, each, next(adjusted) if each else None) for couple, each in zip(couples, found, strict=True)
    )


def unjudged(comparison: Comparison) -> str:
    """Return why the differences of a comparison are not judged, "" where they are."""
    count = len(comparison.finished)
    return f"differences are judged among at most {MOST_ROWS} rows, here are {count:,}" if count > MOST_ROWS else ""


def lowest(comparison: Comparison) -> Row | None:
    """Return the row with the lowest test MAE, None where nothing has finished."""
    return min(comparison.finished, key=lambda row: row.test_mae.mean, default=None)


def winner(comparison: Comparison) -> Row | None:
    """Return the row that is really better than every other finished one, None where there is none."""
    best, rivals = lowest(comparison), _rivals(comparison)
    return best if best is not None and len(comparison.finished) > 1 and not rivals else None


def answer(comparison: Comparison) -> list[str]:
    """Return what the comparison says, and how sure it is: sentences."""
    best, rows = lowest(comparison), comparison.finished
    if best is None:
        return ["Nothing has finished yet."]
    lowest_is = f"{best.label}: test MAE {best.test_mae} {comparison.unit}"
    if len(rows) == 1:
        return [f"{lowest_is}, {best.baseline_ratio:.1f} times less than predicting the training mean."]
    said = []
    rivals = _rivals(comparison)
    if not rivals:
        others = "the other" if len(rows) == 2 else f"each of the other {len(rows) - 1}"
        said.append(f"{lowest_is}, really less than that of {others}.")
    elif many := unjudged(comparison):
        said.append(f"The lowest error is that of {lowest_is}; it may be chance: {many}.")
    elif all(pair.found is None for pair in find_pairs(comparison)):
        unknown = "without test predictions nothing says whether it is real"
        said.append(f"The lowest error is that of {lowest_is}; {unknown}.")
    else:
        said.append(
            f"No row is the best for certain. The lowest error is that of {lowest_is}, but its difference from "
            f"{_list([row.label for row in rivals])} may be chance."
        )
    said.append(_real_ones(comparison))
    if single := sum(len(row.trials) == 1 for row in rows):
        which = "Every row is" if single == len(rows) else f"{single} of the {len(rows)} rows are"
        said.append(f"{which} of one seed: what another one would change is not known.")
    ratios = [row.baseline_ratio for row in rows]
    said.append(f"Predicting the training mean errs {min(ratios):.1f} to {max(ratios):.1f} times as much.")
    return [sentence for sentence in said if sentence]


def _real_ones(comparison: Comparison) -> str:
    pairs = [pair for pair in find_pairs(comparison) if pair.found is not None]
    if not pairs:
        return ""
    real = [pair for pair in pairs if pair.real == "yes"]
    if not real:
        return "The difference may be chance." if len(pairs) == 1 else f"None of the {len(pairs)} differences is real."
    shown = "; ".join(pair.sentence(comparison.unit) for pair in real[:3]) + (" …" if len(real) > 3 else "")
    count = f"{len(real)} of the {len(pairs)} differences {'is' if len(real) == 1 else 'are'} real"
    return f"{'The difference is real' if len(pairs) == 1 else count}: {shown}."


def _rivals(comparison: Comparison) -> list[Row]:
    """Return the finished rows that the lowest one is not really better than."""
    best = lowest(comparison)
    better_than = {
        id(other)
        for pair in find_pairs(comparison)
        if pair.real == "yes"
        for one, other in ((pair.first, pair.second), (pair.second, pair.first))
        if one is best
    }
    return [row for row in comparison.finished if row is not best and id(row) not in better_than]


def difference(one: MaterialErrors | None, other: MaterialErrors | None) -> Difference | None:
    """Compare two methods on the materials that both were tested on; None where there are none, or no predictions."""
    if one is None or other is None:
        return None
    same = on_same_materials(one, other)
    return None if same is None else compare_errors(*same, one.by_seed, other.by_seed)


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
