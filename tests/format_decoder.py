"""Decode what docs/format.md describes, from that page alone: no xent, no NumPy, and slowly.

`decode` raises ValueError for whatever the page says is refused. Headings are those of the page.
"""

from bisect import bisect_right
from hashlib import sha256

FILE_MAGIC = bytes.fromhex("89 58 45 4E 54 0D 0A 1A")
MODEL_MAGIC = bytes.fromhex("89 58 45 4E 54 4D 0D 0A")
ESCAPE = 256
SLOT_BITS = 14
LOWEST, HIGHEST = 1 << 31, 1 << 63  # of a state: from the first, below the second


def decode(data, model=None):
    """Return the original of a file's bytes; `model` holds the bytes of a model by itself."""
    file = Reader(data)
    block_size, length, total, model_code, elsewhere = header(file)
    if elsewhere:
        expect(model is not None, "the model is elsewhere")
        body = model_by_itself(model)
        expect(sha256(body).digest() == model_code, "another model's fingerprint")
    else:
        body = model_code
    order, rows = parse_model(body)
    original = bytearray()
    while len(original) < length:
        size = min(block_size, length - len(original))
        bytes_of_code, checksum = file.number(4), file.number(4)
        expect(bytes_of_code <= 64 + 4 * size * (order + 2), "a code too long for its block")
        expect(bytes_of_code >= 64, "a code without eight states")
        expect(bytes_of_code % 4 == 0, "a code of broken words")
        block = decode_block(file.take(bytes_of_code), size, order, rows)
        expect(crc32c(block) == checksum, "checksum of a block")
        original += block
    expect(file.left() == 0, "bytes behind the last block")
    expect(crc32c(original) == total, "checksum of the original")
    return bytes(original)


def crc32c(data):
    """Return RFC 3720's checksum."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_OF_BYTE[(crc ^ byte) & 255] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _crc_of_byte(value):
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


CRC_OF_BYTE = [_crc_of_byte(value) for value in range(256)]


def expect(true, what):
    if not true:
        raise ValueError(f"refused: {what}")


class Reader:
    """Bytes from the first to the last; a number's lowest byte comes first."""

    def __init__(self, data):
        self.data, self.at = bytes(data), 0

    def left(self):
        return len(self.data) - self.at

    def take(self, count):
        expect(count <= self.left(), f"cut off at byte {len(self.data)}")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, count):
        return int.from_bytes(self.take(count), "little")


# A file


def header(file):
    """Return block size, length, checksum of the original, m bytes, and whether they name a model."""
    expect(file.take(8) == FILE_MAGIC, "first bytes")
    expect(file.number(1) == 1, "version")
    elsewhere = file.number(1)
    expect(elsewhere in {0, 1}, "where the model is")
    expect(file.number(2) == 0, "two bytes of 0")
    block_size, length, total, m = (file.number(count) for count in (4, 8, 4, 4))
    expect(1 <= block_size <= 1 << 24, "block size")
    expect(m == 32 if elsewhere else m <= 1 << 26, "length of the model")
    model = file.take(m)
    before = file.data[: file.at]
    expect(file.number(4) == crc32c(before), "checksum of the header")
    return block_size, length, total, model, elsewhere


# A model by itself


def model_by_itself(data):
    """Return the model's bytes."""
    expect(data[:8] == MODEL_MAGIC, "first bytes of a model")
    expect(len(data) >= 12, "a model cut off")
    body, checksum = data[8:-4], int.from_bytes(data[-4:], "little")
    expect(crc32c(body) == checksum, "checksum of a model")
    return body


# A model


class Bits:
    """Bits of bytes, of each the highest first."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def bit(self):
        expect(self.at < 8 * len(self.data), "a model cut off")
        bit = self.data[self.at // 8] >> (7 - self.at % 8) & 1
        self.at += 1
        return bit

    def number(self, count):
        value = 0
        for _ in range(count):
            value = 2 * value + self.bit()
        return value

    def gamma(self, most):
        """Return a number from 1 to `most`."""
        zeros = 0
        while not self.bit():
            zeros += 1
            expect(zeros < most.bit_length(), f"a number beyond {most}")
        value = (1 << zeros) + self.number(zeros)
        expect(value <= most, f"a number beyond {most}")
        return value


def parse_model(data):
    """Return the order, and rows (symbols, first slots and the end) by (length, context)."""
    expect(len(data) > 0, "a model of no bytes")
    order = data[0]
    expect(order <= 2, "order of a model")
    bits = Bits(data[1:])
    rows = {}
    for length in range(order + 1):
        contexts = 256**length
        count = bits.number(17) if length else 1
        expect(count <= contexts, "more rows than contexts")
        context = -1
        for _ in range(count):
            expect(context < contexts - 1, "a context beyond the last")
            context += bits.gamma(contexts - 1 - context)
            rows[length, context] = parse_row(bits)
    while bits.at % 8:
        expect(bits.bit() == 0, "bits of 1 behind the last row")
    expect(bits.at == 8 * len(bits.data), "bytes behind the last row")
    return order, rows


def parse_row(bits):
    b = bits.number(4)
    expect(b <= SLOT_BITS, "the sum of a row")
    count = bits.gamma(257)
    symbols = [-1]
    for _ in range(count):
        expect(symbols[-1] < ESCAPE, "a symbol beyond the escape")
        symbols.append(symbols[-1] + bits.gamma(ESCAPE - symbols[-1]))
    firsts = [0]
    for _ in range(count - 1):
        firsts.append(firsts[-1] + bits.gamma(1 << SLOT_BITS))
    expect(firsts[-1] < 1 << b, "nothing left for the last symbol")
    return symbols[1:], [first << (SLOT_BITS - b) for first in firsts] + [1 << SLOT_BITS]


# A block's code


def row_of(length, context, rows):
    """Return the key of the row that a context has, its own or a shorter one's."""
    while (length, context) not in rows:
        length -= 1
        context %= 256**length
    return length, context


def find(row, slot):
    """Return the symbol of a slot, its frequency and its first slot."""
    symbols, firsts = row
    i = bisect_right(firsts, slot) - 1
    return symbols[i], firsts[i + 1] - firsts[i], firsts[i]


def decode_block(code, size, order, rows):
    file = Reader(code)
    states = [file.number(8) for _ in range(8)]
    expect(all(LOWEST <= x < HIGHEST for x in states), "a state outside its range")
    lanes = [bytearray(order) for _ in range(8)]  # bytes of 0 before the first
    for i in range(size):
        lane = i % 8  # places of all lanes in turn; the first `size % 8` lanes have one more
        before = int.from_bytes(lanes[lane][len(lanes[lane]) - order :], "big")
        length, context = row_of(order, before, rows)
        x, symbol = states[lane], ESCAPE
        while symbol == ESCAPE:
            s = x % (1 << SLOT_BITS)
            if length < 0:  # a plain byte
                symbol, f, c = s // 64, 64, s // 64 * 64
            else:
                symbol, f, c = find(rows[length, context], s)
            x = f * (x >> SLOT_BITS) + s - c
            if x < LOWEST:
                x = (x << 32) + file.number(4)
            if symbol == ESCAPE:
                length -= 1  # to the parent, which none is of the row of no byte
                if length >= 0:
                    length, context = row_of(length, context % 256**length, rows)
        states[lane] = x
        lanes[lane].append(symbol)
    expect(states == [LOWEST] * 8, "states at the end")
    expect(file.left() == 0, "words left over")
    return b"".join(bytes(lane[order:]) for lane in lanes)
