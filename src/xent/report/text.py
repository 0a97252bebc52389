"""A score as text for a terminal: one table that a person understands."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from xent.errors import MissingExtraError
from xent.units import from_nats

if TYPE_CHECKING:
    from xent.scoring import ScoredRow, TableScore

__all__ = ["render_text"]

_MOST_CLASSES = 30


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
        width=max(width, 40),
        force_terminal=color,
        color_system="standard" if color else None,
        no_color=not color,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    console.print(score.path, style="bold", soft_wrap=True)
    for line in score.reading:
        console.print(f"  {line}", style="dim")
    console.print()
    console.print(_headline(score))
    console.print()
    console.print(_class_table(score))
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
    for side in justify:
        grid.add_column(justify=side)  # type: ignore[arg-type]
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
        percent = f"{100.0 * score.typical_probability:.3g} %"
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
        grid.add_row("skill", f"{100.0 * score.skill:.3g} %", better)
    grid.add_row(
        "accuracy", f"{100.0 * score.accuracy:.3g} %", "of rows: the truth is most probable"
    )
    return grid


def _class_table(score: TableScore) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("true label", overflow="fold")
    for head in ("rows", "log loss (nats)", "bits", "share of the loss", "accuracy"):
        table.add_column(head, justify="right")
    for c in score.classes[:_MOST_CLASSES]:
        loss = c.summary.log_loss
        table.add_row(
            Text(c.label),
            f"{c.summary.n:,}",
            _number(loss),
            _number(from_nats(loss, "bits")),
            _percent(c.share),
            _percent(c.accuracy),
        )
    left = len(score.classes) - _MOST_CLASSES
    if left > 0:
        table.add_row(f"… {left} more (--json has all)")
    return table


def _infinite_lines(score: TableScore) -> list[str]:
    first = ", ".join(row.name for row in score.worst if not row.p_truth > 0.0)
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
    table.add_column("P(truth)", justify="right")
    table.add_column("nats", justify="right")
    table.add_column("probabilities", overflow="fold")
    for row in rows:
        # The largest first: what the model believed instead.
        top = sorted(row.probabilities.items(), key=lambda item: -item[1])
        shown = "  ".join(f"{label} {_number(p)}" for label, p in top[:4])
        table.add_row(
            Text(row.name),
            Text(row.label),
            _number(row.p_truth),
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


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100.0 * share:.1f} %"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
