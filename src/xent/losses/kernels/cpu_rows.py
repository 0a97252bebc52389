"""Rows on a CPU: from arrays to the addresses, blocks and threads of the compiled kernels."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from xent.losses.kernels import EntryRows, SoftmaxRows, numba_entries, numba_rows, threads
from xent.losses.kernels.numba_arithmetic import constants_of
from xent.losses.kernels.numba_classes import over_classes, over_classes_dense
from xent.losses.kernels.numba_doubles import one_by_one
from xent.losses.kernels.numba_positions import over_positions, over_positions_dense
from xent.losses.kernels.numba_positions import small_mean as small_mean_of_floats
from xent.losses.kernels.numba_rows import Addresses, Layout, Options
from xent.losses.kernels.numba_statistics import LEFT, row_statistics

__all__ = [
    "FEW",
    "LEFT",
    "RowSums",
    "in_place",
    "refuses",
    "sigmoid",
    "small_mean",
    "softmax",
    "statistics",
    "weigh_targets",
]

KINDS: dict[str, Any] = {
    "float32": np.float32(0),
    "float64": np.float64(0),
    "bfloat16": np.uint16(0),
    "float16": np.int16(0),
    "int64": np.int64(0),
}
"""What the compiled functions are told of an array's dtype."""

FEW = 100
"""Classes below which vectors run over rows."""
ACROSS = (over_positions, over_positions_dense)
DENSE = (over_classes_dense, over_positions_dense)
LARGE = 1 << 22
"""Bytes of a gradient that no cache keeps for its next reader."""


class RowSums(NamedTuple):
    """Sums over all rows: Σ weight·loss, Σ weight·target mass; and the first bad row, or −1."""

    total: float
    mass: float
    bad: int


_names: dict[Any, str] = {}


def _name(array: Any) -> str:
    name = _names.get(array.dtype)
    if name is None:
        name = _names[array.dtype] = str(array.dtype).rpartition(".")[2]
    return name


def _address(array: Any) -> int:
    if array is None:
        return 0
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data_ptr()


def _strides(array: Any) -> tuple[int, ...]:
    if isinstance(array, np.ndarray):
        return tuple(s // array.itemsize for s in array.strides)
    return array.stride()


def _contiguous(array: Any) -> Any:
    if array is None:
        return None
    return np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array.contiguous()


def refuses(rows: SoftmaxRows | EntryRows) -> str | None:
    """Say why the compiled kernels cannot take these rows, or return None."""
    logits, targets = _name(rows.logits), _name(rows.targets)
    if logits not in ("float32", "float64", "bfloat16", "float16"):
        return f"the CPU kernels take float32, float64, bfloat16 and float16 logits, not {logits}"
    if targets not in KINDS:
        return f"the CPU kernels take targets of int64 or a float dtype, not {targets}"
    if isinstance(rows, SoftmaxRows) and rows.softcap is not None and logits == "float64":
        return "a softcap of float64 logits needs the definition's pairs to keep its digits"
    return None


def in_place(rows: SoftmaxRows) -> bool:
    """Tell whether a gradient may take the place of its logits.

    It may not where vectors run over rows: those of a block that are left out for a while lose
    their logits then.
    """
    _, classes, inner = rows.logits.shape
    exact = rows.softcap is not None or not _is_moderate(rows.temperature)
    along = classes >= FEW and _strides(rows.logits)[1] == 1 and inner == 1
    return along or exact or _name(rows.logits) == "float64"


def softmax(
    rows: SoftmaxRows,
    *,
    losses: Any = None,
    logsumexp: Any = None,
    mass: Any = None,
    gradient: Any = None,
    cotangent: Any = None,
    scale: float = 1.0,
) -> RowSums:
    """Compute rows that are not refused, and fill the arrays that are given.

    Parameters
    ----------
    rows
        The rows; class and row weights are contiguous float64.
    losses, logsumexp, mass
        Filled with each row's loss, log Σ exp and target mass, contiguous float64 (rows,). The
        row's weight is no factor of them; they are 0 for rows that are not looked at.
    gradient
        Filled with the derivatives of Σ scale·cotangent·row weight·loss, of the logits' dtype
        and shape, any strides. It may be the logits' own memory where `in_place` says so;
        `losses` are needed then.
    cotangent
        A factor of each row's gradient, contiguous float64 (rows,), or None for ones.
    scale
        A factor of the gradient.
    """
    shape, name = tuple(rows.logits.shape), _name(rows.logits)
    if 0 in shape:
        return RowSums(0.0, 0.0, -1)
    soft = rows.soft
    plan = _plan(
        shape,
        _strides(rows.logits),
        _strides(rows.targets),
        None if gradient is None else _strides(gradient),
        name,
        soft or rows.smoothing != 0.0,
        rows.softcap is not None or not _is_moderate(rows.temperature),
    )
    numbers = (rows.ignore_index, rows.smoothing, rows.temperature, rows.softcap, rows.z_loss)
    say = _options(*numbers, scale)
    sums = np.empty((plan.blocks, 4))
    takes_place = gradient is not None and _address(gradient) == _address(rows.logits)
    if takes_place:  # what is left out below can be told from its loss alone
        if losses is None or plan.form in ACROSS:
            raise ValueError("a gradient in the place of its logits needs losses, and long rows")
        losses.fill_(np.nan)
    at = Addresses(
        *[_address(array) for array in rows.arrays()],
        *[_address(array) for array in (cotangent, losses, logsumexp, mass, gradient, sums)],
    )
    kinds = KINDS[name], KINDS[_name(rows.targets)]

    def compute(start: int, stop: int) -> None:
        scratch = np.empty(plan.scratch)
        arguments = (*kinds, at, plan.layout, say, start, stop)
        if plan.form is one_by_one:
            one_by_one(*arguments, soft, scratch.ctypes.data, False)
        elif plan.form in DENSE:
            plan.form(*arguments, soft, scratch.ctypes.data)
        else:
            plan.form(*arguments, scratch.ctypes.data)

    threads.run(compute, plan.blocks, math.prod(shape))
    wide = np.flatnonzero(sums[:, 3])
    if wide.size:
        left = np.isnan(np.asarray(losses)).reshape(-1) if takes_place else None
        _add_wide_rows(kinds, at, plan, say, sums, wide, soft, left)
    return _totals(sums)


def _totals(sums: Any) -> RowSums:
    """Add up what blocks have written: Σ losses, Σ masses, the first bad row or −1."""
    losses, masses, bad = sums[:, :3].T.tolist()
    return RowSums(_sum(losses), _sum(masses), int(min((b for b in bad if b >= 0.0), default=-1)))


def _sum(numbers: list[float]) -> float:
    """Return the sum, rounded once if it is finite."""
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):  # beyond float64, or ∞ and −∞
        return sum(numbers)


