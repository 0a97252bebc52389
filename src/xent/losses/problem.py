"""One call of a loss, validated: rows of values and targets, ready for the definition.

A `ClassProblem` has rows of one value for each class (logits, probabilities or
log-probabilities); an `EntryProblem` has entries that are each their own yes-or-no question.
Both hand out blocks of checked values, collect what is computed from them, and reduce it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypedDict, cast

from xent.arrays import (
    Array,
    ArrayLike,
    accumulation_dtype,
    as_arrays,
    as_floats,
    checking,
    move_axis,
    move_last,
    output_dtype,
)
from xent.errors import ShapeError
from xent.losses.rows import (
    Reduction,
    Rows,
    in_blocks,
    product_of,
    read_reduction,
    read_weight,
    require_number,
    row_weights,
)
from xent.losses.targets import Targets, read_class_weight, read_entries, read_targets

__all__ = [
    "ClassOptions",
    "ClassProblem",
    "EntryOptions",
    "EntryProblem",
    "Product",
    "class_problem",
    "entry_problem",
    "known",
    "product_problem",
    "require_classes",
]


class ClassOptions(TypedDict, total=False):
    """The keyword arguments that every loss over classes takes."""

    axis: int
    class_weight: ArrayLike | None
    row_weight: ArrayLike | None
    ignore_index: int | None
    reduction: Literal["mean", "sum", "none"]
    normalizer: Any
    check: bool | None


class EntryOptions(TypedDict, total=False):
    """The keyword arguments that every loss over single entries takes."""

    pos_weight: ArrayLike | None
    row_weight: ArrayLike | None
    label_smoothing: float
    reduction: Literal["mean", "sum", "none"]
    normalizer: Any
    check: bool | None


def known(function: str, options: Mapping[str, Any], kinds: Any) -> None:
    """Refuse a keyword that a function does not have, by the name the caller knows."""
    for name in options:
        if name not in kinds.__annotations__:
            raise TypeError(
                f"{function}() got an unexpected keyword argument {name!r}. "
                f"Hint: it takes {', '.join(sorted(kinds.__annotations__))}."
            )


Inspect = Callable[[Any, Array, Callable[[int], str], bool], Array]
"""``inspect(xp, values, place, raising)`` raises for bad values, or returns which rows are bad;
``place`` names a row of the block as the caller counts them."""


@dataclass(frozen=True)
class Product:
    """Rows of logits ``hidden·weightᵀ + bias`` that are made when they are asked for."""

    xp: Any
    hidden: Array  # (rows, features)
    weight: Array  # (features, classes)
    bias: Array | None
    workspace_bytes: int

    HELD: ClassVar[int] = 24
    """Float64 numbers that the definition holds for each logit, at most."""

    @property
    def shape(self) -> tuple[int, int]:
        """Return the shape of the logits."""
        return self.hidden.shape[0], self.weight.shape[1]

    @property
    def dtype(self) -> Any:
        """Return the dtype of the logits."""
        return self.hidden.dtype

    def __getitem__(self, place: tuple[slice, Any]) -> Array:
        logits = self.xp.matmul(self.hidden[place[0], ...], self.weight)
        return cast("Array", logits if self.bias is None else logits + self.bias)

    @property
    def rows_at_once(self) -> int:
        """Return how many rows the workspace holds."""
        return max(1, self.workspace_bytes // (8 * self.HELD * self.shape[1]))


@dataclass(frozen=True)
class _Problem:
    rows: Rows
    values: Any  # an array, or what makes some rows of one when they are asked for
    reduction: Reduction
    inspect: Inspect
    raising: bool
    wide: Any
    out: Any
    name: str

    def place(self, part: slice) -> Callable[[int], str]:
        return lambda row: self.rows.where(part.start + row)

    def _read(self, part: slice, kept: Array, idle: float) -> tuple[Array, Array]:
        xp = self.rows.xp
        values = as_floats(xp, self.values[part, ...], self.wide, self.name)
        values = xp.where(kept, values, idle)
        return values, self.inspect(xp, values, self.place(part), self.raising)

    def _poison(self, values: Array, bad: Array) -> Array:
        """Make bad rows NaN; multiplied, not selected, so that their derivative is NaN too."""
        if self.raising:
            return values
        return values * self.rows.xp.where(bad, self.rows.xp.nan, 1.0)

    def reduced(self, losses: Array, mass: Array | None = None) -> Array:
        """Reduce the losses of the rows; `mass` is what each row's target weighs."""
        return self.reduction.apply(
            self.rows, losses, self.reduction.divisor(self.rows, mass), self.out
        )


