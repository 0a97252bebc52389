"""Few classes, or classes that are not contiguous, as in (N, C, d1, …): vectors run over rows.

Blocks of rows are copied to scratch memory, class by class, computed there and written back; a
block fits the first cache.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xent.losses.kernels.numba_arithmetic import (
    compiled,
    constants_of,
    fence,
    load,
    narrow,
    size_of,
    store,
)
from xent.losses.kernels.numba_loops import (
    LANES,
    block_exponentials,
    block_losses,
    block_of_classes,
    block_of_rows,
    block_slopes,
    block_to_classes,
    block_to_rows,
    block_tops,
    scaled,
    shift_of,
)
from xent.losses.kernels.numba_rows import (
    KEPT,
    OUTSIDE,
    SKIPPED,
    TINY,
    WIDE,
    ZERO,
    Addresses,
    F,
    Layout,
    Options,
    class_weight,
    let_down,
    mass_and_bend,
    plain,
    report,
    summing,
    within,
)

__all__ = ["over_positions", "over_positions_dense", "small_mean"]

N = np.int32
NO, ZERO_INDEX = N(-1), N(0)
PLAIN = constants_of(1.0)
VECTOR = 4 * LANES
"""Bytes to a multiple of which a class is written past the caches."""


@plain
def _gather(kind, address, strides, n, m, to):
    """Copy a block that starts at an address to scratch memory."""
    if strides[2] == 1:
        block_of_classes(kind, address, strides[1], n, m, to)
    else:
        block_of_rows(kind, address, strides[1], strides[2], n, m, to)


@plain
def _scatter(kind, n, m, address, strides, streaming, w):
    """Write a block times its rows' factors, and at the target of a row its slope."""
    step, along = strides[1], strides[2]
    aligned = streaming and address % VECTOR == 0
    if along == 1:
        past = aligned and step * size_of(kind) % VECTOR == 0
        block_to_classes(kind, w.e, n, m, address, step, w.factors, w.ys, w.slopes, past)
    else:
        whole = aligned and step == 1 and along == n  # in one piece, which can go past the caches
        there = w.t if whole else address
        block_to_rows(kind, w.e, n, m, there, step, along, w.factors)
        for p in range(m):
            y = load(w.ys, p, NO)
            if y >= 0:
                store(there, p * along + y * step, narrow(load(w.slopes, p, ZERO), kind))
        if whole:
            scaled(kind, w.t, address, 0, m * n, F(1.0), True)


class Work(NamedTuple):
    """Where a block of m rows is computed: addresses of m numbers each, and of m·n."""

    # float64
    weights: int
    scaled: int  # the weight of the gradient, and then the factor of a class that is no target
    others: int
    lses: int
    masses: int
    surprise: int
    e_y: int  # the exponential at the target
    losses: int
    # float32
    tops: int
    floors: int
    magics: int
    e_tops: int
    factors: int
    slopes: int
    bends: int
    # int32
    ys: int
    states: int
    # float32, class by class
    e: int
    t: int  # the targets' masses, or a gradient on its way


@within
def _workspace(memory, m, n):
    """Return the addresses; they need 100·m + 8·n·m bytes."""
    eight, half = 8 * m, memory + 64 * m
    four, e = 4 * m, memory + 100 * m
    return Work(
        memory, memory + eight, memory + 2 * eight, memory + 3 * eight,
        memory + 4 * eight, memory + 5 * eight, memory + 6 * eight, memory + 7 * eight,
        half, half + four, half + 2 * four, half + 3 * four,
        half + 4 * four, half + 5 * four, half + 6 * four, half + 7 * four, half + 8 * four,
        e, e + n * four,
    )  # fmt: skip


@summing
def _are_wide(m, say, w):
    """Tell whether there are rows that `exp_single` will not do for."""
    wide = ZERO  # only this sum may be reassociated: what `shift_of` writes is marked otherwise
    for p in range(m):
        wide += ZERO if shift_of(load(w.tops, p, ZERO), say.constants)[1] else F(1.0)
    return wide > ZERO


@within
def _set_aside(n, m, soft, say, w):
    """Find what becomes of each row, and empty those that are not computed here."""
    for p in range(m):
        state = N(KEPT)
        if load(w.weights, p, 1.0) == 0.0:
            state = N(SKIPPED)
        elif not soft and load(w.ys, p, NO) < 0:
            state = N(OUTSIDE)
        elif not shift_of(load(w.tops, p, ZERO), say.constants)[1]:
            state = N(WIDE)
        store(w.states, p, state)
        if state != KEPT:
            store(w.ys, p, N(0))
            store(w.tops, p, ZERO)
            store(w.e_tops, p, F(1.0))
            store(w.others, p, 1.0)
            store(w.masses, p, 0.0)
            store(w.surprise, p, 0.0)
            for j in range(n):
                store(w.e, j * m + p, ZERO)


