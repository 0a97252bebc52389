"""Losses against a teacher as differentiable PyTorch functions whose memory is bounded.

As `xent.losses.autodiff.linear`, for the rows of `xent.losses.kernels.linear_distilled`: a sum
computes its gradients together with its value, the first backward pass scales and gives them away,
later ones compute them again; losses of rows compute them when their upstream gradient is known.
Second derivatives come from the definition, a block of rows at a time. Forward mode, the transforms
of `torch.func` and many upstream gradients at once run the definition itself.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple, TypeAlias

import torch

from xent.errors import OptionError
from xent.losses import dispatch
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
    needed_of,
    planned,
    scaled,
    second_by_autograd,
    situation_of,
    wide_of,
)
from xent.losses.autodiff.operators import as_arguments, recorded, taken_apart
from xent.losses.autodiff.torch import Reduction, hindrance, is_traced, ready, reduced
from xent.losses.kernels import LinearRows
from xent.losses.kernels import linear_chunked as chunked
from xent.losses.kernels.linear_distilled import (
    SparseTargets,
    Target,
    Teacher,
    sparse_kernel,
    teacher_kernel,
)

__all__ = ["distilled_losses"]

Tensor: TypeAlias = torch.Tensor
SECOND = 4
"""How many times the numbers of a loss its second derivatives hold, at most."""


class _Call(NamedTuple):
    """What a function computes; its arrays are apart from it where autograd keeps them."""

    rows: LinearRows  # whose targets are the rows of the teacher
    target: Any
    limits: Limits
    needed: tuple[bool, bool, bool]

    def keep(self, ctx: Any, *others: Tensor) -> None:
        """Leave the arrays to autograd."""
        arrays = self.target.arrays()
        ctx.save_for_backward(*self.rows.arrays(), *arrays, *others)
        target = self.target.with_arrays((None,) * len(arrays))
        ctx.call = self._replace(rows=emptied(self.rows), target=target)


def _kept(ctx: Any) -> tuple[_Call, tuple[Tensor, ...]]:
    """Return the call with its arrays, and what was kept beside them."""
    count, call = len(ctx.call.target.arrays()), ctx.call
    saved = ctx.saved_tensors  # a checkpoint hands them out once
    arrays, own, others = saved[:6], saved[6 : 6 + count], saved[6 + count :]
    return (
        call._replace(rows=call.rows.with_arrays(arrays), target=call.target.with_arrays(own)),
        others,
    )


def _prepared(
    rows: LinearRows, target: Target, limits: Limits, *, differentiated: bool
) -> tuple[chunked.Plan, chunked.RowKernel]:
    """Return how the work is cut, and the kernel for rows of logits."""
    if isinstance(target, Teacher):
        classes, features = target.weight.shape
        size = wide_of(rows).itemsize
        held = target.dtype.itemsize // size or 1  # the teacher's logits
        room = 1 + -(-4 * features // max(1, classes))  # its rows, and temporaries
        plan = chunked.plan_of(
            rows,
            limits.workspace_bytes,
            copies=1 + held + room,
            differentiated=differentiated,
            whole=True,
        )
        return plan, teacher_kernel(target, plan)
    assert isinstance(target, SparseTargets)
    plan, base = planned(
        rows, limits, differentiated=differentiated, whole=True, more_copies=target.copies
    )
    return plan, sparse_kernel(target, base)


def _gradients(
    call: _Call,
    cotangent: Tensor | None,
    scale: float,
    needed: tuple[bool, bool, bool] | None = None,
    *,
    wide: bool = False,
) -> chunked.Gradients:
    """Return losses, and the derivatives that the call needs."""
    rows = ready(call.rows)
    needed = call.needed if needed is None else needed
    with torch.no_grad(), torch.autocast(rows.hidden.device.type, enabled=False):
        return chunked.gradients(
            rows,
            *_prepared(rows, call.target, call.limits, differentiated=any(needed)),
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
        call: Any,
        scale: float | Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        found = _gradients(call, None, ahead_of(call.rows, scale), wide=True)
        call.keep(ctx)
        ctx.scale, ctx.stash = scale, found[1:]
        return reduced(found.losses, call.rows.row_weight, "sum", scale, dtype)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        call, _ = _kept(ctx)
        ahead = ahead_of(call.rows, ctx.scale)
        factor = cotangent.to(torch.float64) * (ctx.scale if ahead == 1.0 else 1.0)
        if torch.is_grad_enabled() or are_many(cotangent):
            each = (factor * ahead).expand(call.rows.targets.shape[:1])
            return *_again(call, each), *(None,) * 3
        stash, ctx.stash = ctx.stash, None
        if stash is None:
            stash = _gradients(call, None, ahead, wide=True)[1:]
        return *scaled(stash, factor, call.rows), *(None,) * 3


class _EachRow(torch.autograd.Function):
    """The loss of each row times its weight."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        call: Any,
        dtype: torch.dtype,
    ) -> Tensor:
        losses = _gradients(call, None, 1.0, (False, False, False)).losses
        call.keep(ctx)
        return reduced(losses, call.rows.row_weight, "none", 1.0, dtype)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        call, _ = _kept(ctx)
        if torch.is_grad_enabled() or are_many(cotangent):
            return *_again(call, cotangent.to(torch.float64)), *(None,) * 2
        return *_gradients(call, cotangent, 1.0)[1:], *(None,) * 2


