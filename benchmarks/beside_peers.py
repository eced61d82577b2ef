"""Compare CrystalFramer with models that install by pip, and with boosted trees, on one core and the same crystals.

    python -m benchmarks.beside_peers --output DIR                             # CrystalFramer and the trees alone
    python -m benchmarks.beside_peers --output DIR --environment ENV           # beside matgl's and alignn's models
    python -m benchmarks.beside_peers --output DIR --environment ENV --dataset jarvis --minutes 10 --seeds 3

ENV is a folder for a virtual environment of their own, made where it is not there yet (2 GB, with the versions of
`benchmarks/peers_constraints.txt`); CrystalFramer's own environment stays as it is. Two kinds of numbers:

- speed: milliseconds of processor time a crystal for preparing, a training step in batches of 32, and a prediction, in
  rounds in which the models take turns; peak memory; parameters;
- error: on the test crystals after equal processor minutes of training, preparing included.

Every model runs in a process of its own with one thread. What fails is reported, and does not stop the others. A part
that is finished is in DIR/parts and not done again, so a run that is stopped resumes with the same command. DIR gets
`beside_peers.json`, `beside_peers.md` and `beside_peers.png`.
"""

import argparse
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

import numpy as np

from benchmarks.machine import ROOT, load, provenance
from benchmarks.peer_report import draw, report
from crystalframer.atomic_files import replace_text
from crystalframer.command_line import reports_user_errors
from crystalframer.config import DataConfig
from crystalframer.data.dataset import SPLITS, TaskData
from crystalframer.data.registry import load_task
from crystalframer.errors import UserError, near_matches

Record = dict[str, Any]
CONSTRAINTS = ROOT / "benchmarks" / "peers_constraints.txt"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
INSTALLING = 3_600.0
"""Seconds that the packages may take to be installed."""
PATIENCE = 8.0
"""A training may take so many times its processor minutes by the clock, and a quarter of an hour, before it is ended."""


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


class Failure(RuntimeError):
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


def main_environment() -> dict[str, str]:
    """Return the environment variables of a worker."""
    return {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)}


def make_environment(folder: Path, log: Path) -> Path:
    """Return the Python of the peers' environment, made if need be.

    Raises:
        Failure: it cannot be made; the log says why.
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


def write_crystals(data: TaskData, crystals: int, file: Path) -> None:
    """Write the task's crystals as plain arrays; those to be timed are training crystals, evenly spaced by size.

    Raises:
        UserError: there are several targets, disordered crystals, or fewer training crystals than asked for.
    """
    if data.targets.ndim > 1 or data.dataset.mixture is not None:
        raise UserError("--dataset: got disordered crystals or several tasks, expected ordered ones and one task")
    rows = np.concatenate([data.rows[split] for split in SPLITS])
    own = [data.dataset[int(row)] for row in rows]
    sizes = np.array([crystal.num_atoms for crystal in own])
    count = len(data.rows["train"])
    if count < crystals:
        raise UserError(f"--crystals: got {crystals}, but there are {count} training crystals; give at most as many")
    order = np.argsort(sizes[:count], kind="stable")
    timed = order[((np.arange(crystals) + 0.5) * count / crystals).astype(np.int64)]
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        file,
        lattice=np.stack([crystal.lattice for crystal in own]),
        offsets=np.concatenate([[0], np.cumsum(sizes)]),
        numbers=np.concatenate([crystal.atomic_numbers for crystal in own]),
        coords=np.concatenate([crystal.frac_coords for crystal in own]),
        targets=data.targets[rows],
        split=np.repeat(np.arange(len(SPLITS)), [len(data.rows[split]) for split in SPLITS]),
        timed=np.random.default_rng(0).permutation(timed),
    )


def time_all(run: Run, names: Sequence[str], count: int, seconds: float) -> Record:
    """Time models in rounds in which they take turns, in an order that turns round every time.

    Returns:
        By name what the worker said of itself and its `rounds`, or `failed`; and the load before and after.
    """
    workers: dict[str, subprocess.Popen[str]] = {}
    found: dict[str, Record] = {}
    watch = threading.Timer(seconds, lambda: [worker.kill() for worker in list(workers.values())])
    watch.start()
    before = load()
    try:
        for name in names:
            with run.log(f"speed_{name}").open("w", encoding="utf-8") as log:
                workers[name] = subprocess.Popen(
                    run.command(name, "--rounds"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                    cwd=ROOT, env=main_environment(), text=True,
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
        Failure: it ended otherwise, or took too long.
    """
    before = load()
    command = run.command(name, "--minutes", str(minutes), "--seed", str(seed))
    printed = _run(command, run.log(f"error_{name}_{seed}"), 60 * (PATIENCE * minutes + 15))
    return {**json.loads(printed), "model": name, "seed": seed, "load": [before, load()]}


