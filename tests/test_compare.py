"""Paired comparisons of models, against the same sums over the joined rows in memory."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from test_intervals import robust
from test_tally import losses_of, predictions

from xent.cli import main
from xent.errors import OptionError, TableError, TargetError
from xent.report import render_comparison
from xent.report.compare_text import verdict
from xent.scoring import compare, score
from xent.scoring.comparison import bootstrap_interval, holm
from xent.scoring.gates import gate_above, gate_worse_than, gates_worse, parse_limit, read_baseline

KEYS = "label,id,p_a,p_b\n"


def tables(rows=400, seed=0, *, weighted=False, zeros=False):
    """Two models' predictions of the same rows, and what they are made of."""
    p, y, w = predictions(rows=rows, seed=seed, zeros=zeros)
    random = np.random.default_rng(seed + 1)
    q = p * np.exp(0.5 * random.normal(size=p.shape))
    q /= q.sum(axis=1, keepdims=True)
    columns = {
        "id": np.arange(rows),
        "label": y,
        "half": y % 2,
        "who": random.integers(0, 60, rows),
    }
    columns |= {"weight": w} if weighted else {}
    first = columns | {f"p_{k}": p[:, k] for k in range(4)}
    order = random.permutation(rows)
    second = {name: c[order] for name, c in columns.items()} | {"probabilities": q[order]}
    return first, second, p, q, y, w if weighted else np.ones(rows), columns["who"]


@pytest.mark.parametrize("weighted", [False, True])
def test_the_difference_is_that_of_paired_rows(weighted):
    first, second, p, q, y, w, _ = tables(weighted=weighted)
    found = compare(first, second, key="id", by=["half"])
    d, some = losses_of(q, y) - losses_of(p, y), w > 0
    total = found.models[1].total
    assert found.rows == some.sum()
    assert total.mean == pytest.approx(np.average(d, weights=w), rel=1e-12)
    assert total.pairs.standard_error == pytest.approx(
        robust(d[some], w[some], np.arange(400)[some]), rel=1e-10
    )
    if not weighted:
        test = scipy.stats.ttest_1samp(losses_of(q, y) - losses_of(p, y), 0.0)
        assert total.p_value == pytest.approx(test.pvalue, rel=1e-9)
        ends = test.confidence_interval(0.95)
        assert (total.interval.lower, total.interval.upper) == pytest.approx(
            (ends.low, ends.high), rel=1e-9
        )
    for model, x in zip(found.models, (p, q), strict=True):
        assert model.log_loss == pytest.approx(np.average(losses_of(x, y), weights=w), rel=1e-12)
    groups = {(g.column, g.value): g for g in found.models[1].groups}
    assert len(groups) == 6
    for (column, value), group in groups.items():
        mine = (y if column == "label" else y % 2) == int(value)
        assert group.mean == pytest.approx(np.average(d[mine], weights=w[mine]), rel=1e-10)
        share = (w * d)[mine].sum() / (w * d).sum()
        assert group.share == pytest.approx(share, rel=1e-9)
    order = np.argsort(-d[some])
    keys = np.arange(400)[some]
    assert [row.key for row in found.models[1].worse] == [str(k) for k in keys[order[:5]]]
    assert [row.key for row in found.models[1].better] == [str(k) for k in keys[order[::-1][:5]]]
    json.dumps(found.to_dict(), allow_nan=False)
    assert "95 %" in render_comparison(found)


def test_clusters_and_the_bootstrap():
    first, second, p, q, y, _, who = tables(rows=900)
    d = losses_of(q, y) - losses_of(p, y)
    d[who < 30] += 0.0
    plain = compare(first, second, key="id")
    found = compare(first, second, key="id", cluster="who")
    total = found.models[1].total
    error = robust(d, np.ones(900), who)
    half = scipy.stats.t.ppf(0.975, len(np.unique(who)) - 1) * error
    assert total.interval.upper - total.mean == pytest.approx(half, rel=1e-9)
    for each in (plain, found):
        interval, drawn = each.models[1].total.interval, each.models[1].bootstrap
        assert drawn.method == "bootstrap"
        width = interval.upper - interval.lower
        assert drawn.lower == pytest.approx(interval.lower, abs=0.12 * width)
        assert drawn.upper == pytest.approx(interval.upper, abs=0.12 * width)
    again = compare(first, second, key="id", cluster="who")
    assert again.to_dict() == found.to_dict()
    assert found.notes == ()


