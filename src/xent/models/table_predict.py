"""Predictions of a table's rows, written so that they can be scored as they are."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xent.errors import OptionError, TableError
from xent.files import replacing, require_target
from xent.models.features import Category
from xent.models.table_model import TableModel, require_choice
from xent.models.table_values import present, read_features, spelt
from xent.models.training_table import select_columns
from xent.scoring.columns import listed
from xent.scoring.duckdb import Table, quote_text
from xent.scoring.reading import is_id_name, is_probability_name
from xent.scoring.sources import open_table

__all__ = ["Predictions", "predict_table"]

_FORMS = {
    ".parquet": "FORMAT parquet",
    ".pq": "FORMAT parquet",
    ".csv": "FORMAT csv",
    ".csv.gz": "FORMAT csv, COMPRESSION gzip",
}
_PREFIXES = ("p_", "prob_", "probability_")


@dataclass(frozen=True)
class Predictions:
    """What `predict_table` wrote.

    Attributes
    ----------
    path
        The file.
    rows
        How many there are.
    columns
        Their names: first those of the table, then a probability for each class.
    labelled
        Whether the labels are among them, so that they can be scored.
    """

    path: str
    rows: int
    columns: tuple[str, ...]
    labelled: bool


def predict_table(
    model: TableModel,
    source: str | Path,
    output: str | Path,
    *,
    keep: Sequence[str] | str = (),
    unseen: Literal["refuse", "ignore"] = "refuse",
) -> Predictions:
    """Write the probabilities of the rows of a CSV or Parquet file, in their order.

    The file has a column ``p_<label>`` for each class. If the table has the model's target, it is
    the column ``label``; if it has the model's weights, they are ``sample_weight``; and columns
    that are called as if they told rows apart, such as ``id``, come along. So `xent score` and
    `xent.scoring.score` read it without being told how.

    Parameters
    ----------
    model
        From `fit_table` or `TableModel.load`.
    source
        The table. It may lack the target.
    output
        The file: ``.parquet``, ``.csv`` or ``.csv.gz``. It appears whole or not at all.
    keep
        More columns of the table to write, by name or pattern.
    unseen
        Whether a category that the model was not fitted to is refused, or ignored.

    Raises
    ------
    TableError
        If a column is missing, of another type, or holds what the model does not allow.
    OptionError
        If the output is the table itself, or cannot be written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from xent.models import fit_table
    >>> from xent.scoring import score
    >>> model = fit_table("examples/flowers.csv", target="species")
    >>> with TemporaryDirectory() as folder:
    ...     made = predict_table(model, "examples/flowers.csv", f"{folder}/predictions.parquet")
    ...     result = score(made.path)
    >>> made.columns
    ('label', 'p_setosa', 'p_versicolor', 'p_virginica')
    >>> print(f"{result.log_loss:.4f} {model.summary.training_loss:.4f}")
    0.1295 0.1295
    """
    require_choice("unseen", unseen, ("refuse", "ignore"))
    target, source = Path(output), Path(source)
    form = next((form for end, form in _FORMS.items() if target.name.lower().endswith(end)), None)
    if form is None:
        raise OptionError(
            f"--output must end in one of {', '.join(_FORMS)}: got {str(output)!r}. "
            "Hint: -o predictions.parquet."
        )
    require_target(target, "--output", source, hint="make the folder first.")
    with open_table(source) as table:
        kept = _kept(table, model, (keep,) if isinstance(keep, str) else keep)
        columns = read_features(
            table, model.features, missing=model.missing, na=model.na, unseen=unseen
        )
        found = model.predicted(columns, str(source))
        made = {name: found[:, k] for k, name in enumerate(_probability_names(model.classes))}
        names = [*kept, *made]
        with replacing(target, "--output") as part:
            table.copy(part, kept, made, _with_header(form, names))
            _require_names(part, names, target)
    return Predictions(str(output), columns.rows, tuple(names), "label" in kept)


def _kept(table: Table, model: TableModel, keep: Sequence[str]) -> dict[str, str]:
    """Return the columns of the table that come along, as SQL by name."""
    features = {feature.column for feature in model.features}
    roles = {model.target, model.weights}
    kept = {
        name: table.raw(column)
        for column, name in enumerate(table.names)
        if is_id_name(name) and not is_probability_name(name) and name not in features | roles
    }
    if model.target in table.names:
        column = table.names.index(model.target)
        there = present(table, column, model.na)
        kept["label"] = f"CASE WHEN {there} THEN {table.raw(column)} END"
    if model.weights in table.names:
        kept["sample_weight"] = table.raw(table.names.index(str(model.weights)))
    columns, named = select_columns(table, keep, "keep")
    for column in columns:
        name, sql = table.names[column], table.raw(column)
        if kept.get(name) == sql or (name in roles and column not in named):
            continue  # it is there, the target and the weights by a name that is found by itself
        if name in kept or is_probability_name(name):
            raise OptionError(
                f"--keep must name columns that cannot be taken for those of the predictions: got "
                f"{name!r}. Hint: rename it in the table."
            )
        kept[name] = sql
    return kept


def _probability_names(classes: Sequence[Category]) -> list[str]:
    """Return a name for each class's column, none of which is itself a label."""
    labels = [spelt(label) for label in classes]
    for prefix in _PREFIXES:
        names = [prefix + label for label in labels]
        if not set(names) & set(labels):
            return names
    raise TableError(
        f"labels must not look like columns of probabilities: got {listed(labels)}. "
        "Hint: rename them."
    )


def _with_header(form: str, names: Sequence[str]) -> str:
    """Return the options of SQL's COPY; the engine would rename columns that differ in case."""
    if "csv" not in form:
        return form
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(names)
    return f"{form}, HEADER false, PREFIX {quote_text(line.getvalue())}, SUFFIX '\n'"


def _require_names(part: Path, names: Sequence[str], target: Path) -> None:
    """Read the names back: not every text can be the name of a column in every format."""
    try:
        with open_table(part) as written:
            same = list(written.names) == list(names)
    except TableError:
        same = False
    if not same:
        other = "predictions.csv" if target.suffix in {".parquet", ".pq"} else "predictions.parquet"
        raise TableError(
            f"names of columns must come back from {str(target)!r} as they were written: got "
            f"{listed(names, 20)}, which do not. Hint: -o {other}; in Parquet names must differ in "
            "more than case."
        )
