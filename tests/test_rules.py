"""The rules R1 to R13 of docs/semantics.md: one test at least for each, named after it."""

from __future__ import annotations

import functools
import math
import os
import threading

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
import torch
from libraries import LIBRARIES, to_numpy

import xent
from xent import errors

every_library = pytest.mark.parametrize("library", LIBRARIES, ids=[x.name for x in LIBRARIES])

Z = np.array([[1.0, -2.0, 0.5, 3.0], [0.0, 4.0, -1.0, 0.0], [2.0, 2.0, -3.0, 1.0]])
Y = np.array([2, 1, 3])
ROWS = np.array([float(oracle.softmax_row(z, y)[0]) for z, y in zip(Z, Y, strict=True)])


def one_hot(y, classes=4):
    return (np.arange(classes) == np.asarray(y)[:, None]).astype(np.float64)


# ---- R1: nats inside, units at the public function ----------------------------------------------


@pytest.mark.parametrize(("unit", "base"), [("nats", np.e), ("bits", 2.0), ("bans", 10.0)])
def test_r1_units_are_logarithms_to_their_base(unit, base):
    p, q = [0.7, 0.2, 0.1], [0.1, 0.3, 0.6]
    expected = -sum(a * np.log(b) for a, b in zip(p, q, strict=True)) / np.log(base)
    assert float(xent.cross_entropy(p, q, unit=unit)) == pytest.approx(expected, rel=1e-15, abs=0)


def test_r1_an_unknown_unit_is_refused_with_the_ones_there_are():
    with pytest.raises(errors.OptionError, match="unit must be one of 'nats', 'bits', 'bans'"):
        xent.entropy([0.5, 0.5], unit="shannons")


# ---- R2: 0·log 0 = 0, and nothing is clipped -------------------------------------------------------


@every_library
def test_r2_mass_on_an_impossible_class_is_infinite_and_absent_mass_is_free(library):
    with library.context():
        logits = library.make([[0.0, -np.inf, 1.0]], "float32")
        certain = library.make([[1.0, 0.0]], "float32")
        assert to_numpy(xent.softmax_cross_entropy(logits, library.make([1]))) == np.inf
        soft = library.make(np.array([[0.5, 0.0, 0.5]]))
        assert np.isfinite(to_numpy(xent.softmax_cross_entropy(logits, soft)))
        assert to_numpy(xent.categorical_cross_entropy(certain, library.make([1]))) == np.inf
        assert to_numpy(xent.categorical_cross_entropy(certain, library.make([0]))) == 0.0
        sure = library.make([np.inf, -np.inf, np.inf], "float32")
        told = xent.sigmoid_cross_entropy(sure, library.make([1, 0, 0]), reduction="none")
        assert to_numpy(told).tolist() == [0.0, 0.0, np.inf]
        zero = library.make([0.0, 1.0, 1.0], "float32")
        said = xent.binary_cross_entropy(zero, library.make([0, 1, 0]), reduction="none")
        assert to_numpy(said).tolist() == [0.0, 0.0, np.inf]
        logs = library.make([[0.0, -np.inf]], "float32")
        assert to_numpy(xent.nll(logs, library.make([1]))) == np.inf


def test_r2_a_class_of_weight_zero_costs_nothing_even_if_impossible():
    loss = xent.softmax_cross_entropy([[0.0, -np.inf]], [1], class_weight=[1.0, 0.0])
    assert loss == 0.0


def test_r2_a_perfect_score_has_no_minus_sign():
    for loss in (
        xent.categorical_cross_entropy([1.0, 0.0], 0),
        xent.binary_cross_entropy([1.0], [1]),
        xent.softmax_cross_entropy([[3.0]], [0]),
        xent.softmax_statistics([[3.0]], [0]).log_probability[0],
        xent.entropy([1.0, 0.0]),
        xent.surprisal(1.0),
    ):
        assert loss == 0.0
        assert not np.signbit(loss)


