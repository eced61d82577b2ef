"""What a person sees first in MLflow: runs with names to read, and a table of frame, seed and error, best on top."""

import json
from collections.abc import Iterable, Mapping

from crystalframer.data.dataset import unit_token

VIEW = "overview"
"""The name of the view that each experiment of ours shares."""
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
"""The experiment's tag in which MLflow's page looks for it."""


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


def overview(units: Iterable[str]) -> str:
    """Return the state of the runs' table: which columns, and which is sorted by; charts are grouped by frame.

    Args:
        units: of the targets, e.g. eV/atom.
    """
    tokens = sorted({unit_token(unit) for unit in units if unit})
    settings = [f"params.`{name}`" for name in ("model.frame", "train.seed", "data.task")]
    errors = [f"metrics.`{split}/mae_{token}`" for token in tokens for split in ("test", "val")]
    state = {
        "selectedColumns": [*settings, *errors],
        "orderByKey": errors[0] if errors else "attributes.start_time",
        "orderByAsc": bool(errors),
        "runsHiddenMode": "SHOW_ALL",
    }
    return json.dumps(state)


def overview_page(experiment_id: str) -> str:
    """Return the path, behind MLflow's ``#/``, that opens an experiment so."""
    return f"experiments/{experiment_id}/runs?viewStateShareKey={VIEW}"
