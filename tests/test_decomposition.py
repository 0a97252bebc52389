"""Histograms of predictions, the split of their scores, reliability and smooth calibration error."""

from __future__ import annotations

import json
import math
import sys
import threading
from fractions import Fraction

import duckdb
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression
from scipy.special import expit, logit, xlogy

from xent.errors import (
    DistributionError,
    MissingExtraError,
    OptionError,
    ShapeError,
    TargetError,
)
from xent.scoring import LossSummary, decomposition, reliability
from xent.scoring.decomposition import decompose
from xent.scoring.histogram import (
    BIN_OF_ONE,
    BIN_OF_ZERO,
    BINS_PER_NAT,
    Histogram,
    bin_of,
    bin_of_fine_sql,
    fine_bin_sql,
)
from xent.scoring.prediction_sql import logs_sql
from xent.scoring.reliability import reliability_curve, smooth_calibration_error

SCORES = ["log_loss", "brier"]
laws = settings(max_examples=80, deadline=None, database=None, derandomize=True)
extremes = [0.0, 5e-324, 1e-300, 1e-18, 1e-4, 0.5, 1 - 1e-4, 1 - 2.0**-53, 1.0]
probabilities = st.one_of(st.floats(0.0, 1.0), st.sampled_from(extremes))
truths = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0))
weights = st.one_of(st.just(0.0), st.floats(1e-3, 1e3))
rows = st.lists(st.tuples(probabilities, truths, weights), min_size=1, max_size=40).filter(
    lambda pairs: any(w for *_, w in pairs)
)
within_few_bins = st.one_of(st.floats(0.5, 0.53), st.floats(1e-6, 1.1e-6))
finite_rows = st.lists(
    st.tuples(
        st.one_of(st.floats(1e-12, 1 - 1e-12), within_few_bins), truths, st.floats(1e-3, 1e3)
    ),
    min_size=1,
    max_size=40,
)


def histogram(triples):
    return Histogram.from_rows(*(np.array(column) for column in zip(*triples, strict=True)))


def drawn(n, base, slope=1.0, shift=0.0, spread=1.5, seed=0):
    """Return predictions, the probability of the truth, and a truth; slope 1, shift 0: calibrated."""
    g = np.random.default_rng(seed)
    z = g.normal(logit(base), spread, n)
    truth = expit(logit(base) + shift + slope * (z - logit(base)))
    return expit(z), truth, (g.random(n) < truth).astype(float)


def terms(found):
    return np.array([found.score, found.miscalibration, found.discrimination, found.uncertainty])


def unbinned(p, y, w=None, score="log_loss"):
    """Return the four terms by isotonic regression of the rows, as CORP defines them."""
    w = np.ones_like(p) if w is None else w

    def mean_score(q):
        losses = -xlogy(y, q) - xlogy(1 - y, 1 - q) if score == "log_loss" else (q - y) ** 2
        return np.average(losses, weights=w)

    _, place = np.unique(p, return_inverse=True)
    weight = np.bincount(place, weights=w)
    fit = isotonic_regression(np.bincount(place, weights=w * y) / weight, weights=weight)
    recalibrated = np.clip(fit.x, 0, 1)[place]
    base_rate = np.full_like(p, np.average(y, weights=w))
    s, best, base = mean_score(p), mean_score(recalibrated), mean_score(base_rate)
    return np.array([s, s - best, base - best, base])


# ---- bins ----------------------------------------------------------------------------------------


def test_bins_are_uniform_in_the_logit():
    g = np.random.default_rng(0)
    some = [*g.random(300), *np.exp(-700 * g.random(300)), *(1 - np.exp(-36 * g.random(300)))]
    with mp.workdps(400):
        for p in [*some, *extremes[1:-1]]:
            scaled = BINS_PER_NAT * mp.log(mp.mpf(p) / (1 - mp.mpf(p)))
            assert abs(scaled - mp.nint(scaled)) < 1e-10 or bin_of(p) == min(
                max(int(mp.floor(scaled)), -640), 639
            )
    assert bin_of([0.0, 0.5, 1.0]).tolist() == [BIN_OF_ZERO, 0, BIN_OF_ONE] == [-641, 0, 640]
    assert bin_of(np.float32(0.1)) == bin_of(float(np.float32(0.1)))


def test_odds_within_a_bin_differ_by_a_sixteenth_of_a_nat_at_most():
    p = np.sort(expit(np.linspace(-39.9, 36, 100_001)))
    z, bins = np.log(p / (1 - p)), bin_of(p)
    assert (np.diff(bins) >= 0).all()
    starts = np.flatnonzero(np.diff(bins, prepend=-700))
    spread = np.maximum.reduceat(z, starts) - np.minimum.reduceat(z, starts)
    assert spread[1:600].min() > 0.06
    assert spread.max() <= 1 / 16 + 1e-9


@pytest.mark.parametrize("p", [-1e-9, 1 + 1e-9, math.nan, math.inf])
def test_what_is_no_probability_has_no_bin(p):
    with pytest.raises(DistributionError, match=r"in \[0, 1\]: got .* at position 1.*Hint: "):
        bin_of([0.5, p])


def binned(table):
    """Return a FROM clause of rows with the bin of their ``p``, as a score computes it."""
    log_p, log_rest = logs_sql("p", "(1.0 - p)")
    logs = f"(SELECT *, {log_p} AS lp, {log_rest} AS lr FROM {table})"
    return f"(SELECT *, {bin_of_fine_sql(fine_bin_sql('lp', 'lr'))} AS bin FROM {logs})"


