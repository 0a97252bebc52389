"""Linear cross-entropy on torch: values, derivatives, memory, every option, against float64."""

import inspect
import math
import os
import subprocess
import sys
import threading

import pytest
import torch
from torch.nn.functional import cross_entropy, linear
from torch.utils._python_dispatch import TorchDispatchMode

import xent
import xent.torch
from xent.losses import dispatch
from xent.losses.autodiff import linear as autodiff
from xent.losses.autodiff import linear_pieces
from xent.losses.kernels import LinearRows, linear_chunked

ROWS, FEATURES, CLASSES = 23, 6, 70
WIDE = torch.float64
# Everything at once; some rows at a time; some classes of some rows at a time.
SPACES = {"whole": 2**28, "rows": 10 * 4 * (CLASSES + 16), "classes": 8 * 4 * (16 + 16)}


@pytest.fixture(autouse=True)
def few_rows_are_enough(monkeypatch):
    """Cut rows rather than classes only where less than eight fit."""
    monkeypatch.setattr(linear_chunked, "FEW_ROWS", 8)
    monkeypatch.setattr(linear_chunked, "TOGETHER", 8)


def made(dtype=torch.float32, seed=0, bias=True):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(ROWS, FEATURES, generator=g).to(dtype).requires_grad_()
    head = torch.randn(CLASSES, FEATURES, generator=g).to(dtype).requires_grad_()
    shift = torch.randn(CLASSES, generator=g).to(dtype).requires_grad_() if bias else None
    target = torch.randint(0, CLASSES, (ROWS,), generator=g)
    target[::5] = -100
    return hidden, head, shift, target


def weights(n, seed):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed)) + 0.1


def expected(hidden, head, bias, target, *, temperature=1.0, softcap=None, z_loss=0.0, weight=None,
             label_smoothing=0.0, row_weight=None, class_mask=None):  # fmt: skip
    """Return the loss of each row from float64 logits, by torch."""
    z = linear(hidden.to(WIDE), head.to(WIDE), None if bias is None else bias.to(WIDE))
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    z = z / temperature
    if class_mask is not None:
        z = z.masked_fill(~class_mask, -1e30)
    weight = None if weight is None else weight.to(WIDE)
    losses = cross_entropy(
        z, target, weight, reduction="none", label_smoothing=label_smoothing, ignore_index=-100
    )
    if z_loss:
        mass = 1.0 if weight is None else weight[target.clamp(min=0)]
        losses = losses + torch.where(target == -100, 0.0, z_loss * mass * z.logsumexp(1) ** 2)
    return losses if row_weight is None else losses * row_weight


CASES = {
    "plain": {},
    "weights": {"weight": weights(CLASSES, 1), "row_weight": weights(ROWS, 2)},
    "smoothing": {"label_smoothing": 0.1},
    "z-loss": {"z_loss": 1e-2, "weight": weights(CLASSES, 3)},
    "temperature": {"temperature": 0.6},
    "softcap": {"softcap": 3.0, "temperature": 1.5, "z_loss": 1e-3},
}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_values_and_gradients_are_those_of_the_logits(space, case, reduction):
    hidden, head, bias, target = made()
    options = CASES[case]
    found = xent.torch.linear_cross_entropy(
        hidden, head, target, linear_bias=bias, reduction=reduction, out_dtype=WIDE,
        workspace_bytes=SPACES[space], **options,
    )  # fmt: skip
    rows = expected(hidden, head, bias, target, **options)
    kept = target != -100
    mass = torch.ones(ROWS, dtype=WIDE)
    if "weight" in options:
        mass = options["weight"].to(WIDE)[target.clamp(min=0)]
    if "row_weight" in options:
        mass = mass * options["row_weight"]
    truth = {"none": rows, "sum": rows.sum(), "mean": rows.sum() / mass[kept].sum()}[reduction]
    torch.testing.assert_close(found, truth, rtol=2e-6, atol=0.0)
    upstream = torch.rand(found.shape, dtype=WIDE, generator=torch.Generator().manual_seed(4)) + 0.5
    inputs = (hidden, head, bias)
    for got, want in zip(
        torch.autograd.grad(found, inputs, upstream),
        torch.autograd.grad(truth, inputs, upstream),
        strict=True,
    ):
        assert got.dtype == want.dtype
        torch.testing.assert_close(
            got, want, rtol=1e-5, atol=2e-6 * float(want.detach().abs().max())
        )


def test_the_plans_are_the_three_that_are_meant():
    hidden, head, bias, target = made()
    rows = LinearRows(hidden, head, bias, target)
    plans = {
        name: linear_chunked.plan_of(rows, space, differentiated=True)
        for name, space in SPACES.items()
    }
    assert plans["whole"][:2] == (ROWS, CLASSES)
    assert plans["rows"][:2] == (8, CLASSES)
    assert plans["classes"].classes < CLASSES // 2


