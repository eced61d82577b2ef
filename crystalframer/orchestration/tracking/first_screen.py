"""What a person sees first in MLflow: runs with names to read, and a table of frame, seed and error, best on top.

Names of tags and of a page's state are those of MLflow 3.17's page; tests/orchestration/tracking/test_first_screen.py
looks at it in a browser.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from crystalframer.data.dataset import unit_token

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

VIEW = "overview"
"""The name of the view that each experiment of ours shares."""
CHARTS = "charts"
"""The name of the one that shows charts."""
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
"""The experiment's tag in which MLflow's page looks for it."""
CHARTS_TAG = f"mlflow.sharedViewState.{CHARTS}"
"""The tag of the charts' view."""
EPOCH_TAG = "epoch"
"""The tag that says how far a run is, since a table of MLflow's shows no step of a metric."""
ERROR_TAG = "test MAE"
"""The tag that says a run's error: what MLflow shows of a metric has all its digits, and is cut."""
UNIT_TAG = "unit"
"""The tag of its unit, a column of its own: MLflow's columns are 100 pixels wide, too few for both."""

_MOST_SETTINGS = 5
"""Columns of settings beside frame, seed and task; a wide window has room for so many and the errors."""


def standing_tags(step: int, values: Mapping[str, float]) -> dict[str, str]:
    """Return those tags as they are after a step that measured `values`."""
    errors = [value for name, value in values.items() if name.startswith("test/mae_")]
    return {EPOCH_TAG: str(step)} | ({ERROR_TAG: f"{errors[0]:.4g}"} if errors else {})


def run_title(key: str, params: Mapping[str, object]) -> str:
    """Return a trial's name for people, such as ``max · seed 0``; other runs have their key.

    Args:
        key: of the run, e.g. ``formation_energy-max-sigma_0.1-seed0-1a2b3c4d``.
        params: its settings by dotted name.
    """
    task, frame, seed = (str(params.get(name)) for name in ("data.task", "model.frame", "train.seed"))
    before, found, after = key.partition(f"{task.replace(',', '+')}-{frame}-")
    varied, seeded, _ = after.rpartition(f"seed{seed}-")
    if not found or not seeded:
        return key
    return " · ".join([*filter(None, (before.strip("-"), frame, varied.strip("-"))), f"seed {seed}"])


def source_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags in which MLflow's page looks for the program that made a run, and its commit."""
    commit = tags.get("git_commit", "unknown").removesuffix("-dirty")
    known = {} if commit == "unknown" else {"mlflow.source.git.commit": commit}
    return {"mlflow.source.name": "crystalframer", "mlflow.source.type": "PROJECT", **known}


def dataset_of(params: Mapping[str, object], tags: Mapping[str, str]) -> "DatasetInput | None":
    """Return what a run learned from, as MLflow's page shows data sets; None of a run that learned nothing.

    Args:
        params: its settings by dotted name.
        tags: its data's fingerprint and number of crystals by split.
    """
    if "dataset_fingerprint" not in tags:
        return None
    from mlflow.entities import Dataset, DatasetInput, InputTag

    name, tasks, digest = str(params.get("data.dataset")), str(params.get("data.task")), tags["dataset_fingerprint"]
    columns = [{"name": "structure", "type": "string", "required": True}]
    columns += [
        {"name": f"{task} ({tags.get('unit')})", "type": "double", "required": True} for task in tasks.split(",")
    ]
    sizes = {f"num_{split}": int(tags[key]) for split in ("train", "val", "test") if (key := f"num_{split}") in tags}
    dataset = Dataset(
        name,
        digest[:36],  # more MLflow does not keep
        source_type="crystalframer",
        source=json.dumps({"dataset": name}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps(sizes),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def overview(targets: Mapping[str, str], varied: Sequence[str] = ()) -> str:
    """Return the state of the runs' table: which columns, and which is sorted by.

    Args:
        targets: the unit of each task, e.g. eV/atom; more than one have a column.
        varied: settings by dotted name in which the trials differ; the first of them have a column.
    """
    tokens = sorted({unit_token(unit) for unit in targets.values() if unit})
    named = ["model.frame", "train.seed", *(("data.task",) * (len(targets) > 1))]
    others = [name for name in varied if name not in (*named, "data.task")]
    settings = [f"params.`{name}`" for name in (*named, *others[:_MOST_SETTINGS])]
    errors = [f"metrics.`test/mae_{token}`" for token in tokens]
    state = {
        "selectedColumns": [*settings, *(f"tags.`{tag}`" for tag in (ERROR_TAG, UNIT_TAG, EPOCH_TAG))],
        "orderByKey": errors[0] if errors else "attributes.start_time",
        "orderByAsc": bool(errors),
        "runsHiddenMode": "SHOW_ALL",
    }
    return json.dumps(state)


def charts(targets: Mapping[str, str], varied: Sequence[str] = ()) -> str:
    """Return the state of the runs' charts: a line a frame, the mean of its seeds."""
    group = {"aggregateFunction": "average", "groupByKeys": [{"mode": "param", "groupByData": "model.frame"}]}
    return json.dumps({**json.loads(overview(targets, varied)), "groupBy": group})


def overview_page(experiment_id: str) -> str:
    """Return the path, behind MLflow's ``#/``, that opens an experiment so."""
    return f"experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def charts_page(experiment_id: str) -> str:
    """Return the path of its charts."""
    return overview_page(experiment_id).replace(VIEW, CHARTS) + "&compareRunsMode=CHART"
