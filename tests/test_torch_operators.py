"""The operators that compilers record, by PyTorch's own checks of operators."""

from __future__ import annotations

import pytest
import torch

from xent.losses.autodiff import distilled, linear, linear_statistics
from xent.losses.autodiff.linear_pieces import Limits
from xent.losses.autodiff.operators import as_arguments
from xent.losses.autodiff.torch import _entry_operator, _softmax_operator
from xent.losses.kernels import LinearRows
from xent.losses.kernels.linear_distilled import SparseTargets, Teacher

G = torch.Generator().manual_seed(0)
Z = torch.randn(4, 5, 3, generator=G)
Y = torch.randint(0, 5, (4, 3), generator=G)
SOFT = torch.softmax(torch.randn(4, 5, 3, generator=G), 1)
WEIGHT, ROWS = torch.rand(5, generator=G), torch.rand(4, 3, generator=G, dtype=torch.float64)
Z2, T2, POSITIVE = (torch.rand(n, generator=G) for n in (6, 6, 3))

CALLS = {
    "class indices": (_softmax_operator, Z, Y, None, None, -100, 0.0, 1.0, None, 0.0),
    "every option": (_softmax_operator, Z, SOFT, WEIGHT, ROWS, None, 0.1, 0.7, None, 0.01),
    "softcap": (_softmax_operator, Z, Y, None, ROWS, None, 0.0, 1.0, 2.0, 0.0),
    "entries": (_entry_operator, Z2, T2, POSITIVE, None, 0.1),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_operator_keeps_what_an_operator_promises(name):
    operator, logits, *rest = CALLS[name]
    found = torch.library.opcheck(operator, (logits.clone().requires_grad_(), *rest))
    assert set(found.values()) == {"SUCCESS"}


HIDDEN, HEAD, BIAS = (torch.randn(n, generator=G) for n in ((7, 4), (9, 4), (9,)))
INDICES = torch.tensor([0, 1, 2, 3, -100, 5, 8])
OWN = torch.arange(7)  # each row's row of the teacher
IDS = torch.stack([torch.randperm(9, generator=G)[:3] for _ in range(7)])
LOGS = torch.log_softmax(torch.randn(7, 3, generator=G), 1) - 1.0
LIMITS = Limits(2**20, low_memory=True)


def of_target(target, rows):
    kind, operators = distilled._OPERATORS[type(target)]
    arguments = kind.as_arguments(rows, target, LIMITS)
    again, same, limits = kind.taken_apart(arguments)
    assert (again.temperature, limits) == (rows.temperature, LIMITS)
    assert all(a is b for a, b in zip(same.arrays(), target.arrays(), strict=True))
    assert same.divergence == target.divergence
    return operators, arguments


def linear_call(name, dtype):
    hidden, head, bias = (a.to(dtype, copy=True).requires_grad_() for a in (HIDDEN, HEAD, BIAS))
    if name in ("losses", "statistics"):
        weight = WEIGHT.repeat(2)[:9] if name == "losses" else None
        rows = LinearRows(hidden, head, bias, INDICES, weight, None, -100)
        module = linear if name == "losses" else linear_statistics
        return module._operators, as_arguments(rows, LIMITS)
    rows = LinearRows(hidden, head, bias, OWN, None, torch.rand(7).double(), temperature=2.0)
    target = SparseTargets(IDS, LOGS, name)
    if name == "teacher":
        target = Teacher(HIDDEN * 2.0, HEAD.flip(0), None, 1.5, 4.0, "jensen_shannon", 0.3)
    return of_target(target, rows)


@pytest.mark.parametrize("name", ["losses", "statistics", "bucket", "uniform", "teacher"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_operators_of_products_keep_what_an_operator_promises(name, dtype):
    operators, arguments = linear_call(name, dtype)
    checks = {}
    if dtype == torch.bfloat16:  # whose sums, with another number of classes, round otherwise
        checks = {"test_utils": ("test_schema", "test_autograd_registration", "test_faketensor")}
    found = torch.library.opcheck(operators.rows, arguments, **checks)
    assert set(found.values()) == {"SUCCESS"}
    assert (operators.sum is None) == (name == "statistics")
    if operators.sum is not None:
        arguments = (*arguments[:2], arguments[2].detach(), *arguments[3:])
        scale = torch.tensor(0.3, dtype=torch.float64)
        found = torch.library.opcheck(
            operators.sum, ([True, True, False], scale, *arguments), **checks
        )
        assert set(found.values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", ["losses", "bucket", "teacher"])
def test_a_sum_gives_the_derivatives_of_its_rows_once_and_again(name):
    operators, arguments = linear_call(name, torch.float64)
    inputs, scale = arguments[:3], torch.tensor(0.3, dtype=torch.float64)
    total, *own = operators.sum([True] * 3, scale, *arguments)
    assert not any(a.requires_grad for a in own)
    rows = operators.rows(*arguments).sum() * 0.3
    torch.testing.assert_close(total, rows)
    first = [torch.autograd.grad(a, inputs, create_graph=True) for a in (total, rows)]
    torch.testing.assert_close(*first, rtol=1e-5, atol=1e-7)
    once = torch.autograd.grad(total, inputs, retain_graph=True)
    torch.testing.assert_close(once, first[0], rtol=1e-5, atol=1e-7)
    second = [torch.autograd.grad(sum((b**2).sum() for b in a), inputs[:2]) for a in first]
    torch.testing.assert_close(*second, rtol=1e-5, atol=1e-7)
