"""The files that come along: sweeps to run or to copy and change, and what describes a cluster."""

import argparse
import shutil
from pathlib import Path

from crystalframer.atomic_files import replacing
from crystalframer.beside import HOME
from crystalframer.errors import UserError, near_matches

DESCRIPTION = """\
List the sweep and cluster files that come along, or copy some of them into this folder, to be changed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crystalframer files`."""
    parser.description = DESCRIPTION
    parser.add_argument("names", nargs="*", metavar="NAME", help="file to copy into this folder (default: list them)")


def run(arguments: argparse.Namespace) -> int:
    """List or copy files.

    Raises:
        UserError: there is no file of a name, or it would replace one here.
    """
    patterns = ("sweeps/*.yaml", "cluster.yaml", "clusters/*")
    found = {path.name: path for pattern in patterns for path in sorted(HOME.glob(pattern))}
    for name in arguments.names:
        if name not in found:
            raise UserError(f"there is no file {name!r}{near_matches(name, found)}, as `crystalframer files` says")
        if Path(name).exists():
            raise UserError(f"{Path(name).absolute()} is there already: move it away, then copy {name} again")
        with replacing(Path(name)) as temporary:
            shutil.copyfile(found[name], temporary)
        print(name)
    if not arguments.names:
        for name, path in found.items():
            print(f"{name:<24}{_first_words(path)}")
    return 0


def _first_words(path: Path) -> str:
    """Return the first line of a file that says something."""
    lines = (line.strip("#! ") for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#!/"))
    return next(line for line in lines if line)
