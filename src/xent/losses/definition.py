r"""The mathematics of every loss: rows of logits and targets in, nats out.

This page is the definition that each kernel is tested against. It is pure, written in the array
standard, and knows nothing of reductions, units or frameworks. Classes are on the last axis.

**Softmax cross-entropy.** For logits z, a target t (a vector of masses, one-hot for a class
index) and temperature T, with x = (z − m)/T and m the row's maximum, reached at class k:

.. math:: L = W \cdot \log\sum_j e^{x_j} - \sum_j t_j x_j, \qquad W = \sum_j t_j

The sum is e^{x_k} = 1 and the *others*, so its logarithm is log1p(others); it and every −x_j are
≥ 0, so nothing cancels, however confident or however wrong the row is. The differences carry
their rounding errors (``x`` is a pair), so offsets and gaps cost no digits.

**Derivatives.** With p = softmax(x): ∂L/∂x = W·p − t, written so that it does not cancel at a
confident class either, and ∂²L/∂x² = W·(diag p − p pᵀ).

Everything below is also meant to be differentiated as it stands, once or twice, backwards or
forwards; comments say where a form was chosen for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from xent.arrays import (
    Array,
    MaybePair,
    add_low,
    constant,
    divide_pair,
    exp_pair,
    sum_accurately,
    tanh_pair,
    two_difference,
)

__all__ = [
    "LogitTransform",
    "Softmax",
    "log_of_mass",
    "one_hot",
    "sigmoid_gradient",
    "sigmoid_loss",
    "sigmoid_product",
    "softmax",
    "softmax_entropy",
    "softmax_gradient",
    "softmax_loss",
    "softmax_product",
    "squared_error_gradient",
    "squared_error_residual",
    "sum_over",
    "surprise",
]


@dataclass(frozen=True)
class LogitTransform:
    """What happens to logits before the softmax: first the softcap, then the temperature.

    ``softcap·tanh(z/softcap)``, divided by ``temperature``. A class masked by −∞ stays masked.
    `carry` keeps the rounding errors of differences and sums: what makes a row right where its
    logits are as wide as the arithmetic, and is not needed where they are narrower.
    """

    temperature: float = 1.0
    softcap: float | None = None
    carry: bool = True

    def centred(self, xp: Any, z: Array) -> tuple[Array, Array, MaybePair]:
        """Return the row's maximum m after the softcap, where it is, and cap(z) − m as a pair."""
        low = None
        if self.softcap is not None:
            high = self.softcap * xp.tanh(z / self.softcap)
            if self.carry:
                high, low = tanh_pair(xp, z, self.softcap)
            z, masked = xp.where(z == -xp.inf, z, high), z == -xp.inf
        m = constant(xp.max(z, axis=-1, keepdims=True))
        top = one_hot(xp, xp.argmax(constant(z), axis=-1), z)
        if not self.carry:
            return m, top, (z - m, None)
        pair = two_difference(xp, z, m)
        if low is not None:
            low = xp.where(masked, 0.0, low)
            pair = add_low(xp, pair, low - sum_over(xp, xp.where(top, low, 0.0)))
        return m, top, pair

    def slope(self, xp: Any, z: Array) -> Array:
        """Return the derivative of the transform at each logit."""
        if self.softcap is None:
            return xp.full_like(z, 1.0 / self.temperature)
        slope = 1.0 / (xp.cosh(z / self.softcap) ** 2 * self.temperature)
        return xp.where(z == -xp.inf, 1.0 / self.temperature, slope)

    def bend(self, xp: Any, z: Array) -> Array:
        """Return the second derivative of the transform at each logit."""
        if self.softcap is None:
            return xp.zeros_like(z)
        bend = -2.0 / self.softcap * xp.tanh(z / self.softcap) * self.slope(xp, z)
        return xp.where(z == -xp.inf, 0.0, bend)


PLAIN = LogitTransform()


