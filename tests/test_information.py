"""Every measure against arithmetic of 600 bits, on every array library and dtype.

Declared bounds, with ε the spacing of the accumulation dtype at 1 and "ulp" a unit in the last
place of the result in its own dtype:

* surprisal, entropy, cross-entropy, Jensen–Shannon, conditional entropy: 4 ulp;
* perplexity: 4 ulp, and one more for each nat of its logarithm, since exp multiplies its error;
* Kullback–Leibler: 4 ulp of Σ (p·log(p/q) − p + q) + |Σ (p − q)|, which differs from the result
  only where rounded inputs do not sum to the same number;
* mutual information: the same with the product of the marginals for q, and 2ε·Σ |p − p(x)·p(y)|,
  because the marginals are rounded.
"""

from __future__ import annotations

import functools

import mpmath as mp
import numpy as np
import oracle
import pytest
from libraries import EVERY, LIBRARIES, NAMES, to_numpy

import xent

ULPS = 4.0
PER_UNIT = {"nats": mp.mpf(1), "bits": mp.log(2), "bans": mp.log(10)}

every_library = pytest.mark.parametrize(("library", "dtype"), EVERY, ids=NAMES)
# Shapes do not depend on the width of JAX's floats, and JAX compiles each shape anew.
ONE_JAX = [x for x in LIBRARIES if x.name != "jax, 64-bit"]
each_library = pytest.mark.parametrize("library", ONE_JAX, ids=[x.name for x in ONE_JAX])


def result_dtype(dtype):
    return np.float64 if dtype == "float64" else np.float32


# ---- cases ------------------------------------------------------------------------------------


def _distributions(symbols, seed):
    """Return rows from flat to almost certain, with zeros and with masses down to 1e-30."""
    g = np.random.default_rng(seed)
    rows = [g.dirichlet(np.full(symbols, a)) for a in (0.3, 1.0, 10.0) for _ in range(5)]
    for e in (1e-1, 1e-3, 1e-6, 1e-9, 1e-17, 1e-30):
        rows.append([1.0 - e, e] + [0.0] * (symbols - 2))
        rows.append([0.5, 0.5 - e, 0.0, e] + [0.0] * (symbols - 4))
        rows.append([e / (symbols - 1)] * (symbols - 1) + [1.0 - e])
    rows += [[1.0 / symbols] * symbols, np.eye(symbols)[2]]
    rows = np.array(rows)
    return np.where(rows < 1e-30, 0.0, rows)  # some libraries flush what is smaller


P = _distributions(6, 1)
Q = _distributions(6, 2)[np.random.default_rng(3).permutation(len(P))]


def _joints():
    g = np.random.default_rng(4)
    rows = g.dirichlet(np.ones(3), 6)[:, :, None] * g.dirichlet(np.ones(4), 6)[:, None, :]
    nearly = rows * (1.0 + 1e-5 * g.standard_normal(rows.shape))
    nearly /= nearly.sum(axis=(1, 2), keepdims=True)
    tiny = np.zeros((1, 3, 4))
    tiny[0, 0, 0], tiny[0, 1, 1] = 1e-25, 1.0  # the product of its marginals underflows float32
    return np.concatenate([_distributions(12, 5).reshape(-1, 3, 4), rows, nearly, tiny])


JOINT = _joints()


def near_equal(dtype):
    g = np.random.default_rng(6)
    p = g.dirichlet(np.ones(6), len(P))
    q = p * (1.0 + (1e-7 if dtype == "float64" else 1e-3) * g.standard_normal(p.shape))
    return p, q / q.sum(axis=1, keepdims=True)


@functools.cache
def _truths(name, *inputs):
    arrays = [np.frombuffer(data).reshape(shape) for data, shape in inputs]
    return [getattr(oracle, name)(*row) for row in zip(*arrays, strict=True)]


def truths(name, *arrays):
    """Return the oracle's answer for each row; libraries that round alike share it."""
    return _truths(name, *((a.astype(np.float64).tobytes(), a.shape) for a in arrays))


def allowed_errors(scales, dtype, ulps=ULPS):
    """Return `ulps` units in the last place of each scale."""
    sizes = np.array([float(s) for s in scales]).astype(result_dtype(dtype))
    return [ulps * mp.mpf(float(np.spacing(s))) if np.isfinite(s) else 0 for s in sizes]


