"""Fits of data that rounding, units or separation make hard: the minimum, or a warning, always."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import scipy.sparse
import scipy.special
from sklearn.exceptions import ConvergenceWarning

from xent.errors import OptionError
from xent.models import SoftmaxRegression


def labels_of(x, random, classes=3):
    scores = x @ random.normal(size=(x.shape[1], classes))
    return (scores + random.gumbel(size=scores.shape)).argmax(axis=1)


def left_to_gain(model, x, y, weight=None, C=1.0):
    """Return F and half of the square of its Newton decrement, relative to F.

    All in float64, on centred features of unit size, from formulas of this test alone.
    """
    x = np.asarray(x.toarray() if scipy.sparse.issparse(x) else x, np.float64)
    s = np.ones(len(y)) if weight is None else np.asarray(weight, np.float64)
    penalty = 1.0 / (C * s.sum())
    s = s / s.sum()
    w, mean = model.coef_.astype(np.float64), s @ x
    z, b = x - mean, model.intercept_ + w @ mean
    index = np.searchsorted(model.classes_, y)
    scores = z @ w.T + b
    one = scores.shape[1] == 1
    if one:
        scores = np.hstack([np.zeros_like(scores), scores])
    logs = scipy.special.log_softmax(scores, axis=1)
    value = -s @ logs[np.arange(len(y)), index] + 0.5 * penalty * np.sum(w**2)
    p = np.exp(logs)
    unit = np.sqrt(s @ z**2)
    a = np.hstack([z / np.where(unit > 0.0, unit, 1.0), np.ones((len(y), 1))])
    ridge = np.append(penalty / np.where(unit > 0.0, unit, 1.0) ** 2, 0.0)
    slopes = (p - np.eye(p.shape[1])[index]) * s[:, None]
    own = np.hstack([w * unit, b[:, None]])
    kept = slice(1, None) if one else slice(None)
    gradient = slopes[:, kept].T @ a + own * ridge
    p, size = p[:, kept], own.size
    second = np.zeros((*own.shape, *own.shape))
    for j in range(own.shape[0]):
        for k in range(own.shape[0]):
            share = s * p[:, j] * ((1.0 if j == k else 0.0) - p[:, k])
            second[j, :, k] = (a * share[:, None]).T @ a + np.diag(ridge) * (j == k)
    step = np.linalg.lstsq(second.reshape(size, size), gradient.ravel(), rcond=1e-13)[0]
    return value, 0.5 * float(step @ gradient.ravel()) / value


def quiet_fit(x, y, weight=None, **options):
    """Fit with warnings as errors: what ends here says that it is at the minimum."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return SoftmaxRegression(**options).fit(x, y, weight)


@pytest.mark.parametrize("rows", [60, 6000, 20000])
@pytest.mark.parametrize("kind", ["repeated", "categories", "copies"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("C", [1.0, 1e6])
def test_separable_data_in_features_that_repeat_each_other(rows, kind, dtype, C):
    random = np.random.default_rng(rows)
    if kind == "repeated":
        a = random.normal(size=(rows, 4))
        x, y = a @ random.normal(size=(4, 7)), a[:, 0] > 0
    elif kind == "categories":
        codes = [random.integers(0, k, rows) for k in (3, 4, 5)]
        columns = [np.eye(k)[c] for k, c in zip((3, 4, 5), codes, strict=True)]
        x, y = np.hstack(columns), codes[0] == 1
    else:
        x = random.normal(size=(rows, 4))
        x, y = np.hstack([x, x[:, :2]]), x[:, 0] > 1
    x = x.astype(dtype)
    model = quiet_fit(x, y, C=C)
    rounding = 1e-5 if dtype == np.float32 else 0.0  # of coef_ to float32
    assert left_to_gain(model, x, y, C=C)[1] < 2e-9 + rounding


@pytest.mark.parametrize("C", [1e3, 1e6, 1e9])
def test_what_is_left_to_gain_is_what_was_promised_where_few_rows_bend_the_loss(C):
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=(20000, 3))
        y = np.digitize(x[:, 0], [-0.5, 0.5])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model = SoftmaxRegression(C=C).fit(x, y)
        assert said or left_to_gain(model, x, y, C=C)[1] < 2e-9


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_matrix], ids=["dense", "sparse"])
@pytest.mark.parametrize(("offset", "rows"), [(2000.0, 40000), (1e5, 3000), (1e6, 300)])
def test_a_feature_far_from_zero(kind, offset, rows):
    random = np.random.default_rng(0)
    x = np.column_stack([random.normal(size=rows), offset + random.normal(size=rows)])
    y = x[:, 0] + x[:, 1] - offset + random.logistic(size=rows) > 0
    assert left_to_gain(quiet_fit(kind(x), y), x, y)[1] < 1e-9


