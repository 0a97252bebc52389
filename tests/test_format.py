"""The format of codes: files once written stay readable, and docs/format.md says all of it.

`format_decoder` was written from that page alone, so what it and xent both read is what it says.
The files under golden were written once, by ``compress(original, **options)`` with the originals
and options of `GOLDEN`; shared.model is ``ContextModel.of(TEXT, order=2).save``. They are never
written again: what an earlier version wrote must be read.
"""

from __future__ import annotations

import random
from hashlib import sha256
from pathlib import Path

import format_decoder
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xent.coding import ContextModel, compress, decompress
from xent.errors import CodeError, ModelError

FOLDER = Path(__file__).parent / "golden"
laws = settings(deadline=None, database=None, derandomize=True)

TEXT = "".join(f"{i:b} has {i.bit_count()} ones\n" for i in range(300)).encode()
FOREIGN = TEXT[:900] + "Überzählig ~~~".encode() + bytes(9) + TEXT[900:1000]
SHARED = (FOLDER / "shared.model").read_bytes()

GOLDEN = {
    "empty": (b"", {}),
    "byte": (b"x", {}),
    "repeated": (b"a" * 5000, {}),
    "text0": (TEXT, {"order": 0}),
    "text1": (TEXT, {"order": 1}),
    "text2": (TEXT, {"order": 2}),
    "short": (TEXT[:300], {"order": 2}),
    "blocks": (TEXT[:4050], {"order": 2, "block_size": 1000}),
    "lanes": (TEXT[:45], {"order": 1, "block_size": 7}),  # fewer bytes than lanes
    "values": (bytes(range(256)), {"order": 0}),
    "shared": (FOREIGN, {"model": "shared.model"}),
    "shared_empty": (b"", {"model": "shared.model"}),
}


MODEL = ContextModel.load(FOLDER / "shared.model")


def given_model(options):
    """Return options as `compress` takes them: with the model that they name."""
    options = {"block_size": 1 << 20, **options}
    return {**options, "model": MODEL} if "model" in options else options


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_files_are_read_by_both(name):
    original, options = GOLDEN[name]
    code = (FOLDER / f"{name}.xent").read_bytes()
    assert decompress(code, model=given_model(options).get("model")) == original
    assert format_decoder.decode(code, SHARED if "model" in options else None) == original


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_files_are_written_again(name):
    original, options = GOLDEN[name]
    assert compress(original, **given_model(options)) == (FOLDER / f"{name}.xent").read_bytes()


def test_the_golden_model_is_written_again(tmp_path):
    ContextModel.of(TEXT, order=2).save(tmp_path / "m.model")
    assert (tmp_path / "m.model").read_bytes() == SHARED
    MODEL.save(tmp_path / "again.model")
    assert (tmp_path / "again.model").read_bytes() == SHARED


def test_the_folder_holds_these_files_only():
    assert {path.name for path in FOLDER.iterdir()} == {f"{n}.xent" for n in GOLDEN} | {
        "shared.model"
    }


def test_golden_files_have_what_they_are_here_for():
    """Rows of every length, blocks, and escapes to a parent and to a plain byte."""
    orders, lengths = set(), {}
    for name in GOLDEN:
        header = format_decoder.header(
            format_decoder.Reader((FOLDER / f"{name}.xent").read_bytes())
        )
        if not header[4]:
            order, rows = format_decoder.parse_model(header[3])
            orders.add(order)
            lengths[name] = {length for length, _ in rows}
    assert orders == {0, 1, 2}
    assert (lengths["text0"], lengths["text1"], lengths["text2"]) == ({0}, {0, 1}, {0, 1, 2})
    _, rows = format_decoder.parse_model(SHARED[8:-4])
    assert {length for length, _ in rows} == {0, 1, 2}
    assert all(format_decoder.ESCAPE in symbols for symbols, _ in rows.values())
    assert set(FOREIGN) - set(rows[0, 0][0])  # which only the plain byte writes


def integer(data, start, stop):
    return int.from_bytes(data[start:stop], "little")


