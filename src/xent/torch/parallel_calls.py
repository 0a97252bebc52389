"""Calls whose classes lie on several ranks: read on each, agreed on by all, computed as rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypedDict

import torch
from torch.autograd import forward_ad
from torch.distributed.tensor import DTensor

from xent.errors import OptionError
from xent.losses.rows import require_number
from xent.torch import arguments as read
from xent.torch.arguments import Tensor
from xent.torch.averages import given_divisor, is_differentiated
from xent.torch.parallel_derivatives import (
    own_part,
    plan_of,
    rows_of_logits,
    rows_of_products,
)
from xent.torch.parallel_ranks import (
    Fact,
    Layout,
    Ranks,
    Share,
    compare,
    layout_of,
    ranks_of,
    share_of,
    whole_of,
)
from xent.torch.parallel_rows import Rows, Task

__all__ = [
    "WORKSPACE",
    "Call",
    "Options",
    "ParallelOptions",
    "ParallelStatisticsOptions",
    "Place",
    "Source",
    "compute_rows",
    "find_place",
    "options_of",
]

WORKSPACE = 256 << 20
SMALLEST_WORKSPACE = 1 << 20
MOST = 1 << 62
"""What fits the integers that ranks tell each other."""


class ParallelStatisticsOptions(TypedDict, total=False):
    """The keyword arguments of `parallel_softmax_statistics`."""

    group: Any
    temperature: float
    softcap: float | None
    first_class: int | None
    classes: int | None
    check: bool


class ParallelOptions(ParallelStatisticsOptions, total=False):
    """The keyword arguments of `parallel_cross_entropy`."""

    weight: Tensor | None
    reduction: str
    ignore_index: int
    label_smoothing: float
    z_loss: float
    row_weight: Tensor | None
    normalizer: Literal["weight", "count"] | float | Tensor | None
    data_group: Any
    out_dtype: torch.dtype | None
    empty: Literal["nan", "zero"]


class Source(NamedTuple):
    """What logits are, or are made of, as given."""

    main: Any  # logits, or hidden states where there is a weight
    weight: Any = None
    bias: Any = None
    workspace: Any = None
    linear: bool = False

    @property
    def names(self) -> tuple[str, str]:
        """Return what the caller calls what has the rows, and what has the classes."""
        return ("hidden", "weight_local") if self.linear else ("logits_local",) * 2

    @property
    def classes_in(self) -> Any:
        """Return the argument that has this rank's classes."""
        return self.weight if self.linear else self.main


@dataclass(frozen=True)
class Options:
    """The options of a call, as given."""

    group: Any = None
    weight: Any = None
    reduction: Any = "mean"
    ignore_index: Any = -100
    label_smoothing: Any = 0.0
    z_loss: Any = 0.0
    temperature: Any = 1.0
    softcap: Any = None
    row_weight: Any = None
    normalizer: Any = None
    data_group: Any = None
    first_class: Any = None
    classes: Any = None
    out_dtype: Any = None
    empty: Any = "nan"
    check: Any = True


def options_of(name: str, given: dict[str, Any], allowed: Any) -> tuple[Options, Exception | None]:
    """Read the keyword arguments of a call; also return what is to be said of others."""
    known = {option: value for option, value in given.items() if option in allowed.__annotations__}
    unknown = next((option for option in given if option not in known), None)
    if unknown is None:
        return Options(**known), None
    return Options(**known), TypeError(f"{name}() got an unexpected keyword argument {unknown!r}")


