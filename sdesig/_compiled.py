"""The drawing of seeded paths on the CPU, compiled by numba: bits, normals and cuts in one pass through the cache.

The torch operations of `sdesig._philox` and `sdesig.signature.legendre.split_matrix` are the reference; these
are the same bits, and the same numbers to rounding. A node of depth d <= 4 is cut by rotations in closed form. Let r
and s = 1 - r be the shares of the parts. The node's coefficients xi_0, ..., xi_{d-1} and normals z_0, ..., z_{d-1},
whose signs are as in `split_matrix`, become those of the parts, a and b, from the last pair to the first:
for n = d - 1, ..., 0

    e = xi_n;   z_i, e = c_ni z_i + s_ni e, c_ni e - s_ni z_i   for i = 0, ..., n - 1;
    a_n, b_n = g_n z_n + h_n e, g_n e - h_n z_n,   (h_n, g_n) = (r^{n+1/2}, s^{n+1/2}) / sqrt(r^{2n+1} + s^{2n+1}),

where c_ni, s_ni are algebraic functions of r (`_rotations_4`): they turn the Gram-Schmidt basis of `split_matrix` for n
coefficients into that for n + 1. Joining two parts is the same cascade backwards.

No number depends on its neighbours, and no product and sum are contracted: a row is the same in every batch.
"""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, njit, types
from numba.core import event
from numba.extending import intrinsic

_LOGGER = logging.getLogger(__name__)
DEEPEST = 4
"""Greatest depth of the paths that are cut here."""

CUT, DROP, STORE, JOIN, KEEP = range(5)
"""What to do with the node on top of the stack: cut it, its left part then being on top; forget it; give it out; give
out what it makes together with what was given out at its place; keep it."""

_LANES = 512  # counters of a tile, whose nodes from the root down then lie in the second cache
_WORTH_A_THREAD = 1 << 14  # normals


_intrinsic: Any = intrinsic


@_intrinsic
def _pointer(typing: Any, address: Any) -> Any:
    """The memory at an address."""
    pointer = ir.IntType(8).as_pointer()
    return types.voidptr(types.int64), lambda _, builder, __, args: builder.inttoptr(args[0], pointer)


_inline: Any = njit(inline="always", error_model="numpy")


def _compiled(function: Any) -> Any:
    """Compile a function, and keep it on disk where a folder can be written to."""
    options: Any = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # numba finds no such folder
        return njit(**options)(function)


@_intrinsic
def _bits_of(typing: Any, x: Any) -> Any:
    """The bits of a float64 as an integer."""
    return types.uint64(types.float64), lambda _, builder, __, args: builder.bitcast(args[0], ir.IntType(64))


@_intrinsic
def _float_of(typing: Any, x: Any) -> Any:
    """The float64 of these bits."""
    return types.float64(types.uint64), lambda _, builder, __, args: builder.bitcast(args[0], ir.DoubleType())


_LN2 = math.log(2.0)
_LOG = (0.6666666666666735, 0.3999999999940942, 0.2857142874366239, 0.22222198432149784)
_LOG_END = (0.1818357216161805, 0.15313837699209373, 0.14798198605116586)
_SIN = (-0.16666666666666632, 8.33333333332249e-03, -1.984126982985795e-04)
_SIN_END = (2.7557313707070068e-06, -2.5050760253406863e-08, 1.58969099521155e-10)
_COS = (0.0416666666666666, -1.388888888887411e-03, 2.480158728947673e-05)
_COS_END = (-2.7557314351390663e-07, 2.087572321298175e-09, -1.1359647557788195e-11)


@_inline
def _radius(word: Any) -> Any:
    """sqrt(-2 log u), u = (word + 1/2) 2^-32; the logarithm of fdlibm (Sun Microsystems, e_log.c)."""
    bits: Any = _bits_of(np.float64(np.int64(word)) + 0.5)
    exponent = np.int64(bits - np.uint64(0x3FE6A09E667F3BCD)) >> 52  # 2^32 u = 2^exponent (1 + f), sqrt(1/2) <= 1 + f
    f = _float_of(bits - (np.uint64(exponent) << np.uint64(52))) - 1.0
    s = f / (2.0 + f)
    z = s * s
    end = z * (_LOG_END[0] + z * (_LOG_END[1] + z * _LOG_END[2]))
    series = z * (_LOG[0] + z * (_LOG[1] + z * (_LOG[2] + z * (_LOG[3] + end))))
    half = 0.5 * f * f
    return math.sqrt(-2.0 * (np.float64(exponent - 32) * _LN2 - (half - s * (half + series) - f)))


