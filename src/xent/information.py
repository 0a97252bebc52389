"""Measures of distributions: surprisal, entropy, cross-entropy, divergences, information.

Every function takes arrays of any library (or lists), works along one axis of any number of
batched distributions, and is differentiable where the array library differentiates. The rules:

* 0·log 0 = 0. Where P has mass and Q has none, the answer is +∞, and `unsupported` names why.
* A distribution is finite, not negative, and sums to 1 (see `xent.arrays.unit_sum_tolerance`);
  ``normalize=True`` divides by the sum instead. Values that break this raise, or give NaN where
  they cannot be looked at (inside ``jit`` or ``vmap``, on an accelerator).
* Sums are computed in float64, or in pairs of float32 where there is none, and rounded once.

The derivative of an entropy at p = 0 is +∞, as the mathematics has it; for the entropy of a
softmax over masked classes use `xent.softmax_statistics`, whose derivative there is 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from xent.arrays import (
    Array,
    ArrayLike,
    accumulation_dtype,
    as_arrays,
    as_floats,
    checking,
    constant,
    epsilon,
    move_axis,
    move_last,
    output_dtype,
    quietly,
    sum_accurately,
    sum_pair,
    unit_sum_tolerance,
    where_is,
)
from xent.errors import DistributionError, ShapeError
from xent.units import from_nats, surprisal_in

__all__ = [
    "Unsupported",
    "conditional_entropy",
    "cross_entropy",
    "entropy",
    "js_divergence",
    "kl_divergence",
    "mutual_information",
    "perplexity",
    "surprisal",
    "unsupported",
]

_LOG_2 = math.log(2.0)
_VALUE_HINT = "logits go through softmax_cross_entropy, log-probabilities through nll."

# ---- from the caller's arrays to checked distributions -----------------------------------------


def _place(where: tuple[int, ...]) -> str:
    return f"in row {where[0] if len(where) == 1 else where}" if where else "over all symbols"


def require_distribution(
    xp: Any,
    p: Array,
    *,
    name: str,
    tolerance: float,
    raising: bool,
    hint: str,
    value_hint: str = _VALUE_HINT,
    place: Callable[[tuple[int, ...]], str] = _place,
) -> Array:
    """Return `p` (distributions on the last axis), refused or made NaN where it is none.

    A probability above 1, within the tolerance, counts as 1. `hint` is for a sum that is off and
    `value_hint` for an impossible value; `place` puts the index of a distribution into words.
    """
    if p.shape[-1] == 0:
        raise ShapeError(
            f"{name} must have at least one symbol: got shape {tuple(p.shape)}. "
            "Hint: the entropy of nothing is not defined; drop empty groups first."
        )
    total = sum_accurately(xp, constant(p))
    off = ~(xp.abs(total - 1.0) <= tolerance)
    if not raising:
        impossible = ~((p >= 0) & xp.isfinite(p))
        bad = (xp.any(impossible, axis=-1) | off)[..., None]
        return at_most_one(xp, xp.where(bad, xp.asarray(xp.nan, dtype=p.dtype), p))
    _require_probabilities(xp, p, name, place, "probabilities", value_hint)
    if (where := where_is(xp, off)) is not None:
        raise DistributionError(
            f"{name} must sum to 1 within {tolerance:.2g}: got {float(total[where])!r} "
            f"{place(where)}. Hint: {hint}"
        )
    return at_most_one(xp, p)


def at_most_one(xp: Any, p: Array) -> Array:
    """Return probabilities with 1 for what rounding put above it, so that no surprise is < 0."""
    return p - constant(xp.where(p > 1, p - 1.0, 0.0))


def _normalized(xp: Any, p: Array, name: str, raising: bool) -> Array:
    """Return weights divided by their sum, or say what keeps them from being divided."""
    total = sum_accurately(xp, p)
    if raising:
        _require_probabilities(
            xp, p, name, _place, "weights", "counts and weights have no sign; look upstream."
        )
        if (where := where_is(xp, ~((total > 0) & xp.isfinite(total)))) is not None:
            raise DistributionError(
                f"{name} must have a positive, finite sum to be normalised: got "
                f"{float(total[where])!r} {_place(where)}. Hint: drop empty groups, and scale "
                "what overflows."
            )
    possible = (p >= 0) & xp.isfinite(p)
    return xp.where(possible, p, xp.nan) / total[..., None]


def _require_probabilities(
    xp: Any,
    p: Array,
    name: str,
    place: Callable[[tuple[int, ...]], str],
    what: str,
    hint: str,
) -> None:
    impossible = ~((p >= 0) & xp.isfinite(p))
    if (where := where_is(xp, impossible)) is not None:
        raise DistributionError(
            f"{name} must hold {what}, finite and not negative: got {float(p[where])!r} "
            f"for symbol {where[-1]} {place(where[:-1])}. Hint: {hint}"
        )


class _Distributions(NamedTuple):
    xp: Any
    arrays: list[Array]  # distributions on the last axis, in the accumulation dtype
    out: Any  # dtype of the result


def _distributions(
    named: dict[str, ArrayLike], axis: int, normalize: bool, check: bool | None
) -> _Distributions:
    xp, given = as_arrays(*named.values())
    names = list(named)
    raising = checking(check, *given)
    wide = accumulation_dtype(xp, *given)
    ready = []
    for name, array in zip(names, given, strict=True):
        p = move_last(xp, as_floats(xp, array, wide, name), axis, name)
        tolerance = unit_sum_tolerance(epsilon(xp, array), p.shape[-1])
        if normalize and p.shape[-1] > 0:
            p = _normalized(xp, p, name, raising)
        ready.append(
            require_distribution(
                xp,
                p,
                name=name,
                tolerance=tolerance,
                raising=raising,
                hint="pass normalize=True to divide by the sum.",
            )
        )
    if len(ready) == 2:
        a, b = (tuple(p.shape) for p in ready)
        if a[-1] != b[-1] or not _broadcastable(a, b):
            raise ShapeError(
                f"{names[0]} and {names[1]} must have the same symbols: got shapes {a} and {b}. "
                "Hint: give a symbol that one of them lacks a probability of 0 there."
            )
        ready = list(xp.broadcast_arrays(*ready))
    return _Distributions(xp, ready, output_dtype(xp, *given))


def _broadcastable(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(a[::-1], b[::-1], strict=False))


def _result(xp: Any, nats: Array, unit: str, dtype: Any) -> Array:
    return xp.astype(from_nats(nats, unit), dtype, copy=False)


# ---- one term of each sum -------------------------------------------------------------------


def _inaccuracy(xp: Any, p: Array, q: Array) -> Array:
    """Return p·(−log q), with 0·(−log 0) = 0 and the slope +∞ in p that it has there."""
    nothing = (p == 0) & (q == 0)
    one = xp.ones_like(p)
    # √p is 0 at 0 and has the slope +∞, like −p·log p.
    at_zero = xp.sqrt(xp.where(nothing, p, one))
    return xp.where(nothing, at_zero, p * -xp.log(xp.where(nothing, one, q)))


def _log_ratio(xp: Any, p: Array, q: Array) -> Array:
    """Return log(p/q) for p > 0, also where the quotient overflows."""
    one = xp.ones_like(p)
    quotient = p / xp.where(q == 0, one, q)
    plain = xp.isfinite(quotient) & (quotient > 0)
    apart = xp.log(xp.where(plain, one, p)) - xp.log(xp.where(plain, one, q))
    near = xp.log(xp.where(plain, quotient, one))
    return xp.where(q == 0, xp.asarray(xp.inf, dtype=p.dtype), near + apart)


def _divergence_term(xp: Any, p: Array, q: Array) -> Array:
    """Return p·log(p/q) − p + q, which is never negative and keeps its digits for p ≈ q.

    With v = (q − p)/(q + p) it is p·(u·v − 2·(artanh v − v)) for u = (q − p)/p: the series is
    used for |v| ≤ 1/5, where the plain formula would cancel.
    """
    zero, one = xp.zeros_like(p), xp.ones_like(p)
    close = xp.abs(q - p) <= 0.2 * (q + p)
    close = close & (p > 0)
    p_, q_ = xp.where(close, p, one), xp.where(close, q, one)
    v = (q_ - p_) / (q_ + p_)
    v2 = v * v
    tail = functools.reduce(lambda series, k: series * v2 + 1.0 / k, range(27, 1, -2), zero)
    near = (q_ - p_) * v - 2.0 * p_ * v * v2 * tail
    inside = ~close & (p > 0)
    p_, q_ = xp.where(inside, p, one), xp.where(inside, q, one)
    far = p_ * _log_ratio(xp, p_, q_) + (q_ - p_)
    # At p = 0 the term is q, and its slope in p is −∞ like that of p·log p.
    at_zero = q - xp.sqrt(xp.where(p == 0, p, one))
    return xp.where(close, near, xp.where(inside, far, at_zero))


def _divergence(xp: Any, p: Array, q: Array) -> Array:
    total = sum_accurately(xp, _divergence_term(xp, p, q))
    # Σ(p − q) is 0 for exact distributions; for rounded ones it is part of Σ p·log(p/q).
    total = total + sum_accurately(xp, xp.concat([p, -q], axis=-1))
    return _at_least_zero(xp, total)


def _at_least_zero(xp: Any, divergence: Array) -> Array:
    """Apply Gibbs' inequality: below 0 lie only rounded inputs that do not sum to 1 exactly."""
    below = xp.where(divergence < 0, divergence, xp.zeros_like(divergence))
    return divergence - constant(below)


