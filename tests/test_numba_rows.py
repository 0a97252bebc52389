"""The CPU kernels' numbers: every form, dtype, layout and option against the oracle or the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from row_calls import (
    FORMS,
    HALF_SPACING,
    ORDERS,
    Placed,
    assert_right,
    by_row,
    call,
    decode,
    defined,
    empty_like,
    encode,
    error_of_losses,
    exact,
    forced,
    rounded,
)

import xent
from xent.losses.cases import CASES, GRADIENT, LOSS_ULPS, SMALLEST
from xent.losses.kernels import EntryRows, SoftmaxRows, cpu_rows

DTYPES = ["float32", "float64", "float16", "bfloat16"]
MASKED_OR_NOT = [None, -np.inf]


def options_of(case):
    """Return a case's options by the names that the rows have."""
    options = dict(case.options)
    if "label_smoothing" in options:
        options["smoothing"] = options.pop("label_smoothing")
    return options


def case_rows(case, dtype):
    """Return a case's logits (rows, classes, 1) and targets, and the numbers that they hold."""
    logits, targets = case.build(np.float16 if dtype == "float16" else np.float64)
    z = Placed(logits[:, :, None], dtype)
    if targets.ndim == 1:
        t = Placed(targets[:, None], "int64")
        return z, t, z.values()[:, :, 0], targets
    t = Placed(targets[:, :, None], "float64" if dtype in ("float32", "float64") else dtype)
    return z, t, z.values()[:, :, 0], t.values()[:, :, 0]


FORM_OF_DTYPE = [(d, f) for d in DTYPES for f in FORMS if d != "float64" or f == "one by one"]


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
@pytest.mark.parametrize(("dtype", "form"), FORM_OF_DTYPE)
def test_every_case_is_right_in_every_form(dtype, form, case):
    capped, soft = "softcap" in case.options, case.build(np.float64)[1].ndim == 2
    if dtype in ("float16", "bfloat16") and soft:
        form = "along the classes"  # where few functions are compiled for targets of half types
    z, t, exact_z, exact_t = case_rows(case, dtype)
    options = options_of(case)
    if capped and dtype == "float64":
        rows = SoftmaxRows(z.array, t.array, **options)
        assert "definition's pairs" in cpu_rows.refuses(rows)
        return
    cotangent = np.random.default_rng(7).uniform(0.5, 2.0, len(exact_z))
    with forced(form) as ran:
        got = call(z, t, cotangent=cotangent, scale=0.75, **options)
        losses = call(z, t, asks="losses", **options)
        slopes = call(z, t, asks="gradient", cotangent=cotangent, scale=0.75, **options)
    assert set(ran) == {"one by one" if capped else form}
    truth = exact(case, exact_z, exact_t)
    assert_right(got, truth, dtype, 0.75 * cotangent)
    # What is asked for does not change what is computed, but for digits far below those returned:
    # large cotangents are computed with exponentials that reach further down.
    result = np.float64 if dtype == "float64" else np.float32
    for name in ("losses", "logsumexp", "mass"):
        a, b = (getattr(r, name).astype(result) for r in (losses, got))
        assert a.tobytes() == b.tobytes()
    assert slopes.gradient.tobytes() == got.gradient.tobytes()
    assert got.sums.bad == losses.sums.bad == slopes.sums.bad == -1
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(got.sums.total, got.losses.sum(), rtol=1e-14)
        np.testing.assert_allclose(got.sums.mass, got.mass.sum(), rtol=1e-14)


# ---- layouts and sizes -------------------------------------------------------------------------------


def normal(shape, seed=0, scale=3.0):
    return scale * np.random.default_rng(seed).standard_normal(shape)


def classes_of(shape, seed=1):
    outer, classes, inner = shape
    return np.random.default_rng(seed).integers(0, classes, (outer, inner))


