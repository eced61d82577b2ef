"""The console script `crystalframer`: predict, convert and describe models, list data, show the MLflow page of runs.

Training and sweeps are the scripts in `pipelines/`.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crystalframer import __version__
from crystalframer.command_line import reports_user_errors
from crystalframer.errors import UserError
from crystalframer.published import PUBLISHED

if TYPE_CHECKING:
    from crystalframer.data.dataset import CrystalDataset

PREDICT = """\
Predict the properties of structures: CIF, POSCAR, extended XYZ, ASE databases, pymatgen JSON.

MODEL is a name that `crystalframer models` lists, a checkpoint or model file, the folder of a training, a quoted
pattern of these such as "runs/mine/max*" (an ensemble), or a model recorded in MLflow. A model with intervals says
between which values the true one lies with the probability --coverage, for crystals like those it was trained on, and
warns of others. A structure that cannot be read or predicted keeps its row, with the reason in the
column `error`. The exit code is 0 if any structure was predicted, else 2.

examples:
  crystalframer predict runs/single/mine my_crystals/ --output predictions.csv
  crystalframer predict runs/seed1 *.cif --ensemble runs/seed2 runs/seed3
  crystalframer predict runs/single/mine NaCl.cif --explain NaCl.png --atom 0
"""


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand that the command line names; return the exit code."""
    arguments = _parser().parse_args(argv)
    code: int = arguments.run(arguments)
    return code


def predict(arguments: argparse.Namespace) -> int:
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
        )


def register(arguments: argparse.Namespace) -> int:
    """Register a model in MLflow, or save it as an MLflow model, and say how to serve it."""
    from crystalframer.api import local_models
    from crystalframer.orchestration.tracking.models import register_model, save_pyfunc

    with local_models([arguments.model, *arguments.ensemble], arguments.tracking_uri) as models:
        if arguments.folder is not None:
            save_pyfunc(models, arguments.folder)
            address, condition = str(arguments.folder), ""
        else:
            address = register_model(models, arguments.name, arguments.tracking_uri).uri
            condition = ", with the address of its MLflow server in MLFLOW_TRACKING_URI"
    print(f"{address}: serve it with `mlflow models serve --env-manager local -m {shlex.quote(address)}`{condition}")
    return 0


def convert(arguments: argparse.Namespace) -> int:
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


def card(arguments: argparse.Namespace) -> int:
    """Write the card of a model."""
    from crystalframer.api import local_models
    from crystalframer.prediction.card import NAME, card_of

    with local_models([arguments.model], arguments.tracking_uri) as models:
        if len(models) != 1:
            raise UserError(f"{arguments.model} names {len(models)} models, expected one")
        fetched = arguments.model.startswith(("runs:/", "models:/"))
        print(card_of(models[0], arguments.output or (Path(NAME) if fetched else None)))
    return 0


def pack(arguments: argparse.Namespace) -> int:
    """Make a model with a name of finished trainings."""
    from crystalframer.pretrained.listing import listed_models
    from crystalframer.pretrained.packing import pack_runs

    path = pack_runs(
        arguments.runs,
        arguments.name,
        folder=arguments.folder,
        about=arguments.about,
        licence=arguments.licence,
        replace_old=arguments.replace,
    )
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    if arguments.name in listed_models():
        print(f"predict with it: `crystalframer predict {arguments.name} FILES`")
    return 0


def show_models() -> int:
    """List the models that have a name."""
    from crystalframer.pretrained.listing import models_table

    print(models_table())
    return 0


def show_data() -> int:
    """List every data set: its crystals, tasks, units and splits, or how to prepare it."""
    from crystalframer.data.registry import load_dataset, own_datasets

    for name in (*PUBLISHED, *own_datasets()):
        try:
            print(f"{name}: {describe(load_dataset(name))}")
        except UserError as error:
            print(f"{name}: {error}")
    return 0


def describe(dataset: "CrystalDataset") -> str:
    """Return a data set's size, and one line per task with its unit and the sizes of its splits."""
    import numpy as np

    atoms = dataset.num_atoms
    lines = [f"{len(dataset):,} crystals of {atoms.min()} to {atoms.max()} atoms, {atoms.mean():.1f} on average"]
    for task in dataset.tasks.values():
        present = np.isfinite(task.targets)
        train, val, test = (int((present & (task.split == code)).sum()) for code in range(3))
        lines.append(f"  {task.name:<17}{task.unit:<11} {train:,} train, {val:,} validation, {test:,} test")
    return "\n".join(lines)


