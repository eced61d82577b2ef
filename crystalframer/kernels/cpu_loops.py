"""The CPU kernel's loops, compiled by Numba once for a model's head sizes.

Parallel over crystals, so the scatter to neighbours' keys and values needs no atomics and the result does not depend
on the number of threads. Eight heads at a time are the lanes of a vector (`kernels.lanes`); for each atom:

forward   logits, softmax, frames, then the moments Σ p v_j, Σ p b_dist and Σ p T_m(e_t·r̄), by the recurrence
          S_m+1 = 2x·S_m − S_m−1 of S_m = p·T_m(x), for `GROUP` neighbours in registers;
backward  ∂L/∂p by Clenshaw's recurrence on the moments' gradients, softmax, then q, k, v and 1/σ².

q·k and the sums over v are formed once per distinct neighbour j, not per image. What belongs to a row (an atom, a
neighbour entry, a moment) and eight heads lies side by side: row·8 + head.

Numbers that are not finite, of a training that diverges, go through as they do in torch (`error_model="numpy"`; an
exception could not leave a parallel loop in good order).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import prange

from crystalframer.environment import kept
from crystalframer.geometry import principal_axes
from crystalframer.kernels import closeness, cpu_frames, cpu_math, cpu_ties, frames, lanes
from crystalframer.kernels.cpu_frames import cosines, max_frames, weighted_pca_frames
from crystalframer.kernels.cpu_math import CONTRACT, part_of_loop, source_digest
from crystalframer.kernels.cpu_ties import (
    LINE_WEIGHTS,
    SCRATCH,
    SHARES,
    add_moments_of_lines,
    principal_axes_with_shares,
    tied_lines,
    weigh_principal_moments,
)
from crystalframer.kernels.lanes import (
    GROUP,
    LANES,
    add_entries,
    exponential,
    fill,
    larger,
    load,
    load_entries,
    plus_entries,
    repeat,
    store,
    transpose,
)

NO_FRAME, GIVEN_FRAME, MAX_FRAME, STATIC_LOCAL_FRAME, WEIGHTED_PCA_FRAME = range(5)
"""How a kernel gets its frames: not at all, from the caller, or by one of three constructions."""
FRAME_SIZE = 9 * LANES
"""Numbers of the frames of eight heads."""

_FEW_LINES = 64
"""Lines of tied frames that there is room for at first; it grows."""
_ZERO, _ONE, _TWO = np.float32(0.0), np.float32(1.0), np.float32(2.0)
_LOWEST = np.float32(-np.inf)


class Sizes(NamedTuple):
    """What a compiled kernel is specialised for."""

    heads: int
    """H, a multiple of `LANES`"""
    width: int
    """Head width d"""
    num_dist: int
    """Distance basis functions K"""
    window: int
    """Distance basis functions that reach one neighbour"""


_DIGEST = source_digest(
    __file__, cpu_math.__file__, cpu_frames.__file__, frames.__file__, lanes.__file__, principal_axes.__file__,
    cpu_ties.__file__, closeness.__file__,
)  # fmt: skip


@part_of_loop()
def _to_lanes(source, start, stride, count, target, to):
    """Copy source[start + h·stride + x], x < count, of eight heads h to target[to + x·8 + h]."""
    whole = count // LANES * LANES
    for x in range(0, whole, LANES):
        transpose(source, start + x, stride, target, to + x * LANES, LANES)
    for x in range(whole, count):
        for h in range(LANES):
            target[to + x * LANES + h] = source[start + h * stride + x]


@part_of_loop()
def _from_lanes(source, start, count, target, to, stride):
    """Copy source[start + x·8 + h], x < count, of eight heads h to target[to + h·stride + x]."""
    whole = count // LANES * LANES
    for x in range(0, whole, LANES):
        transpose(source, start + x * LANES, LANES, target, to + x, stride)
    for x in range(whole, count):
        for h in range(LANES):
            target[to + h * stride + x] = source[start + x * LANES + h]


@part_of_loop()
def _dot(a, a_start, b, b_start, width):
    """Return Σ_x a_x b_x for eight heads."""
    total = fill(_ZERO)
    for x in range(width):
        total = total + load(a, a_start + x * LANES) * load(b, b_start + x * LANES)
    return total


@part_of_loop()
def _add_multiple(factor, a, a_start, out, out_start, width):
    """Add factor·a_x to out_x for eight heads."""
    for x in range(width):
        at = out_start + x * LANES
        store(out, at, load(out, at) + factor * load(a, a_start + x * LANES))


@part_of_loop()
def _clear(array, rows):
    for row in range(rows):
        store(array, row * LANES, fill(_ZERO))


@part_of_loop()
def _longest(first, base, end):
    """Return the most rows of one atom of a crystal, where atom i has first[i] to first[i + 1]."""
    longest = 0
    for i in range(base, end):
        longest = max(longest, first[i + 1] - first[i])
    return longest


@part_of_loop()
def _whole_groups(count):
    """Return the length of an atom's angular rows: its neighbours without itself, filled up to whole groups."""
    return (count - 1 + GROUP - 1) // GROUP * GROUP


