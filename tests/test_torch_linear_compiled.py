"""Forms of linear cross-entropy as compilers record them: values, derivatives, memory, products."""

import contextlib
import functools
import math
import shutil

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.functional import cross_entropy, linear
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from xent.losses.kernels import linear_chunked, linear_distilled
from xent.torch import (
    linear_cross_entropy,
    linear_distillation,
    linear_softmax_statistics,
    linear_sparse_cross_entropy,
)

ROWS, FEATURES, CLASSES = 96, 4, 500
SPACE = 2**16  # a third of the logits, 96 × 500 × 4 bytes


def generator(seed):
    return torch.Generator().manual_seed(seed)


def made(dtype=torch.float32, rows=ROWS):
    g = generator(1)
    hidden = torch.randn(rows, FEATURES, generator=g).to(dtype).requires_grad_()
    head = torch.randn(CLASSES, FEATURES, generator=g).to(dtype).requires_grad_()
    bias = torch.randn(CLASSES, generator=g).to(dtype).requires_grad_()
    return hidden, head, bias


def targets(h):
    """Return targets of any number of rows, every seventh of them ignored."""
    row = torch.arange(h.shape[0])
    return torch.where(row % 7 == 3, -100, row * 11 % CLASSES)


def listed(h):
    """Return eight classes of each row and their log-probabilities, which leave a rest."""
    row = torch.arange(h.shape[0])[:, None]
    ids = (row * 29 + torch.arange(8) * 37) % CLASSES
    return ids, torch.log_softmax(torch.sin(ids.to(torch.float32)), 1) - 0.25


def teacher(h):
    wider = torch.cat((h.detach().float(), h.detach().float() ** 2), 1)
    return wider, torch.sin(torch.arange(CLASSES * 2.0 * FEATURES)).reshape(CLASSES, -1)


def statistics(h, w, b, **how):
    s = linear_softmax_statistics(h, w, targets(h), linear_bias=b, **how)
    weighted = s.nll * 0.5 + s.logsumexp * 0.25 + torch.cos(s.entropy)
    return weighted + (s.rank + s.argmax) * 1e-3


FORMS = {
    "mean": lambda h, w, b, **how: linear_cross_entropy(
        h, w, targets(h), linear_bias=b, z_loss=0.01, label_smoothing=0.1, **how
    ),
    "sum": lambda h, w, b, **how: linear_cross_entropy(
        h, w, targets(h), linear_bias=b, reduction="sum", **how
    ),
    "low memory": lambda h, w, b, **how: linear_cross_entropy(
        h, w, targets(h), linear_bias=b, low_memory=True, **how
    ),
    "rows": lambda h, w, b, **how: linear_cross_entropy(
        h, w, targets(h), linear_bias=b, reduction="none", softcap=4.0, **how
    ),
    "statistics": statistics,
    "renormalise": lambda h, w, b, **how: linear_sparse_cross_entropy(
        h, w, *listed(h), linear_bias=b, **how
    ),
    "bucket": lambda h, w, b, **how: linear_sparse_cross_entropy(
        h, w, *listed(h), linear_bias=b, tail="bucket", divergence=True, **how
    ),
    "uniform rows": lambda h, w, b, **how: linear_sparse_cross_entropy(
        h, w, *listed(h), linear_bias=b, tail="uniform", reduction="none", **how
    ),
    "forward_kl": lambda h, w, b, **how: linear_distillation(
        h, w, *teacher(h), linear_bias=b, teacher_softcap=3.0, **how
    ),
    "jensen_shannon rows": lambda h, w, b, **how: linear_distillation(
        h, w, *teacher(h), linear_bias=b, divergence="jensen_shannon", beta=0.3, temperature=2.0,
        reduction="none", **how,
    ),
}  # fmt: skip

OF_TEACHERS = ("forward_kl", "jensen_shannon rows")  # whose heads have twice the features


def compiled(form, backend="aot_eager", **how):
    torch._dynamo.reset()
    return torch.compile(form, backend=backend, fullgraph=True, **how)


def gradients(found, inputs, **how):
    upstream = torch.linspace(0.5, 1.5, found.numel(), dtype=found.dtype).reshape(found.shape)
    return torch.autograd.grad(found, inputs, upstream, **how)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_compiled_forms_are_the_eager_ones(name, dtype):
    inputs = made(dtype)

    def form(h, w, b):
        return FORMS[name](h, w, b, workspace_bytes=SPACE)

    found, want = compiled(form)(*inputs), form(*inputs)
    assert found.dtype == want.dtype
    assert found.requires_grad
    torch.testing.assert_close(found, want)
    for got, truth in zip(gradients(found, inputs), gradients(want, inputs), strict=True):
        assert got.dtype == truth.dtype
        close = {} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-7}
        torch.testing.assert_close(got, truth, **close)