def _js_term(xp: Any, p: Array, q: Array) -> Array:
    """Return (p·log(p/m) + q·log(q/m))/2 with m = (p + q)/2, never negative.

    With u = (p − q)/(p + q) it is m/2·(2u·artanh u + log(1 − u²)) = m/2·Σ_k u²ᵏ/(k·(2k − 1)). The
    series keeps its digits for p ≈ q and is used for |u| ≤ 1/2. (XLA's float64 artanh and log1p
    are wrong by 100 ulp from −0.41 to −0.35.)
    """
    one = xp.ones_like(p)
    close = (xp.abs(p - q) <= 0.5 * (p + q)) & (p > 0)
    p_, q_ = xp.where(close, p, one), xp.where(close, q, one)
    u = (p_ - q_) / (p_ + q_)
    u2 = u * u
    terms = (1.0 / (k * (2 * k - 1)) for k in range(25, 0, -1))
    series = functools.reduce(lambda total, term: total * u2 + term, terms, xp.zeros_like(p))
    near = (p_ - q_) * u / 4.0 * series
    nothing = (p == 0) & (q == 0)
    p_, q_ = (xp.where(close | nothing, one, a) for a in (p, q))
    total = p_ + q_  # halving it first could underflow
    far = _inaccuracy(xp, p_, 2.0 * (p_ / total)) + _inaccuracy(xp, q_, 2.0 * (q_ / total))
    far = -0.5 * far
    return xp.where(close, near, xp.where(nothing, xp.zeros_like(p), far))


