"""`xent.torch.cross_entropy` beside `torch.nn.functional.cross_entropy`, in turns, in one process.

Forward alone (without gradients) and forward with backward, over `xent.losses.cases.SHAPES`. In
every round each system has its turn, and copies of the same bytes have theirs; rounds alternate
in direction. What a call frees of the call before (``x.grad = None``) is part of its time.

xent keeps the memory of a large gradient for the next one, torch gives it back to the system. A
training loop gains from that what it gains, so it is timed; and since it is no merit of a kernel,
each call is timed once more with that memory given back first.
"""

from __future__ import annotations

import gc
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import xent.torch
from benchmarks import bandwidth
from benchmarks.results import ROOT, show_progress
from xent.losses import dispatch
from xent.losses.autodiff.torch import situation
from xent.losses.cases import GRADIENT, LOSS_ULPS, SHAPES, SMALLEST, Shape
from xent.losses.kernels import SoftmaxRows, pages

__all__ = [
    "BOTH",
    "FORWARD",
    "KERNEL",
    "NEW",
    "SYSTEMS",
    "Errors",
    "Inputs",
    "Timing",
    "inputs",
    "is_proved",
    "shapes_named",
    "time_rows",
    "truth",
]

KERNEL = "numba_rows"
TESTS = ("tests/test_numba_rows.py",)
SYSTEMS = {
    "xent": xent.torch.cross_entropy,
    "torch": torch.nn.functional.cross_entropy,
}
FORWARD, BOTH, NEW = "forward", "forward + backward", "… into new memory"
SAMPLE = 8
BUDGET = 5.0
"""Seconds of timing for one shape, after which rounds end, unless they are too few."""
FEWEST, MOST = 5, 41
BATCH = 2e-3
"""Seconds that a timed batch takes at least: what is quick is called many times in it."""
LONG = 0.1
"""Seconds of a call beside which what torch does only once is nothing."""
BITS = {"float32": 23, "bfloat16": 7}


@dataclass(frozen=True)
class Inputs:
    """The tensors of one shape, and the options of the call."""

    shape: Shape
    logits: torch.Tensor
    targets: torch.Tensor
    options: dict[str, Any]


def shapes_named(names: Sequence[str] | None, *, quick: bool) -> list[Shape]:
    """Return the shapes of these names, all where there are none; reduced ones if `quick`."""
    known = {shape.name: shape for shape in SHAPES}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"no shape {unknown[0]!r}: there are {', '.join(known)}")
    chosen = [known[name] for name in names] if names else SHAPES
    return [shape.reduced() for shape in chosen] if quick else list(chosen)


def inputs(shape: Shape) -> Inputs:
    """Return logits of which every fourth row is confident and right, and targets."""
    generator = torch.Generator().manual_seed(shape.rows)
    z = torch.randn(shape.shape, generator=generator).mul_(3.0)
    classes = shape.shape[1]
    places = shape.shape[:1] + shape.shape[2:]
    y = torch.randint(0, classes, places, generator=generator)
    if len(places) == 1:
        z[::4].scatter_add_(1, y[::4, None], torch.full((len(y[::4]), 1), 25.0))
    else:
        fourth = y[..., ::4].unsqueeze(1)
        z[..., ::4].scatter_add_(1, fourth, torch.full(fourth.shape, 25.0))
    dtype = getattr(torch, shape.dtype)
    if shape.soft:
        y = torch.rand(shape.shape, generator=generator).pow_(8)
        y = y.div_(y.sum(1, keepdim=True)).to(dtype)
    options: dict[str, Any] = {}
    if shape.label_smoothing:
        options["label_smoothing"] = shape.label_smoothing
    if shape.class_weight:
        options["weight"] = torch.rand(classes, generator=generator).add_(0.5)
    return Inputs(shape, z.to(dtype), y, options)


# ---- proof before speed --------------------------------------------------------------------------


def is_proved(tests: Sequence[str] = TESTS) -> bool:
    """Run the kernel's tests and tell whether they pass; show what they say if they do not."""
    show_progress("running the kernel's tests")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False
    )
    if done.returncode != 0:
        sys.stderr.write(done.stdout[-4000:] + done.stderr[-2000:])
    return done.returncode == 0


