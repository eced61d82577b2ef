"""One model in a process of its own, in its own environment: timed in rounds, or trained for so many minutes.

    python -m benchmarks.peer_worker MODEL DATA.npz --rounds                    # answers every line that it is sent
    python -m benchmarks.peer_worker MODEL DATA.npz --minutes 10 --seed 0

`benchmarks.beside_peers` starts it. It imports NumPy and torch, and of the models' packages only the one asked for.
Answers are lines of JSON. Time is processor time of the whole process.
"""

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SPLITS = ("train", "val", "test")
BATCH = 32
"""Crystals in a batch of the timed rounds."""
TICKS = 2_000
"""Steps of a learning-rate schedule, which follows the share of the time that is used."""
MARKS = (0.2, 0.4, 0.6, 0.8)
"""Shares of the time after which the validation error is taken; that is not part of the time."""
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Crystals:
    """Crystals and their targets, as they lie in the file that all models read."""

    lattice: NDArray[np.float64]
    """(S, 3, 3) in Å"""
    offsets: NDArray[np.int64]
    """(S + 1,)"""
    numbers: NDArray[np.int64]
    """(N,) atomic numbers"""
    coords: NDArray[np.float64]
    """(N, 3) in units of the lattice vectors"""
    targets: NDArray[np.float64]
    """(S,)"""
    split: NDArray[np.int64]
    """(S,) index into `SPLITS`"""
    timed: NDArray[np.int64]
    """Rows of the crystals whose handling is timed"""

    @classmethod
    def read(cls, file: str | Path) -> "Crystals":
        """Read what `np.savez` wrote."""
        with np.load(file) as found:
            return cls(**{name: found[name] for name in cls.__annotations__})

    def rows(self, split: str) -> list[int]:
        """Return the rows of a split."""
        rows: list[int] = np.flatnonzero(self.split == SPLITS.index(split)).tolist()
        return rows

    def atoms(self, row: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
        """Return lattice, atomic numbers and fractional coordinates of a crystal."""
        own = slice(self.offsets[row], self.offsets[row + 1])
        return self.lattice[row], self.numbers[own], self.coords[own]


@dataclass(frozen=True)
class Contender:
    """A model with what it takes to train it."""

    model: nn.Module
    structure: Callable[..., Any]
    """Turns lattice, atomic numbers and coordinates into what the package calls a structure; not timed"""
    graph: Callable[[Any], Any]
    """Prepares a structure"""
    output: Callable[[list[Any]], Tensor]
    """Makes a batch and predicts standardised targets, (S,)"""
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler | None
    """Of `TICKS` steps; None: only timed here, as the model has a training of its own"""
    about: str
    """What it is and how it is trained"""
    packages: tuple[str, ...]
    clip: float | None = None

    def step(self, graphs: list[Any], targets: Tensor) -> None:
        """Do one training step with the mean absolute error on standardised targets."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = (self.output(graphs).reshape(-1) - targets).abs().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()

    @torch.no_grad()
    def predict(self, graphs: list[Any]) -> NDArray[np.float64]:
        """Predict standardised targets, (S,)."""
        self.model.eval()
        parts = [self.output(graphs[first : first + BATCH]).reshape(-1) for first in range(0, len(graphs), BATCH)]
        return torch.cat(parts).double().numpy()

    def facts(self) -> dict[str, Any]:
        """Return what a reader wants to know of the model."""
        count = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)
        versions = {name: metadata.version(name) for name in (*self.packages, "torch")}
        return {"about": self.about, "parameters": count, "versions": versions}


def rounds(contender: Contender, crystals: Crystals) -> None:
    """Answer every line of the input with ms of processor time a crystal: preparing, a training step, a prediction."""
    structures = [contender.structure(*crystals.atoms(row)) for row in crystals.timed.tolist()]
    targets = torch.zeros(len(structures))
    before = resident_peak()

    def once() -> dict[str, float]:
        found: dict[str, float] = {}
        started = time.process_time()
        graphs = [contender.graph(structure) for structure in structures]
        found["prepare"] = time.process_time() - started
        started = time.process_time()
        for first in range(0, len(graphs), BATCH):
            contender.step(graphs[first : first + BATCH], targets[first : first + BATCH])
        found["step"] = time.process_time() - started
        started = time.process_time()
        contender.predict(graphs)
        found["predict"] = time.process_time() - started
        return {name: 1e3 * seconds / len(structures) for name, seconds in found.items()}

    once()  # compiles, and fills caches
    answer({"ready": True, **contender.facts()})
    for _ in sys.stdin:
        memory = {"peak_mib": resident_peak() / MEBIBYTE, "added_mib": (resident_peak() - before) / MEBIBYTE}
        answer({**once(), **memory})


def train(contender: Contender, crystals: Crystals, minutes: float, seed: int) -> dict[str, Any]:
    """Train until the processor minutes are used up, preparing included, and return errors in the targets' unit."""
    assert contender.scheduler is not None, "the model has no training of its own"
    structures = [contender.structure(*crystals.atoms(row)) for row in range(len(crystals.targets))]
    rows = {split: crystals.rows(split) for split in SPLITS}
    own = crystals.targets[rows["train"]]
    mean, std = float(own.mean()), float(own.std())
    targets = torch.from_numpy((own - mean) / std).float()
    judged = {split: [contender.graph(structures[row]) for row in rows[split]] for split in ("val", "test")}

    def error(split: str) -> float:
        predicted = contender.predict(judged[split]) * std + mean
        return float(np.abs(predicted - crystals.targets[rows[split]]).mean())

    generator = torch.Generator().manual_seed(seed)
    started, apart, done = time.process_time(), 0.0, 0
    curve: list[tuple[float, float]] = []
    graphs = [contender.graph(structures[row]) for row in rows["train"]]
    order: list[int] = []
    while (share := (time.process_time() - started - apart) / (60 * minutes)) < 1:
        if len(curve) < len(MARKS) and share >= MARKS[len(curve)]:
            before = time.process_time()
            curve.append((minutes * share, error("val")))
            apart += time.process_time() - before
        if len(order) < BATCH:
            order += torch.randperm(len(graphs), generator=generator).tolist()
        batch, order = order[:BATCH], order[BATCH:]
        contender.step([graphs[row] for row in batch], targets[batch])
        done += 1
        while contender.scheduler.last_epoch < int(share * TICKS):
            contender.scheduler.step()
    used = (time.process_time() - started - apart) / 60
    curve.append((used, error("val")))
    return {
        "processor_minutes": used, "epochs": done * BATCH / len(graphs), "steps": done, "curve": curve,
        "val_mae": curve[-1][1], "test_mae": error("test"),
    }  # fmt: skip


def resident_peak() -> int:
    """Return the largest resident set so far in bytes.

    Linux's `ru_maxrss` would include what the parent process had before this one was started.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def answer(record: dict[str, Any]) -> None:
    """Write a line where nothing else is written."""
    print(json.dumps(record), file=sys.__stdout__, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Be the model that the command line names; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peer_worker", description=(__doc__ or "")[:120])
    parser.add_argument("model", help="MODULE:NAME, as benchmarks.peer_models:megnet")
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", action="store_true")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    sys.stdout = sys.stderr  # what packages print goes to the log
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    module_name, _, name = arguments.model.partition(":")
    module = importlib.import_module(module_name)
    crystals = Crystals.read(arguments.data)
    elements = sorted(set(crystals.numbers.tolist()))
    if arguments.rounds:
        rounds(module.contender(name, elements), crystals)
        return 0
    began = time.perf_counter()
    if hasattr(module, "train"):
        found = module.train(name, crystals, arguments.minutes, arguments.seed)
    else:
        contender = module.contender(name, elements)
        found = {**contender.facts(), **train(contender, crystals, arguments.minutes, arguments.seed)}
    wall = (time.perf_counter() - began) / 60
    answer({**found, "wall_minutes": wall, "peak_mib": resident_peak() / MEBIBYTE})
    return 0


if __name__ == "__main__":
    sys.exit(main())
