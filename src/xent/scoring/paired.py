"""Compare prediction tables of the same rows: joined, checked and summed in the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Unpack

import numpy as np

from xent.errors import OptionError, TableError
from xent.scoring.clusters import ClusterSummary, totals_of, totals_sql
from xent.scoring.columns import find_column
from xent.scoring.comparison import (
    ComparedModel,
    Comparison,
    DifferingRow,
    Pairs,
    adjusted,
    bootstrap_interval,
    difference_of,
)
from xent.scoring.duckdb import Table
from xent.scoring.intervals import Interval, check_level
from xent.scoring.layouts import LaidOut, laid_out
from xent.scoring.query import Policy, Query
from xent.scoring.reading import Columns, Wishes, read_roles, texts
from xent.scoring.sources import Source, open_tables
from xent.scoring.summary import LossSummary
from xent.scoring.table import class_count, grouping_column, refuse_faults, row_policy

__all__ = ["compare"]

MOST_FETCHED = 100_000
"""Of more rows or clusters there is no bootstrap: nothing of their size leaves the engine."""
MOST_GROUPS = 10_000
_SHOWN = 5


def compare(
    *sources: Source,
    key: str,
    table: str | None = None,
    query: str | None = None,
    by: Sequence[str] = (),
    cluster: str | None = None,
    level: float = 0.95,
    floor: float | None = None,
    allow_unnormalised: float | None = None,
    labels: Source | None = None,
    **columns: Unpack[Columns],
) -> Comparison:
    r"""Compare the predictions of two or more models for the same rows.

    The first table is what the others are compared with. For each row the difference of the losses,
    d = ℓ_other − ℓ_first, is taken; what the rows have in common cancels, so the mean difference is
    surer than the two means. Its interval is that of Student's t, as for a score, and the
    percentile interval of a bootstrap of rows (or clusters) is given beside it.

    Rows are joined in the engine, which goes to the disk beyond 2 GiB. Where one model alone gave
    the truth a probability of 0 the difference is infinite and said to be; rows in which both did
    are in no difference, and counted.

    Parameters
    ----------
    *sources
        Tables, as `xent.scoring.score` takes them, with the same rows in any order.
    key
        The column that tells which rows are the same, in each table; no value twice.
    table, query
        As of `xent.scoring.score`, of each source.
    by
        Columns of the first table whose values slice the differences.
    cluster
        The column of the first table that says which rows belong together.
    level
        Of the intervals.
    floor, allow_unnormalised
        As of `xent.scoring.score`, for every table.
    labels
        Another source, with the labels of all of them by the same key.
    **columns
        Which column is what (`Columns`), the same for every table; all but `multi_label`
        and `soft_labels`.

    Returns
    -------
    Comparison
        The p-values of classes and slices are adjusted together by Holm's method.

    Raises
    ------
    TableError
        If keys repeat or are missing, a row is in one of the tables only, or two tables have
        different labels or weights for a row; and as `xent.scoring.score` does.
    OptionError
        If there are fewer than two tables, or an option lies outside its domain.
    DistributionError, TargetError, MissingExtraError
        As of `xent.scoring.score`.

    See Also
    --------
    xent.scoring.score : one table by itself.

    Examples
    --------
    >>> labels = {"id": range(4), "label": [0, 1, 0, 1]}
    >>> found = compare(
    ...     labels | {"p": [0.5, 0.5, 0.5, 0.5]}, labels | {"p": [0.2, 0.6, 0.4, 0.9]}, key="id"
    ... )
    >>> found.models[1].total.mean, found.models[1].total.interval.upper
    (-0.3556, -0.0281)
    """
    level = check_level(level)
    if len(sources) < 2:
        raise OptionError(
            f"there must be two tables or more to compare: got {len(sources)}. "
            "Hint: the first is what the others are compared with."
        )
    policy = row_policy(allow_unnormalised, floor)
    named = list(dict.fromkeys(texts("by", by, "columns", "['country', 'month']") or []))
    wishes = Wishes.of({**columns, "id": key})
    for name in ("multi_label", "soft_labels"):
        if getattr(wishes, name) is not None:
            raise OptionError(
                f"{name} must not be given to a comparison: got {getattr(wishes, name)!r}. "
                "Hint: compare one label at a time, by label and probabilities."
            )
    with open_tables(sources, table=table, query=query, besides=labels) as opened:
        tables, others = opened[: len(sources)], opened[len(sources) :]
        grouping = [*named, *([] if cluster is None else [cluster])]
        models = [
            _prepared(
                laid_out(
                    table,
                    wishes,
                    labels=others[0] if others else None,
                    key=key if others else None,
                    carried=grouping if not place else [],
                ),
                place,
                policy,
                grouping if not place else [],
            )
            for place, table in enumerate(tables)
        ]
        for model in models[1:]:
            _require_paired(models[0], model, key)
        joined = _joined(models, slices=len(grouping))
        notes: list[str] = []
        compared = [
            ComparedModel(
                path=str(model.table.path),
                reading=model.words,
                summary=model.summary,
                accuracy=model.accuracy,
            )
            for model in models
        ]
        for place in range(1, len(models)):
            challenger = _Challenger(joined, place, named, cluster, level)
            compared[place] = challenger.described(compared[place], notes)
    return Comparison(
        models=tuple(compared),
        key=key,
        rows=compared[0].summary.n,
        cluster=cluster,
        level=level,
        notes=tuple(dict.fromkeys(notes)),
    )


class _Model(NamedTuple):
    """A table that has been read and judged: what is said of it, and where its rows are."""

    table: Table
    place: int
    weighted: bool
    words: tuple[str, ...]
    summary: LossSummary
    accuracy: float

    @property
    def rows(self) -> str:
        """The name of the relation of its rows: key, label y, weight w, loss l, p and s0 …."""
        return f"model_{self.place}"


def _prepared(laid: LaidOut, place: int, policy: Policy, grouping: Sequence[str]) -> _Model:
    """Judge a table as a score does, and keep its rows in the engine."""
    table, wishes = laid.table, laid.wishes
    find_column(table, wishes.id or "", "key")
    reading = read_roles(table, wishes)
    slices = [grouping_column(table, reading, name, "by or --cluster") for name in grouping]
    query = Query(table, reading, length=class_count(table, reading), policy=policy, slices=slices)
    scan = query.scan(explain=False, brier=False)
    refuse_faults(query, scan)
    weighted = reading.weights is not None
    kept = ["id AS key", "CAST(y AS VARCHAR) AS y", "p", "l", f"{'w' if weighted else '1.0'} AS w"]
    kept += [f"s{i}" for i in range(len(slices))]
    model = _Model(
        table,
        place,
        weighted,
        (*laid.words, *reading.words),
        scan.tally.whole.summary,
        scan.tally.whole.accuracy or 0.0,
    )
    table.run(
        f"CREATE TEMP TABLE {model.rows} AS SELECT {', '.join(kept)} "
        f"FROM {query.losses(numbered=True)} WHERE fault = 0"
    )
    _require_keys(model, wishes.id or "")
    return model


def _require_keys(model: _Model, key: str) -> None:
    """Refuse keys that are missing or repeat."""
    table = model.table
    ((missing,),) = table.rows(f"SELECT count(*) FROM {model.rows} WHERE key IS NULL")
    if missing:
        raise TableError(
            f"the key {key!r} of {str(table.path)!r} must have a value in every row: got "
            f"{missing:,} rows without one. Hint: --key names another column."
        )
    twice = table.rows(
        f"SELECT key, count(*) FROM {model.rows} GROUP BY key HAVING count(*) > 1 "
        "ORDER BY key LIMIT 1"
    )
    if twice:
        raise TableError(
            f"the key {key!r} of {str(table.path)!r} must tell every row apart: got "
            f"{twice[0][0]!r} {twice[0][1]} times. Hint: --key names another column."
        )


def _require_paired(first: _Model, other: _Model, key: str) -> None:
    """Refuse tables that are not about the same rows, labels and weights."""
    table = first.table
    for here, there in ((first, other), (other, first)):
        alone = f"FROM {here.rows} ANTI JOIN {there.rows} USING (key)"
        ((many,),) = table.rows(f"SELECT count(*) {alone}")
        if many:
            some = [row[0] for row in table.rows(f"SELECT key {alone} ORDER BY key LIMIT {_SHOWN}")]
            shown = ", ".join(map(repr, some)) + (" …" if many > len(some) else "")
            raise TableError(
                f"the tables must have the same rows, told by {key!r}: got {many:,} in "
                f"{str(here.table.path)!r} that {str(there.table.path)!r} lacks: {shown}. "
                "Hint: --query 'SELECT … FROM predictions WHERE …' scores a part of a table."
            )
    pairs = f"FROM {first.rows} AS a JOIN {other.rows} AS b USING (key)"
    for what, test, mine, theirs in (
        ("label", "a.y <> b.y", "a.y", "b.y"),
        ("weight", "abs(a.w - b.w) > 1e-9 * greatest(a.w, b.w)", "a.w", "b.w"),
    ):
        odd = table.rows(
            f"SELECT key, CAST({mine} AS VARCHAR), CAST({theirs} AS VARCHAR), count(*) OVER () "
            f"{pairs} WHERE {test} ORDER BY key LIMIT 1"
        )
        if odd:
            name, a, b, many = odd[0]
            hint = "the first table's weights are not the second's; --weights none takes none."
            if what == "label":
                hint = "are both tables of the same data? --label names the column."
            raise TableError(
                f"the tables must have the same {what} in every row: got {a} in "
                f"{str(first.table.path)!r} and {b} in {str(other.table.path)!r} for {key} "
                f"{name!r}, and {many - 1:,} more such rows. Hint: {hint}"
            )


def _joined(models: Sequence[_Model], *, slices: int) -> Table:
    """Pair the rows of all models in one relation, ``pairs``, and return a table to ask it by."""
    table = models[0].table
    asked = ["a.key", "a.y", "a.w", "a.l AS l0"]
    asked += [f"m{m.place}.l AS l{m.place}" for m in models[1:]]
    asked += [f"a.s{i}" for i in range(slices)]
    joins = " ".join(f"JOIN {m.rows} AS m{m.place} USING (key)" for m in models[1:])
    table.run(
        f"CREATE TEMP TABLE pairs AS SELECT {', '.join(asked)} FROM {models[0].rows} AS a {joins} "
        "WHERE a.w > 0"
    )
    for model in models:
        table.run(f"DROP TABLE {model.rows}")
    return table


class _Challenger:
    """What is asked about the differences of one model from the first."""

    def __init__(
        self, table: Table, place: int, by: Sequence[str], cluster: str | None, level: float
    ) -> None:
        self.table = table
        self.place = place
        self.by = by
        self.cluster = cluster
        self.level = level
        self.other = f"l{place}"
        grouped = "NULL" if cluster is None else f"s{len(by)}"
        self.rows = (
            f"(SELECT key, y, w, l0, {self.other} AS l1, {grouped} AS name, "
            f"{', '.join([f's{i}' for i in range(len(by))] + ['1 AS one'])}, "
            f"{self.other} - l0 AS l FROM pairs)"
        )

    def described(self, model: ComparedModel, notes: list[str]) -> ComparedModel:
        """Return the model with its differences."""
        groups = self._groups()
        whole = groups[None][None]
        finite = whole.mean is not None and abs(whole.mean) < float("inf")
        centre = (whole.mean or 0.0) if finite else 0.0
        clusters = None
        if self.cluster is not None:
            # Rows in which a loss is infinite are in no finite difference.
            rows = f"(SELECT name, w, l FROM {self.rows} WHERE l IS NOT NULL)"
            totals = totals_of(self.table, rows, self.cluster, centre)
            clusters = totals if finite else None
        total = difference_of(
            whole,
            level=self.level,
            clusters=clusters,
            carriers=self._carriers() if finite else None,
        )
        parts = []
        for column, values in groups.items():
            if column is None:
                continue
            clustered = {} if self.cluster is None else self._clusters_by(column, centre)
            for value, pairs in sorted(values.items(), key=lambda item: str(item[0])):
                if pairs.rows:
                    part = difference_of(
                        pairs,
                        level=self.level,
                        clusters=clustered.get(value),
                        where=(column, value),
                        whole=whole,
                    )
                    parts.append(part)
        return ComparedModel(
            path=model.path,
            reading=model.reading,
            summary=model.summary,
            accuracy=model.accuracy,
            total=total,
            bootstrap=self._bootstrap(whole, clusters, notes) if finite else None,
            groups=tuple(adjusted(parts)),
            worse=self._differing("DESC"),
            better=self._differing("ASC"),
        )

    def _groups(self) -> dict[str | None, dict[str | None, Pairs]]:
        """Return the statistics of all rows, by label, and by the values of each column."""
        columns = {"label": "y", **{name: f"s{i}" for i, name in enumerate(self.by)}}
        asked = [f"{c}, grouping({c})" for c in columns.values()]
        sets = ", ".join(["()", *(f"({c})" for c in columns.values())])
        found = self.table.rows(
            f"SELECT {', '.join(asked)}, "
            "count_if(l0 IS NULL AND l1 IS NOT NULL), count_if(l0 IS NOT NULL AND l1 IS NULL), "
            "count_if(l0 IS NULL AND l1 IS NULL), count(l), fsum(w) FILTER (l IS NOT NULL), "
            "fsum(w * w) FILTER (l IS NOT NULL), fsum(w * l), fsum(w * w * l), "
            "fsum(w * l * (w * l)) "
            f"FROM {self.rows} GROUP BY GROUPING SETS ({sets})"
        )
        groups: dict[str | None, dict[str | None, Pairs]] = {None: {}, **{c: {} for c in columns}}
        for row in found:
            keys, numbers = row[: 2 * len(columns)], row[2 * len(columns) :]
            column, value = None, None
            for place, name in enumerate(columns):
                if not keys[2 * place + 1]:
                    column, value = name, keys[2 * place]
            lost0, lost1, both, n, *sums = numbers
            w, w2, first, first2, second2 = (float(v or 0.0) for v in sums)
            summary = LossSummary(
                finite_rows=int(n),
                finite_weight=w,
                finite_weight_squared=w2,
                first=first,
                first_squared=first2,
                second_squared=second2,
            )
            text = None if value is None else str(value)
            groups[column][text] = Pairs(summary, int(lost0), int(lost1), int(both))
            if len(groups[column]) > MOST_GROUPS:
                raise TableError(
                    f"column {column!r} of {str(self.table.path)!r} must slice the rows into "
                    f"{MOST_GROUPS} values at most: got more. Hint: cut numbers into ranges first."
                )
        return groups

    def _clusters_by(self, column: str, centre: float) -> dict[str | None, ClusterSummary]:
        """Return the totals of the differences by clusters, for each value of a column."""
        keys = {"label": "y", **{name: f"s{i}" for i, name in enumerate(self.by)}}
        totals = (
            f"(SELECT {keys[column]} AS value, name, fsum(w) AS weight, "
            f"fsum(w * (l - {centre!r})) AS loss FROM {self.rows} WHERE l IS NOT NULL "
            "GROUP BY value, name)"
        )
        residuals = (
            "(SELECT *, loss - weight * (sum(loss) OVER alike / sum(weight) OVER alike) AS e "
            f"FROM {totals} WINDOW alike AS (PARTITION BY value))"
        )
        summed = ("weight", "weight * weight", "loss", "loss * weight", "loss * loss")
        # In the order of the names, so that the last digit is the same every time.
        sums = ", ".join(f"fsum({term} ORDER BY name)" for term in summed)
        found = self.table.rows(
            f"SELECT value, count(*), {sums}, max(e * e) FROM {residuals} GROUP BY value"
        )
        return {
            None if value is None else str(value): ClusterSummary(
                clusters=int(many),
                centre=centre,
                weight=weight,
                weight_squared=squared,
                first=first,
                crossed=crossed,
                second=second,
                largest=largest,
                names=None,
            )
            for value, many, weight, squared, first, crossed, second, largest in found
        }

    def _carriers(self) -> float:
        """Return how few rows carry half of the variance of the differences."""
        ((rows,),) = self.table.rows(
            "WITH squares AS (SELECT (w * (l - m)) * (w * (l - m)) AS q FROM "
            f"{self.rows}, (SELECT fsum(w * l) / fsum(w) AS m FROM {self.rows} WHERE l IS NOT NULL)"
            " WHERE l IS NOT NULL), bins AS (SELECT floor(4 * log2(greatest(q, 1e-300))) AS b, "
            "fsum(q) AS part, count(*) AS n FROM squares GROUP BY b), running AS ("
            "SELECT b, part, n, sum(part) OVER (ORDER BY b DESC) AS so_far, sum(part) OVER () AS "
            "whole FROM bins) SELECT sum(n * greatest(0, least(1, (0.5 * whole - so_far + part) "
            "/ greatest(part, 1e-300)))) FROM running"
        )
        return float(rows or 0.0)

    def _bootstrap(
        self, whole: Pairs, clusters: ClusterSummary | None, notes: list[str]
    ) -> Interval | None:
        many = whole.differences.n if clusters is None else clusters.clusters
        if many > MOST_FETCHED:
            what = "rows" if clusters is None else "clusters"
            notes.append(f"no bootstrap: more than {MOST_FETCHED:,} {what}")
            return None
        rows = f"(SELECT name, w, l FROM {self.rows} WHERE l IS NOT NULL)"
        if clusters is None:
            found = self.table.rows(f"SELECT w, w * l FROM {rows} ORDER BY w * l, w")
        else:
            found = self.table.rows(
                f"SELECT weight, loss FROM {totals_sql(rows, 0.0)} ORDER BY loss, weight"
            )
        drawn = np.array(found, dtype=np.float64).reshape(-1, 2)
        return bootstrap_interval(drawn[:, 0], drawn[:, 1], level=self.level)

    def _differing(self, order: str) -> tuple[DifferingRow, ...]:
        """Return the rows with the largest, or the least, differences that are some."""
        infinite = "CAST('inf' AS DOUBLE)"
        losses = f"coalesce(l0, {infinite}) AS a, coalesce(l1, {infinite}) AS b"
        found = self.table.rows(
            f"SELECT key, y, a, b FROM (SELECT key, y, {losses} FROM {self.rows}) "
            f"WHERE {'b > a' if order == 'DESC' else 'b < a'} ORDER BY b - a {order}, key "
            f"LIMIT {_SHOWN}"
        )
        return tuple(DifferingRow(str(k), str(y), float(a), float(b)) for k, y, a, b in found)
