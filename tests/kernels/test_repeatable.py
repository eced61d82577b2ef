"""The same numbers bit by bit, wherever in memory the arrays lie: resuming a run relies on it."""

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
