"""What the measures take, what they refuse, and how they say so."""

from __future__ import annotations

import re

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import torch
from libraries import LIBRARIES, to_numpy

import xent
from xent.errors import DistributionError, OptionError, ShapeError, XentError

OF_ONE = [xent.entropy, xent.perplexity]
OF_TWO = [
    xent.cross_entropy,
    xent.kl_divergence,
    xent.js_divergence,
    xent.perplexity,
    xent.unsupported,
]
OF_JOINTS = [xent.conditional_entropy, xent.mutual_information]
NAN = float("nan")
GOOD = [0.25, 0.25, 0.5]

each_library = pytest.mark.parametrize("library", LIBRARIES, ids=[x.name for x in LIBRARIES])


def named(functions):
    return pytest.mark.parametrize("measure", functions, ids=[f.__name__ for f in functions])


def exactly(text):
    return f"^{re.escape(text)}$"


# ---- what is taken ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [list, tuple, np.array, pd.Series, lambda p: [np.float64(x) for x in p], torch.tensor],
    ids=["list", "tuple", "array", "series", "scalars", "tensor"],
)
def test_lists_tuples_columns_and_scalars_are_distributions(make):
    p, q = [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]
    for measure in OF_ONE:
        assert float(measure(make(p))) == pytest.approx(float(measure(np.array(p))), rel=1e-7)
    for measure in OF_TWO[:-1]:
        expected = float(measure(np.array(p), np.array(q)))
        assert float(measure(make(p), make(q))) == pytest.approx(expected, rel=1e-7)
    assert float(xent.surprisal(make(p))[1]) == pytest.approx(1.3862943611198906, rel=1e-7)


def test_frames_are_batches_by_rows():
    frame = pd.DataFrame([[0.5, 0.5], [1.0, 0.0]], index=["x", "y"])
    assert xent.entropy(frame, unit="bits").tolist() == [1.0, 0.0]
    assert xent.mutual_information(frame / 2) == pytest.approx(0.21576155433883565, rel=1e-14)


def test_integers_are_counts_where_they_are_to_be_normalised():
    for dtype in (np.int8, np.uint8, np.int32, np.uint64):
        counts = np.array([1, 1, 2], dtype=dtype)
        assert xent.entropy(counts, normalize=True, unit="bits") == 1.5
    assert xent.entropy([2**62, 2**62], normalize=True, unit="bits") == 1.0
    assert xent.mutual_information([[3, 0], [0, 3]], normalize=True, unit="bits") == 1.0


@each_library
def test_booleans_and_one_hot_integers_are_certain_distributions(library):
    with library.context():
        for certain in (np.array([False, True]), np.array([0, 1])):
            p = library.make(certain)
            assert float(xent.entropy(p)) == 0.0
            assert float(xent.cross_entropy(p, library.make(np.array([0.5, 0.5])))) > 0.69


def test_numpy_arrays_and_lists_join_the_library_of_the_other_array():
    for q in ([0.5, 0.5], np.array([0.5, 0.5])):
        got = xent.cross_entropy(torch.tensor([0.5, 0.5]), q)
        assert isinstance(got, torch.Tensor)
        assert isinstance(xent.cross_entropy(jnp.asarray([0.5, 0.5]), q), jax.Array)


@pytest.mark.parametrize("library", LIBRARIES[:3], ids=[x.name for x in LIBRARIES[:3]])
def test_inputs_keep_their_values(library):
    weights = np.array([[1.0, 2.0, 5.0], [0.0, 1.0, 3.0]])
    with library.context():
        p, q = library.make(weights), library.make(weights[::-1].copy())
        for measure in OF_ONE + OF_JOINTS:
            measure(p, normalize=True)
        for measure in OF_TWO:
            measure(p, q, normalize=True)
        xent.surprisal(library.make(weights / 8))
        assert np.array_equal(to_numpy(p), weights)
        assert np.array_equal(to_numpy(q), weights[::-1])


# ---- what is refused, in words ------------------------------------------------------------------