@within
def _let_down_tiny(n, m, w):
    """Keep the factors of lifted exponentials from being subnormal."""
    for p in range(m):
        factor = load(w.scaled, p, 1.0)
        if 0.0 < abs(factor) < TINY:
            store(w.factors, p, F(let_down(w.e, p, n, m, factor)))


@within
def _are_tiny(m, w):
    tiny = 0
    for p in range(m):
        tiny += 1 if 0.0 < abs(load(w.scaled, p, 1.0)) < TINY else 0
    return tiny > 0


@within
def _special_sums(m, w):
    """Correct what stands of rows that are not computed here; return the sums and the wide ones."""
    total, mass, wide = 0.0, 0.0, 0.0
    for p in range(m):
        state = load(w.states, p, NO)
        if state != KEPT:
            nothing = np.nan if state == OUTSIDE else 0.0
            store(w.losses, p, nothing)
            store(w.masses, p, nothing)
            store(w.lses, p, nothing)
            store(w.scaled, p, nothing)
            wide += 1.0 if state == WIDE else 0.0
        total += load(w.weights, p, 1.0) * load(w.losses, p, 1.0)
        mass += load(w.weights, p, 1.0) * load(w.masses, p, 1.0)
    return total, mass, wide


@within
def _first_bad(m, special, w):
    for p in range(m):
        kept = not special or load(w.states, p, NO) == KEPT
        if kept and not abs(load(w.lses, p, 1.0)) < np.inf:
            return p
    return -1


@plain
def _losses(at, say, b, first, m, special, w):
    """Make a block's losses, report them and write the block's sums."""
    total, mass = block_losses(
        m, w.weights, w.others, w.e_tops, w.tops, w.masses, w.surprise, w.losses, w.lses,
        1.0 / say.temperature, say.z_loss,
    )  # fmt: skip
    bad, wide = -1.0, 0.0
    if special:
        total, mass, wide = _special_sums(m, w)
    if np.isnan(total):
        p = _first_bad(m, special, w)
        bad = np.float64(first + p) if p >= 0 else -1.0
    if at.losses + at.logsumexp + at.mass != 0:
        for p in range(m):
            loss, own = load(w.losses, p, 1.0), load(w.masses, p, 1.0)
            report(at, first + p, loss, own, load(w.lses, p, 1.0))
    store(at.sums, 4 * b, total)
    store(at.sums, 4 * b + 1, mass)
    store(at.sums, 4 * b + 2, bad)
    store(at.sums, 4 * b + 3, wide)


@within
def _weights(at, say, first, m, w):
    """Read the rows' weights."""
    for p in range(m):
        store(w.weights, p, 1.0)
    if at.row_weight != 0:
        for p in range(m):
            store(w.weights, p, load(at.row_weight, first + p, 1.0))


@plain
def _indices(target_kind, at, o, step, n, m, say, w):
    """Read the rows' class indices, and take its weight from an ignored row.

    Returns whether there are rows that are not to be computed.
    """
    odd = 0
    for p in range(m):
        y = np.int64(load(at.targets, o + p * step, target_kind))
        weight = load(w.weights, p, 1.0)
        weight = 0.0 if (y == say.ignore_index) & say.ignores else weight
        store(w.weights, p, weight)
        inside = 0 <= y < n
        store(w.ys, p, N(y) if inside else NO)
        odd += 0 if inside and weight != 0.0 else 1
    return odd > 0


@within
def _gaps(at, m, w):
    """Read the classes' weights, and how far the logits at the indices are below the maxima."""
    for p in range(m):
        y = max(load(w.ys, p, NO), ZERO_INDEX)
        gap = np.float64(load(w.tops, p, ZERO)) - np.float64(load(w.e, y * m + p, ZERO))
        store(w.masses, p, 1.0)
        store(w.surprise, p, gap)
    if at.class_weight != 0:
        for p in range(m):
            mass = load(at.class_weight, max(load(w.ys, p, NO), ZERO_INDEX), 1.0)
            gap = load(w.surprise, p, 1.0)
            store(w.masses, p, mass)
            store(w.surprise, p, mass * gap if mass != 0.0 else 0.0)


@within
def _scaled(at, say, first, m, w):
    """Make the weights of the gradients."""
    for p in range(m):
        store(w.scaled, p, load(w.weights, p, 1.0) * say.scale)
    if at.cotangent != 0:
        for p in range(m):
            more = load(at.cotangent, first + p, 1.0)
            store(w.scaled, p, load(w.scaled, p, 1.0) * more)


