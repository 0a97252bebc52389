"""What a table can be opened from: files, folders and patterns of them, databases, and frames.

Each becomes a `xent.scoring.duckdb.Table`; `xent.scoring.formats` knows the kinds of files.
"""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from xent.errors import MissingExtraError, OptionError, TableError
from xent.scoring.columns import listed, nearest
from xent.scoring.duckdb import (
    Table,
    disable_rules,
    quote_name,
    quote_text,
    reading_errors,
    require_unicode,
    sql_kind,
)
from xent.scoring.formats import open_csv, open_json, open_parquet, refuse_twins

__all__ = ["MOST_MEMORY", "Source", "named", "open_table", "open_tables"]

_SUFFIXES = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".txt": "csv",
    ".jsonl": "json", ".ndjson": "json", ".json": "json",
}  # fmt: skip
_MOST_FILES = 100_000
MOST_MEMORY = "2GiB"
"""Of the engine; what does not fit into it goes to the disk."""

Source = Any
"""A path, a pattern or a list of paths; or a frame of pandas, polars or Arrow, or a mapping."""


def named(source: Source) -> str:
    """Return what a source is called in reports and messages.

    Examples
    --------
    >>> named("a.csv"), named(["a.csv", "b.csv"]), named({"label": [0]})
    ('a.csv', 'a.csv and 1 more', 'dict')
    """
    if isinstance(source, (str, PathLike)):
        return str(source)
    if isinstance(source, (list, tuple)):
        return f"{source[0]} and {len(source) - 1} more" if len(source) > 1 else str(source[0])
    return type(source).__name__


@contextmanager
def open_table(
    source: Source, *, table: str | None = None, query: str | None = None
) -> Iterator[Table]:
    """Open a table.

    Parameters
    ----------
    source
        A CSV (gzip too), Parquet, JSON-lines or DuckDB file; a pattern such as ``"day=*/*.csv"``, a
        folder or a list of paths, whose files are the parts of one table, with the same columns,
        in the order of their names; or a frame of pandas, polars or Arrow, or a mapping of names to
        arrays, those of two dimensions being lists. Folders called ``key=value`` make a column.
    table
        The table of a database; not needed where it has one.
    query
        SQL whose answer is the table. It sees the tables of a database by their names, and
        anything else as ``predictions``.

    Raises
    ------
    TableError
        If there is no such source, or it cannot be read.
    OptionError
        If a table is named in what is no database.
    MissingExtraError
        If duckdb is not installed.
    """
    with open_tables([source], table=table, query=query) as (opened,):
        yield opened


@contextmanager
def open_tables(
    sources: Sequence[Source],
    *,
    table: str | None = None,
    query: str | None = None,
    besides: Source | None = None,
) -> Iterator[tuple[Table, ...]]:
    """Open tables that one query can read together.

    `table` and `query` are about each of the sources, and not about the one `besides`, which comes
    last.

    Raises
    ------
    TableError, OptionError, MissingExtraError
        As `open_table`, of the first source that cannot be opened.
    """
    try:
        import duckdb
    except ImportError:
        raise MissingExtraError("duckdb", "tables") from None

    # Nothing is fetched from the network on the way: what is not built in is an error.
    connection = duckdb.connect(
        config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    )
    spill = tempfile.TemporaryDirectory(prefix="xent-", ignore_cleanup_errors=True)
    try:
        disable_rules(connection)
        # Scans need little; joins and groups of many rows go to the disk beyond this.
        connection.execute(f"SET temp_directory = {quote_text(spill.name)}")
        connection.execute(f"SET memory_limit = '{MOST_MEMORY}'")
        # The engine's own bar would go to standard output, amid what other programs read.
        connection.execute("SET enable_progress_bar = true")
        connection.execute("SET enable_progress_bar_print = false")
        places = [_Place(connection, number, table, query) for number in range(len(sources))]
        asked = list(zip(sources, places, strict=True))
        if besides is not None:
            asked += [(besides, _Place(connection, len(sources), None, None))]
        yield tuple(_opened(source, place) for source, place in asked)
    finally:
        connection.close()
        spill.cleanup()


@dataclass(frozen=True)
class _Place:
    """Where a source is opened: the connection, its number there, and what of it is asked."""

    connection: Any
    number: int
    table: str | None
    query: str | None


def _opened(source: Source, place: _Place) -> Table:
    if not isinstance(source, (str, PathLike, list, tuple)):
        return _asked(_open_frame(source, place), place)
    if isinstance(source, (str, PathLike)):
        path = Path(source)
        files = _files(path)
        root = None if files == [path] else path
    else:
        if not source or not all(isinstance(part, (str, PathLike)) for part in source):
            raise OptionError(
                f"source must be a path, a list of paths or a frame: got {source!r:.200}. "
                "Hint: {'label': labels, 'probabilities': array} is a frame."
            )
        path, root = Path(named(source)), None
        files = [file for part in source for file in _files(Path(part))]
    starts = {file: _first_bytes(file) for file in files}
    if len(files) == 1 and starts[files[0]][8:12] == b"DUCK":
        return _open_database(files[0], place)
    _refuse_table(place, path)
    kind, compressed = _common_kind(starts, path)
    if kind == "parquet":
        return _asked(open_parquet(files, path, place.connection, root=root), place)
    if kind == "json":
        return _asked(open_json(files, path, place.connection, root=root), place)
    return _asked(open_csv(files, path, place.connection, compressed=compressed, root=root), place)


