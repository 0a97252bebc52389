"""Rows whose classes lie on several ranks as differentiable functions of logits or of a product.

A forward pass exchanges the parts of rows once; a backward pass of logits exchanges nothing, one
of a product sums the gradient of hidden states.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from xent.torch.arguments import Tensor
from xent.torch.parallel_ranks import Ranks
from xent.torch.parallel_rows import (
    Finished,
    Rows,
    Task,
    finished,
    gradient_of,
    merged,
    part_of,
)

__all__ = ["Plan", "own_part", "plan_of", "rows_of_logits", "rows_of_products"]

CACHE = 1 << 16
"""Entries of a tile in float64: what caches hold, with its temporaries."""
PER_ENTRY = 64
"""Bytes that an entry of a tile takes, with its temporaries."""


# ---- what derivatives there are ------------------------------------------------------------------


class _NotTwice(torch.autograd.Function):
    """A gradient that says so where it is differentiated, instead of counting as a constant."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *sources: Tensor) -> Tensor:
        return gradient

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> NoReturn:
        raise NotImplementedError(
            "second derivatives of a loss whose classes lie on several ranks are not computed. "
            "Hint: gather the classes and use xent.torch.cross_entropy, which has them."
        )


def _once(gradient: Tensor | None, *sources: Tensor | None) -> Tensor | None:
    if gradient is None or not torch.is_grad_enabled():
        return gradient
    return _NotTwice.apply(gradient, *(s for s in sources if s is not None))


def _keep(ctx: Any, task: Task, done: Finished, *sources: Tensor | None) -> tuple[Any, ...]:
    ctx.save_for_backward(done.saved, *task.tensors(), *sources)
    ctx.task = task.with_tensors((None,) * 4)
    ctx.set_materialize_grads(False)
    fixed = (done.rows.mass, done.rows.likeliest, done.rows.target)
    ctx.mark_non_differentiable(*(t for t in fixed if t is not None))
    return tuple(done.rows)


def _kept(
    ctx: Any, cotangents: tuple[Tensor | None, ...]
) -> tuple[Task, Tensor, Tensor, list[Tensor | None]]:
    many = torch._C._functorch.is_legacy_batchedtensor  # what is_grads_batched makes
    if torch._C._functorch.get_dynamic_layer_stack_depth() > 0 or any(
        g is not None and many(g) for g in cotangents
    ):
        raise NotImplementedError(
            "gradients of many upstream gradients at once are not computed where classes lie on "
            "several ranks. Hint: one backward for each."
        )
    saved, *rest = ctx.saved_tensors
    task = ctx.task.with_tensors(tuple(rest[:4]))
    zero = torch.zeros_like(saved[0])
    given = [zero if g is None else g.detach().to(torch.float64) for g in cotangents[:3]]
    return task, saved, torch.stack(given), rest[4:]


def _steps(rows: int, step: int) -> Iterator[slice]:
    for start in range(0, rows, max(1, step)):
        yield slice(start, min(rows, start + max(1, step)))


def _columns(task: Task, like: Tensor, rows: int) -> Tensor:
    return torch.empty((len(task.columns), rows), dtype=torch.float64, device=like.device)


def _sum_of_ranks(task: Task, part: Tensor) -> Finished:
    return finished(task, merged(task, task.ranks.gather(part)))


# ---- logits --------------------------------------------------------------------------------------


