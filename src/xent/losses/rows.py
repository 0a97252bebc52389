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

from xent.arrays import Array, ArrayLike, as_floats, sum_accurately, where_is
from xent.errors import OptionError, ShapeError

__all__ = ["Reduction", "Rows", "in_blocks", "product_of", "require_number", "row_weights"]

BLOCK = 1 << 16
"""Entries in one block of NumPy rows: what fits a core's cache with its temporaries."""


def product_of(shape: tuple[int, ...]) -> int:
    """Return how many entries a shape has (1 for a single number)."""
    return math.prod(shape)


def require_number(name: str, value: float, low: float, high: float, hint: str) -> float:
    """Return a finite option that lies in [low, high], or say why not."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{name} must be a number: got {value!r}. Hint: {hint}") from error
    if not (low <= number <= high and math.isfinite(number)):
        raise OptionError(f"{name} must lie in [{low:g}, {high:g}]: got {value!r}. Hint: {hint}")
    return number


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
    weight = as_floats(xp, given, dtype, "row_weight")
    try:
        weight = xp.broadcast_to(weight, shape)
    except (ValueError, RuntimeError, TypeError) as error:
        raise ShapeError(
            f"row_weight must fit the rows, shape {shape}: got shape {tuple(weight.shape)}. "
            "Hint: one weight for each row, in the shape of the loss under reduction='none'."
        ) from error
    bad = ~((weight >= 0) & xp.isfinite(weight))
    if raising and (where := where_is(xp, bad)) is not None:
        raise OptionError(
            f"row_weight must be finite and not negative: got {float(weight[where])!r} at row "
            f"{where}. Hint: for signed weights multiply the rows of reduction='none'."
        )
    weight = xp.reshape(xp.where(bad, xp.nan, weight), (-1,))
    kept = kept & (weight != 0)
    return Rows(xp, shape, kept, xp.where(kept, weight, xp.zeros_like(weight)))


@dataclass(frozen=True)
class Reduction:
    """How the rows of a loss become a number: a weighted sum, or that over a normaliser."""

    kind: str
    normalizer: Any

    def __post_init__(self) -> None:
        if self.kind not in ("mean", "sum", "none"):
            raise OptionError(
                f"reduction must be 'mean', 'sum' or 'none': got {self.kind!r}. "
                "Hint: 'none' returns the loss of each row."
            )
        if isinstance(self.normalizer, str) and self.normalizer not in ("weight", "count"):
            raise OptionError(
                f"normalizer must be 'weight', 'count' or a number: got {self.normalizer!r}. "
                "Hint: the mean is divided by the total weight, the count of kept rows, or by a "
                "number of yours."
            )
        if isinstance(self.normalizer, int | float):
            require_number(
                "normalizer", self.normalizer, 2.0**-1000, 2.0**1000, "it divides the sum."
            )

    def divisor(self, rows: Rows, target_mass: Array | None) -> Any:
        """Return what the sum of the weighted rows is divided by."""
        if self.kind != "mean":
            return 1.0
        if not isinstance(self.normalizer, str):
            return self.normalizer
        if self.normalizer == "count":
            return sum_accurately(rows.xp, rows.xp.astype(rows.kept, rows.weight.dtype))
        mass = rows.weight if target_mass is None else rows.weight * target_mass
        return sum_accurately(rows.xp, mass)

    def apply(self, rows: Rows, losses: Array, divisor: Any, out: Any) -> Array:
        """Reduce the losses of flattened rows: 0 where no row is kept."""
        xp = rows.xp
        weighted = xp.where(rows.kept, rows.weight * losses, xp.zeros_like(losses))
        if self.kind == "none":
            return xp.astype(xp.reshape(weighted, rows.shape), out, copy=False)
        total = _over(xp, sum_accurately(xp, weighted), divisor)
        return xp.astype(total, out, copy=False)

    def scale(self, rows: Rows, divisor: Any) -> Array:
        """Return the derivative of the reduced loss by the loss of each row."""
        return _over(rows.xp, rows.weight, divisor)


def _over(xp: Any, numerator: Array, divisor: Any) -> Array:
    """Divide, with 0/0 = 0: a mean over no row is 0."""
    if not hasattr(divisor, "dtype"):  # the caller's number, which is not 0
        return numerator / divisor
    nothing = divisor == 0
    safe = xp.where(nothing, xp.ones_like(divisor), divisor)
    return xp.where(nothing & (numerator == 0), 0.0 * numerator, numerator / safe)


def in_blocks(
    xp: Any, size: int, width: int, compute: Callable[[slice], tuple[Array, ...]]
) -> tuple[Array, ...]:
    """Compute row by row results, in blocks of NumPy rows that fit the cache, and join them.

    Rows are independent and sums use a fixed tree, so the blocks do not change a bit.
    """
    step = max(1, BLOCK // max(1, width)) if xp is np else max(1, size)
    blocks = [compute(part) for part in _slices(size, step)]
    if len(blocks) == 1:
        return blocks[0]
    return tuple(xp.concat(parts, axis=0) for parts in zip(*blocks, strict=True))


def _slices(size: int, step: int) -> Iterator[slice]:
    for start in range(0, max(size, 1), step):
        yield slice(start, min(start + step, size))
