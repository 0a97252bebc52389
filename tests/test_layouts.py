"""Labels in another table, a row for each class, several truths in a row: the same scores."""

import csv
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from xent.errors import OptionError, TableError
from xent.scoring import compare, score
from xent.scoring.sources import open_tables

NAMES = ["cat", "dog", "fox"]


def rows(n=60, seed=0):
    """Return predictions in a wide table."""
    random = np.random.default_rng(seed)
    p = random.dirichlet([2.0, 1.0, 0.5], size=n)
    y = [NAMES[k] for k in random.integers(0, 3, n)]
    wide = {"id": [f"r{i}" for i in range(n)], "label": y}
    wide |= {"country": [["at", "be"][i % 2] for i in range(n)]}
    return wide | {f"p_{name}": p[:, k] for k, name in enumerate(NAMES)}


def written(path, columns):
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(columns)
        out.writerows(zip(*columns.values(), strict=True))
    return str(path)


def long_rows(wide, seed=1):
    """Return the same with a row for each class, in any order."""
    n = len(wide["id"])
    found = [
        (wide["id"][i], wide["label"][i], wide["country"][i], name, wide[f"p_{name}"][i])
        for i in range(n)
        for name in NAMES
    ]
    order = np.random.default_rng(seed).permutation(len(found))
    shuffled = [found[i] for i in order]
    names = ["id", "label", "country", "class name", "probability"]
    return dict(zip(names, map(list, zip(*shuffled, strict=True)), strict=True))


def same(one, other):
    assert other.log_loss == pytest.approx(one.log_loss, rel=1e-14)
    assert other.n == one.n
    assert other.brier_score == pytest.approx(one.brier_score, rel=1e-12)
    assert other.accuracy == pytest.approx(one.accuracy)
    assert set(other.names) == set(one.names)
    assert {w.name: w.p_truth for w in other.worst} == pytest.approx(
        {w.name: w.p_truth for w in one.worst}
    )
    for name in NAMES:
        (a,) = (c for c in one.classes if c.label == name)
        (b,) = (c for c in other.classes if c.label == name)
        assert b.summary.log_loss == pytest.approx(a.summary.log_loss, rel=1e-14)
        assert b.accuracy == pytest.approx(a.accuracy)


# ---- labels in another table --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["frames", "csv"])
def test_labels_of_another_table_find_their_rows(tmp_path, kind):
    wide = rows()
    whole = score(wide, by=["country"])
    turned = {name: wide[name][::-1] for name in ("id", "label", "country")}
    bare = {k: v for k, v in wide.items() if k not in ("label", "country")}
    if kind == "csv":
        turned = written(tmp_path / "labels.csv", turned)
        bare = written(tmp_path / "bare.csv", bare)
    found = score(bare, labels=turned, key="id", by=["country"])
    same(whole, found)
    assert [s.value for s in found.slices] == [s.value for s in whole.slices]
    assert "paired by column 'id'" in found.reading[0]


def test_the_labels_table_decides_about_the_label():
    wide = rows()
    wrong = wide | {"label": ["cat"] * len(wide["id"])}
    labels = {"id": wide["id"], "label": wide["label"]}
    same(score(wide), score(wrong, labels=labels, key="id"))


def test_a_label_without_a_prediction_is_refused_or_counted():
    wide = rows(10)
    labels = {"id": [*wide["id"], "r98", "r99"], "label": [*wide["label"], "cat", "dog"]}
    bare = {k: v for k, v in wide.items() if k != "label"}
    with pytest.raises(
        TableError, match=r"got 2 rows of 'dict 2' whose 'id' .*'r98', 'r99'\. Hint"
    ):
        score(bare, labels=labels, key="id")
    found = score(bare, labels=labels, key="id", allow_missing=True)
    assert found.left_out == {"unpredicted": 2}
    assert found.log_loss == pytest.approx(score(wide).log_loss)


def test_a_prediction_without_a_label_is_refused_or_left_out():
    wide = rows(10)
    labels = {"id": wide["id"][:8], "label": wide["label"][:8]}
    bare = {k: v for k, v in wide.items() if k != "label"}
    with pytest.raises(TableError, match="got 2 rows without one; the first is data row 9"):
        score(bare, labels=labels, key="id")
    found = score(bare, labels=labels, key="id", allow_missing=True)
    assert found.left_out == {"label": 2}
    assert found.n == 8