@pytest.mark.parametrize("name", FORMS)
def test_no_recorded_operation_makes_logits(name):
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return make_boxed_func(graph)

    def form(h, w, b):
        return FORMS[name](h, w, b, workspace_bytes=SPACE)

    inputs = made()
    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
    gradients(compiled(form, backend)(*inputs), inputs)
    assert len(graphs) == 2  # forward and backward
    sizes = [
        value.numel()
        for graph in graphs
        for node in graph.graph.nodes
        for value in (lambda v: v if isinstance(v, (tuple, list)) else [v])(node.meta.get("val"))
        if isinstance(value, torch.Tensor)
    ]
    # a head is larger than all hidden states
    assert max(sizes) == CLASSES * FEATURES * (2 if name in OF_TEACHERS else 1)


@pytest.mark.parametrize("name", FORMS)
def test_what_the_operators_take_is_within_the_workspace(name, monkeypatch):
    taken = []
    for module in (linear_chunked, linear_distilled):
        own = module.memory

        def memory(shape, dtype, device, own=own):
            taken.append(math.prod(shape) * dtype.itemsize)
            return own(shape, dtype, device)

        monkeypatch.setattr(module, "memory", memory)

    def most(space):
        taken.clear()
        inputs = made()
        form = compiled(lambda h, w, b: FORMS[name](h, w, b, workspace_bytes=space))
        gradients(form(*inputs), inputs)
        return max(taken)

    assert 0 < most(SPACE) <= SPACE
    assert most(2**24) > SPACE


@pytest.mark.parametrize(
    ("name", "products"),
    [("mean", 3), ("sum", 3), ("low memory", 4), ("rows", 4), ("statistics", 4),
     ("renormalise", 3), ("uniform rows", 4), ("forward_kl", 4), ("jensen_shannon rows", 6)],
)  # fmt: skip
def test_compiled_forms_take_the_products_of_eager_ones(name, products, monkeypatch):
    done = []
    for method in ("logits", "add_to_hidden", "add_to_weight"):
        own = getattr(linear_chunked.Head, method)
        monkeypatch.setattr(
            linear_chunked.Head, method,
            lambda self, *a, own=own, **k: (done.append(1), own(self, *a, **k))[1],
        )  # fmt: skip
    inputs = made()
    for form in (FORMS[name], compiled(FORMS[name])):
        done.clear()
        gradients(form(*inputs), inputs)
        assert len(done) == products


@pytest.mark.parametrize("name", FORMS)
def test_what_is_frozen_and_what_has_no_gradient_at_all(name, monkeypatch):
    seen = []
    for method in ("add_to_hidden", "add_to_weight"):
        own = getattr(linear_chunked.Head, method)
        monkeypatch.setattr(
            linear_chunked.Head, method,
            lambda self, *a, own=own, method=method, **k: (seen.append(method), own(self, *a, **k))[1],
        )  # fmt: skip
    hidden, head, bias = made()
    want = torch.autograd.grad(FORMS[name](hidden, head, bias).sum(), head)[0]
    seen.clear()
    found = compiled(FORMS[name])(hidden.detach(), head, bias.detach())
    torch.testing.assert_close(torch.autograd.grad(found.sum(), head)[0], want)
    assert set(seen) == {"add_to_weight"}
    seen.clear()
    with torch.no_grad():
        alone = compiled(FORMS[name])(hidden, head, bias)
    assert seen == []
    assert not alone.requires_grad
    torch.testing.assert_close(alone, FORMS[name](hidden, head, bias).detach())


@pytest.mark.parametrize("name", FORMS)
def test_any_number_of_rows_is_one_graph(name):
    counter = CompileCounterWithBackend("aot_eager")
    form = compiled(FORMS[name], counter, dynamic=True)
    graphs = set()
    for rows in (ROWS, ROWS + 13, 40):
        inputs = made(rows=rows)
        found, want = form(*inputs), FORMS[name](*inputs)
        torch.testing.assert_close(found, want)
        for got, truth in zip(gradients(found, inputs), gradients(want, inputs), strict=True):
            torch.testing.assert_close(got, truth, rtol=1e-5, atol=1e-7)
        graphs.add(counter.frame_count)
    assert len(graphs) == 1  # whatever the first took, no more


