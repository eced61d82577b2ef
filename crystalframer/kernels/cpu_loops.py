"""The CPU kernel's loops, compiled by Numba once for a model's head sizes.

Parallel over crystals, so the scatter to neighbours' keys and values needs no atomics and the result does not depend
on the number of threads. Per atom and head, with the atom's K neighbour entries as the vector dimension:

forward   logits, softmax, frame, then the moments Σ p v_j, Σ p b_dist and Σ p T_m(e_t·r̄), by the recurrence
          S_m+1 = 2x·S_m − S_m−1 of S_m = p·T_m(x);
backward  ∂L/∂p by Clenshaw's recurrence on the moments' gradients, softmax, then q, k, v and 1/σ².

q·k and the sums over v are formed once per distinct neighbour j, not per image. The distance basis is the same for
all heads, so its moments are small matrix products of a stretch of neighbours at a time.

Numbers that are not finite, of a training that diverges, go through as they do in torch (`error_model="numpy"`; an
exception could not leave a parallel loop in good order).
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit, prange

from crystalframer.geometry import principal_axes
from crystalframer.kernels import cpu_frames, cpu_math, frames
from crystalframer.kernels.cpu_frames import max_frame, weighted_pca_frame
from crystalframer.kernels.cpu_math import FAST, exp_in_place, part_of_loop

NO_FRAME, GIVEN_FRAME, MAX_FRAME, STATIC_LOCAL_FRAME, WEIGHTED_PCA_FRAME = range(5)
"""How a kernel gets its frames: not at all, from the caller, or by one of three constructions."""
STRETCH = 64
"""Neighbour entries per matrix product of the distance basis: they stay in the first-level cache."""

VECTOR = 8
"""Angular rows are filled up to a multiple of this many numbers, so that no scalar remainder is left."""

_ZERO, _HALF, _TWO = np.float32(0.0), np.float32(0.5), np.float32(2.0)


class Sizes(NamedTuple):
    """What a compiled kernel is specialised for."""

    heads: int
    """H"""
    width: int
    """Head width d"""
    num_dist: int
    """Distance basis functions K"""
    window: int
    """Distance basis functions that reach one neighbour"""


def _source_digest() -> int:
    """Return a number that changes with the source of anything compiled in: part of the key of Numba's cache."""
    files = [__file__, cpu_math.__file__, cpu_frames.__file__, frames.__file__, principal_axes.__file__]
    text = b"".join(Path(file).read_bytes() for file in files)
    return int.from_bytes(hashlib.sha256(text).digest()[:6], "big")


_DIGEST = _source_digest()


@part_of_loop(FAST)
def _sum(x, count):
    total = _ZERO
    for e in range(count):
        total += x[e]
    return total


@part_of_loop()
def _distinct_neighbours(neighbour, first, count, base, stamp, slot, distinct):
    """Number an atom's distinct neighbours; slot[e] is the number of entry e's. Returns how many there are."""
    found = 0
    for e in range(count):
        j = neighbour[first + e] - base
        if stamp[j] < 0:
            stamp[j] = found
            distinct[found] = j + base
            found += 1
        slot[e] = stamp[j]
    for s in range(found):
        stamp[distinct[s] - base] = -1
    return found


@part_of_loop()
def _padded(count):
    """Return the length of an atom's angular rows: its neighbours without itself, filled up to whole vectors."""
    return (count - 1 + VECTOR - 1) // VECTOR * VECTOR


@part_of_loop()
def _load_directions(unit, first, count, near):
    """Copy the unit vectors of an atom's neighbours, without itself, into near and fill up with zeros."""
    for x in range(3):
        for e in range(count - 1):
            near[x, e] = unit[x, first + 1 + e]
        for e in range(count - 1, _padded(count)):
            near[x, e] = _ZERO


