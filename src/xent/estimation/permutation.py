"""Are two samples from one distribution? An exact test, for divergences near zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from xent.errors import OptionError
from xent.estimation.counting import Pair, as_counts, as_pair, as_sample
from xent.estimation.divergence import require_smoothing
from xent.units import from_nats

__all__ = ["PermutationTest", "permutation_test_from_counts", "permutation_test_from_samples"]

_CELLS = 1 << 18  # counts of both samples that are looked at together
_MOST = 10**9  # what NumPy's generator of hypergeometric numbers takes


@dataclass(frozen=True)
class PermutationTest:
    """A permutation test of the hypothesis that two samples come from one distribution.

    Attributes
    ----------
    statistic
        ``"js_divergence"`` or ``"kl_divergence"``.
    value
        The statistic of the two samples, in `unit`.
    null_mean
        Its mean over the permutations: what chance alone gives samples of these sizes.
    p_value
        (1 + at_least)/(1 + permutations).
    at_least
        The number of permutations whose statistic is as large as the samples', or larger.
    permutations
        How many were drawn.
    n_p, n_q
        Number of observations in the first and the second sample.
    alphabet_size
        The number of values that either sample has.
    smoothing
        As given for the Kullback–Leibler divergence, None for the other statistic.
    unit
        ``"nats"``, ``"bits"`` or ``"bans"``.

    Examples
    --------
    >>> test = permutation_test_from_counts([2, 1], [1, 2])
    >>> test.p_value
    1.0
    """

    statistic: str
    value: float
    null_mean: float
    p_value: float
    at_least: int
    permutations: int
    n_p: int
    n_q: int
    alphabet_size: int
    smoothing: float | None
    unit: str

    def to_dict(self) -> dict[str, Any]:
        """Return the test as numbers, texts and None only."""
        return asdict(self)


def permutation_test_from_counts(
    p_counts: Any,
    q_counts: Any,
    *,
    statistic: str = "js_divergence",
    smoothing: float | None = None,
    permutations: int = 9999,
    seed: int | np.random.Generator = 0,
    unit: str = "nats",
) -> PermutationTest:
    r"""Test whether two samples come from one distribution.

    Divergences of samples are never negative and seldom 0, so a small one says little by itself.
    If both samples come from one distribution, every division of all observations into samples of
    these sizes is equally likely. So many are drawn at random, and the p-value is
    (1 + how many have a statistic at least as large)/(1 + how many were drawn). It is *exact* for
    any sizes, alphabets and number of permutations: under the hypothesis, P(p-value ≤ α) ≤ α. It
    supposes independent observations.

    The statistic is the Jensen–Shannon divergence weighted by the sizes of the samples,
    :math:`\frac{n_p}{n} D(P‖R) + \frac{n_q}{n} D(Q‖R)` with R the distribution of all
    observations (Lin, 1991). It is finite without smoothing, and 2n times it is the likelihood
    ratio G of the hypothesis. The Kullback–Leibler divergence may be taken instead; it needs a
    smoothing, since a permutation may leave the second sample without a value of the first.

    Parameters
    ----------
    p_counts, q_counts
        How often each value was observed in the first and in the second sample: two vectors of
        whole numbers ≥ 0 in one order, or two mappings (or pandas series) from value to count.
        A value that neither has changes nothing.
    statistic
        ``"js_divergence"`` or ``"kl_divergence"``.
    smoothing
        For ``"kl_divergence"`` only: the α > 0 of `kl_divergence_from_counts`, over the values
        that either sample has.
    permutations
        How many to draw; the least p-value is 1/(1 + permutations).
    seed
        An integer, which gives the same p-value every time, or a generator.
    unit
        ``"nats"``, ``"bits"`` or ``"bans"``.

    Returns
    -------
    PermutationTest
        The statistic, its mean by chance, and the p-value.

    Raises
    ------
    DistributionError
        If a count is negative, not finite or no whole number.
    ShapeError
        If a sample holds no observation, or the two do not count the same values.
    OptionError
        If an option is outside its domain, or there are 10⁹ observations or more.

    References
    ----------
    Phipson, B. and Smyth, G. K. (2010). Permutation p-values should never be zero: calculating
    exact p-values when permutations are randomly drawn. doi:10.2202/1544-6115.1585

    Lin, J. (1991). Divergence measures based on the Shannon entropy. doi:10.1109/18.61115

    See Also
    --------
    kl_divergence_from_counts : the size of the difference; this tests whether there is one.

    Examples
    --------
    >>> test = permutation_test_from_counts([30, 14, 6], [18, 22, 10])
    >>> test.value, test.null_mean
    (0.02918, 0.01042)
    >>> test.p_value
    0.0667
    """
    pair = as_pair(as_counts(p_counts, "p_counts"), as_counts(q_counts, "q_counts"))
    return _test(pair, statistic, smoothing, permutations, seed, unit)


def permutation_test_from_samples(
    p_samples: Any,
    q_samples: Any,
    *,
    statistic: str = "js_divergence",
    smoothing: float | None = None,
    permutations: int = 9999,
    seed: int | np.random.Generator = 0,
    unit: str = "nats",
) -> PermutationTest:
    """Test from observations whether two samples come from one distribution.

    Parameters
    ----------
    p_samples, q_samples
        The observed values, as for `entropy_from_samples`; the samples may differ in length.
    statistic, smoothing, permutations, seed, unit
        As for `permutation_test_from_counts`.

    Returns
    -------
    PermutationTest
        The statistic, its mean by chance, and the p-value.

    Raises
    ------
    ShapeError, TargetError
        As for `entropy_from_samples`.
    OptionError
        As for `permutation_test_from_counts`.

    See Also
    --------
    permutation_test_from_counts : the same from counts, and what is tested.

    Examples
    --------
    >>> permutation_test_from_samples("a" * 20 + "b" * 5, "a" * 5 + "b" * 20).p_value
    0.0001
    """
    samples = (as_sample(p_samples, "p_samples"), as_sample(q_samples, "q_samples"))
    pair = as_pair(*(sample.counts for sample in samples))
    return _test(pair, statistic, smoothing, permutations, seed, unit)


def _test(
    pair: Pair,
    statistic: str,
    smoothing: float | None,
    permutations: int,
    seed: int | np.random.Generator,
    unit: str,
) -> PermutationTest:
    alpha = _checked(statistic, smoothing, permutations, seed)
    from_nats(0.0, unit)  # an unknown unit is told before the work
    n = pair.n_p + pair.n_q
    if n >= _MOST:
        raise OptionError(
            f"a permutation test takes fewer than {_MOST} observations: got {n}. "
            "Hint: with so many, twice their number times the Jensen–Shannon divergence is "
            "chi-squared by chance, with one degree of freedom for each value but one."
        )
    # In the order of their counts, so that neither names nor their order change the p-value.
    order = np.lexsort((pair.p, pair.p + pair.q))
    order = order[(pair.p + pair.q)[order] > 0]
    p, q = (counts[order].astype(np.float64) for counts in (pair.p, pair.q))
    value = max(float(_statistic(p, q, alpha)), 0.0)  # equal samples may be off by rounding
    # The same samples in another order may differ by rounding, and count as equal.
    nearly = value * (1.0 - 1e-9) - 1e-14
    at_least, total = 0, 0.0
    for drawn in _divisions(p + q, pair.n_p, permutations, np.random.default_rng(seed)):
        by_chance = _statistic(drawn, (p + q) - drawn, alpha)
        at_least += int(np.count_nonzero(by_chance >= nearly))
        total += float(by_chance.sum())
    return PermutationTest(
        statistic=statistic,
        value=float(from_nats(value, unit)),
        null_mean=float(from_nats(total / permutations, unit)),
        p_value=(1 + at_least) / (1 + permutations),
        at_least=at_least,
        permutations=int(permutations),
        n_p=pair.n_p,
        n_q=pair.n_q,
        alphabet_size=p.size,
        smoothing=alpha,
        unit=unit,
    )


def _checked(statistic: str, smoothing: Any, permutations: Any, seed: Any) -> float | None:
    """Return the smoothing of the divergence, None for the other statistic."""
    if statistic not in ("js_divergence", "kl_divergence"):
        raise OptionError(
            f"statistic must be 'js_divergence' or 'kl_divergence': got {statistic!r}. "
            "Hint: the first needs no smoothing, and is the likelihood ratio but for a factor."
        )
    if not _is_whole(permutations) or permutations < 1:
        raise OptionError(
            f"permutations must be a whole number ≥ 1: got {permutations!r}. "
            "Hint: 9999 tells p-values down to 0.0001."
        )
    if not isinstance(seed, np.random.Generator) and not (_is_whole(seed) and seed >= 0):
        raise OptionError(
            f"seed must be a whole number ≥ 0 or a numpy.random.Generator: got {seed!r}. "
            "Hint: numpy.random.default_rng() draws anew each time."
        )
    if statistic == "js_divergence":
        if smoothing is not None:
            raise OptionError(
                f"smoothing belongs to the Kullback–Leibler divergence: got {smoothing!r} for "
                "'js_divergence'. Hint: the Jensen–Shannon divergence is finite without."
            )
        return None
    if smoothing is None or not require_smoothing(smoothing):
        raise OptionError(
            f"'kl_divergence' needs a smoothing above 0: got {smoothing!r}. "
            "Hint: smoothing=0.5; or statistic='js_divergence', which needs none."
        )
    return require_smoothing(smoothing)


def _is_whole(number: Any) -> bool:
    return isinstance(number, (int, np.integer)) and not isinstance(number, bool)


def _divisions(
    pooled: np.ndarray, n_p: int, permutations: int, generator: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield blocks of counts of the first sample, each from a random division of all."""
    block = max(1, _CELLS // pooled.size)
    whole = pooled.astype(np.int64)
    for start in range(0, permutations, block):
        size = min(block, permutations - start)
        drawn = generator.multivariate_hypergeometric(whole, n_p, size=size, method="marginals")
        yield drawn.astype(np.float64)


def _statistic(p: np.ndarray, q: np.ndarray, alpha: float | None) -> np.ndarray:
    """Return the divergence of rows of counts: weighted Jensen–Shannon, or Kullback–Leibler.

    Fewer operations than those of `xent.information`, which keep the digits of divergences near
    0: these have an absolute error of some 1e-16, a billion times less than samples can tell.
    """
    n_p, n_q = p.sum(axis=-1, keepdims=True), q.sum(axis=-1, keepdims=True)
    if alpha is not None:
        smoothed = (q + alpha) / (n_q + alpha * q.shape[-1])
        return _divergence(p / n_p, smoothed)
    n = n_p + n_q
    mean = (p + q) / n
    return (_divergence(p, mean * n_p) + _divergence(q, mean * n_q)) / n[..., 0]


def _divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return Σ p·log(p/q), with 0·log 0 = 0, for q > 0."""
    return (p * np.log(np.where(p > 0, p / q, 1.0))).sum(axis=-1)
