"""Models of bytes: what they cost is what codes of them take, to the bit; and they are whole."""

from __future__ import annotations

import itertools
import math
import pickle
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xent
from xent.coding import ContextModel, Counts, decode_block, encode_block, row_loops
from xent.errors import CodeError, ModelError, OptionError

TEXT = (
    b"It is a truth universally acknowledged by those who code, that a single byte in possession "
    b"of a good context must be in want of few bits. However little known the next byte may be, "
) * 40


def pieces(data: bytes) -> list[bytes]:
    """Cut a block into its lanes, in plain Python."""
    each, more = divmod(len(data), 8)
    ends = list(itertools.accumulate([each + (lane < more) for lane in range(8)]))
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def contexts(data: bytes, order: int) -> Counter[tuple[bytes, int]]:
    """Count bytes by the bytes before them, in plain Python."""
    found: Counter[tuple[bytes, int]] = Counter()
    for lane in pieces(data):
        padded = bytes(order) + lane
        for i, byte in enumerate(lane):
            found[padded[i : i + order], byte] += 1
    return found


Rows = dict[tuple[int, int], list[int]]


def rows_of(model: ContextModel) -> Rows:
    """Return the rows of a model by the length and the number of their context."""
    keys = zip(model.levels.tolist(), model.contexts.tolist(), strict=True)
    return dict(zip(keys, model.frequencies.tolist(), strict=True))


def price(rows: Rows, context: bytes, byte: int) -> float:
    """Return a byte's price by the rules of docs/format.md, in plain Python."""
    bits = 0.0
    for level in range(len(context), -1, -1):
        own = context[len(context) - level :]
        row = rows.get((level, int.from_bytes(own, "big")))
        if row is None:
            continue
        if row[byte]:
            return bits + 14 - math.log2(row[byte])
        if not row[256]:
            return math.inf
        bits += 14 - math.log2(row[256])
    return bits + 8.0


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 17, 1000, len(TEXT)])
def test_counts_are_those_of_lanes(order, size):
    counts = Counts(order)
    counts.add(TEXT[:size])
    assert counts.total == size
    expected = contexts(TEXT[:size], order)
    assert np.count_nonzero(counts.rows) == len(expected)
    assert (np.diff(counts.contexts) > 0).all()
    rows = dict(zip(counts.contexts.tolist(), counts.rows, strict=True))
    for (context, byte), n in expected.items():
        assert rows[int.from_bytes(context, "big")][byte] == n


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("escape", [False, True])
def test_prices_are_those_of_the_frequencies(order, escape):
    model = ContextModel.of(TEXT, order=order, escape=escape)
    assert (model.frequencies.sum(axis=1) == 1 << 14).all()
    rows, prices = rows_of(model), model.prices
    expected = math.fsum(
        n * price(rows, context, byte) for (context, byte), n in contexts(TEXT, order).items()
    )
    assert model.price(TEXT) == pytest.approx(expected, rel=1e-12)
    rng = random.Random(order)
    for _ in range(300):
        context, byte = rng.randbytes(order), rng.randrange(256)
        found = prices[int.from_bytes(context, "big"), byte]
        assert found == pytest.approx(price(rows, context, byte), rel=1e-12)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_with_an_escape_the_probabilities_of_a_context_sum_to_less_than_one(order):
    model = ContextModel.of(TEXT, order=order)
    sums = np.exp2(-model.prices).sum(axis=1)
    assert (sums <= 1.0 + 1e-12).all()
    assert np.isfinite(model.prices).all()


def test_the_entropy_of_counts_is_that_of_the_measures():
    counts = Counts(0)
    counts.add(TEXT)
    share = counts.rows[0] / len(TEXT)
    assert counts.entropy_bits() / len(TEXT) == pytest.approx(xent.entropy(share, unit="bits"))
    table = Counts(1)
    table.add(TEXT)
    joint = table.rows / len(TEXT)
    expected = xent.conditional_entropy(joint, unit="bits")
    assert table.entropy_bits() / len(TEXT) == pytest.approx(float(expected), rel=1e-9)


