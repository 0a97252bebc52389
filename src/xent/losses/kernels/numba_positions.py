"""Few classes, or classes that are not contiguous, as in (N, C, d1, …): vectors run over rows.

Blocks of rows are copied to scratch memory, class by class, computed there and written back; a
block fits the first cache.
"""

from __future__ import annotations

import numpy as np

from xent.losses.kernels.numba_arithmetic import (
    compiled,
    fence,
    load,
    log1p_single,
    narrow,
    size_of,
    store,
)
from xent.losses.kernels.numba_loops import (
    block_exponentials,
    block_of_classes,
    block_of_rows,
    block_to_classes,
    block_to_rows,
    block_tops,
    shift_of,
)
from xent.losses.kernels.numba_rows import (
    CONFIDENT,
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
    gradient_weight,
    let_down,
    plain,
    plain_slope,
    report,
    row_weight,
    within,
)

__all__ = ["over_positions", "over_positions_dense", "small_mean"]

VECTOR = 32
"""Bytes to a multiple of which a class is written past the caches."""


@plain
def _gather(kind, address, strides, n, m, to):
    """Copy a block that starts at an address to scratch memory."""
    if strides[2] == 1:
        block_of_classes(kind, address, strides[1], n, m, to)
    else:
        block_of_rows(kind, address, strides[1], strides[2], n, m, to)


@plain
def _scatter(kind, e, n, m, address, strides, streaming, factors, ys, slopes):
    """Write a block times its rows' factors, and at the target of a row its slope."""
    if strides[2] == 1:
        size = size_of(kind)
        past = streaming and (address | strides[1] * size) % VECTOR == 0
        block_to_classes(
            kind, e, n, m, address, strides[1], factors.ctypes.data, ys.ctypes.data,
            slopes.ctypes.data, past,
        )  # fmt: skip
    else:
        block_to_rows(kind, e, n, m, address, strides[1], strides[2], factors.ctypes.data)
        for i in range(m):
            if ys[i] >= 0:
                store(address, i * strides[2] + ys[i] * strides[1], narrow(slopes[i], kind))


@plain
def _are_wide(tops, say, m):
    """Tell whether there are rows that `exp_single` will not do for."""
    wide = 0
    for i in range(m):
        wide += 0 if shift_of(tops[i], say.constants)[1] else 1
    return wide > 0


@plain
def _set_aside(e, n, m, soft, say, ys, weights, tops, e_tops, others, states):
    """Find what becomes of each row, and empty those that are not computed here."""
    for i in range(m):
        states[i] = KEPT
        if weights[i] == 0.0:
            states[i] = SKIPPED
        elif not (soft or ys[i] >= 0):
            states[i] = OUTSIDE
        elif not shift_of(tops[i], say.constants)[1]:
            states[i] = WIDE
        if states[i] != KEPT:
            ys[i], tops[i], e_tops[i], others[i] = 0, ZERO, F(1.0), 1.0
            for j in range(n):
                store(e, j * m + i, ZERO)


@plain
def _sum_but(e, n, m, tops, others):
    """Sum the others by themselves where they are little beside the likeliest class."""
    for i in range(m):
        top = tops[i]
        if others[i] < CONFIDENT * np.float64(top):
            total, count = 0.0, -1.0
            for j in range(n):
                x = load(e, j * m + i, ZERO)
                total += 0.0 if x == top else np.float64(x)
                count += 1.0 if x == top else 0.0
            others[i] = total + count * np.float64(top)


@plain
def _losses(say, m, others, e_tops, tops, masses, surprise, lses, losses):
    """Make losses and log-sum-exps."""
    inverse = 1.0 / say.temperature
    for i in range(m):
        log_sum = log1p_single(others[i] / np.float64(e_tops[i]))
        lse = log_sum + np.float64(tops[i]) * inverse
        losses[i] = masses[i] * (log_sum + say.z_loss * lse * lse) + surprise[i] * inverse
        lses[i] = lse


@plain
def _slopes(say, m, others, e_tops, masses, lses, e_y, scaled):
    """Make of `e_y` the gradient at a class index, of `scaled` the factor of the others."""
    inverse = 1.0 / say.temperature
    for i in range(m):
        top = np.float64(e_tops[i])
        each = scaled[i] * inverse / (others[i] + top)
        e_y[i] = each * plain_slope(masses[i], others[i], top, e_y[i], lses[i], say)
        scaled[i] = each * (masses[i] * (1.0 + 2.0 * say.z_loss * lses[i]))


