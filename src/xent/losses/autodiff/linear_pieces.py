"""What functions of rows whose logits are a product share: limits, plans, row kernels, blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import array_api_compat.torch as xp
import torch
from torch.utils.checkpoint import checkpoint

from xent.losses import definition, dispatch
from xent.losses.autodiff.torch import hindrance, terms_of, triton_rows
from xent.losses.kernels import LinearRows, SoftmaxRows
from xent.losses.kernels import linear_chunked as chunked
from xent.losses.kernels.linear_chunked import DEFAULT_WORKSPACE
from xent.losses.kernels.linear_products import Plan, RowKernel, RowResults, accumulation_dtype
from xent.losses.problem import Product

__all__ = [
    "DEFINED",
    "USUAL",
    "Limits",
    "ahead_of",
    "are_half",
    "are_many",
    "blocks_of",
    "by_autograd",
    "by_blocks",
    "by_graph",
    "emptied",
    "kept_hidden",
    "needed_of",
    "planned",
    "row_kernel",
    "scaled",
    "second_by_autograd",
    "situation_of",
    "wide_of",
]

Tensor: TypeAlias = torch.Tensor
DEFINED = Product.HELD


class Limits(NamedTuple):
    """What memory and work a call may take.

    Attributes
    ----------
    workspace_bytes
        What pieces of logits may take.
    invariant
        Whether pieces are all of one size, so that a row's bits do not depend on others.
    filter_below
        For the kernel without logits: what share of a row's gradient may be left out.
    low_memory
        Whether no float32 copy of the weight's gradient is held, at the price of two products.
    """

    workspace_bytes: int = DEFAULT_WORKSPACE
    invariant: bool = False
    filter_below: float | None = None
    low_memory: bool = False


USUAL = Limits()


def wide_of(rows: LinearRows) -> torch.dtype:
    """Return the dtype of the logits."""
    return accumulation_dtype(rows.hidden, rows.weight, rows.bias)


def needed_of(rows: LinearRows) -> tuple[bool, bool, bool]:
    """Tell which of hidden, weight and bias ask for derivatives."""
    asked = [a is not None and a.requires_grad for a in (rows.hidden, rows.weight, rows.bias)]
    return asked[0], asked[1], asked[2]


def emptied(rows: LinearRows) -> LinearRows:
    """Return the rows without their arrays, which autograd keeps."""
    return rows.with_arrays((None,) * 6)


def situation_of(rows: LinearRows) -> dispatch.Situation:
    """Say where rows are, and what keeps kernels from them."""
    others = rows.arrays()[3:]
    reasons = [hindrance(a, others) for a in (rows.hidden, rows.weight, rows.bias) if a is not None]
    return dispatch.Situation(
        rows.hidden.device.type, next((r for r in reasons if r is not None), None)
    )


# ---- row kernels ---------------------------------------------------------------------------------


def _numba_rows(
    rows: SoftmaxRows, *, gradient: bool, cotangent: Tensor | None = None, scale: float = 1.0
) -> RowResults:
    """Compute rows on a CPU; the gradient takes the place of the logits where it can."""
    losses, logsumexp = torch.empty((2, *rows.places), dtype=torch.float64, device="cpu")
    module, slopes = dispatch.cpu_rows(), None
    if gradient:
        slopes = rows.logits if module.in_place(rows) else torch.empty_like(rows.logits)
    module.softmax(
        rows,
        losses=losses,
        logsumexp=logsumexp,
        gradient=slopes,
        cotangent=None if cotangent is None else cotangent.contiguous(),
        scale=scale,
    )
    return RowResults(losses[:, 0], logsumexp[:, 0], None if slopes is None else slopes[..., 0])


def _triton_rows(
    rows: SoftmaxRows, *, gradient: bool, cotangent: Tensor | None = None, scale: float = 1.0
) -> RowResults:
    """Compute rows on a GPU."""
    found = triton_rows().forward(rows)
    slopes = None
    if gradient:
        each = torch.full(rows.places, scale, dtype=torch.float64, device=rows.logits.device)
        if cotangent is not None:
            each *= cotangent[:, None]
        slopes = triton_rows().backward(rows, found.saved, each)[..., 0]
    losses, logsumexp = (a.to(torch.float64)[:, 0] for a in (found.loss, found.logsumexp))
    return RowResults(losses, logsumexp, slopes)


def _defined_rows(
    rows: SoftmaxRows, *, gradient: bool, cotangent: Tensor | None = None, scale: float = 1.0
) -> RowResults:
    """Compute rows by the definition's own formulas."""
    z, t, transform, kept, outside = terms_of(rows)
    s = definition.softmax(xp, z, transform, t)
    wrong = 0.0 if outside is None else torch.where(outside, torch.nan, 0.0)
    losses = torch.where(kept, definition.softmax_loss(xp, s, t, rows.z_loss) + wrong, 0.0)
    logsumexp = (s.shift + s.log_sum)[:, 0]
    if not gradient:
        return RowResults(losses, logsumexp, None)
    slopes = definition.softmax_gradient(xp, s, z, t, transform, rows.z_loss)
    factor = torch.full_like(losses, scale) + wrong
    if cotangent is not None:
        factor = factor * cotangent
    if rows.row_weight is not None:
        factor = factor * rows.row_weight.reshape(-1)
    slopes = torch.where(kept[:, None], slopes * factor[:, None], 0.0)
    return RowResults(losses, logsumexp, slopes.to(rows.logits.dtype))


