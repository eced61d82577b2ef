"""Triton: moments of the distance and angular bases, and what their gradients send back to the softmax weights.

One program per atom (and axis), with a tile of BLOCK neighbour entries × all heads. The distance Gaussians are
evaluated on the fly and contracted with the weights by a small matrix product. The angles go by the Chebyshev
recurrence S_m+1 = 2x·S_m − S_m−1 of S_m = p·T_m(x): two operations and a sum per term, no exponential; backward is
Clenshaw's recurrence. The atom itself, first of its entries, has no angle.

The moments of an atom with more than BLOCK entries are completed in memory, block after block, by the program that
owns them: launch with num_stages=1, so that no load is moved ahead of a store.
"""

import triton
import triton.language as tl

PRECISION: tl.constexpr = tl.constexpr("ieee")
"""Of the matrix products: float32 throughout."""


@triton.jit
def _gaussian(distance, centre, inv_width):
    offset = (distance - centre) * inv_width
    return tl.exp(-0.5 * offset * offset)


@triton.jit(do_not_specialize=["num_atoms", "row"])
def distance_moments(
    first,
    distance,
    weight,
    out,
    num_atoms,
    row,
    spacing,
    inv_width,
    HEADS: tl.constexpr,
    NUM_DIST: tl.constexpr,
    HEADS_P: tl.constexpr,
    NUM_DIST_P: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out[h, i, k] = Σ_e weight[e, h] b_k(distance[e]), k < NUM_DIST; rows of `out` are `row` long."""
    atom = tl.program_id(0)
    begin = tl.load(first + atom)
    end = tl.load(first + atom + 1)
    head = tl.arange(0, HEADS_P)
    k = tl.arange(0, NUM_DIST_P)
    is_head = head < HEADS
    centre = (k + 1).to(tl.float32) * spacing
    total = tl.zeros([NUM_DIST_P, HEADS_P], dtype=tl.float32)
    for start in range(begin, end, BLOCK):
        edge = start + tl.arange(0, BLOCK)
        is_real = edge < end
        d = tl.load(distance + edge, mask=is_real, other=0.0)
        p = tl.load(
            weight + (edge[:, None] * HEADS + head[None, :]), mask=is_real[:, None] & is_head[None, :], other=0.0
        )
        basis = _gaussian(d[None, :], centre[:, None], inv_width)
        total += tl.dot(basis, p, input_precision=PRECISION)
    place = (head.to(tl.int64) * num_atoms + atom) * row
    tl.store(out + (place[None, :] + k[:, None]), total, mask=is_head[None, :] & (k < NUM_DIST)[:, None])


@triton.jit(do_not_specialize=["num_atoms", "row"])
def distance_gradient(
    first,
    distance,
    grad_moment,
    grad_weight,
    num_atoms,
    row,
    spacing,
    inv_width,
    HEADS: tl.constexpr,
    NUM_DIST: tl.constexpr,
    HEADS_P: tl.constexpr,
    NUM_DIST_P: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """grad_weight[e, h] += Σ_k grad_moment[h, i, k] b_k(distance[e]); one program per atom i."""
    atom = tl.program_id(0)
    begin = tl.load(first + atom)
    end = tl.load(first + atom + 1)
    head = tl.arange(0, HEADS_P)
    k = tl.arange(0, NUM_DIST_P)
    is_head = head < HEADS
    centre = (k + 1).to(tl.float32) * spacing
    place = (head.to(tl.int64) * num_atoms + atom) * row
    mask = is_head[None, :] & (k < NUM_DIST)[:, None]
    grad = tl.load(grad_moment + (place[None, :] + k[:, None]), mask=mask, other=0.0)
    for start in range(begin, end, BLOCK):
        edge = start + tl.arange(0, BLOCK)
        is_real = edge < end
        d = tl.load(distance + edge, mask=is_real, other=0.0)
        cell = edge[:, None] * HEADS + head[None, :]
        mask = is_real[:, None] & is_head[None, :]
        basis = _gaussian(d[:, None], centre[None, :], inv_width)
        dp = tl.load(grad_weight + cell, mask=mask, other=0.0)
        dp += tl.dot(basis, grad, input_precision=PRECISION)
        tl.store(grad_weight + cell, dp, mask=mask)


@triton.jit
def _cosines(unit, edge, is_near, num_edges, axis, is_head):
    """Return e·r̄, (BLOCK, HEADS_P), for each head's axis: `axis` points to three numbers per head."""
    x = tl.load(unit + edge, mask=is_near, other=0.0)
    y = tl.load(unit + num_edges + edge, mask=is_near, other=0.0)
    z = tl.load(unit + 2 * num_edges + edge, mask=is_near, other=0.0)
    e_x = tl.load(axis, mask=is_head, other=0.0)
    e_y = tl.load(axis + 1, mask=is_head, other=0.0)
    e_z = tl.load(axis + 2, mask=is_head, other=0.0)
    return x[:, None] * e_x[None, :] + y[:, None] * e_y[None, :] + z[:, None] * e_z[None, :]


@triton.jit
def _add_moment(out, value, is_head, is_first):
    """Add to what earlier blocks of the same atom left in `out`."""
    before = tl.load(out, mask=is_head & (is_first == 0), other=0.0)
    tl.store(out, before + value, mask=is_head)


@triton.jit(do_not_specialize=["num_atoms", "num_edges", "row", "head_stride"])
def angular_moments(
    first,
    unit,
    frames,
    weight,
    out,
    num_atoms,
    num_edges,
    row,
    head_stride,
    HEADS: tl.constexpr,
    NUM_DIST: tl.constexpr,
    TERMS: tl.constexpr,
    HEADS_P: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out[h, i, NUM_DIST + t·TERMS + m] = Σ_e weight[e, h] T_m(e_t·r̄); one program per atom i and axis t.

    `head_stride` is 1, unknown to the compiler: it then gives neighbouring threads neighbouring heads instead of one
    thread several, and most of each sum over entries stays within a thread.
    """
    atom = tl.program_id(0)
    t = tl.program_id(1)
    begin = tl.load(first + atom)
    end = tl.load(first + atom + 1)
    head = tl.arange(0, HEADS_P)
    is_head = head < HEADS
    axis = frames + ((atom * HEADS + head) * 9 + t * 3)
    place = out + ((head.to(tl.int64) * num_atoms + atom) * row + NUM_DIST + t * TERMS)
    for start in range(begin, end, BLOCK):
        edge = start + tl.arange(0, BLOCK)
        is_near = (edge < end) & (edge > begin)
        is_first = start == begin
        cosine = _cosines(unit, edge, is_near, num_edges, axis, is_head)
        cell = edge[:, None] * HEADS + head[None, :] * head_stride
        low = tl.load(weight + cell, mask=is_near[:, None] & is_head[None, :], other=0.0)
        high = low * cosine
        twice = 2.0 * cosine
        _add_moment(place, tl.sum(low, axis=0), is_head, is_first)
        _add_moment(place + 1, tl.sum(high, axis=0), is_head, is_first)
        for m in range(2, TERMS, 2):
            low = twice * high - low
            _add_moment(place + m, tl.sum(low, axis=0), is_head, is_first)
            high = twice * low - high
            _add_moment(place + m + 1, tl.sum(high, axis=0), is_head, is_first)
        tl.debug_barrier()


@triton.jit
def _clenshaw(cosine, grad, is_head, TERMS: tl.constexpr):
    """Return Σ_m grad[m] T_m(cosine), (BLOCK, HEADS_P); `grad` points to each head's TERMS numbers."""
    twice = 2.0 * cosine
    high = tl.zeros_like(cosine) + tl.load(grad + (TERMS - 1), mask=is_head, other=0.0)[None, :]
    low = tl.zeros_like(cosine)
    for step in range(0, TERMS - 2, 2):
        m = TERMS - 2 - step
        low = twice * high + (tl.load(grad + m, mask=is_head, other=0.0)[None, :] - low)
        high = twice * low + (tl.load(grad + m - 1, mask=is_head, other=0.0)[None, :] - high)
    return cosine * high + (tl.load(grad, mask=is_head, other=0.0)[None, :] - low)


@triton.jit(do_not_specialize=["num_atoms", "num_edges", "row", "head_stride"])
def weight_gradient(
    first,
    half_sq,
    unit,
    frames,
    weight,
    grad_moment,
    grad_weight,
    grad_inv_sigma_sq,
    num_atoms,
    num_edges,
    row,
    head_stride,
    HEADS: tl.constexpr,
    NUM_DIST: tl.constexpr,
    TERMS: tl.constexpr,
    HEADS_P: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Complete ∂L/∂p by the angles (TERMS > 0) and turn it into ∂L/∂logit, in place, and ∂L/∂(1/σ²).

    ∂L/∂s_e = p_e (∂L/∂p_e − Σ p ∂L/∂p), and with s = … − half_sq/σ², ∂L/∂(1/σ²) = −Σ half_sq ∂L/∂s.
    """
    atom = tl.program_id(0)
    begin = tl.load(first + atom)
    end = tl.load(first + atom + 1)
    head = tl.arange(0, HEADS_P)
    is_head = head < HEADS
    axis = frames + (atom * HEADS + head) * 9
    place = grad_moment + ((head.to(tl.int64) * num_atoms + atom) * row + NUM_DIST)
    mean = tl.zeros([HEADS_P], dtype=tl.float32)
    for start in range(begin, end, BLOCK):
        edge = start + tl.arange(0, BLOCK)
        is_near = (edge < end) & (edge > begin)
        cell = edge[:, None] * HEADS + head[None, :] * head_stride
        mask = (edge < end)[:, None] & is_head[None, :]
        dp = tl.load(grad_weight + cell, mask=mask, other=0.0)
        if TERMS > 0:
            for t in range(3):
                cosine = _cosines(unit, edge, is_near, num_edges, axis + t * 3, is_head)
                dp += tl.where(is_near[:, None], _clenshaw(cosine, place + t * TERMS, is_head, TERMS), 0.0)
            tl.store(grad_weight + cell, dp, mask=mask)
        mean += tl.sum(tl.load(weight + cell, mask=mask, other=0.0) * dp, axis=0)
    tl.debug_barrier()
    decay = tl.zeros([HEADS_P], dtype=tl.float32)
    for start in range(begin, end, BLOCK):
        edge = start + tl.arange(0, BLOCK)
        cell = edge[:, None] * HEADS + head[None, :] * head_stride
        mask = (edge < end)[:, None] & is_head[None, :]
        p = tl.load(weight + cell, mask=mask, other=0.0)
        slope = p * (tl.load(grad_weight + cell, mask=mask, other=0.0) - mean[None, :])
        decay += tl.sum(slope * tl.load(half_sq + edge, mask=edge < end, other=0.0)[:, None], axis=0)
        tl.store(grad_weight + cell, slope, mask=mask)
    tl.store(grad_inv_sigma_sq + (atom * HEADS + head), -decay, mask=is_head)
