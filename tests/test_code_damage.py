"""Damaged, foreign and hostile files: refused with where, at once, and never read as other bytes."""

from __future__ import annotations

import io
import random
import re
import time
import tracemalloc
import zipfile
from functools import cache
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xent.coding import ContextModel, compress, decompress
from xent.coding.container import MAGIC, decompress_stream
from xent.errors import CodeError, ModelError

laws = settings(deadline=None, database=None, derandomize=True)

PLAIN = b"".join(b"%d is %d and %d\n" % (i, i * i, i**3) for i in range(12))
FIXED = 32  # bytes before the model, of which the last four are its length
MODEL = ContextModel.of(PLAIN * 9, order=2)
CODES = {
    "one block": (compress(PLAIN, order=1), PLAIN),
    "three blocks": (compress(PLAIN, order=0, block_size=80), PLAIN),
    "rows of two bytes": (compress(PLAIN[:60] * 30, order=2), PLAIN[:60] * 30),
    "a model elsewhere": (compress(PLAIN + b"~\0", model=MODEL), PLAIN + b"~\0"),
    "nothing": (compress(b""), b""),
}
NAMES = list(CODES)


def read(code):
    """Decode with the model that some of the files ask for."""
    return decompress(code, model=MODEL, threads=1)


def refused(code):
    """Return the message of the refusal, which there must be."""
    with pytest.raises((CodeError, ModelError)) as caught:
        read(code)
    message = str(caught.value)
    assert "Hint: " in message
    return message


def header_end(code):
    """Return where the header's checksum stands."""
    return FIXED + int.from_bytes(code[28:32], "little")


def repaired(code, end):
    """Return a file whose header has the right checksum again."""
    code = bytes(code)
    return code[:end] + google_crc32c.value(code[:end]).to_bytes(4, "little") + code[end + 4 :]


# ---- cut off, flipped, continued ---------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_off_anywhere(name):
    code, original = CODES[name]
    assert read(code) == original
    for size in range(len(code)):
        message = refused(code[:size])
        if size:
            where = re.search(
                r"(header|model|block \d+) must have (\d+) bytes from byte (\d+) on: "
                r"the file ends after (\d+)",
                message,
            )
            assert where is not None, message
            _, wanted, start, had = where.groups()
            assert int(start) + int(had) == size < int(start) + int(wanted)


@pytest.mark.parametrize("name", NAMES)
def test_a_byte_changed_anywhere(name):
    code, _ = CODES[name]
    for at in range(len(code)):
        for change in (0xFF, *(1 << bit for bit in range(8))):
            damaged = bytearray(code)
            damaged[at] ^= change
            refused(damaged)


def test_blocks_exchanged_or_lost():
    code, _ = CODES["three blocks"]
    start = header_end(code) + 4
    blocks = []
    while start < len(code):
        stop = start + 8 + int.from_bytes(code[start : start + 4], "little")
        blocks.append(code[start:stop])
        start = stop
    head = code[: header_end(code) + 4]
    assert len(blocks) >= 3
    assert "the whole must match its checksum" in refused(
        head + b"".join([blocks[1], blocks[0], *blocks[2:]])
    )
    refused(head + b"".join(blocks[1:]))
    refused(head + b"".join([blocks[0], *blocks]))
    refused(head + b"".join([*blocks[:-1], blocks[0]]))


@pytest.mark.parametrize("more", [b"\0", b"\n", b"x" * 100, MAGIC])
@pytest.mark.parametrize("name", NAMES)
def test_bytes_behind_the_last_block(name, more):
    code, _ = CODES[name]
    assert f"must end at byte {len(code)}" in refused(code + more)


def test_two_files_are_not_one():
    for code, _ in CODES.values():
        refused(code + code)


# ---- behind repaired checksums -----------------------------------------------------------------------


def same_or_refused(code, original):
    """What still passes both checksums of the original is the original."""
    try:
        found = read(code)
    except (CodeError, ModelError):
        return False
    assert found == original
    return True