@_inline
def _cos_sin(word: Any) -> Any:
    """Cosine and sine of 2 pi (word + 1/2) 2^-32; the series of fdlibm (k_cos.c, k_sin.c)."""
    quarter = (word + np.uint32(0x20000000)) >> np.uint32(30)
    x = (np.float64(np.int32(word - (quarter << np.uint32(30)))) + 0.5) * (2.0 * math.pi * 2.0**-32)
    z = x * x
    end = z * (_SIN_END[0] + z * (_SIN_END[1] + z * _SIN_END[2]))
    sin = x + x * z * (_SIN[0] + z * (_SIN[1] + z * (_SIN[2] + end)))
    end = z * (_COS_END[0] + z * (_COS_END[1] + z * _COS_END[2]))
    cos = 1.0 - 0.5 * z + z * z * (_COS[0] + z * (_COS[1] + z * (_COS[2] + end)))
    odd = (quarter & np.uint32(1)) != 0
    first = sin if odd else cos
    second = cos if odd else sin
    first = -first if ((quarter + np.uint32(1)) & np.uint32(2)) != 0 else first
    second = -second if (quarter & np.uint32(2)) != 0 else second
    return first, second


@_compiled
def _fill(low: Any, high: Any, position: Any, cell: Any, stream: Any, version: Any, out: Any) -> None:
    """Normal j of counter i in out[j, i]: Philox4x32-10 and Box-Muller, as in `sdesig._philox`."""
    for i in range(len(position)):
        c0, c1, c2, c3 = position[i], cell, stream, version
        k0, k1 = low[i], high[i]
        for _ in range(10):
            p0, p1 = np.uint64(c0) * np.uint64(0xD2511F53), np.uint64(c2) * np.uint64(0xCD9E8D57)
            c0, c1 = np.uint32(p1 >> np.uint64(32)) ^ c1 ^ k0, np.uint32(p1)
            c2, c3 = np.uint32(p0 >> np.uint64(32)) ^ c3 ^ k1, np.uint32(p0)
            k0, k1 = np.uint32(k0 + np.uint32(0x9E3779B9)), np.uint32(k1 + np.uint32(0xBB67AE85))
        radius = _radius(c0)
        cos, sin = _cos_sin(c1)
        out[0, i] = radius * cos
        out[1, i] = radius * sin
        radius = _radius(c2)
        cos, sin = _cos_sin(c3)
        out[2, i] = radius * cos
        out[3, i] = radius * sin


_ROOTS = tuple(math.sqrt(n) for n in (3, 5, 7, 15, 21, 35))


@_inline
def _rotations_1(ratio: Any, real: Any) -> Any:
    """(h_0, g_0) for the ratio r/s, in the type `real`, as all of these."""
    s = real(1) / (real(1) + ratio)
    return math.sqrt(ratio * s), math.sqrt(s)


@_inline
def _rotations_2(ratio: Any, real: Any) -> Any:
    """The same, and (h_1, g_1, c_10, s_10)."""
    s = real(1) / (real(1) + ratio)
    r = ratio * s
    h, g = math.sqrt(r), math.sqrt(s)
    norm = math.sqrt(real(0.25) * (real(1) + real(3) * (s - r) * (s - r)))
    inverse = real(1) / norm
    return h, g, r * h * inverse, s * g * inverse, norm, -real(_ROOTS[0]) * h * g


@_inline
def _rotations_3(ratio: Any, real: Any) -> Any:
    """The same, and (h_2, g_2, c_21, s_21, c_20, s_20)."""
    s = real(1) / (real(1) + ratio)
    r = ratio * s
    h, g, d = math.sqrt(r), math.sqrt(s), s - r
    q, t = r * s, d * d
    norm_1 = math.sqrt(real(0.25) * (real(1) + real(3) * t))
    norm_2 = math.sqrt(real(0.0625) * (real(1) + t * (real(10) + real(5) * t)))
    b = math.sqrt(real(0.25) * (real(1) + t * (real(5) * t - real(2))))
    by_1, by_2, by_b = real(1) / norm_1, real(1) / norm_2, real(1) / b
    return (
        *(h, g, r * h * by_1, s * g * by_1, norm_1, -real(_ROOTS[0]) * h * g),
        *(r * r * h * by_2, s * s * g * by_2),
        *(norm_1 * norm_2 * by_b, -real(_ROOTS[3]) * q * h * g * by_b),
        *(b * by_1, real(_ROOTS[1]) * h * g * d * by_1),
    )


