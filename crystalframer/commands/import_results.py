"""Record exported results in MLflow: the command is `import`, which no module can be called."""

import argparse
from pathlib import Path

from crystalframer.beside import load

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
    code: int = load("analysis.importing").run(arguments)
    return code
