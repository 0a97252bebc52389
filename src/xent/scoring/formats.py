"""The formats of files that a table can lie in: Parquet, CSV and JSON lines.

Names are those of the files, and no value is changed by a guess at its type: a CSV and JSON lines
are read as text. Several files are the parts of one table.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xent.errors import TableError
from xent.scoring.duckdb import (
    Table,
    quote_name,
    quote_text,
    reading_errors,
    require_unicode,
    sql_kind,
)

__all__ = ["open_csv", "open_json", "open_parquet", "refuse_twins"]

_DELIMITERS = ",;\t|"
_HEADER_LIMIT = 1 << 20


def _partition_keys(files: list[Path], root: Path | None) -> tuple[str, ...]:
    """Return the columns that folders called ``key=value`` make, the same for every file."""
    if root is None:
        return ()
    keys = [
        tuple(part.partition("=")[0] for part in file.parts[:-1] if "=" in part) for file in files
    ]
    for file, own in zip(files, keys, strict=True):
        if own != keys[0] or len(set(own)) != len(own):
            raise TableError(
                f"the folders of {str(root)!r} must be divided by the same keys: got "
                f"{str(files[0])!r} and {str(file)!r}. Hint: score one of them, or a pattern."
            )
    return keys[0]


def _file_list(files: Sequence[Path]) -> str:
    """Return paths as an SQL list of strings in which nothing is a wildcard."""
    return f"[{', '.join(_file_literal(file) for file in files)}]"


def _file_literal(path: Path) -> str:
    """Return the path as an SQL string in which nothing is a wildcard."""
    escaped = "".join(f"[{c}]" if c in "*?[" else c for c in str(path.resolve()))
    return quote_text(escaped)


# ---- Parquet ------------------------------------------------------------------------------------


def open_parquet(files: list[Path], path: Path, connection: Any, *, root: Path | None) -> Table:
    """Open Parquet files as the parts of one table.

    Parameters
    ----------
    files
        The parts, in their order.
    path
        What they are called in messages.
    connection
        To the engine.
    root
        The folder or pattern that the files were found by; None for files that were named, whose
        folders make no columns.

    Raises
    ------
    TableError
        If a file cannot be read, or has other columns than the first.
    """
    keys = _partition_keys(files, root)
    several = len(files) > 1
    options = f"{_file_list(files)}, hive_partitioning = {str(bool(keys)).lower()}"
    options += ", hive_types_autocast = false" if keys else ""
    source = f"read_parquet({options})"
    require_unicode(options)
    with reading_errors(path):
        described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
        schema = connection.execute(
            f"SELECT file_name, name, num_children FROM parquet_schema({_file_list(files)})"
        ).fetchall()
    schemas: dict[str, list[tuple[str, int | None]]] = {}
    for file, name, children in schema:
        schemas.setdefault(file, []).append((name, children))
    tops = {file: _top_level(tree) for file, tree in schemas.items()}
    first = next(iter(tops))
    for file, top in tops.items():
        _require_same(tops[first], top, first, file)
    identifiers = tuple(row[0] for row in described)
    # The engine renames columns that differ in case only; the file's own names are the labels'.
    names = (*tops[first], *keys)
    if len(names) != len(identifiers):
        names = identifiers
    refuse_twins(path, names)
    # Parquet knows the number of a row, which many threads can read; a window needs one.
    known = not {"file_row_number", "filename"} & {name.lower() for name in identifiers}
    numbered, number_of_row = source, "row_number() OVER ()"
    if known and not several:
        numbered = f"read_parquet({options}, file_row_number = true)"
        number_of_row = "file_row_number + 1"
    elif known:
        with reading_errors(path):
            counts = dict(
                connection.execute(
                    f"SELECT file_name, num_rows FROM parquet_file_metadata({_file_list(files)})"
                ).fetchall()
            )
        before, offsets = 0, []
        for file, rows in counts.items():
            offsets.append(f"({quote_text(file)}, {before})")
            before += int(rows)
        numbered = (
            f"(SELECT * FROM read_parquet({options}, file_row_number = true, filename = true) "
            f"JOIN (VALUES {', '.join(offsets)}) AS parts(part, rows_before) ON filename = part)"
        )
        number_of_row = "rows_before + file_row_number + 1"
    return Table(
        path=path,
        names=names,
        kinds=tuple(sql_kind(row[1]) for row in described),
        types=tuple(str(row[1]) for row in described),
        source=source,
        numbered=numbered,
        number_of_row=number_of_row,
        _identifiers=tuple(quote_name(name) for name in identifiers),
        _connection=connection,
    )


def _require_same(
    columns: Sequence[str], other: Sequence[str], first: object, file: object
) -> None:
    if tuple(columns) != tuple(other):
        odd = [c for c in (*columns, *other) if (c in columns) != (c in other)]
        what = f"column {odd[0]!r} in one of them only" if odd else "columns in another order"
        raise TableError(
            f"the parts of a table must have the same columns: got {what} of {str(first)!r} and "
            f"{str(file)!r}. Hint: score them apart."
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


def refuse_twins(path: Path, names: Sequence[str]) -> None:
    """Refuse columns of one name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TableError(
            f"columns of {str(path)!r} must have different names: got {twice[0]!r} twice. "
            "Hint: rename one of them."
        )


