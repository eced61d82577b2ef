"""Principal axes that follow a rotation of the crystal, also where symmetry leaves them undetermined."""

import torch
from torch import Tensor

DEGENERATE_GAP = 1e-4
"""Eigenvalues closer than this, in units of their sum, count as equal."""
DEGENERATE_SPLIT = 1e-3
"""How far the lattice axes pull equal eigenvalues apart, in units of their sum."""
SKEW_TOLERANCE = 1e-4
"""A third moment Σ w (e·x)³ below this, in units of Σ w |x|³, does not decide a sign: it may be rounding."""
CLEAR_COMPONENT = 0.1
"""Component along a lattice axis large enough to decide a sign."""


def principal_axes(covariance: Tensor, lattice_axes: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """Return eigenvectors of covariances as right-handed frames, with deterministic, rotation-equivariant signs.

    Axes ascend in eigenvalue. Where two eigenvalues agree to `DEGENERATE_GAP` (a symmetric site), the crystal's
    lattice axes settle the choice: the covariance receives distinct multiples of `DEGENERATE_SPLIT` along them. The
    signs of e1 and e2 make the third moment Σ w (e·x)³ positive; where that vanishes (an inversion centre), the
    first lattice axis not nearly orthogonal to the axis decides. e3 = e1 × e2.

    Args:
        covariance: (..., 3, 3), symmetric, any scale; float64 recommended.
        lattice_axes: (..., 3, 3) orthonormal rows.
        points: (..., K, 3) the vectors x the covariance was made of.
        weights: (..., K) their weights w ≥ 0.

    Returns:
        (..., 3, 3) orthonormal rows with determinant +1. No gradient flows through it.
    """
    with torch.no_grad():
        axes = settled_eigenvectors(covariance, lattice_axes)
        signs = axis_signs(axes[..., :2, :], lattice_axes, points, weights)
        return right_handed(axes[..., 0, :] * signs[..., 0, None], axes[..., 1, :] * signs[..., 1, None])


def settled_eigenvectors(covariance: Tensor, lattice_axes: Tensor) -> Tensor:
    """Return eigenvectors as rows, ascending in eigenvalue, degenerate ones settled by the lattice axes."""
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    scaled = torch.where(trace > 0, covariance / trace, torch.zeros_like(covariance))
    local = lattice_axes @ scaled @ lattice_axes.mT
    values = torch.linalg.eigvalsh(local)
    degenerate = ((values[..., 1:] - values[..., :-1]) < DEGENERATE_GAP).any(-1)
    split = torch.diag(DEGENERATE_SPLIT * torch.arange(3, dtype=local.dtype, device=local.device))
    local = torch.where(degenerate[..., None, None], local + split, local)
    return torch.linalg.eigh(local).eigenvectors.mT @ lattice_axes


def axis_signs(axes: Tensor, lattice_axes: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """Return the sign, +1 or −1, that each of `axes` (..., A, 3) receives by the rule of `principal_axes`."""
    skew = ((axes @ points.mT) ** 3 * weights[..., None, :]).sum(-1)
    scale = (points.norm(dim=-1) ** 3 * weights).sum(-1, keepdim=True)
    component = axes @ lattice_axes.mT
    first_clear = (component.abs() > CLEAR_COMPONENT).to(torch.int8).argmax(-1, keepdim=True)
    by_lattice = component.gather(-1, first_clear).squeeze(-1)
    decider = torch.where(skew.abs() > SKEW_TOLERANCE * scale, skew, by_lattice)
    return torch.where(decider < 0, -1.0, 1.0).to(axes.dtype)


def right_handed(first: Tensor, second: Tensor) -> Tensor:
    """Stack e1, e2 and e3 = e1 × e2 as rows, (..., 3, 3)."""
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-2)