def _insist(given: Inputs) -> dict[str, Any]:
    """Return the options with which the kernel cannot be replaced silently.

    A tiny call is timed as a program makes it, since naming the kernel takes longer: that it is
    the same kernel shows in the table of kernels and in the same bits.
    """
    z, y = given.logits, given.targets
    n, c = z.shape[:2]
    folded = z.detach().reshape(n, c, -1)
    targets = y.reshape(folded.shape) if given.shape.soft else y.reshape(n, -1)
    rows = SoftmaxRows(folded, targets, given.options.get("weight"))
    dispatch.choose(rows, KERNEL, situation(rows))
    insisted = {**given.options, "kernel": KERNEL}
    named = SYSTEMS["xent"](z, y, **insisted)
    if not given.shape.tiny:
        return insisted
    if not torch.equal(named, SYSTEMS["xent"](z, y, **given.options)):
        raise RuntimeError(f"{given.shape.name}: another kernel ran than {KERNEL}")
    return given.options


# ---- errors --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Errors:
    """The worst errors over a sample of rows.

    Attributes
    ----------
    loss_ulps
        Of the loss of a row, in units in the last place of the result's dtype.
    gradient_of_bound
        Of the gradient of the mean, over 1e-6·(w·p + t)/divisor + 2⁻¹²⁶, where w is the sum of
        the row's masses t; half types add half a unit in the last place of the entry.
    """

    loss_ulps: float
    gradient_of_bound: float


def truth(z: Any, t: Any) -> tuple[float, Any, Any]:
    """Return loss, gradient and softmax of one row of float64 logits and masses.

    In float64, without a difference of large numbers: what the oracle of the tests has beyond
    that is less than a millionth of what is looked at here.
    """
    top = int(np.argmax(z))
    e = np.exp(z - z[top])
    e_rest = e.copy()
    e_rest[top] = 0.0
    rest = math.fsum(e_rest)
    loss = math.fsum(t * ((z[top] - z) + math.log1p(rest)))
    p = e / (1.0 + rest)
    gradient = math.fsum(t) * p - t
    if t[top] == math.fsum(t):
        gradient[top] = -t[top] * rest / (1.0 + rest)
    return loss, gradient, p


def _unit(values: Any, dtype: str) -> Any:
    """Return the unit in the last place of numbers, if they were of a dtype."""
    _, exponents = np.frexp(np.abs(values))
    exponents = np.where(np.asarray(values) == 0, -126, np.maximum(exponents - 1, -126))
    return np.ldexp(1.0, exponents - BITS[dtype])


