"""Which of several models predicts better: differences of the losses of the same rows, paired."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from xent.errors import MissingExtraError
from xent.scoring.clusters import ClusterSummary
from xent.scoring.intervals import Interval, check_level, mean_interval
from xent.scoring.summary import LossSummary

__all__ = [
    "ComparedModel",
    "Comparison",
    "Difference",
    "DifferingRow",
    "Pairs",
    "adjusted",
    "bootstrap_interval",
    "difference_of",
    "holm",
]

DRAWS = 2000
"""How often a bootstrap draws the rows anew."""


@dataclass(frozen=True)
class Pairs:
    """The statistics of rows that two models predicted, second less first.

    Attributes
    ----------
    differences
        Of the losses, over the rows in which both are finite; nats.
    first_infinite, second_infinite
        Rows in which only that model called the truth impossible.
    both_infinite
        Rows in which both did; they are in no difference.
    """

    differences: LossSummary
    first_infinite: int = 0
    second_infinite: int = 0
    both_infinite: int = 0

    @property
    def rows(self) -> int:
        """Number of rows that have a weight."""
        lost = self.first_infinite + self.second_infinite + self.both_infinite
        return self.differences.n + lost

    @property
    def mean(self) -> float | None:
        """Mean difference, nats: ±∞ if one model alone was infinitely wrong, None if each was.

        None too where no row is left.
        """
        if self.first_infinite and self.second_infinite:
            return None
        if self.first_infinite or self.second_infinite:
            return -math.inf if self.first_infinite else math.inf
        return self.differences.log_loss if self.differences.n else None

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean difference; None if that is not finite, or of one row."""
        if self.first_infinite or self.second_infinite:
            return None
        return self.differences.standard_error


@dataclass(frozen=True)
class Difference:
    """How much more a model loses than the first, on some of the rows.

    Attributes
    ----------
    column, value
        Which rows: those of a value of a column, or all where the column is None.
    pairs
        The statistics of the differences.
    interval
        Of the mean difference; None where that has none.
    p_value
        Two-sided, of no difference, by Student's t; None where there is no interval.
    adjusted_p_value
        The same by Holm's method over all values of all columns that were looked at.
    share
        The part of the whole difference that these rows make up; None where that is 0 or not
        finite.
    """

    column: str | None
    value: str | None
    pairs: Pairs
    interval: Interval | None
    p_value: float | None
    adjusted_p_value: float | None = None
    share: float | None = None

    @property
    def mean(self) -> float | None:
        """Mean difference, nats, as of `Pairs`."""
        return self.pairs.mean

    def to_dict(self) -> dict[str, Any]:
        """Return the difference as numbers, texts and None only: what is not finite is None."""
        mean = self.mean
        return {
            "column": self.column,
            "value": self.value,
            "rows": self.pairs.rows,
            "mean_nats": mean if mean is not None and math.isfinite(mean) else None,
            "infinite": mean is None or math.isinf(mean),
            "interval_nats": None if self.interval is None else self.interval.to_dict(),
            "p_value": self.p_value,
            "adjusted_p_value": self.adjusted_p_value,
            "share": self.share,
            "first_infinite_rows": self.pairs.first_infinite,
            "second_infinite_rows": self.pairs.second_infinite,
            "both_infinite_rows": self.pairs.both_infinite,
        }


@dataclass(frozen=True)
class DifferingRow:
    """A row in which a model lost more, or less, than the first.

    Attributes
    ----------
    key, label
        The row's key, and its true label.
    first, second
        What the truth got from the first model, and from this one: losses in nats, +∞ where that
        was nothing.
    """

    key: str
    label: str
    first: float
    second: float

    @property
    def difference(self) -> float:
        """Second less first, nats."""
        return self.second - self.first


@dataclass(frozen=True)
class ComparedModel:
    """One of the models, on the rows that all have.

    Attributes
    ----------
    path
        Its table.
    reading
        How that was read.
    summary
        The statistics of its losses.
    accuracy
        Weighted share of the rows whose largest probability is the truth's.
    total
        How much more it loses than the first model, on all rows; None for the first.
    bootstrap
        The interval of that by drawing rows (or clusters) anew; None where the bootstrap was not
        made, which `Comparison.notes` then tell.
    groups
        The same by true label and by the values of the columns asked for.
    worse, better
        Rows in which it lost most against the first model, and in which it gained most.
    """

    path: str
    reading: tuple[str, ...]
    summary: LossSummary
    accuracy: float
    total: Difference | None = None
    bootstrap: Interval | None = None
    groups: tuple[Difference, ...] = ()
    worse: tuple[DifferingRow, ...] = ()
    better: tuple[DifferingRow, ...] = ()

    @property
    def log_loss(self) -> float:
        """Mean loss, nats; +∞ when some row is."""
        return self.summary.log_loss


