"""What a search found, for people and for the analysis: ``search.json`` and ``search_history.csv`` in its folder."""

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crystalframer.atomic_files import replace_text
from crystalframer.config import TrialConfig
from crystalframer.orchestration.search.search_spec import Search
from crystalframer.orchestration.search.study import Asked, Study, importances
from crystalframer.orchestration.sweeps.driver import Driver
from crystalframer.runs.run_directory import TrialResult

RESULTS = "search.json"
HISTORY = "search_history.csv"
SHOWN = 10
"""Best trials in the results."""


@dataclass(frozen=True)
class Tried:
    """A trial of a search, as its run directory tells."""

    number: int
    name: str
    values: Mapping[str, Any]
    fate: str
    epochs: int
    """Epochs done."""
    val_maes: Mapping[int, float]
    """By epoch."""
    test_mae: float | None
    seconds_per_epoch: float | None
    num_parameters: int | None
    started: float
    """When the first epoch ended, in seconds since 1970; 0 for never."""

    @property
    def val_mae(self) -> float | None:
        """The last epoch's."""
        return self.val_maes[max(self.val_maes)] if self.val_maes else None

    def objectives(self, spec: Search) -> list[float]:
        """Return what a finished trial comes to."""
        found = {
            "val_mae": self.val_mae,
            "seconds_per_epoch": self.seconds_per_epoch,
            "num_parameters": self.num_parameters,
        }
        return [float(found[name] or 0.0) for name in spec.objectives]


def read_tried(asked: Asked, driver: Driver) -> Tried:
    """Return what became of a trial."""
    directory = driver.directory(asked.name)
    records, result = directory.records(), directory.result()
    errors = {
        record.step: next(value for key, value in record.values.items() if key.startswith("val/mae_"))
        for record in records
    }
    state = directory.state()
    if result is not None:
        fate = "done"
    elif directory.stopped_early() is not None:
        fate = "stopped early"
    else:
        fate = "not started" if state is None else ("failed" if state.state == "failed" else "interrupted")
    return Tried(
        number=asked.number,
        name=asked.name,
        values=asked.values,
        fate=fate,
        epochs=max(errors, default=0),
        val_maes=errors,
        test_mae=None if result is None else result["test_mae"],
        seconds_per_epoch=statistics.median(r.values["seconds_per_epoch"] for r in records) if records else None,
        num_parameters=None if result is None else int(result["final"]["values"]["num_parameters"]),
        started=records[0].time_ms / 1000 if records else 0.0,
    )


def best_first(spec: Search, driver: Driver, study: Study) -> list[Asked]:
    """Return the trials of a search, best first.

    Finished ones lead, in the order of their errors; of several objectives those that no other one beats in all come
    first. Those that were stopped early follow: the later they were, the better they had been.
    """
    asked = {one.name: one for one in study.trials() if one.name}
    tried_all = [read_tried(one, driver) for one in asked.values()]
    done = [tried for tried in tried_all if tried.fate == "done"]
    early = [tried for tried in tried_all if tried.fate == "stopped early" and tried.val_mae is not None]
    front = {tried.name for tried in pareto_front(spec, done)} if len(spec.objectives) > 1 else set()
    ranked = sorted(done, key=lambda tried: (tried.name not in front, tried.objectives(spec), tried.number))
    early.sort(key=lambda tried: (-tried.epochs, tried.val_mae, tried.number))
    return [asked[tried.name] for tried in (*ranked, *early)]


def pareto_front(spec: Search, done: Sequence[Tried]) -> list[Tried]:
    """Return the trials that no other one equals or beats in every objective and beats in one."""
    values = {tried.name: tried.objectives(spec) for tried in done}

    def beaten(one: Tried) -> bool:
        mine = values[one.name]
        return any(all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine for other in values.values())

    return [tried for tried in done if not beaten(tried)]


