"""Local frames of an atom's eight heads, compiled by Numba; the definitions are in `kernels.frames`.

What belongs to a neighbour and a head lies at e·8 + h of a flat array, and component x of axis t of the frames at
(3t + x)·8 + h. Neighbour 0 is the atom itself and never a candidate. Component x of the unit vector of entry e of the
batch is at x·columns + e.
"""

import math

import numpy as np

from crystalframer.geometry.principal_axes import SKEW_TOLERANCE
from crystalframer.kernels.cpu_math import hash_bits, part_of_loop, settled_axes, sign_by_lattice
from crystalframer.kernels.frames import COLLINEAR_TOLERANCE, TIE_TOLERANCE
from crystalframer.kernels.lanes import (
    LANES,
    absolute,
    at_least,
    fill,
    fill_entries,
    larger,
    load,
    repeat,
    square_root,
    store,
    where_greater,
    widen,
)

_TIE = np.float32(TIE_TOLERANCE)
_COLLINEAR = np.float32(COLLINEAR_TOLERANCE)
_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_FAINT = np.float32(1e-30)
"""Weights of candidates below this are compared by their logarithms."""


@part_of_loop()
def cosines(frame, t, unit, columns, at):
    """Return e_t·r̄ of the entries from `at` on."""
    x, y, z = load(frame, 3 * t * LANES), load(frame, (3 * t + 1) * LANES), load(frame, (3 * t + 2) * LANES)
    along_x, along_y = repeat(x) * fill_entries(unit, at), repeat(y) * fill_entries(unit, columns + at)
    return along_x + along_y + repeat(z) * fill_entries(unit, 2 * columns + at)


@part_of_loop()
def _choose_tied(score, least, count, key, index, stride, pick, best_bits):
    """Write each head's tied entry into pick: the first in evaluation (key < 0), else the one with the largest hash.

    Entry e of head h hashes as index + h + e·stride. Where no entry reaches `least` (NaN) pick is −1.
    """
    for h in range(LANES):
        pick[h] = best_bits[h] = -1
    for e in range(1, count):
        tied = at_least(load(score, e * LANES), least)
        if tied == 0:
            continue
        for h in range(LANES):
            if (tied >> h) & 1:
                if key < 0:
                    if pick[h] < 0:
                        pick[h] = e
                else:
                    bits = hash_bits(key, index + h + e * stride)
                    if bits > best_bits[h]:
                        pick[h], best_bits[h] = e, bits


@part_of_loop()
def _write_axis(unit, columns, first, pick, frame, t):
    """Let the axis t of each head point to its entry pick[h]; where that is −1 nothing changes."""
    for h in range(LANES):
        if pick[h] >= 0:
            for x in range(3):
                frame[(3 * t + x) * LANES + h] = unit[x * columns + first + pick[h]]


