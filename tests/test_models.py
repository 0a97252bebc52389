"""The classifier: scikit-learn's contract, its optimum against LogisticRegression's, its options."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

import xent
from xent.errors import OptionError
from xent.models import SoftmaxRegression, search, softmax_regression
from xent.models.objective import Objective


@parametrize_with_checks(
    [
        SoftmaxRegression(),
        SoftmaxRegression(loss="squared_error"),
        SoftmaxRegression(class_weight="balanced"),
    ]
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learns_contract(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return x / 16.0, y


@pytest.fixture(scope="module")
def tumours():
    x, y = load_breast_cancer(return_X_y=True)
    return (x - x.mean(axis=0)) / x.std(axis=0), y


def objective(model, x, y, sample_weight=None, class_weight=None, C=1.0):
    """Return F at a model's coefficients, in float64, from the core's losses."""
    x = np.asarray(x.todense() if scipy.sparse.issparse(x) else x, np.float64)
    s = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, float)
    if class_weight is not None:
        s = s * np.array([class_weight[label] for label in y])
    w, b = model.coef_.astype(float), model.intercept_.astype(float)
    scores, labels = x @ w.T + b, np.searchsorted(model.classes_, y)
    if scores.shape[1] == 1:
        losses = xent.sigmoid_cross_entropy(scores[:, 0], labels, reduction="none")
    else:
        losses = xent.softmax_cross_entropy(scores, labels, reduction="none")
    return float(s @ losses + (w**2).sum() / (2.0 * C)) / s.sum()


def peer(x, y, sample_weight=None, **options):
    """Return scikit-learn's fit, as far as its solver goes."""
    model = LogisticRegression(tol=1e-10, max_iter=5000, solver="newton-cg", **options)
    return model.fit(x, y, sample_weight)