@pytest.mark.parametrize("case", ["plain", "z-loss", "weights"])
@pytest.mark.parametrize("frozen", [False, True])
def test_no_logits_are_made_twice_that_can_wait_in_the_memory_of_a_gradient(
    case, frozen, monkeypatch
):
    monkeypatch.setattr(linear_chunked, "FEW_ROWS", 20)
    made_logits = []
    own = linear_chunked.Head.logits
    monkeypatch.setattr(
        linear_chunked.Head, "logits",
        lambda self, h, start, stop, out: (
            made_logits.append((start, stop)), own(self, h, start, stop, out)
        )[1],
    )  # fmt: skip
    g = torch.Generator().manual_seed(20)
    hidden = torch.randn(ROWS, 64, generator=g, requires_grad=True)
    head = torch.randn(CLASSES, 64, generator=g, requires_grad=not frozen)
    target = torch.randint(0, CLASSES, (ROWS,), generator=g)
    options = dict(CASES[case])
    loss = xent.torch.linear_cross_entropy(
        hidden, head, target, reduction="sum", workspace_bytes=ROWS * 10 * 32, **options
    )
    loss.backward()
    assert len(made_logits) > 2
    assert (len(made_logits) == len(set(made_logits))) is not frozen
    truth = expected(hidden, head, None, target, **options).sum()
    torch.testing.assert_close(loss.to(WIDE), truth, rtol=1e-6, atol=0.0)
    (want,) = torch.autograd.grad(truth, hidden, retain_graph=True)
    torch.testing.assert_close(hidden.grad, want, rtol=1e-5, atol=1e-5)
    if not frozen:
        (want,) = torch.autograd.grad(truth, head)
        torch.testing.assert_close(head.grad, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("space", SPACES)
def test_losses_keep_their_digits_for_confident_rows_and_offsets(space):
    gaps = torch.tensor([0.5, 8.0, 20.0, 50.0, 80.0, -70.0])
    head = torch.zeros(CLASSES, 1)
    head[3] = 1.0
    target = torch.full((6,), 3)
    for offset in (0.0, 2.0**20):
        found = xent.torch.linear_cross_entropy(
            gaps[:, None], head, target, linear_bias=torch.full((CLASSES,), offset),
            reduction="none", workspace_bytes=SPACES[space],
        )  # fmt: skip
        moved = ((gaps + offset) - offset).to(WIDE)  # what float32 logits hold
        truth = torch.log1p((CLASSES - 1) * torch.exp(-moved))
        ulp = torch.finfo(torch.float32).eps * truth / 2
        assert ((found.to(WIDE) - truth).abs() <= 4 * ulp).all(), (offset, found, truth)


@pytest.mark.parametrize("space", SPACES)
def test_the_gradient_of_a_confident_target_is_minus_the_others_mass(space):
    hidden = torch.tensor([[40.0]], requires_grad=True)
    head = torch.zeros(CLASSES, 1)
    head[3] = 1.0
    head.requires_grad_()
    loss = xent.torch.linear_cross_entropy(
        hidden, head, torch.tensor([3]), workspace_bytes=SPACES[space]
    )
    loss.backward()
    others = (CLASSES - 1) * math.exp(-40.0)
    assert float(hidden.grad.detach()) == pytest.approx(-others, rel=1e-5)


@pytest.mark.parametrize("space", SPACES)
def test_soft_targets_and_masked_classes(space):
    hidden, head, bias, target = made()
    share = torch.softmax(torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(5)), 1)
    found = xent.torch.linear_cross_entropy(
        hidden, head, share, linear_bias=bias, workspace_bytes=SPACES[space], out_dtype=WIDE
    )
    z = linear(hidden.to(WIDE), head.to(WIDE), bias.to(WIDE))
    torch.testing.assert_close(found, cross_entropy(z, share.to(WIDE)), rtol=1e-6, atol=0.0)

    mask = torch.arange(CLASSES) % 3 != 0
    target = torch.where(target >= 0, target // 3 * 3 + 1, target).clamp(max=CLASSES - 2)
    found = xent.torch.linear_cross_entropy(
        hidden, head, target, linear_bias=bias, class_mask=mask, workspace_bytes=SPACES[space],
        reduction="none",
    )  # fmt: skip
    allowed = mask[target.clamp(min=0)]
    truth = expected(hidden, head, bias, target, class_mask=mask)
    torch.testing.assert_close(found[allowed].to(WIDE), truth[allowed], rtol=1e-6, atol=0.0)
    lost = ~allowed & (target >= 0)
    assert torch.isinf(found[lost]).all()
    found[allowed].sum().backward()
    assert torch.isfinite(head.grad).all()
    assert not head.grad[~mask].any()


@pytest.mark.parametrize("space", SPACES)
def test_a_row_of_which_only_the_target_is_allowed_costs_nothing(space):
    hidden, head, _, _ = made()
    mask = torch.zeros(CLASSES, dtype=torch.bool)
    mask[40] = True
    loss = xent.torch.linear_cross_entropy(
        hidden, head, torch.full((ROWS,), 40), class_mask=mask, workspace_bytes=SPACES[space]
    )
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not hidden.grad.any()
    assert not head.grad.any()


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_rows_that_are_ignored_are_not_looked_at(space, reduction):
    hidden, head, bias, target = made()
    weight = weights(ROWS, 6)
    weight[1] = 0.0
    with torch.no_grad():
        hidden[target == -100] = math.nan
        hidden[1] = math.inf
    loss = xent.torch.linear_cross_entropy(
        hidden, head, target, linear_bias=bias, row_weight=weight, reduction=reduction,
        workspace_bytes=SPACES[space],
    ).sum()  # fmt: skip
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(head.grad).all()
    idle = (target == -100) | (weight == 0.0)
    assert not hidden.grad[idle].any()
    assert hidden.grad[~idle].any(1).all()


def test_no_product_is_computed_for_ignored_rows(monkeypatch):
    seen = []
    own = linear_chunked.Head.logits
    monkeypatch.setattr(
        linear_chunked.Head, "logits",
        lambda self, hidden, *rest: (seen.append(hidden.shape[0]), own(self, hidden, *rest))[1],
    )  # fmt: skip
    hidden, head, bias, target = made()
    xent.torch.linear_cross_entropy(hidden, head, target, linear_bias=bias).backward()
    assert seen == [int((target != -100).sum())]


def test_nothing_kept_is_torchs_nan_or_zero_with_zero_gradients():
    hidden, head, _, target = made()
    target[:] = -100
    assert xent.torch.linear_cross_entropy(hidden, head, target).isnan()
    loss = xent.torch.linear_cross_entropy(hidden, head, target, empty="zero")
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not head.grad.any()
    assert not hidden.grad.any()
    empty = xent.torch.linear_cross_entropy(hidden[:0], head, target[:0], reduction="sum")
    empty.backward()
    assert float(empty.detach()) == 0.0


# ---- shapes --------------------------------------------------------------------------------------


def test_leading_dimensions_are_rows_and_shift_asks_for_the_next_token():
    g = torch.Generator().manual_seed(7)
    hidden = torch.randn(2, 5, FEATURES, generator=g)
    head = torch.randn(CLASSES, FEATURES, generator=g)
    tokens = torch.randint(0, CLASSES, (2, 5), generator=g)
    flat = xent.torch.linear_cross_entropy(hidden.flatten(0, 1), head, tokens.flatten())
    torch.testing.assert_close(xent.torch.linear_cross_entropy(hidden, head, tokens), flat)
    z = linear(hidden, head)
    for by in (1, 2):
        found = xent.torch.linear_cross_entropy(hidden, head, tokens, shift=by, reduction="none")
        truth = cross_entropy(z[:, :-by].flatten(0, 1), tokens[:, by:].flatten(), reduction="none")
        torch.testing.assert_close(found, truth.reshape(2, 5 - by))
    one = xent.torch.linear_cross_entropy(hidden[0, 0], head, tokens[0, 0], reduction="none")
    assert one.shape == ()
    weight = torch.rand(2, 5, generator=g)
    found = xent.torch.linear_cross_entropy(hidden, head, tokens, shift=1, row_weight=weight)
    rows = cross_entropy(z[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    own = weight[:, 1:].flatten()
    torch.testing.assert_close(found, (rows * own).sum() / own.sum())


def test_heads_with_further_dimensions_are_torchs():
    g = torch.Generator().manual_seed(8)
    hidden = torch.randn(5, FEATURES, generator=g, requires_grad=True)
    head = torch.randn(4, 3, 2, FEATURES, generator=g, requires_grad=True)
    bias = torch.randn(4, 3, 2, generator=g)
    target = torch.randint(0, 4, (5, 3, 2), generator=g)
    weight = weights(4, 9)
    for reduction in ("none", "mean", "sum"):
        ours = xent.torch.linear_cross_entropy(
            hidden, head, target, linear_bias=bias, weight=weight, reduction=reduction
        )
        theirs = torch.nn.functional.linear_cross_entropy(
            hidden, head, target, linear_bias=bias, weight=weight, reduction=reduction
        )
        torch.testing.assert_close(ours, theirs)
        up = torch.rand(ours.shape, generator=g)
        a, b = (torch.autograd.grad(o, (hidden, head), up) for o in (ours, theirs))
        torch.testing.assert_close(a, b)


def test_the_signature_begins_with_torchs():
    ours = list(inspect.signature(xent.torch.linear_cross_entropy).parameters.values())
    theirs = inspect.signature(torch.nn.functional.linear_cross_entropy).parameters.values()
    for mine, own in zip(ours, theirs, strict=False):
        assert (mine.name, mine.kind, mine.default) == (own.name, own.kind, own.default)
    module = inspect.signature(xent.torch.LinearCrossEntropyLoss.__init__).parameters
    for name, own in inspect.signature(torch.nn.LinearCrossEntropyLoss.__init__).parameters.items():
        assert (module[name].kind, module[name].default) == (own.kind, own.default)


def test_the_module_owns_its_head_and_is_torchs():
    torch.manual_seed(0)
    theirs = torch.nn.LinearCrossEntropyLoss(FEATURES, CLASSES, bias=True)
    ours = xent.torch.LinearCrossEntropyLoss(FEATURES, CLASSES, bias=True)
    assert isinstance(ours, torch.nn.LinearCrossEntropyLoss)
    ours.load_state_dict(theirs.state_dict())
    hidden, _, _, target = made()
    torch.testing.assert_close(ours(hidden, target), theirs(hidden, target))
    options = torch.nn.LinearCrossEntropyOptions()
    same = xent.torch.LinearCrossEntropyLoss(FEATURES, CLASSES, options=options, z_loss=0.5)
    assert "z_loss=0.5" in repr(same)
    same(hidden, target).backward()
    assert same.linear.weight.grad is not None


# ---- dtypes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("space", SPACES)
def test_half_types_are_added_up_in_float32_and_rounded_once(dtype, space):
    hidden, head, bias, target = made(dtype)
    loss = xent.torch.linear_cross_entropy(
        hidden, head, target, linear_bias=bias, workspace_bytes=SPACES[space] * 4
    )
    assert loss.dtype == dtype
    exact = expected(hidden, head, bias, target).sum() / (target != -100).sum()
    assert float(loss.detach()) == float(exact.detach().to(dtype))
    loss.backward()
    truth = torch.autograd.grad(exact, (hidden, head, bias))
    eps = torch.finfo(dtype).eps
    for a, b in zip((hidden.grad, head.grad, bias.grad), truth, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.to(WIDE), b.to(WIDE), rtol=eps, atol=1e-6)


def test_mixed_dtypes_lose_no_digits():
    hidden, head, _, target = made()
    half = hidden.detach().to(torch.bfloat16)
    found = xent.torch.linear_cross_entropy(half, head, target)
    assert found.dtype == torch.float32
    truth = xent.torch.linear_cross_entropy(half.to(torch.float32), head, target)
    torch.testing.assert_close(found, truth)
    wide = xent.torch.linear_cross_entropy(hidden.to(WIDE), head, target)
    assert wide.dtype == WIDE


def test_autocast_multiplies_half_types_and_returns_float32():
    hidden, head, bias, target = made()
    with torch.autocast("cpu", torch.bfloat16):
        loss = xent.torch.linear_cross_entropy(hidden, head, target, linear_bias=bias)
    assert loss.dtype == torch.float32
    loss.backward()
    assert head.grad.dtype == torch.float32
    rounded = [a.detach().to(torch.bfloat16) for a in (hidden, head, bias)]
    truth = expected(*rounded, target).sum() / (target != -100).sum()
    assert float(loss.detach()) == pytest.approx(float(truth.detach()), rel=1e-6)


# ---- derivatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["whole", "classes"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("case", ["plain", "softcap", "weights"])
def test_derivatives_of_both_orders(space, reduction, case):
    g = torch.Generator().manual_seed(10)
    hidden, head, bias = (
        torch.randn(*shape, dtype=WIDE, generator=g, requires_grad=True)
        for shape in ((3, 2), (20, 2), (20,))
    )
    target = torch.tensor([4, -100, 17])
    options = dict(CASES[case])
    if "weight" in options:
        options["weight"] = weights(20, 1)
        options["row_weight"] = weights(3, 2)
    space_bytes = {"whole": 2**28, "classes": 3 * 8 * (16 + 16)}[space]

    def loss(hidden, head, bias):
        return xent.torch.linear_cross_entropy(
            hidden, head, target, linear_bias=bias, reduction=reduction,
            workspace_bytes=space_bytes, **options,
        )  # fmt: skip

    inputs = (hidden, head, bias)
    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)
    assert torch.autograd.gradcheck(loss, inputs, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, inputs, fast_mode=True)


def pieces():
    g = torch.Generator().manual_seed(11)
    hidden, head, v, w = (
        torch.randn(*shape, dtype=WIDE, generator=g) for shape in ((5, 3), (9, 3), (5, 3), (9, 3))
    )
    target = torch.tensor([0, 8, -100, 3, 3])
    return hidden, head, target, v, w


TRANSFORMS = {
    "backward": lambda f, h, w, v: torch.autograd.grad(f(h, w), (h, w)),
    "double": lambda f, h, w, v: torch.autograd.grad(
        (torch.autograd.grad(f(h, w), h, create_graph=True)[0] * v).sum(), (h, w)
    ),
    "jvp": lambda f, h, w, v: torch.func.jvp(lambda x: f(x, w), (h,), (v,)),
    "grad": lambda f, h, w, v: torch.func.grad(f, argnums=(0, 1))(h, w),
    "vmap": lambda f, h, w, v: torch.func.vmap(f, in_dims=(0, None))(torch.stack((h, v)), w),
    "hessian": lambda f, h, w, v: torch.func.hessian(f, argnums=1)(h, w),
    "vmap of grad": lambda f, h, w, v: torch.func.vmap(torch.func.grad(f), in_dims=(0, None))(
        torch.stack((h, v)), w
    ),
    "jvp of grad": lambda f, h, w, v: torch.func.jvp(
        lambda x: torch.func.grad(f)(x, w), (h,), (v,)
    ),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("compiled", [False, True])
def test_the_matrix_of_derivatives(transform, compiled):
    hidden, head, target, v, _ = pieces()
    if transform in ("backward", "double"):
        hidden.requires_grad_()
        head.requires_grad_()

    def ours(h, w):
        return xent.torch.linear_cross_entropy(h, w, target, label_smoothing=0.1)

    def theirs(h, w):
        return cross_entropy(linear(h, w), target, label_smoothing=0.1)

    own = TRANSFORMS[transform]
    want = own(theirs, hidden, head, v)
    if not compiled:
        torch.testing.assert_close(own(ours, hidden, head, v), want)
        return
    torch._dynamo.reset()
    if transform in ("backward", "double"):
        once = torch.compile(ours, fullgraph=True, backend="aot_eager")
        if transform == "double":  # torch differentiates no compiled graph twice
            with pytest.raises(
                RuntimeError,
                match=r"not have been used in the graph|not currently support double backward",
            ):
                own(once, hidden, head, v)
            return
        torch.testing.assert_close(own(once, hidden, head, v), want)
        return
    whole = torch.compile(lambda h, w, v: own(ours, h, w, v), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(hidden, head, v), want)


def test_third_derivatives():
    hidden, head, target, v, _ = pieces()
    hidden.requires_grad_()

    def third(f):
        (one,) = torch.autograd.grad(f(hidden, head), hidden, create_graph=True)
        (two,) = torch.autograd.grad((one * v).sum(), hidden, create_graph=True)
        return torch.autograd.grad((two * v**2).sum(), hidden)[0]

    ours = third(lambda h, w: xent.torch.linear_cross_entropy(h, w, target))
    torch.testing.assert_close(ours, third(lambda h, w: cross_entropy(linear(h, w), target)))


def test_a_graph_may_be_differentiated_again_with_other_cotangents():
    hidden, head, bias, target = made()
    loss = xent.torch.linear_cross_entropy(hidden, head, target, linear_bias=bias)
    found = [
        torch.autograd.grad(loss, head, torch.tensor(c), retain_graph=True)[0]
        for c in (1.0, 4.0, 65536.0, 1.0)
    ]
    for gradient, c in zip(found, (1.0, 4.0, 65536.0, 1.0), strict=True):
        torch.testing.assert_close(gradient, found[0] * c, rtol=1e-6, atol=0.0)
    assert torch.equal(found[0], found[3])


MANY = {
    "mean": lambda *a, **how: xent.torch.linear_cross_entropy(*a, z_loss=0.1, **how),
    "rows": lambda *a, **how: xent.torch.linear_cross_entropy(*a, reduction="none", **how),
    "statistics": lambda *a, **how: torch.stack(
        [x for x in xent.torch.linear_softmax_statistics(*a, **how) if x.requires_grad]
    ),
}


@pytest.mark.parametrize("form", MANY)
@pytest.mark.parametrize("space", SPACES)
def test_many_upstream_gradients_at_once(form, space):
    hidden, head, bias, target = made(WIDE)
    inputs, g = (hidden, head, bias), torch.Generator().manual_seed(5)
    found = MANY[form](hidden, head, target, linear_bias=bias, workspace_bytes=2 * SPACES[space])
    upstream = torch.randn(3, *found.shape, generator=g, dtype=WIDE)

    def one(v, **options):
        return torch.autograd.grad(found, inputs, v, retain_graph=True, **options)

    want = [torch.stack(each) for each in zip(*map(one, upstream), strict=True)]
    for got in (
        one(upstream, is_grads_batched=True),
        one(upstream, is_grads_batched=True, create_graph=True),
        torch.func.vmap(one)(upstream),
    ):
        torch.testing.assert_close(list(got), want)
    first = torch.autograd.grad(found, inputs, upstream[0], create_graph=True)
    vectors = [torch.randn(2, *a.shape, generator=g, dtype=WIDE) for a in first]

    def second(*v, **options):
        return torch.autograd.grad(first, inputs, v, retain_graph=True, **options)

    want = [torch.stack(each) for each in zip(*map(second, *vectors), strict=True)]
    torch.testing.assert_close(list(second(*vectors, is_grads_batched=True)), want)


def test_vectorized_jacobians_and_hessians_are_those_of_the_logits():
    hidden, head, target, *_ = pieces()
    functional = torch.autograd.functional

    def ours(w, **how):
        return xent.torch.linear_cross_entropy(hidden, w, target, **how)

    def theirs(w, **how):
        return cross_entropy(linear(hidden, w), target, **how)

    a, b = (
        functional.jacobian(lambda w, f=f: f(w, reduction="none"), head, vectorize=True)
        for f in (ours, theirs)
    )
    torch.testing.assert_close(a, b)
    a, b = (functional.hessian(f, head, vectorize=True) for f in (ours, theirs))
    torch.testing.assert_close(a, b)


def test_many_upstream_gradients_of_a_compiled_call():
    hidden, head, target, *_ = pieces()
    hidden.requires_grad_()
    torch._dynamo.reset()
    once = torch.compile(
        lambda h: xent.torch.linear_cross_entropy(h, head, target), backend="aot_eager"
    )
    (found,) = torch.autograd.grad(
        once(hidden), hidden, torch.tensor([1.0, -2.0], dtype=WIDE), is_grads_batched=True
    )
    (want,) = torch.autograd.grad(cross_entropy(linear(hidden, head), target), hidden)
    torch.testing.assert_close(found, torch.stack((want, -2.0 * want)))


@pytest.mark.parametrize("frozen", ["hidden", "head", "both"])
def test_what_asks_for_no_gradient_costs_no_product(frozen, monkeypatch):
    seen = []
    for name in ("add_to_hidden", "add_to_weight"):
        own = getattr(linear_chunked.Head, name)
        monkeypatch.setattr(
            linear_chunked.Head, name,
            lambda self, *a, own=own, name=name, **k: (seen.append(name), own(self, *a, **k))[1],
        )  # fmt: skip
    hidden, head, bias, target = made()
    if frozen != "head":
        hidden = hidden.detach()
    if frozen != "hidden":
        head, bias = head.detach(), bias.detach()
    loss = xent.torch.linear_cross_entropy(hidden, head, target, linear_bias=bias)
    if frozen != "both":
        loss.backward()
    assert seen == {"hidden": ["add_to_weight"], "head": ["add_to_hidden"], "both": []}[frozen]


def test_a_tied_embedding_gets_both_its_gradients():
    head = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(1))
    head.requires_grad_()
    tokens = torch.arange(10)
    xent.torch.linear_cross_entropy(head[tokens], head, tokens + 1).backward()
    mine = head.grad.clone()
    head.grad = None
    cross_entropy(linear(head[tokens], head), tokens + 1).backward()
    torch.testing.assert_close(mine, head.grad)


def test_targets_and_weights_that_ask_for_derivatives_get_them():
    hidden, head, *_ = pieces()
    share = torch.softmax(torch.randn(5, 9, dtype=WIDE), 1).requires_grad_()
    weight = torch.rand(9, dtype=WIDE).requires_grad_()
    ours = xent.torch.linear_cross_entropy(hidden, head, share, weight=weight, reduction="sum")
    theirs = cross_entropy(linear(hidden, head), share, weight, reduction="sum")
    a, b = (torch.autograd.grad(o, (share, weight)) for o in (ours, theirs))
    torch.testing.assert_close(a, b)


def test_checkpoints_and_accumulation():
    hidden, head, _, target = made()
    from torch.utils.checkpoint import checkpoint

    loss = checkpoint(
        lambda h: xent.torch.linear_cross_entropy(torch.tanh(h), head, target), hidden,
        use_reentrant=False,
    )  # fmt: skip
    loss.backward()
    once = head.grad.clone()
    xent.torch.linear_cross_entropy(torch.tanh(hidden), head, target).backward()
    torch.testing.assert_close(head.grad, 2 * once)


# ---- memory --------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                base = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.numel = max(self.numel, min(base, tensor.numel()))
        return out


@pytest.mark.parametrize("what", ["none", "mean", "double", "jvp", "statistics"])
def test_nothing_of_the_size_of_the_logits_is_held(what):
    rows, features, classes = 512, 4, 2000
    g = torch.Generator().manual_seed(12)
    hidden = torch.randn(rows, features, generator=g, requires_grad=True)
    head = torch.randn(classes, features, generator=g, requires_grad=True)
    target = torch.randint(0, classes, (rows,), generator=g)
    space = 2**20  # a quarter of the logits

    def loss(h, w):
        how = "none" if what == "none" else "mean"
        return xent.torch.linear_cross_entropy(h, w, target, reduction=how, workspace_bytes=space)

    seen = Largest()
    hessian = None
    with seen if what in ("jvp", "double") else _Watched(seen):
        if what == "jvp":
            torch.func.jvp(lambda h: loss(h, head), (hidden,), (hidden,))
        elif what == "double":
            rows_ = LinearRows(hidden.detach(), head.detach(), None, target)
            limits = linear_pieces.Limits(space)
            each = torch.ones(rows, dtype=WIDE)
            hessian = autodiff._second(rows_, limits, each, (hidden.detach(), head.detach(), None))
        elif what == "statistics":
            s = xent.torch.linear_softmax_statistics(hidden, head, target, workspace_bytes=space)
            (s.nll.sum() + s.entropy.sum()).backward()
        else:
            loss(hidden, head).sum().backward()
    assert 0 < seen.numel * 4 <= space + rows * features * 4
    if hessian is not None:
        assert torch.isfinite(hessian[0]).all()


class _Watched:
    """Notes the workspace that is taken; kernels read memory, which no mode can watch."""

    def __init__(self, seen):
        self.seen, self.own = seen, linear_chunked.memory

    def __enter__(self):
        def memory(shape, dtype, device):
            self.seen.numel = max(self.seen.numel, math.prod(shape))
            return self.own(shape, dtype, device)

        linear_chunked.memory = memory

    def __exit__(self, *exc):
        linear_chunked.memory = self.own


def test_a_workspace_below_one_row_is_refused_and_one_of_a_row_is_enough():
    hidden, head, _, target = made()
    with pytest.raises(xent.errors.OptionError, match="workspace_bytes must hold the logits of"):
        xent.torch.linear_cross_entropy(hidden, head, target, workspace_bytes=100)
    space = 4 * (CLASSES + 16)
    found = xent.torch.linear_cross_entropy(hidden, head, target, workspace_bytes=space)
    torch.testing.assert_close(found, xent.torch.linear_cross_entropy(hidden, head, target))


# ---- bits ----------------------------------------------------------------------------------------


def test_invariant_losses_do_not_depend_on_other_rows():
    g = torch.Generator().manual_seed(13)
    hidden = torch.randn(300, 64, generator=g)
    head = torch.randn(500, 64, generator=g)
    target = torch.randint(0, 500, (300,), generator=g)

    def losses(part):
        return xent.torch.linear_cross_entropy(
            hidden[part], head, target[part], reduction="none", invariant=True
        )

    every = losses(slice(None))
    for part in (slice(0, 1), slice(17, 200), slice(250, 300)):
        assert torch.equal(losses(part), every[part])


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"softcap": 5.0}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_invariant_statistics_do_not_depend_on_other_rows(options, dtype):
    g = torch.Generator().manual_seed(14)
    hidden = torch.randn(300, 64, generator=g).to(dtype)
    head = torch.randn(500, 64, generator=g).to(dtype)
    target = torch.randint(0, 500, (300,), generator=g)
    target[::9] = -100

    def statistics(part):
        return xent.torch.linear_softmax_statistics(
            hidden[part], head, target[part], ignore_index=-100, invariant=True, **options
        )

    every = statistics(slice(None))
    for part in (slice(1, 2), slice(17, 200), slice(250, 300)):
        for alone, beside in zip(statistics(part), every, strict=True):
            assert torch.equal(alone, beside[part])


def test_the_same_call_gives_the_same_bits_from_many_threads():
    hidden, head, bias, target = made()
    found = []

    def call():
        h, w = hidden.detach().clone().requires_grad_(), head.detach().clone().requires_grad_()
        loss = xent.torch.linear_cross_entropy(h, w, target, linear_bias=bias.detach())
        loss.backward()
        found.append((loss.detach(), h.grad, w.grad))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for one in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(one, found[0], strict=True))