# ---- derivatives of derivatives ------------------------------------------------------------------


def _again(call: _Call, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    """Return derivatives of Σ cotangent·row weight·loss that can be differentiated, or mapped."""
    if are_many(cotangent):
        return by_autograd(
            lambda rows: _weighted(rows, call.target, call.limits),
            call.rows,
            cotangent,
            call.needed,
        )
    found: tuple[Tensor | None, ...] = _Gradients.apply(
        call.rows.hidden, call.rows.weight, call.rows.bias, cotangent, call
    )
    return found


def _weighted(rows: LinearRows, target: Target, limits: Limits) -> Tensor:
    """Return weight·loss of each row from the definition."""
    return reduced(_defined(rows, target, limits), rows.row_weight, "none", 1.0, torch.float64)


class _Gradients(torch.autograd.Function):
    """The derivatives by hidden, weight and bias, as functions of these and of the cotangent."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, cotangent: Tensor, call: Any
    ) -> tuple[Tensor | None, ...]:
        found = _gradients(call, cotangent, 1.0)
        call.keep(ctx, cotangent)
        ctx.set_materialize_grads(False)
        return found[1:]

    @staticmethod
    def backward(ctx: Any, *vectors: Tensor | None) -> tuple[Tensor | None, ...]:
        call, (cotangent,) = _kept(ctx)
        whole = torch.is_grad_enabled() or are_many(*vectors)
        compute = _second_by_autograd if whole else _second
        with torch.autocast(cotangent.device.type, enabled=False):
            found = compute(call, cotangent, vectors)
        asked = ctx.needs_input_grad[:4]
        return *(f if a else None for f, a in zip(found, asked, strict=True)), None


def _shared(limits: Limits, parts: int) -> Limits:
    """Return limits that leave a part of the workspace."""
    return limits._replace(workspace_bytes=max(1, limits.workspace_bytes // parts))


def _second(
    call: _Call, cotangent: Tensor, vectors: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    r"""Return the derivatives of ⟨gradients, vectors⟩ by hidden, weight, bias and cotangent.

    With the logits' tangent ``ż = V_h·Wᵀ + h·V_Wᵀ + v_b``, the inner product is Σ c·g·ż over
    rows, g = ∂loss/∂z. So by c it is g·ż; and with ``A = c·(∂²loss/∂z²)·ż`` and ``B = c·g`` it is
    A·W + B·V_W by h, Aᵀ·h + Bᵀ·V_h by W, and Σ A by b.
    """
    rows, dtype = call.rows, wide_of(call.rows)
    hidden, weight, bias = (None if a is None else a.detach() for a in rows.arrays()[:3])
    assert hidden is not None
    assert weight is not None
    if rows.row_weight is not None:  # NaN times 0 is NaN
        hidden = torch.where(rows.row_weight.detach()[:, None] != 0, hidden, 0.0)
    v_hidden, v_weight, v_bias = vectors
    wide = weight.to(dtype)
    v_wide = torch.zeros_like(wide) if v_weight is None else v_weight.to(dtype)
    by_hidden = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
    by_weight = torch.zeros_like(wide)
    by_bias = torch.zeros(weight.shape[:1], dtype=torch.float64, device=hidden.device)
    by_cotangent = torch.zeros_like(cotangent, dtype=torch.float64)
    for part in blocks_of(rows, _shared(call.limits, SECOND)):
        h = hidden[part].to(dtype)
        logits, tangent = h @ wide.t(), h @ v_wide.t()
        if bias is not None:
            logits += bias.to(dtype)
        if v_hidden is not None:
            tangent += v_hidden[part].to(dtype) @ wide.t()
        if v_bias is not None:
            tangent += v_bias.to(dtype)
        b, a, along = _curved(call, logits, tangent, part, cotangent[part])
        by_cotangent[part] = along
        by_hidden[part] = a @ wide + b @ v_wide
        by_weight.addmm_(a.t(), h)
        if v_hidden is not None:
            by_weight.addmm_(b.t(), v_hidden[part].to(dtype))
        by_bias += a.sum(0, dtype=torch.float64)
    return (
        by_hidden.to(hidden.dtype),
        by_weight.to(weight.dtype),
        None if bias is None else by_bias.to(bias.dtype),
        by_cotangent.to(cotangent.dtype),
    )


def _curved(
    call: _Call, logits: Tensor, tangent: Tensor, part: slice, cotangent: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return c·g, c·(∂²loss/∂z²)·ż and g·ż of some rows, the first two as the logits are."""
    each = cotangent.to(torch.float64)
    with torch.enable_grad():
        z = logits.detach().to(torch.float64).requires_grad_()
        of = call.rows.of_logits(z, part)
        losses = call.target.losses(of)
        weight = None if of.row_weight is None else of.row_weight[:, 0].detach()
        total = reduced(losses, weight, "sum", 1.0, losses.dtype)
        (g,) = torch.autograd.grad(total, z, create_graph=True)
        # a masked class does not move, whatever the slope at it
        moved = torch.where(z == -torch.inf, 0.0, tangent.to(z.dtype))
        along = (g * moved).sum(1)
        (curved,) = torch.autograd.grad((along * each).sum(), z)
    slopes = (g.detach() * each[:, None]).to(logits.dtype)
    return slopes, curved.to(logits.dtype), along.detach()


def _second_by_autograd(
    call: _Call, cotangent: Tensor, vectors: tuple[Tensor | None, ...]
) -> tuple[Tensor | None, ...]:
    """Return the same for third derivatives and further ones: the logits are held for them."""
    return second_by_autograd(
        lambda rows: _weighted(rows, call.target, call.limits), call.rows, cotangent, vectors
    )


# ---- kernels as operators ------------------------------------------------------------------------


class _Recorded(NamedTuple):
    """A kind of teacher as operators take it apart: its arrays after those of the rows."""

    name: str
    kind: type[SparseTargets | Teacher]
    arrays: str
    numbers: str

    def taken_apart(self, arguments: tuple[Any, ...]) -> tuple[LinearRows, Any, Limits]:
        """Return rows, teacher and limits from the arguments of an operator."""
        count = len(self.kind.ARRAYS)
        options = len(fields(self.kind)) - count
        rows, limits = taken_apart((*arguments[:6], *arguments[6 + count : -options]))
        return rows, self.kind(*arguments[6 : 6 + count], *arguments[-options:]), limits

    def as_arguments(
        self, rows: LinearRows, target: SparseTargets | Teacher, limits: Limits
    ) -> tuple[Any, ...]:
        """Return the arguments of an operator: all arrays, then numbers."""
        arguments, count = as_arguments(rows, limits), len(self.kind.ARRAYS)
        own = [getattr(target, field.name) for field in fields(target)]
        return *arguments[:6], *own[:count], *arguments[6:], *own[count:]

    def registered(self) -> operators.Operators:
        """Register the operators."""

        def call_of(arguments: tuple[Any, ...], needed: tuple[bool, bool, bool]) -> _Call:
            return _Call(*self.taken_apart(arguments), needed)

        def losses(*arguments: Any) -> Tensor:
            call = call_of(arguments, (False, False, False))
            found = _gradients(call, None, 1.0).losses
            return reduced(found, call.rows.row_weight, "none", 1.0, torch.float64)

        def total(
            factor: float, needed: tuple[bool, bool, bool], *arguments: Any
        ) -> tuple[Any, ...]:
            call = call_of(arguments, needed)
            found, *by = _gradients(call, None, factor, wide=True)
            return reduced(found, call.rows.row_weight, "sum", 1.0, torch.float64), *by

        return operators.define(
            self.name,
            f"{operators.ARRAYS}, {self.arrays}",
            f"{operators.NUMBERS}, {self.numbers}",
            rows=losses,
            defined=lambda *arguments: _weighted(*self.taken_apart(arguments)),
            gradients=lambda _, upstream, needed, *arguments: _gradients(
                call_of(arguments, needed), upstream, 1.0
            )[1:],
            ahead=total,
        )


_RECORDED = (
    _Recorded(
        "linear_sparse_losses",
        SparseTargets,
        "Tensor ids, Tensor log_probabilities",
        "str tail, bool divergence, bool checked",
    ),
    _Recorded(
        "linear_distilled_losses",
        Teacher,
        "Tensor teacher_hidden, Tensor teacher_weight, Tensor? teacher_bias",
        "float teacher_temperature, float? teacher_softcap, str divergence, float beta",
    ),
)
_OPERATORS = {each.kind: (each, each.registered()) for each in _RECORDED}


# ---- the function --------------------------------------------------------------------------------


def _defined(rows: LinearRows, target: Target, limits: Limits) -> Tensor:
    """Return the loss of each row, without its weight, by differentiable operations."""
    return by_blocks(rows, _shared(limits, 2), target.losses)


def _situation(rows: LinearRows, target: Target) -> dispatch.Situation:
    """Say what keeps the pieces from these rows."""
    found = situation_of(rows)
    if found.hindrance is not None:
        return found
    others = [a for a in target.arrays() if a is not None]
    reasons = [hindrance(a, ()) for a in others]
    reasons.append(hindrance(rows.hidden, others))
    return found._replace(hindrance=next((r for r in reasons if r is not None), None))


def distilled_losses(
    rows: LinearRows,
    target: SparseTargets | Teacher,
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
        Rows of tensors; the targets say which row of the teacher's arrays is theirs. Derivatives
        flow to hidden, weight and bias; to row weights and sparse log-probabilities that ask for
        them by the definition, in blocks.
    target
        The teacher. Its logits are not differentiated.
    reduction, scale, dtype, kernel, limits
        As for `xent.losses.autodiff.linear.linear_losses`.
    """
    chosen = dispatch.choose(rows, kernel, _situation(rows, target))
    if chosen == "definition" or rows.hidden.device.type == "meta":
        losses = _defined(rows, target, limits)
        return reduced(losses, rows.row_weight, reduction, scale, dtype)
    if chosen != "linear_chunked":
        raise OptionError(
            f"kernel={kernel!r} computes no losses against a teacher. Hint: kernel=None takes "
            "'linear_chunked' where it can."
        )
    # What keeps a graph has to be known here: within a function's forward all inputs ask for one.
    needed = needed_of(rows) if torch.is_grad_enabled() else (False, False, False)
    if is_traced(rows.hidden):
        kind, own = _OPERATORS[type(target)]
        arguments = kind.as_arguments(rows, target, limits)
        return recorded(own, arguments, needed, reduction, scale, dtype)
    call, arrays = _Call(rows, target, limits, needed), (rows.hidden, rows.weight, rows.bias)
    if reduction == "none":
        return _EachRow.apply(*arrays, call, dtype)
    if not isinstance(scale, torch.Tensor) or scale.device.type == "cpu":
        scale = float(scale)
    return _Summed.apply(*arrays, call, scale, dtype)
