"""The worst error of every public function on every array library and dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mpmath as mp
import numpy as np

import xent
from benchmarks.errors import Measurement, Worst, excused
from benchmarks.proof import libraries, losses, measures, oracle
from benchmarks.results import show_progress
from xent.losses.cases import CASES, GRADIENT, LOSS_ULPS, SMALLEST

__all__ = ["MEASURED", "measure", "measure_all"]

to_numpy = libraries.to_numpy
exact = oracle.exact

ROWS, CLASSES = 48, 10  # the shape of most cases: JAX compiles each shape anew


def _smallest(library: Any, classes: int) -> float:
    """Return what flushing subnormals to zero may cost one number."""
    return SMALLEST * classes if library.flushes else 0.0


# ---- softmax: the cases of xent.losses.cases ---------------------------------------------------


def softmax_loss_and_gradient(library: Any, dtype: str) -> Iterator[Measurement]:
    """Measure the loss and its gradient on every case."""
    plain, capped = Worst("ulp"), Worst("ulp")
    by_scale, by_entry = Worst("of bound"), Worst("relative")
    for case in CASES:
        z, t, exact_z, exact_t = losses.rows_of(case, library, dtype)
        value, gradient = xent.softmax_cross_entropy_value_and_grad(
            z, t, reduction="none", **case.options
        )
        rows = losses.exact_rows(case, exact_z, exact_t)
        (capped if "softcap" in case.options else plain).note_ulps(
            to_numpy(value),
            [row[0] for row in rows],
            dtype,
            bound=LOSS_ULPS,
            where=case.name,
            smallest=_smallest(library, exact_z.shape[1]),
        )
        _gradient(by_scale, by_entry, case, to_numpy(gradient), rows, exact_t, library)
    name = "softmax_cross_entropy"
    for worst, quantity in (
        (plain, "loss"),
        (capped, "loss under a softcap"),
        (by_scale, "gradient"),
        (by_entry, "gradient, hard targets"),
    ):
        yield worst.measurement(name, quantity, library.name, dtype)


def _gradient(
    by_scale: Worst,
    by_entry: Worst,
    case: Any,
    gradient: Any,
    rows: Any,
    targets: Any,
    library: Any,
) -> None:
    """Compare gradients in the two ways of `xent.losses.cases`."""
    for got, (_, truth, p, masses) in zip(gradient, rows, strict=True):
        weight = mp.fsum(masses)
        lost = SMALLEST * (len(p) if library.flushes else 1)
        # z-loss and temperature scale the entry itself beyond p + t.
        scales = [max(weight * a + m, abs(g)) for a, m, g in zip(p, masses, truth, strict=True)]
        by_scale.note_scaled(got, truth, [GRADIENT * s + lost for s in scales], case.name)
        if targets.ndim > 1 or "softcap" in case.options:
            continue
        for value, entry, mass in zip(got, truth, masses, strict=True):
            if mass in (0, weight) and abs(entry) > SMALLEST:
                error = abs(mp.mpf(float(value)) - entry)
                by_entry.note(max(0, error - lost) / abs(entry), GRADIENT, case.name)


def softmax_product(library: Any, dtype: str) -> Iterator[Measurement]:
    """Measure the Hessian's product with a vector on the cases without softcap and z-loss."""
    worst = Worst("of bound")
    for case in CASES:
        if {"softcap", "z_loss"} & set(case.options):
            continue
        z, t, exact_z, exact_t = losses.rows_of(case, library, dtype)
        drawn = np.random.default_rng(5).standard_normal(exact_z.shape).astype(np.float32)
        product = xent.softmax_cross_entropy_hessian_vector_product(
            z, t, library.make(drawn), reduction="none", **case.options
        )
        temperature = exact(case.options.get("temperature", 1.0))
        rows = losses.exact_rows(case, exact_z, exact_t)
        for got, v, (_, _, p, masses) in zip(to_numpy(product), drawn, rows, strict=True):
            weight = mp.fsum(masses)
            u = [exact(a) / temperature for a in v]
            mean = mp.fdot(p, u)
            size = mp.fdot(p, map(abs, u))
            lost = SMALLEST * (len(p) if library.flushes else 1)
            truth = [weight * a * (b - mean) / temperature for a, b in zip(p, u, strict=True)]
            allowed = [
                GRADIENT * weight * a * (abs(b) + size) / temperature + lost
                for a, b in zip(p, u, strict=True)
            ]
            worst.note_scaled(got, truth, allowed, case.name)
    name = "softmax_cross_entropy_hessian_vector_product"
    yield worst.measurement(name, "product", library.name, dtype)


