"""The search for the minimum: coordinates in which it is short, and L-BFGS in them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.sparse

from xent.models.objective import Objective, sizes

__all__ = ["Iteration", "Metric", "Search"]

WIDE = 2048
"""Features from which the metric is that of each feature alone: the whole is too large."""
NARROW = 64
"""Features up to which the whole costs nothing."""
ROWS = 8
"""Rows a feature from which the whole says enough to be worth its cost."""
FLOOR = 1e-5
"""The part of Böhning's bound that is added to the second derivative."""
NUDGES = 10
"""Steps at most where the objective shows no more progress, but its gradient may."""
LIKE = 1.5
"""How many times the objective of the rows at hand may be that of all, and be taken for theirs."""


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


def _root(moments: Any, dtype: Any) -> Any:
    """Return R with RᵀR a matrix of moments, computed in some type, in whatever units."""
    size = sizes(np.maximum(np.diag(moments), 0.0))
    scaled = moments / np.outer(size, size)
    # Features that repeat each other have no root but for a little.
    little = 1e-5 if dtype == np.float32 else 1e-10
    while True:
        scaled[np.diag_indices(len(size))] = 1.0 + little
        try:
            return np.asfortranarray(scipy.linalg.cholesky(scaled) * size)
        except scipy.linalg.LinAlgError:
            little *= 100.0  # at the number of features at the latest there is one


class _Coordinates:
    """Coordinates V of W and b, in which a search is short.

    Features are taken from their means, which the intercepts b' = b + W·mean take up; what V is
    of W and b' is a subclass's to say, by a square root R of something like the second derivative.
    Constant features have no slope: the intercepts do what they could, and rounding is no slope.
    """

    def __init__(self, objective: Objective, constant: Any) -> None:
        self.d = objective.x.shape[1]
        self.mean = objective.mean * objective.unit + objective.centre
        self.constant = constant

    def coefficients(self, v: Any) -> Any:
        """Return W and b of V."""
        w = self._out(v)
        w[:, self.d :] -= (w[:, : self.d] * self.mean).sum(axis=1, keepdims=True)
        return w

    def coordinates(self, w: Any) -> Any:
        """Return V of W and b."""
        w = w.copy()
        w[:, self.d :] += (w[:, : self.d] * self.mean).sum(axis=1, keepdims=True)
        return self._in(w)

    def slope(self, gradient: Any) -> Any:
        """Return ∂F/∂V of ∂F/∂W and ∂F/∂b."""
        gradient = gradient.copy()
        if gradient.shape[1] > self.d:
            gradient[:, : self.d] -= gradient[:, self.d :] * self.mean
        gradient[:, : self.d][:, self.constant] = 0.0
        return self._across(gradient)

    def _in(self, w: Any) -> Any:
        """Return V of W and b', R·W."""
        raise NotImplementedError

    def _out(self, v: Any) -> Any:
        """Return W and b' of V, R⁻¹·V."""
        raise NotImplementedError

    def _across(self, gradient: Any) -> Any:
        """Return ∂F/∂V of ∂F/∂W and ∂F/∂b', R⁻ᵀ·∂F/∂W."""
        raise NotImplementedError


