"""Losses of a head's logits against a teacher, with neither's logits in memory."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch.overrides import handle_torch_function, has_torch_function_variadic

from xent.errors import OptionError
from xent.losses.autodiff.distilled import distilled_losses
from xent.losses.kernels import LinearRows, SoftmaxRows
from xent.losses.kernels.linear_chunked import DEFAULT_WORKSPACE
from xent.losses.kernels.linear_distilled import (
    DIVERGENCES,
    TAILS,
    SparseTargets,
    Teacher,
    faults_of,
)
from xent.losses.rows import require_number
from xent.torch import arguments as read
from xent.torch.arguments import Tensor
from xent.torch.averages import Mean, divisor_of_rows, look_at_targets
from xent.torch.linear import (
    _masked,
    _require_head,
    _under_autocast,
    limits_of,
    read_call,
    softcap_of,
    temperature_of,
)
from xent.torch.modules import Empty, Normalizer

__all__ = ["linear_distillation", "linear_sparse_cross_entropy"]


@read.not_scriptable
def linear_sparse_cross_entropy(
    input: Tensor,  # noqa: A002
    linear_weight: Tensor,
    ids: Tensor,
    log_probabilities: Tensor,
    *,
    tail: Literal["renormalise", "uniform", "bucket"] = "renormalise",
    divergence: bool = False,
    linear_bias: Tensor | None = None,
    reduction: str = "mean",
    row_weight: Tensor | None = None,
    normalizer: Normalizer = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    class_mask: Tensor | None = None,
    shift: int = 0,
    workspace_bytes: int = DEFAULT_WORKSPACE,
    out_dtype: torch.dtype | None = None,
    empty: Empty = "nan",
    kernel: str | None = None,
) -> Tensor:
    r"""Return the cross-entropy of logits to a teacher known by its likeliest classes, in nats.

    With p the softmax of the logits ``input·linear_weightᵀ + linear_bias``, K the listed classes,
    :math:`m_j` their masses, :math:`S = \sum_{j \in K} m_j`, and C the number of classes allowed:

    .. math::
        \text{renormalise:}\quad & L = -\sum_{j \in K} \tfrac{m_j}{S} \log p_j

        \text{uniform:}\quad & L = -\sum_{j \in K} m_j \log p_j
            - \frac{1 - S}{C - |K|} \sum_{j \notin K} \log p_j

        \text{bucket:}\quad & L = -\sum_{j \in K} m_j \log p_j
            - (1 - S) \log \sum_{j \notin K} p_j

    The bucket is what is known for sure: the mass of all others, not how they share it. The
    others' probability is a sum, never 1 − Σ, so nothing cancels. The logits are made some rows
    at a time, as `linear_cross_entropy` makes them, within `workspace_bytes`.

    Parameters
    ----------
    input, linear_weight, linear_bias
        As for `linear_cross_entropy`, with a matrix for the weight.    (…, D), (C, D), (C,)
    ids
        The listed classes of each row, of any integer dtype, each once.    (…, k)
    log_probabilities
        Natural logarithms of their masses, a float dtype.                  (…, k)
        An entry of −∞ has no mass and counts as not listed, whatever its id: padding for rows
        that list fewer.
    tail
        What becomes of the mass 1 − S of all others, as above. A sum that is above 1 by rounding
        is divided by itself. A rest where no other class is allowed makes the loss +∞, unless it
        is rounding: then the masses are divided by their sum.
    divergence
        Whether to return KL(teacher ‖ student) instead, which is L minus the teacher's entropy
        under the same rule, and for the bucket that of k + 1 outcomes. Gradients are the same.
        It has the relative accuracy of L for ``"renormalise"`` and ``"bucket"``, and the absolute
        error of L for ``"uniform"``.
    reduction, normalizer
        ``"mean"``, ``"sum"``, or ``"none"`` for each row. A mean divides by the total row weight,
        by ``"count"``, the rows of weight other than 0, or by a number.
    row_weight
        Multiplies the loss of each row; a row of weight 0 is not looked at.  (rows, broadcast)
    temperature, softcap, z_loss, class_mask
        As for `linear_cross_entropy`; they concern the student. A listed class that is not allowed
        makes the loss +∞.
    shift
        The row at place t is asked for the ids at place t + `shift`. 0, the default, where the
        teacher's classes stand beside the hidden state that predicts them.
    workspace_bytes
        As for `linear_cross_entropy`. ``"uniform"`` holds the masses beside the logits.
    out_dtype
        Dtype of the result; by default float32, or float64 where an argument has it.
    empty, kernel
        As for `linear_cross_entropy`.

    Returns
    -------
    Tensor
        A number, or the shape of the rows. Derivatives flow to `input`, `linear_weight` and
        `linear_bias`; to `log_probabilities` and `row_weight` too where they ask for them, for
        which the definition runs in blocks of rows.

    Raises
    ------
    IndexError
        If a listed class lies outside [0, C), on an eager CPU.
    RuntimeError
        If masses are NaN, sum to more than 1, or a class is listed twice, or none, on an eager
        CPU. Elsewhere, and when compiled, such a row is NaN. Also for shapes that do not fit.
    OptionError
        If an option lies outside its domain, or the workspace does not hold one row.

    See Also
    --------
    linear_distillation : the teacher's hidden states and head instead.
    linear_cross_entropy : one class for each row, or the mass of every class.

    Examples
    --------
    >>> hidden, head = torch.tensor([[1.0]]), torch.tensor([[2.0], [1.0], [0.0], [-1.0]])
    >>> ids, logs = torch.tensor([[0, 1]]), torch.tensor([[0.7, 0.2]]).log()
    >>> for tail in ("renormalise", "uniform", "bucket"):
    ...     print(tail, f"{linear_sparse_cross_entropy(hidden, head, ids, logs, tail=tail):.6f}")
    renormalise 0.662412
    uniform 0.890190
    bucket 0.808864
    """
    tensors = input, linear_weight, ids, log_probabilities, linear_bias, row_weight, class_mask
    if has_torch_function_variadic(*tensors):
        return handle_torch_function(
            linear_sparse_cross_entropy,
            tensors,
            input,
            linear_weight,
            ids,
            log_probabilities,
            tail=tail,
            divergence=divergence,
            linear_bias=linear_bias,
            reduction=reduction,
            row_weight=row_weight,
            normalizer=normalizer,
            temperature=temperature,
            softcap=softcap,
            z_loss=z_loss,
            class_mask=class_mask,
            shift=shift,
            workspace_bytes=workspace_bytes,
            out_dtype=out_dtype,
            empty=empty,
            kernel=kernel,
        )
    name = "linear_sparse_cross_entropy"
    how = read.reduction_of(None, None, reduction)
    if tail not in TAILS:
        raise OptionError(
            f"tail must be one of {', '.join(map(repr, TAILS))}: got {tail!r}. "
            "Hint: it says what becomes of the mass that the listed classes leave."
        )
    read.require_tensors(
        name, input=input, linear_weight=linear_weight, ids=ids, log_probabilities=log_probabilities
    )
    leading = tuple(input.shape[:-1])
    _require_sparse(name, ids, log_probabilities, leading)
    read.require_floats(name, log_probabilities, "log_probabilities")
    read_as = _read(
        name,
        input,
        linear_weight,
        _places(input),
        linear_bias=linear_bias,
        row_weight=row_weight,
        class_mask=class_mask,
        shift=shift,
    )
    count, k = math.prod(leading), ids.shape[-1]
    targets = SparseTargets(
        read.class_indices(name, ids, (count, k)),
        log_probabilities.reshape(count, k),
        tail,
        bool(divergence),
        checked=read.can_look(ids, log_probabilities, row_weight),
    )
    if targets.checked:
        _refuse_faults(name, targets, read_as.rows, linear_weight.shape[0], leading)
    rows = replace(
        read_as.rows,
        temperature=temperature_of(temperature),
        softcap=softcap_of(softcap),
        z_loss=require_number("z_loss", z_loss, 0.0, 2.0**40, "it weighs logsumexp²."),
    )
    usual = torch.promote_types(read_as.dtype, read.result_dtype(log_probabilities))
    dtype = read.float_dtype_of(out_dtype, usual)
    return _reduced(
        read_as._replace(rows=rows, dtype=dtype),
        targets,
        how,
        normalizer,
        empty,
        kernel,
        workspace_bytes,
    )


@read.not_scriptable
def linear_distillation(
    input: Tensor,  # noqa: A002
    linear_weight: Tensor,
    teacher_input: Tensor,
    teacher_weight: Tensor,
    *,
    linear_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    divergence: Literal[
        "forward_kl", "reverse_kl", "jensen_shannon", "total_variation"
    ] = "forward_kl",
    beta: float = 0.5,
    temperature: float = 1.0,
    teacher_temperature: float | None = None,
    softcap: float | None = None,
    teacher_softcap: float | None = None,
    target: Tensor | None = None,
    ignore_index: int = -100,
    row_weight: Tensor | None = None,
    reduction: str = "mean",
    normalizer: Normalizer = None,
    class_mask: Tensor | None = None,
    shift: int = 0,
    workspace_bytes: int = DEFAULT_WORKSPACE,
    out_dtype: torch.dtype | None = None,
    empty: Empty = "nan",
    kernel: str | None = None,
) -> Tensor:
    r"""Return a divergence between a teacher's softmax and a student's, in nats.

    With p the softmax of the student's logits ``input·linear_weightᵀ + linear_bias``, q that of
    the teacher's ``teacher_input·teacher_weightᵀ + teacher_bias``, and ``m = β·q + (1 − β)·p``:

    .. math::
        \text{forward\_kl:}\quad & \sum_j q_j \log\frac{q_j}{p_j}
        \qquad \text{reverse\_kl:}\quad \sum_j p_j \log\frac{p_j}{q_j}

        \text{jensen\_shannon:}\quad & \beta \sum_j q_j \log\frac{q_j}{m_j}
            + (1 - \beta) \sum_j p_j \log\frac{p_j}{m_j}
        \qquad \text{total\_variation:}\quad \tfrac12 \sum_j |p_j - q_j|

    The logits of both are made some rows at a time within `workspace_bytes`. They are float32, or
    float64 where an input is; all that follows is float64. Divergences are summed from terms that
    are not negative, so a tiny one keeps its digits and equal logits give exactly 0. (Equal hidden
    states and heads give logits that are equal but for the rounding of products.) A row that is not
    defined, because a logit of either side is NaN or +∞ or all classes are masked, is NaN, and so
    is its gradient.

    Parameters
    ----------
    input, linear_weight, linear_bias
        The student's hidden states and head.                       (…, D), (C, D), (C,)
    teacher_input, teacher_weight, teacher_bias
        The teacher's, whose features may be others; its rows are the same. Constants: no
        derivative flows to them.                                   (…, E), (C', E), (C',)
        Of vocabularies of different size the first min(C, C') classes take part: those that are
        in one alone are masked, as `class_mask` does, and get a gradient of 0.
    divergence
        One of the four above. Where one side has mass and the other has none, ``"forward_kl"`` is
        +∞ for the teacher's mass and ``"reverse_kl"`` for the student's, whose derivative is then
        not finite. Masses of 0 on both sides count nothing.
    beta
        The teacher's share β of the mixture, in (0, 1).
    temperature, softcap
        The student's logits become ``softcap·tanh(z/softcap)`` and are divided by the temperature.
        Multiply the result by temperature² if gradients are to have the same size at any
        temperature; that is not done here.
    teacher_temperature, teacher_softcap
        The teacher's; the temperature is by default the student's, the softcap is none.
    target, ignore_index
        Class indices in the shape of the rows, of which only those of `ignore_index` matter: their
        rows do not count, as those of `row_weight` 0.
    row_weight
        Multiplies the divergence of each row; a row of weight 0 is not looked at.
    reduction, normalizer
        ``"mean"``, ``"sum"``, or ``"none"`` for each row. A mean divides by the total row weight of
        rows that count, by ``"count"``, how many they are, or by a number.
    class_mask
        Which of the student's classes are allowed, on both sides.  (C,), bool
    shift
        The row at place t is that of the target at place t + `shift`, and rows without one are left
        out. Teacher and student are compared at the same place.
    workspace_bytes
        What is held at a time beside inputs and gradients: logits of both sides, what is widened,
        and the temporaries of a divergence.
    out_dtype
        Dtype of the result; by default float32, or float64 where the student has it.
    empty, kernel
        As for `linear_cross_entropy`.

    Returns
    -------
    Tensor
        A number, or the shape of the rows. Derivatives flow to the student and to `row_weight`. At
        p_j = q_j the absolute value of the total variation is given the slope 0.

    Raises
    ------
    RuntimeError, ValueError, TypeError, NotImplementedError
        For shapes, dtypes and devices that do not fit, as `linear_cross_entropy` raises them.
    OptionError
        If an option lies outside its domain, or the workspace does not hold one row.

    See Also
    --------
    linear_sparse_cross_entropy : a teacher known by its likeliest classes.
    kl_div : from log-probabilities that are there already.

    Examples
    --------
    >>> hidden, head = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> teacher, its_head = torch.tensor([[1.0]]), torch.tensor([[1.0], [0.0]])
    >>> print(f"{linear_distillation(hidden, head, teacher, its_head):.6f}")
    0.082608
    """
    tensors = (
        input,
        linear_weight,
        teacher_input,
        teacher_weight,
        linear_bias,
        teacher_bias,
        target,
        row_weight,
        class_mask,
    )
    if has_torch_function_variadic(*tensors):
        return handle_torch_function(
            linear_distillation,
            tensors,
            input,
            linear_weight,
            teacher_input,
            teacher_weight,
            linear_bias=linear_bias,
            teacher_bias=teacher_bias,
            divergence=divergence,
            beta=beta,
            temperature=temperature,
            teacher_temperature=teacher_temperature,
            softcap=softcap,
            teacher_softcap=teacher_softcap,
            target=target,
            ignore_index=ignore_index,
            row_weight=row_weight,
            reduction=reduction,
            normalizer=normalizer,
            class_mask=class_mask,
            shift=shift,
            workspace_bytes=workspace_bytes,
            out_dtype=out_dtype,
            empty=empty,
            kernel=kernel,
        )
    name = "linear_distillation"
    how = read.reduction_of(None, None, reduction)
    if divergence not in DIVERGENCES:
        raise OptionError(
            f"divergence must be one of {', '.join(map(repr, DIVERGENCES))}: got {divergence!r}. "
            "Hint: 'forward_kl' is KL(teacher ‖ student)."
        )
    hint = "it is the teacher's share; at its ends use 'forward_kl' or 'reverse_kl'."
    beta = require_number("beta", beta, 0.0, 1.0, hint)
    if beta in (0.0, 1.0):
        raise OptionError(f"beta must lie between 0 and 1, at neither: got {beta!r}. Hint: {hint}")
    read.require_tensors(
        name,
        input=input,
        linear_weight=linear_weight,
        teacher_input=teacher_input,
        teacher_weight=teacher_weight,
        linear_bias=linear_bias,
        teacher_bias=teacher_bias,
        target=target,
    )
    own, given = (linear_weight, linear_bias), (teacher_weight, teacher_bias)
    _require_teacher(name, input, *own, teacher_input, *given)
    if class_mask is not None:  # its shape is looked at before it is cut
        _masked(name, None, class_mask, linear_weight[:, :0], [])
    common = min(linear_weight.shape[0], teacher_weight.shape[0])
    (linear_weight, linear_bias, class_mask), (teacher_weight, teacher_bias) = (
        [None if a is None else a if a.shape[0] == common else a[:common] for a in side]
        for side in ((*own, class_mask), given)
    )
    read_as = _read(
        name,
        input,
        linear_weight,
        _places(input) if target is None else _labels(name, target, input),
        linear_bias=linear_bias,
        row_weight=row_weight,
        class_mask=class_mask,
        shift=shift,
    )
    rows = replace(
        read_as.rows, temperature=temperature_of(temperature), softcap=softcap_of(softcap)
    )
    if target is not None:
        looked_at = rows.targets != read.index_of(name, ignore_index)
        one = 1.0 if rows.row_weight is None else rows.row_weight
        rows = replace(rows, row_weight=torch.where(looked_at, one, 0.0))
    kept = input.shape[-2] - min(int(shift), input.shape[-2]) if shift else None
    which = _places(input) if kept is None else _places(input)[..., :kept]
    hidden, weight, bias = _under_autocast(
        *(None if a is None else a.detach() for a in (teacher_input, teacher_weight, teacher_bias))
    )
    assert hidden is not None
    assert weight is not None
    teacher = Teacher(
        hidden.reshape(math.prod(hidden.shape[:-1]), hidden.shape[-1]),
        weight,
        _masked(name, bias, class_mask, weight, []),
        rows.temperature if teacher_temperature is None else temperature_of(teacher_temperature),
        softcap_of(teacher_softcap),
        divergence,
        beta,
    )
    return _reduced(
        read_as._replace(
            rows=replace(rows, targets=which.reshape(-1)),
            dtype=read.float_dtype_of(out_dtype, read_as.dtype),
        ),
        teacher,
        how,
        normalizer,
        empty,
        kernel,
        workspace_bytes,
    )


# ---- arguments -----------------------------------------------------------------------------------


class _Read(NamedTuple):
    """The tensors of the student, checked, as rows."""

    rows: LinearRows
    logits: Tensor  # like those of the call, and without memory   (rows, classes, 1)
    shape: tuple[int, ...]  # of the rows
    dtype: torch.dtype  # of the result


def _read(
    name: str,
    input: Tensor,  # noqa: A002
    linear_weight: Tensor,
    target: Tensor,
    **others: Any,
) -> _Read:
    """Return the student's rows with what `target` says of each."""
    if linear_weight.ndim != 2:
        raise read.UnfitShapeError(
            f"{name}(): linear_weight must be a matrix (C, D): got shape "
            f"{tuple(linear_weight.shape)}. Hint: call once for each head."
        )
    call = read_call(name, input, linear_weight, target, **others)
    rows = replace(call.places[0], ignore_index=None)
    dtype = torch.promote_types(call.dtype, torch.float32)
    return _Read(rows, call.likeness.logits, call.shape, dtype)


def _places(input: Tensor) -> Tensor:  # noqa: A002
    """Return the number of each row, in the shape of the rows."""
    leading = input.shape[:-1]
    return torch.arange(math.prod(leading), device=input.device).reshape(leading)


def _labels(name: str, target: Tensor, input: Tensor) -> Tensor:  # noqa: A002
    """Return class indices in the shape of the rows."""
    if target.shape != input.shape[:-1]:
        raise read.UnfitShapeError(
            f"{name}(): target must be class indices in the shape of the rows, "
            f"{tuple(input.shape[:-1])}: got shape {tuple(target.shape)}. "
            "Hint: it only says which rows are ignored."
        )
    return read.class_indices(name, target, tuple(target.shape))


def _require_sparse(
    name: str, ids: Tensor, log_probabilities: Tensor, leading: tuple[int, ...]
) -> None:
    """Refuse lists of classes that do not fit the rows or each other."""
    if tuple(ids.shape[:-1]) != leading or not ids.ndim or not ids.shape[-1]:
        raise read.UnfitShapeError(
            f"{name}(): ids must list k ≥ 1 classes for each row, shape {(*leading, 'k')}: got "
            f"shape {tuple(ids.shape)}. Hint: torch.topk of the teacher's logits returns them."
        )
    if log_probabilities.shape != ids.shape:
        raise read.UnfitShapeError(
            f"{name}(): log_probabilities must have the shape of ids, {tuple(ids.shape)}: got "
            f"shape {tuple(log_probabilities.shape)}. Hint: one for each listed class."
        )


def _require_teacher(
    name: str,
    input: Tensor,  # noqa: A002
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    teacher_input: Tensor,
    teacher_weight: Tensor,
    teacher_bias: Tensor | None,
) -> None:
    """Refuse heads that do not fit their hidden states, and a teacher of other rows."""
    for which, tensor in (
        ("teacher_input", teacher_input),
        ("teacher_weight", teacher_weight),
        ("teacher_bias", teacher_bias),
    ):
        if tensor is not None:
            read.require_floats(name, tensor, which)
    _require_head(name, input, linear_weight, linear_bias)
    for which, head, bias, hidden in (
        ("linear", linear_weight, linear_bias, input),
        ("teacher", teacher_weight, teacher_bias, teacher_input),
    ):
        if head.ndim != 2 or hidden.ndim < 1 or hidden.shape[-1] != head.shape[-1]:
            raise read.UnfitShapeError(
                f"{name}(): {which}_weight must be a matrix (classes, features) of the features of "
                f"its input: got shapes {tuple(head.shape)} and {tuple(hidden.shape)}. "
                "Hint: torch.nn.Linear(D, C).weight is one."
            )
        if head.shape[0] == 0:
            raise read.UnfitShapeError(
                f"{name}(): {which}_weight must have at least one class: got shape "
                f"{tuple(head.shape)}. Hint: it is (classes, features)."
            )
        if bias is not None and bias.shape != head.shape[:1]:
            raise read.UnfitShapeError(
                f"{name}(): {which}_bias must have a number for each class, shape "
                f"{tuple(head.shape[:1])}: got shape {tuple(bias.shape)}. "
                "Hint: class_mask= masks."
            )
    if teacher_input.shape[:-1] != input.shape[:-1]:
        raise read.UnfitShapeError(
            f"{name}(): teacher_input must have the rows of input, {tuple(input.shape[:-1])}: got "
            f"{tuple(teacher_input.shape[:-1])}. Hint: both models read the same tokens; shift= "
            "moves the target alone."
        )


_FAULTS = {
    "undefined": ("must not be NaN", "a row_weight of 0 leaves a row out."),
    "positive": ("must be ≤ 0", "these look like logits: subtract their logsumexp first."),
    "outside": ("", ""),
    "repeated": ("", ""),
    "empty": (
        "must not all be −∞",
        "a row_weight of 0 leaves out a row whose teacher is not known.",
    ),
    "heavy": (
        "must be logarithms of masses that sum to 1 at most",
        "take the logarithms over all classes, before the likeliest are chosen.",
    ),
}


def _refuse_faults(
    name: str, targets: SparseTargets, rows: LinearRows, classes: int, leading: tuple[int, ...]
) -> None:
    """Refuse the first row that is looked at and has a fault."""
    which = rows.targets
    if rows.row_weight is not None:
        which = which[rows.row_weight != 0]
    ids, logarithms = targets.ids[which], targets.log_probabilities.detach()[which]
    faults = faults_of(ids, logarithms, classes)
    if not any(bool(fault.any()) for fault in faults):
        return
    fault, place = next(
        (field, int(found.nonzero()[0, 0]))
        for field, found in zip(faults._fields, faults, strict=True)
        if bool(found.any())
    )
    row: Any = int(which[place])
    if len(leading) > 1:
        row = tuple(int(i) for i in torch.unravel_index(torch.tensor(row), leading))
    at = f"at row {row}" if leading else "in the only row"
    own = ids[place].tolist()
    logs = logarithms[place].to(torch.float64)
    listed = [i for i, log in zip(own, logs.tolist(), strict=True) if log != -math.inf]
    if fault == "outside":
        wrong = next(i for i in listed if not 0 <= i < classes)
        raise read.TargetIndexError(
            f"{name}(): ids must lie in [0, {classes}): got {wrong} {at}. "
            "Hint: an entry of log-probability −∞ is padding, whatever its id."
        )
    if fault == "repeated":
        twice = next(i for i in listed if listed.count(i) > 1)
        raise read.UnfitTargetError(
            f"{name}(): ids must list a class once: got {twice} twice {at}. "
            "Hint: an entry of log-probability −∞ is padding, whatever its id."
        )
    must, hint = _FAULTS[fault]
    got = {
        "undefined": "NaN",
        "positive": f"{float(logs.max())!r}",
        "empty": "no class",
        "heavy": f"{float(logs.exp().sum())!r}",
    }[fault]
    raise read.UnfitTargetError(f"{name}(): log_probabilities {must}: got {got} {at}. Hint: {hint}")


# ---- results -------------------------------------------------------------------------------------


def _reduced(
    call: _Read,
    target: SparseTargets | Teacher,
    how: str,
    normalizer: Any,
    empty: Any,
    kernel: str | None,
    workspace_bytes: Any,
) -> Tensor:
    """Return the losses of rows, reduced."""
    limits, rows = limits_of(workspace_bytes, False), call.rows
    one = torch.zeros_like(rows.targets)[:, None]  # each row counts as one of a class
    by_row = None if rows.row_weight is None else rows.row_weight[:, None]
    likeness = SoftmaxRows(call.logits, one, None, by_row)
    divisor = divisor_of_rows(likeness, look_at_targets(likeness, one), how, normalizer)
    mean = Mean(divisor, read.zero_if_empty(empty), call.dtype)

    def losses(_: Any, **options: Any) -> Tensor:
        return distilled_losses(rows, target, limits=limits, **options)

    result = mean.of_kernel(losses, likeness, kernel)
    return result.reshape(call.shape) if how == "none" else result
