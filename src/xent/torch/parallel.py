"""Cross-entropy where the classes lie on several ranks: logits or a linear weight, sharded.

Every rank holds its own classes of the same rows. What ranks exchange is a few float64 numbers for
each row, however many classes there are; docs/parallel.md counts them. Values, options and edge
cases are those of `xent.torch.cross_entropy`; parallel_rows.py is the mathematics.
"""

from __future__ import annotations

from typing import Any, Literal, Unpack

import torch

from xent.losses.softmax import SoftmaxStatistics
from xent.torch.arguments import Tensor
from xent.torch.averages import Mean
from xent.torch.parallel_arguments import WORKSPACE, Call
from xent.torch.parallel_calls import compute_rows
from xent.torch.parallel_places import (
    Options,
    ParallelOptions,
    ParallelStatisticsOptions,
    Source,
    options_of,
)
from xent.torch.parallel_rows import Rows

__all__ = [
    "ParallelOptions",
    "ParallelStatisticsOptions",
    "parallel_cross_entropy",
    "parallel_linear_cross_entropy",
    "parallel_linear_softmax_statistics",
    "parallel_softmax_statistics",
]


def parallel_cross_entropy(
    logits_local: Tensor,
    target: Tensor,
    *,
    group: Any = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    row_weight: Tensor | None = None,
    normalizer: Literal["weight", "count"] | float | Tensor | None = None,
    data_group: Any = None,
    first_class: int | None = None,
    classes: int | None = None,
    out_dtype: torch.dtype | None = None,
    empty: Literal["nan", "zero"] = "nan",
    check: bool = True,
) -> Tensor:
    r"""Return the cross-entropy of logits whose classes lie on several ranks, in nats.

    .. math:: L = -\sum_j t_j \log \frac{e^{z_j}}{\sum_i e^{z_i}}

    with the sums over the classes of all ranks. Every rank of `group` calls it with its own
    classes of the same rows and gets the same number; backward gives each the gradient of its own
    logits, without an exchange.

    Parameters
    ----------
    logits_local
        This rank's logits, classes last, any leading dimensions.         (…, own classes)
        Ranks may have different numbers of classes, and none. Or a DTensor: its classes sharded
        on one dimension of the mesh, its rows replicated or sharded on others.
    target
        Class indices counted over all ranks, the same on each.           (…)
        Or probabilities of this rank's classes, of a float dtype.        (…, own classes)
    group
        The ranks that hold the classes: a process group or a mesh of one dimension; None for all
        processes, and for this one alone where torch.distributed is not initialised.
    weight
        Multiplies the target's mass on each class: of all classes, the same on each rank.
    reduction, ignore_index, label_smoothing, z_loss, temperature, softcap, row_weight
        As for `xent.torch.cross_entropy`. Smoothing spreads over the allowed classes of all ranks.
    normalizer
        What a mean divides by, as for `xent.torch.cross_entropy`.
    data_group
        Processes with other rows. A mean then divides by what the rows of all of them weigh, and
        each gets the share of its own rows: shares *add up* to the mean. Where gradients are
        averaged over those processes, as by DDP and FSDP, multiply the loss by their number. For
        a DTensor it is the mesh that says this, and the result is the whole mean. All of them
        give it, whatever the reduction.
    first_class, classes
        The number of this rank's first class and of all classes. By default ranks follow each
        other in their order; both are needed where ``check=False``.
    out_dtype, empty
        As for `xent.torch.cross_entropy`; a float dtype.
    check
        Whether ranks first compare shapes, options and targets in one small exchange, those with
        other rows in another, and refuse what is wrong together. Without it nothing is looked at:
        a target out of range makes its row NaN, and ranks that disagree wait for each other or
        return wrong numbers.

    Returns
    -------
    Tensor
        A number, or the shape of the rows, the same on each rank; in the dtype that
        `xent.torch.cross_entropy` returns. Of a DTensor a DTensor: numbers replicated, rows
        sharded as those of the logits.

    Raises
    ------
    IndexError
        If a class index lies outside [0, classes): on every rank, as all that follows.
    RuntimeError, ValueError, TypeError, NotImplementedError
        As `xent.torch.cross_entropy` raises them for shapes, dtypes and devices that do not fit.
    ShapeError, OptionError
        If ranks disagree on shapes or options, or an option lies outside its domain.
    NotImplementedError
        If second or forward-mode derivatives are asked for, or one of `torch.func`.

    See Also
    --------
    parallel_linear_cross_entropy : from hidden states and a sharded weight, without the logits.
    xent.torch.cross_entropy : the same with all classes in one place.

    Examples
    --------
    On one process, or as each of several:

    >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    >>> print(f"{parallel_cross_entropy(logits, torch.tensor([0, 1])):.6f}")
    0.167234
    """
    return _loss(
        "parallel_cross_entropy",
        (logits_local,),
        target,
        {
            "group": group,
            "weight": weight,
            "reduction": reduction,
            "ignore_index": ignore_index,
            "label_smoothing": label_smoothing,
            "z_loss": z_loss,
            "temperature": temperature,
            "softcap": softcap,
            "row_weight": row_weight,
            "normalizer": normalizer,
            "data_group": data_group,
            "first_class": first_class,
            "classes": classes,
            "out_dtype": out_dtype,
            "empty": empty,
            "check": check,
        },
    )


