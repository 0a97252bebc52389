"""Linear cross-entropy as a differentiable PyTorch function whose memory is bounded.

First derivatives come from the pieces of `xent.losses.kernels.linear_chunked`. A sum computes them
together with its value and keeps them, in float32 at least: the first backward pass scales, rounds
and gives them away, later ones compute them again. Losses of rows compute them when their upstream
gradient is known. Second derivatives are those of the definition, in blocks of rows, so they are
bounded too. Forward mode, the transforms of `torch.func` and many upstream gradients at once
differentiate the definition itself, block by block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any, NamedTuple, TypeAlias

import array_api_compat.torch as xp
import torch
from torch.utils.checkpoint import checkpoint

from xent.errors import OptionError
from xent.losses import definition, dispatch
from xent.losses.autodiff import operators
from xent.losses.autodiff.torch import (
    Reduction,
    defined,
    hindrance,
    is_traced,
    ready,
    reduced,
    terms_of,
    triton_rows,
    wide_dtype,
)
from xent.losses.kernels import LinearRows, SoftmaxRows
from xent.losses.kernels import linear_chunked as chunked
from xent.losses.kernels.linear_chunked import DEFAULT_WORKSPACE
from xent.losses.kernels.linear_products import Plan, RowKernel, RowResults, accumulation_dtype
from xent.losses.problem import Product

__all__ = [
    "DEFINED",
    "Limits",
    "ahead_of",
    "are_many",
    "as_arguments",
    "blocks_of",
    "by_autograd",
    "by_blocks",
    "emptied",
    "linear_losses",
    "needed_of",
    "planned",
    "recorded",
    "row_kernel",
    "scaled",
    "second_by_autograd",
    "situation_of",
    "taken_apart",
    "triton_linear",
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


# ---- the chunked kernel as a function ------------------------------------------------------------


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


def _losses(rows: LinearRows, limits: Limits) -> Tensor:
    """Return the loss of each row, without its weight."""
    own = ready(rows)
    return chunked.losses(own, *planned(own, limits, differentiated=False))


def _gradients(
    rows: LinearRows,
    limits: Limits,
    cotangent: Tensor | None,
    scale: float,
    needed: tuple[bool, bool, bool],
    *,
    wide: bool = False,
) -> chunked.Gradients:
    own = ready(rows)
    waiting = needed[1] and own.weight.dtype == wide_of(own)
    return chunked.gradients(
        own,
        *planned(own, limits, differentiated=True, waiting=waiting),
        cotangent=None if cotangent is None else cotangent.detach().to(torch.float64),
        scale=scale,
        needed=needed,
        wide=wide,
    )


def needed_of(rows: LinearRows) -> tuple[bool, bool, bool]:
    """Tell which of hidden, weight and bias ask for derivatives."""
    asked = [a is not None and a.requires_grad for a in (rows.hidden, rows.weight, rows.bias)]
    return asked[0], asked[1], asked[2]


def emptied(rows: LinearRows) -> LinearRows:
    """Return the rows without their arrays, which autograd keeps."""
    return rows.with_arrays((None,) * 6)


class _Summed(torch.autograd.Function):
    """``scale`` times the weighted sum of losses over rows."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Any,
        limits: Limits,
        scale: float | Tensor,
        dtype: torch.dtype,
        needed: Any,
    ) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            found = _gradients(rows, limits, None, ahead_of(rows, scale), needed, wide=True)
        ctx.save_for_backward(*rows.arrays())
        ctx.rows, ctx.limits, ctx.scale, ctx.needed = emptied(rows), limits, scale, needed
        ctx.stash = found[1:]
        return reduced(found.losses, rows.row_weight, "sum", scale, dtype)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        rows = ctx.rows.with_arrays(ctx.saved_tensors)
        ahead = ahead_of(rows, ctx.scale)
        factor = cotangent.to(torch.float64) * (ctx.scale if ahead == 1.0 else 1.0)
        if torch.is_grad_enabled() or are_many(cotangent):
            each = (factor * ahead).expand(rows.targets.shape[:1])
            return *_differentiable_gradients(rows, ctx.limits, each, ctx.needed), *(None,) * 5
        stash, ctx.stash = ctx.stash, None
        if stash is None:
            with torch.autocast(cotangent.device.type, enabled=False):
                stash = _gradients(rows, ctx.limits, None, ahead, ctx.needed, wide=True)[1:]
        return *scaled(stash, factor, rows), *(None,) * 5


