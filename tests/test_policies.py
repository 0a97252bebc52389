"""What `score` does with rows that are not as they should be, with counts, and per class."""

from __future__ import annotations

import math

import duckdb
import numpy as np
import pytest
from test_tally import predictions, written

from xent.cli import main
from xent.errors import OptionError, TableError, TargetError
from xent.scoring import score
from xent.scoring.histogram import Histogram
from xent.scoring.query import MOST_QUESTIONS


def csv(folder, text):
    path = folder / "t.csv"
    path.write_text(text, encoding="utf-8")
    return path


def close(histogram, expected):
    a, b = histogram.to_dict(), expected.to_dict()
    for name, column in b.items():
        if name in {"bins", "rows", "infinite_rows"}:
            assert a[name] == column, name
        else:
            assert a[name] == pytest.approx(column, rel=1e-12, abs=1e-300), name


# ---- calibration class by class -------------------------------------------------------------


@pytest.mark.parametrize("layout", ["wide", "list"])
@pytest.mark.parametrize("weighted", [False, True])
def test_each_class_is_a_question_of_its_own(tmp_path, layout, weighted):
    p, y, w = predictions()
    p[5] = [1e-20, 1.0 - 1e-16, 1e-17, 1e-300]
    w = w if weighted else None
    result = score(written(tmp_path, p, y, w, layout=layout), class_wise=True)
    assert [c.labels for c in result.calibration] == [("0",), ("1",), ("2",), ("3",)]
    for k, calibration in enumerate(result.calibration):
        close(calibration.histogram, Histogram.from_rows(p[:, k], y == k, w))


@pytest.mark.parametrize("layout", ["wide", "list", "binary"])
def test_two_classes_are_one_question(tmp_path, layout):
    p, y, w = predictions(classes=4)
    p, y = np.stack([p[:, :2].sum(axis=1), p[:, 2:].sum(axis=1)], axis=1), y // 2
    p[:, 0] = 1.0 - p[:, 1]
    (calibration,) = score(written(tmp_path, p, y, w, layout=layout)).calibration
    assert calibration.labels == ("1",)
    close(calibration.histogram, Histogram.from_rows(p[:, 1], y == 1, w))


@pytest.mark.parametrize("layout", ["wide", "list"])
def test_the_rarest_classes_are_pooled(tmp_path, layout):
    p, y, w = predictions(classes=40, rows=2000)
    result = score(written(tmp_path, p, y, w, layout=layout), class_wise=True)
    assert len(result.calibration) == MOST_QUESTIONS
    *single, pooled = result.calibration
    often = {c.labels[0] for c in single}
    weights = {str(k): w[y == k].sum() for k in range(40)}
    assert min(weights[k] for k in often) >= max(weights[k] for k in pooled.labels)
    rest = [int(k) for k in pooled.labels]
    assert often | set(pooled.labels) == set(weights)
    q = np.minimum(p[:, rest].sum(axis=1), 1.0)
    some = Histogram.from_rows(q, np.isin(y, rest), w)
    assert pooled.histogram.rows.sum() == some.rows.sum()
    assert pooled.histogram.loss.sum() == pytest.approx(some.loss.sum(), rel=1e-12)
    assert pooled.histogram.hits.sum() == pytest.approx(some.hits.sum(), rel=1e-12)


def test_many_classes_are_looked_at_when_asked_for(tmp_path):
    assert score(written(tmp_path, *predictions())).calibration == ()


# ---- counts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["wide", "list"])
def test_a_count_stands_for_equal_rows(tmp_path, layout):
    p, y, _ = predictions(rows=300)
    counts = np.random.default_rng(1).integers(0, 5, 300)
    (tmp_path / "all").mkdir()
    path = written(tmp_path, p, y, layout=layout, slices={"times": counts, "odd": y % 2})
    every = np.repeat(np.arange(300), counts)
    whole = written(
        tmp_path / "all", p[every], y[every], layout=layout, slices={"odd": y[every] % 2}
    )
    one = score(path, counts="times", by=["odd"], class_wise=True, floor=1e-6)
    all_of = score(whole, by=["odd"], class_wise=True, floor=1e-6)
    assert one.n == all_of.n == counts.sum()
    assert one.rows == 300
    for name in ("log_loss", "standard_error", "brier_score", "accuracy", "skill", "touched_rows"):
        assert getattr(one, name) == pytest.approx(getattr(all_of, name), rel=1e-12), name
    for a, b in zip(one.slices, all_of.slices, strict=True):
        assert a.cell.summary.standard_error == pytest.approx(
            b.cell.summary.standard_error, rel=1e-7
        )
    for a, b in zip(one.calibration, all_of.calibration, strict=True):
        close(a.histogram, b.histogram)
    assert one.infinite_rows == 0
    assert score(path, counts="times").infinite_rows == score(whole).infinite_rows


