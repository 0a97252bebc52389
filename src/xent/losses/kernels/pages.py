"""Memory for large gradients, kept from one step of training to the next.

A fresh page costs more than what a kernel computes for it: the system finds, empties and maps it.
So large gradients stand in large pages, and the memory of one that is gone is kept for the next
of its size: at most two such blocks, for a workspace and a gradient, which the system may take
back meanwhile whenever it is short (``MADV_FREE``).
"""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from typing import Any

import numpy as np

__all__ = ["LARGE", "empty", "release"]

LARGE = 1 << 22
"""Bytes from which memory comes from here."""

_kept: deque[mmap.mmap] = deque(maxlen=2)
"""Its operations are atomic, so a finalizer may run anywhere, and a fork leaves it whole."""


def empty(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return that many bytes of memory that nothing has written to of late.

    They start a page. When the last array or tensor on them is gone they are kept.
    """
    length = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    block = _taken(length)
    if block is None:
        block = _mapped(length)
    array = np.frombuffer(block, np.uint8, size)
    # The finalizer holds the block, never the array.
    weakref.finalize(array, _keep, block).atexit = False
    return array


def _taken(length: int) -> mmap.mmap | None:
    """Return a kept block that fits; where none does, they are dropped before more is asked for."""
    others: list[mmap.mmap] = []
    while _kept:
        try:
            block = _kept.pop()
        except IndexError:  # another thread was faster
            break
        if len(block) == length:
            _kept.extend(others)
            return block
        others.append(block)
    return None


def _mapped(length: int) -> mmap.mmap:
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows
        return mmap.mmap(-1, length)
    block = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        block.madvise(mmap.MADV_HUGEPAGE)
    return block


def _keep(block: mmap.mmap) -> None:
    if hasattr(mmap, "MADV_FREE"):
        block.madvise(mmap.MADV_FREE)
    _kept.append(block)


def release() -> None:
    """Give kept memory back to the system."""
    _kept.clear()
