"""Predict-then-code: its length against an oracle, that it is a code at all, and real classifiers."""

from __future__ import annotations

import builtins
import itertools
import json
import math
import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import load_digits, load_iris
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from xent.coding.prequential import PrequentialBlock, prequential
from xent.errors import (
    DistributionError,
    InfiniteLossWarning,
    MissingExtraError,
    OptionError,
    ShapeError,
    TargetError,
    XentError,
)
from xent.models import SoftmaxRegression

DOUBLE = {"rel": 1e-12, "abs": 1e-12}


class Counting(ClassifierMixin, BaseEstimator):
    """Say (count + 1) / (rows + classes) of the classes seen, in an order of its own.

    Features of a row multiply nothing: only labels matter, so an oracle is three lines.
    """

    def __init__(self, order=None, smoothing=1.0):
        self.order = order
        self.smoothing = smoothing

    def fit(self, X, y):
        seen = sorted(set(y.tolist()), key=self.order)
        self.classes_ = np.array(seen)
        counts = np.array([np.sum(y == c) for c in seen]) + self.smoothing
        self.prior_ = counts / counts.sum()
        return self

    def predict_proba(self, X):
        return np.tile(self.prior_, (np.shape(X)[0], 1))


class Told(ClassifierMixin, BaseEstimator):
    """Say what the features say: they are the probabilities of the classes, in `columns`' order."""

    def __init__(self, columns=(0, 1), dtype=float):
        self.columns = columns
        self.dtype = dtype

    def fit(self, X, y):
        self.classes_ = np.array(self.columns)
        return self

    def predict_proba(self, X):
        return np.asarray(X, dtype=self.dtype)


def counted(y, ends, classes, mass, smoothing=1.0):
    """Return the bits of each block for `Counting`, by the definition, label by label."""
    bits = []
    for start, stop in itertools.pairwise([0, *ends]):
        before = y[:start]
        seen = set(before)
        bits.append(0.0)
        for label in y[start:stop]:
            if start == 0:
                q = 1 / len(classes)
            else:
                p = 0.0
                if label in seen:
                    p = (before.count(label) + smoothing) / (start + smoothing * len(seen))
                q = (1 - mass) * p + mass / len(classes)
            bits[-1] += math.inf if q == 0.0 else -math.log2(q)
    return bits


def rows(y):
    return np.zeros((len(y), 1))


# ---- exact values --------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [None, lambda c: -ord(c[0])], ids=["sorted", "permuted"])
@pytest.mark.parametrize("mass", [0.01, 0.3, 1.0])
def test_blocks_cost_what_the_definition_says(order, mass):
    y = list("aabacabbdacdbbae")
    names = {"a": "apple", "b": "bread", "c": "corn", "d": "dough", "e": "egg"}
    y = [names[c] for c in y]
    ends = [3, 4, 9, 16]
    code = prequential(Counting(order), rows(y), y, blocks=ends, uniform_mass=mass)
    assert [b.bits for b in code.blocks] == pytest.approx(
        counted(y, ends, names.values(), mass), **DOUBLE
    )
    assert [(b.start, b.stop) for b in code.blocks] == [(0, 3), (3, 4), (4, 9), (9, 16)]
    assert [b.fitted_rows for b in code.blocks] == [0, 3, 4, 9]
    assert [b.seen_classes for b in code.blocks] == [0, 2, 2, 4]
    assert code.classes == ("apple", "bread", "corn", "dough", "egg")
    assert code.rows == 16
    assert code.uniform_bits == pytest.approx(16 * math.log2(5), **DOUBLE)
    assert code.total_bits == pytest.approx(sum(b.bits for b in code.blocks), **DOUBLE)
    assert code.bits_per_label == pytest.approx(code.total_bits / 16, **DOUBLE)
    assert code.compression == pytest.approx(code.uniform_bits / code.total_bits, **DOUBLE)
    if mass == 1.0:
        assert code.compression == pytest.approx(1.0, **DOUBLE)


def test_columns_are_matched_by_label_and_not_by_place():
    told = [[0.9, 0.1]] * 4
    y = [0, 1, 0, 0]
    for columns, p in (((0, 1), 0.9), ((1, 0), 0.1)):
        code = prequential(Told(columns), told, y, blocks=[2], uniform_mass=0)
        assert code.total_bits == pytest.approx(2 - 2 * math.log2(p), **DOUBLE)


