"""From the caller's arrays to rows, and from rows to the caller's number.

Everything about ignoring, masking and averaging becomes one weight for each row, here. No
definition or kernel sees an axis, a leading dimension or the name of a reduction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from xent.arrays import Array, ArrayLike, as_floats, is_compiling, sum_accurately, where_is
from xent.errors import OptionError, ShapeError

__all__ = [
    "Reduction",
    "Rows",
    "in_blocks",
    "product_of",
    "read_reduction",
    "read_weight",
    "require_number",
    "row_weights",
]

SMALLEST_WEIGHT = 2.0**-60
BLOCK = 1 << 16
"""Entries in one block of NumPy rows: what fits a core's cache with its temporaries."""


def product_of(shape: tuple[int, ...]) -> int:
    """Return how many entries a shape has (1 for a single number)."""
    return math.prod(shape)


def require_number(name: str, value: Any, low: float, high: float, hint: str) -> float:
    """Return an option that lies in [low, high], or say why not."""
    if not isinstance(value, int | float | np.number):
        if hasattr(value, "dtype"):
            raise OptionError(
                f"{name} must be a plain number: got an array. Hint: options are constants; to "
                "learn a temperature divide the logits by it yourself, a penalty can be added to "
                "the loss."
            )
        raise OptionError(f"{name} must be a number: got {value!r}. Hint: {hint}")
    if not low <= value <= high:  # false for NaN too
        raise OptionError(f"{name} must lie in [{low:g}, {high:g}]: got {value!r}. Hint: {hint}")
    return float(value)


def read_weight(xp: Any, weight: Array, name: str, dtype: Any, raising: bool, hint: str) -> Array:
    """Check weights: 0, or of a size whose products and sums neither overflow nor vanish."""
    weight = as_floats(xp, weight, dtype, name)
    fair = (weight == 0) | ((weight >= SMALLEST_WEIGHT) & (weight <= 1.0 / SMALLEST_WEIGHT))
    if raising and (where := where_is(xp, ~fair)) is not None:
        place = f" at index {where}" if where else ""
        raise OptionError(
            f"{name} must be 0 or lie in [{SMALLEST_WEIGHT:.1e}, {1 / SMALLEST_WEIGHT:.1e}]: got "
            f"{float(weight[where])!r}{place}. Hint: {hint}"
        )
    return xp.where(fair, weight, xp.nan)


@dataclass(frozen=True)
class Rows:
    """The rows of one call: which count, and how much.

    Attributes
    ----------
    xp
        The arrays' namespace.
    shape
        The leading shape that a result for each row has.
    kept
        Whether a row counts; a row that does not is never looked at.       (N,)
    weight
        The weight of a row, 0 where it is not kept, in the wide dtype.     (N,)
    """

    xp: Any
    shape: tuple[int, ...]
    kept: Array
    weight: Array

    def where(self, index: int) -> str:
        """Name a row as the caller counts them."""
        if len(self.shape) == 1:
            return f"at row {index}"
        place = tuple(int(i) for i in np.unravel_index(index, self.shape)) if self.shape else ()
        return f"at row {place}" if place else "in the only row"


def row_weights(
    xp: Any, given: ArrayLike | None, kept: Array, shape: tuple[int, ...], dtype: Any, raising: bool
) -> Rows:
    """Combine ignored rows and `row_weight` into the weights of flattened rows."""
    if given is None:
        return Rows(xp, shape, kept, xp.astype(kept, dtype))
    hint = "for signed weights multiply the rows of reduction='none'."
    weight = read_weight(xp, given, "row_weight", dtype, raising, hint)
    try:
        weight = xp.broadcast_to(weight, shape)
    except (ValueError, RuntimeError, TypeError) as error:
        raise ShapeError(
            f"row_weight must fit the rows, shape {shape}: got shape {tuple(weight.shape)}. "
            "Hint: one weight for each row, in the shape of the loss under reduction='none'."
        ) from error
    weight = xp.reshape(weight, (-1,))
    kept = kept & (weight != 0)
    return Rows(xp, shape, kept, xp.where(kept, weight, 0.0))


