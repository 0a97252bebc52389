"""One of several processes that compute a loss together; test_torch_parallel.py starts them.

``python parallel_worker.py FOLDER RANK`` is one of four processes that run the cases below: all four
together, then as two pairs, then each alone. It ends with the traceback of the first that fails. Each case compares a rank's results with those of one
process that has all classes, computed beside it.
"""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import math
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import xent
import xent.torch
from xent.errors import OptionError, ShapeError
from xent.torch.parallel import (
    parallel_cross_entropy,
    parallel_linear_cross_entropy,
    parallel_linear_softmax_statistics,
    parallel_softmax_statistics,
)

# What a value or gradient may be away from one process's, relatively, in float64; a gradient also
# by as much of its row's mass. Both are right to some roundings of the logits' differences.
BOUND = 1e-13
CASES: list[Callable[[World], None]] = []
DOUBLE = {"out_dtype": torch.float64}


class World(NamedTuple):
    rank: int
    size: int

    def own(self, classes: int) -> slice:
        """The classes of this rank, as torch chunks them: the last ranks may have none."""
        chunk = -(-classes // self.size)
        first = min(classes, chunk * self.rank)
        return slice(first, min(classes, first + chunk))


def case(function: Callable[[World], None]) -> Callable[[World], None]:
    CASES.append(function)
    return function


def numbers(*shape: int, seed: int = 0, scale: float = 3.0, dtype: Any = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(seed + 1000 * len(shape) + sum(shape))
    return (torch.randn(shape, generator=generator) * scale).to(dtype)


def indices(rows: int, classes: int, seed: int = 0) -> Any:
    return torch.randint(0, classes, (rows,), generator=torch.Generator().manual_seed(seed))


def close(got: Any, want: Any, bound: float = BOUND, absolute: float = 0.0) -> None:
    torch.testing.assert_close(got, want, rtol=bound, atol=absolute, equal_nan=True)


def cotangent_of(result: Any) -> Any:
    return numbers(*result.shape, seed=7, scale=1.0, dtype=torch.float64)


def gradients(result: Any, *inputs: Any) -> Any:
    cotangent = cotangent_of(result).to(result.dtype)
    return torch.autograd.grad(result, inputs, cotangent, retain_graph=True)


def compare(w: World, logits: Any, target: Any, bound: float = BOUND, **options: Any) -> None:
    """Compare the logits form, and the linear form of an identity, with one process."""
    soft = target.ndim == logits.ndim
    own = w.own(logits.shape[-1])
    full = logits.double().requires_grad_()
    # R7 asks of both the divisor of the drop-in
    want = xent.torch.cross_entropy(full, target.double() if soft else target, **options)
    (slope,) = gradients(want, full)
    part = logits[:, own].clone().requires_grad_()
    here = target[:, own] if soft else target
    got = parallel_cross_entropy(part, here, **options, **DOUBLE)
    close(got, want.detach().double(), bound)
    ulp = torch.finfo(part.dtype).eps
    (found,) = gradients(got, part)
    assert found.dtype == part.dtype
    close(found.double(), slope[:, own], max(bound, ulp), absolute=bound)
    if logits.isfinite().all():
        compare_linear(w, logits.double(), target, bound, **options)


def compare_linear(w: World, hidden: Any, target: Any, bound: float, **options: Any) -> None:
    """Logits hidden·weightᵀ + bias with a random weight, against one process."""
    classes = target.shape[-1] if target.ndim == 2 else options.pop("of", hidden.shape[-1])
    soft, own = target.ndim == 2, w.own(classes)
    weight = numbers(classes, hidden.shape[-1], seed=3, scale=0.5, dtype=torch.float64)
    bias = numbers(classes, seed=4, dtype=torch.float64)
    h, weight, bias = (x.clone().requires_grad_() for x in (hidden, weight, bias))
    want = xent.torch.cross_entropy(
        h @ weight.T + bias, target.double() if soft else target, **options
    )
    d_h, d_weight, d_bias = gradients(want, h, weight, bias)
    mine = [x.detach()[own].clone().requires_grad_() for x in (weight, bias)]
    here = target[:, own] if soft else target
    h = hidden.clone().requires_grad_()
    got = parallel_linear_cross_entropy(h, mine[0], here, bias_local=mine[1], **options)
    close(got, want.detach(), 20 * bound)
    found = gradients(got, h, *mine)
    for a, b in zip(found, (d_h, d_weight[own], d_bias[own]), strict=True):
        close(a, b, 20 * bound, absolute=20 * bound * max(1.0, float(b.abs().nan_to_num().sum())))


@contextmanager
def raises(kind: Any, *words: str) -> Iterator[None]:
    with pytest.raises(kind) as caught:
        yield
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))


def same_everywhere(w: World, text: str) -> None:
    every: list[Any] = [None] * w.size
    dist.all_gather_object(every, text)
    assert len(set(every)) == 1, every


def error_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


# ---- values and gradients ------------------------------------------------------------------------


@case
def hard_targets(w: World) -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"label_smoothing": 0.1},
        {"z_loss": 0.01},
        {"temperature": 0.7, "softcap": 4.0},
        {"label_smoothing": 1.0, "normalizer": "weight", "weight": True},
        {"weight": True, "label_smoothing": 0.2, "z_loss": 0.1, "softcap": 5.0},
    ]
    reductions = itertools.cycle(("none", "mean", "none", "sum", "mean"))
    for classes, dtype in ((10, torch.float32), (7, torch.float64), (3, torch.bfloat16)):
        logits = numbers(6, classes, dtype=dtype)
        target = indices(6, classes)
        target[2] = -100
        weight = torch.rand(classes, generator=torch.Generator().manual_seed(1)) + 0.1
        for options in settings:
            given = {**options, "weight": weight} if "weight" in options else options
            compare(w, logits, target, reduction=next(reductions), **given)


@case
def row_weights_and_normalizers(w: World) -> None:
    logits, target = numbers(5, 10), indices(5, 10)
    by_row = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0])
    weight = torch.arange(1.0, 11.0)
    for normalizer in (None, "weight", "count", 17.0, torch.tensor(3.0)):
        options = {"normalizer": normalizer, "row_weight": by_row, "weight": weight}
        compare(w, logits, target, **options)
        compare(w, logits, target, label_smoothing=0.3, **options)


@case
def soft_targets(w: World) -> None:
    for classes in (10, 3):
        logits = numbers(5, classes)
        target = numbers(5, classes, seed=2).softmax(1)
        weight = torch.arange(1.0, classes + 1)
        for options in (
            {},
            {"label_smoothing": 0.2, "weight": weight, "z_loss": 0.02},
            {"weight": weight, "normalizer": "weight", "softcap": 6.0},
        ):
            compare(w, logits, target, **options)
            compare(w, logits, target, reduction="none", **options)


