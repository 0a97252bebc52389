"""Calls whose classes lie on several ranks: read on each, agreed on by all, computed as rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from xent.errors import OptionError
from xent.torch import arguments as read
from xent.torch.arguments import Tensor
from xent.torch.parallel_arguments import Call, read_call
from xent.torch.parallel_derivatives import (
    own_part,
    plan_of,
    rows_of_logits,
    rows_of_products,
)
from xent.torch.parallel_places import Options, Place, Source, find_place
from xent.torch.parallel_ranks import MOST, Fact, Ranks, Share, compare, share_of
from xent.torch.parallel_rows import Rows, Task

__all__ = ["compute_rows"]


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
            call = read_call(name, source, target, o, place, statistics)
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
