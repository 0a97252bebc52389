"""Arithmetic of the CPU kernels: memory by address, exponentials and logarithms that vectorise.

Nothing here is compiled with ``fastmath``: −∞ and NaN are ordinary inputs, and the exponential
rounds to integers with an addition that a reassociating compiler would remove. Functions have no
branches and no calls, and integers and floats of one width, so that LLVM turns a loop over them
into vector instructions, whatever their width.

Memory is addressed by number: a kernel needs no array objects, and one signature serves
read-only and writable memory. A *kind*, a scalar of the element's type whose value is not looked
at, picks the signature: ``float32``, ``float64``, ``uint16`` for bfloat16, ``int16`` for float16.

numba's cache looks at the time stamp of the file that a kernel stands in, not at this one's:
touch the kernels' file after a change here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

__all__ = [
    "LN2",
    "LN2_REST",
    "MAGIC",
    "PERIODS",
    "bits_of",
    "compiled",
    "exp_double",
    "exp_single",
    "fence",
    "fma",
    "from_key",
    "key_of",
    "load",
    "log1p_double",
    "log1p_single",
    "narrow",
    "prefetch",
    "store",
    "stream",
    "transpose",
    "widen",
]

F, N, L, U = np.float32, np.int32, np.int64, np.uint64
VECTOR = 8
FLOAT, DOUBLE, HALF, INT, LONG, WORD, BYTE = (
    ir.FloatType(),
    ir.DoubleType(),
    ir.HalfType(),
    ir.IntType(32),
    ir.IntType(64),
    ir.IntType(16),
    ir.IntType(8),
)


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
    return a(a, a, a), lambda context, builder, signature, args: builder.fma(*args)


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
def stream(typing: Any, source: Any, target: Any, index: Any, factor: Any) -> Any:
    """Write eight float32 times a factor past the caches; the target must be 32-byte aligned.

    A gradient is larger than any cache and is next read by another part of the program. Writing
    it past the caches saves reading its old contents first.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(FLOAT, VECTOR).as_pointer()
        read = builder.bitcast(_element(builder, args[0], args[2], FLOAT), vector)
        written = builder.bitcast(_element(builder, args[1], args[2], FLOAT), vector)
        values = builder.load(read)
        values.align = 4
        nothing = ir.Constant(ir.VectorType(FLOAT, VECTOR), ir.Undefined)
        first = builder.insert_element(nothing, args[3], ir.Constant(INT, 0))
        lanes = ir.Constant(ir.VectorType(INT, VECTOR), [0] * VECTOR)
        factors = builder.shuffle_vector(first, nothing, lanes)
        write = builder.store(builder.fmul(values, factors), written)
        write.align = 4 * VECTOR
        write.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(INT, 1)]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.float32), generate


def _shuffled(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(INT, VECTOR), lanes)
    return builder.shuffle_vector(a, b, mask)


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Transpose eight vectors of eight, in three rounds of swaps of blocks of 4, 2 and 1."""
    for size in (4, 2, 1):
        lower = [i for i in range(VECTOR) if not i & size]
        keep = [i if not i & size else VECTOR + i - size for i in range(VECTOR)]
        swap = [i + size if not i & size else VECTOR + i for i in range(VECTOR)]
        done = list(rows)
        for i in lower:
            done[i] = _shuffled(builder, rows[i], rows[i + size], keep)
            done[i + size] = _shuffled(builder, rows[i], rows[i + size], swap)
        rows = done
    return rows


@intrinsic
def transpose(
    typing: Any, kind: Any, source: Any, o: Any, step: Any, to_kind: Any, to: Any, p: Any, by: Any
) -> Any:
    """Copy an 8 × 8 block so that rows become columns, from one kind to another.

    `o` and `p` are the elements to start at, `step` and `by` the elements between rows.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, source, o, step, _, to, p, by = args
        element, to_element = context.get_data_type(kind), context.get_data_type(to_kind)

        def place(address: Any, start: Any, stride: Any, row: int, element: Any) -> Any:
            index = builder.add(start, builder.mul(stride, ir.Constant(LONG, row)))
            vector = ir.VectorType(element, VECTOR).as_pointer()
            return builder.bitcast(_element(builder, address, index, element), vector)

        rows = []
        for row in range(VECTOR):
            value = builder.load(place(source, o, step, row, element))
            value.align = 1
            if kind == types.float64:
                value = builder.fptrunc(value, ir.VectorType(FLOAT, VECTOR))
            rows.append(_widened(builder, value, kind, VECTOR))
        for row, value in enumerate(_transposed(builder, rows)):
            narrowed = _narrowed(builder, value, to_kind, VECTOR)
            write = builder.store(narrowed, place(to, p, by, row, to_element))
            write.align = 1
        return context.get_dummy_value()

    whole = types.int64
    return types.void(kind, whole, whole, whole, to_kind, whole, whole, whole), generate


@intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Ask for the cache line at an address, which need not exist."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = BYTE.as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, INT, INT, INT])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        read, second_level, data = (ir.Constant(INT, n) for n in (0, 2, 1))
        builder.call(function, [builder.inttoptr(args[0], pointer), read, second_level, data])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def fence(typing: Any) -> Any:
    """Let every earlier write be seen before any later one: `stream` does not by itself."""

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


def _of_lanes(element: Any, lanes: int) -> Any:
    return ir.VectorType(element, lanes) if lanes > 1 else element


def _all(element: Any, value: int, lanes: int) -> Any:
    return ir.Constant(_of_lanes(element, lanes), [value] * lanes if lanes > 1 else value)


