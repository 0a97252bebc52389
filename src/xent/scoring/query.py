"""The SQL that turns a table and its reading into summaries, faults and the rows worth showing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xent.arrays import unit_sum_tolerance
from xent.scoring.duckdb import Table, quote_text
from xent.scoring.histogram import BIN_OF_ONE, Histogram, bin_of_sql
from xent.scoring.reading import Reading, Spelling
from xent.scoring.summary import LARGEST_WEIGHT, SMALLEST_WEIGHT, LossSummary
from xent.scoring.tally import Cell, Tally, loss_bin_sql

__all__ = ["FAULTS", "MOST_GUESSES", "MOST_QUESTIONS", "Policy", "Query", "Scan"]

# What can be wrong with a row, most basic first; the number is the fault's code in the query.
FAULTS = ("", "label", "weight", "missing", "length", "value", "unknown", "sum")
MOST_QUESTIONS = 32
"""Classes whose calibration is looked at one by one; the rarest beyond are pooled."""
MOST_GUESSES = 10_000
"""Pairs of a true and a likeliest class that are fetched: those which cost the most. So many values
may a column of slices have."""
MOST_COPIES = 10**9
"""How many rows one row may stand for: with up to 9 million such rows the count is exact."""
_WHOLE = re.compile(r"0|-?[1-9][0-9]*")


@dataclass(frozen=True)
class Scan:
    """What one scan of a table returns: the tally of its good rows, and how many are bad.

    Attributes
    ----------
    tally
        The statistics of the rows without a fault.
    faults
        Rows by fault, one of `FAULTS`, most basic first.
    """

    tally: Tally
    faults: Mapping[str, int]


@dataclass(frozen=True)
class Policy:
    """What the caller said about rows that are not as they should be, and about weights.

    Attributes
    ----------
    unnormalised
        How far from 1 the sum of a row may be; None for rounding only.
    floor
        What P(truth) is raised to, where it is less; None for nothing.
    unseen
        Whether a label without a probability counts as one of probability 0.
    """

    unnormalised: float | None = None
    floor: float | None = None
    unseen: bool = False


class Query:
    """The queries about one table read in one way.

    Each builds on the same nested selects: the named numbers of a row (label ``y``, weight ``w``,
    probabilities), then its class position ``k``, ``total`` and ``high``, then the truth's
    probability ``p``, the ``guess`` and whether the row is ``good``, then its ``fault`` and its
    loss ``l``. What a query does not use of these the engine does not compute.
    """

    def __init__(
        self,
        table: Table,
        reading: Reading,
        *,
        length: int,
        policy: Policy = Policy(),
        floors: Sequence[float] = (),
        slices: Sequence[int] = (),
    ) -> None:
        self.table = table
        self.reading = reading
        self.length = length
        self.policy = policy
        self.floors = tuple(sorted(floors))
        self.slices = tuple(slices)
        self.strict = unit_sum_tolerance(0.0, length)
        self.tolerance = max(policy.unnormalised or 0.0, self.strict)

    @property
    def _weighted(self) -> bool:
        return self.reading.weights is not None

    # ---- the rows -----------------------------------------------------------------------------

    def _raw(self, *, numbered: bool) -> str:
        table, reading = self.table, self.reading
        parts = [f"{table.number_of_row} AS rn"] if numbered else []
        parts += [f"{self._label()} AS y"]
        if reading.weights is not None:
            parts += [f"{table.number(reading.weights)} AS w"]
        if numbered and reading.id is not None:
            parts += [f"{table.text(reading.id)} AS id"]
        parts += [f"{table.label(column)} AS s{i}" for i, column in enumerate(self.slices)]
        if reading.layout == "list":
            parts += [f"{table.numbers(reading.columns[0])} AS d"]
        else:
            parts += [f"{table.number(c)} AS d{i}" for i, c in enumerate(reading.columns, 1)]
        source = table.numbered if numbered else table.source
        return f"(SELECT {', '.join(parts)} FROM {source})"

    def _label(self) -> str:
        reading = self.reading
        if self._by_number():
            return self.table.raw(reading.label)
        return reading.spelling.sql(self.table.label(reading.label))

    def _by_number(self) -> bool:
        """Return whether labels and classes are integers, which need not become texts."""
        reading = self.reading
        return (
            self.table.is_integer(reading.label)
            and reading.spelling is Spelling.AS_IS
            and all(map(_WHOLE.fullmatch, reading.classes))
        )

    def _placed(self, *, numbered: bool) -> str:
        raw, join = self._raw(numbered=numbered), ""
        classes = self.reading.classes
        if self._by_number():
            numbers = [int(c) for c in classes] or list(range(self.length))
            first, last = numbers[0], numbers[-1]
            if numbers == list(range(first, first + len(numbers))):
                place = f"CAST(y AS BIGINT) - {first} + 1"
                k = f"CASE WHEN y BETWEEN {first} AND {last} THEN {place} END"
            else:
                k = f"CASE y {' '.join(f'WHEN {c} THEN {i}' for i, c in enumerate(numbers, 1))} END"
        elif classes:
            names = ", ".join(f"({quote_text(c)}, {i})" for i, c in enumerate(classes, 1))
            k = "names.k"
            join = f" LEFT JOIN (VALUES {names}) AS names(name, k) ON y = names.name"
        else:
            # By way of DOUBLE: a cast of 0.6 to an integer would round it to class 1.
            index = "TRY_CAST(y AS DOUBLE)"
            inside = f"{index} BETWEEN 0 AND {self.length - 1} AND {index} = floor({index})"
            k = f"CASE WHEN {inside} THEN TRY_CAST({index} AS BIGINT) + 1 END"
        if self.policy.unseen:
            k = f"CASE WHEN y IS NOT NULL THEN coalesce({k}, {self.length + 1}) END"
        total, _, high = self._extremes()
        return f"(SELECT r.*, {k} AS k, {total} AS total, {high} AS high FROM {raw} AS r{join})"

    def _numbers(self) -> list[str]:
        return [f"d{i}" for i in range(1, self.length + 1)]

    def _extremes(self) -> tuple[str, str, str]:
        """Return the sum, the least and the largest of a row's numbers."""
        if self.reading.layout == "list":
            return "list_sum(d)", "list_min(d)", "list_max(d)"
        if self.reading.layout == "binary":
            # NULL, NaN and ∞ stay what they are.
            return "d1 * 0.0 + 1.0", "d1", "greatest(d1, 1.0 - d1)"
        joined = ", ".join(self._numbers())
        return _tree(self._numbers()), f"least({joined})", f"greatest({joined})"

    def _tests(self) -> list[tuple[str, str]]:
        """Return what makes a row bad: faults, each with its condition, most basic first."""
        limit = 1.0 + self.strict
        tests = [("label", "y IS NULL")]
        if self._weighted:
            tests += [("weight", f"NOT ({self._fine_weight()})")]
        least, most = self._extremes()[1:]
        if self.reading.layout == "list":
            # A list may hold NULLs; the aggregates would pass over them.
            tests += [("missing", "d IS NULL OR len(d) <> list_aggregate(d, 'count')")]
            tests += [("length", f"len(d) <> {self.length}")]
        else:
            tests += [("missing", "total IS NULL")]
            most = "d1" if self.reading.layout == "binary" else most
        outside = f"NOT isfinite(total) OR {least} < 0 OR {most} > {limit!r}"
        tests += [("value", outside), ("unknown", "k IS NULL")]
        tests += [("sum", f"abs(total - 1.0) > {self.tolerance!r}")]
        return tests

    def _fine_weight(self) -> str:
        inside = f"w BETWEEN {SMALLEST_WEIGHT!r} AND {LARGEST_WEIGHT!r}"
        if self.reading.counts:
            inside = f"w BETWEEN 1 AND {MOST_COPIES} AND w = floor(w)"
        # To the engine NaN is the largest number, and a file's statistics may leave it out.
        return f"w IS NOT NULL AND isfinite(w) AND (w = 0 OR {inside})"

    def _good(self) -> str:
        """Return whether a row has no fault, by tests that cost less than finding out which.

        What is NULL is not good, nor is NaN, which is above every limit.
        """
        tests = ["y IS NOT NULL", "k IS NOT NULL", f"abs(total - 1.0) <= {self.tolerance!r}"]
        if self._weighted:
            tests += [self._fine_weight()]
        limit = f"<= {1.0 + self.strict!r}"
        if self.reading.layout == "list":
            tests += ["len(d) = list_aggregate(d, 'count')", f"len(d) = {self.length}"]
            tests += ["list_min(d) >= 0", f"high {limit}"]
        elif self.reading.layout == "binary":
            tests += ["d1 >= 0", f"d1 {limit}"]
        else:
            tests += [f"{d} >= 0" for d in self._numbers()]
            # Within the strict tolerance none can be larger than the sum.
            tests += [f"high {limit}"] if self.tolerance > self.strict else []
        return f"coalesce({' AND '.join(tests)}, false)"

    def _judged(self, *, numbered: bool) -> str:
        fault = " ".join(f"WHEN {test} THEN {FAULTS.index(name)}" for name, test in self._tests())
        truth, guess = self._truth()
        return (
            f"(SELECT *, CASE WHEN good THEN 0 {fault} ELSE 0 END AS fault FROM "
            f"(SELECT *, {self._good()} AS good, {truth} AS p, {guess} AS guess "
            f"FROM {self._placed(numbered=numbered)}))"
        )

    def _truth(self) -> tuple[str, str]:
        unseen = f"WHEN k = {self.length + 1} THEN 0.0"
        if self.reading.layout == "list":
            truth = f"CASE {unseen} ELSE d[k] END" if self.policy.unseen else "d[k]"
            return truth, "list_position(d, high)"
        if self.reading.layout == "binary":
            return (
                f"CASE WHEN k = 2 THEN d1 WHEN k = 1 THEN 1.0 - d1 {unseen} END",
                "CASE WHEN d1 > 0.5 THEN 2 ELSE 1 END",
            )
        pairs = [*enumerate(self._numbers(), 1), (self.length + 1, "0.0")]
        truth = " ".join(f"WHEN {i} THEN {d}" for i, d in pairs)
        guess = " ".join(f"WHEN {d} = high THEN {i}" for i, d in pairs[:-1])
        return f"CASE k {truth} END", f"CASE {guess} END"

    def losses(self, *, numbered: bool) -> str:
        """Return the rows as a FROM clause.

        Their columns: label text or number ``y``, class position ``k`` from 1, ``guess``,
        probability of the truth ``p``, loss ``l`` in nats (NULL: infinite, or a faulty row),
        ``fault`` (0: none), weight ``w`` if there are any, slices ``s0`` …; and with `numbered`
        the row's number ``rn`` and its ``id``, if the reading has one.
        """
        # Some engines raise at ln(0), so 0 never reaches it; no loss is negative, so neither does
        # a certainty that rounded to more than 1.
        loss = "WHEN p > 0 THEN -ln(least(p, 1.0))"
        if self.policy.floor is not None:
            loss = f"WHEN p IS NOT NULL THEN -ln(least(greatest(p, {self.policy.floor!r}), 1.0))"
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

    def _keyed(self) -> str:
        """Return the rows with what they are grouped by, and what else is summed of them."""
        if self.reading.layout == "list":
            # The inner product raises at a NULL, even in a list that is not asked for.
            squares = "list_sum(list_transform(d, lambda x: x * x))"
        elif self.reading.layout == "binary":
            squares = "d1 * d1 + (1.0 - d1) * (1.0 - d1)"
        else:
            squares = _tree([f"{d} * {d}" for d in self._numbers()])
        below = " + ".join(f"CAST(p < {floor!r} AS INTEGER)" for floor in self.floors) or "0"
        return (
            f"(SELECT *, {loss_bin_sql('l')} AS lb, {below} AS f, {bin_of_sql('t')} AS tb, "
            "CASE WHEN fault > 0 THEN NULL WHEN c THEN -ln(t) WHEN t < 1.0 THEN -ln(1.0 - t) END "
            "AS tl "
            "FROM (SELECT *, guess = k AS c, least(high, 1.0) AS t, "
            f"CASE WHEN fault = 0 THEN greatest({squares} - 2.0 * p + 1.0, 0.0) END AS b "
            f"FROM {self.losses(numbered=False)}))"
        )

    # ---- what is asked ------------------------------------------------------------------------

    def _sums(self, about: str, *, explain: bool) -> dict[str, str]:
        """Return what is summed in every group: names, each with its SQL."""
        if self._weighted:
            # The square of a sampling weight; n equal rows are n, and the sum of n squares of 1.
            w2 = "w" if self.reading.counts else "w * w"
            sums = {
                "finite": self._count("l IS NOT NULL"),
                "infinite": self._count("l IS NULL"),
                "weight": "fsum(w) FILTER (l IS NOT NULL)",
                "weight_squared": f"fsum({w2}) FILTER (l IS NOT NULL)",
                "infinite_weight": "fsum(w) FILTER (l IS NULL)",
                "infinite_weight_squared": f"fsum({w2}) FILTER (l IS NULL)",
                "first": f"fsum(w * {about})",
                "first_squared": f"fsum({w2} * {about})",
                "second_squared": f"fsum({w2} * {about} * {about})",
                "correct": "fsum(w) FILTER (guess = k)",
            }
            if not self.reading.counts:  # (wℓ)² keeps its digits where w² alone would overflow
                sums["second_squared"] = f"fsum(w * {about} * (w * {about}))"
        else:
            sums = {
                "finite": "count(l)",
                "first": f"fsum({about})",
                "second_squared": f"fsum({about} * {about})",
                "correct": "count_if(guess = k)",
            }
        if self.tolerance > self.strict:
            sums |= {"loose": self._count(f"abs(total - 1.0) > {self.strict!r}")}
        if self.policy.floor is not None:
            sums |= {"touched": self._count(f"p < {self.policy.floor!r}")}
            sums |= {"zeros": self._count("p = 0")}
        if explain:
            w = "w * " if self._weighted else ""
            sums |= {
                "brier": f"fsum({w}b)",
                "right": self._count("guess = k"),
                "probability": f"fsum({w}t)",
                "complement": f"fsum({w}(1.0 - t))",
                "top_loss": f"fsum({w}tl)",
                "top_squared": f"fsum({w}(CASE WHEN c THEN (1.0 - t) * (1.0 - t) ELSE t * t END))",
            }
        return {"rows": "count(*)", **sums}

    def _count(self, condition: str) -> str:
        """Return SQL for how many rows of those that count fulfil a condition."""
        if self.reading.counts:
            return f"TRY_CAST(coalesce(fsum(w) FILTER ({condition}), 0) AS BIGINT)"
        return f"count_if({condition}{' AND w > 0' if self._weighted else ''})"

    def scan(self, centres: Sequence[float] | None = None, *, explain: bool = True) -> Scan:
        """Scan the table once.

        Parameters
        ----------
        centres
            Per class what its sums are taken about, if not 0.
        explain
            Whether to group by more than the class.
        """
        about = "l"
        if centres is not None and any(centres):
            cases = " ".join(f"WHEN {k} THEN {c!r}" for k, c in enumerate(centres, 1) if c)
            about = f"(l - CASE k {cases} ELSE 0.0 END)"
        keys = {"k": ["k"]}
        if explain:
            keys |= {"loss": ["lb", "f"], "guess": ["k", "guess"], "top": ["tb"]}
        keys |= {f"s{i}": [f"s{i}"] for i in range(len(self.slices))}
        columns = list(dict.fromkeys(column for by in keys.values() for column in by))
        sums = self._sums(about, explain=explain)
        asked = [f"{column}, grouping({column}) AS g_{column}" for column in columns]
        asked += [f"{sql} AS n_{name}" for name, sql in sums.items()]
        sets = ", ".join(f"(fault, {', '.join(by)})" for by in keys.values())
        source = self._keyed() if explain else self.losses(numbered=False)
        sql = f"SELECT fault, {', '.join(asked)} FROM {source} GROUP BY GROUPING SETS ({sets})"
        many = [f"s{i}" for i in range(len(self.slices))]
        many += ["guess"] if explain and self.length**2 > MOST_GUESSES else []
        if many:
            few = " AND ".join(f"g_{column} = 1" for column in many)
            groups_of = ", ".join(f"g_{column}" for column in many)
            place = f"row_number() OVER (PARTITION BY {groups_of} ORDER BY n_first DESC NULLS LAST)"
            sql = f"SELECT * FROM ({sql}) QUALIFY ({few}) OR {place} <= {MOST_GUESSES + 1}"
        names = ["fault", *(n for c in columns for n in (c, f"g_{c}")), *(f"n_{n}" for n in sums)]
        found = [dict(zip(names, row, strict=True)) for row in self.table.rows(sql)]
        faults: dict[str, int] = {}
        groups: dict[str, dict[Any, dict[str, Any]]] = {name: {} for name in keys}
        for row in found:
            by = {column for column in columns if not row[f"g_{column}"]}
            name = next(name for name, own in keys.items() if set(own) == by)
            if row["fault"]:
                if name == "k":
                    fault = FAULTS[row["fault"]]
                    faults[fault] = faults.get(fault, 0) + int(row["n_rows"])
                continue
            key = tuple(row[column] for column in keys[name])
            groups[name][key if len(key) > 1 else key[0]] = row

        def counted(name: str) -> int:
            return sum(int(row.get(f"n_{name}") or 0) for row in groups["k"].values())

        classes = {
            k: self._cell(row, 0.0 if centres is None else centres[k - 1])
            for k, row in sorted(groups["k"].items())
        }
        tally = Tally(
            classes=classes,
            guesses={
                key: self._cell(row)
                for key, row in list(groups.get("guess", {}).items())[:MOST_GUESSES]
            },
            losses={key: self._cell(row) for key, row in groups.get("loss", {}).items()},
            top=self._top(groups["top"]) if explain else None,
            slices=tuple(
                {key: self._cell(row) for key, row in groups[f"s{i}"].items()}
                for i in range(len(self.slices))
            ),
            loose=counted("loose"),
            touched=counted("touched"),
            zeros=counted("zeros"),
        )
        return Scan(tally, {fault: faults[fault] for fault in FAULTS if fault in faults})

    def _cell(self, row: Mapping[str, Any], centre: float = 0.0) -> Cell:
        def of(name: str) -> float:
            return float(row.get(f"n_{name}") or 0.0)

        finite = int(row["n_finite"])
        if self._weighted:
            infinite, weight, squared = int(row["n_infinite"]), of("weight"), of("weight_squared")
            lost, lost_squared = of("infinite_weight"), of("infinite_weight_squared")
            first_squared = of("first_squared")
        else:
            infinite = int(row["n_rows"]) - finite
            weight = squared = float(finite)
            lost = lost_squared = float(infinite)
            first_squared = of("first")
        summary = LossSummary(
            finite_rows=finite,
            finite_weight=weight,
            finite_weight_squared=squared,
            infinite_rows=infinite,
            infinite_weight=lost,
            infinite_weight_squared=lost_squared,
            centre=centre,
            first=of("first"),
            first_squared=first_squared,
            second_squared=of("second_squared"),
        )
        return Cell(int(row["n_rows"]), summary, of("brier"), of("correct"))

    def _top(self, groups: Mapping[int, Mapping[str, Any]]) -> Histogram:
        """Return the histogram of the likeliest class: with what probability is it the truth."""
        bins = sorted(b for b in groups if self._cell(groups[b]).summary.n)
        cells = [self._cell(groups[b]) for b in bins]

        def column(name: str) -> Any:
            return np.array([float(groups[b][f"n_{name}"] or 0.0) for b in bins])

        weight = np.array([cell.summary.weight for cell in cells])
        correct = np.array([cell.correct for cell in cells])
        # A certainty that was wrong: its loss is infinite, whatever the truth's probability.
        certain = np.array([b == BIN_OF_ONE for b in bins])
        rows = np.array([cell.summary.n for cell in cells], dtype=np.int64)
        right = column("right").astype(np.int64)
        return Histogram(
            bins=np.array(bins, dtype=np.int64),
            rows=rows,
            weight=weight,
            weight_squared=np.array([cell.summary.weight_squared for cell in cells]),
            hits=correct,
            softness=np.zeros(len(bins)),
            probability=column("probability"),
            complement=column("complement"),
            loss=column("top_loss"),
            squared=column("top_squared"),
            infinite_rows=np.where(certain, rows - right, 0),
            infinite_weight=np.where(certain, weight - correct, 0.0),
        )

    def questions(self, groups: Sequence[Sequence[int]], *, judged: bool) -> list[Histogram]:
        """Return the histograms of yes-or-no questions, "is the truth among these classes?".

        Parameters
        ----------
        groups
            Per question its classes, counted from 1.
        judged
            Whether the table holds rows that do not count, which have to be told again. Otherwise
            a question reads the columns of its own classes only.
        """
        reading = self.reading
        # Of rows that are known to be good nothing is computed but what is asked.
        rows_from = self.losses(numbered=False) if judged else self._placed(numbered=False)
        source = f"{rows_from} WHERE {'fault = 0' if judged else 'true'}"
        parts = []
        w = "w" if self._weighted else "1.0"
        w2 = "w" if self.reading.counts else f"{w} * {w}"
        counted = "AND w > 0" if self._weighted else ""
        for place, group in enumerate(groups):
            if reading.layout == "list":
                listed = ", ".join(map(str, group))
                p = (
                    f"d[{group[0]}]"
                    if len(group) == 1
                    else f"list_sum(list_filter(d, lambda x, i: i IN ({listed})))"
                )
            elif reading.layout == "binary":
                p = "d1"
            else:
                p = _tree([f"d{i}" for i in group])
            yes = f"k IN ({', '.join(map(str, group))})"
            rows = f"(SELECT least({p}, 1.0) AS q, {yes} AS yes, {w} AS w FROM {source} {counted})"
            # log(1 − q) by way of the rounded 1 − q, as in `losses`: u − 1 is exact.
            no = (
                "CASE WHEN q = 1.0 THEN NULL WHEN 1.0 - q = 1.0 THEN q "
                "WHEN q < 0.5 THEN -ln(1.0 - q) * (q / (1.0 - (1.0 - q))) ELSE -ln(1.0 - q) END"
            )
            loss = f"CASE WHEN NOT yes THEN {no} WHEN q > 0 THEN -ln(q) END"
            rows_of = (
                "TRY_CAST(coalesce(fsum(w) FILTER ({0}), 0) AS BIGINT)"
                if self.reading.counts
                else "count_if({0})"
            )
            parts.append(
                f"SELECT {place} AS question, {bin_of_sql('q')} AS bin, {rows_of.format('true')}, "
                f"fsum(w), fsum({w2.replace('1.0 * 1.0', '1.0')}), fsum(w) FILTER (yes), "
                "fsum(w * q), fsum(w * (1.0 - q)), "
                f"fsum(w * ({loss})), fsum(w * CASE WHEN yes THEN (1.0 - q) * (1.0 - q) "
                "ELSE q * q END), "
                f"{rows_of.format('yes AND q = 0 OR NOT yes AND q = 1')}, "
                f"fsum(w) FILTER (yes AND q = 0 OR NOT yes AND q = 1) FROM {rows} GROUP BY bin"
            )
        found = self.table.rows(" UNION ALL ".join(parts) + " ORDER BY question, bin")
        histograms = []
        for place in range(len(groups)):
            mine = [[float(v or 0.0) for v in row[1:]] for row in found if row[0] == place]
            columns = np.array(mine, dtype=np.float64).reshape(-1, 11).T
            named = dict(zip(_OF_A_QUESTION, columns, strict=True))
            histograms.append(Histogram(**named, softness=np.zeros(columns.shape[1])))
        return histograms

    def worst(self, count: int) -> list[tuple[int, str, str, float, list[float]]]:
        """Return the rows with the least P(truth): row number, name, label, P(truth), all P."""
        counted = "w > 0" if self.reading.weights is not None else "true"
        name = (
            "CAST(rn AS VARCHAR)"
            if self.reading.id is None
            else "coalesce(id, CAST(rn AS VARCHAR))"
        )
        rows = self.table.rows(
            f"SELECT rn, {name}, CAST(y AS VARCHAR), p, {self._all_probabilities()} "
            f"FROM {self.losses(numbered=True)} WHERE fault = 0 AND {counted} "
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
            f"SELECT rn, CAST(y AS VARCHAR), total, {length} FROM {self._judged(numbered=True)} "
            f"WHERE fault = {FAULTS.index(fault)} ORDER BY rn LIMIT 1"
        )[0]
        weight = "NULL" if reading.weights is None else table.text(reading.weights)
        columns = ", ".join([weight, *(table.text(c) for c in reading.columns)])
        # The row as the file has it: a number that is none was lost in the cast.
        raw = table.rows(
            f"SELECT {columns} FROM {table.source} LIMIT 1 OFFSET {int(found[0]) - 1}"
        )[0]
        return int(found[0]), found[1], found[2], int(found[3] or 0), raw


# The columns of a histogram as `Query.questions` asks for them.
_OF_A_QUESTION = (
    "bins", "rows", "weight", "weight_squared", "hits", "probability", "complement", "loss",
    "squared", "infinite_rows", "infinite_weight",
)  # fmt: skip


def _tree(terms: Sequence[str]) -> str:
    """Return a sum as a balanced tree: few roundings, and no deep expression."""
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    return f"({_tree(terms[:half])} + {_tree(terms[half:])})"
