"""The SQL that turns a table and its reading into summaries, faults and the rows worth showing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xent.arrays import unit_sum_tolerance
from xent.scoring.duckdb import Table
from xent.scoring.histogram import (
    BIN_OF_ONE,
    BIN_OF_ZERO,
    Histogram,
    bin_of_fine_sql,
    fine_bin_sql,
)
from xent.scoring.prediction_sql import predictions_of
from xent.scoring.reading import Reading
from xent.scoring.summary import LARGEST_WEIGHT, SMALLEST_WEIGHT, LossSummary
from xent.scoring.tally import Cell, Tally, fine_loss_bin_sql, loss_bin_of_fine_sql
from xent.scoring.truth_sql import BinaryNames, truth_of

__all__ = ["FAULTS", "MOST_GUESSES", "MOST_QUESTIONS", "Policy", "Query", "Scan", "WorstRow"]

# What can be wrong with a row, most basic first; the number is the fault's code in the query.
FAULTS = ("", "label", "target", "weight", "missing", "length", "value", "unknown", "sum")
MOST_QUESTIONS = 32
"""Classes whose calibration is looked at one by one; the rarest beyond are pooled."""
MOST_GUESSES = 10_000
"""Pairs of a true and a likeliest class that are fetched: those which cost the most. So many values
may a column of slices have."""
MOST_COPIES = 10**9
"""How many rows one row may stand for: with up to 9 million such rows the count is exact."""


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
        self.truth = truth_of(
            table,
            reading,
            self.predictions,
            floor=policy.floor,
            unseen=policy.unseen,
            strict=self.strict,
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
        if reading.weights is not None:
            parts += [f"{table.number(reading.weights)} AS w"]
        if numbered and reading.id is not None:
            parts += [f"{table.text(reading.id)} AS id"]
        parts += [f"{table.label(column)} AS s{i}" for i, column in enumerate(self.slices)]
        source = table.numbered if numbered else table.source
        parts += [*self.truth.raw, *self.predictions.raw, *told]
        return f"(SELECT {', '.join(parts)} FROM {source})"

    def _placed(self, *, numbered: bool, told: Sequence[str] = ()) -> str:
        return self.truth.placed(self.predictions.placed(self._raw(numbered=numbered, told=told)))

    def _tests(self) -> list[tuple[str, str]]:
        """Return what makes a row bad: faults, each with its condition, most basic first."""
        tests = dict(self.truth.faults)
        if self._weighted:
            tests["weight"] = f"NOT ({self._fine_weight()})"
        tests["missing"] = self.predictions.missing
        if self.predictions.wrong_length is not None:
            tests["length"] = self.predictions.wrong_length
        tests["value"] = self.predictions.outside(1.0 + self.strict)
        tests["sum"] = f"abs(total - 1.0) > {self.tolerance!r}"
        return [(fault, tests[fault]) for fault in FAULTS if fault in tests]

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
        tests = [*self.truth.good, f"abs(total - 1.0) <= {self.tolerance!r}"]
        if self._weighted:
            tests += [self._fine_weight()]
        tests += self.predictions.good(1.0 + self.strict, loose=self.tolerance > self.strict)
        return f"coalesce({' AND '.join(tests)}, false)"

    def _judged(self, *, numbered: bool, judged: bool = True, told: Sequence[str] = ()) -> str:
        asked = [f"{self.predictions.guess} AS guess", *self.truth.told]
        asked += [f"{self._good()} AS good"] if judged else ["0 AS fault"]
        rows = f"(SELECT *, {', '.join(asked)} FROM {self._placed(numbered=numbered, told=told)})"
        if not judged:
            return rows
        fault = " ".join(f"WHEN {test} THEN {FAULTS.index(name)}" for name, test in self._tests())
        return f"(SELECT *, CASE WHEN good THEN 0 {fault} ELSE 0 END AS fault FROM {rows})"

    def losses(self, *, numbered: bool, judged: bool = True, told: Sequence[str] = ()) -> str:
        """Return the rows as a FROM clause.

        Their columns: label text or number ``y``, class position ``k`` from 1, ``guess``,
        probability of the truth ``p``, loss ``l`` in nats (NULL: infinite, or a faulty row),
        ``fault`` (0: none), weight ``w`` if there are any, slices ``s0`` …; and with `numbered`
        the row's number ``rn`` and its ``id``, if the reading has one.

        Parameters
        ----------
        numbered
            Whether to number the rows.
        judged
            Whether to look for faults; without it every row must be known to have none.
        told
            What to select from the table besides.
        """
        loss, p = self.truth.loss, self.truth.probability
        if judged:
            loss = f"CASE WHEN fault = 0 THEN {loss} END"
        asked = [f"{loss} AS l", *([] if p is None else [f"{p} AS p"])]
        rows = self._judged(numbered=numbered, judged=judged, told=told)
        return f"(SELECT *, {', '.join(asked)} FROM {rows})"

    def _keyed(self) -> str:
        """Return the rows with what they are grouped by, and what else is summed of them."""
        below = " + ".join(f"CAST(p < {floor!r} AS INTEGER)" for floor in self.floors) or "0"
        log_t, log_rest = self.predictions.logs("t", "ct")
        if (
            self.policy.floor is None and not self.reading.soft
        ):  # the largest is the truth's, whose logarithm is known
            log_t = f"CASE WHEN c THEN -l ELSE {log_t} END"
        # A faulty row may have any numbers, and some engines raise at logarithms.
        told = [
            f"CASE WHEN fault = 0 THEN {sql} ELSE 0.0 END AS {name}"
            for name, sql in (("lt", log_t), ("lct", log_rest))
        ]
        t = "CASE WHEN high < 1.0 THEN high ELSE 1.0 END AS t"
        asked = f"SELECT *, {self.truth.rightly} AS c, {t}"
        tops = f"({asked} FROM {self.losses(numbered=False)})"
        rests = f"(SELECT *, {self.predictions.complement} AS ct FROM {tops})"
        return (
            f"(SELECT *, {fine_loss_bin_sql('l')} AS lb, {below} AS f, "
            f"{fine_bin_sql('lt', 'lct')} AS tb FROM (SELECT *, {', '.join(told)} FROM {rests}))"
        )

    # ---- what is asked ------------------------------------------------------------------------

    def _loss_sums(self, about: str = "l") -> dict[str, str]:
        """Return what a summary of losses is made of: names, each with its SQL."""
        if not self._weighted:
            return {
                "rows": "count(*)",
                "finite": "count(l)",
                "first": f"fsum({about})",
                "second_squared": f"fsum({about} * {about})",
            }
        w2 = self._squared_weight
        return {
            "rows": "count(*)",
            "finite": self._count("l IS NOT NULL"),
            "infinite": self._count("l IS NULL"),
            "weight": "fsum(w) FILTER (l IS NOT NULL)",
            "weight_squared": f"fsum({w2}) FILTER (l IS NOT NULL)",
            "infinite_weight": "fsum(w) FILTER (l IS NULL)",
            "infinite_weight_squared": f"fsum({w2}) FILTER (l IS NULL)",
            "first": f"fsum(w * {about})",
            "first_squared": f"fsum({w2} * {about})",
            # (wℓ)² keeps its digits where w² alone would overflow
            "second_squared": f"fsum({w2} * {about} * {about})"
            if self.reading.counts
            else f"fsum(w * {about} * (w * {about}))",
        }

    def _sums(self, *, explain: bool, brier: bool) -> dict[str, str]:
        """Return what is summed in every group: names, each with its SQL."""
        sums = self._loss_sums()
        w = "w * " if self._weighted else ""
        sums |= {"correct": "fsum(w) FILTER (guess = k)" if w else "count_if(guess = k)"}
        if brier:
            squares = f"CASE WHEN fault = 0 THEN greatest({self.truth.squares}, 0.0) END"
            sums |= {"brier": f"fsum({w}({squares}))"}
        if self.tolerance > self.strict:
            sums |= {"loose": self._count(f"abs(total - 1.0) > {self.strict!r}")}
        if self.predictions.already is not None:
            sums |= {"already": f"count_if({self.predictions.already})"}
        if self.policy.floor is not None:
            sums |= {"touched": self._count(self.truth.touched)}
            sums |= {"zeros": self._count(f"fault = 0 AND {self.truth.given} IS NULL")}
        if explain:
            top = self._binary_sums("c", BinaryNames("t", "ct", "lt", "lct"))
            if not self.reading.soft:
                del top["hits"]  # what is correct
            sums |= {f"top_{name}": sql for name, sql in top.items()}
        return sums

    def _count(self, condition: str) -> str:
        """Return SQL for how many rows of those that count fulfil a condition."""
        if self.reading.counts:
            return f"TRY_CAST(coalesce(fsum(w) FILTER ({condition}), 0) AS BIGINT)"
        return f"count_if({condition}{' AND w > 0' if self._weighted else ''})"

    def summaries(
        self, centres: Sequence[float] | None = None, *, judged: bool = True
    ) -> dict[int, LossSummary]:
        """Return the statistics of the losses by the true class, and nothing else.

        Parameters
        ----------
        centres
            Per class what its sums are taken about, if not 0.
        judged
            As of `losses`.
        """
        about = "l"
        if centres is not None and any(centres):
            cases = " ".join(f"WHEN {k} THEN {c!r}" for k, c in enumerate(centres, 1) if c)
            about = f"(l - CASE k {cases} ELSE 0.0 END)"
        sums = self._loss_sums(about)
        found = self.table.rows(
            f"SELECT k, {', '.join(sums.values())} FROM "
            f"{self.losses(numbered=False, judged=judged)} WHERE fault = 0 GROUP BY k ORDER BY k"
        )
        names = [f"n_{name}" for name in sums]
        return {
            k: self._summary(
                dict(zip(names, row, strict=True)), 0.0 if centres is None else centres[k - 1]
            )
            for k, *row in found
        }

    def scan(self, *, explain: bool = True, brier: bool = True) -> Scan:
        """Scan the table once.

        Parameters
        ----------
        explain
            Whether to group by more than the class.
        brier
            Whether to sum squared differences, an eighth of a scan that does not explain.
        """
        sums = self._sums(explain=explain, brier=brier)
        groups: dict[str, dict[Any, dict[str, Any]]] = {}
        faults: dict[str, int] = {}
        whole = "guess" if explain and self.length**2 <= MOST_GUESSES else "k"
        for row in self._groups(sums, explain=explain):
            if row["fault"]:
                if row["part"] == whole:
                    fault = FAULTS[row["fault"]]
                    faults[fault] = faults.get(fault, 0) + int(row["n_rows"])
                continue
            groups.setdefault(row["part"], {})[row["a"], row["b"], row["s"]] = row

        def cells(part: str) -> dict[Any, dict[str, Any]]:
            return groups.get(part, {})

        def counted(name: str) -> int:
            return sum(int(row.get(f"n_{name}") or 0) for row in cells(whole).values())

        # Sums about one centre add up; a merge of summaries would move the centre, and hide from
        # who looks at the sums how many digits of the variance they have lost.
        by_class: dict[int, list[dict[str, Any]]] = {}
        for (k, _, _), row in cells(whole).items():
            by_class.setdefault(k, []).append(row)
        classes = {
            k: self._cell({f"n_{n}": math.fsum(row[f"n_{n}"] or 0 for row in rows) for n in sums})
            for k, rows in sorted(by_class.items())
        }
        guesses = {(k, guess): self._cell(row) for (k, guess, _), row in cells("guess").items()}
        tally = Tally(
            classes=classes,
            guesses=dict(list(guesses.items())[:MOST_GUESSES]),
            losses={(b, f): self._cell(row) for (b, f, _), row in cells("loss").items()},
            top=self._top({b: row for (b, _, _), row in cells("top").items()}) if explain else None,
            slices=tuple(
                {value: self._cell(row) for (_, _, value), row in cells(f"s{i}").items()}
                for i in range(len(self.slices))
            ),
            loose=counted("loose"),
            touched=counted("touched"),
            zeros=counted("zeros"),
        )
        told = {fault: faults[fault] for fault in FAULTS if fault in faults}
        return Scan(tally, told, counted("already"))

    def _groups(self, sums: Mapping[str, str], *, explain: bool) -> list[dict[str, Any]]:
        """Return the sums of the rows, grouped in every way that is asked for.

        Each group says of which ``part`` it is, its ``fault``, and its keys: two numbers ``a`` and
        ``b``, or the text ``s``. The engine groups the rows by as few sets of keys as will do, and
        then the groups: the sums of many sets would take longer than all the rest.
        """
        texts = [f"s{i}" for i in range(len(self.slices))]
        sets = [[column] for column in texts]
        few = explain and self.length**2 <= MOST_GUESSES
        sets += [["k", "guess"], ["lb", "f", "tb"]] if explain else []
        sets += [] if few else [["k"]]
        columns = list(dict.fromkeys(column for keys in sets for column in keys))
        asked = [f"{c}, grouping({c}) AS g_{c}" for c in columns]
        asked += [f"{sql} AS n_{name}" for name, sql in sums.items()]
        keys = ", ".join(f"(fault, {', '.join(names)})" for names in sets)
        source = self._keyed() if explain else self.losses(numbered=False)
        grouped = f"SELECT fault, {', '.join(asked)} FROM {source} GROUP BY GROUPING SETS ({keys})"
        as_they_are = ", ".join(f"n_{name}" for name in sums)
        # A count is a whole number, and its sum too.
        added = ", ".join(
            f"{'fsum' if sql.startswith('fsum') else 'sum'}(n_{name})" for name, sql in sums.items()
        )
        costliest = f"ORDER BY n_first DESC NULLS LAST LIMIT {MOST_GUESSES + 1}"
        parts = []
        if explain:
            pairs = f"SELECT 'guess' AS part, fault, k AS a, guess AS b, NULL AS s, {as_they_are} "
            parts += [f"({pairs} FROM g WHERE g_guess = 0{'' if few else f' {costliest}'})"]
            loss_bin, top_bin = loss_bin_of_fine_sql("lb"), bin_of_fine_sql("tb")
            bins = "FROM g WHERE g_lb = 0 AND fault = 0 GROUP BY ALL"
            parts += [f"SELECT 'loss', fault, {loss_bin}, f, NULL, {added} {bins}"]
            parts += [f"SELECT 'top', fault, {top_bin}, NULL, NULL, {added} {bins}"]
        if not few:
            alone = "g_k = 0 AND g_guess = 1" if explain else "g_k = 0"
            classes = f"SELECT 'k' AS part, fault, k AS a, NULL AS b, NULL AS s, {as_they_are}"
            parts += [f"{classes} FROM g WHERE {alone}"]
        for s in texts:
            values = f"SELECT '{s}', fault, NULL, NULL, {s}, {as_they_are} FROM g WHERE g_{s} = 0"
            parts += [f"({values} {costliest})"]
        sql = f"WITH g AS MATERIALIZED ({grouped}) {' UNION ALL '.join(parts)}"
        names = ["part", "fault", "a", "b", "s", *(f"n_{name}" for name in sums)]
        return [dict(zip(names, row, strict=True)) for row in self.table.rows(sql)]

    def _cell(self, row: Mapping[str, Any]) -> Cell:
        brier, correct = (float(row.get(f"n_{name}") or 0.0) for name in ("brier", "correct"))
        return Cell(int(row["n_rows"]), self._summary(row), brier, correct)

    def _summary(self, row: Mapping[str, Any], centre: float = 0.0) -> LossSummary:
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
        return LossSummary(
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

    def _top(self, groups: Mapping[int, Mapping[str, Any]]) -> Histogram:
        """Return the histogram of the likeliest class: with what probability is it the truth."""
        bins = sorted(b for b in groups if self._cell(groups[b]).summary.n)
        cells = [self._cell(groups[b]) for b in bins]

        def column(name: str) -> Any:
            return np.array([float(groups[b][f"n_{name}"] or 0.0) for b in bins])

        named = {name: column(f"top_{name}") for name in ("smaller", "loss", "squared")}
        for name in ("hits", "softness", "lost_rows", "lost_weight"):
            if bins and f"n_top_{name}" in groups[bins[0]]:
                named[name] = column(f"top_{name}")
        named.setdefault("hits", np.array([cell.correct for cell in cells]))
        return _histogram(
            bins=np.array(bins, dtype=np.int64),
            rows=np.array([cell.summary.n for cell in cells], dtype=np.int64),
            weight=np.array([cell.summary.weight for cell in cells]),
            weight_squared=np.array([cell.summary.weight_squared for cell in cells]),
            **named,
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
        sums = {"rows": "count(*)"}
        if self._weighted:
            sums = {"rows": self._count("true"), "weight": "fsum(w)"}
            sums |= {"weight_squared": f"fsum({self._squared_weight})"}
        sums |= self._binary_sums("yes", BinaryNames("q", "r", "lq", "lr"))
        parts = []
        for place, group in enumerate(groups):
            p, rest = self.predictions.any_of(group)
            asked = [f"{p} AS q", f"{self.truth.within(group)} AS yes"]
            asked += [f"{rest} AS r"] if rest is not None else []
            asked += ["w"] if self._weighted else []
            rows = f"(SELECT {', '.join(asked)} FROM {source})"
            rows = f"(SELECT * REPLACE (CASE WHEN q < 1.0 THEN q ELSE 1.0 END AS q) FROM {rows})"
            if rest is None:
                rows = f"(SELECT *, 1.0 - q AS r FROM {rows})"
            log_q, log_r = self.predictions.logs("q", "r")
            rows = f"(SELECT *, {log_q} AS lq, {log_r} AS lr FROM {rows})"
            index = fine_bin_sql("lq", "lr")
            each = ", ".join(f"{sql} AS {name}" for name, sql in sums.items())
            parts.append(
                f"SELECT {place} AS question, {index} AS bin, {each} FROM {rows} GROUP BY bin"
            )
        added = ", ".join(f"fsum({name})" for name in sums)
        found = self.table.rows(
            f"SELECT question, {bin_of_fine_sql('bin')} AS b, {added} "
            f"FROM ({' UNION ALL '.join(parts)}) GROUP BY question, b ORDER BY question, b"
        )
        histograms = []
        for place in range(len(groups)):
            mine = [[float(v or 0.0) for v in row[1:]] for row in found if row[0] == place]
            columns = np.array(mine, dtype=np.float64).reshape(-1, 1 + len(sums)).T
            named = dict(zip(["bins", *sums], columns, strict=True))
            if not self._weighted:  # every row weighs 1
                named |= {"weight": named["rows"], "weight_squared": named["rows"]}
            histograms.append(_histogram(**named))
        return histograms

    def _binary_sums(self, yes: str, of: BinaryNames) -> dict[str, str]:
        """Return what is summed of a yes or no: arguments of `_histogram`, each with its SQL."""
        w = "w * " if self._weighted else ""
        smaller = f"CASE WHEN {of.p} < 0.5 THEN {of.p} ELSE {of.rest} END"
        sums = {"smaller": f"fsum({w}({smaller}))", **self.truth.sums(yes, of, w)}
        if self._weighted or self.reading.soft:  # else hits tell
            lost = self.truth.lost(yes, of)
            sums |= {"lost_rows": self._count(lost)}
            sums |= {"lost_weight": f"fsum({'w' if w else '1.0'}) FILTER ({lost})"}
        return sums

    def soft_totals(self) -> tuple[tuple[float, ...], float]:
        """Return Σw·t of each class, and Σw·H(t) in nats, of the soft labels."""
        w = "w" if self._weighted else "1.0 AS w"
        places = f"unnest(range(1, {self.length + 1})) AS i"
        rows = (
            f"(SELECT {w}, unnest(tt) AS v, {places} FROM {self.losses(numbered=False)} "
            "WHERE fault = 0)"
        )
        found = self.table.rows(
            "SELECT i, fsum(w * v), fsum(w * (CASE WHEN v > 0 THEN -v * ln(v) ELSE 0.0 END)) "
            f"FROM {rows} GROUP BY i ORDER BY i"
        )
        return tuple(float(row[1]) for row in found), math.fsum(float(row[2]) for row in found)

    def worst(
        self, count: int, shown: Sequence[int] = (), *, least: float = 0.0, judged: bool = True
    ) -> list[WorstRow]:
        """Return the rows with the largest loss.

        Parameters
        ----------
        count
            How many.
        shown
            Columns whose texts to return besides.
        least
            A loss that so many rows are known to reach: the others need not be numbered and sorted.
        judged
            As of `losses`.
        """
        kept = [*(["fault = 0"] if judged else []), *(["w > 0"] if self._weighted else [])]
        if least > 0.0:
            # The last digit of a logarithm may be another one in the second scan.
            reached = f" OR l >= {least * (1.0 - 1e-12)!r}" if math.isfinite(least) else ""
            kept += [f"(l IS NULL{reached})"]
        name = (
            "CAST(rn AS VARCHAR)"
            if self.reading.id is None
            else "coalesce(id, CAST(rn AS VARCHAR))"
        )
        told = [f"{self.table.text(column)} AS told{i}" for i, column in enumerate(shown)]
        asked = ["rn", name, "CAST(y AS VARCHAR)", "p", "l", self.predictions.every]
        asked += [f"told{i}" for i in range(len(shown))]
        rows = self.table.rows(
            f"SELECT {', '.join(asked)} "
            f"FROM {self.losses(numbered=True, judged=judged, told=told)} "
            f"WHERE {' AND '.join(kept) or 'true'} ORDER BY l DESC NULLS FIRST, rn LIMIT {count}"
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


def _histogram(
    *,
    bins: np.ndarray,
    rows: np.ndarray,
    weight: np.ndarray,
    weight_squared: np.ndarray,
    hits: np.ndarray,
    smaller: np.ndarray,
    loss: np.ndarray,
    squared: np.ndarray,
    softness: np.ndarray | None = None,
    lost_rows: np.ndarray | None = None,
    lost_weight: np.ndarray | None = None,
) -> Histogram:
    """Return the histogram of what an engine summed.

    That is the smaller of a probability and its complement only (the other is what the weight
    leaves), and in the bins of exactly 0 and 1 sums of `NO_LOG`: there a row costs nothing, or it
    is lost. Which rows are lost is told only where hits do not tell it: of rows that weigh 1 and
    have one label each.
    """
    certain = (bins == BIN_OF_ZERO) | (bins == BIN_OF_ONE)
    larger = weight - smaller
    if lost_rows is None or lost_weight is None:
        lost_rows = lost_weight = np.where(bins == BIN_OF_ZERO, hits, rows - hits)
    return Histogram(
        bins=bins,
        rows=rows,
        weight=weight,
        weight_squared=weight_squared,
        hits=hits,
        softness=np.zeros(len(bins)) if softness is None else softness,
        probability=np.where(bins < 0, smaller, larger),
        complement=np.where(bins < 0, larger, smaller),
        loss=np.where(certain, 0.0, loss),
        squared=squared,
        infinite_rows=np.where(certain, lost_rows, 0),
        infinite_weight=np.where(certain, lost_weight, 0.0),
    )
