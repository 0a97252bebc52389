"""Softmax cross-entropy on CPUs: each row is read once from memory, its gradient written once.

Three compiled functions compute blocks of rows: losses, log-sum-exps, gradients, whichever have
an address. Layout and options alone decide which, so that the bits of a row depend on that row:

* `over_classes`: long rows, contiguous over classes. Vectors run along a row, which stays in the
  cache between its maximum, its exponentials and its gradient.
* `over_positions`: few classes, or classes that are not contiguous, as in (N, C, d1, …). Vectors
  run over rows; a block of them is gathered, computed and scattered.
* `one_by_one`: float64 logits and softcaps, in float64; also any row of the other two whose
  logits are beyond the exponent arithmetic of float32, which those call wide.

The formulas are the definition's: L = W·log1p(others) + Σ t·(m − z)/T, where the others' mass is
never a difference that cancels; sums over classes are float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from xent.losses.kernels.numba_arithmetic import (
    MAGIC,
    bits_of,
    compiled,
    exp_double,
    exp_single,
    fence,
    fma,
    from_key,
    key_of,
    load,
    log1p_double,
    log1p_single,
    narrow,
    prefetch,
    store,
    stream,
    transpose,
    widen,
)

__all__ = [
    "Addresses",
    "Layout",
    "Options",
    "one_by_one",
    "over_classes",
    "over_positions",
    "small_mean",
    "totals",
    "weigh_targets",
]

CHUNK = 512
"""Classes whose exponentials are summed while they are in the first cache."""
F, N = np.float32, np.int32
ZERO = F(0.0)
AHEAD = 2
"""Classes between what is read and what is asked for."""
LARGEST = F(2.0**18)
"""Powers of two from which float32 has too few digits left for the fraction of an exponent."""
CONFIDENT = 2.0**-16
"""The others' share under which their mass is summed by itself."""
LIFT = F(64.0)
"""Powers of two by which exponentials are raised, so that what is tiny beside the likeliest class
keeps its digits: a subnormal loss, a normal gradient under a large weight."""
TINY, DOWN = 2.0**-100, F(2.0**-64)
"""A factor of lifted exponentials that could be subnormal; they are first let down by the other."""

KEPT, SKIPPED, OUTSIDE, WIDE, BAD = range(5)
"""What becomes of a row: computed; not looked at; its target is out of range; left to
`one_by_one`; its logits are NaN, +∞ or all −∞."""

LINE = 64
bare = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
plain = njit(**bare)
within = njit(**bare, inline="always")
"""For functions that are part of a larger one, which would be compiled twice by themselves."""
summing = njit(**bare, fastmath={"reassoc"})
"""For sums in any order; such a function calls nothing that must keep its own."""


class Addresses(NamedTuple):
    """Where arrays stand; 0 for one that is not there. Vectors are contiguous over rows."""

    logits: int
    targets: int
    class_weight: int  # float64 (classes,)
    row_weight: int  # float64 (rows,)
    cotangent: int  # float64 (rows,)
    losses: int  # float64 (rows,)
    logsumexp: int  # float64 (rows,)
    mass: int  # float64 (rows,)
    gradient: int
    sums: int  # float64 (blocks, 4): Σ weight·loss, Σ weight·mass, first bad row or −1, wide rows


class Layout(NamedTuple):
    """Shape, and strides in elements (outer, classes, inner)."""

    outer: int
    classes: int
    inner: int
    logits: tuple[int, ...]
    targets: tuple[int, ...]
    gradient: tuple[int, ...]
    block: int  # rows of a block
    itemsize: int  # of the logits
    streaming: bool  # is the gradient larger than caches?


class Options(NamedTuple):
    """The numbers of a call."""

    ignores: bool
    ignore_index: int
    smoothing: float
    temperature: float
    softcap: float  # 0 for none
    z_loss: float
    scale: float  # of the gradient
    high: np.float32  # temperature·log 2 …
    low: np.float32  # … and what float32 leaves of it
    periods: np.float32  # 1/(temperature·log 2)
    inverse: np.float32  # 1/temperature


# ---- what the forms share ------------------------------------------------------------------------


@within
def _row_weight(at, say, row, hard, target):
    """Return the weight of a row, 0 for one that is not to be looked at."""
    if hard and say.ignores and target == say.ignore_index:
        return 0.0
    return load(at.row_weight, row, 1.0) if at.row_weight != 0 else 1.0


@within
def _gradient_weight(at, say, row, weight):
    scaled = weight * say.scale
    return scaled * load(at.cotangent, row, 1.0) if at.cotangent != 0 else scaled


