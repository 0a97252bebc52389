"""Losses from probabilities and log-probabilities, by differentiable operations.

In float64, so that a term which nearly cancels keeps its digits and a result is rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from xent.losses.autodiff.torch import wide_dtype
from xent.losses.kernels import SoftmaxRows
from xent.torch.arguments import Tensor, UnfitTargetError, can_look

__all__ = ["binary_losses", "divergences", "picked_losses"]

STEEPEST = 1e12
"""The largest slope that a clamped logarithm has."""


def picked_losses(rows: SoftmaxRows, *, every: bool) -> Tensor:
    """Return −weight·(log-probability of the target) of each row, (outer, inner).

    `every` promises that each row counts and has its class index in range.
    """
    wide, (outer, classes, inner) = wide_dtype(rows.logits), rows.logits.shape
    if not classes:  # every row is ignored, or the caller has raised
        return rows.logits.sum(1).to(wide)
    y, kept, bad = rows.targets, None, None
    if not every:
        kept = y != rows.ignore_index
        if rows.row_weight is not None:
            kept = kept & (rows.row_weight != 0)
        inside = (y >= 0) & (y < classes)
        y, bad = torch.where(inside, y, 0), kept & ~inside
    losses = -rows.logits.gather(1, y[:, None]).reshape(outer, inner).to(wide)
    if rows.class_weight is not None:
        by_class = rows.class_weight.to(wide)[y]
        losses = torch.where(by_class != 0, losses * by_class, 0.0)
    if rows.row_weight is not None:
        losses = losses * rows.row_weight.to(wide)
    if kept is None or bad is None:
        return losses
    # Multiplied, not selected, so that the derivative of a bad row is NaN too.
    return torch.where(kept, losses * torch.where(bad, math.nan, 1.0), 0.0)


def binary_losses(q: Tensor, t: Tensor, weight: Tensor | None, clamp: float | None) -> Tensor:
    """Return −w·(t·log q + (1 − t)·log(1 − q)) of each entry."""
    wide, near = wide_dtype(q), True
    if q.numel() and can_look(q, t):
        low, high = _require_shares("input", q)
        _require_shares("target", t)
        # Where no logarithm is steep or small enough to be clamped, it is as it is.
        near = min(low, 1.0 - high) < max(1.0 / STEEPEST, math.exp(clamp or 0.0))
    q, t = q.to(wide), t.to(wide)
    t = t * torch.where((t >= 0) & (t <= 1), 1.0, math.nan)
    if clamp is None:
        yes = torch.where((t == 0) & (q == 0), 1.0, q).log()
        no = torch.where((t == 1) & (q == 1), 0.0, -q).log1p()
    elif near:
        yes = _clamped_log(q, torch.log, q, clamp)
        no = _clamped_log(1.0 - q, torch.log1p, -q, clamp)
    else:
        yes, no = q.log(), (-q).log1p()
    losses = 0.0 - (t * yes + (1.0 - t) * no)
    if weight is None:
        return losses
    return torch.where(weight != 0, losses * weight.to(wide), 0.0)


def _require_shares(name: str, values: Tensor) -> tuple[float, float]:
    low, high = (float(a) for a in torch.aminmax(values.detach()))
    if not (low >= 0.0 and high <= 1.0):
        raise UnfitTargetError(
            f"binary_cross_entropy(): {name} must lie in [0, 1]: got values from {low!r} to "
            f"{high!r}. Hint: binary_cross_entropy_with_logits takes logits."
        )
    return low, high


def _clamped_log(a: Tensor, log: Callable[[Tensor], Tensor], x: Tensor, clamp: float) -> Tensor:
    """Return log(x), the logarithm of a, at least `clamp`; its slope is 1/a, at most `STEEPEST`."""
    steep = a < 1.0 / STEEPEST
    curve = torch.where(steep, a * STEEPEST, log(torch.where(steep, 0.5, x)))
    value = log(x).detach().clamp(min=clamp)
    return curve + (value - curve.detach())


def divergences(x: Tensor, t: Tensor, log_target: bool) -> Tensor:
    """Return t·(log t − x), or eᵗ·(t − x), with 0·∞ = 0."""
    wide = wide_dtype(x)
    x, t = x.to(wide), t.to(wide)
    if log_target:
        mass = t.exp()
        return mass * torch.where(mass == 0, 0.0, t - x)
    # entr(t) = −t·log t has the right derivative at 0 also, which is infinite.
    entropy = torch.where(t < 0, math.nan, torch.special.entr(t))
    return 0.0 - entropy - t * torch.where((t == 0) & (x == -math.inf), 0.0, x)
