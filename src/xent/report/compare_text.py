"""A comparison as text for a terminal."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from xent.report.wording import (
    count,
    grid,
    number,
    percent,
    plain,
    tenths,
    text_console,
    without_trailing_spaces,
)
from xent.units import from_nats

if TYPE_CHECKING:
    from xent.scoring.comparison import ComparedModel, Comparison, Difference, DifferingRow

__all__ = ["by_size", "render_comparison", "signed", "total_facts", "verdict"]

_MOST_GROUPS = 20


def render_comparison(comparison: Comparison, *, width: int = 96, color: bool = False) -> str:
    """Return the report of a comparison as text.

    Parameters
    ----------
    comparison
        What `xent.scoring.compare` returned.
    width
        Columns of the terminal.
    color
        Whether to use escape codes for bold and colour.

    Raises
    ------
    MissingExtraError
        If rich is not installed.
    """
    out = io.StringIO()
    console = text_console(out, width, color=color)
    first, *others = comparison.models
    paired = f"{comparison.rows:,} rows paired by {plain(comparison.key)!r}"
    console.print(paired, style="bold", soft_wrap=True)
    for model in comparison.models:
        console.print(f"  {plain(model.path)}", style="dim", soft_wrap=True)
        for line in model.reading[:2]:
            console.print(f"    {plain(line)}", style="dim")
    console.print()
    console.print(_models_table(comparison))
    for model in others:
        console.print()
        console.print(plain(verdict(first, model)), style="bold")
        console.print(_total_lines(model, comparison))
        for column in dict.fromkeys(group.column for group in model.groups):
            groups = [group for group in model.groups if group.column == column]
            if len(groups) > 1:
                console.print()
                console.print(_groups_table(str(column), groups))
        for rows, word in ((model.worse, "lost most"), (model.better, "gained most")):
            if rows:
                console.print()
                console.print(_rows_table(rows, word))
    for note in comparison.notes:
        console.print()
        console.print(f"{note[0].upper()}{note[1:]}.")
    return without_trailing_spaces(out.getvalue())


def verdict(first: ComparedModel, model: ComparedModel) -> str:
    """Return which of two models is better, in a sentence.

    Parameters
    ----------
    first
        The one that the other is compared with.
    model
        The other.
    """
    total = model.total
    name = model.path
    if total is None:
        return f"{name} is what the others are compared with."
    if total.mean is None:
        if total.pairs.first_infinite:
            return (
                f"{name} and {first.path} are infinitely wrong in different rows, so neither is "
                "better."
            )
        return f"{name} and {first.path} are both infinitely wrong in every row."
    if math.isinf(total.mean):
        who, rows = (
            (name, total.pairs.second_infinite)
            if total.mean > 0
            else (first.path, total.pairs.first_infinite)
        )
        return (
            f"{who} called the truth impossible in {count(rows, 'row')} in which the other did "
            "not, and is infinitely worse."
        )
    if total.mean == 0.0 and total.pairs.standard_error in {0.0, None}:
        return f"{name} predicts no better and no worse than {first.path}."
    word = "better" if total.mean < 0 else "worse"
    error = _error_of(total)
    about = "" if error is None else f" ± {number(error)}"
    said = f"{name} is {word} than {first.path} by {number(abs(total.mean))}{about} nats a row"
    if total.interval is None:
        return f"{said}; there is too little of it to say how sure that is."
    level = percent(total.interval.level)
    if total.interval.lower <= 0.0 <= total.interval.upper:
        return f"{said}, which may be chance: the {level} interval holds 0."
    return f"{said}, which is not chance: the {level} interval does not hold 0."


def _error_of(total: Difference) -> float | None:
    """Return the standard error that the interval has, by clusters if it is."""
    from xent.scoring.intervals import quantile

    if total.interval is None or total.interval.degrees is None:
        return None
    reach = 0.5 * (total.interval.upper - total.interval.lower)
    return reach / quantile(total.interval.level, total.interval.degrees)


def _models_table(comparison: Comparison) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("model", overflow="fold")
    for head in ("log loss (nats)", "bits", "accuracy", "difference (nats)", "infinite"):
        table.add_column(head, justify="right")
    for model in comparison.models:
        mean = None if model.total is None else model.total.mean
        infinite = model.summary.infinite_rows
        table.add_row(
            plain(model.path),
            number(model.log_loss),
            number(from_nats(model.log_loss, "bits")),
            percent(model.accuracy),
            "" if model.total is None else signed(mean),
            f"{infinite:,}" if infinite else "",
            style="bold" if model is comparison.best else None,
        )
    return table


def signed(value: float | None) -> str:
    """Return a difference with its sign; a dash for none.

    Examples
    --------
    >>> print(signed(0.25), signed(-0.25), signed(None))
    +0.2500 −0.2500 –
    """
    if value is None:
        return "–"
    return f"+{number(value)}" if value > 0 else number(value).replace("-", "−")


def _total_lines(model: ComparedModel, comparison: Comparison) -> Any:
    lines = grid("left", "left")
    for name, said in total_facts(model, comparison):
        lines.add_row(f"  {name}" if name else "", said)
    return lines


def total_facts(model: ComparedModel, comparison: Comparison) -> list[tuple[str, str]]:
    """Return what is known of a model's difference on all rows, each with what it is called.

    What has no name is about the fact before it.

    Parameters
    ----------
    model
        One of those that the first is compared with.
    comparison
        What it is part of.
    """
    facts: list[tuple[str, str]] = []
    total = model.total
    if total is None:
        return facts
    for interval, how in (
        (total.interval, "" if comparison.cluster is None else f", by {plain(comparison.cluster)}"),
        (model.bootstrap, ", by drawing anew"),
    ):
        if interval is not None:
            bits = [signed(from_nats(end, "bits")) for end in (interval.lower, interval.upper)]
            ends = f"{signed(interval.lower)} to {signed(interval.upper)} nats"
            facts.append((f"{percent(interval.level)}{how}", f"{ends} = {' to '.join(bits)} bits"))
            facts += [("", f"not to be trusted: {doubt}") for doubt in interval.doubts]
    if total.p_value is not None:
        facts.append(("p", f"{number(total.p_value)}: so likely without a difference"))
    for many, said in (
        (total.pairs.first_infinite, "the first alone called the truth impossible"),
        (total.pairs.second_infinite, "this one alone did"),
        (total.pairs.both_infinite, "both did, so that they are in no difference"),
    ):
        if many:
            facts.append((count(many, "row"), said))
    return facts


def by_size(groups: Iterable[Difference]) -> list[Difference]:
    """Return differences, those that no mean tells first, then the largest."""
    return sorted(
        groups, key=lambda g: (-abs(g.mean) if g.mean is not None else -math.inf, str(g.value))
    )


def _groups_table(column: str, groups: Sequence[Difference]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(plain(column), overflow="fold")
    for head in ("rows", "difference (nats)", "bits", "from", "to", "p, by Holm", "share"):
        table.add_column(head, justify="right")
    order = by_size(groups)
    for group in order[:_MOST_GROUPS]:
        ends = ("", "")
        if group.interval is not None:
            ends = (signed(group.interval.lower), signed(group.interval.upper))
        p = group.adjusted_p_value
        table.add_row(
            "(none)" if group.value is None else plain(group.value),
            f"{group.pairs.rows:,}",
            signed(group.mean),
            signed(None if group.mean is None else from_nats(group.mean, "bits")),
            *ends,
            "" if p is None else number(p),
            tenths(group.share)
            if group.share is None or group.share >= 0
            else _negative(group.share),
        )
    if len(order) > _MOST_GROUPS:
        table.add_row(f"… {len(order) - _MOST_GROUPS:,} more", *[""] * 7)
    return table


def _negative(share: float) -> str:
    return f"−{100.0 * -share:.1f} %"


def _rows_table(rows: Sequence[DifferingRow], word: str) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(f"rows in which it {word}", overflow="fold")
    table.add_column("true label", overflow="fold")
    for head in ("first's loss", "its loss", "difference"):
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(
            plain(row.key),
            plain(row.label),
            number(row.first),
            number(row.second),
            signed(row.difference),
        )
    return table
