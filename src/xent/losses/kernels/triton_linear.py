r"""Rows whose logits are hidden·weightᵀ on a GPU, by Triton: no logits in memory.

The host's half: what is refused, which tiles, the launches. The device's half, with the arithmetic,
is `xent.losses.kernels.triton_linear_tiles`, which is imported at the first launch.

**Forward.** A program makes a tile of logits after the other, in registers, and keeps what they add
up to: one product, hidden·weightᵀ. The classes are cut into at most `SPANS` spans, by their number
alone, so that few rows also occupy a GPU; a second launch adds the spans of each row up, in order.

**Backward.** With g the derivative by the logits, ∂hidden = g·weight and ∂weight = gᵀ·hidden: both
need all of g, which has as many entries as the logits. So it is made for some classes at a time:
from logits that are computed once more, into a workspace of `WORKSPACE` bytes (never less than one
block of classes, never more than all) that the next classes are written over. That is three
products: one repeated, and the two that no way can save. A kernel that holds no part of g has to
repeat the first for each of the two gradients, and for every part of the features that its
registers do not hold.

**Memory** beside the gradients: the workspace, `SPANS` times 24 to 56 bytes and 40 bytes for each
row, and where hidden is half precision and there are several groups of classes, ∂hidden in float32.
For 8192 rows, 4096 features and 128256 classes in bfloat16 that is 64 + 128 MiB.

**Digits.** Products are accumulated in float32; what follows the logits is as right as in
`xent.losses.kernels.triton_rows`. g is rounded to hidden's dtype before it is multiplied, to 2⁻⁹
(bfloat16) or 2⁻¹² (float16) of each entry, and float16 counts in units of 2⁻¹⁵ of the largest
weight of a row, lest g is lost below 2⁻²⁴.

**Bits.** There are no atomics: every sum has an order that follows from the shapes alone. A row's
statistics depend neither on the number of rows nor on what stands beside it, as far as a product of
two tiles does not. `WORKSPACE` is not seen in a gradient: sums over classes go on where the group
before ended.

Nothing here waits for the device or looks at a value. A row that is not defined becomes NaN: a NaN
or +∞ among its logits (under a softcap +∞ is the cap), every class masked, or a target outside
[0, classes). So does all of ∂weight then, and that row of ∂hidden.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

from xent.errors import OptionError
from xent.losses.kernels import LinearRows
from xent.losses.kernels.triton_host import (
    FLOATS,
    INTEGERS,
    RowStatistics,
    numbers_of,
    on_device_of,
    pair_of,
    refuses_device,
)

__all__ = [
    "SPANS",
    "WORKSPACE",
    "backward",
    "forward",
    "refuses",
]

SPANS = 32
"""The classes of a row are gone over by at most so many programs."""

WORKSPACE = 64 * 2**20
"""How many bytes of derivatives by logits exist at a time; at least one block of classes does."""

_SAVED = 5  # numbers of each row
_COMBINED = 128  # rows of a program that adds spans up


def refuses(rows: LinearRows) -> str | None:
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
    >>> refuses(LinearRows(np.zeros((2, 4)), np.zeros((3, 4)), None, np.zeros(2)))
    'it takes torch tensors, and hidden is of type numpy.ndarray'
    """
    hidden, kind = rows.hidden, type(rows.hidden)
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    if tensor is None or not isinstance(hidden, tensor):
        return f"it takes torch tensors, and hidden is of type {kind.__module__}.{kind.__name__}"
    return refuses_device("hidden is", hidden) or _refuses_values(rows)


def _refuses_values(rows: LinearRows) -> str | None:
    hidden, weight, targets = rows.hidden, rows.weight, rows.targets
    if str(hidden.dtype) == "torch.float64":
        return "it computes products in float32, and hidden is float64"
    if str(hidden.dtype) not in FLOATS:
        return f"it takes float32, bfloat16 and float16, and hidden is {hidden.dtype}"
    if weight.dtype != hidden.dtype:
        kinds = f"{hidden.dtype} and {weight.dtype}"
        return f"it takes hidden and weight of one dtype, and they are {kinds}"
    if rows.bias is not None and str(rows.bias.dtype) not in FLOATS:
        return f"it takes a bias in float32, bfloat16 and float16, and it is {rows.bias.dtype}"
    if weight.shape[0] == 0 or hidden.shape[1] == 0:
        return f"it needs a class and a feature, and weight has the shape {tuple(weight.shape)}"
    if weight.shape[0] >= 2**30 or hidden.shape[0] >= 2**30:
        return "it takes up to 2^30 classes and rows, and there are more"
    if rows.soft:
        return "it takes class indices, and the targets are masses"
    if str(targets.dtype) not in INTEGERS:
        kinds = ", ".join(INTEGERS)
        return f"it takes targets of the dtypes {kinds}, and they are {targets.dtype}"
    for name, array in zip(rows.ARRAYS, rows.arrays(), strict=True):
        if array is not None and array.device != hidden.device:
            return f"it needs one device, and {name} is on {array.device}, not on {hidden.device}"
    return None