@_inline
def _rotations_4(ratio: Any, real: Any) -> Any:
    """The same, and (h_3, g_3, c_32, s_32, c_31, s_31, c_30, s_30).

    With q = r s, and A_n^2 = r^{2n+1} + s^{2n+1}, B^2 = 1 - 8q + 20q^2, C^2 = 1 - 12q + 54q^2 - 112q^3 + 105q^4 and
    D^2 = 1 - 15q + 90q^2 - 175q^3, roots of minors of I - C_first^T C_first,

        c_10 = A_1,             s_10 = -sqrt(3q),
        c_21 = A_1 A_2/B,       s_21 = -sqrt(15) q^{3/2}/B,
        c_20 = B/A_1,           s_20 = sqrt(5q) (s - r)/A_1,
        c_32 = A_2 A_3/C,       s_32 = -sqrt(35) q^{5/2}/C,
        c_31 = B C/(A_2 D),     s_31 = sqrt(21) q^{3/2} (s - r)(2 - 5q)/(A_2 D),
        c_30 = D/B,             s_30 = -sqrt(7q) (1 - 5q)/B.

    The polynomials are summed in t = (s - r)^2 = 1 - 4q, where little cancels.
    """
    s = real(1) / (real(1) + ratio)
    r = ratio * s
    h, g, d = math.sqrt(r), math.sqrt(s), s - r
    q, t, root = r * s, d * d, h * g
    norm_1 = math.sqrt(real(0.25) * (real(1) + real(3) * t))
    norm_2 = math.sqrt(real(0.0625) * (real(1) + t * (real(10) + real(5) * t)))
    norm_3 = math.sqrt(real(0.015625) * (real(1) + t * (real(21) + t * (real(35) + real(7) * t))))
    b = math.sqrt(real(0.25) * (real(1) + t * (real(5) * t - real(2))))
    c = math.sqrt((real(9) + t * (t * (real(150) + t * (real(28) + real(105) * t)) - real(36))) * real(0.00390625))
    e = math.sqrt((real(9) + t * (real(45) + t * (real(175) * t - real(165)))) * real(0.015625))
    by_1, by_2, by_3 = real(1) / norm_1, real(1) / norm_2, real(1) / norm_3
    by_b, by_c, by_e = real(1) / b, real(1) / c, real(1) / e
    rr, ss, third = r * r * h, s * s * g, q * root
    return (
        *(h, g, r * h * by_1, s * g * by_1, norm_1, -real(_ROOTS[0]) * root),
        *(rr * by_2, ss * by_2),
        *(norm_1 * norm_2 * by_b, -real(_ROOTS[3]) * third * by_b),
        *(b * by_1, real(_ROOTS[1]) * root * d * by_1),
        *(rr * r * by_3, ss * s * by_3),
        *(norm_2 * norm_3 * by_c, -real(_ROOTS[5]) * third * q * by_c),
        *(b * c * by_2 * by_e, real(_ROOTS[4]) * third * d * (real(2) - real(5) * q) * by_2 * by_e),
        *(e * by_b, real(_ROOTS[2]) * root * (real(5) * q - real(1)) * by_b),
    )


@_inline
def _cut_1(x0: Any, z0: Any, rotations: Any) -> Any:
    """The coefficients of both parts, those of the left one first."""
    h0, g0 = rotations[:2]
    return g0 * z0 + h0 * x0, g0 * x0 - h0 * z0


@_inline
def _cut_2(x0: Any, x1: Any, z0: Any, z1: Any, rotations: Any) -> Any:
    """The same at depth 2."""
    h1, g1, c, s = rotations[2:6]
    z0, e = c * z0 + s * x1, c * x1 - s * z0
    a0, b0 = _cut_1(x0, z0, rotations)
    return a0, g1 * z1 + h1 * e, b0, g1 * e - h1 * z1


@_inline
def _cut_3(x0: Any, x1: Any, x2: Any, z0: Any, z1: Any, z2: Any, rotations: Any) -> Any:
    """The same at depth 3."""
    h2, g2, c1, s1, c0, s0 = rotations[6:12]
    z0, e = c0 * z0 + s0 * x2, c0 * x2 - s0 * z0
    z1, e = c1 * z1 + s1 * e, c1 * e - s1 * z1
    a0, a1, b0, b1 = _cut_2(x0, x1, z0, z1, rotations)
    return a0, a1, g2 * z2 + h2 * e, b0, b1, g2 * e - h2 * z2


