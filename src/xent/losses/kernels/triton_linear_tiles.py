"""What runs on the GPU for `xent.losses.kernels.triton_linear`: importing it needs triton.

A program owns a tile of ROWS rows and makes their logits for CLASSES classes at a time, in
registers, from FEATURES features at a time. `statistics` goes over a span of the classes so;
`combine` puts the spans of a row together; `slopes` makes a tile once more and writes the
derivative by its logits; `product` multiplies those derivatives with what the logits were made of.

The mathematics is `xent.losses.definition`'s. What a row adds up to, `_Sums`, is relative to the
largest logit so far, whose own power is left out of the sum: so the sums of two spans are put
together in the same way as those of two tiles, and nothing is ever the difference of two numbers
that are nearly the same. What belongs to a row is float64: there are few rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from xent.losses.kernels.triton_arithmetic import (
    INTERPRETED,
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
    "Inputs",
    "Kept",
    "Matrix",
    "Results",
    "Shape",
    "Vector",
    "combine",
    "product",
    "slopes",
    "statistics",
]

_IN_PYTHON = tl.constexpr(INTERPRETED)
_BAND = tl.constexpr(16)  # blocks of rows that take turns, while what they share is in the cache


class Vector(NamedTuple):
    """A tensor of one dimension."""

    pointer: Any
    step: int  # in entries


class Matrix(NamedTuple):
    """A tensor of two dimensions."""

    pointer: Any
    row: int  # steps, in entries
    column: int


class Inputs(NamedTuple):
    """What a row's logits, its target and its weight are read from; None for what there is not."""

    hidden: Matrix
    weight: Matrix
    bias: Vector | None
    targets: Vector
    class_weight: Vector | None
    row_weight: Vector | None


class Results(NamedTuple):
    """Where the statistics of rows are written."""

    loss: Vector
    logsumexp: Vector
    entropy: Vector | None
    saved: Matrix  # (numbers, rows)


class Kept(NamedTuple):
    """Which tiles a product goes over."""

    order: Matrix  # for each block of the result, the numbers of those that count, then the rest
    number: Vector  # how many count


class Shape(NamedTuple):
    """How many there are of each."""

    rows: int
    classes: int
    features: int
    row_blocks: int
    class_blocks: int
    ignore_index: int | None


class _Place(NamedTuple):
    """Which rows a program has."""

    row: Any
    exists: Any  # is there such a row?
    live: Any  # is it looked at?


class _Label(NamedTuple):
    """A class index as a target."""

    class_: Any  # −1 where it does not lie in [0, classes)
    inside: Any
    weight: Any  # its class weight


class _Sums(NamedTuple):
    """What some of a row's classes add up to, relative to the largest of their logits."""

    top: Any  # m, that logit                                                      float32
    others: Any  # Σ e^x without the likeliest class
    label: Any  # the target's logit, 0 where it is not among them                 float32
    spread: Any  # Σ e^x·(m − z)                      for the entropy
    even_mass: Any  # Σ w over the allowed classes    for smoothing
    even_score: Any  # Σ w·(z − m) over them
    allowed: Any  # how many they are


class _Row(NamedTuple):
    """What the gradient of a row's entries needs."""

    anchor: Any  # the maximum, or 0 where it is −∞                                float32
    others: Any
    inverse: Any  # 1/Σ e^x
    weight: Any  # W, the target's mass
    share: Any  # ε over the number of allowed classes
    label: Any  # the target's logit                                               float32
    force: Any  # what multiplies the row: its cotangent and its weight
    pull: Any  # that, times 1/T
    drift: Any  # what multiplies p: z-loss, times 1/T
    bad: Any  # is the row NaN?


# ---- what is read and written --------------------------------------------------------------------


@triton.jit
def _in_bands(program, blocks, others):
    """Return which block of rows a program has, and which of the others.

    Neighbours in time share what belongs to the others, and a band shares its rows.
    """
    start = program // (_BAND * others) * _BAND
    height = tl.minimum(blocks - start, _BAND)
    within = program % (_BAND * others)
    return start + within % height, within // height


