"""The GPU's kernel of rows whose logits are a product, against the oracle.

Where the hidden rows are those of the identity, the logits are the weights themselves and ∂weight
is the derivative by logits: so every case of `xent.losses.cases` is held to the bounds of rows of
logits. As in `test_triton_rows`, the tests run here where the variable TRITON_INTERPRET is set or
there is a GPU, and otherwise in a process of their own.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import test_triton_rows as of_rows
import torch
from test_triton_rows import _poison_memory, _round_bfloat16_as_gpus_do  # noqa: F401
from torch.utils._python_dispatch import TorchDispatchMode

from xent.errors import OptionError
from xent.losses.cases import CASES
from xent.losses.kernels import LinearRows, triton_host, triton_linear

pytest.importorskip("triton")

DEVICE, DTYPES = of_rows.DEVICE, of_rows.DTYPES
PACKAGE = Path(triton_linear.__file__).parent
here, elsewhere, compiles = of_rows.here, of_rows.elsewhere, of_rows.compiles
on_device, exactly = of_rows.on_device, of_rows.exactly
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

SMALL = triton_linear._Tiles(16, 16, 16, 16, 32, 4, 1)
"""As small as products on a GPU may be, so that few numbers are many tiles."""
FEW_TILES = 4 * 16 * 16 * 4
"""As many bytes as four of them have, in float32: so there are several groups of several."""
EARNEST = dict(triton_linear._TILES)
kernel = triton_linear  # mutants take its place


@pytest.fixture(autouse=True)
def _many_tiles(monkeypatch):
    monkeypatch.setattr(triton_linear, "_TILES", {2: SMALL, 4: SMALL})
    monkeypatch.setattr(triton_linear, "WORKSPACE", FEW_TILES)


# ---- rows of the identity: their logits are the weights -------------------------------------------

HARD = {
    case.name: case
    for case in CASES
    if not case.name.startswith("soft targets") and case.name != "extreme logits"
}
"""What is left out has masses, or masks of its own for each row, which a bias cannot be."""
MANY = "a thousand classes"
FEW = [name for name in HARD if name != MANY]


def replaced(rows, **changes):
    return LinearRows(**{**rows.__dict__, **changes})


def run(rows, cotangent, **options):
    statistics = kernel.forward(rows)
    return statistics, *kernel.backward(rows, statistics.saved, cotangent, **options)


def check_rows(z, t, dtype="float32", spread=1, label_smoothing=0.0, class_weight=None, **options):
    """Compare loss and gradient with the oracle, with masked classes between those of the rows."""
    masked = np.isneginf(z).all(axis=0)
    weight = on_device(np.where(masked, 0.0, z), DTYPES[dtype]).T
    exact_z = np.where(masked, -np.inf, exactly(weight).T)
    classes = spread * len(weight)
    apart = torch.zeros((classes, len(z)), dtype=DTYPES[dtype], device=DEVICE)
    apart[::spread] = weight
    bias = torch.full((classes,), -torch.inf, device=DEVICE)
    bias[::spread] = on_device(np.where(masked, -np.inf, 0.0), torch.float32)
    generator = np.random.default_rng(7)
    row_weight, cotangent = generator.uniform(0.5, 2.0, (2, len(z))).astype(np.float32)
    rows = LinearRows(
        torch.eye(len(z), dtype=DTYPES[dtype], device=DEVICE),
        apart,
        bias if spread > 1 or masked.any() else None,
        on_device(t * spread),
        None if class_weight is None else on_device(np.repeat(class_weight, spread)),
        on_device(row_weight),
        smoothing=label_smoothing,
        **options,
    )
    statistics, d_hidden, d_weight, d_bias = run(rows, on_device(cotangent))
    assert statistics.loss.dtype == torch.float32
    assert (d_hidden.dtype, d_weight.dtype) == (DTYPES[dtype],) * 2
    said = {**options, "label_smoothing": label_smoothing, "class_weight": class_weight}
    relative = options.get("softcap") is None and not label_smoothing
    slopes, wide = [], np.where(masked, 0.0, exact_z)
    spacing, _ = of_rows.HALF_SPACING[dtype]
    for i, row_z in enumerate(exact_z):
        truth = of_rows.exact_row(row_z, t[i], said)
        of_rows.assert_loss(float(statistics.loss[i]), truth[0], f"row {i}")
        w = float(row_weight[i]) * float(cotangent[i])
        got = exactly(d_weight[:, i])
        assert not got.reshape(-1, spread)[:, 1:].any(), "a masked class has a gradient"
        # float16 rounds twice: the derivative by a logit, and ∂weight, whose range is shorter.
        got = got[::spread]
        if dtype == "float16":
            exact = np.array([float(w * s) for s in truth[1]])
            lost = 1.1e-6 * abs(w) + 2.0**-25 + 2.0**-10 * abs(exact)
            assert (abs(got - exact) <= lost).all(), f"row {i}"
        else:
            of_rows.assert_gradient(got, truth, w, dtype, relative, f"row {i}")
        slopes.append([float(w * s) for s in truth[1]])
    slopes = np.array(slopes)
    terms = np.abs(slopes) @ np.abs(wide).T + 1e-9
    assert (abs(exactly(d_hidden) - slopes @ wide.T) <= (2e-6 + 3.0 * spacing) * terms).all()
    if d_bias is not None:
        got = exactly(d_bias).reshape(-1, spread)
        assert not got[:, 1:].any()
        most = np.abs(slopes).sum(axis=0) + np.abs(slopes).sum() * 1e-6 + 2.0**-126
        assert (abs(got[:, 0] - slopes.sum(axis=0)) <= 3e-6 * most).all()


def check_case(name, dtype="float32", every=1, spread=1):
    case = HARD[name]
    z, t = case.build(np.float16 if dtype == "float16" else np.float64)
    check_rows(z[::every], t[::every], dtype, spread, **case.options)


@here
@pytest.mark.parametrize("name", FEW)
def test_every_case_is_right(name):
    check_case(name, every=4)


@here
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for i, dtype in enumerate(["bfloat16", "float16"]) for name in FEW[i::2]],
)
def test_cases_in_half_precision_are_right(name, dtype):
    check_case(name, dtype, every=24)


@here
@pytest.mark.parametrize("name", FEW[::2])
def test_cases_are_right_where_their_classes_lie_far_apart(name):
    check_case(name, every=6, spread=4)


@here
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_thousand_classes_are_right(dtype, monkeypatch):
    monkeypatch.setattr(triton_linear, "_TILES", EARNEST)
    check_case(MANY, dtype, every=4)


@here
def test_extreme_logits_are_right():
    z = np.array([[1e30, -1e30, 0.0], [1e-40, 0.0, -1e-40], [-1e30, -1e30, -1e30]])
    check_rows(z, np.array([0, 1, 2]))
    check_rows(z[:1], np.array([1]))


# ---- any rows, beside float64 ----------------------------------------------------------------------


def random_rows(
    rows=20, classes=37, features=21, dtype=torch.float32, seed=0, exact=False, **options
):
    """Return rows with a bias of which a class is masked, and a cotangent.

    `exact` rows have few bits, so that no order of sums is seen in the bits of their logits: that
    of NumPy's products, which stand in for a GPU's, depends on where a row lies in a tile.
    """
    generator = np.random.default_rng(seed)
    bias = generator.standard_normal(classes)
    rounded = (lambda x: np.round(8.0 * x) / 8.0) if exact else lambda x: x
    if classes > 2:
        bias[2] = -np.inf
    t = generator.integers(0, classes, rows)
    made = LinearRows(
        on_device(rounded(generator.standard_normal((rows, features))), dtype),
        on_device(rounded(0.7 * generator.standard_normal((classes, features))), dtype),
        on_device(rounded(bias), torch.float32),
        on_device(np.where((t == 2) & (classes > 2), 3, t)),
        **options,
    )
    return made, on_device(generator.standard_normal(rows), torch.float32)


def logits_of(rows, hidden, weight, bias):
    z = hidden @ weight.T
    z = z if bias is None else torch.where(bias == -torch.inf, -torch.inf, z + bias)
    if rows.softcap is not None:
        z = torch.where(z == -torch.inf, z, rows.softcap * torch.tanh(z / rows.softcap))
    return z / rows.temperature


def reference(rows, cotangent):
    """Return losses, log-sum-exp, entropy and the three gradients in float64."""
    leaves = [
        None if x is None else x.double().cpu().requires_grad_()
        for x in (rows.hidden, rows.weight, rows.bias)
    ]
    x = logits_of(rows, *leaves)
    open_ = x > -torch.inf
    log_p = torch.where(open_, x - torch.logsumexp(x, -1, keepdim=True), 0.0)
    y = torch.nn.functional.one_hot(rows.targets.cpu(), x.shape[1])
    t = (1.0 - rows.smoothing) * y + rows.smoothing * open_ / open_.sum(-1, keepdim=True)
    if rows.class_weight is not None:
        t = t * rows.class_weight.double().cpu()
    lse = torch.logsumexp(x, -1)
    loss = -(t * log_p).sum(-1) + rows.z_loss * t.sum(-1) * lse**2
    c = cotangent.double().cpu()
    if rows.row_weight is not None:
        c = c * rows.row_weight.double().cpu()
    used = [x for x in leaves if x is not None]
    gradients = list(torch.autograd.grad((c * loss).sum(), used))
    entropy = -(log_p.exp() * log_p * open_).sum(-1)
    return loss, lse, entropy, *gradients, *[None] * (3 - len(gradients))


def assert_near(got, truth, bound):
    worst = np.max(np.abs(exactly(got) - truth.detach().numpy()))
    size = max(1e-30, float(truth.detach().abs().max()))
    assert worst <= bound * size, f"off by {worst / size:.3g} of the largest"


ALL_OPTIONS = {"smoothing": 0.1, "temperature": 0.7, "softcap": 5.0, "z_loss": 0.01}
OPTIONS = [{}, {"smoothing": 0.2}, {"temperature": 1.7, "z_loss": 0.1}, {"softcap": 4.0}, ALL_OPTIONS]  # fmt: skip


def check_random(dtype=torch.float32, weigh=False, n=20, **options):
    if weigh:
        options["class_weight"] = on_device(np.linspace(0.0, 2.0, 37))
        options["row_weight"] = on_device(np.linspace(-0.5, 2.0, n), torch.float32)
    rows, cotangent = random_rows(n, dtype=dtype, **options)
    statistics = kernel.forward(rows, entropy=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "WORKSPACE", FEW_TILES * dtype.itemsize // 4)
        gradients = kernel.backward(rows, statistics.saved, cotangent)
    truths = reference(rows, cotangent)
    for got, truth in zip(statistics[:3], truths, strict=False):
        assert got.dtype == torch.float32
        assert_near(got, truth, 2e-6)
    spacing = {torch.float32: 2e-6, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}[dtype]
    for got, truth, like in zip(gradients, truths[3:], rows.arrays(), strict=False):
        assert got.dtype == like.dtype
        assert got.shape == like.shape
        assert_near(got, truth, 2e-6 if like is rows.bias else spacing)


@here
@pytest.mark.parametrize(
    ("options", "weigh"), [*((each, False) for each in OPTIONS), ({}, True), (ALL_OPTIONS, True)]
)
def test_random_rows_are_right(options, weigh):
    check_random(weigh=weigh, **options)


@here
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, ALL_OPTIONS])
def test_random_rows_in_half_precision_are_right(dtype, options):
    check_random(dtype, weigh=bool(options), **options)


@here
@pytest.mark.parametrize("shape", [(1, 37, 21), (20, 1, 21), (20, 37, 1), (1, 1, 1), (17, 16, 33)])
def test_any_shape_is_right(shape):
    rows, cotangent = random_rows(*shape)
    statistics, *gradients = run(rows, cotangent)
    loss, _, _, *truths = reference(rows, cotangent)
    np.testing.assert_allclose(exactly(statistics.loss), loss.detach(), rtol=2e-6, atol=2e-6)
    for got, truth in zip(gradients, truths, strict=True):
        np.testing.assert_allclose(exactly(got), truth, rtol=2e-5, atol=2e-6)


@here
def test_the_tiles_that_run_in_earnest_are_right(monkeypatch):
    monkeypatch.setattr(triton_linear, "_TILES", EARNEST)
    for dtype, bound in ((torch.float32, 2e-6), (torch.bfloat16, 2.0**-7)):
        rows, cotangent = random_rows(130, 140, 70, dtype)
        statistics, *gradients = run(rows, cotangent)
        loss, _, _, *truths = reference(rows, cotangent)
        assert_near(statistics.loss, loss, 2e-6)
        for got, truth in zip(gradients, truths, strict=True):
            assert_near(got, truth, bound)


@here
def test_without_a_bias_there_is_no_gradient_by_it():
    rows, cotangent = random_rows()
    bare = replaced(rows, bias=None)
    statistics, *gradients = run(bare, cotangent)
    loss, _, _, *truths = reference(bare, cotangent)
    assert_near(statistics.loss, loss, 2e-6)
    assert gradients[2] is None
    for got, truth in zip(gradients[:2], truths, strict=False):
        assert_near(got, truth, 2e-6)


@here
@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True), (False,) * 3])  # fmt: skip
def test_only_what_is_wanted_is_computed(wanted):
    rows, cotangent = random_rows()
    statistics, *all_of_them = run(rows, cotangent)
    names = ("hidden", "weight", "bias")
    some = kernel.backward(rows, statistics.saved, cotangent, **dict(zip(names, wanted, strict=True)))  # fmt: skip
    for got, full, asked in zip(some, all_of_them, wanted, strict=True):
        assert torch.equal(got, full) if asked else got is None


@here
def test_a_cotangent_may_be_one_number_for_all_rows():
    rows, _ = random_rows()
    saved = kernel.forward(rows).saved
    one = kernel.backward(rows, saved, on_device(0.3, torch.float64))
    each = kernel.backward(rows, saved, on_device(np.full(20, 0.3), torch.float64))
    for a, b in zip(one, each, strict=True):
        assert torch.equal(a, b)


# ---- digits ----------------------------------------------------------------------------------------


def check_offsets():
    """A bias of 2^20 and more beside logits that are small and exact."""
    generator = np.random.default_rng(5)
    small = generator.integers(-8, 8, (37, 6)) / 4.0
    hidden = generator.integers(-1, 2, (9, 6)) * 1.0
    z = hidden @ small.T
    for offset in (2.0**20, -(2.0**21)):
        t = z.argmax(axis=1)
        rows = LinearRows(
            on_device(hidden, torch.float32),
            on_device(small, torch.float32),
            torch.full((37,), offset, device=DEVICE),
            on_device(t),
        )
        statistics = kernel.forward(rows)
        for i, row in enumerate(z):
            truth = of_rows.exact_row(row, t[i], {})
            of_rows.assert_loss(float(statistics.loss[i]), truth[0], f"row {i}")


@here
def test_offsets_cost_no_digits():
    check_offsets()


def check_confident():
    """The gradient of a confident row is the others' mass, also where logits are computed anew.

    The backward pass adds the features up in another order, so that the largest logit is not the
    same number again.
    """
    generator = np.random.default_rng(11)
    hidden = generator.standard_normal((6, 40))
    weight = 0.3 * generator.standard_normal((37, 40))
    for gap in (20.0, 50.0, 80.0):
        weight[5:11] = gap * hidden / (hidden**2).sum(axis=1, keepdims=True)
        rows = LinearRows(
            on_device(hidden, torch.float32),
            on_device(weight, torch.float32),
            torch.zeros(37, device=DEVICE),
            on_device(np.arange(5, 11)),
        )
        one = torch.ones(6, device=DEVICE)
        with pytest.MonkeyPatch.context() as patch:
            statistics = kernel.forward(rows)
            patch.setattr(kernel, "_TILES", {4: SMALL._replace(features=64)})
            _, d_weight, _ = kernel.backward(rows, statistics.saved, one)
        exact_z = logits_of(rows, *(x.double().cpu() for x in rows.arrays()[:3])).numpy()
        slopes = []
        for i, row in enumerate(exact_z):
            truth = of_rows.exact_row(row, i + 5, {})
            assert abs(float(statistics.loss[i]) / float(truth[0]) - 1.0) < 1e-4
            slopes.append([float(s) for s in truth[1]])
        # The rows' directions are nearly at right angles: each row's gradient can be told apart.
        told = np.linalg.lstsq(exactly(rows.hidden).T, exactly(d_weight).T, rcond=None)[0]
        for i in range(6):
            assert told[i, i + 5] == pytest.approx(slopes[i][i + 5], rel=1e-2)


@here
def test_confident_rows_keep_their_digits():
    check_confident()


def check_small_cotangents():
    """Where float16 ends, at 2^-24, the derivatives by logits do not."""
    for size in (1.0, 1e-4, 1e-7):
        rows, cotangent = random_rows(dtype=torch.float16)
        # Large features make gradients that float16 can hold from derivatives that it cannot.
        rows = replaced(rows, hidden=rows.hidden * 2.0**10, weight=rows.weight * 2.0**-10)
        rows = replaced(rows, row_weight=on_device(np.full(20, size), torch.float64))
        saved = kernel.forward(rows).saved
        got = kernel.backward(rows, saved, cotangent, hidden=False)[1]
        assert_near(got, reference(rows, cotangent)[4], 2.0**-10)


@here
def test_float16_keeps_the_digits_of_small_gradients():
    check_small_cotangents()


# ---- rows that are not looked at, and rows that are not defined -----------------------------------


def check_ignored_rows(dtype=torch.float32):
    rows, cotangent = random_rows(dtype=dtype, exact=True, ignore_index=-100)
    kept = [i for i in range(20) if i not in (1, 4, 17)]
    hidden, targets, weight = rows.hidden.clone(), rows.targets.clone(), torch.ones(20)
    hidden[1], hidden[4], hidden[17] = torch.nan, torch.inf, -torch.inf
    targets[1], targets[4], targets[17] = -100, 99, -100
    weight[4] = 0.0
    cotangent[1] = torch.nan
    mixed = replaced(rows, hidden=hidden, targets=targets, row_weight=weight.to(DEVICE))
    few = replaced(rows, hidden=rows.hidden[kept], targets=rows.targets[kept])
    statistics, *gradients = run(mixed, cotangent)
    wanted, *truths = run(few, cotangent[kept])
    for got, truth in zip(statistics[:2], wanted[:2], strict=True):
        assert torch.equal(got[kept], truth)
        assert not got[[1, 4, 17]].any()
    assert not gradients[0][[1, 4, 17]].any()
    spacing = 2e-6 if dtype == torch.float32 else 2.0**-7
    gradients[0] = gradients[0][kept]
    for got, truth in zip(gradients, truths, strict=True):
        assert_near(got, truth.double().cpu(), spacing)
    assert torch.isfinite(statistics.saved).all()


@here
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_ignored_rows_are_not_looked_at(dtype):
    check_ignored_rows(dtype)


@here
def test_no_row_is_looked_at():
    rows, cotangent = random_rows(ignore_index=-100)
    rows = replaced(rows, targets=torch.full_like(rows.targets, -100), hidden=rows.hidden * torch.nan)  # fmt: skip
    statistics, *gradients = run(rows, cotangent, filter_below=1e-3)
    for got in (*statistics[:2], *gradients):
        assert not got.any()


def check_weights_that_are_nan():
    rows, cotangent = random_rows(ignore_index=-100)
    targets, weight = rows.targets.clone(), rows.weight.clone()
    targets[3] = -100
    weight[30] = torch.nan
    statistics, d_hidden, *_ = run(replaced(rows, targets=targets, weight=weight), cotangent)
    nan = torch.arange(20, device=DEVICE) != 3
    assert torch.equal(statistics.loss.isnan(), nan)
    assert torch.equal(d_hidden.isnan().all(dim=1), nan)
    assert not d_hidden[3].any()


@here
def test_a_class_that_is_nan_leaves_ignored_rows_alone():
    check_weights_that_are_nan()


def check_undefined_rows(dtype=torch.float32, **options):
    rows, cotangent = random_rows(dtype=dtype, exact=True, **options)
    hidden, targets = rows.hidden.clone(), rows.targets.clone()
    hidden[0, 3], hidden[5, 20] = torch.nan, torch.inf
    targets[1], targets[2], targets[18], targets[19] = -1, 37, 2**40, 2**32 + 1
    mixed = replaced(rows, hidden=hidden, targets=targets)
    bad = torch.tensor([i in (0, 1, 2, 5, 18, 19) for i in range(20)], device=DEVICE)
    statistics, d_hidden, d_weight, d_bias = run(mixed, cotangent)
    wanted, truth, *_ = run(rows, cotangent)
    for got, good in zip(statistics[:2], wanted[:2], strict=True):
        assert torch.equal(got.isnan(), bad)
        assert torch.equal(got[~bad], good[~bad])
    assert torch.equal(d_hidden.isnan().all(dim=1), bad)
    assert_near(d_hidden[~bad], truth[~bad].double().cpu(), 2.0**-9)
    assert d_weight.isnan().all()
    assert d_bias.isnan().all()


@here
@pytest.mark.parametrize(
    ("dtype", "options"),
    [(torch.float32, {}), (torch.float32, {"smoothing": 0.1}), (torch.float16, {"softcap": 30.0})],
)
def test_undefined_rows_are_nan_and_leave_the_others_right(dtype, options):
    check_undefined_rows(dtype, **options)


def check_one_logit_that_is_not_defined():
    rows, cotangent = random_rows()
    for value in (torch.nan, torch.inf):
        bias = rows.bias.clone()
        bias[30] = value
        statistics, *gradients = run(replaced(rows, bias=bias), cotangent)
        for got in (*statistics[:2], *gradients):
            assert got.isnan().all()


@here
def test_one_logit_that_is_not_defined_is_never_silent():
    check_one_logit_that_is_not_defined()


def check_infinite_logits_under_a_softcap(dtype=torch.float32):
    rows, cotangent = random_rows(dtype=dtype, softcap=3.0, z_loss=0.01)
    bias = rows.bias.clone()
    bias[4], bias[30] = torch.inf, 1e30  # as good as each other: both are 3 after it
    targets = rows.targets.clone()
    targets[:2] = torch.tensor([4, 30])
    rows = replaced(rows, bias=bias, targets=targets)
    statistics, *gradients = run(rows, cotangent)
    truth = reference(replaced(rows, bias=bias.clamp(max=100.0)), cotangent)
    assert_near(statistics.loss, truth[0], 2e-6)
    assert_near(statistics.logsumexp, truth[1], 2e-6)
    for got, want in zip(gradients, truth[3:], strict=True):
        assert_near(got, want, 2e-6 if dtype == torch.float32 else 2.0**-9)
    units = [
        kernel._unit(rows, kernel.forward(rows).saved, cotangent)
        for rows in (rows, replaced(rows, bias=bias.clamp(max=100.0)))
    ]
    assert torch.equal(*units)  # derivatives are no smaller for it
    bias[5] = torch.nan
    assert kernel.forward(replaced(rows, bias=bias)).loss.isnan().all()


@here
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_infinite_logits_are_the_softcap_where_there_is_one(dtype):
    check_infinite_logits_under_a_softcap(dtype)


@here
def test_all_classes_masked_is_nan():
    rows, cotangent = random_rows()
    statistics, d_hidden, *_ = run(replaced(rows, bias=torch.full_like(rows.bias, -torch.inf)), cotangent)  # fmt: skip
    assert statistics.loss.isnan().all()
    assert d_hidden.isnan().all()


@here
def test_a_masked_target_is_infinitely_surprising_and_has_a_gradient():
    rows, cotangent = random_rows()
    targets = rows.targets.clone()
    targets[7] = 2
    statistics, *gradients = run(replaced(rows, targets=targets), cotangent)
    assert statistics.loss[7] == torch.inf
    assert torch.isfinite(statistics.loss).sum() == 19
    assert all(torch.isfinite(g).all() for g in gradients)
    # p − t at the target is −1.
    others = statistics.loss.new_tensor(float(gradients[2].sum()))
    assert float(others) == pytest.approx(0.0, abs=1e-5)
    assert float(gradients[2][2]) == pytest.approx(-float(cotangent[7]), rel=1e-6)


# ---- the same bits ---------------------------------------------------------------------------------


def assert_same(got, wanted):
    for a, b in zip(got, wanted, strict=True):
        assert torch.equal(a.cpu().contiguous(), b.cpu().contiguous())


@here
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_second_call_gives_the_same_bits(dtype):
    rows, cotangent = random_rows(dtype=dtype, smoothing=0.1)
    first, *gradients = run(rows, cotangent)
    again, *others = run(rows, cotangent)
    assert_same((*again[:2], *others), (*first[:2], *gradients))


def check_workspace(dtype=torch.float32):
    rows, cotangent = random_rows(dtype=dtype, classes=52, features=16)
    saved, gradients = kernel.forward(rows).saved, []
    for workspace in (0, 2 * 32 * 16 * dtype.itemsize, 2**20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernel, "WORKSPACE", workspace)
            gradients.append(kernel.backward(rows, saved, cotangent))
    assert_same(gradients[0], gradients[2])
    assert_same(gradients[1], gradients[2])


@here
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_workspace_is_not_seen_in_the_bits(dtype):
    check_workspace(dtype)


@here
def test_a_rows_bits_do_not_depend_on_the_batch(monkeypatch):
    rows, _ = random_rows(rows=40, exact=True, smoothing=0.1)
    wanted = kernel.forward(rows, entropy=True)[:3]
    for chosen in ([3], [31, 0, 5], list(range(17, 40))):
        few = replaced(rows, hidden=rows.hidden[chosen], targets=rows.targets[chosen])
        assert_same(kernel.forward(few, entropy=True)[:3], [a[chosen] for a in wanted])
    monkeypatch.setattr(triton_linear, "SPANS", 1)
    for a, b in zip(kernel.forward(rows, entropy=True), wanted, strict=False):
        np.testing.assert_allclose(exactly(a), exactly(b), rtol=3e-7)


@here
def test_any_memory_order_gives_the_same_bits():
    weight = on_device(np.linspace(0.5, 1.5, 17), torch.float32)
    rows, cotangent = random_rows(rows=17, row_weight=weight)
    first, *gradients = run(rows, cotangent)
    h, w = rows.hidden, rows.weight
    for changes in (
        {"hidden": h.T.contiguous().T, "weight": w.T.contiguous().T},
        {name: torch.stack([x, x], dim=-1)[..., 1] for name, x in rows.__dict__.items() if torch.is_tensor(x)},
        {"targets": rows.targets.to(torch.int32), "weight": torch.stack([w, w], dim=1)[:, 1]},
    ):  # fmt: skip
        got, *others = run(replaced(rows, **changes), torch.stack([cotangent] * 2, dim=1)[:, 1])
        assert_same((*got[:2], *others), (*first[:2], *gradients))


def check_surroundings():
    """What lies beside a matrix in memory is NaN."""
    rows, cotangent = random_rows()
    inside = {}
    for name in ("hidden", "weight", "bias"):
        x = getattr(rows, name)
        wide = x.new_full([n + 19 for n in x.shape], torch.nan)
        inside[name] = wide[tuple(slice(2, 2 + n) for n in x.shape)]
        inside[name].copy_(x)
    got, *gradients = run(replaced(rows, **inside), cotangent)
    wanted, *truths = run(rows, cotangent)
    assert_same((*got[:2], *gradients), (*wanted[:2], *truths))


@here
def test_what_lies_beside_a_matrix_is_not_read():
    check_surroundings()


@here
def test_expanded_tensors_are_right():
    rows, _ = random_rows(rows=1, exact=True)
    many = replaced(rows, hidden=rows.hidden.expand(19, 21), targets=rows.targets.expand(19))
    one = on_device(1.0, torch.float32)
    first, d_hidden, d_weight, _ = run(rows, one)
    got, *gradients = run(many, one)
    assert_same((got.loss,), (first.loss.expand(19),))
    np.testing.assert_allclose(exactly(gradients[0]), exactly(d_hidden.expand(19, 21)), rtol=1e-5, atol=1e-6)  # fmt: skip
    np.testing.assert_allclose(exactly(gradients[1]), 19.0 * exactly(d_weight), rtol=1e-5, atol=1e-6)  # fmt: skip


@here
def test_no_rows_are_no_work():
    rows, cotangent = random_rows()
    none = replaced(rows, hidden=rows.hidden[:0], targets=rows.targets[:0])
    statistics, d_hidden, d_weight, d_bias = run(none, cotangent[:0])
    assert statistics.loss.shape == (0,)
    assert d_hidden.shape == (0, 21)
    assert not d_weight.any()
    assert not d_bias.any()


# ---- leaving out what does not matter -----------------------------------------------------------------


def check_filter(filter_below, depth, **options):
    """Hold what leaving tiles out changes to its bound; return the largest change."""
    weight = on_device(np.linspace(-1.0, 2.0, 20), torch.float32)
    rows, cotangent = random_rows(classes=60, row_weight=weight, **options)
    # Later classes are less likely, by up to e^−depth, and the second block of rows needs more.
    bias = rows.bias - torch.linspace(0.0, depth, 60, device=DEVICE)
    targets = rows.targets % 16
    targets[16:] += 16
    rows = replaced(rows, bias=bias, targets=targets)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "WORKSPACE", 2 * FEW_TILES)
        saved = kernel.forward(rows).saved
        full, some = (
            [exactly(g) for g in kernel.backward(rows, saved, cotangent, filter_below=share)]
            for share in (None, filter_below)
        )
    change = [abs(a - b) for a, b in zip(full, some, strict=True)]
    force = np.abs(exactly(cotangent) * exactly(rows.row_weight))
    h, w = np.abs(exactly(rows.hidden)), np.abs(exactly(rows.weight))
    rounding = 1e-6 * max(np.abs(g).max() for g in full)
    of_hidden = filter_below * force[:, None] * w.max(axis=0)
    assert (change[0] <= of_hidden + rounding).all()
    assert (change[1] <= filter_below * (force @ h) + rounding).all()
    assert (change[1] <= filter_below * force.sum() * h.max() + rounding).all()
    assert not change[2].any()
    return max(change[0].max(), change[1].max())


@here
@pytest.mark.parametrize(
    ("filter_below", "depth", "options"),
    [
        (1e-4, 40.0, {}),
        (0.4, 20.0, {"smoothing": 0.1, "z_loss": 0.1}),
        (0.3, 10.0, {"temperature": 0.5, "softcap": 50.0}),
        (3.0, 0.0, {}),
    ],
)
def test_what_is_left_out_is_within_its_bound(filter_below, depth, options):
    assert check_filter(filter_below, depth, **options) > 0, "nothing was left out"


def check_filter_counts_every_tile():
    """Uniform rows: each tile has its share of a row, and none may be left out before all may."""
    targets = torch.tensor([0] * 16 + [40] * 16, device=DEVICE)
    hidden, weight = torch.ones((32, 4), device=DEVICE), torch.zeros((64, 4), device=DEVICE)
    rows, one = LinearRows(hidden, weight, None, targets), torch.ones(32, device=DEVICE)
    saved = kernel.forward(rows).saved
    full = kernel.backward(rows, saved, one)[1]
    assert torch.equal(kernel.backward(rows, saved, one, filter_below=0.99)[1], full)
    rest = kernel.backward(rows, saved, one, filter_below=1.01)[1]
    # What is left are the targets' tiles, the first and the third.
    first = torch.arange(32, device=DEVICE) < 16
    for part, here in ((slice(16), first), (slice(32, 48), ~first)):
        wanted = kernel.backward(rows, saved, here.float(), hidden=False)[1]
        assert torch.equal(rest[part], wanted[part])
    assert not rest[16:32].any()
    assert not rest[48:].any()


@here
def test_a_row_loses_no_more_than_its_share_over_all_tiles():
    check_filter_counts_every_tile()


def check_filter_keeps_nan():
    rows, cotangent = random_rows()
    rows = replaced(rows, targets=torch.full_like(rows.targets, 37))
    statistics, *gradients = run(rows, cotangent, filter_below=1e3)
    assert statistics.loss.isnan().all()
    assert all(g.isnan().all() for g in gradients)


@here
def test_a_row_that_is_not_defined_is_never_left_out():
    check_filter_keeps_nan()


@here
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_leaving_out_nothing_gives_the_same_bits(dtype):
    rows, cotangent = random_rows(dtype=dtype)
    saved = kernel.forward(rows).saved
    assert_same(
        kernel.backward(rows, saved, cotangent, filter_below=0.0),
        kernel.backward(rows, saved, cotangent),
    )


@pytest.mark.parametrize("share", [-1e-3, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    rows = _some()
    with pytest.raises(
        OptionError, match=r"filter_below must be at least 0, or None: got .* Hint:"
    ):
        triton_linear.backward(rows, None, None, filter_below=share)


# ---- memory ------------------------------------------------------------------------------------------


def check_far_strides():
    rows, cotangent = random_rows(rows=3, classes=5, features=4, dtype=torch.bfloat16)
    wanted, *gradients = run(rows, cotangent)
    far = 2**31 + 64
    # In turn the rows and the features of each matrix lie so far apart.
    for strides in ((far, 1), (8, far)):
        memory = of_rows._vast(5 * far + 128)
        hidden = memory.as_strided((3, 4), strides)
        weight = memory[40:].as_strided((5, 4), strides)
        hidden.copy_(rows.hidden)
        weight.copy_(rows.weight)
        with pytest.MonkeyPatch.context() as patch:
            # Gradients are new tensors of the same strides: give them memory that costs nothing.
            patch.setattr(torch, "empty_like", lambda x: x.clone(memory_format=torch.contiguous_format))  # fmt: skip
            got, *others = run(replaced(rows, hidden=hidden, weight=weight), cotangent)
        assert_same((got.loss, *others), (wanted.loss, *gradients))


@here
def test_strides_may_pass_two_to_the_31_entries():
    check_far_strides()


class _Launches:
    """Stands in for the kernels and keeps what they are launched with."""

    def __init__(self, patch):
        from xent.losses.kernels import triton_linear_tiles

        self.made = []
        for name in ("statistics", "combine", "slopes", "product"):
            real = getattr(triton_linear_tiles, name)
            patch.setattr(triton_linear_tiles, name, _Launcher(real, self.made))


class _Launcher:
    def __init__(self, real, made):
        self.real, self.made = real, made

    def __getitem__(self, grid):
        return lambda *args, **options: self.made.append((self.real, grid, args, options))


def launch_on_nothing(
    sizes=(70, 33, 5), dtype=torch.float16, act=lambda _: None, filter_below=1e-3, **options
):
    """Launch with tensors that have no values at all: looking at one raises."""
    n, classes, features = sizes
    with pytest.MonkeyPatch.context() as patch:
        launches = _Launches(patch)
        nothing = functools.partial(torch.empty, device="meta")
        rows = LinearRows(
            nothing((n, features), dtype=dtype), nothing((classes, features), dtype=dtype), nothing(classes),
            nothing(n, dtype=torch.int64), nothing(classes), nothing(n), **options,
        )  # fmt: skip
        saved = triton_linear.forward(rows, entropy=True).saved
        made = triton_linear.backward(rows, saved, nothing(n), filter_below=filter_below)
        act(saved)
    return launches.made, made


def test_the_host_looks_at_no_value():
    options = {"smoothing": 0.1, "softcap": 30.0, "z_loss": 1e-4, "ignore_index": -100}
    made, _ = launch_on_nothing(**options)
    assert [m[0].__name__ for m in made[:2]] == ["statistics", "combine"]
    assert [m[0].__name__ for m in made[2:]] == 3 * ["slopes", "product", "product"]
    assert all(m[3]["enable_fp_fusion"] is False for m in made)


def test_the_test_of_that_can_fail():
    for act in (lambda w: w.sum().item(), lambda w: w.cpu(), lambda w: bool(w.any())):
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            launch_on_nothing(act=act)


class _Allocations(TorchDispatchMode):
    """Counts the bytes of all memory that is asked for, given back or not."""

    def __init__(self):
        super().__init__()
        self.made = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            storage = made.untyped_storage()
            self.made[storage._cdata] = storage
        return made

    def total(self):
        return sum(storage.nbytes() for storage in self.made.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_language_models_logits_are_never_in_memory(dtype, monkeypatch):
    monkeypatch.undo()
    n, classes, features = 8192, 128256, 4096
    with _Allocations() as allocations:
        launches, made = launch_on_nothing((n, classes, features), dtype)
    given = 2 * features * (n + classes) + 4 * (2 * classes + 3 * n) + 8 * n
    returned = sum(g.numel() * g.itemsize for g in made)
    extra = (allocations.total() - given - returned) / 2**20
    assert 190 < extra < 256
    assert extra < n * classes * 2 / 2**20 / 7
    assert len(launches) == 2 + 3 * 32


# ---- what is refused ---------------------------------------------------------------------------------


def _some(dtype=torch.float32, targets=torch.int64, classes=3, device="cpu", **changes):
    rows = LinearRows(
        torch.zeros((2, 4), dtype=dtype, device=device),
        torch.zeros((classes, 4), dtype=dtype, device=device),
        None,
        torch.zeros(2, dtype=targets, device=device),
    )
    return replaced(rows, **changes)


@here
@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (LinearRows(np.zeros((2, 4)), np.zeros((3, 4)), None, np.zeros(2)), "it takes torch tensors, and hidden is of type numpy.ndarray"),
        (_some(torch.float64), "it computes products in float32, and hidden is float64"),
        (_some(torch.int64), "it takes float32, bfloat16 and float16, and hidden is torch.int64"),
        (_some(weight=torch.zeros((3, 4), dtype=torch.float16)), "it takes hidden and weight of one dtype, and they are torch.float32 and torch.float16"),
        (_some(bias=torch.zeros(3, dtype=torch.float64)), "it takes a bias in float32, bfloat16 and float16, and it is torch.float64"),
        (_some(classes=0), "it needs a class and a feature, and weight has the shape (0, 4)"),
        (_some(targets=torch.bool), "it takes targets of the dtypes torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, and they are torch.bool"),
        (_some(targets=torch.float32), "it takes targets of the dtypes torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, and they are torch.float32"),
        (_some(targets=torch.float32).__class__(torch.zeros((2, 4)), torch.zeros((3, 4)), None, torch.zeros((2, 3))), "it takes class indices, and the targets are masses"),
        (_some(device="meta"), "it runs on NVIDIA and AMD GPUs, and hidden is on the device 'meta'"),
        (_some(row_weight=torch.ones(2, device="meta")), f"it needs one device, and row_weight is on meta, not on {DEVICE}"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_with_a_reason(rows, reason):
    if DEVICE == "cuda" and torch.is_tensor(rows.hidden) and rows.hidden.device.type == "cpu":
        moved = (None if x is None or x.device.type == "meta" else x.cuda() for x in rows.arrays())
        rows = rows.with_arrays(tuple(m if m is not None else x for m, x in zip(moved, rows.arrays(), strict=True)))  # fmt: skip
    assert triton_linear.refuses(rows) == reason


@here
def test_what_can_run_is_not_refused():
    assert triton_linear.refuses(random_rows()[0]) is None


@elsewhere
def test_the_cpu_is_refused_unless_the_kernel_is_interpreted():
    said = triton_linear.refuses(_some())
    assert said == "it runs on NVIDIA and AMD GPUs, and hidden is on the device 'cpu'"


@pytest.fixture
def forgetful():
    triton_host._refuses_triton.cache_clear()
    yield
    triton_host._refuses_triton.cache_clear()


@pytest.mark.usefixtures("forgetful")
def test_without_triton_it_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert triton_host._refuses_triton() == "it needs triton, which is not installed"


@pytest.mark.usefixtures("forgetful")
def test_an_old_triton_is_refused(monkeypatch):
    import triton

    monkeypatch.setattr(triton, "__version__", "3.3.1")
    said = triton_host._refuses_triton()
    assert said == "it needs triton 3.4 or newer, and 3.3.1 is installed"


def test_the_host_half_imports_neither_torch_nor_triton():
    code = (
        "import sys, xent, xent.losses.kernels.triton_linear\n"
        "print(sorted({'torch', 'triton'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- faults put in on purpose --------------------------------------------------------------------------

ARITHMETIC, TILES, HOST = "triton_arithmetic", "triton_linear_tiles", "triton_linear"

few_rows = functools.partial(check_random, n=10)

# fmt: off
MUTANTS = [
    # (what is wrong, where, the text, what it becomes, the check that notices)
    ("the likeliest class is among the others", TILES, "axis=1) - 1, 0)", "axis=1), 0)", lambda: check_case("ordinary rows", every=16)),
    ("sums do not fade when the maximum rises", TILES, "b.others + fade_a * all_a", "b.others + all_a", few_rows),
    ("what comes after the maximum does not fade", TILES, "a.others + fade_b * all_b", "a.others + all_b", few_rows),
    ("the fading does not know the temperature", TILES, "tl.exp(-fall_a * number(numbers.rate))", "tl.exp(-fall_a)", lambda: check_random(n=10, temperature=1.7)),
    ("smoothing's scores do not fall", TILES, "(a.even_score - a.even_mass * fall_a)", "a.even_score", lambda: check_random(n=10, smoothing=0.2)),
    ("a target's logit is that of the first span", TILES, "        a.label + b.label,", "        a.label,", few_rows),
    ("features past the last are read", TILES, "mask=exists[:, None] & here[None, :]", "mask=exists[:, None] & (feature >= 0)[None, :]", check_surroundings),
    ("log(1 + others) in the place of log1p", TILES, "log_sum = log1p(sums.others)", "log_sum = tl.log(1.0 + sums.others)", lambda: check_case("confident and right", every=8)),
    ("the largest logit is computed anew", TILES, "is_target = is_label & (label.weight != 0.0)[:, None]\n        g = tl.where(is_target, _label_gradient(label, row, numbers)[:, None], g)", "g = tl.where(is_label, (_slope_in_x(e.to(tl.float64) * UNLIFT, z == row.anchor[:, None], label.weight[:, None], row.others[:, None], row.inverse[:, None], row.weight[:, None], row.pull[:, None], row.drift[:, None])).to(tl.float32), g)", check_confident),
    ("p − 1 at a confident target", TILES, "tl.where(is_top, others, (1.0 - e) + others) * inverse", "1.0 - (e * inverse).to(tl.float32).to(tl.float64)", lambda: check_case("confident and right", every=8)),
    ("smoothing reaches masked classes", TILES, "tl.where(z > float(\"-inf\"), row.share[:, None], 0.0)", "row.share[:, None] + 0.0 * row.others[:, None]", lambda: check_case("masked classes, smoothing", every=16)),
    ("the softcap has no slope", TILES, "        g = g * slope.to(tl.float32)\n", "", lambda: check_random(n=10, softcap=4.0)),
    ("the z-loss is not in the gradient", TILES, "drift = pull * weight * (2.0", "drift = 0.0 * pull * weight * (2.0", lambda: check_random(n=10, z_loss=0.1)),
    ("row weights are dropped", TILES, ".to(tl.float64) * factor", ".to(tl.float64)", lambda: check_random(n=10, weigh=True)),
    ("ignored rows are looked at", TILES, "live = live & (weight != 0.0)", "live = live & (weight == weight)", check_ignored_rows),
    ("ignored rows are read for ∂weight", TILES, "there = place.live", "there = place.exists", check_ignored_rows),
    ("ignored rows are written to ∂hidden", TILES, "sums = tl.where(place.live[:, None], sums, 0.0)", "sums = sums", check_weights_that_are_nan),
    ("a target outside the classes is silent", TILES, "(sums.top == float(\"-inf\")) | (label.inside == 0)", "(sums.top == float(\"-inf\"))", check_undefined_rows),
    ("NaN is silent", TILES, "tl.where(z < float(\"inf\"), z, float(\"inf\"))", "tl.where(z < float(\"inf\"), z, float(\"-inf\"))", check_one_logit_that_is_not_defined),
    ("the softcap comes after the test for +∞", ARITHMETIC, "z = tl.where(z > most, most, z)", "z = tl.where(z > 1e38, z, z)", check_infinite_logits_under_a_softcap),
    ("offsets of rows have 32 bits", TILES, "rows = row.to(tl.int64)[:, None] * view.row", "rows = (row[:, None] * view.row).to(tl.int32)", check_far_strides),
    ("every group has the first classes", TILES, "column = (first + at) * CLASSES", "column = at * CLASSES", check_random),
    ("sums over classes begin anew in each group", HOST, "_matrix(total) if group else None", "None", check_workspace),
    ("rows past the first block are summed twice", TILES, "along = step * DEEP + tl.arange(0, DEEP)", "along = tl.arange(0, DEEP)", check_random),
    ("float16 has no units", HOST, "_unit(rows, saved, cotangent) if dtype == torch.float16 else None", "None", check_small_cotangents),
    ("a group before is not in units", TILES, "sums = sums * (1.0 / tl.load(unit)).to(tl.float32)", "sums = sums", lambda: check_random(torch.float16)),
    ("the share of a tile is that of a row", HOST, "filter_below / shape.class_blocks", "filter_below", check_filter_counts_every_tile),
    ("NaN is left out", TILES, "(place.live & (small == 0))", "(place.live & (tl.sum(tl.abs(g), axis=1) > 1e30))", check_filter_keeps_nan),
    ("marks are read in another order", HOST, "_matrix(order, turned=along == 0)", "_matrix(order)", check_filter_counts_every_tile),
]
# fmt: on


def _load(name, source, folder):
    path = folder / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"xent.losses.kernels.{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _notices(name, change, folder, check):
    """Tell whether a check fails with a module's text changed."""
    import xent.losses.kernels as package

    with pytest.MonkeyPatch.context() as patch:
        for each in (ARITHMETIC, TILES, HOST):  # each imports those before it
            source = (PACKAGE / f"{each}.py").read_text(encoding="utf-8")
            module = _load(each, change(source) if each == name else source, folder)
            patch.setitem(sys.modules, module.__name__, module)
            patch.setattr(package, each, module, raising=False)
        module._TILES, module.WORKSPACE = {2: SMALL, 4: SMALL}, FEW_TILES
        patch.setitem(globals(), "kernel", module)
        try:
            check()
        except AssertionError:
            return True
    return False


