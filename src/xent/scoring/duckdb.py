"""The engine that reads tables: DuckDB, in the process, without loading the table.

It knows files, columns and SQL, and no score: it returns groups of the numbers that
`xent.scoring.summary` merges, and the few rows that a message or a report shows. A CSV is read as
text with numbered columns, so that neither guessed types nor names ever change a value.
"""

from __future__ import annotations

import csv
import gzip
import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xent.errors import MissingExtraError, TableError

__all__ = ["Table", "open_table", "open_tables", "quote_name", "quote_text"]

_DELIMITERS = ",;\t|"
_HEADER_LIMIT = 1 << 20


def quote_name(name: str) -> str:
    """Return an SQL identifier.

    Examples
    --------
    >>> print(quote_name('a "b" c'))
    "a ""b"" c"
    """
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """Return an SQL string.

    Examples
    --------
    >>> print(quote_text("it's"))
    'it''s'
    """
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True)
class Table:
    """An open table: its columns and a connection to ask.

    Attributes
    ----------
    path
        The file.
    names
        The columns as the file names them.
    kinds
        Per column ``"text"``, ``"number"``, ``"boolean"``, ``"float"``, ``"list"`` or ``"other"``;
        a CSV has text only.
    types
        Per column its SQL type; empty for a CSV, which has none.
    source
        The table as an SQL FROM clause.
    numbered
        The same with what `number_of_row` needs.
    number_of_row
        SQL for the number of a data row, from 1.
    """

    path: Path
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    types: tuple[str, ...]
    source: str
    numbered: str
    number_of_row: str
    _identifiers: tuple[str, ...]
    _connection: Any

    def raw(self, column: int) -> str:
        """Return SQL for a column as the file has it."""
        return self._identifiers[column]

    def is_integer(self, column: int) -> bool:
        """Return whether a column is of a type of integers."""
        return bool(self.types) and self.types[column].endswith(("INT", "INTEGER"))

    def text(self, column: int) -> str:
        """Return SQL for a column as text, as its label would be written."""
        name = self._identifiers[column]
        if self.kinds[column] == "text":
            return name
        if self.kinds[column] == "float":  # labels that a missing value once turned to 1.0
            return f"regexp_replace(CAST({name} AS VARCHAR), '\\.0$', '')"
        return f"CAST({name} AS VARCHAR)"

    def label(self, column: int) -> str:
        """Return SQL for a column as labels: its text, and NULL for NaN, which is a gap."""
        text = self.text(column)
        if self.kinds[column] == "float":
            return f"CASE WHEN isnan({self._identifiers[column]}) THEN NULL ELSE {text} END"
        return text

    def number(self, column: int) -> str:
        """Return SQL for a column as DOUBLE, NULL where a text is no number."""
        cast = "TRY_CAST" if self.kinds[column] == "text" else "CAST"
        return f"{cast}({self._identifiers[column]} AS DOUBLE)"

    def numbers(self, column: int) -> str:
        """Return SQL for a column as a list of DOUBLE, NULL where it is none."""
        return f"TRY_CAST({self._identifiers[column]} AS DOUBLE[])"

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Run a query whose answer is small."""
        with _reading(self.path):
            return list(_interruptible(self._connection, sql))

    def arrays(self, expressions: Sequence[str]) -> list[Any]:
        """Return expressions that are never NULL as NumPy arrays over the rows, in their order."""
        named = ", ".join(f"{sql} AS a{place}" for place, sql in enumerate(expressions))
        with _reading(self.path):
            found = _interruptible(
                self._connection, f"SELECT {named} FROM {self.source}", "fetchnumpy"
            )
        return [found[f"a{place}"] for place in range(len(expressions))]

    def copy(
        self, target: Path, kept: Mapping[str, str], made: Mapping[str, Any], options: str
    ) -> None:
        """Write a file of columns, SQL by name, and of arrays of as many rows beside them.

        Raises
        ------
        TableError
            If the table cannot be read again, or the file not be written.
        """
        # The engine takes names for the same that differ in case only, so they come last.
        self._connection.register("made", {f"m{i}": a for i, a in enumerate(made.values())})
        inner = ", ".join(f"{sql} AS k{i}" for i, sql in enumerate(kept.values()))
        outer = [f"k{i} AS {quote_name(name)}" for i, name in enumerate(kept)]
        outer += [f"m{i} AS {quote_name(name)}" for i, name in enumerate(made)]
        rows = f"(SELECT {inner} FROM {self.source}) POSITIONAL JOIN made" if kept else "made"
        sql = (
            f"COPY (SELECT {', '.join(outer)} FROM {rows}) TO {quote_text(str(target))} ({options})"
        )
        hint = "is there space left?"
        with _reading(self.path, f"cannot be copied to {str(target)!r}", hint):
            _interruptible(self._connection, sql)

    def first_row(self) -> tuple[Any, ...] | None:
        """Return the first row, or None in a table without rows."""
        rows = self.rows(f"SELECT * FROM {self.source} LIMIT 1")
        return rows[0] if rows else None

    def shown(self, column: int, row: int) -> str:
        """Return what stands in a row, counted from 0, in words."""
        found = self.rows(f"SELECT {self.text(column)} FROM {self.source} LIMIT 1 OFFSET {row}")
        return "nothing" if found[0][0] is None else repr(found[0][0])

    def distinct(self, column: int, *, limit: int, within: int | None = None) -> list[str]:
        """Return up to `limit` distinct labels as sorted text, of the first `within` rows."""
        top = "" if within is None else f" LIMIT {within}"
        rows = self.rows(
            f"SELECT DISTINCT v FROM (SELECT {self.label(column)} AS v FROM {self.source}{top}) "
            f"WHERE v IS NOT NULL LIMIT {limit}"
        )
        return sorted(str(row[0]) for row in rows)


@contextmanager
def open_table(source: str | Path) -> Iterator[Table]:
    """Open a CSV or Parquet file.

    Raises
    ------
    TableError
        If there is no such file, or it is neither.
    MissingExtraError
        If duckdb is not installed.
    """
    with open_tables([source]) as (table,):
        yield table


@contextmanager
def open_tables(sources: Sequence[str | Path]) -> Iterator[tuple[Table, ...]]:
    """Open tables that one query can read together.

    Raises
    ------
    TableError, MissingExtraError
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
    try:
        _disable_rules(connection)
        yield tuple(_opened(Path(source), connection) for source in sources)
    finally:
        connection.close()