@part_of_loop(FAST)
def _angular_moments(weight, near, length, axis, terms, twice_x, low, high, out):
    """Write Σ w T_m(e·r̄), m < terms, into out."""
    x, y, z = axis[0], axis[1], axis[2]
    m0 = m1 = _ZERO
    for e in range(length):
        cosine = x * near[0, e] + y * near[1, e] + z * near[2, e]
        twice_x[e] = _TWO * cosine
        low[e] = weight[e]
        high[e] = weight[e] * cosine
        m0 += low[e]
        m1 += high[e]
    out[0], out[1] = m0, m1
    for m in range(2, terms, 4):
        a = b = c = d = _ZERO
        for e in range(length):
            t, p, q = twice_x[e], low[e], high[e]
            p = t * q - p
            a += p
            q = t * p - q
            b += q
            p = t * q - p
            c += p
            q = t * p - q
            d += q
            low[e], high[e] = p, q
        out[m], out[m + 1], out[m + 2], out[m + 3] = a, b, c, d


@part_of_loop(FAST)
def _angular_gradient(grad, near, length, axis, terms, twice_x, b1, b2, dp):
    """Add Σ_m grad_m T_m(e·r̄) to dp by Clenshaw's recurrence."""
    x, y, z = axis[0], axis[1], axis[2]
    top = grad[terms - 1]
    for e in range(length):
        twice_x[e] = _TWO * (x * near[0, e] + y * near[1, e] + z * near[2, e])
        b1[e] = top
        b2[e] = _ZERO
    for m in range(terms - 2, 0, -4):
        g0, g1, g2, g3 = grad[m], grad[m - 1], grad[m - 2], grad[m - 3]
        for e in range(length):
            t, p, q = twice_x[e], b1[e], b2[e]
            q = t * p + (g0 - q)
            p = t * q + (g1 - p)
            q = t * p + (g2 - q)
            p = t * q + (g3 - p)
            b1[e], b2[e] = p, q
    constant = grad[0]
    for e in range(length):
        dp[e] += _HALF * twice_x[e] * b1[e] - b2[e] + constant


@part_of_loop()
def _spread(dist_start, dist_value, first, count, window, dense):
    """Write the distance basis of entries first to first + count into the rows of dense, zeros outside the window."""
    for e in range(count):
        row = dense[e]
        row[:] = _ZERO
        start = dist_start[first + e]
        for b in range(window):
            row[start + b] = dist_value[first + e, b]


