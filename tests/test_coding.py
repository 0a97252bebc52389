"""Files of codes: their bytes are accounted for to the bit, and files are told apart by them."""

from __future__ import annotations

import io
import json
import math
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xent
from xent.coding import (
    ContextModel,
    Matrix,
    account,
    classify,
    compress,
    cross_entropy_matrix,
    decompress,
)
from xent.coding.accounting import PARTS
from xent.coding.container import compress_stream, decompress_stream, read_header
from xent.errors import CodeError, ModelError, OptionError
from xent.report.code_plots import heat_map
from xent.report.code_text import render_accounting, render_matrix

ENGLISH = b"the quick brown fox jumps over the lazy dog and then the dog looks at the fox. " * 60
GERMAN = (
    "der schnelle braune Fuchs springt über den faulen Hund, und der Hund sieht zu. ".encode() * 60
)
NUMBERS = b"0.123,45.6,7.89,101.1,2.0,31.4,15.9,2.65\n" * 80


@given(
    data=st.binary(max_size=400),
    order=st.integers(0, 2),
    block_size=st.integers(1, 64),
    shared=st.booleans(),
)
@settings(deadline=None, max_examples=100)
def test_parts_add_up_to_the_file_exactly(data, order, block_size, shared):
    model = ContextModel.of(ENGLISH, order=order) if shared else None
    code = compress(data, model=model, order=order, block_size=block_size)
    assert decompress(code, model=model) == data
    told = account(data, model=model, order=order, block_size=block_size)
    assert list(told.parts) == list(PARTS)
    assert told.total_bytes == len(code)
    assert sum(told.parts.values()) == 8 * len(code)
    blocks = -(-len(data) // block_size)
    assert told.blocks == blocks
    assert 0 <= told.parts["padding"] <= 512 * blocks + told.cross_entropy_bits * 1e-4 + 1
    assert told.parts["headers"] == 8 * (36 + 8 * blocks)
    # A code that is accounted for is told the same things as its original.
    assert account(code, model=model, coded=True) == told


def test_an_accounting_without_context_is_made_of_the_measures():
    counts = np.bincount(np.frombuffer(ENGLISH, np.uint8), minlength=256)
    told = account(ENGLISH, order=0)
    assert told.entropy_bits_per_symbol == pytest.approx(
        xent.entropy(counts, unit="bits", normalize=True), rel=1e-12
    )
    model = ContextModel.of(NUMBERS, order=0)
    q = np.exp2(-model.prices[0])
    assert q.sum() <= 1.0
    told = account(ENGLISH, model=model)
    rest = 1.0 - q.sum()  # what the escape wastes on bytes that the row has
    expected = xent.cross_entropy(np.r_[counts / counts.sum(), 0.0], np.r_[q, rest], unit="bits")
    assert told.cross_entropy_bits_per_symbol == pytest.approx(float(expected), rel=1e-12)
    assert told.kl_bits_per_symbol == pytest.approx(
        told.cross_entropy_bits_per_symbol - told.entropy_bits_per_symbol
    )
    assert math.isfinite(told.cross_entropy_bits)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_text_of_ten_blocks_is_within_its_bound(order):
    words = ENGLISH.split()
    rng = random.Random(order)
    data = b" ".join(rng.choice(words) for _ in range(200_000))
    code = compress(data, order=order, block_size=100_000)
    told = account(code, coded=True)
    payload = told.total_bytes - (told.parts["tables"] + told.parts["headers"]) / 8
    assert payload <= told.cross_entropy_bits / 8 * 1.0001 + 64 * told.blocks
    if order == 0:
        assert told.parts["integer_rounding"] <= 5e-4 * told.parts["payload"]


def test_nothing_and_very_little_have_codes():
    for data in (b"", b"a", b"\x00" * 8, b"a" * 100_000, bytes(range(256))):
        code = compress(data)
        assert decompress(code) == data
    assert len(compress(b"a" * 10**6)) < 200
    told = account(b"")
    assert (told.symbols, told.bits_per_symbol, told.kl_bits_per_symbol) == (0, 0.0, 0.0)


def test_a_shared_model_must_be_the_one():
    model, other = ContextModel.of(ENGLISH, order=1), ContextModel.of(GERMAN, order=1)
    code = compress(ENGLISH, model=model)
    assert len(code) < len(compress(ENGLISH, order=1))
    assert decompress(code, model=model) == ENGLISH
    with pytest.raises(ModelError, match=rf"{model.fingerprint.hex()}: got none"):
        decompress(code)
    with pytest.raises(ModelError, match=other.fingerprint.hex()):
        decompress(code, model=other)


def test_a_byte_without_a_code_is_refused_with_its_block():
    model = ContextModel.of(b"ab" * 500, order=0, escape=False)
    with pytest.raises(CodeError, match=r"block 2, from byte 20: .*got 122 at 5"):
        compress(b"ab" * 10 + b"ababaz", model=model, block_size=10, threads=2)


@pytest.mark.parametrize("wrong", [0, -1, 2**24 + 1, True, 1.5, "a"])
def test_options_outside_their_domain_are_refused(wrong):
    with pytest.raises(OptionError, match="block_size must be"):
        compress(b"ab", block_size=wrong)
    with pytest.raises(OptionError, match="threads must be"):
        compress(b"ab", threads=wrong)
    assert decompress(compress(b"ab" * 9, block_size=np.int64(4))) == b"ab" * 9
    for call in (compress, decompress, account):
        with pytest.raises(OptionError, match=r"model must be a ContextModel: got str"):
            call(compress(b"ab"), model="x.model")


def test_streams_are_read_from_where_they_stand_and_in_pieces():
    class Slow(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 3) if size > 0 else size)

    source = Slow(b"before" + ENGLISH)
    source.seek(6)
    sink = io.BytesIO()
    seen = []
    written = compress_stream(
        source, sink, block_size=500, progress=lambda done, total: seen.append((done, total))
    )
    assert written.total_bytes == len(sink.getvalue())
    assert seen == sorted(seen)
    assert seen[-1] == (len(ENGLISH), len(ENGLISH))
    back = io.BytesIO()
    header = decompress_stream(Slow(sink.getvalue()), back)
    assert back.getvalue() == ENGLISH
    assert header == written.header == read_header(io.BytesIO(sink.getvalue()))


