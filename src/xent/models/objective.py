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

__all__ = ["Objective"]

PART = 1 << 21
"""Numbers of a matrix that stay in a processor's cache from one use to the next."""


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
    centre
        What has been taken from each feature: the objective is that of ``x + centre``.
    """

    x: Any
    y: Any
    weight: Any
    outputs: int
    intercept: bool
    penalty: float
    squared: bool
    centre: Any = 0.0

    @property
    def shape(self) -> tuple[int, int]:
        """Return the shape of W, intercepts last."""
        return self.outputs, self.x.shape[1] + self.intercept

    @cached_property
    def mean(self) -> Any:
        """The features' means, weighted by row; 0 where nothing may be taken from them."""
        if not self.intercept or scipy.sparse.issparse(self.x):
            return 0.0
        if self.weight is None:
            return self.x.mean(axis=0, dtype=np.float64)
        return self.weight @ self.x

    def in_float32(self) -> Objective:
        """Return the same objective of rounded features; an intercept takes up their means."""
        if scipy.sparse.issparse(self.x):
            return replace(self, x=self.x.astype(np.float32))
        x = np.empty(self.x.shape, np.float32)
        for rows in self._parts(x.shape[1]):
            np.subtract(self.x[rows], self.mean, out=x[rows], casting="same_kind")
        return replace(self, x=x, centre=self.mean)

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

    def _losses(self, scores: Any, rows: slice) -> tuple[Any, Any]:
        given: dict[str, Any] = {"reduction": "none"}
        if self.weight is not None:
            given["row_weight"] = self.weight[rows]
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

    def _linear(self, w: Any) -> tuple[Any, Any]:
        """Return what `x` is multiplied by, and what is added, for scores in its dtype."""
        d = self.x.shape[1]
        constant = (w[:, :d] * self.centre).sum(axis=1)
        if self.intercept:
            constant += w[:, d]
        return w[:, :d].T.astype(self.x.dtype), constant.astype(self.x.dtype)

    def __call__(self, w: Any) -> tuple[float, Any]:
        """Return F and its gradient in the shape of W, both float64."""
        d = self.x.shape[1]
        matrix, constant = self._linear(w)
        # Parts are added in float64: their sums in float32 have few terms, and so little error.
        gradient, value = np.zeros(w.shape), 0.0
        for rows in self._parts(d):
            x = self.x[rows]
            losses, slopes = self._losses(x @ matrix + constant, rows)
            gradient[:, :d] += (x.T @ slopes).T
            gradient[:, d:] += slopes.sum(axis=0, dtype=np.float64)[:, None]
            value += float(np.sum(losses, dtype=np.float64))
        if self.intercept:
            gradient[:, :d] += gradient[:, d:] * self.centre
        share = 1.0 if self.weight is not None else 1.0 / len(self.y)
        gradient *= share
        gradient[:, :d] += self.penalty * w[:, :d]
        return share * value + 0.5 * self.penalty * float(np.sum(w[:, :d] ** 2)), gradient

    def _centred(self, columns: int) -> Iterator[tuple[slice, Any]]:
        """Yield parts of the features as W meets them, centred and times the root of the weight."""
        shift = np.asarray(self.mean, self.x.dtype)
        for rows in self._parts(columns):
            part = self.x[rows]
            z = np.ones((part.shape[0], self.shape[1]), part.dtype)
            z[:, : part.shape[1]] = part.toarray() if scipy.sparse.issparse(part) else part
            z[:, : part.shape[1]] -= shift
            share = np.full(1, 1.0 / len(self.y)) if self.weight is None else self.weight[rows]
            z *= np.sqrt(share)[:, None].astype(z.dtype)
            yield rows, z

    def second_moments(self) -> Any:
        """Return Σ s·x·xᵀ of centred features, with the intercept's 1 if there is one."""
        moments = np.zeros((self.shape[1],) * 2)
        for _, z in self._centred(self.shape[1]):
            moments += z.T @ z
        return moments

    def second_derivative(self, w: Any) -> Any:
        """Return the cross-entropy's ∂²F/∂W², for centred features, W's entries row by row.

        Σ s·(diag(p) − p·pᵀ) ⊗ x·xᵀ, and the penalty.
        """
        (outputs, wide), d = self.shape, self.x.shape[1]
        size = outputs * wide
        matrix, constant = self._linear(w)
        by_output, second = np.zeros((size, wide)), np.zeros((size, size))
        for rows, z in self._centred(size):
            scores = self.x[rows] @ matrix + constant
            one = outputs == 1
            p = scipy.special.expit(scores) if one else scipy.special.softmax(scores, axis=1)
            spread = (p[:, :, None] * z[:, None, :]).reshape(len(z), size)
            by_output += spread.T @ z
            second -= spread.T @ spread
        for k in range(outputs):
            own = slice(k * wide, (k + 1) * wide)
            second[own, own] += by_output[own]
            second[own, own][np.diag_indices(d)] += self.penalty
        return second
