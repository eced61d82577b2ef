"""Try and measure everything on a machine with a GPU, in one command and under nine minutes.

    python -m benchmarks.on_gpu --output DIR
    python -m benchmarks.on_gpu --output DIR --stages kernels training     # some of the stages
    python -m benchmarks.on_gpu --output DIR --device cpu --quick          # seconds; shows that the list itself works

Each stage runs in a process of its own, in bounded time, and whatever becomes of one, the next is tried. DIR gets
`on_gpu.md` to read (what failed comes first), `on_gpu.json` with every number, and the output of each stage in `logs/`;
they are written anew after each stage. The exit code is 1 if a stage failed. Nothing is fetched, and neither Ray,
MLflow, Optuna nor Matplotlib is needed.
"""

import argparse
import faulthandler
import importlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Literal

from benchmarks.gpu_report import report
from crystalframer.atomic_files import replace_text
from crystalframer.command_line import reports_user_errors
from crystalframer.errors import UserError, near_matches

Record = dict[str, Any]
"""One line of a stage's table. `ok`, where there is one, says whether what was checked holds; a record that has only
`summary` is the stage in one line."""
Standing = Literal["ok", "FAILED", "OUT OF TIME"]

SECONDS = 535.0
"""Of all stages together; the program's own start comes on top."""
LEAST_SECONDS = 5.0
"""A stage that would have less than this is not started."""


@dataclass(frozen=True)
class Plan:
    """What a stage is told."""

    device: str
    quick: bool
    """Sizes at which numbers mean nothing, to see that everything works"""
    seconds: float = 60.0
    """After which it is ended; it may end itself before, with what it has"""


@dataclass(frozen=True)
class Stage:
    """One thing to try."""

    name: str
    seconds: float
    """At most"""
    question: str
    function: str
    """``module:function``, called with a `Plan`; yields records. Imported only by the stage's own process."""


def _right(name: str, seconds: float, question: str) -> Stage:
    return Stage(name, seconds, question, f"benchmarks.gpu_stages:{name}")


def _fast(name: str, seconds: float, question: str) -> Stage:
    return Stage(name, seconds, question, f"benchmarks.gpu_speed:{name}")


STAGES = (
    _right("environment", 20, "what is this machine, and is everything there?"),
    _right("kernels", 130, "do the kernels equal the reference on this device?"),
    _right("batches", 60, "do batches from the host, resident ones and recorded steps lose alike, and how fast?"),
    _right("resume", 40, "does a training that was stopped end with the same bits?"),
    _fast("training", 130, "how fast is training, per frame, preset and precision?"),
    _fast("reference", 40, "how much faster than plain torch on this device?"),
    _fast("profile", 25, "where does a step's time go?"),
    _fast("large_cell", 35, "how does a cell of thousands of atoms fare?"),
    _fast("sharing", 50, "what do several trainings on one GPU come to?"),
)


@dataclass
class Outcome:
    """What came of a stage."""

    name: str
    question: str
    standing: Standing
    seconds: float
    records: list[Record] = field(default_factory=list)
    error: str = ""
    """The exception's last line, or how the process ended"""


def run_stage(stage: Stage, plan: Plan, folder: Path, context: BaseContext) -> Outcome:
    """Run a stage in a process of its own, and end it with all that it started when its time is up."""
    log, found = folder / "logs" / f"{stage.name}.log", folder / "logs" / f"{stage.name}.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    found.unlink(missing_ok=True)
    started = time.monotonic()
    process = context.Process(target=_work, args=(stage.function, plan, log, found))  # type: ignore[attr-defined]
    process.start()
    process.join(plan.seconds)
    late = process.is_alive()
    if late:
        _end(process.pid)
    process.join()
    seconds = time.monotonic() - started
    lines = found.read_text(encoding="utf-8").splitlines() if found.exists() else []
    records: list[Record] = [json.loads(line) for line in lines if line.endswith("}")]
    error = "".join(record["raised"] for record in records if "raised" in record)
    records = [record for record in records if "raised" not in record]
    if late:
        return Outcome(stage.name, stage.question, "OUT OF TIME", seconds, records, f"ended after {seconds:.0f} s")
    if process.exitcode:
        error = error or f"the process ended with exit code {process.exitcode}"
    broken = [record for record in records if record.get("ok") is False]
    if broken and not error:
        error = f"{len(broken)} of {sum('ok' in record for record in records)} checks failed"
    return Outcome(stage.name, stage.question, "FAILED" if error else "ok", seconds, records, error)


def _end(leader: int | None) -> None:
    """Kill a stage and whatever it started."""
    assert leader is not None, "the process has started"
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:  # it has not made its group yet
        os.kill(leader, signal.SIGKILL)


def _work(function: str, plan: Plan, log: Path, found: Path) -> None:
    """Be a stage: write records as they come, and what is printed into the log."""
    os.setsid()
    with log.open("wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1, closefd=False), os.fdopen(2, "w", 1, closefd=False)
    faulthandler.enable()
    faulthandler.dump_traceback_later(max(1.0, plan.seconds - 2))  # where it hangs, if it does
    module, _, name = function.partition(":")
    with found.open("a", encoding="utf-8", buffering=1) as stream:

        def write(record: Record) -> None:
            print(json.dumps(record), file=stream)

        try:
            work: Callable[[Plan], Iterator[Record]] = getattr(importlib.import_module(module), name)
            for record in work(plan):
                write(record)
        except BaseException as error:
            write({"raised": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"})
            raise


def run_list(stages: Sequence[Stage], device: str, quick: bool, folder: Path) -> list[Outcome]:
    """Run stages one after the other, and write the results after each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.gpu_stages", "benchmarks.gpu_speed"])  # torch is imported once
    began, outcomes = time.monotonic(), []
    for stage in stages:
        left = SECONDS - (time.monotonic() - began)
        print(f"{stage.name:<12} {stage.question} ", end="", flush=True)
        if left < LEAST_SECONDS:
            outcome = Outcome(stage.name, stage.question, "OUT OF TIME", 0.0, error="not started: no time was left")
        else:
            outcome = run_stage(
                stage, Plan(device, quick, left if quick else min(stage.seconds, left)), folder, context
            )
        outcomes.append(outcome)
        print(f"{outcome.standing}, {outcome.seconds:.1f} s{': ' + outcome.error if outcome.error else ''}", flush=True)
        content = {"device": device, "quick": quick, "stages": [vars(outcome) for outcome in outcomes]}
        replace_text(folder / "on_gpu.json", json.dumps(content, indent=1) + "\n")
        replace_text(folder / "on_gpu.md", report(content))
    return outcomes


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the list as the command line says; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.on_gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default: cuda)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything works")
    names = [stage.name for stage in STAGES]
    parser.add_argument("--stages", nargs="+", metavar="NAME", default=names, help=f"of {', '.join(names)}")
    arguments = parser.parse_args(argv)
    for name in arguments.stages:
        if name not in names:
            raise UserError(f"--stages: unknown name {name!r}{near_matches(name, names)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    chosen = [stage for stage in STAGES if stage.name in arguments.stages]
    outcomes = run_list(chosen, arguments.device, arguments.quick, arguments.output)
    print(f"written: {arguments.output / 'on_gpu.md'}")
    return int(any(outcome.standing != "ok" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
