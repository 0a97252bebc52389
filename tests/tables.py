"""Small tables on disk, for the tests of what is fitted to them."""

from __future__ import annotations

import duckdb
import numpy as np

from xent.models import Validation

QUICK = Validation(folds=0)
SQL = {int: "BIGINT", float: "DOUBLE", str: "VARCHAR", bool: "BOOLEAN"}


def csv_of(folder, rows, name="t.csv"):
    """Write rows of text, the first of which names the columns."""
    path = folder / name
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def parquet_of(folder, name="t.parquet", **columns):
    """Write columns, each a list of Python values, or SQL over the row number i."""
    path = folder / name
    rows, asked, given = 60, [], {}
    for place, (column, values) in enumerate(columns.items()):
        sql = values
        if not isinstance(values, str):
            rows, given[f"v{place}"] = len(values), values
            kind = next(SQL[type(value)] for value in values if value is not None)
            sql = f"list_extract($v{place}::{kind}[], i + 1)"
        asked += [sql + ' AS "' + column.replace('"', '""') + '"']
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT {', '.join(asked)} FROM range({rows}) r(i) ORDER BY i) "
            f"TO '{path}' (FORMAT parquet)",
            given,
        )
    return path


def numbers_of(folder, x, y, name="t.parquet"):
    """Write a matrix and labels as Parquet, fast."""
    path = folder / name
    columns = {f"x{j}": np.ascontiguousarray(x[:, j]) for j in range(x.shape[1])}
    with duckdb.connect() as connection:
        connection.register("made", {**columns, "y": y})
        connection.execute(f"COPY made TO '{path}' (FORMAT parquet)")
    return path


def mixed_rows(count=80, seed=0):
    random = np.random.default_rng(seed)
    rows = ["size,colour,grade,flag,kind"]
    for _ in range(count):
        kind = random.choice(["cat", "dog", "fox"])
        size = random.normal(len(str(kind)) + 3 * (kind == "dog"), 1.0)
        colour = random.choice(["red", "green", "blue"])
        rows += [f"{size:.4f},{colour},{random.integers(4)},{random.integers(2) > 0},{kind}"]
    return rows
