"""The processes of `benchmarks.beside_peers`: the peers' environment, models that are timed in turns, trainings."""

import json
import os
import subprocess
import sys
import threading
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, load
from crystalframer.atomic_files import replace_text

Record = dict[str, Any]
CONSTRAINTS = ROOT / "benchmarks" / "peers_constraints.txt"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
INSTALLING = 3_600.0
"""Seconds that the packages may take to be installed."""
PATIENCE = 8.0
"""A training is ended after so many times its processor minutes by the clock, and a quarter of an hour."""


@dataclass(frozen=True)
class Entrant:
    """A model of the comparison."""

    label: str
    place: str
    """``module:name``, for `benchmarks.peer_worker`"""
    timed: bool = True
    trained: bool = True
    """Whether it is trained by default: not where the time holds less than an epoch or so"""

    @property
    def is_ours(self) -> bool:
        """Whether it runs in this environment."""
        return self.place.startswith("benchmarks.our_models")


ENTRANTS = {
    "quick": Entrant("CrystalFramer max, quick", "benchmarks.our_models:quick"),
    "paper": Entrant("CrystalFramer max, paper's default", "benchmarks.our_models:paper"),
    "trees": Entrant("boosted trees on composition", "benchmarks.our_models:trees", timed=False),
    "megnet": Entrant("MEGNet (matgl)", "benchmarks.peer_models:megnet"),
    "m3gnet": Entrant("M3GNet (matgl)", "benchmarks.peer_models:m3gnet"),
    "tensornet": Entrant("TensorNet (matgl)", "benchmarks.peer_models:tensornet", trained=False),
    "alignn_small": Entrant("ALIGNN, small (alignn)", "benchmarks.peer_models:alignn_small"),
    "alignn_paper": Entrant("ALIGNN, paper's size (alignn)", "benchmarks.peer_models:alignn_paper", trained=False),
}


class FailedPartError(RuntimeError):
    """What a part of the comparison failed with, in one line."""


@dataclass(frozen=True)
class Run:
    """One comparison: where things lie, and which interpreters there are."""

    folder: Path
    peers: Path | None
    """Python of the peers' environment, None without one"""

    def command(self, name: str, *options: str) -> list[str]:
        """Return the command of a worker."""
        python = sys.executable if ENTRANTS[name].is_ours else str(self.peers)
        data = str(self.folder / "parts" / "crystals.npz")
        return [python, "-m", "benchmarks.peer_worker", ENTRANTS[name].place, data, *options]

    def log(self, name: str) -> Path:
        """Return the file that takes what a part prints."""
        return self.folder / "logs" / f"{name}.log"


def variables() -> dict[str, str]:
    """Return the environment variables of a worker: one thread, and these modules."""
    return {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)}


def make_environment(folder: Path, log: Path) -> Path:
    """Return the Python of the peers' environment, made if need be.

    Raises:
        FailedPartError: it cannot be made; the log says why.
    """
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    ready = folder / "installed.txt"
    wanted = CONSTRAINTS.read_text(encoding="utf-8")
    if ready.exists() and ready.read_text(encoding="utf-8") == wanted:
        return python
    print(f"installing matgl and alignn into {folder} …", flush=True)
    venv.create(folder, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--constraint", str(CONSTRAINTS), "matgl", "alignn"]
    _run(command, log, INSTALLING)
    replace_text(ready, wanted)
    return python


def time_all(run: Run, names: Sequence[str], count: int, seconds: float) -> Record:
    """Time models in rounds in which they take turns, in an order that turns round every time.

    Returns:
        By name what the worker said of itself and its `rounds`, or `failed`; and the load before and after.
    """
    workers: dict[str, subprocess.Popen[str]] = {}
    found: dict[str, Record] = {}

    def end() -> None:
        for worker in list(workers.values()):
            worker.kill()

    watch = threading.Timer(seconds, end)
    watch.start()
    before = load()
    try:
        for name in names:
            with run.log(f"speed_{name}").open("w", encoding="utf-8") as log:
                workers[name] = subprocess.Popen(
                    run.command(name, "--rounds"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                    cwd=ROOT, env=variables(), text=True,
                )  # fmt: skip
            found[name] = _asked(workers[name], None)
        for turn in range(count):
            for name in list(names)[:: 1 if turn % 2 == 0 else -1]:
                if "failed" not in found[name]:
                    reply = _asked(workers[name], "again")
                    found[name].setdefault("rounds", []).append(reply)
                    found[name] |= {"failed": reply["failed"]} if "failed" in reply else {}
            print(f"round {turn + 1} of {count}", flush=True)
    finally:
        watch.cancel()
        for worker in workers.values():
            worker.kill()
            worker.communicate()
    return {"models": found, "load": [before, load()]}


def _asked(worker: "subprocess.Popen[str]", question: str | None) -> Record:
    """Send a line to a worker and return its answer, or what became of it."""
    assert worker.stdin is not None, "it is a pipe"
    assert worker.stdout is not None, "it is a pipe"
    try:
        if question is not None:
            print(question, file=worker.stdin, flush=True)
        line = worker.stdout.readline()
    except BrokenPipeError:
        line = ""
    return json.loads(line) if line else {"failed": "the process ended before it answered"}


def train_one(run: Run, name: str, minutes: float, seed: int) -> Record:
    """Train a model in a process of its own, and return what came of it.

    Raises:
        FailedPartError: it ended otherwise, or took too long.
    """
    before = load()
    command = run.command(name, "--minutes", str(minutes), "--seed", str(seed))
    printed = _run(command, run.log(f"error_{name}_{seed}"), 60 * (PATIENCE * minutes + 15))
    return {**json.loads(printed), "model": name, "seed": seed, "load": [before, load()]}


def _run(command: Sequence[str], log: Path, seconds: float) -> str:
    with log.open("w", encoding="utf-8") as stream:
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=variables(), stdout=subprocess.PIPE, stderr=stream, text=True,
                timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise FailedPartError(f"ended after {seconds / 60:.0f} minutes") from None
    if done.returncode:
        lines = log.read_text(encoding="utf-8").split("\n")
        raise FailedPartError(next((line for line in reversed(lines) if line.strip()), f"exit code {done.returncode}"))
    return done.stdout


class Parts:
    """Results of finished parts, kept with the settings that they were asked for with."""

    def __init__(self, folder: Path, settings: Record) -> None:
        self.folder = folder
        self.settings = settings

    def get(self, name: str) -> Record | None:
        """Return a part that is finished, None where it is not or was asked for with other settings."""
        file = self.folder / f"{name}.json"
        kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        found: Record | None = kept["result"] if kept.get("settings") == self.settings else None
        return found

    def put(self, name: str, result: Record) -> None:
        """Keep a finished part."""
        content = {"settings": self.settings, "result": result}
        replace_text(self.folder / f"{name}.json", json.dumps(content, indent=1) + "\n")