@pytest.mark.parametrize("name", NAMES)
def test_a_bit_of_header_or_model_changed_behind_its_checksum(name):
    code, original = CODES[name]
    end = header_end(code)
    for at in range(len(MAGIC), end):
        if at in range(28, 32):  # the checksum is elsewhere then
            continue
        for bit in range(8):
            damaged = bytearray(code)
            damaged[at] ^= 1 << bit
            passed = same_or_refused(repaired(damaged, end), original)
            if at < FIXED:  # of these, only another size of blocks can leave all where it is
                size, before = (int.from_bytes(c[12:16], "little") for c in (damaged, code))
                one = len(original) <= min(size, before) and 1 <= size <= 1 << 24
                assert passed == (at in range(12, 16) and one), (at, bit)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_another_length_behind_its_checksum(name):
    code, original = CODES[name]
    end = header_end(code)
    shared = code[9] == 1
    for size in (0, 1, end - FIXED - 1, end - FIXED + 1, 33, 31, 1000):
        if size == end - FIXED:
            continue
        body = (code[FIXED:end] + bytes(1000))[:size]
        damaged = code[:28] + size.to_bytes(4, "little") + body + bytes(4) + code[end + 4 :]
        assert not same_or_refused(repaired(damaged, FIXED + size), original)
        if shared:
            assert "the header" in refused(repaired(damaged, FIXED + size))


def test_a_size_of_blocks_that_changes_nothing_is_no_damage():
    code, original = CODES["one block"]
    damaged = code[:12] + (len(original)).to_bytes(4, "little") + code[16:]
    assert read(repaired(damaged, header_end(code))) == original
    damaged = code[:12] + (len(original) - 1).to_bytes(4, "little") + code[16:]
    assert "block 0" in refused(repaired(damaged, header_end(code)))


def test_the_message_names_the_block():
    code, _ = CODES["three blocks"]
    start = header_end(code) + 4
    for number in range(3):
        size = int.from_bytes(code[start : start + 4], "little")
        for at in (start + 4, start + 8 + 40, start + 8 + size - 1):  # checksum, state, last word
            damaged = bytearray(code)
            damaged[at] ^= 1
            assert refused(damaged).startswith(f"block {number}, from byte {80 * number}: ")
        damaged = bytearray(code)
        damaged[start + 3] ^= 0x7F
        message = refused(damaged)
        assert message.startswith(f"block {number} has ")
        assert f"byte {start} " in message
        start += 8 + size


# ---- what is none ------------------------------------------------------------------------------------


def _zip():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.txt", "a" * 100)
    return file.getvalue()


FOREIGN = {
    "empty": b"",
    "text": b"XENT is not what this is\n",
    "a zip": _zip(),
    "gzip": bytes.fromhex("1f8b0800") + bytes(40),
    "a PNG": b"\x89PNG\r\n\x1a\n" + bytes(60),
    "zeros": bytes(1000),
    "a model": b"\x89XENTM\r\n" + MODEL.to_bytes() + bytes(4),
    "line ends changed": CODES["one block"][0].replace(b"\r\n", b"\n"),
    "line ends changed back": CODES["one block"][0].replace(b"\n", b"\r\n"),
    "as UTF-8": CODES["one block"][0].decode("latin-1").encode(),
    "without its first byte": CODES["one block"][0][1:],
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files(name):
    message = refused(FOREIGN[name])
    assert message.startswith("a file of codes must begin with b'\\x89XENT\\r\\n\\x1a': got b'")
    assert "xent code compress" in message


@pytest.mark.parametrize("name", [*FOREIGN, "a code"])
def test_foreign_files_are_no_models(name, tmp_path):
    data = FOREIGN.get(name, CODES["one block"][0])
    path = tmp_path / "m.model"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"m\.model") as caught:
        ContextModel.load(path)
    assert "Hint: " in str(caught.value)


def test_a_model_file_cut_off_or_changed_anywhere(tmp_path):
    path = tmp_path / "m.model"
    ContextModel.of(PLAIN, order=1).save(path)
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(ModelError, match=r"m\.model"):
            ContextModel.load(path)
    for at in range(len(data)):
        for change in (0xFF, *(1 << bit for bit in range(8))):
            path.write_bytes(data[:at] + bytes([data[at] ^ change]) + data[at + 1 :])
            with pytest.raises(ModelError, match=r"m\.model"):
                ContextModel.load(path)
    for more in (b"\0", data):
        path.write_bytes(data + more)
        with pytest.raises(ModelError, match=r"m\.model"):
            ContextModel.load(path)


def test_arrays_and_buffers_of_a_file_are_read_too():
    code, original = CODES["one block"]
    for same in (bytearray(code), memoryview(code), np.frombuffer(code, np.uint8)):
        assert read(same) == original


# ---- lengths that are not believed --------------------------------------------------------------------


