"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xent.errors import OptionError

__all__ = ["replacing", "require_target", "write_whole"]


@contextmanager
def replacing(path: Path, flag: str) -> Iterator[Path]:
    """Give a place to write to that becomes `path` when all went well.

    So an interruption leaves either the old file or the new one, whole; of several writers at once
    the last to end wins. `flag` is what names the file, for the error where it cannot be written.

    Raises
    ------
    OptionError
        If the file cannot be written.
    """
    path = path.resolve()
    try:
        if path.exists() and not path.is_file():  # a device or a pipe has nothing to keep
            yield path
            return
        # A name of its own, no longer than the file system allows: other writers have theirs.
        part = path.with_name(f".{path.name[:40]}.{uuid.uuid4().hex}.part")
        try:
            with part.open("xb"):
                pass
            yield part
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise OptionError(
            f"{flag} must name a file that can be written: {str(path)!r} cannot: "
            f"{error.strerror or error}. Hint: choose another folder."
        ) from None


def write_whole(path: Path, data: bytes, flag: str) -> None:
    """Write a file so that an interruption leaves either the old one or the new one, whole.

    Raises
    ------
    OptionError
        If the file cannot be written.
    """
    with replacing(path, flag) as part:
        part.write_bytes(data)


def require_target(path: Path, flag: str, *sources: Path, hint: str) -> None:
    """Refuse a place that cannot be written before the work is done, not after it.

    Parameters
    ----------
    path
        Where the answer shall go.
    flag
        What named it.
    sources
        Files that the answer must not replace.
    hint
        What to do where its folder does not exist.

    Raises
    ------
    OptionError
        If the file is one of `sources`, or its folder does not exist.
    """
    try:
        fits = not path.is_dir() and path.resolve().parent.is_dir()
        same = [s for s in sources if _same(path, s)]
    except (OSError, ValueError):  # a name that is too long, or holds a zero byte
        fits, same = False, []
    if same:
        raise OptionError(
            f"{flag} must name another file than {str(same[0])!r}: got {str(path)!r}, and one "
            "would replace the other. Hint: choose another name."
        )
    if not fits:
        raise OptionError(
            f"{flag} must name a file in a folder that exists: got {str(path)!r}. Hint: {hint}"
        )


def _same(path: Path, other: Path) -> bool:
    """Return whether two paths lead to one file, which need not exist yet."""
    if path.exists() and other.exists():
        return path.samefile(other)
    return path.resolve() == other.resolve()
