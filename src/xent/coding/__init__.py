"""Codes: cross-entropy as real bytes.

`HuffmanCode` and `BlockCode` give each symbol, or each block of them, a whole number of bits.
`compress` codes bytes near the bound, with a `ContextModel`, into a file that is specified byte by
byte; `account` says where its bytes go. `cross_entropy_matrix` and `classify` compare files by
their models. `prequential` is the length of labels under a classifier that learns as it goes.
"""

from __future__ import annotations

from xent.coding.accounting import Accounting, account
from xent.coding.bits import EncodedBits
from xent.coding.blocks import BlockCode
from xent.coding.comparison import Classified, Matrix, classify, cross_entropy_matrix
from xent.coding.container import compress, decompress
from xent.coding.context_model import ContextModel, Counts
from xent.coding.huffman import HuffmanCode
from xent.coding.prequential import PrequentialCode, prequential
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
