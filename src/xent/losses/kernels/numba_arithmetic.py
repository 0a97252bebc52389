"""Arithmetic of the CPU kernels: memory by address, exponentials and logarithms that vectorise.

Nothing here is compiled with ``fastmath``: −∞ and NaN are ordinary inputs, and the exponential
rounds to integers with an addition that a reassociating compiler would remove. Functions have no
branches and no calls, and integers and floats of one width, so that LLVM turns a loop over them
into vector instructions, whatever their width.

Memory is addressed by number: a kernel needs no array objects, and one signature serves
read-only and writable memory. A *kind*, a scalar of the element's type whose value is not looked
at, picks the signature: ``float32``, ``float64``, ``uint16`` for bfloat16, ``int16`` for float16.

numba's cache looks at the time stamp of the file that a kernel stands in, not at this one's nor
at those of `numba_vectors`, `numba_loops` and `numba_rows`: touch the kernels' files after a
change there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from xent.losses.kernels.numba_vectors import DOUBLE, FLOAT, Vector
from xent.losses.kernels.numba_vectors import fma as _fma

__all__ = [
    "LN2",
    "LN2_REST",
    "PERIODS",
    "bits_of",
    "compiled",
    "constants_of",
    "exp_double",
    "fence",
    "fma",
    "load",
    "log1p_double",
    "narrow",
    "size_of",
    "store",
    "widen",
]

F, N, L, U = np.float32, np.int32, np.int64, np.uint64


def compiled(function: Any) -> Any:
    """Compile a function that Python calls, on first use, and keep it for later processes.

    Where neither the package's folder nor the user's can be written to, it is compiled each time.
    """
    options = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # numba: no locator available
        return njit(**options)(function)


def _element(builder: Any, address: Any, index: Any, element: Any) -> Any:
    return builder.gep(builder.inttoptr(address, element.as_pointer()), [index])


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a·b + c rounded once: an instruction, or the C library's where there is none."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _fma(*(Vector(builder, value) for value in args)).value

    return a(a, a, a), generate


@intrinsic
def load(typing: Any, address: Any, index: Any, kind: Any) -> Any:
    """Return an element of the array of that kind at an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = context.get_data_type(kind)
        return builder.load(_element(builder, args[0], args[1], element))

    return kind(types.int64, types.int64, kind), generate


@intrinsic
def store(typing: Any, address: Any, index: Any, value: Any) -> Any:
    """Write an element of the value's type."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _element(builder, args[0], args[1], args[2].type))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, value), generate


@intrinsic
def size_of(typing: Any, kind: Any) -> Any:
    """Return how many bytes an element has."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(ir.IntType(64), kind.bitwidth // 8)

    return types.int64(kind), generate


@intrinsic
def fence(typing: Any) -> Any:
    """Let every earlier write be seen before any later one: writes past the caches are not."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def bits_of(typing: Any, value: Any) -> Any:
    """Return a float's bits as an integer, or the float that an integer's bits are."""
    other = {
        types.float32: types.int32,
        types.int32: types.float32,
        types.float64: types.int64,
        types.int64: types.float64,
    }[value]

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_data_type(other))

    return other(value), generate


@intrinsic
def widen(typing: Any, value: Any) -> Any:
    """Return a half type as float32, exactly; float32 and float64 as they are.

    Integers, which only the targets of rows that are not soft are, become some float32.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return Vector(builder, args[0]).widened(value).value

    return (types.float64 if value == types.float64 else types.float32)(value), generate


