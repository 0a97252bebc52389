"""How the rows are fast: one file is one kernel, on a ground that several share.

A kernel computes what `xent.losses.definition` defines, on raw arrays. It knows rows, a logit
transform, a target and a weight for each row; it knows no reduction, unit, check or framework's
derivative. `cpu_rows` and `triton_rows` are how the rest of the library reaches them. Each offers
``refuses(rows) -> str | None``, why it cannot take these rows, in words, or None; and functions
that fill what is asked for of each row, losses and gradients.

This page holds the records that they share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

__all__ = ["EntryRows", "LinearRows", "SoftmaxRows"]


class _Record:
    """A record of arrays and numbers, which can be taken apart and put together."""

    ARRAYS: ClassVar[tuple[str, ...]]

    def arrays(self) -> tuple[Any, ...]:
        """Return the arrays, None for those that are not there."""
        return tuple(getattr(self, name) for name in self.ARRAYS)

    def with_arrays(self, arrays: tuple[Any, ...]) -> Self:
        """Return the record with other arrays in their places."""
        new = object.__new__(type(self))  # `dataclasses.replace` takes 20 times as long
        new.__dict__.update(self.__dict__, **dict(zip(self.ARRAYS, arrays, strict=True)))
        return new


@dataclass(frozen=True)
class SoftmaxRows(_Record):
    """Rows of logits over classes, as raw arrays, and their targets.

    A row is one place ``(i, j)`` of the outer and inner dimensions; its logits are
    ``logits[i, :, j]``. A plain matrix has one inner place; (N, C, d1, …) has many.

    Attributes
    ----------
    logits
        Scores in float32, float64, bfloat16 or float16, any strides.  (outer, classes, inner)
    targets
        Class indices, int64, (outer, inner); or masses in a float dtype, which need neither be
        positive nor sum to 1, (outer, classes, inner).
    class_weight
        Multiplies the target's mass on each class, or None.            (classes,)
    row_weight
        Multiplies a row's loss and gradient, or None for ones; a row of weight 0 is never looked
        at.                                                             (outer, inner)
    ignore_index
        A row with this index is never looked at, its loss and gradient are 0.
    smoothing
        The share of the mass that is spread evenly over the classes whose logit is not −∞.
    temperature, softcap, z_loss
        As `xent.losses.softmax_cross_entropy` says.
    """

    ARRAYS = ("logits", "targets", "class_weight", "row_weight")

    logits: Any
    targets: Any
    class_weight: Any = None
    row_weight: Any = None
    ignore_index: int | None = None
    smoothing: float = 0.0
    temperature: float = 1.0
    softcap: float | None = None
    z_loss: float = 0.0

    @property
    def soft(self) -> bool:
        """Tell whether the targets are masses."""
        return self.targets.ndim == 3

    @property
    def places(self) -> tuple[int, int]:
        """Return the shape of the rows, (outer, inner)."""
        outer, _, inner = self.logits.shape
        return outer, inner


@dataclass(frozen=True)
class EntryRows(_Record):
    """Logits that are each their own yes-or-no question, as raw arrays.

    Attributes
    ----------
    logits
        Scores in float32, float64, bfloat16 or float16.                (entries,)
    targets
        The chance of yes, in a float dtype; not confined to [0, 1].    (entries,)
    pos_weight
        Multiplies the term of yes, or None.                            (labels,)
        Entry i has label ``i % labels``.
    row_weight
        Multiplies an entry's loss and gradient, or None for ones; an entry of weight 0 is never
        looked at.                                                      (entries,)
    smoothing
        Moves targets towards 1/2.
    """

    ARRAYS = ("logits", "targets", "pos_weight", "row_weight")

    logits: Any
    targets: Any
    pos_weight: Any = None
    row_weight: Any = None
    smoothing: float = 0.0

    @property
    def places(self) -> tuple[int]:
        """Return the shape of the entries."""
        return (self.logits.shape[0],)


@dataclass(frozen=True)
class LinearRows(_Record):
    """Rows whose logits are the product ``hidden·weightᵀ + bias``, which is not held in memory.

    Attributes
    ----------
    hidden
        What the logits are made from, one row each, in a float dtype.      (rows, features)
    weight
        One row for each class, in a float dtype.                          (classes, features)
    bias
        Added to the logits, or None; −∞ masks a class.                    (classes,)
    targets
        Class indices, int64, (rows,); or masses in a float dtype, (rows, classes).
    class_weight, row_weight, ignore_index, smoothing, temperature, softcap, z_loss
        As for `SoftmaxRows`; the weights are (classes,) and (rows,).
    """

    ARRAYS = ("hidden", "weight", "bias", "targets", "class_weight", "row_weight")

    hidden: Any
    weight: Any
    bias: Any
    targets: Any
    class_weight: Any = None
    row_weight: Any = None
    ignore_index: int | None = None
    smoothing: float = 0.0
    temperature: float = 1.0
    softcap: float | None = None
    z_loss: float = 0.0

    @property
    def soft(self) -> bool:
        """Tell whether the targets are masses."""
        return self.targets.ndim == 2

    def of_logits(self, logits: Any, part: slice | Any = slice(None)) -> SoftmaxRows:
        """Return some of the rows with their logits, (rows, classes), as rows of a softmax."""
        targets = self.targets[part]
        return SoftmaxRows(
            logits[..., None],
            targets[..., None],
            self.class_weight,
            None if self.row_weight is None else self.row_weight[part][:, None],
            self.ignore_index,
            self.smoothing,
            self.temperature,
            self.softcap,
            self.z_loss,
        )