# ---- the choice of a kernel ----------------------------------------------------------------------


def test_the_chunked_kernel_runs_and_is_handed_the_row_kernel(monkeypatch):
    hidden, head, bias, target = made()
    rows = LinearRows(hidden, head, bias, target)
    assert dispatch.choose(rows, None, linear_pieces.situation_of(rows)) == "linear_chunked"
    logits = rows.of_logits(torch.empty(1, CLASSES), slice(0, 1))
    assert linear_pieces.row_kernel(logits)[0] == "numba_rows"
    monkeypatch.setattr(dispatch, "NUMBA", False)
    assert linear_pieces.row_kernel(logits)[0] == "definition"
    loss = xent.torch.linear_cross_entropy(hidden, head, target, linear_bias=bias)
    loss.backward()
    exact = expected(hidden, head, bias, target).sum() / (target != -100).sum()
    torch.testing.assert_close(loss.to(WIDE), exact, rtol=1e-6, atol=0.0)
    (want,) = torch.autograd.grad(exact, head)
    torch.testing.assert_close(head.grad, want, rtol=1e-5, atol=1e-7)


def test_a_kernel_may_be_insisted_on():
    hidden, head, _, target = made()
    one = xent.torch.linear_cross_entropy(hidden, head, target, kernel="definition")
    torch.testing.assert_close(one, xent.torch.linear_cross_entropy(hidden, head, target))
    with pytest.raises(xent.errors.OptionError, match="kernel must be one of 'linear_chunked'"):
        xent.torch.linear_cross_entropy(hidden, head, target, kernel="numba_rows")
    with pytest.raises(xent.errors.OptionError, match=r"transform of torch\.func is active"):
        torch.func.grad(
            lambda h: xent.torch.linear_cross_entropy(h, head, target, kernel="linear_chunked")
        )(hidden.detach())


