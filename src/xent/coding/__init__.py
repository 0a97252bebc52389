"""Codes: cross-entropy as real bytes.

`HuffmanCode` and `BlockCode` give each symbol, or each block of them, a whole number of bits.
`compress` codes bytes near the bound, with a `ContextModel`, into a file that is specified byte by
byte; `account` says where its bytes go. `cross_entropy_matrix` and `classify` compare files by
their models. `prequential` is the length of labels under a classifier that learns as it goes.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Its module has its name, so that it cannot be looked for when it is asked for, as the others are.
from xent.coding.prequential import PrequentialCode, prequential

if TYPE_CHECKING:
    from xent.coding.accounting import Accounting, account
    from xent.coding.bits import EncodedBits
    from xent.coding.blocks import BlockCode
    from xent.coding.comparison import Classified, Matrix, classify, cross_entropy_matrix
    from xent.coding.container import compress, decompress
    from xent.coding.context_model import ContextModel, Counts
    from xent.coding.huffman import HuffmanCode
    from xent.coding.stream import decode_block, encode_block

__all__ = [
    "Accounting",
    "BlockCode",
    "Classified",
    "ContextModel",
    "Counts",
    "EncodedBits",
    "HuffmanCode",
    "Matrix",
    "PrequentialCode",
    "account",
    "classify",
    "compress",
    "cross_entropy_matrix",
    "decode_block",
    "decompress",
    "encode_block",
    "prequential",
]

_ROOMS = {
    "accounting": ("Accounting", "account"),
    "bits": ("EncodedBits",),
    "blocks": ("BlockCode",),
    "comparison": ("Classified", "Matrix", "classify", "cross_entropy_matrix"),
    "container": ("compress", "decompress"),
    "context_model": ("ContextModel", "Counts"),
    "huffman": ("HuffmanCode",),
    "stream": ("decode_block", "encode_block"),
}


def __getattr__(name: str) -> Any:
    # The loops that they need bring numba, which labels under a classifier do without.
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(importlib.import_module(f"xent.coding.{room}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
