"""``xent compare``: which of several models predicts better."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from xent.cli.process import (
    OK,
    Done,
    check_format,
    check_json,
    guarded,
    judge,
    terminal,
    write_json,
)
from xent.cli.scores import parse_allow, parse_zero
from xent.files import require_target, write_whole

if TYPE_CHECKING:
    from typer import Typer

__all__ = ["add_to"]


def add_to(app: Typer) -> None:
    """Add the command to the program."""
    import typer

    @app.command()
    def compare(
        files: list[Path] = typer.Argument(
            help="Tables as of `xent score`; the first is what the others are compared with."
        ),
        key: str = typer.Option(
            ..., metavar="COLUMN", help="What tells which rows are the same, in each table."
        ),
        table: str | None = typer.Option(
            None, metavar="NAME", help="The table of each DuckDB file."
        ),
        query: str | None = typer.Option(
            None, metavar="SQL", help="What to compare of each file, the table 'predictions'."
        ),
        label: str | None = typer.Option(None, metavar="COLUMN", help="The true label."),
        probabilities: str | None = typer.Option(
            None, metavar="PATTERN", help="The probabilities: 'p_*', or names with commas between."
        ),
        positive: str | None = typer.Option(
            None, metavar="VALUE", help="The label value that one column is the probability of."
        ),
        classes: str | None = typer.Option(
            None, metavar="A,B,C", help="The label values in the order of the probabilities."
        ),
        labels: Path | None = typer.Option(
            None, metavar="FILE", help="The labels of all, where they lie in a table of their own."
        ),
        long: str | None = typer.Option(
            None, metavar="COLUMN", help="The class, where each prediction has a row for each."
        ),
        scale: str | None = typer.Option(
            None, metavar="SCALE", help="probability, log or logits, as of `xent score`."
        ),
        weights: str | None = typer.Option(
            None, metavar="COLUMN", help="Sampling weights; 'none' counts each row once."
        ),
        by: list[str] = typer.Option(
            [], metavar="COLUMN", help="The difference for each value of COLUMN; may be repeated."
        ),
        cluster: str | None = typer.Option(
            None, metavar="COLUMN", help="Which rows belong together (a patient, a day)."
        ),
        level: float = typer.Option(0.95, metavar="P", help="The probability of the intervals."),
        allow: list[str] = typer.Option(
            [], metavar="unnormalised=TOLERANCE", help="Accept sums within TOLERANCE of 1."
        ),
        zero: str = typer.Option(
            "inf", metavar="inf|floor=P", help="What P(truth) = 0 costs, as of `xent score`."
        ),
        fail_worse: bool = typer.Option(
            False,
            "--fail-worse",
            help="Exit with status 1 if another is surely worse than the first.",
        ),
        tolerance: float = typer.Option(
            0.0, min=0.0, metavar="NATS", help="With --fail-worse: by more than so much."
        ),
        json: str | None = typer.Option(
            None, metavar="FILE", help="Write the comparison as JSON to FILE; '-' prints only that."
        ),
        format: str = typer.Option(  # noqa: A002 - the name of the flag
            "text", metavar="text|md", help="What is printed: text, or Markdown for a comment."
        ),
        html: Path | None = typer.Option(
            None, metavar="FILE", help="Write a page for a browser to FILE."
        ),
    ) -> None:
        """Which of FILES predicts better: paired differences of the log loss, by row."""
        options = {
            "key": key,
            "table": table,
            "query": query,
            "label": label,
            "probabilities": probabilities,
            "positive": positive,
            "classes": None if classes is None else classes.split(","),
            "labels": labels,
            "long": long,
            "scale": scale,
            "weights": weights,
            "by": by,
            "cluster": cluster,
            "level": level,
            "floor": parse_zero(zero),
            **parse_allow(allow, {"unnormalised"}),
        }
        gate = tolerance if fail_worse else None
        places = _Places(json, html, format)
        raise Done(guarded(lambda: _compare(files, places, gate, options)))


class _Places(NamedTuple):
    """Where a comparison goes: files for JSON and a page, or None; and what is printed."""

    json: str | None
    html: Path | None
    format: str


def _compare(
    files: list[Path], places: _Places, tolerance: float | None, options: dict[str, Any]
) -> int:
    from xent.scoring import compare
    from xent.scoring.gates import gates_worse

    check_format(places.format)
    sources = [*files, *([] if options["labels"] is None else [options["labels"]])]
    check_json(places.json, *sources)
    if places.html is not None:
        require_target(places.html, "--html", *sources, hint="name a file for a browser.")
    result = compare(*files, **options)
    gates = [] if tolerance is None else gates_worse(result, tolerance)
    if places.json != "-":
        from xent.report import render_comparison, render_comparison_markdown

        markdown = places.format == "md"
        sys.stdout.write(
            render_comparison_markdown(result)
            if markdown
            else render_comparison(result, **terminal())
        )
    if places.json is not None:
        write_json(places.json, {**result.to_dict(), "gates": [vars(gate) for gate in gates]})
    if places.html is not None:
        from xent.report import render_comparison_page

        page = render_comparison_page(result).encode("utf-8", errors="backslashreplace")
        write_whole(places.html, page, "--html")
    return judge(gates) if gates else OK
