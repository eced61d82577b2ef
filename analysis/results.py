"""Reads what a sweep recorded in MLflow: finished, current trials count; every other run is named with the reason.

What is left out, each run by its name: runs that are running, killed or failed; runs that the sweep's file no longer
asks for; finished runs whose record is incomplete (a metric or an epoch is missing); and a trial's second record, when
it says the same as the first. Two records of a trial that disagree are an error: nobody can tell which one is right.
Nothing of what is left out reaches a mean.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from analysis.artifacts import PREDICTIONS, TrialFiles
from crystalframer.beside import OUTPUT
from crystalframer.command_line import HelpFormatter
from crystalframer.config import FRAMES, FrameName, TrialConfig
from crystalframer.data.dataset import unit_token
from crystalframer.data.registry import subset_of
from crystalframer.errors import UserError, near_matches
from crystalframer.orchestration.tracking.addresses import tracking_address
from crystalframer.orchestration.tracking.client import all_experiments, all_runs, connect
from crystalframer.orchestration.tracking.experiment import FRAMES_TAG, NOTE_TAG
from crystalframer.resolving import build_trial

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

HISTORY = {
    "train_loss": "train/loss",
    "val_mae": "val/mae_{unit}",
    "averaged": "averaged",
    "seconds": "seconds_per_epoch",
}
"""Metric of each column of `FinishedTrial.history`."""


@dataclass(frozen=True)
class FinishedTrial:
    """A finished training run as MLflow holds it; errors are in `unit`."""

    run_key: str
    config: TrialConfig
    tags: Mapping[str, str]
    unit: str
    test_mae: float
    baseline_mae: float
    """Test MAE of predicting the training set's mean."""
    val_mae: float
    """Validation MAE after the last epoch."""
    num_parameters: int
    history: pd.DataFrame
    """One row per epoch (the index, from 1): train_loss, val_mae, averaged (0 or 1), seconds."""
    files: TrialFiles
    """Checkpoint, predictions and snapshots."""
    test_ms_per_material: float | None = None
    """Wall-clock time of the test set's prediction, neighbour lists included; None where it was not recorded."""
    tested: pd.DataFrame | None = None
    """Targets and predictions by id, where they need not be looked for among the files."""

    def predictions(self) -> pd.DataFrame | None:
        """Return the test set's targets and predictions by id (columns target, prediction); None without the file.

        Raises:
            UserError: the file is not the one that this trial's recorded error comes from.
        """
        if self.tested is not None:
            return self.tested
        path = self.files.find(PREDICTIONS)
        if path is None:
            return None
        columns = {"id": str, "target": float, "prediction": float}
        try:
            table = pd.read_csv(path, dtype=columns, usecols=list(columns))
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path} is damaged ({reason}); restore it, or run the trial again") from error
        table = table.set_index("id").sort_index()
        mae = float((table["target"] - table["prediction"]).abs().mean())
        if not math.isclose(mae, self.test_mae, rel_tol=1e-5, abs_tol=1e-9):
            raise UserError(
                f"{path} gives a test MAE of {mae:.6g}, but MLflow recorded {self.test_mae:.6g} for {self.run_key}: "
                "the file belongs to another run or was changed; restore it, or run the trial again"
            )
        return table


class MissingError(UserError):
    """Why a table or figure, or a part of it, is not there, and the command that would bring it.

    Raised where nothing can be made, kept in `Product.missing` where only a part is missing.
    """

    def __init__(self, reason: str, command: str, sentence: str = "") -> None:
        """Take the sentence of a script that stops with it, where it says more than the page's list."""
        super().__init__(sentence or f"{reason}: run `{command}` first")
        self.reason = reason
        self.command = command