def _refuse_table(place: _Place, what: object) -> None:
    if place.table is not None:
        raise OptionError(
            f"--table must go with a DuckDB file: got {place.table!r} and {str(what)!r}. "
            "Hint: --query sees any other source as the table 'predictions'."
        )


# ---- several files ------------------------------------------------------------------------------


def _files(path: Path) -> list[Path]:
    """Return the files that a path stands for: itself, those of a folder, or those of a pattern."""
    try:
        if path.is_dir():
            inside = (f for f in path.rglob("*") if not _hidden(f.relative_to(path)))
            found = sorted(f for f in inside if f.is_file() and _kind_by_name(f) is not None)
            what = "no file that ends in .parquet, .csv, .tsv, .jsonl (.gz too)"
        elif not path.exists() and glob.has_magic(str(path)):
            found = sorted(map(Path, glob.glob(str(path), recursive=True)))
            found = [f for f in found if f.is_file()]
            what = "no such file"
        else:
            return [path]
    except (OSError, ValueError):  # told by the test of the one file
        return [path]
    if not found:
        raise TableError(
            f"{str(path)!r} must stand for files to read: got {what} in or under "
            f"{str(Path.cwd())!r}. Hint: quote patterns, or the shell expands them."
        )
    if len(found) > _MOST_FILES:
        raise TableError(
            f"{str(path)!r} must stand for {_MOST_FILES:,} files at most: got {len(found):,}. "
            "Hint: score parts and add them up with `xent merge`."
        )
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _kind_by_name(path: Path) -> str | None:
    suffixes = [s.lower() for s in path.suffixes[-2:]]
    if suffixes and suffixes[-1] == ".gz":
        suffixes = suffixes[:-1]
    return _SUFFIXES.get(suffixes[-1]) if suffixes else None


def _first_bytes(path: Path) -> bytes:
    try:
        exists = path.exists()
    except (OSError, ValueError) as error:  # a name that is too long, or holds a zero byte
        said = getattr(error, "strerror", None) or error
        raise TableError(
            f"the table must be a file: got a path of {len(str(path))} characters, "
            f"{str(path)[:60]!r}…: {said}. Hint: check the spelling of the path."
        ) from None
    if not exists:
        raise TableError(
            f"there must be a file to read: got {str(path)!r}, which does not exist in or under "
            f"{str(Path.cwd())!r}. Hint: check the spelling of the path."
        )
    if not path.is_file():
        raise TableError(
            f"the table must be an ordinary file: got {str(path)!r}. "
            "Hint: it is read more than once, so save a stream or a folder to one file first."
        )
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError as error:
        raise TableError(
            f"{str(path)!r} cannot be read: {error.strerror}. Hint: check its permissions."
        ) from None
    if not start:
        raise TableError(f"{str(path)!r} is empty: got 0 bytes. Hint: was it written completely?")
    return start


def _common_kind(starts: Mapping[Path, bytes], path: Path) -> tuple[str, bool]:
    """Return what the files of a table are, and whether they are compressed."""
    kinds = {file: _kind(file, start) for file, start in starts.items()}
    first = next(iter(kinds))
    for file, kind in kinds.items():
        if kind != kinds[first]:
            raise TableError(
                f"the files of {str(path)!r} must be of one kind: got {str(first)!r} "
                f"({_in_words(kinds[first])}) and {str(file)!r} ({_in_words(kind)}). "
                "Hint: a pattern such as '*.parquet' chooses among them."
            )
    return kinds[first]


def _kind(file: Path, start: bytes) -> tuple[str, bool]:
    by_name = _kind_by_name(file)
    compressed = start.startswith(b"\x1f\x8b")
    if start.startswith(b"PAR1") or by_name == "parquet":
        return "parquet", False
    if start.startswith(b"{") or by_name == "json":
        return "json", compressed
    return "csv", compressed


def _in_words(kind: tuple[str, bool]) -> str:
    return kind[0] + (", compressed" if kind[1] else "")


# ---- databases, queries, frames -----------------------------------------------------------------


def _open_database(path: Path, place: _Place) -> Table:
    schema = f"xent_{place.number}"
    connection = place.connection
    with reading_errors(path, hint="is it a database of this version of DuckDB, and closed?"):
        connection.execute(f"ATTACH {quote_text(str(path.resolve()))} AS {schema} (READ_ONLY)")
        connection.execute(f"USE {schema}")
        found = [
            str(row[0])
            for row in connection.execute(
                "SELECT table_name FROM information_schema.tables "
                f"WHERE table_catalog = '{schema}' AND table_schema = 'main' ORDER BY 1"
            ).fetchall()
        ]
    if place.query is not None:
        if place.number:  # names would be looked for in the last database only
            raise OptionError(
                f"--query must be about one database: got {str(path)!r} as another. "
                "Hint: make a table of each answer, and name them with --table."
            )
        return _described(path, f"({_single(place.query)})", place)
    if place.table is None and len(found) != 1:
        raise TableError(
            f"{str(path)!r} must have one table, or be asked for one of them: got "
            f"{listed(found, 20) or 'none'}. Hint: --table NAME, or --query 'SELECT …'."
        )
    table = found[0] if place.table is None else place.table
    if table not in found:
        raise TableError(
            f"--table must name a table of {str(path)!r}: got {table!r}, but there are "
            f"{listed(found, 20) or 'none'}. Hint: {nearest(table, found)}"
        )
    return _described(path, f"{schema}.main.{quote_name(table)}", place)


