"""The score of a table of predictions on disk: one scan, then everything from its summaries."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, Unpack

import numpy as np

from xent.errors import DistributionError, OptionError, TableError, TargetError
from xent.scoring.clusters import clusters_of
from xent.scoring.columns import find_column, listed
from xent.scoring.duckdb import Table
from xent.scoring.layouts import laid_out
from xent.scoring.prediction_sql import LARGEST_LOGIT, Scale
from xent.scoring.query import MOST_COPIES, MOST_GUESSES, MOST_QUESTIONS, Policy, Query, Scan
from xent.scoring.reading import SAID, Columns, Reading, Wishes, read_roles, texts
from xent.scoring.sources import Source, named, open_tables
from xent.scoring.summary import LARGEST_WEIGHT, SMALLEST_WEIGHT
from xent.scoring.table_score import Score, ScoredRow
from xent.scoring.tally import Tally

__all__ = [
    "FLOORS",
    "class_count",
    "grouping_column",
    "refuse_faults",
    "row_policy",
    "score",
]

FLOORS = (1e-15, 1e-6, 1e-3)
# Re-centring a sum of squares keeps 12 digits while this much of it is left, 16 − log10(1e4).
_KEPT = 1e-4


def score(
    source: Source,
    *,
    table: str | None = None,
    query: str | None = None,
    by: Sequence[str] = (),
    cluster: str | None = None,
    class_wise: bool = False,
    explain: bool = True,
    floor: float | None = None,
    allow_unnormalised: float | None = None,
    allow_unseen: bool = False,
    allow_missing: bool = False,
    worst: int | None = None,
    show: Sequence[str] = (),
    labels: Source | None = None,
    key: str | None = None,
    **columns: Unpack[Columns],
) -> Score:
    """Score a table of predictions, wherever it lies, without loading it.

    The mean of −log P(truth) over the rows, by class, with its standard error. A table is read by
    the names of its columns, and `Score.reading` says how. `xent.log_loss` is the sibling for
    predictions in memory.

    Parameters
    ----------
    source
        A CSV (gzip too; with a line of names first), Parquet, JSON-lines or DuckDB file; a pattern,
        a folder or a list of paths, whose files are the parts of one table, and whose folders
        called ``key=value`` make a column; a frame of pandas, polars or Arrow; or a mapping of
        names to arrays, such as ``{"label": labels, "probabilities": array}``.
    table
        The table of a DuckDB file; not needed where it has one.
    query
        SQL whose answer is the table. It sees the tables of a database by their names, and anything
        else as ``predictions``.
    by
        Columns whose values slice the rows: each value is scored by itself.
    cluster
        The column that says which rows belong together (a patient, a day) and so are not drawn
        independently of each other: the standard error is that of its groups' totals.
    class_wise
        Whether to look at the calibration of every class, not only that of the second of two. One
        more scan; beyond 32 classes the rarest are pooled.
    explain
        Whether to look at where the loss comes from. Without it (the plain score) there are the log
        loss and how sure it is, accuracy, Brier's score and what they are by class, in half the
        time: every row is validated as ever. Not with `by`, `class_wise`, `worst` and `show`.
    floor
        What P(truth) is raised to in each row in which it is less, such as 1e-15; by default
        nothing is, and the score is infinite where the truth was called impossible.
    allow_unnormalised
        Accept rows whose sum lies within this of 1 (numbers rounded to a few decimals). They are
        used as given.
    allow_unseen
        Accept labels that have no probability: their P(truth) is 0.
    allow_missing
        Leave out rows without a label or a prediction; `Score.left_out` counts them.
    worst
        How many of the worst rows to return; by default 5, and of a plain score none.
    show
        Columns to return of these rows besides, which may be private.
    labels, key
        Another source, with the label, and the column that tells which of its rows is which
        prediction's.
    **columns
        Which column is what (`Columns`): `label`, `probabilities`, `positive`, `classes`, `scale`,
        `long`, `multi_label`, `soft_labels`, `weights`, `counts`, `id`.

    Raises
    ------
    TableError
        If the source cannot be read as predictions, or more than one reading is possible.
    DistributionError
        If probabilities are negative, not finite or do not sum to one.
    TargetError
        If a label has no probability.
    OptionError
        If an option lies outside its domain.
    MissingExtraError
        If duckdb is not installed.

    Examples
    --------
    >>> result = score("examples/predictions.csv")
    >>> result.n, result.log_loss, result.standard_error, result.worst[0].name
    (48, 0.4538, 0.0679, 'img-013')
    """
    policy = row_policy(allow_unnormalised, floor, unseen=allow_unseen)
    if worst is not None and not _is_count(worst):
        raise OptionError(
            f"worst must be a number of rows, 0 or more: got {worst!r}. Hint: worst=5 shows five."
        )
    sliced = list(dict.fromkeys(texts("by", by, "columns", "['country', 'month']") or []))
    told = list(dict.fromkeys(texts("show", show, "columns", "['text', 'country']") or []))
    most = min((5 if explain else 0) if worst is None else worst, sys.maxsize)
    if not explain:
        _require_plain(by=bool(sliced), class_wise=class_wise, worst=most > 0, show=bool(told))
    wishes = Wishes.of(columns)
    grouped = _text("cluster", cluster)
    opening = open_tables(
        [source], table=_text("table", table), query=_text("query", query), besides=labels
    )
    with opening as (given, *others):
        laid = laid_out(
            given,
            wishes,
            labels=others[0] if others else None,
            key=_text("key", key),
            carried=[*sliced, *told, *([] if grouped is None else [grouped])],
            allow_missing=allow_missing,
        )
        opened = laid.table
        sliced = list(dict.fromkeys([*laid.by, *sliced])) if explain else []
        told = list(dict.fromkeys([*laid.by, *told]))
        cluster = grouped or laid.cluster
        reading = read_roles(opened, laid.wishes)
        length = class_count(opened, reading)
        slices = [grouping_column(opened, reading, name) for name in sliced]
        # What a floor costs is told by P(truth) alone, and soft labels have many.
        floors = FLOORS if explain and not reading.soft else ()
        asked = Query(opened, reading, length=length, policy=policy, floors=floors, slices=slices)
        scan = asked.scan(explain=explain)
        left_out = refuse_faults(asked, scan, allow_missing=allow_missing)
        for name, cells in zip(sliced, scan.tally.slices, strict=True):
            if len(cells) > MOST_GUESSES:
                raise TableError(
                    f"column {name!r} of {str(opened.path)!r} must slice the rows into "
                    f"{MOST_GUESSES} values at most: got more. Hint: --by takes columns whose "
                    "values rows share; cut numbers into ranges first."
                )
        tally = _well_centred(asked, scan.tally, judged=bool(left_out))
        if explain and (length == 2 or class_wise):
            tally = _with_questions(asked, tally, judged=bool(left_out))
        if reading.soft:
            weights, entropy = asked.soft_totals()
            tally = replace(tally, soft=dict(enumerate(weights, 1)), soft_entropy=entropy)
        clusters = None
        if cluster is not None:
            place = grouping_column(opened, reading, cluster, "cluster")
            by_cluster = Query(opened, reading, length=length, policy=policy, slices=[place])
            mean = tally.whole.summary.finite_log_loss
            clusters = clusters_of(by_cluster, cluster, 0.0 if math.isnan(mean) else mean)
        names = tuple(reading.classes) or tuple(str(k) for k in range(length))
        shown = [find_column(opened, name, "show") for name in told]
        least = tally.least_of_worst(most)
        judged = bool(left_out)
        found = asked.worst(most, shown, least=least, judged=judged) if most else []
    return Score(
        path=named(source),
        reading=(*laid.words, *reading.words),
        names=names,
        tally=tally,
        by=tuple(sliced),
        floors=asked.floors,
        worst=tuple(
            ScoredRow(
                number=row.number,
                name=row.name,
                label=row.label,
                p_truth=row.p,
                loss=row.loss,
                probabilities=dict(zip(names, row.every, strict=True)),
                shown=dict(zip(told, row.texts, strict=True)),
            )
            for row in found
        ),
        allow_unnormalised=allow_unnormalised,
        floor=policy.floor,
        left_out=left_out | ({"unpredicted": laid.unpredicted} if laid.unpredicted else {}),
        cluster=cluster,
        clusters=clusters,
    )


def _text(name: str, value: object) -> str | None:
    """Return an option that is a text or None."""
    if value is None or isinstance(value, str):
        return value
    raise OptionError(f"{name} must be a text: got {value!r}. Hint: give it as SQL has it.")


def _require_plain(**explaining: bool) -> None:
    """Refuse what is of the explanation where that is not asked for."""
    given = [name for name, is_given in explaining.items() if is_given]
    if given:
        raise OptionError(
            f"explain=False must stand without {', '.join(explaining)}, which are of the "
            f"explanation: got {listed(given)} too. Hint: leave out one or the other; the "
            "command's flag for it is --no-explain."
        )


def row_policy(unnormalised: float | None, floor: float | None, *, unseen: bool = False) -> Policy:
    """Return what the caller allows, refusing numbers outside their domains."""
    if unnormalised is not None and not (_is_real(unnormalised) and 0.0 < unnormalised < 1.0):
        raise OptionError(
            "allow_unnormalised must be a number between 0 and 1: got "
            f"{unnormalised!r}. Hint: 1e-3 suits numbers rounded to four decimals."
        )
    if floor is not None and not (_is_real(floor) and 0.0 < floor < 0.5):
        raise OptionError(
            f"floor must be a probability between 0 and 0.5: got {floor!r}. Hint: 1e-15 is "
            "customary; leave it out to have an infinite loss called infinite."
        )
    return Policy(unnormalised, None if floor is None else float(floor), bool(unseen))


def refuse_faults(query: Query, scan: Scan, *, allow_missing: bool = False) -> dict[str, int]:
    """Raise the error of the first fault that is not allowed, or one for a table without weight.

    Returns
    -------
    dict
        Rows that are left out, because the caller said so, by fault.
    """
    left_out: dict[str, int] = {}
    for fault, rows in scan.faults.items():
        if allow_missing and fault in {"label", "missing"}:
            left_out[fault] = rows
        else:
            raise _fault_error(query, fault, rows)
    whole, path = scan.tally.whole, str(query.table.path)
    if scan.already == whole.rows > 2:  # logits may look so by chance, but not in three rows
        raise TableError(
            f"logits in {path!r} must not be probabilities already: got numbers in [0, 1] that sum "
            "to 1 in every row. Hint: leave out --scale; their softmax would be another prediction."
        )
    if any(map(math.isnan, (whole.summary.first, whole.summary.second_squared, whole.brier))):
        raise TableError(  # the last guard: every row has been judged, so none may get here
            f"the losses of {path!r} must add up to a number: got NaN. "
            "Hint: save the file again as CSV, and please report this one."
        )
    if not whole.summary.n:
        if left_out:
            raise TableError(
                f"{path!r} must have at least one row with a label and a prediction: got "
                f"{sum(left_out.values())} rows without. Hint: allow_missing leaves those out."
            )
        raise TableError(
            f"{path!r} must have at least one row with a weight: got "
            f"{whole.rows} rows of weight 0. Hint: --weights none counts each row once."
        )
    return left_out


def _with_questions(query: Query, tally: Tally, *, judged: bool) -> Tally:
    """Add the histograms of calibration: each class against the others, the rarest pooled."""
    length = query.length
    groups: list[tuple[int, ...]]
    if length == 2:
        groups = [(2,)]
    else:
        often = sorted(
            range(1, length + 1),
            key=lambda k: (-tally.classes[k].summary.weight if k in tally.classes else 0.0, k),
        )
        apart = length if length <= MOST_QUESTIONS else MOST_QUESTIONS - 1
        groups = [(k,) for k in sorted(often[:apart])]
        groups += [tuple(sorted(often[apart:]))] if often[apart:] else []
    histograms = query.questions(groups, judged=judged)
    return replace(tally, questions=dict(zip(groups, histograms, strict=True)))


def grouping_column(table: Table, reading: Reading, name: str, flag: str = "by") -> int:
    """Return a column that may group the rows."""
    column = find_column(table, name, flag)
    if column in reading.columns or table.kinds[column] in {"list", "other"}:
        what = "the probabilities" if column in reading.columns else table.types[column]
        raise OptionError(
            f"--{flag} must name a column of values that rows share: got {name!r}, which holds "
            f"{what}. Hint: a country, a version, a month."
        )
    return column


def _is_real(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        return False
    return int(value) >= 0


def class_count(table: Table, reading: Reading) -> int:
    """Return how many classes a row has probabilities for."""
    if reading.layout != "list":
        return len(reading.classes)
    column = reading.columns[0]
    found = table.rows(
        f"SELECT len({table.numbers(column)}) FROM {table.source} "
        f"WHERE len({table.numbers(column)}) > 0 LIMIT 1"
    )
    if not found:
        raise TableError(
            f"column {table.names[column]!r} must hold lists of probabilities: got none that can "
            "be read. Hint: in a CSV they look like [0.7, 0.3]."
        )
    length = int(found[0][0])
    if reading.classes and len(reading.classes) != length:
        raise OptionError(
            f"--classes must name {length} label values, one per entry of the lists: got "
            f"{len(reading.classes)}. Hint: entry 0 first."
        )
    return length


def _well_centred(query: Query, tally: Tally, *, judged: bool) -> Tally:
    """Scan again about each class's mean where sums about 0 lose the variance.

    Only losses that differ by less than a hundredth of their size need it, such as a model that
    says the same of every row.
    """
    centres = [0.0] * (query.length + 1)
    for k, cell in tally.classes.items():
        summary = cell.summary
        if summary.finite_rows < 2:
            continue
        mean = summary.finite_log_loss
        if summary.about(mean).second_squared < _KEPT * summary.second_squared:
            centres[k - 1] = mean
    if not any(centres):
        return tally
    # The other groups' variances are not looked at to so many digits.
    again = query.summaries(centres, judged=judged)
    classes = {k: replace(tally.classes[k], summary=summary) for k, summary in again.items()}
    return replace(tally, classes=classes)


# ---- bad rows -----------------------------------------------------------------------------------


def _fault_error(query: Query, fault: str, count: int) -> Exception:
    """Return the error for the first row with a fault."""
    table, reading = query.table, query.reading
    number, label, total, length, (weight, *raw) = query.first_fault(fault)
    path = repr(str(table.path))
    rows = "1 row" if count == 1 else f"{count} rows"
    where = f"the first is data row {number}"
    names = [table.names[c] for c in reading.columns]
    if fault == "target":
        soft = listed([table.names[column] for column in reading.soft])
        return DistributionError(
            f"soft labels in {path} must be probabilities of the {query.length} classes that sum "
            f"to 1: got others in {soft} of data row {number} ({rows}). "
            "Hint: --label is for rows with one label each."
        )
    if fault == "label":
        truth = table.names[(reading.soft or (reading.label,))[0]]
        return TableError(
            f"the label column {truth!r} of {path} must have a value in every row: got {rows} "
            f"without one; {where}. Hint: --allow missing leaves out rows that "
            "have no label; rows of weight 0 must be valid too."
        )
    if fault == "weight":
        got = "nothing" if weight is None else _quoted(str(weight))
        if reading.counts:
            return TableError(
                f"counts in {path} must be whole numbers from 0 to {MOST_COPIES:,}: got {got} in "
                f"data row {number} ({rows}). Hint: --weights is for sampling weights."
            )
        return TableError(
            f"weights in {path} must be 0 or lie in [{SMALLEST_WEIGHT:g}, {LARGEST_WEIGHT:g}]: got "
            f"{got} in data row {number} ({rows}). Hint: --weights none counts each row once."
        )
    if fault == "missing":
        name, value = _first_unread(names, raw)
        got = "nothing" if value is None else repr(value)
        return TableError(
            f"probabilities in {path} must be numbers: got {got} in column {name!r} of data row "
            f"{number} ({rows}). Hint: --allow missing leaves out rows without a "
            "prediction; decimals are written with a point."
        )
    if fault == "length":
        return TableError(
            f"lists in column {names[0]!r} of {path} must have {query.length} entries: got "
            f"{length} in data row {number} ({rows}). Hint: one probability per class in every row."
        )
    if fault == "value" and reading.scale is not Scale.PROBABILITY:
        most = "no more than 0, those of probabilities" if reading.scale is Scale.LOG else "numbers"
        name, value = _first_outside(names, raw, reading.scale)
        return DistributionError(
            f"{SAID[reading.scale]} in {path} must be {most}, and no further from 0 than "
            f"{LARGEST_LOGIT:g} (or −∞): got {value} in column {name!r} of data row {number} "
            f"({rows}). Hint: --scale says what the numbers are; --probabilities chooses others."
        )
    if fault == "value":
        name, value = _first_outside(names, raw, reading.scale)
        return DistributionError(
            f"probabilities in {path} must lie in [0, 1]: got {value} in column {name!r} of data "
            f"row {number} ({rows}). Hint: --scale logits, or --scale log, if they "
            "are such numbers; --probabilities chooses other columns."
        )
    if fault == "unknown":
        known = reading.classes or (f"0 … {query.length - 1}",)
        shown = ", ".join(repr(name) for name in known[:20]) + (" …" if len(known) > 20 else "")
        return TargetError(
            f"each label in {path} must have a probability: got label {label!r} in data row "
            f"{number} ({rows} with such labels), but the probabilities are those of {shown}. "
            "Hint: --classes a,b,c gives the label values in the order of the columns; "
            "--probabilities chooses the columns, --label the label; --allow unseen counts such a "
            "label as one of probability 0."
        )
    return DistributionError(
        f"probabilities in a row of {path} must sum to 1 within {query.tolerance:.1e}: got "
        f"{total:.9g} in data row {number} ({rows}). Hint: if they were rounded, "
        "--allow unnormalised=1e-3 accepts sums within that of 1; if a class is missing, "
        "--probabilities names all the columns."
    )


def _quoted(text: str) -> str:
    return repr(text) if _number(text) is None else text


def _first_unread(names: Sequence[str], raw: Sequence[Any]) -> tuple[str, Any]:
    for name, value in zip(names, raw, strict=True):
        if value is None or (not value.startswith("[") and _number(value) is None):
            return name, value
    return names[0], raw[0]


def _first_outside(names: Sequence[str], raw: Sequence[Any], scale: Scale) -> tuple[str, Any]:
    most = {Scale.PROBABILITY: 1.0, Scale.LOG: 0.0, Scale.LOGITS: LARGEST_LOGIT}[scale]
    least = 0.0 if scale is Scale.PROBABILITY else -LARGEST_LOGIT
    for name, value in zip(names, raw, strict=True):
        for item in str(value).strip("[]").split(","):
            number = _number(item)
            if number is None or (number == -math.inf and scale is not Scale.PROBABILITY):
                continue
            if not least <= number <= most:
                return name, item.strip()
    return names[0], raw[0]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
