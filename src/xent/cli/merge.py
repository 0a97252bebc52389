"""``xent merge``: the score of many parts, from their summaries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xent.cli.process import OK, guarded
from xent.cli.scores import Places

if TYPE_CHECKING:
    from typer import Typer

__all__ = ["add_to"]


def add_to(app: Typer) -> None:
    """Add the command to the program."""
    import typer

    @app.command()
    def merge(
        summaries: list[Path] = typer.Argument(
            help="What `xent score TABLE --summary FILE` wrote for each part of the rows."
        ),
        json: str | None = typer.Option(
            None, metavar="FILE", help="Write the score as JSON to FILE; '-' prints only that."
        ),
        format: str = typer.Option(  # noqa: A002 - the name of the flag
            "text", metavar="text|md", help="What is printed: text, or Markdown for a comment."
        ),
        html: Path | None = typer.Option(
            None, metavar="FILE", help="Write a page with figures to FILE."
        ),
        summary: str | None = typer.Option(
            None, metavar="FILE", help="Write the summary of the whole, to be merged again."
        ),
    ) -> None:
        """Log loss of all rows of SUMMARIES together, as if one table had been scored."""
        raise typer.Exit(guarded(lambda: _merge(summaries, Places(json, summary, html, format))))


def _merge(summaries: list[Path], places: Places) -> int:
    from xent.scoring import merge, read_summary

    places.check(*summaries)
    places.show(merge(*map(read_summary, summaries)))
    return OK
