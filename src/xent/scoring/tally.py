"""What one scan of a table returns: statistics of its rows, grouped in the ways a score needs.

Everything that is said about a score is computed from a `Tally`, and tallies of parts of the rows
merge into that of all. So the rows themselves never leave the engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from typing import Any, TypeVar

from xent.scoring.histogram import Histogram
from xent.scoring.summary import LossSummary

__all__ = [
    "LOSS_BINS_PER_OCTAVE",
    "Cell",
    "Tally",
    "fine_loss_bin_sql",
    "joined",
    "loss_bin_edges",
    "loss_bin_of_fine_sql",
]

LOSS_BINS_PER_OCTAVE = 8
_ZERO, _LOWEST, _HIGHEST, _INFINITE = -401, -400, 80, 81
_FINE_ZERO = -1_000_000
Key = TypeVar("Key")


def fine_loss_bin_sql(loss: str) -> str:
    """Return SQL for the bin of a loss: 8 to every doubling, exact 0 and ∞ (NULL) apart.

    Not cut to the range of the bins yet, which an engine is faster at doing to the few that it
    found (`loss_bin_of_fine_sql`).

    Examples
    --------
    >>> print(fine_loss_bin_sql("l"))
    CASE WHEN l > 0 THEN CAST(floor(8 * log2(l)) AS INTEGER) WHEN l = 0 THEN -1000000 END
    """
    index = f"CAST(floor({LOSS_BINS_PER_OCTAVE} * log2({loss})) AS INTEGER)"
    return f"CASE WHEN {loss} > 0 THEN {index} WHEN {loss} = 0 THEN {_FINE_ZERO} END"


def loss_bin_of_fine_sql(index: str) -> str:
    """Return SQL for the bin of a loss, of one that was not cut.

    Examples
    --------
    >>> print(loss_bin_of_fine_sql("b"))
    CASE WHEN b IS NULL THEN 81 WHEN b = -1000000 THEN -401 ELSE greatest(-400, least(80, b)) END
    """
    return (
        f"CASE WHEN {index} IS NULL THEN {_INFINITE} WHEN {index} = {_FINE_ZERO} THEN {_ZERO} "
        f"ELSE greatest({_LOWEST}, least({_HIGHEST}, {index})) END"
    )


def loss_bin_edges(number: int) -> tuple[float, float]:
    """Return the losses, in nats, between which those of a bin lie.

    Examples
    --------
    >>> loss_bin_edges(0), loss_bin_edges(-8)[0], loss_bin_edges(81)
    ((1.0, 1.0905), 0.5, (inf, inf))
    """
    if number in (_ZERO, _INFINITE):
        both = 0.0 if number == _ZERO else math.inf
        return both, both
    least = 0.0 if number == _LOWEST else 2.0 ** (number / LOSS_BINS_PER_OCTAVE)
    most = math.inf if number == _HIGHEST else 2.0 ** ((number + 1) / LOSS_BINS_PER_OCTAVE)
    return least, most


@dataclass(frozen=True)
class Cell:
    """The statistics of some rows.

    Attributes
    ----------
    rows
        All rows, those of weight 0 too.
    summary
        The statistics of their losses.
    brier
        Σw·Σ_c (p_c − y_c)², the sum of all classes' squared differences.
    correct
        Σw of the rows whose largest probability is the truth's, ties going to the first class.

    Examples
    --------
    >>> Cell(1, LossSummary.from_rows([0.5]), 0.2, 1.0).merge(Cell()).brier
    0.2
    """

    rows: int = 0
    summary: LossSummary = field(default_factory=LossSummary)
    brier: float = 0.0
    correct: float = 0.0

    def merge(self, *others: Cell) -> Cell:
        """Return the statistics of these rows and the others' together."""
        parts = [self, *others]
        return Cell(
            sum(part.rows for part in parts),
            self.summary.merge(*(part.summary for part in others)),
            math.fsum(part.brier for part in parts),
            math.fsum(part.correct for part in parts),
        )

    @property
    def brier_score(self) -> float | None:
        """Mean of the sum of the classes' squared differences, in [0, 2]; None without rows."""
        return self.brier / self.summary.weight if self.summary.weight else None

    @property
    def accuracy(self) -> float | None:
        """Weighted share of the rows that were called right; None without rows."""
        return self.correct / self.summary.weight if self.summary.weight else None