@_inline
def _cut_4(x0: Any, x1: Any, x2: Any, x3: Any, z0: Any, z1: Any, z2: Any, z3: Any, rotations: Any) -> Any:
    """The same at depth 4."""
    h3, g3, c2, s2, c1, s1, c0, s0 = rotations[12:20]
    z0, e = c0 * z0 + s0 * x3, c0 * x3 - s0 * z0
    z1, e = c1 * z1 + s1 * e, c1 * e - s1 * z1
    z2, e = c2 * z2 + s2 * e, c2 * e - s2 * z2
    a0, a1, a2, b0, b1, b2 = _cut_3(x0, x1, x2, z0, z1, z2, rotations)
    return a0, a1, a2, g3 * z3 + h3 * e, b0, b1, b2, g3 * e - h3 * z3


@_inline
def _join_1(a0: Any, b0: Any, rotations: Any) -> Any:
    """The coefficients of the whole, then what is left over."""
    h0, g0 = rotations[:2]
    return h0 * a0 + g0 * b0, g0 * a0 - h0 * b0


@_inline
def _join_2(a0: Any, a1: Any, b0: Any, b1: Any, rotations: Any) -> Any:
    """The same at depth 2."""
    x0, z0 = _join_1(a0, b0, rotations)
    h1, g1, c, s = rotations[2:6]
    e, z1 = h1 * a1 + g1 * b1, g1 * a1 - h1 * b1
    return x0, s * z0 + c * e, c * z0 - s * e, z1


@_inline
def _join_3(a0: Any, a1: Any, a2: Any, b0: Any, b1: Any, b2: Any, rotations: Any) -> Any:
    """The same at depth 3."""
    x0, x1, z0, z1 = _join_2(a0, a1, b0, b1, rotations)
    h2, g2, c1, s1, c0, s0 = rotations[6:12]
    e, z2 = h2 * a2 + g2 * b2, g2 * a2 - h2 * b2
    e, z1 = s1 * z1 + c1 * e, c1 * z1 - s1 * e
    e, z0 = s0 * z0 + c0 * e, c0 * z0 - s0 * e
    return x0, x1, e, z0, z1, z2


@_inline
def _join_4(a0: Any, a1: Any, a2: Any, a3: Any, b0: Any, b1: Any, b2: Any, b3: Any, rotations: Any) -> Any:
    """The coefficients of the whole at depth 4."""
    x0, x1, x2, z0, z1, z2 = _join_3(a0, a1, a2, b0, b1, b2, rotations)
    h3, g3, c2, s2, c1, s1, c0, s0 = rotations[12:20]
    e = h3 * a3 + g3 * b3
    e, z2 = s2 * z2 + c2 * e, c2 * z2 - s2 * e
    e, z1 = s1 * z1 + c1 * e, c1 * z1 - s1 * e
    return x0, x1, x2, s0 * z0 + c0 * e


@_inline
def _ratio_of(ratio: Any, begin: Any, end: Any, variance: Any, real: Any) -> Any:
    """The ratio r/s in the clock v = t/(1 + c t), c = `variance`, from the one in the clock t."""
    return real(ratio) * (real(1) + variance * real(end)) / (real(1) + variance * real(begin))


@_inline
def _cut_column_1(x: Any, z: Any, left: Any, i: Any, sign: Any, rotations: Any) -> None:
    """Cut column i of x by the normals z: the left part to `left`, the right one to x."""
    left[0, i], x[0, i] = _cut_1(x[0, i], sign * z[0, i], rotations)


@_inline
def _cut_column_2(x: Any, z: Any, left: Any, i: Any, sign: Any, rotations: Any) -> None:
    """The same at depth 2."""
    left[0, i], left[1, i], x[0, i], x[1, i] = _cut_2(x[0, i], x[1, i], sign * z[0, i], sign * z[1, i], rotations)


@_inline
def _cut_column_3(x: Any, z: Any, left: Any, i: Any, sign: Any, rotations: Any) -> None:
    """The same at depth 3."""
    a0, a1, a2, b0, b1, b2 = _cut_3(
        x[0, i], x[1, i], x[2, i], sign * z[0, i], sign * z[1, i], sign * z[2, i], rotations
    )
    left[0, i], left[1, i], left[2, i] = a0, a1, a2
    x[0, i], x[1, i], x[2, i] = b0, b1, b2


