"""What every room needs to know about arrays: whose they are, how precise, how to sum them.

Arrays of any library that follows the Python array standard are taken as they are; lists, scalars
and data-frame columns become NumPy arrays. A framework is looked up in ``sys.modules``, never
imported: an array of a library that is not loaded cannot exist.

Some results carry their own rounding error beside them, as a *pair* ``(high, low)`` whose exact
value is ``high + low``. Rounding errors have derivative zero, so they are hidden from automatic
differentiation by `constant`.
"""

from __future__ import annotations

import functools
import math
import operator
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeAlias, TypeVar, cast

import numpy as np

from xent.errors import OptionError, ShapeError

__all__ = [
    "Array",
    "ArrayLike",
    "MaybePair",
    "Pair",
    "accumulation_dtype",
    "add_low",
    "as_arrays",
    "as_floats",
    "checking",
    "constant",
    "divide_pair",
    "epsilon",
    "exp_pair",
    "is_compiling",
    "is_torch",
    "move_axis",
    "move_last",
    "output_dtype",
    "quietly",
    "sum_accurately",
    "sum_pair",
    "tanh_pair",
    "two_difference",
    "unit_sum_tolerance",
    "where_is",
]


P = ParamSpec("P")
R = TypeVar("R")


class Array(Protocol):  # noqa: PLW1641 (arrays are not hashable)
    """The members of a standard array that xent uses."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def ndim(self) -> int: ...  # noqa: D102
    @property
    def dtype(self) -> Any: ...  # noqa: D102
    def __getitem__(self, key: Any, /) -> Array: ...
    def __float__(self) -> float: ...
    def __int__(self) -> int: ...
    def __neg__(self) -> Array: ...
    def __invert__(self) -> Array: ...
    def __add__(self, other: Any, /) -> Array: ...
    def __radd__(self, other: Any, /) -> Array: ...
    def __sub__(self, other: Any, /) -> Array: ...
    def __rsub__(self, other: Any, /) -> Array: ...
    def __mul__(self, other: Any, /) -> Array: ...
    def __rmul__(self, other: Any, /) -> Array: ...
    def __truediv__(self, other: Any, /) -> Array: ...
    def __rtruediv__(self, other: Any, /) -> Array: ...
    def __pow__(self, other: Any, /) -> Array: ...
    def __eq__(self, other: Any, /) -> Array: ...  # type: ignore[override]
    def __ne__(self, other: Any, /) -> Array: ...  # type: ignore[override]
    def __and__(self, other: Any, /) -> Array: ...
    def __or__(self, other: Any, /) -> Array: ...
    def __lt__(self, other: Any, /) -> Array: ...
    def __le__(self, other: Any, /) -> Array: ...
    def __gt__(self, other: Any, /) -> Array: ...
    def __ge__(self, other: Any, /) -> Array: ...


ArrayLike: TypeAlias = Any
"""An `Array`, or what `numpy.asarray` makes one of: nested lists, numbers, data-frame columns."""

Pair: TypeAlias = tuple[Array, Array]
"""An unevaluated sum ``(high, low)``."""

MaybePair: TypeAlias = tuple[Array, Array | None]
"""The same, or a number alone where rounding errors are not carried."""


def is_torch(x: object) -> bool:
    """Tell whether this is a torch tensor."""
    # Another thread may be in the middle of importing it: then no tensor exists yet.
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and isinstance(x, tensor)


def _jax_owns(x: object) -> bool:
    array = getattr(sys.modules.get("jax"), "Array", None)
    return array is not None and isinstance(x, array)


def _is_foreign(x: object) -> bool:
    """Tell whether an object is an array of a library other than NumPy."""
    if is_torch(x):
        return True
    return hasattr(x, "__array_namespace__") and not isinstance(x, (np.ndarray, np.generic))


def as_arrays(*values: ArrayLike | None) -> tuple[Any, list[Any]]:
    """Find the namespace that the arrays among `values` share, and bring the rest to it.

    Returns
    -------
    namespace, arrays
        The namespace to compute in, and one array for each value (``None`` stays ``None``, but
        for the first).
        It is NumPy's unless an array of another library is among them.
    """
    if values[0] is None:
        raise OptionError("an array must be given: got None. Hint: lists and numbers do too.")
    owned = [v for v in values if _is_foreign(v)]
    if not owned:
        return np, [None if v is None else _as_numpy(v) for v in values]
    xp = _foreign_namespace(owned)

    def bring(v: Any) -> Any:
        if v is None or _is_foreign(v):
            return v
        first: Any = owned[0]
        on = {"device": first.device} if is_torch(first) else {}
        array = _as_numpy(v)
        if array.dtype.kind not in "biuf":
            raise OptionError(
                f"arrays must hold real numbers: got dtype {array.dtype} beside {type(first)}. "
                "Hint: convert text and objects to numbers first."
            )
        if array.dtype.kind in "iu" and "int64" not in xp.__array_namespace_info__().dtypes():
            # JAX without 64-bit would wrap large integers around, into the range of the classes.
            array = np.clip(
                array,
                max(-(2**31), np.iinfo(array.dtype).min),
                min(2**31 - 1, np.iinfo(array.dtype).max),
            )
        # A copy where torch would refuse or warn: byte order, negative strides, read-only memory.
        native = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
        plain = native.flags.c_contiguous and native.flags.writeable
        return xp.asarray(native if plain else native.copy(order="C"), **on)

    return xp, [bring(v) for v in values]


def _as_numpy(value: Any) -> np.ndarray[Any, Any]:
    if "numpy.ma" in sys.modules and isinstance(value, np.ma.MaskedArray) and value.mask.any():
        raise OptionError(
            f"masked arrays are not taken: got {int(value.mask.sum())} masked entries. "
            "Hint: mask rows or entries with row_weight=0, a class with a logit of −inf."
        )
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ShapeError(
            f"nested lists must be rectangular: {error}. Hint: every row needs as many entries."
        ) from error
    # The half types of ml_dtypes, which NumPy does not know as numbers; widened exactly.
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _foreign_namespace(owned: list[Any]) -> Any:
    if all(map(_jax_owns, owned)):
        return sys.modules["jax.numpy"]
    # array_api_compat is imported here: its NumPy half alone would triple the time of
    # `import xent`. Its torch half is named, so that torch.compile need not trace the search.
    if all(map(is_torch, owned)):
        import array_api_compat.torch

        return array_api_compat.torch
    import array_api_compat

    try:
        return array_api_compat.array_namespace(*owned)
    except TypeError as error:
        raise OptionError(
            f"arrays of one call must belong to one library: got {error}. "
            "Hint: convert them first; only NumPy arrays and lists are converted for you."
        ) from error


def accumulation_dtype(xp: Any, *arrays: Array | None) -> Any:
    """Return the dtype to compute in: float64, or the widest float where there is none.

    JAX without 64-bit and Apple's GPUs have no float64; there the arithmetic of pairs keeps
    the digits of float32.
    """
    present = [a for a in arrays if a is not None]
    wide = xp.float64
    if xp is not np:
        on_apple_gpu = any(
            getattr(getattr(a, "device", None), "type", "") == "mps" for a in present
        )
        offered = xp.__array_namespace_info__().dtypes(kind="real floating")
        if on_apple_gpu or "float64" not in offered:
            wide = xp.float32
    floats = [a.dtype for a in present if xp.isdtype(a.dtype, "real floating")]
    return xp.result_type(wide, *floats) if floats else wide


def output_dtype(xp: Any, *arrays: Array | None) -> Any:
    """Return the dtype of a result: the widest among the inputs' floats, at least float32."""
    floats = [a.dtype for a in arrays if a is not None and xp.isdtype(a.dtype, "real floating")]
    if not floats:
        return accumulation_dtype(xp, *arrays)
    return xp.result_type(xp.float32, *floats)