@pytest.mark.parametrize("side", ["labels", "predictions"])
@pytest.mark.parametrize(("value", "said"), [("r0", "'r0' 2 times"), (None, "1 rows without one")])
def test_keys_must_tell_rows_apart(side, value, said):
    wide = rows(5)
    labels = {"id": list(wide["id"]), "label": wide["label"]}
    bare = {k: list(v) for k, v in wide.items() if k != "label"}
    (labels if side == "labels" else bare)["id"][3] = value
    with pytest.raises(TableError, match=f"must tell every row apart: got {said}"):
        score(bare, labels=labels, key="id")


def test_labels_and_key_go_together():
    with pytest.raises(OptionError, match="--labels must go with --key"):
        score(rows(5), labels=rows(5))
    with pytest.raises(OptionError, match="--key must go with --labels"):
        score(rows(5), key="id")
    with pytest.raises(TableError, match="--key must name a column"):
        score(rows(5), labels=rows(5), key="number")


# ---- a row for each class -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["frames", "csv"])
def test_long_rows_are_the_predictions_that_they_make_up(tmp_path, kind):
    wide = rows()
    whole = score(wide, by=["country"])
    long = long_rows(wide)
    if kind == "csv":
        long = written(tmp_path / "long.csv", long)
    found = score(long, long="class name", id="id", by=["country"])
    same(whole, found)
    assert [s.value for s in found.slices] == [s.value for s in whole.slices]
    assert "the rows of one 'id'" in found.reading[0]


def test_long_rows_of_logits_with_weights_and_labels_elsewhere():
    wide = rows()
    n = len(wide["id"])
    weights = np.random.default_rng(5).exponential(size=n)
    whole = score(wide | {"weight": weights})
    long = long_rows(wide)
    place = {name: i for i, name in enumerate(wide["id"])}
    long["logit"] = np.log(long.pop("probability")) + 3.0
    long["weight"] = [weights[place[name]] for name in long["id"]]
    del long["label"]
    labels = {"id": wide["id"], "label": wide["label"]}
    found = score(long, long="class name", id="id", labels=labels, key="id")
    same(whole, found)
    assert found.standard_error == pytest.approx(whole.standard_error)


def test_numbered_classes_are_in_the_order_of_numbers():
    long = {"id": [0] * 11, "label": [10] * 11, "class": range(11), "p": [0.0] * 10 + [1.0]}
    found = score(long, label="label", long="class", id="id")
    assert found.names == tuple(map(str, range(11)))
    assert found.log_loss == 0.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda t: {k: v[:-1] for k, v in t.items()}, "2 rows with 2", id="lacks"),
        pytest.param(
            lambda t: {k: [*v, v[0]] for k, v in t.items()}, "4 rows with 3 different", id="twice"
        ),
        pytest.param(
            lambda t: t | {"label": ["dog" if x == "cat" else "cat" for x in t["label"][:1]]
                           + t["label"][1:]},
            "must have the same 'label'",
            id="label",
        ),
        pytest.param(
            lambda t: t | {"id": [None, *t["id"][1:]]}, "must have a value in every row", id="id"
        ),
    ],
)  # fmt: skip
def test_long_rows_must_be_whole(change, said):
    long = change(long_rows(rows(6)))
    with pytest.raises(TableError, match=said):
        score(long, long="class name", id="id")


def test_a_slice_must_be_the_same_in_all_rows_of_a_prediction():
    long = long_rows(rows(6))
    long["country"][0] = "fr"
    with pytest.raises(TableError, match="must have the same 'country'"):
        score(long, long="class name", id="id", by=["country"])
    assert score(long, long="class name", id="id").n == 6


def test_a_long_row_that_is_no_number_is_told_by_its_prediction():
    long = long_rows(rows(6))
    long["probability"] = [str(p) for p in long["probability"]]
    long["probability"][4] = "much"
    with pytest.raises(TableError, match=r"must be numbers: got .*much.* in column 'probability'"):
        score(long, long="class name", id="id")


def test_long_needs_an_id_and_a_probability():
    long = long_rows(rows(6))
    with pytest.raises(OptionError, match="--long must go with --id"):
        score(long, long="class name")
    other = {k: v for k, v in long.items() if k != "probability"}
    with pytest.raises(TableError, match="one column with the probability of each row's class"):
        score(other, long="class name", id="id")


# ---- several truths in a row --------------------------------------------------------------------


def many_truths(n=200, seed=2):
    random = np.random.default_rng(seed)
    p = random.random((n, 3))
    y = (random.random((n, 3)) < p).astype(int)
    table = {"id": np.arange(n), "country": np.arange(n) % 2}
    table |= {f"y_{name}": y[:, k] for k, name in enumerate(NAMES)}
    # In another order: names decide what belongs together.
    table |= {f"p_{name}": p[:, k] for k, name in reversed(list(enumerate(NAMES)))}
    return table, y, p


