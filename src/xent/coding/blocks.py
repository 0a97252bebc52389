r"""Codes on blocks of symbols: as close to the entropy as one likes.

Huffman's code spends less than one bit on top of the entropy *of what it codes*. For blocks of G
independent symbols that is G·H(P), so that a symbol costs

.. math:: H(P) \le \frac{\mathbb{E}[\ell]}{G} < H(P) + \frac{1}{G} \ \text{bits.}
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeAlias

import numpy as np

from xent.coding import huffman_loops
from xent.coding.alphabet import Alphabet, no_codeword
from xent.coding.bits import EncodedBits, check_bits, require_end, to_bytes, to_words
from xent.coding.huffman import HuffmanCode, checked_distribution
from xent.coding.options import whole_number
from xent.errors import CodeError, OptionError
from xent.information import entropy

__all__ = ["BlockCode"]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

MOST_BLOCKS = 1 << 20
"""Blocks that a code has a codeword for, each with its own."""
MOST_NUMBERS = 1 << 62
"""Blocks that are numbered only."""


class BlockCode:
    r"""Huffman's code on blocks of G symbols, or blocks numbered in a fixed number of bits.

    A block :math:`x_1 … x_G` has the probability :math:`p(x_1) ⋯ p(x_G)`. With
    ``fixed_length=True`` each block that is possible has the same number of bits, the least:
    :math:`\lceil \log_2 S^G \rceil` where S symbols have a positive probability. Of ten symbols one
    takes 4 bits, three take 10, and a block of any length less than :math:`\log_2 10 + 1/G` each.

    Parameters
    ----------
    p
        The distribution of a symbol, shape (symbols,).
    block
        G, how many symbols a block has. There may be 2²⁰ different blocks, or 2⁶² that are only
        numbered.
    symbols
        What the probabilities belong to, as for `HuffmanCode`.
    fixed_length
        Whether all blocks get the same number of bits.

    Attributes
    ----------
    block
        G.
    code
        The `HuffmanCode` of the blocks, numbered with the first symbol as the highest digit; None
        for a fixed length.
    entropy
        H(P) in bits.
    bits_per_symbol
        :math:`\mathbb{E}_P[\ell]/G`, what a symbol costs in bits.
    bounds
        What it lies between, the lower one included: (H, H + 1/G). For a fixed length the entropy
        is replaced by :math:`\log_2 S`, that of S symbols which are equally likely.

    Raises
    ------
    DistributionError
        If `p` is no distribution.
    ShapeError
        If it does not lie along one axis, or there are not as many symbols.
    OptionError
        If `block` is not a positive whole number, or there would be too many blocks.

    Notes
    -----
    A sequence that does not end with a block is filled up with the most likely symbol, the first of
    several; `EncodedBits.count` is of the symbols without them.

    References
    ----------
    Cover, T. M. and Thomas, J. A. (2006). Elements of Information Theory, 2nd ed., section 5.4.

    See Also
    --------
    xent.coding.HuffmanCode : a code on single symbols, G = 1.

    Examples
    --------
    >>> from xent.coding.blocks import BlockCode
    >>> for block in 1, 2, 4, 8:
    ...     code = BlockCode([0.9, 0.1], block)
    ...     print(block, round(code.bits_per_symbol, 4), round(code.bounds[1], 4))
    1 1.0 1.469
    2 0.645 0.969
    4 0.4926 0.719
    8 0.4758 0.594
    >>> print(round(code.entropy, 4))
    0.469
    >>> for block in 1, 3, 16:
    ...     print(block, BlockCode([0.1] * 10, block, fixed_length=True).bits_per_symbol)
    1 4.0
    3 3.3333333333333335
    16 3.375
    """

    def __init__(
        self, p: Any, block: int, *, symbols: Any = None, fixed_length: bool = False
    ) -> None:
        own = np.asarray(p)
        own = checked_distribution(own, (own.size,))
        own = own / math.fsum(own.tolist())
        self._alphabet = Alphabet(symbols, own.size)
        self._p = own
        self.symbols = self._alphabet.symbols
        hint = "it is how many symbols a codeword stands for."
        self.block = whole_number("block", block, 1, MOST_NUMBERS, hint)
        self.entropy = float(entropy(own, unit="bits"))
        self._possible = np.flatnonzero(own > 0)
        self._likeliest = int(np.argmax(own))
        self._base = self._possible.size if fixed_length else own.size
        most = MOST_NUMBERS if fixed_length else MOST_BLOCKS
        base = max(self._base, 2)  # one symbol too, as its blocks are filled up
        if self.block > most.bit_length() or base**self.block > most:
            raise OptionError(
                f"there may be at most 2^{most.bit_length() - 1} blocks: got {self._base} symbols "
                f"in blocks of {self.block}. Hint: a shorter block"
                + (", or fixed_length=True." if not fixed_length else ".")
            )
        self.code: HuffmanCode | None = None
        if fixed_length:
            self._width = (self._base**self.block - 1).bit_length()
            self.bits_per_symbol = self._width / self.block
            least = math.log2(self._base)
        else:
            product = own
            for _ in range(self.block - 1):
                product = np.multiply.outer(product, own).ravel()
            self.code = HuffmanCode(self._without_underflow(product))
            self.bits_per_symbol = self.code.expected_length(product) / self.block
            least = self.entropy
        self.bounds = (least, least + 1 / self.block)

    def __repr__(self) -> str:
        kind = "numbered" if self.code is None else "by Huffman"
        return f"BlockCode({self.block} symbols {kind}, {self.bits_per_symbol:.4f} bits each)"

    def _without_underflow(self, product: Array) -> Array:
        """Return weights of blocks: what is possible is positive, however unlikely."""
        possible = self._p > 0
        blocks = possible
        for _ in range(self.block - 1):
            blocks = np.logical_and.outer(blocks, possible).ravel()
        return np.where(blocks, np.maximum(product, np.finfo(np.float64).smallest_subnormal), 0.0)

    # ---- encoding and decoding -------------------------------------------------------------------

    def encode(self, data: Any) -> EncodedBits:
        """Write symbols as bits, block by block; the last one is filled up.

        Raises
        ------
        CodeError
            If a symbol is none of the alphabet's, or has a probability of 0.

        Examples
        --------
        >>> from xent.coding.blocks import BlockCode
        >>> code = BlockCode([0.1] * 10, 3, fixed_length=True)
        >>> encoded = code.encode([3, 1, 4, 1, 5])  # as 314 and 150, in 10 bits each
        >>> print(encoded.bits, code.decode(encoded))
        20 [3 1 4 1 5]
        """
        indices = self._alphabet.indices(data)
        if (impossible := self._p[indices] == 0).any():
            at = int(np.argmax(impossible))
            raise no_codeword(self._alphabet.at(int(indices[at])), at, "its probability is 0")
        blocks = np.full((-(-indices.size // self.block), self.block), self._likeliest, np.int64)
        blocks.ravel()[: indices.size] = indices
        if self.code is None:
            blocks = np.searchsorted(self._possible, blocks)
        numbers = np.zeros(len(blocks), np.int64)
        for digits in blocks.T:
            numbers = numbers * self._base + digits
        if self.code is not None:
            return dataclasses.replace(self.code.encode(numbers), count=indices.size)
        bits = numbers.size * self._width
        words = np.empty(bits // 32 + 1, np.uint32)
        huffman_loops.pack(numbers, self._width, words)
        return EncodedBits(to_bytes(words, bits), bits, indices.size)

    def decode(self, encoded: EncodedBits) -> Any:
        """Read the symbols that `encode` wrote.

        Returns
        -------
        array or list
            An array where the symbols are integers by default or were given as an array or a range,
            and a list of the symbols otherwise.

        Raises
        ------
        CodeError
            If it is no code of so many symbols. What is damaged can still be one of others.
        """
        data, bits, count = check_bits(encoded)
        size = -(-count // self.block)
        if self.code is not None:
            numbers = self.code.decode(EncodedBits(data, bits, size)).astype(np.int64)
        else:
            numbers = self._numbers(data, bits, size)
        blocks = np.empty((size, self.block), np.int64)
        for place in range(self.block - 1, -1, -1):
            numbers, blocks[:, place] = np.divmod(numbers, self._base)
        if self.code is None:
            blocks = self._possible[blocks]
        indices, filling = np.split(blocks.ravel(), [count])
        if (filling != self._likeliest).any():
            raise CodeError(
                "the last block of a code must be filled up with the most likely symbol, "
                f"{self._alphabet.at(self._likeliest)!r}: got others. Hint: it is damaged, or was "
                "written with another code or count."
            )
        return self._alphabet.sequence(indices.astype(self._alphabet.dtype))

    def _numbers(self, data: bytes, bits: int, size: int) -> Array:
        """Read `size` numbers of a fixed width."""
        if size * self._width > bits:
            require_end(huffman_loops.TOO_SHORT, bits, size)
        numbers = np.zeros(size, np.int64)
        if self._width:
            huffman_loops.unpack(to_words(data), self._width, numbers)
        place = size * self._width
        if (numbers >= self._base**self.block).any():
            place = huffman_loops.NO_SYMBOL
        require_end(place, bits, size)
        return numbers
