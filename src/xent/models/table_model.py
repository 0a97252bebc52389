"""A model of a table as data: what its columns become, coefficients, and how the fit went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from xent.errors import ModelError, OptionError, TableError
from xent.files import write_whole
from xent.models.features import (
    LARGEST_NUMBER,
    SMALLEST_SCALE,
    Category,
    Columns,
    Feature,
    NumericFeature,
    design,
    matrix_columns,
)
from xent.models.fit_summary import FitSummary
from xent.models.records import record_from_text, record_to_text
from xent.models.softmax_regression import SoftmaxRegression
from xent.models.table_values import read_features
from xent.scoring.sources import open_table

__all__ = ["TableModel", "log_probabilities", "require_choice"]

FORMAT, VERSION = "xent-model", 1
_BLOCK = 1 << 16


@dataclass(frozen=True)
class TableModel:
    """A classifier of the rows of tables. It is data, and its file is JSON.

    Attributes
    ----------
    target
        The column that it predicts.
    classes
        The labels, sorted: texts, integers or booleans.
    features
        What each column becomes, numbers first; see `xent.models.features`.
    missing
        What a missing value is: ``"refuse"`` or ``"indicator"``.
    na
        Texts that mean a missing value.
    weights
        The column that weighed the rows, or None.
    coefficients, intercepts
        Of each class, one coefficient for each column of the matrix; for two classes only those
        of the second.
    summary
        How the fit went.

    See Also
    --------
    fit_table : makes one.
    predict_table : writes its predictions to a file that `xent score` reads.
    SoftmaxRegression : the classifier inside, for arrays.

    Examples
    --------
    >>> from xent.models import fit_table
    >>> model = fit_table("examples/flowers.csv", target="species")
    >>> model.classes
    ('setosa', 'versicolor', 'virginica')
    >>> print(model.predict_proba("examples/flowers.csv")[0].round(2))
    [0.98 0.02 0.  ]
    """

    target: str
    classes: tuple[Category, ...]
    features: tuple[Feature, ...]
    missing: Literal["refuse", "indicator"]
    na: tuple[str, ...]
    weights: str | None
    coefficients: tuple[tuple[float, ...], ...]
    intercepts: tuple[float, ...]
    summary: FitSummary

    @property
    def columns(self) -> tuple[str, ...]:
        """What each column of the matrix is called, in the order of the coefficients."""
        return matrix_columns(self.features)

    def predict_proba(
        self, source: str | Path, *, unseen: Literal["refuse", "ignore"] = "refuse"
    ) -> Any:
        """Return the probabilities (rows, classes) of the rows of a CSV or Parquet file.

        Parameters
        ----------
        source
            The file. It needs the columns of the features only.
        unseen
            Whether a category that the model was not fitted to is refused, or ignored: such a row
            is 0 in all columns of the categories.

        Raises
        ------
        TableError
            If a column is missing, of another type, or holds what the model does not allow.
        """
        require_choice("unseen", unseen, ("refuse", "ignore"))
        with open_table(source) as table:
            columns = read_features(
                table, self.features, missing=self.missing, na=self.na, unseen=unseen
            )
        return self.predicted(columns, str(source))

    def predicted(self, columns: Columns, source: str) -> Any:
        """Return the probabilities of columns in memory; `source` is named in errors."""
        classifier = self._classifier()
        found = np.empty((columns.rows, len(self.classes)))
        # In blocks: the matrix of a million rows is far larger than the table.
        for start in range(0, columns.rows, _BLOCK):
            rows = slice(start, start + _BLOCK)
            x = design(self.features, columns.take(rows))
            with np.errstate(over="ignore", invalid="ignore"):
                found[rows] = classifier.predict_proba(x)
        _require_finite(found, source)
        return found

    def predict(
        self, source: str | Path, *, unseen: Literal["refuse", "ignore"] = "refuse"
    ) -> list[Category]:
        """Return the likeliest label of each row; see `predict_proba`."""
        best = self.predict_proba(source, unseen=unseen).argmax(axis=1)
        return [self.classes[place] for place in best]

    def _classifier(self) -> SoftmaxRegression:
        classifier = SoftmaxRegression()
        classifier.classes_ = np.arange(len(self.classes))
        classifier.coef_ = np.array(self.coefficients)
        classifier.intercept_ = np.array(self.intercepts)
        classifier.n_features_in_ = classifier.coef_.shape[1]
        return classifier

    def save(self, path: str | Path) -> None:
        """Write the model as JSON, whole or not at all.

        Raises
        ------
        OptionError
            If the file cannot be written.
        """
        # A path may hold what is no Unicode; JSON spells it as Python does.
        data = self.to_json().encode("utf-8", errors="backslashreplace")
        write_whole(Path(path), data, "--output")

    def to_json(self) -> str:
        """Return the text of the model's file."""
        return record_to_text(self, format=FORMAT, version=VERSION)

    @classmethod
    def load(cls, path: str | Path) -> TableModel:
        """Read a model that `save` wrote. No code is run; every field is checked.

        Raises
        ------
        ModelError
            If the file is not there, or a field is missing or not what it must be.
        """
        where = repr(str(path))
        try:
            text = Path(path).read_bytes().decode("utf-8")
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or "it is no text in UTF-8"
            raise ModelError(
                f"{where} must be a model, written by `xent fit`: it cannot be read: {said}. "
                "Hint: is it the model, not the table?"
            ) from None
        model = record_from_text(cls, text, where, format=FORMAT, version=VERSION)
        _require_sound(model, where)
        return model


