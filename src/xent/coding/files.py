"""Codes of files on disk: read in blocks, verified by decoding, and renamed only then.

A name of ``-`` is standard input or output; what cannot be read twice is copied to a temporary
file first.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from xent.coding.accounting import Accounting, account_stream
from xent.coding.container import (
    BLOCK_SIZE,
    MAGIC,
    Header,
    Progress,
    Written,
    compress_stream,
    decompress_stream,
    nothing,
    read_whole,
)
from xent.coding.context_model import ContextModel, Counts
from xent.errors import CodeError, OptionError
from xent.files import replacing

__all__ = [
    "STANDARD",
    "account_file",
    "compress_file",
    "decompress_file",
    "files_below",
    "opened",
    "read_all",
    "train_model",
]

STANDARD = Path("-")
"""The name of standard input and output."""


class _Source:
    """A file that is read, whose failures name it; output has errors of its own."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name

    def read(self, size: int = -1, /) -> bytes:
        """Read bytes."""
        with _reading(self._name):
            return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place."""
        with _reading(self._name):
            return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the place."""
        with _reading(self._name):
            return self._file.tell()


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OptionError(
            f"FILE must be a file that can be read: {name!r} cannot: {error.strerror or error}. "
            "Hint: '-' reads standard input."
        ) from None


@contextmanager
def opened(path: Path, *, twice: bool) -> Iterator[_Source]:
    """Give a file's bytes; `twice` says that they are read more than once.

    Raises
    ------
    OptionError
        If it cannot be read.
    """
    if path == STANDARD:
        if sys.stdin is None:
            raise OptionError("standard input must be open: it is closed. Hint: name a file.")
        source = _Source(sys.stdin.buffer, "standard input")
        with _spooled(source) if twice else nullcontext(source) as given:
            yield given
        return
    with _reading(str(path)):
        file = path.open("rb")
    with file:
        source = _Source(file, str(path))
        with _spooled(source) if twice and not file.seekable() else nullcontext(source) as given:
            yield given


@contextmanager
def _spooled(source: _Source) -> Iterator[_Source]:
    with tempfile.TemporaryFile(prefix="xent-") as copy:
        while block := source.read(1 << 20):
            copy.write(block)
        copy.seek(0)
        yield _Source(copy, "a temporary copy")


def _require_output() -> None:
    if sys.stdout is None:
        raise OptionError("standard output must be open: it is closed. Hint: name a file.")


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """Give where to write and read again; it becomes the file, or is printed, when all is well."""
    if path != STANDARD and not (path.exists() and not path.is_file()):
        with replacing(path, "--output") as part, part.open("w+b") as file:
            yield file
            file.flush()
        return
    with tempfile.TemporaryFile(prefix="xent-") as copy:
        yield copy
        copy.seek(0)
        if path == STANDARD:
            _require_output()
            shutil.copyfileobj(copy, sys.stdout.buffer, 1 << 20)
            sys.stdout.buffer.flush()
            return
        with path.open("wb") as device:  # or a pipe, which has nothing to keep
            shutil.copyfileobj(copy, device, 1 << 20)


def compress_file(
    source: Path,
    target: Path,
    *,
    model: ContextModel | None = None,
    order: int = 2,
    block_size: int = BLOCK_SIZE,
    threads: int | None = None,
    progress: Progress = nothing,
) -> Written:
    """Write the code of a file to another, after decoding it and comparing checksums.

    Parameters
    ----------
    source, target
        The files; ``-`` is standard input or output.
    model, order, block_size, threads, progress
        As for `xent.coding.container.compress_stream`.

    Raises
    ------
    CodeError
        If a byte has no code, or what was written does not decode to what was read.
    OptionError
        If a file cannot be read or written.
    """
    with opened(source, twice=True) as given, _written(target) as file:
        written = compress_stream(
            given, file, model=model, order=order, block_size=block_size, threads=threads,
            progress=progress,
        )  # fmt: skip
        file.seek(0)
        found = decompress_stream(file, None, model=model, threads=threads)
        if found != written.header:
            raise CodeError(
                f"what was written must be what is read again: {written.header} came back as "
                f"{found}. Hint: the disk may be failing."
            )
        file.seek(0, os.SEEK_END)
    return written


def decompress_file(
    source: Path,
    target: Path,
    *,
    model: ContextModel | None = None,
    threads: int | None = None,
    progress: Progress = nothing,
) -> Header:
    """Write what a file of codes stands for; on standard output, blocks as they were checked.

    Raises
    ------
    CodeError, ModelError
        As `xent.coding.decompress` does.
    OptionError
        If a file cannot be read or written.
    """

    def decode(given: _Source, sink: BinaryIO) -> Header:
        return decompress_stream(given, sink, model=model, threads=threads, progress=progress)

    with opened(source, twice=False) as given:
        if target == STANDARD:
            _require_output()
            header = decode(given, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return header
        with replacing(target, "--output") as part, part.open("wb") as file:
            return decode(given, file)


def account_file(
    source: Path, *, model: ContextModel | None = None, order: int = 2, block_size: int = BLOCK_SIZE
) -> Accounting:
    """Return where the bytes of a file's code go; a file that begins as a code is one itself."""
    with opened(source, twice=True) as given:
        coded = given.read(len(MAGIC)) == MAGIC
        given.seek(0)
        return account_stream(given, model=model, order=order, block_size=block_size, coded=coded)


def files_below(path: Path, only: str = "*", *, without: Path | None = None) -> list[Path]:
    """Return a file, or the files of a folder and of those in it, sorted by name.

    Parameters
    ----------
    path
        The file or folder.
    only
        What the names of files in a folder look like.
    without
        A file that is not meant, where it lies in the folder: what the command itself writes.

    Raises
    ------
    OptionError
        If there is no such file.
    """
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.rglob(only) if p.is_file())
    if without is not None:
        found = [p for p in found if p.resolve() != without.resolve()]
    if not found:
        raise OptionError(
            f"a folder must hold files: {str(path)!r} holds none named {only!r}. "
            "Hint: name another folder, or another pattern."
        )
    return found


def read_all(path: Path, only: str = "*", *, without: Path | None = None) -> bytes:
    """Return a file's bytes, or those of the files of a folder, one behind the other."""
    parts = []
    for file in files_below(path, only, without=without):
        with opened(file, twice=False) as given:
            parts.append(given.read())
    return b"".join(parts)


def train_model(
    paths: Sequence[Path],
    *,
    order: int = 2,
    only: str = "*",
    without: Path | None = None,
    progress: Progress = nothing,
) -> tuple[ContextModel, int]:
    """Fit a model to files and the files of folders, and return how many bytes they had.

    Parameters
    ----------
    paths, only, without
        As for `files_below`.
    order
        How many bytes before a byte the model looks at.
    progress
        What is told how many bytes are done, of how many.

    Raises
    ------
    OptionError
        If one cannot be read, or all are empty.
    """
    counts = Counts(order)
    files: Iterable[Path] = [
        file for path in paths for file in files_below(path, only, without=without)
    ]
    total = sum(file.stat().st_size for file in files if file != STANDARD and file.exists())
    done = 0
    for file in files:
        with opened(file, twice=False) as given:
            while block := read_whole(given, BLOCK_SIZE):
                counts.add(block)
                done += len(block)
                progress(done, total)
    if not done:
        raise OptionError(
            "the files to train on must have a byte: all are empty. Hint: name others."
        )
    return ContextModel.fit(counts), done