@pytest.mark.filterwarnings("ignore::xent.errors.InfiniteLossWarning")
@pytest.mark.parametrize("mass", [0.0, 0.05, 1.0])
@pytest.mark.parametrize(("classes", "n"), [(2, 6), (3, 5)])
def test_it_is_a_code_of_all_that_labels_can_be(classes, n, mass):
    # Kraft's sum over all sequences is 1. If a label were looked at before it is coded, or a row's
    # probabilities of seen and unseen classes did not sum to 1, it would be another.
    total = 0.0
    for y in itertools.product(range(classes), repeat=n):
        options = {"classes": range(classes), "blocks": [1, 2, 4], "uniform_mass": mass}
        total += 2.0 ** -prequential(Counting(), rows(y), list(y), **options).total_bits
    assert total == pytest.approx(1.0, rel=1e-12)


# ---- classes not seen, and probabilities of 0 ----------------------------------------------------


def test_a_class_not_seen_costs_what_the_uniform_mass_gives_it():
    y = ["a", "b", "a", "b", "c"]
    code = prequential(Counting(), rows(y), y, blocks=[4], classes=list("abcd"), uniform_mass=0.2)
    assert code.blocks[1].bits == pytest.approx(math.log2(4 / 0.2), **DOUBLE)
    assert code.blocks[1].seen_classes == 2
    assert code.classes == ("a", "b", "c", "d")


def test_one_class_seen_is_certain_but_for_the_uniform_mass_and_nothing_is_fitted():
    y = [7, 7, 7, 8, 7, 7]
    # LogisticRegression refuses one class; Counting accepts it, and would say the same.
    for estimator in (LogisticRegression(), Counting()):
        code = prequential(estimator, rows(y), y, blocks=[2, 4], uniform_mass=0.1)
        assert code.blocks[1] == PrequentialBlock(
            2, 4, pytest.approx(-math.log2(0.95) - math.log2(0.05), **DOUBLE), 0, 1
        )
        assert code.blocks[2].fitted_rows == 4


@pytest.mark.parametrize("y", [[0, 1, 0, 1], [0, 0, 1, 1]], ids=["fitted", "one class seen"])
def test_a_probability_of_0_costs_infinitely_much_without_uniform_mass_and_says_so(y):
    p = [[0.5, 0.5], [0.5, 0.5], [1.0, 0.0], [1.0, 0.0]]
    with pytest.warns(
        InfiniteLossWarning, match=r"in \d of 4 rows .* row [23] of y.* Hint: uniform"
    ):
        code = prequential(Told(), p, y, blocks=[2], uniform_mass=0)
    assert code.total_bits == code.bits_per_label == code.blocks[1].bits == math.inf
    assert code.compression == 0.0
    assert "inf bits" in str(code)
    told = json.loads(json.dumps(code.as_dict(), allow_nan=False))
    assert told["infinite"] is True
    assert told["total_bits"] is told["blocks"][1]["bits"] is None
    mended = prequential(Told(), p, y, blocks=[2], uniform_mass=0.01)
    assert mended.blocks[1].bits == pytest.approx(
        sum(-math.log2(0.005 if label else 0.995) for label in y[2:]), **DOUBLE
    )


def test_the_warning_names_the_row_of_the_caller():
    y = [0, 1] * 10
    p = np.full((20, 2), 0.5)
    p[13] = [1.0, 0.0]
    order = np.random.default_rng(1).permutation(20)
    assert 13 in order[10:]
    with pytest.warns(InfiniteLossWarning, match="in 1 of 20 rows .* row 13 of y"):
        prequential(Told(), p, y, blocks=[10], uniform_mass=0, shuffle=True, seed=1)


def test_certainty_costs_nothing():
    p = np.eye(2)[[0, 1, 0, 1, 1]]
    code = prequential(Told(), p, [0, 1, 0, 1, 1], blocks=[2], uniform_mass=0)
    assert math.copysign(1.0, code.blocks[1].bits) == 1.0
    assert code.total_bits == 2.0


def test_one_class_costs_nothing():
    code = prequential(LogisticRegression(), rows([3] * 40), [3] * 40, uniform_mass=0.37)
    assert (code.total_bits, code.uniform_bits, code.compression) == (0.0, 0.0, 1.0)
    assert len(code.blocks) == 3


