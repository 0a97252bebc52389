"""Statistics of long rows of logits on CPUs: entropy, the likeliest class, the target's rank.

What `numba_classes` finds out about a row beside these, log Σ exp and the loss, is left to it. The
entropy is log Σ e^{x_j} + Σ e^{x_j}·(−x_j) / Σ e^{x_j} with x = (z − m)/T, where all terms are ≥ 0.
"""

from __future__ import annotations

import numpy as np

from xent.losses.kernels.numba_arithmetic import compiled, load, size_of, store, widen
from xent.losses.kernels.numba_loops import (
    exp_single,
    log1p_single,
    shift_of,
    soft_terms,
    sweep,
    top_of,
)
from xent.losses.kernels.numba_rows import ZERO, plain

__all__ = ["LEFT", "row_statistics"]

LEFT = -2
"""The likeliest class of a row that is beyond the arithmetic of float32, and not computed."""


@plain
def _first(kind, z, n, top):
    """Return the first class whose logit is the maximum."""
    for j in range(n):
        if widen(load(z, j, kind)) == top:
            return j
    return -1


@plain
def _larger(kind, z, n, y):
    """Return how many logits are larger than that of the target."""
    own, count = widen(load(z, y, kind)), 0
    for j in range(n):
        count += widen(load(z, j, kind)) > own
    return count


@plain
def _entropy(kind, z, n, top, temperature, constants, e):
    """Return the entropy of a row, with scratch memory for its exponentials."""
    shift, _ = shift_of(top, constants)
    rest, times, _, _ = sweep(kind, z, z, n, shift, constants, top, e, e, e, 0, 0, ZERO)
    most = np.float64(exp_single(top, shift, constants))
    others = rest + (times - 1) * most
    surprise, _ = soft_terms(kind, z, e, n, top, 0)
    return log1p_single(others / most) + surprise / temperature / (others + most)


@compiled
def row_statistics(
    kind, logits, line, n, targets, temperature, constants, entropy, argmax, rank, start, stop,
    scratch,
):  # fmt: skip
    """Fill entropy (float64), argmax and rank (int64) of some rows; scratch is 4 bytes a class.

    Rows are contiguous and begin `line` elements apart. The rank is 1 + how many logits are larger
    than the target's; 0 for a target out of range, and none where `targets` is at 0.
    """
    e = (scratch + 63) // 64 * 64
    for row in range(start, stop):
        z = logits + row * line * size_of(kind)
        top = top_of(kind, z, n)
        _, usable = shift_of(top, constants)
        if not usable:
            store(argmax, row, np.int64(LEFT))
            continue
        store(entropy, row, _entropy(kind, z, n, top, temperature, constants, e))
        store(argmax, row, np.int64(_first(kind, z, n, top)))
        if targets != 0:
            y = load(targets, row, np.int64(0))
            inside = 0 <= y < n
            store(rank, row, np.int64(1 + _larger(kind, z, n, y)) if inside else np.int64(0))
