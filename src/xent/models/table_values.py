"""Values of a table on disk as a model reads them: numbers, categories and gaps.

Empty texts, NULL, NaN and the texts that the caller names are missing values. Numbers are finite.
Categories are compared by their text, so that a model fitted to a CSV can be used on Parquet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from xent.errors import TableError
from xent.models.features import (
    LARGEST_NUMBER,
    MISSING,
    UNSEEN,
    CategoricalFeature,
    Category,
    Columns,
    Feature,
    NumericFeature,
)
from xent.scoring.columns import listed, nearest, no_rows_error
from xent.scoring.duckdb import Table, quote_text

__all__ = [
    "code",
    "first_fault",
    "present",
    "read_columns",
    "read_features",
    "require_columns",
    "require_rows",
    "spelt",
    "spelt_number",
    "typed",
]

_WHOLE = re.compile(r"0|-?[1-9][0-9]*")


def present(table: Table, column: int, na: Sequence[str]) -> str:
    """Return SQL for whether a row has a value: not NULL, NaN, an empty text or one of `na`."""
    raw = table.raw(column)
    tests = [f"{raw} IS NOT NULL"]
    if table.kinds[column] == "text":
        tests += [f"{raw} <> ''"]
    elif table.kinds[column] == "float":
        tests += [f"NOT isnan({raw})"]
    if na:
        tests += [f"{table.text(column)} NOT IN ({', '.join(map(quote_text, na))})"]
    return f"({' AND '.join(tests)})"


def _number(table: Table, column: int, na: Sequence[str]) -> str:
    """Return SQL for a number: NaN where it is missing, ∞ where there is something else."""
    read = f"coalesce({table.number(column)}, 'inf'::DOUBLE)"
    return f"CASE WHEN {present(table, column, na)} THEN {read} ELSE 'nan'::DOUBLE END"


def _member(table: Table, column: int, categories: Sequence[Category]) -> str:
    """Return SQL for a category as a member of a list, NULL where it is none of it."""
    members = ", ".join(quote_text(spelt(c)) for c in categories)
    text = table.text(column)
    if isinstance(categories[0], bool):
        text = f"lower({text})"  # however a CSV spells them
    return f"TRY_CAST({text} AS ENUM ({members}))"


def code(table: Table, column: int, categories: Sequence[Category], na: Sequence[str]) -> str:
    """Return SQL for the place of a category in a list, or `MISSING` or `UNSEEN`."""
    place = "NULL"
    if categories:
        place = f"CAST(enum_code({_member(table, column, categories)}) AS INTEGER)"
    there = present(table, column, na)
    return f"CAST(CASE WHEN {there} THEN coalesce({place}, {UNSEEN}) ELSE {MISSING} END AS INTEGER)"


def spelt(category: Category) -> str:
    """Return a category as the text that it has in a table."""
    return str(category).lower() if isinstance(category, bool) else str(category)


def spelt_number(number: float) -> str:
    """Return a number with the digits that tell it from every other.

    Examples
    --------
    >>> spelt_number(1.0), spelt_number(0.1234567), spelt_number(2.0**60)
    ('1', '0.1234567', '1.152921504606847e+18')
    """
    return repr(number).removesuffix(".0")


def typed(table: Table, column: int, texts: Iterable[str]) -> tuple[Category, ...]:
    """Return categories of the column's type, sorted; those of a CSV are what they look like."""
    found = sorted(texts)
    truths = not table.types and [text.lower() for text in found] == ["false", "true"]
    if table.kinds[column] == "boolean" or truths:
        return tuple(text.lower() == "true" for text in found)
    if (table.kinds[column] != "text" or not table.types) and all(map(_WHOLE.fullmatch, found)):
        return tuple(sorted(map(int, found)))
    return tuple(found)


def read_columns(
    table: Table,
    numbers: Sequence[str],
    categories: Mapping[str, tuple[Category, ...]],
    na: Sequence[str],
    others: Sequence[str] = (),
) -> tuple[Columns, list[Any]]:
    """Return columns of numbers and of categories, by name, and other SQL beside them."""
    place = table.names.index
    asked = [_number(table, place(name), na) for name in numbers]
    asked += [code(table, place(name), known, na) for name, known in categories.items()]
    found = iter(table.arrays([*asked, *others]))
    x = {name: next(found) for name in numbers}
    codes = {name: next(found) for name in categories}
    rows = max(len(column) for column in (*x.values(), *codes.values()))
    return Columns(rows, x, codes, categories), list(found)


# ---- what is refused ----------------------------------------------------------------------------


def first_fault(table: Table, column: int, bad: Any) -> tuple[str, str, str]:
    """Return the first bad value as text, and in words its row and how many there are."""
    row = int(np.argmax(bad))
    count = int(np.count_nonzero(bad))
    return (
        table.shown(column, row),
        f"data row {row + 1}",
        "1 row" if count == 1 else f"{count} rows",
    )


