"""The command `crystalframer import`: the files of `analysis/exported.py` -> runs in MLflow."""

import argparse
import tempfile
from pathlib import Path

from analysis.exported import Exported, check, read
from crystalframer.orchestration.tracking.experiment import MlflowExperiment
from crystalframer.runs.tracker import StepMetrics

DESCRIPTION = """\
Record exported results in MLflow, as if the trials had been trained there.

Every trial becomes a run of the experiment that is called as the sweep, with its settings, tags, metrics and test
predictions, but without the model. A trial that is there already is not recorded twice.
"""
EPILOG = """\
examples:
  crystalframer import results/mbj_frames
  crystalframer import results/mbj_frames --tracking-uri http://host:5000
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crystalframer import`."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("results", type=Path, metavar="FOLDER", help="what `crystalframer export` wrote: results/NAME")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--runs", type=Path, default=Path("runs"), help="folder of mlflow.db (default: ./runs)")
    where.add_argument("--tracking-uri", help="MLflow server or database instead")


def run(arguments: argparse.Namespace) -> int:
    """Import as the command line says; return the exit code."""
    print(check(arguments.results))
    content, uri = read(arguments.results), arguments.tracking_uri
    if uri is None:
        arguments.runs.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{(arguments.runs / 'mlflow.db').absolute()}"
    record(content, MlflowExperiment(uri, content.record.sweep))
    print(f"{len(content.record.trials)} trials recorded in the experiment {content.record.sweep} at {uri}")
    return 0


def record(content: Exported, experiment: MlflowExperiment) -> None:
    """Record every trial."""
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
    experiment.mark_current({trial.run_key for trial in content.record.trials}, content.record.description)
    if content.record.expected is not None:
        experiment.set_num_trials(content.record.expected)
