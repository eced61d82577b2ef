"""Which differences between frames are real: every pair on the same test materials, corrected for their number.

    python analysis/tables/significance_table.py --sweep ablation_sample

reads runs/mlflow.db and the trials' test predictions, and writes
analysis/output/<sweep>/significance_table.{md,tex,html,csv}.
"""

import pandas as pd

from analysis.comparison import Comparison, compare
from analysis.documents import EMPTY, Document, Table
from analysis.items import Context, Item, Product
from analysis.pairs import Pair, find_pairs, unjudged
from analysis.results import Results
from analysis.uncertainty import ALPHA, smallest_detectable

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


def build(results: Results) -> Document:
    """Return one table per data set and task: every two rows compared."""
    return Document(
        title=f"{results.sweep}: which differences are real",
        tables=[_table(comparison) for comparison in compare(results)],
        notes=[
            "Errors of the same test materials, averaged over seeds. A negative difference: the first is better. "
            "Interval: materials drawn anew 2,000 times; bootstrap p: 9,999 times. Holm p: bootstrap p corrected for "
            "all pairs of the table. Seeds p: Welch's t-test between the seeds' errors. Smallest detectable: the "
            "difference that the strictest of the corrected tests would have seen with a chance of 80 %.",
            "Real: yes where the Holm p and the seeds p are below 0.05; these seeds only where the Holm p alone is "
            "(these trained models differ, trained anew they might not); else no: it may be chance.",
        ],
        records=pd.DataFrame([entry for comparison in compare(results) for entry in _records(comparison)]),
    )


def _table(comparison: Comparison) -> Table:
    pairs = find_pairs(comparison)
    tested = [pair.found for pair in pairs if pair.found]
    materials = sorted({found.materials for found in tested})
    counted = " or ".join(map(str, materials)) or "No"
    if many := unjudged(comparison):
        return Table(comparison.title, HEADINGS, [], [f"Not judged: {many}."])
    notes = [f"{counted} test materials, {len(tested)} comparisons, {comparison.unit}."]
    real = {(n, len(HEADINGS) - 1) for n, pair in enumerate(pairs) if pair.real == "yes"}
    rows = [[f"{pair.first.label} − {pair.second.label}", *_cells(pair, len(tested))] for pair in pairs]
    return Table(comparison.title, HEADINGS, rows, notes, frozenset(real))


def _cells(pair: Pair, tested: int) -> list[str]:
    found = pair.found
    if found is None or pair.corrected is None:
        return [EMPTY] * (len(HEADINGS) - 1)
    difference = found.difference
    return [
        f"{difference.value:+.4f}".replace("-", "−"),
        f"{difference.low:+.4f} to {difference.high:+.4f}".replace("-", "−"),
        f"{100 * found.better_on:.0f} %",
        p_text(found.p_bootstrap),
        p_text(pair.corrected),
        p_text(found.p_sign),
        EMPTY if found.p_seeds is None else p_text(found.p_seeds),
        f"{smallest_detectable(found.standard_error, alpha=ALPHA / tested):.4f}",
        str(pair.real),
    ]


def _records(comparison: Comparison) -> list[dict[str, object]]:
    records = []
    pairs = find_pairs(comparison)
    tested = sum(pair.found is not None for pair in pairs)
    for pair in pairs:
        entry = comparison.labels | {"first": pair.first.label, "second": pair.second.label}
        if found := pair.found:
            entry |= {
                "materials": found.materials, "difference": found.difference.value, "low": found.difference.low,
                "high": found.difference.high, "better_on": found.better_on, "p_bootstrap": found.p_bootstrap,
                "p_sign": found.p_sign, "p_seeds": found.p_seeds,
                "smallest_detectable": smallest_detectable(found.standard_error, alpha=ALPHA / tested),
                "p_holm": pair.corrected,
            }  # fmt: skip
        records.append(entry)
    return records


def p_text(p: float) -> str:
    """Return a p-value as tables show it."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def produce(context: Context) -> Product:
    """Make the table of pairs."""
    results = context.ablation()
    if not any(unjudged(one) or any(pair.found for pair in find_pairs(one)) for one in context.comparisons):
        raise context.no_runs("no two frames with test predictions")
    return context.table(build(results), NAME)


ITEM = Item(
    "significance",
    "Which differences are real",
    "Every two frames on the same test materials: paired bootstrap and sign test over materials, corrected for the "
    "number of comparisons (Holm), and Welch's t-test over seeds.",
    "how sure",
    produce,
)


if __name__ == "__main__":
    raise SystemExit(ITEM.main())
