"""Huffman's code against brute force, against bitarray, and as bits that come back or are refused."""

from __future__ import annotations

import concurrent.futures
import itertools
import math
import pickle
from collections import Counter
from fractions import Fraction

import bitarray
import bitarray.util
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xent
from xent.coding.bits import EncodedBits
from xent.coding.huffman import HuffmanCode
from xent.errors import CodeError, DistributionError, OptionError, ShapeError

laws = settings(max_examples=60, deadline=None, database=None, derandomize=True)

counts = st.lists(st.integers(0, 1000), min_size=1, max_size=40).filter(any)
# Some of 2^-1000 and 2^1000 make codewords of hundreds of bits.
wild = st.lists(
    st.one_of(st.just(0.0), st.floats(0, 1), st.integers(-1074, 1023).map(lambda e: 2.0**e)),
    min_size=1,
    max_size=60,
).filter(any)


def dyadic(splits):
    """Return a distribution of powers of two: 1, with some of its parts halved."""
    exponents = [0]
    for at in splits:
        exponent = exponents.pop(at % len(exponents))
        exponents += [exponent + 1, exponent + 1]
    return [2.0**-e for e in exponents]


dyadics = st.lists(st.integers(0, 10**6), max_size=30).map(dyadic)


def written(code, data):
    """Return what an encoder must write, from the codewords as texts."""
    text = "".join(code.codewords[symbol] for symbol in data)
    padded = text + "0" * (-len(text) % 8)
    octets = bytes(int(padded[i : i + 8], 2) for i in range(0, len(padded), 8))
    return EncodedBits(octets, len(text), len(data))


def same(a, b):
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and a == b


# ---- the best lengths ----------------------------------------------------------------------------


def possible_lengths(n, limit):
    """Return every ascending tuple of lengths that satisfies Kraft's inequality."""
    return [
        lengths
        for lengths in itertools.combinations_with_replacement(range(1, limit + 1), n)
        if sum(Fraction(1, 2**length) for length in lengths) <= 1
    ]


TRIED = {(n, limit): possible_lengths(n, limit) for n in range(2, 7) for limit in range(1, n)}


near = st.tuples(st.sampled_from([1000, 2000, 4000, 8000]), st.integers(-2, 2)).map(sum)


@laws
@given(st.lists(st.integers(1, 60) | near, min_size=2, max_size=6))
def test_no_lengths_are_better(weights):
    descending = sorted(weights, reverse=True)
    n = len(weights)
    least = (n - 1).bit_length()
    for limit in [*range(least, n), None]:
        code = HuffmanCode(weights, max_length=limit)
        best = min(
            sum(w * length for w, length in zip(descending, lengths, strict=True))
            for lengths in TRIED[n, limit or n - 1]
        )
        assert int(np.dot(weights, code.lengths)) == best
        assert code.lengths.max() <= (limit or n)


@laws
@given(counts, st.integers(0, 8))
def test_codewords_are_canonical_complete_and_begin_no_other(weights, more):
    coded = sum(w > 0 for w in weights)
    code = HuffmanCode(weights, max_length=(coded - 1).bit_length() + more)
    assert code.kraft_sum == 1
    assert code.implied.sum() == 1.0
    words = code.codewords
    assert list(words) == [i for i, w in enumerate(weights) if w > 0]
    ordered = [words[i] for i in sorted(words, key=lambda i: (len(words[i]), i))]
    assert ordered == sorted(ordered)
    assert all(not b.startswith(a) for a, b in itertools.pairwise(ordered))
    assert [
        len(words.get(i, "")) if w else -1 for i, w in enumerate(weights)
    ] == code.lengths.tolist()


def test_of_equal_weights_the_first_symbols_have_the_shorter_codewords():
    assert HuffmanCode([1, 1, 1], "xyz").codewords == {"x": "0", "y": "10", "z": "11"}