# ---- the measures ---------------------------------------------------------------------------


@quietly
def surprisal(p: ArrayLike, *, unit: str = "nats", check: bool | None = None) -> Array:
    r"""Return the surprisal :math:`I(x) = -\log p(x)` of each probability.

    The quantity of information in an event: 0 for what was certain, +∞ for what was held to be
    impossible.

    Parameters
    ----------
    p
        Probabilities of single events, any shape. They need not sum to 1.
    unit
        ``"nats"`` (base e), ``"bits"`` (base 2) or ``"bans"`` (base 10).
    check
        Whether values outside [0, 1] raise (True) or become NaN (False); by default they raise
        for eager arrays on the CPU.

    Returns
    -------
    Array
        Shape of `p`; at least float32.

    Raises
    ------
    DistributionError
        If a value is negative, NaN, or above 1 by more than rounding.

    References
    ----------
    Shannon, C. E. (1948). A mathematical theory of communication.
    doi:10.1002/j.1538-7305.1948.tb01338.x

    See Also
    --------
    entropy : the expected surprisal of a whole distribution.
    nll : surprisal of the true class, from log-probabilities.

    Examples
    --------
    >>> print(surprisal([0.5, 0.25, 1.0], unit="bits"))
    [1. 2. 0.]
    """
    xp, (given,) = as_arrays(p)
    raising = checking(check, given)
    values = as_floats(xp, given, accumulation_dtype(xp, given), "p")
    bad = ~((values >= 0) & (values <= 1.0 + unit_sum_tolerance(epsilon(xp, given), 1)))
    if raising and (where := where_is(xp, bad)) is not None:
        raise DistributionError(
            f"p must lie in [0, 1]: got {float(values[where])!r} at index {where}. "
            "Hint: counts become probabilities when divided by their sum."
        )
    values = xp.where(bad, xp.asarray(xp.nan, dtype=values.dtype), values)
    told = surprisal_in(xp, at_most_one(xp, values), unit)
    return xp.astype(told, output_dtype(xp, given), copy=False)


