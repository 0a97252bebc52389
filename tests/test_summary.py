"""The mergeable statistics of losses."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xent.errors import OptionError, ShapeError
from xent.scoring import LossSummary

losses = st.one_of(st.floats(0.0, 1e3), st.just(math.inf))
weights = st.one_of(st.just(0.0), st.floats(1e-3, 1e3))
rows = st.lists(st.tuples(losses, weights), min_size=1, max_size=30)


def exact(pairs):
    """Log loss and squared standard error as fractions, over rows of positive weight."""
    kept = [(Fraction(loss), Fraction(w)) for loss, w in pairs if w > 0]
    total = sum(w for _, w in kept)
    mean = sum(loss * w for loss, w in kept) / total
    n = len(kept)
    if n < 2:
        return mean, None
    spread = sum((w * (loss - mean)) ** 2 for loss, w in kept)
    return mean, Fraction(n, n - 1) * spread / total**2


def close(a: float, b: float, scale: float = 1.0) -> bool:
    return a == b or abs(a - b) <= 1e-9 * max(abs(a), abs(b)) + 1e-9 * scale


@given(rows, st.lists(st.integers(0, 3), min_size=30, max_size=30))
def test_any_split_merges_to_the_whole(pairs, owner):
    whole = LossSummary.from_rows([p[0] for p in pairs], [p[1] for p in pairs])
    parts = []
    for k in range(4):
        mine = [p for p, o in zip(pairs, owner, strict=False) if o == k]
        parts.append(LossSummary.from_rows([p[0] for p in mine], [p[1] for p in mine]))
    flat = parts[0].merge(*parts[1:])
    nested = parts[3].merge(parts[1].merge(parts[2])).merge(parts[0])
    for merged in (flat, nested):
        assert merged.n == whole.n
        assert merged.infinite_rows == whole.infinite_rows
        assert close(merged.weight, whole.weight)
        assert close(merged.weight_squared, whole.weight_squared)
        assert close(merged.infinite_weight_squared, whole.infinite_weight_squared)
        if whole.finite_rows:
            assert close(merged.finite_log_loss, whole.finite_log_loss)
            assert close(merged.finite_total, whole.finite_total, 1e3)
        if whole.standard_error is None:
            assert merged.standard_error is None
        else:
            assert close(merged.standard_error, whole.standard_error, 1e3 * 1e-3)


@given(st.lists(st.tuples(st.floats(0.0, 1e3), st.floats(1e-3, 1e3)), min_size=1, max_size=20))
def test_the_scores_equal_the_exact_formula(pairs):
    summary = LossSummary.from_rows([p[0] for p in pairs], [p[1] for p in pairs])
    mean, squared = exact(pairs)
    assert summary.log_loss == pytest.approx(float(mean), rel=1e-14, abs=1e-300)
    if squared is None:
        assert summary.standard_error is None
    else:
        assert summary.standard_error == pytest.approx(float(squared) ** 0.5, rel=1e-9, abs=1e-11)


def test_a_loss_of_a_million_keeps_the_variance_of_its_ninth_digit():
    values = 1e6 + np.array([-1e-3, 0.0, 1e-3, 2e-3, -2e-3])
    _, squared = exact([(float(v), 1.0) for v in values])
    want = float(squared) ** 0.5
    assert LossSummary.from_rows(values).standard_error == pytest.approx(want, rel=1e-6)
    parts = [LossSummary.from_rows([v]) for v in values]
    assert parts[0].merge(*parts[1:]).standard_error == pytest.approx(want, rel=1e-6)


def test_the_standard_error_of_equal_weights_is_the_textbook_one():
    values = np.random.default_rng(1).exponential(size=1000)
    summary = LossSummary.from_rows(values)
    assert summary.standard_error == pytest.approx(values.std(ddof=1) / 1000**0.5, rel=1e-12)
    assert LossSummary.from_rows(values, np.full(1000, 7.0)).standard_error == pytest.approx(
        summary.standard_error, rel=1e-12
    )


def test_rows_of_weight_zero_count_for_nothing_even_when_infinite():
    with_zero = LossSummary.from_rows([1.0, math.inf, 3.0], [1.0, 0.0, 2.0])
    assert with_zero == LossSummary.from_rows([1.0, 3.0], [1.0, 2.0])
    assert with_zero.log_loss == pytest.approx(7 / 3)


def test_an_infinite_row_makes_the_log_loss_infinite_and_its_error_undefined():
    summary = LossSummary.from_rows([1.0, 2.0, math.inf], [1.0, 1.0, 0.5])
    assert summary.log_loss == math.inf
    assert summary.total == math.inf
    assert summary.standard_error is None
    assert summary.finite_log_loss == 1.5
    assert (summary.infinite_rows, summary.infinite_weight) == (1, 0.5)
    assert summary.infinite_weight_squared == 0.25
    assert summary.n == 3


def test_one_row_has_no_standard_error():
    assert LossSummary.from_rows([0.25]).standard_error is None
    assert LossSummary.from_rows([0.25]).log_loss == 0.25


def test_the_empty_summary_is_neutral():
    some = LossSummary.from_rows([1.0, 2.0, 4.0])
    assert LossSummary().merge(some) == some.merge(LossSummary())
    assert LossSummary().merge(some).log_loss == some.log_loss
    assert math.isnan(LossSummary().log_loss)
    assert LossSummary().merge() == LossSummary()


def test_moving_the_centre_changes_no_score():
    some = LossSummary.from_rows([1.0, 2.0, 4.0], [1.0, 2.0, 3.0])
    moved = some.about(10.0)
    assert moved.centre == 10.0
    assert moved.second_squared == pytest.approx(9.0**2 + (2 * 8.0) ** 2 + (3 * 6.0) ** 2)
    assert moved.log_loss == pytest.approx(some.log_loss, rel=1e-15)
    assert moved.standard_error == pytest.approx(some.standard_error, rel=1e-13)


@pytest.mark.parametrize(
    ("loss", "weight", "error", "words"),
    [
        ([1.0, math.nan], None, OptionError, "nan at row 1"),
        ([-math.inf], None, OptionError, "-inf at row 0"),
        ([[1.0]], None, ShapeError, "vector"),
        ([1.0], [-1.0], OptionError, "-1.0 at row 0"),
        ([1.0, 1.0], [1.0, math.nan], OptionError, "nan at row 1"),
        ([1.0], [math.inf], OptionError, "inf at row 0"),
        ([1.0], [1e-200], OptionError, "divide all by a common factor"),
        ([1.0], [1.0, 2.0], ShapeError, "one weight per row"),
        ([1.0], ["heavy"], OptionError, "must hold numbers"),
    ],
)
def test_what_is_no_loss_or_weight_is_refused(loss, weight, error, words):
    with pytest.raises(error, match=words):
        LossSummary.from_rows(loss, weight)


def test_masked_losses_are_refused():
    with pytest.raises(OptionError, match=r"masked.*Hint: "):
        LossSummary.from_rows(np.ma.array([1.0, 2.0], mask=[True, False]))
