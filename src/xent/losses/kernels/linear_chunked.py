r"""Linear cross-entropy in pieces: matrix products around a row kernel, in a bounded workspace.

The logits ``hidden·weightᵀ + bias`` are made some rows at a time, the row kernel turns them into
losses and, in the same memory, into their gradient, and two more products carry that to ``hidden``
and ``weight``: three products in all. Where so few rows fit the workspace that the products would
be slow, the classes are cut too. Then the rows' log-sum-exp is put together from the pieces first,
and all pieces but the last are made again for their gradient: fewer than four products. Where there
are no more rows than features, and the weight's gradient is wanted in the dtype of the logits,
nothing is made again: the pieces wait in its memory, each in the lines that it will write.

For a row with target y let L be log Σ exp over the *other* classes, which pieces can be put
together to. With the target's own logit a the loss is log(1 + exp(L − a)), which cancels nowhere.

Any device of torch; the row kernel is handed in.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, TypeAlias

import torch
from torch.nn.functional import pad

from xent.errors import OptionError
from xent.losses.definition import LogitTransform
from xent.losses.kernels import LinearRows
from xent.losses.kernels.linear_products import (
    PAD,
    Head,
    Plan,
    RowKernel,
    RowResults,
    accumulation_dtype,
    is_native,
    memory,
)

__all__ = [
    "DEFAULT_WORKSPACE",
    "Gradients",
    "Plan",
    "RowKernel",
    "gradients",
    "is_kept",
    "kept_rows",
    "losses",
    "plan_of",
]

Tensor: TypeAlias = torch.Tensor
Needed: TypeAlias = tuple[bool, bool, bool]

DEFAULT_WORKSPACE = 256 * 2**20
"""Bytes of the workspace where the caller names none."""
FEW_ROWS = 150
"""Rows below which products are so slow, as each reads all of the weight, that classes are cut."""
TOGETHER = 256
"""Rows from which products are hardly faster."""
ASIDE = 3 * 2**19
"""Bytes of the workspace, at most an eighth, left for what a matrix library copies aside."""
INVARIANT_ROWS = 128
"""Rows of each product where results must not depend on how many rows there are."""


class Gradients(NamedTuple):
    """Losses of rows, and derivatives of their weighted sum where they were asked for."""

    losses: Tensor
    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


def plan_of(
    rows: LinearRows,
    workspace_bytes: int,
    *,
    copies: int = 1,
    differentiated: bool,
    invariant: bool = False,
    together: bool = False,
    whole: bool = False,
    waiting: bool = False,
) -> Plan:
    """Cut the work so that what is held at a time stays within the workspace.

    Parameters
    ----------
    rows
        The rows of a call.
    workspace_bytes
        What pieces of logits, and weights and rows widened to their dtype, may take.
    copies
        How many numbers a row kernel holds for a logit; where it needs more than one, some rows
        are computed whatever the workspace.
    differentiated
        Whether gradients are wanted.
    invariant
        Whether every product is to have the same shape, however many rows there are.
    together
        Whether all rows come at once, and the classes are cut as far as that takes: then the
        weight's gradient is final class by class, and has the weight's dtype from the beginning.
    whole
        Whether all classes of a row are wanted at once.
    waiting
        Whether pieces can wait in the memory of the weight's gradient.

    Raises
    ------
    OptionError
        If the workspace does not hold the logits of one row.
    """
    (count, features), classes = rows.hidden.shape, rows.weight.shape[0]
    size = accumulation_dtype(rows.hidden, rows.weight, rows.bias).itemsize
    held = workspace_bytes // size  # numbers
    tile = max(1, classes)
    if rows.weight.dtype.itemsize < size:  # widened, or their gradient rounded, a tile at a time
        tile = max(1, min(classes, held // 4 // max(1, features)))
        held -= tile * features
    if is_native(rows.hidden, rows.weight):  # slopes are narrowed for their products
        held = held * 2 * copies // (2 * copies + 1)
    elif rows.hidden.dtype.itemsize < size:  # a piece's rows are widened
        held = held * classes // (classes + features)
    line = classes + PAD
    if held < line:
        raise OptionError(
            f"workspace_bytes must hold the logits of one row: got {workspace_bytes} for "
            f"{classes} classes and {features} features, which need at least {size * line}. "
            f"Hint: the default is {DEFAULT_WORKSPACE}."
        )
    if rows.weight.device.type == "cpu":
        held -= min(ASIDE // size, held // 8)
    held = max(line, held // copies)
    if invariant:
        return Plan(max(1, min(INVARIANT_ROWS, held // line)), classes, tile, padded=True)
    fit = held // line
    at_once = together and not whole and not _whole_rows_only(rows) and 2 * PAD * count <= held
    if fit >= count or (not at_once and (fit >= FEW_ROWS or whole or _whole_rows_only(rows))):
        pieces = max(1, -(-count // max(1, min(fit, count or 1))))
        return Plan(max(1, -(-count // pieces)), classes, tile)
    group = TOGETHER if differentiated else 4 * TOGETHER
    if at_once or (waiting and count <= features):
        group = count
    group = max(1, min(count, group, held // (2 * PAD)))
    group = -(-count // -(-count // group))
    return Plan(group, max(1, held // group // PAD * PAD - 1), tile)


def _whole_rows_only(rows: LinearRows) -> bool:
    """Tell whether a row's target is more than one class, so that pieces of it do not do."""
    return rows.soft or rows.smoothing != 0.0


