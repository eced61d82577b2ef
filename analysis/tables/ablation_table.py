"""The ablation table: test error per frame, mean ± standard deviation over seeds, with what it was measured on.

    python analysis/tables/ablation_table.py --sweep ablation_sample

reads runs/mlflow.db and writes analysis/output/<sweep>/ablation_table.{md,tex,html,csv}.
"""

import sys
from collections.abc import Sequence

import pandas as pd

from analysis import items
from analysis.comparison import Comparison, Row, Spread, compare
from analysis.documents import EMPTY, Document, Table
from analysis.items import Context, Item, Missing, Product
from analysis.material_errors import material_errors
from analysis.published_errors import Published, load_published
from analysis.results import Results
from crystalframer.command_line import reports_user_errors

NAME = "ablation_table"


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Write the table's files and print the Markdown; return the exit code."""
    return items.run_table(build, NAME, __doc__, argv)


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
    sizes = " / ".join(comparison.size(split) for split in ("train", "val", "test"))
    said = [
        f"{sizes} crystals (train / validation / test), {comparison.common('train.epochs')} epochs, "
        f"batch {comparison.common('train.batch_size')}, cutoff {comparison.common('model.cutoff')} Å, "
        f"{comparison.tag('kernel') or 'unknown'} kernel.",
        f"Baseline, predicting the training mean: test MAE {comparison.baseline_mae:.4f} {comparison.unit}.",
    ]
    published = load_published(comparison.dataset)
    if published and comparison.task in published.tasks:
        task = published.tasks[comparison.task]
        full = [str(getattr(task, split)) for split in ("train", "val", "test")]
        said.append(f"Published: CrystalFramer, ICLR 2025, on the full split ({' / '.join(full)}).")
        if is_subset(comparison, published):
            said.append("The trials here saw another selection of crystals: not directly comparable.")
    return said


def is_subset(comparison: Comparison, published: Published) -> bool:
    """Return whether the trials saw other crystals than those the published figures are from."""
    task = published.tasks[comparison.task]
    splits = ("train", "val", "test")
    return [comparison.size(split) for split in splits] != [str(getattr(task, split)) for split in splits]


def _table(comparison: Comparison) -> Table:
    published = load_published(comparison.dataset)
    unit = comparison.unit
    headings = ["frames", f"test MAE ({unit})", "seeds", f"validation MAE ({unit})", "baseline / MAE"]
    headings += ["parameters", "seconds per epoch"]
    if published:
        headings.append(f"published MAE ({unit})")
    best = _best(comparison)
    return Table(
        title=f"{comparison.dataset}, {comparison.task}",
        headings=headings,
        rows=[_cells(comparison, row, published) for row in comparison.rows],
        notes=sentences(comparison),
        emphasised=frozenset() if best is None else frozenset({(best, 1)}),
    )


def _cells(comparison: Comparison, row: Row, published: Published | None) -> list[str]:
    texts = [row.label, *[EMPTY] * 6]
    if row.trials:
        texts[1:] = [
            _spread(row.test_mae),
            str(len(row.trials)),
            _spread(row.val_mae),
            f"{row.baseline_ratio:.2f}",
            f"{row.num_parameters:,}",
            f"{row.seconds_per_epoch:.2f}",
        ]
    if published:
        mae = published.mae(comparison.task, row.model)
        texts.append(EMPTY if mae is None else f"{mae:.4f}")
    return texts


def _record(comparison: Comparison, row: Row) -> dict[str, object]:
    published = load_published(comparison.dataset)
    found = bool(row.trials)
    errors = material_errors(row)
    interval = None if errors is None else errors.interval()
    return {
        "dataset": comparison.dataset,
        "task": comparison.task,
        "unit": comparison.unit,
        "frame": row.frame,
        "variant": row.variant,
        "seeds": len(row.trials),
        "test_mae_mean": row.test_mae.mean if found else None,
        "test_mae_std": row.test_mae.std if found else None,
        "test_mae_materials_low": interval.low if interval else None,
        "test_mae_materials_high": interval.high if interval else None,
        "val_mae_mean": row.val_mae.mean if found else None,
        "val_mae_std": row.val_mae.std if found else None,
        "baseline_mae": row.baseline_mae if found else None,
        "baseline_ratio": row.baseline_ratio if found else None,
        "parameters": str(row.num_parameters) if found else None,
        "seconds_per_epoch": row.seconds_per_epoch if found else None,
        "published_mae": published.mae(comparison.task, row.model) if published else None,
    }


def _best(comparison: Comparison) -> int | None:
    """Return the position of the row with the lowest test MAE, None where there is nothing to compare."""
    found = {n: row.test_mae.mean for n, row in enumerate(comparison.rows) if row.trials}
    return min(found, key=found.__getitem__) if len(found) > 1 else None


def _spread(spread: Spread) -> str:
    return f"{spread.mean:.4f}" + ("" if spread.std is None else f" ± {spread.std:.4f}")


def produce(context: Context) -> Product | Missing:
    """Make the ablation table."""
    if context.results is None:
        return context.no_runs()
    if context.results.search is not None:
        return Missing(f"{context.sweep} is a search, not an ablation", "python pipelines/ablate_frames.py")
    product = context.table(build(context.results), NAME)
    if not context.results.complete and context.results.expected is not None:
        product.missing.append(Missing(f"{context.sweep}: {context.results.progress()}", context.command))
    return product


ITEM = Item(
    "ablation",
    "Frame ablation",
    "Test error of each frame, mean ± standard deviation over seeds.",
    produce,
)


if __name__ == "__main__":
    sys.exit(main())
