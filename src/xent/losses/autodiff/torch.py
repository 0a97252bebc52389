"""Rows of losses as differentiable PyTorch functions: kernels where they can, the definition else.

A kernel gives values and first derivatives backwards. Second derivatives, forward mode and the
transforms of `torch.func` differentiate the definition, so every cell of the derivative matrix
holds a value. Under ``torch.compile``, ``torch.export`` and any mode that records operations, a
kernel is a registered operator; elsewhere a `torch.autograd.Function`, which costs less.

The gradient of a sum is computed in the same sweep as its value and kept for the backward pass.
Where the upstream gradient turns out to be other than 1, or a graph is differentiated again, it
is computed again from the logits, never rescaled: a rescaled gradient has been rounded twice and
may have been flushed to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, Literal, NamedTuple, TypeAlias

import array_api_compat.torch as xp
import torch

from xent.losses import definition, dispatch
from xent.losses.definition import LogitTransform
from xent.losses.kernels import EntryRows, SoftmaxRows, pages
from xent.losses.targets import smoothed

__all__ = [
    "TargetSummary",
    "Terms",
    "defined",
    "entry_losses",
    "hindrance",
    "inspect_targets",
    "is_traced",
    "ready",
    "reduced",
    "situation",
    "small_mean",
    "softmax_losses",
    "terms_of",
    "triton_rows",
    "wide_dtype",
]

Tensor: TypeAlias = torch.Tensor
Reduction = Literal["none", "sum"]
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_transforms = torch._C._functorch.get_dynamic_layer_stack_depth
_modes = torch._C._len_torch_dispatch_stack
_NOTHING = (None,) * 6


def wide_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype that rows are computed in: float64 where the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


# ---- which kernel --------------------------------------------------------------------------------


def situation(rows: SoftmaxRows | EntryRows) -> dispatch.Situation:
    """Say where the rows are, and what keeps kernels from them."""
    logits, *others = rows.arrays()
    return dispatch.Situation(logits.device.type, hindrance(logits, others))


def hindrance(logits: Tensor, others: Sequence[Tensor | None]) -> str | None:
    """Say what keeps kernels from reading a tensor, or from differentiating, or return None.

    Parameters
    ----------
    logits
        What a kernel reads and has derivatives by.
    others
        What it reads and has no derivatives by.
    """
    if _transforms() > 0:
        return "a transform of torch.func is active, and it differentiates the definition"
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode differentiation is active, and it differentiates the definition"
    if torch.compiler.is_compiling():
        return _asks_for_more(others)
    if torch.jit.is_tracing():
        return "torch.jit.trace records operations, and no kernel is one that it knows"
    if not isinstance(logits, _PLAIN) or logits.layout is not torch.strided:
        return f"it takes plain dense tensors, and the logits are of {type(logits).__name__}"
    if type(logits) not in _PLAIN and not _is_fake(logits):
        return f"it takes plain tensors, and the logits are of type {type(logits).__name__}"
    if logits.is_neg() or logits._is_zerotensor():
        return "it reads memory, and these logits are negated or zero without being written"
    return _asks_for_more(others)


def _is_fake(tensor: Tensor) -> bool:
    return isinstance(tensor, torch._subclasses.FakeTensor)


def _asks_for_more(others: Sequence[Tensor | None]) -> str | None:
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in others):
        return "it has derivatives by the logits alone, and targets or weights ask for theirs"
    return None


def is_traced(logits: Tensor) -> bool:
    """Tell whether operations are recorded rather than carried out, or watched."""
    return torch.compiler.is_compiling() or _modes() > 0 or _is_fake(logits)


# ---- the definition ------------------------------------------------------------------------------


class Terms(NamedTuple):
    """Rows as the definition takes them: one after the other, in a wide dtype."""

    z: Tensor  # logits, 0 in rows that are not looked at        (rows, classes)
    t: Tensor  # the targets' masses                             (rows, classes)
    transform: LogitTransform
    kept: Tensor  # whether a row is looked at                   (rows,)
    outside: Tensor | None  # whether its index is out of range  (rows,)


def terms_of(rows: SoftmaxRows) -> Terms:
    """Return rows as the definition takes them, by differentiable operations."""
    outer, classes, inner = rows.logits.shape
    wide = torch.promote_types(wide_dtype(rows.logits), rows.logits.dtype)
    z = rows.logits.permute(0, 2, 1).reshape(outer * inner, classes).to(wide)
    kept = torch.ones(outer * inner, dtype=torch.bool, device=z.device)
    if rows.row_weight is not None:
        kept = kept & (rows.row_weight.reshape(-1) != 0)
    if rows.soft:
        t = rows.targets.permute(0, 2, 1).reshape(outer * inner, classes).to(wide)
        outside = None
    else:
        y = rows.targets.reshape(-1)
        if rows.ignore_index is not None:
            kept = kept & (y != rows.ignore_index)
        outside = kept & ((y < 0) | (y >= classes))
        t = torch.where(definition.one_hot(xp, torch.where(kept, y, 0), z), 1.0, 0.0).to(wide)
    z = torch.where(kept[:, None], z, 0.0)
    t = smoothed(xp, t, z, rows.smoothing, _wide(rows.class_weight, wide))
    transform = LogitTransform(rows.temperature, rows.softcap, carry=wide == rows.logits.dtype)
    return Terms(z, t, transform, kept, outside)


def defined(rows: SoftmaxRows) -> Tensor:
    """Return the loss of each row, without its weight, by differentiable operations."""
    z, t, transform, kept, outside = terms_of(rows)
    s = definition.softmax(xp, z, transform, t)
    losses = definition.softmax_loss(xp, s, t, rows.z_loss)
    if outside is not None:  # multiplied, not selected, so that the derivative is NaN too
        losses = losses * torch.where(outside, torch.nan, 1.0)
    return torch.where(kept, losses, 0.0).reshape(rows.places)


def _defined_entries(rows: EntryRows) -> Tensor:
    """Return the loss of each entry, by differentiable operations."""
    wide = torch.promote_types(wide_dtype(rows.logits), rows.logits.dtype)
    z, t = rows.logits.to(wide), rows.targets.to(wide)
    if rows.row_weight is not None:
        kept = rows.row_weight != 0
        z, t = torch.where(kept, z, 0.0), torch.where(kept, t, 0.0)
    yes = t * (1.0 - rows.smoothing) + rows.smoothing / 2.0
    no = (1.0 - t) * (1.0 - rows.smoothing) + rows.smoothing / 2.0
    if rows.pos_weight is not None:
        each = rows.pos_weight.to(wide)
        yes = (yes.reshape(-1, each.shape[0]) * each).reshape(-1)
    return definition.sigmoid_loss(xp, z, yes, no)


def _by_definition(rows: SoftmaxRows | EntryRows) -> Tensor:
    return defined(rows) if isinstance(rows, SoftmaxRows) else _defined_entries(rows)


def _wide(weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if weight is None else weight.to(dtype)


def reduced(
    losses: Tensor,
    row_weight: Tensor | None,
    reduction: Reduction,
    scale: float | Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """Return weight·loss of each row, or ``scale`` times their sum, in a dtype."""
    if row_weight is not None:
        weight = row_weight.to(losses.dtype)
        losses = torch.where(weight != 0, losses * weight, 0.0)
    if reduction == "none":
        return losses.to(dtype)
    return (losses.sum() * scale).to(dtype)


# ---- the CPU kernel as a function ----------------------------------------------------------------


def _contiguous(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.detach().to(torch.float64).contiguous()


def _new_gradient(logits: Tensor) -> Tensor:
    """Return memory for a gradient, in the strides of the logits."""
    size = logits.numel() * logits.element_size()
    if size < pages.LARGE:
        return torch.empty_like(logits)
    like = torch.empty_like(logits, device="meta")
    return (
        torch.from_numpy(pages.empty(size)).view(logits.dtype).as_strided(like.shape, like.stride())
    )


def _emptied(rows: Any) -> Any:
    """Return the rows without their arrays, which autograd keeps."""
    return rows.with_arrays((None,) * 4)


class _SummedOnCPU(torch.autograd.Function):
    """``scale`` times the weighted sum of losses over rows."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        rows: Any,
        call: Any,
        scale: float,
        dtype: Any,
        refuse: Any,
        needed: bool,
    ) -> Tensor:
        gradient = _new_gradient(logits) if needed else None
        sums = call(rows, gradient=gradient, scale=scale)
        if refuse is not None and sums.bad >= 0:
            refuse(sums.bad)
        ctx.save_for_backward(logits, *rows.arrays()[1:])
        ctx.rows, ctx.call, ctx.scale = _emptied(rows), call, scale
        ctx.stash = gradient
        return torch.scalar_tensor(sums.total * scale, dtype=dtype, device="cpu")

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            rows = ctx.rows.with_arrays(ctx.saved_tensors)
            return _differentiably(rows, cotangent * ctx.scale, "sum"), *_NOTHING
        if _transforms() > 0:  # many upstream gradients at once, none of which can be looked at
            rows = ctx.rows.with_arrays(ctx.saved_tensors)
            gradient = _new_gradient(rows.logits)
            ctx.call(rows, gradient=gradient, scale=ctx.scale)
            return gradient * cotangent, *_NOTHING
        gradient, ctx.stash = ctx.stash, None
        factor = cotangent.item()
        if gradient is None or factor != 1.0:
            rows = ctx.rows.with_arrays(ctx.saved_tensors)
            gradient = _new_gradient(rows.logits) if gradient is None else gradient
            ctx.call(rows, gradient=gradient, scale=ctx.scale * factor)
        return gradient, *_NOTHING


