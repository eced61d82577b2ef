"""The paper's table of speed and size: seconds per epoch, total time, test time, parameters; published and ours.

    python analysis/tables/efficiency_table.py --sweep ablation_sample

reads runs/mlflow.db and writes analysis/output/<sweep>/efficiency_table.{md,tex,html,csv}. Times are those of the
machine that trained, which the table names: they compare our rows with one another, not with the published ones.
"""

from functools import cache
from statistics import fmean

import pandas as pd

from analysis.comparison import FRAME_LABELS, Comparison, Row, compare, encoding_preset
from analysis.documents import EMPTY, Document, Table
from analysis.items import Context, Item, Product
from analysis.published_errors import load_efficiency
from analysis.results import Results
from crystalframer.config import FRAMES, ModelConfig

NAME = "efficiency_table"
HEADINGS = (
    "model", "figures", "seconds per epoch", "total (h)", "test ms per material", "parameters", "parameters per block",
)  # fmt: skip


def build(results: Results) -> Document:
    """Return one table per data set and task: the published figures, then every frame, default and lightweight."""
    comparisons = compare(results)
    return Document(
        title=f"{results.sweep}: speed and size",
        tables=[_table(comparison) for comparison in comparisons],
        notes=[
            "Published: JARVIS formation energy, batch 256, one RTX A6000. Ours: seconds per epoch is the median over "
            "epochs and seeds, total the mean over seeds, test time includes the neighbour lists."
        ],
        records=pd.DataFrame([entry for comparison in comparisons for entry in _records(comparison)]),
    )


def _table(comparison: Comparison) -> Table:
    rows = [
        [speed.name, "published", f"{speed.seconds_per_epoch:g}", EMPTY, f"{speed.test_ms_per_material:g}",
         f"{speed.parameters:,}", EMPTY]
        for speed in load_efficiency().methods
    ]  # fmt: skip
    ours = [entry for entry in _records(comparison) if entry["figures"] == "ours"]
    rows += [[str(entry["model"]), "ours", *_cells(entry)] for entry in ours]
    machine = comparison.tag("machine") or "unknown"
    notes = [f"Ours: {comparison.sizes[0]} training crystals, {comparison.tag('kernel')} kernel, machine {machine}."]
    return Table(f"{comparison.dataset}, {comparison.task}", HEADINGS, rows, notes)


def _cells(entry: dict[str, object]) -> list[str]:
    formats = {
        "seconds_per_epoch": ".2f", "total_hours": ".3g", "test_ms_per_material": ".3g", "parameters": ",d",
        "parameters_per_block": ",d",
    }  # fmt: skip
    return [EMPTY if entry.get(key) is None else format(entry[key], spec) for key, spec in formats.items()]


def _records(comparison: Comparison) -> list[dict[str, object]]:
    records: list[dict[str, object]] = [
        {"model": speed.name, "figures": "published", "seconds_per_epoch": speed.seconds_per_epoch,
         "test_ms_per_material": speed.test_ms_per_material, "parameters": speed.parameters}
        for speed in load_efficiency().methods
    ]  # fmt: skip
    for frame in FRAMES:
        for preset in ("default",) if frame == "none" else ("default", "lightweight"):
            rows = [r for r in comparison.rows if r.frame == frame and r.trials and encoding_preset(r.model) == preset]
            label = FRAME_LABELS[frame] + (", lightweight" if preset == "lightweight" else "")
            named: dict[str, object] = {"dataset": comparison.dataset, "task": comparison.task, "figures": "ours"}
            if not rows:
                records.append({**named, "model": label})
            records += [{**named, "model": label if len(rows) == 1 else row.name, **_measured(row)} for row in rows]
    return records


def _measured(row: Row) -> dict[str, object]:
    test = [trial.test_ms_per_material for trial in row.trials if trial.test_ms_per_material is not None]
    return {
        "seconds_per_epoch": row.seconds_per_epoch,
        "total_hours": fmean(float(trial.history["seconds"].sum()) for trial in row.trials) / 3600,
        "test_ms_per_material": fmean(test) if test else None,
        "parameters": row.num_parameters,
        "parameters_per_block": _per_block(row.model),
    }


@cache
def _per_block(model: ModelConfig) -> int:
    from crystalframer.nn.attention import Block
    from crystalframer.nn.model import count_parameters

    return count_parameters(Block(model))


def produce(context: Context) -> Product:
    """Make the table of speed and size."""
    return context.table(build(context.results), NAME)


ITEM = Item(
    "efficiency",
    "Speed and size",
    "Time and parameters of each frame, default and lightweight, beside the published ones.",
    "details",
    produce,
)


if __name__ == "__main__":
    raise SystemExit(ITEM.main())
