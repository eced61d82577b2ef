"""Small numerical routines for the CPU kernel, compiled by Numba."""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from crystalframer.geometry.principal_axes import CLEAR_COMPONENT, DEGENERATE_GAP, DEGENERATE_SPLIT

CONTRACT = {"contract"}
"""The one floating-point freedom of the loops: a·b + c in one rounding. Sums stay in the order in which they stand."""


def part_of_loop() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function that the kernel's loops call; it is always inlined there.

    A function of its own would exist twice in a process that compiles a loop, optimised by itself and as part of the
    loop, and the linker takes the first that it meets; a process that finds the loop in Numba's cache has only the
    second. They could round differently: the process that compiled would train to other last bits than all others.
    """
    return njit(fastmath=CONTRACT, error_model="numpy", forceinline=True)


def source_digest(*files: str) -> int:
    """Return a number that changes with the source of anything compiled into a loop: part of its key in Numba's cache.

    Args:
        files: the modules' paths.
    """
    text = b"".join(Path(file).read_bytes() for file in files)
    return int.from_bytes(hashlib.sha256(text).digest()[:6], "big")


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
    low, mid, high = ascending(work)
    if work[mid, mid] - work[low, low] < DEGENERATE_GAP or work[high, high] - work[mid, mid] < DEGENERATE_GAP:
        work[:] = local
        work[1, 1] += DEGENERATE_SPLIT
        work[2, 2] += 2.0 * DEGENERATE_SPLIT
        jacobi(work, vectors)
        low, mid, high = ascending(work)
    for x in range(3):
        axes[0, x] = axes[1, x] = 0.0
        for i in range(3):
            axes[0, x] += vectors[i, low] * lattice_axes[i, x]
            axes[1, x] += vectors[i, mid] * lattice_axes[i, x]


@part_of_loop()
def ascending(diagonal):
    """Return the places of a (3, 3) matrix's diagonal in ascending order of what stands there."""
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
