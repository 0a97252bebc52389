"""Derivatives of the definition, by each framework's own differentiation, against the formulas.

The matrix of R13: {eager, compiled} × {backward, double, jvp, grad, vmap, hessian, vmap∘grad,
jvp∘grad}; each cell checks a value, or that it raises.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import oracle
import pytest
import torch

import xent

GENERATOR = np.random.default_rng(11)
LOGITS = 2.0 * GENERATOR.standard_normal((4, 5))
LOGITS[1, 2] = -np.inf  # a masked class
LOGITS[2, 4] = 40.0  # a confident row
TARGETS = np.array([1, 0, 4, 3])
VECTOR = GENERATOR.standard_normal((4, 5))
COTANGENT = GENERATOR.uniform(0.5, 2.0, 4)
ROWS = [oracle.softmax_row(z, t) for z, t in zip(LOGITS, TARGETS, strict=True)]
VALUES = np.array([float(row[0]) for row in ROWS])
GRADIENT = np.array([[float(g) for g in row[1]] for row in ROWS])


def curvature(p):
    return np.diag(p) - np.outer(p, p)


HESSIAN = np.stack([curvature(np.array([float(a) for a in row[2]])) for row in ROWS])
PRODUCT = np.einsum("nij,nj->ni", HESSIAN, VECTOR)


def row_loss(z, t):
    return xent.softmax_cross_entropy(z, t)


def weighted_loss(z, t, w):
    return xent.softmax_cross_entropy(z, t, row_weight=w, reduction="sum")


W = COTANGENT[:, None]
EXPECTED = {
    "backward": W * GRADIENT,
    "double": W * PRODUCT,
    "jvp": np.sum(W * GRADIENT * VECTOR),
    "grad": W * GRADIENT,
    "vmap": VALUES,
    "hessian": HESSIAN,
    "vmap of grad": GRADIENT,
    "jvp of grad": W * PRODUCT,
}


def torch_cell(transform, z, t, w, v):
    """Compute one cell's quantity from tensors."""
    total = functools.partial(weighted_loss, t=t, w=w)
    func = torch.func
    if transform in ("backward", "double"):
        z = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(total(z), z, create_graph=True)
        if transform == "backward":
            return gradient
        return torch.autograd.grad((gradient * v).sum(), z)[0]
    return {
        "jvp": lambda: func.jvp(total, (z,), (v,))[1],
        "grad": lambda: func.grad(total)(z),
        "vmap": lambda: func.vmap(row_loss)(z, t),
        "hessian": lambda: func.vmap(func.hessian(row_loss))(z, t),
        "vmap of grad": lambda: func.vmap(func.grad(row_loss))(z, t),
        "jvp of grad": lambda: func.jvp(func.grad(total), (z,), (v,))[1],
    }[transform]()


@pytest.mark.parametrize("transform", EXPECTED)
def test_torch_eager_derivatives_are_right(transform):
    z, w, v = (torch.tensor(a) for a in (LOGITS, COTANGENT, VECTOR))
    got = torch_cell(transform, z, torch.tensor(TARGETS), w, v)
    np.testing.assert_allclose(got.detach().numpy(), EXPECTED[transform], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    "transform", [t for t in EXPECTED if t not in ("backward", "double", "hessian")]
)
def test_torch_compiled_derivatives_are_right(transform):
    z, w, v = (torch.tensor(a) for a in (LOGITS, COTANGENT, VECTOR))
    torch.compiler.reset()
    compiled = torch.compile(
        functools.partial(torch_cell, transform), backend="aot_eager", fullgraph=True
    )
    got = compiled(z, torch.tensor(TARGETS), w, v)
    np.testing.assert_allclose(got.detach().numpy(), EXPECTED[transform], rtol=1e-12, atol=1e-15)


def test_what_torch_cannot_compile_raises():
    # torch 2.13 cannot trace vmap over forward over reverse; what matters is that it says so. In
    # a process of its own, because its failure leaves torch's transforms open.
    program = """
import functools, torch, test_derivatives as d
z, w, v = (torch.tensor(a) for a in (d.LOGITS, d.COTANGENT, d.VECTOR))
cell = functools.partial(d.torch_cell, "hessian")
try:
    torch.compile(cell, backend="aot_eager", fullgraph=True)(z, torch.tensor(d.TARGETS), w, v)
except RuntimeError as error:
    assert "fake tensor" in str(error), error
else:
    raise SystemExit("it compiled")
"""
    folder = Path(__file__).parent
    subprocess.run([sys.executable, "-c", program], check=True, cwd=folder, timeout=300)


def test_torch_compiled_loss_differentiates_backward_without_a_graph_break():
    z = torch.tensor(LOGITS, requires_grad=True)
    torch.compiler.reset()
    loss = torch.compile(weighted_loss, backend="aot_eager", fullgraph=True)
    loss(z, torch.tensor(TARGETS), torch.tensor(COTANGENT)).backward()
    np.testing.assert_allclose(z.grad.numpy(), EXPECTED["backward"], rtol=1e-12, atol=1e-15)


