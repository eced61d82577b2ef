"""Which differences between frames are real: every pair on the same test materials, corrected for their number.

    python analysis/tables/significance_table.py --sweep ablation_sample

reads runs/mlflow.db and the trials' test predictions, and writes
analysis/output/<sweep>/significance_table.{md,tex,html,csv}.
"""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis import items
from analysis.comparison import Comparison, Row, compare
from analysis.documents import EMPTY, Document, Table
from analysis.items import Context, Item, Missing, Product
from analysis.material_errors import material_errors, on_same_materials
from analysis.results import Results
from analysis.uncertainty import ALPHA, Difference, compare_errors, holm, smallest_detectable, verdict
from crystalframer.command_line import reports_user_errors

NAME = "significance_table"
HEADINGS = (
    "difference of",
    "MAE difference",
    "95 % interval",
    "better on",
    "bootstrap p",
    "Holm p",
    "sign test p",
    "seeds p",
    "smallest detectable",
    "real",
)


@dataclass(frozen=True)
class Pair:
    """Two rows of a comparison and what was found between them."""

    first: Row
    second: Row
    found: Difference | None
    """None where one of them has no results."""


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write the table's files and print the Markdown; return the exit code."""
    return items.run_table(build, NAME, __doc__, argv)


def build(results: Results) -> Document:
    """Return one table per data set and task: every two rows compared."""
    tables, records = [], []
    for comparison in compare(results):
        pairs = find_pairs(comparison)
        tables.append(_table(comparison, pairs))
        records += _records(comparison, pairs)
    return Document(
        title=f"{results.sweep}: which differences are real",
        tables=tables,
        notes=[
            "Errors of the same test materials, averaged over seeds. A negative difference: the first is better. "
            "Interval and bootstrap p: materials drawn anew 9,999 times. Holm p: bootstrap p corrected for all pairs "
            "of the table. Seeds p: Welch's t-test between the seeds' errors. Smallest detectable: the difference that "
            "the strictest of the corrected tests would have seen with a chance of 80 %.",
            "Real: yes where the Holm p and the seeds p are below 0.05; these seeds only where the Holm p alone is "
            "(these trained models differ, trained anew they might not); else no: it may be chance.",
        ],
        records=pd.DataFrame(records),
    )


def find_pairs(comparison: Comparison) -> list[Pair]:
    """Compare every two rows, in the table's order."""
    return [
        Pair(first, second, _difference(first, second)) for first, second in itertools.combinations(comparison.rows, 2)
    ]


def _difference(first: Row, second: Row) -> Difference | None:
    one, other = material_errors(first), material_errors(second)
    if one is None or other is None:
        return None
    same = on_same_materials(one, other)
    return None if same is None else compare_errors(*same, one.by_seed, other.by_seed)


def _corrected(pairs: Sequence[Pair]) -> list[float | None]:
    """Return Holm's p per pair, None where nothing was found."""
    adjusted = iter(holm([pair.found.p_bootstrap for pair in pairs if pair.found]))
    return [next(adjusted) if pair.found else None for pair in pairs]


def _table(comparison: Comparison, pairs: Sequence[Pair]) -> Table:
    rows, real = [], set()
    tested = sum(pair.found is not None for pair in pairs)
    for n, (pair, corrected) in enumerate(zip(pairs, _corrected(pairs), strict=True)):
        label = f"{pair.first.label} − {pair.second.label}"
        if pair.found is None or corrected is None:
            rows.append([label, *[EMPTY] * (len(HEADINGS) - 1)])
            continue
        found = pair.found
        answer = verdict(corrected, found.p_seeds)
        if answer == "yes":
            real.add((n, len(HEADINGS) - 1))
        rows.append(
            [
                label,
                f"{found.difference.mean:+.4f}".replace("-", "−"),
                f"{found.difference.low:+.4f} to {found.difference.high:+.4f}".replace("-", "−"),
                f"{100 * found.better_on:.0f} %",
                p_text(found.p_bootstrap),
                p_text(corrected),
                p_text(found.p_sign),
                EMPTY if found.p_seeds is None else p_text(found.p_seeds),
                f"{smallest_detectable(found.standard_error, alpha=ALPHA / tested):.4f}",
                answer,
            ]
        )
    materials = sorted({pair.found.materials for pair in pairs if pair.found})
    notes = [f"{' or '.join(map(str, materials)) or 'No'} test materials, {tested} comparisons, {comparison.unit}."]
    return Table(f"{comparison.dataset}, {comparison.task}", HEADINGS, rows, notes, frozenset(real))


def _records(comparison: Comparison, pairs: Sequence[Pair]) -> list[dict[str, object]]:
    records = []
    tested = sum(pair.found is not None for pair in pairs)
    for pair, corrected in zip(pairs, _corrected(pairs), strict=True):
        found = pair.found
        names: dict[str, object] = {
            "dataset": comparison.dataset,
            "task": comparison.task,
            "unit": comparison.unit,
            "first": pair.first.label,
            "second": pair.second.label,
        }
        values = {} if found is None else {
            "materials": found.materials,
            "difference": found.difference.mean,
            "low": found.difference.low,
            "high": found.difference.high,
            "better_on": found.better_on,
            "p_bootstrap": found.p_bootstrap,
            "p_sign": found.p_sign,
            "p_seeds": found.p_seeds,
            "smallest_detectable": smallest_detectable(found.standard_error, alpha=ALPHA / tested),
            "p_holm": corrected,
        }  # fmt: skip
        records.append(names | values)
    return records


def p_text(p: float) -> str:
    """Return a p-value as tables show it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def produce(context: Context) -> Product | Missing:
    """Make the table of pairs."""
    if context.results is None:
        return context.no_runs()
    if context.results.search is not None:
        return Missing(f"{context.sweep} is a search, not an ablation", "python pipelines/ablate_frames.py")
    if not any(pair.found for comparison in context.comparisons for pair in find_pairs(comparison)):
        return context.no_runs("no two frames with test predictions")
    return context.table(build(context.results), NAME)


ITEM = Item(
    "significance",
    "Which differences are real",
    "Every two frames on the same test materials: paired bootstrap and sign test over materials, corrected for "
    "the number of comparisons (Holm), and Welch's t-test over seeds.",
    produce,
)


if __name__ == "__main__":
    sys.exit(main())
