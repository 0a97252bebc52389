"""`log_loss` on lists, arrays and frames."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xent.errors import (
    DistributionError,
    InfiniteLossWarning,
    OptionError,
    ShapeError,
    TargetError,
)
from xent.scoring import log_loss

FRAMES = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "pyarrow": pa.table,
}


def make(rows: int = 400, classes: int = 4, seed: int = 0):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), size=rows)
    return rng.integers(0, classes, size=rows), p


# ---- the number ----------------------------------------------------------------------------------


def test_it_agrees_with_scikit_learn_where_that_is_right():
    from sklearn.metrics import log_loss as theirs

    y, p = make()
    w = np.random.default_rng(2).exponential(size=y.size)
    assert log_loss(y, p) == pytest.approx(theirs(y, p), rel=1e-13)
    assert log_loss(y, p, sample_weight=w) == pytest.approx(
        theirs(y, p, sample_weight=w), rel=1e-13
    )
    assert log_loss(y, p, normalize=False) == pytest.approx(
        theirs(y, p, normalize=False), rel=1e-13
    )
    few = y[y < 3], p[y < 3]
    assert log_loss(*few, labels=[0, 1, 2, 3]) == pytest.approx(
        theirs(*few, labels=[0, 1, 2, 3]), rel=1e-13
    )
    assert log_loss(y % 2, p[:, 0]) == pytest.approx(theirs(y % 2, p[:, 0]), rel=1e-13)


def test_units_only_change_the_base():
    y, p = make()
    nats = log_loss(y, p)
    assert log_loss(y, p, unit="bits") == pytest.approx(nats / math.log(2), rel=1e-15)
    assert log_loss(y, p, unit="bans") == pytest.approx(nats / math.log(10), rel=1e-15)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, object])
def test_the_same_numbers_score_the_same_in_every_dtype(dtype):
    # Eighths are exact in float16; a zero is where scikit-learn's answer follows the dtype.
    p = np.array([[0.125, 0.875], [0.5, 0.5], [0.0, 1.0], [0.25, 0.75]])
    y = [0, 1, 1, 0]
    want = -(math.log(0.125) + math.log(0.5) + math.log(0.25)) / 4
    assert log_loss(y, p.astype(dtype)) == pytest.approx(want, rel=1e-15)
    with pytest.warns(InfiniteLossWarning):
        assert log_loss([0, 1, 0, 0], p.astype(dtype)) == math.inf


def test_a_float32_copy_changes_the_score_by_its_rounding_only():
    y, p = make(2000)
    assert log_loss(y, p.astype(np.float32)) == pytest.approx(log_loss(y, p), rel=1e-6)


def test_a_float16_softmax_is_accepted_although_its_rows_miss_one():
    p = np.random.default_rng(3).dirichlet(np.ones(3), size=50).astype(np.float16)
    assert np.abs(p.astype(float).sum(axis=1) - 1).max() > 1e-5
    y = np.arange(50) % 3
    assert log_loss(y, p) == pytest.approx(
        float(np.mean(-np.log(p.astype(float)[np.arange(50), y]))), rel=1e-13
    )
    with pytest.raises(DistributionError):
        log_loss(y, p.astype(np.float64))


def test_tensors_of_other_libraries_score_like_numpy():
    import torch

    y, p = make()
    want = log_loss(y, p)
    tensor = torch.tensor(p, requires_grad=True)
    assert log_loss(torch.tensor(y), tensor) == want
    half = torch.tensor(p).to(torch.bfloat16)
    assert log_loss(y, half) == pytest.approx(
        float(np.mean(-np.log(half.double().numpy()[np.arange(y.size), y]))), rel=1e-13
    )


def test_brain_floats_of_numpy_have_the_tolerance_of_their_own_precision():
    import ml_dtypes

    y, p = make(50, 3)
    half = p.astype(ml_dtypes.bfloat16)
    exact = half.astype(np.float64)[np.arange(50), y]
    assert log_loss(y, half) == pytest.approx(float(np.mean(-np.log(exact))), rel=1e-13)


def test_a_certainty_that_rounded_above_one_costs_nothing():
    assert log_loss([0, 0], [[1.0 + 1e-7, 0.0], [1.0, 0.0]], labels=[0, 1]) == 0.0


def test_a_perfect_score_is_plus_zero():
    assert math.copysign(1.0, log_loss([0, 1], [[1.0, 0.0], [0.0, 1.0]])) == 1.0


# ---- labels and columns --------------------------------------------------------------------------


def test_the_order_of_labels_is_the_order_of_the_columns():
    p = [[0.9, 0.1], [0.1, 0.9]]
    assert log_loss(["b", "a"], p, labels=["b", "a"]) == pytest.approx(-math.log(0.9))
    assert log_loss(["b", "a"], p, labels=["a", "b"]) == pytest.approx(-math.log(0.1))
    assert log_loss(["b", "a"], p) == pytest.approx(-math.log(0.1))


@pytest.mark.parametrize("library", FRAMES)
@pytest.mark.parametrize("prefix", ["", "p_", "prob_", "proba_", "probability_", "model 7: "])
def test_a_frames_columns_are_matched_by_name_in_any_order(library, prefix):
    frame = FRAMES[library](
        {f"{prefix}fox": [0.7, 0.1], f"{prefix}cat": [0.2, 0.6], f"{prefix}dog": [0.1, 0.3]}
    )
    want = -(math.log(0.7) + math.log(0.3)) / 2
    assert log_loss(["fox", "dog"], frame, labels=["cat", "dog", "fox"]) == pytest.approx(want)
    assert log_loss(["fox", "dog"], frame, labels=["fox", "dog", "cat"]) == pytest.approx(want)


@pytest.mark.parametrize("library", FRAMES)
def test_labels_may_be_a_column_of_the_same_library(library):
    frame = FRAMES[library]({"y": ["b", "a"], "b": [0.9, 0.1], "a": [0.1, 0.9]})
    probabilities = frame.select(["b", "a"]) if library != "pandas" else frame[["b", "a"]]
    assert log_loss(frame["y"], probabilities) == pytest.approx(-math.log(0.9))


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([0, 1], ["p_1", "p_0"]),
        ([0, 1], ["1", "0"]),
        ([False, True], ["True", "False"]),
        ([False, True], ["p_true", "p_false"]),
        ([False, True], ["p_1", "p_0"]),
        ([0.0, 1.0], ["p_1", "p_0"]),
        (["0", "1"], ["1", "0"]),
    ],
)
def test_numbers_and_booleans_are_matched_to_names_as_text(labels, names):
    frame = pd.DataFrame({names[0]: [0.9, 0.9], names[1]: [0.1, 0.1]})
    assert log_loss([labels[1], labels[1]], frame, labels=labels) == pytest.approx(-math.log(0.9))


def test_a_class_that_no_row_has_changes_nothing():
    y, p = make(classes=3)
    wider = np.column_stack([p, np.zeros(len(p))])
    assert log_loss(y, wider, labels=[0, 1, 2, 3]) == log_loss(y, p)
    frame = pd.DataFrame(wider, columns=[f"p_{k}" for k in range(4)])
    assert log_loss(y, frame) == log_loss(y, p)


@given(st.permutations(range(4)))
def test_permuting_columns_with_their_labels_changes_nothing(order):
    y, p = make(50)
    assert log_loss(y, p[:, order], labels=order) == log_loss(y, p)


def test_all_rows_may_be_of_one_class_when_labels_are_named():
    assert log_loss(["a", "a"], [[0.5, 0.5]] * 2, labels=["a", "b"]) == pytest.approx(math.log(2))
    assert log_loss([True], [0.25]) == pytest.approx(math.log(4))
    with pytest.raises(ShapeError, match=r"1 for the labels of y_true \['a'\].*labels="):
        log_loss(["a", "a"], [[0.5, 0.5]] * 2)


def test_frames_are_not_imported_and_not_needed():
    code = (
        "import sys; from xent.scoring import log_loss; log_loss([0, 1], [0.2, 0.7]);"
        "heavy = {'pandas', 'polars', 'pyarrow', 'duckdb', 'sklearn', 'torch', 'rich', 'typer'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- two classes ---------------------------------------------------------------------------------


def test_a_vector_is_the_probability_of_the_second_label():
    assert log_loss(["no", "yes"], [0.25, 0.5]) == pytest.approx(
        -(math.log(0.75) + math.log(0.5)) / 2
    )
    assert log_loss(["no", "yes"], [0.25, 0.5], labels=["yes", "no"]) == pytest.approx(
        -(math.log(0.25) + math.log(0.5)) / 2
    )


def test_one_minus_p_keeps_its_digits():
    assert log_loss([0, 1], [1e-17, 1.0], normalize=False) == pytest.approx(1e-17, rel=1e-15, abs=0)
    assert log_loss([0, 1], [1e-300, 1.0], normalize=False) == pytest.approx(
        1e-300, rel=1e-15, abs=0
    )


def test_a_vector_with_three_labels_is_refused():
    with pytest.raises(ShapeError, match="vector"):
        log_loss([0, 1, 2], [0.1, 0.2, 0.3])


# ---- zeros and floors ----------------------------------------------------------------------------


def test_an_impossible_truth_costs_infinity_and_is_counted():
    with pytest.warns(InfiniteLossWarning, match=r"0 in 2 of 4 rows \(the first is row 1,"):
        assert log_loss([0, 0, 1, 0], [[1, 0], [0, 1], [0, 1], [0, 1]]) == math.inf


def test_one_impossible_row_in_a_million_is_enough():
    y = np.zeros(1_000_000, dtype=int)
    y[-1] = 1
    with pytest.warns(InfiniteLossWarning, match="row 999999"):
        assert log_loss(y, np.zeros(1_000_000)) == math.inf


def test_an_impossible_row_of_weight_zero_counts_for_nothing():
    loss = log_loss([0, 0], [[0.5, 0.5], [0.0, 1.0]], labels=[0, 1], sample_weight=[2.0, 0.0])
    assert loss == pytest.approx(math.log(2))


def test_a_floor_is_used_only_where_it_is_named():
    p = [[1.0, 0.0], [0.0, 1.0], [1e-9, 1 - 1e-9]]
    got = log_loss([0, 0, 0], p, labels=[0, 1], floor=1e-6)
    assert got == pytest.approx(-2 * math.log(1e-6) / 3)
    assert log_loss([1, 1, 1], [1.0, 0.0, 1e-9], labels=[0, 1], floor=1e-6) == pytest.approx(got)
    assert log_loss([0, 0, 0], [0.0, 1.0, 1 - 1e-9], labels=[0, 1], floor=1e-6) == pytest.approx(
        got, rel=1e-6
    )
    soft = log_loss([[0.5, 0.5]], [[0.0, 1.0]], floor=1e-6)
    assert soft == pytest.approx(-0.5 * math.log(1e-6))


@pytest.mark.parametrize("floor", [0.0, 1.0, -1e-6, math.nan, 2])
def test_a_floor_outside_its_domain_is_refused(floor):
    with pytest.raises(OptionError, match="0 < floor < 1"):
        log_loss([0, 1], [0.5, 0.5], floor=floor)


# ---- soft labels ---------------------------------------------------------------------------------


def test_one_hot_soft_labels_equal_hard_ones():
    y, p = make()
    assert log_loss(np.eye(4)[y], p) == pytest.approx(log_loss(y, p), rel=1e-15)


def test_soft_labels_score_the_cross_entropy():
    t = [[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]
    q = [[0.25, 0.75, 0.0], [0.2, 0.3, 0.5]]
    want = -(
        0.5 * math.log(0.25) + 0.5 * math.log(0.75)
        + 0.25 * math.log(0.2) + 0.25 * math.log(0.3) + 0.5 * math.log(0.5)
    ) / 2  # fmt: skip
    assert log_loss(t, q) == pytest.approx(want, rel=1e-14)


def test_soft_labels_of_a_frame_are_matched_by_name():
    t = pd.DataFrame({"a": [1.0, 0.25], "b": [0.0, 0.75]})
    q = pl.DataFrame({"p_b": [0.1, 0.6], "p_a": [0.9, 0.4]})
    want = -(math.log(0.9) + 0.25 * math.log(0.4) + 0.75 * math.log(0.6)) / 2
    assert log_loss(t, q) == pytest.approx(want, rel=1e-14)
    assert log_loss(t.to_numpy(), q, labels=["a", "b"]) == pytest.approx(want, rel=1e-14)


def test_soft_labels_that_are_no_distribution_are_refused():
    with pytest.raises(DistributionError, match=r"rows of y_true must sum to 1.*got 2 at row 0"):
        log_loss([[1.0, 1.0]], [[0.5, 0.5]])
    with pytest.raises(ShapeError, match="shape of y_proba"):
        log_loss([[1.0, 0.0]], [[0.5, 0.25, 0.25]])


# ---- bad input -----------------------------------------------------------------------------------

HALF = [[0.5, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("y", "p", "options", "error", "words"),
    [
        ([0, 1], [[0.5, 0.5], [0.5, -0.5]], {}, DistributionError, r"-0\.5 at row 1, column 1"),
        ([0, 1], [[0.5, 0.5], [math.nan, 1]], {}, DistributionError, r"nan at row 1, column 0"),
        ([0, 1], [[0.5, 0.5], [math.inf, 0]], {}, DistributionError, r"inf at row 1, column 0"),
        ([0, 1], [0.5, 1.5], {}, DistributionError, r"1\.5 at row 1\. Hint"),
        ([0, 1], [[0.3, 0.3], HALF[0]], {}, DistributionError, r"got 0\.6 at row 0 \(1 such"),
        ([0, 1], [["a", "b"], ["c", "d"]], {}, DistributionError, "real numbers"),
        ([0, 1], [[0.5, None], [0.5, 0.5]], {}, DistributionError, r"\[0, 1\]|numbers"),
        ([0, 2], HALF, {"labels": [0, 1]}, TargetError, "got 2 at row 1"),
        (["1", "0"], HALF, {"labels": [0, 1]}, TargetError, "'1' is str and 1 is int"),
        (["a", None], HALF, {}, TargetError, "None at row 1"),
        ([0.0, math.nan], HALF, {}, TargetError, "nan at row 1"),
        (["a", math.nan], HALF, {}, TargetError, "nan at row 1"),
        ([pd.NA, "a"], HALF, {}, TargetError, "NA> at row 0"),
        ([1, "1"], HALF, {}, TargetError, "int and str"),
        ([0, 1, 0], HALF, {}, ShapeError, "got 3 and 2"),
        ([], np.empty((0, 2)), {}, ShapeError, "at least one row"),
        ([], [], {}, ShapeError, "at least one row"),
        ([[0], [1]], HALF, {}, ShapeError, "ravel"),
        ([[0], [1]], [0.5, 0.5], {}, ShapeError, "ravel"),
        ([0, 1], [[0.5], [0.5]], {}, ShapeError, "vector"),
        ([0, 1], np.zeros((2, 2, 2)), {}, ShapeError, r"\(2, 2, 2\)"),
        ([0, 1, 2], [[0.5, 0.5]] * 3, {}, ShapeError, "got 2 columns"),
        ([0, 1], HALF, {"labels": [0, 1, 2]}, ShapeError, "3 for labels"),
        ([0, 1], HALF, {"labels": [0, 0]}, OptionError, "different labels"),
        ([0, 1], HALF, {"labels": [0]}, OptionError, "different labels"),
        ([0, 1], HALF, {"sample_weight": [1, -1]}, OptionError, "-1.0 at row 1"),
        ([0, 1], HALF, {"sample_weight": [0, 0]}, OptionError, "positive total"),
        ([0, 1], HALF, {"sample_weight": [1]}, ShapeError, "one weight per row"),
        ([0, 1], HALF, {"sample_weight": [1, math.inf]}, OptionError, "inf at row 1"),
        ([0, 1], HALF, {"unit": "shannons"}, OptionError, "bits"),
    ],
)
def test_bad_input_is_named_with_its_place_and_a_way_out(y, p, options, error, words):
    with pytest.raises(error, match=words) as caught:
        log_loss(y, p, **options)
    assert "Hint: " in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "labels", "words"),
    [
        (["x", "y"], ["a", "b"], "named after each label"),
        (["a", "y"], ["a", "b"], "named after each label"),
        (["p_a", "q_b"], ["a", "b"], "named after each label"),
        (["p_a", "p_b", "p_c"], ["a", "b"], "no others: got.*'p_c'"),
        (["p_a", "p_b", "q_a", "q_b"], ["a", "b"], "several sets"),
        (["a", "b", "q_a", "q_b"], ["a", "b"], "several sets"),
        ([0, 1], ["a", "b"], "to_numpy"),
        (["a", "a"], ["a", "b"], "more than once"),
        (["1", 1], [1, 2], "more than once"),
    ],
)
def test_frames_whose_names_do_not_settle_the_columns_are_refused(columns, labels, words):
    k = len(columns)
    frame = pd.DataFrame(np.full((2, k), 1 / k), columns=columns)
    with pytest.raises(ShapeError, match=words) as caught:
        log_loss(labels, frame, labels=labels)
    assert "Hint: " in str(caught.value)


def test_an_extra_column_is_never_taken_for_a_class():
    frame = pd.DataFrame({"p_a": [0.5, 0.5], "p_b": [0.5, 0.5], "id": [0.0, 0.0]})
    with pytest.raises(ShapeError, match="'id'"):
        log_loss(["a", "b"], frame)


def test_nulls_of_a_frame_are_refused():
    frame = pl.DataFrame({"a": [0.5, None], "b": [0.5, 0.5]})
    with pytest.raises(DistributionError, match="nan at row 1"):
        log_loss(["a", "b"], frame)
    with pytest.raises(TargetError, match="at row 1"):
        log_loss(pl.Series(["a", None]), HALF, labels=["a", "b"])


def test_a_lazy_frame_says_collect():
    frame = pl.DataFrame({"a": [0.5], "b": [0.5]}).lazy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(OptionError, match="collect"):
            log_loss(["a"], frame)


def test_inputs_are_left_as_they_were():
    y, p = make(20)
    w = np.ones(20)
    for array in (y, p, w):
        array.flags.writeable = False
    log_loss(y, p, sample_weight=w, floor=0.5)


# ---- what looked like predictions and was none ---------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        {"cat", "dog"},
        frozenset({"cat", "dog"}),
        {"cat": 0, "dog": 1},
        {"cat": 0, "dog": 1}.keys(),
        "cd",
        2,
        [["cat"], ["dog"]],
    ],
)
def test_labels_without_an_order_are_refused(labels):
    with pytest.raises(OptionError, match=r"labels must.*Hint: "):
        log_loss(["cat", "dog"], [[0.5, 0.5], [0.25, 0.75]], labels=labels)


def test_masked_entries_are_refused():
    y, p, w = [0, 1], np.array([[0.5, 0.5], [0.25, 0.75]]), [1.0, 1.0]
    mask = [False, True]
    with pytest.raises(TargetError, match=r"y_true.*1 masked.*Hint: "):
        log_loss(np.ma.array(y, mask=mask), p)
    with pytest.raises(DistributionError, match=r"y_proba.*1 masked.*Hint: "):
        log_loss(y, np.ma.array(p, mask=[[False, False], [True, False]]))
    with pytest.raises(OptionError, match=r"sample_weight.*masked.*Hint: "):
        log_loss(y, p, sample_weight=np.ma.array(w, mask=mask))
    whole = log_loss(np.ma.array(y), np.ma.array(p), sample_weight=np.ma.array(w))
    assert whole == log_loss(y, p)


def test_columns_are_not_found_in_the_middle_of_names():
    numbers = pd.DataFrame([[0.5, 0.25] + [0.025] * 10] * 2, columns=range(12))
    assert log_loss([0, 1], numbers) == pytest.approx(-(math.log(0.5) + math.log(0.25)) / 2)
    sexes = pd.DataFrame({"female": [0.75, 0.5], "male": [0.25, 0.5]})
    assert log_loss(["male", "male"], sexes) == pytest.approx(-(math.log(0.25) + math.log(0.5)) / 2)
    with pytest.raises(ShapeError, match="named after each label"):
        log_loss([1, 2], pd.DataFrame({"p_11": [0.5, 0.5], "p_12": [0.5, 0.5]}))


@pytest.mark.parametrize("floor", ["1e-3", math.nan, True, [1e-3]])
def test_a_floor_of_a_wrong_type_is_refused(floor):
    with pytest.raises(OptionError, match=r"floor must be.*Hint: "):
        log_loss([0, 1], [0.5, 0.5], floor=floor)


def test_ragged_rows_are_refused():
    with pytest.raises(ShapeError, match=r"y_proba.*different lengths.*Hint: "):
        log_loss([0, 1], [[0.5, 0.5], [1.0]])
    with pytest.raises(ShapeError, match=r"y_true.*Hint: "):
        log_loss([[0], [0, 1]], [[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(OptionError, match=r"sample_weight.*Hint: "):
        log_loss([0, 1], [0.5, 0.5], sample_weight=[[1], [1, 2]])


def test_labels_that_are_containers_are_refused():
    with pytest.raises(TargetError, match=r"y_true.*\{\} at row 0.*Hint: "):
        log_loss([{}, {}], [[0.5, 0.5], [0.5, 0.5]])


def test_a_score_without_finite_rows_does_not_speak_of_nan():
    with pytest.warns(InfiniteLossWarning, match="no row is finite") as caught:
        assert log_loss([0, 1], [[0, 1], [1, 0]]) == math.inf
    assert "nan" not in str(caught[0].message)


def test_rows_of_weight_zero_are_judged_too():
    with pytest.raises(DistributionError, match="row 1"):
        log_loss([0, 1], [[0.5, 0.5], [0.3, 0.3]], sample_weight=[1, 0])
