"""The mean over ties in plain torch, on any device and in any precision: the definition; see `kernels.closeness`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from crystalframer.config import ModelConfig
from crystalframer.data.batch import CrystalBatch
from crystalframer.geometry.principal_axes import right_handed
from crystalframer.kernels.closeness import EIGENVALUES, LOG_WEIGHTS, SKEWS, Averaged
from crystalframer.kernels.frames import COLLINEAR_TOLERANCE, Surroundings
from crystalframer.kernels.interface import AttentionInputs
from crystalframer.kernels.moments import num_terms
from crystalframer.kernels.reference import CHUNK_BYTES, chunks, log_weights, surroundings

Polynomials = Callable[[Tensor, int], Iterator[Tensor]]
"""From cosines and a number M: M tensors of their shape."""


@dataclass(frozen=True, eq=False)
class Axes:
    """L weighted axes of the rows of a chunk; a row is an atom's head, atom · H + head."""

    row: Tensor
    """(L,) int64"""
    number: Tensor
    """(L,) int64, 0 for e1 to 2 for e3"""
    axis: Tensor
    """(L, 3) unit vectors"""
    even: Tensor
    """(L,) weight in the moments of even order"""
    odd: Tensor
    """(L,) weight in the moments of odd order, less where the opposite axis counts, too"""


def average(inputs: AttentionInputs, batch: CrystalBatch, config: ModelConfig) -> Averaged:
    """Return the decided frames and the mean moments of the open ones."""
    frames, moments = [], []
    for start, stop in chunks(batch, config, inputs.query.element_size()):
        near, is_real = surroundings(batch, start, stop)
        logits = log_weights(inputs, batch, near, is_real, start, stop)
        weight = (torch.softmax(logits, dim=1) * near.is_candidate[..., None]).mT
        with torch.no_grad():
            if config.frame == "weighted_pca":
                means = _of_principal_axes(weight, near)
            else:
                scores = logits if config.frame == "max" else -(near.distance[..., None] ** 2).expand_as(logits)
                means = _of_neighbours(scores.masked_fill(~near.is_candidate[..., None], float("-inf")).mT, near)
        frames.append(means.frames)
        moments.append(_moments(means, weight, near, num_terms(config)))
    return Averaged(torch.cat(frames), torch.cat(moments, dim=1))


@dataclass(frozen=True, eq=False)
class _Means:
    """What is known of the frames of a chunk of A atoms."""

    frames: Tensor
    """(A, H, 3, 3) decided frames, zeros where open"""
    is_open: Tensor
    """(A, H)"""
    axes: Axes
    """of the open rows"""
    circles: Axes | None = None
    """circles around an axis, of the open rows"""
    spheres: Tensor | None = None
    """(A·H,) weight of the sphere, the same for all three axes"""


