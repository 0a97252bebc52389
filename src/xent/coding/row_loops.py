"""Which contexts get a row of frequencies, and how these are rounded; numba compiles it.

Each choice is the one with the shortest description: bits for the row in the model, and bits for
the symbols that are written with it. A row that saves less than it costs is not made, and its
context is written with its parent's, the context that is one byte shorter.
"""

from __future__ import annotations

import math

import numpy as np

from xent.coding.compiling import compiled
from xent.coding.stream_loops import ESCAPE, PRECISION

__all__ = [
    "choose_rows",
    "gamma_bits",
    "price_row",
    "quantize",
    "read_rows",
    "read_value",
    "write_row",
    "write_value",
]

_SYMBOLS = ESCAPE + 1


@compiled
def gamma_bits(value):
    """Return how many bits Elias' gamma code takes for a number from 1."""
    bits = 1
    while value > 1:
        value >>= 1
        bits += 2
    return bits


@compiled
def quantize(weights, bits, out):
    """Round weights to whole frequencies that sum to 2^bits, in the way that costs least.

    A positive weight gets at least 1. The cost −Σ w·log f is convex, so adding where it gains most,
    taking where it loses least, and exchanging while that gains finds the least of all.
    """
    total = 0.0
    for w in weights:
        total += w
    size = 1 << bits
    gain, loss = np.full(weights.size, -1.0), np.full(weights.size, np.inf)
    left = size
    for i in range(weights.size):
        out[i] = 0
        if weights[i] > 0.0:
            out[i] = max(1, int(weights[i] * (size / total)))
            left -= out[i]
            gain[i] = weights[i] * math.log1p(1.0 / out[i])
            if out[i] > 1:
                loss[i] = weights[i] * math.log1p(
                    1.0 / (out[i] - 1)
                )  # as exact as gain: no endless exchange
    while True:
        more, less = np.argmax(gain), np.argmin(loss)
        if left == 0 and (more == less or gain[more] <= loss[less]):
            return
        changed = more
        if left > 0:
            out[more] += 1
            left -= 1
        else:
            changed = less
            out[less] -= 1
            left += 1
        gain[changed] = weights[changed] * math.log1p(1.0 / out[changed])
        loss[changed] = np.inf
        if out[changed] > 1:
            loss[changed] = weights[changed] * math.log1p(1.0 / (out[changed] - 1))


@compiled
def _bits_of_row(symbols, frequencies):
    """Return what a row takes in a model, without its context."""
    last, known, bits, left = -1, 0, 4, 0
    for k in range(symbols.size):
        if frequencies[k] > 0:
            bits += gamma_bits(symbols[k] - last) + gamma_bits(frequencies[k])
            last, left = symbols[k], gamma_bits(frequencies[k])
            known += 1
    return bits + gamma_bits(known) - left


@compiled
def choose_rows(counts, prices, escape, always, chosen, frequencies, weights):
    """Choose the frequencies of contexts of one length, or none, and the prices that follow.

    Parameters
    ----------
    counts
        How often each byte followed each.                          (contexts, 256) integers
    prices
        What each byte costs in bits as the rows' parents write it; where there is a row, what it
        costs as that writes it afterwards.                         (contexts, 256)
    escape
        Whether bytes that did not follow must have a price, too.
    always
        Whether there must be a row: at full precision, whatever it takes.
    chosen
        The bits of each row, or −1 where none saves what it costs. (contexts,)
    frequencies
        The frequencies of each, of a sum of 2^bits.                (contexts, 257) zeros
    weights
        What they were rounded from.                                (contexts, 257) zeros
    """
    symbols, above = np.empty(_SYMBOLS, np.int64), np.empty(_SYMBOLS)
    seen = np.empty(_SYMBOLS)
    for r in range(chosen.size):
        known = 0
        for s in range(256):
            if counts[r, s] > 0:
                symbols[known], seen[known], above[known] = s, counts[r, s], prices[r, s]
                known += 1
        symbols[known] = ESCAPE
        chosen[r] = _choose_row(
            symbols[: known + 1], seen[:known], above[:known], escape, always,
            frequencies[r], weights[r],
        )  # fmt: skip
        if chosen[r] >= 0:
            price_row(frequencies[r], prices[r], prices[r])


@compiled
def _choose_row(symbols, counts, above, escape, always, out, exact):
    """Choose the frequencies of one context, or none.

    Of the bytes those alone are given that followed: `symbols` are these and the escape.
    """
    known = counts.size
    if known == 0:
        if not always:
            return -1
        out[ESCAPE], exact[ESCAPE] = 1, 1.0
        return 0
    total, parents = 0.0, 0.0
    for k in range(known):
        total += counts[k]
        parents += counts[k] * above[k]
    # No row takes less: each byte is told in it, no nearer to the last than it is, or goes to the
    # parent.
    least, last = 10.0, -1
    for k in range(known):
        told = gamma_bits(symbols[k] - last) + 1.0
        least += min(told + counts[k] * math.log2(total / counts[k]), counts[k] * above[k])
        last = symbols[k]
    if not always and parents <= least:
        return -1
    best, chosen = np.inf if always else parents, -1
    trial, weights = np.zeros(known + 1, np.int32), np.zeros(known + 1)
    near, last = math.ceil(math.log2(total)), -1
    for step in range(5):
        bits = PRECISION if always else min(PRECISION, max(0, near - 4 + 2 * step))
        if bits == last:
            continue
        last, before = bits, -1
        slot = total / (1 << bits)
        for rare in (0.0, 1.0, 2.0, 0.5 * slot, slot):  # what is so rare is left to the parent
            kept = _keep(counts, escape, rare, weights)
            if kept == before:
                continue
            before = kept
            cost = _cost_of_row(symbols, counts, above, bits, weights, trial)
            if cost < best:
                best, chosen = cost, bits
                for k in range(known + 1):
                    out[symbols[k]], exact[symbols[k]] = trial[k], weights[k]
    return chosen


