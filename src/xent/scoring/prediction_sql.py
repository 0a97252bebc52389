"""The predictions of a row as SQL, however a table holds them, as probabilities.

A table holds a number for each class (wide columns, or a list) or one number for the second of two;
and the numbers are probabilities, their logarithms, or logits (of which the probabilities are the
softmax). `Predictions` gives the expressions that `xent.scoring.query` puts together, and hides
which of the nine it is.

A probability near 1 says nothing about how far from 1 it is, so of logarithms and logits the
complement is computed by itself, and the loss from the numbers as they are: neither underflows
where the probability would.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

from xent.scoring.histogram import NO_LOG

if TYPE_CHECKING:
    from xent.scoring.duckdb import Table

__all__ = ["LARGEST_LOGIT", "Predictions", "Scale", "logs_sql", "predictions_of", "tree_sql"]

LARGEST_LOGIT = 1e40
"""So far from 0 may a logit or a logarithm lie: the square of a loss must be an ordinary float."""


class Scale(Enum):
    """What the numbers of a prediction are."""

    PROBABILITY = "probability"
    LOG = "log"  # natural logarithms of probabilities
    LOGITS = "logits"  # probabilities are their softmax; of one column, its logistic function


def tree_sql(terms: Sequence[str]) -> str:
    """Return a sum as a balanced tree: few roundings, and no deep expression.

    Examples
    --------
    >>> tree_sql(["a", "b", "c"])
    '(a + (b + c))'
    """
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    return f"({tree_sql(terms[:half])} + {tree_sql(terms[half:])})"


def log1p_sql(x: str) -> str:
    """Return log(1 + x) for x ≥ 0: the quotient puts the rounding of 1 + x right."""
    u = f"(1.0 + {x})"
    return f"CASE WHEN {u} = 1.0 THEN {x} ELSE ln({u}) * ({x} / ({u} - 1.0)) END"


def minus_log_sql(p: str, rest: str) -> str:
    """Return −log p for p > 0, from its complement where that has the digits."""
    u = f"(1.0 - {rest})"
    near = f"WHEN {u} = 1.0 THEN {rest} ELSE -ln({u}) * ({rest} / (1.0 - {u}))"
    return f"CASE WHEN {p} < 0.5 THEN -ln({p}) {near} END"


def logs_sql(p: str, rest: str) -> tuple[str, str]:
    """Return the logarithms of a probability in [0, 1] and of its complement, which is 1 − p.

    That rounds; the quotient puts the rounding right, as log1p would (1 − (1 − p) is exact for the
    rounded 1 − p).
    """
    near = f"ln({rest}) * ({p} / (1.0 - {rest}))"
    log_rest = f"CASE WHEN {rest} = 1.0 THEN -{p} WHEN {rest} > 0 THEN {near} ELSE {NO_LOG!r} END"
    return f"CASE WHEN {p} > 0 THEN ln({p}) ELSE {NO_LOG!r} END", log_rest


class Predictions(ABC):
    """Expressions about the numbers of a row.

    Attributes
    ----------
    raw
        What is selected from the table.
    scale
        What the numbers are.
    """

    def __init__(self, table: Table, columns: Sequence[int], length: int, scale: Scale) -> None:
        self.table = table
        self.columns = columns
        self.length = length
        self.scale = scale

    @property
    def plain(self) -> bool:
        """Whether the table's numbers are the probabilities themselves."""
        return self.scale is Scale.PROBABILITY

    @property
    @abstractmethod
    def raw(self) -> list[str]:
        """Return what of the table a row is made of."""

    @abstractmethod
    def placed(self, rows: str) -> str:
        """Return rows as a FROM clause with their probabilities (``d`` …) and three numbers.

        These are the sum ``total``, the largest probability ``high``, and unless the numbers are
        plain the complement of that, ``rest``.
        """

    @property
    @abstractmethod
    def missing(self) -> str:
        """Return whether a number is none."""

    @property
    def already(self) -> str | None:
        """Return whether what is said to be logits are probabilities; None where none can tell."""
        return None

    @property
    @abstractmethod
    def truth(self) -> str:
        """Return P(truth) by the class position ``k``; NULL without one."""

    @property
    @abstractmethod
    def guess(self) -> str:
        """Return the position of the likeliest class, the first of equal ones."""

    @property
    @abstractmethod
    def squares(self) -> str:
        """Return the sum of the probabilities' squares."""

    @property
    @abstractmethod
    def every(self) -> str:
        """Return all probabilities as a list."""

    @property
    @abstractmethod
    def _given_list(self) -> str:
        """Return the numbers of all classes as a list."""

    @property
    def costs(self) -> str:
        """Return what each class costs where it is the truth, as a list: nats, or ∞."""
        cost = {
            Scale.PROBABILITY: "CASE WHEN v > 0 THEN -ln(least(v, 1.0))",
            Scale.LOG: f"CASE WHEN v > {_LEAST} THEN -least(v, 0.0)",
            Scale.LOGITS: f"CASE WHEN v > {_LEAST} THEN (top - v) + {log1p_sql('others')}",
        }[self.scale]
        return f"list_transform({self._given_list}, lambda v: {cost} ELSE -{_LEAST} END)"

    @abstractmethod
    def any_of(self, group: Sequence[int]) -> tuple[str, str | None]:
        """Return the probability of some classes together, and its complement if it has one.

        Of plain probabilities the complement is what is missing from 1.
        """

    @abstractmethod
    def outside(self, limit: float) -> str:
        """Return whether a number is none that a probability, logarithm or logit may be."""

    @abstractmethod
    def good(self, limit: float, *, loose: bool) -> list[str]:
        """Return tests, cheaper than `outside` and `missing`, that a good row passes.

        The sum is known to be within its tolerance; `loose` says that this is more than rounding.
        """

    @property
    @abstractmethod
    def own_number(self) -> str:
        """Return the truth's logarithm or logit by ``k``."""

    @property
    def entries(self) -> str:
        """Return how many numbers the row has."""
        return str(self.length)

    @property
    def wrong_length(self) -> str | None:
        """Return whether there are too many or too few numbers, if there can be."""
        return None

    @property
    def complement(self) -> str:
        """Return the complement of the largest probability ``t``."""
        return "1.0 - t" if self.plain else "rest"

    def logs(self, p: str, rest: str) -> tuple[str, str]:
        """Return the logarithms of a probability in [0, 1] and its complement, of good rows."""
        if self.plain:
            return logs_sql(p, rest)
        return (
            f"CASE WHEN {p} > 0 THEN -({minus_log_sql(p, rest)}) ELSE {NO_LOG!r} END",
            f"CASE WHEN {rest} > 0 THEN -({minus_log_sql(rest, p)}) ELSE {NO_LOG!r} END",
        )

    @property
    def loss(self) -> str:
        """Return the loss, given ``p`` and what else is selected by `told`; NULL: infinite.

        Some engines raise at ln(0), so 0 never reaches it; no loss is negative, so neither does a
        certainty that rounded to more than 1.
        """
        if self.scale is Scale.LOGITS:
            return f"CASE WHEN z > {_LEAST} THEN (top - z) + {log1p_sql('others')} END"
        if self.scale is Scale.LOG:
            return f"CASE WHEN z > {_LEAST} THEN -least(z, 0.0) END"
        return "CASE WHEN p >= 1.0 THEN 0.0 WHEN p > 0 THEN -ln(p) END"

    @property
    def told(self) -> list[str]:
        """Return what the loss needs beside P(truth)."""
        return [] if self.plain else [f"{self.own_number} AS z"]

    def _far(self, numbers: Sequence[str]) -> str:
        """Return whether a logit or logarithm is too large or too far below 0, −∞ excepted."""
        low = [f"{z} < {-LARGEST_LOGIT!r} AND {z} > {_LEAST}" for z in numbers]
        return " OR ".join([f"greatest({', '.join(numbers)}) > {LARGEST_LOGIT!r}", *low])