@part_of_loop()
def _angular_moments(weight, unit, columns, first, length, frame, t, terms, out, o):
    """Write Σ w T_m(e_t·r̄), m < terms, to the rows of out from o on; sums over the entries from `first` + 1 on."""
    for m in range(terms):
        store(out, o + m * LANES, fill(_ZERO))
    for e in range(0, length, GROUP):
        x = cosines(frame, t, unit, columns, first + 1 + e)
        p = load_entries(weight, (1 + e) * LANES)
        q = p * x
        twice = x + x
        store(out, o, plus_entries(load(out, o), p))
        store(out, o + LANES, plus_entries(load(out, o + LANES), q))
        for m in range(2, terms, 4):
            a = o + m * LANES
            p = twice * q - p
            store(out, a, plus_entries(load(out, a), p))
            q = twice * p - q
            store(out, a + LANES, plus_entries(load(out, a + LANES), q))
            p = twice * q - p
            store(out, a + 2 * LANES, plus_entries(load(out, a + 2 * LANES), p))
            q = twice * p - q
            store(out, a + 3 * LANES, plus_entries(load(out, a + 3 * LANES), q))


@part_of_loop()
def _add_angular_gradient(grad, o, unit, columns, first, length, frame, t, terms, dp):
    """Add Σ_m grad_m T_m(e_t·r̄), grad in rows from o on, to dp of the entries from 1 on, by Clenshaw's recurrence."""
    for e in range(0, length, GROUP):
        x = cosines(frame, t, unit, columns, first + 1 + e)
        twice = x + x
        q = repeat(load(grad, o + (terms - 1) * LANES))
        p = q - q
        for m in range(terms - 2, 1, -4):
            a = o + m * LANES
            p = twice * q + (repeat(load(grad, a)) - p)
            q = twice * p + (repeat(load(grad, a - LANES)) - q)
            p = twice * q + (repeat(load(grad, a - 2 * LANES)) - p)
            q = twice * p + (repeat(load(grad, a - 3 * LANES)) - q)
        add_entries(dp, (1 + e) * LANES, x * q + (repeat(load(grad, o)) - p))


@part_of_loop()
def _keep_heads(weight, rows, bits, kept, out):
    """Write the weights of the heads of `bits` to out, zeros for the other heads; kept: (8,) scratch."""
    for h in range(LANES):
        kept[h] = _ONE if (bits >> h) & 1 else _ZERO
    for row in range(rows):
        store(out, row * LANES, load(weight, row * LANES) * load(kept, 0))


