"""Entropy from samples or counts: an estimate, and an interval where one was shown to cover.

No interval covers for every distribution: values that were never seen may hold any entropy. The
rule here says which data get one. It was checked by simulation on the distributions of
docs/estimation.md, and everything else gets the reason instead.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from xent.estimation.counting import Counts, as_counts, as_sample
from xent.estimation.estimators import Tally, chao_wang_jost, estimator_named, standard_error
from xent.units import from_nats

__all__ = [
    "EntropyEstimate",
    "Interval",
    "entropy_from_counts",
    "entropy_from_samples",
    "interval_of",
]

CONFIDENCE = 0.95
LEAST_MINORITY = 50
MOST_UNSEEN = 0.05
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2.0)


class Interval(NamedTuple):
    """Intervals of rows of counts in nats, and which of them are given.

    Attributes
    ----------
    lower, upper
        The ends.
    standard_error
        Of the centre.
    minority
        n minus the largest count: the observations that are not of the most frequent value.
    unseen
        (f₁ + 3·√(f₁ + 1))/n, which the probability of all values not seen hardly exceeds.
    given
        Whether the rule gives the interval.
    """

    lower: np.ndarray
    upper: np.ndarray
    standard_error: np.ndarray
    minority: np.ndarray
    unseen: np.ndarray
    given: np.ndarray


def interval_of(tally: Tally) -> Interval:
    """Return the intervals of rows of counts, by the rule that the simulation checks.

    The interval is the Chao–Wang–Jost estimate ± (1.96 standard errors + `unseen`): that much is
    added because, if the unseen values are e times as many, or as few, as the estimate supposes,
    the entropy changes by their probability in nats. It is given where `minority` is at least 50,
    for the normal approximation, and `unseen` at most 5 %.
    """
    centre, error = chao_wang_jost(tally), standard_error(tally)
    minority = tally.n - tally.counts.max(axis=-1)
    unseen = (tally.singletons + 3.0 * np.sqrt(tally.singletons + 1.0)) / tally.n
    half = _Z * error + unseen
    given = (minority >= LEAST_MINORITY) & (unseen <= MOST_UNSEEN)
    return Interval(centre - half, centre + half, error, minority, unseen, given)


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
    'only 3 of the 10 observations are not of the most frequent value; an interval needs 50'
    """

    value: float
    unit: str
    estimator: str
    n: int
    observed: int
    singletons: int
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
    counts: Any, *, estimator: str = "chao_wang_jost", unit: str = "nats"
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
        If `estimator` or `unit` is none of the names.

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
    >>> heads_and_tails = entropy_from_counts({"heads": 520, "tails": 480}, unit="bits")
    >>> heads_and_tails.value
    0.999567
    >>> heads_and_tails.interval
    (0.99114, 1.00800)
    >>> for estimator in ("plug_in", "miller_madow", "jackknife", "chao_shen", "chao_wang_jost"):
    ...     print(f"{entropy_from_counts([4, 2, 1, 1], estimator=estimator).value:.4f}")
    1.2130
    1.4005
    1.5429
    1.5784
    1.5652
    """
    return _estimate(as_counts(counts, "counts"), estimator, unit)


def entropy_from_samples(
    samples: Any, *, estimator: str = "chao_wang_jost", unit: str = "nats"
) -> EntropyEstimate:
    """Estimate Shannon's entropy from observations.

    Parameters
    ----------
    samples
        The observed values, in any order: a vector of any array library, a list, a text (its
        characters) or another iterable of hashable values.
    estimator, unit
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
        If `estimator` or `unit` is none of the names.

    See Also
    --------
    entropy_from_counts : the same from how often each value was observed.

    Examples
    --------
    >>> entropy_from_samples(["a", "b", "a", "c"], estimator="plug_in", unit="bits").value
    1.5
    """
    return _estimate(as_sample(samples, "samples").counts, estimator, unit)


def _estimate(sample: Counts, estimator: str, unit: str) -> EntropyEstimate:
    estimate = estimator_named(estimator)
    tally = Tally.in_order(sample.counts)
    value = float(from_nats(float(estimate(tally)), unit))
    observed, once = int(tally.observed), int(tally.singletons)
    found = interval_of(tally)
    if not found.given:
        why = _why_none(found, sample.n, once)
        return EntropyEstimate(
            value, unit, estimator, sample.n, observed, once, why_no_interval=why
        )
    error, *ends = (
        float(from_nats(float(nats), unit))
        for nats in (found.standard_error, found.lower, found.upper)
    )
    return EntropyEstimate(
        value, unit, estimator, sample.n, observed, once, error, (ends[0], ends[1])
    )


def _why_none(found: Interval, n: int, once: int) -> str:
    if found.minority < LEAST_MINORITY:
        return (
            f"only {int(found.minority)} of the {n} observations are not of the most frequent "
            f"value; an interval needs {LEAST_MINORITY}"
        )
    return (
        f"{once} of the {n} observations are of values seen once, so up to {found.unseen:.1%} of "
        f"the probability may lie on values not seen; an interval needs at most {MOST_UNSEEN:.0%}"
    )
