"""Losses from probabilities and log-probabilities, for those who have only them.

Nothing is clipped: a probability of 0 for what happened is a loss of +∞.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, Unpack

from xent.arrays import (
    Array,
    ArrayLike,
    as_arrays,
    constant,
    epsilon,
    quietly,
    unit_sum_tolerance,
    where_is,
)
from xent.errors import DistributionError, OptionError
from xent.information import at_most_one, require_distribution
from xent.losses import definition
from xent.losses.problem import (
    ClassOptions,
    EntryOptions,
    class_problem,
    entry_problem,
    known,
)
from xent.losses.sigmoid import sigmoid_problem
from xent.losses.softmax import softmax_problem

__all__ = [
    "binary_cross_entropy",
    "categorical_cross_entropy",
    "nll",
    "squared_error",
    "squared_error_value_and_grad",
]


def _inspector(name: str, values: ArrayLike, *, logarithms: bool = False) -> Any:
    """Return the check that rows of (log-)probabilities are distributions."""
    xp, (array,) = as_arrays(values)
    spacing = epsilon(xp, array)
    divide = "divide each row by its sum, or use softmax_cross_entropy if these are logits."
    subtract = "subtract each row's logsumexp, or use softmax_cross_entropy if these are logits."

    def inspect(xp: Any, rows: Array, place: Callable[[int], str], raising: bool) -> Array:
        p = constant(xp.exp(rows) if logarithms else rows)
        tolerance = unit_sum_tolerance(spacing, p.shape[-1])
        if logarithms:
            # A logarithm of size |ℓ| is rounded by |ℓ|·ε, and so is its exponential.
            tolerance *= 1.0 + math.log(p.shape[-1])
        checked = require_distribution(
            xp,
            p,
            name=f"exp({name})" if logarithms else name,
            tolerance=tolerance,
            raising=raising,
            hint=subtract if logarithms else divide,
            value_hint=subtract if logarithms else divide,
            place=lambda where: place(where[0]),
        )
        return xp.any(xp.isnan(checked), axis=-1)

    return inspect


def _inspect_entries(xp: Any, p: Array, place: Callable[[int], str], raising: bool) -> Array:
    """Find entries that are no probabilities."""
    bad = ~((p >= 0) & (p <= 1.0 + unit_sum_tolerance(0.0, 1)))
    if raising and (where := where_is(xp, bad)) is not None:
        raise DistributionError(
            f"probabilities must lie in [0, 1]: got {float(p[where])!r} {place(where[0])}. "
            "Hint: logits go through sigmoid_cross_entropy."
        )
    return bad


@quietly
def categorical_cross_entropy(
    probabilities: ArrayLike, targets: ArrayLike, **options: Unpack[ClassOptions]
) -> Array:
    r"""Return the cross-entropy :math:`-\sum_j t_j \log a_j` of predicted probabilities, in nats.

    Parameters
    ----------
    probabilities
        Predicted distributions a along `axis`, each summing to 1 within rounding.
    targets
        Class indices, one-hot rows or soft distributions, as for `softmax_cross_entropy`.
    **options
        ``axis``, ``class_weight``, ``row_weight``, ``ignore_index``, ``reduction``,
        ``normalizer`` and ``check``, as for `softmax_cross_entropy`.

    Returns
    -------
    Array
        A number, or the shape of the rows under ``reduction="none"``; at least float32. +∞ where
        the target has mass and the prediction none: nothing is clipped.

    Raises
    ------
    DistributionError
        If a row of probabilities or of soft targets is no distribution.
    TargetError, ShapeError, OptionError
        As for `softmax_cross_entropy`.

    References
    ----------
    Good, I. J. (1952). Rational decisions. doi:10.1111/j.2517-6161.1952.tb00104.x

    See Also
    --------
    softmax_cross_entropy : from logits, which keeps digits that probabilities have lost.
    log_loss : the same score with labels of any kind, for whole data sets.

    Examples
    --------
    >>> predicted = [[0.2, 0.5, 0.3], [0.2, 0.2, 0.6]]
    >>> print(categorical_cross_entropy(predicted, [2, 2], reduction="none"))
    [1.2039728 0.5108256]
    """
    inspect = _inspector("probabilities", probabilities)
    known("categorical_cross_entropy", options, ClassOptions)
    p = class_problem("probabilities", probabilities, targets, inspect, idle=_uniform, **options)
    xp = p.rows.xp
    return p.reduced(
        *p.per_row(
            lambda _, a, t: _surprise(xp, t, definition.log_of_mass(xp, t, at_most_one(xp, a)))
        )
    )


def _uniform(classes: int) -> float:
    return 1.0 / classes


def _surprise(xp: Any, t: Array, logs: Array) -> tuple[Array, Array]:
    """Return −Σ t·log a of each row, and the target's mass."""
    terms = definition.surprise(xp, t, logs)
    return definition.sum_over(xp, terms)[:, 0], definition.sum_over(xp, t)[:, 0]