@pytest.mark.parametrize("name", GOLDEN)
def test_the_header_is_as_the_page_has_it(name):
    original, options = GOLDEN[name]
    code = (FOLDER / f"{name}.xent").read_bytes()
    assert code[:8].hex(" ").upper() == "89 58 45 4E 54 0D 0A 1A"
    assert code[8] == 1
    assert code[9] == ("model" in options)
    assert code[10:12] == bytes(2)
    block_size = integer(code, 12, 16)
    assert block_size == options.get("block_size", 1 << 20)
    assert integer(code, 16, 24) == len(original)
    assert integer(code, 24, 28) == format_decoder.crc32c(original)
    m = integer(code, 28, 32)
    if "model" in options:
        assert code[32 : 32 + m] == sha256(SHARED[8:-4]).digest()
    else:
        assert code[32] == options.get("order", 2)
        assert ContextModel.from_bytes(code[32 : 32 + m]).to_bytes() == code[32 : 32 + m]
    at = 36 + m
    assert integer(code, at - 4, at) == format_decoder.crc32c(code[: at - 4])
    for start in range(0, len(original), block_size):
        c = integer(code, at, at + 4)
        block = original[start : start + block_size]
        assert integer(code, at + 4, at + 8) == format_decoder.crc32c(block)
        assert 64 <= c <= 64 + 4 * len(block) * 4
        assert c % 4 == 0
        at += 8 + c
    assert at == len(code)


def test_a_model_by_itself_is_as_the_page_has_it():
    assert SHARED[:8].hex(" ").upper() == "89 58 45 4E 54 4D 0D 0A"
    assert integer(SHARED, len(SHARED) - 4, len(SHARED)) == format_decoder.crc32c(SHARED[8:-4])
    assert SHARED[8] == 2


def test_the_checksum_is_that_of_the_page():
    assert format_decoder.crc32c(b"123456789") == 0xE3069283
    assert format_decoder.crc32c(b"") == 0


# Few different bytes, in runs: contexts get rows of their own.
patterned = st.builds(
    lambda pieces, times: b"".join(pieces) * times,
    st.lists(st.sampled_from([b"a", b"ab", b"abc", b"b\0", b"\xff"]), max_size=12),
    st.integers(1, 60),
)
originals = st.binary(max_size=400) | patterned
orders = st.integers(0, 2)
block_sizes = st.integers(1, 40) | st.sampled_from([100, 1 << 20, 1 << 24])


def hold_to(code, original, model=None):
    """Both decoders must find the original."""
    assert decompress(code, model=model) == original
    own = None
    if model is not None:
        body = model.to_bytes()
        checksum = format_decoder.crc32c(body).to_bytes(4, "little")
        own = format_decoder.MODEL_MAGIC + body + checksum
    assert format_decoder.decode(code, own) == original


@given(originals, orders, block_sizes)
@settings(laws, max_examples=120)
@example(b"", 2, 1)
@example(b"\0" * 17, 2, 8)
def test_what_xent_writes_the_page_reads(original, order, block_size):
    hold_to(compress(original, order=order, block_size=block_size), original)


@given(originals, originals, orders, block_sizes)
@settings(laws, max_examples=120)
@example(b"", bytes(range(256)), 2, 1000)
def test_with_a_model_of_other_bytes(seen, original, order, block_size):
    model = ContextModel.of(seen, order=order)
    hold_to(compress(original, model=model, block_size=block_size), original, model)


def test_words_and_escapes_of_a_larger_input():
    """States that run over again and again, over rows of all lengths and the plain byte."""
    source = random.Random(5)
    text = b" ".join(source.choice(TEXT.split()) for _ in range(4000))
    original = bytearray(text)
    for at in range(0, len(original), 97):
        original[at] = source.randrange(256)
    hold_to(compress(original, order=2, block_size=9001), bytes(original))
    model = ContextModel.of(text, order=2)
    hold_to(compress(original, model=model), bytes(original), model)


# ---- models that no fit makes ----------------------------------------------------------------------


