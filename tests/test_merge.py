"""Summaries of parts: written, read, and added up to the score of the whole."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from test_tally import predictions, written

from xent.cli import main
from xent.errors import OptionError, TableError
from xent.scoring import score
from xent.scoring.score_file import merge, read_summary, summary_document
from xent.scoring.tally import Tally

FLAGS = {"by": ["odd"], "class_wise": True, "worst": 7}


@pytest.fixture(params=["plain", "weighted", "finite"])
def parts(request, tmp_path):
    """The scores of three parts of a table, one of them empty of a class, and that of the whole."""
    p, y, w = predictions(rows=900, zeros=request.param != "finite")
    w = None if request.param == "plain" else w
    order = np.argsort(y == 2, kind="stable")
    p, y = p[order], y[order]
    odd = np.array(["x", "y"])[np.arange(900) % 2]

    def scored(name, rows):
        folder = tmp_path / name
        folder.mkdir()
        part = None if w is None else w[rows]
        return score(written(folder, p[rows], y[rows], part, slices={"odd": odd[rows]}), **FLAGS)

    cuts = [slice(0, 200), slice(200, 210), slice(210, 900)]
    return [scored(f"part{i}", rows) for i, rows in enumerate(cuts)], scored("whole", slice(0, 900))


def same(a, b):
    assert (a.n, a.rows, a.infinite_rows) == (b.n, b.rows, b.infinite_rows)
    for name in ("finite_log_loss", "brier_score", "accuracy", "base_rate_loss"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-12), name
    for mine, theirs in ((a.classes, b.classes), (a.slices, b.slices)):
        for x, y in zip(mine, theirs, strict=True):
            x, y = getattr(x, "cell", x).summary, getattr(y, "cell", y).summary
            assert x.finite_log_loss == pytest.approx(y.finite_log_loss, rel=1e-12, nan_ok=True)
            if y.standard_error is not None:
                assert x.standard_error == pytest.approx(y.standard_error, rel=1e-6)
    assert {(c.label, c.guess): c.cell.rows for c in a.confusions} == {
        (c.label, c.guess): c.cell.rows for c in b.confusions
    }
    assert dict(a.floor_scores) == pytest.approx(dict(b.floor_scores), rel=1e-12)
    if a.infinite_rows:
        assert a.tally.heaviest(0.05) == (None, None)
    else:
        assert a.tally.heaviest(0.05) == pytest.approx(b.tally.heaviest(0.05), rel=1e-9)
    assert [part.rows for part in a.loss_bins] == [part.rows for part in b.loss_bins]
    for x, y in zip(a.calibration, b.calibration, strict=True):
        assert x.labels == y.labels
        assert x.histogram.rows.tolist() == y.histogram.rows.tolist()
        assert x.histogram.loss == pytest.approx(y.histogram.loss, rel=1e-11)
    assert [(row.label, row.p_truth) for row in a.worst] == [
        (row.label, row.p_truth) for row in b.worst
    ]


def test_parts_add_up_to_the_whole(parts):
    some, whole = parts
    same(merge(*some), whole)
    same(merge(some[2], merge(some[0], some[1])), whole)


def test_a_summary_comes_back(parts, tmp_path):
    some, _ = parts
    path = tmp_path / "s.json"
    for part in some:
        path.write_text(json.dumps(summary_document(part), allow_nan=False), encoding="utf-8")
        again = read_summary(path)
        assert summary_document(again) == summary_document(part)
        assert again.to_dict() == part.to_dict()


def test_the_commands(parts, tmp_path, capsys):
    p, y, _ = predictions(rows=300)
    files = []
    for i in range(3):
        folder = tmp_path / f"cli{i}"
        folder.mkdir()
        path = written(folder, p[i::3], y[i::3])
        files.append(folder / "s.json")
        assert main(["score", str(path), "--summary", str(files[-1]), "--class-wise"]) == 0
    capsys.readouterr()
    out = tmp_path / "all.json"
    assert main(["merge", *map(str, files), "--json", "-", "--summary", str(out)]) == 0
    merged = json.loads(capsys.readouterr().out)
    (tmp_path / "one").mkdir()
    whole = score(written(tmp_path / "one", p, y))
    assert merged["n"] == 300
    assert merged["finite_log_loss_nats"] == pytest.approx(whole.finite_log_loss, rel=1e-13)
    assert merged["worst"][0]["name"].startswith("t.parquet: ")
    assert main(["merge", str(out)]) == 0
    assert "t.parquet and 2 more, merged" in capsys.readouterr().out
    assert main(["merge", str(out), "--summary", str(out)]) == 2
    assert "--summary" in capsys.readouterr().err


def test_labels_are_matched_by_name(tmp_path):
    text = "label,p_a,p_b\na,0.5,0.5\nb,0.75,0.25\n"
    (tmp_path / "1.csv").write_text(text)
    (tmp_path / "2.csv").write_text("label,p_b,p_a\nb,0.125,0.875\nc,0.5,0.5\n")
    one, two = score(tmp_path / "1.csv"), score(tmp_path / "2.csv", allow_unseen=True, floor=None)
    whole = merge(one, two)
    assert [(c.label, c.summary.n) for c in whole.classes] == [
        ("a", 1),
        ("b", 2),
        ("(no probability)", 1),
    ]
    assert whole.finite_log_loss == pytest.approx((math.log(2) + math.log(4) + math.log(8)) / 3)
    assert {(c.label, c.guess) for c in whole.confusions} == {
        ("a", "a"),
        ("b", "a"),
        ("(no probability)", "b"),
    }
    assert whole.calibration == ()  # of another class each


def test_what_does_not_fit_is_refused(tmp_path):
    (tmp_path / "1.csv").write_text("label,p_a,p_b\na,0.5,0.5\n")
    (tmp_path / "2.csv").write_text("label,p_a,p_c\na,0.5,0.5\n")
    one = score(tmp_path / "1.csv")
    with pytest.raises(OptionError, match=r"same labels: got 'b', 'c'"):
        merge(one, score(tmp_path / "2.csv"))
    with pytest.raises(OptionError, match="same floor"):
        merge(one, score(tmp_path / "1.csv", floor=1e-6))
    with pytest.raises(OptionError, match="same columns of slices"):
        merge(one, score(tmp_path / "1.csv", by=["label"]))
    with pytest.raises(OptionError, match="got none"):
        merge()


def _set(path, value):
    def change(document):
        *way, last = path
        for step in way:
            document = document[step]
        document[last] = value

    return change


WRONG = [
    (_set(["format"], "xent score summary 0"), "'xent score summary 0'"),
    (lambda d: d.pop("tally"), "no 'tally'"),
    (_set(["tally", "classes", "finite_rows"], [1]), "one number of each kind"),
    (_set(["tally", "classes", "finite_weight", 0], math.nan), "finite"),
    (_set(["tally", "classes", "finite_weight", 0], -1.0), "not negative"),
    (_set(["tally", "classes", "finite_weight", 0], "1"), "must be a number"),
    (_set(["tally", "classes", "rows", 0], 1.5), "whole number"),
    (_set(["tally", "classes", "key", 0], 99), "different names"),
    (_set(["tally", "classes", "key"], [1, 1]), "different keys"),
    (_set(["tally", "top", "loss"], ["x"]), "must hold numbers"),
    (_set(["tally", "top"], {}), "columns"),
    (_set(["names"], ["a", "a"]), "different names"),
    (_set(["by"], ["a"]), "slices"),
    (_set(["tally", "classes"], []), "must be the summary"),
    (_set(["worst"], [{"x": 1}]), "must be the summary"),
]


@pytest.mark.parametrize(("change", "said"), WRONG, ids=range(len(WRONG)))
def test_what_is_no_summary_is_refused(tmp_path, change, said):
    table = tmp_path / "t.csv"
    table.write_text("label,p_a,p_b\na,0.5,0.5\nb,0.75,0.25\n")
    document = summary_document(score(table))
    change(document)
    path = tmp_path / "s.json"
    path.write_text(json.dumps(document))
    with pytest.raises(TableError, match=said):
        read_summary(path)


def test_other_files_are_no_summaries(tmp_path):
    for text in ("", "[]", "1", "{}", "label,p\n", "\xff"):
        path = tmp_path / "s.json"
        path.write_text(text, encoding="latin-1")
        with pytest.raises(TableError, match="must be the summary"):
            read_summary(path)
    with pytest.raises(TableError, match="there must be a summary"):
        read_summary(tmp_path / "missing")


def test_nothing_merges_with_nothing():
    assert Tally({}).merge(Tally({})).whole.rows == 0
