r"""Where the bytes of a code go: what was predicted, what whole numbers cost, and all the rest.

A file of n bytes from P, coded with a model whose whole frequencies stand for Q̂ and were rounded
from Q, takes

.. math:: n H(P, Q) + n (H(P, \hat Q) - H(P, Q)) + \text{padding} + \text{tables} + \text{headers}

bits. The first two are predictions; what is left of the blocks' codes is the states that they end
in. The parts add up to the size of the file, to the bit.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

from xent.coding.container import (
    BLOCK_HEADER,
    BLOCK_SIZE,
    Header,
    Source,
    check_model,
    compress_stream,
    decompress_stream,
    model_of,
    read_header,
    read_whole,
)
from xent.coding.context_model import ContextModel, Counts, as_bytes

__all__ = ["PARTS", "Accounting", "account", "account_stream"]

PARTS = {
    "payload": "n·H(P, Q): what the model predicts",
    "integer_rounding": "n·(H(P, Q̂) − H(P, Q)): frequencies are whole numbers; a shared model is "
    "its whole frequencies, so that Q is Q̂",
    "padding": "the states that blocks end in, beyond what they hold",
    "tables": "the model, or its fingerprint",
    "headers": "lengths and checksums, of the file and of its blocks",
}
_FRACTION = 1024.0
"""Predictions are told in such fractions of a bit, so that the parts can add up exactly."""


@dataclass(frozen=True)
class Accounting:
    """Where the bytes of a code go.

    Attributes
    ----------
    symbols
        Bytes of the original, n.
    total_bytes
        Bytes of its code as a file.
    order
        How many bytes before a byte the model looks at.
    rows
        How many contexts have a row of their own in the model.
    shared
        Whether the model is elsewhere.
    blocks
        How many blocks there are.
    entropy_bits
        n·H(P) in bits: what the original would cost under the relative frequencies that it has
        itself, given as many bytes before as the model looks at. These are not part of the price,
        so a code can need much more.
    cross_entropy_bits
        n·H(P, Q̂) in bits.
    parts
        Bits by name, as in ``PARTS``; they add up to 8·total_bytes exactly.
    """

    symbols: int
    total_bytes: int
    order: int
    rows: int
    shared: bool
    blocks: int
    entropy_bits: float
    cross_entropy_bits: float
    parts: dict[str, float]

    def _each(self, bits: float) -> float:
        return bits / self.symbols if self.symbols else 0.0

    @property
    def entropy_bits_per_symbol(self) -> float:
        """H(P), in bits a byte of the original; 0 for nothing."""
        return self._each(self.entropy_bits)

    @property
    def cross_entropy_bits_per_symbol(self) -> float:
        """H(P, Q̂), in bits a byte of the original; 0 for nothing."""
        return self._each(self.cross_entropy_bits)

    @property
    def kl_bits_per_symbol(self) -> float:
        """H(P, Q̂) − H(P): what the model's being another costs, in bits a byte."""
        return self._each(max(0.0, self.cross_entropy_bits - self.entropy_bits))

    @property
    def bits_per_symbol(self) -> float:
        """What is really paid, in bits a byte of the original; 0 for nothing."""
        return self._each(8.0 * self.total_bytes)

    def as_dict(self) -> dict[str, Any]:
        """Return the accounting as a JSON object."""
        return {
            "symbols": self.symbols,
            "total_bytes": self.total_bytes,
            "order": self.order,
            "rows": self.rows,
            "shared_model": self.shared,
            "blocks": self.blocks,
            "entropy_bits_per_symbol": self.entropy_bits_per_symbol,
            "cross_entropy_bits_per_symbol": self.cross_entropy_bits_per_symbol,
            "kl_bits_per_symbol": self.kl_bits_per_symbol,
            "bits_per_symbol": self.bits_per_symbol,
            "parts": dict(self.parts),
        }


def account(
    data: Any,
    *,
    model: ContextModel | None = None,
    order: int = 2,
    block_size: int = BLOCK_SIZE,
    coded: bool = False,
) -> Accounting:
    """Return where the bytes of `compress(data, …)` go.

    Parameters
    ----------
    data
        The bytes.
    model, order, block_size
        As for `xent.coding.compress`.
    coded
        Whether `data` is a code already, as `compress` returned it: it is decoded, and its own
        bytes are accounted for.

    Raises
    ------
    CodeError
        If a byte has no code: then its price is infinite. Or if a code is damaged.

    Examples
    --------
    >>> from xent.coding import account
    >>> told = account(b"abracadabra" * 1000, order=0)
    >>> print(told.total_bytes, told.cross_entropy_bits_per_symbol)
    2909 2.040...
    >>> sum(told.parts.values()) == 8 * told.total_bytes
    True

    See Also
    --------
    xent.cross_entropy : of two distributions, without any code.
    """
    source = io.BytesIO(as_bytes(data).tobytes())
    return account_stream(source, model=model, order=order, block_size=block_size, coded=coded)


class _Counting:
    """A sink that counts blocks, if it is given counts, and forgets them."""

    def __init__(self, counts: Counts | None) -> None:
        self.counts = counts

    def write(self, block: bytes, /) -> None:
        """Count a block."""
        if self.counts is not None:
            self.counts.add(block)


def account_stream(
    source: Source,
    *,
    model: ContextModel | None = None,
    order: int = 2,
    block_size: int = BLOCK_SIZE,
    coded: bool = False,
) -> Accounting:
    """Return where the bytes of a stream's code go; see `account`."""
    check_model(model)
    start = source.tell()
    if coded:
        header = read_header(source)
        used = model_of(header, model)
        code_bytes = source.seek(0, io.SEEK_END) - start - header.size
        code_bytes -= BLOCK_HEADER * header.blocks
        counts = Counts(used.order)
        source.seek(start)
        decompress_stream(source, _Counting(counts), model=model)
        again = None if header.shared else ContextModel.fit(counts, escape=False)
        if again is not None and again.to_bytes() == header.model:
            used = again  # which knows what its frequencies were rounded from
        return _accounted(header, code_bytes, used, counts)
    counts_of: Counts | None = None
    if model is not None:
        counts_of = Counts(model.order)
        while block := read_whole(source, block_size):
            counts_of.add(block)
        source.seek(start)
    written = compress_stream(
        source, _Counting(None), model=model, order=order, block_size=block_size
    )
    found = written.counts if counts_of is None else counts_of
    assert found is not None
    return _accounted(written.header, written.code_bytes, written.model, found)


def _accounted(header: Header, code_bytes: int, model: ContextModel, counts: Counts) -> Accounting:
    price = model.price_of(counts)
    known = not header.shared and model.weights is not None
    exact = model.price_of(counts, rounded=False) if known else price
    payload = math.floor(exact * _FRACTION) / _FRACTION
    rounding = math.floor((price - exact) * _FRACTION) / _FRACTION
    headers = header.size - len(header.model) + BLOCK_HEADER * header.blocks
    parts = {
        "payload": payload,
        "integer_rounding": rounding,
        "padding": 8 * code_bytes - payload - rounding,
        "tables": 8.0 * len(header.model),
        "headers": 8.0 * headers,
    }
    return Accounting(
        symbols=header.length,
        total_bytes=headers + len(header.model) + code_bytes,
        order=model.order,
        rows=int(model.levels.size),
        shared=header.shared,
        blocks=header.blocks,
        entropy_bits=counts.entropy_bits(),
        cross_entropy_bits=price,
        parts=parts,
    )
