"""Register a model in MLflow, or save it as an MLflow model, to be served over HTTP."""

import argparse
import shlex
from pathlib import Path

from crystalframer.commands.model_argument import add_ensemble, add_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crystalframer register`."""
    parser.description = "Register a model in MLflow, to be served over HTTP."
    add_model(parser)
    add_ensemble(parser)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--name", help="name of the registered model; it gets the next version")
    where.add_argument("--folder", type=Path, help="save it as an MLflow model in this new folder instead")


def run(arguments: argparse.Namespace) -> int:
    """Register a model in MLflow, or save it as an MLflow model, and say how to serve it."""
    from crystalframer.api import local_models
    from crystalframer.orchestration.tracking.models import register_model, save_pyfunc

    with local_models([arguments.model, *arguments.ensemble], arguments.tracking_uri) as models:
        if arguments.folder is not None:
            save_pyfunc(models, arguments.folder)
            address, condition = str(arguments.folder), ""
        else:
            address = register_model(models, arguments.name, arguments.tracking_uri)
            condition = ", with the address of its MLflow server in MLFLOW_TRACKING_URI"
    print(f"{address}: serve it with `mlflow models serve --env-manager local -m {shlex.quote(address)}`{condition}")
    return 0
