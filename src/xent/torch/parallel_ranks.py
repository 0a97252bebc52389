"""Ranks that compute one call together: what they exchange, agree on, and refuse together.

A process that raises while the others wait for it would leave them waiting, so what can go wrong
is collected first, and every rank raises the same error.
"""

from __future__ import annotations

import builtins
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard

from xent import errors
from xent.errors import OptionError, ShapeError
from xent.torch import arguments

__all__ = [
    "MOST",
    "Fact",
    "Layout",
    "Ranks",
    "Share",
    "compare",
    "layout_of",
    "ranks_of",
    "share_of",
    "whole_of",
]

Tensor: TypeAlias = torch.Tensor
MOST = 1 << 62
"""What fits the integers that ranks tell each other."""
HEADER = 32
"""Numbers that ranks tell each other of a call, the same count for every call."""
TEXT = 1024
"""Bytes of an error's text that ranks tell each other."""


@dataclass(frozen=True)
class Ranks:
    """Processes that hold parts of the same rows, or this one alone."""

    group: Any = None
    size: int = 1
    rank: int = 0
    name: str = "rank"  # what an error calls one of them

    def device(self) -> torch.device:
        """Return where numbers that ranks compare lie: the CPU, if their backend takes it."""
        if not dist.is_initialized():
            return torch.device("cpu")
        backends = dist.get_backend_config(self.group)  # as "cpu:gloo,cuda:nccl"
        devices = [pair.partition(":")[0] for pair in backends.split(",")]
        return torch.device("cpu" if "cpu" in devices else devices[0])

    def gather(self, numbers: Tensor) -> Tensor:
        """Return what every rank gives, in the order of ranks: (ranks, …)."""
        if self.size == 1 or not numbers.numel():
            return numbers[None].expand(self.size, *numbers.shape)
        every = numbers.new_empty(self.size * numbers.numel())
        # The name from torch 2.13 on; the older one warns there.
        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        gather(every, numbers.contiguous().view(-1), group=self.group)
        return every.view(self.size, *numbers.shape)

    def sum(self, numbers: Tensor) -> Tensor:
        """Return the sum over ranks, in the place of what this one gives where it can be."""
        if self.size > 1 and numbers.numel():
            numbers = numbers.contiguous()
            dist.all_reduce(numbers, group=self.group)
        return numbers


def ranks_of(name: str, group: Any, called: str = "rank") -> Ranks:
    """Return the ranks of a process group or a mesh of one dimension; None for all processes."""
    if isinstance(group, DeviceMesh):
        if group.ndim != 1:
            raise OptionError(
                f"{name} must be a process group or a mesh of one dimension: got a mesh of "
                f"{group.ndim}. Hint: mesh['tp'], or mesh.get_group('tp')."
            )
        group = group.get_group()
    if not (dist.is_available() and dist.is_initialized()):
        if group is None:
            return Ranks()
        raise OptionError(
            f"{name} must belong to processes that know each other: got {type(group).__name__}, "
            "and torch.distributed is not initialised. Hint: init_process_group first, or None."
        )
    if group is not None and not isinstance(group, dist.ProcessGroup):
        raise OptionError(
            f"{name} must be a process group of this process, a mesh of one dimension or None: got "
            f"{type(group).__name__}. Hint: new_group returns one; only its members may call."
        )
    return Ranks(group, dist.get_world_size(group), dist.get_rank(group), called)


# ---- agreement -----------------------------------------------------------------------------------


class Fact(NamedTuple):
    """What ranks have to agree on: an integer, a float, or a tensor by its contents."""

    name: str
    value: Any

    def encoded(self) -> int:
        """Return 64 bits that differ where the fact does."""
        if isinstance(self.value, torch.Tensor):
            return _fingerprint(self.value)
        if isinstance(self.value, float):
            return int(struct.unpack("<q", struct.pack("<d", self.value + 0.0))[0])
        if isinstance(self.value, str):
            return int.from_bytes(self.value.encode()[:7].ljust(7), "little")
        return -1 if self.value is None else int(self.value)

    def told(self, code: int) -> str:
        """Say what a rank gave."""
        if isinstance(self.value, torch.Tensor):
            return "others" if code != self.encoded() else "these"
        if isinstance(self.value, float):
            return repr(struct.unpack("<d", struct.pack("<q", code))[0])
        if isinstance(self.value, str):
            return repr(code.to_bytes(7, "little").decode(errors="replace").strip())
        if isinstance(self.value, bool):
            return repr(bool(code))
        return str(code)


def _fingerprint(values: Tensor) -> int:
    """Return a number that depends on every element and its place."""
    bits = values.detach().reshape(-1)
    if bits.is_floating_point():
        bits = (bits.to(torch.float64) + 0.0).view(torch.int64)  # −0.0 is 0.0
    bits = bits.to(torch.int64)
    place = torch.arange(bits.numel(), dtype=torch.int64, device=bits.device)
    mixed = (bits ^ (place * 0x1E3779B97F4A7C15)) * 0x3F58476D1CE4E5B9
    mixed = (mixed ^ (mixed >> 31)) * 0x14D049BB133111EB
    return int((mixed ^ (mixed >> 29)).sum())