def engine_bins(p, kind):
    with duckdb.connect() as engine:
        engine.register("given", {"i": np.arange(p.size), "p": p})
        engine.execute(f"CREATE TABLE t AS SELECT i, CAST(p AS {kind}) AS p FROM given")
        doubles = "(SELECT i, CAST(p AS DOUBLE) AS p FROM t)"
        return engine.sql(f"SELECT bin FROM {binned(doubles)} ORDER BY i").fetchnumpy()["bin"]


@pytest.mark.parametrize(("kind", "dtype"), [("DOUBLE", np.float64), ("FLOAT", np.float32)])
def test_the_engine_puts_probabilities_into_the_same_bins(kind, dtype):
    g = np.random.default_rng(1)
    p = np.concatenate(
        [
            extremes,
            g.random(30_000),
            np.exp(-744 * g.random(9_000)),
            1 - np.exp(-37 * g.random(9_000)),
        ]
    ).astype(dtype)
    found = engine_bins(p, kind)
    assert not np.ma.is_masked(found)
    inside = (p > 0) & (p < 1)
    scaled = BINS_PER_NAT * logit(np.where(inside, p, 0.6).astype(float))
    at_edge = np.abs(scaled - np.round(scaled)) < 1e-9
    assert at_edge.sum() < 50
    assert (found == bin_of(p))[~at_edge].all()
    assert found[~inside].tolist() == np.where(p[~inside] == 0, BIN_OF_ZERO, BIN_OF_ONE).tolist()


def test_the_engine_can_sum_what_a_histogram_holds():
    p, _, y = drawn(5000, 0.1)
    w = np.random.default_rng(2).exponential(size=5000)
    loss = "-ln(CASE WHEN y = 1 THEN p ELSE 1 - p END)"
    with duckdb.connect() as engine:
        engine.register("t", {"p": p, "y": y, "w": w})
        sums = engine.sql(
            "SELECT bin AS bins, count(*) AS rows, sum(w) AS weight, "
            "sum(w * w) AS weight_squared, sum(w * y) AS hits, 0.0 AS softness, sum(w * p) AS "
            f"probability, sum(w * (1 - p)) AS complement, sum(w * {loss}) AS loss, "
            "sum(w * (p - y) ** 2) AS squared, 0 AS infinite_rows, 0.0 AS infinite_weight "
            f"FROM {binned('t')} GROUP BY bins ORDER BY bins"
        ).fetchnumpy()
    by_engine, by_rows = Histogram(**sums), Histogram.from_rows(p, y, w)
    for name, column in by_rows.to_dict().items():
        np.testing.assert_allclose(getattr(by_engine, name), column, rtol=1e-12, err_msg=name)


# ---- the histogram -------------------------------------------------------------------------------


@laws
@given(rows)
def test_the_sums_are_those_of_the_rows(triples):
    found = histogram(triples)
    kept = [row for row in triples if row[2] > 0]
    bins = bin_of([p for p, *_ in kept]).tolist()
    assert found.bins.tolist() == sorted(set(bins))
    for place, number in enumerate(found.bins):
        mine = [row for row, k in zip(kept, bins, strict=True) if k == number]
        exact = [tuple(map(Fraction, row)) for row in mine]
        losses = [
            (w, -(float(xlogy(y, p)) + (float((1 - y) * np.log1p(-p)) if y < 1 else 0.0)))
            for p, y, w in mine
            if (p > 0 or y == 0) and (p < 1 or y == 1)
        ]
        assert found.rows[place] == len(mine)
        assert found.infinite_rows[place] == len(mine) - len(losses)
        assert (found.infinite_rows[place] == 0) or number in (BIN_OF_ZERO, BIN_OF_ONE)
        want = {
            "weight": sum(w for *_, w in exact),
            "weight_squared": sum(w * w for *_, w in exact),
            "hits": sum(w * y for _, y, w in exact),
            "softness": sum(w * y * (1 - y) for _, y, w in exact),
            "probability": sum(w * p for p, _, w in exact),
            "complement": sum(w * (1 - p) for p, _, w in exact),
            "squared": sum(w * (p - y) ** 2 for p, y, w in exact),
            "loss": math.fsum(w * loss for w, loss in losses),
        }
        for name, sum_ in want.items():
            assert getattr(found, name)[place] == pytest.approx(float(sum_), rel=1e-13, abs=1e-300)
        infinite = float(want["weight"]) - math.fsum(w for w, _ in losses)
        assert found.infinite_weight[place] == pytest.approx(infinite, rel=1e-12, abs=1e-9)


@laws
@given(rows, st.lists(st.integers(0, 3), min_size=40, max_size=40), st.randoms())
def test_any_split_in_any_order_merges_to_the_whole(triples, owner, random):
    whole = histogram(triples)
    shuffled = list(zip(triples, owner, strict=False))
    random.shuffle(shuffled)
    parts = [
        Histogram.from_rows(*np.array([row for row, o in shuffled if o == k]).reshape(-1, 3).T)
        for k in range(4)
    ]
    for merged in (parts[0].merge(*parts[1:]), parts[3].merge(parts[1].merge(parts[2]), parts[0])):
        assert merged.bins.tolist() == whole.bins.tolist()
        assert merged.rows.tolist() == whole.rows.tolist()
        for name, column in whole.to_dict().items():
            np.testing.assert_allclose(getattr(merged, name), column, rtol=1e-13, err_msg=name)


