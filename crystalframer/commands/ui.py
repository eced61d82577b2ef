"""Show the recorded runs in a browser."""

import argparse
import time
from pathlib import Path

from crystalframer.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crystalframer ui`."""
    parser.description = "Show the recorded runs in a browser: MLflow, on this machine only."
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="runs folder (default: ./runs)")


def run(arguments: argparse.Namespace) -> int:
    """Serve the MLflow page of a runs folder on loopback until Ctrl-C.

    Raises:
        UserError: nothing is recorded there yet, or the server does not start.
    """
    runs: Path = arguments.runs
    database = runs / "mlflow.db"
    if not database.is_file():
        raise UserError(
            f"no results to show: expected {database}; run `crystalframer sweep` first, "
            "or name the folder of runs with --runs DIR"
        )
    from crystalframer.orchestration.tracking.experiment import described
    from crystalframer.orchestration.tracking.first_screen import charts_page, overview_page
    from crystalframer.orchestration.tracking.server import LocalMlflowServer

    with LocalMlflowServer(runs) as server:
        print("starting the MLflow server ...", flush=True)
        server.wait_until_ready()
        for name, number in described(server.uri).items():
            print(f"{name}: {server.page(overview_page(number))}\n  curves: {server.page(charts_page(number))}")
        page = server.page("experiments?workflowType=machine_learning")  # else MLflow opens its pages on LLM traces
        try:
            print(f"open {page} in a browser; Ctrl-C ends the server", flush=True)
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return 0
