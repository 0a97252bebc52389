"""Which kernel runs: what runs is watched, so that a fallback nobody asked for fails here."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
import torch

import xent
import xent.torch
from xent.errors import OptionError
from xent.losses import definition, dispatch
from xent.losses.kernels import EntryRows, SoftmaxRows, cpu_rows

NUMBA, TRITON, DEFINITION = "numba_rows", "triton_rows", "definition"
HERE = dispatch.Situation("cpu")
NO_LOSS = {"refuses", "weigh_targets"}
COMPUTE = [name for name in cpu_rows.__all__ if name.islower() and name not in NO_LOSS]
"""What the module of the CPU kernels computes losses with."""


@pytest.fixture
def ran(monkeypatch):
    """Return the set of kernels that have computed something."""
    names = set()

    def watch(module, function, name):
        original = getattr(module, function)

        def watched(*arguments, **options):
            names.add(name)
            return original(*arguments, **options)

        monkeypatch.setattr(module, function, watched)

    for function in COMPUTE:
        watch(cpu_rows, function, NUMBA)
    for function in ("softmax_loss", "sigmoid_loss"):
        watch(definition, function, DEFINITION)
    return names


def matrix(dtype=torch.float32, **options):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 5, generator=generator).to(dtype).requires_grad_(**options)


INDICES = torch.arange(12) % 5
YES = torch.linspace(0.0, 1.0, 60).reshape(12, 5)


def rows_of(logits, targets, **options):
    return SoftmaxRows(logits[..., None], targets[..., None], **options)


class Named(torch.Tensor):
    """A tensor with memory like any other, and a name of its own."""


class Wrapped(torch.Tensor):
    """A tensor without memory of its own: what is done to it is done to another."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        self = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        self.inner = inner
        return self

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        def bare(a):
            return a.inner if isinstance(a, cls) else a

        result = function(
            *torch.utils._pytree.tree_map(bare, arguments),
            **torch.utils._pytree.tree_map(bare, options or {}),
        )
        return cls(result) if isinstance(result, torch.Tensor) else result


# ---- what runs where -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_arrays_of_numpy_are_computed_by_numba(ran, dtype):
    z = matrix().detach().numpy().astype(dtype)
    xent.softmax_cross_entropy(z, INDICES.numpy())
    assert ran == {NUMBA}
    ran.clear()
    xent.softmax_cross_entropy_value_and_grad(z, INDICES.numpy())
    assert ran == {NUMBA}
    ran.clear()
    xent.sigmoid_cross_entropy(z, YES.numpy())
    assert ran == {NUMBA}


def test_arrays_of_other_libraries_run_the_definition(ran):
    z, y = (array_api_strict.asarray(a.numpy()) for a in (matrix().detach(), INDICES))
    xent.softmax_cross_entropy(z, y)
    assert ran == {DEFINITION}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_tensors_are_computed_by_numba_forwards_and_backwards(ran, dtype, reduction):
    z = matrix(dtype)
    loss = xent.torch.cross_entropy(z, INDICES, reduction=reduction)
    assert ran == {NUMBA}
    loss.sum().backward()
    assert ran == {NUMBA}
    ran.clear()
    z = matrix(dtype)
    xent.torch.binary_cross_entropy_with_logits(
        z, YES.to(dtype), reduction=reduction
    ).sum().backward()
    assert ran == {NUMBA}


