"""Mergeable statistics of a set of losses: what every score is computed from, wherever rows live.

A row is a loss ℓ (nats, possibly +∞) with a sampling weight w. A summary of any part of the rows
holds a dozen numbers, two summaries merge into the summary of both parts, and every score
(mean, standard error, score without the infinite rows) is a property of the whole. So the rows may
lie in an array, in a file larger than memory or on many machines: only summaries travel.

Sums of squares are kept about a centre: Σw²ℓ² itself would lose the variance of losses near 10⁶
that differ in the ninth digit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from xent.errors import OptionError, ShapeError

__all__ = ["LARGEST_WEIGHT", "SMALLEST_WEIGHT", "LossSummary"]

# Between these the square of a weight and the sum of many such squares are ordinary floats.
SMALLEST_WEIGHT = 1e-100
LARGEST_WEIGHT = 1e100


@dataclass(frozen=True)
class LossSummary:
    """The mergeable statistics of weighted losses, in nats.

    Rows of weight 0 count for nothing, whatever their loss (0·∞ = 0). With ``c = centre`` and sums
    over the rows whose loss is finite::

        first = Σ w·(ℓ − c)     first_squared = Σ w²·(ℓ − c)     second_squared = Σ w²·(ℓ − c)²

    Infinite losses are counted apart, by rows and by weight. `xent.log_loss` is the sibling that
    computes the one number from labels and probabilities.

    Attributes
    ----------
    finite_rows, finite_weight, finite_weight_squared
        Number, Σw and Σw² of the rows with a finite loss.
    infinite_rows, infinite_weight, infinite_weight_squared
        The same of the rows with an infinite loss.
    centre
        The loss c that the three sums are taken about, nats.
    first, first_squared, second_squared
        The sums above.

    Examples
    --------
    >>> whole = LossSummary.from_rows([0.5, 1.5]).merge(LossSummary.from_rows([1.0]))
    >>> whole.n, whole.log_loss, whole.standard_error
    (3, 1.0, 0.28867)
    """

    finite_rows: int = 0
    finite_weight: float = 0.0
    finite_weight_squared: float = 0.0
    infinite_rows: int = 0
    infinite_weight: float = 0.0
    infinite_weight_squared: float = 0.0
    centre: float = 0.0
    first: float = 0.0
    first_squared: float = 0.0
    second_squared: float = 0.0

    @classmethod
    def from_rows(cls, losses: Any, weights: Any = None) -> LossSummary:
        """Summarise the losses of rows held in memory.

        Parameters
        ----------
        losses
            Shape (n,), nats; +∞ is allowed.
        weights
            Shape (n,): sampling weights, finite and ≥ 0; by default each row counts once.

        Raises
        ------
        ShapeError
            If the two are not vectors of one length.
        OptionError
            If a loss is NaN or −∞, or a weight is negative, not finite or outside the range in
            which squares of weights are representable.

        Examples
        --------
        >>> LossSummary.from_rows([1.0, math.inf], [3.0, 0.0]).log_loss
        1.0
        """
        if np.ma.is_masked(losses):
            raise OptionError(
                "losses must be numbers or +∞: got a masked array with masked entries. "
                "Hint: losses.compressed() leaves them out, from the weights too."
            )
        loss = np.asarray(losses, dtype=np.float64)
        if loss.ndim != 1:
            raise ShapeError(
                f"losses must be a vector, one number per row: got shape {loss.shape}. "
                "Hint: flatten it, losses.ravel()."
            )
        weight = np.ones_like(loss) if weights is None else check_weights(weights, loss.shape[0])
        bad = np.isnan(loss) | (loss == -np.inf)
        if bad.any():
            row = int(np.argmax(bad))
            raise OptionError(
                f"losses must be numbers or +∞: got {loss[row]} at row {row}. "
                "Hint: a loss is −log of a probability; look at the probability of that row."
            )
        counted = weight > 0
        if not counted.all():
            loss, weight = loss[counted], weight[counted]
        finite = np.isfinite(loss)
        infinite_weight = weight[~finite]
        loss, weight = loss[finite], weight[finite]
        # NumPy sums a contiguous vector pairwise: the error grows with log n, not with n. Summing
        # what is left after the centre then gives the mean to about one rounding.
        total = float(np.sum(weight))
        centre = float(np.sum(weight * loss)) / total if loss.size else 0.0
        rest = loss - centre
        pulled = weight * rest
        return cls(
            finite_rows=int(loss.size),
            finite_weight=total,
            finite_weight_squared=float(np.sum(weight * weight)),
            infinite_rows=int(infinite_weight.size),
            infinite_weight=float(np.sum(infinite_weight)),
            infinite_weight_squared=float(np.sum(infinite_weight * infinite_weight)),
            centre=centre,
            first=float(np.sum(pulled)),
            first_squared=float(np.sum(weight * pulled)),
            second_squared=float(np.sum(pulled * pulled)),
        )

    def about(self, centre: float) -> LossSummary:
        """Return the same summary with its sums taken about another centre.

        Exact algebra: with d = c − c′, Σw(ℓ−c′) = Σw(ℓ−c) + d·Σw and
        Σw²(ℓ−c′)² = Σw²(ℓ−c)² + 2d·Σw²(ℓ−c) + d²·Σw².

        Examples
        --------
        >>> LossSummary.from_rows([1.0, 3.0]).about(0.0).second_squared
        10.0
        """
        d = self.centre - centre
        return LossSummary(
            self.finite_rows,
            self.finite_weight,
            self.finite_weight_squared,
            self.infinite_rows,
            self.infinite_weight,
            self.infinite_weight_squared,
            centre,
            math.fsum((self.first, d * self.finite_weight)),
            math.fsum((self.first_squared, d * self.finite_weight_squared)),
            math.fsum(
                (
                    self.second_squared,
                    2.0 * d * self.first_squared,
                    d * d * self.finite_weight_squared,
                )
            ),
        )

    def merge(self, *others: LossSummary) -> LossSummary:
        """Return the summary of these rows and the others' together.

        Associative and commutative to rounding; the empty ``LossSummary()`` changes nothing.

        Examples
        --------
        >>> parts = [LossSummary.from_rows([1e6 + i]) for i in range(3)]
        >>> parts[0].merge(*parts[1:]).second_squared
        2.0
        """
        parts = [self, *others]
        weight = math.fsum(p.finite_weight for p in parts)
        filled = [p for p in parts if p.finite_rows]
        # The mean of the whole, as an offset from the first centre: near 10⁶ the offset keeps the
        # digits that the mean itself cannot hold.
        base = filled[0].centre if filled else 0.0
        offset = (
            math.fsum(p.first + (p.centre - base) * p.finite_weight for p in filled) / weight
            if filled
            else 0.0
        )
        centre = base + offset
        moved = [p.about(centre) for p in filled]
        return LossSummary(
            sum(p.finite_rows for p in parts),
            weight,
            math.fsum(p.finite_weight_squared for p in parts),
            sum(p.infinite_rows for p in parts),
            math.fsum(p.infinite_weight for p in parts),
            math.fsum(p.infinite_weight_squared for p in parts),
            centre,
            math.fsum(p.first for p in moved),
            math.fsum(p.first_squared for p in moved),
            math.fsum(p.second_squared for p in moved),
        )

    @property
    def n(self) -> int:
        """Number of rows that have a weight."""
        return self.finite_rows + self.infinite_rows

    @property
    def weight(self) -> float:
        """Σw over all rows."""
        return self.finite_weight + self.infinite_weight

    @property
    def weight_squared(self) -> float:
        """Σw² over all rows."""
        return self.finite_weight_squared + self.infinite_weight_squared

    @property
    def total(self) -> float:
        """Σwℓ in nats; +∞ when an infinite row has a weight."""
        return math.inf if self.infinite_rows else self.finite_total

    @property
    def finite_total(self) -> float:
        """Σwℓ over the rows with a finite loss, nats."""
        return math.fsum((self.centre * self.finite_weight, self.first))

    @property
    def log_loss(self) -> float:
        """Mean loss Σwℓ / Σw in nats: +∞ when an infinite row has a weight, NaN without rows."""
        return math.inf if self.infinite_rows else self.finite_log_loss

    @property
    def finite_log_loss(self) -> float:
        """Mean loss of the rows whose loss is finite, nats; NaN when there is none."""
        if not self.finite_rows:
            return math.nan
        return self.centre + self.first / self.finite_weight

    @property
    def standard_error(self) -> float | None:
        """Standard error of the log loss, nats, or None where it is undefined.

        For sampling weights, SE² = n/(n−1) · Σw²(ℓ−μ)² / (Σw)². It is undefined for an infinite
        log loss and for fewer than two rows.
        """
        if self.infinite_rows or self.finite_rows < 2:
            return None
        n = self.finite_rows
        spread = self.about(self.centre + self.first / self.finite_weight).second_squared
        # Rounding can leave a spread of zero rows slightly below zero.
        return math.sqrt(n / (n - 1) * max(spread, 0.0)) / self.finite_weight


def check_weights(weights: Any, rows: int) -> np.ndarray:
    """Return sampling weights as float64, refusing what cannot be one.

    Raises
    ------
    ShapeError
        If there is not one weight per row.
    OptionError
        If a weight is negative, NaN, infinite, or so small or large that its square is not
        representable.

    Examples
    --------
    >>> check_weights([1, 2], 2).tolist()
    [1.0, 2.0]
    """
    if np.ma.is_masked(weights):
        raise OptionError(
            "sample_weight must have a weight in every row: got a masked array with masked entries."
            " Hint: weights.filled(0) skips those rows."
        )
    try:
        weight = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"sample_weight must hold numbers: {error}. "
            "Hint: give every row a number, 0 to skip it."
        ) from None
    if weight.shape != (rows,):
        raise ShapeError(
            f"sample_weight must have one weight per row, shape ({rows},): got {weight.shape}. "
            "Hint: leave it out to count each row once."
        )
    inside = (weight == 0) | ((weight >= SMALLEST_WEIGHT) & (weight <= LARGEST_WEIGHT))
    if not inside.all():
        row = int(np.argmin(inside))
        raise OptionError(
            "sample_weight must be 0 or lie in "
            f"[{SMALLEST_WEIGHT:g}, {LARGEST_WEIGHT:g}]: got {weight[row]} at row {row}. "
            "Hint: weights are relative, so divide all by a common factor; 0 skips a row."
        )
    return weight
