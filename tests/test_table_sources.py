"""What `score` can be pointed at: many files, JSON lines, databases, and frames."""

from __future__ import annotations

import gzip
import json
import math
import re

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from test_tally import predictions, written

from xent.cli import main
from xent.errors import DistributionError, OptionError, TableError, XentError
from xent.scoring import score
from xent.scoring.sources import open_tables

CATS = "label,p_cat,p_dog,day\ncat,0.5,0.5,mon\ndog,0.75,0.25,tue\ncat,0.125,0.875,mon\n"
LOSS = (math.log(2) + math.log(4) + math.log(8)) / 3
LINES = [
    {"label": "cat", "p_cat": 0.5, "p_dog": 0.5, "day": "mon"},
    {"label": "dog", "p_cat": 0.75, "p_dog": 0.25, "day": "tue"},
    {"label": "cat", "p_cat": 0.125, "p_dog": 0.875, "day": "mon"},
]


def jsonl(path, lines=LINES):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def same(a, b):
    for name in ("n", "rows", "infinite_rows"):
        assert getattr(a, name) == getattr(b, name)
    for name in ("log_loss", "standard_error", "accuracy", "brier_score"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-12), name


@pytest.fixture
def parts(tmp_path):
    """A table in four Parquet files, and in one."""
    p, y, w = predictions(rows=1000, zeros=False)
    whole = written(tmp_path, p, y, w, slices={"place": np.arange(1000)})
    folder = tmp_path / "parts"
    folder.mkdir()
    for i in range(4):
        rows = slice(i * 300, min((i + 1) * 300, 1000))
        part = written(
            tmp_path / "parts", p[rows], y[rows], w[rows], slices={"place": np.arange(1000)[rows]}
        )
        part.rename(folder / f"part-{i}.parquet")
    return folder, whole


# ---- many files -------------------------------------------------------------------------------


def test_a_folder_a_pattern_and_a_list_are_one_table(parts):
    folder, path = parts
    whole = score(path, worst=20)
    paths = [folder / f"part-{i}.parquet" for i in range(4)]
    for source in (folder, str(folder / "*.parquet"), paths, tuple(map(str, paths))):
        result = score(source, worst=20)
        same(result, whole)
        assert [row.number for row in result.worst] == [row.number for row in whole.worst]
    assert score(folder).path == str(folder)
    assert score(paths).path == f"{paths[0]} and 3 more"


@pytest.mark.parametrize("pack", [False, True])
def test_csv_files_are_one_table(tmp_path, pack):
    head, *rows = CATS.splitlines(keepends=True)
    for i, row in enumerate(rows):
        text = (head + row).encode()
        name = f"{i}.csv" + (".gz" if pack else "")
        (tmp_path / name).write_bytes(gzip.compress(text) if pack else text)
    result = score(tmp_path)
    assert result.log_loss == pytest.approx(LOSS, rel=1e-14)
    assert [row.number for row in result.worst] == [3, 2, 1]


def test_folders_of_keys_and_values_make_a_column(tmp_path):
    for country, loss in (("fr", 0.5), ("no", 0.25)):
        folder = tmp_path / f"country={country}" / "year=2024"
        folder.mkdir(parents=True)
        (folder / "a.csv").write_text(f"label,p_a,p_b\na,{loss},{1 - loss}\nb,0.5,0.5\n")
    for source in (tmp_path, str(tmp_path / "*" / "*" / "*.csv")):
        result = score(source, by=["country", "year"])
        assert {(s.column, s.value): s.cell.summary.n for s in result.slices} == {
            ("country", "fr"): 2, ("country", "no"): 2, ("year", "2024"): 4,
        }  # fmt: skip
    parquet = tmp_path.with_name("hive") / "country=no"
    parquet.mkdir(parents=True)
    written(parquet, *predictions(rows=50))
    (value,) = score(parquet.parent, by=["country"]).slices
    assert (value.value, value.cell.rows) == ("no", 50)


def test_a_fault_in_a_later_file_is_told_by_its_row(parts):
    folder, path = parts
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT * REPLACE (CASE WHEN place = 777 THEN 2.0 ELSE p_1 END AS p_1) "
            f"FROM '{path}' WHERE place BETWEEN 600 AND 899) TO '{folder / 'part-2.parquet'}'"
        )
    with pytest.raises(DistributionError, match="data row 778"):
        score(folder)


