"""The console script `crystalframer`: what is installed, which data are at hand, and the MLflow page of a runs folder.

Training and sweeps are the scripts in `pipelines/`.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crystalframer import __version__
from crystalframer.command_line import reports_user_errors
from crystalframer.errors import UserError

if TYPE_CHECKING:
    from crystalframer.data.dataset import CrystalDataset


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand that the command line names; return the exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.command == "data":
        return show_data()
    return show_runs(arguments.runs)


def show_data() -> int:
    """List every data set: its crystals, tasks, units and splits, or how to prepare it."""
    from crystalframer.data.registry import DATASETS, load_dataset

    for name in DATASETS:
        try:
            print(f"{name}: {describe(load_dataset(name))}")
        except UserError as error:
            print(f"{name}: {error}")
    return 0


def describe(dataset: "CrystalDataset") -> str:
    """Return a data set's size, and one line per task with its unit and the sizes of its splits."""
    import numpy as np

    atoms = dataset.num_atoms
    lines = [f"{len(dataset):,} crystals of {atoms.min()} to {atoms.max()} atoms, {atoms.mean():.1f} on average"]
    for task in dataset.tasks.values():
        present = np.isfinite(task.targets)
        train, val, test = (int((present & (task.split == code)).sum()) for code in range(3))
        lines.append(f"  {task.name:<17}{task.unit:<11} {train:,} train, {val:,} validation, {test:,} test")
    return "\n".join(lines)


def show_runs(runs: Path) -> int:
    """Serve the MLflow page of a runs folder on loopback until Ctrl-C.

    Raises:
        UserError: nothing is recorded there yet, or the server does not start.
    """
    database = runs / "mlflow.db"
    if not database.is_file():
        raise UserError(
            f"no results to show: expected {database}; run `python pipelines/ablate_frames.py` first, "
            "or name the folder of runs with --runs DIR"
        )
    from crystalframer.orchestration.mlflow_server import LocalMlflowServer

    with LocalMlflowServer(runs) as server:
        print("starting the MLflow server ...", flush=True)
        server.wait_until_ready()
        page = f"{server.uri}/#/experiments?workflowType=machine_learning"  # else MLflow opens its pages on LLM traces
        print(f"open {page} in a browser; Ctrl-C ends the server", flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="crystalframer", description=__doc__)
    parser.add_argument("--version", action="version", version=f"crystalframer {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{data,ui}")
    commands.add_parser("data", help="list the data sets, their tasks and whether they are prepared")
    ui = commands.add_parser("ui", help="show the recorded runs in a browser (MLflow, on this machine only)")
    ui.add_argument("--runs", type=Path, default=Path("runs"), help="runs folder (default: ./runs)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