@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing": 0.1},
        {"weight": torch.arange(1.0, 6.0)},
        {"ignore_index": 2},
        {"z_loss": 0.1},
        {"temperature": 2.0},
        {"softcap": 30.0},
        {"row_weight": torch.arange(12.0)},
        {"out_dtype": torch.float64},
        {"normalizer": "count"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_no_option_takes_the_kernel_away(ran, options):
    xent.torch.cross_entropy(matrix(), INDICES, **options).backward()
    assert ran == {NUMBA}


def test_layouts_and_kinds_of_targets_are_computed_by_numba(ran):
    wide = torch.randn(2, 5, 3, 4).transpose(0, 2)
    for z, t in (
        (torch.randn(1000, 5, requires_grad=True), torch.arange(1000) % 5),
        (torch.randn(100, 500, requires_grad=True), torch.arange(100)),
        (wide.requires_grad_(), torch.zeros(3, 2, 4, dtype=torch.int32)),
        (torch.randn(5, requires_grad=True), torch.tensor(3)),
        (torch.randn(1, 5).expand(7, 5).requires_grad_(), torch.zeros(7, dtype=torch.int64)),
        (matrix(), matrix().detach().softmax(1)),
        (matrix(), matrix(torch.bfloat16).detach().softmax(1)),
    ):
        ran.clear()
        xent.torch.cross_entropy(z, t).backward()
        assert ran == {NUMBA}, (z.shape, t.dtype)


def test_a_softcap_of_float64_runs_the_definition(ran):
    xent.torch.cross_entropy(matrix(torch.float64), INDICES, softcap=30.0)
    assert ran == {DEFINITION}


def test_derivatives_by_targets_and_weights_run_the_definition(ran):
    xent.torch.cross_entropy(matrix(), matrix().softmax(1)).backward()
    assert ran == {DEFINITION}
    ran.clear()
    weight = torch.ones(5, requires_grad=True)
    xent.torch.cross_entropy(matrix(), INDICES, weight=weight).backward()
    assert DEFINITION in ran
    assert weight.grad is not None
    ran.clear()
    with torch.no_grad():  # then nobody asks for derivatives
        xent.torch.cross_entropy(matrix(), INDICES, weight=weight)
    assert ran == {NUMBA}


def test_transforms_and_forward_mode_run_the_definition(ran):
    def loss(z):
        return xent.torch.cross_entropy(z, INDICES)

    z = matrix().detach()
    for transformed in (
        lambda: torch.func.grad(loss)(z),
        lambda: torch.func.vmap(loss)(torch.stack([z, z])),
        lambda: torch.func.jvp(loss, (z,), (z,)),
    ):
        ran.clear()
        transformed()
        assert ran == {DEFINITION}
    ran.clear()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(z, torch.ones_like(z))
        tangent = torch.autograd.forward_ad.unpack_dual(loss(dual)).tangent
    assert tangent is not None
    assert ran == {DEFINITION}


def test_a_second_derivative_runs_the_definition_after_the_kernel(ran):
    z = matrix()
    (first,) = torch.autograd.grad(xent.torch.cross_entropy(z, INDICES), z, create_graph=True)
    assert ran == {NUMBA, DEFINITION}
    assert first.requires_grad


def test_tensors_without_memory_run_the_definition_or_compute_nothing(ran):
    z, y = matrix().detach().to("meta"), INDICES.to("meta")
    assert xent.torch.cross_entropy(z, y).shape == ()
    assert NUMBA not in ran
    ran.clear()
    mode = torch._subclasses.FakeTensorMode()
    with mode:
        fake = xent.torch.cross_entropy(torch.empty(12, 5), torch.zeros(12, dtype=torch.int64))
    assert isinstance(fake, torch._subclasses.FakeTensor)
    assert NUMBA not in ran


def test_a_tensor_without_memory_of_its_own_runs_the_definition(ran):
    expected = xent.torch.cross_entropy(matrix(), INDICES)
    ran.clear()
    loss = xent.torch.cross_entropy(Wrapped(matrix().detach()), INDICES)
    assert ran == {DEFINITION}
    assert torch.allclose(loss.inner, expected)


def test_parameters_and_subclasses_with_memory_are_computed_by_numba(ran):
    xent.torch.cross_entropy(torch.nn.Parameter(matrix().detach()), INDICES)
    assert ran == {NUMBA}
    ran.clear()
    loss = xent.torch.cross_entropy(matrix().detach().as_subclass(Named), INDICES)
    assert ran == {NUMBA}
    assert isinstance(loss, Named)


def test_a_negated_view_runs_the_definition(ran):
    z = torch._neg_view(matrix().detach())
    expected = xent.torch.cross_entropy(z.clone(), INDICES)
    ran.clear()
    assert xent.torch.cross_entropy(z, INDICES) == expected
    assert ran == {DEFINITION}


def test_without_numba_the_definition_runs_and_numba_cannot_be_insisted_on(ran, monkeypatch):
    monkeypatch.setattr(dispatch, "NUMBA", False)
    with_definition = xent.torch.cross_entropy(matrix(), INDICES)
    assert ran == {DEFINITION}
    xent.softmax_cross_entropy(matrix().detach().numpy(), INDICES.numpy())
    assert ran == {DEFINITION}
    with pytest.raises(OptionError, match=r"numba is not installed \(pip install 'xent\[cpu\]'\)"):
        xent.torch.cross_entropy(matrix(), INDICES, kernel=NUMBA)
    monkeypatch.undo()
    assert torch.allclose(with_definition, xent.torch.cross_entropy(matrix(), INDICES))


# ---- insisting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [NUMBA, DEFINITION])
def test_a_kernel_that_is_insisted_on_is_the_one_that_runs(ran, name):
    xent.torch.cross_entropy(matrix(), INDICES, kernel=name).backward()
    assert ran == {name}
    ran.clear()
    xent.torch.binary_cross_entropy_with_logits(matrix(), YES, kernel=name).backward()
    assert ran == {name}


@pytest.mark.parametrize(
    ("name", "call", "reason"),
    [
        (NUMBA, lambda k: xent.torch.cross_entropy(matrix(torch.float64), INDICES, softcap=9.0, kernel=k), "softcap"),
        (NUMBA, lambda k: xent.torch.cross_entropy(matrix(), matrix().softmax(1), kernel=k), "ask for theirs"),
        (NUMBA, lambda k: torch.func.grad(lambda z: xent.torch.cross_entropy(z, INDICES, kernel=k))(matrix().detach()), "torch.func"),
        (NUMBA, lambda k: xent.torch.cross_entropy(matrix().detach().to("meta"), INDICES.to("meta"), kernel=k), "on meta"),
        (NUMBA, lambda k: xent.torch.cross_entropy(Wrapped(matrix().detach()), INDICES, kernel=k), "Wrapped"),
        (TRITON, lambda k: xent.torch.binary_cross_entropy_with_logits(matrix(), YES, kernel=k), "over classes"),
    ],
    ids=["float64 softcap", "soft targets' gradient", "torch.func", "meta", "subclass", "entries"],
)  # fmt: skip
def test_a_refusal_of_the_kernel_that_is_insisted_on_is_raised(ran, name, call, reason):
    with pytest.raises(
        OptionError, match=f"kernel='{name}' cannot take these rows: .*{reason}.*Hint: "
    ):
        call(name)
    assert ran == set()


def test_triton_refuses_a_cpu(ran, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(OptionError, match="runs on NVIDIA and AMD GPUs"):
        xent.torch.cross_entropy(matrix(), INDICES, kernel=TRITON)
    assert ran == set()


def test_a_kernel_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(OptionError, match="got 'cuda'") as caught:
        xent.torch.cross_entropy(matrix(), INDICES, kernel="cuda")
    assert all(repr(kernel.name) in str(caught.value) for kernel in dispatch.KERNELS)


def test_a_kernel_that_fails_raises_instead_of_falling_back(ran, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no memory")

    for function in COMPUTE:
        monkeypatch.setattr(cpu_rows, function, fail)
    with pytest.raises(RuntimeError, match="no memory"):
        xent.torch.cross_entropy(matrix(), INDICES)
    with pytest.raises(RuntimeError, match="no memory"):
        xent.softmax_cross_entropy(matrix().detach().numpy(), INDICES.numpy())
    assert ran == set()


def test_the_watch_sees_a_fallback(ran, monkeypatch):
    monkeypatch.setattr(cpu_rows, "refuses", lambda _: "of a mutant")
    # A plain mean of a small matrix is the kernel's own and asks nobody.
    xent.torch.cross_entropy(matrix(), INDICES, label_smoothing=0.1)
    assert ran == {DEFINITION}


# ---- the table -----------------------------------------------------------------------------------


def test_the_table_ends_with_the_definition_which_refuses_nothing():
    names = [kernel.name for kernel in dispatch.KERNELS]
    assert names == [NUMBA, TRITON, DEFINITION]
    odd = rows_of(np.zeros((2, 3), np.complex64), np.zeros(2, np.int8))
    assert dispatch.KERNELS[-1].refuses(odd, dispatch.Situation("mps", "anything")) is None


def test_the_explanation_stops_at_the_kernel_that_runs():
    z, y = matrix().detach(), INDICES
    assert dispatch.explain(rows_of(z, y), HERE) == [(NUMBA, None)]
    elsewhere = dispatch.explain(rows_of(z, y), dispatch.Situation("mps"))
    assert [name for name, _ in elsewhere] == [NUMBA, TRITON, DEFINITION]
    assert [refusal is None for _, refusal in elsewhere] == [False, False, True]
    assert "on mps" in elsewhere[0].refusal
    assert dispatch.choose(rows_of(z, y), None, dispatch.Situation("mps")) == DEFINITION


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (rows_of(np.zeros((2, 3), np.int32), np.zeros(2, np.int64)), "not int32"),
        (rows_of(np.zeros((2, 3), np.float32), np.zeros(2, np.int8)), "not int8"),
        (EntryRows(np.zeros(3, np.complex64), np.zeros(3, np.float32)), "not complex64"),
    ],
    ids=["integer logits", "narrow indices", "complex entries"],
)
def test_numba_says_which_dtypes_it_takes(rows, said):
    (numba, refusal), *_ = dispatch.explain(rows, HERE)
    assert numba == NUMBA
    assert said in refusal


def test_a_hindrance_is_the_reason_of_every_kernel():
    rows = rows_of(matrix().detach(), INDICES)
    choices = dispatch.explain(rows, dispatch.Situation("cpu", "the moon is full"))
    assert choices == [
        (NUMBA, "the moon is full"),
        (TRITON, "the moon is full"),
        (DEFINITION, None),
    ]
