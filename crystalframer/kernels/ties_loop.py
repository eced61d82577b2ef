"""The loop of `kernels.ties_cpu`, compiled by Numba; the definitions: `kernels.closeness`, `ties_reference`."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit, prange

from crystalframer.environment import kept
from crystalframer.kernels import closeness, cpu_math, frames
from crystalframer.kernels.closeness import EIGENVALUES, LOG_WEIGHTS, SAME_LINE, SKEWS
from crystalframer.kernels.cpu_math import jacobi, source_digest
from crystalframer.kernels.frames import COLLINEAR_TOLERANCE

MAX, STATIC_LOCAL, WEIGHTED_PCA = range(3)
"""What makes a frame: the largest weights, the shortest distances, or the principal axes."""
FAST = {"contract", "reassoc", "nsz", "arcp"}
LEAST_WEIGHT = np.float32(3e-8)
"""Neighbours of less weight do not enter the moments."""
FEW_LINES = 64
"""Lines that there is room for at first; it grows."""

_ZERO, _ONE, _TWO = np.float32(0.0), np.float32(1.0), np.float32(2.0)
_LOG2_E = np.float32(1.0 / math.log(2.0))
_LN2 = np.float32(math.log(2.0))
_LOWEST = np.float32(-87.0)
_C2, _C3, _C4, _C5, _C6, _C7 = (np.float32(1.0 / math.factorial(n)) for n in range(2, 8))
_TIE_FULL, _TIE_NONE = LOG_WEIGHTS.full, LOG_WEIGHTS.none
_GAP_FULL, _GAP_NONE = EIGENVALUES.full, EIGENVALUES.none
_SKEW_FULL, _SKEW_NONE = SKEWS.full, SKEWS.none


_DIGEST = source_digest(__file__, cpu_math.__file__, frames.__file__, closeness.__file__)


def _inlined(fastmath: bool | set[str] = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return njit(fastmath=fastmath, error_model="numpy", forceinline=True)


def _called(fastmath: bool | set[str] = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return njit(fastmath=fastmath, error_model="numpy", inline="never")


@_inlined()
def _share(difference, full, none):
    """See `closeness.Closeness.share`."""
    way = min(max((difference - full) / (none - full), 0.0), 1.0)
    return 1.0 - way * way * (3.0 - 2.0 * way)


@_inlined(FAST)
def _softmax(x, bits, count):
    """Replace log-weights x[:count], the largest of which is 0, by weights that add up to 1; `bits` is scratch."""
    for e in range(count):
        value = max(x[e], _LOWEST)
        whole = np.floor(value * _LOG2_E + np.float32(0.5))
        f = value - whole * _LN2
        bits[e] = (np.int32(whole) + np.int32(127)) << np.int32(23)
        x[e] = ((((((_C7 * f + _C6) * f + _C5) * f + _C4) * f + _C3) * f + _C2) * f + _ONE) * f + _ONE
    power = bits.view(np.float32)
    total = 0.0
    for e in range(count):
        x[e] *= power[e]
        total += x[e]
    norm = np.float32(1.0 / total)
    for e in range(count):
        x[e] *= norm


@_inlined()
def _add_line(lines, found, x, y, z, number, weight):
    """Add the axis (x, y, z) to the lines; returns them and how many there are.

    A row of `lines` is a unit vector, the weighted sum of its axes, and for each of e1, e2, e3 the weights of the
    vector and of its opposite.
    """
    for n in range(found):
        line = lines[n]
        dot = line[0] * x + line[1] * y + line[2] * z
        if 1.0 - abs(dot) < SAME_LINE:
            side = 0 if dot > 0.0 else 1
            signed = weight if dot > 0.0 else -weight
            line[3] += signed * x
            line[4] += signed * y
            line[5] += signed * z
            norm = math.sqrt(line[3] * line[3] + line[4] * line[4] + line[5] * line[5])
            for c in range(3):
                line[c] = line[3 + c] / norm
            line[6 + 2 * number + side] += weight
            return lines, found
    if found == len(lines):
        longer = np.empty((2 * found, 12))
        longer[:found] = lines
        lines = longer
    line = lines[found]
    line[:] = 0.0
    line[0], line[1], line[2] = x, y, z
    line[3], line[4], line[5] = weight * x, weight * y, weight * z
    line[6 + 2 * number] = weight
    return lines, found + 1


@_inlined()
def _list_seconds(score, unit, first, count, x, y, z, second, share):
    """List the second axes that tie given the first (x, y, z), with their shares; returns how many there are."""
    best = -np.inf
    for e in range(1, count):
        if score[e] > best:
            along = abs(x * unit[0, first + e] + y * unit[1, first + e] + z * unit[2, first + e])
            if 1.0 - along > COLLINEAR_TOLERANCE:
                best = max(best, score[e] + math.log(1.0 - along))
    found = 0
    if best == -np.inf:
        return found
    for e in range(1, count):
        if score[e] > best - _TIE_NONE:
            along = abs(x * unit[0, first + e] + y * unit[1, first + e] + z * unit[2, first + e])
            if 1.0 - along > COLLINEAR_TOLERANCE:
                own = _share(best - (score[e] + math.log(1.0 - along)), _TIE_FULL, _TIE_NONE)
                if own > 0.0:
                    second[found] = e
                    share[found] = own
                    found += 1
    total = 0.0
    for n in range(found):
        total += share[n]
    for n in range(found):
        share[n] /= total
    return found


@_inlined()
def _complete(frame, x, y, z):
    """Set e2 to the direction (x, y, z), orthogonal to e1, and e3 to e1 × e2."""
    along = frame[0, 0] * x + frame[0, 1] * y + frame[0, 2] * z
    x, y, z = x - along * frame[0, 0], y - along * frame[0, 1], z - along * frame[0, 2]
    norm = math.sqrt(x * x + y * y + z * z)
    frame[1, 0], frame[1, 1], frame[1, 2] = x / norm, y / norm, z / norm
    frame[2, 0] = frame[0, 1] * frame[1, 2] - frame[0, 2] * frame[1, 1]
    frame[2, 1] = frame[0, 2] * frame[1, 0] - frame[0, 0] * frame[1, 2]
    frame[2, 2] = frame[0, 0] * frame[1, 1] - frame[0, 1] * frame[1, 0]


@_inlined()
def _completion(lattice_axes, frame):
    """Return the lattice axis most orthogonal to e1."""
    best, least = 0, 2.0
    for i in range(3):
        along = abs(
            lattice_axes[i, 0] * frame[0, 0] + lattice_axes[i, 1] * frame[0, 1] + lattice_axes[i, 2] * frame[0, 2]
        )
        if along < least:
            best, least = i, along
    return best


@_called()
def _neighbour_lines(score, unit, first, count, lattice_axes, firsts, first_share, seconds, second_share, frame, lines):
    """Write the frame that points to neighbours into frame, (3, 3) float64, or the tied ones' axes into lines.

    Returns the lines, and how many there are: 0 where the frame is decided.
    """
    found = 0
    if count < 2:
        for t in range(3):
            for c in range(3):
                frame[t, c] = lattice_axes[t, c]
        return lines, found
    best = score[1]
    for e in range(2, count):
        best = max(best, score[e])
    num_first, total = 0, 0.0
    for e in range(1, count):
        own = _share(np.float64(best - score[e]), _TIE_FULL, _TIE_NONE)
        if own > 0.0:
            firsts[num_first], first_share[num_first] = e, own
            num_first += 1
            total += own
    for f in range(num_first):
        e, share = firsts[f], first_share[f] / total
        for c in range(3):
            frame[0, c] = unit[c, first + e]
        x, y, z = frame[0, 0], frame[0, 1], frame[0, 2]
        num_second = _list_seconds(score, unit, first, count, x, y, z, seconds, second_share)
        if num_first == 1 and num_second <= 1:
            if num_second == 1:
                s = first + seconds[0]
                _complete(frame, np.float64(unit[0, s]), np.float64(unit[1, s]), np.float64(unit[2, s]))
            else:
                b = _completion(lattice_axes, frame)
                _complete(
                    frame,
                    np.float64(lattice_axes[b, 0]), np.float64(lattice_axes[b, 1]), np.float64(lattice_axes[b, 2]),
                )  # fmt: skip
            return lines, 0
        lines, found = _add_line(lines, found, x, y, z, 0, share)
        if num_second == 0:
            b = _completion(lattice_axes, frame)
            _complete(
                frame, np.float64(lattice_axes[b, 0]), np.float64(lattice_axes[b, 1]), np.float64(lattice_axes[b, 2])
            )
            for t in range(1, 3):
                lines, found = _add_line(lines, found, frame[t, 0], frame[t, 1], frame[t, 2], t, share)
        for n in range(num_second):
            s = first + seconds[n]
            _complete(frame, np.float64(unit[0, s]), np.float64(unit[1, s]), np.float64(unit[2, s]))
            for t in range(1, 3):
                lines, found = _add_line(
                    lines, found, frame[t, 0], frame[t, 1], frame[t, 2], t, share * second_share[n]
                )
    return lines, found


@_called(FAST)
def _covariance(weight, unit, first, count, out):
    """Write Σ w r̄ r̄ᵀ / Σ w into out, (3, 3) float64; returns Σ w."""
    total = xx = xy = xz = yy = yz = zz = 0.0
    for e in range(1, count):
        w = np.float64(weight[e])
        x, y, z = np.float64(unit[0, first + e]), np.float64(unit[1, first + e]), np.float64(unit[2, first + e])
        total += w
        xx += w * x * x
        xy += w * x * y
        xz += w * x * z
        yy += w * y * y
        yz += w * y * z
        zz += w * z * z
    norm = 1.0 / total if total > 0.0 else 0.0
    out[0, 0], out[0, 1], out[0, 2] = xx * norm, xy * norm, xz * norm
    out[1, 0], out[1, 1], out[1, 2] = xy * norm, yy * norm, yz * norm
    out[2, 0], out[2, 1], out[2, 2] = xz * norm, yz * norm, zz * norm
    return total


@_called(FAST)
def _skew(weight, unit, first, count, axis):
    """Return Σ w (e·r̄)³."""
    x, y, z = axis[0], axis[1], axis[2]
    skew = 0.0
    for e in range(1, count):
        along = x * unit[0, first + e] + y * unit[1, first + e] + z * unit[2, first + e]
        skew += np.float64(weight[e]) * along * along * along
    return skew


@_called()
def _principal_axes(weight, unit, first, count, lattice_axes, matrix, vectors, frame, shares):
    """Write the principal axes into frame and what is open into shares; returns if anything is.

    shares: of circles around e3 and around e1, of the sphere, of e1 to e3 themselves, and these with their signs.
    """
    total = _covariance(weight, unit, first, count, matrix)
    if not total > 0.0:
        for t in range(3):
            for c in range(3):
                frame[t, c] = lattice_axes[t, c]
        return False
    jacobi(matrix, vectors)
    low, mid, high = 0, 1, 2
    if matrix[mid, mid] < matrix[low, low]:
        low, mid = mid, low
    if matrix[high, high] < matrix[mid, mid]:
        mid, high = high, mid
    if matrix[mid, mid] < matrix[low, low]:
        low, mid = mid, low
    for c in range(3):
        frame[0, c], frame[1, c] = vectors[c, low], vectors[c, mid]
    below = _share(matrix[mid, mid] - matrix[low, low], _GAP_FULL, _GAP_NONE)
    above = _share(matrix[high, high] - matrix[mid, mid], _GAP_FULL, _GAP_NONE)
    odd_1 = odd_2 = 0.0
    for t in range(2):
        skew = _skew(weight, unit, first, count, frame[t]) / total
        sign = -1.0 if skew < 0.0 else 1.0
        for c in range(3):
            frame[t, c] *= sign
        odd = 1.0 - _share(abs(skew), _SKEW_FULL, _SKEW_NONE)
        if t == 0:
            odd_1 = odd
        else:
            odd_2 = odd
    _complete(frame, frame[1, 0], frame[1, 1], frame[1, 2])
    if below == 0.0 and above == 0.0 and odd_1 == 1.0 and odd_2 == 1.0:
        return False
    apart, lower, upper = (1.0 - below) * (1.0 - above), below * (1.0 - above), (1.0 - below) * above
    shares[0], shares[1], shares[2] = lower, upper, below * above
    shares[3], shares[4], shares[5] = apart + upper, apart, apart + lower
    shares[6], shares[7], shares[8] = (apart + upper) * odd_1, apart * odd_2, apart * odd_1 * odd_2
    return True


@_inlined()
def _gather(weight, unit, first, count, near, kept):
    """Copy what counts of an atom's neighbours into near (directions) and kept (weights), filled up to whole eights."""
    size = 0
    total = _ZERO
    for e in range(1, count):
        total += weight[e]
        if weight[e] > LEAST_WEIGHT:
            near[0, size], near[1, size], near[2, size] = unit[0, first + e], unit[1, first + e], unit[2, first + e]
            kept[size] = weight[e]
            size += 1
    while size % 8:
        near[0, size] = near[1, size] = near[2, size] = kept[size] = _ZERO
        size += 1
    return size, total


