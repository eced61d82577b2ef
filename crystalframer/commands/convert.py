"""Make a model file of one of the authors' checkpoints."""

import argparse
from pathlib import Path


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
    """Make a model file of one of the authors' checkpoints."""
    from crystalframer.prediction.command import convert_file

    return convert_file(
        arguments.official,
        arguments.output,
        weights=arguments.weights,
        cutoff=arguments.cutoff,
        task=arguments.task,
        unit=arguments.unit,
    )
