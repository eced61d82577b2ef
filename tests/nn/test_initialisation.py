"""Initial weights follow T-Fixup and the scaled Xavier rule of the projections."""

import math

import pytest
import torch
from torch import Tensor

from crystalframer.config import ModelConfig
from crystalframer.nn.model import CrystalFramer

CONFIG = ModelConfig()
MODEL = CrystalFramer(CONFIG, kernel="reference", generator=torch.Generator().manual_seed(0))
FIXUP = 0.67 * CONFIG.num_blocks**-0.25


def assert_uniform(weight: Tensor, bound: float) -> None:
    """Check a uniform distribution on ±bound by its limits, mean and variance."""
    sample = weight.detach().double().flatten()
    count = len(sample)
    assert sample.abs().max() <= bound * (1 + 1e-6)
    assert sample.abs().max() > bound * (1 - 10 / count)
    assert abs(float(sample.mean())) < 5 * bound / math.sqrt(3 * count)
    assert float(sample.var()) == pytest.approx(bound**2 / 3, rel=5 / math.sqrt(count))


def xavier(rows: int, columns: int, gain: float = 1.0) -> float:
    return gain * math.sqrt(6 / (rows + columns))


def test_embedding() -> None:
    weight = MODEL.embedding.weight.detach()
    std = 128**-0.5 * (9 * 4) ** -0.25
    assert weight.shape == (98, 128)
    assert float(weight.std()) == pytest.approx(std, rel=0.03)
    assert float((weight / std).pow(4).mean()) == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("level", range(4))
def test_block(level: int) -> None:
    block = MODEL.levels[level]
    attention = block.attention
    square = xavier(128, 128)
    for linear, gain in (
        (attention.query, 1.0),
        (attention.key, 1.0),
        (attention.value, FIXUP),
        (attention.out, FIXUP),
    ):
        assert_uniform(linear.weight, gain * square)
        assert not linear.bias.any()
    assert_uniform(attention.sigma_weight, xavier(8, 16))
    assert_uniform(attention.w_dist, xavier(128, 64, gain=1 / math.sqrt(64)))
    assert attention.w_angl is not None
    for projection in attention.w_angl:
        assert_uniform(projection, xavier(128, 64, gain=1 / math.sqrt(64)))
    assert float(attention.logit_scale) == pytest.approx(0.25)


@pytest.mark.parametrize("level", range(4))
def test_feed_forward(level: int) -> None:
    linears = [module for module in MODEL.levels[level].modules() if isinstance(module, torch.nn.Linear)]
    wide = [linear for linear in linears if 512 in linear.weight.shape]
    assert len(wide) == 2
    for linear in wide:
        assert_uniform(linear.weight, xavier(128, 512, gain=FIXUP))
        assert not linear.bias.any()


def test_head() -> None:
    for linear in (MODEL.head_in, MODEL.head_out):
        assert_uniform(linear.weight, 1 / math.sqrt(128))
        assert linear.bias.abs().max() <= 1 / math.sqrt(128)


def test_lightweight_projections_are_scaled_by_their_own_number_of_functions() -> None:
    config = ModelConfig(num_angl=16, s_angl=1.0, c_dist=1.5, c_angl=6.0)
    model = CrystalFramer(config, kernel="reference", generator=torch.Generator().manual_seed(0))
    projections = model.levels[0].attention.w_angl
    assert projections is not None
    for projection in projections:
        assert_uniform(projection, xavier(128, 16, gain=0.25))
