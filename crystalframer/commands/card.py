"""Write the card of a model."""

import argparse
from pathlib import Path

from crystalframer.commands.model_argument import add_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crystalframer card`."""
    parser.description = "Write the card of a model: data, settings, errors, use."
    add_model(parser)
    parser.add_argument("--output", type=Path, help="file to write (default: model_card.md beside the model)")


def run(arguments: argparse.Namespace) -> int:
    """Write the card of a model."""
    from crystalframer.api import one_model
    from crystalframer.prediction.card import NAME, card_of
    from crystalframer.prediction.loading import MLFLOW

    with one_model(arguments.model, arguments.tracking_uri) as model:
        fetched = arguments.model.startswith(MLFLOW)
        print(card_of(model, arguments.output or (Path(NAME) if fetched else None)))
    return 0