def _widened(builder: Any, x: Any, kind: Any, lanes: int = 1) -> Any:
    """Return the instructions that make float32 of a half type or an integer."""
    single = _of_lanes(FLOAT, lanes)
    if kind == types.uint16:
        word = builder.shl(builder.zext(x, _of_lanes(INT, lanes)), _all(INT, 16, lanes))
        return builder.bitcast(word, single)
    if kind == types.int16:
        return builder.fpext(builder.bitcast(x, _of_lanes(HALF, lanes)), single)
    return builder.sitofp(x, single) if kind == types.int64 else x


def _narrowed(builder: Any, x: Any, kind: Any, lanes: int = 1) -> Any:
    """Return the instructions that round float32 to a kind, to nearest and ties to even."""
    if kind == types.float64:
        return builder.fpext(x, _of_lanes(DOUBLE, lanes))
    if kind == types.int16:
        half = builder.fptrunc(x, _of_lanes(HALF, lanes))
        return builder.bitcast(half, _of_lanes(WORD, lanes))
    if kind != types.uint16:
        return x
    word = builder.bitcast(x, _of_lanes(INT, lanes))
    sixteen = _all(INT, 16, lanes)
    odd = builder.and_(builder.lshr(word, sixteen), _all(INT, 1, lanes))
    rounded = builder.add(builder.add(word, odd), _all(INT, 0x7FFF, lanes))
    rounded = builder.select(
        builder.fcmp_unordered("uno", x, x), _all(INT, 0x7FC00000, lanes), rounded
    )
    return builder.trunc(builder.lshr(rounded, sixteen), _of_lanes(WORD, lanes))


@intrinsic
def widen(typing: Any, value: Any) -> Any:
    """Return a half type as float32, exactly; float32 and float64 as they are.

    Integers, which only the targets of rows that are not soft are, become some float32.
    """
    to = types.float64 if value == types.float64 else types.float32
    return to(value), lambda context, builder, signature, args: _widened(builder, args[0], value)


@intrinsic
def narrow(typing: Any, value: Any, kind: Any) -> Any:
    """Round a float32 to a kind, to nearest and ties to even; a float64 through float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x = args[0]
        if kind == types.float64:
            return x if value == types.float64 else builder.fpext(x, DOUBLE)
        if value == types.float64:
            x = builder.fptrunc(x, FLOAT)
        return _narrowed(builder, x, kind)

    return kind(value, kind), generate


# ---- order ---------------------------------------------------------------------------------------


@njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)
def key_of(x):
    """Return an integer that orders like a float32, −∞ … +∞, and NaN beyond.

    A maximum of integers is one vector instruction; one of floats that may be NaN is not.
    """
    bits = bits_of(x)
    return N(bits ^ ((bits >> N(31)) & N(0x7FFFFFFF)))


@njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)
def from_key(key):
    """Return the float32 of a key."""
    return bits_of(N(key ^ ((key >> N(31)) & N(0x7FFFFFFF))))


# ---- exponentials --------------------------------------------------------------------------------

# Added and subtracted, they round to an integer, which then stands in the lowest bits.
MAGIC = F(1.5 * 2**23)
MAGIC_DOUBLE = 1.5 * 2.0**52
_BIASED_DOUBLE = L(0x4338000000000000 - 1023)

LN2 = 0.6931471805599453
LN2_REST = 2.3190468138462996e-17
PERIODS = 1.4426950408889634  # 1/log 2

# (eʳ − 1 − r)/r² on |r| ≤ log(2)/2 to 3.1e-9 of eʳ: least squares, reweighted to the minimax.
_Q0, _Q1, _Q2, _Q3, _Q4 = (
    F(float.fromhex(c))
    for c in ("0x1.fffffcp-2", "0x1.555492p-3", "0x1.5558f2p-5", "0x1.1239e4p-7", "0x1.6a243p-10")
)


@njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)
def exp_single(z, c):
    """Return exp(z/T)·2^−N to 1 ulp, for z/T·log₂e in [−∞, 2^20], without rounding z − m.

    The exponent is split as z = n·(T·log 2) + r; the power of two is shifted by the integer N,
    so that a common offset or a wide gap costs no digit. Below 2^−127 the result is 0.

    `c` is ``(floor, log₂e/T, high, low, 1/T, base)`` with T·log 2 = high + low, base the bits of
    MAGIC + N less 127, and floor a little under (N − 127)·T·log 2.
    """
    floor, periods, high, low, inverse, base = c
    z = floor if z < floor else z  # so that NaN stays
    biased = fma(z, periods, MAGIC)
    n = biased - MAGIC
    r = fma(-n, low, fma(-n, high, z)) * inverse
    # Not by Horner's rule: what limits a processor here is the length of the chain.
    square = r * r
    q = fma(fma(_Q4, square, fma(_Q3, r, _Q2)), square, fma(_Q1, r, _Q0))
    p = fma(q, square, r) + F(1.0)
    return p * bits_of(N(N(bits_of(biased) - base) << N(23)))


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


@njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy")
def log1p_single(r):
    """Return log(1 + r) to 1e-9 for 0 ≤ r ≤ 2^20, with fewer terms and one division less."""
    u = 1.0 + r
    k, f = _split(u)
    s = f / (2.0 + f)
    z = s * s
    series = z * fma(fma(fma(fma(_A5, z, _A4), z, _A3), z, _A2), z, _A1)
    square = 0.5 * f * f
    log = k * LN2 + (f - (square - (s * (square + series) + (r - (u - 1.0)))))
    return log + (u - u)
