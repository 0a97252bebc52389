"""The threads that the CPU kernels share: as many as the caller's framework uses.

Compiled kernels release the GIL, so plain threads do; they are started on first use, left behind
by a ``fork`` and started anew in the child.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["number_of_threads", "run"]

SMALL = 1 << 15
"""Elements below which handing work to other threads takes longer than the work."""

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0


def number_of_threads() -> int:
    """Return how many threads to use: torch's number where torch is loaded, else the cores'.

    In a worker of a `torch.utils.data.DataLoader` torch's number is one.
    """
    torch = sys.modules.get("torch")
    asked = getattr(torch, "get_num_threads", None)
    if asked is not None:
        return int(asked())
    own = getattr(os, "sched_getaffinity", None)  # a container's share, where the system says
    return len(own(0)) if own is not None else os.cpu_count() or 1


def run(compute: Callable[[int, int], None], blocks: int, elements: int) -> None:
    """Call ``compute(start, stop)`` until all blocks are done, here and in other threads.

    Each takes the next piece when it has done one, so that a slow core holds nobody up.
    """
    threads = min(number_of_threads(), blocks)
    if threads < 2 or elements < SMALL:
        compute(0, blocks)
        return
    piece = max(1, blocks // (8 * threads))
    starts = iter(range(0, blocks, piece))  # taken under the GIL, one at a time

    def work() -> None:
        for start in starts:
            compute(start, min(start + piece, blocks))

    others = _submit(work, threads - 1)
    try:
        work()
    finally:
        for other in others:
            other.result()


def _submit(work: Callable[[], None], times: int) -> list[Future[None]]:
    global _pool, _size
    with _lock:  # another call may replace the pool
        if _pool is None or _size < times:
            if _pool is not None:
                _pool.shutdown(wait=False)  # what it was given it still does
            _pool, _size = ThreadPoolExecutor(times, "xent"), times
        return [_pool.submit(work) for _ in range(times)]


def _forget() -> None:
    """Drop what a fork has copied: the threads are not in the child, the lock may be held."""
    global _pool, _size, _lock
    _pool, _size, _lock = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