# ---- where classes and rows lie ------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a call's classes and rows lie.

    Attributes
    ----------
    ranks
        Ranks with other classes of the same rows.
    layout
        How rows that are a DTensor lie, or None.
    others
        Ranks with other rows of the same call.
    sum_over
        Those of them with the same weight, over which its gradient is summed.
    holder
        How a DTensor that has the classes lies, or None.
    first
        The first class of this rank, where that says it.
    failure
        What is wrong with it.
    """

    ranks: Ranks
    layout: Layout | None = None
    others: tuple[Ranks, ...] = ()
    sum_over: tuple[Ranks, ...] = ()
    holder: Layout | None = None
    first: int | None = None
    failure: Exception | None = None


def find_place(source: Source, o: Options) -> Place:
    """Find the ranks of a call, from its group or its DTensors, those that there are if it fails.

    A rank whose group cannot be read can tell the others nothing; else it has to.
    """
    given = (source.classes_in, source.main)
    tensor = next((tensor for tensor in given if isinstance(tensor, DTensor)), None)
    if tensor is None:
        place = _grouped(Place(Ranks()), "group", o.group)
        return place if o.data_group is None else _grouped(place, "data_group", o.data_group)
    try:
        place = _of_dtensors(source)
    except Exception as error:
        # Which ranks that concerns is clear on a mesh of one dimension alone.
        mesh = tensor.device_mesh
        place = Place(Layout(mesh, 0).ranks() if mesh.ndim == 1 else Ranks(), failure=error)
        if o.data_group is None or isinstance(source.main, DTensor):
            return place
        return _grouped(place, "data_group", o.data_group)
    if o.group is not None:
        refused = OptionError(
            f"group must be None for DTensors, whose mesh names the ranks: got {o.group!r}. "
            "Hint: .to_local() with group= is the other way."
        )
        return replace(place, failure=refused)
    if o.data_group is None:
        return place
    if place.layout is None:
        return _grouped(place, "data_group", o.data_group)
    refused = OptionError(
        "data_group must be None for DTensors, whose mesh says where rows are: got "
        f"{o.data_group!r}. Hint: shard the rows on another dimension of the mesh."
    )
    return replace(place, failure=refused)


def _grouped(place: Place, name: str, group: Any) -> Place:
    """Add the ranks of a group that the caller names, or what is wrong with it."""
    try:
        if name == "group":
            return replace(place, ranks=ranks_of(name, group))
        return replace(place, others=(ranks_of(name, group, "data rank"),))
    except Exception as error:
        return replace(place, failure=place.failure or error)


def _of_dtensors(source: Source) -> Place:
    """Read the place of a call from a DTensor that has the classes."""
    holder = source.classes_in
    if not isinstance(holder, DTensor):
        raise OptionError(
            "weight_local must be a DTensor where hidden is one: got "
            f"{type(holder).__name__}. Hint: distribute_tensor, or hidden.to_local()."
        )
    axis = 0 if source.linear else holder.ndim - 1
    layout = layout_of(source.names[1], holder, axis)
    first = layout.share(holder.shape[axis], holder.to_local().shape[axis])
    known = Place(layout.ranks(), holder=layout, first=first)
    if not isinstance(source.main, DTensor):
        if layout.mesh.ndim > 1:
            raise OptionError(
                "hidden must be a DTensor where weight_local lies on a mesh of more than one "
                "dimension: got a plain tensor. Hint: weight.to_local() with group= and data_group="
            )
        return known
    if not source.linear:
        return replace(known, layout=layout, others=layout.ranks_of_rows())
    rows = layout_of("hidden", source.main, None)
    if rows.mesh != layout.mesh or layout.by_class in rows.by_rows:
        raise OptionError(
            "hidden must be replicated where weight_local is sharded: got "
            f"{list(source.main.placements)} and {list(holder.placements)}. "
            "Hint: hidden.redistribute(mesh, placements)."
        )
    rows = Layout(layout.mesh, layout.by_class, rows.by_rows)
    others = rows.ranks_of_rows()
    return replace(known, layout=rows, others=others, sum_over=others)


# ---- what a call is made of ----------------------------------------------------------------------


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


def _read(
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


def compute_rows(
    name: str,
    source: Source,
    target: Any,
    o: Options,
    failure: Exception | None,
    statistics: bool,
) -> tuple[Call, Rows, Place]:
    """Read a call on every rank, agree, and compute its rows.

    `failure` is what the caller has to refuse already. Whatever this rank refuses, those that it
    can reach are told, first ranks with the other classes and then those with other rows.
    """
    place = find_place(source, o)
    failure = failure or place.failure
    call: Call | None = None
    share: Share | None = None
    bounds: list[int | None] = [0, None, None]
    facts: list[Fact] = []
    facts_of_rows: list[Fact] = []
    try:
        if failure is None:
            call = _read(name, source, target, o, place, statistics)
            bounds = [call.own, *_bounds(place, source, o)]
            if o.check and place.ranks.size > 1:
                facts = call.facts(o, place, statistics)
            if o.check and place.others:
                facts_of_rows = call.facts_of_rows(o, place, statistics)
        if failure is None and not o.check:
            share = _unchecked(place.ranks, *bounds)
    except Exception as error:  # raised by `compare`, on every rank
        failure = error
    if o.check:
        try:
            every = compare(place.ranks, failure, bounds, facts)
            share = share_of(place.ranks, every)
            assert call is not None
            _check_targets(call, share)
        except Exception as error:  # the same on all ranks with these rows
            failure = error
        for ranks in place.others:
            try:
                compare(ranks, failure, (), facts_of_rows)
            except Exception as error:
                failure = error
    if failure is not None:
        raise failure
    assert call is not None
    assert share is not None
    return call, _computed(call, share, place, statistics, bool(o.check)), place


def _bounds(place: Place, source: Source, o: Options) -> tuple[int | None, int | None]:
    """Return first_class and classes, from the DTensor where they are not given."""
    for name, value in (("first_class", o.first_class), ("classes", o.classes)):
        if value is not None and (not isinstance(value, int) or not 0 <= value <= MOST):
            raise OptionError(
                f"{name} must be an integer from 0 to 2**62, or None: got {value!r}. "
                "Hint: without it ranks follow each other."
            )
    holder = source.classes_in
    if isinstance(holder, DTensor) and o.classes is None and o.first_class is None:
        return place.first, holder.shape[0 if source.linear else -1]
    return o.first_class, o.classes


def _unchecked(ranks: Ranks, own: int | None, first: int | None, classes: int | None) -> Share:
    if ranks.size == 1:
        return Share(first or 0, own or 0 if classes is None else classes)
    if first is None or classes is None:
        raise OptionError(
            f"first_class and classes must be given where check=False: got {first} and {classes}. "
            "Hint: check=True lets ranks tell each other how many classes they have."
        )
    return Share(first, classes)


def _check_targets(call: Call, share: Share) -> None:
    """Refuse what only the number of all classes shows; all ranks find the same."""
    read.require_class_weight(call.name, call.class_weight, share.classes)
    if call.indices is None or call.target is None:
        return
    outside = (call.indices < 0) | (call.indices >= share.classes)
    kept = call.kept()
    if kept is not None:
        outside &= kept
    found = torch.nonzero(outside)[:1, 0].tolist()
    if found:
        raise read.index_error(call.target, share.classes, found[0])


def _computed(call: Call, share: Share, place: Place, statistics: bool, check: bool) -> Rows:
    own = slice(share.first, share.first + call.own)
    weight = call.class_weight
    if call.bias is not None and call.bias_is_whole:
        call = replace(call, bias=own_part(call.bias, place.ranks, own))
    task = Task(
        ranks=place.ranks,
        first=share.first,
        classes=share.classes,
        indices=call.indices,
        masses=call.masses,
        class_weight=None if weight is None else weight.detach()[own].to(torch.float64),
        kept=None if statistics else call.kept(),
        smoothing=call.smoothing,
        temperature=call.temperature,
        softcap=call.softcap,
        statistics=statistics,
    )
    if call.weight is None:
        return rows_of_logits(call.main, task)
    if task.kept is None:
        return _of_products(call.main, call, task, place)
    if not call.main.is_cpu and not check:  # without waiting for the device
        return _of_products(torch.where(task.kept[:, None], call.main, 0.0), call, task, place)
    some = torch.nonzero(task.kept)[:, 0]
    if some.shape[0] == call.main.shape[0]:
        return _of_products(call.main, call, task, place)
    # What is not looked at is left out before the product, and is 0 afterwards.
    tensors = task.indices, task.masses, task.class_weight, task.kept
    fewer = tuple(t if t is None or t is tensors[2] else t[some] for t in tensors)
    rows = _of_products(call.main.index_select(0, some), call, task.with_tensors(fewer), place)
    every = (
        None if r is None else r.new_zeros(call.main.shape[0]).index_copy(0, some, r) for r in rows
    )
    return Rows(*every)


def _of_products(hidden: Tensor, call: Call, task: Task, place: Place) -> Rows:
    assert call.weight is not None
    plan = plan_of(hidden, call.weight, call.workspace, place.sum_over)
    return rows_of_products(hidden, call.weight, call.bias, task, plan)
