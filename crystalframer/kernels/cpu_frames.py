"""Local frames of one atom and head, compiled by Numba; the definitions are in `kernels.frames`."""

import math

import numpy as np

from crystalframer.geometry.principal_axes import SKEW_TOLERANCE
from crystalframer.kernels.cpu_math import FAST, hash_bits, part_of_loop, settled_axes, sign_by_lattice
from crystalframer.kernels.frames import COLLINEAR_TOLERANCE, TIE_TOLERANCE

_TIE = np.float32(TIE_TOLERANCE)
_COLLINEAR = np.float32(COLLINEAR_TOLERANCE)
_ONE = np.float32(1.0)


@part_of_loop()
def _choose_tied(score, least, count, key, index, stride):
    """Return the tied entry that decides: the first in evaluation (key < 0), else the one with the largest hash."""
    best, best_bits = -1, np.int64(-1)
    for e in range(1, count):
        if score[e] >= least:
            if key < 0:
                return e
            bits = hash_bits(key, index + e * stride)
            if bits > best_bits:
                best, best_bits = e, bits
    return best


@part_of_loop(FAST)
def _largest(score, count):
    top = np.float32(-np.inf)
    for e in range(1, count):
        top = max(top, score[e])
    return top


@part_of_loop(FAST)
def _weigh_by_gap(unit, first, count, weight, e1, gap):
    """Write (1 − |e1·r̄|)·w into gap, 0 where collinear with e1."""
    x, y, z = e1[0], e1[1], e1[2]
    for e in range(1, count):
        cosine = x * unit[0, first + e] + y * unit[1, first + e] + z * unit[2, first + e]
        open_ = _ONE - abs(cosine)
        gap[e] = open_ * weight[e] if open_ > _COLLINEAR else np.float32(0.0)


@part_of_loop()
def max_frame(logit, weight, unit, first, count, lattice_axes, key_1, key_2, index, stride, gap, frame):
    """Write the frame `max` of one atom and head into frame, (3, 3) rows.

    Args:
        logit: (K,) log-weights; entry 0 is the atom itself and never a candidate.
        weight: (K,) their exponentials times any constant.
        unit: (3, E) unit vectors of the batch; `first` and `count` delimit the atom's.
        lattice_axes: (3, 3) orthonormal rows that complete a frame.
        key_1, key_2: hash keys of the two ties, or −1 in evaluation.
        index, stride: entry e hashes as index + e·stride.
        gap: (K,) scratch.
        frame: (3, 3) output.
    """
    if count < 2:
        frame[0, 0], frame[0, 1], frame[0, 2] = lattice_axes[0, 0], lattice_axes[0, 1], lattice_axes[0, 2]
    else:
        pick = _choose_tied(logit, _largest(logit, count) - _TIE, count, key_1, index, stride)
        for x in range(3):
            frame[0, x] = unit[x, first + pick]
    e1 = frame[0]

    pick = -1
    _weigh_by_gap(unit, first, count, weight, e1, gap)
    top = _largest(gap, count)
    if top > np.float32(1e-30):
        pick = _choose_tied(gap, top * (_ONE - _TIE), count, key_2, index, stride)
    else:
        pick = _second_of_faint(logit, unit, first, count, e1, key_2, index, stride, gap)
    e2 = frame[1]
    if pick >= 0:
        for x in range(3):
            e2[x] = unit[x, first + pick]
    else:
        _most_orthogonal(lattice_axes, e1, e2)
    along = e1[0] * e2[0] + e1[1] * e2[1] + e1[2] * e2[2]
    for x in range(3):
        e2[x] -= along * e1[x]
    norm = np.float32(math.sqrt(e2[0] * e2[0] + e2[1] * e2[1] + e2[2] * e2[2]))
    for x in range(3):
        e2[x] /= norm
    complete(frame)