@_inline
def _cut_column_4(x: Any, z: Any, left: Any, i: Any, sign: Any, rotations: Any) -> None:
    """The same at depth 4."""
    a0, a1, a2, a3, b0, b1, b2, b3 = _cut_4(
        x[0, i], x[1, i], x[2, i], x[3, i], sign * z[0, i], sign * z[1, i], sign * z[2, i], sign * z[3, i], rotations
    )
    left[0, i], left[1, i], left[2, i], left[3, i] = a0, a1, a2, a3
    x[0, i], x[1, i], x[2, i], x[3, i] = b0, b1, b2, b3


@_inline
def _join_column_1(y: Any, x: Any, i: Any, rotations: Any) -> None:
    """Join column i of x to that of y, which comes before it."""
    whole = _join_1(y[0, i], x[0, i], rotations)
    (y[0, i],) = whole[:1]


@_inline
def _join_column_2(y: Any, x: Any, i: Any, rotations: Any) -> None:
    """The same at depth 2."""
    whole = _join_2(y[0, i], y[1, i], x[0, i], x[1, i], rotations)
    y[0, i], y[1, i] = whole[:2]


@_inline
def _join_column_3(y: Any, x: Any, i: Any, rotations: Any) -> None:
    """The same at depth 3."""
    whole = _join_3(y[0, i], y[1, i], y[2, i], x[0, i], x[1, i], x[2, i], rotations)
    y[0, i], y[1, i], y[2, i] = whole[:3]


@_inline
def _join_column_4(y: Any, x: Any, i: Any, rotations: Any) -> None:
    """The same at depth 4."""
    whole = _join_4(y[0, i], y[1, i], y[2, i], y[3, i], x[0, i], x[1, i], x[2, i], x[3, i], rotations)
    y[0, i], y[1, i], y[2, i], y[3, i] = whole[:4]


@_inline
def _own_of(ratio: Any, begin: Any, end: Any, variance: Any, real: Any) -> Any:
    """`_ratio_of` a coordinate, and the sign of its normals, which is told in float64: r/s - 2 has the other one."""
    below = ratio - 2.0 + variance * (ratio * end - 2.0 * begin) < 0.0
    return _ratio_of(ratio, begin, end, variance, real), real(1) if below else real(-1)


@_compiled
def _cut(x: Any, z: Any, left: Any, ratio: Any, begin: Any, end: Any, variance: Any) -> None:
    """Cut the columns of x, (depth, n): the left parts to `left`, the right ones to x. One ratio serves in float64.

    The normals' signs are those of `split_matrix`: z_i adds to the left part up to 2 : 1, from there on to the right.
    Which side a coordinate is on is told in float64, as there: else some would be on other paths.
    """
    real = x.dtype.type
    depth, n = x.shape
    sign = 1.0 if ratio < 2.0 else -1.0
    if len(variance) == 0:
        if depth == 1:
            rotations_1 = _rotations_1(ratio, np.float64)
            for i in range(n):
                _cut_column_1(x, z, left, i, sign, rotations_1)
        elif depth == 2:
            rotations_2 = _rotations_2(ratio, np.float64)
            for i in range(n):
                _cut_column_2(x, z, left, i, sign, rotations_2)
        elif depth == 3:
            rotations_3 = _rotations_3(ratio, np.float64)
            for i in range(n):
                _cut_column_3(x, z, left, i, sign, rotations_3)
        elif depth == 4:
            rotations_4 = _rotations_4(ratio, np.float64)
            for i in range(n):
                _cut_column_4(x, z, left, i, sign, rotations_4)
    elif depth == 1:
        for i in range(n):
            own, own_sign = _own_of(ratio, begin, end, variance[i], real)
            _cut_column_1(x, z, left, i, own_sign, _rotations_1(own, real))
    elif depth == 2:
        for i in range(n):
            own, own_sign = _own_of(ratio, begin, end, variance[i], real)
            _cut_column_2(x, z, left, i, own_sign, _rotations_2(own, real))
    elif depth == 3:
        for i in range(n):
            own, own_sign = _own_of(ratio, begin, end, variance[i], real)
            _cut_column_3(x, z, left, i, own_sign, _rotations_3(own, real))
    elif depth == 4:
        for i in range(n):
            own, own_sign = _own_of(ratio, begin, end, variance[i], real)
            _cut_column_4(x, z, left, i, own_sign, _rotations_4(own, real))


