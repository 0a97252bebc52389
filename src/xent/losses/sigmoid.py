"""Sigmoid cross-entropy: independent yes-or-no questions, from logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Unpack

from xent.arrays import Array, ArrayLike, as_arrays, quietly, where_is
from xent.errors import LogitError
from xent.losses import compute, definition
from xent.losses.problem import EntryOptions, EntryProblem, entry_problem, known

__all__ = [
    "sigmoid_cross_entropy",
    "sigmoid_cross_entropy_hessian_vector_product",
    "sigmoid_cross_entropy_value_and_grad",
    "sigmoid_problem",
]


def _inspect(xp: Any, z: Array, place: Callable[[int], str], raising: bool) -> Array:
    """Find entries that no sigmoid is defined for: infinite logits are certain answers."""
    impossible = xp.isnan(z)
    if raising and (where := where_is(xp, impossible)) is not None:
        raise LogitError(
            f"logits must be numbers or ±∞: got nan {place(where[0])}. "
            "Hint: look upstream for 0/0 or ∞ − ∞."
        )
    return impossible


def sigmoid_problem(logits: ArrayLike, targets: ArrayLike, **options: Any) -> EntryProblem:
    """Read and check the arguments of a loss over logits of yes-or-no questions."""
    known("sigmoid_cross_entropy", options, EntryOptions)
    return entry_problem("logits", logits, targets, _inspect, **options)


@quietly
def sigmoid_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    row_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
    normalizer: Any = "weight",
    check: bool | None = None,
) -> Array:
    r"""Return the binary cross-entropy between targets and the sigmoid of logits, in nats.

    .. math:: L = -\left[t \log \sigma(z) + (1-t) \log(1 - \sigma(z))\right]

    One loss for each entry: binary classification with one logit a row, or multi-label with one
    logit for each label.

    Parameters
    ----------
    logits
        Scores of any real dtype and shape; ±∞ are certain answers.
    targets
        0 or 1 (any real dtype, booleans too) or probabilities between, in the shape of `logits`.
    pos_weight
        Multiplies the positive term, ≥ 0, broadcast to `logits`. It is no part of the weight
        that a mean divides by (as in PyTorch and optax).
    row_weight
        Multiplies the loss of each entry, ≥ 0, broadcast to `logits`; 0 masks an entry, which is
        then not looked at.
    label_smoothing
        Moves targets towards 1/2: t becomes (1 − ε)·t + ε/2.
    reduction
        ``"mean"``, ``"sum"``, or ``"none"`` for the loss of each entry.
    normalizer
        What a mean divides by: ``"weight"``, the sum of row weights; ``"count"``, the number of
        entries that are not masked; or a number or array of the caller's.
    check
        Whether bad values raise (True) or make their entries NaN (False); by default they raise
        for eager arrays on the CPU.

    Returns
    -------
    Array
        A number, or the shape of `logits` under ``reduction="none"``; at least float32. +∞ for a
        certain and wrong answer. 0 where every entry is masked.

    Raises
    ------
    LogitError
        If a logit is NaN.
    TargetError
        If a target lies outside [0, 1].
    ShapeError, OptionError
        If shapes do not fit, or an option lies outside its domain.

    References
    ----------
    Cox, D. R. (1958). The regression analysis of binary sequences.
    doi:10.1111/j.2517-6161.1958.tb00292.x

    See Also
    --------
    softmax_cross_entropy : one choice among classes; for classes [0, z] it is the same number.
    binary_cross_entropy : from probabilities.

    Examples
    --------
    >>> print(sigmoid_cross_entropy([0.0, 2.0], [1, 0]))
    1.4100376
    """
    p = sigmoid_problem(
        logits,
        targets,
        pos_weight=pos_weight,
        row_weight=row_weight,
        label_smoothing=label_smoothing,
        reduction=reduction,
        normalizer=normalizer,
        check=check,
    )
    if (loss := compute.entry_loss(p)) is not None:
        return loss
    xp = p.rows.xp
    (losses,) = p.per_row(lambda _, z, yes, no: (definition.sigmoid_loss(xp, z, yes, no),))
    return p.reduced(losses)


@quietly
def sigmoid_cross_entropy_value_and_grad(
    logits: ArrayLike, targets: ArrayLike, **options: Unpack[EntryOptions]
) -> tuple[Array, Array]:
    r"""Return the sigmoid cross-entropy and its gradient, sigmoid − target, in one pass.

    .. math:: \frac{\partial L}{\partial z} = w\,(\sigma(z) - t)

    Parameters
    ----------
    logits, targets
        As for `sigmoid_cross_entropy`.
    **options
        The keyword arguments of `sigmoid_cross_entropy`, with the same defaults.

    Returns
    -------
    value, gradient
        The loss as `sigmoid_cross_entropy` returns it, and its derivative by the logits, in
        their shape.

    Raises
    ------
    LogitError, TargetError, ShapeError, OptionError
        As for `sigmoid_cross_entropy`.

    See Also
    --------
    sigmoid_cross_entropy_hessian_vector_product : the second derivative.

    Examples
    --------
    >>> value, gradient = sigmoid_cross_entropy_value_and_grad([0.0, 0.0], [1, 0])
    >>> print(value, gradient)
    0.6931471 [-0.25  0.25]
    """
    p = sigmoid_problem(logits, targets, **options)
    if (both := compute.entries_and_gradient(p)) is not None:
        return both
    xp = p.rows.xp
    losses, gradient = p.per_row(
        lambda _, z, yes, no: (
            definition.sigmoid_loss(xp, z, yes, no),
            definition.sigmoid_gradient(xp, z, yes, no),
        )
    )
    return p.reduced(losses), p.scaled(gradient)


@quietly
def sigmoid_cross_entropy_hessian_vector_product(
    logits: ArrayLike, targets: ArrayLike, vector: ArrayLike, **options: Unpack[EntryOptions]
) -> Array:
    r"""Return the product of the loss's (diagonal) Hessian by the logits with a vector.

    .. math:: H v = w\, \sigma(z)\,\sigma(-z)\, v

    Parameters
    ----------
    logits, targets
        As for `sigmoid_cross_entropy`.
    vector
        The vector v, in the shape of `logits`.
    **options
        The keyword arguments of `sigmoid_cross_entropy`, with the same defaults.

    Returns
    -------
    Array
        H·v in the shape of `logits`; at least float32.

    Raises
    ------
    LogitError, TargetError, ShapeError, OptionError
        As for `sigmoid_cross_entropy`; also if `vector` has another shape than `logits`.

    See Also
    --------
    sigmoid_cross_entropy_value_and_grad : the first derivative.

    Examples
    --------
    >>> print(sigmoid_cross_entropy_hessian_vector_product([0.0, 0.0], [1, 0], [2.0, 4.0]))
    [0.25 0.5 ]
    """
    _, (logits, targets, vector) = as_arrays(logits, targets, vector)
    p = sigmoid_problem(logits, targets, **options)
    xp, v = p.rows.xp, p.flat(vector)
    (curved,) = p.per_row(
        lambda part, z, yes, no: (definition.sigmoid_product(xp, z, yes, no, v[part]),)
    )
    return p.scaled(curved)