@part_of_loop()
def _second_of_faint(logit, unit, first, count, e1, key, index, stride, score):
    """Choose the second axis in log space, where every candidate's weight is too small for float32; −1 if none."""
    any_distinct = False
    for e in range(1, count):
        cosine = e1[0] * unit[0, first + e] + e1[1] * unit[1, first + e] + e1[2] * unit[2, first + e]
        open_ = _ONE - abs(cosine)
        if open_ > _COLLINEAR:
            score[e] = logit[e] + np.float32(math.log(open_))
            any_distinct = True
        else:
            score[e] = np.float32(-np.inf)
    if not any_distinct:
        return -1
    return _choose_tied(score, _largest(score, count) - _TIE, count, key, index, stride)


@part_of_loop()
def _most_orthogonal(lattice_axes, e1, out):
    best, least = 0, np.float32(2.0)
    for i in range(3):
        along = abs(lattice_axes[i, 0] * e1[0] + lattice_axes[i, 1] * e1[1] + lattice_axes[i, 2] * e1[2])
        if along < least:
            best, least = i, along
    for x in range(3):
        out[x] = lattice_axes[best, x]


@part_of_loop()
def complete(frame):
    """Set e3 = e1 × e2."""
    frame[2, 0] = frame[0, 1] * frame[1, 2] - frame[0, 2] * frame[1, 1]
    frame[2, 1] = frame[0, 2] * frame[1, 0] - frame[0, 0] * frame[1, 2]
    frame[2, 2] = frame[0, 0] * frame[1, 1] - frame[0, 1] * frame[1, 0]


@part_of_loop(FAST)
def _second_moments(weight, unit, first, count, out):
    xx = xy = xz = yy = yz = zz = 0.0
    for e in range(1, count):
        w = np.float64(weight[e])
        x, y, z = np.float64(unit[0, first + e]), np.float64(unit[1, first + e]), np.float64(unit[2, first + e])
        xx += w * x * x
        xy += w * x * y
        xz += w * x * z
        yy += w * y * y
        yz += w * y * z
        zz += w * z * z
    out[0, 0], out[0, 1], out[0, 2] = xx, xy, xz
    out[1, 0], out[1, 1], out[1, 2] = xy, yy, yz
    out[2, 0], out[2, 1], out[2, 2] = xz, yz, zz


@part_of_loop(FAST)
def _third_moments(weight, unit, first, count, axes):
    """Return Σ w (e1·r̄)³, Σ w (e2·r̄)³ and Σ w."""
    skew_1 = skew_2 = scale = 0.0
    for e in range(1, count):
        x, y, z = unit[0, first + e], unit[1, first + e], unit[2, first + e]
        w = np.float64(weight[e])
        along_1 = axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z
        along_2 = axes[1, 0] * x + axes[1, 1] * y + axes[1, 2] * z
        skew_1 += w * along_1 * along_1 * along_1
        skew_2 += w * along_2 * along_2 * along_2
        scale += w
    return skew_1, skew_2, scale


@part_of_loop()
def weighted_pca_frame(weight, unit, first, count, lattice_axes, key, owner, covariance, axes, frame):
    """Write the frame `weighted_pca` of one atom and head into frame, (3, 3) rows.

    Args:
        weight: (K,) softmax weights; entry 0 is the atom itself and left out.
        unit: (3, E) unit vectors of the batch; `first` and `count` delimit the atom's.
        lattice_axes: (3, 3) float64 orthonormal rows.
        key: hash key of the signs, or −1 in evaluation.
        owner: index of (atom, head) for the hash.
        covariance, axes: (3, 3) float64 scratch.
        frame: (3, 3) output.
    """
    _second_moments(weight, unit, first, count, covariance)
    settled_axes(covariance, lattice_axes, axes)
    skew_1, skew_2, scale = _third_moments(weight, unit, first, count, axes)
    for t in range(2):
        decider = skew_1 if t == 0 else skew_2
        if abs(decider) <= SKEW_TOLERANCE * scale:
            decider = sign_by_lattice(axes[t], lattice_axes)
        sign = -1.0 if decider < 0.0 else 1.0
        if key >= 0 and hash_bits(key, owner * 2 + t) >> 31 & 1:
            sign = -sign
        for x in range(3):
            axes[t, x] *= sign
            frame[t, x] = axes[t, x]
    complete(frame)
