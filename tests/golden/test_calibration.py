"""The σ normalisation of the golden files is what `calibrate` measures on their batch."""

import pytest
import torch

from tests.golden import comparison as golden

CALIBRATED = ("none_default", "max_default", "max_lightweight", "lattice_default")
"""Files whose normalisation was measured on their own crystals, with frames that our own equal."""


@pytest.mark.parametrize("name", CALIBRATED)
def test_calibrate_measures_the_file_s_scale_and_shift(name: str) -> None:
    model, batch = golden.model_of(name, "reference", torch.float64), golden.batch_of(name, torch.float64)
    expected = [(float(b.attention.alpha_mean), float(b.attention.alpha_std)) for b in model.levels]
    with torch.no_grad():
        for block in model.levels:
            block.attention.alpha_mean.fill_(0.0)
            block.attention.alpha_std.fill_(torch.nan)
    model.calibrate(batch)
    for level, (block, (mean, std)) in enumerate(zip(model.levels, expected, strict=True)):
        # the second block carries the released implementation's treatment of `unwrapped4`
        tolerance = 1e-6 if level == 0 else 2e-3
        assert float(block.attention.alpha_mean) == pytest.approx(mean, abs=tolerance)
        assert float(block.attention.alpha_std) == pytest.approx(std, abs=tolerance)


@pytest.mark.parametrize("name", [name for name in golden.FILES if not name.startswith("fullsize")])
def test_scale_and_shift_are_mean_and_standard_deviation(name: str) -> None:
    """With one degree of freedom taken off, over all atoms and heads, block by block."""
    arrays = golden.read(name)
    for level in range(golden.config_of(name).num_blocks):
        alpha = arrays[f"L{level}.alpha_raw"].astype(float)
        scale, shift = arrays[f"param.encoder.layers.{level}.self_attn.gauss_scale"]
        assert alpha.mean() == pytest.approx(-shift, abs=2e-7)
        assert alpha.std(ddof=1) == pytest.approx(1 / scale, rel=1e-6)