# ---- which rows ----------------------------------------------------------------------------------


def is_kept(rows: LinearRows) -> Tensor | None:
    """Return whether each row is looked at, or None where nothing could keep one from it."""
    kept = None
    if rows.row_weight is not None:
        kept = rows.row_weight != 0
    if rows.ignore_index is not None and not rows.soft:
        seen = rows.targets != rows.ignore_index
        kept = seen if kept is None else kept & seen
    return kept


def kept_rows(rows: LinearRows) -> Tensor | None:
    """Return the indices of the rows that are looked at, or None where that is all of them."""
    kept = is_kept(rows)
    if kept is None or bool(kept.all()):
        return None
    return kept.nonzero()[:, 0]


# ---- sums ----------------------------------------------------------------------------------------


class _Sums:
    """The derivatives that are wanted, added up piece by piece."""

    def __init__(
        self,
        rows: LinearRows,
        head: Head,
        needed: Needed,
        *,
        any_rows: bool,
        once: bool,
        wide: bool,
    ) -> None:
        """Take the memory; `once` says that all rows come in one piece, and sums are final."""
        count, (classes, features) = rows.hidden.shape[0], rows.weight.shape
        device = rows.hidden.device
        self.head, self.wanted, self.first = head, any(needed), True
        self.hidden = self.weight = self.bias = None
        self.wide = wide
        if needed[0]:  # rows that are not looked at have zeros
            dtype = head.dtype if wide else rows.hidden.dtype
            self.hidden = torch.zeros((count, features), dtype=dtype, device=device)
        if needed[1]:
            dtype = rows.weight.dtype if once and not wide else head.dtype
            self.weight = memory((classes, features), dtype, device)
            if not any_rows:
                self.weight.zero_()
        if needed[2]:
            self.bias = torch.zeros(classes, dtype=torch.float64, device=device)

    def add(
        self, slopes: Tensor, hidden: Tensor, start: int, stop: int, share: Tensor | None
    ) -> None:
        """Add what the gradient of some rows' logits of some classes brings.

        `share` is the gradient of these rows themselves, if it is wanted.
        """
        if share is not None:
            self.head.add_to_hidden(slopes, start, stop, share)
        if self.weight is not None:
            self.head.add_to_weight(slopes, hidden, start, stop, self.weight, first=self.first)
        if self.bias is not None:
            self.bias[start:stop] += slopes.sum(0, dtype=torch.float64)

    def place(self, rows: int, start: int, stop: int) -> Tensor | None:
        """Return memory where the logits of some classes can wait for their gradient, or None.

        It is where the gradient by these classes' weights will be, as long as nothing is there.
        """
        if self.weight is None or not self.first or self.weight.dtype != self.head.dtype:
            return None
        there, line = self.weight[start:stop].view(-1), line_of(stop - start)
        return there[: rows * line].view(rows, line) if rows * line <= there.numel() else None

    def share(self, where: Tensor | slice, rows: int) -> Tensor | None:
        """Return zeros to add the gradient of some rows to, or None where it is not wanted.

        They are where it belongs if `where` says so many rows next to each other.
        """
        if self.hidden is None:
            return None
        if self._is_there(where, rows):
            return self.hidden[where]
        shape, device = (rows, self.hidden.shape[1]), self.hidden.device
        return torch.zeros(shape, dtype=self.head.dtype, device=device)

    def keep(self, where: Tensor | slice, share: Tensor | None) -> None:
        """Write the gradient of some rows where it belongs, unless it is there."""
        if share is None or self.hidden is None or self._is_there(where, share.shape[0]):
            return
        own = where.stop - where.start if isinstance(where, slice) else where.shape[0]
        self.hidden[where] = share[:own].to(self.hidden.dtype)

    def _is_there(self, where: Tensor | slice, rows: int) -> bool:
        assert self.hidden is not None
        same = self.hidden.dtype == self.head.dtype
        return same and isinstance(where, slice) and where.stop - where.start == rows

    def result(self, rows: LinearRows, losses: Tensor) -> Gradients:
        """Return the sums, in the dtypes of what they are derivatives by unless they stay wide."""
        weight, bias = self.weight, self.bias
        if weight is not None and not self.wide:
            weight = weight.to(rows.weight.dtype)
        if bias is not None:
            bias = bias.to(self.head.dtype if self.wide else rows.bias.dtype)
        return Gradients(losses, self.hidden, weight, bias)