@dataclass(frozen=True)
class ClassProblem(_Problem):
    """Rows of values over classes (N, C), and their targets."""

    targets: Targets
    axis: int
    idle: float  # what the values of a row that is not kept are replaced by

    def block(self, part: slice) -> tuple[Array, Array]:
        """Return the values of some rows in the wide dtype and their target masses."""
        kept = self.rows.kept[part]
        values, bad = self._read(part, kept[:, None], self.idle)
        t, outside = self.targets.masses(self.rows, part, values, raising=self.raising)
        bad = bad if outside is None else bad | outside
        return self._poison(values, bad[:, None]), t

    def per_row(self, compute: Callable[..., tuple[Array, ...]]) -> tuple[Array, ...]:
        """Collect ``compute(part, values, masses)`` over all rows."""
        count, classes = self.values.shape
        step = self.values.rows_at_once if isinstance(self.values, Product) else None
        return in_blocks(
            self.rows.xp, count, classes, lambda part: compute(part, *self.block(part)), step
        )

    def scaled(self, by_row: Array, mass: Array) -> Array:
        """Turn derivatives of row losses into those of the reduced loss, as the values came."""
        xp = self.rows.xp
        scale = self.reduction.scale(self.rows, self.reduction.divisor(self.rows, mass))

        def scale_block(part: slice) -> tuple[Array, ...]:
            kept = self.rows.kept[part][:, None]
            scaled = xp.where(kept, by_row[part, ...] * scale[part][:, None], 0.0)
            return (xp.astype(scaled, self.out, copy=False),)

        count, classes = by_row.shape
        (scaled,) = in_blocks(xp, count, classes, scale_block)
        return self.shaped(scaled)

    def shaped(self, by_row: Array) -> Array:
        """Return rows (N, C) as the values came."""
        shape = self.rows.shape
        full = self.rows.xp.reshape(by_row, (*shape, by_row.shape[1]))
        return move_axis(self.rows.xp, full, -1, self.axis) if shape else full

    def inspect_targets(self) -> None:
        """Raise for targets that are out of range or no distributions, if values are looked at."""
        if not self.raising:
            return

        def inspect(part: slice) -> tuple[Array, ...]:
            t, _ = self.targets.checked(self.rows, part, self.values.shape[-1], self.wide, True)
            return (t[..., 0] if self.targets.soft else t,)

        width = self.values.shape[-1] if self.targets.soft else 1
        in_blocks(self.rows.xp, self.values.shape[0], width, inspect)

    def flat(self, vector: Array) -> Array:
        """Bring an array of the values' own shape to (N, C) in the wide dtype."""
        xp = self.rows.xp
        moved = move_last(xp, as_floats(xp, vector, self.wide, "vector"), self.axis, "vector")
        if tuple(moved.shape) != (*self.rows.shape, self.values.shape[-1]):
            raise _vector_error(vector, self.name)
        return xp.reshape(moved, tuple(self.values.shape))


def class_problem(
    name: str,
    values: ArrayLike,
    targets: ArrayLike,
    inspect: Inspect,
    *,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    row_weight: ArrayLike | None = None,
    normalizer: Any = "weight",
    check: bool | None = None,
    **options: Any,
) -> ClassProblem:
    """Read and check the arguments of a loss over classes."""
    xp, (values, targets, class_weight, row_weight, divisor) = as_arrays(
        values, targets, class_weight, row_weight, _array_or_none(normalizer)
    )
    last = move_last(xp, values, axis, name)
    shape, classes = tuple(last.shape[:-1]), last.shape[-1]
    require_classes(name, last, values, axis)
    return _class_problem(
        xp,
        name,
        xp.reshape(last, (product_of(shape), classes)),
        shape,
        targets,
        inspect,
        axis=axis,
        class_weight=class_weight,
        row_weight=row_weight,
        normalizer=normalizer if divisor is None else divisor,
        raising=checking(check, values, targets, class_weight, row_weight),
        wide=accumulation_dtype(xp, values),
        out=output_dtype(xp, values),
        **options,
    )