@pytest.mark.parametrize("bad", ["1.5", "-1", "", "x", "1e10", "nan"])
def test_counts_are_whole_numbers(tmp_path, bad):
    path = csv(tmp_path, f"label,p_a,p_b,times\na,0.5,0.5,2\nb,0.5,0.5,{bad}\n")
    with pytest.raises(TableError, match=r"counts .* whole numbers .* data row 2"):
        score(path, counts="times")


def test_weights_and_counts_exclude_each_other(tmp_path):
    path = csv(tmp_path, "label,p_a,p_b,times\na,0.5,0.5,2\n")
    with pytest.raises(OptionError, match="not be given together"):
        score(path, weights="times", counts="times")
    assert "as often as column 'times' says" in score(path, counts="times").reading[2]


# ---- a floor ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["wide", "list", "binary"])
def test_a_floor_raises_what_is_less(tmp_path, layout):
    p, y, w = predictions(classes=2 if layout == "binary" else 4, zeros=False)
    p[:3] = np.eye(p.shape[1])[[0, 1, 0]]
    y[:3] = [1, 1, 1]
    if layout == "binary":
        p[:, 0] = 1.0 - p[:, 1]
    path = written(tmp_path, p, y, w, layout=layout)
    truth = p[np.arange(len(y)), y]
    for floor in (1e-15, 1e-3, 0.01):
        result = score(path, floor=floor)
        expected = np.average(-np.log(np.maximum(truth, floor)), weights=w)
        assert result.log_loss == pytest.approx(expected, rel=1e-12)
        assert result.touched_rows == ((truth < floor) & (w > 0)).sum()
        assert result.tally.zeros == ((truth == 0) & (w > 0)).sum()
        assert all(other >= floor for other in result.floor_scores)
        for other, value in result.floor_scores.items():
            above = np.average(-np.log(np.maximum(truth, other)), weights=w)
            assert value == pytest.approx(above, rel=1e-12)
    assert score(path).log_loss == math.inf


@pytest.mark.parametrize("floor", [0.0, 0.5, 1.0, -1e-3, math.nan, "1e-3", True])
def test_a_floor_is_a_small_probability(tmp_path, floor):
    with pytest.raises(OptionError, match="floor must be a probability"):
        score(written(tmp_path, *predictions(rows=10)), floor=floor)


# ---- what is refused by default ---------------------------------------------------------------

ODD = "label,p_a,p_b\na,0.5,0.5\nc,0.75,0.25\n,0.5,0.5\nb,,\nb,0.75,0.25\n"


def test_rows_without_label_or_prediction_are_left_out_when_allowed(tmp_path):
    path = csv(tmp_path, ODD)
    with pytest.raises(TableError, match="--allow missing"):
        score(path, classes=["a", "b"])
    with pytest.raises(TargetError, match=r"label 'c' .* --allow unseen"):
        score(path, classes=["a", "b"], allow_missing=True)
    result = score(path, classes=["a", "b"], allow_missing=True, allow_unseen=True)
    assert result.left_out == {"label": 1, "missing": 1}
    assert (result.rows, result.n) == (3, 3)
    assert result.infinite_rows == 1
    assert result.finite_log_loss == pytest.approx(-math.log(0.5 * 0.25) / 2)
    assert [(c.label, c.summary.n) for c in result.classes][-1] == ("(no probability)", 1)
    # Brier: (¾² + ¼² + 1), ½, (¾² + ¾²)
    assert result.brier_score == pytest.approx((1.625 + 0.5 + 1.125) / 3)
    assert result.calibration[0].histogram.rows.sum() == 3