class _SmallMean(torch.autograd.Function):
    """The mean loss of a small matrix, which `small_mean` has computed with its gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, ignore_index: int, mean: Any) -> Tensor:
        mean, ctx.stash = mean
        ctx.save_for_backward(logits, targets)
        ctx.ignore_index = ignore_index
        return mean

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        gradient, ctx.stash = ctx.stash, None
        if (
            gradient is None
            or torch.is_grad_enabled()
            or _transforms() > 0
            or cotangent.item() != 1.0
        ):
            gradient = _small_gradient(ctx, cotangent)
        return gradient, None, None, None


# What `Function.apply` does where no transform is active, without asking whether one is.
_apply_small_mean: Any = getattr(
    super(torch.autograd.Function, _SmallMean), "apply", _SmallMean.apply
)


def _small_gradient(ctx: Any, cotangent: Tensor) -> Tensor:
    logits, targets = ctx.saved_tensors
    rows = SoftmaxRows(logits.unsqueeze(2), targets.unsqueeze(1), ignore_index=ctx.ignore_index)
    scale = 1.0 / float(torch.count_nonzero(targets != ctx.ignore_index))
    if torch.is_grad_enabled():
        return _differentiably(rows, cotangent * scale, "sum").squeeze(2)
    many = _transforms() > 0
    gradient = torch.empty_like(rows.logits, memory_format=torch.contiguous_format)
    factor = scale if many else scale * cotangent.item()
    dispatch.cpu_rows().softmax(ready(rows), gradient=gradient, scale=factor)
    return gradient.squeeze(2) * cotangent if many else gradient.squeeze(2)


class _RowsOnCPU(torch.autograd.Function):
    """The loss of each row times its weight."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Any, call: Any, dtype: Any, refuse: Any) -> Tensor:
        losses = torch.empty(rows.places, dtype=torch.float64, device="cpu")
        sums = call(rows, losses=losses)
        if refuse is not None and sums.bad >= 0:
            refuse(sums.bad)
        ctx.save_for_backward(logits, *rows.arrays()[1:])
        ctx.rows, ctx.call = _emptied(rows), call
        return reduced(losses, rows.row_weight, "none", 1.0, dtype)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        rows = ctx.rows.with_arrays(ctx.saved_tensors)
        if torch.is_grad_enabled():
            return _differentiably(rows, cotangent, "none"), *_NOTHING[2:]
        gradient = _new_gradient(rows.logits)
        if _transforms() > 0:
            ctx.call(rows, gradient=gradient)
            each = cotangent if gradient.ndim == 1 else cotangent.unsqueeze(1)
            return (gradient * each).to(gradient.dtype), *_NOTHING[2:]
        ctx.call(rows, gradient=gradient, cotangent=_contiguous(cotangent))
        return gradient, *_NOTHING[2:]