@quietly
def entropy(
    p: ArrayLike,
    *,
    axis: int = -1,
    unit: str = "nats",
    normalize: bool = False,
    check: bool | None = None,
) -> Array:
    r"""Return Shannon's entropy :math:`H(P) = -\sum_x p(x) \log p(x)`, with 0·log 0 = 0.

    The least expected number of nats (bits, bans) that tell which symbol came; between 0 and
    log M for M symbols, reached by the uniform distribution.

    Parameters
    ----------
    p
        Distributions along `axis`, any number of them.
    axis
        Axis of the symbols.
    unit
        ``"nats"``, ``"bits"`` or ``"bans"``.
    normalize
        Divide by the sum first (for counts or unnormalised weights).
    check
        Whether what is no distribution raises (True) or becomes NaN (False); by default it
        raises for eager arrays on the CPU.

    Returns
    -------
    Array
        Shape of `p` without `axis`; at least float32.

    Raises
    ------
    DistributionError
        If a value is negative or not finite, or a sum is not 1 within rounding.
    ShapeError
        If there is no symbol.

    References
    ----------
    Shannon, C. E. (1948). A mathematical theory of communication.
    doi:10.1002/j.1538-7305.1948.tb01338.x

    See Also
    --------
    cross_entropy : the same with the surprisal of another distribution.

    Examples
    --------
    >>> print(entropy([0.7, 0.2, 0.1]))
    0.801818552543
    >>> print(entropy([[1, 1, 1, 1], [8, 0, 0, 0]], normalize=True, unit="bits"))
    [2. 0.]
    """
    xp, (p,), out = _distributions({"p": p}, axis, normalize, check)
    return _result(xp, sum_accurately(xp, _inaccuracy(xp, p, p)), unit, out)


@quietly
def cross_entropy(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: int = -1,
    unit: str = "nats",
    normalize: bool = False,
    check: bool | None = None,
) -> Array:
    r"""Return the cross-entropy :math:`H(P, Q) = -\sum_x p(x) \log q(x)`.

    The expected length of a code made for Q when the symbols come from P. It equals
    ``entropy(p) + kl_divergence(p, q)``, is least for Q = P, and is not symmetric.

    Parameters
    ----------
    p, q
        The true and the predicted distributions along `axis`; their shapes broadcast.
    axis, unit, normalize, check
        As for `entropy`.

    Returns
    -------
    Array
        Broadcast shape without `axis`; at least float32. +∞ where P has mass and Q has none
        (`unsupported` tells where), never a clipped number.

    Raises
    ------
    DistributionError
        If a value is negative or not finite, or a sum is not 1 within rounding.
    ShapeError
        If the shapes do not fit.

    References
    ----------
    Cover, T. M. and Thomas, J. A. (2006). Elements of Information Theory, 2nd ed., section 5.4.

    See Also
    --------
    softmax_cross_entropy : the loss to train with, from logits.
    kl_divergence : the part that better predictions can remove.

    Examples
    --------
    >>> print(cross_entropy([0.5, 0.5], [0.25, 0.75], unit="bits"))
    1.207518749639
    >>> print(cross_entropy([0.5, 0.5], [1.0, 0.0]))
    inf
    """
    xp, (p, q), out = _distributions({"p": p, "q": q}, axis, normalize, check)
    return _result(xp, sum_accurately(xp, _inaccuracy(xp, p, q)), unit, out)