@dataclass(frozen=True)
class Comparison:
    """What `xent.scoring.compare` found. All amounts in nats; differences are less the first's.

    Attributes
    ----------
    models
        The models, the one that the others are compared with first.
    key
        The column that pairs the rows.
    rows
        How many rows have a weight.
    cluster
        The column of rows that belong together, or None.
    level
        Of the intervals.
    notes
        What else there is to know, in sentences.
    """

    models: tuple[ComparedModel, ...]
    key: str
    rows: int
    cluster: str | None
    level: float
    notes: tuple[str, ...]

    @cached_property
    def best(self) -> ComparedModel:
        """The model with the least log loss; of equal ones the first."""
        return min(self.models, key=lambda model: model.log_loss)

    def _repr_html_(self) -> str:
        from xent.report.notebook import comparison_html

        return comparison_html(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as numbers, texts and None only: what is not finite is None."""
        return {
            "key": self.key,
            "rows": self.rows,
            "cluster": self.cluster,
            "level": self.level,
            "notes": list(self.notes),
            "models": [
                {
                    "file": model.path,
                    "reading": list(model.reading),
                    "log_loss_nats": _finite(model.log_loss),
                    "infinite_rows": model.summary.infinite_rows,
                    "accuracy": model.accuracy,
                    "difference": None if model.total is None else model.total.to_dict(),
                    "bootstrap_nats": None
                    if model.bootstrap is None
                    else model.bootstrap.to_dict(),
                    "groups": [group.to_dict() for group in model.groups],
                    "worse": [_row_to_dict(row) for row in model.worse],
                    "better": [_row_to_dict(row) for row in model.better],
                }
                for model in self.models
            ],
        }


def _row_to_dict(row: DifferingRow) -> dict[str, Any]:
    return {
        "key": row.key,
        "label": row.label,
        "first_loss_nats": _finite(row.first),
        "second_loss_nats": _finite(row.second),
        "difference_nats": _finite(row.difference),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# ---- from statistics to statements --------------------------------------------------------------


def difference_of(
    pairs: Pairs,
    *,
    level: float,
    clusters: ClusterSummary | None = None,
    carriers: float | None = None,
    where: tuple[str | None, str | None] = (None, None),
    whole: Pairs | None = None,
) -> Difference:
    """Return what is said about the differences of some rows.

    Parameters
    ----------
    pairs
        Their statistics.
    level
        Of the interval.
    clusters
        The totals of the differences by clusters, for the standard error by these.
    carriers
        How many rows carry half of the variance.
    where
        Column and value that the rows are those of.
    whole
        The statistics of all rows, for the share.
    """
    interval = None
    if pairs.mean is not None and math.isfinite(pairs.mean):
        interval = (
            mean_interval(pairs.differences, level=level, carriers=carriers)
            if clusters is None
            else clusters.interval(level)
        )
    error = pairs.standard_error if clusters is None else clusters.standard_error
    p_value = None
    if interval is not None and error is not None and pairs.mean is not None:
        p_value = _p_value(pairs.mean, error, interval.degrees)
    share = None
    if whole is not None and whole.mean and math.isfinite(whole.mean) and pairs.mean is not None:
        share = pairs.differences.finite_total / whole.differences.finite_total
    return Difference(*where, pairs, interval, p_value, share=share)


def _p_value(mean: float, error: float, degrees: float | None) -> float:
    """Return how likely a mean so far from 0 is without a difference; 1 where all are equal."""
    try:
        from scipy.special import stdtr
    except ImportError:
        raise MissingExtraError("scipy", "tables") from None
    if error == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    return float(2.0 * stdtr(math.inf if degrees is None else degrees, -abs(mean) / error))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values adjusted by Holm's method; None stays None and counts for nothing.

    The chance of calling any difference real that is not stays below the level, whatever the
    dependence among them.

    Parameters
    ----------
    p_values
        Of the single tests.

    References
    ----------
    Holm, S. (1979). A simple sequentially rejective multiple test procedure. Scandinavian Journal
    of Statistics 6, 65–70.

    Examples
    --------
    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    given = [(p, place) for place, p in enumerate(p_values) if p is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    most = 0.0
    for rank, (p, place) in enumerate(sorted(given)):
        most = max(most, min(1.0, (len(given) - rank) * p))
        adjusted[place] = most
    return adjusted


def bootstrap_interval(
    weights: np.ndarray, totals: np.ndarray, *, level: float, seed: int = 0
) -> Interval | None:
    """Return the percentile interval of Σ totals / Σ weights, with rows or clusters drawn anew.

    Parameters
    ----------
    weights
        Shape (n,): Σw of each row or cluster.
    totals
        Shape (n,): Σwd.
    level
        Of the interval.
    seed
        Of the draws.

    Returns
    -------
    Interval or None
        None for fewer than two.

    References
    ----------
    Efron, B. and Tibshirani, R. J. (1993). An Introduction to the Bootstrap, chapter 13.

    Examples
    --------
    >>> ends = bootstrap_interval(np.ones(100), np.arange(100.0), level=0.95)
    >>> round(ends.lower), round(ends.upper)
    (44, 55)
    """
    level = check_level(level)
    n = len(weights)
    if n < 2:
        return None
    random = np.random.default_rng(seed)
    means = np.empty(DRAWS)
    some = max(1, (1 << 22) // n)
    for start in range(0, DRAWS, some):
        drawn = random.integers(n, size=(min(some, DRAWS - start), n))
        means[start : start + some] = totals[drawn].sum(axis=1) / weights[drawn].sum(axis=1)
    lower, upper = np.quantile(means, [0.5 - 0.5 * level, 0.5 + 0.5 * level])
    return Interval(float(lower), float(upper), level, "bootstrap", None, ())


def adjusted(groups: Sequence[Difference]) -> Iterator[Difference]:
    """Return differences with their p-values adjusted for how many there are."""
    for group, p in zip(groups, holm([g.p_value for g in groups]), strict=True):
        yield replace(group, adjusted_p_value=p)