def parallel_linear_cross_entropy(
    hidden: Tensor,
    weight_local: Tensor,
    target: Tensor,
    *,
    bias_local: Tensor | None = None,
    workspace_bytes: int = WORKSPACE,
    **options: Unpack[ParallelOptions],
) -> Tensor:
    r"""Return the cross-entropy of logits hidden·weightᵀ + bias, the weight sharded on classes.

    .. math:: z = h\,W^{\mathsf T} + b, \qquad
              L = -\sum_j t_j \log \frac{e^{z_j}}{\sum_i e^{z_i}}

    A rank's logits are computed in tiles within the workspace, and again for the gradient. Rows
    that are ignored are left out before the product. The gradient of `hidden` is summed over
    ranks, so each has the whole; those of weight and bias are the rank's own.

    Parameters
    ----------
    hidden
        The same on every rank, of a float dtype.                         (…, features)
        Or a DTensor, replicated where classes are sharded; rows may be sharded elsewhere, and the
        gradients of weight and bias are then summed there.
    weight_local
        This rank's classes.                                              (own classes, features)
        Or a DTensor, sharded on classes along one dimension of the mesh.
    target
        Class indices counted over all ranks (…), or probabilities of this rank's classes
        (…, own classes).
    bias_local
        Added to this rank's logits, or None.                             (own classes,)
        With a weight that is a DTensor also a DTensor, sharded as the weight or replicated, or a
        plain tensor of all classes: the gradient of one that is whole is that of all classes.
    workspace_bytes
        Bytes for logits, and for blocks of half-precision arguments on their way to float32.
        Results, gradients and the sums that ranks exchange come on top.
    **options
        The keyword arguments of `parallel_cross_entropy`, with the same defaults.

    Returns
    -------
    Tensor
        As `parallel_cross_entropy`; a DTensor where `hidden` is one.

    Raises
    ------
    IndexError, RuntimeError, ValueError, TypeError, NotImplementedError, ShapeError, OptionError
        As `parallel_cross_entropy`; also if ranks disagree on the features, on whether `hidden`
        needs a gradient, or if the workspace is below 1 MiB.

    See Also
    --------
    parallel_cross_entropy : from logits that are there already.

    Examples
    --------
    >>> hidden, weight = torch.eye(2), torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
    >>> print(f"{parallel_linear_cross_entropy(hidden, weight, torch.tensor([0, 1])):.6f}")
    0.167234
    """
    source = hidden, weight_local, bias_local, workspace_bytes, True
    return _loss("parallel_linear_cross_entropy", source, target, {**options})


def parallel_softmax_statistics(
    logits_local: Tensor,
    target: Tensor | None = None,
    **options: Unpack[ParallelStatisticsOptions],
) -> SoftmaxStatistics:
    r"""Return log-likelihood, log-sum-exp, entropy and likeliest class of rows, over all ranks.

    .. math:: H = -\sum_j p_j \log p_j, \qquad p_j = \frac{e^{z_j}}{\sum_i e^{z_i}}

    Parameters
    ----------
    logits_local, target
        As for `parallel_cross_entropy`, without ignored rows; without a target `nll`,
        `log_probability` and `correct` are None.
    **options
        `group`, `temperature`, `softcap`, `first_class`, `classes` and `check`, as for
        `parallel_cross_entropy`.

    Returns
    -------
    SoftmaxStatistics
        One number for each row, the same on every rank, at least float32; classes are counted
        over all ranks. `nll`, `log_probability`, `logsumexp` and `entropy` have gradients. A row
        with a logit of NaN or +∞, or with every class masked, is NaN and its class −1.

    Raises
    ------
    IndexError, RuntimeError, ValueError, TypeError, NotImplementedError, ShapeError, OptionError
        As `parallel_cross_entropy`.

    See Also
    --------
    xent.torch.softmax_statistics : the same with all classes in one place.

    Examples
    --------
    >>> s = parallel_softmax_statistics(torch.zeros(1, 4), torch.tensor([2]))
    >>> print(s.entropy, s.argmax, s.correct)
    tensor([1.3863]) tensor([0]) tensor([False])
    """
    return _statistics("parallel_softmax_statistics", (logits_local,), target, {**options})


