"""A score as text for a terminal: one table that a person understands."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from xent.report.wording import (
    count,
    grid,
    number,
    percent,
    plain,
    probability,
    tenths,
    text_console,
    truth_head,
    without_trailing_spaces,
)
from xent.units import from_nats

if TYPE_CHECKING:
    from xent.scoring import Confusion, Score, ScoredRow, SliceScore

__all__ = ["render_text"]

_MOST_CLASSES, _MOST_SLICES, _MOST_CONFUSIONS = 30, 20, 5


def render_text(score: Score, *, width: int = 96, color: bool = False) -> str:
    """Return the report of a score as text.

    Parameters
    ----------
    score
        What `xent.scoring.score` returned.
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
    console.print(plain(score.path), style="bold", soft_wrap=True)
    for line in score.reading:
        console.print(f"  {plain(line)}", style="dim")
    console.print()
    console.print(_headline(score))
    console.print()
    console.print(_class_table(score, wide=console.width >= 80))
    for line in _calibration_lines(score, wide=console.width >= 96):
        console.print(line)
    mistakes = [c for c in score.confusions if c.label != c.guess][:_MOST_CONFUSIONS]
    if len(score.classes) > 2 and mistakes:
        console.print()
        console.print(_mistakes_table(mistakes))
    for column in score.by:
        console.print()
        console.print(_slice_table(column, [s for s in score.slices if s.column == column]))
    if score.infinite_rows:
        console.print()
        for line in _infinite_lines(score):
            console.print(line, style="red")
    if score.interval is not None:
        for doubt in score.interval.doubts:
            console.print()
            console.print(f"The 95 % are not to be trusted: {doubt}.", style="yellow")
    for line in _policy_lines(score):
        console.print()
        console.print(line)
    if score.loose_rows:
        console.print()
        console.print(
            f"{count(score.loose_rows, 'row')} did not sum to 1 but came within "
            f"{score.allow_unnormalised:g} of it (--allow unnormalised); used as given."
        )
    if score.worst:
        console.print()
        console.print(_worst_table(score.worst))
    if not score.explained:
        console.print()
        console.print("Where the loss comes from was not looked at (--no-explain),", style="dim")
        console.print("nor whether few rows decide how sure it is.", style="dim")
    return without_trailing_spaces(out.getvalue())