def as_floats(xp: Any, array: Array, dtype: Any, name: str) -> Array:
    """Convert real numbers to `dtype`, refusing what is not a real number.

    An integer that the float does not hold becomes NaN.
    """
    if not xp.isdtype(array.dtype, ("bool", "integral", "real floating")):
        raise OptionError(
            f"{name} must hold real numbers: got dtype {array.dtype}. "
            "Hint: convert them first; complex numbers and text have no order or logarithm here."
        )
    wide = xp.astype(array, dtype, copy=False)
    if xp.isdtype(array.dtype, "integral") and xp.iinfo(array.dtype).bits > 32 - 16 * (
        xp.finfo(dtype).bits < 64
    ):
        wide = xp.where(xp.astype(wide, array.dtype) == array, wide, xp.nan)
    return wide


def epsilon(xp: Any, array: Array) -> float:
    """Return the spacing of an array's dtype at 1; 0 for integers, which are not rounded."""
    floating = xp.isdtype(array.dtype, "real floating")
    return float(xp.finfo(array.dtype).eps) if floating else 0.0


def move_last(xp: Any, array: Array, axis: int, name: str) -> Array:
    """Move `axis` to the end, or say which axes there are."""
    if array.ndim == 0:
        raise ShapeError(f"{name} must have at least one axis: got a single number. Hint: [x, …].")
    try:
        axis = operator.index(axis)
    except TypeError:
        raise OptionError(
            f"axis must be an integer: got {axis!r}. Hint: axis=-1 is the last."
        ) from None
    if not -array.ndim <= axis < array.ndim:
        raise ShapeError(
            f"axis must lie in [{-array.ndim}, {array.ndim}) for {name} of shape "
            f"{tuple(array.shape)}: got {axis}. Hint: axis=-1 is the last."
        )
    return move_axis(xp, array, axis, -1)


