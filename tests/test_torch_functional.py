"""The functions of xent.torch: what is torch's, what is ours, and every difference between them.

`DIFFERENCES` is the table of docs/semantics.md: each row computes what torch returns and what the
drop-in returns, there and then.
"""

from __future__ import annotations

import inspect
import math
import warnings
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

import xent
import xent.torch as X
from xent.errors import LogitError, OptionError, ShapeError, XentError

NAMES = [
    "cross_entropy",
    "nll_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "kl_div",
]
INF = math.inf
G = torch.Generator().manual_seed(5)
Z = 2.0 * torch.randn(3, 4, generator=G)
Y = torch.tensor([0, 3, 1])
P = torch.randn(3, 4, generator=G).softmax(1)
W = torch.tensor([1.0, 0.5, 2.0, 3.0])
LOGP = Z.log_softmax(1)


def hard(module, *args, **kwargs):
    return module.cross_entropy(*args, **kwargs)


def samples(name):
    """Return arguments that each function takes."""
    return {
        "cross_entropy": (Z, Y),
        "nll_loss": (LOGP, Y),
        "binary_cross_entropy": (P, P.flip(0)),
        "binary_cross_entropy_with_logits": (Z, P),
        "kl_div": (LOGP, P),
    }[name]


def quiet(function, *args, **kwargs):
    """Call without torch's deprecation warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def outcome(function):
    """Return the value, or the type of error."""
    try:
        return quiet(function)
    except Exception as error:
        return type(error)


def same(ours, theirs, **tolerance):
    torch.testing.assert_close(ours, theirs, equal_nan=True, **tolerance)


def number(x):
    return torch.tensor(x, dtype=torch.float64)


# ---- the call ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_signature_begins_with_torchs(name):
    theirs = list(inspect.signature(getattr(F, name)).parameters.values())
    ours = list(inspect.signature(getattr(X, name)).parameters.values())
    assert [(p.name, p.default, p.kind) for p in ours[: len(theirs)]] == [
        (p.name, p.default, p.kind) for p in theirs
    ]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in ours[len(theirs) :])


def test_the_public_names_are_torchs_and_sorted():
    assert X.__all__ == sorted(X.__all__)
    ours = {
        "LinearSoftmaxStatistics",
        "linear_distillation",
        "linear_softmax_statistics",
        "linear_sparse_cross_entropy",
        "softmax_statistics",
    }
    for name in X.__all__:
        assert hasattr(X, name)
        assert (hasattr(F, name) or hasattr(torch.nn, name)) is (name not in ours), name
    assert X.softmax_statistics is xent.softmax_statistics


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("switches", "meant"),
    [
        ({"size_average": True}, "mean"),
        ({"size_average": False}, "sum"),
        ({"reduce": False}, "none"),
        ({"reduce": True}, "mean"),
        ({"size_average": False, "reduce": False}, "none"),
    ],
)
def test_the_deprecated_switches_overrule_the_reduction_and_warn(name, switches, meant):
    args = samples(name)
    with pytest.warns(UserWarning, match=f"reduction='{meant}'"):
        ours = getattr(X, name)(*args, reduction="none", **switches)
    same(ours, quiet(getattr(F, name), *args, reduction="none", **switches))


@pytest.mark.parametrize("name", NAMES)
def test_elementwise_mean_warns_and_is_the_mean(name):
    args = samples(name)
    with pytest.warns(UserWarning, match="reduction='mean'"):
        ours = getattr(X, name)(*args, reduction="elementwise_mean")
    same(ours, quiet(getattr(F, name), *args))


def test_kl_div_warns_of_its_mean_as_torch_does():
    with pytest.warns(UserWarning, match="batchmean"):
        X.kl_div(LOGP, P)


def test_warnings_point_to_the_callers_line():
    for call in (
        lambda: X.kl_div(LOGP, P),
        lambda: X.nll_loss(LOGP, Y, reduction="elementwise_mean"),
        lambda: X.cross_entropy(Z, Y, reduce=True),
    ):
        with pytest.warns(UserWarning, match="reduc") as caught:
            call()
        assert [w.filename for w in caught] == [__file__]


# ---- shapes --------------------------------------------------------------------------------------

FORMS = {
    "(C,), ()": ((4,), ()),
    "(C,), (1,)": ((4,), (1,)),
    "(N, C)": ((3, 4), (3,)),
    "(N, C, d)": ((3, 4, 5), (3, 5)),
    "(N, C, d, e)": ((2, 4, 3, 5), (2, 3, 5)),
    "(N, C, d, e, f)": ((2, 4, 3, 1, 2), (2, 3, 1, 2)),
    "no rows": ((0, 4), (0,)),
    "no places": ((3, 4, 0), (3, 0)),
    "no places in 4": ((3, 4, 0, 2), (3, 0, 2)),
    "one class": ((3, 1), (3,)),
    "no row and no class": ((0, 0), (0,)),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_form_of_class_indices_is_taken(form, reduction, weighted):
    shape, rows = FORMS[form]
    g = torch.Generator().manual_seed(1)
    z, classes = torch.randn(shape, generator=g), shape[1] if len(shape) > 1 else shape[0]
    y = torch.randint(max(classes, 1), rows, generator=g)
    options = {
        "reduction": reduction,
        "weight": torch.rand(classes, generator=g) if weighted else None,
    }
    for name in ("cross_entropy", "nll_loss"):
        same(getattr(X, name)(z, y, **options), getattr(F, name)(z, y, **options))
    if form not in ("(C,), (1,)", "no row and no class"):  # where torch stumbles
        smoothed = {**options, "label_smoothing": 0.2}
        same(X.cross_entropy(z, y, **smoothed), F.cross_entropy(z, y, **smoothed))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    "shape", [(4,), (3, 4), (3, 4, 5), (2, 4, 3, 2), (0, 4), (3, 4, 0), (3, 0)]
)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_form_of_probabilities_is_taken(shape, reduction, weighted):
    g = torch.Generator().manual_seed(1)
    z, t = torch.randn(shape, generator=g), torch.rand(shape, generator=g)
    weight = torch.rand(shape[1 if len(shape) > 1 else 0], generator=g) if weighted else None
    for smoothing in (0.0, 0.3):
        options = {"reduction": reduction, "weight": weight, "label_smoothing": smoothing}
        same(X.cross_entropy(z, t, **options), F.cross_entropy(z, t, **options))


def test_no_class_is_an_error_only_where_a_target_wants_one():
    ignored, wanted = torch.full((3,), -100), torch.zeros(3, dtype=torch.int64)
    for name in ("cross_entropy", "nll_loss"):
        ours, theirs = getattr(X, name), getattr(F, name)
        same(ours(torch.zeros(3, 0), ignored), theirs(torch.zeros(3, 0), ignored))
        for function in (ours, theirs):
            with pytest.raises(IndexError):
                function(torch.zeros(3, 0), wanted)


LAYOUTS = {
    "transposed": lambda a: a.transpose(0, 1).contiguous().transpose(0, 1),
    "classes last": lambda a: a.movedim(1, -1).contiguous().movedim(-1, 1),
    "sliced": lambda a: torch.cat([a, a], -1)[..., : a.shape[-1]],
    "stepped": lambda a: a.repeat_interleave(2, 0)[::2],
    "expanded": lambda a: a[:1].expand(a.shape),
    "expanded classes": lambda a: a[:, :1].expand(a.shape),
    "offset": lambda a: torch.cat([a.reshape(-1)[:1], a.reshape(-1)])[1:].view(a.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(5, 7), (2, 7, 3, 4), (3, 70)])
def test_any_strides_are_read_as_they_are(layout, shape):
    g = torch.Generator().manual_seed(2)
    z, t = torch.randn(shape, generator=g), torch.rand(shape, generator=g)
    y = torch.randint(shape[1], shape[:1] + shape[2:], generator=g)
    z, t = LAYOUTS[layout](z), LAYOUTS[layout](t)
    q = z.sigmoid()
    calls = {
        "cross_entropy": [(z, y), (z, t)],
        "nll_loss": [(z, y)],  # whose backward torch cannot do for most of these
        "binary_cross_entropy": [(q, t)],
        "binary_cross_entropy_with_logits": [(z, t)],
        "kl_div": [(z, t)],
    }
    for name, args in calls.items():
        for a, b in args:
            gradients = []
            for module in (X, F):
                leaf = a.detach() if module is X else a.detach().contiguous()
                value = getattr(module, name)(leaf.requires_grad_(), b, reduction="sum")
                gradients.append((value.detach(), *torch.autograd.grad(value, leaf)))
            same(*gradients, rtol=1e-5, atol=1e-5)


def test_inputs_are_not_changed():
    z, y, w = Z.clone(), Y.clone(), W.clone()
    X.cross_entropy(z.requires_grad_(), y, w, label_smoothing=0.1).backward()
    assert torch.equal(z.detach(), Z)
    assert torch.equal(y, Y)
    assert torch.equal(w, W)


# ---- dtypes --------------------------------------------------------------------------------------

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("b", DTYPES)
@pytest.mark.parametrize("a", DTYPES)
def test_the_returned_dtype_is_torchs(a, b, autocast):
    def logits(module, name, *args, **kwargs):
        # Of all pairs of dtypes the definition is enough: a kernel compiles for each.
        kernel = {"kernel": "definition"} if module is X else {}
        return getattr(module, name)(*args, **kwargs, **kernel)

    bce = "binary_cross_entropy_with_logits"
    calls = {
        "indices": lambda M: logits(M, "cross_entropy", Z.to(a), Y),
        "indices, weights": lambda M: logits(
            M, "cross_entropy", Z.to(a), Y, W.to(a), label_smoothing=0.1
        ),
        "masses": lambda M: logits(M, "cross_entropy", Z.to(a), P.to(b), reduction="none"),
        "masses, weights": lambda M: logits(M, "cross_entropy", Z.to(a), P, W.to(b)),
        "nll": lambda M: M.nll_loss(LOGP.to(a), Y),
        "bce": lambda M: M.binary_cross_entropy(P.to(a), P.to(b)),
        "bce weights": lambda M: M.binary_cross_entropy(P.to(a), P.to(a), W.to(b)),
        "bce logits": lambda M: logits(M, bce, Z.to(a), P.to(b)),
        "bce logits, weights": lambda M: logits(
            M, bce, Z.to(a), P.to(a), W.to(b), pos_weight=W.to(b), reduction="none"
        ),
        "kl": lambda M: M.kl_div(LOGP.to(a), P.to(b), reduction="batchmean"),
    }
    with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
        for name, call in calls.items():
            ours, theirs = outcome(lambda: call(X)), outcome(lambda: call(F))  # noqa: B023
            if isinstance(theirs, type):
                assert issubclass(ours, theirs), name
            else:
                assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
                same(ours, theirs, rtol=2e-2, atol=2e-2)


def test_out_dtype_names_another():
    for name in NAMES:
        a, b = samples(name)
        b = b.half() if b.is_floating_point() and name != "cross_entropy" else b
        exact = getattr(X, name)(a.half(), b, reduction="sum", out_dtype=torch.float64)
        assert exact.dtype is torch.float64
        assert getattr(X, name)(a.half(), b, reduction="sum") == exact.half()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_rounded_once(dtype):
    g = torch.Generator().manual_seed(8)
    z = (3 * torch.randn(300, 40, generator=g)).to(dtype)
    y = torch.randint(40, (300,), generator=g)
    t = torch.rand(300, 40, generator=g).to(dtype)
    calls = {
        "cross_entropy": (z, y),
        "nll_loss": (z, y),
        "binary_cross_entropy": (t, t.flip(0)),
        "binary_cross_entropy_with_logits": (z, t),
        "kl_div": (z, t),
    }
    for name, (a, b) in calls.items():
        wide = b.double() if b.is_floating_point() else b
        for reduction in ("none", "batchmean" if name == "kl_div" else "mean"):
            exact = getattr(F, name)(a.double(), wide, reduction=reduction)
            ours = getattr(X, name)(a, b, reduction=reduction)
            # A double that lies within its own rounding of a tie may round either way.
            assert (ours != exact.to(dtype)).double().mean() < 1e-3, name


# ---- errors --------------------------------------------------------------------------------------

MISTAKES = {
    "no dimension": lambda M: M.cross_entropy(torch.tensor(1.0), torch.tensor(0)),
    "no dimension, nll": lambda M: M.nll_loss(torch.tensor(1.0), torch.tensor(0)),
    "fewer targets": lambda M: M.cross_entropy(Z, Y[:2]),
    "fewer targets, nll": lambda M: M.nll_loss(Z, Y[:2]),
    "column": lambda M: M.cross_entropy(Z, Y[:, None]),
    "column, nll": lambda M: M.nll_loss(Z, Y[:, None]),
    "one target for all": lambda M: M.cross_entropy(Z, Y[0]),
    "several for one row": lambda M: M.cross_entropy(Z[0], Y),
    "indices in the shape of logits": lambda M: M.cross_entropy(Z, torch.zeros(3, 4, dtype=torch.int64)),
    "places missing": lambda M: M.cross_entropy(Z[..., None], Y),
    "places swapped": lambda M: M.cross_entropy(torch.zeros(3, 4, 5, 2), torch.zeros(3, 2, 5).long()),
    "float indices": lambda M: M.cross_entropy(Z, Y.float()),
    "float indices, nll": lambda M: M.nll_loss(Z, Y.float()),
    "bool indices": lambda M: M.cross_entropy(Z, Y > 1),
    "bool masses": lambda M: M.cross_entropy(Z, P > 0.5),
    "fewer probabilities": lambda M: M.cross_entropy(Z, P[:2]),
    "too large": lambda M: M.cross_entropy(Z, Y + 1),
    "negative": lambda M: M.cross_entropy(Z, Y - 1),
    "too large, smoothed": lambda M: M.cross_entropy(Z, Y + 1, label_smoothing=0.1),
    "too large, sum": lambda M: M.cross_entropy(Z, Y + 1, reduction="sum"),
    "too large, none": lambda M: M.cross_entropy(Z, Y + 1, reduction="none"),
    "too large, weights": lambda M: M.cross_entropy(Z, Y + 1, W),
    "too large, nll": lambda M: M.nll_loss(Z, Y + 1),
    "too large, 4-d": lambda M: M.cross_entropy(Z[..., None, None], Y[:, None, None] + 1),
    "too large, one row": lambda M: M.cross_entropy(Z[0], torch.tensor(7)),
    "too large, half": lambda M: M.cross_entropy(Z.half(), Y + 1),
    "too few weights": lambda M: M.cross_entropy(Z, Y, W[:3]),
    "too few weights, soft": lambda M: M.cross_entropy(Z, P, W[:3]),
    "too few weights, nll": lambda M: M.nll_loss(Z, Y, W[:3]),
    "weights in a row": lambda M: M.cross_entropy(Z, Y, W[None]),
    "integer logits": lambda M: M.cross_entropy(Z.long(), Y),
    "integer logits, nll": lambda M: M.nll_loss(Z.long(), Y),
    "complex logits": lambda M: M.cross_entropy(Z + 0j, Y),
    "bool logits": lambda M: M.cross_entropy(Z > 0, Y),
    "other device": lambda M: M.cross_entropy(Z, Y.to("meta")),
    "weights elsewhere": lambda M: M.cross_entropy(Z, Y, W.to("meta")),
    "list": lambda M: M.cross_entropy([[1.0, 2.0]], [0]),
    "numpy targets": lambda M: M.cross_entropy(Z, Y.numpy()),
    "numpy, nll": lambda M: M.nll_loss(Z, Y.numpy()),
    "reduction": lambda M: M.cross_entropy(Z, Y, reduction="average"),
    "no reduction": lambda M: M.cross_entropy(Z, Y, reduction=None),
    "batchmean": lambda M: M.cross_entropy(Z, Y, reduction="batchmean"),
    "reduction, nll": lambda M: M.nll_loss(Z, Y, reduction="average"),
    "reduction, bce": lambda M: M.binary_cross_entropy(P, P, reduction="batchmean"),
    "reduction, kl": lambda M: M.kl_div(Z, P, reduction="average"),
    "fractional ignored index": lambda M: M.cross_entropy(Z, Y, ignore_index=1.5),
    "no ignored index": lambda M: M.cross_entropy(Z, Y, ignore_index=None),
    "ignored index and probabilities": lambda M: M.cross_entropy(Z, P, ignore_index=0),
    "too much smoothing": lambda M: M.cross_entropy(Z, Y, label_smoothing=1.5),
    "too much smoothing, soft": lambda M: M.cross_entropy(Z, P, label_smoothing=1.5),
    "smoothing in words": lambda M: M.cross_entropy(Z, Y, label_smoothing="little"),
    "no smoothing": lambda M: M.cross_entropy(Z, Y, label_smoothing=None),
    "too many positions": lambda M: M.cross_entropy(Z, Y, None, None, -100, None, "mean", 0.0, 0.0),
    "unknown keyword": lambda M: M.cross_entropy(Z, Y, smoothing=0.1),
    "shapes, bce": lambda M: M.binary_cross_entropy(P, P[:2]),
    "broadcast, bce": lambda M: M.binary_cross_entropy(P, P[:1]),
    "integers, bce": lambda M: M.binary_cross_entropy(P, P.long()),
    "mixed dtypes, bce": lambda M: M.binary_cross_entropy(P, P.double()),
    "integers both, bce": lambda M: M.binary_cross_entropy(P.long(), P.long()),
    "target above 1, bce": lambda M: M.binary_cross_entropy(P, P + 1),
    "input below 0, bce": lambda M: M.binary_cross_entropy(P - 1, P),
    "NaN, bce": lambda M: M.binary_cross_entropy(P * math.nan, P),
    "NaN target, bce": lambda M: M.binary_cross_entropy(P, P * math.nan),
    "weights do not fit, bce": lambda M: M.binary_cross_entropy(P, P, W[:3]),
    "weights enlarge, bce": lambda M: M.binary_cross_entropy(P, P, torch.ones(2, 3, 4)),
    "shapes, logits": lambda M: M.binary_cross_entropy_with_logits(Z, P[:2]),
    "integers, logits": lambda M: M.binary_cross_entropy_with_logits(Z, P.long()),
    "bool, logits": lambda M: M.binary_cross_entropy_with_logits(Z, P > 0),
    "integer input, logits": lambda M: M.binary_cross_entropy_with_logits(Z.long(), P),
    "weights do not fit, logits": lambda M: M.binary_cross_entropy_with_logits(Z, P, W[:3]),
    "weights enlarge, logits": lambda M: M.binary_cross_entropy_with_logits(Z, P, torch.ones(2, 3, 4)),
    "pos_weight, logits": lambda M: M.binary_cross_entropy_with_logits(Z, P, pos_weight=W[:3]),
    "shapes, kl": lambda M: M.kl_div(Z, P[:2], reduction="sum"),
    "integers, kl": lambda M: M.kl_div(Z, P.long(), reduction="sum"),
    "complex, kl": lambda M: M.kl_div(Z + 0j, P, reduction="sum"),
    "log_target, kl": lambda M: M.kl_div(Z, P, reduction="sum", log_target=1),
    "list, kl": lambda M: M.kl_div([1.0], P, reduction="sum"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_raises_what_torch_raises(mistake):
    theirs = outcome(lambda: MISTAKES[mistake](F))
    ours = outcome(lambda: MISTAKES[mistake](X))
    assert isinstance(theirs, type), "torch takes it"
    assert isinstance(ours, type), f"torch raises {theirs}: got {ours}"
    assert issubclass(ours, theirs)


@pytest.mark.parametrize(
    "mistake", [m for m in MISTAKES if m not in ("too many positions", "unknown keyword")]
)
def test_errors_say_what_came_and_what_to_do(mistake):
    with pytest.raises((XentError, TypeError), match=r"got .*\. Hint: .*\."):
        MISTAKES[mistake](X)


def test_an_index_out_of_range_is_named_with_its_place():
    message = r"targets must lie in \[0, 4\): got 9 at row 1\. Hint: .*ignore_index"
    with pytest.raises(IndexError, match=message):
        X.cross_entropy(Z, torch.tensor([0, 9, 1]))
    with pytest.raises(IndexError, match=r"got -1 at row \(1, 0\)"):
        X.nll_loss(torch.zeros(2, 4, 3), torch.tensor([[0, 1, 2], [-1, 0, 9]]))
    with pytest.raises(IndexError, match="got 4 in the only row"):
        X.cross_entropy(Z[0], torch.tensor(4))


def test_options_of_ours_have_domains():
    for options in (
        {"temperature": 0.0},
        {"temperature": math.nan},
        {"softcap": -1.0},
        {"z_loss": -1.0},
        {"normalizer": 0.0},
        {"normalizer": "sum"},
        {"normalizer": torch.tensor(-1.0)},
        {"empty": "one"},
        {"kernel": "none such"},
    ):
        with pytest.raises(OptionError, match="Hint: "):
            X.cross_entropy(Z, Y, **options)
    with pytest.raises(ShapeError, match="one number"):
        X.cross_entropy(Z, Y, normalizer=torch.ones(2))
    with pytest.raises(ShapeError, match="row_weight must fit the rows"):
        X.cross_entropy(Z, Y, row_weight=torch.ones(4))
    with pytest.raises(OptionError, match="clamp must lie"):
        X.binary_cross_entropy(P, P, clamp=1.0)


# ---- options of ours -----------------------------------------------------------------------------


def test_row_weights_multiply_rows_and_join_the_mean():
    g = torch.Generator().manual_seed(3)
    z, y, p = torch.randn(5, 4, 2, generator=g), torch.randint(4, (5, 2), generator=g), None
    p = torch.rand(5, 4, 2, generator=g)
    r = torch.rand(5, 2, generator=g)
    r[1, 0] = 0.0
    for name, a, t, weight in (
        ("cross_entropy", z, y, W),
        ("cross_entropy", z, p, W),
        ("nll_loss", z, y, W),
    ):
        rows = getattr(F, name)(a, t, weight, reduction="none")
        mass = r if t is p else r * W[y]
        same(getattr(X, name)(a, t, weight, row_weight=r, reduction="none"), rows * r)
        same(getattr(X, name)(a, t, weight, row_weight=r, reduction="sum"), (rows * r).sum())
        same(getattr(X, name)(a, t, weight, row_weight=r), (rows * r).sum() / mass.sum())
        count = getattr(X, name)(a, t, weight, row_weight=r, normalizer="count")
        same(count, (rows * r).sum() / 9)
        same(getattr(X, name)(a, t, weight, row_weight=r, normalizer=7), (rows * r).sum() / 7)
        broadcast = getattr(X, name)(a, t, weight, row_weight=r[:, :1], reduction="none")
        same(broadcast, rows * r[:, :1])


def test_a_row_of_weight_0_is_not_looked_at():
    z = Z.clone()
    z[1] = math.nan
    r = torch.tensor([1.0, 0.0, 1.0])
    y = torch.tensor([0, 99, 1])
    for reduction in ("mean", "sum"):
        leaf = z.clone().requires_grad_()
        value = X.cross_entropy(leaf, y, row_weight=r, reduction=reduction)
        same(value, F.cross_entropy(Z[[0, 2]], Y[[0, 2]], reduction=reduction))
        value.backward()
        assert torch.equal(leaf.grad[1], torch.zeros(4))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("normalizer", ["weight", "count", 2.5])
def test_normalizers_are_those_of_the_core(normalizer, soft, smoothing):
    z = Z.double()
    z[0, 2] = -INF  # smoothing leaves it out, of the weight too
    t = P.double() if soft else Y
    if soft:
        t[0, 2] = 0.0
        t = t / t.sum(1, keepdim=True)
    r = torch.tensor([0.5, 2.0, 0.0], dtype=torch.float64)
    options = {"label_smoothing": smoothing, "normalizer": normalizer, "row_weight": r}
    ours = X.cross_entropy(z, t, W.double(), **options)
    same(ours, xent.softmax_cross_entropy(z, t, class_weight=W.double(), **options))


def test_a_normalizer_may_be_a_tensor_with_a_derivative():
    rows = F.cross_entropy(Z, Y, reduction="sum")
    for n in (torch.tensor(7), torch.tensor(7.0), torch.tensor(7.0, dtype=torch.float16)):
        same(X.cross_entropy(Z, Y, normalizer=n), rows / 7)
    n = number(7.0).requires_grad_()
    X.cross_entropy(Z, Y, normalizer=n).backward()
    same(n.grad, -(rows / 49).double())


def test_derivatives_by_weights_include_what_the_mean_divides_by():
    z, logp, p = Z.double(), LOGP.double(), P.double()
    w, r = W.double().requires_grad_(), torch.rand(3, dtype=torch.float64).requires_grad_()
    calls = (
        lambda w, r: X.cross_entropy(z, Y, w, row_weight=r),
        lambda w, r: X.cross_entropy(z, p, w, row_weight=r),
        lambda w, r: X.cross_entropy(
            z, Y, w, row_weight=r, label_smoothing=0.2, normalizer="weight"
        ),
        lambda w, r: X.nll_loss(logp, Y, w, row_weight=r),
        lambda w, _: X.binary_cross_entropy(p, p, w, normalizer="weight"),
        lambda w, _: X.binary_cross_entropy_with_logits(z, p, w, pos_weight=w, normalizer="weight"),
    )
    for call in calls:
        assert torch.autograd.gradcheck(call, (w, r), check_forward_ad=True)


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_z_loss_temperature_and_softcap_are_those_of_the_core(softcap):
    z = Z.double().requires_grad_()
    options = {"z_loss": 0.1, "temperature": 0.7, "softcap": softcap, "label_smoothing": 0.1}
    ours, core = X.cross_entropy(z, Y, **options), xent.softmax_cross_entropy(z, Y, **options)
    same(ours, core)
    same(*(torch.autograd.grad(a, z)[0] for a in (ours, core)))
    capped = z if softcap is None else softcap * torch.tanh(z / softcap)
    by_hand = F.cross_entropy(capped / 0.7, Y, label_smoothing=0.1)
    same(ours, by_hand + 0.1 * (torch.logsumexp(capped / 0.7, 1) ** 2).mean())


def test_smoothing_of_binary_targets_moves_them_towards_a_half():
    ours = X.binary_cross_entropy_with_logits(Z, P, label_smoothing=0.2)
    same(ours, F.binary_cross_entropy_with_logits(Z, 0.8 * P + 0.1))


def test_normalizers_of_entries():
    w = torch.tensor([0.0, 1.0, 2.0, 0.5])
    for name, a in (("binary_cross_entropy", P), ("binary_cross_entropy_with_logits", Z)):
        total = getattr(F, name)(a, P, w, reduction="sum")
        for normalizer, divisor in ((None, 12), ("count", 9), ("weight", 10.5), (3, 3)):
            same(getattr(X, name)(a, P, w, normalizer=normalizer), total / divisor)
    total = F.kl_div(LOGP, P, reduction="sum")
    same(X.kl_div(LOGP, P, reduction="batchmean", normalizer=4), total / 4)


@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 1), (3, 4), (1, 4)])
def test_pos_weight_broadcasts_as_torchs(shape):
    w = torch.rand(shape, generator=torch.Generator().manual_seed(4))
    for weight in (None, W):
        options = {"pos_weight": w, "weight": weight, "reduction": "none"}
        ours = X.binary_cross_entropy_with_logits(Z, P, **options)
        same(ours, F.binary_cross_entropy_with_logits(Z, P, **options))
    if shape in ((), (1,)):
        one = (Z[0, 0], P[0, 0])
        if shape == ():
            same(
                X.binary_cross_entropy_with_logits(*one, pos_weight=w),
                F.binary_cross_entropy_with_logits(*one, pos_weight=w),
            )


def test_a_kernel_insisted_on_runs_or_says_why_not():
    same(X.cross_entropy(Z, Y, kernel="definition"), F.cross_entropy(Z, Y))
    same(X.cross_entropy(Z, Y, kernel="numba_rows"), F.cross_entropy(Z, Y))
    with pytest.raises(OptionError, match="cannot take these rows"):
        X.cross_entropy(Z, Y, kernel="triton_rows")
    with pytest.raises(OptionError, match="cannot take these rows"):
        X.cross_entropy(Z.to("meta"), Y.to("meta"), kernel="numba_rows")


# ---- every difference: the table of docs/semantics.md --------------------------------------------

NOTHING = torch.full((3,), -100)
MASKED = torch.tensor([[1.0, 2.0, -INF]])
CONFIDENT = torch.tensor([[0.0, 25.0]])


def core(name, *args, **kwargs):
    return lambda: getattr(xent, name)(*args, **kwargs)


def smooth_core():
    return xent.softmax_cross_entropy(MASKED, torch.tensor([1]), label_smoothing=0.3)


def summed(function, *args, **kwargs):
    return function(*args, **kwargs).double().sum()


MANY = torch.zeros(100_000, 2), torch.zeros(100_000, dtype=torch.int64)
KL_P = torch.tensor([0.5, 0.5]) + torch.tensor([1e-5, -1e-5])
KL_VALUE = float(oracle.kl_divergence(KL_P.tolist(), KL_P.flip(0).tolist()))

# name: (a call of a module, torch's outcome, ours); an outcome is a number or an error.
DIFFERENCES = {
    "integer dtypes": (lambda M: M.cross_entropy(Z, Y.int()), RuntimeError, F.cross_entropy(Z, Y).item()),
    "uint8 with places": (
        lambda M: M.nll_loss(LOGP[..., None], Y[:, None].byte()), RuntimeError, F.nll_loss(LOGP, Y).item(),
    ),
    "weights of another dtype": (
        lambda M: M.cross_entropy(Z, Y, W.double()), RuntimeError, F.cross_entropy(Z, Y, W).item(),
    ),
    "derivatives by weights": (
        lambda M: torch.autograd.grad(M.cross_entropy(Z, Y, w := W.clone().requires_grad_(), reduction="sum"), w)[0].sum(),
        RuntimeError, F.cross_entropy(Z, Y, reduction="sum").item(),
    ),
    "smoothing outside [0, 1]": (
        lambda M: M.cross_entropy(Z, Y, label_smoothing=-0.5), F.cross_entropy(Z, Y).item(), RuntimeError,
    ),
    "smoothing with masked classes": (
        lambda M: M.cross_entropy(MASKED, torch.tensor([1]), label_smoothing=0.3), INF, smooth_core().item(),
    ),
    "smoothing, masked, probabilities": (
        lambda M: M.cross_entropy(MASKED, torch.tensor([[0.0, 1.0, 0.0]]), label_smoothing=0.3), INF, smooth_core().item(),
    ),
    "probability 0 of a masked class": (
        lambda M: M.cross_entropy(MASKED, torch.tensor([[0.0, 1.0, 0.0]])), math.nan,
        F.cross_entropy(MASKED, torch.tensor([1])).item(),
    ),
    "class weight 0 of a masked class": (
        lambda M: M.nll_loss(MASKED, torch.tensor([2]), torch.tensor([1.0, 1.0, 0.0]), reduction="sum"), math.nan, 0.0,
    ),
    "only classes of weight 0": (
        lambda M: torch.autograd.grad(M.cross_entropy(z := Z.clone().requires_grad_(), Y, torch.zeros(4)), z)[0].sum(),
        math.nan, 0.0,
    ),
    "one target in a vector, smoothed": (
        lambda M: M.cross_entropy(Z[0], Y[:1], label_smoothing=0.1, reduction="none"), RuntimeError,
        F.cross_entropy(Z[0], Y[0], label_smoothing=0.1).item(),
    ),
    "confident rows": (
        lambda M: M.cross_entropy(CONFIDENT, torch.tensor([1])), 0.0, math.log1p(math.exp(-25.0)),
    ),
    "confident gradients": (
        lambda M: torch.autograd.grad(M.cross_entropy(z := CONFIDENT.clone().requires_grad_(), torch.tensor([1])), z)[0][0, 1],
        0.0, -math.exp(-25.0),
    ),
    "sums of float16": (
        lambda M: M.cross_entropy(MANY[0].half(), MANY[1]), math.nan, torch.tensor(math.log(2)).half().item(),
    ),
    "sums of bfloat16": (
        lambda M: M.cross_entropy(torch.zeros(1000, 10).bfloat16(), MANY[1][:1000]), 2.265625, torch.tensor(math.log(10)).bfloat16().item(),
    ),
    "gradients of strided log-probabilities": (
        lambda M: torch.autograd.grad(
            M.nll_loss(z := torch.zeros(2, 3, 3, 4).movedim(-1, 1).requires_grad_(), torch.zeros(2, 3, 3, dtype=torch.int64)), z
        )[0].sum(), RuntimeError, -1.0,
    ),
    "no class, smoothed": (
        lambda M: M.cross_entropy(torch.zeros(0, 0), MANY[1][:0], label_smoothing=0.1, reduction="sum"), math.nan, 0.0,
    ),
    "infinite logits that are right": (
        lambda M: summed(M.binary_cross_entropy_with_logits, torch.tensor([INF, -INF]), torch.tensor([1.0, 0.0])), math.nan, 0.0,
    ),
    "infinite logits that are wrong": (
        lambda M: summed(M.binary_cross_entropy_with_logits, torch.tensor([-INF]), torch.tensor([1.0])), math.nan, INF,
    ),
    "entries of weight 0": (
        lambda M: summed(M.binary_cross_entropy_with_logits, torch.tensor([math.nan]), torch.tensor([1.0]), torch.zeros(1)),
        math.nan, 0.0,
    ),
    "slopes near 0": (
        lambda M: torch.autograd.grad(M.binary_cross_entropy(q := torch.zeros(1, requires_grad=True), torch.zeros(1)), q)[0].sum(),
        0.0, 1.0,
    ),
    "derivative by the target at 0": (
        lambda M: torch.autograd.grad(
            M.binary_cross_entropy(torch.zeros(1), t := torch.ones(1, requires_grad=True)), t)[0].sum(), INF, 100.0,
    ),
    "0·∞ in a divergence": (
        lambda M: M.kl_div(torch.tensor([-INF, 0.0]), torch.tensor([0.0, 1.0]), reduction="sum"), math.nan, 0.0,
    ),
    "0·∞ in a divergence of logarithms": (
        lambda M: M.kl_div(torch.tensor([-INF, 0.0]), torch.tensor([-INF, 0.0]), reduction="sum", log_target=True), math.nan, 0.0,
    ),
    "derivative of a divergence at 0": (
        lambda M: torch.autograd.grad(
            M.kl_div(torch.tensor([-1.0]), t := torch.zeros(1, requires_grad=True), reduction="sum"), t)[0].sum(), math.nan, -INF,
    ),
    "batchmean with reduce": (
        lambda M: M.kl_div(LOGP, P, reduce=True, reduction="batchmean"),
        F.kl_div(LOGP, P, reduction="sum").item() / 36, F.kl_div(LOGP, P, reduction="sum").item() / 12,
    ),
    "lists": (lambda M: M.binary_cross_entropy([0.5], [1.0]), AttributeError, TypeError),
}  # fmt: skip


# What the core says of the same, where it has a word for it.
CORE = {
    "integer dtypes": (lambda: xent.softmax_cross_entropy(Z, Y.int()), F.cross_entropy(Z, Y).item()),
    "uint8 with places": (lambda: xent.nll(LOGP, Y.byte()), F.nll_loss(LOGP, Y).item()),
    "weights of another dtype": (
        lambda: xent.softmax_cross_entropy(Z, Y, class_weight=W.double()), F.cross_entropy(Z, Y, W).item(),
    ),
    "smoothing outside [0, 1]": (lambda: xent.softmax_cross_entropy(Z, Y, label_smoothing=-0.5), OptionError),
    "probability 0 of a masked class": (
        lambda: xent.softmax_cross_entropy(MASKED, torch.tensor([[0.0, 1.0, 0.0]])), F.cross_entropy(MASKED, torch.tensor([1])).item(),
    ),
    "only classes of weight 0": (lambda: xent.softmax_cross_entropy(Z, Y, class_weight=torch.zeros(4)), 0.0),
    "no class, smoothed": (lambda: xent.softmax_cross_entropy(torch.zeros(0, 0), MANY[1][:0]), ShapeError),
    "confident rows": (lambda: xent.softmax_cross_entropy(CONFIDENT, torch.tensor([1])), math.log1p(math.exp(-25.0))),
    "sums of float16": (lambda: xent.softmax_cross_entropy(MANY[0].half(), MANY[1]), math.log(2)),
    "sums of bfloat16": (lambda: xent.softmax_cross_entropy(torch.zeros(1000, 10).bfloat16(), MANY[1][:1000]), math.log(10)),
    "infinite logits that are right": (
        lambda: xent.sigmoid_cross_entropy(torch.tensor([INF, -INF]), torch.tensor([1.0, 0.0])), 0.0,
    ),
    "infinite logits that are wrong": (lambda: xent.sigmoid_cross_entropy(torch.tensor([-INF]), torch.tensor([1.0])), INF),
    "entries of weight 0": (
        lambda: xent.sigmoid_cross_entropy(torch.tensor([math.nan]), torch.tensor([1.0]), row_weight=torch.zeros(1)), 0.0,
    ),
    "0·∞ in a divergence": (lambda: xent.kl_divergence(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])), 0.0),
    "lists": (lambda: torch.tensor(float(xent.binary_cross_entropy([0.5], [1.0]))), math.log(2)),
}  # fmt: skip


def matches(found, expected):
    if isinstance(expected, type):
        return isinstance(found, type) and issubclass(found, expected)
    return not isinstance(found, type) and found.item() == pytest.approx(
        expected, rel=1e-6, nan_ok=True
    )


@pytest.mark.parametrize("row", DIFFERENCES)
def test_each_difference_is_as_the_table_says(row):
    call, theirs, ours = DIFFERENCES[row]
    assert matches(outcome(lambda: call(F)), theirs)
    assert matches(outcome(lambda: call(X)), ours)
    assert not matches(outcome(lambda: call(F)), ours), "this is no difference"


@pytest.mark.parametrize("row", CORE)
def test_the_core_is_as_the_table_says(row):
    call, expected = CORE[row]
    assert matches(outcome(call), expected)


def test_a_small_divergence_keeps_its_digits():
    theirs = F.kl_div(KL_P.flip(0).log(), KL_P, reduction="sum").item()
    # The logarithms that are given are rounded; from wider ones the sum is exact.
    ours = X.kl_div(
        KL_P.flip(0).double().log(), KL_P, reduction="sum", out_dtype=torch.float64
    ).item()
    assert ours == pytest.approx(KL_VALUE, rel=1e-5)
    assert theirs != pytest.approx(KL_VALUE, rel=1e-3)


def test_all_ignored_is_nan_nan_and_0():
    for name in ("cross_entropy", "nll_loss"):
        z = Z.clone().requires_grad_()
        theirs, ours = getattr(F, name)(z, NOTHING), getattr(X, name)(z, NOTHING)
        assert theirs.isnan()
        assert ours.isnan()
        zero = getattr(X, name)(z, NOTHING, empty="zero")
        assert zero.item() == 0
        for value in (theirs, ours, zero):
            assert torch.equal(torch.autograd.grad(value, z)[0], torch.zeros(3, 4))
        assert getattr(X, name)(Z, NOTHING, reduction="sum") == 0
        assert getattr(X, name)(Z[:0], Y[:0], empty="zero") == 0
    assert xent.softmax_cross_entropy(Z, NOTHING, ignore_index=-100) == 0
    for name in NAMES[2:]:
        a, b = samples(name)
        assert math.isnan(quiet(getattr(X, name), a[:0], b[:0]))
        assert quiet(getattr(X, name), a[:0], b[:0], empty="zero") == 0


def test_the_weighted_mean_of_probabilities_divides_by_rows_unless_told():
    one_hot = F.one_hot(Y, 4).float()
    rows = F.cross_entropy(Z, Y, W, reduction="sum")
    assert rows / 3 == pytest.approx(F.cross_entropy(Z, one_hot, W).item(), rel=1e-6)
    same(X.cross_entropy(Z, one_hot, W), rows / 3)
    same(X.cross_entropy(Z, one_hot, W, normalizer="weight"), F.cross_entropy(Z, Y, W))
    same(xent.softmax_cross_entropy(Z, one_hot, class_weight=W), F.cross_entropy(Z, Y, W))


def test_weights_with_smoothing_divide_by_the_targets_weight_as_torchs():
    ours = X.cross_entropy(Z, Y, W, label_smoothing=0.3)
    same(ours, F.cross_entropy(Z, Y, W, label_smoothing=0.3))
    same(
        X.cross_entropy(Z, Y, W, label_smoothing=0.3, normalizer="weight"),
        xent.softmax_cross_entropy(Z, Y, class_weight=W, label_smoothing=0.3),
    )
    assert ours != X.cross_entropy(Z, Y, W, label_smoothing=0.3, normalizer="weight")


@pytest.mark.parametrize("value", [math.nan, INF])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_logits_that_are_not_finite_propagate_as_torchs(value, reduction):
    z = Z.clone()
    z[1, 2] = value
    for t in (Y, P):
        gradients = []
        for module in (X, F):
            leaf = z.clone().requires_grad_()
            loss = module.cross_entropy(leaf, t, reduction=reduction)
            (gradient,) = torch.autograd.grad(loss, leaf, torch.ones_like(loss))
            gradients.append((loss.detach().isnan(), gradient.isnan().any(1)))
        same(*gradients)
    everything = torch.full((1, 3), -INF)
    for module in (X, F):
        assert math.isnan(module.cross_entropy(everything, torch.tensor([0])))
        assert module.cross_entropy(MASKED, torch.tensor([2])) == INF
    with pytest.raises(LogitError):
        xent.softmax_cross_entropy(z, Y)


def test_the_clamp_of_binary_cross_entropy_is_torchs_and_can_go():
    q, t = torch.tensor([0.0, 1.0, 0.0, 1.0, 1e-45]), torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0])
    same(
        X.binary_cross_entropy(q, t, reduction="none"),
        F.binary_cross_entropy(q, t, reduction="none"),
    )
    exact = X.binary_cross_entropy(q, t, reduction="none", clamp=None)
    same(exact, torch.tensor([INF, INF, 0.0, 0.0, 103.27893]))
    same(X.binary_cross_entropy(q, t, reduction="none", clamp=-7.0)[:2], torch.tensor([7.0, 7.0]))
    leaf = q.clone().requires_grad_()
    X.binary_cross_entropy(leaf, t, reduction="sum").backward()
    same(leaf.grad, torch.tensor([-1e12, 1e12, 1.0, -1.0, -1e12]))
    leaf = torch.tensor([0.25, 0.75], requires_grad=True)
    X.binary_cross_entropy(leaf, torch.tensor([1.0, 0.0]), reduction="sum", clamp=None).backward()
    same(leaf.grad, torch.tensor([-4.0, 4.0]))


def test_unsigned_targets_keep_their_size():
    with pytest.raises(IndexError):
        X.cross_entropy(Z, torch.tensor([0, 2**64 - 100, 1], dtype=torch.uint64))
    y = torch.tensor([0, 255, 1], dtype=torch.uint8)
    same(X.cross_entropy(Z, y, ignore_index=255), F.cross_entropy(Z[[0, 2]], Y[[0, 2]]))


# ---- overrides, other devices, scripts -----------------------------------------------------------


class Logged(torch.Tensor):
    """A subclass that notes which functions it was given to."""

    seen: list = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.seen.append(func)
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("name", NAMES)
def test_overrides_are_asked_first(name):
    a, b = samples(name)
    function = getattr(X, name)
    Logged.seen.clear()
    value = function(a.as_subclass(Logged), b, reduction="sum")
    assert Logged.seen[0] is function
    assert type(value) is Logged
    same(value.as_subclass(torch.Tensor), function(a, b, reduction="sum"))

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    seen = []
    with Mode():
        function(a, b, reduction="sum")
    assert seen[0] is function


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reduction", ["sum", "none", "mean"])
def test_meta_and_fake_tensors_have_torchs_shape_dtype_and_device(name, reduction):
    a, b = samples(name)
    meta = [
        quiet(getattr(module, name), a.to("meta").half(), b.half().to("meta") if b.is_floating_point() else b.to("meta"), reduction=reduction)
        for module in (X, F)
    ]  # fmt: skip
    with FakeTensorMode() as mode:
        fake = [
            quiet(
                getattr(module, name), mode.from_tensor(a), mode.from_tensor(b), reduction=reduction
            )
            for module in (X, F)
        ]
    for ours, theirs in (meta, fake):
        assert (ours.shape, ours.dtype, ours.device) == (theirs.shape, theirs.dtype, theirs.device)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_scripting_and_tracing_raise_clearly(name):
    function = getattr(X, name)
    with pytest.raises(
        RuntimeError, match=rf"cannot compile xent\.torch\.{name}.*Hint: .*torch\.compile"
    ):
        torch.jit.script(function)
    with pytest.raises(
        RuntimeError, match=rf"cannot record xent\.torch\.{name}.*Hint: .*torch\.export"
    ):
        torch.jit.trace(lambda a, b: function(a, b, reduction="sum"), samples(name))


def test_a_weight_of_one_number_may_stay_on_the_cpu():
    elsewhere, half = Z.to("meta"), torch.tensor(0.5)
    for module in (X, F):
        loss = module.binary_cross_entropy_with_logits(elsewhere, elsewhere, half, pos_weight=half)
        assert loss.device.type == "meta"
    rows = X.cross_entropy(elsewhere, Y.to("meta"), row_weight=half, reduction="none")
    assert rows.device.type == "meta"


def test_numpy_scalars_are_options():
    ours = X.cross_entropy(Z, Y, ignore_index=np.int64(3), label_smoothing=np.float32(0.25))
    same(ours, F.cross_entropy(Z, Y, ignore_index=3, label_smoothing=0.25))


# Rows of the table that have a test of their own, above.
ELSEWHERE = {
    "all ignored": test_all_ignored_is_nan_nan_and_0,
    "soft weighted mean": test_the_weighted_mean_of_probabilities_divides_by_rows_unless_told,
    "weights with smoothing": test_weights_with_smoothing_divide_by_the_targets_weight_as_torchs,
    "logits that are not finite": test_logits_that_are_not_finite_propagate_as_torchs,
    "clamped logarithms": test_the_clamp_of_binary_cross_entropy_is_torchs_and_can_go,
    "a small divergence": test_a_small_divergence_keeps_its_digits,
    "scripting and tracing": test_scripting_and_tracing_raise_clearly,
}


def test_every_row_of_the_table_is_tested_and_every_test_is_in_it():
    page = (Path(__file__).parents[1] / "docs" / "semantics.md").read_text(encoding="utf-8")
    _, _, section = page.partition("\n## xent.torch beside torch\n")
    section, _, _ = section.partition("\n## ")
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")]
    assert sorted(rows) == sorted(["row", "---", *DIFFERENCES, *ELSEWHERE])
    assert set(CORE) <= set(DIFFERENCES)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(4, 5), (40, 40), (3, 100)])
def test_torchs_default_dtype_changes_nothing(default, shape):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(shape, generator=generator, requires_grad=True)
    y = torch.randint(0, shape[1], shape[:1], generator=generator)

    def all_of_it():
        loss = X.cross_entropy(z, y)
        once = torch.autograd.grad(loss, z, retain_graph=True)[0]
        again = torch.autograd.grad(loss, z, retain_graph=True)[0]
        twice = torch.autograd.grad(2.0 * loss, z)[0]
        return [loss.detach(), once, again, twice, X.cross_entropy(z, y, reduction="none").detach()]

    truth = all_of_it()
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        got = all_of_it()
    finally:
        torch.set_default_dtype(before)
    for a, b in zip(got, truth, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


def test_torchs_default_device_changes_nothing():
    with torch.device("meta"):
        small = X.cross_entropy(Z, Y)
        core = xent.softmax_cross_entropy(Z, Y)
        each = xent.softmax_cross_entropy(Z, Y, reduction="none")
    assert small.device.type == core.device.type == each.device.type == "cpu"
    assert torch.equal(small, X.cross_entropy(Z, Y))
    assert torch.equal(core, xent.softmax_cross_entropy(Z, Y))
    assert torch.equal(each, xent.softmax_cross_entropy(Z, Y, reduction="none"))


def test_a_tensor_that_outlived_a_transform_is_read_like_torch_reads_it():
    kept = []

    def f(z):
        kept.append(z)
        return z.sum()

    torch.func.grad(f)(Z.detach().clone())
    assert torch.isclose(X.cross_entropy(kept[0], Y), F.cross_entropy(kept[0], Y))


@pytest.mark.parametrize("wrong", [torch.int64, torch.bool, torch.complex64, "float32"])
def test_a_result_of_no_float_dtype_is_refused(wrong):
    logits, target = torch.zeros(2, 3), torch.tensor([0, 1])
    for call in (
        lambda: X.cross_entropy(logits, target, out_dtype=wrong),
        lambda: X.nll_loss(logits.log_softmax(1), target, out_dtype=wrong),
        lambda: X.binary_cross_entropy(logits.sigmoid(), logits, out_dtype=wrong),
        lambda: X.binary_cross_entropy_with_logits(logits, logits, out_dtype=wrong),
        lambda: X.kl_div(logits, logits, reduction="sum", out_dtype=wrong),
    ):
        with pytest.raises(OptionError, match="out_dtype must be a float dtype"):
            call()
