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
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import scipy.sparse
import scipy.special
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from xent.errors import LogitError, OptionError
from xent.models.objective import CONSTANT, LARGEST_WEIGHT_RATIO, Objective
from xent.models.search import Curvature, Metric, Search

__all__ = ["SoftmaxRegression"]

MANY = 1 << 15
"""Entries of X from which float64 features are first rounded to float32."""
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
LEAST = 1e-100
"""What is no smaller has an inverse that can be multiplied by something."""
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
        A `ConvergenceWarning` says when that was not reached, be it for `max_iter` or rounding.
    max_iter
        Steps at most.
    warm_start
        Whether to begin at the last fit's coefficients, if there are any of this shape.
    verbose
        1 shows the steps on stderr if that is a terminal, 2 prints them to it in any case.

    Attributes
    ----------
    classes_
        The labels (K,), sorted.
    coef_, intercept_
        W (K, d) and b (K,); (1, d) and (1,) for two classes. float32 for float32 features: they are
        rounded at the end, which costs features far from 0 digits that their scores would need.
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
    sample serves for both, and on the way features are centred and rounded to float32; the last
    steps are taken with all rows as given, in float64. So neither has a part in where the search
    ends.

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
        for name, kind, least, words in (
            ("C", numbers.Real, LEAST, f"a number of {LEAST:g} or more"),
            ("tol", numbers.Real, LEAST, f"a number of {LEAST:g} or more"),
            ("max_iter", numbers.Integral, 1, "a whole number above 0"),
            ("verbose", numbers.Integral, 0, "0, 1 or 2"),
        ):
            value = getattr(self, name)
            boolean = isinstance(value, (bool, np.bool_)) and name != "verbose"
            if boolean or not (isinstance(value, kind) and float(value) >= least):
                raise OptionError(
                    f"{name} must be {words}: got {value!r}. "
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
        penalty = 1.0 / self.C / total
        if not penalty < 1.0 / LEAST:
            raise OptionError(
                f"C times the sum of the weights must be more than {LEAST:g}: got C={self.C:g} and "
                f"weights that sum to {total:g}. Hint: raise C"
            )
        x = X
        if scipy.sparse.issparse(X):
            # float32 cannot be centred without becoming dense; and the caller's stays as it is.
            x = X.astype(np.float64)
            x.sum_duplicates()
        objective = Objective(
            x,
            indices,
            weight,
            1 if classes == 2 else classes,
            bool(self.fit_intercept),
            penalty,
            self.loss == "squared_error",
        )
        _require_ordinary(objective)
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
            if isinstance(self.class_weight, Mapping):
                _require_weights(self.class_weight)
            with np.errstate(divide="ignore"):
                by_class = compute_class_weight(
                    self.class_weight, classes=self.classes_, y=y, sample_weight=own
                )
            own = own * np.where(by_class < np.inf, by_class, 0.0)[indices]  # ∞ of no rows
        most = float(own.max())
        if not 0.0 < most < np.inf:
            raise OptionError(
                f"the largest weight must be positive and finite: got {most:g}. "
                "Hint: only the weights' ratios to each other and to 1/C matter"
            )
        least = float(own.min(where=own > 0.0, initial=most))
        if least * LARGEST_WEIGHT_RATIO < most:
            raise OptionError(
                "a weight must be 0 or within a factor of "
                f"{LARGEST_WEIGHT_RATIO:g} of the largest, {most:g}: got {least:g} at row "
                f"{int(np.argmax(own == least))} (sample weight times class weight). "
                "Hint: beside the largest it counts for nothing, so give it the weight 0"
            )
        # Relative to the largest, or the sum of many could be infinite.
        own = own / most
        total = float(own.sum())
        return own / total, total * most

    def _start(self, objective: Objective) -> Any:
        w = np.zeros(objective.shape)
        if self.warm_start and hasattr(self, "coef_"):
            d = self.coef_.shape[1]
            if self.coef_.shape == (objective.outputs, objective.x.shape[1]):
                w[:, :d] = np.where(objective.variances > 0.0, self.coef_, 0.0)
                if self.fit_intercept:
                    w[:, d] = self.intercept_
                try:
                    with np.errstate(over="ignore", invalid="ignore"):
                        objective(w)
                except LogitError:  # with these features its scores are beyond all numbers
                    w[:] = 0.0
        return w

    def _minimised(self, objective: Objective, w: Any, began: float) -> Any:
        """Return W at the minimum, from a start."""
        dense = not scipy.sparse.issparse(objective.x)
        rough = objective.in_float32() if dense and objective.x.size >= MANY else objective
        search = Search(Metric(rough), began, self.max_iter, int(self.verbose))
        if self._curves(rough, w.size):
            w = self._by_curvature(rough, objective, search, w)
        else:
            w = self._by_bound(rough, objective, search, w)
        self.history_ = search.history
        self.n_iter_ = np.array([self.max_iter - search.left], dtype=np.int32)
        if not search.settled:
            self._warn(search)
        return w

    def _warn(self, search: Search) -> None:
        reached = search.history[-1].gradient_norm
        if search.left == 0:
            said, hint = f"max_iter={self.max_iter} steps", "raise max_iter"
        else:
            said, hint = f"{self.n_iter_[0]} steps, after which rounding hid the way,", "raise tol"
        left = (
            f"a gradient of {reached:.2g}, above tol={self.tol:g}"
            if reached > self.tol
            else f"more than {GAIN:g} of the objective to gain"
        )
        warnings.warn(
            f"{said} left {left}. Hint: {hint}, standardise the features, or lower C",
            ConvergenceWarning,
            stacklevel=4,
        )

    def _curves(self, objective: Objective, coefficients: int) -> bool:
        """Return whether the second derivative is worth its price."""
        rows = len(objective.y)
        cost = coefficients * min(rows, SAMPLE)
        return not objective.squared and coefficients <= COEFFICIENTS and cost <= PAYS * rows

    def _by_curvature(self, rough: Objective, exact: Objective, search: Search, w: Any) -> Any:
        """Return W at the minimum, in the coordinates of the second derivative near it."""
        size, warm = SAMPLE, bool(w.any())
        part = rough.sample(size)
        if part is rough:
            w = search.run(rough, w, max(self.tol, NEAR))
        elif not warm:
            search.begin(rough, w)
            w = Search(search.metric, 0.0, NEAR_STEPS, 0).run(part, w, NEAR)
        coordinates = Curvature(part, w, search.metric)
        last: dict[str, Any] = {"tol": self.tol, "gain": GAIN if exact.penalty > 0.0 else np.inf}
        noise = NOISE / np.sqrt(len(exact.y))
        stages: list[tuple[Objective, dict[str, Any]]] = [(exact, last)]
        if rough is not exact:
            stages.insert(0, (rough, {"tol": np.inf, "gain": noise, "trials": 10}))
            if warm:  # from the minimum itself rounded features may only lead away
                search.run(exact, w, coordinates=coordinates, steps=0, **last)
                if search.settled:
                    return w
        for objective, goal in stages:
            while True:
                before = search.left
                w = search.run(objective, w, coordinates=coordinates, steps=TURN, **goal)
                moved, like = before - search.left, coordinates.resembles(search.history[-1].loss)
                if objective is not exact and (search.settled or moved < TURN):
                    break  # float32 shows no more
                if like and (search.settled or moved == 0):
                    break
                if search.left == 0 or (moved == 0 and part is rough):
                    break
                if moved in (0, TURN) and part is not rough:
                    # What the sample did not show, more rows may.
                    size *= 4
                    part = rough.sample(size)
                coordinates = Curvature(part, w, search.metric)
        return w

    def _by_bound(self, rough: Objective, exact: Objective, search: Search, w: Any) -> Any:
        """Return W at the minimum, in the coordinates of Böhning's bound."""
        if rough is not exact:
            w = search.run(rough, w, max(self.tol, ROUGH))
            for _ in range(CORRECTIONS):
                gradient = exact(w)[1]
                if search.norm(gradient) <= self.tol or search.left == 0:
                    break
                pull = gradient - rough(w)[1]
                w = search.run(rough, w, max(self.tol, ROUGH / 10), pull=pull)
        return search.run(exact, w, self.tol)

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


def _require_weights(class_weight: Mapping[Any, Any]) -> None:
    for label, weight in class_weight.items():
        if not (isinstance(weight, numbers.Real) and 0.0 <= float(weight) < np.inf):
            raise OptionError(
                f"class_weight must hold finite numbers of 0 or more: got {weight!r} for class "
                f"{label!r}. Hint: 'balanced' weighs classes inversely to their rows"
            )


def _require_ordinary(objective: Objective) -> None:
    """Refuse features whose squares are no ordinary floats: nothing could tell how long they are.

    Raises
    ------
    OptionError
        If there is one.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        variances = objective.variances
    odd = np.flatnonzero(~((variances > 1e-280) & (variances < 1e280)))
    for column in odd:
        x = objective.x[:, [int(column)]]
        x = x.toarray() if scipy.sparse.issparse(x) else x
        apart = float(np.max(np.abs(x / 4 - x[0] / 4)))
        if apart > 0.0 and not CONSTANT * np.max(np.abs(x)) > apart:
            raise OptionError(
                "features must vary by more than 1e-140 and by less than 1e140: got "
                f"{4.0 * apart:g} in column {int(column)}. Hint: standardise the features"
            )