def test_of_equal_sums_the_flatter_tree_is_chosen():
    assert sorted(HuffmanCode([1, 1, 1, 1, 2]).lengths) == [2, 2, 2, 3, 3]
    assert HuffmanCode([2, 1, 1, 1, 1]).lengths.max() == 3


@pytest.mark.parametrize("limit", [16, 17, 20, None])
def test_an_alphabet_of_65536_symbols(limit):
    weights = np.random.default_rng(1).random(65536) ** 12
    code = HuffmanCode(weights, max_length=limit)
    p = weights / weights.sum()
    free = HuffmanCode(weights).expected_length(p)
    entropy = float(xent.entropy(p, unit="bits"))
    assert code.kraft_sum == 1
    if limit is None:
        assert entropy <= code.expected_length(p) < entropy + 1
    else:
        assert code.lengths.max() <= limit < HuffmanCode(weights).lengths.max()
        # Larmore and Hirschberg's bound on what a limit costs is far above 1 bit for the least limit.
        assert free < code.expected_length(p) <= (16 if limit == 16 else free + 1)
    data = np.random.default_rng(2).integers(0, 65536, 30_000).astype(np.uint16)
    encoded = code.encode(data)
    assert encoded.bits == code.lengths[data].sum()
    assert same(code.decode(encoded), data)


@pytest.mark.parametrize("limit", [5, 7, None])
def test_weights_whose_sums_overflow_have_the_lengths_of_smaller_ones(limit):
    weights = np.random.default_rng(4).integers(1, 1000, 20) ** 1.5
    assert HuffmanCode(weights).lengths.max() > 7
    lengths = HuffmanCode(weights, max_length=limit).lengths.tolist()
    largest = 1023 - int(np.log2(weights.max()))
    for exponent in range(largest - 9, largest + 1):
        large = np.ldexp(weights, exponent)
        assert HuffmanCode(large, max_length=limit).lengths.tolist() == lengths


def test_limits_cost_ever_less():
    weights = np.random.default_rng(3).random(300) ** 9
    p = weights / weights.sum()
    costs = [HuffmanCode(weights, max_length=limit).expected_length(p) for limit in range(9, 60)]
    assert all(a >= b for a, b in itertools.pairwise(costs))
    assert costs[0] > costs[1] > costs[-1] == HuffmanCode(weights).expected_length(p)


@laws
@given(counts)
def test_costs_as_much_as_bitarrays(weights):
    present = {i: w for i, w in enumerate(weights) if w > 0}
    if len(present) == 1:
        return  # bitarray spends a bit on a single symbol
    theirs, _, _ = bitarray.util.canonical_huffman(present)
    ours = HuffmanCode(weights).lengths
    assert sum(w * len(theirs[i]) for i, w in present.items()) == sum(
        w * int(ours[i]) for i, w in present.items()
    )


@laws
@given(st.binary(min_size=2, max_size=300).filter(lambda data: len(set(data)) > 1))
def test_bitarray_writes_and_reads_the_same_bits_with_the_same_codewords(data):
    code = HuffmanCode.of(data)
    book = {symbol: bitarray.bitarray(word) for symbol, word in code.codewords.items()}
    theirs = bitarray.bitarray(endian="big")
    theirs.encode(book, data)
    ours = code.encode(data)
    assert (ours.data, ours.bits, ours.count) == (theirs.tobytes(), len(theirs), len(data))
    bits = bitarray.bitarray(endian="big")
    bits.frombytes(ours.data)
    assert bytes(bits[: ours.bits].decode(book)) == data


def test_bitarrays_canonical_code_is_ours_where_lengths_leave_no_choice():
    weights = {symbol: 2 ** (12 - i) for i, symbol in enumerate("etaoinshrdlu")}
    theirs, _, _ = bitarray.util.canonical_huffman(weights)
    code = HuffmanCode.from_mapping(weights)
    assert {len(word) for word in code.codewords.values()} == set(range(1, 12))
    # bitarray sorts symbols of one length; we keep the order in which they were given.
    lasts = sorted(weights, key=weights.get)[:2]
    assert all(code.codewords[s] == word.to01() for s, word in theirs.items() if s not in lasts)
    assert {code.codewords[s] for s in lasts} == {theirs[s].to01() for s in lasts}