def softmax_statistics(library: Any, dtype: str) -> Iterator[Measurement]:
    """Measure the statistics of the rows of every case that a temperature at most is applied to."""
    nll, lse, entropy = (Worst("ulp") for _ in range(3))
    for case in CASES:
        if set(case.options) - {"temperature"}:
            continue
        z, t, exact_z, exact_t = losses.rows_of(case, library, dtype)
        got = xent.softmax_statistics(z, t, **case.options)
        rows = losses.exact_rows(case, exact_z, exact_t)
        smallest = _smallest(library, exact_z.shape[1])
        temperature = exact(case.options.get("temperature", 1.0))
        tops = [exact(max(row)) / temperature for row in exact_z]
        chances = [[a for a in row[2] if a] for row in rows]
        # A flushed probability is lost with its logarithm.
        lost = smallest * (1.0 + max(-float(mp.log(min(p))) for p in chances))
        # log Σ exp(z) = m + log Σ exp(z − m), which may cancel: the larger of the two sets the ulp.
        sums = [-mp.log(max(p)) for p in chances]
        entropies = [-mp.fsum(a * mp.log(a) for a in p) for p in chances]
        nll.note_ulps(
            to_numpy(got.nll), [r[0] for r in rows], dtype,
            bound=LOSS_ULPS, where=case.name, smallest=smallest,
        )  # fmt: skip
        entropy.note_ulps(
            to_numpy(got.entropy), entropies, dtype,
            bound=LOSS_ULPS, where=case.name, smallest=lost,
        )  # fmt: skip
        result = losses.result_dtype(dtype)
        for value, top, rest in zip(to_numpy(got.logsumexp), tops, sums, strict=True):
            unit = mp.mpf(float(np.spacing(result(max(abs(float(top)), float(rest))))))
            error = abs(mp.mpf(float(value)) - top - rest)
            flushed = excused(value, top + rest, float(error / unit), LOSS_ULPS, smallest)
            lse.flushed += flushed
            lse.note(0.0 if flushed else error / unit, LOSS_ULPS, case.name)
    for worst, quantity in ((nll, "nll"), (lse, "logsumexp"), (entropy, "entropy")):
        yield worst.measurement("softmax_statistics", quantity, library.name, dtype)


# ---- sigmoid -----------------------------------------------------------------------------------


def _entries() -> tuple[Any, Any]:
    """Return logits, dense about 0 and out to certainty, and targets of every kind."""
    ladder = [s * 10.0**-k for k in range(1, 9) for s in (1.0, -1.0)]
    z = [-np.inf, np.inf, 0.0, -0.0, 1e3, -1e3, 3e4, -3e4, *ladder]
    z = np.concatenate([z, np.linspace(-110.0, 110.0, 220), np.linspace(-3.0, 3.0, 240)])
    kinds = np.array([0.0, 1.0, 0.25, 0.0, 1.0, 1e-6, 0.999])
    return z, kinds[np.arange(len(z)) % len(kinds)]


ENTRY_OPTIONS = {
    "plain": {},
    "pos_weight, smoothing": {"pos_weight": 2.5, "label_smoothing": 0.1},
}