@compiled
def _keep(counts, escape, rare, weights):
    """Give a weight to what came more often than `rare`, and to the escape; return how many."""
    kept, escaped = 0, 0.0
    for k in range(counts.size):
        weights[k] = 0.0
        if counts[k] > rare:
            weights[k] = counts[k]
            kept += 1
        else:
            escaped += counts[k]
    if escape and kept < 256:
        escaped += counts.size
    weights[counts.size] = escaped
    return kept + (1 if escaped > 0.0 else 0)


@compiled
def _cost_of_row(symbols, counts, above, bits, weights, out):
    """Round weights; return the bits of the row and of what is written with it, or infinity."""
    positive = 0
    for w in weights:
        if w > 0.0:
            positive += 1
    if positive > (1 << bits):
        return np.inf
    quantize(weights, bits, out)
    cost = float(_bits_of_row(symbols, out)) + 6.0  # about what its context takes
    for k in range(counts.size):
        if out[k] > 0:
            cost += counts[k] * (bits - math.log2(out[k]))
        else:
            cost += counts[k] * (bits - math.log2(out[counts.size]) + above[k])
    return cost


@compiled
def price_row(weights, above, out):
    """Write what each byte costs in bits under a row whose parent's prices are `above`.

    It is infinite for a byte that no row has, where none leads on. `out` may be `above`.
    """
    total = 0.0
    for w in weights:
        total += w
    for s in range(256):
        if weights[s] > 0:
            out[s] = math.log2(total / weights[s])
        elif weights[ESCAPE] > 0:
            out[s] = math.log2(total / weights[ESCAPE]) + above[s]
        else:
            out[s] = np.inf


# ---- rows as bits --------------------------------------------------------------------------------


@compiled
def write_value(value, width, buffer, place):
    """Write the lowest `width` bits of a number, the highest of them first; return the place."""
    for i in range(width - 1, -1, -1):
        if (value >> i) & 1:
            buffer[place >> 3] |= 128 >> (place & 7)
        place += 1
    return place


@compiled
def _write_gamma(value, buffer, place):
    length = 0
    while value >> (length + 1):
        length += 1
    return write_value(value, 2 * length + 1, buffer, place)


@compiled
def write_row(context, frequencies, bits, buffer, place):
    """Write a row behind what is there, its context as how far it is from the last one's.

    Returns the place.
    """
    place = _write_gamma(context, buffer, place)
    place = write_value(bits, 4, buffer, place)
    known, last = 0, -1
    for s in range(_SYMBOLS):
        if frequencies[s] > 0:
            known += 1
    place = _write_gamma(known, buffer, place)
    for s in range(_SYMBOLS):
        if frequencies[s] > 0:
            place = _write_gamma(s - last, buffer, place)
            last = s
    for s in range(last):  # the last one is what is left
        if frequencies[s] > 0:
            place = _write_gamma(frequencies[s], buffer, place)
    return place


@compiled
def read_value(buffer, place, width):
    """Return a number of `width` bits, or −1 where the bits end."""
    if place + width > buffer.size * 8:
        return -1
    value = 0
    for i in range(place, place + width):
        value = (value << 1) | ((buffer[i >> 3] >> (7 - (i & 7))) & 1)
    return value


@compiled
def _read_gamma(buffer, place):
    """Return a number from 1 and the place behind it, or 0 where the bits end or make no sense."""
    length = 0
    while True:
        bit = read_value(buffer, place + length, 1)
        if bit < 0 or length > 24:
            return 0, place
        if bit == 1:
            break
        length += 1
    value = read_value(buffer, place + length, length + 1)
    return max(value, 0), place + 2 * length + 1


@compiled
def read_rows(buffer, place, rows, contexts, found_contexts, found_bits, found):
    """Read the rows of one level.

    Returns the place behind them, or −1 where they are not what `write_row` writes.
    """
    context = -1
    for r in range(rows):
        gap, place = _read_gamma(buffer, place)
        context += gap
        bits = read_value(buffer, place, 4)
        place += 4
        if gap == 0 or context >= contexts or bits < 0 or bits > PRECISION:
            return -1
        known, place = _read_gamma(buffer, place)
        if known == 0 or known > _SYMBOLS:
            return -1
        symbols = np.zeros(known, np.int64)
        last = -1
        for k in range(known):
            gap, place = _read_gamma(buffer, place)
            last += gap
            if gap == 0 or last >= _SYMBOLS:
                return -1
            symbols[k] = last
        left = 1 << bits
        for k in range(known - 1):
            f, place = _read_gamma(buffer, place)
            left -= f
            if f == 0 or left <= 0:
                return -1
            found[r, symbols[k]] = f
        found[r, last] = left
        found_contexts[r], found_bits[r] = context, bits
    return place