class _OfLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, task: Task) -> tuple[Any, ...]:
        rows, own = logits.shape
        part = _columns(task, logits, rows)
        for tile in _steps(rows, CACHE // max(1, own)):
            part[:, tile] = part_of(task, logits[tile], tile, slice(0, own))
        return _keep(ctx, task, _sum_of_ranks(task, part), logits)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, None]:
        task, saved, given, (logits,) = _kept(ctx, cotangents)
        assert logits is not None
        rows, own = logits.shape
        gradient = torch.empty_like(logits)
        with torch.no_grad():
            for tile in _steps(rows if own else 0, CACHE // max(1, own)):
                gradient[tile] = gradient_of(task, logits[tile], tile, slice(0, own), saved, given)
        return _once(gradient, logits, *cotangents[:3]), None


def rows_of_logits(logits: Tensor, task: Task) -> Rows:
    """Return what is known of rows of logits, (rows, own classes)."""
    return Rows(*_OfLogits.apply(logits, task))


# ---- products ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """How logits that are a product are computed in a bounded workspace.

    Attributes
    ----------
    rows, classes
        How many of each one tile of logits has.
    step
        How many rows of a tile are taken to float64 at once.
    dtype
        What products are computed in.
    sum_over
        Ranks that hold the same weight and other rows, over which its gradient is summed.
    """

    rows: int
    classes: int
    step: int
    dtype: torch.dtype
    sum_over: tuple[Ranks, ...] = ()


def plan_of(
    hidden: Tensor, weight: Tensor, workspace: int, sum_over: tuple[Ranks, ...] = ()
) -> Plan:
    """Choose tiles of rows and classes that fit the workspace, in bytes."""
    rows, own = hidden.shape[0], weight.shape[0]
    common = torch.promote_types(hidden.dtype, weight.dtype)
    dtype = torch.promote_types(common, torch.float32)
    features = max(1, hidden.shape[1])
    # What is converted for a product, and what a gradient is summed in before it is rounded.
    per_row = 0 if hidden.dtype == dtype else features * dtype.itemsize
    per_class = 0 if weight.dtype == dtype else 2 * features * dtype.itemsize
    entries = max(1, min(1 << 18, workspace // 4 // PER_ENTRY))
    room = workspace - entries * PER_ENTRY
    height, width = max(1, rows), max(1, min(own, entries))
    if height * (width * dtype.itemsize + per_row) + width * per_class > room:
        height = min(height, 256)
        while True:
            fits = (room - height * per_row) // (height * dtype.itemsize + per_class)
            if fits >= min(width, 256) or height == 1:
                break
            height //= 2
        width = max(1, min(width, fits))
        more = (room - width * per_class) // (width * dtype.itemsize + per_row)
        height = max(height, min(rows, more))
    step = max(1, min(CACHE, entries) // width)
    return Plan(height, width, step, dtype, sum_over)


class _OfProducts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, task: Task, plan: Plan
    ) -> tuple[Any, ...]:
        rows, own = hidden.shape[0], weight.shape[0]
        part = _columns(task, hidden, rows)
        product = _Product(hidden, weight, bias, plan)
        for block in _steps(rows, plan.rows):
            parts = []
            for classes in _steps(own, plan.classes):
                z = product.logits(block, classes)
                parts.append(
                    torch.cat(
                        [
                            part_of(task, z[tile], _moved(tile, block), classes)
                            for tile in _steps(z.shape[0], plan.step)
                        ],
                        1,
                    )
                )
            if not parts:
                parts = [part_of(task, hidden[block, :0], block, slice(0, 0))]
            part[:, block] = merged(task, torch.stack(parts))
        ctx.plan = plan
        return _keep(ctx, task, _sum_of_ranks(task, part), hidden, weight, bias)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, ...]:
        task, saved, given, (hidden, weight, bias) = _kept(ctx, cotangents)
        assert hidden is not None
        assert weight is not None
        plan: Plan = ctx.plan
        of_hidden, of_weight, of_bias, *_ = ctx.needs_input_grad
        rows, own = hidden.shape[0], weight.shape[0]
        with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
            product = _Product(hidden, weight, bias, plan)
            d_hidden = torch.zeros_like(hidden, dtype=plan.dtype) if of_hidden else None
            d_weight = torch.zeros_like(weight) if of_weight else None
            d_bias = torch.zeros_like(weight[:, 0], dtype=torch.float64) if of_bias else None
            for classes in _steps(own, plan.classes):
                sums = product.sums_of(d_weight, classes)
                for block in _steps(rows, plan.rows):
                    z = product.logits(block, classes)
                    for tile in _steps(z.shape[0], plan.step):
                        place = _moved(tile, block)
                        z[tile] = gradient_of(task, z[tile], place, classes, saved, given)
                    if d_hidden is not None:
                        d_hidden[block].addmm_(z, product.weight_block(classes))
                    if sums is not None:
                        sums.addmm_(z.T, product.hidden_block(block))
                    if d_bias is not None:
                        d_bias[classes] += z.sum(0, dtype=torch.float64)
                if sums is not None and d_weight is not None and sums.dtype != d_weight.dtype:
                    d_weight[classes] = sums
            if d_hidden is not None:
                d_hidden = task.ranks.sum(d_hidden).to(hidden.dtype)
            for ranks in plan.sum_over:
                d_weight = None if d_weight is None else ranks.sum(d_weight)
                d_bias = None if d_bias is None else ranks.sum(d_bias)
            if bias is not None and d_bias is not None:
                d_bias = d_bias.to(bias.dtype)
        sources = (hidden, weight, bias, *cotangents[:3])
        return *(_once(g, *sources) for g in (d_hidden, d_weight, d_bias)), None, None


def _moved(tile: slice, block: slice) -> slice:
    return slice(block.start + tile.start, block.start + tile.stop)


class _Product:
    """The logits of a tile, in one buffer; what it is made of, converted a block at a time."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, plan: Plan) -> None:
        self.hidden, self.weight, self.bias, self.dtype = hidden, weight, bias, plan.dtype
        size = min(plan.rows, hidden.shape[0]) * min(plan.classes, weight.shape[0])
        self.buffer = torch.empty(size, dtype=plan.dtype, device=hidden.device)
        self.blocks: dict[str, tuple[slice, Tensor]] = {}

    def _block(self, name: str, of: Tensor, part: slice) -> Tensor:
        if of.dtype == self.dtype:
            return of[part]
        if name not in self.blocks or self.blocks[name][0] != part:
            self.blocks.pop(name, None)  # its memory, before the next one's
            self.blocks[name] = part, of[part].to(self.dtype)
        return self.blocks[name][1]

    def hidden_block(self, part: slice) -> Tensor:
        return self._block("hidden", self.hidden, part)

    def weight_block(self, part: slice) -> Tensor:
        return self._block("weight", self.weight, part)

    def logits(self, rows: slice, classes: slice) -> Tensor:
        shape = (rows.stop - rows.start, classes.stop - classes.start)
        z = self.buffer[: math.prod(shape)].view(shape)
        torch.mm(self.hidden_block(rows), self.weight_block(classes).T, out=z)
        return z if self.bias is None else z.add_(self.bias[classes].to(self.dtype))

    def sums_of(self, gradient: Tensor | None, classes: slice) -> Tensor | None:
        """Return where the gradient of a block of the weight is summed: in place if it is wide."""
        if gradient is None or gradient.dtype == self.dtype:
            return None if gradient is None else gradient[classes]
        return torch.zeros_like(gradient[classes], dtype=self.dtype)


def rows_of_products(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, task: Task, plan: Plan
) -> Rows:
    """Return what is known of rows whose logits are ``hidden·weightᵀ + bias``."""
    with torch.autocast(hidden.device.type, enabled=False):
        return Rows(*_OfProducts.apply(hidden, weight, bias, task, plan))


# ---- what every rank has the whole of ------------------------------------------------------------


class _OwnPart(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, ranks: Ranks, own: slice) -> Tensor:
        ctx.ranks, ctx.own, ctx.classes = ranks, own, whole.shape[0]
        return whole[own].clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> tuple[Tensor | None, None, None]:
        (part,) = cotangents
        gradient = part.detach().new_zeros(ctx.classes)
        gradient[ctx.own] = part.detach()
        return _once(ctx.ranks.sum(gradient), part), None, None


def own_part(whole: Tensor, ranks: Ranks, own: slice) -> Tensor:
    """Return this rank's classes of a vector that every rank has, whose gradient all ranks get."""
    part: Tensor = _OwnPart.apply(whole, ranks, own)
    return part