def test_the_closest_file_is_that_of_the_same_language():
    half = len(ENGLISH) // 2
    files = {
        "en 1": ENGLISH[:half], "en 2": ENGLISH[half:], "de 1": GERMAN[:half],
        "de 2": GERMAN[half:], "numbers": NUMBERS,
    }  # fmt: skip
    for order in (0, 1, 2):
        found = cross_entropy_matrix(files, order=order)
        for name, other in (("en 1", "en 2"), ("en 2", "en 1"), ("de 1", "de 2")):
            assert found.closest(name)[0] == other
        assert (found.kl >= 0).all()
        model = ContextModel.of(files["de 1"], order=order)
        assert found.bits[0, 2] == model.price(files["en 1"]) / half
        # the prices are what codes take
        size = len(compress(files["en 1"], model=model))
        assert found.bits[0, 2] * half / 8 == pytest.approx(size, abs=64 + 36 + 32 + 8 + 1)
    text = render_matrix(found)
    assert "en 2" in text
    assert "order 2" in text
    svg = heat_map(found)
    assert svg.count("<svg") == 1
    assert "numbers: " in svg


def test_files_that_cannot_be_compared_are_refused():
    with pytest.raises(OptionError, match="two files or more"):
        cross_entropy_matrix({"a": b"a"})
    with pytest.raises(OptionError, match="'b' is empty"):
        cross_entropy_matrix({"a": b"a", "b": b""})
    models = {"en": ContextModel.of(ENGLISH), "de": ContextModel.of(GERMAN)}
    with pytest.raises(OptionError, match="is empty"):
        classify(b"", models)
    with pytest.raises(OptionError, match="two models or more"):
        classify(b"a", {"en": models["en"]})
    for options in (
        {"block": 0},
        {"block": 2.5},
        {"temperature": 0.0},
        {"temperature": math.inf},
        {"temperature": "8"},
    ):
        with pytest.raises(OptionError, match=r"must be"):
            classify(b"a", models, **options)


