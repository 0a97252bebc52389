"""Split the score of yes-or-no predictions into miscalibration, discrimination and uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from xent.errors import MissingExtraError, OptionError, ShapeError
from xent.estimation.estimators import divergence_excess
from xent.scoring.histogram import BIN_OF_ONE, BIN_OF_ZERO, Histogram

__all__ = ["Decomposition", "decompose", "isotonic", "predicted", "require_rows", "shares"]

_ROUNDING = 32 * np.finfo(np.float64).eps  # of a sum of losses, relative


@dataclass(frozen=True)
class Decomposition:
    """A score and its terms: score = miscalibration − discrimination + uncertainty.

    Each is computed on its own, so the equation holds to rounding.

    Attributes
    ----------
    measure
        ``"log_loss"``, in nats, or ``"brier"``, which has no unit.
    score
        The mean over the rows; +∞ if the log loss of a row is.
    miscalibration
        What recalibration takes off the score, ≥ 0; infinite if the score is.
    discrimination
        How much better the recalibrated predictions are than the base rate, ≥ 0.
    uncertainty
        The score of the base rate.

    Examples
    --------
    >>> Decomposition("brier", 0.20, 0.05, 0.10, 0.25).to_dict()["infinite"]
    False
    """

    measure: str
    score: float
    miscalibration: float
    discrimination: float
    uncertainty: float

    def to_dict(self) -> dict[str, Any]:
        """Return the terms as numbers, texts, booleans and None only: an infinite one is None."""
        terms = {
            name: None if isinstance(term, float) and math.isinf(term) else term
            for name, term in asdict(self).items()
        }
        return {**terms, "infinite": math.isinf(self.score)}


def decompose(histogram: Histogram, score: str = "log_loss") -> Decomposition:
    r"""Split a score by isotonic recalibration (CORP), from the histogram of the predictions.

    With S(·) the mean score of a prediction, m the isotonic regression of the truth on the bins
    (pool-adjacent-violators) and ȳ the base rate,

    .. math:: S(p) = \underbrace{S(p) - S(m)}_{\text{miscalibration}}
              - \underbrace{[S(ȳ) - S(m)]}_{\text{discrimination}}
              + \underbrace{S(ȳ)}_{\text{uncertainty}}

    Each S(p) − S(m) is computed as a sum of non-negative terms: with q the mean prediction of a
    bin, B a block of bins that were pooled, and D the divergence of the score (Kullback–Leibler's,
    or the squared difference), whose generator has the slope s (the logit, or 2q),

    .. math:: S(q) - S(m) = \frac{1}{W} \sum_B \Big[\sum_{b \in B} w_b D(m_B‖q_b)
              - \sum_{b \in B} w_b (ȳ_b - m_B)\, s(q_b)\Big], \qquad
              S(ȳ) - S(m) = \frac{1}{W} \sum_B w_B D(m_B‖ȳ)

    The rest S(p) − S(q) is what the differences within bins do, with the exact score of the rows:
    if it takes something off the score it is discrimination, otherwise miscalibration (for Brier's
    score the within-bin variance and covariance of Stephenson, Coelho and Jolliffe).

    What binning costs: isotonic regression of the rows themselves gives a miscalibration and a
    discrimination that differ from these by one and the same amount. Let the truth's probability
    be g, its logit rising s times as fast as that of p. Logits of one bin lie within 1/16, so
    their variance v is at most 1/1024. To second order, telling the rows of a bin apart gains
    s²·g(1 − g)·v/2 nats, and S(q) − S(p) is s·g(1 − g)·v − p(1 − p)·v/2. These agree for
    calibrated predictions; otherwise they differ by at most
    max(1, s²)·E[max(p(1 − p), g(1 − g))]/2048 nats (for Brier's score, with the squares of both
    products, by /1024). Beyond that, regression of the rows fits the noise of their order within
    bins, which is no property of the predictions, and falls with the number of rows.

    Parameters
    ----------
    histogram
        Of one yes-or-no question: of two classes, or of one class against the others. The terms of
        several questions belong to their own scores, and add up to no score of all classes.
    score
        ``"log_loss"`` or ``"brier"``, the mean of (p − y)².

    Returns
    -------
    Decomposition
        In nats for the log loss. If a certain prediction was wrong, score and miscalibration are
        +∞, the others finite. If only one class occurs, discrimination and uncertainty are 0.

    Raises
    ------
    ShapeError
        If the histogram holds no row.
    OptionError
        If `score` is neither name.
    MissingExtraError
        If scipy is not installed.

    References
    ----------
    Dimitriadis, T., Gneiting, T. and Jordan, A. I. (2021). Stable reliability diagrams for
    probabilistic classifiers. doi:10.1073/pnas.2016191118

    Stephenson, D. B., Coelho, C. A. S. and Jolliffe, I. T. (2008). Two extra components in the
    Brier score decomposition. doi:10.1175/2007WAF2006116.1

    See Also
    --------
    xent.scoring.reliability.reliability_curve : the recalibrated values themselves.
    xent.scoring.reliability.smooth_calibration_error : miscalibration on the scale of p.

    Examples
    --------
    >>> told = Histogram.from_rows([0.9, 0.9, 0.9, 0.9, 0.2, 0.2], [1, 1, 1, 0, 0, 0])
    >>> terms = decompose(told)
    >>> terms.score, terms.miscalibration, terms.discrimination, terms.uncertainty
    (0.5108, 0.1359, 0.3183, 0.6931)
    """
    if score not in _SCORES:
        raise OptionError(
            f"score must be 'log_loss' or 'brier': got {score!r}. "
            "Hint: these two are split exactly; others have a divergence of their own."
        )
    require_rows(histogram)
    rule, h, total = _RULES[score], histogram, math.fsum(histogram.weight)
    starts = isotonic(h.hits / h.weight, h.weight)[0]
    width = np.diff(starts, append=h.bins.size)
    block_weight = np.add.reduceat(h.weight, starts)
    block = shares(np.add.reduceat(h.hits, starts), block_weight)
    truth, prediction = shares(h.hits, h.weight), predicted(h)
    base_rate = shares(np.array([math.fsum(h.hits)]), np.array([total]))

    # Where a certain prediction was right, the value recalibrated from rounded sums may be off
    # its infinite slope by a rounding; where it was wrong, the score is infinite.
    apart = _finite(rule.divergence(np.repeat(block, width, axis=0), prediction))
    against = _gap(np.repeat(block, width, axis=0), truth) * _finite(rule.slope(prediction))
    in_order = np.maximum(np.add.reduceat(h.weight * against, starts), 0.0)
    between = math.fsum([*(h.weight * apart), *in_order]) / total
    resolved = math.fsum(block_weight * rule.divergence(block, base_rate)) / total

    uncertainty = rule.uncertainty(h, base_rate, total)
    rows, as_bins = rule.scores(h, truth, prediction)
    varied = (h.bins > BIN_OF_ZERO) & (h.bins < BIN_OF_ONE)
    within = math.fsum([*rows[varied], *(-as_bins[varied])]) / total
    if abs(within) <= _ROUNDING * math.fsum(rows[varied]) / total:
        within = 0.0  # as where the predictions of each bin are equal
    # Nothing can tell more than there is, which rounding could undo.
    told = min(max(-within, 0.0), max(uncertainty - resolved, 0.0))
    return Decomposition(
        score,
        math.fsum(rows) / total,
        math.inf if np.isinf(rows).any() else max(between + (within + told), 0.0),
        resolved + told,
        uncertainty,
    )


def require_rows(histogram: Histogram) -> None:
    """Refuse a histogram without rows."""
    if not histogram.bins.size:
        raise ShapeError(
            "a histogram must hold at least one row of positive weight: got none. "
            "Hint: the calibration of no rows is undefined."
        )


def isotonic(share: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the blocks of an isotonic regression begin, and its values.

    Raises
    ------
    MissingExtraError
        If scipy is not installed.

    Examples
    --------
    >>> starts, values = isotonic(np.array([0.5, 0.1, 0.7]), np.array([1.0, 1.0, 1.0]))
    >>> starts.tolist(), values.tolist()
    ([0, 2], [0.3, 0.3, 0.7])
    """
    try:
        from scipy.optimize import isotonic_regression
    except ImportError:
        raise MissingExtraError("scipy", "tables") from None
    fit = isotonic_regression(share, weights=weight)
    return fit.blocks[:-1], fit.x