class _OnGPU(torch.autograd.Function):
    """Weighted losses of rows, or ``scale`` times their sum, without waiting for the device.

    The upstream gradient cannot be looked at here, so the gradient is not computed ahead: two
    reads and one write are less than a write that is then read and scaled.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, rows: Any, reduction: Any, scale: Any, dtype: Any
    ) -> Tensor:
        statistics = triton_rows().forward(rows)
        ctx.save_for_backward(logits, *rows.arrays()[1:], statistics.saved)
        ctx.rows, ctx.reduction, ctx.scale = _emptied(rows), reduction, scale
        losses = statistics.loss.to(torch.float64)
        return reduced(losses, rows.row_weight, reduction, scale, dtype)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        *arrays, saved = ctx.saved_tensors
        rows = ctx.rows.with_arrays(tuple(arrays))
        if ctx.reduction == "sum":
            cotangent = cotangent.to(torch.float64) * ctx.scale
        if torch.is_grad_enabled():
            return _differentiably(rows, cotangent, ctx.reduction), *_NOTHING[2:]
        return triton_rows().backward(rows, saved, cotangent), *_NOTHING[2:]


def triton_rows() -> Any:
    """Import the GPU kernel, which brings triton with it."""
    from xent.losses.kernels import triton_rows as module

    return module


def _differentiably(rows: Any, cotangent: Tensor, reduction: Reduction) -> Tensor:
    """Return the gradient as a function of logits and cotangent that can be differentiated."""
    with torch.enable_grad():
        logits = rows.logits
        if not logits.requires_grad:
            logits = logits.detach().requires_grad_()
        rows = replace(rows, logits=logits)
        dtype = wide_dtype(logits)
        losses = reduced(_by_definition(rows), rows.row_weight, reduction, 1.0, dtype)
        (gradient,) = torch.autograd.grad(
            losses, logits, cotangent.to(losses.dtype), create_graph=True
        )
    return gradient


# ---- kernels as operators ------------------------------------------------------------------------

_ROWS = (
    "Tensor logits, Tensor targets, Tensor? class_weight, Tensor? row_weight, "
    "SymInt? ignore_index, float smoothing, float temperature, float? softcap, float z_loss"
)
_ENTRIES = "Tensor logits, Tensor targets, Tensor? pos_weight, Tensor? row_weight, float smoothing"


def _run_losses(rows: SoftmaxRows | EntryRows) -> Tensor:
    """Return weight·loss of each row."""
    if rows.logits.device.type == "cpu":
        losses = torch.empty(rows.places, dtype=torch.float64, device="cpu")
        _cpu_call(rows)(ready(rows), losses=losses)
    else:
        losses = triton_rows().forward(rows).loss.to(torch.float64)
    return reduced(losses, rows.row_weight, "none", 1.0, losses.dtype)


def _run_gradient(rows: SoftmaxRows | EntryRows, cotangent: Tensor) -> Tensor:
    if rows.logits.device.type != "cpu":
        return triton_rows().backward(rows, triton_rows().forward(rows).saved, cotangent)
    gradient = _new_gradient(rows.logits)
    _cpu_call(rows)(ready(rows), gradient=gradient, cotangent=_contiguous(cotangent))
    return gradient


def _cpu_call(rows: SoftmaxRows | EntryRows) -> Any:
    module = dispatch.cpu_rows()
    return module.softmax if isinstance(rows, SoftmaxRows) else module.sigmoid


def ready(rows: Any) -> Any:
    """Bring weights to the form that kernels read."""
    *arrays, weight, row_weight = (None if a is None else a.detach() for a in rows.arrays())
    return rows.with_arrays((*arrays, _contiguous(weight), _contiguous(row_weight)))


def _define_operator(name: str, schema: str, record: type) -> Any:
    """Register the losses of rows, and their gradient, as operators that compilers may record."""

    def losses(*arguments: Any) -> Tensor:
        return _run_losses(record(*arguments))

    def gradient(cotangent: Tensor, *arguments: Any) -> Tensor:
        return _run_gradient(record(*arguments), cotangent)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.numbers = inputs[4:]

    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        arguments = (*ctx.saved_tensors, *ctx.numbers)
        return gradient_operator(cotangent, *arguments), *(None for _ in arguments[1:])

    operator = torch.library.custom_op(
        f"xent::{name}", losses, mutates_args=(), schema=f"({schema}) -> Tensor"
    )
    gradient_operator = torch.library.custom_op(
        f"xent::{name}_gradient",
        gradient,
        mutates_args=(),
        schema=f"(Tensor cotangent, {schema}) -> Tensor",
    )
    operator.register_fake(
        lambda *arguments: arguments[0].new_empty(record(*arguments).places, dtype=torch.float64)
    )
    gradient_operator.register_fake(lambda _, logits, *rest: torch.empty_like(logits))
    operator.register_autograd(backward, setup_context=setup)
    return operator


_softmax_operator = _define_operator("softmax_losses", _ROWS, SoftmaxRows)
_entry_operator = _define_operator("sigmoid_losses", _ENTRIES, EntryRows)


# ---- the functions -------------------------------------------------------------------------------


def softmax_losses(
    rows: SoftmaxRows,
    *,
    reduction: Reduction,
    scale: float | Tensor = 1.0,
    dtype: torch.dtype = torch.float32,
    kernel: str | None = None,
    refuse: Callable[[int], Any] | None = None,
) -> Tensor:
    """Return row weight·loss of each row, or ``scale`` times their sum.

    Parameters
    ----------
    rows
        Rows of tensors. Derivatives flow to the logits and, by the definition, to soft targets
        and weights that ask for them.
    reduction
        ``"none"`` for (outer, inner), or ``"sum"`` for one number.
    scale
        A factor of the sum: 1/divisor for a mean. A tensor is not differentiated.
    dtype
        Dtype of the result, rounded once from the wide value.
    kernel
        A kernel's name, to insist; by default the first that does not refuse.
    refuse
        Called with the first row whose logits are NaN, +∞ or all −∞, if a kernel that reads
        them now finds one; without it such rows become NaN.
    """
    return _losses(rows, _softmax_operator, reduction, scale, dtype, kernel, refuse)


def entry_losses(
    rows: EntryRows,
    *,
    reduction: Reduction,
    scale: float | Tensor = 1.0,
    dtype: torch.dtype = torch.float32,
    kernel: str | None = None,
    refuse: Callable[[int], Any] | None = None,
) -> Tensor:
    """Return row weight·loss of each entry, or ``scale`` times their sum.

    As `softmax_losses`, for logits that are each their own yes-or-no question.
    """
    return _losses(rows, _entry_operator, reduction, scale, dtype, kernel, refuse)


def _losses(
    rows: Any,
    operator: Any,
    reduction: Reduction,
    scale: float | Tensor,
    dtype: torch.dtype,
    kernel: str | None,
    refuse: Callable[[int], Any] | None,
) -> Tensor:
    chosen = dispatch.choose(rows, kernel, situation(rows))
    if chosen == "definition":
        return reduced(_by_definition(rows), rows.row_weight, reduction, scale, dtype)
    if is_traced(rows.logits):
        losses = operator(*(getattr(rows, field.name) for field in fields(rows)))
        return reduced(losses, None, reduction, scale, dtype)
    if chosen == "triton_rows":
        return _OnGPU.apply(rows.logits, rows, reduction, scale, dtype)
    prepared, call = ready(rows), _cpu_call(rows)
    if reduction == "none":
        return _RowsOnCPU.apply(rows.logits, prepared, call, dtype, refuse)
    factor = float(scale)
    # Inside a function's forward every input seems to need a gradient, also under no_grad.
    needed = rows.logits.requires_grad and torch.is_grad_enabled()
    return _SummedOnCPU.apply(rows.logits, prepared, call, factor, dtype, refuse, needed)


def small_mean(logits: Tensor, targets: Tensor, ignore_index: int) -> Tensor | None:
    """Return the mean loss of a small float32 matrix for int64 class indices, or None.

    The same number as `softmax_losses` with less around it: for matrices whose computation takes
    less time than the call. None where anything is unusual.
    """
    if (
        torch.compiler.is_compiling()  # first: what follows cannot be traced
        or type(logits) not in _PLAIN
        or not logits.is_cpu
        or not 0 < logits.numel() <= dispatch.SMALL
        or _transforms() > 0
        or _modes() > 0
        or torch.autograd.forward_ad._current_level >= 0
        or logits.is_neg()
        or torch._C._functorch.is_functorch_wrapped_tensor(logits)  # left over from a transform
        or torch.jit.is_tracing()
        or not -(2**62) < ignore_index < 2**62
        or not dispatch.NUMBA
        or logits.shape[1] >= dispatch.cpu_rows().FEW
    ):
        return None
    needed = logits.requires_grad and torch.is_grad_enabled()
    mean = torch.empty((), dtype=torch.float32, device="cpu")  # whatever the defaults are
    gradient = torch.empty_like(logits, memory_format=torch.contiguous_format) if needed else None
    if not dispatch.cpu_rows().small_mean(logits, targets, gradient, mean, ignore_index):
        return None
    return _apply_small_mean(logits, targets, ignore_index, (mean, gradient)) if needed else mean


# ---- targets -------------------------------------------------------------------------------------


class TargetSummary(NamedTuple):
    """What class indices say before any logit is looked at.

    Attributes
    ----------
    kept
        How many rows are not ignored.
    weight
        Σ over those rows of row weight·class weight.
    outside
        The first row, counted flat, whose target is out of range; −1 for none or not looked for.
    """

    kept: int | Tensor
    weight: float | Tensor
    outside: int


def inspect_targets(
    targets: Tensor,
    classes: int,
    ignore_index: int | None = None,
    class_weight: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> TargetSummary:
    """Count, weigh and check class indices: numbers on an eager CPU, else tensors, without waiting.

    Parameters
    ----------
    targets
        Class indices, int64, of any shape.
    classes
        How many there are.
    ignore_index
        Rows with this index do not count.
    class_weight, row_weight
        (classes,), and in the shape of the targets.
    """
    if targets.device.type == "cpu" and not is_traced(targets) and _transforms() == 0:
        return _inspect_now(targets, classes, ignore_index, class_weight, row_weight)
    kept = torch.ones_like(targets, dtype=torch.bool)
    if ignore_index is not None:
        kept = targets != ignore_index
    if row_weight is not None:
        kept = kept & (row_weight != 0)
    weight = kept.to(wide_dtype(targets))
    if row_weight is not None:
        weight = torch.where(kept, row_weight.to(weight.dtype), 0.0)
    if class_weight is not None:
        inside = kept & (targets >= 0) & (targets < classes)
        weight = weight * class_weight.to(weight.dtype)[torch.where(inside, targets, 0)]
    return TargetSummary(kept.sum(), weight.sum(), -1)


def _inspect_now(
    targets: Tensor,
    classes: int,
    ignore_index: int | None,
    class_weight: Tensor | None,
    row_weight: Tensor | None,
) -> TargetSummary:
    y = targets.detach().reshape(-1).contiguous()
    if not y.numel():
        return TargetSummary(0, 0.0, -1)
    if dispatch.NUMBA and y.dtype == torch.int64 and type(y) in _PLAIN:
        weights = _contiguous(class_weight), _contiguous(row_weight)
        return TargetSummary(*dispatch.cpu_rows().weigh_targets(y, classes, ignore_index, *weights))
    if class_weight is None and row_weight is None:
        low, high = torch.aminmax(y)
        if (
            low >= 0
            and high < classes
            and (ignore_index is None or not 0 <= ignore_index < classes)
        ):
            return TargetSummary(y.numel(), float(y.numel()), -1)
    kept = torch.ones_like(y, dtype=torch.bool) if ignore_index is None else y != ignore_index
    if row_weight is not None:
        kept &= row_weight.reshape(-1) != 0
    outside = torch.nonzero(kept & ((y < 0) | (y >= classes)))
    if outside.numel():
        return TargetSummary(int(kept.sum()), 0.0, int(outside[0]))
    count = int(kept.sum())
    if class_weight is None and row_weight is None:
        return TargetSummary(count, float(count), -1)
    weight = torch.ones_like(y, dtype=torch.float64)
    if class_weight is not None:
        weight = class_weight.detach().to(torch.float64)[torch.where(kept, y, 0)]
    if row_weight is not None:
        weight = weight * row_weight.detach().reshape(-1).to(torch.float64)
    return TargetSummary(count, float(torch.where(kept, weight, 0.0).sum()), -1)