@part_of_loop()
def max_frames(
    logit, weight, unit, columns, first, count, lattice_axes, key_1, key_2, index, stride, gap, pick, bits, frame
):
    """Write the frames `max` of one atom.

    Args:
        logit: (K·8,) log-weights up to a constant for each head.
        weight: (K·8,) their exponentials times any constant.
        unit: unit vectors of the batch; `first` and `count` delimit the atom's.
        columns: see above.
        lattice_axes: (3, 3) orthonormal rows that complete a frame.
        key_1, key_2: hash keys of the two ties, or −1 in evaluation.
        index, stride: entry e of head h hashes as index + h + e·stride.
        gap: (K·8,) scratch.
        pick, bits: (8,) int64 scratch.
        frame: (72,) output.
    """
    for x in range(3):
        store(frame, x * LANES, fill(lattice_axes[0, x]))
    if count > 1:
        top = load(logit, LANES)
        for e in range(2, count):
            top = larger(top, load(logit, e * LANES))
        _choose_tied(logit, top - fill(_TIE), count, key_1, index, stride, pick, bits)
        _write_axis(unit, columns, first, pick, frame, 0)
    x1, y1, z1 = load(frame, 0), load(frame, LANES), load(frame, 2 * LANES)

    top = fill(_ZERO)
    for e in range(1, count):
        at = first + e
        cosine = x1 * fill(unit[at]) + y1 * fill(unit[columns + at]) + z1 * fill(unit[2 * columns + at])
        open_ = fill(_ONE) - absolute(cosine)
        score = where_greater(open_, fill(_COLLINEAR), open_ * load(weight, e * LANES), fill(_ZERO))
        store(gap, e * LANES, score)
        top = larger(top, score)
    _choose_tied(gap, top * fill(_ONE - _TIE), count, key_2, index, stride, pick, bits)
    faint = at_least(fill(_FAINT), top)
    for h in range(LANES):
        if (faint >> h) & 1:
            pick[h] = _second_of_faint(logit, unit, columns, first, count, frame, h, key_2, index, stride, gap)
        if pick[h] < 0:
            _write_most_orthogonal(lattice_axes, frame, h)
    _write_axis(unit, columns, first, pick, frame, 1)

    x2, y2, z2 = load(frame, 3 * LANES), load(frame, 4 * LANES), load(frame, 5 * LANES)
    along = x1 * x2 + y1 * y2 + z1 * z2
    x2, y2, z2 = x2 - along * x1, y2 - along * y1, z2 - along * z1
    norm = square_root(x2 * x2 + y2 * y2 + z2 * z2)
    store(frame, 3 * LANES, x2 / norm)
    store(frame, 4 * LANES, y2 / norm)
    store(frame, 5 * LANES, z2 / norm)
    complete(frame)


@part_of_loop()
def _second_of_faint(logit, unit, columns, first, count, frame, h, key, index, stride, score):
    """Choose a head's second axis in log space, where every candidate's weight is too small for float32; −1 if none."""
    top = np.float32(-np.inf)
    for e in range(1, count):
        at = first + e
        cosine = _ZERO
        for x in range(3):
            cosine += frame[x * LANES + h] * unit[x * columns + at]
        open_ = _ONE - abs(cosine)
        score[e * LANES + h] = np.float32(-np.inf)
        if open_ > _COLLINEAR:
            score[e * LANES + h] = logit[e * LANES + h] + np.float32(math.log(open_))
            top = max(top, score[e * LANES + h])
    best, best_bits = -1, np.int64(-1)
    for e in range(1, count):
        if score[e * LANES + h] >= top - _TIE and score[e * LANES + h] > -np.inf:
            bits = np.int64(count - e) if key < 0 else hash_bits(key, index + h + e * stride)
            if bits > best_bits:
                best, best_bits = e, bits
    return best


@part_of_loop()
def _write_most_orthogonal(lattice_axes, frame, h):
    """Let a head's second axis be the lattice axis most orthogonal to its first."""
    best, least = 0, np.float32(2.0)
    for i in range(3):
        along = _ZERO
        for x in range(3):
            along += lattice_axes[i, x] * frame[x * LANES + h]
        if abs(along) < least:
            best, least = i, abs(along)
    for x in range(3):
        frame[(3 + x) * LANES + h] = lattice_axes[best, x]


@part_of_loop()
def complete(frame):
    """Set e3 = e1 × e2."""
    x1, y1, z1 = load(frame, 0), load(frame, LANES), load(frame, 2 * LANES)
    x2, y2, z2 = load(frame, 3 * LANES), load(frame, 4 * LANES), load(frame, 5 * LANES)
    store(frame, 6 * LANES, y1 * z2 - z1 * y2)
    store(frame, 7 * LANES, z1 * x2 - x1 * z2)
    store(frame, 8 * LANES, x1 * y2 - y1 * x2)