NO_LOGITS = """
import torch, xent.torch
g = torch.Generator().manual_seed(0)
hidden = torch.randn(9, 8, generator=g, requires_grad=True)
head = torch.randn(33, 8, generator=g, requires_grad=True)
target = torch.randint(0, 33, (9,), generator=g)
target[2] = -100
weight = torch.rand(9, generator=g)
for how in ("mean", "none"):
    found = []
    for kernel in ("triton_linear", "linear_chunked"):
        loss = xent.torch.linear_cross_entropy(
            hidden, head, target, row_weight=weight, reduction=how, kernel=kernel, z_loss=1e-3
        )
        found.append((loss, *torch.autograd.grad(loss.pow(2).sum(), (hidden, head))))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
loss = xent.torch.linear_cross_entropy(hidden, head, target, kernel="triton_linear")
(one,) = torch.autograd.grad(loss, hidden, create_graph=True)
assert torch.autograd.grad(one.sum(), hidden)[0].isfinite().all()
near = xent.torch.linear_cross_entropy(
    hidden, head, target, kernel="triton_linear", filter_below=1e-9
)
torch.testing.assert_close(torch.autograd.grad(near, hidden)[0], one.detach())
(many,) = torch.autograd.grad(loss, hidden, torch.tensor([1.0, 3.0]), is_grads_batched=True)
torch.testing.assert_close(many, torch.stack((one, 3.0 * one)).detach())
"""