class Watched(TorchDispatchMode):
    """Lets every operation through."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", FORMS)
def test_second_derivatives_are_there_where_operations_are_only_watched(name):
    inputs = made(torch.float64)

    def second():
        found = FORMS[name](*inputs)
        first = torch.autograd.grad(found.sum(), inputs[:2], create_graph=True)
        return torch.autograd.grad(sum((a**2).sum() for a in first), inputs)

    want = second()
    with Watched():
        found = second()
    for got, truth in zip(found, want, strict=True):
        torch.testing.assert_close(got, truth, rtol=1e-5, atol=1e-6)


TIED = {
    "mean": lambda *a: linear_cross_entropy(*a),
    "rows": lambda *a: linear_cross_entropy(*a, reduction="none"),
    "statistics": lambda *a: linear_softmax_statistics(*a).nll,
    "sparse": lambda h, w, y: linear_sparse_cross_entropy(
        h, w, y[:, None], torch.zeros(len(y), 1, dtype=h.dtype)
    ),
}


@pytest.mark.parametrize("name", TIED)
@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_a_head_that_hidden_states_are_made_of(name, watched, whole):
    """A path from one input to another is the caller's, and is not gone twice."""
    head = torch.randn(11, 4, dtype=torch.float64, generator=generator(7), requires_grad=True)
    ids = torch.arange(11) if whole else torch.arange(8)
    target = (ids + 1) % 11

    def derivatives(loss):
        hidden = head if whole else torch.tanh(head[ids])
        found = [loss(hidden, head, target).sum()]
        for _ in range(3):
            found.append(torch.autograd.grad((found[-1] ** 2).sum(), head, create_graph=True)[0])
        upstream = torch.tensor([1.0, -2.0], dtype=torch.float64)
        value = loss(hidden, head, target).sum()
        many = torch.autograd.grad(value, head, upstream, is_grads_batched=True)
        return *found, *many

    want = derivatives(
        lambda h, w, y: cross_entropy(
            linear(h, w), y, reduction="mean" if name in ("mean", "sparse") else "none"
        )
    )
    with Watched() if watched else contextlib.nullcontext():
        found = derivatives(TIED[name])
    torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", FORMS)
