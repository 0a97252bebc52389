"""Calls whose classes lie on several ranks: read on each, agreed on by all, computed as rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypedDict

import torch
from torch.distributed.tensor import DTensor

from xent.errors import OptionError
from xent.losses.rows import require_number
from xent.torch import arguments as read
from xent.torch.arguments import Tensor
from xent.torch.parallel_derivatives import plan_of, rows_of_logits, rows_of_products
from xent.torch.parallel_ranks import Fact, Layout, Ranks, Share, agree, layout_of, ranks_of
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
    "plain",
]

WORKSPACE = 256 << 20
SMALLEST_WORKSPACE = 1 << 20


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


def options_of(name: str, given: dict[str, Any], allowed: Any) -> Options:
    """Read the keyword arguments of a call, all of which must be allowed."""
    for option in given:
        if option not in allowed.__annotations__:
            raise TypeError(f"{name}() got an unexpected keyword argument {option!r}")
    return Options(**given)


@dataclass(frozen=True)
class Place:
    """Where a call's classes and rows lie."""

    ranks: Ranks
    layout: Layout | None  # of a DTensor's rows
    others: tuple[Ranks, ...]  # ranks with other rows that a mean counts
    sum_over: tuple[Ranks, ...] = ()  # ranks with other rows and the same weight
    first: int | None = None


def find_place(source: Source, o: Options) -> Place:
    """Find the ranks of a call, from its group or its DTensors."""
    holder = source.classes_in
    if not isinstance(holder, DTensor):
        if isinstance(source.main, DTensor):
            raise OptionError(
                "weight_local must be a DTensor where hidden is one: got "
                f"{type(holder).__name__}. Hint: distribute_tensor, or hidden.to_local()."
            )
        others = () if o.data_group is None else (ranks_of("data_group", o.data_group),)
        return Place(ranks_of("group", o.group), None, others)
    if o.group is not None:
        raise OptionError(
            f"group must be None for DTensors, whose mesh names the ranks: got {o.group!r}. "
            "Hint: .to_local() with group= is the other way."
        )
    axis = 0 if source.linear else holder.ndim - 1
    layout = layout_of(source.names[1], holder, axis)
    first = layout.share(holder.shape[axis], holder.to_local().shape[axis])
    if not isinstance(source.main, DTensor):
        if layout.mesh.ndim > 1:
            raise OptionError(
                "hidden must be a DTensor where weight_local lies on a mesh of more than one "
                "dimension: got a plain tensor. Hint: weight.to_local() with group= and data_group="
            )
        others = () if o.data_group is None else (ranks_of("data_group", o.data_group),)
        return Place(layout.ranks(), None, others, first=first)
    if o.data_group is not None:
        raise OptionError(
            "data_group must be None for DTensors, whose mesh says where rows are: got "
            f"{o.data_group!r}. Hint: shard the rows on another dimension of the mesh."
        )
    if source.linear:
        rows = layout_of("hidden", source.main, None)
        if rows.mesh != layout.mesh or layout.by_class in rows.by_rows:
            raise OptionError(
                "hidden must be replicated where weight_local is sharded: got "
                f"{list(source.main.placements)} and {list(holder.placements)}. "
                "Hint: hidden.redistribute(mesh, placements)."
            )
        layout = Layout(layout.mesh, layout.by_class, rows.by_rows)
        return Place(layout.ranks(), layout, layout.ranks_of_rows(), layout.ranks_of_rows(), first)
    return Place(layout.ranks(), layout, layout.ranks_of_rows(), (), first)


@dataclass(frozen=True)
class Call:
    """A call's arguments, read: this rank's tensors, flattened to rows."""

    name: str
    main: Tensor  # (rows, own classes or features)
    weight: Tensor | None
    bias: Tensor | None
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

    def facts(self, o: Options, statistics: bool) -> list[Fact]:
        """Return what all ranks have to agree on."""
        linear = self.weight is not None
        needed = torch.is_grad_enabled() and self.main.requires_grad
        is_tensor = isinstance(o.normalizer, torch.Tensor)
        number = not is_tensor and isinstance(o.normalizer, int | float)
        kind = "number" if number else "tensor" if is_tensor else str(o.normalizer)
        target = "none" if self.target is None else "hard" if self.masses is None else "soft"
        return [
            Fact("the form", "linear" if linear else "logits"),
            Fact("the kind of result", "rows" if statistics else "loss"),
            Fact("rows", self.main.shape[0]),
            Fact("features", self.main.shape[1] if linear else 0),
            Fact("the kind of target", target),
            Fact("the dtype of the result", str(self.dtype).removeprefix("torch.")),
            Fact("reduction", self.reduction),
            Fact("ignore_index", self.ignore_index),
            Fact("label_smoothing", self.smoothing),
            Fact("z_loss", self.z_loss),
            Fact("temperature", self.temperature),
            Fact("softcap (0 for None)", self.softcap or 0.0),
            Fact("empty", "zero" if self.zero else "nan"),
            Fact("the kind of normalizer", kind),
            Fact("normalizer", float(o.normalizer) if number else 0.0),
            Fact("whether hidden needs a gradient", linear and needed),
            Fact("how many class weights there are", _length(self.class_weight)),
            Fact("how many row weights there are", _length(self.row_weight)),
            Fact("target", _or_zero(self.indices)),
            Fact("weight", _or_zero(self.class_weight)),
            Fact("row_weight", _or_zero(self.row_weight)),
        ]