def sigmoid(library: Any, dtype: str) -> Iterator[Measurement]:
    """Measure loss, gradient and Hessian's product of entries."""
    loss, gradient, product = Worst("ulp"), Worst("of bound"), Worst("of bound")
    z, t = _entries()
    z, t = library.make(z, dtype), library.make(t)
    exact_z, exact_t = to_numpy(z).astype(np.float64), to_numpy(t)
    lost = SMALLEST * (2 if library.flushes else 1)
    for where, options in ENTRY_OPTIONS.items():
        value, slope = xent.sigmoid_cross_entropy_value_and_grad(z, t, reduction="none", **options)
        curved = xent.sigmoid_cross_entropy_hessian_vector_product(
            z, t, library.make(np.full(len(exact_z), 3.0)), reduction="none", **options
        )
        truths = [
            oracle.sigmoid_entry(a, b, **options) for a, b in zip(exact_z, exact_t, strict=True)
        ]
        loss.note_ulps(
            to_numpy(value), [a[0] for a in truths], dtype,
            bound=LOSS_ULPS, where=where, smallest=_smallest(library, 2),
        )  # fmt: skip
        parts = [_pulls(a, b, **options) for a, b in zip(exact_z, exact_t, strict=True)]
        gradient.note_scaled(
            to_numpy(slope),
            [a[1] for a in truths],
            [GRADIENT * (up + down) + lost for up, down, _ in parts],
            where,
        )
        bends = [3 * bend for *_, bend in parts]
        allowed = [GRADIENT * bend + 3 * lost for bend in bends]
        product.note_scaled(to_numpy(curved), bends, allowed, where)
    name = "sigmoid_cross_entropy"
    yield loss.measurement(name, "loss", library.name, dtype)
    yield gradient.measurement(name, "gradient", library.name, dtype)
    yield product.measurement(f"{name}_hessian_vector_product", "product", library.name, dtype)


def _pulls(
    z: float, t: float, pos_weight: float = 1.0, label_smoothing: float = 0.0
) -> tuple[Any, Any, Any]:
    """Return the two parts no·σ(z) and yes·σ(−z) of a gradient, and the second derivative."""
    e = exact(label_smoothing)
    yes = (exact(t) * (1 - e) + e / 2) * exact(pos_weight)
    no = (1 - exact(t)) * (1 - e) + e / 2
    up, down = 1 / (1 + mp.exp(-exact(z))), 1 / (1 + mp.exp(exact(z)))
    return no * up, yes * down, (yes + no) * up * down


# ---- probabilities -----------------------------------------------------------------------------