@triton.jit
def _read(view, index, here):
    """Read numbers, whatever the steps: offsets have 64 bits."""
    return tl.load(view.pointer + index.to(tl.int64) * view.step, mask=here, other=0)


@triton.jit
def _put(view, place, value):
    value = value.to(view.pointer.dtype.element_ty)
    tl.store(view.pointer + place.row * view.step, value, mask=place.exists)


@triton.jit
def _write(view, place, value):
    _put(view, place, tl.where(place.live, value, 0.0))


@triton.jit
def _tile(view, row, column):
    """Return where a tile's entries lie."""
    rows = row.to(tl.int64)[:, None] * view.row
    return view.pointer + rows + column.to(tl.int64)[None, :] * view.column


@triton.jit
def _find(inputs, row, shape):
    """Return rows by their indices, and the weight of each."""
    row = row.to(tl.int64)
    exists = row < shape.rows
    live = exists
    weight = tl.full([row.shape[0]], 1.0, tl.float64)
    if inputs.row_weight is not None:
        weight = _read(inputs.row_weight, row, exists).to(tl.float64)
        live = live & (weight != 0.0)
    if shape.ignore_index is not None:
        live = live & (_read(inputs.targets, row, exists).to(tl.int64) != shape.ignore_index)
    return _Place(row, exists, live), weight


@triton.jit
def _read_class_weights(view, column, classes):
    return _read(view, column, (column >= 0) & (column < classes)).to(tl.float64)


@triton.jit
def _read_label(inputs, place, shape):
    y = _read(inputs.targets, place.row, place.live).to(tl.int64)
    inside = (y >= 0) & (y < shape.classes)
    y = tl.where(inside, y, -1).to(tl.int32)
    weight = inside.to(tl.float64)
    if inputs.class_weight is not None:
        weight = _read_class_weights(inputs.class_weight, y, shape.classes)
    return _Label(y, inside, weight)


@triton.jit
def _plane(view, k):
    """Return one of the numbers that are saved of each row."""
    return Vector(view.pointer + tl.cast(view.row, tl.int64) * k, view.column)


# ---- a tile of logits ----------------------------------------------------------------------------


@triton.jit
def _dot(a, b, sums):
    """Return sums + a·b. Triton's interpreter takes the bits of bfloat16 for integers."""
    if _IN_PYTHON:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, sums, input_precision="ieee")


@triton.jit
def _logits(inputs, place, column, shape, numbers, FEATURES: tl.constexpr):
    """Return hidden·weightᵀ + bias in float32, −∞ past the last class."""
    feature = tl.arange(0, FEATURES)
    exists = column < shape.classes
    z = tl.zeros([place.row.shape[0], column.shape[0]], tl.float32)
    for d in range(0, shape.features, FEATURES):
        here = d + feature < shape.features
        at = _tile(inputs.hidden, place.row, d + feature)
        a = tl.load(at, mask=place.live[:, None] & here[None, :], other=0)
        at = _tile(inputs.weight, column, d + feature)
        b = tl.load(at, mask=exists[:, None] & here[None, :], other=0)
        z = _dot(a, tl.trans(b), z)
    if inputs.bias is not None:
        z += _read(inputs.bias, column, exists).to(tl.float32)[None, :]
    return tl.where(exists[None, :], brought_down(z, numbers), float("-inf"))


@triton.jit
def _weights_of_tile(inputs, column, shape):
    """Return the class weights of a tile, 1 for none."""
    w = 1.0
    if inputs.class_weight is not None:
        w = _read_class_weights(inputs.class_weight, column, shape.classes)[None, :]
    return w


# ---- sums over classes ---------------------------------------------------------------------------


@triton.jit
def _anchor(top):
    """Return what is subtracted from a row's logits: −∞ − (−∞) would be NaN."""
    return tl.where(top > float("-inf"), top, 0.0)


@triton.jit
def _nothing(ROWS: tl.constexpr):
    zero = tl.zeros([ROWS], tl.float64)
    lowest = tl.full([ROWS], float("-inf"), tl.float32)
    return _Sums(lowest, zero, tl.zeros([ROWS], tl.float32), zero, zero, zero, zero)


