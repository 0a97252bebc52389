r"""Models of bytes: how likely each is after the bytes before it, as whole frequencies.

A model of order k has a row of 257 frequencies for a context, that is for the k bytes before a
byte: one for each byte and one for the *escape*, which says that the row's parent knows. The parent
is the row of the context that is one byte shorter; the parent of the row without context writes a
byte plainly, in 8 bits. Frequencies of a row sum to 2¹⁴, so that encoder and decoder compute with
the same whole numbers on every machine, and a byte costs

.. math:: 14 - \log_2 f(x) \quad\text{or}\quad 14 - \log_2 f(\text{escape}) + \text{parent's price}

bits. A context has a row of its own only where that makes rows and symbols together shorter.
"""

from __future__ import annotations

import hashlib
import mmap
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from xent.coding import row_loops, stream_loops
from xent.coding.options import whole_number
from xent.coding.stream_loops import ESCAPE, PRECISION
from xent.errors import ModelError, OptionError
from xent.files import write_whole

__all__ = ["MAX_ORDER", "ContextModel", "Counts", "as_bytes", "check_order"]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

MAX_ORDER = 2
MAGIC = b"\x89XENTM\r\n"
LEAST_BITS = 7
"""Bits of the shortest row: its context, its precision, how many symbols, and one."""
AT_ONCE = 4096
"""Contexts whose rows are chosen at a time, which bounds the memory of those that are not kept."""
FEW_ROWS = 16
"""Rows up to which the decoder has a table of all slots of each."""


def as_bytes(data: Any) -> Array:
    """Return bytes, or an array of bytes, as an array, without a copy where it can be.

    Raises
    ------
    OptionError
        If it is something else, such as text or numbers of another dtype.
    """
    if isinstance(data, np.ndarray):
        if data.dtype == np.uint8 and data.ndim == 1:
            return np.ascontiguousarray(data)
    elif isinstance(data, memoryview):
        return np.frombuffer(data.tobytes() if not data.c_contiguous else data, np.uint8)
    elif isinstance(data, bytes | bytearray):
        return np.frombuffer(data, np.uint8)
    what = f"an array of {data.dtype}" if isinstance(data, np.ndarray) else type(data).__name__
    raise OptionError(
        f"data must be bytes, or one axis of uint8: got {what}. Hint: text is encoded first, as in "
        "text.encode('utf-8'); symbols that are no bytes go through xent.coding.HuffmanCode."
    )


def check_order(order: Any) -> int:
    """Return an order, refused where there is none such."""
    return whole_number("order", order, 0, MAX_ORDER, "how many bytes before a byte are looked at.")


class Counts:
    """How often each byte follows each context: all that a model is made from.

    Parameters
    ----------
    order
        How many bytes before a byte are its context, 0 to 2.

    Attributes
    ----------
    order
        As given.

    Raises
    ------
    OptionError
        If there is no such order.

    Examples
    --------
    >>> from xent.coding import Counts
    >>> counts = Counts(0)
    >>> counts.add(b"aaaabb")
    >>> print(counts.total, counts.rows[0, [97, 98]], round(counts.entropy_bits(), 4))
    6 [4 2] 5.5098
    """

    def __init__(self, order: int) -> None:
        self.order = check_order(order)
        size = 256**self.order
        self._table = _zeros(size)
        self._seen = np.zeros(size, np.uint8)
        self._contexts: Array | None = None
        self._rows: Array | None = None

    def add(self, block: Any) -> None:
        """Count a block as `xent.coding.encode_block` sees it: eight lanes, each by itself."""
        if self._contexts is not None:
            self._spread()
        stream_loops.count(as_bytes(block), self._seen.size - 1, self._table, self._seen)

    def _spread(self) -> None:
        """Have a place for every context again."""
        table = _zeros(self._seen.size)
        table[self.contexts] = self.rows
        self._table, self._contexts, self._rows = table, None, None

    def _gather(self) -> None:
        """Keep the contexts that have counts: most of 65 536 have none."""
        if self._contexts is None:
            self._contexts = np.flatnonzero(self._seen)
            self._rows = self._table[self._contexts]
            self._table = np.zeros((0, 256), np.int64)

    @property
    def contexts(self) -> Array:
        """The contexts that have counts, ascending: the last byte lowest.  int64 (n,)."""
        self._gather()
        assert self._contexts is not None
        return self._contexts

    @property
    def rows(self) -> Array:
        """How often each byte follows each of `contexts`: int64 (n, 256)."""
        self._gather()
        assert self._rows is not None
        return self._rows

    @property
    def total(self) -> int:
        """How many bytes were counted."""
        return int(self.rows.sum())

    def entropy_bits(self) -> float:
        """Return what the bytes cost, in bits, under the relative frequencies of their contexts."""
        rows = self.rows.astype(np.float64)
        totals = rows.sum(axis=1, keepdims=True)
        where = rows > 0
        surprise = np.log2(np.divide(totals, rows, where=where, out=np.ones_like(rows)))
        return float(np.sum(rows * surprise))


