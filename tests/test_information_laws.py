"""What must hold between the measures for any distributions, and on inputs of any length."""

from __future__ import annotations

import concurrent.futures
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import xent

BIT = math.log(2.0)
PER_UNIT = {"nats": 1.0, "bits": BIT, "bans": math.log(10.0)}
laws = settings(max_examples=60, deadline=None, database=None, derandomize=True)

# Zeros, subnormal numbers and masses that differ by 300 orders of magnitude are all likely.
masses = st.one_of(
    st.just(0.0),
    st.just(5e-324),
    st.floats(0.0, 1.0),
    st.integers(-300, 0).map(lambda exponent: 10.0**exponent),
)


def _normalised(weights):
    p = np.array(weights, dtype=np.float64)
    return p / math.fsum(weights)


def distributions(symbols):
    rows = st.lists(masses, min_size=symbols, max_size=symbols)
    return rows.filter(lambda w: sum(w) > 1e-290).map(_normalised)


one = st.integers(1, 7).flatmap(distributions)
pairs = st.integers(1, 7).flatmap(lambda m: st.tuples(distributions(m), distributions(m)))
near_pairs = st.tuples(distributions(5), st.floats(0.0, 1e-3), distributions(5)).map(
    lambda t: (t[0], (1.0 - t[1]) * t[0] + t[1] * t[2])
)
any_pairs = st.one_of(pairs, near_pairs)
joints = st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(
    lambda shape: distributions(shape[0] * shape[1]).map(lambda p: p.reshape(shape))
)


def close(a, b, size=1.0):
    return a == b or abs(a - b) <= 1e-14 * (size + abs(a) + abs(b))


# ---- identities -------------------------------------------------------------------------------


@laws
@given(any_pairs)
def test_cross_entropy_is_entropy_plus_divergence(pair):
    p, q = pair
    crossed = float(xent.cross_entropy(p, q))
    assert close(crossed, float(xent.entropy(p)) + float(xent.kl_divergence(p, q)))


@laws
@given(any_pairs)
def test_divergence_is_never_negative_and_zero_for_equal_distributions(pair):
    p, q = pair
    assert xent.kl_divergence(p, q) >= 0
    assert xent.kl_divergence(p, p) == 0
    # Pinsker's inequality says how far from zero it must be; rounded sums may differ by 1e-15.
    assert xent.kl_divergence(p, q) >= np.abs(p - q).sum() ** 2 / 2 - 1e-14


@laws
@given(any_pairs)
def test_jensen_shannon_is_symmetric_and_between_nothing_and_one_bit(pair):
    p, q = pair
    divergence = float(xent.js_divergence(p, q, unit="bits"))
    assert 0.0 <= divergence <= 1.0
    assert divergence == float(xent.js_divergence(q, p, unit="bits"))
    assert xent.js_divergence(p, p) == 0
    middle = (p + q) / 2
    halves = float(xent.kl_divergence(p, middle)) + float(xent.kl_divergence(q, middle))
    # A middle that underflows to 0 makes the halves infinite, not the divergence.
    assert math.isinf(halves) or close(divergence * BIT, halves / 2)


@laws
@given(joints)
def test_the_chain_rule_holds(joint):
    x, y = joint.sum(axis=1), joint.sum(axis=0)
    whole = float(xent.entropy(joint.ravel()))
    y_given_x = float(xent.conditional_entropy(joint))
    x_given_y = float(xent.conditional_entropy(joint, axis=-2, given=-1))
    assert close(whole, float(xent.entropy(x)) + y_given_x)
    assert close(whole, float(xent.entropy(y)) + x_given_y)
    assert y_given_x >= 0
    assert x_given_y >= 0


@laws
@given(joints)
def test_mutual_information_is_what_knowing_one_variable_saves_on_the_other(joint):
    information = float(xent.mutual_information(joint))
    saved = float(xent.entropy(joint.sum(axis=0))) - float(xent.conditional_entropy(joint))
    assert close(information, saved)
    assert close(information, float(xent.mutual_information(joint.T)))
    assert 0.0 <= information <= math.log(min(joint.shape)) + 1e-14


