"""The search for the minimum: coordinates in which it is short, and L-BFGS in them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.sparse

from xent.models.objective import Objective

__all__ = ["Iteration", "Metric", "Search"]

WIDE = 2048
"""Features from which the metric is that of each feature alone: the whole is too large."""


class Iteration(NamedTuple):
    """What a step of the optimiser arrived at.

    Attributes
    ----------
    loss
        The objective: the weighted mean loss, in nats, and the penalty.
    gradient_norm
        The largest entry of the gradient in the metric of the features, which `tol` is about.
    seconds
        Since the fit began.
    """

    loss: float
    gradient_norm: float
    seconds: float


class Metric:
    """The coordinates of the search, in which its problem is about as long as wide.

    Features are taken from their means, which the intercepts b' = b + W·mean take up, and
    V = W·Rᵀ with RᵀR half of their second moments, and the penalty: of all features with each
    other, or, where those are many or sparse, of each by itself (R is diagonal then).
    """

    def __init__(self, objective: Objective) -> None:
        x, rows = objective.x, objective.x.shape[0]
        share = np.full(rows, 1.0 / rows) if objective.weight is None else objective.weight
        self.d, self.mean = x.shape[1], objective.mean()
        self.root: Any
        if scipy.sparse.issparse(x) or self.d > WIDE:
            squares = x.multiply(x) if scipy.sparse.issparse(x) else (x - self.mean) ** 2
            moments = np.asarray(squares.T @ share, np.float64).ravel()
            self.root = self._sizes(0.5 * moments + objective.penalty)
        else:
            centred = x - np.asarray(self.mean, x.dtype)
            centred *= np.sqrt(0.5 * share)[:, None].astype(x.dtype)
            moments = (centred.T @ centred).astype(np.float64)
            moments[np.diag_indices(self.d)] += objective.penalty
            # Whatever their units; features that repeat each other have no root but for a little.
            sizes = self._sizes(np.diag(moments))
            moments /= np.outer(sizes, sizes)
            moments[np.diag_indices(self.d)] = 1.0 + (1e-5 if x.dtype == np.float32 else 1e-10)
            self.root = scipy.linalg.cholesky(moments) * sizes
        self.mean = self.mean + objective.centre

    @staticmethod
    def _sizes(moments: Any) -> Any:
        sizes = np.sqrt(moments)
        return np.where(sizes > 0.0, sizes, 1.0)

    def coefficients(self, v: Any) -> Any:
        """Return W and b of V."""
        w = v.copy()
        if self.root.ndim == 2:
            w[:, : self.d] = scipy.linalg.solve_triangular(self.root, v[:, : self.d].T).T
        else:
            w[:, : self.d] /= self.root
        w[:, self.d :] *= np.sqrt(2.0)
        w[:, self.d :] -= (w[:, : self.d] * self.mean).sum(axis=1, keepdims=True)
        return w

    def coordinates(self, w: Any) -> Any:
        """Return V of W and b."""
        v = w.copy()
        v[:, self.d :] += (w[:, : self.d] * self.mean).sum(axis=1, keepdims=True)
        v[:, self.d :] /= np.sqrt(2.0)
        v[:, : self.d] = (
            w[:, : self.d] @ self.root.T if self.root.ndim == 2 else w[:, : self.d] * self.root
        )
        return v

    def slope(self, gradient: Any) -> Any:
        """Return ∂F/∂V of ∂F/∂W and ∂F/∂b."""
        slope = gradient.copy()
        if gradient.shape[1] > self.d:
            slope[:, : self.d] -= gradient[:, self.d :] * self.mean
        if self.root.ndim == 2:
            own = slope[:, : self.d].T
            slope[:, : self.d] = scipy.linalg.solve_triangular(self.root, own, trans=1).T
        else:
            slope[:, : self.d] /= self.root
        slope[:, self.d :] *= np.sqrt(2.0)
        return slope


class Search:
    """L-BFGS in the coordinates of a metric; keeps what each step arrived at."""

    def __init__(self, metric: Metric, began: float, steps: int, verbose: int) -> None:
        self.metric, self.began, self.left = metric, began, steps
        self.prints = verbose > 1 or (verbose == 1 and sys.stderr.isatty())
        self.history: list[Iteration] = []

    def norm(self, gradient: Any) -> float:
        """Return the largest entry of ∂F/∂V."""
        return float(np.max(np.abs(self.metric.slope(gradient)), initial=0.0))

    def run(
        self, objective: Callable[[Any], tuple[float, Any]], w: Any, tol: float, pull: Any = 0.0
    ) -> Any:
        """Return where the objective, and ⟨pull, W⟩, is least, from W on.

        With `pull` the difference of two objectives' gradients at W, that is to first order the
        minimum of the other.
        """
        shape, origin, latest = w.shape, w, [0.0, 0.0]

        def evaluated(v: Any) -> tuple[float, Any]:
            here = self.metric.coefficients(v.reshape(shape))
            value, gradient = objective(here)
            value += float(np.sum(pull * (here - origin)))
            slope = self.metric.slope(gradient + pull)
            latest[:] = value, float(np.max(np.abs(slope), initial=0.0))
            return value, slope.ravel()

        def note(*_: Any) -> None:
            step = Iteration(latest[0], latest[1], time.perf_counter() - self.began)
            self.history.append(step)
            if self.prints:
                line = f"step {len(self.history) - 1}: loss {step.loss:.9g}, gradient "
                print(f"{line}{step.gradient_norm:.2g}, {step.seconds:.1f} s", file=sys.stderr)  # noqa: T201

        start = self.metric.coordinates(w).ravel()
        first = evaluated(start)
        if not self.history:
            note()
        if latest[1] <= tol or self.left == 0:
            # The last step, by this objective: another one took it.
            self.history[-1] = self.history[-1]._replace(loss=latest[0], gradient_norm=latest[1])
            return w
        memory = [first]
        result = scipy.optimize.minimize(
            lambda v: memory.pop() if memory else evaluated(v),
            start,
            jac=True,
            method="L-BFGS-B",
            callback=note,
            options={"maxiter": self.left, "gtol": tol, "ftol": 0.0, "maxcor": 20, "maxls": 10},
        )
        self.left -= result.nit
        return self.metric.coefficients(result.x.reshape(shape))