def _calibration_lines(score: Score, *, wide: bool) -> list[Any]:
    """Return how much of a yes-or-no loss is miscalibration, of two labels or of the likeliest."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    asked = list(score.calibration)
    if len(score.names) > 2 and score.top_calibration is not None:
        asked.insert(0, score.top_calibration)
    if not asked:
        return []
    names = ("loss", "= miscalibration", "− discrimination", "+ uncertainty")
    splits = [calibration.log_loss for calibration in asked]
    terms = [
        [number(t) for t in (s.score, s.miscalibration, s.discrimination, s.uncertainty)]
        for s in splits
    ]
    questions = [_asked(calibration.labels) for calibration in asked]
    errors = [number(calibration.smooth_calibration_error) for calibration in asked]
    if not wide:
        # Sentences fold where columns would be cut.
        return [
            "",
            *(
                f"{question} (nats) "
                + " ".join(f"{name} {term}" for name, term in zip(names, row, strict=True))
                + f"; smooth calibration error {error}"
                for question, row, error in zip(questions, terms, errors, strict=True)
            ),
        ]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("as yes or no (nats)", overflow="fold")
    for name in (*names, "smECE"):
        table.add_column(name, justify="right", no_wrap=True)
    for question, row, error in zip(questions, terms, errors, strict=True):
        table.add_row(question, *row, error)
    return ["", table]


def _asked(labels: Sequence[str]) -> str:
    if not labels:
        return "is the likeliest right?"
    more = f", or {len(labels) - 1:,} more rare ones" if len(labels) > 1 else ""
    return f"is it {plain(labels[0])}{more}?"


def _policy_lines(score: Score) -> list[str]:
    """Return what was done to rows because the caller said so."""
    lines = []
    if score.floor is not None:
        said = f"{count(score.touched_rows, 'row')} had P(truth) below the floor {score.floor:g}"
        zeros = score.tally.zeros
        without = f"; without it the log loss is ∞, in {count(zeros, 'row')}" if zeros else ""
        lines.append(f"{said}, and cost what that would (--zero floor={score.floor:g}){without}.")
    if score.left_out:
        rows = sum(score.left_out.values())
        were = "was" if rows == 1 else "were"
        lines.append(
            f"{count(rows, 'row')} without a label or a prediction {were} left out "
            "(--allow missing)."
        )
    return lines


def _headline(score: Score) -> Any:
    from rich.text import Text

    lines = grid("left", "right", "left")
    rows = f"{score.n:,}"
    skipped = score.rows - score.n
    lines.add_row("rows", rows, f"{count(skipped, 'row')} of weight 0 left out" if skipped else "")
    error = score.standard_error
    bits = from_nats(score.log_loss, "bits")
    about = "" if error is None else f" ± {number(error)}"
    about_bits = "" if error is None else f" ± {number(from_nats(error, 'bits'))}"
    spread = "its standard error is undefined" if error is None else "± is one standard error"
    lines.add_row(
        "log loss",
        Text(number(score.log_loss), style="bold"),
        f"{about} nats = {number(bits)}{about_bits} bits; {spread}".strip(),
    )
    if score.interval is not None:
        lower, upper = number(score.interval.lower), number(score.interval.upper)
        whom = "" if score.clusters is None else f"; {score.clusters.clusters:,} clusters"
        lines.add_row("95 %", lower, f"to {upper} nats: where the mean of all such rows is{whom}")
    if score.infinite_rows:
        said = "nothing: in some row the truth was called impossible"
        lines.add_row("the truth got", "0 %", said)
    else:
        typical = percent(score.typical_probability)
        lines.add_row("the truth got", typical, "typically (geometric mean)")
    lines.add_row(
        "base rate",
        number(score.base_rate_loss),
        "nats: the loss of always predicting these rows' own label frequencies",
    )
    if score.label_entropy is not None:
        said = "nats: the entropy of the soft labels, which no prediction removes"
        lines.add_row("their own", number(score.label_entropy), said)
    if score.skill is not None:
        better = (
            "of the base rate's loss removed" if score.skill >= 0 else "worse than the base rate"
        )
        lines.add_row("skill", percent(score.skill), better)
    lines.add_row("accuracy", percent(score.accuracy), "of rows: the truth is most probable")
    lines.add_row("Brier score", number(score.brier_score), "of 2 at most: squared differences")
    worst = score.concentration(0.01)
    if worst is not None and score.n >= 100:
        of_variance = score.variance_concentration(0.01)
        more = "" if of_variance is None else f", and {percent(of_variance)} of its variance"
        said = f"of the loss{more}: that of the worst 1 % of rows"
        lines.add_row("worst 1 %", percent(worst), said)
    return lines


def _class_table(score: Score, *, wide: bool) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(truth_head(score), overflow="fold")
    loss, share = ("log loss (nats)", "share of the loss") if wide else ("nats", "share")
    for head in ("rows", loss, "bits", share, "accuracy"):
        table.add_column(head, justify="right", no_wrap=True)
    for c in score.classes[:_MOST_CLASSES]:
        nats = c.summary.log_loss
        table.add_row(
            Text(plain(c.label)),
            f"{c.summary.n:,}",
            number(nats),
            number(from_nats(nats, "bits")),
            tenths(c.share),
            tenths(c.accuracy),
        )
    left = len(score.classes) - _MOST_CLASSES
    if left > 0:
        table.add_row(f"… {left} more (--json has all)")
    return table


def _slice_table(column: str, slices: Sequence[SliceScore]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(plain(column), overflow="fold")
    for head in ("rows", "nats", "± 1 s.e.", "share of the loss", "accuracy"):
        table.add_column(head, justify="right", no_wrap=True)
    for s in slices[:_MOST_SLICES]:
        error = s.cell.summary.standard_error
        table.add_row(
            Text("(none)", style="italic") if s.value is None else Text(plain(s.value)),
            f"{s.cell.summary.n:,}",
            number(s.cell.summary.log_loss),
            "" if error is None else number(error),
            tenths(s.share),
            tenths(s.cell.accuracy),
        )
    if len(slices) > _MOST_SLICES:
        table.add_row(f"… {len(slices) - _MOST_SLICES} more (--json has all)")
    return table


def _mistakes_table(mistakes: Sequence[Confusion]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("costliest mistakes", overflow="fold")
    table.add_column("taken for", overflow="fold")
    for head in ("rows", "nats a row", "share of the loss"):
        table.add_column(head, justify="right", no_wrap=True)
    for c in mistakes:
        summary = c.cell.summary
        table.add_row(
            Text(plain(c.label)),
            Text(plain(c.guess)),
            f"{summary.n:,}",
            number(summary.log_loss),
            tenths(c.share),
        )
    return table


def _infinite_lines(score: Score) -> list[str]:
    named = [plain(row.name) for row in score.worst if math.isinf(row.loss)]
    first = ", ".join(named)
    more = " …" if score.infinite_rows > len(named) else ""
    lines = [
        f"{count(score.infinite_rows, 'row')} had P(truth) = 0, so the log loss is infinite"
        + (f"; named {first}{more}" if first else "")
    ]
    if score.finite_log_loss is not None:
        lines.append(f"  without them the rest scores {number(score.finite_log_loss)} nats")
    lines.extend(
        f"  with a floor of {floor:g} under every probability: {number(loss)} nats"
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
    shown = list(dict.fromkeys(column for row in rows for column in row.shown))
    for column in shown:
        table.add_column(plain(column), overflow="fold")
    for row in rows:
        # The largest first: what the model believed instead.
        top = sorted(row.probabilities.items(), key=lambda item: -item[1])
        believed = "  ".join(f"{plain(label)} {probability(p)}" for label, p in top[:4])
        table.add_row(
            Text(plain(row.name)),
            Text(plain(row.label)),
            probability(row.p_truth),
            number(row.loss),
            Text(believed + ("  …" if len(top) > 4 else "")),
            *(Text(plain(row.shown.get(column) or "")) for column in shown),
        )
    return table
