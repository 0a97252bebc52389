"""Derivatives of the measures: closed forms, transformations, and what happens at zero."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import xent

INF = math.inf
G = np.random.default_rng(0)
P, Q = G.dirichlet(np.full(5, 2.0), (2, 4))
JOINT = G.dirichlet(np.ones(12), 4).reshape(4, 3, 4)
COTANGENT = G.uniform(0.5, 2.0, 4)


# Each measure with its derivatives, by rows; Σp is not held at 1.
def _entropy(p):
    return [-np.log(p) - 1]


def _perplexity(p):
    return [np.exp(-np.sum(p * np.log(p), axis=-1, keepdims=True)) * (-np.log(p) - 1)]


def _normalised(p):
    # At Σp = 1 the part along p is taken out.
    return [-np.log(p) + np.sum(p * np.log(p), axis=-1, keepdims=True)]


def _js(p, q):
    m = (p + q) / 2
    return [np.log(p / m) / 2, np.log(q / m) / 2]


def _conditional(joint):
    return [np.log(joint.sum(axis=-1, keepdims=True) / joint)]


def _information(joint):
    x, y = joint.sum(axis=-1, keepdims=True), joint.sum(axis=-2, keepdims=True)
    return [np.log(joint / (x * y)) - 1]


normalised_entropy = functools.partial(xent.entropy, normalize=True)
normalised_divergence = functools.partial(xent.kl_divergence, normalize=True)
MEASURES = {
    "surprisal": (lambda p: xent.surprisal(p)[..., 1], (P,), lambda p: [-np.eye(5)[1] / p]),
    "entropy": (xent.entropy, (P,), _entropy),
    "entropy of counts": (normalised_entropy, (P,), _normalised),
    "perplexity": (xent.perplexity, (P,), _perplexity),
    "cross_entropy": (xent.cross_entropy, (P, Q), lambda p, q: [-np.log(q), -p / q]),
    "kl_divergence": (xent.kl_divergence, (P, Q), lambda p, q: [np.log(p / q) + 1, -p / q]),
    "kl_divergence, p = q": (
        xent.kl_divergence,
        (P, P),
        lambda p, q: [np.ones_like(p), -np.ones_like(q)],
    ),
    "js_divergence": (xent.js_divergence, (P, Q), _js),
    "js_divergence, p = q": (
        xent.js_divergence,
        (P, P),
        lambda p, q: [np.zeros_like(p), np.zeros_like(q)],
    ),
    "conditional_entropy": (xent.conditional_entropy, (JOINT,), _conditional),
    "mutual_information": (xent.mutual_information, (JOINT,), _information),
}
every_measure = pytest.mark.parametrize("name", MEASURES)


def assert_gradients(got, expected, rows=slice(None)):
    for ours, theirs in zip(got, expected, strict=True):
        cotangent = COTANGENT.reshape(-1, *[1] * (theirs.ndim - 1))
        np.testing.assert_allclose(
            np.asarray(ours)[rows], (cotangent * theirs)[rows], rtol=1e-13, atol=1e-14
        )


@every_measure
def test_torch_gradients_equal_their_closed_forms(name):
    measure, arrays, closed_form = MEASURES[name]
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    gradients = torch.autograd.grad(measure(*leaves), leaves, torch.tensor(COTANGENT))
    assert_gradients(gradients, closed_form(*arrays))


@every_measure
def test_jax_gradients_by_rows_equal_their_closed_forms_under_jit(name):
    measure, arrays, closed_form = MEASURES[name]
    numbers = tuple(n + 1 for n in range(len(arrays)))
    with jax.enable_x64(True):
        row = jax.grad(lambda w, *x: w * measure(*x), numbers)
        by_rows = jax.jit(jax.vmap(row))(*[jnp.asarray(a) for a in (COTANGENT, *arrays)])
        assert_gradients(by_rows, closed_form(*arrays))


@every_measure
def test_eager_and_vmapped_values_agree(name):
    measure, arrays, _ = MEASURES[name]
    tensors = [torch.tensor(a) for a in arrays]
    with jax.enable_x64(True):
        by_jax = np.asarray(jax.jit(jax.vmap(measure))(*[jnp.asarray(a) for a in arrays]))
    expected = np.asarray(measure(*arrays))
    for got in (measure(*tensors), torch.func.vmap(measure)(*tensors), by_jax):
        np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-14, atol=1e-16)


@every_measure
def test_torch_func_gradients_by_rows_equal_their_closed_forms(name):
    measure, arrays, closed_form = MEASURES[name]
    numbers = tuple(n + 1 for n in range(len(arrays)))
    row = torch.func.grad(lambda w, *x: w * measure(*x), numbers)
    tensors = [torch.tensor(a) for a in (COTANGENT, *arrays)]
    assert_gradients(torch.func.vmap(row)(*tensors), closed_form(*arrays))


@every_measure
def test_torch_second_derivatives_pass_the_finite_difference_test(name):
    measure, arrays, _ = MEASURES[name]
    leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
    # The differences step off the distributions, so what sums to 1 + 1e-6 must be let through.
    if "p = q" in name:  # held at 0 from below, where the differences see a kink
        leaves = [leaves[0] * torch.tensor([1.0, 1.0, 1.02, 1.0, 1.0]), leaves[1] * 1.001]
        leaves = [(x / x.sum(-1, keepdim=True)).detach().requires_grad_() for x in leaves]
    assert torch.autograd.gradgradcheck(measure, leaves)


@pytest.mark.parametrize("name", [name for name in MEASURES if "=" not in name])
def test_jax_forward_mode_agrees_with_the_closed_forms(name):
    measure, arrays, closed_form = MEASURES[name]
    generator = np.random.default_rng(5)
    tangents = [generator.standard_normal(a.shape) for a in arrays]
    with jax.enable_x64(True):
        given, directions = ([jnp.asarray(a) for a in group] for group in (arrays, tangents))
        value, got = jax.jit(lambda x, t: jax.jvp(measure, x, t))(given, directions)
    np.testing.assert_allclose(np.asarray(value), measure(*arrays), rtol=1e-14, atol=1e-16)
    expected = sum(
        (d * t).sum(axis=tuple(range(1, d.ndim)))
        for d, t in zip(closed_form(*arrays), tangents, strict=True)
    )
    np.testing.assert_allclose(np.asarray(got), expected, rtol=1e-12, atol=1e-13)


def test_the_hessian_of_entropy_is_minus_the_reciprocals():
    with jax.enable_x64(True):
        hessian = jax.jit(jax.hessian(xent.entropy))(jnp.asarray(P[0]))
    np.testing.assert_allclose(np.asarray(hessian), -np.diag(1 / P[0]), rtol=1e-13, atol=1e-13)


# ---- at zero ----------------------------------------------------------------------------------

WITH_ZEROS = np.array([[0.0, 0.25, 0.75, 0.0], [0.1, 0.2, 0.3, 0.4]])
FULL = np.array([[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]])


def gradients(framework, measure, *arrays):
    """Return the gradients by every array of the sum of the rows, each weighted."""
    weights = COTANGENT[:2]
    if framework == "torch":
        leaves = [torch.tensor(a, requires_grad=True) for a in arrays]
        found = torch.autograd.grad(measure(*leaves), leaves, torch.tensor(weights))
    else:
        with jax.enable_x64(True):
            weighted = jax.grad(
                lambda *x: jnp.sum(measure(*x) * weights), tuple(range(len(arrays)))
            )
            found = jax.jit(weighted)(*[jnp.asarray(a) for a in arrays])
    return [np.asarray(g) / weights.reshape(-1, *[1] * (g.ndim - 1)) for g in found]


@pytest.fixture(params=["torch", "jax"])
def framework(request):
    return request.param


def logarithm(p):
    with np.errstate(divide="ignore"):
        return np.log(p)


def test_the_slope_of_entropy_at_zero_is_infinite_and_leaks_nowhere(framework):
    (by_p,) = gradients(framework, xent.entropy, WITH_ZEROS)
    np.testing.assert_allclose(by_p, -logarithm(WITH_ZEROS) - 1, rtol=1e-13)
    (by_p,) = gradients(framework, xent.perplexity, WITH_ZEROS)
    assert np.all(by_p[0, [0, 3]] == INF)
    assert np.all(np.isfinite(by_p[0, 1:3]))
    assert np.all(np.isfinite(by_p[1]))


def test_a_symbol_that_p_lacks_costs_cross_entropy_its_surprisal(framework):
    by_p, by_q = gradients(framework, xent.cross_entropy, WITH_ZEROS, FULL)
    np.testing.assert_allclose(by_p, -np.log(FULL), rtol=1e-13)
    np.testing.assert_allclose(by_q, -WITH_ZEROS / FULL, rtol=1e-13)


def test_a_symbol_that_both_lack_leaves_the_others_gradients_right(framework):
    q = np.array([[0.0, 0.5, 0.25, 0.25], [0.4, 0.3, 0.2, 0.1]])
    by_p, by_q = gradients(framework, xent.cross_entropy, WITH_ZEROS, q)
    np.testing.assert_allclose(by_p, -logarithm(q), rtol=1e-13)
    assert by_q[0, 0] == 0
    np.testing.assert_allclose(by_q[:, 1:], (-WITH_ZEROS / np.maximum(q, 0.1))[:, 1:], rtol=1e-13)
    by_p, by_q = gradients(framework, xent.kl_divergence, WITH_ZEROS, q)
    expected = logarithm(WITH_ZEROS[:, 1:]) - np.log(q[:, 1:]) + 1
    np.testing.assert_allclose(by_p[:, 1:], expected, rtol=1e-13)
    np.testing.assert_allclose(by_q[:, 1:], (-WITH_ZEROS / np.maximum(q, 0.1))[:, 1:], rtol=1e-13)
    assert not np.isnan(by_p).any()
    assert not np.isnan(by_q).any()


def test_the_slope_of_divergence_at_zero_is_minus_infinity_and_leaks_nowhere(framework):
    by_p, by_q = gradients(framework, xent.kl_divergence, WITH_ZEROS, FULL)
    np.testing.assert_allclose(by_p, logarithm(WITH_ZEROS) - np.log(FULL) + 1, rtol=1e-13)
    np.testing.assert_allclose(by_q, -WITH_ZEROS / FULL, rtol=1e-13, atol=1e-15)
    by_p, by_q = gradients(framework, xent.js_divergence, WITH_ZEROS, FULL)
    m = (WITH_ZEROS + FULL) / 2
    np.testing.assert_allclose(by_p, logarithm(WITH_ZEROS / m) / 2, rtol=1e-13)
    np.testing.assert_allclose(by_q, np.log(FULL / m) / 2, rtol=1e-13)


def test_a_row_that_is_infinite_leaves_the_gradients_of_the_others_right(framework):
    q = np.array([[0.5, 0.0, 0.25, 0.25], [0.4, 0.3, 0.2, 0.1]])
    by_p, by_q = gradients(framework, xent.cross_entropy, WITH_ZEROS, q)
    assert by_p[0, 1] == INF
    assert by_q[0, 1] == -INF
    np.testing.assert_allclose(by_p, -logarithm(q), rtol=1e-13)
    np.testing.assert_allclose(by_q[1], -WITH_ZEROS[1] / q[1], rtol=1e-13)
    by_p, by_q = gradients(framework, xent.kl_divergence, WITH_ZEROS, q)
    np.testing.assert_allclose(by_p[1], np.log(WITH_ZEROS[1] / q[1]) + 1, rtol=1e-13)
    np.testing.assert_allclose(by_q[1], -WITH_ZEROS[1] / q[1], rtol=1e-13)


def test_joints_with_impossible_pairs_have_the_slopes_of_their_logarithms(framework):
    joint = np.array([[[0.0, 0.25], [0.5, 0.25]], [[0.1, 0.2], [0.3, 0.4]]])
    x, y = joint.sum(axis=-1, keepdims=True), joint.sum(axis=-2, keepdims=True)
    (by_joint,) = gradients(framework, xent.conditional_entropy, joint)
    np.testing.assert_allclose(by_joint, -logarithm(joint / x), rtol=1e-13)
    (by_joint,) = gradients(framework, xent.mutual_information, joint)
    np.testing.assert_allclose(by_joint, logarithm(joint / (x * y)) - 1, rtol=1e-12)


def test_a_variable_s_value_that_never_occurs_makes_no_nan_in_the_gradient(framework):
    joint = np.array([[[0.0, 0.0], [0.25, 0.75]], [[0.1, 0.0], [0.9, 0.0]]])
    for measure in (xent.conditional_entropy, xent.mutual_information):
        (by_joint,) = gradients(framework, measure, joint)
        assert not np.isnan(by_joint).any()


def test_a_divergence_held_at_zero_for_rounded_inputs_keeps_its_gradient(framework):
    q = np.array([[0.5, 0.5], [0.25, 0.75]])
    p = q * (1.0 - 1e-7)  # Σ p·log(p/q) is below 0 here
    assert xent.kl_divergence(p, q).tolist() == [0.0, 0.0]
    by_p, by_q = gradients(framework, xent.kl_divergence, p, q)
    np.testing.assert_allclose(by_p, np.log(p / q) + 1, rtol=1e-13)
    np.testing.assert_allclose(by_q, -p / q, rtol=1e-13)