def test_parts_that_do_not_fit_are_refused(tmp_path, parts):
    folder, _path = parts
    (folder / "b.csv").write_text(CATS)
    with pytest.raises(TableError, match=r"of one kind: got .*b\.csv.* and .*part-0"):
        score(folder)
    with pytest.raises(TableError, match="must stand for files"):
        score(str(tmp_path / "*.nothing"))
    (tmp_path / "x.csv").write_text("label,p_cat,p_fox\ncat,1,0\n")
    with pytest.raises(TableError, match=r"column 'p_dog' in one of them only"):
        score([folder / "b.csv", tmp_path / "x.csv"])
    (tmp_path / "y.csv").write_text("label,p_dog,p_cat,day\ncat,1,0,mon\n")
    with pytest.raises(TableError, match="columns in another order"):
        score([folder / "b.csv", tmp_path / "y.csv"])
    (tmp_path / "k=1").mkdir()
    (tmp_path / "j=1").mkdir()
    for where in ("k=1", "j=1"):
        (tmp_path / where / "z.csv").write_text(CATS)
    with pytest.raises(TableError, match="divided by the same keys"):
        score(str(tmp_path / "*=1" / "z.csv"))
    for empty in ([], [1], 3, None):
        with pytest.raises(OptionError, match="source must be"):
            score(empty)


# ---- JSON lines -------------------------------------------------------------------------------


def test_json_lines_are_read_as_they_are_written(tmp_path):
    path = jsonl(tmp_path / "a.jsonl")
    result = score(path, by=["day"])
    assert result.log_loss == pytest.approx(LOSS, rel=1e-14)
    assert {s.value for s in result.slices} == {"mon", "tue"}
    assert score(jsonl(tmp_path / "no-suffix")).log_loss == result.log_loss
    (tmp_path / "a.json").write_text(json.dumps(LINES), encoding="utf-8")
    assert score(tmp_path / "a.json").log_loss == result.log_loss
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert score(packed).log_loss == result.log_loss
    # A number keeps every digit, a text of digits its zeros, and a date is what it was.
    odd = [{"label": "01", "p_01": 0.1 + 2e-17, "p_1": 0.9, "day": "2024-01-02T03:04:05"},
           {"label": "1", "p_01": 1e-320, "p_1": 1.0, "day": "x"}]  # fmt: skip
    result = score(jsonl(tmp_path / "c.jsonl", odd), by=["day"])
    assert [c.label for c in result.classes] == ["01", "1"]
    assert result.worst[0].p_truth == 0.1 + 2e-17 != 0.1
    assert {s.value for s in result.slices} == {"2024-01-02T03:04:05", "x"}


def test_lists_and_objects_in_json_lines(tmp_path):
    lists = [{"label": i % 2, "probabilities": [0.25, 0.75]} for i in range(4)]
    want = (math.log(4) - math.log(0.75)) / 2
    assert score(jsonl(tmp_path / "a.jsonl", lists)).log_loss == pytest.approx(want, rel=1e-14)
    objects = [{"label": "ab"[i % 2], "probs": {"a": 0.25, "b": 0.75}} for i in range(4)]
    result = score(jsonl(tmp_path / "b.jsonl", objects))
    assert result.log_loss == pytest.approx(want, rel=1e-14)
    assert [c.label for c in result.classes] == ["a", "b"]


def test_json_lines_that_are_wrong(tmp_path):
    lines = [*LINES, {"label": "cat", "p_cat": None, "p_dog": 1.0}]
    with pytest.raises(TableError, match=r"got nothing in column 'p_cat' of data row 4"):
        score(jsonl(tmp_path / "a.jsonl", lines))
    lines[-1] = {"label": "cat", "p_cat": "lots", "p_dog": 1.0}
    with pytest.raises(TableError, match=r"got 'lots' in column 'p_cat' of data row 4"):
        score(jsonl(tmp_path / "a.jsonl", lines))
    (tmp_path / "b.jsonl").write_text('{"label": "cat"\n{"label": \n')
    with pytest.raises(TableError, match="cannot be read"):
        score(tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").write_text("1\n2\n")
    with pytest.raises(TableError, match="must be an object"):
        score(tmp_path / "c.jsonl")


# ---- databases and queries ----------------------------------------------------------------------


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "some.db"
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "CREATE TABLE \"the run's\" AS SELECT * FROM (VALUES ('cat', 0.5, 0.5, 'mon'), "
            "('dog', 0.75, 0.25, 'tue'), ('cat', 0.125, 0.875, 'mon')) t(label, p_cat, p_dog, day)"
        )
    return path