class Softmax(NamedTuple):
    """A row's softmax, taken apart so that no part loses digits."""

    x: Array  # (z − max)/T, ≤ 0                                   (rows, classes)
    e: Array  # exp(x) but for the likeliest class                 (rows, classes)
    top: Array  # is it the likeliest class (the first of equals)? (rows, classes)
    others: Array  # Σ exp(x) without the likeliest class          (rows, 1)
    log_sum: Array  # log Σ exp(x) ≥ 0                             (rows, 1)
    shift: Array  # what was subtracted, over T                    (rows, 1)
    carry: bool  # are rounding errors carried?

    def mass(self, xp: Any, t: Array) -> Array:
        """Return the total mass W of each row's target."""
        return sum_accurately(xp, t, carry=self.carry)

    def probability(self, xp: Any) -> Array:
        """Return p = exp(x)/Σ exp(x)."""
        # exp(x) = 1 for the likeliest class, with a slope that second derivatives want.
        likeliest = xp.exp(xp.where(self.top, self.x, 0.0))
        return xp.where(self.top, likeliest, self.e) / (1.0 + self.others)

    def rest(self, xp: Any) -> Array:
        """Return 1 − p: for the likeliest class the others' mass, not a difference."""
        return xp.where(self.top, self.others, (1.0 - self.e) + self.others) / (1.0 + self.others)


def softmax(
    xp: Any, z: Array, transform: LogitTransform = PLAIN, t: Array | None = None
) -> Softmax:
    """Compute the parts of the softmax of each row; `t` matters to derivatives only."""
    m, top, (high, low) = transform.centred(xp, z)
    # The loss does not depend on what is subtracted, so its derivative may be chosen. Moving with
    # the likeliest class in proportion to that class's target makes the derivative at a confident
    # target −Σ p over the others, where p − 1 would cancel. `live` is 0; only its slope is used.
    live = sum_over(xp, xp.where(top, high, 0.0), carry=False)
    share = _share_of_top(xp, top, t)
    x, low = divide_pair(xp, (high - share * live, low), transform.temperature)
    x_top = (1.0 - share) * live / transform.temperature

    e = exp_pair(xp, (x, low))
    # exp(x) = 1 for the likeliest class: expm1 keeps its slope and leaves its value to log1p.
    others = sum_over(xp, xp.where(top, xp.expm1(x_top), e), carry=transform.carry)
    shift = (m + share * live) / transform.temperature
    x = xp.where(top, x_top, x)
    return Softmax(x, e, top, others, xp.log1p(others), shift, transform.carry)


def _share_of_top(xp: Any, top: Array, t: Array | None) -> Array | float:
    if t is None:
        return 0.0
    t = constant(t)
    total = sum_over(xp, t, carry=False)
    mass = sum_over(xp, xp.where(top, t, 0.0), carry=False)
    return xp.where(total > 0, mass / xp.where(total > 0, total, 1.0), 0.0)


def sum_over(xp: Any, x: Array, *, carry: bool = True) -> Array:
    """Sum over the classes, keeping the axis."""
    return sum_accurately(xp, x, carry=carry)[..., None]


def surprise(xp: Any, t: Array, x: Array) -> Array:
    """Return t·(−x), with 0·∞ = 0."""
    nothing = (t == 0) & (x == -xp.inf)
    return t * (0.0 - xp.where(nothing, 0.0, x))


def log_of_mass(xp: Any, t: Array, a: Array) -> Array:
    """Return log a, with 0 where a target without mass meets a probability of 0.

    Masked before the logarithm, whose slope there would make 0·∞ of a derivative.
    """
    return xp.log(xp.where((t == 0) & (a == 0), 1.0, a))


def one_hot(xp: Any, indices: Array, like: Array) -> Array:
    """Return, for each class of each row, whether it is the one of that index."""
    on = {"device": cast("Any", like).device} if xp.__name__.endswith("torch") else {}
    classes = xp.arange(like.shape[-1], dtype=xp.int32, **on)
    return classes == xp.astype(indices, xp.int32)[..., None]


# ---- softmax cross-entropy ------------------------------------------------------------------


def softmax_loss(xp: Any, s: Softmax, t: Array, z_loss: float = 0.0) -> Array:
    """Return W·log Σ exp(x) − Σ t·x + W·z_loss·logsumexp², one number for each row."""
    weight = s.mass(xp, t)[..., None]
    loss = weight * s.log_sum + sum_over(xp, surprise(xp, t, s.x), carry=s.carry)
    if z_loss:
        loss = loss + z_loss * weight * (s.shift + s.log_sum) ** 2
    return loss[..., 0]


def softmax_entropy(xp: Any, s: Softmax) -> Array:
    """Return the entropy of the softmax itself, −Σ p·log p = log Σ exp(x) − Σ p·x."""
    terms = surprise(xp, s.probability(xp), s.x)
    return (s.log_sum + sum_over(xp, terms, carry=s.carry))[..., 0]


