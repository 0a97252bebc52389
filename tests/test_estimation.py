"""The estimators against 60-digit arithmetic and published numbers, the interval and its table."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xent
from benchmarks import __main__ as command
from benchmarks import coverage
from benchmarks.results import read
from xent import estimation
from xent.errors import DistributionError, OptionError, ShapeError, TargetError
from xent.estimation import (
    cross_entropy_from_counts,
    cross_entropy_from_samples,
    entropy_from_counts,
    entropy_from_samples,
    kl_divergence_from_counts,
    kl_divergence_from_samples,
    mutual_information_from_counts,
    mutual_information_from_samples,
    permutation_test_from_counts,
    permutation_test_from_samples,
)
from xent.estimation.entropy import interval_of
from xent.estimation.estimators import ESTIMATORS, Tally

NAMES = list(ESTIMATORS)
ROUNDING = 2e-15
laws = settings(max_examples=60, deadline=None, database=None, derandomize=True)
counts_lists = st.lists(st.integers(0, 60), min_size=1, max_size=30).filter(any)


def value(counts, name):
    return entropy_from_counts(counts, estimator=name).value


# ---- the published formulas, at 60 digits --------------------------------------------------------


def exact_plug_in(counts):
    n = mp.mpf(sum(counts))
    return -mp.fsum(k / n * mp.log(k / n) for k in counts if k)


def exact_miller_madow(counts):
    return exact_plug_in(counts) + mp.mpf(sum(k > 0 for k in counts) - 1) / (2 * sum(counts))


def exact_jackknife(counts):
    """n·H − (n−1)·(the mean of the entropies with one observation left out), literally."""
    n = sum(counts)
    if n == 1:
        return mp.mpf(0)
    left = mp.mpf(0)
    n_log_n = mp.fsum(k * mp.log(k) for k in counts if k)
    for k, times in Counter(counts).items():
        if k:
            rest = n_log_n - k * mp.log(k) + ((k - 1) * mp.log(k - 1) if k > 1 else 0)
            left += mp.mpf(times * k) / n * (mp.log(n - 1) - rest / (n - 1))
    return n * exact_plug_in(counts) - (n - 1) * left


def exact_chao_shen(counts):
    n, once = mp.mpf(sum(counts)), sum(k == 1 for k in counts)
    coverage_ = 1 - (n - 1 if once == n else once) / n
    shares = [coverage_ * k / n for k in counts if k]
    return -mp.fsum(s * mp.log(s) / (1 - (1 - s) ** n) for s in shares)


def exact_chao_wang_jost(counts):
    n, once, twice = sum(counts), sum(k == 1 for k in counts), sum(k == 2 for k in counts)
    seen = mp.fsum(mp.mpf(k) / n * (mp.digamma(n) - mp.digamma(k)) for k in counts if k)
    if once == 0:
        return seen
    odd = (n - 1) * (once if twice else once - 1)
    a = mp.mpf(2 * (twice or 1)) / (odd + 2 * (twice or 1))
    if a == 1:
        return seen
    if n <= 3000:
        tail = (1 - a) ** (1 - n) * (-mp.log(a) - mp.fsum((1 - a) ** r / r for r in range(1, n)))
    else:
        tail = (1 - a) * mp.lerchphi(1 - a, 1, n)
    return seen + mp.mpf(once) / n * tail


EXACT = {
    "plug_in": exact_plug_in,
    "miller_madow": exact_miller_madow,
    "jackknife": exact_jackknife,
    "chao_shen": exact_chao_shen,
    "chao_wang_jost": exact_chao_wang_jost,
}


def drawn_counts():
    g = np.random.default_rng(0)
    for _ in range(25):
        shares = g.dirichlet(np.full(g.integers(1, 60), 0.3))
        yield [int(k) for k in g.multinomial(g.integers(1, 2000), shares)]


CASES = [
    [1], [2], [5], [10**15], [1, 1], [1, 2], [2, 1, 1], [5, 5], [1] * 5, [15] * 4, [16] * 4,
    [7, 8, 9], [7, 1, 1, 1, 2], [100, 1], [1000, 1, 1, 1, 2, 2], list(range(21)),
    [1] * 300, [1] * 200 + [2] * 3, [1] * 300 + [2], [1] * 30 + [2] * 300, [1] * 2500 + [2],
    [10**15, 1], [10**15 - 1, 1, 0, 1], [10**15] * 3, [10**9, 10**9, 1], [2**53, 2**52],
    [10**99, 1, 1, 2], [10**99] * 2, [10**12, 10**6, 5, 4, 3, 2, 1, 1], [2**60 - 1, 1], [2**63, 2**63 - 1, 3],
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_each_estimator_is_its_published_formula_to_rounding(name):
    for counts in [*CASES, *drawn_counts()]:
        with mp.workdps(60 + 2 * len(str(sum(counts)))):
            truth = EXACT[name](counts)
            error = abs(mp.mpf(value(counts, name)) - truth)
            assert error <= ROUNDING * abs(truth), (name, counts[:8])


def test_the_jackknife_leaves_out_each_observation_once():
    sample = list("aabbbcd")
    plug = [
        entropy_from_samples(sample[:j] + sample[j + 1 :], estimator="plug_in").value
        for j in range(len(sample))
    ]
    n = len(sample)
    whole = entropy_from_samples(sample, estimator="plug_in").value
    jackknife = entropy_from_samples(sample, estimator="jackknife").value
    assert jackknife == pytest.approx(n * whole - (n - 1) * np.mean(plug), rel=1e-14)


def test_by_hand():
    assert value([1, 1], "plug_in") == math.log(2)
    assert value([1, 1], "miller_madow") == math.log(2) + 0.25
    # Leaving out either of two leaves one value, of entropy 0.
    assert value([1, 1], "jackknife") == pytest.approx(2 * math.log(2), rel=1e-15)
    # f₁ = n = 2 counts as 1: C = ½, s = ¼, and 1 − (1 − ¼)² = 7/16.
    assert value([1, 1], "chao_shen") == pytest.approx(2 * 0.25 * math.log(4) / (7 / 16), rel=1e-15)
    # A = 2/3, and (ψ(2) − ψ(1)) + 3·(log(3/2) − 1/3).
    assert value([1, 1], "chao_wang_jost") == pytest.approx(3 * math.log(1.5), rel=1e-15)


SPIDERS = {
    # Counts of spider species in a girdled and a logged hemlock forest (Sackett et al. 2011), with
    # the observed and the estimated exponentials of entropy that Chao's iNEXT prints for them.
    "girdled": ([46, 22, 17, 15, 15, 9, 8, 6, 6, 4] + [2] * 4 + [1] * 12, 12.060, 13.826),
    "logged": (
        [88, 22, 16, 15, 13, 10, 8, 8, 7, 7, 7, 5, 4, 4, 4, 3, 3, 3, 3] + [2] * 4 + [1] * 14,
        14.421,
        16.337,
    ),
}


@pytest.mark.parametrize("forest", SPIDERS)
def test_published_diversities_of_spiders_come_out(forest):
    counts, observed, estimated = SPIDERS[forest]
    assert round(math.exp(value(counts, "plug_in")), 3) == observed
    assert round(math.exp(value(counts, "chao_wang_jost")), 3) == estimated


@pytest.mark.parametrize("name", NAMES)
def test_one_value_has_no_entropy_however_often_it_was_seen(name):
    for n in (1, 2, 3, 10**15):
        assert value([n], name) == 0.0


@pytest.mark.parametrize("broken", [1 - 1e-14, 1 + 1e-14])
def test_a_slightly_wrong_estimator_would_be_found(monkeypatch, broken):
    right = ESTIMATORS["jackknife"]
    monkeypatch.setitem(ESTIMATORS, "jackknife", lambda tally: broken * right(tally))
    with pytest.raises(AssertionError):
        test_each_estimator_is_its_published_formula_to_rounding("jackknife")


def test_rows_of_counts_are_estimated_one_by_one():
    g = np.random.default_rng(1)
    rows = g.multinomial(40, g.dirichlet(np.full(12, 0.5)), size=30).astype(float)
    for name, estimate in ESTIMATORS.items():
        alone = [value(row, name) for row in rows]
        assert estimate(Tally.of(rows)) == pytest.approx(alone, rel=1e-14)


# ---- what must hold for any counts ---------------------------------------------------------------


@laws
@given(counts_lists, st.sampled_from(NAMES), st.randoms(use_true_random=False))
def test_neither_order_nor_names_nor_values_never_seen_change_an_estimate(counts, name, random):
    expected = entropy_from_counts(counts, estimator=name)
    shuffled = random.sample(counts, len(counts))
    for other in ([0, *shuffled, 0, 0], {f"value {i}": k for i, k in enumerate(shuffled)}):
        assert entropy_from_counts(other, estimator=name) == expected


@laws
@given(counts_lists, st.sampled_from(NAMES))
def test_samples_and_counts_agree(counts, name):
    sample = np.repeat(np.arange(len(counts)), counts)
    seen = [k for k in counts if k]
    expected = entropy_from_counts(seen, estimator=name)
    for samples in (sample, sample.astype(str), sample.tolist(), iter(sample.tolist())):
        assert entropy_from_samples(samples, estimator=name) == expected


@laws
@given(counts_lists)
def test_corrections_only_add_and_the_plug_in_is_the_entropy_of_the_shares(counts):
    plug_in = value(counts, "plug_in")
    assert plug_in == pytest.approx(float(xent.entropy(counts, normalize=True)), rel=1e-13)
    assert 0 <= plug_in <= math.log(max(1, sum(k > 0 for k in counts))) * (1 + 1e-15)
    for name in ("miller_madow", "jackknife", "chao_wang_jost"):
        assert value(counts, name) >= plug_in


@pytest.mark.parametrize(("unit", "nats"), [("bits", math.log(2)), ("bans", math.log(10))])
def test_every_number_is_in_the_unit_that_was_asked_for(unit, nats):
    counts = [400, 300, 200, 100]
    told, plain = entropy_from_counts(counts, unit=unit), entropy_from_counts(counts)
    assert told.value * nats == pytest.approx(plain.value)
    assert told.standard_error * nats == pytest.approx(plain.standard_error)
    assert [end * nats for end in told.interval] == pytest.approx(plain.interval)
    q = [300, 300, 300, 100]
    for of_two in (cross_entropy_from_counts, kl_divergence_from_counts):
        assert of_two(counts, q, unit=unit).value * nats == pytest.approx(of_two(counts, q).value)
    table = [[30, 10], [10, 30]]
    told, plain = (mutual_information_from_counts(table, unit=u).value for u in (unit, "nats"))
    assert told * nats == pytest.approx(plain)
    told, plain = (
        permutation_test_from_counts(*table, unit=u, permutations=99) for u in (unit, "nats")
    )
    assert told.value * nats == pytest.approx(plain.value)
    assert told.null_mean * nats == pytest.approx(plain.null_mean)


def test_records_are_plain_json():
    counts = {"a": 600, "b": 400}
    found = entropy_from_counts(counts).to_dict()
    assert found["confidence"] == 0.95
    assert found["coverage"] == 1.0
    infinite = cross_entropy_from_counts({("a", 1): 1, "b": 1}, {"b": 2}).to_dict()
    assert (infinite["value"], infinite["infinite"]) == (None, True)
    assert infinite["unsupported"] == ["('a', 1)"]
    for record in (
        found,
        infinite,
        entropy_from_counts([1, 1]).to_dict(),
        kl_divergence_from_samples(np.array([1, 2]), np.array([1, 1])).to_dict(),
        mutual_information_from_counts([[1, 2], [3, 4]]).to_dict(),
        permutation_test_from_counts([5, 5], [5, 5], permutations=9).to_dict(),
    ):
        assert json.loads(json.dumps(record, allow_nan=False)) == record


# ---- samples and counts as they come -------------------------------------------------------------


def test_samples_of_any_kind_are_counted():
    import pandas as pd
    import torch

    for samples in (
        "aab",
        b"aab",
        ["a", "a", "b"],
        ("x", "x", ("y", 1)),
        np.array(["a", "a", "b"]),
        np.array([0.5, 0.5, -1.0]),
        np.array([True, True, False]),
        np.array(["2024-01-01", "2024-01-01", "2024-01-02"], dtype="datetime64[ns]"),
        np.array(["a", "a", ("b", 1)], dtype=object),
        torch.tensor([3, 3, 7]),
        pd.Series(["a", "a", "b"], dtype="category"),
        pd.Series([1, 1, 2], dtype="Int64"),
        (c for c in "aab"),
    ):
        estimate = entropy_from_samples(samples, estimator="plug_in")
        assert (estimate.n, estimate.observed, estimate.singletons) == (3, 2, 1)
        assert estimate.value == pytest.approx(math.log(3) - 2 / 3 * math.log(2))


def test_a_list_of_unlike_values_keeps_them_apart():
    assert entropy_from_samples([1, "1"]).observed == 2
    assert entropy_from_samples([1, 1.0, True]).observed == 1


@pytest.mark.parametrize(
    "counts",
    [
        [2, 1],
        (2, 0, 1),
        np.array([2, 1], dtype=np.uint8),
        np.array([2, 1], dtype=np.uint64),
        np.array([2.0, 1.0]),
        np.array([2, 1], dtype=object),
        {"a": 2, "b": np.int64(1)},
        Counter("aab"),
    ],
)
def test_counts_of_any_kind_are_taken(counts):
    estimate = entropy_from_counts(counts, estimator="miller_madow")
    assert estimate.value == pytest.approx(math.log(3) - 2 / 3 * math.log(2) + 1 / 6)


def test_the_number_of_observations_is_exact():
    assert entropy_from_counts(np.array([2**63, 2**63 + 1], dtype=np.uint64)).n == 2**64 + 1
    assert entropy_from_counts([10**30, 1]).n == 10**30 + 1


def test_the_entries_of_a_pandas_series_are_matched_by_its_index():
    import pandas as pd

    p, q = pd.Series({"a": 3, "b": 1}), pd.Series({"b": 1, "a": 3})
    assert kl_divergence_from_counts(p, q).value == 0.0
    with pytest.raises(ShapeError, match="once: got 2 rows of an index with 1 values"):
        entropy_from_counts(pd.Series([1, 2], index=["a", "a"]))


@pytest.mark.parametrize(
    ("samples", "error", "words"),
    [
        ([], ShapeError, "at least one observation: got none"),
        ("", ShapeError, "at least one observation"),
        (np.array([]), ShapeError, "at least one observation"),
        (np.zeros((2, 2)), ShapeError, r"a vector with one value .* got shape \(2, 2\)"),
        (np.float64(3.0), ShapeError, r"got shape \(\)"),
        (5, ShapeError, "a sequence of observed values: got a int"),
        ({"a": 3}, ShapeError, "got a dict. Hint: counts go to .*_from_counts"),
        (["a", None], TargetError, "a value in every row: got None at row 1"),
        ([1.0, math.nan], TargetError, "got nan at row 1"),
        (np.array([1.0, math.nan, 2.0]), TargetError, "got nan at row 1"),
        (np.array(["2024-01-01", "NaT"], dtype="datetime64[D]"), TargetError, "at row 1"),
        (np.array(["a", None], dtype=object), TargetError, "got None at row 1"),
        (np.ma.masked_equal([1, 2], 2), TargetError, "masked entries"),
        ([["a"], ["b"]], TargetError, r"can be counted, .* got \['a'\] at row 0"),
        (["a", ("b", [])], TargetError, r"got \('b', \[\]\) at row 1"),
    ],
)
def test_samples_that_cannot_be_counted_are_refused(samples, error, words):
    with pytest.raises(error, match=words) as caught:
        entropy_from_samples(samples)
    assert "samples" in str(caught.value)
    assert "Hint: " in str(caught.value)


@pytest.mark.parametrize(
    ("counts", "error", "words"),
    [
        ([], ShapeError, "at least one observation: got no count at all"),
        ({}, ShapeError, "got no count at all"),
        ([0, 0], ShapeError, "got only zeros"),
        ([[1, 2]], ShapeError, r"got shape \(1, 2\). Hint: a table .*mutual_information"),
        ([[1], [2, 3]], ShapeError, "a flat list"),
        (7, ShapeError, r"got shape \(\)"),
        ([3, -1], DistributionError, "got -1 for value 1. Hint: counts have no sign"),
        ({"a": 3, "b": -1}, DistributionError, "got -1 for value 'b'"),
        ([0.5, 0.5], DistributionError, "whole numbers, .* got 0.5 for value 0. Hint: probab"),
        ([3.0, math.nan], DistributionError, "got nan for value 1"),
        ([3.0, math.inf], DistributionError, "got inf"),
        ({"a": math.inf}, DistributionError, "got inf for value 'a'"),
        ({"a": None}, DistributionError, "got None for value 'a'"),
        ({"a": True}, DistributionError, "got True .*_from_samples"),
        ([True, False], DistributionError, "got True .*_from_samples"),
        (["a", "b"], DistributionError, "got 'a' .*_from_samples"),
        ([10**400], DistributionError, "got 1000.*Hint: counts lie below 1e100"),
        ([1e308, 1e308], DistributionError, r"got 1e\+308 for value 0"),
        ([1 + 0j], DistributionError, "as an integer"),
        ({"a": 3}.values(), ShapeError, r"got shape \(\). Hint: give a list"),
        (np.ma.masked_equal([1, 2], 2), DistributionError, "masked entries"),
    ],
)
def test_what_are_no_counts_is_refused(counts, error, words):
    with pytest.raises(error, match=words) as caught:
        entropy_from_counts(counts)
    assert "counts" in str(caught.value)
    assert "Hint: " in str(caught.value)


@pytest.mark.parametrize("name", ["", "shrink", None, ["plug_in"]])
def test_an_unknown_estimator_is_refused_with_those_there_are(name):
    with pytest.raises(OptionError, match=r"'chao_wang_jost', 'jackknife', .* got"):
        entropy_from_counts([1, 2], estimator=name)
    with pytest.raises(OptionError, match="estimator must be one of"):
        mutual_information_from_counts([[1, 2]], estimator=name)


def test_an_unknown_unit_is_refused_everywhere():
    for call in (
        lambda: entropy_from_counts([1, 2], unit="bytes"),
        lambda: cross_entropy_from_counts([1, 2], [1, 2], unit="bytes"),
        lambda: mutual_information_from_counts([[1, 2]], unit="bytes"),
        lambda: permutation_test_from_counts([1, 2], [1, 2], unit="bytes"),
    ):
        with pytest.raises(OptionError, match="got 'bytes'"):
            call()


# ---- the interval --------------------------------------------------------------------------------


def half_width(counts, error):
    n = sum(counts)
    apart = [-math.log(k / n) - float(exact_plug_in(counts)) for k in counts]
    return 1.959964 * math.sqrt(error**2 + (2 + sum(a * a for a in apart)) / n**2)


def test_an_interval_is_made_of_the_three_parts_that_are_documented():
    counts = [500, 300, 150, 45, 3, 1, 1]
    found = entropy_from_counts(counts)
    n = sum(counts)
    pseudo = [
        n * exact_plug_in(counts)
        - (n - 1) * exact_plug_in([k - (i == j) for j, k in enumerate(counts)])
        for i in range(len(counts))
    ]
    spread = np.cov(np.array(pseudo, dtype=float), fweights=counts)
    error = math.sqrt(spread / n + (len(counts) - 1) / (2 * n * n))
    assert found.standard_error == pytest.approx(error, rel=1e-9)
    half = half_width(counts, error) + 2 / n
    further = 3 * math.sqrt(3) / n * (1 + math.log(n))
    expected = (found.value - half, found.value + half + further)
    assert found.interval == pytest.approx(expected, rel=1e-6)


def test_a_known_alphabet_that_was_seen_leaves_out_what_is_for_the_unseen():
    counts = [500, 300, 150, 45, 3, 1, 1]
    open_, known, larger = (
        entropy_from_counts(counts, alphabet_size=size) for size in (None, 7, 1000)
    )
    half = half_width(counts, known.standard_error)
    assert known.interval == pytest.approx((known.value - half, known.value + half), rel=1e-6)
    assert larger.interval == open_.interval
    assert known.value == larger.value == open_.value
    assert (known.alphabet_size, open_.alphabet_size) == (7, None)


def test_an_interval_ends_at_the_logarithm_of_a_known_alphabet():
    even = entropy_from_counts([500, 500], alphabet_size=2)
    assert even.interval == (pytest.approx(math.log(2), abs=0.005), math.log(2))
    assert entropy_from_counts([500, 490], alphabet_size=3).interval[1] <= math.log(3)
    # Counts too even for chance: the interval is what is left of it.
    exact = entropy_from_counts([10] * 1000, alphabet_size=1000)
    assert exact.interval == (math.log(1000), math.log(1000))


@pytest.mark.parametrize("size", [2**63, 2**64, 10**400])
def test_an_alphabet_may_be_larger_than_any_integer_of_an_array(size):
    counts = [30, 40, 50]
    known, open_ = entropy_from_counts(counts, alphabet_size=size), entropy_from_counts(counts)
    assert (known.interval, known.alphabet_size) == (open_.interval, size)


@pytest.mark.parametrize("size", [2, 0, -1, 3.0, True, "3"])
def test_an_alphabet_smaller_than_what_was_seen_is_refused(size):
    for call in (entropy_from_counts, entropy_from_samples):
        with pytest.raises(OptionError, match=r"at least the 3 distinct values .* got"):
            call([1, 2, 3], alphabet_size=size)


def test_the_interval_is_of_the_entropy_and_the_same_for_every_estimator():
    counts = np.random.default_rng(3).multinomial(1000, np.full(100, 0.01))
    found = [entropy_from_counts(counts, estimator=name) for name in NAMES]
    assert len({estimate.interval for estimate in found}) == 1
    low, high = found[0].interval
    assert low < math.log(100) < high
    assert found[NAMES.index("plug_in")].value < low


def test_equal_counts_have_an_interval_of_some_width():
    found = entropy_from_counts([500, 500])
    assert found.standard_error == pytest.approx(math.sqrt(1 / (2 * 1000**2)))
    assert found.interval[0] < math.log(2) - 0.002
    assert math.log(2) + 0.003 < found.interval[1]


@pytest.mark.parametrize("common", [1500, 10**5, 10**9, 10**15])
def test_an_interval_lies_above_zero(common):
    for rare in ([20], [1] * 20, [2] * 10, [19, 1]):
        low, high = entropy_from_counts([common, *rare]).interval
        assert 0 < low < high


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ([10**6], "only 0 of the 1000000 observations are not of the most frequent value"),
        ([10**6, 19], "only 19 of the 1000019 observations"),
        ([2, 1], "only 1 of the 3"),
        ([1] * 100, "100 of the 100 observations are of values seen once, so up to 100% of"),
        ([9] * 20 + [1] * 22, "22 of the 202 observations are of values seen once, so up to 18%"),
        ([9] * 20 + [1] * 30, "30 of the 210 observations are of values seen once, so up to 22%"),
    ],
)
def test_where_there_is_no_interval_the_reason_says_why(counts, why):
    found = entropy_from_counts(counts)
    if "18%" in why:  # just inside
        assert found.why_no_interval is None
        assert found.interval is not None
        return
    assert found.why_no_interval.startswith(why), found.why_no_interval
    assert (found.interval, found.standard_error) == (None, None)


def test_the_rule_begins_at_twenty_observations_of_the_rarer_values():
    assert entropy_from_counts([10**6, 20]).interval is not None
    assert entropy_from_counts([10**6, 19]).interval is None
    assert entropy_from_counts([10**18, 19]).why_no_interval.startswith("only 19 of the 10")


@pytest.mark.parametrize("apart", [1.0, 2.0, 3.0, 4.0])
def test_two_nearly_equal_values_are_covered(apart):
    # Without the 2/n² the worst of these cover 88 %.
    n = 1000
    p = 0.5 + apart / (2 * math.sqrt(n))
    truth = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    drawn = np.random.default_rng(6).binomial(n, p, size=4000)
    found = interval_of(Tally.of(np.stack([drawn, n - drawn], axis=-1).astype(float)), 2)
    assert found.given.all()
    assert np.mean((found.lower <= truth) & (truth <= found.upper)) >= 0.93


@pytest.mark.parametrize("seen", [4, 6, 10])
def test_a_rare_value_of_a_known_alphabet_is_covered(seen):
    # Without one observation more of each value 91 % would be.
    n = 3000
    p = np.array([*[(1 - seen / n) / 3] * 3, seen / n])
    truth = float(xent.entropy(p))
    drawn = np.random.default_rng(8).multinomial(n, p, size=4000).astype(float)
    for size in (None, 4):
        found = interval_of(Tally.of(drawn), size)
        assert found.given.all()
        assert np.mean((found.lower <= truth) & (truth <= found.upper)) >= 0.92


@pytest.mark.parametrize(("rare", "mass"), [(1, 1.0), (1, 2.0), (30, 0.5), (30, 1.0), (300, 1.0)])
def test_rare_values_that_may_not_be_seen_beside_equal_ones_are_covered(rare, mass):
    # A mass of mass/n on the rare values; an interval without δ covers 35 % of some of these.
    n = 3000
    p = np.concatenate([np.full(2, (1 - mass / n) / 2), np.full(rare, mass / n / rare)])
    truth = float(xent.entropy(p))
    found = interval_of(
        Tally.of(np.random.default_rng(7).multinomial(n, p, size=2000).astype(float))
    )
    assert found.given.all()
    assert np.mean((found.lower <= truth) & (truth <= found.upper)) >= 0.93


# ---- the simulation ------------------------------------------------------------------------------

STORED = read(coverage.STORED)
CELLS = [line for line in STORED if line["kind"] == "cell"]


def test_the_page_is_what_the_stored_simulation_makes():
    text = coverage.PAGE.read_text(encoding="utf-8")
    assert text == coverage.render_page(text, STORED)
    doctored = [{**c, "covered": 0} if c["kind"] == "cell" else c for c in STORED]
    assert text != coverage.render_page(text, doctored)


def test_every_stored_cell_covers_what_is_promised():
    assert len(CELLS) == len(coverage.DISTRIBUTIONS) * len(coverage.SIZES)
    assert coverage.failures(CELLS) == []


@pytest.mark.parametrize(
    ("given_", "covered", "words"),
    [(2000, 1800, "10.0% of the samples"), (1000, 900, "90.0% of 1000 intervals cover")],
)
@pytest.mark.parametrize("which", ["", "_knowing"])
def test_a_cell_that_covers_less_is_found(given_, covered, words, which):
    doctored = {**CELLS[0], "given" + which: given_, "covered" + which: covered, "samples": 2000}
    assert any(words in found for found in coverage.failures([doctored]))


@pytest.mark.parametrize(
    ("shape", "size", "n"),
    [
        ("uniform", 100, 1000),
        ("1/rank", 10, 300),
        ("geometric", 10, 1000),
        ("0.9 on one value", 10, 1000),
        ("half on 5 values", 100, 1000),
        ("1/rank", 10, 100),
        ("uniform", 1000, 100),
    ],
)
def test_new_samples_agree_with_the_stored_cell(shape, size, n):
    (stored,) = (c for c in CELLS if (c["shape"], c["alphabet"], c["n"]) == (shape, size, n))
    fresh = coverage.simulate(shape, size, n, samples=400, seed=1)
    for count in ("given", "covered", "given_knowing", "covered_knowing"):
        share = stored[count] / stored["samples"]
        doubt = 4 * math.sqrt(max(share * (1 - share), 0.002) * (1 / 400 + 1 / stored["samples"]))
        assert abs(getattr(fresh, count) / 400 - share) <= doubt
    for name, bias in stored["bias"].items():
        doubt = 4 * stored["error"][name] * math.sqrt(1 / 400 + 1 / stored["samples"])
        assert abs(fresh.bias[name] - bias) <= doubt


def test_the_percentile_bootstrap_of_the_plug_in_covers_nothing_where_ours_covers():
    found = coverage.bootstrap("uniform", 100, 1000, samples=60, resamples=200, seed=1)
    assert found.covered == 0
    assert coverage.bootstrap("1/rank", 100, 1000, samples=60, resamples=200).covered <= 45
    ours = coverage.simulate("uniform", 100, 1000, samples=60, seed=1)
    assert (ours.given, ours.covered) == (60, 60)


def test_the_bootstrap_of_two_values_does_cover():
    # So the 0 above is no fault of how it is counted.
    found = coverage.bootstrap("0.9 on one value", 2, 1000, samples=60, resamples=200)
    assert found.covered >= 50


def test_the_default_has_the_least_bias_over_the_distributions():
    size = {name: np.mean([abs(c["bias"][name]) for c in CELLS]) for name in NAMES}
    assert min(size, key=size.get) == "chao_wang_jost"


def test_the_command_prints_the_table(monkeypatch, capsys):
    few = [("uniform", 10)]
    cells = list(coverage.simulate_all(few, sizes=(100, 1000), samples=50))
    monkeypatch.setattr(coverage, "simulate_all", lambda: iter(cells))
    monkeypatch.setattr(coverage, "bootstrap_all", lambda: iter(()))
    monkeypatch.setattr(
        coverage, "simulate_limit", lambda: dataclasses.replace(cells[0], kind="limit")
    )
    assert command.main(["coverage"]) == 0
    assert "| uniform | 10 | 100 | 100 |" in capsys.readouterr().out
    worse = [dataclasses.replace(c, covered=c.given // 2) for c in cells]
    monkeypatch.setattr(coverage, "simulate_all", lambda: iter(worse))
    assert command.main(["coverage"]) == 1
    assert "less than promised" in capsys.readouterr().out


# ---- cross-entropy and divergence ----------------------------------------------------------------


def exact_cross_entropy(p, q, alpha):
    total = sum(q) + mp.mpf(alpha) * len(q)
    n = mp.mpf(sum(p))
    return -mp.fsum(
        a / n * mp.log((b + mp.mpf(alpha)) / total) for a, b in zip(p, q, strict=True) if a
    )


TWO_SAMPLES = [
    ([3, 1], [4, 2]), ([5, 0, 2], [1, 1, 1]), ([1, 0], [7, 1]), ([10**15, 1], [10**15, 3]),
    ([10**12, 10**12 + 7], [10**12 + 5, 10**12]), (list(range(1, 30)), list(range(29, 0, -1))),
]  # fmt: skip


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 1e-6])
def test_cross_entropy_is_the_formula_to_rounding(alpha):
    with mp.workdps(60):
        for p, q in TWO_SAMPLES:
            truth = exact_cross_entropy(p, q, alpha)
            found = cross_entropy_from_counts(p, q, smoothing=alpha).value
            assert abs(mp.mpf(found) - truth) <= ROUNDING * truth


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_divergence_is_cross_entropy_less_the_plug_in(alpha):
    with mp.workdps(60):
        for p, q in TWO_SAMPLES:
            truth = exact_cross_entropy(p, q, alpha) - exact_plug_in(p)
            found = kl_divergence_from_counts(p, q, smoothing=alpha).value
            assert abs(mp.mpf(found) - truth) <= 1e-15 + 1e-14 * truth


CLOSE_SAMPLES = [
    ([1, 0], [10**15, 1]), ([3, 0], [10**12, 7]), ([1, 0], [10**60, 1]), ([10**8, 10**8 + 1], [10**8] * 2),
    ([10**15, 1], [10**15, 2]), ([2**60 + 1, 1], [2**60, 1]), ([2**63 - 1, 5], [2**64 - 3, 10]),
    ([10**99, 10**99 + 1], [10**99] * 2), ([7 * 10**9, 10**9, 3], [14 * 10**9, 2 * 10**9, 7]),
    (range(10**6, 10**6 + 40), range(10**6 + 1, 10**6 + 41)), ([1, 10**12], [10**12, 1]),
]  # fmt: skip


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1e-6, 1e-100, 1e100])
def test_a_divergence_keeps_its_digits_however_near_to_zero(alpha):
    with mp.workdps(500):
        for p, q in [*TWO_SAMPLES, *CLOSE_SAMPLES]:
            truth = exact_cross_entropy(p, q, alpha) - exact_plug_in(p)
            found = kl_divergence_from_counts(p, q, smoothing=alpha).value
            assert abs(mp.mpf(found) - truth) <= ROUNDING * truth, (p, q)


@laws
@given(st.lists(st.tuples(st.integers(1, 10**20), st.integers(-9, 9)), min_size=1, max_size=9))
def test_a_divergence_of_nearly_equal_counts_keeps_its_digits(cells):
    p, q = [a for a, _ in cells], [max(a + more, 1) for a, more in cells]
    with mp.workdps(200):
        truth = exact_cross_entropy(p, q, 0) - exact_plug_in(p)
        assert (
            abs(mp.mpf(kl_divergence_from_counts(p, q).value) - truth) <= ROUNDING * truth + 1e-150
        )


@laws
@given(
    st.integers(1, 8).flatmap(
        lambda m: st.tuples(*[st.lists(st.integers(0, 20), min_size=m, max_size=m).filter(any)] * 2)
    )
)
def test_infinite_exactly_where_a_value_is_unsupported(pair):
    p, q = pair
    lacking = tuple(i for i, (a, b) in enumerate(zip(p, q, strict=True)) if a and not b)
    for estimate in (cross_entropy_from_counts(p, q), kl_divergence_from_counts(p, q)):
        assert estimate.unsupported == lacking
        assert math.isinf(estimate.value) == bool(lacking)
        assert estimate.unsupported_mass == pytest.approx(sum(p[i] for i in lacking) / sum(p))
        assert estimate.value >= 0
    assert kl_divergence_from_counts(p, p).value == 0.0
    smoothed = kl_divergence_from_counts(p, q, smoothing=0.5)
    assert math.isfinite(smoothed.value)
    assert smoothed.unsupported == lacking


def test_the_alphabet_is_what_was_observed_unless_it_is_named():
    p, q = "aab", "aac"
    found = cross_entropy_from_samples(p, q, smoothing=1)
    assert (found.alphabet_size, found.unsupported) == (3, ("b",))
    assert found.value == pytest.approx(-(2 * math.log(3 / 6) + math.log(1 / 6)) / 3)
    named = cross_entropy_from_samples(p, q, smoothing=1, alphabet="abcde")
    assert named.alphabet_size == 5
    assert named.value == pytest.approx(-(2 * math.log(3 / 8) + math.log(1 / 8)) / 3)
    by_zeros = cross_entropy_from_counts([2, 1, 0, 0, 0], [2, 0, 1, 0, 0], smoothing=1)
    assert by_zeros.value == named.value
    assert (
        cross_entropy_from_counts({"a": 2, "b": 1, "d": 0, "e": 0}, Counter(q), smoothing=1)
        == named
    )


def test_without_smoothing_the_alphabet_changes_nothing():
    wide = kl_divergence_from_samples("aab", "abb", alphabet="abcdefgh")
    assert wide.value == kl_divergence_from_samples("aab", "abb").value


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"smoothing": -1}, OptionError, "0 or lie in .* got -1"),
        ({"smoothing": 5e-324}, OptionError, "got 5e-324"),
        ({"smoothing": math.inf}, OptionError, "got inf"),
        ({"smoothing": math.nan}, OptionError, "got nan"),
        ({"smoothing": "laplace"}, OptionError, "got 'laplace'"),
        ({"smoothing": True}, OptionError, "got True"),
        ({"alphabet": "a"}, OptionError, "every observed value: got 'b' in p"),
        ({"alphabet": "abb"}, OptionError, "once: got 'b' more than once"),
        ({"alphabet": 3}, OptionError, "the possible values: got 3"),
        ({"alphabet": [["a"], "b"]}, OptionError, "the possible values: got"),
    ],
)
def test_options_of_two_samples_are_checked(options, error, words):
    for call in (cross_entropy_from_samples, kl_divergence_from_samples):
        with pytest.raises(error, match=words) as caught:
            call("aab", "aa", **options)
        assert "Hint: " in str(caught.value)


def test_two_samples_must_count_the_same_values():
    with pytest.raises(ShapeError, match="same values: got 2 and 3 of them"):
        kl_divergence_from_counts([1, 2], [1, 2, 3])
    with pytest.raises(ShapeError, match="a vector and a mapping"):
        kl_divergence_from_counts([1, 2], {"a": 1})
    with pytest.raises(OptionError, match="vectors of counts"):
        kl_divergence_from_counts([1, 2], [1, 2], alphabet=[0, 1])
    with pytest.raises(ShapeError, match="q_counts must hold at least one observation"):
        kl_divergence_from_counts([1, 2], [0, 0], smoothing=1)


# ---- mutual information --------------------------------------------------------------------------


def test_mutual_information_is_the_formula_on_cells_with_and_without_observations():
    g = np.random.default_rng(2)
    for _ in range(20):
        table = g.poisson(g.gamma(0.5, 4.0, size=(g.integers(1, 7), g.integers(2, 7))))
        table[0, 0] += 1
        plug_in = mutual_information_from_counts(table, estimator="plug_in")
        exact = float(xent.mutual_information(table, normalize=True))
        assert plug_in.value == pytest.approx(exact, rel=1e-12, abs=1e-15)
        assert plug_in.value >= 0
        for name in NAMES:
            parts = [value(c, name) for c in (table.sum(1), table.sum(0), table.ravel())]
            found = mutual_information_from_counts(table, estimator=name)
            assert found.value == pytest.approx(parts[0] + parts[1] - parts[2], abs=1e-14)


@pytest.mark.parametrize(
    "table",
    [
        [[10**15, 0], [0, 1]], [[10**15, 1], [1, 0]], [[10**8, 10**8], [10**8, 10**8 + 1]],
        [[10**15, 10**3], [10**3, 5]], [[10**40, 10**20], [10**20, 2]], [[2**63, 1], [1, 1]],
        [[1, 2], [3, 4]], [[5, 0, 0], [0, 6, 0], [0, 0, 7]],
    ],
)  # fmt: skip
def test_mutual_information_keeps_its_digits_however_near_to_zero(table):
    with mp.workdps(200):
        n, rows, columns = (
            mp.mpf(sum(map(sum, table))),
            [sum(r) for r in table],
            [*map(sum, zip(*table, strict=True))],
        )
        truth = mp.fsum(
            k / n * mp.log(k * n / (rows[i] * columns[j]))
            for i, row in enumerate(table) for j, k in enumerate(row) if k
        )  # fmt: skip
        found = mutual_information_from_counts(table, estimator="plug_in").value
        assert abs(mp.mpf(found) - truth) <= ROUNDING * truth


def test_miller_madow_takes_off_the_bias_of_independent_variables():
    table = [[10, 20], [30, 60]]
    assert mutual_information_from_counts(table, estimator="plug_in").value == pytest.approx(
        0.0, abs=1e-16
    )
    corrected = mutual_information_from_counts(table, estimator="miller_madow").value
    assert corrected == pytest.approx(-1 / (2 * 120), rel=1e-12)


def test_pairs_and_their_table_agree():
    g = np.random.default_rng(4)
    x, y = g.integers(0, 4, 300), g.integers(0, 5, 300)
    table = np.zeros((4, 5), dtype=int)
    np.add.at(table, (x, y), 1)
    for name in NAMES:
        by_pairs = mutual_information_from_samples(x, y, estimator=name)
        by_table = mutual_information_from_counts(table, estimator=name)
        assert by_pairs.value == pytest.approx(by_table.value, abs=1e-14)
        assert {**by_pairs.to_dict(), "value": 0} == {**by_table.to_dict(), "value": 0}
        other_way = mutual_information_from_samples(y.astype(str), x.tolist(), estimator=name)
        assert other_way.value == pytest.approx(by_pairs.value, abs=1e-14)
    assert (by_pairs.n, by_pairs.observed_x, by_pairs.observed_y) == (300, 4, 5)


def test_a_variable_tells_its_own_entropy_about_itself_and_names_do_not_fill_memory():
    names = [f"user {i}" for i in range(20_000)]
    found = mutual_information_from_samples(names, names, estimator="plug_in")
    assert found.value == pytest.approx(math.log(20_000))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: mutual_information_from_counts([1, 2]), ShapeError, "a matrix, .* got shape"),
        (lambda: mutual_information_from_counts([[0, 0]]), ShapeError, "only zeros"),
        (lambda: mutual_information_from_counts(np.zeros((0, 3))), ShapeError, "no count at all"),
        (
            lambda: mutual_information_from_counts([[1, 2], [3, -1]]),
            DistributionError,
            "got -1 for row 1, column 1",
        ),
        (
            lambda: mutual_information_from_counts(np.ma.masked_equal([[1, 2]], 2)),
            DistributionError,
            "masked",
        ),
        (lambda: mutual_information_from_counts([[1, 2], [3]]), ShapeError, "table must hold"),
        (lambda: mutual_information_from_samples("ab", "abc"), ShapeError, "got 2 and 3 of them"),
        (
            lambda: mutual_information_from_samples("ab", ["a", None]),
            TargetError,
            "y_samples .* row 1",
        ),
    ],
)
def test_tables_and_pairs_are_checked(call, error, words):
    with pytest.raises(error, match=words) as caught:
        call()
    assert "Hint: " in str(caught.value)


# ---- the permutation test ------------------------------------------------------------------------


def exact_p_value(p, q, statistic):
    """Sum the probabilities of all divisions that are as far apart, or farther."""
    pooled = [a + b for a, b in zip(p, q, strict=True)]
    n_p = sum(p)
    divisions = [()]
    for total in pooled:
        divisions = [(*d, k) for d in divisions for k in range(total + 1)]
    observed = statistic(p, q)
    as_far = everything = 0
    for division in divisions:
        if sum(division) != n_p:
            continue
        ways = math.prod(math.comb(t, k) for t, k in zip(pooled, division, strict=True))
        everything += ways
        rest = [t - k for t, k in zip(pooled, division, strict=True)]
        as_far += ways * (statistic(division, rest) >= observed - 1e-12)
    return as_far / everything


def by_js(p, q):
    return float(xent.mutual_information([p, q], normalize=True))


def by_kl(p, q):
    return kl_divergence_from_counts(list(p), list(q), smoothing=0.5).value


@pytest.mark.parametrize(
    ("p", "q"), [([6, 2, 1], [2, 4, 4]), ([3, 3, 0], [1, 0, 5]), ([9, 1], [3, 4])]
)
def test_p_values_are_those_of_all_divisions(p, q):
    draws = 20_000
    for options, statistic in (
        ({}, by_js),
        ({"statistic": "kl_divergence", "smoothing": 0.5}, by_kl),
    ):
        test = permutation_test_from_counts(p, q, permutations=draws, **options)
        truth = exact_p_value(p, q, statistic)
        assert test.p_value == pytest.approx(
            truth, abs=4 * math.sqrt(truth * (1 - truth) / draws) + 1e-4
        )
        assert test.value == pytest.approx(statistic(p, q), abs=1e-14)
        assert test.p_value == (1 + test.at_least) / (1 + draws)


def test_equal_statistics_count_as_equal_whatever_their_rounding():
    # Of the three divisions, two have the statistic of the samples and the third a smaller one.
    test = permutation_test_from_counts([2, 0, 1], [0, 2, 1], permutations=4000)
    truth = exact_p_value([2, 0, 1], [0, 2, 1], by_js)
    assert test.p_value == pytest.approx(truth, abs=0.03)
    assert permutation_test_from_counts([1, 0, 0], [0, 1, 1], permutations=50).p_value == 1.0
    assert permutation_test_from_counts([7], [3], permutations=50).p_value == 1.0


def test_under_the_null_small_p_values_are_as_rare_as_they_say():
    g = np.random.default_rng(11)
    shares = g.dirichlet(np.full(12, 0.7))
    p_values = np.array(
        [
            permutation_test_from_counts(
                g.multinomial(40, shares), g.multinomial(70, shares), permutations=199, seed=g
            ).p_value
            for _ in range(600)
        ]
    )
    for level in (0.05, 0.1, 0.25, 0.5):
        share = float((p_values <= level).mean())
        assert level - 4 * math.sqrt(level / 600) <= share <= level + 3 * math.sqrt(level / 600)


def test_equal_samples_are_not_apart_at_all():
    g = np.random.default_rng(9)
    for _ in range(20):
        counts = g.integers(1, 50, 13)
        test = permutation_test_from_counts(counts, 3 * counts, permutations=9)
        assert 0 <= test.value < 1e-15
        assert test.p_value == 1.0


def test_a_real_difference_is_found_by_both_statistics():
    g = np.random.default_rng(12)
    p, q = [0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]
    for options in ({}, {"statistic": "kl_divergence", "smoothing": 0.5}):
        found = sum(
            permutation_test_from_counts(
                g.multinomial(150, p), g.multinomial(150, q), permutations=199, **options
            ).p_value
            <= 0.05
            for _ in range(50)
        )
        assert found >= 35


def test_chance_alone_is_what_the_null_mean_says():
    shares = np.full(20, 0.05)
    g = np.random.default_rng(5)
    test = permutation_test_from_counts(g.multinomial(4000, shares), g.multinomial(6000, shares))
    assert test.null_mean == pytest.approx(19 / (2 * 10_000), rel=0.02)
    kl = permutation_test_from_counts(
        g.multinomial(4000, shares), g.multinomial(6000, shares),
        statistic="kl_divergence", smoothing=0.5,
    )  # fmt: skip
    assert kl.null_mean == pytest.approx(19 / 2 * (1 / 4000 + 1 / 6000), rel=0.03)


def test_the_same_seed_gives_the_same_p_value_whatever_the_names_and_their_order():
    p, q = {"a": 9, "b": 4, "c": 7}, {"a": 4, "b": 8, "c": 6}
    first = permutation_test_from_counts(p, q)
    renamed = permutation_test_from_counts(
        {"z": 7, "y": 9, "x": 4, "never": 0}, {"x": 8, "y": 4, "z": 6}
    )
    assert renamed == first
    assert permutation_test_from_counts(p, q, seed=1).p_value != first.p_value
    sample_p, sample_q = list(Counter(p).elements()), list(Counter(q).elements())
    assert permutation_test_from_samples(sample_p[::-1], sample_q) == first
    generator = np.random.default_rng(0)
    assert permutation_test_from_counts(p, q, seed=generator) == first
    assert permutation_test_from_counts(p, q, seed=generator) != first


def test_blocks_do_not_change_a_p_value(monkeypatch):
    from xent.estimation import permutation

    p, q = list(range(1, 40)), list(range(39, 0, -1))
    whole = permutation_test_from_counts(p, q, permutations=500)
    monkeypatch.setattr(permutation, "_CELLS", 1000)
    assert permutation_test_from_counts(p, q, permutations=500).p_value == whole.p_value


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"statistic": "chi_squared"}, "'js_divergence' or 'kl_divergence': got 'chi_squared'"),
        ({"smoothing": 1}, "belongs to the Kullback"),
        ({"statistic": "kl_divergence"}, "needs a smoothing above 0: got None"),
        ({"statistic": "kl_divergence", "smoothing": 0}, "needs a smoothing above 0: got 0"),
        ({"statistic": "kl_divergence", "smoothing": -1}, "0 or lie in .* got -1"),
        ({"permutations": 0}, "whole number ≥ 1: got 0"),
        ({"permutations": 9.0}, "whole number ≥ 1: got 9.0"),
        ({"permutations": True}, "got True"),
        ({"seed": None}, "got None. Hint: numpy.random.default_rng"),
        ({"seed": -1}, "got -1"),
    ],
)
def test_options_of_the_test_are_checked(options, words):
    with pytest.raises(OptionError, match=words) as caught:
        permutation_test_from_counts([5, 5], [6, 4], **options)
    assert "Hint: " in str(caught.value)


def test_more_observations_than_the_generator_takes_are_refused_with_a_way_out():
    with pytest.raises(OptionError, match=r"fewer than 1000000000 .* chi-squared"):
        permutation_test_from_counts([10**9, 5], [6, 4])


# ---- the room ------------------------------------------------------------------------------------


def test_the_public_names_are_sorted_documented_and_reached_from_the_package():
    assert estimation.__all__ == sorted(estimation.__all__)
    assert xent.estimation is estimation
    for name in estimation.__all__:
        assert ">>> " in getattr(estimation, name).__doc__, name


def test_inputs_are_left_as_they_were():
    counts = np.array([5.0, 3.0, 1.0])
    counts.flags.writeable = False
    sample = np.array([3, 1, 3])
    sample.flags.writeable = False
    for name in NAMES:
        entropy_from_counts(counts, estimator=name)
        entropy_from_samples(sample, estimator=name)
    kl_divergence_from_counts(counts, counts, smoothing=1)
    permutation_test_from_counts(counts, counts, permutations=9)
    assert counts.tolist() == [5.0, 3.0, 1.0]
