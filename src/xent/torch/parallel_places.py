"""What is given to a call whose classes lie on several ranks, and where classes and rows lie."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypedDict

import torch
from torch.distributed.tensor import DTensor

from xent.errors import OptionError
from xent.torch.arguments import Tensor
from xent.torch.parallel_ranks import Layout, Ranks, layout_of, ranks_of

__all__ = [
    "Options",
    "ParallelOptions",
    "ParallelStatisticsOptions",
    "Place",
    "Source",
    "find_place",
    "options_of",
]


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
