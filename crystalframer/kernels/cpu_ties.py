"""The mean over ties of an atom's eight heads, compiled by Numba; the definition is in `kernels.closeness`.

What belongs to a neighbour, a head or an axis lies as in `kernels.cpu_frames`.

max, static_local   Axes of all tied frames of all heads are gathered as lines: an axis and its opposite, of e1, e2 or
                    e3 of any head, share one, with the weight that each head gives it. Polynomials of a line's cosines
                    are computed once for all heads; only those of even order where no head tells its two ends apart.
weighted_pca        Each head has its three axes, as by the rule `first`; only their moments are weighted, and those of
                    circles and of the sphere added.
"""

import math

import numpy as np

from crystalframer.kernels.closeness import EIGENVALUES, LOG_WEIGHTS, SKEWS
from crystalframer.kernels.cpu_frames import complete, cosines, second_moments, third_moments, write_symmetric
from crystalframer.kernels.cpu_math import ascending, jacobi, part_of_loop
from crystalframer.kernels.frames import COLLINEAR_TOLERANCE
from crystalframer.kernels.lanes import (
    GROUP,
    LANES,
    absolute,
    at_least,
    exponential,
    fill,
    larger,
    load,
    load_entries,
    plus_entries,
    repeat,
    store,
    where_greater,
)

SHARES = 9
"""Rows of eight heads' shares in `principal_axes_with_shares`."""
LINE_WEIGHTS = 6
"""Rows of eight heads' weights of a line: of even order for e1, e2, e3, then of odd order."""
SCRATCH = 6
"""Rows of eight heads that `tied_lines` works with."""

_ZERO, _ONE, _HALF = np.float32(0.0), np.float32(1.0), np.float32(0.5)
_LOWEST = np.float32(-np.inf)
_COLLINEAR = np.float32(COLLINEAR_TOLERANCE)
_TIE_FULL, _TIE_NONE = LOG_WEIGHTS.full, LOG_WEIGHTS.none
_GAP_FULL, _GAP_NONE = EIGENVALUES.full, EIGENVALUES.none
_SKEW_FULL, _SKEW_NONE = SKEWS.full, SKEWS.none
_REACH = np.float32(LOG_WEIGHTS.none)
_RATIO_REACH = np.float32(math.exp(-LOG_WEIGHTS.none))
_RATIO_FULL = np.float32(math.exp(-LOG_WEIGHTS.full))
_FAINT = np.float32(1e-30)
"""Second axes' weights below this are taken anew, relative to the largest of them."""
_SAME = 3e-6
"""Axes with components this close are one line."""
_ONE_SIDED = np.float32(1e-7)
"""Weights of odd order below this are rounding."""
_ALL = 2**LANES - 1


@part_of_loop()
def _share(difference, full, none):
    """See `closeness.Closeness.share`."""
    way = min(max((difference - full) / (none - full), 0.0), 1.0)
    return 1.0 - way * way * (3.0 - 2.0 * way)


@part_of_loop()
def _positive(a):
    """Return a number whose bit h says whether a > 0 for head h."""
    return _ALL ^ at_least(fill(_ZERO), a)


@part_of_loop()
def _list_firsts(score, count, wanted, near, firsts, shares, totals, counts):
    """List the entries that tie for e1, with each head's share; returns how many there are.

    Writes weights relative to the best candidate's to near, sums of shares to totals, and how many each head has to
    counts.
    """
    best = load(score, LANES)
    for e in range(2, count):
        best = larger(best, load(score, e * LANES))
    store(totals, 0, best)
    least = best - fill(_REACH)
    found = 0
    for h in range(LANES):
        counts[h] = 0
        totals[LANES + h] = _ZERO
    for e in range(1, count):
        own = load(score, e * LANES)
        store(near, e * LANES, exponential(own - best))
        tied = at_least(own, least) & wanted
        if tied == 0:
            continue
        for h in range(LANES):
            share = _ZERO
            if (tied >> h) & 1:
                share = np.float32(_share(np.float64(totals[h] - score[e * LANES + h]), _TIE_FULL, _TIE_NONE))
                totals[LANES + h] += share
                if share > _ZERO:
                    counts[h] += 1
            shares[found * LANES + h] = share
        firsts[found] = e
        found += 1
    return found