OPTIONS = {
    "plain": {},
    "strong penalty": {"C": 0.01},
    "weak penalty": {"C": 30.0},
    "no intercept": {"fit_intercept": False},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("data", ["digits", "tumours"])
def test_the_optimum_is_scikit_learns(data, options, request):
    x, y = request.getfixturevalue(data)
    C = options.get("C", 1.0)
    own = SoftmaxRegression(**options).fit(x, y)
    theirs = objective(peer(x, y, **options), x, y, C=C)
    assert objective(own, x, y, C=C) <= theirs * (1.0 + 1e-8)
    assert own.history_[-1].loss == pytest.approx(theirs, rel=2e-8)


def test_the_optimum_is_scikit_learns_under_weights(digits):
    x, y = digits
    weight = np.random.default_rng(0).exponential(size=len(y))
    by_class = {k: 1.0 + k / 3.0 for k in range(10)}
    own = SoftmaxRegression(class_weight=by_class).fit(x, y, weight)
    theirs = peer(x, y, weight, class_weight=by_class)
    truth = objective(theirs, x, y, weight, by_class)
    assert objective(own, x, y, weight, by_class) <= truth * (1.0 + 1e-8)


def test_the_optimum_is_scikit_learns_for_sparse_and_for_wide_features(digits, monkeypatch):
    x, y = digits
    truth = objective(peer(x, y), x, y)
    for kind in (scipy.sparse.csr_array, scipy.sparse.csc_matrix):
        own = SoftmaxRegression().fit(kind(x), y)
        assert objective(own, x, y) <= truth * (1.0 + 1e-8)
        np.testing.assert_allclose(own.predict_proba(kind(x)), own.predict_proba(x), atol=1e-12)
    monkeypatch.setattr(search, "WIDE", 10)
    assert objective(SoftmaxRegression().fit(x, y), x, y) <= truth * (1.0 + 1e-8)


def test_features_rounded_on_the_way_do_not_move_the_optimum(digits, monkeypatch):
    x, y = digits
    truth = objective(peer(x, y), x, y)
    seen = []
    rounded = Objective.in_float32
    monkeypatch.setattr(Objective, "in_float32", lambda o: seen.append(o) or rounded(o))
    monkeypatch.setattr(softmax_regression, "MANY", 1)
    own = SoftmaxRegression().fit(x, y)
    assert len(seen) == 1
    assert objective(own, x, y) <= truth * (1.0 + 1e-8)
    assert own.history_[-1].gradient_norm <= own.tol
    # Offsets that float32 does not hold: the corrections have something to correct.
    far = SoftmaxRegression().fit(x + 1000.0, y)
    assert objective(far, x + 1000.0, y) <= truth * (1.0 + 1e-8)


def test_float32_stays_float32(digits):
    x, y = digits[0].astype(np.float32), digits[1]
    own = SoftmaxRegression().fit(x, y)
    assert own.coef_.dtype == own.intercept_.dtype == np.float32
    assert own.predict_proba(x).dtype == own.decision_function(x).dtype == np.float32
    truth = objective(peer(x.astype(float), y), x, y)
    assert objective(own, x, y) == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_gradient_is_that_of_the_objective(outputs, squared):
    r = np.random.default_rng(1)
    x, y = r.standard_normal((30, 4)), r.integers(0, max(2, outputs), 30)
    share = r.exponential(size=30)
    for weight in (None, share / share.sum()):
        for intercept in (False, True):
            f = Objective(x, y, weight, outputs, intercept, 0.3, squared)
            w, along = r.standard_normal((2, *f.shape))
            step = 1e-6
            numeric = (f(w + step * along)[0] - f(w - step * along)[0]) / (2 * step)
            assert np.sum(f(w)[1] * along) == pytest.approx(numeric, rel=1e-7)


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_array])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_second_derivative_is_that_of_the_gradient(outputs, intercept, kind, monkeypatch):
    monkeypatch.setattr("xent.models.objective.PART", 50)  # several parts, the last one short
    r = np.random.default_rng(1)
    x, y = r.standard_normal((31, 4)) + 1.0, r.integers(0, max(2, outputs), 31)
    share = r.exponential(size=31)
    for weight in (None, share / share.sum()):
        f = Objective(kind(x), y, weight, outputs, intercept, 0.3, False)
        w, along = r.standard_normal((2, *f.shape))
        # Along W at fixed b' = b + W·mean, by ∂F/∂W at fixed b'.
        step = along.copy()
        step[:, 4:] -= (along[:, :4] * f.mean).sum(axis=1, keepdims=True)
        ahead, behind = (f(w + h * step)[1] for h in (1e-6, -1e-6))
        change = (ahead - behind) / 2e-6
        if intercept:
            change[:, :4] -= change[:, 4:] * f.mean
        second = f.second_derivative(w)
        np.testing.assert_allclose(second @ along.ravel(), change.ravel(), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(second, second.T, rtol=1e-12, atol=1e-15)


def test_a_sample_stands_for_all_rows_and_leaves_out_no_class():
    r = np.random.default_rng(2)
    x = r.standard_normal((20_000, 3))
    y = (x @ r.standard_normal((3, 4)) + r.gumbel(size=(20_000, 4))).argmax(axis=1)
    y[:2] = 4
    share = np.exp(2.0 * r.standard_normal(20_000))
    for weight in (None, share / share.sum()):
        f = Objective(x, y, weight, 5, True, 0.01, False)
        part = f.sample(5000)
        assert len(part.y) == 4 * 1000 + 2
        assert part.weight.sum() == pytest.approx(1.0)
        every = np.ones(len(y)) / len(y) if weight is None else weight
        np.testing.assert_allclose(
            np.bincount(part.y, part.weight), np.bincount(y, every), rtol=1e-10
        )
        w = r.standard_normal(f.shape)
        assert part(w)[0] == pytest.approx(f(w)[0], rel=0.05)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("path", ["curvature", "sample", "bound"])
def test_the_way_does_not_move_the_optimum(path, dtype, digits, monkeypatch):
    x, y = digits[0].astype(dtype), digits[1]
    weight = np.random.default_rng(3).exponential(size=len(y))
    seen = []
    curved = softmax_regression.Curvature
    monkeypatch.setattr(
        softmax_regression,
        "Curvature",
        lambda f, *given: seen.append(len(f.y)) or curved(f, *given),
    )
    if path == "sample":
        monkeypatch.setattr(softmax_regression, "SAMPLE", 400)
    elif path == "bound":
        monkeypatch.setattr(softmax_regression, "COEFFICIENTS", 0)
    truth = objective(peer(x.astype(float), y, weight), x, y, weight)
    own = SoftmaxRegression().fit(x, y, weight)
    near = 1e-8 if dtype == np.float64 else 2e-7
    assert objective(own, x, y, weight) <= truth * (1.0 + near)
    assert own.history_[0].loss == pytest.approx(np.log(10.0))
    assert len(own.history_) == own.n_iter_[0] + 1
    assert {"curvature": {len(y)}, "sample": {400}, "bound": set()}[path] == set(seen)


def test_a_minimum_far_away_is_reached_by_computing_the_curvature_again():
    r = np.random.default_rng(4)
    x = r.standard_normal((2000, 5))
    y = (x @ r.standard_normal((5, 3))).argmax(axis=1)  # a straight line separates them
    own = SoftmaxRegression(C=1e6).fit(x, y)
    truth = objective(peer(x, y, C=1e6), x, y, C=1e6)
    assert objective(own, x, y, C=1e6) <= truth * (1.0 + 1e-8)
    assert own.history_[-1].gradient_norm <= own.tol
    assert softmax_regression.TURN < own.n_iter_[0] < 200


def test_squared_error_is_minimised_from_the_same_start(tumours):
    x, y = tumours
    model = SoftmaxRegression(loss="squared_error").fit(x, y)
    assert model.history_[0].loss == pytest.approx(0.25)
    assert model.history_[-1].loss < 0.03
    assert model.history_[-1].gradient_norm <= model.tol
    assert model.score(x, y) > 0.97


def test_the_history_tells_every_step(digits):
    model = SoftmaxRegression().fit(*digits)
    losses, norms, seconds = map(np.array, zip(*model.history_, strict=True))
    assert losses[0] == pytest.approx(np.log(10.0))
    assert len(losses) == model.n_iter_[0] + 1
    assert (np.diff(losses) <= 1e-12).all()
    assert (np.diff(seconds) >= 0).all()
    assert norms[-1] <= model.tol < norms[0]


def test_too_few_steps_are_warned_about(digits):
    with pytest.warns(ConvergenceWarning, match="max_iter=3 steps left a gradient of"):
        model = SoftmaxRegression(max_iter=3).fit(*digits)
    assert model.n_iter_ == [3]


def test_a_warm_start_begins_where_the_last_fit_ended(digits):
    model = SoftmaxRegression(warm_start=True).fit(*digits)
    before = model.coef_.copy()
    model.fit(*digits)
    assert model.n_iter_ == [0]
    np.testing.assert_allclose(model.coef_, before, atol=1e-12)
    assert clone(model).fit(*digits).n_iter_ > 10
    x, y = digits  # another shape begins anew
    assert model.fit(x[:, :30], y).n_iter_ > 10


def test_units_of_the_features_do_not_matter(tumours):
    x, y = tumours
    x = x[:, :5]
    units = 10.0 ** np.arange(-6.0, 9.0, 3.0)
    plain, scaled = (SoftmaxRegression(C=np.inf).fit(z, y) for z in (x, x * units))
    np.testing.assert_allclose(scaled.coef_ * units, plain.coef_, rtol=1e-3)
    assert scaled.n_iter_[0] <= plain.n_iter_[0] + 2


def test_features_that_repeat_each_other_or_are_constant_are_fitted(digits):
    x, y = digits[0][:300], digits[1][:300]
    both = np.hstack([x, x, np.zeros((300, 200)), np.ones((300, 1))])  # more features than rows
    own = SoftmaxRegression().fit(both, y)
    assert objective(own, both, y) <= objective(peer(both, y), both, y) * (1.0 + 1e-8)
    assert not own.coef_[:, 2 * x.shape[1] : -1].any()


def test_a_weight_of_nothing_is_a_row_that_is_not_there(digits):
    x, y = digits
    keep = np.arange(len(y)) % 3 != 0
    some = SoftmaxRegression().fit(x, y, keep.astype(float))
    np.testing.assert_allclose(
        some.coef_, SoftmaxRegression().fit(x[keep], y[keep]).coef_, atol=1e-4
    )


def test_probabilities_keep_the_digits_of_the_unlikely(tumours):
    x, y = tumours
    model = SoftmaxRegression().fit(x, y)
    far = 50.0 * x[:1]
    p, log_p = model.predict_proba(far)[0], model.predict_log_proba(far)[0]
    z = model.decision_function(far)[0]
    assert abs(z) > 100.0
    assert p.min() == pytest.approx(np.exp(-abs(z)), rel=1e-12)
    assert log_p.min() == pytest.approx(-abs(z), rel=1e-12)
    assert log_p.max() == pytest.approx(-np.exp(-abs(z)), rel=1e-12)


def test_steps_are_shown_on_stderr_where_asked(digits, capsys):
    SoftmaxRegression(verbose=1).fit(*digits)
    assert capsys.readouterr() == ("", "")  # no terminal
    with pytest.warns(ConvergenceWarning):
        SoftmaxRegression(verbose=2, max_iter=2).fit(*digits)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.match(r"step 0: loss 2\.3025\d+, gradient \S+, \d+\.\d s\n", printed.err)
    assert len(printed.err.splitlines()) == 3


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"loss": "hinge"}, "loss must be 'cross_entropy' or 'squared_error': got 'hinge'"),
        ({"C": 0.0}, "C must be a number of 1e-100 or more: got 0.0"),
        ({"C": np.nan}, "C must be a number of 1e-100 or more: got nan"),
        ({"tol": -1.0}, "tol must be a number of 1e-100 or more: got -1.0"),
        ({"max_iter": 0}, "max_iter must be a whole number above 0: got 0"),
        ({"max_iter": 2.5}, "max_iter must be a whole number above 0: got 2.5"),
    ],
)
def test_options_are_checked(options, text, digits):
    with pytest.raises(OptionError, match=re.escape(text)):
        SoftmaxRegression(**options).fit(*digits)


def test_targets_and_weights_are_checked(digits):
    x, y = digits
    with pytest.raises(ValueError, match="at least 2 classes: got only one class, 4"):
        SoftmaxRegression().fit(x, np.full(len(y), 4))
    with pytest.raises(ValueError, match="at least one non-zero number"):
        SoftmaxRegression().fit(x, y, np.zeros(len(y)))
    with pytest.raises(ValueError, match="Negative values"):
        SoftmaxRegression().fit(x, y, -np.ones(len(y)))