LOGITS = "Hint: logits go through softmax_cross_entropy, log-probabilities through nll."
REFUSED = [
    (
        lambda: xent.entropy([0.5, -0.25, 0.75]),
        DistributionError,
        (
            f"p must hold probabilities, finite and not negative: got -0.25 for symbol 1 "
            f"over all symbols. {LOGITS}"
        ),
    ),
    (
        lambda: xent.entropy([[0.5, 0.5], [NAN, 1.0]]),
        DistributionError,
        (
            f"p must hold probabilities, finite and not negative: got nan for symbol 0 in row 1. "
            f"{LOGITS}"
        ),
    ),
    (
        lambda: xent.cross_entropy(GOOD, [[GOOD, [0.0, np.inf, 0.0]]]),
        DistributionError,
        (
            f"q must hold probabilities, finite and not negative: got inf for symbol 1 "
            f"in row (0, 1). {LOGITS}"
        ),
    ),
    (
        lambda: xent.kl_divergence([0.3333, 0.3333, 0.3333], GOOD),
        DistributionError,
        (
            "p must sum to 1 within 1.8e-06: got 0.9999 over all symbols. "
            "Hint: pass normalize=True to divide by the sum."
        ),
    ),
    (
        lambda: xent.js_divergence([GOOD, GOOD], [GOOD, [1.0, 0.0, 0.5]]),
        DistributionError,
        (
            "q must sum to 1 within 1.8e-06: got 1.5 in row 1. "
            "Hint: pass normalize=True to divide by the sum."
        ),
    ),
    (
        lambda: xent.mutual_information([[0.5, 0.5], [0.5, 0.5]]),
        DistributionError,
        (
            "joint must sum to 1 within 1.9e-06: got 2.0 over all symbols. "
            "Hint: pass normalize=True to divide by the sum."
        ),
    ),
    (
        lambda: xent.surprisal([0.5, 1.5]),
        DistributionError,
        (
            "p must lie in [0, 1]: got 1.5 at index (1,). "
            "Hint: counts become probabilities when divided by their sum."
        ),
    ),
    (
        lambda: xent.entropy([]),
        ShapeError,
        (
            "p must have at least one symbol: got shape (0,). "
            "Hint: the entropy of nothing is not defined; drop empty groups first."
        ),
    ),
    (
        lambda: xent.entropy(0.5),
        ShapeError,
        "p must have at least one axis: got a single number. Hint: [x, …].",
    ),
    (
        lambda: xent.entropy(GOOD, axis=1),
        ShapeError,
        "axis must lie in [-1, 1) for p of shape (3,): got 1. Hint: axis=-1 is the last.",
    ),
    (
        lambda: xent.unsupported(GOOD, [0.5, 0.5]),
        ShapeError,
        (
            "p and q must have the same symbols: got shapes (3,) and (2,). "
            "Hint: give a symbol that one of them lacks a probability of 0 there."
        ),
    ),
    (
        lambda: xent.conditional_entropy(GOOD),
        ShapeError,
        (
            "joint must have an axis for each variable: got shape (3,). "
            "Hint: joint[x, y] = P(X=x, Y=y)."
        ),
    ),
    (
        lambda: xent.mutual_information([GOOD], axes=(-1, 1)),
        ShapeError,
        "the two variables need two axes: got (-1, 1). Hint: axes=(-2, -1).",
    ),
    (
        lambda: xent.entropy(np.array([0.5, 0.5j])),
        OptionError,
        (
            "p must hold real numbers: got dtype complex128. Hint: convert them first; "
            "complex numbers and text have no order or logarithm here."
        ),
    ),
    (
        lambda: xent.entropy(GOOD, unit="shannon"),
        OptionError,
        (
            "unit must be one of 'nats', 'bits', 'bans': got 'shannon'. "
            "Hint: logarithms to base 2 give bits, to base e nats, to base 10 bans."
        ),
    ),
]


