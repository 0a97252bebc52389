"""xent.torch beside torch itself: random arguments, torch's own samples, derivatives, training.

Torch in float64 is the oracle for values that are moderate, where it loses no digits; results
must be that, rounded once.
"""

from __future__ import annotations

import copy
import functools
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, hessian, jvp, vmap

import xent.torch as X

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
NAMES = [
    "cross_entropy",
    "nll_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "kl_div",
]
often = settings(max_examples=120, deadline=None, derandomize=True, database=None)


def quiet(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def as_wide(argument):
    if isinstance(argument, torch.Tensor) and argument.is_floating_point():
        return argument.detach().double()
    return argument


def check_call(name, args, kwargs, generator, terms=0):
    """Compare value, dtype, shape and gradient with torch's, and with torch in float64.

    `terms` is the size of what may cancel in a result, whose logarithms torch rounds in float64.
    """
    ours, theirs = getattr(X, name), getattr(F, name)
    a = args[0].detach().requires_grad_()
    value = quiet(ours, a, *args[1:], **kwargs)
    same = quiet(theirs, args[0].detach(), *args[1:], **kwargs)
    assert (value.dtype, value.shape) == (same.dtype, same.shape)

    wide = args[0].detach().double().requires_grad_()
    exact = quiet(
        theirs, wide, *map(as_wide, args[1:]), **{k: as_wide(v) for k, v in kwargs.items()}
    )
    # Half an ulp of the result; 4 ulp of float32 where logits are no wider.
    fine, narrow = torch.finfo(value.dtype), a.dtype is not torch.float64
    unit = 0.51 * fine.eps + 4 * torch.finfo(torch.float32 if narrow else torch.float64).eps
    torch.testing.assert_close(
        value.detach().double(),
        exact.detach(),
        rtol=unit,
        atol=max(fine.smallest_normal * fine.eps, 1e-14 * terms),
        equal_nan=True,
    )
    if not value.numel():
        return
    cotangent = torch.rand(value.shape, generator=generator).to(value.dtype) + 0.5
    (gradient,) = torch.autograd.grad(value, a, cotangent)
    (expected,) = torch.autograd.grad(exact, wide, cotangent.double())
    assert gradient.dtype is a.dtype
    fine = torch.finfo(a.dtype)
    scale = expected.nan_to_num().abs().max().item() if expected.numel() else 0.0
    torch.testing.assert_close(
        gradient.double(),
        expected,
        rtol=max(2 * fine.eps, 1e-14),
        atol=max(
            1e-6 * scale if a.dtype is not torch.float64 else 1e-13 * max(scale, 1), fine.tiny
        ),
        equal_nan=True,
    )


# ---- random arguments ----------------------------------------------------------------------------


def laid_out(draw, tensor):
    """Return the same numbers, perhaps with other strides."""
    if tensor.ndim < 2:
        return tensor
    return {
        0: lambda a: a,
        1: lambda a: a.transpose(0, 1).contiguous().transpose(0, 1),
        2: lambda a: a.movedim(1, -1).contiguous().movedim(-1, 1),
        3: lambda a: torch.stack([a, a], -1)[..., 0],
    }[draw(st.integers(0, 3))](tensor)


@st.composite
def class_calls(draw, soft=None, dtypes=FLOATS):
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    classes = draw(st.sampled_from([1, 2, 3, 5, 50]))
    rows = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    shape = (*rows[:1], classes, *rows[1:])
    dtype = draw(st.sampled_from(dtypes))
    z = laid_out(draw, (3 * torch.randn(shape, generator=g)).to(dtype))
    options = {"reduction": draw(st.sampled_from(["mean", "sum", "none"]))}
    soft = draw(st.booleans()) if soft is None else soft
    if draw(st.booleans()):
        options["weight"] = (torch.rand(classes, generator=g) + 0.1).to(dtype)
    if soft:
        t = torch.rand(shape, generator=g).to(dtype)
        t = laid_out(draw, t)
    else:
        t = torch.randint(classes, rows, generator=g)
        options["ignore_index"] = draw(st.sampled_from([-100, 0, classes - 1]))
        if draw(st.booleans()):
            t = torch.where(torch.rand(rows, generator=g) < 0.3, options["ignore_index"], t)
    return z, t, options, g


@often
@given(class_calls(), st.sampled_from([0.0, 0.0, 0.1, 1.0]))
def test_cross_entropy_is_torchs_rounded_once(call, smoothing):
    z, t, options, g = call
    check_call("cross_entropy", (z, t), {**options, "label_smoothing": smoothing}, g)


@often
@given(class_calls(soft=False))
def test_nll_loss_is_torchs_rounded_once(call):
    z, t, options, g = call
    # Torch cannot differentiate strided log-probabilities with more than two dimensions.
    check_call("nll_loss", (z.contiguous(), t), options, g, terms=10)


@st.composite
def entry_calls(draw):
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    a, b = draw(st.sampled_from(FLOATS)), draw(st.sampled_from(FLOATS))
    options = {"reduction": draw(st.sampled_from(["mean", "sum", "none"]))}
    if draw(st.booleans()):
        part = shape[draw(st.integers(0, len(shape))) :]
        options["weight"] = torch.rand(part, generator=g).to(a)
    return shape, a, b, options, g


@often
@given(entry_calls())
def test_binary_cross_entropy_is_torchs_rounded_once(call):
    shape, dtype, _, options, g = call
    q = (0.02 + 0.96 * torch.rand(shape, generator=g)).to(dtype)
    t = torch.rand(shape, generator=g).round(decimals=1).to(dtype)
    check_call("binary_cross_entropy", (q, t), options, g)


@often
@given(entry_calls(), st.sampled_from(["none", "one", "label", "all"]))
def test_binary_cross_entropy_with_logits_is_torchs_rounded_once(call, positives):
    shape, a, b, options, g = call
    z = (3 * torch.randn(shape, generator=g)).to(a)
    t = torch.rand(shape, generator=g).round(decimals=1).to(b)
    if positives != "none":
        part = {"one": (), "label": shape[-1:], "all": shape}[positives]
        options["pos_weight"] = torch.rand(part, generator=g).to(a) + 0.5
    check_call("binary_cross_entropy_with_logits", (z, t), options, g)


@often
@given(entry_calls(), st.booleans(), st.sampled_from(["mean", "sum", "none", "batchmean"]))
def test_kl_div_is_torchs_rounded_once(call, log_target, reduction):
    shape, a, b, _, g = call
    x = (-3 * torch.rand(shape, generator=g)).to(a)
    t = torch.rand(shape, generator=g).to(b)
    t = t - 1 if log_target else t
    options = {"reduction": reduction, "log_target": log_target}
    check_call("kl_div", (x, t), options, g, terms=10)


@pytest.fixture(scope="module")
def operators():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    return {op.name.removeprefix("nn.functional."): op for op in op_db if "functional" in op.name}


@pytest.mark.parametrize("name", NAMES)
def test_torchs_own_samples_give_torchs_values(operators, name):
    count = 0
    for dtype in (torch.float64, torch.bfloat16):
        for sample in operators[name].sample_inputs("cpu", dtype, requires_grad=True):
            args = (sample.input, *sample.args)
            check_call(name, args, sample.kwargs, torch.Generator().manual_seed(count), terms=10)
            count += 1
    assert count >= 20


# ---- derivatives ---------------------------------------------------------------------------------

G = torch.Generator().manual_seed(9)
Z = torch.randn(3, 4, generator=G, dtype=torch.float64)
Y = torch.tensor([2, -100, 0])
T = torch.rand(3, 4, generator=G, dtype=torch.float64)
Q = 0.1 + 0.8 * torch.rand(3, 4, generator=G, dtype=torch.float64)
W = 0.5 + torch.rand(4, generator=G, dtype=torch.float64)
R = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
Z3 = torch.randn(2, 3, 2, generator=G, dtype=torch.float64)
Y3 = torch.tensor([[0, 2], [-100, 1]])

DIFFERENTIATED = {
    "hard": (X.cross_entropy, (Z, Y), {}),
    "hard none": (X.cross_entropy, (Z, Y), {"reduction": "none"}),
    "hard sum": (X.cross_entropy, (Z, Y), {"reduction": "sum"}),
    "places": (X.cross_entropy, (Z3, Y3), {}),
    "weights and smoothing": (X.cross_entropy, (Z, Y, W), {"label_smoothing": 0.2}),
    "soft": (X.cross_entropy, (Z, T, W), {"label_smoothing": 0.2}),
    "soft by targets": (X.cross_entropy, (Z, T), {"reduction": "none"}),
    "one row": (X.cross_entropy, (Z[0], Y[0]), {}),
    "extras": (
        X.cross_entropy, (Z, Y),
        {"z_loss": 0.1, "temperature": 0.7, "softcap": 3.0, "row_weight": R, "normalizer": 5},
    ),
    "nll": (X.nll_loss, (Z, Y, W), {}),
    "nll none": (X.nll_loss, (Z3, Y3), {"reduction": "none"}),
    "bce": (X.binary_cross_entropy, (Q, T, W), {}),
    "bce unclamped": (X.binary_cross_entropy, (Q, T), {"reduction": "none", "clamp": None}),
    "bce logits": (X.binary_cross_entropy_with_logits, (Z, T, W), {"pos_weight": W}),
    "bce logits none": (X.binary_cross_entropy_with_logits, (Z, T), {"reduction": "none"}),
    "kl": (X.kl_div, (Z, T), {"reduction": "batchmean"}),
    "kl none": (X.kl_div, (Z, T), {"reduction": "none"}),
    "kl of logarithms": (X.kl_div, (Z, Z.flip(0)), {"reduction": "sum", "log_target": True}),
}  # fmt: skip


@pytest.mark.parametrize("case", DIFFERENTIATED)
def test_derivatives_of_every_kind_are_those_of_the_value(case):
    function, args, kwargs = DIFFERENTIATED[case]
    call = functools.partial(function, **kwargs)
    wants = case in ("soft by targets", "kl none", "bce unclamped")
    leaves = [
        a.clone().requires_grad_(i == 0 or (wants and a.is_floating_point()))
        for i, a in enumerate(args)
    ]
    assert torch.autograd.gradcheck(call, leaves, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, leaves, check_fwd_over_rev=True)


TRANSFORMED = {
    name: (getattr(X, name), getattr(F, name), args, kwargs)
    for name, args, kwargs in (
        ("cross_entropy", (Z, Y, W), {"label_smoothing": 0.1}),
        ("nll_loss", (Z, Y, W), {}),
        ("binary_cross_entropy", (Q, T, W), {}),
        ("binary_cross_entropy_with_logits", (Z, T, W), {"pos_weight": W}),
        ("kl_div", (Z, T), {"reduction": "batchmean"}),
    )
}


@pytest.mark.parametrize("name", NAMES)
def test_transforms_of_torch_func_give_torchs_values(name):
    ours, theirs, args, kwargs = TRANSFORMED[name]
    rest, v = args[1:], torch.ones_like(args[0])

    def loss(z, function=ours):
        return function(z, *rest, **kwargs)

    def by_hand(z):
        return loss(z, theirs)

    a = args[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(by_hand(a), a)
    assert_close = torch.testing.assert_close
    assert_close(grad(loss)(args[0]), gradient)
    assert_close(jvp(loss, (args[0],), (v,))[1], gradient.sum())
    curved = hessian(loss)(args[0])
    assert_close(curved, torch.autograd.functional.hessian(by_hand, args[0]))
    assert_close(jvp(grad(loss), (args[0],), (v,))[1], curved.sum((-1, -2)))
    batch = torch.stack([args[0], args[0].flip(1).contiguous()])
    assert_close(vmap(loss)(batch), torch.stack([by_hand(z) for z in batch]))
    assert_close(vmap(grad(loss))(batch)[0], gradient)


def test_a_bad_target_under_a_transform_is_a_nan_row():
    y = torch.tensor([0, 9, 1])
    for name in ("cross_entropy", "nll_loss"):
        rows = vmap(lambda z, t, n=name: getattr(X, n)(z, t))(Z, y)
        assert rows.isnan().tolist() == [False, True, False]
        gradient = grad(lambda z, n=name: getattr(X, n)(z, y, reduction="sum"))(Z)
        assert gradient.isnan().any(1).tolist() == [False, True, False]


def test_backward_again_with_other_cotangents():
    for name in NAMES:
        ours, theirs, args, kwargs = TRANSFORMED[name]
        a, b = args[0].clone().requires_grad_(), args[0].clone().requires_grad_()
        value, expected = ours(a, *args[1:], **kwargs), theirs(b, *args[1:], **kwargs)
        for cotangent in (1.0, 3.0, 2.0**-20, 65536.0):
            c = torch.tensor(cotangent, dtype=torch.float64)
            torch.testing.assert_close(
                torch.autograd.grad(value, a, c, retain_graph=True),
                torch.autograd.grad(expected, b, c, retain_graph=True),
            )


def test_scaled_half_precision_gradients_do_not_vanish():
    z = (4 * torch.randn(64, 100, generator=G)).half().requires_grad_()
    y = torch.randint(100, (64,), generator=G)
    wide = z.detach().double().requires_grad_()
    (X.cross_entropy(z, y) * 1024).backward()
    F.cross_entropy(wide, y).backward()
    # A gradient that was rounded before it was scaled would be 0 in many places.
    torch.testing.assert_close(z.grad.double() / 1024, wide.grad, rtol=1e-3, atol=1e-7 / 1024)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    weight = torch.nn.Parameter(torch.zeros(5, 3))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    x, y = torch.randn(8, 5, generator=G), torch.randint(3, (8,), generator=G)
    scaler.scale(X.cross_entropy(x @ weight, y)).backward()
    scaler.step(optimizer)
    scaler.update()
    twin = torch.zeros(5, 3, requires_grad=True)
    F.cross_entropy(x @ twin, y).backward()
    torch.testing.assert_close(weight.detach(), -twin.grad)
    weight.grad = None
    scaler.scale(X.cross_entropy(x @ weight * math.inf, y)).backward()
    before = weight.detach().clone()
    scaler.step(optimizer)  # skipped: the gradient is not finite
    assert torch.equal(weight.detach(), before)


def test_deterministic_mode_allows_every_loss():
    torch.use_deterministic_algorithms(True)
    try:
        for name in NAMES:
            ours, theirs, args, kwargs = TRANSFORMED[name]
            a = args[0].clone().requires_grad_()
            value = ours(a, *args[1:], **kwargs)
            value.backward()
            torch.testing.assert_close(value, theirs(*args, **kwargs))
    finally:
        torch.use_deterministic_algorithms(False)


# ---- compiled and exported -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_without_a_break_it_is_the_same(name, backend):
    ours, theirs, args, kwargs = TRANSFORMED[name]
    args = tuple(a.float() if a.is_floating_point() else a for a in args)
    kwargs = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in kwargs.items()}
    torch._dynamo.reset()
    compiled = torch.compile(lambda *a: ours(*a, **kwargs), fullgraph=True, backend=backend)
    a, b = args[0].clone().requires_grad_(), args[0].clone().requires_grad_()
    value, expected = compiled(a, *args[1:]), theirs(b, *args[1:], **kwargs)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(a.grad, b.grad)
    if name in ("cross_entropy", "nll_loss"):
        torch.testing.assert_close(
            compiled(args[0], torch.full((3,), -100), W.float()),
            torch.tensor(math.nan),
            equal_nan=True,
        )


class Loss(torch.nn.Module):
    def __init__(self, function, kwargs):
        super().__init__()
        self.function, self.kwargs = function, kwargs

    def forward(self, *args):
        return self.function(*args, **self.kwargs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_exported_it_is_the_same_for_other_values(name):
    ours, theirs, args, kwargs = TRANSFORMED[name]
    plain = {k: v for k, v in kwargs.items() if not isinstance(v, torch.Tensor)}
    program = torch.export.export(Loss(ours, plain), args).module()
    others = (args[0].flip(0).contiguous(), *args[1:])
    if name in ("cross_entropy", "nll_loss"):
        others = (args[0], torch.tensor([-100, -100, 3]), *args[2:])
    torch.testing.assert_close(program(*others), theirs(*others, **plain))


# ---- training ------------------------------------------------------------------------------------


def digits():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return torch.tensor(x / 16.0, dtype=torch.float32), torch.tensor(y)


def curve(criterion, optimizer, *, backend=None, steps=200):
    x, y = digits()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
    chosen = optimizer(model.parameters())
    order = torch.Generator().manual_seed(1)

    def loss_of(part, labels):
        return criterion(model(part), labels)

    if backend is not None:
        torch._dynamo.reset()
        loss_of = torch.compile(loss_of, fullgraph=True, backend=backend)
    losses = []
    for _ in range(steps):
        batch = torch.randint(len(x), (64,), generator=order)
        chosen.zero_grad()
        loss = loss_of(x[batch], y[batch])
        loss.backward()
        chosen.step()
        losses.append(loss.detach())
    return torch.stack(losses)


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.5),
    "Adam": lambda p: torch.optim.Adam(p, lr=3e-3),
}


@functools.cache
def curve_of_torch(optimizer):
    return curve(torch.nn.CrossEntropyLoss(), OPTIMIZERS[optimizer])


@pytest.mark.parametrize("backend", [None, "aot_eager"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_training_run_follows_torchs_for_200_steps(optimizer, backend):
    theirs = curve_of_torch(optimizer)
    ours = curve(X.CrossEntropyLoss(), OPTIMIZERS[optimizer], backend=backend)
    assert theirs[-20:].mean() < 0.5 * theirs[0], "nothing was learned"
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_module_swapped_in_a_trained_model_changes_nothing():
    x, y = digits()
    model = torch.nn.Linear(64, 10)
    theirs = torch.nn.CrossEntropyLoss(torch.linspace(0.5, 1.5, 10), label_smoothing=0.1)
    ours = X.CrossEntropyLoss(torch.ones(10), label_smoothing=0.1)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    gradients = []
    for criterion in (ours, theirs):
        model.zero_grad()
        criterion(model(x), y).backward()
        gradients.append(model.weight.grad.clone())
    torch.testing.assert_close(*gradients)
