"""Intervals of a mean loss, totals of clusters, and the doubts about them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import scipy.stats
from test_tally import losses_of, predictions, written

from benchmarks.score_coverage import PROCESSES, Cell, failures, simulate, simulate_clusters
from xent.cli import main
from xent.errors import OptionError, TableError
from xent.scoring import LossSummary, merge, score
from xent.scoring.clusters import ClusterSummary
from xent.scoring.intervals import mean_interval, quantile
from xent.scoring.score_file import read_summary, summary_document


def test_the_interval_is_students():
    x = np.random.default_rng(0).gamma(2.0, size=40)
    found = mean_interval(LossSummary.from_rows(x), level=0.9)
    expected = scipy.stats.ttest_1samp(x, 0.0).confidence_interval(0.9)
    assert (found.lower, found.upper) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert found.degrees == pytest.approx(39.0)
    assert found.doubts == ()
    assert quantile(0.95, math.inf) == pytest.approx(scipy.stats.norm.ppf(0.975), rel=1e-12)


def test_weights_that_say_little_leave_few_degrees():
    x, w = np.random.default_rng(0).gamma(2.0, size=400), np.ones(400)
    w[:4] = 1e9
    found = mean_interval(LossSummary.from_rows(x, w))
    assert found.degrees == pytest.approx(3.0, rel=1e-6)
    assert found.doubts == ("by their weights the rows are worth only 4",)
    alone = mean_interval(LossSummary.from_rows(x, np.where(np.arange(400) == 0, 1e99, 1.0)))
    assert 0.0 < alone.degrees < 0.1
    assert math.isfinite(alone.lower)


def test_doubts():
    assert mean_interval(LossSummary.from_rows([1.0])) is None
    assert mean_interval(LossSummary.from_rows([1.0, math.inf])) is None
    assert mean_interval(LossSummary.from_rows([0.0, 1.0])).doubts == ("there are only 2 rows",)
    same = mean_interval(LossSummary.from_rows([0.5] * 100))
    assert (same.lower, same.upper, same.doubts) == (0.5, 0.5, ("all losses are the same",))
    many = LossSummary.from_rows(np.arange(100.0))
    assert mean_interval(many, carriers=1.2).doubts == ("half of the variance is that of 1 row",)
    assert mean_interval(many, carriers=20.0).doubts == ()
    for level in (0.4, 1.0, "0.95", True, math.nan):
        with pytest.raises(OptionError, match="level must be"):
            mean_interval(many, level=level)


def test_few_rows_that_carry_the_variance_are_counted(tmp_path):
    p, y, _ = predictions(zeros=False)
    p[:5] = [1e-9, 1.0 - 3e-9, 1e-9, 1e-9]
    y[:5] = 0
    p[:5] /= p[:5].sum(axis=1, keepdims=True)
    result = score(written(tmp_path, p, y))
    x = losses_of(p, y)
    squares = np.sort((x - x.mean()) ** 2)[::-1]
    exact = (np.cumsum(squares) / squares.sum() < 0.5).sum() + 1
    assert result.tally.carriers() == pytest.approx(exact, rel=0.1, abs=1.0)
    assert result.interval.lower < x.mean() < result.interval.upper
    few = score(written(tmp_path, p[:300], y[:300]))
    assert few.interval.doubts == ("half of the variance is that of 3 rows",)
    assert any("not to be trusted" in said for said in few.warnings)


# ---- clusters ---------------------------------------------------------------------------------


def clustered(rows=1000, clusters=60, seed=0):
    random = np.random.default_rng(seed)
    return (
        random.gamma(2.0, size=rows),
        random.uniform(0.1, 2.0, rows),
        random.integers(0, clusters, rows),
    )


def totals(x, w, g):
    groups = np.unique(g)
    return (
        np.array([w[g == k].sum() for k in groups]),
        np.array([(w * x)[g == k].sum() for k in groups]),
        groups,
    )


def robust(x, w, g):
    """The standard error of a weighted mean by the sandwich of a regression on a constant."""
    mean = np.average(x, weights=w)
    groups = np.unique(g)
    meat = sum(((w * (x - mean))[g == k].sum()) ** 2 for k in groups)
    return math.sqrt(len(groups) / (len(groups) - 1) * meat / w.sum() ** 2)


@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_the_error_of_clusters(offset):
    x, w, g = clustered()
    # Differences of numbers near 1e9 are exact here; the sums about a centre keep them.
    x = np.round(x * 1024) / 1024
    found = ClusterSummary.from_totals(*totals(x + offset, w, g))
    rel = 1e-12 if not offset else 1e-5
    assert found.standard_error == pytest.approx(robust(x, w, g), rel=rel)
    assert found.mean == pytest.approx(np.average(x, weights=w) + offset, rel=1e-12)
    interval = found.interval()
    half = scipy.stats.t.ppf(0.975, 59) * found.standard_error
    assert interval.upper - interval.lower == pytest.approx(2 * half, rel=1e-6)
    assert interval.doubts == ()


def test_clusters_of_one_row_are_rows():
    x, w, _ = clustered()
    alone = ClusterSummary.from_totals(w, w * x, range(1000))
    assert alone.standard_error == pytest.approx(
        LossSummary.from_rows(x, w).standard_error, rel=1e-12
    )


def test_parts_add_up_in_any_order():
    x, w, g = clustered()
    whole = ClusterSummary.from_totals(*totals(x, w, g))
    parts = [
        ClusterSummary.from_totals(*totals(x[g % 3 == i], w[g % 3 == i], g[g % 3 == i]))
        for i in range(3)
    ]
    for order in ([0, 1, 2], [2, 0, 1]):
        merged = parts[order[0]].merge(*(parts[i] for i in order[1:]))
        assert merged.standard_error == pytest.approx(whole.standard_error, rel=1e-12)
        assert (merged.clusters, merged.names) == (whole.clusters, whole.names)
    assert ClusterSummary().merge(whole, ClusterSummary()) == whole
    with pytest.raises(OptionError, match=r"got 20 of 60 in more than one"):
        whole.merge(parts[0])
    with pytest.raises(OptionError, match="must have names"):
        whole.merge(ClusterSummary.from_totals([1.0], [1.0], None))


def test_few_or_uneven_clusters_are_doubted():
    assert ClusterSummary.from_totals([1.0], [1.0]).interval() is None
    assert math.isnan(ClusterSummary().mean)
    few = ClusterSummary.from_totals([1.0] * 49, np.arange(49.0)).interval()
    assert few.doubts == ("there are only 49 clusters",)
    uneven = ClusterSummary.from_totals([1e6, *[1.0] * 99], np.arange(100.0)).interval()
    assert uneven.doubts == (
        "by their sizes the clusters are worth only 1",
        "half of the variance is that of one cluster",
    )
    odd = ClusterSummary.from_totals([1.0] * 100, [*np.arange(99.0), 5000.0], range(100))
    assert odd.interval().doubts == ("half of the variance is that of one cluster",)
    even = ClusterSummary.from_totals([1.0] * 100, np.arange(100.0), range(100, 200))
    assert even.interval().doubts == ()
    assert odd.merge(even).interval().doubts == odd.interval().doubts
    lost = ClusterSummary.from_totals([1.0, 1.0], [1.0, 2.0], infinite=1)
    assert (lost.mean, lost.standard_error) == (math.inf, None)
    with pytest.raises(OptionError, match="must be among the 1"):
        ClusterSummary.from_totals([1.0], [1.0], infinite=2)
    same = ClusterSummary.from_totals([1.0] * 60, [0.5] * 60).interval()
    assert same.doubts == ("all clusters have the same mean",)
    good = ClusterSummary.from_totals([1.0, 2.0], [0.5, 1.5], [3, 4]).to_dict()
    for name, value in (("second", -5.0), ("weight", -1.0), ("infinite_clusters", 9), ("clusters", -1),
                        ("clusters", 2.5), ("weight", 0.0), ("names", [3]), ("first", "x")):  # fmt: skip
        with pytest.raises((TypeError, ValueError)):
            ClusterSummary.from_dict(good | {name: value})
    for weights, losses, names in (([0.0], [1.0], ()), ([1.0], [math.inf], ()), ([1.0], [1.0, 2.0], ()),
                                   ([1.0, 1.0], [1.0, 2.0], (3, 3))):  # fmt: skip
        with pytest.raises(OptionError):
            ClusterSummary.from_totals(weights, losses, names)


@pytest.mark.parametrize("layout", ["wide", "list"])
def test_a_table_by_clusters(tmp_path, layout):
    p, y, w = predictions(zeros=False)
    g = np.random.default_rng(5).integers(0, 70, len(y))
    path = written(tmp_path, p, y, w, layout=layout, slices={"patient": g})
    result = score(path, cluster="patient", by=["patient"])
    x, some = losses_of(p, y), w > 0
    assert result.standard_error == pytest.approx(robust(x[some], w[some], g[some]), rel=1e-10)
    assert result.clusters.clusters == len(np.unique(g[some]))
    assert result.interval == result.clusters.interval()
    assert result.interval.degrees == result.clusters.clusters - 1
    assert result.log_loss == pytest.approx(np.average(x, weights=w), rel=1e-12)
    again = json.loads(json.dumps(summary_document(result)))
    (tmp_path / "s.json").write_text(json.dumps(again))
    assert read_summary(tmp_path / "s.json").clusters == result.clusters
    with pytest.raises(OptionError, match="must not share clusters"):
        merge(result, result)
    with pytest.raises(OptionError, match="same cluster column"):
        merge(result, score(path, by=["patient"]))


def test_clusters_with_infinite_losses_and_without_names(tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_text("label,p_a,p_b,who\na,0,1,x\nb,0.5,0.5,y\nb,0.5,0.5,x\n")
    result = score(path, cluster="who")
    assert (result.clusters.infinite_clusters, result.standard_error, result.interval) == (
        1,
        None,
        None,
    )
    path.write_text("label,p_a,p_b,who\na,0.5,0.5,x\nb,0.5,0.5,\n")
    with pytest.raises(TableError, match=r"'who' .* must have a value in every row"):
        score(path, cluster="who")
    path.write_text("label,p_a,p_b,who\na,0.5,0.5,x\nb,0.25,0.75,y\n")
    assert main(["score", str(path), "--cluster", "who"]) == 0
    out = capsys.readouterr().out
    assert "2 clusters" in out
    assert "not to be trusted: there are only 2 clusters" in out
    assert main(["score", str(path), "--cluster", "whom"]) == 2
    assert "--cluster must name a column" in capsys.readouterr().err


# ---- the study --------------------------------------------------------------------------------


def test_the_study_counts_what_the_library_says():
    cell = simulate("calibrated, two classes", 200, samples=300)
    assert 0.9 < cell.covered < 0.99
    missed = simulate(list(PROCESSES)[-1], 200, samples=300)
    assert missed.covered < 0.3
    groups = simulate_clusters(20, samples=200)
    assert groups.independent < groups.covered
    assert failures([Cell("x", 50, 100, 0.85, 0.2).as_dict()]) == ["x, 50: 85.0%, 20% doubted"]
    assert failures([Cell("x", 50, 100, 0.85, 0.9).as_dict(), missed.as_dict()]) == []
