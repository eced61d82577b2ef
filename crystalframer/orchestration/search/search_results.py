"""What a search found, for people and for the analysis: ``search.json`` and ``search_history.csv`` in its folder."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crystalframer.atomic_files import replace_text
from crystalframer.orchestration.search.recorded import SearchTrial, other_search
from crystalframer.orchestration.search.search_spec import Range, Search
from crystalframer.orchestration.search.study import importances
from crystalframer.orchestration.sweeps.driver import Driver
from crystalframer.runs.json_files import read_json
from crystalframer.statistics import Spread

RESULTS = "search.json"
HISTORY = "search_history.csv"
SHOWN = 10
"""Best trials in the results."""


def best_first(spec: Search, trials: Sequence[SearchTrial]) -> list[SearchTrial]:
    """Return the trials of a search that ended, best first.

    Finished ones lead, in the order of their errors; of several objectives those that no other one beats in all come
    first. Those that were stopped early follow: the later they were, the better they had been.
    """
    done = [trial for trial in trials if trial.status.standing == "done"]
    early = [trial for trial in trials if trial.status.standing == "stopped early" and trial.epochs]
    front = {trial.name for trial in pareto_front(spec, done)} if len(spec.objectives) > 1 else set()
    ranked = sorted(done, key=lambda trial: (trial.name not in front, trial.objectives(spec), trial.number))
    return [*ranked, *sorted(early, key=lambda trial: (-trial.epochs, trial.status.val_mae, trial.number))]


def pareto_front(spec: Search, done: Sequence[SearchTrial]) -> list[SearchTrial]:
    """Return the trials that no other one equals or beats in every objective and beats in one."""
    values = {trial.name: trial.objectives(spec) for trial in done}

    def beaten(one: SearchTrial) -> bool:
        mine = values[one.name]
        return any(all(a <= b for a, b in zip(other, mine, strict=True)) and other != mine for other in values.values())

    return [trial for trial in done if not beaten(trial)]


def write_results(spec: Search, trials: Sequence[SearchTrial], driver: Driver) -> dict[str, Any]:
    """Write both files, unless they say so already, and return what the first one holds."""
    trials = sorted(trials, key=lambda trial: trial.number)
    ranked = best_first(spec, trials)
    done = [trial for trial in trials if trial.status.standing == "done"]
    content: dict[str, Any] = {
        "name": spec.name,
        "question": spec.question,
        **_identity(spec),
        "task": f"{spec.default.data.dataset} {spec.default.data.task}",
        "unit": next((status.unit for status in driver.statuses.values()), ""),
        "default": {key: spec.default.to_flat_dict()[key] for key in spec.space},
        "epochs": {
            "each": spec.default.train.epochs,
            "used": sum(trial.epochs for trial in trials),
            "without_early_stopping": spec.default.train.epochs * len(trials),
        },
        "best": [_best(trial, spec, driver) for trial in ranked[:SHOWN]],
        "pareto_front": [trial.name for trial in pareto_front(spec, done)] if len(spec.objectives) > 1 else [],
        "importance": _importance(spec, trials),
        "history": [_entry(trial) for trial in trials],
    }
    texts = json.dumps(content, indent=1), _history_csv(spec, content["history"])
    for path, text in zip(result_files(driver.folder), texts, strict=True):
        if not path.exists() or path.read_bytes() != text.encode():
            replace_text(path, text)
    return content


def is_recorded(spec: Search, folder: Path) -> bool:
    """Return whether the results in a folder say of a search what its file says.

    Raises:
        UserError: they do not, and trials were run: these would be mixed with trials of another search.
    """
    path = folder / RESULTS
    recorded = read_json(path, dict[str, Any]) or {}
    differing = [
        (key, recorded[key], now)
        for key, now in json.loads(json.dumps(_identity(spec))).items()
        if recorded.get(key, now) != now  # version 0.1 did not record all of them
    ]
    if not differing or not any(folder.glob("[tg]*/config.json")):
        return bool(recorded) and not differing
    key, was, now = differing[0]
    if isinstance(was, dict) and isinstance(now, dict):
        inner = next(inner for inner in {**was, **now} if was.get(inner) != now.get(inner))
        key, was, now = f"{key}.{inner}", was.get(inner), now.get(inner)
    raise other_search(path, f"was recorded with {key} {json.dumps(was)}, the file now has {json.dumps(now)}")


def _identity(spec: Search) -> dict[str, Any]:
    """Return what trials of one search have in common, beside their settings."""
    population = {"population": asdict(spec.population)} if spec.method == "pbt" else {}
    return {
        "method": spec.method,
        "objectives": list(spec.objectives),
        "space": {key: _range(where) for key, where in spec.space.items()},
        "seed": spec.seed,
        **population,
    }


def result_files(folder: Path) -> list[Path]:
    """Return the files that `write_results` wrote."""
    return [folder / RESULTS, folder / HISTORY]


def _importance(spec: Search, trials: Sequence[SearchTrial]) -> dict[str, dict[str, float]]:
    """Return fANOVA's shares, of the final errors and of those that all trials reached: the first rung's."""
    done = [trial for trial in trials if trial.status.standing == "done"]
    found = {"final": importances(spec, done, spec.default.train.epochs)}
    if spec.early_stopping is not None:
        found["first_rung"] = importances(spec, trials, spec.early_stopping.min_epochs)
    return found


def _best(trial: SearchTrial, spec: Search, driver: Driver) -> dict[str, Any]:
    """Return what is said of one of the best: also its errors with the seeds that confirm, none with pbt."""
    names = {other.config.fingerprint(): name for name, other in driver.trials.items()}
    confirmed = []
    for seed in spec.confirm.seeds:
        name = names.get(spec.config({**trial.values, "train.seed": seed}).fingerprint())
        result = None if name is None else driver.directory(name).result()
        if result is not None:
            confirmed.append({"seed": seed, "val_mae": result["val_mae"], "test_mae": result["test_mae"]})
    means = {
        f"confirmed_{key}": asdict(Spread.of(entry[key] for entry in confirmed))
        for key in ("val_mae", "test_mae")
        if confirmed
    }
    return {**_entry(trial), "confirmed": confirmed, **means}


def _entry(trial: SearchTrial) -> dict[str, Any]:
    status = trial.status
    return {
        "trial": trial.name,
        "number": trial.number,
        "fate": status.standing,
        "epochs": trial.epochs,
        "val_mae": status.val_mae,
        "test_mae": status.test_mae,
        "seconds_per_epoch": status.seconds_per_epoch,
        "num_parameters": status.num_parameters,
        "started": status.started,
        "values": dict(trial.values),
        "val_mae_by_epoch": {str(epoch): error for epoch, error in status.val_maes.items()},
    }


def _history_csv(spec: Search, history: Sequence[Mapping[str, Any]]) -> str:
    columns = ["number", "trial", "fate", "epochs", "val_mae", "test_mae", "seconds_per_epoch", "num_parameters"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *spec.space])
    for entry in history:
        cells = [entry[column] for column in columns] + [entry["values"].get(key) for key in spec.space]
        writer.writerow("" if cell is None else cell for cell in cells)
    return text.getvalue()


def _range(where: Range) -> dict[str, Any]:
    if where.kind == "choice":
        return {"choice": list(where.options)}
    return {where.kind: [where.low, where.high]}
