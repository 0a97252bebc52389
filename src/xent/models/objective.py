"""What a linear classifier minimises: the mean loss of its scores, with a penalty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse

from xent.losses import (
    sigmoid_cross_entropy_value_and_grad,
    softmax_cross_entropy_value_and_grad,
    squared_error_value_and_grad,
)

__all__ = ["Objective"]


@dataclass
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

    def mean(self) -> Any:
        """Return the features' means, weighted by row; 0 where nothing may be taken from them."""
        if not self.intercept or scipy.sparse.issparse(self.x):
            return 0.0
        if self.weight is None:
            return self.x.mean(axis=0, dtype=np.float64)
        return self.weight @ self.x

    def in_float32(self) -> Objective:
        """Return the same objective of rounded features; an intercept takes up their means."""
        mean = self.mean()
        x = self.x if np.isscalar(mean) else self.x - mean
        return Objective(**{**vars(self), "x": x.astype(np.float32), "centre": mean})

    def _losses(self, scores: Any) -> tuple[Any, Any]:
        given: dict[str, Any] = {"row_weight": self.weight, "reduction": "none"}
        if self.outputs == 1:
            flat = scores[:, 0]
            if self.squared:
                losses, slopes = squared_error_value_and_grad(flat, self.y, link="sigmoid", **given)
            else:
                losses, slopes = sigmoid_cross_entropy_value_and_grad(flat, self.y, **given)
            return losses, slopes[:, None]
        if self.squared:
            return squared_error_value_and_grad(scores, self.y, **given)
        return softmax_cross_entropy_value_and_grad(scores, self.y, **given)

    def __call__(self, w: Any) -> tuple[float, Any]:
        """Return F and its gradient in the shape of W, both float64."""
        d = self.x.shape[1]
        scores = self.x @ w[:, :d].T.astype(self.x.dtype)
        if self.intercept:
            scores += (w[:, d] + (w[:, :d] * self.centre).sum(axis=1)).astype(scores.dtype)
        losses, slopes = self._losses(scores)
        share = 1.0 if self.weight is not None else 1.0 / len(losses)
        gradient = np.empty(w.shape)
        gradient[:, :d] = (self.x.T @ slopes).T
        if self.intercept:
            gradient[:, d] = slopes.sum(axis=0, dtype=np.float64)
            gradient[:, :d] += gradient[:, d:] * self.centre
        gradient *= share
        gradient[:, :d] += self.penalty * w[:, :d]
        value = share * float(np.sum(losses, dtype=np.float64))
        return value + 0.5 * self.penalty * float(np.sum(w[:, :d] ** 2)), gradient