class Bits:
    """Bits written as the page has them."""

    def __init__(self):
        self.text = ""

    def number(self, value, width):
        self.text += f"{value:0{width}b}"

    def gamma(self, value):
        assert value > 0
        self.number(value, 2 * value.bit_length() - 1)

    def to_bytes(self):
        filled = self.text + "0" * (-len(self.text) % 8)
        return bytes(int(filled[i : i + 8], 2) for i in range(0, len(filled), 8))


def written(order, rows):
    """Return a model's bytes; `rows` has (b, {symbol: frequency}) by (length, context)."""
    bits = Bits()
    for length in range(order + 1):
        own = sorted(context for k, context in rows if k == length)
        if length:
            bits.number(len(own), 17)
        last = -1
        for context in own:
            b, frequencies = rows[length, context]
            bits.gamma(context - last)
            last = context
            bits.number(b, 4)
            bits.gamma(len(frequencies))
            before = -1
            for symbol in sorted(frequencies):
                bits.gamma(symbol - before)
                before = symbol
            for symbol in sorted(frequencies)[:-1]:
                bits.gamma(frequencies[symbol])
    return bytes([order]) + bits.to_bytes()


@st.composite
def rows_of(draw):
    """A row: 2^b cut into positive frequencies of some symbols."""
    b = draw(st.integers(0, 14))
    symbols = draw(st.sets(st.integers(0, 255), max_size=min(12, 2**b - 1))) | {256}
    cuts = draw(
        st.sets(st.integers(1, 2**b - 1), min_size=len(symbols) - 1, max_size=len(symbols) - 1)
        if len(symbols) > 1
        else st.just(set())
    )
    ends = [*sorted(cuts), 2**b]
    sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    return b, dict(zip(sorted(symbols), sizes, strict=True))


@st.composite
def models(draw):
    order = draw(orders)
    rows = {(0, 0): draw(rows_of())}
    for length in range(1, order + 1):
        for context in draw(st.sets(st.integers(0, 256**length - 1), max_size=5)):
            rows[length, context] = draw(rows_of())
    return order, rows


@given(models(), st.binary(max_size=80), st.integers(1, 80))
@settings(laws, max_examples=150)
@example((2, {(0, 0): (0, {256: 1}), (2, 0): (0, {256: 1}), (1, 0): (0, {256: 1})}), b"\0\1", 9)
@example((1, {(0, 0): (14, {5: 1, 256: 16383}), (1, 255): (1, {255: 1, 256: 1})}), b"\xff\xff", 9)
def test_any_model_that_the_page_allows(given_rows, original, block_size):
    order, rows = given_rows
    body = written(order, rows)
    model = ContextModel.from_bytes(body)
    assert model.to_bytes() == body
    assert (order, sorted(rows)) == (
        model.order,
        list(zip(model.levels.tolist(), model.contexts.tolist(), strict=True)),
    )
    for row, key in zip(model.frequencies, sorted(rows), strict=True):
        b, frequencies = rows[key]
        assert {s: f for s, f in enumerate(row.tolist()) if f} == {
            s: f << (14 - b) for s, f in frequencies.items()
        }
    hold_to(compress(original, model=model, block_size=block_size), original, model)


@given(
    st.sampled_from(["blocks", "byte", "empty", "lanes", "shared", "short", "values"]), st.data()
)
@settings(laws, max_examples=300)
def test_both_refuse_the_same(name, data):
    """Behind repaired checksums, what one decoder refuses the other refuses too."""
    original, _ = GOLDEN[name]
    code = bytearray((FOLDER / f"{name}.xent").read_bytes())
    end = 32 + integer(code, 28, 32)
    if data.draw(st.booleans(), label="in the header"):
        at = data.draw(st.integers(8, end - 1), label="at")
    else:
        at = data.draw(st.integers(8, len(code) - 1), label="at")
    at = 16 if 17 <= at < 24 else at  # lengths that take the slow decoder long
    code[at] ^= 1 << data.draw(st.integers(0, 7), label="bit")
    code[end : end + 4] = format_decoder.crc32c(code[:end]).to_bytes(4, "little")
    try:
        expected = format_decoder.decode(bytes(code), SHARED)
    except ValueError:
        with pytest.raises((CodeError, ModelError)):
            decompress(code, model=MODEL, threads=1)
        return
    assert expected == original
    assert decompress(code, model=MODEL, threads=1) == expected


