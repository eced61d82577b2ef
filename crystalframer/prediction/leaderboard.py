"""A submission to the JARVIS leaderboard, for a model that learned from a whole published split and was tested on it.

The leaderboard wants a zipped CSV with one row for each different id of the test split, metadata, and the commands that
made it. It joins the rows by id and counts them, so that a part of the split would be an error there; here it is a
sentence.
"""

import csv
import io
import json
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from crystalframer import __version__
from crystalframer.atomic_files import replace_text, replacing
from crystalframer.config import TrialConfig
from crystalframer.data.dataset import TaskData
from crystalframer.data.registry import subset_of
from crystalframer.prediction.evaluation import TargetEvaluation
from crystalframer.published import PUBLISHED
from crystalframer.training.trained_model import TrainedModel


def submit(
    folder: Path, members: Sequence[TrainedModel], data: TaskData, evaluations: Sequence[TargetEvaluation]
) -> list[str]:
    """Write the submission of each target that has a place on the leaderboard, and say what came of it.

    Args:
        folder: where.
        members: the model, or the models of an ensemble.
        data: what they were evaluated on.
        evaluations: by target; those of other splits than the test split have no place there.

    Returns:
        A sentence for each target that has one: where the submission is, or why there is none.

    Raises:
        OSError: a file cannot be written.
    """
    said = []
    for evaluation in evaluations:
        name, task = _published(data.dataset.name, evaluation.name)
        published = PUBLISHED.get(name)
        if evaluation.split != "test" or published is None or not published.leaderboard or task not in published.fields:
            continue
        if reason := _why_not(name, task, members, data, evaluation):
            said.append(f"no submission to the JARVIS leaderboard: {reason}")
            continue
        write_submission(folder, published.fields[task], published.leaderboard, evaluation, members[0].trial)
        said.append(f"for the JARVIS leaderboard, when metadata.json is filled in: {folder}")
    return said


def write_submission(
    folder: Path, quantity: str, dataset: str, evaluation: TargetEvaluation, trial: TrialConfig
) -> list[Path]:
    """Write predictions, metadata and commands, and return the files.

    An id that stands in the split again (as ``#2``) has one row, as in the leaderboard's own list.

    Args:
        folder: where.
        quantity: the leaderboard's name of the property, e.g. formation_energy_peratom.
        dataset: its name of the data set, e.g. dft_3d.
        evaluation: of the test split.
        trial: settings of the training.
    """
    name = f"AI-SinglePropertyPrediction-{quantity}-{dataset}-test-mae.csv"
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", "target", "prediction"])
    rows = zip(evaluation.ids, evaluation.targets.tolist(), evaluation.predictions.tolist(), strict=True)
    table.writerows([label, repr(target), f"{value:.9g}"] for label, target, value in rows if not _repeats(label))
    with replacing(folder / f"{name}.zip") as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), text.getvalue(), zipfile.ZIP_DEFLATED)
    metadata = {
        "model_name": "crystalframer",
        "project_url": "",
        "date_submitted": datetime.now(UTC).strftime("%m-%d-%Y"),
        "author_email": "",
        "database_version": "",
        "team_name": "",
        "time_taken_seconds": "",
        "language": "python",
        "os": "",
        "software_used": f"crystalframer {__version__}, torch",
        "hardware_used": "",
        "git_url": [""],
    }
    replace_text(folder / "metadata.json", json.dumps(metadata, indent=4) + "\n")
    replace_text(folder / "run.sh", _commands(trial))
    return [folder / f"{name}.zip", folder / "metadata.json", folder / "run.sh"]


def _published(dataset: str, task: str) -> tuple[str, str]:
    """Return which published data set and task this is, or a part of; the names themselves where neither is known."""
    name, _, part = subset_of(dataset).get(task, f"{dataset}:{task}").partition(":")
    return name, part


def _why_not(
    name: str, task: str, members: Sequence[TrainedModel], data: TaskData, evaluation: TargetEvaluation
) -> str:
    """Return why the predictions are none for the leaderboard, empty where they are."""
    if any(member.data_fingerprint != data.fingerprint for member in members):
        return "the model learned from other data than these"
    known = PUBLISHED[name].tasks[task]
    train, test = len(data.rows["train"]), sum(not _repeats(label) for label in evaluation.ids)
    if train == known.counts[0] and test == (known.different or known.counts[2]):
        return ""
    return f"it takes whole splits; here are {known.coverage(train, test)} of {name}:{task}"


def _repeats(label: str) -> bool:
    """Return whether an id is marked as one that occurred before, ``JVASP-1#2``."""
    return "#" in label


def _commands(trial: TrialConfig) -> str:
    """Return the commands that prepare the data, train and evaluate."""
    usual = TrialConfig().to_flat_dict()
    settings = [f"{key}={value}" for key, value in trial.to_flat_dict().items() if value != usual[key]]
    options = "".join(f" \\\n    --set {setting}" for setting in settings)
    return (
        "#!/bin/sh\nset -e\n"
        f"# crystalframer {__version__}\n"
        f"crystalframer prepare {trial.data.dataset}\n"
        f"crystalframer train --out run{options}\n"
        "crystalframer evaluate run\n"
    )