# ---- what it costs -------------------------------------------------------------------------------

P, Q = [0.1, 0.2, 0.7], [0.7, 0.2, 0.1]


def test_under_another_distribution_the_code_costs_less_than_the_cross_entropy_or_more():
    code = HuffmanCode(Q)
    assert code.lengths.tolist() == [1, 2, 2]
    assert code.expected_length(P) == pytest.approx(1.9, rel=1e-15)
    assert code.expected_length(P) < xent.cross_entropy(P, Q, unit="bits")  # 2.8411
    assert code.expected_length(Q) == pytest.approx(1.3, rel=1e-15)
    assert code.expected_length(Q) > xent.cross_entropy(Q, Q, unit="bits")  # 1.1568


@laws
@given(counts, st.data())
def test_the_expected_length_is_a_cross_entropy(weights, data):
    code = HuffmanCode(weights)
    mass = data.draw(st.lists(st.integers(0, 9), min_size=len(weights), max_size=len(weights)))
    mass[0] += 1
    p = np.array(mass) / sum(mass)
    told = float(xent.cross_entropy(p, code.implied, unit="bits"))
    exact = sum(
        Fraction(m, sum(mass)) * int(length)
        for m, length in zip(mass, code.lengths, strict=True)
        if m > 0
    )
    if any(m > 0 and w == 0 for m, w in zip(mass, weights, strict=True)):
        assert code.expected_length(p) == told == math.inf
    else:
        assert code.expected_length(p) == pytest.approx(float(exact), rel=1e-15)
        assert told == pytest.approx(float(exact), rel=1e-14)


@laws
@given(dyadics, st.randoms(use_true_random=False))
def test_powers_of_two_cost_exactly_the_cross_entropy(q, random):
    random.shuffle(q)
    code = HuffmanCode(q)
    assert code.implied.tolist() == q
    p = [random.random() + 1e-3 for _ in q]
    p = [x / math.fsum(p) for x in p]
    assert code.expected_length(q) == math.fsum(-x * math.log2(x) for x in q)
    assert code.expected_length(p) == pytest.approx(
        float(xent.cross_entropy(p, q, unit="bits")), rel=1e-13
    )


@laws
@given(wild)
def test_shannons_bound(weights):
    scaled = np.array(weights) / max(weights)
    p = scaled / math.fsum(scaled)
    entropy = float(xent.entropy(p, unit="bits"))
    length = HuffmanCode(p).expected_length(p)
    assert entropy * (1 - 1e-12) <= length <= entropy + 1  # below it, but for rounding


def test_a_single_symbol_costs_nothing_but_the_count():
    for code in (HuffmanCode([5], ["x"]), HuffmanCode([0, 5, 0], "wxy")):
        assert code.codewords == {"x": ""}
        assert code.kraft_sum == 1
        assert code.price("x") == 0
        encoded = code.encode("xxxx")
        assert encoded == EncodedBits(b"", 0, 4)
        assert code.decode(encoded) == ["x"] * 4
        with pytest.raises(CodeError, match="got 3 bits more"):
            code.decode(EncodedBits(b"\0", 3, 4))
    assert HuffmanCode([0, 5, 0]).expected_length([0, 1, 0]) == 0
    assert HuffmanCode([0, 5, 0]).expected_length([0, 0.5, 0.5]) == math.inf


def test_a_symbol_of_weight_0_has_no_codeword():
    code = HuffmanCode([3, 0, 2, 1], "abcd")
    assert code.lengths.tolist() == [1, -1, 2, 2]
    assert code.implied.tolist() == [0.5, 0, 0.25, 0.25]
    assert [code.price(s) for s in "abcd?"] == [1, math.inf, 2, 2, math.inf]
    with pytest.raises(CodeError, match=r"got 'b' at 2, .* weight is 0, and its price is infinite"):
        code.encode("aab")
    with pytest.raises(CodeError, match=r"got '\?' at 1, .* none of the alphabet's"):
        code.encode("a?")


