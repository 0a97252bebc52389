"""Linear cross-entropy as a differentiable PyTorch function whose memory is bounded.

First derivatives come from the pieces of `xent.losses.kernels.linear_chunked`. A sum computes them
together with its value and keeps them, in float32 at least: the first backward pass scales, rounds
and gives them away, later ones compute them again. Losses of rows compute them when their upstream
gradient is known. Second derivatives are those of the definition, in blocks of rows, so they are
bounded too. Forward mode, the transforms of `torch.func` and many upstream gradients at once
differentiate the definition itself, block by block.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import array_api_compat.torch as xp
import torch

from xent.errors import OptionError
from xent.losses import definition, dispatch
from xent.losses.autodiff import operators
from xent.losses.autodiff.linear_pieces import (
    USUAL,
    Limits,
    ahead_of,
    are_many,
    blocks_of,
    by_autograd,
    by_blocks,
    emptied,
    kept_hidden,
    needed_of,
    planned,
    scaled,
    second_by_autograd,
    situation_of,
    wide_of,
)
from xent.losses.autodiff.operators import as_arguments, recorded, taken_apart
from xent.losses.autodiff.torch import (
    Reduction,
    defined,
    is_traced,
    ready,
    reduced,
    terms_of,
    wide_dtype,
)
from xent.losses.kernels import LinearRows
from xent.losses.kernels import linear_chunked as chunked

__all__ = ["linear_losses"]

Tensor: TypeAlias = torch.Tensor


# ---- the chunked kernel as a function ------------------------------------------------------------


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
            found = _triton_linear().forward(ready(rows))
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
            found = _triton_linear().backward(
                ready(rows), saved, cotangent, hidden=needed[0], weight=needed[1], bias=needed[2],
                filter_below=ctx.limits.filter_below,
            )  # fmt: skip
        return *found, *(None,) * 3


def _triton_linear() -> Any:
    """Import the kernel without logits, which brings triton with it."""
    from xent.losses.kernels import triton_linear as module

    return module


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


def _second(
    rows: LinearRows, limits: Limits, cotangent: Tensor, vectors: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    r"""Return the derivatives of ⟨gradients, vectors⟩ by hidden, weight, bias and cotangent.

    With the logits' tangent ``ż = V_h·Wᵀ + h·V_Wᵀ + v_b``, the inner product is Σ c·g·ż over
    rows, g = ∂loss/∂z. So by c it is g·ż; and with ``A = c·(∂²loss/∂z²)·ż`` and ``B = c·g`` it is
    A·W + B·V_W by h, Aᵀ·h + Bᵀ·V_h by W, and Σ A by b.
    """
    dtype = wide_of(rows)
    hidden, weight = kept_hidden(rows).detach(), rows.weight.detach()
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


# ---- the definition ------------------------------------------------------------------------------


def _defined(rows: LinearRows, limits: Limits) -> Tensor:
    """Return the loss of each row, without its weight, by differentiable operations."""
    return by_blocks(rows, limits, lambda of: defined(of)[:, 0])


def _weighted(rows: LinearRows, limits: Limits) -> Tensor:
    """Return weight·loss of each row from the definition."""
    wide = wide_dtype(rows.hidden)
    return reduced(_defined(rows, limits), rows.row_weight, "none", 1.0, wide)


# ---- kernels as operators ------------------------------------------------------------------------


def _recorded_rows(*arguments: Any) -> Tensor:
    rows, limits = taken_apart(arguments)
    return reduced(_losses(rows, limits), rows.row_weight, "none", 1.0, torch.float64)


def _recorded_gradients(
    found: Tensor, upstream: Tensor, needed: tuple[bool, bool, bool], *arguments: Any
) -> tuple[Tensor | None, ...]:
    return _gradients(*taken_apart(arguments), upstream, 1.0, needed)[1:]


def _recorded_sum(
    factor: float, needed: tuple[bool, bool, bool], *arguments: Any
) -> tuple[Any, ...]:
    rows, limits = taken_apart(arguments)
    losses, *by = _gradients(rows, limits, None, factor, needed, wide=True)
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