@_called(FAST)
def _line_moments(kept, near, size, x, y, z, terms, twice_x, low, high, out):
    """Write Σ w T_m(e·r̄), m < terms, into out."""
    m0 = m1 = _ZERO
    for e in range(size):
        cosine = x * near[0, e] + y * near[1, e] + z * near[2, e]
        twice_x[e] = _TWO * cosine
        low[e] = kept[e]
        high[e] = kept[e] * cosine
        m0 += low[e]
        m1 += high[e]
    out[0], out[1] = m0, m1
    for m in range(2, terms, 4):
        a = b = c = d = _ZERO
        for e in range(size):
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


@_called(FAST)
def _circle_moments(kept, near, size, x, y, z, terms, argument, low, high, out):
    """Write Σ w times the mean of T_m over the circle around an axis into out; see `closeness`."""
    m0 = _ZERO
    for e in range(size):
        cosine = x * near[0, e] + y * near[1, e] + z * near[2, e]
        argument[e] = _ONE - _TWO * cosine * cosine
        low[e] = kept[e]
        high[e] = kept[e] * argument[e]
        m0 += low[e]
    out[0] = m0
    for m in range(1, terms, 2):
        out[m] = _ZERO
    for m in range(2, terms, 2):
        k = np.float32(m // 2)
        up, down = (_TWO * k + _ONE) / (k + _ONE), k / (k + _ONE)
        total = _ZERO
        for e in range(size):
            p, q = low[e], high[e]
            total += q - p
            low[e], high[e] = q, up * argument[e] * q - down * p
        out[m] = np.float32(0.5) * total


@_inlined()
def _add_moments(part, terms, even, odd, out):
    for m in range(0, terms, 2):
        out[m] += even * part[m]
        out[m + 1] += odd * part[m + 1]


@_inlined()
def _take_axes_without_length(total, terms, out):
    """Subtract Σ w T_m(0), of all three axes."""
    for t in range(3):
        for m in range(0, terms, 4):
            out[t * terms + m] -= total
        for m in range(2, terms, 4):
            out[t * terms + m] += total


@lru_cache(maxsize=1)
def average_loop() -> Callable[..., None]:
    """Return the compiled loop."""
    digest = _DIGEST

    @kept(parallel=True, fastmath=FAST)
    def average(
        kind, terms, q, k, inv_sigma_sq, logit_scale, offsets, first_edge, neighbour, half_sq, unit, lattice_axes,
        out_frame, out_moment,
    ):  # fmt: skip
        _ = digest
        heads, width = q.shape[1], q.shape[2]
        for s in prange(len(offsets) - 1):
            base, end = offsets[s], offsets[s + 1]
            widest = 0
            for i in range(base, end):
                widest = max(widest, first_edge[i + 1] - first_edge[i])
            dot = np.empty((end - base, heads), np.float32)
            is_known = np.full(end - base, -1, np.int64)
            score, weight = np.empty(widest, np.float32), np.empty(widest, np.float32)
            bits = np.empty(widest, np.int32)
            near, work = np.empty((3, widest + 8), np.float32), np.empty((3, widest + 8), np.float32)
            kept = np.empty(widest + 8, np.float32)
            firsts, seconds = np.empty(widest, np.int64), np.empty(widest, np.int64)
            first_share, second_share = np.empty(widest), np.empty(widest)
            frame, matrix, vectors = np.empty((3, 3)), np.empty((3, 3)), np.empty((3, 3))
            shares = np.empty(9)
            lines = np.empty((FEW_LINES, 12))
            part = np.empty(terms, np.float32)
            found = 0
            for i in range(base, end):
                first = first_edge[i]
                count = first_edge[i + 1] - first
                for e in range(count):
                    j = neighbour[first + e]
                    if is_known[j - base] != i:
                        is_known[j - base] = i
                        for h in range(heads):
                            total = _ZERO
                            for x in range(width):
                                total += q[i, h, x] * k[j, h, x]
                            dot[j - base, h] = total * logit_scale
                if kind == STATIC_LOCAL:
                    for e in range(count):
                        score[e] = -_TWO * half_sq[first + e]
                    lines, found = _neighbour_lines(
                        score, unit, first, count, lattice_axes[s], firsts, first_share, seconds, second_share, frame,
                        lines,
                    )  # fmt: skip
                for h in range(heads):
                    out = out_moment[h, i]
                    out[:] = _ZERO
                    is_open = found > 0
                    if kind != STATIC_LOCAL or is_open:
                        top = np.float32(-np.inf)
                        for e in range(count):
                            weight[e] = dot[neighbour[first + e] - base, h] - inv_sigma_sq[i, h] * half_sq[first + e]
                            top = max(top, weight[e])
                        for e in range(count):
                            weight[e] -= top
                        if kind == MAX:
                            score[:count] = weight[:count]
                            lines, found = _neighbour_lines(
                                score, unit, first, count, lattice_axes[s], firsts, first_share, seconds, second_share,
                                frame, lines,
                            )  # fmt: skip
                            is_open = found > 0
                        if kind == WEIGHTED_PCA or is_open:
                            _softmax(weight, bits, count)
                        if kind == WEIGHTED_PCA:
                            is_open = _principal_axes(
                                weight, unit, first, count, lattice_axes[s], matrix, vectors, frame, shares
                            )
                    for t in range(3):
                        for x in range(3):
                            out_frame[i, h, t, x] = _ZERO if is_open else np.float32(frame[t, x])
                    if not is_open:
                        continue
                    size, total = _gather(weight, unit, first, count, near, kept)
                    if kind != WEIGHTED_PCA:
                        for n in range(found):
                            line = lines[n]
                            _line_moments(
                                kept, near, size, np.float32(line[0]), np.float32(line[1]), np.float32(line[2]), terms,
                                work[0], work[1], work[2], part,
                            )  # fmt: skip
                            for t in range(3):
                                plus, minus = line[6 + 2 * t], line[7 + 2 * t]
                                if plus + minus > 0.0:
                                    _add_moments(
                                        part, terms, np.float32(plus + minus), np.float32(plus - minus),
                                        out[t * terms : (t + 1) * terms],
                                    )  # fmt: skip
                    else:
                        for t in range(3):
                            u, v, w = np.float32(frame[t, 0]), np.float32(frame[t, 1]), np.float32(frame[t, 2])
                            if shares[3 + t] > 0.0:
                                _line_moments(kept, near, size, u, v, w, terms, work[0], work[1], work[2], part)
                                _add_moments(
                                    part, terms, np.float32(shares[3 + t]), np.float32(shares[6 + t]),
                                    out[t * terms : (t + 1) * terms],
                                )  # fmt: skip
                            around = shares[0] if t == 2 else (shares[1] if t == 0 else 0.0)
                            if around > 0.0:
                                _circle_moments(kept, near, size, u, v, w, terms, work[0], work[1], work[2], part)
                                for n in range(3):
                                    if n != t:
                                        _add_moments(
                                            part, terms, np.float32(around), _ZERO, out[n * terms : (n + 1) * terms]
                                        )
                        if shares[2] > 0.0:
                            for t in range(3):
                                for m in range(0, terms, 2):
                                    out[t * terms + m] += total * np.float32(shares[2] / (1.0 - m * m))
                    _take_axes_without_length(total, terms, out)

    return average
