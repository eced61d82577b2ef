"""The command `crystalframer import`: the files of `analysis/exported.py` -> runs in MLflow."""

import argparse
import tempfile
from pathlib import Path

from analysis.exported import Exported, check, read
from crystalframer.errors import UserError
from crystalframer.orchestration.tracking.addresses import tracking_address
from crystalframer.orchestration.tracking.client import is_away
from crystalframer.orchestration.tracking.experiment import MlflowExperiment
from crystalframer.orchestration.tracking.server import mlflow_of
from crystalframer.runs.tracker import StepMetrics


def run(arguments: argparse.Namespace) -> int:
    """Import as the command line says; return the exit code."""
    print(check(arguments.results))
    content = read(arguments.results)
    uri = tracking_address(arguments.tracking_uri) if arguments.tracking_uri else None
    where = uri or arguments.runs / "mlflow.db"
    with mlflow_of(arguments.runs, uri) as tracking:
        try:
            record(content, tracking.experiment(content.record.sweep))
        except Exception as error:  # re-raised unless the server is away
            if not is_away(error):
                raise
            raise UserError(
                f"the MLflow server at {where} went away before all {len(content.record.trials)} trials were recorded: "
                "when it is there again, run the same command, which resumes"
            ) from error
    print(f"{len(content.record.trials)} trials recorded in the experiment {content.record.sweep} at {where}")
    return 0


def record(content: Exported, experiment: MlflowExperiment) -> None:
    """Record every trial; until all are recorded, the experiment says how many it lacks."""
    _describe(content, experiment)
    for trial in content.record.trials:
        tracker = experiment.tracker()
        tracker.start(trial.run_key, trial.config.to_flat_dict(), {**trial.tags, "sweep": content.record.sweep})
        tracker.log_metrics(StepMetrics(step, *found) for step, found in sorted(content.steps(trial).items()))
        tracker.log_metrics([StepMetrics(trial.step, trial.time_ms, trial.final)])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "test.csv"
            content.tested(trial).to_csv(path)
            tracker.log_artifact(path, "predictions")
        tracker.finish("FINISHED")
    _describe(content, experiment)


def _describe(content: Exported, experiment: MlflowExperiment) -> None:
    trials = content.record.trials
    targets = {trial.config.data.task: trial.unit for trial in trials}
    frames = {trial.config.model.frame for trial in trials}
    experiment.mark_current({trial.run_key for trial in trials}, content.record.description, targets, frames)
    if content.record.expected is not None:
        experiment.set_num_trials(content.record.expected)
