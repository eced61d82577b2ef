"""A batch in parts breaks its ties as the whole does."""

from dataclasses import replace

import pytest
import torch

from crystalframer.config import FrameName, KernelName
from crystalframer.data.batch import Preceding
from tests.fixtures.crystals import batch_of, doubled, symmetric_crystals
from tests.fixtures.implementations import KERNELS
from tests.fixtures.models import loud_model, small_config

TIE_SEED = 11


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("frame", ["pca", "static_local", "weighted_pca", "max"])
def test_predictions_of_the_parts_are_those_of_the_whole(kernel: KernelName, frame: FrameName) -> None:
    symmetric = symmetric_crystals()
    crystals = [
        symmetric["rocksalt"],
        symmetric["diamond"],
        symmetric["hcp"],
        symmetric["fcc"],
        doubled(symmetric["hcp"]),
    ]
    model = loud_model(small_config(frame), kernel)
    whole = model(batch_of(*crystals, cutoff=6.0), TIE_SEED).detach()
    first, second = batch_of(*crystals[:2], cutoff=6.0), batch_of(*crystals[2:], cutoff=6.0)
    preceding = Preceding(crystals=2, atoms=first.num_atoms, edges=first.num_edges)
    parts = torch.cat([model(first, TIE_SEED), model(replace(second, preceding=preceding), TIE_SEED)]).detach()
    torch.testing.assert_close(parts, whole, atol=2e-5, rtol=0)
    unplaced = model(second, TIE_SEED).detach()
    assert (unplaced - whole[2:]).abs().max() > 1e-3, "the ties must matter for this test to mean anything"
