"""The default cutoff is exact to float32's rounding for a fresh model (docs/cutoff.md)."""

import pytest

from benchmarks import measure_cutoff
from crystalframer.config import FrameName, ModelConfig
from tests.fixtures.models import small_config

DEFAULT = ModelConfig().cutoff
CRYSTALS = measure_cutoff.sample_crystals(6)
BATCHES = {cutoff: measure_cutoff.batch_of(CRYSTALS, cutoff) for cutoff in (5.0, DEFAULT, measure_cutoff.EXACT)}


@pytest.mark.parametrize("frame", ["none", "max", "lattice"])
def test_default_cutoff_is_exact_for_a_fresh_model(frame: FrameName) -> None:
    errors = measure_cutoff.measure(small_config(frame, num_elements=98, num_dist=64), BATCHES)
    assert errors[DEFAULT].largest < 2e-7
    assert errors[5.0].largest > 1e-3 * errors[5.0].spread


def test_even_where_sigma_is_at_its_bound_little_is_left_out() -> None:
    config = small_config("none", num_elements=98, num_dist=64)
    errors = measure_cutoff.measure(config, BATCHES, widest_sigma=True)
    assert errors[DEFAULT].largest < 5e-3 * errors[DEFAULT].spread
    assert errors[5.0].largest > 10 * errors[DEFAULT].largest
