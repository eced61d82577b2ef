"""Per pair of atoms: the weight of all images together, their mean encoding, and the attention assembled from both.

The files leave out images of small weight and cut Gaussians, which limits what can be compared: up to 5e-5 of weight.
"""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from crystalframer.config import KernelName
from crystalframer.data.batch import CrystalBatch
from crystalframer.geometry.crystal import Crystal
from crystalframer.kernels import AttentionInputs, get_kernel
from crystalframer.kernels.basis import angular_basis, distance_basis
from tests.fixtures import crystals
from tests.fixtures.implementations import CASES
from tests.golden import comparison as golden

LEVELS = (0, 1)
pytestmark = [
    pytest.mark.parametrize("level", LEVELS),
    pytest.mark.parametrize("name", ["none_default", "max_default", "lattice_default"]),
]


@cache
def read(name: str) -> golden.Arrays:
    with np.load(golden.FOLDER / f"edges_{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


@cache
def batch_of(name: str, dtype: torch.dtype = torch.float64) -> CrystalBatch:
    arrays = read(name)
    limits = np.concatenate([[0], np.cumsum(arrays["sizes"])])
    entries = []
    for number, lattice in enumerate(arrays["lattice"].astype(np.float64)):
        own = slice(limits[number], limits[number + 1])
        entries.append(Crystal(lattice, arrays["cart"][own] @ np.linalg.inv(lattice), arrays["Z"][own]))
    return crystals.batch_of(*entries, cutoff=golden.CUTOFF, dtype=dtype)


def value(name: str, level: int, key: str) -> Tensor:
    return torch.from_numpy(read(name)[f"L{level}.{key}"]).double()


def inputs_of(name: str, level: int, dtype: torch.dtype = torch.float64) -> AttentionInputs:
    attention = golden.model_of(name, "reference", dtype).levels[level].attention
    with torch.no_grad():
        return attention.inputs(value(name, level, "x_in").to(dtype))


def pair_of_edge(name: str) -> Tensor:
    """Return for each neighbour entry of the batch the row of its pair (i, j) in the file."""
    batch = batch_of(name)
    centre, other = torch.from_numpy(read(name)["edge_index"])
    table = torch.full((batch.num_atoms, batch.num_atoms), -1)
    table[centre, other] = torch.arange(len(centre))
    return table[centre_of_edge(batch), batch.neighbour]


def centre_of_edge(batch: CrystalBatch) -> Tensor:
    return torch.repeat_interleave(torch.arange(batch.num_atoms), batch.first_edge.diff())


def whole_pairs(name: str) -> Tensor:
    """Return which pairs are not of `unwrapped4`, (P,)."""
    labels = np.repeat(read(name)["names"], read(name)["sizes"])
    return torch.from_numpy(labels[read(name)["edge_index"][0]] != "unwrapped4")


@torch.no_grad()
def our_pairs(name: str, level: int) -> tuple[Tensor, Tensor]:
    """Return exp(z), (P, H), and the weighted sum of encodings, (P, H, d), of our neighbours and bases."""
    batch, inputs, config = batch_of(name), inputs_of(name, level), golden.config_of(name)
    centre, pair = centre_of_edge(batch), pair_of_edge(name)
    weight = torch.exp(-0.5 * inputs.inv_sigma_sq[centre] * batch.distance[:, None] ** 2)
    encoding = torch.einsum("hdk,ek->ehd", inputs.w_dist, distance_basis(batch.distance, config))
    if inputs.w_angl is not None:
        far = batch.distance > 0
        unit = batch.vector[far] / batch.distance[far, None]
        cosine = torch.einsum("ehtx,ex->eht", value(name, level, "frames")[centre[far]], unit)
        encoding[far] += torch.einsum("thdb,ehtb->ehd", inputs.w_angl, angular_basis(cosine, config))
    total = value(name, level, "z").new_zeros(value(name, level, "z").shape).index_add(0, pair, weight)
    encoded = torch.zeros_like(value(name, level, "values")).index_add(0, pair, weight[..., None] * encoding)
    return total, encoded


def test_weight_of_all_images(name: str, level: int) -> None:
    total, _ = our_pairs(name, level)
    error = (total - value(name, level, "z").exp())[whole_pairs(name)]
    assert error.max() < 1e-4
    assert error.min() > -1e-6  # the files leave images out, not we


def test_mean_encoding_of_all_images(name: str, level: int) -> None:
    _, encoded = our_pairs(name, level)
    theirs = value(name, level, "z").exp()[..., None] * value(name, level, "values")
    assert (encoded - theirs)[whole_pairs(name)].norm() < 1e-4 * theirs[whole_pairs(name)].norm()


@pytest.mark.parametrize(("kernel", "dtype"), CASES)
@torch.no_grad()
def test_attention_is_the_softmax_over_pairs(name: str, level: int, kernel: KernelName, dtype: torch.dtype) -> None:
    inputs, z = inputs_of(name, level), value(name, level, "z")
    centre, other = torch.from_numpy(read(name)["edge_index"])
    weight = torch.exp(inputs.logit_scale * (inputs.query[centre] * inputs.key[other]).sum(-1) + z)
    total = torch.zeros_like(inputs.inv_sigma_sq).index_add(0, centre, weight)
    summed = weight[..., None] * (inputs.value[other] + value(name, level, "values"))
    expected = torch.zeros_like(inputs.query).index_add(0, centre, summed) / total[..., None]
    frames = None if inputs.w_angl is None else value(name, level, "frames")
    given = inputs_of(name, level, dtype)
    config = golden.config_of(name)
    ours = get_kernel(kernel)(given, batch_of(name, dtype), config, None, None if frames is None else frames.to(dtype))
    compared = centre[whole_pairs(name)].unique()
    assert (ours - expected)[compared].norm() < 5e-5 * expected[compared].norm()