def ahead_of(rows: LinearRows, scale: float | Tensor) -> float:
    """Return the factor that gradients are computed with before the upstream gradient is known.

    It is the scale, if that is known without waiting for a device. Half types wait for all
    factors: what a loss scale is there to save would be lost below them.
    """
    half = rows.hidden.dtype.itemsize < 4 or rows.weight.dtype.itemsize < 4
    return 1.0 if half or isinstance(scale, torch.Tensor) else scale


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


class _EachRow(torch.autograd.Function):
    """The loss of each row times its weight."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Any,
        limits: Limits,
        dtype: torch.dtype,
        needed: Any,
    ) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            losses = _losses(rows, limits)
        ctx.save_for_backward(*rows.arrays())
        ctx.rows, ctx.limits, ctx.needed = emptied(rows), limits, needed
        return reduced(losses, rows.row_weight, "none", 1.0, dtype)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        rows = ctx.rows.with_arrays(ctx.saved_tensors)
        if torch.is_grad_enabled() or are_many(cotangent):
            each = cotangent.to(torch.float64)
            return *_differentiable_gradients(rows, ctx.limits, each, ctx.needed), *(None,) * 4
        with torch.autocast(cotangent.device.type, enabled=False):
            found = _gradients(rows, ctx.limits, cotangent, 1.0, ctx.needed)
        return *found[1:], *(None,) * 4


class _WithoutLogits(torch.autograd.Function):
    """The loss of each row times its weight, of which a GPU holds no logits."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Any,
        limits: Limits,
        needed: Any,
    ) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            found = triton_linear().forward(ready(rows))
        ctx.save_for_backward(*rows.arrays(), found.saved)
        ctx.rows, ctx.limits, ctx.needed = emptied(rows), limits, needed
        return reduced(found.loss.to(torch.float64), rows.row_weight, "none", 1.0, torch.float64)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        *arrays, saved = ctx.saved_tensors
        rows, needed = ctx.rows.with_arrays(tuple(arrays)), ctx.needed
        if torch.is_grad_enabled() or are_many(cotangent):
            return *_differentiable_gradients(rows, ctx.limits, cotangent, needed), *(None,) * 3
        with torch.autocast(cotangent.device.type, enabled=False):
            found = triton_linear().backward(
                ready(rows), saved, cotangent, hidden=needed[0], weight=needed[1], bias=needed[2],
                filter_below=ctx.limits.filter_below,
            )  # fmt: skip
        return *found, *(None,) * 3


def triton_linear() -> Any:
    """Import the kernel without logits, which brings triton with it."""
    from xent.losses.kernels import triton_linear as module

    return module


# ---- many upstream gradients at once -------------------------------------------------------------


def are_many(*cotangents: Tensor | None) -> bool:
    """Tell whether upstream gradients stand for many at once, none of which can be looked at.

    So they do within `torch.func.vmap`, and where `torch.autograd.grad` has `is_grads_batched`.
    """
    functorch = torch._C._functorch
    return functorch.get_dynamic_layer_stack_depth() > 0 or any(
        g is not None and functorch.is_legacy_batchedtensor(g) for g in cotangents
    )


def by_autograd(
    compute: Callable[[LinearRows], Tensor],
    rows: LinearRows,
    cotangent: Tensor,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor | None, ...]:
    """Return derivatives by hidden, weight and bias from the graph of what is computed of rows."""
    differentiated = torch.is_grad_enabled()
    with torch.enable_grad():
        wanted = [a for a, asked in zip(rows.arrays()[:3], needed, strict=True) if asked]
        result = compute(rows)
        found = iter(torch.autograd.grad(result, wanted, cotangent, create_graph=differentiated))
    return tuple(next(found) if asked else None for asked in needed)


# ---- second derivatives --------------------------------------------------------------------------


