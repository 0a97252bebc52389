"""Fitting a classifier to a table, predicting another, and scoring what was predicted."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import duckdb
import numpy as np
import pytest
import scipy.sparse
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from tables import QUICK, csv_of, mixed_rows, numbers_of, parquet_of

import xent
from xent.cli import main
from xent.errors import OptionError, TableError
from xent.models import (
    SoftmaxRegression,
    TableModel,
    Validation,
    fit_table,
    predict_table,
)
from xent.models.features import Columns, design, learn
from xent.report import render_fit
from xent.scoring import score

ROOT = Path(__file__).parents[1]
FLOWERS = ROOT / "examples" / "flowers.csv"


@pytest.fixture
def mixed(tmp_path):
    return csv_of(tmp_path, mixed_rows())


# ---- what is read as what --------------------------------------------------------------------------


def test_a_csv_is_read_by_its_values(mixed):
    model = fit_table(mixed, target="kind", categorical="grade", validation=QUICK)
    assert [(f.column, f.kind) for f in model.features] == [
        ("size", "numeric"), ("colour", "categorical"), ("grade", "categorical"), ("flag", "categorical"),
    ]  # fmt: skip
    assert model.classes == ("cat", "dog", "fox")
    assert [f.categories for f in model.features[1:]] == [
        ("blue", "green", "red"), (0, 1, 2, 3), (False, True),
    ]  # fmt: skip
    assert model.columns[0] == "size"
    assert model.columns[1:4] == ("colour = blue", "colour = green", "colour = red")


def test_parquet_is_read_by_its_types(tmp_path):
    path = parquet_of(
        tmp_path, whole="i % 7", small="CAST(i % 5 AS UINTEGER)", half="CAST(i % 3 AS FLOAT)",
        money="CAST(i % 4 AS DECIMAL(10, 2)) / 4", flag="i % 3 = 0", text="CAST(i % 4 AS VARCHAR)",
        y="i % 2 = 0",
    )  # fmt: skip
    model = fit_table(path, target="y", validation=QUICK)
    kinds = {f.column: f.kind for f in model.features}
    assert [kinds[name] for name in ("whole", "small", "half", "money")] == ["numeric"] * 4
    assert kinds["flag"] == kinds["text"] == "categorical"
    by_name = {f.column: f for f in model.features}
    assert by_name["flag"].categories == (False, True)
    assert by_name["text"].categories == ("0", "1", "2", "3")  # a typed file means its texts
    assert model.classes == (False, True)


def test_features_and_ignore_choose_columns_by_name_or_pattern(mixed):
    chosen = fit_table(mixed, target="kind", features=["s*", "colour"], validation=QUICK)
    assert [f.column for f in chosen.features] == ["size", "colour"]
    others = fit_table(mixed, target="kind", ignore="grade,flag", validation=QUICK)
    assert [f.column for f in others.features] == ["size", "colour"]
    assert others.coefficients == chosen.coefficients


def test_a_name_with_a_comma_is_one_name(tmp_path):
    path = csv_of(tmp_path, ['"a,b",c,y', "1,4,u", "2,3,v", "3,5,u", "5,4,v"])
    model = fit_table(path, target="y", ignore=["a,b"], validation=QUICK)
    assert [f.column for f in model.features] == ["c"]


def test_columns_of_one_value_are_dropped_and_named(tmp_path):
    path = csv_of(tmp_path, ["a,b,c,y", "0.1,k,1,u", "0.1,k,2,v", "0.1,k,3,u", "0.1,k,5,v"])
    model = fit_table(path, target="y", validation=QUICK)
    assert [f.column for f in model.features] == ["c"]
    assert [(d.column, d.reason) for d in model.summary.dropped] == [
        ("a", "is 0.1 in every row"), ("b", "is 'k' in every row"),
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet"])
def test_every_format_gives_the_same_model(tmp_path, suffix):
    path = tmp_path / f"t.{suffix}"
    form = "FORMAT parquet" if suffix == "parquet" else "FORMAT csv, HEADER"
    form += ", COMPRESSION gzip" if suffix.endswith("gz") else ""
    with duckdb.connect() as connection:
        connection.execute(f"COPY (FROM read_csv('{FLOWERS}')) TO '{path}' ({form})")
    model = fit_table(path, target="species", validation=QUICK)
    plain = fit_table(FLOWERS, target="species", validation=QUICK)
    assert (model.features, model.coefficients) == (plain.features, plain.coefficients)


# ---- what is refused -------------------------------------------------------------------------------

GOOD = [f"{i % 7},{'ab'[i % 2]},{'uvw'[i % 3]}" for i in range(60)]


@pytest.mark.parametrize(
    ("rows", "options", "error", "said"),
    [
        (["x,k,y", *GOOD], {"target": "Y"}, TableError, "--target must name a column"),
        (["size,k,y", *GOOD], {"target": "y", "features": "sizes"}, TableError, "did you mean 'size'"),
        (["x,k,y", *GOOD], {"target": "y", "ignore": "z*"}, TableError, "'z\\*'"),
        (["x,k,y", *GOOD], {"target": "y", "ignore": "*"}, TableError, "none is left"),
        (["x,k,y", *GOOD], {"target": "y", "features": ["x", "y"]}, OptionError, "--features must not name"),
        (["x,k,y", *GOOD], {"target": "y", "weights": "y"}, OptionError, "--weights must name another"),
        (["x,k,y", *GOOD], {"target": "y", "features": "x", "categorical": "k"}, OptionError, "must name a feature"),
        (["x,k,y", *GOOD], {"target": "y", "missing": "mean"}, OptionError, "'indicator'"),
        (["x,k,y", *GOOD], {"target": 3}, OptionError, "name of a column"),
        (["x,k,y", *GOOD], {"target": "y", "ignore": 3}, OptionError, "must be texts"),
        (["x,k,y", *GOOD], {"target": "y", "features": []}, OptionError, "must be texts"),
        (["x,x,y", *GOOD], {"target": "y"}, TableError, "'x' twice"),
        (["x,k,y"], {"target": "y"}, TableError, "at least one row"),
        (["x,k,y", "1,a,u"], {"target": "y"}, TableError, "only 'u'"),
        (["x,k,y", "1,a,", "2,b,"], {"target": "y"}, TableError, "got no value"),
        (["x,k,y", *GOOD, "1,a,"], {"target": "y"}, TableError, "got none in 1 row; the first is data row 61"),
        (["x,k,y", *GOOD, "NA,a,u"], {"target": "y"}, TableError, "60 numbers and 1 texts such as 'NA'"),
        (["x,k,y", *GOOD, "NA,a,u", "NA,a,u"], {"target": "y", "na": "NA"}, TableError, "'x' of .* got none in 2 rows; the first is data row 61"),
        (["x,k,y", *GOOD, "1,,u"], {"target": "y"}, TableError, "'k' of .* got none in 1 row; the first is data row 61"),
        (["x,k,y", *GOOD, "inf,a,u"], {"target": "y"}, TableError, "got 'inf' in data row 61"),
        (["x,k,y", *GOOD, "-1e151,a,u"], {"target": "y"}, TableError, "got '-1e151' in data row 61"),
        (["x,k,y", *[f"1,n{i},{'uv'[i % 2]}" for i in range(50)]], {"target": "y"}, TableError, "50 different values in 50 rows.*--categorical 'k'"),
        (["id,k,y", *[f"{i},{'abc'[i % 3]},{'uv'[i % 2]}" for i in range(50)]], {"target": "y"}, TableError, "which row it is.*--ignore 'id'"),
        (["x,t,y", *[f"{i % 5},2024-01-{i % 9 + 1:02},{'uv'[i % 2]}" for i in range(50)]], {"target": "y"}, TableError, "times such as '2024-01-01'.*--ignore 't'"),
        (["x,y", *[f"{i % 5},{i / 3}" for i in range(50)]], {"target": "y"}, TableError, "regression"),
        (["x,y", *[f"{i % 5},{i % 3 / 2}" for i in range(50)]], {"target": "y"}, TableError, "got the number 0.5.*regression"),
        (["x,y", *[f"1,{'uv'[i % 2]}" for i in range(50)]], {"target": "y"}, TableError, "columns of one value, 'x'"),
        (["x,k,y", *GOOD, "1,a,rare"], {"target": "y"}, TableError, "1 row of 'rare'"),
        (["sample_weight,k,y", *GOOD], {"target": "y"}, TableError, "--weights 'sample_weight'"),
        (["w,k,y", *GOOD, "-1,a,u"], {"target": "y", "weights": "w"}, TableError, "got '-1' in data row 61"),
        (["w,k,y", *GOOD, ",a,u"], {"target": "y", "weights": "w"}, TableError, "got nothing in data row 61"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_in_one_way_is_refused_with_the_column_and_a_way_out(
    tmp_path, rows, options, error, said
):
    with pytest.raises(error, match=f"(?s){said}") as raised:
        fit_table(csv_of(tmp_path, rows), **options)
    assert "Hint: " in str(raised.value)


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("DATE '2024-01-01' + CAST(i AS INTEGER)", "DATE"),
        ("TIMESTAMP '2024-01-01'", "TIMESTAMP"),
        ("[i, i]", "BIGINT"),
        ("{'a': i}", "STRUCT"),
        ("CAST('x' AS BLOB)", "BLOB"),
    ],
)
def test_dates_and_nested_values_are_refused_unless_ignored(tmp_path, sql, said):
    path = parquet_of(tmp_path, x="i % 7", odd=sql, y="i % 2")
    with pytest.raises(TableError, match=rf"'odd'.*{said}.*--ignore 'odd'"):
        fit_table(path, target="y")
    with pytest.raises(TableError, match="Hint: "):
        fit_table(path, target="odd")
    model = fit_table(path, target="y", ignore="odd", validation=QUICK)
    assert [f.column for f in model.features] == ["x"]


@pytest.mark.parametrize(
    ("validation", "said"),
    [
        (Validation(folds=1), "--folds"),
        (Validation(folds=61), "number of rows, 60"),
        (Validation(folds=-1), "--folds"),
        (Validation(folds=True), "--folds"),
        (Validation(holdout=0.0), "--holdout"),
        (Validation(holdout=1.0), "--holdout"),
        (Validation(holdout=math.nan), "--holdout"),
        (Validation(holdout=0.001), "hold out a row"),
        (Validation(seed=-1), "--seed"),
    ],
)
def test_impossible_validations_are_refused(tmp_path, validation, said):
    with pytest.raises(OptionError, match=f"{said}.*Hint: "):
        fit_table(csv_of(tmp_path, ["x,k,y", *GOOD]), target="y", validation=validation)


def test_only_what_is_data_can_be_the_estimator(tmp_path):
    path = csv_of(tmp_path, ["x,k,y", *GOOD])
    with pytest.raises(OptionError, match="SoftmaxRegression: got StandardScaler"):
        fit_table(path, target="y", estimator=StandardScaler())
    with pytest.raises(OptionError, match="by label: got 'z'"):
        fit_table(path, target="y", estimator=SoftmaxRegression(class_weight={"z": 2.0}))


def test_what_was_asked_for_by_name_is_not_refused_as_an_identifier(tmp_path):
    rows = [f"{i},n{i},{'uv'[i % 2]}" for i in range(50)]
    path = csv_of(tmp_path, ["id,name,y", *rows])
    model = fit_table(path, target="y", features=["id", "name"], categorical="name", validation=QUICK)  # fmt: skip
    assert [(f.column, f.kind) for f in model.features] == [("id", "numeric"), ("name", "categorical")]  # fmt: skip


# ---- the numbers are right -------------------------------------------------------------------------


def test_the_probabilities_are_those_of_a_pipeline_of_scikit_learn(mixed):
    model = fit_table(mixed, target="kind", categorical="grade", validation=QUICK)
    table = np.genfromtxt(mixed, delimiter=",", dtype=str, skip_header=1)
    prepare = ColumnTransformer(
        [("number", StandardScaler(), [0]), ("category", OneHotEncoder(), [1, 2, 3])],
        sparse_threshold=0.0,
    )
    x = np.array(table[:, :4], dtype=object)
    x[:, 0] = x[:, 0].astype(float)
    pipeline = make_pipeline(prepare, SoftmaxRegression()).fit(x, table[:, 4])
    np.testing.assert_allclose(model.predict_proba(mixed), pipeline.predict_proba(x), atol=1e-7)
    assert model.predict(mixed) == pipeline.predict(x).tolist()


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine, load_digits])
def test_real_data_goes_through_fit_predict_and_score(tmp_path, load):
    data = load()
    path = numbers_of(tmp_path, data.data, data.target)
    model = fit_table(path, target="y", validation=Validation(folds=3))
    assert model.classes == tuple(range(len(data.target_names)))
    kept = [name for name in range(data.data.shape[1]) if np.ptp(data.data[:, name]) > 0]
    assert [f.column for f in model.features] == [f"x{j}" for j in kept]
    scale = StandardScaler().fit(data.data[:, kept])
    x = scale.transform(data.data[:, kept])
    arrays = SoftmaxRegression().fit(x, data.target)
    proba = model.predict_proba(path)
    np.testing.assert_allclose(proba, arrays.predict_proba(x), atol=2e-6)
    made = predict_table(model, path, tmp_path / "p.parquet")
    result = score(made.path)
    loss = xent.log_loss(data.target, proba)
    assert result.log_loss == pytest.approx(loss, rel=1e-13)
    assert model.summary.training_loss == pytest.approx(loss, rel=1e-10)
    shares = np.bincount(data.target) / len(data.target)
    assert model.summary.base_rate_loss == pytest.approx(xent.entropy(shares), rel=1e-14)
    assert (
        model.summary.training_loss < model.summary.held_out.log_loss < model.summary.base_rate_loss
    )


def test_the_cross_validated_loss_is_that_of_rules_and_models_of_the_other_folds(mixed):
    validation = Validation(folds=4, seed=3)
    model = fit_table(mixed, target="kind", features=["size", "colour"], validation=validation)
    table = np.genfromtxt(mixed, delimiter=",", dtype=str, skip_header=1)
    y = np.searchsorted(["cat", "dog", "fox"], table[:, 4])
    # The documented deal: shuffled rows, class by class, one for each fold in turn.
    shuffled = np.random.default_rng(3).permutation(len(y))
    order = shuffled[np.argsort(y[shuffled], kind="stable")]
    fold = np.empty(len(y), dtype=int)
    fold[order] = np.arange(len(y)) % 4
    x = np.array(table[:, :2], dtype=object)
    x[:, 0] = x[:, 0].astype(float)

    def losses(*, leaking):
        found = np.empty(len(y))
        for k in range(4):
            train, test = fold != k, fold == k
            prepare = ColumnTransformer(
                [("number", StandardScaler(), [0]), ("category", OneHotEncoder(), [1])],
                sparse_threshold=0.0,
            ).fit(x if leaking else x[train])
            fitted = SoftmaxRegression().fit(prepare.transform(x[train]), y[train])
            p = fitted.predict_proba(prepare.transform(x[test]))
            found[test] = -np.log(p[np.arange(test.sum()), y[test]])
        return found

    clean, held_out = losses(leaking=False), model.summary.held_out
    assert held_out.log_loss == pytest.approx(clean.mean(), abs=1e-7)
    assert held_out.standard_error == pytest.approx(clean.std(ddof=1) / len(y) ** 0.5, abs=1e-7)
    assert (held_out.rows, held_out.validation) == (len(y), validation)
    # The tolerance tells a rule that was learned from all rows.
    assert abs(losses(leaking=True).mean() - clean.mean()) > 1e-5


def test_categories_of_held_out_rows_alone_are_counted_and_count_for_nothing(tmp_path):
    rows = [f"{i % 5},{'ab'[i % 2]},{'uv'[i // 2 % 2]}" for i in range(40)]
    path = csv_of(tmp_path, ["x,k,y", *rows, "1,only,u"])
    model = fit_table(path, target="y")
    assert model.summary.held_out.unseen_rows == 1
    assert model.features[1].categories == ("a", "b", "only")


def test_weights_count_as_the_same_row_so_many_times(tmp_path):
    rows = mixed_rows(40)
    weights = [i % 4 for i in range(40)]
    weighted = csv_of(
        tmp_path, [f"{rows[0]},w", *(f"{r},{w}" for r, w in zip(rows[1:], weights, strict=True))]
    )
    repeated = csv_of(
        tmp_path, [rows[0], *(r for r, w in zip(rows[1:], weights, strict=True) for _ in range(w))],
        "repeated.csv",
    )  # fmt: skip
    one = fit_table(weighted, target="kind", weights="w", validation=QUICK)
    other = fit_table(repeated, target="kind", validation=QUICK)
    assert one.columns == other.columns
    assert (one.summary.rows, one.summary.left_out) == (30, 10)
    np.testing.assert_allclose(one.coefficients, other.coefficients, atol=1e-6)
    np.testing.assert_allclose(
        [one.features[0].mean, one.features[0].scale],
        [other.features[0].mean, other.features[0].scale],
        rtol=1e-14,
    )
    assert one.summary.training_loss == pytest.approx(other.summary.training_loss, rel=1e-9)
    assert one.summary.base_rate_loss == pytest.approx(other.summary.base_rate_loss, rel=1e-14)
    np.testing.assert_allclose(one.summary.class_shares, other.summary.class_shares, rtol=1e-14)
    measured = fit_table(weighted, target="kind", weights="w")
    made = predict_table(measured, weighted, tmp_path / "p.parquet")
    assert made.columns[:2] == ("label", "sample_weight")
    assert score(made.path).log_loss == pytest.approx(measured.summary.training_loss, rel=1e-10)


def test_rows_of_weight_0_bring_neither_a_class_nor_a_category(tmp_path):
    rows = [f"{i % 5},{'ab'[i % 2]},{'uv'[i // 2 % 2]},1" for i in range(20)]
    path = csv_of(tmp_path, ["x,k,y,w", *rows, "900,c,other,0"])
    model = fit_table(path, target="y", weights="w", validation=QUICK)
    assert model.classes == ("u", "v")
    assert model.features[1].categories == ("a", "b")
    assert model.features[0].mean == 2.0


def test_class_weights_are_by_label(tmp_path):
    path = csv_of(tmp_path, mixed_rows(60))
    weights = {"cat": 3.0, "dog": 1.0, "fox": 0.5}
    model = fit_table(
        path, target="kind", features="size", validation=QUICK,
        estimator=SoftmaxRegression(class_weight=weights),
    )  # fmt: skip
    table = np.genfromtxt(path, delimiter=",", dtype=str, skip_header=1)
    x = StandardScaler().fit_transform(table[:, :1].astype(float))
    arrays = SoftmaxRegression(class_weight=weights).fit(x, table[:, 4])
    np.testing.assert_allclose(model.coefficients, arrays.coef_, atol=1e-6)


def test_missing_values_are_the_mean_and_a_column_of_their_own(tmp_path):
    rows = [f"{i % 5},{'ab'[i % 2]},{'uv'[i // 2 % 2]}" for i in range(40)]
    path = csv_of(tmp_path, ["x,k,y", *rows, ",a,u", "NA,,v", "nan,,u"])
    model = fit_table(path, target="y", missing="indicator", na="NA", validation=QUICK)
    assert model.columns == ("x", "x is missing", "k = a", "k = b", "k is missing")
    assert model.features[0].mean == 2.0
    x = np.array([[float(i % 5)] for i in range(40)] + [[2.0]] * 3)
    gone = np.r_[np.zeros(40), 1, 1, 1][:, None]
    k = np.array([[i % 2 == 0, i % 2 == 1, False] for i in range(40)] + [[1, 0, 0], [0, 0, 1], [0, 0, 1]])  # fmt: skip
    y = np.array([i // 2 % 2 for i in range(40)] + [0, 1, 0])
    matrix = np.hstack([(x - 2.0) / np.sqrt(2.0), gone, k])
    arrays = SoftmaxRegression().fit(matrix, y)
    np.testing.assert_allclose(model.predict_proba(path), arrays.predict_proba(matrix), atol=1e-7)


def test_wide_categories_make_a_sparse_matrix_with_the_same_entries(tmp_path):
    random = np.random.default_rng(0)
    codes = random.integers(0, 60, 500).astype(np.int32)
    columns = Columns(
        500, {"x": random.normal(size=500)}, {"k": codes}, {"k": tuple(map(str, range(60)))}
    )
    rule = learn(columns)
    matrix = design(rule, columns)
    assert scipy.sparse.issparse(matrix)
    few = design(rule[:1], columns)
    assert isinstance(few, np.ndarray)
    expected = np.zeros((500, 61))
    expected[:, :1] = few
    expected[np.arange(500), 1 + codes] = 1.0
    np.testing.assert_array_equal(matrix.toarray(), expected)
    y = (codes % 2 + (columns.numbers["x"] > 0.5)) % 2
    path = csv_of(
        tmp_path, ["x,k,y", *(f"{x!r},c{k},{t}" for x, k, t in zip(columns.numbers["x"].tolist(), codes, y, strict=True))]
    )  # fmt: skip
    model = fit_table(path, target="y", validation=Validation(folds=2))
    arrays = SoftmaxRegression().fit(expected, y)
    np.testing.assert_allclose(model.predict_proba(path), arrays.predict_proba(expected), atol=1e-5)


def test_the_order_of_rows_is_kept_in_large_tables(tmp_path):
    path = tmp_path / "large.parquet"
    with duckdb.connect() as connection:
        connection.execute(
            "COPY (SELECT i AS id, CAST(i AS DOUBLE) AS x, i >= 150000 AS y FROM range(300000) r(i)) "
            f"TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE 10000)"
        )
    model = fit_table(path, target="y", ignore="id", validation=QUICK)
    made = predict_table(model, path, tmp_path / "p.parquet", keep="x")
    assert made.columns == ("id", "label", "x", "p_false", "p_true")
    with duckdb.connect() as connection:
        found = connection.execute(f"FROM '{made.path}'").fetchnumpy()
    np.testing.assert_array_equal(found["id"], np.arange(300000))
    np.testing.assert_array_equal(found["x"], np.arange(300000))
    np.testing.assert_array_equal(found["label"], np.arange(300000) >= 150000)
    assert np.all(np.diff(found["p_true"]) >= 0)
    np.testing.assert_array_equal(found["p_true"], model.predict_proba(path)[:, 1])


def test_a_missing_category_has_a_column_and_an_unseen_one_has_none(tmp_path):
    columns = Columns(3, {}, {"k": np.array([-1, -2, 1], np.int32)}, {"k": ("a", "b")})
    rule = learn(columns)
    assert rule[0].categories == ("b",)
    np.testing.assert_array_equal(design(rule, columns), [[0, 1], [0, 0], [1, 0]])


@pytest.mark.parametrize(
    "x",
    [
        [1e149, -1e149, 3e148],
        [1e-140, 2e-140, 4e-140],
        [1e15 + 1, 1e15 + 2, 1e15 + 4],
        [0.1, 0.1, np.nextafter(0.1, 1)],
    ],
)
def test_means_and_scales_keep_their_digits(x):
    rule = learn(Columns(3, {"x": np.array(x)}, {}, {}))[0]
    import mpmath

    with mpmath.workdps(60):
        mean = mpmath.fsum(map(mpmath.mpf, x)) / 3
        scale = mpmath.sqrt(mpmath.fsum((mpmath.mpf(v) - mean) ** 2 for v in x) / 3)
        assert abs(mpmath.mpf(rule.mean) - mean) <= 2e-16 * max(abs(v) for v in x)
        # The mean is a rounded number; of numbers that hardly differ that is all that is lost.
        assert rule.scale == pytest.approx(float(scale), rel=1e-12 + 3e-16 * abs(x[0]) / float(scale))  # fmt: skip


@pytest.mark.parametrize("rows", [1, 3, 6, 11, 1000])
def test_what_does_not_vary_in_a_fold_is_not_scaled_by_the_rounding_of_its_mean(rows):
    for x in (np.full(rows, 0.1), np.full(rows, -1e149), np.full(rows, 5e-324)):
        rule = learn(Columns(rows, {"x": x}, {}, {}), np.linspace(0.1, 0.7, rows))[0]
        assert (rule.mean, rule.scale) == (x[0], 1.0)


def test_a_fit_that_ends_early_says_so(mixed):
    estimator = SoftmaxRegression(max_iter=1)
    with pytest.warns(ConvergenceWarning, match="Hint: "):
        model = fit_table(mixed, target="kind", estimator=estimator, validation=QUICK)
    assert not model.summary.converged
    assert "ended before" in render_fit(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_table(mixed, target="kind", validation=QUICK).summary.converged


def test_the_split_is_by_class_and_by_seed(mixed):
    def loss(**options):
        held_out = fit_table(mixed, target="kind", features="size", validation=Validation(**options)).summary.held_out  # fmt: skip
        return held_out.log_loss, held_out.rows

    assert loss(seed=1) == loss(seed=1)
    assert loss(seed=1) != loss(seed=2)
    assert loss(holdout=0.25)[1] == pytest.approx(20, abs=3)
    assert loss(holdout=0.99)[1] == 77  # each class keeps a row to be known by


# ---- predictions -----------------------------------------------------------------------------------


def test_predictions_need_the_features_only(mixed, tmp_path):
    model = fit_table(mixed, target="kind", validation=QUICK)
    rows = [row.rsplit(",", 1)[0] for row in mixed_rows()]
    unlabelled = csv_of(tmp_path, rows, "unlabelled.csv")
    np.testing.assert_array_equal(model.predict_proba(unlabelled), model.predict_proba(mixed))
    made = predict_table(model, unlabelled, tmp_path / "p.parquet")
    assert made.columns == ("p_cat", "p_dog", "p_fox")
    assert not made.labelled
    one = csv_of(tmp_path, rows[:2], "one.csv")
    np.testing.assert_allclose(model.predict_proba(one), model.predict_proba(mixed)[:1], rtol=1e-14)


@pytest.mark.parametrize(
    ("labels", "formats"),
    [
        (["a,b", "c;d|e\tf", 'q"u', "new\nline", "é猫", " lead"], ["parquet", "csv", "csv.gz"]),
        (["a", "p_a", "p_p_a"], ["parquet", "csv"]),
        (["a", "A"], ["csv"]),
        (["label", "id", "sample_weight"], ["parquet", "csv"]),
        ([-1, 0, 1], ["parquet", "csv"]),
        ([10**17 + 1, 10**17 + 2], ["parquet", "csv"]),
        ([0.0, 1.0, 2.0], ["parquet", "csv"]),
        ([True, False], ["parquet", "csv"]),
        (["True", "False"], ["parquet", "csv"]),
        (["1.0", "0.0"], ["parquet", "csv"]),
        (["nan", "inf", "x"], ["parquet", "csv"]),
        ([f"c{k}" for k in range(10)], ["parquet", "csv"]),
    ],
    ids=str,
)
def test_labels_of_any_kind_are_scored_without_flags(tmp_path, labels, formats):
    random = np.random.default_rng(1)
    places = random.integers(0, len(labels), 120)
    x = [float(v) for v in places + random.normal(size=120)]
    path = parquet_of(tmp_path, x=x, species=[labels[k] for k in places])
    model = fit_table(path, target="species", validation=QUICK)
    proba = model.predict_proba(path)
    codes = [model.classes.index(labels[k]) for k in places]
    expected = -np.log(proba[np.arange(120), codes]).mean()
    assert model.summary.training_loss == pytest.approx(expected, rel=1e-12)
    for suffix in formats:
        made = predict_table(model, path, tmp_path / f"p.{suffix}")
        result = score(made.path)
        assert result.log_loss == pytest.approx(expected, rel=1e-13), suffix
        assert result.n == 120
        # A part of the labels must not be matched to other columns than the whole.
        some = tmp_path / f"some.{suffix}"
        form = "FORMAT parquet" if suffix == "parquet" else "FORMAT csv"
        for k, label in enumerate(model.classes):
            if suffix != "parquet":
                continue
            with duckdb.connect() as connection:
                connection.execute(
                    f"COPY (SELECT * FROM '{made.path}' WHERE label = $1) TO '{some}' ({form})",
                    [label],
                )
            own = np.array(codes) == k
            part = score(some)
            assert part.log_loss == pytest.approx(-np.log(proba[own, k]).mean(), rel=1e-13)


def test_names_that_a_format_cannot_hold_are_refused_and_nothing_is_left(tmp_path):
    path = csv_of(tmp_path, ["x,y", *(f"{i % 5},{'aA'[i % 2]}" for i in range(40))])
    model = fit_table(path, target="y", validation=QUICK)
    with pytest.raises(TableError, match=r"'p_A', 'p_a'.*-o predictions.csv"):
        predict_table(model, path, tmp_path / "p.parquet")
    assert sorted(os.listdir(tmp_path)) == ["t.csv"]


def test_ids_labels_and_kept_columns_come_along(tmp_path):
    rows = [f"r{i},{i % 5},{'uv'[i % 2]},{i * 0.5}" for i in range(30)]
    path = csv_of(tmp_path, ["id,x,y,extra", *rows])
    model = fit_table(path, target="y", features="x", validation=QUICK)
    made = predict_table(model, path, tmp_path / "p.csv", keep=["extra"])
    assert made.columns == ("id", "label", "extra", "p_u", "p_v")
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert lines[0] == "id,label,extra,p_u,p_v"
    assert lines[3].startswith("r2,u,1.0,")
    assert len(lines) == 31
    assert score(made.path).worst[0].name.startswith("r")
    assert predict_table(model, path, tmp_path / "q.csv", keep="*").columns == (
        "id", "label", "x", "extra", "p_u", "p_v",
    )  # fmt: skip


def test_columns_that_would_confuse_the_score_are_not_kept(tmp_path):
    rows = [f"{i % 5},{'uv'[i % 2]},0.5,k" for i in range(30)]
    path = csv_of(tmp_path, ["x,y,p_u,label", *rows])
    model = fit_table(path, target="y", features="x", validation=QUICK)
    for name in ("p_u", "label"):
        with pytest.raises(OptionError, match=f"got '{name}'"):
            predict_table(model, path, tmp_path / "p.csv", keep=name)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = csv_of(tmp_path_factory.mktemp("tables"), mixed_rows())
    return fit_table(path, target="kind", categorical="grade", validation=QUICK)


def test_unseen_categories_are_refused_by_name_or_ignored(model, tmp_path):
    rows = ["size,colour,grade,flag", "4,pink,1,True", "4,red,9,True", "5,pink,2,True", "5,mauve,2,True"]  # fmt: skip
    path = csv_of(tmp_path, rows, "new.csv")
    with pytest.raises(
        TableError,
        match=r"'colour'.*'pink' \(2\), 'mauve' \(1\) in 3 rows; the first is data row 1.*--unseen",
    ):
        model.predict_proba(path)
    proba = model.predict_proba(path, unseen="ignore")
    matrix = np.zeros((4, len(model.columns)))
    at = {name: place for place, name in enumerate(model.columns)}
    feature = model.features[0]
    for row, line in enumerate(rows[1:]):
        size, *others = line.split(",")
        matrix[row, 0] = (float(size) - feature.mean) / feature.scale
        for column, value in zip(("colour", "grade", "flag"), others, strict=True):
            if f"{column} = {value}" in at:
                matrix[row, at[f"{column} = {value}"]] = 1.0
    scores = matrix @ np.array(model.coefficients).T + model.intercepts
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(proba, expected, rtol=1e-12)
    with pytest.raises(OptionError, match="'refuse' or 'ignore'"):
        model.predict_proba(path, unseen="forget")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["size,color,grade,flag", "4,red,1,True"], "'colour', which the model.*did you mean 'color'"),
        (["size,colour,grade,flag", "four,red,1,True"], "'size'.*got 'four' in data row 1"),
        (["size,colour,grade,flag", "4,red,1,True", "inf,red,1,True"], "got 'inf' in data row 2"),
        (["size,colour,grade,flag", ",red,1,True"], "'size'.*got none in 1 row"),
        (["size,colour,grade,flag", "4,,1,True"], "'colour'.*got none in 1 row"),
        (["size,colour,grade,flag"], "at least one row"),
    ],
)  # fmt: skip
def test_a_table_that_does_not_fit_the_model_is_refused(model, tmp_path, rows, said):
    path = csv_of(tmp_path, rows, "new.csv")
    with pytest.raises(TableError, match=f"(?s){said}"):
        predict_table(model, path, tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


def test_types_must_be_those_of_the_fit(model, tmp_path):
    good = {"size": "i * 0.5", "colour": "'red'", "grade": "i % 3", "flag": "i % 2 = 0"}
    assert len(model.predict_proba(parquet_of(tmp_path, **good))) == 60  # booleans for their texts
    for column, sql, said in (
        ("size", "'4'", "numbers.*VARCHAR"),
        ("size", "true", "numbers.*BOOLEAN"),
        ("colour", "DATE '2024-01-01'", "categories.*DATE"),
        ("grade", "[1]", "categories.*INTEGER"),
    ):
        path = parquet_of(tmp_path, **{**good, column: sql})
        with pytest.raises(TableError, match=f"'{column}' of .* must hold {said}"):
            model.predict_proba(path)


def test_a_gap_that_the_fit_had_not_is_a_mean_or_an_unseen_category(tmp_path):
    rows = [f"{i % 5},{'ab'[i % 2]},{'uv'[i // 2 % 2]}" for i in range(40)]
    model = fit_table(csv_of(tmp_path, ["x,k,y", *rows]), target="y", missing="indicator", validation=QUICK)  # fmt: skip
    gaps = csv_of(tmp_path, ["x,k", ",a", "2,"], "gaps.csv")
    with pytest.raises(TableError, match=r"'k'.*a missing value \(1\) in 1 row"):
        model.predict_proba(gaps)
    mean = csv_of(tmp_path, ["x,k", "2,a"], "mean.csv")
    assert model.features[0].mean == 2.0
    np.testing.assert_array_equal(
        model.predict_proba(gaps, unseen="ignore")[0], model.predict_proba(mean)[0]
    )


def test_scores_that_overflow_are_refused_not_nan(tmp_path):
    rows = [f"{i % 2},{i % 3},{'uvw'[i % 3]}" for i in range(60)]
    model = fit_table(csv_of(tmp_path, ["a,b,y", *rows]), target="y", validation=QUICK)
    far = csv_of(tmp_path, ["a,b", "0,0", "1e150,1e150", "-1e150,1e150"], "far.csv")
    assert set(np.unique(model.predict_proba(far)[1:])) == {0.0, 1.0}
    coefficients = ((1e200, -1e200), (-1e200, 1e200), (1e200, 1e200))
    steep = dataclasses.replace(model, coefficients=coefficients)
    with pytest.raises(TableError, match="scores overflow in data row 2"):
        steep.predict_proba(far)


# ---- files are whole, and tables are never replaced -------------------------------------------------


@pytest.mark.parametrize("blow", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_run_leaves_the_old_files_whole(model, mixed, tmp_path, monkeypatch, blow):
    def fail(*_):
        raise blow

    for name in ("m.json", "p.parquet", "p.csv"):
        (tmp_path / name).write_text("old")
    before = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(os, "fsync", fail)
    expected = KeyboardInterrupt if blow is KeyboardInterrupt else OptionError
    for name in ("p.parquet", "p.csv"):
        with pytest.raises(expected):
            predict_table(model, mixed, tmp_path / name)
    with pytest.raises(expected):
        model.save(tmp_path / "m.json")
    assert sorted(os.listdir(tmp_path)) == before
    assert all((tmp_path / name).read_text() == "old" for name in ("m.json", "p.parquet", "p.csv"))


@pytest.mark.parametrize("link", ["same", "symbolic", "hard"])
def test_the_table_is_never_replaced(model, mixed, tmp_path, link, capsys):
    text = mixed.read_text()
    target = mixed
    if link != "same":
        target = tmp_path / "other.csv"
        (target.symlink_to if link == "symbolic" else target.hardlink_to)(mixed)
    with pytest.raises(OptionError, match="another file than"):
        predict_table(model, mixed, target)
    assert main(["fit", str(mixed), "--target", "kind", "-o", str(target)]) == 2
    assert "another file than" in capsys.readouterr().err
    assert mixed.read_text() == text


@pytest.mark.parametrize("name", ["p.txt", "p", "no/p.csv", ".", "x" * 300 + ".csv", "z\0.csv"])
def test_places_that_cannot_be_written_are_refused_before_the_work(model, tmp_path, name):
    with pytest.raises(OptionError, match=r"--output.*Hint: "):
        predict_table(model, "no such table", tmp_path / name)


# ---- the command line -------------------------------------------------------------------------------


def run(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "xent", *map(str, words)],
        capture_output=True, text=True, encoding="utf-8", check=False, **options,
    )  # fmt: skip


def test_fit_predict_and_score_follow_each_other(tmp_path, monkeypatch, capsys):
    done = run("fit", FLOWERS, "--target", "species", "-o", "flowers.json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    model = TableModel.load(tmp_path / "flowers.json")
    held_out = model.summary.held_out
    for number in (held_out.log_loss, held_out.standard_error, model.summary.base_rate_loss):
        assert f"{number:.4f}" in done.stdout
    assert "5-fold cross-validated" in done.stdout
    assert "petal_width" in done.stdout
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "flowers.json", str(FLOWERS), "-o", "p.parquet"]) == 0
    assert "p_setosa" in capsys.readouterr().out
    result = score(tmp_path / "p.parquet")
    assert result.log_loss == pytest.approx(model.summary.training_loss, rel=1e-10)
    assert sorted(os.listdir(tmp_path)) == ["flowers.json", "p.parquet"]


def test_every_flag_of_fit_reaches_the_model(tmp_path, capsys):
    rows = [f"{i % 5},{i % 3},?,{'uv'[i // 2 % 2]},{1 + i % 2},z" for i in range(40)]
    path = csv_of(tmp_path, ["a,b,c,y,w,unused", *rows, "1,1,4,u,1,z", "2,1,5,v,1,z"])
    model = tmp_path / "m.json"
    words = ["fit", str(path), "--target", "y", "-o", str(model), "--features", "a,b,c"]
    words += [
        "--categorical",
        "b",
        "--ignore",
        "unused",
        "--weights",
        "w",
        "--missing",
        "indicator",
    ]
    words += [
        "--na",
        "?",
        "--loss",
        "squared_error",
        "--C",
        "0.5",
        "--holdout",
        "0.25",
        "--seed",
        "7",
    ]
    assert main([*words, "--json", "-"]) == 0
    summary = json.loads(capsys.readouterr().out)
    loaded = TableModel.load(model)
    assert loaded.columns == ("a", "c", "c is missing", "b = 0", "b = 1", "b = 2")
    assert loaded.weights == "w"
    assert "C=0.5" in loaded.summary.estimator
    assert "squared_error" in loaded.summary.estimator
    assert loaded.summary.held_out.validation == Validation(holdout=0.25, seed=7)
    assert summary["held_out"]["log_loss"] == loaded.summary.held_out.log_loss
    assert summary["classes"] == ["u", "v"]
    assert main([*words, "--folds", "3"]) == 2
    assert "--folds and --holdout" in capsys.readouterr().err


def test_predict_takes_its_flags(tmp_path, capsys):
    rows = [f"r{i},{'ab'[i % 2]},{'uv'[i // 2 % 2]},{i}" for i in range(40)]
    path = csv_of(tmp_path, ["id,k,y,extra", *rows])
    model, new = tmp_path / "m.json", csv_of(tmp_path, ["id,k,extra", "n1,new,3"], "new.csv")
    words = ["fit", str(path), "--target", "y", "-o", str(model), "--features", "k", "--folds", "0"]
    assert main(words) == 0
    assert "not measured" in capsys.readouterr().out
    words = ["predict", str(model), str(new), "-o", str(tmp_path / "p.csv"), "--keep", "extra"]
    assert main(words) == 2
    assert "'new' (1)" in capsys.readouterr().err
    assert main([*words, "--unseen", "ignore"]) == 0
    assert (tmp_path / "p.csv").read_text().splitlines()[0] == "id,extra,p_u,p_v"
    assert "score" not in capsys.readouterr().out  # it has no labels
    assert main(["predict", str(model), str(new), "-o", str(model)]) == 2
    assert "another file than" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fit", "no.csv", "--target", "y", "-o", "m.json"], "no.csv"),
        (["fit", str(FLOWERS), "--target", "kind", "-o", "m.json"], "'kind'"),
        (["fit", str(FLOWERS), "--target", "species", "-o", "no/m.json"], "--output"),
        (["fit", str(FLOWERS), "--target", "species", "-o", "m.json", "--json", "no/s.json"], "--json"),
        (["fit", str(FLOWERS), "--target", "species", "-o", "m.json", "--json", "m.json"], "--json"),
        (["fit", str(FLOWERS), "--target", "species", "-o", "m.json", "--loss", "hinge"], "hinge"),
        (["fit", str(FLOWERS), "--target", "species", "-o", "m.json", "--C", "-1"], "C must"),
        (["fit", str(FLOWERS), "--target", "species", "-o", "m.json", "--folds", "1"], "--folds"),
        (["predict", str(FLOWERS), str(FLOWERS), "-o", "p.csv"], "the model, not the table|JSON"),
        (["predict", "no.json", str(FLOWERS), "-o", "p.csv"], "no.json"),
    ],
)  # fmt: skip
def test_an_error_is_one_message_and_leaves_nothing(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("xent: ")
    assert re.search(said, err)
    assert "Hint: " in err
    assert err.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name != "posix", reason="a name is always a text there")
def test_what_is_no_text_is_refused(tmp_path, capsys):
    odd = os.fsdecode(b"odd\xff")
    try:
        (tmp_path / f"{odd}.csv").write_bytes(FLOWERS.read_bytes())
    except OSError:
        pytest.skip("the file system wants names that are texts")
    with pytest.raises(TableError, match=r"Unicode.*Hint: "):
        fit_table(tmp_path / f"{odd}.csv", target="species")
    with pytest.raises(TableError, match=r"Unicode.*Hint: "):
        fit_table(FLOWERS, target="species", na=odd)
    with pytest.raises(TableError, match="--target"):
        fit_table(FLOWERS, target=odd)
    with pytest.raises(TableError, match="Unicode"):
        score(tmp_path / f"{odd}.csv", label="species", probabilities="petal_*")
    model = fit_table(FLOWERS, target="species", validation=QUICK)
    model.save(tmp_path / f"{odd}.json")
    assert TableModel.load(tmp_path / f"{odd}.json") == model


def test_the_report_has_no_control_codes_of_the_table(tmp_path):
    path = csv_of(tmp_path, ["x\x1b[31m,y", *(f"{i % 5},u\x1b[3{i % 2}m" for i in range(40))])
    model = fit_table(path, target="y")
    text = render_fit(model)
    assert "\x1b" not in text
    assert "x\\x1b[31m" in text


# ---- numbers at the edge -------------------------------------------------------------------------


def test_integers_that_floats_cannot_tell_apart_are_said_to_be_so(tmp_path):
    rows = [f"{2**60 + i},{i % 7},0.1234567,{'ab'[i % 2]}" for i in range(80)]
    model = fit_table(csv_of(tmp_path, ["big,x,same,y", *rows]), target="y", validation=QUICK)
    reasons = {dropped.column: dropped.reason for dropped in model.summary.dropped}
    assert reasons == {
        "big": "is 1.152921504606847e+18 in every row to the 16 digits of a float",
        "same": "is 0.1234567 in every row",
    }


def test_large_weights_of_large_numbers_do_not_overflow(tmp_path):
    random = np.random.default_rng(0)
    y = np.arange(60) % 2
    rows = [
        f"{float(a - 0.5) * 2e150!r},{1e90 * float(1 + b)!r},{b}"
        for a, b in zip(random.random(60), y, strict=True)
    ]
    path = csv_of(tmp_path, ["x,w,y", *rows])
    model = fit_table(path, target="y", weights="w", validation=QUICK)
    assert 1e149 < model.features[0].scale < 1e150
    assert np.isfinite(model.predict_proba(path)).all()
    assert json.loads(model.to_json())["features"][0]["scale"] == model.features[0].scale


def test_weights_too_far_apart_are_refused_by_column_and_row(tmp_path):
    rows = [f"{i},{1e-25 if i == 7 else 1},{i % 2}" for i in range(60)]
    path = csv_of(tmp_path, ["x,w,y", *rows])
    with pytest.raises(
        TableError, match=r"within a factor of 1e\+12 of the largest, 1: got '1e-25' in data row 8"
    ):
        fit_table(path, target="y", weights="w", validation=QUICK)


@pytest.mark.parametrize("odd", ["01", "-007", "1_000"])
def test_digits_that_may_be_codes_are_refused_with_the_flag_that_settles_it(odd, tmp_path, capsys):
    rows = [f"{[odd, '12', '30'][i % 3]},{i},{'ab'[i % 2]}" for i in range(60)]
    path = csv_of(tmp_path, ["zip,x,y", *rows])
    assert main(["fit", str(path), "--target", "y", "-o", str(tmp_path / "m.json")]) == 2
    said = capsys.readouterr().err
    assert f"column 'zip' of {str(path)!r} must hold numbers or categories: got {odd!r}" in said
    assert "--categorical 'zip' if they are codes" in said
    model = fit_table(path, target="y", categorical="zip", validation=QUICK)
    assert set(model.features[-1].categories) == {odd, "12", "30"}


def test_fractions_that_begin_with_a_zero_are_numbers(tmp_path):
    rows = [f"{['0.5', '0', '-0.25', '0e3'][i % 4]},{'ab'[i % 2]}" for i in range(60)]
    model = fit_table(csv_of(tmp_path, ["x,y", *rows]), target="y", validation=QUICK)
    assert model.features[0].kind == "numeric"


def test_labels_that_few_rows_share_are_no_matter_of_scikit_learns(tmp_path):
    rows = [f"{i},{i % 12}" for i in range(20)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_table(csv_of(tmp_path, ["x,y", *rows]), target="y", validation=QUICK)