def test_a_bootstrap_draws_rows_anew():
    random = np.random.default_rng(0)
    w, d = random.uniform(0.5, 2.0, 200), random.normal(size=200)
    found = bootstrap_interval(w, w * d, level=0.9)
    means = [np.average(d[i], weights=w[i]) for i in random.integers(200, size=(4000, 200))]
    expected = np.quantile(means, [0.05, 0.95])
    assert (found.lower, found.upper) == pytest.approx(tuple(expected), abs=0.015)
    assert bootstrap_interval(w[:1], d[:1], level=0.9) is None


def test_holm_is_the_step_down_of_bonferroni():
    random = np.random.default_rng(0)
    for _ in range(20):
        p = random.random(7) ** 3
        order = np.argsort(p)
        expected = np.empty(7)
        expected[order] = np.minimum(1, np.maximum.accumulate((7 - np.arange(7)) * p[order]))
        assert holm(list(p)) == pytest.approx(list(expected))
    assert holm([]) == []


# ---- infinite losses ----------------------------------------------------------------------------


def csv(folder, name, rows):
    path = folder / name
    path.write_text(KEYS + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def test_one_side_infinite_both_and_each(tmp_path):
    a = csv(tmp_path, "a.csv", ["a,1,0.5,0.5", "a,2,0,1", "b,3,0.5,0.5"])
    b = csv(tmp_path, "b.csv", ["b,3,0.25,0.75", "a,2,0.5,0.5", "a,1,0.5,0.5"])
    c = csv(tmp_path, "c.csv", ["a,1,0,1", "a,2,0,1", "b,3,0.5,0.5"])
    found = compare(a, b, c, key="id")
    assert found.models[1].total.mean == -math.inf
    assert found.models[2].total.mean == math.inf
    assert (found.models[2].total.pairs.both_infinite, found.models[2].total.pairs.rows) == (1, 3)
    assert found.models[1].better[0].difference == -math.inf
    assert found.models[1].total.interval is None
    each = compare(b, c, a, key="id").models[1].total
    assert (each.mean, each.pairs.second_infinite) == (math.inf, 2)
    d = csv(tmp_path, "d.csv", ["a,1,0,1", "a,2,0.5,0.5", "b,3,0.5,0.5"])
    both = compare(a, d, key="id")
    assert both.models[1].total.mean is None
    assert "in different rows" in verdict(*both.models)
    same = compare(a, a, key="id").models[1].total
    assert (same.mean, same.pairs.both_infinite, same.p_value) == (0.0, 1, 1.0)
    for one in (found, both):
        json.dumps(one.to_dict(), allow_nan=False)
        assert "∞" in render_comparison(one)
    floored = compare(a, d, key="id", floor=0.25)
    assert floored.models[1].total.mean == pytest.approx((math.log(2) - math.log(2)) / 3)


def test_equal_tables_differ_by_nothing(tmp_path):
    first, *_ = tables()
    found = compare(first, first, key="id")
    total = found.models[1].total
    assert (total.mean, total.interval.lower, total.interval.upper, total.p_value) == (0, 0, 0, 1)
    assert (found.models[1].worse, found.models[1].better) == ((), ())
    assert "no better and no worse" in render_comparison(found)
    one = csv(tmp_path, "a.csv", ["a,1,0.5,0.5"])
    other = csv(tmp_path, "b.csv", ["a,1,0.75,0.25"])
    alone = compare(one, other, key="id").models[1]
    assert (alone.total.interval, alone.bootstrap) == (None, None)
    assert "too little of it" in render_comparison(compare(one, other, key="id"))


# ---- what is refused ------------------------------------------------------------------------------


def test_tables_that_are_not_paired(tmp_path):
    a = csv(tmp_path, "a.csv", ["a,1,0.5,0.5", "a,2,0.5,0.5", "b,3,0.5,0.5"])
    for rows, said in (
        (["a,1,0.5,0.5", "a,2,0.5,0.5"], r"1 in '.*a\.csv' that '.*b\.csv' lacks: '3'"),
        (
            ["a,1,0.5,0.5", "a,2,0.5,0.5", "b,3,0.5,0.5", "b,it's,0.5,0.5"],
            r"1 in '.*b\.csv' .*\"it's\"",
        ),
        (["a,1,0.5,0.5", "a,2,0.5,0.5", "b,2,0.5,0.5"], "'2' 2 times"),
        (["a,1,0.5,0.5", "a,2,0.5,0.5", "b,,0.5,0.5"], "1 rows without one"),
        (
            ["a,1,0.5,0.5", "b,2,0.5,0.5", "b,3,0.5,0.5"],
            r"same label .* a in .* and b in .* id '2'",
        ),
    ):
        with pytest.raises(TableError, match=said):
            compare(a, csv(tmp_path, "b.csv", rows), key="id")
    with pytest.raises(TargetError, match="data row 3"):
        compare(
            a,
            csv(tmp_path, "b.csv", ["a,1,0.5,0.5", "a,2,0.5,0.5", "c,3,0.5,0.5"]),
            key="id",
            classes=["a", "b"],
        )
    with pytest.raises(TableError, match="--key must name"):
        compare(a, a, key="name")
    with pytest.raises(OptionError, match="two tables or more"):
        compare(a, key="id")
    with pytest.raises(OptionError, match="level"):
        compare(a, a, key="id", level=95)
    first, second, *_ = tables(weighted=True)
    with pytest.raises(TableError, match="same weight"):
        compare(first, second | {"weight": second["weight"] * 2}, key="id")


def test_keys_are_compared_as_texts(tmp_path):
    first, _, p, q, y, *_ = tables()
    path = tmp_path / "b.csv"
    rows = [f"{y[i]},{i}," + ",".join(map(repr, map(float, q[i]))) for i in range(400)]
    path.write_text("label,id,p_0,p_1,p_2,p_3\n" + "\n".join(reversed(rows)) + "\n")
    d = losses_of(q, y) - losses_of(p, y)
    assert compare(first, path, key="id").models[1].total.mean == pytest.approx(d.mean(), rel=1e-12)


# ---- gates --------------------------------------------------------------------------------------


def test_limits():
    assert parse_limit("0.45") == parse_limit(" 0.45 nats") == 0.45
    assert parse_limit("1bits") == pytest.approx(math.log(2), rel=1e-15)
    for odd in ("", "x", "0", "-1", "nan", "inf", "1 dits"):
        with pytest.raises(OptionError, match="--fail-above"):
            parse_limit(odd)


def test_a_score_has_to_keep_its_limits(tmp_path):
    first, *_ = tables()
    result = score(first)
    assert gate_above(result, result.log_loss).passed
    assert not gate_above(result, result.log_loss * (1 - 1e-12)).passed
    path = tmp_path / "base.json"

    def judged(loss, error, tolerance=0.0):
        text = {
            "log_loss_nats": loss,
            "standard_error_nats": error,
            "infinite_rows": int(loss is None),
        }
        path.write_text(json.dumps(text))
        return gate_worse_than(result, read_baseline(path), tolerance).passed

    error = math.hypot(result.standard_error, 0.01) * scipy.stats.norm.ppf(0.95)
    assert judged(result.log_loss - error * 0.999, 0.01)
    assert not judged(result.log_loss - error * 1.001, 0.01)
    assert judged(result.log_loss - error - 0.09, 0.01, tolerance=0.1)
    assert judged(None, None)
    infinite = score({"label": [0, 1], "p": [1.0, 0.5]})
    assert not gate_above(infinite, 1e9).passed
    assert not gate_worse_than(infinite, read_baseline(path)).passed
    for odd in ("", "[]", "{}", '{"log_loss_nats": null, "standard_error_nats": null, "infinite_rows": 0}',
                '{"log_loss_nats": "1", "standard_error_nats": null, "infinite_rows": 0}'):  # fmt: skip
        path.write_text(odd)
        with pytest.raises(TableError, match="Hint: `xent score TABLE --json FILE`"):
            read_baseline(path)


def test_a_model_must_not_be_worse(tmp_path):
    first, second, *_ = tables()
    found = compare(first, second, key="id")
    worse = found.models[1].total.interval.lower > 0
    assert gates_worse(found)[0].passed != worse
    assert gates_worse(compare(first, first, key="id"))[0].passed
    assert gates_worse(found, tolerance=10.0)[0].passed
    a = csv(tmp_path, "a.csv", ["a,1,0.5,0.5", "b,2,0.5,0.5"])
    b = csv(tmp_path, "b.csv", ["a,1,0,1", "b,2,0.5,0.5"])
    assert [gate.passed for gate in gates_worse(compare(a, b, key="id"))] == [False]
    assert [gate.passed for gate in gates_worse(compare(b, a, key="id"))] == [True]
    assert [gate.passed for gate in gates_worse(compare(b, b, key="id"))] == [False]


def test_the_commands_statuses(tmp_path, capsys):
    a = csv(tmp_path, "a.csv", [f"a,{i},0.9,0.1" for i in range(50)] + ["b,50,0.5,0.5"])
    b = csv(
        tmp_path,
        "b.csv",
        [f"a,{i},{0.5 + i / 500},{0.5 - i / 500}" for i in range(50)] + ["b,50,0.5,0.5"],
    )
    words = ["compare", str(a), str(b), "--key", "id"]
    assert main(words) == 0
    assert "b.csv is worse than" in " ".join(capsys.readouterr().out.split())
    assert main([*words, "--fail-worse", "--json", "-"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["gates"][0]["passed"] is False
    assert err.startswith("xent: --fail-worse: ")
    assert err.count("\n") == 1
    assert main([*words, "--fail-worse", "--tolerance", "5"]) == 0
    assert main([*words[:-1], "nothing"]) == 2
    assert main(["score", str(a), "--fail-above", "0.01"]) == 1
    assert main(["score", str(a), "--fail-above", "1bits"]) == 0
    assert main(["score", str(a), "--fail-above", "much"]) == 2
    base = tmp_path / "base.json"
    assert main(["score", str(a), "--json", str(base)]) == 0
    assert main(["score", str(b), "--fail-worse-than", str(base)]) == 1
    assert main(["score", str(a), "--fail-worse-than", str(base)]) == 0
    assert main(["score", str(a), "--fail-worse-than", str(a)]) == 2
    done = subprocess.run(
        [sys.executable, "-m", "xent", *words, "--fail-worse"], capture_output=True, check=False
    )
    assert done.returncode == 1


def test_a_query_about_each_table():
    random = np.random.default_rng(4)
    table = {"id": np.arange(40), "label": random.integers(0, 2, 40), "part": np.arange(40) % 2}
    one, other = (table | {"p": random.random(40)} for _ in range(2))
    some = compare(one, other, key="id", query="SELECT * FROM predictions WHERE part = 1")
    half = [{k: v[1::2] for k, v in t.items()} for t in (one, other)]
    expected = compare(*half, key="id")
    assert some.rows == 20
    assert some.models[1].total.mean == pytest.approx(expected.models[1].total.mean)


def test_slices_have_the_intervals_of_their_clusters():
    random = np.random.default_rng(8)
    n = 400
    table = {"id": np.arange(n), "label": random.integers(0, 2, n), "who": np.arange(n) // 5}
    table |= {"site": np.array(["n", "s"])[(np.arange(n) // 5) % 2]}
    shift = np.repeat(random.normal(size=n // 5), 5)
    one, other = (
        table | {"logit": random.normal(size=n) + factor * shift} for factor in (0.5, 2.0)
    )
    found = compare(one, other, key="id", by=["site"], cluster="who").models[1]
    for group in found.groups:
        where = table["site"] if group.column == "site" else table["label"].astype(str)
        kept = where == group.value
        parts = [{k: np.asarray(v)[kept] for k, v in t.items()} for t in (one, other)]
        alone = compare(*parts, key="id", cluster="who").models[1].total
        assert group.mean == pytest.approx(alone.mean, rel=1e-12)
        assert group.interval.lower == pytest.approx(alone.interval.lower, rel=1e-9)
        assert group.interval.doubts == alone.interval.doubts
        assert group.p_value == pytest.approx(alone.p_value, rel=1e-9)
        rows = compare(*parts, key="id").models[1].total
        assert rows.interval.lower != pytest.approx(group.interval.lower, rel=1e-3)
    # Where one model is infinitely wrong, the slices that are finite keep theirs.
    lost = other | {"logit": np.where(table["id"] == 7, np.inf, other["logit"])}
    lost["label"] = one["label"] = np.where(table["id"] == 7, 0, table["label"])
    again = compare(one, lost, key="id", by=["site"], cluster="who").models[1]
    (south,) = (g for g in again.groups if g.value == "n")
    (before,) = (g for g in found.groups if g.value == "n")
    assert again.total.interval is None
    assert south.interval.lower == pytest.approx(before.interval.lower, rel=1e-9)