@within
def _report_special(m, states, losses, masses, lses, scaled):
    """Write what becomes of rows that are not computed here; return how many are wide."""
    wide = 0.0
    for p in range(m):
        if states[p] != KEPT:
            nothing = np.nan if states[p] == OUTSIDE else 0.0
            losses[p], masses[p], lses[p], scaled[p] = nothing, nothing, nothing, nothing
            wide += 1.0 if states[p] == WIDE else 0.0
    return wide


@within
def _sums(at, first, m, states, special, weights, losses, masses, lses):
    """Report a block; return Σ w·loss, Σ w·mass and the first bad row."""
    total, total_mass, bad = 0.0, 0.0, -1.0
    for p in range(m):
        total += weights[p] * losses[p]
        total_mass += weights[p] * masses[p]
    if np.isnan(total):
        for p in range(m):
            kept = not special or states[p] == KEPT
            if kept and not abs(lses[p]) < np.inf and bad < 0.0:
                bad = np.float64(first + p)
    if at.losses + at.logsumexp + at.mass != 0:
        for p in range(m):
            report(at, first + p, losses[p], masses[p], lses[p])
    return total, total_mass, bad


@within
def _block(kind, target_kind, at, of, say, place, m, scratch, work):
    """Compute m neighbouring rows; return Σ w·loss, Σ w·mass, the first bad row, the wide ones."""
    n, (i, k), z = of.classes, place, scratch
    first = i * of.inner + k
    integers, doubles, singles = work
    ys, states = integers
    weights, scaled, others, lses, masses, surprise, e_y, losses = doubles
    tops, shifts, e_tops, factors, slopes = singles
    o = at.logits + (i * of.logits[0] + k * of.logits[2]) * of.itemsize
    _gather(kind, o, of.logits, n, m, z)
    _tops(z, n, m, say, tops, shifts)
    o = i * of.targets[0] + k * of.targets[2]
    odd = 0
    for p in range(m):
        y = np.int64(load(at.targets, o + p * of.targets[2], target_kind))
        weights[p] = row_weight(at, say, first + p, True, y)
        scaled[p] = gradient_weight(at, say, first + p, weights[p])
        inside = 0 <= y < n
        odd += weights[p] == 0.0 or not inside
        ys[p] = np.int32(y) if inside else np.int32(-1)
        y = y if inside else 0
        masses[p] = class_weight(at, y)
        e_y[p] = np.float64(load(z, y * m + p, ZERO))
    _exponentials(z, n, m, say, tops, shifts, e_tops, others)
    special = odd > 0 or _are_wide(tops, say, m)
    if special:
        _set_aside(z, n, m, False, say, ys, weights, tops, e_tops, others, states)
    for p in range(m):
        surprise[p] = masses[p] * (np.float64(tops[p]) - e_y[p]) if masses[p] != 0.0 else 0.0
        e_y[p] = np.float64(load(z, ys[p] * m + p, ZERO))
    _losses(say, m, others, e_tops, tops, masses, surprise, lses, losses)
    wide = 0.0
    if special:
        wide = _report_special(m, states, losses, masses, lses, scaled)
    total, total_mass, bad = _sums(at, first, m, states, special, weights, losses, masses, lses)
    if at.gradient != 0:
        _slopes(say, m, others, e_tops, masses, lses, e_y, scaled)
        for p in range(m):
            factor = scaled[p]
            if 0.0 < abs(factor) < TINY:
                factor = let_down(z, p, n, m, factor)
            factors[p], slopes[p] = F(factor), F(e_y[p])
        o = at.gradient + (i * of.gradient[0] + k * of.gradient[2]) * of.itemsize
        _scatter(kind, z, n, m, o, of.gradient, of.streaming, factors, ys, slopes)
    return total, total_mass, bad, wide


@plain
def _tops(z, n, m, say, tops, shifts):
    block_tops(z, n, m, say.constants, tops.ctypes.data, shifts.ctypes.data, shifts[m:].ctypes.data)


@plain
def _exponentials(z, n, m, say, tops, shifts, e_tops, others):
    """Replace logits by exponentials, and find the mass of all classes but the likeliest."""
    block_exponentials(
        z, n, m, say.constants, tops.ctypes.data, shifts.ctypes.data, shifts[m:].ctypes.data,
        e_tops.ctypes.data, others.ctypes.data,
    )  # fmt: skip
    sure = 0
    for i in range(m):
        sure += others[i] < CONFIDENT * np.float64(e_tops[i])
    if sure > 0:
        _sum_but(z, n, m, e_tops, others)