def test_float32_features_far_from_zero_lose_what_the_coefficients_are_rounded_to():
    random = np.random.default_rng(0)
    x = (2000.0 + random.normal(size=(20000, 3))).astype(np.float32)
    y = labels_of(x - 2000.0, random)
    model = quiet_fit(x, y)
    value, left = left_to_gain(model, x, y)
    assert left < 1e-7
    assert model.history_[-1].loss == pytest.approx(value, rel=1e-7)


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_matrix], ids=["dense", "sparse"])
@pytest.mark.parametrize("unit", [1e-130, 1e-25, 1e20, 1e130])
@pytest.mark.parametrize("rows", [500, 20000])
def test_units_are_no_matter(kind, unit, rows):
    random = np.random.default_rng(2)
    x = random.normal(size=(rows, 3))
    y = labels_of(x, random)
    truth = quiet_fit(x, y, C=np.inf).history_[-1].loss
    one = x * [1.0, unit, 1.0]
    for moved in (x * unit, one):
        assert quiet_fit(kind(moved), y, C=np.inf).history_[-1].loss == pytest.approx(
            truth, rel=1e-9
        )


def test_float32_features_of_any_size():
    random = np.random.default_rng(2)
    x = random.normal(size=(20000, 3))
    y = labels_of(x, random)
    truth = quiet_fit(x, y, C=np.inf).history_[-1].loss
    for unit in (1e-30, 1e20, 1e30):
        found = quiet_fit((x * unit).astype(np.float32), y, C=np.inf).history_[-1].loss
        assert found == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize("unit", [1e-160, 1e160])
def test_features_whose_squares_are_no_floats_are_refused(unit):
    x = np.random.default_rng(0).normal(size=(100, 2)) * [1.0, unit]
    for kind in (np.asarray, scipy.sparse.csr_matrix):
        with pytest.raises(OptionError, match=r"more than 1e-140 .* in column 1"):
            SoftmaxRegression().fit(kind(x), x[:, 0] > 0)


def test_constant_features_say_nothing_whatever_their_value():
    random = np.random.default_rng(0)
    x = random.normal(size=(3000, 2))
    y = labels_of(x, random)
    truth = quiet_fit(x, y).history_[-1].loss
    for value in (0.0, 1 / 3, 1e6 / 3, 1e150, 1e-200):
        wide = np.column_stack([x, np.full(len(x), value)])
        for kind in (np.asarray, scipy.sparse.csr_matrix):
            model = quiet_fit(kind(wide), y)
            assert model.history_[-1].loss == pytest.approx(truth, rel=1e-9)
            assert np.abs(model.coef_[:, 2]).max() < 1e-6


@pytest.mark.parametrize("heavy", [1e4, 1e6, 1e9])
@pytest.mark.parametrize("rows", [500, 20000])
def test_a_few_heavy_rows(heavy, rows):
    random = np.random.default_rng(3)
    x = random.normal(size=(rows, 6))
    y = labels_of(x, random)
    weight = np.ones(rows)
    weight[:5] = heavy
    assert left_to_gain(quiet_fit(x, y, weight), x, y, weight)[1] < 2e-9


