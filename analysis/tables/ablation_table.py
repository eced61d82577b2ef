"""The ablation table: test error per frame, mean ± standard deviation over seeds, with what it was measured on.

    python analysis/tables/ablation_table.py --sweep ablation_sample

reads runs/mlflow.db and writes analysis/output/<sweep>/ablation_table.{md,tex,html,csv}. The lowest error is in bold
only where it is really less than each of the others; below the table it says so.
"""

import pandas as pd

from analysis.comparison import Comparison, Row, compare
from analysis.documents import EMPTY, Document, Table
from analysis.items import Context, Item, Product
from analysis.material_errors import interval_ends
from analysis.pairs import answer, winner
from analysis.published_errors import published_beside, published_mae
from analysis.results import Results

NAME = "ablation_table"


def build(results: Results) -> Document:
    """Return one table per data set and task of the sweep."""
    comparisons = compare(results)
    return Document(
        title=results.sweep,
        tables=[_table(comparison) for comparison in comparisons],
        notes=[f"{results.progress()}. ± is the sample standard deviation over seeds."],
        remarks=results.left_out,
        records=pd.DataFrame([_record(comparison, row) for comparison in comparisons for row in comparison.rows]),
    )


def sentences(comparison: Comparison) -> list[str]:
    """Say what the numbers were measured on, and how they relate to published ones."""
    said = [
        f"{' / '.join(comparison.sizes)} crystals (train / validation / test), {comparison.common('train.epochs')} "
        f"epochs, batch {comparison.common('train.batch_size')}, cutoff {comparison.common('model.cutoff')} Å, "
        f"{comparison.tag('kernel') or 'unknown'} kernel.",
        f"Baseline, predicting the training mean: test MAE {comparison.baseline_mae:.4f} {comparison.unit}.",
    ]
    if more := [f"{row.label}: {row.unnamed}" for row in comparison.finished if row.unnamed]:
        said.append(f"Rows differ in more than their names say. {'; '.join(more)}.")
    if beside := published_beside(comparison):
        published, task = beside
        full = published.tasks[task].sizes
        said.append(f"Published: CrystalFramer, ICLR 2025, on the full split ({' / '.join(full)}).")
        if comparison.sizes != full and not comparison.is_part:
            said.append("The trials here saw another selection of crystals: not directly comparable.")
    elif comparison.part_of and not comparison.same_test_set:
        said.append("Without published errors: the test set differs by more than 1 % from the published one.")
    return said


def _table(comparison: Comparison) -> Table:
    beside = published_beside(comparison)
    unit = comparison.unit
    headings = ["frames", f"test MAE ({unit})", "seeds", f"validation MAE ({unit})", "baseline / MAE"]
    headings += ["parameters", "seconds per epoch", *[f"published MAE ({unit})"] * bool(beside)]
    best = winner(comparison)
    rows = []
    for row in comparison.rows:
        cells = [EMPTY] * 6
        if row.trials:
            counts = str(len(row.trials)), str(row.val_mae), f"{row.baseline_ratio:.2f}", f"{row.num_parameters:,}"
            cells = [str(row.test_mae), *counts, f"{row.seconds_per_epoch:.2f}"]
        if beside:
            mae = published_mae(comparison, row)
            cells.append(EMPTY if mae is None else f"{mae:.4f}")
        rows.append([row.label, *cells])
    bold = {(n, 1) for n, row in enumerate(comparison.rows) if row is best}
    return Table(comparison.title, headings, rows, [*sentences(comparison), *answer(comparison)], frozenset(bold))


def _record(comparison: Comparison, row: Row) -> dict[str, object]:
    found = bool(row.trials)
    ends = interval_ends(row)
    return {
        **comparison.labels,
        "frame": row.frame,
        "variant": row.setting,
        "seeds": len(row.trials),
        "test_mae_mean": row.test_mae.mean if found else None,
        "test_mae_std": row.test_mae.std if found else None,
        "test_mae_materials_low": ends["low"],
        "test_mae_materials_high": ends["high"],
        "val_mae_mean": row.val_mae.mean if found else None,
        "val_mae_std": row.val_mae.std if found else None,
        "baseline_mae": row.baseline_mae if found else None,
        "baseline_ratio": row.baseline_ratio if found else None,
        "parameters": str(row.num_parameters) if found else None,
        "seconds_per_epoch": row.seconds_per_epoch if found else None,
        "published_mae": published_mae(comparison, row),
    }


def produce(context: Context) -> Product:
    """Make the ablation table."""
    results = context.ablation()
    product = context.table(build(results), NAME)
    if not results.complete and results.expected is not None:
        product.missing.append(context.no_runs(results.progress()))
    return product


ITEM = Item(
    "ablation", "Frame ablation", "Test error of each frame, mean ± standard deviation over seeds.", "answer", produce
)


if __name__ == "__main__":
    raise SystemExit(ITEM.main())
