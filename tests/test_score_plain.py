"""`score(…, explain=False)`: the same numbers, and honestly nothing about where they come from."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest

from xent.cli import main
from xent.errors import DistributionError, OptionError, TableError, TargetError, XentError
from xent.report import render_markdown, render_page, render_text
from xent.scoring import merge, read_summary, score, summary_document
from xent.scoring.truth_sql import _FEW

EXAMPLE = "examples/predictions.csv"
NAMES = ("ant", "bee", "Cat", "it's")


def drawn(n=400, classes=4, seed=0):
    """Probabilities with some zeros at the truth's place, truths and weights."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, 0.7), size=n)
    y = (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=classes - 1)
    return p, y, rng.exponential(size=n)


def wide(p, y, names=NAMES, prefix="p", **more):
    columns = {f"{prefix}_{name}": p[:, k] for k, name in enumerate(names)}
    return {"label": np.array(names)[y], **columns, **more}


def infinite(p, y):
    """The same with a row in which the truth was called impossible."""
    p = p.copy()
    p[7, y[7]] = 0.0
    p[7] /= p[7].sum()
    return p


def tables():
    p, y, w = drawn()
    names = [f"class {k}" for k in range(_FEW + 1)]
    many, places, _ = drawn(classes=len(names), seed=1)
    two, yes, _ = drawn(classes=2, seed=2)
    questions = {f"y_{name}": (y == k).astype(int) for k, name in enumerate(NAMES)}
    soft = {f"y_{name}": p[::-1, k] for k, name in enumerate(NAMES)}
    people = np.arange(len(y)) % 60
    table = wide(p, y)
    alone = {name: table[name] for name in table if name != "label"}
    rows = np.repeat(np.arange(len(y)), len(NAMES))
    long = {"row": rows, "label": table["label"][rows], "which": list(NAMES) * len(y)}
    return {
        "wide": (table, {}),
        "wide, float32": (wide(p.astype(np.float32), y), {}),
        "wide, of whole numbers": (wide(p, y, names=range(4)), {}),
        "wide, of many names": (wide(many, places, names=names), {}),
        "weights": (wide(p, y, weight=w), {}),
        "counts": (wide(p, y, times=np.arange(len(y)) % 3), {"counts": "times"}),
        "list": ({"label": y, "probabilities": p}, {}),
        "list of names": ({"label": table["label"], "p": p}, {"classes": list(NAMES)}),
        "binary": ({"label": yes, "p": two[:, 1]}, {}),
        "two columns": (wide(two, yes, names=("no", "yes")), {}),
        "logits": (wide(np.log(p) + 3.0, y, prefix="logit"), {}),
        "logarithms": (wide(np.log(p), y, prefix="logprob"), {}),
        "long": (long | {"p": p.ravel()}, {"long": "which", "id": "row"}),
        "many truths": (alone | questions, {"multi_label": "y_*"}),
        "soft labels": (alone | soft, {"soft_labels": "y_*"}),
        "clusters": (wide(p, y, who=people), {"cluster": "who"}),
        "infinite": (wide(infinite(p, y), y), {}),
        "floor": (wide(infinite(p, y), y), {"floor": 1e-6}),
        "rounded": (wide(p.round(3), y), {"allow_unnormalised": 1e-2}),
        "unseen": (wide(p, y) | {"label": [*table["label"][1:].tolist(), "dog"]},
                   {"allow_unseen": True}),
        "missing": (wide(p, y) | {"label": [None, *table["label"][1:].tolist()]}, {"allow_missing": True}),
        "all the same": (wide(np.full_like(p, 0.25), y), {}),
    }  # fmt: skip


TABLES = tables()
UNEXPLAINED = {
    "explained": False,
    "worst_1_percent_share": None,
    "worst_1_percent_variance_share": None,
    "floors": None,
    "top_label": None,
    "calibration": None,
    "confusions": None,
    "slices": None,
    "worst": None,
}


def nearly(value):
    """The same, but for the last digits: groups are added in another order."""
    if isinstance(value, dict):
        return {key: nearly(part) for key, part in value.items()}
    if isinstance(value, list):
        return [nearly(part) for part in value]
    return pytest.approx(value, rel=1e-9, abs=1e-15) if isinstance(value, float) else value


@pytest.mark.parametrize("name", TABLES)
def test_the_numbers_are_those_of_the_explained_score(name):
    table, options = TABLES[name]
    full, plain = (score(table, explain=explain, **options) for explain in (True, False))
    assert full.explained
    assert not plain.explained
    assert plain.log_loss == pytest.approx(full.log_loss, rel=1e-14)
    of_plain, of_full = plain.to_dict(), full.to_dict()
    json.dumps(of_plain, allow_nan=False)
    said = of_plain.pop("warnings")
    del of_full["warnings"]
    for told in (of_plain, of_full):  # whether few rows carry the variance, one of them knows
        if told["interval_nats"] is not None:
            del told["interval_nats"]["doubts"]
    assert of_plain == nearly(of_full | UNEXPLAINED)
    looked = "whether few rows decide the interval was not looked at"
    assert (looked in said) == (plain.interval is not None)


