"""What a hostile reader tried: each was once wrong, or nearly so, and must stay right."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import oracle
import pytest
import torch

import xent
from xent import errors

Z = [[0.0, 1.0]]


def test_negative_weights_are_no_distribution_even_where_nothing_raises():
    assert np.isnan(xent.entropy([-1.0, -3.0], normalize=True, check=False))
    traced = jax.jit(lambda a: xent.entropy(a, normalize=True))
    assert np.isnan(traced(jnp.asarray([-1.0, -3.0])))


def test_a_certain_and_right_prediction_has_a_finite_derivative():
    z = torch.tensor([[120.0, 0.0, 3.0]], requires_grad=True)
    xent.categorical_cross_entropy(torch.softmax(z, dim=-1), [0]).backward()
    assert z.grad.tolist() == [[0.0, 0.0, 0.0]]
    z = torch.tensor([40.0, -3.0], requires_grad=True)
    xent.binary_cross_entropy(torch.sigmoid(z), [1, 0]).backward()
    np.testing.assert_allclose(z.grad.numpy(), [0.0, 0.5 / (1 + np.exp(3.0))], rtol=1e-6)


def test_a_symbol_that_both_lack_leaves_the_derivative_of_js_finite():
    q = jnp.asarray([0.25, 0.75, 0.0])
    slope = jax.grad(lambda p: xent.js_divergence(p, q))(jnp.asarray([0.5, 0.5, 0.0]))
    assert np.isfinite(slope).all()


def test_a_bad_row_is_not_counted_as_correct():
    for z, t in ((Z, [7]), ([[np.nan, 1.0]], [0])):
        statistics = xent.softmax_statistics(z, t, check=False)
        assert not statistics.correct[0]
        assert statistics.argmax[0] == -1


@pytest.mark.parametrize(
    "normalizer", [np.array(0.0), np.float32(0), np.array(-3.0), np.array(np.nan), None]
)
def test_a_normalizer_of_zero_is_refused_in_every_form(normalizer):
    with pytest.raises(errors.OptionError, match="normalizer must"):
        xent.softmax_cross_entropy(Z, [0], normalizer=normalizer)
    if isinstance(normalizer, np.ndarray):
        assert np.isnan(xent.softmax_cross_entropy(Z, [0], normalizer=normalizer, check=False))


def test_an_option_to_learn_is_refused_and_not_detached():
    with pytest.raises(errors.OptionError, match="options are constants; to learn a temperature"):
        xent.softmax_cross_entropy(Z, [0], temperature=torch.tensor(2.0, requires_grad=True))
    with pytest.raises(errors.OptionError, match="options are constants"):
        jax.grad(lambda t: xent.softmax_cross_entropy(jnp.asarray(Z), [0], temperature=t))(2.0)


def test_a_target_out_of_range_does_not_wrap_around_into_it():
    z = jnp.asarray([[0.0, 1.0], [2.0, 0.0]])
    for kind in (np.int64, np.uint64):
        with pytest.raises(errors.TargetError, match="targets must lie in"):
            xent.softmax_cross_entropy(z, np.array([2**32, 2**32 + 1], dtype=kind))
    wrapped = np.array([2**64 - 100], dtype=np.uint64)
    with pytest.raises(errors.TargetError, match="targets must lie in"):
        xent.softmax_cross_entropy(Z, wrapped, ignore_index=-100)


def test_integer_logits_that_a_float_cannot_hold_are_refused():
    with pytest.raises(errors.LogitError, match="got nan at row 0"):
        xent.softmax_cross_entropy(np.array([[2**60, 2**60 + 1]]), [0])
    assert xent.softmax_cross_entropy(np.array([[2**53, 2**53 - 1]]), [0]) == pytest.approx(
        np.log1p(np.exp(-1.0)), rel=1e-15, abs=0
    )


@pytest.mark.parametrize("weight", [1e-322, 1e-30, 1e308])
def test_weights_that_would_vanish_or_overflow_are_refused(weight):
    with pytest.raises(errors.OptionError, match="row_weight must be 0 or lie in"):
        xent.softmax_cross_entropy(Z * 2, [0, 0], row_weight=[weight] * 2)


def test_a_probability_just_above_one_counts_as_one():
    for loss in (
        xent.entropy([1.000001]),
        xent.surprisal(1.000001),
        xent.categorical_cross_entropy([[1.000001, 0.0]], [0]),
        xent.nll([[1e-6, -np.inf]], [0]),
        xent.binary_cross_entropy([1.0000001], [1]),
    ):
        assert loss == 0.0
    assert xent.perplexity([1.000001]) == 1.0


@pytest.mark.parametrize("softcap", [0.5, 30.0, 100.0, 1000.0])
def test_a_softcap_of_any_size_keeps_its_digits_without_float64(softcap):
    generator = np.random.default_rng(int(softcap))
    z = (generator.standard_normal((60, 2)) * min(softcap, 20.0)).astype(np.float32)
    got = xent.softmax_cross_entropy(
        jnp.asarray(z), np.zeros(60, int), softcap=softcap, reduction="none"
    )
    truths = [oracle.softmax_row(row, 0, softcap=softcap)[0] for row in z]
    assert (
        max(oracle.ulps(a, b, np.float32) for a, b in zip(np.asarray(got), truths, strict=True))
        <= 4
    )


def test_powers_of_two_have_whole_numbers_of_bits():
    bits = np.arange(1.0, 60.0)
    np.testing.assert_array_equal(xent.surprisal(2.0**-bits, unit="bits"), bits)


@pytest.mark.parametrize("dynamic", [None, True])
def test_torch_compile_takes_batches_of_any_size(dynamic):
    torch.compiler.reset()
    loss = torch.compile(
        xent.softmax_cross_entropy, backend="eager", fullgraph=True, dynamic=dynamic
    )
    for rows in (2, 3, 5, 7, 9, 11, 13, 17, 19, 23):
        got = loss(torch.zeros(rows, 7), torch.zeros(rows, dtype=torch.int64))
        assert float(got) == pytest.approx(np.log(7.0), rel=1e-6)


def test_check_true_says_so_when_torch_is_compiling():
    torch.compiler.reset()
    loss = torch.compile(
        lambda z: xent.softmax_cross_entropy(z, torch.tensor([0]), check=True), backend="eager"
    )
    with pytest.raises(errors.OptionError, match="check=True must look at values"):
        loss(torch.zeros(1, 3))


@pytest.mark.parametrize(
    "targets",
    [np.array([1, 0])[::-1], np.array([0, 1], dtype=">i8"), np.arange(2), [0, 1]],
    ids=["reversed", "big-endian", "read-only", "list"],
)
def test_torch_logits_take_numpy_targets_of_any_layout(targets):
    if isinstance(targets, np.ndarray) and targets.flags.owndata:
        targets.flags.writeable = False
    z = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    expected = (np.log1p(np.e) + np.log1p(np.exp(-1.0))) / 2
    assert float(xent.softmax_cross_entropy(z, targets)) == pytest.approx(expected, rel=1e-6)


def test_numpy_arrays_of_the_half_types_of_ml_dtypes_are_taken():
    z = np.array([[0.0, 1.0]], dtype=ml_dtypes.bfloat16)
    assert xent.softmax_cross_entropy(z, [1]) == np.float32(np.log1p(np.exp(-1.0)))


def test_masked_arrays_are_refused_and_not_unmasked():
    p = np.ma.masked_array([0.5, 0.5], mask=[True, False])
    with pytest.raises(errors.OptionError, match="masked arrays are not taken: got 1 masked"):
        xent.entropy(p)


def test_an_unknown_keyword_is_refused_by_the_name_that_was_called():
    with pytest.raises(
        TypeError, match=r"categorical_cross_entropy\(\) got an unexpected .* 'label_smoothing'"
    ):
        xent.categorical_cross_entropy([[1.0, 0.0]], [0], label_smoothing=0.5)
    with pytest.raises(TypeError, match=r"softmax_cross_entropy\(\) got an unexpected"):
        xent.softmax_cross_entropy_value_and_grad(Z, [0], smoothing=0.5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: xent.entropy(None), "an array must be given"),
        (lambda: xent.entropy([[0.5, 0.5], [1.0]]), "must be rectangular"),
        (lambda: xent.softmax_statistics(np.zeros((3, 0))), "at least one class"),
        (lambda: xent.mutual_information(np.eye(2) / 2, axes=(0,)), "two axes"),
        (lambda: xent.entropy([1.0], axis=0.5), "axis must be an integer"),
        (lambda: xent.entropy([1.0], unit=[]), "unit must be one of"),
        (lambda: xent.softmax_cross_entropy(Z, [0], ignore_index=0.5), "ignore_index must be an integer"),
        (lambda: xent.softmax_cross_entropy(Z, [0], temperature="2"), "temperature must be a number"),
        (lambda: xent.nll([[1.0, 2.0]], [0]), "subtract each row's logsumexp"),
        (lambda: xent.softmax_cross_entropy(torch.zeros(2, 2), ["a", "b"]), "must hold real numbers"),
        (lambda: xent.squared_error_value_and_grad([0.0], [1], link="sigmoid", axis=0), "no meaning"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_gets_a_sentence_and_a_hint(call, words):
    with pytest.raises(errors.XentError, match=words) as refusal:
        call()
    assert "Hint: " in str(refusal.value)


def test_a_framework_that_another_thread_is_importing_does_not_disturb():
    program = """
