"""Codes beside other coders: bytes, what the model says they cost, and time.

The input is the Python standard library's own sources, so nothing is downloaded; another version of
Python has others, and the lines tell which bytes they are of. All coders have their turns in one
process, on one core where two are not named; every code is decoded and compared.
"""

from __future__ import annotations

import bz2
import hashlib
import importlib.metadata
import importlib.util
import lzma
import os
import platform
import sysconfig
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.results import ROOT, replace_part, show_progress
from xent.coding import (
    ContextModel,
    Counts,
    HuffmanCode,
    compress,
    decode_block,
    decompress,
    encode_block,
)
from xent.coding.checksum import crc32c

__all__ = [
    "LENGTH", "PAGE", "QUICK_LENGTH", "STORED", "Coder", "Text", "measure_all", "reached", "render",
    "table", "text_of_sources", "time_coders",
]  # fmt: skip

STORED = ROOT / "benchmarks" / "results" / "coding.jsonl"
PAGE = ROOT / "docs" / "coding.md"
LENGTH, QUICK_LENGTH = 10_000_000, 200_000
BLOCK, QUICK_BLOCK = 1 << 20, 1 << 14
ORDERS = (0, 1, 2)
SIDE_BY_SIDE = (0, 2)
"""Orders whose blocks are encoded and decoded on two cores beside one."""
HUFFMAN = "xent Huffman"
LEAST_SPEED = {"xent rANS, order 0": (100, 100), "xent rANS, order 2": (60, 40), HUFFMAN: (60, 60)}
"""MB/s that encoding and decoding shall reach, on one core."""
LEAST_RATIO = 1.6
"""So many times as fast two cores shall be as one."""
STATE_BYTES, MOST_BEYOND, MOST_ROUNDING = 64, 1e-4, 5e-4
"""A block may take these bytes and this share beside its price; rounding may cost that share."""
Line = dict[str, Any]
Work = Callable[[], Any]


# ---- the input -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Text:
    """Bytes to be coded.

    Attributes
    ----------
    data
        The bytes.
    block_size
        Bytes of a block of xent's.
    files
        How many files they are of, the last one cut.
    available
        How many bytes there are.
    """

    data: bytes
    block_size: int
    files: int = 1
    available: int = 0

    @property
    def blocks(self) -> list[bytes]:
        """Return the bytes in blocks."""
        starts = range(0, len(self.data), self.block_size)
        return [self.data[start : start + self.block_size] for start in starts]

    def as_dict(self) -> Line:
        """Return what they are as a line of the results."""
        return {
            "kind": "input", "bytes": len(self.data), "files": self.files,
            "available": self.available, "crc32c": f"{crc32c(self.data):08x}",
            "sha256": hashlib.sha256(self.data).hexdigest(), "of_python": platform.python_version(),
            "block_size": self.block_size, "cores": cores(),
        }  # fmt: skip


def text_of_sources(length: int, block_size: int) -> Text:
    """Return the sources of the standard library in the order of their paths, cut at a length."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    inside = [paths[name] for name in sorted(paths) if "site-packages" not in name.split("/")]
    parts: list[bytes] = []
    found = 0
    for path in inside:
        if found >= length:
            break
        parts.append(path.read_bytes())
        found += len(parts[-1])
    available = sum(path.stat().st_size for path in inside)
    return Text(b"".join(parts)[:length], block_size, len(parts), available)


def cores() -> int:
    """Return how many cores this process may use."""
    own = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(own(0)) if own is not None else os.cpu_count() or 1


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Keep this thread, and those that it starts, on so many cores, where a system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-count:])  # the first serves most interrupts
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


# ---- the coders ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Coder:
    """A way from bytes to their code and back.

    Attributes
    ----------
    name
        What it is called in results.
    encode, decode
        What is timed: from the input, which they know, to its code, and from that to the input.
    size
        How many bytes a code has.
    whole
        Whether these are all that a reader needs; if not, it knows the model.
    plain
        How what is decoded becomes bytes again, for the comparison; it is not timed.
    threads
        On how many cores.
    turns
        How many turns it has at most.
    version
        Of the library.
    """

    name: str
    encode: Work = field(repr=False)
    decode: Callable[[Any], Any] = field(repr=False)
    size: Callable[[Any], int] = field(default=len, repr=False)
    whole: bool = True
    plain: Callable[[Any], bytes] = field(default=bytes, repr=False)
    threads: int = 1
    turns: int = 1 << 30
    version: str = ""


def count(text: Text, order: int) -> Counts:
    """Return the counts of all blocks."""
    counts = Counts(order)
    for block in text.blocks:
        counts.add(block)
    return counts


def coders_of_xent(
    text: Text, models: Sequence[ContextModel], huffman: HuffmanCode
) -> Iterator[Coder]:
    """Return xent's own: the coders alone, through threads, and whole files."""
    blocks = text.blocks

    def decode_all(codes: Sequence[bytes], model: ContextModel) -> bytes:
        pairs = zip(codes, blocks, strict=True)
        return b"".join([decode_block(code, len(block), model) for code, block in pairs])

    for model in models:
        yield Coder(
            f"xent rANS, order {model.order}",
            lambda model=model: [encode_block(block, model) for block in blocks],
            lambda codes, model=model: decode_all(codes, model),
            lambda codes: sum(len(code) for code in codes),
            whole=False,
        )
    yield Coder(
        HUFFMAN,
        lambda: huffman.encode(text.data),
        huffman.decode,
        lambda encoded: len(encoded.data),
        whole=False,
    )
    sides = (1, 2) if cores() > 1 else (1,)
    for model in models:
        for threads in sides:
            if model.order in SIDE_BY_SIDE:
                yield Coder(
                    f"xent compress(model=…), order {model.order}",
                    _compress(text, model=model, threads=threads),
                    lambda code, m=model, n=threads: decompress(code, model=m, threads=n),
                    whole=False,
                    threads=threads,
                )
    for order in ORDERS:
        for threads in sides:
            yield Coder(
                f"xent compress, order {order}",
                _compress(text, order=order, threads=threads),
                lambda code, n=threads: decompress(code, threads=n),
                threads=threads,
            )