def move_axis(xp: Any, array: Array, source: int, destination: int) -> Array:
    """Move one axis; by a permutation, because torch's ``moveaxis`` cannot be vmapped."""
    order = list(range(array.ndim))
    moved = order.pop(source)
    order.insert(destination % array.ndim, moved)
    return array if order == list(range(array.ndim)) else xp.permute_dims(array, tuple(order))


def constant(x: Array) -> Array:
    """Hide an array from automatic differentiation: its derivative is taken to be zero."""
    if is_torch(x):
        return cast("Any", x).detach()
    if _jax_owns(x):
        return sys.modules["jax"].lax.stop_gradient(x)
    return x


def _is_readable(x: Array) -> bool:
    """Tell whether values can be looked at without tracing errors or waiting for a device."""
    if isinstance(x, np.ndarray):
        return True
    if is_torch(x):
        torch, tensor = sys.modules["torch"], cast("Any", x)
        if is_compiling() or tensor.device.type != "cpu":
            return False
        fake = isinstance(tensor, torch._subclasses.FakeTensor)
        return not (fake or torch._C._functorch.is_functorch_wrapped_tensor(tensor))
    if _jax_owns(x):
        jax, value = sys.modules["jax"], cast("Any", x)
        return not isinstance(value, jax.core.Tracer) and all(
            device.platform == "cpu" for device in value.devices()
        )
    return "cpu" in str(getattr(x, "device", "cpu")).lower()


def checking(check: bool | None, *arrays: Array | None) -> bool:
    """Decide whether bad values raise (True) or make their rows NaN (False).

    ``None`` raises for eager values on the CPU, where looking costs little; ``True`` insists, at
    the price of waiting for the device.
    """
    if check is None:
        return all(_is_readable(a) for a in arrays if a is not None)
    if check and any(a is not None and _is_traced(a) for a in arrays):
        raise OptionError(
            "check=True must look at values, and these are being traced. "
            "Hint: call outside jit, vmap and grad, or leave check=None: bad rows become NaN."
        )
    return check


def is_compiling() -> bool:
    """Tell whether torch.compile is tracing this call."""
    compiler = getattr(sys.modules.get("torch"), "compiler", None)
    asked = getattr(compiler, "is_compiling", None)
    return bool(asked is not None and asked())


def _is_traced(x: Array) -> bool:
    """Tell whether an array stands for values that a transformation hides."""
    if is_compiling():
        return True
    if _jax_owns(x):
        return isinstance(x, sys.modules["jax"].core.Tracer)
    if is_torch(x):
        functorch, tensor = sys.modules["torch"]._C._functorch, cast("Any", x)
        while functorch.is_functorch_wrapped_tensor(tensor):
            if functorch.is_batchedtensor(tensor):
                return True
            tensor = functorch.get_unwrapped(tensor)
    return False


def where_is(xp: Any, mask: Array) -> tuple[int, ...] | None:
    """Return the index of the first true entry, or None where there is none."""
    if not bool(xp.any(mask)):
        return None
    flat = int(cast("Any", xp.argmax(xp.astype(xp.reshape(mask, (-1,)), xp.uint8))))
    return tuple(int(i) for i in np.unravel_index(flat, tuple(mask.shape)))