def shares(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part/whole and its complement, each with its digits, in the two last entries.

    Examples
    --------
    >>> shares(np.array([1.0]), np.array([4.0])).tolist()
    [[0.25, 0.75]]
    """
    part = np.minimum(part, whole)
    return np.stack([part, whole - part], axis=-1) / whole[..., None]


def predicted(histogram: Histogram) -> np.ndarray:
    """Return the mean prediction of each bin and its complement, shape (bins, 2).

    Where products of weights and predictions are too small for a float, the mean is given as e⁻⁴⁰,
    beyond which bins do not tell predictions apart.

    Examples
    --------
    >>> predicted(Histogram.from_rows([0.25], [1])).tolist()
    [[0.25, 0.75]]
    """
    sums = np.stack([histogram.probability, histogram.complement], axis=-1)
    means = sums / sums.sum(axis=-1, keepdims=True)
    lost = (histogram.bins > BIN_OF_ZERO) & (means[:, 0] < np.finfo(np.float64).tiny)
    means[lost, 0] = math.exp(-40.0)
    return means


# ---- the two scores ----------------------------------------------------------------------------


class _Rule(NamedTuple):
    """What a score needs: functions of shares, each with its complement beside it.

    Attributes
    ----------
    divergence
        D(m‖q), what predicting q costs where m is right.
    slope
        Of the generator at q.
    uncertainty
        The score of the base rate.
    scores
        Σ of the scores in each bin, and what it would be if the whole bin predicted its mean.
    """

    divergence: Callable[[np.ndarray, np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]
    uncertainty: Callable[[Histogram, np.ndarray, float], float]
    scores: Callable[[Histogram, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _gap(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return p − q, from the complements where these are smaller."""
    return np.where(q[..., 0] < 0.5, p[..., 0] - q[..., 0], q[..., 1] - p[..., 1])


def _finite(numbers: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(numbers), numbers, 0.0)


def _logs(q: np.ndarray) -> np.ndarray:
    """Return log q and log(1 − q): of a share near 1 by way of the other, which has the digits."""
    with np.errstate(divide="ignore"):
        return np.where(q <= 0.5, np.log(q), np.log1p(-np.minimum(q[..., ::-1], 0.5)))


def _inaccuracy(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return −p·log q − (1 − p)·log(1 − q), with 0·log 0 = 0."""
    return np.multiply(p, 0.0 - _logs(q), out=np.zeros_like(p), where=p > 0).sum(axis=-1)


def _divergence(m: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return m·log(m/q) + (1 − m)·log((1 − m)/(1 − q)) as a sum of m·log(m/q) − m + q."""
    m, q = np.broadcast_arrays(m, q)
    gap = np.stack([_gap(q, m), -_gap(q, m)], axis=-1)
    near = (3.0 * np.abs(gap) <= m) & (m > 0)
    excess = divergence_excess(np.where(near, gap, 0.0), np.where(near, m, 1.0))
    ratio = np.subtract(_logs(q), _logs(m), out=np.zeros(m.shape), where=m > 0)
    return np.where(near, m * excess, gap - m * ratio).sum(axis=-1)


def _logit(q: np.ndarray) -> np.ndarray:
    logs = _logs(q)
    return logs[..., 0] - logs[..., 1]


def _log_losses(
    h: Histogram, truth: np.ndarray, prediction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    rows = np.where(h.infinite_weight > 0, np.inf, h.loss)
    return rows, h.weight * _inaccuracy(truth, prediction)


def _squared_errors(
    h: Histogram, truth: np.ndarray, prediction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    variance = truth[:, 0] * truth[:, 1]  # of the truth in a bin, with that of each soft label
    return h.squared, h.weight * (_gap(truth, prediction) ** 2 + variance) - h.softness


_SCORES = ("log_loss", "brier")
_RULES = {
    "log_loss": _Rule(
        divergence=_divergence,
        slope=_logit,
        uncertainty=lambda _, rate, __: float(_inaccuracy(rate, rate)[0]),
        scores=_log_losses,
    ),
    "brier": _Rule(
        divergence=lambda m, q: _gap(m, q) ** 2,
        slope=lambda q: 2.0 * q[..., 0],
        uncertainty=lambda h, rate, total: max(
            float(rate[0].prod()) - math.fsum(h.softness) / total, 0.0
        ),
        scores=_squared_errors,
    ),
}