@case
def a_hard_target_is_its_one_hot_row(w: World) -> None:
    logits, target = numbers(5, 10), indices(5, 10)
    own = w.own(10)
    one_hot = torch.nn.functional.one_hot(target, 10)[:, own].float()
    for options in ({}, {"label_smoothing": 0.1, "weight": torch.arange(1.0, 11.0)}):
        parts = [logits[:, own].clone().requires_grad_() for _ in range(2)]
        both = [
            parallel_cross_entropy(z, t, normalizer="weight", **options, **DOUBLE)
            for z, t in zip(parts, (target, one_hot), strict=True)
        ]
        assert both[0] == both[1]
        slopes = [gradients(loss, z)[0] for loss, z in zip(both, parts, strict=True)]
        close(*slopes, bound=1e-6, absolute=1e-12)


@case
def ignored_rows(w: World) -> None:
    logits, target = numbers(4, 7), torch.full((4,), -100)
    for reduction in ("mean", "sum", "none"):
        compare(w, logits, target, reduction=reduction)
    own = w.own(7)
    broken = logits.clone()
    broken[1] = math.nan  # a row that does not count is not looked at
    target = torch.tensor([1, -100, 6, 0])
    for options in ({}, {"softcap": 3.0}, {"label_smoothing": 0.1}):
        compare(w, broken, target, **options)
    part = broken[:, own].requires_grad_()
    empty = parallel_cross_entropy(part, torch.full((4,), -100), empty="zero")
    assert empty == 0.0
    assert not gradients(empty, part)[0].any()
    hidden, weight = broken.clone().requires_grad_(), numbers(9, 7)[w.own(9)].requires_grad_()
    loss = parallel_linear_cross_entropy(hidden, weight, target)
    for slope in gradients(loss, hidden, weight):
        assert slope.isfinite().all()
    nothing = parallel_linear_cross_entropy(hidden[:0], weight, target[:0], reduction="none")
    assert nothing.shape == (0,)


@case
def masked_classes(w: World) -> None:
    for masked in (slice(0, 3), slice(3, 6), slice(8, 10)):  # with four ranks, whole ranks
        logits = numbers(6, 10)
        logits[:, masked] = -math.inf
        target = torch.tensor([6, 7, 7, 6, 7, 6])
        for options in ({}, {"label_smoothing": 0.1, "weight": torch.arange(1.0, 11.0)}):
            compare(w, logits, target, reduction="none", **options)
            compare(w, logits, target, softcap=3.0, **options)
        wrong = torch.full((6,), masked.start)  # P(target) = 0
        own = w.own(10)
        part = logits[:, own].clone().requires_grad_()
        losses = parallel_cross_entropy(part, wrong, reduction="none")
        assert (losses == math.inf).all()
        full = logits.double().requires_grad_()
        want = xent.torch.cross_entropy(full, wrong, reduction="none")
        close(gradients(losses, part)[0].double(), gradients(want, full)[0][:, own], 1e-6, 1e-12)
    statistics = parallel_softmax_statistics(logits[:, w.own(10)], target)
    want = xent.torch.softmax_statistics(logits, target)
    for got, wanted in zip(statistics, want, strict=True):
        close(got, wanted, 1e-6)


@case
def rows_that_are_not_finite(w: World) -> None:
    logits = numbers(4, 10)
    logits[0] = -math.inf
    logits[1, 9] = math.inf
    logits[2, 4] = math.nan
    target = torch.tensor([0, 1, 2, 3])
    part = logits[:, w.own(10)].clone().requires_grad_()
    losses = parallel_cross_entropy(part, target, reduction="none")
    assert losses.isnan().tolist() == [True, True, True, False]
    (slope,) = torch.autograd.grad(losses.sum(), part)
    assert slope[:3].isnan().all()
    assert slope[3].isfinite().all()
    statistics = parallel_softmax_statistics(part, target)
    assert statistics.argmax[:3].tolist() == [-1, -1, -1]
    assert not statistics.correct[:3].any()
    assert statistics.argmax[3] == logits[3].argmax()


@case
def confident_and_hopeless_rows(w: World) -> None:
    """The others' mass keeps its digits wherever the target, and the others, are."""
    rows = []
    for at, gap, offset in itertools.product(range(10), (20.0, 60.0, 300.0), (0.0, 2.0**20)):
        row = torch.zeros(10, dtype=torch.float64)
        row[at] = gap
        row[(at + 5) % 10] = gap - 19.0
        rows.append(row + offset)
    logits = torch.stack(rows)
    likeliest = logits.argmax(1)
    own = w.own(10)
    for target in (likeliest, (likeliest + 5) % 10, (likeliest + 1) % 10):
        full = logits.clone().requires_grad_()
        want = xent.torch.cross_entropy(full, target, reduction="none")
        part = logits[:, own].clone().requires_grad_()
        got = parallel_cross_entropy(part, target, reduction="none")
        close(got, want.detach())
        ones = torch.ones_like(got)
        (slope,) = torch.autograd.grad(want, full, ones)
        (found,) = torch.autograd.grad(got, part, ones)
        close(found, slope[:, own])  # relative alone: the entry at the target too
        assert (got > 0).all()
        one_hot = torch.nn.functional.one_hot(target, 10)[:, own].double()
        soft = parallel_cross_entropy(part, one_hot, reduction="none")
        close(torch.autograd.grad(soft, part, ones)[0], slope[:, own])
    half = logits[:, own].float().requires_grad_()
    (found,) = torch.autograd.grad(parallel_cross_entropy(half, likeliest, reduction="sum"), half)
    tiny = found[found != 0].abs()
    assert not tiny.numel() or tiny.min() < 1e-8 or w.size > 1


@case
def statistics_and_their_gradients(w: World) -> None:
    for classes, options in (
        (10, {}),
        (7, {"temperature": 0.5}),
        (3, {"softcap": 2.0, "temperature": 1.5}),
    ):
        logits, own = numbers(6, classes, dtype=torch.float64), w.own(classes)
        hard, soft = indices(6, classes), numbers(6, classes, seed=5).softmax(1).double()
        for target in (hard, soft):
            here = target if target.ndim == 1 else target[:, own]
            full = logits.clone().requires_grad_()
            part = logits[:, own].clone().requires_grad_()
            want = xent.torch.softmax_statistics(full, target, **options)
            got = parallel_softmax_statistics(part, here, **options)
            weight = numbers(classes, 4, seed=6, dtype=torch.float64)
            h = numbers(6, 4, seed=8, dtype=torch.float64)
            wide, mine = h.clone().requires_grad_(), weight[own].clone().requires_grad_()
            whole = [h.clone().requires_grad_(), weight.clone().requires_grad_()]
            linear = parallel_linear_softmax_statistics(wide, mine, here, **options)
            product = xent.torch.softmax_statistics(whole[0] @ whole[1].T, target, **options)
            for name in want._fields:
                close(getattr(got, name), getattr(want, name))
                close(getattr(linear, name), getattr(product, name), 1e-12)
                if not getattr(want, name).is_floating_point():
                    continue
                (slope,) = gradients(getattr(want, name), full)
                (found,) = gradients(getattr(got, name), part)
                close(found, slope[:, own], absolute=BOUND)
                d_h, d_weight = gradients(getattr(product, name), *whole)
                a, b = gradients(getattr(linear, name), wide, mine)
                close(a, d_h, 1e-11, 1e-12)
                close(b, d_weight[own], 1e-11, 1e-12)
    nothing = parallel_softmax_statistics(logits[:, own])
    assert nothing.nll is nothing.log_probability is nothing.correct is None
    close(nothing.entropy, xent.torch.softmax_statistics(logits).entropy)
    ties = torch.zeros(2, 10)
    assert parallel_softmax_statistics(ties[:, w.own(10)]).argmax.tolist() == [0, 0]