@_compiled
def _join(y: Any, x: Any, ratio: Any, begin: Any, end: Any, variance: Any) -> None:
    """Join the columns of x, (depth, n), to those of y, which come before them."""
    real = x.dtype.type
    depth, n = x.shape
    if len(variance) == 0:
        if depth == 1:
            rotations_1 = _rotations_1(ratio, np.float64)
            for i in range(n):
                _join_column_1(y, x, i, rotations_1)
        elif depth == 2:
            rotations_2 = _rotations_2(ratio, np.float64)
            for i in range(n):
                _join_column_2(y, x, i, rotations_2)
        elif depth == 3:
            rotations_3 = _rotations_3(ratio, np.float64)
            for i in range(n):
                _join_column_3(y, x, i, rotations_3)
        elif depth == 4:
            rotations_4 = _rotations_4(ratio, np.float64)
            for i in range(n):
                _join_column_4(y, x, i, rotations_4)
    elif depth == 1:
        for i in range(n):
            _join_column_1(y, x, i, _rotations_1(_ratio_of(ratio, begin, end, variance[i], real), real))
    elif depth == 2:
        for i in range(n):
            _join_column_2(y, x, i, _rotations_2(_ratio_of(ratio, begin, end, variance[i], real), real))
    elif depth == 3:
        for i in range(n):
            _join_column_3(y, x, i, _rotations_3(_ratio_of(ratio, begin, end, variance[i], real), real))
    elif depth == 4:
        for i in range(n):
            _join_column_4(y, x, i, _rotations_4(_ratio_of(ratio, begin, end, variance[i], real), real))