@quietly
def kl_divergence(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: int = -1,
    unit: str = "nats",
    normalize: bool = False,
    check: bool | None = None,
) -> Array:
    r"""Return the Kullback–Leibler divergence :math:`D(P‖Q) = \sum_x p(x)\log\frac{p(x)}{q(x)}`.

    What coding P with a code made for Q costs beyond the entropy. Never negative, 0 only for
    P = Q; it is neither symmetric nor a distance. Its digits survive where P and Q nearly agree.
    The first argument is the true distribution (`torch.nn.functional.kl_div` has it second).

    Parameters
    ----------
    p, q
        The true and the predicted distributions along `axis`; their shapes broadcast.
    axis, unit, normalize, check
        As for `entropy`.

    Returns
    -------
    Array
        Broadcast shape without `axis`; at least float32. +∞ where P has mass and Q has none.

    Raises
    ------
    DistributionError
        If a value is negative or not finite, or a sum is not 1 within rounding.
    ShapeError
        If the shapes do not fit.

    References
    ----------
    Kullback, S. and Leibler, R. A. (1951). On information and sufficiency.
    doi:10.1214/aoms/1177729694

    See Also
    --------
    js_divergence : symmetric and bounded.

    Examples
    --------
    >>> print(kl_divergence([0.5, 0.5], [0.25, 0.75], unit="bits"))
    0.207518749639
    """
    xp, (p, q), out = _distributions({"p": p, "q": q}, axis, normalize, check)
    return _result(xp, _divergence(xp, p, q), unit, out)


@quietly
def js_divergence(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: int = -1,
    unit: str = "nats",
    normalize: bool = False,
    check: bool | None = None,
) -> Array:
    r"""Return the Jensen–Shannon divergence :math:`\tfrac12 D(P‖M) + \tfrac12 D(Q‖M)`.

    M = (P + Q)/2. Symmetric, and between 0 and 1 bit; its square root is a distance.

    Parameters
    ----------
    p, q
        Two distributions along `axis`; their shapes broadcast.
    axis, unit, normalize, check
        As for `entropy`.

    Returns
    -------
    Array
        Broadcast shape without `axis`; at least float32. Always finite.

    Raises
    ------
    DistributionError
        If a value is negative or not finite, or a sum is not 1 within rounding.
    ShapeError
        If the shapes do not fit.

    References
    ----------
    Lin, J. (1991). Divergence measures based on the Shannon entropy. doi:10.1109/18.61115

    See Also
    --------
    kl_divergence : not symmetric, and infinite where Q misses a symbol of P.

    Examples
    --------
    >>> print(js_divergence([1.0, 0.0], [0.0, 1.0], unit="bits"))
    1.0
    """
    xp, (p, q), out = _distributions({"p": p, "q": q}, axis, normalize, check)
    nats = sum_accurately(xp, _js_term(xp, p, q))
    # At most log 2: above it lie only rounded inputs that do not sum to 1 exactly.
    above = xp.where(nats > _LOG_2, nats - _LOG_2, xp.zeros_like(nats))
    return _result(xp, _at_least_zero(xp, nats - constant(above)), unit, out)


@quietly
def perplexity(
    p: ArrayLike,
    q: ArrayLike | None = None,
    *,
    axis: int = -1,
    normalize: bool = False,
    check: bool | None = None,
) -> Array:
    r"""Return the perplexity :math:`e^{H(P)}`, or :math:`e^{H(P,Q)}` where `q` is given.

    The number of equally likely symbols that would be as hard to guess.

    Parameters
    ----------
    p, q
        Distributions along `axis`; without `q`, the perplexity of `p` itself.
    axis, normalize, check
        As for `entropy`.

    Returns
    -------
    Array
        Shape without `axis`; at least float32; a number of symbols, so it has no unit.

    Raises
    ------
    DistributionError, ShapeError
        As for `cross_entropy`.

    References
    ----------
    Jelinek, F. et al. (1977). Perplexity: a measure of the difficulty of speech recognition tasks.
    doi:10.1121/1.2016299

    See Also
    --------
    cross_entropy : its logarithm.

    Examples
    --------
    >>> print(perplexity([0.125] * 8))
    8.0
    """
    named = {"p": p} if q is None else {"p": p, "q": q}
    xp, given, out = _distributions(named, axis, normalize, check)
    nats = sum_accurately(xp, _inaccuracy(xp, given[0], given[-1]))
    return xp.astype(xp.exp(nats), out, copy=False)


