"""What an evaluation leaves behind: tables, figures, and a submission to the JARVIS leaderboard."""

import csv
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crystalframer import __version__
from crystalframer.data.dataset import CrystalDataset
from crystalframer.prediction.evaluation import ElementError, TargetEvaluation, element_errors
from crystalframer.published import PUBLISHED

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(folder: Path, dataset: CrystalDataset, evaluations: Sequence[TargetEvaluation]) -> list[Path]:
    """Write everything into a folder and return the files.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [_write_metrics(folder / "metrics.json", evaluations), _write_predictions(folder, evaluations)]
    for evaluation in evaluations:
        elements = element_errors(dataset, evaluation)
        written.append(_write_elements(folder / f"element_errors_{evaluation.name}.csv", elements, evaluation.unit))
        written += _save(parity_plot(evaluation), folder / f"parity_{evaluation.name}")
        written += _save(element_plot(elements, evaluation), folder / f"element_errors_{evaluation.name}")
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
    with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
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
    (folder / "metadata.json").write_text(json.dumps(metadata, indent=4) + "\n", encoding="utf-8")
    return [folder / f"{name}.zip", folder / "metadata.json"]


def parity_plot(evaluation: TargetEvaluation) -> "Figure":
    """Return predicted against true values."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6, 3.6), layout="constrained")
    axes = figure.subplots()
    every = np.concatenate([evaluation.targets, evaluation.predictions])
    margin = 0.04 * float(np.ptp(every)) or 1.0
    limits = (float(every.min()) - margin, float(every.max()) + margin)
    axes.plot(limits, limits, color="gray", linewidth=0.8, linestyle="--")
    axes.scatter(evaluation.targets, evaluation.predictions, s=6, alpha=0.5, linewidths=0, rasterized=True)
    quantity = evaluation.name.replace("_", " ")
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set_xlabel(f"true {quantity} ({evaluation.unit})")
    axes.set_ylabel(f"predicted {quantity} ({evaluation.unit})")
    mae, r2 = evaluation.mae, evaluation.r2
    label = f"MAE {mae.value:.3g} [{mae.low:.3g}, {mae.high:.3g}] {evaluation.unit}\nR² {r2.value:.3f}"
    axes.text(0.03, 0.97, f"{label}\n{len(evaluation.ids):,} crystals", transform=axes.transAxes, va="top", fontsize=7)
    return figure


def element_plot(elements: Sequence[ElementError], evaluation: TargetEvaluation) -> "Figure":
    """Return the mean absolute error by element, with the number of crystals that contain it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(3.0, 0.13 * len(elements) + 1), 3.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    names = [entry.element for entry in elements]
    upper.bar(names, [entry.mae for entry in elements])
    upper.axhline(evaluation.mae.value, color="gray", linewidth=0.8, linestyle="--")
    upper.set_ylabel(f"MAE ({evaluation.unit})")
    lower.bar(names, [entry.crystals for entry in elements], color="gray")
    lower.set_ylabel("crystals")
    if max(entry.crystals for entry in elements) > 100:
        lower.set_yscale("log")
    lower.tick_params(axis="x", labelrotation=90, labelsize=6)
    return figure


def _save(figure: "Figure", stem: Path) -> list[Path]:
    paths = [stem.with_suffix(".png"), stem.with_suffix(".pdf")]
    for path in paths:
        figure.savefig(path, dpi=200)
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
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
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
    pd.concat(tables, ignore_index=True).to_parquet(path, index=False)
    return path


def _write_elements(path: Path, elements: Sequence[ElementError], unit: str) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["element", "crystals", f"mae [{unit}]", f"bias [{unit}]"])
        table.writerows([e.element, e.crystals, f"{e.mae:.6g}", f"{e.bias:.6g}"] for e in elements)
    return path
