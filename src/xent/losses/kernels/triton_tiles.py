"""What runs on the GPU for `xent.losses.kernels.triton_rows`: importing it needs triton.

A program owns a tile of ROWS rows and walks over their classes in blocks of BLOCK; where one block
holds the row, its logits stay in registers from the statistics to the gradient. The mathematics is
`xent.losses.definition`'s, with sums that can go from block to block: when a block raises the
maximum m to m', sums of e^{x − m} fade by e^{m − m'} and sums of t·(z − m) fall by m' − m.
Nothing is ever the difference of two numbers that are nearly the same.

What belongs to a row is float64: there are few rows. So are soft targets and smoothing, for each
entry, which GPUs for games do at 1/64 of their speed. A row's bits depend on the row, its number
of classes and BLOCK, not on where it lies or what lies beside it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from xent.losses.kernels.triton_arithmetic import (
    UNLIFT,
    brought_down,
    capped,
    centred,
    log1p,
    number,
    powers,
    slope_of,
    sum_exactly,
    sum_narrow,
    times,
)

__all__ = [
    "Cotangents",
    "Results",
    "Shape",
    "View",
    "Weights",
    "rows",
]


class View(NamedTuple):
    """A tensor of rows: lanes are the rows that a program takes side by side."""

    pointer: Any
    lane: int  # strides, in entries
    other: int
    classes: int


class Weights(NamedTuple):
    """What multiplies a row, and the target's mass on a class; either may be None."""

    row: View | None
    class_: View | None


class Cotangents(NamedTuple):
    """The derivative of the caller's number by what each row gives; all but loss may be None."""

    loss: View | None
    logsumexp: View | None
    entropy: View | None


class Results(NamedTuple):
    """Where rows are written; `saved`, a plane for each number of a row, may also be read from."""

    loss: View | None
    logsumexp: View | None
    entropy: View | None
    saved: View


class Shape(NamedTuple):
    """How many there are of each."""

    lanes: int
    lane_blocks: int  # ⌈lanes/ROWS⌉; programs are lane_blocks·others
    classes: int
    blocks: int | None  # of classes; None where one block has them all
    ignore_index: int | None


class _Place(NamedTuple):
    """Which rows a program has."""

    lane: Any
    other: Any
    exists: Any  # is there such a row?
    live: Any  # is it looked at?


class _Label(NamedTuple):
    """A class index as a target."""

    class_: Any
    inside: Any  # does it lie in [0, classes)?
    z: Any  # its logit
    weight: Any  # its class weight


class _Block(NamedTuple):
    """Neighbouring classes of each row."""

    column: Any
    z: Any
    t: Any  # target masses, 0.0 for class indices
    w: Any  # class weights, 1.0 for none


class _Sums(NamedTuple):
    """What a row's blocks have added up to so far, relative to the maximum so far."""

    top: Any  # m, the largest logit                                               float32
    others: Any  # Σ e^x without the likeliest class
    spread: Any  # Σ e^x·(m − z)
    mass: Any  # Σ w·t                                for soft targets
    score: Any  # Σ w·t·(z − m)
    even_mass: Any  # Σ w over the allowed classes    for smoothing
    even_score: Any  # Σ w·(z − m) over them
    allowed: Any  # how many they are


class _Known(NamedTuple):
    """What is known of a row after its statistics, and saved."""

    top: Any
    others: Any
    weight: Any  # W, the target's mass
    share: Any  # ε over the number of allowed classes
    entropy: Any


class _Row(NamedTuple):
    """What the gradient of a row's entries needs."""

    anchor: Any  # the maximum, or 0 where it is −∞                                float32
    others: Any
    inverse: Any  # 1/Σ e^x
    weight: Any  # W
    share: Any  # ε over the number of allowed classes
    log_sum: Any
    entropy: Any
    pull: Any  # ∂/∂loss, times 1/T
    drift: Any  # what multiplies p: z-loss and ∂/∂logsumexp, times 1/T
    stir: Any  # ∂/∂entropy, times 1/T
    live: Any  # is the row looked at?
    bad: Any  # is it NaN?