def product_problem(
    hidden: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    targets: ArrayLike,
    inspect: Inspect,
    *,
    workspace_bytes: int,
    class_weight: ArrayLike | None = None,
    row_weight: ArrayLike | None = None,
    normalizer: Any = "weight",
    check: bool | None = None,
    **options: Any,
) -> ClassProblem:
    """Read and check the arguments of a loss over logits ``hidden·weightᵀ + bias``."""
    xp, (hidden, weight, bias, targets, class_weight, row_weight, divisor) = as_arrays(
        hidden, weight, bias, targets, class_weight, row_weight, _array_or_none(normalizer)
    )
    if weight.ndim != 2 or hidden.ndim < 1 or hidden.shape[-1] != weight.shape[-1]:
        raise ShapeError(
            "hidden must be (…, features) and weight (classes, features): got shapes "
            f"{tuple(hidden.shape)} and {tuple(weight.shape)}. Hint: the weight of a linear layer "
            "has a row for each class."
        )
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise ShapeError(
            f"bias must have a number for each of {weight.shape[0]} classes: got shape "
            f"{tuple(bias.shape)}. Hint: −∞ masks a class."
        )
    require_classes("weight", xp.permute_dims(weight, (1, 0)), weight, 0)
    shape = tuple(hidden.shape[:-1])
    out = output_dtype(xp, hidden, weight, bias)
    wide = accumulation_dtype(xp, hidden, weight, bias)
    values = Product(
        xp,
        xp.reshape(as_floats(xp, hidden, out, "hidden"), (product_of(shape), hidden.shape[-1])),
        xp.permute_dims(as_floats(xp, weight, out, "weight"), (1, 0)),
        None if bias is None else as_floats(xp, bias, out, "bias"),
        workspace_bytes,
    )
    problem = _class_problem(
        xp,
        "logits",
        values,
        shape,
        targets,
        inspect,
        axis=-1,
        class_weight=class_weight,
        row_weight=row_weight,
        normalizer=normalizer if divisor is None else divisor,
        raising=checking(check, hidden, weight, bias, targets, class_weight, row_weight),
        wide=wide,
        out=out,
        **options,
    )
    # A row that is not kept has no part in any product, not even that of a derivative.
    kept = xp.where(problem.rows.kept[:, None], values.hidden, 0.0)
    return replace(problem, values=replace(values, hidden=xp.astype(kept, out, copy=False)))