@lru_cache(maxsize=32)
def forward_loop(sizes: Sizes, averages: bool = False) -> Callable[..., None]:
    """Return the compiled forward pass for one set of sizes.

    Args:
        sizes: see `Sizes`.
        averages: take the mean over ties; frames that the caller does not give are then zero where they are open.
    """
    heads, width, num_dist, window = sizes
    groups, row = heads // LANES, width * LANES
    digest = _DIGEST

    @kept(parallel=True, fastmath=CONTRACT)
    def forward(
        kind, terms, q, k, v, inv_sigma_sq, logit_scale,
        offsets, first_edge, first_distinct, distinct, slot, half_sq, unit, columns, dist_start, dist_value,
        axes, key_1, key_2, true_heads, edges_before, atoms_before, out_value, out_moment, out_weight, frames,
    ):  # fmt: skip
        _ = digest
        num_atoms = len(first_edge) - 1
        moments = num_dist + 3 * terms
        for s in prange(len(offsets) - 1):
            base, end = offsets[s], offsets[s + 1]
            widest, most = _longest(first_edge, base, end), _longest(first_distinct, base, end)
            room = (widest + LANES) * LANES
            keys, values = np.empty((end - base) * row, np.float32), np.empty((end - base) * row, np.float32)
            query, value = np.empty(row, np.float32), np.empty(row, np.float32)
            dot, share = np.empty(most * LANES, np.float32), np.empty(most * LANES, np.float32)
            logit, weight, gap = np.empty(room, np.float32), np.empty(room, np.float32), np.empty(room, np.float32)
            near = np.empty(room if kind == STATIC_LOCAL_FRAME else 0, np.float32)
            moment = np.empty(moments * LANES, np.float32)
            pick, bits = np.empty(LANES, np.int64), np.empty(LANES, np.int64)
            sums, wide_frame = np.empty(6 * LANES), np.empty(6 * LANES)
            covariance, vectors = np.empty((3, 3)), np.empty((3, 3))
            wide_axes = axes[s].astype(np.float64)
            if averages:
                firsts, seconds = np.empty(widest + 1, np.int64), np.empty(widest + 1, np.int64)
                of_firsts, of_seconds = np.empty(room, np.float32), np.empty(room, np.float32)
                apart, beside = np.empty(widest + LANES, np.float32), np.empty(room, np.float32)
                rows, frame_axes = np.empty(SCRATCH * LANES, np.float32), np.empty((3, 3))
                shares = np.empty(SHARES * LANES, np.float32)
                polynomial, part = np.empty(terms * LANES, np.float32), np.empty(terms * LANES, np.float32)
                lines = np.empty(3 * _FEW_LINES)
                line_weights = np.empty(LINE_WEIGHTS * LANES * _FEW_LINES, np.float32)
                num_lines, opened = 0, 0
            for g in range(groups):
                for j in range(base, end):
                    _to_lanes(k, (j * heads + g * LANES) * width, width, width, keys, (j - base) * row)
                    _to_lanes(v, (j * heads + g * LANES) * width, width, width, values, (j - base) * row)
                for i in range(base, end):
                    first, count = first_edge[i], first_edge[i + 1] - first_edge[i]
                    start, found = first_distinct[i], first_distinct[i + 1] - first_distinct[i]
                    _to_lanes(q, (i * heads + g * LANES) * width, width, width, query, 0)
                    for n in range(found):
                        product = _dot(query, 0, keys, (distinct[start + n] - base) * row, width)
                        store(dot, n * LANES, product * fill(logit_scale))
                    steep = load(inv_sigma_sq, i * heads + g * LANES)
                    top = fill(_LOWEST)
                    for e in range(count):
                        score = load(dot, slot[first + e] * LANES) - steep * fill(half_sq[first + e])
                        store(logit, e * LANES, score)
                        top = larger(top, score)
                    total = fill(_ZERO)
                    for e in range(count):
                        score = load(logit, e * LANES) - top
                        store(logit, e * LANES, score)
                        p = exponential(score)
                        store(weight, e * LANES, p)
                        total = total + p
                    norm = fill(_ONE) / total
                    _clear(share, found)
                    for e in range(count):
                        p = load(weight, e * LANES) * norm
                        store(weight, e * LANES, p)
                        store(out_weight, ((first + e) * groups + g) * LANES, p)
                        at = slot[first + e] * LANES
                        store(share, at, load(share, at) + p)
                    length = _whole_groups(count)
                    for e in range(count, 1 + length):
                        store(weight, e * LANES, fill(_ZERO))

                    frame = frames[(i * groups + g) * FRAME_SIZE : (i * groups + g + 1) * FRAME_SIZE]
                    index = (first + edges_before) * true_heads + g * LANES
                    if averages:
                        wanted = (1 << min(LANES, true_heads - g * LANES)) - 1
                        for e in range(count, count + LANES):
                            store(weight, e * LANES, fill(_ZERO))
                        if kind == WEIGHTED_PCA_FRAME:
                            opened = principal_axes_with_shares(
                                weight, unit, columns, first, count, axes[s], wanted, sums, covariance, vectors,
                                wide_frame, frame, shares,
                            )  # fmt: skip
                        else:
                            if kind == STATIC_LOCAL_FRAME:
                                for e in range(count):
                                    store(logit, e * LANES, fill(-_TWO * half_sq[first + e]))
                            lines, line_weights, num_lines, opened = tied_lines(
                                logit, unit, columns, first, count, axes[s], wanted, beside, apart, gap, firsts,
                                of_firsts, seconds, of_seconds, pick, bits, rows, frame_axes, frame, lines,
                                line_weights,
                            )  # fmt: skip
                    elif kind == MAX_FRAME:
                        max_frames(
                            logit, weight, unit, columns, first, count, axes[s], key_1, key_2, index, true_heads,
                            gap, pick, bits, frame,
                        )  # fmt: skip
                    elif kind == STATIC_LOCAL_FRAME:
                        nearest = -_TWO * half_sq[first + 1] if count > 1 else _ZERO
                        for e in range(count):
                            log_weight = -_TWO * half_sq[first + e]
                            store(logit, e * LANES, fill(log_weight))
                            store(near, e * LANES, exponential(fill(min(log_weight - nearest, _ZERO))))
                        max_frames(
                            logit, near, unit, columns, first, count, axes[s], key_1, key_2, index, true_heads,
                            gap, pick, bits, frame,
                        )  # fmt: skip
                    elif kind == WEIGHTED_PCA_FRAME:
                        owner = (i + atoms_before) * true_heads + g * LANES
                        weighted_pca_frames(
                            weight, unit, columns, first, count, wide_axes, key_1, owner, sums, covariance, vectors,
                            wide_frame, frame,
                        )  # fmt: skip
                    _clear(moment, num_dist)
                    for e in range(count):
                        p = load(weight, e * LANES)
                        o = dist_start[first + e] * LANES
                        for b in range(window):
                            at = o + b * LANES
                            store(moment, at, load(moment, at) + p * fill(dist_value[(first + e) * window + b]))
                    o = num_dist * LANES
                    if averages:
                        source = weight
                        if kind != WEIGHTED_PCA_FRAME and opened:
                            _keep_heads(weight, 1 + length, wanted & ~opened, rows, gap)
                            source = gap
                        for t in range(3):
                            at = o + t * terms * LANES
                            if kind == WEIGHTED_PCA_FRAME or opened != wanted:
                                _angular_moments(source, unit, columns, first, length, frame, t, terms, moment, at)
                            else:
                                for m in range(terms):
                                    store(moment, at + m * LANES, fill(_ZERO))
                        if opened and kind == WEIGHTED_PCA_FRAME:
                            weigh_principal_moments(
                                weight, unit, columns, first, count, length, frame, shares, terms, part, moment, o
                            )
                            for place in range(FRAME_SIZE):
                                if (opened >> (place % LANES)) & 1:
                                    frame[place] = _ZERO
                        elif opened:
                            add_moments_of_lines(
                                weight, unit, columns, first, count, lines, line_weights, num_lines, terms,
                                polynomial, part, moment, o,
                            )  # fmt: skip
                    elif kind != NO_FRAME:
                        for t in range(3):
                            at = o + t * terms * LANES
                            _angular_moments(weight, unit, columns, first, length, frame, t, terms, moment, at)
                    at = g * LANES * num_atoms + i
                    _from_lanes(moment, 0, moments, out_moment, at * moments, num_atoms * moments)
                    _clear(value, width)
                    for n in range(found):
                        p = load(share, n * LANES)
                        _add_multiple(p, values, (distinct[start + n] - base) * row, value, 0, width)
                    _from_lanes(value, 0, width, out_value, (i * heads + g * LANES) * width, width)

    return forward