@laws
@given(distributions(3), distributions(4))
def test_independent_variables_tell_nothing_about_each_other(x, y):
    joint = x[:, None] * y
    assert xent.mutual_information(joint) <= 1e-15
    assert close(float(xent.conditional_entropy(joint)), float(xent.entropy(y)))


@pytest.mark.parametrize("unit", PER_UNIT)
@pytest.mark.parametrize("m", [1, 2, 3, 10, 1000, 131_072])
def test_a_uniform_distribution_has_the_logarithm_of_its_symbols(m, unit):
    uniform = np.full(m, 1.0 / m)
    for value in (
        xent.entropy(uniform, unit=unit),
        xent.surprisal(uniform, unit=unit)[0],
        xent.cross_entropy(np.eye(1, m)[0], uniform, unit=unit),
        xent.kl_divergence(np.eye(1, m)[0], uniform, unit=unit),
    ):
        assert value == pytest.approx(math.log(m) / PER_UNIT[unit], rel=1e-15, abs=0)
    assert xent.perplexity(uniform) == pytest.approx(m, rel=4e-15)


@laws
@given(one)
def test_entropy_is_at_most_the_logarithm_of_the_symbols(p):
    assert 0.0 <= float(xent.entropy(p)) <= math.log(len(p)) * (1 + 1e-15) + 1e-15
    assert math.copysign(1.0, xent.entropy(p)) == 1.0, "certainty has an entropy of 0, not of −0"


@laws
@given(any_pairs, st.randoms(use_true_random=False))
def test_the_order_of_the_symbols_does_not_matter(pair, random):
    p, q = pair
    order = random.sample(range(len(p)), len(p))
    for measure in (xent.cross_entropy, xent.kl_divergence, xent.js_divergence):
        assert close(float(measure(p, q)), float(measure(p[order], q[order])))
    assert close(float(xent.entropy(p)), float(xent.entropy(p[order])))


@laws
@given(any_pairs, st.data())
def test_a_symbol_of_probability_zero_changes_no_bit(pair, data):
    p, q = pair
    place = data.draw(st.integers(0, len(p)))
    wide_p, wide_q = np.insert(p, place, 0.0), np.insert(q, place, 0.0)
    assert xent.entropy(p) == xent.entropy(wide_p)
    for measure in (xent.cross_entropy, xent.kl_divergence, xent.js_divergence, xent.perplexity):
        assert measure(p, q) == measure(wide_p, wide_q)
    joint, wide = np.outer(p, q), np.outer(wide_p, wide_q)
    assert xent.conditional_entropy(joint) == xent.conditional_entropy(wide)
    assert close(float(xent.mutual_information(joint)), float(xent.mutual_information(wide)))


@laws
@given(any_pairs)
def test_the_unsupported_mass_is_what_makes_a_cross_entropy_infinite(pair):
    p, q = pair
    missing = xent.unsupported(p, q)
    assert math.isinf(xent.cross_entropy(p, q)) == (missing.mass > 0)
    assert math.isinf(xent.kl_divergence(p, q)) == (missing.mass > 0)
    assert missing.mass == pytest.approx(math.fsum(p[missing.symbols]), rel=1e-15)


@laws
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=9).filter(any))
def test_counts_are_normalised_by_their_sum(counts):
    p = np.array(counts) / sum(counts)
    assert close(float(xent.entropy(counts, normalize=True)), float(xent.entropy(p)))


# ---- what has gone wrong elsewhere --------------------------------------------------------------


def test_js_of_distributions_that_agree_but_for_one_bit_is_not_nan():
    p = np.array([0.1, 0.2, 0.7])
    for i in range(3):
        q = p.copy()
        q[i] = np.nextafter(q[i], 1.0)
        divergence = float(xent.js_divergence(p, q))
        assert 0.0 < divergence < 1e-31


@pytest.mark.parametrize("tiny", [5e-324, 1e-323, 1e-320, 1e-308, 2.3e-308])
def test_js_with_a_subnormal_probability_is_finite_and_not_negative(tiny):
    for q in ([0.0, 1.0], [3 * tiny, 1.0], [tiny, 1.0]):
        assert 0.0 <= xent.js_divergence([tiny, 1.0], q) <= 2 * tiny