_LEAST = "CAST('-inf' AS DOUBLE)"


class _Wide(Predictions):
    """A column for each class."""

    def _names(self, letter: str = "d") -> list[str]:
        return [f"{letter}{i}" for i in range(1, self.length + 1)]

    @property
    def _short(self) -> bool:
        """Whether all columns are float32: then the truth's is converted only after it is found."""
        return self.plain and all(self.table.is_float32(column) for column in self.columns)

    @property
    def raw(self) -> list[str]:
        names = self._names("d" if self.plain else "z")
        parts = [f"{self.table.number(c)} AS {n}" for c, n in zip(self.columns, names, strict=True)]
        if self._short:
            shorts = zip(self.columns, self._names("f"), strict=True)
            parts += [f"{self.table.raw(column)} AS {name}" for column, name in shorts]
        return parts

    def placed(self, rows: str) -> str:
        if self.plain:
            ds = self._names()
            high = f"greatest({', '.join(ds)})"
            return f"(SELECT *, {tree_sql(ds)} AS total, {high} AS high FROM {rows})"
        zs, es = self._names("z"), self._names("e")
        logits = self.scale is Scale.LOGITS
        best = " ".join(f"WHEN {z} = top THEN {i}" for i, z in enumerate(zs, 1))
        powers = [
            f"exp({z}{' - top' if logits else ''}) AS {e}" for z, e in zip(zs, es, strict=True)
        ]
        left = [f"CASE WHEN best = {i} THEN 0.0 ELSE {e} END" for i, e in enumerate(es, 1)]
        shares = [
            f"{e}{' / (1.0 + others)' if logits else ''} AS d{i}" for i, e in enumerate(es, 1)
        ]
        largest = f"(SELECT *, greatest({', '.join(zs)}) AS top FROM {rows})"
        raised = f"(SELECT *, {', '.join(powers)}, CASE {best} END AS best FROM {largest})"
        summed = f"(SELECT *, {tree_sql(es)} AS powers, {tree_sql(left)} AS others FROM {raised})"
        return f"(SELECT *, {', '.join([*shares, *_tops(self.scale)])} FROM {summed})"

    @property
    def missing(self) -> str:
        return "total IS NULL"

    @property
    def already(self) -> str | None:
        if self.scale is not Scale.LOGITS:
            return None
        zs = self._names("z")
        return f"least({', '.join(zs)}) >= 0 AND abs({tree_sql(zs)} - 1.0) < 1e-5"

    @property
    def truth(self) -> str:
        nothing = "CAST(0 AS FLOAT)" if self._short else "0.0"
        cases = [
            *enumerate(self._names("f" if self._short else "d"), 1),
            (self.length + 1, nothing),
        ]
        truth = f"CASE k {' '.join(f'WHEN {i} THEN {d}' for i, d in cases)} END"
        return f"CAST({truth} AS DOUBLE)" if self._short else truth

    @property
    def own_number(self) -> str:
        cases = [*enumerate(self._names("z"), 1), (self.length + 1, _LEAST)]
        return f"CASE k {' '.join(f'WHEN {i} THEN {z}' for i, z in cases)} END"

    @property
    def guess(self) -> str:
        if not self.plain:
            return "best"
        cases = " ".join(f"WHEN {d} = high THEN {i}" for i, d in enumerate(self._names(), 1))
        return f"CASE {cases} END"

    @property
    def squares(self) -> str:
        return tree_sql([f"{d} * {d}" for d in self._names()])

    @property
    def every(self) -> str:
        return f"[{', '.join(self._names())}]"

    @property
    def _given_list(self) -> str:
        return f"[{', '.join(self._names('d' if self.plain else 'z'))}]"

    def any_of(self, group: Sequence[int]) -> tuple[str, str | None]:
        p = tree_sql([f"d{i}" for i in group])
        if self.plain:
            return p, None
        others = [f"d{i}" for i in range(1, self.length + 1) if i not in set(group)]
        return p, tree_sql(others) if others else "0.0"

    def outside(self, limit: float) -> str:
        if not self.plain:
            far = self._far(self._names("z"))
            return f"NOT isfinite(total) OR {far}{_above(self.scale, limit)}"
        least = f"least({', '.join(self._names())})"
        return f"NOT isfinite(total) OR {least} < 0 OR high > {limit!r}"

    def good(self, limit: float, *, loose: bool) -> list[str]:
        if not self.plain:
            return [f"NOT ({self.outside(limit)})"]
        tests = [f"{d} >= 0" for d in self._names()]
        # Within the strict tolerance none can be larger than the sum.
        return [*tests, f"high <= {limit!r}"] if loose else tests


