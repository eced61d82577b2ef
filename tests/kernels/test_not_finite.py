"""Inputs that are no numbers, as a diverging training makes them, come out as such and raise nothing."""

import pytest
import torch

from crystalframer.config import FRAMES, FrameName, KernelName
from crystalframer.kernels import AttentionInputs, get_kernel
from crystalframer.kernels.parity import make_batch, make_inputs, random_crystal
from tests.fixtures.implementations import KERNELS
from tests.fixtures.models import small_config


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize("frame", FRAMES)
def test_they_spread_only_within_their_crystal(frame: FrameName, value: float, kernel: KernelName) -> None:
    config = small_config(frame, cutoff=4.0)
    batch = make_batch([random_crystal(3), random_crystal(4, seed=1)], config.cutoff)
    inputs = make_inputs(batch, config)
    whole = get_kernel(kernel)(inputs, batch, config, 1).detach()
    query, key = inputs.query.detach().clone(), inputs.key.detach().clone()
    query[0] = value
    key[1] = -value
    spoilt = AttentionInputs(**{**vars(inputs), "query": query.requires_grad_(), "key": key})
    out = get_kernel(kernel)(spoilt, batch, config, 1)
    assert torch.equal(out[3:].detach(), whole[3:])
    if value != 1e30:
        assert not torch.isfinite(out[0]).any()
    torch.autograd.backward(out.nan_to_num().sum())
