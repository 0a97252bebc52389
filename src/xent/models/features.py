"""Columns of a table as a matrix of features: numbers standardised, categories one-hot.

The rule is data, learned from training rows and from no others:

* A number x becomes (x − mean)/scale, with the weighted mean and standard deviation of the training
  rows; where those have one value only, the scale is 1.
* A category becomes 1 in the matrix column of its own and 0 in those of the others. A category that
  no training row had is 0 in all of them.
* A missing number is 0, that is the mean, and 1 in a column that says so, if training rows had
  missing ones too. A missing category is a category.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse

__all__ = [
    "LARGEST_NUMBER",
    "MISSING",
    "SMALLEST_SCALE",
    "UNSEEN",
    "CategoricalFeature",
    "Category",
    "Columns",
    "Feature",
    "NumericFeature",
    "design",
    "learn",
    "matrix_columns",
    "unseen_rows",
]

Category = str | int | bool

MISSING, UNSEEN = -1, -2
"""The codes of a missing category, and of one that is not in the list."""
LARGEST_NUMBER, SMALLEST_SCALE = 1e150, 1e-150
"""Between them a number's square, and its quotient by a scale, are ordinary floats."""
SPARSE = 0.25
"""The share of entries that are not zero up to which a sparse matrix is fitted faster."""
_BLOCK = 4096


@dataclass(frozen=True)
class NumericFeature:
    """A column of numbers, and how they are standardised.

    Attributes
    ----------
    column
        Its name.
    mean, scale
        A number x becomes (x − mean)/scale.
    missing
        Whether a second matrix column is 1 where the number is missing.
    kind
        ``"numeric"``.
    """

    column: str
    mean: float
    scale: float
    missing: bool = False
    kind: Literal["numeric"] = "numeric"


@dataclass(frozen=True)
class CategoricalFeature:
    """A column of categories, one matrix column for each.

    Attributes
    ----------
    column
        Its name.
    categories
        Texts, integers or booleans, sorted.
    missing
        Whether a last matrix column is 1 where the category is missing.
    kind
        ``"categorical"``.
    """

    column: str
    categories: tuple[Category, ...]
    missing: bool = False
    kind: Literal["categorical"] = "categorical"


Feature = NumericFeature | CategoricalFeature


@dataclass(frozen=True)
class Columns:
    """The columns of a table in memory.

    Attributes
    ----------
    rows
        How many there are.
    numbers
        Vectors of float64 by column, NaN where the number is missing.
    codes
        Vectors of int32 by column: places in `categories`, `MISSING` or `UNSEEN`.
    categories
        What the codes of each column stand for.
    """

    rows: int
    numbers: Mapping[str, Any]
    codes: Mapping[str, Any]
    categories: Mapping[str, tuple[Category, ...]]

    def take(self, rows: Any) -> Columns:
        """Return some of the rows, by number or by a vector of booleans or a slice."""
        numbers = {name: x[rows] for name, x in self.numbers.items()}
        codes = {name: k[rows] for name, k in self.codes.items()}
        sizes = [len(column) for column in (*numbers.values(), *codes.values())]
        return Columns(max(sizes, default=0), numbers, codes, self.categories)


def learn(columns: Columns, weights: Any = None) -> tuple[Feature, ...]:
    """Return the rule that rows give: means, scales, categories. Numbers come first.

    Parameters
    ----------
    columns
        The training rows.
    weights
        Their weights (n,), all above 0; a weight of 2 counts as the same row twice. By default
        each row counts once.

    Examples
    --------
    >>> x, k = np.array([1.0, 3.0, np.nan]), np.array([0, 2, 0], dtype=np.int32)
    >>> for feature in learn(Columns(3, {"x": x}, {"k": k}, {"k": ("a", "b", "c")})):
    ...     print(feature)
    NumericFeature(column='x', mean=2.0, scale=1.0, missing=True, kind='numeric')
    CategoricalFeature(column='k', categories=('a', 'c'), missing=False, kind='categorical')
    """
    features: list[Feature] = []
    for name, x in columns.numbers.items():
        gaps = np.isnan(x)
        missing = bool(gaps.any())
        known = x[~gaps] if missing else x
        share = None if weights is None else weights[~gaps]
        features.append(NumericFeature(name, *_standard(known, share), missing))
    for name, codes in columns.codes.items():
        there = np.unique(codes).tolist()
        categories = tuple(columns.categories[name][code] for code in there if code >= 0)
        features.append(CategoricalFeature(name, categories, MISSING in there))
    return tuple(features)


