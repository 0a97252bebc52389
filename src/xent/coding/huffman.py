r"""Huffman's code: the shortest with a whole number of bits for each symbol.

A codeword of ℓ bits is the right one for a probability of 2^−ℓ. So a code is a distribution, and
what it costs under another one is a cross-entropy:

.. math:: \mathbb{E}_P[\ell] = \sum_x p(x)\,\ell(x) = H(P, 2^{-\ell})\ \text{bits.}
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Hashable, Iterable, Mapping
from fractions import Fraction
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from xent.arrays import as_floats, epsilon, unit_sum_tolerance
from xent.coding import huffman_loops
from xent.coding.alphabet import Alphabet, locked, no_codeword
from xent.coding.bits import EncodedBits, check_bits, require_end, to_bytes, to_words
from xent.errors import DistributionError, OptionError, ShapeError
from xent.information import require_distribution

__all__ = ["HuffmanCode", "checked_distribution"]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

MOST_SYMBOLS = 1 << 27
LEAST_TABLE_BITS, MOST_TABLE_BITS = 11, 16
"""Bits that the decoder's table looks at, at once; four times the most must be in 64."""
RARE = 0.01
"""Share of symbols that the table may leave to the slower loop."""


# ---- the code ------------------------------------------------------------------------------------


class HuffmanCode:
    r"""The code with the least expected length among those that give each symbol its own bits.

    No codeword begins another. For the distribution P that it is made for, Shannon's bound holds,

    .. math:: H(P) \le \sum_x p(x)\,\ell(x) < H(P) + 1 \ \text{bits,}

    with equality on the left where every probability is a power of two. The codewords are
    canonical: the shorter first and, of one length, in the order of the symbols.

    Parameters
    ----------
    weights
        Probabilities or counts, shape (symbols,): finite, not negative, with a positive sum. They
        need not sum to 1. A symbol of weight 0 has no codeword, and its price is +∞.
    symbols
        What they belong to: different hashables, by default the integers 0, 1, ….
    max_length
        The longest that a codeword may be, in bits; the code is then the best such (package-merge).
    escape
        A weight, in the unit of `weights`, for symbols of weight 0: a codeword *escape* is made for
        it, and those symbols are written as that and their number among them, in as many bits as
        the largest number takes. Without symbols of weight 0 no escape is made. `max_length` limits
        the escape's codeword, without the number.

    Attributes
    ----------
    symbols
        The symbols in order: an array where they are integers by default or were given as an array
        or a range, else a tuple.
    lengths
        Bits of each symbol, shape (symbols,), int64; −1 where it has no codeword.

    Raises
    ------
    DistributionError
        If weights are negative or not finite, or do not have a positive sum.
    ShapeError
        If they do not lie along one axis, are none, or are not as many as the symbols.
    OptionError
        If symbols are not hashable or not different, if codewords of `max_length` bits are too few,
        or the escape's weight is not positive and finite.

    Notes
    -----
    A single symbol has the codeword of 0 bits: there is nothing to tell but how many there are,
    which `EncodedBits` holds. The expected length is then 0, the entropy.

    Weights of very different sizes have codewords of hundreds of bits, and more than 1074 make a
    probability of `implied` underflow to 0; the lengths stay right.

    References
    ----------
    Huffman, D. A. (1952). A method for the construction of minimum-redundancy codes.
    doi:10.1109/JRPROC.1952.273898

    Larmore, L. L. and Hirschberg, D. S. (1990). A fast algorithm for optimal length-limited Huffman
    codes. doi:10.1145/79147.79150

    See Also
    --------
    xent.coding.BlockCode : a code on blocks of symbols, which comes closer to the entropy.
    xent.coding.ContextModel : for bytes, within a fraction of a bit, and with contexts.

    Examples
    --------
    >>> from xent.coding.huffman import HuffmanCode
    >>> code = HuffmanCode([0.5, 0.25, 0.25], "abc")
    >>> code.codewords
    {'a': '0', 'b': '10', 'c': '11'}
    >>> print(code.expected_length([0.25, 0.25, 0.5]))  # = H(P, Q), as Q is all powers of two
    1.75
    >>> encoded = code.encode("abacab")
    >>> encoded
    EncodedBits(data=b'M\x00', bits=9, count=6)
    >>> code.decode(encoded)
    ['a', 'b', 'a', 'c', 'a', 'b']

    Huffman's code for Q under another P may cost less than H(P, Q), or more: it is H(P, 2^−ℓ).

    >>> import xent
    >>> p, q = [0.1, 0.2, 0.7], [0.7, 0.2, 0.1]
    >>> code = HuffmanCode(q)
    >>> print(code.expected_length(p), xent.cross_entropy(p, q, unit="bits"))
    1.9 2.841
    >>> print(code.expected_length(q), xent.entropy(q, unit="bits"))
    1.3 1.157
    """

    def __init__(
        self,
        weights: Any,
        symbols: Any = None,
        *,
        max_length: int | None = None,
        escape: float | None = None,
    ) -> None:
        own = _checked_weights(weights)
        self._build(own, Alphabet(symbols, own.size), max_length, escape)

    @classmethod
    def from_mapping(
        cls,
        weights: Mapping[Any, float],
        *,
        max_length: int | None = None,
        escape: float | None = None,
    ) -> HuffmanCode:
        """Make the code from a mapping of symbols to weights, such as a `collections.Counter`.

        Examples
        --------
        >>> from xent.coding.huffman import HuffmanCode
        >>> HuffmanCode.from_mapping({"yes": 8, "no": 3, "perhaps": 1}).codewords
        {'yes': '0', 'no': '10', 'perhaps': '11'}
        """
        return cls(list(weights.values()), list(weights), max_length=max_length, escape=escape)

    @classmethod
    def of(
        cls,
        data: Any,
        symbols: Any = None,
        *,
        max_length: int | None = None,
        escape: float | None = None,
    ) -> HuffmanCode:
        """Make the code for the counts of the symbols of `data`.

        Parameters
        ----------
        data
            Bytes, an array of integers, a text, or any sequence of hashables. What `decode` returns
            is of the same kind: bytes, an array of the same dtype, a text, or a list.
        symbols
            The alphabet; by default all 256 for bytes and arrays of uint8, and else the symbols
            that occur: in ascending order for an array, as they first came otherwise.
        max_length, escape
            As for `HuffmanCode`.

        Examples
        --------
        >>> from xent.coding.huffman import HuffmanCode
        >>> code = HuffmanCode.of(b"abracadabra")
        >>> encoded = code.encode(b"abracadabra")
        >>> print(encoded.bits, code.decode(encoded))
        23 b'abracadabra'
        """
        kind = None
        if isinstance(data, bytes | bytearray | memoryview):
            kind, data = "bytes" if symbols is None else None, np.frombuffer(data, np.uint8)
        elif isinstance(data, str):
            kind = "str" if symbols is None else None
        elif not isinstance(data, np.ndarray):
            data = list(data)
        is_integers = isinstance(data, np.ndarray) and data.dtype.kind in "iu"
        if symbols is None and is_integers:
            symbols = None if data.dtype == np.uint8 else np.unique(data)
        elif symbols is None:
            symbols = _distinct(data.tolist() if isinstance(data, np.ndarray) else data)
        alphabet = Alphabet(symbols, 256 if symbols is None else len(symbols), kind)
        counts = np.zeros(len(alphabet), np.int64)
        huffman_loops.count(locked(alphabet.indices(data)), counts)
        code = cls.__new__(cls)
        code._build(_checked_weights(counts), alphabet, max_length, escape)
        return code

    def _build(
        self, weights: Array, alphabet: Alphabet, max_length: int | None, escape: float | None
    ) -> None:
        self._alphabet = alphabet
        self.symbols = alphabet.symbols
        n = weights.size
        coded = np.flatnonzero(weights > 0)
        self._spare = np.flatnonzero(weights == 0)  # symbols that are written behind an escape
        self._escape = -1  # its index, where there is one
        if escape is None:
            self._spare = self._spare[:0]
        else:
            weights = np.append(weights, _checked_escape(escape))
            if self._spare.size:
                self._escape = n
                coded = np.append(coded, n)
        self._number_bits = max(self._spare.size - 1, 0).bit_length()
        lengths = _optimal_lengths(weights[coded], max_length)
        ascending = np.argsort(lengths, kind="stable")
        self._order, self._sorted_lengths = coded[ascending], lengths[ascending]
        own = np.full(n + 1, -1, np.int64)
        own[coded] = lengths
        self._escape_length = int(own[n])
        own[self._spare] = self._escape_length + self._number_bits
        self.lengths = locked(own[:n])

    def __repr__(self) -> str:
        coded = self.lengths[self.lengths >= 0]
        return f"HuffmanCode({coded.size} symbols of {coded.min()} to {coded.max()} bits)"

    # ---- what it is made for, and what it costs --------------------------------------------------

    @cached_property
    def codewords(self) -> dict[Any, str]:
        """The bits of each symbol that has any, as a text of zeros and ones."""
        lacks, n = self._complements, len(self.symbols)
        words = {}
        for index, length, lack in zip(
            self._order.tolist(), self._sorted_lengths.tolist(), lacks.tolist(), strict=True
        ):
            words[index] = format((1 << length) - 1 - lack, f"0{length}b") if length else ""
        if self._escape >= 0:
            begin, width = words.pop(n), self._number_bits
            for number, index in enumerate(self._spare.tolist()):
                words[index] = begin + (format(number, f"0{width}b") if width else "")
        return {self._alphabet.at(index): words[index] for index in sorted(words)}

    @cached_property
    def implied(self) -> Array:
        """The distribution that the code is right for, 2^−ℓ; 0 where there is no codeword.

        It sums to `kraft_sum`, which is 1 but for numbers behind an escape that no symbol has.
        """
        return np.where(self.lengths < 0, 0.0, np.ldexp(1.0, -np.maximum(self.lengths, 0)))

    @cached_property
    def kraft_sum(self) -> Fraction:
        """The exact sum of 2^−ℓ over the symbols that have a codeword: at most 1."""
        counts = np.bincount(self.lengths[self.lengths >= 0])
        longest = counts.size - 1
        total = sum(int(c) << (longest - length) for length, c in enumerate(counts))
        return Fraction(total, 1 << longest)

    def price(self, symbol: Hashable) -> float:
        """Return what a symbol costs in bits: the length of its codeword, +∞ where it has none."""
        index = self._alphabet.index.get(symbol)
        length = -1 if index is None else int(self.lengths[index])
        return float(length) if length >= 0 else math.inf

    def expected_length(self, p: Any) -> float:
        r"""Return :math:`\sum_x p(x)\,\ell(x) = H(P, 2^{-\ell})`, the mean cost of P's symbols.

        Parameters
        ----------
        p
            A distribution over the symbols, in their order, shape (symbols,).

        Returns
        -------
        float
            In bits. +∞ where P has mass on a symbol without a codeword.

        Raises
        ------
        DistributionError
            If a value is negative or not finite, or the sum is not 1 within rounding.
        ShapeError
            If there are not as many as symbols.

        See Also
        --------
        xent.cross_entropy : H(P, Q), for whole numbers of bits or not.
        """
        checked = checked_distribution(p, self.lengths.shape)
        possible = checked > 0
        if (self.lengths[possible] < 0).any():
            return math.inf
        return math.fsum((checked[possible] * self.lengths[possible]).tolist())

    # ---- encoding --------------------------------------------------------------------------------

    @cached_property
    def _counts(self) -> Array:
        return np.bincount(self._sorted_lengths)

    @cached_property
    def _above(self) -> Array:
        """How many complements of each length begin a longer codeword."""
        above = np.zeros(self._counts.size, np.int64)
        nodes = 1
        for length, ended in enumerate(self._counts.tolist()):
            above[length] = nodes - ended
            nodes = 2 * (nodes - ended)
        return above

    @cached_property
    def _last(self) -> Array:
        """The place of the last codeword of each length, among all."""
        return np.cumsum(self._counts) - 1

    @cached_property
    def _complements(self) -> Array:
        """What each codeword lacks to ones, in ascending order of the codewords."""
        lengths = self._sorted_lengths
        return self._above[lengths] + self._last[lengths] - np.arange(lengths.size)

    @cached_property
    def _encoding(self) -> tuple[Array, Array]:
        """The encoder's entry of each index and of the escape, and numbers behind the escape."""
        size = len(self.symbols) + 1
        entries, numbers = np.zeros(size, np.uint64), np.zeros(size, np.int64)
        ones = (1 << np.minimum(self._sorted_lengths, 32)) - 1
        entries[self._order] = (self._sorted_lengths << 32) | (ones - self._complements)
        numbers[self._spare] = np.arange(self._spare.size)
        return entries, numbers

    def encode(self, data: Any) -> EncodedBits:
        """Write symbols as bits.

        Parameters
        ----------
        data
            A sequence of symbols: for symbols that are integers bytes or an array too.

        Raises
        ------
        CodeError
            If one has no codeword.

        Examples
        --------
        >>> from xent.coding.huffman import HuffmanCode
        >>> HuffmanCode([3, 1, 0]).encode([0, 1, 2])
        Traceback (most recent call last):
        xent.errors.CodeError: every symbol must have a codeword: got 2 at 2, which has none; its
        weight is 0, and its price is infinite. Hint: give it a weight, or the code an escape.
        """
        indices = locked(self._alphabet.indices(data))
        entries, numbers = self._encoding
        bits = int(huffman_loops.measure(indices, self.lengths))
        if bits < 0:
            at = -1 - bits
            raise no_codeword(self._alphabet.at(int(indices[at])), at, "its weight is 0")
        words = np.empty(bits // 32 + 1, np.uint32)
        huffman_loops.encode(
            indices, entries, self._above.size - 1, entries[-1], numbers, self._number_bits, words,
        )  # fmt: skip
        return EncodedBits(to_bytes(words, bits), bits, indices.size)

    # ---- decoding --------------------------------------------------------------------------------

    @cached_property
    def _table(self) -> Array:
        """The decoder's table; it looks at as many bits as leave few symbols to the slower loop."""
        lengths = self._sorted_lengths
        longer = np.ldexp(1.0, -lengths[::-1]).cumsum()[::-1]  # the share from each codeword on
        first = int(np.argmax(np.append(longer, 0.0) <= RARE))
        bits = min(max(int(lengths[first - 1]), LEAST_TABLE_BITS), MOST_TABLE_BITS)
        table = np.empty(1 << bits, np.uint32)
        huffman_loops.fill_table(self._order, lengths, self._escape, bits, table)
        return table

    def decode(self, encoded: EncodedBits) -> Any:
        """Read the symbols that `encode` wrote.

        Parameters
        ----------
        encoded
            What it returned.

        Returns
        -------
        array, list, bytes or str
            For a code made by `of`, what that was given. Else an array where the symbols are
            integers by default (uint8, uint16 or int64, the first that holds them) or were given
            as an array or a range (of its dtype), and a list of the symbols otherwise.

        Raises
        ------
        CodeError
            If it is no code of so many symbols: bits are too few, too many, behind the last, or of
            no symbol. What is damaged can still be one of other symbols; keep a checksum.
        """
        data, bits, count = check_bits(encoded)
        shortest = int(self._sorted_lengths[0])
        if count * shortest > bits:  # nothing of that size is allocated
            require_end(huffman_loops.TOO_SHORT, bits, count)
        indices = np.zeros(count, self._alphabet.dtype)
        place = 0
        if self._order.size == 1:
            indices[:] = self._order[0]
        elif count:
            table = self._table
            canonical = (
                shortest, self._order, self._above, self._last, self._escape, self._spare,
                self._number_bits,
            )  # fmt: skip
            place = huffman_loops.decode(
                to_words(data), bits, table, table.size.bit_length() - 1, canonical, indices
            )
        require_end(int(place), bits, count)
        return self._alphabet.sequence(indices)


def _distinct(data: Iterable[Any]) -> list[Any]:
    try:
        return list(dict.fromkeys(data))
    except TypeError as error:
        raise OptionError(
            f"symbols must be hashable: got one that is not ({error}). Hint: tuples instead of "
            "lists, and bytes or tuples instead of arrays."
        ) from None


def checked_distribution(p: Any, shape: tuple[int, ...]) -> Array:
    """Return a distribution over symbols, refused as `xent.cross_entropy` refuses one."""
    given = np.asarray(p)
    if given.shape != shape:
        raise ShapeError(
            f"p must have one probability for each symbol, shape {shape}: got shape {given.shape}. "
            "Hint: give symbols that never come a probability of 0."
        )
    checked: Any = require_distribution(
        np,
        as_floats(np, given, np.float64, "p"),
        name="p",
        tolerance=unit_sum_tolerance(epsilon(np, given), given.size),
        raising=True,
        hint="divide by the sum.",
    )
    return np.asarray(checked)


def _checked_weights(weights: Any) -> Array:
    own: Array | None = None
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        given = np.asarray(weights)
        own = given.astype(np.float64) if given.dtype.kind in "biufO" else None
    if own is None:
        raise OptionError(
            f"weights must be real numbers: got {type(weights).__name__}. Hint: from_mapping takes "
            "a mapping, of takes the symbols themselves."
        )
    if own.ndim != 1 or not 0 < own.size <= MOST_SYMBOLS:
        raise ShapeError(
            f"weights must be 1 to {MOST_SYMBOLS} along one axis: got shape {own.shape}. "
            "Hint: one weight for each symbol."
        )
    if (bad := ~(np.isfinite(own) & (own >= 0))).any():
        at = int(np.argmax(bad))
        raise DistributionError(
            f"weights must be finite and not negative: got {float(own[at])!r} for symbol {at}. "
            "Hint: probabilities and counts have no sign; look upstream."
        )
    if not own.any():
        raise DistributionError(
            "weights must have a positive sum: got zeros only. Hint: a code is made for symbols "
            "that come; drop empty groups first."
        )
    return own


def _checked_escape(escape: Any) -> float:
    try:
        weight = float(escape)
    except (TypeError, ValueError, OverflowError):
        weight = math.nan
    if not 0 < weight < math.inf:
        raise OptionError(
            f"escape must be a weight, positive and finite: got {escape!r}. Hint: 1 beside counts; "
            "None makes no escape."
        )
    return weight


def _optimal_lengths(weights: Array, limit: int | None) -> Array:
    """Return the lengths of an optimal code, with codewords of at most `limit` bits."""
    n = weights.size
    if limit is not None:
        least = (n - 1).bit_length()
        if isinstance(limit, bool) or not hasattr(limit, "__index__") or limit < least:
            raise OptionError(
                f"max_length must be a whole number, at least {least} for {n} codewords: got "
                f"{limit!r}. Hint: there are 2^max_length codewords at most."
            )
    if n == 1:
        return np.zeros(1, np.int64)
    ascending = n - 1 - np.argsort(weights[::-1], kind="stable")  # of equals the first last
    lengths = np.empty(n, np.int64)
    own = weights[ascending]
    huffman_loops.tree_lengths(own, lengths)
    if limit is not None and lengths[0] > limit:
        huffman_loops.limited_lengths(own, int(limit), lengths)
    back = np.empty(n, np.int64)
    back[ascending] = lengths
    return back