# ---- what is read and written --------------------------------------------------------------------


@triton.jit
def _at_row(view, place):
    """Return where a number of each row lies: 64-bit, whatever the strides."""
    return view.pointer + place.lane * view.lane + place.other * view.other


@triton.jit
def _at_classes(view, place, column):
    return _at_row(view, place)[:, None] + column.to(tl.int64)[None, :] * view.classes


@triton.jit
def _read_row(view, place, here):
    return tl.load(_at_row(view, place), mask=here, other=0)


@triton.jit
def _write_row(view, place, value):
    value = tl.where(place.live, value, 0.0)
    tl.store(_at_row(view, place), value.to(view.pointer.dtype.element_ty), mask=place.exists)


@triton.jit
def _plane(view, k):
    """Return one of the planes of what is saved for each row."""
    start = view.pointer + tl.cast(view.classes, tl.int64) * k
    return View(start, view.lane, view.other, view.classes)


@triton.jit
def _save(view, place, known, masses: tl.constexpr, turning: tl.constexpr):
    _write_row(_plane(view, 0), place, known.top)
    _write_row(_plane(view, 1), place, known.others)
    if masses:
        _write_row(_plane(view, 2), place, known.weight)
        _write_row(_plane(view, 3), place, known.share)
    if turning:
        _write_row(_plane(view, 4 if masses else 2), place, known.entropy)


@triton.jit
def _recall(view, place, label, masses: tl.constexpr, turning: tl.constexpr):
    top = _read_row(_plane(view, 0), place, place.live).to(tl.float32)
    others = _read_row(_plane(view, 1), place, place.live)
    share, entropy = tl.zeros_like(others), tl.zeros_like(others)
    if masses:
        weight = _read_row(_plane(view, 2), place, place.live)
        share = _read_row(_plane(view, 3), place, place.live)
    else:
        weight = label.weight
    if turning:
        entropy = _read_row(_plane(view, 4 if masses else 2), place, place.live)
    return _Known(top, others, weight, share, entropy)


@triton.jit
def _read_class_weights(view, column, classes):
    here = (column >= 0) & (column < classes)
    where = view.pointer + column.to(tl.int64) * view.classes
    return tl.load(where, mask=here, other=0).to(tl.float64)


@triton.jit
def _read_block(logits, targets, weights, place, shape, numbers, column):
    """Return a block of classes; what there is none of is 0 and takes no part."""
    here = place.live[:, None] & (column < shape.classes)[None, :]
    z = tl.load(_at_classes(logits, place, column), mask=here, other=float("-inf"))
    z = brought_down(z.to(tl.float32), numbers)
    t = 0.0
    if targets.pointer.dtype.element_ty.is_floating():
        t = tl.load(_at_classes(targets, place, column), mask=here, other=0).to(tl.float64)
    w = 1.0
    if weights.class_ is not None:
        w = _read_class_weights(weights.class_, column, shape.classes)[None, :]
    return _Block(column, z, t, w)


@triton.jit
def _write_block(view, place, shape, column, value):
    here = place.exists[:, None] & (column < shape.classes)[None, :]
    value = value.to(view.pointer.dtype.element_ty)
    tl.store(_at_classes(view, place, column), value, mask=here)


# ---- one block of classes ------------------------------------------------------------------------


@triton.jit
def _anchor(top):
    """Return what is subtracted from a row's logits: −∞ − (−∞) would be NaN."""
    return tl.where(top > float("-inf"), top, 0.0)