def parallel_linear_softmax_statistics(
    hidden: Tensor,
    weight_local: Tensor,
    target: Tensor | None = None,
    *,
    bias_local: Tensor | None = None,
    workspace_bytes: int = WORKSPACE,
    **options: Unpack[ParallelStatisticsOptions],
) -> SoftmaxStatistics:
    """Return what `parallel_softmax_statistics` does, from hidden states and a sharded weight.

    Parameters
    ----------
    hidden, weight_local, bias_local, workspace_bytes
        As for `parallel_linear_cross_entropy`.
    target, **options
        As for `parallel_softmax_statistics`.

    Returns
    -------
    SoftmaxStatistics
        As `parallel_softmax_statistics`.

    Raises
    ------
    IndexError, RuntimeError, ValueError, TypeError, NotImplementedError, ShapeError, OptionError
        As `parallel_linear_cross_entropy`.

    See Also
    --------
    parallel_softmax_statistics : from logits that are there already.

    Examples
    --------
    >>> s = parallel_linear_softmax_statistics(torch.eye(2), torch.eye(2), torch.tensor([0, 0]))
    >>> print(s.nll, s.correct)
    tensor([0.3133, 1.3133]) tensor([ True, False])
    """
    source = hidden, weight_local, bias_local, workspace_bytes, True
    return _statistics("parallel_linear_softmax_statistics", source, target, {**options})


# ---- the functions -------------------------------------------------------------------------------


def _options(name: str, given: dict[str, Any], allowed: Any) -> tuple[Options, Exception | None]:
    """Read options; also return what every rank has to hear that this one refuses."""
    o, failure = options_of(name, given, allowed)
    if torch._C._functorch.get_dynamic_layer_stack_depth() > 0:
        failure = NotImplementedError(
            f"{name}() has no derivatives by torch.func: ranks would have to exchange what a "
            "transform holds. Hint: use backward, or xent.torch.cross_entropy on gathered classes."
        )
    return o, failure


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _loss(name: str, of: tuple[Any, ...], target: Any, given: dict[str, Any]) -> Tensor:
    source = Source(*of)
    o, failure = _options(name, given, ParallelOptions)
    call, rows, place = compute_rows(name, source, target, o, failure, False)
    kept = call.kept()
    divisor = call.divisor
    if call.reduction != "mean":
        divisor = None if call.reduction == "none" else 1.0
    elif divisor is None:
        divisor = _weight_of_rows(call, rows, kept, o.normalizer)
        for ranks in place.others:
            divisor = ranks.sum(divisor)
    losses = rows.cross
    if call.z_loss:
        losses = losses + call.z_loss * rows.mass * rows.logsumexp**2
    if call.row_weight is not None:
        losses = losses * call.row_weight.to(losses.dtype)
    if kept is not None:
        losses = torch.where(kept, losses, 0.0)
    result = Mean(divisor, call.zero, call.dtype).of_losses(losses)
    if divisor is None:
        result = result.reshape(call.shape)
    if place.layout is None:
        return result
    if divisor is None:
        return place.layout.rows(result, tuple(source.main.shape[:-1]))
    return place.layout.number(result)


def _weight_of_rows(call: Call, rows: Rows, kept: Tensor | None, normalizer: str | None) -> Tensor:
    """Return what the sum over this rank's rows is divided by, by that rule."""
    one = rows.mass.new_ones(call.main.shape[0])
    if normalizer == "count":
        return (one if kept is None else kept.to(one.dtype)).sum()
    each = one
    if normalizer == "weight":
        each = rows.mass
    elif call.indices is not None and call.class_weight is not None:
        classes = call.class_weight.shape[0]
        inside = (call.indices >= 0) & (call.indices < classes)
        each = call.class_weight.to(one.dtype)[torch.where(inside, call.indices, 0)]
    if call.row_weight is not None:
        each = each * call.row_weight.to(one.dtype)
    return (each if kept is None else torch.where(kept, each, 0.0)).sum()


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _statistics(
    name: str, of: tuple[Any, ...], target: Any, given: dict[str, Any]
) -> SoftmaxStatistics:
    source = Source(*of)
    o, failure = _options(name, given, ParallelStatisticsOptions)
    call, rows, place = compute_rows(name, source, target, o, failure, True)
    dtype = torch.promote_types(call.dtype, torch.float32)

    def shaped(column: Tensor) -> Tensor:
        column = column if column.dtype in (torch.int64, torch.bool) else column.to(dtype)
        column = column.reshape(call.shape)
        if place.layout is None:
            return column
        return place.layout.rows(column, tuple(source.main.shape[:-1]))

    assert rows.entropy is not None
    logsumexp, entropy = shaped(rows.logsumexp), shaped(rows.entropy)
    likeliest = shaped(rows.likeliest)
    if call.target is None:
        return SoftmaxStatistics(None, None, logsumexp, entropy, likeliest, None)
    wanted = call.indices if rows.target is None else rows.target
    correct = shaped((rows.likeliest == wanted) & (rows.likeliest >= 0))
    nll = shaped(rows.cross)
    return SoftmaxStatistics(nll, shaped(0.0 - rows.cross), logsumexp, entropy, likeliest, correct)