def _chances() -> tuple[Any, Any, Any]:
    """Return distributions with zeros and tiny masses, hard targets and soft ones."""
    g = np.random.default_rng(12)
    a = np.concatenate([g.dirichlet(np.full(CLASSES, s), ROWS // 3) for s in (0.1, 1.0, 10.0)])
    a = np.where(a < 1e-30, 0.0, a)
    soft = np.where(a > 0, g.dirichlet(np.full(CLASSES, 0.3), ROWS), 0.0)
    soft[:, 0] = 0.0
    return a, g.integers(0, CLASSES, ROWS), soft / soft.sum(axis=1, keepdims=True)


def from_probabilities(library: Any, dtype: str) -> Iterator[Measurement]:
    """Measure the losses that take probabilities or their logarithms."""
    a, hard, soft = _chances()
    with np.errstate(divide="ignore"):
        logs = library.make(np.log(a), dtype)
    a = library.make(a, dtype)
    exact_a, exact_logs = (to_numpy(x).astype(np.float64) for x in (a, logs))
    smallest = _smallest(library, CLASSES)
    crossed, liked, squared = (Worst("ulp") for _ in range(3))
    for where, given in (("hard targets", hard), ("soft targets", soft)):
        t = library.make(given)
        masses = to_numpy(t) if where == "soft targets" else np.eye(CLASSES)[hard]
        got = xent.categorical_cross_entropy(a, t, reduction="none")
        truths = [oracle.cross_entropy(*row) for row in zip(masses, exact_a, strict=True)]
        how = {"bound": LOSS_ULPS, "where": where, "smallest": smallest}
        crossed.note_ulps(to_numpy(got), truths, dtype, **how)
        got = xent.nll(logs, t, reduction="none")
        truths = [
            -mp.fsum(exact(m) * exact(x) for m, x in zip(ms, row, strict=True) if m)
            for ms, row in zip(masses, exact_logs, strict=True)
        ]
        liked.note_ulps(to_numpy(got), truths, dtype, **how)
        got = xent.squared_error(a, t, reduction="none")
        truths = [
            mp.fsum((exact(x) - exact(m)) ** 2 for m, x in zip(ms, row, strict=True))
            for ms, row in zip(masses, exact_a, strict=True)
        ]
        squared.note_ulps(to_numpy(got), truths, dtype, **how)
    yield crossed.measurement("categorical_cross_entropy", "loss", library.name, dtype)
    yield liked.measurement("nll", "loss", library.name, dtype)
    yield squared.measurement("squared_error", "loss", library.name, dtype)


def binary(library: Any, dtype: str) -> Iterator[Measurement]:
    """Measure the binary loss of probabilities."""
    tiny = [10.0**-k for k in range(1, 31)]
    a = np.concatenate([[0.0, 1.0], tiny, 1.0 - np.array(tiny), np.linspace(0.001, 0.999, 418)])
    t = _entries()[1][: len(a)]
    a, t = library.make(a, dtype), library.make(t)
    got = to_numpy(xent.binary_cross_entropy(a, t, reduction="none"))
    pairs = zip(to_numpy(a).astype(np.float64), to_numpy(t), strict=True)
    truths = [
        -oracle.xlogy(exact(y), exact(x)) - oracle.xlogy(1 - exact(y), 1 - exact(x))
        for x, y in pairs
    ]
    worst = Worst("ulp")
    worst.note_ulps(
        got, truths, dtype, bound=LOSS_ULPS, where="entries", smallest=_smallest(library, 2)
    )
    yield worst.measurement("binary_cross_entropy", "loss", library.name, dtype)


def squared_error_of_logits(library: Any, dtype: str) -> Iterator[Measurement]:
    """Measure the squared error of softmax probabilities and its gradient."""
    value_worst, gradient_worst = Worst("of bound"), Worst("of bound")
    for case in CASES:
        if case.options:
            continue
        z, t, exact_z, exact_t = losses.rows_of(case, library, dtype)
        got = xent.squared_error_value_and_grad(z, t, reduction="none")
        values, gradients = map(to_numpy, got)
        rows = losses.exact_rows(case, exact_z, exact_t)
        for value, gradient, (_, _, p, masses) in zip(values, gradients, rows, strict=True):
            gaps = [a - m for a, m in zip(p, masses, strict=True)]
            sizes = [a + m for a, m in zip(p, masses, strict=True)]
            lost = 8.0 * SMALLEST * (len(p) if library.flushes else 1)
            allowed = 2 * GRADIENT * mp.fdot(map(abs, gaps), sizes) + lost
            value_worst.note_scaled([value], [mp.fdot(gaps, gaps)], [allowed], case.name)
            mean, mean_size = mp.fdot(p, gaps), mp.fdot(p, sizes)
            gradient_worst.note_scaled(
                gradient,
                [2 * a * (d - mean) for a, d in zip(p, gaps, strict=True)],
                [2 * GRADIENT * a * (s + mean_size) + lost for a, s in zip(p, sizes, strict=True)],
                case.name,
            )
    name = "squared_error_value_and_grad"
    yield value_worst.measurement(name, "value", library.name, dtype)
    yield gradient_worst.measurement(name, "gradient", library.name, dtype)


# ---- measures of distributions -----------------------------------------------------------------


def information(library: Any, dtype: str) -> Iterator[Measurement]:
    """Measure the measures of one and of two distributions."""
    p, q, exact_p, exact_q = measures.made(library, dtype, measures.P, measures.Q)

    def in_ulps(name: str, got: Any, truths: Any) -> Measurement:
        worst = Worst("ulp")
        worst.note_ulps(
            to_numpy(got).ravel(), truths, dtype, bound=measures.ULPS, where="distributions"
        )
        return worst.measurement(name, "value", library.name, dtype)

    symbols = [-mp.log(exact(a)) if a else oracle.INF for a in exact_p.ravel()]
    yield in_ulps("surprisal", xent.surprisal(p), symbols)
    yield in_ulps("entropy", xent.entropy(p), measures.truths("entropy", exact_p))
    crossed = measures.truths("cross_entropy", exact_p, exact_q)
    yield in_ulps("cross_entropy", xent.cross_entropy(p, q), crossed)
    shared = [min(mp.log(2), d) for d in measures.truths("js_divergence", exact_p, exact_q)]
    yield in_ulps("js_divergence", xent.js_divergence(p, q), shared)

    worst = Worst("ulp")
    largest = np.finfo(losses.result_dtype(dtype)).max
    for got, nats in (
        (xent.perplexity(p), measures.truths("entropy", exact_p)),
        (xent.perplexity(p, q), crossed),
    ):
        for value, h in zip(to_numpy(got), nats, strict=True):
            truth = mp.exp(h) if mp.isfinite(h) else h
            truth = oracle.INF if truth > largest else truth
            most = measures.ULPS + (float(h) if mp.isfinite(h) else 0.0)
            worst.note(oracle.ulps(value, truth, losses.result_dtype(dtype)), most, "distributions")
    yield worst.measurement("perplexity", "value", library.name, dtype)


def divergence(library: Any, dtype: str) -> Iterator[Measurement]:
    """Measure the Kullback–Leibler divergence, of nearly equal distributions too."""
    worst = Worst("of bound")
    for where, pair in (
        ("mixed", (measures.P, measures.Q)),
        ("nearly equal", measures.near_equal(dtype)),
    ):
        p, q, exact_p, exact_q = measures.made(library, dtype, *pair)
        truths = [max(mp.mpf(0), d) for d in measures.truths("kl_divergence", exact_p, exact_q)]
        scales = [measures._divergence_scale(*row) for row in zip(exact_p, exact_q, strict=True)]
        allowed = measures.allowed_errors(scales, dtype)
        worst.note_scaled(to_numpy(xent.kl_divergence(p, q)), truths, allowed, where)
    yield worst.measurement("kl_divergence", "value", library.name, dtype)


def joint_measures(library: Any, dtype: str) -> Iterator[Measurement]:
    """Measure the measures of joint distributions."""
    joint, exact_joint = measures.made(library, dtype, measures.JOINT)
    worst = Worst("ulp")
    truths = measures.truths("conditional_entropy", exact_joint)
    got = to_numpy(xent.conditional_entropy(joint))
    worst.note_ulps(got, truths, dtype, bound=measures.ULPS, where="distributions")
    yield worst.measurement("conditional_entropy", "value", library.name, dtype)

    worst = Worst("of bound")
    truths = [max(mp.mpf(0), i) for i in measures.truths("mutual_information", exact_joint)]
    product = exact_joint.sum(axis=2, keepdims=True) * exact_joint.sum(axis=1, keepdims=True)
    apart = np.abs(exact_joint - product).sum(axis=(1, 2))
    sums = exact_joint.sum(axis=(1, 2))
    wide = np.finfo(np.float32 if library.accumulates_in == "float32" else np.float64)
    in_ulp = measures.allowed_errors(
        np.array(truths, dtype=float) + np.abs(sums * (1 - sums)), dtype
    )
    allowed = [u + 2 * float(wide.eps) * float(a) for u, a in zip(in_ulp, apart, strict=True)]
    worst.note_scaled(
        to_numpy(xent.mutual_information(joint)), truths, allowed, "joint distributions"
    )
    yield worst.measurement("mutual_information", "value", library.name, dtype)


MEASURED: tuple[Callable[[Any, str], Iterator[Measurement]], ...] = (
    softmax_loss_and_gradient,
    softmax_product,
    softmax_statistics,
    sigmoid,
    from_probabilities,
    binary,
    squared_error_of_logits,
    information,
    divergence,
    joint_measures,
)


def measure(
    measured: Callable[[Any, str], Iterator[Measurement]], library: Any, dtype: str
) -> list[Measurement]:
    """Measure some functions on one array library and dtype."""
    with library.context(), np.errstate(all="ignore"):
        return list(measured(library, dtype))


def measure_all() -> Iterator[Measurement]:
    """Measure every function on every array library and dtype."""
    for library in libraries.LIBRARIES:
        for dtype in library.dtypes:
            for measured in MEASURED:
                show_progress(f"{library.name}, {dtype}: {measured.__name__}")
                yield from measure(measured, library, dtype)
