"""Calls of the CPU kernels with every byte watched: layouts, forms and what the numbers must be."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, field
from typing import Any

import array_api_compat.numpy as xp
import numpy as np
import oracle
import pytest
import torch

from xent.losses import definition
from xent.losses.cases import CASES, GRADIENT, LOSS_ULPS, SMALLEST
from xent.losses.kernels import SoftmaxRows, cpu_rows, numba_classes, numba_doubles, numba_positions

STORAGE = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "int64": np.int64,
}
HALF_SPACING = {
    "float32": (0.0, 0.0),
    "float64": (0.0, 0.0),
    "bfloat16": (2.0**-8, 2.0**-134),
    "float16": (2.0**-11, 2.0**-25),
}
"""How far a number moves when it is rounded to the dtype, relative and absolute."""
TINY64 = 1e-13
"""What the gradient of float64 logits is right to, beside GRADIENT for the narrower dtypes."""
FORMS = ("along the classes", "across positions", "one by one")
FORM_OF = {
    numba_classes.over_classes: FORMS[0],
    numba_classes.over_classes_dense: FORMS[0],
    numba_positions.over_positions: FORMS[1],
    numba_positions.over_positions_dense: FORMS[1],
    numba_doubles.one_by_one: FORMS[2],
}


# ---- arrays in memory that is watched -----------------------------------------------------------


def encode(values, dtype):
    """Return numbers rounded to a dtype, as NumPy stores them: bfloat16 as words."""
    values = np.asarray(values)
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return values.astype(STORAGE[dtype])
    rounded = torch.from_numpy(np.ascontiguousarray(values)).to(torch.bfloat16)
    return rounded.view(torch.int16).numpy().view(np.uint16)


def decode(stored, dtype):
    """Return what is stored in float64."""
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return stored.astype(np.float64)


def rounded(values, dtype):
    """Return the numbers that a dtype makes of these."""
    return decode(encode(values, dtype), dtype)


ORDERS = {
    # in which order the axes (outer, classes, inner) lie in memory, and the steps along them
    "plain": ((0, 1, 2), (1, 1, 1)),
    "classes last": ((0, 2, 1), (1, 1, 1)),
    "classes first": ((1, 0, 2), (1, 1, 1)),
    "turned round": ((2, 1, 0), (1, 1, 1)),
    "gaps": ((0, 1, 2), (1, 2, 3)),
    "rows with gaps": ((0, 2, 1), (2, 1, 1)),
    "backwards": ((0, 1, 2), (-1, -1, -1)),
    "classes last, rows backwards": ((2, 0, 1), (-1, 1, 1)),
}


class Placed:
    """An array of some layout between guard zones; `copies` axes have stride 0."""

    def __init__(self, values, dtype, layout="plain", *, shift=0, copies=()):
        stored, itemsize = encode(values, dtype), np.dtype(STORAGE[dtype]).itemsize
        self.dtype, self.shape = dtype, stored.shape
        order, steps = ORDERS[layout]
        if stored.ndim == 2:  # class indices have no axis of classes
            order, steps = tuple(a // 2 for a in order if a != 1), (steps[0], steps[2])
        elif stored.ndim == 1:
            order, steps = (0,), (1,)
        strides, size = [0] * stored.ndim, 1
        for axis in reversed(order):
            size *= abs(steps[axis])
            strides[axis] = 0 if axis in copies else size * (1 if steps[axis] > 0 else -1)
            size *= 1 if axis in copies else max(1, stored.shape[axis])
        first = sum(-s * (n - 1) for s, n in zip(strides, self.shape, strict=True) if s < 0 and n)
        length = 256 + shift + size * itemsize
        memory = np.full(length + 64, 0x5A, np.uint8)
        skipped = -memory.ctypes.data % 64  # so that `shift` alone says where a line begins
        self.memory = memory[skipped : skipped + length]
        start = 128 + shift + first * itemsize
        self.view = np.ndarray(
            self.shape, stored.dtype, self.memory, start, [s * itemsize for s in strides]
        )
        if self.view.size:
            self.view[...] = stored
        self.before = self.memory.copy()

    @property
    def array(self) -> Any:
        """Return the array as a caller has it: torch's for bfloat16."""
        if self.dtype == "bfloat16":
            return torch.from_numpy(self.view.view(np.int16)).view(torch.bfloat16)
        return self.view

    @property
    def read_only(self) -> Any:
        array = self.array
        if isinstance(array, np.ndarray):
            array = array.view()
            array.flags.writeable = False
        return array

    def values(self):
        return decode(self.view, self.dtype)

    def is_as_before(self):
        return np.array_equal(self.memory, self.before)

    def is_as_before_around(self):
        """Tell whether only the array itself has been written."""
        around = self.memory.copy()
        itemsize = self.view.itemsize
        start = self.view.__array_interface__["data"][0] - self.memory.ctypes.data
        same = np.ndarray(self.shape, self.view.dtype, around, start, self.view.strides)
        if same.size:
            same.view(f"u{itemsize}")[...] = np.iinfo(f"u{itemsize}").max
        return np.array_equal(around, self.before)


