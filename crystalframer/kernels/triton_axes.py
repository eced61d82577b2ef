"""Triton: the frames `weighted_pca` from second moments; the definition is in `geometry.principal_axes`.

`principal_axes` diagonalises one 3 × 3 matrix per atom and head by Jacobi rotations, many at a time, in float64, on
the device and without a word to the host. `settle_signs` then decides the axes' signs by their third moments.
"""

import triton
import triton.language as tl

from crystalframer.geometry.principal_axes import CLEAR_COMPONENT, DEGENERATE_GAP, DEGENERATE_SPLIT, SKEW_TOLERANCE
from crystalframer.kernels.triton_softmax import hashed, store_frame

SWEEPS: tl.constexpr = tl.constexpr(8)
"""Jacobi sweeps; convergence is quadratic, and five reach float64's rounding for any 3 × 3 matrix."""
_TINY: tl.constexpr = tl.constexpr(1e-30)
_GAP: tl.constexpr = tl.constexpr(DEGENERATE_GAP)
_SPLIT: tl.constexpr = tl.constexpr(DEGENERATE_SPLIT)
_CLEAR: tl.constexpr = tl.constexpr(CLEAR_COMPONENT)
_SKEW: tl.constexpr = tl.constexpr(SKEW_TOLERANCE)


@triton.jit
def _rotate(a_pp, a_qq, a_pq, a_rp, a_rq, v0_p, v0_q, v1_p, v1_q, v2_p, v2_q):
    """Annul a_pq by a Jacobi rotation and return everything it changes, in the order given, without a_pq."""
    is_zero = tl.abs(a_pq) < _TINY
    theta = (a_qq - a_pp) / (2.0 * tl.where(is_zero, 1.0, a_pq))
    t = 1.0 / (tl.abs(theta) + tl.sqrt(theta * theta + 1.0))
    t = tl.where(theta < 0.0, -t, t)
    t = tl.where(is_zero, 0.0, t)
    c = 1.0 / tl.sqrt(t * t + 1.0)
    s = t * c
    a_pp -= t * a_pq
    a_qq += t * a_pq
    r_p = c * a_rp - s * a_rq
    r_q = s * a_rp + c * a_rq
    w0_p = c * v0_p - s * v0_q
    w0_q = s * v0_p + c * v0_q
    w1_p = c * v1_p - s * v1_q
    w1_q = s * v1_p + c * v1_q
    w2_p = c * v2_p - s * v2_q
    w2_q = s * v2_p + c * v2_q
    return a_pp, a_qq, r_p, r_q, w0_p, w0_q, w1_p, w1_q, w2_p, w2_q


@triton.jit
def _ascending(low, high, x0, x1, x2, y0, y1, y2):
    """Swap two eigenvalues and their vectors unless they ascend."""
    swap = high < low
    return (
        tl.where(swap, high, low),
        tl.where(swap, low, high),
        tl.where(swap, y0, x0),
        tl.where(swap, y1, x1),
        tl.where(swap, y2, x2),
        tl.where(swap, x0, y0),
        tl.where(swap, x1, y1),
        tl.where(swap, x2, y2),
    )


@triton.jit
def _eigenvectors(xx, xy, xz, yy, yz, zz):
    """Return eigenvalues and eigenvectors (each three numbers) of symmetric matrices, ascending."""
    x0 = tl.zeros_like(xx) + 1.0
    x1 = tl.zeros_like(xx)
    x2 = tl.zeros_like(xx)
    y0 = tl.zeros_like(xx)
    y1 = tl.zeros_like(xx) + 1.0
    y2 = tl.zeros_like(xx)
    z0 = tl.zeros_like(xx)
    z1 = tl.zeros_like(xx)
    z2 = tl.zeros_like(xx) + 1.0
    for _ in range(SWEEPS):
        xx, yy, xz, yz, x0, y0, x1, y1, x2, y2 = _rotate(xx, yy, xy, xz, yz, x0, y0, x1, y1, x2, y2)
        xy = tl.zeros_like(xx)
        xx, zz, xy, yz, x0, z0, x1, z1, x2, z2 = _rotate(xx, zz, xz, xy, yz, x0, z0, x1, z1, x2, z2)
        xz = tl.zeros_like(xx)
        yy, zz, xy, xz, y0, z0, y1, z1, y2, z2 = _rotate(yy, zz, yz, xy, xz, y0, z0, y1, z1, y2, z2)
        yz = tl.zeros_like(xx)
    xx, yy, x0, x1, x2, y0, y1, y2 = _ascending(xx, yy, x0, x1, x2, y0, y1, y2)
    yy, zz, y0, y1, y2, z0, z1, z2 = _ascending(yy, zz, y0, y1, y2, z0, z1, z2)
    xx, yy, x0, x1, x2, y0, y1, y2 = _ascending(xx, yy, x0, x1, x2, y0, y1, y2)
    return xx, yy, zz, x0, x1, x2, y0, y1, y2


