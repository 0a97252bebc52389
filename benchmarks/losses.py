"""Time, extra memory and error of softmax cross-entropy with its gradient, beside peers.

Every system does the same: the mean loss of float32 logits and its gradient, in one process, in
turns, so that what else the machine does falls on all of them. xent is measured on NumPy arrays,
where its CPU kernel runs if numba is installed; `benchmarks.rows` measures the kernels themselves.
"""

from __future__ import annotations

import importlib.util
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import mpmath as mp
import numpy as np

import xent
from benchmarks.proof import oracle
from benchmarks.results import show_progress
from xent.losses.cases import GRADIENT, LOSS_ULPS, SMALLEST

__all__ = ["SHAPES", "Timing", "table", "time_losses"]

SHAPES = ((4096, 1000), (65536, 10), (65536, 1000), (1048576, 10))
SAMPLE = 16
HEADS = f"{'time':>10}{'÷ xent':>9}{'extra MB':>10}{'loss ulp':>10}{'gradient ÷ bound':>18}"
SLOW = 2.0  # seconds for one call, from which on three rounds must do

Arrays = tuple[Any, Any]
Call = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """One system on one shape.

    Attributes
    ----------
    system, does, rows, classes
        Who did what, on float32 logits of which shape.
    rounds, seconds, fastest, slowest
        How often, and the median, least and greatest time.
    ratio
        The median over that of xent.
    extra_bytes
        Peak memory above the inputs; None where it is not NumPy's and cannot be traced.
    loss_ulps
        Error of the mean loss of a sample of rows.
    gradient_of_bound
        Worst error of the sample's gradient over 1e-6·w·(p + t) + 2⁻¹²⁶; None without a gradient.
    """

    system: str
    does: str
    rows: int
    classes: int
    rounds: int
    seconds: float
    fastest: float
    slowest: float
    ratio: float
    extra_bytes: int | None
    loss_ulps: float
    gradient_of_bound: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the timing as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class System:
    """How a system is called: `prepare` makes its arrays and what is then timed."""

    name: str
    does: str
    needs: tuple[str, ...]
    prepare: Callable[[Any, Any], Call]
    traced: bool = False  # are its arrays NumPy's, whose memory tracemalloc sees?


def _xent(z: Any, y: Any) -> Call:
    return lambda: xent.softmax_cross_entropy_value_and_grad(z, y)


def _torch(z: Any, y: Any) -> Call:
    import torch

    targets = torch.from_numpy(y)

    def call() -> Arrays:
        logits = torch.from_numpy(z).requires_grad_()
        loss = torch.nn.functional.cross_entropy(logits, targets)
        loss.backward()
        return loss.item(), logits.grad

    return call


def _jax(z: Any, y: Any) -> Call:
    import jax

    def mean(logits: Any, targets: Any) -> Any:
        rows = jax.numpy.arange(logits.shape[0])
        return -jax.nn.log_softmax(logits)[rows, targets].mean()

    compiled = jax.jit(jax.value_and_grad(mean))
    logits, targets = jax.numpy.asarray(z), jax.numpy.asarray(y, dtype=np.int32)
    return lambda: jax.block_until_ready(compiled(logits, targets))


def _scipy(z: Any, y: Any) -> Call:
    from scipy.special import logsumexp

    rows = np.arange(len(y))

    def call() -> Arrays:
        lse = logsumexp(z, axis=1, keepdims=True)
        gradient = np.exp(z - lse)
        loss = np.mean(lse[:, 0] - z[rows, y])
        gradient[rows, y] -= 1.0
        gradient /= np.float32(len(y))
        return loss, gradient

    return call


def _sklearn(z: Any, y: Any) -> Call:
    from scipy.special import softmax
    from sklearn.metrics import log_loss

    chances, classes = softmax(z, axis=1), np.arange(z.shape[1])
    return lambda: (log_loss(y, chances, labels=classes), None)


BOTH = "loss and gradient"
SYSTEMS = (
    System("xent on NumPy", BOTH, (), _xent, traced=True),
    System("torch F.cross_entropy", BOTH, ("torch",), _torch),
    System("jax.jit log_softmax", BOTH, ("jax",), _jax),
    System("NumPy with scipy logsumexp", BOTH, ("scipy",), _scipy, traced=True),
    System("sklearn log_loss", "loss of given probabilities", ("sklearn", "scipy"), _sklearn, True),
)