def empty_like(shape, dtype, layout="plain", **options):
    """Return an array that is NaN, with every bit set, wherever nothing is written."""
    placed = Placed(np.zeros(shape), dtype, layout, **options)
    if placed.view.size:
        unsigned = f"u{placed.view.itemsize}"
        placed.view.view(unsigned)[...] = np.iinfo(unsigned).max
    placed.before = placed.memory.copy()
    return placed


# ---- calls ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def forced(form):
    """Let a form compute all rows that it can; yields a list of the forms that ran."""
    plan, ran = cpu_rows._plan, []

    def watched(*arguments):
        if form == "one by one":
            arguments = (*arguments[:-1], True)
        made = plan(*arguments)
        ran.append(FORM_OF[made.form])
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_rows, "_plan", watched)
        if form in ("along the classes", "across positions"):
            patch.setattr(cpu_rows, "FEW", 1 if form == "along the classes" else 1 << 40)
        plan.cache_clear()
        yield ran
    plan.cache_clear()


@dataclass
class Result:
    """What a call has filled and returned, one entry for a row, in order."""

    sums: cpu_rows.RowSums
    losses: Any
    logsumexp: Any
    mass: Any
    gradient: Any  # as stored, (outer, classes, inner)
    slopes: Any  # in float64, (rows, classes)

    def bits(self):
        """Return everything but the sums, to be compared to the bit."""
        whole = (self.losses, self.logsumexp, self.mass, self.gradient)
        return [None if a is None else a.tobytes() for a in whole]


def call(z, t, *, asks="all", gradient="plain", shift=0, cotangent=None, scale=1.0, **options):
    """Compute rows from placed arrays, and check that nothing but the outputs was written."""
    for name in ("class_weight", "row_weight"):
        if options.get(name) is not None:
            options[name] = np.ascontiguousarray(options[name], dtype=np.float64)
            options[name].flags.writeable = False
    rows = SoftmaxRows(z.read_only, t.read_only, **options)
    assert cpu_rows.refuses(rows) is None
    count = rows.places[0] * rows.places[1]
    outputs = {}
    if asks in ("all", "losses"):
        names = ("losses", "logsumexp", "mass")
        outputs = {name: empty_like((count,), "float64") for name in names}
    if asks in ("all", "gradient"):
        outputs["gradient"] = empty_like(z.shape, z.dtype, gradient, shift=shift)
    sums = cpu_rows.softmax(
        rows,
        cotangent=cotangent,
        scale=scale,
        **{name: placed.array for name, placed in outputs.items()},
    )
    assert z.is_as_before(), "the logits were written"
    assert t.is_as_before(), "the targets were written"
    for name, placed in outputs.items():
        assert placed.is_as_before_around(), f"memory beside {name} was written"
    slopes = outputs.get("gradient")
    return Result(
        sums,
        *(outputs[n].view.copy() if n in outputs else None for n in ("losses", "logsumexp", "mass")),
        None if slopes is None else np.ascontiguousarray(slopes.view),
        None if slopes is None else by_row(slopes.values()),
    )  # fmt: skip


def by_row(values):
    """Return (outer, classes, inner) as (rows, classes)."""
    return np.moveaxis(values, 1, 2).reshape(-1, values.shape[1])


# ---- what is right ----------------------------------------------------------------------------------


@dataclass
class Truth:
    """Rows as pairs of float64 (high, low), or the definition's float64 with low parts of 0."""

    losses: Any
    slopes: Any
    scales: Any  # W·p + t, what the gradient's error is measured by
    hard: Any  # entries that must be right relative to themselves
    low: tuple[Any, Any] = field(default=(0.0, 0.0))


