"""The arguments of a call whose classes lie on several ranks, as far as one rank can check them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.distributed.tensor import DTensor

from xent.errors import OptionError
from xent.losses.rows import require_number
from xent.torch import arguments as read
from xent.torch.arguments import Tensor
from xent.torch.averages import given_divisor, is_differentiated
from xent.torch.parallel_places import Options, Place, Source
from xent.torch.parallel_ranks import MOST, Fact, Layout, whole_of

__all__ = ["WORKSPACE", "Call", "read_call"]

WORKSPACE = 256 << 20
SMALLEST_WORKSPACE = 1 << 20


@dataclass(frozen=True)
class Call:
    """A call's arguments, read: this rank's tensors, flattened to rows."""

    name: str
    main: Tensor  # (rows, own classes or features)
    weight: Tensor | None
    bias: Tensor | None  # of this rank's classes, or of all
    bias_is_whole: bool
    target: Tensor | None  # as given
    indices: Tensor | None  # (rows,)
    masses: Tensor | None  # (rows, own classes)
    class_weight: Tensor | None  # of all classes
    row_weight: Tensor | None  # (rows,)
    reduction: str
    ignore_index: int
    smoothing: float
    z_loss: float
    temperature: float
    softcap: float | None
    zero: bool
    shape: tuple[int, ...]  # of the rows
    workspace: int
    dtype: torch.dtype
    divisor: Any  # of a mean, where the caller gives it, else None

    @property
    def own(self) -> int:
        """Return how many classes this rank has."""
        holder = self.main.shape[1] if self.weight is None else self.weight.shape[0]
        return int(holder)

    def kept(self) -> Tensor | None:
        """Return which rows are looked at, or None for all."""
        kept = None
        if self.indices is not None:
            kept = self.indices != self.ignore_index
        if self.row_weight is not None:
            weighty = self.row_weight != 0
            kept = weighty if kept is None else kept & weighty
        # Where that can be told without waiting, rows that all count are not selected.
        return None if kept is not None and kept.is_cpu and bool(kept.all()) else kept

    def facts(self, o: Options, place: Place, statistics: bool) -> list[Fact]:
        """Return what ranks with the other classes have to agree on."""
        linear = self.weight is not None
        target = "none" if self.target is None else "hard" if self.masses is None else "soft"
        whole_bias = self.bias if self.bias_is_whole else None
        return [
            *self._facts_of_any(o, statistics),
            Fact("rows", self.main.shape[0]),
            Fact("features", self.main.shape[1] if linear else 0),
            Fact("the kind of target", target),
            Fact("the dtype of " + ("hidden" if linear else "logits_local"), _dtype(self.main)),
            Fact("the dtype of weight_local", _dtype(self.weight)),
            Fact("ignore_index", self.ignore_index),
            Fact("label_smoothing", self.smoothing),
            Fact("z_loss", self.z_loss),
            Fact("temperature", self.temperature),
            Fact("softcap (0 for None)", self.softcap or 0.0),
            Fact("empty", "zero" if self.zero else "nan"),
            Fact("whether there are ranks with other rows", bool(place.others)),
            Fact("whether hidden needs a gradient", linear and _is_needed(self.main)),
            Fact("whether bias_local is of all classes", self.bias_is_whole),
            Fact("whether bias_local needs a gradient", _is_needed(whole_bias)),
            Fact("how many class weights there are", _length(self.class_weight)),
            Fact("how many row weights there are", _length(self.row_weight)),
            Fact("target", _or_zero(self.indices)),
            Fact("weight", _or_zero(self.class_weight)),
            Fact("row_weight", _or_zero(self.row_weight)),
        ]

    def facts_of_rows(self, o: Options, place: Place, statistics: bool) -> list[Fact]:
        """Return what ranks with other rows have to agree on."""
        weight = self.weight if place.sum_over else None  # whose gradient is theirs together
        bias = self.bias if place.sum_over else None
        return [
            *self._facts_of_any(o, statistics),
            Fact("classes of weight_local", _length(weight)),
            Fact("features", 0 if weight is None else weight.shape[1]),
            Fact("the dtype of weight_local", _dtype(weight)),
            Fact("whether weight_local needs a gradient", _is_needed(weight)),
            Fact("whether bias_local needs a gradient", _is_needed(bias)),
        ]

    def _facts_of_any(self, o: Options, statistics: bool) -> list[Fact]:
        kind, value = "none", 0.0
        if self.divisor is not None:
            kind, value = "number", float(self.divisor)
        elif self.reduction == "mean" and o.normalizer is not None:
            kind = o.normalizer
        return [
            Fact("the form", "logits" if self.weight is None else "linear"),
            Fact("the kind of result", "rows" if statistics else "loss"),
            Fact("the dtype of the result", _dtype_name(self.dtype)),
            Fact("reduction", self.reduction),
            Fact("the kind of normalizer", kind),
            Fact("normalizer", value),
        ]


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(tensor: Tensor | None) -> str:
    return "none" if tensor is None else _dtype_name(tensor.dtype)


def _is_needed(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad and torch.is_grad_enabled()


def _length(tensor: Tensor | None) -> int:
    return -1 if tensor is None else tensor.shape[0]


def _or_zero(tensor: Tensor | None) -> Any:
    return 0 if tensor is None else tensor


def read_call(
    name: str, source: Source, target: Any, o: Options, place: Place, statistics: bool
) -> Call:
    """Read and check what can be checked on this rank alone."""
    main, linear, bias = source.main, source.weight, source.bias
    if target is None and not statistics:
        raise TypeError(f"{name}(): target must be a Tensor: got NoneType.")
    for argument, needed in zip(source.names, (main, source.classes_in), strict=True):
        if not isinstance(needed, torch.Tensor):
            raise TypeError(
                f"{name}(): {argument} must be a Tensor: got {type(needed).__name__}. "
                "Hint: torch.as_tensor converts arrays and lists."
            )
    read.require_tensors(name, **{source.names[0]: main})
    tensors = {"weight_local": linear, "bias_local": bias, "target": target}
    read.require_tensors(name, main.device, **tensors, weight=o.weight, row_weight=o.row_weight)
    if linear is None:
        read.require_floats(name, main, "logits_local")
    else:
        _check_linear(name, main, linear, bias)
    _refuse_tangents(main, linear, bias)
    normalizer, target, row_weight, class_weight = _locally(place, main, target, o)
    bias, bias_is_whole = _read_bias(name, bias, linear, place)
    main, linear = _local_part(main), _local_part(linear)
    if not main.ndim:
        raise read.UnfitShapeError(
            f"{name}(): {source.names[0]} must have its classes or features last: got shape (). "
            "Hint: (C,) for one row, (…, C) for many."
        )
    shape = tuple(main.shape[:-1])
    own = main.shape[-1] if linear is None else linear.shape[0]
    rows = math.prod(shape)
    indices, masses = _read_target(name, target, shape, own, rows)
    ignored = read.index_of(name, o.ignore_index)
    if not -MOST <= ignored <= MOST:
        raise OptionError(
            f"ignore_index must lie in [−2**62, 2**62]: got {ignored}. "
            "Hint: -100, which no class has, ignores nothing else."
        )
    if masses is not None and ignored >= 0:
        raise read.RefusedOptionError(
            f"ignore_index={ignored} needs class indices: got probabilities. "
            "Hint: give such rows a row_weight of 0."
        )
    if torch.is_grad_enabled():
        for argument, tensor in (("target", target), ("weight", class_weight)):
            if tensor is not None and tensor.requires_grad:
                raise OptionError(
                    f"{name}(): {argument} must not need a gradient, which ranks do not exchange: "
                    "got requires_grad=True. Hint: .detach() it."
                )
    if class_weight is not None and class_weight.ndim != 1:
        raise read.UnfitShapeError(
            f"{name}(): weight must have one dimension, of all classes: got shape "
            f"{tuple(class_weight.shape)}. Hint: row_weight= weighs rows."
        )
    by_row = read.rows_of(name, row_weight, shape, main.device)
    if linear is not None:
        main, linear, bias = _autocast(main, linear, bias)
    reduction = read.reduction_of(None, None, o.reduction)
    divisor = None if reduction != "mean" else _read_divisor(normalizer, main, o)
    counted = bool(place.others) and reduction == "mean" and divisor is None
    if counted and normalizer != "count" and is_differentiated(by_row):
        raise OptionError(
            "row_weight must not need a gradient where a mean counts rows of other processes: got "
            "requires_grad=True. Hint: give normalizer= a number, or detach the weights."
        )
    hint = "logits are divided by it; 1 leaves them."
    softcap_hint = "logits stay within ±softcap; None leaves them."
    given = (main, masses, class_weight) if masses is not None else (main,)
    return Call(
        name=name,
        main=main.reshape(rows, main.shape[-1]),
        weight=linear,
        bias=bias,
        bias_is_whole=bias_is_whole,
        target=target,
        indices=indices,
        masses=masses,
        class_weight=class_weight,
        row_weight=None if by_row is None else by_row.reshape(-1),
        reduction=reduction,
        ignore_index=ignored,
        smoothing=read.smoothing_of(name, o.label_smoothing),
        z_loss=require_number("z_loss", o.z_loss, 0.0, 2.0**40, "it weighs logsumexp²."),
        temperature=require_number("temperature", o.temperature, 2.0**-40, 2.0**40, hint),
        softcap=None
        if o.softcap is None
        else require_number("softcap", o.softcap, 2.0**-10, 2.0**10, softcap_hint),
        zero=read.zero_if_empty(o.empty),
        shape=shape,
        workspace=_workspace(source.workspace),
        dtype=read.float_dtype_of(o.out_dtype, read.result_dtype(*given, linear)),
        divisor=divisor,
    )


def _refuse_tangents(*tensors: Tensor | None) -> None:
    if forward_ad._current_level < 0:
        return
    if any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors):
        raise NotImplementedError(
            "forward-mode derivatives of a loss whose classes lie on several ranks are not "
            "computed. Hint: use backward, or xent.torch.cross_entropy on gathered classes."
        )


def _locally(place: Place, main: Tensor, target: Any, o: Options) -> tuple[Any, ...]:
    """Return this rank's part of the normalizer, the targets, row weights and class weights."""
    normalizer = whole_of("normalizer", o.normalizer)
    layout = place.layout or place.holder
    if layout is None:
        given = {"target": target, "row_weight": o.row_weight, "weight": o.weight}
        return normalizer, *(whole_of(name, tensor) for name, tensor in given.items())
    soft = isinstance(target, torch.Tensor) and target.ndim == main.ndim
    lying = layout.placements(main.ndim - 1 if soft else None)
    nowhere = Layout(layout.mesh, None).placements()
    return (
        normalizer,
        layout.local("target", target, lying),
        layout.local("row_weight", o.row_weight, layout.placements()),
        layout.local("weight", o.weight, nowhere),
    )


