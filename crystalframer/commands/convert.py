"""Make a model file of one of the authors' checkpoints."""

import argparse
from pathlib import Path

from crystalframer.atomic_files import writing
from crystalframer.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crystalframer convert`."""
    parser.description = "Make a model file of one of the authors' checkpoints."
    parser.add_argument("official", type=Path, help="the Lightning checkpoint")
    parser.add_argument("--output", type=Path, help="model file to write (default: beside it, .pt)")
    parser.add_argument("--weights", choices=("averaged", "plain"), help="(default: averaged, if any were averaged)")
    parser.add_argument("--cutoff", type=float, help="radius of the neighbour sphere in Å (default: that of training)")
    parser.add_argument("--task", help="name of the target (default: the file's)")
    parser.add_argument("--unit", help="its unit (default: the published one)")


def run(arguments: argparse.Namespace) -> int:
    """Make a model file of one of the authors' checkpoints, by default beside it.

    Raises:
        UserError: it cannot be converted, or the output cannot be written or is the checkpoint itself.
    """
    from crystalframer.prediction.released_checkpoints import convert_official
    from crystalframer.training.trained_model import write_model

    official: Path = arguments.official
    path: Path = arguments.output or official.with_suffix(".pt")
    if path.exists() and official.exists() and path.samefile(official):
        raise UserError(f"the output {path} is the checkpoint itself; give another --output")
    trained = convert_official(
        official, weights=arguments.weights, cutoff=arguments.cutoff, task=arguments.task, unit=arguments.unit
    )
    with writing(path, "--output"):
        write_model(path, trained)
    config = trained.trial.model
    print(
        f"{path}: {trained.task} [{trained.unit}], frame {config.frame}, {config.num_blocks} blocks, "
        f"{'averaged' if trained.averaged else 'plain'} weights, cutoff {config.cutoff:g} Å"
    )
    return 0