@part_of_loop()
def _list_seconds(score, near, count, gap, value, mask, seconds, shares, totals, counts):
    """List the entries that tie for e2 given e1, with each head's share; returns how many there are.

    `gap` has the entries' 1 − |e1·r̄|, zero where they lie on e1. A head without any candidate has −1 for its entry.
    """
    top = fill(_ZERO)
    for e in range(1, count):
        own = fill(gap[e]) * load(near, e * LANES)
        store(value, e * LANES, own)
        top = larger(top, own)
    if at_least(fill(_FAINT), top) & mask:
        highest = fill(_LOWEST)
        for e in range(1, count):
            if gap[e] > _ZERO:
                highest = larger(highest, load(score, e * LANES))
        top = fill(_ZERO)
        for e in range(1, count):
            own = fill(_ZERO)
            if gap[e] > _ZERO:
                own = fill(gap[e]) * exponential(load(score, e * LANES) - highest)
            store(value, e * LANES, own)
            top = larger(top, own)
    store(totals, 0, top)
    for h in range(LANES):
        counts[h] = 0
        totals[LANES + h] = _ZERO
    reached = _positive(top) & mask
    least, full = top * fill(_RATIO_REACH), top * fill(_RATIO_FULL)
    found = 0
    for e in range(1, count):
        own = load(value, e * LANES)
        tied = at_least(own, least) & reached
        if tied == 0:
            continue
        equal = at_least(own, full)
        for h in range(LANES):
            share = _ZERO
            if (tied >> h) & 1:
                share = _ONE
                if not (equal >> h) & 1:
                    ratio = np.float64(totals[h]) / np.float64(value[e * LANES + h])
                    share = np.float32(_share(math.log(ratio), _TIE_FULL, _TIE_NONE))
                totals[LANES + h] += share
                if share > _ZERO:
                    counts[h] += 1
            shares[found * LANES + h] = share
        seconds[found] = e
        found += 1
    alone = mask & (_ALL ^ reached)
    if alone:
        for h in range(LANES):
            is_alone = (alone >> h) & 1 != 0
            shares[found * LANES + h] = _ONE if is_alone else _ZERO
            if is_alone:
                totals[LANES + h] = _ONE
        seconds[found] = -1
        found += 1
    return found


@part_of_loop()
def _most_orthogonal(lattice_axes, axes):
    """Return which lattice axis is most orthogonal to e1, axes[0]."""
    best, least = 0, 2.0
    for i in range(3):
        along = abs(lattice_axes[i, 0] * axes[0, 0] + lattice_axes[i, 1] * axes[0, 1] + lattice_axes[i, 2] * axes[0, 2])
        if along < least:
            best, least = i, along
    return best


@part_of_loop()
def _write_frame(axes, unit, columns, at, lattice_axes):
    """Set e2 in axes, (3, 3) float64, by entry `at` of the batch, or by a lattice axis where that is −1, and e3."""
    x, y, z = 0.0, 0.0, 0.0
    if at >= 0:
        x, y, z = np.float64(unit[at]), np.float64(unit[columns + at]), np.float64(unit[2 * columns + at])
    else:
        best = _most_orthogonal(lattice_axes, axes)
        x, y, z = (
            np.float64(lattice_axes[best, 0]), np.float64(lattice_axes[best, 1]), np.float64(lattice_axes[best, 2]),
        )  # fmt: skip
    along = axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z
    x, y, z = x - along * axes[0, 0], y - along * axes[0, 1], z - along * axes[0, 2]
    norm = math.sqrt(x * x + y * y + z * z)
    axes[1, 0], axes[1, 1], axes[1, 2] = x / norm, y / norm, z / norm
    axes[2, 0] = axes[0, 1] * axes[1, 2] - axes[0, 2] * axes[1, 1]
    axes[2, 1] = axes[0, 2] * axes[1, 0] - axes[0, 0] * axes[1, 2]
    axes[2, 2] = axes[0, 0] * axes[1, 1] - axes[0, 1] * axes[1, 0]


@part_of_loop()
def _line_of(lines, found, x, y, z):
    """Return the number of the line with the axis (x, y, z), or `found`, and whether it points the other way."""
    for n in range(found):
        a, b, c = lines[3 * n], lines[3 * n + 1], lines[3 * n + 2]
        if abs(abs(a) - abs(x)) < _SAME:
            side = -1.0 if a * x + b * y + c * z < 0.0 else 1.0
            if abs(a - side * x) < _SAME and abs(b - side * y) < _SAME and abs(c - side * z) < _SAME:
                return n, side < 0.0
    return found, False