@triton.jit
def _add_block(sums, block, label, numbers, turning: tl.constexpr):
    """Add a block of classes to the sums."""
    z = block.z
    # A NaN counts as +∞, which no row survives.
    here = tl.max(tl.where(z < float("inf"), z, float("inf")), axis=1)
    top = tl.maximum(sums.top, here)
    rises, began = here > sums.top, sums.top > float("-inf")
    anchor = _anchor(top)
    rise = tl.where(rises & began, capped(anchor, numbers) - capped(sums.top, numbers), 0.0)
    fade = tl.where(began, tl.exp(-rise * number(numbers.rate)), 0.0)
    so_far = tl.where(began, 1.0 + sums.others, 0.0)

    high, low = centred(z, anchor[:, None], numbers)
    e = powers(high, low, numbers)
    # The likeliest class is left out of the others, but only it: equals are others.
    is_top = z == anchor[:, None]
    equals = tl.sum(is_top.to(tl.int32), axis=1) - rises.to(tl.int32)
    others = tl.where(rises, so_far * fade, sums.others) + equals.to(tl.float64)
    others += sum_narrow(tl.where(is_top, 0.0, e)) * UNLIFT

    spread = sums.spread
    if turning:
        spread = fade * (spread + so_far * rise)
        spread += sum_narrow(tl.where(e > 0.0, e * -high, 0.0)) * UNLIFT

    gap = high.to(tl.float64) + low.to(tl.float64)
    mass, score = sums.mass, sums.score - sums.mass * rise
    even_mass, even_score = sums.even_mass, sums.even_score - sums.even_mass * rise
    allowed = sums.allowed
    if label is None:
        u = block.t * block.w
        mass += sum_exactly(u)
        score += sum_exactly(times(u, gap))
    if numbers.smoothing is not None:
        open_ = (z > float("-inf")).to(tl.float64)
        u = open_ * block.w
        allowed += tl.sum((z > float("-inf")).to(tl.int32), axis=1).to(tl.float64)
        even_mass += sum_exactly(u)
        even_score += sum_exactly(times(u, gap))
    return _Sums(top, others, spread, mass, score, even_mass, even_score, allowed)


@triton.jit
def _slope_in_x(e, is_top, u, row):
    """Return the derivative of an entry in float64, without the softcap's slope.

    p·(W − u) − u·(1 − p) cancels nowhere for a one-hot target; 1 − p of the likeliest class is the
    others' mass.
    """
    p = e * row.inverse
    rest = tl.where(is_top, row.others, (1.0 - e) + row.others) * row.inverse
    return row.pull * (p * (row.weight - u) - u * rest) + row.drift * p


@triton.jit
def _in_columns(row):
    """Return the row's numbers with an axis for the classes."""
    return _Row(
        row.anchor[:, None],
        row.others[:, None],
        row.inverse[:, None],
        row.weight[:, None],
        row.share[:, None],
        row.log_sum[:, None],
        row.entropy[:, None],
        row.pull[:, None],
        row.drift[:, None],
        row.stir[:, None],
        row.live[:, None],
        row.bad[:, None],
    )


@triton.jit
def _rate_of_powers(row):
    """Return what multiplies 2^32·e^x in the gradient where the target has no mass."""
    return (row.pull * row.weight + row.drift) * row.inverse * UNLIFT


@triton.jit
def _label_gradient(label, row, numbers):
    """Return the gradient at the class of a hard target without smoothing, in float32."""
    high, low = centred(label.z, row.anchor, numbers)
    e = powers(high, low, numbers).to(tl.float64) * UNLIFT
    g = _slope_in_x(e, label.z == row.anchor, label.weight, row)
    if numbers.softcap is not None:
        g = g * slope_of(label.z, numbers)
    return g.to(tl.float32)


@triton.jit
def _is_label(block, label):
    return block.column[None, :] == label.class_[:, None]