def weigh_targets(
    targets: Any, classes: int, ignore_index: int | None, class_weight: Any, row_weight: Any
) -> tuple[int, float, int]:
    """Look at class indices: how many rows are kept, Σ row·class weight, the first out of range.

    `targets` are contiguous int64, the weights contiguous float64 or None; the last is −1 for
    none, and what comes before it is of no use otherwise.
    """
    kept, weight, outside = numba_rows.weigh_targets(
        _address(targets),
        math.prod(targets.shape),
        classes,
        ignore_index is not None,
        ignore_index or 0,
        _address(class_weight),
        _address(row_weight),
    )
    return int(kept), float(weight), int(outside)


def small_mean(logits: Any, targets: Any, gradient: Any, mean: Any, ignore_index: int) -> bool:
    """Fill the mean loss of a float32 matrix (N, C) for class indices, and its gradient.

    For few entries and classes, where a call costs more than the computation. Returns whether it
    could: not where a target is out of range, every row is ignored or a row is wide; what is
    filled then is of no use. `gradient` may be None; `mean` is a float32 number.
    """
    state = small_mean_of_floats(
        KINDS["float32"],
        logits.data_ptr(),
        targets.data_ptr(),
        0 if gradient is None else gradient.data_ptr(),
        mean.data_ptr(),
        *logits.shape,
        *logits.stride(),
        *targets.stride(),
        ignore_index,
    )
    return bool(state == numba_rows.KEPT)


class _Plan(NamedTuple):
    """How rows of a layout are computed."""

    form: Any  # the compiled function
    layout: Layout
    blocks: int
    scratch: int  # float64 numbers of scratch memory