def test_js_in_single_precision_is_not_negative_at_the_smallest_normal_number():
    tiny = float(np.finfo(np.float32).tiny)
    p, q = jnp.asarray([1.1 * tiny, 1.0]), jnp.asarray([0.0, 1.0])
    assert 0.0 <= float(xent.js_divergence(p, q)) <= tiny


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_mutual_information_is_finite_where_the_product_of_marginals_underflows(make):
    tiny = 1e-200 if make is np.asarray else 1e-25
    joint = make([[tiny, 0.0], [0.0, 1.0]])
    # H(X) = H(Y) = I(X;Y) here.
    exact = tiny * (1.0 - math.log(tiny))
    assert float(xent.mutual_information(joint)) == pytest.approx(exact, rel=1e-6)


def test_conditional_entropy_sees_an_outcome_far_less_likely_than_its_neighbour():
    for e in (1e-15, 1e-16, 1e-18, 1e-40, 1e-300):
        exact = e * (1.0 - math.log(e))
        got = float(xent.conditional_entropy([[1.0 - e, e]]))
        assert got == pytest.approx(exact, rel=1e-14, abs=0)


def test_seventy_thousand_equal_counts_in_half_precision_have_the_entropy_of_their_number():
    counts = np.full(70_000, 1, np.float16)  # their sum is not a float16
    assert xent.entropy(counts, normalize=True) == np.float32(math.log(70_000))
    half = torch.ones(70_000, dtype=torch.bfloat16)
    assert float(xent.entropy(half, normalize=True)) == np.float32(math.log(70_000))


# ---- a million symbols ------------------------------------------------------------------------

MILLION = 1_000_000


def _weights(dtype):
    """Return weights for a million symbols on axis 0, and their exact entropies to 1e-12."""
    weights = np.random.default_rng(1).random((MILLION, 3)).astype(dtype)
    w = weights.astype(np.float64)
    total = w.sum(axis=0)
    return weights, np.log(total) - np.sum(w * np.log(np.where(w > 0, w, 1.0)), axis=0) / total


def assert_within_two_ulp(value, exact):
    value = np.asarray(value)
    assert value.dtype == np.float32
    assert np.all(np.abs(value - exact) <= 2 * np.spacing(exact.astype(np.float32)))


@pytest.mark.parametrize(
    ("make", "dtype"),
    [(np.asarray, np.float16), (np.asarray, np.float32), (torch.from_numpy, np.float32)],
    ids=["numpy, float16", "numpy, float32", "torch, float32"],
)
def test_a_million_symbols_keep_their_digits_on_every_axis(make, dtype):
    weights, exact = _weights(dtype)
    down = xent.entropy(make(weights), axis=0, normalize=True)
    along = xent.entropy(make(np.ascontiguousarray(weights.T)), axis=1, normalize=True)
    assert np.asarray(down).tobytes() == np.asarray(along).tobytes()
    assert_within_two_ulp(down, exact)


def test_a_million_symbols_keep_their_digits_in_jax_without_64_bit():
    weights, exact = _weights(np.float32)
    down = jax.jit(lambda x: xent.entropy(x, axis=0, normalize=True))
    assert_within_two_ulp(down(jnp.asarray(weights)), exact)


def test_the_tolerance_for_a_million_symbols_would_see_an_ordinary_sum():
    weights = np.random.default_rng(1).random((MILLION, 3)).astype(np.float32)
    exact = weights.astype(np.float64).sum(axis=0)
    plain = weights.sum(axis=0)
    assert np.any(np.abs(plain - exact) > 2 * np.spacing(exact.astype(np.float32)))


def test_many_threads_get_the_same_bits():
    g = np.random.default_rng(3)
    p, q = g.dirichlet(np.ones(7), (2, 200))
    p[:, 0] = 0.0
    expected = xent.cross_entropy(q, p, normalize=True)
    assert np.all(np.isinf(expected))  # log 0 must not warn in any thread
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda _: xent.cross_entropy(q, p, normalize=True), range(64))
        assert all(np.array_equal(r, expected) for r in results)
