"""The model around the attention: sizes, calibration, state, and what it refuses."""

import math

import pytest
import torch

from crystalframer.config import FRAMES, FrameName, ModelConfig
from crystalframer.errors import UserError
from crystalframer.nn.model import CrystalFramer, count_parameters
from crystalframer.resolving import build_trial
from tests.fixtures import crystals as c
from tests.fixtures.models import loud_model, small_config

CRYSTALS = [c.generic_crystal(seed) for seed in range(4)]


def fresh_model(config: ModelConfig, seed: int = 0) -> CrystalFramer:
    return CrystalFramer(config, kernel="reference", generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("preset", ["default", "lightweight"])
def test_parameter_counts_are_the_published_ones(frame: FrameName, preset: str) -> None:
    model = fresh_model(build_trial({"model.frame": frame, "model.preset": preset}).model)
    framed = {"default": 951_821, "lightweight": 878_093}[preset]
    assert count_parameters(model) == (853_517 if frame == "none" else framed)


def test_same_generator_same_weights() -> None:
    config = small_config("max")
    one, same, other = (fresh_model(config, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one if "alpha_std" not in key)
    drawn = [key for key in one if key.endswith(("weight", "w_dist", "w_angl"))]
    assert len(drawn) == 3 + 2 * 9
    assert not any(torch.equal(one[key], other[key]) for key in drawn)


def test_calibration_is_the_mean_and_standard_deviation_of_q_w() -> None:
    config = small_config("max")
    model, batch = fresh_model(config), c.batch_of(*CRYSTALS, cutoff=config.cutoff)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.calibrate(batch)
    assert model.is_calibrated
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {f"blocks.{level}.attention.alpha_{what}" for level in (0, 1) for what in ("mean", "std")}
    for block, x in zip(model.levels, model.atom_states(batch), strict=False):
        alpha = (block.attention.inputs(x).query * block.attention.sigma_weight).sum(-1).detach()
        assert float(block.attention.alpha_mean) == pytest.approx(float(alpha.mean()), abs=1e-6)
        assert float(block.attention.alpha_std) == pytest.approx(float(alpha.std(correction=1)), rel=1e-5)


def test_calibration_travels_with_the_state() -> None:
    config = small_config("max")
    model, batch = fresh_model(config), c.batch_of(*CRYSTALS, cutoff=config.cutoff)
    model.calibrate(batch)
    other = fresh_model(config, seed=5)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(batch), model(batch))


def test_uncalibrated_model_refuses_to_predict() -> None:
    config = small_config("none")
    model, batch = fresh_model(config), c.batch_of(*CRYSTALS, cutoff=config.cutoff)
    assert not model.is_calibrated
    with pytest.raises(RuntimeError, match=r"not calibrated: call calibrate\(batch\)"):
        model(batch)
    with pytest.raises(RuntimeError, match="not calibrated"):
        model.atom_states(batch)


def test_calibration_needs_values_that_differ() -> None:
    config = small_config("none")
    model = fresh_model(config)
    with torch.no_grad():
        model.levels[1].attention.query.weight.zero_()
    with pytest.raises(ValueError, match=r"standard deviation of q·w over \d+ values is 0.0; expected"):
        model.calibrate(c.batch_of(*CRYSTALS, cutoff=config.cutoff))


def test_other_cutoff_is_refused() -> None:
    model = loud_model(small_config("max"))
    with pytest.raises(UserError, match=r"cutoff of 5.0 Å, but the model's is 6.0 Å"):
        model(c.batch_of(*CRYSTALS, cutoff=5.0))


def test_element_the_model_does_not_know_is_refused() -> None:
    model = loud_model(small_config("max"))
    heavy = c.crystal(CRYSTALS[0].lattice, [[0.0, 0.0, 0.0]], [9])
    with pytest.raises(UserError, match=r"atomic number 9; this model knows the elements 1 to 8"):
        model(c.batch_of(CRYSTALS[0], heavy, cutoff=6.0))
    element_100 = c.crystal(CRYSTALS[0].lattice, [[0.0, 0.0, 0.0]], [99])
    with pytest.raises(UserError, match=r"atomic number 99; this model knows the elements 1 to 98"):
        fresh_model(small_config("none", num_elements=98)).calibrate(c.batch_of(element_100, cutoff=6.0))


@pytest.mark.parametrize("frame", FRAMES)
def test_crystals_of_a_batch_do_not_see_each_other(frame: FrameName) -> None:
    model = loud_model(small_config(frame))
    with torch.no_grad():
        together = model(c.batch_of(*CRYSTALS, cutoff=6.0))
        alone = torch.cat([model(c.batch_of(entry, cutoff=6.0)) for entry in CRYSTALS])
    assert together.shape == (len(CRYSTALS), 1)
    assert torch.allclose(together, alone, atol=1e-5)


def test_several_targets() -> None:
    model = loud_model(small_config("max", num_targets=3))
    assert model(c.batch_of(*CRYSTALS, cutoff=6.0)).shape == (len(CRYSTALS), 3)


def test_every_block_draws_its_own_ties() -> None:
    model, seeds = loud_model(small_config("max")), []
    for block in model.levels:
        block.register_forward_pre_hook(lambda _, given: seeds.append(given[3]))
    batch = c.batch_of(*CRYSTALS, cutoff=6.0)
    model(batch, 7)
    model(batch, 7)
    assert len(set(seeds)) == 2
    assert seeds[:2] == seeds[2:]
    seeds.clear()
    model(batch)
    assert seeds == [None, None]


@pytest.mark.parametrize("frame", ["none", "max"])
def test_sigma_is_bounded(frame: FrameName) -> None:
    config = small_config(frame)
    model, batch = loud_model(config), c.batch_of(*CRYSTALS, cutoff=6.0)
    with torch.no_grad():
        for block in model.levels:
            block.attention.sigma_weight.mul_(1e3)
        for block, x in zip(model.levels, model.atom_states(batch), strict=False):
            sigma = block.attention.sigma(x)
            assert sigma.max() <= config.sigma_max * (1 + 1e-6)
            assert sigma.max() > 0.95 * config.sigma_max
            assert sigma.min() > 0
    assert config.sigma_max == pytest.approx(1.4 * math.sqrt(2))


def test_precision_of_the_model_is_that_of_its_weights() -> None:
    model = loud_model(small_config("max"), dtype=torch.float64)
    assert model(c.batch_of(*CRYSTALS, cutoff=6.0, dtype=torch.float64)).dtype == torch.float64