def _opened(path: Path, connection: Any) -> Table:
    start = _first_bytes(path)
    if start.startswith(b"PAR1") or path.suffix.lower() in {".parquet", ".pq"}:
        return _open_parquet(path, connection)
    return _open_csv(path, connection, compressed=start.startswith(b"\x1f\x8b"))


def _interruptible(connection: Any, sql: str, fetch: str = "fetchall") -> Any:
    """Return the answer to a query that Ctrl-C ends at once.

    The engine looks for the signal between tasks only, which can be long after. So this thread
    waits, where Python itself hears it, and another one runs the query.
    """
    import duckdb

    _require_unicode(sql)
    answer: list[Any] = []
    ended = threading.Event()

    def ask() -> None:
        try:
            answer.append(getattr(connection.execute(sql), fetch)())
        except BaseException as error:  # raised again by the thread that waits
            answer.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=ask, daemon=True)
    try:
        thread.start()
        while not ended.wait(0.1):  # in short waits: the signal may reach any thread of the process
            pass
    except KeyboardInterrupt:
        # A query that is about to begin does not hear it, or is busy: say it until it has ended,
        # for ten seconds at most, because an interrupted start may have begun none.
        for _ in range(200):
            with suppress(duckdb.Error):
                connection.interrupt()
            if ended.wait(0.05):
                break
        raise
    if isinstance(answer[0], BaseException):
        raise answer[0]
    return answer[0]


def _require_unicode(sql: str) -> None:
    """Refuse what the engine cannot be told: a byte of a name that is no text."""
    try:
        sql.encode("utf-8")
    except UnicodeEncodeError as error:
        odd = sql[max(error.start - 20, 0) : error.end + 20]
        raise TableError(
            f"paths, names and texts must be Unicode: got {odd!r}. Hint: rename the file or folder."
        ) from None


@contextmanager
def _reading(
    path: Path,
    failure: str = "cannot be read",
    hint: str = "is the file complete, and CSV in UTF-8 or Parquet?",
) -> Iterator[None]:
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        # The first lines say what and where; the rest is advice on options that xent sets itself.
        said = str(error).split("Possible")[0].split("LINE 1:")[0]
        what = " ".join(said.split())[:300].rstrip(".")
        raise TableError(f"{str(path)!r} {failure}: {what}. Hint: {hint}") from None


def _disable_rules(connection: Any) -> None:
    """Switch off the shortcuts of the engine that change answers.

    ``type_pushdown`` lets the CSV reader convert what TRY_CAST asks for, and then fail at a text
    that is no number, where TRY_CAST gives NULL. ``statistics_propagation`` believes a Parquet
    file's least and largest value, from which writers leave NaN out, and drops the tests that
    would find it.
    """
    known = {
        row[0] for row in connection.execute("SELECT name FROM duckdb_optimizers()").fetchall()
    }
    rules = sorted(known & {"type_pushdown", "statistics_propagation"})
    connection.execute(f"SET disabled_optimizers = {quote_text(','.join(rules))}")


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
            start = file.read(4)
    except OSError as error:
        raise TableError(
            f"{str(path)!r} cannot be read: {error.strerror}. Hint: check its permissions."
        ) from None
    if not start:
        raise TableError(f"{str(path)!r} is empty: got 0 bytes. Hint: was it written completely?")
    return start