@_compiled
def _quarters(event: int, count: int) -> Any:
    """Runs of the normals of a row, as (quarter, first counter, coefficient, first coordinate, length).

    Number k * event + c of a row, coefficient k at coordinate c, is normal j of counter b, j * counters + b.
    """
    counters = (count + 3) // 4
    runs = np.empty((4 + count // event, 5), np.int64)
    n = at = 0
    while at < count:
        length = min(count - at, counters - at % counters, event - at % event)
        runs[n, 0], runs[n, 1], runs[n, 2], runs[n, 3] = at // counters, at % counters, at // event, at % event
        runs[n, 4] = length
        n, at = n + 1, at + length
    return runs[:n]


@_compiled
def _sort(quarters: Any, runs: Any, counters: int, event: int, rows: int, z: Any) -> None:
    """Normals by counter, (4, rows * counters), to normals by coefficient and coordinate, (depth, rows * event)."""
    for n in range(len(runs)):
        j, b, k, c, length = runs[n]
        if length < rows:
            for i in range(length):
                for row in range(rows):
                    z[k, row * event + c + i] = quarters[j, row * counters + b + i]
        else:
            for row in range(rows):
                for i in range(length):
                    z[k, row * event + c + i] = quarters[j, row * counters + b + i]


@_inline
def _set_counters(seeds: Any, first: Any, width: Any, low: Any, high: Any, position: Any) -> None:
    """Keys and positions of `width` counters of each row, from the first one on, one row after the other."""
    for i in range(len(seeds)):
        for b in range(width):
            low[i * width + b] = np.uint32(seeds[i] & 0xFFFFFFFF)
            high[i * width + b] = np.uint32(seeds[i] >> 32)
            position[i * width + b] = first + b


@_inline
def _copy(source: Any, to: Any) -> None:
    """Copy numbers: numba takes seconds to compile the assignment of a slice, with its errors."""
    for i in range(len(source)):
        to[i] = source[i]


@_compiled
def _descend(
    tiles: Any,
    tile: Any,
    constants: Any,
    seeds: Any,
    variance: Any,
    given: Any,
    doings: Any,
    ratios: Any,
    out: Any,
    kept: Any,
) -> None:
    """See `descend`.

    Args:
        tiles: the first one, and the one after the last.
        tile: rows of a tile, counters of a row that are in it, counters of a row, coordinates of a row.
        constants: stream and version of the generator.
    """
    depth = len(out)
    rows, width, counters, event = tile
    whole_rows = width == counters
    columns = rows * event if whole_rows else 4 * width // depth
    groups = 1 if whole_rows else columns // width
    runs = _quarters(event, depth * event)
    height = top = 1
    for what in doings[:, 0]:
        top += 1 if what == CUT else -1
        height = max(height, top)
    stack = np.empty((height, depth * columns), out.dtype)
    normals, pair = np.empty(depth * columns, out.dtype), np.empty(depth * columns, out.dtype)
    quarters = np.empty(4 * rows * width if whole_rows else 0, out.dtype)
    own = np.empty(columns, out.dtype)
    low, high = np.empty(rows * width, np.uint32), np.empty(rows * width, np.uint32)
    position = np.empty(rows * width, np.uint32)
    stream, version = np.uint32(constants[0]), np.uint32(constants[1])
    blocks = (counters + width - 1) // width
    for number in range(tiles[0], tiles[1]):
        row, block = number // blocks * rows, number % blocks * width
        n_rows, n_width = min(rows, len(seeds) - row), min(width, counters - block)
        lanes, length = n_rows * n_width, n_rows * event if whole_rows else n_width
        used, begin = groups * length, row * event + block * (1 - whole_rows)
        _set_counters(seeds[row : row + n_rows], block, n_width, low, high, position)
        if len(variance):
            for g in range(groups):
                for i in range(length):
                    own[g * length + i] = variance[(begin + g * counters + i) % event]
        variances = own[: used * (len(variance) > 0)]
        z = normals[: depth * used].reshape(depth, used)
        y = pair[: depth * used].reshape(depth, used)
        drawn = quarters[: 4 * lanes].reshape(4, lanes) if whole_rows else normals[: 4 * lanes].reshape(4, lanes)
        top = 0
        node = stack[0, : depth * used].reshape(depth, used)
        if given.shape[1] == 0:
            _fill(low, high, position[:lanes], np.uint32(0), stream, version, drawn)
            if whole_rows:
                _sort(drawn, runs, counters, event, n_rows, z)
            for k in range(depth):
                _copy(z[k], node[k])
        else:
            for g in range(groups):
                at, part = begin + g * counters, slice(g * length, (g + 1) * length)
                for k in range(depth):
                    _copy(given[k, at : at + length], node[k, part])
        for n in range(len(doings)):
            what, cell, place = doings[n]
            node = stack[top, : depth * used].reshape(depth, used)
            if what == CUT:
                _fill(low, high, position[:lanes], np.uint32(cell), stream, version, drawn)
                if whole_rows:
                    _sort(drawn, runs, counters, event, n_rows, z)
                top += 1
                left = stack[top, : depth * used].reshape(depth, used)
                _cut(node, z, left, ratios[n, 0], ratios[n, 1], ratios[n, 2], variances)
                continue
            top -= 1
            if what == DROP:
                continue
            if what == JOIN:
                for g in range(groups):
                    at, part = begin + g * counters, slice(g * length, (g + 1) * length)
                    for k in range(depth):
                        _copy(out[k, place, at : at + length], y[k, part])
                _join(y, node, ratios[n, 0], ratios[n, 1], ratios[n, 2], variances)
            for g in range(groups):
                at, part = begin + g * counters, slice(g * length, (g + 1) * length)
                for k in range(depth):
                    if what == KEEP:
                        whole = carray(_pointer(kept[place]), (depth, len(seeds) * event), out.dtype)
                        _copy(node[k, part], whole[k, at : at + length])
                    elif what == STORE:
                        _copy(node[k, part], out[k, place, at : at + length])
                    else:
                        _copy(y[k, part], out[k, place, at : at + length])


@_compiled
def _lengths(begin: Any, end: Any, variance: Any, out: Any) -> None:
    """Lengths of n intervals by the clocks of the coordinates, as in `lengths`."""
    for n in range(len(out)):
        for i in range(len(variance)):
            c = np.float64(variance[i])
            out[n, i] = (end[n] - begin[n]) / ((1.0 + c * begin[n]) * (1.0 + c * end[n]))


def lengths(times: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """(t - s)/((1 + c s)(1 + c t)) on the n intervals between n + 1 times, (n, coordinates), in the type of c."""
    out = np.empty((len(times) - 1, len(variance)), variance.dtype)
    _lengths(times[:-1], times[1:], variance, out)
    return out


@_compiled
def _normals(pairs: Any, constants: Any, seeds: Any, cells: Any, out: Any) -> None:
    """See `normals`; pairs of a cell and a row are numbered cell by cell."""
    counters = out.shape[2] // 4
    at_once = max(1, _LANES // counters)
    low, high = np.empty(at_once * counters, np.uint32), np.empty(at_once * counters, np.uint32)
    position = np.empty(at_once * counters, np.uint32)
    drawn = np.empty((4, at_once * counters), out.dtype)
    stream, version = np.uint32(constants[0]), np.uint32(constants[1])
    number = pairs[0]
    while number < pairs[1]:
        cell, row = number // len(seeds), number % len(seeds)
        rows = min(at_once, len(seeds) - row, pairs[1] - number)
        _set_counters(seeds[row : row + rows], 0, counters, low, high, position)
        _fill(low, high, position[: rows * counters], np.uint32(cells[cell]), stream, version, drawn)
        for i in range(rows):
            for j in range(4):
                for b in range(counters):
                    out[cell, row + i, j * counters + b] = drawn[j, i * counters + b]
        number += rows


def normals(seeds: np.ndarray, cells: np.ndarray, constants: tuple[int, int], out: np.ndarray) -> None:
    """N(0, 1) numbers to `out`, (n, rows, 4 * counters), float32 or float64: those of `philox.normals`.

    Args:
        constants: stream and version of the generator.
    """
    _in_threads(lambda *pairs: _normals(pairs, constants, seeds, cells, out), len(cells) * len(seeds), out.size)


def descend(
    seeds: np.ndarray,
    constants: tuple[int, int],
    variance: np.ndarray | None,
    node: np.ndarray | None,
    doings: np.ndarray,
    ratios: np.ndarray,
    out: np.ndarray,
    kept: Sequence[np.ndarray],
) -> None:
    """Draw what is wanted below a node of the tree, in one pass over blocks of coordinates.

    All arrays are contiguous; what is written is written without further checks.

    Args:
        seeds: one per row, int64, (rows,).
        constants: stream and version of the generator.
        variance: c per coordinate, (event,), in the dtype of the values, for a clock v = t/(1 + c t); None
            for one clock.
        node: (depth, rows * event), depth <= `DEEPEST`; None for the whole interval, which is drawn.
        doings: int64, (n, 3): one of `CUT`, `DROP`, `STORE`, `JOIN` and `KEEP`; the number of the node; its place.
        ratios: float64, (n, 3): of a cut or a join the ratio r/s of the parts in the clock t, and their begin and end.
        out: (depth, places, rows * event), float32 or float64, for `STORE` and `JOIN`.
        kept: by place, (depth, rows * event) in the dtype of `out`, for `KEEP`.
    """
    depth, _, columns = out.shape
    event = columns // len(seeds)
    counters = -(-depth * event // 4)
    if 4 * counters == depth * event and 4 % depth == 0 and counters > _LANES:
        tile = (1, _LANES, counters, event)
        tiles = len(seeds) * -(-counters // _LANES)
    else:
        rows = min(len(seeds), max(1, _LANES // counters))
        tile = (rows, counters, counters, event)
        tiles = -(-len(seeds) // rows)
    own = np.empty(0, out.dtype) if variance is None else variance
    given = np.empty((depth, 0), out.dtype) if node is None else node
    addresses = np.array([array.ctypes.data for array in kept], dtype=np.int64)
    arguments = (tile, constants, seeds, own, given, doings, ratios, out, addresses)
    _in_threads(lambda *part: _descend(part, *arguments), tiles, columns * depth * len(doings))


def _in_threads(run: Callable[[int, int], None], count: int, numbers: int) -> None:
    """Call run(first, last) on parts of range(count), on as many threads as torch takes where it is worth it."""
    most = torch.get_num_threads()
    threads = min(most, count, numbers // _WORTH_A_THREAD)
    if threads <= 1:
        run(0, count)
        return
    ends, pool = [count * k // threads for k in range(threads + 1)], _pool(most)
    parts = [pool.submit(run, *pair) for pair in pairwise(ends)]
    try:
        for part in parts:
            part.result()
    finally:
        wait(parts)  # also after an interrupt: they write to memory that is the caller's


@functools.lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "sdesig")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has none of the threads


class _Announcement(event.Listener):
    """A line in the log when numba begins to compile what is here."""

    said = False

    def on_start(self, event: event.Event) -> None:
        """Say it once: what is compiled is kept on disk."""
        if not self.said and event.data["dispatcher"].py_func.__module__ == __name__:
            self.said = True
            _LOGGER.info("sdesig compiles the drawing of its paths, once on a machine (some seconds)")

    def on_end(self, event: event.Event) -> None:
        """Nothing."""


event.register("numba:compile", _Announcement())
