"""A score as text for a terminal: one table that a person understands."""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from xent.errors import MissingExtraError
from xent.units import from_nats

if TYPE_CHECKING:
    from xent.scoring import ScoredRow, TableScore

__all__ = ["render_text"]

_MOST_CLASSES = 30
# Sums of weights in another order differ in the last digits, where all rows are right too.
_WHOLE = 1.0 - 1e-12


def render_text(score: TableScore, *, width: int = 96, color: bool = False) -> str:
    """Return the report of a score as text.

    Parameters
    ----------
    score
        What `xent.scoring.score_table` returned.
    width
        Columns of the terminal.
    color
        Whether to use escape codes for bold and colour.

    Raises
    ------
    MissingExtraError
        If rich is not installed.
    """
    try:
        from rich.console import Console
    except ImportError:
        raise MissingExtraError("rich", "tables") from None

    out = io.StringIO()
    console = Console(
        file=out,
        # Below this a terminal wraps the lines itself, which shows every number; a table cuts them.
        width=max(width, 64),
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    console.print(_plain(score.path), style="bold", soft_wrap=True)
    for line in score.reading:
        console.print(f"  {_plain(line)}", style="dim")
    console.print()
    console.print(_headline(score))
    console.print()
    console.print(_class_table(score, wide=console.width >= 80))
    if score.infinite_rows:
        console.print()
        for line in _infinite_lines(score):
            console.print(line, style="red")
    if score.loose_rows:
        console.print()
        console.print(
            f"{_count(score.loose_rows, 'row')} did not sum to 1 but came within "
            f"{score.allow_unnormalised:g} of it (--allow unnormalised); used as given."
        )
    if score.worst:
        console.print()
        console.print(_worst_table(score.worst))
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    return "\n".join(lines) + "\n"


def _grid(*justify: str) -> Any:
    from rich.table import Table

    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for place, side in enumerate(justify):
        grid.add_column(justify=side, no_wrap=place < 2)  # type: ignore[arg-type]
    return grid


def _headline(score: TableScore) -> Any:
    from rich.text import Text

    grid = _grid("left", "right", "left")
    rows = f"{score.n:,}"
    skipped = score.rows - score.n
    grid.add_row("rows", rows, f"{_count(skipped, 'row')} of weight 0 left out" if skipped else "")
    error = score.standard_error
    bits = from_nats(score.log_loss, "bits")
    about = "" if error is None else f" ± {_number(error)}"
    about_bits = "" if error is None else f" ± {_number(from_nats(error, 'bits'))}"
    spread = "its standard error is undefined" if error is None else "± is one standard error"
    grid.add_row(
        "log loss",
        Text(_number(score.log_loss), style="bold"),
        f"{about} nats = {_number(bits)}{about_bits} bits; {spread}".strip(),
    )
    if score.infinite_rows:
        said = "nothing: in some row the truth was called impossible"
        grid.add_row("the truth got", "0 %", said)
    else:
        percent = _percent(score.typical_probability)
        grid.add_row("the truth got", percent, "typically (geometric mean)")
    grid.add_row(
        "base rate",
        _number(score.base_rate_loss),
        "nats: the loss of always predicting these rows' own label frequencies",
    )
    if score.skill is not None:
        better = (
            "of the base rate's loss removed" if score.skill >= 0 else "worse than the base rate"
        )
        grid.add_row("skill", _percent(score.skill), better)
    grid.add_row("accuracy", _percent(score.accuracy), "of rows: the truth is most probable")
    return grid


def _class_table(score: TableScore, *, wide: bool) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("true label", overflow="fold")
    loss, share = ("log loss (nats)", "share of the loss") if wide else ("nats", "share")
    for head in ("rows", loss, "bits", share, "accuracy"):
        table.add_column(head, justify="right", no_wrap=True)
    for c in score.classes[:_MOST_CLASSES]:
        nats = c.summary.log_loss
        table.add_row(
            Text(_plain(c.label)),
            f"{c.summary.n:,}",
            _number(nats),
            _number(from_nats(nats, "bits")),
            _tenths(c.share),
            _tenths(c.accuracy),
        )
    left = len(score.classes) - _MOST_CLASSES
    if left > 0:
        table.add_row(f"… {left} more (--json has all)")
    return table


def _infinite_lines(score: TableScore) -> list[str]:
    first = ", ".join(_plain(row.name) for row in score.worst if not row.p_truth > 0.0)
    more = " …" if score.infinite_rows > sum(not row.p_truth > 0.0 for row in score.worst) else ""
    lines = [
        f"{_count(score.infinite_rows, 'row')} had P(truth) = 0, so the log loss is infinite"
        + (f"; named {first}{more}" if first else "")
    ]
    if score.finite_log_loss is not None:
        lines.append(f"  without them the rest scores {_number(score.finite_log_loss)} nats")
    lines.extend(
        f"  with a floor of {floor:g} under every probability: {_number(loss)} nats"
        for floor, loss in score.floor_scores.items()
    )
    return lines


def _worst_table(rows: Sequence[ScoredRow]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("worst rows", overflow="fold")
    table.add_column("true label", overflow="fold")
    table.add_column("P(truth)", justify="right", no_wrap=True)
    table.add_column("nats", justify="right", no_wrap=True)
    table.add_column("probabilities", overflow="fold")
    for row in rows:
        # The largest first: what the model believed instead.
        top = sorted(row.probabilities.items(), key=lambda item: -item[1])
        shown = "  ".join(f"{_plain(label)} {_probability(p)}" for label, p in top[:4])
        table.add_row(
            Text(_plain(row.name)),
            Text(_plain(row.label)),
            _probability(row.p_truth),
            _number(row.loss),
            Text(shown + ("  …" if len(top) > 4 else "")),
        )
    return table


def _number(value: float) -> str:
    if math.isinf(value):
        return "∞"
    if math.isnan(value):
        return "–"
    if value == 0.0:
        return "0"
    if not 1e-4 <= abs(value) < 1e5:
        return f"{value:.3g}"
    return f"{value:.4f}"


def _probability(p: float) -> str:
    """Return a probability; 1.0000 is 1, however many digits that takes."""
    text = _number(p)
    for digits in range(5, 17):
        if float(text) < 1.0 or p >= 1.0:
            break
        text = f"{p:.{digits}f}"
    return text


def _percent(share: float) -> str:
    """Return a share with three digits, or as many as keep it apart from 100 %."""
    for digits in range(3, 15):
        text = f"{100.0 * share:.{digits}g}"
        if share >= _WHOLE or float(text) < 100.0:
            break
    return f"{text} %"


def _tenths(share: float | None) -> str:
    """Return a share with one decimal; only all is 100.0 %, and only nothing 0.0 %."""
    if share is None:
        return "–"
    text = f"{100.0 * share:.1f} %"
    if text == "100.0 %" and share < _WHOLE:
        return "> 99.9 %"
    return "< 0.1 %" if text == "0.0 %" and share > 0.0 else text


def _plain(text: str) -> str:
    """Return a text of the table's with its control characters spelt out.

    An escape code would otherwise reach the terminal, and a line break would forge a row.
    """
    return "".join(
        ascii(c)[1:-1] if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} else c for c in text
    )


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