# ---- rows ----------------------------------------------------------------------------------------


def line_of(classes: int) -> int:
    """Return how many numbers a row of a piece of logits takes, at least one more than it has."""
    return (classes // PAD + 1) * PAD


class _Piece(NamedTuple):
    """Some rows, as they are computed together."""

    rows: LinearRows
    hidden: Tensor  # as the products take them         (rows, features)
    cotangent: Tensor | None  # float64                 (rows,)


class _Call(NamedTuple):
    """What all pieces of a call share."""

    head: Head
    plan: Plan
    kernel: RowKernel
    memory: Tensor
    scale: float
    sums: _Sums

    def piece_of_logits(self, rows: int, classes: int) -> Tensor:
        """Return memory whose rows begin at whole vectors and end with a column to spare."""
        line = line_of(classes)
        return self.memory[: rows * line].view(rows, line)


def losses(rows: LinearRows, plan: Plan, kernel: RowKernel) -> Tensor:
    """Return the loss of each row, float64, without its weight; 0 for rows not looked at.

    Parameters
    ----------
    rows
        The rows; class weights are contiguous float64, and so are row weights.
    plan
        How the work is cut.
    kernel
        What computes rows of logits.
    """
    return gradients(rows, plan, kernel, needed=(False, False, False)).losses


def gradients(
    rows: LinearRows,
    plan: Plan,
    kernel: RowKernel,
    *,
    cotangent: Tensor | None = None,
    scale: float = 1.0,
    needed: Needed = (True, True, True),
    wide: bool = False,
) -> Gradients:
    """Return losses, and the derivatives of Σ scale·cotangent·row weight·loss.

    Parameters
    ----------
    rows, plan, kernel
        As for `losses`.
    cotangent
        A factor for each row, float64 (rows,), or None for ones.
    scale
        A factor of the derivatives.
    needed
        Which derivatives are wanted: by hidden, weight, bias. What is not costs nothing.
    wide
        Whether derivatives by half types are to stay in float32.
    """
    index = kept_rows(rows)
    count = rows.hidden.shape[0] if index is None else index.shape[0]
    head = Head(rows.hidden, rows.weight, rows.bias, plan.tile)
    sums = _Sums(rows, head, needed, any_rows=count > 0, once=count <= plan.rows, wide=wide)
    device = rows.hidden.device
    found: Tensor | None = None
    size = min(plan.rows, count) if not plan.padded else plan.rows
    space = size * line_of(min(plan.classes, rows.weight.shape[0]))
    call = _Call(head, plan, kernel, memory((space,), head.dtype, device), scale, sums)
    compute = _whole if plan.classes >= rows.weight.shape[0] else _cut
    for start in range(0, count, plan.rows):
        part = slice(start, min(start + plan.rows, count))
        where = part if index is None else index[part]
        own = part.stop - part.start
        piece = _piece(rows, where, cotangent, call)
        share = sums.share(where, piece.hidden.shape[0])
        losses = compute(piece, call, share)[:own]
        if found is None:
            every = rows.hidden.shape[0], *losses.shape[1:]
            found = torch.zeros(every, dtype=torch.float64, device=device)
        found[where] = losses
        sums.keep(where, share)
        sums.first = False
    if found is None:
        found = torch.zeros(rows.hidden.shape[0], dtype=torch.float64, device=device)
    return sums.result(rows, found)


def _piece(
    rows: LinearRows, where: Tensor | slice, cotangent: Tensor | None, call: _Call
) -> _Piece:
    """Return some rows, with rows that are ignored behind them where all pieces are of one size."""
    hidden, targets = call.head.rows(rows.hidden.detach()[where]), rows.targets[where]
    weight = None if rows.row_weight is None else rows.row_weight[where]
    each = None if cotangent is None else cotangent[where]
    missing = call.plan.rows - hidden.shape[0]
    if call.plan.padded and missing:
        if weight is None:
            weight = torch.ones(hidden.shape[0], dtype=torch.float64, device=hidden.device)
        hidden, targets, weight, each = (
            None if a is None else pad(a, (0, 0) * (a.ndim - 1) + (0, missing))
            for a in (hidden, targets, weight, each)
        )
    own = replace(rows, hidden=hidden, targets=targets, row_weight=weight)
    return _Piece(own, hidden, each)


def _whole(piece: _Piece, call: _Call, share: Tensor | None) -> Tensor:
    """Compute some rows with all their classes, and return their losses."""
    count, classes = piece.hidden.shape[0], piece.rows.weight.shape[0]
    logits = call.piece_of_logits(count, classes)[:, :classes]
    call.head.logits(piece.hidden, 0, classes, logits)
    found = call.kernel(
        piece.rows.of_logits(logits),
        gradient=call.sums.wanted,
        cotangent=piece.cotangent,
        scale=call.scale,
    )
    if found.gradient is not None:
        call.sums.add(found.gradient, piece.hidden, 0, classes, share)
    return found.losses


# ---- rows whose classes are cut ------------------------------------------------------------------


class _Slice:
    """The logits of some rows and classes, of which those of the targets are taken out."""

    def __init__(self, piece: _Piece, call: _Call, start: int, stop: int) -> None:
        self.piece, self.call, self.start, self.stop = piece, call, start, stop
        y = piece.rows.targets
        self.here = (y >= start) & (y < stop)
        # A row whose target is elsewhere has the column to spare for one.
        self.column = torch.where(self.here, y - start, stop - start)[:, None]
        rows = piece.hidden.shape[0]
        self.waiting = call.sums.place(rows, start, stop)
        self.space = call.piece_of_logits(rows, stop - start)
        self.logits = self.space if self.waiting is None else self.waiting

    def again(self) -> None:
        """Bring the logits to the workspace, where their gradient takes their place."""
        if self.waiting is None:
            self.fill()
        else:
            self.logits = self.space.copy_(self.waiting)

    def fill(self) -> Tensor:
        """Make the logits, and return those of the targets, 0 for a target that is elsewhere."""
        self.logits[:, self.stop - self.start :] = -torch.inf
        own = self.logits[:, : self.stop - self.start]
        self.call.head.logits(self.piece.hidden, self.start, self.stop, own)
        taken = torch.where(self.here, self.logits.gather(1, self.column)[:, 0], 0.0)
        self.logits.scatter_(1, self.column, -torch.inf)
        return taken.to(torch.float64)

    def compute(self, cotangent: Tensor | None) -> RowResults:
        """Return log Σ exp of the others, and their gradient where there is a cotangent."""
        rows = replace(
            self.piece.rows,
            targets=self.column[:, 0],
            class_weight=None,
            row_weight=None,
            ignore_index=None,
            z_loss=0.0,
        )
        found = self.call.kernel(
            rows.of_logits(self.logits), gradient=cotangent is not None, cotangent=cotangent
        )
        undefined = found.logsumexp.isnan()
        if cotangent is not None or (undefined.device.type == "cpu" and not undefined.any()):
            return found
        # Where all the others are masked their sum is 0 here, not undefined.
        nothing = undefined & (self.logits.amax(1) == -torch.inf)
        return found._replace(logsumexp=torch.where(nothing, -torch.inf, found.logsumexp))


def _cut(piece: _Piece, call: _Call, share: Tensor | None) -> Tensor:
    """Compute some rows, some classes at a time, and return their losses.

    The gradient at a logit of another class is weight·(1 + 2·z_loss·lse)·p, with p put together
    from its share of its slice and the slice's share of all. At the target it is minus the
    others' mass, and what the z-loss adds.
    """
    rows, step = piece.rows, call.plan.classes
    transform = LogitTransform(rows.temperature, rows.softcap, carry=False)
    slices = [
        _Slice(piece, call, start, min(start + step, rows.weight.shape[0]))
        for start in range(0, rows.weight.shape[0], step)
    ]
    own = torch.zeros(piece.hidden.shape[0], dtype=torch.float64, device=piece.hidden.device)
    parts = []
    for each in slices:
        own += each.fill()
        parts.append(each.compute(None).logsumexp)
    others = torch.logsumexp(torch.stack(parts), 0)
    a = own if rows.softcap is None else rows.softcap * torch.tanh(own / rows.softcap)
    a = torch.where(own == -torch.inf, own, a) / rows.temperature
    whole = torch.logaddexp(others, a)
    classes = rows.weight.shape[0]
    inside = (rows.targets >= 0) & (rows.targets < classes)
    mass = torch.ones_like(own)
    if rows.class_weight is not None:
        mass = rows.class_weight[torch.where(inside, rows.targets, 0)]
    mass = torch.where(inside, mass, torch.nan)  # out of range, and never silent
    # log(1 + exp(others − a)), and the others' mass; −∞ − −∞ is a row of which nothing is allowed
    gap = others - a
    log_sum = torch.where(gap > 0, gap, 0.0) + torch.log1p(torch.exp(-gap.abs()))
    loss = torch.where(mass != 0, mass * log_sum, 0.0) + rows.z_loss * mass * whole**2
    if not call.sums.wanted:
        return loss
    factor = call.scale * mass
    if piece.cotangent is not None:
        factor = factor * piece.cotangent
    if rows.row_weight is not None:
        factor = factor * rows.row_weight
    bend = 2.0 * rows.z_loss * whole
    at_target = factor * (bend * torch.sigmoid(-gap) - torch.sigmoid(gap))
    at_target = at_target * transform.slope(torch, own)
    for each, log_part in zip(reversed(slices), reversed(parts), strict=True):
        if each.waiting is not None or each is not slices[-1]:  # the last may still be there
            each.again()
        found = each.compute(factor * (1.0 + bend) * torch.exp(log_part - whole))
        slopes = found.gradient
        assert slopes is not None
        slopes.scatter_(1, each.column, at_target[:, None].to(slopes.dtype))
        if bool((log_part == -torch.inf).any()):  # all other classes of a row are masked here
            alone = torch.where(each.here, at_target, 0.0)[:, None].to(slopes.dtype)
            empty = torch.zeros_like(slopes).scatter_(1, each.column, alone)
            slopes = torch.where((log_part == -torch.inf)[:, None], empty, slopes)
        slopes = slopes[:, : each.stop - each.start]
        call.sums.add(slopes, piece.hidden, each.start, each.stop, share)
    return loss