def test_what_was_not_looked_at_is_absent_everywhere():
    plain = score(EXAMPLE, explain=False)
    assert (plain.floors, plain.worst, plain.by) == ((), (), ())
    assert (plain.confusions, plain.loss_bins, plain.slices, plain.calibration) == ((), (), (), ())
    assert (plain.floor_scores, plain.top_label, plain.top_calibration) == ({}, None, None)
    assert plain.concentration() is plain.variance_concentration() is None
    text, page = render_text(plain), render_page(plain)
    assert "was not looked at (--no-explain)" in text
    assert "was not looked at" not in render_text(score(EXAMPLE))
    for report in (text, page, render_markdown(plain), plain._repr_html_()):
        assert "0.4538" in report
        assert "not looked at" in report
        assert "fox" in report
        for absent in ("worst", "Where the loss is", "miscalibration", "taken for", "took for"):
            assert absent not in report
    for kind in ("losses", "reliability", "decomposition"):
        with pytest.raises(OptionError, match="explanation"):
            plain.plot(kind)


def test_a_summary_is_of_an_explained_score(tmp_path):
    plain, full = score(EXAMPLE, explain=False), score(EXAMPLE)
    for scores in ([plain], [plain, plain], [full, plain]):
        with pytest.raises(OptionError, match="explanation"):
            merge(*scores)
    with pytest.raises(OptionError, match="explanation"):
        summary_document(plain)
    path = tmp_path / "s.json"
    path.write_text(json.dumps(summary_document(full)))
    assert read_summary(path).explained


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"by": ["label"]}, "by"),
        ({"class_wise": True}, "class_wise"),
        ({"worst": 5}, "worst"),
        ({"worst": 1, "show": ["id"]}, "'worst', 'show'"),
        ({"show": ["id"]}, "show"),
    ],
)
def test_what_needs_the_explanation_is_refused_without_it(options, named):
    with pytest.raises(OptionError, match=r"explain=False must stand without by, .* Hint: ") as e:
        score(EXAMPLE, explain=False, **options)
    assert f"got {named!r} too" in str(e.value) or f"got {named} too" in str(e.value)


def test_five_of_the_worst_rows_are_told_unless_another_number_is_asked_for():
    assert len(score(EXAMPLE).worst) == 5
    assert len(score(EXAMPLE, worst=2).worst) == 2
    assert score(EXAMPLE, explain=False, worst=0).n == 48
    assert inspect.signature(score).parameters["explain"].default is True


BAD = {
    "negative": (DistributionError, {"p_ant": -0.1, "p_bee": 1.1}),
    "more than 1": (DistributionError, {"p_ant": 1.5}),
    "infinite": (DistributionError, {"p_ant": np.inf}),
    "a sum of 0.9": (DistributionError, {"p_ant": 0.15, "p_bee": 0.25}),
    "an unseen label": (TargetError, {"label": "dog"}),
    "no label": (TableError, {"label": None}),
    "no prediction": (TableError, {"p_bee": None}),
    "a bad weight": (TableError, {"weight": -1.0}),
    "no weight": (TableError, {"weight": None}),
}


@pytest.mark.parametrize("names", [("ant", "bee"), (*(f"c{k}" for k in range(_FEW)), "ant", "bee")])
@pytest.mark.parametrize("fault", BAD)
def test_bad_rows_are_refused_as_ever(fault, names):
    error, changes = BAD[fault]
    good = dict.fromkeys((f"p_{name}" for name in names), 0.0) | {"p_ant": 0.25, "p_bee": 0.75}
    rows = [{"label": "ant", "weight": 2.0, **good} for _ in range(9)]
    rows[4] |= changes
    rows[6] |= changes
    table = {name: [row[name] for row in rows] for name in rows[0]}
    said = []
    for explain in (True, False):
        with pytest.raises(XentError) as refused:
            score(table, explain=explain)
        assert type(refused.value) is error
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert "data row 5" in said[0]


def test_logits_that_are_probabilities_are_refused_as_ever():
    p, y, _ = drawn()
    with pytest.raises(TableError, match="already"):
        score(wide(p, y), scale="logits", explain=False)


# ---- the command ---------------------------------------------------------------------------------


def test_the_flag(capsys):
    assert main(["score", EXAMPLE, "--no-explain"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "Where the loss comes from was not looked at" in out
    assert main(["score", EXAMPLE, "--no-explain", "--json", "-", "--worst", "0"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {**score(EXAMPLE, explain=False).to_dict(), "gates": []}
    assert main(["score", EXAMPLE, "--no-explain", "--fail-above", "0.4"]) == 1


def test_a_plain_score_is_a_baseline(tmp_path, capsys):
    path = tmp_path / "baseline.json"
    assert main(["score", EXAMPLE, "--no-explain", "--json", str(path)]) == 0
    words = ["score", EXAMPLE, "--no-explain", "--fail-worse-than", str(path)]
    assert main(words) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--html", "page.html"], "got --html too"),
        (["--summary", "s.json"], "got --summary too"),
        (["--by", "label"], "got 'by' too"),
        (["--class-wise"], "got 'class_wise' too"),
        (["--worst", "5"], "got 'worst' too"),
        (["--show", "id"], "got 'show' too"),
    ],
)
def test_the_flag_stands_without_what_needs_the_explanation(words, said, capsys, tmp_path):
    words = [str(tmp_path / word) if "." in word else word for word in words]
    assert main(["score", EXAMPLE, "--no-explain", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert "Hint: " in err
    assert not list(tmp_path.iterdir())