def test_one_row_costs_its_uniform_bits():
    code = prequential(LogisticRegression(), [[0.0]], ["x"], classes=["x", "y", "z", "w"])
    assert (code.total_bits, code.rows, code.compression) == (2.0, 1, 1.0)


# ---- many rows -----------------------------------------------------------------------------------


def test_nothing_underflows_in_100_000_rows():
    n = 100_000
    rng = np.random.default_rng(1)
    p = rng.uniform(0.1, 0.9, n)
    y = rng.integers(0, 2, n)
    y[:2] = [1, 0]
    code = prequential(Told(), np.stack([1 - p, p], axis=1), y, blocks=[2], uniform_mass=0.02)
    q = 0.98 * np.where(y == 1, p, 1 - p)[2:] + 0.01
    assert np.prod(q) == 0.0  # what the length of a product would be computed from
    exact = 2 + math.fsum(-math.log2(v) for v in q)
    assert code.total_bits == pytest.approx(exact, rel=1e-13)
    assert 90_000 < exact < 120_000


# ---- blocks --------------------------------------------------------------------------------------


def ends_of(n, classes=2, **options):
    y = (np.arange(n) % classes).tolist()
    return [b.stop for b in prequential(Counting(), rows(y), y, **options).blocks]


def test_blocks_double_by_default():
    assert ends_of(18) == [18]
    assert ends_of(19) == [10, 19]
    assert ends_of(150, 3) == [10, 19, 38, 75, 150]
    assert ends_of(160, 8) == [20, 40, 80, 160]
    ends = ends_of(20_000)
    assert len(ends) == 11
    assert (ends[0], ends[1], ends[-2], ends[-1]) == (20, 40, 10_000, 20_000)


@pytest.mark.parametrize(
    ("blocks", "ends"),
    [
        ([5, 20], [5, 20, 50]),
        ([5, 50], [5, 50]),
        ([1], [1, 50]),
        ([1.0], [50]),
        ((0.1, 0.5, 1), [5, 25, 50]),
        (np.array([0.001, 0.002, 0.07]), [1, 4, 50]),
        (np.array([3, 4]), [3, 4, 50]),
        ((f for f in (0.5,)), [25, 50]),
    ],
)
def test_blocks_are_counts_or_fractions(blocks, ends):
    assert ends_of(50, blocks=blocks) == ends


@pytest.mark.parametrize(
    "blocks",
    [
        [],
        10,
        "12",
        [0],
        [-1, 5],
        [5, 5],
        [6, 5],
        [51],
        [0.5, 1.1],
        [0.0, 1.0],
        [math.nan],
        [True],
        None,
    ],
)
def test_other_blocks_are_refused(blocks):
    if blocks is None:
        blocks = [0.5, None]
    with pytest.raises(OptionError, match=r"blocks must.*got.*Hint: "):
        ends_of(50, blocks=blocks)


# ---- real classifiers ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return x[:400] / 16.0, y[:400]


def test_what_predicts_better_has_a_shorter_code(digits):
    x, y = digits
    short = prequential(SoftmaxRegression(), x, y, shuffle=True)
    few = prequential(SoftmaxRegression(), x[:, :20], y, shuffle=True)
    none = prequential(DummyClassifier(), x, y, shuffle=True)
    assert short.total_bits < 0.7 * few.total_bits < 0.5 * none.total_bits
    assert short.compression > 3.0
    # The same minimum by another solver is the same code.
    other = prequential(LogisticRegression(solver="newton-cg", tol=1e-8), x, y, shuffle=True)
    assert other.total_bits == pytest.approx(short.total_bits, rel=1e-4)
    # Labels get cheaper as more are seen.
    seen, bits = short.curve
    assert seen.tolist() == [b.start for b in short.blocks]
    assert bits[0] == pytest.approx(math.log2(10))
    assert (np.diff(bits) < 0).all()


def test_without_features_it_is_about_the_entropy():
    share = np.array([0.7, 0.2, 0.1])
    y = np.random.default_rng(2).choice(["u", "v", "w"], 20_000, p=share)
    code = prequential(DummyClassifier(), rows(y), y)
    entropy = float(-(share * np.log2(share)).sum())
    assert code.blocks[-1].bits_per_label == pytest.approx(entropy, rel=0.02)
    assert code.bits_per_label == pytest.approx(entropy, rel=0.02)