@lru_cache(maxsize=32)
def backward_loop(sizes: Sizes) -> Callable[..., None]:
    """Return the compiled backward pass for one set of sizes."""
    heads, width, num_dist, window = sizes
    groups, row = heads // LANES, width * LANES
    digest = _DIGEST

    @kept(parallel=True, fastmath=CONTRACT)
    def backward(
        kind, terms, q, k, v, logit_scale,
        offsets, first_edge, first_distinct, distinct, slot, half_sq, unit, columns, dist_start, dist_value,
        weights, frames, grad_value, grad_moment, grad_q, grad_k, grad_v, grad_inv_sigma_sq,
    ):  # fmt: skip
        _ = digest
        num_atoms = len(first_edge) - 1
        moments = num_dist + 3 * terms
        for s in prange(len(offsets) - 1):
            base, end = offsets[s], offsets[s + 1]
            widest, most = _longest(first_edge, base, end), _longest(first_distinct, base, end)
            size = (end - base) * row
            keys, values = np.empty(size, np.float32), np.empty(size, np.float32)
            key_grads, value_grads = np.empty(size, np.float32), np.empty(size, np.float32)
            query, query_grad, value_grad = (
                np.empty(row, np.float32), np.empty(row, np.float32), np.empty(row, np.float32),
            )  # fmt: skip
            dot, share = np.empty(most * LANES, np.float32), np.empty(most * LANES, np.float32)
            dp = np.empty((widest + GROUP) * LANES, np.float32)
            moment = np.empty(moments * LANES, np.float32)
            for g in range(groups):
                _clear(key_grads, (end - base) * width)
                _clear(value_grads, (end - base) * width)
                for j in range(base, end):
                    _to_lanes(k, (j * heads + g * LANES) * width, width, width, keys, (j - base) * row)
                    _to_lanes(v, (j * heads + g * LANES) * width, width, width, values, (j - base) * row)
                for i in range(base, end):
                    first, count = first_edge[i], first_edge[i + 1] - first_edge[i]
                    start, found = first_distinct[i], first_distinct[i + 1] - first_distinct[i]
                    _to_lanes(q, (i * heads + g * LANES) * width, width, width, query, 0)
                    _to_lanes(grad_value, (i * heads + g * LANES) * width, width, width, value_grad, 0)
                    at = g * LANES * num_atoms + i
                    _to_lanes(grad_moment, at * moments, num_atoms * moments, moments, moment, 0)
                    for n in range(found):
                        product = _dot(value_grad, 0, values, (distinct[start + n] - base) * row, width)
                        store(dot, n * LANES, product)
                    for e in range(count):
                        total = load(dot, slot[first + e] * LANES)
                        o = dist_start[first + e] * LANES
                        for b in range(window):
                            total = total + load(moment, o + b * LANES) * fill(dist_value[(first + e) * window + b])
                        store(dp, e * LANES, total)
                    length = _whole_groups(count)
                    for e in range(count, 1 + length):
                        store(dp, e * LANES, fill(_ZERO))
                    if kind != NO_FRAME:
                        frame = frames[(i * groups + g) * FRAME_SIZE : (i * groups + g + 1) * FRAME_SIZE]
                        for t in range(3):
                            o = (num_dist + t * terms) * LANES
                            _add_angular_gradient(moment, o, unit, columns, first, length, frame, t, terms, dp)
                    mean, mean_half_sq = fill(_ZERO), fill(_ZERO)
                    for e in range(count):
                        p = load(weights, ((first + e) * groups + g) * LANES)
                        mean = mean + p * load(dp, e * LANES)
                        mean_half_sq = mean_half_sq + p * fill(half_sq[first + e])
                    _clear(dot, found)
                    _clear(share, found)
                    decay = fill(_ZERO)
                    for e in range(count):
                        p = load(weights, ((first + e) * groups + g) * LANES)
                        d = p * (load(dp, e * LANES) - mean)
                        decay = decay + d * (fill(half_sq[first + e]) - mean_half_sq)  # Σ d = 0: less cancellation
                        at = slot[first + e] * LANES
                        store(dot, at, load(dot, at) + d)
                        store(share, at, load(share, at) + p)
                    store(grad_inv_sigma_sq, i * heads + g * LANES, fill(_ZERO) - decay)
                    _clear(query_grad, width)
                    for n in range(found):
                        at = (distinct[start + n] - base) * row
                        pull = load(dot, n * LANES) * fill(logit_scale)
                        _add_multiple(pull, keys, at, query_grad, 0, width)
                        _add_multiple(pull, query, 0, key_grads, at, width)
                        _add_multiple(load(share, n * LANES), value_grad, 0, value_grads, at, width)
                    _from_lanes(query_grad, 0, width, grad_q, (i * heads + g * LANES) * width, width)
                for j in range(base, end):
                    to = (j * heads + g * LANES) * width
                    _from_lanes(key_grads, (j - base) * row, width, grad_k, to, width)
                    _from_lanes(value_grads, (j - base) * row, width, grad_v, to, width)

    return backward


@kept()
def distinct_neighbours(first_edge, neighbour, first_distinct, distinct, slot):
    """Number each atom's distinct neighbours.

    Args:
        first_edge: (N + 1,) first entry of each atom.
        neighbour: (E,) index of the neighbouring atom.
        first_distinct: (N + 1,) output, where each atom's part of `distinct` begins.
        distinct: (E,) output, indices of the distinct neighbours, used up to first_distinct[N].
        slot: (E,) output, which of the atom's distinct neighbours an entry is.
    """
    stamp = np.full(len(first_edge) - 1, -1, np.int32)
    filled = 0
    for i in range(len(first_edge) - 1):
        first_distinct[i] = filled
        found = 0
        for e in range(first_edge[i], first_edge[i + 1]):
            j = neighbour[e]
            if stamp[j] < 0:
                stamp[j] = found
                distinct[filled + found] = j
                found += 1
            slot[e] = stamp[j]
        for n in range(filled, filled + found):
            stamp[distinct[n]] = -1
        filled += found
    first_distinct[len(first_edge) - 1] = filled