@lru_cache(maxsize=32)
def forward_loop(sizes: Sizes) -> Callable[..., None]:
    """Return the compiled forward pass for one set of sizes."""
    heads, width, num_dist, window = sizes
    digest = _DIGEST

    @njit(parallel=True, fastmath=FAST, cache=True, error_model="numpy")
    def forward(
        kind, terms, q, k, v, inv_sigma_sq, logit_scale,
        offsets, first_edge, neighbour, half_sq, unit, dist_start, dist_value,
        given, axes, key_1, key_2, edges_before, atoms_before, out_value, out_moment, out_weight, out_frame,
    ):  # fmt: skip
        _ = digest
        for s in prange(len(offsets) - 1):
            base, end = offsets[s], offsets[s + 1]
            widest = 0
            for i in range(base, end):
                widest = max(widest, first_edge[i + 1] - first_edge[i])
            room = 1 + _padded(widest)
            near = np.empty((3, room), np.float32)
            stamp = np.full(end - base, -1, np.int32)
            slot = np.empty(widest, np.int32)
            distinct = np.empty(min(widest, end - base), np.int64)
            dot = np.empty((len(distinct), heads), np.float32)
            row = np.empty((heads, room), np.float32)
            by_edge = np.empty((widest, heads), np.float32)
            bits = np.empty(widest, np.int32)
            logit = np.empty(widest, np.float32)
            work = np.empty((3, room), np.float32)
            frame = np.empty((3, 3), np.float32)
            covariance, vectors = np.empty((3, 3)), np.empty((3, 3))
            wide_axes = axes[s].astype(np.float64)
            dense = np.empty((STRETCH, num_dist), np.float32)
            part, moment = np.empty((heads, num_dist), np.float32), np.empty((heads, num_dist), np.float32)
            for i in range(base, end):
                first = first_edge[i]
                count = first_edge[i + 1] - first
                length = _padded(count)
                if kind != NO_FRAME:
                    _load_directions(unit, first, count, near)
                found = _distinct_neighbours(neighbour, first, count, base, stamp, slot, distinct)
                for n in range(found):
                    j = distinct[n]
                    for h in range(heads):
                        total = _ZERO
                        for x in range(width):
                            total += q[i, h, x] * k[j, h, x]
                        dot[n, h] = total * logit_scale
                if kind == STATIC_LOCAL_FRAME:
                    for e in range(count):
                        logit[e] = -_TWO * half_sq[first + e]
                for h in range(heads):
                    weight = row[h]
                    weight[count:] = _ZERO
                    steep = inv_sigma_sq[i, h]
                    top = np.float32(-np.inf)
                    for e in range(count):
                        weight[e] = dot[slot[e], h] - steep * half_sq[first + e]
                        top = max(top, weight[e])
                    for e in range(count):
                        weight[e] -= top
                        if kind == MAX_FRAME:
                            logit[e] = weight[e]
                    exp_in_place(weight, bits, count)
                    norm = np.float32(1.0) / _sum(weight, count)
                    for e in range(count):
                        weight[e] *= norm
                        by_edge[e, h] = weight[e]
                        out_weight[first * heads + h * count + e] = weight[e]
                    if kind == NO_FRAME:
                        continue
                    index = (first + edges_before) * heads + h
                    if kind == GIVEN_FRAME:
                        frame[:] = given[i, h]
                    elif kind == MAX_FRAME:
                        max_frame(
                            logit, weight, unit, first, count, axes[s], key_1, key_2, index, heads, work[0], frame
                        )
                    elif kind == STATIC_LOCAL_FRAME:
                        nearest = logit[1] if count > 1 else _ZERO
                        for e in range(count):
                            work[1, e] = min(logit[e] - nearest, _ZERO)
                        exp_in_place(work[1], bits, count)
                        max_frame(
                            logit, work[1], unit, first, count, axes[s], key_1, key_2, index, heads, work[0], frame
                        )
                    else:
                        owner = (i + atoms_before) * heads + h
                        weighted_pca_frame(
                            weight, unit, first, count, wide_axes, key_1, owner, covariance, vectors, frame
                        )
                    out_frame[i, h] = frame
                    for t in range(3):
                        start = num_dist + t * terms
                        _angular_moments(
                            weight[1:], near, length, frame[t], terms, work[0], work[1], work[2],
                            out_moment[h, i, start : start + terms],
                        )  # fmt: skip
                moment[:] = _ZERO
                for begin in range(0, count, STRETCH):
                    size = min(STRETCH, count - begin)
                    _spread(dist_start, dist_value, first + begin, size, window, dense)
                    np.dot(by_edge[begin : begin + size].T, dense[:size], part)
                    moment += part
                dot[:found] = _ZERO
                for e in range(count):
                    for h in range(heads):
                        dot[slot[e], h] += by_edge[e, h]
                for h in range(heads):
                    out_moment[h, i, :num_dist] = moment[h]
                    for x in range(width):
                        out_value[i, h, x] = _ZERO
                for n in range(found):
                    j = distinct[n]
                    for h in range(heads):
                        for x in range(width):
                            out_value[i, h, x] += dot[n, h] * v[j, h, x]

    return forward