def _slope_in_x(xp: Any, s: Softmax, t: Array, z_loss: float) -> Array:
    p = s.probability(xp)
    weight = s.mass(xp, t)[..., None]
    slope = p * (weight - t) - t * s.rest(xp)
    if z_loss:
        slope = slope + 2.0 * z_loss * weight * (s.shift + s.log_sum) * p
    return slope


def softmax_gradient(
    xp: Any, s: Softmax, z: Array, t: Array, transform: LogitTransform = PLAIN, z_loss: float = 0.0
) -> Array:
    """Return ∂L/∂z = (p·(W − t) − t·(1 − p))·slope, which cancels nowhere for a one-hot t."""
    return _slope_in_x(xp, s, t, z_loss) * transform.slope(xp, z)


def softmax_product(
    xp: Any,
    s: Softmax,
    z: Array,
    t: Array,
    v: Array,
    transform: LogitTransform = PLAIN,
    z_loss: float = 0.0,
) -> Array:
    """Return (∂²L/∂z²)·v for each row."""
    p, weight = s.probability(xp), s.mass(xp, t)[..., None]
    slope = transform.slope(xp, z)
    u = v * slope
    mean = sum_over(xp, p * u, carry=s.carry)
    product = weight * p * (u - mean)
    if z_loss:
        lse = s.shift + s.log_sum
        product = product + 2.0 * z_loss * weight * p * (mean + lse * (u - mean))
    if transform.softcap is not None:
        return product * slope + _slope_in_x(xp, s, t, z_loss) * transform.bend(xp, z) * v
    return product * slope


# ---- sigmoid cross-entropy: each entry its own yes-or-no question ----------------------------


def _softplus(xp: Any, z: Array) -> Array:
    # −|z| by selection, so that both derivatives are right at 0, where training often starts.
    return xp.log1p(xp.exp(xp.where(z > 0, -z, z))) + xp.where(z > 0, z, xp.zeros_like(z))


def _sigmoid(xp: Any, z: Array) -> Array:
    e = xp.exp(xp.where(z > 0, -z, z))
    return xp.where(z > 0, xp.ones_like(e), e) / (1.0 + e)


def sigmoid_loss(xp: Any, z: Array, yes: Array, no: Array) -> Array:
    """Return yes·log(1 + e^{−z}) + no·log(1 + e^z), with 0·∞ = 0.

    `yes` and `no` are the target's masses, for the plain loss t and 1 − t.
    """
    return surprise(xp, yes, -_softplus(xp, -z)) + surprise(xp, no, -_softplus(xp, z))


def sigmoid_gradient(xp: Any, z: Array, yes: Array, no: Array) -> Array:
    """Return ∂L/∂z = no·σ(z) − yes·σ(−z); for a hard target one of them is 0."""
    return no * _sigmoid(xp, z) - yes * _sigmoid(xp, -z)


def sigmoid_product(xp: Any, z: Array, yes: Array, no: Array, v: Array) -> Array:
    """Return (∂²L/∂z²)·v = (yes + no)·σ(z)·σ(−z)·v."""
    return (yes + no) * _sigmoid(xp, z) * _sigmoid(xp, -z) * v


# ---- squared error of probabilities, for comparison -------------------------------------------


def squared_error_residual(xp: Any, z: Array, t: Array, link: str) -> Array:
    """Return p − t for p = softmax(z) or σ(z), without cancelling at a confident target."""
    if link == "sigmoid":
        return sigmoid_gradient(xp, z, t, 1.0 - t)
    s = softmax(xp, z, PLAIN, t)
    return s.probability(xp) * (1.0 - t) - t * s.rest(xp)


def squared_error_gradient(xp: Any, z: Array, d: Array, link: str) -> Array:
    """Return ∂/∂z of Σ(p − t)²: 2·p·(d − Σ p·d), or 2·d·σ(z)·σ(−z), with d = p − t.

    The factors p and σ(z)·σ(−z) vanish for confident rows, wrong ones too.
    """
    if link == "sigmoid":
        return 2.0 * d * _sigmoid(xp, z) * _sigmoid(xp, -z)
    p = softmax(xp, z).probability(xp)
    return 2.0 * p * (d - sum_over(xp, p * d))
