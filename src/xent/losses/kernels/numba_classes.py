"""Long rows, contiguous over classes: vectors run along a row.

Rows are computed in a pipeline. While the exponentials of one are computed, from a cache, the
maximum of the next is found, which brings that row from memory, and the gradient of the one before
is written.
"""

from __future__ import annotations

import numpy as np

from xent.losses.kernels.numba_arithmetic import (
    compiled,
    fence,
    load,
    narrow,
    size_of,
    store,
    widen,
)
from xent.losses.kernels.numba_loops import (
    CONFIDENT,
    GROUP,
    LANES,
    exp_single,
    log1p_single,
    scaled,
    shift_of,
    soft_slopes,
    soft_terms,
    sum_without,
    sweep,
    top_of,
)
from xent.losses.kernels.numba_rows import (
    BAD,
    KEPT,
    TINY,
    WIDE,
    ZERO,
    F,
    add_to_sums,
    class_weight,
    clear_sums,
    gradient_weight,
    let_down,
    mass_and_bend,
    next_row,
    place_of,
    plain,
    plain_slope,
    report,
    summing,
    within,
)

__all__ = ["over_classes", "over_classes_dense"]

WHOLE = 1 << 16
"""Classes whose exponentials are kept though no gradient is asked for: they may be summed again."""
CHUNK = 512
"""Exponentials that are kept of more classes than those; a power of two."""


@plain
def _exponentials(kind, z, start, n, shift, say, e):
    for j in range(n):
        store(e, j, exp_single(widen(load(z, start + j, kind)), shift, say.constants))


@plain
def _write(kind, e, g, start, stop, factor, past):
    scaled(kind, e, g, start, stop, factor, past)


@plain
def _place_of_top(kind, z, n, top):
    """Return the last class whose logit is the maximum."""
    place = np.int32(0)
    for j in range(np.int32(n)):
        place = max(place, np.int32(j) if widen(load(z, j, kind)) == top else np.int32(0))
    return np.int64(place)


@plain
def _others(kind, z, n, y, shift, say, top, e_top, e, whole, total):
    """Return the mass of all classes but the likeliest, given `sweep`'s sum of all.

    No digit is lost to the likeliest: where it is more than all others (and therefore stands
    alone), what has been summed with it in float32 is summed anew; where they are little beside
    it, all of them are.
    """
    most = np.float64(e_top)
    others = total - most
    if not others < most:
        return others
    if others >= CONFIDENT * most:
        j = y
        if y < 0 or widen(load(z, y, kind)) != top:
            j = _place_of_top(kind, z, n, top)
        if j >= n // GROUP * GROUP:
            return others
        # In the order of `sweep`: pairs first.
        first, rest = j // GROUP * GROUP + j % LANES, 0.0
        pairs = ZERO, ZERO
        for u in range(0, GROUP, LANES):
            x = exp_single(widen(load(z, first + u, kind)), shift, say.constants)
            pairs = (pairs[0] + x, pairs[1]) if u < GROUP // 2 else (pairs[0], pairs[1] + x)
            rest += np.float64(x) if first + u != j else 0.0
        return (total - np.float64(pairs[0] + pairs[1])) + rest
    others, count, j = 0.0, -1.0, 0
    while j < n:
        m = n if whole else min(CHUNK, n - j)
        if not whole:
            _exponentials(kind, z, j, m, shift, say, e)
        part, equal = sum_without(e, m, e_top)
        others, count, j = others + part, count + equal, j + m
    return others + count * most


@within
def _write_rest(kind, waiting, done):
    """Write what is left of a gradient that waits."""
    e, g, _, stop, factor, y, slope = waiting
    if stop > 0:
        _write(kind, e, g, done, stop, factor, True)
        store(g, y, narrow(slope, kind))


@compiled
def over_classes(kind, target_kind, at, of, say, start, stop, scratch):
    """Compute some blocks of rows for class indices; scratch memory is 8 bytes a class and 256."""
    n, size = of.classes, of.itemsize
    whole = at.gradient != 0 or n <= WHOLE
    kept = -1 if whole else CHUNK - 1
    clear_sums(at, start, stop)
    row, last = start * of.block, min(stop * of.block, of.outer * of.inner)
    row, y, weight = next_row(kind, target_kind, at, of, say, row, last, False)
    z = at.logits + place_of(of.logits, of, row) * size
    top = top_of(kind, z, n) if row < last else ZERO
    e = (scratch + 63) // 64 * 64
    spare = e + (n + 15) // 16 * 64
    nothing = (e, e, 0, 0, ZERO, 0, ZERO)
    waiting = nothing
    while row < last:
        following, y_next, weight_next = next_row(
            kind, target_kind, at, of, say, row + 1, last, False
        )
        z_next = z
        if following < last:
            z_next = at.logits + place_of(of.logits, of, following) * size
        shift, usable = shift_of(top, say.constants)
        if not usable:
            add_to_sums(at, of, row, 0.0, 0.0, WIDE)
            top = top_of(kind, z_next, n)
        else:
            total, top_next, done = sweep(
                kind, z, z_next, n, shift, say.constants, e, kept,
                waiting[0], waiting[1], waiting[2], waiting[3], waiting[4],
            )  # fmt: skip
            _write_rest(kind, waiting, done)
            waiting = nothing
            e_top = exp_single(top, shift, say.constants)
            others = _others(kind, z, n, y, shift, say, top, e_top, e, whole, total)
            most = np.float64(e_top)
            log_sum = log1p_single(others / most)
            lse = log_sum + np.float64(top) / say.temperature
            mass = class_weight(at, y)
            z_y = widen(load(z, y, kind))
            gap = np.float64(top) - np.float64(z_y)
            loss = mass * log_sum + (mass * gap if mass != 0.0 else 0.0) / say.temperature
            if say.z_loss != 0.0:
                loss += say.z_loss * mass * lse * lse
            if at.gradient != 0:
                each = gradient_weight(at, say, row, weight) / (say.temperature * (others + most))
                factor = each * mass * (1.0 + 2.0 * say.z_loss * lse)
                e_y = np.float64(exp_single(z_y, shift, say.constants))
                slope = each * plain_slope(mass, others, most, e_y, lse, say)
                if 0.0 < abs(factor) < TINY:
                    factor = let_down(e, 0, n, 1, factor)
                g = at.gradient + place_of(of.gradient, of, row) * size
                if of.streaming:
                    ahead = -g % (LANES * size) // size if g % size == 0 else n
                    _write(kind, e, g, 0, ahead, F(factor), False)
                    waiting = (e, g, ahead, n, F(factor), y, F(slope))
                    e, spare = spare, e
                else:
                    _write(kind, e, g, 0, n, F(factor), False)
                    store(g, y, narrow(F(slope), kind))
            report(at, row, loss, mass, lse)
            state = KEPT if abs(lse) < np.inf else BAD
            add_to_sums(at, of, row, weight * loss, weight * mass, state)
            top = top_next
        row, y, weight, z = following, y_next, weight_next, z_next
    _write_rest(kind, waiting, waiting[2])
    if of.streaming:
        fence()


