"""Evaluate a trained model on a split of its data set. See ``python pipelines/evaluate.py --help``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from crystalframer.api import local_models
from crystalframer.command_line import reports_user_errors
from crystalframer.errors import UserError

EPILOG = """\
OUT holds metrics.json (MAE, RMSE, R² with 95 % bootstrap intervals over crystals), predictions.parquet, a parity plot
and the errors by element (PNG, PDF, CSV); for the test splits of jarvis and mp also what the JARVIS leaderboard takes:
a zipped CSV and a metadata.json to fill in.

examples:
  python pipelines/evaluate.py runs/single/first
  python pipelines/evaluate.py runs/single/first/checkpoint.pt --split val --output evaluation
  python pipelines/evaluate.py runs:/0123456789abcdef0123456789abcdef
"""


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate as the command line says; return the exit code."""
    arguments = _parser().parse_args(argv)
    with local_models([arguments.model], arguments.tracking_uri) as found:
        if len(found) != 1:
            raise UserError(f"{arguments.model} names {len(found)} models, expected one")
        return evaluate(found[0], arguments)


def evaluate(path: Path, arguments: argparse.Namespace) -> int:
    """Evaluate the model of a file; return the exit code."""
    from crystalframer.prediction.evaluation import data_of, evaluate_model, one_line
    from crystalframer.prediction.report import write_report
    from crystalframer.training.devices import check_device
    from crystalframer.training.trained_model import load_model

    check_device(arguments.device)
    trained = load_model(path, device=arguments.device)
    data = data_of(trained, dataset=arguments.dataset, allow_other_data=arguments.allow_other_data)
    evaluations = evaluate_model(trained, data, arguments.split, arguments.seed)
    local = Path(arguments.model).exists()
    folder = arguments.output or (path.parent if local else Path()) / f"evaluation_{arguments.split}"
    try:
        write_report(folder, data.dataset, evaluations)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another --output") from error
    for evaluation in evaluations:
        print(one_line(evaluation))
    print(f"tables and figures: {folder}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python pipelines/evaluate.py",
        description="Evaluate a trained model on a split of its data set.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="checkpoint, folder of a training, runs:/ID or models:/NAME/1")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="(default: test)")
    parser.add_argument("--output", type=Path, metavar="OUT", help="folder (default: beside the model)")
    parser.add_argument("--dataset", help="another data set than that of training; needs --allow-other-data")
    parser.add_argument(
        "--allow-other-data", action="store_true", help="evaluate although the data are not those of the training"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    parser.add_argument("--device", default="cpu", help="torch device, e.g. cpu or cuda (default: cpu)")
    parser.add_argument("--tracking-uri", help="where MLflow records (default: MLFLOW_TRACKING_URI, or ./runs)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