@intrinsic
def narrow(typing: Any, value: Any, kind: Any) -> Any:
    """Round a float32 to a kind, to nearest and ties to even; a float64 through float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x = args[0]
        if kind == types.float64:
            return x if value == types.float64 else builder.fpext(x, DOUBLE)
        if value == types.float64:
            x = builder.fptrunc(x, FLOAT)
        return Vector(builder, x).narrowed(kind).value

    return kind(value, kind), generate


# ---- exponentials --------------------------------------------------------------------------------

# Added and subtracted, it rounds to an integer, which then stands in the lowest bits.
MAGIC_DOUBLE = 1.5 * 2.0**52
_BIASED_DOUBLE = L(0x4338000000000000 - 1023)

LN2 = 0.6931471805599453
LN2_REST = 2.3190468138462996e-17
PERIODS = 1.4426950408889634  # 1/log 2

# (eʳ − 1 − r)/r² on |r| ≤ log(2)/2 to 3.1e-9 of eʳ: least squares, reweighted to the minimax.
_TERMS = tuple(
    float.fromhex(c)
    for c in ("0x1.fffffcp-2", "0x1.555492p-3", "0x1.5558f2p-5", "0x1.1239e4p-7", "0x1.6a243p-10")
)


def constants_of(temperature: float) -> tuple[np.float32, ...]:
    """Return what `numba_loops.exp_single` wants to know of a temperature in [2^−20, 2^20]."""
    high = F(temperature * LN2)
    low = F((temperature * LN2 - float(high)) + temperature * LN2_REST)
    terms = (F(c / temperature ** (k + 1)) for k, c in enumerate((1.0, *_TERMS)))
    return (F(PERIODS / temperature), high, low, *terms)


_INVERSE_FACTORIALS = tuple(
    1.0 / f for f in (1, 1, 2, 6, 24, 120, 720, 5040, 40320, 362880, 3628800, 39916800, 479001600)
)
_C2, _C3, _C4, _C5, _C6, _C7, _C8, _C9, _C10, _C11, _C12 = _INVERSE_FACTORIALS[2:]
_C13 = 1.0 / 6227020800


@njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)
def exp_double(x):
    """Return exp(x) to 1 ulp for x ≤ 709 (−∞ gives 0, NaN itself)."""
    x = -760.0 if x < -760.0 else x
    n = fma(x, PERIODS, MAGIC_DOUBLE) - MAGIC_DOUBLE
    r = fma(-n, LN2_REST, fma(-n, LN2, x))
    p = fma(fma(fma(fma(_C13, r, _C12), r, _C11), r, _C10), r, _C9)
    p = fma(fma(fma(fma(fma(p, r, _C8), r, _C7), r, _C6), r, _C5), r, _C4)
    p = fma(fma(fma(fma(p, r, _C3), r, _C2), r, 1.0), r, 1.0)
    # In two steps, so that a subnormal result is rounded once.
    half = fma(n, 0.5, MAGIC_DOUBLE)
    rest = (n - (half - MAGIC_DOUBLE)) + MAGIC_DOUBLE
    p = p * bits_of(L(L(bits_of(half) - _BIASED_DOUBLE) << L(52)))
    return p * bits_of(L(L(bits_of(rest) - _BIASED_DOUBLE) << L(52)))


_ROOT_HALF, _MAGIC_BITS = U(0x3FE6A09E667F3BCD), U(0x4338000000000000)
_A1, _A2, _A3, _A4, _A5, _A6, _A7, _A8, _A9, _A10, _A11 = (2.0 / (2 * k + 1) for k in range(1, 12))


@njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _split(u):
    """Return k and f with u = 2^k·(1 + f) ≥ 1 and 1 + f in [√½, √2)."""
    k = U(U(bits_of(u)) - _ROOT_HALF) >> U(52)  # ≥ 0, as u ≥ 1: a logical shift does
    f = bits_of(L(U(bits_of(u)) - U(k << U(52)))) - 1.0
    return bits_of(L(U(k + _MAGIC_BITS))) - MAGIC_DOUBLE, f


@njit(
    no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy"
)  # no test for a zero divisor, which would be a branch
def log1p_double(r):
    """Return log(1 + r) to 2 ulp for finite r ≥ 0; NaN for NaN and for ∞."""
    u = 1.0 + r
    lost = (r - (u - 1.0)) / u
    k, f = _split(u)
    s = f / (2.0 + f)
    z = s * s
    series = fma(fma(fma(fma(_A11, z, _A10), z, _A9), z, _A8), z, _A7)
    series = fma(fma(fma(fma(series, z, _A6), z, _A5), z, _A4), z, _A3)
    series = z * fma(fma(series, z, _A2), z, _A1)
    square = 0.5 * f * f
    log = k * LN2 + (f - (square - (s * (square + series) + (lost + k * LN2_REST))))
    return log + (u - u)