@triton.jit
def _along(xx, xy, xz, yy, yz, zz, a_x, a_y, a_z, b_x, b_y, b_z):
    """Return aᵀ C b for the symmetric C."""
    return (
        a_x * (xx * b_x + xy * b_y + xz * b_z)
        + a_y * (xy * b_x + yy * b_y + yz * b_z)
        + a_z * (xz * b_x + yz * b_y + zz * b_z)
    )


@triton.jit
def _row(axes, i: tl.constexpr, mask):
    """Return row i of each 3 × 3 matrix that `axes` points to, in float64."""
    x = tl.load(axes + 3 * i, mask=mask, other=0.0).to(tl.float64)
    y = tl.load(axes + 3 * i + 1, mask=mask, other=0.0).to(tl.float64)
    z = tl.load(axes + 3 * i + 2, mask=mask, other=0.0).to(tl.float64)
    return x, y, z


@triton.jit(do_not_specialize=["num_matrices"])
def principal_axes(
    second_moments, crystal_of_atom, lattice_axes, out, num_matrices, HEADS: tl.constexpr, BLOCK: tl.constexpr
):
    """Write the two lowest principal axes, degenerate ones settled by the lattice axes, before their signs.

    Args:
        second_moments: (N, H, 6) float64 xx, xy, xz, yy, yz, zz.
        crystal_of_atom: (N,) int32.
        lattice_axes: (S, 3, 3).
        out: (N, H, 2, 3) float64.
        num_matrices: N·H.
    """
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_real = index < num_matrices
    axes = lattice_axes + tl.load(crystal_of_atom + index // HEADS, mask=is_real, other=0) * 9
    a_x, a_y, a_z = _row(axes, 0, is_real)
    b_x, b_y, b_z = _row(axes, 1, is_real)
    c_x, c_y, c_z = _row(axes, 2, is_real)
    xx = tl.load(second_moments + index * 6, mask=is_real, other=0.0)
    xy = tl.load(second_moments + index * 6 + 1, mask=is_real, other=0.0)
    xz = tl.load(second_moments + index * 6 + 2, mask=is_real, other=0.0)
    yy = tl.load(second_moments + index * 6 + 3, mask=is_real, other=0.0)
    yz = tl.load(second_moments + index * 6 + 4, mask=is_real, other=0.0)
    zz = tl.load(second_moments + index * 6 + 5, mask=is_real, other=0.0)
    trace = xx + yy + zz
    scale = tl.where(trace > 0.0, 1.0 / tl.where(trace > 0.0, trace, 1.0), 0.0)
    aa = scale * _along(xx, xy, xz, yy, yz, zz, a_x, a_y, a_z, a_x, a_y, a_z)
    ab = scale * _along(xx, xy, xz, yy, yz, zz, a_x, a_y, a_z, b_x, b_y, b_z)
    ac = scale * _along(xx, xy, xz, yy, yz, zz, a_x, a_y, a_z, c_x, c_y, c_z)
    bb = scale * _along(xx, xy, xz, yy, yz, zz, b_x, b_y, b_z, b_x, b_y, b_z)
    bc = scale * _along(xx, xy, xz, yy, yz, zz, b_x, b_y, b_z, c_x, c_y, c_z)
    cc = scale * _along(xx, xy, xz, yy, yz, zz, c_x, c_y, c_z, c_x, c_y, c_z)
    low, mid, high, u0, u1, u2, v0, v1, v2 = _eigenvectors(aa, ab, ac, bb, bc, cc)
    split = tl.where(((mid - low) < _GAP) | ((high - mid) < _GAP), _SPLIT, 0.0)
    low, mid, high, u0, u1, u2, v0, v1, v2 = _eigenvectors(aa, ab, ac, bb + split, bc, cc + 2.0 * split)
    place = out + index * 6
    tl.store(place, u0 * a_x + u1 * b_x + u2 * c_x, mask=is_real)
    tl.store(place + 1, u0 * a_y + u1 * b_y + u2 * c_y, mask=is_real)
    tl.store(place + 2, u0 * a_z + u1 * b_z + u2 * c_z, mask=is_real)
    tl.store(place + 3, v0 * a_x + v1 * b_x + v2 * c_x, mask=is_real)
    tl.store(place + 4, v0 * a_y + v1 * b_y + v2 * c_y, mask=is_real)
    tl.store(place + 5, v0 * a_z + v1 * b_z + v2 * c_z, mask=is_real)


@triton.jit
def _component(axes, i: tl.constexpr, e_x, e_y, e_z):
    a_x = tl.load(axes + 3 * i).to(tl.float64)
    a_y = tl.load(axes + 3 * i + 1).to(tl.float64)
    a_z = tl.load(axes + 3 * i + 2).to(tl.float64)
    return a_x * e_x + a_y * e_y + a_z * e_z


@triton.jit
def _sign(skew, total, e_x, e_y, e_z, axes, keys, index, TRAINING: tl.constexpr):
    """Return +1 or −1: by the third moment, else by the first clear component along a lattice axis."""
    along_0 = _component(axes, 0, e_x, e_y, e_z)
    along_1 = _component(axes, 1, e_x, e_y, e_z)
    along_2 = _component(axes, 2, e_x, e_y, e_z)
    decider = tl.where(tl.abs(along_2) > _CLEAR, along_2, along_0)
    decider = tl.where(tl.abs(along_1) > _CLEAR, along_1, decider)
    decider = tl.where(tl.abs(along_0) > _CLEAR, along_0, decider)
    decider = tl.where(tl.abs(skew) > total * _SKEW, skew, decider)
    sign = tl.where(decider < 0.0, -1.0, 1.0)
    if TRAINING:
        sign = tl.where((hashed(tl.load(keys).to(tl.uint32), index) >> 31) == 1, -sign, sign)
    return sign


@triton.jit(do_not_specialize=["num_edges", "atoms_before"])
def settle_signs(
    first,
    unit,
    weight,
    axes,
    crystal_of_atom,
    lattice_axes,
    keys,
    frames,
    num_edges,
    atoms_before,
    HEADS: tl.constexpr,
    HEADS_P: tl.constexpr,
    BLOCK: tl.constexpr,
    TRAINING: tl.constexpr,
):
    """Give the axes of `principal_axes` their signs and write right-handed frames, (N, H, 3, 3).

    The low half of `keys` is the hash key of the random flips that follow in training; `atoms_before` counts the
    whole batch's atoms before this part of it; the other arguments are those of `triton_softmax.softmax`.
    """
    atom = tl.program_id(0)
    begin = tl.load(first + atom)
    end = tl.load(first + atom + 1)
    head = tl.arange(0, HEADS_P)
    is_head = head < HEADS
    owner = atom * HEADS + head
    u_x = tl.load(axes + owner * 6, mask=is_head, other=0.0)
    u_y = tl.load(axes + owner * 6 + 1, mask=is_head, other=0.0)
    u_z = tl.load(axes + owner * 6 + 2, mask=is_head, other=0.0)
    v_x = tl.load(axes + owner * 6 + 3, mask=is_head, other=0.0)
    v_y = tl.load(axes + owner * 6 + 4, mask=is_head, other=0.0)
    v_z = tl.load(axes + owner * 6 + 5, mask=is_head, other=0.0)
    skew_u = tl.zeros([HEADS_P], dtype=tl.float64)
    skew_v = tl.zeros([HEADS_P], dtype=tl.float64)
    total = tl.zeros([HEADS_P], dtype=tl.float64)
    for start in range(begin, end, BLOCK):
        edge = start + tl.arange(0, BLOCK)
        is_near = (edge > begin) & (edge < end)
        x = tl.load(unit + edge, mask=is_near, other=0.0).to(tl.float64)[:, None]
        y = tl.load(unit + num_edges + edge, mask=is_near, other=0.0).to(tl.float64)[:, None]
        z = tl.load(unit + 2 * num_edges + edge, mask=is_near, other=0.0).to(tl.float64)[:, None]
        mask = is_near[:, None] & is_head[None, :]
        p = tl.load(weight + (edge[:, None] * HEADS + head[None, :]), mask=mask, other=0.0).to(tl.float64)
        along = x * u_x[None, :] + y * u_y[None, :] + z * u_z[None, :]
        skew_u += tl.sum(p * (along * along * along), axis=0)
        along = x * v_x[None, :] + y * v_y[None, :] + z * v_z[None, :]
        skew_v += tl.sum(p * (along * along * along), axis=0)
        total += tl.sum(p, axis=0)
    own_axes = lattice_axes + tl.load(crystal_of_atom + atom) * 9
    flipped = ((atom + atoms_before) * HEADS + head) * 2
    sign_u = _sign(skew_u, total, u_x, u_y, u_z, own_axes, keys, flipped, TRAINING)
    sign_v = _sign(skew_v, total, v_x, v_y, v_z, own_axes, keys, flipped + 1, TRAINING)
    store_frame(
        frames + owner * 9, sign_u * u_x, sign_u * u_y, sign_u * u_z, sign_v * v_x, sign_v * v_y, sign_v * v_z, is_head
    )