def _data(rows: int, classes: int) -> Arrays:
    """Return logits of which every fourth row is confident and right, and targets."""
    g = np.random.default_rng(classes)
    z = 3.0 * g.standard_normal((rows, classes), dtype=np.float32)
    y = g.integers(0, classes, rows)
    z[np.arange(0, rows, 4), y[::4]] += 25.0
    return z, y


def time_losses(shapes: tuple[tuple[int, int], ...] = SHAPES) -> Iterator[Timing]:
    """Time every installed system on each shape; refuse to where xent's numbers are wrong."""
    systems = [s for s in SYSTEMS if all(map(importlib.util.find_spec, s.needs))]
    for rows, classes in shapes:
        z, y = _data(rows, classes)
        errors = {s.name: _errors(s, z[:SAMPLE].copy(), y[:SAMPLE]) for s in systems}
        ulps, share = errors[SYSTEMS[0].name]
        if ulps > LOSS_ULPS or share is None or share > 1.0:
            raise RuntimeError(f"xent is wrong by {ulps} ulp, its gradient by {share} of its bound")
        calls = {s.name: s.prepare(z, y) for s in systems}
        # The first call compiles, touches memory and tells how long it will take.
        first = {name: _seconds(call) for name, call in calls.items()}
        rounds = 3 if max(first.values()) > SLOW else 9
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(rounds):
            for name, call in calls.items():
                show_progress(f"{rows} × {classes}, round {number + 1} of {rounds}: {name}")
                taken[name].append(_seconds(call))
        ours = float(np.median(taken[SYSTEMS[0].name]))
        for s in systems:
            median = float(np.median(taken[s.name]))
            extra = _peak(calls[s.name]) if s.traced else None
            yield Timing(
                s.name, s.does, rows, classes, rounds, median, min(taken[s.name]),
                max(taken[s.name]), median / ours, extra, *errors[s.name],
            )  # fmt: skip


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _peak(call: Call) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _errors(system: System, z: Any, y: Any) -> tuple[float, float | None]:
    """Return the errors of a sample's mean loss and gradient against the oracle."""
    truths = [oracle.softmax_row(*row) for row in zip(z, y, strict=True)]
    loss, gradient = system.prepare(z, y)()
    mean = mp.fsum(row[0] for row in truths) / len(truths)
    ulps = oracle.ulps(loss, mean, np.float32)
    if gradient is None:
        return ulps, None
    worst = mp.mpf(0)
    for got, (_, slopes, p, masses) in zip(np.asarray(gradient), truths, strict=True):
        for value, slope, a, t in zip(got, slopes, p, masses, strict=True):
            error = abs(mp.mpf(float(value)) - slope / len(truths))
            worst = max(worst, error / (GRADIENT * (a + t) / len(truths) + SMALLEST))
    return ulps, float(worst)


def table(timings: list[Timing]) -> str:
    """Return the timings as text, side by side with memory and error."""
    lines = [
        "Softmax cross-entropy of float32 logits: mean loss and gradient; medians, in turns.",
        "xent is called on NumPy arrays.",
    ]
    for rows, classes in dict.fromkeys((t.rows, t.classes) for t in timings):
        lines += [
            "",
            f"{rows} rows × {classes} classes",
            "  " + " " * 28 + HEADS,
        ]
        for t in timings:
            if (t.rows, t.classes) != (rows, classes):
                continue
            extra = "" if t.extra_bytes is None else f"{t.extra_bytes / 1e6:.1f}"
            share = "" if t.gradient_of_bound is None else f"{t.gradient_of_bound:.2g}"
            lines.append(
                f"  {t.system:28}{1e3 * t.seconds:>7.1f} ms{t.ratio:>9.2f}{extra:>10}"
                f"{t.loss_ulps:>10.2g}{share:>18}"
            )
    lines += [
        "",
        "extra MB: peak above the inputs, where the arrays are NumPy's. Errors are those of a",
        "sample of rows, every fourth confident and right. sklearn log_loss computes no gradient",
        "and is given probabilities.",
    ]
    return "\n".join(lines) + "\n"