def unit_sum_tolerance(epsilon: float, length: int) -> float:
    """Return how far from 1 the sum of a distribution may lie.

    ``8·ε + 4·√length·2⁻²³``, where ε is the spacing of the dtype at 1, at least float32's: a
    distribution that was normalised in float32, or stored in a half type, passes; one that was
    rounded to a few decimals does not.

    Examples
    --------
    >>> unit_sum_tolerance(2.0**-52, 10) < 3e-6 < unit_sum_tolerance(2.0**-10, 10)
    True
    """
    single = 2.0**-23
    return 8.0 * max(epsilon, single) + 4.0 * math.sqrt(length) * single


def quietly(function: Callable[P, R]) -> Callable[P, R]:
    """Silence NumPy's floating-point warnings: log 0 = −∞ and exp(−1000) = 0 are meant here."""

    @functools.wraps(function)
    def quiet(*args: P.args, **kwargs: P.kwargs) -> R:
        if is_compiling():
            return function(*args, **kwargs)
        with np.errstate(all="ignore"):
            return function(*args, **kwargs)

    return quiet


# ---- arithmetic that keeps its rounding errors ------------------------------------------------


def _finite_or_zero(xp: Any, low: Array) -> Array:
    """Drop the meaningless remainder of an infinite or NaN result, and its derivative."""
    return constant(xp.where(xp.isfinite(low), low, xp.zeros_like(low)))


def _two_sum(xp: Any, a: Array, b: Array) -> Pair:
    """Return a + b and the exact rounding error of that sum (Knuth 1969, TAOCP 2, 4.2.2)."""
    a_, b_ = constant(a), constant(b)
    high = a_ + b_
    part = high - a_
    return a + b, _finite_or_zero(xp, (a_ - (high - part)) + (b_ - part))


def two_difference(xp: Any, a: Array, b: Array) -> Pair:
    """Return a − b and the exact rounding error of that difference."""
    return _two_sum(xp, a, -b)


def add_low(xp: Any, pair: Pair, low: Array) -> Pair:
    """Add a small constant to a pair, so that its first part is the sum rounded once."""
    high, below = pair
    total, rest = _renormalised(constant(high), below + low)
    small = _finite_or_zero(xp, total - constant(high))
    return high + small, _finite_or_zero(xp, rest)


def exp_pair(xp: Any, exponent: MaybePair) -> Array:
    """Return the exponential of a pair; without a second part, that of the first."""
    high, low = exponent
    # Not e + e·low: that product would be flushed to zero while e is still a normal number.
    return xp.exp(high) if low is None else xp.exp(high) * (1.0 + low)


def divide_pair(
    xp: Any, numerator: MaybePair, divisor: float, grid: float | None = None
) -> MaybePair:
    """Divide a pair by a number, to about twice the precision of the dtype.

    A number without a second part is divided as it is. `grid` is the fineness of the cut; a
    finer one than the default suits quotients that are known to be small.

    Accurate where the quotient lies above −1000, which is where its exponential is not zero.
    The leading part of the quotient is cut to a grid, so that its product with the leading part
    of the divisor is exact, also where a compiler fuses multiplication and addition.
    """
    if divisor == 1.0:
        return numerator
    high, low = numerator
    quotient = high / divisor
    if low is None:
        return quotient, None
    wide = quotient.dtype == getattr(xp, "float64", None)
    if grid is None:
        grid = 2.0**16 if wide else 2.0**4
    head = _leading(divisor, 26 if wide else 12)
    q = constant(quotient)
    lead = xp.round(q * grid) / grid
    rest = ((constant(high) - lead * head) - lead * (divisor - head) + low) / divisor
    correction = (lead - q) + rest
    near = (q > -1000.0) & (q < 1000.0)
    return quotient, _finite_or_zero(xp, xp.where(near, correction, xp.zeros_like(q)))