def test_rows_without_a_weight_are_not_looked_at():
    p, y, w = [0.5, np.nan, 0.0, 0.9], [1, 1, 1, np.nan], [2.0, 0.0, 0.0, 0.0]
    assert (
        Histogram.from_rows(p, y, w).to_dict() == Histogram.from_rows([0.5], [1], [2.0]).to_dict()
    )
    assert Histogram.from_rows([0.5], [1], [0.0]).bins.size == 0


def test_a_histogram_survives_json():
    found = histogram([(0.0, 1.0, 0.5), (0.3, 0.0, 2.0), (0.3, 0.25, 1.0), (1.0, 1.0, 1.0)])
    again = Histogram.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.to_dict() == found.to_dict()
    assert again.infinite_rows.dtype == np.int64
    empty = Histogram.from_rows([], [])
    assert Histogram.from_dict(json.loads(json.dumps(empty.to_dict()))).merge(found).to_dict() == (
        found.to_dict()
    )


def test_sums_do_not_lose_digits_to_the_number_of_rows():
    n = 10**6
    found = Histogram.from_rows(np.full(n, 0.1), np.zeros(n), np.full(n, 0.1))
    with mp.workdps(40):
        tenth = mp.mpf(0.1)
        assert abs(found.loss[0] / (-n * tenth * mp.log1p(-tenth)) - 1) < 1e-14
        assert abs(found.probability[0] / (n * tenth * tenth) - 1) < 1e-14


def test_any_real_dtype_is_taken_and_inputs_are_left_as_they_were():
    p, y = np.array([0.25, 0.75], dtype=np.float32), np.array([True, False])
    for array in (p, y):
        array.flags.writeable = False
    found = Histogram.from_rows(p, y)
    assert found.to_dict() == Histogram.from_rows([0.25, 0.75], [1, 0]).to_dict()
    torch = pytest.importorskip("torch")
    tensor = torch.tensor([0.25, 0.75], dtype=torch.bfloat16, requires_grad=True)
    assert Histogram.from_rows(tensor, torch.tensor([1, 0])).to_dict() == found.to_dict()
    with pytest.raises(ValueError, match="read-only"):
        found.weight[0] = 0.0


@pytest.mark.parametrize(
    ("given_", "error", "words"),
    [
        (([0.5, 1.5], [0, 1]), DistributionError, r"\[0, 1\]: got 1.5 at row 1"),
        (([0.5, np.nan], [0, 1]), DistributionError, "got nan at row 1"),
        (([0.5, 0.5], [0, 2]), TargetError, "got 2.0 at row 1"),
        (([0.5, 0.5], [0]), ShapeError, "shape"),
        (([[0.5, 0.5]], [[0, 1]]), ShapeError, "a vector, one number per row"),
        (([0.5], [0], [1.0, 1.0]), ShapeError, "one weight per row"),
        (([0.5], [0], [-1.0]), OptionError, "-1.0 at row 0"),
        ((["half"], [0]), OptionError, "real numbers"),
        ((np.ma.array([0.5, 0.2], mask=[0, 1]), [0, 1]), OptionError, "masked"),
    ],
)
def test_what_is_no_row_is_refused(given_, error, words):
    with pytest.raises(error, match=words) as caught:
        Histogram.from_rows(*given_)
    assert "Hint: " in str(caught.value)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"bins": [0, 0]}, OptionError, "in order, each once: got 0"),
        ({"bins": [0, 641]}, OptionError, r"in \[-641, 640\]: got 641"),
        ({"bins": [0.5, 1]}, OptionError, "whole numbers .* got 0.5"),
        ({"rows": [1, -1]}, OptionError, "rows must .* got -1"),
        ({"loss": [1.0, math.inf]}, OptionError, "loss must .* finite numbers .* got inf"),
        ({"loss": [1.0, None]}, OptionError, "got nan"),
        ({"loss": [1.0, "much"]}, OptionError, "loss must hold numbers"),
        ({"loss": [[1.0, 1.0]]}, OptionError, r"got shape \(1, 2\)"),
        ({"loss": [1.0]}, ShapeError, "one number for each bin"),
        ({"losses": [1.0, 1.0]}, OptionError, "must have the columns .* losses"),
    ],
)
def test_what_is_no_histogram_is_refused(change, error, words):
    columns = {**Histogram.from_rows([0.5, 0.9], [1, 0]).to_dict(), **change}
    with pytest.raises(error, match=words) as caught:
        Histogram.from_dict(columns)
    assert "Hint: " in str(caught.value)


# ---- the terms against isotonic regression of the rows -------------------------------------------

SETTINGS = [  # base rate, slope, shift: calibrated, too timid, too bold, uninformative, biased
    (base, *rest)
    for base in (0.5, 1e-2, 1e-4)
    for rest in ((1.0, 0.0), (2.0, 0.0), (0.5, 0.0), (0.0, 0.0), (1.0, 1.0), (1.0, -1.0))
]