@part_of_loop()
def tied_lines(
    score, unit, columns, first, count, lattice_axes, wanted, near, gap, value, firsts, first_shares, seconds,
    second_shares, first_counts, second_counts, scratch, axes, frame, lines, weights,
):  # fmt: skip
    """Find the frames that tie for pointing to neighbours.

    Args:
        score: (K·8,) log-weights up to a constant for each head.
        unit, columns, first, count, lattice_axes: see `cpu_frames.max_frames`.
        wanted: bits of the heads that there are.
        near, gap, value, firsts, first_shares, seconds, second_shares: scratch for K + 8 entries.
        first_counts, second_counts: (8,) int64 scratch.
        scratch: (48,) float32.
        axes: (3, 3) float64 scratch.
        frame: (72,) output, the frames of heads whose frame is decided, zero for the others.
        lines: (3·L,) float64 output, the axes; made anew where there are more than L.
        weights: (48·L,) float32 output, six rows of each line.

    Returns:
        lines, weights, how many lines there are, and bits of the heads whose frame is open.
    """
    found, opened = 0, 0
    for t in range(3):
        for c in range(3):
            store(frame, (3 * t + c) * LANES, fill(lattice_axes[t, c] if count < 2 else _ZERO))
    if count < 2:
        return lines, weights, found, opened
    num_first = _list_firsts(score, count, wanted, near, firsts, first_shares, scratch[: 2 * LANES], first_counts)
    for f in range(num_first):
        mask = _positive(load(first_shares, f * LANES))
        if mask == 0:
            continue
        at = first + firsts[f]
        x, y, z = unit[at], unit[columns + at], unit[2 * columns + at]
        axes[0, 0], axes[0, 1], axes[0, 2] = x, y, z
        for e in range(1, count, LANES):
            at = first + e
            along = (
                fill(x) * load(unit, at) + fill(y) * load(unit, columns + at) + fill(z) * load(unit, 2 * columns + at)
            )
            apart = fill(_ONE) - absolute(along)
            store(gap, e, where_greater(apart, fill(_COLLINEAR), apart, fill(_ZERO)))
        num_second = _list_seconds(
            score, near, count, gap, value, mask, seconds, second_shares, scratch[2 * LANES : 4 * LANES], second_counts
        )
        own = 0
        for h in range(LANES):
            is_open = (mask >> h) & 1 != 0 and (first_counts[h] > 1 or second_counts[h] > 1)
            scratch[4 * LANES + h] = scratch[5 * LANES + h] = _ZERO
            if is_open:
                own |= 1 << h
                scratch[4 * LANES + h] = first_shares[f * LANES + h] / scratch[LANES + h]
                scratch[5 * LANES + h] = scratch[4 * LANES + h] / scratch[3 * LANES + h]
        opened |= own
        decided = mask & (_ALL ^ own)
        for n in range(num_second):
            _write_frame(axes, unit, columns, first + seconds[n] if seconds[n] >= 0 else -1, lattice_axes)
            share = load(second_shares, n * LANES)
            settled = _positive(share) & decided
            if settled:
                for h in range(LANES):
                    if (settled >> h) & 1:
                        for t in range(3):
                            for c in range(3):
                                frame[(3 * t + c) * LANES + h] = np.float32(axes[t, c])
            for t in range(0 if n == 0 else 1, 3):
                weight = load(scratch, 4 * LANES) if t == 0 else load(scratch, 5 * LANES) * share
                if _positive(weight) == 0:
                    continue
                number, is_opposite = _line_of(lines, found, axes[t, 0], axes[t, 1], axes[t, 2])
                if number == found:
                    if 3 * found == len(lines):
                        longer, more = np.empty(6 * found), np.empty(2 * LINE_WEIGHTS * LANES * found, np.float32)
                        longer[: len(lines)] = lines
                        more[: len(weights)] = weights
                        lines, weights = longer, more
                    for c in range(3):
                        lines[3 * found + c] = axes[t, c]
                    for row in range(LINE_WEIGHTS):
                        store(weights, (LINE_WEIGHTS * found + row) * LANES, fill(_ZERO))
                    found += 1
                place = (LINE_WEIGHTS * number + t) * LANES
                store(weights, place, load(weights, place) + weight)
                place += 3 * LANES
                store(weights, place, load(weights, place) + (fill(_ZERO) - weight if is_opposite else weight))
    return lines, weights, found, opened