@triton.jit
def _block_gradient(block, row, label, numbers, turning: tl.constexpr):
    """Return the gradient of a block in float32.

    Where the target has no mass it is e times one number of the row; where it has, float64. A hard
    target without smoothing has mass at one class, whose entry is computed once for the row.
    """
    z, wide_row = block.z, _in_columns(row)
    high, low = centred(z, wide_row.anchor, numbers)
    e = powers(high, low, numbers)
    g = e * _rate_of_powers(row).to(tl.float32)[:, None]
    if numbers.softcap is not None:
        slope = slope_of(z, numbers)
        g = g * slope.to(tl.float32)
    if label is not None and numbers.smoothing is None:
        is_target = _is_label(block, label) & (label.weight != 0.0)[:, None]
        g = tl.where(is_target, _label_gradient(label, row, numbers)[:, None], g)
    else:
        u = block.t
        if label is not None:
            u = _is_label(block, label).to(tl.float64)
        if numbers.smoothing is not None:
            even = tl.where(z > float("-inf"), wide_row.share, 0.0)
            u = number(numbers.kept) * u + even
        u = u * block.w
        wide = e.to(tl.float64) * UNLIFT
        exact = _slope_in_x(wide, z == wide_row.anchor, u, wide_row)
        if numbers.softcap is not None:
            exact = exact * slope
        g = tl.where(u == 0.0, g, exact.to(tl.float32))
    if turning:
        x = (high.to(tl.float64) + low.to(tl.float64)) * number(numbers.rate)
        turn = wide_row.stir * (e.to(tl.float64) * UNLIFT) * wide_row.inverse
        turn = turn * ((wide_row.log_sum - wide_row.entropy) - x)
        if numbers.softcap is not None:
            turn = turn * slope
        g += tl.where(e > 0.0, turn, 0.0).to(tl.float32)
    return tl.where(wide_row.live, tl.where(wide_row.bad, float("nan"), g), 0.0)


# ---- the kernel ----------------------------------------------------------------------------------


