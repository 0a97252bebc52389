"""The losses of `torch.nn.functional`, drop-in: same arguments, defaults, dtypes and error types.

What is different is listed in docs/semantics.md: results are rounded once from the accurate value,
0·∞ is 0, and what torch's documentation leaves to chance is defined.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.overrides import handle_torch_function, has_torch_function_variadic

from xent.losses.autodiff.torch import entry_losses, softmax_losses
from xent.losses.kernels import EntryRows, SoftmaxRows
from xent.losses.rows import require_number
from xent.losses.softmax import softmax_statistics
from xent.torch import arguments as read
from xent.torch.arguments import Tensor
from xent.torch.averages import (
    Mean,
    divisor_of_entries,
    divisor_of_rows,
    look_at_targets,
    plain_mean,
)
from xent.torch.elements import binary_losses, divergences, picked_losses

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "kl_div",
    "nll_loss",
    "softmax_statistics",
]


@read.not_scriptable
def cross_entropy(
    input: Tensor,  # noqa: A002
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    z_loss: float = 0.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    row_weight: Tensor | None = None,
    normalizer: Literal["weight", "count"] | float | Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    empty: Literal["nan", "zero"] = "nan",
    kernel: str | None = None,
) -> Tensor:
    r"""Return the cross-entropy between targets and the softmax of logits, in nats.

    .. math:: L = -\sum_j t_j \log \frac{e^{z_j}}{\sum_i e^{z_i}}

    The call of `torch.nn.functional.cross_entropy`, and more by keyword.

    Parameters
    ----------
    input
        Logits, float32, float64, bfloat16 or float16.      (C,), (N, C) or (N, C, d1, …)
    target
        Class indices of any integer dtype.                  (), (N,) or (N, d1, …)
        Or probabilities in the shape of `input`, of a float dtype.
    weight
        Multiplies the target's mass on each class.          (C,)
    size_average, reduce
        Deprecated by torch: they overrule `reduction`, with a warning.
    ignore_index
        Rows with this class index do not count and are not looked at.
    reduction
        ``"mean"``, ``"sum"``, or ``"none"`` for the loss of each row.
    label_smoothing
        The share of the mass that is spread evenly over the classes whose logit is not −∞.
    z_loss
        Adds ``z_loss·logsumexp²`` to each row.
    temperature, softcap
        Logits become ``softcap·tanh(z/softcap)`` and are then divided by the temperature.
    row_weight
        Multiplies the loss of each row; a row of weight 0 is not looked at.  (rows, broadcast)
    normalizer
        What a mean divides by. None is torch's rule: for class indices Σ weight[target], for
        probabilities the number of rows (either times `row_weight`). ``"weight"``: Σ of the
        targets' weighted mass, ``"count"``: how many rows count; or a number, such as
        the tokens of a whole step, also as a tensor of shape ().
    out_dtype
        Dtype of the result instead of torch's.
    empty
        The mean over nothing: ``"nan"``, torch's, or ``"zero"``; its gradient is 0 in both.
    kernel
        A kernel's name, to insist on it; `xent.losses.dispatch` lists them.

    Returns
    -------
    Tensor
        A number, or the shape of the rows; in the dtype that torch returns.

    Raises
    ------
    IndexError
        If a class index lies outside [0, C), on an eager CPU; elsewhere its row becomes NaN.
    RuntimeError, ValueError, TypeError, NotImplementedError
        As torch raises them for shapes, dtypes and devices that do not fit.
    OptionError
        If an option lies outside its domain, or `kernel` refuses.

    See Also
    --------
    xent.softmax_cross_entropy : the same on any array library, with checks.

    Examples
    --------
    >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    >>> print(f"{cross_entropy(logits, torch.tensor([0, 1])):.6f}")
    0.167234
    """
    if has_torch_function_variadic(input, target, weight, row_weight):
        return handle_torch_function(
            cross_entropy,
            (input, target, weight, row_weight),
            input,
            target,
            weight=weight,
            size_average=size_average,
            ignore_index=ignore_index,
            reduce=reduce,
            reduction=reduction,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            temperature=temperature,
            softcap=softcap,
            row_weight=row_weight,
            normalizer=normalizer,
            out_dtype=out_dtype,
            empty=empty,
            kernel=kernel,
        )
    # The commonest call of all, first and with the least of Python: tiny batches notice.
    if (
        type(input) is Tensor
        and type(target) is Tensor
        and weight is None
        and reduction == "mean"
        and size_average is None
        and reduce is None
        and type(label_smoothing) is float
        and label_smoothing == z_loss == 0.0
        and temperature == 1.0
        and softcap is None
        and row_weight is None
        and normalizer is None
        and out_dtype is None
        and empty == "nan"
        and kernel is None
        and type(ignore_index) is int
        and input.dtype is torch.float32
        and target.dtype is torch.int64
        and input.ndim == 2
        and target.ndim == 1
        and ((input.is_cpu and target.is_cpu) or input.device == target.device)
        and target.shape[0] == input.shape[0]
        and input.shape[1] > 0
        and not torch.jit.is_tracing()
    ):
        return plain_mean(input, target, ignore_index)
    name = "cross_entropy"
    read.require_tensors(name, input=input, target=target, weight=weight, row_weight=row_weight)
    how = read.reduction_of(size_average, reduce, reduction)
    ignored = read.index_of(name, ignore_index)
    shape = tuple(input.shape)
    soft = bool(shape) and tuple(target.shape) == shape
    if soft:
        rows_shape = shape[:1] + shape[2:] if len(shape) > 1 else ()
        if not target.is_floating_point():
            raise read.UnfitTargetError(
                f"{name}(): targets in the shape of the input must be probabilities of a float "
                f"dtype: got {target.dtype}. Hint: class indices have no dimension of classes."
            )
        if ignored >= 0:
            raise read.RefusedOptionError(
                f"ignore_index={ignored} needs class indices: got probabilities. "
                "Hint: give such rows a row_weight of 0."
            )
    else:
        rows_shape = read.row_shape(name, input, target)
    read.require_floats(name, input)
    outer, classes, inner = read.folded(shape)
    read.require_class_weight(name, weight, classes)
    by_row = read.rows_of(name, row_weight, rows_shape, input.device)
    logits = input.reshape(outer, classes, inner)
    rows = SoftmaxRows(
        logits,
        target.reshape(logits.shape) if soft else read.class_indices(name, target, (outer, inner)),
        weight,
        None if by_row is None else by_row.reshape(outer, inner),
        None if soft else ignored,
        read.smoothing_of(name, label_smoothing),
        require_number(
            "temperature",
            temperature,
            2.0**-40,
            2.0**40,
            "logits are divided by it; 1 leaves them.",
        ),
        None
        if softcap is None
        else require_number(
            "softcap", softcap, 2.0**-10, 2.0**10, "logits stay within ±softcap; None leaves them."
        ),
        require_number("z_loss", z_loss, 0.0, 2.0**40, "it weighs logsumexp²."),
    )
    mean = Mean(
        divisor_of_rows(rows, look_at_targets(rows, target), how, normalizer),
        read.zero_if_empty(empty),
        read.float_dtype_of(
            out_dtype,
            read.result_dtype(input, target, weight) if soft else read.result_dtype(input),
        ),
    )
    if not classes:  # every row is ignored or has no mass
        return mean.of_losses(logits.sum(1)).reshape(rows_shape if how == "none" else ())
    result = mean.of_kernel(softmax_losses, rows, kernel)
    return result.reshape(rows_shape) if how == "none" else result


@read.not_scriptable
def nll_loss(
    input: Tensor,  # noqa: A002
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    *,
    row_weight: Tensor | None = None,
    normalizer: Literal["weight", "count"] | float | Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    empty: Literal["nan", "zero"] = "nan",
) -> Tensor:
    r"""Return −weight[y]·ℓ_y for the class y of each row of log-probabilities ℓ, in nats.

    The call of `torch.nn.functional.nll_loss`, and more by keyword.

    Parameters
    ----------
    input
        Log-probabilities, float32, float64, bfloat16 or float16. (C,), (N, C) or (N, C, d1, …)
    target
        Class indices of any integer dtype.                        (), (N,) or (N, d1, …)
    weight, size_average, ignore_index, reduce, reduction
        As for `cross_entropy`.
    row_weight, normalizer, out_dtype, empty
        As for `cross_entropy`.

    Returns
    -------
    Tensor
        A number, or the shape of the rows; in the dtype that torch returns.

    Raises
    ------
    IndexError, RuntimeError, ValueError, TypeError, NotImplementedError, OptionError
        As for `cross_entropy`.

    See Also
    --------
    cross_entropy : from logits, which keeps more digits than log_softmax can.

    Examples
    --------
    >>> print(f"{nll_loss(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([0])):.6f}")
    1.386294
    """
    if has_torch_function_variadic(input, target, weight, row_weight):
        return handle_torch_function(
            nll_loss,
            (input, target, weight, row_weight),
            input,
            target,
            weight=weight,
            size_average=size_average,
            ignore_index=ignore_index,
            reduce=reduce,
            reduction=reduction,
            row_weight=row_weight,
            normalizer=normalizer,
            out_dtype=out_dtype,
            empty=empty,
        )
    name = "nll_loss"
    read.require_tensors(name, input=input, target=target, weight=weight, row_weight=row_weight)
    how = read.reduction_of(size_average, reduce, reduction)
    ignored = read.index_of(name, ignore_index)
    rows_shape = read.row_shape(name, input, target)
    read.require_floats(name, input)
    outer, classes, inner = read.folded(tuple(input.shape))
    read.require_class_weight(name, weight, classes)
    by_row = read.rows_of(name, row_weight, rows_shape, input.device)
    rows = SoftmaxRows(
        input.reshape(outer, classes, inner),
        read.class_indices(name, target, (outer, inner)),
        weight,
        None if by_row is None else by_row.reshape(outer, inner),
        ignored,
    )
    summary = look_at_targets(rows, target)
    mean = Mean(
        divisor_of_rows(rows, summary, how, normalizer),
        read.zero_if_empty(empty),
        read.float_dtype_of(out_dtype, read.result_dtype(input)),
    )
    every = summary is not None and type(summary.kept) is int and summary.kept == outer * inner
    return mean.of_losses(picked_losses(rows, every=every)).reshape(
        rows_shape if how == "none" else ()
    )


@read.not_scriptable
def binary_cross_entropy(
    input: Tensor,  # noqa: A002
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    *,
    clamp: float | None = -100.0,
    normalizer: Literal["weight", "count"] | float | Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    empty: Literal["nan", "zero"] = "nan",
) -> Tensor:
    r"""Return the cross-entropy of yes-or-no questions from probabilities of yes, in nats.

    .. math:: L = -w\,[\,t \log q + (1 - t) \log(1 - q)\,]

    The call of `torch.nn.functional.binary_cross_entropy`, and more by keyword. As torch
    documents, each logarithm is at least −100; its slope is that of log x, at most 10¹².

    Parameters
    ----------
    input
        Probabilities of yes in [0, 1], of a float dtype and any shape.
    target
        The chance of yes in [0, 1], in the dtype and shape of `input`.
    weight
        Multiplies each loss, broadcast to `input`; an entry of weight 0 is 0.
    size_average, reduce, reduction, out_dtype, empty
        As for `cross_entropy`.
    clamp
        The least that a logarithm counts, < 0, or None for logarithms as they are: a loss of +∞
        where what happened had no probability.
    normalizer
        What a mean divides by. None is torch's rule and ``"count"`` without `weight`: how many
        entries there are. ``"weight"``: Σ weight, ``"count"``: how many have a weight other than
        0; or a number.

    Returns
    -------
    Tensor
        A number, or the shape of `input`; in the dtype of `input`.

    Raises
    ------
    RuntimeError, ValueError, TypeError, NotImplementedError
        As torch raises them; RuntimeError also where an input or target lies outside [0, 1] on
        an eager CPU. Elsewhere that entry becomes NaN.

    See Also
    --------
    binary_cross_entropy_with_logits : from logits; it needs no clamp and keeps every digit.

    Examples
    --------
    >>> q, t = torch.tensor([0.9, 0.0]), torch.tensor([1.0, 1.0])
    >>> print(binary_cross_entropy(q, t, reduction="none"))
    tensor([  0.1054, 100.0000])
    >>> print(binary_cross_entropy(q, t, reduction="none", clamp=None))
    tensor([0.1054,    inf])
    """
    if has_torch_function_variadic(input, target, weight):
        return handle_torch_function(
            binary_cross_entropy,
            (input, target, weight),
            input,
            target,
            weight=weight,
            size_average=size_average,
            reduce=reduce,
            reduction=reduction,
            clamp=clamp,
            normalizer=normalizer,
            out_dtype=out_dtype,
            empty=empty,
        )
    name = "binary_cross_entropy"
    read.require_tensors(name, input=input, target=target, weight=weight)
    how = read.reduction_of(size_average, reduce, reduction)
    shape = read.same_shape(name, input, target)
    # Autocast reads half types as float32, so that they mix.
    if read.result_dtype(input) != read.result_dtype(target):
        raise read.UnfitTargetError(
            f"{name}(): targets must have the dtype of the input, {input.dtype}: got "
            f"{target.dtype}. Hint: .to(input.dtype)."
        )
    read.require_floats(name, input)
    each = read.entries_of(name, "weight", weight, shape, input.device)
    if clamp is not None:
        clamp = require_number("clamp", clamp, -1e30, -1e-30, "None leaves the logarithms.")
    mean = Mean(
        divisor_of_entries(how, normalizer, shape, each, input),
        read.zero_if_empty(empty),
        read.float_dtype_of(out_dtype, read.result_dtype(input)),
    )
    return mean.of_losses(binary_losses(input, target, each, clamp))


@read.not_scriptable
def binary_cross_entropy_with_logits(
    input: Tensor,  # noqa: A002
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    normalizer: Literal["weight", "count"] | float | Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    empty: Literal["nan", "zero"] = "nan",
    kernel: str | None = None,
) -> Tensor:
    r"""Return the cross-entropy of yes-or-no questions from logits of yes, in nats.

    .. math:: L = w\,[\,p\,t \log(1 + e^{-z}) + (1 - t) \log(1 + e^{z})\,]

    The call of `torch.nn.functional.binary_cross_entropy_with_logits`, and more by keyword.

    Parameters
    ----------
    input
        Logits z of yes, float32, float64, bfloat16 or float16, of any shape; ±∞ is certain.
    target
        The chance of yes t, a float dtype, in the shape of `input`.
    weight
        Multiplies each loss (w), broadcast to `input`; an entry of weight 0 is not looked at.
    size_average, reduce, reduction, out_dtype, empty, kernel
        As for `cross_entropy`.
    pos_weight
        Multiplies the term of yes (p), broadcast to `input`.
    label_smoothing
        Moves targets towards 1/2 by this share.
    normalizer
        What a mean divides by. None is torch's rule: how many entries there are. ``"weight"``:
        Σ weight, ``"count"``: how many have a weight other than 0; or a number.

    Returns
    -------
    Tensor
        A number, or the shape of `input`; in the dtype of `target`, as torch returns it.

    Raises
    ------
    RuntimeError, ValueError, TypeError, NotImplementedError, OptionError
        As for `cross_entropy`.

    See Also
    --------
    cross_entropy : one choice among classes.
    xent.sigmoid_cross_entropy : the same on any array library, with checks.

    Examples
    --------
    >>> z, t = torch.tensor([20.0, float("inf")]), torch.tensor([1.0, 1.0])
    >>> print(binary_cross_entropy_with_logits(z, t, reduction="none"))
    tensor([2.0612e-09, 0.0000e+00])
    """
    if has_torch_function_variadic(input, target, weight, pos_weight):
        return handle_torch_function(
            binary_cross_entropy_with_logits,
            (input, target, weight, pos_weight),
            input,
            target,
            weight=weight,
            size_average=size_average,
            reduce=reduce,
            reduction=reduction,
            pos_weight=pos_weight,
            label_smoothing=label_smoothing,
            normalizer=normalizer,
            out_dtype=out_dtype,
            empty=empty,
            kernel=kernel,
        )
    name = "binary_cross_entropy_with_logits"
    read.require_tensors(name, input=input, target=target, weight=weight, pos_weight=pos_weight)
    how = read.reduction_of(size_average, reduce, reduction)
    shape = read.same_shape(name, input, target)
    read.require_floats(name, input)
    if not target.is_floating_point():
        raise read.UnfitTargetError(
            f"{name}(): targets must have a float dtype: got {target.dtype}. "
            "Hint: .to(input.dtype)."
        )
    each = read.entries_of(name, "weight", weight, shape, input.device)
    rows = EntryRows(
        input.reshape(-1),
        target.reshape(-1),
        read.by_label(name, pos_weight, shape, input.device),
        None if each is None else each.reshape(-1),
        read.smoothing_of(name, label_smoothing),
    )
    mean = Mean(
        divisor_of_entries(how, normalizer, shape, each, input),
        read.zero_if_empty(empty),
        read.float_dtype_of(out_dtype, read.result_dtype(target)),
    )
    result = mean.of_kernel(entry_losses, rows, kernel)
    return result.reshape(shape) if how == "none" else result


@read.not_scriptable
def kl_div(
    input: Tensor,  # noqa: A002
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
    *,
    normalizer: float | Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    empty: Literal["nan", "zero"] = "nan",
) -> Tensor:
    r"""Return the terms of the divergence of log-probabilities ℓ from probabilities t, in nats.

    .. math:: t\,(\log t - \ell), \qquad\text{or}\qquad e^{t}\,(t - \ell)
              \;\text{where the targets are logarithms}

    The call of `torch.nn.functional.kl_div`, and more by keyword.

    Parameters
    ----------
    input
        Log-probabilities ℓ, of a float dtype and any shape.
    target
        Probabilities, or their logarithms under `log_target`; broadcast against `input`.
    size_average, reduce, out_dtype, empty
        As for `cross_entropy`.
    reduction
        ``"batchmean"``, the divergence averaged over the first dimension of `input`; ``"sum"``;
        ``"none"``; or ``"mean"``, which also divides by the number of classes, with torch's
        warning.
    log_target
        Whether the targets are logarithms.
    normalizer
        What a mean divides by instead of the number of terms or the batch.

    Returns
    -------
    Tensor
        A number, or the shape of the terms; in the common dtype of `input` and `target`.

    Raises
    ------
    RuntimeError, ValueError, TypeError
        As torch raises them for dtypes, shapes and devices that do not fit.
    OptionError
        If `normalizer` or `empty` lies outside its domain.

    See Also
    --------
    xent.kl_divergence : D(p‖q) of two distributions, with checks.

    Examples
    --------
    >>> p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
    >>> print(f"{kl_div(q.log(), p, reduction='batchmean'):.6f}")
    0.143841
    """
    if has_torch_function_variadic(input, target):
        return handle_torch_function(
            kl_div,
            (input, target),
            input,
            target,
            size_average=size_average,
            reduce=reduce,
            reduction=reduction,
            log_target=log_target,
            normalizer=normalizer,
            out_dtype=out_dtype,
            empty=empty,
        )
    name = "kl_div"
    read.require_tensors(name, input=input, target=target)
    how = read.reduction_of(size_average, reduce, reduction, more=("batchmean",))
    read.check_kl_div(input, target, log_target)
    if how == reduction == "mean" and size_average is None and reduce is None:
        read.warn_of_elementwise_mean()
    terms = divergences(input, target, log_target)
    count: Any = terms.numel()
    if how == "batchmean":
        how, count = "mean", input.shape[0] if input.ndim else 1
    divisor = divisor_of_entries(how, normalizer, (count,), None, input)
    dtype = read.float_dtype_of(out_dtype, read.result_dtype(input, target))
    return Mean(divisor, read.zero_if_empty(empty), dtype).of_losses(terms)