# ---- the escape ----------------------------------------------------------------------------------


def test_an_escape_and_a_number():
    code = HuffmanCode([4, 0, 0, 2, 0], "abcde", escape=2)
    assert code.codewords == {"a": "0", "b": "1100", "c": "1101", "d": "10", "e": "1110"}
    assert [code.price(s) for s in "abcde"] == [1, 4, 4, 2, 4]
    assert code.lengths.tolist() == [1, 4, 4, 2, 4]
    assert code.kraft_sum == Fraction(15, 16)  # 1111 is a number that no symbol has
    assert code.expected_length([0.25, 0.25, 0, 0.25, 0.25]) == 2.75
    assert code.decode(code.encode("abacad")) == list("abacad")
    assert code.encode("abe") == written(code, "abe")
    with pytest.raises(CodeError, match="a number behind an escape that no symbol has"):
        code.decode(EncodedBits(b"\xf0", 4, 1))
    with pytest.raises(CodeError, match="too few bits"):
        code.decode(EncodedBits(b"\xc0", 3, 1))


def test_an_escape_of_one_symbol_needs_no_number():
    code = HuffmanCode([1, 0], escape=0.5)
    assert code.codewords == {0: "0", 1: "1"}
    assert code.kraft_sum == 1


def test_without_symbols_of_weight_0_no_escape_is_made():
    assert HuffmanCode([2, 1, 1], escape=9).codewords == HuffmanCode([2, 1, 1]).codewords
    assert HuffmanCode([7], escape=9).codewords == {0: ""}


@pytest.mark.parametrize("escape", [0, -1, math.inf, math.nan, "often"])
def test_an_escape_must_weigh_something(escape):
    with pytest.raises(OptionError, match="escape must be a weight"):
        HuffmanCode([1, 0], escape=escape)


# ---- there and back ------------------------------------------------------------------------------


@laws
@given(st.binary(min_size=1, max_size=400), st.binary(max_size=50))
def test_bytes_come_back(data, others):
    code = HuffmanCode.of(data)
    assert same(code.decode(code.encode(data)), data)
    assert code.encode(data) == written(code, data)
    code = HuffmanCode.of(data, escape=1)
    assert same(code.decode(code.encode(data + others)), data + others)
    assert code.encode(data + others) == written(code, data + others)


@laws
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3), min_size=1, max_size=60),
    st.sampled_from([np.int64, ">i4", np.int8, np.uint16, np.uint64]),
)
def test_integers_come_back(values, dtype):
    array = np.array([v % 2**64 for v in values], np.uint64).astype(dtype)
    code = HuffmanCode.of(array)
    assert same(code.decode(code.encode(array)), array)
    assert code.encode(array) == code.encode(array.tolist())
    code = HuffmanCode.of(values)
    assert same(code.decode(code.encode(values)), values)
    assert code.encode(values) == written(code, values)


hashables = st.one_of(
    st.none(), st.text(max_size=3), st.binary(max_size=2), st.tuples(st.integers(), st.booleans())
)


@laws
@given(st.lists(hashables, min_size=1, max_size=60))
def test_hashables_come_back(values):
    for code in (HuffmanCode.of(values), HuffmanCode.from_mapping(Counter(values))):
        assert same(code.decode(code.encode(values)), values)
        assert code.encode(tuple(values)) == code.encode(values)
        assert code.encode(values) == written(code, values)


@laws
@given(st.text(min_size=1))
def test_a_text_comes_back(text):
    code = HuffmanCode.of(text)
    assert same(code.decode(code.encode(text)), text)


