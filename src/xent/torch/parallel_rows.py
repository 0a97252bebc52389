r"""Rows whose classes lie on several ranks: what one rank computes, and how the parts add up.

With m the largest logit of a row on all ranks, reached at class k, and x = (z − m)/T:

.. math:: L = W \log\Big(1 + \sum_{j \ne k} e^{x_j}\Big) - \sum_j t_j x_j, \qquad W = \sum_j t_j

A *part* of a row says this of some of its classes, with the part's own largest logit in the place
of m: a few numbers, however many classes there are. Parts add up, over blocks of classes as over
ranks, and every sum is one of terms ≥ 0, so no digit is lost to where a row was cut. The gradient
needs the row's numbers and the rank's own logits, and no further exchange.

All of it is in float64; logits are read and gradients written in tiles that caches hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from xent.torch.arguments import Tensor
from xent.torch.parallel_ranks import Ranks

__all__ = ["Finished", "Rows", "Task", "finished", "gradient_of", "merged", "part_of"]


@dataclass(frozen=True)
class Task:
    """What is asked of rows, and what this rank knows of their targets.

    Attributes
    ----------
    ranks
        Who holds the other classes.
    first, classes
        The number of this rank's first class, and how many classes there are on all ranks.
    indices
        Class indices counted over all ranks, or None.                          (rows,)
    masses
        The mass of each class of this rank, or None.                           (rows, own)
    class_weight
        Multiplies that mass, float64, or None.                                 (own,)
    kept
        Whether a row is looked at, or None where all are.                      (rows,)
    smoothing, temperature, softcap
        As `xent.losses.softmax_cross_entropy` says.
    statistics
        Whether the entropy and the target's likeliest class are asked for.
    """

    ranks: Ranks
    first: int
    classes: int
    indices: Tensor | None
    masses: Tensor | None
    class_weight: Tensor | None
    kept: Tensor | None
    smoothing: float
    temperature: float
    softcap: float | None
    statistics: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of what a part says of a row."""
        names = ["top", "where", "others"]
        if self.indices is not None or self.masses is not None:
            names += ["mass", "gap"]
        if self.smoothing:
            names += ["allowed", "spread_gap"]
            names += [] if self.class_weight is None else ["spread_mass"]
        if self.statistics:
            names += ["energy"]
            names += [] if self.masses is None else ["target_top", "target_where"]
        return tuple(names)

    @property
    def looks_at_gaps(self) -> bool:
        """Tell whether a row's sums need every class's distance from the likeliest."""
        return self.statistics or self.smoothing != 0.0 or self.masses is not None

    def tensors(self) -> tuple[Tensor | None, ...]:
        """Return what autograd has to keep."""
        return self.indices, self.masses, self.class_weight, self.kept

    def with_tensors(self, tensors: tuple[Tensor | None, ...]) -> Task:
        """Return the task with those tensors, or without any."""
        indices, masses, weight, kept = tensors
        return replace(self, indices=indices, masses=masses, class_weight=weight, kept=kept)


class Rows(NamedTuple):
    """What is known of each row, float64 but for the classes.

    The first three have derivatives by what the logits are made of.
    """

    cross: Tensor  # Σ t·(−log p)
    logsumexp: Tensor
    entropy: Tensor | None
    mass: Tensor  # W
    likeliest: Tensor  # the class, −1 for a row that is NaN
    target: Tensor | None  # the likeliest class of a soft target


# ---- the arithmetic ------------------------------------------------------------------------------


def _looked_at(task: Task, z: Tensor, rows: slice) -> Tensor:
    """Return logits in float64, 0 in rows that do not count."""
    z = z.to(torch.float64)
    return z if task.kept is None else torch.where(task.kept[rows, None], z, 0.0)


def _capped(task: Task, z: Tensor) -> Tensor:
    """Return logits after the softcap, which leaves masked classes masked."""
    if task.softcap is None:
        return z
    return torch.where(z == -math.inf, z, task.softcap * torch.tanh(z / task.softcap))


def _slope_of_cap(task: Task, z: Tensor) -> Tensor:
    """Return the derivative of the softcap at each logit."""
    assert task.softcap is not None
    slope = torch.cosh(z / task.softcap).square_().reciprocal_()
    return torch.where(z == -math.inf, 1.0, slope)


def _placed(numbers: Tensor, low: int, high: int) -> tuple[Tensor, Tensor]:
    """Tell which numbers lie in [low, high), and where, as columns to gather by."""
    inside = (numbers >= low) & (numbers < high)
    return inside, torch.where(inside, numbers - low, 0).to(torch.int64)[:, None]


