"""The same numbers bit by bit, wherever in memory the arrays lie: resuming a run relies on it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from crystalframer.config import FrameName, KernelName
from tests.fixtures import crystals as c
from tests.fixtures.implementations import KERNELS
from tests.fixtures.models import loud_model, small_config


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("frame", ["none", "max", "weighted_pca", "lattice"])
@pytest.mark.parametrize("cutoff", [3.5, 6.0], ids=["few neighbours", "many neighbours"])
def test_gradients_do_not_depend_on_where_arrays_lie(frame: FrameName, kernel: KernelName, cutoff: float) -> None:
    model = loud_model(small_config(frame, cutoff=cutoff), kernel)
    crystals = [*c.symmetric_crystals().values(), *(c.generic_crystal(seed) for seed in range(3))]
    random = np.random.default_rng(0)
    clutter: list[NDArray[np.float32]] = []
    first: list[Tensor] = []
    for _ in range(12):
        batch = c.batch_of(*crystals, cutoff=cutoff)
        clutter.append(np.empty(random.integers(1, 2000), np.float32))
        model.zero_grad()
        model(batch, tie_seed=1).sum().backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        first = first or gradients
        assert all(torch.equal(one, other) for one, other in zip(first, gradients, strict=True))


DIGEST = """
import hashlib
import torch
from tests.fixtures import crystals as c
from tests.fixtures.models import loud_model, small_config

digest = hashlib.sha256()
for frame in ("none", "lattice", "static_local", "weighted_pca", "max"):
    model = loud_model(small_config(frame, cutoff=6.0), "cpu")
    model(c.batch_of(*(c.generic_crystal(seed) for seed in range(3)), cutoff=6.0), tie_seed=1).sum().backward()
    for parameter in model.parameters():
        if parameter.grad is not None:
            digest.update(parameter.grad.numpy().tobytes())
for frame in ("static_local", "weighted_pca", "max"):
    model = loud_model(small_config(frame, cutoff=6.0, ties="mean"), "cpu")
    with torch.no_grad():
        predicted = model(c.batch_of(*c.symmetric_crystals().values(), c.generic_crystal(0), cutoff=6.0))
    digest.update(predicted.numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_the_process_that_compiles_computes_the_same_as_those_that_find_it_compiled(root: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    said, compiled = [], []
    for _ in range(2):
        command = [sys.executable, "-c", DIGEST]
        done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
        said.append(done.stdout)
        compiled.append({path.relative_to(tmp_path) for path in tmp_path.rglob("*.nbc")})
    assert said[0] == said[1]
    assert compiled[0] == compiled[1]  # the second process found everything it needed
    loops = [path.name for path in compiled[0] if "cpu_" in path.name]
    assert len(loops) >= 4  # forward, the same with the mean over ties, backward, neighbours
