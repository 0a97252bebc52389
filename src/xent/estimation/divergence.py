"""Cross-entropy and Kullback–Leibler divergence between two samples, with a stated smoothing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from xent.errors import OptionError
from xent.estimation.counting import EXACT_IN_INT64, Pair, as_counts, as_pair, as_sample
from xent.estimation.estimators import divergence_excess, surprisals
from xent.units import from_nats

__all__ = [
    "DivergenceEstimate",
    "cross_entropy_from_counts",
    "cross_entropy_from_samples",
    "kl_divergence_from_counts",
    "kl_divergence_from_samples",
    "require_smoothing",
]


SMALLEST_SMOOTHING = 1e-100
LARGEST_SMOOTHING = 1e100


@dataclass(frozen=True)
class DivergenceEstimate:
    """A cross-entropy or divergence estimated from two samples, with the choices behind it.

    Attributes
    ----------
    measure
        ``"cross_entropy"`` or ``"kl_divergence"``.
    value
        The estimate, in `unit`; +∞ where the second sample lacks a value of the first and
        `smoothing` is 0.
    unit
        ``"nats"``, ``"bits"`` or ``"bans"``.
    smoothing
        What was added to every count of the second sample.
    alphabet_size
        The number of values that it was added to.
    n_p, n_q
        Number of observations in the first and the second sample.
    unsupported
        The values that the first sample has and the second lacks: what makes the estimate
        infinite without smoothing, and what depends most on the smoothing otherwise.
    unsupported_mass
        Their share of the first sample.

    Examples
    --------
    >>> kl_divergence_from_samples("aab", "aaa").unsupported
    ('b',)
    """

    measure: str
    value: float
    unit: str
    smoothing: float
    alphabet_size: int
    n_p: int
    n_q: int
    unsupported: tuple[Any, ...]
    unsupported_mass: float

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as numbers, texts, lists and None only: an infinite value is None.

        Values that JSON has no word for, such as tuples, are given as their `repr`.
        """
        return {
            "measure": self.measure,
            "value": self.value if math.isfinite(self.value) else None,
            "infinite": math.isinf(self.value),
            "unit": self.unit,
            "smoothing": self.smoothing,
            "alphabet_size": self.alphabet_size,
            "n_p": self.n_p,
            "n_q": self.n_q,
            "unsupported": [v if _is_plain(v) else repr(v) for v in self.unsupported],
            "unsupported_mass": self.unsupported_mass,
        }


def cross_entropy_from_counts(
    p_counts: Any,
    q_counts: Any,
    *,
    smoothing: float = 0.0,
    alphabet: Iterable[Any] | None = None,
    unit: str = "nats",
) -> DivergenceEstimate:
    r"""Estimate :math:`H(P, Q)` from counts: :math:`-\sum_i \frac{a_i}{n_p}\log q_i`.

    With smoothing α, :math:`q_i = (b_i + α)/(n_q + αK)` over an alphabet of K values: α = 1 is
    Laplace's rule of succession, α = ½ the Krichevsky–Trofimov estimate (Jeffreys' prior). P is
    never smoothed, so the estimate is the mean surprisal of the first sample under a prediction
    learned from the second.

    Parameters
    ----------
    p_counts, q_counts
        How often each value was observed in the first and in the second sample: two vectors of
        whole numbers ≥ 0 in one order, or two mappings (or pandas series) from value to count.
    smoothing
        α, added to each count of the second sample: 0 or 1e-100 to 1e100. With 0, the default,
        nothing is: the estimate is +∞ if the second sample lacks a value of the first.
    alphabet
        The values that are possible, for mappings; by default those that either one names. The
        alphabet of vectors is their positions. Only smoothing depends on it.
    unit
        ``"nats"``, ``"bits"`` or ``"bans"``.

    Returns
    -------
    DivergenceEstimate
        The estimate with its smoothing, alphabet size and unsupported values. It comes without an
        interval: what is not known of the unsupported values is up to the smoothing. If Q is
        known, or a model that saw none of these observations, the cross-entropy is a mean
        of independent terms: see `xent.scoring.LossSummary` for its standard error.

    Raises
    ------
    DistributionError
        If a count is negative, not finite or no whole number.
    ShapeError
        If a sample holds no observation, or the two do not count the same values.
    OptionError
        If `smoothing` is outside its range, `alphabet` lacks an observed value, or `unit` is
        none of the names.

    References
    ----------
    Krichevsky, R. and Trofimov, V. (1981). The performance of universal encoding.
    doi:10.1109/TIT.1981.1056331

    See Also
    --------
    kl_divergence_from_counts : less the plug-in entropy of the first sample.
    xent.cross_entropy : of distributions that are known.

    Examples
    --------
    >>> estimate = cross_entropy_from_counts([2, 2], [3, 1], unit="bits")
    >>> estimate.value
    1.2075187
    >>> cross_entropy_from_counts({"a": 3, "b": 1}, {"a": 4}).value
    inf
    >>> cross_entropy_from_counts({"a": 3, "b": 1}, {"a": 4}, smoothing=1).value
    0.584681
    """
    pair = as_pair(as_counts(p_counts, "p_counts"), as_counts(q_counts, "q_counts"), alphabet)
    return _estimate("cross_entropy", pair, smoothing, unit)