def bound_of_binning(p, g, slope, score):
    """Return the bound of `decompose`'s docstring, with a tenth more for higher orders."""
    largest = np.maximum(p * (1 - p), g * (1 - g))
    if score == "log_loss":
        return 1.1 * max(1.0, slope**2) * float(largest.mean()) / 2048
    return 1.1 * max(1.0, slope**2) * float((largest**2).mean()) / 1024


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(("base", "slope", "shift"), SETTINGS)
def test_binning_costs_no_more_than_it_says(base, slope, shift, score):
    # The truth is its own probability, so isotonic regression of the rows fits no noise.
    p, truth, _ = drawn(100_000, base, slope, shift)
    found, rows_ = (
        terms(decompose(Histogram.from_rows(p, truth), score)),
        unbinned(p, truth, score=score),
    )
    rounding = 1e-12 * base
    assert np.abs(found - rows_)[[0, 3]].max() <= rounding
    bound = bound_of_binning(p, truth, slope, score)
    assert np.abs(found - rows_)[[1, 2]].max() <= bound + rounding
    assert bound < max(1, slope**2) * 1.4e-4


@pytest.mark.parametrize(
    ("base", "slope", "shift", "n"),
    [
        (*case, n)
        for case in SETTINGS
        for n in ((10_000, 200_000) if case[0] > 1e-4 else (1_000_000,))
    ],
)
def test_each_term_is_that_of_the_rows_and_near_the_known_truth(base, slope, shift, n):
    p, truth, y = drawn(n, base, slope, shift, seed=5)
    hits = y.sum()
    assert hits > 30
    binned = Histogram.from_rows(p, y)
    for score in SCORES:
        found, rows_ = terms(decompose(binned, score)), unbinned(p, y, score=score)
        assert np.abs(found - rows_)[[0, 3]].max() <= 1e-13 * rows_[3]
        assert abs(found[1] - found[2] + found[3] - found[0]) <= 1e-13 * rows_[3]
        assert found[1:3].min() >= 0
        # What regression of the rows gains by fitting their noise falls with the number of hits.
        assert np.abs(found - rows_)[[1, 2]].max() <= 0.3 / math.sqrt(hits) * rows_[3]
        exact = unbinned(p, truth, score=score)
        assert np.abs(found - exact)[[1, 2]].max() <= 2 / math.sqrt(hits) * rows_[3]
        if (slope, shift) == (1.0, 0.0):
            assert found[1] < rows_[1]  # which is noise: the truth is 0


@pytest.mark.parametrize("score", SCORES)
def test_each_term_of_weighted_and_soft_rows_with_ties_is_that_of_the_rows(score):
    g = np.random.default_rng(3)
    p = np.round(drawn(20_000, 0.2, seed=6)[0], 2).clip(0.01, 0.99)
    y = np.where(g.random(20_000) < 0.5, g.random(20_000) < p, g.beta(2, 5, 20_000))
    w = g.choice([0.5, 1.0, 3.0], 20_000)
    found = terms(decompose(Histogram.from_rows(p, y, w), score))
    # Above 0.07 several of the values that were rounded to share a bin.
    bound = {"log_loss": 1 / 8192, "brier": 1 / 16384}[score]
    np.testing.assert_allclose(found, unbinned(p, y, w, score), rtol=1e-12, atol=bound)
    few = np.repeat([0.05, 0.2, 0.4, 0.7, 0.9], 4000)
    found = terms(decompose(Histogram.from_rows(few, y, w), score))
    np.testing.assert_allclose(found, unbinned(few, y, w, score), rtol=1e-11, atol=1e-15)


def test_uniform_bins_would_give_a_rare_event_a_negative_miscalibration():
    p, _, y = drawn(1_000_000, 1e-4)
    place = np.minimum((p * 20).astype(int), 19)
    n, hits = np.bincount(place, minlength=20), np.bincount(place, weights=y, minlength=20)
    filled = n > 0
    share = isotonic_regression(hits[filled] / n[filled], weights=n[filled]).x
    score = np.mean(-xlogy(y, p) - xlogy(1 - y, 1 - p))
    recalibrated = -np.sum(xlogy(hits[filled], share) + xlogy((n - hits)[filled], 1 - share)) / len(
        p
    )
    assert score - recalibrated < -1e-4
    found = decompose(Histogram.from_rows(p, y))
    assert 0 <= found.miscalibration < 1e-4
    assert found.score == pytest.approx(score, rel=1e-12)


