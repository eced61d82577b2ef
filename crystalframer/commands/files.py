"""The files that come along: sweeps to run or to copy and change, what describes a cluster, and the pages on all."""

import argparse
import shutil
from pathlib import Path

from crystalframer.atomic_files import replacing
from crystalframer.beside import HOME
from crystalframer.errors import UserError, near_matches

DESCRIPTION = """\
List the sweep and cluster files and the pages of the documentation that come along, or copy some of them into this
folder, to be changed or read.
"""
PATTERNS = ("sweeps/*.yaml", "cluster.yaml", "clusters/*", "docs/*.md", "sweeps/README.md", "benchmarks/README.md")
"""The files, below where they come along."""


def coming_along() -> dict[str, Path]:
    """Return each file by its name; a folder's README has the folder's name."""
    paths = [path for pattern in PATTERNS for path in sorted(HOME.glob(pattern))]
    return {f"{path.parent.name}.md" if path.name == "README.md" else path.name: path for path in paths}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crystalframer files`."""
    parser.description = DESCRIPTION
    parser.add_argument("names", nargs="*", metavar="NAME", help="file to copy into this folder (default: list them)")


def run(arguments: argparse.Namespace) -> int:
    """List or copy files.

    Raises:
        UserError: there is no file of a name, or it would replace one here.
    """
    found = coming_along()
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