def assert_within(values, exact, allowed):
    for row, (value, truth, bound) in enumerate(zip(values, exact, allowed, strict=True)):
        if mp.isinf(truth):
            assert value == float(truth), f"row {row}"
            continue
        error = abs(mp.mpf(float(value)) - truth)
        assert error <= bound, (
            f"row {row}: {value!r} for {mp.nstr(truth, 20)}: off by {mp.nstr(error, 3)}, "
            f"allowed {mp.nstr(bound, 3)}"
        )


def assert_accurate(values, exact, dtype, ulps=ULPS):
    values = to_numpy(values)
    assert values.dtype == result_dtype(dtype)
    assert_within(values, exact, allowed_errors(exact, dtype, ulps))


def made(library, dtype, *arrays):
    """Return arrays of the library, then the numbers that they hold."""
    ours = [library.make(a, dtype) for a in arrays]
    return *ours, *(to_numpy(a).astype(np.float64) for a in ours)


# ---- values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", PER_UNIT)
@every_library
def test_surprisal_is_right_to_four_ulp_in_every_unit(library, dtype, unit):
    with library.context():
        p, exact_p = made(library, dtype, P.ravel())
        got = xent.surprisal(p, unit=unit)
    exact = [-mp.log(oracle.exact(a)) / PER_UNIT[unit] if a else oracle.INF for a in exact_p]
    assert_accurate(got, exact, dtype)


@pytest.mark.parametrize("unit", PER_UNIT)
@every_library
def test_entropy_is_right_to_four_ulp_in_every_unit(library, dtype, unit):
    with library.context():
        p, exact_p = made(library, dtype, P)
        got = xent.entropy(p, unit=unit)
    assert_accurate(got, [h / PER_UNIT[unit] for h in truths("entropy", exact_p)], dtype)


@every_library
def test_cross_entropy_is_right_to_four_ulp(library, dtype):
    with library.context():
        p, q, exact_p, exact_q = made(library, dtype, P, Q)
        got = xent.cross_entropy(p, q)
    exact = truths("cross_entropy", exact_p, exact_q)
    assert any(mp.isinf(h) for h in exact)
    assert any(mp.isfinite(h) for h in exact)
    assert_accurate(got, exact, dtype)


def _divergence_scale(p, q):
    """Return the sum of the terms that are never negative, and the size of what remains."""
    pairs = [(oracle.exact(a), oracle.exact(b)) for a, b in zip(p, q, strict=True)]
    if any(a and not b for a, b in pairs):
        return oracle.INF
    terms = mp.fsum(a * mp.log(a / b) - a + b if a else b for a, b in pairs)
    return terms + abs(mp.fsum(a - b for a, b in pairs))


def assert_divergences_accurate(library, dtype, p, q):
    with library.context():
        p, q, exact_p, exact_q = made(library, dtype, p, q)
        got = to_numpy(xent.kl_divergence(p, q))
    assert got.dtype == result_dtype(dtype)
    # Below 0 the oracle sees only inputs whose rounded sums differ.
    exact = [max(mp.mpf(0), d) for d in truths("kl_divergence", exact_p, exact_q)]
    scales = [_divergence_scale(*row) for row in zip(exact_p, exact_q, strict=True)]
    assert_within(got, exact, allowed_errors(scales, dtype))
    return exact_p, exact_q, exact


@every_library
def test_kl_divergence_is_right_within_its_bound(library, dtype):
    *_, exact = assert_divergences_accurate(library, dtype, P, Q)
    assert any(mp.isinf(d) for d in exact)


@every_library
def test_kl_divergence_of_nearly_equal_distributions_keeps_its_digits(library, dtype):
    p, q, exact = assert_divergences_accurate(library, dtype, *near_equal(dtype))
    if dtype in ("float64", "float32"):
        wide = np.float64 if dtype == "float64" else np.float32
        naive = np.sum(p.astype(wide) * np.log(p.astype(wide) / q.astype(wide)), axis=1)
        errors = [abs(mp.mpf(float(n)) - d) / d for n, d in zip(naive, exact, strict=True) if d]
        assert max(errors) > 1e-3, "the plain formula keeps them too: this case proves nothing"


@every_library
def test_js_divergence_is_right_to_four_ulp(library, dtype):
    for a, b in ((P, Q), near_equal(dtype), (P, np.roll(P, 1, axis=1))):
        with library.context():
            p, q, exact_p, exact_q = made(library, dtype, a, b)
            got = xent.js_divergence(p, q)
        # Above log 2 the oracle sees only inputs that sum to more than 1.
        exact = [min(mp.log(2), d) for d in truths("js_divergence", exact_p, exact_q)]
        assert_accurate(got, exact, dtype)