@given(
    weights=st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(any),
    bits=st.integers(2, 5),
)
@settings(deadline=None)
def test_rounding_is_the_cheapest_there_is(weights, bits):
    own = np.array(weights, np.float64)
    found = np.zeros(own.size, np.int32)
    row_loops.quantize(own, bits, found)
    assert found.sum() == 1 << bits
    assert ((found > 0) == (own > 0)).all()

    def cost(frequencies) -> float:
        return -sum(w * math.log2(f) for w, f in zip(weights, frequencies, strict=True) if w)

    present = [i for i, w in enumerate(weights) if w]
    least = math.inf
    for cuts in itertools.combinations(range(1, 1 << bits), len(present) - 1):
        ends = [0, *cuts, 1 << bits]
        trial = [0] * len(weights)
        for i, a, b in zip(present, ends[:-1], ends[1:], strict=True):
            trial[i] = b - a
        least = min(least, cost(trial))
    assert cost(found.tolist()) <= least + 1e-9


def test_rounding_of_equal_weights_ends():
    # exchanges that gain nothing must not go on for ever
    for size in (3, 7, 255, 256):
        found = np.zeros(257, np.int32)
        row_loops.quantize(np.array([1.0] * size + [0.0] * (257 - size)), 14, found)
        assert found[:size].min() == (1 << 14) // size
        assert found.sum() == 1 << 14


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("escape", [False, True])
@pytest.mark.parametrize("size", [0, 1, 5, 8, 1001, len(TEXT)])
def test_codes_are_as_long_as_predicted_and_come_back(order, escape, size):
    data = TEXT[:size]
    model = ContextModel.of(data, order=order, escape=escape)
    code = encode_block(data, model)
    assert decode_block(code, size, model) == data
    price = model.price(data) / 8
    assert price - 1 <= len(code) <= price * 1.0001 + 64


@given(
    data=st.binary(max_size=300),
    of=st.binary(max_size=300),
    order=st.integers(0, 2),
)
@settings(deadline=None, max_examples=150)
def test_any_bytes_can_be_written_with_any_model_that_has_an_escape(data, of, order):
    model = ContextModel.of(of, order=order)
    again = ContextModel.from_bytes(model.to_bytes())
    assert (again.frequencies == model.frequencies).all()
    assert again.fingerprint == model.fingerprint
    code = encode_block(data, again)
    assert decode_block(code, len(data), model) == data
    assert len(code) <= model.price(data) / 8 * 1.0001 + 64


def test_a_byte_without_a_code_is_refused_with_its_place():
    model = ContextModel.of(b"ab" * 500, order=0, escape=False)
    assert model.price(b"abz") == math.inf
    with pytest.raises(CodeError, match=r"got 122 at 2.*infinite.*Hint: .*escape=True"):
        encode_block(b"abz", model)


def test_every_order_and_kind_of_data_is_taken_or_refused():
    model = ContextModel.of(TEXT)
    for data in (TEXT, bytearray(TEXT), memoryview(TEXT), np.frombuffer(TEXT, np.uint8)):
        assert encode_block(data, model) == encode_block(TEXT, model)
    reversed_view = np.frombuffer(TEXT, np.uint8)[::-1]
    assert decode_block(encode_block(reversed_view, model), len(TEXT), model) == TEXT[::-1]
    for wrong in ("text", [1, 2], np.zeros(3), np.zeros((2, 2), np.uint8), None):
        with pytest.raises(OptionError, match="data must be bytes"):
            encode_block(wrong, model)
    for order in (-1, 3, True, 1.5, "1"):
        with pytest.raises(OptionError, match="order must be a whole number from 0 to 2"):
            ContextModel.of(TEXT, order=order)


def test_costs_need_counts_of_the_models_order_and_a_known_rounding():
    model = ContextModel.of(TEXT, order=1)
    with pytest.raises(OptionError, match="counts must be of order 1"):
        model.price_of(Counts(2))
    counts = Counts(1)
    counts.add(TEXT)
    assert model.price_of(counts, rounded=False) <= model.price_of(counts) + 1e-6
    with pytest.raises(OptionError, match="rounded=False"):
        ContextModel.from_bytes(model.to_bytes()).price_of(counts, rounded=False)


