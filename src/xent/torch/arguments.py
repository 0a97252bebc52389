"""What torch's losses accept and refuse, and the dtype they return.

Errors are what torch raises for the same mistake: each class here also derives from the built-in
error that callers of `torch.nn.functional` catch.
"""

from __future__ import annotations

import functools
import math
import operator
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias, TypeVar

import torch

from xent.errors import LogitError, OptionError, ShapeError, TargetError

__all__ = [
    "DeviceError",
    "InputDtypeError",
    "RefusedOptionError",
    "TargetIndexError",
    "Tensor",
    "UnfitShapeError",
    "UnfitTargetError",
    "by_label",
    "can_look",
    "check_kl_div",
    "class_indices",
    "entries_of",
    "float_dtype_of",
    "folded",
    "index_error",
    "index_of",
    "not_scriptable",
    "number_of",
    "reduction_of",
    "refuse_scripting",
    "refuse_tracing",
    "require_class_weight",
    "require_floats",
    "require_tensors",
    "result_dtype",
    "row_shape",
    "rows_of",
    "same_shape",
    "smoothing_of",
    "warn_of_elementwise_mean",
    "zero_if_empty",
]

Tensor: TypeAlias = torch.Tensor
F = TypeVar("F", bound=Callable[..., Any])
HALF = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, torch.float64, *HALF)
INTEGERS = (
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)
_PLAIN = (torch.Tensor, torch.nn.Parameter)


class UnfitShapeError(ShapeError, RuntimeError):
    """Shapes that do not fit together."""


class UnfitTargetError(TargetError, RuntimeError):
    """Targets of a kind or value that the loss does not take."""


class TargetIndexError(TargetError, IndexError):
    """A class index outside [0, classes)."""


class InputDtypeError(LogitError, NotImplementedError):
    """Scores or probabilities that are not floats."""


class RefusedOptionError(OptionError, RuntimeError):
    """An option outside its domain."""


class DeviceError(OptionError, RuntimeError):
    """Tensors on different devices."""


def float_dtype_of(out_dtype: Any, usual: torch.dtype) -> torch.dtype:
    """Return the dtype of a result, checked; the usual one for None."""
    if out_dtype is None:
        return usual
    if not isinstance(out_dtype, torch.dtype) or not out_dtype.is_floating_point:
        raise OptionError(
            f"out_dtype must be a float dtype of torch, or None: got {out_dtype!r}. "
            f"Hint: torch.float32; None, the default, gives {usual} here."
        )
    return out_dtype