def _local_part(tensor: Any) -> Any:
    """Return this process's part of a DTensor whose place has been read, and others as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _read_bias(
    name: str, bias: Tensor | None, weight: Any, place: Place
) -> tuple[Tensor | None, bool]:
    """Return the bias of this rank's classes or of all, and whether it is of all.

    Of all it is where it is replicated or has as many numbers as the weight, a DTensor, has
    classes on all ranks; so ranks that have some of the classes can tell it from their own part.
    """
    if bias is None:
        return None, False
    local = _local_part(bias)
    own, classes, holder = _local_part(weight).shape[0], weight.shape[0], place.holder
    if not isinstance(bias, DTensor):
        whole = holder is not None and tuple(bias.shape) == (classes,)
        fits = True
    else:
        placed = list(bias.placements)
        lying = [] if holder is None else [holder.placements(0), holder.placements()]
        if holder is None or bias.device_mesh != holder.mesh or placed not in lying:
            where = "plain" if holder is None else f"as {lying[0]} or {lying[1]} on {holder.mesh}"
            raise OptionError(
                f"bias_local must lie with weight_local, {where}: got {placed} on "
                f"{bias.device_mesh}. Hint: distribute it as the weight, or leave it whole."
            )
        whole = placed != lying[0]
        fits = tuple(bias.shape) == (classes,)
    if not fits or tuple(local.shape) != ((classes,) if whole else (own,)):
        all_of_them = "" if holder is None else f", or for each of all {classes}"
        raise read.UnfitShapeError(
            f"{name}(): bias_local must have a number for each of {own} classes{all_of_them}: got "
            f"shape {tuple(bias.shape)}. Hint: the rank's own part of the bias."
        )
    return local, whole and place.ranks.size > 1


def _read_divisor(normalizer: Any, main: Tensor, o: Options) -> Any:
    """Return what the caller divides a mean by, or None for a rule's name."""
    is_tensor = isinstance(normalizer, torch.Tensor)
    if is_tensor and o.check and not normalizer.ndim and not is_differentiated(normalizer):
        normalizer = normalizer.cpu()  # where it is looked at; ranks compare it too
    return given_divisor(normalizer, main)


