"""The inputs that every implementation must get right, and how right: one list for all readers.

Tests compare each case with arithmetic of higher precision, benchmarks report errors on it, and
tuning may use its shapes. A case is plain data: call `build` with a dtype to get its arrays.

Declared bounds, with ε the spacing of float32 at 1 and "ulp" a unit in the last place of the
result's dtype:

* loss of a row: within `LOSS_ULPS` ulp, or `SMALLEST` for each class where the arithmetic
  flushes subnormal numbers to zero (JAX on a CPU).
* gradient entry: |Δ| ≤ `GRADIENT`·w·(p + t) + `SMALLEST`; and, for hard targets off the softcap,
  relative to the entry itself `GRADIENT` while it is a normal number. Flushing adds
  `SMALLEST`·w for each class to either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

__all__ = [
    "CASES",
    "GRADIENT",
    "LOSS_ULPS",
    "SHAPES",
    "SMALLEST",
    "Case",
    "FloatArray",
    "Shape",
]

LOSS_ULPS = 4.0
GRADIENT = 1e-6
SMALLEST = 2.0**-126
ROWS = 48

FloatArray = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Case:
    """Logits, targets and options of one call of `softmax_cross_entropy`.

    Attributes
    ----------
    name
        What is hard about it.
    logits
        Makes the logits (rows, classes) in float64 from a seeded generator; they are then
        rounded to the dtype under test, and the rounded numbers are the case.
    targets
        Class indices or masses, made from the generator and the logits.
    options
        Keyword arguments of the call.
    """

    name: str
    logits: Callable[[np.random.Generator], FloatArray]
    targets: Callable[[np.random.Generator, FloatArray], FloatArray]
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, dtype: Any = np.float32) -> tuple[FloatArray, FloatArray]:
        """Return logits in `dtype` and targets (soft ones in `dtype`'s wide companion)."""
        generator = np.random.default_rng(sum(map(ord, self.name)))
        with np.errstate(over="ignore"):
            logits = np.asarray(self.logits(generator), dtype=np.float64)
            if np.dtype(dtype) == np.float16:  # the only one that cannot hold all of them
                logits = np.where(np.isfinite(logits), np.clip(logits, -2e4, 2e4), logits)
            logits = logits.astype(dtype)
        return logits, self.targets(generator, logits)


def _normal(rows: int, classes: int, scale: float = 3.0, offset: float = 0.0) -> Any:
    return lambda g: offset + scale * g.standard_normal((rows, classes))


def _any_class(g: np.random.Generator, z: FloatArray) -> FloatArray:
    return g.integers(0, z.shape[1], z.shape[0])


def _likeliest(_: np.random.Generator, z: FloatArray) -> FloatArray:
    return np.argmax(z, axis=1)


def _least_likely_allowed(_: np.random.Generator, z: FloatArray) -> FloatArray:
    return np.argmin(np.where(np.isfinite(z), z, np.inf), axis=1)


def _soft(g: np.random.Generator, z: FloatArray) -> FloatArray:
    t = g.dirichlet(np.full(z.shape[1], 0.3), z.shape[0])
    t = np.where(np.isfinite(z), t, 0.0)
    t[:, 0] = 0.0
    return np.asarray(t / t.sum(axis=1, keepdims=True))


def _gaps(_: np.random.Generator) -> FloatArray:
    gaps = np.linspace(0.0, 90.0, ROWS)
    return np.stack([np.zeros_like(gaps), -gaps], axis=1)


def _confident(g: np.random.Generator) -> FloatArray:
    z = g.standard_normal((ROWS, 10))
    z[:, 3] += np.linspace(0.0, 94.0, ROWS)
    return z


def _masked(g: np.random.Generator) -> FloatArray:
    z = 3.0 * g.standard_normal((ROWS, 10))
    z[:, 1:9:3] = -np.inf
    return z


def _extreme(_: np.random.Generator) -> FloatArray:
    z = np.full((ROWS, 10), -np.inf)
    z[0::3, :3] = [1e30, -1e30, 0.0]
    z[1::3, :3] = [1e-40, 0.0, -1e-40]
    z[2::3, :3] = -1e30
    return z


def _offset(offset: float, step: float) -> Any:
    return lambda g: offset + step * np.round(2.0 * g.standard_normal((ROWS, 10)))


def _class(number: int) -> Any:
    return lambda g, z: np.full(z.shape[0], number)


_WEIGHTS = [0.3, 1.0, 2.5, 0.0, 7.0, 1.5, 1.0, 1.0, 0.1, 40.0]

CASES = [
    Case("ordinary rows", _normal(ROWS, 10), _any_class),
    Case("a thousand classes", _normal(8, 1000), _any_class),
    Case("one class", _normal(ROWS, 1), _any_class),
    Case("two equal logits", lambda _: np.full((ROWS, 2), 2.0**24), _any_class),
    Case("common offset 2^26", _offset(2.0**26, 8.0), _any_class),
    Case(
        "common offset 2^26, temperature", _offset(2.0**26, 8.0), _any_class, {"temperature": 7.3}
    ),
    Case("negative offset 2^26", _offset(-(2.0**26), 8.0), _likeliest, {"temperature": 0.9}),
    Case("gaps to 90, right", _gaps, _likeliest),
    Case("gaps to 90, wrong", _gaps, _least_likely_allowed),
    Case("confident and right", _confident, _class(3)),
    Case("confident and wrong", _confident, _class(5)),
    Case("confident, offset", lambda g: _confident(g) + 1000.0, _likeliest),
    Case("confident, low temperature", _confident, _likeliest, {"temperature": 0.7}),
    Case("high temperature", _confident, _likeliest, {"temperature": 13.7}),
    Case("masked classes", _masked, _least_likely_allowed),
    Case("masked classes, smoothing", _masked, _least_likely_allowed, {"label_smoothing": 0.1}),
    Case("masked target", _masked, _class(1)),
    Case("extreme logits", _extreme, lambda g, z: np.arange(ROWS) % 3),
    Case("smoothing", _normal(ROWS, 10), _any_class, {"label_smoothing": 0.1}),
    Case("smoothing, confident", _confident, _likeliest, {"label_smoothing": 0.05}),
    Case("z-loss", _normal(ROWS, 10, offset=5.0), _any_class, {"z_loss": 1e-3}),
    Case("softcap", _normal(ROWS, 10, scale=40.0), _any_class, {"softcap": 30.0}),
    Case(
        "softcap, temperature",
        _normal(ROWS, 10, 40.0),
        _any_class,
        {"softcap": 20.0, "temperature": 0.6},
    ),
    Case(
        "class weights",
        _normal(ROWS, 10),
        _any_class,
        {"class_weight": _WEIGHTS},
    ),
    Case(
        "z-loss, class weights",
        _normal(ROWS, 10),
        _any_class,
        {"z_loss": 1e-2, "class_weight": _WEIGHTS, "label_smoothing": 0.1},
    ),
    Case("wide softcap", _normal(ROWS, 10, scale=20.0), _any_class, {"softcap": 300.0}),
    Case("soft targets", _normal(ROWS, 10), _soft),
    Case("soft targets, masked classes", _masked, _soft),
    Case("soft targets, wide gaps", _confident, _soft, {"temperature": 1.7}),
]
"""The cases, small enough for arithmetic in hundreds of bits."""


@dataclass(frozen=True)
class Shape:
    """What a program in earnest gives to a loss: a shape to be fast on.

    Attributes
    ----------
    name
        What it is an example of.
    shape
        Of the logits: (N, C) or (N, C, d1, …).
    dtype
        Of the logits, and of soft targets.
    soft
        Whether the targets are probabilities rather than class indices.
    label_smoothing
        As the losses take it.
    class_weight
        Whether each class has a weight of its own.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    soft: bool = False
    label_smoothing: float = 0.0
    class_weight: bool = False

    @property
    def plain(self) -> bool:
        """Tell whether it is float32 logits and class indices, and no option."""
        return self == Shape(self.name, self.shape)

    @property
    def tiny(self) -> bool:
        """Tell whether the call costs more than what it computes."""
        return bool(np.prod(self.shape) < 4096)

    @property
    def rows(self) -> int:
        """Return how many rows there are."""
        return int(np.prod(self.shape[:1] + self.shape[2:]))

    def __str__(self) -> str:
        size = " × ".join(map(str, self.shape))
        said = [size, self.dtype, "probabilities" if self.soft else "class indices"]
        said += [f"smoothing {self.label_smoothing:g}"] * bool(self.label_smoothing)
        return ", ".join([*said, *["class weights"] * self.class_weight])

    def reduced(self) -> Shape:
        """Return a shape of the same kind that takes no time."""
        most = (16, 1500) if len(self.shape) == 2 else (2, 30, 12, 12)
        return replace(self, shape=tuple(map(min, self.shape, most)))


SHAPES = [
    Shape("llm-32000", (4096, 32000)),
    Shape("llm-128256", (1024, 128256)),
    Shape("llm-50257", (256, 50257)),
    Shape("imagenet", (65536, 1000)),
    Shape("segmentation", (8, 21, 512, 512)),
    Shape("small-classes", (1048576, 10)),
    Shape("tiny-64x10", (64, 10)),
    Shape("tiny-1x2", (1, 2)),
    Shape("smoothing", (65536, 1000), label_smoothing=0.1),
    Shape("class-weights", (65536, 1000), class_weight=True),
    Shape("soft-4096", (4096, 1000), soft=True),
    Shape("soft-65536", (65536, 1000), soft=True),
    Shape("bf16-llm-32000", (4096, 32000), "bfloat16"),
    Shape("bf16-imagenet", (65536, 1000), "bfloat16"),
]
"""The shapes that speed is measured on."""
