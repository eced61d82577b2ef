"""The command `crystalframer export`: run directories of finished trials -> the files of `analysis/exported.py`."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import gcd
from pathlib import Path

import pandas as pd

from analysis.comparison import compare
from analysis.exported import FORMAT, DatasetRecord, Exported, SweepRecord, TrialRecord, check, read, write
from analysis.material_errors import material_errors
from analysis.peers import TREES, Peer, read_peer, trees_name
from crystalframer import __version__
from crystalframer.config import DataConfig
from crystalframer.data.dataset import TaskData
from crystalframer.data.registry import load_task, subset_of
from crystalframer.errors import UserError
from crystalframer.geometry.crystal import ELEMENTS
from crystalframer.pretrained.baselines import trees_on_composition
from crystalframer.runs.run_directory import FinishedRun, RunDirectory
from crystalframer.runs.tracker import seconds_of

Say = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """What a sweep's file asks for."""

    description: str
    names: Mapping[str, str]
    """Name of each trial by the fingerprint of its settings."""


@dataclass(frozen=True)
class _Finished:
    key: str
    run: FinishedRun
    tested: pd.DataFrame


def run(arguments: argparse.Namespace) -> int:
    """Export as the command line says; return the exit code."""
    folders = arguments.folders or run_directories(arguments.runs / arguments.name)
    asked = _asked(arguments.sweep or Path("sweeps") / f"{arguments.name}.yaml", arguments.sweep is not None)
    peers = [read_peer(text) for text in arguments.peers]
    content = collect(arguments.name, folders, asked, arguments.cores)
    if arguments.add:
        content = added(read(arguments.output), content, asked)
    if arguments.trees:
        peers += tree_peers(content)
    content = with_peers(content, peers)
    paths = write(arguments.output, content)
    size = sum(path.stat().st_size for path in paths) / 1e6
    print(f"{check(arguments.output)}; {size:.2f} MB")
    print(f"tables and figures: crystalframer figures --results {arguments.output}")
    return 0


def run_directories(folder: Path) -> list[Path]:
    """Return the run directories in a folder.

    Raises:
        UserError: there are none.
    """
    found = sorted(path.parent for path in folder.glob("*/config.json"))
    if not found:
        raise UserError(f"no run directories in {folder}: give the sweep's name, and its --runs folder")
    return found


def _asked(path: Path, needed: bool) -> Asked | None:
    """Return what the sweep's file asks for, None where there is none."""
    from crystalframer.orchestration.sweeps.spec import load_sweep

    if not needed and not path.is_file():
        return None
    sweep = load_sweep(path)
    return Asked(sweep.description, {trial.config.fingerprint(): trial.name for trial in sweep.trials()})


def collect(
    name: str, folders: Sequence[Path], asked: Asked | None, cores: int | None = None, say: Say = print
) -> Exported:
    """Collect the finished trials of run directories.

    Args:
        name: what the results are called.
        folders: run directories.
        asked: what the sweep's file asks for, None where there is none: every finished trial counts.
        cores: threads of the trials that did not record theirs.
        say: hears of what could not be added.

    Raises:
        UserError: no trial counts, two directories hold the same trial, or a file is damaged.
    """
    finished: dict[str, _Finished] = {}
    left_out = []
    for folder in folders:
        found = _read(RunDirectory(folder), asked)
        if isinstance(found, str):
            left_out.append(f"{folder.name}: {found}")
        elif found.key in finished:
            other = finished[found.key].run.directory.path
            raise UserError(f"{folder} and {other} hold the same trial, {found.key}: name one of them with --from")
        else:
            finished[found.key] = found
    if not finished:
        reasons = f" ({'; '.join(left_out[:3])})" if left_out else ""
        raise UserError(f"no finished trial of {name!r} in the {len(folders)} run directories looked at{reasons}")
    trials = [finished[key] for key in sorted(finished)]
    crystals, datasets = _data(trials, say)
    record = SweepRecord(
        format=FORMAT,
        sweep=name,
        description=asked.description if asked else "",
        expected=len(asked.names) if asked else None,
        left_out=sorted(left_out),
        program=__version__,
        datasets=datasets,
        trials=[_record(trial, cores) for trial in trials],
    )
    epochs = pd.concat([_epochs(trial) for trial in trials], ignore_index=True)
    predictions = pd.concat([trial.tested.assign(trial=trial.key) for trial in trials], ignore_index=True)
    return Exported(record, epochs, predictions[["trial", "id", "target", "prediction"]], crystals)