def test_the_kernel_without_logits_is_wired_to_all_derivatives():
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-W", "ignore", "-c", NO_LOGITS], check=True, env=environment)


def test_products_are_left_out_by_one_kernel_alone():
    hidden, head, _, target = made()
    with pytest.raises(xent.errors.OptionError, match="filter_below is for kernel="):
        xent.torch.linear_cross_entropy(hidden, head, target, filter_below=1e-3)


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [torch.int64, torch.bool, torch.complex64, "float32"])
def test_a_result_of_no_float_dtype_is_refused(wrong):
    hidden, head, _, target = made()
    for call in (xent.torch.linear_cross_entropy, xent.torch.linear_softmax_statistics):
        with pytest.raises(xent.errors.OptionError, match="out_dtype must be a float dtype"):
            call(hidden, head, target, out_dtype=wrong)
    with pytest.raises(xent.errors.OptionError, match="out_dtype must be a float"):
        xent.torch.LinearCrossEntropyLoss(FEATURES, CLASSES, out_dtype=wrong)(hidden, target)


def test_what_does_not_fit_is_refused_in_words():
    hidden, head, bias, target = made()
    call = xent.torch.linear_cross_entropy
    cases = [
        (IndexError, r"targets must lie in \[0, 70\): got 70 at row 1", {"target": target.clone()}),
        (RuntimeError, "must be the same features", {"input": hidden[:, 1:]}),
        (RuntimeError, "targets for rows of shape", {"target": target[:4]}),
        (RuntimeError, "linear_bias must have a number", {"linear_bias": bias[1:]}),
        (RuntimeError, "class_mask must be a bool", {"class_mask": bias > 0, "cut": True}),
        (RuntimeError, "linear_weight must be a matrix", {"linear_weight": head[0]}),
        (RuntimeError, "weight must have a number", {"weight": torch.ones(3)}),
        (RuntimeError, "shift must be 0", {"shift": -1}),
        (TypeError, "input must be a Tensor", {"input": [[1.0]]}),
        (NotImplementedError, "must be float32", {"input": torch.ones(ROWS, FEATURES).long()}),
        (RuntimeError, "class indices must be integers", {"target": torch.rand(ROWS)}),
    ]
    cases[0][2]["target"][1] = 70
    for error, words, changes in cases:
        arguments = {"input": hidden, "linear_weight": head, "target": target, **changes}
        if arguments.pop("cut", False):
            arguments["class_mask"] = arguments["class_mask"][1:]
        with pytest.raises(error, match=words):
            call(**arguments)


