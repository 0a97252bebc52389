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
    LANES,
    exp_single,
    log1p_single,
    scaled,
    shift_of,
    soft_slopes,
    soft_terms,
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

MANY, MANY_MORE = 256, 2048
"""Classes from which writing past the caches pays, where rows begin with a whole vector or not."""
ORDINARY = 2.0**-120
"""Numbers above it, and below its inverse, have all digits of float32."""


@plain
def _write(kind, e, g, start, stop, factor, past):
    scaled(kind, e, g, start, stop, factor, past)


@within
def _goes_past(at, of):
    """Tell whether gradients are to be written past the caches.

    Vectors pass them whole. What a row has before its first whole vector and after its last does
    not pass, and is waited for if the rest of its line has passed.
    """
    whole = at.gradient % (LANES * of.itemsize) == 0
    whole &= of.outer == 1 or of.gradient[0] % LANES == 0
    whole &= of.inner == 1 or of.gradient[2] % LANES == 0
    return of.streaming and of.classes >= (MANY if whole else MANY_MORE)


@within
def _write_rest(kind, waiting, done, past):
    """Write what is left of a gradient that waits, and the slope at the target unless y is −1."""
    e, g, _, stop, factor, y, slope = waiting
    if stop > 0:
        _write(kind, e, g, done, stop, factor, past)
        if y >= 0:
            store(g, y, narrow(slope, kind))


@compiled
def over_classes(kind, target_kind, at, of, say, start, stop, scratch):
    """Compute some blocks of rows for class indices; scratch memory is 8 bytes a class and 256."""
    n, size = of.classes, of.itemsize
    clear_sums(at, start, stop)
    row, last = start * of.block, min(stop * of.block, of.outer * of.inner)
    row, y, weight = next_row(kind, target_kind, at, of, say, row, last, False)
    z = at.logits + place_of(of.logits, of, row) * size
    top = top_of(kind, z, n) if row < last else ZERO
    e = (scratch + 63) // 64 * 64
    spare = e + (n + 15) // 16 * 64
    streaming = _goes_past(at, of)
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
            rest, times, top_next, done = sweep(
                kind, z, z_next, n, shift, say.constants, top, e,
                waiting[0], waiting[1], waiting[2], waiting[3], waiting[4],
            )  # fmt: skip
            _write_rest(kind, waiting, done, True)
            waiting = nothing
            most = np.float64(exp_single(top, shift, say.constants))
            others = rest + (times - 1) * most
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
                late, stand_in = y, slope / np.float64(F(factor))
                if ORDINARY < abs(stand_in) < 1.0 / ORDINARY:
                    # It is written with the others: a store by itself would wait for a line
                    # that has just passed the caches.
                    store(e, y, F(stand_in))
                    late = -1
                if streaming:
                    ahead = -g % (LANES * size) // size if g % size == 0 else n
                    _write(kind, e, g, 0, ahead, F(factor), False)
                    waiting = (e, g, ahead, n, F(factor), late, F(slope))
                    e, spare = spare, e
                else:
                    _write_rest(kind, (e, g, 0, n, F(factor), late, F(slope)), 0, False)
            report(at, row, loss, mass, lse)
            state = KEPT if abs(lse) < np.inf else BAD
            add_to_sums(at, of, row, weight * loss, weight * mass, state)
            top = top_next
        row, y, weight, z = following, y_next, weight_next, z_next
    _write_rest(kind, waiting, waiting[2], True)
    if streaming:
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
    streaming = _goes_past(at, of)
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
            rest, times, top_next, _ = sweep(
                kind, z, z_next, n, shift, say.constants, top, e, e, e, 0, 0, ZERO
            )
            e_top = exp_single(top, shift, say.constants)
            others = rest + (times - 1) * np.float64(e_top)
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
                past = streaming and g % (LANES * size) == 0
                _write_soft(kind, e, t, n, g, numbers, at.class_weight, past)
            report(at, row, loss, mass, lse)
            state = KEPT if abs(lse) < np.inf else BAD
            add_to_sums(at, of, row, weight * loss, weight * mass, state)
            top = top_next
        row, y, weight, z = following, y_next, weight_next, z_next
    if streaming:
        fence()
