"""The engine that reads tables: DuckDB, in the process, without loading the table.

It knows columns and SQL, and no score: it returns groups of the numbers that
`xent.scoring.summary` merges, and the few rows that a message or a report shows.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xent.errors import TableError

__all__ = [
    "Table",
    "disable_rules",
    "quote_name",
    "quote_text",
    "reading_errors",
    "require_unicode",
    "sql_kind",
]


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


def sql_kind(sql_type: str) -> str:
    """Return the kind of a column, as `Table` has it, from its SQL type."""
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

    def derived(self, names: Sequence[str], source: str) -> Table:
        """Return a table made of this one and others.

        Parameters
        ----------
        names
            Its columns.
        source
            A FROM clause with these as ``c0``, ``c1`` …, and ``rn``, the number of the data row
            that a row comes from.
        """
        with reading_errors(self.path):
            described = self._connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
        identifiers = tuple(f"c{i}" for i in range(len(names)))
        types = {row[0]: str(row[1]) for row in described}
        return Table(
            path=self.path,
            names=tuple(names),
            kinds=tuple(sql_kind(types[c]) for c in identifiers),
            types=tuple(types[c] for c in identifiers),
            source=source,
            numbered=source,
            number_of_row="rn",
            _identifiers=identifiers,
            _connection=self._connection,
        )

    def raw(self, column: int) -> str:
        """Return SQL for a column as the file has it."""
        return self._identifiers[column]

    def is_integer(self, column: int) -> bool:
        """Return whether a column is of a type of integers."""
        return bool(self.types) and self.types[column].endswith(("INT", "INTEGER"))

    def is_float32(self, column: int) -> bool:
        """Return whether a column holds float32."""
        return bool(self.types) and self.types[column] == "FLOAT"

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
        with reading_errors(self.path):
            return list(_interruptible(self._connection, sql))

    def run(self, sql: str) -> None:
        """Run a statement that makes something in the engine."""
        with reading_errors(self.path):
            _interruptible(self._connection, sql)

    def arrays(self, expressions: Sequence[str]) -> list[Any]:
        """Return expressions that are never NULL as NumPy arrays over the rows, in their order."""
        named = ", ".join(f"{sql} AS a{place}" for place, sql in enumerate(expressions))
        with reading_errors(self.path):
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
        with reading_errors(self.path, f"cannot be copied to {str(target)!r}", hint):
            _interruptible(self._connection, sql)

    def first_texts(self) -> dict[int, str | None] | None:
        """Return what the columns of text hold in the first row, or None in a table without rows.

        Columns of other types are not read for it.
        """
        columns = [i for i, kind in enumerate(self.kinds) if kind == "text"]
        asked = ", ".join(["1", *(self._identifiers[i] for i in columns)])
        rows = self.rows(f"SELECT {asked} FROM {self.source} LIMIT 1")
        return dict(zip(columns, rows[0][1:], strict=True)) if rows else None

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


def _interruptible(connection: Any, sql: str, fetch: str = "fetchall") -> Any:
    """Return the answer to a query that Ctrl-C ends at once.

    The engine looks for the signal between tasks only, which can be long after. So this thread
    waits, where Python itself hears it, and another one runs the query.
    """
    import duckdb

    require_unicode(sql)
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
        started = time.monotonic()
        while not ended.wait(0.1):  # in short waits: the signal may reach any thread of the process
            if time.monotonic() - started > _SILENT:
                _show_progress(connection)
    except KeyboardInterrupt:
        # A query that is about to begin does not hear it, or is busy: say it until it has ended,
        # for ten seconds at most, because an interrupted start may have begun none.
        for _ in range(200):
            with suppress(duckdb.Error):
                connection.interrupt()
            if ended.wait(0.05):
                break
        raise
    finally:
        _end_progress()
    if isinstance(answer[0], BaseException):
        raise answer[0]
    return answer[0]


_SILENT = 2.0
"""Seconds after which a query says how far it is."""
_shown = threading.Event()


def _show_progress(connection: Any) -> None:
    """Say on a terminal's standard error how far a query is; nowhere else."""
    if not sys.stderr.isatty():
        return
    done = getattr(connection, "query_progress", lambda: -1.0)()
    said = f"{done:.0f} %" if done >= 0 else "…"
    sys.stderr.write(f"\rreading the table: {said} ")
    sys.stderr.flush()
    _shown.set()


def _end_progress() -> None:
    """Wipe the line that `_show_progress` wrote."""
    if _shown.is_set():
        _shown.clear()
        sys.stderr.write("\r\033[K")
        sys.stderr.flush()


def require_unicode(sql: str) -> None:
    """Refuse what the engine cannot be told: a byte of a name that is no text."""
    try:
        sql.encode("utf-8")
    except UnicodeEncodeError as error:
        odd = sql[max(error.start - 20, 0) : error.end + 20]
        raise TableError(
            f"paths, names and texts must be Unicode: got {odd!r}. Hint: rename the file or folder."
        ) from None


@contextmanager
def reading_errors(
    path: Path,
    failure: str = "cannot be read",
    hint: str = "is the file complete, and CSV in UTF-8 or Parquet?",
) -> Iterator[None]:
    """Turn what the engine says about a source into an error that names it."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        # The first lines say what and where; the rest is advice on options that xent sets itself.
        said = str(error).split("Possible")[0].split("LINE 1:")[0]
        what = " ".join(said.split())[:300].rstrip(".")
        raise TableError(f"{str(path)!r} {failure}: {what}. Hint: {hint}") from None


def disable_rules(connection: Any) -> None:
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