def _differentiable_gradients(
    rows: LinearRows, limits: Limits, cotangent: Tensor, needed: tuple[bool, bool, bool]
) -> tuple[Tensor | None, ...]:
    """Return derivatives of Σ cotangent·row weight·loss that can be differentiated, or mapped."""
    if are_many(cotangent):
        return by_autograd(lambda own: _weighted(own, limits), rows, cotangent, needed)
    arrays = rows.hidden, rows.weight, rows.bias
    found: tuple[Tensor | None, ...] = _Gradients.apply(*arrays, cotangent, rows, limits, needed)
    return found


class _Gradients(torch.autograd.Function):
    """The derivatives by hidden, weight and bias, as functions of these and of the cotangent."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        cotangent: Tensor,
        rows: Any,
        limits: Limits,
        needed: Any,
    ) -> tuple[Tensor | None, ...]:
        with torch.autocast(hidden.device.type, enabled=False):
            found = _gradients(rows, limits, cotangent, 1.0, needed)
        ctx.save_for_backward(*rows.arrays(), cotangent)
        ctx.rows, ctx.limits = emptied(rows), limits
        ctx.set_materialize_grads(False)
        return found[1:]

    @staticmethod
    def backward(ctx: Any, *vectors: Tensor | None) -> tuple[Tensor | None, ...]:
        *arrays, cotangent = ctx.saved_tensors
        rows = ctx.rows.with_arrays(tuple(arrays))
        whole = torch.is_grad_enabled() or are_many(*vectors)
        compute = _second_differentiably if whole else _second
        with torch.autocast(cotangent.device.type, enabled=False):
            found = compute(rows, ctx.limits, cotangent, vectors)
        asked = ctx.needs_input_grad[:4]
        return *(f if a else None for f, a in zip(found, asked, strict=True)), None, None, None


def blocks_of(rows: LinearRows, limits: Limits) -> Iterator[slice]:
    """Cut rows so that the definition's own numbers stay within the workspace."""
    count, classes = rows.hidden.shape[0], rows.weight.shape[0]
    step = max(1, limits.workspace_bytes // (8 * DEFINED * max(1, classes)))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _second(
    rows: LinearRows, limits: Limits, cotangent: Tensor, vectors: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    r"""Return the derivatives of ⟨gradients, vectors⟩ by hidden, weight, bias and cotangent.

    With the logits' tangent ``ż = V_h·Wᵀ + h·V_Wᵀ + v_b``, the inner product is Σ c·g·ż over
    rows, g = ∂loss/∂z. So by c it is g·ż; and with ``A = c·(∂²loss/∂z²)·ż`` and ``B = c·g`` it is
    A·W + B·V_W by h, Aᵀ·h + Bᵀ·V_h by W, and Σ A by b.
    """
    dtype = wide_of(rows)
    hidden, weight = _kept_hidden(rows).detach(), rows.weight.detach()
    bias = None if rows.bias is None else rows.bias.detach()
    v_hidden, v_weight, v_bias = vectors
    wide = weight.to(dtype)
    v_wide = None if v_weight is None else v_weight.to(dtype)
    by_hidden = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
    by_weight = torch.zeros_like(wide)
    by_bias = None if bias is None else torch.zeros(bias.shape, dtype=torch.float64).to(bias.device)
    by_cotangent = torch.zeros_like(cotangent, dtype=torch.float64)
    for part in blocks_of(rows, limits):
        h = hidden[part].to(dtype)
        v_h = None if v_hidden is None else v_hidden[part].to(dtype)
        logits, tangent = h @ wide.t(), torch.zeros_like(h[:, :1] @ wide[:, :1].t())
        if bias is not None:
            logits += bias.to(dtype)
        if v_h is not None:
            tangent += v_h @ wide.t()
        if v_wide is not None:
            tangent += h @ v_wide.t()
        if v_bias is not None:
            tangent += v_bias.to(dtype)
        of = ready(rows.of_logits(logits, part))
        z, t, transform, kept, outside = terms_of(of)
        s = definition.softmax(xp, z, transform, t)
        row_weight = 1.0 if of.row_weight is None else of.row_weight
        each = torch.where(kept[:, None], cotangent[part].to(z.dtype)[:, None] * row_weight, 0.0)
        if outside is not None:
            each = each + torch.where(outside, torch.nan, 0.0)[:, None]
        moved = torch.where(kept[:, None], tangent.to(z.dtype), 0.0)
        slope = definition.softmax_gradient(xp, s, z, t, transform, rows.z_loss)
        curved = definition.softmax_product(xp, s, z, t, moved, transform, rows.z_loss)
        along = torch.where(kept[:, None], slope * row_weight * moved, 0.0)
        by_cotangent[part] = definition.sum_over(xp, along)[:, 0]
        a, b = (each * curved).to(dtype), (each * slope).to(dtype)
        by_hidden[part] = a @ wide
        by_weight.addmm_(a.t(), h)
        if v_wide is not None:
            by_hidden[part] += b @ v_wide
        if v_h is not None:
            by_weight.addmm_(b.t(), v_h)
        if by_bias is not None:
            by_bias += a.sum(0, dtype=torch.float64)
    return (
        by_hidden.to(hidden.dtype),
        by_weight.to(weight.dtype),
        None if by_bias is None or bias is None else by_bias.to(bias.dtype),
        by_cotangent.to(cotangent.dtype),
    )


def _second_differentiably(
    rows: LinearRows, limits: Limits, cotangent: Tensor, vectors: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """Return the same for third derivatives and further ones: the logits are held for them."""
    return second_by_autograd(lambda own: _weighted(own, limits), rows, cotangent, vectors)


def second_by_autograd(
    compute: Callable[[LinearRows], Tensor],
    rows: LinearRows,
    cotangent: Tensor,
    vectors: tuple[Tensor | None, ...],
) -> tuple[Tensor | None, ...]:
    """Return derivatives of ⟨gradients, vectors⟩ from the graph of weighted losses of rows."""
    differentiated = torch.is_grad_enabled()
    inputs = [a for a in (*rows.arrays()[:3], cotangent) if a is not None]
    inputs = [a if a.requires_grad else a.detach().requires_grad_() for a in inputs]
    hidden, weight, *others, each = inputs
    bias = others[0] if others else None
    pairs = [(a, v) for a, v in zip((hidden, weight, bias), vectors, strict=True) if v is not None]
    with torch.enable_grad():
        losses = compute(replace(rows, hidden=hidden, weight=weight, bias=bias))
        first = torch.autograd.grad(losses, [a for a, _ in pairs], each, create_graph=True)
        found = torch.autograd.grad(
            first, inputs, [v for _, v in pairs], create_graph=differentiated, allow_unused=True
        )
    by_hidden, by_weight, *rest, by_cotangent = found
    return by_hidden, by_weight, rest[0] if rest else None, by_cotangent


# ---- the definition ------------------------------------------------------------------------------


def _kept_hidden(rows: LinearRows) -> Tensor:
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
        hidden, parts = _kept_hidden(rows), [slice(None)]
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


def _defined(rows: LinearRows, limits: Limits) -> Tensor:
    """Return the loss of each row, without its weight, by differentiable operations."""
    return by_blocks(rows, limits, lambda of: defined(of)[:, 0])


def _weighted(rows: LinearRows, limits: Limits) -> Tensor:
    """Return weight·loss of each row from the definition."""
    wide = wide_dtype(rows.hidden)
    return reduced(_defined(rows, limits), rows.row_weight, "none", 1.0, wide)


# ---- kernels as operators ------------------------------------------------------------------------


def taken_apart(arguments: tuple[Any, ...]) -> tuple[LinearRows, Limits]:
    """Return rows and limits from the arguments of an operator."""
    *of_rows, workspace_bytes, invariant, low_memory = arguments
    return LinearRows(*of_rows), Limits(workspace_bytes, invariant, low_memory=low_memory)


def as_arguments(rows: LinearRows, limits: Limits) -> tuple[Any, ...]:
    """Return the arguments of an operator: six arrays, then numbers."""
    of_rows = (getattr(rows, field.name) for field in fields(rows))
    return *of_rows, limits.workspace_bytes, limits.invariant, limits.low_memory


def _recorded_rows(*arguments: Any) -> Tensor:
    rows, limits = taken_apart(arguments)
    return reduced(_losses(rows, limits), rows.row_weight, "none", 1.0, torch.float64)


def _recorded_gradients(
    found: Tensor, upstream: Tensor, needed: tuple[bool, bool, bool], *arguments: Any
) -> tuple[Tensor | None, ...]:
    return _gradients(*taken_apart(arguments), upstream, 1.0, needed)[1:]


def _recorded_sum(needed: tuple[bool, bool, bool], *arguments: Any) -> tuple[Any, ...]:
    rows, limits = taken_apart(arguments)
    losses, *by = _gradients(rows, limits, None, 1.0, needed, wide=True)
    return reduced(losses, rows.row_weight, "sum", 1.0, torch.float64), *by


_operators = operators.define(
    "linear_losses",
    operators.ARRAYS,
    operators.NUMBERS,
    rows=_recorded_rows,
    defined=lambda *arguments: _weighted(*taken_apart(arguments)),
    gradients=_recorded_gradients,
    ahead=_recorded_sum,
)


def recorded(
    own: operators.Operators,
    arguments: tuple[Any, ...],
    needed: tuple[bool, bool, bool],
    reduction: Reduction,
    scale: float | Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """Return losses, or their sum, by an operator that compilers may record."""
    if reduction == "sum" and any(needed):
        return reduced(own.sum(list(needed), *arguments)[0], None, "sum", scale, dtype)
    return reduced(own.rows(*arguments), None, reduction, scale, dtype)


# ---- the function --------------------------------------------------------------------------------


def linear_losses(
    rows: LinearRows,
    *,
    reduction: Reduction,
    scale: float | Tensor = 1.0,
    dtype: torch.dtype = torch.float32,
    kernel: str | None = None,
    limits: Limits = USUAL,
) -> Tensor:
    """Return row weight·loss of each row, or ``scale`` times their sum.

    Parameters
    ----------
    rows
        Rows of tensors. Derivatives flow to hidden, weight and bias; to soft targets and weights
        that ask for them by the definition, for which the logits are held in blocks.
    reduction
        ``"none"`` for (rows,), or ``"sum"`` for one number.
    scale
        A factor of the sum: 1/divisor for a mean. A tensor is not differentiated.
    dtype
        Dtype of the result, rounded once from the wide value.
    kernel
        A kernel's name, to insist; by default the first that does not refuse.
    limits
        The memory of the pieces.
    """
    chosen = dispatch.choose(rows, kernel, situation_of(rows))
    if rows.hidden.device.type == "meta":
        chosen = "definition"
    if limits.filter_below is not None and chosen != "triton_linear":
        raise OptionError(
            f"filter_below is for kernel='triton_linear': got {limits.filter_below!r} and the "
            f"kernel {chosen!r}. Hint: None, the default, leaves nothing out."
        )
    if chosen == "definition":
        return reduced(_defined(rows, limits), rows.row_weight, reduction, scale, dtype)
    # What keeps a graph has to be known here: within a function's forward all inputs ask for one.
    needed = needed_of(rows) if torch.is_grad_enabled() else (False, False, False)
    if is_traced(rows.hidden):
        if chosen == "triton_linear":
            raise OptionError(
                "kernel='triton_linear' cannot take these rows: operations are recorded, and it is "
                "no operator. Hint: kernel=None takes the first kernel that can."
            )
        # gradients that wait until their upstream is known are rounded at once
        how = (False, False, False) if limits.low_memory else needed
        return recorded(_operators, as_arguments(rows, limits), how, reduction, scale, dtype)
    arrays = rows.hidden, rows.weight, rows.bias
    if chosen == "triton_linear":
        losses = _WithoutLogits.apply(*arrays, rows, limits, needed)
        return reduced(losses, None, reduction, scale, dtype)
    if reduction == "none":
        return _EachRow.apply(*arrays, rows, limits, dtype, needed)
    if limits.low_memory:  # gradients wait until their upstream is known, and are rounded at once
        losses = _EachRow.apply(*arrays, rows, limits, torch.float64, needed)
        return reduced(losses, None, reduction, scale, dtype)
    if not isinstance(scale, torch.Tensor) or (scale.device.type == "cpu"):
        scale = float(scale)
    return _Summed.apply(*arrays, rows, limits, scale, dtype, needed)


def situation_of(rows: LinearRows) -> dispatch.Situation:
    """Say where rows are, and what keeps kernels from them."""
    others = rows.arrays()[3:]
    reasons = [hindrance(a, others) for a in (rows.hidden, rows.weight, rows.bias) if a is not None]
    return dispatch.Situation(
        rows.hidden.device.type, next((r for r in reasons if r is not None), None)
    )