def jax_cell(transform, z, t, w, v):
    """Compute one cell's quantity from JAX arrays."""
    total = functools.partial(weighted_loss, t=t, w=w)
    return {
        "backward": lambda: jax.vjp(total, z)[1](jnp.ones((), z.dtype))[0],
        "double": lambda: jax.grad(lambda a: jnp.vdot(jax.grad(total)(a), v))(z),
        "jvp": lambda: jax.jvp(total, (z,), (v,))[1],
        "grad": lambda: jax.grad(total)(z),
        "vmap": lambda: jax.vmap(row_loss)(z, t),
        "hessian": lambda: jax.vmap(jax.hessian(row_loss))(z, t),
        "vmap of grad": lambda: jax.vmap(jax.grad(row_loss))(z, t),
        "jvp of grad": lambda: jax.jvp(jax.grad(total), (z,), (v,))[1],
    }[transform]()


@pytest.mark.parametrize("wide", [False, True], ids=["32-bit", "64-bit"])
@pytest.mark.parametrize("transform", EXPECTED)
def test_jax_compiled_derivatives_are_right(transform, wide):
    with jax.enable_x64(wide):
        z, t, w, v = (jnp.asarray(a) for a in (LOGITS, TARGETS, COTANGENT, VECTOR))
        got = np.asarray(jax.jit(functools.partial(jax_cell, transform))(z, t, w, v))
    rtol, atol = (1e-12, 1e-15) if wide else (2e-6, 5e-7)
    np.testing.assert_allclose(got, EXPECTED[transform], rtol=rtol, atol=atol)


@pytest.mark.parametrize("transform", ["backward", "jvp", "vmap of grad"])
def test_jax_eager_derivatives_are_right(transform):
    z, t, w, v = (jnp.asarray(a) for a in (LOGITS, TARGETS, COTANGENT, VECTOR))
    got = np.asarray(jax_cell(transform, z, t, w, v))
    np.testing.assert_allclose(got, EXPECTED[transform], rtol=2e-6, atol=5e-7)


def test_a_confident_row_keeps_its_gradient_in_float32():
    truth = [float(g) for g in oracle.softmax_row(LOGITS[2].astype(np.float32), 4)[1]]
    z = torch.tensor(LOGITS[2], dtype=torch.float32, requires_grad=True)
    xent.softmax_cross_entropy(z, torch.tensor(4)).backward()
    traced = jax.grad(row_loss)(jnp.asarray(LOGITS[2], jnp.float32), 4)
    np.testing.assert_allclose(z.grad.numpy(), truth, rtol=2e-7)
    np.testing.assert_allclose(np.asarray(traced), truth, rtol=1e-6)