def _times(mass: Tensor, gap: Tensor) -> Tensor:
    """Return mass·gap, with 0·∞ = 0."""
    return mass * torch.where((mass == 0) & (gap == math.inf), 0.0, gap)


def _masses(task: Task, rows: slice, own: slice) -> Tensor:
    """Return the masses of soft targets with the weights of classes, unsmoothed."""
    assert task.masses is not None
    t = task.masses[rows, own].to(torch.float64)
    return t if task.class_weight is None else t * task.class_weight[own]


def part_of(task: Task, z: Tensor, rows: slice, own: slice) -> Tensor:
    """Return what a tile of logits says of its rows, (columns, rows)."""
    c = _capped(task, _looked_at(task, z, rows))
    weight = None if task.class_weight is None else task.class_weight[own]
    low = task.first + own.start
    if not c.shape[1]:
        nothing = {"top": -math.inf, "where": math.inf}
        nothing |= {"target_top": -math.inf, "target_where": math.inf}
        fill = [nothing.get(name, 0.0) for name in task.columns]
        return c.new_tensor(fill)[:, None].expand(-1, c.shape[0])
    top, at = c.max(1, keepdim=True)
    x = c - top.masked_fill(top == -math.inf, 0.0)
    if task.temperature != 1.0:
        x.div_(task.temperature)
    part = {"top": top[:, 0], "where": (at + low)[:, 0]}
    if task.indices is not None:
        inside, place = _placed(task.indices[rows], low, low + c.shape[1])
        mass = inside.to(torch.float64)
        if weight is not None:
            mass = torch.where(inside, weight[place[:, 0]], 0.0)
        part["mass"], part["gap"] = mass, _times(mass, -x.gather(1, place)[:, 0])
    if not task.looks_at_gaps:
        part["others"] = x.exp_().scatter_(1, at, 0.0).sum(1)
        return torch.stack([part[name].to(torch.float64) for name in task.columns])
    e = torch.exp(x).scatter_(1, at, 0.0)
    gap = x.neg_()
    part["others"] = e.sum(1)
    if task.statistics:
        part["energy"] = _times(e, gap).sum(1)
    if task.masses is not None:
        t = _masses(task, rows, own)
        part["mass"], part["gap"] = t.sum(1), _times(t, gap).sum(1)
        if task.statistics:
            best, at = task.masses[rows, own].to(torch.float64).max(1)
            part["target_top"], part["target_where"] = best, at + low
    if task.smoothing:
        allowed = (c > -math.inf).to(torch.float64)
        part["allowed"] = allowed.sum(1)
        spread = allowed if weight is None else allowed * weight
        part["spread_gap"] = _times(spread, gap).sum(1)
        if weight is not None:
            part["spread_mass"] = spread.sum(1)
    return torch.stack([part[name].to(torch.float64) for name in task.columns])


def merged(task: Task, parts: Tensor) -> Tensor:
    """Add parts of the same rows: (parts, columns, rows) to (columns, rows)."""
    if parts.shape[0] == 1:
        return parts[0]
    p = dict(zip(task.columns, parts.unbind(1), strict=True))
    top, where = _first(p["top"], p["where"])
    gap = (top - p["top"]) / task.temperature
    gap = torch.where(p["top"] == -math.inf, math.inf, gap)
    share = torch.exp(-gap)
    total = 1.0 + p["others"]  # of no account where a part has no allowed class: its share is 0
    owner = (p["top"] == top) & (p["where"] == where)
    whole = {"top": top, "where": where}
    whole["others"] = (share * torch.where(owner, p["others"], total)).sum(0)
    if "energy" in p:
        energy = share * (p["energy"] + _times(total, gap))
        whole["energy"] = torch.where(share == 0, 0.0, energy).sum(0)
    if "mass" in p:
        whole["mass"] = p["mass"].sum(0)
        whole["gap"] = (p["gap"] + _times(p["mass"], gap)).sum(0)
    if "target_top" in p:
        whole["target_top"], whole["target_where"] = _first(p["target_top"], p["target_where"])
    if "allowed" in p:
        whole["allowed"] = p["allowed"].sum(0)
        spread = p.get("spread_mass", p["allowed"])
        whole["spread_gap"] = (p["spread_gap"] + _times(spread, gap)).sum(0)
        whole["spread_mass"] = spread.sum(0)
    return torch.stack([whole[name] for name in task.columns])