@every_library
def test_js_divergence_is_right_where_a_framework_s_own_functions_are_not(library, dtype):
    # XLA's float64 log1p and atanh err by 100 ulp between 0.34 and √2 − 1.
    a, b = np.full((2, len(P), 6), 0.15)
    for side, sign in ((a, 1.0), (b, -1.0)):
        side[:, 0] = 0.25 * (1.0 + sign * np.linspace(0.3, 0.5, len(P)))
        side[:, 1] = 0.4 - side[:, 0]
    with library.context():
        p, q, exact_p, exact_q = made(library, dtype, a, b)
        got = xent.js_divergence(p, q)
    assert_accurate(got, truths("js_divergence", exact_p, exact_q), dtype)


@every_library
def test_perplexity_is_right_to_four_ulp_and_one_for_each_nat(library, dtype):
    with library.context():
        p, q, exact_p, exact_q = made(library, dtype, P, Q)
        alone, crossed = to_numpy(xent.perplexity(p)), to_numpy(xent.perplexity(p, q))
    for got, nats in (
        (alone, truths("entropy", exact_p)),
        (crossed, truths("cross_entropy", exact_p, exact_q)),
    ):
        assert got.dtype == result_dtype(dtype)
        exact = [mp.exp(h) if mp.isfinite(h) else h for h in nats]
        exact = [oracle.INF if h > np.finfo(got.dtype).max else h for h in exact]
        ulps = [allowed_errors([e], dtype)[0] for e in exact]
        allowed = [
            u * (1 + h / ULPS) if mp.isfinite(h) else u for u, h in zip(ulps, nats, strict=True)
        ]
        assert_within(got, exact, allowed)


@every_library
def test_conditional_entropy_is_right_to_four_ulp(library, dtype):
    with library.context():
        joint, exact_joint = made(library, dtype, JOINT)
        of_y = xent.conditional_entropy(joint)
        # JAX would compile every step again for the other shape.
        of_x = None if library.flushes else xent.conditional_entropy(joint, axis=-2, given=-1)
    assert_accurate(of_y, truths("conditional_entropy", exact_joint), dtype)
    if of_x is None:
        return
    swapped = np.ascontiguousarray(np.swapaxes(exact_joint, 1, 2))
    assert_accurate(of_x, truths("conditional_entropy", swapped), dtype)


@every_library
def test_mutual_information_is_right_within_its_bound(library, dtype):
    with library.context():
        joint, exact_joint = made(library, dtype, JOINT)
        got = to_numpy(xent.mutual_information(joint))
    assert got.dtype == result_dtype(dtype)
    exact = [max(mp.mpf(0), i) for i in truths("mutual_information", exact_joint)]
    product = exact_joint.sum(axis=2, keepdims=True) * exact_joint.sum(axis=1, keepdims=True)
    apart = np.abs(exact_joint - product).sum(axis=(1, 2))
    missed = np.abs(exact_joint.sum(axis=(1, 2)) * (1 - exact_joint.sum(axis=(1, 2))))
    wide = np.finfo(np.float32 if library.accumulates_in == "float32" else np.float64)
    in_ulp = allowed_errors(np.array(exact, dtype=float) + missed, dtype)
    allowed = [u + 2 * float(wide.eps) * float(a) for u, a in zip(in_ulp, apart, strict=True)]
    assert_within(got, exact, allowed)


@every_library
def test_unsupported_names_the_symbols_that_make_a_cross_entropy_infinite(library, dtype):
    with library.context():
        p, q, exact_p, exact_q = made(library, dtype, P, Q)
        missing = xent.unsupported(p, q)
        infinite = np.isinf(to_numpy(xent.cross_entropy(p, q)))
        symbols = [to_numpy(s) for s in missing.symbols]
    mask = (exact_p > 0) & (exact_q == 0)
    assert np.array_equal(to_numpy(missing.mask), mask)
    assert mask.any()
    for ours, numpys in zip(symbols, np.nonzero(mask), strict=True):
        assert np.array_equal(ours, numpys)
    exact = [mp.fsum(map(oracle.exact, p[m])) for p, m in zip(exact_p, mask, strict=True)]
    assert_accurate(missing.mass, exact, dtype, ulps=1)
    assert np.array_equal(to_numpy(missing.mass) > 0, infinite)


# ---- shapes -----------------------------------------------------------------------------------