class _Lists(Predictions):
    """A column of lists with an entry for each class."""

    @property
    def raw(self) -> list[str]:
        return [f"{self.table.numbers(self.columns[0])} AS {'d' if self.plain else 'zs'}"]

    def placed(self, rows: str) -> str:
        if self.plain:
            return f"(SELECT *, list_sum(d) AS total, list_max(d) AS high FROM {rows})"
        logits = self.scale is Scale.LOGITS
        powers = f"list_transform(zs, lambda v: exp(v{' - top' if logits else ''}))"
        left = "list_transform(es, lambda v, i: CASE WHEN i = best THEN 0.0 ELSE v END)"
        shares = "list_transform(es, lambda v: v / (1.0 + others))" if logits else "es"
        largest = f"(SELECT *, list_max(zs) AS top FROM {rows})"
        raised = f"(SELECT *, {powers} AS es, list_position(zs, top) AS best FROM {largest})"
        summed = (
            f"(SELECT *, list_sum(es) AS powers, coalesce(list_sum({left}), 0.0) AS others "
            f"FROM {raised})"
        )
        return f"(SELECT *, {', '.join([f'{shares} AS d', *_tops(self.scale)])} FROM {summed})"

    @property
    def _given(self) -> str:
        return "d" if self.plain else "zs"

    @property
    def missing(self) -> str:
        # A list may hold NULLs; the aggregates would pass over them.
        given = self._given
        return f"{given} IS NULL OR len({given}) <> list_aggregate({given}, 'count')"

    @property
    def already(self) -> str | None:
        if self.scale is not Scale.LOGITS:
            return None
        return "list_min(zs) >= 0 AND abs(list_sum(zs) - 1.0) < 1e-5"

    @property
    def entries(self) -> str:
        return f"len({self._given})"

    @property
    def wrong_length(self) -> str:
        return f"{self.entries} <> {self.length}"

    @property
    def truth(self) -> str:
        return f"CASE WHEN k = {self.length + 1} THEN 0.0 ELSE d[k] END"

    @property
    def own_number(self) -> str:
        return f"CASE WHEN k = {self.length + 1} THEN {_LEAST} ELSE zs[k] END"

    @property
    def guess(self) -> str:
        return "list_position(d, high)" if self.plain else "best"

    @property
    def squares(self) -> str:
        # The inner product raises at a NULL, even in a list that is not asked for.
        return "list_sum(list_transform(d, lambda x: x * x))"

    @property
    def every(self) -> str:
        return "d"

    @property
    def _given_list(self) -> str:
        return self._given

    def any_of(self, group: Sequence[int]) -> tuple[str, str | None]:
        listed = ", ".join(map(str, group))
        p = f"d[{group[0]}]"
        if len(group) > 1:
            p = f"list_sum(list_filter(d, lambda x, i: i IN ({listed})))"
        if self.plain:
            return p, None
        return p, f"coalesce(list_sum(list_filter(d, lambda x, i: i NOT IN ({listed}))), 0.0)"

    def outside(self, limit: float) -> str:
        if self.plain:
            return f"NOT isfinite(total) OR list_min(d) < 0 OR high > {limit!r}"
        far = (
            f"top > {LARGEST_LOGIT!r} OR len(list_filter(zs, lambda v: v < {-LARGEST_LOGIT!r} "
            f"AND v > {_LEAST})) > 0"
        )
        return f"NOT isfinite(total) OR {far}{_above(self.scale, limit)}"

    def good(self, limit: float, *, loose: bool) -> list[str]:
        given = self._given
        tests = [f"len({given}) = list_aggregate({given}, 'count')"]
        tests += [f"len({given}) = {self.length}"]
        if not self.plain:
            return [*tests, f"NOT ({self.outside(limit)})"]
        return [*tests, "list_min(d) >= 0", f"high <= {limit!r}"]