def _zeros(contexts: int) -> Array:
    """Return a table of counts, of which those pages alone take memory that are written to.

    NumPy asks for huge pages: clearing all of the 134 MB of order 2 takes longer than counting.
    """
    private = {}
    if hasattr(mmap, "MAP_PRIVATE"):  # of this process alone, also when it forks
        private["flags"] = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, contexts * 256 * 8, **private)
    return np.frombuffer(memory, np.int64).reshape(contexts, 256)


def _shorter(counts: Counts) -> list[tuple[Array, Array]]:
    """Return contexts of 0, 1, … bytes, and their counts."""
    found = [(counts.contexts, counts.rows)]
    for level in range(counts.order - 1, -1, -1):  # the byte farthest back is the highest
        contexts, rows = found[0]
        ends, place = np.unique(contexts % 256**level, return_inverse=True)
        sums = np.zeros((ends.size, 256), np.int64)
        np.add.at(sums, place, rows)
        found.insert(0, (ends, sums))
    if found[0][0].size == 0:  # of nothing there is a row, too
        found[0] = np.zeros(1, np.int64), np.zeros((1, 256), np.int64)
    return found


@dataclass(frozen=True, eq=False)
class ContextModel:
    """A model of bytes given the bytes before them, in whole frequencies.

    Make one with `ContextModel.of` from bytes, `fit` from counts, `load` from a file.

    Attributes
    ----------
    order
        How many bytes before a byte are its context.
    levels
        How many bytes of context each row has.           int64 (rows,)
    contexts
        The context of each row, its last byte lowest.    int64 (rows,)
    bits
        The sum of a row's own frequencies is 2^bits.      int64 (rows,)
    frequencies
        Frequencies of the bytes and of the escape, taken to a sum of 2¹⁴.   int32 (rows, 257)
    weights
        What the frequencies were rounded from, float64 of that shape; None for a model that was
        read, because files hold the frequencies.

    See Also
    --------
    xent.coding.HuffmanCode : a whole number of bits for each symbol, for symbols of any kind.
    """

    order: int
    levels: Array = field(repr=False)
    contexts: Array = field(repr=False)
    bits: Array = field(repr=False)
    frequencies: Array = field(repr=False)
    weights: Array | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        # The loops trust them: what the coder is told must stay what was checked.
        for array in (self.levels, self.contexts, self.bits, self.frequencies, self.weights):
            if array is not None:
                array.flags.writeable = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ContextModel) and self._bytes == other._bytes

    def __hash__(self) -> int:
        return hash(self._bytes)

    # ---- making one ------------------------------------------------------------------------------

    @classmethod
    def of(cls, data: Any, *, order: int = 0, escape: bool = True) -> ContextModel:
        """Fit a model to bytes; see `fit`.

        Examples
        --------
        >>> from xent.coding import ContextModel
        >>> model = ContextModel.of(b"aaaabb" * 100, order=0, escape=False)
        >>> print(round(model.price(b"a"), 3), model.price(b"z"))
        0.585 inf
        >>> print(round(ContextModel.of(b"aaaabb" * 100).price(b"z"), 3))  # the escape, and 8 bits
        16.245
        """
        counts = Counts(order)
        counts.add(data)
        return cls.fit(counts, escape=escape)

    @classmethod
    def fit(cls, counts: Counts, *, escape: bool = True) -> ContextModel:
        """Fit a model to counts.

        Parameters
        ----------
        counts
            What was counted.
        escape
            Whether every byte is to get a price. The escape's weight is then the number of
            different bytes seen in that context (method C of Moffat's, 1990, for PPM), and the
            number of bytes that go through it because they are too rare for a frequency of their
            own. Without it that number alone: there is an escape only where it saves bits, and
            where there is none a byte that was not seen costs ∞.

        Returns
        -------
        ContextModel
            The one with the shortest description of itself and of what was counted, of those that
            are tried: rows for contexts of each length against rows for shorter ones only, each
            with frequencies of several precisions, rare bytes left to the parent or not.
        """
        kept: list[tuple[Array, ...]] = []
        shorter, above = np.zeros(1, np.int64), np.full((1, 256), 8.0)  # a plain byte
        for level, (contexts, rows) in enumerate(_shorter(counts)):
            ends = contexts % 256 ** max(0, level - 1)
            prices = above[np.searchsorted(shorter, ends)]
            for start in range(0, contexts.size, AT_ONCE):
                part = slice(start, start + AT_ONCE)
                bits = np.empty(contexts[part].size, np.int64)
                row = np.zeros((bits.size, ESCAPE + 1), np.int32)
                weights = np.zeros(row.shape)
                row_loops.choose_rows(
                    rows[part], prices[part], escape, level == 0, bits, row, weights
                )
                own = bits >= 0
                row = row[own] << (PRECISION - bits[own, None]).astype(np.int32)
                levels = np.full(row.shape[0], level)
                kept.append((levels, contexts[part][own], bits[own], row, weights[own]))
            shorter, above = contexts, prices
        return cls(counts.order, *map(np.concatenate, zip(*kept, strict=True)))

    # ---- what a coder needs ----------------------------------------------------------------------

    @cached_property
    def mask(self) -> int:
        """The bits of the last bytes that are a context."""
        return 256**self.order - 1

    @cached_property
    def row_of(self) -> Array:
        """The row of each context: its own, or that of the longest end of it that has one."""
        return self._rows_of_levels[-1]

    @cached_property
    def _rows_of_levels(self) -> list[Array]:
        found = [np.zeros(1, np.int32)]
        for level in range(1, self.order + 1):
            rows = np.tile(found[-1], 256)
            own = np.flatnonzero(self.levels == level)
            rows[self.contexts[own]] = own
            found.append(rows)
        return found

    @cached_property
    def parents(self) -> Array:
        """The row that each row's escape leads to, −1 for a plain byte."""
        parents = np.full(self.levels.size, -1, np.int32)
        for level in range(1, self.order + 1):
            own, shorter = self.levels == level, self._rows_of_levels[level - 1]
            parents[own] = shorter[self.contexts[own] % shorter.size]
        return parents

    @cached_property
    def _starts(self) -> Array:
        return np.cumsum(self.frequencies, axis=1, dtype=np.int32) - self.frequencies

    @cached_property
    def codes(self) -> Array:
        """First slot of each symbol, and from bit 16 its frequency: uint32 (rows, 257)."""
        return (self._starts | (self.frequencies << 16)).astype(np.uint32)

    @cached_property
    def decoding(self) -> tuple[Array, Array, np.uint64, Array]:
        """Where a decoder finds the symbol of a slot.

        Each row's symbols stand together in ``entries``, from ``firsts[row]``: first slot, and from
        bit 16 the frequency, and from bit 32 the symbol. ``buckets[row, slot >> shift]`` says how
        far behind the first the one stands that has the first slot of the bucket.
        """
        rows, symbols = np.nonzero(self.frequencies)
        counts = np.bincount(rows, minlength=self.levels.size)
        firsts = (np.cumsum(counts) - counts).astype(np.int64)
        starts, sizes = self._starts[rows, symbols], self.frequencies[rows, symbols]
        entries = (starts | (sizes << 16)).astype(np.uint64)
        entries |= symbols.astype(np.uint64) << np.uint64(32)
        shift = 0 if self.levels.size <= FEW_ROWS else PRECISION - 8
        edges = np.arange(0, 1 << PRECISION, 1 << shift)
        buckets = np.empty((self.levels.size, edges.size), np.uint16)
        for row, (first, count) in enumerate(zip(firsts, counts, strict=True)):
            own = starts[first : first + count]
            buckets[row] = np.searchsorted(own, edges, side="right") - 1
        return firsts, buckets, np.uint64(shift), entries

    # ---- prices ----------------------------------------------------------------------------------

    def _prices_of(self, weights: Array) -> Array:
        prices = np.empty((self.levels.size, 256))
        for row, parent in enumerate(self.parents):  # parents come first
            above = np.full(256, 8.0) if parent < 0 else prices[parent]
            row_loops.price_row(weights[row].astype(np.float64), above, prices[row])
        return prices

    @cached_property
    def _prices(self) -> Array:
        return self._prices_of(self.frequencies)

    @property
    def prices(self) -> Array:
        """What each byte costs in bits after each context: float64 of shape (256^order, 256)."""
        return self._prices[self.row_of]

    def price(self, data: Any) -> float:
        """Return what bytes cost in bits, by the frequencies alone; +∞ where they have no code."""
        counts = Counts(self.order)
        counts.add(data)
        return self.price_of(counts)

    def price_of(self, counts: Counts, *, rounded: bool = True) -> float:
        """Return what counted bytes cost in bits.

        Parameters
        ----------
        counts
            Of the order of the model.
        rounded
            False asks for the cost under what the frequencies were rounded from.

        Raises
        ------
        OptionError
            If the order is another, or the model was read and is not rounded from anything known.
        """
        if counts.order != self.order:
            raise OptionError(
                f"counts must be of order {self.order}, as the model is: got {counts.order}. "
                f"Hint: Counts({self.order})."
            )
        if rounded:
            prices = self._prices
        elif self.weights is not None:
            prices = self._prices_of(self.weights)
        else:
            raise OptionError(
                "rounded=False needs a model that was fitted here: got one that was read. "
                "Hint: files hold the frequencies, not what they were rounded from."
            )
        own = prices[self.row_of[counts.contexts]]
        return float(np.sum(counts.rows * np.where(counts.rows > 0, own, 0.0)))

    def piece_prices(self, data: Any, size: int) -> Array:
        """Return what each piece of `size` bytes costs in bits, one behind the other."""
        own = as_bytes(data)
        found = np.zeros(-(-own.size // size))
        stream_loops.piece_bits(own, self.mask, self.row_of, self._prices, size, found)
        return found

    # ---- as bytes --------------------------------------------------------------------------------

    @cached_property
    def _bytes(self) -> bytes:
        space = 64 + self.levels.size * (16 + 257 * 6)
        buffer, place = np.zeros(space, np.uint8), 0
        for level in range(self.order + 1):
            own = np.flatnonzero(self.levels == level)
            if level:
                place = row_loops.write_value(own.size, 17, buffer, place)
            last = -1
            for row in own:
                bits, context = int(self.bits[row]), int(self.contexts[row])
                frequencies = self.frequencies[row] >> (PRECISION - bits)
                place = row_loops.write_row(context - last, frequencies, bits, buffer, place)
                last = context
        return bytes([self.order]) + buffer[: -(-place // 8)].tobytes()

    def to_bytes(self) -> bytes:
        """Return the model as bytes, as docs/format.md lays them out."""
        return self._bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> ContextModel:
        """Return the model that `to_bytes` wrote.

        Raises
        ------
        ModelError
            If they are no model: too few, too many, or numbers that no model has.
        """
        wrong = "Hint: the file is damaged, or no model of xent's."
        data = as_bytes(data).tobytes()
        if not data or data[0] > MAX_ORDER:
            got = "nothing" if not data else f"order {data[0]}"
            raise ModelError(f"a model must begin with its order, 0 to 2: got {got}. {wrong}")
        order, buffer = data[0], np.frombuffer(data, np.uint8)[1:]
        found: list[tuple[Array, ...]] = []
        place = 0
        for level in range(order + 1):
            contexts, rows = 256**level, 1
            if level:
                rows = row_loops.read_value(buffer, place, 17)
                place += 17
            if not 0 <= rows <= min(contexts, buffer.size * 8 // LEAST_BITS):
                raise ModelError(
                    f"a model must have at most {contexts} contexts of {level} bytes, each told in "
                    f"its own bits: got {rows} in {buffer.size} bytes. {wrong}"
                )
            own = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
            frequencies = np.zeros((rows, ESCAPE + 1), np.int32)
            place = row_loops.read_rows(buffer, place, rows, contexts, *own, frequencies)
            if place < 0:
                raise ModelError(
                    f"the rows of a model's contexts of {level} bytes make no sense. {wrong}"
                )
            frequencies <<= (PRECISION - own[1])[:, None]
            found.append((np.full(rows, level), *own, frequencies))
        unused = buffer.size * 8 - place
        if unused not in range(8) or (unused and buffer[-1] & ((1 << unused) - 1)):
            raise ModelError(f"a model must end where its rows do: {unused} bits are left. {wrong}")
        levels, contexts_, bits, frequencies = (np.concatenate(a) for a in zip(*found, strict=True))
        return cls(order, levels, contexts_, bits, frequencies)

    @cached_property
    def fingerprint(self) -> bytes:
        """The SHA-256 of the model's bytes: what a file names that was written with it."""
        return hashlib.sha256(self._bytes).digest()

    def save(self, path: str | Path) -> None:
        """Write the model to a file, whole or not at all."""
        from xent.coding.checksum import crc32c

        body = self._bytes
        write_whole(Path(path), MAGIC + body + crc32c(body).to_bytes(4, "little"), "the model")

    @classmethod
    def load(cls, path: str | Path) -> ContextModel:
        """Read a model from a file.

        Raises
        ------
        ModelError
            If there is none, or it is damaged.
        """
        from xent.coding.checksum import crc32c

        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise ModelError(
                f"the model {str(path)!r} cannot be read: {error.strerror}. "
                "Hint: `xent code train FILES -o MODEL` makes one."
            ) from None
        if not data.startswith(MAGIC):
            raise ModelError(
                f"{str(path)!r} must begin as a model of xent's: got {data[:8]!r}. "
                "Hint: `xent code train FILES -o MODEL` makes one."
            )
        body, check = data[len(MAGIC) : -4], data[-4:]
        if crc32c(body).to_bytes(4, "little") != check:
            raise ModelError(
                f"{str(path)!r} is damaged: its checksum does not match. Hint: copy it again."
            )
        try:
            return cls.from_bytes(body)
        except ModelError as error:
            raise ModelError(f"{str(path)!r}: {error}") from None