def _compress(text: Text, **options: Any) -> Work:
    return lambda: compress(text.data, block_size=text.block_size, **options)


def general_coders(data: bytes) -> Iterator[Coder]:
    """Return the general compressors that Python brings, and zstandard where it is installed."""
    for level in (1, 6, 9):
        yield Coder(
            f"zlib {level}",
            lambda level=level: zlib.compress(data, level),
            zlib.decompress,
            version=zlib.ZLIB_RUNTIME_VERSION,
        )
    yield Coder("bz2 9", lambda: bz2.compress(data, 9), bz2.decompress)
    yield Coder("lzma 6", lambda: lzma.compress(data, preset=6), lzma.decompress, turns=1)
    if _has("zstandard"):
        import zstandard

        for level, turns in ((3, 1 << 30), (19, 1)):
            packer = zstandard.ZstdCompressor(level=level)
            yield Coder(
                f"zstandard {level}",
                lambda packer=packer: packer.compress(data),
                zstandard.ZstdDecompressor().decompress,
                turns=turns,
                version=zstandard.__version__,
            )


def order_0_coders(data: bytes) -> Iterator[Coder]:
    """Return the coders of order 0 that are installed, with the frequencies of the input."""
    counts = np.bincount(np.frombuffer(data, np.uint8), minlength=256)
    if _has("constriction"):
        import constriction

        AnsCoder = constriction.stream.stack.AnsCoder
        symbols = np.frombuffer(data, np.uint8).astype(np.int32)
        model = constriction.stream.model.Categorical(
            (counts / len(data)).astype(np.float32), perfect=False
        )

        def encode_constriction() -> Any:
            coder = AnsCoder()
            coder.encode_reverse(symbols, model)
            return coder.get_compressed()

        yield Coder(
            "constriction ANS, order 0",
            encode_constriction,
            lambda code: AnsCoder(code).decode(model, len(data)),
            lambda code: int(code.nbytes),
            whole=False,
            plain=lambda decoded: decoded.astype(np.uint8).tobytes(),
            version=importlib.metadata.version("constriction"),
        )
    if _has("bitarray"):
        from bitarray import bitarray, decodetree
        from bitarray.util import canonical_huffman

        codewords, _, _ = canonical_huffman({s: int(counts[s]) for s in np.flatnonzero(counts)})
        tree = decodetree(codewords)

        def encode_bitarray() -> Any:
            bits = bitarray()
            bits.encode(codewords, data)
            return bits

        yield Coder(
            "bitarray Huffman",
            encode_bitarray,
            lambda bits: bytes(bits.decode(tree)),
            lambda bits: int(bits.nbytes),
            whole=False,
            version=importlib.metadata.version("bitarray"),
        )


PEERS = ("zstandard", "constriction", "bitarray")


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


# ---- the measurements ----------------------------------------------------------------------------


def _timed(work: Work, spent: list[float]) -> Any:
    start = time.perf_counter()
    made = work()
    spent.append(time.perf_counter() - start)
    return made