@functools.lru_cache(maxsize=256)
def _plan(
    shape: tuple[int, int, int],
    logits: tuple[int, ...],
    targets: tuple[int, ...],
    gradient: tuple[int, ...] | None,
    name: str,
    dense: bool,
    exact: bool,
) -> _Plan:
    outer, classes, inner = shape
    itemsize = {"float32": 4, "float64": 8}.get(name, 2)
    streaming = name == "float32" and gradient is not None and 4 * math.prod(shape) >= LARGE
    soft = len(targets) == 3
    strides = logits, targets if soft else (targets[0], 0, targets[1]), gradient
    along = logits, gradient, targets if soft else None
    block = max(1, 65536 // classes)
    z, t, g = [(*(s or (0, 0, 0)),) for s in strides]
    form: Any
    if exact or name == "float64":
        form, scratch = one_by_one, 4 * classes
    elif classes >= FEW and all(s[1] == 1 for s in along if s):
        form = over_classes_dense if dense else over_classes
        scratch = classes + 32  # two rows of float32, each from a cache line on
    else:
        form = over_positions_dense if dense else over_positions
        if inner == 1:  # the rows of a matrix become the positions of one place
            outer, inner = inner, outer
            z, t, g = (s[::-1] for s in (z, t, g))
        block = max(16, min(1024, 6144 // classes // 16 * 16))
        scratch = (13 + classes) * block
    layout = Layout(outer, classes, inner, z, t, g, block, itemsize, streaming)
    across = form in ACROSS
    blocks = outer * -(-inner // block) if across else -(-outer * inner // block)
    return _Plan(form, layout, blocks, scratch)


def _is_moderate(temperature: float) -> bool:
    """Tell whether float32 can hold what its exponential wants to know of a temperature."""
    return 2.0**-20 <= temperature <= 2.0**20


@functools.lru_cache(maxsize=256)
def _options(
    ignore_index: int | None,
    smoothing: float,
    temperature: float,
    softcap: float | None,
    z_loss: float,
    scale: float,
) -> Options:
    return Options(
        ignore_index is not None,
        ignore_index or 0,
        float(smoothing),
        float(temperature),
        float(softcap or 0.0),
        float(z_loss),
        float(scale),
        constants_of(temperature) if _is_moderate(temperature) else constants_of(1.0),
    )


def _add_wide_rows(
    kinds: tuple[Any, Any],
    at: Addresses,
    plan: _Plan,
    say: Options,
    sums: Any,
    wide: Any,
    soft: bool,
    left: Any = None,
) -> None:
    """Compute the rows that the forms of float32 have left out, and add them to their blocks.

    Which rows these are is found out from the logits, or told by `left` where gradients stand in
    the place of logits.
    """
    of = plan.layout
    per_outer = -(-of.inner // of.block)
    scratch = np.empty(4 * of.classes)
    for b in wide:
        if plan.form in ACROSS:
            first = b // per_outer * of.inner + b % per_outer * of.block
            last = min(first + of.block, (b // per_outer + 1) * of.inner)
        else:
            first, last = b * of.block, min((b + 1) * of.block, of.outer * of.inner)
        own = np.zeros((last - first, 4))
        own[:, 2] = -1.0
        there = at._replace(sums=_address(own) - own.strides[0] * int(first))
        runs = [(first, last)]
        if left is not None:
            runs = [(row, row + 1) for row in range(first, last) if left[row]]
        for start, stop in runs:
            one_by_one(
                *kinds, there, of._replace(block=1), say, int(start), int(stop), soft,
                _address(scratch), left is None,
            )  # fmt: skip
        sums[b, :2] += own[:, :2].sum(axis=0)
        bad = own[own[:, 2] >= 0, 2]
        if bad.size and not 0 <= sums[b, 2] <= bad.min():
            sums[b, 2] = bad.min()


def sigmoid(
    rows: EntryRows,
    *,
    losses: Any = None,
    gradient: Any = None,
    cotangent: Any = None,
    scale: float = 1.0,
) -> RowSums:
    """Compute entries that are not refused, as `softmax` does rows.

    The rows' arrays may have any strides and are copied if they are not contiguous; those that
    are filled, and `cotangent`, are contiguous.
    """
    count = rows.logits.shape[0]
    if not count:
        return RowSums(0.0, 0.0, -1)
    rows = rows.with_arrays(tuple(_contiguous(array) for array in rows.arrays()))
    blocks = -(-count // numba_entries.BLOCK)
    sums = np.zeros((blocks, 4))
    at = numba_entries.EntryAddresses(
        *map(_address, (*rows.arrays(), cotangent, losses, gradient, sums))
    )
    labels = 1 if rows.pos_weight is None else rows.pos_weight.shape[0]
    kinds = KINDS[_name(rows.logits)], KINDS[_name(rows.targets)]

    def compute(start: int, stop: int) -> None:
        numba_entries.sigmoid_entries(
            *kinds, at, count, labels, float(rows.smoothing), float(scale), start, stop
        )

    threads.run(compute, blocks, count)
    return _totals(sums)


def statistics(
    logits: Any, targets: Any, temperature: float, entropy: Any, argmax: Any, rank: Any
) -> bool:
    """Fill the statistics of rows of logits, or return False where these are not float32.

    Parameters
    ----------
    logits
        (rows, classes), float32, contiguous over classes.
    targets
        Class indices, contiguous int64 (rows,), or None.
    temperature
        What logits are divided by.
    entropy, argmax, rank
        Filled: the entropy of the softmax, float64; the first likeliest class, int64, LEFT for a
        row that is not computed; and 1 + how many logits are larger than the target's, int64.
    """
    (rows, classes), (line, step) = logits.shape, _strides(logits)
    if _name(logits) != "float32" or step != 1 or not _is_moderate(temperature):
        return False
    constants = constants_of(temperature)
    at = [_address(array) for array in (targets, entropy, argmax, rank)]

    def compute(start: int, stop: int) -> None:
        scratch = np.empty(classes + 32, np.float32)
        row_statistics(
            KINDS["float32"], _address(logits), line, classes, at[0], float(temperature), constants,
            *at[1:], start, stop, scratch.ctypes.data,
        )  # fmt: skip

    threads.run(compute, rows, rows * classes)
    return True
