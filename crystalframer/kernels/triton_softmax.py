"""Triton: softmax weights of each atom's neighbours, and on the same pass what the frames need of them.

One program per atom, with tiles of BLOCK neighbour entries × all heads. The frames `max` and `static_local` are
finished here; for `weighted_pca` the second moments Σ p r̄ r̄ᵀ are summed (`triton_axes` does the rest). The
definitions, ties included, are those of `kernels.frames`.
"""

import triton
import triton.language as tl

from crystalframer.kernels.frames import COLLINEAR_TOLERANCE, TIE_TOLERANCE

NO_FRAME, WEIGHTED_PCA_FRAME, MAX_FRAME, STATIC_LOCAL_FRAME = range(4)
"""What to make of the logits besides weights; from MAX_FRAME on, whole frames."""

_MAX: tl.constexpr = tl.constexpr(MAX_FRAME)
_STATIC_LOCAL: tl.constexpr = tl.constexpr(STATIC_LOCAL_FRAME)
_WEIGHTED_PCA: tl.constexpr = tl.constexpr(WEIGHTED_PCA_FRAME)
_TIE: tl.constexpr = tl.constexpr(TIE_TOLERANCE)
_COLLINEAR: tl.constexpr = tl.constexpr(COLLINEAR_TOLERANCE)
_BITS_31: tl.constexpr = tl.constexpr(0x7FFFFFFF)


@triton.jit
def hashed(key, index):
    """Return the 32 random bits of `noise.hashed` as uint32; `key` is uint32, `index` any integers."""
    x = index.to(tl.uint32) ^ key
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _priority(tied, edge, begin, edges_before, head, key, HEADS: tl.constexpr, TRAINING: tl.constexpr):
    """Number tied entries so that the one to choose is the largest, −1 for the others.

    Largest are, in training, the most random bits (bits 31 to 62), and then always the first in the list.
    """
    rank = (begin - edge + _BITS_31).to(tl.int64)[:, None]
    if TRAINING:
        rank = rank | (hashed(key, (edge[:, None] + edges_before) * HEADS + head[None, :]).to(tl.int64) << 31)
    return tl.where(tied, rank, -1)


@triton.jit
def _chosen(best, begin):
    """Return the entry that a largest `_priority` stands for."""
    return begin + (-(best & _BITS_31) + _BITS_31).to(tl.int32)


@triton.jit
def _logits(dot, half_sq, steep, edge, end, head, HEADS: tl.constexpr):
    """Return q·k/√d − |r|²/2σ², (BLOCK, HEADS_P), −∞ beyond the atom's entries."""
    is_real = edge < end
    mask = is_real[:, None] & (head < HEADS)[None, :]
    product = tl.load(dot + (edge[:, None] * HEADS + head[None, :]), mask=mask, other=0.0)
    decay = tl.load(half_sq + edge, mask=is_real, other=0.0)[:, None] * steep[None, :]
    return tl.where(is_real[:, None], product - decay, float("-inf"))


@triton.jit
def _score(logit, half_sq, edge, begin, end, FRAME: tl.constexpr):
    """Return the log-weights that choose the axes, −∞ for the atom itself and beyond its entries."""
    is_near = (edge > begin) & (edge < end)
    score = logit
    if FRAME == _STATIC_LOCAL:
        score = tl.zeros_like(logit) - 2.0 * tl.load(half_sq + edge, mask=is_near, other=0.0)[:, None]
    return tl.where(is_near[:, None], score, float("-inf"))


@triton.jit
def _weighed_by_gap(score, unit, edge, num_edges, mask, e1_x, e1_y, e1_z):
    """Return log((1 − |e1·r̄|)·w), −∞ for entries that are collinear with e1."""
    x = tl.load(unit + edge, mask=mask, other=0.0)[:, None]
    y = tl.load(unit + num_edges + edge, mask=mask, other=0.0)[:, None]
    z = tl.load(unit + 2 * num_edges + edge, mask=mask, other=0.0)[:, None]
    gap = 1.0 - tl.abs(x * e1_x[None, :] + y * e1_y[None, :] + z * e1_z[None, :])
    return tl.where(gap > _COLLINEAR, score + tl.log(tl.maximum(gap, _COLLINEAR)), float("-inf"))


@triton.jit
def _vector(unit, edge, num_edges, mask):
    x = tl.load(unit + edge, mask=mask, other=0.0)
    y = tl.load(unit + num_edges + edge, mask=mask, other=0.0)
    z = tl.load(unit + 2 * num_edges + edge, mask=mask, other=0.0)
    return x, y, z


@triton.jit
def _most_orthogonal(lattice_axes, e1_x, e1_y, e1_z):
    """Return the first of the lattice axes (a pointer to three rows) with the least |component| along e1."""
    x = tl.zeros_like(e1_x)
    y = tl.zeros_like(e1_x)
    z = tl.zeros_like(e1_x)
    least = tl.zeros_like(e1_x) + 2.0
    for i in range(3):
        a_x = tl.load(lattice_axes + 3 * i)
        a_y = tl.load(lattice_axes + 3 * i + 1)
        a_z = tl.load(lattice_axes + 3 * i + 2)
        along = tl.abs(a_x * e1_x + a_y * e1_y + a_z * e1_z)
        is_less = along < least
        x = tl.where(is_less, a_x, x)
        y = tl.where(is_less, a_y, y)
        z = tl.where(is_less, a_z, z)
        least = tl.where(is_less, along, least)
    return x, y, z


