"""The one scan of a table, against the same sums over its rows in memory."""

from __future__ import annotations

import json
import math

import duckdb
import numpy as np
import pytest
from tables import csv_of, parquet_of

import xent
from xent.cli import main
from xent.errors import OptionError, TableError
from xent.report import render_text
from xent.scoring import LossSummary, score
from xent.scoring.histogram import Histogram
from xent.scoring.query import MOST_GUESSES, Query
from xent.scoring.reading import Wishes, read_roles
from xent.scoring.sources import open_table
from xent.scoring.tally import (
    Cell,
    fine_loss_bin_sql,
    joined,
    loss_bin_edges,
    loss_bin_of_fine_sql,
)


def predictions(rows=3000, classes=4, seed=0, *, zeros=True):
    random = np.random.default_rng(seed)
    z = 3.0 * random.normal(size=(rows, classes))
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    y = (z + 2.0 * random.gumbel(size=z.shape)).argmax(axis=1)
    if zeros:
        p[:3] = np.eye(classes)[[0, 1, 2]]
        y[:3] = [1, 1, 3]  # two certain mistakes, and a certainty that was right
    return p, y, random.uniform(0.5, 2.0, rows) * (random.random(rows) > 0.1)


def written(folder, p, y, w=None, *, layout="wide", labels="int", slices=None):
    path = folder / "t.parquet"
    names = (
        [f"c{k}" for k in range(p.shape[1])]
        if labels == "text"
        else [str(k) for k in range(p.shape[1])]
    )
    columns = {"label": np.array(names)[y] if labels == "text" else y}
    if w is not None:
        columns["weight"] = w
    columns |= slices or {}
    if layout == "wide":
        columns |= {f"p_{name}": np.ascontiguousarray(p[:, k]) for k, name in enumerate(names)}
    elif layout == "binary":
        columns |= {"p": np.ascontiguousarray(p[:, 1])}
    else:
        columns |= {f"d{k}": np.ascontiguousarray(p[:, k]) for k in range(p.shape[1])}
    with duckdb.connect() as connection:
        connection.register("made", columns)
        asked = "*"
        if layout == "list":
            parts = [f"d{k}" for k in range(p.shape[1])]
            asked = f"* EXCLUDE ({', '.join(parts)}), [{', '.join(parts)}] AS probabilities"
        connection.execute(f"COPY (SELECT {asked} FROM made) TO '{path}' (FORMAT parquet)")
    return path


def losses_of(p, y):
    with np.errstate(divide="ignore"):
        return -np.log(p[np.arange(len(y)), y])


def same(summary, losses, weights):
    expected = LossSummary.from_rows(losses, weights)
    assert (summary.finite_rows, summary.infinite_rows) == (
        expected.finite_rows,
        expected.infinite_rows,
    )
    assert summary.weight == pytest.approx(expected.weight, rel=1e-13)
    assert summary.finite_total == pytest.approx(expected.finite_total, rel=1e-12, abs=1e-12)
    if expected.standard_error is not None:
        assert summary.standard_error == pytest.approx(expected.standard_error, rel=1e-9)


