"""The program `crystalframer`: a table of commands. Each is a module that is read when its command is called for."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from crystalframer import __version__
from crystalframer.beside import load
from crystalframer.command_line import HelpFormatter, reports_user_errors

COMMANDS = {
    "prepare": "prepare a data set once: a published one, or your own crystals",
    "data": "list the data sets, their tasks and whether they are prepared",
    "train": "train one model",
    "finetune": "train on from a trained model, beside shallow models that cost seconds",
    "evaluate": "evaluate a model on a split of its data set",
    "predict": "predict properties of structure files",
    "sweep": "run all trials of a sweep, to the finished table: which frame is best",
    "search": "search for better settings",
    "status": "say where a sweep or search stands",
    "figures": "draw every table and figure of a sweep on one page",
    "export": "keep a sweep's results as small files, which need neither MLflow nor checkpoints",
    "import": "record such files in MLflow",
    "ui": "show the recorded runs in a browser (MLflow, on this machine only)",
    "files": "list the sweeps, cluster files and pages that come along, or copy some",
    "models": "list the models that have a name: property, data, error, licence",
    "pack": "make a model with a name and intervals of finished trainings",
    "card": "write the card of a model: data, settings, errors, use",
    "register": "register a model in MLflow, to be served over HTTP",
    "convert": "make a model file of one of the authors' checkpoints",
    "doctor": "say what is found on this machine, what is wrong, and what mends it",
    "benchmark": "measure the speed of the attention's implementations",
}
"""Each command and what it does; it is the module of this name in `crystalframer.commands`, unless `ELSEWHERE`."""
ELSEWHERE = {
    "figures": "analysis.make_all",
    "import": "crystalframer.commands.import_results",
    "benchmark": "benchmarks.measure_speed",
}
"""The commands that are other modules, most of them beside the package."""

DESCRIPTION = """\
Predict properties of crystals with CrystalFramer, and find out which frames are best: crystalframer COMMAND --help
says more about a command.
"""
EPILOG = """\
first steps:
  crystalframer sweep
  crystalframer figures
      train all six frame types on the embedded sample, tabulate and draw their errors
  crystalframer train my_crystals/ data.xlsx --task gap
  crystalframer predict runs/single/NAME new_crystals/
      train a model on your own crystals and a table of their gaps, predict others

To have commands, options and files completed by the Tab key, let your shell run this when it starts:
  eval "$(register-python-argcomplete crystalframer)"
"""


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the command line names; return the exit code."""
    if "_ARGCOMPLETE" in os.environ:  # a shell asks what could come next
        import argcomplete

        argcomplete.autocomplete(parser(os.environ["COMP_LINE"].split()[1:]))
    words = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    options = parser(words).parse_args(words)
    code: int = options.run(options)
    return code


def program(command: str) -> Callable[..., int]:
    """Return the ``main(argv)`` of one command, for the scripts in `pipelines/`."""

    def run(argv: Sequence[str] | None = None) -> int:
        return main([command, *(sys.argv[1:] if argv is None else argv)])

    return run


def parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of a command line; it knows the arguments of the command that the line begins with."""
    whole = argparse.ArgumentParser(
        prog="crystalframer", description=DESCRIPTION, epilog=EPILOG, formatter_class=HelpFormatter
    )
    whole.add_argument("--version", action="version", version=f"crystalframer {__version__}")
    commands = whole.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        part = commands.add_parser(name, help=summary, formatter_class=HelpFormatter)
        if name in words[:1]:
            place = ELSEWHERE.get(name)
            module = load(place) if place else importlib.import_module(f"crystalframer.commands.{name}")
            module.add_arguments(part)
            part.set_defaults(run=module.run)
    return whole
