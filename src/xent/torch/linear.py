"""Linear cross-entropy: hidden states and a head's weight in, a loss out, no logits in memory."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch.overrides import handle_torch_function, has_torch_function_variadic

from xent.losses.autodiff.linear import linear_losses
from xent.losses.autodiff.linear_pieces import Limits
from xent.losses.autodiff.linear_statistics import linear_statistics
from xent.losses.kernels import LinearRows, SoftmaxRows
from xent.losses.kernels.linear_chunked import DEFAULT_WORKSPACE
from xent.losses.rows import require_number
from xent.torch import arguments as read
from xent.torch.arguments import Tensor
from xent.torch.averages import Mean, divisor_of_rows, look_at_targets
from xent.torch.modules import Empty, Normalizer, _Options

__all__ = [
    "LinearCrossEntropyLoss",
    "LinearSoftmaxStatistics",
    "linear_cross_entropy",
    "linear_softmax_statistics",
]


@read.not_scriptable
def linear_cross_entropy(
    input: Tensor,  # noqa: A002
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
    z_loss: float = 0.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    row_weight: Tensor | None = None,
    normalizer: Literal["weight", "count"] | float | Tensor | None = None,
    class_mask: Tensor | None = None,
    shift: int = 0,
    workspace_bytes: int = DEFAULT_WORKSPACE,
    invariant: bool = False,
    low_memory: bool = False,
    filter_below: float | None = None,
    out_dtype: torch.dtype | None = None,
    empty: Literal["nan", "zero"] = "nan",
    kernel: str | None = None,
) -> Tensor:
    r"""Return the cross-entropy of logits ``input·linear_weightᵀ + linear_bias``, in nats.

    .. math:: L = -\sum_j t_j \log \frac{e^{z_j}}{\sum_i e^{z_i}}, \qquad z = W h + b

    The call of `torch.nn.functional.linear_cross_entropy`, and more by keyword. The logits are
    made in pieces that fit `workspace_bytes`, so neither they nor their gradient are ever in
    memory as a whole. A mean or sum takes three products of matrices forward and backward
    together; ``reduction="none"`` takes four, and the cuts of a small workspace up to one more.

    Parameters
    ----------
    input
        Hidden states h, float32, float64, bfloat16 or float16.   (D,), (N, D) or (B, T, …, D)
    linear_weight
        The head's weight W.                                     (C, D), or (C, d1, …, D)
        With further dimensions each place has a head of its own, and `input` is (D,) or (N, D).
    target
        Class indices of any integer dtype, in the shape of the rows: (), (N,), (B, T, …) or
        (N, d1, …). Or probabilities: (C,), (N, C), (B, T, …, C) or (N, C, d1, …).
    linear_bias
        Added to the logits.                                     (C,) or (C, d1, …)
    weight
        Multiplies the target's mass on each class.              (C,)
    reduction
        ``"mean"``, ``"sum"``, or ``"none"`` for the loss of each row.
    ignore_index
        Rows with this class index do not count, and no product is computed for them. None is −100
        for class indices.
    label_smoothing
        The share of the mass that is spread evenly over the classes that are not masked.
    options
        torch's `LinearCrossEntropyOptions`, taken so that calls need no change: the pieces are
        always chosen by `workspace_bytes`.
    z_loss
        Adds ``z_loss·logsumexp²`` to each row.
    temperature, softcap
        Logits become ``softcap·tanh(z/softcap)`` and are then divided by the temperature.
    row_weight
        Multiplies the loss of each row; a row of weight 0 is not looked at.  (rows, broadcast)
    normalizer
        What a mean divides by, as for `cross_entropy`.
    class_mask
        Which classes are allowed; the loss of a row whose target is not is +∞.  (C,), bool
    shift
        1 for causal language models: the row at place t is asked for the target at t + 1, and the
        last one for none. Places are the last dimension of the target.
    workspace_bytes
        What is held at a time beside inputs and gradients: pieces of logits, and half types
        widened to float32. At least the logits of one row.
    invariant
        Whether a row's loss must not depend on the other rows, to the bit: every product then has
        the same shape, and is somewhat slower.
    low_memory
        Whether a mean or sum holds no float32 copy of the gradient of a half-type weight: nothing
        is computed ahead of the backward pass, all rows come at once and the classes are cut, so
        that each part of the gradient is rounded when it is made. Four to five products, not three.
        Where a row's target is more than one class it holds the copy in the backward pass only.
    filter_below
        With ``kernel="triton_linear"`` on a GPU: products may be left out whose part of a row's
        gradient by its logits sums to at most this share of the row's upstream gradient. Exact by
        default.
    out_dtype
        Dtype of the result instead of torch's, which is that of the logits.
    empty
        The mean over nothing: ``"nan"``, torch's, or ``"zero"``; its gradient is 0 in both.
    kernel
        A kernel's name, to insist on it; `xent.losses.dispatch.LINEAR_KERNELS` lists them.

    Returns
    -------
    Tensor
        A number, or the shape of the rows.

    Raises
    ------
    IndexError
        If a class index lies outside [0, C), on an eager CPU; elsewhere its row becomes NaN.
    RuntimeError, ValueError, TypeError, NotImplementedError
        As torch raises them for shapes, dtypes and devices that do not fit.
    OptionError
        If an option lies outside its domain, the workspace does not hold one row, or `kernel`
        refuses.

    See Also
    --------
    cross_entropy : the same from logits that are there already.
    linear_softmax_statistics : log-probabilities, entropy and more of each row, instead of a loss.

    Examples
    --------
    >>> hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> head = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
    >>> print(f"{linear_cross_entropy(hidden, head, torch.tensor([0, 1])):.6f}")
    0.167234
    """
    tensors = input, linear_weight, target, linear_bias, weight, row_weight, class_mask
    if has_torch_function_variadic(*tensors):
        return handle_torch_function(
            linear_cross_entropy,
            tensors,
            input,
            linear_weight,
            target,
            linear_bias=linear_bias,
            weight=weight,
            reduction=reduction,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            options=options,
            z_loss=z_loss,
            temperature=temperature,
            softcap=softcap,
            row_weight=row_weight,
            normalizer=normalizer,
            class_mask=class_mask,
            shift=shift,
            workspace_bytes=workspace_bytes,
            invariant=invariant,
            low_memory=low_memory,
            filter_below=filter_below,
            out_dtype=out_dtype,
            empty=empty,
            kernel=kernel,
        )
    name = "linear_cross_entropy"
    how = read.reduction_of(None, None, reduction)
    call = read_call(
        name,
        input,
        linear_weight,
        target,
        linear_bias=linear_bias,
        weight=weight,
        row_weight=row_weight,
        class_mask=class_mask,
        ignore_index=ignore_index,
        shift=shift,
    )
    numbers: dict[str, Any] = {
        "smoothing": read.smoothing_of(name, label_smoothing),
        "temperature": temperature_of(temperature),
        "softcap": softcap_of(softcap),
        "z_loss": require_number("z_loss", z_loss, 0.0, 2.0**40, "it weighs logsumexp²."),
    }
    limits = limits_of(workspace_bytes, invariant, filter_below, low_memory)
    likeness = replace(call.likeness, **numbers)
    summary = look_at_targets(likeness, target)
    dtype = read.float_dtype_of(out_dtype, call.dtype)
    mean = Mean(
        divisor_of_rows(likeness, summary, how, normalizer), read.zero_if_empty(empty), dtype
    )

    def losses(_: Any, *, reduction: Any, dtype: torch.dtype, **how: Any) -> Tensor:
        parts = [replace(rows, **numbers) for rows in call.places]
        if len(parts) == 1:
            return linear_losses(parts[0], reduction=reduction, dtype=dtype, limits=limits, **how)
        each = [
            linear_losses(rows, reduction=reduction, dtype=torch.float64, limits=limits, **how)
            for rows in parts
        ]
        return torch.stack(each, -1).to(dtype) if reduction == "none" else sum(each).to(dtype)

    result = mean.of_kernel(losses, likeness, kernel)
    return result.reshape(call.shape) if how == "none" else result


class LinearSoftmaxStatistics(NamedTuple):
    """What people compute from logits, one number for each row, in nats.

    Attributes
    ----------
    nll
        Negative log-likelihood of the target (None without targets).
    log_probability
        Its negative.
    logsumexp
        log Σ exp of the (capped, tempered) logits.
    entropy
        Entropy of the softmax.
    argmax
        The likeliest class, the first of equals; −1 for a row that is NaN because it is bad. It
        and the rank are those of the logits before the softcap, which keeps their order.
    correct
        Whether that is the target.
    rank
        1 + how many classes are likelier than the target; 0 for a row that is not looked at.
    """

    nll: Tensor | None
    log_probability: Tensor | None
    logsumexp: Tensor
    entropy: Tensor
    argmax: Tensor
    correct: Tensor | None
    rank: Tensor | None


@read.not_scriptable
def linear_softmax_statistics(
    input: Tensor,  # noqa: A002
    linear_weight: Tensor,
    target: Tensor | None = None,
    *,
    linear_bias: Tensor | None = None,
    ignore_index: int | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    class_mask: Tensor | None = None,
    shift: int = 0,
    workspace_bytes: int = DEFAULT_WORKSPACE,
    invariant: bool = False,
    out_dtype: torch.dtype | None = None,
    kernel: str | None = None,
) -> LinearSoftmaxStatistics:
    r"""Return log-likelihood, log-sum-exp, entropy and rank of each row of logits W·h + b.

    .. math:: \log p_y = z_y - \log\sum_j e^{z_j}, \qquad
              H = -\sum_j p_j \log p_j, \qquad p = \mathrm{softmax}(z)

    What policy gradients, preference losses and distillation are made of, without the logits in
    memory: `nll`, `log_probability`, `logsumexp` and `entropy` are differentiable, and their
    derivatives cost the logits once more and two products.

    Parameters
    ----------
    input
        Hidden states h, of a float dtype.                       (D,), (N, D) or (B, T, …, D)
    linear_weight
        The head's weight W.                                     (C, D)
    target
        Class indices of any integer dtype, in the shape of the rows; or None.
    linear_bias, ignore_index, temperature, softcap, class_mask, shift, workspace_bytes, \
    invariant, kernel
        As for `linear_cross_entropy`. Rows with the ignored index are 0 throughout.
    out_dtype
        Dtype of the floats; by default float32, or float64 where an input has it.

    Returns
    -------
    LinearSoftmaxStatistics
        A record of tensors in the shape of the rows.

    Raises
    ------
    IndexError, RuntimeError, ValueError, TypeError, NotImplementedError, OptionError
        As for `linear_cross_entropy`.

    See Also
    --------
    softmax_statistics : the same from logits that are there already.

    Examples
    --------
    >>> s = linear_softmax_statistics(torch.eye(2), torch.zeros(4, 2), torch.tensor([0, 3]))
    >>> print(s.entropy, s.argmax, s.correct, s.rank)
    tensor([1.3863, 1.3863]) tensor([0, 0]) tensor([ True, False]) tensor([1, 1])
    """
    name = "linear_softmax_statistics"
    tensors = input, linear_weight, target, linear_bias, class_mask
    if has_torch_function_variadic(*tensors):
        return handle_torch_function(
            linear_softmax_statistics,
            tensors,
            input,
            linear_weight,
            target,
            linear_bias=linear_bias,
            ignore_index=ignore_index,
            temperature=temperature,
            softcap=softcap,
            class_mask=class_mask,
            shift=shift,
            workspace_bytes=workspace_bytes,
            invariant=invariant,
            out_dtype=out_dtype,
            kernel=kernel,
        )
    read.require_tensors(name, input=input, linear_weight=linear_weight, target=target)
    asked = target is not None
    if target is None:  # any class will do: its log-likelihood is not returned
        target, ignore_index = input.new_zeros(input.shape[:-1], dtype=torch.int64), None
    if linear_weight.ndim != 2 or target.is_floating_point():
        raise read.UnfitShapeError(
            f"{name}(): linear_weight must be a matrix (C, D) and targets class indices: got shape "
            f"{tuple(linear_weight.shape)} and targets of {target.dtype}. "
            "Hint: linear_cross_entropy takes probabilities and heads of more dimensions."
        )
    call = read_call(
        name,
        input,
        linear_weight,
        target,
        linear_bias=linear_bias,
        class_mask=class_mask,
        ignore_index=ignore_index,
        shift=shift,
    )
    look_at_targets(call.likeness, target)
    rows = replace(
        call.places[0], temperature=temperature_of(temperature), softcap=softcap_of(softcap)
    )
    wide = torch.float64 if call.dtype is torch.float64 else torch.float32
    found = linear_statistics(
        rows,
        dtype=read.float_dtype_of(out_dtype, wide),
        kernel=kernel,
        limits=limits_of(workspace_bytes, invariant),
    )
    nll, lse, entropy, argmax, rank = (column.reshape(call.shape) for column in found)
    if not asked:
        return LinearSoftmaxStatistics(None, None, lse, entropy, argmax, None, None)
    correct = (argmax == call.places[0].targets.reshape(call.shape)) & (rank > 0)
    return LinearSoftmaxStatistics(nll, 0.0 - nll, lse, entropy, argmax, correct, rank)


class Call(NamedTuple):
    """The tensors of a call, checked, as rows."""

    places: list[LinearRows]  # one for each head
    likeness: SoftmaxRows  # the same targets and weights, with logits that take no memory
    shape: tuple[int, ...]  # of the rows
    dtype: torch.dtype  # of torch's result


def temperature_of(value: Any) -> float:
    """Return a temperature, checked."""
    hint = "logits are divided by it; 1 leaves them."
    return require_number("temperature", value, 2.0**-40, 2.0**40, hint)


def softcap_of(value: Any) -> float | None:
    """Return a softcap, checked, or None."""
    hint = "logits stay within ±softcap; None leaves them."
    return None if value is None else require_number("softcap", value, 2.0**-10, 2.0**10, hint)


def limits_of(
    workspace_bytes: Any,
    invariant: Any = False,
    filter_below: Any = None,
    low_memory: Any = False,
) -> Limits:
    """Return the limits of memory and work, checked."""
    hint = f"bytes that pieces of logits may take; the default is {DEFAULT_WORKSPACE}."
    space = int(require_number("workspace_bytes", workspace_bytes, 1.0, 2.0**60, hint))
    if filter_below is not None:
        hint = "a share of a row's gradient, such as 1e-4; None leaves nothing out."
        filter_below = require_number("filter_below", filter_below, 0.0, 1.0, hint)
    return Limits(space, bool(invariant), filter_below, bool(low_memory))


def _under_autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """Return the tensors in the dtype that torch's own product would have them in."""
    device = next(t for t in tensors if t is not None).device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return list(tensors)
    half = torch.get_autocast_dtype(device)
    return [t if t is None or t.dtype == torch.float64 else t.to(half) for t in tensors]


