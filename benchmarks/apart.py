"""What only a fresh process can tell: peak memory, and how long the first call takes.

Peak memory is the high-water mark of the resident set, which the system counts page by page, so
it holds whatever has allocated the memory. Linux only.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import ROOT, show_progress

__all__ = ["FirstCall", "Peak", "can_measure_peaks", "first_calls", "peak_of", "peaks"]

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SMALLEST = 4 << 20
"""Bytes of a gradient from which its peak is measured: below, the pages of code weigh as much."""


@dataclass(frozen=True)
class Peak:
    """Peak memory above the inputs, of forward and backward.

    Attributes
    ----------
    name
        The shape's name.
    gradient_bytes
        What the gradient alone takes.
    xent_bytes, torch_bytes
        The peaks of the two, the gradient included.
    xent_kept, torch_kept
        What is still resident when the gradient is gone.
    """

    name: str
    gradient_bytes: int
    xent_bytes: int
    torch_bytes: int
    xent_kept: int
    torch_kept: int

    def as_dict(self) -> dict[str, Any]:
        """Return the peaks as a JSON object."""
        return {"kind": "peak", **asdict(self)}


@dataclass(frozen=True)
class FirstCall:
    """Seconds of the first forward and backward in a process that has imported its packages.

    numba imports half of itself (and SciPy, where it is installed) when it first compiles or loads
    anything; that is done before the clock starts, and told apart.

    Attributes
    ----------
    name
        A shape whose kind it is; the call itself is a small one.
    cold, warm
        With an empty cache of compiled kernels, and with a filled one.
    numba
        What numba takes to import that half.
    """

    name: str
    cold: float
    warm: float
    numba: float

    def as_dict(self) -> dict[str, Any]:
        """Return the seconds as a JSON object."""
        return {"kind": "first call", **asdict(self)}


def can_measure_peaks() -> bool:
    """Tell whether this system has a high-water mark that can be set back."""
    return STATUS.exists() and os.access(RESET, os.W_OK)


def _bytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", STATUS.read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def peak_of(call: Callable[[], Any]) -> tuple[int, int]:
    """Return by how many bytes the resident set rises: at most, and when all is gone again."""
    from xent.losses.kernels import pages

    # What is kept from earlier calls would hide what this one asks for.
    gc.collect()
    pages.release()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    before = _bytes("VmRSS")
    RESET.write_text("5", encoding="ascii")
    result = call()
    peak = _bytes("VmHWM") - before
    del result
    return peak, _bytes("VmRSS") - before


def peaks(names: Sequence[str]) -> list[Peak]:
    """Return the peaks for shapes of these names, measured in a process of their own."""
    if not names or not can_measure_peaks():
        return []
    show_progress("peak memory, in a fresh process")
    # Every block worth counting is given back when it is freed, and so not hidden from the next.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    return [Peak(**found) for found in _child(["peaks", *names], environment)]


def _child(words: Sequence[str], environment: dict[str, str]) -> Any:
    command = [sys.executable, "-m", "benchmarks.apart", *words]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def _measure_peaks(names: Sequence[str]) -> list[dict[str, Any]]:
    from benchmarks.rows import KERNEL, SYSTEMS, inputs, shapes_named

    found = []
    for shape in shapes_named(names, quick=False):
        given = inputs(shape)
        size = given.logits.numel() * given.logits.element_size()
        if size < SMALLEST:
            continue
        peak = {}
        for system, loss in SYSTEMS.items():
            options = given.options | ({"kernel": KERNEL} if system == "xent" else {})

            def call(loss: Any = loss, options: Any = options, given: Any = given) -> Any:
                leaf = given.logits.detach().requires_grad_()
                loss(leaf, given.targets, **options).backward()
                return leaf.grad

            call()  # loads, compiles and starts threads
            peak[system] = peak_of(call)
        (ours, our_rest), (theirs, their_rest) = peak["xent"], peak["torch"]
        found.append(asdict(Peak(shape.name, size, ours, theirs, our_rest, their_rest)))
    return found


FIRST = ("imagenet", "segmentation", "bf16-imagenet")
"""A shape of each kind that is compiled on its own."""


def first_calls(names: Sequence[str] = FIRST) -> list[FirstCall]:
    """Return how long first calls take: compiled from nothing, and found in a cache."""
    found = []
    for name in names:
        show_progress(f"the first call of {name}, in fresh processes")
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
            (cold, _), (warm, numba) = (_child(["first", name], environment) for _ in range(2))
            found.append(FirstCall(name, cold, warm, numba))
    return found


def _measure_first(name: str) -> tuple[float, float]:
    import time

    import torch
    from numba.core.registry import cpu_target

    import xent.torch
    from benchmarks.rows import shapes_named

    start = time.perf_counter()
    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()
    numba = time.perf_counter() - start
    (shape,) = shapes_named([name], quick=True)
    z = torch.zeros(shape.shape, dtype=getattr(torch, shape.dtype), requires_grad=True)
    y = torch.zeros(shape.shape[:1] + shape.shape[2:], dtype=torch.int64)
    start = time.perf_counter()
    xent.torch.cross_entropy(z, y).backward()
    return time.perf_counter() - start, numba


if __name__ == "__main__":
    measure, *words = sys.argv[1:]
    result: Any = _measure_peaks(words) if measure == "peaks" else _measure_first(words[0])
    sys.stdout.write(json.dumps(result))
