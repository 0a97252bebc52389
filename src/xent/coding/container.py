"""Files of codes: the container that `xent code compress` writes, as docs/format.md lays it out.

A file is read twice, once to count it and once to encode it, and in blocks, which are encoded and
decoded side by side; so it may be larger than memory. What is written names the length and the
checksum of the original, and of every block: a file that was cut off or damaged is refused, with
where, and is never decoded to something else.
"""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from xent.coding.checksum import crc32c
from xent.coding.context_model import ContextModel, Counts, as_bytes
from xent.coding.options import whole_number
from xent.coding.stream import decode_block, encode_block
from xent.coding.stream_loops import LANES
from xent.errors import CodeError, ModelError, OptionError

__all__ = [
    "BLOCK_HEADER",
    "BLOCK_SIZE",
    "MAGIC",
    "Header",
    "Progress",
    "Sink",
    "Source",
    "Written",
    "check_model",
    "compress",
    "compress_stream",
    "decompress",
    "decompress_stream",
    "model_of",
    "nothing",
    "read_header",
    "read_whole",
]

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[int, int], None]

MAGIC = b"\x89XENT\r\n\x1a"
VERSION = 1
BLOCK_SIZE = 1 << 19
"""Bytes of a block where the caller names none."""
LARGEST_BLOCK = 1 << 24
LARGEST_MODEL = 1 << 26
_FIXED = 32
BLOCK_HEADER = 8
_DAMAGED = "Hint: the file is damaged or cut off; copy it again."


