"""What an evaluation leaves behind: tables, figures, and a submission to the JARVIS leaderboard."""

import csv
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crystalframer import __version__
from crystalframer.atomic_files import replace_text, replacing
from crystalframer.data.dataset import CrystalDataset
from crystalframer.escaping import for_figures
from crystalframer.geometry.crystal import ELEMENTS
from crystalframer.pictures.error_drawing import draw_parity, limits_of, periodic_table
from crystalframer.pictures.palette import COLOURS, STYLE
from crystalframer.prediction.calibration import COVERAGE
from crystalframer.prediction.calibration_plot import calibration_plot
from crystalframer.prediction.coverage import Coverage, coverage_of
from crystalframer.prediction.evaluation import TargetEvaluation, element_errors
from crystalframer.published import PUBLISHED
from crystalframer.statistics import ElementError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(
    folder: Path, dataset: CrystalDataset, evaluations: Sequence[TargetEvaluation], coverage: float = COVERAGE
) -> list[Path]:
    """Write everything into a folder and return the files; `coverage` is what intervals promise to hold.

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
            draw = partial(calibration_plot, evaluation, shares, coverage)
            written += _save(draw, folder / f"calibration_{evaluation.name}")
        published = PUBLISHED.get(dataset.name)
        if published and published.leaderboard and evaluation.split == "test" and evaluation.name in published.fields:
            quantity = published.fields[evaluation.name]
            written += write_submission(folder, quantity, published.leaderboard, evaluation)
    return written


def write_submission(folder: Path, quantity: str, dataset: str, evaluation: TargetEvaluation) -> list[Path]:
    """Write what the JARVIS leaderboard takes: id, target, prediction in a zipped CSV, and metadata to fill in.

    Args:
        folder: where.
        quantity: the leaderboard's name of the property, e.g. formation_energy_peratom.
        dataset: its name of the data set, e.g. dft_3d.
        evaluation: of the test split.
    """
    name = f"AI-SinglePropertyPrediction-{quantity}-{dataset}-test-mae.csv"
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", "target", "prediction"])
    rows = zip(evaluation.ids, evaluation.targets.tolist(), evaluation.predictions.tolist(), strict=True)
    table.writerows([label, repr(target), f"{prediction:.9g}"] for label, target, prediction in rows)
    with replacing(folder / f"{name}.zip") as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), text.getvalue(), zipfile.ZIP_DEFLATED)
    metadata = {
        "model_name": "crystalframer",
        "project_url": "",
        "date_submitted": datetime.now(UTC).strftime("%m-%d-%Y"),
        "author_email": "",
        "database_version": "",
        "team_name": "",
        "time_taken_seconds": "",
        "language": "python",
        "os": "",
        "software_used": f"crystalframer {__version__}, torch",
        "hardware_used": "",
        "git_url": [""],
    }
    replace_text(folder / "metadata.json", json.dumps(metadata, indent=4) + "\n")
    return [folder / f"{name}.zip", folder / "metadata.json"]


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
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([field.name for field in fields(Coverage)])
        table.writerows(astuple(one) for one in shares)
    return path


def _write_elements(path: Path, elements: Sequence[ElementError], unit: str) -> Path:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["element", "crystals", f"mae [{unit}]", f"bias [{unit}]"])
        table.writerows([ELEMENTS[e.number - 1], e.crystals, f"{e.mae:.6g}", f"{e.bias:.6g}"] for e in elements)
    return path