def can_look(*tensors: Tensor | None) -> bool:
    """Tell whether the values are there now: eager plain tensors on the CPU."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._functorch.get_dynamic_layer_stack_depth() > 0
        or torch._C._len_torch_dispatch_stack() > 0
        or any(t is not None and (t.device.type != "cpu" or type(t) not in _PLAIN) for t in tensors)
    )


# ---- tensors -------------------------------------------------------------------------------------


def require_tensors(function: str, device: torch.device | None = None, **tensors: Any) -> None:
    """Refuse what is no tensor, tensors on other devices than the first, and torch.jit.trace."""
    if torch.jit.is_tracing():
        refuse_tracing(function)
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(
                f"{function}(): {name} must be a Tensor: got {type(tensor).__name__}. "
                "Hint: torch.as_tensor converts arrays and lists."
            )
        if device is None:
            device = tensor.device
        elif tensor.device != device and not (name.endswith("weight") and _is_number(tensor)):
            raise DeviceError(
                f"{function}(): tensors must be on one device: got {device} and, for {name}, "
                f"{tensor.device}. Hint: .to({str(device)!r}); a module moves its weights by .to()."
            )


def _is_number(tensor: Tensor) -> bool:
    """Tell whether a tensor is a number on the CPU, which goes with any device."""
    return tensor.ndim == 0 and tensor.device.type == "cpu"


def require_floats(function: str, input: Tensor, name: str = "input") -> None:  # noqa: A002
    """Refuse scores that are not floats."""
    if input.dtype not in FLOATS:
        raise InputDtypeError(
            f"{function}(): {name} must be float32, float64, bfloat16 or float16: got "
            f"{input.dtype}. Hint: .float()."
        )


def result_dtype(*tensors: Tensor | None) -> torch.dtype:
    """Return the common dtype of what is given; under autocast half types count as float32."""
    common: torch.dtype | None = None
    for tensor in tensors:
        if tensor is None:
            continue
        dtype = tensor.dtype
        device = tensor.device.type
        if dtype in HALF and device != "meta" and torch.is_autocast_enabled(device):
            dtype = torch.float32
        common = dtype if common is None else torch.promote_types(common, dtype)
    assert common is not None
    return common


# ---- options -------------------------------------------------------------------------------------


def reduction_of(
    size_average: bool | None,
    reduce: bool | None,
    reduction: Any,
    *,
    more: tuple[str, ...] = (),
) -> str:
    """Return the reduction that is meant; the deprecated switches overrule its name."""
    if size_average is not None or reduce is not None:
        summed = reduce is None or reduce
        meant = "none" if not summed else "mean" if size_average in (None, True) else "sum"
        _warn(f"size_average and reduce are deprecated: write reduction={meant!r}.")
        return meant
    if isinstance(reduction, str):
        if reduction in ("mean", "sum", "none", *more):
            return reduction
        if reduction == "elementwise_mean":
            _warn("reduction='elementwise_mean' is deprecated: write reduction='mean'.")
            return "mean"
    names = ", ".join(repr(name) for name in ("mean", "sum", "none", *more))
    raise OptionError(
        f"reduction must be one of {names}: got {reduction!r}. "
        "Hint: 'none' returns the loss of each row."
    )


def _warn(message: str) -> None:
    """Warn at the line that called the loss; a compiler cannot record it."""
    if not torch.compiler.is_compiling():
        warnings.warn(message, UserWarning, stacklevel=4)


def number_of(function: str, name: str, value: Any) -> float:
    """Return a Python number, also from a tensor of one; TypeError for what is none."""
    if type(value) is float:
        return value
    if isinstance(value, bool) or not (
        isinstance(value, int | float) or (hasattr(value, "__float__") and not _many(value))
    ):
        raise TypeError(
            f"{function}(): {name} must be a float: got {type(value).__name__}. "
            "Hint: a plain number."
        )
    return float(value)


def _many(value: Any) -> bool:
    return getattr(value, "ndim", 0) > 0


def smoothing_of(function: str, value: Any) -> float:
    """Return the label smoothing, in [0, 1]."""
    share = number_of(function, "label_smoothing", value)
    if not 0.0 <= share <= 1.0:
        raise RefusedOptionError(
            f"label_smoothing must lie in [0, 1]: got {share!r}. "
            "Hint: it is a share of the target's mass."
        )
    return share


def index_of(function: str, value: Any) -> int:
    """Return the ignored index."""
    if type(value) is int:
        return value
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f"{function}(): ignore_index must be an int: got {type(value).__name__}. "
            "Hint: -100, which no class has, ignores nothing else."
        ) from None


def zero_if_empty(empty: Any) -> bool:
    """Tell whether a mean over nothing is 0, else NaN."""
    if empty not in ("nan", "zero"):
        raise OptionError(
            f"empty must be 'nan' or 'zero': got {empty!r}. "
            "Hint: it is the mean over no row; torch's is NaN."
        )
    return bool(empty == "zero")


# ---- class indices -------------------------------------------------------------------------------


def row_shape(function: str, input: Tensor, target: Tensor) -> tuple[int, ...]:  # noqa: A002
    """Return the shape of the rows, which is the target's; refuse one that does not fit.

    One unbatched row may have a target of shape () or (1,).
    """
    shape, given = tuple(input.shape), tuple(target.shape)
    if not shape:
        raise UnfitShapeError(
            f"{function}(): input must have a dimension of classes: got shape (). "
            "Hint: (C,) for one row, (N, C, …) for many."
        )
    rows = shape[:1] + shape[2:] if len(shape) > 1 else ()
    if given == rows or (not rows and len(shape) == 1 and given == (1,)):
        return rows
    raise UnfitShapeError(
        f"{function}(): targets for input of shape {shape} must be class indices of shape {rows}, "
        f"or probabilities of shape {shape}: got shape {given}. "
        "Hint: classes are on dimension 1; a column of indices (N, 1) wants .squeeze(1)."
        if function == "cross_entropy"
        else f"{function}(): targets for input of shape {shape} must be class indices of shape "
        f"{rows}: got shape {given}. Hint: classes are on dimension 1; a column of indices "
        "(N, 1) wants .squeeze(1)."
    )


def class_indices(function: str, target: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return class indices as int64 of shape (outer, inner)."""
    if target.dtype not in INTEGERS:
        raise UnfitTargetError(
            f"{function}(): class indices must be integers: got {target.dtype}. "
            "Hint: .long(), or probabilities in the shape of the input."
        )
    indices = target.to(torch.int64)
    if target.dtype is torch.uint64:
        # What is too large for int64 wraps to a negative number: keep it too large.
        indices = torch.where(indices < 0, torch.iinfo(torch.int64).max, indices)
    return indices.reshape(shape)


def index_error(target: Tensor, classes: int, place: int) -> TargetIndexError:
    """Return the error for the target at a flat place."""
    where: Any = place
    shape = tuple(target.shape)
    if len(shape) > 1:
        where = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), shape))
    at = f"at row {where}" if shape else "in the only row"
    (value,) = target.reshape(-1)[place : place + 1].tolist()
    return TargetIndexError(
        f"targets must lie in [0, {classes}): got {value} {at}. "
        "Hint: mask padding with ignore_index= or a row_weight of 0."
    )