@dataclass(frozen=True, eq=False)
class Results:
    """A sweep's finished trials, and what was left out of them."""

    sweep: str
    trials: tuple[FinishedTrial, ...]
    """Sorted by run key."""
    left_out: tuple[str, ...]
    """One ``"<run>: <reason>"`` per run that does not count, sorted."""
    expected: int | None
    """Trials the sweep's file asks for, None where that was not recorded."""
    frames: tuple[FrameName, ...] = FRAMES
    """Frames that it asks for: all, where that was not recorded."""
    search: TrialFiles | None = None
    """Where a hyperparameter search recorded what it found; None for a sweep that is no search."""
    description: str = ""
    """The sweep's question, what was expected, and where it comes from: a paragraph each."""
    subsets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By data set and task: the published data set and task, ``jarvis:bandgap_mbj``, that it is a part of."""
    formulas: Mapping[str, str] = field(default_factory=dict)
    """Of test crystals by id, such as ``Mg1 O1``, where the results bring them."""
    peers: Mapping[str, pd.Series] = field(default_factory=dict)
    """Other methods' predictions of the test crystals, by name, each by id, where the results bring them."""

    def progress(self) -> str:
        """Say how much of the sweep is finished."""
        asked = len(self.trials) if self.expected is None else self.expected
        of = "" if self.expected is None else f" of {self.expected}"
        return f"{len(self.trials)}{of} trial{'' if asked == 1 else 's'} finished"

    @property
    def complete(self) -> bool:
        """Whether every trial that the sweep's file asks for has finished."""
        return len(self.trials) == self.expected


def parse_arguments(
    description: str | None, argv: Sequence[str] | None, *, sweep: str = "ablation_sample"
) -> argparse.Namespace:
    """Parse what every analysis script takes: the sweep, where its results are, where to write."""
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter, allow_abbrev=False)
    add_arguments(parser, sweep)
    return parser.parse_args(argv)


def add_arguments(parser: argparse.ArgumentParser, sweep: str = "ablation_sample") -> None:
    """Add what every analysis script takes."""
    parser.add_argument(
        "--sweep", "--experiment", default=sweep, help="name of the sweep (default: %(default)s)", metavar="NAME"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--runs", type=Path, default=Path("runs"), help="runs folder (default: ./runs)")
    source.add_argument("--tracking-uri", help="MLflow server or database to read instead of a runs folder")
    source.add_argument(
        "--results", type=Path, metavar="FOLDER", help="recorded results to read instead, such as results/NAME"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder to write to (default: analysis/output)")


def shown(path: Path) -> Path:
    """Return a path as a person wants to read it: relative to the working directory where it is below that."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def read_results(arguments: argparse.Namespace) -> Results:
    """Read the sweep that `parse_arguments` got.

    Raises:
        MissingError: there are no results.
        UserError: MLflow cannot be read, or a trial is recorded twice.
    """
    sweep: str = arguments.sweep
    uri = tracking_address(arguments.tracking_uri) if arguments.tracking_uri else None
    if uri is None:
        database = arguments.runs / "mlflow.db"
        if not database.is_file():
            raise _no_results(sweep, str(database), hint="")
        uri = f"sqlite:///{database.resolve()}"
    return read_sweep(uri, sweep, None if arguments.tracking_uri else arguments.runs.absolute())


def read_sweep(tracking_uri: str, sweep: str, runs_folder: Path | None = None) -> Results:
    """Read the runs of the MLflow experiment `sweep`.

    Args:
        tracking_uri: server or database.
        sweep: the experiment's name.
        runs_folder: where run directories and artifacts are, if they are on this disk.

    Raises:
        MissingError: there are no finished trials.
        UserError: MLflow cannot be read, or two records of a trial disagree.
    """
    client = connect(tracking_uri)
    from mlflow.exceptions import MlflowException

    try:
        experiment = client.get_experiment_by_name(sweep)
        if experiment is None:
            names = [other.name for other in all_experiments(client) if other.name != "Default"]
            raise _no_results(sweep, tracking_uri, near_matches(sweep, names) if names else "")
        files = _files_of(tracking_uri, sweep, runs_folder)
        runs = list(all_runs(client, experiment.experiment_id))
        summaries = [run for run in runs if run.data.tags.get("kind") == "search" and run.info.status == "FINISHED"]
        trials, left_out = _sort_out(client, [run for run in runs if "kind" not in run.data.tags], files)
    except MlflowException as error:
        raise UserError(
            f"cannot read MLflow at {tracking_uri}: {error}; is it running, is the address right?"
        ) from error
    if not trials:
        raise _no_results(sweep, tracking_uri, f" ({'; '.join(left_out)})" if left_out else "")
    expected = experiment.tags.get("num_trials")
    asked = experiment.tags.get(FRAMES_TAG, ",".join(FRAMES)).split(",")
    return Results(
        sweep,
        tuple(trials),
        tuple(left_out),
        None if expected is None else int(expected),
        tuple(frame for frame in FRAMES if frame in asked),
        files(summaries[0]) if summaries else None,
        experiment.tags.get(NOTE_TAG, ""),
        {name: subset_of(name) for name in sorted({trial.config.data.dataset for trial in trials})},
    )


def _no_results(sweep: str, where: str, hint: str) -> MissingError:
    command = f"crystalframer sweep {sweep}"
    sentence = f"no finished trials of the sweep {sweep!r} in {where}{hint}: run `{command}` first"
    return MissingError(f"{sweep}: no finished trial", command, sentence)


def _files_of(tracking_uri: str, sweep: str, folder: Path | None) -> Callable[["Run"], TrialFiles]:
    """Return a function that says where a run's files are."""

    def files(run: "Run") -> TrialFiles:
        key = run.data.tags.get("run_key")
        return TrialFiles(
            tracking_uri=tracking_uri,
            run_id=run.info.run_id,
            artifact_uri=run.info.artifact_uri or "",
            directory=folder / sweep / key if folder and key else None,
            artifacts=folder / "mlartifacts" if folder else None,
        )

    return files


def _sort_out(
    client: "MlflowClient", runs: Sequence["Run"], files: Callable[["Run"], TrialFiles]
) -> tuple[list[FinishedTrial], list[str]]:
    trials: dict[str, FinishedTrial] = {}
    left_out: list[str] = []
    for run in sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id)):
        name = run.data.tags.get("run_key", run.info.run_name)
        if run.data.tags.get("current") != "true":
            left_out.append(f"{name}: not in the sweep as its file now reads")
        elif run.info.status != "FINISHED":
            left_out.append(f"{name}: {run.info.status.lower()}")
        elif missing := _missing(run):
            left_out.append(f"{name}: incomplete record, no {missing}")
        else:
            trial = _trial(client, run, files(run))
            if (epochs := len(trial.history.dropna())) < trial.config.train.epochs:
                left_out.append(f"{name}: incomplete record, {epochs} of {trial.config.train.epochs} epochs")
            elif name not in trials:
                trials[name] = trial
            else:
                _require_the_same(trials[name], trial)
                left_out.append(f"{name}: recorded twice, the later record says the same")
    return sorted(trials.values(), key=lambda trial: trial.run_key), sorted(left_out)


