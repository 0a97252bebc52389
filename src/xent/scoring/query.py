"""The SQL that turns a table and its reading into summaries, faults and the rows worth showing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xent.arrays import unit_sum_tolerance
from xent.scoring.duckdb import Table, quote_text
from xent.scoring.reading import Reading
from xent.scoring.summary import LARGEST_WEIGHT, SMALLEST_WEIGHT, LossSummary

__all__ = ["FAULTS", "Group", "Query"]

# What can be wrong with a row, most basic first; the number is the fault's code in the query.
FAULTS = ("", "label", "weight", "missing", "length", "value", "unknown", "sum")


@dataclass(frozen=True)
class Group:
    """What one scan returns for the rows of one class (or of one fault).

    Attributes
    ----------
    position
        The class, counted from 1; None where the label has none.
    fault
        One of `FAULTS`; the empty text for good rows.
    rows
        All rows, those of weight 0 too.
    loose
        Rows whose sum is off by more than the ordinary tolerance.
    summary
        The mergeable statistics.
    correct
        Σw of the rows whose largest probability is the truth's, ties going to the first class.
    floors
        Per floor: Σw of the rows below it, and Σwℓ of the others.
    """

    position: int | None
    fault: str
    rows: int
    loose: int
    summary: LossSummary
    correct: float
    floors: tuple[tuple[float, float], ...]


class Query:
    """The queries about one table read in one way.

    Each builds on the same nested selects: the named numbers of a row (label ``y``, weight ``w``,
    probabilities), then its class position ``k``, ``total``, ``low`` and ``high``, then its
    ``fault``, the truth's probability ``p`` and the ``guess``, then its loss ``l``.
    """

    def __init__(
        self, table: Table, reading: Reading, *, length: int, allowed: float | None
    ) -> None:
        self.table = table
        self.reading = reading
        self.length = length
        self.strict = unit_sum_tolerance(0.0, length)
        self.tolerance = self.strict if allowed is None else max(allowed, self.strict)

    # ---- the rows -----------------------------------------------------------------------------

    def _raw(self, *, numbered: bool) -> str:
        table, reading = self.table, self.reading
        label = reading.spelling.sql(table.label(reading.label))
        parts = [f"{table.number_of_row} AS rn"] if numbered else []
        parts += [f"{label} AS y"]
        if reading.weights is not None:
            parts += [f"{table.number(reading.weights)} AS w"]
        if numbered and reading.id is not None:
            parts += [f"{table.text(reading.id)} AS id"]
        if reading.layout == "list":
            parts += [f"{table.numbers(reading.columns[0])} AS d"]
        else:
            parts += [f"{table.number(c)} AS d{i}" for i, c in enumerate(reading.columns, 1)]
        source = table.numbered if numbered else table.source
        return f"(SELECT {', '.join(parts)} FROM {source})"

    def _placed(self, *, numbered: bool) -> str:
        raw = self._raw(numbered=numbered)
        if self.reading.classes:
            names = ", ".join(
                f"({quote_text(c)}, {i})" for i, c in enumerate(self.reading.classes, 1)
            )
            k = "names.k"
            join = f" LEFT JOIN (VALUES {names}) AS names(name, k) ON y = names.name"
        else:
            # By way of DOUBLE: a cast of 0.6 to an integer would round it to class 1.
            index = "TRY_CAST(y AS DOUBLE)"
            inside = f"{index} BETWEEN 0 AND {self.length - 1} AND {index} = floor({index})"
            k = f"CASE WHEN {inside} THEN TRY_CAST({index} AS BIGINT) + 1 END"
            join = ""
        total, low, high = self._extremes()
        return (
            f"(SELECT r.*, {k} AS k, {total} AS total, {low} AS low, {high} AS high "
            f"FROM {raw} AS r{join})"
        )

    def _extremes(self) -> tuple[str, str, str]:
        if self.reading.layout == "list":
            return "list_sum(d)", "list_min(d)", "list_max(d)"
        if self.reading.layout == "binary":
            return "d1 * 0.0 + 1.0", "d1", "d1"  # NULL, NaN and ∞ stay what they are
        columns = [f"d{i}" for i in range(1, self.length + 1)]
        joined = ", ".join(columns)
        return _tree(columns), f"least({joined})", f"greatest({joined})"

    def _judged(self, *, numbered: bool) -> str:
        limit = 1.0 + self.strict
        tests = [("label", "y IS NULL")]
        if self.reading.weights is not None:
            inside = f"w BETWEEN {SMALLEST_WEIGHT!r} AND {LARGEST_WEIGHT!r}"
            # To the engine NaN is the largest number, and a file's statistics may leave it out.
            tests += [("weight", f"w IS NULL OR NOT (isfinite(w) AND (w = 0 OR {inside}))")]
        if self.reading.layout == "list":
            # A list may hold NULLs; the aggregates would pass over them.
            tests += [("missing", "d IS NULL OR len(d) <> list_aggregate(d, 'count')")]
            tests += [("length", f"len(d) <> {self.length}")]
        else:
            tests += [("missing", "total IS NULL")]
        tests += [("value", f"NOT isfinite(total) OR low < 0 OR high > {limit!r}")]
        tests += [("unknown", "k IS NULL")]
        tests += [("sum", f"abs(total - 1.0) > {self.tolerance!r}")]
        fault = " ".join(f"WHEN {test} THEN {FAULTS.index(name)}" for name, test in tests)
        truth, guess = self._truth()
        return (
            f"(SELECT *, CASE {fault} ELSE 0 END AS fault, {truth} AS p, {guess} AS guess "
            f"FROM {self._placed(numbered=numbered)})"
        )

    def _truth(self) -> tuple[str, str]:
        if self.reading.layout == "list":
            return "d[k]", "list_position(d, high)"
        if self.reading.layout == "binary":
            return (
                "CASE k WHEN 2 THEN d1 WHEN 1 THEN 1.0 - d1 END",
                "CASE WHEN d1 > 0.5 THEN 2 ELSE 1 END",
            )
        numbers = range(1, self.length + 1)
        truth = " ".join(f"WHEN {i} THEN d{i}" for i in numbers)
        guess = " ".join(f"WHEN d{i} = high THEN {i}" for i in numbers)
        return f"CASE k {truth} END", f"CASE {guess} END"

    def _lossy(self, *, numbered: bool) -> str:
        # Some engines raise at ln(0), so 0 never reaches it; no loss is negative, so neither does
        # a certainty that rounded to more than 1.
        loss = "WHEN p > 0 THEN -ln(least(p, 1.0))"
        if self.reading.layout == "binary":
            # 1 − d1 rounds; the quotient puts the rounding right, as log1p would (u − 1 is exact).
            rounded = "(CASE WHEN d1 < 1.0 THEN 1.0 - d1 ELSE 1.0 END)"
            loss = (
                f"WHEN k = 1 AND d1 < 0.5 THEN CASE WHEN 1.0 - d1 = 1.0 THEN d1 "
                f"ELSE -ln({rounded}) * (d1 / (1.0 - {rounded})) END {loss}"
            )
        return (
            f"(SELECT *, CASE WHEN fault > 0 THEN NULL {loss} END AS l "
            f"FROM {self._judged(numbered=numbered)})"
        )

    # ---- what is asked ------------------------------------------------------------------------

    def groups(
        self, floors: Sequence[float] = (), centres: Sequence[float] | None = None
    ) -> list[Group]:
        """Scan the table once: a group per class and fault, its sums about the class's centre."""
        weighted = self.reading.weights is not None
        centre, about = "0.0", "l"
        if centres is not None:
            cases = " ".join(f"WHEN {k} THEN {c!r}" for k, c in enumerate(centres, 1) if c)
            centre = f"CASE k {cases} ELSE 0.0 END" if cases else "0.0"
            about = f"(l - {centre})"
        counted = "w > 0" if weighted else "true"
        w = "w * " if weighted else ""
        asked = [
            "count(*)",
            f"count_if(abs(total - 1.0) > {self.strict!r} AND {counted})",
            f"count_if(l IS NOT NULL AND {counted})",
            f"count_if(l IS NULL AND {counted})",
            f"fsum({w}{about}) FILTER ({counted})",
            f"fsum({w}{about} * {w}{about}) FILTER ({counted})",
        ]
        asked += ["fsum(w) FILTER (guess = k)"] if weighted else ["count_if(guess = k)"]
        for floor in floors:
            below = f"p < {floor!r}"
            asked += [f"fsum(w) FILTER ({below})" if weighted else f"count_if({below})"]
            asked += [f"fsum({w}l) FILTER (NOT {below} AND {counted})"]
        if weighted:
            for test in ("l IS NOT NULL", "l IS NULL"):
                asked += [f"fsum({x}) FILTER ({test} AND w > 0)" for x in ("w", "w * w")]
            asked += [f"fsum(w * w * {about}) FILTER (w > 0)"]
        rows = self.table.rows(
            f"SELECT CASE WHEN fault = 0 THEN k END AS kk, fault, {', '.join(asked)} "
            f"FROM {self._lossy(numbered=False)} GROUP BY ALL ORDER BY fault, kk"
        )
        return [self._group(row, len(floors), centres) for row in rows]

    def _group(
        self, row: Sequence[float | None], floors: int, centres: Sequence[float] | None
    ) -> Group:
        position, fault = row[0], int(row[1] or 0)
        count, loose, finite, infinite = (int(value or 0) for value in row[2:6])
        first, second, correct, *rest = (float(value or 0.0) for value in row[6:])
        pairs = tuple(zip(rest[0 : 2 * floors : 2], rest[1 : 2 * floors : 2], strict=True))
        if self.reading.weights is None:
            sums = (float(finite), float(finite), float(infinite), float(infinite), first)
        else:
            sums = (rest[-5], rest[-4], rest[-3], rest[-2], rest[-1])
        k = None if position is None else int(position)
        return Group(
            position=k,
            fault=FAULTS[fault],
            rows=count,
            loose=loose,
            summary=LossSummary(
                finite_rows=finite,
                finite_weight=sums[0],
                finite_weight_squared=sums[1],
                infinite_rows=infinite,
                infinite_weight=sums[2],
                infinite_weight_squared=sums[3],
                centre=0.0 if centres is None or k is None else centres[k - 1],
                first=first,
                first_squared=sums[4],
                second_squared=second,
            ),
            correct=correct,
            floors=pairs,
        )

    def worst(self, count: int) -> list[tuple[int, str, str, float, list[float]]]:
        """Return the rows with the least P(truth): row number, name, label, P(truth), all P."""
        counted = "w > 0" if self.reading.weights is not None else "true"
        name = (
            "CAST(rn AS VARCHAR)"
            if self.reading.id is None
            else "coalesce(id, CAST(rn AS VARCHAR))"
        )
        rows = self.table.rows(
            f"SELECT rn, {name}, y, p, {self._all_probabilities()} "
            f"FROM {self._lossy(numbered=True)} WHERE fault = 0 AND {counted} "
            f"ORDER BY l DESC NULLS FIRST, rn LIMIT {count}"
        )
        return [(int(row[0]), str(row[1]), str(row[2]), float(row[3]), row[4]) for row in rows]

    def _all_probabilities(self) -> str:
        if self.reading.layout == "list":
            return "d"
        if self.reading.layout == "binary":
            return "[1.0 - d1, d1]"
        return f"[{', '.join(f'd{i}' for i in range(1, self.length + 1))}]"

    def first_fault(
        self, fault: str
    ) -> tuple[int, str | None, float | None, int, tuple[object, ...]]:
        """Return the first row with a fault: number, label, total, length, (weight, *texts)."""
        table, reading = self.table, self.reading
        length = "len(d)" if reading.layout == "list" else str(self.length)
        found = table.rows(
            f"SELECT rn, y, total, {length} FROM {self._judged(numbered=True)} "
            f"WHERE fault = {FAULTS.index(fault)} ORDER BY rn LIMIT 1"
        )[0]
        weight = "NULL" if reading.weights is None else table.text(reading.weights)
        columns = ", ".join([weight, *(table.text(c) for c in reading.columns)])
        # The row as the file has it: a number that is none was lost in the cast.
        raw = table.rows(
            f"SELECT {columns} FROM {table.source} LIMIT 1 OFFSET {int(found[0]) - 1}"
        )[0]
        return int(found[0]), found[1], found[2], int(found[3] or 0), raw


def _tree(terms: Sequence[str]) -> str:
    """Return a sum as a balanced tree: few roundings, and no deep expression."""
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    return f"({_tree(terms[:half])} + {_tree(terms[half:])})"
