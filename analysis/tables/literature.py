"""The paper's tables of JARVIS, Materials Project and OQMD: test errors, published and ours.

    python analysis/tables/literature.py --sweep ablation_frames

reads runs/mlflow.db and writes analysis/output/<sweep>/{jarvis,mp,oqmd}_table.{md,tex,html,csv}; what was not run
stays empty.
"""

from collections.abc import Iterable, Mapping

import pandas as pd

from analysis.comparison import Comparison, Row, compare, paper_setting
from analysis.documents import EMPTY, Document, Table
from analysis.items import Context, Item, Product
from analysis.material_errors import interval_ends
from analysis.published_errors import Method, Published, load_published
from analysis.results import MissingError, Results
from crystalframer.data.dataset import SPLITS

FULL_SCALE = "ablation_frames"
"""The sweep that repeats the paper's experiments."""


def _item(dataset: str, title: str, text: str) -> Item:
    """Return the item of a data set's table."""

    def produce(context: Context) -> Product:
        product = context.table(build(dataset, context.found), f"{dataset}_table")
        done = {task for task, comparison in _ours(dataset, context.found).items() if comparison.trials}
        if lacking := [task.replace("_", " ") for task in _published(dataset).tasks if task not in done]:
            command = f"crystalframer sweep {FULL_SCALE}"
            product.missing.append(MissingError(f"no trial of ours on {', '.join(lacking)}", command))
        return product

    return Item(dataset, title, text, "published", produce, sweep=FULL_SCALE)


def build(dataset: str, results: Results | None) -> Document:
    """Return the table of a data set: published methods, each of our models below the method it repeats."""
    published = _published(dataset)
    ours = _ours(dataset, results)
    rows: list[list[str]] = []
    records: list[dict[str, object]] = []
    unshown = {row: task for task, comparison in ours.items() for row in comparison.finished}

    def show(label: str, chosen: Mapping[str, Row]) -> None:
        for row in chosen.values():
            unshown.pop(row, None)
        errors = {task: row.test_mae for task, row in chosen.items() if row.trials}
        rows.append([label, "ours", *(str(errors[task]) if task in errors else EMPTY for task in published.tasks)])
        cells = ((task, ours.get(task), chosen.get(task)) for task in published.tasks)
        records.extend(_our_record(published, label, *cell) for cell in cells)

    for method in published.methods:
        if method.transfer:
            continue
        rows.append(_published_row(published, method))
        records += [_published_record(published, method, task) for task in published.tasks]
        if method.frame is not None:
            repeated = {task: _repeated(comparison, method) for task, comparison in ours.items()}
            for setting in sorted({row.setting for found in repeated.values() for row in found if row.trials}) or [""]:
                same = {task: row for task, found in repeated.items() for row in found if row.setting == setting}
                show(f"{method.name}, {setting}" if setting and setting not in method.name else method.name, same)
    for label in sorted({row.name for row in unshown}):
        show(label, {task: row for row, task in unshown.items() if row.name == label})
    headings = ["method", "figures", *(_heading(published, task, ours.get(task)) for task in published.tasks)]
    tables = [Table(published.source_dataset, headings, rows, _notes(ours.values()))]
    if transfer := [_published_row(published, method) for method in published.methods if method.transfer]:
        title = f"{published.source_dataset}, learned from other targets, too: not comparable with the above"
        tables.append(Table(title, headings, transfer, _notes(())[:1]))
    return Document(
        title=f"{dataset}: test MAE, published and ours",
        tables=tables,
        remarks=results.left_out if results else (),
        records=pd.DataFrame(records),
    )


def _ours(dataset: str, results: Results | None) -> dict[str, Comparison]:
    """Return by published task our trials on it, or on a part of it that has the same test set."""
    found: dict[str, Comparison] = {}
    for comparison in compare(results) if results else ():
        name, _, task = comparison.part_of.partition(":")
        if name == dataset and (not comparison.is_part or (comparison.same_test_set and task not in found)):
            found[task] = comparison
    return found


def _published(dataset: str) -> Published:
    published = load_published(dataset)
    assert published is not None, f"{dataset} is one of the paper's data sets"
    return published


def _heading(published: Published, task: str, comparison: Comparison | None) -> str:
    full = published.tasks[task]
    heading = f"{task.replace('_', ' ')} ({full.unit})"
    if comparison is None or comparison.sizes == full.sizes:
        return heading
    if comparison.is_part:
        return f"{heading}; ours: {comparison.coverage}"
    parts = (f"{size} of {whole}" for size, whole in zip(comparison.sizes, full.sizes, strict=True))
    return f"{heading}; ours on a subset: {', '.join(parts)}"


def _notes(ours: Iterable[Comparison]) -> list[str]:
    trained = [f"{comparison.quantity}: {comparison.common('train.epochs')} epochs" for comparison in ours]
    return [
        "Published: figures as printed in the sources, single runs.",
        "Ours: mean ± sample standard deviation over seeds; an empty cell was not run.",
        *([f"{'; '.join(trained)}."] * bool(trained)),
    ]


def _repeated(comparison: Comparison, method: Method) -> list[Row]:
    wanted = (method.frame, method.config, method.blocks)
    return [r for r in comparison.rows if (r.frame, paper_setting(r.model), r.model.num_blocks) == wanted]


def _published_row(published: Published, method: Method) -> list[str]:
    figures = [method.mae.get(task) for task in published.tasks]
    return [method.name, "published", *(EMPTY if mae is None else str(mae) for mae in figures)]


def _published_record(published: Published, method: Method, task: str) -> dict[str, object]:
    return {
        "dataset": published.dataset, "task": task, "unit": published.tasks[task].unit, "method": method.name,
        "figures": "published", "source": method.source, "mae": method.mae.get(task),
    }  # fmt: skip


def _our_record(
    published: Published, label: str, task: str, comparison: Comparison | None, row: Row | None
) -> dict[str, object]:
    record: dict[str, object] = {
        "dataset": published.dataset, "task": task, "unit": published.tasks[task].unit, "method": label,
        "figures": "ours", "source": "runs",
    }  # fmt: skip
    if comparison is None or row is None or not row.trials:
        return record
    error = row.test_mae
    sizes = {f"num_{split}": size for split, size in zip(SPLITS, comparison.sizes, strict=True)}
    return {
        **record, "mae": error.mean, "std": error.std, "seeds": len(row.trials), **interval_ends(row), **sizes
    }  # fmt: skip


ITEMS = (
    _item("jarvis", "JARVIS: published and ours", "Test MAE on five tasks."),
    _item("mp", "Materials Project: published and ours", "Test MAE on four tasks."),
    _item("oqmd", "OQMD: published and ours", "Test MAE on three tasks, with 4 and 8 blocks."),
)


if __name__ == "__main__":
    raise SystemExit(max(item.main() for item in ITEMS))