# ---- R3: what may be a distribution and what may be logits ------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: xent.softmax_cross_entropy([[0.0, np.nan]], [0]), errors.LogitError, "got nan at row 0, class 1"),
        (lambda: xent.softmax_cross_entropy([[0.0, np.inf]], [0]), errors.LogitError, "got inf at row 0, class 1"),
        (lambda: xent.softmax_cross_entropy([[-np.inf] * 2], [0]), errors.LogitError, "all are −∞ at row 0"),
        (lambda: xent.softmax_cross_entropy(Z, one_hot(Y) * 2), errors.DistributionError, r"targets must sum to 1 .* got 2.0 at row 0"),
        (lambda: xent.softmax_cross_entropy(Z, -one_hot(Y)), errors.DistributionError, "got -1.0 for symbol 2 at row 0"),
        (lambda: xent.categorical_cross_entropy([[0.5, 0.6]], [0]), errors.DistributionError, r"sum to 1 .* got 1.1 at row 0. Hint: divide"),
        (lambda: xent.categorical_cross_entropy([[-1.0, 2.0]], [0]), errors.DistributionError, "got -1.0 for symbol 0"),
        (lambda: xent.nll([[0.5, -1.0]], [0]), errors.DistributionError, r"exp\(log_probabilities\) must sum to 1"),
        (lambda: xent.binary_cross_entropy([0.5, 1.5], [0, 1]), errors.DistributionError, "got 1.5 at row 1. Hint"),
        (lambda: xent.sigmoid_cross_entropy([np.nan], [0]), errors.LogitError, "got nan at row 0"),
        (lambda: xent.sigmoid_cross_entropy([0.0], [-1]), errors.TargetError, r"got -1.0 at row 0. Hint: labels −1 and 1"),
    ],
)  # fmt: skip
def test_r3_bad_values_raise_with_what_where_and_a_hint(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_r3_a_bad_row_far_down_is_named_as_the_caller_counts():
    z = np.zeros((300, 40, 10))
    z[217, 31, 4] = np.nan
    with pytest.raises(errors.LogitError, match=r"at row \(217, 31\), class 4"):
        xent.softmax_cross_entropy(z, np.zeros((300, 40), int))
    t = np.full((30000, 10), 0.1)
    t[29000, 3] = 0.2
    with pytest.raises(errors.DistributionError, match="at row 29000"):
        xent.softmax_cross_entropy(np.zeros((30000, 10)), t)


def test_r3_traced_bad_rows_are_nan_and_the_others_right():
    z = np.array(Z, np.float32)
    z[1, 2] = np.nan
    loss = jax.jit(lambda z: xent.softmax_cross_entropy(z, jnp.asarray(Y), reduction="none"))
    got = np.asarray(loss(jnp.asarray(z)))
    assert np.isnan(got[1])
    np.testing.assert_allclose(got[[0, 2]], ROWS[[0, 2]], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
@pytest.mark.parametrize("softcap", [None, 30.0])
def test_r3_unchecked_bad_logits_are_nan_whatever_is_done_to_them(bad, softcap):
    z = Z.copy()
    z[2, 1] = bad
    got = xent.softmax_cross_entropy(z, Y, softcap=softcap, reduction="none", check=False)
    assert np.isnan(got[2])
    assert np.isfinite(got[:2]).all()


def test_r3_check_true_refuses_to_be_traced():
    with pytest.raises(errors.OptionError, match="check=True must look at values"):
        jax.jit(lambda z: xent.softmax_cross_entropy(z, jnp.asarray(Y), check=True))(Z)


# ---- R4: precision ---------------------------------------------------------------------------------------


@every_library
def test_r4_half_precision_gives_float32_and_the_sum_of_a_million_rows_keeps_its_digits(library):
    if "float16" not in library.dtypes:
        pytest.skip("the strict namespace has no half types")
    rows, few = 1_000_000, 1000
    with library.context():
        z = library.make(np.tile(np.array([0.0, 1.0]), (rows, 1)), "float16")
        t = library.make(np.zeros(rows, dtype=np.int32))
        mean = to_numpy(xent.softmax_cross_entropy(z[:few, :], t[:few]))
        total = to_numpy(xent.softmax_cross_entropy(z, t, reduction="sum"))
    truth = np.log1p(np.e)
    assert mean.dtype == np.float32
    assert abs(mean - truth) <= np.spacing(np.float32(truth))
    assert abs(total - rows * truth) <= np.spacing(np.float32(rows * truth))


@functools.cache
def wide_row():
    """Return a confident row of 200 000 classes and its exact loss."""
    logits = np.random.default_rng(3).standard_normal((1, 200_000)).astype(np.float32)
    logits[0, 77] = 24.0
    # The exact sum of 199 999 exponentials, each within half a unit of float64's last place.
    others = np.delete(logits[0], 77).astype(np.float64)
    return logits, math.log1p(math.fsum(np.exp(others - 24.0)))


@every_library
def test_r4_two_hundred_thousand_classes_keep_their_digits(library):
    logits, truth = wide_row()
    with library.context():
        got = to_numpy(xent.softmax_cross_entropy(library.make(logits), library.make([77])))
    assert oracle.ulps(got, truth, np.float32) <= 4


# ---- R5: offsets, gaps, confident predictions -----------------------------------------------------------


def test_r5_a_confident_prediction_keeps_its_loss_and_its_gradient():
    z = np.array([[20.0, 0.0]], np.float32)
    value, gradient = xent.softmax_cross_entropy_value_and_grad(z, [0])
    assert value == np.float32(np.log1p(np.exp(-20.0)))
    assert gradient[0, 0] == -gradient[0, 1] == -np.float32(1 / (1 + np.exp(20.0)))


def test_r5_a_common_offset_changes_nothing():
    offset = Z * 16 + 2.0**26
    np.testing.assert_array_equal(
        xent.softmax_cross_entropy(offset.astype(np.float32), Y, temperature=3.7),
        xent.softmax_cross_entropy((Z * 16).astype(np.float32), Y, temperature=3.7),
    )


def test_r5_the_softcap_comes_before_the_temperature():
    capped = 2.0 * np.tanh(Z / 2.0)
    np.testing.assert_allclose(
        xent.softmax_cross_entropy(Z, Y, softcap=2.0, temperature=0.5),
        xent.softmax_cross_entropy(capped / 0.5, Y),
        rtol=1e-14,
    )


def test_r5_a_masked_class_stays_masked_under_a_softcap():
    z = np.array([[0.0, -np.inf, 1.0]])
    np.testing.assert_array_equal(
        xent.softmax_cross_entropy(z, [0], softcap=3.0),
        xent.softmax_cross_entropy(z[:, [0, 2]], [0], softcap=3.0),
    )


# ---- R6: a hard target is its one-hot soft target -----------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("normalizer", ["weight", "count", 7.0])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"class_weight": [0.5, 2.0, 1.0, 3.0]},
        {"class_weight": [0.5, 2.0, 1.0, 3.0], "label_smoothing": 0.2, "z_loss": 0.01},
    ],
)
def test_r6_hard_targets_equal_one_hot_targets_to_the_bit(options, reduction, normalizer):
    options = {**options, "reduction": reduction, "normalizer": normalizer}
    hard = xent.softmax_cross_entropy_value_and_grad(Z, Y, row_weight=[1.0, 2.0, 0.5], **options)
    for kind in (np.float64, np.float32, np.int8, np.bool_):
        soft = one_hot(Y).astype(kind)
        same = xent.softmax_cross_entropy_value_and_grad(
            Z, soft, row_weight=[1.0, 2.0, 0.5], **options
        )
        np.testing.assert_array_equal(hard[0], same[0])
        np.testing.assert_array_equal(hard[1], same[1])


