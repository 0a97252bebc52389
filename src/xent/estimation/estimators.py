"""The estimators of entropy, as arithmetic on rows of counts, in nats.

With counts n_i of m observed values and n = Σ n_i, each estimator is a sum over the observed
values in which nothing cancels: it keeps its digits for counts of any size, where all are equal
and where all observations but one are of one value.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from xent.errors import OptionError

__all__ = [
    "ESTIMATORS",
    "Tally",
    "divergence_excess",
    "estimator_named",
    "standard_error",
    "surprisals",
]

_EULER = 0.5772156649015329  # γ = −ψ(1)
_DEPTH = 100  # of the continued fraction, which converges slowest where n·A is 2


def surprisals(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the total of weights on the last axis, that without the largest, shares, −log shares.

    The largest share may be so near 1 that the rounded quotient has lost its logarithm; its
    surprisal is computed from the sum of the others. A weight of 0 has the surprisal +∞.
    """
    top = np.argmax(weights, axis=-1)[..., None]
    largest = np.take_along_axis(weights, top, axis=-1)
    others = weights.copy()
    np.put_along_axis(others, top, 0.0, axis=-1)
    rest = others.sum(axis=-1, keepdims=True)
    total = rest + largest
    with np.errstate(divide="ignore"):
        told = -np.log(weights / total)
    np.put_along_axis(told, top, np.log1p(rest / largest), axis=-1)
    return total[..., 0], rest[..., 0], weights / total, told