# ---- what is refused ---------------------------------------------------------------------------------


def file_of(body, original=b"", blocks=b"", **fields):
    """Return a file with a header that `fields` changes, and its checksum right."""
    told = {
        "version": 1, "elsewhere": 0, "zero": 0, "block_size": 100, "length": len(original),
        "checksum": format_decoder.crc32c(original), "m": len(body),
    } | fields  # fmt: skip
    widths = (1, 1, 2, 4, 8, 4, 4)
    head = format_decoder.FILE_MAGIC + b"".join(
        value.to_bytes(width, "little") for value, width in zip(told.values(), widths, strict=True)
    )
    return head + body + format_decoder.crc32c(head + body).to_bytes(4, "little") + blocks


def block_of(block, code):
    checksum = format_decoder.crc32c(block)
    return len(code).to_bytes(4, "little") + checksum.to_bytes(4, "little") + code


ONLY_A = written(0, {(0, 0): (0, {97: 1})})
STATES = (1 << 31).to_bytes(8, "little") * 8

# These would do but for their range: 0 becomes 2³¹ with a word of 2³¹, and of a lane of aac, with
# frequencies 1, 1 and 2¹⁰, the encoder would take a word before it writes the second a.
LOW_STATES = bytes(16) + STATES[16:] + 2 * (1 << 31).to_bytes(4, "little")
THREE = written(0, {(0, 0): (14, {97: 1, 98: 15359, 99: 1024})})
HIGH_STATES = ((1 << 63) + (15360 << 28)).to_bytes(8, "little") * 8


def raw_model(*parts):
    """Return bytes from the order and the bits behind it, written as text."""
    bits = Bits()
    bits.text = "".join(parts[1:]).replace(" ", "")
    return bytes([parts[0]]) + bits.to_bytes()


# A row of one symbol: gap 1, b 0, one symbol, 97 + 1 in gamma.
ROW_A = "1 0000 1 0000001100010"

