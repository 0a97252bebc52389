"""What reports for a terminal share: numbers in words, texts without control codes, the console."""

from __future__ import annotations

import io
import math
import unicodedata
from typing import TYPE_CHECKING, Any

from xent.errors import MissingExtraError

if TYPE_CHECKING:
    from xent.scoring import Score

__all__ = [
    "count",
    "grid",
    "number",
    "percent",
    "plain",
    "probability",
    "tenths",
    "text_console",
    "truth_head",
    "without_trailing_spaces",
]

# Sums of weights in another order differ in the last digits, where all rows are right too.
_WHOLE = 1.0 - 1e-12


def text_console(out: io.StringIO, width: int, *, color: bool) -> Any:
    """Return a console that writes to a text.

    Raises
    ------
    MissingExtraError
        If rich is not installed.
    """
    try:
        from rich.console import Console
    except ImportError:
        raise MissingExtraError("rich", "tables") from None
    return Console(
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


def without_trailing_spaces(text: str) -> str:
    """Return a text with a line break at its end and no space before any."""
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def grid(*justify: str) -> Any:
    """Return a table without lines, whose first two columns are not wrapped."""
    from rich.table import Table

    lines = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for place, side in enumerate(justify):
        lines.add_column(justify=side, no_wrap=place < 2)  # type: ignore[arg-type]
    return lines


def number(value: float) -> str:
    """Return a number with four decimals, or three digits where it is tiny or huge."""
    if math.isinf(value):
        return "∞"
    if math.isnan(value):
        return "–"
    if value == 0.0:
        return "0"
    if not 1e-4 <= abs(value) < 1e5:
        return f"{value:.3g}"
    return f"{value:.4f}"


def probability(p: float) -> str:
    """Return a probability; 1.0000 is 1, however many digits that takes."""
    text = number(p)
    for digits in range(5, 17):
        if float(text) < 1.0 or p >= 1.0:
            break
        text = f"{p:.{digits}f}"
    return text


def percent(share: float) -> str:
    """Return a share with three digits, or as many as keep it apart from 100 %."""
    for digits in range(3, 15):
        text = f"{100.0 * share:.{digits}g}"
        if share >= _WHOLE or float(text) < 100.0:
            break
    return f"{text} %"


def tenths(share: float | None) -> str:
    """Return a share with one decimal; only all is 100.0 %, and only nothing 0.0 %."""
    if share is None:
        return "–"
    text = f"{100.0 * share:.1f} %"
    if text == "100.0 %" and share < _WHOLE:
        return "> 99.9 %"
    return "< 0.1 %" if text == "0.0 %" and share > 0.0 else text


def plain(text: str) -> str:
    """Return a text of the table's with its control characters spelt out.

    An escape code would otherwise reach the terminal, and a line break would forge a row.
    """
    return "".join(
        ascii(c)[1:-1] if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} else c for c in text
    )


def count(many: int, noun: str) -> str:
    """Return how many there are of something."""
    return f"{many:,} {noun}{'' if many == 1 else 's'}"


def truth_head(score: Score) -> str:
    """Return what the classes of a score are called: those of soft labels are not the truth."""
    return "true label" if score.label_entropy is None else "likeliest label"