_ROW_KERNELS = {
    "numba_rows": _numba_rows,
    "triton_rows": _triton_rows,
    "definition": _defined_rows,
}


def row_kernel(rows: SoftmaxRows) -> tuple[str, RowKernel]:
    """Return the name of the kernel that computes rows of logits, and the kernel."""
    name = dispatch.choose(rows, None, dispatch.Situation(rows.logits.device.type))
    return name, _ROW_KERNELS[name]


# ---- how the work is cut -------------------------------------------------------------------------


def planned(
    rows: LinearRows,
    limits: Limits,
    *,
    differentiated: bool,
    whole: bool = False,
    waiting: bool = False,
    more_copies: int = 0,
) -> tuple[Plan, RowKernel]:
    """Return how the work is cut, and the kernel that computes rows of logits.

    Parameters
    ----------
    rows, limits
        The rows, and the memory that pieces of them may take.
    differentiated, whole, waiting
        As for `chunked.plan_of`.
    more_copies
        Numbers that are held for each logit beside those of the row kernel.
    """
    one = torch.empty((1, rows.weight.shape[0]), dtype=wide_of(rows), device=rows.weight.device)
    like = rows.of_logits(one, slice(0, 1))
    name, kernel = row_kernel(like)
    # What the row kernel holds for each logit, as multiples of the logit.
    copies = {"numba_rows": 2, "triton_rows": 2}.get(name, 2 * DEFINED)
    if name == "numba_rows" and dispatch.cpu_rows().in_place(like):
        copies = 1
    plan = chunked.plan_of(
        rows,
        limits.workspace_bytes,
        copies=copies + more_copies,
        differentiated=differentiated,
        invariant=limits.invariant,
        together=limits.low_memory,
        whole=whole,
        waiting=waiting,
    )
    return plan, kernel