def test_scripting_is_refused():
    with pytest.raises(Exception, match="script"):
        torch.jit.script(xent.torch.linear_cross_entropy)


# ---- statistics ----------------------------------------------------------------------------------


def materialised(hidden, head, bias, target, temperature=1.0, softcap=None):
    z = linear(hidden.to(WIDE), head.to(WIDE), bias.to(WIDE))
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    log_p = torch.log_softmax(z / temperature, 1)
    y = target.clamp(min=0)[:, None]
    nll = -log_p.gather(1, y)[:, 0]
    entropy = -(log_p.exp() * log_p).sum(1)
    rank = 1 + (z > z.gather(1, y)).sum(1)
    return nll, torch.logsumexp(z / temperature, 1), entropy, log_p.argmax(1), rank


@pytest.mark.parametrize("space", ["whole", "rows"])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"softcap": 2.0}])
@pytest.mark.parametrize("dtype", [torch.float32, WIDE])
def test_statistics_and_their_derivatives(space, options, dtype):
    hidden, head, bias, target = made(dtype)
    found = xent.torch.linear_softmax_statistics(
        hidden, head, target, linear_bias=bias, workspace_bytes=SPACES[space] * 4, **options
    )
    truth = materialised(hidden, head, bias, target, **options)
    kept = target != -100
    tolerance = 2e-6 if dtype == torch.float32 else 1e-13
    for name, want in zip(("nll", "logsumexp", "entropy"), truth[:3], strict=True):
        got = getattr(found, name)
        assert got.dtype == dtype
        torch.testing.assert_close(got[kept].to(WIDE), want[kept], rtol=tolerance, atol=tolerance)
        assert not got[~kept].any()
    assert torch.equal(found.argmax[kept], truth[3][kept])
    assert torch.equal(found.rank[kept], truth[4][kept])
    assert torch.equal(found.correct, (found.argmax == target) & kept)
    assert torch.equal(found.log_probability, -found.nll)
    g = torch.Generator().manual_seed(14)
    factors = torch.rand(3, ROWS, generator=g, dtype=WIDE) - 0.5
    inputs = (hidden, head, bias)
    mine = sum((f * s).sum() for f, s in zip(factors, found[0:1] + found[2:4], strict=True))
    own = sum((f[kept] * s[kept]).sum() for f, s in zip(factors, truth[:3], strict=True))
    for a, b in zip(
        torch.autograd.grad(mine, inputs), torch.autograd.grad(own, inputs), strict=True
    ):
        scale = float(b.detach().abs().max())
        torch.testing.assert_close(a, b, rtol=5 * tolerance, atol=2 * tolerance * scale)


