"""The command line that the programs of sweeps and searches share."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalframer.beside import HOME
from crystalframer.config import CHECKPOINT_SECONDS

if TYPE_CHECKING:
    from crystalframer.orchestration.sweeps.driver import SweepOptions


def add_runs_argument(parser: argparse.ArgumentParser, of_what: str = "folder of the results") -> None:
    """Add ``--runs``."""
    from crystalframer.orchestration.cluster.surroundings import default_runs, runs_folder  # slow, not for all helps

    parser.add_argument(
        "--runs",
        type=runs_folder,
        default=default_runs(),
        metavar="DIR",
        help=f"{of_what} (default: $CRYSTALFRAMER_RUNS, else runs)",
    )


def add_checkpoint_argument(parser: argparse.ArgumentParser, *former: str) -> None:
    """Add ``--checkpoint-seconds``, under its former names as well."""
    parser.add_argument(
        "--checkpoint-seconds",
        *former,
        type=float,
        default=CHECKPOINT_SECONDS,
        metavar="S",
        help="shortest time between two checkpoints, the most that a kill can cost (default: %(default)g)",
    )


def add_file_argument(parser: argparse.ArgumentParser, what: str, *, default: str) -> None:
    """Add the file of a sweep or search: a path, or the name of one that comes along, such as `default`."""
    parser.add_argument(
        what,
        nargs="?",
        type=sweep_file,
        default=default,
        metavar="FILE|NAME",
        help=f"its file, or the name of one that `crystalframer files` lists (default: {default})",
    )


def sweep_file(text: str) -> Path:
    """Return the file that a command line names by its path or stem: one here, in sweeps/, or that comes along."""
    folders = (Path(), Path("sweeps"), HOME / "sweeps")
    named = [path for folder in folders if (path := folder / f"{text}.yaml").is_file()]
    return named[0] if named and not Path(text).is_file() else Path(text)


def add_sweep_arguments(parser: argparse.ArgumentParser, *, example: str, dry_run: str) -> None:
    """Add what a sweep and a search are told alike; `sweep_options` understands it.

    Args:
        parser: gets the arguments.
        example: of a setting to replace, ``KEY=VALUE``.
        dry_run: what ``--dry-run`` does.
    """
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help=f"replace a setting of the file's base or another field, e.g. {example}; may be repeated",
    )
    add_runs_argument(parser, "folder of the results, on a cluster one that all nodes share")
    parser.add_argument("--dry-run", action="store_true", help=dry_run)
    parser.add_argument("--max-concurrent", type=_at_least_one, metavar="N", help="at most N trials at a time")
    add_checkpoint_argument(parser)
    parser.add_argument(
        "--address",
        metavar="RAY",
        help="join a Ray cluster, e.g. auto on one of its nodes (default: $RAY_ADDRESS, else a Ray of its own)",
    )
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="record in this MLflow (default: $MLFLOW_TRACKING_URI, else the server on the cluster's head, else one of "
        "its own on runs/mlflow.db)",
    )
    parser.add_argument("--trainer", help=argparse.SUPPRESS)  # another trainer's class, module:name


@contextmanager
def sweep_options(options: argparse.Namespace, **further: Any) -> "Iterator[SweepOptions]":
    """Yield where a sweep or search runs and records, as the command line and its `surroundings` say."""
    from crystalframer.orchestration.cluster.surroundings import surroundings
    from crystalframer.orchestration.sweeps.driver import SweepOptions

    with surroundings(options.address, options.runs, options.tracking_uri) as (address, tracking_uri):
        yield SweepOptions(
            runs=options.runs,
            address=address,
            tracking_uri=tracking_uri,
            max_concurrent=options.max_concurrent,
            checkpoint_seconds=options.checkpoint_seconds,
            trainer=options.trainer or SweepOptions.trainer,
            **further,
        )


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number, at least 1")
    return int(text)