@within
def _workspace(m):
    """Return the arrays that a block of m rows is computed in."""
    integers = np.empty(m, np.int32), np.empty(m, np.int32)
    doubles = (
        np.empty(m), np.empty(m), np.empty(m), np.empty(m),
        np.empty(m), np.empty(m), np.empty(m), np.empty(m),
    )  # fmt: skip
    singles = (
        np.empty(m, np.float32), np.empty(2 * m, np.float32), np.empty(m, np.float32),
        np.empty(m, np.float32), np.empty(m, np.float32),
    )  # fmt: skip
    return integers, doubles, singles


@within
def _place_of_block(of, b):
    """Return where a block starts, outer and inner, and how many rows it has."""
    per_outer = (of.inner + of.block - 1) // of.block
    k = b % per_outer * of.block
    return (b // per_outer, k), min(of.block, of.inner - k)


@within
def _set_sums(at, b, sums):
    for i in range(4):
        store(at.sums, 4 * b + i, sums[i])


@compiled
def over_positions(kind, target_kind, at, of, say, start, stop, scratch):
    """Compute some blocks of rows for class indices; scratch memory is 4 bytes an element."""
    work = _workspace(of.block)
    for b in range(start, stop):
        place, m = _place_of_block(of, b)
        _set_sums(at, b, _block(kind, target_kind, at, of, say, place, m, scratch, work))
    if of.streaming:
        fence()


# ---- dense targets -------------------------------------------------------------------------------


@plain
def _targets(target_kind, at, of, say, place, ys, soft, m, z, t, counts):
    """Write the masses of a block's targets, smoothed, as float32."""
    n, (i, k) = of.classes, place
    if soft:
        size = size_of(target_kind)
        o = at.targets + (i * of.targets[0] + k * of.targets[2]) * size
        _gather(target_kind, o, of.targets, n, m, t)
    else:
        for j in range(n * m):
            store(t, j, ZERO)
        for p in range(m):
            store(t, max(ys[p], 0) * m + p, F(1.0))
    if say.smoothing != 0.0:
        counts[:m] = 0.0
        for j in range(n):
            for p in range(m):
                counts[p] += 1.0 if load(z, j * m + p, ZERO) > -np.inf else 0.0
        kept = F(1.0 - say.smoothing)
        for j in range(n):
            for p in range(m):
                part = F(say.smoothing / counts[p])
                part = part if load(z, j * m + p, ZERO) > -np.inf else ZERO
                store(t, j * m + p, load(t, j * m + p, ZERO) * kept + part)


@plain
def _surprise(at, z, t, tops, n, m, surprise, mass):
    """Make Σ t·(m − z), with 0·∞ = 0, and Σ t of each row; t is weighted by class."""
    surprise[:m] = 0.0
    mass[:m] = 0.0
    for j in range(n):
        weight = class_weight(at, j)
        for i in range(m):
            share = np.float64(load(t, j * m + i, ZERO)) * weight
            gap = np.float64(tops[i]) - np.float64(load(z, j * m + i, ZERO))
            surprise[i] += 0.0 if share == 0.0 else share * gap
            mass[i] += share


@plain
def _soft_slopes(at, e, t, say, m, n, e_tops, others, lses, masses, scaled):
    """Replace exponentials by (p·(a − t) − t·(1 − p))·h, as `over_classes_dense` does."""
    inverse, rests = np.empty(m, np.float32), np.empty(m, np.float32)
    slopes, weights = np.empty(m, np.float32), np.empty(m, np.float32)
    for i in range(m):
        whole = others[i] + np.float64(e_tops[i])
        inverse[i], rests[i] = F(1.0 / whole), F(others[i] / whole)
        slopes[i] = F(masses[i] * (1.0 + 2.0 * say.z_loss * lses[i]))
        weights[i] = F(scaled[i] / say.temperature)
    for j in range(n):
        weight = F(class_weight(at, j))
        for i in range(m):
            x, share = load(e, j * m + i, ZERO), load(t, j * m + i, ZERO) * weight
            p = x * inverse[i]
            rest = rests[i] if x == e_tops[i] else F(1.0) - p
            store(e, j * m + i, (p * (slopes[i] - share) - share * rest) * weights[i])


@within
def _dense_block(kind, target_kind, at, of, say, place, m, soft, scratch, work):
    """Do what `_block` does."""
    n, (i, k), z, t = of.classes, place, scratch, scratch + 4 * of.classes * m
    first = i * of.inner + k
    integers, doubles, singles = work
    ys, states = integers
    weights, scaled, others, lses, masses, surprise, _, losses = doubles
    tops, shifts, e_tops, factors, slopes = singles
    o = at.logits + (i * of.logits[0] + k * of.logits[2]) * of.itemsize
    _gather(kind, o, of.logits, n, m, z)
    _tops(z, n, m, say, tops, shifts)
    o = i * of.targets[0] + k * of.targets[2]
    odd = 0
    for p in range(m):
        y = np.int64(0)
        if not soft:
            y = np.int64(load(at.targets, o + p * of.targets[2], target_kind))
        weights[p] = row_weight(at, say, first + p, not soft, y)
        scaled[p] = gradient_weight(at, say, first + p, weights[p])
        inside = 0 <= y < n
        odd += weights[p] == 0.0 or not inside
        ys[p] = np.int32(y) if inside else np.int32(-1)
    _targets(target_kind, at, of, say, place, ys, soft, m, z, t, others)
    _surprise(at, z, t, tops, n, m, surprise, masses)
    _exponentials(z, n, m, say, tops, shifts, e_tops, others)
    special = odd > 0 or _are_wide(tops, say, m)
    if special:
        _set_aside(z, n, m, soft, say, ys, weights, tops, e_tops, others, states)
        for p in range(m):
            if states[p] != KEPT:
                masses[p], surprise[p] = 0.0, 0.0
                for j in range(n):
                    store(t, j * m + p, ZERO)
    _losses(say, m, others, e_tops, tops, masses, surprise, lses, losses)
    wide = 0.0
    if special:
        wide = _report_special(m, states, losses, masses, lses, scaled)
    total, total_mass, bad = _sums(at, first, m, states, special, weights, losses, masses, lses)
    if at.gradient != 0:
        _soft_slopes(at, z, t, say, m, n, e_tops, others, lses, masses, scaled)
        factors[:m] = F(1.0)
        ys[:m] = np.int32(-1)
        o = at.gradient + (i * of.gradient[0] + k * of.gradient[2]) * of.itemsize
        _scatter(kind, z, n, m, o, of.gradient, of.streaming, factors, ys, slopes)
    return total, total_mass, bad, wide


@compiled
def over_positions_dense(kind, target_kind, at, of, say, start, stop, soft, scratch):
    """Compute some blocks of rows for dense targets; scratch memory is 8 bytes an element."""
    work = _workspace(of.block)
    for b in range(start, stop):
        place, m = _place_of_block(of, b)
        sums = _dense_block(kind, target_kind, at, of, say, place, m, soft, scratch, work)
        _set_sums(at, b, sums)
    if of.streaming:
        fence()


# ---- small matrices ------------------------------------------------------------------------------


@compiled
def small_mean(kind, logits, targets, gradient, mean, shape, strides, ignore_index, say):
    """Write the mean loss of a small matrix for class indices, and its gradient; return a state.

    The same numbers as `over_positions` gives for one block; all that a call needs is done here,
    because a call from Python for each part would take longer than the parts.
    """
    n, classes = shape
    kept, index = 0, np.int64(0)
    for i in range(n):
        y = load(targets, i * strides[2], index)
        if y == ignore_index:
            continue
        if not 0 <= y < classes:
            return OUTSIDE
        kept += 1
    if kept == 0:
        return SKIPPED
    memory = np.empty(classes * n, np.float32)
    at = Addresses(logits, targets, 0, 0, 0, 0, 0, 0, gradient, 0)
    of = Layout(
        1, classes, n, (0, strides[1], strides[0]), (0, 0, strides[2]), (0, 1, classes), n, 4, False
    )
    scale = 1.0 / kept
    own = Options(True, ignore_index, 0.0, 1.0, 0.0, 0.0, scale, say.constants)
    total, _, _, wide = _block(
        kind, index, at, of, own, (0, 0), n, memory.ctypes.data, _workspace(n)
    )
    memory[0] = ZERO  # alive until here
    store(mean, 0, F(total * scale))
    return WIDE if wide > 0.0 else KEPT
