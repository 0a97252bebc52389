"""The truth of a row as SQL: one of the labels, or a distribution over them.

`Truth` gives what `xent.scoring.query` needs to know of it: where it lies among the classes, what
it cost that the predictions were these, and how far it says yes to a question about classes.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from xent.scoring.duckdb import quote_text
from xent.scoring.reading import Reading, Spelling

if TYPE_CHECKING:
    from xent.scoring.duckdb import Table
    from xent.scoring.prediction_sql import Predictions

__all__ = ["BinaryNames", "Truth", "truth_of"]

_FEW = 16
"""Of so many names a list finds one sooner than a join, which costs every column of a row."""
_WHOLE = re.compile(r"0|-?[1-9][0-9]*")


class BinaryNames(NamedTuple):
    """What the probability of a yes, its complement, and their logarithms are called."""

    p: str
    rest: str
    log_p: str
    log_rest: str


class Truth(ABC):
    """Expressions about the truth of a row.

    Attributes
    ----------
    floor
        What every probability is raised to, where it is less; None for nothing.
    unseen
        Whether a label without a probability is one of probability 0.
    strict
        How far from 1 the sum of a distribution may be.
    """

    def __init__(
        self,
        table: Table,
        reading: Reading,
        predictions: Predictions,
        *,
        floor: float | None,
        unseen: bool,
        strict: float,
    ) -> None:
        self.unseen = unseen
        self.strict = strict
        self.table = table
        self.reading = reading
        self.predictions = predictions
        self.length = predictions.length
        self.floor = floor

    @property
    @abstractmethod
    def raw(self) -> list[str]:
        """Return what of the table a row is made of."""

    @abstractmethod
    def placed(self, rows: str) -> str:
        """Return rows with the position ``k`` of the true class, from 1, and its text ``y``."""

    @property
    @abstractmethod
    def faults(self) -> list[tuple[str, str]]:
        """Return what may be wrong with it: faults, each with its condition."""

    @property
    @abstractmethod
    def good(self) -> list[str]:
        """Return tests that a good row passes."""

    @property
    @abstractmethod
    def told(self) -> list[str]:
        """Return what is selected for the loss and P(truth)."""

    @property
    @abstractmethod
    def probability(self) -> str | None:
        """Return P(truth), unless it is told as ``p`` already."""

    @property
    @abstractmethod
    def given(self) -> str:
        """Return the loss before any floor, nats; NULL where the truth was called impossible."""

    @property
    @abstractmethod
    def loss(self) -> str:
        """Return the loss, nats; NULL where it is infinite."""

    @property
    @abstractmethod
    def touched(self) -> str:
        """Return whether the floor changes the row."""

    @property
    @abstractmethod
    def squares(self) -> str:
        """Return the sum of the squared differences of all classes."""

    @property
    @abstractmethod
    def rightly(self) -> str:
        """Return how far the truth is the likeliest class."""

    @abstractmethod
    def within(self, group: Sequence[int]) -> str:
        """Return how far the truth is one of some classes."""

    @abstractmethod
    def sums(self, yes: str, of: BinaryNames, w: str) -> dict[str, str]:
        """Return what is summed of a yes or no: parts of a histogram, each with its SQL.

        Parameters
        ----------
        yes
            How far the truth says yes.
        of
            What the numbers of the prediction are called.
        w
            What each row is multiplied by, ``"w * "`` or nothing.
        """

    @abstractmethod
    def lost(self, yes: str, of: BinaryNames) -> str:
        """Return whether the loss of a yes or no is infinite."""


class _Label(Truth):
    """One of the labels, by its text or number."""

    @property
    def _by_number(self) -> bool:
        """Whether labels and classes are integers, which need not become texts."""
        reading = self.reading
        return (
            self.table.is_integer(reading.label)
            and reading.spelling is Spelling.AS_IS
            and all(map(_WHOLE.fullmatch, reading.classes))
        )

    @property
    def raw(self) -> list[str]:
        label = self.reading.label
        if self._by_number:
            return [f"{self.table.raw(label)} AS y"]
        return [f"{self.reading.spelling.sql(self.table.label(label))} AS y"]

    def placed(self, rows: str) -> str:
        classes, join = self.reading.classes, ""
        if self._by_number:
            numbers = [int(c) for c in classes] or list(range(self.length))
            first, last = numbers[0], numbers[-1]
            if numbers == list(range(first, first + len(numbers))):
                place = f"CAST(y AS BIGINT) - {first} + 1"
                k = f"CASE WHEN y BETWEEN {first} AND {last} THEN {place} END"
            else:
                k = f"CASE y {' '.join(f'WHEN {c} THEN {i}' for i, c in enumerate(numbers, 1))} END"
        elif 0 < len(classes) <= _FEW:
            k = f"list_position([{', '.join(map(quote_text, classes))}], y)"
        elif classes:
            names = ", ".join(f"({quote_text(c)}, {i})" for i, c in enumerate(classes, 1))
            k = "names.k"
            join = f" LEFT JOIN (VALUES {names}) AS names(name, k) ON y = names.name"
        else:
            # By way of DOUBLE: a cast of 0.6 to an integer would round it to class 1.
            index = "TRY_CAST(y AS DOUBLE)"
            inside = f"{index} BETWEEN 0 AND {self.length - 1} AND {index} = floor({index})"
            k = f"CASE WHEN {inside} THEN TRY_CAST({index} AS BIGINT) + 1 END"
        if self.unseen:
            k = f"CASE WHEN y IS NOT NULL THEN coalesce({k}, {self.length + 1}) END"
        return f"(SELECT r.*, {k} AS k FROM {rows} AS r{join})"

    @property
    def faults(self) -> list[tuple[str, str]]:
        return [("label", "y IS NULL"), ("unknown", "k IS NULL")]

    @property
    def good(self) -> list[str]:
        return ["y IS NOT NULL", "k IS NOT NULL"]

    @property
    def told(self) -> list[str]:
        return [f"{self.predictions.truth} AS p", *self.predictions.told]

    @property
    def probability(self) -> None:
        return None

    @property
    def given(self) -> str:
        return self.predictions.loss

    @property
    def loss(self) -> str:
        if self.floor is None:
            return self.given
        # The lesser of a number and NULL, an infinite loss, is the number.
        return f"CASE WHEN p IS NOT NULL THEN least({self.given}, -ln({self.floor!r})) END"

    @property
    def touched(self) -> str:
        return f"p < {self.floor!r}"

    @property
    def squares(self) -> str:
        return f"{self.predictions.squares} - 2.0 * p + 1.0"

    @property
    def rightly(self) -> str:
        return "guess = k"

    def within(self, group: Sequence[int]) -> str:
        if self._by_number:  # the label itself is nearer than its place
            names = self.reading.classes or tuple(map(str, range(self.length)))
            return f"y IN ({', '.join(names[k - 1] for k in group)})"
        return f"k IN ({', '.join(map(str, group))})"

    def sums(self, yes: str, of: BinaryNames, w: str) -> dict[str, str]:
        squared = f"CASE WHEN {yes} THEN {of.rest} * {of.rest} ELSE {of.p} * {of.p} END"
        return {
            "hits": f"fsum(w) FILTER ({yes})" if w else f"count_if({yes})",
            "loss": f"fsum({w}(CASE WHEN {yes} THEN -{of.log_p} ELSE -{of.log_rest} END))",
            "squared": f"fsum({w}({squared}))",
        }

    def lost(self, yes: str, of: BinaryNames) -> str:
        return f"{yes} AND {of.p} = 0 OR NOT {yes} AND {of.rest} = 0"


class _SoftLabel(Truth):
    """A distribution over the classes, ``tt``; what is called the true class is its likeliest.

    Of a row that costs Σ_c t_c·ℓ_c, P(truth) is e^(−that): the geometric mean of the classes'.
    """

    @property
    def raw(self) -> list[str]:
        table, columns = self.table, self.reading.soft
        if len(columns) > 1:
            return [f"[{', '.join(map(table.number, columns))}] AS tt"]
        if self.reading.layout == "binary":
            one = table.number(columns[0])
            return [f"CASE WHEN {one} IS NOT NULL THEN [1.0 - {one}, {one}] END AS tt"]
        return [f"{table.numbers(columns[0])} AS tt"]

    def placed(self, rows: str) -> str:
        names = self.reading.classes or tuple(map(str, range(self.length)))
        listed = ", ".join(map(quote_text, names))
        placed = f"(SELECT *, list_position(tt, list_max(tt)) AS k FROM {rows})"
        return f"(SELECT *, list_extract([{listed}], k) AS y FROM {placed})"

    @property
    def faults(self) -> list[tuple[str, str]]:
        missing = "tt IS NULL OR len(tt) <> list_aggregate(tt, 'count')"
        limit = self.strict
        outside = f"NOT isfinite(list_sum(tt)) OR list_min(tt) < 0 OR list_max(tt) > {1 + limit!r}"
        wrong = f"len(tt) <> {self.length} OR {outside} OR abs(list_sum(tt) - 1.0) > {limit!r}"
        return [("label", missing), ("target", wrong)]

    @property
    def good(self) -> list[str]:
        return [f"NOT ({condition})" for _, condition in self.faults]

    def _mean(self, cost: str) -> str:
        """Return the mean of an expression of a class's place ``i`` over the truth."""
        each = f"list_transform(tt, lambda v, i: CASE WHEN v > 0 THEN v * {cost} ELSE 0.0 END)"
        return f"list_sum({each})"

    @property
    def told(self) -> list[str]:
        return [f"{self.predictions.costs} AS costs"]

    @property
    def probability(self) -> str:
        return f"coalesce(exp(-{self.given}), 0.0)"

    @property
    def given(self) -> str:
        mean = self._mean("costs[i]")
        return f"CASE WHEN isfinite({mean}) THEN greatest({mean}, 0.0) END"

    @property
    def loss(self) -> str:
        if self.floor is None:
            return self.given
        return f"greatest({self._mean(f'least(costs[i], -ln({self.floor!r}))')}, 0.0)"

    @property
    def touched(self) -> str:
        most = f"-ln({self.floor!r})"
        return f"len(list_filter(tt, lambda v, i: v > 0 AND costs[i] > {most})) > 0"

    @property
    def squares(self) -> str:
        every = self.predictions.every
        return f"list_sum(list_transform({every}, lambda v, i: (v - tt[i]) * (v - tt[i])))"

    @property
    def rightly(self) -> str:
        return "tt[guess]"

    def within(self, group: Sequence[int]) -> str:
        if len(group) == 1:
            return f"tt[{group[0]}]"
        return f"list_sum(list_filter(tt, lambda v, i: i IN ({', '.join(map(str, group))})))"

    def sums(self, yes: str, of: BinaryNames, w: str) -> dict[str, str]:
        return {
            "hits": f"fsum({w}{yes})",
            "softness": f"fsum({w}({yes} * (1.0 - {yes})))",
            "loss": f"fsum({w}(-{yes} * {of.log_p} - (1.0 - {yes}) * {of.log_rest}))",
            "squared": f"fsum({w}(({of.p} - {yes}) * ({of.p} - {yes})))",
        }

    def lost(self, yes: str, of: BinaryNames) -> str:
        return f"{yes} > 0 AND {of.p} = 0 OR {yes} < 1 AND {of.rest} = 0"


def truth_of(
    table: Table,
    reading: Reading,
    predictions: Predictions,
    *,
    floor: float | None,
    unseen: bool,
    strict: float,
) -> Truth:
    """Return the expressions for labels, or for soft ones."""
    kind: type[_Label | _SoftLabel] = _SoftLabel if reading.soft else _Label
    return kind(table, reading, predictions, floor=floor, unseen=unseen, strict=strict)