@triton.jit
def store_frame(out, e1_x, e1_y, e1_z, e2_x, e2_y, e2_z, mask):
    """Store e1, e2 and e3 = e1 × e2, nine numbers from each of the pointers `out`."""
    tl.store(out, e1_x, mask=mask)
    tl.store(out + 1, e1_y, mask=mask)
    tl.store(out + 2, e1_z, mask=mask)
    tl.store(out + 3, e2_x, mask=mask)
    tl.store(out + 4, e2_y, mask=mask)
    tl.store(out + 5, e2_z, mask=mask)
    tl.store(out + 6, e1_y * e2_z - e1_z * e2_y, mask=mask)
    tl.store(out + 7, e1_z * e2_x - e1_x * e2_z, mask=mask)
    tl.store(out + 8, e1_x * e2_y - e1_y * e2_x, mask=mask)


@triton.jit
def _finish_max_frame(lattice_axes, unit, best, begin, num_edges, e1_x, e1_y, e1_z, out, is_head):
    """Orthogonalise the second axis and store the frame."""
    found = best >= 0
    x, y, z = _vector(unit, _chosen(best, begin), num_edges, found & is_head)
    a_x, a_y, a_z = _most_orthogonal(lattice_axes, e1_x, e1_y, e1_z)
    x = tl.where(found, x, a_x)
    y = tl.where(found, y, a_y)
    z = tl.where(found, z, a_z)
    along = x * e1_x + y * e1_y + z * e1_z
    x -= along * e1_x
    y -= along * e1_y
    z -= along * e1_z
    norm = tl.where(is_head, tl.sqrt(x * x + y * y + z * z), 1.0)
    store_frame(out, e1_x, e1_y, e1_z, x / norm, y / norm, z / norm, is_head)


@triton.jit
def _max_frame(
    dot,
    half_sq,
    unit,
    lattice_axes,
    keys,
    out,
    steep,
    top,
    begin,
    end,
    num_edges,
    edges_before,
    head,
    HEADS: tl.constexpr,
    HEADS_P: tl.constexpr,
    BLOCK: tl.constexpr,
    FRAME: tl.constexpr,
    TRAINING: tl.constexpr,
):
    """Build the frame of one atom and all heads; `top` is the largest score of each head."""
    is_head = head < HEADS
    key_1 = tl.load(keys).to(tl.uint32)
    key_2 = (tl.load(keys) >> 32).to(tl.uint32)
    best = tl.full([HEADS_P], -1, dtype=tl.int64)
    for start in range(begin, end, BLOCK):
        edge = start + tl.arange(0, BLOCK)
        score = _score(_logits(dot, half_sq, steep, edge, end, head, HEADS), half_sq, edge, begin, end, FRAME)
        tied = (score >= (top - _TIE)[None, :]) & ((edge > begin) & (edge < end))[:, None]
        best = tl.maximum(
            best, tl.max(_priority(tied, edge, begin, edges_before, head, key_1, HEADS, TRAINING), axis=0)
        )
    found = best >= 0
    x, y, z = _vector(unit, _chosen(best, begin), num_edges, found & is_head)
    e1_x = tl.where(found, x, tl.load(lattice_axes))
    e1_y = tl.where(found, y, tl.load(lattice_axes + 1))
    e1_z = tl.where(found, z, tl.load(lattice_axes + 2))

    top = tl.full([HEADS_P], float("-inf"), dtype=tl.float32)
    for start in range(begin, end, BLOCK):
        edge = start + tl.arange(0, BLOCK)
        score = _score(_logits(dot, half_sq, steep, edge, end, head, HEADS), half_sq, edge, begin, end, FRAME)
        score = _weighed_by_gap(score, unit, edge, num_edges, edge < end, e1_x, e1_y, e1_z)
        top = tl.maximum(top, tl.max(score, axis=0))
    best = tl.full([HEADS_P], -1, dtype=tl.int64)
    for start in range(begin, end, BLOCK):
        edge = start + tl.arange(0, BLOCK)
        score = _score(_logits(dot, half_sq, steep, edge, end, head, HEADS), half_sq, edge, begin, end, FRAME)
        score = _weighed_by_gap(score, unit, edge, num_edges, edge < end, e1_x, e1_y, e1_z)
        tied = (score >= (top - _TIE)[None, :]) & (score > float("-inf"))
        best = tl.maximum(
            best, tl.max(_priority(tied, edge, begin, edges_before, head, key_2, HEADS, TRAINING), axis=0)
        )
    _finish_max_frame(lattice_axes, unit, best, begin, num_edges, e1_x, e1_y, e1_z, out, is_head)