def log_probabilities(classifier: SoftmaxRegression, x: Any, source: str) -> Any:
    """Return the logarithms of a classifier's probabilities (n, K), which keep small ones."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = classifier.predict_log_proba(x)
    _require_finite(found, source)
    return found


def _require_finite(found: Any, source: str) -> None:
    if np.isnan(found).any():
        row = int(np.argmax(np.isnan(found).any(axis=1)))
        raise TableError(
            f"numbers of {source!r} must be nearer to those that the model was fitted to: got some "
            f"of which its scores overflow in data row {row + 1}. Hint: look at that row."
        )


def require_choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Refuse an option that is none of a few words."""
    if value not in allowed:
        words = " or ".join(map(repr, allowed))
        raise OptionError(
            f"{name} must be {words}: got {value!r}. Hint: the default is {allowed[0]!r}."
        )


# ---- what the fields of a file must be to each other --------------------------------------------


def _require_sound(model: TableModel, where: str) -> None:
    """Refuse a model whose fields do not fit together."""

    def require(fits: bool, field: str, must: str) -> None:
        if not fits:
            raise ModelError(
                f"field {field!r} of {where} must {must}. Hint: the file was changed by hand, or "
                "cut; fit the model again."
            )

    require(len(model.classes) >= 2, "classes", "name two classes or more")
    _require_distinct(model.classes, "classes", require)
    require(len(model.features) >= 1, "features", "name a column")
    names = [feature.column for feature in model.features]
    require(len(set(names)) == len(names), "features", "name each column once")
    require(model.target not in names, "features", "not name the target")
    for place, feature in enumerate(model.features):
        field = f"features[{place}]"
        if isinstance(feature, NumericFeature):
            fits = SMALLEST_SCALE <= feature.scale <= LARGEST_NUMBER
            bounds = f"lie in [{SMALLEST_SCALE:g}, {LARGEST_NUMBER:g}]"
            require(fits, f"{field}.scale", bounds)
            require(abs(feature.mean) <= LARGEST_NUMBER, f"{field}.mean", bounds.replace("[", "±["))
        else:
            require(
                len(feature.categories) >= 1 or feature.missing,
                f"{field}.categories",
                "name a category",
            )
            _require_distinct(feature.categories, f"{field}.categories", require)
    scores = 1 if len(model.classes) == 2 else len(model.classes)
    width = len(model.columns)
    require(len(model.coefficients) == scores, "coefficients", f"have {scores} rows")
    for place, row in enumerate(model.coefficients):
        require(len(row) == width, f"coefficients[{place}]", f"have {width} numbers")
    require(len(model.intercepts) == scores, "intercepts", f"have {scores} numbers")


def _require_distinct(values: Sequence[Category], field: str, require: Any) -> None:
    require(len({type(value) for value in values}) <= 1, field, "be of one type")
    require(len(set(values)) == len(values), field, "differ from each other")
    require(list(values) == sorted(values), field, "be sorted")
    require("" not in values, field, "not be empty texts")