@here
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "old", "new", "check"), [m[1:] for m in MUTANTS], ids=[m[0] for m in MUTANTS]
)
def test_the_tests_notice_that(name, old, new, check, tmp_path):
    def change(source):
        assert old in source, "renew the mutant"
        return source.replace(old, new)

    assert _notices(name, change, tmp_path, check), "the mutant survives"


@here
def test_the_unchanged_text_passes_where_mutants_fail(tmp_path):
    for check in (few_rows, check_confident):
        assert not _notices(TILES, str, tmp_path, check)


# ---- what the compiler makes of it -------------------------------------------------------------------


def compiled(target, launched, folder):
    """Compile what was launched, for a GPU that need not be there."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    real, _, args, options = launched
    options = dict(options)
    arguments = dict(zip(real.arg_names, args, strict=False))
    widths = {name: options.pop(name) for name in real.arg_names if name in options}
    constants, attributes, signature = {}, {}, {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(folder))
        patch.setitem(of_rows.POINTERS, torch.int32, "*i32")
        for i, name in enumerate(real.arg_names):
            signature[name] = "constexpr"
            if name in arguments:
                signature[name] = of_rows._specialised(arguments[name], (i,), constants, attributes)
            else:
                constants[i,] = widths[name]
        source = ASTSource(real, signature, constants, attributes)
        return triton.compile(source, target=GPUTarget(*target), options=options)


EVERYTHING = {"smoothing": 0.1, "softcap": 30.0, "z_loss": 1e-4, "ignore_index": -100}


@compiles
@pytest.mark.parametrize(
    ("target", "dtype", "options"),
    [
        (of_rows.HOPPER, torch.bfloat16, {"ignore_index": -100}),
        (of_rows.HOPPER, torch.float32, {"filter_below": None}),
        pytest.param(of_rows.CDNA3, torch.bfloat16, {"filter_below": None}, marks=pytest.mark.slow),
    ],
    ids=["bfloat16", "float32", "AMD"],
)
def test_gpus_get_code(target, dtype, options, tmp_path, monkeypatch):
    monkeypatch.setattr(triton_linear, "_TILES", EARNEST)
    launches, _ = launch_on_nothing((512, 4096, 512), dtype, **options)
    for launched in {(m[0], m[3].get("ROWS_RUN_DOWN")): m for m in launches}.values():
        made = compiled(target, launched, tmp_path)
        if target is of_rows.CDNA3:
            assert len(made.asm["hsaco"]) > 1000
            assert made.metadata.shared <= 64 * 2**10, "no GPU of AMD's has more"
            continue
        check_code(made)
        if launched[0].__name__ != "combine":
            assert made.metadata.shared <= 99 * 2**10, "not every GPU has so much shared memory"
            assert ("wgmma.mma_async" in made.asm["ptx"]) == (dtype != torch.float32)
            assert "cp.async" in made.asm["ptx"], "nothing is read ahead"


@compiles
def test_all_options_compile_with_one_class(tmp_path):
    for launched in launch_on_nothing((1, 1, 1), **EVERYTHING)[0]:
        check_code(compiled(of_rows.HOPPER, launched, tmp_path))


def check_code(made):
    ptx = made.asm["ptx"]
    assert len(made.asm["cubin"]) > 1000
    # No float32 arithmetic that flushes subnormal numbers, and none that ptxas may contract.
    assert not re.search(r"\b(mul|add|sub|fma)(\.rn)?\.ftz\.f32", ptx)
    assert not re.search(r"\b(mul|add|sub)\.f(32|64)", ptx)
    assert not re.search(r"\b(atom|red)\.", ptx), "an order that no one chose"


# ---- in this process ---------------------------------------------------------------------------------


@elsewhere
def test_the_kernel_is_right_in_tritons_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    summary = re.search(r"(\d+) passed\b", done.stdout)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert summary, done.stdout[-2000:]
    assert int(summary[1]) > 130
