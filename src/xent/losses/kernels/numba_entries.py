"""Sigmoid cross-entropy on CPUs: entries that are each their own question, in one sweep.

L = yes·log(1 + e^{−z}) + no·log(1 + e^z), with yes = pos_weight·t and no = 1 − t; both logarithms
come from e^{−|z|}, and a certain answer costs 0 or ∞, never NaN. Arithmetic is float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from xent.losses.kernels.numba_arithmetic import (
    compiled,
    exp_double,
    load,
    log1p_double,
    narrow,
    store,
    widen,
)

__all__ = ["BLOCK", "EntryAddresses", "sigmoid_entries"]

BLOCK = 1 << 13
"""Entries that are summed together."""


class EntryAddresses(NamedTuple):
    """Where contiguous arrays of entries stand; 0 for one that is not there."""

    logits: int
    targets: int
    pos_weight: int  # float64 (labels,)
    row_weight: int  # float64
    cotangent: int  # float64
    losses: int  # float64
    gradient: int
    sums: int  # float64 (blocks, 4): Σ weight·loss, Σ weight, the first NaN or −1, 0


bare = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
plain = njit(**bare)


@plain
def _entry(z, yes, no):
    """Return the loss and its slope."""
    e = exp_double(-abs(z))
    log = log1p_double(e)
    wrong = abs(z)  # what the worse answer costs more
    loss_yes = log if z > 0.0 else log + wrong
    loss_no = log + wrong if z > 0.0 else log
    loss = (0.0 if yes == 0.0 else yes * loss_yes) + (0.0 if no == 0.0 else no * loss_no)
    p_near, p_far = 1.0 / (1.0 + e), e / (1.0 + e)
    p_yes = p_near if z > 0.0 else p_far
    p_no = p_far if z > 0.0 else p_near
    return z if np.isnan(z) else loss, no * p_yes - yes * p_no


@compiled
def sigmoid_entries(kind, target_kind, at, count, labels, smoothing, scale, start, stop):
    """Compute some blocks of entries."""
    for b in range(start, stop):
        total, total_weight, bad = 0.0, 0.0, -1.0
        for i in range(b * BLOCK, min((b + 1) * BLOCK, count)):
            weight = load(at.row_weight, i, 1.0) if at.row_weight != 0 else 1.0
            z = np.float64(widen(load(at.logits, i, kind)))
            t = np.float64(widen(load(at.targets, i, target_kind)))
            yes = t * (1.0 - smoothing) + 0.5 * smoothing
            no = (1.0 - t) * (1.0 - smoothing) + 0.5 * smoothing
            if at.pos_weight != 0:
                yes *= load(at.pos_weight, i % labels, 1.0)
            loss, slope = _entry(z, yes, no)
            loss = loss if weight != 0.0 else 0.0
            if at.losses != 0:
                store(at.losses, i, loss)
            if at.gradient != 0:
                factor = weight * scale
                factor = factor * load(at.cotangent, i, 1.0) if at.cotangent != 0 else factor
                store(at.gradient, i, narrow(factor * slope if weight != 0.0 else 0.0, kind))
            total += weight * loss
            total_weight += weight
            if np.isnan(z) and weight != 0.0 and bad < 0.0:
                bad = np.float64(i)
        store(at.sums, 4 * b, total)
        store(at.sums, 4 * b + 1, total_weight)
        store(at.sums, 4 * b + 2, bad)