def test_r6_the_weighted_mean_is_sum_of_weighted_losses_over_sum_of_weights():
    weight = np.array([0.5, 2.0, 1.0, 3.0])
    expected = (ROWS * weight[Y]).sum() / weight[Y].sum()
    assert xent.softmax_cross_entropy(Z, Y, class_weight=weight) == pytest.approx(
        expected, rel=1e-15
    )
    assert xent.softmax_cross_entropy(Z, one_hot(Y), class_weight=weight) == pytest.approx(
        expected, rel=1e-15
    )


# ---- R7: what a mean divides by ---------------------------------------------------------------------------


def test_r7_the_normalizer_is_weight_count_a_number_or_an_array():
    w = np.array([1.0, 0.0, 4.0])
    weighted = (ROWS * w).sum()

    def mean(**options):
        return float(xent.softmax_cross_entropy(Z, Y, row_weight=w, **options))

    assert mean() == pytest.approx(weighted / 5.0, rel=1e-15, abs=0)
    assert mean(normalizer="count") == pytest.approx(weighted / 2.0, rel=1e-15, abs=0)
    assert mean(normalizer=10) == pytest.approx(weighted / 10.0, rel=1e-15, abs=0)
    assert mean(normalizer=np.asarray(10.0)) == pytest.approx(weighted / 10.0, rel=1e-15, abs=0)
    tokens = torch.tensor(10)
    by_tensor = xent.softmax_cross_entropy(
        torch.tensor(Z), torch.tensor(Y), row_weight=w, normalizer=tokens
    )
    assert float(by_tensor) == pytest.approx(weighted / 10.0, rel=1e-15, abs=0)