def _check_linear(name: str, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    for argument, tensor in (("hidden", hidden), ("weight_local", weight), ("bias_local", bias)):
        if tensor is not None:
            read.require_floats(name, tensor, argument)
    if not hidden.ndim or weight.ndim != 2 or hidden.shape[-1] != weight.shape[1]:
        raise read.UnfitShapeError(
            f"{name}(): hidden (…, features) must fit weight_local (own classes, features): got "
            f"shapes {tuple(hidden.shape)} and {tuple(weight.shape)}. "
            "Hint: the weight of torch.nn.Linear has that shape."
        )


def _read_target(
    name: str, target: Tensor | None, shape: tuple[int, ...], own: int, rows: int
) -> tuple[Tensor | None, Tensor | None]:
    """Return class indices (rows,), or masses (rows, own classes)."""
    if target is None:
        return None, None
    if target.ndim == len(shape) + 1 and tuple(target.shape) == (*shape, own):
        if not target.is_floating_point():
            raise read.UnfitTargetError(
                f"{name}(): targets with a dimension of classes must be probabilities of a float "
                f"dtype: got {target.dtype}. Hint: class indices have no dimension of classes."
            )
        return None, target.detach().reshape(rows, own)
    if tuple(target.shape) != shape:
        raise read.UnfitShapeError(
            f"{name}(): targets must be class indices of shape {shape}, or probabilities of this "
            f"rank's classes of shape {(*shape, own)}: got shape {tuple(target.shape)}. "
            "Hint: classes are on the last dimension."
        )
    return read.class_indices(name, target, (rows, 1))[:, 0], None


def _autocast(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Any, ...]:
    """Convert what a product is made of as autocast would."""
    device = hidden.device.type
    if not torch.is_autocast_enabled(device) or torch.float64 in (hidden.dtype, weight.dtype):
        return hidden, weight, bias
    dtype = torch.get_autocast_dtype(device)
    return hidden.to(dtype), weight.to(dtype), bias


def _workspace(given: Any) -> int:
    if given is None:
        return WORKSPACE
    if not isinstance(given, int) or given < SMALLEST_WORKSPACE:
        raise OptionError(
            f"workspace_bytes must be an integer from {SMALLEST_WORKSPACE} on: got {given!r}. "
            "Hint: 256 << 20 is the default; logits and their gradient are computed in it."
        )
    return given