def exact_decomposition(groups, score):
    """Return miscalibration, discrimination and uncertainty of (p, hits, rows), at 60 digits."""
    blocks = []
    for _, hits, n in sorted(groups):
        blocks.append([Fraction(hits), Fraction(n), 1])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    fit = [h / n for h, n, k in blocks for _ in range(k)]
    total, base = sum(n for *_, n in groups), Fraction(sum(h for _, h, _ in groups), 1)
    base /= total

    def divergence(m, q):
        m, q = (mp.mpf(x.numerator) / x.denominator for x in (m, q))
        if score == "brier":
            return (m - q) ** 2
        return sum(a * mp.log(a / b) for a, b in ((m, q), (1 - m, 1 - q)) if a)

    def mean(values):
        return mp.fsum(n * v for (*_, n), v in zip(sorted(groups), values, strict=True)) / total

    truth = [Fraction(h, n) for _, h, n in sorted(groups)]
    given_ = [Fraction(p) for p, *_ in sorted(groups)]
    miscalibration = mean(
        divergence(t, p) - divergence(t, m) for t, p, m in zip(truth, given_, fit, strict=True)
    )
    b = mp.mpf(base.numerator) / base.denominator
    uncertainty = b * (1 - b) if score == "brier" else -sum(x * mp.log(x) for x in (b, 1 - b) if x)
    return miscalibration, mean(divergence(m, base) for m in fit), uncertainty


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    "groups",
    [
        [(0.25, 1, 4), (0.75, 3, 4)],
        [(0.25, 2, 4), (0.75, 1, 4)],
        [(0.25 + 1e-9, 1, 4), (0.75, 3, 4)],
        [(0.5, 500_001, 1_000_000)],
        [(0.1, 10, 100), (0.2, 19, 100), (0.3, 28, 100), (0.9, 95, 100)],
        [(1e-4, 1, 10_000), (1e-3, 0, 1000), (1e-2, 3, 100)],
        [(1 - 1e-9, 9, 10), (1 - 1e-12, 1000, 1000), (1e-15, 1, 1000)],
        [(0.0, 0, 50), (0.3, 1, 10), (1.0, 40, 40)],
    ],
)
def test_the_terms_keep_their_digits_where_predictions_are_tied(groups, score):
    p = np.repeat([p for p, *_ in groups], [n for *_, n in groups])
    y = np.concatenate([np.arange(n) < h for _, h, n in groups])
    found = decompose(Histogram.from_rows(p, y), score)
    with mp.workdps(60):
        exact = exact_decomposition(groups, score)
        # The distance that is squared is a difference of numbers that are rounded.
        doubt = 1e-13 * exact[0] + 1e-15 * mp.sqrt(exact[0]) + 1e-30
        assert abs(found.miscalibration - exact[0]) <= doubt
        assert abs(found.discrimination - exact[1]) <= 1e-13 * exact[1] + 1e-24
        assert abs(found.uncertainty - exact[2]) <= 1e-14 * exact[2]


# ---- laws of the terms ---------------------------------------------------------------------------


@laws
@given(finite_rows, st.sampled_from(SCORES))
def test_the_score_is_the_sum_of_its_terms_and_none_is_negative(triples, score):
    found = decompose(histogram(triples), score)
    s, miscalibration, discrimination, uncertainty = terms(found)
    assert (
        abs(miscalibration - discrimination + uncertainty - s) <= 1e-13 * (s + uncertainty) + 1e-30
    )
    assert miscalibration >= 0
    assert 0 <= discrimination <= uncertainty * (1 + 1e-14)
    assert uncertainty <= (math.log(2) if score == "log_loss" else 0.25) + 1e-15
    p, y, w = (np.array(column) for column in zip(*triples, strict=True))
    direct = -xlogy(y, p) - (1 - y) * np.log1p(-p) if score == "log_loss" else (p - y) ** 2
    assert s == pytest.approx(np.average(direct, weights=w), rel=1e-12, abs=1e-300)


@laws
@given(rows, st.sampled_from(SCORES), st.sampled_from([1e-90, 0.1, 7.0, 1e90]))
def test_neither_the_order_nor_the_scale_of_weights_changes_a_term(triples, score, factor):
    found = terms(decompose(histogram(triples), score))
    turned = [(p, y, w * factor) for p, y, w in triples[::-1]]
    again = terms(decompose(histogram(turned), score))
    np.testing.assert_allclose(again, found, rtol=1e-9, atol=1e-13)


@laws
@given(finite_rows, st.sampled_from(SCORES))
def test_the_other_outcome_has_the_same_terms(triples, score):
    found = terms(decompose(histogram(triples), score))
    # 1 − p of a bin's lower edge lies on the edge of another, so predictions keep off the edges.
    p, y, w = (np.array(column) for column in zip(*triples, strict=True))
    centres = expit((np.floor(16 * logit(p)) + 0.5) / 16)
    found = terms(decompose(Histogram.from_rows(centres, y, w), score))
    other = terms(decompose(Histogram.from_rows(1 - centres, 1 - y, w), score))
    np.testing.assert_allclose(other, found, rtol=1e-6, atol=1e-12)


def test_the_score_is_the_log_loss():
    p, _, y = drawn(1000, 0.1)
    losses = np.where(y == 1, -np.log(p), -np.log1p(-p))
    w = np.random.default_rng(0).random(1000) + 0.5
    found = decompose(Histogram.from_rows(p, y, w))
    assert found.score == pytest.approx(LossSummary.from_rows(losses, w).log_loss, rel=1e-14)


def test_a_wrong_certainty_makes_the_miscalibration_infinite_and_nothing_else():
    p, y = [0.0, 0.0, 0.3, 0.8, 1.0], [0, 1, 0, 1, 1]
    found = decompose(Histogram.from_rows(p, y))
    assert found.score == found.miscalibration == math.inf
    assert found.uncertainty == pytest.approx(-0.6 * math.log(0.6) - 0.4 * math.log(0.4))
    assert found.discrimination == pytest.approx(unbinned(np.array(p), np.array(y))[2], rel=1e-12)
    assert found.to_dict()["score"] is None
    assert found.to_dict()["infinite"]
    brier = decompose(Histogram.from_rows(p, y), "brier")
    np.testing.assert_allclose(
        terms(brier), unbinned(np.array(p), np.array(y), score="brier"), rtol=1e-12
    )


@pytest.mark.parametrize("score", SCORES)
def test_certainties_that_are_right_cost_nothing(score):
    found = decompose(Histogram.from_rows([0.0, 1.0, 1.0], [0, 1, 1], [0.1, 0.2, 0.7]), score)
    assert found.score == found.miscalibration == 0.0
    assert found.discrimination == pytest.approx(found.uncertainty, rel=1e-15)