@part_of_loop()
def add_moments_of_lines(
    weight, unit, columns, first, count, lines, line_weights, num_lines, terms, polynomial, part, out, o
):
    """Add what lines contribute to Σ w T_m(e_t·r̄), m < terms, in the rows of out from o on, axis after axis.

    Args:
        weight: (K·8 + 64,) softmax weights, zero beyond the last entry.
        unit, columns, first, count: see `cpu_frames.max_frames`.
        lines, line_weights, num_lines: see `tied_lines`.
        terms: M.
        polynomial, part: (M·8,) scratch.
        out, o: where to.
    """
    for n in range(num_lines):
        place = LINE_WEIGHTS * n * LANES
        largest = fill(_ZERO)
        for t in range(3):
            largest = larger(largest, absolute(load(line_weights, place + (3 + t) * LANES)))
        step = 2 if at_least(largest, fill(_ONE_SIDED)) == 0 else 1
        orders = terms // step
        for m in range(orders):
            store(part, m * LANES, fill(_ZERO))
        x, y, z = np.float32(lines[3 * n]), np.float32(lines[3 * n + 1]), np.float32(lines[3 * n + 2])
        for e in range(1, count, LANES):
            at, own = first + e, e * LANES
            p = fill(x) * load(unit, at) + fill(y) * load(unit, columns + at) + fill(z) * load(unit, 2 * columns + at)
            if step == 2:
                p = p * p + p * p - fill(_ONE)  # T_2k(x) = T_k(2x² − 1)
            twice, low, high = p + p, fill(_ONE), p
            for m in range(orders):
                store(polynomial, m * LANES, low)
                low, high = high, twice * high - low
            w0, w1 = load(weight, own), load(weight, own + LANES)
            w2, w3 = load(weight, own + 2 * LANES), load(weight, own + 3 * LANES)
            w4, w5 = load(weight, own + 4 * LANES), load(weight, own + 5 * LANES)
            w6, w7 = load(weight, own + 6 * LANES), load(weight, own + 7 * LANES)
            for m in range(orders):
                k = m * LANES
                a = fill(polynomial[k]) * w0 + fill(polynomial[k + 1]) * w1
                b = fill(polynomial[k + 2]) * w2 + fill(polynomial[k + 3]) * w3
                a = a + fill(polynomial[k + 4]) * w4 + fill(polynomial[k + 5]) * w5
                b = b + fill(polynomial[k + 6]) * w6 + fill(polynomial[k + 7]) * w7
                store(part, k, load(part, k) + (a + b))
        for t in range(3):
            even, odd = load(line_weights, place + t * LANES), load(line_weights, place + (3 + t) * LANES)
            if _positive(even) == 0:
                continue
            for m in range(orders):
                at = o + (t * terms + m * step) * LANES
                factor = odd if step == 1 and m % 2 == 1 else even
                store(out, at, load(out, at) + factor * load(part, m * LANES))


