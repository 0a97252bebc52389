"""The SQL that turns a table and its reading into summaries, faults and the rows worth showing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xent.arrays import unit_sum_tolerance
from xent.scoring.duckdb import Table, quote_text
from xent.scoring.histogram import BIN_OF_ONE, Histogram, bin_of_sql
from xent.scoring.prediction_sql import minus_log_sql, predictions_of
from xent.scoring.reading import Reading, Spelling
from xent.scoring.summary import LARGEST_WEIGHT, SMALLEST_WEIGHT, LossSummary
from xent.scoring.tally import Cell, Tally, loss_bin_sql

__all__ = ["FAULTS", "MOST_GUESSES", "MOST_QUESTIONS", "Policy", "Query", "Scan", "WorstRow"]

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
    already
        Rows whose logits are probabilities.
    """

    tally: Tally
    faults: Mapping[str, int]
    already: int = 0


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


class WorstRow(NamedTuple):
    """One of the rows with the largest loss."""

    number: int
    name: str
    label: str
    p: float
    loss: float
    every: list[float]
    texts: list[str | None]


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
        self.predictions = predictions_of(
            reading.layout, table, reading.columns, length, reading.scale
        )

    @property
    def _weighted(self) -> bool:
        return self.reading.weights is not None

    @property
    def _squared_weight(self) -> str:
        # The square of a sampling weight; n equal rows are n, the sum of n squares of 1.
        return "w" if self.reading.counts else "w * w"

    # ---- the rows -----------------------------------------------------------------------------

    def _raw(self, *, numbered: bool, told: Sequence[str] = ()) -> str:
        table, reading = self.table, self.reading
        parts = [f"{table.number_of_row} AS rn"] if numbered else []
        parts += [f"{self._label()} AS y"]
        if reading.weights is not None:
            parts += [f"{table.number(reading.weights)} AS w"]
        if numbered and reading.id is not None:
            parts += [f"{table.text(reading.id)} AS id"]
        parts += [f"{table.label(column)} AS s{i}" for i, column in enumerate(self.slices)]
        source = table.numbered if numbered else table.source
        return f"(SELECT {', '.join([*parts, *self.predictions.raw, *told])} FROM {source})"

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

    def _placed(self, *, numbered: bool, told: Sequence[str] = ()) -> str:
        join = ""
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
        rows = self.predictions.placed(self._raw(numbered=numbered, told=told))
        return f"(SELECT r.*, {k} AS k FROM {rows} AS r{join})"

    def _tests(self) -> list[tuple[str, str]]:
        """Return what makes a row bad: faults, each with its condition, most basic first."""
        tests = [("label", "y IS NULL")]
        if self._weighted:
            tests += [("weight", f"NOT ({self._fine_weight()})")]
        tests += [("missing", self.predictions.missing)]
        if self.predictions.wrong_length is not None:
            tests += [("length", self.predictions.wrong_length)]
        tests += [("value", self.predictions.outside(1.0 + self.strict)), ("unknown", "k IS NULL")]
        return [*tests, ("sum", f"abs(total - 1.0) > {self.tolerance!r}")]

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
        tests += self.predictions.good(1.0 + self.strict, loose=self.tolerance > self.strict)
        return f"coalesce({' AND '.join(tests)}, false)"

    def _judged(self, *, numbered: bool, told: Sequence[str] = ()) -> str:
        fault = " ".join(f"WHEN {test} THEN {FAULTS.index(name)}" for name, test in self._tests())
        asked = [f"{self._good()} AS good", f"{self.predictions.truth} AS p"]
        asked += [f"{self.predictions.guess} AS guess", *self.predictions.told]
        return (
            f"(SELECT *, CASE WHEN good THEN 0 {fault} ELSE 0 END AS fault FROM "
            f"(SELECT *, {', '.join(asked)} FROM {self._placed(numbered=numbered, told=told)}))"
        )

    def losses(self, *, numbered: bool, told: Sequence[str] = ()) -> str:
        """Return the rows as a FROM clause.

        Their columns: label text or number ``y``, class position ``k`` from 1, ``guess``,
        probability of the truth ``p``, loss ``l`` in nats (NULL: infinite, or a faulty row),
        ``fault`` (0: none), weight ``w`` if there are any, slices ``s0`` …; and with `numbered`
        the row's number ``rn`` and its ``id``, if the reading has one. `told` is selected from the
        table besides.
        """
        loss = self.predictions.loss
        if self.policy.floor is not None:
            # The lesser of a number and NULL, an infinite loss, is the number.
            loss = f"CASE WHEN p IS NOT NULL THEN least({loss}, -ln({self.policy.floor!r})) END"
        return (
            f"(SELECT *, CASE WHEN fault = 0 THEN {loss} END AS l "
            f"FROM {self._judged(numbered=numbered, told=told)})"
        )

    def _keyed(self) -> str:
        """Return the rows with what they are grouped by, and what else is summed of them."""
        below = " + ".join(f"CAST(p < {floor!r} AS INTEGER)" for floor in self.floors) or "0"
        squares = f"greatest({self.predictions.squares} - 2.0 * p + 1.0, 0.0)"
        top = self.predictions
        return (
            f"(SELECT *, {loss_bin_sql('l')} AS lb, {below} AS f, {top.bin_of_top} AS tb, "
            f"{top.complement} AS ct, CASE WHEN fault = 0 THEN {top.top_loss} END AS tl "
            "FROM (SELECT *, guess = k AS c, least(high, 1.0) AS t, "
            f"CASE WHEN fault = 0 THEN {squares} END AS b "
            f"FROM {self.losses(numbered=False)}))"
        )

    # ---- what is asked ------------------------------------------------------------------------

    def _sums(self, about: str, *, explain: bool) -> dict[str, str]:
        """Return what is summed in every group: names, each with its SQL."""
        if self._weighted:
            w2 = self._squared_weight
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
        if self.predictions.already is not None:
            sums |= {"already": f"count_if({self.predictions.already})"}
        if self.policy.floor is not None:
            sums |= {"touched": self._count(f"p < {self.policy.floor!r}")}
            sums |= {"zeros": self._count(f"fault = 0 AND {self.predictions.loss} IS NULL")}
        if explain:
            w = "w * " if self._weighted else ""
            sums |= {
                "brier": f"fsum({w}b)",
                "right": self._count("guess = k"),
                "probability": f"fsum({w}t)",
                "complement": f"fsum({w}ct)",
                "top_loss": f"fsum({w}tl)",
                "top_squared": f"fsum({w}(CASE WHEN c THEN ct * ct ELSE t * t END))",
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
        told = {fault: faults[fault] for fault in FAULTS if fault in faults}
        return Scan(tally, told, counted("already"))

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
        # Of rows that are known to be good nothing is computed but what is asked.
        rows_from = self.losses(numbered=False) if judged else self._placed(numbered=False)
        kept = [*(["fault = 0"] if judged else []), *(["w > 0"] if self._weighted else [])]
        source = f"{rows_from} WHERE {' AND '.join(kept)}" if kept else rows_from
        parts = []
        for place, group in enumerate(groups):
            p, rest = self.predictions.any_of(group)
            asked = [f"least({p}, 1.0) AS q", f"k IN ({', '.join(map(str, group))}) AS yes"]
            asked += [f"{rest} AS r"] if rest is not None else []
            asked += ["w"] if self._weighted else []
            rows = f"(SELECT {', '.join(asked)} FROM {source})"
            if rest is None:
                rows = f"(SELECT *, 1.0 - q AS r FROM {rows})"
            index = bin_of_sql("q", None if rest is None else "r")
            sums = [f"{place} AS question", f"{index} AS bin", *self._of_a_question().values()]
            parts.append(f"SELECT {', '.join(sums)} FROM {rows} GROUP BY bin")
        found = self.table.rows(" UNION ALL ".join(parts) + " ORDER BY question, bin")
        names = ["bins", *self._of_a_question()]
        histograms = []
        for place in range(len(groups)):
            mine = [[float(v or 0.0) for v in row[1:]] for row in found if row[0] == place]
            columns = np.array(mine, dtype=np.float64).reshape(-1, len(names)).T
            named = dict(zip(names, columns, strict=True))
            if not self._weighted:  # every row weighs 1
                named |= {"weight": named["rows"], "weight_squared": named["rows"]}
                named |= {"infinite_weight": named["infinite_rows"]}
            histograms.append(Histogram(**named, softness=np.zeros(columns.shape[1])))
        return histograms

    def _of_a_question(self) -> dict[str, str]:
        """Return what is summed of a yes or no: columns of a histogram, each with its SQL.

        Of a row it knows the probability ``q`` of a yes, its complement ``r``, and ``yes``.
        """
        no = f"WHEN r > 0 THEN {minus_log_sql('r', 'q')}"
        loss = f"CASE WHEN yes THEN CASE WHEN q > 0 THEN {minus_log_sql('q', 'r')} END {no} END"
        squared = "CASE WHEN yes THEN r * r ELSE q * q END"
        lost = "yes AND q = 0 OR NOT yes AND r = 0"
        if not self._weighted:
            return {
                "rows": "count(*)",
                "hits": "count_if(yes)",
                "probability": "fsum(q)",
                "complement": "fsum(r)",
                "loss": f"fsum({loss})",
                "squared": f"fsum({squared})",
                "infinite_rows": f"count_if({lost})",
            }
        return {
            "rows": self._count("true"),
            "weight": "fsum(w)",
            "weight_squared": f"fsum({self._squared_weight})",
            "hits": "fsum(w) FILTER (yes)",
            "probability": "fsum(w * q)",
            "complement": "fsum(w * r)",
            "loss": f"fsum(w * ({loss}))",
            "squared": f"fsum(w * {squared})",
            "infinite_rows": self._count(lost),
            "infinite_weight": f"fsum(w) FILTER ({lost})",
        }

    def worst(self, count: int, shown: Sequence[int] = ()) -> list[WorstRow]:
        """Return the rows with the largest loss, with the texts of some columns."""
        counted = "w > 0" if self.reading.weights is not None else "true"
        name = (
            "CAST(rn AS VARCHAR)"
            if self.reading.id is None
            else "coalesce(id, CAST(rn AS VARCHAR))"
        )
        told = [f"{self.table.text(column)} AS told{i}" for i, column in enumerate(shown)]
        asked = ["rn", name, "CAST(y AS VARCHAR)", "p", "l", self.predictions.every]
        asked += [f"told{i}" for i in range(len(shown))]
        rows = self.table.rows(
            f"SELECT {', '.join(asked)} FROM {self.losses(numbered=True, told=told)} "
            f"WHERE fault = 0 AND {counted} ORDER BY l DESC NULLS FIRST, rn LIMIT {count}"
        )
        return [
            WorstRow(
                int(rn), str(name), str(y), float(p), math.inf if loss is None else float(loss),
                every, texts,
            )
            for rn, name, y, p, loss, every, *texts in rows
        ]  # fmt: skip

    def first_fault(
        self, fault: str
    ) -> tuple[int, str | None, float | None, int, tuple[str | None, ...]]:
        """Return the first row with a fault: number, label, total, length, (weight, *texts).

        The texts are the numbers as the table has them: one that is none is lost in a cast.
        """
        table, reading = self.table, self.reading
        weight = "NULL" if reading.weights is None else table.text(reading.weights)
        told = [weight, *(table.text(column) for column in reading.columns)]
        names = [f"told{i}" for i in range(len(told))]
        length = self.predictions.entries
        ((number, label, total, entries, *texts),) = table.rows(
            f"SELECT rn, CAST(y AS VARCHAR), total, {length}, {', '.join(names)} FROM "
            + self._judged(
                numbered=True,
                told=[f"{sql} AS {name}" for sql, name in zip(told, names, strict=True)],
            )
            + f" WHERE fault = {FAULTS.index(fault)} ORDER BY rn LIMIT 1"
        )
        return int(number), label, total, int(entries or 0), tuple(texts)
