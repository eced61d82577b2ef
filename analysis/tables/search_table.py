"""The table of a hyperparameter search: its best settings, and how much each setting mattered.

    python analysis/tables/search_table.py --sweep NAME

reads what the search recorded in MLflow (``search.json``: best trials, fANOVA importances) and writes
analysis/output/<sweep>/search_table.{md,tex,html,csv}. A sweep that varies settings without being a search is
tabulated from its trials; importance is then, of a number, the squared rank correlation (Spearman) with the validation
error, and of a name the share of the variance of the errors' ranks that lies between its values: one is everything,
zero nothing; settings that act together share theirs.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.comparison import VARIES
from analysis.documents import EMPTY, Document, Table
from analysis.items import Context, Item, Product
from analysis.results import FinishedTrial, MissingError, Results
from crystalframer.statistics import Spread

NAME = "search_table"
BEST = 10
"""Trials shown."""
FEWEST = 5
"""Trials that a search has at least."""
RECORD = "search.json"
IMPORTANCES = {"final": "share, final errors", "first_rung": "share, errors of all trials at the first rung"}
NOT_SEARCHED = ("data.dataset", "data.task", "model.frame", "train.seed")


def searched(results: Results) -> list[str]:
    """Return the settings that were searched, none for a sweep that is no search.

    Without the record of a search: those that vary, if one of them has at least three values.
    """
    if (content := recorded(results)) is not None:
        return list(content["space"])
    flat = [trial.config.to_flat_dict() for trial in results.trials]
    if len(flat) < FEWEST or len({(settings["data.dataset"], settings["data.task"]) for settings in flat}) > 1:
        return []
    keys = [key for key in flat[0] if len({repr(settings[key]) for settings in flat}) > 1 and key not in NOT_SEARCHED]
    return keys if any(len({repr(settings[key]) for settings in flat}) > 2 for key in keys) else []


def build(results: Results) -> Document:
    """Return the best trials with their settings, and each setting's importance."""
    if (content := recorded(results)) is not None:
        return _build_recorded(results, content)
    keys = searched(results)
    ranked = sorted(results.trials, key=lambda trial: (trial.val_mae, trial.run_key))
    frame = pd.DataFrame([_record(trial, keys) for trial in ranked])
    unit = results.trials[0].unit
    best = Table(
        f"The {min(BEST, len(ranked))} best of {len(ranked)} finished trials",
        ["trial", f"validation MAE ({unit})", f"test MAE ({unit})", *keys],
        [
            [trial.run_key, f"{trial.val_mae:.4f}", f"{trial.test_mae:.4f}", *(_text(trial, key) for key in keys)]
            for trial in ranked[:BEST]
        ],
        ["Chosen by the validation error; the test error stands beside it for information."],
    )
    shares = sorted(((key, importance(frame[key], frame["val_mae"])) for key in keys), key=lambda entry: -entry[1])
    mattered = Table(
        "Importance",
        ["setting", "share of the errors' variance in rank", "values", "of the best trial"],
        [[key, f"{share:.2f}", str(frame[key].nunique()), _text(ranked[0], key)] for key, share in shares],
    )
    return Document(f"{results.sweep}: search", [best, mattered], remarks=results.left_out, records=frame)


def recorded(results: Results) -> dict[str, Any] | None:
    """Return what a search wrote down, None for a sweep that is no search."""
    path = results.search.find(RECORD) if results.search else None
    return None if path is None else json.loads(path.read_text(encoding="utf-8"))


def _build_recorded(results: Results, content: dict[str, Any]) -> Document:
    keys, unit = list(content["space"]), content["unit"]
    fates = pd.Series([entry["fate"] for entry in content["history"]]).value_counts().sort_index()
    epochs = content["epochs"]
    notes = [
        f"{content['method']}, {content['task']}: {len(content['history'])} trials "
        f"({', '.join(f'{number} {fate}' for fate, number in fates.items())}), {epochs['used']} epochs instead of "
        f"{epochs['without_early_stopping']} without early stopping.",
        "Chosen by the validation error; confirmed: other seeds with the same settings, mean ± standard deviation.",
    ]
    headings = [
        "trial",
        "fate",
        f"validation MAE ({unit})",
        f"test MAE ({unit})",
        f"confirmed test MAE ({unit})",
        *keys,
    ]
    best = Table(
        f"The best of {len(content['history'])} trials",
        headings,
        [
            [
                entry["trial"],
                entry["fate"],
                _error(entry["val_mae"]),
                _error(entry["test_mae"]),
                str(Spread.of(one["test_mae"] for one in entry["confirmed"])) if entry["confirmed"] else EMPTY,
                *(_number(entry["values"].get(key)) for key in keys),
            ]
            for entry in content["best"]
        ],
        notes,
    )
    shares = content["importance"]
    columns = {kind: heading for kind, heading in IMPORTANCES.items() if kind in shares}
    order = sorted(keys, key=lambda key: -shares["final"].get(key, 0.0))
    mattered = Table(
        "Importance",
        ["setting", *columns.values(), "searched", "default", "of the best trial"],
        [
            [
                key,
                *(_number(shares[kind].get(key)) for kind in columns),
                _range(content["space"][key]),
                _number(content["default"].get(key)),
                _number(content["best"][0]["values"].get(key)) if content["best"] else EMPTY,
            ]
            for key in order
        ],
        ["fANOVA: the share of the errors' variance that a setting explains."],
    )
    history = [
        {**{key: entry[key] for key in ("number", "trial", "fate", "epochs", "val_mae", "test_mae")}, **entry["values"]}
        for entry in content["history"]
    ]
    return Document(f"{results.sweep}: search", [best, mattered], records=pd.DataFrame(history))


def importance(setting: "pd.Series[Any]", error: "pd.Series[float]") -> float:
    """Return the share of the variance of the errors' ranks that a setting explains by itself, 0 to 1."""
    ranks = stats.rankdata(error)
    if np.ptp(ranks) == 0 or setting.nunique() < 2:
        return 0.0
    if pd.api.types.is_numeric_dtype(setting):
        return float(stats.spearmanr(setting, error).statistic ** 2)
    means = pd.Series(ranks).groupby(setting.astype(str).to_numpy()).transform("mean")
    return float(means.var(ddof=0) / ranks.var())


def _record(trial: FinishedTrial, keys: Sequence[str]) -> dict[str, object]:
    flat = trial.config.to_flat_dict()
    names = {"trial": trial.run_key, "val_mae": trial.val_mae, "test_mae": trial.test_mae}
    return {**names, **{key: flat[key] for key in keys}}


def _error(value: float | None) -> str:
    return EMPTY if value is None else f"{value:.4f}"


def _number(value: Any) -> str:
    return EMPTY if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _range(where: dict[str, Any]) -> str:
    ((kind, values),) = where.items()
    shown = ", ".join(map(_number, values)) if kind == "choice" else " to ".join(map(_number, values))
    return f"{shown} ({kind})"


def _text(trial: FinishedTrial, key: str) -> str:
    value = trial.config.to_flat_dict().get(key, VARIES)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def produce(context: Context) -> Product:
    """Make the table of a hyperparameter search."""
    if not searched(context.results):
        raise MissingError(
            f"{context.sweep} is no hyperparameter search",
            "crystalframer search && crystalframer figures --sweep hpo_sample",
        )
    return context.table(build(context.results), NAME)


ITEM = Item("search", "Hyperparameter search", "Best settings and how much each mattered.", "details", produce)


if __name__ == "__main__":
    raise SystemExit(ITEM.main())