def added(recorded: Exported, content: Exported, asked: Asked | None) -> Exported:
    """Return recorded results with further trials, which replace those of the same settings.

    Args:
        recorded: what is recorded already; its other methods' predictions stay.
        content: the further trials.
        asked: what the sweep's file asks for, None where there is none: every recorded trial stays.

    Raises:
        UserError: trials that differ by their seed alone were trained on different data.
    """
    there = {trial.config.fingerprint() for trial in content.record.trials}
    keys = {}
    for trial in recorded.record.trials:
        fingerprint = trial.config.fingerprint()
        if fingerprint not in there and (asked is None or fingerprint in asked.names):
            keys[trial.run_key] = asked.names[fingerprint] if asked else trial.run_key
    kept = [replace(trial, run_key=keys[trial.run_key]) for trial in recorded.record.trials if trial.run_key in keys]

    def both(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
        old = old.assign(trial=old["trial"].astype(str).map(keys)).dropna(subset="trial")
        return pd.concat([old, new]).sort_values("trial", kind="stable", ignore_index=True)

    crystals = pd.concat([content.crystals, recorded.crystals]).drop_duplicates(["dataset", "id"])
    every = Exported(
        replace(
            content.record,
            datasets={**recorded.record.datasets, **content.record.datasets},
            trials=sorted([*kept, *content.record.trials], key=lambda trial: trial.run_key),
        ),
        both(recorded.epochs, content.epochs),
        both(recorded.predictions, content.predictions),
        crystals.sort_values(["dataset", "id"], ignore_index=True),
        recorded.peers,
    )
    compare(every.results())
    return every


def tree_peers(content: Exported) -> list[Peer]:
    """Return boosted trees on the composition as other methods, one for each training set that the trials have.

    Raises:
        UserError: the data are not at hand, or the trials are of several data sets or tasks.
    """
    settings = {trial.config.data for trial in content.record.trials}
    if len({(data.dataset, data.task) for data in settings}) > 1:
        raise UserError(f"--trees: the results are of {len(settings)} data settings; export each task by itself")
    several, found = len({data.train_size for data in settings}) > 1, {}
    for data in map(load_task, {replace(one, val_size=None) for one in settings}):
        name = trees_name(len(data.rows["train"])) if several else TREES
        ids = [str(data.dataset.ids[row]) for row in data.rows["test"]]
        found[name] = Peer(name, pd.Series(trees_on_composition(data)["test"], index=ids), None)
    return list(found.values())


def with_peers(content: Exported, peers: Sequence[Peer]) -> Exported:
    """Return results with other methods' predictions of the same test crystals.

    Raises:
        UserError: the results are of several tasks, or a peer predicts none of the crystals or another property.
    """
    if not peers:
        return content
    tasks = {(trial.config.data.dataset, trial.config.data.task) for trial in content.record.trials}
    if len(tasks) > 1:
        raise UserError(
            f"--peers: the results are of {len(tasks)} tasks, other methods' predictions belong to one: "
            "export each task by itself"
        )
    (comparison,) = compare(content.results())
    errors = material_errors(comparison.finished[0])
    assert errors is not None, "recorded trials have predictions"
    tables = []
    for peer in peers:
        found = peer.errors(errors)
        tables.append(pd.DataFrame({"peer": peer.name, "id": found.ids, "prediction": found.predictions[:, 0]}))
    others = content.peers[~content.peers["peer"].isin([peer.name for peer in peers])].astype({"peer": str})
    return replace(content, peers=pd.concat([others, *tables]).sort_values(["peer", "id"], ignore_index=True))


def _read(directory: RunDirectory, asked: Asked | None) -> _Finished | str:
    """Return a finished trial that counts, or why it does not."""
    if (run := directory.finished()) is None:
        if directory.identity() is None:
            return "no run directory"
        state = directory.state()
        return state.state if state else "not started"
    config = run.config
    fingerprint = config.fingerprint()
    if asked is not None and fingerprint not in asked.names:
        return "not in the sweep as its file now reads"
    if len(config.data.task.split(",")) > 1:
        return "it learned several targets, which recorded results do not hold"
    if len(directory.records()) < config.train.epochs:
        return "incomplete record, epochs are missing"
    task, frame, seed = config.data.task, config.model.frame, config.train.seed
    key = asked.names[fingerprint] if asked else f"{task}-{frame}-seed{seed}-{fingerprint}"
    try:
        tested = pd.read_csv(directory.predictions, dtype={"id": str})
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"{directory.predictions} is missing or damaged ({error}): run the trial again") from error
    return _Finished(key, run, tested.sort_values("id"))