@quietly
def nll(log_probabilities: ArrayLike, targets: ArrayLike, **options: Unpack[ClassOptions]) -> Array:
    r"""Return the negative log-likelihood :math:`-\sum_j t_j \ell_j` of log-probabilities, in nats.

    Parameters
    ----------
    log_probabilities
        Logarithms ℓ of predicted distributions along `axis`: their exponentials sum to 1 within
        rounding. −∞ is a probability of 0.
    targets
        Class indices, one-hot rows or soft distributions, as for `softmax_cross_entropy`.
    **options
        ``axis``, ``class_weight``, ``row_weight``, ``ignore_index``, ``reduction``,
        ``normalizer`` and ``check``, as for `softmax_cross_entropy`.

    Returns
    -------
    Array
        A number, or the shape of the rows under ``reduction="none"``; at least float32.

    Raises
    ------
    DistributionError
        If the exponentials of a row do not sum to 1.
    TargetError, ShapeError, OptionError
        As for `softmax_cross_entropy`.

    References
    ----------
    Goodfellow, I., Bengio, Y. and Courville, A. (2016). Deep Learning, section 5.5.

    See Also
    --------
    softmax_cross_entropy : from logits. categorical_cross_entropy : from probabilities.

    Examples
    --------
    >>> print(nll([[-0.6931472, -0.6931472]], [1]))
    0.6931472
    """
    known("nll", options, ClassOptions)
    name = "log_probabilities"
    inspect = _inspector(name, log_probabilities, logarithms=True)
    p = class_problem(
        name,
        log_probabilities,
        targets,
        inspect,
        idle=lambda classes: -math.log(classes),
        **options,
    )
    xp = p.rows.xp

    def surprise(_: slice, logs: Array, t: Array) -> tuple[Array, ...]:
        # Above 0 lies only what rounding put there.
        return _surprise(xp, t, logs - constant(xp.where(logs > 0, logs, 0.0)))

    return p.reduced(*p.per_row(surprise))


@quietly
def binary_cross_entropy(
    probabilities: ArrayLike, targets: ArrayLike, **options: Unpack[EntryOptions]
) -> Array:
    r"""Return :math:`-[t \log a + (1-t) \log(1-a)]` of probabilities a of yes, in nats.

    One loss for each entry; log(1 − a) is computed as log1p(−a).

    Parameters
    ----------
    probabilities
        Probabilities of yes in [0, 1], any shape.
    targets
        0 or 1 (any real dtype, booleans too) or probabilities, in the shape of `probabilities`.
    **options
        ``pos_weight``, ``row_weight``, ``label_smoothing``, ``reduction``, ``normalizer`` and
        ``check``, as for `sigmoid_cross_entropy`.

    Returns
    -------
    Array
        A number, or the shape of `probabilities` under ``reduction="none"``; at least float32.
        +∞ for a certain and wrong answer: nothing is clipped.

    Raises
    ------
    DistributionError
        If a probability lies outside [0, 1].
    TargetError, ShapeError, OptionError
        As for `sigmoid_cross_entropy`.

    References
    ----------
    Good, I. J. (1952). Rational decisions. doi:10.1111/j.2517-6161.1952.tb00104.x

    See Also
    --------
    sigmoid_cross_entropy : from logits, which keeps digits that probabilities near 1 have lost.

    Examples
    --------
    >>> print(binary_cross_entropy([0.6, 0.7], [1, 1], reduction="none"))
    [0.51082562 0.35667494]
    """
    known("binary_cross_entropy", options, EntryOptions)
    p = entry_problem("probabilities", probabilities, targets, _inspect_entries, **options)
    xp = p.rows.xp

    def loss(_: slice, a: Array, yes: Array, no: Array) -> tuple[Array, ...]:
        a = at_most_one(xp, a)
        # XLA's log1p is 128 ulp off near −0.4; log(1 − a) is as good as exact there.
        small = a < 0.25
        log_no = xp.where(
            small,
            xp.log1p(-xp.where(small, a, 0.0)),
            definition.log_of_mass(xp, no, 1.0 - xp.where(small, 0.0, a)),
        )
        log_yes = definition.log_of_mass(xp, yes, a)
        return (definition.surprise(xp, yes, log_yes) + definition.surprise(xp, no, log_no),)

    return p.reduced(*p.per_row(loss))