OPTIONS = {
    "temperature and softcap": {"temperature": 0.7, "softcap": 3.0},
    "z-loss and smoothing": {"z_loss": 0.1, "label_smoothing": 0.1},
    "class weights": {"class_weight": np.array([1.0, 2.0, 0.5, 3.0, 0.0])},
    "soft targets": {},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_passes_gradcheck_and_gradgradcheck(name):
    generator = np.random.default_rng(5)
    z = torch.tensor(generator.standard_normal((4, 5)), requires_grad=True)
    t = torch.tensor(generator.dirichlet(np.ones(5), 4) if name == "soft targets" else TARGETS)

    def loss(z):
        return xent.softmax_cross_entropy(z, t, reduction="none", **OPTIONS[name])

    torch.autograd.gradcheck(loss, (z,), check_forward_ad=True)
    torch.autograd.gradgradcheck(loss, (z,))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", OPTIONS)
def test_value_and_grad_and_the_product_equal_automatic_differentiation(name, reduction):
    generator = np.random.default_rng(5)
    z = torch.tensor(generator.standard_normal((4, 5)), requires_grad=True)
    t = torch.tensor(generator.dirichlet(np.ones(5), 4) if name == "soft targets" else TARGETS)
    w, v = generator.uniform(0.5, 2.0, 4), torch.tensor(generator.standard_normal((4, 5)))
    options = {"reduction": reduction, "row_weight": w, **OPTIONS[name]}
    loss = xent.softmax_cross_entropy(z, t, **options)
    (gradient,) = torch.autograd.grad(loss.sum(), z, create_graph=True)
    (product,) = torch.autograd.grad((gradient * v).sum(), z)
    value, written = xent.softmax_cross_entropy_value_and_grad(z.detach(), t, **options)
    curved = xent.softmax_cross_entropy_hessian_vector_product(z.detach(), t, v, **options)
    torch.testing.assert_close(value, loss.detach(), rtol=1e-14, atol=0)
    torch.testing.assert_close(written, gradient.detach(), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(curved, product, rtol=1e-12, atol=1e-15)


def test_sigmoid_derivatives_are_right_also_at_zero_and_infinity():
    z = torch.tensor([0.0, 0.0, 3.0, -50.0, np.inf, -np.inf], dtype=torch.float64)
    t = torch.tensor([0.0, 1.0, 0.25, 0.0, 1.0, 0.0], dtype=torch.float64)
    z.requires_grad_()
    loss = xent.sigmoid_cross_entropy(z, t, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
    (second,) = torch.autograd.grad(gradient[:4].sum(), z)
    truth = [
        float(oracle.sigmoid_entry(a, b)[1]) for a, b in zip(z.tolist(), t.tolist(), strict=True)
    ]
    np.testing.assert_allclose(gradient.detach().numpy(), truth, rtol=1e-15)
    p = 1.0 / (1.0 + np.exp(-z.detach().numpy()[:4]))
    np.testing.assert_allclose(second.numpy()[:4], p * (1 - p), rtol=1e-14)
    _, written = xent.sigmoid_cross_entropy_value_and_grad(z.detach(), t, reduction="sum")
    np.testing.assert_allclose(written.numpy(), truth, rtol=1e-15)
    curved = xent.sigmoid_cross_entropy_hessian_vector_product(
        z.detach()[:4], t[:4], np.full(4, 3.0), reduction="sum"
    )
    np.testing.assert_allclose(curved.numpy(), 3.0 * p * (1 - p), rtol=1e-14)


@pytest.mark.parametrize("pos_weight", [None, 2.5])
def test_sigmoid_passes_gradcheck_and_gradgradcheck(pos_weight):
    generator = np.random.default_rng(6)
    z = torch.tensor(generator.standard_normal((3, 4)), requires_grad=True)
    t = torch.tensor(generator.uniform(0, 1, (3, 4)))

    def loss(z):
        return xent.sigmoid_cross_entropy(
            z, t, pos_weight=pos_weight, label_smoothing=0.1, reduction="none"
        )

    torch.autograd.gradcheck(loss, (z,), check_forward_ad=True)
    torch.autograd.gradgradcheck(loss, (z,))


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_the_gradient_of_squared_error_is_that_of_automatic_differentiation(link):
    generator = np.random.default_rng(8)
    z = torch.tensor(generator.standard_normal((4, 5)), requires_grad=True)
    if link == "softmax":
        t, axis, p = torch.tensor(TARGETS), -1, torch.softmax(z, dim=-1)
    else:
        t, axis, p = torch.tensor(generator.uniform(0, 1, (4, 5))), None, torch.sigmoid(z)
    loss = xent.squared_error(p, t, axis=axis)
    (gradient,) = torch.autograd.grad(loss, z)
    value, written = xent.squared_error_value_and_grad(z.detach(), t, link=link)
    torch.testing.assert_close(value, loss.detach(), rtol=1e-14, atol=0)
    torch.testing.assert_close(written, gradient, rtol=1e-12, atol=1e-16)


def test_entropy_of_a_softmax_has_derivative_zero_at_masked_classes():
    z = torch.tensor(LOGITS, requires_grad=True)
    (gradient,) = torch.autograd.grad(xent.softmax_statistics(z).entropy.sum(), z)
    assert gradient[1, 2] == 0
    assert bool(torch.isfinite(gradient).all())
    for row in range(4):
        p = ROWS[row][2]
        logs = [mp.log(a) if a else mp.mpf(0) for a in p]
        mean = mp.fsum(a * b for a, b in zip(p, logs, strict=True))
        truth = [float(-a * (b - mean)) for a, b in zip(p, logs, strict=True)]
        np.testing.assert_allclose(gradient[row].numpy(), truth, rtol=1e-12, atol=1e-16)


def test_a_bad_row_has_a_nan_derivative_and_leaves_the_others_alone():
    z = jnp.asarray(np.where(np.isfinite(LOGITS), LOGITS, 0.0), jnp.float32)
    t = jnp.asarray([1, 7, 4, 3])  # 7 is out of range
    gradient = np.asarray(jax.jit(jax.grad(weighted_loss))(z, t, jnp.ones(4)))
    assert np.isnan(gradient[1]).all()
    assert np.isfinite(gradient[[0, 2, 3]]).all()


def test_the_entropy_of_a_softmax_has_its_second_derivative():
    def entropy(z):
        return xent.softmax_statistics(z, TARGETS).entropy.sum()

    def plain(z):
        log_p = torch.log_softmax(z, -1)
        return -(log_p.exp() * log_p).sum()

    z, v = torch.tensor(np.where(np.isinf(LOGITS), -2.0, LOGITS)), torch.tensor(VECTOR)
    z = torch.clamp(z, max=5.0).requires_grad_()

    def second(f):
        (one,) = torch.autograd.grad(f(z), z, create_graph=True)
        return torch.autograd.grad((one * v).sum(), z)[0]

    expected = second(plain)
    torch.testing.assert_close(second(entropy), expected, rtol=1e-10, atol=1e-12)
    with jax.enable_x64(True):
        at, along = jnp.asarray(z.detach().numpy()), jnp.asarray(VECTOR)
        found = jax.jvp(jax.grad(entropy), (at,), (along,))[1]
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
