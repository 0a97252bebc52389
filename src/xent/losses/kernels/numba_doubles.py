"""Rows in float64, one by one, as the definition computes them.

For float64 logits and softcaps; and for those rows of the other forms whose logits are beyond the
exponent arithmetic of float32.
"""

from __future__ import annotations

import numpy as np

from xent.losses.kernels.numba_arithmetic import (
    compiled,
    exp_double,
    fma,
    load,
    log1p_double,
    narrow,
    store,
    widen,
)
from xent.losses.kernels.numba_loops import shift_of
from xent.losses.kernels.numba_rows import (
    BAD,
    KEPT,
    F,
    add_to_sums,
    class_weight,
    clear_sums,
    gradient_weight,
    next_row,
    place_of,
    report,
    within,
)

__all__ = ["one_by_one"]


@within
def _is_wide(kind, at, of, say, row):
    """Tell whether the other forms leave a row to this one."""
    o, top = place_of(of.logits, of, row), F(-np.inf)
    for j in range(of.classes):
        x = F(widen(load(at.logits, o + j * of.logits[1], kind)))
        top = x if x > top else top  # NaN is passed over, as they do
    return not shift_of(top, say.constants)[1]


@within
def _row_one_by_one(kind, target_kind, at, of, say, row, y, soft, weight, scratch):
    """Compute one row in float64, as the definition does; return what the other forms do."""
    n, step = of.classes, of.logits[1]
    o, into = place_of(of.logits, of, row), place_of(of.targets, of, row)
    x, low, e, t = scratch, scratch + 8 * n, scratch + 16 * n, scratch + 24 * n
    top, likeliest, allowed = -np.inf, 0, 0
    for j in range(n):
        v = np.float64(widen(load(at.logits, o + j * step, kind)))
        if say.softcap != 0.0 and v != -np.inf:
            v = say.softcap * np.tanh(v / say.softcap)
        store(x, j, v)
        if v > top or (np.isnan(v) and not np.isnan(top)):
            top, likeliest = v, j
        allowed += v > -np.inf
    for j in range(n):
        v = load(x, j, 1.0)
        d = v - top
        back = d - v
        lost = (v - (d - back)) + (-top - back)  # TwoSum: what the difference lost
        q = d / say.temperature
        lost = (fma(-q, say.temperature, d) + lost) / say.temperature
        store(x, j, q)
        store(low, j, lost if abs(lost) < np.inf else 0.0)
    for j in range(n):
        store(e, j, exp_double(load(x, j, 1.0)) * (1.0 + load(low, j, 1.0)))
    others, mass, surprise = 0.0, 0.0, 0.0
    for j in range(n):
        others += load(e, j, 1.0) if j != likeliest else 0.0
        share = 0.0
        if soft:
            share = np.float64(widen(load(at.targets, into + j * of.targets[1], target_kind)))
        elif j == y:
            share = 1.0
        if say.smoothing != 0.0:
            part = say.smoothing / allowed if load(x, j, 1.0) > -np.inf else 0.0
            share = share * (1.0 - say.smoothing) + part
        share *= class_weight(at, j)
        store(t, j, share)
        mass += share
        if share != 0.0:
            surprise -= share * (load(x, j, 1.0) + load(low, j, 1.0))
    log_sum = log1p_double(others)
    lse = log_sum + top / say.temperature
    loss = mass * log_sum + surprise + say.z_loss * mass * lse * lse
    wrong = not abs(lse) < np.inf
    if wrong:  # also for a logit of +∞, from which finite numbers could come
        loss, others = np.nan, np.nan
    if at.gradient != 0:
        scaled = gradient_weight(at, say, row, weight) / say.temperature
        og, whole = place_of(of.gradient, of, row), 1.0 + others
        for j in range(n):
            v, share = load(e, j, 1.0), load(t, j, 1.0)
            p, rest = v / whole, ((1.0 - v) + others) / whole
            if j == likeliest:
                p, rest = 1.0 / whole, others / whole
            slope = p * (mass - share) - share * rest + 2.0 * say.z_loss * mass * lse * p
            if say.softcap != 0.0:
                v = np.float64(widen(load(at.logits, o + j * step, kind)))
                slope *= 1.0 / np.cosh(v / say.softcap) ** 2 if v != -np.inf else 1.0
            store(at.gradient, og + j * of.gradient[1], narrow(scaled * slope, kind))
    report(at, row, loss, mass, lse)
    return loss, mass, BAD if wrong else KEPT


@compiled
def one_by_one(kind, target_kind, at, of, say, start, stop, soft, scratch, only_wide):
    """Compute some blocks of rows in float64, or those rows of them that are wide.

    Scratch memory is 32 bytes a class.
    """
    clear_sums(at, start, stop)
    row, last = start * of.block, min(stop * of.block, of.outer * of.inner)
    while row < last:
        row, y, weight = next_row(kind, target_kind, at, of, say, row, last, soft)
        if row < last and not (only_wide and not _is_wide(kind, at, of, say, row)):
            loss, mass, state = _row_one_by_one(
                kind, target_kind, at, of, say, row, y, soft, weight, scratch
            )
            add_to_sums(at, of, row, weight * loss, weight * mass, state)
        row += 1