def _first(values: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest value and the first class that has it."""
    top = values.amax(0)
    return top, torch.where(values == top, where, math.inf).amin(0)


class Finished(NamedTuple):
    """Rows, and what a gradient needs of each."""

    rows: Rows
    saved: Tensor  # (6, rows)


def finished(task: Task, whole: Tensor) -> Finished:
    """Turn the sums over all classes into what is asked for."""
    w = dict(zip(task.columns, whole.unbind(0), strict=True))
    top, others, nothing = w["top"], w["others"], torch.zeros_like(w["top"])
    fair = (top > -math.inf) & (top < math.inf)  # not for NaN
    others = torch.where(fair, others, math.nan)
    log_sum = torch.log1p(others)
    logsumexp = top / task.temperature + log_sum
    mass, gap = w.get("mass", nothing), w.get("gap", nothing)
    allowed = w.get("allowed", nothing)
    if task.smoothing:
        each = task.smoothing / allowed
        kept = 1.0 - task.smoothing
        mass = kept * mass + each * w.get("spread_mass", allowed)
        gap = each * w["spread_gap"] + (kept * gap if kept else 0.0)
    if task.indices is not None:
        looked = True if task.kept is None else task.kept
        outside = (task.indices < 0) | (task.indices >= task.classes)
        gap = torch.where(outside & looked, math.nan, gap)
    mean = w.get("energy", nothing) / (1.0 + others)  # Σ p·(−x)
    likeliest = torch.where(fair, w["where"], -1.0).to(torch.int64)
    target = w.get("target_where")
    rows = Rows(
        mass * log_sum + gap,
        logsumexp,
        log_sum + mean if task.statistics else None,
        mass,
        likeliest,
        None if target is None else target.to(torch.int64),
    )
    numbers = (top, w["where"], others, mass, allowed, mean)
    # A row whose target is out of range has no gradient either.
    saved = torch.stack((*numbers[:3], torch.where(gap.isnan(), gap, mass), *numbers[4:]))
    return Finished(rows, saved)


def gradient_of(
    task: Task, z: Tensor, rows: slice, own: slice, saved: Tensor, cotangents: Tensor
) -> Tensor:
    """Return the derivative by a tile of logits, float64.

    `cotangents` are those of a row's cross-entropy, log-sum-exp and entropy, (3, rows).
    """
    z = _looked_at(task, z, rows)
    c = _capped(task, z)
    top, where, others, mass, allowed, mean = saved[:, rows, None].unbind(0)
    g, g_logsumexp, g_entropy = cotangents[:, rows, None].unbind(0)
    low = task.first + own.start
    x = c - top
    if task.temperature != 1.0:
        x.div_(task.temperature)
    e = torch.exp(x) if task.statistics else x.exp_()
    inside, place = _placed(where[:, 0], low, low + c.shape[1])
    # By its place, not its value: a product computed again may differ in the last bit.
    e.scatter_(1, place, torch.where(inside[:, None], 1.0, e.gather(1, place)))
    total = 1.0 + others
    if task.masses is not None or task.smoothing:
        t = _smoothed(task, c, rows, own, allowed)
        slope = (g_logsumexp + g * (mass - t)) * e - g * t * ((1.0 - e) + others)
        slope /= total
    elif task.indices is not None:
        # At the target minus the others' mass, where p − 1 would cancel.
        inside, place = _placed(task.indices[rows], low, low + c.shape[1])
        own_mass = 1.0 if task.class_weight is None else task.class_weight[own][place]
        e_there = e.gather(1, place)
        rest = ((1.0 - e_there) + others) / total
        at_target = g_logsumexp / total * e_there - g * own_mass * rest
        slope = e * ((g_logsumexp + g * mass) / total)
        slope.scatter_(1, place, torch.where(inside[:, None], at_target, slope.gather(1, place)))
    else:
        slope = e * (g_logsumexp / total)
    if task.statistics:
        slope += g_entropy / total * _times(e, -x - mean)
    if task.temperature != 1.0:
        slope.div_(task.temperature)
    return slope if task.softcap is None else slope.mul_(_slope_of_cap(task, z))


def _smoothed(task: Task, c: Tensor, rows: slice, own: slice, allowed: Tensor) -> Tensor:
    """Return the smoothed, weighted masses of a tile."""
    low = task.first + own.start
    if task.masses is not None:
        t = task.masses[rows, own].to(torch.float64)
    else:
        assert task.indices is not None
        inside, place = _placed(task.indices[rows], low, low + c.shape[1])
        t = torch.zeros_like(c).scatter_(1, place, inside[:, None].to(c.dtype))
    if task.smoothing:
        even = (c > -math.inf).to(torch.float64) * (task.smoothing / allowed)
        t = (1.0 - task.smoothing) * t + even
    return t if task.class_weight is None else t * task.class_weight[own]
