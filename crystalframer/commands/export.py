"""Keep a sweep's results as small files, which need neither MLflow nor checkpoints."""

import argparse
from pathlib import Path

from crystalframer.beside import load

DESCRIPTION = """\
Write a sweep's finished trials as small files that need no MLflow and no checkpoint: results to commit.

The run directories in runs/NAME are read, or those given with --from, and the sweep's file: a finished trial counts if
the file asks for its settings, wherever it was trained; without a file every finished trial counts.
`crystalframer files analysis.md` copies the page that says more.
"""
EPILOG = """\
examples:
  crystalframer export ablation_sample --output results/ablation_sample
  crystalframer export mbj_frames --output results/mbj_frames --from runs/single/mbj-*
  crystalframer export mbj_frames --output results/mbj_frames --from other/runs/mbj_frames/* --add
  crystalframer export mbj_frames --output results/mbj_frames --peers coGN=coGN.csv.zip ALIGNN=alignn.csv --trees
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crystalframer export`."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("name", metavar="NAME", help="the sweep")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where to write: results/NAME")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="runs folder (default: ./runs)")
    parser.add_argument(
        "--from", type=Path, nargs="+", dest="folders", metavar="DIR", help="run directories instead of runs/NAME/*"
    )
    parser.add_argument("--sweep", type=Path, metavar="FILE", help="the sweep's file (default: sweeps/NAME.yaml)")
    parser.add_argument(
        "--add",
        action="store_true",
        help="keep the trials and the other methods that are recorded in FOLDER already; run directories of the same "
        "settings replace them",
    )
    parser.add_argument(
        "--peers",
        nargs="+",
        default=[],
        metavar="[NAME=]FILE",
        help="other methods' predictions to record beside ours: tables of id, prediction",
    )
    parser.add_argument(
        "--trees",
        action="store_true",
        help="record boosted trees on the composition among them, fitted here to the same training crystals",
    )
    parser.add_argument("--cores", type=int, metavar="N", help="threads of trials that did not record theirs")


def run(arguments: argparse.Namespace) -> int:
    """Export as the command line says; return the exit code."""
    code: int = load("analysis.exporting").run(arguments)
    return code