def _of_neighbours(scores: Tensor, near: Surroundings) -> _Means:
    """Return the frames that point to neighbours, of scores (A, H, K), −∞ where there is no candidate."""
    atoms, heads, _ = scores.shape
    best = scores.amax(-1, keepdim=True)
    share = LOG_WEIGHTS.share(torch.where(scores.isfinite(), best - scores, torch.inf))
    atom, head, entry = share.nonzero(as_tuple=True)
    first = near.unit[atom, entry]
    first_weight = (share / share.sum(-1, keepdim=True))[atom, head, entry]

    gap = 1.0 - torch.einsum("lkx,lx->lk", near.unit[atom], first).abs()
    score = scores[atom, head] + torch.log(gap.clamp_min(COLLINEAR_TOLERANCE))
    score = torch.where(gap > COLLINEAR_TOLERANCE, score, -torch.inf)
    best = score.amax(-1, keepdim=True)
    share = LOG_WEIGHTS.share(torch.where(score.isfinite(), best - score, torch.inf))
    none = share.sum(-1) == 0  # all candidates lie on the first axis: any second axis, all cosines with it are zero
    share = torch.cat([share, none[:, None].to(share)], dim=-1)
    along = torch.einsum("lix,lx->li", near.lattice_axes[atom], first).abs()
    completion = near.lattice_axes[atom, along.argmin(-1)]
    choices = torch.cat([near.unit[atom], completion[:, None]], dim=1)
    pair, entry = share.nonzero(as_tuple=True)
    pair_weight = first_weight[pair] * (share / share.sum(-1, keepdim=True))[pair, entry]
    second = choices[pair, entry]
    second = second - (second * first[pair]).sum(-1, keepdim=True) * first[pair]
    frame = right_handed(first[pair], second / second.norm(dim=-1, keepdim=True))

    row = (atom * heads + head)[pair]
    count = torch.bincount(row, minlength=atoms * heads)
    frames = near.lattice_axes[:, None].expand(-1, heads, -1, -1).reshape(-1, 3, 3).clone()  # where atoms are alone
    decided = count[row] == 1
    frames[row[decided]] = frame[decided]
    frames[count > 1] = 0.0
    kept = ~decided
    weight = pair_weight[kept].repeat_interleave(3)
    axes = Axes(
        row=row[kept].repeat_interleave(3),
        number=torch.arange(3, device=row.device).repeat(int(kept.sum())),
        axis=frame[kept].flatten(0, 1),
        even=weight,
        odd=weight,
    )
    return _Means(frames.view(atoms, heads, 3, 3), (count > 1).view(atoms, heads), axes)


def _of_principal_axes(weight: Tensor, near: Surroundings) -> _Means:
    """Return the principal axes of neighbours of weight (A, H, K), zero where there is no candidate."""
    wide, unit = weight.double(), near.unit.double()
    covariance = torch.einsum("ahk,akx,aky->ahxy", wide, unit, unit).flatten(0, 1)
    total = wide.sum(-1).flatten()
    values, vectors = torch.linalg.eigh(covariance / torch.where(total > 0, total, 1.0)[:, None, None])
    axes = right_handed(vectors[..., 0], vectors[..., 1])
    along = torch.einsum("ahtx,akx->ahtk", axes.view(*weight.shape[:2], 3, 3), unit)
    skew = (along[:, :, :2] ** 3 * wide[:, :, None]).sum(-1).flatten(0, 1) / total[:, None].clamp_min(1e-300)
    low = EIGENVALUES.share(values[:, 1] - values[:, 0])
    high = EIGENVALUES.share(values[:, 2] - values[:, 1])
    alone = total == 0
    low, high = low.masked_fill(alone, 0.0), high.masked_fill(alone, 0.0)
    sign = torch.where(skew < 0, -1.0, 1.0)
    odd = (sign * (1.0 - SKEWS.share(skew.abs()))).masked_fill(alone[:, None], 1.0)
    is_open = (low > 0) | (high > 0) | (odd.abs() < 1).any(-1)

    frames = right_handed(axes[:, 0] * sign[:, :1], axes[:, 1] * sign[:, 1:])
    frames = torch.where(alone[:, None, None], near.lattice_axes.double().repeat_interleave(weight.shape[1], 0), frames)
    frames = frames.masked_fill(is_open[:, None, None], 0.0).to(weight.dtype)

    apart, lower, upper = (1 - low) * (1 - high), low * (1 - high), (1 - low) * high
    row = is_open.nonzero().squeeze(-1)
    own = torch.stack([apart + upper, apart, apart + lower], -1)[row]
    flip = torch.stack([(apart + upper) * odd[:, 0], apart * odd[:, 1], apart * odd[:, 0] * odd[:, 1]], -1)[row]
    lines = Axes(
        row=row.repeat_interleave(3),
        number=torch.arange(3, device=row.device).repeat(len(row)),
        axis=axes[row].flatten(0, 1).to(weight.dtype),
        even=own.flatten().to(weight.dtype),
        odd=flip.flatten().to(weight.dtype),
    )
    around = torch.tensor([2, 2, 0, 0], device=row.device)  # e1 and e2 go round e3, or e2 and e3 round e1
    on_circle = torch.stack([lower, lower, upper, upper], -1)[row].flatten().to(weight.dtype)
    circles = Axes(
        row=row.repeat_interleave(4),
        number=torch.tensor([0, 1, 1, 2], device=row.device).repeat(len(row)),
        axis=axes[row][:, around].flatten(0, 1).to(weight.dtype),
        even=on_circle,
        odd=torch.zeros_like(on_circle),
    )
    spheres = (low * high).masked_fill(~is_open, 0.0).to(weight.dtype)
    return _Means(frames.view(*weight.shape[:2], 3, 3), is_open.view(weight.shape[:2]), lines, circles, spheres)


