"""Codes on blocks: within 1/G bits of the entropy, and whole bits for numbered blocks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xent
from xent.coding.bits import EncodedBits
from xent.coding.blocks import BlockCode
from xent.coding.huffman import HuffmanCode
from xent.errors import CodeError, DistributionError, OptionError, ShapeError

laws = settings(max_examples=60, deadline=None, database=None, derandomize=True)

distributions = (
    st.lists(st.floats(0, 1) | st.just(1e-200), min_size=1, max_size=5)
    .filter(lambda w: sum(w) > 1e-3)
    .map(lambda w: np.array(w) / math.fsum(w))
)


@laws
@given(distributions, st.integers(1, 5))
def test_the_bound(p, block):
    code = BlockCode(p, block)
    low, high = code.bounds
    assert low == code.entropy == pytest.approx(float(xent.entropy(p, unit="bits")), rel=1e-12)
    assert high == low + 1 / block
    assert low * (1 - 1e-12) <= code.bits_per_symbol <= high
    if p[p > 0].min() > 1e-12:  # else the two may be the same number
        assert code.bits_per_symbol < high


@laws
@given(st.lists(st.integers(0, 3), max_size=6), st.integers(1, 4))
def test_powers_of_two_reach_the_entropy_in_blocks_of_any_size(splits, block):
    exponents = [0]
    for at in splits:
        exponent = exponents.pop(at % len(exponents))
        exponents += [exponent + 1, exponent + 1]
    code = BlockCode([2.0**-e for e in exponents], block)
    assert code.bits_per_symbol == sum(e * 2.0**-e for e in exponents)


@laws
@given(distributions, st.integers(1, 4))
def test_it_is_huffmans_code_of_the_product(p, block):
    product = [math.prod(q) for q in itertools.product(p.tolist(), repeat=block)]
    code = BlockCode(p, block)
    if not any(q == 0 < min(x for x in p if x > 0) for q in product):
        expected = HuffmanCode(np.array(product)).expected_length(np.array(product))
        assert code.bits_per_symbol * block == pytest.approx(expected, rel=1e-12)
    possible = [all(q) for q in itertools.product(p > 0, repeat=block)]
    assert (code.code.lengths >= 0).tolist() == possible


def test_blocks_come_closer_to_the_entropy():
    codes = [BlockCode([0.9, 0.1], block) for block in range(1, 13)]
    assert codes[0].bits_per_symbol == 1
    assert codes[1].bits_per_symbol == pytest.approx(0.645)  # 1, 2, 3 and 3 bits for two symbols
    assert codes[-1].bits_per_symbol - codes[-1].entropy < 0.02


def test_ten_outcomes_in_a_fixed_number_of_bits():
    bits = [BlockCode([0.1] * 10, g, fixed_length=True).bits_per_symbol for g in range(1, 19)]
    assert bits[0] == 4
    assert bits[2] == 10 / 3
    for block, each in enumerate(bits, 1):
        assert math.log2(10) < each < math.log2(10) + 1 / block
        assert each * block == pytest.approx(len(bin(10**block - 1)) - 2)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9, 255, 256, 257])
def test_a_fixed_length_is_the_least_that_tells_the_possible_ones_apart(count):
    p = np.zeros(300)
    p[::1][:count] = 1 / count
    code = BlockCode(p, 1, fixed_length=True)
    width = int(code.bits_per_symbol)
    assert 2**width >= count
    assert width == 0 or 2 ** (width - 1) < count
    assert code.code is None
    assert code.bounds == (math.log2(count), math.log2(count) + 1)
    assert code.bounds[0] <= code.bits_per_symbol < code.bounds[1]


# ---- there and back ------------------------------------------------------------------------------


@laws
@given(distributions, st.integers(1, 5), st.booleans(), st.data())
def test_symbols_come_back(p, block, fixed, data):
    code = BlockCode(p, block, fixed_length=fixed)
    possible = np.flatnonzero(p > 0).tolist()
    symbols = data.draw(st.lists(st.sampled_from(possible), max_size=40))
    encoded = code.encode(symbols)
    assert encoded.count == len(symbols)
    back = code.decode(encoded)
    assert back.dtype == np.uint8
    assert back.tolist() == symbols
    if fixed:
        assert encoded.bits == -(-len(symbols) // block) * round(code.bits_per_symbol * block)


@pytest.mark.parametrize("fixed", [False, True])
def test_the_last_block_is_filled_up_with_the_most_likely_symbol(fixed):
    code = BlockCode([0.2, 0.5, 0.3], 4, symbols="abc", fixed_length=fixed)
    for length in range(9):
        data = list("abcacbab"[:length])
        filled = data + ["b"] * (-length % 4)
        encoded = code.encode(data)
        assert encoded == EncodedBits(code.encode(filled).data, code.encode(filled).bits, length)
        assert code.decode(encoded) == data
    with pytest.raises(CodeError, match="filled up with the most likely symbol, 'b'"):
        code.decode(EncodedBits(code.encode("abca").data, code.encode("abca").bits, 3))


def test_the_first_symbol_is_the_highest_digit():
    code = BlockCode([0.1] * 10, 3, fixed_length=True)
    encoded = code.encode([3, 1, 4, 1, 5])
    assert int.from_bytes(encoded.data, "big") >> 4 == (314 << 10) | 150
    huffman = BlockCode([0.5, 0.25, 0.25], 2)
    assert huffman.code.codewords[1] == "010"  # the block 0, 1
    assert huffman.encode([0, 1, 1, 0]).bits == 6


def test_wide_numbers():
    code = BlockCode([0.1] * 10, 18, fixed_length=True)
    assert code.bits_per_symbol == 60 / 18
    data = np.random.default_rng(5).integers(0, 10, 1000)
    encoded = code.encode(data)
    first = int("".join(map(str, data[:18])))
    assert int.from_bytes(encoded.data[:8], "big") >> 4 == first
    assert code.decode(encoded).tolist() == data.tolist()
    full = BlockCode([0.5, 0.5], 62, fixed_length=True)
    assert full.decode(full.encode([1] * 62)).tolist() == [1] * 62


def test_a_single_symbol_takes_no_bits():
    for fixed in (False, True):
        code = BlockCode([0, 1], 3, fixed_length=fixed)
        assert code.bits_per_symbol == 0
        assert code.encode([1] * 5) == EncodedBits(b"", 0, 5)
        assert code.decode(EncodedBits(b"", 0, 5)).tolist() == [1] * 5
        with pytest.raises(CodeError, match="8 bits more"):
            code.decode(EncodedBits(b"\0", 8, 5))


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("fixed", [False, True])
def test_symbols_that_cannot_come_are_named(fixed):
    code = BlockCode([0.5, 0.5, 0], 2, symbols="abc", fixed_length=fixed)
    with pytest.raises(CodeError, match=r"got 'c' at 3, .* probability is 0"):
        code.encode("abac")
    with pytest.raises(CodeError, match=r"got 'd' at 0, .* none of the alphabet's"):
        code.encode("d")


@pytest.mark.parametrize("fixed", [False, True])
def test_bits_are_counted(fixed):
    code = BlockCode([0.4, 0.3, 0.3], 3, fixed_length=fixed)
    whole = code.encode([0, 1, 2] * 4)
    for count, message in ((whole.count + 3, "too few bits"), (whole.count - 3, "bits more")):
        with pytest.raises(CodeError, match=message):
            code.decode(EncodedBits(whole.data, whole.bits, count))
    with pytest.raises(CodeError, match="too few bits"):
        code.decode(EncodedBits(b"\0", 8, 10**15))


def test_a_number_of_no_block_is_refused():
    code = BlockCode([0.1] * 10, 1, fixed_length=True)
    assert code.decode(EncodedBits(b"\x90", 4, 1)).tolist() == [9]
    with pytest.raises(CodeError, match="no symbol has"):
        code.decode(EncodedBits(b"\xa0", 4, 1))


@pytest.mark.parametrize("fixed", [False, True])
def test_garbage_is_refused_or_is_the_code_of_what_is_read(fixed):
    code = BlockCode([0.5, 0.2, 0.3], 2, fixed_length=fixed)
    random = np.random.default_rng(13)
    refused = read = 0
    for _ in range(400):
        data = random.bytes(int(random.integers(1, 5)))
        encoded = EncodedBits(data, 8 * len(data), int(random.integers(0, 8 * len(data))))
        try:
            symbols = code.decode(encoded)
        except CodeError:
            refused += 1
        else:
            read += 1
            assert code.encode(symbols) == encoded
    assert refused > 0
    assert read > 0


def test_the_number_of_blocks_is_limited():
    assert BlockCode([0.5, 0.5], 20).bits_per_symbol == 1
    for p, block, fixed in (
        ([0.5, 0.5], 21, False),
        ([0.5, 0.5], 10**9, False),
        ([0.5, 0.5], 63, True),
        ([0.1] * 10, 19, True),
        ([1.0], 10**9, True),
    ):
        with pytest.raises(OptionError, match=f"at most 2\\^{62 if fixed else 20} blocks"):
            BlockCode(p, block, fixed_length=fixed)
    for block in (0, -1, 1.5, True, "2"):
        with pytest.raises(OptionError, match="block must be a whole number from 1"):
            BlockCode([0.5, 0.5], block)


def test_p_must_be_a_distribution():
    with pytest.raises(DistributionError, match="p must sum to 1"):
        BlockCode([1, 1], 2)
    with pytest.raises(ShapeError):
        BlockCode([[0.5, 0.5]], 2)
    with pytest.raises(ShapeError):
        BlockCode([], 2)
    with pytest.raises(ShapeError, match="got 2 weights and 3 symbols"):
        BlockCode([0.5, 0.5], 2, symbols="abc")
    assert BlockCode(np.float32([0.1, 0.2, 0.7]), 2).entropy == pytest.approx(1.1568, abs=1e-4)
