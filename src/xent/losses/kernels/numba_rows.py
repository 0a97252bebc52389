"""Softmax cross-entropy on CPUs: what the forms of its kernel share.

A kernel reads each row once from memory and writes its gradient once. Compiled functions compute
blocks of rows: losses, log-sum-exps, gradients, whichever have an address. Layout and options
alone decide which function, so that the bits of a row depend on that row:

* `numba_classes`: long rows, contiguous over classes. Vectors run along a row, which stays in the
  cache between its maximum, its exponentials and its gradient.
* `numba_positions`: few classes, or classes that are not contiguous, as in (N, C, d1, …). Vectors
  run over rows; a block of them is copied, computed and written back.
* `numba_doubles`: float64 logits and softcaps, in float64; also any row of the other two whose
  logits are beyond the exponent arithmetic of float32, which those call wide.

The first two have a function for class indices, and one for dense targets: probabilities, or
indices that are smoothed.

The formulas are the definition's: L = W·log1p(others) + Σ t·(m − z)/T, where the others' mass is
never a difference that cancels; sums over classes are float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from xent.losses.kernels.numba_arithmetic import compiled, load, narrow, store

__all__ = [
    "BAD",
    "KEPT",
    "OUTSIDE",
    "SKIPPED",
    "TINY",
    "WIDE",
    "ZERO",
    "Addresses",
    "F",
    "Layout",
    "Options",
    "add_to_sums",
    "class_weight",
    "clear_sums",
    "gradient_weight",
    "let_down",
    "mass_and_bend",
    "next_row",
    "place_of",
    "plain",
    "plain_slope",
    "report",
    "row_weight",
    "summing",
    "weigh_targets",
    "within",
]

F = np.float32
ZERO = F(0.0)
TINY, DOWN = 2.0**-100, F(2.0**-64)
"""A factor of lifted exponentials that could be subnormal; they are first let down by the other."""

KEPT, SKIPPED, OUTSIDE, WIDE, BAD = range(5)
"""What becomes of a row: computed; not looked at; its target is out of range; left to
`numba_doubles`; its logits are NaN, +∞ or all −∞."""

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
    constants: tuple[np.float32, ...]  # of `exp_single`


@within
def row_weight(at, say, row, hard, target):
    """Return the weight of a row, 0 for one that is not to be looked at."""
    if hard and say.ignores and target == say.ignore_index:
        return 0.0
    return load(at.row_weight, row, 1.0) if at.row_weight != 0 else 1.0


@within
def gradient_weight(at, say, row, weight):
    """Return the factor of a row's gradient."""
    scaled = weight * say.scale
    return scaled * load(at.cotangent, row, 1.0) if at.cotangent != 0 else scaled


@plain
def class_weight(at, j):
    """Return the weight of a class."""
    return load(at.class_weight, j, 1.0) if at.class_weight != 0 else 1.0


@within
def report(at, row, loss, mass, lse):
    """Write what is asked for of a row."""
    if at.losses != 0:
        store(at.losses, row, loss)
    if at.logsumexp != 0:
        store(at.logsumexp, row, lse)
    if at.mass != 0:
        store(at.mass, row, mass)


@within
def place_of(strides, of, row):
    """Return the element at which a row starts."""
    return row // of.inner * strides[0] + row % of.inner * strides[2]


@plain
def let_down(e, o, n, step, factor):
    """Divide lifted exponentials by a power of two, and multiply their factor by it."""
    for j in range(n):
        store(e, o + j * step, load(e, o + j * step, ZERO) * DOWN)
    return factor / np.float64(DOWN)


@plain
def plain_slope(mass, others, top, e_y, lse, say):
    """Return ∂L/∂z·T·Σe at a class index of mass W: minus the others' mass, and the z-loss."""
    rest = others if e_y == top else (others + top) - e_y
    return mass * (2.0 * say.z_loss * lse * e_y - rest)


@plain
def mass_and_bend(at, mass, lse, say):
    """Return W as float32, and what that leaves of W·(1 + 2·z_loss·lse).

    W − t of a confident target is exact; the rest is added to it, and does not cancel. Masses
    that are weighted by class are rounded to float32, and W − t is 0 with what W was rounded to.
    """
    a = F(mass)
    low = mass - np.float64(a) if at.class_weight == 0 else 0.0
    return a, F(low + mass * (2.0 * say.z_loss * lse))


# ---- rows that are not computed, and sums --------------------------------------------------------


@plain
def next_row(kind, target_kind, at, of, say, row, stop, soft):
    """Return the first row from `row` on that is to be computed, its index and its weight.

    Those before it are written as they are to be: 0 where nobody looks, NaN for an index that is
    out of range. The index is −1 for soft targets; the row is `stop` where there is none.
    """
    while row < stop:
        y = -1
        if not soft:
            y = np.int64(load(at.targets, place_of(of.targets, of, row), target_kind))
        weight = row_weight(at, say, row, not soft, y)
        if weight != 0.0 and (soft or 0 <= y < of.classes):
            return row, y, weight
        loss = 0.0 if weight == 0.0 else np.nan
        report(at, row, loss, loss, loss)
        add_to_sums(at, of, row, loss, loss, KEPT)
        if at.gradient != 0:
            o = place_of(of.gradient, of, row)
            for j in range(of.classes):
                store(at.gradient, o + j * of.gradient[1], narrow(F(loss), kind))
        row += 1
    return stop, -1, 0.0


@within
def clear_sums(at, start, stop):
    """Begin the sums of some blocks."""
    for b in range(start, stop):
        store(at.sums, 4 * b, 0.0)
        store(at.sums, 4 * b + 1, 0.0)
        store(at.sums, 4 * b + 2, -1.0)
        store(at.sums, 4 * b + 3, 0.0)


@plain
def add_to_sums(at, of, row, loss, mass, state):
    """Add a row to the sums of its block; its loss and mass are weighted."""
    b = 4 * (row // of.block)
    store(at.sums, b, load(at.sums, b, 1.0) + loss)
    store(at.sums, b + 1, load(at.sums, b + 1, 1.0) + mass)
    if state == BAD and load(at.sums, b + 2, 1.0) < 0.0:
        store(at.sums, b + 2, np.float64(row))
    if state == WIDE:
        store(at.sums, b + 3, load(at.sums, b + 3, 1.0) + 1.0)


@compiled
def weigh_targets(targets, count, classes, ignores, ignore_index, class_weight, row_weight):
    """Return how many rows are kept, what they weigh together, and the first out of range or −1."""
    index = np.int64(0)
    if class_weight == 0 and row_weight == 0:  # nothing here keeps vectors from being used
        here, wrong = 0, 0
        for i in range(count):
            y = load(targets, i, index)
            kept = 0 if ignores & (y == ignore_index) else 1
            here += kept
            wrong += kept & (0 if 0 <= y < classes else 1)
        if wrong == 0:
            return here, float(here), -1
    here, weight = 0, 0.0
    for i in range(count):
        y = load(targets, i, index)
        own = load(row_weight, i, 1.0) if row_weight != 0 else 1.0
        if (ignores and y == ignore_index) or own == 0.0:
            continue
        if not 0 <= y < classes:
            return here, weight, i
        here += 1
        weight += own * (load(class_weight, y, 1.0) if class_weight != 0 else 1.0)
    return here, weight, -1
