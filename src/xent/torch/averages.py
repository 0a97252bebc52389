"""What a mean divides by, and what a mean over nothing is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.autograd import forward_ad

from xent.errors import OptionError, ShapeError
from xent.losses.autodiff.torch import (
    TargetSummary,
    inspect_targets,
    small_mean,
    softmax_losses,
    wide_dtype,
)
from xent.losses.kernels import SoftmaxRows
from xent.losses.rows import require_number
from xent.torch.arguments import Tensor, can_look, index_error

__all__ = [
    "Mean",
    "divisor_of_entries",
    "divisor_of_rows",
    "given_divisor",
    "is_differentiated",
    "look_at_targets",
    "plain_mean",
]

Divisor: TypeAlias = float | Tensor
_HINT = "the mean divides by it: None for torch's own rule, 'weight', 'count' or a positive number."


def is_differentiated(*tensors: Any) -> bool:
    """Tell whether derivatives may be asked by any of these."""
    for tensor in tensors:
        if not isinstance(tensor, torch.Tensor):
            continue
        if tensor.requires_grad and torch.is_grad_enabled():
            return True
        if forward_ad._current_level >= 0 and tensor.is_floating_point():
            return True
    return False


def given_divisor(normalizer: Any, like: Tensor) -> Divisor | None:
    """Return a divisor of the caller's, or None where `normalizer` is a rule's name."""
    if normalizer is None:
        return None
    if isinstance(normalizer, str):
        if normalizer in ("weight", "count"):
            return None
        raise OptionError(
            f"normalizer must be None, 'weight', 'count' or a number: got {normalizer!r}. "
            f"Hint: {_HINT}"
        )
    if not isinstance(normalizer, torch.Tensor):
        return require_number("normalizer", normalizer, 1e-30, 1e30, _HINT)
    if normalizer.ndim:
        raise ShapeError(
            f"normalizer must be one number: got shape {tuple(normalizer.shape)}. Hint: {_HINT}"
        )
    if can_look(normalizer) and not is_differentiated(normalizer):
        return require_number("normalizer", float(normalizer), 1e-30, 1e30, _HINT)
    divisor = normalizer.to(wide_dtype(like))
    return torch.where((divisor > 0) & (divisor < math.inf), divisor, math.nan)


@dataclass(frozen=True)
class Mean:
    """How rows become one number or stay.

    Attributes
    ----------
    divisor
        What a sum is divided by; None leaves the rows as they are.
    zero
        Whether a mean over nothing is 0, else NaN.
    dtype
        Of the result.
    """

    divisor: Divisor | None
    zero: bool
    dtype: torch.dtype

    def of_kernel(self, losses: Callable[..., Tensor], rows: Any, kernel: str | None) -> Tensor:
        """Reduce what a kernel computes, which wants to know the scale beforehand."""
        if self.divisor is None:
            return losses(rows, reduction="none", dtype=self.dtype, kernel=kernel)
        if isinstance(self.divisor, torch.Tensor):
            if is_differentiated(self.divisor):
                total = losses(rows, reduction="sum", dtype=wide_dtype(rows.logits), kernel=kernel)
                return self._over(total)
            nothing = self.divisor == 0
            scale = torch.where(nothing, 1.0, 1.0 / self.divisor)
            mean = losses(rows, reduction="sum", scale=scale, dtype=self.dtype, kernel=kernel)
            return mean if self.zero else torch.where(nothing, math.nan, mean)
        if self.divisor == 0.0:
            total = losses(rows, reduction="sum", dtype=self.dtype, kernel=kernel)
            return total if self.zero else total + math.nan
        scale = 1.0 / self.divisor
        return losses(rows, reduction="sum", scale=scale, dtype=self.dtype, kernel=kernel)

    def of_losses(self, losses: Tensor) -> Tensor:
        """Reduce weighted losses in a wide dtype."""
        return losses.to(self.dtype) if self.divisor is None else self._over(losses.sum())

    def _over(self, total: Tensor) -> Tensor:
        """Divide a sum; over nothing it keeps its graph, with derivatives of 0."""
        assert self.divisor is not None
        if not isinstance(self.divisor, torch.Tensor):
            if self.divisor == 0.0:
                return (total if self.zero else total + math.nan).to(self.dtype)
            return (total / self.divisor).to(self.dtype)
        nothing = self.divisor == 0
        mean = total / torch.where(nothing, 1.0, self.divisor)
        return (mean if self.zero else torch.where(nothing, math.nan, mean)).to(self.dtype)


def plain_mean(input: Tensor, target: Tensor, ignore_index: int) -> Tensor:  # noqa: A002
    """Return the mean loss of a float32 matrix of logits for int64 class indices."""
    if (mean := small_mean(input, target, ignore_index)) is not None:
        return mean
    rows = SoftmaxRows(input.unsqueeze(2), target.unsqueeze(1), None, None, ignore_index)
    divisor = divisor_of_rows(rows, look_at_targets(rows, target), "mean", None)
    return Mean(divisor, False, torch.float32).of_kernel(softmax_losses, rows, None)


# ---- rows over classes ---------------------------------------------------------------------------


def look_at_targets(rows: SoftmaxRows, target: Tensor) -> TargetSummary | None:
    """Count and weigh class indices; refuse one that is out of range. None for masses."""
    if rows.soft:
        return None
    classes, weights = rows.logits.shape[1], (rows.class_weight, rows.row_weight)
    summary = inspect_targets(rows.targets, classes, rows.ignore_index, *weights)
    if summary.outside >= 0:
        raise index_error(target, classes, summary.outside)
    return summary


def divisor_of_rows(
    rows: SoftmaxRows, summary: TargetSummary | None, reduction: str, normalizer: Any
) -> Any:
    """Return what the sum over rows is divided by, None for no sum.

    torch's own rule: class indices weigh their class's weight, probabilities count rows. Row
    weights multiply both.
    """
    outer, classes, inner = rows.logits.shape
    if reduction != "mean":
        return None if reduction == "none" else 1.0
    given = given_divisor(normalizer, rows.logits)
    if given is not None:
        return given
    if normalizer == "count":
        return _kept(rows).sum().to(wide_dtype(rows.logits)) if summary is None else summary.kept
    if normalizer is None and rows.soft:
        if not classes:
            return 0.0
        return float(outer * inner) if rows.row_weight is None else _row_weight(rows).sum()
    smoothed = normalizer == "weight" and bool(rows.smoothing) and rows.class_weight is not None
    differentiated = is_differentiated(rows.class_weight, rows.row_weight)
    if summary is not None and not smoothed and not differentiated:
        return summary.weight
    return (_masses(rows, smoothed=normalizer == "weight") * _row_weight(rows)).sum()


def _kept(rows: SoftmaxRows) -> Tensor:
    outer, _, inner = rows.logits.shape
    kept = torch.ones((outer, inner), dtype=torch.bool, device=rows.logits.device)
    if not rows.soft and rows.ignore_index is not None:
        kept = kept & (rows.targets != rows.ignore_index)
    return kept if rows.row_weight is None else kept & (rows.row_weight != 0)


def _row_weight(rows: SoftmaxRows) -> Tensor:
    kept, wide = _kept(rows), wide_dtype(rows.logits)
    if rows.row_weight is None:
        return kept.to(wide)
    return torch.where(kept, rows.row_weight.to(wide), 0.0)


def _masses(rows: SoftmaxRows, *, smoothed: bool) -> Tensor:
    """Return the class-weighted mass of each row's target."""
    wide, weight = wide_dtype(rows.logits), rows.class_weight
    classes = rows.logits.shape[1]
    each = None if weight is None else weight.to(wide)
    if rows.soft:
        t = rows.targets.to(wide)
        mass = t.sum(1) if each is None else (t * each[:, None]).sum(1)
    elif each is None:
        mass = torch.ones_like(rows.targets, dtype=wide)
    else:
        inside = (rows.targets >= 0) & (rows.targets < classes)
        mass = each[torch.where(inside, rows.targets, 0)]
    if not (smoothed and rows.smoothing):
        return mass
    allowed = (rows.logits.detach() > -math.inf).to(wide)
    count = allowed.sum(1)
    spread = count if each is None else (allowed * each[:, None]).sum(1)
    return (1.0 - rows.smoothing) * mass + rows.smoothing * spread / count


# ---- entries -------------------------------------------------------------------------------------


def divisor_of_entries(
    reduction: str, normalizer: Any, shape: tuple[int, ...], weight: Tensor | None, like: Tensor
) -> Any:
    """Return what the sum over entries is divided by: by torch's rule, how many they are."""
    if reduction != "mean":
        return None if reduction == "none" else 1.0
    given = given_divisor(normalizer, like)
    if given is not None:
        return given
    if normalizer is None or weight is None:
        return float(math.prod(shape))
    each = torch.broadcast_to(weight, shape)
    if normalizer == "count":
        return (each != 0).sum().to(wide_dtype(like))
    return each.to(wide_dtype(like)).sum()
