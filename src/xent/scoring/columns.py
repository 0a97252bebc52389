"""Columns by their names: the one that is asked for, and those that belong to labels."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from xent.errors import TableError

if TYPE_CHECKING:
    from xent.scoring.duckdb import Table

__all__ = ["find_column", "label_spellings", "listed", "match_prefix", "nearest", "no_rows_error"]

_SEPARATORS = "_-.: "


def match_prefix(names: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Return every prefix with which each label's text is the name of a column.

    The empty prefix stands for names equal to labels; any other ends in a separator, one of
    ``_ - . :`` or a space: ``female`` is no column of ``male``, nor ``p_11`` of ``1``. More than
    one answer means that the table holds several sets of probabilities.

    Examples
    --------
    >>> match_prefix(["id", "p_cat", "p_dog"], ["dog", "cat"])
    ['p_']
    >>> match_prefix(["a_x", "a_y", "b_x", "b_y"], ["x", "y"])
    ['a_', 'b_']
    >>> match_prefix(["x", "y"], ["cat"])
    []
    >>> match_prefix(["p_female", "p_male"], ["male"])
    ['p_']
    """
    have = set(names)
    first = labels[0]
    found = []
    for name in names:
        if name.endswith(first):
            prefix = name[: len(name) - len(first)]
            if prefix and prefix[-1] not in _SEPARATORS:
                continue
            if all(prefix + label in have for label in labels) and prefix not in found:
                found.append(prefix)
    return found


def label_spellings(labels: Sequence[Any]) -> list[list[str]]:
    """Return the texts under which labels may stand in column names, best first.

    ``str`` of each label; for booleans also ``true`` and ``false``, ``1`` and ``0``; for whole
    floats also the integer.

    Examples
    --------
    >>> label_spellings([False, True])
    [['False', 'True'], ['false', 'true'], ['0', '1']]
    >>> label_spellings([0.0, 2.0])
    [['0.0', '2.0'], ['0', '2']]
    """
    spellings = [[str(label) for label in labels]]
    if all(isinstance(label, bool) for label in labels):
        spellings.append([str(label).lower() for label in labels])
        spellings.append([str(int(label)) for label in labels])
    elif all(isinstance(label, float) and label.is_integer() for label in labels):
        spellings.append([str(int(label)) for label in labels])
    return spellings


def listed(names: Sequence[str], most: int = 6) -> str:
    """Return names in quotation marks with commas between, of many the first and the last.

    Examples
    --------
    >>> print(listed(["a", "b", "c", "d"], most=2))
    'a', 'b' … 'd'
    """
    shown = ", ".join(repr(name) for name in names[:most])
    return shown + (f" … {names[-1]!r}" if len(names) > most else "")


def nearest(name: str, names: Sequence[str]) -> str:
    """Return the hint for a name that is none of `names`.

    Examples
    --------
    >>> nearest("weigh", ["height", "weight"]), nearest("x", ["height"])
    ("did you mean 'weight'?", 'names are matched exactly.')
    """
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else "names are matched exactly."


def no_rows_error(table: Table) -> TableError:
    """Return the error for a table without rows."""
    return TableError(
        f"{str(table.path)!r} must have at least one row: got none, only the columns "
        f"{listed(table.names)}. Hint: was it written completely?"
    )


def find_column(table: Table, name: str, flag: str) -> int:
    """Return the column of a name.

    Raises
    ------
    TableError
        If there is none.
    """
    if name in table.names:
        return table.names.index(name)
    raise TableError(
        f"--{flag} must name a column of {str(table.path)!r}: got {name!r}, but the columns are "
        f"{listed(table.names, 20)}. Hint: {nearest(name, table.names)}"
    )
