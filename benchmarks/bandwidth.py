"""How fast memory is read and copied here: what a kernel that reads and writes once can reach.

Each is done in the fastest of two ways, by the threads of xent's kernels and by torch, so that a
slow way to copy does not make a kernel look good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit

from xent.losses.kernels import threads

__all__ = ["COPY", "FRESH_COPY", "READ", "best", "moves"]

READ, COPY, FRESH_COPY = "read", "copy", "copy into new memory"
BLOCK = 1 << 20
"""Bytes that a thread takes at a time."""


@njit(nogil=True)
def _sum(words: Any) -> Any:
    """Add up integers, which the compiler may reorder and so does with vectors."""
    total = np.uint64(0)
    for word in words:
        total += word
    return total


def _in_threads(compute: Callable[[int, int], Any], size: int) -> None:
    def blocks(start: int, stop: int) -> None:
        for block in range(start, stop):
            compute(block * BLOCK // 8, min((block + 1) * BLOCK // 8, size))

    threads.run(blocks, -(-size * 8 // BLOCK), size)


def moves(tensor: torch.Tensor) -> dict[str, Callable[[], Any]]:
    """Return what to time for the bytes of a contiguous tensor, by names that `best` takes.

    Parameters
    ----------
    tensor
        What is read and copied; the copies have its size.
    """
    raw = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    words = raw[: raw.size // 8 * 8].view(np.uint64)
    there = np.zeros_like(words)  # zeros are written here and now, so the memory is mapped
    there.fill(1)
    source, target = (torch.from_numpy(a.view(np.float32)) for a in (words, there))
    _sum(words[:1])

    def copy_into(memory: Any) -> None:
        _in_threads(lambda a, b: np.copyto(memory[a:b], words[a:b]), words.size)

    def torch_into_new() -> None:
        # NumPy's memory has large pages, as the gradients of the kernels have.
        torch.from_numpy(np.empty_like(words).view(np.float32)).copy_(source)

    return {
        f"{READ}, xent's threads": lambda: _in_threads(lambda a, b: _sum(words[a:b]), words.size),
        f"{READ}, torch.sum": source.sum,
        f"{COPY}, xent's threads": lambda: copy_into(there),
        f"{COPY}, torch": lambda: target.copy_(source),
        f"{FRESH_COPY}, xent's threads": lambda: copy_into(np.empty_like(words)),
        f"{FRESH_COPY}, torch": torch_into_new,
    }


def best(seconds: dict[str, float], move: str) -> float | None:
    """Return the least of a move's times, or None where it was not timed."""
    return min((s for name, s in seconds.items() if name.rpartition(", ")[0] == move), default=None)