@plain
def _class_weight(at, j):
    return load(at.class_weight, j, 1.0) if at.class_weight != 0 else 1.0


@within
def _report(at, row, loss, mass, lse):
    if at.losses != 0:
        store(at.losses, row, loss)
    if at.logsumexp != 0:
        store(at.logsumexp, row, lse)
    if at.mass != 0:
        store(at.mass, row, mass)


@plain
def _constants(top, say):
    """Return what `exp_single` wants to know of a row with that maximum, and if it will do."""
    biased = fma(top, say.periods, MAGIC)
    turns = biased - MAGIC
    usable = abs(turns) < LARGEST  # false for NaN
    floor = (turns - (F(127.25) + LIFT)) * say.high
    base = N(bits_of(biased) - (N(127) + N(LIFT)))
    return (floor, say.periods, say.high, say.low, say.inverse, base), usable


@plain
def _let_down(e, o, n, step, factor):
    """Divide lifted exponentials by a power of two, and multiply their factor by it."""
    for j in range(n):
        store(e, o + j * step, load(e, o + j * step, ZERO) * DOWN)
    return factor / np.float64(DOWN)


@plain
def _plain_slope(mass, others, top, e_y, lse, say):
    """Return ∂L/∂z·T·Σe at a class index of mass W: minus the others' mass, and the z-loss."""
    rest = others if e_y == top else (others + top) - e_y
    return mass * (2.0 * say.z_loss * lse * e_y - rest)


# ---- along the classes of a row ------------------------------------------------------------------


@plain
def _max_key(kind, z, o, n):
    key = N(-(2**31))
    for j in range(n):
        key = max(key, key_of(widen(load(z, o + j, kind))))
    return key


@plain
def _exponentials(kind, z, o, n, c, e, to):
    for j in range(n):
        store(e, to + j, exp_single(widen(load(z, o + j, kind)), c))


@summing
def _sum(e, o, n):
    total = 0.0
    for j in range(n):
        total += np.float64(load(e, o + j, ZERO))
    return total


@summing
def _sum_but(e, o, n, top):
    """Return the sum of what is not the largest, and how often that is there."""
    total, count = 0.0, 0.0
    for j in range(n):
        x = load(e, o + j, ZERO)
        total += 0.0 if x == top else np.float64(x)
        count += 1.0 if x == top else 0.0
    return total, count


@plain
def _others(kind, z, o, n, c, top, e, whole, ahead, streaming, waiting):
    """Return the mass of all classes but the likeliest; `e` keeps the row if it is `whole`.

    The gradient that waits is written part by part between the exponentials, so that memory and
    arithmetic are busy at the same time.
    """
    total, j, done = 0.0, 0, 0
    while j < n:
        m, to = min(CHUNK, n - j), j if whole else 0
        for line in range(0, m * ahead, LINE):  # the next row, while this one is computed
            prefetch(z + (o + n + j) * ahead + line)
        _exponentials(kind, z, o + j, m, c, e, to)
        total += _sum(e, to, m)
        j += m
        done = _write_waiting(kind, n, j, done, streaming, waiting)
    others = total - np.float64(top)
    if not others < CONFIDENT * np.float64(top):
        return others
    total, count, j = 0.0, 0.0, 0
    while j < n:
        m, to = min(CHUNK, n - j), j if whole else 0
        _exponentials(kind, z, o + j, m, c, e, to)
        part, equal = _sum_but(e, to, m, top)
        total, count, j = total + part, count + equal, j + m
    return total + (count - 1.0) * np.float64(top)


@summing
def _allowed(kind, z, o, n):
    """Return how many classes are not masked."""
    count = 0.0
    for j in range(n):
        count += 1.0 if widen(load(z, o + j, kind)) > -np.inf else 0.0
    return count


@plain
def _fill_targets(kind, target_kind, at, say, z, o, to, y, n, t):
    """Write the target's masses, smoothed, as float32; a class index is `y` ≥ 0."""
    for j in range(n):
        store(t, j, ZERO)
    if y < 0:
        for j in range(n):
            store(t, j, F(widen(load(at.targets, to + j, target_kind))))
    else:
        store(t, y, F(1.0))
    if say.smoothing != 0.0:
        kept = F(1.0 - say.smoothing)
        share = F(say.smoothing / _allowed(kind, z, o, n))
        for j in range(n):
            part = share if widen(load(z, o + j, kind)) > -np.inf else ZERO
            store(t, j, load(t, j, ZERO) * kept + part)