OF_ONE = {
    "entropy": xent.entropy,
    "perplexity": xent.perplexity,
}
OF_TWO = {
    "cross_entropy": xent.cross_entropy,
    "kl_divergence": xent.kl_divergence,
    "js_divergence": xent.js_divergence,
    "perplexity of two": xent.perplexity,
    "unsupported mass": lambda p, q, **options: xent.unsupported(p, q, **options).mass,
}
SOFT_P, SOFT_Q = (np.random.default_rng(s).dirichlet(np.ones(5), (2, 3)) for s in (8, 9))
EXACT_ZERO = SOFT_Q.copy()
EXACT_ZERO[1, 2] = [0.0, 0.25, 0.25, 0.5, 0.0]


def same_bits(a, b):
    a, b = to_numpy(a), to_numpy(b)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


@each_library
def test_any_axis_gives_the_bits_of_the_last(library):
    with library.context():
        for axis in (0, 1, -2):
            p, q = (library.make(np.moveaxis(a, -1, axis)) for a in (SOFT_P, EXACT_ZERO))
            last_p, last_q = library.make(SOFT_P), library.make(EXACT_ZERO)
            for name, measure in OF_ONE.items():
                assert same_bits(measure(p, axis=axis), measure(last_p)), name
            for name, measure in OF_TWO.items():
                assert same_bits(measure(p, q, axis=axis), measure(last_p, last_q)), name
            mask = to_numpy(xent.unsupported(p, q, axis=axis).mask)
            expected = to_numpy(xent.unsupported(last_p, last_q).mask)
            assert np.array_equal(np.moveaxis(mask, axis, -1), expected)


@each_library
def test_any_two_axes_of_a_joint_give_the_bits_of_the_last_two(library):
    with library.context():
        last = library.make(JOINT)
        for x, y in ((0, 1), (-1, 0), (2, 1)):
            joint = library.make(np.moveaxis(JOINT, (1, 2), (x, y)))
            ours = xent.conditional_entropy(joint, given=x, axis=y)
            assert same_bits(ours, xent.conditional_entropy(last))
            ours = xent.mutual_information(joint, axes=(x, y))
            assert same_bits(ours, xent.mutual_information(last))


@each_library
def test_p_and_q_broadcast_against_each_other(library):
    with library.context():
        p, q = SOFT_P, EXACT_ZERO[1, 2]
        full_p, full_q = np.broadcast_arrays(p, q)
        for name, measure in OF_TWO.items():
            narrow = measure(library.make(p), library.make(q))
            full = measure(library.make(full_p), library.make(full_q))
            assert same_bits(narrow, full), name
            swapped = measure(library.make(q), library.make(p))
            assert to_numpy(swapped).shape == (2, 3), name


@each_library
def test_a_batch_of_nothing_has_no_results(library):
    with library.context():
        nothing = library.make(np.zeros((0, 5)))
        joints = library.make(np.zeros((0, 3, 4)))
        assert to_numpy(xent.entropy(nothing)).shape == (0,)
        assert to_numpy(xent.kl_divergence(nothing, nothing)).shape == (0,)
        for measure in (xent.conditional_entropy, xent.mutual_information):
            assert to_numpy(measure(joints)).shape == (0,)


@each_library
def test_a_row_s_bits_do_not_depend_on_its_neighbours(library):
    order = np.random.default_rng(10).permutation(len(P))
    order_of_joints = np.random.default_rng(11).permutation(len(JOINT))
    with library.context():
        p, q, other_p, other_q = map(library.make, (P, Q, P[order], Q[order]))
        joint, other_joint = map(library.make, (JOINT, JOINT[order_of_joints]))
        for measure in OF_ONE.values():
            assert same_bits(to_numpy(measure(p))[order], measure(other_p))
        for measure in OF_TWO.values():
            assert same_bits(to_numpy(measure(p, q))[order], measure(other_p, other_q))
        for measure in (xent.conditional_entropy, xent.mutual_information):
            assert same_bits(to_numpy(measure(joint))[order_of_joints], measure(other_joint))


def test_a_row_alone_has_the_bits_that_it_has_in_a_batch():
    for i in (0, 4, 17):
        for measure in OF_ONE.values():
            assert same_bits(measure(P)[i], measure(P[i]))
        for measure in OF_TWO.values():
            assert same_bits(measure(P, Q)[i], measure(P[i], Q[i]))
        for measure in (xent.conditional_entropy, xent.mutual_information):
            assert same_bits(measure(JOINT)[i], measure(JOINT[i]))
