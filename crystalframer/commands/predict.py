"""Predict the properties of structure files, or draw what a model looks at in one of them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from crystalframer.atomic_files import writing
from crystalframer.commands.model_argument import add_ensemble, add_model, add_ties
from crystalframer.errors import UserError

PICTURES = (".png", ".pdf", ".svg", ".html")
"""Suffixes of what --explain draws."""
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
            return _explain(models, paths, arguments)
        return predict_files(
            models,
            paths,
            output=arguments.output,
            processes=arguments.processes,
            device=arguments.device,
            coverage=arguments.coverage,
            ties=arguments.ties,
        )


def _explain(models: Sequence[Path], paths: Sequence[Path], arguments: argparse.Namespace) -> int:
    """Draw the first structure of the first file; return the exit code.

    Raises:
        UserError: several models or files, an unreadable one, an atom, block or head that is not there, or a figure
            that cannot be written.
    """
    from crystalframer.pictures.attention_drawing import write_picture
    from crystalframer.prediction.explain import attention_of
    from crystalframer.prediction.structures import from_files
    from crystalframer.training.trained_model import load_model

    figure, atom, head = arguments.explain, arguments.atom, arguments.head
    if len(models) != 1 or len(paths) != 1:
        raise UserError(f"--explain draws one file with one model, got {len(paths)} files and {len(models)} models")
    if figure.suffix.lower() not in PICTURES:
        raise UserError(f"--explain {figure}: got the suffix {figure.suffix!r}, expected one of {', '.join(PICTURES)}")
    entry = next(from_files(paths))
    if entry.crystal is None:
        raise UserError(f"{paths[0]} cannot be drawn: {entry.reason}")
    view = attention_of(load_model(models[0]).model, entry.crystal, arguments.block)
    shown = view.around(atom, head)
    with writing(figure, "--explain"):
        figure.parent.mkdir(parents=True, exist_ok=True)
        write_picture(shown, figure)
    print(f"{figure}: {shown.title}, σ = {view.sigma[atom, head]:.2f} Å, {shown.weights[0]:.0%} on the atom itself")
    return 0
