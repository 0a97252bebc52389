"""Arithmetic on a GPU that keeps its rounding errors: what `triton_tiles` computes entries with.

**Digits.** An entry costs float32 arithmetic: z − m carries its rounding error (a pair), so does
its product with log₂e/T, and 2^y is a polynomial and an exponent. The softcap is float64.

**Bits.** Sums are exact but for bits that no result can see, so their order, which is the
compiler's, changes nothing.

Two things are assumed of the compiler. It does not reassociate sums (Triton has no such mode), and
it does not contract a·b + c unless `tl.fma` says so (launches pass ``enable_fp_fusion=False``;
contraction would only cost the equality of bits between a hard target and its one-hot row).
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

__all__ = [
    "INTERPRETED",
    "UNLIFT",
    "Numbers",
    "brought_down",
    "capped",
    "centred",
    "log1p",
    "number",
    "powers",
    "slope_of",
    "sum_exactly",
    "sum_narrow",
    "times",
]

INTERPRETED: bool = bool(triton.knobs.runtime.interpret)
"""Whether kernels run in Python, on the CPU: the variable TRITON_INTERPRET, read at import."""


class Numbers(NamedTuple):
    """The options, each a float64 as the sum of two float32: Triton passes no wider floats."""

    rate: tuple[float, float]  # 1/T
    rate_in_octaves: tuple[float, float]  # log₂e/T
    softcap: tuple[float, float] | None
    smoothing: tuple[float, float] | None  # ε
    kept: tuple[float, float]  # 1 − ε
    z_loss: tuple[float, float]


# Powers are held times 2^32, so that those that a float32 can hold at all are normal numbers.
_LIFT = tl.constexpr(32)
UNLIFT = tl.constexpr(2.0**-32)
_FLOOR = tl.constexpr(-158.0)  # 2^−158 counts as 0
_ROUNDER = tl.constexpr(1.5 * 2.0**23)  # adding it leaves the nearest integer in the last bits
_CAPPED = tl.constexpr(512.0)  # so many softcaps are capped to one, with the slope 0
_ONE_EXPONENT = tl.constexpr(127)
_EXPONENT_BITS = tl.constexpr(0x7FF0000000000000)


@triton.jit
def number(pair):
    """Return an option in float64."""
    return tl.cast(pair[0], tl.float64) + tl.cast(pair[1], tl.float64)


# ---- arithmetic that keeps its rounding errors -------------------------------------------------


@triton.jit
def _two_sum(a, b):
    """Return a + b and the exact rounding error of that sum (Knuth 1969, TAOCP 2, 4.2.2)."""
    high = a + b
    part = high - a
    return high, (a - (high - part)) + (b - part)


@triton.jit
def _neighbours(x):
    return tl.split(tl.reshape(x, [x.shape[0], x.shape[1] // 2, 2]))


@triton.jit
def sum_exactly(v):
    """Sum float64 over the last axis with an error that does not depend on the order.

    Entries are cut at two places below the largest. The sums of what lies above each are exact;
    what is left is below 2^−80 of the largest.
    """
    unit = tl.max(tl.abs(v), axis=1).to(tl.int64, bitcast=True) & _EXPONENT_BITS
    unit = unit.to(tl.float64, bitcast=True)
    finite = unit < float("inf")
    cut = tl.where(finite, unit * (6.0 * v.shape[1]), 0.0)[:, None]
    high = (v + cut) - cut
    rest = tl.where(finite[:, None], v - high, 0.0)
    cut = cut * (v.shape[1] * 2.0**-51)
    low = (rest + cut) - cut
    return tl.sum(high, axis=1) + tl.sum(low, axis=1)


@triton.jit
def sum_narrow(x):
    """Sum float32 over the last axis: eight neighbours in pairs, the rest in float64."""
    a, b = _neighbours(x)
    high, low = _two_sum(a, b)
    for _ in tl.static_range(2):
        a, b = _neighbours(high)
        c, d = _neighbours(low)
        high, error = _two_sum(a, b)
        low = error + (c + d)
    return sum_exactly(high.to(tl.float64) + low.to(tl.float64))


@triton.jit
def log1p(a):
    """Return log(1 + a) for a ≥ 0, from a logarithm that is good near 1 (Kahan)."""
    u = 1.0 + a
    return tl.where(u == 1.0, a, tl.log(u) * (a / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit
def powers(high, low, numbers):
    """Return 2^32·exp((high + low)/T) in float32, 0 where that is below 2^−158."""
    rate, rest = numbers.rate_in_octaves
    y = high * rate
    error = tl.fma(high, rate, -y)
    shifted = y + _ROUNDER
    # The products' errors and the pair's second part matter where y is large: all are kept.
    r = (y - (shifted - _ROUNDER)) + tl.fma(high, rest, tl.fma(low, rate, error))
    # 2^r for |r| ≤ 1/2 to 2·10⁻⁸, by minimax; exactly 1 at 0.
    p = tl.fma(r, 1.5353268827311695e-4, 1.3399003073573112e-3)
    p = tl.fma(r, p, 9.61843878030777e-3)
    p = tl.fma(r, p, 5.550331994891167e-2)
    p = tl.fma(r, p, 2.4022647738456726e-1)
    p = tl.fma(r, p, 6.931471824645996e-1)
    p = tl.fma(r, p, 1.0)
    exponent = (shifted.to(tl.int32, bitcast=True) << 23) + ((_LIFT + _ONE_EXPONENT) << 23)
    return tl.where(y > _FLOOR, p * exponent.to(tl.float32, bitcast=True), 0.0)


@triton.jit
def capped(z, numbers):
    """Return the logit after the softcap in float64; a masked class stays masked."""
    z = z.to(tl.float64)
    if numbers.softcap is not None:
        cap = number(numbers.softcap)
        q = tl.exp(tl.abs(z) * (-2.0 / cap))
        size = cap * ((1.0 - q) / (1.0 + q))
        z = tl.where(z == float("-inf"), z, tl.where(z < 0.0, -size, size))
    return z


@triton.jit
def brought_down(z, numbers):
    """Return logits with those beyond all that a softcap can tell apart, +∞ too, at such a place.

    So a +∞ that is left is what no row survives, with a softcap and without.
    """
    if numbers.softcap is not None:
        most = (number(numbers.softcap) * _CAPPED).to(tl.float32)
        z = tl.where(z > most, most, z)  # a NaN stays
    return z


@triton.jit
def slope_of(z, numbers):
    """Return the derivative of the softcap at z."""
    q = tl.exp(tl.abs(z.to(tl.float64)) * (-2.0 / number(numbers.softcap)))
    return tl.where(z == float("-inf"), 1.0, 4.0 * q / ((1.0 + q) * (1.0 + q)))


@triton.jit
def centred(z, anchor, numbers):
    """Return cap(z) − cap(anchor) as a pair of float32; −∞ where that overflows."""
    if numbers.softcap is None:
        high, low = _two_sum(z, -anchor)
    else:
        gap = capped(z, numbers) - capped(anchor, numbers)
        high = gap.to(tl.float32)
        low = (gap - high.to(tl.float64)).to(tl.float32)
    return high, tl.where(high > float("-inf"), low, 0.0)


@triton.jit
def times(u, gap):
    """Return u·gap with 0·∞ = 0."""
    return tl.where(u == 0.0, 0.0, u * gap)