@pytest.mark.parametrize("layout", ["wide", "list"])
@pytest.mark.parametrize("labels", ["int", "text"])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_group_of_the_scan_is_that_of_its_rows(tmp_path, layout, labels, weighted):
    if (layout, labels) == ("list", "text"):
        pytest.skip("a list has its classes by their places")
    p, y, w = predictions()
    result = score(written(tmp_path, p, y, w if weighted else None, layout=layout, labels=labels))
    w = w if weighted else np.ones(len(y))
    losses, guess = losses_of(p, y), p.argmax(axis=1)
    brier = ((p - np.eye(p.shape[1])[y]) ** 2).sum(axis=1)
    tally = result.tally
    for k in range(p.shape[1]):
        own = y == k
        cell = tally.classes[k + 1]
        same(cell.summary, losses[own], w[own])
        assert cell.rows == own.sum()
        assert cell.brier == pytest.approx(w[own] @ brier[own], rel=1e-12)
        assert cell.correct == pytest.approx(w[own] @ (guess == k)[own], rel=1e-12)
        for g in range(p.shape[1]):
            both = own & (guess == g)
            same(tally.guesses[k + 1, g + 1].summary, losses[both], w[both])
    assert result.brier_score == pytest.approx((w @ brier) / w.sum(), rel=1e-12)
    assert result.perplexity == math.inf
    top = Histogram.from_rows(p[np.arange(len(y)), guess], guess == y, w)
    assert tally.top.bins.tolist() == top.bins.tolist()
    for name in top.to_dict():
        np.testing.assert_allclose(
            getattr(tally.top, name), getattr(top, name), rtol=1e-9, atol=1e-12, err_msg=name
        )