@case
def linear_in_tiles(w: World) -> None:
    """Rows and classes in tiles of a small workspace: as in one piece, up to the sums' order."""
    rows, classes, features = 300, 2003, 32
    target = indices(rows, classes)
    target[5:80] = -100
    hidden, weight = numbers(rows, features, scale=1.0), numbers(classes, features, scale=0.3)
    own = w.own(classes)
    results = []
    for workspace in (1 << 20, 256 << 20):
        h, mine = hidden.clone().requires_grad_(), weight[own].clone().requires_grad_()
        loss = parallel_linear_cross_entropy(h, mine, target, workspace_bytes=workspace)
        results.append((loss.detach(), *gradients(loss, h, mine)))
    full = [hidden.double().requires_grad_(), weight.double().requires_grad_()]
    want = xent.torch.cross_entropy(full[0] @ full[1].T, target)
    slopes = gradients(want, *full)
    for loss, d_h, d_weight in results:
        close(loss.double(), want.detach(), 1e-6)
        assert loss.dtype == torch.float32
        close(d_h.double(), slopes[0], 1e-4, 1e-8)
        close(d_weight.double(), slopes[1][own], 1e-4, 1e-8)
    half = [hidden.bfloat16().requires_grad_(), weight[own].bfloat16().requires_grad_()]
    exact = [x.detach().bfloat16().double().requires_grad_() for x in (hidden, weight)]
    want = xent.torch.cross_entropy(exact[0] @ exact[1].T, target)
    slopes = gradients(want, *exact)
    got = parallel_linear_cross_entropy(
        *half, target, workspace_bytes=1 << 20, out_dtype=torch.float32
    )
    close(got.double(), want.detach(), 1e-6)
    d_h, d_weight = gradients(got, *half)
    assert d_h.dtype == d_weight.dtype == torch.bfloat16
    close(d_h.double(), slopes[0], 2**-7, 1e-7)
    close(d_weight.double(), slopes[1][own], 2**-7, 1e-7)


@case
def leading_dimensions_and_frozen_sides(w: World) -> None:
    hidden, weight = numbers(2, 3, 4, dtype=torch.float64), numbers(7, 4, dtype=torch.float64)
    target, own = indices(6, 7).reshape(2, 3), w.own(7)
    z = hidden @ weight.T
    want = xent.torch.cross_entropy(z.reshape(6, 7), target.reshape(6), reduction="none")
    got = parallel_linear_cross_entropy(hidden, weight[own], target, reduction="none")
    close(got, want.reshape(2, 3), 1e-12)
    close(parallel_cross_entropy(z[..., own], target, reduction="none"), got, 1e-12)
    for which in range(2):
        sides = [hidden.clone(), weight[own].clone()]
        sides[which].requires_grad_()
        loss = parallel_linear_cross_entropy(*sides, target)
        assert gradients(loss, sides[which])[0].isfinite().all()
    single = parallel_cross_entropy(z[0, 0, own], target[0, 0])
    close(single, want[0], 1e-12)


@case
def autocast(w: World) -> None:
    hidden, weight = numbers(4, 8, scale=1.0), numbers(7, 8, scale=1.0)
    target, own = indices(4, 7), w.own(7)
    exact = hidden.bfloat16().double() @ weight.bfloat16().double().T
    want = xent.torch.cross_entropy(exact, target)
    h, mine = hidden.clone().requires_grad_(), weight[own].clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = parallel_linear_cross_entropy(h, mine, target)
        got.backward()
    assert got.dtype == torch.float32
    close(got.detach().double(), want, 1e-6)
    assert h.grad.dtype == mine.grad.dtype == torch.float32


# ---- ranks ---------------------------------------------------------------------------------------


@case
def uneven_shards_in_any_order(w: World) -> None:
    sizes = {1: [11], 2: [11, 0], 4: [5, 0, 1, 5]}[w.size]
    starts = {1: [0], 2: [0, 11], 4: [6, 11, 0, 1]}[w.size]
    logits, target = numbers(4, 11, dtype=torch.float64), torch.tensor([0, 5, 10, 2])
    want = xent.torch.cross_entropy(logits, target, label_smoothing=0.1)
    in_order = sum(sizes[: w.rank])
    part = logits[:, in_order : in_order + sizes[w.rank]]
    close(parallel_cross_entropy(part, target, label_smoothing=0.1), want)
    start = starts[w.rank]
    part = logits[:, start : start + sizes[w.rank]]
    options = {"first_class": start, "label_smoothing": 0.1}
    close(parallel_cross_entropy(part, target, **options), want)
    options |= {"classes": 11, "check": False}
    close(parallel_cross_entropy(part, target, **options), want)
    target[1] = 11  # not looked at, and not silent
    losses = parallel_cross_entropy(part, target, reduction="none", **options)
    assert losses.isnan().tolist() == [False, True, False, False]


def uneven_shards_of_threads(w: World) -> None:
    """What three ranks do with no exchange before it, and with the argmax of equals."""
    starts, sizes = (5, 0, 2), (6, 2, 3)
    logits = numbers(4, 11, dtype=torch.float64)
    own = slice(starts[w.rank], starts[w.rank] + sizes[w.rank])
    target = torch.tensor([0, 11, 10, 2])
    options = {"first_class": own.start, "classes": 11, "check": False}
    losses = parallel_cross_entropy(logits[:, own], target, reduction="none", **options)
    assert losses.isnan().tolist() == [False, True, False, False]
    target[1] = 4
    losses = parallel_cross_entropy(logits[:, own], target, reduction="none", **options)
    close(losses, xent.torch.cross_entropy(logits, target, reduction="none"))
    ties = torch.zeros(2, 11)[:, own]
    assert parallel_softmax_statistics(ties, **options).argmax.tolist() == [0, 0]


@case
def the_same_bits_everywhere(w: World) -> None:
    logits, target = numbers(50, 103), indices(50, 103)
    hidden, weight = numbers(50, 16), numbers(103, 16)[w.own(103)]
    for _ in range(2):
        h = hidden.clone().requires_grad_()
        losses = parallel_cross_entropy(logits[:, w.own(103)], target, reduction="none")
        linear = parallel_linear_cross_entropy(h, weight, target, reduction="none")
        (slope,) = gradients(linear, h)
        same_everywhere(w, f"{losses.tolist()} {linear.tolist()} {slope.tolist()}")