def cross_entropy_from_samples(
    p_samples: Any,
    q_samples: Any,
    *,
    smoothing: float = 0.0,
    alphabet: Iterable[Any] | None = None,
    unit: str = "nats",
) -> DivergenceEstimate:
    """Estimate H(P, Q) from observations of both.

    Parameters
    ----------
    p_samples, q_samples
        The observed values, as for `entropy_from_samples`; the samples may differ in length.
    smoothing, alphabet, unit
        As for `cross_entropy_from_counts`.

    Returns
    -------
    DivergenceEstimate
        As for `cross_entropy_from_counts`.

    Raises
    ------
    ShapeError, TargetError
        As for `entropy_from_samples`.
    OptionError
        As for `cross_entropy_from_counts`.

    See Also
    --------
    cross_entropy_from_counts : the same from counts, and the formula.

    Examples
    --------
    >>> cross_entropy_from_samples("abba", "aaab", unit="bits").value
    1.2075187
    """
    pair = _pair_of_samples(p_samples, q_samples, alphabet)
    return _estimate("cross_entropy", pair, smoothing, unit)


def kl_divergence_from_counts(
    p_counts: Any,
    q_counts: Any,
    *,
    smoothing: float = 0.0,
    alphabet: Iterable[Any] | None = None,
    unit: str = "nats",
) -> DivergenceEstimate:
    r"""Estimate :math:`D(P‖Q)` from counts: :math:`\sum_i \frac{a_i}{n_p}\log\frac{a_i/n_p}{q_i}`.

    With q_i smoothed as in `cross_entropy_from_counts`, and P not. It is positive by chance alone:
    two samples of one distribution of K values, none of them rare, are (K − 1)/2·(1/n_p + 1/n_q)
    nats apart on average. `permutation_test_from_counts` says whether an estimate is more than
    that.

    Parameters
    ----------
    p_counts, q_counts, smoothing, alphabet, unit
        As for `cross_entropy_from_counts`.

    Returns
    -------
    DivergenceEstimate
        The estimate with its smoothing, alphabet size and unsupported values; never negative.

    Raises
    ------
    DistributionError, ShapeError, OptionError
        As for `cross_entropy_from_counts`.

    References
    ----------
    Kullback, S. and Leibler, R. A. (1951). On information and sufficiency.
    doi:10.1214/aoms/1177729694

    See Also
    --------
    permutation_test_from_counts : whether two samples differ by more than chance.
    xent.kl_divergence : of distributions that are known.

    Examples
    --------
    >>> kl_divergence_from_counts([2, 2], [3, 1], unit="bits").value
    0.2075187
    >>> estimate = kl_divergence_from_counts({"a": 3, "b": 1}, {"a": 4}, smoothing=0.5)
    >>> estimate.value, estimate.unsupported, estimate.alphabet_size
    (0.09233, ('b',), 2)
    """
    pair = as_pair(as_counts(p_counts, "p_counts"), as_counts(q_counts, "q_counts"), alphabet)
    return _estimate("kl_divergence", pair, smoothing, unit)


