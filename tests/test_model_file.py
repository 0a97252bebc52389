"""The file of a model: it comes back to the bit, and what is none is refused by its field."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from tables import QUICK, csv_of, mixed_rows, parquet_of

import xent
from xent.errors import ModelError
from xent.models import SoftmaxRegression, TableModel, fit_table


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = csv_of(tmp_path_factory.mktemp("tables"), mixed_rows())
    return fit_table(path, target="kind", categorical="grade", validation=QUICK)


def test_a_model_comes_back_from_its_file_to_the_bit(tmp_path):
    rows = [f"{i / 7},{'ab'[i % 2] if i % 9 else ''},{i % 3},{'uvw'[i % 3]}" for i in range(60)]
    path = csv_of(tmp_path, ["x,k,z,y", *rows])
    model = fit_table(
        path, target="y", categorical="z", missing="indicator", na=["é", "?"],
        estimator=SoftmaxRegression(C=math.inf, class_weight="balanced", loss="squared_error"),
    )  # fmt: skip
    model.save(tmp_path / "m.json")
    again = TableModel.load(tmp_path / "m.json")
    assert again == model
    assert again.to_json() == model.to_json()
    np.testing.assert_array_equal(again.predict_proba(path), model.predict_proba(path))
    document = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert (document["format"], document["version"]) == ("xent-model", 1)
    assert document["classes"] == ["u", "v", "w"]
    assert "C=inf" in document["summary"]["estimator"]
    assert document["summary"]["xent"] == xent.__version__


@pytest.mark.parametrize("types", [bool, int, str])
def test_types_of_labels_and_categories_come_back(tmp_path, types):
    values = {bool: [False, True], int: [-1, 10**20], str: ["0", "1"]}[types]
    sql = {bool: "i % 2 = 1", int: f"CAST(CASE i % 2 WHEN 0 THEN -1 ELSE {10**20} END AS DECIMAL(38, 0))", str: "CAST(i % 2 AS VARCHAR)"}[types]  # fmt: skip
    path = parquet_of(tmp_path, y=sql, k=sql, x="i % 7")
    model = fit_table(path, target="y", categorical="k", validation=QUICK)
    model.save(tmp_path / "m.json")
    again = TableModel.load(tmp_path / "m.json")
    for found in (again.classes, again.features[-1].categories):
        assert list(found) == values
        assert {type(value) for value in found} == {types}
    assert again.predict(path)[:2] == values


GONE = "gone"


def edited(model, path, to):
    """Return the text of a model's file after a change of one field."""
    document = place = json.loads(model.to_json())
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
    for step in steps:
        place = place[step]
    if to == GONE:
        del place[last]
    else:
        place[last] = to
    return json.dumps(document)


@pytest.mark.parametrize(
    ("path", "to", "said"),
    [
        ("classes", GONE, "classes"),
        ("features.0.mean", GONE, "features.*mean"),
        ("summary.rows", GONE, "rows"),
        ("format", "pickle", "'format'"),
        ("version", 2, "'version'"),
        ("version", True, "'version'"),
        ("extra", 1, "'extra'"),
        ("features.0.extra", 1, r"features\[0\].extra"),
        ("features.0.kind", "code", r"features\[0\].kind"),
        ("features.0.kind", ["numeric"], r"features\[0\].kind"),
        ("features.0.scale", 0.0, r"features\[0\].scale"),
        ("features.0.scale", -1.0, r"features\[0\].scale"),
        ("features.0.mean", "1", r"features\[0\].mean"),
        ("features.0.mean", True, r"features\[0\].mean"),
        ("features.0.mean", None, r"features\[0\].mean"),
        ("features.0.mean", 10**400, r"features\[0\].mean"),
        ("features.0.missing", 1, r"features\[0\].missing"),
        ("features.0.missing", True, r"coefficients"),
        ("features.1.categories", [], r"features\[1\].categories"),
        ("features.1.categories", ["a", 1, True], r"features\[1\].categories"),
        ("features.1.categories", ["a", "a", "b"], r"features\[1\].categories"),
        ("features.1.categories", ["c", "b", "a"], r"features\[1\].categories"),
        ("features.1.categories", ["", "b", "c"], r"features\[1\].categories"),
        ("features.1.categories", [0.5, 1.5, 2.5], r"features\[1\].categories\[0\]"),
        ("features.1.column", "size", "'features'"),
        ("features.1.column", "kind", "'features'"),
        ("features", [], "'features'"),
        ("features", {}, "'features'"),
        ("classes", ["a"], "'classes'"),
        ("classes", ["a", "a", "b"], "'classes'"),
        ("classes", [None, "b", "c"], "'classes"),
        ("coefficients.0.0", "1", r"coefficients\[0\]\[0\]"),
        ("coefficients.0", [1.0], r"coefficients\[0\]"),
        ("coefficients", [[1.0]], "'coefficients'"),
        ("intercepts", [0.0], "'intercepts'"),
        ("missing", "guess", "'missing'"),
        ("weights", 3, "'weights'"),
        ("na", "NA", "'na'"),
        ("target", None, "'target'"),
        ("summary", [], "'summary'"),
        ("summary.held_out", 3, "'summary.held_out'"),
    ],
    ids=repr,
)
def test_a_file_that_was_changed_is_refused_with_the_field(model, tmp_path, path, to, said):
    (tmp_path / "m.json").write_text(edited(model, path, to))
    with pytest.raises(ModelError, match=f"{said}.*Hint: "):
        TableModel.load(tmp_path / "m.json")


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "3", "null", "[" * 100_000, '{"format": "xent-model", "version": 1}',
        '{"format": "xent-model", "format": "xent-model"}', '{"version": NaN}', "9" * 5000,
        b"\xff\xfe", b"\x80\x04\x95pickled",
    ],
    ids=lambda text: str(text[:30]),
)  # fmt: skip
def test_what_is_no_model_is_refused(tmp_path, text):
    path = tmp_path / "m.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ModelError, match="Hint: "):
        TableModel.load(path)


def test_every_cut_of_a_file_is_refused(model, tmp_path):
    path = tmp_path / "m.json"
    text = model.to_json()
    for length in range(0, len(text) - 2, 37):
        path.write_text(text[:length])
        with pytest.raises(ModelError):
            TableModel.load(path)


def test_numbers_that_are_not_finite_are_no_json(model, tmp_path):
    path = tmp_path / "m.json"
    for word in ("NaN", "Infinity", "-Infinity", "1e999"):
        path.write_text(edited(model, "intercepts.0", "?").replace('"?"', word))
        with pytest.raises(ModelError):
            TableModel.load(path)


def test_a_file_that_is_not_there_is_a_model_error(tmp_path):
    for path in (tmp_path / "no.json", tmp_path, "zero\0byte"):
        with pytest.raises(ModelError, match=r"cannot be read.*Hint: "):
            TableModel.load(path)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("scale", 5e-324, "scale' of"), ("scale", 1e300, "scale' of"), ("mean", -1e300, "mean' of")],
)
def test_numbers_that_no_fit_writes_are_refused(model, tmp_path, field, value, said):
    document = json.loads(model.to_json())
    document["features"][0][field] = value
    path = tmp_path / "m.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ModelError, match=said):
        TableModel.load(path)
