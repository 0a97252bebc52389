"""From a validated problem to a kernel's rows, and from its sums to the caller's number.

A call goes to a kernel if `dispatch` finds one for its arrays. Where none takes them, these
functions return None and the caller runs the definition.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from xent.arrays import Array, is_torch
from xent.losses import dispatch
from xent.losses.definition import LogitTransform
from xent.losses.kernels import EntryRows, SoftmaxRows
from xent.losses.problem import ClassProblem, EntryProblem
from xent.losses.rows import Reduction

__all__ = ["entries_and_gradient", "entry_loss", "softmax_and_gradient", "softmax_loss"]


def _situation(xp: Any, rows: SoftmaxRows | EntryRows) -> dispatch.Situation:
    if xp is np:
        return dispatch.Situation("cpu")
    if is_torch(rows.logits):
        from xent.losses.autodiff import torch as autodiff

        return autodiff.situation(rows)
    return dispatch.Situation("cpu", "arrays of this library run the definition")


def _takes(p: ClassProblem | EntryProblem, rows: SoftmaxRows | EntryRows) -> bool:
    chosen = dispatch.choose(rows, None, _situation(p.rows.xp, rows))
    return chosen != "definition"


def _softmax_rows(
    p: ClassProblem, transform: LogitTransform, z_loss: float, logits: Array
) -> SoftmaxRows:
    targets, (count, classes) = p.targets, logits.shape
    shape = (count, classes, 1) if targets.soft else (count, 1)
    xp, values = p.rows.xp, targets.values
    if targets.soft:
        values = _floating(xp, values)
    if xp is np:
        logits, values = _regular(logits), _regular(values)
    return SoftmaxRows(
        logits=xp.reshape(logits, (count, classes, 1)),
        targets=xp.reshape(values, shape),
        class_weight=targets.class_weight,
        row_weight=xp.reshape(p.rows.weight, (count, 1)),
        smoothing=targets.smoothing,
        temperature=transform.temperature,
        softcap=transform.softcap,
        z_loss=z_loss,
    )


def _regular(array: Any) -> Any:
    """Copy an array whose elements do not lie on a grid of their own size, as a record's field."""
    on_grid = array.flags.aligned and not any(step % array.itemsize for step in array.strides)
    return array if on_grid else np.ascontiguousarray(array)


def _floating(xp: Any, masses: Array) -> Array:
    """Return masses in a float dtype; integers beyond float32 are no masses anyway."""
    if xp.isdtype(masses.dtype, "real floating"):
        return masses
    return cast("Array", xp.astype(masses, xp.float32))


def _known_mass(p: ClassProblem) -> Array | None:
    """Return the mass of each row's target where no logit decides it, or None."""
    targets, xp = p.targets, p.rows.xp
    if targets.soft or (targets.smoothing and targets.class_weight is not None):
        return None
    if targets.class_weight is None:
        return xp.ones_like(p.rows.weight)
    indices = xp.where(p.rows.kept, targets.values, 0)
    inside = (indices >= 0) & (indices < p.values.shape[-1])
    return targets.class_weight[xp.where(inside, indices, 0)]


def _fixed(reduction: Reduction) -> bool:
    """Tell whether what a sum is divided by does not depend on the targets' mass."""
    return reduction.kind != "mean" or reduction.normalizer != "weight"


def _as(p: ClassProblem | EntryProblem) -> Array:
    """Return the values in the dtype that their gradient has."""
    return cast("Array", p.rows.xp.astype(p.values, p.out, copy=False))


def _refuse(p: ClassProblem | EntryProblem, bad: int) -> None:
    """Raise what the definition would for a row whose logits are bad."""
    xp, part = p.rows.xp, slice(bad, bad + 1)
    values = xp.astype(p.values[part, ...], p.wide)
    p.inspect(xp, values, p.place(part), True)


def softmax_loss(p: ClassProblem, transform: LogitTransform, z_loss: float) -> Array | None:
    """Return the reduced loss, or None where no kernel takes the rows."""
    xp = p.rows.xp
    rows = _softmax_rows(p, transform, z_loss, p.values)
    if (rows.soft and not p.raising) or not _takes(p, rows):
        return None
    if xp is np:
        p.inspect_targets()
        losses, mass = np.empty(p.values.shape[0]), np.empty(p.values.shape[0])
        sums = dispatch.cpu_rows().softmax(rows, losses=losses, mass=mass)
        if p.raising and sums.bad >= 0:
            _refuse(p, sums.bad)
        return p.reduced(cast("Array", losses), cast("Array", mass))
    return _differentiable(p, rows, _known_mass(p))


