"""``xent fit`` and ``xent predict``: a classifier of the rows of tables."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xent.cli.process import OK, check_json, guarded, program, terminal, write_json
from xent.cli.progress import progress_of
from xent.errors import OptionError
from xent.files import require_target

if TYPE_CHECKING:
    from typer import Typer

__all__ = ["add_to"]

_FOLDER = "make the folder first."


def add_to(app: Typer) -> None:
    """Add the commands to the program."""
    import typer

    @app.command()
    def fit(
        table: Path = typer.Argument(help="CSV (gzip too) or Parquet with features and labels."),
        target: str = typer.Option(..., metavar="COLUMN", help="The labels to be predicted."),
        output: Path = typer.Option(
            ..., "--output", "-o", metavar="MODEL", help="Where the model goes, as JSON."
        ),
        features: list[str] = typer.Option(
            [], metavar="A,B,C", help="Columns to learn from, or patterns; all others if not given."
        ),
        ignore: list[str] = typer.Option([], metavar="COLUMN", help="Columns to leave out."),
        categorical: list[str] = typer.Option(
            [], metavar="COLUMN", help="Columns whose numbers are names."
        ),
        weights: str | None = typer.Option(None, metavar="COLUMN", help="The rows' weights."),
        missing: str = typer.Option(
            "refuse", help="Missing values: refuse, or indicator (the mean, and a column for it)."
        ),
        na: list[str] = typer.Option([], metavar="TEXT", help="A text that means a missing value."),
        loss: str = typer.Option("cross_entropy", help="What is minimised; or squared_error."),
        C: float = typer.Option(1.0, "--C", help="Inverse of the penalty's strength; inf: none."),
        folds: int | None = typer.Option(None, help="Of the cross-validation; 0: none. [5]"),
        holdout: float | None = typer.Option(None, help="Instead: the share of rows held out."),
        seed: int = typer.Option(0, help="Of the shuffle before that."),
        json: str | None = typer.Option(
            None, metavar="FILE", help="Write the summary to FILE as JSON; '-' prints only that."
        ),
    ) -> None:
        """Fit a classifier of TABLE's rows, and measure it on rows that it has not seen."""
        columns = {
            "target": target,
            "features": features or None,
            "ignore": ignore,
            "categorical": categorical,
            "weights": weights,
            "missing": missing,
            "na": na,
        }
        measure = {"folds": folds, "holdout": holdout, "seed": seed}
        estimator = {"loss": loss, "C": C}
        raise typer.Exit(guarded(lambda: _fit(table, output, json, columns, estimator, measure)))

    @app.command()
    def predict(
        model: Path = typer.Argument(help="What `xent fit` wrote."),
        table: Path = typer.Argument(help="CSV (gzip too) or Parquet with the model's columns."),
        output: Path = typer.Option(
            ..., "--output", "-o", metavar="FILE", help="Predictions: .parquet, .csv or .csv.gz."
        ),
        keep: list[str] = typer.Option(
            [], metavar="COLUMN", help="More columns of TABLE to write, or patterns."
        ),
        unseen: str = typer.Option(
            "refuse", help="Categories that the model was not fitted to: refuse, or ignore."
        ),
    ) -> None:
        """Predict TABLE's rows; `xent score` reads the predictions without flags."""
        raise typer.Exit(guarded(lambda: _predict(model, table, output, keep, unseen)))


def _fit(
    table: Path,
    output: Path,
    target: str | None,
    columns: dict[str, Any],
    estimator: dict[str, Any],
    measure: dict[str, Any],
) -> int:
    from dataclasses import asdict

    from xent.models import SoftmaxRegression, Validation
    from xent.models.table_fit import fit_columns, read_choice
    from xent.models.training_table import read_training_table
    from xent.scoring.sources import open_table

    require_target(output, "--output", table, hint=_FOLDER)
    check_json(target, table, output)
    given = {name: value for name, value in measure.items() if value is not None}
    if "folds" in given and "holdout" in given:
        raise OptionError(
            f"--folds and --holdout must not both be given: got {given['folds']} and "
            f"{given['holdout']:g}. Hint: --folds predicts every row once, --holdout some."
        )
    choice = read_choice(**columns)
    with progress_of("reading", each=_which_fit) as progress:
        with open_table(table) as opened:
            training = read_training_table(opened, choice)
        fitted = fit_columns(
            training,
            choice,
            str(table),
            SoftmaxRegression(**estimator),
            Validation(**given),
            progress,
        )
    fitted.save(output)
    if target != "-":
        from xent.report import render_fit

        sys.stdout.write(render_fit(fitted, **terminal()))
        sys.stdout.write(f"\nThe model is {output}; to predict the rows of a table:\n")
        sys.stdout.write(
            f"  {program()} predict {shlex.quote(str(output))} TABLE -o predictions.parquet\n"
        )
    if target is not None:
        about = {"target": fitted.target, "classes": fitted.classes, "columns": fitted.columns}
        write_json(target, about | asdict(fitted.summary))
    return OK


def _which_fit(done: int, total: int) -> str:
    return f"fit {done + 1} of {total}"


def _predict(model: Path, table: Path, output: Path, keep: list[str], unseen: Any) -> int:
    from xent.models import TableModel, predict_table

    require_target(output, "--output", model, table, hint=_FOLDER)
    made = predict_table(TableModel.load(model), table, output, keep=keep, unseen=unseen)
    rows = "1 row" if made.rows == 1 else f"{made.rows:,} rows"
    sys.stdout.write(f"{rows} predicted; the columns of {made.path}:\n")
    sys.stdout.write(f"  {', '.join(made.columns)}\n")
    if made.labelled:
        sys.stdout.write(f"  {program()} score {shlex.quote(made.path)}\n")
    return OK