def test_rounding_costs_at_most_a_two_thousandth_without_context():
    rng = np.random.default_rng(0)
    shares = {
        "text": np.frombuffer(TEXT, np.uint8),
        "rare bytes": np.where(rng.random(400_000) < 0.999, 65, rng.integers(0, 256, 400_000)),
        "many rare": rng.choice(256, 400_000, p=np.r_[0.6, 0.399, np.full(254, 0.001 / 254)]),
        "even": rng.integers(0, 256, 400_000),
    }
    for name, data in shares.items():
        counts = Counts(0)
        counts.add(data.astype(np.uint8))
        model = ContextModel.fit(counts, escape=False)
        exact = model.price_of(counts, rounded=False)
        assert model.price_of(counts) <= 1.0005 * exact, name


def test_a_higher_order_is_no_worse_with_its_model(tmp_path):
    sizes = []
    for order in (0, 1, 2):
        model = ContextModel.of(TEXT, order=order, escape=False)
        sizes.append(model.price(TEXT) + 8 * len(model.to_bytes()))
        model.save(tmp_path / "a.model")
        assert ContextModel.load(tmp_path / "a.model").to_bytes() == model.to_bytes()
    assert sizes[2] < sizes[1] < sizes[0]
    noise = random.Random(0).randbytes(100_000)
    assert ContextModel.of(noise, order=2, escape=False).levels.size == 1


def test_model_files_are_refused_with_their_name(tmp_path):
    path = tmp_path / "a.model"
    with pytest.raises(ModelError, match="cannot be read"):
        ContextModel.load(path)
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelError, match="must begin as a model"):
        ContextModel.load(path)
    ContextModel.of(TEXT, order=1).save(path)
    whole = path.read_bytes()
    for cut in range(8, len(whole), 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(ModelError, match=r"a\.model"):
            ContextModel.load(path)


def test_pieces_cost_what_all_costs():
    model = ContextModel.of(TEXT, order=2)
    for size in (1, 7, 256, 10**6):
        found = model.piece_prices(TEXT, size)
        assert found.size == -(-len(TEXT) // size)
        assert found.sum() == pytest.approx(model.piece_prices(TEXT, len(TEXT))[0])
    # one lane from no context: the eight lanes differ in the first two bytes of each only
    assert found.sum() == pytest.approx(model.price(TEXT), rel=0.05)


def test_counts_that_were_looked_at_can_be_added_to():
    whole, parts = Counts(2), Counts(2)
    for block in (TEXT[:500], TEXT[500:900], b"", TEXT[900:]):
        whole.add(block)
        parts.add(block)
        assert parts.total == sum(parts.rows.sum(axis=1))
    assert (whole.rows == parts.rows).all()
    assert (whole.contexts == parts.contexts).all()
    assert ContextModel.fit(whole) == ContextModel.fit(parts)


def test_models_are_equal_by_what_they_say_and_cannot_be_written_to():
    model, same = (ContextModel.of(TEXT, order=1) for _ in range(2))
    other = ContextModel.of(TEXT, order=2)
    again = pickle.loads(pickle.dumps(model))
    read = ContextModel.from_bytes(model.to_bytes())
    assert model == same == again == read != other
    assert len({model, same, again, read, other}) == 2
    assert model in [other, model]
    for array in (model.frequencies, read.frequencies, model.levels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_loops_run_where_nothing_can_be_cached():
    script = (
        "import numba\n"
        "njit = numba.njit\n"
        "def refusing(*args, cache=False, **kwargs):\n"
        "    if cache: raise RuntimeError('cannot cache function: no locator available')\n"
        "    return njit(*args, **kwargs)\n"
        "numba.njit = refusing\n"
        "from xent.coding import compress, decompress\n"
        "assert decompress(compress(b'abcabc' * 99, order=1)) == b'abcabc' * 99\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_without_numba_it_is_said_what_to_install():
    script = (
        "import sys\n"
        "sys.modules['numba'] = None\n"
        "from xent.coding import prequential\n"
        "from xent.cli import main\n"
        "sys.exit(main(['code', 'account', sys.executable]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"pip install 'xent[coding]'" in done.stderr
    assert b"Traceback" not in done.stderr


def test_what_grows_when_it_is_written_has_a_place():
    model = ContextModel.of(b"a" * 100_000 + b"b", order=2)
    data = random.Random(1).randbytes(5000)
    code = encode_block(data, model)
    assert len(code) > 2 * len(data)
    assert decode_block(code, len(data), model) == data
    assert len(code) <= model.price(data) / 8 * 1.0001 + 64