def show_runs(runs: Path) -> int:
    """Serve the MLflow page of a runs folder on loopback until Ctrl-C.

    Raises:
        UserError: nothing is recorded there yet, or the server does not start.
    """
    database = runs / "mlflow.db"
    if not database.is_file():
        raise UserError(
            f"no results to show: expected {database}; run `python pipelines/ablate_frames.py` first, "
            "or name the folder of runs with --runs DIR"
        )
    from crystalframer.orchestration.tracking.server import LocalMlflowServer

    with LocalMlflowServer(runs) as server:
        print("starting the MLflow server ...", flush=True)
        server.wait_until_ready()
        page = server.page("experiments?workflowType=machine_learning")  # else MLflow opens its pages on LLM traces
        print(f"open {page} in a browser; Ctrl-C ends the server", flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="crystalframer", description=__doc__)
    parser.add_argument("--version", action="version", version=f"crystalframer {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="{predict,models,pack,convert,card,register,data,ui}"
    )
    _add_predict(commands)
    listing = commands.add_parser("models", help="list the models that have a name: property, data, error, licence")
    listing.set_defaults(run=lambda _: show_models())
    _add_pack(commands)
    _add_convert(commands)
    _add_register(commands)
    describing = commands.add_parser("card", help="write the card of a model: data, settings, errors, use")
    _add_model(describing)
    describing.add_argument("--output", type=Path, help="file to write (default: model_card.md beside the model)")
    describing.set_defaults(run=card)
    data = commands.add_parser("data", help="list the data sets, their tasks and whether they are prepared")
    data.set_defaults(run=lambda _: show_data())
    ui = commands.add_parser("ui", help="show the recorded runs in a browser (MLflow, on this machine only)")
    ui.add_argument("--runs", type=Path, default=Path("runs"), help="runs folder (default: ./runs)")
    ui.set_defaults(run=lambda arguments: show_runs(arguments.runs))
    return parser


def _add_predict(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "predict",
        help="predict properties of structure files",
        description=PREDICT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_model(parser)
    parser.add_argument("paths", nargs="+", help="structure files, or folders that are searched for them")
    parser.add_argument("--ensemble", nargs="+", default=[], metavar="MODEL", help="further models: mean and spread")
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
    picture = parser.add_argument_group("a picture instead of a table")
    picture.add_argument(
        "--explain", type=Path, metavar="FIGURE", help="draw an atom's frame and attention (.png, .pdf, .svg, .html)"
    )
    picture.add_argument("--atom", type=int, default=0, help="number of the atom, from 0 (default: 0)")
    picture.add_argument("--block", type=int, default=0, help="block of the model, from 0 (default: 0)")
    picture.add_argument("--head", type=int, default=0, help="head of the attention, from 0 (default: 0)")
    parser.set_defaults(run=predict)


def _add_pack(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("pack", help="make a model with a name and intervals of finished trainings")
    parser.add_argument("name", metavar="NAME", help="what it shall be called")
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folders of trainings that differ in seed alone"
    )
    parser.add_argument("--about", default="", help="what it learned from, in words (default: the data set's title)")
    parser.add_argument("--licence", default="", help="terms of use of that (default: the published data set's)")
    parser.add_argument(
        "--folder", type=Path, help="folder of the file and its list (default: that of your own models)"
    )
    parser.add_argument("--replace", action="store_true", help="take the place of a model of the same name")
    parser.set_defaults(run=pack)


def _add_convert(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("convert", help="make a model file of one of the authors' checkpoints")
    parser.add_argument("official", type=Path, help="the Lightning checkpoint")
    parser.add_argument("--output", type=Path, help="model file to write (default: beside it, .pt)")
    parser.add_argument("--weights", choices=("averaged", "plain"), help="(default: averaged, if any were averaged)")
    parser.add_argument("--cutoff", type=float, help="radius of the neighbour sphere in Å (default: that of training)")
    parser.add_argument("--task", help="name of the target (default: the file's)")
    parser.add_argument("--unit", help="its unit (default: the published one)")
    parser.set_defaults(run=convert)


def _add_register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("register", help="register a model in MLflow, to be served over HTTP")
    _add_model(parser)
    parser.add_argument("--ensemble", nargs="+", default=[], metavar="MODEL", help="further models: mean and spread")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--name", help="name of the registered model; it gets the next version")
    where.add_argument("--folder", type=Path, help="save it as an MLflow model in this new folder instead")
    parser.set_defaults(run=register)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="name of a model, checkpoint, folder of a training, runs:/ID or models:/NAME/1"
    )
    parser.add_argument("--tracking-uri", help="where MLflow records (default: MLFLOW_TRACKING_URI, or ./runs)")


if __name__ == "__main__":
    sys.exit(main())