def write_results(spec: Search, study: Study, driver: Driver) -> dict[str, Any]:
    """Write both files and return what the first one holds."""
    tried = [read_tried(asked, driver) for asked in study.trials() if asked.name]
    ranked = [read_tried(asked, driver) for asked in best_first(spec, driver, study)]
    done = [one for one in ranked if one.fate == "done"]
    trial = next(iter(driver.trials.values()), None)
    content: dict[str, Any] = {
        "name": spec.name,
        "question": spec.question,
        "method": spec.method,
        "objectives": list(spec.objectives),
        "task": f"{spec.default.data.dataset} {spec.default.data.task}",
        "unit": "" if trial is None else driver.statuses[trial.name].unit,
        "space": {key: _range(where) for key, where in spec.space.items()},
        "default": {key: spec.default.to_flat_dict()[key] for key in spec.space},
        "epochs": {
            "each": spec.default.train.epochs,
            "used": sum(one.epochs for one in tried),
            "without_early_stopping": spec.default.train.epochs * len(tried),
        },
        "best": [_best(one, spec, driver) for one in ranked[:SHOWN]],
        "pareto_front": [one.name for one in pareto_front(spec, done)] if len(spec.objectives) > 1 else [],
        "importance": _importance(spec, tried),
        "history": [_entry(one) for one in tried],
    }
    driver.folder.mkdir(parents=True, exist_ok=True)
    replace_text(driver.folder / RESULTS, json.dumps(content, indent=1))
    replace_text(driver.folder / HISTORY, _history_csv(spec, tried))
    return content


def result_files(folder: Path) -> list[Path]:
    """Return the files that `write_results` wrote."""
    return [folder / RESULTS, folder / HISTORY]


def _importance(spec: Search, tried: Sequence[Tried]) -> dict[str, dict[str, float]]:
    """Return fANOVA's shares, of the final errors and of those that all trials reached: the first rung's."""
    final = [(one.values, one.val_mae) for one in tried if one.fate == "done" and one.val_mae is not None]
    found = {"final": importances(spec, final)}
    if spec.early_stopping is not None:
        rung = spec.early_stopping.min_epochs
        found["first_rung"] = importances(
            spec, [(one.values, one.val_maes[rung]) for one in tried if rung in one.val_maes]
        )
    return found


def _best(one: Tried, spec: Search, driver: Driver) -> dict[str, Any]:
    confirmed = []
    for seed in spec.confirm.seeds:
        if spec.method == "pbt":
            break
        config = spec.config({**one.values, "train.seed": seed})
        result = _result_of(config, driver)
        if result is not None:
            confirmed.append({"seed": seed, "val_mae": result["val_mae"], "test_mae": result["test_mae"]})
    means = {
        f"confirmed_{key}": {
            "mean": statistics.fmean(entry[key] for entry in confirmed),
            "std": statistics.stdev(entry[key] for entry in confirmed) if len(confirmed) > 1 else None,
        }
        for key in ("val_mae", "test_mae")
        if confirmed
    }
    return {**_entry(one), "confirmed": confirmed, **means}


def _result_of(config: TrialConfig, driver: Driver) -> TrialResult | None:
    """Return the result of a finished trial with these settings, whatever its name."""
    wanted = config.fingerprint()
    for name, trial in driver.trials.items():
        if trial.config.fingerprint() == wanted and (result := driver.directory(name).result()) is not None:
            return result
    return None


def _entry(one: Tried) -> dict[str, Any]:
    return {
        "trial": one.name,
        "number": one.number,
        "fate": one.fate,
        "epochs": one.epochs,
        "val_mae": one.val_mae,
        "test_mae": one.test_mae,
        "seconds_per_epoch": one.seconds_per_epoch,
        "num_parameters": one.num_parameters,
        "started": one.started,
        "values": dict(one.values),
        "val_mae_by_epoch": {str(epoch): error for epoch, error in one.val_maes.items()},
    }


def _history_csv(spec: Search, tried: Sequence[Tried]) -> str:
    columns = ["number", "trial", "fate", "epochs", "val_mae", "test_mae", "seconds_per_epoch", "num_parameters"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *spec.space])
    for one in tried:
        entry = _entry(one)
        cells = [entry[column] for column in columns] + [one.values.get(key) for key in spec.space]
        writer.writerow("" if cell is None else cell for cell in cells)
    return text.getvalue()


def _range(where: Any) -> dict[str, Any]:
    if where.kind == "choice":
        return {"choice": list(where.options)}
    return {where.kind: [where.low, where.high]}
