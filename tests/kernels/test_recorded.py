"""Every kernel against the recorded float64 numbers of the reference, which need no development data."""

import pytest
import torch

from crystalframer.config import FRAMES, FrameName, KernelName
from tests.fixtures import recorded
from tests.fixtures.implementations import CASES

ARRAYS = recorded.read()


def compare(
    frame: FrameName, preset: str, batch: str, kernel: KernelName, dtype: torch.dtype, tie_seed: int | None
) -> None:
    model = recorded.model_of(ARRAYS, frame, preset, kernel, dtype)
    predicted, gradients = recorded.run(model, recorded.crystals_of(ARRAYS, batch), dtype, tie_seed)
    prediction, expected = recorded.expected(ARRAYS, recorded.case(frame, preset, batch, tie_seed), model)
    assert (predicted.double() - prediction).abs().max() < 5e-6
    assert gradients.keys() == expected.keys()
    largest = max(float(value[-1]) for value in expected.values())
    for key, value in expected.items():
        error = float((gradients[key] - value).norm())
        assert error < max(2e-5 * float(value[-1]), 2e-6 * largest), key


@pytest.mark.parametrize("tie_seed", [None, recorded.TIE_SEED], ids=["evaluation", "training"])
@pytest.mark.parametrize(("kernel", "dtype"), CASES)
@pytest.mark.parametrize("preset", recorded.PRESETS)
@pytest.mark.parametrize("frame", FRAMES)
def test_generic_crystals(
    frame: FrameName, preset: str, kernel: KernelName, dtype: torch.dtype, tie_seed: int | None
) -> None:
    compare(frame, preset, "generic", kernel, dtype, tie_seed)


@pytest.mark.parametrize("tie_seed", [None, recorded.TIE_SEED], ids=["evaluation", "training"])
@pytest.mark.parametrize("kernel", [kernel for kernel, dtype in CASES if dtype == torch.float64])
@pytest.mark.parametrize("preset", recorded.PRESETS)
@pytest.mark.parametrize("frame", FRAMES)
def test_symmetric_crystals_in_double_precision(
    frame: FrameName, preset: str, kernel: KernelName, tie_seed: int | None
) -> None:
    """The rules for ties and for axes that symmetry leaves undetermined are part of the definition."""
    compare(frame, preset, "symmetric", kernel, torch.float64, tie_seed)