def _class_problem(
    xp: Any,
    name: str,
    values: Any,
    shape: tuple[int, ...],
    targets: Array,
    inspect: Inspect,
    *,
    idle: Callable[[int], float],
    axis: int,
    class_weight: Array | None,
    row_weight: Array | None,
    normalizer: Any,
    raising: bool,
    wide: Any,
    out: Any,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> ClassProblem:
    """Put a problem together from rows of values, (N, classes)."""
    classes = values.shape[-1]
    read, kept = read_targets(
        xp,
        targets,
        (*shape, classes),
        axis,
        ignore_index,
        class_weight=read_class_weight(xp, class_weight, classes, wide, raising=raising),
        smoothing=require_number(
            "label_smoothing", label_smoothing, 0.0, 1.0, "it is a share of the target's mass."
        ),
    )
    return ClassProblem(
        rows=row_weights(xp, row_weight, kept, shape, wide, raising),
        values=values,
        reduction=read_reduction(xp, reduction, normalizer, wide, raising=raising),
        inspect=inspect,
        raising=raising,
        wide=wide,
        out=out,
        name=name,
        targets=read,
        axis=axis,
        idle=idle(classes),
    )


def require_classes(name: str, last: Array, values: Array, axis: int) -> None:
    """Refuse values without a class on the axis that was moved last."""
    if last.shape[-1] == 0:
        raise ShapeError(
            f"{name} must have at least one class: got shape {tuple(values.shape)} with axis "
            f"{axis}. Hint: axis= names the axis of the classes."
        )


@dataclass(frozen=True)
class EntryProblem(_Problem):
    """Entries (N,), each its own yes-or-no question, and their targets."""

    targets: Array
    pos_weight: Array | None
    smoothing: float

    def block(self, part: slice) -> tuple[Array, Array, Array]:
        """Return the values of some entries and their targets' masses on yes and on no."""
        kept = self.rows.kept[part]
        values, bad = self._read(part, kept, 0.0)
        t = read_entries(self.rows, part, self.targets, values, raising=self.raising)
        yes = t * (1.0 - self.smoothing) + self.smoothing / 2.0
        no = (1.0 - t) * (1.0 - self.smoothing) + self.smoothing / 2.0
        weighted = yes if self.pos_weight is None else yes * self.pos_weight[part]
        return self._poison(values, bad), weighted, no

    def inspect_targets(self) -> None:
        """Raise for targets outside [0, 1], if values are looked at."""

        def inspect(part: slice) -> tuple[Array, ...]:
            like = self.rows.weight[:0]
            return (read_entries(self.rows, part, self.targets, like, raising=self.raising),)

        in_blocks(self.rows.xp, self.values.shape[0], 1, inspect)

    def per_row(self, compute: Callable[..., tuple[Array, ...]]) -> tuple[Array, ...]:
        """Collect ``compute(part, values, yes, no)`` over all entries."""
        count = self.values.shape[0]
        return in_blocks(self.rows.xp, count, 1, lambda part: compute(part, *self.block(part)))

    def scaled(self, by_row: Array) -> Array:
        """Turn derivatives of entry losses into those of the reduced loss, as the values came."""
        xp = self.rows.xp
        scale = self.reduction.scale(self.rows, self.reduction.divisor(self.rows, None))
        scaled = xp.where(self.rows.kept, by_row * scale, xp.zeros_like(by_row))
        shaped = xp.reshape(scaled, self.rows.shape)
        return xp.astype(shaped, self.out, copy=False)

    def flat(self, vector: Array) -> Array:
        """Bring an array of the values' own shape to (N,) in the wide dtype."""
        if tuple(vector.shape) != self.rows.shape:
            raise _vector_error(vector, self.name)
        xp = self.rows.xp
        return xp.reshape(as_floats(xp, vector, self.wide, "vector"), (-1,))


def entry_problem(
    name: str,
    values: ArrayLike,
    targets: ArrayLike,
    inspect: Inspect,
    *,
    pos_weight: ArrayLike | None = None,
    row_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    normalizer: Any = "weight",
    check: bool | None = None,
) -> EntryProblem:
    """Read and check the arguments of a loss over entries."""
    xp, (values, targets, pos_weight, row_weight, divisor) = as_arrays(
        values, targets, pos_weight, row_weight, _array_or_none(normalizer)
    )
    raising = checking(check, values, targets, pos_weight, row_weight)
    wide = accumulation_dtype(xp, values)
    shape = tuple(values.shape)
    if tuple(targets.shape) != shape:
        raise ShapeError(
            f"targets must have the shape of {name}, {shape}: got shape {tuple(targets.shape)}. "
            "Hint: one yes-or-no target for each entry; for class indices use "
            "softmax_cross_entropy or categorical_cross_entropy."
        )
    flat = xp.reshape(values, (product_of(shape),))
    kept = xp.ones_like(flat, dtype=xp.bool)
    return EntryProblem(
        rows=row_weights(xp, row_weight, kept, shape, wide, raising),
        values=flat,
        reduction=read_reduction(
            xp, reduction, normalizer if divisor is None else divisor, wide, raising=raising
        ),
        inspect=inspect,
        raising=raising,
        wide=wide,
        out=output_dtype(xp, values),
        name=name,
        targets=xp.reshape(targets, (product_of(shape),)),
        pos_weight=_positive_weight(xp, pos_weight, shape, wide, raising),
        smoothing=require_number(
            "label_smoothing", label_smoothing, 0.0, 1.0, "targets move towards 1/2 by it."
        ),
    )


def _array_or_none(normalizer: Any) -> Any:
    """Return a normaliser that is an array, which must come to the library of the others."""
    if isinstance(normalizer, str | int | float):
        return None
    return normalizer if hasattr(normalizer, "dtype") else None


def _positive_weight(
    xp: Any, weight: Array | None, shape: tuple[int, ...], dtype: Any, raising: bool
) -> Array | None:
    if weight is None:
        return None
    weight = read_weight(xp, weight, "pos_weight", dtype, raising, "2 counts each positive twice.")
    try:
        weight = xp.broadcast_to(weight, shape)
    except (ValueError, RuntimeError, TypeError) as error:
        raise ShapeError(
            f"pos_weight must fit the logits, shape {shape}: got shape {tuple(weight.shape)}. "
            "Hint: one number, or one for each label on the last axis."
        ) from error
    return xp.reshape(weight, (-1,))


def _vector_error(vector: Array, name: str) -> ShapeError:
    return ShapeError(
        f"vector must have the shape of {name}: got shape {tuple(vector.shape)}. "
        "Hint: one number for each of them."
    )