def _asked(opened: Table, place: _Place) -> Table:
    """Return the answer to the caller's query about a table, or the table."""
    if place.query is None:
        return opened
    columns = ", ".join(
        f"{opened.raw(i)} AS {quote_name(name)}" for i, name in enumerate(opened.names)
    )
    view = f"predictions AS NOT MATERIALIZED (SELECT {columns} FROM {opened.source})"
    return _described(opened.path, f"(WITH {view} SELECT * FROM ({_single(place.query)}))", place)


def _single(query: str) -> str:
    return query.strip().rstrip(";").strip()


def _described(path: Path, source: str, place: _Place, own: Sequence[str] = ()) -> Table:
    """Return a table of which the engine knows the columns; `own` are the names that they have."""
    require_unicode(source)
    with reading_errors(path, "cannot be asked this", "the query is SQL that DuckDB understands."):
        described = place.connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    identifiers = tuple(str(row[0]) for row in described)
    names = tuple(own) if len(own) == len(identifiers) else identifiers
    refuse_twins(path, names)
    return Table(
        path=path,
        names=names,
        kinds=tuple(sql_kind(row[1]) for row in described),
        types=tuple(str(row[1]) for row in described),
        source=source,
        numbered=source,
        number_of_row="row_number() OVER ()",
        _identifiers=tuple(map(quote_name, identifiers)),
        _connection=place.connection,
    )


def _open_frame(source: Source, place: _Place) -> Table:
    name = f"frame_{place.number}"
    path = Path(type(source).__name__ + (f" {place.number + 1}" if place.number else ""))
    _refuse_table(place, path)
    lists: dict[str, list[str]] = {}
    if isinstance(source, Mapping):
        source, lists = _columns_of(source)
    elif hasattr(source, "collect") and hasattr(source, "collect_schema"):
        source = source.collect()  # a lazy frame would be computed again for every query
    elif not (hasattr(source, "__arrow_c_stream__") or hasattr(source, "columns")):
        raise OptionError(
            "source must be a path, or a frame of pandas, polars or Arrow, or a mapping of names "
            f"to arrays: got {type(source).__name__}. Hint: xent.log_loss scores two arrays."
        )
    with reading_errors(path, hint="are all its columns numbers, texts, booleans or lists?"):
        try:
            place.connection.register(name, source)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise OptionError(
                f"source must be a frame that DuckDB can read: got {type(source).__name__}: "
                f"{str(error)[:200]}. Hint: {{'label': labels, 'probabilities': array}} is one."
            ) from None
    if lists:
        asked = [
            f"[{', '.join(map(quote_name, parts))}] AS {quote_name(column)}"
            for column, parts in lists.items()
        ]
        hidden = ", ".join(quote_name(part) for parts in lists.values() for part in parts)
        return _described(
            path, f"(SELECT * EXCLUDE ({hidden}), {', '.join(asked)} FROM {name})", place
        )
    return _described(path, name, place, _own_names(source))


def _own_names(frame: Any) -> tuple[str, ...]:
    """Return the names of a frame's columns; the engine renames those that differ in case only."""
    names = frame if isinstance(frame, Mapping) else getattr(frame, "columns", ())
    if hasattr(frame, "column_names"):  # Arrow's columns are not names
        names = frame.column_names
    return tuple(map(str, names))


def _columns_of(arrays: Mapping[Any, Any]) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Return arrays as columns, and which columns are the entries of a list."""
    columns: dict[str, np.ndarray] = {}
    lists: dict[str, list[str]] = {}
    for key, value in arrays.items():
        name, array = str(key), np.asarray(value)
        if array.ndim not in {1, 2}:
            raise OptionError(
                f"column {name!r} must have a value, or a row of them, for each row: got shape "
                f"{array.shape}. Hint: flatten it to one or two dimensions."
            )
        if array.dtype == np.float16:
            array = array.astype(np.float32)
        if array.ndim == 1:
            columns[name] = np.ascontiguousarray(array)  # the engine reads no array backwards
            continue
        lists[name] = [f"{name}[{j}]" for j in range(array.shape[1])]
        columns |= {part: np.ascontiguousarray(array[:, j]) for j, part in enumerate(lists[name])}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise OptionError(
            f"columns must have one value for each row: got lengths {lengths or 'of no column'}. "
            "Hint: {'label': labels, 'probabilities': array of shape (rows, classes)}"
        )
    return columns, lists
