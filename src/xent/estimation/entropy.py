"""Entropy from samples or counts: an estimate, and an interval where one was shown to cover.

No interval covers for every distribution: values that were never seen may hold any entropy. The
rule here says which data get one. It was checked by simulation on the distributions of
docs/estimation.md, and everything else gets the reason instead.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from xent.errors import OptionError
from xent.estimation.counting import Counts, as_counts, as_sample
from xent.estimation.estimators import (
    Tally,
    chao_wang_jost,
    estimator_named,
    plug_in,
    standard_error,
)
from xent.units import from_nats

__all__ = [
    "EntropyEstimate",
    "Interval",
    "entropy_from_counts",
    "entropy_from_samples",
    "interval_of",
]

CONFIDENCE = 0.95
LEAST_MINORITY = 20
MOST_UNSEEN = 0.2
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2.0)


class Interval(NamedTuple):
    """Intervals of rows of counts in nats, and which of them are given.

    Attributes
    ----------
    lower, upper
        The ends.
    standard_error
        Of the centre.
    unseen
        What the probability of all values not seen hardly exceeds.
    given
        Whether the rule gives the interval.
    """

    lower: np.ndarray
    upper: np.ndarray
    standard_error: np.ndarray
    unseen: np.ndarray
    given: np.ndarray


def interval_of(tally: Tally, alphabet_size: int | None = None) -> Interval:
    """Return the intervals of rows of counts, by the rule that the simulation checks.

    About the Chao–Wang–Jost estimate, three things make the ends:

    - 1.96·√(SE² + (2 + Σ (−log(n_i/n) − H)²)/n²) on both sides, with the plug-in H. SE² is itself
      an estimate. It is often much too small where a few values are nearly equally likely, which
      the 2 makes up for; and where values are rare: the sum is what one observation more of each
      value adds to it.
    - On both sides f₁/n, the probability of the unseen values by Turing's estimate: if they are e
      times as many, or as few, as the centre supposes, the entropy changes by that much.
    - Above, δ·(1 + log n) with δ = 3·√(f₁ + 1)/n. That probability may be larger by δ (for f₁ = 0
      this is the rule of three), and held by values e times as rare as 1/n.

    The last two are 0 where all values of a known alphabet were seen. An interval is given where
    at least 20 observations are not of the most frequent value, for the normal approximation, and
    f₁/n + δ is at most 20 %.
    """
    n, once = tally.n, tally.singletons
    some_unseen = np.asarray(tally.observed != alphabet_size)
    estimated = np.where(some_unseen, once / n, 0.0)
    further = np.where(some_unseen, 3.0 * np.sqrt(once + 1.0) / n, 0.0)
    centre, error = chao_wang_jost(tally), standard_error(tally)
    apart = np.where(tally.counts > 0, tally.surprisal - plug_in(tally)[..., None], 0.0)
    half = _Z * np.sqrt(error**2 + (2.0 + (apart * apart).sum(axis=-1)) / (n * n)) + estimated
    upper = centre + half + further * (1.0 + np.log(n))
    if alphabet_size is not None:
        upper = np.minimum(upper, math.log(alphabet_size))
    lower = np.minimum(centre - half, upper)
    unseen = estimated + further
    given = (tally.minority >= LEAST_MINORITY) & (unseen <= MOST_UNSEEN)
    return Interval(lower, upper, error, unseen, given)


@dataclass(frozen=True)
class EntropyEstimate:
    """An entropy estimated from a sample.

    Attributes
    ----------
    value
        The estimate, in `unit`.
    unit
        ``"nats"``, ``"bits"`` or ``"bans"``.
    estimator
        Its name.
    n
        Number of observations.
    observed
        Number of distinct values among them.
    singletons
        Number of values seen once.
    alphabet_size
        The number of possible values, if it was given.
    standard_error
        Of the centre of the interval, in `unit`; None where there is none.
    interval
        The 95 % interval of the entropy, in `unit`, or None. It is the same for every estimator,
        because it is of the entropy: a biased estimate may lie outside it.
    why_no_interval
        The reason in words where there is none.

    Examples
    --------
    >>> estimate = entropy_from_counts([7, 3])
    >>> estimate.value, estimate.interval
    (0.66397, None)
    >>> estimate.why_no_interval
    'only 3 of the 10 observations are not of the most frequent value; an interval needs 20'
    """

    value: float
    unit: str
    estimator: str
    n: int
    observed: int
    singletons: int
    alphabet_size: int | None = None
    standard_error: float | None = None
    interval: tuple[float, float] | None = None
    why_no_interval: str | None = None

    @property
    def coverage(self) -> float:
        """The probability of the values that were seen, by Turing's estimate 1 − f₁/n."""
        return (self.n - self.singletons) / self.n

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as numbers, texts, lists and None only."""
        fields = asdict(self)
        interval = None if self.interval is None else list(self.interval)
        return {**fields, "interval": interval, "confidence": CONFIDENCE, "coverage": self.coverage}


def entropy_from_counts(
    counts: Any,
    *,
    estimator: str = "chao_wang_jost",
    alphabet_size: int | None = None,
    unit: str = "nats",
) -> EntropyEstimate:
    r"""Estimate Shannon's entropy from how often each value was observed.

    The plug-in :math:`-\sum \frac{n_i}{n}\log\frac{n_i}{n}` is too low, by about (K − 1)/(2n) for
    K values that were all seen often, and by more where some were not seen. The other estimators
    correct that. With f₁ values seen once and f₂ seen twice:

    - ``"miller_madow"`` adds (m − 1)/(2n) for the m values seen;
    - ``"jackknife"`` is n·H − (n − 1)/n · Σⱼ H₋ⱼ over the n samples with one observation left out,
      computed from counts without those n entropies;
    - ``"chao_shen"`` is :math:`-\sum \frac{s_i\log s_i}{1-(1-s_i)^n}`, s_i = (1 − f₁/n)·n_i/n;
      where every value was seen once, f₁ counts as n − 1;
    - ``"chao_wang_jost"``, the default, is Σ (n_i/n)·(ψ(n) − ψ(n_i)) plus
      (f₁/n)·(1 − A)^(1−n)·(−log A − Σ_{r<n} (1 − A)ʳ/r) for the unseen values, with
      A = 2f₂/((n − 1)f₁ + 2f₂), or 2/((n − 1)(f₁ − 1) + 2) for f₂ = 0. Over the distributions
      of docs/estimation.md it has the least bias of the five.

    Parameters
    ----------
    counts
        A vector of whole numbers ≥ 0, one for each value, or a mapping (or pandas series) from
        value to count. Values with a count of 0 change nothing.
    estimator
        One of the names above, or ``"plug_in"``.
    alphabet_size
        The number of possible values, where it is known: 2 for a coin. The estimate is the same,
        the interval is narrower: it ends at the logarithm of that number, and if all values were
        seen it need not allow for others.
    unit
        ``"nats"``, ``"bits"`` or ``"bans"``.

    Returns
    -------
    EntropyEstimate
        The estimate, and a 95 % interval or the reason why there is none. No estimate is cut: the
        corrected ones may exceed the logarithm of the number of values.

    Raises
    ------
    DistributionError
        If a count is negative, not finite or no whole number.
    ShapeError
        If `counts` is no vector, or holds no observation.
    OptionError
        If `estimator` or `unit` is none of the names, or `alphabet_size` is less than the number
        of values seen.

    References
    ----------
    Miller, G. A. (1955). Note on the bias of information estimates. In H. Quastler (ed.),
    Information Theory in Psychology, 95–100.

    Zahl, S. (1977). Jackknifing an index of diversity. doi:10.2307/1936227

    Chao, A. and Shen, T.-J. (2003). Nonparametric estimation of Shannon's index of diversity when
    there are unseen species in sample. doi:10.1023/A:1026096204727

    Chao, A., Wang, Y. T. and Jost, L. (2013). Entropy and the species accumulation curve: a novel
    entropy estimator via discovery rates of new species. doi:10.1111/2041-210X.12108

    See Also
    --------
    entropy_from_samples : the same from the observations themselves.
    xent.entropy : of a distribution that is known; with ``normalize=True`` the plug-in.

    Examples
    --------
    >>> coin = {"heads": 520, "tails": 480}
    >>> entropy_from_counts(coin, unit="bits").interval
    (0.9938, 1.0395)
    >>> entropy_from_counts(coin, unit="bits", alphabet_size=2).interval
    (0.9938, 1.0)
    >>> for estimator in ("plug_in", "miller_madow", "jackknife", "chao_shen", "chao_wang_jost"):
    ...     print(f"{entropy_from_counts([4, 2, 1, 1], estimator=estimator).value:.4f}")
    1.2130
    1.4005
    1.5429
    1.5784
    1.5652
    """
    return _estimate(as_counts(counts, "counts"), estimator, alphabet_size, unit)


def entropy_from_samples(
    samples: Any,
    *,
    estimator: str = "chao_wang_jost",
    alphabet_size: int | None = None,
    unit: str = "nats",
) -> EntropyEstimate:
    """Estimate Shannon's entropy from observations.

    Parameters
    ----------
    samples
        The observed values, in any order: a vector of any array library, a list, a text (its
        characters) or another iterable of hashable values.
    estimator, alphabet_size, unit
        As for `entropy_from_counts`, which has the formulas.

    Returns
    -------
    EntropyEstimate
        The estimate, and a 95 % interval or the reason why there is none. The interval supposes
        that the observations are independent: neighbouring letters of a text are not.

    Raises
    ------
    ShapeError
        If there is no observation, or an array is no vector.
    TargetError
        If a value is missing (None, NaN) or cannot be counted.
    OptionError
        As for `entropy_from_counts`.

    See Also
    --------
    entropy_from_counts : the same from how often each value was observed.

    Examples
    --------
    >>> entropy_from_samples(["a", "b", "a", "c"], estimator="plug_in", unit="bits").value
    1.5
    """
    return _estimate(as_sample(samples, "samples").counts, estimator, alphabet_size, unit)


def _estimate(sample: Counts, estimator: str, alphabet_size: Any, unit: str) -> EntropyEstimate:
    estimate = estimator_named(estimator)
    tally = Tally.in_order(sample.counts)
    observed, once = int(tally.observed), int(tally.singletons)
    size = _checked_size(alphabet_size, observed)
    value = float(from_nats(float(estimate(tally)), unit))
    found = interval_of(tally, size)
    if not found.given:
        why = _why_none(int(tally.minority), float(found.unseen), sample.n, once)
        return EntropyEstimate(
            value, unit, estimator, sample.n, observed, once, size, why_no_interval=why
        )
    error, lower, upper = (
        float(from_nats(float(nats), unit))
        for nats in (found.standard_error, found.lower, found.upper)
    )
    return EntropyEstimate(
        value, unit, estimator, sample.n, observed, once, size, error, (lower, upper)
    )


def _checked_size(alphabet_size: Any, observed: int) -> int | None:
    if alphabet_size is None:
        return None
    whole = isinstance(alphabet_size, (int, np.integer)) and not isinstance(alphabet_size, bool)
    if not whole or alphabet_size < observed:
        raise OptionError(
            f"alphabet_size must be a whole number, at least the {observed} distinct values that "
            f"were observed: got {alphabet_size!r}. Hint: leave it out where it is not known."
        )
    return int(alphabet_size)


def _why_none(minority: int, unseen: float, n: int, once: int) -> str:
    if minority < LEAST_MINORITY:
        return (
            f"only {minority} of the {n} observations are not of the most frequent "
            f"value; an interval needs {LEAST_MINORITY}"
        )
    return (
        f"{once} of the {n} observations are of values seen once, so up to "
        f"{min(unseen, 1.0):.0%} of the probability may lie on values not seen; an "
        f"interval needs at most {MOST_UNSEEN:.0%}"
    )