def test_selective_checkpoints(name):
    inputs = made(torch.float64)
    contexts = functools.partial(
        create_selective_checkpoint_contexts, [torch.ops.aten.mm.default, torch.ops.aten.tanh.default]
    )  # fmt: skip

    def form(h, w, b):
        return FORMS[name](torch.tanh(h), w, b)

    found = checkpoint(form, *inputs, use_reentrant=False, context_fn=contexts)
    for got, truth in zip(gradients(found, inputs), gradients(form(*inputs), inputs), strict=True):
        torch.testing.assert_close(got, truth, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("small", [1e-42, 1e-40, 1e-30, 1e30])
def test_row_weights_of_any_size_cancel_in_a_compiled_mean(small):
    hidden, head, _ = made()
    weight = torch.full((ROWS,), small, dtype=torch.float64)

    def loss(h, w):
        return linear_cross_entropy(h, w, targets(h), row_weight=weight)

    found, want = compiled(loss)(hidden, head), loss(hidden, head)
    torch.testing.assert_close(found, want)
    for got, truth in zip(
        gradients(found, (hidden, head)), gradients(want, (hidden, head)), strict=True
    ):
        assert torch.isfinite(truth).all()
        torch.testing.assert_close(got, truth, rtol=1e-5, atol=1e-7)


def test_compiled_rows_can_be_invariant(monkeypatch):
    sizes, own = set(), linear_chunked.Head.logits

    def logits(self, rows, *rest):
        sizes.add(rows.shape[0])
        return own(self, rows, *rest)

    monkeypatch.setattr(linear_chunked.Head, "logits", logits)
    hidden, head = (a.detach() for a in made(rows=300)[:2])

    def losses(h, w):
        return linear_cross_entropy(h, w, targets(h), reduction="none", invariant=True)

    def statistics(h, w):
        s = linear_softmax_statistics(h, w, targets(h), invariant=True)
        return torch.stack((s.nll, s.entropy))

    for form in (losses, statistics):
        torch._dynamo.reset()
        run = torch.compile(form, backend="aot_eager", fullgraph=True)
        every = run(hidden, head)
        assert torch.equal(every, form(hidden, head))
        assert torch.equal(run(hidden[:17], head), every[..., :17])
    assert len(sizes) == 1  # every product has the same shape


@pytest.mark.parametrize("name", ["mean", "statistics", "bucket", "forward_kl"])
def test_many_upstream_gradients_of_a_compiled_form(name):
    inputs = made(torch.float64)
    found, want = compiled(FORMS[name])(*inputs), FORMS[name](*inputs)
    upstream = torch.randn(2, *found.shape, generator=generator(5)).to(found.dtype)
    many = torch.autograd.grad(found, inputs, upstream, is_grads_batched=True)
    for i, v in enumerate(upstream):
        one = torch.autograd.grad(want, inputs, v, retain_graph=True)
        for got, truth in zip(many, one, strict=True):
            torch.testing.assert_close(got[i], truth, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["mean", "rows", "statistics", "uniform rows", "forward_kl"])
def test_autocast_reaches_what_is_recorded_as_it_reaches_what_is_not(name):
    inputs = made()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        want, found = FORMS[name](*inputs), compiled(FORMS[name])(*inputs)
        with Watched():
            watched = FORMS[name](*inputs)
    for got in (found, watched):
        torch.testing.assert_close(got, want)
        pairs = gradients(got, inputs), gradients(want, inputs, retain_graph=True)
        for a, b in zip(*pairs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)


def test_a_scaled_loss_keeps_what_float16_would_lose():
    hidden, head = (a.detach().half().requires_grad_() for a in made()[:2])
    run = compiled(lambda h, w: linear_cross_entropy(h, w, targets(h), out_dtype=torch.float32))
    found = torch.autograd.grad(run(hidden, head) * 65536.0, (hidden, head))
    wide = [a.detach().double().requires_grad_() for a in (hidden, head)]
    exact = linear_cross_entropy(*wide, targets(hidden)) * 65536.0
    for got, truth in zip(found, torch.autograd.grad(exact, wide), strict=True):
        most = 2e-6 * float(truth.abs().max())
        torch.testing.assert_close(got.double(), truth, rtol=1e-3, atol=most)


@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning")  # of inductor's imports
def test_a_training_step_through_the_default_compiler():
    """Inductor generates code for what surrounds the operator."""
    hidden, head, _ = made()
    run = compiled(
        lambda h, w: linear_cross_entropy(torch.tanh(h) * 2.0, w, targets(h)), backend="inductor"
    )
    found = run(hidden, head)
    want = linear_cross_entropy(torch.tanh(hidden) * 2.0, head, targets(hidden))
    torch.testing.assert_close(found, want)
    pairs = (torch.autograd.grad(a, (hidden, head)) for a in (found, want))
    for got, truth in zip(*pairs, strict=True):
        torch.testing.assert_close(got, truth, rtol=1e-5, atol=1e-7)


class Loss(torch.nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, h, w, b):
        return self.form(h, w, b)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_takes_what_it_is_asked_for(name, strict, monkeypatch):
    frozen = [a.detach() for a in made()]
    program = torch.export.export(Loss(FORMS[name]), tuple(frozen), strict=strict)
    operators = {str(node.target) for node in program.graph.nodes if "xent" in str(node.target)}
    assert len(operators) == 1
    run = program.module()
    inputs = made()
    found, want = run(*inputs), FORMS[name](*inputs)
    torch.testing.assert_close(found, want)
    for got, truth in zip(gradients(found, inputs), gradients(want, inputs), strict=True):
        torch.testing.assert_close(got, truth, rtol=1e-5, atol=1e-7)
    asking = torch.export.export(Loss(FORMS[name]), made(), strict=strict).module()
    monkeypatch.setattr(linear_chunked.Head, "add_to_weight", None)
    monkeypatch.setattr(linear_chunked.Head, "add_to_hidden", None)
    with torch.no_grad():
        torch.testing.assert_close(asking(*inputs), want.detach())


@pytest.mark.parametrize("name", FORMS)
def test_an_exported_program_computes_as_it_was_recorded_under_autocast_too(name, monkeypatch):
    seen, own = set(), linear_chunked.Head.logits

    def logits(self, *rest):
        seen.add(torch.is_autocast_enabled("cpu"))
        return own(self, *rest)

    monkeypatch.setattr(linear_chunked.Head, "logits", logits)
    inputs = made()
    run = torch.export.export(Loss(FORMS[name]), inputs).module()
    want = FORMS[name](*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(*inputs)
        gradients(found, inputs)
    assert torch.equal(found, want)
    assert seen == {False}
