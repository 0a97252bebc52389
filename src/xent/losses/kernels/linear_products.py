"""What the linear kernels share: products piece by piece, and what is asked of a row kernel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol, TypeAlias

import torch

from xent.losses.kernels import SoftmaxRows, pages

__all__ = [
    "PAD",
    "Head",
    "Plan",
    "RowKernel",
    "RowResults",
    "accumulation_dtype",
    "is_native",
    "memory",
]

Tensor: TypeAlias = torch.Tensor

PAD = 16
"""Columns beside a piece of logits: one that is masked, and the next row begins with a vector."""

NARROW, FEW = 3072, 512
"""Classes of a product that makes logits of few rows, whose workspace may be small: what a matrix
library copies aside grows with the classes, to 17 MiB, and its parts are nearly as fast."""


class RowResults(NamedTuple):
    """What a row kernel says of rows: nats in float64, not multiplied by the rows' weights."""

    losses: Tensor  # (rows,), or several numbers for each row
    logsumexp: Tensor  # (rows,)
    gradient: Tensor | None  # (rows, classes), in the memory of the logits where it can


class RowKernel(Protocol):
    """A kernel for rows of logits, as `xent.losses.autodiff.linear_pieces` hands one in."""

    def __call__(
        self,
        rows: SoftmaxRows,
        *,
        gradient: bool,
        cotangent: Tensor | None = None,
        scale: float = 1.0,
    ) -> RowResults:
        """Return losses and, if asked, scale·cotangent·row weight·∂loss/∂logits."""
        ...


class Plan(NamedTuple):
    """How the work is cut."""

    rows: int  # rows of a piece
    classes: int  # classes of a piece
    tile: int  # classes of the weight that are widened at a time
    padded: bool = False  # whether every piece has all its rows, the last ones empty


def accumulation_dtype(*arrays: Tensor | None) -> torch.dtype:
    """Return the dtype of logits and sums: float32, or float64 where an input has it."""
    wide = any(a is not None and a.dtype == torch.float64 for a in arrays)
    return torch.float64 if wide else torch.float32


def is_native(hidden: Tensor, weight: Tensor) -> bool:
    """Tell whether the device multiplies half types as they are and adds up in float32."""
    half = weight.dtype == hidden.dtype and weight.dtype.itemsize == 2
    return half and weight.device.type == "cuda"


def memory(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return memory that is not filled; on a CPU in large pages, those of the last call if free."""
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < pages.LARGE:
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.from_numpy(pages.empty(size)).view(dtype).view(shape)


class Head:
    """The weight and bias, and products with pieces of them, in the dtype of accumulation."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, tile: int) -> None:
        """Take a head; half types are widened, or their gradient rounded, `tile` classes a time."""
        self.weight, self.tile = weight.detach(), tile
        self.dtype = accumulation_dtype(hidden, weight, bias)
        self.bias = None if bias is None else bias.detach().to(self.dtype)
        self.native = is_native(hidden, weight)

    def rows(self, hidden: Tensor) -> Tensor:
        """Return rows as the products take them."""
        return hidden if self.native else hidden.to(self.dtype)

    def _tiles(
        self, start: int, stop: int, most: int | None = None
    ) -> Iterator[tuple[slice, slice, Tensor]]:
        """Return weights as products take them, and where they are in all and here."""
        step = stop - start if self.native else min(self.tile, most or self.tile)
        for low in range(start, stop, max(1, step)):
            part = slice(low, min(low + step, stop))
            weight = self.weight[part]
            yield (
                part,
                slice(part.start - start, part.stop - start),
                weight if self.native else weight.to(self.dtype),
            )

    def logits(self, hidden: Tensor, start: int, stop: int, out: Tensor) -> None:
        """Write ``hidden·weightᵀ + bias`` of some classes."""
        most = NARROW if hidden.shape[0] <= FEW else None
        for part, here, weight in self._tiles(start, stop, most):
            to = out[:, here]
            if self.native:
                torch.mm(hidden, weight.t(), out_dtype=self.dtype, out=to)
            else:
                torch.mm(hidden, weight.t(), out=to)
            if self.bias is not None:
                to += self.bias[part]

    def add_to_hidden(self, slopes: Tensor, start: int, stop: int, out: Tensor) -> None:
        """Add ``slopes·weight`` of some classes to the gradient of rows."""
        for _, here, weight in self._tiles(start, stop):
            own = slopes[:, here]
            if self.native:
                out += torch.mm(own.to(weight.dtype), weight, out_dtype=self.dtype)
            else:
                out.addmm_(own, weight)

    def add_to_weight(
        self, slopes: Tensor, hidden: Tensor, start: int, stop: int, out: Tensor, *, first: bool
    ) -> None:
        """Add ``slopesᵀ·hidden`` to the gradient of some classes, or write it as the first."""
        if out.dtype == self.dtype and not self.native:
            out[start:stop].addmm_(slopes.t(), hidden, beta=0.0 if first else 1.0)
            return
        for low in range(start, stop, self.tile):  # so that what is yet to be rounded stays small
            part = slice(low, min(low + self.tile, stop))
            own = slopes[:, part.start - start : part.stop - start].t()
            if self.native:
                product = torch.mm(own.to(hidden.dtype), hidden, out_dtype=self.dtype)
            else:
                product = torch.mm(own, hidden)
            if first:
                out[part] = product
            else:
                out[part] += product