COLLECTIVES = [
    *("all_reduce", "all_gather_single", "all_gather_into_tensor", "all_gather", "broadcast"),
    *("reduce", "reduce_scatter_single", "reduce_scatter_tensor", "reduce_scatter", "all_to_all"),
    *("all_to_all_single", "gather", "scatter", "send", "recv", "isend", "irecv"),
    *("batch_isend_irecv", "all_gather_object", "broadcast_object_list"),
    *("all_gather_coalesced", "all_reduce_coalesced"),
]


@contextmanager
def counted() -> Iterator[list[tuple[str, int]]]:
    """Collect the bytes that this rank gives to each collective."""
    real = {name: getattr(dist, name) for name in COLLECTIVES if hasattr(dist, name)}
    seen: list[tuple[str, int]] = []

    def watch(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)]
            seen.append((name, sum(t.numel() * t.element_size() for t in tensors)))
            return real[name](*args, **kwargs)

        return call

    for name in real:
        setattr(dist, name, watch(name))
    try:
        yield seen
    finally:
        for name, function in real.items():
            setattr(dist, name, function)


@case
def what_is_exchanged_does_not_depend_on_classes(w: World) -> None:
    rows, features = 12, 8
    every: dict[int, list[Any]] = {}
    for classes in (1000, 8000):
        own, target = w.own(classes), indices(rows, 1000)
        logits = numbers(rows, classes)[:, own].requires_grad_()
        hidden = numbers(rows, features).requires_grad_()
        weight = numbers(classes, features)[own].requires_grad_()
        options = {"label_smoothing": 0.1, "z_loss": 0.1, "weight": torch.ones(classes)}
        soft = torch.full_like(logits, 1.0 / classes).detach()
        with counted() as seen:
            parallel_cross_entropy(logits, target, **options).backward()
            first = len(seen)
            parallel_linear_cross_entropy(hidden, weight, target, **options).backward()
            parallel_cross_entropy(logits, soft).backward()
            parallel_softmax_statistics(logits, target).entropy.sum().backward()
        every[classes] = list(seen)
        if w.size == 1:
            assert not seen
            continue
        # the sizes of 32 numbers, then at most nine float64 numbers for each row and rank
        assert [name.split("_")[:2] for name, _ in seen[:first]] == [["all", "gather"]] * 2
        assert seen[0][1] == 8 * 32 * (w.size + 1)
        assert seen[1][1] <= 9 * 8 * rows * (w.size + 1)
        reduced = [size for name, size in seen if name == "all_reduce"]
        assert reduced == [4 * rows * features]
        with counted() as unchecked:
            parallel_cross_entropy(
                logits, target, first_class=own.start, classes=classes, check=False
            )
        assert len(unchecked) == 1
    assert every[1000] == every[8000]


@case
def ranks_that_disagree(w: World) -> None:
    if w.size == 1:
        return
    last = w.rank == w.size - 1
    logits, target = numbers(5, 10)[:, w.own(10)], indices(5, 10)
    hidden, weight = numbers(5, 4), numbers(10, 4)[w.own(10)]
    calls: list[tuple[str, str, Callable[[], Any]]] = [
        (
            "ShapeError",
            f"ranks must agree on rows: got 5 on rank 0 and 4 on rank {w.size - 1}",
            lambda: parallel_cross_entropy(logits[: 5 - last], target[: 5 - last]),
        ),
        (
            "OptionError",
            "temperature: got 1.0 on rank 0 and 2.0",
            lambda: parallel_cross_entropy(logits, target, temperature=1.0 + last),
        ),
        (
            "OptionError",
            "reduction: got 'mean' on rank 0 and 'sum'",
            lambda: parallel_cross_entropy(logits, target, reduction="sum" if last else "mean"),
        ),
        (
            "OptionError",
            "the same target",
            lambda: parallel_cross_entropy(logits, target.roll(1) if last else target),
        ),
        (
            "OptionError",
            "the same row_weight",
            lambda: parallel_cross_entropy(logits, target, row_weight=torch.ones(5) + last),
        ),
        (
            "ShapeError",
            "features: got 4 on rank 0 and 3",
            lambda: parallel_linear_cross_entropy(
                hidden[:, : 4 - last], weight[:, : 4 - last], target
            ),
        ),
        (
            "OptionError",
            "whether hidden needs a gradient: got False on rank 0 and True",
            lambda: parallel_linear_cross_entropy(
                hidden.clone().requires_grad_(last), weight, target
            ),
        ),
        (
            "OptionError",
            "the form: got 'logits' on rank 0 and 'linear'",
            lambda: (
                parallel_linear_cross_entropy(hidden, weight, target)
                if last
                else parallel_cross_entropy(logits, target)
            ),
        ),
        (
            "UnfitShapeError",
            "on rank 1: parallel_linear_cross_entropy(): hidden",
            lambda: parallel_linear_cross_entropy(
                hidden, weight[:, : 3 if w.rank == 1 else 4], target
            ),
        ),
        (
            "InputDtypeError",
            f"on rank {w.size - 1}: parallel_cross_entropy(): logits_local must be",
            lambda: parallel_cross_entropy(logits.long() if last else logits, target),
        ),
        (
            "TypeError",
            "on rank 0: parallel_cross_entropy(): logits_local must be a Tensor",
            lambda: parallel_cross_entropy(None if w.rank == 0 else logits, target),
        ),
        (
            "TargetIndexError",
            "targets must lie in [0, 10): got 10 at row 3",
            lambda: parallel_cross_entropy(logits, torch.tensor([0, 1, -100, 10, 99])),
        ),
        (
            "UnfitShapeError",
            "weight must have a number for each of 10 classes",
            lambda: parallel_cross_entropy(logits, target, weight=torch.ones(9)),
        ),
        (
            "ShapeError",
            "classes must be those of all ranks together: got 12",
            lambda: parallel_cross_entropy(logits, target, classes=12),
        ),
        (
            "ShapeError",
            "must follow each other from 0 to 10",
            lambda: parallel_cross_entropy(logits, target, first_class=0),
        ),
        (
            "ShapeError",
            "there must be a class on some rank",
            lambda: parallel_cross_entropy(logits[:, :0], target),
        ),
    ]
    for kind, words, call in calls:
        told = error_of(call)
        same_everywhere(w, told)
        assert told.startswith(kind + ":"), told
        assert words in told, told
    assert parallel_cross_entropy(logits, target).isfinite()  # and nobody waits for anybody