class _Single(Predictions):
    """One column: the probability ``d1`` of the second of two classes; ``d0`` of the first."""

    @property
    def raw(self) -> list[str]:
        return [f"{self.table.number(self.columns[0])} AS {'d1' if self.plain else 'z1'}"]

    def placed(self, rows: str) -> str:
        # NULL, NaN and ∞ stay what they are in the sum.
        if self.plain:
            pair = f"(SELECT *, 1.0 - d1 AS d0, d1 * 0.0 + 1.0 AS total FROM {rows})"
            return f"(SELECT *, greatest(d1, d0) AS high FROM {pair})"
        if self.scale is Scale.LOGITS:
            small = f"(SELECT *, exp(-abs(z1)) AS others FROM {rows})"
            shares = "others / (1.0 + others) AS low, 1.0 / (1.0 + others) AS high"
            pair = f"(SELECT *, {shares} FROM {small})"
            yes = "CASE WHEN z1 > 0 THEN high ELSE low END AS d1"
            no = "CASE WHEN z1 > 0 THEN low ELSE high END AS d0"
            total = "CASE WHEN isnan(z1) THEN z1 ELSE z1 * 0.0 + 1.0 END"
            total = f"CASE WHEN isinf(z1) THEN 1.0 ELSE {total} END"
            return f"(SELECT *, {yes}, {no}, low AS rest, {total} AS total FROM {pair})"
        # 1 − e^z by way of the rounded e^z, as expm1 would.
        no = "CASE WHEN d1 = 1.0 THEN -z1 WHEN d1 > 0.5 THEN (1.0 - d1) * (z1 / ln(d1)) "
        no = f"greatest({no} ELSE 1.0 - d1 END, 0.0)"
        raised = f"(SELECT *, exp(z1) AS d1 FROM {rows})"
        pair = f"(SELECT *, {no} AS d0, d1 * 0.0 + 1.0 AS total FROM {raised})"
        return f"(SELECT *, greatest(d1, d0) AS high, least(d1, d0) AS rest FROM {pair})"

    @property
    def missing(self) -> str:
        return "total IS NULL"

    @property
    def truth(self) -> str:
        return f"CASE WHEN k = 2 THEN d1 WHEN k = 1 THEN d0 WHEN k = {self.length + 1} THEN 0.0 END"

    @property
    def own_number(self) -> str:
        return "z1"

    @property
    def guess(self) -> str:
        return "CASE WHEN d1 > d0 THEN 2 ELSE 1 END"

    @property
    def squares(self) -> str:
        return "d1 * d1 + d0 * d0"

    @property
    def every(self) -> str:
        return "[d0, d1]"

    @property
    def _given_list(self) -> str:
        return self.every

    @property
    def costs(self) -> str:
        return f"[coalesce({self._cost(1)}, -{_LEAST}), coalesce({self._cost(2)}, -{_LEAST})]"

    def any_of(self, group: Sequence[int]) -> tuple[str, str | None]:
        return ("d1", "d0") if tuple(group) == (2,) else ("d0", "d1")

    @property
    def loss(self) -> str:
        return f"CASE k WHEN 1 THEN {self._cost(1)} WHEN 2 THEN {self._cost(2)} END"

    def _cost(self, k: int) -> str:
        """Return what it costs that the truth is a class; NULL if that was impossible."""
        own, other = ("d0", "d1") if k == 1 else ("d1", "d0")
        if self.scale is Scale.LOGITS:
            z = "z1" if k == 1 else "-z1"
            small = log1p_sql("others")
            return f"CASE WHEN {z} < -{_LEAST} THEN greatest({z}, 0.0) + {small} END"
        if self.scale is Scale.LOG and k == 2:
            return f"CASE WHEN z1 > {_LEAST} THEN -least(z1, 0.0) END"
        if k == 2:
            return "CASE WHEN d1 > 0 THEN -ln(least(d1, 1.0)) END"
        # 1 − d1 rounds, and where it is near 1 the quotient puts that right.
        return f"CASE WHEN {own} > 0 THEN {minus_log_sql(own, other)} END"

    def outside(self, limit: float) -> str:
        if self.scale is Scale.LOGITS:
            return f"NOT isfinite(total) OR abs(z1) > {LARGEST_LOGIT!r} AND isfinite(z1)"
        if self.scale is Scale.LOG:
            return f"NOT isfinite(total) OR {self._far(['z1'])} OR d1 > {limit!r}"
        return f"NOT isfinite(total) OR d1 < 0 OR d1 > {limit!r}"

    def good(self, limit: float, *, loose: bool) -> list[str]:
        if not self.plain:
            return [f"NOT ({self.outside(limit)})"]
        return ["d1 >= 0", f"d1 <= {limit!r}"]


def _tops(scale: Scale) -> list[str]:
    """Return the sum, the largest probability and its complement, from powers of e."""
    if scale is Scale.LOGITS:
        # The sum is 1 by construction, and what is no number stays none.
        total = "powers * 0.0 + 1.0"
        return [
            f"{total} AS total",
            "1.0 / (1.0 + others) AS high",
            "others / (1.0 + others) AS rest",
        ]
    return ["powers AS total", "exp(top) AS high", "others AS rest"]


def _above(scale: Scale, limit: float) -> str:
    """Return a test of what only logarithms must be: that of a probability."""
    return f" OR high > {limit!r}" if scale is Scale.LOG else ""


def predictions_of(
    layout: str, table: Table, columns: Sequence[int], length: int, scale: Scale
) -> Predictions:
    """Return the expressions for a layout: ``"wide"``, ``"list"`` or ``"binary"``."""
    kinds: dict[str, type[_Wide | _Lists | _Single]] = {
        "wide": _Wide,
        "list": _Lists,
        "binary": _Single,
    }
    kind = kinds[layout]
    return kind(table, columns, length, scale)
