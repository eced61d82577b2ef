"""A sweep's recorded results as small files that need neither MLflow nor a checkpoint: their form, read and checked.

    sweep.json             the question, the data sets, and each trial: settings, tags, final metrics, hours
    epochs.parquet         trial, step, time_ms, metric, value: every metric of every epoch
    predictions.parquet    trial, id, target, prediction: the whole test set, unrounded
    crystals.parquet       dataset, id, formula: the test crystals, where the data set was at hand
    peers.parquet          peer, id, prediction: other methods' predictions of the test crystals, where there are any
    SHA256SUMS             of these files, as `sha256sum --check` reads it

`crystalframer export` writes them, `crystalframer figures --results DIR` makes tables and figures of them,
`crystalframer import` records them in MLflow.
"""

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pydantic
from pyarrow import parquet

from analysis.artifacts import TrialFiles
from analysis.results import HISTORY, FinishedTrial, Results
from crystalframer.atomic_files import replace_text, replacing, sha256_of
from crystalframer.config import TrialConfig
from crystalframer.data.dataset import unit_token
from crystalframer.errors import UserError, require_damage
from crystalframer.resolving import trial_from_dict

FORMAT = 1
SWEEP, EPOCHS, PREDICTIONS, CRYSTALS = "sweep.json", "epochs.parquet", "predictions.parquet", "crystals.parquet"
PEERS = "peers.parquet"
SUMS = "SHA256SUMS"
_COLUMNS = {
    EPOCHS: ("trial", "step", "time_ms", "metric", "value"),
    PREDICTIONS: ("trial", "id", "target", "prediction"),
    CRYSTALS: ("id", "formula"),
}
_NUMBERS = ("step", "time_ms", "value", "target", "prediction")
REPEATED = ("trial", "metric", "peer")
"""Columns of few texts, which are written and read as categories."""


@dataclass(frozen=True)
class DatasetRecord:
    """What is known of a data set that trials were trained on."""

    fingerprint: str
    """Of crystals, targets and splits."""
    subset_of: dict[str, str]
    """By task: the published data set and task, ``jarvis:bandgap_mbj``, that this is a part of."""


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial."""

    run_key: str
    settings: dict[str, dict[str, Any]]
    """As `TrialConfig.to_dict` writes them."""
    tags: dict[str, str]
    unit: str
    val_mae: float
    """After the last epoch."""
    step: int
    """The last epoch."""
    time_ms: int
    """When it ended, in milliseconds since 1970."""
    final: dict[str, float]
    """Metrics of the test set, number of parameters."""
    hours: float
    """Wall-clock time of its epochs."""
    cores: int | None
    """Threads it trained with; None where that was not recorded."""

    @property
    def config(self) -> TrialConfig:
        """Its settings."""
        return trial_from_dict(self.settings)

    def test(self, kind: str) -> float:
        """Return a final metric by its name without unit, such as ``mae``."""
        return self.final[f"test/{kind}_{unit_token(self.unit)}"]


@dataclass(frozen=True)
class SweepRecord:
    """Content of ``sweep.json``."""

    format: int
    sweep: str
    description: str
    """The sweep's question, what was expected, and where it comes from: a paragraph each."""
    expected: int | None
    """Trials that the sweep's file asks for."""
    left_out: list[str]
    program: str
    """Version that wrote the files."""
    datasets: dict[str, DatasetRecord]
    trials: list[TrialRecord]
    """Sorted by run key."""


