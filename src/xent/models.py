"""A classifier that minimises cross-entropy, for scikit-learn's pipelines and searches.

The scores are linear in the features, so the cross-entropy is convex and has one minimum. What
makes the search for it short is its metric: the second derivative of the softmax cross-entropy is
never more than half of the features' second moments (Böhning 1992), so in coordinates in which
those are the identity the problem is about as long as it is wide, and L-BFGS needs few steps. What
makes a step short is the arithmetic: the steps towards the minimum are taken with features of
float32, and only the last ones with the features as they were given.
"""

from __future__ import annotations

import inspect
import numbers
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from xent.errors import MissingExtraError, OptionError
from xent.losses import (
    sigmoid_cross_entropy_value_and_grad,
    softmax_cross_entropy_value_and_grad,
    squared_error_value_and_grad,
)

try:
    import scipy.linalg
    import scipy.optimize
    import scipy.sparse
    import scipy.special
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils import compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise MissingExtraError("xent.models", "models") from error

__all__ = ["Iteration", "SoftmaxRegression"]

WIDE = 2048
"""Features from which the metric is that of each feature alone: the whole is too large."""
MANY = 1 << 18
"""Entries of X from which float64 features are first rounded to float32."""
LARGE = 1e15
"""The size of features whose squares float32 can still add."""
ROUGH = 2e-6
"""The least gradient that scores of float32 can tell from none."""
CORRECTIONS = 2
"""How often the minimum for rounded features is corrected by the gradient for the given ones."""


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


@dataclass
class _Objective:
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

    def in_float32(self) -> _Objective:
        """Return the same objective of rounded features; an intercept takes up their means."""
        mean = self.mean()
        x = self.x if np.isscalar(mean) else self.x - mean
        return _Objective(**{**vars(self), "x": x.astype(np.float32), "centre": mean})

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


class _Metric:
    """The coordinates of the search, in which its problem is about as long as wide.

    Features are taken from their means, which the intercepts b' = b + W·mean take up, and
    V = W·Rᵀ with RᵀR half of their second moments, and the penalty: of all features with each
    other, or, where those are many or sparse, of each by itself (R is diagonal then).
    """

    def __init__(self, objective: _Objective) -> None:
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


class _Search:
    """L-BFGS in the coordinates of a metric; keeps what each step arrived at."""

    def __init__(self, metric: _Metric, began: float, steps: int, verbose: int) -> None:
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