def _standard(x: Any, weights: Any) -> tuple[float, float]:
    """Return the weighted mean and standard deviation; what does not vary has the scale 1."""
    if not len(x) or x.min() == x.max():
        # Its computed mean could be off by a rounding, of which a scale would make a difference.
        return (float(x[0]) if len(x) else 0.0), 1.0
    if weights is not None:
        weights = weights / weights.max()  # or large weights of large numbers would be infinite
    mean = float(np.average(x, weights=weights))
    scale = float(np.sqrt(np.average((x - mean) ** 2, weights=weights)))
    return mean, scale if scale >= SMALLEST_SCALE else 1.0


def matrix_columns(features: Sequence[Feature]) -> tuple[str, ...]:
    """Return what each column of the matrix is called.

    Examples
    --------
    >>> rule = NumericFeature("age", 40.0, 10.0, True), CategoricalFeature("sex", ("f", "m"))
    >>> matrix_columns(rule)
    ('age', 'age is missing', 'sex = f', 'sex = m')
    """
    names: list[str] = []
    for feature in features:
        if isinstance(feature, NumericFeature):
            names += [feature.column]
        else:
            names += [f"{feature.column} = {category}" for category in feature.categories]
        if feature.missing:
            names += [f"{feature.column} is missing"]
    return tuple(names)


def _width(feature: Feature) -> int:
    own = 1 if isinstance(feature, NumericFeature) else len(feature.categories)
    return own + feature.missing


def design(features: Sequence[Feature], columns: Columns) -> Any:
    """Return the matrix of features (n, d) in float64.

    It is a sparse one where at most a quarter of its entries can differ from 0: such are fitted
    faster and need less memory, although the search for the minimum takes more steps.

    Examples
    --------
    >>> x, k = np.array([0.0, 2.0, np.nan]), np.array([0, 1, UNSEEN], dtype=np.int32)
    >>> rule = NumericFeature("x", 1.0, 2.0), CategoricalFeature("k", ("a", "b"))
    >>> print(design(rule, Columns(3, {"x": x}, {"k": k}, {"k": ("a", "b")})))
    [[-0.5  1.   0. ]
     [ 0.5  0.   1. ]
     [ 0.   0.   0. ]]
    """
    width = sum(map(_width, features))
    entries = sum(1 + (isinstance(f, NumericFeature) and f.missing) for f in features)
    if entries <= SPARSE * width:
        return _sparse(features, columns, entries, width)
    matrix = np.zeros((columns.rows, width))
    for start in range(0, columns.rows, _BLOCK):  # a block of rows stays in the cache
        rows = slice(start, start + _BLOCK)
        block = matrix[rows]
        every, lines = slice(None), np.arange(len(block))
        for place, value in _entries(features, columns, rows):
            block[every if isinstance(place, int) else lines, place] = value
    return matrix


def _sparse(features: Sequence[Feature], columns: Columns, entries: int, width: int) -> Any:
    """Return the same with as many stored entries in each row, zeros among them."""
    values = np.empty((columns.rows, entries))
    places = np.empty((columns.rows, entries), dtype=np.int32)
    for start in range(0, columns.rows, _BLOCK):
        rows = slice(start, start + _BLOCK)
        for entry, (place, value) in enumerate(_entries(features, columns, rows)):
            places[rows, entry], values[rows, entry] = place, value
    ends = np.arange(columns.rows + 1, dtype=np.int64) * entries
    shape = (columns.rows, width)
    return scipy.sparse.csr_matrix((values.ravel(), places.ravel(), ends), shape=shape)


def _entries(features: Sequence[Feature], columns: Columns, rows: slice) -> Any:
    """Yield matrix columns and their values, for each row what may differ from 0 in it."""
    first = 0
    for feature in features:
        if isinstance(feature, NumericFeature):
            x = columns.numbers[feature.column][rows]
            gaps = np.isnan(x)
            yield first, np.where(gaps, 0.0, (x - feature.mean) / feature.scale)
            if feature.missing:
                yield first + 1, gaps
        else:
            places = _places(feature, columns)[columns.codes[feature.column][rows]]
            yield first + np.maximum(places, 0), places >= 0
        first += _width(feature)


def _places(feature: CategoricalFeature, columns: Columns) -> Any:
    """Return the matrix column of each code, from the feature's first; −1 where it has none."""
    known = {category: place for place, category in enumerate(feature.categories)}
    places = [known.get(category, -1) for category in columns.categories[feature.column]]
    # The last two are found by the codes −2 and −1.
    return np.array([*places, -1, len(known) if feature.missing else -1])


def unseen_rows(features: Sequence[Feature], columns: Columns) -> int:
    """Return how many rows have a category that the rule does not know."""
    unseen = np.zeros(columns.rows, dtype=bool)
    for feature in features:
        if isinstance(feature, CategoricalFeature):
            unseen |= _places(feature, columns)[columns.codes[feature.column]] < 0
    return int(np.count_nonzero(unseen))