def hostile(body=b"", *, shared=0, block_size=1 << 20, length=0, m=None, blocks=b""):
    """Return a file whose checksums hold and whose numbers are as given."""
    numbers = (
        (1, 1), (shared, 1), (0, 2), (block_size, 4), (length, 8), (0, 4),
        (len(body) if m is None else m, 4),
    )  # fmt: skip
    head = MAGIC + b"".join(value.to_bytes(width, "little") for value, width in numbers)
    return head + body + google_crc32c.value(head + body).to_bytes(4, "little") + blocks


SMALL = ContextModel.of(b"a", order=0, escape=False).to_bytes()
ORDER_2 = compress(b"", order=2)[FIXED:-4]
STATES = (1 << 31).to_bytes(8, "little") * 8


def row_count(value, width=17):
    """Return a model of order 1 that tells so many rows, behind that of no byte."""
    bits = "1000011" + f"{value:0{width}b}" + "0" * 8
    return b"\1" + int(bits + "0" * (-len(bits) % 8), 2).to_bytes(-(-len(bits) // 8), "big")


HOSTILE = {
    "2^63 bytes": hostile(SMALL, length=1 << 63),
    "2^64 - 1 bytes in blocks of 1": hostile(SMALL, length=(1 << 64) - 1, block_size=1),
    "2^63 bytes in blocks of 2^24": hostile(SMALL, length=1 << 63, block_size=1 << 24),
    "2^63 bytes and a code of 2^32": hostile(
        SMALL, length=1 << 63, block_size=1 << 24, blocks=b"\xff" * 8
    ),
    "a code of 2^27": hostile(
        SMALL, length=1 << 63, block_size=1 << 24, blocks=(1 << 27).to_bytes(4, "little") + bytes(4)
    ),
    "a code of 2^28 for order 2": hostile(
        ORDER_2, length=1 << 63, block_size=1 << 24, blocks=(1 << 28).to_bytes(4, "little") + bytes(9)
    ),
    "a block of 2^24 with too few words": hostile(
        SMALL, length=1 << 63, block_size=1 << 24,
        blocks=(64).to_bytes(4, "little") + bytes(4) + STATES[:-1] + b"\1",
    ),
    "a model of 2^26": hostile(m=1 << 26),
    "a model of 2^32 - 1": hostile(m=(1 << 32) - 1),
    "a model of 2^26 and a little": hostile(bytes(100), m=1 << 26),
    "a fingerprint of 2^26": hostile(shared=1, m=1 << 26),
    "256 rows in few bytes": hostile(row_count(256)),
    "2^17 - 1 rows": hostile(row_count((1 << 17) - 1)),
    "65536 rows of two bytes": hostile(ORDER_2[:1] + row_count(0)[1:] + b"\xff" * 8),
    "numbers of many zeros": hostile(b"\2" + bytes(5000)),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_lengths_are_not_believed(name):
    read(CODES["rows of two bytes"][0])  # what is compiled is compiled
    code = HOSTILE[name]
    assert len(code) < 5100
    tracemalloc.start()
    try:
        before = time.process_time()
        message = refused(code)
        took = time.process_time() - before
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20, message
    assert took < 1.0, message
    assert re.search(r"byte \d+|block \d+|the header", message), message


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_memory_stays_within_blocks(threads):
    """A file of few bytes that stands for very many takes three blocks for each thread and two more."""
    size, blocks = 1 << 20, 40
    checksum = google_crc32c.value(b"a" * size).to_bytes(4, "little")
    one = len(STATES).to_bytes(4, "little") + checksum + STATES
    code = hostile(SMALL, length=1 << 63, block_size=size, blocks=one * blocks)
    decompress(CODES["one block"][0])
    told = []
    tracemalloc.start()
    try:
        with pytest.raises(CodeError, match=f"block {blocks} must have 8 bytes"):
            decompress_stream(
                io.BytesIO(code), None, threads=threads, progress=lambda *a: told.append(a)
            )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert told[0] == (size, 1 << 63)
    assert peak < (threads * 3 + 2) * size


# ---- inputs by the thousand ---------------------------------------------------------------------------


@cache
def golden():
    """Return the golden files, of which mutants are made too."""
    paths = sorted((Path(__file__).parent / "golden").glob("*.xent"))
    return [code for path in paths if len(code := path.read_bytes()) < 1500]


def mutant(source):
    """Return one input: random bytes, such bytes behind what is right, or a file with changes."""
    kind = source.random()
    junk = source.randbytes(source.choice([0, 1, 7, 8, 31, 40, 100, 600]))
    if kind < 0.04:
        return junk
    if kind < 0.08:
        return MAGIC + junk
    if kind < 0.3:  # a model of random bits, sparse ones too, behind a checksum that holds
        bits = source.choice([junk, bytes(b & source.getrandbits(8) for b in junk), b"\xff" * 30])
        length = source.choice([0, 1, 100, 1 << 63])
        body = bytes([source.randrange(3)]) + bits
        return hostile(body, length=length, blocks=source.randbytes(80))
    code = bytearray(source.choice([*(code for code, _ in CODES.values()), *golden()]))
    end = header_end(code)
    for _ in range(source.choice([1, 1, 1, 2, 5])):
        at = source.randrange(8, end) if source.random() < 0.7 else source.randrange(len(code))
        change = source.randrange(6)
        if change == 0:
            code[at] ^= 1 << source.randrange(8)
        elif change == 1:
            code[at] = source.choice([0, 1, 127, 128, 255])
        elif change == 2:
            code[at : at + source.randrange(5)] = b""
        elif change == 3:
            code[at:at] = source.randbytes(source.randrange(1, 5))
        elif change == 4:
            other = source.choice(list(CODES.values()))[0]
            code[at:] = other[min(at, len(other)) :]
        else:
            code[at : at + 4] = source.randbytes(4)
        if len(code) <= FIXED:
            return bytes(code)
        end = min(end, len(code))
    if source.random() < 0.8 and len(code) >= header_end(code) + 4:
        return repaired(code, header_end(code))
    return bytes(code)


def survives(code):
    """Hand an input to both parsers; return whether each took it."""
    taken = [False, False]
    try:
        found = read(code)
    except (CodeError, ModelError):
        pass
    else:
        taken[0] = True
        assert len(found) == int.from_bytes(code[16:24], "little")
        assert google_crc32c.value(found) == int.from_bytes(code[24:28], "little")
    body = code[FIXED:-4] if code.startswith(MAGIC) else code
    if len(code) >= FIXED + 4:
        body = code[FIXED : header_end(code)]
    try:
        model = ContextModel.from_bytes(body)
    except ModelError:
        pass
    else:
        taken[1] = True
        # There is one way to write a model, and all that are read have codes.
        assert model.to_bytes() == body
        assert (model.frequencies.sum(axis=1) == 1 << 14).all()
        assert model.frequencies.min() >= 0
    return taken


def fuzz(inputs, seed):
    """Return how many inputs each parser took, and the longest time of one."""
    read(CODES["rows of two bytes"][0])
    source = random.Random(seed)
    taken, slowest = [0, 0], 0.0
    for number in range(inputs):
        code = mutant(source)
        before = time.process_time()
        try:
            each = survives(code)
        except Exception as error:
            raise AssertionError(f"input {number} of seed {seed}: {code.hex()}") from error
        slowest = max(slowest, time.process_time() - before)
        taken = [a + b for a, b in zip(taken, each, strict=True)]
    return *taken, slowest


def test_thousands_of_inputs():
    codes, models, slowest = fuzz(3000, seed=1)
    assert slowest < 1.0
    assert 20 < codes < 1500  # both ways are taken, or the inputs test nothing
    assert 100 < models < 2500


@pytest.mark.slow
def test_a_hundred_thousand_inputs():
    codes, models, slowest = fuzz(100_000, seed=2)
    assert slowest < 1.0
    assert codes > 500
    assert models > 3000


@given(st.binary(max_size=120))
@settings(laws, max_examples=200)
@example(b"")
@example(b"\1\0\0\0" + bytes(20))
def test_any_bytes_behind_the_first_eight(data):
    refused(MAGIC + data)  # 2⁻³² of them would not be


@given(st.integers(0, 2), st.binary(max_size=60), st.integers(0, 300), st.binary(max_size=90))
@settings(laws, max_examples=300)
@example(0, b"\xff", 0, b"")
@example(2, b"", 1, b"")
def test_any_model_behind_a_checksum(order, bits, length, blocks):
    code = hostile(bytes([order]) + bits, length=length, blocks=blocks)
    taken = survives(code)
    assert taken[1] or not taken[0]
    assert not taken[0] or length == 0


@given(st.binary(max_size=200), st.integers(0, 40), st.integers(0, 2))
@settings(laws, max_examples=200)
def test_any_code_of_a_block(code, size, order):
    """Blocks whose states and words are anything: some are codes, of bytes that fail their checksum."""
    from xent.coding import decode_block, encode_block

    model = ContextModel.of(PLAIN, order=order)
    try:
        found = decode_block(code, size, model)
    except CodeError:
        return
    assert len(found) == size
    assert encode_block(found, model) == code