def _errors(given: Inputs, loss: Callable[..., Any], options: Any, gradient: Any) -> Errors:
    """Compare losses of rows, and the gradient of their mean, with what is true."""
    shape, dtype = given.shape, given.shape.dtype
    with torch.no_grad():
        losses = loss(given.logits, given.targets, reduction="none", **options).reshape(-1)
    spread = np.linspace(0, shape.rows - 1, SAMPLE).astype(int)
    sample = sorted({int(r) // 4 * 4 if i % 2 else int(r) for i, r in enumerate(spread)})
    worst_loss = worst_gradient = 0.0
    divisor = _divisor(given)
    for row in sample:
        n, *place = np.unravel_index(row, shape.shape[:1] + shape.shape[2:])
        at = (int(n), slice(None), *map(int, place))
        z, masses = given.logits[at].double().numpy(), _masses(given, at)
        value, slope, p = truth(z, masses)
        error = abs(float(losses[row].double()) - value) / float(_unit(value, dtype))
        worst_loss = max(worst_loss, math.inf if math.isnan(error) else error)
        slope = slope / divisor
        allowed = GRADIENT * (masses.sum() * p + masses) / divisor + SMALLEST
        if dtype != "float32":
            allowed = allowed + 0.5 * _unit(slope, dtype)
        share = np.abs(gradient[at].double().numpy() - slope) / allowed
        worst_gradient = max(worst_gradient, float(np.max(np.nan_to_num(share, nan=np.inf))))
    return Errors(worst_loss, worst_gradient)


def _masses(given: Inputs, at: Any) -> Any:
    """Return the masses of one row's target, smoothed and then weighted."""
    classes, options = given.shape.shape[1], given.options
    if given.shape.soft:
        t = given.targets[at].double().numpy()
    else:
        t = np.zeros(classes)
        t[int(given.targets[(at[0], *at[2:])])] = 1.0
    share = options.get("label_smoothing", 0.0)
    t = (1.0 - share) * t + share / classes
    weight = options.get("weight")
    return t if weight is None else t * weight.double().numpy()


def _divisor(given: Inputs) -> float:
    weight = given.options.get("weight")
    if weight is None or given.shape.soft:
        return float(given.shape.rows)
    return float(weight.double()[given.targets].sum())


# ---- time ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """One shape, in one direction or both.

    Attributes
    ----------
    name, size, does
        The shape's name, the shape in words, and `FORWARD`, `BOTH` or `NEW`: both, after xent has
        given back what it keeps.
    kernel, threads
        What computed it, in how many threads.
    others
        How many cores other processes kept busy meanwhile, None where the system does not say.
        torch's threads wait for each other, so whatever else runs slows torch more than xent.
    rounds
        How often each had its turn.
    xent_seconds, torch_seconds
        Medians.
    ratio, ratio_by_round
        torch's median over xent's; and the median of what each round says.
    xent_spread
        The first and the third quartile of xent's seconds.
    gigabytes
        10⁹ bytes a second that xent moves, if it reads each logit (and soft target) once and
        writes each gradient once.
    read, copy, fresh_copy
        The same of a read, of a copy into memory that is there, and of one into new memory,
        which is what a gradient is; None where the shape is tiny.
    xent_errors, torch_errors
        Against float64, on a sample of rows.
    """

    name: str
    size: str
    does: str
    kernel: str
    threads: int
    others: float | None
    rounds: int
    xent_seconds: float
    torch_seconds: float
    ratio: float
    ratio_by_round: float
    xent_spread: tuple[float, float]
    gigabytes: float
    read: float | None
    copy: float | None
    fresh_copy: float | None
    xent_errors: Errors
    torch_errors: Errors

    def as_dict(self) -> dict[str, Any]:
        """Return the timing as a JSON object."""
        flat = {"kind": "timing", **asdict(self)}
        for system in SYSTEMS:
            flat |= {f"{system}_{k}": v for k, v in flat.pop(f"{system}_errors").items()}
        return flat


def _calls(given: Inputs, insisted: Any) -> dict[str, Callable[[], Any]]:
    calls: dict[str, Callable[[], Any]] = {}
    for system, loss in SYSTEMS.items():
        options = insisted if system == "xent" else given.options
        # A leaf for each, in the same memory: a gradient is freed by whoever made it.
        leaf = given.logits.detach().requires_grad_()

        def forward(loss: Any = loss, options: Any = options) -> None:
            with torch.no_grad():
                loss(given.logits, given.targets, **options)

        def both(loss: Any = loss, options: Any = options, leaf: Any = leaf) -> Any:
            leaf.grad = None
            loss(leaf, given.targets, **options).backward()
            return leaf

        calls[f"{system}, {FORWARD}"], calls[f"{system}, {BOTH}"] = forward, both
    if given.logits.numel() * given.logits.element_size() >= pages.LARGE:
        own = given.logits.detach().requires_grad_()

        def new() -> Any:
            own.grad = None
            pages.release()
            SYSTEMS["xent"](own, given.targets, **insisted).backward()
            return own

        calls[f"xent, {NEW}"] = new
    return calls


def _in_turns(
    calls: dict[str, Callable[[], Any]], name: str, rounds: int | None
) -> dict[str, list[float]]:
    """Return the seconds of each call in each round."""
    once = {key: _seconds(call, 1) for key, call in calls.items()}
    for key, call in calls.items():
        # The first call may have compiled or loaded; torch's, where it was long, did neither.
        if once[key] < LONG or not key.startswith("torch, "):
            once[key] = _seconds(call, 1)
    repeats = {key: math.ceil(BATCH / max(seconds, 1e-7)) for key, seconds in once.items()}
    if rounds is None:
        a_round = sum(max(seconds, BATCH) for seconds in once.values())
        rounds = max(FEWEST, min(MOST, int(BUDGET / a_round)))
    taken: dict[str, list[float]] = {key: [] for key in calls}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            show_progress(f"{name}: round {number + 1} of {rounds}")
            for key in list(calls)[:: 1 if number % 2 else -1]:
                taken[key].append(_seconds(calls[key], repeats[key]))
    finally:
        gc.enable()
    return taken


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def time_rows(shapes: Sequence[Shape], rounds: int | None = None) -> Iterator[Timing]:
    """Time both systems on each shape; refuse where xent's numbers are wrong."""
    for shape in shapes:
        show_progress(f"{shape.name}: inputs")
        given = inputs(shape)
        insisted = _insist(given)
        calls = _calls(given, insisted)
        errors = {}
        for system, loss in SYSTEMS.items():
            show_progress(f"{shape.name}: errors of {system}")
            options = insisted if system == "xent" else given.options
            gradient = calls[f"{system}, {BOTH}"]().grad
            errors[system] = _errors(given, loss, options, gradient)
        ours = errors["xent"]
        if ours.loss_ulps > LOSS_ULPS or ours.gradient_of_bound > 1.0:
            raise RuntimeError(f"{shape.name}: xent is wrong, so its time says nothing: {ours}")
        moved = {} if shape.tiny else bandwidth.moves(given.logits)
        since = _spent()
        taken = _in_turns({**calls, **moved}, shape.name, rounds)
        others = _others(since, _spent())
        for does in (FORWARD, BOTH, NEW):
            if f"xent, {does}" in taken:
                yield _timing(given, does, taken, errors, others)


def _spent() -> tuple[float, float] | None:
    """Return the time, and the seconds of all cores that were not idle and not this process's."""
    try:
        line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    except OSError:
        return None
    user, nice, system, _, _, *rest = (int(word) for word in line.split()[1:9])
    busy = (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return time.perf_counter(), busy - own.user - own.system


def _others(since: tuple[float, float] | None, until: tuple[float, float] | None) -> float | None:
    if since is None or until is None:
        return None
    return max(0.0, (until[1] - since[1]) / (until[0] - since[0]))


def _timing(
    given: Inputs, does: str, taken: Any, errors: dict[str, Errors], others: float | None
) -> Timing:
    medians = {key: statistics.median(seconds) for key, seconds in taken.items()}
    mine = taken[f"xent, {does}"]
    theirs = taken[f"torch, {FORWARD if does == FORWARD else BOTH}"]
    size = given.logits.numel() * given.logits.element_size()

    def rate(move: str, times: int) -> float | None:
        seconds = bandwidth.best(medians, move)
        return None if seconds is None else times * size / seconds / 1e9

    quarters = statistics.quantiles(mine, n=4) if len(mine) > 1 else mine * 3
    arrays = 1 + given.shape.soft + (does != FORWARD)
    return Timing(
        name=given.shape.name,
        size=str(given.shape),
        does=does,
        kernel=KERNEL,
        threads=torch.get_num_threads(),
        others=others,
        rounds=len(mine),
        xent_seconds=statistics.median(mine),
        torch_seconds=statistics.median(theirs),
        ratio=statistics.median(theirs) / statistics.median(mine),
        ratio_by_round=statistics.median(b / a for a, b in zip(mine, theirs, strict=True)),
        xent_spread=(quarters[0], quarters[2]),
        gigabytes=arrays * size / statistics.median(mine) / 1e9,
        read=rate(bandwidth.READ, 1),
        copy=rate(bandwidth.COPY, 2),
        fresh_copy=rate(bandwidth.FRESH_COPY, 2),
        xent_errors=errors["xent"],
        torch_errors=errors["torch"],
    )
