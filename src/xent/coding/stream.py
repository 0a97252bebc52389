"""Blocks of bytes as streams of words near the bound: rANS on a model's whole frequencies.

A block costs what the model says, −Σ log₂ q of its bytes, and at most 64 bytes more: the state that
each of the eight lanes ends in.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xent.coding import stream_loops
from xent.coding.context_model import ContextModel, as_bytes
from xent.coding.options import whole_number
from xent.coding.stream_loops import FULL, LANES, LOWEST, MOST_WORDS
from xent.errors import CodeError

__all__ = ["decode_block", "encode_block"]

_STATES = 8 * LANES


def encode_block(block: Any, model: ContextModel) -> bytes:
    """Encode bytes with a model.

    Parameters
    ----------
    block
        The bytes; an array of uint8 too.
    model
        How likely each is.

    Returns
    -------
    bytes
        The states of the eight lanes, 8 bytes each, then words of 4, all with the low byte first.

    Raises
    ------
    CodeError
        If a byte has no code: the model has neither it nor an escape to where it is known.

    Examples
    --------
    >>> from xent.coding import ContextModel, decode_block, encode_block
    >>> text = b"to be or not to be, that is the question" * 100
    >>> model = ContextModel.of(text, order=2)
    >>> code = encode_block(text, model)
    >>> print(len(text), len(code), round(model.price(text) / 8))
    4000 192 156
    >>> decode_block(code, len(text), model) == text
    True
    """
    data = as_bytes(block)
    arrays = model.row_of, model.codes, model.parents
    states = np.empty(LANES, np.uint64)
    # As much as the block itself nearly always does: fresh memory takes time, and stops others.
    for words_of_a_byte in (0.25, MOST_WORDS):
        size = int(data.size * words_of_a_byte) + 2 * LANES * MOST_WORDS
        words = np.empty(size, np.uint32)
        place = stream_loops.encode(data, model.mask, *arrays, words, states)
        if place != FULL:
            break
    if place < 0:
        at = -1 - place
        raise CodeError(
            f"every byte must have a code: got {int(data[at])} at {at}, which the model has not, "
            "and no escape; its price is infinite. Hint: fit the model with escape=True."
        )
    head, rest = states.astype("<u8", copy=False), words[place:].astype("<u4", copy=False)
    return b"".join((head.data, rest.data))  # one copy: other threads wait for it


def decode_block(code: Any, size: int, model: ContextModel) -> bytes:
    """Decode what `encode_block` wrote.

    Parameters
    ----------
    code
        What it returned.
    size
        How many bytes the block had.
    model
        The model that it was encoded with.

    Raises
    ------
    CodeError
        If the code is no code of so many bytes. What is damaged can still be one of other bytes:
        `xent.coding.decompress` compares checksums.

    Examples
    --------
    >>> from xent.coding import ContextModel, decode_block, encode_block
    >>> model = ContextModel.of(b"to be or not to be")
    >>> decode_block(encode_block(b"not to be", model), 9, model)
    b'not to be'

    See Also
    --------
    xent.coding.decompress : of a whole file, whose checksums are compared.
    """
    code = as_bytes(code)
    size = whole_number("size", size, 0, 2**40, "how many bytes the block had.")
    if code.size < _STATES or code.size % 4:
        raise CodeError(
            f"the code of a block must be {_STATES} bytes of states and then words of 4: got "
            f"{code.size} bytes. Hint: it is cut off, or none of xent's."
        )
    states = code[:_STATES].view("<u8").astype(np.uint64)
    words = code[_STATES:].view("<u4").astype(np.uint32, copy=False)
    data = np.empty(size, np.uint8)
    firsts, buckets, shift, entries = model.decoding
    read = -1
    if ((states >= LOWEST) & (states < 1 << 63)).all():
        read = stream_loops.decode(
            words, states, model.mask, model.row_of, model.parents, firsts, buckets, shift,
            entries, data,
        )  # fmt: skip
    if read != words.size or not (states == LOWEST).all():
        raise CodeError(
            f"the code of a block of {size} bytes must end where its last byte is read: it does "
            "not. Hint: it is damaged, or was written with another model."
        )
    return data.tobytes()