def test_several_truths_are_questions_of_their_own():
    table, y, p = many_truths()
    found = score(table, multi_label="y_*", by=["country"])
    losses = -np.log(np.where(y == 1, p, 1 - p))
    assert found.n == losses.size
    assert found.log_loss == pytest.approx(losses.mean(), rel=1e-13)
    by_label = {s.value: s.cell.summary.log_loss for s in found.slices if s.column == "label"}
    assert by_label == pytest.approx(dict(zip(NAMES, losses.mean(axis=0), strict=True)), rel=1e-13)
    by_country = {s.value: s.cell.summary.n for s in found.slices if s.column == "country"}
    assert by_country == {"0": 300, "1": 300}
    # Rows are drawn, not questions.
    totals = losses.mean(axis=1)
    assert found.standard_error == pytest.approx(totals.std(ddof=1) / math.sqrt(len(totals)))
    assert found.clusters is not None
    assert found.clusters.clusters == len(y)
    worst = found.worst[0]
    assert worst.shown["label"] == NAMES[int(losses.argmax()) % 3]
    assert worst.number == int(losses.argmax()) // 3 + 1


def test_truths_and_probabilities_in_one_order_need_no_names():
    _table, y, p = many_truths()
    renamed = {"a": y[:, 0], "b": y[:, 1], "u": p[:, 0], "v": p[:, 1]}
    found = score(renamed, multi_label="a,b", probabilities="u,v")
    assert found.log_loss == pytest.approx(
        -np.log(np.where(y == 1, p, 1 - p))[:, :2].mean(), rel=1e-13
    )
    assert {s.value for s in found.slices} == {"a", "b"}


def test_logits_of_several_truths():
    table, _y, p = many_truths()
    logits = {name: v for name, v in table.items() if not name.startswith("p_")}
    logits |= {f"logit_{name}": np.log(p[:, k] / (1 - p[:, k])) for k, name in enumerate(NAMES)}
    found = score(logits, multi_label="y_*")
    assert found.log_loss == pytest.approx(score(table, multi_label="y_*").log_loss, rel=1e-12)


def test_truths_of_texts_need_to_be_yes_or_no(tmp_path):
    table, _, _ = many_truths(30)
    said = {
        k: (np.where(v == 1, "yes", "no") if k.startswith("y_") else v) for k, v in table.items()
    }
    found = score(written(tmp_path / "t.csv", said), multi_label="y_*")
    assert found.names == ("no", "yes")
    assert found.log_loss == pytest.approx(score(table, multi_label="y_*").log_loss, rel=1e-12)


def test_a_truth_without_a_probability_is_refused():
    table, _, _ = many_truths(30)
    del table["p_fox"]
    with pytest.raises(TableError, match="each label must have a probability of its name"):
        score(table, multi_label="y_*")
    with pytest.raises(TableError, match="as many labels as probabilities: got 2 and 3"):
        score(many_truths(5)[0], multi_label="y_cat,y_dog", probabilities="p_cat,p_dog,p_fox")
    with pytest.raises(OptionError, match="must not be given together"):
        score(table, multi_label="y_*", long="country", id="id")


def test_a_fault_of_many_truths_is_told_by_its_row():
    table, _, _ = many_truths(30)
    table["p_dog"] = table["p_dog"].copy()
    table["p_dog"][7] = 1.5
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]: got 1.5 .* of data row 8 "):
        score(table, multi_label="y_*")


# ---- everywhere else ----------------------------------------------------------------------------


def test_models_compare_by_labels_of_another_table_and_by_long_rows():
    one, other = rows(), rows(seed=9)
    labels = {"id": one["id"], "label": one["label"], "country": one["country"]}
    other |= labels
    plain = compare(one, other, key="id", by=["country"])
    bare = [{k: v for k, v in t.items() if k not in ("label", "country")} for t in (one, other)]
    found = compare(*bare, key="id", by=["country"], labels=labels)
    long = compare(long_rows(one), long_rows(other), key="id", by=["country"], long="class name")
    for each in (found, long):
        assert each.models[1].total.mean == pytest.approx(plain.models[1].total.mean, rel=1e-12)
        assert [(g.column, g.value) for g in each.models[1].groups] == [
            (g.column, g.value) for g in plain.models[1].groups
        ]
    with pytest.raises(OptionError, match="multi_label must not be given to a comparison"):
        compare(one, other, key="id", multi_label="y_*")


