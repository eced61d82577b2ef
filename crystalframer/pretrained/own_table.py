"""A folder of structures and a table of one property: prepared, trained on, evaluated, and its open rows predicted.

What it leaves is a run directory with two things more: ``model.pt``, with intervals where there are enough validation
crystals, and ``report.html``, one page; and ``predicted.csv`` where rows of the table have no value.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crystalframer.atomic_files import replace_text, writing
from crystalframer.config import DataConfig
from crystalframer.data import store
from crystalframer.data.dataset import SPLITS, TaskData
from crystalframer.data.preparation.sanity import why_unphysical
from crystalframer.data.preparation.targets import TargetTable, read_targets, task_name
from crystalframer.data.preparation.user_data import OwnData, own_name, prepare_own
from crystalframer.data.preparation.user_sources import find_table, read_user_structures
from crystalframer.data.progress import Watch, silent
from crystalframer.data.registry import load_task
from crystalframer.data.structures.reading import Reading
from crystalframer.environment import cores
from crystalframer.errors import UserError, near_matches
from crystalframer.prediction.card import NAME as CARD
from crystalframer.prediction.evaluation import evaluate_model, evaluate_predictor
from crystalframer.prediction.intervals import FEWEST
from crystalframer.prediction.loading import predictor_of, read_model
from crystalframer.prediction.packed import PackedModel, as_packed, write_packed
from crystalframer.prediction.predictions import Predictions
from crystalframer.prediction.predictor import Predictor
from crystalframer.pretrained.baselines import baselines, measured
from crystalframer.pretrained.packing import finished_run, packed_of_runs
from crystalframer.pretrained.table_page import Findings, page
from crystalframer.runs.tracker import seconds_of
from crystalframer.training.trained_model import load_model

MODEL, REPORT, PREDICTED = "model.pt", "report.html", "predicted.csv"
"""What a folder of results holds beside the training."""
FEW = 400
"""Rows with a value below which more of them are kept from the training."""


@dataclass(frozen=True)
class OwnTable:
    """A folder and a table, prepared."""

    source: Path
    table: Path
    data: DataConfig
    store: Path
    """Folder of the prepared crystals."""
    notes: tuple[str, ...]
    """How the table and the folder were understood."""

    @property
    def name(self) -> str:
        """What the results are called unless another folder is named."""
        return f"{self.data.dataset}-{self.data.task}"

    def summary(self, data: TaskData) -> list[str]:
        """Say what is trained on and what is left out, and how the table and the folder were understood."""
        learn, choose, test = (len(data.rows[split]) for split in SPLITS)
        left_out = len(_left_out(self, None))
        where = f"; {left_out:,} without a value, or left out: {self.store / store.REJECTS}" if left_out else ""
        first = (
            f"{self.data.task} [{data.unit}]: {learn:,} crystals to learn from, {choose:,} to choose by, {test:,} to "
        )
        return [f"{first}test with{where}", *self.notes]

    def settings(self, num_train: int) -> dict[str, Any]:
        """Return dotted settings of a training of minutes that chooses by the validation error."""
        return {
            "data.dataset": self.data.dataset,
            "data.task": self.data.task,
            "model.preset": "lightweight",
            "train.epochs": max(10, min(100, 60_000 // num_train)),
            "train.average_epochs": 0,
            "train.batch_size": max(1, min(32, num_train // 8)),
            "train.keep": "best",
            "train.patience": 20,
        }


def source_and_table(paths: Sequence[Path]) -> tuple[Path, Path]:
    """Return which path holds the structures and which the table; a folder may hold its table.

    Raises:
        UserError: there is no table, or there are more than two paths.
    """
    if len(paths) == 2:
        return paths[0], paths[1]
    found = find_table(paths[0]) if len(paths) == 1 else None
    if found is None:
        raise UserError(
            f"{' '.join(map(str, paths))}: expected a folder of structures and a table of values, such as "
            "my_crystals/ data.xlsx"
        )
    return paths[0], found


def prepare_table(
    source: Path, table: Path, task: str | None = None, watch: Watch = silent
) -> tuple[OwnTable, TaskData]:
    """Prepare the crystals of a folder whose rows in a table have a value of the property.

    They are split by formula where the table has no column `split`: 80 % train and 10 % validate, or 70 and 15 % of
    fewer than 400.

    Args:
        source: folder or file of structures.
        table: .csv or .xlsx, a row a structure.
        task: the property, a column's name; None: the only one.
        watch: reports how far it is.

    Returns:
        What was prepared, and the crystals and values to train on.

    Raises:
        UserError: a file cannot be read, the table has no such column, or too few crystals can be used.
    """
    found = read_targets(table)
    name = _task(table, found, task)
    with_value = sum(math.isfinite(row.targets.get(name, math.nan)) for row in found.rows)
    train, val = (0.8, 0.1) if with_value >= FEW else (0.7, 0.15)
    dataset = f"{own_name(OwnData(source))}-{re.sub(r'[^0-9A-Za-z_.-]+', '_', table.stem)}"
    own = OwnData(source, name=dataset, targets=table, train=train, val=val)
    directory, manifest = prepare_own(own, processes=min(8, cores()), watch=watch)
    data = load_task(DataConfig(dataset=dataset, task=name))
    if empty := [split for split in SPLITS if not len(data.rows[split])]:
        sizes = ", ".join(f"{len(rows)} {split}" for split, rows in data.rows.items())
        raise UserError(
            f"{table}: too few crystals with {name!r}, nothing in {' and '.join(empty)} ({sizes}); the reasons of what "
            f"is left out are in {directory / store.REJECTS}"
        )
    return OwnTable(source, table, DataConfig(dataset=dataset, task=name), directory, tuple(manifest["notes"])), data


def conclude(own: OwnTable, data: TaskData, folder: Path) -> Path:
    """Make model, predictions and page of a finished training in its folder; return the page.

    Raises:
        UserError: the training is not finished, or a file cannot be written.
    """
    run = finished_run(folder)
    model = folder / MODEL
    intervals = len(data.rows["val"]) >= FEWEST
    if intervals:
        packed = packed_of_runs([run], data, own.name, about=f"{own.source.name} and {own.table.name}")[0]
    else:
        card = (folder / CARD).read_text(encoding="utf-8")
        packed = PackedModel((as_packed(load_model(run.directory.checkpoint)),), card=card)
    with writing(f"to {folder}", "--out"):
        write_packed(model, packed)
        predictor = predictor_of([read_model(model)])
        open_rows = _open_rows(own)
        predicted = predictor.predict_named(open_rows) if open_rows else None
        findings = Findings(
            own=f"{own.source.name} and {own.table.name}",
            model=model,
            data=data,
            evaluation=_evaluation(predictor, data, intervals=intervals),
            candidates=[
                *baselines(predictor, data),
                measured("this model", predictor, data, seconds_of(run.directory.records())),
            ],
            predicted=predicted,
            left_out=_left_out(own, predicted),
            unsplit=_unsplit(data),
            notes=own.notes,
            settings=run.config,
        )
        if predicted is not None:
            predicted.write(folder / PREDICTED)
        replace_text(folder / REPORT, page(findings))
    return folder / REPORT


def _task(table: Path, found: TargetTable, task: str | None) -> str:
    """Return the name of the property that is meant."""
    if not found.names:
        seen = "".join(f"; {text}" for text in (found.sample, *found.notes) if text)
        raise UserError(f"{table} has no column of numbers, expected a column of ids and one of values{seen}")
    if task is None:
        if len(found.names) > 1:
            raise UserError(f"{table} holds {', '.join(found.names)}: say with --task which one is meant")
        return found.names[0]
    name = task_name(task)[0]
    if name not in found.names:
        raise UserError(f"{table} has no column of numbers {task!r}{near_matches(name, found.names)}")
    return name


def _open_rows(own: OwnTable) -> list[Reading]:
    """Return the structures whose rows have no value of the property."""
    readings = read_user_structures(own.source, read_targets(own.table), cores()).readings
    return [
        replace(reading, properties={})
        for reading in readings
        if reading.crystal is not None
        and not math.isfinite(reading.properties.get(own.data.task, math.nan))
        and not why_unphysical(reading.crystal)
    ]


def _left_out(own: OwnTable, predicted: Predictions | None) -> list[tuple[str, str]]:
    """Return id and reason of what was neither learned from nor predicted."""
    lines = (own.store / store.REJECTS).read_text(encoding="utf-8").splitlines()
    done = set(predicted.ids) if predicted is not None else set()
    return [(entry["id"], entry["reason"]) for entry in map(json.loads, lines) if entry["id"] not in done]


def _unsplit(data: TaskData) -> int:
    """Return how many crystals have a value and no split."""
    task = data.dataset.tasks[data.task]
    return sum(math.isfinite(value) and code < 0 for value, code in zip(task.targets, task.split, strict=True))


def _evaluation(predictor: Predictor, data: TaskData, *, intervals: bool) -> Any:
    if intervals:
        return evaluate_predictor(predictor, data, "test")[0]
    return evaluate_model(predictor.members[0], data, "test")[0]
