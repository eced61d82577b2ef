"""A batch computed in parts, because memory asked for it or by several processes, has the same gradient."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crystalframer.config import TrialConfig
from crystalframer.data.dataset import TaskData
from crystalframer.training.gradient import BatchGradient
from crystalframer.training.out_of_memory import is_out_of_memory
from crystalframer.training.processes import split_by_cost
from crystalframer.training.trainer import Trainer

MakeTrial = Callable[[dict[str, Any]], TrialConfig]
ROOT = Path(__file__).parents[2]
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limit on address space")


@pytest.mark.parametrize(
    ("costs", "parts", "expected"),
    [
        ([1, 1, 1, 1], 2, [(0, 2), (2, 4)]),
        ([10, 1, 1, 1], 2, [(0, 1), (1, 4)]),
        ([2, 2, 10, 1, 1], 2, [(0, 2), (2, 5)]),
        ([5, 3, 4, 2, 2, 8], 3, [(0, 2), (2, 5), (5, 6)]),
        ([7], 3, [(0, 0), (0, 1), (1, 1)]),
        ([3, 3], 1, [(0, 2)]),
    ],
)
def test_a_batch_is_cut_into_parts_of_equal_cost(costs: list[int], parts: int, expected: list[tuple[int, int]]) -> None:
    found = [(part.start, part.stop) for part in split_by_cost(np.array(costs), parts)]
    assert found == expected


def test_shares_of_real_batches_differ_by_less_than_a_crystal() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        costs = random.lognormal(7, 1, 64).astype(np.int64)
        shares = [int(costs[part].sum()) for part in split_by_cost(costs, 4)]
        assert sum(shares) == costs.sum()
        assert max(shares) - costs.sum() / 4 <= costs.max()


def gradient(trainer: Trainer) -> torch.Tensor:
    return torch.cat([value.grad.flatten() for value in trainer.model.parameters() if value.grad is not None])


@pytest.mark.parametrize("frame", ["none", "pca", "static_local", "weighted_pca", "max"])
def test_the_gradient_in_parts_is_that_in_one_piece(make_trial: MakeTrial, data: TaskData, frame: str) -> None:
    trainer = Trainer(make_trial({"model.frame": frame}), data)
    trainer.prepare()
    batches = BatchGradient(trainer.model, trainer._loader, trainer.targets, device=trainer.device)
    rows = data.rows["train"][:17]
    loss = batches.compute(rows, 5).loss
    whole = gradient(trainer)
    for parts in (2, 4, 32):
        batches.parts = parts
        assert batches.compute(rows, 5).loss == pytest.approx(loss, rel=1e-6)
        assert float((gradient(trainer) - whole).norm() / whole.norm()) < 2e-6
    batches.compute(rows, 6)
    other = float((gradient(trainer) - whole).norm() / whole.norm())
    assert other > 1e-4 or frame == "none", "ties must matter for this test to mean anything"


LIMITED = """
import gc, logging, resource, sys
import torch
from crystalframer.config import DataConfig
from crystalframer.resolving import build_trial
from crystalframer.data.registry import load_task
from crystalframer.training.trainer import Trainer

logging.basicConfig(stream=sys.stdout, format="logged: %(message)s")
torch.set_num_threads(1)
room = float(sys.argv[1]) * 2**20
settings = {"data.train_size": 64, "data.val_size": 4, "train.batch_size": 64, "train.average_epochs": 0,
            "train.epochs": 2, "train.kernel": "reference", "model.frame": "none", "model.cutoff": 3.0,
            "model.width": 32, "model.num_heads": 1, "model.num_blocks": 1, "model.ffn_width": int(sys.argv[2])}
trial = build_trial(settings)
data = load_task(trial.data)

def losses(limited):
    trainer = Trainer(trial, data)
    trainer.prepare()
    found = []
    steps = trainer.fit(after_step=found.append)
    if limited:
        resource.setrlimit(resource.RLIMIT_AS, (int(in_use() + room), resource.RLIM_INFINITY))
    list(steps)
    return found, trainer.progress.parts

def in_use():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

free, parts = losses(False)
assert parts == 1
tight, parts = losses(True)
print("parts", parts)
print("losses", *free, *tight)
"""


def limited(megabytes: int, ffn_width: int) -> subprocess.CompletedProcess[str]:
    """Train with and without that much memory beyond what the process has before the first step."""
    command = [sys.executable, "-c", textwrap.dedent(LIMITED), str(megabytes), str(ffn_width)]
    exact = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed is given back at once
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **exact}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@needs_linux
def test_without_memory_for_a_batch_its_halves_train_the_same() -> None:
    done = limited(120, ffn_width=2**14)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    logged = [line for line in lines if line.startswith("logged")]
    parts = int(lines[-2].split()[1])
    assert parts in (2, 4, 8, 16)
    assert 1 <= len(logged) == len(set(logged)) <= 2, "said once, and again only where memory got tighter"
    assert logged[-1].endswith(f"from now on in {parts} parts, with the same gradient")
    losses = list(map(float, lines[-1].split()[1:]))
    assert losses[:2] == pytest.approx(losses[2:], rel=1e-5)


@needs_linux
def test_without_memory_for_a_crystal_the_largest_is_named() -> None:
    done = limited(20, ffn_width=2**17)  # 34 MB of gradients alone
    assert done.returncode == 1
    problem = done.stderr.splitlines()[-1]
    assert (
        "UserError: not enough memory on cpu for the crystals one by one: the largest of the 64 in the batch" in problem
    )
    assert "atoms; leave it out of the data set, choose a smaller model.cutoff, or a machine with more" in problem


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("The size of tensor a (3) must match"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_without_memory_on_the_gpu_the_batch_is_halved(make_trial: MakeTrial, data: TaskData) -> None:
    trial = make_trial({"train.batch_size": 20, "train.kernel": "auto", "model.ffn_width": 2**18})
    free = Trainer(trial, data, device="cuda", resident=False)
    expected: list[float] = []
    list(free.fit(after_step=expected.append))
    peak = torch.cuda.max_memory_reserved()
    del free
    torch.cuda.empty_cache()
    tight = Trainer(trial, data, device="cuda", resident=False)
    found: list[float] = []
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction(0.9 * peak / total)
        list(tight.fit(after_step=found.append))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert tight.progress.parts > 1
    assert found == pytest.approx(expected, rel=1e-3)
