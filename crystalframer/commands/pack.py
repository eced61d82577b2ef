"""Make a model with a name of finished trainings."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crystalframer pack`."""
    parser.description = "Make a model with a name and intervals of finished trainings."
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


def run(arguments: argparse.Namespace) -> int:
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