@pytest.mark.parametrize(
    ("call", "error", "text"), REFUSED, ids=[str(i) for i in range(len(REFUSED))]
)
def test_an_error_says_what_was_expected_what_came_where_and_what_to_do(call, error, text):
    with pytest.raises(error, match=exactly(text)):
        call()


@pytest.mark.parametrize(
    ("weights", "got"),
    [
        ([1.0, -1.0, 3.0], "-1.0 for symbol 1"),
        ([[1.0, 2.0], [1.0, np.inf]], "inf for symbol 1 in row 1"),
        ([NAN, 1.0], "nan for symbol 0"),
        ([0.0, 0.0], "0.0 over all symbols"),
        ([[1, 2], [0, 0]], "0.0 in row 1"),
        ([1.5e308, 1.5e308], "inf over all symbols"),
    ],
)
@named(OF_ONE)
def test_weights_that_cannot_be_normalised_are_named_as_they_came(measure, weights, got):
    with pytest.raises(DistributionError, match=re.escape(f"got {got}")):
        measure(weights, normalize=True)


@pytest.mark.parametrize("bad", [["a", "b"], [None, 1.0], np.array([1 + 0j, 0])])
@named(OF_TWO)
def test_what_is_no_real_number_is_refused_on_either_side(measure, bad):
    for pair in ((bad, [0.5, 0.5]), ([0.5, 0.5], bad)):
        with pytest.raises(OptionError, match="must hold real numbers"):
            measure(*pair)


def test_arrays_of_two_libraries_do_not_mix():
    arrays = [torch.tensor(GOOD), jnp.asarray(GOOD), array_api_strict.asarray(GOOD)]
    for i in range(3):
        with pytest.raises(OptionError, match=r"must belong to one library.*Hint: convert"):
            xent.kl_divergence(arrays[i], arrays[i - 1])


@named(OF_TWO)
def test_shapes_that_do_not_broadcast_are_refused(measure):
    with pytest.raises(ShapeError, match=r"same symbols: got shapes \(2, 2\) and \(3, 2\)"):
        measure(np.full((2, 2), 0.5), np.full((3, 2), 0.5))
    with pytest.raises(ShapeError, match="same symbols"):
        measure([0.5, 0.5], [[1.0]])  # one symbol is not spread over two


@named(OF_JOINTS)
def test_joints_without_a_value_are_refused(measure):
    with pytest.raises(ShapeError, match="at least one symbol"):
        measure(np.zeros((2, 0, 3)))


@named(OF_JOINTS)
def test_joints_that_are_no_distribution_are_refused(measure):
    with pytest.raises(DistributionError, match=r"got -0\.5 for symbol 2"):
        measure([[0.75, 0.75], [-0.5, 0.0]])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_the_tolerance_of_a_sum_lets_rounding_pass_and_nothing_more(dtype):
    p = torch.tensor(np.random.default_rng(0).dirichlet(np.ones(300), 20))
    p = p.to(getattr(torch, dtype))
    assert bool(torch.all(xent.entropy(p) > 0))
    epsilon = max(torch.finfo(p.dtype).eps, 2.0**-23)
    p[:, 0] += 20 * epsilon + 1e-4
    with pytest.raises(DistributionError, match="must sum to 1 within"):
        xent.entropy(p)


# ---- values that cannot be looked at ------------------------------------------------------------

BAD_ROWS = np.array(
    [
        [0.25, 0.25, 0.5],
        [0.5, 0.5, 0.5],
        [NAN, 0.5, 0.5],
        [1.5, -0.5, 0.0],
        [np.inf, 0.0, 0.0],
        [0.5, 0.0, 0.5],
    ]
)
IS_GOOD = np.array([True, False, False, False, False, True])
CERTAIN = np.tile([0.0, 1.0, 0.0], (6, 1))


def mass(result):
    return np.asarray(result.mass if isinstance(result, xent.Unsupported) else result)