@triton.jit
def _sums_of(z, w, label, column, numbers, turning: tl.constexpr):
    """Return what a tile adds up to."""
    # A NaN counts as +∞, which no row survives.
    top = tl.max(tl.where(z < float("inf"), z, float("inf")), axis=1)
    high, low = centred(z, _anchor(top)[:, None], numbers)
    e = powers(high, low, numbers)
    # The likeliest class is left out of the others, but only it: equals are others.
    is_top = z == _anchor(top)[:, None]
    equals = tl.maximum(tl.sum(is_top.to(tl.int32), axis=1) - 1, 0)
    others = equals.to(tl.float64) + sum_narrow(tl.where(is_top, 0.0, e)) * UNLIFT
    at_label = tl.sum(tl.where(column[None, :] == label.class_[:, None], z, 0.0), axis=1)
    zero = tl.zeros_like(others)
    spread, even_mass, even_score, allowed = zero, zero, zero, zero
    if turning:
        spread = sum_narrow(tl.where(e > 0.0, e * -high, 0.0)) * UNLIFT
    if numbers.smoothing is not None:
        u = (z > float("-inf")).to(tl.float64) * w
        allowed = tl.sum((z > float("-inf")).to(tl.int32), axis=1).to(tl.float64)
        even_mass = sum_exactly(u)
        even_score = sum_exactly(times(u, high.to(tl.float64) + low.to(tl.float64)))
    return _Sums(top, others, at_label, spread, even_mass, even_score, allowed)


@triton.jit
def _fall(top, sums, numbers):
    """Return how far a maximum lies above that of some sums, after the softcap."""
    falls = (sums.top > float("-inf")) & (sums.top < top)
    gap = capped(_anchor(top), numbers) - capped(_anchor(sums.top), numbers)
    return tl.where(falls, gap, 0.0)


@triton.jit
def _together(a, b, numbers):
    """Return what the classes of both add up to; they share none."""
    top = tl.maximum(a.top, b.top)
    fall_a, fall_b = _fall(top, a, numbers), _fall(top, b, numbers)
    fade_a = tl.exp(-fall_a * number(numbers.rate))
    fade_b = tl.exp(-fall_b * number(numbers.rate))
    all_a = tl.where(a.top > float("-inf"), 1.0 + a.others, 0.0)
    all_b = tl.where(b.top > float("-inf"), 1.0 + b.others, 0.0)
    a_leads = a.top >= b.top
    others = tl.where(a_leads, a.others + fade_b * all_b, b.others + fade_a * all_a)
    spread = fade_a * (a.spread + all_a * fall_a) + fade_b * (b.spread + all_b * fall_b)
    even_score = (a.even_score - a.even_mass * fall_a) + (b.even_score - b.even_mass * fall_b)
    return _Sums(
        top,
        others,
        a.label + b.label,
        spread,
        a.even_mass + b.even_mass,
        even_score,
        a.allowed + b.allowed,
    )


@triton.jit
def _planes(smooth: tl.constexpr, turning: tl.constexpr):
    """Return how many numbers of each row a span has."""
    return 3 + (3 if smooth else 0) + (1 if turning else 0)


@triton.jit
def _keep(parts, place, sums, split, smooth: tl.constexpr, turning: tl.constexpr):
    """Write the sums of a span of the classes."""
    first = split * _planes(smooth, turning)
    _put(_plane(parts, first), place, sums.top)
    _put(_plane(parts, first + 1), place, sums.others)
    _put(_plane(parts, first + 2), place, sums.label)
    if smooth:
        _put(_plane(parts, first + 3), place, sums.even_mass)
        _put(_plane(parts, first + 4), place, sums.even_score)
        _put(_plane(parts, first + 5), place, sums.allowed)
    if turning:
        _put(_plane(parts, first + (6 if smooth else 3)), place, sums.spread)