class _Joint(NamedTuple):
    xp: Any
    joint: Array  # the two variables on the last axes
    out: Any


def _flat(xp: Any, joint: Array) -> Array:
    *batch, rows, columns = joint.shape
    return xp.reshape(joint, (*batch, rows * columns))  # −1 would not do for an empty batch


def _joint(joint: ArrayLike, axes: tuple[int, int], normalize: bool, check: bool | None) -> _Joint:
    xp, (given,) = as_arrays(joint)
    if given.ndim < 2:
        raise ShapeError(
            f"joint must have an axis for each variable: got shape {tuple(given.shape)}. "
            "Hint: joint[x, y] = P(X=x, Y=y)."
        )
    if len(axes) != 2:
        raise ShapeError(f"axes must name two axes: got {axes}. Hint: axes=(-2, -1).")
    for axis in axes:
        move_last(xp, given, axis, "joint")
    if (axes[0] - axes[1]) % given.ndim == 0:
        raise ShapeError(f"the two variables need two axes: got {axes}. Hint: axes=(-2, -1).")
    rows, columns = (given.shape[axis] for axis in axes)
    x, y = (axis % given.ndim for axis in axes)
    others = (axis for axis in range(given.ndim) if axis not in (x, y))
    last = xp.permute_dims(given, (*others, x, y))
    _, (p,), out = _distributions({"joint": _flat(xp, last)}, -1, normalize, check)
    return _Joint(xp, xp.reshape(p, (*p.shape[:-1], rows, columns)), out)


@quietly
def conditional_entropy(
    joint: ArrayLike,
    *,
    axis: int = -1,
    given: int = -2,
    unit: str = "nats",
    normalize: bool = False,
    check: bool | None = None,
) -> Array:
    r"""Return :math:`H(Y|X) = -\sum_{x,y} p(x,y) \log p(y|x)`, what X leaves unknown of Y.

    Parameters
    ----------
    joint
        Joint distributions: ``joint[..., x, y]`` = P(X=x, Y=y), summing to 1 over both axes.
    axis, given
        The axes of Y, whose entropy is asked, and of X, which is known.
    unit, normalize, check
        As for `entropy`; `normalize` divides by the sum over both axes.

    Returns
    -------
    Array
        Shape of `joint` without the two axes; between 0 and the entropy of Y.

    Raises
    ------
    DistributionError, ShapeError
        As for `entropy`, and if there are not two axes.

    References
    ----------
    Cover, T. M. and Thomas, J. A. (2006). Elements of Information Theory, 2nd ed., section 2.2.

    See Also
    --------
    mutual_information : what X does tell about Y.

    Examples
    --------
    >>> print(conditional_entropy([[0.25, 0.25], [0.5, 0.0]], unit="bits"))
    0.5
    """
    xp, p, out = _joint(joint, (given, axis), normalize, check)
    zero, one = xp.zeros_like(p), xp.ones_like(p)
    high, low = sum_pair(xp, p)
    # p(x) − p(x, y), the mass of the other outcomes, with the digits that a difference loses.
    others = (high[..., None] - p) + low[..., None]
    others = xp.where(others > 0, others, zero)
    some = p > 0
    ratio = others / xp.where(some, p, one)
    small = xp.isfinite(ratio) & some
    near = xp.log1p(xp.where(small, ratio, zero))
    apart = xp.log(xp.where(small | ~some, one, high[..., None] / xp.where(some, p, one)))
    apart = xp.where(xp.isfinite(apart), apart, zero - xp.log(xp.where(some, p, one)))
    term = xp.where(some, p * (near + apart), xp.sqrt(xp.where(some, one, p)))
    nats = sum_accurately(xp, _flat(xp, term))
    return _result(xp, nats, unit, out)


