"""Mutual information of two variables from observed pairs or a table of counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from xent.errors import ShapeError
from xent.estimation.counting import EXACT_IN_INT64, as_array, as_sample, whole_numbers
from xent.estimation.estimators import Tally, divergence_excess, estimator_named, plug_in
from xent.units import from_nats

__all__ = [
    "MutualInformationEstimate",
    "mutual_information_from_counts",
    "mutual_information_from_samples",
]


@dataclass(frozen=True)
class MutualInformationEstimate:
    """A mutual information estimated from a sample.

    Attributes
    ----------
    value
        The estimate, in `unit`. A corrected one may be below 0, which says that the variables may
        well be independent; it is not cut.
    unit
        ``"nats"``, ``"bits"`` or ``"bans"``.
    estimator
        Its name.
    n
        Number of observed pairs.
    observed, observed_x, observed_y
        Number of distinct pairs, of distinct values of X and of Y among them.

    Examples
    --------
    >>> mutual_information_from_counts([[4, 0], [0, 4]], estimator="plug_in", unit="bits").value
    1.0
    """

    value: float
    unit: str
    estimator: str
    n: int
    observed: int
    observed_x: int
    observed_y: int

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as numbers and texts."""
        return asdict(self)


def mutual_information_from_counts(
    table: Any, *, estimator: str = "chao_wang_jost", unit: str = "nats"
) -> MutualInformationEstimate:
    """Estimate I(X; Y) = H(X) + H(Y) − H(X, Y) from a table of counts.

    The plug-in is too high, for independent variables by about (K_x − 1)(K_y − 1)/(2n) where every
    pair was seen often. The other estimators correct each of the three entropies.

    Parameters
    ----------
    table
        Shape (values of X, values of Y): how often each pair was observed.
    estimator
        ``"chao_wang_jost"``, ``"jackknife"``, ``"chao_shen"``, ``"miller_madow"`` or ``"plug_in"``;
        `entropy_from_counts` has the formulas.
    unit
        ``"nats"``, ``"bits"`` or ``"bans"``.

    Returns
    -------
    MutualInformationEstimate
        The estimate, without an interval.

    Raises
    ------
    DistributionError
        If a count is negative, not finite or no whole number.
    ShapeError
        If `table` is no matrix, or holds no observation.
    OptionError
        If `estimator` or `unit` is none of the names.

    References
    ----------
    Panzeri, S. and Treves, A. (1996). Analytical estimates of limited sampling biases in different
    information measures. doi:10.1088/0954-898X/7/1/006

    See Also
    --------
    mutual_information_from_samples : the same from the observed pairs.
    xent.mutual_information : of a joint distribution that is known.

    Examples
    --------
    >>> table = [[18, 7, 5], [6, 9, 5]]
    >>> for estimator in ("plug_in", "miller_madow", "chao_wang_jost"):
    ...     print(f"{mutual_information_from_counts(table, estimator=estimator).value:.4f}")
    0.0452
    0.0252
    0.0242
    """
    given = as_array(table, "table")
    if given.ndim != 2:
        raise ShapeError(
            "table must be a matrix, one row for each value of X and one column for each of Y: "
            f"got shape {given.shape}. Hint: two columns of observations go to "
            "mutual_information_from_samples."
        )
    columns = given.shape[1]
    counts, n = whole_numbers(
        given, "table", lambda place: f"row {place // columns}, column {place % columns}"
    )
    x, y = np.nonzero(counts)
    return _estimate(x, y, counts[x, y], n, estimator, unit)


def mutual_information_from_samples(
    x_samples: Any, y_samples: Any, *, estimator: str = "chao_wang_jost", unit: str = "nats"
) -> MutualInformationEstimate:
    """Estimate I(X; Y) from observed pairs.

    Parameters
    ----------
    x_samples, y_samples
        The values of X and of Y, in the same order; each as for `entropy_from_samples`.
    estimator, unit
        As for `mutual_information_from_counts`.

    Returns
    -------
    MutualInformationEstimate
        The estimate, without an interval.

    Raises
    ------
    ShapeError
        If the two differ in length, or there is no observation.
    TargetError
        If a value is missing (None, NaN) or cannot be counted.
    OptionError
        If `estimator` or `unit` is none of the names.

    See Also
    --------
    mutual_information_from_counts : the same from a table of counts.

    Examples
    --------
    >>> mutual_information_from_samples("aabb", "xxyy", estimator="plug_in", unit="bits").value
    1.0
    """
    x, y = as_sample(x_samples, "x_samples"), as_sample(y_samples, "y_samples")
    if x.places.size != y.places.size:
        raise ShapeError(
            "x_samples and y_samples must hold one value for each pair: got "
            f"{x.places.size} and {y.places.size} of them. Hint: drop a row from both or neither."
        )
    width = len(y.values)
    pairs, counts = np.unique(x.places * width + y.places, return_counts=True)
    return _estimate(
        pairs // width, pairs % width, counts.astype(np.int64), x.places.size, estimator, unit
    )


def _estimate(
    x: np.ndarray, y: np.ndarray, counts: np.ndarray, n: int, estimator: str, unit: str
) -> MutualInformationEstimate:
    """Estimate from the observed cells (x, y) and their exact counts."""
    estimate = estimator_named(estimator)
    of_x, of_y = _sums(x, counts), _sums(y, counts)
    if estimate is plug_in:
        nats = _plug_in(counts, of_x[x], of_y[y], n)
    else:
        tallies = (Tally.in_order(c.astype(np.float64)) for c in (of_x, of_y, counts))
        h_x, h_y, h_xy = (float(estimate(tally)) for tally in tallies)
        nats = h_x + h_y - h_xy
    return MutualInformationEstimate(
        float(from_nats(nats, unit)),
        unit,
        estimator,
        n,
        counts.size,
        int(np.count_nonzero(of_x)),
        int(np.count_nonzero(of_y)),
    )


def _sums(places: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the exact sums of the counts in each place."""
    sums = np.zeros(int(places.max()) + 1, dtype=counts.dtype)
    np.add.at(sums, places, counts)
    return sums


def _plug_in(counts: np.ndarray, of_x: np.ndarray, of_y: np.ndarray, n: int) -> float:
    """Return D(joint‖product of the marginals) from the cells and the marginal counts of each.

    A table of two columns of names would be mostly empty: the cells without an observation are
    one symbol here, of probability 0 under the joint distribution.
    """
    kind = np.int64 if n * n < EXACT_IN_INT64 else object
    counts, of_x, of_y = (c.astype(kind) for c in (counts, of_x, of_y))
    base, product = counts * n, of_x * of_y
    excess = divergence_excess(product - base, base)
    elsewhere = (n * n - int(product.sum())) / (n * n)
    return float(((counts / n).astype(np.float64) * excess).sum() + elsewhere)
