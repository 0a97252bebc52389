"""Fit a classifier to a table on disk, and measure it on rows that it has not seen."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

import xent
from xent.errors import OptionError, TableError
from xent.information import entropy
from xent.models.features import Category, Feature, design, learn, unseen_rows
from xent.models.fit_summary import Dropped, FitSummary, HeldOut, Validation
from xent.models.softmax_regression import SoftmaxRegression
from xent.models.table_model import TableModel, log_probabilities, require_choice
from xent.models.training_table import Choice, TrainingTable, read_training_table
from xent.scoring.sources import open_table
from xent.scoring.summary import LossSummary

__all__ = ["fit_columns", "fit_table", "read_choice"]


def fit_table(
    source: str | Path,
    *,
    target: str,
    features: Sequence[str] | str | None = None,
    ignore: Sequence[str] | str = (),
    categorical: Sequence[str] | str = (),
    weights: str | None = None,
    missing: Literal["refuse", "indicator"] = "refuse",
    na: Sequence[str] | str = (),
    estimator: SoftmaxRegression | None = None,
    validation: Validation | None = None,
) -> TableModel:
    """Fit a classifier to the rows of a CSV or Parquet file, and measure it on unseen rows.

    Numbers are standardised, categories become one column each; `xent.models.features` has the
    rule. The model that is returned is fitted to all rows.

    Parameters
    ----------
    source
        The file. A CSV has a line of names first; it may be compressed with gzip.
    target
        The column of the labels: texts, integers or booleans.
    features
        Columns to learn from, by name or pattern (``"x_*"``); by default all others.
    ignore
        Columns to leave out.
    categorical
        Columns whose numbers are names, or that have as many categories as they like. Otherwise
        a column is categorical if it holds booleans or texts, and is refused if more than 20, and
        more than half of its values, are different.
    weights
        The column of the rows' weights. Weight 2 counts as the same row twice, 0 as no row.
    missing
        ``"refuse"`` rows without a value, or take the gap for one: ``"indicator"`` replaces a
        missing number by the mean and says so in a column of its own, and takes a missing
        category for a category.
    na
        Texts that mean a missing value, besides the empty one, NULL and NaN.
    estimator
        The classifier with its options; by default ``SoftmaxRegression()``.
    validation
        How to measure it; by default 5-fold cross-validation.

    Returns
    -------
    TableModel
        The model, with its `FitSummary`.

    Raises
    ------
    TableError
        If the file or a column cannot be read, or more than one reading is possible.
    OptionError
        If an option lies outside its domain.
    MissingExtraError
        If duckdb is not installed.

    Warns
    -----
    sklearn.exceptions.ConvergenceWarning
        If a fit ended before it reached its tolerance.

    See Also
    --------
    predict_table : writes predictions to a file.
    SoftmaxRegression : the same classifier for arrays.

    Examples
    --------
    >>> model = fit_table("examples/flowers.csv", target="species")
    >>> summary = model.summary
    >>> print(f"{summary.base_rate_loss:.4f} {summary.held_out.log_loss:.4f}")
    1.0986 0.1527
    >>> model.features[0].column, model.features[0].mean
    ('sepal_length', 5.8433)
    """
    choice = read_choice(
        target=target,
        features=features,
        ignore=ignore,
        categorical=categorical,
        weights=weights,
        missing=missing,
        na=na,
    )
    with open_table(source) as table:
        training = read_training_table(table, choice)
    model = fit_columns(training, choice, str(source), estimator, validation)
    if not model.summary.converged:
        warnings.warn(
            "a fit ended before it reached its tolerance. Hint: raise the estimator's max_iter, or "
            "its penalty by a smaller C",
            ConvergenceWarning,
            stacklevel=2,
        )
    return model


def read_choice(**said: Any) -> Choice:
    """Return what the caller said about columns, checked; a text stands for a list of one."""
    for name in ("target", "weights"):
        if not isinstance(said[name], str) and (name == "target" or said[name] is not None):
            raise OptionError(
                f"{name} must be the name of a column: got {said[name]!r}. Hint: {name}='label'."
            )
    require_choice("missing", said["missing"], ("refuse", "indicator"))
    for name in ("features", "ignore", "categorical", "na"):
        words = said[name]
        if words is None and name == "features":
            continue
        words = (words,) if isinstance(words, str) else words
        listable = isinstance(words, Sequence) and all(isinstance(word, str) for word in words)
        if not listable or (name == "features" and not words):
            raise OptionError(f"{name} must be texts: got {said[name]!r}. Hint: {name}=['a', 'b'].")
        said[name] = tuple(words)
    return Choice(**said)


def fit_columns(
    training: TrainingTable,
    choice: Choice,
    source: str,
    estimator: SoftmaxRegression | None = None,
    validation: Validation | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TableModel:
    """Fit a table that was read already; `progress` is told how many fits of how many are done."""
    estimator = SoftmaxRegression() if estimator is None else estimator
    words = " ".join(repr(estimator).split())
    estimator = _coded(estimator, training.classes)
    validation = Validation() if validation is None else validation
    parts = _parts(training.labels, training.classes, validation)
    measured, settled, unseen = LossSummary(), True, 0
    for done, part in enumerate(parts):
        progress(done, len(parts) + 1)
        fold = _fit(training, estimator, ~part)
        settled = settled and fold.settled
        unseen += unseen_rows(fold.features, training.columns.take(part))
        measured = measured.merge(_losses(fold, training, part, source))
    progress(len(parts), len(parts) + 1)
    began = time.perf_counter()
    whole = _fit(training, estimator, slice(None))
    seconds = time.perf_counter() - began
    held_out = None
    if parts:
        held_out = HeldOut(
            validation, measured.n, measured.log_loss, measured.standard_error, unseen
        )
    shares = np.bincount(training.labels, training.weights)
    classifier = whole.classifier
    return TableModel(
        target=choice.target,
        classes=training.classes,
        features=whole.features,
        missing=choice.missing,
        na=choice.na,
        weights=choice.weights,
        coefficients=tuple(map(tuple, classifier.coef_.tolist())),
        intercepts=tuple(classifier.intercept_.tolist()),
        summary=FitSummary(
            table=source,
            rows=training.columns.rows,
            left_out=training.left_out,
            class_rows=tuple(np.bincount(training.labels).tolist()),
            class_shares=tuple((shares / shares.sum()).tolist()),
            dropped=tuple(Dropped(*pair) for pair in training.dropped),
            base_rate_loss=float(entropy(shares, normalize=True)),
            held_out=held_out,
            training_loss=_losses(whole, training, slice(None), source).log_loss,
            steps=int(classifier.n_iter_[0]),
            seconds=seconds,
            converged=settled and whole.settled,
            history=tuple(float(step.loss) for step in classifier.history_),
            estimator=words,
            xent=xent.__version__,
        ),
    )


class _Fitted(NamedTuple):
    features: tuple[Feature, ...]
    classifier: SoftmaxRegression
    settled: bool


def _fit(training: TrainingTable, estimator: SoftmaxRegression, rows: Any) -> _Fitted:
    """Learn the rule and the coefficients from some rows, and from no others."""
    columns, labels = training.columns.take(rows), training.labels[rows]
    weights = None if training.weights is None else training.weights[rows]
    features = learn(columns, weights)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # The target was read as labels; that few rows share each is said where it is refused.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        classifier = clone(estimator).fit(design(features, columns), labels, sample_weight=weights)
    others = [w for w in caught if not issubclass(w.category, ConvergenceWarning)]
    for warning in others:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return _Fitted(features, classifier, len(others) == len(caught))


def _losses(fitted: _Fitted, training: TrainingTable, rows: Any, source: str) -> LossSummary:
    """Return the summary of the losses of some rows."""
    columns, labels = training.columns.take(rows), training.labels[rows]
    weights = None if training.weights is None else training.weights[rows]
    found = log_probabilities(fitted.classifier, design(fitted.features, columns), source)
    return LossSummary.from_rows(-found[np.arange(len(labels)), labels], weights)


def _coded(estimator: SoftmaxRegression, classes: Sequence[Category]) -> SoftmaxRegression:
    """Return the classifier with its class weights by the places of the labels."""
    if not isinstance(estimator, SoftmaxRegression):
        raise OptionError(
            f"estimator must be a SoftmaxRegression: got {type(estimator).__name__}. Hint: a model "
            "of a table is data, and other estimators are code; fit them to arrays."
        )
    if not isinstance(estimator.class_weight, Mapping):
        return estimator
    by_label = dict(estimator.class_weight)
    unknown = [label for label in by_label if label not in classes]
    if unknown:
        raise OptionError(
            f"class_weight must be by label: got {unknown[0]!r}, but the labels are "
            f"{', '.join(map(repr, classes))}. Hint: labels of a CSV are integers or texts."
        )
    places = {classes.index(label): weight for label, weight in by_label.items()}
    return clone(estimator).set_params(class_weight=places)


def _parts(labels: Any, classes: Sequence[Category], validation: Validation) -> list[Any]:
    """Return which rows are held out, as vectors of booleans: one for each fit to be measured."""
    rows = len(labels)
    random = np.random.default_rng(_require_validation(validation, rows))
    shuffled = random.permutation(rows)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    if validation.holdout is not None:
        # Evenly along the classes, but never a class's first row: without one it is not known.
        place = np.arange(rows)
        out = np.floor((place + 1) * validation.holdout) > np.floor(place * validation.holdout)
        out[np.cumsum(counts) - counts] = False
        if not out.any():
            raise OptionError(
                f"--holdout must hold out a row at least: got {validation.holdout:g} of {rows} "
                "rows. Hint: --folds predicts every row once, by the model of the others."
            )
        part = np.zeros(rows, dtype=bool)
        part[by_class[out]] = True
        return [part]
    if validation.folds and counts.min() < 2:
        rare = classes[int(counts.argmin())]
        raise TableError(
            f"each class must have two rows or more to be cross-validated: got 1 row of {rare!r}, "
            "of which a model of the other rows knows nothing. Hint: drop or merge the class; "
            "--folds 0 fits without measuring."
        )
    fold = np.empty(rows, dtype=np.int64)
    fold[by_class] = np.arange(rows) % max(validation.folds, 1)
    return [fold == number for number in range(validation.folds)]


def _require_validation(validation: Validation, rows: int) -> int:
    """Return the seed, or say what is wrong with one of the numbers."""
    folds: Any = validation.folds
    holdout: Any = validation.holdout
    seed: Any = validation.seed
    if not (_is_whole(folds) and (folds == 0 or 2 <= folds <= rows)):
        raise OptionError(
            f"--folds must be 0, or from 2 to the number of rows, {rows}: got {folds!r}. "
            "Hint: 5 and 10 are usual; 0 fits without measuring."
        )
    if holdout is not None and not (isinstance(holdout, float) and 0.0 < holdout < 1.0):
        raise OptionError(
            f"--holdout must be a share between 0 and 1: got {holdout!r}. "
            "Hint: 0.2 holds out one row of five."
        )
    if not (_is_whole(seed) and seed >= 0):
        raise OptionError(f"--seed must be an integer, 0 or more: got {seed!r}. Hint: --seed 0.")
    return int(seed)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