@dataclass(frozen=True)
class Reduction:
    """How the rows of a loss become a number: a weighted sum, or that over a normaliser."""

    kind: str
    normalizer: Any  # "weight", "count", a positive number, or an array of shape ()

    def divisor(self, rows: Rows, target_mass: Array | None) -> Any:
        """Return what the sum of the weighted rows is divided by."""
        if self.kind != "mean":
            return 1.0
        if not isinstance(self.normalizer, str):
            return self.normalizer
        if self.normalizer == "count":
            return _sum_rows(rows.xp, rows.xp.astype(rows.kept, rows.weight.dtype))
        mass = rows.weight if target_mass is None else rows.weight * target_mass
        return _sum_rows(rows.xp, mass)

    def apply(self, rows: Rows, losses: Array, divisor: Any, out: Any) -> Array:
        """Reduce the losses of flattened rows: 0 where no row is kept."""
        xp = rows.xp
        weighted = xp.where(rows.kept, rows.weight * losses, xp.zeros_like(losses))
        if self.kind == "none":
            return xp.astype(xp.reshape(weighted, rows.shape), out, copy=False)
        total = _over(xp, _sum_rows(xp, weighted), divisor)
        return xp.astype(total, out, copy=False)

    def scale(self, rows: Rows, divisor: Any) -> Array:
        """Return the derivative of the reduced loss by the loss of each row."""
        return _over(rows.xp, rows.weight, divisor)


def read_reduction(
    xp: Any, reduction: Any, normalizer: Any, dtype: Any, *, raising: bool
) -> Reduction:
    """Check how rows become a number."""
    if not isinstance(reduction, str) or reduction not in ("mean", "sum", "none"):
        raise OptionError(
            f"reduction must be 'mean', 'sum' or 'none': got {reduction!r}. "
            "Hint: 'none' returns the loss of each row."
        )
    hint = "the mean is divided by it: 'weight', 'count', or a positive number of yours."
    if isinstance(normalizer, str):
        if normalizer not in ("weight", "count"):
            raise OptionError(
                f"normalizer must be 'weight', 'count' or a number: got {normalizer!r}. "
                f"Hint: {hint}"
            )
        return Reduction(reduction, normalizer)
    if isinstance(normalizer, int | float) or not hasattr(normalizer, "dtype"):
        return Reduction(reduction, require_number("normalizer", normalizer, 1e-30, 1e30, hint))
    number = as_floats(xp, normalizer, dtype, "normalizer")
    if number.ndim:
        raise ShapeError(
            f"normalizer must be one number: got shape {tuple(number.shape)}. Hint: {hint}"
        )
    fair = (number > 0) & xp.isfinite(number)
    if raising and not bool(fair):
        raise OptionError(
            f"normalizer must be positive and finite: got {float(number)!r}. Hint: {hint}"
        )
    return Reduction(reduction, xp.where(fair, number, xp.nan))


def _sum_rows(xp: Any, rows: Array) -> Array:
    """Sum over rows by a fixed tree.

    Under torch.compile, where the tree would be unrolled for each number of rows, the sum is the
    compiler's.
    """
    return xp.sum(rows) if is_compiling() else sum_accurately(xp, rows)


def _over(xp: Any, numerator: Array, divisor: Any) -> Array:
    """Divide, with 0/0 = 0: a mean over no row is 0."""
    if type(divisor) in (int, float):  # the caller's number, which is not 0
        return numerator / divisor
    nothing = divisor == 0
    safe = xp.where(nothing, xp.ones_like(divisor), divisor)
    return xp.where(nothing & (numerator == 0), 0.0 * numerator, numerator / safe)


def in_blocks(
    xp: Any,
    size: int,
    width: int,
    compute: Callable[[slice], tuple[Array, ...]],
    step: int | None = None,
) -> tuple[Array, ...]:
    """Compute row by row results, in blocks of NumPy rows that fit the cache, and join them.

    Rows are independent and sums use a fixed tree, so the blocks do not change a bit. `step` asks
    for blocks of so many rows, on any library.
    """
    if step is None:
        if xp is not np:
            return compute(slice(0, size))
        step = max(1, BLOCK // max(1, width))
    blocks = [compute(part) for part in _slices(size, step)]
    if len(blocks) == 1:
        return blocks[0]
    return tuple(xp.concat(parts, axis=0) for parts in zip(*blocks, strict=True))


def _slices(size: int, step: int) -> Iterator[slice]:
    for start in range(0, max(size, 1), step):
        yield slice(start, min(start + step, size))
