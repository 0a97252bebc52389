"""Which columns are numbers and which are categories: by type, or in a CSV by their values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xent.errors import TableError
from xent.models.table_values import present, spelt_number
from xent.scoring.duckdb import Table

__all__ = ["column_kinds", "in_one_scan"]

_CODE = "^\\s*[+-]?0[0-9]|_"


def column_kinds(
    table: Table, columns: Sequence[int], forced: set[int], na: Sequence[str]
) -> dict[int, str]:
    """Return ``"numeric"`` or ``"categorical"`` for each column, or say what it is instead.

    Parameters
    ----------
    table
        An open table.
    columns
        Those to look at.
    forced
        Those that are categorical whatever their values look like.
    na
        The texts that mean a missing value.

    Raises
    ------
    TableError
        If a column is neither, or could be either.
    """
    kinds: dict[int, str] = {}
    unclear: list[int] = []
    for column in columns:
        kind = table.kinds[column]
        if kind in {"list", "other"}:
            raise _no_feature(table, column, f"values of type {table.types[column]}")
        if column in forced or kind == "boolean":
            kinds[column] = "categorical"
        elif kind != "text":
            kinds[column] = "numeric"
        elif table.types:
            kinds[column] = "categorical"
        else:
            unclear.append(column)
    return kinds | _kinds_by_value(table, unclear, na)


def _kinds_by_value(table: Table, columns: Sequence[int], na: Sequence[str]) -> dict[int, str]:
    """Return the kinds of the columns of a CSV, which are what all of their values look like."""
    there = {c: present(table, c, na) for c in columns}
    # Digits that no one writes in a number: a zero before others, as in a postcode, or a mark.
    odd = {c: f"{there[c]} AND regexp_matches({table.raw(c)}, '{_CODE}')" for c in columns}
    asked = [
        f"count_if({there[c]}), count({table.number(c)}) FILTER ({there[c]}), "
        f"min({table.raw(c)}) FILTER ({odd[c]})"
        for c in columns
    ]
    counts = in_one_scan(table, asked, 3)
    for c, (rows, readable, text) in zip(columns, counts, strict=True):
        if readable == rows and text is not None:
            name = table.names[c]
            raise TableError(
                f"column {name!r} of {str(table.path)!r} must hold numbers or categories: got "
                f"{text!r}, which can be read as either. Hint: --categorical {name!r} if they are "
                f"codes; --ignore {name!r}; or write the number as {_plain(text)}."
            )
    texts = [c for c, (rows, readable, _) in zip(columns, counts, strict=True) if readable < rows]
    # Only of these, because a column of numbers is read twice as fast without.
    asked = []
    for c in texts:
        number, raw = table.number(c), table.raw(c)
        ends = " AND ".join(
            f"TRY_CAST({end}({raw}) FILTER ({there[c]}) AS TIMESTAMP) IS NOT NULL"
            for end in ("min", "max")
        )
        asked += [
            f"count_if({there[c]} AND NOT isnan({number}))",
            f"count_if({there[c]} AND {number} IS NULL)",
            f"min({raw}) FILTER ({there[c]} AND {number} IS NULL)",
            ends,
        ]
    for c, (numbers, others, text, dated) in zip(texts, in_one_scan(table, asked, 4), strict=True):
        if numbers:
            name = table.names[c]
            raise TableError(
                f"column {name!r} of {str(table.path)!r} must hold numbers or categories: got "
                f"{numbers} numbers and {others} texts such as {text!r}. Hint: "
                f"--na {text!r} if that means a missing value; --categorical {name!r} if its "
                f"numbers are names; or --ignore {name!r}."
            )
        if dated:
            time = f"TRY_CAST({table.raw(c)} AS TIMESTAMP)"
            ((undated,),) = in_one_scan(table, [f"count_if({there[c]} AND {time} IS NULL)"], 1)
            if not undated:
                raise _no_feature(table, c, f"times such as {text!r}")
    return {c: "categorical" if c in texts else "numeric" for c in columns}


def _plain(text: str) -> str:
    return spelt_number(float(text))


def in_one_scan(table: Table, asked: Sequence[str], each: int) -> list[tuple[Any, ...]]:
    """Return the answers of one scan, so many for each column."""
    if not asked:
        return []
    row = table.rows(f"SELECT {', '.join(asked)} FROM {table.source}")[0]
    return [row[place : place + each] for place in range(0, len(row), each)]


def _no_feature(table: Table, column: int, got: str) -> TableError:
    name = table.names[column]
    return TableError(
        f"column {name!r} of {str(table.path)!r} must hold numbers or categories: got {got}. "
        f"Hint: --ignore {name!r} leaves it out; or save what matters of it as a column of "
        "numbers, such as the hour or the age."
    )
