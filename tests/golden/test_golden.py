"""Predictions, gradients and intermediates against exact numbers of an independent brute force, per kernel."""

from functools import cache

import pytest
import torch

from crystalframer.config import KernelName
from tests.fixtures.implementations import CASES
from tests.golden import comparison as golden

pytestmark = [
    pytest.mark.parametrize(("kernel", "dtype"), CASES),
    pytest.mark.parametrize("name", golden.FILES),
]

errors_of = cache(golden.measure)


def test_predictions(name: str, kernel: KernelName, dtype: torch.dtype) -> None:
    assert errors_of(name, kernel, dtype).prediction < 2e-6


def test_gradient_of_every_parameter(name: str, kernel: KernelName, dtype: torch.dtype) -> None:
    errors = errors_of(name, kernel, dtype)
    assert {key: error for key, error in errors.gradient.items() if error > 1e-5} == {}
    assert {key: error for key, error in errors.tiny_gradient.items() if error > 2e-6} == {}
    assert all(key.endswith("key.bias") for key in errors.tiny_gradient)


def test_intermediates(name: str, kernel: KernelName, dtype: torch.dtype) -> None:
    errors = errors_of(name, kernel, dtype).intermediate
    expected = {"alpha_raw", "alpha_norm", "rho", "a", "attn_out", "x_out"}
    assert errors.keys() == expected - ({"x_out"} if name.startswith("fullsize") else set())
    assert {key: error for key, error in errors.items() if error > 2e-5} == {}
