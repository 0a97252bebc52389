"""The loops of Huffman's code, which numba compiles: building it, writing and reading its bits.

A canonical code gives codewords in ascending order, the shorter first, so that the longest ones are
almost all ones. A codeword is therefore known by its *complement* u, what it lacks to ℓ ones: no
codeword of a complete code of n symbols lacks n or more, however long it is. Numbers of 32 bits do
for codewords of thousands. Of the values of u at length ℓ, those below ``above[ℓ]`` begin a longer
codeword, and the others are one.

Bits are written from the highest of each byte. An entry of the encoder's table has the last 32 bits
of a codeword, and from bit 32 its length. An entry of the decoder's has in 5 bits the length of the
codeword that its index begins with, and above them the symbol; the length is 0 where the codeword
is longer than the index, or the escape.
"""

from __future__ import annotations

import numpy as np

from xent.coding.compiling import compiled

__all__ = [
    "count",
    "decode",
    "encode",
    "fill_table",
    "limited_lengths",
    "measure",
    "pack",
    "tree_lengths",
    "unpack",
]

TOO_SHORT, NO_SYMBOL = -1, -2
"""What `decode` returns for bits that end within a codeword, and for numbers of no symbol."""

_WORD, _FULL = np.uint64(32), np.uint64(64)
_ONE = np.uint64(1)
_LOW = np.uint64(0xFFFFFFFF)
_LENGTH = np.uint32(31)


# ---- building ------------------------------------------------------------------------------------


@compiled
def count(data, counts):
    """Add how often each index occurs."""
    for i in range(data.size):
        counts[data[i]] += 1


@compiled
def tree_lengths(weights, lengths):
    """Write the depths of Huffman's tree for at least two weights in ascending order.

    Sums come in ascending order too, so that the two least nodes stand at the heads of two queues.
    Of equal weights a leaf goes first, which makes the longest codeword as short as it can be.
    A sum that overflows is above every leaf, as it should be, and its queue keeps it in its place.
    """
    n = weights.size
    sums, parents = np.empty(n - 1), np.empty(2 * n - 1, np.int64)
    leaf, inner = 0, 0
    for made in range(n - 1):
        total = 0.0
        for _ in range(2):
            if inner == made or (leaf < n and weights[leaf] <= sums[inner]):
                total += weights[leaf]
                parents[leaf] = n + made
                leaf += 1
            else:
                total += sums[inner]
                parents[n + inner] = n + made
                inner += 1
        sums[made] = total
    depths = np.empty(n - 1, np.int64)
    depths[n - 2] = 0
    for node in range(n - 3, -1, -1):
        depths[node] = depths[parents[n + node] - n] + 1
    for i in range(n):
        lengths[i] = depths[parents[i] - n] + 1


@compiled
def limited_lengths(weights, limit, lengths):
    """Write the best lengths of at most `limit` for weights in ascending order: package-merge.

    At each level, items are the leaves and the pairs of the level below, by weight. The first
    2n − 2 items of the last level hold every leaf as often as its codeword has bits.
    """
    n = weights.size
    is_leaf = np.ones((limit, 2 * n), np.bool_)
    items, merged = np.empty(2 * n), np.empty(2 * n)
    items[:n] = weights
    size = n
    for level in range(1, limit):
        pairs = size // 2
        leaf, pair = 0, 0
        for i in range(n + pairs):
            both = items[2 * pair] + items[2 * pair + 1] if pair < pairs else np.inf
            if pair == pairs or (leaf < n and weights[leaf] <= both):
                merged[i] = weights[leaf]
                leaf += 1
            else:
                merged[i] = both
                is_leaf[level, i] = False
                pair += 1
        size = n + pairs
        items, merged = merged, items
    lengths[:] = 0
    take = 2 * n - 2
    for level in range(limit - 1, -1, -1):
        leaves = 0
        for i in range(take):
            leaves += is_leaf[level, i]
        lengths[:leaves] += 1
        take = 2 * (take - leaves)


@compiled
def fill_table(order, lengths, escape, bits, table):
    """Fill the decoder's table of 2^bits entries from symbols and lengths by ascending codeword."""
    at = 0
    for i in range(order.size):
        if lengths[i] > bits:
            break
        entry = np.uint32(0) if order[i] == escape else np.uint32((order[i] << 5) | lengths[i])
        width = 1 << (bits - lengths[i])
        table[at : at + width] = entry
        at += width
    table[at:] = np.uint32(0)


# ---- writing -------------------------------------------------------------------------------------


@compiled
def measure(data, prices):
    """Return how many bits the indices take, −1 − i where the one at i has no codeword."""
    total = 0
    for i in range(data.size):
        price = prices[data[i]]
        if price < 0:
            return -1 - i
        total += price
    return total