class Share(NamedTuple):
    """Which classes are this rank's: their first, and how many there are on all ranks."""

    first: int
    classes: int


def compare(
    ranks: Ranks, failure: Exception | None, own: Sequence[int | None], facts: Sequence[Fact]
) -> list[list[int | None]]:
    """Compare a call on all ranks, in one exchange of a few numbers; return what each has.

    Raises the same error on every rank where one has failed, or where facts differ.

    Parameters
    ----------
    ranks
        Who makes the call.
    failure
        What this rank has to refuse, or None.
    own
        Integers from 0 on or None, as many on every rank, that may differ.
    facts
        What must be the same. Nothing is read of them, nor of `own`, where a rank has failed.
    """
    if ranks.size == 1:
        if failure is not None:
            raise failure
        return [list(own)]
    header: list[int] = []
    if failure is None:
        try:
            header = [0, *map(_or_minus, own), *(fact.encoded() for fact in facts)]
        except Exception as error:
            failure = error
    if failure is not None:
        header = [1]
    header += [0] * (HEADER - len(header))
    with temporarily_clear_interpreter_stack():  # inside a transform, which is then refused
        numbers = torch.tensor(header, dtype=torch.int64, device=ranks.device())
        every: list[list[int]] = ranks.gather(numbers).tolist()
        if failed := [rank for rank, row in enumerate(every) if row[0]]:
            _raise_together(ranks, failed[0], failure)
    for place, fact in enumerate(facts, 1 + len(own)):
        codes = [row[place] for row in every]
        odd = next((rank for rank, code in enumerate(codes) if code != codes[0]), None)
        if odd is not None:
            raise _disagreement(ranks, fact, codes, odd)
    return [[None if n < 0 else n for n in row[1 : 1 + len(own)]] for row in every]


def _or_minus(number: int | None) -> int:
    return -1 if number is None else number


def _disagreement(ranks: Ranks, fact: Fact, codes: list[int], odd: int) -> Exception:
    one, other = f"{ranks.name} 0", f"{ranks.name} {odd}"
    if isinstance(fact.value, torch.Tensor):
        return OptionError(
            f"ranks must have the same {fact.name}: got different values on {one} and {other}. "
            "Hint: each rank holds its own classes of the same rows; broadcast what they share."
        )
    kind = ShapeError if fact.name.startswith(("rows", "features")) else OptionError
    hint = "each rank holds its own classes of the same rows, and makes the same call."
    if ranks.name != "rank":
        hint = "each holds other rows, and makes the same call."
    return kind(
        f"ranks must agree on {fact.name}: got {fact.told(codes[0])} on {one} and "
        f"{fact.told(codes[odd])} on {other}. Hint: {hint}"
    )


def share_of(ranks: Ranks, shares: Sequence[Sequence[int | None]]) -> Share:
    """Return which classes are this rank's, after checking that all of them are somebody's.

    Each rank's share is how many classes it has, and its `first_class` and `classes` as given.
    """
    sizes = [own or 0 for own, _, _ in shares]
    total = sum(sizes)
    firsts = [first for _, first, _ in shares]
    if all(first is None for first in firsts):
        starts = [sum(sizes[:rank]) for rank in range(len(sizes))]
    else:
        starts = [_or_minus(first) for first in firsts]
        reached = 0
        for start, size in sorted((s, n) for s, n in zip(starts, sizes, strict=True) if n):
            if start != reached:
                raise ShapeError(
                    f"the classes of all ranks must follow each other from 0 to {total}: got "
                    f"first_class {starts} with {sizes} classes. Hint: without first_class= they "
                    "follow the order of ranks."
                )
            reached = start + size
    for rank, (_, _, classes) in enumerate(shares):
        if classes is not None and classes != total:
            raise ShapeError(
                f"classes must be those of all ranks together: got {classes} on rank {rank}, and "
                f"{sizes} add up to {total}. Hint: leave it out and they are counted."
            )
    if not total:
        raise ShapeError(
            "there must be a class on some rank: got none. Hint: classes are on the last dimension "
            "of logits and on the first of a linear weight."
        )
    return Share(starts[ranks.rank], total)


def _raise_together(ranks: Ranks, first: int, failure: Exception | None) -> None:
    """Raise on every rank what the first that failed has to say."""
    text = "" if failure is None else f"{type(failure).__name__}\n{failure}"
    encoded = torch.zeros(TEXT, dtype=torch.uint8)
    raw = text.encode(errors="replace")[:TEXT]
    encoded[: len(raw)] = torch.tensor(list(raw), dtype=torch.uint8)
    every = ranks.gather(encoded.to(ranks.device())).cpu()
    told = bytes(every[first].tolist()).rstrip(b"\0").decode(errors="replace")
    kind, _, message = told.partition("\n")
    raise _error_of(kind, f"on {ranks.name} {first}: {message}") from failure