def require_class_weight(function: str, weight: Tensor | None, classes: int) -> None:
    """Refuse class weights that are not one number for each class."""
    if weight is not None and tuple(weight.shape) != (classes,):
        raise UnfitShapeError(
            f"{function}(): weight must have a number for each of {classes} classes: got shape "
            f"{tuple(weight.shape)}. Hint: row_weight= weighs rows."
        )


def rows_of(
    function: str, row_weight: Any, shape: tuple[int, ...], device: torch.device
) -> Tensor | None:
    """Return row weights broadcast to the rows."""
    if row_weight is None:
        return None
    try:
        return torch.broadcast_to(row_weight.to(device), shape)
    except RuntimeError:
        raise UnfitShapeError(
            f"{function}(): row_weight must fit the rows, shape {shape}: got shape "
            f"{tuple(row_weight.shape)}. Hint: one weight for each row, in the shape of the loss "
            "under reduction='none'."
        ) from None


def folded(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (outer, classes, inner) for the shape of an input."""
    if len(shape) == 1:
        return 1, shape[0], 1
    return shape[0], shape[1], math.prod(shape[2:])


# ---- entries -------------------------------------------------------------------------------------


def same_shape(function: str, input: Tensor, target: Tensor) -> tuple[int, ...]:  # noqa: A002
    """Return the shape that input and target share."""
    if target.shape != input.shape:
        raise UnfitShapeError(
            f"{function}(): targets must have the shape of the input, {tuple(input.shape)}: got "
            f"shape {tuple(target.shape)}. Hint: one yes-or-no target for each entry; for class "
            "indices use cross_entropy."
        )
    return tuple(input.shape)


def entries_of(
    function: str,
    name: str,
    weight: Tensor | None,
    shape: tuple[int, ...],
    device: torch.device,
) -> Tensor | None:
    """Return weights broadcast to the entries."""
    if weight is None:
        return None
    try:
        return torch.broadcast_to(weight.to(device), shape)
    except RuntimeError:
        raise UnfitShapeError(
            f"{function}(): {name} must fit the input, shape {shape}: got shape "
            f"{tuple(weight.shape)}. Hint: one number, or one for each label on the last dimension."
        ) from None


def by_label(
    function: str, weight: Tensor | None, shape: tuple[int, ...], device: torch.device
) -> Tensor | None:
    """Return weights of positives as one vector, which entries run through again and again."""
    full = entries_of(function, "pos_weight", weight, shape, device)
    if weight is None or full is None:
        return None
    if weight.ndim <= 1 or weight.numel() == 1:
        return weight.to(device).reshape(-1)
    return full.reshape(-1)


def check_kl_div(input: Tensor, target: Tensor, log_target: Any) -> None:  # noqa: A002
    """Refuse what is no pair of float tensors that broadcast."""
    for name, tensor in (("input", input), ("target", target)):
        if not tensor.is_floating_point():
            raise UnfitTargetError(
                f"kl_div(): {name} must have a float dtype: got {tensor.dtype}. Hint: .float()."
            )
    if not isinstance(log_target, bool):
        raise TypeError(
            f"kl_div(): log_target must be a bool: got {type(log_target).__name__}. "
            "Hint: True where the targets are logarithms."
        )
    try:
        torch.broadcast_shapes(input.shape, target.shape)
    except RuntimeError:
        raise UnfitShapeError(
            f"kl_div(): input and target must broadcast: got shapes {tuple(input.shape)} and "
            f"{tuple(target.shape)}. Hint: give one target for each log-probability."
        ) from None


def warn_of_elementwise_mean() -> None:
    """Say what torch says of a mean of divergence terms."""
    _warn(
        "kl_div(reduction='mean') divides by the batch and by the number of classes: write "
        "'batchmean' for the divergence of the rows, or 'sum' and divide."
    )


# ---- scripting -----------------------------------------------------------------------------------


def refuse_scripting(name: str) -> NoReturn:
    """Say that torch.jit.script cannot compile a loss of ours."""
    raise RuntimeError(
        f"torch.jit.script cannot compile xent.torch.{name}: its kernels are not TorchScript. "
        f"Hint: use torch.compile or torch.export, or torch.nn's own {name} inside scripts."
    )


def refuse_tracing(name: str) -> NoReturn:
    """Say that torch.jit.trace would keep what depends on the example's values."""
    raise RuntimeError(
        f"torch.jit.trace cannot record xent.torch.{name}: what it looks at in the targets would "
        "become a constant. Hint: use torch.export or torch.compile."
    )


def not_scriptable(function: F) -> F:
    """Make torch.jit.script refuse a function, in words."""
    refuse = functools.partial(refuse_scripting, function.__name__)
    function.__prepare_scriptable__ = refuse  # type: ignore[attr-defined]
    return function