@triton.jit
def _products(xx, xy, xz, yy, yz, zz, p, unit, edge, num_edges, is_near):
    """Add Σ p r̄ r̄ᵀ of a block to its six sums, in float64."""
    x, y, z = _vector(unit, edge, num_edges, is_near)
    x = x.to(tl.float64)[:, None]
    y = y.to(tl.float64)[:, None]
    z = z.to(tl.float64)[:, None]
    p = p.to(tl.float64)
    xx += tl.sum(p * (x * x), axis=0)
    xy += tl.sum(p * (x * y), axis=0)
    xz += tl.sum(p * (x * z), axis=0)
    yy += tl.sum(p * (y * y), axis=0)
    yz += tl.sum(p * (y * z), axis=0)
    zz += tl.sum(p * (z * z), axis=0)
    return xx, xy, xz, yy, yz, zz


@triton.jit(do_not_specialize=["num_edges", "edges_before"])
def softmax(
    first,
    half_sq,
    unit,
    crystal_of_atom,
    lattice_axes,
    keys,
    inv_sigma_sq,
    weight,
    frames,
    second_moments,
    num_edges,
    edges_before,
    HEADS: tl.constexpr,
    HEADS_P: tl.constexpr,
    BLOCK: tl.constexpr,
    FRAME: tl.constexpr,
    TRAINING: tl.constexpr,
):
    """Turn the scaled q·k in `weight`, (E, H), into softmax weights in place; write frames or second moments.

    Args:
        first: (N + 1,) int32 limits of each atom's entries, the first of which is the atom itself.
        half_sq: (E,) |r|²/2.
        unit: (3, E) r̄.
        crystal_of_atom: (N,) int32.
        lattice_axes: (S, 3, 3).
        keys: (1,) int64, the 32-bit hash keys of the first (low half) and second ties, used when TRAINING.
        inv_sigma_sq: (N, H).
        weight: (E, H).
        frames: (N, H, 3, 3), written for `max` and `static_local`.
        second_moments: (N, H, 6) float64 xx, xy, xz, yy, yz, zz, written for `weighted_pca`.
        num_edges: E.
        edges_before: entries of the whole batch before this part of it, int32 or int64.
    """
    atom = tl.program_id(0)
    begin = tl.load(first + atom)
    end = tl.load(first + atom + 1)
    head = tl.arange(0, HEADS_P)
    is_head = head < HEADS
    steep = tl.load(inv_sigma_sq + (atom * HEADS + head), mask=is_head, other=0.0)
    top = tl.full([HEADS_P], float("-inf"), dtype=tl.float32)
    top_score = tl.full([HEADS_P], float("-inf"), dtype=tl.float32)
    for start in range(begin, end, BLOCK):
        edge = start + tl.arange(0, BLOCK)
        logit = _logits(weight, half_sq, steep, edge, end, head, HEADS)
        top = tl.maximum(top, tl.max(logit, axis=0))
        top_score = tl.maximum(top_score, tl.max(_score(logit, half_sq, edge, begin, end, FRAME), axis=0))
    total = tl.zeros([HEADS_P], dtype=tl.float32)
    for start in range(begin, end, BLOCK):
        edge = start + tl.arange(0, BLOCK)
        total += tl.sum(tl.exp(_logits(weight, half_sq, steep, edge, end, head, HEADS) - top[None, :]), axis=0)

    if FRAME >= _MAX:
        own_axes = lattice_axes + tl.load(crystal_of_atom + atom) * 9
        out = frames + (atom * HEADS + head) * 9
        _max_frame(
            weight, half_sq, unit, own_axes, keys, out, steep, top_score, begin, end, num_edges, edges_before, head,
            HEADS, HEADS_P, BLOCK, FRAME, TRAINING,
        )  # fmt: skip

    tl.debug_barrier()
    xx = tl.zeros([HEADS_P], dtype=tl.float64)
    xy = tl.zeros([HEADS_P], dtype=tl.float64)
    xz = tl.zeros([HEADS_P], dtype=tl.float64)
    yy = tl.zeros([HEADS_P], dtype=tl.float64)
    yz = tl.zeros([HEADS_P], dtype=tl.float64)
    zz = tl.zeros([HEADS_P], dtype=tl.float64)
    for start in range(begin, end, BLOCK):
        edge = start + tl.arange(0, BLOCK)
        p = tl.exp(_logits(weight, half_sq, steep, edge, end, head, HEADS) - top[None, :]) / total[None, :]
        if FRAME == _WEIGHTED_PCA:
            is_near = (edge > begin) & (edge < end)
            xx, xy, xz, yy, yz, zz = _products(xx, xy, xz, yy, yz, zz, p, unit, edge, num_edges, is_near)
        mask = (edge < end)[:, None] & is_head[None, :]
        tl.store(weight + (edge[:, None] * HEADS + head[None, :]), p, mask=mask)
    if FRAME == _WEIGHTED_PCA:
        out = second_moments + (atom * HEADS + head) * 6
        tl.store(out, xx, mask=is_head)
        tl.store(out + 1, xy, mask=is_head)
        tl.store(out + 2, xz, mask=is_head)
        tl.store(out + 3, yy, mask=is_head)
        tl.store(out + 4, yz, mask=is_head)
        tl.store(out + 5, zz, mask=is_head)