@compiled
def _push(words, place, held, have, code, length):
    """Write at most 32 bits behind fewer than 32 that are held."""
    held = (held << length) | code
    have += length
    if have >= _WORD:
        have -= _WORD
        words[place] = np.uint32((held >> have) & _LOW)
        place += 1
    return place, held, have


@compiled
def _push_long(words, place, held, have, entry):
    """Write a codeword of any length: ones, and then its last 32 bits."""
    length = entry >> _WORD
    while length > _WORD:
        some = min(_WORD, length - _WORD)
        place, held, have = _push(words, place, held, have, _LOW >> (_WORD - some), some)
        length -= some
    return _push(words, place, held, have, entry & _LOW, length)


@compiled
def encode(data, entries, longest, escape, numbers, number_bits, words):
    """Write the codewords of indices to words of 32 bits, the first bit highest.

    An entry of length 0 is written as the escape's and then the symbol's number.
    """
    place = 0
    held, have = np.uint64(0), np.uint64(0)
    for i in range(data.size):
        entry = entries[data[i]]
        length = entry >> _WORD
        if length == 0:
            place, held, have = _push_long(words, place, held, have, escape)
            number = np.uint64(numbers[data[i]])
            place, held, have = _push(words, place, held, have, number, np.uint64(number_bits))
        elif longest <= 32:
            place, held, have = _push(words, place, held, have, entry & _LOW, length)
        else:
            place, held, have = _push_long(words, place, held, have, entry)
    if have > 0:
        words[place] = np.uint32((held << (_WORD - have)) & _LOW)


@compiled
def pack(numbers, width, words):
    """Write numbers of one width, at most 63 bits, to words of 32."""
    place = 0
    held, have = np.uint64(0), np.uint64(0)
    low = np.uint64(min(width, 32))
    high = np.uint64(width) - low
    for i in range(numbers.size):
        number = np.uint64(numbers[i])
        place, held, have = _push(words, place, held, have, number >> low, high)
        place, held, have = _push(words, place, held, have, number & (_LOW >> (_WORD - low)), low)
    if have > 0:
        words[place] = np.uint32((held << (_WORD - have)) & _LOW)


# ---- reading -------------------------------------------------------------------------------------


@compiled
def _window(words, place):
    """Return the 64 bits from a place on; a word must follow the one that the place is in."""
    at, skip = place >> 6, np.uint64(place & 63)
    return (words[at] << skip) | ((words[at + 1] >> _ONE) >> (np.uint64(63) - skip))


@compiled
def _read(words, place, bits, canonical):
    """Read one symbol, bit by bit after the shortest length; return it, and the next place."""
    shortest, order, above, last, escape, spare, number_bits = canonical
    length = shortest
    if place + length > bits:
        return 0, TOO_SHORT
    lacks = np.int64(~_window(words, place) >> (_FULL - np.uint64(length)))
    while lacks < above[length]:
        at = place + length
        if at >= bits:
            return 0, TOO_SHORT
        bit = (words[at >> 6] >> np.uint64(63 - (at & 63))) & _ONE
        lacks = 2 * lacks + 1 - np.int64(bit)
        length += 1
    symbol = order[last[length] - (lacks - above[length])]
    place += length
    if symbol != escape:
        return symbol, place
    if place + number_bits > bits:
        return 0, TOO_SHORT
    number = 0
    if number_bits > 0:
        number = np.int64(_window(words, place) >> (_FULL - np.uint64(number_bits)))
    if number >= spare.size:
        return 0, NO_SYMBOL
    return spare[number], place + number_bits


@compiled
def decode(words, bits, table, table_bits, canonical, data):
    """Read symbols from words of 64 bits, behind which a word or two of zeros stand.

    `canonical` is what tells the longer codewords: the shortest length, the symbols in the order of
    their codewords, for each length how many codewords lie above, and the place of the last one,
    the escape, the symbols behind it, and the bits of their number.

    Returns how many bits were read, or `TOO_SHORT` or `NO_SYMBOL`. Four symbols are read from one
    window of 64 bits, as the table's codewords have at most 16; the others are read one by one.
    """
    n = data.size
    shift = np.uint64(64 - table_bits)
    place, i = 0, 0
    while i < n:
        while i + 4 <= n and place + 64 <= bits:
            window = _window(words, place)
            got = 0
            for _ in range(4):
                entry = table[window >> shift]
                length = entry & _LENGTH
                if length == 0:
                    break
                data[i + got] = entry >> np.uint32(5)
                window <<= np.uint64(length)
                place += np.int64(length)
                got += 1
            i += got
            if got < 4:
                break
        if i < n:
            symbol, place = _read(words, place, bits, canonical)
            if place < 0:
                return place
            data[i] = symbol
            i += 1
    return place


@compiled
def unpack(words, width, numbers):
    """Read numbers of one width, 1 to 63 bits, from words of 64 bits with one behind them."""
    for i in range(numbers.size):
        numbers[i] = np.int64(_window(words, i * width) >> (_FULL - np.uint64(width)))