def _differentiable(
    p: ClassProblem | EntryProblem, rows: SoftmaxRows | EntryRows, mass: Array | None
) -> Array | None:
    from xent.losses.autodiff import torch as autodiff

    if mass is None and not _fixed(p.reduction):
        return None
    divisor: Any = p.reduction.divisor(p.rows, mass)
    if is_torch(divisor) and divisor.requires_grad:
        return None
    if p.raising:
        p.inspect_targets()
    losses: Any = (
        autodiff.softmax_losses if isinstance(rows, SoftmaxRows) else autodiff.entry_losses
    )
    options: dict[str, Any] = {
        "dtype": p.out,
        "refuse": (lambda bad: _refuse(p, bad)) if p.raising else None,
    }
    if p.reduction.kind == "none":
        return cast("Array", losses(rows, reduction="none", **options).reshape(p.rows.shape))
    scale = (
        1.0 / p.rows.xp.where(divisor == 0, 1.0, divisor) if is_torch(divisor) else 1.0 / divisor
    )
    return cast("Array", losses(rows, reduction="sum", scale=scale, **options))


def softmax_and_gradient(
    p: ClassProblem, transform: LogitTransform, z_loss: float
) -> tuple[Array, Array] | None:
    """Return the reduced loss and its gradient by the logits, or None; for NumPy's arrays."""
    if p.rows.xp is not np:
        return None
    rows = _softmax_rows(p, transform, z_loss, _as(p))
    if (rows.soft and not p.raising) or not _takes(p, rows):
        return None
    p.inspect_targets()
    module = dispatch.cpu_rows()
    losses, mass = np.empty(p.values.shape[0]), _known_mass(p)
    gradient = np.empty_like(rows.logits, order="C")
    if mass is None:
        mass = cast("Array", np.empty(p.values.shape[0]))
        module.softmax(rows, mass=mass)
    divisor = float(p.reduction.divisor(p.rows, mass))
    scale = 1.0 / divisor if divisor else 1.0
    sums = module.softmax(rows, losses=losses, gradient=gradient, scale=scale)
    if p.raising and sums.bad >= 0:
        _refuse(p, sums.bad)
    return p.reduced(cast("Array", losses), mass), p.shaped(cast("Array", gradient))


def entry_loss(p: EntryProblem) -> Array | None:
    """Return the reduced loss of entries, or None where no kernel takes them."""
    rows = _entry_rows(p, p.values)
    if not p.raising or not _takes(p, rows):
        return None
    if p.rows.xp is not np:
        return _differentiable(p, rows, None if _fixed(p.reduction) else p.rows.weight**0)
    p.inspect_targets()
    losses = np.empty(p.values.shape[0])
    sums = dispatch.cpu_rows().sigmoid(rows, losses=losses)
    if sums.bad >= 0:
        _refuse(p, sums.bad)
    return p.reduced(cast("Array", losses))


def entries_and_gradient(p: EntryProblem) -> tuple[Array, Array] | None:
    """Return the reduced loss of entries and its gradient, or None; for NumPy's arrays."""
    if p.rows.xp is not np or not p.raising:
        return None
    rows = _entry_rows(p, _as(p))
    if not _takes(p, rows):
        return None
    p.inspect_targets()
    losses, gradient = np.empty(p.values.shape[0]), np.empty_like(rows.logits)
    divisor = float(p.reduction.divisor(p.rows, None))
    scale = 1.0 / divisor if divisor else 1.0
    sums = dispatch.cpu_rows().sigmoid(rows, losses=losses, gradient=gradient, scale=scale)
    if sums.bad >= 0:
        _refuse(p, sums.bad)
    return p.reduced(cast("Array", losses)), cast("Array", gradient.reshape(p.rows.shape))


def _entry_rows(p: EntryProblem, logits: Array) -> EntryRows:
    rows = EntryRows(
        logits, _floating(p.rows.xp, p.targets), p.pos_weight, p.rows.weight, p.smoothing
    )
    if p.rows.xp is not np:
        return rows
    arrays = (None if a is None else np.ascontiguousarray(_regular(a)) for a in rows.arrays())
    return rows.with_arrays(tuple(arrays))