def time_coders(
    text: Text, coders: Sequence[Coder], rounds: int, also: dict[str, Work] | None = None
) -> Iterator[Line]:
    """Time coders in turns, and check that each gives back what it was given.

    Parameters
    ----------
    text
        What they encode.
    coders, rounds
        Who, and how often.
    also
        Other work, by name, that has its turns on one core beside them.

    Raises
    ------
    AssertionError
        If a code is decoded to something else.
    """
    spent: list[tuple[list[float], list[float]]] = [([], []) for _ in coders]
    sizes = [0] * len(coders)
    beside: dict[str, list[float]] = {name: [] for name in also or {}}
    for turn in range(rounds):
        for name, work in (also or {}).items():
            show_progress(f"round {turn + 1} of {rounds}: {name}")
            with on_cores(1):
                _timed(work, beside[name])
        for number, coder in enumerate(coders):
            if turn >= coder.turns:
                continue
            show_progress(f"round {turn + 1} of {rounds}: {coder.name}")
            with on_cores(coder.threads):
                code = _timed(coder.encode, spent[number][0])
                decoded = _timed(lambda: coder.decode(code), spent[number][1])  # noqa: B023
            if coder.plain(decoded) != text.data:
                raise AssertionError(f"{coder.name} decodes its code to something else")
            sizes[number] = coder.size(code)
    for name, times in beside.items():
        yield {"kind": "work", "name": name, "seconds": median(times), "rounds": len(times)}
    for coder, (encoding, decoding), size in zip(coders, spent, sizes, strict=True):
        encode, decode = median(encoding), median(decoding)
        yield {
            "kind": "coder", "coder": coder.name, "threads": coder.threads, "whole": coder.whole,
            "bytes": size, "bits_per_byte": 8 * size / len(text.data),
            "encode_seconds": encode, "decode_seconds": decode,
            "encode_mb_s": len(text.data) / encode / 1e6,
            "decode_mb_s": len(text.data) / decode / 1e6,
            "rounds": len(encoding), "version": coder.version,
        }  # fmt: skip


def price(text: Text, counts: Counts, model: ContextModel) -> Line:
    """Return what a model says that the blocks' codes take, and what they do."""
    codes = [encode_block(block, model) for block in text.blocks]
    return {
        "kind": "model", "order": model.order, "rows": int(model.levels.size),
        "model_bytes": len(model.to_bytes()), "blocks": len(codes),
        "payload_bytes": sum(len(code) for code in codes), "price_bits": model.price_of(counts),
        "unrounded_bits": model.price_of(counts, rounded=False),
        "entropy_bits": counts.entropy_bits(),
    }  # fmt: skip


def measure_all(text: Text, rounds: int) -> Iterator[Line]:
    """Price every model, and time everything in turns.

    Parameters
    ----------
    text
        The input.
    rounds
        Turns of each.
    """
    yield text.as_dict()
    show_progress("models")
    counts = [count(text, order) for order in ORDERS]
    models = [ContextModel.fit(own, escape=False) for own in counts]
    for own, model in zip(counts, models, strict=True):
        yield price(text, own, model)
    huffman = HuffmanCode.of(text.data)
    encoded = huffman.encode(text.data)
    p = np.bincount(np.frombuffer(text.data, np.uint8), minlength=256) / len(text.data)
    yield {
        "kind": "huffman", "expected_length": huffman.expected_length(p), "bits": encoded.bits,
        "payload_bytes": len(encoded.data), "entropy_bits": counts[0].entropy_bits(),
    }  # fmt: skip
    # All of xent's loops are compiled by now but those that decode; tables are made at first use.
    huffman.decode(encoded)
    for model in models:
        first = text.blocks[0]
        decode_block(encode_block(first, model), len(first), model)
    coders = [
        *coders_of_xent(text, models, huffman),
        *general_coders(text.data),
        *order_0_coders(text.data),
    ]
    also: dict[str, Work] = {}
    for own in counts:
        also[f"count, order {own.order}"] = lambda order=own.order: count(text, order)
        also[f"fit, order {own.order}"] = lambda own=own: ContextModel.fit(own, escape=False)
    also["HuffmanCode.of"] = lambda: HuffmanCode.of(text.data)
    yield from time_coders(text, coders, rounds, also)
    for package in PEERS:
        if not _has(package):
            yield {"kind": "missing", "package": package}


# ---- what is shown -------------------------------------------------------------------------------