def test_weights_that_count_for_nothing_beside_others_are_refused():
    x, y = np.random.default_rng(0).normal(size=(50, 2)), np.arange(50) % 2
    weight = np.ones(50)
    weight[7] = 1e-13
    said = "within a factor of 1e+12 of the largest, 1: got 1e-13 at row 7"
    with pytest.raises(OptionError, match=re.escape(said)):
        SoftmaxRegression().fit(x, y, weight)
    weight[7] = 1e-11
    quiet_fit(x, y, weight)


@pytest.mark.parametrize("scale", [1e-90, 1e300])
def test_the_scale_of_all_weights_is_that_of_c(scale):
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 2))
    y, weight = labels_of(x, random), random.uniform(1.0, 2.0, 300)
    there = quiet_fit(x, y, weight * scale, C=np.inf)
    np.testing.assert_allclose(there.coef_, quiet_fit(x, y, weight, C=np.inf).coef_, rtol=1e-5)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({0: np.nan, 1: 1.0}, "finite numbers of 0 or more: got nan for class 0"),
        ({0: np.inf, 1: 1.0}, "finite numbers of 0 or more: got inf for class 0"),
        ({0: -0.5, 1: 1.0}, "finite numbers of 0 or more: got -0.5 for class 0"),
        ({0: "1", 1: 1.0}, "finite numbers of 0 or more: got '1' for class 0"),
        ({0: 0.0, 1: 0.0}, "the largest weight must be positive and finite: got 0"),
    ],
)
def test_class_weights_are_checked(weights, said):
    x = np.random.default_rng(0).normal(size=(50, 2))
    with pytest.raises(OptionError, match=re.escape(said)):
        SoftmaxRegression(class_weight=weights).fit(x, np.arange(50) % 2)


def test_the_callers_matrix_stays_as_it_is():
    random = np.random.default_rng(0)
    rows = 40000
    columns = np.repeat(random.integers(0, 3, rows), 2)
    x = scipy.sparse.csr_matrix((np.ones(2 * rows), columns, np.arange(0, 2 * rows + 1, 2)))
    y = (x.toarray() @ [1.0, 0.0, -1.0] + random.logistic(size=rows)) > 0
    model = quiet_fit(x, y)
    assert x.nnz == 2 * rows
    np.testing.assert_allclose(model.coef_, quiet_fit(x.toarray(), y).coef_, atol=1e-5)


def test_a_tolerance_that_rounding_hides_is_warned_of():
    random = np.random.default_rng(0)
    x = random.normal(size=(600, 5))
    y = labels_of(x, random)
    for dtype in (np.float32, np.float64):
        assert quiet_fit(x.astype(dtype), y, tol=1e-10).history_[-1].gradient_norm <= 1e-10
        with pytest.warns(ConvergenceWarning, match=r"rounding hid the way, left a gradient of"):
            SoftmaxRegression(tol=1e-18).fit(x.astype(dtype), y)
    with pytest.warns(ConvergenceWarning, match=r"above tol=1e-07"):
        SoftmaxRegression().fit(x + 1e12, y)


def test_steps_that_do_not_suffice_are_warned_of_even_where_the_gradient_is_small():
    x = np.random.default_rng(1).normal(size=(20000, 3))
    y = np.digitize(x[:, 0], [-0.5, 0.5])
    with pytest.warns(ConvergenceWarning, match=r"max_iter=60 steps left more than 1e-09 of the"):
        model = SoftmaxRegression(C=1e9, max_iter=60).fit(x, y)
    assert model.history_[-1].gradient_norm < model.tol


def test_a_warm_start_beyond_all_numbers_begins_at_zero():
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 2))
    y = labels_of(x, random)
    cold = quiet_fit(x, y)
    model = SoftmaxRegression(warm_start=True).fit(x, y)
    model.coef_ = np.full_like(model.coef_, 1e308) * [1.0, -1.0]
    model.fit(x * 1e5, y)
    np.testing.assert_allclose(
        model.fit(x, y).predict_proba(x), cold.predict_proba(x), rtol=0, atol=1e-6
    )