def test_random_labels_are_not_compressed():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2000, 100)), rng.integers(0, 10, 2000)
    eager = LogisticRegression(C=100.0, solver="newton-cg")
    learned = clone(eager).fit(x, y)
    own = -np.log2(learned.predict_proba(x)[np.arange(len(y)), y]).sum()
    code = prequential(eager, x, y)
    assert own < 0.95 * code.uniform_bits  # it knows labels that it was fitted to
    assert code.compression < 1.0
    modest = prequential(LogisticRegression(C=1e-4, solver="newton-cg"), x, y)
    assert 0.98 < modest.compression < 1.005


def test_the_order_matters_and_a_seed_gives_it_again():
    x, y = load_iris(return_X_y=True)
    sorted_, first, again, other = (
        prequential(LogisticRegression(solver="newton-cg"), x, y, **options)
        for options in (
            {},
            {"shuffle": True, "seed": 1},
            {"shuffle": True, "seed": np.int64(1)},
            {"shuffle": True, "seed": 2},
        )
    )
    assert first == again
    assert first.total_bits != other.total_bits
    assert sorted_.total_bits > 2 * first.total_bits
    order = np.random.default_rng(1).permutation(150)
    by_hand = prequential(LogisticRegression(solver="newton-cg"), x[order], y[order])
    assert by_hand == first


def test_neither_the_estimator_nor_the_features_are_changed():
    class Spoiling(Told):
        def fit(self, X, y):
            X *= 0.5
            return super().fit(X, y)

        def predict_proba(self, X):
            said = X.copy()
            X[:] = -1.0
            return said

    x = np.full((30, 2), 0.5)
    y = [0, 1] * 15
    estimator = Spoiling()
    prequential(estimator, x, y, blocks=[4, 8, 16])
    assert vars(estimator) == vars(Spoiling())
    assert (x == 0.5).all()
    fitted = DummyClassifier().fit(rows("aab"), list("aab"))
    prequential(fitted, rows(y), y)
    assert fitted.classes_.tolist() == ["a", "b"]


# ---- what features and labels may be -------------------------------------------------------------


def test_features_of_any_kind_give_the_same_code():
    x, y = load_iris(return_X_y=True)
    names = ["w", "x", "y", "z"]
    estimator = LogisticRegression(solver="newton-cg")
    expected = prequential(estimator, x, y, shuffle=True)
    frame = pd.DataFrame(x, columns=names, index=range(1000, 1150))
    for features in (x.tolist(), frame, pl.DataFrame(x, schema=names)):
        assert prequential(estimator, features, y, shuffle=True) == expected
    for kind in (scipy.sparse.csr_array, scipy.sparse.csc_matrix, scipy.sparse.coo_matrix):
        code = prequential(estimator, kind(x), y, shuffle=True)
        assert code.total_bits == pytest.approx(expected.total_bits, rel=1e-3)


def test_columns_of_a_frame_keep_their_names_and_rows_stay_with_their_labels():
    class Named(Told):
        def predict_proba(self, X):
            return X[["no", "yes"]].to_numpy()

    p = np.random.default_rng(0).uniform(size=30)
    y = (np.arange(30) % 2).astype(bool)
    frame = pd.DataFrame({"yes": p, "no": 1 - p}, index=np.arange(30)[::-1])
    code = prequential(Named((False, True)), frame, y, blocks=[10], uniform_mass=0)
    bits = -np.log2(np.where(y, p, 1 - p))[10:].sum()
    assert code.blocks[1].bits == pytest.approx(bits, **DOUBLE)


def test_texts_go_through_a_pipeline():
    texts = ["good fine", "bad awful", "fine good good", "awful"] * 20
    y = pd.Series(["+", "-", "+", "-"] * 20, index=range(5, 85))
    code = prequential(make_pipeline(CountVectorizer(), MultinomialNB()), texts, y)
    assert code.classes == ("+", "-")
    assert code.compression > 2.0


@pytest.mark.parametrize(
    "convert",
    [
        list,
        tuple,
        np.array,
        pd.Series,
        pl.Series,
        lambda y: np.array(y, dtype=object),
        lambda y: pd.Series(y).convert_dtypes(),
        lambda y: pd.Series(y, dtype="category"),
    ],
    ids=["list", "tuple", "array", "pandas", "polars", "object", "nullable", "categories"],
)
@pytest.mark.parametrize("names", [["a", "b", "c"], [4, 5, 6], [1.0, 2.0, 3.0]], ids=str)
def test_labels_of_any_kind_give_the_same_code(names, convert):
    x, y = load_iris(return_X_y=True)
    x, y = x[::5], y[::5]
    estimator = LogisticRegression(solver="newton-cg")
    expected = prequential(estimator, x, y, shuffle=True)
    code = prequential(estimator, x, convert([names[k] for k in y]), shuffle=True)
    assert code.blocks == expected.blocks
    assert code.classes == tuple(names)
    assert json.loads(json.dumps(code.as_dict()))["classes"] == names