def _number(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ")


def _speed(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _of(lines: Sequence[Line], kind: str) -> list[Line]:
    return [line for line in lines if line["kind"] == kind]


def _rows(*heads: str) -> list[str]:
    return [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]


def table(lines: Sequence[Line]) -> str:
    """Return the figures as tables in Markdown."""
    (text,) = _of(lines, "input")
    told = (
        f"{_number(text['bytes'])} bytes, of {_number(text['available'])} in the sources of Python "
        f"{text['of_python']}, SHA-256 {text['sha256'][:16]}…"
    )
    if "machine" in text:
        told += f"; {text['machine']['cpu']}, {text['cores']} cores"
    rows = [
        told + ".",
        "",
        *_rows("model", "rows", "counting", "fitting", "H(P), bits a byte", "H(P, Q̂), bits a byte",
               "price, bytes", "blocks' codes, bytes", "rounding", "model, bytes"),
    ]  # fmt: skip
    seconds = {line["name"]: line["seconds"] for line in _of(lines, "work")}
    for line in _of(lines, "model"):
        order = line["order"]
        rows.append(
            f"| order {order} | {line['rows']} | {seconds[f'count, order {order}']:.2f} s | "
            f"{seconds[f'fit, order {order}']:.2f} s | "
            f"{line['entropy_bits'] / text['bytes']:.4f} | "
            f"{line['price_bits'] / text['bytes']:.4f} | {_number(line['price_bits'] / 8)} | "
            f"{_number(line['payload_bytes'])} | {100 * _rounding(line):.4f} % | "
            f"{_number(line['model_bytes'])} |"
        )
    for line in _of(lines, "huffman"):
        rows.append(
            f"| Huffman | | {seconds['HuffmanCode.of']:.2f} s | | "
            f"{line['entropy_bits'] / text['bytes']:.4f} | {line['expected_length']:.4f} | "
            f"{_number(line['expected_length'] * text['bytes'] / 8)} | "
            f"{_number(line['payload_bytes'])} | | |"
        )
    parts = (("a code alone, its model known", False), ("a whole file", True))
    for head, whole in parts:
        rows += ["", *_rows(head, "bytes", "bits a byte", "encoding, MB/s", "decoding, MB/s")]
        rows += [
            f"| {line['coder']}{', two cores' if line['threads'] == 2 else ''} | "
            f"{_number(line['bytes'])} | {line['bits_per_byte']:.3f} | "
            f"{_speed(line['encode_mb_s'])} | {_speed(line['decode_mb_s'])} |"
            for line in _of(lines, "coder")
            if line["whole"] == whole
        ]
    missing = [line["package"] for line in _of(lines, "missing")]
    if missing:
        rows += ["", f"Not installed, so not measured: {', '.join(missing)}."]
    return "\n".join(rows)


def _rounding(line: Line) -> float:
    """Return what whole frequencies cost, of what those cost that they were rounded from."""
    exact: float = line["unrounded_bits"]
    return (line["price_bits"] - exact) / exact if exact else 0.0


def reached(lines: Sequence[Line]) -> list[str]:
    """Return what was to be reached, a line each, with whether it holds."""
    told = []

    def tell(holds: bool, text: str) -> None:
        told.append(f"{'holds ' if holds else 'misses'}  {text}")

    coders = {(line["coder"], line["threads"]): line for line in _of(lines, "coder")}
    for name, least in LEAST_SPEED.items():
        for way, wanted in zip(("encode", "decode"), least, strict=True):
            speed = coders[name, 1][f"{way}_mb_s"]
            tell(speed >= wanted, f"{name}: {way} {speed:.1f} MB/s, {wanted} at least")
    for (name, threads), line in coders.items():
        if threads == 2 and not line["whole"]:
            for way in ("encode", "decode"):
                ratio = coders[name, 1][f"{way}_seconds"] / line[f"{way}_seconds"]
                tell(
                    ratio >= LEAST_RATIO,
                    f"{name}: {way} on two cores {ratio:.2f} × as fast as on one, {LEAST_RATIO} at "
                    "least",
                )
    (text,) = _of(lines, "input")
    if text["cores"] < 2:
        told.append("not asked  two cores beside one: there is one")
    for line in _of(lines, "model"):
        exact = line["price_bits"] / 8
        most = exact * (1 + MOST_BEYOND) + STATE_BYTES * line["blocks"]
        tell(
            line["payload_bytes"] <= most,
            f"order {line['order']}: codes of {_number(line['payload_bytes'])} bytes, "
            f"{_number(most)} at most (the price, {STATE_BYTES} bytes a block and "
            f"{100 * MOST_BEYOND:g} %)",
        )
        if line["order"] == 0:
            share = _rounding(line)
            tell(
                share <= MOST_ROUNDING,
                f"order 0: whole frequencies cost {100 * share:.4f} %, {100 * MOST_ROUNDING:g} % "
                "at most",
            )
    return told


def render(text: str, lines: Sequence[Line]) -> str:
    """Return a page with its tables made from the measurements."""
    return replace_part(text, "coding", f"\n{table(lines)}\n\n")