@pytest.fixture(params=["eager", "jax.jit", "jax.vmap", "torch.func.vmap"])
def unlooked(request):
    """A way to call a measure without looking at the values of its arrays."""

    def call(measure, *arrays):
        if request.param == "eager":
            return mass(measure(*arrays, check=False))
        if request.param == "torch.func.vmap":
            tensors = map(torch.tensor, arrays)
            return torch.func.vmap(lambda *x: _array(measure(*x)))(*tensors).numpy()
        measure_one = (lambda *x: _array(measure(*x))) if request.param == "jax.vmap" else measure
        mapped = jax.vmap(measure_one) if request.param == "jax.vmap" else measure
        return mass(jax.jit(mapped)(*map(jnp.asarray, arrays)))

    return call


def _array(result):
    return result.mass if isinstance(result, xent.Unsupported) else result


def assert_only_bad_rows_are_nan(got, expected):
    assert np.array_equal(np.isnan(got), ~IS_GOOD)
    np.testing.assert_allclose(got[IS_GOOD], np.asarray(expected), rtol=1e-6)


@named(OF_ONE)
def test_bad_rows_become_nan_and_leave_the_others_right(unlooked, measure):
    assert_only_bad_rows_are_nan(unlooked(measure, BAD_ROWS), measure(BAD_ROWS[IS_GOOD]))


@named(OF_TWO)
def test_a_bad_row_on_either_side_becomes_nan_and_leaves_the_others_right(unlooked, measure):
    good, certain = BAD_ROWS[IS_GOOD], CERTAIN[IS_GOOD]
    got = unlooked(measure, BAD_ROWS, CERTAIN)
    assert_only_bad_rows_are_nan(got, mass(measure(good, certain)))
    got = unlooked(measure, CERTAIN, BAD_ROWS)
    assert_only_bad_rows_are_nan(got, mass(measure(certain, good)))


@named(OF_JOINTS)
def test_a_bad_joint_becomes_nan_and_leaves_the_others_right(unlooked, measure):
    joints = BAD_ROWS[:, :, None] * np.array([0.5, 0.25, 0.25])
    joints[IS_GOOD] = joints[IS_GOOD] * (1 + np.array([[0.1, -0.1, -0.1], [0, 0, 0], [0, 0, 0]]))
    joints[IS_GOOD] /= joints[IS_GOOD].sum(axis=(1, 2), keepdims=True)
    expected = measure(joints[IS_GOOD])
    got = unlooked(measure, joints)
    assert np.array_equal(np.isnan(got), ~IS_GOOD)
    np.testing.assert_allclose(got[IS_GOOD], expected, atol=1e-7)


def test_an_impossible_surprisal_becomes_nan_and_leaves_the_others_right(unlooked):
    got = unlooked(xent.surprisal, np.array([0.5, 1.5, -0.5, NAN, 0.0, 1.0]))
    np.testing.assert_allclose(got, [np.log(2), NAN, NAN, NAN, np.inf, 0.0], rtol=1e-6)


@named(OF_ONE)
def test_check_insists_where_values_are_there_and_refuses_where_they_are_not(measure):
    for make in (np.asarray, torch.tensor, jnp.asarray):
        with pytest.raises(DistributionError):
            measure(make(BAD_ROWS), check=True)
    text = (
        "check=True must look at values, and these are being traced. "
        "Hint: call outside jit, vmap and grad, or leave check=None: bad rows become NaN."
    )
    with pytest.raises(OptionError, match=exactly(text)):
        torch.func.vmap(lambda p: measure(p, check=True))(torch.tensor(BAD_ROWS))
    for transform in (jax.vmap, jax.jit):  # JAX adds a note of its own to the text
        with pytest.raises(OptionError, match=re.escape(text)):
            transform(lambda p: measure(p, check=True))(jnp.asarray(BAD_ROWS))


def test_every_refusal_is_caught_by_the_root_of_the_tree_and_by_value_error():
    for call, *_ in REFUSED:
        with pytest.raises(XentError):
            call()
        with pytest.raises(ValueError, match="Hint: "):
            call()