def test_certainties_stay_right_where_sums_were_rounded():
    columns = Histogram.from_rows([0.3, 0.3, 1.0, 1.0], [0, 1, 1, 1], [1, 1, 0.1, 0.2]).to_dict()
    exact = decompose(Histogram.from_dict(columns))
    columns["hits"][-1] = math.nextafter(columns["weight"][-1], 0)
    np.testing.assert_allclose(
        terms(decompose(Histogram.from_dict(columns))), terms(exact), rtol=1e-13, atol=1e-14
    )


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("truth", [0, 1])
def test_one_class_leaves_nothing_to_tell_apart(score, truth):
    p = np.random.default_rng(0).random(1000)
    found = decompose(Histogram.from_rows(p, np.full(1000, truth), p + 0.1), score)
    assert found.uncertainty == found.discrimination == 0.0
    assert found.miscalibration == pytest.approx(found.score, rel=1e-13)


@pytest.mark.parametrize("score", SCORES)
def test_equal_predictions_discriminate_nothing(score):
    found = decompose(Histogram.from_rows([0.3] * 10, [1] * 3 + [0] * 7), score)
    assert found.discrimination == 0.0
    assert found.miscalibration == pytest.approx(0.0, abs=1e-30)
    assert found.score == pytest.approx(found.uncertainty, rel=1e-15)


def test_one_row_is_enough_and_none_is_not():
    found = decompose(Histogram.from_rows([0.25], [1]))
    assert found.miscalibration == pytest.approx(math.log(4))
    assert found.to_dict()["infinite"] is False
    empty = Histogram.from_rows([], [])
    for call in (decompose, reliability_curve, smooth_calibration_error):
        with pytest.raises(ShapeError, match=r"at least one row .* Hint: "):
            call(empty)


@pytest.mark.parametrize("score", ["log", "Brier", None, ["brier"]])
def test_a_score_without_a_name_is_refused(score):
    with pytest.raises(OptionError, match=r"'log_loss' or 'brier': got .* Hint: "):
        decompose(Histogram.from_rows([0.5], [1]), score)


