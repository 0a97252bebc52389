"""A table on disk, read for a fit: which column is what, labels, weights.

What a column is, is decided from its type, or in a CSV from its values, and never guessed: where
two readings are possible, that is an error which names the option that settles it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

import numpy as np

from xent.errors import OptionError, TableError
from xent.models.column_kinds import column_kinds, in_one_scan
from xent.models.features import MISSING, SMALLEST_SCALE, Category, Columns
from xent.models.objective import LARGEST_WEIGHT_RATIO
from xent.models.table_values import (
    code,
    first_fault,
    present,
    read_columns,
    require_columns,
    require_rows,
    spelt_number,
    typed,
)
from xent.scoring.columns import find_column, listed
from xent.scoring.duckdb import Table
from xent.scoring.reading import is_id_name
from xent.scoring.summary import LARGEST_WEIGHT, SMALLEST_WEIGHT

__all__ = ["Choice", "TrainingTable", "read_training_table", "select_columns"]

FEW = 20
"""As many different values as any column may have."""
_EXACT = 2.0**53
MANY = 0.5
"""The share of rows from which more different values than `FEW` tell rows apart, not groups."""


@dataclass(frozen=True)
class Choice:
    """What the caller said about the columns; `xent.models.fit_table` explains each."""

    target: str
    features: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    weights: str | None = None
    missing: Literal["refuse", "indicator"] = "refuse"
    na: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainingTable:
    """A table read for a fit.

    Attributes
    ----------
    columns
        The features, of rows that have a weight.
    labels, classes
        Places in `classes` (n,), and the labels: texts, integers or booleans, sorted.
    weights
        Positive weights (n,), or None for equal ones.
    dropped
        Columns that say nothing, each with the reason.
    left_out
        How many rows of weight 0 there were.
    """

    columns: Columns
    labels: Any
    classes: tuple[Category, ...]
    weights: Any
    dropped: tuple[tuple[str, str], ...]
    left_out: int


# ---- which column is what ----------------------------------------------------------------------


class _Roles(NamedTuple):
    target: int
    weights: int | None
    numeric: list[int]
    categorical: list[int]
    named: set[int]  # as features, one by one
    forced: set[int]  # to be categorical


def _roles(table: Table, choice: Choice) -> _Roles:
    target = find_column(table, choice.target, "target")
    weights = None if choice.weights is None else find_column(table, choice.weights, "weights")
    if weights == target:
        raise OptionError(
            f"--weights must name another column than --target: got {choice.target!r} for both. "
            "Hint: leave --weights out to count each row once."
        )
    taken = {target, weights}
    ignored, _ = select_columns(table, choice.ignore, "ignore")
    columns = list(range(len(table.names)))
    named: set[int] = set()
    if choice.features is not None:
        columns, named = select_columns(table, choice.features, "features")
    elif weights is None:
        _refuse_unused_weights(table, ignored)
    for role, flag in ((target, "target"), (weights, "weights")):
        if role in named:
            raise OptionError(
                f"--features must not name the column of --{flag}: got {table.names[role]!r} for "
                "both. Hint: a model that sees its target learns nothing else."
            )
    columns = [c for c in columns if c not in taken and c not in ignored]
    if not columns:
        raise TableError(
            f"{str(table.path)!r} must have a column to learn from: got {listed(table.names, 20)}, "
            "of which none is left. Hint: --features and --ignore choose them."
        )
    forced, exact = select_columns(table, choice.categorical, "categorical")
    for column in forced:
        if column not in columns and column in exact:
            raise OptionError(
                f"--categorical must name a feature: got {table.names[column]!r}, which is none. "
                "Hint: see --features, --ignore and --target."
            )
    kinds = column_kinds(table, columns, set(forced), choice.na)
    numeric = [c for c in columns if kinds[c] == "numeric"]
    categorical = [c for c in columns if kinds[c] == "categorical"]
    return _Roles(target, weights, numeric, categorical, named, set(forced))


def _refuse_unused_weights(table: Table, ignored: Sequence[int]) -> None:
    for column, name in enumerate(table.names):
        if name.strip().lower() in {"sample_weight", "sample_weights"} and column not in ignored:
            raise TableError(
                f"column {name!r} of {str(table.path)!r} must have a role: got none, and it is "
                f"called as if it weighed rows. Hint: --weights {name!r}, or --ignore {name!r}."
            )


def select_columns(table: Table, words: Sequence[str], flag: str) -> tuple[list[int], set[int]]:
    """Return the columns of names and patterns with commas between, and those named exactly.

    Raises
    ------
    TableError
        If a name or a pattern fits no column.
    """
    columns: list[int] = []
    named: set[int] = set()
    for word in words:
        for piece in [word] if word in table.names else word.split(","):
            if piece not in table.names and re.search(r"[*?\[]", piece):
                hits = [i for i, name in enumerate(table.names) if fnmatchcase(name, piece)]
            else:
                hits = [find_column(table, piece, flag)]
                named |= set(hits)
            if not hits:
                raise TableError(
                    f"--{flag} must name columns of {str(table.path)!r}: got {piece!r}, but the "
                    f"columns are {listed(table.names, 20)}. Hint: 'x_*' means every column whose "
                    "name starts with x_; quote it, or the shell expands it."
                )
            columns += [i for i in hits if i not in columns]
    return columns, named


# ---- categories and labels ---------------------------------------------------------------------


def _categories(
    table: Table, choice: Choice, roles: _Roles
) -> tuple[tuple[Category, ...], dict[int, tuple[Category, ...]]]:
    """Return the labels, and the categories of each column, or say what they are instead."""
    columns = [roles.target, *roles.categorical]
    asked = []
    for column in columns:
        there = present(table, column, choice.na)
        values = f"list(DISTINCT {table.text(column)}) FILTER ({there})"
        # A list that is refused stays where it is: it may be as long as the table.
        most = f"greatest({FEW}, {MANY} * count_if({there}))"
        short = "true" if column in roles.forced else f"len({values}) <= {most}"
        asked += [f"count_if({there}), len({values}), CASE WHEN {short} THEN {values} END"]
    known = {}
    for column, (rows, different, values) in zip(
        columns, in_one_scan(table, asked, 3), strict=True
    ):
        if different and values is None:
            raise _too_many(table, column, rows, different, target=column == roles.target)
        known[column] = typed(table, column, values or ())
    return known[roles.target], known


def _too_many(table: Table, column: int, rows: int, different: int, *, target: bool) -> TableError:
    name, path = table.names[column], str(table.path)
    if target:
        return TableError(
            f"the target {name!r} of {path!r} must hold labels that rows share: got {different} "
            f"different values in {rows} rows. Hint: numbers to be predicted as such are "
            "regression, which this is not; cut them into classes first."
        )
    return TableError(
        f"column {name!r} of {path!r} must hold categories that rows share: got {different} "
        f"different values in {rows} rows, which tell rows apart. Hint: --ignore {name!r} leaves "
        f"it out; --categorical {name!r} takes it all the same; decimals are written with a point."
    )


def _require_labels(table: Table, column: int, classes: Sequence[Category]) -> None:
    name, path = table.names[column], str(table.path)
    if table.kinds[column] in {"list", "other"}:
        raise TableError(
            f"the target {name!r} of {path!r} must hold texts, integers or booleans: got values "
            f"of type {table.types[column]}. Hint: --target names another column."
        )
    numbers = [_float(label) for label in classes]
    broken = [label for label, x in zip(classes, numbers, strict=True) if x is None or x % 1 != 0]
    if broken and None not in numbers:
        raise TableError(
            f"the target {name!r} of {path!r} must hold labels: got the number {broken[0]}. Hint: "
            "fractions are predicted by regression, which this is not; cut them into classes "
            "first. A text that means a missing value is named by --na."
        )
    if len(classes) < 2:
        got = f"only {classes[0]!r}" if classes else "no value"
        raise TableError(
            f"the target {name!r} of {path!r} must have at least two different labels: got {got}. "
            "Hint: was the table sorted by label before it was split?"
        )


def _float(label: Category) -> float | None:
    try:
        return float(label)
    except ValueError:
        return None
    except OverflowError:
        return 0.0  # an integer beyond all floats is whole


# ---- reading for a fit ------------------------------------------------------------------------


def read_training_table(table: Table, choice: Choice) -> TrainingTable:
    """Read what a model is fitted to.

    Raises
    ------
    TableError
        If a column is missing or cannot be read in one way only, or a value is none.
    OptionError
        If the choice contradicts itself.
    """
    require_rows(table)
    roles = _roles(table, choice)
    if table.kinds[roles.target] in {"list", "other"}:
        _require_labels(table, roles.target, ())
    classes, known = _categories(table, choice, roles)
    _require_labels(table, roles.target, classes)
    others = [code(table, roles.target, classes, choice.na)]
    if roles.weights is not None:
        others += [f"coalesce({table.number(roles.weights)}, 'nan'::DOUBLE)"]
    columns, (labels, *rest) = read_columns(
        table,
        [table.names[c] for c in roles.numeric],
        {table.names[c]: known[c] for c in roles.categorical},
        choice.na,
        others,
    )
    weights = rest[0] if rest else None
    if (bad := labels == MISSING).any():
        _, where, rows = first_fault(table, roles.target, bad)
        raise TableError(
            f"the target {choice.target!r} of {str(table.path)!r} must have a value in every row: "
            f"got none in {rows}; the first is {where}. Hint: fit the rows that have a label, and "
            "predict the others."
        )
    require_columns(table, columns, missing=choice.missing)
    left_out = 0
    if roles.weights is not None and weights is not None:
        _require_weights(table, roles.weights, weights)
        kept = weights > 0.0
        left_out = int(np.count_nonzero(~kept))
        if left_out:
            columns, labels, weights = columns.take(kept), labels[kept], weights[kept]
            there = np.unique(labels)  # some classes may have had rows of weight 0 only
            labels = np.searchsorted(there, labels)
            classes = tuple(classes[k] for k in there)
            _require_labels(table, roles.target, classes)
    _refuse_row_numbers(table, columns, roles)
    columns, dropped = _without_constants(columns)
    if not columns.numbers and not columns.codes:
        raise TableError(
            f"{str(table.path)!r} must have a column to learn from: got only columns of one value, "
            f"{listed([name for name, _ in dropped])}. Hint: --features and --ignore choose them."
        )
    return TrainingTable(columns, labels, classes, weights, dropped, left_out)


def _require_weights(table: Table, column: int, weights: Any) -> None:
    some = (weights > 0.0) & (weights <= LARGEST_WEIGHT)
    most = float(weights.max(where=some, initial=0.0))
    far = some & (weights < most / LARGEST_WEIGHT_RATIO) & (weights >= SMALLEST_WEIGHT)
    if far.any():
        got, where, rows = first_fault(table, column, far)
        raise TableError(
            f"weights in {str(table.path)!r} must be 0 or within a factor of "
            f"{LARGEST_WEIGHT_RATIO:g} of the largest, {most:g}: got {got} in {where} ({rows}). "
            "Hint: beside the largest such a row counts for nothing, so give it the weight 0."
        )
    fine = (weights == 0.0) | ((weights >= SMALLEST_WEIGHT) & (weights <= LARGEST_WEIGHT))
    if not fine.all():
        got, where, rows = first_fault(table, column, ~fine)
        raise TableError(
            f"weights in {str(table.path)!r} must be 0 or lie in [{SMALLEST_WEIGHT:g}, "
            f"{LARGEST_WEIGHT:g}]: got {got} in {where} ({rows}). Hint: a row that counts for "
            "nothing has the weight 0."
        )


def _refuse_row_numbers(table: Table, columns: Columns, roles: _Roles) -> None:
    """Refuse a column of numbers that are all different and is called id, as a feature."""
    for column in roles.numeric:
        name = table.names[column]
        if not is_id_name(name) or column in roles.named or columns.rows <= FEW:
            continue
        if len(np.unique(columns.numbers[name])) == columns.rows:
            raise TableError(
                f"column {name!r} of {str(table.path)!r} must say something about rows, not which "
                f"row it is: got {columns.rows} different numbers in as many rows. Hint: --ignore "
                f"{name!r} leaves it out; to learn from it, name each feature by --features."
            )


def _without_constants(columns: Columns) -> tuple[Columns, tuple[tuple[str, str], ...]]:
    """Return the columns that say something, and why the others do not."""
    dropped: dict[str, str] = {}
    for name, x in columns.numbers.items():
        known = x[~np.isnan(x)]
        if not len(known):
            dropped[name] = "has no value"
        elif len(known) == len(x) and x.min() == x.max():
            # Integers beyond 2⁵³ are rounded, and may be different ones.
            rounded = " to the 16 digits of a float" if abs(x[0]) > _EXACT else ""
            dropped[name] = f"is {spelt_number(float(x[0]))} in every row{rounded}"
        elif known.max() - known.min() < SMALLEST_SCALE and len(known) == len(x):
            dropped[name] = f"varies by less than {SMALLEST_SCALE:g}"
    for name, codes in columns.codes.items():
        if len(codes) and codes.min() == codes.max():
            one = codes[0]
            what = "has no value" if one == MISSING else f"is {columns.categories[name][one]!r}"
            dropped[name] = what + ("" if one == MISSING else " in every row")
    left = Columns(
        columns.rows,
        {name: x for name, x in columns.numbers.items() if name not in dropped},
        {name: k for name, k in columns.codes.items() if name not in dropped},
        columns.categories,
    )
    return left, tuple(dropped.items())
