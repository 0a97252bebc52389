"""Softmax cross-entropy: the public functions, from logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Unpack

from xent.arrays import Array, ArrayLike, as_arrays, move_last, quietly, where_is
from xent.errors import LogitError
from xent.losses import compute, definition
from xent.losses.definition import LogitTransform
from xent.losses.problem import (
    ClassOptions,
    ClassProblem,
    class_problem,
    known,
    require_classes,
)
from xent.losses.rows import require_number

__all__ = [
    "SoftmaxOptions",
    "SoftmaxProblem",
    "SoftmaxStatistics",
    "inspect_logits",
    "softmax_cross_entropy",
    "softmax_cross_entropy_hessian_vector_product",
    "softmax_cross_entropy_value_and_grad",
    "softmax_problem",
    "softmax_statistics",
    "with_transform",
]


class SoftmaxOptions(ClassOptions, total=False):
    """The keyword arguments of `softmax_cross_entropy`."""

    label_smoothing: float
    z_loss: float
    temperature: float
    softcap: float | None


def inspect_logits(xp: Any, z: Array, place: Callable[[int], str], raising: bool) -> Array:
    """Find rows that no softmax is defined for."""
    impossible = xp.isnan(z) | (z == xp.inf)
    masked = xp.all(z == -xp.inf, axis=-1)
    if raising and (where := where_is(xp, impossible)) is not None:
        raise LogitError(
            f"logits must be finite, or −∞ for a masked class: got {float(z[where])!r} "
            f"{place(where[0])}, class {where[1]}. "
            "Hint: look upstream for an overflow or a division by zero."
        )
    if raising and (where := where_is(xp, masked)) is not None:
        raise LogitError(
            f"logits must leave a class to choose: all are −∞ {place(where[0])}. "
            "Hint: give rows without an allowed class row_weight 0."
        )
    return xp.any(impossible, axis=-1) | masked


class SoftmaxProblem(NamedTuple):
    """A loss over logits: the rows, and what is done to their logits."""

    rows: ClassProblem
    transform: LogitTransform
    z_loss: float


def softmax_problem(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    z_loss: float = 0.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    **options: Any,
) -> SoftmaxProblem:
    """Read and check the arguments of a loss over logits."""
    known("softmax_cross_entropy", options, SoftmaxOptions)
    rows = class_problem("logits", logits, targets, inspect_logits, idle=lambda _: 0.0, **options)
    return with_transform(rows, z_loss, temperature, softcap)


def with_transform(
    rows: ClassProblem, z_loss: float, temperature: float, softcap: float | None
) -> SoftmaxProblem:
    """Check what is done to the logits of rows."""
    hint = "logits are divided by it; 1 leaves them."
    temperature = require_number("temperature", temperature, 2.0**-40, 2.0**40, hint)
    if softcap is not None:
        hint = "logits are kept within ±softcap; None leaves them."
        softcap = require_number("softcap", softcap, 2.0**-10, 2.0**10, hint)
    return SoftmaxProblem(
        rows,
        LogitTransform(temperature, softcap, carry=rows.wide == rows.out),
        require_number("z_loss", z_loss, 0.0, 2.0**40, "it weighs logsumexp²."),
    )


@quietly
def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    axis: int = -1,
    class_weight: ArrayLike | None = None,
    row_weight: ArrayLike | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
    normalizer: Any = "weight",
    check: bool | None = None,
) -> Array:
    r"""Return the cross-entropy between targets and the softmax of logits, in nats.

    .. math:: L = -\sum_j t_j \log \frac{e^{z_j}}{\sum_i e^{z_i}}

    For a class index y this is the negative log-likelihood −log softmax(z)_y.

    Parameters
    ----------
    logits
        Scores of any real dtype, classes along `axis`, any leading dimensions. −∞ masks a class.
    targets
        Class indices of any integer dtype, in the shape of `logits` without `axis`; or one-hot
        rows or soft distributions, in the shape of `logits`.
    axis
        Axis of the classes.
    class_weight
        Multiplies the target's mass on each class, shape (classes,), ≥ 0.
    row_weight
        Multiplies the loss of each row, ≥ 0, broadcast to the rows. A row of weight 0 is ignored:
        its logits and target are not looked at.
    ignore_index
        Rows with this target index are ignored.
    label_smoothing
        The share ε of the mass that is spread evenly over the classes that are not masked:
        t becomes (1 − ε)·t + ε/K. Class weights apply to the smoothed target.
    z_loss
        Adds ``z_loss·logsumexp²`` to each row, which keeps logits near normalised.
    temperature
        Logits are divided by it, after the softcap.
    softcap
        Logits become ``softcap·tanh(z/softcap)`` first; masked classes stay masked.
    reduction
        ``"mean"``, ``"sum"``, or ``"none"`` for the loss of each row.
    normalizer
        What a mean divides by: ``"weight"``, the sum over rows of row weight times the target's
        (class-weighted) mass; ``"count"``, the number of rows that are not ignored; or a number
        or array of the caller's, such as the number of tokens in a step.
    check
        Whether bad values raise (True) or make their rows NaN (False); by default they raise for
        eager arrays on the CPU.

    Returns
    -------
    Array
        A number, or the shape of the rows under ``reduction="none"``; at least float32. +∞ where
        a target has mass on a masked class. 0 where every row is ignored.

    Raises
    ------
    LogitError
        If a logit is NaN or +∞, or a row has no class that is not masked.
    TargetError, DistributionError
        If an index lies outside [0, classes), or a soft target is no distribution.
    ShapeError, OptionError
        If shapes do not fit, or an option lies outside its domain.

    References
    ----------
    Goodfellow, I., Bengio, Y. and Courville, A. (2016). Deep Learning, section 6.2.2.
    Szegedy, C. et al. (2016), section 7 (smoothing). arXiv:1512.00567

    See Also
    --------
    sigmoid_cross_entropy : independent yes-or-no questions instead of one choice.
    nll : the same from log-probabilities. categorical_cross_entropy : from probabilities.

    Examples
    --------
    >>> print(softmax_cross_entropy([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]], [0, 1]))
    0.167234
    >>> print(softmax_cross_entropy([[0.0, 50.0]], [1]))  # log(1 + e⁻⁵⁰): not rounded to 0
    1.9287498e-22
    """
    p, transform, z_loss = softmax_problem(
        logits,
        targets,
        axis=axis,
        class_weight=class_weight,
        row_weight=row_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        temperature=temperature,
        softcap=softcap,
        reduction=reduction,
        normalizer=normalizer,
        check=check,
    )
    xp = p.rows.xp
    if (loss := compute.softmax_loss(p, transform, z_loss)) is not None:
        return loss

    def loss_and_mass(part: slice, z: Array, t: Array) -> tuple[Array, ...]:
        s = definition.softmax(xp, z, transform, t)
        return definition.softmax_loss(xp, s, t, z_loss), s.mass(xp, t)

    return p.reduced(*p.per_row(loss_and_mass))


@quietly
def softmax_cross_entropy_value_and_grad(
    logits: ArrayLike, targets: ArrayLike, **options: Unpack[SoftmaxOptions]
) -> tuple[Array, Array]:
    r"""Return the softmax cross-entropy and its gradient, softmax − target, in one pass.

    .. math:: \frac{\partial L}{\partial z_j} = \frac{w}{T}\,(W p_j - t_j),
              \qquad p = \mathrm{softmax}(z/T)

    For arrays without automatic differentiation, such as NumPy's; the entry at a hard target is
    minus the others' mass, so a confident row keeps its gradient.

    Parameters
    ----------
    logits, targets
        As for `softmax_cross_entropy`.
    **options
        The keyword arguments of `softmax_cross_entropy`, with the same defaults.

    Returns
    -------
    value, gradient
        The loss as `softmax_cross_entropy` returns it, and its derivative by the logits, in
        their shape. Under ``reduction="none"`` each row's loss by its own logits.

    Raises
    ------
    LogitError, TargetError, DistributionError, ShapeError, OptionError
        As for `softmax_cross_entropy`.

    See Also
    --------
    softmax_cross_entropy_hessian_vector_product : the second derivative.

    Examples
    --------
    >>> value, gradient = softmax_cross_entropy_value_and_grad([[0.0, 0.0]], [0])
    >>> print(value, gradient)
    0.6931471 [[-0.5  0.5]]
    """
    p, transform, z_loss = softmax_problem(logits, targets, **options)
    xp = p.rows.xp
    if (both := compute.softmax_and_gradient(p, transform, z_loss)) is not None:
        return both

    def loss_mass_gradient(part: slice, z: Array, t: Array) -> tuple[Array, ...]:
        s = definition.softmax(xp, z, transform, t)
        gradient = definition.softmax_gradient(xp, s, z, t, transform, z_loss)
        loss = definition.softmax_loss(xp, s, t, z_loss)
        return loss, s.mass(xp, t), gradient

    losses, mass, gradient = p.per_row(loss_mass_gradient)
    return p.reduced(losses, mass), p.scaled(gradient, mass)


@quietly
def softmax_cross_entropy_hessian_vector_product(
    logits: ArrayLike, targets: ArrayLike, vector: ArrayLike, **options: Unpack[SoftmaxOptions]
) -> Array:
    r"""Return the product of the loss's Hessian by the logits with a vector.

    .. math:: H v = \frac{w W}{T^2}\,(\mathrm{diag}(p) - p p^{\mathsf T})\, v

    (with the further terms of softcap and z-loss where they are used). The Hessian is positive
    semi-definite without a softcap, so the loss is convex in the logits; it is never formed.

    Parameters
    ----------
    logits, targets
        As for `softmax_cross_entropy`.
    vector
        The vector v, in the shape of `logits`.
    **options
        The keyword arguments of `softmax_cross_entropy`, with the same defaults.

    Returns
    -------
    Array
        H·v in the shape of `logits`; at least float32.

    Raises
    ------
    LogitError, TargetError, DistributionError, ShapeError, OptionError
        As for `softmax_cross_entropy`; also if `vector` has another shape than `logits`.

    See Also
    --------
    softmax_cross_entropy_value_and_grad : the first derivative.

    Examples
    --------
    >>> print(softmax_cross_entropy_hessian_vector_product([[0.0, 0.0]], [0], [[1.0, 0.0]]))
    [[ 0.25 -0.25]]
    """
    _, (logits, targets, vector) = as_arrays(logits, targets, vector)
    p, transform, z_loss = softmax_problem(logits, targets, **options)
    xp, v = p.rows.xp, p.flat(vector)

    def product(part: slice, z: Array, t: Array) -> tuple[Array, ...]:
        s = definition.softmax(xp, z, transform, t)
        curved = definition.softmax_product(xp, s, z, t, v[part, ...], transform, z_loss)
        return curved, s.mass(xp, t)

    return p.scaled(*p.per_row(product))


class SoftmaxStatistics(NamedTuple):
    """What people compute from logits, one number for each row, in nats.

    Attributes
    ----------
    nll
        Negative log-likelihood of the target, for soft targets the cross-entropy (None without
        targets).
    log_probability
        Its negative.
    logsumexp
        log Σ exp of the (capped, tempered) logits.
    entropy
        Entropy of the softmax.
    argmax
        The likeliest class, the first of equals; −1 for a row that is NaN because it is bad.
    correct
        Whether that is the target, for soft targets its likeliest class (None without targets).
    """

    nll: Array | None
    log_probability: Array | None
    logsumexp: Array
    entropy: Array
    argmax: Array
    correct: Array | None


@quietly
def softmax_statistics(
    logits: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    softcap: float | None = None,
    check: bool | None = None,
) -> SoftmaxStatistics:
    """Return log-likelihood, log-sum-exp, entropy and the likeliest class of each row.

    One pass over the logits gives what is otherwise computed in five. Differentiable where the
    array library differentiates; the entropy's derivative at a masked class is 0.

    Parameters
    ----------
    logits
        As for `softmax_cross_entropy`.
    targets
        Class indices, one-hot rows or soft distributions; without them `nll`,
        `log_probability` and `correct` are None.
    axis, temperature, softcap, check
        As for `softmax_cross_entropy`.

    Returns
    -------
    SoftmaxStatistics
        A frozen record of arrays in the shape of the rows; floats are at least float32.

    Raises
    ------
    LogitError, TargetError, DistributionError, ShapeError, OptionError
        As for `softmax_cross_entropy`.

    See Also
    --------
    softmax_cross_entropy : the loss alone, with weights and reductions.

    Examples
    --------
    >>> s = softmax_statistics([[0.0, 0.0, 0.0, 0.0]], [2])
    >>> print(s.entropy, s.argmax, s.correct)
    [1.3862944] [0] [False]
    """
    asked = targets is not None
    if targets is None:
        xp, (logits,) = as_arrays(logits)
        last = move_last(xp, logits, axis, "logits")
        require_classes("logits", last, logits, axis)
        # Without targets any class will do: its log-likelihood is not returned.
        targets = xp.zeros_like(last[..., 0], dtype=xp.int32)
    p, transform, _ = softmax_problem(
        logits, targets, axis=axis, temperature=temperature, softcap=softcap, check=check
    )
    xp = p.rows.xp

    def statistics(part: slice, z: Array, t: Array) -> tuple[Array, ...]:
        s = definition.softmax(xp, z, transform, t)
        lse = (s.shift + s.log_sum)[:, 0]
        nll = definition.softmax_loss(xp, s, t)
        # A bad row is NaN throughout: it has no likeliest class and is not right.
        bad = xp.isnan(lse)
        likeliest = xp.where(bad, -1, xp.argmax(z, axis=-1))
        correct = ~bad & (likeliest == xp.argmax(t, axis=-1))
        return nll, lse, definition.softmax_entropy(xp, s), likeliest, correct

    nll, lse, entropy, likeliest, correct = (
        xp.reshape(column, p.rows.shape) for column in p.per_row(statistics)
    )
    nll, lse, entropy = (xp.astype(a, p.out, copy=False) for a in (nll, lse, entropy))
    if not asked:
        return SoftmaxStatistics(None, None, lse, entropy, likeliest, None)
    return SoftmaxStatistics(nll, 0.0 - nll, lse, entropy, likeliest, correct)