def tanh_pair(xp: Any, z: Array, scale: float) -> Pair:
    """Return ``scale·tanh(z/scale)`` to about ten bits more than the dtype holds.

    tanh(y/1024) comes from its series, then ten doublings tanh 2s = 2·tanh s/(1 + tanh² s) in
    pairs; numbers are cut to a grid before they are multiplied, so the products are exact.
    Beyond |y| = 20 it is ±(1 − 2·e^{−2|y|}).
    """
    live = scale * xp.tanh(z / scale)
    wide = z.dtype == getattr(xp, "float64", None)
    grid, doublings = 2.0**26 if wide else 2.0**12, 10

    def cut(x: Array, grid: float = grid) -> Array:
        return xp.round(x * grid) / grid

    z = constant(z)
    fine = 2.0**21 if wide else 2.0**7
    y, y_low = cast("Pair", divide_pair(xp, (z, xp.zeros_like(z)), scale, grid=fine))
    far = ~(xp.abs(y) < 20.0)
    s = xp.where(far, 0.0, y) / 2.0**doublings
    s2 = s * s
    series = s * s2 * (1 / 3 - s2 * (2 / 15 - s2 * (17 / 315 - s2 * (62 / 2835))))
    high, low = _renormalised(s, xp.where(far, 0.0, y_low) / 2.0**doublings - series)
    for _ in range(doublings):
        lead = cut(high)
        tail = high - lead
        square_low = tail * (lead + high) + 2.0 * high * low
        below, below_low = _two_sum(xp, xp.ones_like(high), lead * lead)
        below, below_low = _renormalised(below, below_low + square_low)
        quotient = 2.0 * high / below
        first, second = cut(quotient), cut(below, grid / 2.0)
        rest = (2.0 * high - first * second) - first * (below - second)
        rest = rest - (quotient - first) * below + 2.0 * low - quotient * below_low
        high, low = _renormalised(quotient, rest / below)
    head = _leading(scale, 11)
    lead = cut(high)
    exact = (lead * head - live) + (lead * (scale - head) + (high - lead) * scale) + scale * low
    gap = (scale - head) - 2.0 * scale * xp.exp(-2.0 * xp.abs(y))
    beyond = xp.where(y > 0, (head - live) + gap, (-head - live) - gap)
    # Near 0 the cap is z less a small part, which needs no more digits than the dtype has.
    close = xp.abs(y) < (2.0**-7 if wide else 2.0**-2)
    y2 = y * y
    more = 62 / 2835 - y2 * (1382 / 155925 - y2 * (21844 / 6081075))
    bent = scale * y * y2 * (1 / 3 - y2 * (2 / 15 - y2 * (17 / 315 - y2 * more)))
    exact = xp.where(close, (z - live) - bent, exact)
    return live, _finite_or_zero(xp, xp.where(far, beyond, exact))


def _leading(number: float, bits: int) -> float:
    """Return a number cut to its leading bits, so that products with it can be exact."""
    exponent = math.frexp(number)[1] - bits
    return math.ldexp(math.floor(math.ldexp(number, -exponent)), exponent)


def _renormalised(high: Array, low: Array) -> Pair:
    total = high + low
    return total, low - (total - high)


def sum_pair(xp: Any, x: Array) -> Pair:
    """Sum over the last axis by a fixed binary tree, with the rounding errors beside it.

    The tree depends on the length alone, so the bits of a sum do not depend on what lies beside
    it; the errors of each addition are themselves added, so length costs no digits.
    """
    n = x.shape[-1]
    low = xp.zeros_like(constant(x))
    if n == 0:
        empty = xp.sum(x, axis=-1)
        return empty, xp.zeros_like(constant(empty))
    while n > 1:
        half = n // 2
        a, b = x[..., :half], x[..., half : 2 * half]
        high, error = _two_sum(xp, a, b)
        error = error + (low[..., :half] + low[..., half : 2 * half])
        if n % 2:
            high = xp.concat([high, x[..., 2 * half :]], axis=-1)
            error = xp.concat([error, low[..., 2 * half :]], axis=-1)
        x, low, n = high, error, half + n % 2
    return x[..., 0], low[..., 0]


def sum_accurately(xp: Any, x: Array, *, carry: bool = True) -> Array:
    """Sum over the last axis by a fixed binary tree, losing no digits to its length.

    Without `carry` the errors of the additions are dropped: enough where the result will be
    rounded to a narrower dtype, and several times faster.
    """
    if carry:
        high, low = sum_pair(xp, x)
        return high + low
    n = x.shape[-1]
    if n == 0:
        return xp.sum(x, axis=-1)
    while n > 1:
        half = n // 2
        folded = x[..., :half] + x[..., half : 2 * half]
        x = xp.concat([folded, x[..., 2 * half :]], axis=-1) if n % 2 else folded
        n = half + n % 2
    return x[..., 0]
