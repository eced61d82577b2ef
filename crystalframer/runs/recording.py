"""What a trial records: its metrics under the names that the analysis reads, and the files it leaves in a tracker."""

import functools
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from crystalframer.config import TrialConfig
from crystalframer.data.dataset import TaskData, unit_token
from crystalframer.runs.run_directory import RunDirectory
from crystalframer.runs.tracker import StepMetrics, Tracker

if TYPE_CHECKING:  # it imports torch, which the driver does without
    from crystalframer.training.metrics import EpochResult, Evaluation


def record_finished(tracker: Tracker, name: str, config: TrialConfig, directory: RunDirectory) -> None:
    """Record a finished trial in a tracker that may lack it, from its run directory alone."""
    result = directory.result()
    assert result is not None, "the trial is done"
    tracker.start(name, config.to_flat_dict(), result["tags"], directory.records())
    conclude_tracking(tracker, directory, StepMetrics(**result["final"]))


def conclude_tracking(tracker: Tracker, directory: RunDirectory, final: StepMetrics) -> None:
    """Record the final metrics and the artifacts, and close the run."""
    tracker.log_metrics([final])
    tracker.log_artifact(directory.checkpoint, "model")
    for snapshot in directory.snapshots():
        tracker.log_artifact(snapshot, "model/snapshots")
    tracker.log_artifact(directory.config_yaml, "")
    tracker.log_artifact(directory.predictions, "predictions")
    if (card := directory.checkpoint.with_name("model_card.md")).exists():
        tracker.log_artifact(card, "")
    tracker.finish("FINISHED")


def epoch_metrics(epoch: "EpochResult", data: TaskData) -> dict[str, float]:
    """Return one epoch's metrics."""
    token = unit_token(data.unit)
    return {
        "train/loss": epoch.train_loss,
        f"train/mae_{token}": epoch.train_mae,
        f"val/mae_{token}": epoch.val_mae,
        f"val/rmse_{token}": epoch.val_rmse,
        "learning_rate": epoch.learning_rate,
        "seconds_per_epoch": epoch.seconds,
        "averaged": float(epoch.averaged),
        **_by_task("val/{}/mae", epoch.val_mae_by_task, data),
        **_by_task("val/{}/rmse", epoch.val_rmse_by_task, data),
    }


def final_metrics(test: "Evaluation", data: TaskData) -> dict[str, float]:
    """Return a finished trial's errors on the test set."""
    token = unit_token(data.unit)
    values = {
        f"test/mae_{token}": test.mae,
        f"test/rmse_{token}": test.rmse,
        f"test/baseline_mae_{token}": test.baseline_mae,
    }
    if len(test.by_task) > 1:
        for kind in ("mae", "rmse", "baseline_mae"):
            values |= _by_task(f"test/{{}}/{kind}", {each.task: getattr(each, kind) for each in test.by_task}, data)
    return values


def _by_task(name: str, values: Mapping[str, float], data: TaskData) -> dict[str, float]:
    """Return metrics of single tasks, e.g. ``val/bandgap/mae_eV`` for the name ``val/{}/mae``."""
    units = dict(zip(data.tasks, data.units, strict=True))
    return {f"{name.format(task)}_{unit_token(units[task])}": value for task, value in values.items()}


@functools.cache
def git_commit() -> str:
    """Return the commit of the checkout that runs, ``-dirty`` if it was edited; "unknown" outside a checkout."""
    root = Path(__file__).absolute().parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"
