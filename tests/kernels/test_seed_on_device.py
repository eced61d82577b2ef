"""A tie seed may be a number or a tensor on the device; each implementation then draws the same."""

import pytest
import torch

from crystalframer.config import FrameName, KernelName
from tests.fixtures import crystals as c
from tests.fixtures.implementations import KERNELS
from tests.fixtures.models import loud_model, small_config


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("frame", ["pca", "static_local", "weighted_pca", "max"])
def test_a_tensor_seed_predicts_as_the_number_does(frame: FrameName, kernel: KernelName) -> None:
    model = loud_model(small_config(frame, cutoff=4.0), kernel)
    batch = c.batch_of(*c.symmetric_crystals().values(), cutoff=4.0)
    with torch.no_grad():
        by_number, by_tensor, other = (model(batch, seed) for seed in (12, torch.tensor(12), 13))
    assert torch.equal(by_number, by_tensor)
    assert not torch.equal(by_number, other)