def forward(rows: LinearRows, *, entropy: bool = False) -> RowStatistics:
    r"""Return the loss, log-sum-exp and, if asked, entropy of each row.

    Parameters
    ----------
    rows
        Rows that `refuses` does not refuse.
    entropy
        Whether the entropy is wanted.
    """
    from xent.losses.kernels import triton_linear_tiles as device

    torch = sys.modules["torch"]
    n, on = rows.hidden.shape[0], {"device": rows.hidden.device}
    loss, logsumexp = (torch.empty(n, dtype=torch.float32, **on) for _ in range(2))
    third = torch.empty(n, dtype=torch.float32, **on) if entropy else None
    saved = torch.empty((_SAVED, n), dtype=torch.float64, **on)
    statistics = RowStatistics(loss, logsumexp, third, saved)
    if n == 0:
        return statistics
    tiles, shape = _plan(rows)
    blocks = -(-shape.class_blocks // SPANS)
    spans = -(-shape.class_blocks // blocks)
    planes = spans * (3 + 3 * bool(rows.smoothing) + entropy)
    parts = torch.empty((planes, n), dtype=torch.float64, **on)
    inputs, numbers = _inputs(rows), numbers_of(rows)
    with on_device_of(rows.hidden):
        device.statistics[(shape.row_blocks * spans,)](
            inputs,
            _matrix(parts),
            shape,
            spans,
            blocks,
            numbers,
            TURNING=entropy,
            **tiles.of_logits(),
        )
        device.combine[(-(-n // _COMBINED),)](
            inputs,
            _matrix(parts),
            device.Results(_vector(loss), _vector(logsumexp), _vector(third), _matrix(saved)),
            shape,
            spans,
            numbers,
            ROWS=_COMBINED,
            enable_fp_fusion=False,
        )
    return statistics


def backward(
    rows: LinearRows,
    saved: Any,
    cotangent: Any,
    *,
    hidden: bool = True,
    weight: bool = True,
    bias: bool = True,
    filter_below: float | None = None,
) -> tuple[Any, Any, Any]:
    r"""Return the gradients of Σ cotangent·row_weight·loss by hidden, weight and bias.

    Parameters
    ----------
    rows
        The rows that were given to `forward`.
    saved
        What that returned under this name.
    cotangent
        The derivative of the caller's number by each weighted loss, (rows,) or of no dimensions.
    hidden, weight, bias
        Which gradients are wanted.
    filter_below
        Leave products with a tile of rows × classes out where they do not matter: where for each
        of the tile's rows the derivatives by its logits sum, in absolute value, to at most
        ``filter_below·|cotangent·row_weight|`` over the number of tiles that the classes make.
        None, the default, leaves nothing out.

    Returns
    -------
    tuple of Tensor or None
        ∂hidden, ∂weight and ∂bias, in the dtypes of what they are derivatives by; None for what
        is not wanted, or a bias that is not there. Rows that are not looked at have zeros in
        ∂hidden and no part in the others.

    Raises
    ------
    OptionError
        If `filter_below` is negative or NaN.

    Notes
    -----
    What is left out of a row's derivatives by its logits sums to at most f·c in absolute value,
    with f = `filter_below` and c = \|cotangent·row_weight\|. So, before the last rounding,

    .. math::
        |Δ∂hidden_{r,d}| ≤ f·c_r·\max_v |weight_{v,d}|, \qquad
        |Δ∂weight_{v,d}| ≤ f·\sum_r c_r·|hidden_{r,d}|

    The target, smoothing, class weights, the z-loss and the temperature are in those derivatives,
    so they have their say. Nothing is left out of ∂bias.
    """
    if filter_below is not None and not filter_below >= 0.0:
        raise OptionError(
            f"filter_below must be at least 0, or None: got {filter_below!r}. "
            "Hint: it is a share of a row's gradient, such as 1e-4."
        )
    torch = sys.modules["torch"]
    d_hidden = torch.empty_like(rows.hidden) if hidden else None
    d_weight = torch.empty_like(rows.weight) if weight else None
    d_bias = torch.empty_like(rows.bias) if bias and rows.bias is not None else None
    made = d_hidden, d_weight, d_bias
    if rows.hidden.shape[0] == 0:
        for gradient in made[1:]:
            if gradient is not None:
                gradient.zero_()
    elif any(gradient is not None for gradient in made):
        with on_device_of(rows.hidden):
            _fill(rows, saved, cotangent.expand(rows.hidden.shape[:1]), made, filter_below)
    return made


def _fill(
    rows: LinearRows,
    saved: Any,
    cotangent: Any,
    made: tuple[Any, Any, Any],
    filter_below: float | None,
) -> None:
    """Fill the gradients, group by group of classes."""
    from xent.losses.kernels import triton_linear_tiles as device

    torch, on = sys.modules["torch"], {"device": rows.hidden.device}
    d_hidden, d_weight, d_bias = made
    tiles, shape = _plan(rows)
    n, features, dtype = shape.row_blocks * tiles.rows, shape.features, rows.hidden.dtype
    products = d_hidden is not None or d_weight is not None
    groups, each = _groups(shape.class_blocks, n * tiles.classes * dtype.itemsize)
    width = each * tiles.classes
    gradient = torch.empty((n, width), dtype=dtype, **on) if products else None
    sums = None
    if d_bias is not None:
        sums = torch.empty((shape.row_blocks, width), dtype=torch.float32, **on)
    counts, limit = None, None
    if filter_below is not None and products:
        counts = torch.empty((shape.row_blocks, each), dtype=torch.int32, **on)
        limit = pair_of(filter_below / shape.class_blocks)
    total = d_hidden
    if d_hidden is not None and groups > 1 and dtype != torch.float32:
        total = torch.empty((shape.rows, features), dtype=torch.float32, **on)
    unit = _unit(rows, saved, cotangent) if dtype == torch.float16 else None
    inputs, numbers = _inputs(rows), numbers_of(rows)

    for group in range(groups):
        first = group * each
        blocks = min(each, shape.class_blocks - first)
        part = slice(first * tiles.classes, min((first + blocks) * tiles.classes, shape.classes))
        device.slopes[(shape.row_blocks * blocks,)](
            inputs,
            _matrix(saved),
            _vector(cotangent),
            unit,
            limit,
            _matrix(gradient),
            _matrix(sums),
            _matrix(counts),
            shape,
            first,
            blocks,
            numbers,
            **tiles.of_logits(),
        )
        if d_hidden is not None:
            _launch_product(
                device,
                tiles,
                (_matrix(gradient), _matrix(rows.weight[part])),
                _matrix(total) if group else None,
                _matrix(total if group + 1 < groups else d_hidden),
                (unit, _kept(counts, blocks, 1)),
                (inputs, shape),
                (shape.rows, part.stop - part.start, features),
                rows_run_down=True,
            )
        if d_weight is not None:
            _launch_product(
                device,
                tiles,
                (_matrix(gradient, turned=True), _matrix(rows.hidden)),
                None,
                _matrix(d_weight[part]),
                (unit, _kept(counts, blocks, 0)),
                (inputs, shape),
                (part.stop - part.start, shape.rows, features),
                rows_run_down=False,
            )
        if d_bias is not None and sums is not None:
            d_bias[part] = sums[:, : part.stop - part.start].sum(0, dtype=torch.float64)


def _launch_product(
    device: Any,
    tiles: _Tiles,
    factors: tuple[Any, Any],
    before: Any,
    out: Any,
    marks: tuple[Any, Any],  # the unit, and which tiles count
    call: tuple[Any, Any],
    sizes: tuple[int, int, int],
    *,
    rows_run_down: bool,
) -> None:
    high, deep, wide = sizes
    down, along = (tiles.rows, tiles.classes) if rows_run_down else (tiles.classes, tiles.rows)
    device.product[(-(-high // down) * -(-wide // tiles.wide),)](
        *factors,
        before,
        out,
        *marks,
        *call,
        high,
        deep,
        wide,
        ROWS_RUN_DOWN=rows_run_down,
        HIGH=down,
        DEEP=min(tiles.deep, along),
        WIDE=tiles.wide,
        OF_A_BLOCK=along,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        enable_fp_fusion=False,
    )


# ---- what a launch needs -------------------------------------------------------------------------


class _Tiles(NamedTuple):
    """The sizes of tiles, powers of two from 16."""

    rows: int
    classes: int
    features: int  # that a program reads at a time
    deep: int  # the terms of a product at a time
    wide: int  # the features of a product's tile
    warps: int
    stages: int

    def of_logits(self) -> dict[str, Any]:
        """Return how a kernel that makes logits is launched.

        Without contractions of a·b + c: they would spoil the remainders that `triton_arithmetic`
        computes.
        """
        return {
            "ROWS": self.rows,
            "CLASSES": self.classes,
            "FEATURES": self.features,
            "num_warps": self.warps,
            "num_stages": self.stages,
            "enable_fp_fusion": False,
        }


_TILES = {2: _Tiles(128, 128, 64, 64, 128, 8, 3), 4: _Tiles(64, 64, 32, 32, 64, 4, 3)}
"""By the bytes of an entry. Nothing is tried out when it runs: bits follow from shapes."""


def _tiles(itemsize: int, features: int) -> _Tiles:
    tiles = _TILES[itemsize]
    power = max(16, 1 << (features - 1).bit_length())
    return tiles._replace(features=min(tiles.features, power), wide=min(tiles.wide, power))


def _plan(rows: LinearRows) -> tuple[_Tiles, Any]:
    """Return the sizes of the tiles, and the shape for the device."""
    from xent.losses.kernels.triton_linear_tiles import Shape

    n, features = rows.hidden.shape
    classes = rows.weight.shape[0]
    tiles = _tiles(rows.hidden.dtype.itemsize, features)
    counts = -(-n // tiles.rows), -(-classes // tiles.classes)
    return tiles, Shape(n, classes, features, *counts, rows.ignore_index)


def _groups(class_blocks: int, bytes_of_block: int) -> tuple[int, int]:
    """Return how many groups of classes there are, and how many blocks each has but the last."""
    most = max(1, WORKSPACE // bytes_of_block)
    each = -(-class_blocks // -(-class_blocks // most))
    return -(-class_blocks // each), each


def _unit(rows: LinearRows, saved: Any, cotangent: Any) -> Any:
    """Return a power of two that brings derivatives by logits into float16's range, on the device.

    An entry is at most c·W·(1 + 2·z_loss·|logsumexp|)/T, and 2^15 in these units.
    """
    torch = sys.modules["torch"]
    top, others, mass = saved[:3]
    size = cotangent.double().abs() * mass.abs()
    if rows.row_weight is not None:
        size = size * rows.row_weight.double().abs()
    if rows.z_loss:
        if rows.softcap is not None:
            top = rows.softcap * torch.tanh(top / rows.softcap)
        lse = top.abs() / rows.temperature + others.log1p()
        size = size * (1.0 + 2.0 * abs(rows.z_loss) * lse)
    # Rows without a gradient, and those that are NaN, have no say.
    size = torch.where(size.isfinite(), size / rows.temperature, 0.0).amax()
    exponent = size.clamp(2.0**-100, 2.0**100).frexp().exponent
    return torch.ldexp(torch.ones_like(size), exponent - 15)


def _kept(counts: Any, blocks: int, along: int) -> Any:
    """Return which tiles count along an axis: their order is kept, so that sums keep theirs."""
    from xent.losses.kernels.triton_linear_tiles import Kept

    if counts is None:
        return None
    counts = counts[:, :blocks]
    order = (counts == 0).byte().argsort(dim=along, stable=True)
    number = counts.sum(along, dtype=counts.dtype)
    return Kept(_matrix(order, turned=along == 0), _vector(number))


def _inputs(rows: LinearRows) -> Any:
    from xent.losses.kernels.triton_linear_tiles import Inputs

    return Inputs(
        _matrix(rows.hidden),
        _matrix(rows.weight),
        _vector(rows.bias),
        _vector(rows.targets),
        _vector(rows.class_weight),
        _vector(rows.row_weight),
    )


def _vector(array: Any) -> Any:
    from xent.losses.kernels.triton_linear_tiles import Vector

    return None if array is None else Vector(array, *array.stride())


def _matrix(array: Any, *, turned: bool = False) -> Any:
    from xent.losses.kernels.triton_linear_tiles import Matrix

    return None if array is None else Matrix(array, *array.stride()[:: -1 if turned else 1])