@quietly
def squared_error(
    probabilities: ArrayLike,
    targets: ArrayLike,
    *,
    axis: int | None = -1,
    row_weight: ArrayLike | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
    normalizer: Any = "weight",
    check: bool | None = None,
) -> Array:
    r"""Return the squared error :math:`\sum_j (a_j - t_j)^2` of probabilities: Brier's score.

    The comparison to cross-entropy: bounded by 2, so it forgives a confident error, and its
    gradient through a softmax vanishes there.

    Parameters
    ----------
    probabilities
        Predicted distributions a along `axis`; under ``axis=None`` each entry is the probability
        of its own yes-or-no event and the error is (a − t)².
    targets
        Class indices, one-hot rows or soft distributions; under ``axis=None`` numbers in [0, 1]
        in the shape of `probabilities`.
    axis, row_weight, reduction, normalizer, check
        As for `softmax_cross_entropy`.

    Returns
    -------
    Array
        A number, or the shape of the rows under ``reduction="none"``; at least float32; no unit.

    Raises
    ------
    DistributionError, TargetError, ShapeError, OptionError
        As for `categorical_cross_entropy`.

    References
    ----------
    Brier, G. W. (1950). Verification of forecasts expressed in terms of probability.
    Monthly Weather Review 78 (1).

    See Also
    --------
    categorical_cross_entropy : unbounded, which is what makes it a code length.

    Examples
    --------
    >>> print(squared_error([0.8, 0.1, 0.1], 0))
    0.06
    """
    options: Any = {
        "row_weight": row_weight,
        "reduction": reduction,
        "normalizer": normalizer,
        "check": check,
    }
    if axis is None:
        e = entry_problem("probabilities", probabilities, targets, _inspect_entries, **options)
        return e.reduced(*e.per_row(lambda _, a, yes, no: ((a - yes) ** 2,)))
    inspect = _inspector("probabilities", probabilities)
    p = class_problem(
        "probabilities", probabilities, targets, inspect, idle=_uniform, axis=axis, **options
    )
    xp = p.rows.xp

    def error_and_mass(_: slice, a: Array, t: Array) -> tuple[Array, ...]:
        gap = a - t
        return definition.sum_over(xp, gap * gap)[:, 0], definition.sum_over(xp, t)[:, 0]

    return p.reduced(*p.per_row(error_and_mass))


@quietly
def squared_error_value_and_grad(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    link: Literal["softmax", "sigmoid"] = "softmax",
    axis: int = -1,
    row_weight: ArrayLike | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
    normalizer: Any = "weight",
    check: bool | None = None,
) -> tuple[Array, Array]:
    r"""Return the squared error of softmax or sigmoid probabilities and its gradient by the logits.

    .. math:: \frac{\partial}{\partial z_i} \sum_j (p_j - t_j)^2
              = 2 p_i \Big[(p_i - t_i) - \sum_j p_j (p_j - t_j)\Big]
              \qquad\text{or}\qquad 2(\sigma - t)\,\sigma(1 - \sigma)

    Unlike softmax − target it vanishes where p is near 0 or 1, also for a wrong prediction.

    Parameters
    ----------
    logits
        Finite scores; classes along `axis` under ``link="softmax"``.
    targets
        As for `softmax_cross_entropy`, or for `sigmoid_cross_entropy` under ``link="sigmoid"``.
    link
        ``"softmax"`` or ``"sigmoid"``: how scores become probabilities.
    axis, row_weight, reduction, normalizer, check
        As for `softmax_cross_entropy`.

    Returns
    -------
    value, gradient
        The error, and its derivative in the shape of `logits`; at least float32.

    Raises
    ------
    LogitError, DistributionError, TargetError, ShapeError, OptionError
        As for `softmax_cross_entropy`.

    See Also
    --------
    softmax_cross_entropy_value_and_grad : the gradient that does not vanish.

    Examples
    --------
    >>> value, gradient = squared_error_value_and_grad([0.0], [1], link="sigmoid")
    >>> print(value, gradient)
    0.25 [-0.25]
    """
    if link not in ("softmax", "sigmoid"):
        raise OptionError(
            f"link must be 'softmax' or 'sigmoid': got {link!r}. Hint: softmax for one choice "
            "among classes, sigmoid for yes-or-no questions."
        )
    options: Any = {
        "row_weight": row_weight,
        "reduction": reduction,
        "normalizer": normalizer,
        "check": check,
    }
    if link == "sigmoid":
        if axis != -1:
            raise OptionError(
                f"axis={axis} has no meaning under link='sigmoid', where each entry stands alone. "
                "Hint: leave it out."
            )
        e = sigmoid_problem(logits, targets, **options)
        xp = e.rows.xp
        losses, gradient = e.per_row(
            lambda _, z, yes, no: (
                (gap := definition.squared_error_residual(xp, z, yes, link)) ** 2,
                definition.squared_error_gradient(xp, z, gap, link),
            )
        )
        return e.reduced(losses), e.scaled(gradient)
    p, _, _ = softmax_problem(logits, targets, axis=axis, **options)
    xp = p.rows.xp

    def error_mass_gradient(_: slice, z: Array, t: Array) -> tuple[Array, ...]:
        gap = definition.squared_error_residual(xp, z, t, link)
        gradient = definition.squared_error_gradient(xp, z, gap, link)
        return definition.sum_over(xp, gap * gap)[:, 0], definition.sum_over(xp, t)[:, 0], gradient

    losses, mass, gradient = p.per_row(error_mass_gradient)
    return p.reduced(losses, mass), p.scaled(gradient, mass)
