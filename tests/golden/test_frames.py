"""The model's own frames against the golden files' frames, and predictions made with them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from crystalframer.config import KernelName
from crystalframer.kernels.reference import attend, attention_state
from tests.fixtures.implementations import CASES
from tests.golden import comparison as golden

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
ROUNDING = 2e-6
"""The files are float32."""
MAX_FILES = ("max_default", "max_lightweight", "fullsize_max_default")


def given_frames(name: str, dtype: torch.dtype) -> list[Tensor]:
    """Return the file's frames per block."""
    frames = golden.frames_of(name, dtype)
    assert frames is not None
    return frames


def own_frames(name: str, dtype: torch.dtype) -> list[Tensor]:
    """Return the model's own frames per block; the states between blocks are those of the file's frames."""
    model, batch = golden.model_of(name, "reference", dtype), golden.batch_of(name, dtype)
    frames, x = [], model.embedding(batch.atomic_numbers - 1)
    with torch.no_grad():
        for block, given in zip(model.levels, given_frames(name, dtype), strict=True):
            own = attention_state(block.attention.inputs(x), batch, model.config)[1]
            assert own is not None
            frames.append(own)
            x = block(x, batch, attend, None, given)
    return frames


@DTYPES
@pytest.mark.parametrize("name", MAX_FILES)
def test_max_frames_outside_ties(name: str, dtype: torch.dtype) -> None:
    arrays, compared = golden.read(name), golden.compared_atoms(name)
    for level, (own, given) in enumerate(zip(own_frames(name, dtype), given_frames(name, dtype), strict=True)):
        clear = ~torch.from_numpy(arrays[f"L{level}.frame_tie"]) & (
            torch.from_numpy(arrays[f"L{level}.frame_margin"]) > 1e-4
        )
        first = compared[:, None] & clear[..., 0]
        both = first & clear[..., 1]
        assert both.double().mean() > 0.8
        assert (own - given)[..., 0, :][first].abs().max() < ROUNDING
        assert (own - given)[both].abs().max() < 10 * ROUNDING  # the second axis is what orthogonalisation leaves


@DTYPES
def test_lattice_frames(dtype: torch.dtype) -> None:
    """Cubic and hexagonal lattices included, whose shortest vectors tie."""
    name = "lattice_default"
    for own, given in zip(own_frames(name, dtype), given_frames(name, dtype), strict=True):
        assert (own - given)[golden.compared_atoms(name)].abs().max() < ROUNDING


def test_pca_axes_up_to_their_signs() -> None:
    """Fewer than three atoms leave axes undetermined."""
    name = "pca_default"
    arrays = golden.read(name)
    determined = golden.compared_atoms(name) & torch.from_numpy(np.repeat(arrays["sizes"] > 2, arrays["sizes"]))
    for own, given in zip(own_frames(name, torch.float64), given_frames(name, torch.float64), strict=True):
        assert ((own * given).sum(-1).abs() - 1)[determined].abs().max() < ROUNDING


@pytest.mark.parametrize(("kernel", "dtype"), CASES)
@pytest.mark.parametrize("name", [*MAX_FILES, "lattice_default"])
@torch.no_grad()
def test_predictions_with_own_frames(name: str, kernel: KernelName, dtype: torch.dtype) -> None:
    """In evaluation; the files' ties happen to be settled as ours, except in `unwrapped4`, which they cut short."""
    arrays = golden.read(name)
    predicted = golden.model_of(name, kernel, dtype)(golden.batch_of(name, dtype))
    error = (predicted.double() - torch.from_numpy(arrays["pred_exact"])).abs()[:, 0]
    assert error[torch.from_numpy(arrays["names"] != "unwrapped4")].max() < 2e-6