def require_rows(table: Table) -> None:
    """Refuse a table without rows.

    Raises
    ------
    TableError
        If it has none.
    """
    if table.first_texts() is None:
        raise no_rows_error(table)


def require_columns(table: Table, columns: Columns, *, missing: str) -> None:
    """Refuse numbers that are not finite, and gaps unless `missing` is ``"indicator"``.

    Raises
    ------
    TableError
        Naming the column and the first row.
    """
    path = str(table.path)
    for name, x in columns.numbers.items():
        if (bad := np.abs(x) > LARGEST_NUMBER).any():
            got, where, rows = first_fault(table, table.names.index(name), bad)
            raise TableError(
                f"column {name!r} of {path!r} must hold numbers from −{LARGEST_NUMBER:g} to "
                f"{LARGEST_NUMBER:g}: got {got} in {where} ({rows}). Hint: if that means a missing "
                f"value, --na {got} when the model is fitted; or drop such rows."
            )
    if missing == "indicator":
        return
    gaps = {name: np.isnan(x) for name, x in columns.numbers.items()}
    gaps |= {name: k == MISSING for name, k in columns.codes.items()}
    for name, bad in gaps.items():
        if bad.any():
            _, where, rows = first_fault(table, table.names.index(name), bad)
            raise TableError(
                f"column {name!r} of {path!r} must have a value in every row: got none in {rows}; "
                f"the first is {where}. Hint: a model fitted with --missing indicator learns what "
                f"a gap means; or leave the column out of the fit by --ignore."
            )


# ---- reading for predictions ---------------------------------------------------------------------


def read_features(
    table: Table, features: Sequence[Feature], *, missing: str, na: Sequence[str], unseen: str
) -> Columns:
    """Read the columns that a model was fitted to.

    Parameters
    ----------
    table
        An open table.
    features
        The rule.
    missing, na
        As they were for the fit.
    unseen
        ``"refuse"`` or ``"ignore"`` categories that the rule does not have.

    Raises
    ------
    TableError
        If a column is missing, of another type, or holds what the rule does not allow.
    """
    numeric = [f for f in features if isinstance(f, NumericFeature)]
    categorical = [f for f in features if isinstance(f, CategoricalFeature)]
    require_rows(table)
    place = {f.column: _find(table, f) for f in features}
    columns, _ = read_columns(
        table, [f.column for f in numeric], {f.column: f.categories for f in categorical}, na
    )
    require_columns(table, columns, missing=missing)
    if unseen == "refuse":
        for feature in categorical:
            codes = columns.codes[feature.column]
            bad = (codes == UNSEEN) | ((codes == MISSING) & (not feature.missing))
            if bad.any():
                raise _unseen(table, place[feature.column], feature, bad, na)
    return columns


def _find(table: Table, feature: Feature) -> int:
    name, path = feature.column, str(table.path)
    if name not in table.names:
        raise TableError(
            f"{path!r} must have the column {name!r}, which the model was fitted to: got columns "
            f"{listed(table.names, 20)}. Hint: {nearest(name, table.names)}"
        )
    column = table.names.index(name)
    if isinstance(feature, NumericFeature):
        fits = table.kinds[column] in {"number", "float"} or not table.types
        wanted = "numbers"
    else:
        fits, wanted = table.kinds[column] not in {"list", "other"}, "categories"
    if not fits:
        raise TableError(
            f"column {name!r} of {path!r} must hold {wanted}, as in the table that the model was "
            f"fitted to: got values of type {table.types[column]}. Hint: save it as {wanted}."
        )
    return column


def _unseen(
    table: Table, column: int, feature: CategoricalFeature, bad: Any, na: Sequence[str]
) -> TableError:
    there = present(table, column, na)
    known = "false"
    if feature.categories:
        known = f"{_member(table, column, feature.categories)} IS NOT NULL"
    values = table.rows(
        f"SELECT CASE WHEN {there} THEN {table.text(column)} END AS v, count(*) "
        f"FROM {table.source} WHERE NOT coalesce({there} AND {known}, false) "
        "GROUP BY v ORDER BY count(*) DESC, v LIMIT 6"
    )
    shown = ", ".join(
        f"{'a missing value' if value is None else repr(value)} ({count})"
        for value, count in values
        if value is not None or not feature.missing
    )
    _, where, rows = first_fault(table, column, bad)
    return TableError(
        f"column {feature.column!r} of {str(table.path)!r} must hold the categories that the model "
        f"was fitted to, {listed([spelt(c) for c in feature.categories])}: got {shown} in "
        f"{rows}; the first is {where}. Hint: --unseen ignore predicts such rows by their other "
        "columns."
    )
