"""A fit as text for a terminal: how the table was read, what the features are worth."""

from __future__ import annotations

import io
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
    from xent.models import FitSummary, TableModel

__all__ = ["render_fit"]

_MOST = 10


def render_fit(model: TableModel, *, width: int = 96, color: bool = False) -> str:
    """Return the report of a fit as text.

    Parameters
    ----------
    model
        What `xent.models.fit_table` returned.
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
    console.print(plain(model.summary.table), style="bold", soft_wrap=True)
    for line in _reading(model):
        console.print(f"  {plain(line)}", style="dim")
    console.print()
    console.print(_headline(model.summary))
    if not model.summary.converged:
        console.print()
        console.print(
            "A fit ended before it reached its tolerance: a smaller --C makes the search shorter.",
            style="red",
        )
    console.print()
    console.print(_class_table(model))
    console.print()
    console.print(_coefficient_table(model))
    return without_trailing_spaces(out.getvalue())


def _reading(model: TableModel) -> list[str]:
    """Return how the table was read, with the flag to say otherwise."""
    numeric = [repr(f.column) for f in model.features if f.kind == "numeric"]
    categorical = [
        f"{f.column!r} ({len(f.categories)})" for f in model.features if f.kind == "categorical"
    ]
    lines = [f"target: column {model.target!r}"]
    if numeric:
        lines += [f"numbers, standardised: {_some(numeric)} (else --categorical, --ignore)"]
    if categorical:
        lines += [f"categories, one column each: {_some(categorical)} (else --ignore)"]
    lines += [f"left out: column {d.column!r} {d.reason}" for d in model.summary.dropped]
    if model.missing == "indicator":
        gaps = [repr(f.column) for f in model.features if f.missing]
        lines += [f"missing values, with a column that says so: {_some(gaps) or 'none'}"]
    lines += [
        "weights: none, each row counts once (else --weights)"
        if model.weights is None
        else f"weights: column {model.weights!r}"
    ]
    return lines


def _some(words: list[str]) -> str:
    shown = ", ".join(words[:_MOST])
    return shown + (f" … {words[-1]}, {len(words)} in all" if len(words) > _MOST else "")


def _headline(summary: FitSummary) -> Any:
    from rich.text import Text

    lines = grid("left", "right", "left")
    skipped = summary.left_out
    said = f"{count(skipped, 'row')} of weight 0 left out" if skipped else ""
    lines.add_row("rows", f"{summary.rows:,}", said)
    held_out = summary.held_out
    if held_out is None:
        lines.add_row("log loss", "–", "not measured on rows that the model had not seen")
    else:
        error, loss = held_out.standard_error, held_out.log_loss
        about, about_bits = "", ""
        if error is not None:
            about, about_bits = f"± {number(error)} ", f" ± {number(from_nats(error, 'bits'))}"
        bits = f"{number(from_nats(loss, 'bits'))}{about_bits} bits"
        lines.add_row(
            "log loss", Text(number(loss), style="bold"), f"{about}nats = {bits}; {_how(summary)}"
        )
    lines.add_row(
        "base rate",
        number(summary.base_rate_loss),
        "nats: the loss of always predicting the class shares, the entropy of the target",
    )
    if held_out is not None:
        skill = 1.0 - held_out.log_loss / summary.base_rate_loss
        removed = "of the base rate's loss removed" if skill >= 0 else "worse than the base rate"
        lines.add_row("skill", percent(skill), removed)
    lines.add_row("training", number(summary.training_loss), "nats on the rows it was fitted to")
    steps = f"{count(summary.steps, 'step')} in {summary.seconds:.2f} s"
    lines.add_row("search", "", f"{steps}, {summary.estimator}")
    if held_out is not None and held_out.unseen_rows:
        lines.add_row(
            "",
            "",
            f"{count(held_out.unseen_rows, 'held-out row')} had a category that the other rows "
            "had not: 0 in all its columns",
        )
    return lines


def _how(summary: FitSummary) -> str:
    held_out = summary.held_out
    if held_out is None:
        return ""
    validation = held_out.validation
    if validation.holdout is not None:
        return f"{count(held_out.rows, 'row')} held out, seed {validation.seed}"
    return f"{validation.folds}-fold cross-validated, seed {validation.seed}"


def _class_table(model: TableModel) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    summary = model.summary
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("class", overflow="fold")
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    every = list(zip(model.classes, summary.class_rows, summary.class_shares, strict=True))
    for label, rows, share in every[: 3 * _MOST]:
        table.add_row(Text(plain(str(label))), f"{rows:,}", tenths(share))
    if len(every) > 3 * _MOST:
        table.add_row(f"… {len(every) - 3 * _MOST} more (--json has all)")
    return table


def _coefficient_table(model: TableModel) -> Any:
    """Return the largest coefficients; of standardised numbers they can be compared."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    scored = model.classes[1:] if len(model.classes) == 2 else model.classes
    every = [
        (value, name, label)
        for label, row in zip(scored, model.coefficients, strict=True)
        for name, value in zip(model.columns, row, strict=True)
    ]
    every.sort(key=lambda entry: -abs(entry[0]))
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("largest coefficients", overflow="fold")
    table.add_column("of class", overflow="fold")
    table.add_column("coefficient", justify="right", no_wrap=True)
    for value, name, label in every[:_MOST]:
        table.add_row(Text(plain(name)), Text(plain(str(label))), f"{value:+.4g}")
    return table