@dataclass(frozen=True, eq=False)
class Exported:
    """The files' content."""

    record: SweepRecord
    epochs: pd.DataFrame
    predictions: pd.DataFrame
    crystals: pd.DataFrame
    peers: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"peer": [], "id": [], "prediction": []}))

    def steps(self, trial: TrialRecord) -> dict[int, tuple[int, dict[str, float]]]:
        """Return a trial's metrics by epoch: when they were measured (ms since 1970), and their values."""
        rows = self.epochs[self.epochs["trial"] == trial.run_key]
        found: dict[int, tuple[int, dict[str, float]]] = {}
        columns = (rows[name].tolist() for name in ("step", "time_ms", "metric", "value"))
        for step, time_ms, metric, value in zip(*columns, strict=True):
            found.setdefault(step, (time_ms, {}))[1][metric] = value
        return found

    def tested(self, trial: TrialRecord) -> pd.DataFrame:
        """Return a trial's test set: target and prediction by id, sorted."""
        rows = self.predictions[self.predictions["trial"] == trial.run_key]
        return rows[["id", "target", "prediction"]].set_index("id").sort_index()

    def results(self) -> Results:
        """Return the results that tables and figures are made of."""
        record = self.record
        return Results(
            sweep=record.sweep,
            trials=tuple(self._finished(trial) for trial in record.trials),
            left_out=tuple(record.left_out),
            expected=record.expected,
            frames=tuple({trial.config.model.frame for trial in record.trials}),
            description=record.description,
            subsets={name: dataset.subset_of for name, dataset in record.datasets.items()},
            formulas=dict(zip(self.crystals["id"], self.crystals["formula"], strict=True)),
            peers={
                str(name): rows.set_index("id")["prediction"]
                for name, rows in self.peers.groupby("peer", observed=True)
            },
        )

    def _finished(self, trial: TrialRecord) -> FinishedTrial:
        metrics = {column: metric.format(unit=unit_token(trial.unit)) for column, metric in HISTORY.items()}
        rows = self.epochs[(self.epochs["trial"] == trial.run_key) & self.epochs["metric"].isin(metrics.values())]
        wide = rows.pivot_table(index="step", columns="metric", values="value")
        history = pd.DataFrame({column: wide[metric] for column, metric in metrics.items()}).rename_axis("epoch")
        tags = {**trial.tags, "run_key": trial.run_key}
        if trial.cores is not None:
            tags["threads"] = str(trial.cores)
        return FinishedTrial(
            run_key=trial.run_key,
            config=trial.config,
            tags=tags,
            unit=trial.unit,
            test_mae=trial.test("mae"),
            baseline_mae=trial.test("baseline_mae"),
            val_mae=trial.val_mae,
            num_parameters=int(trial.final["num_parameters"]),
            history=history,
            files=TrialFiles("", ""),
            test_ms_per_material=trial.final.get("test/ms_per_material"),
            tested=self.tested(trial),
        )


def write(folder: Path, content: Exported) -> list[Path]:
    """Write the files, the same bytes for the same content; return their paths."""
    read.cache_clear()
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / SWEEP, json.dumps(asdict(content.record), indent=1, ensure_ascii=False) + "\n")
    tables = {EPOCHS: content.epochs, PREDICTIONS: content.predictions, CRYSTALS: content.crystals}
    if len(content.peers):
        tables[PEERS] = content.peers
    for name, table in tables.items():
        with replacing(folder / name) as temporary:
            parquet.write_table(_arrow(table), temporary, compression="zstd")
    names = [SWEEP, *tables]
    replace_text(folder / SUMS, "".join(f"{sha256_of(folder / name)}  {name}\n" for name in names))
    if PEERS not in names:
        (folder / PEERS).unlink(missing_ok=True)
    return [folder / name for name in [*names, SUMS]]


def _arrow(table: pd.DataFrame) -> pa.Table:
    """Return a table in Arrow's form, the same for texts and categories that were read from a file or made here."""
    repeated = [name for name in REPEATED if name in table]
    arrow = pa.Table.from_pandas(table.astype(dict.fromkeys(repeated, str)), preserve_index=False)
    texts = [item.with_type(pa.string()) if pa.types.is_large_string(item.type) else item for item in arrow.schema]
    arrow = arrow.cast(pa.schema(texts))
    for name in repeated:
        place = arrow.schema.get_field_index(name)
        arrow = arrow.set_column(place, name, arrow[name].dictionary_encode())
    return arrow


def _tables(folder: Path) -> tuple[str, ...]:
    """Return the names of a folder's tables; only those of other methods may be missing."""
    return EPOCHS, PREDICTIONS, CRYSTALS, *([PEERS] if (folder / PEERS).exists() else [])


@functools.lru_cache(maxsize=4)
def read(folder: Path) -> Exported:
    """Read the files, whose hashes are compared.

    Raises:
        UserError: a file is missing, changed, damaged or of another version.
    """
    path = folder / SWEEP
    if not path.is_file():
        raise UserError(
            f"no recorded results in {folder}: expected {SWEEP}; write them with "
            f"`crystalframer export {folder.name} --output {folder}`"
        )
    try:
        record = pydantic.TypeAdapter(SweepRecord).validate_json(path.read_bytes())
        tables = [pd.read_parquet(folder / name) for name in _tables(folder)]
        _check_sums(folder)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        require_damage(folder, error)
        raise UserError(
            f"the recorded results in {folder} are damaged ({' '.join(str(error).split())[:200]}): restore them"
        ) from error
    if record.format != FORMAT:
        raise UserError(f"{path} has format {record.format}, this version reads {FORMAT}: export the results again")
    content = Exported(record, *tables)
    _require_parts(folder, content)
    return content