def defined(z, t, **options):
    """Return what the definition says of rows in float64.

    It is right to 4 ulp of float64 (`tests/test_accuracy.py`), which is nothing beside float32.
    """
    temperature, softcap = options.get("temperature", 1.0), options.get("softcap")
    z_loss, smoothing = options.get("z_loss", 0.0), options.get("smoothing", 0.0)
    masses = np.eye(z.shape[1])[t] if t.ndim == 1 else np.asarray(t, dtype=np.float64)
    if smoothing:
        allowed = z > -np.inf
        masses = (1 - smoothing) * masses + smoothing * allowed / allowed.sum(1, keepdims=True)
    if options.get("class_weight") is not None:
        masses = masses * np.asarray(options["class_weight"])
    transform = definition.LogitTransform(temperature, softcap)
    with np.errstate(invalid="ignore", over="ignore"):
        s = definition.softmax(xp, z, transform, masses)
        slopes = definition.softmax_gradient(xp, s, z, masses, transform, z_loss)
        losses = definition.softmax_loss(xp, s, masses, z_loss)
    weight = masses.sum(axis=1, keepdims=True)
    return Truth(
        losses,
        slopes,
        np.abs(weight) * s.probability(xp) + np.abs(masses),
        np.full(z.shape, t.ndim == 1 and not smoothing and softcap is None),
    )


@functools.cache
def _exact(number, z, t, classes):
    case = CASES[number]
    z = np.frombuffer(z).reshape(-1, classes)
    t = np.frombuffer(t).reshape(len(z), -1)
    t = t[:, 0] if t.shape[1] != classes or case.build(np.float64)[1].ndim == 1 else t
    rows = [oracle.softmax_row(*row, **case.options) for row in zip(z, t, strict=True)]
    high, low = [], []
    for kind in (0, 1):
        values = [r[kind] if kind else [r[kind]] for r in rows]
        tops = np.array([[float(v) for v in row] for row in values])
        rests = [
            [
                float(v - oracle.exact(a)) if np.isfinite(a) else 0.0
                for v, a in zip(row, top, strict=True)
            ]
            for row, top in zip(values, tops, strict=True)
        ]
        high.append(tops if kind else tops[:, 0])
        low.append(np.array(rests) if kind else np.array(rests)[:, 0])
    p, masses = (np.array([[float(v) for v in r[part]] for r in rows]) for part in (2, 3))
    weight = masses.sum(axis=1, keepdims=True)
    hard = (t.ndim == 1) & ((masses == 0) | (masses == weight))
    hard &= ("softcap" not in case.options) & (np.abs(high[1]) > SMALLEST)
    scales = np.maximum(weight * p + masses, np.abs(high[1]))
    return Truth(high[0], high[1], scales, hard, (low[0], low[1]))


def exact(case, z, t):
    """Return the oracle's rows for the numbers that the arrays hold."""
    return _exact(
        CASES.index(case), z.tobytes(), np.asarray(t, dtype=np.float64).tobytes(), z.shape[1]
    )


def error_of_losses(losses, truth, dtype):
    """Return the worst error of losses in ulp of the dtype that they are computed for."""
    wide = np.float64 if dtype == "float64" else np.float32
    same = (losses == truth.losses) & ~np.isfinite(truth.losses)
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs((losses - truth.losses) - truth.low[0])
        unit = np.spacing(np.abs(truth.losses).astype(wide)).astype(np.float64)
        ulps = np.where(same, 0.0, error / unit)
    return np.max(np.where(np.isnan(ulps), np.inf, ulps), initial=0.0)


def excess_of_slopes(slopes, truth, dtype, weight):
    """Return the worst error of a gradient in units of what it may be."""
    w = np.broadcast_to(np.abs(weight), len(slopes))[:, None]
    target = truth.slopes * np.broadcast_to(weight, len(slopes))[:, None]
    relative = TINY64 if dtype == "float64" else GRADIENT
    half, least = HALF_SPACING[dtype]
    rounding = half * np.abs(target) * (1.0 + 2.0**-8) + least
    error = np.abs((slopes - target) - np.broadcast_to(weight, len(slopes))[:, None] * truth.low[1])
    scale = np.maximum(w * truth.scales, np.abs(target))
    bounds = relative * np.where(truth.hard, np.abs(target), scale) + w * SMALLEST + SMALLEST
    excess = error / (bounds + rounding)
    return np.max(np.where(np.isnan(excess), np.inf, excess), initial=0.0)


def assert_right(result, truth, dtype, weight=1.0, ulps=LOSS_ULPS):
    """Compare a result with the truth within the declared bounds."""
    if result.losses is not None:
        assert error_of_losses(result.losses, truth, dtype) <= ulps
    if result.slopes is not None:
        assert excess_of_slopes(result.slopes, truth, dtype, weight) <= 1.0