def test_statistics_differentiate_twice_and_under_transforms():
    hidden, head, target, v, _ = pieces()
    hidden.requires_grad_()

    def entropy(h):
        s = xent.torch.linear_softmax_statistics(h, head, target)
        return s.entropy.sum() + s.nll.sum()

    def plain(h):
        log_p = torch.log_softmax(linear(h, head), 1)
        kept = target != -100
        nll = cross_entropy(linear(h, head), target, reduction="sum")
        return -(log_p.exp() * log_p).sum(1)[kept].sum() + nll

    def twice(f):
        (one,) = torch.autograd.grad(f(hidden), hidden, create_graph=True)
        return torch.autograd.grad((one * v).sum(), hidden)[0]

    torch.testing.assert_close(twice(entropy), twice(plain))
    h = hidden.detach()
    torch.testing.assert_close(torch.func.grad(entropy)(h), torch.func.grad(plain)(h))
    torch.testing.assert_close(
        torch.func.jvp(entropy, (h,), (v,))[1], torch.func.jvp(plain, (h,), (v,))[1]
    )


def test_statistics_of_rows_beyond_float32_and_of_bad_ones():
    head = torch.tensor([[1.0], [2.0], [0.0]])
    hidden = torch.tensor([[1e6], [math.nan], [1.0]])
    found = xent.torch.linear_softmax_statistics(hidden, head, torch.tensor([1, 0, 2]))
    assert found.argmax.tolist() == [1, -1, 1]
    assert found.correct.tolist() == [True, False, False]
    assert found.rank.tolist() == [1, 0, 3]
    assert float(found.entropy[0]) == 0.0
    assert math.isnan(found.entropy[1])
    alone = xent.torch.linear_softmax_statistics(hidden[2:], head)
    assert alone.nll is None
    assert alone.rank is None
    torch.testing.assert_close(alone.entropy, found.entropy[2:])


def test_import_of_the_core_brings_no_torch():
    code = "import sys, xent; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- rows beyond float32, and bad ones -----------------------------------------------------------


@pytest.mark.parametrize("classes", [3, 70, 99, 100, 130, 600])
@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("space", [2**28, 20 * 4 * (47 + 17)])
def test_rows_that_are_computed_apart_keep_their_gradients(classes, reduction, space):
    g = torch.Generator().manual_seed(21)
    hidden = torch.randn(20, 4, generator=g)
    head = torch.randn(classes, 4, generator=g, requires_grad=True)
    hidden[5] *= 1e6
    hidden[17] *= 1e7
    hidden.requires_grad_()
    target = torch.randint(0, classes, (20,), generator=g)
    space = max(space, 4 * (classes + 16))
    loss = xent.torch.linear_cross_entropy(
        hidden, head, target, reduction=reduction, workspace_bytes=space
    )
    z = linear(hidden, head).to(WIDE)
    truth = cross_entropy(z, target, reduction=reduction)
    torch.testing.assert_close(loss.to(WIDE), truth, rtol=1e-6, atol=0.0)
    up = torch.full(loss.shape, 3.0)
    for got, want in zip(
        torch.autograd.grad(loss, (hidden, head), up),
        torch.autograd.grad(truth, (hidden, head), up.to(WIDE)),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6 * float(want.abs().max()))


@pytest.mark.parametrize("classes", [3, 70, 150])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_is_not_defined_is_nan_with_its_gradient(classes, bad):
    hidden = torch.ones(6, 4)
    hidden[3, 1] = bad
    hidden.requires_grad_()
    head = torch.ones(classes, 4, requires_grad=True)
    loss = xent.torch.linear_cross_entropy(hidden, head, torch.zeros(6, dtype=torch.int64))
    loss.backward()
    assert loss.isnan()
    assert hidden.grad[3].isnan().all()
    assert not hidden.grad[[0, 1, 2, 4, 5]].isnan().any()


@pytest.mark.parametrize("outside", [-5, CLASSES, CLASSES + 7])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_target_out_of_range_is_nan_where_operations_are_recorded(outside, space, weighted):
    hidden, head, bias, target = made()
    target[3] = outside
    torch._dynamo.reset()
    loss = torch.compile(
        lambda h: xent.torch.linear_cross_entropy(
            h, head, target, linear_bias=bias, reduction="none", workspace_bytes=SPACES[space],
            weight=weights(CLASSES, 1) if weighted else None,
        ),
        backend="aot_eager",
    )(hidden)  # fmt: skip
    assert loss[3].isnan()
    assert not loss[[0, 1, 2, 4]].isnan().any()
    (by_hidden,) = torch.autograd.grad(loss.sum(), hidden)
    assert by_hidden[3].isnan().all()