def check(folder: Path) -> str:
    """Compare every recorded error with the predictions that it was made of; `read` has compared the hashes.

    Returns:
        What was compared, in a sentence.

    Raises:
        UserError: something differs; the first difference is named.
    """
    content = read(folder)
    if others := set(content.predictions["trial"].unique()) - {trial.run_key for trial in content.record.trials}:
        raise UserError(f"{folder / PREDICTIONS} holds {min(others)}, which {SWEEP} does not: export the results again")
    for trial in content.record.trials:
        _check_trial(content, trial, folder)
    numbers = f"{len(content.record.trials)} trials from {len(content.predictions):,} predictions"
    return f"{folder}: {1 + len(_tables(folder))} hashes, and the MAE, RMSE and last epoch of {numbers} agree"


def _require_parts(folder: Path, content: Exported) -> None:
    """Raise a `UserError` where columns, metrics, epochs or predictions are missing, of which hashes say nothing."""
    tables = {EPOCHS: content.epochs, PREDICTIONS: content.predictions, CRYSTALS: content.crystals}
    for name, columns in _COLUMNS.items():
        for column in columns:
            if column not in tables[name]:
                raise UserError(f"{folder / name} has no column {column!r}: export the results again")
            if column in _NUMBERS and not pd.api.types.is_numeric_dtype(tables[name][column]):
                raise UserError(f"{folder / name}: {column!r} holds no numbers: export the results again")
    keys = [trial.run_key for trial in content.record.trials]
    if not keys or len(set(keys)) != len(keys):
        raise UserError(f"{folder / SWEEP} lists {'a trial twice' if keys else 'no trial'}: export the results again")
    trained = set(content.epochs[["trial", "metric"]].drop_duplicates().itertuples(index=False, name=None))
    for trial in content.record.trials:
        unit = unit_token(trial.unit)
        needed = {f"test/{kind}_{unit}" for kind in ("mae", "rmse", "baseline_mae")} | {"num_parameters"}
        if any(not trial.final.get(name, -1) >= 0 for name in needed) or not trial.tags.get("num_test", "").isdecimal():
            raise UserError(f"{folder / SWEEP}: {trial.run_key} lacks a final metric: export the results again")
        if any((trial.run_key, metric.format(unit=unit)) not in trained for metric in HISTORY.values()):
            raise UserError(f"{folder / EPOCHS} lacks the epochs of {trial.run_key}: export the results again")
    if lacking := set(keys) - set(content.predictions["trial"].unique()):
        raise UserError(f"{folder / PREDICTIONS} lacks the trial {min(lacking)}: export the results again")


def _check_sums(folder: Path) -> None:
    """Compare the files with their hashes: an export that was cut off leaves files of two times, each of them whole."""
    lines = (line.partition("  ") for line in (folder / SUMS).read_text(encoding="utf-8").splitlines())
    sums = {name: digest for digest, _, name in lines}
    if lost := [name for name in sums if not (folder / name).exists()]:
        raise UserError(f"{folder / lost[0]} is missing, {SUMS} names it: restore it, or export the results again")
    for name in (SWEEP, *_tables(folder)):
        if sums.get(name) != (found := sha256_of(folder / name)):
            raise UserError(
                f"{folder / name} has the SHA-256 {found[:16]}…, {SUMS} says {str(sums.get(name))[:16]}…: it was "
                "changed; restore it, or export the results again"
            )


def _check_trial(content: Exported, trial: TrialRecord, folder: Path) -> None:
    table = content.tested(trial)
    difference = (table["prediction"] - table["target"]).to_numpy(dtype=float)
    recomputed = {"mae": float(np.abs(difference).mean()), "rmse": math.sqrt(float(np.square(difference).mean()))}
    said: Mapping[str, float] = {kind: trial.test(kind) for kind in recomputed}
    steps = content.steps(trial)
    recomputed["validation MAE"] = steps[max(steps)][1][HISTORY["val_mae"].format(unit=unit_token(trial.unit))]
    recomputed["crystals"] = len(difference)
    said = {**said, "validation MAE": trial.val_mae, "crystals": float(trial.tags["num_test"])}
    for kind, value in recomputed.items():
        if not math.isclose(value, said[kind], rel_tol=1e-5, abs_tol=1e-9):
            raise UserError(
                f"{folder}: {trial.run_key} has the {kind} {said[kind]:.6g}, its predictions and epochs give "
                f"{value:.6g}; export the results again"
            )