@laws
@given(wild, st.booleans(), st.data())
def test_codewords_of_hundreds_of_bits_come_back(weights, with_escape, data):
    code = HuffmanCode(weights, escape=1e-200 if with_escape else None)
    symbols = list(code.codewords)
    values = np.array(data.draw(st.lists(st.sampled_from(symbols), max_size=60)), np.uint8)
    encoded = code.encode(values)
    assert encoded == written(code, values.tolist())
    assert same(code.decode(encoded), values)


def test_codewords_of_thousands_of_bits():
    weights = np.concatenate([[5e-324], 2.0 ** np.arange(-1074, 1023)])
    code = HuffmanCode(weights)
    assert code.lengths.max() == weights.size - 1 == 2097
    values = np.arange(0, weights.size, 7).astype(np.uint16)
    assert code.encode(values) == written(code, values.tolist())
    assert same(code.decode(code.encode(values)), values)


def test_what_decode_returns_is_what_of_was_given():
    for data in (
        b"abc",
        "abc",
        ["a", "b"],
        [3, 1, 3],
        np.array([3, 1, 3], np.int16),
        np.array([3, 1, 3], np.uint8),
    ):
        code = HuffmanCode.of(data)
        assert same(code.decode(code.encode(data)), data)


@pytest.mark.parametrize(("n", "dtype"), [(256, np.uint8), (257, np.uint16), (65537, np.int64)])
def test_default_symbols_come_back_in_the_smallest_dtype(n, dtype):
    code = HuffmanCode(np.ones(n))
    for data in ([0, n - 1], np.array([0, n - 1], np.int64), range(0, n, n - 1)):
        assert same(code.decode(code.encode(data)), np.array([0, n - 1], dtype))


def test_symbols_keep_their_type():
    assert same(
        HuffmanCode([1, 1], range(7, 9)).decode(EncodedBits(b"\x40", 2, 2)), np.array([7, 8])
    )
    assert HuffmanCode([1, 1], [7, 8]).decode(EncodedBits(b"\x40", 2, 2)) == [7, 8]
    named = HuffmanCode([1, 1], np.array(["no", "yes"]))
    assert named.decode(named.encode(np.array(["yes", "no"]))) == ["yes", "no"]
    far = HuffmanCode([1, 1], [-(2**63), 2**63 - 1])
    assert far.decode(far.encode([2**63 - 1, -(2**63)])) == [2**63 - 1, -(2**63)]
    with pytest.raises(CodeError, match="got 5 at 0"):
        far.encode(np.array([5]))


@pytest.mark.parametrize(
    ("symbols", "data"),
    [
        (None, [0, 1, 3]),
        (None, np.array([0, 1, -1])),
        (None, [0, 1, 2**80]),
        (None, [0, 1, [0]]),
        (None, [0, 1, "0"]),
        ([10, 12, 14], [10, 12, 13]),
        ([10, 12, 14], np.array([10, 12, 15], np.uint64)),
        ([0, 10**12, 5], np.array([0, 0, 10**11])),
        ("abc", ["a", "b", "d"]),
        ("abc", ["a", "b", ["c"]]),
    ],
)
def test_what_is_no_symbol_is_named(symbols, data):
    with pytest.raises(CodeError, match=r"got .* at 2, which has none"):
        HuffmanCode([1, 1, 1], symbols).encode(data)


def test_nothing_is_no_bits():
    code = HuffmanCode([1, 1, 1])
    for data in (b"", [], np.empty(0, np.int64)):
        assert code.encode(data) == EncodedBits(b"", 0, 0)
    assert same(code.decode(EncodedBits(b"", 0, 0)), np.empty(0, np.uint8))


def test_one_code_in_several_threads():
    data = [np.random.default_rng(i).geometric(0.05, 200_000).astype(np.uint16) for i in range(4)]
    code = HuffmanCode(np.bincount(np.concatenate(data)))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        encoded = list(pool.map(code.encode, data))
        decoded = list(pool.map(code.decode, encoded))
    alone = HuffmanCode(np.bincount(np.concatenate(data)))
    assert encoded == [alone.encode(d) for d in data]
    assert all(np.array_equal(a, b) for a, b in zip(decoded, data, strict=True))


