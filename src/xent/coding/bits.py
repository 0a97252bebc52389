"""Bits as bytes: what encoders of whole bits return, and how it is checked."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from xent.coding import huffman_loops
from xent.errors import CodeError, OptionError

__all__ = ["DAMAGED", "EncodedBits", "check_bits", "require_end", "to_bytes", "to_words"]

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

DAMAGED = "Hint: it is damaged, or was written with another code."


@dataclass(frozen=True)
class EncodedBits:
    """What an encoder wrote.

    Attributes
    ----------
    data
        The bits, from the highest of each byte; zeros fill the last byte.
    bits
        How many there are.
    count
        How many symbols they stand for.
    """

    data: bytes
    bits: int
    count: int


def to_bytes(words: Array, bits: int) -> bytes:
    """Return words of 32 bits as bytes, of which `bits` bits are meant."""
    return words.astype(">u4").tobytes()[: -(-bits // 8)]


def to_words(data: bytes) -> Array:
    """Return bytes as words of 64 bits, the first byte highest, with two words of zeros behind."""
    padded = np.zeros(-(-len(data) // 8) * 8 + 16, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    return padded.view(">u8").astype(np.uint64)


def check_bits(encoded: Any) -> tuple[bytes, int, int]:
    """Return data, bits and count, refused where they do not fit together.

    Raises
    ------
    CodeError
        If there are more or fewer bytes than the bits fill, or ones behind the last bit.
    """
    try:
        bits, count = operator.index(encoded.bits), operator.index(encoded.count)
        data = bytes(memoryview(encoded.data))
    except (AttributeError, TypeError):
        raise OptionError(
            "encoded must have data, bits and count as EncodedBits has: got "
            f"{type(encoded).__name__}. Hint: `encode` returns one."
        ) from None
    if bits < 0 or count < 0 or len(data) != -(-bits // 8):
        raise CodeError(
            f"the bits of a code must fill its bytes: got {bits} bits for {count} symbols in "
            f"{len(data)} bytes. Hint: it is cut off, or bits and count are of another."
        )
    if bits % 8 and data[-1] & ((1 << -bits % 8) - 1):
        raise CodeError(
            f"zeros must fill the last byte of a code: got {data[-1]:08b} behind bit {bits % 8}. "
            f"{DAMAGED}"
        )
    return data, bits, count


def require_end(place: int, bits: int, count: int) -> None:
    """Refuse what a decoder's loop could not read, or did not read to the end."""
    if place == bits:
        return
    if place == huffman_loops.NO_SYMBOL:
        what = "a number behind an escape that no symbol has"
    elif place < 0:
        what = "too few bits"
    else:
        what = f"{bits - place} bits more"
    raise CodeError(
        f"a code of {count} symbols must end with its last bit, {bits}: got {what}. {DAMAGED}"
    )