def test_a_database(database, capsys):
    assert score(database).log_loss == pytest.approx(LOSS, rel=1e-14)
    with duckdb.connect(str(database)) as connection:
        connection.execute("CREATE TABLE other AS SELECT 1 AS x")
    with pytest.raises(TableError, match=r"one table.*'other', \"the run's\".*--table NAME"):
        score(database)
    with pytest.raises(TableError, match="--table must name a table"):
        score(database, table="others")
    assert score(database, table="the run's").log_loss == pytest.approx(LOSS, rel=1e-14)
    query = "SELECT * FROM \"the run's\" WHERE day = 'mon';"
    assert score(database, query=query).log_loss == pytest.approx(math.log(4), rel=1e-14)
    assert main(["score", str(database), "--query", query]) == 0
    assert re.search(r"\nrows +2\n", capsys.readouterr().out)
    with pytest.raises(TableError, match="cannot be asked this"):
        score(database, query="SELECT FROM")
    with pytest.raises(TableError, match="cannot be asked this"):
        score(database, query="SELECT 1); DROP TABLE other; SELECT (2")
    with duckdb.connect(str(database)) as connection:
        assert len(connection.execute("SHOW TABLES").fetchall()) == 2


def test_a_query_about_a_file(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(CATS)
    query = "WITH mondays AS (SELECT * FROM predictions WHERE day = 'mon') SELECT * FROM mondays"
    assert score(path, query=query).log_loss == pytest.approx(math.log(4), rel=1e-14)
    with pytest.raises(OptionError, match="--table must go with a DuckDB file"):
        score(path, table="x")
    other = tmp_path / "b.csv"
    other.write_text(CATS.replace("mon", "tue"))
    with open_tables([path, other], query=query) as (one, two):
        assert len(one.rows(f"SELECT * FROM {one.source}")) == 2
        assert two.rows(f"SELECT * FROM {two.source}") == []


# ---- frames -------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["pandas", "polars", "arrow", "none"])
def test_frames(library):
    columns = {name: [line[name] for line in LINES] for name in LINES[0]}
    make = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "arrow": pa.table, "none": dict}
    result = score(make[library](columns), by=["day"])
    assert result.log_loss == pytest.approx(LOSS, rel=1e-14)
    assert result.path in {"DataFrame", "Table", "dict"}
    assert [row.number for row in result.worst] == [3, 2, 1]


def test_lazy_frames_and_streams():
    columns = {name: [line[name] for line in LINES] for name in LINES[0]}
    assert score(pl.LazyFrame(columns)).log_loss == pytest.approx(LOSS, rel=1e-14)

    class Stream:
        def __arrow_c_stream__(self, schema=None):
            return pa.table(columns).__arrow_c_stream__(schema)

    assert score(Stream()).log_loss == pytest.approx(LOSS, rel=1e-14)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_arrays(tmp_path, dtype):
    p, y, w = predictions(zeros=False)
    p = p.astype(dtype)
    p = (p / p.astype(np.float64).sum(axis=1, keepdims=True)).astype(dtype)
    source = {"label": y, "probabilities": p, "weight": w}
    result = score(source, allow_unnormalised=1e-2, class_wise=True)
    truth = p[np.arange(len(y)), y].astype(np.float64)
    assert result.log_loss == pytest.approx(np.average(-np.log(truth), weights=w), rel=1e-12)
    assert len(result.calibration) == 4


def test_frames_that_are_none():
    for odd in (object(), 3, {1, 2}):
        with pytest.raises(OptionError, match="source must be"):
            score(odd)
    with pytest.raises(OptionError, match="one value for each row"):
        score({"label": [0, 1], "probabilities": np.ones((3, 2)) / 2})
    with pytest.raises(OptionError, match="shape"):
        score({"label": 0})
    with pytest.raises(XentError):
        score({})
    with pytest.raises(TableError, match="got nothing"):
        score(pd.DataFrame({"label": ["a", "b"], "p_a": [0.5, np.nan], "p_b": [0.5, 0.5]}))
    with pytest.raises(DistributionError, match="nan"):
        score(pl.DataFrame({"label": ["a", "b"], "p_a": [0.5, np.nan], "p_b": [0.5, 0.5]}))


def test_several_files_on_the_command_line(tmp_path, capsys):
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text(CATS)
    assert main(["score", str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 6


def test_a_bad_line_among_many_is_told(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(CATS + "cat,0.5,0.5,mon\n" * 5000 + "cat,0.5\n" + "cat,0.5,0.5,mon\n" * 100)
    with pytest.raises(TableError, match="5005"):
        score(path)


def test_the_engine_writes_no_bar_into_what_other_programs_read(tmp_path, monkeypatch, capsys):
    path = tmp_path / "t.csv"
    path.write_text(CATS)
    with open_tables([path]) as (table,):
        ((printed,),) = table.rows("SELECT current_setting('enable_progress_bar_print')")
        assert not printed
        monkeypatch.setattr("xent.scoring.duckdb._SILENT", 0.0)
        long = "SELECT sum(sqrt(a.range + b.range)) FROM range(20000) a, range(20000) b"
        table.rows(long)
        assert capsys.readouterr() == ("", "")  # no terminal
        monkeypatch.setattr("sys.stderr.isatty", lambda: True)
        table.rows(long)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("\rreading the table: ")
    assert err.endswith("\r\033[K")