def kl_divergence_from_samples(
    p_samples: Any,
    q_samples: Any,
    *,
    smoothing: float = 0.0,
    alphabet: Iterable[Any] | None = None,
    unit: str = "nats",
) -> DivergenceEstimate:
    """Estimate D(P‖Q) from observations of both.

    Parameters
    ----------
    p_samples, q_samples
        The observed values, as for `entropy_from_samples`; the samples may differ in length.
    smoothing, alphabet, unit
        As for `cross_entropy_from_counts`.

    Returns
    -------
    DivergenceEstimate
        As for `kl_divergence_from_counts`.

    Raises
    ------
    ShapeError, TargetError
        As for `entropy_from_samples`.
    OptionError
        As for `cross_entropy_from_counts`.

    See Also
    --------
    kl_divergence_from_counts : the same from counts, and the formula.

    Examples
    --------
    >>> kl_divergence_from_samples("abba", "aaab", unit="bits").value
    0.2075187
    """
    pair = _pair_of_samples(p_samples, q_samples, alphabet)
    return _estimate("kl_divergence", pair, smoothing, unit)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))


def _pair_of_samples(p: Any, q: Any, alphabet: Iterable[Any] | None) -> Pair:
    return as_pair(as_sample(p, "p_samples").counts, as_sample(q, "q_samples").counts, alphabet)


def require_smoothing(smoothing: Any) -> float:
    """Return the smoothing as a float, refusing what is none or could under- or overflow."""
    number = isinstance(smoothing, (int, float, np.integer, np.floating))
    if (
        not number
        or isinstance(smoothing, bool)
        or not (smoothing == 0 or SMALLEST_SMOOTHING <= smoothing <= LARGEST_SMOOTHING)
    ):
        raise OptionError(
            f"smoothing must be 0 or lie in [{SMALLEST_SMOOTHING:g}, {LARGEST_SMOOTHING:g}]: got "
            f"{smoothing!r}. Hint: 1 is Laplace's rule, 0.5 that of Krichevsky and Trofimov, 0 "
            "adds nothing."
        )
    return float(smoothing)


def _estimate(measure: str, pair: Pair, smoothing: Any, unit: str) -> DivergenceEstimate:
    alpha = require_smoothing(smoothing)
    nats = _cross_entropy(pair, alpha) if measure == "cross_entropy" else _divergence(pair, alpha)
    lacking = (pair.p > 0) & (pair.q == 0)
    return DivergenceEstimate(
        measure,
        float(from_nats(nats, unit)),
        unit,
        alpha,
        len(pair.values),
        pair.n_p,
        pair.n_q,
        tuple(pair.values[int(place)] for place in np.flatnonzero(lacking)),
        float(pair.p[lacking].sum() / pair.n_p),
    )


def _cross_entropy(pair: Pair, alpha: float) -> float:
    """Return −Σ p·log q of counts, each divided by its sum."""
    *_, told = surprisals(pair.q.astype(np.float64) + alpha)
    seen = pair.p > 0
    share = (pair.p[seen] / pair.n_p).astype(np.float64)
    return float((share * told[seen]).sum())


def _divergence(pair: Pair, alpha: float) -> float:
    """Return Σ p·log(p/q) of counts, each divided by its sum, from their exact differences."""
    added, scale = alpha.as_integer_ratio()
    n_p, n_q = pair.n_p, pair.n_q * scale + added * len(pair.values)
    kind = np.int64 if n_p * n_q < EXACT_IN_INT64 else object
    p, q = pair.p.astype(kind), pair.q.astype(kind) * scale + added
    seen = p > 0
    base = p[seen] * n_q
    excess = divergence_excess(q[seen] * n_p - base, base)
    # A value that only the second sample has adds its q to Σ(q − p).
    return float(((p[seen] / n_p).astype(np.float64) * excess).sum() + q[~seen].sum() / n_q)