# ---- dense targets -------------------------------------------------------------------------------


@summing
def _allowed(kind, z, n):
    """Return how many classes are not masked."""
    count = 0.0
    for j in range(n):
        count += 1.0 if widen(load(z, j, kind)) > -np.inf else 0.0
    return count


@plain
def _fill_targets(kind, target_kind, at, say, z, to, y, n, t):
    """Write the target's masses, smoothed, as float32; a class index is `y` ≥ 0."""
    if y < 0:
        for j in range(n):
            store(t, j, F(widen(load(at.targets, to + j, target_kind))))
    else:
        for j in range(n):
            store(t, j, ZERO)
        store(t, y, F(1.0))
    if say.smoothing != 0.0:
        kept = F(1.0 - say.smoothing)
        share = F(say.smoothing / _allowed(kind, z, n))
        for j in range(n):
            part = share if widen(load(z, j, kind)) > -np.inf else ZERO
            store(t, j, load(t, j, ZERO) * kept + part)


@plain
def _soft_terms(kind, z, t, n, top, weights):
    return soft_terms(kind, z, t, n, top, weights)


@plain
def _write_soft(kind, e, t, n, g, numbers, weights, past):
    soft_slopes(kind, e, t, n, g, numbers, weights, past)


@compiled
def over_classes_dense(kind, target_kind, at, of, say, start, stop, soft, scratch):
    """Compute some blocks of rows for dense targets; scratch memory is as for `over_classes`."""
    n, size = of.classes, of.itemsize
    clear_sums(at, start, stop)
    row, last = start * of.block, min(stop * of.block, of.outer * of.inner)
    row, y, weight = next_row(kind, target_kind, at, of, say, row, last, soft)
    z = at.logits + place_of(of.logits, of, row) * size
    top = top_of(kind, z, n) if row < last else ZERO
    e = (scratch + 63) // 64 * 64
    own = e + (n + 15) // 16 * 64
    while row < last:
        following, y_next, weight_next = next_row(
            kind, target_kind, at, of, say, row + 1, last, soft
        )
        z_next = z
        if following < last:
            z_next = at.logits + place_of(of.logits, of, following) * size
        shift, usable = shift_of(top, say.constants)
        if not usable:
            add_to_sums(at, of, row, 0.0, 0.0, WIDE)
            top = top_of(kind, z_next, n)
        else:
            total, top_next, _ = sweep(
                kind, z, z_next, n, shift, say.constants, e, -1, e, e, 0, 0, ZERO
            )
            e_top = exp_single(top, shift, say.constants)
            others = _others(kind, z, n, y, shift, say, top, e_top, e, True, total)
            whole = others + np.float64(e_top)
            log_sum = log1p_single(others / np.float64(e_top))
            lse = log_sum + np.float64(top) / say.temperature
            to = place_of(of.targets, of, row)
            t = at.targets + to * 4
            if not (soft and say.smoothing == 0.0 and size_of(target_kind) == 4):
                t = own
                _fill_targets(kind, target_kind, at, say, z, to, y, n, t)
            surprise, mass = _soft_terms(kind, z, t, n, top, at.class_weight)
            loss = mass * log_sum + surprise / say.temperature
            if say.z_loss != 0.0:
                loss += say.z_loss * mass * lse * lse
            if at.gradient != 0:
                g = at.gradient + place_of(of.gradient, of, row) * size
                a, b = mass_and_bend(at, mass, lse, say)
                each = F(gradient_weight(at, say, row, weight) / say.temperature)
                numbers = (e_top, F(1.0 / whole), F(others / whole), a, b, each)
                past = of.streaming and g % (LANES * size) == 0
                _write_soft(kind, e, t, n, g, numbers, at.class_weight, past)
            report(at, row, loss, mass, lse)
            state = KEPT if abs(lse) < np.inf else BAD
            add_to_sums(at, of, row, weight * loss, weight * mass, state)
            top = top_next
        row, y, weight, z = following, y_next, weight_next, z_next
    if of.streaming:
        fence()
