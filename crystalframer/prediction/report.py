"""What an evaluation leaves behind: tables and figures."""

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, astuple, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalframer.atomic_files import replace_text, replacing
from crystalframer.data.dataset import CrystalDataset
from crystalframer.escaping import for_figures
from crystalframer.geometry.crystal import ELEMENTS
from crystalframer.pictures.error_drawing import draw_parity, limits_of, periodic_table
from crystalframer.pictures.palette import COLOURS, STYLE
from crystalframer.prediction.calibration_plot import calibration_plot
from crystalframer.prediction.coverage import Coverage, coverage_of
from crystalframer.prediction.evaluation import TargetEvaluation, element_errors
from crystalframer.statistics import ElementError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(folder: Path, dataset: CrystalDataset, evaluations: Sequence[TargetEvaluation]) -> list[Path]:
    """Write tables and figures into a folder and return the files.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [_write_metrics(folder / "metrics.json", evaluations), _write_predictions(folder, evaluations)]
    for evaluation in evaluations:
        elements = element_errors(dataset, evaluation)
        written.append(_write_elements(folder / f"element_errors_{evaluation.name}.csv", elements, evaluation.unit))
        title = for_figures(f"{dataset.name}, {evaluation.name.replace('_', ' ')}, {evaluation.split} split")
        table = partial(periodic_table, elements, title, for_figures(evaluation.unit))
        written += _save(partial(parity_plot, evaluation), folder / f"parity_{evaluation.name}")
        written += _save(table, folder / f"element_errors_{evaluation.name}")
        if evaluation.half_widths is not None:
            missed = np.abs(evaluation.predictions - evaluation.targets)
            shares = coverage_of(dataset, evaluation.rows, missed, evaluation.half_widths)
            written.append(_write_coverage(folder / f"coverage_{evaluation.name}.csv", shares))
            draw = partial(calibration_plot, evaluation, shares)
            written += _save(draw, folder / f"calibration_{evaluation.name}")
    return written


def parity_plot(evaluation: TargetEvaluation) -> "Figure":
    """Return predicted against true values."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6, 3.6), layout="constrained")
    axes = figure.subplots()
    mae, r2 = evaluation.mae, evaluation.r2
    label = (
        f"MAE {mae.value:.3g} [{mae.low:.3g}, {mae.high:.3g}] {for_figures(evaluation.unit)}\nR² {r2.value:.3f}\n"
        f"{len(evaluation.ids):,} crystals"
    )
    shown = evaluation.targets, evaluation.predictions
    draw_parity(axes, *shown, limits_of(*shown), COLOURS["lattice"], label)
    quantity = for_figures(f"{evaluation.name.replace('_', ' ')} ({evaluation.unit})")
    axes.set(xlabel=f"true {quantity}", ylabel=f"predicted {quantity}")
    return figure


def _save(draw: Callable[[], "Figure"], stem: Path) -> list[Path]:
    from matplotlib import style

    paths = [stem.with_suffix(".png"), stem.with_suffix(".pdf")]
    with style.context(dict(STYLE)):
        figure = draw()
        for path in paths:
            with replacing(path) as temporary:
                figure.savefig(temporary, format=path.suffix[1:], dpi=200)
    return paths


def _write_metrics(path: Path, evaluations: Sequence[TargetEvaluation]) -> Path:
    content = {
        entry.name: {
            "unit": entry.unit,
            "split": entry.split,
            "crystals": len(entry.ids),
            "mae": asdict(entry.mae),
            "rmse": asdict(entry.rmse),
            "r2": asdict(entry.r2),
        }
        for entry in evaluations
    }
    replace_text(path, json.dumps(content, indent=2) + "\n")
    return path


def _write_predictions(folder: Path, evaluations: Sequence[TargetEvaluation]) -> Path:
    import pandas as pd

    tables = [
        pd.DataFrame(
            {
                "id": list(entry.ids),
                "task": entry.name,
                "unit": entry.unit,
                "target": entry.targets,
                "prediction": entry.predictions,
            }
        )
        for entry in evaluations
    ]
    path = folder / "predictions.parquet"
    with replacing(path) as temporary:
        pd.concat(tables, ignore_index=True).to_parquet(temporary, index=False)
    return path


def _write_coverage(path: Path, shares: Sequence[Coverage]) -> Path:
    return _write_table(path, [field.name for field in fields(Coverage)], map(astuple, shares))


def _write_elements(path: Path, elements: Sequence[ElementError], unit: str) -> Path:
    rows = ([ELEMENTS[e.number - 1], e.crystals, f"{e.mae:.6g}", f"{e.bias:.6g}"] for e in elements)
    return _write_table(path, ["element", "crystals", f"mae [{unit}]", f"bias [{unit}]"], rows)


def _write_table(path: Path, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([heads, *rows])
    return path