def test_unseen_labels_cost_the_floor(tmp_path):
    path = csv(tmp_path, "label,p_a,p_b\na,0.5,0.5\nc,0.75,0.25\n")
    result = score(path, classes=["a", "b"], allow_unseen=True, floor=1e-6)
    assert result.log_loss == pytest.approx(-math.log(0.5e-6) / 2)
    assert result.touched_rows == 1
    assert [c.label for c in result.confusions] == ["(no probability)", "a"]


@pytest.mark.parametrize("layout", ["list", "binary"])
def test_unseen_labels_in_other_layouts(tmp_path, layout):
    p, y, _ = predictions(classes=2, zeros=False)
    path = written(tmp_path, p, np.where(np.arange(len(y)) == 7, 9, y), layout=layout)
    with pytest.raises(TargetError):
        score(path, classes=["0", "1"])
    result = score(path, classes=["0", "1"], allow_unseen=True)
    assert result.infinite_rows == 1
    assert result.worst[0].number == 8


def test_a_table_in_which_nothing_is_left(tmp_path):
    path = csv(tmp_path, "label,p_a,p_b\n,0.5,0.5\n,,\n")
    with pytest.raises(TableError, match="a label and a prediction: got 2 rows without"):
        score(path, classes=["a", "b"], allow_missing=True)


def test_the_flags(tmp_path, capsys):
    path = csv(tmp_path, ODD)
    words = ["score", str(path), "--classes", "a,b", "--zero", "floor=1e-3"]
    assert main([*words, "--allow", "missing", "--allow", "unseen"]) == 0
    out = capsys.readouterr().out
    assert "1 row had P(truth) below the floor 0.001" in out
    assert "2 rows without a label or a prediction were left out" in out
    assert main([*words, "--allow", "missing=3"]) == 2
    assert "--allow must be" in capsys.readouterr().err
    for odd in ("0", "floor", "floor=x", "inf=1"):
        assert main(["score", str(path), "--zero", odd]) == 2
        assert "--zero must be inf" in capsys.readouterr().err


def test_unknown_keywords_are_refused(tmp_path):
    with pytest.raises(TypeError, match="'truths'"):
        score(csv(tmp_path, ODD), truths="x")


def test_a_file_is_scanned_by_the_engine(tmp_path):
    """Nothing of the size of the table is fetched."""
    p, y, w = predictions(rows=5000)
    path = written(tmp_path, p, y, w)
    fetched = []
    real = duckdb.DuckDBPyConnection.fetchall
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "xent.scoring.duckdb._interruptible",
            lambda connection, sql, fetch="fetchall": (
                fetched.append((sql, real(connection.execute(sql)))) or fetched[-1][1]
            ),
        )
        score(path, class_wise=True)
    assert sum("GROUPING SETS" in sql for sql, _ in fetched) == 1
    assert max(len(rows) for _, rows in fetched) < 1500


def test_splits_are_those_of_their_own_yes_or_no_losses(tmp_path, capsys):
    p, y, _ = predictions(zeros=False)
    path = written(tmp_path, p, y)
    result = score(path, class_wise=True)
    for k, calibration in enumerate(result.calibration):
        loss = -np.log(np.where(y == k, p[:, k], 1.0 - p[:, k]))
        assert calibration.log_loss.score == pytest.approx(loss.mean(), rel=1e-10)
        assert calibration.brier.score == pytest.approx(
            ((p[:, k] - (y == k)) ** 2).mean(), rel=1e-12
        )
        for split in (calibration.log_loss, calibration.brier):
            total = split.miscalibration - split.discrimination + split.uncertainty
            assert split.score == pytest.approx(total, rel=1e-12)
    right = p.argmax(axis=1) == y
    loss = -np.log(np.where(right, p.max(axis=1), 1.0 - p.max(axis=1)))
    assert result.top_calibration.log_loss.score == pytest.approx(loss.mean(), rel=1e-10)
    # The splits belong to their own losses; only the Brier score is the sum of the classes'.
    assert sum(c.brier.score for c in result.calibration) == pytest.approx(
        result.brier_score, rel=1e-12
    )
    data = result.to_dict()
    assert [c["labels"] for c in data["calibration"]] == [["0"], ["1"], ["2"], ["3"]]
    assert data["top_label"]["log_loss"]["score"] == result.top_calibration.log_loss.score
    assert main(["score", str(path), "--class-wise"]) == 0
    out = capsys.readouterr().out
    assert "is the likeliest right?" in out
    assert f"{result.calibration[3].log_loss.miscalibration:.4f}" in out