def test_the_command_reads_labels_from_a_file_and_shows_columns(tmp_path):
    wide = rows(20) | {"note": [f"n{i}" for i in range(20)]}
    written(tmp_path / "l.csv", {k: wide[k] for k in ("id", "label")})
    written(tmp_path / "p.csv", {k: v for k, v in wide.items() if k != "label"})
    words = "score p.csv --labels l.csv --key id --show note"
    done = subprocess.run(
        [sys.executable, "-m", "xent", *words.split()], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    worst = score(wide).worst[0]
    assert f"n{worst.name[1:]}" in done.stdout
    same_file = subprocess.run(
        [sys.executable, "-m", "xent", *words.split(), "--json", "l.csv"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert same_file.returncode == 2
    assert (tmp_path / "l.csv").read_text().startswith("id,label")


def test_truths_of_every_kind_may_lie_in_another_table():
    table, _, _ = many_truths(30)
    truths = {"id": table["id"], **{k: v for k, v in table.items() if k.startswith("y_")}}
    bare = {k: v for k, v in table.items() if not k.startswith("y_")}
    many = score(bare, labels=truths, key="id", multi_label="y_*")
    assert many.log_loss == pytest.approx(score(table, multi_label="y_*").log_loss)
    wide = rows(20)
    t = np.random.default_rng(3).dirichlet(np.ones(3), 20)
    soft = {"id": wide["id"], **{f"y_{name}": t[:, k] for k, name in enumerate(NAMES)}}
    found = score(wide, labels=soft, key="id", soft_labels="y_*")
    whole = score(wide | soft, soft_labels="y_*")
    assert found.log_loss == pytest.approx(whole.log_loss)
    long = long_rows(wide)
    place = {name: i for i, name in enumerate(wide["id"])}
    long["t"] = [
        t[place[i], NAMES.index(name)]
        for i, name in zip(long["id"], long["class name"], strict=True)
    ]
    gathered = score(long, long="class name", id="id", soft_labels="t")
    assert gathered.log_loss == pytest.approx(whole.log_loss)
    assert gathered.label_entropy == pytest.approx(whole.label_entropy)


def test_labels_without_rows_and_truths_of_two_kinds_are_refused():
    wide = rows(4)
    with pytest.raises(TableError, match="'dict 2' must have at least one row"):
        score(wide, labels={"id": [], "label": []}, key="id")
    with pytest.raises(OptionError, match="--soft-labels and --multi-label must not be given"):
        score(wide, multi_label="p_*", soft_labels="p_*")
    with pytest.raises(TableError, match="--key must name a column"):
        compare(wide, wide, key="number")


@pytest.mark.parametrize("kind", ["mapping", "pandas", "polars", "arrow"])
def test_labels_that_differ_in_case_only_are_two(kind):
    columns = {"label": ["a", "A", "A"], "p_a": [0.5, 0.25, 0.5], "p_A": [0.5, 0.75, 0.5]}
    if kind == "pandas":
        columns = pytest.importorskip("pandas").DataFrame(columns)
    elif kind == "polars":
        columns = pytest.importorskip("polars").DataFrame(columns)
    elif kind == "arrow":
        columns = pytest.importorskip("pyarrow").table(columns)
    found = score(columns)
    assert found.names == ("a", "A")
    assert found.log_loss == pytest.approx((2 * math.log(2) - math.log(0.75)) / 3)


def test_names_that_the_queries_use_are_names_like_any_other():
    text = "d1 k w l p t rn c0 s0 zs tt costs top best fault good q r yes total high g part a b s"
    names = text.split(" ")
    random = np.random.default_rng(0)
    p, y = random.dirichlet(np.ones(len(names)), 50), random.integers(0, len(names), 50)
    wide = {"label": np.array(names)[y], **{name: p[:, k] for k, name in enumerate(names)}}
    expected = -np.log(p[np.arange(50), y]).mean()
    asked = ",".join(names)
    assert score(wide, probabilities=asked).log_loss == pytest.approx(expected)
    logs = wide | {name: np.log(p[:, k]) for k, name in enumerate(names)}
    assert score(logs, probabilities=asked, scale="logits").log_loss == pytest.approx(expected)
    for name in names:
        other = {"truth": [0, 1, 1], "score": [0.1, 0.9, 0.6], name: ["u", "v", "u"]}
        found = score(
            other,
            label="truth",
            probabilities="score",
            by=[name],
            cluster=name,
            show=[name],
            id=name,
        )
        assert [s.cell.summary.n for s in found.slices] == [2, 1]


def test_the_engine_is_held_to_2_gib_and_spills_where_nobody_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_tables([rows(3)]) as (table,):
        ((limit, folder),) = table.rows(
            "SELECT current_setting('memory_limit'), current_setting('temp_directory')"
        )
        assert limit == "2.0 GiB"
        spill = Path(folder)
        assert spill.is_dir()
        assert tmp_path not in spill.parents
    assert not spill.exists()
    assert list(tmp_path.iterdir()) == []
