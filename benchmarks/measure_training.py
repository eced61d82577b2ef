"""Measure whole epochs of training, with batches from the host and with crystals that live on the device.

    python benchmarks/measure_training.py --device cuda --dataset jarvis --batch-size 256   # on a GPU
    python benchmarks/measure_training.py --train-size 512 --epochs 2 --frames max          # here, to see that it works

For each frame, preset, precision and way of making batches: ms per optimiser step (median over the epochs after the
first, which compiles and records; the validation of 16 crystals is part of it), crystals per second, memory of the
resident crystals, the counted work of the attention (fused multiply-adds of forward and backward pass) and its rate,
and the training loss at the end, by which precisions can be compared. Prints a table and, with --output, writes a CSV.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch

from benchmarks.machine import provenance
from crystalframer.config import FRAMES, FrameName, Precision, TrialConfig
from crystalframer.data.dataset import TaskData
from crystalframer.data.registry import load_task
from crystalframer.geometry.batched_neighbours import find_neighbours_of_all
from crystalframer.kernels.moments import num_terms
from crystalframer.resolving import build_trial
from crystalframer.training.trainer import Trainer

EPOCHS_LEFT_OUT = 1
"""The first epoch compiles kernels, records graphs and prepares crystals."""
PASSES = 3
"""Forward, and a backward pass that is counted as two of them."""


@dataclass(frozen=True)
class Measured:
    """One way of training."""

    frame: FrameName
    preset: str
    precision: Precision
    batches: str
    """`host`, or `device` where all crystals live there."""
    steps_per_epoch: int
    ms_per_step: float
    crystals_per_second: float
    seconds_per_epoch: float
    resident_mib: float
    attention_gfma_per_step: float
    attention_gfma_per_second: float
    train_loss: float
    """Mean of the last epoch."""
    first_train_loss: float
    """Mean of the first epoch."""
    peak_mib: float | None
    """Most memory allocated on the device; None on a CPU."""


def edges_per_crystal(data: TaskData, cutoff: float) -> float:
    """Return the mean number of neighbour entries, from the first crystals of the training set."""
    crystals = [data.dataset[int(row)] for row in data.rows["train"][:500]]
    return len(find_neighbours_of_all(crystals, cutoff).index) / len(crystals)


def attention_work(trial: TrialConfig, edges_per_crystal: float) -> float:
    """Return fused multiply-adds of the attention in one step: moments, q·k and Σ p v for every neighbour entry."""
    model = trial.model
    of_entry = model.num_heads * (2 * 3 * num_terms(model) + model.num_dist + 2 * model.head_width)
    return PASSES * of_entry * edges_per_crystal * trial.train.batch_size * model.num_blocks


def measure(
    trial: TrialConfig, preset: str, data: TaskData, device: str, resident: bool | None, edges: float
) -> Measured:
    """Train and time every step's share of its epoch.

    Args:
        trial: at least one epoch more than `EPOCHS_LEFT_OUT`.
        preset: of the model, for the result.
        data: what to train on.
        device: where.
        resident: whether crystals live there, see `Trainer`.
        edges: neighbour entries of a crystal on average.
    """
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    trainer = Trainer(trial, data, device=device, resident=resident)
    results = list(trainer.fit())
    epoch = median(result.seconds for result in results[EPOCHS_LEFT_OUT:])
    held = trainer.resident
    step = epoch / trainer.steps_per_epoch
    work = attention_work(trial, edges)
    return Measured(
        trial.model.frame, preset, trial.train.precision, "device" if held is not None else "host",
        trainer.steps_per_epoch, 1e3 * step, trial.train.batch_size / step, epoch,
        held.num_bytes / 2**20 if held is not None else 0.0, work / 1e9, work / 1e9 / step, results[-1].train_loss,
        results[0].train_loss, torch.cuda.max_memory_allocated(device) / 2**20 if on_gpu else None,
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for."""
    arguments = _parse(argv)
    rows = []
    for frame in arguments.frames:
        for preset in arguments.presets if frame != "none" else arguments.presets[:1]:
            for precision in arguments.precisions:
                settings = {
                    "data.dataset": arguments.dataset, "data.task": arguments.task,
                    "data.train_size": arguments.train_size, "data.val_size": 16, "data.test_size": 16,
                    "model.frame": frame, "model.preset": preset, "model.cutoff": arguments.cutoff,
                    "train.precision": precision, "train.batch_size": arguments.batch_size,
                    "train.epochs": EPOCHS_LEFT_OUT + arguments.epochs, "train.average_epochs": 0,
                }  # fmt: skip
                trial = build_trial(settings)
                data = load_task(trial.data)
                edges = edges_per_crystal(data, trial.model.cutoff)
                for resident in (False, True):
                    row = measure(trial, preset, data, arguments.device, resident, edges)
                    rows.append(row)
                    print(
                        f"{row.frame:<13}{row.preset:<13}{row.precision:<9}batches from {row.batches:<8}"
                        f"{row.ms_per_step:9.3f} ms/step {row.crystals_per_second:10,.0f} crystals/s "
                        f"{row.seconds_per_epoch:8.3f} s/epoch  attention {row.attention_gfma_per_second:8.1f} GFMA/s  "
                        f"loss {row.train_loss:.4f}",
                        flush=True,
                    )
    if arguments.output is not None:
        about = provenance(arguments.device)
        with arguments.output.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, [*asdict(rows[0]), *about], lineterminator="\n")
            writer.writeheader()
            writer.writerows({**asdict(row), **about} for row in rows)
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dataset", default="sample")
    parser.add_argument("--task", default="formation_energy")
    parser.add_argument("--train-size", type=int, help="crystals (default: all)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--cutoff", type=float, default=7.0, help="Å (default: 7)")
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs (default: 3)")
    parser.add_argument("--frames", nargs="+", default=["none", "max", "weighted_pca"], choices=FRAMES)
    parser.add_argument("--presets", nargs="+", default=["default", "lightweight"])
    parser.add_argument("--precisions", nargs="+", default=["float32"], choices=["float32", "tf32", "bf16"])
    parser.add_argument("--output", type=Path, metavar="FILE.csv")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