def test_labels_follow_the_shortest_code_and_probabilities_do_not_saturate():
    models = {"en": ContextModel.of(ENGLISH, order=1), "de": ContextModel.of(GERMAN, order=1)}
    found = classify(ENGLISH[:2000], models)
    assert found.name == "en"
    assert sum(found.probabilities.values()) == pytest.approx(1.0)
    mixed = classify(ENGLISH[:2048] + GERMAN[:2048], models)
    assert mixed.probabilities["en"] == pytest.approx(0.5, abs=0.1)
    # by hand: the mean of two blocks' tempered posteriors, weighed by their bytes
    data = ENGLISH[:300]
    votes = []
    for part, share in ((slice(0, 256), 256 / 300), (slice(256, 300), 44 / 300)):
        bits = [model.piece_prices(data, 1)[part].sum() for model in models.values()]
        weights = np.exp2(-(np.array(bits) - min(bits)) / 8)
        votes.append(share * weights / weights.sum())
    expected = np.sum(votes, axis=0)
    found = classify(data, models)
    assert list(found.probabilities.values()) == pytest.approx(expected.tolist(), rel=1e-12)


def test_a_model_without_a_code_for_a_block_gets_none_of_its_votes():
    plain = {
        "ab": ContextModel.of(b"ab" * 500, escape=False),
        "cd": ContextModel.of(b"cd" * 500, escape=False),
    }
    found = classify(b"ab" * 128 + b"cd" * 128, plain, block=256)
    assert list(found.probabilities.values()) == [0.5, 0.5]
    assert found.bits == {"ab": math.inf, "cd": math.inf}
    for temperature in (1e-300, 1e-308, 5e-324):
        found = classify(b"ab" * 128, plain, temperature=temperature)
        assert found.probabilities == {"ab": 1.0, "cd": 0.0}
    found = classify(b"z" * 256, plain)
    assert list(found.probabilities.values()) == [0.5, 0.5]


def test_text_says_what_the_parts_are():
    text = render_accounting(account(ENGLISH, order=1))
    for word in ("entropy of the file, given the byte before", "payload", "100.00 %", "headers"):
        assert word in text
    shared = render_accounting(account(ENGLISH, model=ContextModel.of(ENGLISH)))
    assert "fingerprint" in shared


def test_the_heat_map_of_the_documentation_is_that_of_the_stored_figures():
    root = Path(__file__).parents[1]
    told = json.loads((root / "benchmarks" / "results" / "languages.json").read_text())
    found = Matrix(
        tuple(told["names"]), told["order"], np.array(told["cross_entropy_bits_per_byte"]),
        np.array(told["entropy_bits_per_byte"]), tuple(told["bytes"]),
    )  # fmt: skip
    assert found.as_dict() == told
    packages, licences = set(found.names[:5]), set(found.names[5:])
    for kind in (packages, licences):
        assert all(found.closest(name)[0] in kind for name in kind)
    assert heat_map(found) == (root / "docs" / "languages.svg").read_text(encoding="utf-8")


def test_a_shared_model_has_the_same_parts_wherever_it_comes_from():
    model = ContextModel.of(ENGLISH, order=1)
    told = account(GERMAN, model=model)
    assert told == account(GERMAN, model=ContextModel.from_bytes(model.to_bytes()))
    assert told.parts["integer_rounding"] == 0.0
    assert "rounding" not in render_accounting(told)


def test_what_cannot_be_compressed_gets_one_row():
    noise = random.Random(5).randbytes(1 << 18)
    code = compress(noise, threads=1)
    assert account(code, coded=True).rows == 1
    assert len(code) < len(noise) + 1000
    assert decompress(code) == noise


def test_small_files_are_compared_in_little_memory():
    files = {str(i): ENGLISH[i * 80 : i * 80 + 800] for i in range(12)}
    cross_entropy_matrix(files, order=2)
    tracemalloc.start()
    cross_entropy_matrix(files, order=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 65536 * 256 * 8  # two tables of all contexts, however many files
