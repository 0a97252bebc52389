"""Rows on a GPU: each row is read once and its gradient written once, by Triton.

The host's half: what is refused, how rows become tiles, and the launch. The device's half, with
the arithmetic, is `xent.losses.kernels.triton_tiles`, which is imported at the first launch.

Nothing here waits for the device or looks at a value: grids come from shapes, memory from torch's
allocator, so a CUDA graph can record a call. A row that is not defined becomes NaN: a NaN or +∞
among its logits (under a softcap +∞ is the cap), every class masked, or a target outside
[0, classes).
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from xent.errors import OptionError
from xent.losses.kernels import SoftmaxRows
from xent.losses.kernels.triton_host import (
    FLOATS,
    INTEGERS,
    RowStatistics,
    numbers_of,
    on_device_of,
    refuses_device,
)

__all__ = [
    "LONGEST_BLOCK",
    "backward",
    "forward",
    "forward_with_gradient",
    "refuses",
]

LONGEST_BLOCK = 16384
"""Rows with at most so many classes are held in registers; longer ones are swept in blocks."""

_SWEPT_BLOCK = 4096
_TILE = 512  # entries of a program whose rows are short
_TILE_OF_PLACES = 1024  # the same where neighbours in memory are places


def refuses(rows: SoftmaxRows) -> str | None:
    """Say why these rows cannot run on a GPU through Triton, or return None.

    Parameters
    ----------
    rows
        The rows of one call.

    Returns
    -------
    str or None
        A clause for the table of `xent kernels`.

    Examples
    --------
    >>> import numpy as np
    >>> refuses(SoftmaxRows(np.zeros((2, 3, 1)), np.zeros((2, 1))))
    'it takes torch tensors, and the logits are of type numpy.ndarray'
    """
    logits, kind = rows.logits, type(rows.logits)
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    if tensor is None or not isinstance(logits, tensor):
        return (
            f"it takes torch tensors, and the logits are of type {kind.__module__}.{kind.__name__}"
        )
    return refuses_device("the logits are", logits) or _refuses_values(rows)


def _refuses_values(rows: SoftmaxRows) -> str | None:
    logits, targets = rows.logits, rows.targets
    if str(logits.dtype) == "torch.float64":
        return "it computes entries in float32, and the logits are float64"
    if str(logits.dtype) not in FLOATS:
        return f"it takes float32, bfloat16 and float16, and the logits are {logits.dtype}"
    if logits.shape[1] == 0:
        return "it needs a class, and the logits have none"
    if logits.shape[1] >= 2**30 or logits.shape[0] * logits.shape[2] >= 2**31 - 1:
        return "it takes up to 2^30 classes and 2^31 rows, and the logits have more"
    kinds = (*FLOATS, "torch.float64") if rows.soft else INTEGERS
    if str(targets.dtype) not in kinds:
        return f"it takes targets of the dtypes {', '.join(kinds)}, and they are {targets.dtype}"
    if rows.soft and rows.ignore_index is not None:
        return "it finds ignore_index among class indices, and the targets are masses"
    for name, array in (
        ("targets", targets),
        ("class_weight", rows.class_weight),
        ("row_weight", rows.row_weight),
    ):
        if array is not None and array.device != logits.device:
            return f"it needs one device, and {name} is on {array.device}, not on {logits.device}"
    return None


def forward(rows: SoftmaxRows, *, entropy: bool = False) -> RowStatistics:
    r"""Return the loss, log-sum-exp and, if asked, entropy of each row.

    Parameters
    ----------
    rows
        Rows that `refuses` does not refuse.
    entropy
        Whether the entropy is wanted.

    See Also
    --------
    forward_with_gradient : The same and the gradient, from the same read of the logits.
    """
    statistics = _empty_statistics(rows, entropy)
    _launch(rows, statistics, None, None, (None, None, None))
    return statistics


def forward_with_gradient(rows: SoftmaxRows, scale: Any) -> tuple[RowStatistics, Any]:
    """Return the statistics of each row, and the gradient of scale·Σ row_weight·loss.

    Parameters
    ----------
    rows
        Rows that `refuses` does not refuse.
    scale
        A tensor of no dimensions on the device: the reciprocal of what a mean divides by.

    Returns
    -------
    RowStatistics, Tensor
        The gradient has the logits' dtype, shape and layout.
    """
    statistics, gradient = _empty_statistics(rows, False), _empty_gradient(rows)
    _launch(rows, statistics, None, gradient, (scale, None, None))
    return statistics, gradient


def backward(
    rows: SoftmaxRows,
    saved: Any,
    cotangent: Any,
    gradient: Any = None,
    *,
    logsumexp: Any = None,
    entropy: Any = None,
) -> Any:
    """Return the gradient by the logits of Σ cotangent·row_weight·loss and of other statistics.

    Parameters
    ----------
    rows
        The rows that were given to `forward` or `forward_with_gradient`.
    saved
        What that returned under this name.
    cotangent
        The derivative of the caller's number by each weighted loss, (outer, inner) or of no
        dimensions; None for zeros.
    gradient
        A tensor to write to, of the logits' shape but not in their memory, or None for a new one.
    logsumexp, entropy
        The derivatives of the caller's number by these statistics, which no weight multiplies.

    Returns
    -------
    Tensor
        The gradient, in the logits' dtype, shape and layout; 0 for rows that are not looked at.

    Raises
    ------
    OptionError
        If `entropy` is given and none was computed.
    """
    if entropy is not None and saved.shape[0] < _planes(rows, True):
        raise OptionError(
            f"the derivative by the entropy needs {_planes(rows, True)} numbers of each row: got "
            f"{saved.shape[0]}. Hint: what forward(rows, entropy=True) saves has them."
        )
    gradient = _empty_gradient(rows) if gradient is None else gradient
    _launch(rows, None, saved, gradient, (cotangent, logsumexp, entropy))
    return gradient


def _planes(rows: SoftmaxRows, entropy: bool) -> int:
    """Return how many numbers of each row are saved."""
    return 2 + 2 * bool(rows.soft or rows.smoothing) + entropy


def _empty_statistics(rows: SoftmaxRows, entropy: bool) -> RowStatistics:
    torch = sys.modules["torch"]
    shape, on = (rows.logits.shape[0], rows.logits.shape[2]), {"device": rows.logits.device}
    loss, logsumexp = (torch.empty(shape, dtype=torch.float32, **on) for _ in range(2))
    third = torch.empty(shape, dtype=torch.float32, **on) if entropy else None
    saved = torch.empty((_planes(rows, entropy), *shape), dtype=torch.float64, **on)
    return RowStatistics(loss, logsumexp, third, saved)


def _empty_gradient(rows: SoftmaxRows) -> Any:
    return sys.modules["torch"].empty_like(rows.logits)


# ---- the launch ----------------------------------------------------------------------------------


class _Tiles(NamedTuple):
    """How rows become tiles: a program takes `rows` lanes side by side, of `block` classes."""

    swap: bool  # are lanes the inner places, or the outer ones?
    lanes: int
    others: int
    rows: int
    block: int

    def view(self, array: Any) -> Any:
        """Return the strides of a tensor (outer, inner) or (outer, classes, inner)."""
        if array is None:
            return None
        first, *classes, last = array.stride()
        lane, other = (last, first) if self.swap else (first, last)
        return self.of_strides(array, lane, other, classes[0] if classes else 0)

    def of_strides(self, array: Any, lane: int, other: int, classes: int) -> Any:
        """Return a view; a stride that no step is taken along is 0, which is aligned."""
        from xent.losses.kernels.triton_tiles import View

        return View(array, lane * (self.lanes > 1), other * (self.others > 1), classes)


def _tiles(outer: int, classes: int, inner: int) -> _Tiles:
    """Choose tiles. Lanes are neighbours in memory where there are any.

    The bits of a row depend on the width of a block, which depends on the classes alone.
    """
    swap = inner >= 16 or inner >= outer
    tile = _TILE_OF_PLACES if swap and inner > 1 else _TILE
    power = max(8, 1 << (classes - 1).bit_length())
    block = power if power <= LONGEST_BLOCK else min(_SWEPT_BLOCK, LONGEST_BLOCK)
    lanes, others = (inner, outer) if swap else (outer, inner)
    return _Tiles(swap, lanes, others, max(1, tile // block), block)


def _launch(
    rows: SoftmaxRows,
    statistics: RowStatistics | None,
    saved: Any,
    gradient: Any,
    cotangents: tuple[Any, Any, Any],
) -> None:
    from xent.losses.kernels import triton_tiles as device

    outer, classes, inner = rows.logits.shape
    if outer * inner == 0:
        return
    tiles = _tiles(outer, classes, inner)
    loss, logsumexp, entropy, saved = statistics or (None, None, None, saved)
    plane, first, last = saved.stride()
    lane, other = (last, first) if tiles.swap else (first, last)
    w = rows.class_weight
    lane_blocks = -(-tiles.lanes // tiles.rows)
    with on_device_of(rows.logits):
        device.rows[(lane_blocks * tiles.others,)](
            tiles.view(rows.logits),
            tiles.view(rows.targets),
            device.Weights(
                tiles.view(rows.row_weight),
                None if w is None else device.View(w, 0, 0, *w.stride()),
            ),
            device.Cotangents(
                *(None if c is None else tiles.view(c.expand(outer, inner)) for c in cotangents)
            ),
            device.Results(
                tiles.view(loss),
                tiles.view(logsumexp),
                tiles.view(entropy),
                tiles.of_strides(saved, lane, other, plane),
            ),
            tiles.view(gradient),
            device.Shape(
                tiles.lanes,
                lane_blocks,
                classes,
                None if tiles.block >= classes else -(-classes // tiles.block),
                rows.ignore_index,
            ),
            numbers_of(rows),
            ROWS=tiles.rows,
            BLOCK=tiles.block,
            num_warps=max(4, min(16, tiles.rows * tiles.block // 512)),
            enable_fp_fusion=False,
        )
