"""How far numbers are from the exact ones, and how much of what is declared that uses up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import mpmath as mp
import numpy as np

from benchmarks.proof import losses, oracle

__all__ = ["Measurement", "Worst", "excused"]


def excused(value: Any, truth: Any, ulps: float, bound: float, smallest: float) -> bool:
    """Tell whether flushing subnormals to zero is what makes a number wrong, if it is."""
    matters = ulps > bound or abs(truth) < smallest
    return bool(smallest and matters and abs(mp.mpf(float(value)) - truth) <= smallest)


@dataclass(frozen=True)
class Measurement:
    """The worst error of one quantity on one array library and dtype.

    Attributes
    ----------
    function, quantity
        What was measured.
    library, dtype
        Whose arrays, and the dtype of the inputs.
    unit
        ``"ulp"`` of the result's dtype, ``"relative"``, or ``"of bound"``: the part of a bound
        that differs from number to number.
    worst, bound
        The error that comes nearest to its bound or lies farthest beyond, and that bound.
    where
        The case it belongs to.
    numbers
        How many numbers were compared.
    flushed
        How many of them are excused by `SMALLEST` alone, since subnormals are flushed to zero.
    """

    function: str
    quantity: str
    library: str
    dtype: str
    unit: str
    worst: float
    bound: float
    where: str
    numbers: int
    flushed: int

    def as_dict(self) -> dict[str, Any]:
        """Return the measurement as a JSON object."""
        return asdict(self)


@dataclass
class Worst:
    """Collects errors of one quantity and keeps the one that uses up most of its bound."""

    unit: str
    worst: float = 0.0
    bound: float = 0.0
    where: str = ""
    numbers: int = 0
    flushed: int = 0
    _share: float = field(default=-1.0, repr=False)

    def note(self, error: Any, bound: float, where: str) -> None:
        """Take one error into account."""
        self.numbers += 1
        share = float(error) / bound
        if not share <= self._share:  # NaN is the worst of all
            self._share, self.worst, self.bound, self.where = share, float(error), bound, where

    def note_ulps(
        self,
        values: Any,
        truths: Sequence[Any],
        dtype: str,
        *,
        bound: float,
        where: str,
        smallest: float = 0.0,
    ) -> None:
        """Take numbers into account whose bound is so many ulp, or the absolute `smallest`."""
        result = losses.result_dtype(dtype)
        for value, truth in zip(values, truths, strict=True):
            error = oracle.ulps(value, truth, result)
            if excused(value, truth, error, bound, smallest):
                self.numbers += 1
                self.flushed += 1
            else:
                self.note(error, bound, where)

    def note_scaled(
        self, values: Any, truths: Sequence[Any], allowed: Iterable[Any], where: str
    ) -> None:
        """Take numbers into account whose bounds are absolute, one for each."""
        for value, truth, most in zip(values, truths, allowed, strict=True):
            number = float(value)
            if mp.isinf(truth) or not np.isfinite(number):
                self.note(0.0 if number == float(truth) else np.inf, 1.0, where)
            else:
                error = abs(mp.mpf(number) - truth)
                self.note(error / most if most else (0.0 if error == 0 else np.inf), 1.0, where)

    def measurement(self, function: str, quantity: str, library: str, dtype: str) -> Measurement:
        """Return what was collected."""
        return Measurement(
            function, quantity, library, dtype, self.unit, self.worst, self.bound, self.where,
            self.numbers, self.flushed,
        )  # fmt: skip