def read_call(
    name: str,
    input: Tensor,  # noqa: A002
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    row_weight: Tensor | None = None,
    class_mask: Tensor | None = None,
    ignore_index: int | None = None,
    shift: int = 0,
) -> Call:
    """Check the tensors of a linear loss and return them as rows."""
    read.require_tensors(
        name,
        input=input,
        linear_weight=linear_weight,
        target=target,
        linear_bias=linear_bias,
        weight=weight,
        row_weight=row_weight,
        class_mask=class_mask,
    )
    for which, tensor in (
        ("input", input),
        ("linear_weight", linear_weight),
        ("linear_bias", linear_bias),
    ):
        if tensor is not None:
            read.require_floats(name, tensor, which)
    _require_head(name, input, linear_weight, linear_bias)
    classes, *inner = linear_weight.shape[:-1]
    read.require_class_weight(name, weight, classes)
    if classes == 0:
        raise read.UnfitShapeError(
            f"{name}(): linear_weight must have at least one class: got shape "
            f"{tuple(linear_weight.shape)}. Hint: it is (classes, features)."
        )
    if inner and shift:
        raise read.RefusedOptionError(
            f"shift={shift!r} needs one head for all places: got linear_weight of shape "
            f"{tuple(linear_weight.shape)}. Hint: shift the target by hand."
        )
    if inner and input.ndim > 2:
        raise read.UnfitShapeError(
            f"{name}(): a head of shape {tuple(linear_weight.shape)} with further dimensions takes "
            f"input of shape (N, D): got {tuple(input.shape)}. Hint: .flatten(0, -2)."
        )
    states, target, row_weight = _shifted(name, input, target, row_weight, shift)
    dtypes = [read.result_dtype(a) for a in (states, linear_weight, linear_bias) if a is not None]
    dtype = dtypes[0]
    for other in dtypes[1:]:
        dtype = torch.promote_types(dtype, other)
    hidden, head, bias = _under_autocast(states, linear_weight, linear_bias)
    assert hidden is not None
    assert head is not None
    leading = tuple(states.shape[:-1])
    shape = (*leading, *inner)
    count, many = math.prod(leading), math.prod(inner)
    masses = (*leading, classes) if not inner else (*leading[:1], classes, *inner)
    soft = tuple(target.shape) == masses and not (
        tuple(target.shape) == shape and not target.is_floating_point()
    )
    if soft:
        if not target.is_floating_point():
            raise read.UnfitTargetError(
                f"{name}(): targets of shape {masses} must be probabilities of a float dtype: got "
                f"{target.dtype}. Hint: class indices have no dimension of classes."
            )
        if ignore_index is not None and ignore_index >= 0:
            raise read.RefusedOptionError(
                f"ignore_index={ignore_index} needs class indices: got probabilities. "
                "Hint: give such rows a row_weight of 0."
            )
        dtype = torch.promote_types(dtype, read.result_dtype(target, weight))
        targets, ignored = target.reshape(count, classes, many), None
    elif tuple(target.shape) == shape or (not shape and tuple(target.shape) == (1,)):
        targets = read.class_indices(name, target, (count, many))
        ignored = -100 if ignore_index is None else read.index_of(name, ignore_index)
    else:
        raise read.UnfitShapeError(
            f"{name}(): targets for rows of shape {shape} must be class indices of that shape, or "
            f"probabilities of shape {masses}: got shape {tuple(target.shape)}. "
            "Hint: a column of indices (N, 1) wants .squeeze(1)."
        )
    by_row = read.rows_of(name, row_weight, shape, input.device)
    if by_row is not None:
        by_row = by_row.reshape(count, many)
    bias = _masked(name, bias, class_mask, head, inner)
    likeness = _likeness(bias, count, classes, many, head)
    return Call(
        _places(hidden, head, bias, targets, weight, by_row, ignored),
        SoftmaxRows(likeness, targets, weight, by_row, ignored),
        shape,
        dtype,
    )


