"""Finished trainings become a model with a name: an ensemble of seeds, its intervals, errors, curves, card, example."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crystalframer.atomic_files import sha256_of, writing
from crystalframer.data.dataset import SplitName, TaskData
from crystalframer.data.registry import load_task
from crystalframer.errors import UserError
from crystalframer.prediction.calibration import Calibration
from crystalframer.prediction.card import model_card
from crystalframer.prediction.coverage import Coverage, coverage_of
from crystalframer.prediction.evaluation import predict_split
from crystalframer.prediction.packed import Example, PackedModel, as_packed, write_packed
from crystalframer.prediction.predictions import Predictions
from crystalframer.prediction.predictor import Predictor
from crystalframer.prediction.training_domain import FAR, POINTS, TrainingDomain
from crystalframer.pretrained.listing import NAME, Listed, ListedTarget, add_to_list, own_folder, read_list
from crystalframer.published import PUBLISHED
from crystalframer.runs.run_directory import FinishedRun, RunDirectory
from crystalframer.runs.tracker import median_seconds
from crystalframer.statistics import interval, mean_absolute
from crystalframer.training.metrics import TaskErrors, evaluate_predictions
from crystalframer.training.trained_model import load_model

SMALL = 24
"""Atoms of the example at most."""


def pack_runs(
    runs: Sequence[Path],
    name: str,
    *,
    folder: Path | None = None,
    about: str = "",
    licence: str = "",
    replace_old: bool = False,
) -> Path:
    """Pack trainings that differ in their seeds alone as one model, and enter it into a list; return its file.

    Args:
        runs: run directories of finished trainings.
        name: of the model.
        folder: of the list; by default that of one's own models.
        about: what it learned from, in words; by default the data set's name.
        licence: terms of use of that; by default those of the published data set.
        replace_old: take the place of a model of the same name.

    Raises:
        UserError: a run is unfinished or other than the first, its data are not there or no longer the same, the
            validation split is too small, or the name is taken or unusable.
    """
    folder = folder or own_folder()
    if not NAME.fullmatch(name):
        raise UserError(f"model name: got {name!r}, expected small letters, digits, '-' and '_'")
    if name in read_list(folder) and not replace_old:
        raise UserError(f"{folder} lists a model {name!r} already; give another name, or --replace")
    finished = [finished_run(run) for run in runs]
    _check_alike(finished)
    config = finished[0].config
    data = load_task(config.data)
    if data.fingerprint != finished[0].data_fingerprint:
        raise UserError(
            f"data set {config.data.dataset!r} is not the one that {runs[0]} was trained on; bring that one back "
            "(CRYSTALFRAMER_DATA), the intervals need its validation crystals"
        )
    packed, entry = packed_of_runs(finished, data, name, about=about, licence=licence)
    path = folder / f"{name}.pt"
    with writing(f"to {folder}", "--folder"):
        write_packed(path, packed)
        add_to_list(folder, name, replace(entry, bytes=path.stat().st_size, sha256=sha256_of(path), file=path.name))
    return path


def packed_of_runs(
    finished: Sequence[FinishedRun], data: TaskData, name: str, *, about: str = "", licence: str = ""
) -> tuple[PackedModel, Listed]:
    """Return trainings as one model with intervals, measured on its test split, and its entry in a list.

    Args:
        finished: trainings that differ in their seeds alone.
        data: what they were trained on.
        name: of the model.
        about: what it learned from, in words; by default the data set's name.
        licence: terms of use of that; by default those of the published data set.

    Raises:
        UserError: the validation split is too small.
    """
    config = finished[0].config
    predictor = Predictor([as_packed(load_model(run.directory.checkpoint)) for run in finished])
    predictor = Predictor(predictor.members, calibration=calibrate(predictor, data))
    print(f"{name}: predicting {len(data.rows['test']):,} test crystals")
    test = predict_split(predictor, data, "test")
    targets, errors, coverages = measure_test(predictor, data, test)
    published = PUBLISHED.get(config.data.dataset)
    entry = Listed(
        targets=targets,
        data=about or (published.title if published else config.data.dataset),
        licence=licence or (published.licence if published else "your own data; the weights inherit what they ask for"),
        frame=config.model.frame,
        members=len(finished),
        crystals=[len(data.rows[split]) for split in ("train", "val", "test")],
        minutes=round(sum(_minutes(run) for run in finished), 1),
        bytes=0,
        sha256="",
    )
    packed = PackedModel(
        members=predictor.members,
        calibration=predictor.calibration,
        example=_example(predictor, data),
        about={"name": name, **dataclasses.asdict(entry)},
        curves=[[{"epoch": epoch.step, **epoch.values} for epoch in run.directory.records()] for run in finished],
        card=_card(predictor, data, errors, entry, coverages),
    )
    return packed, entry


def calibrate(predictor: Predictor, data: TaskData) -> Calibration:
    """Measure the domain and the intervals of models on their training and validation crystals.

    Raises:
        UserError: too few validation crystals have a target.
    """
    known = replace(data, rows={**data.rows, "train": data.rows["train"][:POINTS]})
    print(f"embedding {len(known.rows['train']):,} of {len(data.rows['train']):,} training crystals")
    train = predict_split(predictor, known, "train")
    assert train.embeddings is not None
    domain = TrainingDomain.of(data.dataset, data.rows["train"], train.embeddings[np.isfinite(train.embeddings[:, 0])])
    print(f"predicting {len(data.rows['val']):,} validation crystals")
    val = predict_split(predictor, data, "val")
    assert val.embeddings is not None
    good = np.isfinite(val.values).all(axis=1)
    crystals = [data.dataset[int(row)] for row in data.rows["val"][good]]
    embeddings = val.embeddings[good]
    domain = replace(domain, far=float(np.quantile(domain.distances(embeddings), FAR)))
    errors = np.abs(val.values - _values(data, "val"))[good]
    spread = None if val.spread is None else val.spread[good]
    return Calibration.fit(domain, predictor.members[0].targets, crystals, embeddings, errors, spread)


def measure_test(
    predictor: Predictor, data: TaskData, test: Predictions
) -> tuple[list[ListedTarget], tuple[TaskErrors, ...], dict[str, list[Coverage]]]:
    """Return the errors and the coverage of predictions of the test split, by target."""
    values = _values(data, "test")
    assert test.half_widths is not None
    errors = np.abs(test.values - values)
    listed, coverages = [], {}
    for column, target in enumerate(predictor.members[0].targets):
        present = np.isfinite(errors[:, column])
        mae = interval(mean_absolute, values[present, column], test.values[present, column])
        found = coverage_of(
            data.dataset, data.rows["test"][present], errors[present, column], test.half_widths[present, column]
        )
        coverages[target.name] = found
        listed.append(ListedTarget(target.name, target.unit, mae.value, mae.low, mae.high, found[0].share))
    evaluation = evaluate_predictions("test", test.ids, values, test.values, predictor.members[0].targets)
    return listed, evaluation.by_task, coverages


def finished_run(run: Path) -> FinishedRun:
    """Return the training of a run directory.

    Raises:
        UserError: it is unfinished, or the folder is none.
    """
    directory = RunDirectory(run.absolute())
    if (finished := directory.finished()) is None:
        state = "is no run directory" if directory.identity() is None else "holds a training that is not finished"
        raise UserError(f"{run} {state}; give the folders of finished trainings")
    return finished


def _check_alike(finished: Sequence[FinishedRun]) -> None:
    """Raise a `UserError` unless trainings differ in their seeds, and in nothing else."""
    first = finished[0]
    for number, other in enumerate(finished[1:], start=1):
        unseeded = replace(other.config, train=replace(other.config.train, seed=first.config.train.seed))
        if differing := first.config.differences(unseeded.to_dict()):
            raise UserError(
                f"{other.directory.path} and {first.directory.path} differ in more than their seeds: {differing}; "
                "pack them apart"
            )
        if other.data_fingerprint != first.data_fingerprint:
            raise UserError(f"{other.directory.path} and {first.directory.path} learned from different data")
        if other.config.train.seed in {known.config.train.seed for known in finished[:number]}:
            raise UserError(f"{other.directory.path} has the same seed as another one; give each training once")


def _values(data: TaskData, split: SplitName) -> NDArray[np.float64]:
    rows = data.rows[split]
    return data.targets[rows].astype(np.float64).reshape(len(rows), -1)


def _example(predictor: Predictor, data: TaskData) -> Example | None:
    """Return the first small ordered test crystal with its predictions, if there is one."""
    for crystal in data.crystals("test"):
        if crystal.num_atoms <= SMALL and crystal.mixture is None:
            return Example(crystal, tuple(predictor.predict(crystal).values[0].tolist()))
    return None


def _minutes(run: FinishedRun) -> float:
    """Return the minutes of a training by its median epoch."""
    epochs = run.directory.records()
    return len(epochs) * (median_seconds(epochs) or 0.0) / 60


def _card(
    predictor: Predictor,
    data: TaskData,
    errors: Sequence[TaskErrors],
    entry: Listed,
    coverages: Mapping[str, Sequence[Coverage]],
) -> str:
    """Return the card of the first member, with what is measured on all of them together."""
    text = model_card(predictor.members[0], data, errors)
    mean = f"Mean of {entry.members} trainings with different seeds. " if entry.members > 1 else ""
    lines = [
        f"{mean}Data: {entry.data}. Licence of the data: {entry.licence}.",
        "",
        "## Intervals",
        "",
        "Split-conformal, calibrated on the validation crystals, measured on the test crystals at 90 %.",
        "",
        "| target | group | test crystals | held | 95 % interval | mean half width | MAE |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = [(name, one) for name, found in coverages.items() for one in found]
    lines += [
        f"| {name} | {one.kind} {one.group} | {one.crystals:,} | {one.share:.1%} | {one.low:.1%} to {one.high:.1%} "
        f"| {one.half_width:.3g} | {one.mae:.3g} |"
        for name, one in rows
    ]
    return text.replace("## Data\n", "\n".join(lines) + "\n\n## Data\n", 1)
