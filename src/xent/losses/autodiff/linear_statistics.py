"""Statistics of rows whose logits are a product, each differentiable where that means something."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import array_api_compat.torch as xp
import torch

from xent.losses import definition, dispatch
from xent.losses.autodiff import operators
from xent.losses.autodiff.linear_pieces import (
    DEFINED,
    Limits,
    are_many,
    by_autograd,
    by_blocks,
    emptied,
    needed_of,
    planned,
    row_kernel,
    situation_of,
)
from xent.losses.autodiff.operators import as_arguments, taken_apart
from xent.losses.autodiff.torch import is_traced, ready, terms_of
from xent.losses.kernels import LinearRows, SoftmaxRows
from xent.losses.kernels import linear_chunked as chunked
from xent.losses.kernels.linear_products import RowResults

__all__ = ["RowStatistics", "linear_statistics"]

Tensor: TypeAlias = torch.Tensor


class RowStatistics(NamedTuple):
    """Statistics of each row, float64 and int64; of rows not looked at 0, and −1 or 0.

    Attributes
    ----------
    nll
        −log p of the target.
    logsumexp, entropy
        Of the logits after softcap and temperature.
    argmax
        The first likeliest class; −1 for a row that is not defined. It and the rank are those of
        the logits before the softcap, which keeps their order until it rounds them to one number.
    rank
        1 + how many classes are likelier than the target; 0 for a row that is not defined.
    """

    nll: Tensor
    logsumexp: Tensor
    entropy: Tensor
    argmax: Tensor
    rank: Tensor


# ---- rows of logits ------------------------------------------------------------------------------


def _parts(count: int, classes: int) -> Iterator[slice]:
    """Cut rows so that what the definition holds of them takes a few MiB."""
    step = max(1, 2**22 // (DEFINED * max(1, classes)))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _by_definition(rows: SoftmaxRows) -> Tensor:
    """Return all statistics of each row as one array, by differentiable operations."""
    z, t, transform, kept, outside = terms_of(rows)
    s = definition.softmax(xp, z, transform, t)
    lse: Any = (s.shift + s.log_sum)[:, 0]
    nll: Any = definition.softmax_loss(xp, s, t)
    own = torch.sum(torch.where(t != 0, z, 0.0), 1, keepdim=True)
    bad = lse.isnan()
    likeliest = torch.where(bad, -1, torch.argmax(z.detach(), -1))
    rank = 1 + (z.detach() > own.detach()).sum(1)
    if outside is not None:
        nll, rank = nll * torch.where(outside, torch.nan, 1.0), torch.where(outside, 0, rank)
    entropy = definition.softmax_entropy(xp, s)
    columns = nll, lse, entropy, likeliest.to(z.dtype), torch.where(bad, 0, rank).to(z.dtype)
    return torch.where(kept[:, None], torch.stack(columns, 1), 0.0)


def _of_rows(
    rows: SoftmaxRows, *, gradient: bool, cotangent: Any = None, scale: float = 1.0
) -> RowResults:
    """Return nll, log-sum-exp, entropy, argmax and rank of each row of logits."""
    kernel = row_kernel(rows)[1]
    plain = replace(rows, row_weight=None)
    found = kernel(plain, gradient=False)
    logits = rows.logits[..., 0]
    count, classes = logits.shape
    columns = torch.empty((count, 3), dtype=torch.float64, device=logits.device)
    left = None
    if logits.device.type == "cpu" and dispatch.NUMBA and rows.softcap is None:
        entropy = torch.empty(count, dtype=torch.float64, device="cpu")
        argmax, rank = torch.empty((2, count), dtype=torch.int64, device="cpu")
        module, targets = dispatch.cpu_rows(), rows.targets[:, 0].contiguous()
        if module.statistics(logits, targets, rows.temperature, entropy, argmax, rank):
            columns = torch.stack((entropy, argmax.to(entropy.dtype), rank.to(entropy.dtype)), 1)
            left = (argmax == module.LEFT).nonzero()[:, 0]
            undefined = found.logsumexp.isnan()[:, None]
            nothing = torch.tensor([torch.nan, -1.0, 0.0], dtype=torch.float64, device="cpu")
            columns = torch.where(undefined, nothing, columns)
    if left is None:
        left = torch.arange(count, device=logits.device)
    for part in _parts(left.shape[0], classes):
        own = left[part]
        taken = replace(plain, logits=rows.logits[own], targets=rows.targets[own])
        columns[own] = _by_definition(taken)[:, 2:].to(torch.float64)
    every = torch.cat((found.losses[:, None], found.logsumexp[:, None], columns), 1)
    return RowResults(every, found.logsumexp, None)


def _slopes_of_rows(
    rows: SoftmaxRows, *, gradient: bool, cotangent: Any = None, scale: float = 1.0
) -> RowResults:
    """Return the derivatives by logits of a sum of statistics; they take the logits' place.

    `cotangent` has for each row the derivatives by nll, log-sum-exp and entropy, and the values of
    these. With the probability p of a class they are (a + b)·p, with b·p_y − a·(1 − p_y) at the
    target, and c·p·(−log p − entropy), over the temperature.
    """
    by_nll, by_lse, by_entropy, nll, entropy = cotangent.unbind(1)
    plain, logits = replace(rows, row_weight=None), rows.logits[..., 0]
    transform = definition.LogitTransform(rows.temperature, rows.softcap, carry=False)
    bent = (by_entropy != 0).nonzero()[:, 0]
    bend = torch.empty((bent.shape[0], logits.shape[1]), dtype=logits.dtype, device=logits.device)
    for part in _parts(bent.shape[0], logits.shape[1]):
        own = bent[part]
        z, t, _, *_ = terms_of(replace(plain, logits=rows.logits[own], targets=rows.targets[own]))
        s = definition.softmax(xp, z, transform, t)
        slope = s.probability(xp) * (s.log_sum - entropy[own, None])
        slope = slope + definition.surprise(xp, s.probability(xp), s.x)
        bend[part] = (slope * transform.slope(xp, z) * by_entropy[own, None]).to(logits.dtype)
    y = rows.targets
    own_logit = logits.gather(1, y)[:, 0].to(torch.float64)
    found = row_kernel(plain)[1](plain, gradient=True, cotangent=by_nll + by_lse)
    slopes = found.gradient
    assert slopes is not None
    at_target = by_lse * torch.exp(-nll) + by_nll * torch.expm1(-nll)
    at_target = at_target * transform.slope(xp, own_logit)
    slopes.scatter_(1, y, at_target[:, None].to(slopes.dtype))
    slopes.index_add_(0, bent, bend)
    return RowResults(found.losses, found.logsumexp, slopes)


# ---- rows whose logits are a product -------------------------------------------------------------


def _statistics(rows: LinearRows, limits: Limits) -> Tensor:
    """Return all statistics of each row as one array."""
    own = ready(rows)
    plan, _ = planned(own, limits, differentiated=False, whole=True)
    found = chunked.losses(own, plan, _of_rows)
    return found if found.ndim == 2 else found.new_zeros((*found.shape, 5))


def _gradients(
    rows: LinearRows,
    limits: Limits,
    found: Tensor,
    cotangent: Tensor,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor | None, ...]:
    """Return derivatives by hidden, weight and bias, from statistics and their cotangents."""
    own = ready(rows)
    columns = torch.cat((cotangent[:, :3], found[:, :1], found[:, 2:3]), 1).to(torch.float64)
    bent = bool((columns[:, 2] != 0).any())
    plan, _ = planned(own, limits, differentiated=True, whole=True, more_copies=1 if bent else 0)
    return chunked.gradients(own, plan, _slopes_of_rows, cotangent=columns, needed=needed)[1:]


class _Statistics(torch.autograd.Function):
    """Nll, log-sum-exp, entropy, likeliest class and rank of each row, as one array."""

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
            found = _statistics(rows, limits)
        ctx.save_for_backward(*rows.arrays(), found)
        ctx.rows, ctx.limits, ctx.needed = emptied(rows), limits, needed
        return found

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        *arrays, found = ctx.saved_tensors
        rows = ctx.rows.with_arrays(tuple(arrays))
        if torch.is_grad_enabled() or are_many(cotangent):
            found = by_autograd(
                lambda own: by_blocks(own, ctx.limits, _by_definition), rows, cotangent, ctx.needed
            )
            return *found, None, None, None
        with torch.autocast(cotangent.device.type, enabled=False):
            result = _gradients(rows, ctx.limits, found, cotangent, ctx.needed)
        return *result, None, None, None


_operators = operators.define(
    "linear_statistics",
    operators.ARRAYS,
    operators.NUMBERS,
    rows=lambda *arguments: _statistics(*taken_apart(arguments)),
    defined=lambda *arguments: by_blocks(*taken_apart(arguments), _by_definition),
    gradients=lambda found, upstream, needed, *arguments: _gradients(
        *taken_apart(arguments), found, upstream, needed
    ),
    columns=(len(RowStatistics._fields),),
)


def linear_statistics(
    rows: LinearRows, *, dtype: torch.dtype, kernel: str | None, limits: Limits
) -> RowStatistics:
    """Return the statistics of each row.

    Parameters
    ----------
    rows
        Rows of tensors with class indices. Derivatives of nll, log-sum-exp and entropy flow to
        hidden, weight and bias.
    dtype
        Of nll, log-sum-exp and entropy, rounded once.
    kernel
        A kernel's name, to insist; by default the first that does not refuse.
    limits
        The memory of the pieces.
    """
    chosen = dispatch.choose(rows, kernel, situation_of(rows))
    if chosen == "definition" or rows.hidden.device.type == "meta":
        found = by_blocks(rows, limits, _by_definition)
    elif is_traced(rows.hidden):
        found = _operators.rows(*as_arguments(rows, limits))
    else:
        needed = needed_of(rows) if torch.is_grad_enabled() else (False, False, False)
        arrays = rows.hidden, rows.weight, rows.bias
        found = _Statistics.apply(*arrays, rows, limits, needed)
    nll, lse, entropy, argmax, rank = found.unbind(1)
    floats = (a.to(dtype) for a in (nll, lse, entropy))
    return RowStatistics(*floats, *(a.detach().to(torch.int64) for a in (argmax, rank)))
