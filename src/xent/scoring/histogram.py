"""Histograms of yes-or-no predictions: what calibration is computed from, wherever rows live.

A row is a prediction p = P(y = 1), the truth y and a sampling weight w. Bins are uniform in the
logit log(p/(1 − p)), so that predictions within one differ by at most a factor e^(1/16) in their
odds, near 0 and near 1 as in the middle. Uniform bins of p would put everything that is predicted
for a rare event into one. Predictions of exactly 0 and 1 have bins of their own.

Like `xent.scoring.LossSummary`, histograms of any parts of the rows merge into that of the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from xent.arrays import as_arrays, as_floats, is_torch
from xent.errors import DistributionError, OptionError, ShapeError
from xent.losses import binary_cross_entropy, squared_error
from xent.scoring.summary import check_weights

__all__ = [
    "BINS_PER_NAT",
    "BIN_OF_ONE",
    "BIN_OF_ZERO",
    "NO_LOG",
    "Histogram",
    "bin_of",
    "bin_of_fine_sql",
    "fine_bin_sql",
]

BINS_PER_NAT = 16
_LOWEST, _HIGHEST = (
    -40 * BINS_PER_NAT,
    40 * BINS_PER_NAT - 1,
)  # beyond e^±40 odds are not told apart
BIN_OF_ZERO, BIN_OF_ONE = _LOWEST - 1, _HIGHEST + 1


def bin_of(p: Any) -> np.ndarray:
    r"""Return the bins of probabilities, :math:`\lfloor 16 \log\frac{p}{1-p} \rfloor`.

    Cut to [−640, 639]: what is beyond a logit of ±40 counts as that. Exactly 0 is in the bin −641
    and exactly 1 in 640. 1 − p is exact for p ≥ ½, so the logit has its digits everywhere.

    Parameters
    ----------
    p
        Probabilities in [0, 1], any shape; float32 is taken as float64.

    Raises
    ------
    DistributionError
        If a number lies outside [0, 1] or is NaN.

    See Also
    --------
    fine_bin_sql, bin_of_fine_sql : the same for an engine.

    Examples
    --------
    >>> bin_of([0.0, 1e-4, 0.5, 0.9999, 1.0]).tolist()
    [-641, -148, 0, 147, 640]
    """
    p = np.asarray(p, dtype=np.float64)
    inside = (p >= 0) & (p <= 1)
    if not inside.all():
        raise DistributionError(
            f"probabilities must lie in [0, 1]: got {p.flat[int(np.argmin(inside))]} at position "
            f"{int(np.argmin(inside))}. Hint: bins are of probabilities, not of logits."
        )
    with np.errstate(divide="ignore"):
        index = np.floor(BINS_PER_NAT * np.log(p / (1.0 - p)))
    index = np.clip(index, _LOWEST, _HIGHEST).astype(np.int64)
    return np.where(p == 0, BIN_OF_ZERO, np.where(p == 1, BIN_OF_ONE, index))


NO_LOG = -1e6
"""In the place of log 0 in an engine: below every logarithm of a float, so its bin is known."""


def fine_bin_sql(log_p: str, log_rest: str) -> str:
    """Return SQL for the bin of a probability, from its logarithm and that of its complement.

    It is not cut to the range of `bin_of` yet: an engine is faster at cutting the few bins that
    it found (`bin_of_fine_sql`) than every row's. The logarithm of 0 must be `NO_LOG`.

    Examples
    --------
    >>> fine_bin_sql("lp", "lr")
    'CAST(floor(16 * (lp - lr)) AS INTEGER)'
    """
    return f"CAST(floor({BINS_PER_NAT} * ({log_p} - {log_rest})) AS INTEGER)"


def bin_of_fine_sql(index: str) -> str:
    """Return SQL for the bin of `bin_of`, of a bin that was not cut.

    It agrees with `bin_of` but for numbers at the very edge of a bin, where the last digit of two
    logarithms may differ.

    Examples
    --------
    >>> print(bin_of_fine_sql("b"))
    CASE WHEN b < -1000000 THEN -641 WHEN b > 1000000 THEN 640 ELSE greatest(-640, least(639, b))
    END
    """
    return (
        f"CASE WHEN {index} < {NO_LOG:.0f} THEN {BIN_OF_ZERO} "
        f"WHEN {index} > {-NO_LOG:.0f} THEN {BIN_OF_ONE} "
        f"ELSE greatest({_LOWEST}, least({_HIGHEST}, {index})) END"
    )


@dataclass(frozen=True, eq=False)
class Histogram:
    r"""Sums over the rows of each bin that holds a row, in the order of the bins.

    With the binary log loss ℓ = −y·log p − (1 − y)·log(1 − p) in nats. A truth y in (0, 1) is a
    soft label, the probability of a yes. Rows of weight 0 count for nothing.

    Attributes
    ----------
    bins
        Their numbers, as of `bin_of`.
    rows
        Number of rows.
    weight, weight_squared
        Σw and Σw².
    hits
        Σwy.
    softness
        Σwy(1 − y): 0 for hard labels.
    probability, complement
        Σwp and Σw(1 − p); one of the two has the digits that the other has lost.
    loss
        Σwℓ over the rows whose loss is finite.
    squared
        Σw(p − y)², Brier's score.
    infinite_rows, infinite_weight
        Number and Σw of the rows with ℓ = +∞, which only the bins of 0 and of 1 can hold.

    See Also
    --------
    xent.scoring.LossSummary : the statistics of the losses alone.

    Examples
    --------
    >>> whole = Histogram.from_rows([0.5, 0.5, 0.9], [1, 0, 1]).merge(
    ...     Histogram.from_rows([0.1], [0])
    ... )
    >>> whole.bins.tolist(), whole.rows.tolist(), whole.hits.tolist()
    ([-36, 0, 35], [1, 2, 1], [0.0, 1.0, 1.0])
    """

    bins: np.ndarray
    rows: np.ndarray
    weight: np.ndarray
    weight_squared: np.ndarray
    hits: np.ndarray
    softness: np.ndarray
    probability: np.ndarray
    complement: np.ndarray
    loss: np.ndarray
    squared: np.ndarray
    infinite_rows: np.ndarray
    infinite_weight: np.ndarray

    def __post_init__(self) -> None:
        for name in _NAMES:
            object.__setattr__(self, name, _column(name, getattr(self, name)))
        lengths = {name: getattr(self, name).size for name in _NAMES}
        if len(set(lengths.values())) > 1:
            raise ShapeError(
                f"the columns of a histogram must have one number for each bin: got {lengths}. "
                "Hint: a bin without such rows has 0."
            )
        if (np.diff(self.bins) <= 0).any():
            raise OptionError(
                "bins must be in order, each once: got "
                f"{self.bins[int(np.argmax(np.diff(self.bins) <= 0)) + 1]} out of order. "
                "Hint: histograms of parts are joined by merge."
            )

    @classmethod
    def from_rows(cls, probabilities: Any, targets: Any, weights: Any = None) -> Histogram:
        """Summarise the predictions of rows held in memory.

        Parameters
        ----------
        probabilities
            Shape (n,): P(y = 1) in [0, 1], of any array library's real dtype.
        targets
            Shape (n,): 0 or 1 (booleans too), or probabilities.
        weights
            Shape (n,): sampling weights, finite and ≥ 0; by default each row counts once.

        Raises
        ------
        DistributionError, TargetError
            If a probability or a target lies outside [0, 1].
        ShapeError
            If these are not vectors of one length.
        OptionError
            If a weight is negative, not finite or outside [1e-100, 1e100].

        Examples
        --------
        >>> Histogram.from_rows([0.0, 0.25, 0.25], [1, 0, 1], [0.5, 1, 1]).infinite_weight.tolist()
        [0.5, 0.0]
        """
        p, y = _numbers(probabilities, "probabilities"), _numbers(targets, "targets")
        if p.ndim != 1:
            raise ShapeError(
                f"probabilities must be a vector, one number per row: got shape {p.shape}. "
                "Hint: for several classes take one column, and whether the truth is that class."
            )
        w = np.ones_like(p) if weights is None else check_weights(weights, p.shape[0])
        some = w > 0  # rows without a weight are not looked at
        loss, squared = (
            np.asarray(losses)
            for losses in (
                binary_cross_entropy(p, y, row_weight=some, reduction="none"),
                squared_error(p, y, axis=None, row_weight=some, reduction="none"),
            )
        )
        if not some.all():
            p, y, w, loss, squared = (column[some] for column in (p, y, w, loss, squared))
        p = np.minimum(p, 1.0)  # as the loss takes what rounding has put above 1
        infinite = np.isinf(loss)
        return _summed(
            {
                "bins": bin_of(p),
                "rows": np.ones(p.shape, dtype=np.int64),
                "weight": w,
                "weight_squared": w * w,
                "hits": w * y,
                "softness": w * (y * (1.0 - y)),
                "probability": w * p,
                "complement": w * (1.0 - p),
                "loss": w * np.where(infinite, 0.0, loss),
                "squared": w * squared,
                "infinite_rows": infinite.astype(np.int64),
                "infinite_weight": w * infinite,
            }
        )

    def merge(self, *others: Histogram) -> Histogram:
        """Return the histogram of these rows and the others' together.

        Associative and commutative to rounding; a histogram of no rows changes nothing.

        Examples
        --------
        >>> parts = [Histogram.from_rows([p], [1]) for p in (0.5, 0.5, 0.0)]
        >>> parts[0].merge(*parts[1:]).rows.tolist()
        [1, 2]
        """
        parts = [self, *others]
        return _summed({name: np.concatenate([getattr(p, name) for p in parts]) for name in _NAMES})

    def to_dict(self) -> dict[str, list[Any]]:
        """Return the columns as lists of plain numbers, ready for JSON."""
        return {name: getattr(self, name).tolist() for name in _NAMES}

    @classmethod
    def from_dict(cls, columns: Mapping[str, Iterable[Any]]) -> Histogram:
        """Return the histogram that `to_dict` wrote.

        Raises
        ------
        OptionError, ShapeError
            If a column is missing or unknown, or holds what no histogram does.

        Examples
        --------
        >>> some = Histogram.from_rows([0.5], [1])
        >>> Histogram.from_dict(some.to_dict()).to_dict() == some.to_dict()
        True
        """
        if set(columns) != set(_NAMES):
            raise OptionError(
                f"a histogram must have the columns {', '.join(_NAMES)}: got "
                f"{', '.join(map(str, columns))}. Hint: it is what to_dict returns."
            )
        return cls(**{name: np.asarray(list(columns[name])) for name in _NAMES})


_NAMES = tuple(field.name for field in fields(Histogram))
_WHOLE = {"bins", "rows", "infinite_rows"}


def _numbers(values: Any, name: str) -> np.ndarray:
    """Return real numbers of any library as NumPy's float64."""
    _, (array,) = as_arrays(values)
    if is_torch(array):
        array = array.detach().cpu().double()
    _, (array,) = as_arrays(np.asarray(array))
    return np.asarray(as_floats(np, array, np.float64, name))