def _require_head(name: str, input: Tensor, head: Tensor, bias: Tensor | None) -> None:  # noqa: A002
    """Refuse a head that does not fit hidden states."""
    if head.ndim < 2:
        raise read.UnfitShapeError(
            f"{name}(): linear_weight must be a matrix (C, D), or (C, d1, …, D): got shape "
            f"{tuple(head.shape)}. Hint: torch.nn.Linear(D, C).weight is one."
        )
    if input.ndim < 1 or input.shape[-1] != head.shape[-1]:
        raise read.UnfitShapeError(
            f"{name}(): the last dimension of input and linear_weight must be the same features: "
            f"got shapes {tuple(input.shape)} and {tuple(head.shape)}. "
            "Hint: linear_weight is (classes, features), as torch.nn.Linear has it."
        )
    if bias is not None and bias.shape != head.shape[:-1]:
        raise read.UnfitShapeError(
            f"{name}(): linear_bias must have a number for each class, shape "
            f"{tuple(head.shape[:-1])}: got shape {tuple(bias.shape)}. Hint: class_mask= masks."
        )


def _shifted(
    name: str,
    input: Tensor,  # noqa: A002
    target: Tensor,
    row_weight: Tensor | None,
    shift: Any,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return rows and the targets that are `shift` places later."""
    if shift == 0 and not isinstance(shift, str):
        return input, target, row_weight
    by = shift if isinstance(shift, int) else -1
    if by < 0 or input.ndim < 2:
        raise read.RefusedOptionError(
            f"shift must be 0, or a number of places and input (…, T, D): got {shift!r} and input "
            f"of shape {tuple(input.shape)}. Hint: 1 asks each token for the next."
        )
    places = input.shape[-2]
    by = min(by, places)
    dimension = input.ndim - 2
    later = target.narrow(dimension, by, places - by) if target.ndim > dimension else target
    if row_weight is not None and row_weight.ndim > 0 and row_weight.shape[-1] == places:
        row_weight = row_weight.narrow(-1, by, places - by)
    return input.narrow(dimension, 0, places - by), later, row_weight


def _masked(
    name: str, bias: Tensor | None, class_mask: Tensor | None, head: Tensor, inner: list[int]
) -> Tensor | None:
    """Return the bias with −∞ for the classes that are not allowed."""
    if class_mask is None:
        return bias
    classes = head.shape[0]
    if class_mask.dtype is not torch.bool or tuple(class_mask.shape) != (classes,):
        raise read.UnfitShapeError(
            f"{name}(): class_mask must be a bool for each of {classes} classes: got "
            f"{class_mask.dtype} of shape {tuple(class_mask.shape)}. Hint: True allows a class."
        )
    allowed = class_mask.reshape(-1, *[1] * len(inner))
    base = torch.zeros(head.shape[:-1], dtype=head.dtype, device=head.device)
    return torch.where(allowed, base if bias is None else bias, -math.inf)


def _likeness(bias: Tensor | None, count: int, classes: int, many: int, head: Tensor) -> Tensor:
    """Return logits that are masked where those of the call are, and take no memory."""
    if bias is None:
        own = head.detach().new_zeros(1).expand(classes, many)
    else:
        own = bias.detach().reshape(classes, many)
    return own.expand(count, classes, many)


def _places(
    hidden: Tensor,
    head: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    weight: Tensor | None,
    by_row: Tensor | None,
    ignored: int | None,
) -> list[LinearRows]:
    """Return the rows of each head."""
    count, many, features = targets.shape[0], targets.shape[-1], head.shape[-1]
    rows = hidden.reshape(count, features)
    heads: list[Tensor] = [head]
    biases: list[Tensor | None] = [bias]
    if head.ndim > 2:  # taken apart at once, so that gradients are put together at once
        heads = list(head.reshape(head.shape[0], many, features).unbind(1))
        biases = [None] * many
        if bias is not None:
            biases = list(bias.reshape(head.shape[0], many).unbind(1))
    return [
        LinearRows(
            rows,
            heads[p],
            biases[p],
            targets[..., p],
            weight,
            None if by_row is None else by_row[:, p],
            ignored,
        )
        for p in range(many)
    ]


_Base: Any = getattr(torch.nn, "LinearCrossEntropyLoss", torch.nn.CrossEntropyLoss)


class LinearCrossEntropyLoss(_Options, _Base):
    """`linear_cross_entropy` as a module that owns its head, `linear`; a drop-in for torch's.

    Parameters
    ----------
    in_features, num_classes, out_features, bias, device, dtype, reduction, weight, ignore_index, \
label_smoothing, options
        As for `torch.nn.LinearCrossEntropyLoss` (torch 2.13), in their places.
    z_loss, temperature, softcap, normalizer, shift, workspace_bytes, invariant, low_memory, \
filter_below, out_dtype, empty, kernel
        As for `linear_cross_entropy`.

    Examples
    --------
    >>> loss = LinearCrossEntropyLoss(8, 5, z_loss=1e-4)
    >>> [tuple(p.shape) for p in loss.parameters()]
    [(5, 8)]
    >>> print(f"{loss(torch.zeros(2, 8), torch.tensor([0, 3])):.6f}")
    1.609697
    """

    _defaults: ClassVar[dict[str, Any]] = {
        "z_loss": 0.0,
        "temperature": 1.0,
        "softcap": None,
        "normalizer": None,
        "shift": 0,
        "workspace_bytes": DEFAULT_WORKSPACE,
        "invariant": False,
        "low_memory": False,
        "filter_below": None,
        "out_dtype": None,
        "empty": "nan",
        "kernel": None,
    }

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: Any = None,
        z_loss: float = 0.0,
        temperature: float = 1.0,
        softcap: float | None = None,
        normalizer: Normalizer = None,
        shift: int = 0,
        workspace_bytes: int = DEFAULT_WORKSPACE,
        invariant: bool = False,
        low_memory: bool = False,
        filter_below: float | None = None,
        out_dtype: torch.dtype | None = None,
        empty: Empty = "nan",
        kernel: str | None = None,
    ) -> None:
        super(_Options, self).__init__(
            in_features,
            num_classes,
            out_features=out_features,
            bias=bias,
            device=device,
            dtype=dtype,
            reduction=reduction,
            weight=weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            options=options,
        )
        self._keep(
            z_loss=z_loss,
            temperature=temperature,
            softcap=softcap,
            normalizer=normalizer,
            shift=shift,
            workspace_bytes=workspace_bytes,
            invariant=invariant,
            low_memory=low_memory,
            filter_below=filter_below,
            out_dtype=out_dtype,
            empty=empty,
            kernel=kernel,
        )

    def forward(
        self,
        input: Tensor,  # noqa: A002
        target: Tensor,
        *,
        row_weight: Tensor | None = None,
        normalizer: Normalizer = None,
        class_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the loss; `normalizer` overrules the module's."""
        own, shape = self.linear, (self.num_classes, *self.out_features)
        return linear_cross_entropy(
            input,
            own.weight.reshape(*shape, own.in_features),
            target,
            linear_bias=None if own.bias is None else own.bias.reshape(shape),
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
            row_weight=row_weight,
            class_mask=class_mask,
            **self._options(normalizer),
        )