def blocks_of(rows: LinearRows, limits: Limits) -> Iterator[slice]:
    """Cut rows so that the definition's own numbers stay within the workspace."""
    count, classes = rows.hidden.shape[0], rows.weight.shape[0]
    step = max(1, limits.workspace_bytes // (8 * DEFINED * max(1, classes)))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


# ---- gradients that wait for their upstream ------------------------------------------------------


def ahead_of(rows: LinearRows, scale: float | Tensor) -> float:
    """Return the factor that gradients are computed with before the upstream gradient is known.

    It is the scale, if that is known without waiting for a device. Half types wait for all
    factors: what a loss scale is there to save would be lost below them.
    """
    half = are_half(rows.hidden, rows.weight)
    return 1.0 if half or isinstance(scale, torch.Tensor) else scale


def are_half(hidden: Tensor, weight: Tensor) -> bool:
    """Tell whether derivatives by one of them are of a half type, so that factors come first."""
    return hidden.dtype.itemsize < 4 or weight.dtype.itemsize < 4


def scaled(
    stash: tuple[Tensor | None, ...], factor: Tensor, rows: LinearRows
) -> tuple[Tensor | None, ...]:
    """Multiply wide gradients in their own memory, and return them as the rows' dtypes want."""
    if factor.device.type != "cpu" or factor.item() != 1.0:
        for gradient in stash:
            if gradient is not None:
                gradient.mul_(factor.to(gradient.dtype))
    return tuple(
        None if g is None else g.to(a.dtype) for g, a in zip(stash, rows.arrays()[:3], strict=True)
    )


# ---- the definition ------------------------------------------------------------------------------


def kept_hidden(rows: LinearRows) -> Tensor:
    """Return hidden states with zeros in rows that are not looked at: NaN times 0 is NaN."""
    kept = chunked.is_kept(rows)
    return rows.hidden if kept is None else torch.where(kept[:, None], rows.hidden, 0.0)


def _no_autocast(device: torch.device) -> Any:
    """Return the context in which products are computed in the dtypes that they are given."""
    if device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


def by_blocks(rows: LinearRows, limits: Limits, compute: Callable[[SoftmaxRows], Tensor]) -> Tensor:
    """Return what differentiable operations compute of each row, some rows of logits at a time.

    In a graph the logits of a block are made again when they are needed; forward mode holds those
    of one block, and transforms of `torch.func` all that they differentiate.
    """
    dtype = wide_of(rows)
    weight = rows.weight.to(dtype)
    bias = None if rows.bias is None else rows.bias.to(dtype)

    def block(hidden: Tensor, part: slice) -> Tensor:
        logits = torch.nn.functional.linear(hidden.to(dtype), weight, bias)
        return compute(rows.of_logits(logits, part))

    with _no_autocast(rows.hidden.device):
        hidden, parts = kept_hidden(rows), [slice(None)]
        if not torch.compiler.is_compiling():
            parts = list(blocks_of(rows, limits))
        if len(parts) < 2:
            return block(hidden, slice(None))
        again = torch.is_grad_enabled() and torch._C._functorch.get_dynamic_layer_stack_depth() == 0
        again = again and torch.autograd.forward_ad._current_level < 0
        return torch.cat(
            [
                checkpoint(block, hidden[part], part, use_reentrant=False)
                if again
                else block(hidden[part], part)
                for part in parts
            ]
        )


# ---- derivatives from a graph --------------------------------------------------------------------


def are_many(*cotangents: Tensor | None) -> bool:
    """Tell whether upstream gradients stand for many at once, none of which can be looked at.

    So they do within `torch.func.vmap`, and where `torch.autograd.grad` has `is_grads_batched`.
    """
    functorch = torch._C._functorch
    return functorch.get_dynamic_layer_stack_depth() > 0 or any(
        g is not None and functorch.is_legacy_batchedtensor(g) for g in cotangents
    )


def by_graph(
    compute: Callable[..., Tensor],
    arrays: tuple[Tensor | None, ...],
    cotangent: Tensor,
    needed: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Return derivatives by arrays from the graph of what is computed of them.

    They are derivatives by aliases: an array may be made from another, as hidden states are from a
    tied embedding, and that path is the caller's.
    """
    differentiated = torch.is_grad_enabled()
    with torch.enable_grad():
        own = [
            a.view_as(a) if asked and a is not None else a
            for a, asked in zip(arrays, needed, strict=True)
        ]
        wanted = [a for a, asked in zip(own, needed, strict=True) if asked]
        result = compute(*own)
        found = iter(torch.autograd.grad(result, wanted, cotangent, create_graph=differentiated))
    return tuple(next(found) if asked else None for asked in needed)


def by_autograd(
    compute: Callable[[LinearRows], Tensor],
    rows: LinearRows,
    cotangent: Tensor,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor | None, ...]:
    """Return derivatives by hidden, weight and bias from the graph of what is computed of rows."""
    *first, d, e, f = rows.arrays()
    return by_graph(
        lambda *own: compute(rows.with_arrays((*own, d, e, f))), tuple(first), cotangent, needed
    )


def second_by_autograd(
    compute: Callable[[LinearRows], Tensor],
    rows: LinearRows,
    cotangent: Tensor,
    vectors: tuple[Tensor | None, ...],
) -> tuple[Tensor | None, ...]:
    """Return derivatives of ⟨gradients, vectors⟩ from the graph of weighted losses of rows."""
    differentiated = torch.is_grad_enabled()
    inputs = [a for a in (*rows.arrays()[:3], cotangent) if a is not None]
    with torch.enable_grad():  # aliases, as above
        inputs = [a.view_as(a) if a.requires_grad else a.detach().requires_grad_() for a in inputs]
        hidden, weight, *others, each = inputs
        bias = others[0] if others else None
        arrays = hidden, weight, bias
        pairs = [(a, v) for a, v in zip(arrays, vectors, strict=True) if v is not None]
        losses = compute(replace(rows, hidden=hidden, weight=weight, bias=bias))
        first = torch.autograd.grad(losses, [a for a, _ in pairs], each, create_graph=True)
        found = torch.autograd.grad(
            first, inputs, [v for _, v in pairs], create_graph=differentiated, allow_unused=True
        )
    by_hidden, by_weight, *rest, by_cotangent = found
    return by_hidden, by_weight, rest[0] if rest else None, by_cotangent