import threading, numpy, xent
failed = []
done = threading.Event()
def load():
    import torch
    done.set()
thread = threading.Thread(target=load)
thread.start()
while not done.is_set():
    try:
        xent.entropy([0.5, 0.5])
    except Exception as error:
        failed.append(error)
thread.join()
assert not failed, failed[0]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_the_room_of_scores_opens_when_it_is_asked_for():
    program = "import xent; assert xent.scoring.score; assert 'log_loss' in dir(xent)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_entries_of_any_strides_are_read_where_they_stand(reduction):
    generator = np.random.default_rng(3)
    z, t, w = generator.standard_normal(20), generator.uniform(size=30), generator.uniform(size=20)
    plain = [a.copy() for a in (z[::2], t[::3], w[::2])]
    truth, slopes = xent.sigmoid_cross_entropy_value_and_grad(
        *plain[:2], row_weight=plain[2], reduction=reduction
    )
    x = torch.tensor(z)[::2].requires_grad_()
    loss = xent.sigmoid_cross_entropy(
        x, torch.tensor(t)[::3], row_weight=torch.tensor(w)[::2], reduction=reduction
    )
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    np.testing.assert_allclose(loss.detach().numpy(), truth, rtol=1e-15)
    np.testing.assert_allclose(gradient.numpy(), slopes, rtol=1e-15)
