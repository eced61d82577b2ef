"""Principal axes: eigenvectors, signs that follow a rotation, and axes that symmetry leaves undetermined."""

import numpy as np
import pytest
import torch
from torch import Tensor

from crystalframer.geometry.prepared import pca_frame
from crystalframer.geometry.principal_axes import principal_axes
from tests.fixtures import crystals as c

CUBE = torch.tensor([[x, y, z] for x in (-1.0, 1) for y in (-1.0, 1) for z in (-1.0, 1)]).double()
SQUARE = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]]).double()
LINE = torch.tensor([[0.0, 0, 1], [0, 0, -1]]).double()
TRIANGLE = torch.tensor([[0.0, 0, 0], [1.2, 0, 0], [0.3, 0.9, 0]]).double()
POINTS: dict[str, Tensor] = {
    "generic": torch.randn(9, 3, generator=torch.Generator().manual_seed(0)).double(),
    "planar": TRIANGLE - TRIANGLE.mean(0),
    "inversion": torch.cat([x := torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).double(), -x]),
    "cube": CUBE,
    "square": SQUARE,
    "line": LINE,
    "nothing": torch.zeros(1, 3).double(),
}
LATTICE_AXES = torch.from_numpy(c.random_rotation(8))


def axes_of(points: Tensor, lattice_axes: Tensor = LATTICE_AXES) -> Tensor:
    return principal_axes(points.T @ points, lattice_axes, points, points.new_ones(len(points)))


@pytest.mark.parametrize("name", POINTS)
def test_axes_are_right_handed_and_ascend_in_spread(name: str) -> None:
    axes = axes_of(POINTS[name])
    assert torch.allclose(axes @ axes.T, torch.eye(3).double(), atol=1e-12)
    assert float(torch.linalg.det(axes)) == pytest.approx(1)
    spread = ((POINTS[name] @ axes.T) ** 2).sum(0)
    assert (spread.diff() >= -1e-2 * spread.sum()).all()


def test_axes_of_generic_points_are_eigenvectors() -> None:
    points = POINTS["generic"]
    covariance = points.T @ points
    axes = axes_of(points)
    assert torch.allclose(axes @ covariance @ axes.T, torch.linalg.eigvalsh(covariance).diag(), atol=1e-10)
    assert (((points @ axes[:2].T) ** 3).sum(0) > 0).all()


@pytest.mark.parametrize("name", POINTS)
def test_axes_turn_with_points_and_lattice(name: str) -> None:
    points, expected = POINTS[name], axes_of(POINTS[name])
    for seed in range(20):
        rotation = torch.from_numpy(c.random_rotation(seed))
        turned = axes_of(points @ rotation.T, LATTICE_AXES @ rotation.T)
        assert torch.allclose(turned @ rotation, expected, atol=1e-9), seed


@pytest.mark.parametrize("name", [name for name in POINTS if name != "nothing"])
def test_signs_do_not_depend_on_rounding_or_order(name: str) -> None:
    points, expected = POINTS[name], axes_of(POINTS[name])
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        noisy = points + 1e-15 * torch.randn(points.shape, generator=generator).double()
        noisy = noisy[torch.randperm(len(points), generator=generator)]
        covariance = points.T @ points
        axes = principal_axes(covariance, LATTICE_AXES, noisy, noisy.new_ones(len(noisy)))
        assert torch.allclose(axes, expected, atol=1e-9), seed


def test_weights_and_batches() -> None:
    points = torch.stack([POINTS["generic"], POINTS["generic"].flip(1)])
    weights = torch.rand(2, 9, generator=torch.Generator().manual_seed(2)).double()
    covariance = torch.einsum("sk,skx,sky->sxy", weights, points, points)
    both = principal_axes(covariance, LATTICE_AXES.expand(2, 3, 3), points, weights)
    for number in range(2):
        alone = principal_axes(covariance[number], LATTICE_AXES, points[number], weights[number])
        assert torch.allclose(both[number], alone, atol=1e-12)
    scaled = principal_axes(100 * covariance, LATTICE_AXES.expand(2, 3, 3), points, weights)
    assert torch.allclose(scaled, both, atol=1e-9)


def test_no_gradient_flows_through() -> None:
    points = POINTS["generic"].clone().requires_grad_()
    assert not axes_of(points).requires_grad


def test_pca_frame_is_that_of_positions_about_their_mean() -> None:
    crystal = c.generic_crystal(0, num_atoms=6)
    frame = pca_frame(crystal.cart_coords, np.eye(3))
    offset = crystal.cart_coords - crystal.cart_coords.mean(0)
    values = np.linalg.eigvalsh(offset.T @ offset)
    np.testing.assert_allclose(frame @ offset.T @ offset @ frame.T, np.diag(values), atol=1e-9)
    np.testing.assert_allclose(pca_frame(crystal.cart_coords + [1.0, -2, 3], np.eye(3)), frame, atol=1e-9)
