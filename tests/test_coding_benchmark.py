"""The benchmark of codes: it runs, sees a wrong code, and its words follow from its figures."""

from __future__ import annotations

import os

import pytest

from benchmarks import coding
from benchmarks.__main__ import main
from benchmarks.coding import Coder, Text
from benchmarks.results import read

SMALL = Text(b"to be or not to be, that is the question. " * 200, 1 << 10, 1, 8400)


def test_the_command_measures_and_shows_all_coders(monkeypatch, capsys):
    monkeypatch.setattr(coding, "QUICK_LENGTH", 50_000)
    assert main(["coding", "--quick"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("50 000 bytes, of ")
    for name in (
        "order 2", "xent rANS, order 0", "xent rANS, order 1", "xent rANS, order 2", "xent Huffman",
        "xent compress(model=…), order 2", "xent compress, order 1", "zlib 6", "bz2 9", "lzma 6",
    ):  # fmt: skip
        assert f"\n| {name} |" in shown, name


def test_the_command_refuses_what_it_cannot_do(capsys):
    assert main(["coding", "--quick", "--json"]) == 2
    assert "leave out --json" in capsys.readouterr().err


def test_the_input_is_the_same_each_time_and_says_what_it_is():
    text = coding.text_of_sources(30_000, 1 << 12)
    assert text == coding.text_of_sources(30_000, 1 << 12)
    assert len(text.data) == 30_000 < text.available
    assert b"".join(text.blocks) == text.data
    assert [len(block) for block in text.blocks] == [4096] * 7 + [1328]
    line = Text(b"123456789", 4).as_dict()
    assert (line["bytes"], line["crc32c"], line["sha256"][:8]) == (9, "e3069283", "15e2b0d3")


def test_every_figure_of_a_small_text_is_there():
    lines = list(coding.measure_all(SMALL, 2))
    coders = {(line["coder"], line["threads"]): line for line in lines if line["kind"] == "coder"}
    for line in coders.values():
        assert line["rounds"] == (1 if line["coder"] in ("lzma 6", "zstandard 19") else 2)
        assert line["encode_mb_s"] == pytest.approx(len(SMALL.data) / line["encode_seconds"] / 1e6)
    for line in (line for line in lines if line["kind"] == "model"):
        alone = coders[f"xent rANS, order {line['order']}", 1]
        assert alone["bytes"] == line["payload_bytes"]
        assert line["blocks"] == len(SMALL.blocks)
        whole = coders[f"xent compress, order {line['order']}", 1]["bytes"]
        assert whole == line["payload_bytes"] + line["model_bytes"] + 36 + 8 * line["blocks"]
    (huffman,) = (line for line in lines if line["kind"] == "huffman")
    assert huffman["bits"] == round(huffman["expected_length"] * len(SMALL.data))
    bounds = [line for line in coding.reached(lines) if "bytes a block" in line]
    assert len(bounds) == 3
    assert all(line.startswith("holds") for line in bounds)


def test_peers_that_are_not_installed_are_left_out_and_told(monkeypatch):
    monkeypatch.setattr(coding, "_has", lambda package: False)
    lines = list(coding.measure_all(SMALL, 1))
    names = {line["coder"] for line in lines if line["kind"] == "coder"}
    assert not any(name.startswith(coding.PEERS) for name in names)
    assert coding.table(lines).endswith("not measured: zstandard, constriction, bitarray.")


def test_a_code_of_something_else_is_seen():
    wrong = Coder("wrong", lambda: b"code", lambda code: SMALL.data[:-1] + b"!")
    with pytest.raises(AssertionError, match="wrong decodes its code to something else"):
        list(coding.time_coders(SMALL, [wrong], 1))


def test_a_coder_has_the_cores_and_the_turns_that_it_asks_for():
    had = []

    def encode():
        had.append(coding.cores())
        return SMALL.data

    pair = [Coder("one", encode, bytes), Coder("two", encode, bytes, threads=2, turns=1)]
    before = coding.cores()
    lines = list(coding.time_coders(SMALL, pair, 3, {"work": lambda: None}))
    assert coding.cores() == before
    assert [line["rounds"] for line in lines] == [3, 3, 1]
    if hasattr(os, "sched_setaffinity"):
        assert had == [1, min(2, before), 1, 1]


# ---- made-up figures -----------------------------------------------------------------------------


def coder(name, encode, decode, *, threads=1, whole=False):
    return {
        "kind": "coder", "coder": name, "threads": threads, "whole": whole, "bytes": 5_000_000,
        "bits_per_byte": 4.0, "encode_mb_s": encode, "decode_mb_s": decode,
        "encode_seconds": 10 / encode, "decode_seconds": 10 / decode,
    }  # fmt: skip


def made(speed, ratio, payload, rounding, cores=2):
    yield {
        "kind": "input", "bytes": 10_000_000, "available": 31_000_000, "files": 9, "cores": cores,
        "of_python": "3.11.7", "sha256": "0123456789abcdef" * 4, "crc32c": "e3069283",
    }  # fmt: skip
    for order in (0, 1, 2):
        yield {
            "kind": "model", "order": order, "rows": 1, "model_bytes": 100, "blocks": 10,
            "payload_bytes": payload, "price_bits": 40_000_000.0,
            "unrounded_bits": 40_000_000.0 / (1 + rounding), "entropy_bits": 39_000_000.0,
        }  # fmt: skip
        yield {"kind": "work", "name": f"count, order {order}", "seconds": 0.25}
        yield {"kind": "work", "name": f"fit, order {order}", "seconds": 0.5}
        yield coder(f"xent rANS, order {order}", speed, speed)
    yield {
        "kind": "huffman", "expected_length": 4.5, "payload_bytes": 5_625_000, "bits": 45_000_000,
        "entropy_bits": 39_000_000.0,
    }  # fmt: skip
    yield {"kind": "work", "name": "HuffmanCode.of", "seconds": 0.125}
    yield coder(coding.HUFFMAN, speed, speed)
    for whole, name in ((False, "xent compress(model=…), order 2"), (True, "xent compress")):
        yield coder(name, 10.0, 20.0, whole=whole)
        if cores > 1:
            slow = 1.0 if whole else ratio  # a whole file is not asked
            yield coder(name, 10.0 * slow, 20.0 * slow, threads=2, whole=whole)
    yield {"kind": "missing", "package": "bitarray"}


def test_what_was_to_be_reached_is_told_with_whether_it_holds():
    told = coding.reached(list(made(100.0, 1.6, 5_001_140, 4.9e-4)))
    assert len(told) == 3 * 2 + 2 + 3 + 1
    assert all(line.startswith("holds ") for line in told)
    told = coding.reached(list(made(59.9, 1.59, 5_001_141, 5.1e-4)))
    missed = [line for line in told if line.startswith("misses")]
    held = [line for line in told if line.startswith("holds")]
    assert len(missed) == 5 + 2 + 3 + 1
    assert held == ["holds   xent rANS, order 2: decode 59.9 MB/s, 40 at least"]
    assert "misses  xent rANS, order 0: encode 59.9 MB/s, 100 at least" in missed
    assert (
        "misses  xent compress(model=…), order 2: encode on two cores 1.59 × as fast as on one, "
        "1.6 at least"
    ) in missed
    assert (
        "misses  order 1: codes of 5 001 141 bytes, 5 001 140 at most (the price, 64 bytes a block "
        "and 0.01 %)"
    ) in missed
    assert "misses  order 0: whole frequencies cost 0.0510 %, 0.05 % at most" in missed


def test_two_cores_are_not_asked_of_one():
    told = coding.reached(list(made(100.0, 1.6, 5_000_000, 0.0, cores=1)))
    assert [line for line in told if "two cores" in line] == [
        "not asked  two cores beside one: there is one"
    ]


def test_tables_are_put_between_the_comments():
    lines = list(made(123.4, 1.75, 5_000_000, 1e-4))
    page = coding.render("a\n<!-- coding -->\nold\n<!-- /coding -->\nb\n", lines)
    assert page.startswith("a\n<!-- coding -->\n\n10 000 000 bytes, of 31 000 000 in the sources")
    assert page.endswith("measured: bitarray.\n\n<!-- /coding -->\nb\n")
    assert (
        "\n| order 0 | 1 | 0.25 s | 0.50 s | 3.9000 | 4.0000 | 5 000 000 | 5 000 000 | 0.0100 % | "
        "100 |\n"
    ) in page
    assert "\n| Huffman | | 0.12 s | | 3.9000 | 4.5000 | 5 625 000 | 5 625 000 | | |\n" in page
    alone, whole = page.split("| a whole file |")
    assert "\n| xent rANS, order 1 | 5 000 000 | 4.000 | 123 | 123 |\n" in alone
    assert "\n| xent compress(model=…), order 2, two cores | 5 000 000 | 4.000 | 18 | 35 |" in alone
    assert "\n| xent compress | 5 000 000 | 4.000 | 10 | 20 |\n" in whole
    assert coding.render(page, lines) == page


def test_the_page_shows_the_results():
    if not coding.STORED.exists():
        pytest.skip("nothing is stored yet")
    text = coding.PAGE.read_text(encoding="utf-8")
    assert coding.render(text, read(coding.STORED)) == text