def test_one_column_of_probabilities_is_two_classes(tmp_path):
    p, y, w = predictions(classes=2, zeros=False)
    one = score(written(tmp_path, p, y, w, layout="binary"))
    brier, perplexity, top = one.brier_score, one.perplexity, one.tally.top
    two = score(written(tmp_path, p, y, w))
    assert brier == pytest.approx(two.brier_score, rel=1e-12)
    assert perplexity == pytest.approx(math.exp(two.log_loss), rel=1e-12)
    np.testing.assert_allclose(top.loss, two.tally.top.loss, rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(top.hits, two.tally.top.hits, rtol=1e-12)


def test_losses_are_grouped_by_bins_that_hold_them(tmp_path):
    p, y, _ = predictions()
    result = score(written(tmp_path, p, y))
    losses = losses_of(p, y)
    counted = 0
    for (number, floors), cell in result.tally.losses.items():
        least, most = loss_bin_edges(number)
        below = sum(least_p > math.exp(-least) for least_p in result.floors)
        inside = (losses >= least * (1 - 1e-12)) & (losses <= most * (1 + 1e-12))
        assert 0 < cell.rows <= inside.sum()
        assert floors in {below, below + 1, below - 1} or math.isinf(most)
        counted += cell.rows
    assert counted == len(losses)


def test_bins_of_the_engine_are_those_of_their_edges():
    losses = [5e-324, 1e-17, 0.3, 1.0, 1.5, 2.0, 744.4, 1e300]
    with duckdb.connect() as connection:
        asked = ", ".join(f"({loss!r}::DOUBLE)" for loss in losses)
        rows = connection.execute(
            f"SELECT l, {loss_bin_of_fine_sql('b')} FROM (SELECT l, {fine_loss_bin_sql('l')} AS b "
            f"FROM (VALUES {asked}, (0.0), (NULL)) AS t(l))"
        ).fetchall()
    for loss, number in rows:
        least, most = loss_bin_edges(number)
        value = math.inf if loss is None else loss
        assert least <= value
        assert value < most or value == least == most or most == math.inf


def test_the_worst_rows_part_of_the_loss_and_of_its_variance(tmp_path):
    p, y, w = predictions(20000, zeros=False)
    result = score(written(tmp_path, p, y, w))
    losses = losses_of(p, y)
    order = np.argsort(-losses)
    upto = np.cumsum(w[order])
    mean = (w @ losses) / w.sum()
    for share in (0.001, 0.01, 0.1, 0.5):
        taken = order[upto <= share * w.sum()]
        part, spread = result.tally.heaviest(share)
        assert part == pytest.approx((w[taken] @ losses[taken]) / (w @ losses), rel=0.03)
        exact = (w[taken] ** 2 @ (losses[taken] - mean) ** 2) / (w**2 @ (losses - mean) ** 2)
        assert spread == pytest.approx(exact, rel=0.06)
        assert result.concentration(share) == part
    assert result.tally.heaviest(1.0) == pytest.approx((1.0, 1.0), rel=1e-9)


def test_parts_that_are_undefined_are_none(tmp_path):
    p, y, _ = predictions()
    assert score(written(tmp_path, p, y)).tally.heaviest(0.01) == (None, None)
    sure = np.eye(3)[[0, 1, 2, 0]]
    result = score(written(tmp_path, sure, np.array([0, 1, 2, 0])))
    assert result.tally.heaviest(0.01) == (None, None)
    assert (result.log_loss, result.brier_score, result.perplexity) == (0.0, 0.0, 1.0)
    same_loss = np.full((4, 2), 0.5)
    part, spread = score(written(tmp_path, same_loss, np.array([0, 1, 1, 0]))).tally.heaviest(0.25)
    assert part == pytest.approx(0.25)
    assert spread is None


@pytest.mark.parametrize("weighted", [False, True])
def test_slices_are_those_of_their_rows(tmp_path, weighted):
    p, y, w = predictions()
    random = np.random.default_rng(5)
    country = np.array(["de", "fr", 'it\'s "x";', ""])[random.integers(0, 4, len(y))]
    number = random.integers(-1, 2, len(y))
    path = written(
        tmp_path, p, y, w if weighted else None, slices={"country": country, "n": number}
    )
    w = w if weighted else np.ones(len(y))
    with open_table(path) as table:
        reading = read_roles(table, Wishes(probabilities="p_*"))
        slices = [table.names.index(name) for name in ("country", "n")]
        query = Query(table, reading, length=4, slices=slices)
        plain, full = (query.scan(explain=explain).tally for explain in (False, True))
    for tally in (plain, full):
        for column, cells in zip((country, number), tally.slices, strict=True):
            assert set(cells) == {str(value) for value in column}
            for value, cell in cells.items():
                own = column.astype(str) == value
                same(cell.summary, losses_of(p, y)[own], w[own])


def test_of_many_pairs_the_costliest_are_fetched(tmp_path, monkeypatch):
    classes = 150
    p, y, _ = predictions(4000, classes, zeros=False)
    monkeypatch.setattr("xent.scoring.query.MOST_GUESSES", 40)
    result = score(written(tmp_path, p, y))
    assert len(result.confusions) == 40
    losses, guess = losses_of(p, y), p.argmax(axis=1)
    costs = np.bincount(y * classes + guess, losses, classes**2)
    most = np.sort(costs)[::-1][:40]
    np.testing.assert_allclose([c.cell.summary.total for c in result.confusions], most, rtol=1e-9)
    assert MOST_GUESSES == 10_000


def test_confusions_add_up_to_the_score(tmp_path):
    p, y, _ = predictions(zeros=False)
    result = score(written(tmp_path, p, y, labels="text"))
    assert math.fsum(c.share for c in result.confusions) == pytest.approx(1.0)
    totals = [c.cell.summary.total for c in result.confusions]
    assert totals == sorted(totals, reverse=True)
    assert result.confusions[0].label.startswith("c")
    assert xent.log_loss(y, p) == pytest.approx(result.log_loss, rel=1e-12)


def test_cells_of_parts_add_up():
    one = {"a": Cell(1, LossSummary.from_rows([1.0]), 0.5, 1.0)}
    two = {"a": Cell(2, LossSummary.from_rows([2.0, 3.0]), 0.25, 0.0), "b": Cell()}
    both = joined([one, two])
    assert both["a"].rows == 3
    assert both["a"].summary.log_loss == pytest.approx(2.0)
    assert both["a"].brier == 0.75
    assert one["a"].rows == 1


def test_the_report_says_which_mistakes_cost_most(tmp_path):
    p, y, _ = predictions(zeros=False)
    result = score(written(tmp_path, p, y, labels="text"))
    text = render_text(result)
    assert f"Brier score    {result.brier_score:.4f}" in text
    line = next(line for line in text.splitlines() if line.startswith("worst 1 %"))
    assert line.split()[3:5] == [f"{100 * result.concentration(0.01):.3g}", "%"]
    mistakes = [c for c in result.confusions if c.label != c.guess]
    lines = text.split("costliest mistakes")[1].splitlines()[2:7]
    for line, c in zip(lines, mistakes[:5], strict=True):
        summary = c.cell.summary
        assert line.split()[:4] == [c.label, c.guess, f"{summary.n:,}", f"{summary.log_loss:.4f}"]
    document = result.to_dict()
    assert document["brier_score"] == result.brier_score
    assert document["confusions"][0]["share"] == result.confusions[0].share
    assert document["worst_1_percent_share"] == result.concentration(0.01)


def test_the_score_of_each_slice(tmp_path, capsys):
    p, y, w = predictions(zeros=False)
    country = np.array(["de", "fr", "[b]it's"])[np.arange(len(y)) % 3]
    path = written(tmp_path, p, y, w, slices={"country": country, "month": np.arange(len(y)) % 25})
    result = score(path, by=["country", "month", "country"], probabilities="p_*")
    assert result.by == ("country", "month")
    losses = losses_of(p, y)
    for s in result.slices:
        own = (country if s.column == "country" else np.arange(len(y)) % 25).astype(str) == s.value
        same(s.cell.summary, losses[own], w[own])
        assert s.share == pytest.approx((w[own] @ losses[own]) / (w @ losses), rel=1e-9)
    shares = [s.share for s in result.slices if s.column == "month"]
    assert shares == sorted(shares, reverse=True)
    text = render_text(result)
    assert "[b]it's" in text
    assert "… 5 more (--json has all)" in text
    words = [
        "score",
        str(path),
        "--probabilities",
        "p_*",
        "--by",
        "country",
        "--by",
        "month",
        "--json",
        "-",
    ]
    assert main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert [s["value"] for s in document["slices"]][:3] == [s.value for s in result.slices[:3]]
    assert len(document["slices"]) == 28


def test_rows_without_a_value_are_a_slice_of_their_own(tmp_path):
    path = csv_of(tmp_path, ["label,p,part", "1,0.5,a", "0,0.5,", "1,0.25,"])
    parts = {s.value: s.cell.summary for s in score(path, by=["part"]).slices}
    assert {value: part.n for value, part in parts.items()} == {"a": 1, None: 2}
    parquet = parquet_of(tmp_path, label=[1, 0, 1], p=[0.5, 0.5, 0.25], part=["a", None, None])
    scored = score(parquet, by=["part"])
    assert {s.value: s.cell.summary.n for s in scored.slices} == {"a": 1, None: 2}
    assert "(none)" in render_text(scored)


@pytest.mark.parametrize(
    ("by", "said"),
    [
        (["p_0"], "holds the probabilities"),
        (["parts"], "did you mean 'part'"),
        (["lists"], r"holds INTEGER\[\]"),
        ("part", "must be a list of columns: got 'part'"),
    ],
)
def test_columns_that_slice_nothing_are_refused(tmp_path, by, said):
    columns = {"label": "i % 2", "p_0": "0.5", "p_1": "0.5", "part": "i % 3", "lists": "[i::INT]"}
    with pytest.raises((OptionError, TableError), match=said):
        score(parquet_of(tmp_path, **columns), by=by, probabilities="p_*")


def test_more_slices_than_can_be_looked_at_are_refused(tmp_path, monkeypatch):
    for name in ("query", "table"):
        monkeypatch.setattr(f"xent.scoring.{name}.MOST_GUESSES", 20)
    path = parquet_of(tmp_path, label="i % 2", p_0="0.5", p_1="0.5", few="i % 20", many="i % 21")
    assert len(score(path, by=["few"]).slices) == 20
    with pytest.raises(TableError, match=r"'many' of .* into 20 values at most"):
        score(path, by=["few", "many"])