@dataclass(frozen=True)
class Header:
    """What stands before the blocks.

    Attributes
    ----------
    shared
        Whether the model is elsewhere, and the file has its fingerprint only.
    block_size
        Bytes of the original in each block but the last.
    length
        Bytes of the original.
    checksum
        CRC-32C of the original.
    model
        The model's bytes, or its fingerprint.
    """

    shared: bool
    block_size: int
    length: int
    checksum: int
    model: bytes

    @property
    def blocks(self) -> int:
        """How many blocks follow."""
        return -(-self.length // self.block_size)

    @property
    def size(self) -> int:
        """How many bytes it takes."""
        return _FIXED + len(self.model) + 4

    def to_bytes(self) -> bytes:
        """Return the header as it is written."""
        numbers = (
            (VERSION, 1), (int(self.shared), 1), (0, 2), (self.block_size, 4), (self.length, 8),
            (self.checksum, 4), (len(self.model), 4),
        )  # fmt: skip
        fixed = MAGIC + b"".join(value.to_bytes(width, "little") for value, width in numbers)
        return fixed + self.model + crc32c(fixed + self.model).to_bytes(4, "little")


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes
    ----------
    header
        The header.
    code_bytes
        Bytes of all blocks' codes.
    model
        The model that they were written with.
    counts
        What was counted of the input, if a model was fitted to it.
    """

    header: Header
    code_bytes: int
    model: ContextModel
    counts: Counts | None = None

    @property
    def total_bytes(self) -> int:
        """Bytes of the file."""
        return self.header.size + BLOCK_HEADER * self.header.blocks + self.code_bytes


class Source(Protocol):
    """Where bytes come from."""

    def read(self, size: int, /) -> bytes:
        """Return at most so many bytes, none at the end."""

    def seek(self, offset: int, whence: int = ..., /) -> int:
        """Go to a place, for what is read twice."""

    def tell(self) -> int:
        """Return the place."""


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes, /) -> Any:
        """Take bytes."""


def nothing(done: int, total: int) -> None:
    """Tell nobody how far the work is."""


# ---- writing -------------------------------------------------------------------------------------


def compress(
    data: Any,
    *,
    model: ContextModel | None = None,
    order: int = 2,
    block_size: int = BLOCK_SIZE,
    threads: int | None = None,
) -> bytes:
    """Return bytes as a file of their code.

    Parameters
    ----------
    data
        The bytes; an array of uint8 too.
    model
        A model that the reader has as well; the file names its fingerprint. Without one a model is
        fitted to the data and written into the file.
    order
        How many bytes before a byte that model looks at, 0 to 2.
    block_size
        Bytes of a block, at most 2²⁴. Each block takes up to 72 bytes beside its price.
    threads
        How many blocks are encoded at a time; by default as many as there are cores.

    Raises
    ------
    CodeError
        If a byte has no code in the model.
    OptionError
        If the order or the size of blocks is outside its domain.

    Examples
    --------
    >>> from xent.coding import compress, decompress
    >>> text = b"to be or not to be, that is the question" * 100
    >>> code = compress(text)
    >>> print(len(text), len(code), decompress(code) == text)
    4000 449 True

    See Also
    --------
    xent.coding.account : what these bytes are made of.
    """
    sink = io.BytesIO()
    source = io.BytesIO(as_bytes(data).tobytes())
    compress_stream(source, sink, model=model, order=order, block_size=block_size, threads=threads)
    return sink.getvalue()


def compress_stream(
    source: Source,
    sink: Sink,
    *,
    model: ContextModel | None = None,
    order: int = 2,
    block_size: int = BLOCK_SIZE,
    threads: int | None = None,
    progress: Progress = nothing,
) -> Written:
    """Write the code of a stream to another, and return what was written.

    Parameters
    ----------
    source
        Where the bytes come from; it is read twice, so it must be able to go back.
    sink
        Where the file goes.
    model, order, block_size, threads
        As for `compress`.
    progress
        What is told how many bytes are done, of how many: in the first pass half of them.

    Raises
    ------
    CodeError
        Also if the source was not the same when it was read again.
    """
    hint = f"the default is {BLOCK_SIZE}."
    block_size = whole_number("block_size", block_size, 1, LARGEST_BLOCK, hint)
    check_model(model)
    start = source.tell()
    total = source.seek(0, io.SEEK_END) - start
    source.seek(start)
    counts = Counts(order) if model is None else None
    length = checksum = 0
    for block in _blocks(source, block_size):
        length, checksum = length + len(block), crc32c(block, checksum)
        if counts is not None:
            counts.add(block)
        progress(length // 2, total)
    used = ContextModel.fit(counts, escape=False) if counts is not None else model
    assert used is not None
    header = Header(
        model is not None, block_size, length, checksum,
        used.fingerprint if model is not None else used.to_bytes(),
    )  # fmt: skip
    sink.write(header.to_bytes())
    source.seek(start)
    again = done = code_bytes = 0

    def encode(number: int, block: bytes) -> tuple[bytes, bytes]:
        with _told(number, block_size):
            return block, encode_block(block, used)

    for block, code in _side_by_side(encode, _blocks(source, block_size), threads):
        again, done = crc32c(block, again), done + len(block)
        if done > length:  # and may go on growing for ever
            break
        code_bytes += len(code)
        sink.write(len(code).to_bytes(4, "little") + crc32c(block).to_bytes(4, "little"))
        sink.write(code)
        progress((length + done) // 2, total)
    if (again, done) != (checksum, length):
        raise CodeError(
            f"the input must stay as it is while it is read: {length} bytes were counted, and then "
            f"{'more' if done > length else done} others came. "
            "Hint: compress a copy of a file that is still written to."
        )
    return Written(header, code_bytes, used, counts)


def check_model(model: Any) -> None:
    """Refuse what is no model, such as the name of its file."""
    if model is not None and not isinstance(model, ContextModel):
        raise OptionError(
            f"model must be a ContextModel: got {type(model).__name__}. "
            "Hint: ContextModel.load(path) reads one."
        )


@contextmanager
def _told(number: int, block_size: int) -> Iterator[None]:
    """Say in which block an error is."""
    try:
        yield
    except CodeError as error:
        raise CodeError(f"block {number}, from byte {number * block_size}: {error}") from None


def _blocks(source: Source, block_size: int) -> Iterator[bytes]:
    """Read blocks, each whole but the last, however few bytes a read returns."""
    while block := read_whole(source, block_size):
        yield block


def read_whole(source: Source, size: int) -> bytes:
    """Return that many bytes, or what there is; memory grows with what comes, not with `size`."""
    parts, left = [], size
    while left and (part := source.read(min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _side_by_side(
    work: Callable[[int, T], R], items: Iterable[T], threads: int | None
) -> Iterator[R]:
    """Do the work for all items, some at a time, and give the results in the items' order."""
    count = _threads(threads)
    if count == 1:
        yield from (work(number, item) for number, item in enumerate(items))
        return
    ahead: deque[tuple[Future[R], int, T]] = deque()

    def help_out() -> bool:
        """Do here what waits for a thread; tell whether there was something."""
        for place, (future, number, item) in enumerate(ahead):
            if future.cancel():
                own: Future[R] = Future()
                try:
                    own.set_result(work(number, item))
                except CodeError as error:
                    own.set_exception(error)
                ahead[place] = own, number, item
                return True
        return False

    def first() -> R:
        while not ahead[0][0].done() and help_out():
            pass
        return ahead.popleft()[0].result()

    # This thread works as well, so that one fewer has to find a processor.
    with ThreadPoolExecutor(count - 1) as pool:
        try:
            for number, item in enumerate(items):
                ahead.append((pool.submit(work, number, item), number, item))
                if len(ahead) > 2 * count:  # so that no thread waits while this one works
                    yield first()
            while ahead:
                yield first()
        finally:
            for future, _, _ in ahead:
                future.cancel()


def _threads(asked: int | None) -> int:
    if asked is None:
        own = getattr(os, "sched_getaffinity", None)  # Linux only
        return len(own(0)) if own is not None else os.cpu_count() or 1
    return whole_number("threads", asked, 1, 1024, "left out, it is how many cores there are.")


# ---- reading -------------------------------------------------------------------------------------


def decompress(
    code: Any, *, model: ContextModel | None = None, threads: int | None = None
) -> bytes:
    """Return the bytes that a file of codes stands for.

    Parameters
    ----------
    code
        What `compress` returned.
    model
        The model that it was given, if it was given one.
    threads
        How many blocks are decoded at a time; by default as many as there are cores.

    Raises
    ------
    CodeError
        If it is no such file, or cut off, damaged, or followed by more; the message says where.
    ModelError
        If it was written with a model that was not given, or with another one.

    Examples
    --------
    >>> from xent.coding import compress, decompress
    >>> decompress(compress(b"to be or not to be"))
    b'to be or not to be'

    See Also
    --------
    decompress_stream : from one stream to another, in memory that does not grow with them.
    """
    sink = io.BytesIO()
    decompress_stream(io.BytesIO(as_bytes(code).tobytes()), sink, model=model, threads=threads)
    return sink.getvalue()


def read_header(source: Source) -> Header:
    """Read and check what stands before the blocks.

    Raises
    ------
    CodeError
        If it is no header of this version, or damaged.
    """
    fixed = read_whole(source, _FIXED)
    if not fixed.startswith(MAGIC[: len(fixed)]) or not fixed:
        raise CodeError(
            f"a file of codes must begin with {MAGIC!r}: got {fixed[:8]!r}. "
            "Hint: `xent code compress` writes such files."
        )
    _require_bytes(fixed, _FIXED, 0, "the header")
    if fixed[8] != VERSION:
        raise CodeError(
            f"the version must be {VERSION}: got {fixed[8]} at byte 8. "
            "Hint: a newer xent wrote it, or it is damaged."
        )
    number = {name: int.from_bytes(fixed[a:b], "little") for name, a, b in _FIELDS}
    model_size = number["model"]
    possible = (
        number["shared"] <= 1
        and number["zero"] == 0
        and 1 <= number["block"] <= LARGEST_BLOCK
        and model_size <= LARGEST_MODEL
        and (number["shared"] == 0 or model_size == 32)
    )
    if not possible:
        raise CodeError(
            f"the header has numbers that no header has, from byte 9 on: {fixed[9:].hex(' ')}. "
            f"{_DAMAGED}"
        )
    rest = read_whole(source, model_size + 4)
    _require_bytes(rest, model_size + 4, _FIXED, "the model")
    model, check = rest[:-4], int.from_bytes(rest[-4:], "little")
    if crc32c(fixed + model) != check:
        raise CodeError(
            "the header and the model must match their checksum, at byte "
            f"{_FIXED + model_size}. {_DAMAGED}"
        )
    return Header(
        bool(number["shared"]), number["block"], number["length"], number["checksum"], model
    )


_FIELDS = (
    ("shared", 9, 10), ("zero", 10, 12), ("block", 12, 16), ("length", 16, 24),
    ("checksum", 24, 28), ("model", 28, 32),
)  # fmt: skip


def _require_bytes(found: bytes, size: int, start: int, what: str) -> None:
    if len(found) < size:
        raise CodeError(
            f"{what} must have {size} bytes from byte {start} on: the file ends after {len(found)} "
            f"of them. {_DAMAGED}"
        )


def model_of(header: Header, model: ContextModel | None) -> ContextModel:
    """Return the model that a file was written with: its own, or the one that it names.

    Raises
    ------
    CodeError
        If the file's own is damaged.
    ModelError
        If it names one that was not given.
    """
    if not header.shared:
        try:
            return ContextModel.from_bytes(header.model)
        except ModelError as error:
            raise CodeError(f"the model from byte {_FIXED}: {error}") from None
    if model is None:
        raise ModelError(
            f"a model must be given, the one with fingerprint {header.model.hex()}: got none. "
            "Hint: --model FROM.model, as it was compressed with."
        )
    if model.fingerprint != header.model:
        raise ModelError(
            f"the model must be the one with fingerprint {header.model.hex()}: got "
            f"{model.fingerprint.hex()}. Hint: --model FROM.model, as it was compressed with."
        )
    return model


def decompress_stream(
    source: Source,
    sink: Sink | None,
    *,
    model: ContextModel | None = None,
    threads: int | None = None,
    progress: Progress = nothing,
) -> Header:
    """Decode one stream to another, and return its header.

    Blocks reach the sink when their own checksum has been compared; whoever writes to a file
    renames it when this has returned.

    Parameters
    ----------
    source
        Where the code comes from.
    sink
        Where the bytes go; None only checks.
    model, threads
        As for `decompress`.
    progress
        What is told how many bytes are done, of how many.

    Raises
    ------
    CodeError, ModelError
        As `decompress` does.
    """
    check_model(model)
    header = read_header(source)
    used = model_of(header, model)

    def decode(number: int, block: tuple[int, int, bytes]) -> bytes:
        size, checksum, code = block
        with _told(number, header.block_size):
            data = decode_block(code, size, used)
            if crc32c(data) != checksum:
                raise CodeError(f"its bytes must match their checksum. {_DAMAGED}")
            return data

    done = checksum = 0
    for data in _side_by_side(decode, _codes(source, header, used), threads):
        checksum, done = crc32c(data, checksum), done + len(data)
        if sink is not None:
            sink.write(data)
        progress(done, header.length)
    if checksum != header.checksum:
        raise CodeError(
            f"the whole must match its checksum {header.checksum:08x}: got {checksum:08x}. "
            f"{_DAMAGED}"
        )
    return header


def _codes(source: Source, header: Header, model: ContextModel) -> Iterator[tuple[int, int, bytes]]:
    """Read the code of each block, with the block's size and checksum."""
    at = header.size
    for number in range(header.blocks):
        size = min(header.block_size, header.length - number * header.block_size)
        what = f"block {number}"
        numbers = read_whole(source, BLOCK_HEADER)
        _require_bytes(numbers, BLOCK_HEADER, at, what)
        code_size = int.from_bytes(numbers[:4], "little")
        if code_size > 8 * LANES + 4 * size * (model.order + 2):
            raise CodeError(
                f"{what} has {size} bytes, whose code must be shorter than {code_size}, as byte "
                f"{at} has it. {_DAMAGED}"
            )
        code = read_whole(source, code_size)
        _require_bytes(code, code_size, at + BLOCK_HEADER, what)
        yield size, int.from_bytes(numbers[4:], "little"), code
        at += BLOCK_HEADER + code_size
    if more := source.read(1):
        raise CodeError(
            f"the file must end at byte {at}, with its last block: {more!r} follows. Hint: nothing "
            "may be appended to it."
        )
