"""List the models that have a name."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe `crystalframer models`, which takes no arguments."""
    parser.description = "List the models that have a name: property, data, error, licence."


def run(_: argparse.Namespace) -> int:
    """List the models that have a name."""
    from crystalframer.pretrained.listing import models_table

    print(models_table())
    return 0
