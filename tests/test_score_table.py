"""`score` on CSV and Parquet."""

from __future__ import annotations

import gzip
import json
import math
import sys
import warnings
from dataclasses import replace

import duckdb
import numpy as np
import pytest

from xent.errors import (
    DistributionError,
    InfiniteLossWarning,
    MissingExtraError,
    OptionError,
    TableError,
    TargetError,
)
from xent.report import render_text
from xent.scoring import log_loss, score
from xent.scoring.query import Query

CATS = """id,label,p_cat,p_dog
a,cat,0.75,0.25
b,dog,0.5,0.5
c,cat,0.1,0.9
"""
CATS_LOSS = -(math.log(0.75) + math.log(0.5) + math.log(0.1)) / 3


@pytest.fixture
def csv(tmp_path):
    def write(text, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture
def parquet(tmp_path):
    def write(select, name="table.parquet"):
        path = tmp_path / name
        target = str(path).replace("'", "''")
        with duckdb.connect() as connection:
            connection.execute(f"COPY ({select}) TO '{target}' (FORMAT parquet)")
        return path

    return write


def many(rows=100_000, classes=5, seed=0):
    """Labels, probabilities and weights, with the statistics that NumPy finds."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), size=rows)
    y = np.array([rng.integers(0, classes) for _ in range(rows)])
    w = rng.exponential(size=rows)
    return y, p, w


def write_numbers(tmp_path, name, y, p, w, sql_type="DOUBLE"):
    """Write a Parquet file through DuckDB from a CSV with 17 digits."""
    path = tmp_path / f"{name}.csv"
    header = "label," + ",".join(f"p_c{k}" for k in range(p.shape[1])) + ",sample_weight"
    lines = [header]
    for label, row, weight in zip(y, p, w, strict=True):
        lines.append(f"c{label}," + ",".join(map(repr, row.tolist())) + f",{float(weight)!r}")
    path.write_text("\n".join(lines) + "\n")
    columns = ", ".join(f"p_c{k}::{sql_type} AS p_c{k}" for k in range(p.shape[1]))
    target = tmp_path / f"{name}.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT label, {columns}, sample_weight::DOUBLE AS sample_weight "
            f"FROM read_csv('{path}', all_varchar = true)) TO '{target}'"
        )
    return path, target


def loss_is(result, want, rel=1e-14):
    return result.log_loss == pytest.approx(want, rel=rel, abs=0)


def test_an_array_is_read_backwards_too():
    y, p = np.array([1, 1, 0, 1]), np.array([0.9, 0.8, 0.6, 0.5])
    turned = score({"label": y[::-1], "p": p[::-1]})
    assert loss_is(turned, score({"label": y, "p": p}).log_loss)


# ---- the numbers ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hundred_thousand(tmp_path_factory):
    y, p, w = many()
    folder = tmp_path_factory.mktemp("many")
    return y, p, w, write_numbers(folder, "many", y, p, w)


@pytest.mark.parametrize("kind", [0, 1], ids=["csv", "parquet"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_hundred_thousand_rows_equal_numpy(hundred_thousand, kind, weighted):
    y, p, w, files = hundred_thousand
    w = w if weighted else np.ones(len(y))
    result = score(files[kind], weights=None if weighted else "none")
    losses = -np.log(p[np.arange(len(y)), y])
    mean = float(np.average(losses, weights=w))
    n = len(y)
    error = math.sqrt(n / (n - 1) * float(np.sum((w * (losses - mean)) ** 2))) / float(w.sum())
    shares = np.array([w[y == k].sum() for k in range(5)]) / w.sum()
    base = float(-(shares * np.log(shares)).sum())
    assert result.n == n
    assert loss_is(result, mean, 1e-12)
    assert result.standard_error == pytest.approx(error, rel=1e-11)
    assert result.accuracy == pytest.approx(
        float(np.average(p.argmax(1) == y, weights=w)), rel=1e-12
    )
    assert result.base_rate_loss == pytest.approx(base, rel=1e-12)
    assert result.skill == pytest.approx(1 - mean / base, rel=1e-11)
    assert result.typical_probability == pytest.approx(math.exp(-mean), rel=1e-12)
    for floor, value in result.floor_scores.items():
        floored = -np.log(np.maximum(p[np.arange(n), y], floor))
        assert value == pytest.approx(float(np.average(floored, weights=w)), rel=1e-12)
    for k, part in enumerate(result.classes):
        mine = y == k
        assert part.label == f"c{k}"
        assert part.summary.n == int(mine.sum())
        assert part.summary.log_loss == pytest.approx(
            float(np.average(losses[mine], weights=w[mine])), rel=1e-12
        )
        assert part.share == pytest.approx(
            float((losses * w)[mine].sum() / (losses * w).sum()), rel=1e-12
        )
        assert part.accuracy == pytest.approx(
            float(np.average(p[mine].argmax(1) == k, weights=w[mine])), rel=1e-12
        )
    assert math.fsum(part.share for part in result.classes) == pytest.approx(1.0, rel=1e-12)
    order = np.argsort(-losses, kind="stable")[:5]
    assert [row.number for row in result.worst] == (order + 1).tolist()
    assert [row.p_truth for row in result.worst] == [p[i, y[i]] for i in order]


def test_it_is_the_log_loss_of_the_same_rows_in_memory(hundred_thousand):
    y, p, w, (_, path) = hundred_thousand
    assert score(path).log_loss == pytest.approx(log_loss(y, p, sample_weight=w), rel=1e-13)


def test_a_float32_file_scores_its_numbers_in_float64(tmp_path):
    y, p, w = many(3000, 4)
    _, path = write_numbers(tmp_path, "single", y, p, w, "FLOAT")
    single = p.astype(np.float32)
    assert loss_is(score(path), log_loss(y, single, sample_weight=w), 1e-13)
    assert loss_is(score(path), log_loss(y, p, sample_weight=w), 1e-6)


def test_one_impossible_row_among_many_makes_the_score_infinite(tmp_path):
    y, p, w = many(20_000, 3)
    p[777] = np.eye(3)[(y[777] + 1) % 3]
    _, path = write_numbers(tmp_path, "zero", y, p, w)
    result = score(path)
    with pytest.warns(InfiniteLossWarning):
        assert log_loss(y, p) == result.log_loss == math.inf
    rest = np.arange(len(y)) != 777
    assert result.standard_error is None
    assert result.skill is None
    assert result.infinite_rows == 1
    assert result.typical_probability == 0.0
    assert (result.worst[0].number, result.worst[0].loss) == (778, math.inf)
    assert result.finite_log_loss == pytest.approx(
        log_loss(y[rest], p[rest], sample_weight=w[rest]), rel=1e-12
    )
    for floor, value in result.floor_scores.items():
        assert value == pytest.approx(log_loss(y, p, sample_weight=w, floor=floor), rel=1e-12)


def test_an_impossible_row_of_weight_zero_counts_for_nothing(csv):
    result = score(csv("label,p_a,p_b,weight\na,0,1,0\na,0.5,0.5,2\nb,0.25,0.75,1\n"))
    assert result.infinite_rows == 0
    assert (result.rows, result.n) == (3, 2)
    assert loss_is(result, (2 * math.log(2) - math.log(0.75)) / 3)
    assert [row.number for row in result.worst] == [2, 3]


def test_losses_that_differ_in_the_ninth_digit_keep_their_standard_error(csv):
    ps = [0.3, 0.3 * (1 + 1e-9), 0.3 * (1 - 2e-9), 0.3 * (1 + 3e-9)]
    text = "label,p_a,p_b\n" + "".join(f"a,{p!r},{1 - p!r}\n" for p in ps)
    result = score(csv(text))
    losses = [-math.log(p) for p in ps]
    mean = math.fsum(losses) / 4
    want = math.sqrt(math.fsum((x - mean) ** 2 for x in losses) / 3 / 4)
    assert result.standard_error == pytest.approx(want, rel=1e-6)


def test_a_constant_prediction_has_standard_error_zero(csv):
    result = score(csv("label,p_a,p_b\n" + "a,0.3,0.7\n" * 100))
    assert result.standard_error == pytest.approx(0.0, abs=1e-17)
    assert loss_is(result, -math.log(0.3))
    assert result.base_rate_loss == 0.0
    assert result.skill is None


def test_tiny_and_long_numbers_are_read_exactly(csv):
    result = score(csv("label,p_a,p_b\na,1e-320,1\nb,0.12345678901234567,0.87654321098765433\n"))
    assert [row.p_truth for row in result.worst] == [1e-320, 0.87654321098765433]
    assert loss_is(result, (-math.log(1e-320) - math.log(0.87654321098765433)) / 2)


def test_whole_numbers_may_be_probabilities(csv, parquet):
    assert score(csv("label,p_a,p_b\na,1,0\nb,0,1\n")).log_loss == 0.0
    path = parquet("SELECT 'a' AS label, 1::TINYINT AS p_a, 0::BIGINT AS p_b")
    assert score(path).log_loss == 0.0


def test_a_certainty_that_rounded_above_one_costs_nothing(csv):
    assert score(csv("label,p_a,p_b\na,1.0000001,0\nb,0,1\n")).log_loss == 0.0


def test_accuracy_gives_ties_to_the_first_class(csv):
    result = score(csv("label,p_a,p_b\na,0.5,0.5\nb,0.5,0.5\na,0.5,0.5\nb,0.4,0.6\n"))
    assert result.accuracy == 0.75
    assert result.classes[0].accuracy == 1.0
    binary = score(csv("label,p\n0,0.5\n1,0.5\n0,0.5\n1,0.6\n"))
    assert binary.accuracy == 0.75
    rows = '0,"[0.5, 0.5]"\n1,"[0.5, 0.5]"\n0,"[0.5, 0.5]"\n1,"[0.4, 0.6]"\n'
    assert score(csv("label,p\n" + rows)).accuracy == 0.75


# ---- reading the columns -------------------------------------------------------------------------


def test_names_settle_the_columns_and_the_reading_is_said(csv):
    result = score(csv(CATS))
    assert loss_is(result, CATS_LOSS)
    words = "\n".join(result.reading)
    for said in ("'label'", "--label", "'p_cat', 'p_dog'", "--probabilities", "'id'", "--weights"):
        assert said in words
    assert [row.name for row in result.worst] == ["c", "b", "a"]
    assert dict(result.worst[0].probabilities) == {"cat": 0.1, "dog": 0.9}


def test_the_order_of_columns_is_free(csv):
    text = "p_dog,truth,p_cat\n0.25,cat,0.75\n0.5,dog,0.5\n0.9,cat,0.1\n"
    assert loss_is(score(csv(text)), CATS_LOSS)


@pytest.mark.parametrize(
    "prefix", ["", "p_", "prob_", "proba_", "probability_", "p.", "pred_prob_"]
)
def test_known_prefixes_are_found(csv, prefix):
    text = CATS.replace("p_", prefix)
    assert loss_is(score(csv(text)), CATS_LOSS)


@pytest.mark.parametrize("wish", ["m1_*", "m1_dog,m1_cat", "m1_c*,m1_d*", "m1_*g,m1_cat"])
def test_probabilities_may_be_named_by_patterns_or_lists(csv, wish):
    text = "y,m1_cat,m1_dog,m2_cat,m2_dog\ncat,0.75,0.25,1,0\ndog,0.5,0.5,0,1\ncat,0.1,0.9,1,0\n"
    assert loss_is(score(csv(text), probabilities=wish), CATS_LOSS)


def test_a_class_that_no_row_has_is_fine(csv):
    result = score(csv("label,p_cat,p_dog,p_fox\ncat,0.5,0.25,0.25\n"))
    assert [part.summary.n for part in result.classes] == [1, 0, 0]
    assert result.classes[2].accuracy is None
    assert result.standard_error is None


def test_integer_and_boolean_labels_are_matched_to_names(csv, parquet):
    want = -(math.log(0.5) + math.log(0.9)) / 2
    assert loss_is(score(csv("y,p_0,p_1\n0,0.5,0.5\n1,0.1,0.9\n")), want)
    for kind, names in (
        ("INTEGER", "p_0 p_1"),
        ("BOOLEAN", "p_False p_True"),
        ("DOUBLE", "p_0 p_1"),
    ):
        no, yes = names.split()
        path = parquet(
            f"SELECT y::{kind} AS y, a AS {no}, b AS {yes} "
            "FROM (VALUES (0, 0.5, 0.5), (1, 0.1, 0.9)) AS t(y, a, b)"
        )
        assert loss_is(score(path), want)
    assert loss_is(score(csv("y,p_false,p_true\nFalse,0.5,0.5\nTrue,0.1,0.9\n")), want)


def test_text_labels_that_look_like_numbers_stay_text(csv):
    result = score(csv("label,p_01,p_1\n01,0.75,0.25\n1,0.5,0.5\n01,0.1,0.9\n"))
    assert loss_is(result, CATS_LOSS)
    with pytest.raises(TargetError, match="label '1'"):
        score(csv("label,p_01,p_2\n01,0.75,0.25\n1,0.5,0.5\n"))


def test_names_that_differ_in_case_only_are_two_classes(csv):
    result = score(csv("label,p_A,p_a\nA,0.75,0.25\na,0.5,0.5\nA,0.1,0.9\n"))
    assert loss_is(result, CATS_LOSS)


def test_classes_name_the_columns_in_order(csv):
    text = "label,p_0,p_1\ncat,0.75,0.25\ndog,0.5,0.5\ncat,0.1,0.9\n"
    assert loss_is(score(csv(text), classes=["cat", "dog"]), CATS_LOSS)
    with pytest.raises(TableError, match="--classes"):
        score(csv(text))
    with pytest.raises(OptionError, match="2 different"):
        score(csv(text), classes=["cat", "dog", "fox"])
    with pytest.raises(OptionError, match="2 different"):
        score(csv(text), classes=["cat", "cat"])


def test_a_list_column_holds_a_probability_per_class_index(csv, parquet):
    rows = "(VALUES (0, [0.75, 0.25]), (1, [0.5, 0.5]), (0, [0.1, 0.9])) AS t(label, scores)"
    for kind in ("DOUBLE[]", "DOUBLE[2]"):
        path = parquet(f"SELECT label, scores::{kind} AS scores FROM {rows}")
        result = score(path)
        assert loss_is(result, CATS_LOSS)
        assert [part.label for part in result.classes] == ["0", "1"]
        assert dict(result.worst[0].probabilities) == {"0": 0.1, "1": 0.9}
    text = 'label,scores\ncat,"[0.75, 0.25]"\ndog,"[0.5, 0.5]"\ncat,"[0.1, 0.9]"\n'
    assert loss_is(score(csv(text), classes=["cat", "dog"]), CATS_LOSS)
    with pytest.raises(TargetError, match="label 'cat'"):
        score(csv(text))
    with pytest.raises(OptionError, match="must name 2"):
        score(csv(text), classes=["cat", "dog", "fox"])


@pytest.mark.parametrize(
    ("text", "options", "positive"),
    [
        ("y_true,p\n0,0.25\n1,0.5\n0,0.9\n", {}, "1"),
        ("y_true,p\n0,0.25\n1,0.5\n0,0.9\n", {"positive": "1"}, "1"),
        ("y_true,p\n1,0.25\n0,0.5\n1,0.9\n", {"positive": "0"}, "0"),
        ("y_true,proba\nno,0.25\nYes,0.5\nno,0.9\n", {}, "Yes"),
        ("y_true,probability\nFalse,0.25\nTrue,0.5\nFalse,0.9\n", {}, "True"),
        ("y_true,p\n-1,0.25\n1,0.5\n-1,0.9\n", {}, "1"),
        ("y_true,p_spam\nham,0.25\nspam,0.5\nham,0.9\n", {}, "spam"),
        ("y_true,p_0\n1,0.25\n0,0.5\n1,0.9\n", {}, "0"),
        ("y_true,p_rain\n0,0.25\n1,0.5\n0,0.9\n", {}, "1"),
        ("y_true,p_neg\n1,0.25\n0,0.5\n1,0.9\n", {}, "0"),
        ("y_true,p\nham,0.25\nspam,0.5\nham,0.9\n", {"positive": "spam"}, "spam"),
        ("y_true,p\nham,0.25\nspam,0.5\nham,0.9\n", {"classes": ["ham", "spam"]}, "spam"),
        ("y_true,s\n0,0.25\n1,0.5\n0,0.9\n", {"probabilities": "s"}, "1"),
    ],
)
def test_one_column_is_the_probability_of_a_stated_value(csv, text, options, positive):
    result = score(csv(text), **options)
    assert loss_is(result, CATS_LOSS)
    assert result.classes[1].label == positive
    assert repr(positive) in result.reading[1]


def test_one_minus_p_keeps_its_digits(csv):
    result = score(csv("y,p\n0,1e-20\n0,3e-17\n0,1e-9\n"))
    want = math.fsum(-math.log1p(-p) for p in (1e-20, 3e-17, 1e-9)) / 3
    assert loss_is(result, want)
    alone = score(csv("y,p\n0,1e-20\n0,3e-17\n"))
    assert loss_is(alone, (1e-20 + 3e-17) / 2)


def test_a_binary_certainty_that_fails_is_infinite(csv):
    result = score(csv("y,p\n0,1\n1,0.5\n1,0\n"))
    assert result.infinite_rows == 2
    assert result.log_loss == math.inf
    assert [row.number for row in result.worst] == [1, 3, 2]


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("y,p\nham,0.5\nspam,0.5\n", {}, "no hint which.*--positive"),
        ("y,p\nham,0.5\nspam,0.5\n", {"positive": "eggs"}, "'eggs'.*--positive"),
        ("y,p\na,0.5\nb,0.5\nc,0.5\n", {}, "two label values"),
        ("y,label,p\na,a,0.5\n", {}, "'y', 'label'.*--label"),
        ("who,p_a,p_b\na,0.5,0.5\n", {}, "true label.*--label"),
        ("y,p_a,p_b,prob_a,prob_b\na,0.5,0.5,0.5,0.5\n", {}, r"'p_\*', 'prob_\*'.*--probabilities"),
        ('y,p_a,p_b,s\na,0.5,0.5,"[0.5, 0.5]"\n', {}, "'s'.*--probabilities"),
        ("y,p,prob\n0,0.5,0.5\n", {}, "'p', 'prob'.*--probabilities"),
        ("y,a,b\nx,0.5,0.5\n", {}, "columns with probabilities.*--probabilities"),
        ("y,p_a,p_b,weight,weights\na,0.5,0.5,1,1\n", {}, "'weight', 'weights'.*--weights"),
        (CATS, {"label": "labell"}, "'labell'.*did you mean 'label'"),
        (CATS, {"weights": "mass"}, "--weights must name a column.*'mass'"),
        (CATS, {"id": "nr"}, "--id must name a column.*'nr'"),
        (CATS, {"probabilities": "q_*"}, r"'q_\*'.*columns are 'id'"),
    ],
)
def test_what_the_names_do_not_settle_names_the_flag(csv, text, options, words):
    with pytest.raises(TableError, match=f"(?s){words}") as caught:
        score(csv(text), **options)
    assert "Hint: " in str(caught.value)


def test_contradicting_flags_are_refused(csv):
    with pytest.raises(OptionError, match="--positive"):
        score(csv(CATS), positive="cat")
    with pytest.raises(OptionError, match="second of --classes"):
        score(csv("y,p\n0,0.5\n"), classes=["0", "1"], positive="0")
    with pytest.raises(OptionError, match="allow_unnormalised"):
        score(csv(CATS), allow_unnormalised=1.5)
    with pytest.raises(OptionError, match="worst"):
        score(csv(CATS), worst=-1)


def test_weights_and_ids_are_found_and_can_be_left_out(csv):
    text = "row_id,label,p_a,p_b,sample_weight\nx,a,0.5,0.5,3\ny,b,0.9,0.1,1\n"
    result = score(csv(text))
    assert loss_is(result, -(3 * math.log(0.5) + math.log(0.1)) / 4)
    assert result.worst[0].name == "y"
    plain = score(csv(text), weights="none", id="none")
    assert loss_is(plain, -(math.log(0.5) + math.log(0.1)) / 2)
    assert plain.worst[0].name == "2"


def test_worst_rows_are_as_many_as_asked_in_row_order_of_ties(csv):
    path = csv("label,p_a,p_b\n" + "a,0.5,0.5\n" * 10 + "a,0,1\n" * 3)
    assert [row.number for row in score(path, worst=5).worst] == [11, 12, 13, 1, 2]
    assert score(path, worst=0).worst == ()
    assert len(score(path, worst=100).worst) == 13


# ---- strange names and files ---------------------------------------------------------------------

STRANGE = [
    "it's",
    'say "hi"',
    "semi;colon",
    "[brackets]*?",
    "{braces}",
    "ünïcode 猫",
    "a\\b",
    "--x",
]


@pytest.mark.parametrize("name", STRANGE)
def test_files_of_any_name_are_read(csv, parquet, name):
    assert loss_is(score(csv(CATS, f"{name}.csv")), CATS_LOSS)
    path = parquet("SELECT 'a' AS label, 0.5 AS p_a, 0.5 AS p_b", "plain.parquet")
    assert loss_is(score(path.rename(path.with_name(f"{name}.parquet"))), math.log(2))


def test_a_file_name_is_no_pattern(csv):
    csv(CATS.replace("0.1,0.9", "0.9,0.1"), "ab.csv")
    csv(CATS.replace("0.1,0.9", "0.9,0.1"), "a1.csv")
    assert loss_is(score(csv(CATS, "a*.csv")), CATS_LOSS)
    assert loss_is(score(csv(CATS, "a[1].csv")), CATS_LOSS)
    assert loss_is(score(csv(CATS, "a?.csv")), CATS_LOSS)


@pytest.mark.parametrize("name", STRANGE)
def test_columns_and_labels_of_any_name_are_read(csv, parquet, name):
    quoted = name.replace('"', '""')
    text = f'"the {quoted}","p_{quoted}","p_other"\n"{quoted}",0.25,0.75\nother,0.5,0.5\n'
    want = -(math.log(0.25) + math.log(0.5)) / 2
    result = score(csv(text), label=f"the {name}")
    assert loss_is(result, want)
    assert result.classes[0].label == name
    sql = name.replace("'", "''")
    path = parquet(
        f"""SELECT l AS "the {quoted}", a AS "p_{quoted}", b AS p_other
        FROM (VALUES ('{sql}', 0.25, 0.75), ('other', 0.5, 0.5)) AS t(l, a, b)"""
    )
    result = score(path, label=f"the {name}")
    assert loss_is(result, want)
    render_text(result)


def test_internal_names_do_not_clash_with_the_tables(parquet):
    path = parquet(
        "SELECT 'a' AS label, 0.5 AS p_a, 0.5 AS p_b, 7 AS rn, 8 AS d1, 9 AS k, 1 AS fault, "
        "2 AS total, 3 AS file_row_number"
    )
    assert loss_is(score(path), math.log(2))
    assert score(path).worst[0].number == 1


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_found(csv, delimiter):
    assert loss_is(score(csv(CATS.replace(",", delimiter))), CATS_LOSS)


def test_windows_line_ends_byte_order_marks_comments_and_gzip_are_read(csv):
    assert loss_is(score(csv("\ufeff" + CATS.replace("\n", "\r\n"))), CATS_LOSS)
    assert loss_is(score(csv(CATS.replace("a,cat", "#a,cat"))), CATS_LOSS)
    assert loss_is(score(csv(gzip.compress(CATS.encode()), "t.csv.gz")), CATS_LOSS)
    assert loss_is(score(csv(CATS.rstrip("\n"))), CATS_LOSS)


def test_parquet_is_known_by_its_bytes(parquet):
    path = parquet("SELECT 'a' AS label, 0.5 AS p_a, 0.5 AS p_b", "data.bin")
    assert loss_is(score(path), math.log(2))


def test_row_numbers_are_those_of_the_data_rows_in_large_files(tmp_path):
    y, p, w = many(60_000, 2)
    y[:] = 0
    p[:] = 0.5
    p[43_210] = [1e-9, 1 - 1e-9]
    for path in write_numbers(tmp_path, "large", y, p, w):
        assert score(path, weights="none").worst[0].number == 43_211


# ---- bad rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        ("a,0.5,0.5\n,0.5,0.5\n,0.5,0.5\n", TableError, "2 rows without one; .*data row 2"),
        ("a,0.5,0.5\na,0.5,\n", TableError, "nothing in column 'p_b' of data row 2"),
        ("a,0.5,0.5\na,x,0.5\n", TableError, "'x' in column 'p_a' of data row 2"),
        ('a,0.5,0.5\na,"0,5",0.5\n', TableError, "'0,5' in column 'p_a'.*point"),
        (
            "a,0.5,0.5\na,nan,0.5\n",
            DistributionError,
            r"nan in column 'p_a' of data row 2|\[0, 1\]",
        ),
        ("a,0.5,0.5\na,inf,0.5\n", DistributionError, "inf in column 'p_a' of data row 2"),
        ("a,0.5,0.5\na,1.5,-0.5\n", DistributionError, "1.5 in column 'p_a' of data row 2"),
        ("a,0.5,0.5\nb,1.0,-0.25\n", DistributionError, "-0.25 in column 'p_b' of data row 2"),
        (
            "a,0.5,0.5\nc,0.5,0.5\nc,0.5,0.5\n",
            TargetError,
            r"label 'c' in data row 2 \(2 rows.*'a', 'b'",
        ),
        (
            "a,0.5,0.5\nb,0.3,0.3\n",
            DistributionError,
            "got 0.6 in data row 2.*--allow unnormalised",
        ),
    ],
)
def test_bad_rows_are_counted_and_the_first_is_named(csv, rows, error, words):
    with pytest.raises(error, match=f"(?s){words}") as caught:
        score(csv("label,p_a,p_b\n" + rows))
    assert "Hint: " in str(caught.value)


def test_bad_rows_of_a_parquet_are_named_too(parquet):
    good = "SELECT 'a' AS label, 0.5::DOUBLE AS p_a, 0.5::DOUBLE AS p_b UNION ALL "
    for row, words in (
        ("SELECT NULL, 0.5, 0.5", "data row 2"),
        ("SELECT 'a', NULL, 0.5", "nothing in column 'p_a' of data row 2"),
        ("SELECT 'a', 'nan'::DOUBLE, 0.5", "nan in column 'p_a' of data row 2"),
        ("SELECT 'a', 0.7, 0.2", "got 0.9 in data row 2"),
    ):
        with pytest.raises((TableError, DistributionError), match=words):
            score(parquet(good + row))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("[0.5]", "must have 2 entries: got 1 in data row 2"),
        ("[0.5, 0.25, 0.25]", "got 3 in data row 2"),
        ("[0.5, NULL]", "data row 2"),
        ("NULL", "nothing in column 's' of data row 2"),
        ("[1.5, -0.5]", "1.5 in column 's' of data row 2"),
        ("[0.5, 'nan'::DOUBLE]", "data row 2"),
        ("[0.5, 0.25]", "got 0.75 in data row 2"),
        ("[]", "got 0 in data row 2"),
    ],
)
def test_bad_lists_are_named(parquet, entry, words):
    path = parquet(
        f"SELECT 0 AS label, [0.5, 0.5]::DOUBLE[] AS s UNION ALL SELECT 1, {entry}::DOUBLE[]"
    )
    with pytest.raises((TableError, DistributionError), match=words):
        score(path)


@pytest.mark.parametrize("label", ["2", "-1", "1.5", "x"])
def test_class_indices_outside_the_lists_are_refused(csv, label):
    with pytest.raises(TargetError, match=f"label '{label}' in data row 2"):
        score(csv(f'label,s\n0,"[0.5, 0.5]"\n{label},"[0.5, 0.5]"\n'))


@pytest.mark.parametrize("p", ["-0.1", "1.1", "nan", ""])
def test_bad_binary_probabilities_are_refused(csv, p):
    with pytest.raises((DistributionError, TableError), match="data row 2"):
        score(csv(f"y,p\n0,0.5\n1,{p}\n"))


@pytest.mark.parametrize("weight", ["-1", "nan", "inf", "", "x", "1e-200"])
def test_bad_weights_are_refused(csv, weight):
    with pytest.raises(TableError, match=r"weights.*data row 2"):
        score(csv(f"label,p_a,p_b,weight\na,0.5,0.5,1\nb,0.5,0.5,{weight}\n"))


def test_weights_that_are_all_zero_are_refused(csv):
    with pytest.raises(TableError, match="2 rows of weight 0"):
        score(csv("label,p_a,p_b,weight\na,0.5,0.5,0\nb,0.5,0.5,0\n"))


def test_rounded_tables_are_refused_until_they_are_allowed(csv):
    path = csv("label,p_a,p_b,p_c\na,0.3333,0.3333,0.3333\nb,0.5,0.25,0.25\n")
    with pytest.raises(DistributionError, match=r"0.9999 in data row 1.*--allow unnormalised=1e-3"):
        score(path)
    result = score(path, allow_unnormalised=1e-3)
    assert loss_is(result, -(math.log(0.3333) + math.log(0.25)) / 2)
    assert result.loose_rows == 1
    with pytest.raises(DistributionError, match=r"within 5.0e-05"):
        score(path, allow_unnormalised=5e-5)
    assert "1 row did not sum to 1" in render_text(result)


# ---- bad files -----------------------------------------------------------------------------------


def test_files_that_are_no_tables_are_refused(csv, parquet, tmp_path):
    with pytest.raises(TableError, match="does not exist"):
        score(tmp_path / "missing.csv")
    with pytest.raises(TableError, match="no file that ends in"):
        score(tmp_path)
    with pytest.raises(TableError, match="0 bytes"):
        score(csv(""))
    with pytest.raises(TableError, match="at least one row"):
        score(csv("label,p_a,p_b\n"))
    with pytest.raises(TableError, match="at least one row"):
        score(parquet("SELECT 'a' AS label, 0.5 AS p_a, 0.5 AS p_b LIMIT 0"))
    with pytest.raises(TableError, match="name the columns"):
        score(csv("1,0.5,0.5\n0,0.1,0.9\n"))
    with pytest.raises(TableError, match="name the columns"):
        score(csv("\n\n"))
    with pytest.raises(TableError, match="'p_a' twice"):
        score(csv("label,p_a,p_a\na,0.5,0.5\n"))
    with pytest.raises(TableError, match="Line: 3"):
        score(csv("label,p_a,p_b\na,0.5,0.5\nb,0.5\n"))
    with pytest.raises(TableError, match=r"(?i)utf-8"):
        score(csv("label,p_a,p_b\né,0.5,0.5\n".encode("latin-1")))
    with pytest.raises(TableError, match="UTF-8 or a Parquet"):
        score(csv(b"PK\x03\x04\x00\x00\x00\x00" * 100, "book.xlsx"))


def test_a_corrupt_parquet_is_refused(parquet):
    path = parquet("SELECT 'a' AS label, 0.5 AS p_a, 0.5 AS p_b FROM range(5000)")
    whole = path.read_bytes()
    for broken in (
        whole[:200],
        b"PAR1" + whole[200:],
        b"x" * 100,
        whole[:300] + bytes(20) + whole[320:],
    ):
        path.write_bytes(broken)
        with pytest.raises((TableError, DistributionError, TargetError)):
            score(path)


def test_a_missing_duckdb_says_what_to_install(csv, monkeypatch):
    path = csv(CATS)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(MissingExtraError, match=r"duckdb.*xent\[tables\]"):
        score(path)


def test_a_missing_rich_says_what_to_install(csv, monkeypatch):
    result = score(csv(CATS))
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(MissingExtraError, match=r"rich.*xent\[tables\]"):
        render_text(result)


# ---- what is returned ----------------------------------------------------------------------------


def test_the_dictionary_is_strict_json_also_when_the_loss_is_infinite(csv):
    result = score(csv("label,p_a,p_b\na,0,1\na,0.5,0.5\n"))
    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["n"] == 2
    assert data["log_loss_nats"] is None
    assert data["log_loss_bits"] is None
    assert data["standard_error_nats"] is None
    assert data["finite_log_loss_nats"] == pytest.approx(math.log(2))
    assert data["infinite_rows"] == 1
    assert data["accuracy"] == 0.5
    assert data["classes"][0]["log_loss_nats"] is None
    assert data["worst"][0]["loss_nats"] is None
    nothing_finite = score(csv("label,p_a,p_b\na,0,1\n")).to_dict()
    assert nothing_finite["finite_log_loss_nats"] is None


def test_the_report_says_what_a_person_needs(csv):
    text = render_text(score(csv(CATS)))
    for words in (
        "table.csv", "--label", "log loss", "nats", "bits", "the truth got", "33.5 %  typically",
        "base rate", "accuracy", "33.3 %", "cat", "dog", "share of the loss", "worst rows",
    ):  # fmt: skip
        assert words in text
    assert "\x1b" not in text
    assert "\x1b[" in render_text(score(csv(CATS)), color=True)


def test_the_report_of_an_infinite_loss_shows_the_rest_and_the_floors(csv):
    text = render_text(score(csv("id,label,p_a,p_b\nrow-1,a,0,1\nrow-2,a,0.5,0.5\n")))
    for words in (
        "∞ nats",
        "undefined",
        "1 row had P(truth) = 0",
        "row-1",
        "0.6931",
        "floor of 0.001",
    ):
        assert words in text.replace("∞  nats", "∞ nats")


def test_scoring_warns_of_nothing_and_writes_nothing(csv, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score(csv("label,p_a,p_b\na,0,1\na,0.5,0.5\n"))
    assert capfd.readouterr() == ("", "")


# ---- what looked like a score and was none -------------------------------------------------------


def parquet_of(tmp_path, **columns):
    """Write a Parquet file as Arrow does: its statistics leave NaN out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "arrow.parquet"
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_weight_that_the_statistics_of_a_file_leave_out_is_found(tmp_path, bad):
    path = parquet_of(
        tmp_path, label=["a", "b", "a"], p_a=[0.5] * 3, p_b=[0.5] * 3, weight=[1.0, bad, 2.0]
    )
    with pytest.raises(TableError, match=r"weights.*data row 2"):
        score(path)


@pytest.mark.parametrize("column", ["p_a", "p_b"])
def test_a_probability_that_the_statistics_of_a_file_leave_out_is_found(tmp_path, column):
    columns = {"p_a": [0.5, 0.5], "p_b": [0.5, 0.5]}
    columns[column] = [0.5, math.nan]
    path = parquet_of(tmp_path, label=["a", "b"], **columns)
    with pytest.raises(DistributionError, match=f"nan in column '{column}' of data row 2"):
        score(path)


def test_a_nan_among_float_labels_is_a_missing_label(tmp_path):
    path = parquet_of(tmp_path, y=[0.0, math.nan, 1.0], p=[0.5, 0.5, 0.5])
    with pytest.raises(TableError, match=r"1 row without one.*data row 2"):
        score(path)
    path = parquet_of(tmp_path, y=[0.0, math.nan, 1.0], p_0=[0.5] * 3, p_1=[0.5] * 3)
    with pytest.raises(TableError, match=r"1 row without one.*data row 2"):
        score(path)


@pytest.mark.parametrize("labels", [[0.0, 1.4], [0.0, 0.6], [0.0, -0.4], [0.0, 1e300]])
def test_fractions_are_no_class_indices(csv, tmp_path, labels):
    path = parquet_of(tmp_path, label=labels, s=[[0.5, 0.5]] * 2)
    with pytest.raises(TargetError, match="data row 2"):
        score(path)
    with pytest.raises(TargetError, match="data row 2"):
        score(csv("label,s\n" + "".join(f'{x!r},"[0.5, 0.5]"\n' for x in labels)))


def test_whole_floats_are_class_indices(csv, tmp_path):
    want = -(math.log(0.25) + math.log(0.9)) / 2
    rows = [[0.25, 0.75], [0.1, 0.9]]
    assert loss_is(score(parquet_of(tmp_path, label=[0.0, 1.0], s=rows)), want)
    assert loss_is(score(csv('label,s\n0.0,"[0.25, 0.75]"\n1.0,"[0.1, 0.9]"\n')), want)


def test_two_spellings_of_one_label_are_not_the_two_classes(csv):
    path = csv("y,p\nYes,0.9\nyes,0.9\n")
    for options in ({}, {"positive": "yes"}):
        with pytest.raises(TableError, match=r"'Yes', 'yes'.*--classes"):
            score(path, **options)
    assert score(path, classes=["Yes", "yes"]).n == 2


def test_a_misspelt_positive_is_refused_where_one_label_occurs(csv):
    path = csv("y,p\nspam,0.9\nspam,0.8\n")
    with pytest.raises(TableError, match=r"'span'.*--classes negative,positive"):
        score(path, positive="span")
    want = -(math.log(0.9) + math.log(0.8)) / 2
    assert loss_is(score(path, positive="spam"), want)
    assert loss_is(score(path, classes=["ham", "spam"]), want)
    none = csv("y,p_spam\nham,0.25\n")
    assert loss_is(score(none, positive="spam"), -math.log(0.75))
    assert loss_is(score(csv("y,p\n0,0.25\n"), positive="1"), -math.log(0.75))


def test_a_label_is_not_found_in_the_middle_of_a_name(csv):
    with pytest.raises(TableError, match="named after it"):
        score(csv("label,p_11,p_12\n1,0.5,0.5\n2,0.5,0.5\n"))
    with pytest.raises(TableError, match="named after it"):
        score(csv("label,p_female,p_femboy\nmale,0.5,0.5\n"))
    assert loss_is(score(csv("label,p_female,p_male\nmale,0.75,0.25\n")), math.log(4))


def test_two_sets_of_columns_are_not_one_of_twice_the_classes(csv):
    path = csv("label,l_a,l_b,r_a,r_b\na,0.25,0.25,0.25,0.25\n")
    with pytest.raises(TableError, match=r"'a' twice.*--probabilities"):
        score(path, probabilities="l_*,r_*")


def test_a_class_may_be_called_id(csv):
    text = "label,p_en,p_fr,p_id\nen,0.5,0.25,0.25\nid,0.5,0.25,0.25\n"
    want = -(math.log(0.5) + math.log(0.25)) / 2
    assert loss_is(score(csv(text)), want)
    assert loss_is(score(csv(text), probabilities="p_*"), want)
    assert loss_is(score(csv(text.replace("p_", "m_")), probabilities="m_*"), want)
    bare = score(csv(text.replace("p_", "")), probabilities="en,fr,id")
    assert loss_is(bare, want)
    assert bare.worst[0].name == "2"
    with_id = "example_id," + text.replace("\n", "\nx,").removesuffix("x,")
    assert score(csv(with_id)).worst[0].name == "x"


def test_labels_that_a_missing_value_once_made_floats_are_read(csv, tmp_path):
    want = -(math.log(0.75) + math.log(0.9)) / 2
    for path in (
        csv("y,p\n0.0,0.25\n1.0,0.9\n"),
        csv("y,p_0,p_1\n0.0,0.75,0.25\n1.0,0.1,0.9\n"),
        parquet_of(tmp_path, y=[0.0, 1.0], p=[0.25, 0.9]),
        csv("y,p_0,p_1\nFalse,0.75,0.25\nTrue,0.1,0.9\n", "bool.csv"),
    ):
        result = score(path)
        assert loss_is(result, want)
        assert [c.summary.n for c in result.classes] == [1, 1]
    path = parquet_of(tmp_path, y=[False, True], p_0=[0.75, 0.1], p_1=[0.25, 0.9])
    assert loss_is(score(path), want)
    assert loss_is(score(csv("y,p\n0.0,0.25\n1.0,0.9\n"), positive="1.0"), want)


def test_parquet_columns_that_differ_in_case_only_are_two_classes(tmp_path):
    path = parquet_of(
        tmp_path, y=["A", "a"], nested=[{"x": 1, "y": [2]}] * 2, p_A=[0.75, 0.5], p_a=[0.25, 0.5]
    )
    result = score(path)
    assert [c.label for c in result.classes] == ["A", "a"]
    assert loss_is(result, -(math.log(0.75) + math.log(0.5)) / 2)


def test_a_weight_that_is_no_number_is_shown_as_it_is(csv):
    with pytest.raises(TableError, match="got 'x' in data row 2"):
        score(csv("label,p_a,p_b,weight\na,0.5,0.5,1\nb,0.5,0.5,x\n"))


def test_a_row_without_an_id_is_named_by_its_number(csv):
    result = score(csv("id,label,p_a,p_b\nx,a,0.9,0.1\n,a,0.5,0.5\n"))
    assert [row.name for row in result.worst] == ["2", "x"]


def test_rows_of_weight_zero_are_judged_too(csv):
    with pytest.raises(DistributionError, match="data row 2"):
        score(csv("label,p_a,p_b,weight\na,0.5,0.5,1\nb,0.3,0.3,0\n"))


@pytest.mark.parametrize(
    "options",
    [
        {"worst": "3"}, {"worst": 2.5}, {"allow_unnormalised": "1e-3"}, {"label": 3},
        {"allow_unnormalised": math.nan}, {"classes": "cat"}, {"classes": {"cat", "dog"}},
        {"classes": 2}, {"positive": 1}, {"probabilities": ["p_cat"]}, {"id": 0}, {"weights": 1.0},
    ],
)  # fmt: skip
def test_options_of_a_wrong_type_are_refused(csv, options):
    with pytest.raises(OptionError, match=f"{next(iter(options))} must be.*Hint: "):
        score(csv(CATS), **options)


def test_a_sum_that_is_no_number_is_never_returned(csv, monkeypatch):
    scan = Query.scan

    def broken(self, *arguments, **options):
        found = scan(self, *arguments, **options)
        cells = {
            k: replace(cell, summary=replace(cell.summary, first=math.nan))
            for k, cell in found.tally.classes.items()
        }
        return replace(found, tally=replace(found.tally, classes=cells))

    monkeypatch.setattr(Query, "scan", broken)
    with pytest.raises(TableError, match=r"add up to a number: got NaN.*Hint: "):
        score(csv(CATS))


def test_more_rows_than_there_are_may_be_asked_for(csv):
    assert len(score(csv(CATS), worst=10**30).worst) == 3
    assert len(score(csv(CATS), worst=np.int64(2)).worst) == 2


@pytest.mark.parametrize("source", [None, 3, [["cat", 0.5]]])
def test_what_is_no_path_is_refused(source):
    with pytest.raises(OptionError, match=r"source must be .*Hint: "):
        score(source)


@pytest.mark.parametrize("name", ["x" * 300 + ".csv", "zero\0byte.csv"])
def test_a_path_that_no_file_can_have_is_refused(name):
    with pytest.raises(TableError, match="Hint: "):
        score(name)


@pytest.mark.parametrize(
    "text", ["label,p_a,p_" + "b" * 200_000 + "\n", 'label,p_a,"p_b\n' + "a,0.5,0.5\n" * 20_000]
)
def test_a_header_that_never_ends_is_refused(csv, text):
    with pytest.raises(TableError, match=r"name the columns.*Hint: "):
        score(csv(text))


# ---- what the report must not say ----------------------------------------------------------------


def test_no_share_rounds_up_to_all(csv):
    rows = "".join(["a,0.99999,0.00001\n"] * 2999) + "a,0.4,0.6\n" + "b,0.00001,0.99999\n"
    text = render_text(score(csv("label,p_a,p_b\n" + rows), worst=3))
    assert " 100 %" not in text
    assert "99.97 %" in text
    assert "> 99.9 %" in text
    assert " 1.0000" not in text
    assert "0.99999" in text
    certain = render_text(score(csv("label,p_a,p_b,weight\na,1,0,0.1\na,1,0,0.2\na,1,0,0.7\n")))
    assert " 100 %" in certain
    assert "100.0 %" in certain


def test_control_characters_of_the_data_do_not_reach_the_terminal(csv):
    path = csv('id,label,p_a,p_b\n"x\n\x1b[31my",a,0,1\n')
    text = render_text(score(path))
    assert "\x1b" not in text
    assert "x\\n\\x1b[31my" in text


@pytest.mark.parametrize("width", [20, 40, 50, 60, 64, 79, 80, 96])
def test_a_narrow_terminal_cuts_no_number(csv, width):
    row = "a-label-of-some-length,0.123456,0.876544\n"
    text = f"label,p_a-label-of-some-length,p_another-label-of-some-length\n{row * 1200}"
    shown = render_text(score(csv(text)), width=width)
    assert "…" not in shown
    for number in ("1,200", "2.0919", "3.0179", "100.0 %", "0.0 %", "0.1235"):
        assert number in shown