def test_two_threads_give_the_same_bits():
    data = [drawn(50_000, 0.1, seed=seed)[::2] for seed in range(2)]
    alone = [compute(p, y) for p, y in data]
    together = [None, None]

    def work(k):
        together[k] = [compute(*data[k]) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [[one] * 3 for one in alone]


def compute(p, y):
    found = Histogram.from_rows(p, y)
    curve = reliability_curve(found, draws=20).to_dict()
    return decompose(found), curve, smooth_calibration_error(found)


def test_without_scipy_the_extra_is_named(monkeypatch):
    for module in ("scipy.optimize", "scipy.special"):
        monkeypatch.setitem(sys.modules, module, None)
    for call in (decompose, reliability_curve, smooth_calibration_error):
        with pytest.raises(MissingExtraError, match=r"xent\[tables\]"):
            call(Histogram.from_rows([0.4, 0.5], [1, 0]))


# ---- the reliability curve -----------------------------------------------------------------------


def test_the_curve_is_the_isotonic_regression():
    g = np.random.default_rng(4)
    p = g.choice(np.arange(1, 20) / 20, 500)
    y, w = (g.random(500) < p**2).astype(float), g.choice([1.0, 2.0, 5.0], 500)
    curve = reliability_curve(Histogram.from_rows(p, y, w), draws=50)
    values, place = np.unique(p, return_inverse=True)
    weight = np.bincount(place, weights=w)
    fit = isotonic_regression(np.bincount(place, weights=w * y) / weight, weights=weight)
    np.testing.assert_allclose(curve.recalibrated, np.unique(fit.x), rtol=1e-12, atol=1e-15)
    assert curve.weight.sum() == pytest.approx(w.sum())
    assert (curve.weight * curve.recalibrated).sum() == pytest.approx((w * y).sum())
    assert (curve.weight * curve.predicted).sum() == pytest.approx((w * p).sum())
    starts = fit.blocks[:-1]
    np.testing.assert_allclose(curve.first, values[starts])
    np.testing.assert_allclose(curve.last, values[fit.blocks[1:] - 1])
    assert (np.diff(curve.predicted) > 0).all()


def test_calibrated_predictions_lie_in_the_band_as_often_as_it_says():
    p, _, _ = drawn(3000, 0.3, seed=1)
    g = np.random.default_rng(2)
    inside = []
    for _ in range(200):
        found = Histogram.from_rows(p, g.random(3000) < p)
        fit = decomposition.isotonic(found.hits / found.weight, found.weight)[1]
        inside.append((fit, found))
    at = inside[0][1]
    place = np.linspace(5, at.bins.size - 6, 9).astype(int)
    prediction = decomposition.predicted(at)[:, 0]
    values = reliability._calibrated(at, prediction, prediction[place], 2000, g)
    lower, upper = np.quantile(values, [0.05, 0.95], axis=0)
    fits = np.array([fit[place] for fit, _ in inside])
    share = ((fits >= lower) & (fits <= upper)).mean()
    assert 0.85 <= share <= 0.95


def test_the_band_is_passed_where_predictions_are_miscalibrated_and_hardly_otherwise():
    p, _, y = drawn(20_000, 0.2, seed=3)
    good = reliability_curve(Histogram.from_rows(p, y), seed=1)
    outside = (good.recalibrated < good.lower) | (good.recalibrated > good.upper)
    assert (good.weight * outside).sum() / good.weight.sum() < 0.35
    p, _, y = drawn(20_000, 0.2, slope=2.0, seed=3)
    bad = reliability_curve(Histogram.from_rows(p, y), seed=1)
    outside = (bad.recalibrated < bad.lower) | (bad.recalibrated > bad.upper)
    assert (bad.weight * outside).sum() / bad.weight.sum() > 0.6
    assert (good.lower <= good.upper).all()
    wide, narrow = (reliability_curve(Histogram.from_rows(p, y), level=a) for a in (0.99, 0.5))
    assert (wide.lower <= narrow.lower).all()
    assert (wide.upper >= narrow.upper).all()


@pytest.mark.parametrize(
    "w", [[1.0] * 400, [1.0, 3.0] * 200, [1.0] * 399 + [30.0], [1.0, 2.0], [1.0, 1.0, 3.0], [5.0]]
)
def test_weights_widen_the_band_by_the_variance_they_cause(w):
    w = np.array(w)
    found = Histogram.from_rows(np.full(w.size, 0.3), np.ones(w.size), w)
    values = reliability._calibrated(
        found, np.array([0.3]), np.array([0.3]), 10_000, np.random.default_rng(0)
    )
    variance = 0.21 * (w**2).sum() / w.sum() ** 2
    assert values.mean() == pytest.approx(0.3, abs=0.04 * math.sqrt(variance))
    assert values.var() == pytest.approx(variance, rel=0.05)


def test_many_blocks_are_thinned_to_two_hundred_of_the_same_total():
    p = expit(np.linspace(-36, 36, 200_000))
    found = Histogram.from_rows(p, expit(0.8 * logit(p)))
    assert decomposition.isotonic(found.hits / found.weight, found.weight)[0].size > 1100
    curve = reliability_curve(found, draws=10)
    assert curve.predicted.size == 200
    assert (np.diff(curve.recalibrated) > 0).all()
    assert (curve.weight * curve.recalibrated).sum() == pytest.approx(found.hits.sum(), rel=1e-12)
    # Joined where the shares differ least in their own scatter, not only where rows are few.
    z = np.linspace(-5, 5, 50)
    np.testing.assert_allclose(
        logit(np.interp(expit(z), curve.predicted, curve.recalibrated)), 0.8 * z, atol=0.05
    )


def test_the_band_of_a_wide_block_lies_about_its_mean_prediction():
    found = Histogram.from_rows([0.2] * 4000 + [0.6] * 4000, np.arange(8000) < 4000)
    curve = reliability_curve(found, draws=200)
    assert (curve.predicted.tolist(), curve.recalibrated.tolist()) == ([pytest.approx(0.4)], [0.5])
    assert (curve.first[0], curve.last[0]) == (pytest.approx(0.2), pytest.approx(0.6))
    assert 0.38 < curve.lower[0] < 0.4 < curve.upper[0] < 0.42


def test_the_same_seed_gives_the_same_band():
    p, _, y = drawn(2000, 0.4)
    found = Histogram.from_rows(p, y)
    first = reliability_curve(found, draws=30).to_dict()
    assert reliability_curve(found, draws=30).to_dict() == first
    assert reliability_curve(found, draws=30, seed=1).to_dict()["lower"] != first["lower"]
    assert json.loads(json.dumps(first)) == first
    assert (first["level"], first["draws"]) == (0.9, 30)


def test_certain_predictions_have_no_band_to_lie_in():
    curve = reliability_curve(Histogram.from_rows([0.0, 0.5, 0.5, 1.0], [0, 0, 1, 1]), draws=100)
    assert curve.predicted.tolist() == [0.0, 0.5, 1.0]
    assert (curve.lower[0], curve.upper[0], curve.lower[-1], curve.upper[-1]) == (0, 0, 1, 1)
    p = [0.5, 1 - 1e-16, 1 - 2.0**-53, 1.0]
    curve = reliability_curve(Histogram.from_rows(p, [0, 0, 1, 1]), draws=100)
    assert np.isfinite(curve.lower).all()
    assert curve.upper[-1] == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"level": 0}, r"level must lie in \(0, 1\): got 0"),
        ({"level": 1.0}, "got 1.0"),
        ({"level": math.nan}, "got nan"),
        ({"level": "wide"}, "got 'wide'"),
        ({"draws": 0}, "draws must be a whole number ≥ 1: got 0"),
        ({"draws": 10.0}, "got 10.0"),
        ({"draws": True}, "got True"),
        ({"seed": -1}, "seed must be a whole number ≥ 0: got -1"),
        ({"seed": None}, "got None"),
    ],
)
def test_options_of_the_curve_are_checked(options, words):
    with pytest.raises(OptionError, match=words) as caught:
        reliability_curve(Histogram.from_rows([0.5], [1]), **options)
    assert "Hint: " in str(caught.value)


# ---- the smooth calibration error ----------------------------------------------------------------


def direct_size(p, residuals, width):
    """Return ∫|Σ r·K| by the midpoint rule, kernel by kernel."""
    cells = int(60 / width) + 2000
    t, total = (np.arange(cells) + 0.5) / cells, np.zeros(cells)
    turns = range(-math.ceil(1 + 4.5 * width), math.ceil(1 + 4.5 * width) + 1)
    for centre, residual in zip(p, residuals, strict=True):
        for image in [x for k in turns for x in (2 * k + centre, 2 * k - centre)]:
            if -9 * width < image < 1 + 9 * width:
                total += residual * np.exp(-0.5 * ((t - image) / width) ** 2)
    return np.abs(total).mean() / (width * math.sqrt(2 * math.pi))