class Metric(_Coordinates):
    """Coordinates of Böhning's bound, in which the problem is about as long as wide.

    V = W·Rᵀ with RᵀR half of the features' second moments, and the penalty: of all features with
    each other, or, where those are many or sparse, of each by itself (R is diagonal then).
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__(objective, objective.variances == 0.0)
        x = objective.x
        self.root: Any
        few_rows = self.d > NARROW and self.d * ROWS > len(objective.y)
        if scipy.sparse.issparse(x) or self.d > WIDE or few_rows:
            moments = objective.variances * objective.unit**2
            self.root = sizes(0.5 * moments + objective.penalty)
        else:
            moments = 0.5 * objective.second_moments()[: self.d, : self.d]
            moments[np.diag_indices(self.d)] += objective.penalty
            self.root = _root(moments, objective.dtype)

    def moments(self) -> Any:
        """Return RᵀR."""
        root = self.root if self.root.ndim == 2 else np.diag(self.root)
        return root.T @ root

    def _in(self, w: Any) -> Any:
        own = w[:, : self.d]
        return self._joined(w, own @ self.root.T if self.root.ndim == 2 else own * self.root, 0.5)

    def _out(self, v: Any) -> Any:
        return self._joined(v, self._solved(v[:, : self.d], 0), 2.0)

    def _across(self, gradient: Any) -> Any:
        return self._joined(gradient, self._solved(gradient[:, : self.d], 1), 2.0)

    def _solved(self, own: Any, transposed: int) -> Any:
        if self.root.ndim == 1:
            return own / self.root
        # BLAS by its name: what surrounds it in scipy.linalg takes longer than it does.
        return scipy.linalg.blas.dtrsm(1.0, self.root, own.T, trans_a=transposed).T

    def _joined(self, like: Any, own: Any, square: float) -> Any:
        """Return features' columns, and the intercepts', whose second derivative is ½ at most."""
        joined = np.empty(like.shape)
        joined[:, : self.d] = own
        joined[:, self.d :] = np.sqrt(square) * like[:, self.d :]
        return joined


class Curvature(_Coordinates):
    """Coordinates of the second derivative itself at W, in which a search is nearly at its end.

    V = R·vec(W) with RᵀR the second derivative: dense, so for few coefficients. It is computed
    from any objective that resembles the one to be minimised, such as one of fewer rows.
    """

    def __init__(self, objective: Objective, w: Any, metric: Metric) -> None:
        super().__init__(objective, metric.constant)
        wide = w.shape[1]
        self.value = objective(w)[0]
        second = objective.second_derivative(w)
        self._second = second.copy()
        # Where the rows at hand hardly curve, a part of the bound says how far a step may go: as
        # much less than the bound as the second derivative is elsewhere.
        floor = np.diag(np.full(wide, 0.5))
        floor[: self.d, : self.d] = metric.moments()
        bound = np.tile(np.diag(floor), w.shape[0])
        floor *= FLOOR * float(np.mean(np.diag(second) / bound))
        for k in range(0, len(second), wide):
            second[k : k + wide, k : k + wide] += floor
        self.root = _root(second, np.float64)

    @cached_property
    def _bare(self) -> Any:
        return _root(self._second, np.float64)

    def gain(self, slope: Any) -> float:
        """Return how much less than here the objective's second-order model is at its least.

        ½·gᵀ·H⁻¹·g with g the gradient that has the slope ∂F/∂V, and without the bound's part.
        """
        gradient = slope.ravel() @ self.root
        left = scipy.linalg.blas.dtrsv(self._bare, gradient, trans=1)
        return 0.5 * float(left @ left)

    def resembles(self, value: float) -> bool:
        """Return whether this is about the second derivative where the objective is `value`.

        Not so where the losses have become much smaller since, and with them their curvature, nor
        where those of the rows at hand are not like those of all.
        """
        return value / LIKE <= self.value <= value * LIKE

    def _in(self, w: Any) -> Any:
        return (self.root @ w.ravel()).reshape(w.shape)

    def _out(self, v: Any) -> Any:
        return scipy.linalg.blas.dtrsv(self.root, v.ravel()).reshape(v.shape)

    def _across(self, gradient: Any) -> Any:
        return scipy.linalg.blas.dtrsv(self.root, gradient.ravel(), trans=1).reshape(gradient.shape)


class Search:
    """L-BFGS in coordinates; keeps what each step arrived at."""

    def __init__(self, metric: Metric, began: float, steps: int, verbose: int) -> None:
        self.metric, self.began, self.left = metric, began, steps
        self.prints = verbose > 1 or (verbose == 1 and sys.stderr.isatty())
        self.history: list[Iteration] = []
        self.settled = False

    def norm(self, gradient: Any) -> float:
        """Return the largest entry of the gradient in the metric."""
        return float(np.max(np.abs(self.metric.slope(gradient)), initial=0.0))

    def run(
        self,
        objective: Callable[[Any], tuple[float, Any]],
        w: Any,
        tol: float,
        *,
        pull: Any = 0.0,
        coordinates: Curvature | None = None,
        gain: float = np.inf,
        steps: int | None = None,
        trials: int = 40,
    ) -> Any:
        """Return where the objective, and ⟨pull, W⟩, is least, from W on.

        With `pull` the difference of two objectives' gradients at W, that is to first order the
        minimum of the other. In coordinates of the curvature the search goes on until what is left
        to gain is also less than `gain` of the objective. `settled` tells whether it ended so, not
        for want of `steps`, or of one among so many `trials` that lowers the objective.
        """
        chosen = self.metric if coordinates is None else coordinates
        most = self.left if steps is None else min(steps, self.left)
        origin = w
        latest, wanted = [0.0, 0.0], [gain]

        def evaluated(here: Any) -> tuple[float, Any]:
            value, gradient = objective(here)
            gradient = gradient + pull
            slope = chosen.slope(gradient).ravel()
            latest[:] = value, self.norm(gradient)
            value += float(np.sum(pull * (here - origin)))
            self.settled = latest[1] <= tol and (
                coordinates is None or coordinates.gain(slope) <= wanted[0] * abs(value)
            )
            return value, slope

        def ended() -> bool:
            return self.settled

        def stepped(*_: Any) -> None:
            self._note(*latest)
            if ended():
                raise StopIteration

        start = [evaluated(w)]
        if not self.history:
            self._note(*latest)
        if ended() or most == 0:
            # The last step, by this objective: another one took it.
            last = self.history[-1]
            self.history[-1] = last._replace(loss=latest[0], gradient_norm=latest[1])
            return w
        # A search goes on a little further than it must, so that another one from its end agrees.
        wanted[0] = gain / 4
        # The optimiser's first step has length 1, whatever the slope: let that be the slope's.
        unit = float(np.linalg.norm(start[0][1]))

        def coefficients(v: Any) -> Any:
            return chosen.coefficients(unit * v.reshape(w.shape))

        def scaled(v: Any) -> tuple[float, Any]:
            value, slope = start.pop() if start else evaluated(coefficients(v))
            return value, unit * slope

        result = scipy.optimize.minimize(
            scaled,
            chosen.coordinates(w).ravel() / unit,
            jac=True,
            method="L-BFGS-B",
            callback=stepped,
            options={
                "maxiter": most,
                "gtol": 0.0,
                "ftol": 0.0,
                "maxcor": 20,
                "maxls": trials,
            },
        )
        self.left -= result.nit
        w = coefficients(result.x)
        if ended() and result.nit:
            return w
        # It stopped at a step, which need not be what was evaluated last.
        slope = evaluated(w)[1]
        for _ in range(0 if ended() else min(NUDGES, most - result.nit)):
            # The objective's rounding hides how little it falls: let the gradient judge.
            norm = latest[1]
            there = chosen.coefficients(chosen.coordinates(w) - slope.reshape(w.shape))
            slope = evaluated(there)[1]
            if not latest[1] < norm:
                evaluated(w)
                break
            w = there
            self.left -= 1
            self._note(*latest)
            if ended():
                break
        return w

    def begin(self, objective: Callable[[Any], tuple[float, Any]], w: Any) -> None:
        """Note where the search begins."""
        value, gradient = objective(w)
        self._note(value, self.norm(gradient))

    def _note(self, loss: float, gradient_norm: float) -> None:
        seconds = time.perf_counter() - self.began
        self.history.append(Iteration(loss, gradient_norm, seconds))
        if self.prints:
            line = f"step {len(self.history) - 1}: loss {loss:.9g}, gradient {gradient_norm:.2g}"
            print(f"{line}, {seconds:.1f} s", file=sys.stderr)  # noqa: T201
