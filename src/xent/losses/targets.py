"""What a target may be: class indices, one-hot rows, or soft distributions; validated here.

Every kind becomes one form, the mass that a row gives each class. A hard target therefore equals
its one-hot soft target in every way, class weights, smoothing and reductions included.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, cast

from xent.arrays import Array, as_floats, epsilon, move_last, unit_sum_tolerance, where_is
from xent.errors import OptionError, ShapeError, TargetError
from xent.information import require_distribution
from xent.losses.definition import one_hot, sum_over
from xent.losses.rows import Rows, product_of, read_weight

__all__ = ["Targets", "read_class_weight", "read_entries", "read_targets", "smoothed"]


@dataclass(frozen=True)
class Targets:
    """Targets as the caller gave them, flattened to rows.

    Attributes
    ----------
    values
        Class indices (N,) of a signed integer dtype, or masses (N, C).
    soft
        Whether `values` are masses.
    tolerance
        How far from 1 the masses of a row may sum.
    class_weight
        What each class counts, or None.                                  (C,)
    smoothing
        The share of the mass that is spread evenly over the allowed classes.
    """

    values: Array
    soft: bool
    tolerance: float
    class_weight: Array | None
    smoothing: float

    def masses(
        self, rows: Rows, part: slice, z: Array, *, raising: bool
    ) -> tuple[Array, Array | None]:
        """Return the mass of each class in a block of rows, and which rows are out of range.

        `z` are the block's logits in the wide dtype: −∞ there takes no part in smoothing.
        """
        xp = rows.xp
        t, outside = self.checked(rows, part, z.shape[-1], z.dtype, raising)
        if not self.soft:
            t = xp.astype(one_hot(xp, t, z), z.dtype)
        return smoothed(xp, t, z, self.smoothing, self.class_weight), outside

    def checked(
        self, rows: Rows, part: slice, classes: int, dtype: Any, raising: bool
    ) -> tuple[Array, Array | None]:
        """Return the indices or masses of a block of rows, and which rows are out of range."""
        xp = rows.xp
        values, kept = self.values[part, ...], rows.kept[part]
        if self.soft:
            t = as_floats(xp, values, dtype, "targets")
            t = xp.where(kept[:, None], t, 1.0 / classes)
            t = require_distribution(
                xp,
                t,
                name="targets",
                tolerance=self.tolerance,
                raising=raising,
                place=lambda where: rows.where(part.start + where[0]),
                hint="divide each row by its sum; to weigh rows use row_weight.",
                value_hint="a target gives each class a share of 1; class indices are integers.",
            )
            return t, None
        outside = kept & ((values < 0) | (values >= classes))
        if raising and (where := where_is(xp, outside)) is not None:
            index = part.start + where[0]
            raise TargetError(
                f"targets must lie in [0, {classes}): got {int(cast('Any', values[where[0]]))} "
                f"{rows.where(index)}. Hint: mask padding with ignore_index= or row_weight=0."
            )
        return xp.where(kept, values, 0), outside


def smoothed(xp: Any, t: Array, z: Array, smoothing: float, class_weight: Array | None) -> Array:
    """Spread a share of the targets' mass over the classes that are allowed, then weigh classes."""
    if smoothing:
        allowed = xp.astype(z > -xp.inf, z.dtype)
        t = (1.0 - smoothing) * t + smoothing * allowed / sum_over(xp, allowed)
    return t if class_weight is None else t * class_weight


def read_targets(
    xp: Any,
    targets: Array,
    logits_shape: tuple[int, ...],
    axis: int,
    ignore_index: int | None,
    **options: Any,
) -> tuple[Targets, Array]:
    """Flatten targets to rows; return them and which rows are kept.

    `logits_shape` has the classes last; `axis` is where the caller has them.
    """
    rows_shape, classes = logits_shape[:-1], logits_shape[-1]
    rows = product_of(rows_shape)
    if targets.ndim == len(logits_shape):
        if ignore_index is not None:
            raise OptionError(
                f"ignore_index={ignore_index} needs class indices: got targets of shape "
                f"{tuple(targets.shape)}. Hint: give such rows row_weight 0."
            )
        moved = move_last(xp, targets, axis, "targets")
        if tuple(moved.shape) != logits_shape:
            raise _shape_error(moved, logits_shape, classes)
        values = xp.reshape(moved, (rows, classes))
        tolerance = unit_sum_tolerance(epsilon(xp, targets), classes)
        read = Targets(values, True, tolerance, **options)
        return read, xp.ones_like(values[:, 0], dtype=xp.bool)
    if tuple(targets.shape) != rows_shape:
        raise _shape_error(targets, logits_shape, classes)
    if rows and not xp.isdtype(targets.dtype, "integral"):
        raise TargetError(
            f"class indices must be integers: got dtype {targets.dtype}. "
            f"Hint: convert them, or give distributions of shape {logits_shape}."
        )
    # Signed and wide, so that unsigned types can be compared with any number.
    wide = xp.int64 if "int64" in xp.__array_namespace_info__().dtypes() else xp.int32
    values = xp.reshape(xp.astype(targets, wide), (rows,))
    if xp.isdtype(targets.dtype, "unsigned integer"):
        # What is too large for the signed type wraps to a negative number: keep it too large.
        values = xp.where(values < 0, xp.iinfo(wide).max, values)
    kept = xp.ones_like(values, dtype=xp.bool)
    if ignore_index is not None:
        try:
            ignored = operator.index(ignore_index)
        except TypeError:
            raise OptionError(
                f"ignore_index must be an integer: got {ignore_index!r}. Hint: -100, say."
            ) from None
        if abs(ignored) <= xp.iinfo(wide).max:
            kept = values != ignored
    return Targets(values, False, 0.0, **options), kept


def _shape_error(targets: Array, logits_shape: tuple[int, ...], classes: int) -> ShapeError:
    return ShapeError(
        f"targets must be class indices of shape {logits_shape[:-1]} or distributions over "
        f"{classes} classes of shape {logits_shape} (classes last): got shape "
        f"{tuple(targets.shape)}. Hint: a column of indices of shape (n, 1) wants [:, 0]."
    )


def read_class_weight(
    xp: Any, weight: Array | None, classes: int, dtype: Any, *, raising: bool
) -> Array | None:
    """Check a weight for each class."""
    if weight is None:
        return None
    weight = read_weight(xp, weight, "class_weight", dtype, raising, "0 leaves a class out.")
    if tuple(weight.shape) != (classes,):
        raise ShapeError(
            f"class_weight must have a weight for each of {classes} classes: got shape "
            f"{tuple(weight.shape)}. Hint: ones leave a class as it is."
        )
    return weight


def read_entries(rows: Rows, part: slice, targets: Array, like: Array, *, raising: bool) -> Array:
    """Return yes-or-no targets of some entries, in [0, 1]; outside they raise or become NaN."""
    xp, kept = rows.xp, rows.kept[part]
    t = as_floats(xp, targets[part, ...], like.dtype, "targets")
    t = xp.where(kept, t, xp.zeros_like(t))
    bad = ~((t >= 0) & (t <= 1))
    if raising and (where := where_is(xp, bad)) is not None:
        raise TargetError(
            f"targets must lie in [0, 1]: got {float(t[where])!r} "
            f"{rows.where(part.start + where[0])}. Hint: labels −1 and 1 become (label + 1) / 2."
        )
    return xp.where(bad, xp.nan, t)
