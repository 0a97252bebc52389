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
from contextlib import contextmanager
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


@contextmanager
def opened(path: Path, *, twice: bool) -> Iterator[BinaryIO]:
    """Give a file's bytes; `twice` says that they are read more than once.

    Raises
    ------
    OptionError
        If it cannot be read.
    """
    if path != STANDARD:
        try:
            file = path.open("rb")
        except OSError as error:
            raise OptionError(
                f"FILE must be a file that can be read: {str(path)!r} cannot: {error.strerror}. "
                "Hint: '-' reads standard input."
            ) from None
        with file:
            if file.seekable() or not twice:
                yield file
                return
            with _spooled(file) as copy:
                yield copy
        return
    if twice:
        with _spooled(sys.stdin.buffer) as copy:
            yield copy
    else:
        yield sys.stdin.buffer


@contextmanager
def _spooled(source: BinaryIO) -> Iterator[BinaryIO]:
    with tempfile.TemporaryFile(prefix="xent-") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
        copy.seek(0)
        yield copy


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """Give where to write and read again; it becomes the file, or is printed, when all is well."""
    if path == STANDARD:
        with tempfile.TemporaryFile(prefix="xent-") as copy:
            yield copy
            copy.seek(0)
            shutil.copyfileobj(copy, sys.stdout.buffer, 1 << 20)
            sys.stdout.buffer.flush()
        return
    with replacing(path, "--output") as part, part.open("w+b") as file:
        yield file
        file.flush()


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

    def decode(given: BinaryIO, sink: BinaryIO) -> Header:
        return decompress_stream(given, sink, model=model, threads=threads, progress=progress)

    with opened(source, twice=False) as given:
        if target == STANDARD:
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


def files_below(path: Path, only: str = "*") -> list[Path]:
    """Return a file, or the files of a folder and of those in it, sorted by name.

    Parameters
    ----------
    path
        The file or folder.
    only
        What the names of files in a folder look like.

    Raises
    ------
    OptionError
        If there is no such file.
    """
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.rglob(only) if p.is_file())
    if not found:
        raise OptionError(
            f"a folder must hold files: {str(path)!r} holds none named {only!r}. "
            "Hint: name another folder, or another pattern."
        )
    return found


def read_all(path: Path, only: str = "*") -> bytes:
    """Return a file's bytes, or those of the files of a folder, one behind the other."""
    parts = []
    for file in files_below(path, only):
        with opened(file, twice=False) as given:
            parts.append(given.read())
    return b"".join(parts)


def train_model(
    paths: Sequence[Path], *, order: int = 2, only: str = "*", progress: Progress = nothing
) -> tuple[ContextModel, int]:
    """Fit a model to files and the files of folders, and return how many bytes they had.

    Raises
    ------
    OptionError
        If one cannot be read, or all are empty.
    """
    counts = Counts(order)
    files: Iterable[Path] = [file for path in paths for file in files_below(path, only)]
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
