"""What the stages of `benchmarks.on_gpu` compute on: the embedded sample's crystals, of 10 atoms as JARVIS's are.

Quick plans take the smallest of them and tiny batches.
"""

import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.workload import Workload
from crystalframer.config import DataConfig, TrialConfig
from crystalframer.data.dataset import TaskData
from crystalframer.data.registry import load_task
from crystalframer.resolving import build_trial

if TYPE_CHECKING:
    from benchmarks.on_gpu import Plan

FMA_LANES = {(7, 5): 64, (8, 0): 64, (8, 6): 128, (8, 9): 128, (9, 0): 128, (10, 0): 128, (12, 0): 128}
"""Fused multiply-adds in float32 that a multiprocessor does per clock, by compute capability."""
CUTOFF = 8.0
"""Å"""
BATCH = 256
"""Crystals"""
CRYSTALS = 1024
"""Different ones to train on"""


def trial_of(plan: "Plan", **settings: Any) -> TrialConfig:
    """Return the settings of a training, published batch and cutoff unless it is quick."""
    own: dict[str, Any] = {
        "train.batch_size": 4 if plan.quick else BATCH, "model.cutoff": 4.0 if plan.quick else CUTOFF,
        "train.epochs": 2 if plan.quick else 4, "train.average_epochs": 0,
    }  # fmt: skip
    if plan.quick:
        own["model.num_blocks"] = 1
    if plan.quick and plan.device == "cpu":
        own["train.kernel"] = "reference"  # it need not be compiled
    return build_trial({**own, **settings})


def task_of(plan: "Plan", steps: int = 30) -> TaskData:
    """Return formation energies of the sample; crystals are repeated until an epoch has `steps` steps."""
    found = load_task(DataConfig(val_size=16, test_size=16))
    rows, batch = found.rows["train"], BATCH
    if plan.quick:
        sizes, steps, batch = found.dataset.num_atoms, 3, 4
        small = {split: own[np.argsort(sizes[own], kind="stable")][:8] for split, own in found.rows.items()}
        found, rows = replace(found, rows=small), small["train"]
    else:
        rows = rows[:CRYSTALS]
    return replace(found, rows={**found.rows, "train": np.resize(rows, steps * batch)})


def workload_of(plan: "Plan", count: int) -> Workload:
    """Return training crystals as one batch."""
    data = task_of(plan)
    crystals = tuple(data.dataset[int(row)] for row in np.resize(data.rows["train"], count))
    return Workload(str(count), "sample", crystals, 4.0 if plan.quick else CUTOFF)


def peak_gfma(device: str) -> float | None:
    """Return the fused multiply-adds in float32 that a GPU can do at most, 10⁹ a second; None where not known."""
    if not device.startswith("cuda"):
        return None
    about = torch.cuda.get_device_properties(device)
    lanes, clock = FMA_LANES.get((about.major, about.minor)), nvidia_smi("clocks.max.sm")
    if lanes is None or not clock.isdecimal():
        return None
    return about.multi_processor_count * lanes * int(clock) / 1e3


def nvidia_smi(field: str) -> str:
    """Return what the driver's program says of the first GPU, "" where it is not there."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout
    return answer.splitlines()[0].strip() if answer else ""