def _missing(run: "Run") -> str:
    tags = [tag for tag in ("run_key", "unit") if tag not in run.data.tags]
    if tags:
        return ", ".join(f"tag {tag}" for tag in tags)
    token = unit_token(run.data.tags["unit"])
    needed = [f"test/mae_{token}", f"test/baseline_mae_{token}", f"val/mae_{token}", "num_parameters"]
    return ", ".join(key for key in needed if key not in run.data.metrics)


def _trial(client: "MlflowClient", run: "Run", files: TrialFiles) -> FinishedTrial:
    tags, metrics = run.data.tags, run.data.metrics
    token = unit_token(tags["unit"])
    history = {name: _by_epoch(client, run.info.run_id, key.format(unit=token)) for name, key in HISTORY.items()}
    return FinishedTrial(
        run_key=tags["run_key"],
        config=build_trial({key: _plain(value) for key, value in run.data.params.items()}),
        tags=tags,
        unit=tags["unit"],
        test_mae=metrics[f"test/mae_{token}"],
        baseline_mae=metrics[f"test/baseline_mae_{token}"],
        val_mae=metrics[f"val/mae_{token}"],
        num_parameters=int(metrics["num_parameters"]),
        history=pd.DataFrame(history).sort_index().rename_axis("epoch"),
        files=files,
        test_ms_per_material=metrics.get("test/ms_per_material"),
    )


def _by_epoch(client: "MlflowClient", run_id: str, key: str) -> "pd.Series[float]":
    values = {metric.step: metric.value for metric in client.get_metric_history(run_id, key)}
    return pd.Series(values, dtype=float)


def _plain(text: str) -> str | None:
    """Undo MLflow's str() of a parameter that is not set."""
    return None if text == "None" else text


def _require_the_same(first: FinishedTrial, second: FinishedTrial) -> None:
    if (first.config, first.test_mae, first.val_mae) != (second.config, second.test_mae, second.val_mae):
        raise UserError(
            f"MLflow holds the finished trial {first.run_key} more than once, with test MAE {first.test_mae:.6g} and "
            f"{second.test_mae:.6g}; delete the run that does not belong there, on the page that `crystalframer ui` "
            "opens, or your own server's, then try again"
        )