def _column(name: str, given: Any) -> np.ndarray:
    """Return a column as an array of its own that cannot be written to."""
    try:
        numbers = np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"{name} must hold numbers: {error}. Hint: a histogram comes from from_rows."
        ) from None
    least, most = (BIN_OF_ZERO, BIN_OF_ONE) if name == "bins" else (0, np.inf)
    good = (numbers >= least) & (numbers <= most) & np.isfinite(numbers)
    if name in _WHOLE:
        good &= numbers == np.floor(numbers)
    if numbers.ndim != 1 or not good.all():
        kind = "whole numbers" if name in _WHOLE else "finite numbers"
        got = f"shape {numbers.shape}" if numbers.ndim != 1 else numbers[int(np.argmin(good))]
        raise OptionError(
            f"{name} must be a vector of {kind} in [{least}, {most}]: got {got}. "
            "Hint: a histogram comes from from_rows, or from the columns of to_dict."
        )
    column = numbers.astype(np.int64) if name in _WHOLE else numbers
    column.flags.writeable = False
    return column


def _summed(columns: dict[str, np.ndarray]) -> Histogram:
    """Sum columns over the rows of equal bins: pairwise, so the error does not grow with n."""
    bins = columns["bins"]
    order = np.argsort(bins.astype(np.int16), kind="stable")  # of 16 bits: NumPy counts, in O(n)
    bins = bins[order]
    starts = np.flatnonzero(np.diff(bins, prepend=BIN_OF_ZERO - 1))
    sums = {name: np.add.reduceat(column[order], starts) for name, column in columns.items()}
    return Histogram(**{**sums, "bins": bins[starts]})
