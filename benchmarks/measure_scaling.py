"""Measure what several processes gain: one training step on one process and on N, each with one thread.

    python benchmarks/measure_scaling.py [--processes 2] [--batch-size 64] [--steps 12] [--rounds 3]

Trains the default model (max frames, 8 Å) on crystals of the embedded sample, in turns with one process and with N,
and prints ratios: of wall-clock time, which needs N free cores, and of the busiest process' CPU time, which other
programs on the machine disturb less. Also how evenly the batches were shared.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import load
from crystalframer.data.registry import load_task
from crystalframer.resolving import build_trial, trial_from_dict
from crystalframer.training.launch import launch
from crystalframer.training.processes import Channel, Processes, split_by_cost
from crystalframer.training.trainer import Trainer

WARM_UP = 3
"""Steps before the clock starts: compilation, the optimiser's state, the crystals' geometry."""


def work(processes: Processes, device: str, _channel: Channel, settings: dict[str, Any], out: Path, steps: int) -> int:
    """Train some steps and write the seconds that each took, by the clock and of this process' CPU."""
    torch.set_num_threads(1)
    trial = trial_from_dict(settings)
    data = load_task(trial.data)
    trainer = Trainer(trial, data, device=device, processes=processes)
    for row in data.rows["train"]:
        trainer._loader.geometry(int(row))
    clock, cpu = [], []

    def after_step(_loss: float) -> None:
        clock.append(time.perf_counter())
        cpu.append(time.process_time())
        if len(clock) == WARM_UP + steps + 1:
            trainer.stop()

    list(trainer.fit(after_step=after_step))
    times = {"clock": np.diff(clock)[WARM_UP:].tolist(), "cpu": np.diff(cpu)[WARM_UP:].tolist()}
    (out / f"{processes.rank}.json").write_text(json.dumps(times), encoding="utf-8")
    return 0


def measure(settings: dict[str, Any], size: int, steps: int) -> tuple[float, float]:
    """Return the median seconds of a step: by the clock, and of the busiest process' CPU."""
    with tempfile.TemporaryDirectory() as folder:
        launch(work, (settings, Path(folder), steps), size)
        found = [json.loads((Path(folder) / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(size)]
    busiest = [max(of_step) for of_step in zip(*(times["cpu"] for times in found), strict=True)]
    return statistics.median(found[0]["clock"]), statistics.median(busiest)


def imbalance(settings: dict[str, Any], size: int) -> float:
    """Return the largest share of a batch over the mean one, averaged over random batches."""
    trial = trial_from_dict(settings)
    data = load_task(trial.data)
    loader = Trainer(trial, data)._loader
    edges = np.array([loader.geometry(int(row)).num_edges for row in data.rows["train"]])
    random = np.random.default_rng(0)
    largest = []
    for _ in range(200):
        batch = random.choice(edges, trial.train.batch_size, replace=False)
        shares = [int(batch[part].sum()) for part in split_by_cost(batch, size)]
        largest.append(max(shares) * size / batch.sum())
    return float(np.mean(largest))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time of a training step in one process and in N.")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args(argv)
    sizes = {"data.train_size": 8 * arguments.batch_size, "train.batch_size": arguments.batch_size}
    settings = build_trial({**sizes, "train.average_epochs": 0}).to_dict()
    rounds = []
    for number in range(arguments.rounds):
        one, several = (measure(settings, size, arguments.steps) for size in (1, arguments.processes))
        rounds.append((one[0] / several[0], one[1] / several[1]))
        print(
            f"round {number + 1}: 1 process {one[0]:.3f} s a step, {arguments.processes} processes {several[0]:.3f} s; "
            f"{rounds[-1][0]:.2f} times as fast, {rounds[-1][1]:.2f} by CPU time (load {load()})",
            flush=True,
        )
    clock, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(
        f"{arguments.processes} processes: {clock:.2f} times as fast by the clock, {cpu:.2f} by the busiest process' "
        f"CPU time; the largest share of a batch is {imbalance(settings, arguments.processes):.3f} of the mean one"
    )
    return 0


if __name__ == "__main__":
    main()