def divergence_excess(above: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Return d − log(1 + d) for d = above/base, where base > 0 and above ≥ −base.

    It is never negative, and +∞ for d = −1. With d = (q − p)/p a divergence Σ p·log(p/q) is
    Σ p·(d − log(1 + d)), because Σ(q − p) = 0, and nothing cancels in that sum. The difference of
    two rounded shares has lost digits; that of exact integers has not.

    With v = d/(2 + d) it is d·v − 2·(artanh v − v): the series for |v| ≤ 1/5, where the plain
    formula would cancel.
    """
    d = (above / base).astype(np.float64)
    v = np.clip(d / (2.0 + d), -0.2, 0.2)
    v2 = v * v
    tail = functools.reduce(lambda series, k: series * v2 + 1.0 / k, range(27, 1, -2), 0.0 * v)
    near = d * v - 2.0 * v * v2 * tail
    with np.errstate(divide="ignore"):
        far = d - np.log(((base + above) / base).astype(np.float64))
    return np.where(np.abs(d) <= 0.2 * (2.0 + d), near, far)


@dataclass(frozen=True)
class Tally:
    """Rows of counts with what every estimator needs of them.

    Attributes
    ----------
    counts
        Shape (..., K), float64 whole numbers; each row has an observation.
    n, minority
        Σ counts, and the same without the largest of them; shape (...).
    share, surprisal
        n_i/n and −log(n_i/n), 0 where the count is 0; shape (..., K).
    observed, singletons, doubletons
        The number of values seen at all, once, and twice; shape (...).
    """

    counts: np.ndarray
    n: np.ndarray
    minority: np.ndarray
    share: np.ndarray
    surprisal: np.ndarray
    observed: np.ndarray
    singletons: np.ndarray
    doubletons: np.ndarray

    @classmethod
    def of(cls, counts: np.ndarray) -> Tally:
        """Tally counts on the last axis."""
        n, minority, share, told = surprisals(counts)
        some = counts > 0
        return cls(
            counts,
            n,
            minority,
            share,
            np.where(some, told, 0.0),
            some.sum(axis=-1),
            (counts == 1).sum(axis=-1),
            (counts == 2).sum(axis=-1),
        )

    @classmethod
    def in_order(cls, counts: np.ndarray) -> Tally:
        """Tally one vector of counts, with the same bits whatever the order of its values."""
        return cls.of(np.sort(counts[counts > 0]))


def plug_in(tally: Tally) -> np.ndarray:
    """Return the entropy of the observed shares, −Σ (n_i/n)·log(n_i/n)."""
    return (tally.share * tally.surprisal).sum(axis=-1)


def miller_madow(tally: Tally) -> np.ndarray:
    """Return the plug-in plus (m − 1)/(2n), its bias where every value was seen often."""
    return plug_in(tally) + (tally.observed - 1) / (2.0 * tally.n)


def jackknife(tally: Tally) -> np.ndarray:
    """Return n·H − (n−1)/n·Σ_j H₋ⱼ, where H₋ⱼ is the plug-in without observation j.

    By algebra it is the plug-in plus Σ (n_i/n)·h(n_i) − h(n), with h of `_left_out`.
    """
    return plug_in(tally) + _corrected(tally, _left_out)


def chao_shen(tally: Tally) -> np.ndarray:
    """Return −Σ s_i·log s_i / (1 − (1 − s_i)ⁿ) for s_i = C·n_i/n, with the coverage C = 1 − f₁/n.

    Where all observations are singletons, f₁ counts as n − 1: C would be 0.
    """
    n = tally.n[..., None]
    once = np.where(tally.singletons == tally.n, tally.n - 1, tally.singletons)[..., None]
    coverage = (n - once) / n
    share = coverage * tally.share
    with np.errstate(divide="ignore"):
        seen = -np.expm1(n * np.log1p(-share))  # the chance that the value is seen at all
    # Each logarithm where it has all digits.
    told = tally.surprisal - np.where(coverage > 0.5, np.log1p(-once / n), np.log(coverage))
    return (share * told / np.where(tally.counts > 0, seen, 1.0)).sum(axis=-1)


def chao_wang_jost(tally: Tally) -> np.ndarray:
    """Return Σ (n_i/n)·(ψ(n) − ψ(n_i)) plus the part of the unseen values that f₁ and f₂ tell.

    By algebra the sum is the plug-in plus Σ (n_i/n)·e(n_i) − e(n), with e of `_logarithm_excess`.
    """
    seen = plug_in(tally) + _corrected(tally, _logarithm_excess)
    return seen + tally.singletons / tally.n * _unseen_surprisal(tally)


ESTIMATORS: dict[str, Callable[[Tally], np.ndarray]] = {
    "chao_wang_jost": chao_wang_jost,
    "jackknife": jackknife,
    "chao_shen": chao_shen,
    "miller_madow": miller_madow,
    "plug_in": plug_in,
}


def estimator_named(name: Any) -> Callable[[Tally], np.ndarray]:
    """Return the estimator of that name, or raise `OptionError` with the names there are."""
    if not isinstance(name, str) or name not in ESTIMATORS:
        names = ", ".join(repr(known) for known in ESTIMATORS)
        raise OptionError(
            f"estimator must be one of {names}: got {name!r}. "
            "Hint: chao_wang_jost has the least bias; plug_in is the uncorrected entropy."
        )
    return ESTIMATORS[name]


def standard_error(tally: Tally) -> np.ndarray:
    """Return the jackknife's standard error, with the part that does not vanish for equal counts.

    The jackknife is the mean of n pseudo-values −log(n_j/n) + h(n_j) − h(n), one for each
    observation; s²/n of these is the first-order variance, which is 0 for equal probabilities.
    The next order of the plug-in's variance is (m − 1)/(2n²) (Harris, 1975). NaN for n = 1.
    """
    n = tally.n
    some = tally.counts > 0
    pseudo = tally.surprisal + np.where(some, _left_out(tally.counts), 0.0)
    mean = (tally.share * pseudo).sum(axis=-1)
    spread = (tally.share * (pseudo - mean[..., None]) ** 2).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(spread / (n - 1) + (tally.observed - 1) / (2.0 * n * n))


# ---- corrections: functions of one count, ≥ 0 and falling towards 0 ----------------------------


def _corrected(tally: Tally, correction: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return Σ (n_i/n)·c(n_i) − c(n), which is 0 for a single value."""
    each = np.where(tally.counts > 0, correction(tally.counts), 0.0)
    return (tally.share * each).sum(axis=-1) - correction(tally.n)


def _left_out(count: np.ndarray) -> np.ndarray:
    """Return h(k) = 1 + (k − 1)·log(1 − 1/k) for k ≥ 1, about 1/(2k).

    By its series Σ_j k⁻ʲ/(j·(j + 1)) where the formula would cancel; of 0 it is some number.
    """
    x = 1.0 / np.maximum(count, 1.0)
    series = functools.reduce(lambda s, j: s * x + 1.0 / (j * (j + 1)), range(17, 0, -1), 0.0 * x)
    few = np.clip(count, 2.0, 8.0)
    plain = 1.0 + (few - 1.0) * np.log1p(-1.0 / few)
    return np.where(count < 2, 1.0, np.where(count < 8, plain, series * x))


def _logarithm_excess(count: np.ndarray) -> np.ndarray:
    """Return e(k) = log k − ψ(k) for whole k ≥ 1, about 1/(2k); of 0 some number."""
    x = 1.0 / np.maximum(count, 1.0)
    x2 = x * x
    bernoulli = (-691 / 32760, 1 / 132, -1 / 240, 1 / 252, -1 / 120, 1 / 12)
    series = functools.reduce(lambda s, b: s * x2 + b, bernoulli, 0.0 * x)
    few = _FEW_EXCESSES[np.minimum(count, len(_FEW_EXCESSES) - 1).astype(np.intp)]
    return np.where(count < len(_FEW_EXCESSES), few, x * (0.5 + series * x))


_FEW_EXCESSES = np.array(
    [0.0]
    + [math.fsum([math.log(k), _EULER, *(-1.0 / j for j in range(1, k))]) for k in range(1, 16)]
)


def _unseen_surprisal(tally: Tally) -> np.ndarray:
    """Return T = (1 − A)^(1−n)·(−log A − Σ_{r<n} (1 − A)ʳ/r), 0 where A = 1.

    A is the share that an unseen value has on average, as the numbers of singletons and doubletons
    tell by Turing's argument: 2f₂/((n − 1)f₁ + 2f₂), or 2/((n − 1)(f₁ − 1) + 2) for f₂ = 0.

    T = Σ_{j≥0} (1 − A)^(j+1)/(n + j). For A above ½ or 2/n it is the continued fraction of the
    incomplete beta function; below, (1 − A)^(1−n) times −log A − H_{n−1} with the harmonic number
    H_{n−1} = ψ(n) + γ, plus Σ_k (−1)^(k+1)·C(n − 1, k)·Aᵏ/k.
    """
    n, once = tally.n, tally.singletons
    twice = np.where(tally.doubletons > 0, tally.doubletons, 1)
    odd = (n - 1.0) * np.where(tally.doubletons > 0, once, np.maximum(once - 1, 0))
    share, rest = 2.0 * twice / (odd + 2.0 * twice), odd / (odd + 2.0 * twice)  # A and 1 − A

    most = np.minimum(2.0 / n, 0.5)
    q = np.where(share > most, rest, 0.0)
    fraction = np.ones_like(q)
    for k in range(_DEPTH, 0, -1):
        half = k // 2
        over = half * half if k % 2 == 0 else (n + half) ** 2
        fraction = 1.0 - over * q / ((n + k - 1.0) * (n + k)) / fraction
    large = q / n / fraction

    a = np.minimum(share, most)
    term, series = np.ones_like(a), np.zeros_like(a)
    for k in range(1, 28):
        term = term * (-a * (n - k) / k)
        series = series - term / k
    scale = np.exp(-(n - 1.0) * np.log1p(-a))
    small = scale * (_logarithm_excess(n) - _EULER - np.log(n * a) + series)
    return np.where(share > most, large, small)
