"""What a linear classifier minimises: the mean loss of its scores, with a penalty."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
import scipy.special

from xent.losses import (
    sigmoid_cross_entropy_value_and_grad,
    softmax_cross_entropy_value_and_grad,
    squared_error_value_and_grad,
)

__all__ = ["LARGEST_WEIGHT_RATIO", "Objective"]

PART = 1 << 21
"""Numbers of a matrix that stay in a processor's cache from one use to the next."""
LARGEST_WEIGHT_RATIO = 1e12
"""How many times another row's weight one may be: beyond, a row is lost in the sum's rounding."""
CONSTANT = 1e-13
"""The part of its mean by which a feature must vary: below, that is the rounding of the mean."""


@dataclass(frozen=True, eq=False)
class Objective:
    """The weighted mean loss of linear scores, with the penalty: F(W) and ∂F/∂W.

    Attributes
    ----------
    x, y
        Features (rows, d), dense or sparse, and class indices (rows,).
    weight
        The rows' weights, which sum to 1; None for equal ones.
    outputs
        Scores a row: the classes, or 1 for two of them.
    penalty
        λ of λ/2·‖W‖², which leaves the intercepts out.
    dtype
        Of the scores: features of another are converted part by part.
    centre, unit
        What was taken from each feature, and what the rest was divided by: the objective is that
        of ``x·unit + centre``.
    """

    x: Any
    y: Any
    weight: Any
    outputs: int
    intercept: bool
    penalty: float
    squared: bool
    dtype: Any = np.float64
    centre: Any = 0.0
    unit: Any = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """Return the shape of W, intercepts last."""
        return self.outputs, self.x.shape[1] + self.intercept

    @cached_property
    def mean(self) -> Any:
        """The means of `x`, weighted by row, if an intercept can take them up; else 0."""
        d = self.x.shape[1]
        if not self.intercept:
            return np.zeros(d)
        if scipy.sparse.issparse(self.x):
            return np.asarray(self._share @ self.x).ravel()
        found = np.zeros(d)
        for rows in self._parts(d):
            found += self._share[rows] @ self.x[rows].astype(np.float64, copy=False)
        return found

    @cached_property
    def variances(self) -> Any:
        """Σ s·(x − mean)² of each column, and 0 for a constant one."""
        d = self.x.shape[1]
        if scipy.sparse.issparse(self.x):
            entries, column = self.x.data, self.x.indices
            row = np.repeat(np.arange(self.x.shape[0]), np.diff(self.x.indptr))
            share = self._share[row]
            absent = np.maximum(1.0 - np.bincount(column, share, d), 0.0)
            absent[np.bincount(column, minlength=d) == len(self.y)] = 0.0  # not a rounding of it
            found = np.bincount(column, share * (entries - self.mean[column]) ** 2, d)
            found += absent * self.mean**2
        else:
            found = np.zeros(d)
            for rows in self._parts(d):
                found += self._share[rows] @ (self.x[rows] - self.mean) ** 2
        return np.where(found > (CONSTANT * self.mean) ** 2, found, 0.0)

    @cached_property
    def _share(self) -> Any:
        rows = len(self.y)
        return np.full(rows, 1.0 / rows) if self.weight is None else self.weight

    def in_float32(self) -> Objective:
        """Return the same objective of features rounded to float32, centred and of size 1.

        The features must be dense. A unit is a power of 2, which rounds nothing.
        """
        unit = np.exp2(np.round(np.log2(sizes(self.variances))))
        x = np.empty(self.x.shape, np.float32)
        for rows in self._parts(x.shape[1]):
            x[rows] = (self.x[rows] - self.mean) / unit
        return replace(self, x=x, dtype=np.float32, centre=self.mean, unit=unit)

    def sample(self, size: int) -> Objective:
        """Return nearly the same objective, of about so many rows, each class with its share.

        A class has an equal number of rows at most, drawn by their weight at equal distances; of a
        rare class all rows are taken. So none is missing, and no weight is large. Where that would
        be half of the rows, it is all of them.
        """
        if len(self.y) <= 2 * size:
            return self
        order, most = np.argsort(self.y, kind="stable"), size // (int(self.y.max()) + 1)
        rows, weights = [], []
        for every in np.split(order, np.flatnonzero(np.diff(self.y[order])) + 1):
            own = np.ones(len(every)) if self.weight is None else self.weight[every]
            upto = np.cumsum(own)
            few = len(every) <= most
            drawn = np.searchsorted(upto, (np.arange(most) + 0.5) * (upto[-1] / most))
            rows.append(every if few else every[drawn])
            weights.append(own if few else np.full(most, upto[-1] / most))
        chosen, weight = np.concatenate(rows), np.concatenate(weights)
        return replace(self, x=self.x[chosen], y=self.y[chosen], weight=weight / weight.sum())

    def _parts(self, columns: int) -> Iterator[slice]:
        """Yield rows, so many at a time that those of a matrix of some columns stay in a cache."""
        step = max(1, PART // max(1, columns))
        for i in range(0, len(self.y), step):
            yield slice(i, i + step)

    @property
    def _width(self) -> int:
        """Entries of a row, or its scores if those are more."""
        sparse = scipy.sparse.issparse(self.x)
        return max(self.x.nnz // len(self.y) if sparse else self.x.shape[1], self.outputs)

    def _part(self, rows: slice) -> Any:
        return self.x[rows].astype(self.dtype, copy=False)

    def _losses(self, scores: Any, rows: slice) -> tuple[Any, Any]:
        given: dict[str, Any] = {"reduction": "none"}
        if self.weight is not None:
            given["row_weight"] = self.weight[rows] / self._heaviest
        y = self.y[rows]
        if self.outputs == 1:
            flat = scores[:, 0]
            if self.squared:
                losses, slopes = squared_error_value_and_grad(flat, y, link="sigmoid", **given)
            else:
                losses, slopes = sigmoid_cross_entropy_value_and_grad(flat, y, **given)
            return losses, slopes[:, None]
        if self.squared:
            return squared_error_value_and_grad(scores, y, **given)
        return softmax_cross_entropy_value_and_grad(scores, y, **given)

    @cached_property
    def _heaviest(self) -> float:
        """The share of the heaviest row: losses are added in parts of it."""
        return 1.0 / len(self.y) if self.weight is None else float(self.weight.max())

    def _linear(self, w: Any) -> tuple[Any, Any]:
        """Return what `x` is multiplied by, and what is added, for scores in the dtype."""
        d = self.x.shape[1]
        constant = (w[:, :d] * self.centre).sum(axis=1)
        if self.intercept:
            constant += w[:, d]
        return (w[:, :d] * self.unit).T.astype(self.dtype), constant.astype(self.dtype)

    def __call__(self, w: Any) -> tuple[float, Any]:
        """Return F and its gradient in the shape of W, both float64."""
        d = self.x.shape[1]
        matrix, constant = self._linear(w)
        # Parts are added in float64: their sums in float32 have few terms, and so little error.
        gradient, value = np.zeros(w.shape), 0.0
        for rows in self._parts(self._width):
            x = self._part(rows)
            losses, slopes = self._losses(x @ matrix + constant, rows)
            gradient[:, :d] += (x.T @ slopes).T
            gradient[:, d:] += slopes.sum(axis=0, dtype=np.float64)[:, None]
            value += float(np.sum(losses, dtype=np.float64))
        gradient[:, :d] *= self.unit
        if self.intercept:
            gradient[:, :d] += gradient[:, d:] * self.centre
        gradient *= self._heaviest
        gradient[:, :d] += self.penalty * w[:, :d]
        return self._heaviest * value + 0.5 * self.penalty * float(np.sum(w[:, :d] ** 2)), gradient

    def _centred(self, columns: int, dtype: Any) -> Iterator[tuple[slice, Any]]:
        """Yield parts of `x`, centred and times the root of the weight, and of the 1s if any."""
        d = self.x.shape[1]
        for rows in self._parts(columns):
            part = self._part(rows)
            z = np.ones((part.shape[0], self.shape[1]), dtype)
            z[:, :d] = part.toarray() if scipy.sparse.issparse(part) else part
            z[:, :d] -= self.mean.astype(dtype)
            z[:, :d][:, self.variances == 0.0] = 0.0  # what is left of those is rounding
            z *= np.sqrt(self._share[rows])[:, None].astype(dtype)
            yield rows, z

    def _units(self) -> Any:
        units = np.ones(self.shape[1])
        units[: self.x.shape[1]] = self.unit
        return units

    def second_moments(self) -> Any:
        """Return Σ s·x·xᵀ of centred features, with the intercept's 1 if there is one."""
        moments = np.zeros((self.shape[1],) * 2)
        for _, z in self._centred(self.shape[1], self.dtype):
            moments += z.T @ z
        return moments * np.outer(self._units(), self._units())

    def second_derivative(self, w: Any) -> Any:
        """Return the cross-entropy's ∂²F/∂W², for centred features, W's entries row by row.

        Σ s·(diag(p) − p·pᵀ) ⊗ x·xᵀ, and the penalty. In float64: where a p is nearly 1, what is
        left of the difference has few of float32's digits, and is not positive.
        """
        (outputs, wide), d = self.shape, self.x.shape[1]
        size = outputs * wide
        matrix, constant = self._linear(w)
        by_output, second = np.zeros((size, wide)), np.zeros((size, size))
        for rows, z in self._centred(size, np.float64):
            scores = (self._part(rows) @ matrix + constant).astype(np.float64)
            if outputs == 1:
                # p·(1 − p), where the difference would lose the digits of a p near 1.
                spread = z * np.sqrt(scipy.special.expit(scores) * scipy.special.expit(-scores))
                second += spread.T @ spread
                continue
            p = scipy.special.softmax(scores, axis=1)
            spread = (p[:, :, None] * z[:, None, :]).reshape(len(z), size)
            by_output += spread.T @ z
            second -= spread.T @ spread
        units = np.tile(self._units(), outputs)
        for k in range(outputs):
            own = slice(k * wide, (k + 1) * wide)
            second[own, own] += by_output[own]
        second *= np.outer(units, units)
        for k in range(outputs):
            features = slice(k * wide, k * wide + d)
            second[features, features][np.diag_indices(d)] += self.penalty
        return second


def sizes(squares: Any) -> Any:
    """Return the roots of squares, and 1 where they are 0."""
    roots = np.sqrt(squares)
    return np.where(roots > 0.0, roots, 1.0)