@pytest.mark.parametrize("normalizer", [0, -1.0, np.nan, "batch"])
def test_r7_a_normalizer_that_is_none_is_refused(normalizer):
    with pytest.raises(errors.OptionError, match="normalizer must"):
        xent.softmax_cross_entropy(Z, Y, normalizer=normalizer)


# ---- R8: no kept row --------------------------------------------------------------------------------------


@every_library
def test_r8_no_kept_row_is_a_loss_of_zero_with_zero_gradients(library):
    with library.context():
        z, t = library.make(np.full((2, 3), np.nan), "float32"), library.make([-100, -100])
        value, gradient = xent.softmax_cross_entropy_value_and_grad(z, t, ignore_index=-100)
        assert to_numpy(value) == 0.0
        assert not to_numpy(gradient).any()
        weightless = library.make(np.zeros(2), "float32")
        assert (
            to_numpy(xent.softmax_cross_entropy(z, library.make([0, 1]), row_weight=weightless))
            == 0.0
        )


def test_r8_an_empty_batch_is_zero_and_keeps_its_graph():
    assert xent.softmax_cross_entropy(np.zeros((0, 3)), np.zeros(0, int)) == 0.0
    assert xent.sigmoid_cross_entropy(np.zeros(0), np.zeros(0)) == 0.0
    z = torch.zeros((2, 3), requires_grad=True)
    xent.softmax_cross_entropy(z, torch.tensor([-1, -1]), ignore_index=-1).backward()
    assert not z.grad.any()


def test_ignored_rows_change_neither_the_loss_nor_what_they_hold():
    z, y = np.vstack([Z, [[np.nan, np.inf, 0.0, 1.0]]]), np.append(Y, -100)
    for options in ({}, {"label_smoothing": 0.1}, {"normalizer": "count"}, {"reduction": "sum"}):
        with_padding = xent.softmax_cross_entropy_value_and_grad(z, y, ignore_index=-100, **options)
        without = xent.softmax_cross_entropy_value_and_grad(Z, Y, **options)
        np.testing.assert_array_equal(with_padding[0], without[0])
        np.testing.assert_array_equal(with_padding[1][:3], without[1])
        assert not with_padding[1][3].any()


# ---- R9: smoothing spreads over the allowed classes -------------------------------------------------------


def test_r9_smoothing_leaves_masked_classes_out():
    z = np.array([[1.0, -np.inf, 0.0, 2.0, -np.inf]])
    np.testing.assert_array_equal(
        xent.softmax_cross_entropy(z, [3], label_smoothing=0.3),
        xent.softmax_cross_entropy(z[:, [0, 2, 3]], [2], label_smoothing=0.3),
    )


# ---- R10: targets out of range, integer dtypes, leading dimensions ----------------------------------------


@pytest.mark.parametrize("bad", [4, -1, -100, 2**31 + 1])
def test_r10_a_target_out_of_range_raises_on_the_cpu(bad):
    with pytest.raises(
        errors.TargetError, match=rf"targets must lie in \[0, 4\): got {bad} at row 1"
    ):
        xent.softmax_cross_entropy(Z, np.array([0, bad, 1]))


@pytest.mark.parametrize("bad", [4, -1, -100])
def test_r10_a_target_out_of_range_is_a_nan_row_when_traced(bad):
    loss = jax.jit(lambda t: xent.softmax_cross_entropy(jnp.asarray(Z), t, reduction="none"))
    got = np.asarray(loss(jnp.asarray([2, bad, 3])))
    assert np.isnan(got[1])
    np.testing.assert_allclose(got[[0, 2]], ROWS[[0, 2]], rtol=1e-6)


