"""Records as JSON and back: every field of a document is checked before anything uses it.

A document is numbers, texts, truth values, lists and objects, so reading one runs no code. Floats
are written with as many digits as tell them from every other float, so that they come back to the
bit.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from typing import Any, TypeVar

from xent.errors import ModelError

__all__ = ["record_from_text", "record_to_text"]

R = TypeVar("R")


def record_to_text(record: Any, **header: Any) -> str:
    """Return a record as JSON, its fields after those of the header.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Point:
    ...     x: float
    ...     names: tuple[str, ...]
    >>> print(record_to_text(Point(0.1, ("a", "b")), version=1))
    {
     "version": 1,
     "x": 0.1,
     "names": ["a", "b"]
    }
    <BLANKLINE>
    """
    fields = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    lines = [f" {_text(name)}: {_shown(value)}" for name, value in (header | fields).items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _shown(value: Any) -> str:
    """Return a value as JSON, with a line for each of several records."""
    if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        return "[\n  " + ",\n  ".join(_text(_plain(item)) for item in value) + "\n ]"
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return "[\n  " + ",\n  ".join(map(_text, value)) + "\n ]"
    return _text(_plain(value))


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def record_from_text(kind: type[R], text: str, where: str, **header: Any) -> R:
    """Return the record that a JSON document holds.

    Parameters
    ----------
    kind
        A dataclass with fields of the types that JSON has, tuples and dataclasses of such.
    text
        The document.
    where
        What it was read from, for errors.
    header
        Fields that come before, with the values that they must have.

    Raises
    ------
    ModelError
        If the document is no JSON, or a field is missing, unknown or of another type.
    """
    try:
        document = json.loads(text, object_pairs_hook=functools.partial(_object, where))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"{where} must be a JSON document: {str(error) or 'it is nested too deeply'}. "
            "Hint: was it written completely, by `xent fit`?"
        ) from None
    if not isinstance(document, dict):
        raise _wrong(where, "", "an object", document)
    for name, value in header.items():
        got = document.pop(name, None)
        if got != value or type(got) is not type(value):
            raise _wrong(where, name, repr(value), got)
    return typing.cast(R, _read(kind, document, where, ""))


def _object(where: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ModelError(
                f"fields of {where} must have different names: got {name!r} twice in one object. "
                "Hint: the file was changed by hand."
            )
        found[name] = value
    return found


def _wrong(where: str, path: str, wanted: str, got: Any) -> ModelError:
    shown = json.dumps(got, ensure_ascii=False)
    what = f"field {path!r} of {where}" if path else where
    return ModelError(
        f"{what} must be {wanted}: got {shown[:60]}{'…' if len(shown) > 60 else ''}. "
        "Hint: was the file written by `xent fit`, of this version, and not changed since?"
    )


_WORDS: dict[Any, str] = {
    str: "a text", int: "an integer", bool: "true or false", float: "a finite number",
    types.NoneType: "null",
}  # fmt: skip


def _read(kind: Any, value: Any, where: str, path: str) -> Any:
    """Return a value as the type that is wanted, or raise."""
    if dataclasses.is_dataclass(kind):
        return _read_record(kind, value, where, path)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in {typing.Union, types.UnionType}:
        return _read_choice(arguments, value, where, path)
    if origin is typing.Literal:
        if value not in arguments or type(value) is not type(arguments[0]):
            raise _wrong(where, path, " or ".join(map(repr, arguments)), value)
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(where, path, "a list", value)
        if arguments[-1] is Ellipsis:
            arguments = (arguments[0],) * len(value)
        if len(arguments) != len(value):
            raise _wrong(where, path, f"a list of {len(arguments)}", value)
        pairs = enumerate(zip(arguments, value, strict=True))
        return tuple(_read(a, item, where, f"{path}[{i}]") for i, (a, item) in pairs)
    if kind is float and type(value) is int and abs(value) < 2**53:
        value = float(value)  # what another writer makes of 1.0
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        raise _wrong(where, path, _WORDS[kind], value)
    return value


def _read_record(kind: Any, value: Any, where: str, path: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(where, path, "an object", value)
    hints = typing.get_type_hints(kind)
    wanted = [field.name for field in dataclasses.fields(kind)]
    for name in wanted:
        if name not in value:
            raise _wrong(where, path, f"an object with the field {name!r}", value)
    for name in value:
        if name not in wanted:
            raise ModelError(
                f"field {_inside(path, name)!r} of {where} is not known: expected only "
                f"{', '.join(wanted)}. Hint: a later version of xent may have written the file."
            )
    return kind(**{n: _read(hints[n], value[n], where, _inside(path, n)) for n in wanted})


def _inside(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _read_choice(kinds: tuple[Any, ...], value: Any, where: str, path: str) -> Any:
    """Return a value as one of several types: a record by its kind, others by their own."""
    records = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
    if len(records) == 1 and isinstance(value, dict):
        return _read(records[0], value, where, path)
    if records and isinstance(value, dict):
        tags = {typing.get_args(typing.get_type_hints(kind)["kind"])[0]: kind for kind in records}
        tag = value.get("kind")
        if not isinstance(tag, str) or tag not in tags:
            raise _wrong(where, _inside(path, "kind"), " or ".join(map(repr, tags)), tag)
        return _read(tags[tag], value, where, path)
    fitting = [kind for kind in kinds if type(value) is kind]
    if not fitting and float in kinds:
        fitting = [float]
    if not fitting:
        wanted = " or ".join(_WORDS.get(kind, "an object") for kind in kinds)
        raise _wrong(where, path, wanted, value)
    return _read(fitting[0], value, where, path)