def test_float32_probabilities_and_certainties_of_whole_numbers_are_fine():
    p = np.random.default_rng(0).uniform(size=40).astype(np.float32)
    both = np.stack([p, 1 - p], axis=1)
    y = [0, 1] * 20
    code = prequential(Told(dtype=np.float32), both, y, blocks=[20], uniform_mass=0)
    bits = -math.fsum(math.log2(both[i, y[i]]) for i in range(20, 40))
    assert code.blocks[1].bits == pytest.approx(bits, **DOUBLE)
    above = np.array([[1.0 + 1e-6, 0.0]])
    code = prequential(
        Told(), np.repeat(above, 4, axis=0), [0, 1, 0, 0], blocks=[2], uniform_mass=0
    )
    assert code.blocks[1].bits == 0.0  # rounded up is still no more than certain
    tree = prequential(Told(dtype=int), np.eye(2)[y], y, blocks=[20], uniform_mass=0.5)
    assert tree.blocks[1].bits == pytest.approx(-20 * math.log2(0.75), **DOUBLE)
    assert prequential(DecisionTreeClassifier(random_state=0), np.array([y]).T, y).compression > 1


# ---- how it is shown -----------------------------------------------------------------------------


def test_the_code_is_shown_as_a_table_and_as_json():
    y = list("aabacabbaa")
    code = prequential(Counting(), rows(y), y, blocks=[5], uniform_mass=0.25)
    lines = str(code).splitlines()
    assert lines[0].startswith(f"{code.total_bits:.1f} bits for 10 labels of 3 classes")
    assert f"compression {code.compression:.3f}, uniform mass 0.25" in lines[1]
    assert lines[2].split("  ")[-1].strip() == "bits a label"
    assert [line.split()[0] for line in lines[3:]] == ["0–5", "5–10"]
    assert len({len(line) for line in lines[2:]}) == 1
    told = json.loads(json.dumps(code.as_dict(), allow_nan=False))
    assert told["classes"] == ["a", "b", "c"]
    assert told["total_bits"] == code.total_bits
    assert told["compression"] == code.compression
    assert told["infinite"] is False
    assert told["blocks"][1] == {
        "start": 5,
        "stop": 10,
        "bits": code.blocks[1].bits,
        "bits_per_label": code.blocks[1].bits / 5,
        "fitted_rows": 5,
        "seen_classes": 3,
    }
    with pytest.raises(AttributeError):
        code.uniform_mass = 0.5


# ---- refusals ------------------------------------------------------------------------------------

Y = ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    ("error", "said", "change"),
    [
        (OptionError, "the class Counting", {"estimator": Counting}),
        (OptionError, "LinearSVC without predict_proba", {"estimator": LinearSVC()}),
        (OptionError, "object without fit and predict_proba and get", {"estimator": object()}),
        (OptionError, "uniform_mass must be .*got 1.5", {"uniform_mass": 1.5}),
        (OptionError, "uniform_mass must be .*got -0.1", {"uniform_mass": -0.1}),
        (OptionError, "uniform_mass must be .*got nan", {"uniform_mass": math.nan}),
        (OptionError, "uniform_mass must be .*got True", {"uniform_mass": True}),
        (OptionError, "uniform_mass must be .*got 'x'", {"uniform_mass": "x"}),
        (OptionError, "seed must be .*got -1", {"seed": -1, "shuffle": True}),
        (OptionError, "seed must be .*got None", {"seed": None, "shuffle": True}),
        (OptionError, "classes must differ: got 3, of which 2", {"classes": ["a", "b", "a"]}),
        (TargetError, "among the 2 classes: got 'b' in y at row 1", {"classes": ["a", "c"]}),
        (TargetError, "among the 2 classes: got 'a' in y at row 0", {"classes": [0, 1]}),
        (TargetError, "got None in y at row 2", {"y": ["a", "b", None, "b"]}),
        (TargetError, "got nan in y at row 2", {"y": ["a", "b", math.nan, "b"]}),
        (TargetError, "got nan in y at row 3", {"y": [0.0, 1.0, 1.0, math.nan]}),
        (TargetError, "got nan in y at row 1", {"y": pd.array([0, None, 1, 1])}),
        (TargetError, "got <NA> in y at row 1", {"y": ["a", pd.NA, "b", "b"]}),
        (TargetError, "got 1 in y at row 1", {"y": ["a", 1, "a", "b"]}),
        (ShapeError, r"got shape \(4, 1\)", {"y": [[0], [1], [0], [1]]}),
        (ShapeError, r"got shape \(\)", {"y": "abab"}),
        (ShapeError, "got none", {"y": [], "X": rows([])}),
        (ShapeError, "got 3 in X and 4 in y", {"X": rows("aaa")}),
        (ShapeError, "got 3 in X and 4 in y", {"X": scipy.sparse.csr_array(rows("aaa"))}),
        (ShapeError, "X must have rows: got NoneType", {"X": None}),
        (ShapeError, "X must have rows: got LazyFrame", {"X": pl.DataFrame(rows(Y)).lazy()}),
    ],
)
def test_what_does_not_fit_is_refused(error, said, change):
    call = {"estimator": Counting(), "X": rows(Y), "y": Y, "blocks": [2]} | change
    with pytest.raises(error, match=rf"{said}.*Hint: ") as caught:
        prequential(**call)
    assert isinstance(caught.value, XentError)