@lru_cache(maxsize=32)
def backward_loop(sizes: Sizes) -> Callable[..., None]:
    """Return the compiled backward pass for one set of sizes."""
    heads, width, num_dist, window = sizes
    digest = _DIGEST

    @njit(parallel=True, fastmath=FAST, cache=True, error_model="numpy")
    def backward(
        kind, terms, q, k, v, logit_scale,
        offsets, first_edge, neighbour, half_sq, unit, dist_start, dist_value,
        weights, frames, grad_value, grad_moment, grad_q, grad_k, grad_v, grad_inv_sigma_sq,
    ):  # fmt: skip
        _ = digest
        for s in prange(len(offsets) - 1):
            base, end = offsets[s], offsets[s + 1]
            widest = 0
            for i in range(base, end):
                widest = max(widest, first_edge[i + 1] - first_edge[i])
                grad_q[i] = _ZERO
                grad_k[i] = _ZERO
                grad_v[i] = _ZERO
            room = 1 + _padded(widest)
            near = np.empty((3, room), np.float32)
            stamp = np.full(end - base, -1, np.int32)
            slot = np.empty(widest, np.int32)
            distinct = np.empty(min(widest, end - base), np.int64)
            dot = np.empty((len(distinct), heads), np.float32)
            total_weight = np.empty((len(distinct), heads), np.float32)
            by_edge = np.empty((widest, heads), np.float32)
            dp = np.empty(room, np.float32)
            work = np.empty((3, room), np.float32)
            dense, moment = np.empty((STRETCH, num_dist), np.float32), np.empty((num_dist, heads), np.float32)
            for i in range(base, end):
                first = first_edge[i]
                count = first_edge[i + 1] - first
                length = _padded(count)
                if kind != NO_FRAME:
                    _load_directions(unit, first, count, near)
                found = _distinct_neighbours(neighbour, first, count, base, stamp, slot, distinct)
                for n in range(found):
                    j = distinct[n]
                    for h in range(heads):
                        total = _ZERO
                        for x in range(width):
                            total += grad_value[i, h, x] * v[j, h, x]
                        dot[n, h] = total
                for h in range(heads):
                    for b in range(num_dist):
                        moment[b, h] = grad_moment[h, i, b]
                for begin in range(0, count, STRETCH):
                    size = min(STRETCH, count - begin)
                    _spread(dist_start, dist_value, first + begin, size, window, dense)
                    np.dot(dense[:size], moment, by_edge[begin : begin + size])
                for e in range(count):
                    for h in range(heads):
                        by_edge[e, h] += dot[slot[e], h]
                dot[:found] = _ZERO
                total_weight[:found] = _ZERO
                for h in range(heads):
                    dp[count:] = _ZERO
                    for e in range(count):
                        dp[e] = by_edge[e, h]
                    if kind != NO_FRAME:
                        for t in range(3):
                            start = num_dist + t * terms
                            _angular_gradient(
                                grad_moment[h, i, start : start + terms], near, length, frames[i, h, t], terms,
                                work[0], work[1], work[2], dp[1:],
                            )  # fmt: skip
                    weight = weights[first * heads + h * count : first * heads + (h + 1) * count]
                    mean = mean_half_sq = _ZERO
                    for e in range(count):
                        mean += weight[e] * dp[e]
                        mean_half_sq += weight[e] * half_sq[first + e]
                    for e in range(count):
                        dp[e] = weight[e] * (dp[e] - mean)
                    # A sum in a loop that also stores is added up in one of two orders, as the arrays happen to lie in
                    # memory (the compiler's check for overlap): two runs of a training would differ in the last bit.
                    decay = _ZERO
                    for e in range(count):
                        decay += dp[e] * (half_sq[first + e] - mean_half_sq)  # Σ dp = 0: less cancellation
                    grad_inv_sigma_sq[i, h] = -decay
                    for e in range(count):
                        dot[slot[e], h] += dp[e]
                        total_weight[slot[e], h] += weight[e]
                for n in range(found):
                    j = distinct[n]
                    for h in range(heads):
                        pull = dot[n, h] * logit_scale
                        share = total_weight[n, h]
                        for x in range(width):
                            grad_q[i, h, x] += pull * k[j, h, x]
                            grad_k[j, h, x] += pull * q[i, h, x]
                            grad_v[j, h, x] += share * grad_value[i, h, x]

    return backward