def _error_of(name: str, message: str) -> Exception:
    """Return an error of that type where it is one of ours or Python's, and takes a message."""
    for place in (errors, arguments, builtins):
        found = getattr(place, name, None)
        if isinstance(found, type) and issubclass(found, Exception):
            try:
                return found(message)
            except TypeError:  # it is made of something else than a message
                break
    return RuntimeError(message)


# ---- shardings -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """How the rows and classes of a DTensor lie on a mesh.

    Attributes
    ----------
    mesh
        The mesh.
    by_class
        The dimension of the mesh that classes are sharded on, or None.
    by_rows
        For each dimension of the mesh that rows are sharded on, which dimension of the rows.
    """

    mesh: Any
    by_class: int | None
    by_rows: dict[int, int] = field(default_factory=dict)

    def ranks(self) -> Ranks:
        """Return the ranks that hold the other classes."""
        return Ranks() if self.by_class is None else self._along(self.by_class)

    def ranks_of_rows(self) -> tuple[Ranks, ...]:
        """Return the ranks that hold the other rows, for each dimension of the mesh."""
        return tuple(self._along(dim, "data rank") for dim in self.by_rows)

    def _along(self, dim: int, name: str = "rank") -> Ranks:
        group, size = self.mesh.get_group(dim), self.mesh.size(dim)
        return Ranks(group, size, self.mesh.get_local_rank(dim), name)

    def share(self, classes: int, own: int) -> int | None:
        """Return the first class of this rank where torch has chunked them, else None."""
        ranks = self.ranks()
        chunk = -(-classes // ranks.size)
        first = min(classes, chunk * ranks.rank)
        return first if min(chunk, classes - first) == own else None

    def placements(self, class_axis: int | None = None) -> list[Placement]:
        """Return the placements of what has these rows, and classes on an axis or none."""
        every: list[Placement] = [Replicate()] * self.mesh.ndim
        for dim, axis in self.by_rows.items():
            every[dim] = Shard(axis)
        if self.by_class is not None and class_axis is not None:
            every[self.by_class] = Shard(class_axis)
        return every

    def local(self, name: str, given: Any, placements: list[Placement]) -> Any:
        """Return this rank's part of an argument that must lie like that."""
        if not isinstance(given, DTensor):
            sharded = self.by_rows and any(p.is_shard() for p in placements)
            if sharded and isinstance(given, torch.Tensor) and given.ndim:
                raise OptionError(
                    f"{name} must be a DTensor where rows are sharded: got a plain tensor. "
                    f"Hint: distribute_tensor({name}, mesh, {placements})."
                )
            return given
        if given.device_mesh != self.mesh or list(given.placements) != placements:
            raise OptionError(
                f"{name} must lie on {self.mesh} as {placements}: got {list(given.placements)} on "
                f"{given.device_mesh}. Hint: {name}.redistribute(mesh, {placements})."
            )
        return given.to_local()

    def rows(self, local: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return a result of each row as a DTensor of that shape."""
        stride = torch.empty(shape, device="meta").stride()
        result: Tensor = DTensor.from_local(
            local, self.mesh, self.placements(), shape=torch.Size(shape), stride=stride
        )
        return result

    def number(self, share: Tensor) -> Tensor:
        """Return the sum of the shares of all rows as a DTensor that every process has."""
        placements = [
            Partial() if dim in self.by_rows else Replicate() for dim in range(self.mesh.ndim)
        ]
        parts = DTensor.from_local(share, self.mesh, placements)
        result: Tensor = parts.redistribute(self.mesh, [Replicate()] * self.mesh.ndim)
        return result


def layout_of(name: str, tensor: Any, class_axis: int | None) -> Layout:
    """Read the placements of a DTensor; its other axes are those of rows."""
    by_class: int | None = None
    by_rows: dict[int, int] = {}
    for dim, placement in enumerate(tensor.placements):
        if placement.is_replicate():
            continue
        if type(placement) is Shard:
            axis = placement.dim % tensor.ndim
            if axis == class_axis and by_class is None:
                by_class = dim
                continue
            if axis < tensor.ndim - 1 and axis != class_axis and axis not in by_rows.values():
                by_rows[dim] = axis
                continue
        raise OptionError(
            f"{name} must be sharded on its classes along one dimension of the mesh, and "
            f"replicated or sharded on rows along others: got {placement} on dimension {dim} of "
            f"{list(tensor.placements)}. Hint: {name}.redistribute(mesh, placements)."
        )
    return Layout(tensor.device_mesh, by_class, by_rows)


def whole_of(name: str, tensor: Any) -> Any:
    """Return what every process has the whole of, as a plain tensor."""
    if not isinstance(tensor, DTensor):
        return tensor
    if not all(placement.is_replicate() for placement in tensor.placements):
        raise OptionError(
            f"{name} must be plain or replicated here: got a DTensor that lies as "
            f"{list(tensor.placements)}. Hint: {name}.full_tensor(), or .to_local()."
        )
    return tensor.to_local()