@triton.jit
def _find(targets, weights, shape, ROWS: tl.constexpr):
    """Return the program's rows and the weight of each."""
    program = tl.program_id(0)
    other = (program // shape.lane_blocks).to(tl.int64)
    lane = ((program % shape.lane_blocks) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    exists = lane < shape.lanes
    place = _Place(lane, other, exists, exists)
    weight = tl.full([ROWS], 1.0, tl.float64)
    live = exists
    if weights.row is not None:
        weight = _read_row(weights.row, place, exists).to(tl.float64)
        live = live & (weight != 0.0)
    if shape.ignore_index is not None:
        live = live & (_read_row(targets, place, exists).to(tl.int64) != shape.ignore_index)
    return _Place(lane, other, exists, live), weight


@triton.jit
def _read_label(logits, targets, weights, place, shape, numbers):
    y = _read_row(targets, place, place.live).to(tl.int64)
    inside = (y >= 0) & (y < shape.classes)
    z = tl.load(_at_row(logits, place) + y * logits.classes, mask=place.live & inside, other=0)
    w = inside.to(tl.float64)
    if weights.class_ is not None:
        w = _read_class_weights(weights.class_, y, shape.classes)
    return _Label(y, inside, brought_down(z.to(tl.float32), numbers), w)


@triton.jit
def _gap_of(label, anchor, numbers):
    high, low = centred(label.z, anchor, numbers)
    return high.to(tl.float64) + low.to(tl.float64)


@triton.jit
def _statistics(sums, label, numbers):
    """Return loss and log-sum-exp of each row, and what is saved for its gradient."""
    rate = number(numbers.rate)
    bad = (sums.top == float("inf")) | (sums.top == float("-inf"))
    mass, score = sums.mass, sums.score
    if label is not None:
        bad = bad | (label.inside == 0)
        mass, score = label.weight, times(label.weight, _gap_of(label, sums.top, numbers))
    weight, share = mass, tl.zeros_like(mass)
    if numbers.smoothing is not None:
        share = number(numbers.smoothing) / sums.allowed
        kept = number(numbers.kept)
        weight = kept * mass + share * sums.even_mass
        score = times(kept, score) + share * sums.even_score
    log_sum = log1p(sums.others)
    lse = capped(sums.top, numbers) * rate + log_sum
    loss = weight * log_sum - score * rate + number(numbers.z_loss) * weight * (lse * lse)
    entropy = log_sum + sums.spread * rate / (1.0 + sums.others)
    nan = float("nan")
    loss, lse = tl.where(bad, nan, loss), tl.where(bad, nan, lse)
    entropy = tl.where(bad, nan, entropy)
    return loss, lse, _Known(sums.top, sums.others, weight, share, entropy)


@triton.jit
def _row_of(known, label, factor, cotangents, place, numbers):
    """Return what the gradient of a row's entries needs."""
    rate = number(numbers.rate)
    top, others, weight, share, entropy = known
    bad = (top == float("inf")) | (top == float("-inf"))
    if label is not None:
        bad = bad | (label.inside == 0)
    log_sum = log1p(others)
    lse = capped(top, numbers) * rate + log_sum
    pull = tl.zeros_like(others)
    if cotangents.loss is not None:
        pull = _read_row(cotangents.loss, place, place.live).to(tl.float64) * factor * rate
    drift = pull * weight * (2.0 * number(numbers.z_loss) * lse)
    if cotangents.logsumexp is not None:
        drift += _read_row(cotangents.logsumexp, place, place.live).to(tl.float64) * rate
    stir = tl.zeros_like(others)
    if cotangents.entropy is not None:
        stir = _read_row(cotangents.entropy, place, place.live).to(tl.float64) * rate
    inverse = 1.0 / (1.0 + others)
    return _Row(
        _anchor(top),
        others,
        inverse,
        weight,
        share,
        log_sum,
        entropy,
        pull,
        drift,
        stir,
        place.live,
        bad,
    )


@triton.jit
def rows(
    logits,
    targets,
    weights,
    cotangents,
    results,
    gradient,
    shape,
    numbers,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Compute a tile of rows.

    Statistics are computed where there is a place for the loss, and otherwise read from what an
    earlier launch saved; the gradient is computed where there is a place for it.
    """
    place, factor = _find(targets, weights, shape, ROWS)
    columns = tl.arange(0, BLOCK)
    label = None
    if not targets.pointer.dtype.element_ty.is_floating():
        label = _read_label(logits, targets, weights, place, shape, numbers)
    masses = label is None or numbers.smoothing is not None
    turning = results.entropy is not None or cotangents.entropy is not None

    if shape.blocks is None:
        block = _read_block(logits, targets, weights, place, shape, numbers, columns)
    if results.loss is not None:
        zero = tl.zeros([ROWS], tl.float64)
        lowest = tl.full([ROWS], float("-inf"), tl.float32)
        sums = _Sums(lowest, zero, zero, zero, zero, zero, zero, zero)
        if shape.blocks is None:
            sums = _add_block(sums, block, label, numbers, turning)
        else:
            for i in range(shape.blocks):
                column = i * BLOCK + columns
                block = _read_block(logits, targets, weights, place, shape, numbers, column)
                sums = _add_block(sums, block, label, numbers, turning)
        loss, logsumexp, known = _statistics(sums, label, numbers)
        _write_row(results.loss, place, loss)
        _write_row(results.logsumexp, place, logsumexp)
        if results.entropy is not None:
            _write_row(results.entropy, place, known.entropy)
        _save(results.saved, place, known, masses, turning)
    else:
        known = _recall(results.saved, place, label, masses, turning)

    if gradient is not None:
        row = _row_of(known, label, factor, cotangents, place, numbers)
        if shape.blocks is None:
            g = _block_gradient(block, row, label, numbers, turning)
            _write_block(gradient, place, shape, columns, g)
        else:
            for i in range(shape.blocks):
                column = i * BLOCK + columns
                block = _read_block(logits, targets, weights, place, shape, numbers, column)
                g = _block_gradient(block, row, label, numbers, turning)
                _write_block(gradient, place, shape, column, g)