def _record(trial: _Finished, cores: int | None) -> TrialRecord:
    result, tags = trial.run.result, dict(sorted(trial.run.result["tags"].items()))
    return TrialRecord(
        run_key=trial.key,
        settings=trial.run.config.to_dict(),
        tags=tags,
        unit=result["unit"],
        val_mae=result["val_mae"],
        step=result["final"]["step"],
        time_ms=result["final"]["time_ms"],
        final=dict(result["final"]["values"]),
        hours=seconds_of(trial.run.directory.records()) / 3600,
        cores=int(tags["threads"]) if "threads" in tags else cores,
    )


def _epochs(trial: _Finished) -> pd.DataFrame:
    return pd.DataFrame(
        [
            (trial.key, record.step, record.time_ms, metric, value)
            for record in trial.run.directory.records()
            for metric, value in record.values.items()
        ],
        columns=["trial", "step", "time_ms", "metric", "value"],
    )


def _data(trials: Sequence[_Finished], say: Say) -> tuple[pd.DataFrame, dict[str, DatasetRecord]]:
    """Return the formulas of the test crystals, and what the data sets are parts of, where they are at hand."""
    rows: dict[tuple[str, str], str] = {}
    datasets: dict[str, DatasetRecord] = {}
    by_data = {(trial.run.config.data, trial.run.result["tags"]["dataset_fingerprint"]): trial for trial in trials}
    for (config, fingerprint), trial in sorted(by_data.items(), key=lambda item: item[1].key):
        data = _task(config, fingerprint, say)
        if data is None:
            continue
        datasets[config.dataset] = DatasetRecord(data.dataset.fingerprint, subset_of(config.dataset))
        wanted = set(trial.tested["id"])
        for row in data.rows["test"].tolist():
            if (id := str(data.dataset.ids[row])) in wanted:
                start, stop = data.dataset.offsets[row : row + 2]
                rows[config.dataset, id] = formula(data.dataset.atomic_numbers[start:stop].tolist())
    table = [(dataset, id, text) for (dataset, id), text in sorted(rows.items())]
    return pd.DataFrame(table, columns=["dataset", "id", "formula"], dtype=str), datasets


def _task(config: DataConfig, fingerprint: str, say: Say) -> TaskData | None:
    """Return the data that trials were trained on, None where they are not at hand."""
    try:
        data = load_task(config)
    except UserError as error:
        say(f"without the formulas of the test crystals: {error}")
        return None
    if data.fingerprint == fingerprint:
        return data
    say(
        f"without the formulas of the test crystals: {config.dataset} {config.task} has the fingerprint "
        f"{data.fingerprint[:12]} here, the trials were trained on {fingerprint[:12]}; set CRYSTALFRAMER_DATA to "
        "where that data set is"
    )
    return None


def formula(numbers: Sequence[int]) -> str:
    """Return the reduced formula of a cell, elements by atomic number, such as ``Mg1 O1``."""
    counts = {number: list(numbers).count(number) for number in sorted(set(numbers))}
    divisor = reduce(gcd, counts.values())
    return " ".join(f"{ELEMENTS[number - 1]}{count // divisor}" for number, count in counts.items())