def test_a_code_survives_pickling_and_leaves_its_input_alone():
    weights = np.array([0.0, 3.0, 1.0])
    code = HuffmanCode(weights, escape=1)
    encoded = code.encode([0, 1, 2])
    again = pickle.loads(pickle.dumps(code))
    assert again.encode([0, 1, 2]) == encoded
    assert weights.tolist() == [0, 3, 1]
    assert repr(code) == "HuffmanCode(3 symbols of 1 to 2 bits)"


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_bits_are_counted(cut):
    code = HuffmanCode([4, 2, 1, 1])
    whole = code.encode([0, 1, 2, 3, 0, 0, 3])
    assert whole.bits == 14
    with pytest.raises(CodeError, match="too few bits"):
        code.decode(EncodedBits(whole.data, whole.bits, whole.count + cut))
    with pytest.raises(CodeError, match="bits more"):
        code.decode(EncodedBits(whole.data, whole.bits, whole.count - cut))
    with pytest.raises(CodeError, match="must fill its bytes"):
        code.decode(EncodedBits(whole.data + b"\0", whole.bits, whole.count))
    with pytest.raises(CodeError, match="must fill its bytes"):
        code.decode(EncodedBits(whole.data[:-1], whole.bits, whole.count))
    with pytest.raises(CodeError, match="zeros must fill the last byte"):
        code.decode(EncodedBits(whole.data[:1] + b"\xff", whole.bits, whole.count))
    with pytest.raises(CodeError):
        code.decode(EncodedBits(b"", -cut, whole.count))
    with pytest.raises(CodeError):
        code.decode(EncodedBits(whole.data, whole.bits, -cut))
    with pytest.raises(OptionError, match="as EncodedBits has: got bytes"):
        code.decode(whole.data)


def test_a_count_that_bits_cannot_hold_is_refused_before_memory_is_asked_for():
    with pytest.raises(CodeError, match="too few bits"):
        HuffmanCode([1, 1]).decode(EncodedBits(b"\0", 8, 10**15))


CODES = [
    HuffmanCode(np.ones(3)),
    HuffmanCode(np.arange(256.0) ** 5),
    HuffmanCode(2.0 ** -np.arange(100)),
    HuffmanCode([1, 0, 0, 2, 0, 0], escape=1),
    HuffmanCode(np.arange(300) % 3, escape=0.1),
    HuffmanCode(2.0 ** np.arange(90) * (np.arange(90) % 4 > 0), escape=1e-9),
    HuffmanCode([0, 1]),
]


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_garbage_is_refused_or_is_the_code_of_what_is_read(code):
    random = np.random.default_rng(11)
    outcomes = Counter()
    for _ in range(400):
        data = random.bytes(int(random.integers(0, 40)))
        bits = 8 * len(data)
        encoded = EncodedBits(data, bits, int(random.integers(0, bits + 2)))
        for count in {encoded.count, bits // 4}:
            try:
                symbols = code.decode(EncodedBits(data, bits, count))
            except CodeError:
                outcomes["refused"] += 1
            else:
                outcomes["read"] += 1
                assert code.encode(symbols) == EncodedBits(data, bits, count)
    assert outcomes["refused"] > 0
    assert outcomes["read"] > 0


@pytest.mark.parametrize("code", CODES[:-1], ids=repr)
def test_every_single_flipped_bit_is_refused_or_read_as_its_own_code(code):
    symbols = np.array(list(code.codewords))[:40]
    whole = code.encode(symbols)
    for bit in range(whole.bits):
        data = bytearray(whole.data)
        data[bit // 8] ^= 128 >> bit % 8
        flipped = EncodedBits(bytes(data), whole.bits, whole.count)
        try:
            read = code.decode(flipped)
        except CodeError:
            continue
        assert not np.array_equal(read, symbols)
        assert code.encode(read) == flipped


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ([1, -1], DistributionError, r"got -1\.0 for symbol 1"),
        ([1, math.nan], DistributionError, "got nan for symbol 1"),
        ([math.inf, 1], DistributionError, "got inf for symbol 0"),
        ([0, 0], DistributionError, "positive sum: got zeros only"),
        ([], ShapeError, r"got shape \(0,\)"),
        ([[1, 2]], ShapeError, r"got shape \(1, 2\)"),
        (3, ShapeError, r"got shape \(\)"),
        ("abc", OptionError, "must be real numbers: got str"),
        ({"a": 1}, OptionError, "must be real numbers: got dict"),
        ([1, 2j], OptionError, "must be real numbers"),
        ([[1], [1, 2]], OptionError, "must be real numbers"),
    ],
)
def test_weights_that_are_none(weights, error, message):
    with pytest.raises(error, match=message):
        HuffmanCode(weights)


