"""Small numerical routines for the CPU kernel, compiled by Numba."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

from crystalframer.geometry.principal_axes import CLEAR_COMPONENT, DEGENERATE_GAP, DEGENERATE_SPLIT

FAST = {"contract", "reassoc", "nsz", "arcp"}
"""Floating-point freedoms that let sums be vectorised; NaN and infinity keep their meaning."""


def part_of_loop(fastmath: bool | set[str] = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function that the kernel's loops call; it is always inlined there.

    A function of its own would exist twice in a process that compiles a loop, optimised by itself and as part of the
    loop, and the linker takes the first that it meets; a process that finds the loop in Numba's cache has only the
    second. They add up in different orders: the process that compiled would train to other last bits than all others.
    """
    return njit(fastmath=fastmath, error_model="numpy", forceinline=True)


_LOG2_E = np.float32(1.44269504088896341)
_LN2_HIGH = np.float32(0.693359375)
_LN2_LOW = np.float32(-2.12194440e-4)
_LOWEST = np.float32(-87.0)
_C2, _C3, _C4 = np.float32(0.5), np.float32(1.6666665459e-1), np.float32(4.1665795894e-2)
_C5, _C6, _C7 = np.float32(8.3334519073e-3), np.float32(1.3981999507e-3), np.float32(1.9875691500e-4)
_HALF, _ONE = np.float32(0.5), np.float32(1.0)


@part_of_loop({"contract"})
def exp_in_place(x, bits, count):
    """Replace x[:count] ≤ 0 by its exponential to two units in the last place; `bits` is int32 scratch.

    Range reduction by ln 2 in two parts and a polynomial of degree 7 (Cephes' expf coefficients); below −87 the
    result is exp(−87), 1.6e-38.
    """
    for e in range(count):
        value = max(x[e], _LOWEST)
        whole = np.floor(value * _LOG2_E + _HALF)
        f = value - whole * _LN2_HIGH - whole * _LN2_LOW
        poly = ((((_C7 * f + _C6) * f + _C5) * f + _C4) * f + _C3) * f + _C2
        bits[e] = (np.int32(whole) + np.int32(127)) << np.int32(23)
        x[e] = poly * f * f + f + _ONE
    power = bits.view(np.float32)
    for e in range(count):
        x[e] *= power[e]


@part_of_loop()
def hash_bits(key, index):
    """Return the 32 bits of `noise.hashed` for one index."""
    mask = np.uint64(0xFFFFFFFF)
    x = (np.uint64(index) ^ np.uint64(key)) & mask
    x = ((x ^ (x >> np.uint64(16))) * np.uint64(0x7FEB352D)) & mask
    x = ((x ^ (x >> np.uint64(15))) * np.uint64(0x846CA68B)) & mask
    return np.int64(x ^ (x >> np.uint64(16)))


@part_of_loop()
def jacobi(a, v):
    """Diagonalise the symmetric 3×3 `a` in place; the columns of `v` become eigenvectors. Cyclic Jacobi rotations."""
    for i in range(3):
        for j in range(3):
            v[i, j] = 1.0 if i == j else 0.0
    for _ in range(12):
        off = abs(a[0, 1]) + abs(a[0, 2]) + abs(a[1, 2])
        if off < 1e-16:
            return
        for p in range(2):
            for q in range(p + 1, 3):
                if a[p, q] == 0.0:
                    continue
                theta = (a[q, q] - a[p, p]) / (2.0 * a[p, q])
                t = 1.0 / (abs(theta) + math.sqrt(theta * theta + 1.0))
                if theta < 0.0:
                    t = -t
                c = 1.0 / math.sqrt(t * t + 1.0)
                s = t * c
                r = 3 - p - q
                a_pq = a[p, q]
                a[p, p] -= t * a_pq
                a[q, q] += t * a_pq
                a[p, q] = a[q, p] = 0.0
                a_rp, a_rq = a[r, p], a[r, q]
                a[r, p] = a[p, r] = c * a_rp - s * a_rq
                a[r, q] = a[q, r] = s * a_rp + c * a_rq
                for k in range(3):
                    v_kp, v_kq = v[k, p], v[k, q]
                    v[k, p] = c * v_kp - s * v_kq
                    v[k, q] = s * v_kp + c * v_kq


@part_of_loop()
def settled_axes(covariance, lattice_axes, axes):
    """Write the two lowest principal axes into axes[:2], degenerate ones settled; see `geometry.principal_axes`."""
    trace = covariance[0, 0] + covariance[1, 1] + covariance[2, 2]
    scale = 1.0 / trace if trace > 0.0 else 0.0
    local = np.empty((3, 3))
    work = np.empty((3, 3))
    vectors = np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            total = 0.0
            for x in range(3):
                for y in range(3):
                    total += lattice_axes[i, x] * covariance[x, y] * lattice_axes[j, y]
            local[i, j] = total * scale
    work[:] = local
    jacobi(work, vectors)
    low, mid, high = _ascending(work)
    if work[mid, mid] - work[low, low] < DEGENERATE_GAP or work[high, high] - work[mid, mid] < DEGENERATE_GAP:
        work[:] = local
        work[1, 1] += DEGENERATE_SPLIT
        work[2, 2] += 2.0 * DEGENERATE_SPLIT
        jacobi(work, vectors)
        low, mid, high = _ascending(work)
    for x in range(3):
        axes[0, x] = axes[1, x] = 0.0
        for i in range(3):
            axes[0, x] += vectors[i, low] * lattice_axes[i, x]
            axes[1, x] += vectors[i, mid] * lattice_axes[i, x]


@part_of_loop()
def _ascending(diagonal):
    low, mid, high = 0, 1, 2
    if diagonal[mid, mid] < diagonal[low, low]:
        low, mid = mid, low
    if diagonal[high, high] < diagonal[mid, mid]:
        mid, high = high, mid
    if diagonal[mid, mid] < diagonal[low, low]:
        low, mid = mid, low
    return low, mid, high


@part_of_loop()
def sign_by_lattice(axis, lattice_axes):
    """Return the component of `axis` along the first lattice axis it is not nearly orthogonal to."""
    for i in range(3):
        along = axis[0] * lattice_axes[i, 0] + axis[1] * lattice_axes[i, 1] + axis[2] * lattice_axes[i, 2]
        if abs(along) > CLEAR_COMPONENT:
            return along
    return 1.0