# ---- CSV ----------------------------------------------------------------------------------------


def open_csv(
    files: list[Path], path: Path, connection: Any, *, compressed: bool, root: Path | None
) -> Table:
    """Open CSV files as `open_parquet` does; they are compressed with gzip all or none."""
    delimiter, names = _read_header(files[0], compressed=compressed)
    for file in files[1:]:
        _require_same(names, _read_header(file, compressed=compressed)[1], files[0], file)
    keys = _partition_keys(files, root)
    refuse_twins(path, (*names, *keys))
    identifiers = tuple(f"c{number}" for number in range(len(names)))
    columns = ", ".join(f"{name}: 'VARCHAR'" for name in identifiers)
    compression = "'gzip'" if compressed else "'none'"
    source = (
        f"read_csv({_file_list(files)}, auto_detect = false, header = true, "
        f"delim = {quote_text(delimiter)}, quote = '\"', escape = '\"', "
        f"compression = {compression}, {_partitioned(keys)}columns = {{{columns}}})"
    )
    return _text_table(
        path, (*names, *keys), source, (*identifiers, *map(quote_name, keys)), connection
    )


def _partitioned(keys: Sequence[str]) -> str:
    if not keys:
        return "hive_partitioning = false, "
    return "hive_partitioning = true, hive_types_autocast = false, "


def _text_table(
    path: Path, names: tuple[str, ...], source: str, identifiers: tuple[str, ...], connection: Any
) -> Table:
    """Return a table of texts, whose rows have no numbers but their order."""
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
    refuse_twins(path, header)
    return delimiter, tuple(header)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# ---- JSON lines ---------------------------------------------------------------------------------


def open_json(files: list[Path], path: Path, connection: Any, *, root: Path | None) -> Table:
    """Open files of JSON lines as `open_parquet` does; an object's entries become columns."""
    keys = _partition_keys(files, root)
    lines = "auto" if path.suffix.lower() == ".json" else "newline_delimited"
    begin = f"read_json({_file_list(files)}, format = '{lines}', "
    require_unicode(begin)
    with reading_errors(path, hint="each line of JSON lines is one object: {…}."):
        found = connection.execute(
            f"SELECT * FROM {begin}{_partitioned(())}sample_size = -1, maximum_depth = 2, "
            "map_inference_threshold = -1, field_appearance_threshold = 0) LIMIT 0"
        ).description
    if [column[0] for column in found] == ["json"]:
        raise TableError(
            f"each line of {str(path)!r} must be an object: got something else. "
            'Hint: {"label": "cat", "p_cat": 0.9, "p_dog": 0.1}'
        )
    # Every value comes as its own text, so that no type is guessed; an object's entries one by one.
    names: list[str] = []
    texts: list[str] = []
    for name, kind, *_ in found:
        column = quote_name(name)
        if getattr(kind, "id", "") == "struct":
            for child, _ in kind.children:
                names.append(f"{name}.{child}")
                entry = quote_text("$." + _json_key(child))
                texts.append(f"json_extract_string({column}, {entry})")
        else:
            names.append(name)
            texts.append(f"json_extract_string({column}, '$')")
    refuse_twins(path, (*names, *keys))
    identifiers = tuple(f"c{number}" for number in range(len(names)))
    columns = ", ".join(f"{quote_text(column[0])}: 'JSON'" for column in found)
    asked = [f"{sql} AS {c}" for sql, c in zip(texts, identifiers, strict=True)]
    asked += [quote_name(key) for key in keys]
    source = f"(SELECT {', '.join(asked)} FROM {begin}{_partitioned(keys)}columns = {{{columns}}}))"
    return _text_table(
        path, (*names, *keys), source, (*identifiers, *map(quote_name, keys)), connection
    )


def _json_key(key: str) -> str:
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