@part_of_loop()
def second_moments(weight, unit, columns, first, count, out):
    """Write Σ w r̄ r̄ᵀ, its components xx, xy, xz, yy, yz, zz at a distance of 8, into out."""
    zero = fill(0.0)
    xx, xy, xz, yy, yz, zz = zero, zero, zero, zero, zero, zero
    for e in range(1, count):
        at = first + e
        w = widen(load(weight, e * LANES))
        x, y = fill(np.float64(unit[at])), fill(np.float64(unit[columns + at]))
        z = fill(np.float64(unit[2 * columns + at]))
        wx, wy = w * x, w * y
        xx, xy, xz = xx + wx * x, xy + wx * y, xz + wx * z
        yy, yz, zz = yy + wy * y, yz + wy * z, zz + w * z * z
    store(out, 0, xx)
    store(out, LANES, xy)
    store(out, 2 * LANES, xz)
    store(out, 3 * LANES, yy)
    store(out, 4 * LANES, yz)
    store(out, 5 * LANES, zz)


@part_of_loop()
def write_symmetric(moments, h, out):
    """Write what `second_moments` found for head h as a symmetric (3, 3) matrix into out."""
    place = 0
    for x in range(3):
        for y in range(x, 3):
            out[x, y] = out[y, x] = moments[place * LANES + h]
            place += 1


@part_of_loop()
def third_moments(weight, unit, columns, first, count, axes, out):
    """Write Σ w (e1·r̄)³, Σ w (e2·r̄)³ and Σ w, at a distance of 8, into out."""
    x1, y1, z1 = load(axes, 0), load(axes, LANES), load(axes, 2 * LANES)
    x2, y2, z2 = load(axes, 3 * LANES), load(axes, 4 * LANES), load(axes, 5 * LANES)
    skew_1, skew_2, scale = fill(0.0), fill(0.0), fill(0.0)
    for e in range(1, count):
        at = first + e
        w = widen(load(weight, e * LANES))
        x, y = fill(np.float64(unit[at])), fill(np.float64(unit[columns + at]))
        z = fill(np.float64(unit[2 * columns + at]))
        along_1, along_2 = x1 * x + y1 * y + z1 * z, x2 * x + y2 * y + z2 * z
        skew_1 = skew_1 + w * along_1 * along_1 * along_1
        skew_2 = skew_2 + w * along_2 * along_2 * along_2
        scale = scale + w
    store(out, 0, skew_1)
    store(out, LANES, skew_2)
    store(out, 2 * LANES, scale)


@part_of_loop()
def weighted_pca_frames(
    weight, unit, columns, first, count, lattice_axes, key, owner, moments, covariance, vectors, axes, frame
):
    """Write the frames `weighted_pca` of one atom.

    Args:
        weight: (K·8,) softmax weights.
        unit: unit vectors of the batch; `first` and `count` delimit the atom's.
        columns: see above.
        lattice_axes: (3, 3) float64 orthonormal rows.
        key: hash key of the signs, or −1 in evaluation.
        owner: head h of the atom hashes as owner + h.
        moments, covariance, vectors, axes: float64 scratch of 48 numbers, (3, 3), (3, 3) and 48 numbers.
        frame: (72,) output.
    """
    second_moments(weight, unit, columns, first, count, moments)
    for h in range(LANES):
        write_symmetric(moments, h, covariance)
        settled_axes(covariance, lattice_axes, vectors)
        for t in range(2):
            for x in range(3):
                axes[(3 * t + x) * LANES + h] = vectors[t, x]
    third_moments(weight, unit, columns, first, count, axes, moments)
    for h in range(LANES):
        for t in range(2):
            decider = moments[t * LANES + h]
            if abs(decider) <= SKEW_TOLERANCE * moments[2 * LANES + h]:
                for x in range(3):
                    vectors[t, x] = axes[(3 * t + x) * LANES + h]
                decider = sign_by_lattice(vectors[t], lattice_axes)
            sign = -1.0 if decider < 0.0 else 1.0
            if key >= 0 and hash_bits(key, (owner + h) * 2 + t) >> 31 & 1:
                sign = -sign
            for x in range(3):
                frame[(3 * t + x) * LANES + h] = sign * axes[(3 * t + x) * LANES + h]
    complete(frame)
