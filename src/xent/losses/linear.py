"""Softmax cross-entropy of logits that are a product, on any array library, in blocks of rows."""

from __future__ import annotations

from typing import Any, Literal

from xent.arrays import Array, ArrayLike, quietly
from xent.losses import definition
from xent.losses.problem import product_problem
from xent.losses.rows import require_number
from xent.losses.softmax import inspect_logits, with_transform

__all__ = ["linear_softmax_cross_entropy"]


@quietly
def linear_softmax_cross_entropy(
    hidden: ArrayLike,
    weight: ArrayLike,
    targets: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    class_weight: ArrayLike | None = None,
    row_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
    normalizer: Any = "weight",
    workspace_bytes: int = 256 * 2**20,
    check: bool | None = None,
) -> Array:
    r"""Return the cross-entropy between targets and the softmax of W·h + b, in nats.

    .. math:: L = -\sum_j t_j \log \frac{e^{z_j}}{\sum_i e^{z_i}}, \qquad z = W h + b

    The logits are made a block of rows at a time, so that those of all rows are never held. Where
    a library differentiates this, what it keeps for that is its own affair: on torch tensors
    `xent.torch.linear_cross_entropy` keeps nothing of the size of the logits, and is fast.

    Parameters
    ----------
    hidden
        Rows h of any real dtype, any leading dimensions.        (…, features)
    weight
        The weight W of a linear layer.                          (classes, features)
    targets
        Class indices of any integer dtype, (…); or one-hot rows or soft distributions,
        (…, classes).
    bias
        Added to the logits; −∞ masks a class.                   (classes,)
    class_weight, row_weight, ignore_index, label_smoothing, z_loss, temperature, softcap, \
reduction, normalizer, check
        As for `softmax_cross_entropy`. The hidden state of a row that is ignored does not matter.
    workspace_bytes
        What the numbers of a block may take; one row is computed whatever it says.

    Returns
    -------
    Array
        A number, or the shape of the rows under ``reduction="none"``; at least float32. The
        products are added up in that dtype, losses more widely.

    Raises
    ------
    LogitError, TargetError, DistributionError, ShapeError, OptionError
        As for `softmax_cross_entropy`; also if `hidden`, `weight` and `bias` do not fit.

    See Also
    --------
    softmax_cross_entropy : the same from logits.

    Examples
    --------
    >>> print(linear_softmax_cross_entropy([[1.0, 0.0]], [[2.0, 0.0], [0.0, 3.0], [0.0, 0.0]], [0]))
    0.239544
    """
    hint = "bytes that a block of rows may take."
    rows = product_problem(
        hidden,
        weight,
        bias,
        targets,
        inspect_logits,
        idle=lambda _: 0.0,
        workspace_bytes=int(require_number("workspace_bytes", workspace_bytes, 1.0, 2.0**60, hint)),
        class_weight=class_weight,
        row_weight=row_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
        normalizer=normalizer,
        check=check,
    )
    p, transform, z_loss = with_transform(rows, z_loss, temperature, softcap)
    xp = p.rows.xp

    def loss_and_mass(part: slice, z: Array, t: Array) -> tuple[Array, ...]:
        s = definition.softmax(xp, z, transform, t)
        return definition.softmax_loss(xp, s, t, z_loss), s.mass(xp, t)

    return p.reduced(*p.per_row(loss_and_mass))