REFUSED = {
    "no byte": (b"", "begin with"),
    "other first bytes": (b"\x89XENT\n\x1a\0" + bytes(40), "begin with"),
    "another version": (file_of(ONLY_A, version=2), "version must be 1: got 2"),
    "version 0": (file_of(ONLY_A, version=0), "version must be 1: got 0"),
    "another place of the model": (file_of(ONLY_A, elsewhere=2), "the header"),
    "two bytes that are not 0": (file_of(ONLY_A, zero=256), "the header"),
    "blocks of no byte": (file_of(ONLY_A, block_size=0), "the header"),
    "blocks too large": (file_of(ONLY_A, block_size=(1 << 24) + 1), "the header"),
    "a model too large": (file_of(ONLY_A, m=(1 << 26) + 1), "the header"),
    "a fingerprint of 31 bytes": (file_of(bytes(31), elsewhere=1), "the header"),
    "a header's checksum": (file_of(ONLY_A)[:-1] + b"\0", "checksum"),
    "no model": (file_of(b""), "got nothing"),
    "order 3": (file_of(b"\3" + ONLY_A[1:]), "got order 3"),
    "a model cut off": (file_of(ONLY_A[:-1]), "byte 32"),
    "a model of its order only": (file_of(b"\0"), "byte 32"),
    "a byte behind the model": (file_of(ONLY_A + b"\0"), "bits are left"),
    "a bit behind the model": (file_of(ONLY_A[:-1] + bytes([ONLY_A[-1] | 1])), "bits are left"),
    "2^15 slots": (file_of(raw_model(0, "1 1111 1 0000001100010")), "make no sense"),
    "a context beyond the last": (file_of(raw_model(0, "010 0000 1 1")), "make no sense"),
    "a symbol beyond the escape": (
        file_of(raw_model(0, "1 0000 1 00000000100000010")),
        "make no sense",
    ),
    "more symbols than slots": (file_of(raw_model(0, "1 0000 010 1 1 1")), "make no sense"),
    "nothing left for the last": (file_of(raw_model(0, "1 0001 010 1 1 010")), "make no sense"),
    "258 symbols": (
        file_of(raw_model(0, "1 1110 00000000100000010", "1" * 600)),
        "make no sense",
    ),
    "257 rows of one byte": (
        file_of(raw_model(1, ROW_A, f"{257:017b}", ROW_A * 257)),
        "at most 256 contexts",
    ),
    "65537 rows of two bytes": (
        file_of(raw_model(2, ROW_A, f"{0:017b}", f"{65537:017b}", ROW_A * 99)),
        "at most 65536 contexts",
    ),
    "a number of many bits": (file_of(raw_model(0, "0" * 64 + "1" * 99)), "make no sense"),
    "states too low": (file_of(ONLY_A, b"aa", block_of(b"aa", LOW_STATES)), "block 0"),
    "states too high": (
        file_of(THREE, b"aac" * 8, block_of(b"aac" * 8, HIGH_STATES)),
        "block 0",
    ),
    "fewer than eight states": (file_of(ONLY_A, b"aa", block_of(b"aa", STATES[8:])), "block 0"),
    "no code": (file_of(ONLY_A, b"aa", block_of(b"aa", b"")), "block 0"),
    "half a word": (file_of(ONLY_A, b"aa", block_of(b"aa", STATES + b"ab")), "block 0"),
    "a word left over": (file_of(ONLY_A, b"aa", block_of(b"aa", STATES + b"abcd")), "block 0"),
    "more words than pushes": (
        file_of(ONLY_A, b"aa", block_of(b"aa", STATES + bytes(20))),
        "block 0 has 2 bytes",
    ),
    "a block's checksum": (file_of(ONLY_A, b"aa", block_of(b"ab", STATES)), "block 0"),
    "the whole's checksum": (
        file_of(ONLY_A, b"aa", block_of(b"aa", STATES), checksum=5),
        "checksum 00000005",
    ),
    "a byte behind the last block": (
        file_of(ONLY_A, b"aa", block_of(b"aa", STATES) + b"\0"),
        "end at byte",
    ),
    "a block behind the last": (
        file_of(ONLY_A, b"aa", 2 * block_of(b"aa", STATES)),
        "end at byte",
    ),
    "a block behind none": (file_of(ONLY_A, b"", block_of(b"", STATES)), "end at byte"),
    "a block missing": (
        file_of(ONLY_A, b"a" * 101, block_of(b"a" * 100, STATES)),
        "block 1 must have 8 bytes",
    ),
    "a model elsewhere": (file_of(bytes(32), elsewhere=1), "fingerprint 00000000"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_page_refuses(name):
    code, said = REFUSED[name]
    with pytest.raises(ValueError, match="refused"):
        format_decoder.decode(code)
    with pytest.raises((CodeError, ModelError)) as caught:
        decompress(code)
    assert said in str(caught.value)
    assert "Hint: " in str(caught.value)


def test_the_refused_are_one_step_from_what_is_read():
    """Without the fault that each of the above has, such a file is read."""
    for original, blocks in ((b"", b""), (b"aa", block_of(b"aa", STATES))):
        code = file_of(ONLY_A, original, blocks)
        hold_to(code, original)
    two = block_of(b"a" * 100, STATES) + block_of(b"a", STATES)
    hold_to(file_of(ONLY_A, b"a" * 101, two), b"a" * 101)
    hold_to(file_of(raw_model(0, ROW_A)), b"")
    hold_to(file_of(raw_model(1, ROW_A, f"{256:017b}", ROW_A * 256)), b"")
    escape = "1 0000 1 00000000100000001"
    assert ContextModel.from_bytes(raw_model(0, escape)).frequencies[0, 256] == 1 << 14
    hold_to(file_of(raw_model(0, escape)), b"")
    hold_to(file_of(ONLY_A, block_size=1 << 24), b"")


def test_another_model_is_refused_by_its_fingerprint():
    code = (FOLDER / "shared.xent").read_bytes()
    with pytest.raises(ModelError, match="got none"):
        decompress(code)
    other = ContextModel.of(TEXT[:-1], order=2)
    with pytest.raises(ModelError, match=other.fingerprint.hex()):
        decompress(code, model=other)