@pytest.mark.parametrize("kind", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"])
def test_r10_every_integer_dtype_is_a_target(kind):
    expected = xent.softmax_cross_entropy(Z, Y)
    assert xent.softmax_cross_entropy(Z, Y.astype(kind)) == expected
    if kind not in ("u2", "u4", "u8"):
        assert xent.softmax_cross_entropy(torch.tensor(Z), torch.tensor(Y.astype(kind))) == expected


def test_r10_any_leading_dimensions_and_any_axis_are_rows():
    z, y = np.arange(120.0).reshape(2, 3, 4, 5) % 7, np.arange(24).reshape(2, 3, 4) % 5
    expected = xent.softmax_cross_entropy(z.reshape(24, 5), y.reshape(24), reduction="none")
    last = xent.softmax_cross_entropy(z, y, reduction="none")
    np.testing.assert_array_equal(last, expected.reshape(2, 3, 4))
    moved, gradient = xent.softmax_cross_entropy_value_and_grad(
        np.moveaxis(z, -1, 1), y, axis=1, reduction="none"
    )
    np.testing.assert_array_equal(moved, last)
    assert gradient.shape == (2, 5, 3, 4)
    _, plain = xent.softmax_cross_entropy_value_and_grad(z, y, reduction="none")
    np.testing.assert_array_equal(np.moveaxis(gradient, 1, -1), plain)
    soft = np.moveaxis(one_hot(y.reshape(-1), 5).reshape(2, 3, 4, 5), -1, 1)
    by_mass = xent.softmax_cross_entropy(np.moveaxis(z, -1, 1), soft, axis=1, reduction="none")
    np.testing.assert_array_equal(by_mass, last)
    assert xent.softmax_cross_entropy(z[0, 0, 0], y[0, 0, 0]) == last[0, 0, 0]


# ---- R11: no state, no modified input, threads and forks --------------------------------------------------


def test_r11_inputs_are_left_alone():
    z, y, w = Z.copy(), Y.copy(), np.array([1.0, 0.0, 2.0])
    xent.softmax_cross_entropy_value_and_grad(z, y, row_weight=w)
    np.testing.assert_array_equal(z, Z)
    np.testing.assert_array_equal(y, Y)
    for frozen in (z, y, w):
        frozen.flags.writeable = False
    xent.softmax_cross_entropy_value_and_grad(z, y, row_weight=w)


def test_r11_many_threads_get_the_same_bits():
    generator = np.random.default_rng(1)
    z, y = generator.standard_normal((5000, 20)), generator.integers(0, 20, 5000)
    expected, results = xent.softmax_cross_entropy(z, y), []
    threads = [
        threading.Thread(target=lambda: results.append(xent.softmax_cross_entropy(z, y)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 8


@pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning", "ignore:.*fork.*:DeprecationWarning")
def test_r11_a_forked_child_computes_too():
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, str(float(xent.softmax_cross_entropy(Z, Y))).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert float(os.read(read, 100)) == float(xent.softmax_cross_entropy(Z, Y))


# ---- R12: the bits of a row depend on that row alone --------------------------------------------------------


@pytest.mark.parametrize(
    "library", [x for x in LIBRARIES if x.name in ("numpy", "torch")], ids=["numpy", "torch"]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [1, 3, 10, 257])
def test_r12_a_row_alone_has_the_bits_it_has_in_a_batch(library, dtype, classes):
    generator = np.random.default_rng(classes)
    z = generator.standard_normal((700, classes)).astype(dtype)
    y = generator.integers(0, classes, 700)

    def rows(z, y):
        value, gradient = xent.softmax_cross_entropy_value_and_grad(
            library.make(z), library.make(y), reduction="none"
        )
        return to_numpy(value), to_numpy(gradient)

    value, gradient = rows(z, y)
    for part in (slice(0, 1), slice(3, 8), slice(699, 700), slice(5, 400)):
        some_value, some_gradient = rows(z[part], y[part])
        np.testing.assert_array_equal(some_value, value[part])
        np.testing.assert_array_equal(some_gradient, gradient[part])
    strided = np.asfortranarray(z)
    np.testing.assert_array_equal(rows(strided, y)[0], value)


def test_r12_blocks_do_not_change_a_bit(monkeypatch):
    generator = np.random.default_rng(2)
    z, y = generator.standard_normal((1000, 30)), generator.integers(0, 30, 1000)
    expected = xent.softmax_cross_entropy_value_and_grad(z, y)
    monkeypatch.setattr("xent.losses.rows.BLOCK", 100)
    got = xent.softmax_cross_entropy_value_and_grad(z, y)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


# ---- R13 is the matrix of test_derivatives.py ---------------------------------------------------------------


# ---- shapes and options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: xent.softmax_cross_entropy(Z, Y[:2]), errors.ShapeError, r"shape \(3,\) or .* got shape \(2,\)"),
        (lambda: xent.softmax_cross_entropy(Z, Y[:, None]), errors.ShapeError, r"got shape \(3, 1\). Hint: a column"),
        (lambda: xent.softmax_cross_entropy(Z, Y.astype(float)), errors.TargetError, "must be integers: got dtype float64"),
        (lambda: xent.softmax_cross_entropy(np.zeros((3, 0)), Y), errors.ShapeError, "at least one class"),
        (lambda: xent.softmax_cross_entropy(1.0, 0), errors.ShapeError, "at least one axis"),
        (lambda: xent.softmax_cross_entropy(Z, Y, axis=2), errors.ShapeError, r"axis must lie in \[-2, 2\)"),
        (lambda: xent.softmax_cross_entropy(Z, Y, reduction="avg"), errors.OptionError, "reduction must be"),
        (lambda: xent.softmax_cross_entropy(Z, Y, temperature=0.0), errors.OptionError, "temperature must lie"),
        (lambda: xent.softmax_cross_entropy(Z, Y, temperature="hot"), errors.OptionError, "temperature must be a number"),
        (lambda: xent.softmax_cross_entropy(Z, Y, softcap=-1), errors.OptionError, "softcap must lie"),
        (lambda: xent.softmax_cross_entropy(Z, Y, label_smoothing=1.1), errors.OptionError, "label_smoothing must lie"),
        (lambda: xent.softmax_cross_entropy(Z, Y, z_loss=np.nan), errors.OptionError, "z_loss must lie"),
        (lambda: xent.softmax_cross_entropy(Z, Y, class_weight=[1, 2]), errors.ShapeError, "weight for each of 4 classes"),
        (lambda: xent.softmax_cross_entropy(Z, Y, class_weight=[1, -2, 1, 1]), errors.OptionError, r"class_weight must be 0 .* got -2.0 at index \(1,\)"),
        (lambda: xent.softmax_cross_entropy(Z, Y, row_weight=[1, 2]), errors.ShapeError, "row_weight must fit the rows"),
        (lambda: xent.softmax_cross_entropy(Z, Y, row_weight=[1, -2, 1]), errors.OptionError, r"got -2.0 at index \(1,\)"),
        (lambda: xent.softmax_cross_entropy(Z, one_hot(Y), ignore_index=-1), errors.OptionError, "ignore_index=-1 needs class indices"),
        (lambda: xent.softmax_cross_entropy(Z + 1j, Y), errors.OptionError, "must hold real numbers: got dtype complex128"),
        (lambda: xent.softmax_cross_entropy(Z.astype(str), Y), errors.OptionError, "must hold real numbers"),
        (lambda: xent.softmax_cross_entropy(torch.tensor(Z), jnp.asarray(Y)), errors.OptionError, "belong to one library"),
        (lambda: xent.sigmoid_cross_entropy([0.0, 1.0], [1]), errors.ShapeError, r"shape of logits, \(2,\): got shape \(1,\)"),
        (lambda: xent.sigmoid_cross_entropy([0.0], [1], pos_weight=-1), errors.OptionError, "pos_weight must be 0 or lie in"),
        (lambda: xent.sigmoid_cross_entropy([0.0], [1], pos_weight=[1, 2]), errors.ShapeError, "pos_weight must fit"),
        (lambda: xent.squared_error_value_and_grad(Z, Y, link="probit"), errors.OptionError, "link must be"),
        (lambda: xent.softmax_cross_entropy_hessian_vector_product(Z, Y, Z[:2]), errors.ShapeError, "vector must have the shape"),
        (lambda: xent.sigmoid_cross_entropy_hessian_vector_product([0.0], [1], [1, 2]), errors.ShapeError, "vector must have"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_a_hint(call, error, words):
    with pytest.raises(error, match=words) as refusal:
        call()
    assert "Hint: " in str(refusal.value)