class SoftmaxRegression(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    r"""A linear classifier that minimises the cross-entropy of its softmax (or sigmoid) scores.

    .. math:: F(W) = \frac{1}{\sum_i s_i} \Big[ \sum_i s_i\, L(W x_i + b,\, y_i)
              + \frac{1}{2C} \lVert W \rVert^2 \Big]

    with s the product of sample and class weights. For two classes there is one score, the
    sigmoid's. Under cross-entropy F is convex and has one minimum; it is that of scikit-learn's
    `LogisticRegression` with the same `C`.

    Parameters
    ----------
    loss
        ``"cross_entropy"``, or ``"squared_error"`` of the probabilities: not convex, with slopes
        that vanish for confident mistakes, to compare with.
    C
        The inverse of the penalty's strength, above 0; ∞ for none. Intercepts have none.
    fit_intercept
        Whether scores have a constant.
    class_weight
        Weights of the classes by label, or ``"balanced"``: inverse to the classes' weight.
    tol
        The largest entry of the gradient of F at which the search ends, in coordinates in which
        half of the features' second moments are the identity. So it does not depend on the
        features' units.
    max_iter
        Steps at most; a `ConvergenceWarning` says when they did not suffice.
    warm_start
        Whether to begin at the last fit's coefficients, if there are any of this shape.
    verbose
        1 shows the steps on stderr if that is a terminal, 2 prints them to it in any case.

    Attributes
    ----------
    classes_
        The labels (K,), sorted.
    coef_, intercept_
        W (K, d) and b (K,); (1, d) and (1,) for two classes. float32 for float32 features.
    n_iter_
        Steps taken, as an array of one.
    history_
        What each of them arrived at, as `Iteration`; the start is the first.
    n_features_in_, feature_names_in_
        As in every scikit-learn estimator.

    Raises
    ------
    OptionError
        If an option or the sum of the weights is not what is described here.
    ValueError
        From `fit` and the predictions: scikit-learn's own, for arrays that do not fit, NaN and ∞,
        and a target of one class.

    See Also
    --------
    sklearn.linear_model.LogisticRegression : the same minimum by other solvers; other penalties.
    xent.softmax_cross_entropy : the loss.

    Notes
    -----
    L-BFGS in the metric of Böhning's bound of the Hessian [1]_. Features of float64 are rounded
    to float32 for the way to the minimum, and not for the last steps.

    References
    ----------
    .. [1] D. Böhning, Multinomial logistic regression algorithm, Annals of the Institute of
       Statistical Mathematics 44 (1992) 197-200.

    Examples
    --------
    >>> x = [[-2.0], [-1.0], [1.0], [2.0]]
    >>> model = SoftmaxRegression().fit(x, ["no", "yes", "no", "yes"])
    >>> print(model.predict([[3.0]]), model.predict_proba([[0.0]]).round(3))
    ['yes'] [[0.5 0.5]]
    """

    def __init__(
        self,
        *,
        loss: Literal["cross_entropy", "squared_error"] = "cross_entropy",
        C: float = 1.0,
        fit_intercept: bool = True,
        class_weight: Any = None,
        tol: float = 1e-7,
        max_iter: int = 1000,
        warm_start: bool = False,
        verbose: int = 0,
    ) -> None:
        self.loss = loss
        self.C = C
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _checked(self) -> None:
        if self.loss not in ("cross_entropy", "squared_error"):
            raise OptionError(
                f"loss must be 'cross_entropy' or 'squared_error': got {self.loss!r}. "
                "Hint: the loss that a linear classifier is made for is 'cross_entropy'"
            )
        defaults = inspect.signature(type(self)).parameters
        for name in ("C", "tol", "max_iter"):
            value = getattr(self, name)
            if not (isinstance(value, numbers.Real) and float(value) > 0.0):
                raise OptionError(
                    f"{name} must be a number above 0: got {value!r}. "
                    f"Hint: the default is {defaults[name].default!r}"
                )

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SoftmaxRegression:
        """Minimise the loss of the rows of X (n, d), dense or sparse, with labels y (n,)."""
        began = time.perf_counter()
        self._checked()
        X, y = validate_data(
            self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32], order="C"
        )
        check_classification_targets(y)
        self.classes_, indices = np.unique(y, return_inverse=True)
        classes = len(self.classes_)
        if classes < 2:
            raise ValueError(
                "y must have at least 2 classes: got only one class, "
                f"{self.classes_.tolist()[0]!r}. "
                "Hint: was the table sorted by label before it was split?"
            )
        weight, total = self._weights(X, y, indices, sample_weight)
        objective = _Objective(
            X,
            indices,
            weight,
            1 if classes == 2 else classes,
            bool(self.fit_intercept),
            1.0 / (self.C * total),
            self.loss == "squared_error",
        )
        w = self._minimised(objective, self._start(objective), began)
        d = X.shape[1]
        self.coef_ = w[:, :d].astype(X.dtype)
        self.intercept_ = (w[:, d] if self.fit_intercept else np.zeros(len(w))).astype(X.dtype)
        return self

    def _weights(self, X: Any, y: Any, indices: Any, sample_weight: Any) -> tuple[Any, float]:
        """Return the rows' shares of all weight, None if equal, and all weight."""
        if sample_weight is None and self.class_weight is None:
            return None, float(len(indices))
        own = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        if self.class_weight is not None:
            with np.errstate(divide="ignore"):
                by_class = compute_class_weight(
                    self.class_weight, classes=self.classes_, y=y, sample_weight=own
                )
            own = own * np.where(by_class < np.inf, by_class, 0.0)[indices]  # ∞ of no rows
        with np.errstate(over="ignore"):
            total = float(own.sum())
        if not 0.0 < total < np.inf:
            raise OptionError(
                f"weights must have a positive, finite sum: got {total:g}. "
                "Hint: only their ratios to each other and to 1/C matter"
            )
        return own / total, total

    def _start(self, objective: _Objective) -> Any:
        w = np.zeros(objective.shape)
        if self.warm_start and hasattr(self, "coef_"):
            d = self.coef_.shape[1]
            if self.coef_.shape == (objective.outputs, objective.x.shape[1]):
                w[:, :d] = self.coef_
                if self.fit_intercept:
                    w[:, d] = self.intercept_
        return w

    def _minimised(self, objective: _Objective, w: Any, began: float) -> Any:
        """Return W at the minimum, from a start."""
        exact = objective.x.dtype == np.float64
        size = objective.x.nnz if scipy.sparse.issparse(objective.x) else objective.x.size
        rough = objective
        if exact and size >= MANY and abs(objective.x).max() < LARGE:
            rough = objective.in_float32()
        metric = _Metric(rough)
        search = _Search(metric, began, self.max_iter, self.verbose)
        if rough is not objective:
            w = search.run(rough, w, max(self.tol, ROUGH))
            for _ in range(CORRECTIONS):
                gradient = objective(w)[1]
                if search.norm(gradient) <= self.tol or search.left == 0:
                    break
                w = search.run(rough, w, max(self.tol, ROUGH / 10), gradient - rough(w)[1])
        w = search.run(objective, w, self.tol if exact else max(self.tol, ROUGH))
        self.history_ = search.history
        self.n_iter_ = np.array([self.max_iter - search.left], dtype=np.int32)
        reached = search.history[-1].gradient_norm
        if reached > (self.tol if search.left == 0 else 100.0 * max(self.tol, ROUGH)):
            steps = f"max_iter={self.max_iter}" if search.left == 0 else f"{self.n_iter_[0]}"
            warnings.warn(
                f"{steps} steps left a gradient of "
                f"{reached:.2g}, above tol={self.tol:g}. "
                "Hint: raise max_iter, or standardise the features",
                ConvergenceWarning,
                stacklevel=3,
            )
        return w

    def decision_function(self, X: Any) -> Any:
        """Return the scores (n, K), or (n,) for two classes."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        scores = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> Any:
        """Return the likeliest label of each row (n,)."""
        scores = self.decision_function(X)
        best = scores > 0 if scores.ndim == 1 else scores.argmax(axis=1)
        return self.classes_[best.astype(np.intp)]

    def predict_proba(self, X: Any) -> Any:
        """Return the classes' probabilities (n, K): no 1 − p, so that small ones keep digits."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            return scipy.special.expit(np.stack([-scores, scores], axis=1))
        return scipy.special.softmax(scores, axis=1)

    def predict_log_proba(self, X: Any) -> Any:
        """Return the logarithms of the probabilities (n, K), finite where those are 0."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            return scipy.special.log_expit(np.stack([-scores, scores], axis=1))
        return scipy.special.log_softmax(scores, axis=1)
