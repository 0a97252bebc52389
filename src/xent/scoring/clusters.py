"""Rows that were drawn in groups: totals of clusters, and the standard error that follows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from xent.errors import OptionError, TableError
from xent.scoring.intervals import FEWEST_CLUSTERS, Interval, check_level, quantile

if TYPE_CHECKING:
    from xent.scoring.duckdb import Table
    from xent.scoring.query import Query

__all__ = ["MOST_NAMES", "ClusterSummary", "clusters_of", "totals_of", "totals_sql"]

MOST_NAMES = 100_000
"""Of more clusters the names are not kept, so that their summaries cannot be merged."""


@dataclass(frozen=True)
class ClusterSummary:
    r"""The mergeable statistics of the totals of clusters.

    With W_g = Σw and L_g = Σw(ℓ − c) over the rows of cluster g, c = `centre` (nats), G clusters
    having a weight, the mean loss is c + ΣL_g/ΣW_g, and its standard error, with the residual
    totals e_g = L_g − (μ − c)·W_g,

    .. math:: SE^2 = \frac{G}{G - 1} \sum_g e_g^2 \Big/ \Big(\sum_g W_g\Big)^2

    which for clusters of one row is that of `xent.scoring.LossSummary`. Rows of one cluster may
    depend on each other in any way; clusters must not.

    Attributes
    ----------
    clusters
        G.
    infinite_clusters
        How many of them hold a row of infinite loss.
    centre
        c.
    weight, weight_squared
        ΣW_g and ΣW_g².
    first, crossed, second
        ΣL_g, ΣL_g·W_g and ΣL_g², without the infinite losses.
    largest
        The largest e_g², of merged summaries the largest of any part.
    names
        Numbers that tell the clusters' names apart; None where there are more than 100 000.

    References
    ----------
    Liang, K.-Y. and Zeger, S. L. (1986). Longitudinal data analysis using generalized linear
    models. doi:10.1093/biomet/73.1.13

    See Also
    --------
    xent.scoring.LossSummary : for rows that are independent of each other.

    Examples
    --------
    >>> patients = ClusterSummary.from_totals([2.0, 1.0, 1.0], [0.6, 0.9, 0.3])
    >>> patients.mean, patients.standard_error
    (0.45, 0.1718)
    """

    clusters: int = 0
    infinite_clusters: int = 0
    centre: float = 0.0
    weight: float = 0.0
    weight_squared: float = 0.0
    first: float = 0.0
    crossed: float = 0.0
    second: float = 0.0
    largest: float = 0.0
    names: frozenset[int] | None = frozenset()

    @classmethod
    def from_totals(
        cls, weights: Any, losses: Any, names: Iterable[int] | None = (), infinite: int = 0
    ) -> ClusterSummary:
        """Summarise totals held in memory.

        Parameters
        ----------
        weights
            Shape (G,): Σw of each cluster, > 0.
        losses
            Shape (G,): Σwℓ over its rows of finite loss, nats.
        names
            A number for each cluster's name; None if they are not kept.
        infinite
            How many clusters hold a row of infinite loss.

        Raises
        ------
        OptionError
            If a weight is not positive or a number is not finite, or names repeat.
        """
        weight = np.asarray(weights, dtype=np.float64)
        loss = np.asarray(losses, dtype=np.float64)
        if weight.ndim != 1 or weight.shape != loss.shape:
            raise OptionError(
                f"totals must be two vectors of one length: got {weight.shape} and {loss.shape}. "
                "Hint: one weight and one loss for each cluster."
            )
        if not (np.isfinite(weight).all() and np.isfinite(loss).all() and (weight > 0).all()):
            raise OptionError(
                "totals must be finite, and weights positive: got others. "
                "Hint: leave out clusters without a weight, and infinite losses."
            )
        centre = float(loss.sum() / weight.sum()) if weight.size else 0.0
        rest = loss - centre * weight
        told = None if names is None else frozenset(int(name) for name in names)
        if not 0 <= infinite <= weight.size:
            raise OptionError(
                f"infinite clusters must be among the {weight.size}: got {infinite}. "
                "Hint: give their finite losses in totals too."
            )
        if told is not None and len(told) not in {0, weight.size}:
            raise OptionError(
                f"names must tell {weight.size} clusters apart: got {len(told)} different ones. "
                "Hint: sum the rows of a cluster first."
            )
        return cls(
            clusters=int(weight.size),
            infinite_clusters=infinite,
            centre=centre,
            weight=float(weight.sum()),
            weight_squared=float((weight * weight).sum()),
            first=float(rest.sum()),
            crossed=float((rest * weight).sum()),
            second=float((rest * rest).sum()),
            largest=float((rest * rest).max(initial=0.0)),
            names=told,
        )

    def about(self, centre: float) -> ClusterSummary:
        """Return the same summary with its sums taken about another centre.

        Examples
        --------
        >>> ClusterSummary.from_totals([1.0, 1.0], [1.0, 3.0]).about(0.0).second
        10.0
        """
        d = self.centre - centre
        return replace(
            self,
            centre=centre,
            first=math.fsum((self.first, d * self.weight)),
            crossed=math.fsum((self.crossed, d * self.weight_squared)),
            second=math.fsum((self.second, 2.0 * d * self.crossed, d * d * self.weight_squared)),
        )

    def merge(self, *others: ClusterSummary) -> ClusterSummary:
        """Return the summary of these clusters and the others' together.

        Raises
        ------
        OptionError
            If a cluster may be in two of them: its total is then in neither.

        Examples
        --------
        >>> one = ClusterSummary.from_totals([1.0], [0.5], [7])
        >>> one.merge(ClusterSummary.from_totals([1.0], [1.5], [8])).standard_error
        0.5
        """
        parts = [part for part in (self, *others) if part.clusters]
        if len(parts) < 2:
            return parts[0] if parts else self
        if any(part.names is None or len(part.names) != part.clusters for part in parts):
            raise OptionError(
                "clusters to merge must have names: got some without, which are not kept beyond "
                f"{MOST_NAMES:,}. Hint: score the files together, as one table."
            )
        together = frozenset().union(*(part.names or frozenset() for part in parts))
        twice = sum(part.clusters for part in parts) - len(together)
        if twice:
            raise OptionError(
                f"summaries to merge must not share clusters: got {twice} of "
                f"{len(together)} in more than one. Hint: score the files together, as one table; "
                "the total of a cluster cannot be told from its parts' squares."
            )
        weight = math.fsum(part.weight for part in parts)
        base = parts[0].centre
        shift = math.fsum(p.first + (p.centre - base) * p.weight for p in parts) / weight
        moved = [part.about(base + shift) for part in parts]
        return ClusterSummary(
            clusters=sum(part.clusters for part in parts),
            infinite_clusters=sum(part.infinite_clusters for part in parts),
            centre=base + shift,
            weight=weight,
            weight_squared=math.fsum(part.weight_squared for part in parts),
            first=math.fsum(part.first for part in moved),
            crossed=math.fsum(part.crossed for part in moved),
            second=math.fsum(part.second for part in moved),
            largest=max(part.largest for part in parts),
            names=together if len(together) <= MOST_NAMES else None,
        )

    @property
    def mean(self) -> float:
        """Mean loss of all rows, nats; +∞ if one is infinite, NaN without clusters."""
        if self.infinite_clusters:
            return math.inf
        return self.centre + self.first / self.weight if self.weight else math.nan

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean, nats; None if that is infinite, or of one cluster."""
        if self.infinite_clusters or self.clusters < 2:
            return None
        spread = self.about(self.centre + self.first / self.weight).second
        return math.sqrt(self.clusters / (self.clusters - 1) * max(spread, 0.0)) / self.weight

    def interval(self, level: float = 0.95) -> Interval | None:
        """Return the interval of the mean, by Student's t with G − 1 degrees of freedom.

        None where the standard error is. Clusters of different sizes count as fewer: with the share
        v_g of the weight a doubt is raised where 1/Σv_g² < 50, and another where one cluster makes
        up half of the variance.

        Raises
        ------
        OptionError
            If `level` lies outside [0.5, 1).
        """
        level = check_level(level)
        error = self.standard_error
        if error is None:
            return None
        effective = self.weight**2 / self.weight_squared
        doubts = []
        if self.clusters < FEWEST_CLUSTERS:
            doubts.append(f"there are only {self.clusters} clusters")
        elif effective < FEWEST_CLUSTERS:
            doubts.append(f"by their sizes the clusters are worth only {effective:.3g}")
        if self.largest > 0.5 * (error * self.weight) ** 2:
            doubts.append("half of the variance is that of one cluster")
        if error == 0.0:
            doubts.append("all clusters have the same mean")
        degrees = float(self.clusters - 1)
        reach = quantile(level, degrees) * error
        return Interval(self.mean - reach, self.mean + reach, level, "t", degrees, tuple(doubts))

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as numbers and lists."""
        names = None if self.names is None else sorted(self.names)
        return {**{k: getattr(self, k) for k in self.__dataclass_fields__}, "names": names}

    @classmethod
    def from_dict(cls, columns: Mapping[str, Any]) -> ClusterSummary:
        """Return the summary that `to_dict` wrote.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is something else.

        Examples
        --------
        >>> some = ClusterSummary.from_totals([1.0, 2.0], [0.5, 1.5], [3, 4])
        >>> ClusterSummary.from_dict(some.to_dict()) == some
        True
        """
        numbers = {k: columns[k] for k in cls.__dataclass_fields__ if k != "names"}
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} of clusters must be a number: got {value!r}")
            if not math.isfinite(value):
                raise ValueError(f"{name} of clusters must be finite: got {value!r}")
        counts = (numbers["clusters"], numbers["infinite_clusters"])
        sums = tuple(numbers[n] for n in ("weight", "weight_squared", "second", "largest"))
        if not all(isinstance(n, int) for n in counts) or not 0 <= counts[1] <= counts[0]:
            raise ValueError(f"clusters must be counted, infinite ones among them: got {counts}")
        if min(sums) < 0 or (counts[0] > 0) != (sums[0] > 0):
            raise ValueError(f"weight and squares of clusters must not be negative: got {sums}")
        names = columns["names"]
        told = None if names is None else frozenset(int(name) for name in names)
        if told is not None and len(told) != numbers["clusters"]:
            raise ValueError(f"{numbers['clusters']} clusters must have different names")
        return cls(**numbers, names=told)


def clusters_of(query: Query, column: str, centre: float) -> ClusterSummary:
    """Return the totals of clusters, summed in the engine.

    Parameters
    ----------
    query
        Of a table whose first slice is the column of the clusters.
    column
        Its name, for messages.
    centre
        What the losses are summed about, nats: their mean.

    Raises
    ------
    TableError
        If a row that counts is in no cluster.
    """
    weighted = query.reading.weights is not None
    w = "w" if weighted else "1.0"
    rows = (
        f"(SELECT s0 AS name, {w} AS w, l FROM {query.losses(numbered=False)} "
        f"WHERE fault = 0{' AND w > 0' if weighted else ''})"
    )
    return totals_of(query.table, rows, column, centre)


def totals_sql(rows: str, centre: float) -> str:
    """Return the totals of clusters as a FROM clause: their name, weight, loss and lost rows.

    Parameters
    ----------
    rows
        A FROM clause of rows with the name of their cluster, their weight ``w`` and their loss
        ``l``, NULL where it is infinite.
    centre
        What the losses are summed about.

    Examples
    --------
    >>> totals_sql("t", 0.5).split(" FROM ")[1]
    't GROUP BY name)'
    """
    return (
        f"(SELECT name, fsum(w) AS weight, coalesce(fsum(w * (l - {centre!r})), 0) AS loss, "
        f"count_if(l IS NULL) AS lost FROM {rows} GROUP BY name)"
    )


def totals_of(table: Table, rows: str, column: str, centre: float) -> ClusterSummary:
    """Return the summary of the clusters of rows, as of `totals_sql`.

    Raises
    ------
    TableError
        If a row is in no cluster.
    """
    totals = totals_sql(rows, centre)
    ((clusters, infinite, weight, squared, first, crossed, second, largest, missing),) = table.rows(
        "SELECT count(*), count_if(lost > 0), fsum(weight), fsum(weight * weight), fsum(loss), "
        "fsum(loss * weight), fsum(loss * loss), max(loss * loss), count_if(name IS NULL) "
        f"FROM {totals}"
    )
    if missing:
        raise TableError(
            f"the cluster column {column!r} of {str(table.path)!r} must have a value in "
            "every row: got rows without one. Hint: give each row that stands alone a name of "
            "its own."
        )
    names = None
    if clusters <= MOST_NAMES:
        found = table.rows(f"SELECT md5_number_lower(name) FROM {totals}")
        names = frozenset(int(row[0]) for row in found)
    return ClusterSummary(
        clusters=int(clusters),
        infinite_clusters=int(infinite),
        centre=centre,
        weight=float(weight or 0.0),
        weight_squared=float(squared or 0.0),
        first=float(first or 0.0),
        crossed=float(crossed or 0.0),
        second=float(second or 0.0),
        largest=float(largest or 0.0),
        names=names,
    )
