"""Tables that are not a row for each prediction, made into one that is, in the engine.

Labels may lie in another table (`with_labels`), a prediction in a row for each class (`gathered`),
and a row may hold several truths, each a question of its own (`spread`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from xent.errors import OptionError, TableError
from xent.scoring.columns import find_column, listed, no_rows_error
from xent.scoring.duckdb import Table, quote_text
from xent.scoring.prediction_sql import Scale
from xent.scoring.reading import (
    Wishes,
    found_columns,
    known_weights,
    label_column,
    scale_by_name,
    wished_columns,
)

__all__ = ["LaidOut", "gathered", "laid_out", "spread", "with_labels"]

MOST_CLASSES = 10_000
_made = itertools.count()
_SHOWN = 5


class LaidOut(NamedTuple):
    """A table with a row for each prediction.

    Attributes
    ----------
    table
        The table.
    wishes
        What is known about its columns.
    words
        What was done, in sentences.
    by
        Columns that slice the rows by their nature.
    cluster
        The column of the rows that belong together by their nature, or None.
    unpredicted
        Labels that no row predicts.
    """

    table: Table
    wishes: Wishes
    words: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    cluster: str | None = None
    unpredicted: int = 0


def laid_out(
    table: Table,
    wishes: Wishes,
    *,
    labels: Table | None = None,
    key: str | None = None,
    carried: Sequence[str] = (),
    allow_missing: bool = False,
) -> LaidOut:
    """Return a table with a row for each prediction.

    Parameters
    ----------
    table, wishes
        The table, and what the caller said about its columns.
    labels, key
        The table of the labels, and the column that pairs its rows with those of the first.
    carried
        Columns that are asked for besides those of the wishes.
    allow_missing
        Whether labels may have no prediction.

    Raises
    ------
    TableError
        If the tables do not fit together.
    OptionError
        If the wishes contradict each other.
    """
    if wishes.multi_label is not None:
        for flag, other in (("--long", wishes.long), ("--soft-labels", wishes.soft_labels)):
            if other is not None:
                raise OptionError(
                    f"{flag} and --multi-label must not be given together: got {other!r} and "
                    f"{wishes.multi_label!r}. Hint: --multi-label is for truths that are yes or no."
                )
    found = LaidOut(table, wishes)
    if labels is not None:
        if key is None:
            raise OptionError(
                "--labels must go with --key: got no column that tells which label is which row's. "
                "Hint: --key id, if both tables have a column 'id'."
            )
        found = with_labels(table, labels, key, wishes, allow_missing=allow_missing)
    elif key is not None:
        raise OptionError(
            f"--key must go with --labels: got {key!r} alone. Hint: it pairs labels that lie in "
            "another table with their predictions."
        )
    if wishes.long is not None:
        step = gathered(found.table, found.wishes, carried)
    elif wishes.multi_label is not None:
        step = spread(found.table, found.wishes)
    else:
        return found
    return step._replace(words=(*found.words, *step.words), unpredicted=found.unpredicted)


def _aliased(table: Table, columns: Sequence[int], letter: str = "c") -> list[str]:
    """Return columns of a table by the names that a derived table knows them by."""
    return [f"{table.raw(column)} AS {letter}{i}" for i, column in enumerate(columns)]


# ---- labels in another table --------------------------------------------------------------------


def with_labels(
    table: Table, labels: Table, key: str, wishes: Wishes, *, allow_missing: bool = False
) -> LaidOut:
    """Return a table with the columns of another one, whose rows are paired by a key.

    Where both have a column of one name it is the first's, but for the truth.

    Raises
    ------
    TableError
        If a key is missing or repeats, or a label has no prediction and `allow_missing` is not set.
    """
    place, theirs = find_column(table, key, "key"), find_column(labels, key, "key")
    if labels.first_texts() is None:
        raise no_rows_error(labels)
    truths = [labels.names[column] for column in _truths_of(labels, wishes, theirs)]
    own = [i for i, name in enumerate(table.names) if name not in truths or i == place]
    names = [table.names[i] for i in own]
    more = [i for i, name in enumerate(labels.names) if name not in names]
    ours = f"SELECT {table.label(place)} AS k, {table.number_of_row} AS rn"
    mine = f"({', '.join([ours, *_aliased(table, own)])} FROM {table.numbered})"
    asked = [f"{labels.label(theirs)} AS k"]
    asked += [f"{labels.raw(column)} AS c{len(own) + i}" for i, column in enumerate(more)]
    other = f"(SELECT {', '.join(asked)} FROM {labels.source})"
    # A key of many predictions is wrong too, but for long rows.
    for where, rows in [(labels, other), *([] if wishes.long else [(table, mine)])]:
        _require_unique(where, rows, key)
    alone = f"FROM {other} AS a ANTI JOIN {mine} AS b ON a.k = b.k"
    ((unpredicted,),) = table.rows(f"SELECT count(*) {alone}")
    if unpredicted and not allow_missing:
        some = table.rows(f"SELECT a.k {alone} ORDER BY 1 LIMIT {_SHOWN}")
        shown = listed([str(row[0]) for row in some])
        raise TableError(
            f"each label must have a prediction: got {unpredicted:,} rows of {str(labels.path)!r} "
            f"whose {key!r} is not in {str(table.path)!r}: {shown}"
            f"{' …' if unpredicted > len(some) else ''}. Hint: --allow missing leaves them out."
        )
    source = f"(SELECT a.*, b.* EXCLUDE (k) FROM {mine} AS a LEFT JOIN {other} AS b ON a.k = b.k)"
    joined = table.derived([*names, *(labels.names[i] for i in more)], source)
    words = f"labels: from {str(labels.path)!r}, paired by column {key!r}"
    several = wishes.multi_label is not None or wishes.soft_labels is not None
    told = wishes if several else replace(wishes, label=truths[0])
    return LaidOut(joined, told, (words,), unpredicted=int(unpredicted))


def _truths_of(labels: Table, wishes: Wishes, key: int) -> tuple[int, ...]:
    """Return the columns of the truth in a table of labels."""
    free = [i for i in range(len(labels.names)) if i != key]
    if wishes.multi_label is not None:
        return wished_columns(labels, wishes.multi_label, free, "multi-label")[0]
    if wishes.soft_labels is not None:
        return wished_columns(labels, wishes.soft_labels, free, "soft-labels")[0]
    return (label_column(labels, wishes),)


def _require_unique(table: Table, rows: str, key: str) -> None:
    """Refuse keys that are missing or repeat."""
    twice = table.rows(
        f"SELECT k, count(*) FROM {rows} GROUP BY k HAVING count(*) > 1 OR k IS NULL "
        "ORDER BY k NULLS FIRST LIMIT 1"
    )
    if twice:
        name, many = twice[0]
        got = f"{many:,} rows without one" if name is None else f"{name!r} {many:,} times"
        raise TableError(
            f"the key {key!r} of {str(table.path)!r} must tell every row apart: got {got}. "
            "Hint: --key names another column."
        )


# ---- a row for each class -----------------------------------------------------------------------


def gathered(table: Table, wishes: Wishes, carried: Sequence[str] = ()) -> LaidOut:
    """Return a table with a row for each prediction, of one with a row for each of its classes.

    Raises
    ------
    TableError
        If a prediction lacks a class or has one twice, or its rows have different labels.
    OptionError
        If no column tells which rows are one prediction.
    """
    if wishes.id is None or wishes.long is None:
        raise OptionError(
            f"--long must go with --id: got {wishes.long!r} alone. Hint: --id names the column "
            "whose value the rows of one prediction share."
        )
    key, kind = find_column(table, wishes.id, "id"), find_column(table, wishes.long, "long")
    if wishes.soft_labels is not None:
        label = find_column(table, wishes.soft_labels, "soft-labels")
    else:
        label = label_column(table, wishes)
    number, scale = _number_column(table, wishes, {key, kind, label})
    weights = [known_weights(table, wishes, {key, kind, label, number})]
    if wishes.counts is not None:
        weights = [find_column(table, wishes.counts, "counts")]
    kept = [key, label, number, *(column for column in weights if column is not None)]
    kept += [find_column(table, name, "by or --cluster") for name in carried]
    kept = list(dict.fromkeys(kept))
    classes = _class_names(table, kind, wishes)
    listed_columns = {number, *([] if wishes.soft_labels is None else [label])}
    shared = [column for column in kept if column not in {key, *listed_columns}]
    names = ", ".join(f"({quote_text(name)}, {i})" for i, name in enumerate(classes))
    rows = (
        f"(SELECT {', '.join(_aliased(table, kept))}, {table.label(key)} AS k, "
        f"{table.label(kind)} AS class, {table.number_of_row} AS rn FROM {table.numbered})"
    )
    told = []
    for i, column in enumerate(kept):
        if column == key:
            told += [f"k AS c{i}"]
        elif column in listed_columns:
            told += [f"list(c{i} ORDER BY place) AS c{i}"]
        else:
            told += [f"min(c{i}) AS c{i}"]
    odd = [
        f"count(DISTINCT c{kept.index(column)}) > 1 OR count(c{kept.index(column)}) NOT IN "
        f"(0, count(*)) AS odd{i}"
        for i, column in enumerate(shared)
    ]
    made = f"gathered_{next(_made)}"
    table.run(
        f"CREATE TEMP TABLE {made} AS SELECT {', '.join([*told, *odd])}, "
        "min(rn) AS rn, count(*) AS many, count(DISTINCT place) AS classes "
        f"FROM {rows} LEFT JOIN (VALUES {names}) AS names(name, place) ON class = name GROUP BY k"
    )
    _require_whole(table, made, wishes.id, wishes.long, classes, [table.names[c] for c in shared])
    done = table.derived([table.names[column] for column in kept], made)
    words = f"each prediction: the rows of one {wishes.id!r}, one for each class of {wishes.long!r}"
    told_wishes = replace(
        wishes,
        label=None if wishes.soft_labels is not None else table.names[label],
        probabilities=table.names[number],
        classes=classes,
        scale=scale.value,
        long=None,
    )
    return LaidOut(done, told_wishes, (words,))


def _number_column(table: Table, wishes: Wishes, taken: set[int]) -> tuple[int, Scale]:
    """Return the column of the numbers of long rows."""
    wished = None if wishes.scale is None else Scale(wishes.scale)
    if wishes.probabilities is not None:
        column = find_column(table, wishes.probabilities, "probabilities")
        return column, wished or scale_by_name(table, [column])
    free = [i for i in range(len(table.names)) if i not in taken]
    for scale in Scale:
        found = {
            columns[0]: None
            for layout, columns, _ in found_columns(table, free, [], scale, None)
            if layout == "binary"
        }
        if len(found) == 1:
            return next(iter(found)), wished or scale
    raise TableError(
        f"{str(table.path)!r} must have one column with the probability of each row's class: got "
        f"columns {listed(table.names, 20)}. Hint: say which with --probabilities COLUMN."
    )


def _class_names(table: Table, column: int, wishes: Wishes) -> list[str]:
    found = table.distinct(column, limit=MOST_CLASSES + 1)
    if len(found) > MOST_CLASSES or len(found) < 2:
        got = f"more than {MOST_CLASSES:,}" if len(found) > 1 else str(len(found))
        raise TableError(
            f"column {table.names[column]!r} of {str(table.path)!r} must hold the classes, from 2 "
            f"to {MOST_CLASSES:,} of them: got {got}. Hint: --long names another column."
        )
    if wishes.classes is not None:
        if set(wishes.classes) != set(found) or len(wishes.classes) != len(found):
            raise OptionError(
                f"--classes must name the values of {table.names[column]!r}: got "
                f"{listed(list(wishes.classes))}, and the table has {listed(found)}. "
                "Hint: leave it out to have them in their order."
            )
        return list(wishes.classes)
    whole = all(name.removeprefix("-").isdecimal() for name in found)
    return sorted(found, key=int) if whole else found


def _require_whole(
    table: Table, made: str, key: str, kind: str, classes: Sequence[str], shared: Sequence[str]
) -> None:
    """Refuse predictions that lack a class, have one twice, or more than one label."""
    path, many = repr(str(table.path)), len(classes)
    found = table.rows(
        f"SELECT k, many, classes FROM (SELECT c0 AS k, many, classes, rn FROM {made}) "
        f"WHERE k IS NULL OR many <> {many} OR classes <> {many} ORDER BY rn LIMIT 1"
    )
    if found:
        name, rows, different = found[0]
        if name is None:
            raise TableError(
                f"column {key!r} of {path} must have a value in every row: got rows "
                "without one. Hint: --id names the column that the rows of a prediction share."
            )
        raise TableError(
            f"each prediction in {path} must have one row for each of the {many} classes of "
            f"{kind!r}: got {rows} rows with {different} different classes for {key} {name!r}. "
            "Hint: a class without a row has no probability; write it as 0, or make one class of "
            "the rest."
        )
    for i, column in enumerate(shared):
        odd = table.rows(f"SELECT c0 FROM {made} WHERE odd{i} ORDER BY rn LIMIT 1")
        if odd:
            raise TableError(
                f"the rows of one prediction in {path} must have the same {column!r}: got "
                f"different ones for {key} {odd[0][0]!r}. Hint: --id tells predictions apart."
            )


# ---- several truths in a row --------------------------------------------------------------------


def spread(table: Table, wishes: Wishes) -> LaidOut:
    """Return a table with a row for each question, of one with several truths in each row.

    Raises
    ------
    TableError
        If truths and probabilities do not belong together.
    """
    free = list(range(len(table.names)))
    truths, labels = wished_columns(table, wishes.multi_label or "", free, "multi-label")
    rest = [i for i in free if i not in truths]
    wished = None if wishes.scale is None else Scale(wishes.scale)
    if wishes.probabilities is not None:
        numbers, stars = wished_columns(table, wishes.probabilities, rest)
        scale = wished or scale_by_name(table, numbers)
    else:
        numbers, stars, scale = _numbers_of(table, rest, wished)
    if labels and stars:
        by_name = {text: column for column, text in stars.items()}
        if set(by_name) != set(labels.values()) or len(by_name) != len(numbers):
            raise TableError(
                f"each label must have a probability of its name: got labels "
                f"{listed(list(labels.values()))} and probabilities of {listed(list(by_name))}. "
                "Hint: --multi-label 'y_*' --probabilities 'p_*' names both, or a,b,c and c,d,e "
                "in one order."
            )
        numbers = tuple(by_name[labels[column]] for column in truths)
    elif len(numbers) != len(truths):
        raise TableError(
            f"there must be as many labels as probabilities: got {len(truths)} and {len(numbers)}. "
            "Hint: --multi-label and --probabilities name both, in one order."
        )
    kept = [i for i in free if i not in truths and i not in numbers]
    taken = [table.names[i] for i in kept]
    new = [_unused(name, taken) for name in ("label", "is it", "probability", "data row")]
    names = [labels.get(column, table.names[column]) for column in truths]
    lists = [
        [quote_text(name) for name in names],
        [table.label(column) for column in truths],
        [table.raw(column) for column in numbers],
    ]
    unnested = [f"unnest([{', '.join(each)}]) AS c{len(kept) + i}" for i, each in enumerate(lists)]
    numbered = f"{table.number_of_row} AS rn, {table.number_of_row} AS c{len(kept) + 3}"
    asked = ", ".join([*_aliased(table, kept), *unnested, numbered])
    done = table.derived([*taken, *new], f"(SELECT {asked} FROM {table.numbered})")
    words = (
        f"each row asks {len(truths)} questions, of the labels {listed(names)}; rows are drawn, "
        "questions of one row belong together (else --cluster)"
    )
    told = replace(wishes, label=new[1], probabilities=new[2], scale=scale.value, multi_label=None)
    return LaidOut(done, told, (words,), by=(new[0],), cluster=new[3])


def _numbers_of(
    table: Table, free: list[int], wished: Scale | None
) -> tuple[tuple[int, ...], dict[int, str], Scale]:
    """Return the columns of the probabilities by their names, and what each is of."""
    for scale in Scale:
        found = [f for f in found_columns(table, free, [], scale, None) if f[0] == "wide"]
        if len(found) == 1 and found[0][2].endswith("*"):
            start = len(found[0][2]) - 1
            columns = found[0][1]
            return columns, {i: table.names[i][start:] for i in columns}, wished or scale
    raise TableError(
        f"{str(table.path)!r} must have a column of probabilities for each label: got columns "
        f"{listed(table.names, 20)}. Hint: say which with --probabilities 'p_*'."
    )


def _unused(name: str, taken: Sequence[str]) -> str:
    """Return a name that no column has."""
    return _unused(f"{name}_", taken) if name in taken else name
