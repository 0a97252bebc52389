"""The arithmetic of the CPU kernels against arithmetic that is wider than it."""

from __future__ import annotations

import mpmath as mp
import numpy as np
import pytest
import torch
from numba import njit

from xent.losses.kernels.numba_arithmetic import (
    LN2,
    PERIODS,
    bits_of,
    constants_of,
    exp_double,
    fma,
    load,
    log1p_double,
    narrow,
    store,
    widen,
)
from xent.losses.kernels.numba_loops import MAGIC, exp_single, log1p_single

F, N = np.float32, np.int32
KINDS = {
    "float32": (np.float32(0), np.float32),
    "float64": (np.float64(0), np.float64),
    "bfloat16": (np.uint16(0), np.uint16),
    "float16": (np.int16(0), np.int16),
    "int64": (np.int64(0), np.int64),
}


def over(function):
    """Compile a loop of a function over an array: the loop is what LLVM turns into vectors."""

    @njit
    def loop(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    def call(x, dtype=None):
        out = np.empty(x.shape, dtype or x.dtype)
        loop(x, out)
        return out

    return call


# ---- float32's exponential ---------------------------------------------------------------------


@njit
def _exp_single(z, shift, constants, out):
    for i in range(z.size):
        out[i] = exp_single(z[i], shift, constants)


def single(z, temperature=1.0, shift=0):
    """Return exp(z/T)·2^−shift by `exp_single`, told what its docstring says."""
    constants = constants_of(temperature)
    own = (F(F(shift - 127.25) * constants[1]), F(MAGIC) + F(127.0 - shift))
    out = np.empty(z.shape, np.float32)
    _exp_single(np.asarray(z, np.float32), own, constants, out)
    return out


def wide(z, temperature, shift):
    """Return exp(z/T)·2^−N in float64, whose error of 2^18·2^−52 is 0.001 ulp of float32."""
    return np.exp(z.astype(np.float64) / temperature - shift * LN2)


SHIFTS = [0, 1, -1, 64, -64, 100, -1000, 12345, 2**17, -(2**17), 2**18 - 1, -(2**18)]
TEMPERATURES = [1.0, 0.7, 7.3, 1.0 / 3.0, 2.0**-20, 1e6, 3.0000001]


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("shift", SHIFTS)
def test_exp_single_is_right_to_a_bit_more_than_an_ulp_over_its_whole_range(temperature, shift):
    generator = np.random.default_rng(abs(shift) + 1)
    turns = np.concatenate(
        [
            generator.uniform(shift - 126.0, shift + 127.4, 20_000),
            shift + np.linspace(-1.0, 1.0, 2001),
            shift + np.arange(-125, 127) + 0.5,
        ]
    )
    z = (turns * LN2 * temperature).astype(np.float32)
    truth = wide(z, temperature, shift)
    z, truth = (a[(truth >= 2.0**-126) & (truth < 2.0**128)] for a in (z, truth))
    assert z.size > 100
    error = np.abs(single(z, temperature, shift) - truth) / np.spacing(truth.astype(np.float32))
    assert error.max() <= 1.25


@pytest.mark.parametrize("temperature", [1.0, 0.7, 7.3, 1e-6, 2.0**20])
@pytest.mark.parametrize("shift", [0, 64, -1000, 2**18])
def test_exp_single_ends_in_zero_and_never_in_anything_else(temperature, shift):
    turns = shift - np.concatenate([np.linspace(126, 200, 5000), np.geomspace(200, 2**20, 1000)])
    z = (turns * LN2 * temperature).astype(np.float32)
    got, truth = single(z, temperature, shift), wide(z, temperature, shift)
    assert np.all(got >= 0.0)
    assert np.all(got[truth < 2.0**-127.5] == 0.0)
    assert np.all(np.abs(got - truth) <= 2.0**-126)
    assert np.all(np.diff(got) <= 2.0**-148)  # an ulp of rounding


def test_exp_single_of_masked_and_far_logits_is_zero_and_of_nan_nan():
    nan = np.array([0x7FC00000, 0xFFC00000, 0x7F800001], np.uint32).view(np.float32)
    for shift in (0, -(2**18), 2**18):
        far = np.array([-np.inf, -3e38, -1e30, -1e10], np.float32)
        np.testing.assert_array_equal(single(far, 1.0, shift), 0.0)
        assert np.all(np.isnan(single(nan, 1.0, shift)))


def test_exp_single_of_zero_is_one():
    np.testing.assert_array_equal(single(np.array([0.0, -0.0, 1e-40, -1e-40])), 1.0)


def test_the_bits_of_exp_single_do_not_depend_on_how_many_are_computed_together():
    z = np.random.default_rng(0).uniform(-150.0, 80.0, 257).astype(np.float32)
    together = single(z, 0.7, 3)
    for start, stop in ((0, 1), (1, 2), (3, 10), (1, 16), (5, 38), (200, 257)):
        alone = single(z[start:stop], 0.7, 3)
        np.testing.assert_array_equal(alone.view(np.int32), together[start:stop].view(np.int32))


# ---- float64's exponential and logarithms ---------------------------------------------------------

many_exp = over(exp_double)
many_log1p = over(log1p_double)
many_short_log1p = over(log1p_single)


def ulps_of(got, x, function):
    """Return the worst error in units of the last place of float64, by mpmath."""
    worst = 0.0
    with mp.workprec(160):
        for value, at in zip(got, x, strict=True):
            truth = function(mp.mpf(float(at)))
            unit = float(np.spacing(float(truth)))
            worst = max(worst, float(abs(mp.mpf(float(value)) - truth) / unit))
    return worst


def test_exp_double_is_right_to_an_ulp():
    generator = np.random.default_rng(1)
    x = np.concatenate(
        [
            generator.uniform(-708.0, 709.0, 4000),
            generator.uniform(-2.0, 2.0, 3000),
            np.arange(-1020, 1020) * LN2 + LN2 / 2,
            np.geomspace(1e-300, 1.0, 200),
            -np.geomspace(1e-300, 1.0, 200),
        ]
    )
    assert ulps_of(many_exp(x), x, mp.exp) <= 1.0


def test_exp_double_rounds_a_subnormal_result_once():
    x = np.random.default_rng(2).uniform(-745.2, -708.0, 4000)
    assert ulps_of(many_exp(x), x, mp.exp) <= 1.0


def test_exp_double_of_special_numbers():
    x = np.array([0.0, -0.0, -746.0, -760.0, -1e308, -np.inf, np.nan, -np.nan])
    np.testing.assert_array_equal(many_exp(x), [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, np.nan, np.nan])


REMAINDERS = np.concatenate(
    [
        np.random.default_rng(3).uniform(0.0, 4.0, 4000),
        np.geomspace(1e-300, 1e300, 3000),
        2.0 ** np.arange(-60, 60) - 1.0 + 2.0**-60,
        np.sqrt(2.0) * 2.0 ** np.arange(0, 60) - 1.0,  # where 1 + f turns over
        np.nextafter(np.sqrt(2.0) * 2.0 ** np.arange(0, 60), 0.0) - 1.0,
        np.linspace(0.0, 2.0**-16, 500),
        [5e-324, 1e-310, 1.7e308],
    ]
)
REMAINDERS = REMAINDERS[REMAINDERS >= 0]


def test_log1p_double_is_right_to_two_ulp():
    x = REMAINDERS[REMAINDERS > 0]
    assert ulps_of(many_log1p(x), x, mp.log1p) <= 2.0


def test_log1p_of_special_numbers():
    x = np.array([0.0, np.inf, np.nan, -np.nan])
    np.testing.assert_array_equal(many_log1p(x), [0.0, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(many_short_log1p(x), [0.0, np.nan, np.nan, np.nan])


def test_log1p_single_is_right_to_a_billionth():
    # NumPy's own log1p, right to an ulp of float64, is exact enough for that.
    x = REMAINDERS[(REMAINDERS <= 2.0**20) & (REMAINDERS > 0)]
    x = np.concatenate([x, np.random.default_rng(4).uniform(0.0, 2.0**20, 100_000)])
    assert np.max(np.abs(many_short_log1p(x) / np.log1p(x) - 1.0)) <= 1e-9


# ---- bits ---

BITS = np.concatenate(
    [
        np.random.default_rng(5).integers(0, 2**32, 100_000, np.uint32),
        np.arange(2**16, dtype=np.uint32) << np.uint32(16),
        np.array([0, 1, 0x80000000, 0x80000001, 0x7F800000, 0xFF800000, 0x7F7FFFFF], np.uint32),
    ]
)


def test_bits_come_and_go_unchanged():
    there = over(bits_of)(BITS.view(np.float32), np.int32)
    np.testing.assert_array_equal(there.view(np.uint32), BITS)
    back = over(bits_of)(there, np.float32)
    np.testing.assert_array_equal(back.view(np.uint32), BITS)
    x = np.random.default_rng(6).standard_normal(100)
    np.testing.assert_array_equal(over(bits_of)(x, np.int64), x.view(np.int64))


def test_fma_rounds_once():
    @njit
    def f(a, b, c):
        return fma(a, b, c)

    for a, b, c in ((1 + 2.0**-30, 1 - 2.0**-30, -1.0), (0.1, 10.0, -1.0), (LN2, PERIODS, -1.0)):
        with mp.workprec(300):
            truth = float(mp.mpf(a) * mp.mpf(b) + mp.mpf(c))
        assert f(a, b, c) == truth
        assert truth != a * b + c  # it does matter
    assert f(F(1 + 2.0**-20), F(1 - 2.0**-20), F(-1.0)) == F(-(2.0**-40))


# ---- half types -------------------------------------------------------------------------------------

EVERY_WORD = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
TAILS = np.array([0, 1, 0x0FFF, 0x1000, 0x1001, 0x1FFF, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
SINGLES = np.concatenate(
    [
        ((EVERY_WORD.astype(np.uint32) << np.uint32(16))[:, None] | TAILS).ravel(),
        np.random.default_rng(7).integers(0, 2**32, 300_000, np.uint32),
    ]
).view(np.float32)
"""Every sign, exponent and leading fraction that float32 has, with the tails that decide a rounding."""


def assert_same_words(got, truth, is_nan):
    """Compare bit patterns; NaN may be any NaN."""
    numbers = ~is_nan
    np.testing.assert_array_equal(got[numbers], truth[numbers])


def narrowed(x, kind):
    kind, dtype = KINDS[kind]

    @njit
    def loop(x, out):
        for i in range(x.size):
            out[i] = narrow(x[i], kind)

    out = np.empty(x.shape, dtype)
    loop(x, out)
    return out


def test_every_bfloat16_widens_exactly():
    got = over(widen)(EVERY_WORD, np.float32)
    truth = torch.from_numpy(EVERY_WORD.view(np.int16)).view(torch.bfloat16).float().numpy()
    assert_same_words(got.view(np.uint32), truth.view(np.uint32), np.isnan(truth))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(truth))


def test_every_float16_widens_exactly():
    got = over(widen)(EVERY_WORD.view(np.int16), np.float32)
    truth = EVERY_WORD.view(np.float16).astype(np.float32)
    assert_same_words(got.view(np.uint32), truth.view(np.uint32), np.isnan(truth))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(truth))


def test_wide_types_and_integers_widen_as_they_are():
    x = np.random.default_rng(8).standard_normal(50)
    np.testing.assert_array_equal(over(widen)(x), x)
    np.testing.assert_array_equal(over(widen)(x.astype(np.float32)), x.astype(np.float32))
    whole = np.array([0, 1, -1, 2**24, -100], np.int64)
    np.testing.assert_array_equal(over(widen)(whole, np.float32), whole)


def test_float32_is_rounded_to_bfloat16_as_torch_does():
    got = narrowed(SINGLES, "bfloat16")
    truth = torch.from_numpy(SINGLES.copy()).to(torch.bfloat16).view(torch.int16).numpy()
    nan = np.isnan(SINGLES)
    assert_same_words(got, truth.view(np.uint16), nan)
    assert np.all(np.isnan(over(widen)(got[nan], np.float32)))


@pytest.mark.filterwarnings("ignore:overflow")
def test_float32_is_rounded_to_float16_as_numpy_does():
    got = narrowed(SINGLES, "float16")
    truth = SINGLES.astype(np.float16).view(np.int16)
    nan = np.isnan(SINGLES)
    assert_same_words(got, truth, nan)
    assert np.all(np.isnan(got[nan].view(np.float16)))


@pytest.mark.parametrize(("kind", "spacing"), [("bfloat16", 2.0**-7), ("float16", 2.0**-10)])
def test_float64_is_rounded_to_half_types_and_to_float32(kind, spacing):
    x = np.random.default_rng(9).uniform(1.0, 2.0, 50_000)
    got = over(widen)(narrowed(x, kind), np.float32).astype(np.float64)
    # Half a spacing, and what a rounding to float32 on the way can add.
    assert np.max(np.abs(got - x)) <= spacing / 2 + 2.0**-24
    np.testing.assert_array_equal(narrowed(x, "float32"), x.astype(np.float32))
    np.testing.assert_array_equal(narrowed(x, "float64"), x)
    np.testing.assert_array_equal(narrowed(x.astype(np.float32), "float64"), x.astype(np.float32))


# ---- memory -----------------------------------------------------------------------------------------


def numbers_of(kind, shape, generator):
    """Return random numbers in a kind's storage, and the float32 that they are."""
    x = generator.standard_normal(shape).astype(np.float32)
    if kind == "bfloat16":
        stored = torch.from_numpy(x).to(torch.bfloat16)
        return stored.view(torch.int16).numpy().view(np.uint16).copy(), stored.float().numpy()
    if kind == "float16":
        return x.astype(np.float16).view(np.int16), x.astype(np.float16).astype(np.float32)
    if kind == "int64":
        whole = generator.integers(-1000, 1000, shape)
        return whole, whole.astype(np.float32)
    if kind == "float64":
        stored = generator.standard_normal(shape)
        return stored, stored.astype(np.float32)
    return x, x


@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16", "float16", "int64"])
def test_elements_are_loaded_and_stored_where_the_index_says(kind):
    zero, dtype = KINDS[kind]

    @njit
    def move(source, i, target, j):
        store(target, j, load(source, i, zero))

    source = np.arange(1, 12).astype(dtype)
    target = np.zeros(11, dtype)
    move(source.ctypes.data, 7, target.ctypes.data, 2)
    move(source.ctypes.data + 10 * source.itemsize, -1, target.ctypes.data, 10)
    np.testing.assert_array_equal(target, np.array([0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 10], dtype))