@part_of_loop()
def principal_axes_with_shares(
    weight, unit, columns, first, count, lattice_axes, wanted, sums, covariance, vectors, axes, frame, shares
):
    """Write the principal axes of one atom and what of them is open.

    Args:
        weight: (K·8,) softmax weights.
        unit, columns, first, count, lattice_axes: see `cpu_frames.weighted_pca_frames`.
        wanted: bits of the heads that there are.
        sums, covariance, vectors, axes: float64 scratch of 48 numbers, (3, 3), (3, 3) and 48 numbers.
        frame: (72,) output.
        shares: (72,) float32 output: of e1, e2, e3 in the moments of even order, the same for odd order, of the circles
            around e3 and around e1, and of the sphere.

    Returns:
        Bits of the heads whose frame is open.
    """
    opened = 0
    second_moments(weight, unit, columns, first, count, sums)
    for h in range(LANES):
        write_symmetric(sums, h, covariance)
        total = covariance[0, 0] + covariance[1, 1] + covariance[2, 2]
        below, above = 0.0, 0.0
        if total > 0.0:
            for x in range(3):
                for y in range(3):
                    covariance[x, y] /= total
            jacobi(covariance, vectors)
            low, mid, high = ascending(covariance)
            for x in range(3):
                axes[x * LANES + h], axes[(3 + x) * LANES + h] = vectors[x, low], vectors[x, mid]
            below = _share(covariance[mid, mid] - covariance[low, low], _GAP_FULL, _GAP_NONE)
            above = _share(covariance[high, high] - covariance[mid, mid], _GAP_FULL, _GAP_NONE)
        else:
            for x in range(3):
                axes[x * LANES + h], axes[(3 + x) * LANES + h] = lattice_axes[0, x], lattice_axes[1, x]
        shares[6 * LANES + h] = below * (1.0 - above)
        shares[7 * LANES + h] = (1.0 - below) * above
        shares[8 * LANES + h] = below * above
    third_moments(weight, unit, columns, first, count, axes, sums)
    for h in range(LANES):
        total = sums[2 * LANES + h]
        lower, upper = np.float64(shares[6 * LANES + h]), np.float64(shares[7 * LANES + h])
        apart = 1.0 - lower - upper - np.float64(shares[8 * LANES + h])
        odd_1, odd_2 = 1.0, 1.0
        for t in range(2):
            skew = sums[t * LANES + h] / total if total > 0.0 else 1.0
            sign = -1.0 if skew < 0.0 else 1.0
            for x in range(3):
                frame[(3 * t + x) * LANES + h] = sign * axes[(3 * t + x) * LANES + h]
            odd = 1.0 - _share(abs(skew), _SKEW_FULL, _SKEW_NONE)
            if t == 0:
                odd_1 = odd
            else:
                odd_2 = odd
        if (lower + upper > 0.0 or shares[8 * LANES + h] > 0.0 or odd_1 < 1.0 or odd_2 < 1.0) and (wanted >> h) & 1:
            opened |= 1 << h
        shares[h], shares[LANES + h], shares[2 * LANES + h] = apart + upper, apart, apart + lower
        shares[3 * LANES + h], shares[4 * LANES + h] = (apart + upper) * odd_1, apart * odd_2
        shares[5 * LANES + h] = apart * odd_1 * odd_2
    complete(frame)
    return opened


@part_of_loop()
def _circle_moments(weight, unit, columns, first, length, frame, t, terms, part):
    """Write Σ w times the mean of T_m over the circle around e_t to part, a row for each even m; see `closeness`."""
    for k in range(terms // 2):
        store(part, k * LANES, fill(_ZERO))
    for e in range(0, length, GROUP):
        x = cosines(frame, t, unit, columns, first + 1 + e)
        p = load_entries(weight, (1 + e) * LANES)
        x = repeat(fill(_ONE)) - (x * x + x * x)
        store(part, 0, plus_entries(load(part, 0), p))
        q = p * x
        for k in range(1, terms // 2):
            store(part, k * LANES, plus_entries(load(part, k * LANES), repeat(fill(_HALF)) * (q - p)))
            up = np.float32((2.0 * k + 1.0) / (k + 1.0))
            down = np.float32(k / (k + 1.0))
            p, q = q, repeat(fill(up)) * x * q - repeat(fill(down)) * p


@part_of_loop()
def weigh_principal_moments(weight, unit, columns, first, count, length, frame, shares, terms, part, out, o):
    """Turn the moments of the principal axes, in the rows of out from o on, into the mean over what is open.

    Args:
        weight: (K·8 + 64,) softmax weights, zero beyond the last entry.
        unit, columns, first, count: see `cpu_frames.max_frames`.
        length: of the angular rows, whole groups.
        frame, shares: see `principal_axes_with_shares`.
        terms: M.
        part: (M·8,) scratch.
        out, o: where to.
    """
    for t in range(3):
        even, odd = load(shares, t * LANES), load(shares, (3 + t) * LANES)
        for m in range(0, terms, 2):
            at = o + (t * terms + m) * LANES
            store(out, at, even * load(out, at))
            store(out, at + LANES, odd * load(out, at + LANES))
    for side in range(2):
        share = load(shares, (6 + side) * LANES)
        if _positive(share) == 0:
            continue
        _circle_moments(weight, unit, columns, first, length, frame, 2 - 2 * side, terms, part)
        for t in range(side, side + 2):  # e1 and e2 go round e3, or e2 and e3 round e1
            for k in range(terms // 2):
                at = o + (t * terms + 2 * k) * LANES
                store(out, at, load(out, at) + share * load(part, k * LANES))
    share = load(shares, 8 * LANES)
    if _positive(share):
        total = fill(_ZERO)
        for e in range(1, count):
            total = total + load(weight, e * LANES)
        for t in range(3):
            for m in range(0, terms, 2):
                at = o + (t * terms + m) * LANES
                store(out, at, load(out, at) + share * total * fill(np.float32(1.0 / (1.0 - m * m))))
