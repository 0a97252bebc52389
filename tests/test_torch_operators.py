"""The operators that compilers record, by PyTorch's own checks of operators."""

from __future__ import annotations

import pytest
import torch

from xent.losses.autodiff.torch import _entry_operator, _softmax_operator

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