@dataclass(frozen=True)
class Tally:
    """The statistics of the good rows of a table, grouped in every way that was asked for.

    Attributes
    ----------
    classes
        By the true class, counted from 1.
    guesses
        By the true class and the likeliest one; those beyond the largest 10 000 are not here.
    losses
        By the loss's bin (`loss_bin_edges`) and by how many of the floors lie above P(truth).
    top
        The likeliest class as a yes-or-no prediction: is it the truth? None where the rows were
        grouped by nothing but their class and slices.
    slices
        For each column, by its value.
    loose
        Rows whose sum is off by more than rounding, accepted because the caller said so.
    touched, zeros
        With a floor under P(truth): rows in which it is less, and those in which it is 0.
    questions
        Histograms of yes-or-no questions, each with the classes that mean yes.
    soft, soft_entropy
        Of soft labels: Σw·t by class, and Σw·H(t) in nats; empty and 0 of labels.
    """

    classes: Mapping[int, Cell]
    guesses: Mapping[tuple[int, int], Cell] = field(default_factory=dict)
    losses: Mapping[tuple[int, int], Cell] = field(default_factory=dict)
    top: Histogram | None = None
    slices: tuple[Mapping[str | None, Cell], ...] = ()
    loose: int = 0
    touched: int = 0
    zeros: int = 0
    questions: Mapping[tuple[int, ...], Histogram] = field(default_factory=dict)
    soft: Mapping[int, float] = field(default_factory=dict)
    soft_entropy: float = 0.0

    @property
    def explained(self) -> bool:
        """Whether the rows were grouped by their guess and their loss too."""
        return self.top is not None

    @property
    def whole(self) -> Cell:
        """The statistics of all rows."""
        return Cell().merge(*self.classes.values())

    def merge(self, *others: Tally) -> Tally:
        """Return the tally of these rows and the others' together, of the same classes.

        What only some parts were asked for is not in the whole: slices by other columns, questions
        about other classes (of more than 32, the rarest of each part are pooled).

        Examples
        --------
        >>> one = Tally({1: Cell(1, LossSummary.from_rows([0.5]), 0.2, 1.0)})
        >>> one.merge(one).whole.rows
        2
        """
        parts = [self, *others]
        tops = [part.top for part in parts if part.top is not None]
        asked = [group for group in self.questions if all(group in p.questions for p in parts)]
        return Tally(
            classes=joined(part.classes for part in parts),
            guesses=joined(part.guesses for part in parts),
            losses=joined(part.losses for part in parts),
            top=tops[0].merge(*tops[1:]) if len(tops) == len(parts) else None,
            slices=tuple(
                joined(column) for column in zip(*(part.slices for part in parts), strict=True)
            ),
            loose=sum(part.loose for part in parts),
            touched=sum(part.touched for part in parts),
            zeros=sum(part.zeros for part in parts),
            questions={
                group: self.questions[group].merge(*(part.questions[group] for part in others))
                for group in asked
            },
            soft={k: math.fsum(part.soft.get(k, 0.0) for part in parts) for k in self.soft},
            soft_entropy=math.fsum(part.soft_entropy for part in parts),
        )

    def renumbered(self, places: Sequence[int]) -> Tally:
        """Return the tally with class k in the place ``places[k - 1]``; others stay.

        Examples
        --------
        >>> list(Tally({1: Cell(1), 3: Cell(2)}).renumbered([2, 1]).classes)
        [2, 3]
        """

        def at(k: int) -> int:
            return places[k - 1] if k <= len(places) else k

        return replace(
            self,
            classes={at(k): cell for k, cell in self.classes.items()},
            guesses={(at(k), at(g)): cell for (k, g), cell in self.guesses.items()},
            questions={tuple(sorted(map(at, g))): h for g, h in self.questions.items()},
            soft={at(k): weight for k, weight in self.soft.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the tally as numbers, texts and lists only, ready for JSON."""
        return {
            "classes": _cells_to_dict(self.classes),
            "guesses": _cells_to_dict(self.guesses),
            "losses": _cells_to_dict(self.losses),
            "top": None if self.top is None else self.top.to_dict(),
            "slices": [_cells_to_dict(cells) for cells in self.slices],
            "loose": self.loose,
            "touched": self.touched,
            "zeros": self.zeros,
            "questions": [[list(g), h.to_dict()] for g, h in self.questions.items()],
            "soft": [[k, weight] for k, weight in self.soft.items()],
            "soft_entropy": self.soft_entropy,
        }

    @classmethod
    def from_dict(cls, columns: Mapping[str, Any]) -> Tally:
        """Return the tally that `to_dict` wrote.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is something else; `OptionError` is one of the last.

        Examples
        --------
        >>> one = Tally({1: Cell(1, LossSummary.from_rows([0.5]), 0.2, 1.0)})
        >>> Tally.from_dict(one.to_dict()) == one
        True
        """
        return cls(
            classes=_cells_from_dict(columns["classes"], int),
            guesses=_cells_from_dict(columns["guesses"], _pair),
            losses=_cells_from_dict(columns["losses"], _pair),
            top=None if columns["top"] is None else Histogram.from_dict(columns["top"]),
            slices=tuple(_cells_from_dict(cells, _text) for cells in columns["slices"]),
            loose=int(columns["loose"]),
            touched=int(columns["touched"]),
            zeros=int(columns["zeros"]),
            questions={
                tuple(int(k) for k in group): Histogram.from_dict(histogram)
                for group, histogram in columns["questions"]
            },
            soft={int(k): _number("weight", weight) for k, weight in columns["soft"]},
            soft_entropy=_number("soft_entropy", columns["soft_entropy"]),
        )

    def log_loss_above(self, floor: float, floors: Sequence[float]) -> float:
        """Return the log loss, nats, with a floor under every probability.

        Parameters
        ----------
        floor
            One of `floors`.
        floors
            Those that the losses are grouped by, the lowest first.
        """
        enough = len(floors) - list(floors).index(floor)
        below = [cell.summary for (_, count), cell in self.losses.items() if count >= enough]
        above = [cell.summary for (_, count), cell in self.losses.items() if count < enough]
        parts = [part.weight * -math.log(floor) for part in below]
        parts += [part.finite_total for part in above]
        return math.fsum(parts) / math.fsum(part.weight for part in below + above)

    def carriers(self) -> float | None:
        """Return how few rows carry half of the variance: those of the most different losses.

        Computed from the bins of the loss, each row of a bin counting with the bin's mean. None
        where the mean is infinite or the variance 0.

        Examples
        --------
        >>> losses = {(0, 0): Cell(99, LossSummary.from_rows([1.0] * 99))}
        >>> losses |= {(24, 0): Cell(1, LossSummary.from_rows([9.0]))}
        >>> Tally({1: losses[0, 0].merge(losses[24, 0])}, losses=losses).carriers()
        0.505
        """
        whole = self.whole.summary
        if whole.infinite_rows or not whole.n:
            return None
        mean = whole.log_loss
        bins: dict[int, LossSummary] = {}
        for (number, _), cell in self.losses.items():
            bins[number] = bins.get(number, LossSummary()).merge(cell.summary)
        parts = [part.about(mean) for part in bins.values() if part.n]
        spread = math.fsum(part.second_squared for part in parts)
        if spread <= 0.0:
            return None
        parts.sort(key=lambda part: -part.second_squared / part.n)
        left, rows = 0.5 * spread, 0.0
        for part in parts:
            taken = min(1.0, left / part.second_squared) if part.second_squared > 0.0 else 0.0
            rows += taken * part.n
            left -= taken * part.second_squared
            if left <= 0.0:
                break
        return rows

    def least_of_worst(self, count: int) -> float:
        """Return a loss, nats, that at least so many of the rows reach, but not many more.

        Examples
        --------
        >>> losses = {(0, 0): Cell(9, LossSummary.from_rows([1.0] * 9))}
        >>> losses |= {(24, 0): Cell(1, LossSummary.from_rows([9.0]))}
        >>> tally = Tally({}, losses=losses)
        >>> tally.least_of_worst(1), tally.least_of_worst(2)
        (8.0, 1.0)
        """
        rows = 0
        for (number, _), cell in sorted(self.losses.items(), reverse=True):
            rows += cell.summary.n
            if rows >= count:
                return loss_bin_edges(number)[0]
        return 0.0

    def heaviest(self, share: float) -> tuple[float | None, float | None]:
        """Return what part of the loss, and of its variance, the worst rows make up.

        Parameters
        ----------
        share
            Which rows: so large a part of all weight, those of the largest losses.

        Returns
        -------
        tuple
            The two parts, each None where the whole is 0 or infinite, or the losses are not
            grouped. Rows at the edge count with the mean of their bin.
        """
        by_bin: dict[int, list[LossSummary]] = {}
        for (number, _), cell in self.losses.items():
            by_bin.setdefault(number, []).append(cell.summary)
        whole = self.whole.summary
        if whole.infinite_rows or not whole.n or not by_bin:
            return None, None
        left, mean = share * whole.weight, whole.log_loss
        losses, squares = [], []
        for number in sorted(by_bin, reverse=True):
            part = LossSummary().merge(*by_bin[number]).about(mean)
            taken = min(1.0, left / part.weight) if part.weight else 0.0
            losses += [taken * part.total]
            squares += [taken * part.second_squared]
            left -= taken * part.weight
            if left <= 0.0:
                break
        spread = whole.about(mean).second_squared
        return (
            math.fsum(losses) / whole.total if whole.total > 0.0 else None,
            min(math.fsum(squares) / spread, 1.0) if spread > 0.0 else None,
        )


def _cells_to_dict(cells: Mapping[Any, Cell]) -> dict[str, list[Any]]:
    """Return cells by columns: their keys, and each of their numbers."""
    table: dict[str, list[Any]] = {
        "key": [list(key) if isinstance(key, tuple) else key for key in cells],
        **{name: [getattr(cell, name) for cell in cells.values()] for name in _OF_A_CELL},
        **{
            name: [getattr(cell.summary, name) for cell in cells.values()] for name in _OF_A_SUMMARY
        },
    }
    return table


def _cells_from_dict(table: Mapping[str, list[Any]], key: Callable[[Any], Key]) -> dict[Key, Cell]:
    columns = {
        name: [_number(name, value) for value in table[name]]
        for name in (*_OF_A_CELL, *_OF_A_SUMMARY)
    }
    keys = [key(value) for value in table["key"]]
    if len(set(keys)) != len(keys) or any(len(c) != len(keys) for c in columns.values()):
        raise ValueError("cells must have one number of each kind for each of different keys")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {
        name: Cell(
            **{column: row[column] for column in _OF_A_CELL},
            summary=LossSummary(**{column: row[column] for column in _OF_A_SUMMARY}),
        )
        for name, row in zip(keys, rows, strict=True)
    }


_OF_A_CELL = ("rows", "brier", "correct")
_OF_A_SUMMARY = tuple(f.name for f in fields(LossSummary))
_SIGNED = frozenset({"centre", "first", "first_squared"})


def _number(name: str, value: Any) -> Any:
    """Return a number of a cell, refusing what none can be."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number: got {value!r}")
    if not math.isfinite(value) or (value < 0 and name not in _SIGNED):
        raise ValueError(f"{name} must be finite, and not negative: got {value!r}")
    if name.endswith("rows"):
        if not isinstance(value, int):
            raise TypeError(f"{name} must be a whole number: got {value!r}")
        return value
    return float(value)


def _pair(value: Any) -> tuple[int, int]:
    first, second = value
    return int(first), int(second)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def joined(parts: Iterable[Mapping[Key, Cell]]) -> dict[Key, Cell]:
    """Merge cells of equal keys."""

    def added(into: dict[Key, Cell], part: Mapping[Key, Cell]) -> dict[Key, Cell]:
        for key, cell in part.items():
            into[key] = into[key].merge(cell) if key in into else cell
        return into

    empty: dict[Key, Cell] = {}
    return reduce(added, parts, empty)
