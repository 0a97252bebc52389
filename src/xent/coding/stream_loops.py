"""The loops of the stream code, which numba compiles: counts, and rANS in eight lanes.

A block of n bytes is cut into eight *lanes*, one behind the other, of ⌊n/8⌋ bytes or one more (the
first n mod 8). Each lane has a state x of 64 bits, 2³¹ ≤ x < 2⁶³, and its own context: the last
bytes of the lane, zeros before its first. A symbol whose slots are [c, c + f) of 2¹⁴ takes x to
``(x ÷ f)·2¹⁴ + c + (x mod f)``; before that, 32 bits of x leave where it would grow beyond 2⁶³.
Lanes take turns and share one stream of words, so that a processor works on eight chains of
dependent operations at once. The decoder does the same backwards, so the encoder begins at the end.

The method is Duda's range variant of asymmetric numeral systems (arXiv:1311.2540) with Giesen's
interleaving (arXiv:1402.3392).
"""

from __future__ import annotations

import numpy as np

from xent.coding.compiling import compiled

__all__ = [
    "ESCAPE",
    "FULL",
    "LANES",
    "LOWEST",
    "MOST_WORDS",
    "PRECISION",
    "count",
    "decode",
    "encode",
    "piece_bits",
]

PRECISION = 14
"""Bits of a slot's number: frequencies of a row sum to 2¹⁴."""
LANES = 8
LOWEST = 1 << 31
"""The least state of a lane, which is also where it begins."""
MOST_WORDS = 4
"""Words that a byte can take: itself, and escapes from contexts of 2, 1 and 0 bytes."""
FULL = -(1 << 62)
"""What encoding says where there may be no place for the words."""
ESCAPE = 256
"""The symbol that says: what comes is written as the row's parent writes it."""

_SLOTS = np.uint64((1 << PRECISION) - 1)
_BITS, _WORD = np.uint64(PRECISION), np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_FULL = np.uint64(63 - PRECISION)  # x ≥ f·2^_FULL has no room for a symbol of frequency f
_LEAST = np.uint64(LOWEST)
_RAW = np.uint64(PRECISION - 8)  # a byte of which no row knows has 2^6 slots, as all others


@compiled
def count(data, mask, counts, seen):
    """Add how often each byte follows each context; contexts are `mask` of the last two bytes.

    `seen` is 1 for each context that has a count.
    """
    n = data.size
    for lane in range(LANES):
        start = lane * (n // LANES) + min(lane, n % LANES)
        stop = start + n // LANES + (1 if lane < n % LANES else 0)
        context = 0
        for i in range(start, stop):
            symbol = data[i]
            counts[context, symbol] += 1
            seen[context] = 1
            context = ((context << 8) | symbol) & mask


@compiled
def piece_bits(data, mask, row_of, prices, size, out):
    """Write what each piece of `size` bytes costs in bits; contexts go on from piece to piece."""
    context = 0
    for i in range(data.size):
        symbol = data[i]
        out[i // size] += prices[row_of[context], symbol]
        context = ((context << 8) | symbol) & mask


@compiled
def _push(x, words, place, code):
    """Write one symbol to a state; return the state, and the place of the next word."""
    f = np.uint64(code >> np.uint32(16))
    if x >= f << _FULL:
        place -= 1
        words[place] = np.uint32(x & _LOW)
        x >>= _WORD
    whole = x // f
    return (whole << _BITS) + (x - whole * f) + np.uint64(code & np.uint32(0xFFFF)), place


@compiled
def _push_escaped(x, words, place, row, symbol, codes, parents):
    """Write a symbol that its row does not have; the last thing to be read is written first.

    The place is −1 where no row has the symbol and none leads on.
    """
    depth, at = 0, row
    while at >= 0 and codes[at, symbol] >> np.uint32(16) == 0:
        if codes[at, ESCAPE] >> np.uint32(16) == 0:
            return x, -1
        at = parents[at]
        depth += 1
    if at >= 0:
        x, place = _push(x, words, place, codes[at, symbol])
    else:
        raw = (np.uint32(symbol) << np.uint32(_RAW)) | (np.uint32(1) << np.uint32(_RAW + 16))
        x, place = _push(x, words, place, raw)
    for up in range(depth - 1, -1, -1):
        at = row
        for _ in range(up):
            at = parents[at]
        x, place = _push(x, words, place, codes[at, ESCAPE])
    return x, place


@compiled
def encode(data, mask, row_of, codes, parents, words, states):
    """Write a block backwards to the end of `words`, and its states.

    Returns the place of the first word, or −1 − i where the byte at i cannot be written, or `FULL`.
    A byte takes at most one word for itself and one for each of its escapes.
    """
    n = data.size
    most = LANES * MOST_WORDS
    each, more = n // LANES, n % LANES
    place = words.size
    for lane in range(LANES):
        states[lane] = _LEAST
    for step in range(each - (0 if more else 1), -1, -1):
        lanes = more if step == each else LANES
        if place < most:
            return FULL
        for lane in range(lanes - 1, -1, -1):
            i = lane * each + min(lane, more) + step
            context = 0
            if step > 0:
                context = np.int64(data[i - 1])
                if step > 1:
                    context |= np.int64(data[i - 2]) << 8
            row = row_of[context & mask]
            code = codes[row, data[i]]
            if code >> np.uint32(16) != 0:
                states[lane], place = _push(states[lane], words, place, code)
            else:
                states[lane], place = _push_escaped(
                    states[lane], words, place, row, data[i], codes, parents
                )
                if place < 0:
                    return -1 - i
    return place


@compiled
def decode(words, states, mask, row_of, parents, firsts, buckets, shift, entries, data):
    """Read a block into `data`.

    Returns how many words were read; −1 where there were too few. What is read is checked by its
    caller: states must have come back to where encoding begins.
    """
    n = data.size
    each, more = n // LANES, n % LANES
    place, have = 0, words.size
    contexts = np.zeros(LANES, np.int64)
    for step in range(each + (1 if more else 0)):
        lanes = more if step == each else LANES
        for lane in range(lanes):
            x = states[lane]
            context = contexts[lane]
            row = row_of[context]
            while True:
                slot = x & _SLOTS
                if row < 0:
                    symbol = np.int64(slot >> _RAW)
                    x = ((x >> _BITS) << _RAW) + (slot & np.uint64((1 << (PRECISION - 8)) - 1))
                else:
                    at = firsts[row] + buckets[row, slot >> shift]
                    entry = entries[at]
                    f = (entry >> np.uint64(16)) & np.uint64(0xFFFF)
                    offset = slot - (entry & np.uint64(0xFFFF))
                    while offset >= f:
                        at += 1
                        entry = entries[at]
                        f = (entry >> np.uint64(16)) & np.uint64(0xFFFF)
                        offset = slot - (entry & np.uint64(0xFFFF))
                    symbol = np.int64(entry >> np.uint64(32))
                    x = f * (x >> _BITS) + offset
                if x < _LEAST:
                    if place >= have:
                        return -1
                    x = (x << _WORD) | np.uint64(words[place])
                    place += 1
                if symbol != ESCAPE:
                    break
                row = parents[row]
            data[lane * each + min(lane, more) + step] = symbol
            contexts[lane] = ((context << 8) | symbol) & mask
            states[lane] = x
    return place