@triton.jit
def _kept(parts, place, split, smooth: tl.constexpr, turning: tl.constexpr):
    """Read the sums of a span of the classes."""
    first = split * _planes(smooth, turning)
    row, here = place.row, place.exists
    top = _read(_plane(parts, first), row, here).to(tl.float32)
    others = _read(_plane(parts, first + 1), row, here)
    label = _read(_plane(parts, first + 2), row, here).to(tl.float32)
    zero = tl.zeros_like(others)
    spread, even_mass, even_score, allowed = zero, zero, zero, zero
    if smooth:
        even_mass = _read(_plane(parts, first + 3), row, here)
        even_score = _read(_plane(parts, first + 4), row, here)
        allowed = _read(_plane(parts, first + 5), row, here)
    if turning:
        spread = _read(_plane(parts, first + (6 if smooth else 3)), row, here)
    return _Sums(top, others, label, spread, even_mass, even_score, allowed)


@triton.jit
def statistics(
    inputs,
    parts,
    shape,
    splits,
    blocks,
    numbers,
    TURNING: tl.constexpr,
    ROWS: tl.constexpr,
    CLASSES: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """Compute the sums of a tile of rows over one of the spans of the classes."""
    block, split = _in_bands(tl.program_id(0), shape.row_blocks, splits)
    place, _ = _find(inputs, block * ROWS + tl.arange(0, ROWS), shape)
    label = _read_label(inputs, place, shape)
    sums = _nothing(ROWS)
    first = split * blocks
    for i in range(first, tl.minimum(first + blocks, shape.class_blocks)):
        column = i * CLASSES + tl.arange(0, CLASSES)
        z = _logits(inputs, place, column, shape, numbers, FEATURES)
        w = _weights_of_tile(inputs, column, shape)
        sums = _together(sums, _sums_of(z, w, label, column, numbers, TURNING), numbers)
    _keep(parts, place, sums, split, numbers.smoothing is not None, TURNING)


@triton.jit
def combine(inputs, parts, results, shape, splits, numbers, ROWS: tl.constexpr):
    """Compute the statistics of rows from the sums over spans of the classes, in their order."""
    smooth: tl.constexpr = numbers.smoothing is not None
    turning: tl.constexpr = results.entropy is not None
    place, _ = _find(inputs, tl.program_id(0) * ROWS + tl.arange(0, ROWS), shape)
    label = _read_label(inputs, place, shape)
    sums = _kept(parts, place, 0, smooth, turning)
    for split in range(1, splits):
        sums = _together(sums, _kept(parts, place, split, smooth, turning), numbers)

    rate = number(numbers.rate)
    bad = (sums.top == float("inf")) | (sums.top == float("-inf")) | (label.inside == 0)
    high, low = centred(sums.label, _anchor(sums.top), numbers)
    score = times(label.weight, high.to(tl.float64) + low.to(tl.float64))
    weight, share = label.weight, tl.zeros_like(score)
    if smooth:
        share = number(numbers.smoothing) / sums.allowed
        kept = number(numbers.kept)
        weight = kept * label.weight + share * sums.even_mass
        score = times(kept, score) + share * sums.even_score
    log_sum = log1p(sums.others)
    lse = capped(sums.top, numbers) * rate + log_sum
    loss = weight * log_sum - score * rate + number(numbers.z_loss) * weight * (lse * lse)
    nan = float("nan")
    _write(results.loss, place, tl.where(bad, nan, loss))
    _write(results.logsumexp, place, tl.where(bad, nan, lse))
    if turning:
        entropy = log_sum + sums.spread * rate / (1.0 + sums.others)
        _write(results.entropy, place, tl.where(bad, nan, entropy))
    _write(_plane(results.saved, 0), place, sums.top)
    _write(_plane(results.saved, 1), place, sums.others)
    _write(_plane(results.saved, 2), place, weight)
    _write(_plane(results.saved, 3), place, share)
    _write(_plane(results.saved, 4), place, sums.label)


# ---- the derivative by logits --------------------------------------------------------------------


@triton.jit
def _row_of(saved, place, label, cotangent, factor, unit, numbers):
    """Return what the gradient of a row's entries needs, in units of `unit`."""
    rate = number(numbers.rate)
    top = _read(_plane(saved, 0), place.row, place.live).to(tl.float32)
    others = _read(_plane(saved, 1), place.row, place.live)
    weight = _read(_plane(saved, 2), place.row, place.live)
    share = _read(_plane(saved, 3), place.row, place.live)
    at_label = _read(_plane(saved, 4), place.row, place.live).to(tl.float32)
    bad = (top == float("inf")) | (top == float("-inf")) | (label.inside == 0)
    force = _read(cotangent, place.row, place.live).to(tl.float64) * factor
    if unit is not None:
        force = force / tl.load(unit)
    pull = force * rate
    lse = capped(top, numbers) * rate + log1p(others)
    drift = pull * weight * (2.0 * number(numbers.z_loss) * lse)
    inverse = 1.0 / (1.0 + others)
    return _Row(_anchor(top), others, inverse, weight, share, at_label, force, pull, drift, bad)


@triton.jit
def _slope_in_x(e, is_top, u, others, inverse, weight, pull, drift):
    """Return the derivative of an entry in float64, without the softcap's slope.

    p·(W − u) − u·(1 − p) cancels nowhere for a one-hot target; 1 − p of the likeliest class is the
    others' mass.
    """
    p = e * inverse
    rest = tl.where(is_top, others, (1.0 - e) + others) * inverse
    return pull * (p * (weight - u) - u * rest) + drift * p


@triton.jit
def _label_gradient(label, row, numbers):
    """Return the gradient at the class of a hard target without smoothing, in float32.

    It is made from the logit that the statistics were made from: a sum in another order would not
    be *the* maximum, and the others' mass is all that a confident row's gradient is.
    """
    high, low = centred(row.label, row.anchor, numbers)
    e = powers(high, low, numbers).to(tl.float64) * UNLIFT
    is_top = row.label == row.anchor
    g = _slope_in_x(
        e, is_top, label.weight, row.others, row.inverse, row.weight, row.pull, row.drift
    )
    if numbers.softcap is not None:
        g = g * slope_of(row.label, numbers)
    return g.to(tl.float32)


@triton.jit
def _gradient_of_tile(z, w, row, label, column, place, numbers):
    """Return the derivative of a tile by its logits in float32.

    Where the target has no mass it is e times one number of the row; where smoothing gives it some,
    float64.
    """
    high, low = centred(z, row.anchor[:, None], numbers)
    e = powers(high, low, numbers)
    rate_of_powers = (row.pull * row.weight + row.drift) * row.inverse * UNLIFT
    g = e * rate_of_powers.to(tl.float32)[:, None]
    if numbers.softcap is not None:
        slope = slope_of(z, numbers)
        g = g * slope.to(tl.float32)
    is_label = column[None, :] == label.class_[:, None]
    if numbers.smoothing is None:
        is_target = is_label & (label.weight != 0.0)[:, None]
        g = tl.where(is_target, _label_gradient(label, row, numbers)[:, None], g)
    else:
        even = tl.where(z > float("-inf"), row.share[:, None], 0.0)
        u = (number(numbers.kept) * is_label.to(tl.float64) + even) * w
        exact = _slope_in_x(
            e.to(tl.float64) * UNLIFT,
            z == row.anchor[:, None],
            u,
            row.others[:, None],
            row.inverse[:, None],
            row.weight[:, None],
            row.pull[:, None],
            row.drift[:, None],
        )
        if numbers.softcap is not None:
            exact = exact * slope
        g = tl.where(u == 0.0, g, exact.to(tl.float32))
    g = tl.where(row.bad[:, None], float("nan"), g)
    return tl.where(place.live[:, None], g, 0.0)


@triton.jit
def slopes(
    inputs,
    saved,
    cotangent,
    unit,
    limit,
    gradient,
    column_sums,
    counts,
    shape,
    first,
    blocks,
    numbers,
    ROWS: tl.constexpr,
    CLASSES: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """Write the derivative by the logits of a tile, its sum over the rows, and whether it counts.

    `first` is the block of classes that the places to write to begin with. What lies past the last
    row or the last class is written as 0. A tile that does not count is not written.
    """
    block, at = _in_bands(tl.program_id(0), shape.row_blocks, blocks)
    place, factor = _find(inputs, block * ROWS + tl.arange(0, ROWS), shape)
    label = _read_label(inputs, place, shape)
    column = (first + at) * CLASSES + tl.arange(0, CLASSES)
    z = _logits(inputs, place, column, shape, numbers, FEATURES)
    w = _weights_of_tile(inputs, column, shape)
    row = _row_of(saved, place, label, cotangent, factor, unit, numbers)
    g = _gradient_of_tile(z, w, row, label, column, place, numbers)

    if column_sums is not None:
        total = tl.sum(g, axis=0)
        if unit is not None:
            total = total * tl.load(unit).to(tl.float32)
        here = at * CLASSES + tl.arange(0, CLASSES)
        where = column_sums.pointer + block.to(tl.int64) * column_sums.row + here
        tl.store(where, total)
    if gradient is not None:
        target = _tile(gradient, place.row, at * CLASSES + tl.arange(0, CLASSES))
        value = g.to(gradient.pointer.dtype.element_ty)
        if counts is None:
            tl.store(target, value)
        else:
            # Written so that a NaN counts.
            small = tl.sum(tl.abs(g), axis=1).to(tl.float64) <= number(limit) * tl.abs(row.force)
            some = tl.max((place.live & (small == 0)).to(tl.int32), axis=0)
            tl.store(counts.pointer + block * counts.row + at * counts.column, some)
            if some != 0:
                tl.store(target, value)


@triton.jit
def product(
    a,
    b,
    before,
    out,
    unit,
    kept,
    inputs,
    shape,
    high,
    deep,
    wide,
    ROWS_RUN_DOWN: tl.constexpr,
    HIGH: tl.constexpr,
    DEEP: tl.constexpr,
    WIDE: tl.constexpr,
    OF_A_BLOCK: tl.constexpr,
):
    """Write before + unit·a·b, a tile of HIGH × WIDE, from DEEP products at a time in their order.

    `a` are derivatives by logits, which have no end: past it they are 0. Where `ROWS_RUN_DOWN` the
    result has a row for each of the rows of the call; otherwise those are summed over. Rows that
    are not looked at are not read from `b`, or are written as 0.
    """
    block, across = _in_bands(tl.program_id(0), tl.cdiv(high, HIGH), tl.cdiv(wide, WIDE))
    down = block * HIGH + tl.arange(0, HIGH)
    over = across * WIDE + tl.arange(0, WIDE)
    here = (down < high)[:, None] & (over < wide)[None, :]
    sums = tl.zeros([HIGH, WIDE], tl.float32)
    if before is not None:
        sums = tl.load(_tile(before, down, over), mask=here, other=0)
        if unit is not None:
            sums = sums * (1.0 / tl.load(unit)).to(tl.float32)
    steps = tl.cdiv(deep, DEEP)
    if kept is not None:
        steps = _read(kept.number, block, True) * (OF_A_BLOCK // DEEP)
    for step in range(steps):
        along = step * DEEP + tl.arange(0, DEEP)
        if kept is not None:
            at = step // (OF_A_BLOCK // DEEP)
            start = tl.load(kept.order.pointer + block * kept.order.row + at * kept.order.column)
            along = along + (start - at) * OF_A_BLOCK
        if ROWS_RUN_DOWN:
            there = along < deep
        else:
            place, _ = _find(inputs, along, shape)
            there = place.live
        left = tl.load(_tile(a, down, along))
        right = tl.load(
            _tile(b, along, over), mask=there[:, None] & (over < wide)[None, :], other=0
        )
        sums = _dot(left, right, sums)
    if unit is not None:
        sums = sums * tl.load(unit).to(tl.float32)
    if ROWS_RUN_DOWN:
        place, _ = _find(inputs, down, shape)
        sums = tl.where(place.live[:, None], sums, 0.0)
    tl.store(_tile(out, down, over), sums.to(out.pointer.dtype.element_ty), mask=here)