def test_weights_may_be_large_small_and_exact():
    assert HuffmanCode([1e308, 1e308, 1e308]).lengths.tolist() == [1, 2, 2]
    assert HuffmanCode([1e308, 1e308, 5e-324]).lengths.tolist() == [1, 2, 2]
    assert HuffmanCode([10**30, 10**29, 10**28]).lengths.tolist() == [1, 2, 2]
    assert HuffmanCode([Fraction(1, 3), Fraction(2, 3)]).lengths.tolist() == [1, 1]
    assert HuffmanCode(np.array([5, 3, 2], np.uint8)).lengths.tolist() == [1, 2, 2]


def test_symbols_that_are_none():
    with pytest.raises(ShapeError, match="got 2 weights and 3 symbols"):
        HuffmanCode([1, 1], "abc")
    for twice in ("aa", [1, 1], np.array([1, 1])):
        with pytest.raises(OptionError, match=r"got ('a'|1) twice"):
            HuffmanCode([1, 1], twice)
    with pytest.raises(OptionError, match="must be hashable"):
        HuffmanCode([1, 1], [[], []])
    with pytest.raises(OptionError, match="must be hashable"):
        HuffmanCode.of([[], []])
    with pytest.raises(ShapeError, match="along one axis"):
        HuffmanCode([1, 1]).encode(np.zeros((2, 2), np.uint8))
    for nothing in ([], ""):
        with pytest.raises(ShapeError, match="got shape"):
            HuffmanCode.of(nothing)
    with pytest.raises(DistributionError, match="zeros only"):
        HuffmanCode.of(b"")


@pytest.mark.parametrize("limit", [2, 0, -1, True, 2.5, "9"])
def test_a_limit_that_is_too_small_says_the_least(limit):
    with pytest.raises(OptionError, match=r"at least 3 for 5 codewords: got"):
        HuffmanCode([5, 4, 3, 2, 1], max_length=limit)
    assert HuffmanCode([5, 4, 3, 2, 1], max_length=3).lengths.max() == 3


@pytest.mark.parametrize(
    ("p", "error"),
    [([0.5, 0.6], DistributionError), ([1.5, -0.5], DistributionError), ([1.0], ShapeError)],
)
def test_expected_length_takes_a_distribution_over_the_symbols(p, error):
    with pytest.raises(error):
        HuffmanCode([1, 1]).expected_length(p)


def test_an_alphabet_may_be_given_to_counts():
    code = HuffmanCode.of("banana", "abcn", escape=1)
    assert code.decode(code.encode("cab")) == ["c", "a", "b"]
    tokens = np.array([5, 5, 5, 7, 0])
    code = HuffmanCode.of(tokens, range(50_000), escape=1)
    assert code.price(5) == 1
    assert code.price(49_999) == code.lengths[1] == 3 + 16
    assert same(code.decode(code.encode([5, 49_999])), np.array([5, 49_999]))
