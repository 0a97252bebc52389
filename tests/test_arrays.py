"""Namespaces, dtypes, sums and the arithmetic that keeps its rounding errors."""

from __future__ import annotations

import math
from fractions import Fraction

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from libraries import LIBRARIES, to_numpy

from xent.arrays import (
    accumulation_dtype,
    as_arrays,
    as_floats,
    checking,
    constant,
    divide_pair,
    move_last,
    output_dtype,
    sum_accurately,
    sum_pair,
    two_difference,
    unit_sum_tolerance,
    where_is,
)
from xent.errors import OptionError, ShapeError

laws = settings(max_examples=100, deadline=None, database=None, derandomize=True)
each_library = pytest.mark.parametrize("library", LIBRARIES, ids=[x.name for x in LIBRARIES])
MAKERS = {
    "numpy": np.asarray,
    "array-api-strict": array_api_strict.asarray,
    "torch": torch.tensor,
    "jax": jnp.asarray,
}
each_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


# ---- whose arrays, how precise ------------------------------------------------------------------


@each_maker
def test_the_namespace_is_the_library_s_and_lists_are_brought_to_it(make):
    array = make([0.5, 0.5])
    xp, arrays = as_arrays([1.0, 2.0], array, None, np.ones(2), 3)
    assert arrays[1] is array
    assert arrays[2] is None
    assert all(isinstance(a, type(array)) for a in arrays if a is not None)
    assert to_numpy(xp.exp(arrays[0])) == pytest.approx(np.exp([1.0, 2.0]))


def test_without_arrays_the_namespace_is_numpy():
    xp, (numbers, nothing) = as_arrays([1, 2], None)
    assert xp is np
    assert nothing is None
    assert isinstance(numbers, np.ndarray)


@each_library
def test_half_precision_accumulates_in_the_widest_float_and_returns_single(library):
    with library.context():
        for dtype in library.dtypes:
            array = library.make(np.ones(2), dtype)
            xp, _ = as_arrays(array)
            assert library.accumulates_in in str(accumulation_dtype(xp, array))
            wanted = "float64" if dtype == "float64" else "float32"
            assert wanted in str(output_dtype(xp, array, None))
        counts = library.make(np.array([1, 2]))
        assert library.accumulates_in in str(output_dtype(xp, counts))


def test_long_doubles_are_not_narrowed():
    wide = np.ones(2, np.longdouble)
    assert accumulation_dtype(np, wide) == np.longdouble
    assert output_dtype(np, wide) == np.longdouble


def test_floats_of_the_right_dtype_are_not_copied_and_text_is_refused():
    array = np.ones(3)
    assert as_floats(np, array, np.float64, "p") is array
    assert as_floats(np, np.array([True]), np.float64, "p").dtype == np.float64
    for bad in (np.array(["1"]), np.array([1j]), np.array([None])):
        with pytest.raises(OptionError, match=r"^weights must hold real numbers: got dtype"):
            as_floats(np, bad, np.float64, "weights")


@each_maker
def test_an_axis_moves_to_the_end_and_the_others_keep_their_order(make):
    numbers = np.arange(24.0).reshape(2, 3, 4)
    array = make(numbers)
    xp, _ = as_arrays(array)
    for axis in range(-3, 3):
        moved = to_numpy(move_last(xp, array, axis, "p"))
        assert np.array_equal(moved, np.moveaxis(numbers, axis, -1))
    for axis in (-4, 3):
        with pytest.raises(ShapeError, match=r"axis must lie in \[-3, 3\) for p"):
            move_last(xp, array, axis, "p")


@each_maker
def test_the_place_of_the_first_true_entry_is_found(make):
    mask = np.zeros((2, 3, 4), dtype=bool)
    xp, _ = as_arrays(make(mask))
    assert where_is(xp, make(mask)) is None
    mask[1, 0, 2] = mask[1, 2, 0] = True
    assert where_is(xp, make(mask)) == (1, 0, 2)


# ---- when values may be looked at ---------------------------------------------------------------


def test_eager_values_on_the_cpu_are_looked_at_and_traced_ones_are_not():
    seen = []

    def note(x):
        seen.append(checking(None, x, None))
        return x

    for make in MAKERS.values():
        note(make([0.5, 0.5]))
    assert seen == [True] * 4
    jax.jit(note)(jnp.ones(2))
    jax.vmap(note)(jnp.ones(2))
    torch.func.vmap(note)(torch.ones(2))
    assert seen[4:] == [False] * 3


@each_maker
def test_the_caller_may_insist_on_looking_or_on_not_looking(make):
    assert checking(True, make([0.5]))
    assert not checking(False, make([0.5]))