def test_a_loss_scale_saves_what_float16_would_lose():
    g = torch.Generator().manual_seed(22)
    hidden = torch.randn(512, 16, generator=g).half().requires_grad_()
    head = torch.randn(2000, 16, generator=g).half().requires_grad_()
    target = torch.randint(0, 50, (512,), generator=g)
    loss = xent.torch.linear_cross_entropy(hidden, head, target, out_dtype=torch.float32)
    found = torch.autograd.grad(loss * 65536.0, (hidden, head))
    exact = cross_entropy(linear(hidden.to(WIDE), head.to(WIDE)), target) * 65536.0
    for got, want in zip(found, torch.autograd.grad(exact, (hidden, head)), strict=True):
        most = 2e-6 * float(want.abs().max())
        torch.testing.assert_close(got, want, rtol=1.01 * torch.finfo(torch.float16).eps, atol=most)


@pytest.mark.parametrize(
    "way", ["second", "definition", "grad", "weights", "statistics", "compiled statistics"]
)
def test_no_way_looks_at_hidden_states_of_ignored_rows(way):
    hidden, head, bias, target = made(WIDE)
    bias = bias.detach()
    with torch.no_grad():
        hidden[target == -100] = math.nan
    call = xent.torch.linear_cross_entropy

    def statistics(h, w):
        s = xent.torch.linear_softmax_statistics(h, w, target)
        return s.nll.sum() + s.entropy.sum()

    if way == "second":
        (one,) = torch.autograd.grad(call(hidden, head, target), head, create_graph=True)
        found = torch.autograd.grad((one**2).sum(), head)[0]
    elif way == "definition":
        found = torch.autograd.grad(call(hidden, head, target, kernel="definition"), head)[0]
    elif way == "grad":
        found = torch.func.grad(lambda w: call(hidden.detach(), w, target))(head.detach())
    elif way == "weights":
        weight = weights(CLASSES, 1).to(WIDE).requires_grad_()
        found = torch.autograd.grad(call(hidden, head, target, weight=weight), head)[0]
    elif way == "statistics":
        (one,) = torch.autograd.grad(statistics(hidden, head), head, create_graph=True)
        found = torch.autograd.grad((one**2).sum(), head)[0]
    else:
        torch._dynamo.reset()
        compiled = torch.compile(statistics, backend="aot_eager")
        found = torch.autograd.grad(compiled(hidden, head), head)[0]
    assert torch.isfinite(found).all()


def test_few_features_and_shapes_alone():
    target = torch.tensor([0, 3, 3, 1, 2])
    loss = xent.torch.linear_cross_entropy(torch.randn(5, 0), torch.randn(70, 0), target)
    assert float(loss) == pytest.approx(math.log(70.0))
    with pytest.raises(RuntimeError, match="at least one class"):
        xent.torch.linear_cross_entropy(torch.randn(5, 2), torch.randn(0, 2), target)
    found = xent.torch.linear_cross_entropy(
        torch.empty(5, 2, device="meta"), torch.empty(7, 2, device="meta"), target.to("meta")
    )
    assert found.device.type == "meta"
    assert found.shape == ()
    alone = xent.torch.linear_softmax_statistics(
        torch.ones(2, 3), torch.zeros(4, 3), ignore_index=0
    )
    torch.testing.assert_close(alone.logsumexp, torch.full((2,), math.log(4.0)))
    with pytest.raises(RuntimeError, match="shift must be 0"):
        xent.torch.linear_cross_entropy(torch.ones(5, 2), torch.ones(4, 2), target, shift=1.7)
    with pytest.raises(TypeError, match="input must be a Tensor"):
        xent.torch.linear_softmax_statistics([[1.0]], torch.ones(4, 1))


@pytest.mark.parametrize("case", ["plain", "z-loss", "weights"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_low_memory_holds_no_wide_copy_of_the_gradient_of_the_weight(case, reduction, monkeypatch):
    taken = []
    own = linear_chunked.memory
    monkeypatch.setattr(
        linear_chunked, "memory",
        lambda shape, dtype, device: (taken.append((tuple(shape), dtype)), own(shape, dtype, device))[1],
    )  # fmt: skip
    g = torch.Generator().manual_seed(21)
    hidden = torch.randn(ROWS, 64, generator=g).to(torch.bfloat16).requires_grad_()
    head = torch.randn(CLASSES, 64, generator=g).to(torch.bfloat16).requires_grad_()
    target = torch.randint(0, CLASSES, (ROWS,), generator=g)
    options = dict(CASES[case])
    space = 20_000  # all rows with half of their classes, or some rows with all of them
    calls = {}
    for low_memory in (False, True):
        taken.clear()
        loss = xent.torch.linear_cross_entropy(
            hidden, head, target, reduction=reduction, workspace_bytes=space,
            low_memory=low_memory, out_dtype=torch.float32, **options,
        )  # fmt: skip
        found = torch.autograd.grad(3.0 * loss, (hidden, head))
        wide = [dtype for shape, dtype in taken if shape == (CLASSES, 64)]
        assert wide == [torch.bfloat16 if low_memory else torch.float32]
        calls[low_memory] = (loss.detach(), *found)
    truth = [a.detach().double().requires_grad_() for a in (hidden, head)]
    losses = expected(*truth, None, target, **options)
    mass = torch.ones(ROWS, dtype=WIDE)
    for each in (
        options.get("row_weight"),
        options["weight"][target] if "weight" in options else None,
    ):
        mass = mass if each is None else mass * each
    value = losses.sum() / (mass.sum() if reduction == "mean" else 1.0)
    want = torch.autograd.grad(3.0 * value, truth)
    torch.testing.assert_close(calls[True][0].double(), value.detach(), rtol=1e-5, atol=0.0)
    for found, usual, exact in zip(calls[True][1:], calls[False][1:], want, strict=True):
        assert found.dtype == torch.bfloat16
        off = (found.double() - exact).abs()
        assert (off <= 2.0**-8 * exact.abs() + 1e-5 * exact.abs().max()).all()
        torch.testing.assert_close(found, usual, rtol=2.0**-7, atol=1e-5 * float(exact.abs().max()))


def test_low_memory_takes_all_rows_at_once_where_they_fit():
    rows = LinearRows(*made())
    plan = linear_chunked.plan_of(rows, SPACES["classes"], differentiated=True, together=True)
    assert plan.rows < ROWS  # not even two vectors of each row fit
    space = ROWS * 4 * 64
    plan = linear_chunked.plan_of(rows, space, differentiated=True, together=True)
    assert plan.rows == ROWS
    assert plan.classes < CLASSES
