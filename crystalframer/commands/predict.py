"""Predict the properties of structure files, or draw what a model looks at in one of them."""

import argparse
from pathlib import Path

from crystalframer.commands.model_argument import add_ensemble, add_model, add_ties

DESCRIPTION = """\
Predict the properties of structures: CIF, POSCAR, extended XYZ, ASE databases, pymatgen JSON.

MODEL is a name that `crystalframer models` lists, a checkpoint or model file, the folder of a training, a quoted
pattern of these such as "runs/mine/max*" (an ensemble), or a model recorded in MLflow. A model with intervals says
between which values the true one lies with the probability --coverage, for crystals like those it was trained on, and
warns of others. A structure that cannot be read or predicted keeps its row, with the reason in the
column `error`. The exit code is 0 if any structure was predicted, else 2.
"""

EPILOG = """\
examples:
  crystalframer predict runs/single/mine my_crystals/ --output predictions.csv
  crystalframer predict runs/seed1 *.cif --ensemble runs/seed2 runs/seed3
  crystalframer predict runs/single/mine NaCl.cif --explain NaCl.png --atom 0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crystalframer predict`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    add_model(parser)
    parser.add_argument("paths", nargs="+", help="structure files, or folders that are searched for them")
    add_ensemble(parser)
    parser.add_argument("--output", type=Path, help="table to write: .csv, .parquet or .json (default: CSV on stdout)")
    parser.add_argument("--processes", type=int, help="processes that read files (default: by their number)")
    parser.add_argument("--device", default="cpu", help="torch device, e.g. cpu or cuda (default: cpu)")
    parser.add_argument(
        "--coverage",
        type=float,
        default=0.9,
        metavar="P",
        help="share of true values within the intervals (default: 0.9)",
    )
    add_ties(parser)
    picture = parser.add_argument_group("a picture instead of a table")
    picture.add_argument(
        "--explain", type=Path, metavar="FIGURE", help="draw an atom's frame and attention (.png, .pdf, .svg, .html)"
    )
    picture.add_argument("--atom", type=int, default=0, help="number of the atom, from 0 (default: 0)")
    picture.add_argument("--block", type=int, default=0, help="block of the model, from 0 (default: 0)")
    picture.add_argument("--head", type=int, default=0, help="head of the attention, from 0 (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    """Predict structure files, or draw what the model looks at in one of them."""
    from crystalframer.api import local_models
    from crystalframer.prediction.command import predict_files

    paths = [Path(path) for path in arguments.paths]
    with local_models([arguments.model, *arguments.ensemble], arguments.tracking_uri) as models:
        if arguments.explain is not None:
            from crystalframer.prediction.drawing import explain_file

            return explain_file(
                models, paths, arguments.explain, atom=arguments.atom, block=arguments.block, head=arguments.head
            )
        return predict_files(
            models,
            paths,
            output=arguments.output,
            processes=arguments.processes,
            device=arguments.device,
            coverage=arguments.coverage,
            ties=arguments.ties,
        )
