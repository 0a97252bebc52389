"""A classifier that minimises cross-entropy, for scikit-learn's pipelines and searches.

The scores are linear in the features, so the cross-entropy is convex and has one minimum. Three
things make the way there short. The second derivative is never more than half of the features'
second moments (Böhning 1992), and in coordinates in which those are the identity L-BFGS needs few
steps to come near. From there, in coordinates of the second derivative itself, it needs hardly any;
a sample of the rows is enough to compute that derivative, and to come near. And the steps are taken
with features of float32; only the last ones, which decide where it ends, with those given.
"""

from __future__ import annotations

import inspect
import numbers
import time
import warnings
from typing import Any, Literal

import numpy as np
import scipy.sparse
import scipy.special
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from xent.errors import OptionError
from xent.models.objective import Objective
from xent.models.search import Curvature, Metric, Search

__all__ = ["SoftmaxRegression"]

MANY = 1 << 15
"""Entries of X from which float64 features are first rounded to float32."""
LARGE = 1e15
"""The size of features whose squares float32 can still add."""
ROUGH = 2e-6
"""The least gradient that scores of float32 can tell from none."""
GAIN = 1e-9
"""The part of the objective that may be left to gain, where there is a penalty and so a minimum."""
NOISE = 4e-7
"""The part of a row's loss that scores of float32 cannot tell from none; less of many rows'."""
CORRECTIONS = 2
"""How often the minimum for rounded features is corrected by the gradient for the given ones."""
NEAR = 3e-3
"""The gradient from which the second derivative is about that at the minimum."""
NEAR_STEPS = 100
"""Steps at most towards the minimum for a sample of the rows."""
SAMPLE = 8192
"""Rows from which the second derivative is computed, and the first guess."""
COEFFICIENTS = 4096
"""Coefficients up to which the second derivative is computed at all."""
TURN = 20
"""Steps after which the second derivative is computed anew."""
PAYS = 2500
"""Coefficients up to which computing it from all of the rows costs less than the steps it saves."""


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
        features' units. Where the Hessian is computed, less than 1e-9 of F may be left to gain too.
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
        Steps taken, as an array of one; those for a sample of the rows are not counted.
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
    L-BFGS in the metric of Böhning's bound of the Hessian [1]_ until near the minimum, and then in
    that of the Hessian there, if the coefficients are few enough to compute it. Of many rows a
    sample serves for both, and features of float64 are rounded to float32 on the way; the last
    steps are taken with all rows as given. So neither has a part in where the search ends.

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
        for name, kind, words in (
            ("C", numbers.Real, "a number"),
            ("tol", numbers.Real, "a number"),
            ("max_iter", numbers.Integral, "a whole number"),
        ):
            value = getattr(self, name)
            if not (isinstance(value, kind) and float(value) > 0.0):
                raise OptionError(
                    f"{name} must be {words} above 0: got {value!r}. "
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
        objective = Objective(
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

    def _start(self, objective: Objective) -> Any:
        w = np.zeros(objective.shape)
        if self.warm_start and hasattr(self, "coef_"):
            d = self.coef_.shape[1]
            if self.coef_.shape == (objective.outputs, objective.x.shape[1]):
                w[:, :d] = self.coef_
                if self.fit_intercept:
                    w[:, d] = self.intercept_
        return w

    def _minimised(self, objective: Objective, w: Any, began: float) -> Any:
        """Return W at the minimum, from a start."""
        exact = objective.x.dtype == np.float64
        size = objective.x.nnz if scipy.sparse.issparse(objective.x) else objective.x.size
        rough = objective
        if exact and size >= MANY and max(objective.x.max(), -objective.x.min()) < LARGE:
            rough = objective.in_float32()
        metric = Metric(rough)
        search = Search(metric, began, self.max_iter, self.verbose)
        if self._curves(rough, w.size):
            w = self._by_curvature(rough, objective, search, w)
        else:
            w = self._by_bound(rough, objective, search, w)
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

    def _curves(self, objective: Objective, coefficients: int) -> bool:
        """Return whether the second derivative is worth its price."""
        rows = len(objective.y)
        cost = coefficients * min(rows, SAMPLE)
        return not objective.squared and coefficients <= COEFFICIENTS and cost <= PAYS * rows

    def _by_curvature(self, rough: Objective, exact: Objective, search: Search, w: Any) -> Any:
        """Return W at the minimum, in the coordinates of the second derivative near it."""
        size = SAMPLE
        part = rough.sample(size)
        if part is rough:
            w = search.run(rough, w, max(self.tol, NEAR))
        elif not w.any():
            search.begin(rough, w)
            w = Search(search.metric, 0.0, NEAR_STEPS, 0).run(part, w, NEAR)
        coordinates = Curvature(part, w, search.metric)
        for objective in [rough] if rough is exact else [rough, exact]:
            tol, gain = self.tol, GAIN if objective.penalty > 0.0 else np.inf
            if objective.x.dtype == np.float32:
                tol, gain = np.inf, NOISE / np.sqrt(len(objective.y))
            while True:
                before = search.left
                w = search.run(objective, w, tol, coordinates=coordinates, gain=gain, steps=TURN)
                if search.settled or before - search.left < TURN:
                    break
                # What the sample did not show, more rows may.
                size *= 4
                coordinates = Curvature(rough.sample(size), w, search.metric)
        return w

    def _by_bound(self, rough: Objective, exact: Objective, search: Search, w: Any) -> Any:
        """Return W at the minimum, in the coordinates of Böhning's bound."""
        if rough.x.dtype == np.float32:
            w = search.run(rough, w, max(self.tol, ROUGH))
        if rough is not exact:
            for _ in range(CORRECTIONS):
                gradient = exact(w)[1]
                if search.norm(gradient) <= self.tol or search.left == 0:
                    break
                pull = gradient - rough(w)[1]
                w = search.run(rough, w, max(self.tol, ROUGH / 10), pull=pull)
        if exact.x.dtype == np.float64:
            w = search.run(exact, w, self.tol)
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