def _length(tensor: Tensor | None) -> int:
    return -1 if tensor is None else tensor.shape[0]


def _or_zero(tensor: Tensor | None) -> Any:
    return 0 if tensor is None else tensor


def _read(name: str, source: Source, target: Any, o: Options, place: Place) -> Call:
    """Read and check what can be checked on this rank alone."""
    main, linear, bias = source.main, source.weight, source.bias
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
    main, target, row_weight, class_weight = _locally(place, main, target, o)
    linear, bias = plain(linear), plain(bias)
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
    by_row = read.rows_of(name, row_weight, shape, main.device)
    if linear is not None:
        main, linear, bias = _autocast(main, linear, bias)
    hint = "logits are divided by it; 1 leaves them."
    softcap_hint = "logits stay within ±softcap; None leaves them."
    given = (main, masses, class_weight) if masses is not None else (main,)
    return Call(
        name=name,
        main=main.reshape(rows, main.shape[-1]),
        weight=linear,
        bias=bias,
        target=target,
        indices=indices,
        masses=masses,
        class_weight=class_weight,
        row_weight=None if by_row is None else by_row.reshape(-1),
        reduction=read.reduction_of(None, None, o.reduction),
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
        dtype=o.out_dtype or read.result_dtype(*given, linear),
    )


def _locally(place: Place, main: Any, target: Any, o: Options) -> tuple[Any, ...]:
    """Return this rank's part of what has rows, and of the class weights."""
    layout = place.layout
    if layout is None:
        return tuple(plain(x) for x in (main, target, o.row_weight, o.weight))
    soft = isinstance(target, torch.Tensor) and target.ndim == main.ndim
    lying = layout.placements(main.ndim - 1 if soft else None)
    nowhere = Layout(layout.mesh, None).placements()
    return (
        main.to_local(),
        layout.local("target", target, lying),
        layout.local("row_weight", o.row_weight, layout.placements()),
        layout.local("weight", o.weight, nowhere),
    )


def plain(tensor: Any) -> Any:
    """Return this process's part of a DTensor, and what is none as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


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
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise read.UnfitShapeError(
            f"{name}(): bias_local must have a number for each of {weight.shape[0]} classes: got "
            f"shape {tuple(bias.shape)}. Hint: the rank's own part of the bias."
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
    name: str, source: Source, target: Any, o: Options, place: Place, statistics: bool
) -> tuple[Call, Rows]:
    """Read a call on every rank, agree, and compute its rows."""
    failure: Exception | None = None
    call: Call | None = None
    facts: list[Fact] = []
    first, classes = o.first_class, o.classes
    device = torch.device("cpu")
    try:
        if isinstance(source.main, torch.Tensor):
            device = source.main.device
        call = _read(name, source, target, o, place)
        first, classes = _bounds(place, call, source, first, classes)
        facts = call.facts(o, statistics) if o.check and place.ranks.size > 1 else []
    except Exception as error:  # raised by `agree`, on every rank
        failure = error
    own = 0 if call is None else call.own
    if not o.check:
        if failure is not None:
            raise failure
        share = _unchecked(place.ranks, own, first, classes)
    else:
        share = agree(place.ranks, failure, own, first, classes, facts, device)
    assert call is not None
    if o.check:
        _check_targets(call, share)
    return call, _computed(call, share, place, statistics, bool(o.check))


def _bounds(place: Place, call: Call, source: Source, first: Any, classes: Any) -> Any:
    """Return first_class and classes, from the DTensor where they are not given."""
    for name, value in (("first_class", first), ("classes", classes)):
        if value is not None and (not isinstance(value, int) or value < 0):
            raise OptionError(
                f"{name} must be an integer from 0 on, or None: got {value!r}. "
                "Hint: without it ranks follow each other."
            )
    holder = source.classes_in
    if isinstance(holder, DTensor) and classes is None and first is None:
        return place.first, holder.shape[0 if source.linear else -1]
    return first, classes


def _unchecked(ranks: Ranks, own: int, first: int | None, classes: int | None) -> Share:
    if ranks.size == 1:
        return Share(first or 0, own if classes is None else classes)
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