def test_a_constant_has_no_derivative():
    x = torch.tensor([2.0], requires_grad=True)
    (slope,) = torch.autograd.grad((x * constant(x)).sum(), x)
    assert slope == 2.0
    assert jax.grad(lambda y: y * constant(y))(2.0) == 2.0
    array = np.ones(2)
    assert constant(array) is array


# ---- sums ---------------------------------------------------------------------------------------

finite = st.floats(-1e300, 1e300).filter(lambda x: x == 0 or abs(x) > 1e-250)


@laws
@given(finite, finite)
def test_a_difference_and_its_rounding_error_are_exact(a, b):
    high, low = two_difference(np, np.array([a]), np.array([b]))
    assert high[0] == a - b
    assert Fraction(high[0]) + Fraction(low[0]) == Fraction(a) - Fraction(b)


def test_an_infinite_difference_has_no_rounding_error():
    with np.errstate(invalid="ignore"):
        for a, b in ((math.inf, 1.0), (1.0, -math.inf), (math.inf, math.inf), (math.nan, 1.0)):
            high, low = two_difference(np, np.array([a]), np.array([b]))
            assert low[0] == 0
            assert not np.isfinite(high[0])


@laws
@given(st.lists(finite.filter(lambda x: abs(x) < 1e290), max_size=40))
def test_a_sum_is_as_good_as_one_of_twice_the_precision(numbers):
    high, low = sum_pair(np, np.array(numbers, dtype=np.float64))
    exact = sum(map(Fraction, numbers), Fraction(0))
    size = sum(abs(Fraction(x)) for x in numbers)
    error = abs(Fraction(float(high)) + Fraction(float(low)) - exact)
    assert error <= size * Fraction(2) ** -100


@each_library
def test_a_sum_that_cancels_keeps_its_digits(library):
    numbers = np.array([[1.0, 2.0**-30, -1.0, 3.0, -3.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
    with library.context():
        array = library.make(numbers, "float32")
        xp, _ = as_arrays(array)
        assert to_numpy(sum_accurately(xp, array)).tolist() == [2.0**-30, 15.0]
    assert numbers.astype(np.float32).sum(axis=1)[0] != 2.0**-30


@pytest.mark.parametrize("library", LIBRARIES[3:], ids=[x.name for x in LIBRARIES[3:]])
def test_a_sum_that_cancels_keeps_its_digits_when_compiled_by_jax(library):
    numbers = np.array([1.0, 2.0**-30, -1.0, 3.0, -3.0])
    with library.context():
        total = jax.jit(lambda x: sum_accurately(jnp, x))(library.make(numbers, "float32"))
    assert float(total) == 2.0**-30


def test_the_sum_of_nothing_is_zero_and_infinity_stays():
    assert sum_accurately(np, np.zeros((2, 0))).tolist() == [0.0, 0.0]
    with np.errstate(invalid="ignore"):
        assert sum_accurately(np, np.array([1.0, math.inf, 2.0])) == math.inf
        assert np.isnan(sum_accurately(np, np.array([math.inf, -math.inf])))


def test_the_derivative_of_a_sum_is_one_for_each_number():
    x = torch.randn(7, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(sum_accurately(as_arrays(x)[0], x), x)
    assert slopes.tolist() == [1.0] * 7
    assert jax.grad(lambda y: sum_accurately(jnp, y))(jnp.ones(7)).tolist() == [1.0] * 7


@laws
@given(
    st.floats(-900.0, 900.0),
    st.floats(-1e-10, 1e-10),
    st.floats(1e-3, 1e3).filter(lambda d: d != 1.0),
)
def test_a_pair_is_divided_to_more_than_its_own_precision(quotient, low, divisor):
    high = quotient * divisor
    low = low * abs(high) * 2.0**-20
    ours = divide_pair(np, (np.array([high]), np.array([low])), divisor)
    exact = (Fraction(high) + Fraction(low)) / Fraction(divisor)
    error = abs(Fraction(float(ours[0][0])) + Fraction(float(ours[1][0])) - exact)
    # 2⁻⁵³ of the correction, which is no larger than the grid or the low part.
    assert error <= Fraction(2) ** -66 + abs(exact) * Fraction(2) ** -72


def test_dividing_by_one_changes_nothing():
    pair = (np.array([3.0]), np.array([1e-20]))
    assert divide_pair(np, pair, 1.0) is pair


def test_the_tolerance_grows_with_the_dtype_s_spacing_and_the_number_of_symbols():
    for epsilon, length in ((2.0**-52, 1), (2.0**-23, 10**6), (2.0**-10, 5)):
        expected = 8 * max(epsilon, 2.0**-23) + 4 * math.sqrt(length) * 2.0**-23
        assert unit_sum_tolerance(epsilon, length) == expected