def _file_literal(path: Path) -> str:
    """Return the path as an SQL string in which nothing is a wildcard."""
    escaped = "".join(f"[{c}]" if c in "*?[" else c for c in str(path.resolve()))
    return quote_text(escaped)


def _open_parquet(path: Path, connection: Any) -> Table:
    options = f"{_file_literal(path)}, hive_partitioning = false"
    source = f"read_parquet({options})"
    _require_unicode(options)
    with _reading(path):
        described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
        schema = connection.execute(
            f"SELECT name, num_children FROM parquet_schema({_file_literal(path)})"
        ).fetchall()
    identifiers = tuple(row[0] for row in described)
    # The engine renames columns that differ in case only; the file's own names are the labels'.
    names = _top_level(schema)
    if len(names) != len(identifiers):
        names = identifiers
    _refuse_twins(path, names)
    # Parquet knows the number of a row, which many threads can read; a window needs one.
    known = "file_row_number" not in {name.lower() for name in identifiers}
    return Table(
        path=path,
        names=names,
        kinds=tuple(_kind(row[1]) for row in described),
        types=tuple(str(row[1]) for row in described),
        source=source,
        numbered=f"read_parquet({options}, file_row_number = true)" if known else source,
        number_of_row="file_row_number + 1" if known else "row_number() OVER ()",
        _identifiers=tuple(quote_name(name) for name in identifiers),
        _connection=connection,
    )


def _top_level(schema: list[tuple[str, int | None]]) -> tuple[str, ...]:
    """Return the columns of a Parquet schema, which lists a tree depth first, its root included."""
    names: list[str] = []
    place = 1
    while place < len(schema):
        names.append(schema[place][0])
        inside = 1  # entries of this column that are still to be passed over
        while inside and place < len(schema):
            inside += (schema[place][1] or 0) - 1
            place += 1
    return tuple(names)


def _refuse_twins(path: Path, names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TableError(
            f"columns of {str(path)!r} must have different names: got {twice[0]!r} twice. "
            "Hint: rename one of them."
        )


def _kind(sql_type: str) -> str:
    name = sql_type.upper()
    if name.endswith("]"):
        return "list"
    if name.startswith(("VARCHAR", "ENUM")):
        return "text"
    if name in {"FLOAT", "DOUBLE"}:
        return "float"
    if name == "BOOLEAN":
        return "boolean"
    whole = name.endswith(("INT", "INTEGER"))
    return "number" if whole or name.startswith("DECIMAL") else "other"


def _open_csv(path: Path, connection: Any, *, compressed: bool) -> Table:
    delimiter, names = _read_header(path, compressed=compressed)
    identifiers = tuple(f"c{number}" for number in range(len(names)))
    columns = ", ".join(f"{name}: 'VARCHAR'" for name in identifiers)
    compression = "'gzip'" if compressed else "'none'"
    source = (
        f"read_csv({_file_literal(path)}, auto_detect = false, header = true, "
        f"delim = {quote_text(delimiter)}, quote = '\"', escape = '\"', "
        f"compression = {compression}, hive_partitioning = false, columns = {{{columns}}})"
    )
    return Table(
        path=path,
        names=names,
        kinds=("text",) * len(names),
        types=(),
        source=source,
        numbered=source,
        number_of_row="row_number() OVER ()",
        _identifiers=identifiers,
        _connection=connection,
    )


def _read_header(path: Path, *, compressed: bool) -> tuple[str, tuple[str, ...]]:
    """Return the delimiter and the column names of a CSV."""
    try:
        with gzip.open(path, "rb") if compressed else path.open("rb") as file:
            text = file.read(_HEADER_LIMIT).decode("utf-8-sig", errors="ignore")
            if b"\x00" in text.encode()[:4096]:
                raise UnicodeError
    except (UnicodeError, OSError, EOFError):
        raise TableError(
            f"{str(path)!r} must be a CSV in UTF-8 or a Parquet file: got something else. "
            "Hint: save it as UTF-8."
        ) from None
    best: tuple[str, list[str]] = (",", [])
    for delimiter in _DELIMITERS:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            header = next(rows, [])
        except csv.Error as error:
            raise TableError(
                f"the first line of {str(path)!r} must name the columns: it cannot be read: "
                f"{error}. Hint: is a quotation mark in it never closed?"
            ) from None
        if len(header) > len(best[1]):
            best = (delimiter, header)
    delimiter, header = best
    if not any(name.strip() for name in header):
        raise TableError(
            f"the first line of {str(path)!r} must name the columns: got an empty line. "
            "Hint: label,p_cat,p_dog"
        )
    if len(header) > 1 and all(_is_number(name) for name in header):
        raise TableError(
            f"the first line of {str(path)!r} must name the columns: got the numbers "
            f"{delimiter.join(header)[:60]!r}. Hint: write a line such as label,p_cat,p_dog above."
        )
    _refuse_twins(path, header)
    return delimiter, tuple(header)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