@summing
def _surprise(kind, at, z, o, n, t, top):
    """Return Σ t·(m − z), with 0·∞ = 0, and Σ t; t is weighted by class."""
    total, mass = 0.0, 0.0
    for j in range(n):
        share = np.float64(load(t, j, ZERO)) * _class_weight(at, j)
        gap = np.float64(top) - np.float64(widen(load(z, o + j, kind)))
        total += 0.0 if share == 0.0 else share * gap
        mass += share
    return total, mass


@plain
def _write_scaled(kind, e, g, o, start, stop, factor, streaming):
    """Write numbers from `start` to `stop` times a factor."""
    if streaming:
        to = g + 4 * o
        while start < stop and (to + 4 * start) % 32 != 0:
            store(to, start, load(e, start, ZERO) * factor)
            start += 1
        while start + 8 <= stop:
            stream(e, to, start, factor)
            start += 8
    for j in range(start, stop):
        store(g, o + j, narrow(load(e, j, ZERO) * factor, kind))


@within
def _write_waiting(kind, n, upto, done, streaming, waiting):
    """Write the waiting gradient of n classes a little beyond `upto`; return how far it got."""
    e, g, o, y, factor, slope = waiting
    if y < 0 or done == n:
        return done
    stop = n
    if upto < n:  # whole cache lines
        stop = min(n, upto + (-(g + o * 4) % LINE) // 4)
    _write_scaled(kind, e, g, o, done, stop, factor, streaming)
    if stop == n:
        store(g, o + y, narrow(slope, kind))
    return stop


@plain
def _write_soft(kind, at, e, t, g, o, n, parts):
    """Write (p·(a − t) − t·(1 − p))·h, where 1 − p of the likeliest is the others' share."""
    top, inverse, others, a, h = parts
    for j in range(n):
        x, share = load(e, j, ZERO), load(t, j, ZERO) * F(_class_weight(at, j))
        p = x * inverse
        rest = others if x == top else F(1.0) - p
        store(g, o + j, narrow((p * (a - share) - share * rest) * h, kind))


@within
def _row_over_classes(kind, target_kind, at, of, say, row, y, soft, weight, scratch, waiting):
    """Compute one long row; return its loss and mass, its state, and the gradient that waits."""
    n, z, g, (i, k) = of.classes, at.logits, at.gradient, (row // of.inner, row % of.inner)
    o = i * of.logits[0] + k * of.logits[2]
    og = i * of.gradient[0] + k * of.gradient[2]
    scaled = _gradient_weight(at, say, row, weight)
    top = F(from_key(_max_key(kind, z, o, n)))
    dense = soft or say.smoothing != 0.0
    c, usable = _constants(top, say)
    if not usable:
        return 0.0, 0.0, WIDE, waiting
    # Two rows of exponentials take turns; the targets' masses are third.
    e, t = scratch + (0 if waiting[0] != scratch else 4 * n), scratch + 8 * n
    e_top = exp_single(top, c)
    others = _others(kind, z, o, n, c, e_top, e, g != 0, of.itemsize, of.streaming, waiting)
    waiting = (e, g, og, -1, ZERO, ZERO)
    most = np.float64(e_top)
    log_sum = log1p_single(others / most)
    lse = log_sum + np.float64(top) / say.temperature
    whole = others + most
    scaled = scaled / say.temperature
    if dense:
        _fill_targets(kind, target_kind, at, say, z, o, _target(of, i, k), y, n, t)
        surprise, mass = _surprise(kind, at, z, o, n, t, top)
        loss = mass * log_sum + surprise / say.temperature
        if g != 0:
            slope = F(mass * (1.0 + 2.0 * say.z_loss * lse))
            parts = (e_top, F(1.0 / whole), F(others / whole), slope, F(scaled))
            _write_soft(kind, at, e, t, g, og, n, parts)
    else:
        mass = _class_weight(at, y)
        z_y = widen(load(z, o + y, kind))
        gap = np.float64(top) - np.float64(z_y)
        loss = mass * log_sum + (mass * gap if mass != 0.0 else 0.0) / say.temperature
        if g != 0:
            factor = scaled * mass * (1.0 + 2.0 * say.z_loss * lse) / whole
            e_y = np.float64(exp_single(z_y, c))
            slope = scaled / whole * _plain_slope(mass, others, most, e_y, lse, say)
            if 0.0 < abs(factor) < TINY:
                factor = _let_down(e, 0, n, 1, factor)
            waiting = (e, g, og, y, F(factor), F(slope))
    if say.z_loss != 0.0:
        loss += say.z_loss * mass * lse * lse
    _report(at, row, loss, mass, lse)
    return loss, mass, KEPT if abs(lse) < np.inf else BAD, waiting


# ---- one row in float64 --------------------------------------------------------------------------


@within
def _row_one_by_one(kind, target_kind, at, of, say, place, y, soft, weight, scratch):
    """Compute one row in float64, as the definition does; return what the other forms do."""
    i, k = place
    row, n = i * of.inner + k, of.classes
    o, step = i * of.logits[0] + k * of.logits[2], of.logits[1]
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
            share = np.float64(
                widen(load(at.targets, _target(of, i, k) + j * of.targets[1], target_kind))
            )
        elif j == y:
            share = 1.0
        if say.smoothing != 0.0:
            part = say.smoothing / allowed if load(x, j, 1.0) > -np.inf else 0.0
            share = share * (1.0 - say.smoothing) + part
        share *= _class_weight(at, j)
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
        scaled = _gradient_weight(at, say, row, weight) / say.temperature
        og, whole = i * of.gradient[0] + k * of.gradient[2], 1.0 + others
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
    _report(at, row, loss, mass, lse)
    return loss, mass, BAD if wrong else KEPT


@within
def _target(of, i, k):
    return i * of.targets[0] + k * of.targets[2]


# ---- over the positions of a block ---------------------------------------------------------------


@plain
def _gather(kind, address, o, strides, n, m, to, size):
    """Copy n classes of m positions to float32, positions next to each other."""
    step, along = strides[1], strides[2]
    if along == 1:
        for j in range(n):
            for line in range(0, m * size, LINE):
                prefetch(address + (o + (j + AHEAD) * step) * size + line)
            for i in range(m):
                store(to, j * m + i, F(widen(load(address, o + j * step + i, kind))))
        return
    j = 0
    while step == 1 and j + 8 <= n:
        i = 0
        while i + 8 <= m:
            transpose(kind, address, o + i * along + j, along, ZERO, to, j * m + i, m)
            i += 8
        for k in range(i, m):
            for c in range(j, j + 8):
                store(to, c * m + k, F(widen(load(address, o + c + k * along, kind))))
        j += 8
    for c in range(j, n):
        for i in range(m):
            store(to, c * m + i, F(widen(load(address, o + c * step + i * along, kind))))


@plain
def _scatter(kind, source, n, m, address, o, strides, streaming):
    """Copy them back, rounded."""
    step, along = strides[1], strides[2]
    if along == 1:
        for j in range(n):
            _write_scaled(kind, source + 4 * j * m, address, o + j * step, 0, m, F(1.0), streaming)
        return
    j = 0
    while step == 1 and j + 8 <= n:
        i = 0
        while i + 8 <= m:
            transpose(ZERO, source, j * m + i, m, kind, address, o + i * along + j, along)
            i += 8
        for k in range(i, m):
            for c in range(j, j + 8):
                store(address, o + c + k * along, narrow(load(source, c * m + k, ZERO), kind))
        j += 8
    for c in range(j, n):
        for i in range(m):
            value = load(source, c * m + i, ZERO)
            store(address, o + c * step + i * along, narrow(value, kind))


@plain
def _tops(z, n, m, keys):
    for i in range(m):
        keys[i] = key_of(load(z, i, ZERO))
    for j in range(1, n):
        for i in range(m):
            keys[i] = max(keys[i], key_of(load(z, j * m + i, ZERO)))


@summing
def _shifts(keys, say, m, tops, floors, bases):
    """Do what `_constants` does, for each position; count those that are wide."""
    wide = ZERO
    for i in range(m):
        top = from_key(keys[i])
        c, usable = _constants(top, say)
        tops[i], floors[i], bases[i] = top, c[0], c[5]
        wide += F(0.0) if usable else F(1.0)
    return wide


@plain
def _block_exponentials(z, n, m, floors, bases, c, ahead):
    """Replace logits by their exponentials, and ask for the next block's meanwhile."""
    _, periods, high, low, inverse, _ = c
    start, step, length = ahead
    for j in range(n):
        for line in range(0, length, LINE):
            prefetch(start + j * step + line)
        for i in range(m):
            own = floors[i], periods, high, low, inverse, bases[i]
            store(z, j * m + i, exp_single(load(z, j * m + i, ZERO), own))


@within
def _next_block(at, of, place, m):
    """Return where the logits of the next positions start, and how far apart their parts are."""
    (i, k), size = place, of.itemsize
    o = at.logits + (i * of.logits[0] + (k + m) * of.logits[2]) * size
    if of.logits[2] == 1:  # `_gather` asks for the places of a class; others would evict them
        return o, 0, 0
    return o, m * of.logits[2] * size // of.classes, m * of.logits[2] * size // of.classes


@plain
def _block_sums(e, n, m, tops, floors, bases, c, others):
    """Sum the exponentials but for the largest, which `tops` becomes."""
    _, periods, high, low, inverse, _ = c
    for i in range(m):
        tops[i] = exp_single(tops[i], (floors[i], periods, high, low, inverse, bases[i]))
        others[i] = np.float64(load(e, i, ZERO))
    for j in range(1, n - 2, 3):
        for i in range(m):
            others[i] += (
                np.float64(load(e, j * m + i, ZERO))
                + np.float64(load(e, (j + 1) * m + i, ZERO))
                + np.float64(load(e, (j + 2) * m + i, ZERO))
            )
    for j in range(1 + (n - 1) // 3 * 3, n):
        for i in range(m):
            others[i] += np.float64(load(e, j * m + i, ZERO))
    sure = 0
    for i in range(m):
        others[i] -= np.float64(tops[i])
        sure += others[i] < CONFIDENT * np.float64(tops[i])
    if sure > 0:
        for i in range(m):
            if others[i] < CONFIDENT * np.float64(tops[i]):
                others[i] = _position_sum_but(e, n, m, i, tops[i])


@plain
def _position_sum_but(e, n, m, i, top):
    """Return one position's sum without its largest, but for its repetitions."""
    total, count = 0.0, -1.0
    for j in range(n):
        x = load(e, j * m + i, ZERO)
        total += 0.0 if x == top else np.float64(x)
        count += 1.0 if x == top else 0.0
    return total + count * np.float64(top)


@plain
def _block_targets(target_kind, at, of, say, place, ys, soft, m, z, t, counts):
    """Write the masses of a block's targets, as `_fill_targets` does those of a row."""
    n, (i, k) = of.classes, place
    if soft:
        _gather(target_kind, at.targets, _target(of, i, k), of.targets, n, m, t, 4)
    else:
        for j in range(n * m):
            store(t, j, ZERO)
        for i in range(m):
            store(t, ys[i] * m + i, F(1.0))
    if say.smoothing != 0.0:
        counts[:m] = 0.0
        for j in range(n):
            for i in range(m):
                counts[i] += 1.0 if load(z, j * m + i, ZERO) > -np.inf else 0.0
        kept = F(1.0 - say.smoothing)
        for j in range(n):
            for i in range(m):
                part = F(say.smoothing / counts[i])
                part = part if load(z, j * m + i, ZERO) > -np.inf else ZERO
                store(t, j * m + i, load(t, j * m + i, ZERO) * kept + part)


@plain
def _block_surprise(at, z, t, tops, n, m, surprise, mass):
    """Do what `_surprise` does, for each position."""
    surprise[:m] = 0.0
    mass[:m] = 0.0
    for j in range(n):
        weight = _class_weight(at, j)
        for i in range(m):
            share = np.float64(load(t, j * m + i, ZERO)) * weight
            gap = np.float64(tops[i]) - np.float64(load(z, j * m + i, ZERO))
            surprise[i] += 0.0 if share == 0.0 else share * gap
            mass[i] += share


@plain
def _block_losses(at, say, m, others, e_tops, lses, masses, surprise, e_y, scaled, losses, factors):
    """Make losses and what the gradients need; `lses` holds the maxima and becomes log-sum-exps.

    `e_y` becomes the gradient at a class index, `surprise` the factor of the others.
    """
    for i in range(m):
        log_sum = log1p_single(others[i] / np.float64(e_tops[i]))
        lse = log_sum + lses[i] / say.temperature
        loss = masses[i] * log_sum + surprise[i] / say.temperature
        losses[i] = loss + say.z_loss * masses[i] * lse * lse
        lses[i] = lse
        weight = scaled[i] / (say.temperature * (others[i] + np.float64(e_tops[i])))
        slope = _plain_slope(masses[i], others[i], np.float64(e_tops[i]), e_y[i], lse, say)
        e_y[i] = weight * slope
        surprise[i] = weight * masses[i] * (1.0 + 2.0 * say.z_loss * lse)
        factors[i] = F(surprise[i])


@plain
def _block_soft_slopes(at, e, t, say, m, n, e_tops, others, lses, masses, scaled):
    """Do what `_write_soft` does, for each position."""
    inverse, rests = np.empty(m, np.float32), np.empty(m, np.float32)
    slopes, weights = np.empty(m, np.float32), np.empty(m, np.float32)
    for i in range(m):
        whole = others[i] + np.float64(e_tops[i])
        inverse[i], rests[i] = F(1.0 / whole), F(others[i] / whole)
        slopes[i] = F(masses[i] * (1.0 + 2.0 * say.z_loss * lses[i]))
        weights[i] = F(scaled[i] / say.temperature)
    for j in range(n):
        weight = F(_class_weight(at, j))
        for i in range(m):
            x, share = load(e, j * m + i, ZERO), load(t, j * m + i, ZERO) * weight
            p = x * inverse[i]
            rest = rests[i] if x == e_tops[i] else F(1.0) - p
            store(e, j * m + i, (p * (slopes[i] - share) - share * rest) * weights[i])


@plain
def _block_scaled(e, n, m, factors):
    for j in range(n):
        for i in range(m):
            store(e, j * m + i, load(e, j * m + i, ZERO) * factors[i])


@plain
def _states(z, n, m, ys, soft, weights, keys, states):
    """Find what becomes of each position, and empty those that are not computed here."""
    special = 0
    for i in range(m):
        states[i] = KEPT
        special += weights[i] == 0.0 or not (soft or 0 <= ys[i] < n)
    if special == 0:
        return False
    for i in range(m):
        if weights[i] == 0.0:
            states[i] = SKIPPED
        elif not (soft or 0 <= ys[i] < n):
            states[i] = OUTSIDE
        if states[i] != KEPT:
            _empty(z, n, m, i, ys, keys)
    return True


@plain
def _empty(z, n, m, i, ys, keys):
    ys[i], keys[i] = 0, 0  # the key of 0.0
    for j in range(n):
        store(z, j * m + i, ZERO)


@within
def _block_over_positions(kind, target_kind, at, of, say, place, m, soft, scratch, work):
    """Compute m neighbouring rows; return Σ w·loss, Σ w·mass, the first bad row, the wide ones."""
    n, (i, k) = of.classes, place
    first, dense = i * of.inner + k, soft or say.smoothing != 0.0
    z, t = scratch, scratch + 4 * n * m
    integers, doubles, singles, keys, bases = work
    ys, states = integers
    weights, scaled, others, lses, masses, surprise, e_y, losses = doubles
    floors, tops, factors = singles
    _gather(kind, at.logits, i * of.logits[0] + k * of.logits[2], of.logits, n, m, z, of.itemsize)
    _tops(z, n, m, keys)
    o = _target(of, i, k)
    for p in range(m):
        ys[p] = 0 if soft else np.int64(load(at.targets, o + p * of.targets[2], target_kind))
        weights[p] = _row_weight(at, say, first + p, not soft, ys[p])
        scaled[p] = _gradient_weight(at, say, first + p, weights[p])
    special = _states(z, n, m, ys, soft, weights, keys, states)
    if _shifts(keys, say, m, tops, floors, bases) > ZERO:
        special = True
        for p in range(m):
            if not _constants(tops[p], say)[1]:
                states[p] = WIDE
                _empty(z, n, m, p, ys, keys)
        _shifts(keys, say, m, tops, floors, bases)
    if dense:
        _block_targets(target_kind, at, of, say, place, ys, soft, m, z, t, masses)
        if special:
            for p in range(m):
                for j in range(n if states[p] != KEPT else 0):
                    store(t, j * m + p, ZERO)
        _block_surprise(at, z, t, tops, n, m, surprise, masses)
    else:
        for p in range(m):
            masses[p] = _class_weight(at, ys[p])
            gap = np.float64(tops[p]) - np.float64(load(z, ys[p] * m + p, ZERO))
            surprise[p] = masses[p] * gap if masses[p] != 0.0 else 0.0
    for p in range(m):
        lses[p] = np.float64(tops[p])
    c, _ = _constants(ZERO, say)
    _block_exponentials(z, n, m, floors, bases, c, _next_block(at, of, place, m))
    _block_sums(z, n, m, tops, floors, bases, c, others)
    for p in range(m):
        e_y[p] = np.float64(load(z, ys[p] * m + p, ZERO))
    _block_losses(at, say, m, others, tops, lses, masses, surprise, e_y, scaled, losses, factors)
    bad, wide = -1.0, 0.0
    if special:
        for p in range(m):
            if states[p] == SKIPPED or states[p] == WIDE:
                losses[p], masses[p], lses[p], scaled[p] = 0.0, 0.0, 0.0, 0.0
                factors[p], e_y[p] = ZERO, 0.0
                wide += 1.0 if states[p] == WIDE else 0.0
            elif states[p] == OUTSIDE:
                losses[p], masses[p], lses[p], scaled[p] = np.nan, np.nan, np.nan, np.nan
                factors[p], e_y[p] = F(np.nan), np.nan
    total, total_mass = 0.0, 0.0
    for p in range(m):
        total += weights[p] * losses[p]
        total_mass += weights[p] * masses[p]
    if np.isnan(total):
        for p in range(m):
            if states[p] == KEPT and not abs(lses[p]) < np.inf and bad < 0.0:
                bad = np.float64(first + p)
    if at.losses + at.logsumexp + at.mass != 0:
        for p in range(m):
            _report(at, first + p, losses[p], masses[p], lses[p])
    if at.gradient != 0:
        if dense:
            _block_soft_slopes(at, z, t, say, m, n, tops, others, lses, masses, scaled)
        else:
            for p in range(m):
                if 0.0 < abs(surprise[p]) < TINY and states[p] == KEPT:
                    factors[p] = F(_let_down(z, p, n, m, surprise[p]))
            _block_scaled(z, n, m, factors)
            for p in range(m):
                store(z, ys[p] * m + p, F(e_y[p]))
        o = i * of.gradient[0] + k * of.gradient[2]
        _scatter(kind, z, n, m, at.gradient, o, of.gradient, of.streaming)
    return total, total_mass, bad, wide


# ---- the calls -----------------------------------------------------------------------------------


@within
def _row_of(kind, target_kind, at, of, say, row, soft):
    """Return a row's index (−1 for soft targets), its weight and its state; write what is idle."""
    i, k, y, state = row // of.inner, row % of.inner, -1, KEPT
    if not soft:
        y = np.int64(load(at.targets, _target(of, i, k), target_kind))
    weight = _row_weight(at, say, row, not soft, y)
    if weight == 0.0:
        state = SKIPPED
    elif not soft and not 0 <= y < of.classes:
        state = OUTSIDE
    if state != KEPT:
        loss = 0.0 if state == SKIPPED else np.nan
        _report(at, row, loss, loss, loss)
        if at.gradient != 0:
            o = i * of.gradient[0] + k * of.gradient[2]
            for j in range(of.classes):
                store(at.gradient, o + j * of.gradient[1], narrow(F(loss), kind))
    return y, weight, state


@within
def _set_sums(at, b, total, mass, bad, wide):
    store(at.sums, 4 * b, total)
    store(at.sums, 4 * b + 1, mass)
    store(at.sums, 4 * b + 2, bad)
    store(at.sums, 4 * b + 3, wide)


@compiled
def over_classes(kind, target_kind, at, of, say, start, stop, soft, scratch):
    """Compute some blocks of long rows; scratch memory is 12 bytes a class."""
    n = of.classes
    waiting = (scratch, at.gradient, 0, -1, ZERO, ZERO)
    for b in range(start, stop):
        total, total_mass, bad, wide = 0.0, 0.0, -1.0, 0.0
        for row in range(b * of.block, min((b + 1) * of.block, of.outer * of.inner)):
            y, weight, state = _row_of(kind, target_kind, at, of, say, row, soft)
            if state == KEPT:
                loss, mass, state, waiting = _row_over_classes(
                    kind, target_kind, at, of, say, row, y, soft, weight, scratch, waiting
                )
                total += weight * loss
                total_mass += weight * mass
            elif state == OUTSIDE:
                total, total_mass = np.nan, np.nan
            wide += 1.0 if state == WIDE else 0.0
            bad = np.float64(row) if state == BAD and bad < 0.0 else bad
        _set_sums(at, b, total, total_mass, bad, wide)
    _write_waiting(kind, n, n, 0, of.streaming, waiting)
    if of.streaming:
        fence()


@within
def _workspace(m):
    """Return the arrays that a block of m positions is computed in."""
    integers = np.empty(m, np.int64), np.empty(m, np.int64)
    doubles = (
        np.empty(m), np.empty(m), np.empty(m), np.empty(m),
        np.empty(m), np.empty(m), np.empty(m), np.empty(m),
    )  # fmt: skip
    singles = np.empty(m, np.float32), np.empty(m, np.float32), np.empty(m, np.float32)
    return integers, doubles, singles, np.empty(m, np.int32), np.empty(m, np.int32)


@compiled
def weigh_targets(targets, count, classes, ignores, ignore_index, class_weight, row_weight):
    """Return how many rows are kept, what they weigh together, and the first out of range or −1."""
    kept, weight, index = 0, 0.0, np.int64(0)
    for i in range(count):
        y = load(targets, i, index)
        own = load(row_weight, i, 1.0) if row_weight != 0 else 1.0
        if (ignores and y == ignore_index) or own == 0.0:
            continue
        if not 0 <= y < classes:
            return kept, weight, i
        kept += 1
        weight += own * (load(class_weight, y, 1.0) if class_weight != 0 else 1.0)
    return kept, weight, -1


@compiled
def totals(sums, blocks):
    """Add the sums of blocks, in their order and with the rounding errors beside them.

    Returns Σ weight·loss, Σ weight·mass, the first bad row or −1, and how many rows are wide.
    """
    loss, loss_low, mass, mass_low, bad, wide = 0.0, 0.0, 0.0, 0.0, -1.0, 0.0
    for b in range(blocks):
        loss, low = _added(loss, load(sums, 4 * b, 1.0))
        loss_low += low
        mass, low = _added(mass, load(sums, 4 * b + 1, 1.0))
        mass_low += low
        own = load(sums, 4 * b + 2, 1.0)
        bad = own if own >= 0.0 and (bad < 0.0 or own < bad) else bad
        wide += load(sums, 4 * b + 3, 1.0)
    return loss + loss_low, mass + mass_low, bad, wide


@plain
def _added(a, b):
    """Return a + b and its rounding error (TwoSum); 0 for that of an infinite sum."""
    total = a + b
    part = total - a
    low = (a - (total - part)) + (b - part)
    return total, low if abs(low) < np.inf else 0.0


@compiled
def over_positions(kind, target_kind, at, of, say, start, stop, soft, scratch):
    """Compute some blocks of neighbouring rows; scratch memory is 8 bytes an element."""
    work = _workspace(of.block)
    per_outer = (of.inner + of.block - 1) // of.block
    for b in range(start, stop):
        i, k = b // per_outer, b % per_outer * of.block
        m = min(of.block, of.inner - k)
        total, mass, bad, wide = _block_over_positions(
            kind, target_kind, at, of, say, (i, k), m, soft, scratch, work
        )
        _set_sums(at, b, total, mass, bad, wide)
    if of.streaming:
        fence()


@within
def _is_wide(kind, at, of, say, row):
    """Tell whether the other forms leave a row to `one_by_one`."""
    o, top = row // of.inner * of.logits[0] + row % of.inner * of.logits[2], N(-(2**31))
    for j in range(of.classes):
        top = max(top, key_of(F(widen(load(at.logits, o + j * of.logits[1], kind)))))
    return not _constants(from_key(top), say)[1]


@compiled
def one_by_one(kind, target_kind, at, of, say, start, stop, soft, scratch, only_wide):
    """Compute some blocks of rows in float64, or those rows of them that are wide.

    Scratch memory is 32 bytes a class.
    """
    for b in range(start, stop):
        total, total_mass, bad = 0.0, 0.0, -1.0
        for row in range(b * of.block, min((b + 1) * of.block, of.outer * of.inner)):
            y, weight, state = _row_of(kind, target_kind, at, of, say, row, soft)
            if state == KEPT and not (only_wide and not _is_wide(kind, at, of, say, row)):
                place = (row // of.inner, row % of.inner)
                loss, mass, state = _row_one_by_one(
                    kind, target_kind, at, of, say, place, y, soft, weight, scratch
                )
                total += weight * loss
                total_mass += weight * mass
            elif state == OUTSIDE and not only_wide:
                total, total_mass = np.nan, np.nan
            bad = np.float64(row) if state == BAD and bad < 0.0 else bad
        _set_sums(at, b, total, total_mass, bad, 0.0)


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
    memory = np.empty(classes * n, np.float64)
    sums = np.empty(4)
    at = Addresses(logits, targets, 0, 0, 0, 0, 0, 0, gradient, 0)
    of = Layout(
        1, classes, n, (0, strides[1], strides[0]), (0, 0, strides[2]), (0, 1, classes), n, 4, False
    )
    own = Options(
        True, ignore_index, 0.0, 1.0, 0.0, 0.0, 1.0 / kept,
        say.high, say.low, say.periods, say.inverse,
    )  # fmt: skip
    sums[0], sums[1], sums[2], sums[3] = _block_over_positions(
        kind, index, at, of, own, (0, 0), n, False, memory.ctypes.data, _workspace(n)
    )
    memory[0] = 0.0  # alive until here
    store(mean, 0, F(sums[0] * own.scale))
    return WIDE if sums[3] > 0.0 else KEPT