@within
def _exponentials(kind, place, address, of, n, m, say, w):
    """Replace the logits of the block at a place and address by their exponentials."""
    step, along = of.logits[1], of.logits[2]
    more = m * along if place[1] + m < of.inner else of.logits[0] - place[1] * along
    following = address + more * of.itemsize
    if along != 1:  # a row is contiguous: LANES of its classes for each; else it is not asked for
        following = following if step == 1 else address
        step = np.int64(LANES)
    block_exponentials(
        kind, w.e, n, m, say.constants, w.tops, w.floors, w.magics, w.e_tops, w.others,
        following, step, along,
    )  # fmt: skip


@within
def _block(kind, target_kind, at, of, say, b, memory):
    """Compute a block of neighbouring rows for class indices."""
    n, (place, m) = of.classes, _place_of_block(of, b)
    i, k = place
    w = _workspace(memory, m, n)
    o_z = at.logits + (i * of.logits[0] + k * of.logits[2]) * of.itemsize
    _gather(kind, o_z, of.logits, n, m, w.e)
    block_tops(w.e, n, m, say.constants, w.tops, w.floors, w.magics)
    first, o = i * of.inner + k, i * of.targets[0] + k * of.targets[2]
    _weights(at, say, first, m, w)
    special = _indices(target_kind, at, o, of.targets[2], n, m, say, w)
    _scaled(at, say, first, m, w)
    _gaps(at, m, w)
    _exponentials(kind, place, o_z, of, n, m, say, w)
    special = special or _are_wide(m, say, w)
    if special:
        _set_aside(n, m, False, say, w)
    _losses(at, say, b, first, m, special, w)
    if at.gradient != 0:
        for p in range(m):
            store(w.e_y, p, np.float64(load(w.e, load(w.ys, p, NO) * m + p, ZERO)))
        block_slopes(
            m, w.scaled, w.others, w.e_tops, w.masses, w.lses, w.e_y, w.slopes, w.factors,
            1.0 / say.temperature, say.z_loss,
        )  # fmt: skip
        if _are_tiny(m, w):
            _let_down_tiny(n, m, w)
        o = at.gradient + (i * of.gradient[0] + k * of.gradient[2]) * of.itemsize
        _scatter(kind, n, m, o, of.gradient, of.streaming, w)