def is_the_error(found, p, y, w, share):
    """Whether the width at which the size is the width lies within this share of a number."""
    residuals = w * (y - p) / w.sum()
    low, high = found * (1 - share), found * (1 + share)
    return direct_size(p, residuals, low) > low and direct_size(p, residuals, high) < high


@pytest.mark.parametrize("width", [0.003, 0.02, 0.1, 0.4, 1.0, 3.0])
def test_the_kernel_keeps_the_mass_between_0_and_1(width):
    g = np.random.default_rng(0)
    for n in (1, 3, 25):
        p, residuals = np.sort(g.random(n)), g.normal(size=n) / n
        found = reliability._smoothed(p, residuals, width)
        assert found == pytest.approx(direct_size(p, residuals, width), rel=2e-5)
        assert reliability._smoothed(p, abs(residuals), width) == pytest.approx(
            abs(residuals).sum(), rel=1e-12
        )


def test_a_wider_kernel_leaves_less():
    g = np.random.default_rng(1)
    p, residuals = np.sort(g.random(50)), g.normal(size=50) / 50
    sizes = [reliability._smoothed(p, residuals, s) for s in np.geomspace(1e-5, 2.0, 40)]
    assert (np.diff(sizes) <= 1e-12).all()
    assert sizes[0] == pytest.approx(abs(residuals).sum(), rel=1e-6)
    assert sizes[-1] == pytest.approx(abs(residuals.sum()), rel=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_the_smooth_calibration_error_is_the_formula_where_predictions_are_tied(seed):
    g = np.random.default_rng(seed)
    p = g.choice(np.arange(1, 12) / 12, 60)
    y, w = (g.random(60) < p).astype(float), g.random(60) + 0.2
    found = smooth_calibration_error(Histogram.from_rows(p, y, w))
    assert is_the_error(found, p, y, w, 2e-5)


@pytest.mark.parametrize(
    ("n", "slope", "share"), [(300, 1.0, 0.02), (300, 2.0, 0.02), (600, 0.5, 0.02)]
)
def test_binning_hardly_changes_the_smooth_calibration_error(n, slope, share):
    p, _, y = drawn(n, 0.5, slope, seed=7)
    found = smooth_calibration_error(Histogram.from_rows(p, y))
    assert found > 0.02
    assert is_the_error(found, p, y, np.ones(n), share)


@pytest.mark.parametrize("base", [0.5, 1e-2])
def test_calibrated_predictions_have_a_small_error_which_finer_bins_would_hardly_change(base):
    n = 300_000
    p, _, y = drawn(n, base, seed=8)
    found = smooth_calibration_error(Histogram.from_rows(p, y))
    assert 0 < found < 0.01
    place = np.unique(np.floor(256 * logit(p)), return_inverse=True)[1]
    count = np.bincount(place)
    fine, residuals = np.bincount(place, weights=p) / count, np.bincount(place, weights=y - p) / n
    assert reliability._smoothed(fine, residuals, 1.2 * found) < 1.2 * found
    assert reliability._smoothed(fine, residuals, found / 1.2) > found / 1.2


@pytest.mark.parametrize("delta", [0.3, 0.05, 1e-4])
def test_a_constant_miscalibration_is_its_own_size(delta):
    p = np.linspace(0.05, 0.65, 2000)
    for shifted in (p + delta, p + delta * 0.999):
        found = smooth_calibration_error(Histogram.from_rows(p, shifted))
        assert found == pytest.approx((shifted - p).mean(), rel=1e-9)
    p, y = np.concatenate([p, p]), np.concatenate([np.zeros(2000), np.ones(2000)])
    w = np.where(y == 1, p + delta, 1 - p - delta)
    assert smooth_calibration_error(Histogram.from_rows(p, y, w)) == pytest.approx(delta, rel=1e-9)


@laws
@given(rows)
def test_the_smooth_calibration_error_lies_between_the_mean_and_the_mean_size_of_residuals(triples):
    found = smooth_calibration_error(histogram(triples))
    p, y, w = (np.array(column) for column in zip(*[t for t in triples if t[2] > 0], strict=True))
    residuals = w * (y - p) / w.sum()
    assert abs(residuals.sum()) * (1 - 1e-6) - 1e-12 <= found <= abs(residuals).sum() + 1e-12
    other = smooth_calibration_error(Histogram.from_rows(p, y, 7 * w))
    assert other == pytest.approx(found, rel=1e-6, abs=1e-14)


def test_no_residuals_are_no_error():
    assert smooth_calibration_error(Histogram.from_rows([0.25] * 4, [1, 0, 0, 0])) == 0.0
    assert smooth_calibration_error(Histogram.from_rows([0.0, 1.0], [0, 1])) == 0.0
    wrong = smooth_calibration_error(Histogram.from_rows([0.0, 1.0], [1, 0]))
    assert is_the_error(wrong, np.array([0.0, 1.0]), np.array([1.0, 0.0]), np.ones(2), 2e-5)
    g = np.random.default_rng(0).random(1000)
    assert smooth_calibration_error(Histogram.from_rows(g, g)) < 1e-15
