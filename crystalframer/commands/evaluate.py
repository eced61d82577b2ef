"""Evaluate a trained model on a split of its data set. See ``crystalframer evaluate --help``."""

import argparse
from pathlib import Path

from crystalframer.atomic_files import writing
from crystalframer.commands.model_argument import add_model, add_ties

EPILOG = """\
OUT holds metrics.json (MAE, RMSE, R² with 95 % bootstrap intervals over crystals), predictions.parquet, a parity plot
and the errors by element (PNG, PDF, CSV); for a model with intervals also the share of true values that they hold, by
element, cell size and difficulty; for the whole test splits of jarvis and mp also what the JARVIS leaderboard takes:
a zipped CSV, a metadata.json to fill in, and run.sh.

examples:
  crystalframer evaluate runs/single/first
  crystalframer evaluate runs/single/first/checkpoint.pt --split val --output evaluation
  crystalframer evaluate models:/energy/1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crystalframer evaluate`."""
    parser.description = "Evaluate a trained model on a split of its data set."
    parser.epilog = EPILOG
    add_model(parser)
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="(default: test)")
    parser.add_argument("--output", type=Path, metavar="OUT", help="folder (default: beside the model)")
    parser.add_argument("--dataset", help="another data set than that of training; needs --allow-other-data")
    parser.add_argument(
        "--allow-other-data", action="store_true", help="evaluate although the data are not those of the training"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    add_ties(parser)
    parser.add_argument("--device", default="cpu", help="torch device, e.g. cpu or cuda (default: cpu)")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate as the command line says; return the exit code."""
    from crystalframer.api import one_model

    with one_model(arguments.model, arguments.tracking_uri) as model:
        return evaluate(model, arguments)


def evaluate(path: Path, arguments: argparse.Namespace) -> int:
    """Evaluate the model of a file; return the exit code."""
    from crystalframer.prediction.evaluation import data_of, evaluate_model, evaluate_predictor, one_line
    from crystalframer.prediction.leaderboard import submit
    from crystalframer.prediction.loading import predictor_of, read_model
    from crystalframer.prediction.report import write_report
    from crystalframer.training.devices import check_device

    check_device(arguments.device)
    model = read_model(path, device=arguments.device, ties=arguments.ties)
    data = data_of(model.members[0], dataset=arguments.dataset, allow_other_data=arguments.allow_other_data)
    if len(model.members) == 1 and model.calibration is None:
        evaluations = evaluate_model(model.members[0], data, arguments.split, arguments.seed)
    else:
        evaluations = evaluate_predictor(predictor_of([model]), data, arguments.split, arguments.seed)
    local = Path(arguments.model).exists()
    folder = arguments.output or (path.parent if local else Path()) / f"evaluation_{arguments.split}"
    with writing(f"to {folder}", "--output"):
        write_report(folder, data.dataset, evaluations)
        said = submit(folder, model.members, data, evaluations)
    for evaluation in evaluations:
        print(one_line(evaluation))
    print(f"tables and figures: {folder}")
    for sentence in said:
        print(sentence)
    return 0