@within
def _place_of_block(of, b):
    """Return where a block starts, outer and inner, and how many rows it has."""
    per_outer = (of.inner + of.block - 1) // of.block
    k = b % per_outer * of.block
    return (b // per_outer, k), min(of.block, of.inner - k)


@compiled
def over_positions(kind, target_kind, at, of, say, start, stop, scratch):
    """Compute some blocks of rows for class indices; `_workspace` says what memory that needs."""
    for b in range(start, stop):
        _block(kind, target_kind, at, of, say, b, scratch)
    if of.streaming:
        fence()


# ---- dense targets -------------------------------------------------------------------------------


@plain
def _targets(target_kind, at, of, say, place, soft, m, w):
    """Write the masses of a block's targets, smoothed, as float32."""
    n, (i, k) = of.classes, place
    if soft:
        o = at.targets + (i * of.targets[0] + k * of.targets[2]) * size_of(target_kind)
        _gather(target_kind, o, of.targets, n, m, w.t)
    else:
        for j in range(n * m):
            store(w.t, j, ZERO)
        for p in range(m):
            store(w.t, max(load(w.ys, p, NO), ZERO_INDEX) * m + p, F(1.0))
    if say.smoothing != 0.0:
        for p in range(m):
            store(w.others, p, 0.0)
        for j in range(n):
            for p in range(m):
                open_ = 1.0 if load(w.e, j * m + p, ZERO) > -np.inf else 0.0
                store(w.others, p, load(w.others, p, 1.0) + open_)
        kept = F(1.0 - say.smoothing)
        for j in range(n):
            for p in range(m):
                part = F(say.smoothing / load(w.others, p, 1.0))
                part = part if load(w.e, j * m + p, ZERO) > -np.inf else ZERO
                store(w.t, j * m + p, load(w.t, j * m + p, ZERO) * kept + part)


@plain
def _surprise(at, n, m, w):
    """Make Σ t·(m − z), with 0·∞ = 0, and Σ t of each row; t is weighted by class."""
    for p in range(m):
        store(w.surprise, p, 0.0)
        store(w.masses, p, 0.0)
    for j in range(n):
        weight = class_weight(at, j)
        for p in range(m):
            share = np.float64(load(w.t, j * m + p, ZERO)) * weight
            gap = np.float64(load(w.tops, p, ZERO)) - np.float64(load(w.e, j * m + p, ZERO))
            more = 0.0 if share == 0.0 else share * gap
            store(w.surprise, p, load(w.surprise, p, 1.0) + more)
            store(w.masses, p, load(w.masses, p, 1.0) + share)


@plain
def _soft_slopes(at, say, m, n, w):
    """Replace exponentials by (p·(a − t + b) − t·(1 − p))·h, as `over_classes_dense` does.

    The factors become h, which is multiplied later; 1/Σe and the others' share take the places of
    `floors` and `magics`, what `mass_and_bend` returns those of `slopes` and `bends`.
    """
    for p in range(m):
        others = load(w.others, p, 1.0)
        whole = others + np.float64(load(w.e_tops, p, ZERO))
        a, b = mass_and_bend(at, load(w.masses, p, 1.0), load(w.lses, p, 1.0), say)
        store(w.floors, p, F(1.0 / whole))
        store(w.magics, p, F(others / whole))
        store(w.slopes, p, a)
        store(w.bends, p, b)
        store(w.factors, p, F(load(w.scaled, p, 1.0) / say.temperature))
    for j in range(n):
        weight = F(class_weight(at, j))
        for p in range(m):
            x, share = load(w.e, j * m + p, ZERO), load(w.t, j * m + p, ZERO) * weight
            q = x * load(w.floors, p, ZERO)
            rest = F(1.0) - q
            rest = load(w.magics, p, ZERO) if x == load(w.e_tops, p, ZERO) else rest
            a, b = load(w.slopes, p, ZERO), load(w.bends, p, ZERO)
            store(w.e, j * m + p, q * ((a - share) + b) - share * rest)


@within
def _are_skipped(m, w):
    odd = 0
    for p in range(m):
        odd += 1 if load(w.weights, p, 1.0) == 0.0 else 0
    return odd > 0


@within
def _dense_block(kind, target_kind, at, of, say, b, soft, memory):
    """Compute a block of neighbouring rows for dense targets."""
    n, (place, m) = of.classes, _place_of_block(of, b)
    i, k = place
    w = _workspace(memory, m, n)
    o_z = at.logits + (i * of.logits[0] + k * of.logits[2]) * of.itemsize
    _gather(kind, o_z, of.logits, n, m, w.e)
    block_tops(w.e, n, m, say.constants, w.tops, w.floors, w.magics)
    first, o = i * of.inner + k, i * of.targets[0] + k * of.targets[2]
    _weights(at, say, first, m, w)
    if soft:
        special = _are_skipped(m, w)
    else:
        special = _indices(target_kind, at, o, of.targets[2], n, m, say, w)
    _scaled(at, say, first, m, w)
    _targets(target_kind, at, of, say, place, soft, m, w)
    _surprise(at, n, m, w)
    _exponentials(kind, place, o_z, of, n, m, say, w)
    special = special or _are_wide(m, say, w)
    if special:
        _set_aside(n, m, soft, say, w)
        for p in range(m):
            for j in range(n if load(w.states, p, NO) != KEPT else 0):
                store(w.t, j * m + p, ZERO)
    _losses(at, say, b, first, m, special, w)
    if at.gradient != 0:
        _soft_slopes(at, say, m, n, w)
        for p in range(m):
            store(w.ys, p, NO)
        o = at.gradient + (i * of.gradient[0] + k * of.gradient[2]) * of.itemsize
        _scatter(kind, n, m, o, of.gradient, of.streaming, w)


@compiled
def over_positions_dense(kind, target_kind, at, of, say, start, stop, soft, scratch):
    """Compute some blocks of rows for dense targets; `_workspace` says what memory that needs."""
    for b in range(start, stop):
        _dense_block(kind, target_kind, at, of, say, b, soft, scratch)
    if of.streaming:
        fence()


# ---- small matrices ------------------------------------------------------------------------------


@compiled
def small_mean(kind, logits, targets, gradient, mean, n, classes, along, step, stride, ignored):
    """Write the mean loss of a small matrix for class indices, and its gradient; return a state.

    The same numbers as `over_positions` gives for one block; all that a call needs is done here,
    because a call from Python for each part would take longer than the parts. The strides are
    those of the logits' rows and classes, and of the targets; `ignored` is the ignored index.
    """
    kept, index = 0, np.int64(0)
    for i in range(n):
        y = load(targets, i * stride, index)
        if y == ignored:
            continue
        if not 0 <= y < classes:
            return OUTSIDE
        kept += 1
    if kept == 0:
        return SKIPPED
    memory, sums = np.empty((13 + classes) * n), np.empty(4)
    at = Addresses(logits, targets, 0, 0, 0, 0, 0, 0, gradient, sums.ctypes.data)
    of = Layout(1, classes, n, (0, step, along), (0, 0, stride), (0, 1, classes), n, 4, False)
    say = Options(True, ignored, 0.0, 1.0, 0.0, 0.0, 1.0 / kept, PLAIN)
    _block(kind, index, at, of, say, 0, memory.ctypes.data)
    memory[0] = 0.0  # alive until here
    store(mean, 0, F(sums[0] * say.scale))
    return WIDE if sums[3] > 0.0 else KEPT