@quietly
def mutual_information(
    joint: ArrayLike,
    *,
    axes: tuple[int, int] = (-2, -1),
    unit: str = "nats",
    normalize: bool = False,
    check: bool | None = None,
) -> Array:
    r"""Return :math:`I(X;Y) = \sum_{x,y} p(x,y)\log\frac{p(x,y)}{p(x)\,p(y)}`.

    What one variable tells about the other: 0 for independent ones, at most the smaller entropy.

    Parameters
    ----------
    joint
        Joint distributions: ``joint[..., x, y]`` = P(X=x, Y=y), summing to 1 over both axes.
    axes
        The two axes of the variables.
    unit, normalize, check
        As for `entropy`; `normalize` divides by the sum over both axes.

    Returns
    -------
    Array
        Shape of `joint` without the two axes; never negative.

    Raises
    ------
    DistributionError, ShapeError
        As for `entropy`, and if there are not two axes.

    References
    ----------
    Cover, T. M. and Thomas, J. A. (2006). Elements of Information Theory, 2nd ed., section 2.3.

    See Also
    --------
    conditional_entropy : what X leaves unknown of Y; H(Y) = I(X;Y) + H(Y|X).

    Examples
    --------
    >>> print(mutual_information([[0.5, 0.0], [0.0, 0.5]], unit="bits"))
    1.0
    """
    xp, p, out = _joint(joint, axes, normalize, check)
    x = sum_accurately(xp, p)[..., :, None]
    y = sum_accurately(xp, xp.matrix_transpose(p))[..., None, :]
    # Σ_x p(x)·D(P(Y|x)‖P(Y)): the product of the marginals itself could underflow.
    zero, one = xp.zeros_like(p), xp.ones_like(p)
    some = p > 0
    given_x = xp.where(some, p, one) / xp.where(some, x, one)
    term = x * _divergence_term(xp, given_x, xp.where(some, y, one))
    # At p = 0 the slope is −∞, but for a value of X or Y that never occurs 0 is a subgradient.
    edge = (p == 0) & (x > 0) & (y > 0)
    at_zero = x * y - xp.where(edge, xp.sqrt(xp.where(edge, p, one)), zero)
    term = xp.where(some, term, at_zero)
    total = sum_accurately(xp, _flat(xp, term))
    # Σ p(x, y) − p(x)·p(y) = s − s², where s is the sum of all: 0 but for rounded inputs.
    high, low = sum_pair(xp, _flat(xp, p))
    total = total + high * ((1.0 - high) - low)
    return _result(xp, _at_least_zero(xp, total), unit, out)


class Unsupported(NamedTuple):
    """The symbols that P has and Q lacks: why a cross-entropy is infinite.

    Attributes
    ----------
    mask
        True where P > 0 and Q = 0, in the broadcast shape of both.
    mass
        The probability under P of those symbols, in the shape without `axis`.
    """

    mask: Array
    mass: Array

    @property
    def symbols(self) -> tuple[Array, ...]:
        """The indices of those symbols, one array for each axis (needs eager values)."""
        xp, (mask,) = as_arrays(self.mask)
        return xp.nonzero(mask)


@quietly
def unsupported(
    p: ArrayLike,
    q: ArrayLike,
    *,
    axis: int = -1,
    normalize: bool = False,
    check: bool | None = None,
) -> Unsupported:
    """Return the symbols with P > 0 and Q = 0, and their mass under P.

    ``cross_entropy(p, q)`` is infinite exactly where the mass is not 0.

    Parameters
    ----------
    p, q
        The true and the predicted distributions along `axis`; their shapes broadcast.
    axis, normalize, check
        As for `entropy`.

    Returns
    -------
    Unsupported
        ``mask`` (in the shape of the arrays), ``mass``, and ``symbols``, their indices.

    Raises
    ------
    DistributionError, ShapeError
        As for `cross_entropy`.

    See Also
    --------
    cross_entropy : the number that these symbols make infinite.

    Examples
    --------
    >>> missing = unsupported([0.5, 0.25, 0.25], [0.5, 0.5, 0.0])
    >>> print(missing.symbols[0], missing.mass)
    [2] 0.25
    """
    xp, (p, q), out = _distributions({"p": p, "q": q}, axis, normalize, check)
    mask = (p > 0) & (q == 0)
    mass = sum_accurately(xp, xp.where(mask, p, 0.0 * (p + q)))  # NaN where either is bad
    mask = move_axis(xp, mask, -1, axis)
    return Unsupported(mask, xp.astype(mass, out, copy=False))