@case
def a_rank_that_refuses(w: World) -> None:
    """What only the last rank is given is refused on all."""
    last = w.rank == w.size - 1
    logits, target = numbers(5, 10)[:, w.own(10)], indices(5, 10)
    hidden, weight = numbers(5, 4), numbers(10, 4)[w.own(10)]

    def call(logits: Any = logits, target: Any = target, **options: Any) -> Any:
        return parallel_cross_entropy(logits, target, **options)

    def along_a_tangent(z: Any) -> Any:
        with torch.autograd.forward_ad.dual_level():
            return call(torch.autograd.forward_ad.make_dual(z, torch.ones_like(z)))

    def linear(h: Any = hidden, w: Any = weight, **options: Any) -> Any:
        return parallel_linear_cross_entropy(h, w, target, **options)

    def statistics(**options: Any) -> Any:
        return parallel_softmax_statistics(logits, target, **options)

    whole = {"bias_local": DTensor.from_local(numbers(10), init_device_mesh("cpu", (w.size,)))}
    for words, one, others in (
        ("TypeError: *target must be a Tensor", lambda: call(logits, None), call),
        (
            "TypeError: *unexpected keyword argument 'z_loss'",
            lambda: statistics(z_loss=1),
            statistics,
        ),
        (
            "OptionError: *first_class must be an integer from 0 to",
            lambda: call(first_class=2**70),
            call,
        ),
        ("OptionError: *classes must be an integer from 0 to", lambda: call(classes=2**70), call),
        ("OptionError: *ignore_index must lie in", lambda: call(ignore_index=2**70), call),
        ("NotImplementedError: *torch.func", lambda: torch.func.grad(call)(logits), call),
        ("NotImplementedError: *torch.func", lambda: torch.func.vmap(call)(logits[None]), call),
        ("NotImplementedError: *forward-mode", lambda: along_a_tangent(logits), call),
        (
            "OptionError: *out_dtype must be a float dtype",
            lambda: call(out_dtype=torch.int32),
            call,
        ),
        ("OptionError: *out_dtype must be a float dtype", lambda: call(out_dtype=torch.bool), call),
        ("OptionError: *normalizer must lie in", lambda: call(normalizer=torch.tensor(0.0)), call),
        (
            "ShapeError: *normalizer must be one number",
            lambda: call(normalizer=torch.ones(1)),
            call,
        ),
        ("OptionError: *reduction must be one of", lambda: call(reduction="max"), call),
        (
            "UnfitShapeError: *weight must have one dim",
            lambda: call(weight=torch.ones(10, 1)),
            call,
        ),
        ("RuntimeError: *", lambda: call(logits.to_sparse()), call),
        (
            "OptionError: *bias_local must lie with weight_local, plain",
            lambda: linear(**whole),
            linear,
        ),
        (
            "UnfitShapeError: *bias_local must have",
            lambda: linear(bias_local=torch.ones(11)),
            linear,
        ),
    ):
        told = error_of(one if last else others)
        same_everywhere(w, told)
        kind, _, text = words.partition("*")
        assert told.startswith(kind + ("" if w.size == 1 else f"on rank {w.size - 1}: ")), told
        assert text in told, told
    if w.size == 1:
        return
    full, half = {"out_dtype": torch.float32}, logits.half() if last else logits
    for words, one in (
        ("agree on normalizer: got 3.0", lambda: call(normalizer=torch.tensor(3.0 + last))),
        ("the dtype of logits_local: got 'float32'", lambda: call(half, **full)),
        ("the dtype of hidden", lambda: linear(hidden.double() if last else hidden, **full)),
        (
            "the dtype of weight_local",
            lambda: linear(w=weight.double() if last else weight, **full),
        ),
    ):
        told = error_of(one)
        same_everywhere(w, told)
        assert words in told, told
    zero = -0.0 if last else 0.0  # which is the same
    by_row = torch.tensor([zero, 1.0, 1.0, 1.0, 1.0])
    normalizer = 4 if last else torch.tensor(4.0)
    got = call(row_weight=by_row, label_smoothing=zero, z_loss=zero, normalizer=normalizer)
    want = xent.torch.cross_entropy(numbers(5, 10)[1:], target[1:], reduction="sum") / 4.0
    close(got, want, 1e-6)


