"""The symbols of a code: their indices, which codes work on, and back."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from xent.errors import CodeError, OptionError, ShapeError

__all__ = ["Alphabet", "locked", "no_codeword", "smallest_dtype"]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_DENSE = 1 << 20  # integer symbols within such a range have a table of their indices


def smallest_dtype(count: int) -> np.dtype[Any]:
    """Return the dtype of indices below `count`: uint8, uint16 or int64."""
    return np.dtype(np.uint8 if count <= 1 << 8 else np.uint16 if count <= 1 << 16 else np.int64)


def locked(array: Array) -> Array:
    """Return a view that cannot be written to; loops are then compiled for one type only."""
    view = array.view()
    view.flags.writeable = False
    return view


class Alphabet:
    """Symbols in order: their indices, and sequences of them as they were given.

    Parameters
    ----------
    symbols
        The symbols: None for the integers below `count`, an array of integers, a range, or any
        sequence of different hashables.
    count
        How many there must be.
    kind
        What a sequence of symbols is made: ``"array"``, ``"list"``, ``"bytes"`` or ``"str"``; by
        default an array for None, an array and a range, and else a list.

    Attributes
    ----------
    symbols
        An array of integers, or a tuple.
    """

    def __init__(self, symbols: Any, count: int, kind: str | None = None) -> None:
        self.symbols: Any
        self.dtype = smallest_dtype(count)  # of indices
        self.is_default = symbols is None
        if symbols is None:
            self.symbols = np.arange(count, dtype=self.dtype)
        elif isinstance(symbols, range):
            self.symbols = np.array(symbols, np.int64)
        elif isinstance(symbols, np.ndarray) and symbols.ndim == 1:
            self.symbols = symbols.copy() if symbols.dtype.kind in "iu" else tuple(symbols.tolist())
        else:
            self.symbols = tuple(symbols)
        is_array = isinstance(self.symbols, np.ndarray)
        if is_array:
            self.symbols = locked(self.symbols)
        if len(self.symbols) != count:
            raise ShapeError(
                f"every weight must have a symbol: got {count} weights and {len(self.symbols)} "
                "symbols. Hint: a symbol that never comes has weight 0."
            )
        self.kind = kind or ("array" if is_array else "list")
        self._numbers: Any = None  # the symbols as int64, where they all are
        if is_array and (count == 0 or int(self.symbols.max()) < 1 << 63):
            self._numbers = self.symbols.astype(np.int64)
        elif all(type(symbol) is int and -(1 << 63) <= symbol < 1 << 63 for symbol in self.symbols):
            self._numbers = np.array(self.symbols, np.int64)
        if not self.is_default:
            self._require_different()

    def __len__(self) -> int:
        return len(self.symbols)

    def _require_different(self) -> None:
        if self._numbers is not None:
            if np.unique(self._numbers).size == len(self):
                return
        elif len(self.index) == len(self):
            return
        seen: set[Any] = set()
        for symbol in self._plain:
            if symbol in seen:
                raise OptionError(
                    f"symbols must differ: got {symbol!r} twice. Hint: add their weights up first."
                )
            seen.add(symbol)

    @cached_property
    def _plain(self) -> list[Any]:
        return self.symbols.tolist() if isinstance(self.symbols, np.ndarray) else list(self.symbols)

    @cached_property
    def index(self) -> dict[Hashable, int]:
        """The index of each symbol."""
        try:
            return {symbol: i for i, symbol in enumerate(self._plain)}
        except TypeError as error:
            raise OptionError(
                f"symbols must be hashable: got one that is not ({error}). Hint: tuples instead of "
                "lists, and bytes or tuples instead of arrays."
            ) from None

    def at(self, index: int) -> Any:
        """Return the symbol of an index."""
        symbol = self.symbols[index]
        return symbol.item() if isinstance(symbol, np.generic) else symbol

    def indices(self, data: Any) -> Array:
        """Return the indices of a sequence of symbols, in the smallest dtype.

        Raises
        ------
        CodeError
            If one of them is no symbol.
        """
        if isinstance(data, bytes | bytearray | memoryview):
            data = np.frombuffer(data, np.uint8)
        elif self._numbers is not None and isinstance(data, list | tuple | range):
            array = np.asarray(data) if len(data) and not _is_nested(data) else None
            data = array if array is not None and array.dtype.kind in "iu" else data
        if isinstance(data, np.ndarray):
            if data.ndim != 1:
                raise ShapeError(
                    f"symbols must lie along one axis: got shape {data.shape}. Hint: .ravel()."
                )
            if self._numbers is not None and data.dtype.kind in "iu":
                return self._indices_of_integers(data)
            data = data.tolist()
        index = self.index
        found = np.empty(len(data), self.dtype)
        for i, symbol in enumerate(data):
            try:
                found[i] = index[symbol]
            except (KeyError, TypeError):
                raise no_codeword(symbol, i, "it is none of the alphabet's symbols") from None
        return found

    def _indices_of_integers(self, data: Array) -> Array:
        if (
            self.is_default
            and data.dtype == self.dtype
            and len(self) == 1 << 8 * self.dtype.itemsize
        ):
            return np.ascontiguousarray(data)
        if data.size == 0:
            return np.empty(0, self.dtype)
        least, most = int(self._numbers.min()), int(self._numbers.max())
        if int(data.min()) < least or int(data.max()) > most:
            i = int(np.argmax((data < least) | (data > most)))
            raise no_codeword(data[i].item(), i, "it is none of the alphabet's symbols")
        if self.is_default:
            return np.ascontiguousarray(data, dtype=self.dtype)
        if (table := self._dense) is not None:
            found = table[data.astype(np.int64) - least]
        else:
            order = self._sorted
            found = order[np.searchsorted(self._numbers, data.astype(np.int64), sorter=order)]
            found = np.where(self._numbers[found] == data, found, -1)
        if (found < 0).any():
            i = int(np.argmax(found < 0))
            raise no_codeword(data[i].item(), i, "it is none of the alphabet's symbols")
        return found.astype(self.dtype)

    @cached_property
    def _sorted(self) -> Array:
        return np.argsort(self._numbers)

    @cached_property
    def _dense(self) -> Array | None:
        least = int(self._numbers.min())
        span = int(self._numbers.max()) - least + 1
        if span > max(_DENSE, 4 * len(self)):
            return None
        table = np.full(span, -1, np.int32)
        table[self._numbers - least] = np.arange(len(self), dtype=np.int32)
        return table

    def sequence(self, indices: Array) -> Any:
        """Return the symbols of indices, as an array, a list, bytes or a text."""
        if self.kind == "bytes":
            return indices.tobytes()
        if self.kind == "array":
            return indices if self.is_default else self.symbols[indices]
        symbols = list(map(self.symbols.__getitem__, indices.tolist()))
        return "".join(symbols) if self.kind == "str" else symbols


def _is_nested(data: Sequence[Any]) -> bool:
    return not isinstance(data, range) and any(hasattr(symbol, "__len__") for symbol in data)


def no_codeword(symbol: Any, place: int, why: str) -> CodeError:
    """Return the error for a symbol that cannot be written."""
    return CodeError(
        f"every symbol must have a codeword: got {symbol!r} at {place}, which has none; {why}, and "
        "its price is infinite. Hint: give it a weight, or the code an escape."
    )