class Saying(ClassifierMixin, BaseEstimator):
    """Say whatever it is told."""

    def __init__(self, said=None, classes=("a", "b")):
        self.said = said
        self.classes = classes

    def fit(self, X, y):
        if self.classes is not None:
            self.classes_ = np.array(self.classes)
        return self

    def predict_proba(self, X):
        return self.said


@pytest.mark.parametrize(
    ("error", "said", "options"),
    [
        (
            DistributionError,
            "nan for symbol 1 in row 3 of X",
            {"said": [[0.5, 0.5], [0.5, math.nan]]},
        ),
        (DistributionError, "-0.5 for symbol 0 in row 2", {"said": [[-0.5, 1.5], [0.5, 0.5]]}),
        (DistributionError, "inf for symbol 0 in row 2", {"said": [[math.inf, 0.0], [0.5, 0.5]]}),
        (DistributionError, "sum to 1 .*got 0.9 in row 3 of X", {"said": [[0.5, 0.5], [0.5, 0.4]]}),
        (DistributionError, "must give numbers", {"said": [["x", "y"], ["x", "y"]]}),
        (ShapeError, r"\(2, 2\): got shape \(2,\)", {"said": [0.5, 0.5]}),
        (ShapeError, r"\(2, 2\): got shape \(2, 1\)", {"said": [[1.0], [1.0]]}),
        (ShapeError, r"\(2, 2\): got shape \(1, 2\)", {"said": [[0.5, 0.5]]}),
        (ShapeError, r"got shape \(1, 2, 2\)", {"said": [[[0.5, 0.5], [0.5, 0.5]]]}),
        (TargetError, "got 'z'", {"said": [[0.5, 0.5]] * 2, "classes": ("a", "z")}),
        (TargetError, "must differ", {"said": [[0.5, 0.5]] * 2, "classes": ("a", "a")}),
        (OptionError, "must have classes_", {"said": [[0.5, 0.5]] * 2, "classes": None}),
    ],
)
def test_what_is_no_prediction_is_refused(error, said, options):
    with pytest.raises(error, match=rf"{said}.*Hint: "):
        prequential(Saying(**options), rows(Y), Y, blocks=[2])


def test_a_failing_fit_tells_how_many_rows_it_had():
    with pytest.raises(ValueError, match="NaN") as caught:
        prequential(LogisticRegression(), [[0.0], [1.0], [math.nan], [0.0]], Y, blocks=[3])
    assert re.search("first 3 of 4 rows. Hint: blocks", caught.value.__notes__[0])


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ModuleNotFoundError(name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(MissingExtraError, match=r"scikit-learn.*xent\[models\]"):
        prequential(Counting(), rows(Y), Y)


def test_labels_that_fall_together_in_one_dtype_are_refused():
    y = [0.5, 2**53, 2**53 + 1, 1] * 12
    with pytest.raises(TargetError, match=r"9007199254740992 and 9007199254740993"):
        prequential(DummyClassifier(), np.zeros((len(y), 1)), y)
