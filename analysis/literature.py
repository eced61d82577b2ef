"""The paper's tables of test errors: published figures, and ours beside them where there are runs."""

import argparse
from collections.abc import Sequence

import pandas as pd

from analysis.comparison import FRAME_LABELS, Comparison, Row, compare, paper_setting
from analysis.documents import EMPTY, Document, Table, record, spread
from analysis.items import Context, Missing, Product, publish
from analysis.material_errors import material_errors
from analysis.published_errors import Method, Published, load_published
from analysis.results import Results, parse_arguments, read_results
from analysis.tables.ablation_table import is_subset
from crystalframer.errors import UserError

FULL_SCALE = "python pipelines/ablate_frames.py sweeps/ablation_frames.yaml"


def run(dataset: str, description: str | None, argv: Sequence[str] | None) -> int:
    """Write the table of a data set from the sweep that the arguments name, and print it; return the exit code.

    Without results of the sweep the table holds the published figures alone.
    """
    arguments = parse_arguments(description, argv, sweep="ablation_frames")
    document = build(dataset, results_or_none(arguments))
    publish(document, arguments.output / arguments.sweep, f"{dataset}_table")
    return 0


def results_or_none(arguments: argparse.Namespace) -> Results | None:
    """Read the sweep, and say on the screen when there is nothing."""
    try:
        return read_results(arguments)
    except UserError as error:
        print(f"published figures alone: {error}")
        return None


def build(dataset: str, results: Results | None) -> Document:
    """Return the table of a data set: published methods, each of our models below the method it repeats."""
    published = load_published(dataset)
    assert published is not None, f"{dataset} is one of the paper's data sets"
    compared = compare(results) if results else []
    by_task = {comparison.task: comparison for comparison in compared if comparison.dataset == dataset}
    rows: list[list[str]] = []
    records = []
    shown_rows: set[int] = set()
    for method in published.methods:
        if method.transfer:
            continue
        rows.append(_published_row(published, method))
        records += [_published_record(published, method, task) for task in published.tasks]
        if method.frame is None:
            continue
        ours = {task: _matching(comparison, method) for task, comparison in by_task.items()}
        variants = sorted({row.variant for found in ours.values() for row in found if row.trials}) or [""]
        for variant in variants:
            chosen = {task: [row for row in found if row.variant == variant] for task, found in ours.items()}
            shown_rows |= {id(row) for found in chosen.values() for row in found}
            rows.append([_label(method, variant), "ours", *(_ours(chosen.get(task, [])) for task in published.tasks)])
            records += _our_records(published, by_task, chosen, _label(method, variant))
    others = {
        (row.frame, row.variant) for c in by_task.values() for row in c.rows if row.trials and id(row) not in shown_rows
    }
    for frame, variant in sorted(others):
        chosen = {
            task: [row for row in comparison.rows if (row.frame, row.variant) == (frame, variant)]
            for task, comparison in by_task.items()
        }
        label = f"{FRAME_LABELS[frame]}, {variant}"
        rows.append([label, "ours", *(_ours(chosen.get(task, [])) for task in published.tasks)])
        records += _our_records(published, by_task, chosen, label)
    headings = ["method", "figures", *(_heading(published, task, by_task.get(task)) for task in published.tasks)]
    tables = [Table(published.source_dataset, headings, rows, _notes(by_task))]
    if transfer := [_published_row(published, method) for method in published.methods if method.transfer]:
        title = f"{published.source_dataset}, learned from other targets, too: not comparable with the above"
        tables.append(Table(title, headings, transfer, _notes({})[:1]))
    return Document(
        title=f"{dataset}: test MAE, published and ours",
        tables=tables,
        remarks=results.left_out if results else (),
        records=pd.DataFrame(records),
    )


def _heading(published: Published, task: str, comparison: Comparison | None) -> str:
    heading = f"{task.replace('_', ' ')} ({published.tasks[task].unit})"
    if comparison is None or not is_subset(comparison, published):
        return heading
    full = published.tasks[task]
    sizes = ((comparison.size(split), getattr(full, split)) for split in ("train", "val", "test"))
    return f"{heading}; ours on a subset: " + ", ".join(f"{size} of {whole}" for size, whole in sizes)


def _notes(by_task: dict[str, Comparison]) -> list[str]:
    ours = "Ours: mean ± sample standard deviation over seeds; an empty cell was not run."
    trained = [
        f"{task.replace('_', ' ')}: {comparison.common('train.epochs')} epochs" for task, comparison in by_task.items()
    ]
    return [
        "Published: figures as printed in the sources, single runs.",
        ours,
        *([f"{'; '.join(trained)}."] * bool(trained)),
    ]


def _matching(comparison: Comparison, method: Method) -> list[Row]:
    wanted = (method.frame, method.config, method.blocks)
    return [r for r in comparison.rows if (r.frame, paper_setting(r.model), r.model.num_blocks) == wanted]


def _label(method: Method, variant: str) -> str:
    return f"{method.name}, {variant}" if variant and variant not in method.name else method.name


def _published_row(published: Published, method: Method) -> list[str]:
    return [method.name, "published", *(_figure(method.mae.get(task)) for task in published.tasks)]


def _figure(mae: float | None) -> str:
    return EMPTY if mae is None else str(mae)


def _ours(rows: Sequence[Row]) -> str:
    return spread([trial.test_mae for row in rows for trial in row.trials])


def _published_record(published: Published, method: Method, task: str) -> dict[str, object]:
    return dict(
        record(
            dataset=published.dataset, task=task, unit=published.tasks[task].unit, method=method.name,
            figures="published", source=method.source, mae=method.mae.get(task),
        )
    )  # fmt: skip


def _our_records(
    published: Published, by_task: dict[str, Comparison], chosen: dict[str, list[Row]], label: str
) -> list[dict[str, object]]:
    records = []
    for task, unit in ((task, published.tasks[task].unit) for task in published.tasks):
        rows = [row for row in chosen.get(task, []) if row.trials]
        cells: dict[str, object] = {}
        for row in rows:
            errors = material_errors(row)
            interval = None if errors is None else errors.interval()
            cells = {
                "mae": row.test_mae.mean,
                "std": row.test_mae.std,
                "seeds": len(row.trials),
                "low": interval.low if interval else None,
                "high": interval.high if interval else None,
                **{f"num_{split}": by_task[task].size(split) for split in ("train", "val", "test")},
            }
        names = record(dataset=published.dataset, task=task, unit=unit, method=label, figures="ours", source="runs")
        records.append({**names, **cells})
    return records


def produce(dataset: str, context: Context) -> Product:
    """Make the table of a data set, and say what of ours is missing."""
    product = context.table(build(dataset, context.results), f"{dataset}_table")
    published = load_published(dataset)
    assert published is not None, f"{dataset} is one of the paper's data sets"
    done = {c.task for c in context.comparisons if c.dataset == dataset and c.trials}
    if lacking := [task.replace("_", " ") for task in published.tasks if task not in done]:
        product.missing.append(Missing(f"no trial of ours on {', '.join(lacking)}", FULL_SCALE))
    return product