def check(
    shape, dtype="float32", layout="plain", gradient="plain", *, t=None, copies=(), **options
):
    """Compare rows of a shape and layout with the definition."""
    shift = options.pop("shift", 0)
    values = normal(shape, sum(shape))
    z = Placed(values, dtype, layout, shift=shift, copies=copies)
    t = Placed(classes_of(shape), "int64", layout) if t is None else t
    indices = t.view.reshape(-1) if t.view.ndim == 2 else by_row(t.values())
    cotangent = np.random.default_rng(2).uniform(-2.0, 2.0, shape[0] * shape[2])
    got = call(z, t, gradient=gradient, shift=shift, cotangent=cotangent, scale=3.0, **options)
    truth = defined(by_row(z.values()), indices, **options)
    assert_right(got, truth, dtype, 3.0 * cotangent)
    return got


SHAPES = [(5, 10, 1), (3, 7, 19), (2, 60, 5), (2, 160, 5), (1, 3, 530), (2, 130, 1)]


@pytest.mark.parametrize("layout", ORDERS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rows_of_any_strides_are_right(shape, layout):
    check(shape, layout=layout, gradient="plain")
    check(shape, layout="plain", gradient=layout)
    check(shape, layout=layout, gradient=layout, z_loss=0.1, temperature=0.7, smoothing=0.1)


@pytest.mark.parametrize("layout", ["plain", "classes last", "classes first", "gaps"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_rows_of_any_strides_are_right_in_the_other_dtypes(dtype, layout):
    for shape in SHAPES[:4]:
        check(shape, dtype, layout, layout)


@pytest.mark.parametrize("copies", [(0,), (1,), (2,), (0, 1), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("shape", [(5, 10, 1), (3, 7, 19), (4, 164, 1), (3, 150, 9)], ids=str)
def test_expanded_rows_are_right(shape, copies):
    check(shape, copies=copies)
    check(shape, layout="classes last", copies=copies)


@pytest.mark.parametrize("shape", [(4, 8, 1), (4, 164, 1), (3, 164, 5), (2, 5, 40)], ids=str)
def test_targets_of_any_strides_are_right(shape):
    for layout in ORDERS:
        check(shape, t=Placed(classes_of(shape), "int64", layout))
    check(shape, t=Placed(classes_of(shape), "int64", copies=(0,)))
    for kind in ("float32", "float64"):
        masses = np.random.default_rng(4).dirichlet(np.ones(shape[1]), (shape[0], shape[2]))
        masses = np.moveaxis(masses, 2, 1)
        for layout in ORDERS:
            check(shape, t=Placed(masses, kind, layout))
        check(shape, t=Placed(masses, kind, copies=(0,)))
        check(shape, t=Placed(masses, kind, copies=(1,)))


@pytest.mark.parametrize(
    "classes", [1, 2, 7, 8, 9, 15, 16, 17, 31, 47, 48, 49, 99, 100, 101, 1023, 1024, 1025, 2049]
)
@pytest.mark.parametrize("positions", [1, 7, 8, 17, 100])
def test_odd_sizes_are_right(positions, classes):
    if classes > 100:
        positions = min(positions, 17)
    check((positions, classes, 1))
    check((1, classes, positions))
    check((2, classes, positions), layout="classes last", gradient="classes last")


@pytest.mark.parametrize("shift", [0, 4, 8, 20, 1, 2])
@pytest.mark.parametrize("shape", [(517, 2053, 1), (4099, 256, 1)], ids=str)
def test_a_large_gradient_is_right_at_any_address(shape, shift):
    # Above cpu_rows.LARGE it is written past the caches, in aligned pieces, where that pays.
    assert 4 * math.prod(shape) >= cpu_rows.LARGE
    z = Placed(normal(shape), "float32")
    t = Placed(classes_of(shape), "int64")
    got = call(z, t, shift=shift, asks="gradient", z_loss=0.1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_rows, "LARGE", 1 << 60)
        cpu_rows._plan.cache_clear()
        plain = call(z, t, asks="gradient", z_loss=0.1)
    cpu_rows._plan.cache_clear()
    assert got.gradient.tobytes() == plain.gradient.tobytes()
    some = np.arange(0, shape[0], 97)
    truth = defined(z.values()[some, :, 0], t.view[some, 0], z_loss=0.1)
    plain.slopes = plain.slopes[some]
    assert_right(plain, truth, "float32")


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_a_gradient_that_is_only_at_the_target_is_kept(large):
    # 1 + 2·z_loss·lse is 0 to the last digit: the other classes have no gradient, so that of the
    # target cannot be a multiple of theirs.
    shape = (600, 2304, 1) if large else (3, 1024, 1)
    values, y = np.full(shape, -70.0), classes_of(shape)
    np.put_along_axis(values, y[:, None], -0.5, axis=1)
    z, t = Placed(values, "float32"), Placed(y, "int64")
    got = call(z, t, asks="gradient", z_loss=1.0)
    some = slice(0, 3)
    truth = defined(z.values()[some, :, 0], t.view[some, 0], z_loss=1.0)
    got.slopes = got.slopes[some]
    assert got.slopes[0, y[0, 0]] == -1.0
    assert_right(got, truth, "float32")


def test_no_rows_no_classes_and_no_places_are_nothing():
    for shape in ((0, 5, 1), (3, 0, 2), (3, 5, 0), (0, 0, 0)):
        z, t = np.empty(shape, np.float32), np.empty((shape[0], shape[2]), np.int64)
        sums = cpu_rows.softmax(SoftmaxRows(z, t), gradient=np.empty(shape, np.float32))
        assert sums == (0.0, 0.0, -1)
    empty = np.empty(0, np.float32)
    assert cpu_rows.sigmoid(EntryRows(empty, empty)) == (0.0, 0.0, -1)


def test_strides_that_are_no_multiple_of_the_element_are_copied_or_refused():
    records = np.zeros(6, dtype=[("flag", "i1"), ("z", "f4", (10,))])
    records["z"] = normal((6, 10))
    y = np.arange(6)
    got = xent.softmax_cross_entropy(records["z"], y, reduction="none")
    np.testing.assert_array_equal(
        got, xent.softmax_cross_entropy(records["z"].copy(), y, reduction="none")
    )


# ---- targets and options -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16", "float16"])
def test_soft_targets_of_every_dtype_are_right(kind):
    for shape in ((6, 9, 1), (4, 70, 1)) if kind in ("float32", "float64") else ((4, 70, 1),):
        masses = np.random.default_rng(5).dirichlet(np.full(shape[1], 0.3), (shape[0], 1))
        check(shape, t=Placed(np.moveaxis(masses, 2, 1), kind))


@pytest.mark.parametrize("shape", [(20, 9, 1), (20, 70, 1), (3, 9, 11)], ids=str)
def test_masses_need_neither_be_positive_nor_sum_to_one(shape):
    masses = np.random.default_rng(6).uniform(-1.0, 3.0, shape)
    z, t = Placed(normal(shape), "float32"), Placed(masses, "float64")
    got = call(z, t)
    truth = defined(by_row(z.values()), by_row(masses))
    # Terms of both signs cancel: an error is relative to their sum.
    terms = np.abs(masses).sum(axis=1).reshape(-1) * np.ptp(by_row(z.values()), axis=1)
    assert np.max(np.abs(got.losses - truth.losses) / terms) <= 4 * np.finfo(np.float32).eps
    truth.scales = truth.scales + np.abs(by_row(masses)).sum(axis=1, keepdims=True)
    got.losses = None
    assert_right(got, truth, "float32")


EVERYTHING = {"smoothing": 0.1, "temperature": 1.7, "z_loss": 0.01}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("masked", MASKED_OR_NOT, ids=["open", "masked"])
def test_all_options_together_are_right(form, masked):
    for shape in ((30, 11, 1), (4, 64, 1)):
        values, weight = normal(shape), np.random.default_rng(8).uniform(0.0, 5.0, shape[1])
        y = classes_of(shape)
        if masked is not None:
            values[:, ::3] = masked
            y = np.minimum(y | 1, shape[1] - 2)
            y[y % 3 == 0] += 1
        weight[2] = 0.0
        z, t = Placed(values, "float32"), Placed(y, "int64")
        rows = np.random.default_rng(9).uniform(0.1, 9.0, (shape[0], 1))
        cotangent = normal((shape[0],), 3)
        with forced(form) as ran:
            got = call(
                z, t, row_weight=rows, class_weight=weight, cotangent=cotangent, **EVERYTHING
            )
        assert set(ran) == {form}
        truth = defined(by_row(z.values()), y.reshape(-1), class_weight=weight, **EVERYTHING)
        assert_right(got, truth, "float32", rows[:, 0] * cotangent)
        np.testing.assert_allclose(got.sums.total, rows[:, 0] @ got.losses, rtol=1e-13)
        np.testing.assert_allclose(got.sums.mass, rows[:, 0] @ got.mass, rtol=1e-13)
        expected = np.log(np.exp(by_row(z.values()) / 1.7).sum(axis=1))
        np.testing.assert_allclose(got.logsumexp, expected, rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_hard_target_is_its_one_hot_soft_target_to_the_bit(form, smoothing):
    options = {"smoothing": smoothing, "temperature": 0.7, "z_loss": 0.1}
    for shape in ((40, 10, 1), (5, 100, 1)):
        z, y = Placed(normal(shape), "float32"), classes_of(shape)
        weight = np.random.default_rng(1).uniform(0.0, 2.0, shape[1])
        one_hot = Placed(np.eye(shape[1])[y[:, 0]][:, :, None], "float64")
        with forced(form):
            hard = call(z, Placed(y, "int64"), asks="losses", class_weight=weight, **options)
            soft = call(z, one_hot, asks="losses", class_weight=weight, **options)
        assert hard.bits() == soft.bits()
        assert hard.sums == soft.sums


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("w", [1e-18, 1e-9, 1.0, 1e9, 1e18])
def test_row_weights_scale_sums_and_gradients_and_no_loss(form, w):
    shape, rows = (24, 12, 1), np.full((24, 1), w)
    z, t = Placed(normal(shape, scale=20.0), "float32"), Placed(classes_of(shape), "int64")
    with forced(form):
        got, plain = call(z, t, row_weight=rows), call(z, t)
    assert got.losses.tobytes() == plain.losses.tobytes()
    np.testing.assert_allclose(got.sums.total, w * plain.sums.total, rtol=1e-14)
    assert_right(got, defined(by_row(z.values()), t.view[:, 0]), "float32", w)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("w", [1e-36, 1e-33, 1e-30, 1e-25, 1e25])
def test_cotangents_of_any_size_keep_the_digits_of_normal_gradients(form, w):
    shape = (24, 12, 1)
    z, t = Placed(normal(shape), "float32"), Placed(classes_of(shape), "int64")
    cotangent = np.full(24, w)
    with forced(form):
        got = call(z, t, cotangent=cotangent)
    assert_right(got, defined(by_row(z.values()), t.view[:, 0]), "float32", w)


@pytest.mark.parametrize("temperature", [1e-12, 1e-3, 1e3, 1e12])
@pytest.mark.parametrize("form", FORMS)
def test_temperatures_at_the_ends_of_their_range_are_right(form, temperature):
    for shape in ((24, 12, 1), (4, 64, 1)):
        values = normal(shape) * temperature
        values[:, 3] = -np.inf
        y = classes_of(shape)
        y[y == 3] = 4
        z, t = Placed(values, "float32"), Placed(y, "int64")
        with forced(form):
            got = call(z, t, temperature=temperature)
        truth = defined(by_row(z.values()), y[:, 0], temperature=temperature)
        assert_right(got, truth, "float32")


# ---- rows that are left out, out of range or bad -----------------------------------------------------

NAN = np.float64("nan")
BAD_ROWS = {
    "NaN": lambda row: np.where(np.arange(row.size) == row.size // 2, NAN, row),
    "negative NaN": lambda row: np.where(np.arange(row.size) == 0, -NAN, row),
    "nothing but NaN": lambda row: np.full_like(row, NAN),
    "nothing but negative NaN": lambda row: np.full_like(row, -NAN),
    "+∞": lambda row: np.where(np.arange(row.size) == row.size - 1, np.inf, row),
    "+∞ and NaN": lambda row: np.where(np.arange(row.size) == 1, NAN, np.inf),
    "+∞ and −∞": lambda row: np.where(np.arange(row.size) == 1, np.inf, -np.inf),
    "all masked": lambda row: np.full_like(row, -np.inf),
}
MIXES = [
    (dtype, form, shape)
    for dtype, form in FORM_OF_DTYPE
    for shape in ((40, 9, 1), (9, 80, 1), (2, 9, 33))
    if not (form == "along the classes" and shape[2] > 1)
]


@pytest.mark.parametrize("bad", BAD_ROWS)
@pytest.mark.parametrize(("dtype", "form", "shape"), MIXES)
def test_a_bad_row_is_flagged_and_nan_and_the_others_are_untouched(dtype, form, shape, bad):
    y = Placed(classes_of(shape), "int64")
    values = normal(shape)
    good = Placed(values, dtype)
    worse = values.copy()
    i, k = (shape[0] - 1) // 2, shape[2] // 2
    worse[i, :, k] = BAD_ROWS[bad](values[i, :, k])
    last = shape[0] - 1
    worse[last, :, k] = BAD_ROWS[bad](values[last, :, k])
    spoilt = Placed(worse, dtype)
    rows = [i * shape[2] + k, last * shape[2] + k]
    with forced(form):
        right, got = call(good, y), call(spoilt, y)
        one = call(spoilt, y, row_weight=np.where(np.arange(shape[0]) == i, 0.0, 1.0)[:, None] * np.ones((1, shape[2])))  # fmt: skip
    assert got.sums.bad == min(rows)
    assert one.sums.bad == max(rows)
    assert np.isnan(got.sums.total)
    assert np.all(np.isnan(got.losses[rows]))
    assert np.all(np.isnan(got.slopes[rows]))
    others = np.setdiff1d(np.arange(shape[0] * shape[2]), rows)
    for a, b in ((got.losses, right.losses), (got.mass, right.mass), (got.slopes, right.slopes)):
        assert a[others].tobytes() == b[others].tobytes()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_a_row_of_weight_zero_is_never_looked_at(form, soft):
    for shape in ((20, 9, 1), (5, 64, 1)):
        values, out = normal(shape), np.zeros(shape[0], bool)
        out[1::3] = True
        if soft:
            t = np.random.default_rng(3).random(shape)
            t[out] = np.tile([np.nan, np.inf, 1e300], shape[1])[: shape[1], None]
        else:
            t = classes_of(shape)
            t[out] = [[2**62]]
        for idle in (np.nan, np.inf, -np.inf, 3e38):
            values[out] = idle
            z, targets = Placed(values, "float32"), Placed(t, "float64" if soft else "int64")
            with forced(form), np.errstate(over="ignore"):
                got = call(z, targets, row_weight=np.where(out, 0.0, 2.0)[:, None], smoothing=0.1)
            assert got.sums.bad == -1
            assert np.isfinite(got.sums.total)
            for a in (got.losses, got.logsumexp, got.mass, got.slopes):
                np.testing.assert_array_equal(a[out], 0.0)
            kept = by_row(t)[~out] if soft else t[~out, 0]
            truth = defined(by_row(z.values())[~out], kept, smoothing=0.1)
            got.losses, got.slopes = got.losses[~out], got.slopes[~out]
            assert_right(got, truth, "float32", 2.0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("index", [-100, 0, 3, 255, -(2**63), 2**63 - 1])
def test_an_ignored_row_is_never_looked_at(form, index):
    for shape in ((20, 9, 1), (5, 64, 1)):
        values, y = normal(shape), classes_of(shape)
        y[::4] = index
        out = (y == index)[:, 0]
        values[out] = np.nan
        z, t = Placed(values, "float32"), Placed(y, "int64")
        with forced(form):
            got = call(z, t, ignore_index=index)
        assert got.sums.bad == -1
        for a in (got.losses, got.logsumexp, got.mass, got.slopes):
            np.testing.assert_array_equal(a[out], 0.0)
        truth = defined(by_row(z.values())[~out], y[~out, 0])
        np.testing.assert_allclose(got.sums.total, truth.losses.sum(), rtol=1e-6)
        assert got.sums.mass == np.sum(~out)
        got.losses, got.slopes = got.losses[~out], got.slopes[~out]
        assert_right(got, truth, "float32")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ties", [1, 2])
def test_no_digit_is_lost_to_the_likeliest_class_wherever_it_stands(form, ties):
    # The others' share goes from 2^−24 to 2^4, past every way of summing them.
    classes = 75
    values = normal((classes, classes, 1), scale=1.0)
    place = np.arange(classes)
    gaps = np.linspace(-4.0, 24.0, classes) * np.log(2.0) + np.log(classes)
    values[place, place, 0] = values[:, :, 0].max(axis=1) + np.roll(gaps, 7)
    if ties == 2:
        values[place, (place + 8) % classes, 0] = values[place, place, 0]
    for y in (place, (place + 5) % classes):
        z, t = Placed(values, "float32"), Placed(y[:, None], "int64")
        with forced(form) as ran:
            got = call(z, t)
        assert set(ran) == {form}
        assert_right(got, defined(by_row(z.values()), y), "float32")


@pytest.mark.parametrize("form", FORMS)
def test_a_wide_row_and_one_of_nan_are_each_counted_once(form):
    values = np.zeros((5, 60, 1))
    values[1], values[2, 7], values[3] = np.nan, -np.nan, 2.0**26
    z, t = Placed(values, "float32"), Placed(np.zeros((5, 1), np.int64), "int64")
    with forced(form):
        got = call(z, t)
    assert got.sums.mass == 5.0
    assert got.sums.bad == 1
    np.testing.assert_array_equal(np.isnan(got.losses), [False, True, True, False, False])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [1.0, 0.99999])
def test_a_z_loss_on_probabilities_does_not_cancel_at_the_likeliest_class(form, share):
    classes = 60
    values, masses = np.zeros((4, classes, 1)), np.full((4, classes, 1), (1 - share) / 59)
    values[:, 3, 0], masses[:, 3] = [8.0, 10.0, 12.0, 14.0], share
    z, t = Placed(values, "float32"), Placed(masses, "float32")
    with forced(form) as ran:
        got = call(z, t, z_loss=1e-4)
    assert set(ran) == {form}
    truth = defined(by_row(z.values()), by_row(t.values()), z_loss=1e-4)
    error = np.abs(got.slopes - truth.slopes)[:, 3] / np.abs(truth.slopes[:, 3])
    assert error.max() <= 1e-6


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_target_out_of_range_makes_its_row_nan_and_no_other(form, smoothing):
    for shape in ((20, 9, 1), (6, 64, 1), (1, 9, 20)):
        y = classes_of(shape)
        flat = y.reshape(-1)
        flat[1], flat[3], flat[4] = shape[1], -1, -(2**63)
        out = (flat < 0) | (flat >= shape[1])
        z, t = Placed(normal(shape), "float32"), Placed(y, "int64")
        with forced("across positions" if shape[2] > 1 else form):
            got = call(z, t, smoothing=smoothing)
        assert got.sums.bad == -1  # the logits are good
        assert np.isnan(got.sums.total)
        assert np.all(np.isnan(got.losses[out]))
        assert np.all(np.isnan(got.slopes[out]))
        truth = defined(by_row(z.values())[~out], flat[~out], smoothing=smoothing)
        got.losses, got.slopes = got.losses[~out], got.slopes[~out]
        assert_right(got, truth, "float32")


def test_every_form_reports_the_same_of_a_target_out_of_range():
    z, y = Placed(normal((4, 60, 1)), "float32"), classes_of((4, 60, 1))
    y[1] = 60
    reports = []
    for form in FORMS:
        with forced(form):
            got = call(z, Placed(y, "int64"))
        reports.append((np.isnan(got.mass), np.isnan(got.logsumexp), got.sums.mass))
    for mass, logsumexp, total in reports[1:]:
        np.testing.assert_array_equal(mass, reports[0][0])
        np.testing.assert_array_equal(logsumexp, reports[0][1])
        np.testing.assert_array_equal(total, reports[0][2])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", ["along the classes", "across positions"])
def test_wide_rows_are_right_beside_ordinary_ones(form, dtype):
    shape = (40, 9, 1) if form == "across positions" else (9, 80, 1)
    values = normal(shape)
    values[1::4] *= 1e30
    values[2] = -1e30 + 1e28 * np.arange(shape[1])[:, None]
    values[3] += 2.0**25
    values[5, 2:] = -np.inf
    z, t = Placed(values, dtype), Placed(np.minimum(classes_of(shape), 1), "int64")
    soft = np.zeros(shape)
    soft[:, 0], soft[:, 1] = 0.25, 0.75
    with forced(form):
        got = call(z, t)
        losses = call(z, t, asks="losses")
        alone = call(Placed(normal(shape), dtype), t)
    assert got.sums.bad == -1
    assert losses.bits()[:3] == got.bits()[:3]
    truth = defined(by_row(z.values()), t.view[:, 0])
    assert_right(got, truth, dtype)
    np.testing.assert_allclose(got.sums.total, truth.losses.sum(), rtol=1e-6)
    assert got.slopes[0].tobytes() == alone.slopes[0].tobytes()
    if dtype == "float32":
        with forced(form):
            got = call(z, Placed(soft, "float64"))
        assert_right(got, defined(by_row(z.values()), by_row(soft)), dtype)


# ---- sigmoid ------------------------------------------------------------------------------------------

ENTRIES = np.concatenate(
    [np.linspace(-110.0, 110.0, 4001), [0.0, -0.0, np.inf, -np.inf, 1e-30, -1e-30, 700.0, -2000.0]]
)


def sigmoid_truth(z, t, pos_weight, smoothing):
    """Return losses and slopes in float64, and what the gradient's error is measured by."""
    yes = (t * (1 - smoothing) + smoothing / 2) * pos_weight
    no = (1 - t) * (1 - smoothing) + smoothing / 2
    with np.errstate(over="ignore", invalid="ignore"):
        far, near = np.exp(-np.abs(z)), np.log1p(np.exp(-np.abs(z)))
        plus, minus = near + np.maximum(z, 0.0), near + np.maximum(-z, 0.0)
        losses = np.where(yes == 0, 0.0, yes * minus) + np.where(no == 0, 0.0, no * plus)
        p, q = np.where(z > 0, 1.0, far) / (1 + far), np.where(z > 0, far, 1.0) / (1 + far)
    return losses, no * p - yes * q, yes * q + no * p


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("dtype", "kind"), [("float32", "float32"), ("float64", "float64"), ("float16", "float16"), ("bfloat16", "float32")])  # fmt: skip
@pytest.mark.parametrize("weighted", [False, True])
def test_sigmoid_entries_are_right(dtype, kind, weighted, smoothing):
    generator, count = np.random.default_rng(0), len(ENTRIES) - len(ENTRIES) % 3
    z = Placed(ENTRIES[:count], dtype, shift=np.dtype(f"f{2 if '16' in dtype else 4}").itemsize)
    t = Placed(np.where(np.arange(count) % 3 == 2, 0.3, np.arange(count) % 3), kind)
    pos = generator.uniform(0.5, 3.0, 3) if weighted else None
    weight = generator.uniform(0.1, 4.0, count)
    cotangent = generator.uniform(-2.0, 2.0, count)
    weight[5::7] = 0.0
    outputs = {"losses": empty_like((count,), "float64"), "gradient": empty_like((count,), dtype, shift=4)}  # fmt: skip
    rows = EntryRows(z.read_only, t.read_only, pos, weight, smoothing)
    sums = cpu_rows.sigmoid(
        rows, cotangent=cotangent, scale=0.5, **{k: v.array for k, v in outputs.items()}
    )
    assert z.is_as_before()
    assert t.is_as_before()
    assert all(placed.is_as_before_around() for placed in outputs.values())
    each = 1.0 if pos is None else np.resize(pos, count)
    losses, slopes, scales = sigmoid_truth(z.values(), t.values(), each, smoothing)
    kept = weight != 0
    got, w = outputs["losses"].values(), 0.5 * weight * cotangent
    truth = np.where(kept, losses, 0.0)
    wide = np.float64 if dtype == "float64" else np.float32
    with np.errstate(invalid="ignore"):
        error = np.abs(got - truth) / np.spacing(truth.astype(wide))
    assert np.all((error <= LOSS_ULPS) | (got == truth))
    got, target = outputs["gradient"].values(), np.where(kept, w * slopes, 0.0)
    half, least = HALF_SPACING[dtype]
    bounds = np.abs(w) * (GRADIENT * scales + SMALLEST) + half * 1.01 * np.abs(target) + least
    assert np.all(np.abs(got - target) <= bounds + SMALLEST)
    if dtype == "float64":
        assert np.all(np.abs(got - target) <= 1e-14 * np.abs(w) * scales + SMALLEST)
    assert sums.mass == pytest.approx(weight.sum())
    assert sums.bad == -1


def test_sigmoid_flags_the_first_nan_and_leaves_entries_of_weight_zero_alone():
    count = 20_000  # several blocks
    z, t, weight = normal((count,)), np.full(count, 0.5), np.ones(count)
    z[[3, 9000, 15_000]], weight[3] = np.nan, 0.0
    t[3] = np.nan
    losses, gradient = np.full(count, 7.0), np.full(count, 7.0)
    rows = EntryRows(z, t, None, weight)
    sums = cpu_rows.sigmoid(rows, losses=losses, gradient=gradient)
    assert sums.bad == 9000
    assert losses[3] == gradient[3] == 0.0
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(losses)), [9000, 15_000])
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(gradient)), [9000, 15_000])


# ---- what is refused -------------------------------------------------------------------------------------


def test_what_the_kernels_cannot_take_is_refused_with_the_reason():
    z, y = np.zeros((2, 3, 1), np.float32), np.zeros((2, 1), np.int64)
    assert cpu_rows.refuses(SoftmaxRows(z, y)) is None
    assert "not int32" in cpu_rows.refuses(SoftmaxRows(z, y.astype(np.int32)))
    assert "not float128" in cpu_rows.refuses(SoftmaxRows(z.astype("g"), y))
    assert "not >f4" in cpu_rows.refuses(SoftmaxRows(z.astype(">f4"), y))
    assert "softcap" in cpu_rows.refuses(SoftmaxRows(z.astype("d"), y, softcap=30.0))


def test_encoding_and_decoding_agree_with_each_other():
    for dtype in DTYPES:
        x = rounded(normal((50,)), dtype)
        np.testing.assert_array_equal(decode(encode(x, dtype), dtype), x)
    assert error_of_losses(np.array([1.0 + 2.0**-22]), defined_one(), "float32") == 2.0


def defined_one():
    truth = defined(np.zeros((1, 2)), np.zeros(1, np.int64))
    truth.losses = np.ones(1)
    return truth
