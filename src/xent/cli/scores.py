"""``xent score``: the log loss of a table of predictions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xent.cli.process import OK, check_json, guarded, terminal, write_json
from xent.errors import OptionError

if TYPE_CHECKING:
    from typer import Typer

__all__ = ["add_to"]


def add_to(app: Typer) -> None:
    """Add the command to the program."""
    import typer

    @app.command()
    def score(
        file: Path = typer.Argument(
            help="CSV (gzip too) or Parquet with labels and probabilities."
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
        weights: str | None = typer.Option(
            None, metavar="COLUMN", help="Sampling weights; 'none' counts each row once."
        ),
        id: str | None = typer.Option(  # noqa: A002 - the name of the flag
            None, metavar="COLUMN", help="What names a row in the report; 'none' for its number."
        ),
        by: list[str] = typer.Option(
            [], metavar="COLUMN", help="Score each value of COLUMN by itself; may be repeated."
        ),
        allow: list[str] = typer.Option(
            [],
            metavar="unnormalised=TOLERANCE",
            help="Accept rows whose sum lies within TOLERANCE of 1, used as given.",
        ),
        worst: int = typer.Option(5, min=0, help="How many of the worst rows to show."),
        json: str | None = typer.Option(
            None, metavar="FILE", help="Write the score as JSON to FILE; '-' prints only that."
        ),
    ) -> None:
        """Log loss of the predictions in FILE, by class, with its standard error."""
        options = {
            "label": label,
            "probabilities": probabilities,
            "positive": positive,
            "classes": None if classes is None else classes.split(","),
            "weights": weights,
            "id": id,
            "by": by,
            "allow_unnormalised": _parse_allow(allow),
            "worst": worst,
        }
        # The parser would otherwise answer an interruption or a closed pipe in its own way.
        raise typer.Exit(guarded(lambda: _score(file, json, options)))


def _parse_allow(words: list[str]) -> float | None:
    """Return the tolerance in ``unnormalised=1e-3``."""
    tolerance = None
    for word in words:
        name, _, value = word.partition("=")
        try:
            tolerance = float(value)
        except ValueError:
            name = ""
        if name != "unnormalised":
            raise OptionError(
                f"--allow must look like unnormalised=1e-3: got {word!r}. "
                "Hint: the number is how far from 1 the sum of a row may lie."
            )
    return tolerance


def _score(file: Path, target: str | None, options: dict[str, Any]) -> int:
    from xent.scoring import score

    check_json(target, file)
    result = score(file, **options)
    if target != "-":
        from xent.report import render_text

        sys.stdout.write(render_text(result, **terminal()))
    if target is not None:
        write_json(target, result.to_dict())
    return OK
