"""The argument MODEL, which several commands share."""

import argparse


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add MODEL, and where MLflow records."""
    parser.add_argument(
        "model", metavar="MODEL", help="name of a model, checkpoint, folder of a training, runs:/ID or models:/NAME/1"
    )
    parser.add_argument("--tracking-uri", help="where MLflow records (default: MLFLOW_TRACKING_URI, or ./runs)")


def add_ensemble(parser: argparse.ArgumentParser) -> None:
    """Add further models."""
    parser.add_argument("--ensemble", nargs="+", default=[], metavar="MODEL", help="further models: mean and spread")


def add_ties(parser: argparse.ArgumentParser) -> None:
    """Add what is done where symmetry leaves a frame open."""
    parser.add_argument(
        "--ties",
        choices=("first", "mean"),
        help="where symmetry ties: the first frame, or the mean over all, the same however the crystal is written down "
        "(default: the model's setting)",
    )