@case
def rows_of_other_processes(w: World) -> None:
    """`data_group`: shares add up to the mean over all rows."""
    if w.size == 1:
        return
    mesh = init_device_mesh("cpu", (2, w.size // 2), mesh_dim_names=("data", "classes"))
    along = World(mesh.get_local_rank("classes"), w.size // 2)
    row = mesh.get_local_rank("data")
    groups = {"group": mesh.get_group("classes"), "data_group": mesh["data"]}
    logits, target = numbers(8, 10, dtype=torch.float64), indices(8, 10)
    target[:3] = -100
    weight = torch.arange(1.0, 11.0)
    here = slice(0, 4) if row == 0 else slice(4, 8)
    for options in ({}, {"weight": weight}, {"normalizer": "count"}, {"normalizer": 40}):
        full = logits.clone().requires_grad_()
        want = xent.torch.cross_entropy(full, target, **options)
        (slope,) = torch.autograd.grad(want, full)
        part = logits[here, along.own(10)].clone().requires_grad_()
        share = parallel_cross_entropy(part, target[here], **groups, **options)
        (found,) = torch.autograd.grad(share, part)
        total = share.detach().clone()
        dist.all_reduce(total, group=mesh.get_group("data"))
        close(total, want.detach())
        close(found, slope[here, along.own(10)], absolute=BOUND)
    # One of them refuses its arguments, or makes another call: the others hear of it.
    odd, bad = row == 1, target[here].clone()
    bad[3] = 10 if odd else bad[3]
    z, t = logits[here, along.own(10)], target[here]
    by_row = {"row_weight": torch.ones(4, requires_grad=True)}

    def call(logits: Any = z, target: Any = t, **options: Any) -> Callable[[], Any]:
        return lambda: parallel_cross_entropy(logits, target, **groups, **options)

    def linear(**options: Any) -> Callable[[], Any]:
        w = torch.eye(10, dtype=torch.float64)[along.own(10)]
        return lambda: parallel_linear_cross_entropy(logits[here], w, t, **groups, **options)

    for words, one in (
        ("TargetIndexError: on data rank 1: targets must lie in [0, 10): got 10", call(z, bad)),
        ("OptionError: on data rank 1: ", call(reduction="average" if odd else "mean")),
        ("OptionError: on data rank 1: ", call(**by_row if odd else {})),
        ("OptionError: on data rank 0: ", call(**by_row)),
        ("TypeError: on data rank 1: ", call(z, None if odd else t)),
        ("OptionError: on data rank 1: ", call(ignore_index=2**70 if odd else -100)),
        ("RuntimeError: on data rank 1: ", call(z.to_sparse() if odd else z)),
        ("OptionError: on data rank 1: ", call(normalizer=torch.tensor(-1.0)) if odd else call()),
        ("TypeError: on data rank 1: ", linear(shift=True) if odd else linear()),
        ("agree on reduction: got 'mean' on data rank", call(reduction="sum" if odd else "mean")),
        (
            "the kind of normalizer: got 'none' on data rank 0",
            call(normalizer=4) if odd else call(),
        ),
        ("normalizer: got 4.0 on data rank 0 and 5.0", call(normalizer=torch.tensor(4.0 + odd))),
        ("agree on the dtype of the result", call(z.float() if odd else z)),
    ):
        told = error_of(one)
        same_everywhere(w, told)
        assert words in told, told
    assert call()().isfinite()
    with counted() as seen:  # a check and the number of rows more
        call()()
    assert ["gather" in name for name, _ in seen] == [True] * (1 + 2 * (w.size > 2)) + [False]
    assert seen[-1] == ("all_reduce", 8)


# ---- DTensors ------------------------------------------------------------------------------------


@case
def dtensors_on_one_dimension(w: World) -> None:
    mesh = init_device_mesh("cpu", (w.size,))
    for classes in (10, 3):
        logits, target = numbers(6, classes, dtype=torch.float64), indices(6, classes)
        full = logits.clone().requires_grad_()
        want = xent.torch.cross_entropy(full, target, label_smoothing=0.1)
        (slope,) = torch.autograd.grad(want, full)
        sharded = distribute_tensor(logits, mesh, [Shard(1)]).requires_grad_()
        for labels in (target, distribute_tensor(target, mesh, [Replicate()])):
            for check in (True, False):
                sharded.grad = None
                got = parallel_cross_entropy(sharded, labels, label_smoothing=0.1, check=check)
                assert isinstance(got, DTensor)
                assert got.placements == (Replicate(),)
                close(got.full_tensor().detach(), want.detach())
                got.backward()
                assert sharded.grad.placements == (Shard(1),)
                close(sharded.grad.full_tensor(), slope, absolute=BOUND)
        rows = parallel_cross_entropy(sharded, target, reduction="none")
        close(rows.full_tensor(), xent.torch.cross_entropy(logits, target, reduction="none"))
        statistics = parallel_softmax_statistics(sharded, target)
        wanted = xent.torch.softmax_statistics(logits, target)
        for got, one in zip(statistics, wanted, strict=True):
            close(got.full_tensor(), one)
        soft = logits.softmax(1)
        spread = distribute_tensor(soft, mesh, [Shard(1)])
        got = parallel_cross_entropy(sharded, spread)
        close(got.full_tensor(), xent.torch.cross_entropy(logits, soft))
        # A sharded weight with hidden states that are plain, and the same on every rank.
        weight, hidden = numbers(classes, 4, dtype=torch.float64), numbers(6, 4).double()
        head = distribute_tensor(weight, mesh, [Shard(0)]).requires_grad_()
        h, whole = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = parallel_linear_cross_entropy(h, head, target)
        assert not isinstance(loss, DTensor)
        loss.backward()
        g = hidden.clone().requires_grad_()
        one = xent.torch.cross_entropy(g @ whole.T, target)
        one.backward()
        close(loss.detach(), one.detach(), 1e-12)
        close(h.grad, g.grad, 1e-11, 1e-13)
        close(head.grad.full_tensor(), whole.grad, 1e-11, 1e-13)
    replicated = distribute_tensor(logits, mesh, [Replicate()])
    got = parallel_cross_entropy(replicated, target)
    close(got.full_tensor(), xent.torch.cross_entropy(logits, target))
    with raises(OptionError, "group must be None for DTensors"):
        parallel_cross_entropy(sharded, target, group=dist.group.WORLD)
    with raises(OptionError, "logits_local must be sharded on its classes", "redistribute"):
        parallel_cross_entropy(DTensor.from_local(logits, mesh, [Partial()]), target)
    with raises(OptionError, "weight_local must be a DTensor"):
        parallel_linear_cross_entropy(
            distribute_tensor(hidden, mesh, [Replicate()]), weight, target
        )
    with raises(OptionError, "target must lie on"):
        parallel_cross_entropy(sharded, distribute_tensor(target, mesh, [Shard(0)]))


def compare_biases(w: World, mesh: Any, along: World, classes: int, rows: list[Any]) -> None:
    """A bias in each way that it may lie, with a weight that is a DTensor; the loss and gradients.

    Rows lie as `rows` says; where it is empty hidden states are plain.
    """
    by_class: list[Any] = [Replicate()] * (mesh.ndim - 1) + [Shard(0)]
    everywhere = [Replicate()] * mesh.ndim
    weight, bias = numbers(classes, 4).double(), numbers(classes, seed=4).double()
    hidden, target = numbers(6, 4).double(), indices(6, classes)
    target[1] = -100
    whole = [x.clone().requires_grad_() for x in (hidden, weight, bias)]
    want = xent.torch.cross_entropy(whole[0] @ whole[1].T + whole[2], target)
    slopes = torch.autograd.grad(want, whole)
    own = along.own(classes)
    for given, slope in (
        (distribute_tensor(bias, mesh, by_class), slopes[2]),
        (distribute_tensor(bias, mesh, everywhere), slopes[2]),
        (bias.clone(), slopes[2]),
        (bias[own].clone(), slopes[2][own]),
    ):
        b = given.requires_grad_()
        head = distribute_tensor(weight, mesh, by_class).requires_grad_()
        h, labels = hidden.clone(), target
        if rows:
            h = distribute_tensor(hidden, mesh, rows)
            labels = distribute_tensor(target, mesh, rows)
        h.requires_grad_()
        for check in (True, False):
            loss = parallel_linear_cross_entropy(h, head, labels, bias_local=b, check=check)
            found = torch.autograd.grad(loss, (h, head, b))
            if isinstance(b, DTensor):
                assert found[2].placements == b.placements
            values = [x.full_tensor() if isinstance(x, DTensor) else x for x in (loss, *found)]
            close(values[0].detach(), want.detach(), 1e-12)
            for a, e in zip(values[1:], (*slopes[:2], slope), strict=True):
                close(a, e, 1e-11, 1e-12)


@case
def biases_of_dtensor_weights(w: World) -> None:
    mesh = init_device_mesh("cpu", (w.size,))
    for classes in (10, 7, 3):
        for rows in ([], [Replicate()]):
            compare_biases(w, mesh, w, classes, rows)
    if w.size > 1:
        half = w.size // 2
        two = init_device_mesh("cpu", (2, half), mesh_dim_names=("data", "classes"))
        along = World(two.get_local_rank("classes"), half)
        compare_biases(w, two, along, 7, [Shard(0), Replicate()])
        compare_biases(w, two, along, 7, [Replicate(), Replicate()])
    hidden, target, bias = numbers(6, 4), indices(6, 7), numbers(7)
    head = distribute_tensor(numbers(7, 4), mesh, [Shard(0)])

    def call(bias: Any, target: Any = target, **options: Any) -> Callable[[], Any]:
        return lambda: parallel_linear_cross_entropy(
            hidden, head, target, bias_local=bias, **options
        )

    last = w.rank == w.size - 1
    own = bias[w.own(7)]
    asked = bias.clone().requires_grad_(last)
    for words, one in (
        (
            "bias_local must lie with weight_local",
            call(DTensor.from_local(bias, mesh, [Partial()])),
        ),
        ("a number for each of", call(numbers(8))),
        ("a number for each of", call(distribute_tensor(numbers(9), mesh, [Shard(0)]))),
        ("a number for each of", call(distribute_tensor(numbers(9), mesh, [Replicate()]))),
        ("target must lie on", call(None, DTensor.from_local(target, mesh, [Shard(0)]))),
        (
            "normalizer must be plain or replicated",
            call(None, normalizer=DTensor.from_local(torch.tensor(3.0), mesh, [Partial()])),
        ),
        ("whether bias_local is of all classes", call(own if last else bias)),
        ("whether bias_local needs a gradient: got False on rank 0 and True", call(asked)),
    )[: 6 if w.size == 1 else 8]:
        told = error_of(one)
        same_everywhere(w, told)
        assert words in told, told
    with raises(OptionError, "target must be plain or replicated"):
        labels = DTensor.from_local(target, mesh, [Shard(0)])
        parallel_linear_cross_entropy(hidden, numbers(7, 4), labels)


@case
def dtensors_on_two_dimensions(w: World) -> None:
    """Rows on one dimension of the mesh, classes on the other, and numbers of rows that differ."""
    if w.size == 1:
        return
    mesh = init_device_mesh("cpu", (2, w.size // 2), mesh_dim_names=("data", "classes"))
    logits, target = numbers(5, 7, dtype=torch.float64), indices(5, 7)
    target[4] = -100
    sharded = distribute_tensor(logits, mesh, [Shard(0), Shard(1)]).requires_grad_()
    labels = distribute_tensor(target, mesh, [Shard(0), Replicate()])
    for options in ({}, {"reduction": "sum"}, {"normalizer": 9.0}, {"reduction": "none"}):
        full = logits.clone().requires_grad_()
        want = xent.torch.cross_entropy(full, target, **options)
        (slope,) = torch.autograd.grad(want.sum(), full)
        got = parallel_cross_entropy(sharded, labels, **options)
        close(got.full_tensor().detach(), want.detach())
        sharded.grad = None
        got.sum().backward()
        close(sharded.grad.full_tensor(), slope, absolute=BOUND)
        if options.get("reduction") != "none":
            assert got.placements == (Replicate(), Replicate())
    with raises(OptionError, "target must be a DTensor where rows are sharded"):
        parallel_cross_entropy(sharded, target)

    weight, hidden = numbers(7, 4, dtype=torch.float64), numbers(5, 4, dtype=torch.float64)
    head = distribute_tensor(weight, mesh, [Replicate(), Shard(0)]).requires_grad_()
    states = distribute_tensor(hidden, mesh, [Shard(0), Replicate()]).requires_grad_()
    loss = parallel_linear_cross_entropy(states, head, labels)
    loss.backward()
    whole = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    want = xent.torch.cross_entropy(whole[0] @ whole[1].T, target)
    want.backward()
    close(loss.full_tensor().detach(), want.detach(), 1e-12)
    assert head.grad.placements == (Replicate(), Shard(0))
    close(head.grad.full_tensor(), whole[1].grad, 1e-11, 1e-13)
    close(states.grad.full_tensor(), whole[0].grad, 1e-11, 1e-13)
    statistics = parallel_linear_softmax_statistics(states, head)
    close(
        statistics.entropy.full_tensor(),
        xent.torch.softmax_statistics(hidden @ weight.T).entropy,
        1e-12,
    )
    # One rank of those with other rows refuses: all hear of it, whatever they reduce to.
    odd = mesh.get_local_rank("data") == 1

    def statistics(**options: Any) -> Any:
        return parallel_linear_softmax_statistics(states, head, **options)

    def total(**options: Any) -> Any:
        return parallel_linear_cross_entropy(states, head, labels, **options)

    def of_frozen() -> Any:
        return parallel_linear_cross_entropy(states, head.detach() if odd else head, labels)

    for words, one in (
        ("OptionError: on data rank 1: ", lambda: statistics(temperature=0.0 if odd else 1.0)),
        ("OptionError: on data rank 1: ", lambda: total(reduction="sum", z_loss=-1.0 * odd)),
        ("agree on reduction: got 'none'", lambda: total(reduction="sum" if odd else "none")),
        ("whether weight_local needs a gradient: got True on data rank 0", of_frozen),
    ):
        told = error_of(one)
        same_everywhere(w, told)
        assert words in told, told
    with counted() as seen:  # as the page says
        loss = total()
    assert ["gather" in name for name, _ in seen].count(False) == 1
    with counted() as seen:
        loss.backward()
    part, rows = head.to_local().numel(), int((labels.to_local() >= 0).sum())
    sizes = [8 * 4 * rows] * (w.size > 2) + [8 * part]
    assert [size for _, size in seen] == sizes
    with raises(OptionError, "hidden must be a DTensor"):
        parallel_linear_cross_entropy(hidden, head, target)
    with raises(OptionError, "hidden must be replicated where weight_local is sharded"):
        wrong = distribute_tensor(hidden, mesh, [Replicate(), Shard(0)])
        parallel_linear_cross_entropy(wrong, head, target)


class Head(torch.nn.Module):
    """The last layer of a model, which returns the loss: logits are never whole."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(numbers(classes, features, scale=0.5))

    def forward(self, hidden: Any, target: Any, **groups: Any) -> Any:
        return parallel_linear_cross_entropy(hidden, self.weight, target, **groups)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(4, 6)
        self.head = Head(6, 10)
        with torch.no_grad():
            self.body.weight.copy_(numbers(6, 4, scale=0.5))
            self.body.bias.zero_()

    def forward(self, x: Any, target: Any, **groups: Any) -> Any:
        return self.head(torch.tanh(self.body(x)), target, **groups)


@case
def a_sharded_head_under_fsdp(w: World) -> None:
    """FSDP on one dimension of the mesh, classes on the other: FSDP gathers before the forward."""
    if w.size == 1:
        return
    x, target = numbers(8, 4), indices(8, 10)
    target[:3] = -100
    one = Model()
    body = torch.tanh(one.body(x))
    want = xent.torch.cross_entropy(body @ one.head.weight.T, target)
    want.backward()
    for data in (2, 4)[: w.size // 2]:
        mesh = init_device_mesh("cpu", (data, w.size // data), mesh_dim_names=("data", "classes"))
        model = Model()
        weight = distribute_tensor(model.head.weight.detach(), mesh["classes"], [Shard(0)])
        model.head.weight = torch.nn.Parameter(weight)
        for layer in (model.body, model.head, model):
            fully_shard(layer, mesh=mesh["data"])
        rows = slice(None) if data == 1 else World(mesh.get_local_rank("data"), data).own(8)
        share = model(x[rows], target[rows], data_group=mesh["data"])
        (share * data).backward()  # FSDP averages gradients over the rows' processes
        total = share.detach().clone()
        dist.all_reduce(total, group=mesh.get_group("data"))
        close(total, want.detach(), 1e-6)
        for name, parameter in one.named_parameters():
            found = model.get_parameter(name).grad.full_tensor()
            close(found, parameter.grad, 1e-5, 1e-7)


@case
def the_recipes_of_the_page(w: World) -> None:
    """The code of docs/parallel.md, on this many processes."""
    text = (Path(__file__).parents[1] / "docs" / "parallel.md").read_text(encoding="utf-8")
    blocks = [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if ">>>" not in b]
    head, rows, sharded = blocks
    x, target = numbers(8, 4), indices(8, 10)
    target[:3] = -100
    data = 2 if w.size == 4 else 1
    here = World(w.rank // (w.size // data), data).own(8)
    whole = numbers(10, 4, scale=0.5)
    weight = whole.clone().requires_grad_()
    h = x.clone().requires_grad_()
    want = xent.torch.cross_entropy(h @ weight.T, target)
    want.backward()

    known: dict[str, Any] = globals() | {"data": data, "tensor": w.size // data}
    exec(head, known)
    layer = known["Head"](4, 10, dist.group.WORLD)
    own = slice(10 * w.rank // w.size, 10 * (w.rank + 1) // w.size)
    layer.weight.data.copy_(whole[own])
    hidden = x.clone().requires_grad_()
    loss = layer(hidden, target)
    loss.backward()
    close(loss.detach(), want.detach(), 1e-6)
    close(hidden.grad, h.grad, 1e-5, 1e-7)
    close(layer.weight.grad, weight.grad[own], 1e-5, 1e-7)

    along = World(w.rank % (w.size // data), w.size // data)
    part = whole[along.own(10)].clone().requires_grad_()
    hidden = x[here].clone().requires_grad_()
    known |= {"hidden": hidden, "weight": part, "target": target[here]}
    exec(rows.replace('"cuda"', '"cpu"'), known)
    close(hidden.grad, data * h.grad[here], 1e-5, 1e-7)
    if w.size > 1:
        hidden.grad = None
        exec(sharded, known | {"weight": whole, "hidden": hidden})
        close(hidden.grad, data * h.grad[here], 1e-5, 1e-7)


# ---- derivatives ---------------------------------------------------------------------------------


@case
def derivatives_that_are_refused(w: World) -> None:
    logits, target = numbers(4, 10)[:, w.own(10)], indices(4, 10)
    hidden, weight = numbers(4, 3), numbers(10, 3)[w.own(10)]

    def by_logits(z: Any) -> Any:
        return parallel_cross_entropy(z, target)

    def by_hidden(h: Any) -> Any:
        return parallel_linear_cross_entropy(h, weight, target)

    for loss, given in ((by_logits, logits), (by_hidden, hidden)):
        x = given.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(x), x, create_graph=True)
        with raises(NotImplementedError, "second derivatives"):
            slope.sum().backward()
        (again,) = torch.autograd.grad(loss(x), x, create_graph=True)  # and not used twice
        close(again, slope)
        with raises(NotImplementedError, "torch.func"):
            torch.func.grad(loss)(given)
        with raises(NotImplementedError, "torch.func"):
            torch.func.vmap(loss)(given[None])
        with raises(NotImplementedError, "forward-mode"), torch.autograd.forward_ad.dual_level():
            loss(torch.autograd.forward_ad.make_dual(given, torch.ones_like(given)))
        rows = parallel_cross_entropy(x, target, reduction="none") if loss is by_logits else None
        if rows is not None:
            with raises(NotImplementedError, "many upstream gradients"):
                torch.autograd.grad(rows, x, torch.eye(4), is_grads_batched=True)
    with raises(OptionError, "must not need a gradient"):
        parallel_cross_entropy(logits, target, weight=torch.ones(10, requires_grad=True))
    by_row = torch.ones(4, requires_grad=True)
    part = logits.clone().requires_grad_()
    parallel_cross_entropy(part, target, row_weight=by_row).backward()
    full = torch.ones(4, requires_grad=True)
    xent.torch.cross_entropy(numbers(4, 10), target, row_weight=full).backward()
    close(by_row.grad, full.grad, 1e-5, 1e-7)


@case
def options_out_of_range(w: World) -> None:
    logits, target = numbers(4, 10)[:, w.own(10)], indices(4, 10)
    hidden, weight = numbers(4, 3), numbers(10, 3)[w.own(10)]
    for options, kind, words in (
        ({"temperature": 0.0}, OptionError, "temperature must lie in"),
        ({"softcap": -1.0}, OptionError, "softcap must lie in"),
        ({"label_smoothing": 2.0}, RuntimeError, "label_smoothing must lie in"),
        ({"reduction": "max"}, ValueError, "reduction must be one of"),
        ({"group": 3}, OptionError, "group must be a process group"),
        ({"data_group": "all"}, OptionError, "data_group must be a process group"),
        ({"first_class": -1}, OptionError, "first_class must be an integer"),
        ({"normalizer": 0.0}, OptionError, "normalizer must lie in"),
        ({"normalizer": "tokens"}, OptionError, "normalizer must be None"),
        ({"normalizer": torch.tensor(-2.0)}, OptionError, "normalizer must lie in"),
        ({"out_dtype": torch.int64}, OptionError, "out_dtype must be a float dtype"),
        ({"out_dtype": "float32"}, OptionError, "out_dtype must be a float dtype"),
    ):
        with raises(kind, words):
            parallel_cross_entropy(logits, target, **options)
    if w.size > 1:
        with raises(OptionError, "first_class and classes must be given"):
            parallel_cross_entropy(logits, target, check=False)
    with raises(OptionError, "workspace_bytes must be an integer from 1048576"):
        parallel_linear_cross_entropy(hidden, weight, target, workspace_bytes=1000)
    with raises(TypeError, "unexpected keyword argument 'shift'"):
        parallel_linear_cross_entropy(hidden, weight, target, shift=True)
    with raises(TypeError, "unexpected keyword argument 'z_loss'"):
        parallel_softmax_statistics(logits, target, z_loss=1.0)
    with raises(TypeError, "target must be a Tensor"):
        parallel_cross_entropy(logits, None)
    with raises(ShapeError, "targets must be class indices of shape (4,)"):
        parallel_cross_entropy(logits, target[:3])


def run(store: Path, world: World, cases: list[Callable[[World], None]]) -> None:
    """Run cases on a group of this size."""
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(str(store), world.size),
        rank=world.rank,
        world_size=world.size,
        timeout=dt.timedelta(seconds=120),
    )
    say = functools.partial(print, flush=True, file=sys.stdout)
    for function in cases:
        started = time.perf_counter()
        name = f"{function.__name__} on {world.size}"
        say(name)
        function(world)
        say(f"passed: {name} in {time.perf_counter() - started:.2f} s")
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    folder, rank = Path(sys.argv[1]), int(sys.argv[2])
    cases = [f for f in CASES if len(sys.argv) == 3 or f.__name__ in sys.argv[3:]]
    torch.set_num_threads(1)
    # torch's forward-mode decompositions script themselves on first use
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
    run(folder / "four", World(rank, 4), cases)
    pair, one = divmod(rank, 2)  # two pairs and four that are alone share the cases
    run(folder / f"pair{pair}", World(one, 2), cases[pair::2])
    run(folder / f"alone{rank}", World(0, 1), cases[rank::4])


if __name__ == "__main__":
    main()