def _moments(means: _Means, weight: Tensor, near: Surroundings, terms: int) -> Tensor:
    """Return (H, A, 3M): the mean moments of the open rows less those of axes without length, zeros elsewhere."""
    atoms, heads, _ = weight.shape
    flat = weight.new_zeros(atoms * heads * 3, terms)
    flat = _add(flat, means.axes, weight, near, _chebyshev)
    if means.circles is not None:
        flat = _add(flat, means.circles, weight, near, _circle)
    out = flat.view(atoms, heads, 3, terms)
    order = torch.arange(terms, device=weight.device)
    is_even = order % 2 == 0
    total = (weight.sum(-1) * means.is_open)[..., None, None]
    if means.spheres is not None:
        on_sphere = torch.where(is_even, 1.0 / (1.0 - order.to(weight.dtype) ** 2), 0.0)
        out = out + total * means.spheres.view(atoms, heads, 1, 1) * on_sphere
    at_zero = torch.where(is_even, 1.0 - order % 4, 0.0).to(weight.dtype)
    return (out - total * at_zero).permute(1, 0, 2, 3).flatten(2)


def _add(flat: Tensor, axes: Axes, weight: Tensor, near: Surroundings, polynomials: Polynomials) -> Tensor:
    """Add the moments of axes that count to flat, (A·H·3, M)."""
    heads, longest = weight.shape[1:]
    terms = flat.shape[1]
    rows = weight.flatten(0, 1)
    is_even = torch.arange(terms, device=weight.device) % 2 == 0
    counts = ((axes.even != 0) | (axes.odd != 0)).nonzero().squeeze(-1)
    step = max(1, CHUNK_BYTES // (longest * 8 * weight.element_size()))
    for part in torch.split(counts, step):
        row = axes.row[part]
        cosine = torch.einsum("lkx,lx->lk", near.unit[row // heads], axes.axis[part]).clamp(-1.0, 1.0)
        moments = torch.stack([(rows[row] * values).sum(-1) for values in polynomials(cosine, terms)], dim=-1)
        moments = moments * torch.where(is_even, axes.even[part, None], axes.odd[part, None])
        flat = flat.index_add(0, row * 3 + axes.number[part], moments)
    return flat


def _chebyshev(x: Tensor, terms: int) -> Iterator[Tensor]:
    """Yield T_m(x), m < terms."""
    low, high = torch.ones_like(x), x
    for _ in range(terms):
        yield low
        low, high = high, 2.0 * x * high - low


def _circle(c: Tensor, terms: int) -> Iterator[Tensor]:
    """Yield the mean of T_m over the circle around an axis with which the neighbours' cosine is c."""
    x = 1.0 - 2.0 * c * c
    low, high = torch.ones_like(x), x
    for m in range(terms):
        if m == 0:
            yield low
        elif m % 2:
            yield torch.zeros_like(x)
        else:
            yield 0.5 * (high - low)
            k = m // 2
            low, high = high, ((2 * k + 1) * x * high - k * low) / (k + 1)
