"""Every loss and measure against arithmetic of 600 bits, on every array library and dtype."""

from __future__ import annotations

import functools

import mpmath as mp
import numpy as np
import oracle
import pytest
from libraries import EVERY, LIBRARIES, NAMES, definition_alone, to_numpy

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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@every_case
def test_the_definition_is_right_on_numpy_without_its_kernels(dtype, case):
    with definition_alone():
        test_softmax_cross_entropy_is_right_to_four_ulp(LIBRARIES[0], dtype, case)
        test_softmax_gradient_is_right_within_its_bound(LIBRARIES[0], dtype, case)


# ---- the other losses ---------------------------------------------------------------------------

ENTRIES = np.concatenate(
    [np.linspace(-90.0, 90.0, 41), [0.0, 1e-4, -1e-4, np.inf, -np.inf, 700.0, -700.0]]
)
TARGETS = np.where(np.arange(48) % 3 == 2, 0.3, np.arange(48) % 3).astype(np.float64)
SIGMOID_OPTIONS = [{}, {"pos_weight": 2.5}, {"label_smoothing": 0.1}]


@pytest.mark.parametrize("options", SIGMOID_OPTIONS, ids=["plain", "pos_weight", "smoothing"])
@every_library
def test_sigmoid_cross_entropy_and_its_gradient_are_right(library, dtype, options):
    with library.context(), np.errstate(over="ignore"):
        z, t = library.make(ENTRIES, dtype), library.make(TARGETS, "float32")
        losses, gradient = xent.sigmoid_cross_entropy_value_and_grad(
            z, t, reduction="none", **options
        )
        losses, gradient = to_numpy(losses), to_numpy(gradient)
        exact_z, exact_t = to_numpy(z).astype(np.float64), to_numpy(t).astype(np.float64)
    exact = [oracle.sigmoid_entry(*row, **options) for row in zip(exact_z, exact_t, strict=True)]
    smallest = 2 * SMALLEST if library.flushes else 0.0
    assert losses.dtype == result_dtype(dtype)
    assert_close_rows(losses, [row[0] for row in exact], dtype, LOSS_ULPS, smallest)
    weight = options.get("pos_weight", 1.0)
    for g, t_, z_, (_, truth) in zip(gradient, exact_t, exact_z, exact, strict=True):
        p = 1 / (1 + mp.exp(-mp.mpf(float(z_)))) if np.isfinite(z_) else mp.mpf(float(z_ > 0))
        # A certain entry has its whole slope; p + t is 0 where both are.
        scale = weight * (p + t_) + options.get("label_smoothing", 0.0)
        assert abs(mp.mpf(float(g)) - truth) <= GRADIENT * max(scale, abs(truth)) + 2 * SMALLEST


PROBABILITIES = np.random.default_rng(4).dirichlet(np.full(10, 0.4), 48)
CLASSES = np.random.default_rng(5).integers(0, 10, 48)
SOFT = np.random.default_rng(6).dirichlet(np.full(10, 0.5), 48)


@pytest.mark.parametrize("targets", [CLASSES, SOFT], ids=["indices", "soft"])
@every_library
def test_losses_from_probabilities_and_their_logarithms_are_right(library, dtype, targets):
    with library.context():
        p, logs = library.make(PROBABILITIES, dtype), library.make(np.log(PROBABILITIES), dtype)
        t = library.make(targets)
        cross = to_numpy(xent.categorical_cross_entropy(p, t, reduction="none"))
        nll = to_numpy(xent.nll(logs, t, reduction="none"))
        error = to_numpy(xent.squared_error(p, t, reduction="none"))
        exact_p, exact_logs, exact_t = (to_numpy(a).astype(np.float64) for a in (p, logs, t))
    masses = np.eye(10)[targets] if targets is CLASSES else exact_t
    smallest = SMALLEST if library.flushes else 0.0
    # JAX without 64-bit holds the soft targets in float32 and flushes tiny probabilities.
    for got, truth in (
        (cross, [oracle.cross_entropy(m, q) for m, q in zip(masses, exact_p, strict=True)]),
        (nll, [mp.fsum(-oracle.exact(a) * oracle.exact(b) if a else 0 for a, b in zip(m, q, strict=True)) for m, q in zip(masses, exact_logs, strict=True)]),
        (error, [mp.fsum((oracle.exact(b) - oracle.exact(a)) ** 2 for a, b in zip(m, q, strict=True)) for m, q in zip(masses, exact_p, strict=True)]),
    ):  # fmt: skip
        assert got.dtype == result_dtype(dtype)
        assert_close_rows(got, truth, dtype, LOSS_ULPS, smallest)


@every_library
def test_binary_cross_entropy_is_right(library, dtype):
    values = np.concatenate(
        [np.linspace(0.0, 1.0, 41), [0.35, 0.4, 0.412, 1e-7, 2.0**-14, 0.9995, 0.26]]
    )
    with library.context():
        p, t = library.make(values, dtype), library.make(TARGETS, "float32")
        got = to_numpy(xent.binary_cross_entropy(p, t, reduction="none"))
        exact_p, exact_t = to_numpy(p).astype(np.float64), to_numpy(t).astype(np.float64)
    truths = []
    for a, b in zip(map(oracle.exact, exact_p), map(oracle.exact, exact_t), strict=True):
        truths.append(-oracle.xlogy(b, a) - oracle.xlogy(1 - b, 1 - a))
    assert_close_rows(got, truths, dtype, LOSS_ULPS)


@every_library
def test_statistics_are_right(library, dtype):
    case = CASES[0]
    with library.context():
        z, t, exact_z, exact_t = rows_of(case, library, dtype)
        got = xent.softmax_statistics(z, t)
        nll, lse, entropy = (to_numpy(a) for a in (got.nll, got.logsumexp, got.entropy))
        argmax, correct = to_numpy(got.argmax), to_numpy(got.correct)
    rows = exact_rows(case, exact_z, exact_t)
    tops = [max(map(oracle.exact, z)) for z in exact_z]
    sums = [top - mp.log(max(row[2])) for top, row in zip(tops, rows, strict=True)]
    assert_close_rows(nll, [row[0] for row in rows], dtype, LOSS_ULPS)
    # log Σ exp can be near 0 while its parts are not: its error is relative to the largest logit.
    for value, truth, top in zip(lse, sums, tops, strict=True):
        unit = np.spacing(np.asarray(max(abs(float(truth)), abs(float(top))), result_dtype(dtype)))
        assert abs(mp.mpf(float(value)) - truth) <= 2 * mp.mpf(float(unit))
    entropies = [-mp.fsum(oracle.xlogy(p, p) for p in row[2]) for row in rows]
    assert_close_rows(entropy, entropies, dtype, LOSS_ULPS)
    np.testing.assert_array_equal(argmax, np.argmax(exact_z, axis=1))
    np.testing.assert_array_equal(correct, argmax == exact_t)
