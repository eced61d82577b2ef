"""Damages files at random, those of structures and all others in turn: ``python -m tests.fuzz --minutes 10``."""

import argparse
import contextlib
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz import files, structures


def main(arguments: list[str] | None = None) -> int:
    """Try the corpus, then new inputs for some minutes; return 1 if any failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="number of the first input (default: the time)")
    options = parser.parse_args(arguments)
    number = int(time.time()) if options.seed is None else options.seed
    until = time.monotonic() + 60 * options.minutes
    counts: Counter[str] = Counter()
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for crystal in structures.corpus():
            if problem := structures.problem_of(crystal, folder):
                failures += 1
                print(f"corpus, {crystal.seed}: {problem}")
        for file in files.corpus():
            if problem := files.problem_of(file, folder / "files"):
                failures += 1
                print(f"corpus, {file.kind}, {file.path}: {problem}")
        with contextlib.suppress(KeyboardInterrupt):
            for crystal, file in zip(structures.cases(number), files.cases(number), strict=False):
                if time.monotonic() > until:
                    break
                counts["structure"] += 1
                if problem := structures.problem_of(crystal, folder):
                    failures += 1
                    print(f"{structures.keep(crystal)}: {problem}", flush=True)
                counts[file.kind] += 1
                if problem := files.problem_of(file, folder / "files"):
                    failures += 1
                    print(f"{files.keep(file)}: {problem}", flush=True)
    tried = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    print(f"damaged files of seed {number}: {tried}; {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
