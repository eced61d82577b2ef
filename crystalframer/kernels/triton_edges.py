"""Triton: the two sparse products of the attention, over a list of neighbour entries.

`edge_dot` multiplies pairs of atoms' rows (q·k forward, ∂L/∂p backward); `edge_sum` adds weighted rows per atom
(Σ p v and every gradient of q, k and v). The gradients of k and v go over the transposed list, which gathers what
reaches each neighbour, so nothing is scattered, no atomics are needed and results repeat bit by bit.

Sizes ending in `_P` are rounded up to powers of two, which Triton's tiles need; masks cut the rest off.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_edges"])
def edge_dot(
    left_of,
    right_of,
    left,
    right,
    out,
    scale,
    num_edges,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS_P: tl.constexpr,
    WIDTH_P: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out[e, h] = scale · Σ_x left[left_of[e], h, x] · right[right_of[e], h, x]; one program per BLOCK entries."""
    edge = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    head = tl.arange(0, HEADS_P)
    x = tl.arange(0, WIDTH_P)
    is_real = edge < num_edges
    is_head = head < HEADS
    cell = head[:, None] * WIDTH + x[None, :]
    mask = is_real[:, None, None] & (is_head[:, None] & (x < WIDTH)[None, :])[None, :, :]
    i = tl.load(left_of + edge, mask=is_real, other=0) * (HEADS * WIDTH)
    j = tl.load(right_of + edge, mask=is_real, other=0) * (HEADS * WIDTH)
    a = tl.load(left + (i[:, None, None] + cell[None, :, :]), mask=mask, other=0.0)
    b = tl.load(right + (j[:, None, None] + cell[None, :, :]), mask=mask, other=0.0)
    product = tl.sum(a * b, axis=2) * scale
    tl.store(out + (edge[:, None] * HEADS + head[None, :]), product, mask=is_real[:, None] & is_head[None, :])


@triton.jit
def edge_sum(
    first,
    entry,
    source,
    weight,
    values,
    out,
    scale,
    IN_ORDER: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS_P: tl.constexpr,
    WIDTH_P: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out[i, h] = scale · Σ_e weight[e, h] · values[source[e], h], (WIDTH,) each; one program per atom i.

    The entries e are first[i] to first[i + 1] when IN_ORDER, else what `entry` holds there.
    """
    atom = tl.program_id(0)
    begin = tl.load(first + atom)
    end = tl.load(first + atom + 1)
    head = tl.arange(0, HEADS_P)
    x = tl.arange(0, WIDTH_P)
    is_head = head < HEADS
    cell = head[:, None] * WIDTH + x[None, :]
    inside = is_head[:, None] & (x < WIDTH)[None, :]
    total = tl.zeros([BLOCK, HEADS_P, WIDTH_P], dtype=tl.float32)
    for start in range(begin, end, BLOCK):
        slot = start + tl.arange(0, BLOCK)
        is_real = slot < end
        if IN_ORDER:
            edge = slot
        else:
            edge = tl.load(entry + slot, mask=is_real, other=0)
        row = tl.load(source + edge, mask=is_real, other=0) * (HEADS * WIDTH)
        w = tl.load(
            weight + (edge[:, None] * HEADS + head[None, :]), mask=is_real[:, None] & is_head[None, :], other=0.0
        )
        mask = is_real[:, None, None] & inside[None, :, :]
        v = tl.load(values + (row[:, None, None] + cell[None, :, :]), mask=mask, other=0.0)
        total += w[:, :, None] * v
    tl.store(out + (atom * (HEADS * WIDTH) + cell), tl.sum(total, axis=0) * scale, mask=inside)
