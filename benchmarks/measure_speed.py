"""Measure the speed of the attention's implementations. See ``crystalframer benchmark --help``."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.settings import QUICK, REAL, USABLE, Settings, check
from crystalframer.config import FRAMES
from crystalframer.errors import UserError
from crystalframer.resolving import MODEL_PRESETS

if TYPE_CHECKING:
    from benchmarks.rows import Row
    from benchmarks.workload import Workload

EXIT_PARITY = 1
"""Exit code when the parity gate is red."""

DESCRIPTION = """\
Measure how fast the attention's implementations are, on this machine.

First the parity gate: every implementation is compared with the reference on its output and on every gradient, for
the frames, presets and crystals to be measured. If one tensor is off, no speed is printed: one line says which and by
how much, and the exit code is 1. Then, per frame, preset, crystal size and number of threads, side by side for all
implementations: the forward pass, the full training step (forward, backward, clip, AdamW) of the full-size model, the
epoch over the data set's formation energies (extrapolated), peak memory, and the stages of a step.
"""

EPILOG = """\
examples:
  see that it works, in seconds (its numbers mean little):
    crystalframer benchmark --quick

  one question: how much faster is the CPU kernel for max frames on 10-atom crystals, one thread and two?
    crystalframer benchmark --frames max --presets default --sizes 10 --threads 1 2

  the full table, recorded (hours, most of them the reference's; on a machine with nothing else to do):
    crystalframer benchmark --output my_machine.csv

  one implementation alone (still compared with the reference first), how cost grows with the cell:
    crystalframer benchmark --kernels cpu --frames max --sizes 8 50 200 500 --no-memory

  a GPU, with batches of about 256 crystals of 10 atoms:
    crystalframer benchmark --device cuda --atoms 2560 --threads 1

how to read it: times are medians over rounds in which the implementations take turns, with the smallest and largest;
× is the median of the ratio to the reference within a round. Processor time well below wall time × threads means that
threads waited. The column `load` of the CSV tells a quiet machine from a busy one. `crystalframer files
benchmarks.md` copies the page that explains every column and quantity.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `crystalframer benchmark`."""
    parser.description = DESCRIPTION
    parser.epilog = EPILOG
    defaults = Settings()
    kernels = "; ".join(f"{', '.join(names)} on {device}" for device, names in USABLE.items())
    parser.add_argument("--quick", action="store_true", help="a tiny benchmark; other options change it further")
    parser.add_argument("--output", type=Path, metavar="FILE.csv", help="write every number there (default: nowhere)")
    parser.add_argument("--kernels", nargs="+", metavar="NAME", help=f"implementations (default: {kernels})")
    parser.add_argument("--frames", nargs="+", metavar="NAME", help=f"of {', '.join(FRAMES)} (default: all)")
    parser.add_argument("--presets", nargs="+", metavar="NAME", help=f"of {', '.join(MODEL_PRESETS)} (default: all)")
    sizes, counts = " ".join(defaults.sizes), " ".join(map(str, defaults.threads))
    parser.add_argument(
        "--sizes",
        nargs="+",
        metavar="ATOMS",
        help=f"atoms per random crystal, and {REAL!r} for crystals of --dataset (default: {sizes})",
    )
    parser.add_argument("--threads", nargs="+", type=int, metavar="N", help=f"threads (default: {counts})")
    parser.add_argument(
        "--cutoff", type=float, help=f"radius of the neighbour sphere in Å (default: {defaults.cutoff})"
    )
    parser.add_argument(
        "--atoms", type=int, help=f"atoms per batch, about; at least two crystals (default: {defaults.atoms})"
    )
    parser.add_argument("--repeats", type=int, help=f"rounds after the warm-up (default: {defaults.repeats})")
    parser.add_argument(
        "--seconds", type=float, help=f"repeat quick calls within a round for this long (default: {defaults.seconds})"
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--dataset", help="prepared data set that real crystals come from (default: sample)")
    parser.add_argument(
        "--no-memory",
        action="store_const",
        const=False,
        dest="memory",
        help="leave peak memory out; it takes a process per number",
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure as the command line says; return the exit code."""
    settings = check(_settings(arguments))
    _check_output(arguments.output)

    import torch

    from benchmarks.parity_gate import ParityError
    from benchmarks.timing import check_threads
    from benchmarks.workload import make_workload
    from crystalframer.kernels import resolve_kernel

    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device: got {settings.device!r}, but torch finds no GPU here; choose cpu")
    for count in settings.threads:
        check_threads(count)
    for kernel in settings.kernels:
        resolve_kernel(kernel, torch.device(settings.device))
    workloads = [make_workload(settings, size) for size in settings.sizes]
    try:
        parity = _pass_gate(settings, workloads)
    except ParityError as error:
        print(f"parity gate is red, no speed is printed: {error}", file=sys.stderr)
        return EXIT_PARITY
    _measure(settings, workloads, parity, arguments.output)
    return 0


def _settings(arguments: argparse.Namespace) -> Settings:
    """Return the defaults, full or quick, changed by the options given."""
    given: dict[str, Any] = {item.name: getattr(arguments, item.name) for item in fields(Settings)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    changes = {name: value for name, value in given.items() if value is not None}
    return replace(QUICK if arguments.quick else Settings(), **changes)


def _check_output(path: Path | None) -> None:
    """Raise a `UserError` now, not after hours, where the CSV cannot be written."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: cannot make the folder {path.parent}: {error.strerror}") from error
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(f"--output: cannot write {path}; expected a file in a folder that can be written to")


def _pass_gate(settings: Settings, workloads: Sequence["Workload"]) -> "list[Row]":
    """Compare every kernel with the reference; return each case's worst error as a row, raise `ParityError` if red."""
    from benchmarks.parity_gate import check_parity
    from benchmarks.suite import parity_row

    rows = []
    for kernel, frame, preset, workload, worst in check_parity(settings, workloads):
        rows.append(parity_row(settings, kernel, frame, preset, workload, worst))
        _say(f"parity: {kernel}, {frame}/{preset}, {workload}: worst {worst.name}, {worst.error:.1e}")
    _say(f"parity gate: {len(rows)} comparisons, all green" if rows else "parity gate: nothing but the reference")
    return rows


def _measure(settings: Settings, workloads: Sequence["Workload"], parity: "list[Row]", output: Path | None) -> None:
    """Measure every point, write rows as they come, and print the tables; what was measured survives Ctrl-C."""
    from benchmarks.result_tables import show
    from benchmarks.rows import CsvFile
    from benchmarks.suite import measure, points

    rows = list(parity)
    todo = points(settings, workloads)
    with nullcontext() if output is None else output.open("w", encoding="utf-8", newline="") as stream:
        file = None if stream is None else CsvFile(stream)
        if file is not None:
            file.write(rows)
        started = time.monotonic()
        try:
            for done, point in enumerate(todo, 1):
                new = list(measure(settings, point))
                rows += new
                if file is not None:
                    file.write(new)
                steps = ", ".join(f"{row.case.kernel} {row.spread.median:.3g}" for row in new if row.quantity == "step")
                left = (time.monotonic() - started) / done * (len(todo) - done) / 60
                _say(f"[{done}/{len(todo)}] {point}: step, ms/crystal: {steps} (about {left:.0f} min left)")
        finally:
            show(rows)
            if output is not None:
                print(f"written: {output}")


def _say(text: str) -> None:
    """Report progress on stderr; the tables alone go to stdout."""
    print(text, file=sys.stderr, flush=True)
