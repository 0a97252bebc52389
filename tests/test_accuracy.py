"""Every loss and measure against arithmetic of 600 bits, on every array library and dtype."""

from __future__ import annotations

import functools

import mpmath as mp
import numpy as np
import oracle
import pytest
from libraries import EVERY, NAMES, to_numpy

import xent
from xent.losses.cases import (
    CASES,
    GRADIENT,
    LOSS_ULPS,
    SMALLEST,
)

every_library = pytest.mark.parametrize(("library", "dtype"), EVERY, ids=NAMES)
every_case = pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])


@functools.cache
def _exact_rows(case_number, logits, targets):
    case = CASES[case_number]
    z = np.frombuffer(logits).reshape(-1, case.build(np.float64)[0].shape[1])
    t = np.frombuffer(targets).reshape(len(z), -1)
    t = t[:, 0] if case.build(np.float64)[1].ndim == 1 else t
    return [oracle.softmax_row(*row, **case.options) for row in zip(z, t, strict=True)]


def exact_rows(case, z, t):
    """Return the oracle's rows; libraries that round alike share them."""
    return _exact_rows(CASES.index(case), z.tobytes(), t.astype(np.float64).tobytes())


def result_dtype(dtype):
    return np.float64 if dtype == "float64" else np.float32


def rows_of(case, library, dtype):
    """Return the case's arrays in the library, and the numbers that they then hold."""
    logits, targets = case.build(np.float16 if dtype == "float16" else np.float64)
    z, t = library.make(logits, dtype), library.make(targets)
    return z, t, to_numpy(z).astype(np.float64), to_numpy(t)


def assert_close_rows(values, truths, dtype, ulps, smallest=0.0):
    for row, (value, truth) in enumerate(zip(values, truths, strict=True)):
        error = oracle.ulps(value, truth, result_dtype(dtype))
        near = smallest and abs(mp.mpf(float(value)) - truth) <= smallest
        assert error <= ulps or near, f"row {row}: {value!r} for {mp.nstr(truth, 20)}: {error} ulp"


@every_case
@every_library
def test_softmax_cross_entropy_is_right_to_four_ulp(library, dtype, case):
    with library.context():
        z, t, exact_z, exact_t = rows_of(case, library, dtype)
        got = to_numpy(xent.softmax_cross_entropy(z, t, reduction="none", **case.options))
    assert got.dtype == result_dtype(dtype)
    truths = [row[0] for row in exact_rows(case, exact_z, exact_t)]
    smallest = SMALLEST * exact_z.shape[1] if library.flushes else 0.0
    assert_close_rows(got, truths, dtype, LOSS_ULPS, smallest)


@every_case
@every_library
def test_softmax_gradient_is_right_within_its_bound(library, dtype, case):
    generator = np.random.default_rng(7)
    with library.context():
        z, t, exact_z, exact_t = rows_of(case, library, dtype)
        cotangent = generator.uniform(0.5, 2.0, len(exact_z))
        weight = library.make(cotangent, "float32")
        _, gradient = xent.softmax_cross_entropy_value_and_grad(
            z, t, reduction="sum", row_weight=weight, **case.options
        )
        gradient = to_numpy(gradient).astype(np.float64)
    weights = cotangent.astype(np.float32).astype(np.float64)
    exact = exact_rows(case, exact_z, exact_t)
    for row, (w, (_, truth, p, masses)) in enumerate(zip(weights, exact, strict=True)):
        weight = sum(masses)
        for j, (g, t_j) in enumerate(zip(gradient[row], truth, strict=True)):
            entry, note = (
                w * t_j,
                f"row {row}, class {j}: {gradient[row, j]!r} for {mp.nstr(w * t_j, 20)}",
            )
            error = abs(mp.mpf(float(g)) - entry)
            # z-loss and temperature scale the entry itself beyond p + t.
            scale = max(w * (weight * p[j] + masses[j]), abs(entry))
            lost = w * SMALLEST * (len(p) if library.flushes else 1)
            assert error <= GRADIENT * scale + lost, note
            hard = t.ndim == 1 and masses[j] in (0, weight)
            if hard and "softcap" not in case.options and abs(t_j) > SMALLEST:
                assert error <= GRADIENT * abs(entry) + lost, note