def _run(command: Sequence[str], log: Path, seconds: float) -> str:
    with log.open("w", encoding="utf-8") as stream:
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=main_environment(), stdout=subprocess.PIPE, stderr=stream, text=True,
                timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Failure(f"ended after {seconds / 60:.0f} minutes") from None
    if done.returncode:
        lines = log.read_text(encoding="utf-8").split("\n")
        raise Failure(next((line for line in reversed(lines) if line.strip()), f"exit code {done.returncode}"))
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


def compare(run: Run, arguments: argparse.Namespace, settings: Record) -> Record:
    """Do what is not done yet, and write the results after each part; return them."""
    failed: dict[str, str] = {}
    speed: Record = {}
    errors: list[Record] = []
    content = {"about": provenance("cpu"), "settings": settings, "speed": speed, "errors": errors, "failed": failed}

    def write() -> None:
        replace_text(run.folder / "beside_peers.json", json.dumps(content, indent=1) + "\n")
        replace_text(run.folder / "beside_peers.md", report(content))

    names = [name for name in arguments.models if ENTRANTS[name].is_ours or run.peers is not None]
    timed = [name for name in names if ENTRANTS[name].timed]
    if "speed" in arguments.stages:
        parts = Parts(run.folder / "parts", {**settings, "timed": timed, "rounds": arguments.rounds})
        if (kept := parts.get("speed")) is None:
            kept = time_all(run, timed, arguments.rounds, 60 * arguments.speed_minutes)
            if not any("failed" in one for one in kept["models"].values()):
                parts.put("speed", kept)
        speed |= kept
        failed |= {f"speed of {name}": one["failed"] for name, one in kept["models"].items() if "failed" in one}
        write()
    parts = Parts(run.folder / "parts", {**settings, "minutes": arguments.minutes})
    for name in [name for name in names if ENTRANTS[name].trained] if "error" in arguments.stages else []:
        own = arguments.seeds if name == "quick" else arguments.peer_seeds if name != "trees" else 1
        for seed in range(own):
            part = f"error_{name}_{seed}"
            if (kept := parts.get(part)) is None:
                print(f"{ENTRANTS[name].label}, seed {seed}: ", end="", flush=True)
                try:
                    kept = train_one(run, name, arguments.minutes, seed)
                except Failure as error:
                    failed[part] = str(error)
                    print(f"FAILED: {error}", flush=True)
                    write()
                    continue
                parts.put(part, kept)
                print(f"test error {kept['test_mae']:.4f} after {kept['processor_minutes']:.1f} minutes", flush=True)
            errors.append(kept)
            write()
    draw(content, run.folder / "beside_peers.png")
    return content


@reports_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Compare as the command line says; return the exit code, 1 where a part failed."""
    arguments = _parse(argv)
    for name in arguments.models:
        if name not in ENTRANTS:
            raise UserError(f"--models: unknown name {name!r}{near_matches(name, ENTRANTS)}")
    folder = arguments.output.absolute()
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    data = load_task(DataConfig(dataset=arguments.dataset, task=arguments.task, train_size=arguments.train_size))
    write_crystals(data, arguments.crystals, folder / "parts" / "crystals.npz")
    peers, trouble = None, {}
    if arguments.environment is not None:
        try:
            peers = make_environment(arguments.environment.absolute(), folder / "logs" / "environment.log")
        except Failure as error:
            trouble["environment"] = str(error)
    settings = {
        "dataset": arguments.dataset, "task": arguments.task, "unit": data.unit, "fingerprint": data.fingerprint,
        "crystals": arguments.crystals, **{split: len(rows) for split, rows in data.rows.items()},
    }  # fmt: skip
    content = compare(Run(folder, peers), arguments, settings)
    for what, why in (failures := {**trouble, **content["failed"]}).items():
        print(f"failed: {what}: {why}", file=sys.stderr)
    print(f"written: {folder / 'beside_peers.md'}")
    return int(bool(failures))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.beside_peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--environment", type=Path, metavar="ENV", help="folder of the peers' environment")
    parser.add_argument("--dataset", default="sample", help="a prepared data set (default: the embedded sample)")
    parser.add_argument("--task", default="formation_energy")
    parser.add_argument("--train-size", type=int, metavar="N", help="training crystals (default: all)")
    parser.add_argument("--models", nargs="+", default=list(ENTRANTS), metavar="NAME", help=f"of {', '.join(ENTRANTS)}")
    parser.add_argument("--stages", nargs="+", default=["speed", "error"], choices=["speed", "error"])
    parser.add_argument("--crystals", type=int, default=64, help="whose handling is timed (default: 64)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    parser.add_argument("--speed-minutes", type=float, default=60.0, help="after which timing is ended (default: 60)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of one core for a training (default: 10)")
    parser.add_argument("--seeds", type=int, default=3, help="of CrystalFramer's quick model (default: 3)")
    parser.add_argument("--peer-seeds", type=int, default=1, help="of the others (default: 1)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
