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
    rows = max((len(c) for c in columns.values() if isinstance(c, list)), default=0)
    with duckdb.connect() as connection:
        asked = []
        for column, values in columns.items():
            quoted = '"' + column.replace('"', '""') + '"'
            if isinstance(values, str):
                asked += [f"{values} AS {quoted}"]
                continue
            kind = next(SQL[type(value)] for value in values if value is not None)
            connection.execute(f"CREATE TABLE c{len(asked)} (v {kind}, n BIGINT)")
            connection.executemany(
                f"INSERT INTO c{len(asked)} VALUES (?, ?)", [(v, n) for n, v in enumerate(values)]
            )
            asked += [f"(SELECT v FROM c{len(asked)} WHERE n = i) AS {quoted}"]
        connection.execute(
            f"COPY (SELECT {', '.join(asked)} FROM range({rows or 60}) r(i) ORDER BY i) "
            f"TO '{path}' (FORMAT parquet)"
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
